//! A keyspace in this process, for benches without sockets.

use leasehold_keyspace::{EvictionPolicy, HashSeed, Keyspace, LeaseSettings, Settings};

/// When the keyspace begins, in ms since 1970.
pub const BOOT_UNIX_MS: u64 = 1_700_000_000_000;

/// An empty one of 64 shards with the same hashes each time; a limit of 0 is none.
#[must_use]
pub fn new(policy: EvictionPolicy, memory_bytes_max: u64) -> Keyspace {
    let lease = LeaseSettings {
        lease_ms: 10_000,
        lease_ms_max: 60_000,
        reissue_after_ms: None,
        waiters_per_key_max: 1_000,
        waiters_max: 10_000,
        records_max: 10_000,
        tombstone_ttl_ms: 60_000,
        invalidated_stale_ms: 0,
    };
    let settings = Settings {
        shards: 64,
        memory_bytes_max,
        policy,
        absence_bytes_max: 1 << 20,
        boot_unix_ms: BOOT_UNIX_MS,
        lease,
    };
    Keyspace::new(settings, HashSeed([1, 2, 3, 4]))
}
