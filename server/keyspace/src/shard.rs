//! A shard: one part of the keyspace as a plain struct for one thread at a time.
//!
//! It knows what an entry is made of, what it costs and how many there are. What a write means beyond that (leases that end,
//! absences that are over) is decided in [`crate::slot`] and [`crate::claims`].

use crate::entry::{Block, Fields, Key, PLACE_BYTES};
use crate::eviction::Candidates;
use crate::keyspace::{Access, Entry, Lookup};
use crate::lease_table::LeaseTable;
use crate::settings::{DATABASES_MAX, Db, LeaseSettings};
use crate::table::{Place, Tables};
use ahash::RandomState;

/// Low bits of the first version after a boot. Versions start at `boot_unix_ms << VERSION_SHIFT`, and each shard counts its
/// own: shard s of n gives start + s, start + s + n, start + s + 2n, … A later boot starts above all of them as long as a
/// shard gives fewer than 2^22 / n versions per ms of its life: 65 million a second at 64 shards, 1 million at 4096, where a
/// shard can do neither. `boot_unix_ms` stays below 2^41 until 2039, so versions fit in 63 bits until then and in 64 until
/// 2109.
const VERSION_SHIFT: u32 = 22;

/// One part of the keyspace.
pub(crate) struct Shard {
    pub(crate) entries: Tables,
    /// Negative entries and tombstones.
    pub(crate) absences: Tables,
    pub(crate) leases: LeaseTable,
    pub(crate) stats: ShardStats,
    /// Bytes of the blocks of entries, and of absences.
    entry_bytes: usize,
    absence_bytes: usize,
    /// What the node's counter knows of this shard.
    published_bytes: usize,
    pub(crate) versions: Versions,
    counts: [Count; DATABASES_MAX],
    pub(crate) lease_settings: LeaseSettings,
    pub(crate) absence_bytes_max: usize,
    pub(crate) candidates: Candidates,
    /// Where the cycle of expiry goes on, in entries and in absences.
    pub(crate) expiry_place: Place,
    pub(crate) absence_expiry_place: Place,
}

/// Entries of one database.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) entries: usize,
    pub(crate) with_ttl: usize,
}

/// What happened in a shard since start or the last reset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShardStats {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) expired: u64,
    pub(crate) evicted: u64,
    pub(crate) negative_hits: u64,
    pub(crate) fills_stored: u64,
    pub(crate) fills_stale: u64,
    pub(crate) fills_lost_revoked: u64,
    pub(crate) fills_lost_superseded: u64,
    pub(crate) fills_lost_unknown: u64,
    pub(crate) fills_lost_older: u64,
    pub(crate) fills_lost_no_room: u64,
}

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

/// What numbers a shard: its index and how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardNumber {
    pub(crate) index: usize,
    pub(crate) count: usize,
}

/// The versions that a shard gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Versions {
    last: u64,
    /// Number of shards.
    stride: u64,
}

impl Versions {
    /// A version never given before, on this node or by a boot before. Also names leases.
    pub(crate) fn next(&mut self) -> u64 {
        self.last += self.stride;
        self.last
    }
}

impl Shard {
    pub(crate) fn new(
        number: ShardNumber,
        boot_unix_ms: u64,
        lease_settings: LeaseSettings,
        hash: &RandomState,
    ) -> Self {
        Self {
            entries: Tables::new(hash.clone()),
            absences: Tables::new(hash.clone()),
            leases: LeaseTable::new(lease_settings, number.count, hash.clone()),
            stats: ShardStats::default(),
            entry_bytes: 0,
            absence_bytes: 0,
            published_bytes: 0,
            versions: Versions {
                last: (boot_unix_ms << VERSION_SHIFT) + number.index as u64,
                stride: number.count as u64,
            },
            counts: [Count::default(); DATABASES_MAX],
            lease_settings,
            absence_bytes_max: usize::MAX,
            candidates: Candidates::default(),
            expiry_place: Place::default(),
            absence_expiry_place: Place::default(),
        }
    }

    /// See [`Versions::next`].
    pub(crate) fn next_version(&mut self) -> u64 {
        self.versions.next()
    }

    /// The entry of a key, whatever its state.
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<Place> {
        self.entries.find(key)
    }

    /// The external version that a write with a version must exceed: of the entry, fresh or stale, or of an absence.
    pub(crate) fn version_floor(&self, key: &Key<'_>, now_ms: u64) -> Option<u64> {
        let block = self.find(key).map(|place| self.block(place)).filter(|block| !block.is_gone(now_ms));
        let of_absence = self.peek_absence(key, now_ms).and_then(|absence| absence.version_floor);
        block.and_then(Block::external_version).max(of_absence)
    }

    /// The block at a place that [`Shard::find`], [`Shard::find_live`] or [`Shard::store`] just gave.
    #[inline]
    pub(crate) fn block(&self, place: Place) -> &Block {
        self.entries.at(place).expect("a place stays valid until the next insert or removal")
    }

    /// The entry of a key, fresh or stale; one that is gone by time is removed.
    pub(crate) fn find_live(&mut self, key: &Key<'_>, now_ms: u64) -> Option<Place> {
        let place = self.entries.find(key)?;
        if self.block(place).is_gone(now_ms) {
            self.expire(place);
            return None;
        }
        Some(place)
    }

    /// Reads the fresh entry of a key; counts it unless `access` is quiet.
    #[inline]
    pub(crate) fn read<R>(
        &mut self,
        key: &Key<'_>,
        access: Access,
        now_ms: u64,
        read: impl FnOnce(Entry<'_>) -> R,
    ) -> Option<R> {
        let counts = access == Access::Touch;
        let is_gone = match self.entries.find_mut(key) {
            Some(block) if block.is_fresh(now_ms) => {
                self.stats.hits += u64::from(counts);
                let result = read(block.view(now_ms));
                if counts {
                    block.touch(now_ms);
                }
                return Some(result);
            }
            Some(block) => block.is_gone(now_ms),
            None => false,
        };
        self.stats.misses += u64::from(counts);
        if is_gone {
            self.expire_key(key);
        }
        None
    }

    /// Reads the entry of a key, fresh or stale, or what is remembered of its absence.
    #[inline]
    pub(crate) fn lookup<R>(
        &mut self,
        key: &Key<'_>,
        access: Access,
        now_ms: u64,
        read: impl FnOnce(Entry<'_>) -> R,
    ) -> Lookup<R> {
        let counts = access == Access::Touch;
        let is_gone = match self.entries.find_mut(key) {
            Some(block) if !block.is_gone(now_ms) => {
                let is_fresh = block.is_fresh(now_ms);
                let result = read(block.view(now_ms));
                if counts {
                    block.touch(now_ms);
                    self.count_lookup(is_fresh);
                }
                return if is_fresh { Lookup::Fresh(result) } else { Lookup::Stale(result) };
            }
            found => found.is_some(),
        };
        self.stats.misses += u64::from(counts);
        if is_gone {
            self.expire_key(key);
        }
        match self.absence(key, now_ms) {
            Some(Absence { kind: AbsenceKind::Negative, until_ms, version, .. }) => {
                self.stats.negative_hits += u64::from(counts);
                Lookup::Negative { ttl_ms: until_ms - now_ms, version }
            }
            _ => Lookup::Absent,
        }
    }

    /// Counts as use of the entry.
    pub(crate) fn touch(&mut self, place: Place, now_ms: u64) {
        if let Some(block) = self.entries.at_mut(place) {
            block.touch(now_ms);
        }
    }

    /// Counts a hit or a miss.
    pub(crate) fn count_lookup(&mut self, is_hit: bool) {
        self.stats.hits += u64::from(is_hit);
        self.stats.misses += u64::from(!is_hit);
    }

    #[cold]
    fn expire_key(&mut self, key: &Key<'_>) {
        if let Some(place) = self.entries.find(key) {
            self.expire(place);
        }
    }

    /// Stores value and fields for a key, at `place` if the key has an entry, with a new version. Leases and absences are the
    /// caller's affair.
    pub(crate) fn store(
        &mut self,
        place: Option<Place>,
        key: &Key<'_>,
        value: &[u8],
        fields: &Fields,
        now_ms: u64,
    ) -> Place {
        let version = self.next_version();
        let Some(place) = place else {
            let mut block = Block::new(key.db, key.bytes, value, fields);
            block.set_version(version);
            block.touch(now_ms);
            return self.insert(key, block);
        };
        self.change(place, |block| {
            block.store(value, fields);
            block.set_version(version);
            block.touch(now_ms);
        });
        place
    }

    /// Changes value or fields of the block at `place`; the place stays valid.
    pub(crate) fn change(&mut self, place: Place, change: impl FnOnce(&mut Block)) {
        let block = self.entries.at_mut(place).expect("a place stays valid until the next insert or removal");
        let (bytes_before, expires_before) = (block.capacity(), block.expire_at_ms().is_some());
        change(block);
        self.entry_bytes = self.entry_bytes - bytes_before + block.capacity();
        let expires = block.expire_at_ms().is_some();
        if expires != expires_before {
            let with_ttl = &mut self.counts[usize::from(block.db().0)].with_ttl;
            *with_ttl = if expires { *with_ttl + 1 } else { *with_ttl - 1 };
        }
    }

    /// The value of the entry at `place`, for writing in place.
    pub(crate) fn value_mut(&mut self, place: Place) -> &mut [u8] {
        self.entries.at_mut(place).expect("a place stays valid until the next insert or removal").value_mut()
    }

    /// Adds the block of a key that has none.
    pub(crate) fn insert(&mut self, key: &Key<'_>, block: Block) -> Place {
        self.entry_bytes += block.capacity();
        let count = &mut self.counts[usize::from(key.db.0)];
        count.entries += 1;
        count.with_ttl += usize::from(block.expire_at_ms().is_some());
        self.entries.insert(key.hash, block)
    }

    /// Takes the block at `place` out.
    pub(crate) fn remove(&mut self, place: Place) -> Block {
        let block = self.entries.remove(place).expect("a place stays valid until the next insert or removal");
        self.forget(&block);
        block
    }

    /// Removes an entry whose time is up, and counts it.
    pub(crate) fn expire(&mut self, place: Place) {
        self.stats.expired += 1;
        drop(self.remove(place));
    }

    /// Takes the entries of `db` out of one table, for the caller to drop when no lock is held.
    pub(crate) fn take_entries(&mut self, table: usize, db: Db) -> Vec<Block> {
        let blocks = self.entries.extract(table, |block| block.db() == db);
        for block in &blocks {
            self.forget(block);
        }
        blocks
    }

    /// Takes the absences of `db` out of one table.
    pub(crate) fn take_absences(&mut self, table: usize, db: Db) -> Vec<Block> {
        let blocks = self.absences.extract(table, |block| block.db() == db);
        self.absence_bytes -= blocks.iter().map(Block::capacity).sum::<usize>();
        blocks
    }

    /// Takes all entries and absences out, for the caller to drop when no lock is held.
    pub(crate) fn take_all(&mut self) -> [Tables; 2] {
        self.entry_bytes = 0;
        self.absence_bytes = 0;
        self.counts = [Count::default(); DATABASES_MAX];
        [self.entries.take(), self.absences.take()]
    }

    /// What is remembered of a key that has no entry; an absence whose time is up is removed.
    pub(crate) fn absence(&mut self, key: &Key<'_>, now_ms: u64) -> Option<Absence> {
        if self.absences.is_empty() {
            return None;
        }
        let place = self.absences.find(key)?;
        let absence = absence_of(self.absences.at(place)?, now_ms);
        if absence.is_none() {
            self.remove_absence_at(place);
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
        let mut block = Block::new(key.db, key.bytes, &[], &fields);
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
        match (absence.kind, absence.version_floor) {
            (AbsenceKind::Tombstone, _) => {}
            (AbsenceKind::Negative, None) => self.remove_absence(key),
            (AbsenceKind::Negative, Some(_)) => {
                let version = self.next_version();
                self.set_absence(key, Absence { kind: AbsenceKind::Tombstone, version, ..absence });
            }
        }
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

    /// Bytes of all blocks, tables and leases of the shard.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.entry_bytes + self.entries.bytes() + self.absence_bytes() + self.leases.memory_bytes()
    }

    /// Bytes of absences and their tables.
    #[inline]
    pub(crate) fn absence_bytes(&self) -> usize {
        self.absence_bytes + self.absences.bytes()
    }

    /// Bytes of tables.
    pub(crate) fn table_bytes(&self) -> usize {
        self.entries.bytes() + self.absences.bytes()
    }

    pub(crate) fn count(&self, db: Db) -> Count {
        self.counts[usize::from(db.0)]
    }

    pub(crate) fn count_with_ttl(&self) -> usize {
        self.counts.iter().map(|count| count.with_ttl).sum()
    }

    /// By how much the node's counter is behind.
    #[inline]
    pub(crate) fn unpublished_bytes(&self) -> i64 {
        self.bytes() as i64 - self.published_bytes as i64
    }

    pub(crate) fn note_published(&mut self) {
        self.published_bytes = self.bytes();
    }

    /// Drops absences until one of `bytes` fits the budget; `false` if it never does. Which ones is left to chance and age:
    /// of a few, the one that ends first, and negative entries before tombstones, which keep older fills away.
    fn make_absence_room(&mut self, bytes: usize, random: u64) -> bool {
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

    /// Drops absences until they fit a budget that was lowered.
    pub(crate) fn shrink_absences(&mut self) {
        if self.absence_budget_bytes() > self.absence_bytes_max {
            self.make_absence_room(0, 0);
        }
    }

    /// What absences cost by themselves: tables that an earlier crowd left behind do not count.
    fn absence_budget_bytes(&self) -> usize {
        self.absence_bytes + self.absences.len() * PLACE_BYTES
    }

    fn forget(&mut self, block: &Block) {
        self.entry_bytes -= block.capacity();
        let count = &mut self.counts[usize::from(block.db().0)];
        count.entries -= 1;
        count.with_ttl -= usize::from(block.expire_at_ms().is_some());
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

#[cfg(test)]
mod tests;
