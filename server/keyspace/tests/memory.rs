//! The memory limit: it holds, and what goes is what is least missed.

mod common;

use common::{BOOT_MS, SETTINGS, check_memory, has, keyspace, set, set_with, try_set};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Expiry, Keyspace, OutOfMemory, Settings, Turn};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// What one command may add beyond the bytes it asked room for: rounding, and the growth of a table.
const SLACK_BYTES: u64 = 64 << 10;

const POLICIES: [EvictionPolicy; 5] = [
    EvictionPolicy::AllKeysLru,
    EvictionPolicy::AllKeysRandom,
    EvictionPolicy::VolatileLru,
    EvictionPolicy::VolatileRandom,
    EvictionPolicy::VolatileTtl,
];

fn expiring(turn: &Turn, ms: u64) -> Attributes {
    Attributes { expiry: Expiry::At(turn.now_ms + ms), ..Attributes::PLAIN }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn limit_holds_for_values_of_all_sizes(
        policy in prop::sample::select(&POLICIES),
        shards in prop_oneof![Just(1_usize), Just(16)],
        sizes in prop::collection::vec(prop_oneof![4 => 0..100_usize, 2 => 0..5000_usize, 1 => 0..200_000_usize], 500),
        seed in any::<u64>(),
    ) {
        let memory_bytes_max = 2 << 20;
        let keyspace = keyspace(Settings { shards, policy, memory_bytes_max, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, seed);
        let mut stored = 0;
        for round in 0..4 {
            for (number, size) in sizes.iter().enumerate() {
                let key = format!("{round}:{number}");
                let attributes = expiring(&turn, 1_000_000);
                let done = try_set(&keyspace, &mut turn, key.as_bytes(), &vec![7; *size], attributes);
                prop_assert!(done.is_ok(), "all entries have a TTL, so room can be made");
                stored += 1;
                let used = keyspace.stats().used_bytes;
                let rounding = *size as u64 / 4;
                prop_assert!(used <= memory_bytes_max + memory_bytes_max / 64 + rounding + SLACK_BYTES, "{} bytes", used);
                turn.now_ms += 10;
            }
        }
        let stats = keyspace.stats();
        prop_assert_eq!(stats.entries + stats.evicted, stored);
        check_memory(&keyspace, &mut turn);
    }
}

#[test]
fn a_volatile_policy_finds_what_it_may_evict_behind_entries_that_stay() {
    for policy in [EvictionPolicy::VolatileLru, EvictionPolicy::VolatileTinyLfu, EvictionPolicy::VolatileTtl] {
        let keyspace = keyspace(Settings { shards: 1, policy, memory_bytes_max: 9 << 20, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, 1);
        for number in 0..60_000_u32 {
            let attributes = expiring(&turn, 1_000_000);
            set_with(&keyspace, &mut turn, Db(0), &number.to_le_bytes(), &[1; 100], attributes);
        }
        // They stay in their list, as PERSIST writes no new entry.
        for number in 0..60_000_u32 {
            keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.set_expiry(None));
        }
        for number in 0..30_000_u32 {
            let attributes = expiring(&turn, 1_000_000);
            let done = try_set(&keyspace, &mut turn, format!("ttl:{number}").as_bytes(), &[2; 100], attributes);
            assert!(done.is_ok(), "{policy:?}: entry {number} found no room");
        }
        let stays = (0..60_000_u32).filter(|number| has(&keyspace, &mut turn, &number.to_le_bytes())).count();
        assert_eq!(stays, 60_000, "{policy:?}");
        assert!(keyspace.stats().evicted > 0, "{policy:?}: the limit is too high for this test");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set { key: u16, len: usize, ttl_ms: Option<u64> },
    Read { key: u16 },
    Expire { key: u16, ttl_ms: Option<u64> },
    Remove { key: u16 },
    Policy(EvictionPolicy),
    Cycle,
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..600_u16;
    let ttl = || prop::option::of(prop_oneof![1..2000_u64, 1_000_000..2_000_000_u64]);
    let len = prop_oneof![6 => 0..300_usize, 3 => 0..3000_usize, 1 => 0..30_000_usize];
    prop_oneof![
        30 => (key(), len, ttl()).prop_map(|(key, len, ttl_ms)| Step::Set { key, len, ttl_ms }),
        20 => key().prop_map(|key| Step::Read { key }),
        3 => (key(), ttl()).prop_map(|(key, ttl_ms)| Step::Expire { key, ttl_ms }),
        3 => key().prop_map(|key| Step::Remove { key }),
        1 => prop::sample::select(&EvictionPolicy::ALL).prop_map(Step::Policy),
        1 => Just(Step::Cycle),
        2 => (0..500_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// Keys that are there, with their times of expiry.
fn resident(keyspace: &Keyspace, turn: &mut Turn) -> BTreeMap<Vec<u8>, Option<u64>> {
    let mut found = BTreeMap::new();
    let mut cursor = 0;
    loop {
        cursor = keyspace.scan(turn, Db(0), cursor, 1000, |entry| {
            found.insert(entry.key.to_vec(), entry.expire_at_ms);
        });
        if cursor == 0 {
            return found;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_policy_keeps_the_limit_and_what_it_must_not_evict(
        first in prop::sample::select(&EvictionPolicy::ALL),
        shards in prop_oneof![Just(1_usize), Just(8)],
        switches in any::<bool>(),
        steps in prop::collection::vec(step(), 300..1500),
    ) {
        let memory_bytes_max = 512 << 10;
        let keyspace = keyspace(Settings { shards, policy: first, memory_bytes_max, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, 5);
        let mut policy = first;
        let mut before = BTreeMap::new();
        let mut evicted_before = 0;
        for step in steps {
            let mut written = None;
            match step {
                Step::Set { key, len, ttl_ms } => {
                    let key = key.to_le_bytes();
                    let attributes = ttl_ms.map_or(Attributes::PLAIN, |ms| expiring(&turn, ms));
                    let done = try_set(&keyspace, &mut turn, &key, &vec![7; len], attributes);
                    let must_fit = policy != EvictionPolicy::NoEviction && !policy.is_volatile();
                    prop_assert!(done.is_ok() || !must_fit, "{:?} can always make room", policy);
                    written = Some(key);
                    let used = keyspace.stats().used_bytes;
                    let bound = memory_bytes_max + memory_bytes_max / 64 + len as u64 / 4 + SLACK_BYTES;
                    prop_assert!(used <= bound, "{:?}: {} bytes", policy, used);
                }
                Step::Read { key } => _ = has(&keyspace, &mut turn, &key.to_le_bytes()),
                Step::Expire { key, ttl_ms } => {
                    let expire_at_ms = ttl_ms.map(|ms| turn.now_ms + ms);
                    keyspace.update(&mut turn, Db(0), &key.to_le_bytes(), |slot| slot.set_expiry(expire_at_ms));
                    written = Some(key.to_le_bytes());
                }
                Step::Remove { key } => {
                    keyspace.update(&mut turn, Db(0), &key.to_le_bytes(), |slot| slot.remove());
                    written = Some(key.to_le_bytes());
                }
                Step::Policy(next) if switches => {
                    keyspace.set_policy(next);
                    prop_assert_eq!(&resident(&keyspace, &mut turn), &before, "a change of policy loses nothing");
                    policy = next;
                }
                Step::Policy(_) => {}
                Step::Cycle => _ = keyspace.expire_cycle(&mut turn, 0..shards, 500),
                Step::Pass { ms } => turn.now_ms += ms,
            }
            let now = resident(&keyspace, &mut turn);
            let lost = before.iter().filter(|&(key, expire_at_ms)| {
                !now.contains_key(key)
                    && expire_at_ms.is_none_or(|at: u64| turn.now_ms < at)
                    && written.is_none_or(|written| key[..] != written)
            });
            let evicted = keyspace.stats().evicted;
            match policy {
                EvictionPolicy::NoEviction => {
                    prop_assert_eq!(evicted, evicted_before);
                    prop_assert_eq!(lost.count(), 0, "noeviction evicts nothing");
                }
                _ if policy.is_volatile() => {
                    let kept = lost.filter(|(_, expire_at_ms)| expire_at_ms.is_none()).count();
                    prop_assert_eq!(kept, 0, "{:?} evicts no entry without a TTL", policy);
                }
                _ => prop_assert!(lost.count() as u64 <= evicted - evicted_before, "what is gone was evicted"),
            }
            (before, evicted_before) = (now, evicted);
        }
        keyspace.check();
    }
}

#[test]
fn without_eviction_writes_are_refused_and_nothing_goes() {
    let keyspace = keyspace(Settings { memory_bytes_max: 1 << 20, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    let mut stored = 0;
    while try_set(&keyspace, &mut turn, format!("{stored}").as_bytes(), &[0; 1000], Attributes::PLAIN).is_ok() {
        stored += 1;
        assert!(stored < 2000);
    }
    assert!(stored > 700, "{stored} values of 1,000 bytes fit in 1 MiB");
    assert_eq!(keyspace.len(Db(0)), stored);
    assert_eq!(keyspace.make_room(&mut turn, 1000), Err(OutOfMemory));
    // Memory comes back by the segment: a few entries less leave gaps, these many leave some of them empty.
    for number in 0..64 {
        keyspace.update(&mut turn, Db(0), number.to_string().as_bytes(), |slot| slot.remove());
    }
    assert_eq!(keyspace.make_room(&mut turn, 1000), Ok(()));
}

#[test]
fn volatile_policies_leave_entries_without_ttl() {
    for policy in [EvictionPolicy::VolatileLru, EvictionPolicy::VolatileRandom, EvictionPolicy::VolatileTtl] {
        let keyspace = keyspace(Settings { memory_bytes_max: 1 << 20, policy, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, 1);
        for number in 0..300 {
            set(&keyspace, &mut turn, format!("keep:{number}").as_bytes(), &[0; 1000]);
        }
        for number in 0..2000 {
            let attributes = expiring(&turn, 1_000_000);
            try_set(&keyspace, &mut turn, format!("go:{number}").as_bytes(), &[0; 1000], attributes)
                .expect("older ones can go");
        }
        assert!((0..300).all(|number| has(&keyspace, &mut turn, format!("keep:{number}").as_bytes())), "{policy:?}");
        let fill = (0..2000).find(|number| {
            let key = format!("fill:{number}");
            try_set(&keyspace, &mut turn, key.as_bytes(), &[0; 1000], Attributes::PLAIN).is_err()
        });
        assert!(fill.is_some(), "{policy:?}: once no entry with a TTL is left, memory is out");
        assert_eq!(keyspace.counts()[0].with_ttl, 0);
    }
}

#[test]
fn volatile_ttl_evicts_what_ends_soonest() {
    let settings = Settings { policy: EvictionPolicy::VolatileTtl, memory_bytes_max: 1 << 20, ..SETTINGS };
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..3000_u64 {
        // Every second entry lives long.
        let ms = if number % 2 == 0 { 1_000_000 + number } else { 10_000 + number };
        let attributes = expiring(&turn, ms);
        try_set(&keyspace, &mut turn, format!("{number}").as_bytes(), &[0; 500], attributes).expect("room");
    }
    let mut left = |first: u64| {
        (first..3000).step_by(2).filter(|number| has(&keyspace, &mut turn, format!("{number}").as_bytes())).count()
    };
    let (long, short) = (left(0), left(1));
    assert!(long > 4 * short, "{long} entries with a long TTL are left, {short} with a short one");
}

#[test]
fn expired_entries_go_before_live_ones() {
    let settings = Settings { policy: EvictionPolicy::AllKeysLru, memory_bytes_max: 1 << 20, ..SETTINGS };
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..600 {
        let attributes = if number % 3 == 0 { Attributes::PLAIN } else { expiring(&turn, 100) };
        try_set(&keyspace, &mut turn, format!("{number}").as_bytes(), &[0; 900], attributes).expect("room");
    }
    turn.now_ms += 1000;
    for number in 600..1100 {
        try_set(&keyspace, &mut turn, format!("{number}").as_bytes(), &[0; 900], Attributes::PLAIN).expect("room");
    }
    let stats = keyspace.stats();
    assert!(stats.expired > 80, "{} of 400 expired entries were found", stats.expired);
    assert!(stats.evicted < stats.expired / 4, "{} live entries were evicted", stats.evicted);
}

#[test]
fn a_lowered_limit_is_reached_in_slices() {
    let keyspace = keyspace(Settings { policy: EvictionPolicy::AllKeysLru, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..20_000 {
        set(&keyspace, &mut turn, format!("{number}").as_bytes(), &[0; 100]);
    }
    let limit = keyspace.stats().used_bytes / 2;
    keyspace.set_memory_bytes_max(limit);
    keyspace.make_room(&mut turn, 100).expect("room");
    let evicted = keyspace.stats().evicted;
    assert!((1..100).contains(&evicted), "{evicted} evictions in one write");
    let mut cycles = 0;
    while keyspace.stats().used_bytes > limit {
        let evicted_before = keyspace.stats().evicted;
        let cycle = keyspace.expire_cycle(&mut turn, 0..16, 4_096);
        assert!(keyspace.stats().evicted - evicted_before <= 1024);
        assert!(cycle.is_behind || keyspace.stats().used_bytes <= limit);
        cycles += 1;
        assert!(cycles < 100);
    }
    check_memory(&keyspace, &mut turn);
}

#[test]
fn a_value_larger_than_the_limit_evicts_nothing() {
    let settings = Settings { policy: EvictionPolicy::AllKeysLru, memory_bytes_max: 1 << 20, ..SETTINGS };
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 1);
    set(&keyspace, &mut turn, b"key", b"value");
    assert_eq!(keyspace.make_room(&mut turn, 2 << 20), Err(OutOfMemory));
    assert!(has(&keyspace, &mut turn, b"key"));
}

#[test]
fn peak_remembers_the_most_until_reset() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    set(&keyspace, &mut turn, b"key", &vec![0; 1 << 20]);
    keyspace.flush(&mut turn, None);
    // What was taken out has memory until it is dropped.
    turn.effects.flushed.clear();
    assert!(keyspace.stats().used_bytes_peak > 1 << 20);
    assert!(keyspace.used_bytes() < 1 << 16);
    keyspace.reset_stats();
    assert!(keyspace.stats().used_bytes_peak < 1 << 16);
}

/// Key numbers of a skewed stream: log-uniform, so about as often in 10 to 100 as in 100 to 1000.
fn skewed(turn: &mut Turn, keys: f64) -> u64 {
    let unit = (turn.random() >> 11) as f64 / (1_u64 << 53) as f64;
    keys.powf(unit) as u64
}

/// Share of reads that hit, and entries held at the end, for a cache-aside client.
fn hit_ratio(policy: EvictionPolicy) -> (f64, usize) {
    const READS: usize = 100_000;

    let keyspace = keyspace(Settings { shards: 4, policy, memory_bytes_max: 600 << 10, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 99);
    for _ in 0..READS {
        let key = skewed(&mut turn, 20_000.0).to_string();
        if !has(&keyspace, &mut turn, key.as_bytes()) {
            try_set(&keyspace, &mut turn, key.as_bytes(), &[0; 200], Attributes::PLAIN).expect("room");
        }
        turn.now_ms += 13;
    }
    let stats = keyspace.stats();
    assert_eq!(stats.hits + stats.misses, READS as u64);
    (stats.hits as f64 / READS as f64, keyspace.len(Db(0)))
}

/// The same stream against a true LRU list of `capacity` entries.
fn hit_ratio_of_true_lru(capacity: usize) -> f64 {
    const READS: usize = 100_000;

    let mut turn = Turn::new(BOOT_MS, 99);
    let mut last_use: HashMap<u64, usize> = HashMap::new();
    let mut by_use: BTreeMap<usize, u64> = BTreeMap::new();
    let mut hits = 0;
    for read in 0..READS {
        let key = skewed(&mut turn, 20_000.0);
        if let Some(before) = last_use.insert(key, read) {
            by_use.remove(&before);
            hits += 1;
        } else if last_use.len() > capacity {
            let (_, oldest) = by_use.pop_first().expect("as many as in last_use");
            last_use.remove(&oldest);
        }
        by_use.insert(read, key);
    }
    hits as f64 / READS as f64
}

#[test]
fn lru_beats_random_and_comes_close_to_true_lru() {
    let (lru, entries) = hit_ratio(EvictionPolicy::AllKeysLru);
    let (random, _) = hit_ratio(EvictionPolicy::AllKeysRandom);
    let true_lru = hit_ratio_of_true_lru(entries);
    assert!(lru > random + 0.01, "LRU {lru}, random {random}");
    assert!(lru > true_lru - 0.01, "LRU {lru}, true LRU {true_lru}");
}

#[test]
fn quiet_reads_change_neither_recency_nor_counters() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    set(&keyspace, &mut turn, b"key", b"value");
    turn.now_ms += 60_000;
    let idle = |keyspace: &Keyspace, turn: &mut Turn, access| {
        keyspace.read(turn, Db(0), b"key", access, |entry| entry.idle_ms).expect("stored")
    };
    // The clock of uses goes by 4 seconds.
    let about_a_minute = 60_000 - 4096..60_000 + 4096;
    assert!(about_a_minute.contains(&idle(&keyspace, &mut turn, Access::Quiet)));
    keyspace.read(&mut turn, Db(0), b"none", Access::Quiet, |_| ());
    keyspace.lookup(&mut turn, Db(0), b"key", Access::Quiet, |_| ());
    let stats = keyspace.stats();
    assert_eq!((stats.hits, stats.misses), (0, 0));
    assert_eq!(idle(&keyspace, &mut turn, Access::Touch), 0, "told to quiet readers only");
    assert_eq!(idle(&keyspace, &mut turn, Access::Quiet), 0);
    assert_eq!(keyspace.stats().hits, 1);
}

#[test]
fn prefetch_of_any_keys_changes_nothing() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..5000 {
        set(&keyspace, &mut turn, format!("{number}").as_bytes(), &[0; 1000]);
    }
    let before = format!("{:?}", keyspace.stats());
    for first in (0..6000).step_by(7) {
        let keys: Vec<String> = (first..first + first % 40).map(|number| number.to_string()).collect();
        keyspace.prefetch(Db(0), keys.iter().map(|key| key.as_bytes()));
    }
    assert_eq!(format!("{:?}", keyspace.stats()), before);
}

#[test]
fn tables_give_their_memory_back_when_entries_go() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..50_000 {
        set(&keyspace, &mut turn, format!("{number}").as_bytes(), b"v");
    }
    let full = keyspace.stats().table_bytes;
    assert!(full < 50_000 * 25, "{full} bytes of tables for 50,000 entries");
    for number in 0..50_000 {
        keyspace.update(&mut turn, Db(0), format!("{number}").as_bytes(), |slot| slot.remove());
    }
    let empty = keyspace.stats().table_bytes;
    assert!(empty < full / 10, "{empty} bytes of {full} are left");
}

#[test]
fn one_cycle_with_steps_enough_removes_all_that_expired() {
    for shards in [1, 16] {
        let keyspace = keyspace(Settings { shards, ..SETTINGS });
        let mut turn = Turn::new(BOOT_MS, 1);
        for number in 0..5000 {
            let attributes = expiring(&turn, if number % 100 == 0 { 1_000_000 } else { 1000 });
            try_set(&keyspace, &mut turn, format!("{number}").as_bytes(), b"v", attributes).expect("room");
        }
        turn.now_ms += 1000;
        assert_eq!(keyspace.expire_cycle(&mut turn, 0..shards, 1_000_000).removed, 4950);
        assert_eq!(keyspace.len(Db(0)), 50);
        assert_eq!(keyspace.stats().expired, 4950);
    }
}
