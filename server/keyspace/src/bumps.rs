//! Tags and prefixes that become stale all at once, in constant time and without a list of what they cover.
//!
//! A *bump* is the moment at which a tag or a prefix became stale. Moments are stamps of one clock of the node:
//!
//! ```text
//!     bit 63                22 21          0
//!          server time in ms   │ counter within it     every bump has its own, and each is larger than all before
//! ```
//!
//! A tagged entry keeps its tags and the stamp at which the token of its fill was issued, its birth: it is stale since the newest
//! bump of one of its tags, if that came after its birth. Nothing is done to an entry until somebody comes to it.
//!
//! When each tag was last bumped is kept in a sketch, a table of stamps without names:
//!
//! ```text
//!     slots    │ 0 │ 17 │ 0 │ 42 │ 0 │ 42 │ 99 │ …          a bump raises ROWS slots, chosen by the tag's keyed hash;
//!                         tag ▲         ▲                      the smallest of them is when the tag was last bumped,
//!                                                              or a later time if others were bumped in all of them
//! ```
//!
//! (a count-min sketch, Cormode and Muthukrishnan 2005, of maxima). So its memory has a bound, a bump is never forgotten, and readers
//! take no lock. What it costs is that an entry may seem stale that is not: of `n` tags bumped in the life of an entry in a table of `s`
//! slots, with the chance `(1 − e^(−4n/s))⁴`: 1 % at 50,000 tags in 4 MiB. A table with one place per tag has to forget when it is full,
//! and to be safe all tagged entries that are older than what it has forgotten would be stale at once.
//!
//! Prefixes are in [`crate::shard`]'s hands: their entries have no birth.

use crate::keyspace::Keyspace;
use crate::settings::Db;
use crate::shard::PrefixBump;
use crate::turn::Turn;
use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Tags of one entry at most: its header must fit in the smallest segment beside what else is in it.
pub const TAGS_MAX: usize = 32;

/// Memory of the table of bumps, if nobody says otherwise.
const TABLE_BYTES: usize = 4 << 20;

/// The table takes at most this part of a limited memory, but for [`TABLE_BYTES_MIN`].
const TABLE_SHARE: u64 = 32;

const TABLE_BYTES_MIN: usize = 4 << 10;

/// Slots that a tag has in the table.
const ROWS: u64 = 4;

/// Low bits of a stamp that count within a millisecond.
const COUNTER_BITS: u32 = 22;

/// A tag as the keyspace knows it: the keyed hash of its name. If two names have the same, each makes stale what both cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub(crate) u64);

/// Tags that an entry has, and the stamp from which on their bumps count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagSet {
    pub(crate) birth: u64,
    pub(crate) tags: Box<[Tag]>,
}

/// A [`TagSet`], borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags<'t> {
    pub(crate) birth: u64,
    pub(crate) tags: &'t [Tag],
}

impl TagSet {
    /// Whether there is no tag.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    pub(crate) fn borrow(&self) -> Tags<'_> {
        Tags { birth: self.birth, tags: &self.tags }
    }
}

/// The time of a stamp in server time.
pub(crate) fn stamp_ms(stamp: u64) -> u64 {
    stamp >> COUNTER_BITS
}

/// The first stamp of a time.
pub(crate) fn stamp_at(ms: u64) -> u64 {
    ms << COUNTER_BITS
}

/// The clock of a node's bumps, and when each tag was last bumped.
#[derive(Debug)]
pub(crate) struct Bumps {
    /// The newest stamp that was given.
    clock: CachePadded<AtomicU64>,
    /// Made by the first bump; a power of two of slots.
    table: OnceLock<Box<[AtomicU64]>>,
    table_bytes_max: AtomicUsize,
    slots_used: AtomicU64,
    /// The newest bump of a tag.
    tags_bumped_at: AtomicU64,
    tag_bumps: AtomicU64,
    prefix_bumps: AtomicU64,
}

impl Default for Bumps {
    fn default() -> Self {
        Self {
            clock: CachePadded::new(AtomicU64::new(1)),
            table: OnceLock::new(),
            table_bytes_max: AtomicUsize::new(TABLE_BYTES),
            slots_used: AtomicU64::new(0),
            tags_bumped_at: AtomicU64::new(0),
            tag_bumps: AtomicU64::new(0),
            prefix_bumps: AtomicU64::new(0),
        }
    }
}

/// Sums since start, and sizes now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BumpStats {
    pub(crate) tag_bumps: u64,
    pub(crate) prefix_bumps: u64,
    pub(crate) table_bytes: u64,
    pub(crate) slots_used: u64,
    pub(crate) slots: u64,
}

impl Bumps {
    /// What is given a stamp now is older than every bump to come.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        // Pairs with `next`: who was told of a bump and then asks for a token gets its stamp or a later one.
        self.clock.load(Acquire)
    }

    /// Lets what is given a stamp from now on know that it is as young as this.
    pub(crate) fn reach(&self, now_ms: u64) {
        if self.now() < stamp_at(now_ms) {
            // As `next`, which makes greater ones.
            self.clock.fetch_max(stamp_at(now_ms), AcqRel);
        }
    }

    /// The stamp of a bump: larger than all that were given before.
    fn next(&self, now_ms: u64) -> u64 {
        let after = |last: u64| (last + 1).max(now_ms << COUNTER_BITS);
        let last = self.clock.fetch_update(AcqRel, Acquire, |last| Some(after(last)));
        last.map_or_else(after, after)
    }

    /// Makes a tag stale. The stamp is taken first: a token that is issued before the slots are raised has it already, and its
    /// load begins after the bump did. `count` is told of the memory that the first bump takes.
    fn bump(&self, tag: Tag, now_ms: u64, bytes_allowed: u64, count: impl FnOnce(u64)) {
        let stamp = self.next(now_ms);
        let table = self.table.get_or_init(|| {
            let share = match bytes_allowed {
                0 => usize::MAX,
                _ => usize::try_from(bytes_allowed / TABLE_SHARE).unwrap_or(usize::MAX),
            };
            let bytes = 1 << self.table_bytes_max.load(Relaxed).min(share).max(TABLE_BYTES_MIN).ilog2();
            count(bytes as u64);
            (0..bytes / size_of::<u64>()).map(|_| AtomicU64::new(0)).collect()
        });
        for slot in slots_of(tag, table.len()) {
            // Pairs with `bumped_at`.
            if table[slot].fetch_max(stamp, AcqRel) == 0 {
                self.slots_used.fetch_add(1, Relaxed);
            }
        }
        self.tags_bumped_at.fetch_max(stamp, AcqRel);
        self.tag_bumps.fetch_add(1, Relaxed);
    }

    /// The newest bump of any tag; 0 = there was none.
    pub(crate) fn newest_of_tags(&self) -> u64 {
        self.tags_bumped_at.load(Acquire)
    }

    /// The newest bump of some tags, if one came after `birth`.
    pub(crate) fn newest_since(&self, birth: u64, tags: impl Iterator<Item = Tag>) -> Option<u64> {
        let table = self.table.get()?;
        tags.filter_map(|tag| bumped_at(table, tag, birth)).max()
    }

    pub(crate) fn stats(&self) -> BumpStats {
        let slots = self.table.get().map_or(0, |table| table.len()) as u64;
        BumpStats {
            tag_bumps: self.tag_bumps.load(Relaxed),
            prefix_bumps: self.prefix_bumps.load(Relaxed),
            table_bytes: slots * size_of::<u64>() as u64,
            slots_used: self.slots_used.load(Relaxed),
            slots,
        }
    }

    pub(crate) fn reset_counters(&self) {
        self.tag_bumps.store(0, Relaxed);
        self.prefix_bumps.store(0, Relaxed);
    }
}

/// When a tag was last bumped, if after `birth`; most tags were not bumped, and one slot tells.
#[inline]
fn bumped_at(table: &[AtomicU64], tag: Tag, birth: u64) -> Option<u64> {
    let mut newest = u64::MAX;
    for slot in slots_of(tag, table.len()) {
        // Pairs with `Bumps::bump`.
        newest = newest.min(table[slot].load(Acquire));
        if newest <= birth {
            return None;
        }
    }
    Some(newest)
}

/// The slots of a tag in a table of a power of two of them: by double hashing (Kirsch and Mitzenmacher 2006).
#[inline]
fn slots_of(Tag(hash): Tag, slots: usize) -> impl Iterator<Item = usize> {
    let (mask, step) = (slots - 1, hash.rotate_left(32) | 1);
    (0..ROWS).map(move |row| (hash.wrapping_add(step.wrapping_mul(row)) >> 8) as usize & mask)
}

impl Keyspace {
    /// A tag by its name. Tags are of the node, not of one of its databases: they name something in the source behind it.
    #[must_use]
    pub fn tag(&self, name: &[u8]) -> Tag {
        Tag(self.hash_of_tag(name))
    }

    /// Makes every entry that has the tag stale, as [`Keyspace::invalidate`] softly does, and voids every token issued so far
    /// whose fill has the tag or would replace an entry that has it. Takes as long however many entries that are.
    pub fn invalidate_tag(&self, turn: &mut Turn, tag: &[u8]) {
        let count = |bytes| self.memory.count_table(bytes);
        self.bumps().bump(self.tag(tag), turn.now_ms, self.memory.bytes_allowed(), count);
        self.recall_all(turn.now_ms);
    }

    /// Makes every entry of `db` whose key starts with `prefix` stale, as [`Keyspace::invalidate`] softly does, ends what is
    /// remembered of absent ones, and voids all tokens that were issued for such keys. Takes one lock of each shard for a
    /// moment, however many entries that are; [`Keyspace::expire_cycle`] goes through them afterwards. Only if a shard has
    /// more than a few prefixes to go through already, it goes through its entries here and now, bit by bit.
    pub fn invalidate_prefix(&self, turn: &mut Turn, db: Db, prefix: &[u8]) {
        let stamp = self.bumps().next(turn.now_ms);
        self.bumps().prefix_bumps.fetch_add(1, Relaxed);
        let prefix: Arc<[u8]> = prefix.into();
        for index in 0..self.shards() {
            let mut shard = self.lock(index);
            while !shard.add_prefix_bump(PrefixBump::new(db, Arc::clone(&prefix), stamp)) {
                shard.sweep_bumps(turn.now_ms, &mut usize::from(u16::MAX));
                drop(shard);
                shard = self.lock(index);
            }
        }
        self.recall_all(turn.now_ms);
    }

    /// Memory for the table of bumps in bytes, from its first use on; rounded down to a power of two.
    pub fn set_tag_bytes_max(&self, bytes: u64) {
        self.bumps().table_bytes_max.store(usize::try_from(bytes).unwrap_or(usize::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(count: u64) -> impl Iterator<Item = Tag> {
        (1..=count).map(|number| Tag(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ number << 7))
    }

    #[test]
    fn stamps_grow_and_tell_the_time() {
        let bumps = Bumps::default();
        let mut last = bumps.now();
        for now_ms in [5, 5, 4, 6, 1_700_000_000_000] {
            let stamp = bumps.next(now_ms);
            assert!(stamp > last && stamp == bumps.now() && stamp_ms(stamp) >= now_ms);
            last = stamp;
        }
        assert_eq!(stamp_ms(last), 1_700_000_000_000);
    }

    #[test]
    fn a_bump_counts_for_what_was_born_before_it() {
        let bumps = Bumps::default();
        let [one, other] = [Tag(0x1234_5678_9abc_def0), Tag(0x0fed_cba9_8765_4321)];
        let before = bumps.now();
        assert_eq!(bumps.newest_since(before, [one].into_iter()), None);
        bumps.bump(one, 10, 0, drop);
        let between = bumps.now();
        bumps.bump(one, 20, 0, drop);
        assert_eq!(bumps.newest_since(before, [other].into_iter()), None);
        assert_eq!(bumps.newest_since(before, [other, one].into_iter()).map(stamp_ms), Some(20));
        assert_eq!(bumps.newest_since(between, [one].into_iter()).map(stamp_ms), Some(20));
        assert_eq!(bumps.newest_since(bumps.now(), [one].into_iter()), None);
    }

    /// A full table is never wrong to the other side: every tag that was bumped is found, and of others as many as the formula
    /// says.
    #[test]
    fn a_crowded_table_forgets_no_bump_and_has_few_false_ones() {
        let bumps = Bumps::default();
        bumps.table_bytes_max.store(64 << 10, Relaxed);
        let birth = bumps.now();
        tags(800).for_each(|tag| bumps.bump(tag, 1, 0, drop));
        assert!(tags(800).all(|tag| bumps.newest_since(birth, [tag].into_iter()).is_some()));
        let false_ones = tags(100_800).skip(800).filter(|&tag| bumps.newest_since(birth, [tag].into_iter()).is_some());
        let ratio = false_ones.count() as f64 / 100_000.0;
        // (1 − e^(−4 · 800 / 8192))⁴ = 1.1 %.
        assert!((0.005..0.02).contains(&ratio), "{ratio}");
        assert_eq!(bumps.stats().slots, 8192);
        assert!(bumps.stats().slots_used <= 3200);
    }

    #[test]
    fn a_small_limit_gets_a_small_table() {
        let bumps = Bumps::default();
        bumps.bump(Tag(1), 1, 1 << 20, |bytes| assert_eq!(bytes, 32 << 10));
        assert_eq!(bumps.stats().table_bytes, 32 << 10);
    }
}
