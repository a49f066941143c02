//! What operators are told: the bytes add up, and each counter is that of the policy it stands under.

mod common;

use common::{BOOT_MS, SETTINGS, has, keyspace, try_set};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Expiry, Keyspace, Settings, Stats, Turn};
use proptest::prelude::*;

/// What `MEMORY USAGE` says of an entry's place in the index.
const PLACE_BYTES: u64 = 5;

/// Sum of what `MEMORY USAGE` says of every key, and how many there are.
fn usage(keyspace: &Keyspace, turn: &mut Turn) -> (u64, u64) {
    let (mut bytes, mut keys) = (0, 0);
    let mut cursor = 0;
    loop {
        let mut found = Vec::new();
        cursor = keyspace.scan(turn, Db(0), cursor, 500, |entry| found.push(entry.key.to_vec()));
        for key in found {
            bytes += keyspace
                .read(turn, Db(0), &key, Access::Quiet, |entry| entry.memory_bytes as u64)
                .expect("it was just scanned");
            keys += 1;
        }
        if cursor == 0 {
            return (bytes, keys);
        }
    }
}

/// The parts that `INFO` documents, without those that belong to an entry.
fn fixed_bytes(stats: &Stats) -> u64 {
    stats.dead_bytes
        + stats.free_bytes
        + stats.gap_bytes
        + stats.segment_table_bytes
        + (stats.index_bytes - PLACE_BYTES * stats.entries)
        + stats.sketch_bytes
        + stats.absence_bytes
        + stats.lease_bytes
        + stats.shadow_bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn usage_of_all_keys_and_the_fixed_parts_are_the_used_memory(
        policy in prop::sample::select(&EvictionPolicy::ALL),
        memory_bytes_max in prop_oneof![Just(0_u64), Just(2 << 20)],
        sizes in prop::collection::vec(prop_oneof![6 => 0..300_usize, 2 => 0..9_000_usize, 1 => 0..150_000_usize], 600),
        seed in any::<u64>(),
    ) {
        let keyspace = keyspace(Settings { shards: 4, policy, memory_bytes_max, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, seed);
        for (number, &size) in sizes.iter().enumerate() {
            let key = format!("key:{}", turn.random() % 400);
            let expiry = if number % 3 == 0 { Expiry::Never } else { Expiry::At(turn.now_ms + 3_600_000) };
            let attributes = Attributes { expiry, ..Attributes::PLAIN };
            let _ = try_set(&keyspace, &mut turn, key.as_bytes(), &vec![1; size], attributes);
            match turn.random() % 8 {
                0 => {
                    keyspace.update(&mut turn, Db(0), key.as_bytes(), |slot| slot.remove());
                }
                1 => keyspace.update(&mut turn, Db(0), key.as_bytes(), |slot| {
                    slot.value_mut(size + 10);
                }),
                _ => {}
            }
            turn.now_ms += 5;
        }
        let (usage, keys) = usage(&keyspace, &mut turn);
        let stats = keyspace.stats();
        prop_assert_eq!(keys, stats.entries);
        prop_assert_eq!(usage, stats.entry_bytes + PLACE_BYTES * keys);
        prop_assert_eq!(usage + fixed_bytes(&stats), stats.used_bytes);
    }
}

#[test]
fn counters_stand_under_the_policy_that_was_in_force() {
    let settings = Settings { shards: 1, policy: EvictionPolicy::AllKeysLru, memory_bytes_max: 1 << 20, ..SETTINGS };
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 1);
    let fill = |turn: &mut Turn, keys: std::ops::Range<u32>| {
        for number in keys {
            let key = format!("{number}");
            if !has(&keyspace, turn, key.as_bytes()) {
                try_set(&keyspace, turn, key.as_bytes(), &[0; 1000], Attributes::PLAIN).expect("room can be made");
            }
        }
    };
    fill(&mut turn, 0..2_000);
    keyspace.set_policy(EvictionPolicy::AllKeysTinyLfu);
    for _ in 0..4 {
        fill(&mut turn, 5_000..7_000);
    }
    let stats = keyspace.stats();
    let of = |policy: EvictionPolicy| stats.policies[policy as usize];
    let (lru, tinylfu) = (of(EvictionPolicy::AllKeysLru), of(EvictionPolicy::AllKeysTinyLfu));
    assert_eq!((lru.hits, lru.misses), (0, 2_000));
    assert!(lru.evicted > 900 && lru.admitted == 0 && lru.rejected == 0, "{lru:?}");
    assert_eq!(tinylfu.hits + tinylfu.misses, 8_000);
    assert!(tinylfu.admitted > 0 && tinylfu.rejected > 0 && tinylfu.rejected <= tinylfu.evicted, "{tinylfu:?}");
    assert_eq!(lru.evicted + tinylfu.evicted, stats.evicted);
    assert_eq!(lru.hits + tinylfu.hits, stats.hits);
    assert!(stats.sketch_bytes > 0 && stats.window_bytes > 0 && stats.segments > 4, "{stats:?}");
    keyspace.reset_stats();
    assert!(keyspace.stats().policies.iter().all(|counts| *counts == Default::default()));
}

#[test]
fn a_changed_policy_takes_its_memory_and_gives_it_back_in_slices() {
    const SLICE_BYTES_MAX: u64 = 70 << 10;

    let keyspace = keyspace(Settings { shards: 1, policy: EvictionPolicy::AllKeysLru, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..100_000_u32 {
        keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.set(&[7; 80], Attributes::PLAIN));
    }
    keyspace.set_policy(EvictionPolicy::AllKeysTinyLfu);
    let sketch_bytes = || keyspace.stats().sketch_bytes;
    assert!(sketch_bytes() <= 2 << 10, "nothing is done for each entry at once");
    let mut slices = 0;
    while sketch_bytes() < 350_000 {
        let before = sketch_bytes();
        keyspace.expire_cycle(&mut turn, 0..1, 1000);
        assert!((1..=SLICE_BYTES_MAX).contains(&(sketch_bytes() - before)), "{before} to {}", sketch_bytes());
        slices += 1;
    }
    assert!(slices >= 5, "{slices} slices");
    keyspace.set_policy(EvictionPolicy::AllKeysLru);
    while sketch_bytes() > 0 {
        let before = sketch_bytes();
        assert_eq!(keyspace.stats().used_bytes, keyspace.used_bytes(), "what is not yet given back is counted");
        keyspace.expire_cycle(&mut turn, 0..1, 1000);
        assert!((1..=SLICE_BYTES_MAX).contains(&(before - sketch_bytes())), "{before} to {}", sketch_bytes());
    }
    keyspace.check();
}

#[test]
fn frequency_is_told_where_it_is_counted() {
    for policy in EvictionPolicy::ALL {
        let keyspace = keyspace(Settings { policy, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, 1);
        try_set(&keyspace, &mut turn, b"hot", b"1", Attributes::PLAIN).expect("there is no limit");
        try_set(&keyspace, &mut turn, b"cold", b"1", Attributes::PLAIN).expect("there is no limit");
        (0..5).for_each(|_| assert!(has(&keyspace, &mut turn, b"hot")));
        let mut frequency = |key: &[u8]| {
            keyspace.read(&mut turn, Db(0), key, Access::Quiet, |entry| entry.frequency).expect("it is there")
        };
        let (hot, cold) = (frequency(b"hot"), frequency(b"cold"));
        let counts = format!("{policy:?}").ends_with("Lfu");
        assert_eq!((hot.is_some(), cold.is_some()), (counts, counts), "{policy:?}");
        if counts {
            assert!(hot > cold, "{policy:?}: {hot:?} {cold:?}");
        }
    }
}
