//! Entries of a shard that a bump of a tag or a prefix covers: how that is found out, and what it means for them.
//!
//! An entry is dealt with when somebody comes to it: it is softly invalidated as of the time of the bump, and the tokens that
//! were issued for its key before are softened, under the same lock. Whoever came to it then finds it as after an `INVAL`.
//!
//! Entries know no birth unless they are tagged. A prefix that is bumped is *pending* in each shard, and while it is, what is
//! written under it notes the stamp of the write. So of the entries under a pending prefix
//!
//! ```text
//!     no stamp               were written before the bump: covered
//!     stamp below the bump's were written before it, under another pending prefix: covered
//!     any other              were written after it
//! ```
//!
//! wherever they are moved meanwhile. A sweep of the index in slices deals with all that are covered, then with negative entries,
//! then with leases; after that the prefix is not pending any more. Reads look at the list only while there is one.
//!
//! Tagged entries that nobody comes to keep their memory until they are evicted, or until a sweep finds them, which goes round once in
//! a while if tags were bumped since the last.

use super::{Absence, AbsenceKind, Shard};
use crate::bumps::{TagSet, stamp_ms};
use crate::entry::{Fields, Key};
use crate::log::{EntryView, Layout, Location};
use crate::settings::Db;
use std::sync::Arc;

/// Prefixes that may be pending in a shard. Each read that finds an entry compares with all of them.
pub(crate) const PREFIX_BUMPS_MAX: usize = 16;

/// Entries that a sweep looks at under one lock.
const SWEPT_PER_LOCK: usize = 256;

/// A sweep for tags alone begins so long after the one before, in ms.
const TAG_SWEEP_EVERY_MS: u64 = 300_000;

/// A bump of a prefix that is pending in a shard.
#[derive(Clone, Debug)]
pub(crate) struct PrefixBump {
    db: Db,
    prefix: Arc<[u8]>,
    stamp: u64,
    /// The newest version that the shard had given: absences up to this one are older.
    version: u64,
    /// Whether the sweep under way began after it.
    is_swept: bool,
}

impl PrefixBump {
    pub(crate) fn new(db: Db, prefix: Arc<[u8]>, stamp: u64) -> Self {
        Self { db, prefix, stamp, version: 0, is_swept: false }
    }

    fn covers(&self, db: Db, key: &[u8]) -> bool {
        self.db == db && key.starts_with(&self.prefix)
    }
}

/// What is pending in a shard.
#[derive(Debug)]
pub(crate) struct PrefixBumps {
    pending: Vec<PrefixBump>,
    sweep: Sweep,
    /// Of the last sweep: when it began, and the newest bump then.
    swept_at_ms: u64,
    swept_stamp: u64,
}

impl PrefixBumps {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { pending: Vec::new(), sweep: Sweep::Idle, swept_at_ms: now_ms, swept_stamp: 0 }
    }
}

/// How far a sweep has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    Idle,
    /// Next is this position of the index.
    Entries(u64),
    /// Next is this table.
    Absences(usize),
}

/// What covers an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    /// Of the newest bump.
    stamp: u64,
    by_prefix: bool,
}

impl Shard {
    /// Whether the entry has to be looked at more closely before anybody sees it.
    #[inline(always)]
    pub(super) fn may_be_bumped(&self, view: &EntryView<'_>) -> bool {
        view.is_tagged() || self.queues.has_prefix_bumps
    }

    /// The newest bump that makes the entry stale, if it is not dealt with yet.
    #[inline]
    pub(crate) fn bump_of(&self, view: &EntryView<'_>) -> Option<Covered> {
        if self.may_be_bumped(view) { self.bump_looked_up(view) } else { None }
    }

    /// Apart from who reads: most entries have no tags, and most of the time no prefix is pending.
    #[cold]
    #[inline(never)]
    fn bump_looked_up(&self, view: &EntryView<'_>) -> Option<Covered> {
        let of_tags = match view.tags_birth() {
            Some(birth) => self.bumps.newest_since(birth, view.tags()),
            None => None,
        };
        let written = view.written();
        let is_news = |stamp: u64| written.is_none_or(|written| written < stamp);
        let of_prefix = self.prefix_bump(view.db(), view.key()).filter(|&stamp| is_news(stamp));
        let stamp = of_tags.max(of_prefix)?;
        Some(Covered { stamp, by_prefix: of_prefix.is_some() })
    }

    /// Whether nobody may see the entry any more: its time is up, or would be if the bump that covers it had been dealt with.
    pub(crate) fn is_over(&self, view: &EntryView<'_>, now_ms: u64) -> bool {
        view.is_gone(now_ms)
            || self.bump_of(view).is_some_and(|covered| self.softened(view.fields(), covered, now_ms).is_gone(now_ms))
    }

    /// Deals with the entry of a key that a bump covers. Where it is now, if it is still there.
    #[cold]
    #[inline(never)]
    pub(super) fn settle_found(&mut self, key: &Key<'_>, covered: Covered, now_ms: u64) -> Option<Location> {
        // It is written anew, and reads may be all that happens.
        if self.is_untidy() {
            self.clean_up(now_ms);
        }
        let location = self.find(key)?;
        self.settle_bumped(location, key, covered, now_ms)
    }

    fn settle_bumped(&mut self, location: Location, key: &Key<'_>, covered: Covered, now_ms: u64) -> Option<Location> {
        let Covered { stamp, by_prefix } = covered;
        *if by_prefix { &mut self.stats.bumped_by_prefix } else { &mut self.stats.bumped_by_tag } += 1;
        self.leases.soften_before(key.db, key.bytes, stamp);
        let view = self.entry(location);
        let fields = self.softened(view.fields(), covered, now_ms);
        if fields.is_gone(now_ms) {
            self.expire(location, key.hash);
            return None;
        }
        let mut tags = view.tag_set();
        tags.birth = tags.birth.max(stamp);
        let layout = Layout { fields, ..self.entry(location).layout(&tags) };
        Some(self.lay_out(location, key, layout, now_ms))
    }

    /// The fields of an entry after the soft invalidation that a bump is. It lives no longer than it would have: its own time may
    /// be up before anybody deals with the bump, and when that is must not matter.
    fn softened(&self, before: Fields, covered: Covered, now_ms: u64) -> Fields {
        // The bump may come from a thread whose time is ahead.
        let since_ms = stamp_ms(covered.stamp).min(now_ms);
        let written = if covered.by_prefix { Some(covered.stamp) } else { before.written };
        let after = before.invalidated(since_ms, None, self.lease_settings.invalidated_stale_ms);
        let left_ms = match (before.gone_at_ms(), after.expire_at_ms) {
            (Some(gone_at_ms), Some(expire_at_ms)) => gone_at_ms.saturating_sub(expire_at_ms),
            _ => u64::MAX,
        };
        Fields { written, stale_for_ms: after.stale_for_ms.min(left_ms), ..after }
    }

    /// Gives the entry of a key tags; their bumps since their birth count.
    pub(crate) fn set_tags(&mut self, location: Location, key: &Key<'_>, tags: &TagSet, now_ms: u64) -> Location {
        let layout = self.entry(location).layout(tags);
        self.lay_out(location, key, layout, now_ms)
    }

    /// The stamp that an entry must keep if it is written now: as long as a bump of a prefix of its key is pending.
    #[inline]
    pub(super) fn written_now(&self, key: &Key<'_>) -> Option<u64> {
        if !self.queues.has_prefix_bumps {
            return None;
        }
        // Not the clock's stamp: that may be of a bump which has not come to this shard yet, and which covers what is written now.
        self.prefix_bump(key.db, key.bytes)
    }

    /// Voids the tokens of a key that were issued before a pending bump of a prefix of it. To be called before a token is judged.
    #[inline]
    pub(crate) fn settle_leases(&mut self, key: &Key<'_>) {
        if self.queues.has_prefix_bumps
            && let Some(stamp) = self.prefix_bump(key.db, key.bytes)
        {
            self.leases.soften_before(key.db, key.bytes, stamp);
        }
    }

    /// Whether a pending bump came after a negative entry with this version.
    pub(super) fn is_negative_bumped(&self, db: Db, key: &[u8], version: u64) -> bool {
        self.queues.has_prefix_bumps
            && self.prefix_bumps.pending.iter().any(|bump| version <= bump.version && bump.covers(db, key))
    }

    /// The newest pending bump of a prefix of the key.
    fn prefix_bump(&self, db: Db, key: &[u8]) -> Option<u64> {
        let covering = self.prefix_bumps.pending.iter().filter(|bump| bump.covers(db, key));
        covering.map(|bump| bump.stamp).max()
    }

    /// Makes a bump pending, in place of those that it includes. `false` if there are too many: a sweep makes room.
    pub(crate) fn add_prefix_bump(&mut self, bump: PrefixBump) -> bool {
        let pending = &mut self.prefix_bumps.pending;
        pending.retain(|before| !(bump.covers(before.db, &before.prefix) && before.stamp <= bump.stamp));
        if pending.len() == PREFIX_BUMPS_MAX {
            return false;
        }
        pending.push(PrefixBump { version: self.versions.last(), ..bump });
        self.queues.has_prefix_bumps = true;
        true
    }

    /// Prefixes that are pending.
    pub(crate) fn prefix_bumps_pending(&self) -> usize {
        self.prefix_bumps.pending.len()
    }

    /// Goes on with dealing with what bumps cover, for as many entries as one lock may. How many were removed; `None` if there is
    /// nothing to do.
    pub(crate) fn sweep_bumps(&mut self, now_ms: u64, steps_left: &mut usize) -> Option<usize> {
        if self.prefix_bumps.sweep == Sweep::Idle && !self.queues.has_prefix_bumps && !self.is_tag_sweep_due(now_ms) {
            return None;
        }
        let entries_before = self.index.len();
        self.prefix_bumps.sweep = match self.prefix_bumps.sweep {
            Sweep::Idle => {
                self.prefix_bumps.pending.iter_mut().for_each(|bump| bump.is_swept = true);
                (self.prefix_bumps.swept_at_ms, self.prefix_bumps.swept_stamp) = (now_ms, self.bumps.now());
                Sweep::Entries(0)
            }
            Sweep::Entries(position) => match self.sweep_entries(position, now_ms, steps_left) {
                0 => Sweep::Absences(0),
                position => Sweep::Entries(position),
            },
            // Splits in between move blocks to higher tables only.
            Sweep::Absences(table) if table < self.absences.count() => {
                self.sweep_absences(table, steps_left);
                Sweep::Absences(table + 1)
            }
            Sweep::Absences(_) => {
                self.forget_swept();
                Sweep::Idle
            }
        };
        Some(entries_before - self.index.len())
    }

    fn is_tag_sweep_due(&self, now_ms: u64) -> bool {
        let PrefixBumps { swept_at_ms, swept_stamp, .. } = self.prefix_bumps;
        now_ms >= swept_at_ms.saturating_add(TAG_SWEEP_EVERY_MS) && self.bumps.newest_of_tags() > swept_stamp
    }

    fn sweep_entries(&mut self, mut position: u64, now_ms: u64, steps_left: &mut usize) -> u64 {
        let mut found = Vec::with_capacity(SWEPT_PER_LOCK + SWEPT_PER_LOCK / 4);
        loop {
            position = self.index.step(position, |location| found.push(location));
            if position == 0 || found.len() >= SWEPT_PER_LOCK {
                break;
            }
        }
        *steps_left = steps_left.saturating_sub(found.len().max(1));
        found.iter().for_each(|&location| self.log.prefetch(location));
        for location in found {
            let view = self.entry(location);
            let Some(covered) = self.bump_of(&view) else { continue };
            let (db, bytes) = (view.db(), view.key().to_vec());
            let key = Key { db, bytes: &bytes, hash: self.hash(db, &bytes) };
            self.settle_bumped(location, &key, covered, now_ms);
        }
        position
    }

    fn sweep_absences(&mut self, table: usize, steps_left: &mut usize) {
        *steps_left = steps_left.saturating_sub(self.absences.buckets(table));
        let pending = &self.prefix_bumps.pending;
        let taken = self.absences.extract(table, |block| {
            let is_old = |bump: &PrefixBump| block.version() <= bump.version && bump.covers(block.db(), block.key());
            block.is_negative() && pending.iter().any(is_old)
        });
        self.note_absences_taken(&taken);
        for block in taken {
            // A floor stays, as when a negative entry ends.
            if let Some(until_ms) = block.external_version().and(block.gone_at_ms()) {
                let (kind, version_floor) = (AbsenceKind::Tombstone, block.external_version());
                let version = self.next_version();
                let key = Key { db: block.db(), bytes: block.key(), hash: self.hash(block.db(), block.key()) };
                self.set_absence(&key, Absence { kind, until_ms, version, version_floor });
            }
        }
    }

    /// All that these bumps cover is dealt with but leases.
    fn forget_swept(&mut self) {
        let (swept, pending) =
            std::mem::take(&mut self.prefix_bumps.pending).into_iter().partition(|bump| bump.is_swept);
        self.prefix_bumps.pending = pending;
        self.queues.has_prefix_bumps = !self.prefix_bumps.pending.is_empty();
        let swept: Vec<PrefixBump> = swept;
        for bump in swept {
            self.leases.soften_where(bump.stamp, |db, key| bump.covers(db, key));
        }
    }
}
