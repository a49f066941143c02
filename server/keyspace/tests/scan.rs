//! SCAN and RANDOMKEY while the tables change.

mod common;

use common::{BOOT_MS, SETTINGS, keyspace, scan_all, set};
use leasehold_keyspace::{Attributes, Db, Settings, Turn};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn scan_visits_what_stays_while_tables_split_and_shrink(
        shards in prop_oneof![Just(1_usize), Just(8)],
        stable in 0..3000_u32,
        passing_before in prop_oneof![Just(0_u32), 1..20_000_u32],
        count in 1..300_usize,
        seed in any::<u64>(),
        inserts_per_call in prop_oneof![Just(0_u32), 1..20_u32, 100..600_u32],
    ) {
        let keyspace = keyspace(Settings { shards, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, seed);
        for number in 0..stable {
            set(&keyspace, &mut turn, format!("stable:{number}").as_bytes(), b"v");
        }
        let passing = |number: u32| format!("passing:{number}").into_bytes();
        let mut next = 0_u32;
        while next < passing_before {
            set(&keyspace, &mut turn, &passing(next), b"v");
            next += 1;
        }
        let mut gone = 0;
        let mut found = BTreeSet::new();
        let mut cursor = 0;
        loop {
            cursor = keyspace.scan(&mut turn, Db(0), cursor, count, |entry| {
                found.insert(entry.key.to_vec());
            });
            if cursor == 0 {
                break;
            }
            for _ in 0..inserts_per_call {
                // Growth ends, so that the scan can; what was there before goes quickly, what came since slowly.
                if next < 30_000 {
                    set(&keyspace, &mut turn, &passing(next), b"v");
                    next += 1;
                }
                for _ in 0..3 {
                    keyspace.update(&mut turn, Db(0), &passing(gone), |slot| slot.remove());
                    gone += u32::from(gone < passing_before);
                }
                let victim = turn.random() as u32 % next.max(1);
                keyspace.update(&mut turn, Db(0), &passing(victim), |slot| slot.remove());
                // A new value, and a block of another size, do not move an entry.
                let rewritten = format!("stable:{}", turn.random() as u32 % stable.max(1));
                if stable > 0 {
                    set(&keyspace, &mut turn, rewritten.as_bytes(), &vec![b'x'; (victim % 500) as usize]);
                }
            }
        }
        for number in 0..stable {
            let key = format!("stable:{number}").into_bytes();
            prop_assert!(found.contains(&key), "stable:{} was missed", number);
        }
    }

    #[test]
    fn made_up_cursors_do_no_harm(cursor in any::<u64>(), count in any::<usize>()) {
        let keyspace = keyspace(SETTINGS);
        let mut turn = Turn::new(BOOT_MS, 1);
        for number in 0..2000 {
            set(&keyspace, &mut turn, format!("{number}").as_bytes(), b"v");
        }
        keyspace.scan(&mut turn, Db(0), cursor, count, |_| ());
    }
}

#[test]
fn scan_ends_in_a_quiet_keyspace_having_seen_each_entry_once() {
    let keyspace = keyspace(Settings { shards: 4, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..20_000 {
        set(&keyspace, &mut turn, format!("{number}").as_bytes(), b"v");
    }
    let mut seen = 0;
    let mut calls = 0;
    let mut cursor = 0;
    loop {
        let seen_before = seen;
        cursor = keyspace.scan(&mut turn, Db(0), cursor, 50, |_| seen += 1);
        assert!(seen - seen_before <= 50 + 40, "a call may finish a bucket and those it is split into");
        calls += 1;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen, 20_000);
    assert!(calls < 450, "{calls} calls for 20,000 entries, 50 at a time");
}

#[test]
fn one_call_shows_a_small_keyspace() {
    let keyspace = keyspace(Settings { shards: 64, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..5 {
        set(&keyspace, &mut turn, format!("{number}").as_bytes(), b"v");
    }
    let mut seen = 0;
    assert_eq!(keyspace.scan(&mut turn, Db(0), 0, 10, |_| seen += 1), 0);
    assert_eq!(seen, 5);
}

#[test]
fn random_key_finds_all_of_a_few_and_the_only_one_of_its_database() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    assert_eq!(keyspace.random_key(&mut turn, Db(0)), None);
    for number in 0..3000 {
        set(&keyspace, &mut turn, format!("{number}").as_bytes(), b"v");
    }
    keyspace.update(&mut turn, Db(3), b"alone", |slot| slot.set(b"v", Attributes::PLAIN));
    assert_eq!(keyspace.random_key(&mut turn, Db(3)), Some(b"alone".to_vec()));
    let mut drawn: HashMap<Vec<u8>, u32> = HashMap::new();
    for _ in 0..30_000 {
        *drawn.entry(keyspace.random_key(&mut turn, Db(0)).expect("not empty")).or_default() += 1;
    }
    // Of 3000, each is drawn 10 times on average.
    assert!(drawn.len() > 2800, "{} of 3000 keys were ever drawn", drawn.len());
    assert!(drawn.values().all(|&times| times < 100));
}

#[test]
fn flush_of_one_database_leaves_the_others() {
    let keyspace = keyspace(Settings { shards: 2, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..5000 {
        let db = Db((number % 2) as u8);
        keyspace.update(&mut turn, db, format!("{number}").as_bytes(), |slot| slot.set(b"v", Attributes::PLAIN));
    }
    keyspace.flush(&mut turn, Some(Db(1)));
    assert_eq!((keyspace.len(Db(0)), keyspace.len(Db(1))), (2500, 0));
    assert_eq!(scan_all(&keyspace, &mut turn, Db(0), 100).len(), 2500);
    common::check_memory(&keyspace, &mut turn);
}
