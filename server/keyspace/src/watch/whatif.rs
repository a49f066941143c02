//! What half and twice the memory, and the other main policies, would hit: caches in miniature, played the events on some of
//! the keys.
//!
//! Only reads count. A read that the real cache missed has no size until somebody stores the key; it is played then, and one
//! that nobody stores is a miss for all. A write without a read before it is played and does not count. tinylfu with its
//! adaptive window is told as the best of some fixed ones.
//!
//! The sample has at most [`SAMPLED_ENTRIES_MAX`] resident keys at the present memory, and all caches together take about
//! 3 MB. What was counted fades, so figures are those of the last 50,000 to 100,000 sampled reads; they
//! begin anew when events had to be dropped.

use super::stream::{Event, EventKind};
use crate::policy::duel::Objective;
use crate::policy::miniature::{Miniature, Request, Share};
use crate::policy::window::Cache;
use crate::settings::EvictionPolicy;
use hashbrown::HashTable;
use std::collections::{HashSet, VecDeque};

/// The sample is one key in twice as many once there are so many sampled entries, and in half as many below an eighth of it.
const SAMPLED_ENTRIES_MAX: u64 = 4096;
const SAMPLED_ENTRIES_MIN: u64 = SAMPLED_ENTRIES_MAX / 8;
const RANK_MAX: u8 = 32;

/// Ticks without a dropped event until a rate that was lowered for that is tried again.
const TICKS_UNTIL_RECOVERY: u32 = 600;

/// Reads after which all counts are halved.
const READS_MAX: f64 = 100_000.0;

/// Reads that missed and wait for the key to be stored.
const PENDING_MAX: usize = 4096;

/// The caches begin empty, beside a real one that is not: events per entry until they count.
const WARM_UP: u64 = 2;

/// Windows of tinylfu that are tried, in thousandths.
const WINDOWS_PER_MILLE: [u16; 4] = [10, 100, 400, 800];

/// Memory that is tried, in halves of the present.
const HALVES: [u64; 3] = [1, 2, 4];

/// Shadow caches and what they have hit.
#[derive(Debug, Default)]
pub struct WhatIf {
    arms: Vec<Arm>,
    cache: Option<Cache>,
    rank: u8,
    rank_for_load: u8,
    ticks_without_drop: u32,
    reads: f64,
    reads_in_all: u64,
    played: u64,
    pending: HashSet<u64>,
    /// The same, oldest first; and those that were stored since.
    pending_order: VecDeque<u64>,
}

/// The hit ratios of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// Which.
    pub policy: EvictionPolicy,
    /// With half of the memory, with the present memory, and with twice as much.
    pub hit_ratios: [f64; 3],
}

#[derive(Debug)]
struct Arm {
    policy: EvictionPolicy,
    halves: u64,
    shadow: Shadow,
    hits: f64,
}

#[derive(Debug)]
enum Shadow {
    Frequency(Miniature),
    Recency(Lru),
}

impl WhatIf {
    /// The hit ratio of each policy.
    #[must_use]
    pub fn outlooks(&self) -> Vec<Outlook> {
        let policies = [EvictionPolicy::AllKeysLru, EvictionPolicy::AllKeysLfu, EvictionPolicy::AllKeysTinyLfu];
        let best = |policy, halves| {
            let arms = self.arms.iter().filter(|arm| arm.policy == policy && arm.halves == halves);
            arms.map(|arm| arm.hits).fold(0.0, f64::max) / self.reads.max(1.0)
        };
        policies.map(|policy| Outlook { policy, hit_ratios: HALVES.map(|halves| best(policy, halves)) }).into()
    }

    /// Sampled reads so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads_in_all
    }

    /// One key in so many is sampled.
    #[must_use]
    pub fn keys_per_sample(&self) -> u64 {
        1 << self.rank
    }

    /// Bytes of all caches.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let shadows = self.arms.iter().map(|arm| match &arm.shadow {
            Shadow::Frequency(miniature) => miniature.memory_bytes(),
            Shadow::Recency(lru) => lru.memory_bytes(),
        });
        shadows.sum::<usize>() + (self.pending.capacity() + self.pending_order.capacity()) * 2 * size_of::<u64>()
    }

    pub(crate) fn rank(&self) -> u8 {
        self.rank
    }

    /// Follows the real cache: its capacity, its objective, and with its number of entries the rate of sampling.
    pub(crate) fn follow(&mut self, cache: Cache, is_dropping: bool) {
        if is_dropping {
            // Without some of the events keys seem to come again sooner than they do.
            (self.reads, self.played) = (0.0, 0);
            self.arms.iter_mut().for_each(|arm| arm.hits = 0.0);
        }
        let rank = self.rank_for(cache.entries, is_dropping);
        let before = self.cache.replace(cache);
        if self.arms.is_empty() {
            self.arms = arms(cache);
        }
        if rank > self.rank {
            self.arms.iter_mut().for_each(|arm| arm.shadow.retain_rank(rank));
            self.pending.retain(|hash| hash.leading_zeros() >= rank.into());
            self.pending_order.retain(|hash| hash.leading_zeros() >= rank.into());
        }
        let has_moved = before.is_none_or(|before| before.capacity_bytes != cache.capacity_bytes);
        if rank != self.rank || has_moved {
            for arm in &mut self.arms {
                arm.shadow.set_capacity((cache.capacity_bytes / 2 * arm.halves) >> rank);
            }
        }
        self.rank = rank;
    }

    fn rank_for(&mut self, entries: u64, is_dropping: bool) -> u8 {
        self.ticks_without_drop += 1;
        if is_dropping {
            self.rank_for_load += 1;
            self.ticks_without_drop = 0;
            return (self.rank + 1).min(RANK_MAX);
        }
        if self.rank_for_load > 0 && self.ticks_without_drop >= TICKS_UNTIL_RECOVERY {
            self.rank_for_load -= 1;
            self.ticks_without_drop = 0;
            return self.rank.saturating_sub(1);
        }
        let sampled = entries >> self.rank;
        if sampled >= SAMPLED_ENTRIES_MAX {
            (self.rank + 1).min(RANK_MAX)
        } else if sampled < SAMPLED_ENTRIES_MIN && self.rank > self.rank_for_load {
            self.rank - 1
        } else {
            self.rank
        }
    }

    /// Plays an event to all caches.
    pub(crate) fn play(&mut self, event: &Event) {
        let request = Request::new(event.hash, event.weight);
        if request.rank() < self.rank {
            return;
        }
        self.played += 1;
        let is_warm = self.played > WARM_UP * (self.cache.map_or(0, |cache| cache.entries) >> self.rank);
        match event.kind {
            EventKind::Hit => self.request(request, event.hash, is_warm),
            EventKind::Store => {
                let is_read = self.pending.remove(&event.hash);
                self.request(request, event.hash, is_read && is_warm);
            }
            EventKind::Miss => {
                if !self.pending.insert(event.hash) {
                    // The read before was not followed by a write.
                    self.count_read_if(is_warm);
                    return;
                }
                self.pending_order.push_back(event.hash);
                while self.pending_order.len() > PENDING_MAX {
                    let oldest = self.pending_order.pop_front().expect("it is longer than its bound");
                    if self.pending.remove(&oldest) {
                        self.count_read_if(is_warm);
                    }
                }
            }
        }
    }

    fn request(&mut self, request: Request, hash: u64, counts: bool) {
        for arm in &mut self.arms {
            let is_hit = arm.shadow.request(request, hash);
            arm.hits += f64::from(u8::from(is_hit && counts));
        }
        self.count_read_if(counts);
    }

    fn count_read_if(&mut self, counts: bool) {
        if !counts {
            return;
        }
        self.reads += 1.0;
        self.reads_in_all += 1;
        if self.reads >= READS_MAX {
            self.reads /= 2.0;
            self.arms.iter_mut().for_each(|arm| arm.hits /= 2.0);
        }
    }
}

fn arms(cache: Cache) -> Vec<Arm> {
    let mut arms = Vec::new();
    for halves in HALVES {
        let mut add = |policy, shadow| arms.push(Arm { policy, halves, shadow, hits: 0.0 });
        let miniature = |share, objective| Shadow::Frequency(Miniature::new(1, share, objective));
        add(EvictionPolicy::AllKeysLru, Shadow::Recency(Lru::default()));
        let lfu = EvictionPolicy::AllKeysLfu;
        add(lfu, miniature(lfu.share(), Objective::Bytes));
        for window_per_mille in WINDOWS_PER_MILLE {
            let share = Share { window_per_mille, margin: 0 };
            add(EvictionPolicy::AllKeysTinyLfu, miniature(share, cache.objective));
        }
    }
    for arm in &mut arms {
        arm.shadow.set_capacity(cache.capacity_bytes / 2 * arm.halves);
    }
    arms
}

impl Shadow {
    fn request(&mut self, request: Request, hash: u64) -> bool {
        match self {
            Self::Frequency(miniature) => miniature.request(request),
            Self::Recency(lru) => lru.request(request, hash),
        }
    }

    fn retain_rank(&mut self, rank: u8) {
        match self {
            Self::Frequency(miniature) => miniature.retain_rank(rank),
            Self::Recency(lru) => lru.retain_rank(rank),
        }
    }

    fn set_capacity(&mut self, bytes: u64) {
        match self {
            Self::Frequency(miniature) => miniature.set_capacity(bytes),
            Self::Recency(lru) => lru.set_capacity(bytes),
        }
    }
}

/// An exact LRU of sizes. A use is a new place at the end of the queue; places that are no longer those of their entries
/// are passed over.
#[derive(Debug, Default)]
struct Lru {
    capacity_bytes: u64,
    bytes: u64,
    entries: HashTable<LruEntry>,
    queue: VecDeque<(u64, u64)>,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct LruEntry {
    key: u64,
    request: Request,
    used_at: u64,
}

/// Places of the queue per entry until it is tidied up.
const PLACES_PER_ENTRY: usize = 2;

impl Lru {
    fn request(&mut self, request: Request, key: u64) -> bool {
        if u64::from(request.bytes()) > self.capacity_bytes {
            return false;
        }
        self.clock += 1;
        let used_at = self.clock;
        let found = self.entries.find_mut(hash_of(key), |entry| entry.key == key);
        let is_hit = found.is_some();
        match found {
            Some(entry) => {
                self.bytes -= u64::from(entry.request.bytes());
                (entry.request, entry.used_at) = (request, used_at);
            }
            None => {
                let entry = LruEntry { key, request, used_at };
                self.entries.insert_unique(hash_of(key), entry, |entry| hash_of(entry.key));
            }
        }
        self.bytes += u64::from(request.bytes());
        self.queue.push_back((key, used_at));
        self.evict();
        if self.queue.len() > PLACES_PER_ENTRY * self.entries.len() + 16 {
            let entries = &self.entries;
            self.queue.retain(|&(key, used_at)| {
                entries.find(hash_of(key), |entry| entry.key == key).is_some_and(|entry| entry.used_at == used_at)
            });
        }
        is_hit
    }

    fn evict(&mut self) {
        while self.bytes > self.capacity_bytes {
            let Some((key, used_at)) = self.queue.pop_front() else { return };
            let is_it = |entry: &LruEntry| entry.key == key && entry.used_at == used_at;
            if let Ok(found) = self.entries.find_entry(hash_of(key), is_it) {
                let (entry, _) = found.remove();
                self.bytes -= u64::from(entry.request.bytes());
            }
        }
    }

    fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
        self.evict();
    }

    fn retain_rank(&mut self, rank: u8) {
        self.entries.retain(|entry| entry.request.rank() >= rank);
        self.bytes = self.entries.iter().map(|entry| u64::from(entry.request.bytes())).sum();
    }

    fn memory_bytes(&self) -> usize {
        self.entries.capacity() * (size_of::<LruEntry>() + 1) * 8 / 7 + self.queue.capacity() * size_of::<(u64, u64)>()
    }
}

fn hash_of(key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u64) -> u64 {
        let hash = (key ^ key >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash ^ hash >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }

    fn event(kind: EventKind, key: u64) -> Event {
        Event { kind, hash: hash(key), weight: 10, len: 10 }
    }

    fn cache(entries: u64) -> Cache {
        Cache { capacity_bytes: entries * 10, entries, objective: Objective::Objects }
    }

    fn outlook(whatif: &WhatIf, policy: EvictionPolicy) -> [f64; 3] {
        whatif.outlooks().into_iter().find(|outlook| outlook.policy == policy).expect("a main policy").hit_ratios
    }

    #[test]
    fn a_circle_fits_in_twice_the_memory_only() {
        let mut whatif = WhatIf::default();
        whatif.follow(cache(1000), false);
        for at in 0..60_000 {
            whatif.play(&event(EventKind::Miss, at % 1500));
            whatif.play(&event(EventKind::Store, at % 1500));
        }
        let [half, same, double] = outlook(&whatif, EvictionPolicy::AllKeysLru);
        assert!(half < 0.01 && same < 0.01 && double > 0.95, "{half} {same} {double}");
        let [half, same, double] = outlook(&whatif, EvictionPolicy::AllKeysTinyLfu);
        // At best a third and two thirds stay.
        assert!((0.2..0.34).contains(&half) && (0.5..0.68).contains(&same) && double > 0.95, "{half} {same} {double}");
        assert_eq!(whatif.reads(), 59_000, "all but those of the warm-up");
    }

    #[test]
    fn reads_that_nobody_stores_are_misses_and_writes_do_not_count() {
        let mut whatif = WhatIf::default();
        whatif.follow(cache(1000), false);
        for at in 0..20_000 {
            whatif.play(&event(EventKind::Store, at % 10));
            whatif.play(&event(EventKind::Hit, at % 10));
            whatif.play(&event(EventKind::Miss, 1_000_000 + at));
        }
        let [_, same, _] = outlook(&whatif, EvictionPolicy::AllKeysLru);
        // Half of the reads, but for those that still wait to be stored.
        assert!((same - 20_000.0 / 36_000.0).abs() < 0.02, "{same}");
        assert!(whatif.pending.len() <= PENDING_MAX && whatif.pending_order.len() <= PENDING_MAX);
    }

    #[test]
    fn a_sample_tells_what_all_keys_would_and_memory_stays_small() {
        let mut whatif = WhatIf::default();
        (0..10).for_each(|_| whatif.follow(cache(200_000), false));
        assert_eq!(whatif.keys_per_sample(), 64);
        for at in 0..2_000_000 {
            let key = at % 300_000;
            whatif.play(&event(EventKind::Miss, key));
            whatif.play(&event(EventKind::Store, key));
        }
        let [half, same, double] = outlook(&whatif, EvictionPolicy::AllKeysLru);
        assert!(half < 0.05 && same < 0.05 && double > 0.8, "{half} {same} {double}");
        assert!(whatif.memory_bytes() < 4 << 20, "{}", whatif.memory_bytes());
    }
}
