//! A shard: one part of the keyspace as a plain struct for one thread at a time.
//!
//! It knows what an entry is made of, what it costs and how many there are. What a write means beyond that (leases that end,
//! absences that are over) is decided in [`crate::slot`] and [`crate::claims`].

use crate::bumps::{Bumps, Tags};
use crate::entry::{Fields, Key};
use crate::index::Index;
use crate::keyspace::{Access, Entry, Lookup};
use crate::lease_table::LeaseTable;
use crate::log::{Backing, Charge, EntryView, Garbage, Layout, Location, Log, Plan, Stored};
use crate::policy::duel::Objective;
use crate::policy::window::WindowControl;
use crate::queues::{Newcomer, Queues};
use crate::settings::{DATABASES_MAX, Db, EvictionPolicy, LeaseSettings};
use crate::stats::{Count, Reads, ShardStats};
use crate::table::{Place, Tables, hash_key};
use crate::watch::Watch;
pub(crate) use absence::{Absence, AbsenceKind};
use ahash::RandomState;
pub(crate) use bumped::PrefixBump;
use bumped::PrefixBumps;
use std::sync::Arc;
use watching::{sized, sized_entry};

/// What an entry has in the index to itself, in bytes: a location and a tag. Places without an entry are nobody's.
pub(crate) const INDEX_BYTES_EACH: usize = 5;

/// Low bits of the first version after a boot. Versions start at `boot_unix_ms << VERSION_SHIFT`, and each shard counts its
/// own: shard s of n gives start + s, start + s + n, start + s + 2n, … A later boot starts above all of them as long as a
/// shard gives fewer than 2^22 / n versions per ms of its life: 65 million a second at 64 shards, 1 million at 4096, where a
/// shard can do neither. `boot_unix_ms` stays below 2^41 until 2039, so versions fit in 63 bits until then and in 64 until
/// 2109.
const VERSION_SHIFT: u32 = 22;

/// One part of the keyspace. Its lock lies before it. What a read writes comes first, so that it is on the line of memory that
/// the lock brings along; what a read only looks at is on lines that stay shared between the cores' caches.
#[repr(C)]
pub(crate) struct Shard {
    pub(crate) reads: Reads,
    pub(crate) queues: Queues,
    pub(crate) index: Index,
    pub(crate) log: Log,
    hash: RandomState,
    /// Negative entries and tombstones.
    pub(crate) absences: Tables,
    pub(crate) leases: LeaseTable,
    pub(crate) stats: ShardStats,
    pub(crate) watch: Watch,
    /// Of the node.
    pub(crate) bumps: Arc<Bumps>,
    prefix_bumps: PrefixBumps,
    /// Bytes of the blocks of absences.
    absence_bytes: usize,
    /// What the node's counter knows of this shard.
    published_bytes: usize,
    /// Dead bytes when a search for a segment to clean up last found none worth it; 0 = the last one did.
    dead_bytes_in_vain: usize,
    /// Whether who needed memory has found nothing here, and nothing was changed since.
    pub(crate) is_barren: bool,
    pub(crate) versions: Versions,
    counts: [Count; DATABASES_MAX],
    pub(crate) lease_settings: LeaseSettings,
    pub(crate) absence_bytes_max: usize,
    /// Memory that entries may not take, because absences may: a scan of absent keys pushes out no entry. 0 without a limit.
    pub(crate) absence_reserve_bytes: usize,
    /// Where the cycle of expiry goes on: a segment, and a place among the absences.
    pub(crate) expiry_segment: u32,
    pub(crate) absence_expiry_place: Place,
}

/// What is stored with a value.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contents<'t> {
    pub(crate) fields: Fields,
    pub(crate) tags: Tags<'t>,
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

    /// The newest that was given.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

impl Shard {
    pub(crate) fn new(
        number: ShardNumber,
        boot_unix_ms: u64,
        lease_settings: LeaseSettings,
        hash: &RandomState,
        backing: &Backing,
        policy: EvictionPolicy,
        window: &Arc<WindowControl>,
    ) -> Self {
        Self {
            reads: Reads::default(),
            index: Index::new(),
            log: Log::new(backing.clone()),
            queues: Queues::new(policy, u64::MAX, boot_unix_ms, Arc::clone(window)),
            hash: hash.clone(),
            absences: Tables::new(hash.clone()),
            leases: LeaseTable::new(lease_settings, number.count, hash.clone()),
            stats: ShardStats::default(),
            watch: Watch::new(number.count, number.index as u64, boot_unix_ms, &Arc::default()),
            bumps: Arc::default(),
            prefix_bumps: PrefixBumps::new(boot_unix_ms),
            absence_bytes: 0,
            published_bytes: 0,
            dead_bytes_in_vain: 0,
            is_barren: false,
            versions: Versions {
                last: (boot_unix_ms << VERSION_SHIFT) + number.index as u64,
                stride: number.count as u64,
            },
            counts: [Count::default(); DATABASES_MAX],
            lease_settings,
            absence_bytes_max: usize::MAX,
            absence_reserve_bytes: 0,
            expiry_segment: 0,
            absence_expiry_place: Place::default(),
        }
    }

    /// See [`Versions::next`].
    pub(crate) fn next_version(&mut self) -> u64 {
        self.versions.next()
    }

    /// The hash of a key.
    pub(crate) fn hash(&self, db: Db, key: &[u8]) -> u64 {
        hash_key(&self.hash, db, key)
    }

    /// The entry of a key, whatever its state, even if a bump covers it that nobody has dealt with.
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<Location> {
        self.find_view(key).map(|(location, _)| location)
    }

    #[inline(always)]
    pub(crate) fn find_view(&self, key: &Key<'_>) -> Option<(Location, EntryView<'_>)> {
        self.index.find(key.hash, |location| {
            let view = self.log.view(location);
            view.is(key.db, key.bytes).then_some((location, view))
        })
    }

    /// The external version that a write with a version must exceed: of the entry, fresh or stale, or of an absence.
    pub(crate) fn version_floor(&self, key: &Key<'_>, now_ms: u64) -> Option<u64> {
        let entry = self.find(key).map(|location| self.entry(location)).filter(|entry| !entry.is_gone(now_ms));
        let of_absence = self.peek_absence(key, now_ms).and_then(|absence| absence.version_floor);
        entry.and_then(|entry| entry.external_version()).max(of_absence)
    }

    /// The entry at a location that [`Shard::find`], [`Shard::find_live`] or [`Shard::store`] just gave.
    #[inline]
    pub(crate) fn entry(&self, location: Location) -> EntryView<'_> {
        self.log.view(location)
    }

    /// The entry as callers of the keyspace see it.
    #[inline]
    pub(crate) fn view(&self, location: Location, now_ms: u64) -> Entry<'_> {
        let view = self.log.view(location);
        let mut entry = view.entry();
        entry.idle_ms = self.queues.idle_ms(view.control(), self.log.opened_at_ms(location), now_ms);
        entry.memory_bytes = self.memory_bytes(location);
        entry.frequency = self.queues.has_window().then(|| self.queues.frequency(view.control()));
        entry
    }

    /// What an entry has in the log and in the index.
    pub(crate) fn memory_bytes(&self, location: Location) -> usize {
        self.log.weight(&self.log.view(location)) + INDEX_BYTES_EACH
    }

    /// The entry of a key, fresh or stale; one that is gone by time is removed, and one that a bump covers invalidated.
    pub(crate) fn find_live(&mut self, key: &Key<'_>, now_ms: u64) -> Option<Location> {
        let (location, view) = self.find_view(key)?;
        let is_gone = view.is_gone(now_ms);
        if let Some(covered) = self.bump_of(&view) {
            return self.settle_found(key, covered, now_ms);
        }
        if is_gone {
            self.expire(location, key.hash);
            return None;
        }
        Some(location)
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
        let Some((location, view)) = self.find_view(key) else {
            if counts {
                self.count_miss(key, now_ms);
            }
            return None;
        };
        if let Some(covered) = self.bump_of(&view) {
            // It is stale at best.
            self.settle_found(key, covered, now_ms);
            if counts {
                self.count_miss(key, now_ms);
            }
            return None;
        }
        let entry = view.entry();
        if entry.expire_at_ms.is_none_or(|expire_at_ms| now_ms < expire_at_ms) {
            if !counts {
                return Some(read(self.view(location, now_ms)));
            }
            let control = view.control();
            let result = read(entry);
            self.touch_known(location, key.hash, control, now_ms);
            self.count_hit(key, location, now_ms);
            return Some(result);
        }
        let is_gone = view.is_gone(now_ms);
        if counts {
            self.count_miss(key, now_ms);
        }
        if is_gone {
            self.expire(location, key.hash);
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
        if let Some(location) = self.find_live(key, now_ms) {
            let view = self.log.view(location);
            let is_fresh = view.is_fresh(now_ms);
            let result = if counts { read(view.entry()) } else { read(self.view(location, now_ms)) };
            if counts {
                let control = view.control();
                self.touch_known(location, key.hash, control, now_ms);
                match is_fresh {
                    true => self.count_hit(key, location, now_ms),
                    false => self.count_miss(key, now_ms),
                }
            }
            return if is_fresh { Lookup::Fresh(result) } else { Lookup::Stale(result) };
        }
        if counts {
            self.count_miss(key, now_ms);
        }
        match self.absence(key, now_ms) {
            Some(Absence { kind: AbsenceKind::Negative, until_ms, version, .. }) => {
                self.stats.negative_hits += u64::from(counts);
                Lookup::Negative { ttl_ms: until_ms - now_ms, version }
            }
            _ => Lookup::Absent,
        }
    }

    /// Fetches the entry that probably has this hash; its bucket should be at hand.
    #[inline]
    pub(crate) fn prefetch_entry(&self, hash: u64) {
        if let Some(location) = self.index.guess(hash) {
            self.log.prefetch(location);
        }
    }

    /// Counts as use of the entry.
    #[inline]
    pub(crate) fn touch(&mut self, location: Location, hash: u64, now_ms: u64) {
        let control = self.log.view(location).control();
        self.touch_known(location, hash, control, now_ms);
    }

    /// As [`Shard::touch`] for who has just looked at the entry.
    #[inline]
    pub(crate) fn touch_known(&mut self, location: Location, hash: u64, before: u8, now_ms: u64) {
        let log = &self.log;
        let weight = || log.weight(&log.view(location));
        let control = self.queues.touch(before, hash, weight, self.index.len(), now_ms);
        // Written only if it changes, so that hot entries stay shared between the cores' caches.
        if control != before {
            self.log.set_control(location, control);
        }
    }

    /// Stores value, fields and tags for a key, at `location` if the key has an entry; it has no version until somebody asks
    /// for it. Leases and absences are the caller's affair.
    pub(crate) fn store(
        &mut self,
        location: Option<Location>,
        key: &Key<'_>,
        value: &[u8],
        contents: Contents<'_>,
        now_ms: u64,
    ) -> Location {
        let Contents { fields, tags } = contents;
        self.stats.stored += 1;
        if let Some(location) = location {
            self.touch(location, key.hash, now_ms);
            // Nothing but the value: the shortest way of all writes.
            let is_plain = tags.tags.is_empty() && !self.queues.has_prefix_bumps && fields == Fields::default();
            if is_plain && self.log.try_replace_plain(location, value) {
                return location;
            }
        }
        let fields = Fields { written: self.written_now(key), ..fields };
        let layout = Layout {
            db: key.db,
            key_len: key.bytes.len(),
            value_len: value.len(),
            stored: Stored::Here,
            version: None,
            fields,
            tags,
            room: 0,
        };
        let location = self.put(location, key, layout, value, now_ms);
        self.note_stored(key, location);
        location
    }

    /// The internal version of an entry. One that nobody has asked for yet is given now, and the entry may be elsewhere then.
    pub(crate) fn observe_version(&mut self, location: Location, key: &Key<'_>, now_ms: u64) -> (Location, u64) {
        if let Some(version) = self.entry(location).version() {
            return (location, version);
        }
        let version = self.next_version();
        let tags = self.entry(location).tag_set();
        let layout = Layout { version: Some(version), ..self.entry(location).layout(&tags) };
        (self.lay_out(location, key, layout, now_ms), version)
    }

    /// The version that clients are shown: the external one if there is one.
    pub(crate) fn shown_version(&mut self, location: Location, key: &Key<'_>, now_ms: u64) -> (Location, u64) {
        match self.entry(location).external_version() {
            Some(version) => (location, version),
            None => self.observe_version(location, key, now_ms),
        }
    }

    /// Changes the fields of an entry, but not its value and version.
    pub(crate) fn set_fields(
        &mut self,
        location: Location,
        key: &Key<'_>,
        change: impl FnOnce(Fields) -> Fields,
        now_ms: u64,
    ) -> Location {
        // It may live shorter.
        self.recall(key);
        let tags = self.entry(location).tag_set();
        let before = self.entry(location).layout(&tags);
        self.lay_out(location, key, Layout { fields: change(before.fields), ..before }, now_ms)
    }

    /// Lengthens a value with zero bytes to at least `len`, for a write in place: the entry has neither of its versions after,
    /// but its tags, because a part of it is what it was.
    pub(crate) fn lengthen(&mut self, location: Location, key: &Key<'_>, len: usize, now_ms: u64) -> Location {
        self.touch(location, key.hash, now_ms);
        let tags = self.entry(location).tag_set();
        let before = self.entry(location).layout(&tags);
        let fields = Fields { external_version: None, ..before.fields };
        let layout = Layout { version: None, fields, value_len: len.max(before.value_len), ..before };
        let (len, len_before) = (layout.value_len, before.value_len);
        if len == len_before {
            return self.lay_out(location, key, layout, now_ms);
        }
        if let Stored::Run(number) = layout.stored {
            self.log.lengthen_run(location, number, layout.key_len + len_before, layout.key_len + len);
            return self.lay_out(location, key, layout, now_ms);
        }
        if let Some(room) = (before.room + len_before).checked_sub(len)
            && self.log.try_rewrite_header(location, &Layout { room, ..layout }.plan())
        {
            self.log.value_mut(location)[len_before..].fill(0);
            self.note_length(key, len_before, len);
            return location;
        }
        let value = self.entry(location).value().to_vec();
        // Room to grow, so that many small appends copy the value a few times only.
        let room = if len_before == 0 { 0 } else { (len / 4).min(self.log.room_max(&layout)) };
        let layout = match room < len / 16 && len_before > 0 {
            true => {
                let run = self.log.new_run(key.bytes, &value, len);
                Layout { room: 0, stored: Stored::Run(run), ..layout }
            }
            false => Layout { room, ..layout },
        };
        self.put(Some(location), key, layout, &value, now_ms)
    }

    /// Writes an entry of this layout, over the one at `location` if there is one. A `value` shorter than the layout says has
    /// zeros after it.
    fn put(
        &mut self,
        location: Option<Location>,
        key: &Key<'_>,
        layout: Layout<'_>,
        value: &[u8],
        now_ms: u64,
    ) -> Location {
        let mut plan = layout.plan();
        if self.log.wants_run(&plan) {
            let run = self.log.new_run(key.bytes, value, layout.value_len);
            plan = Layout { room: 0, stored: Stored::Run(run), ..layout }.plan();
        }
        let newcomer = self.newcomer(key, &plan, now_ms);
        let Some(location) = location else {
            let (control, list) = self.queues.store(&newcomer, &mut self.log);
            let location = self.log.add(list, control, &plan, key.bytes, value, now_ms);
            let (log, hash) = (&self.log, &self.hash);
            self.index.insert(key.hash, location, |location| hash_at(log, hash, location));
            let count = &mut self.counts[usize::from(key.db.0)];
            count.entries += 1;
            count.with_ttl += usize::from(layout.fields.expire_at_ms.is_some());
            self.watch.sizes.add(&sized(key), layout.value_len);
            return location;
        };
        let before = self.log.view(location);
        let (control, expired_before, len_before) =
            (before.control(), before.expire_at_ms().is_some(), before.value_len());
        self.note_length(key, len_before, layout.value_len);
        let list_before = self.log.list_of(location);
        let list = self.queues.list_again(list_before, &newcomer, &self.log);
        self.count_ttl(key.db, expired_before, layout.fields.expire_at_ms.is_some());
        if list == list_before && self.log.try_overwrite(location, control, &plan, key.bytes, value) {
            return location;
        }
        let fresh = self.log.add(list, control, &plan, key.bytes, value, now_ms);
        self.log.remove(location);
        self.index.relocate(key.hash, location, fresh);
        fresh
    }

    /// Gives an entry another header; key and value stay as they are, and so does its run.
    fn lay_out(&mut self, location: Location, key: &Key<'_>, layout: Layout<'_>, now_ms: u64) -> Location {
        let before = self.log.view(location);
        let (control, expired_before, len_before) =
            (before.control(), before.expire_at_ms().is_some(), before.value_len());
        self.note_length(key, len_before, layout.value_len);
        let plan = layout.plan();
        let newcomer = self.newcomer(key, &plan, now_ms);
        let list_before = self.log.list_of(location);
        let list = self.queues.list_again(list_before, &newcomer, &self.log);
        self.count_ttl(key.db, expired_before, layout.fields.expire_at_ms.is_some());
        if list == list_before && self.log.try_rewrite_header(location, &plan) {
            return location;
        }
        let fresh = match layout.stored {
            Stored::Run(_) => {
                let fresh = self.log.add(list, control, &plan, key.bytes, &[], now_ms);
                self.log.remove_without_run(location);
                fresh
            }
            Stored::Here => {
                let value = self.log.view(location).value().to_vec();
                let fresh = self.log.add(list, control, &plan, key.bytes, &value, now_ms);
                self.log.remove(location);
                fresh
            }
        };
        self.index.relocate(key.hash, location, fresh);
        fresh
    }

    fn newcomer(&self, key: &Key<'_>, plan: &Plan<'_>, now_ms: u64) -> Newcomer {
        Newcomer {
            hash: key.hash,
            weight: self.log.weight_of(plan),
            expire_at_ms: plan.layout().fields.expire_at_ms,
            entries: self.index.len(),
            now_ms,
        }
    }

    fn count_ttl(&mut self, db: Db, expired_before: bool, expires: bool) {
        let with_ttl = &mut self.counts[usize::from(db.0)].with_ttl;
        *with_ttl = *with_ttl + usize::from(expires) - usize::from(expired_before);
    }

    /// The value of the entry at a location, for writing in place.
    pub(crate) fn value_mut(&mut self, location: Location) -> &mut [u8] {
        self.log.value_mut(location)
    }

    /// Removes the entry at a location.
    pub(crate) fn remove(&mut self, location: Location, hash: u64) {
        let view = self.log.view(location);
        let count = &mut self.counts[usize::from(view.db().0)];
        count.entries -= 1;
        count.with_ttl -= usize::from(view.expire_at_ms().is_some());
        self.watch.sizes.remove(&sized_entry(&view, hash), view.value_len());
        self.index.remove(hash, location);
        self.log.remove(location);
    }

    /// Removes an entry whose time is up, and counts it.
    pub(crate) fn expire(&mut self, location: Location, hash: u64) {
        self.stats.expired += 1;
        self.remove(location, hash);
    }

    /// The hash of the key of the entry at a location.
    pub(crate) fn hash_of(&self, location: Location) -> u64 {
        hash_at(&self.log, &self.hash, location)
    }

    /// Changes what is evicted. Takes as long however many entries there are.
    pub(crate) fn set_policy(&mut self, policy: EvictionPolicy, objective: Objective) {
        self.stats.close_policy(self.queues.policy, self.reads);
        self.queues.set_policy(policy, objective, &mut self.log);
    }

    /// Takes all entries and absences out, for the caller to drop when no lock is held.
    pub(crate) fn take_all(&mut self) -> (Log, Index, Tables) {
        self.absence_bytes = 0;
        self.counts = [Count::default(); DATABASES_MAX];
        self.watch.sizes.clear();
        self.dead_bytes_in_vain = 0;
        (self.log.take(), std::mem::replace(&mut self.index, Index::new()), self.absences.take())
    }

    /// Takes what is to be freed when no lock is held.
    #[inline]
    pub(crate) fn take_garbage(&mut self) -> Option<Garbage> {
        self.log.take_garbage()
    }

    /// Checks all counts against what is there; for tests.
    pub(crate) fn check(&self) {
        self.log.check();
        self.leases.check_counts();
        assert_eq!(self.queues.has_prefix_bumps, self.prefix_bumps_pending() > 0);
        let mut counts = [Count::default(); DATABASES_MAX];
        let mut position = 0;
        let mut found = 0;
        loop {
            position = self.index.step(position, |location| {
                let view = self.log.view(location);
                assert!(!view.is_dead());
                assert!(self.index.has(self.hash_of(location), location));
                let count = &mut counts[usize::from(view.db().0)];
                count.entries += 1;
                count.with_ttl += usize::from(view.expire_at_ms().is_some());
                found += self.log.weight(&view);
            });
            if position == 0 {
                break;
            }
        }
        for (count, expected) in counts.iter().zip(&self.counts) {
            assert_eq!((count.entries, count.with_ttl), (expected.entries, expected.with_ttl));
        }
        assert_eq!(counts.iter().map(|count| count.entries).sum::<usize>(), self.index.len());
        assert_eq!(found, self.log.live_bytes(), "every live entry is in the index");
    }

    /// Bytes of all segments, runs, tables, absences and leases of the shard.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        if self.log.charge() == Charge::Value {
            return self.log.weight_of_all();
        }
        self.log.bytes() + self.index.bytes() + self.queues.bytes() + self.absence_bytes() + self.leases.memory_bytes()
    }

    /// Bytes of what is not entries: index, tables, sketch.
    pub(crate) fn table_bytes(&self) -> usize {
        self.index.bytes() + self.queues.bytes() + self.log.table_bytes() + self.absences.bytes()
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
        self.held_bytes() as i64 - self.published_bytes as i64
    }

    pub(crate) fn note_published(&mut self) {
        self.published_bytes = self.held_bytes();
    }
}

/// The hash of the key of the entry at a location.
fn hash_of(state: &RandomState, entry: &EntryView<'_>) -> u64 {
    hash_key(state, entry.db(), entry.key())
}

fn hash_at(log: &Log, state: &RandomState, location: Location) -> u64 {
    hash_of(state, &log.view(location))
}

mod absence;
mod bumped;
mod cleaning;
#[cfg(test)]
mod tests;
mod watching;
