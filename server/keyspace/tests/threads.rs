//! Many threads at once: nobody waits in a circle, nothing is lost, no version is given twice.

mod common;

use common::{BOOT_MS, SETTINGS, keyspace, scan_all, set, try_set};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Keyspace, Settings, Turn};
use std::collections::BTreeSet;
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
    common::check_memory(&keyspace, &mut turn);
    assert!(keyspace.stats().evicted > 0, "the limit was reached");
    keyspace.flush(&mut turn, None);
    // What was taken out has memory until it is dropped.
    turn.effects.flushed.clear();
    assert_eq!(keyspace.used_bytes(), common::keyspace(settings).stats().used_bytes);
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
            5..=200 => drop(keyspace.update(&mut turn, Db(0), &key, |slot| slot.remove())),
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
