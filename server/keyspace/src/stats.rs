//! What the keyspace has done and what it holds, in numbers: sums over the shards.
//!
//! Each shard counts under its own lock, so a counter is an ordinary number and no two threads write to one line of memory. A
//! policy's part of the counters is what was added while it was in force: nothing is counted twice for it.

use crate::keyspace::Keyspace;
use crate::lease_table::WAIT_BUCKETS;
use crate::queues::{PROBATION, PROTECTED, WINDOW};
use crate::settings::EvictionPolicy;
use crate::shard::Shard;

/// Entries of one database: fresh, stale, or expired and not yet removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub entries: usize,
    /// Those with a TTL.
    pub with_ttl: usize,
}

/// Sums over all shards since start, and sizes now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Reads that found a fresh entry.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Values stored, over another one or not, those that were over at once too; not those that were changed in place.
    pub stored: u64,
    /// Entries removed because their time was up.
    pub expired: u64,
    /// Entries removed for their memory.
    pub evicted: u64,
    /// The same counters for each policy, in order of [`EvictionPolicy::ALL`].
    pub policies: [PolicyStats; EvictionPolicy::ALL.len()],
    /// Bytes of segments, runs, tables, absences and leases: the sum of the next eleven.
    pub used_bytes: u64,
    /// Bytes of entries, as they say it themselves but for the index.
    pub entry_bytes: u64,
    /// Bytes in segments that no entry has any more.
    pub dead_bytes: u64,
    /// Bytes in segments that no entry has had yet.
    pub free_bytes: u64,
    /// Bytes in the pages of runs that no run has: the ends of pages, and free pages that are kept.
    pub gap_bytes: u64,
    /// Bytes of the tables that say where segments and runs are.
    pub segment_table_bytes: u64,
    /// Bytes of the index, places of entries among them.
    pub index_bytes: u64,
    /// Bytes of what the policy remembers of keys that are gone.
    pub sketch_bytes: u64,
    /// Bytes of negative entries and tombstones with their tables.
    pub absence_bytes: u64,
    /// Bytes of lease records.
    pub lease_bytes: u64,
    /// Bytes of the caches in miniature that choose the window, as far as they count against the limit.
    pub shadow_bytes: u64,
    /// Bytes of the table that says when each tag was last bumped.
    pub tag_table_bytes: u64,
    /// The most that `used_bytes` has been.
    pub used_bytes_peak: u64,
    /// Bytes of what is not entries: index, tables, sketch.
    pub table_bytes: u64,
    /// Segments in use.
    pub segments: u64,
    /// Bytes of segments and index that lie in huge pages.
    pub huge_bytes: u64,
    /// Bytes that a segment has when it is full.
    pub segment_bytes: u64,
    /// The window in thousandths of the capacity; 0 = the policy has none.
    pub window_per_mille: u16,
    /// Bytes of entries in the window of a policy that has one.
    pub window_bytes: u64,
    /// Bytes of entries in its main part, on probation.
    pub probation_bytes: u64,
    /// Bytes of entries in its main part, protected.
    pub protected_bytes: u64,
    /// Entries of all databases.
    pub entries: u64,
    /// Entries with a TTL.
    pub entries_with_ttl: u64,
    /// Negative entries and tombstones.
    pub absences: u64,
    /// Reads answered by a negative entry.
    pub negative_hits: u64,
    /// Tags that were made stale, counted as often as they were.
    pub tag_bumps: u64,
    /// Places of the table of tags that a bump has raised, in thousandths: the more, the more entries seem stale that are not.
    pub tag_table_per_mille: u64,
    /// Prefixes that were made stale, counted as often as they were.
    pub prefix_bumps: u64,
    /// Of these, those whose entries have not all been gone through, in the shard that has the most.
    pub prefix_bumps_pending: u64,
    /// Entries that were found to have a tag made stale.
    pub bumped_by_tag: u64,
    /// Entries that were found to be under a prefix made stale.
    pub bumped_by_prefix: u64,
    /// Tokens given out.
    pub leases_issued: u64,
    /// Claims that found another holder.
    pub lease_hot_misses: u64,
    /// Waits on a key that have ended, by length: under 1 ms, under 2, 4, 8 … under 2^18 ms, and longer.
    pub lease_waits: [u64; WAIT_BUCKETS],
    /// Fills that were stored.
    pub fills_stored: u64,
    /// Fills that were stored as stale.
    pub fills_stale: u64,
    /// Fills lost because the key was written, deleted or invalidated.
    pub fills_lost_revoked: u64,
    /// Fills lost to a newer token.
    pub fills_lost_superseded: u64,
    /// Fills with a token that names no lease.
    pub fills_lost_unknown: u64,
    /// Fills lost to the same or a newer version.
    pub fills_lost_older: u64,
    /// Fills that found no room under the memory limit.
    pub fills_lost_no_room: u64,
    /// Leases now.
    pub leases: u64,
    /// Waiters parked now.
    pub waiters: u64,
}

/// What happened while a policy was in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyStats {
    /// Reads that found a fresh entry.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// New entries that won a place in the main part.
    pub admitted: u64,
    /// New entries evicted because they won none; they count as evicted too.
    pub rejected: u64,
    /// Entries removed for their memory.
    pub evicted: u64,
}

impl PolicyStats {
    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.admitted += other.admitted;
        self.rejected += other.rejected;
        self.evicted += other.evicted;
    }

    fn since(self, before: Self) -> Self {
        Self {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            admitted: self.admitted - before.admitted,
            rejected: self.rejected - before.rejected,
            evicted: self.evicted - before.evicted,
        }
    }
}

/// How the reads of a shard ended since start or the last reset: the counters that every read writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    /// From this count on, a hit is looked at more closely.
    pub(crate) hit_looked_at: u64,
    pub(crate) miss_looked_at: u64,
}

/// What else happened in a shard since start or the last reset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShardStats {
    pub(crate) stored: u64,
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
    pub(crate) admitted: u64,
    pub(crate) rejected: u64,
    pub(crate) negative_hits: u64,
    pub(crate) bumped_by_tag: u64,
    pub(crate) bumped_by_prefix: u64,
    pub(crate) fills_stored: u64,
    pub(crate) fills_stale: u64,
    pub(crate) fills_lost_revoked: u64,
    pub(crate) fills_lost_superseded: u64,
    pub(crate) fills_lost_unknown: u64,
    pub(crate) fills_lost_older: u64,
    pub(crate) fills_lost_no_room: u64,
    /// Of the policies before the present one.
    past: [PolicyStats; EvictionPolicy::ALL.len()],
    /// What all of them together had counted when the present one came.
    at_change: PolicyStats,
}

impl ShardStats {
    /// What was counted since start is that of this policy, as far as it was not another's; the next one's counts begin.
    pub(crate) fn close_policy(&mut self, policy: EvictionPolicy, reads: Reads) {
        let now = self.counted(reads);
        self.past[policy as usize].add(now.since(self.at_change));
        self.at_change = now;
    }

    fn of_policies(&self, present: EvictionPolicy, reads: Reads) -> [PolicyStats; EvictionPolicy::ALL.len()] {
        let mut closed = *self;
        closed.close_policy(present, reads);
        closed.past
    }

    fn counted(&self, reads: Reads) -> PolicyStats {
        let Reads { hits, misses, .. } = reads;
        let Self { admitted, rejected, evicted, .. } = *self;
        PolicyStats { hits, misses, admitted, rejected, evicted }
    }
}

impl Keyspace {
    /// Sums over all shards, one after the other: not of one moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for index in 0..self.shards() {
            self.lock(index).add_stats(&mut sum);
        }
        sum.shadow_bytes = self.memory.shadow_bytes();
        sum.gap_bytes = self.memory.gap_bytes();
        sum.huge_bytes = self.memory.huge_bytes();
        let bumps = self.bumps().stats();
        sum.tag_bumps = bumps.tag_bumps;
        sum.prefix_bumps = bumps.prefix_bumps;
        sum.tag_table_per_mille = bumps.slots_used * 1000 / bumps.slots.max(1);
        sum.tag_table_bytes = bumps.table_bytes;
        sum.used_bytes += sum.shadow_bytes + sum.gap_bytes + sum.tag_table_bytes;
        sum.used_bytes_peak = self.memory.used_bytes_peak().max(sum.used_bytes);
        sum
    }

    /// Sets the counters of events to 0 and the peak to what is used now.
    pub fn reset_stats(&self) {
        for index in 0..self.shards() {
            let mut shard = self.lock(index);
            shard.reads = Reads::default();
            shard.stats = Default::default();
            shard.restart_samples();
            shard.leases.counters = Default::default();
            shard.publish();
        }
        self.bumps().reset_counters();
        self.observers().attribution.reset();
        self.memory.reset_peak();
    }
}

impl Shard {
    fn add_stats(&self, sum: &mut Stats) {
        let stats = &self.stats;
        sum.hits += self.reads.hits;
        sum.misses += self.reads.misses;
        sum.stored += stats.stored;
        sum.expired += stats.expired;
        sum.evicted += stats.evicted;
        for (sum, policy) in sum.policies.iter_mut().zip(stats.of_policies(self.queues.policy, self.reads)) {
            sum.add(policy);
        }
        let (log, live, dead) = (self.log.bytes(), self.log.live_bytes(), self.log.dead_bytes());
        let free = log.saturating_sub(self.log.table_bytes() + live + dead);
        sum.used_bytes += self.bytes() as u64;
        sum.entry_bytes += live as u64;
        sum.dead_bytes += dead as u64;
        sum.free_bytes += free as u64;
        sum.segment_table_bytes += self.log.table_bytes() as u64;
        sum.index_bytes += self.index.bytes() as u64;
        sum.sketch_bytes += self.queues.bytes() as u64;
        sum.absence_bytes += self.absence_bytes() as u64;
        sum.lease_bytes += self.leases.memory_bytes() as u64;
        sum.table_bytes += self.table_bytes() as u64;
        sum.segments += self.log.segments() as u64;
        sum.segment_bytes = self.log.segment_bytes() as u64;
        if self.queues.has_window() {
            sum.window_per_mille = self.queues.share.window_per_mille;
            sum.window_bytes += self.log.list_weight(WINDOW) as u64;
            sum.probation_bytes += self.log.list_weight(PROBATION) as u64;
            sum.protected_bytes += self.log.list_weight(PROTECTED) as u64;
        }
        sum.entries += self.index.len() as u64;
        sum.entries_with_ttl += self.count_with_ttl() as u64;
        sum.absences += self.absences.len() as u64;
        sum.negative_hits += stats.negative_hits;
        sum.bumped_by_tag += stats.bumped_by_tag;
        sum.bumped_by_prefix += stats.bumped_by_prefix;
        sum.prefix_bumps_pending = sum.prefix_bumps_pending.max(self.prefix_bumps_pending() as u64);
        sum.leases_issued += self.leases.counters.issued;
        sum.lease_hot_misses += self.leases.counters.hot_misses;
        for (sum, count) in sum.lease_waits.iter_mut().zip(self.leases.counters.waits) {
            *sum += count;
        }
        sum.leases += self.leases.len() as u64;
        sum.waiters += self.leases.waiters() as u64;
        sum.fills_stored += stats.fills_stored;
        sum.fills_stale += stats.fills_stale;
        sum.fills_lost_revoked += stats.fills_lost_revoked;
        sum.fills_lost_superseded += stats.fills_lost_superseded;
        sum.fills_lost_unknown += stats.fills_lost_unknown;
        sum.fills_lost_older += stats.fills_lost_older;
        sum.fills_lost_no_room += stats.fills_lost_no_room;
    }
}
