//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses its part")]

use leasehold_keyspace::{
    Access, Attributes, Db, EvictionPolicy, HashSeed, Keyspace, LeaseSettings, OutOfMemory, Settings, Turn,
};
use std::collections::BTreeMap;

/// When the tests' servers boot, in ms since 1970.
pub(crate) const BOOT_MS: u64 = 1_700_000_000_000;

/// Bytes of an entry's place in the index: part of what it says it costs, but counted with the index.
pub(crate) const INDEX_BYTES_EACH: usize = 5;

/// No limit, nothing special.
pub(crate) const SETTINGS: Settings = Settings {
    shards: 16,
    memory_bytes_max: 0,
    policy: EvictionPolicy::NoEviction,
    absence_bytes_max: 32 << 10,
    boot_unix_ms: BOOT_MS,
    lease: LeaseSettings {
        lease_ms: 10_000,
        lease_ms_max: 60_000,
        reissue_after_ms: None,
        waiters_per_key_max: 100,
        waiters_max: 1000,
        records_max: 1000,
        tombstone_ttl_ms: 1000,
        invalidated_stale_ms: 1000,
    },
};

pub(crate) fn keyspace(settings: Settings) -> Keyspace {
    Keyspace::new(settings, HashSeed([1, 2, 3, 4]))
}

pub(crate) fn set(keyspace: &Keyspace, turn: &mut Turn, key: &[u8], value: &[u8]) -> u64 {
    set_with(keyspace, turn, Db(0), key, value, Attributes::PLAIN)
}

/// As a server does it: room first.
pub(crate) fn try_set(
    keyspace: &Keyspace,
    turn: &mut Turn,
    key: &[u8],
    value: &[u8],
    attributes: Attributes,
) -> Result<(), OutOfMemory> {
    keyspace.make_room(turn, key.len() + value.len())?;
    keyspace.update(turn, Db(0), key, |slot| slot.set(value, attributes));
    Ok(())
}

/// Stores a value and asks for its version.
pub(crate) fn set_with(
    keyspace: &Keyspace,
    turn: &mut Turn,
    db: Db,
    key: &[u8],
    value: &[u8],
    attributes: Attributes,
) -> u64 {
    keyspace.update(turn, db, key, |slot| {
        slot.set(value, attributes);
        slot.version().expect("just stored, and fresh")
    })
}

pub(crate) fn has(keyspace: &Keyspace, turn: &mut Turn, key: &[u8]) -> bool {
    keyspace.read(turn, Db(0), key, Access::Touch, |_| ()).is_some()
}

/// All fresh entries by a whole SCAN.
pub(crate) fn scan_all(keyspace: &Keyspace, turn: &mut Turn, db: Db, count: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut cursor = 0;
    loop {
        cursor = keyspace.scan(turn, db, cursor, count, |entry| {
            assert_eq!(entry.db, db);
            found.insert(entry.key.to_vec(), entry.value.to_vec());
        });
        if cursor == 0 {
            return found;
        }
    }
}

/// Checks that the counted bytes are those of entries and tables, and all else that shards count. All entries must be fresh,
/// in databases 0 and 1.
pub(crate) fn check_memory(keyspace: &Keyspace, turn: &mut Turn) {
    keyspace.check();
    let mut entry_bytes = 0;
    let mut entries = 0;
    for db in [Db(0), Db(1)] {
        let mut cursor = 0;
        loop {
            cursor = keyspace.scan(turn, db, cursor, 1000, |entry| {
                entry_bytes += (entry.memory_bytes - INDEX_BYTES_EACH) as u64;
                entries += 1;
            });
            if cursor == 0 {
                break;
            }
        }
    }
    let stats = keyspace.stats();
    assert_eq!(stats.entries, entries);
    assert_eq!(stats.absences, 0);
    assert_eq!(stats.entry_bytes, entry_bytes);
    let rest = stats.used_bytes - stats.table_bytes;
    assert!(entry_bytes + stats.dead_bytes <= rest, "{rest} bytes of segments for {entry_bytes} of entries");
}
