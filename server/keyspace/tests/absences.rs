//! Negative entries and tombstones, seen from outside: what ends them and what does not.

mod common;

use common::{BOOT_MS, SETTINGS, keyspace, set};
use leasehold_keyspace::{
    Access, Attributes, Claim, Claimant, Claimed, Db, EvictionPolicy, Expiry, Fill, Filled, Invalidation, Keyspace,
    Lookup, Settings, Turn,
};

const KEY: &[u8] = b"key";

const CLAIM: Claim = Claim {
    claimant: Claimant::Client,
    lease_ms: None,
    version_min: None,
    fresh_required: false,
    stale_ms_max: None,
    waiter: None,
};

/// Loads a key, as a loader or a client with a lease does.
fn load(keyspace: &Keyspace, turn: &mut Turn, key: &[u8], fill: Fill<'_>) {
    let Claimed::Lead { token, .. } = keyspace.claim(turn, Db(0), key, CLAIM) else { panic!("nobody else asks") };
    assert!(matches!(keyspace.fill(turn, Db(0), key, token, fill), Filled::Stored));
}

/// Makes the key known to have no row, as a loader does.
fn remember_absent(keyspace: &Keyspace, turn: &mut Turn, ttl_ms: u64) {
    load(keyspace, turn, KEY, Fill::Absent { ttl_ms });
}

fn look(keyspace: &Keyspace, turn: &mut Turn) -> Lookup<Vec<u8>> {
    keyspace.lookup(turn, Db(0), KEY, Access::Touch, |entry| entry.value.to_vec())
}

fn version_floor(keyspace: &Keyspace, turn: &mut Turn) -> Option<u64> {
    keyspace.update(turn, Db(0), KEY, |slot| slot.version_floor())
}

#[test]
fn negative_entry_is_seen_until_its_time_and_counted() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    remember_absent(&keyspace, &mut turn, 1000);
    turn.now_ms += 400;
    assert!(matches!(look(&keyspace, &mut turn), Lookup::Negative { ttl_ms: 600, .. }));
    assert!(keyspace.read(&mut turn, Db(0), KEY, Access::Quiet, |_| ()).is_none());
    assert_eq!((keyspace.len(Db(0)), keyspace.stats().absences), (0, 1));
    let stats = keyspace.stats();
    assert_eq!((stats.hits, stats.misses, stats.negative_hits), (0, 1, 1));
    turn.now_ms += 600;
    assert_eq!(look(&keyspace, &mut turn), Lookup::Absent);
    assert_eq!(keyspace.stats().absences, 0);
}

#[test]
fn every_write_ends_a_negative_entry() {
    type Write = fn(&Keyspace, &mut Turn);
    let writes: [(&str, Write); 4] = [
        ("set", |keyspace, turn| assert!(set(keyspace, turn, KEY, b"value") > 0)),
        ("append", |keyspace, turn| keyspace.update(turn, Db(0), KEY, |slot| slot.value_mut(3)[0] = 1)),
        ("delete", |keyspace, turn| assert!(!keyspace.update(turn, Db(0), KEY, |slot| slot.remove()))),
        ("rename", |keyspace, turn| {
            keyspace.update_many(turn, &[(Db(0), b"other"), (Db(0), KEY)], |slots| {
                slots.slot(0).remove();
                slots.slot(1).set(b"value", Attributes::PLAIN);
            });
        }),
    ];
    for (name, write) in writes {
        let keyspace = keyspace(SETTINGS);
        let mut turn = Turn::new(BOOT_MS, 1);
        remember_absent(&keyspace, &mut turn, 1_000_000);
        write(&keyspace, &mut turn);
        assert_eq!(keyspace.stats().absences, 0, "after {name}");
        // Nor does it come back once the entry is gone.
        keyspace.update(&mut turn, Db(0), KEY, |slot| slot.remove());
        assert_eq!(look(&keyspace, &mut turn), Lookup::Absent, "after {name}");
    }
}

#[test]
fn setting_a_ttl_of_nothing_leaves_a_negative_entry() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    remember_absent(&keyspace, &mut turn, 1000);
    assert!(!keyspace.update(&mut turn, Db(0), KEY, |slot| slot.set_expiry(Some(BOOT_MS + 5))));
    assert!(matches!(look(&keyspace, &mut turn), Lookup::Negative { .. }));
}

#[test]
fn tombstone_outlives_deletes_and_ends_with_a_write() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    set(&keyspace, &mut turn, KEY, b"value");
    assert!(keyspace.invalidate(&mut turn, Db(0), KEY, Invalidation::Hard, Some(5)));
    assert_eq!(look(&keyspace, &mut turn), Lookup::Absent);
    assert_eq!(version_floor(&keyspace, &mut turn), Some(5));
    keyspace.update(&mut turn, Db(0), KEY, |slot| slot.remove());
    assert_eq!(version_floor(&keyspace, &mut turn), Some(5), "a delete is no news for older fills");
    set(&keyspace, &mut turn, KEY, b"value");
    assert_eq!(version_floor(&keyspace, &mut turn), None, "an unconditional write always wins");
    assert_eq!(keyspace.stats().absences, 0);
}

#[test]
fn floor_of_a_tombstone_survives_a_negative_fill_and_what_ends_that() {
    type End = fn(&Keyspace, &mut Turn);
    let ends: [(&str, End); 3] = [
        ("its time", |_, turn| turn.now_ms += 500),
        ("delete", |keyspace, turn| assert!(!keyspace.update(turn, Db(0), KEY, |slot| slot.remove()))),
        ("invalidation", |keyspace, turn| {
            keyspace.invalidate(turn, Db(0), KEY, Invalidation::Hard, None);
        }),
    ];
    for (name, end) in ends {
        let keyspace = keyspace(SETTINGS);
        let mut turn = Turn::new(BOOT_MS, 1);
        keyspace.invalidate(&mut turn, Db(0), KEY, Invalidation::Hard, Some(5));
        remember_absent(&keyspace, &mut turn, 500);
        assert!(matches!(look(&keyspace, &mut turn), Lookup::Negative { .. }));
        assert_eq!(version_floor(&keyspace, &mut turn), Some(5));
        end(&keyspace, &mut turn);
        assert_eq!(look(&keyspace, &mut turn), Lookup::Absent, "after {name}");
        turn.now_ms = BOOT_MS + SETTINGS.lease.tombstone_ttl_ms - 1;
        assert_eq!(version_floor(&keyspace, &mut turn), Some(5), "after {name}");
        turn.now_ms += 1;
        assert_eq!(version_floor(&keyspace, &mut turn), None, "after {name}");
    }
}

#[test]
fn cycle_and_flush_remove_absences() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    remember_absent(&keyspace, &mut turn, 1000);
    turn.now_ms += 999;
    keyspace.expire_cycle(&mut turn, 0..16, 10_000);
    assert_eq!(keyspace.stats().absences, 1);
    turn.now_ms += 1;
    keyspace.expire_cycle(&mut turn, 0..16, 10_000);
    assert_eq!(keyspace.stats().absences, 0);
    for db in [None, Some(Db(0))] {
        remember_absent(&keyspace, &mut turn, 1000);
        keyspace.flush(&mut turn, db);
        assert_eq!(look(&keyspace, &mut turn), Lookup::Absent);
    }
    remember_absent(&keyspace, &mut turn, 1000);
    keyspace.flush(&mut turn, Some(Db(1)));
    assert!(matches!(look(&keyspace, &mut turn), Lookup::Negative { .. }), "the flush was of another database");
}

#[test]
fn a_scan_of_absent_keys_pushes_out_no_entry() {
    const SCANNED: u64 = 1_000_000;
    const MEMORY_BYTES: u64 = 64 << 20;
    let policy = EvictionPolicy::AllKeysTinyLfu;
    let settings =
        Settings { policy, memory_bytes_max: MEMORY_BYTES, absence_bytes_max: MEMORY_BYTES / 128, ..SETTINGS };
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 1);
    // As full as it gets: what is loaded pushes out what was loaded before.
    let mut loaded = 0;
    while keyspace.stats().evicted < 50_000 {
        for number in loaded..loaded + 10_000 {
            let value = Fill::Value {
                value: &[7; 100],
                expiry: Expiry::Never,
                stale_for_ms: 0,
                version: None,
                client_flags: 0,
                tags: &[],
            };
            load(&keyspace, &mut turn, format!("real:{number}").as_bytes(), value);
        }
        loaded += 10_000;
        turn.now_ms += 100;
        keyspace.expire_cycle(&mut turn, 0..16, 10_000);
    }
    let before = keyspace.stats();
    // Once the budget is used, which is soon, every further million is like the first.
    for number in 0..SCANNED {
        load(&keyspace, &mut turn, format!("scan:{number}").as_bytes(), Fill::Absent { ttl_ms: 10_000 });
        if number % 10_000 == 0 {
            turn.now_ms += 100;
            keyspace.expire_cycle(&mut turn, 0..16, 10_000);
        }
    }
    let after = keyspace.stats();
    assert!(after.absences > 5_000, "what the budget holds is remembered, not {}", after.absences);
    assert_eq!(after.evicted, before.evicted);
    assert_eq!(keyspace.len(Db(0)) as u64, loaded - before.evicted);
}
