//! A keyspace whose time is in the test's hands, for the lease tests.
#![allow(dead_code, reason = "each test file uses its part")]

use leasehold_keyspace::{
    Access, Attributes, Claim, Claimant, Claimed, Db, EvictionPolicy, Expiry, Fill, Filled, HashSeed, Invalidation,
    Keyspace, LeaseSettings, LostReason, Settings, Turn, Waiter, WakeEvent,
};

pub(crate) const DB: Db = Db(0);
pub(crate) const KEY: &[u8] = b"k";
pub(crate) const START_MS: u64 = 1_700_000_000_000;

pub(crate) fn settings() -> Settings {
    Settings {
        shards: 4,
        memory_bytes_max: 0,
        policy: EvictionPolicy::AllKeysLru,
        absence_bytes_max: 1 << 20,
        boot_unix_ms: START_MS,
        lease: LeaseSettings {
            lease_ms: 10_000,
            lease_ms_max: 60_000,
            reissue_after_ms: None,
            waiters_per_key_max: 3,
            waiters_max: 100,
            records_max: 1_000,
            tombstone_ttl_ms: 60_000,
            invalidated_stale_ms: 10_000,
        },
    }
}

pub(crate) struct Node {
    pub(crate) keyspace: Keyspace,
    pub(crate) turn: Turn,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self { keyspace: Keyspace::new(settings(), HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) }
    }

    pub(crate) fn claim(&mut self, claim: Claim) -> Claimed {
        self.keyspace.claim(&mut self.turn, DB, KEY, claim)
    }

    pub(crate) fn lead(&mut self) -> u64 {
        token(self.claim(CLIENT))
    }

    /// Of a key that may be fresh.
    pub(crate) fn lead_again(&mut self) -> u64 {
        token(self.claim(Claim { fresh_required: true, ..CLIENT }))
    }

    pub(crate) fn fill(&mut self, token: u64, value: &[u8]) -> Filled {
        self.fill_with(token, value, Expiry::Never, 0, None)
    }

    pub(crate) fn fill_with(
        &mut self,
        token: u64,
        value: &[u8],
        expiry: Expiry,
        stale_for_ms: u64,
        version: Option<u64>,
    ) -> Filled {
        self.keyspace.fill(
            &mut self.turn,
            DB,
            KEY,
            token,
            Fill::Value { value, expiry, stale_for_ms, version, client_flags: 0, tags: &[] },
        )
    }

    pub(crate) fn set(&mut self, value: &[u8]) {
        self.keyspace.update(&mut self.turn, DB, KEY, |slot| slot.set(value, Attributes::PLAIN));
    }

    pub(crate) fn delete(&mut self) -> bool {
        self.keyspace.update(&mut self.turn, DB, KEY, |slot| slot.remove())
    }

    pub(crate) fn invalidate(&mut self, invalidation: Invalidation, version: Option<u64>) -> bool {
        self.keyspace.invalidate(&mut self.turn, DB, KEY, invalidation, version)
    }

    pub(crate) fn value(&mut self) -> Option<Vec<u8>> {
        self.keyspace.read(&mut self.turn, DB, KEY, Access::Touch, |entry| entry.value.to_vec())
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.turn.now_ms += ms;
        self.keyspace.sweep_leases(&mut self.turn, 0..self.keyspace.shards());
    }

    /// Wakes since the last call, as waiter index and event.
    pub(crate) fn wakes(&mut self) -> Vec<(u32, WakeEvent)> {
        self.turn.effects.wakes.drain(..).map(|wake| (wake.waiter.index, wake.event)).collect()
    }
}

pub(crate) const CLIENT: Claim = Claim {
    claimant: Claimant::Client,
    lease_ms: None,
    version_min: None,
    fresh_required: false,
    stale_ms_max: None,
    waiter: None,
};
pub(crate) const SERVER: Claim = Claim { claimant: Claimant::Server { loader: 0 }, ..CLIENT };

pub(crate) fn waiting(claim: Claim, index: u32) -> Claim {
    Claim { waiter: Some(Waiter { thread: 0, connection: 1, ticket: 1, index }), ..claim }
}

#[track_caller]
pub(crate) fn token(claimed: Claimed) -> u64 {
    match claimed {
        Claimed::Lead { token, .. } => token,
        other => panic!("expected to lead, got {other:?}"),
    }
}

pub(crate) const LOST_REVOKED: Filled = Filled::Lost(LostReason::Revoked);
pub(crate) const LOST_UNKNOWN: Filled = Filled::Lost(LostReason::Unknown);
