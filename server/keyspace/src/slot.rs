//! Keys under their shards' locks, for reading and writing in one step.
//!
//! Here is what a write means: it gives a new version, revokes the key's leases, absent keys' too, and ends what was
//! remembered of its absence.

use crate::bumps::TagSet;
use crate::entry::{Fields, Key};
use crate::keyspace::{Attributes, Entry, Expiry, Locks};
use crate::lease_table::TokenState;
use crate::log::{EntryView, Location};
use crate::shard::{Contents, Shard};
use crate::turn::{Actor, Turn};
use crate::watch::changes::ChangeKind;

/// One key under its shard's lock, for reading and writing in one step. Keep what runs under it short.
pub struct Slot<'s> {
    shard: &'s mut Shard,
    key: Key<'s>,
    /// Of the entry, fresh or stale; one that was gone by time is removed when the slot is made.
    location: Option<Location>,
    now_ms: u64,
    actor: Actor,
    /// Whether the leases' waiters must be told.
    is_written: &'s mut bool,
}

/// Several keys under all their shards' locks, taken in order.
pub struct Slots<'s> {
    locks: Locks<'s>,
    keys: &'s [Key<'s>],
    at: Acting,
    /// As long as `keys`.
    are_written: Vec<bool>,
}

/// When, and who.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acting {
    pub(crate) now_ms: u64,
    pub(crate) actor: Actor,
}

impl Acting {
    #[inline]
    pub(crate) fn of(turn: &Turn) -> Self {
        Self { now_ms: turn.now_ms, actor: turn.actor }
    }
}

impl<'s> Slot<'s> {
    #[inline]
    pub(crate) fn new(shard: &'s mut Shard, key: Key<'s>, at: Acting, is_written: &'s mut bool) -> Self {
        let Acting { now_ms, actor } = at;
        let location = shard.find_live(&key, now_ms);
        Self { shard, key, location, now_ms, actor, is_written }
    }

    /// The fresh entry, if there is one.
    #[must_use]
    pub fn entry(&self) -> Option<Entry<'_>> {
        self.fresh().map(|location| self.shard.view(location, self.now_ms))
    }

    /// The internal version of the fresh entry: unique on the node, and larger than all that the key had before. An entry has
    /// one from when it is first asked for until it is written.
    pub fn version(&mut self) -> Option<u64> {
        let location = self.fresh()?;
        let (location, version) = self.shard.observe_version(location, &self.key, self.now_ms);
        self.location = Some(location);
        Some(version)
    }

    /// The version of the fresh entry that clients are shown, and by which they name it: the external one if there is one, else
    /// [`Slot::version`].
    pub fn shown_version(&mut self) -> Option<u64> {
        let location = self.fresh()?;
        let (location, version) = self.shard.shown_version(location, &self.key, self.now_ms);
        self.location = Some(location);
        Some(version)
    }

    /// Whether a load or a client with a lease brought the fresh entry; else it was written.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.fresh_entry().is_some_and(|entry| entry.fields().load_ms > 0)
    }

    /// The external version that a `VER` write must exceed: of the entry, fresh or stale, or of a tombstone.
    #[must_use]
    pub fn version_floor(&self) -> Option<u64> {
        self.shard.version_floor(&self.key, self.now_ms)
    }

    /// Whether there is an entry that is past its fresh life, within its stale window.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.location.is_some() && self.fresh().is_none()
    }

    /// Whether a token is out that may fill the key.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.shard.leases.has_tokens(self.key.db, self.key.bytes, self.now_ms)
    }

    /// Whether the fresh entry was stale, and is taken for fresh as long as its source fails.
    #[must_use]
    pub fn is_revived(&self) -> bool {
        self.fresh_entry().is_some_and(|entry| entry.fields().stale_since_ms.is_some())
    }

    /// Whether a number is the version of the entry, fresh or stale, or a token that may fill the key.
    #[must_use]
    pub fn is_named(&self, number: u64) -> bool {
        let version = self.location.and_then(|location| self.shard.known_version(location));
        let is_token = || self.shard.leases.check(self.key.db, self.key.bytes, number, self.now_ms);
        version == Some(number) || matches!(is_token(), TokenState::Valid { .. })
    }

    /// Counts as use of the entry, and as hit or miss.
    pub fn touch(&mut self) {
        if let Some(location) = self.location {
            self.shard.touch(location, self.key.hash, self.now_ms);
        }
        match self.fresh() {
            Some(location) => self.shard.count_hit(&self.key, location, self.now_ms),
            None => self.shard.count_miss(&self.key, self.now_ms),
        }
    }

    /// As [`Slot::set`]; a value whose time has passed already is not kept, but the version that its writer gave it is remembered.
    pub fn store(&mut self, value: &[u8], attributes: Attributes) {
        let is_over = matches!(attributes.expiry, Expiry::At(at_ms) if at_ms <= self.now_ms);
        if !is_over {
            return self.set(value, attributes);
        }
        self.shard.stats.stored += 1;
        self.remove();
        if let Some(version) = attributes.external_version {
            self.remember_version(version);
        }
    }

    /// Stores a value, whatever was there; revokes leases, ends a negative entry or tombstone. It has no tags.
    pub fn set(&mut self, value: &[u8], attributes: Attributes) {
        let expire_at_ms = match attributes.expiry {
            Expiry::Never => None,
            Expiry::At(expire_at_ms) => Some(expire_at_ms),
            Expiry::Keep => self.fresh_entry().and_then(|entry| entry.expire_at_ms()),
        };
        let fields = Fields {
            expire_at_ms,
            stale_for_ms: attributes.stale_for_ms,
            external_version: attributes.external_version,
            client_flags: attributes.client_flags,
            ..Fields::default()
        };
        self.revoke_leases(ChangeKind::Written);
        self.shard.remove_absence(&self.key);
        let contents = Contents { fields, ..Contents::default() };
        self.location = Some(self.shard.store(self.location, &self.key, value, contents, self.now_ms));
    }

    /// Tags of the fresh entry, for what is made of its value.
    #[must_use]
    pub fn tags(&self) -> TagSet {
        self.fresh_entry().map(|entry| entry.tag_set()).unwrap_or_default()
    }

    /// Gives an entry that was just stored the tags of the value it is made of: it becomes stale when that would.
    pub fn set_tags(&mut self, tags: &TagSet) {
        if let Some(location) = self.location.filter(|_| !tags.is_empty()) {
            self.location = Some(self.shard.set_tags(location, &self.key, tags, self.now_ms));
        }
    }

    /// As [`Slot::value_mut_with_flags`], but the client flags are 0 after: they tell what kind of value the one before was.
    pub fn value_mut(&mut self, len: usize) -> &mut [u8] {
        if let Some(location) = self.fresh().filter(|&location| self.shard.entry(location).client_flags() != 0) {
            let change = |before: Fields| Fields { client_flags: 0, ..before };
            self.location = Some(self.shard.set_fields(location, &self.key, change, self.now_ms));
        }
        self.value_mut_with_flags(len)
    }

    /// The value for writing in place, lengthened with zero bytes to at least `len`; made empty first if there is no fresh
    /// entry. Keeps the TTL, the client flags and the tags, drops the versions, revokes leases.
    pub fn value_mut_with_flags(&mut self, len: usize) -> &mut [u8] {
        self.revoke_leases(ChangeKind::Written);
        self.shard.remove_absence(&self.key);
        let location = match self.fresh() {
            Some(location) => location,
            None => self.shard.store(self.location, &self.key, &[], Contents::default(), self.now_ms),
        };
        let location = self.shard.lengthen(location, &self.key, len, self.now_ms);
        self.location = Some(location);
        self.shard.value_mut(location)
    }

    /// Sets or removes the TTL of the fresh entry. No write: leases stay. A time that has passed deletes (and revokes). A stale
    /// value that is served because its source fails gets no new life by this. Whether there was an entry.
    pub fn set_expiry(&mut self, expire_at_ms: Option<u64>) -> bool {
        let Some(location) = self.fresh() else { return false };
        if expire_at_ms.is_some_and(|expire_at_ms| expire_at_ms <= self.now_ms) {
            return self.remove();
        }
        let change = |before: Fields| before.ending_at(expire_at_ms);
        self.location = Some(self.shard.set_fields(location, &self.key, change, self.now_ms));
        true
    }

    /// Deletes; revokes leases, also of an absent key, and ends a negative entry: the caller may just have made the row. A
    /// tombstone stays. Whether there was a fresh entry.
    pub fn remove(&mut self) -> bool {
        let was_fresh = self.fresh().is_some();
        self.revoke_leases(ChangeKind::Deleted);
        if let Some(location) = self.location.take() {
            self.shard.remove(location, self.key.hash);
        }
        self.shard.end_negative(&self.key, self.now_ms);
        was_fresh
    }

    /// Makes the entry stale, if it is not, until `expiry`; `Keep` = as long as it would have been readable. Tokens issued so far
    /// may at most replace its value. Whether there was an entry.
    pub fn make_stale(&mut self, expiry: Expiry) -> bool {
        let now_ms = self.now_ms;
        self.shard.note_change(&self.key, ChangeKind::Invalidated, self.actor, now_ms);
        if let Some(location) = self.location {
            let change = |before: Fields| {
                let before = before.with_own_life();
                let since_ms = before.expire_at_ms.map_or(now_ms, |at_ms| at_ms.min(now_ms));
                let gone_at_ms = match expiry {
                    Expiry::Keep => before.gone_at_ms().unwrap_or(u64::MAX),
                    Expiry::Never => u64::MAX,
                    Expiry::At(at_ms) => at_ms,
                };
                let stale_for_ms = gone_at_ms.saturating_sub(since_ms);
                Fields { expire_at_ms: Some(since_ms), stale_for_ms, ..before }
            };
            self.location = Some(self.shard.set_fields(location, &self.key, change, now_ms));
        }
        // A negative entry is a claim about the source, and the source has changed.
        self.shard.end_negative(&self.key, now_ms);
        if !self.shard.leases.is_empty() {
            self.shard.leases.soften(self.key.db, self.key.bytes);
            *self.is_written = true;
        }
        self.location.is_some()
    }

    /// Remembers a version for a while: no write that brings an older one, or the same, is stored meanwhile.
    pub fn remember_version(&mut self, version: u64) {
        self.shard.leave_tombstone(&self.key, Some(version), self.now_ms);
    }

    /// As [`Slot::set`], of an entry that is not evicted until [`Slot::remove_pinned`]. It may expire or be deleted all the same, and
    /// one that is stored for the key then is not evicted either.
    pub fn set_pinned(&mut self, value: &[u8], attributes: Attributes) {
        self.shard.queues.pin(self.key.hash);
        self.set(value, attributes);
    }

    /// As [`Slot::remove`]; what is stored next may be evicted again.
    pub fn remove_pinned(&mut self) -> bool {
        self.shard.queues.unpin(self.key.hash);
        self.remove()
    }

    fn revoke_leases(&mut self, kind: ChangeKind) {
        self.shard.note_change(&self.key, kind, self.actor, self.now_ms);
        if !self.shard.leases.is_empty() {
            self.shard.leases.revoke(self.key.db, self.key.bytes);
            *self.is_written = true;
        }
    }

    fn fresh_entry(&self) -> Option<EntryView<'_>> {
        self.location.map(|location| self.shard.entry(location)).filter(|entry| entry.is_fresh(self.now_ms))
    }

    fn fresh(&self) -> Option<Location> {
        self.location.filter(|&location| self.shard.entry(location).is_fresh(self.now_ms))
    }
}

impl<'s> Slots<'s> {
    pub(crate) fn new(locks: Locks<'s>, keys: &'s [Key<'s>], at: Acting) -> Self {
        Self { locks, keys, at, are_written: vec![false; keys.len()] }
    }

    /// The slot of `keys[index]`.
    ///
    /// # Panics
    /// If there is no such key.
    pub fn slot(&mut self, index: usize) -> Slot<'_> {
        let key = self.keys[index];
        Slot::new(self.locks.shard(&key), key, self.at, &mut self.are_written[index])
    }

    /// Tells the waiters of what was written: once all is done, so that they hear of the last state only.
    pub(crate) fn settle(mut self, turn: &mut Turn) {
        for (index, key) in self.keys.iter().enumerate() {
            if self.are_written[index] {
                self.locks.shard(key).settle(key, turn);
            }
        }
    }
}
