//! Writes that name what they replace: by one number, an entry's version or a lease's token.
//!
//! Both come from one counter, so a number is one of them at most (external versions are their writers' affair). A token fills
//! by the rules of [`Keyspace::fill`]; a version is compared with that of the fresh entry, and what is stored for it is a plain
//! write, which revokes leases. What names neither is not stored. A stale value that is taken for fresh while its source fails stays
//! stale here: what is made from it is as old, and only a lease brings what the source has.
//!
//! ```text
//!   the number is …                               what happens                     the answer
//!   a token that may fill                         a fill, as by SETL               Stored
//!   a token overtaken by a soft invalidation      the stale value is replaced      Stale      if that is enough, else Differs
//!   the version of the fresh entry                a plain write                    Stored
//!   the version of the stale entry                the stale value is replaced      Stale      if that is enough, else Differs
//!   anything else                                 nothing                          Differs; Absent without entry and lease
//! ```
//!
//! Never is a fresh value replaced by one that is older, not even as a stale one; memcached does that for `ms … I`.

use crate::entry::{Fields, Key};
use crate::keyspace::{Attributes, Keyspace};
use crate::lease::{Fill, Filled, LostReason};
use crate::lease_table::TokenState;
use crate::log::Location;
use crate::settings::Db;
use crate::shard::{Contents, Shard};
use crate::slot::{Acting, Slot};
use crate::turn::Turn;

/// A value, and what it is made from.
#[derive(Clone, Copy, Debug)]
pub struct Replacement<'a> {
    /// A version or a token.
    pub named: u64,
    /// Whether a token will do only: the value comes from a source, which a plain write would not reach.
    pub fills_only: bool,
    /// The bytes.
    pub value: &'a [u8],
    /// What is stored with them.
    pub attributes: Attributes,
    /// Whether it is enough to replace a stale value by this one, which is stale, too, then.
    pub stale_suffices: bool,
    /// Whether the version of what was stored is asked for.
    pub version_wanted: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Stored as a fresh value.
    Stored {
        /// Of the new entry, the external one if there is one; 0 if it was not asked for or there is none any more.
        version: u64,
    },
    /// Stored in place of a stale value, as stale.
    Stale,
    /// The key has another version, or the lease is lost.
    Differs,
    /// The key has neither an entry nor a lease.
    Absent,
    /// The memory limit is reached and nothing may be evicted.
    NoRoom,
}

impl Keyspace {
    /// Stores a value if what it was made from is still what the key has; see the table above.
    pub fn replace(&self, turn: &mut Turn, db: Db, key: &[u8], replacement: Replacement<'_>) -> Replaced {
        let has_room = self.make_room(turn, key.len() + replacement.value.len()).is_ok();
        self.with_shard(db, key, |shard, key| shard.replace(key, &replacement, has_room, turn))
    }
}

impl Shard {
    fn replace(&mut self, key: &Key<'_>, replacement: &Replacement<'_>, has_room: bool, turn: &mut Turn) -> Replaced {
        let now_ms = turn.now_ms;
        let Replacement { named, value, attributes, stale_suffices, .. } = *replacement;
        self.settle_leases(key);
        // An entry that a bump covers takes the tokens with it.
        self.find_live(key, now_ms);
        let Attributes { expiry, stale_for_ms, external_version, client_flags } = attributes;
        let fill = Fill::Value { value, expiry, stale_for_ms, version: external_version, client_flags, tags: &[] };
        match self.leases.check(key.db, key.bytes, named, now_ms) {
            TokenState::Softened { .. } if !stale_suffices => {
                self.count_fill(Filled::Lost(LostReason::Revoked));
                self.overtaken(key, named, &fill, turn);
                self.mismatch(key, now_ms)
            }
            TokenState::Valid { .. } | TokenState::Softened { .. } => {
                let filled = self.fill(key, named, &fill, has_room, turn);
                self.count_fill(filled);
                match filled {
                    Filled::Stored => {
                        self.note_filled(key, named, turn.actor, now_ms);
                        self.stored(key, replacement, now_ms)
                    }
                    Filled::Stale => Replaced::Stale,
                    Filled::Lost(LostReason::NoRoom) => Replaced::NoRoom,
                    Filled::Lost(_) => self.mismatch(key, now_ms),
                }
            }
            TokenState::Lost(reason) => {
                let replaced = self.replace_version(key, replacement, has_room, turn);
                if matches!(replaced, Replaced::Differs | Replaced::Absent) {
                    if reason != LostReason::Unknown {
                        self.count_fill(Filled::Lost(reason));
                    }
                    self.overtaken(key, named, &fill, turn);
                }
                replaced
            }
        }
    }

    fn replace_version(
        &mut self,
        key: &Key<'_>,
        replacement: &Replacement<'_>,
        has_room: bool,
        turn: &mut Turn,
    ) -> Replaced {
        let now_ms = turn.now_ms;
        let Replacement { named, fills_only, value, attributes, stale_suffices, .. } = *replacement;
        let place = self.find_live(key, now_ms);
        // 0 is told for a value that is not stored.
        let can_be_named = !fills_only && named != 0;
        let is_named = |location: &Location| can_be_named && self.known_version(*location) == Some(named);
        let Some(location) = place.filter(is_named) else { return self.mismatch(key, now_ms) };
        let is_newer = attributes
            .external_version
            .is_none_or(|version| self.version_floor(key, now_ms).is_none_or(|floor| version > floor));
        if !is_newer {
            return Replaced::Differs;
        }
        if !has_room {
            return Replaced::NoRoom;
        }
        let before = self.entry(location).fields();
        if self.entry(location).is_fresh(now_ms) && before.stale_since_ms.is_none() {
            let mut is_written = false;
            let mut slot = Slot::new(self, *key, Acting::of(turn), &mut is_written);
            slot.store(value, attributes);
            if is_written {
                self.settle(key, turn);
            }
            return self.stored(key, replacement, now_ms);
        }
        if !stale_suffices {
            return Replaced::Differs;
        }
        let Attributes { external_version, client_flags, .. } = attributes;
        let fields = Fields { external_version, client_flags, ..before };
        let kept = self.entry(location).tag_set();
        self.store(Some(location), key, value, Contents { fields, tags: kept.borrow() }, now_ms);
        // Else a holder who began before the invalidation would take its place by what he has read before.
        self.leases.spend_softened(key.db, key.bytes);
        Replaced::Stale
    }

    /// The version that somebody may know of an entry: one that was never asked for cannot be named.
    pub(crate) fn known_version(&self, location: Location) -> Option<u64> {
        let entry = self.entry(location);
        entry.external_version().or(entry.version())
    }

    fn stored(&mut self, key: &Key<'_>, replacement: &Replacement<'_>, now_ms: u64) -> Replaced {
        let location = self.find_live(key, now_ms).filter(|_| replacement.version_wanted);
        Replaced::Stored { version: location.map_or(0, |location| self.shown_version(location, key, now_ms).1) }
    }

    fn mismatch(&mut self, key: &Key<'_>, now_ms: u64) -> Replaced {
        let is_there = self.find_live(key, now_ms).is_some() || self.leases.has_tokens(key.db, key.bytes, now_ms);
        if is_there { Replaced::Differs } else { Replaced::Absent }
    }
}
