//! The lease verbs of [`Keyspace`]: each locks the key's shard and asks its lease table.

use crate::keyspace::Keyspace;
use crate::lease::{Claim, Claimed, Fill, Filled, Invalidation, LeaseView, Release};
use crate::settings::Db;
use crate::turn::{Turn, Waiter};
use std::sync::Arc;

impl Keyspace {
    /// A reader that missed asks for the right to fill; see [`Claimed`].
    pub fn claim(&self, turn: &mut Turn, db: Db, key: &[u8], claim: Claim) -> Claimed {
        let _ = (turn, db, key, claim);
        todo!()
    }

    /// Stores what the holder of `token` brings, if it may be stored (SPEC §2 rule 1), and wakes the waiters.
    pub fn fill(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, fill: Fill<'_>) -> Filled {
        let _ = (turn, db, key, token, fill);
        todo!()
    }

    /// The holder gives up; the next waiter leads. Whether the token was valid.
    pub fn release(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, release: Release) -> bool {
        let _ = (turn, db, key, token, release);
        todo!()
    }

    /// The server's load failed: all waiters hear `reason`, the stale entry (if any) gets `stale_life_ms` of new fresh life so
    /// that a dead source is not asked once per request.
    pub fn fail(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, reason: &Arc<str>, stale_life_ms: u64) {
        let _ = (turn, db, key, token, reason, stale_life_ms);
        todo!()
    }

    /// Takes a waiter out of the queue. `false`: it was woken already and its wake is on the way.
    pub fn leave(&self, turn: &mut Turn, db: Db, key: &[u8], waiter: Waiter) -> bool {
        let _ = (turn, db, key, waiter);
        todo!()
    }

    /// Makes the entry stale or removes it, leaves a tombstone if `version` is given, always revokes the leases. Whether
    /// there was a fresh entry.
    pub fn invalidate(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        invalidation: Invalidation,
        version: Option<u64>,
    ) -> bool {
        let _ = (turn, db, key, invalidation, version);
        todo!()
    }

    /// Ends the lease of a key (`LEASE KILL`): tokens are void, the next waiter leads. Whether there was one.
    pub fn kill_lease(&self, turn: &mut Turn, db: Db, key: &[u8]) -> bool {
        let _ = (turn, db, key);
        todo!()
    }

    /// Outstanding leases of `db`, at most `count_max`, that `wanted` accepts.
    pub fn leases(
        &self,
        turn: &mut Turn,
        db: Db,
        count_max: usize,
        wanted: impl FnMut(&[u8]) -> bool,
    ) -> Vec<LeaseView> {
        let _ = (turn, db, count_max, wanted);
        todo!()
    }

    /// Ends leases whose time is up and hands them to waiters; called about every 10 ms by each thread for its shards.
    pub fn sweep_leases(&self, turn: &mut Turn, shards: std::ops::Range<usize>) {
        let _ = (turn, shards);
        todo!()
    }

    /// Lets no load that began before now fill the key for those who come after; entries stay as they are.
    pub fn outdate(&self, turn: &mut Turn, db: Db, key: &[u8]) {
        let _ = (turn, db, key);
        todo!()
    }
}

impl crate::shard::Shard {
    /// After a write or an invalidation of the key: those who wait for it hear its new value, or the next of them leads.
    pub(crate) fn settle(&mut self, key: &crate::entry::Key<'_>, turn: &mut Turn) {
        if self.leases.is_empty() {
            return;
        }
        let token = self.next_version();
        self.leases.settle(key.db, key.bytes, None, token, turn.now_ms, &mut turn.effects);
    }
}
