//! Absences: what a shard remembers of keys that have no entry, for a time and within a budget of their own.

use super::Shard;
use crate::entry::{Block, Fields, Key, PLACE_BYTES};
use crate::settings::Db;
use crate::table::Place;

/// What is remembered of a key that has no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absence {
    pub(crate) kind: AbsenceKind,
    pub(crate) until_ms: u64,
    /// Internal version of this absence.
    pub(crate) version: u64,
    /// The external version that a fill with a version must exceed.
    pub(crate) version_floor: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AbsenceKind {
    /// The source is known to have no such key.
    Negative,
    /// The key was deleted or invalidated at a version.
    Tombstone,
}

impl Shard {
    /// Bytes of absences and their tables.
    #[inline]
    pub(crate) fn absence_bytes(&self) -> usize {
        self.absence_bytes + self.absences.bytes()
    }

    /// What is remembered of a key that has no entry; an absence whose time is up is removed.
    pub(crate) fn absence(&mut self, key: &Key<'_>, now_ms: u64) -> Option<Absence> {
        if self.absences.is_empty() {
            return None;
        }
        let place = self.absences.find(key)?;
        let absence = absence_of(self.absences.at(place)?, now_ms);
        match absence {
            None => drop(self.remove_absence_at(place)),
            Some(absence)
                if absence.kind == AbsenceKind::Negative
                    && self.is_negative_bumped(key.db, key.bytes, absence.version) =>
            {
                return self.ended_negative(key, absence);
            }
            Some(_) => {}
        }
        absence
    }

    /// As [`Shard::absence`], without removing.
    pub(crate) fn peek_absence(&self, key: &Key<'_>, now_ms: u64) -> Option<Absence> {
        if self.absences.is_empty() {
            return None;
        }
        let place = self.absences.find(key)?;
        absence_of(self.absences.at(place)?, now_ms)
    }

    /// Remembers an absence, in place of what was remembered of the key; but a version floor that it takes over lasts as long
    /// as it would have. Older absences go if there are too many.
    pub(crate) fn set_absence(&mut self, key: &Key<'_>, absence: Absence) {
        let before = self.absences.find(key).and_then(|place| self.remove_absence_at(place));
        let floor_until_ms = match before.filter(|block| block.external_version() == absence.version_floor) {
            Some(block) if absence.version_floor.is_some() => block.gone_at_ms().unwrap_or(0),
            _ => 0,
        };
        let fields = Fields {
            expire_at_ms: Some(absence.until_ms),
            stale_for_ms: floor_until_ms.saturating_sub(absence.until_ms),
            external_version: absence.version_floor,
            negative: absence.kind == AbsenceKind::Negative,
            ..Fields::default()
        };
        let mut block = Block::new(key.db, key.bytes, &fields);
        block.set_version(absence.version);
        if !self.make_absence_room(block.capacity(), key.hash) {
            return;
        }
        self.absence_bytes += block.capacity();
        self.absences.insert(key.hash, block);
    }

    /// The source may have such a key now. A version floor stays.
    pub(crate) fn end_negative(&mut self, key: &Key<'_>, now_ms: u64) {
        let Some(absence) = self.absence(key, now_ms) else { return };
        if absence.kind == AbsenceKind::Negative {
            self.ended_negative(key, absence);
        }
    }

    /// What is left of a negative entry.
    fn ended_negative(&mut self, key: &Key<'_>, negative: Absence) -> Option<Absence> {
        if negative.version_floor.is_none() {
            self.remove_absence(key);
            return None;
        }
        let tombstone = Absence { kind: AbsenceKind::Tombstone, version: self.next_version(), ..negative };
        self.set_absence(key, tombstone);
        Some(tombstone)
    }

    /// Forgets what is remembered of a key that has no entry.
    pub(crate) fn remove_absence(&mut self, key: &Key<'_>) {
        if !self.absences.is_empty()
            && let Some(place) = self.absences.find(key)
        {
            self.remove_absence_at(place);
        }
    }

    pub(crate) fn remove_absence_at(&mut self, place: Place) -> Option<Block> {
        let block = self.absences.remove(place)?;
        self.absence_bytes -= block.capacity();
        Some(block)
    }

    /// Takes the absences of `db` out of one table.
    pub(crate) fn take_absences(&mut self, table: usize, db: Db) -> Vec<Block> {
        let blocks = self.absences.extract(table, |block| block.db() == db);
        self.note_absences_taken(&blocks);
        blocks
    }

    pub(super) fn note_absences_taken(&mut self, blocks: &[Block]) {
        self.absence_bytes -= blocks.iter().map(Block::capacity).sum::<usize>();
    }

    /// Drops absences until one of `bytes` fits the budget; `false` if it never does. Which ones is left to chance and age:
    /// of a few, the one that ends first, and negative entries before tombstones, which keep older fills away.
    pub(super) fn make_absence_room(&mut self, bytes: usize, random: u64) -> bool {
        const SAMPLES: usize = 5;

        let mut place = self.absences.place_by_chance(random.rotate_left(SAMPLES as u32));
        while self.absence_budget_bytes() + bytes + PLACE_BYTES > self.absence_bytes_max {
            if self.absences.is_empty() {
                return false;
            }
            let mut victim = None;
            let mut samples = 0;
            while samples < SAMPLES.min(self.absences.len()) {
                if let Some(block) = self.absences.at(place) {
                    samples += 1;
                    let rank = (!block.is_negative(), block.expire_at_ms());
                    if victim.is_none_or(|(best, _)| rank < best) {
                        victim = Some((rank, place));
                    }
                }
                place = self.absences.next_place(place);
            }
            if let Some((_, place)) = victim {
                self.remove_absence_at(place);
            }
        }
        true
    }

    /// Keeps memory from entries: what the budget says, and what tables at that size leave free, but no more than half of the
    /// shard's part of the limit. A part of 0 = no limit.
    pub(crate) fn reserve_for_absences(&mut self, part_bytes: usize) {
        let wanted = self.absence_bytes_max.saturating_add(self.absence_bytes_max / 4);
        self.absence_reserve_bytes = wanted.min(part_bytes / 2);
    }

    /// What the limit takes for used: all bytes, and those that are kept for absences.
    #[inline]
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes() + self.absence_reserve_bytes.saturating_sub(self.absence_bytes())
    }

    /// Drops absences until they fit a budget that was lowered.
    pub(crate) fn shrink_absences(&mut self) {
        if self.absence_budget_bytes() > self.absence_bytes_max {
            self.make_absence_room(0, 0);
        }
    }

    /// What absences cost by themselves: tables that an earlier crowd left behind do not count.
    pub(super) fn absence_budget_bytes(&self) -> usize {
        self.absence_bytes + self.absences.len() * PLACE_BYTES
    }
}

/// What a block in the table of absences says; `None` if its time is up. As an entry is stale after its fresh life, a negative
/// entry can be a tombstone after its own.
fn absence_of(block: &Block, now_ms: u64) -> Option<Absence> {
    let is_negative = block.is_negative() && block.is_fresh(now_ms);
    let until_ms = if is_negative { block.expire_at_ms() } else { block.gone_at_ms() }?;
    (now_ms < until_ms).then_some(Absence {
        kind: if is_negative { AbsenceKind::Negative } else { AbsenceKind::Tombstone },
        until_ms,
        version: block.version(),
        version_floor: block.external_version(),
    })
}
