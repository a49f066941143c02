//! How large the window is: chosen by what would have been hit.
//!
//! No size of the window is right for all traffic: a large one serves keys that come again soon, a small one keys that come
//! again often. So small caches run beside the real one ([`Miniature`]), each with another window and margin, on the same
//! sample of the keys, and the whole server takes the one that has hit most of late. That measures what a change would
//! bring; comparing hits inside the real cache does not.
//!
//! ```text
//!     request ── hash below the bound? ──no──► (one compare)
//!                        │yes
//!                        ▼
//!                 bounded queue ──► adapt, from a tick ──► 14 miniatures ──► best share ──► shards
//!                 full: dropped                            (capacity × rate)
//! ```
//!
//! The sample is one key in 2^rank, so that a miniature holds some thousand entries: smaller caches are sampled whole, larger
//! ones at a rate that falls as they grow. Samples that had to be dropped halve the rate, because keys must be sampled with
//! all their requests or not at all.

use super::duel::Objective;
use super::miniature::{Miniature, Request, Share};
use crossbeam::queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, TryLockError};

/// Windows that are tried, as a share of the capacity in per mille, each with both margins.
const WINDOWS_PER_MILLE: [u16; 7] = [10, 50, 100, 200, 400, 700, 950];
const MARGINS: [u8; 2] = [0, 1];
const ARMS: usize = WINDOWS_PER_MILLE.len() * MARGINS.len();

/// The share before anything is known: the best of the fixed ones on mixed traffic.
const SHARE_AT_START: Share = Share { window_per_mille: 100, margin: 0 };
const ARM_AT_START: usize = 2;

const _: () = assert!(WINDOWS_PER_MILLE[ARM_AT_START] == SHARE_AT_START.window_per_mille && MARGINS[0] == 0);

/// The sample is one key in twice as many once there are so many sampled entries, and in half as many below an eighth of it.
/// With 4096, 2048 or 1024 the mean miss ratios differ by less than 0.2 points; all arms together take about 400 bytes per
/// sampled entry.
const SAMPLED_ENTRIES_MAX: u64 = 4096;
const SAMPLED_ENTRIES_MIN: u64 = SAMPLED_ENTRIES_MAX / 8;
const RANK_MAX: u8 = 32;

/// Samples that wait for the next tick. 64 KiB.
const QUEUE_LEN: usize = 4096;

/// Samples worked off by one call: with all arms about a fifth of a millisecond.
const SAMPLES_PER_CALL: usize = 256;

/// From so many on, working off what waits is due.
const SAMPLES_DUE: usize = 64;

/// Choices in as many sampled requests as a miniature has entries.
const PERIODS_PER_ENTRY: u64 = 4;
const PERIOD_REQUESTS_MIN: u64 = 32;

/// What was seen counts so much less with each period: a half after nine requests per entry.
const DECAY: f64 = 0.98;

/// By what share of the requests an arm must lead to be chosen.
const LEAD: f64 = 0.003;

/// As long as little was seen, by this over the square root of the requests: with 1000 requests, by 0.016. Against fixed
/// periods of two requests per entry, which have seen enough at their first end, a window that should be large is so six
/// times sooner after the cache has filled up (mooncake at half its footprint: 0.662 → 0.647).
const LEAD_OF_FEW: f64 = 0.5;

/// Periods without a dropped sample until a rate that was halved for that is tried again.
const PERIODS_UNTIL_RECOVERY: u32 = 512;

/// The controller of a server: one for all shards, which are alike because keys are spread by hash.
#[derive(Debug)]
pub struct WindowControl {
    /// Window in per mille, and the margin in the lowest [`MARGIN_BITS`] bits.
    share: AtomicU32,
    /// Keys with a hash below it are sampled.
    sample_below: AtomicU64,
    samples: ArrayQueue<Request>,
    is_dropping: AtomicBool,
    memory_bytes: AtomicU64,
    shadows: Mutex<Shadows>,
}

const MARGIN_BITS: u32 = 8;

/// The real cache, as the controller sees it.
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    /// What entries may take in all. 0 = no limit; then nothing is sampled.
    pub capacity_bytes: u64,
    /// Resident entries.
    pub entries: u64,
    /// What is to be kept most of.
    pub objective: Objective,
}

/// What the controller has done, for operators.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The share in force.
    pub share: Share,
    /// One key in so many is sampled; 0 = none.
    pub keys_per_sample: u64,
    /// Sampled requests of the miniatures so far.
    pub samples: u64,
    /// Times another arm was chosen.
    pub changes: u64,
    /// Bytes of all miniatures.
    pub memory_bytes: usize,
}

#[derive(Debug)]
struct Shadows {
    /// None until there is a limit.
    arms: Vec<Arm>,
    chosen: usize,
    cache: Cache,
    /// Of the sampled keys; a key of this rank is one in 2^rank.
    rank: u8,
    /// The part of it that is due to dropped samples.
    rank_for_load: u8,
    periods_without_drop: u32,
    /// Of the present period.
    requests: u64,
    weight: f64,
    /// Of all periods, each counting less than the next.
    requests_before: f64,
    weight_before: f64,
    samples: u64,
    changes: u64,
}

#[derive(Debug)]
struct Arm {
    share: Share,
    cache: Miniature,
    /// Hits, or bytes of hits, of the present period, and of all as above.
    score: f64,
    score_before: f64,
}

impl Default for WindowControl {
    fn default() -> Self {
        let cache = Cache { capacity_bytes: 0, entries: 0, objective: Objective::Objects };
        let shadows = Shadows {
            arms: Vec::new(),
            chosen: ARM_AT_START,
            cache,
            rank: 0,
            rank_for_load: 0,
            periods_without_drop: 0,
            requests: 0,
            weight: 0.0,
            requests_before: 0.0,
            weight_before: 0.0,
            samples: 0,
            changes: 0,
        };
        Self {
            share: AtomicU32::new(packed(SHARE_AT_START)),
            sample_below: AtomicU64::new(0),
            samples: ArrayQueue::new(QUEUE_LEN),
            is_dropping: AtomicBool::new(false),
            memory_bytes: AtomicU64::new(0),
            shadows: Mutex::new(shadows),
        }
    }
}

impl WindowControl {
    // All orderings are relaxed: each value is whole by itself, and the queue and the lock order what they guard.

    /// The share in force.
    #[inline]
    #[must_use]
    pub fn share(&self) -> Share {
        let packed = self.share.load(Relaxed);
        Share { window_per_mille: (packed >> MARGIN_BITS) as u16, margin: packed as u8 }
    }

    /// Tells of a hit on an entry, or of an entry that is stored: one of the two per request. `bytes` is what the entry costs.
    #[inline]
    pub fn sample(&self, hash: u64, bytes: impl FnOnce() -> usize) {
        if hash < self.sample_below.load(Relaxed) {
            self.queue_sample(Request::new(hash, u32::try_from(bytes()).unwrap_or(u32::MAX)));
        }
    }

    /// Works off a bounded number of samples and chooses a share when it is time. To be called from a tick of each thread;
    /// returns at once if another thread is at it.
    pub fn adapt(&self, cache: Cache) {
        let mut shadows = match self.shadows.try_lock() {
            Ok(shadows) => shadows,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if cache.capacity_bytes == 0 {
            self.sample_below.store(0, Relaxed);
            shadows.stop();
            self.memory_bytes.store(0, Relaxed);
            while self.samples.pop().is_some() {}
            return;
        }
        let is_dropping = self.is_dropping.swap(false, Relaxed);
        shadows.follow(cache, is_dropping);
        self.sample_below.store(bound(shadows.rank), Relaxed);
        for _ in 0..SAMPLES_PER_CALL {
            let Some(request) = self.samples.pop() else { break };
            if let Some(share) = shadows.request(request) {
                self.share.store(packed(share), Relaxed);
            }
        }
        self.memory_bytes.store(shadows.memory_bytes() as u64, Relaxed);
    }

    /// Whether enough samples wait that [`WindowControl::adapt`] should be called soon. Costs two loads.
    #[inline]
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.samples.len() >= SAMPLES_DUE
    }

    /// Bytes of the miniatures and of the samples that wait, as of the latest [`WindowControl::adapt`].
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Relaxed)
    }

    /// What it has done so far. Waits for a thread that is in [`WindowControl::adapt`].
    #[must_use]
    pub fn report(&self) -> Report {
        let shadows = self.shadows.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            share: self.share(),
            keys_per_sample: if shadows.arms.is_empty() { 0 } else { 1 << shadows.rank },
            samples: shadows.samples,
            changes: shadows.changes,
            memory_bytes: shadows.memory_bytes(),
        }
    }

    #[cold]
    fn queue_sample(&self, request: Request) {
        if self.samples.push(request).is_err() {
            self.is_dropping.store(true, Relaxed);
        }
    }
}

impl Shadows {
    fn stop(&mut self) {
        self.arms = Vec::new();
        self.rank = 0;
        self.rank_for_load = 0;
    }

    fn memory_bytes(&self) -> usize {
        self.arms.iter().map(|arm| arm.cache.memory_bytes()).sum()
    }

    /// Follows the real cache: its capacity, its objective, and with its number of entries the rate of sampling.
    fn follow(&mut self, cache: Cache, is_dropping: bool) {
        if self.arms.is_empty() {
            let shares = MARGINS
                .iter()
                .flat_map(|&margin| WINDOWS_PER_MILLE.map(|window_per_mille| Share { window_per_mille, margin }));
            let arm = |share| {
                let cache = Miniature::new(cache.capacity_bytes, share, cache.objective);
                Arm { share, cache, score: 0.0, score_before: 0.0 }
            };
            self.arms = shares.map(arm).collect();
        }
        if cache.objective != self.cache.objective {
            self.arms.iter_mut().for_each(|arm| arm.cache.set_objective(cache.objective));
            self.forget_scores();
        }
        let rank = self.rank_for(cache.entries, is_dropping);
        if rank > self.rank {
            self.arms.iter_mut().for_each(|arm| arm.cache.retain_rank(rank));
        }
        if rank != self.rank || cache.capacity_bytes != self.cache.capacity_bytes {
            self.arms.iter_mut().for_each(|arm| arm.cache.set_capacity(cache.capacity_bytes >> rank));
        }
        self.rank = rank;
        self.cache = cache;
    }

    fn rank_for(&mut self, entries: u64, is_dropping: bool) -> u8 {
        if is_dropping {
            self.rank_for_load += 1;
            self.periods_without_drop = 0;
            return (self.rank + 1).min(RANK_MAX);
        }
        if self.rank_for_load > 0 && self.periods_without_drop >= PERIODS_UNTIL_RECOVERY {
            self.rank_for_load -= 1;
            self.periods_without_drop = 0;
            return self.rank.saturating_sub(1);
        }
        let sampled = entries << self.rank_for_load.min(16) >> self.rank;
        if sampled >= SAMPLED_ENTRIES_MAX {
            (self.rank + 1).min(RANK_MAX)
        } else if sampled < SAMPLED_ENTRIES_MIN && self.rank > self.rank_for_load {
            self.rank - 1
        } else {
            self.rank
        }
    }

    /// Plays a request to all arms. The share to take from now on, at the end of a period.
    fn request(&mut self, request: Request) -> Option<Share> {
        if request.rank() < self.rank || self.arms.is_empty() {
            return None;
        }
        let weight = match self.cache.objective {
            Objective::Objects => 1.0,
            Objective::Bytes => f64::from(request.bytes()),
        };
        for arm in &mut self.arms {
            if arm.cache.request(request) {
                arm.score += weight;
            }
        }
        self.weight += weight;
        self.samples += 1;
        self.requests += 1;
        let entries = self.arms[self.chosen].cache.len() as u64;
        (self.requests >= (entries / PERIODS_PER_ENTRY).max(PERIOD_REQUESTS_MIN)).then(|| self.choose())
    }

    fn choose(&mut self) -> Share {
        let chosen = &self.arms[self.chosen].cache;
        if chosen.bytes() < chosen.capacity_bytes() / 4 * 3 {
            // All hit alike until there is something to evict.
            self.requests = 0;
            self.forget_scores();
            return self.arms[self.chosen].share;
        }
        self.requests_before = self.requests_before * DECAY + self.requests as f64;
        self.requests = 0;
        self.periods_without_drop += 1;
        self.weight_before = self.weight_before * DECAY + std::mem::take(&mut self.weight);
        for arm in &mut self.arms {
            arm.score_before = arm.score_before * DECAY + std::mem::take(&mut arm.score);
        }
        let by_score =
            |&one: &usize, &other: &usize| self.arms[one].score_before.total_cmp(&self.arms[other].score_before);
        let best = (0..self.arms.len()).max_by(by_score).expect("there are arms");
        let lead = self.arms[best].score_before - self.arms[self.chosen].score_before;
        let least = LEAD.max(LEAD_OF_FEW / self.requests_before.sqrt());
        if lead > least * self.weight_before {
            self.chosen = best;
            self.changes += 1;
        }
        self.arms[self.chosen].share
    }

    fn forget_scores(&mut self) {
        self.weight = 0.0;
        self.weight_before = 0.0;
        self.requests_before = 0.0;
        for arm in &mut self.arms {
            arm.score = 0.0;
            arm.score_before = 0.0;
        }
    }
}

/// Hashes below it have this rank or a higher one. At rank 0 the largest hash is left out, which is one key in 2^64.
fn bound(rank: u8) -> u64 {
    u64::MAX >> rank
}

fn packed(share: Share) -> u32 {
    u32::from(share.window_per_mille) << MARGIN_BITS | u32::from(share.margin)
}

const _: () = assert!(ARMS == 14);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cache(capacity: u64) -> Cache {
        Cache { capacity_bytes: capacity, entries: capacity, objective: Objective::Objects }
    }

    fn hash_of(key: u64) -> u64 {
        let hash = (key ^ key >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash ^ hash >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }

    /// Plays keys of one byte to a controller of a cache for `capacity` of them.
    fn share_after(capacity: u64, keys: impl Iterator<Item = u64>) -> Share {
        let control = WindowControl::default();
        control.adapt(cache(capacity));
        for (at, key) in keys.enumerate() {
            control.sample(hash_of(key), || 1);
            if at % 100 == 99 {
                control.adapt(cache(capacity));
            }
        }
        control.share()
    }

    #[test]
    fn keys_that_come_again_once_and_soon_get_a_large_window() {
        let keys = (0..200_000_u64).flat_map(|key| [key, key.saturating_sub(300)]);
        let share = share_after(1000, keys);
        assert!(share.window_per_mille >= 400, "{share:?}");
    }

    #[test]
    fn hot_keys_among_a_scan_get_a_small_window() {
        let keys = (0..100_000_u64).flat_map(|at| [1_000_000 + at, at.wrapping_mul(7919) % 900]);
        let share = share_after(1000, keys);
        assert!(share.window_per_mille <= 50, "{share:?}");
    }

    #[test]
    fn a_circle_larger_than_the_cache_gets_a_margin() {
        let share = share_after(1000, (0..300_000_u64).map(|at| at % 5000));
        assert_eq!(share.margin, 1, "{share:?}");
    }

    #[test]
    fn large_caches_are_sampled_and_memory_stays_small() {
        let control = WindowControl::default();
        let capacity = 1_000_000;
        // One step of the rate per tick.
        (0..20).for_each(|_| control.adapt(cache(capacity)));
        for at in 0..3_000_000_u64 {
            control.sample(hash_of(at % 1_500_000), || 1);
            if at % 10_000 == 0 {
                control.adapt(cache(capacity));
            }
        }
        let report = control.report();
        assert_eq!(report.keys_per_sample, 256);
        assert!((8_000..15_000).contains(&report.samples), "{report:?}");
        assert!(report.memory_bytes < 3_000_000, "{report:?}");
    }

    #[test]
    fn dropped_samples_halve_the_rate_and_calm_restores_it() {
        let control = WindowControl::default();
        control.adapt(cache(1000));
        (0..2 * QUEUE_LEN as u64).for_each(|key| control.sample(hash_of(key), || 1));
        control.adapt(cache(1000));
        assert_eq!(control.report().keys_per_sample, 2);
        for key in 0..1_000_000 {
            control.sample(hash_of(key % 3000), || 1);
            if key % 100 == 0 {
                control.adapt(cache(1000));
            }
        }
        assert_eq!(control.report().keys_per_sample, 1);
    }

    #[test]
    fn without_a_limit_nothing_is_sampled() {
        let control = WindowControl::default();
        control.sample(1, || 1);
        control.adapt(Cache { capacity_bytes: 0, ..cache(0) });
        control.sample(1, || 1);
        assert!(control.samples.is_empty());
        control.adapt(cache(1000));
        control.sample(1, || 1);
        assert_eq!(control.samples.len(), 1);
        control.adapt(Cache { capacity_bytes: 0, ..cache(0) });
        assert!(control.samples.is_empty());
        assert_eq!(control.report().memory_bytes, 0);
    }

    proptest! {
        #[test]
        fn the_share_stays_within_bounds_whatever_comes(
            steps in prop::collection::vec((any::<u64>(), 1..5000_u32, 0..200_000_u64, any::<bool>()), 0..2000),
        ) {
            let control = WindowControl::default();
            for (hash, bytes, capacity, is_objects) in steps {
                control.sample(hash, || bytes as usize);
                if hash % 7 == 0 {
                    let objective = if is_objects { Objective::Objects } else { Objective::Bytes };
                    control.adapt(Cache { capacity_bytes: capacity, entries: capacity / 10, objective });
                }
                let share = control.share();
                prop_assert!((10..=950).contains(&share.window_per_mille) && share.margin <= 1);
            }
        }
    }
}
