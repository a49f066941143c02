//! Making room: which entries go when the memory limit is reached.
//!
//! A few entries are looked at by chance and the best of them go, as in Redis, which also keeps the best that were not taken
//! for the next time; with that, sampling comes close to true LRU. Keys spread over the shards by hash, so each shard gives
//! its own oldest, shard after shard from a random start.

use crate::entry::{Block, access_clock};
use crate::keyspace::{Keyspace, OutOfMemory};
use crate::memory::size_class;
use crate::settings::EvictionPolicy;
use crate::shard::Shard;
use crate::table::Place;
use crate::turn::Turn;
use std::sync::atomic::Ordering::Relaxed;

/// Victims remembered per shard for the next time.
const CANDIDATES_MAX: usize = 16;

/// Buckets walked under one lock in search of victims.
const WALK_MAX: usize = 256;

/// Times around all shards without a victim before memory counts as out. More than one, because a walk sees a part of a shard
/// only, and entries with a TTL may be few.
const BARREN_ROUNDS_MAX: usize = 4;

/// Evictions of one call beyond those that make up for what its caller adds, in bytes: a limit that was lowered is reached in
/// such slices.
const EVICTIONS_EXTRA_MAX: usize = 64;

/// What an entry has besides key and value in bytes: its header with all fields, and its place in the table.
const ENTRY_OVERHEAD: usize = 64;

/// Evictions of one cycle of expiry while the limit is passed: half a millisecond or so.
pub(crate) const EVICTIONS_PER_CYCLE: usize = 1024;

/// The best victims that sampling has found in a shard.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    policy: Option<EvictionPolicy>,
    /// At most [`CANDIDATES_MAX`].
    list: Vec<Candidate>,
    /// Where the search for rare victims goes on.
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    hash: u64,
    /// Access clock or end of TTL when it was found; if it differs now, the entry has a new life.
    stamp: u64,
}

impl Keyspace {
    /// Evicts until `bytes_wanted` more fit. Called before a command that may grow the keyspace, with no lock held. If the
    /// limit was passed by far already, frees what is wanted and a bounded number of entries more.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the policy leaves nothing to evict; the client gets `-OOM`.
    #[inline]
    pub fn make_room(&self, turn: &mut Turn, bytes_wanted: usize) -> Result<(), OutOfMemory> {
        if self.memory.bytes_allowed() == 0 {
            return Ok(());
        }
        let bytes_wanted = size_class(bytes_wanted + ENTRY_OVERHEAD) as u64;
        if self.fits(bytes_wanted) {
            return Ok(());
        }
        self.evict(turn, bytes_wanted, EVICTIONS_EXTRA_MAX)
    }

    /// Evicts up to `evictions_max` entries while the limit is passed.
    pub(crate) fn evict_slice(&self, turn: &mut Turn, evictions_max: usize) {
        if !self.fits(0) {
            // Out of memory here means only that nothing can go; writers will be told.
            let _ = self.evict(turn, 0, evictions_max);
        }
    }

    #[inline]
    fn fits(&self, bytes_wanted: u64) -> bool {
        let bytes_allowed = self.memory.bytes_allowed();
        bytes_allowed == 0 || self.memory.used_bytes().saturating_add(bytes_wanted) <= bytes_allowed
    }

    #[cold]
    fn evict(&self, turn: &mut Turn, bytes_wanted: u64, evictions_extra_max: usize) -> Result<(), OutOfMemory> {
        let policy = self.policy();
        if policy == EvictionPolicy::NoEviction || bytes_wanted > self.memory.bytes_allowed() {
            return Err(OutOfMemory);
        }
        let samples = usize::from(self.eviction_samples.load(Relaxed));
        let mut freed_bytes = 0;
        let mut evictions_extra = 0;
        let mut barren = 0;
        let mut next = turn.random() as usize;
        while !self.fits(bytes_wanted) {
            if freed_bytes >= bytes_wanted {
                if evictions_extra == evictions_extra_max {
                    return Ok(());
                }
                evictions_extra += 1;
            }
            if barren == self.shards() * BARREN_ROUNDS_MAX {
                return Err(OutOfMemory);
            }
            let mut shard = self.lock(next % self.shards());
            next = next.wrapping_add(1);
            let bytes_before = shard.bytes();
            let search = Search { policy, samples, now_ms: turn.now_ms };
            // Absences have their own budget and go only when no entry can.
            let found = shard.evict_one(search, turn.random())
                || (barren >= self.shards() && shard.drop_absence(turn.random()));
            freed_bytes += bytes_before.saturating_sub(shard.bytes()) as u64;
            barren = if found { 0 } else { barren + 1 };
            shard.publish();
        }
        Ok(())
    }

    fn policy(&self) -> EvictionPolicy {
        let number = self.policy.load(Relaxed);
        let all = [
            EvictionPolicy::NoEviction,
            EvictionPolicy::AllKeysLru,
            EvictionPolicy::VolatileLru,
            EvictionPolicy::AllKeysRandom,
            EvictionPolicy::VolatileRandom,
            EvictionPolicy::VolatileTtl,
        ];
        all.into_iter().find(|&policy| policy as u8 == number).expect("only policies are stored")
    }
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
struct Search {
    policy: EvictionPolicy,
    samples: usize,
    now_ms: u64,
}

impl Search {
    fn may_evict(&self, block: &Block) -> bool {
        match self.policy {
            EvictionPolicy::NoEviction => false,
            EvictionPolicy::AllKeysLru | EvictionPolicy::AllKeysRandom => true,
            EvictionPolicy::VolatileLru | EvictionPolicy::VolatileRandom | EvictionPolicy::VolatileTtl => {
                block.expire_at_ms().is_some()
            }
        }
    }

    fn is_random(&self) -> bool {
        matches!(self.policy, EvictionPolicy::AllKeysRandom | EvictionPolicy::VolatileRandom)
    }

    fn stamp(&self, block: &Block) -> u64 {
        match self.policy {
            EvictionPolicy::VolatileTtl => block.expire_at_ms().unwrap_or(u64::MAX),
            _ => u64::from(block.access()),
        }
    }

    /// How much better than others it is to evict an entry with this stamp.
    fn urgency(&self, stamp: u64) -> u64 {
        match self.policy {
            EvictionPolicy::VolatileTtl => u64::MAX - stamp,
            _ => u64::from(access_clock(self.now_ms).wrapping_sub(stamp as u32)),
        }
    }
}

impl Shard {
    /// Removes an expired entry, or evicts one by the policy; `false` if it found none.
    fn evict_one(&mut self, search: Search, random: u64) -> bool {
        let none = match search.policy {
            EvictionPolicy::AllKeysLru | EvictionPolicy::AllKeysRandom => self.entries.is_empty(),
            _ => self.count_with_ttl() == 0,
        };
        if none {
            return false;
        }
        if self.candidates.policy != Some(search.policy) {
            self.candidates.policy = Some(search.policy);
            self.candidates.list.clear();
        }
        let start = self.entries.place_by_chance(random);
        match self.sample(search, start) {
            Sampled::Expired => return true,
            Sampled::Some => {}
            Sampled::NoneUpTo(_) => match self.sample(search, self.candidates.place) {
                Sampled::Expired => return true,
                Sampled::Some => {}
                Sampled::NoneUpTo(place) => self.candidates.place = place,
            },
        }
        while let Some(candidate) = self.candidates.list.pop() {
            let found = self.entries.find_by_hash(candidate.hash, |block| search.stamp(block) == candidate.stamp);
            if let Some(place) = found {
                self.stats.evicted += 1;
                drop(self.remove(place));
                return true;
            }
        }
        false
    }

    /// Walks on from `place` until it has seen enough entries that may go, and adds the best to the candidates.
    fn sample(&mut self, search: Search, mut place: Place) -> Sampled {
        self.prefetch_from(place, search.samples);
        let mut seen = 0;
        for _ in 0..WALK_MAX {
            if let Some(block) = self.entries.at(place) {
                if block.is_gone(search.now_ms) {
                    self.expire(place);
                    return Sampled::Expired;
                }
                if search.may_evict(block) {
                    let stamp = search.stamp(block);
                    if self.candidates.wants(stamp, search) {
                        self.candidates.add(Candidate { hash: self.entries.hash_of(block), stamp }, search);
                    }
                    seen += 1;
                    if seen == search.samples || search.is_random() {
                        return Sampled::Some;
                    }
                }
            }
            place = self.entries.next_place(place);
        }
        if seen > 0 { Sampled::Some } else { Sampled::NoneUpTo(place) }
    }

    /// Fetches the next `count` blocks side by side.
    fn prefetch_from(&self, mut place: Place, mut count: usize) {
        for _ in 0..WALK_MAX {
            if let Some(block) = self.entries.at(place) {
                block.prefetch();
                count -= 1;
                if count == 0 {
                    return;
                }
            }
            place = self.entries.next_place(place);
        }
    }

    fn drop_absence(&mut self, random: u64) -> bool {
        if self.absences.is_empty() {
            return false;
        }
        let mut place = self.absences.place_by_chance(random);
        while self.absences.at(place).is_none() {
            place = self.absences.next_place(place);
        }
        self.remove_absence_at(place);
        true
    }
}

enum Sampled {
    /// An entry was gone by time, and is removed.
    Expired,
    /// There are candidates.
    Some,
    /// No entry up to there may go.
    NoneUpTo(Place),
}

impl Candidates {
    /// Whether an entry with this stamp is better than the worst of a full list.
    fn wants(&self, stamp: u64, search: Search) -> bool {
        self.list.len() < CANDIDATES_MAX || search.urgency(self.list[0].stamp) < search.urgency(stamp)
    }

    /// Keeps the list sorted, the most urgent last.
    fn add(&mut self, candidate: Candidate, search: Search) {
        if search.is_random() {
            self.list.clear();
        }
        if self.list.contains(&candidate) {
            return;
        }
        let urgency = search.urgency(candidate.stamp);
        let index = self.list.partition_point(|other| search.urgency(other.stamp) < urgency);
        if self.list.len() < CANDIDATES_MAX {
            self.list.insert(index, candidate);
        } else if index > 0 {
            self.list[..index].rotate_left(1);
            self.list[index - 1] = candidate;
        }
    }
}
