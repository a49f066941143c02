//! What is noted for operators: hot keys, large entries, sizes, and shares by prefix and loader.

mod common;

use common::{BOOT_MS, SETTINGS, has, keyspace, set, try_set};
use leasehold_keyspace::{
    Attributes, Db, EvictionPolicy, Expiry, Keyspace, Settings, Share, Shares, SizeHistogram, Turn,
};
use std::collections::BTreeMap;

fn prefix<'s>(shares: &'s Shares, name: &str) -> &'s Share {
    let found = shares.prefixes.iter().find(|(found, _)| found == name.as_bytes());
    &found.unwrap_or_else(|| panic!("no {name} in {shares:?}")).1
}

/// Entries and bytes by prefix, from all keys.
fn exact(keyspace: &Keyspace, turn: &mut Turn) -> BTreeMap<String, (u64, u64)> {
    let mut shares: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut cursor = 0;
    loop {
        cursor = keyspace.scan(turn, Db(0), cursor, 1000, |entry| {
            let key = String::from_utf8_lossy(entry.key).into_owned();
            let share = shares.entry(key.split(':').next().unwrap_or_default().to_owned()).or_default();
            share.0 += 1;
            share.1 += entry.memory_bytes as u64;
        });
        if cursor == 0 {
            return shares;
        }
    }
}

#[test]
fn few_keys_and_few_requests_are_counted_exactly() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    keyspace.attribute_to_loaders(Box::new(|_, key| if key.starts_with(b"user:") { Some(1) } else { None }));
    for number in 0..200 {
        set(&keyspace, &mut turn, format!("user:{number}").as_bytes(), &[0; 100]);
        set(&keyspace, &mut turn, format!("page:{number}").as_bytes(), &[0; 1000]);
        set(&keyspace, &mut turn, format!("plain{number}").as_bytes(), &[0; 10]);
    }
    for number in 0..100 {
        turn.now_ms += 50;
        assert!(has(&keyspace, &mut turn, format!("user:{number}").as_bytes()));
        assert!(has(&keyspace, &mut turn, format!("plain{number}").as_bytes()));
        assert!(!has(&keyspace, &mut turn, format!("page:x{number}").as_bytes()));
    }
    let shares = keyspace.shares(&mut turn);
    let exact = exact(&keyspace, &mut turn);
    assert_eq!(shares.entries_per_sample, 1.0);
    assert_eq!(shares.prefixes.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>(), [&b"page"[..], b"user"]);
    let (user, page) = (prefix(&shares, "user"), prefix(&shares, "page"));
    assert_eq!((user.hits, user.misses, user.entries, user.bytes), (100, 0, 200, exact["user"].1));
    assert_eq!((page.hits, page.misses, page.entries, page.bytes), (0, 100, 200, exact["page"].1));
    assert_eq!((shares.unprefixed.hits, shares.unprefixed.entries), (100, 200));
    assert_eq!(shares.loaders, [Share::default(), *user]);
    keyspace.reset_stats();
    let shares = keyspace.shares(&mut turn);
    assert_eq!((prefix(&shares, "user").hits, prefix(&shares, "user").entries), (0, 200));
    keyspace.set_prefix_delimiter(None);
    assert_eq!(keyspace.shares(&mut turn).prefixes, []);
}

#[test]
fn shares_of_many_are_close_while_entries_come_and_go() {
    let settings = Settings { policy: EvictionPolicy::AllKeysLru, memory_bytes_max: 24 << 20, ..SETTINGS };
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 1);
    let (mut hits, mut misses) = (0_u64, 0_u64);
    for round in 0..400_000_u64 {
        let number = (400_000_f64.powf((turn.random() >> 11) as f64 / (1_u64 << 53) as f64)) as u64;
        let (name, len) = match number % 10 {
            0 => ("big", 600),
            1..4 => ("mid", 150),
            _ => ("small", 20),
        };
        let key = format!("{name}:{number}");
        if has(&keyspace, &mut turn, key.as_bytes()) {
            hits += u64::from(name == "mid");
        } else {
            misses += u64::from(name == "mid");
            let expiry = if round % 5 == 0 { Expiry::At(turn.now_ms + 30_000) } else { Expiry::Never };
            let attributes = Attributes { expiry, ..Attributes::PLAIN };
            try_set(&keyspace, &mut turn, key.as_bytes(), &vec![0; len], attributes).expect("room can be made");
        }
        turn.now_ms += u64::from(round % 8 == 0);
        if round % 20 == 0 {
            keyspace.update(&mut turn, Db(0), key.as_bytes(), |slot| slot.remove());
        }
        if round % 1000 == 0 {
            keyspace.expire_cycle(&mut turn, 0..16, 4096);
        }
    }
    let shares = keyspace.shares(&mut turn);
    let exact = exact(&keyspace, &mut turn);
    assert!(shares.entries_per_sample > 3.0, "nothing was sampled: {}", shares.entries_per_sample);
    for (name, (entries, bytes)) in exact {
        let share = prefix(&shares, &name);
        let off = |estimate: u64, exact: u64| (estimate as f64 / exact as f64 - 1.0).abs();
        // Four standard errors of the smallest.
        assert!(off(share.entries, entries) < 0.10, "{name}: {} for {entries} entries", share.entries);
        assert!(off(share.bytes, bytes) < 0.10, "{name}: {} for {bytes} bytes", share.bytes);
    }
    let mid = prefix(&shares, "mid");
    let ratio = mid.hits as f64 / (mid.hits + mid.misses) as f64;
    let exact_ratio = hits as f64 / (hits + misses) as f64;
    assert!((ratio - exact_ratio).abs() < 0.03, "{ratio} for {exact_ratio}");
    assert!(mid.hits.abs_diff(hits) < hits / 10, "{} for {hits} hits", mid.hits);
    keyspace.check();
}

#[test]
fn hot_keys_are_named_and_those_that_are_gone_are_not() {
    let keyspace = keyspace(SETTINGS);
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..5_000 {
        set(&keyspace, &mut turn, format!("cold:{number}").as_bytes(), b"v");
    }
    for name in ["warm", "hot", "gone"] {
        set(&keyspace, &mut turn, name.as_bytes(), b"v");
    }
    for round in 0..200_000_u64 {
        let key = match round % 20 {
            0..4 => "hot".to_owned(),
            4..6 => "warm".to_owned(),
            6..10 => "gone".to_owned(),
            _ => format!("cold:{}", turn.random() % 5_000),
        };
        assert!(has(&keyspace, &mut turn, key.as_bytes()));
        turn.now_ms += u64::from(round % 20 == 0);
    }
    keyspace.update(&mut turn, Db(0), b"gone", |slot| slot.remove());
    let hot = keyspace.hot_keys(&turn, Db(0), 5);
    let names: Vec<&[u8]> = hot.iter().map(|hot| hot.key.as_slice()).collect();
    assert_eq!(names[..2], [&b"hot"[..], b"warm"], "{hot:?}");
    // 20,000 requests a second, of which a fifth and a tenth.
    assert!((hot[0].per_second - 4_000.0).abs() < 600.0, "{hot:?}");
    assert!((hot[1].per_second - 2_000.0).abs() < 400.0, "{hot:?}");
    assert!(hot[2].per_second < 100.0 && hot.len() == 5, "{hot:?}");
    assert_eq!(keyspace.hot_keys(&turn, Db(1), 5), []);
    keyspace.reset_hot_keys(&turn);
    assert_eq!(keyspace.hot_keys(&turn, Db(0), 5), []);
}

#[test]
fn sizes_and_the_largest_follow_every_kind_of_write() {
    let keyspace = keyspace(Settings { shards: 2, ..SETTINGS });
    let mut turn = Turn::new(BOOT_MS, 1);
    for number in 0..300_usize {
        set(&keyspace, &mut turn, format!("{number}").as_bytes(), &vec![0; number * 20]);
    }
    let names = |keyspace: &Keyspace| -> Vec<String> {
        let largest = keyspace.largest(Db(0), 3);
        assert!(largest.is_sorted_by(|one, other| one.bytes >= other.bytes));
        largest.into_iter().map(|large| String::from_utf8(large.key).expect("a number")).collect()
    };
    assert_eq!(names(&keyspace), ["299", "298", "297"]);
    // Overwritten with less, lengthened in place, lengthened to a run, removed, expired.
    set(&keyspace, &mut turn, b"299", b"short");
    keyspace.update(&mut turn, Db(0), b"5", |slot| {
        slot.value_mut(40_000);
    });
    keyspace.update(&mut turn, Db(0), b"6", |slot| {
        slot.value_mut(500_000);
    });
    keyspace.update(&mut turn, Db(0), b"6", |slot| {
        slot.value_mut(900_000);
    });
    keyspace.update(&mut turn, Db(0), b"298", |slot| slot.remove());
    keyspace.update(&mut turn, Db(0), b"297", |slot| slot.set_expiry(Some(BOOT_MS + 10)));
    turn.now_ms += 1_000;
    keyspace.expire_cycle(&mut turn, 0..2, 100_000);
    assert_eq!(names(&keyspace), ["6", "5", "296"]);
    let mut expected = SizeHistogram::default();
    let mut cursor = 0;
    loop {
        cursor = keyspace.scan(&mut turn, Db(0), cursor, 100, |entry| {
            let bucket = (0..33).find(|&bucket| (entry.value.len() as u64) < 1 << bucket).expect("2^32 is more");
            expected.entries[bucket] += 1;
            expected.bytes[bucket] += entry.value.len() as u64;
        });
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(keyspace.size_histogram(Db(0)), expected);
    assert_eq!(expected.entries.iter().sum::<u64>(), 298);
    keyspace.flush(&mut turn, None);
    assert_eq!(keyspace.size_histogram(Db(0)), SizeHistogram::default());
    assert_eq!(keyspace.largest(Db(0), 3), []);
}
