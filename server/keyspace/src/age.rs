//! Entries that must have been loaded lately: of keys that are another node's, for which this one stands in.
//!
//! Such an entry is a load's, and has a tag or was given one, so it knows its birth: the clock of bumps when the token of its load was issued. That
//! clock stands still between two bumps, so whoever asks here moves it on first.

use crate::bumps::{stamp_at, stamp_ms};
use crate::keyspace::Keyspace;
use crate::settings::Db;
use crate::shard::AbsenceKind;
use crate::turn::Turn;

impl Keyspace {
    /// Has nothing answer for a key, from now on, that was loaded before a time: an entry whose load began before `born_from_ms`, or that knows no birth,
    /// is removed, and a load that began before fills for nobody who comes after. What is remembered of an absent key goes: it knows no birth.
    pub fn require_younger(&self, turn: &mut Turn, db: Db, key: &[u8], born_from_ms: u64) {
        let now_ms = turn.now_ms;
        self.bumps().reach(now_ms);
        self.with_shard(db, key, |shard, key| {
            if let Some(location) = shard.find_live(key, now_ms) {
                let birth = shard.entry(location).tags_birth();
                if birth.is_none_or(|birth| stamp_ms(birth) < born_from_ms) {
                    shard.remove(location, key.hash);
                }
            }
            if shard.absence(key, now_ms).is_some_and(|absence| absence.kind == AbsenceKind::Negative) {
                shard.end_negative(key, now_ms);
            }
            if !shard.leases.is_empty() {
                shard.leases.soften_before(key.db, key.bytes, stamp_at(born_from_ms));
            }
        });
    }
}
