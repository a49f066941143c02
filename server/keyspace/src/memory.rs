//! What memory costs: the allocator's rounding, and the node's sum against the limit.
//!
//! We count what the allocator gives, not what we ask for, so that the limit means resident bytes. Shards count under their
//! lock and publish here in steps, so that the counter is not a cache line that all cores write to on every command.

use crate::log::{Backing, Extents, GRAIN_BYTES, KEPT_MAX, PAGE_BYTES, Pool, Worked};
use crossbeam::utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Longest key in bytes: an entry keeps the length in 16 bits. Commands refuse longer keys.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Longest value in bytes; an entry keeps lengths in 32 bits, with room for its header and growth. Commands refuse longer ones.
pub const VALUE_BYTES_MAX: usize = 1 << 31;

/// A shard tells its change of memory once it is larger than this, in bytes; less if the limit is so small that the untold
/// bytes of all shards would matter.
const PUBLISH_BYTES_MAX: u64 = 4096;

/// The untold bytes of all shards together stay below this share of the limit.
const UNTOLD_SHARE: u64 = 64;

/// Shadow caches take some megabytes however small the limit is. Beyond this part of it they count among the server's own
/// memory, which is on top of the limit, so that a small limit is left to entries.
const SHADOWS_PARTS: u64 = 32;

/// Free pages of runs are kept for the next ones up to this, and up to [`KEPT_PAGES_SHARE`] of the limit: enough that most of what
/// comes finds room among what went a while ago. With values of 4 to 64 KiB under 256 MiB a write that evicts costs 0.5 page faults
/// at 1 MiB and 0.2 at 4 MiB; with 100 KB to 1 MB 48 and 26.
const KEPT_PAGES_BYTES_MAX: u64 = 16 << 20;

/// See [`KEPT_PAGES_BYTES_MAX`].
const KEPT_PAGES_SHARE: u64 = 64;

/// Bytes that mimalloc's block for a request of `bytes` has (its `mi_good_size`, version 3).
///
/// Up to 64 bytes classes are 16 bytes apart (8 for the smallest), then there are four per doubling up to 512 KiB, then
/// blocks are whole pages of 4 KiB. So a block wastes 11 % at most on average 6 %, above 64 bytes.
#[must_use]
pub const fn size_class(bytes: usize) -> usize {
    const WORD: usize = 8;
    const WORDS_EVEN_MAX: usize = 8;
    const CLASS_BYTES_MAX: usize = 512 << 10;
    const PAGE: usize = 4096;

    let words = bytes.div_ceil(WORD);
    if words <= 1 {
        WORD
    } else if words <= WORDS_EVEN_MAX {
        words.next_multiple_of(2) * WORD
    } else if bytes <= CLASS_BYTES_MAX {
        let step = 1 << ((words - 1).ilog2() - 2);
        words.next_multiple_of(step) * WORD
    } else {
        bytes.next_multiple_of(PAGE)
    }
}

/// What a shard may be given to hold: half of what its locations can name, because keys spread unevenly. More shards hold more.
pub const SHARD_BYTES_MAX: u64 = crate::log::BYTES_MAX / 2;

const NO_SHARD: usize = usize::MAX;

/// Bytes that a key and a value of `bytes` together take: in a run they have whole grains, and may touch a page more than they fill.
pub(crate) const fn bytes_at_most(bytes: usize) -> usize {
    let edge = if bytes < PAGE_BYTES { 0 } else { PAGE_BYTES };
    bytes.next_multiple_of(GRAIN_BYTES) + edge
}

/// The node's memory counter and its limit.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Signed, because one shard may tell of a release before another tells of the allocation.
    used_bytes: CachePadded<AtomicI64>,
    used_bytes_peak: CachePadded<AtomicU64>,
    bytes_allowed: AtomicU64,
    publish_bytes: AtomicU64,
    /// Part of `used_bytes` that is shadow caches.
    shadow_bytes: AtomicU64,
    shadow_bytes_max: AtomicU64,
    /// From what use on room is made ahead: `u64::MAX` without a limit, 0 while a shard is full.
    bytes_wished: AtomicU64,
    /// A shard that has no room for more segments, however much memory there is; [`NO_SHARD`] = none.
    full_shard: AtomicUsize,
    /// For each shard: until when, in server time, who needs memory need not look there; 0 = one has to look.
    barren_until_ms: Box<[AtomicU64]>,
    /// Whether only values count, and every byte is told at once.
    counts_values_only: AtomicBool,
    shards: u64,
    segment_bytes: u64,
    pool: Arc<Pool>,
    /// What these hold beside what the shards count in them is added here.
    extents: Arc<Extents>,
}

impl Memory {
    pub(crate) fn new(bytes_max: u64, shards: usize, backing: Backing) -> Self {
        let memory = Self {
            used_bytes: CachePadded::default(),
            used_bytes_peak: CachePadded::default(),
            bytes_allowed: AtomicU64::new(0),
            publish_bytes: AtomicU64::new(PUBLISH_BYTES_MAX),
            shadow_bytes: AtomicU64::new(0),
            shadow_bytes_max: AtomicU64::new(0),
            bytes_wished: AtomicU64::new(0),
            full_shard: AtomicUsize::new(NO_SHARD),
            barren_until_ms: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            counts_values_only: AtomicBool::new(false),
            shards: shards as u64,
            segment_bytes: backing.pool.segment_bytes() as u64,
            pool: backing.pool,
            extents: backing.extents,
        };
        memory.set_bytes_max(bytes_max);
        memory
    }

    // All orderings are relaxed: the counters order no other memory.

    #[inline]
    pub(crate) fn used_bytes(&self) -> u64 {
        self.with_extents(self.used_bytes.load(Relaxed))
    }

    #[inline]
    fn with_extents(&self, counted: i64) -> u64 {
        let overhead = if self.counts_values_only() { 0 } else { self.extents.overhead_bytes() };
        counted.max(0).unsigned_abs() + overhead
    }

    /// Bytes of the pages of runs that are resident without being part of a run, now.
    pub(crate) fn gap_bytes(&self) -> u64 {
        if self.counts_values_only() { 0 } else { self.extents.gap_bytes() }
    }

    /// See [`Keyspace::gather_pages`](crate::Keyspace::gather_pages).
    pub(crate) fn gather_pages(&self, now_s: u32) -> Worked {
        match self.pool.work_on_blocks(now_s) {
            Worked::Idle => crate::cells::work_on_blocks(now_s),
            worked => worked,
        }
    }

    /// Bytes in huge pages.
    pub(crate) fn huge_bytes(&self) -> u64 {
        (self.pool.huge_bytes() + crate::cells::huge_bytes()) as u64
    }

    /// Checks that extents have at least the bytes of the runs; for tests.
    pub(crate) fn check_extents(&self, run_bytes: usize) {
        self.extents.check(run_bytes);
    }

    pub(crate) fn used_bytes_peak(&self) -> u64 {
        self.used_bytes_peak.load(Relaxed)
    }

    /// What the counter may reach, so that the limit holds with what the shards have not told yet. 0 = no limit.
    #[inline]
    pub(crate) fn bytes_allowed(&self) -> u64 {
        self.bytes_allowed.load(Relaxed)
    }

    /// Over this, room is made a little ahead. `u64::MAX` = there is no limit.
    #[inline]
    pub(crate) fn bytes_wished(&self) -> u64 {
        self.bytes_wished.load(Relaxed)
    }

    #[inline]
    pub(crate) fn counts_values_only(&self) -> bool {
        self.counts_values_only.load(Relaxed)
    }

    /// From now on only values count.
    pub(crate) fn count_values_only(&self) {
        self.counts_values_only.store(true, Relaxed);
        self.used_bytes.store(0, Relaxed);
    }

    pub(crate) fn set_bytes_max(&self, bytes: u64) {
        if self.counts_values_only() {
            self.bytes_allowed.store(bytes, Relaxed);
            self.publish_bytes.store(0, Relaxed);
            return self.wish();
        }
        let publish_bytes = match bytes {
            0 => PUBLISH_BYTES_MAX,
            _ => PUBLISH_BYTES_MAX.min(bytes / (self.shards * UNTOLD_SHARE)),
        };
        let kept_pages = match bytes {
            0 => KEPT_PAGES_BYTES_MAX,
            _ => KEPT_PAGES_BYTES_MAX.min(bytes / KEPT_PAGES_SHARE),
        };
        self.extents.set_kept_bytes_max(kept_pages as usize);
        // What shards have not told yet, what the pool keeps, and the segment that an entry may open.
        let untold = (publish_bytes * self.shards).min(bytes / UNTOLD_SHARE);
        let kept = (KEPT_MAX as u64 + 1) * self.segment_bytes;
        let allowed = bytes - (untold + kept).min(bytes / 4);
        self.bytes_allowed.store(if bytes == 0 { 0 } else { allowed.max(1) }, Relaxed);
        self.publish_bytes.store(publish_bytes, Relaxed);
        self.shadow_bytes_max.store(bytes / SHADOWS_PARTS, Relaxed);
        self.wish();
    }

    /// A shard that is full, if one is.
    pub(crate) fn full_shard(&self) -> Option<usize> {
        Some(self.full_shard.load(Relaxed)).filter(|&shard| shard != NO_SHARD)
    }

    /// No command may grow the keyspace before it has looked at this shard. Of several the last stands for all: the others are
    /// noted again when they next grow.
    #[cold]
    pub(crate) fn note_full(&self, shard: usize) {
        self.full_shard.store(shard, Relaxed);
        self.wish();
    }

    /// Whoever looked at the full shard has found room in it.
    pub(crate) fn note_room(&self) {
        self.full_shard.store(NO_SHARD, Relaxed);
        self.wish();
    }

    /// Told under the lock of the shard.
    #[cold]
    pub(crate) fn note_barren_until(&self, shard: usize, until_ms: u64) {
        self.barren_until_ms[shard].store(until_ms, Relaxed);
    }

    /// Whether a look at the shard would be in vain.
    pub(crate) fn is_barren(&self, shard: usize, now_ms: u64) -> bool {
        now_ms < self.barren_until_ms[shard].load(Relaxed)
    }

    fn wish(&self) {
        let wished = match self.bytes_allowed() {
            _ if self.full_shard().is_some() => 0,
            0 => u64::MAX,
            allowed if self.counts_values_only() => allowed,
            allowed => allowed - self.segment_bytes.min(allowed / 8),
        };
        self.bytes_wished.store(wished, Relaxed);
    }

    /// From what change on a shard must [`Memory::publish`].
    #[inline]
    pub(crate) fn publish_bytes(&self) -> u64 {
        self.publish_bytes.load(Relaxed)
    }

    #[cold]
    pub(crate) fn publish(&self, change: i64) {
        let used = self.with_extents(self.used_bytes.fetch_add(change, Relaxed) + change);
        if self.used_bytes_peak.load(Relaxed) < used {
            self.used_bytes_peak.fetch_max(used, Relaxed);
        }
    }

    /// Counts the caches in miniature that run beside the real one, up to a part of the limit.
    pub(crate) fn count_shadows(&self, bytes: u64) {
        let bytes = bytes.min(self.shadow_bytes_max.load(Relaxed));
        let before = self.shadow_bytes.swap(bytes, Relaxed);
        if before != bytes {
            self.publish(bytes as i64 - before as i64);
        }
    }

    /// Counts what is of the node and not of a shard, once.
    pub(crate) fn count_table(&self, bytes: u64) {
        self.publish(bytes as i64);
    }

    pub(crate) fn shadow_bytes(&self) -> u64 {
        self.shadow_bytes.load(Relaxed)
    }

    pub(crate) fn reset_peak(&self) {
        self.used_bytes_peak.store(self.used_bytes(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn size_classes_are_four_per_doubling_and_cover_the_request() {
        let classes: Vec<usize> =
            [1, 8, 9, 16, 17, 33, 64, 65, 81, 97, 113, 129, 161, 200, 1000, 1025, 524_288, 524_289]
                .map(size_class)
                .to_vec();
        assert_eq!(classes, [8, 8, 16, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 1024, 1280, 524_288, 528_384]);
        for bytes in 1..70_000 {
            let class = size_class(bytes);
            assert!(class >= bytes, "{bytes} bytes do not fit in a block of {class}");
            assert_eq!(size_class(class), class, "a class is its own class");
        }
    }
}
