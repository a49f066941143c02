//! Keys under their shards' locks, for reading and writing in one step.
//!
//! Here is what a write means: it gives a new version, revokes the key's leases, absent keys' too, and ends what was
//! remembered of its absence.

use crate::entry::{Block, Fields, Key};
use crate::keyspace::{Attributes, Entry, Expiry, Locks};
use crate::shard::Shard;
use crate::table::Place;
use crate::turn::Turn;

/// One key under its shard's lock, for reading and writing in one step. Keep what runs under it short.
pub struct Slot<'s> {
    shard: &'s mut Shard,
    key: Key<'s>,
    /// Of the entry, fresh or stale; one that was gone by time is removed when the slot is made.
    place: Option<Place>,
    now_ms: u64,
    /// Whether the leases' waiters must be told.
    is_written: &'s mut bool,
}

/// Several keys under all their shards' locks, taken in order.
pub struct Slots<'s> {
    locks: Locks<'s>,
    keys: &'s [Key<'s>],
    now_ms: u64,
    /// As long as `keys`.
    are_written: Vec<bool>,
}

impl<'s> Slot<'s> {
    #[inline]
    pub(crate) fn new(shard: &'s mut Shard, key: Key<'s>, now_ms: u64, is_written: &'s mut bool) -> Self {
        let place = shard.find_live(&key, now_ms);
        Self { shard, key, place, now_ms, is_written }
    }

    /// The fresh entry, if there is one.
    #[must_use]
    pub fn entry(&self) -> Option<Entry<'_>> {
        self.fresh_block().map(|block| block.view(self.now_ms))
    }

    /// The external version that a `VER` write must exceed: of the entry, fresh or stale, or of a tombstone.
    #[must_use]
    pub fn version_floor(&self) -> Option<u64> {
        self.shard.version_floor(&self.key, self.now_ms)
    }

    /// Counts as use of the entry, and as hit or miss.
    pub fn touch(&mut self) {
        let is_hit = self.fresh_block().is_some();
        if let Some(place) = self.place {
            self.shard.touch(place, self.now_ms);
        }
        self.shard.count_lookup(is_hit);
    }

    /// Stores a value, whatever was there; revokes leases, ends a negative entry or tombstone. Returns the internal version.
    pub fn set(&mut self, value: &[u8], attributes: Attributes) -> u64 {
        let expire_at_ms = match attributes.expiry {
            Expiry::Never => None,
            Expiry::At(expire_at_ms) => Some(expire_at_ms),
            Expiry::Keep => self.fresh_block().and_then(Block::expire_at_ms),
        };
        let fields = Fields {
            expire_at_ms,
            stale_for_ms: attributes.stale_for_ms,
            external_version: attributes.external_version,
            client_flags: attributes.client_flags,
            ..Fields::default()
        };
        self.revoke_leases();
        self.shard.remove_absence(&self.key);
        let place = self.shard.store(self.place, &self.key, value, &fields, self.now_ms);
        self.place = Some(place);
        self.shard.block(place).version()
    }

    /// The value for writing in place, lengthened with zero bytes to at least `len`; made empty first if there is no fresh
    /// entry. Keeps the TTL and the client flags, drops the external version, revokes leases, gives a new version.
    pub fn value_mut(&mut self, len: usize) -> &mut [u8] {
        self.revoke_leases();
        self.shard.remove_absence(&self.key);
        let place = match self.place {
            Some(place) if self.fresh_block().is_some() => {
                let version = self.shard.next_version();
                let now_ms = self.now_ms;
                self.shard.change(place, |block| {
                    if block.external_version().is_some() {
                        block.set_fields(&Fields { external_version: None, ..block.fields() });
                    }
                    block.lengthen(len);
                    block.set_version(version);
                    block.touch(now_ms);
                });
                place
            }
            stale => {
                let place = self.shard.store(stale, &self.key, &[], &Fields::default(), self.now_ms);
                self.shard.change(place, |block| block.lengthen(len));
                place
            }
        };
        self.place = Some(place);
        self.shard.value_mut(place)
    }

    /// Sets or removes the TTL of the fresh entry. No write: leases stay. A time that has passed deletes (and revokes).
    /// Whether there was an entry.
    pub fn set_expiry(&mut self, expire_at_ms: Option<u64>) -> bool {
        let Some(place) = self.place.filter(|_| self.fresh_block().is_some()) else { return false };
        if expire_at_ms.is_some_and(|expire_at_ms| expire_at_ms <= self.now_ms) {
            return self.remove();
        }
        self.shard.change(place, |block| block.set_fields(&Fields { expire_at_ms, ..block.fields() }));
        true
    }

    /// Deletes; revokes leases, also of an absent key, and ends a negative entry: the caller may just have made the row. A
    /// tombstone stays. Whether there was a fresh entry.
    pub fn remove(&mut self) -> bool {
        let was_fresh = self.fresh_block().is_some();
        self.revoke_leases();
        if let Some(place) = self.place.take() {
            drop(self.shard.remove(place));
        }
        self.shard.end_negative(&self.key, self.now_ms);
        was_fresh
    }

    fn revoke_leases(&mut self) {
        if !self.shard.leases.is_empty() {
            self.shard.leases.revoke(self.key.db, self.key.bytes);
            *self.is_written = true;
        }
    }

    fn block(&self) -> Option<&Block> {
        self.place.map(|place| self.shard.block(place))
    }

    fn fresh_block(&self) -> Option<&Block> {
        self.block().filter(|block| block.is_fresh(self.now_ms))
    }
}

impl<'s> Slots<'s> {
    pub(crate) fn new(locks: Locks<'s>, keys: &'s [Key<'s>], now_ms: u64) -> Self {
        Self { locks, keys, now_ms, are_written: vec![false; keys.len()] }
    }

    /// The slot of `keys[index]`.
    ///
    /// # Panics
    /// If there is no such key.
    pub fn slot(&mut self, index: usize) -> Slot<'_> {
        let key = self.keys[index];
        Slot::new(self.locks.shard(&key), key, self.now_ms, &mut self.are_written[index])
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
