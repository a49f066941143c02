//! The log under every policy: nothing is lost that was not evicted, the counts are true, the limit holds, memory comes back.

mod common;

use common::{BOOT_MS, SETTINGS, check_memory, keyspace};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Expiry, Keyspace, Settings, Turn};
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Clone, Debug)]
enum Step {
    Set { key: u16, len: usize, ttl_ms: Option<u64> },
    Append { key: u16, len: usize },
    Expire { key: u16, ttl_ms: Option<u64> },
    Read { key: u16 },
    Version { key: u16 },
    Remove { key: u16 },
    Policy { policy: EvictionPolicy },
    Limit { kib: u64 },
    Cycle,
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..400_u16;
    let ttl = || prop::option::weighted(0.4, prop_oneof![1..500_u64, 1..5_000_000_u64]);
    let len = || prop_oneof![6 => 0..200_usize, 3 => 0..3000_usize, 1 => 0..60_000_usize];
    prop_oneof![
        20 => (key(), len(), ttl()).prop_map(|(key, len, ttl_ms)| Step::Set { key, len, ttl_ms }),
        5 => (key(), 1..400_usize).prop_map(|(key, len)| Step::Append { key, len }),
        3 => (key(), ttl()).prop_map(|(key, ttl_ms)| Step::Expire { key, ttl_ms }),
        20 => key().prop_map(|key| Step::Read { key }),
        2 => key().prop_map(|key| Step::Version { key }),
        5 => key().prop_map(|key| Step::Remove { key }),
        1 => prop::sample::select(&EvictionPolicy::ALL).prop_map(|policy| Step::Policy { policy }),
        1 => prop_oneof![Just(0), 256..2048_u64].prop_map(|kib| Step::Limit { kib }),
        1 => Just(Step::Cycle),
        2 => (0..700_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

fn name(key: u16) -> Vec<u8> {
    match key {
        0..4 => vec![b'l'; 5000 + usize::from(key)],
        _ => format!("key:{key}").into_bytes(),
    }
}

/// What was written last: an entry may be gone, but never another.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    value: Vec<u8>,
    expire_at_ms: Option<u64>,
}

fn run(settings: Settings, steps: &[Step]) {
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 3);
    let mut model: HashMap<u16, Written> = HashMap::new();
    for (number, step) in steps.iter().enumerate() {
        let now_ms = turn.now_ms;
        let fresh = |written: &Written| written.expire_at_ms.is_none_or(|at| now_ms < at);
        match *step {
            Step::Set { key, len, ttl_ms } => {
                let value: Vec<u8> = (0..len).map(|index| (index * 7 + number) as u8).collect();
                let expire_at_ms = ttl_ms.map(|ms| now_ms + ms);
                let expiry = expire_at_ms.map_or(Expiry::Never, Expiry::At);
                let attributes = Attributes { expiry, ..Attributes::PLAIN };
                let name = name(key);
                if keyspace.make_room(&mut turn, name.len() + len).is_ok() {
                    keyspace.update(&mut turn, Db(0), &name, |slot| slot.set(&value, attributes));
                    model.insert(key, Written { value, expire_at_ms });
                }
            }
            Step::Append { key, len } => {
                let name = name(key);
                if keyspace.make_room(&mut turn, name.len() + len).is_ok() {
                    let value = keyspace.update(&mut turn, Db(0), &name, |slot| {
                        let len_before = slot.entry().map_or(0, |entry| entry.value.len());
                        slot.value_mut(len_before + len)[len_before..].fill(number as u8);
                        slot.entry().map(|entry| entry.value.to_vec()).expect("just written")
                    });
                    let tail = vec![number as u8; len];
                    let before = model.get(&key).filter(|written| fresh(written));
                    if value.len() == len {
                        assert_eq!(value, tail);
                        let expire_at_ms = before.filter(|before| before.value.is_empty()).and_then(|b| b.expire_at_ms);
                        let found = read(&keyspace, &mut turn, key).expect("just written");
                        assert!(found.expire_at_ms.is_none() || found.expire_at_ms == expire_at_ms);
                        model.insert(key, found);
                    } else {
                        let before = before.expect("it was there");
                        assert_eq!(value, [&before.value[..], &tail].concat());
                        let expire_at_ms = before.expire_at_ms;
                        model.insert(key, Written { value, expire_at_ms });
                    }
                }
            }
            Step::Expire { key, ttl_ms } => {
                let expire_at_ms = ttl_ms.map(|ms| now_ms + ms);
                if keyspace.update(&mut turn, Db(0), &name(key), |slot| slot.set_expiry(expire_at_ms)) {
                    model.get_mut(&key).expect("it was written").expire_at_ms = expire_at_ms;
                }
            }
            Step::Read { key } => {
                if let Some(found) = read(&keyspace, &mut turn, key) {
                    assert_eq!(Some(&found), model.get(&key).filter(|written| fresh(written)));
                }
            }
            Step::Version { key } => {
                let ask = |turn: &mut Turn| keyspace.update(turn, Db(0), &name(key), |slot| slot.version());
                let (first, second) = (ask(&mut turn), ask(&mut turn));
                assert_eq!(first, second, "a version stays until the next write");
            }
            Step::Remove { key } => {
                keyspace.update(&mut turn, Db(0), &name(key), |slot| slot.remove());
                assert!(read(&keyspace, &mut turn, key).is_none());
                model.remove(&key);
            }
            Step::Policy { policy } => keyspace.set_policy(policy),
            Step::Limit { kib } => keyspace.set_memory_bytes_max(kib << 10),
            Step::Cycle => _ = keyspace.expire_cycle(&mut turn, 0..settings.shards, 2000),
            Step::Pass { ms } => turn.now_ms += ms,
        }
        if number % 8 == 0 {
            keyspace.check();
        }
    }
    keyspace.check();
    let stats = keyspace.stats();
    if stats.evicted == 0 {
        let now_ms = turn.now_ms;
        for (&key, written) in &model {
            let found = read(&keyspace, &mut turn, key);
            let expected = written.expire_at_ms.is_none_or(|at| now_ms < at).then(|| written.clone());
            assert_eq!(found, expected, "nothing was evicted");
        }
    }
    // Twice: what is moved to a segment that was just searched waits for its next search.
    for ms in [10_000_000, 500] {
        turn.now_ms += ms;
        keyspace.expire_cycle(&mut turn, 0..settings.shards, 1_000_000);
    }
    check_memory(&keyspace, &mut turn);
}

fn read(keyspace: &Keyspace, turn: &mut Turn, key: u16) -> Option<Written> {
    keyspace.read(turn, Db(0), &name(key), Access::Touch, |entry| Written {
        value: entry.value.to_vec(),
        expire_at_ms: entry.expire_at_ms,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_is_what_was_written_last(
        steps in prop::collection::vec(step(), 1..1500),
        shards in prop_oneof![Just(1_usize), Just(4)],
        policy in prop::sample::select(&EvictionPolicy::ALL),
        kib in prop_oneof![Just(0), 256..2048_u64],
    ) {
        run(Settings { shards, policy, memory_bytes_max: kib << 10, ..SETTINGS }, &steps);
    }
}

#[test]
fn dead_bytes_are_cleaned_up_while_entries_are_overwritten() {
    for policy in EvictionPolicy::ALL {
        let keyspace = keyspace(Settings { shards: 4, policy, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, 1);
        for round in 0..40_usize {
            for number in 0..5000_u32 {
                let len = 50 + (number as usize * 31 + round * 17) % 400;
                keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| {
                    slot.set(&vec![round as u8; len], Attributes::PLAIN);
                });
            }
        }
        let stats = keyspace.stats();
        assert_eq!(stats.entries, 5000);
        let segments = stats.used_bytes - stats.table_bytes;
        assert!(
            segments < stats.entry_bytes + stats.entry_bytes / 4 + (1 << 20),
            "{policy:?}: {segments} bytes of segments for {} of entries",
            stats.entry_bytes
        );
        check_memory(&keyspace, &mut turn);
    }
}

#[test]
fn appending_copies_a_value_a_few_times_only() {
    let keyspace = keyspace(Settings { shards: 1, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    let mut moves = 0;
    let mut memory_bytes_before = 0;
    for number in 0..40_000_usize {
        let memory_bytes = keyspace.update(&mut turn, Db(0), b"key", |slot| {
            slot.value_mut((number + 1) * 25)[number * 25..].fill(number as u8);
            slot.entry().map(|entry| entry.memory_bytes).expect("just written")
        });
        moves += usize::from(memory_bytes != memory_bytes_before);
        memory_bytes_before = memory_bytes;
    }
    assert!(moves < 150, "{moves} moves for 40,000 appends");
    assert!(memory_bytes_before < 1_000_000 * 5 / 4, "{memory_bytes_before} bytes for a value of 1,000,000");
}

#[test]
fn expired_entries_leave_memory_within_a_second_without_being_read() {
    let keyspace = keyspace(Settings { shards: 4, policy: EvictionPolicy::AllKeysTinyLfu, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..50_000_u64 {
        let attributes = Attributes { expiry: Expiry::At(turn.now_ms + 1 + number % 5000), ..Attributes::PLAIN };
        keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.set(&[7; 100], attributes));
    }
    let full = keyspace.stats().used_bytes;
    for tenth in 1..=60_u64 {
        turn.now_ms = BOOT_MS + tenth * 100;
        keyspace.expire_cycle(&mut turn, 0..4, 50_000);
        let over_for_a_second = (tenth * 100).saturating_sub(1000).min(5000) * 10;
        let left = keyspace.stats().entries;
        assert!(left <= 50_000 - over_for_a_second, "{left} entries are left after {tenth} tenths of a second");
    }
    assert_eq!(keyspace.stats().entries, 0);
    let empty = keyspace.stats().used_bytes;
    assert!(empty < full / 8, "{empty} bytes are left of {full}");
}
