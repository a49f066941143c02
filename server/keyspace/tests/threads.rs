//! Many threads at once: nobody waits in a circle, nothing is lost, no version is given twice.

mod common;

use common::{BOOT_MS, SETTINGS, keyspace, scan_all, set, try_set};
use leasehold_keyspace::{
    Access, Attributes, Claim, Claimant, Claimed, Db, EvictionPolicy, Expiry, Fill, Keyspace, Settings, Turn,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

const THREADS: u64 = 4;

#[test]
fn transfers_between_keys_lose_nothing() {
    const KEYS: u64 = 32;
    const EACH: u64 = 1000;

    let keyspace = keyspace(Settings { shards: 8, ..SETTINGS });
    let name = |number: u64| format!("account:{}", number % KEYS).into_bytes();
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..KEYS {
        set(&keyspace, &mut turn, &name(number), &EACH.to_le_bytes());
    }
    let amount = |slots: &mut leasehold_keyspace::Slots<'_>, index| {
        let slot = slots.slot(index);
        u64::from_le_bytes(slot.entry().expect("stored").value.try_into().expect("8 bytes"))
    };
    thread::scope(|scope| {
        for seed in 1..=THREADS {
            let keyspace = &keyspace;
            scope.spawn(move || {
                let mut turn = Turn::new(BOOT_MS, seed * 77);
                for _ in 0..20_000 {
                    let (from, to) = (name(turn.random()), name(turn.random()));
                    if from == to {
                        continue;
                    }
                    keyspace.update_many(&mut turn, &[(Db(0), &from), (Db(0), &to)], |slots| {
                        let (from, to) = (amount(slots, 0), amount(slots, 1));
                        if from > 0 {
                            slots.slot(0).set(&(from - 1).to_le_bytes(), Attributes::PLAIN);
                            slots.slot(1).set(&(to + 1).to_le_bytes(), Attributes::PLAIN);
                        }
                    });
                    if turn.random().is_multiple_of(100) {
                        assert_eq!(total(keyspace, &mut turn, KEYS, &name), KEYS * EACH);
                    }
                }
            });
        }
    });
    assert_eq!(total(&keyspace, &mut turn, KEYS, &name), KEYS * EACH);
}

fn total(keyspace: &Keyspace, turn: &mut Turn, keys: u64, name: &dyn Fn(u64) -> Vec<u8>) -> u64 {
    let names: Vec<Vec<u8>> = (0..keys).map(name).collect();
    let mut total = 0;
    keyspace.read_many(turn, Db(0), names.iter().map(|name| &name[..]), Access::Touch, |_, entry| {
        total += u64::from_le_bytes(entry.expect("stored").value.try_into().expect("8 bytes"));
    });
    total
}

#[test]
fn everything_at_once_keeps_the_books() {
    let settings = Settings { shards: 8, policy: EvictionPolicy::AllKeysLru, memory_bytes_max: 256 << 10, ..SETTINGS };
    let keyspace = keyspace(settings);
    let versions: Vec<Vec<u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=THREADS)
            .map(|seed| {
                let keyspace = &keyspace;
                scope.spawn(move || run_mix(keyspace, seed * 991))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let given: usize = versions.iter().map(Vec::len).sum();
    assert!(given > 1000);
    assert_eq!(versions.into_iter().flatten().collect::<BTreeSet<u64>>().len(), given, "versions are unique");
    let mut turn = Turn::new(BOOT_MS, 5);
    // Until what prefixes made stale is gone.
    for _ in 0..20 {
        turn.now_ms += 500;
        keyspace.expire_cycle(&mut turn, 0..8, 100_000);
    }
    common::check_memory(&keyspace, &mut turn);
    assert!(keyspace.stats().evicted > 0, "the limit was reached");
    keyspace.flush(&mut turn, None);
    // What was taken out has memory until it is dropped.
    turn.effects.flushed.clear();
    assert_eq!(keyspace.used_bytes(), common::keyspace(settings).used_bytes());
}

fn run_mix(keyspace: &Keyspace, seed: u64) -> Vec<u64> {
    let mut turn = Turn::new(BOOT_MS, seed);
    let mut versions = Vec::new();
    for _ in 0..20_000 {
        let random = turn.random();
        let key = format!("key:{}", random >> 32 & 0xfff).into_bytes();
        match random % 1000 {
            0 => keyspace.flush(&mut turn, Some(Db(1))),
            1 => drop(scan_all(keyspace, &mut turn, Db(0), 100)),
            2 => _ = keyspace.expire_cycle(&mut turn, 0..8, 1000),
            3 => drop(keyspace.random_key(&mut turn, Db(0))),
            4 => drop(keyspace.stats()),
            5 => keyspace.invalidate_prefix(&mut turn, Db(0), &key[..key.len() - 1]),
            6..=200 => drop(keyspace.update(&mut turn, Db(0), &key, |slot| slot.remove())),
            201..=400 => drop(keyspace.read(&mut turn, Db(0), &key, Access::Touch, |entry| entry.value.to_vec())),
            _ => {
                let value = vec![seed as u8; (random >> 44 & 0x1ff) as usize];
                if try_set(keyspace, &mut turn, &key, &value, Attributes::PLAIN).is_ok() && random & 1 << 63 == 0 {
                    versions.push(set(keyspace, &mut turn, &key, &value));
                }
            }
        }
    }
    versions
}

/// The values are what a counter said when they were loaded. Whoever reads after a bump has returned must not see what the counter was
/// before it.
#[test]
fn no_read_after_a_bump_sees_what_was_loaded_before_it() {
    const KEYS: u64 = 4;
    const WRITES: u64 = 4_000;
    const WRITERS: u64 = 2;

    let keyspace = keyspace(Settings { shards: 2, ..SETTINGS });
    let (source, acknowledged, checked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let is_over = || acknowledged.load(SeqCst) >= WRITES * WRITERS;
    let check = |value: &[u8], oldest: u64| {
        let seen = u64::from_le_bytes(value.try_into().expect("8 bytes"));
        assert!(seen >= oldest, "{seen} was read after {oldest}");
        checked.fetch_add(1, SeqCst);
    };
    let read = |turn: &mut Turn| {
        let key = format!("key:{}", turn.random() % KEYS).into_bytes();
        let oldest = acknowledged.load(SeqCst);
        let claim = Claim {
            claimant: Claimant::Client,
            lease_ms: None,
            version_min: None,
            fresh_required: false,
            stale_ms_max: None,
            waiter: None,
        };
        if let Some(value) = keyspace.read(turn, Db(0), &key, Access::Touch, |entry| entry.value.to_vec()) {
            return check(&value, oldest);
        }
        match keyspace.claim(turn, Db(0), &key, claim) {
            Claimed::Hit { value, .. } => check(&value, oldest),
            Claimed::Lead { token, .. } => {
                let value = source.load(SeqCst).to_le_bytes();
                let tags = [keyspace.tag(b"tag"), keyspace.tag(&key)];
                let fill = Fill::Value {
                    value: &value,
                    expiry: Expiry::Never,
                    stale_for_ms: 0,
                    version: None,
                    client_flags: 0,
                    tags: &tags,
                };
                keyspace.fill(turn, Db(0), &key, token, fill);
            }
            _ => {
                // Whoever leads may have lost.
                turn.now_ms += 1;
                keyspace.sweep_leases(turn, 0..2);
            }
        }
    };
    thread::scope(|scope| {
        for seed in 1..=WRITERS {
            let (keyspace, source, acknowledged) = (&keyspace, &source, &acknowledged);
            scope.spawn(move || {
                let mut turn = Turn::new(BOOT_MS, seed);
                for _ in 0..WRITES {
                    let version = source.fetch_add(1, SeqCst) + 1;
                    match turn.random() % 8 {
                        0 => keyspace.invalidate_prefix(&mut turn, Db(0), b"key:"),
                        1 => (0..KEYS).for_each(|key| {
                            keyspace.invalidate_tag(&mut turn, format!("key:{key}").as_bytes());
                        }),
                        _ => keyspace.invalidate_tag(&mut turn, b"tag"),
                    }
                    // Of two writers the slower one says nothing of the faster one's.
                    while acknowledged.load(SeqCst) + 1 < version {
                        thread::yield_now();
                    }
                    acknowledged.store(version, SeqCst);
                    thread::yield_now();
                }
            });
        }
        for seed in 1..=3 {
            let (read, is_over) = (&read, &is_over);
            scope.spawn(move || {
                let mut turn = Turn::new(BOOT_MS, 100 + seed);
                while !is_over() {
                    read(&mut turn);
                }
            });
        }
        scope.spawn(|| {
            let mut turn = Turn::new(BOOT_MS, 9);
            while !is_over() {
                keyspace.expire_cycle(&mut turn, 0..2, 10);
                thread::yield_now();
            }
        });
    });
    keyspace.check();
    assert!(checked.into_inner() > 100);
}

#[test]
fn versions_of_a_later_boot_are_larger() {
    let newest = |boot_unix_ms, sets: u32| {
        let keyspace = keyspace(Settings { boot_unix_ms, shards: 64, ..SETTINGS });
        let mut turn = Turn::new(boot_unix_ms, 1);
        let versions = (0..sets).map(|number| set(&keyspace, &mut turn, &number.to_le_bytes(), b"v"));
        let versions: BTreeSet<u64> = versions.collect();
        assert_eq!(versions.len(), sets as usize);
        (versions.first().copied(), versions.last().copied())
    };
    let (_, last) = newest(BOOT_MS, 10_000);
    let (first, _) = newest(BOOT_MS + 1, 100);
    assert!(last < first);
}
