//! The lease rules of SPEC §2, one test each, on a keyspace whose time is in the test's hands.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/lease.rs"]
mod lease;

use lease::*;
use leasehold_keyspace::{
    Attributes, Claim, Claimed, EvictionPolicy, Expiry, Fill, Filled, HashSeed, Invalidation, Keyspace, LeaseSettings,
    LostReason, Release, Settings, Turn, WakeEvent,
};

#[test]
fn the_first_who_misses_leads_and_the_next_waits() {
    let mut node = Node::new();
    let token = node.lead();
    assert!(token > 1 && token <= i64::MAX as u64);
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { retry_after_ms: 10_000, stale: None, version: 0 }));
    assert!(matches!(node.fill(token, b"v"), Filled::Stored));
    assert_eq!(node.value().unwrap(), b"v");
    assert!(matches!(node.claim(CLIENT), Claimed::Hit { .. }));
}

#[test]
fn a_token_fills_once() {
    let mut node = Node::new();
    let token = node.lead();
    node.fill(token, b"v");
    assert_eq!(node.fill(token, b"w"), Filled::Lost(LostReason::Superseded));
    assert_eq!(node.value().unwrap(), b"v");
}

#[test]
fn every_write_revokes() {
    type Change = fn(&mut Node);
    let changes: [(&str, Change); 7] = [
        ("set", |node| node.set(b"new")),
        ("delete of an absent key", |node| assert!(!node.delete())),
        ("in-place write", |node| {
            node.keyspace.update(&mut node.turn, DB, KEY, |slot| slot.value_mut(3)[0] = b'x');
        }),
        ("hard invalidation", |node| {
            node.invalidate(Invalidation::Hard, None);
        }),
        ("soft invalidation of an absent key", |node| {
            node.invalidate(Invalidation::Soft { stale_ms: None }, None);
        }),
        ("flush of the database", |node| node.keyspace.flush(&mut node.turn, Some(DB))),
        ("flush of all", |node| node.keyspace.flush(&mut node.turn, None)),
    ];
    for (name, change) in changes {
        let mut node = Node::new();
        let token = node.lead();
        change(&mut node);
        let before = node.value();
        assert_eq!(node.fill(token, b"old"), LOST_REVOKED, "{name}");
        assert_eq!(node.value(), before, "{name}");
    }
}

#[test]
fn expiry_and_a_new_ttl_do_not_revoke() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v", Expiry::At(START_MS + 100), 0, None);
    node.pass_ms(100);
    let second = node.lead();
    node.keyspace.update(&mut node.turn, DB, KEY, |slot| slot.set_expiry(Some(START_MS + 5_000)));
    assert!(matches!(node.fill(second, b"w"), Filled::Stored));
}

#[test]
fn an_unknown_token_is_lost() {
    let mut node = Node::new();
    for token in [0, 1, 2, u64::MAX] {
        assert_eq!(node.fill(token, b"v"), LOST_UNKNOWN);
    }
    let own = node.lead();
    let other = Keyspace::new(Settings { boot_unix_ms: START_MS + 1, ..settings() }, HashSeed([1, 2, 3, 4]));
    let fill =
        Fill::Value { value: b"v", expiry: Expiry::Never, stale_for_ms: 0, version: None, client_flags: 0, tags: &[] };
    assert_eq!(other.fill(&mut node.turn, DB, KEY, own, fill), LOST_UNKNOWN);
}

#[test]
fn a_token_ends_with_its_lease() {
    let mut node = Node::new();
    let token = token(node.claim(Claim { lease_ms: Some(200), ..CLIENT }));
    node.pass_ms(200);
    assert_eq!(node.fill(token, b"v"), LOST_UNKNOWN);
}

#[test]
fn a_slow_holder_fills_an_empty_key_but_never_over_a_newer_fill() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v0", Expiry::At(START_MS + 20), 0, None);
    node.pass_ms(20);
    // The load took no time, so a second token may be had after the least reissue time of 50 ms.
    let slow = node.lead();
    node.pass_ms(49);
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { retry_after_ms: 1, .. }));
    node.pass_ms(1);
    let quick = node.lead();
    assert!(matches!(node.fill(quick, b"quick"), Filled::Stored));
    assert_eq!(node.fill(slow, b"slow"), Filled::Lost(LostReason::Superseded));

    node.delete();
    let slow = node.lead();
    node.pass_ms(50);
    let _quick = node.lead();
    assert!(matches!(node.fill(slow, b"slow"), Filled::Stored));
}

#[test]
fn a_crashed_holder_costs_four_load_times() {
    let mut node = Node::new();
    let token = node.lead();
    node.pass_ms(100);
    node.fill(token, b"v");
    node.delete();
    node.lead();
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { retry_after_ms: 400, .. }));
    node.pass_ms(400);
    node.lead();
}

#[test]
fn a_key_slower_than_the_others_is_not_loaded_over_and_over_and_its_first_load_fills() {
    let mut node = Node::new();
    // The shard has seen quick loads only; this key's takes three seconds, and somebody asks every 10 ms.
    for number in 0..100u32 {
        let key = number.to_le_bytes();
        let token = token(node.keyspace.claim(&mut node.turn, DB, &key, CLIENT));
        node.pass_ms(1);
        let fill = Fill::Value {
            value: b"v",
            expiry: Expiry::Never,
            stale_for_ms: 0,
            version: None,
            client_flags: 0,
            tags: &[],
        };
        assert!(matches!(node.keyspace.fill(&mut node.turn, DB, &key, token, fill), Filled::Stored));
    }
    let first = node.lead();
    let mut leases = 1;
    for _ in 0..300 {
        node.pass_ms(10);
        leases += usize::from(matches!(node.claim(CLIENT), Claimed::Lead { .. }));
    }
    // After 50, 100, 200, 400, 800 and 1600 ms; every 50 ms would be 60.
    assert!((2..=6).contains(&leases), "{leases} leases");
    assert!(matches!(node.fill(first, b"slow"), Filled::Stored));
}

#[test]
fn waits_are_counted_by_length() {
    let mut node = Node::new();
    let token = node.lead();
    node.claim(waiting(CLIENT, 1));
    node.claim(waiting(CLIENT, 2));
    node.pass_ms(5);
    node.keyspace.leave(&mut node.turn, DB, KEY, waiting(CLIENT, 2).waiter.unwrap());
    node.pass_ms(100);
    node.fill(token, b"v");
    let waits = node.keyspace.stats().lease_waits;
    // 5 ms: under 8. 105 ms: under 128.
    assert_eq!((waits[3], waits[7], waits.iter().sum::<u64>()), (1, 1, 2));
}

#[test]
fn waiters_hear_a_plain_set() {
    let mut node = Node::new();
    node.lead();
    node.claim(waiting(CLIENT, 1));
    node.set(b"set");
    assert!(matches!(&node.wakes()[..], [(1, WakeEvent::Value { value, .. })] if value == "set"));
}

#[test]
fn when_the_key_is_deleted_one_waiter_leads_and_the_rest_stay() {
    let mut node = Node::new();
    let first = node.lead();
    node.claim(waiting(CLIENT, 1));
    node.claim(waiting(CLIENT, 2));
    node.delete();
    let wakes = node.wakes();
    let [(1, WakeEvent::Lead { token, .. })] = wakes[..] else { panic!("{wakes:?}") };
    assert_eq!(node.fill(first, b"old"), LOST_REVOKED);
    assert!(node.wakes().is_empty());
    assert!(matches!(node.fill(token, b"new"), Filled::Stored));
    assert!(matches!(&node.wakes()[..], [(2, WakeEvent::Value { value, .. })] if value == "new"));
}

#[test]
fn a_waiter_leads_when_the_holder_is_overdue() {
    let mut node = Node::new();
    node.claim(Claim { lease_ms: Some(300), ..CLIENT });
    node.claim(waiting(CLIENT, 1));
    node.pass_ms(299);
    assert!(node.wakes().is_empty());
    node.pass_ms(1);
    assert!(matches!(node.wakes()[..], [(1, WakeEvent::Lead { .. })]));
}

#[test]
fn a_released_lease_goes_to_the_next_waiter_at_once_or_after_the_backoff() {
    let mut node = Node::new();
    let first = node.lead();
    node.claim(waiting(CLIENT, 1));
    assert!(node.keyspace.release(&mut node.turn, DB, KEY, first, Release::default()));
    let wakes = node.wakes();
    let [(1, WakeEvent::Lead { token, .. })] = wakes[..] else { panic!("{wakes:?}") };
    node.claim(waiting(CLIENT, 2));
    let backoff = Release { backoff_ms: Some(500), ..Release::default() };
    assert!(node.keyspace.release(&mut node.turn, DB, KEY, token, backoff));
    assert!(!node.keyspace.release(&mut node.turn, DB, KEY, token, backoff));
    node.pass_ms(499);
    assert!(node.wakes().is_empty());
    node.pass_ms(1);
    assert!(matches!(node.wakes()[..], [(2, WakeEvent::Lead { .. })]));
}

#[test]
fn a_release_can_say_that_the_source_has_no_such_key() {
    let mut node = Node::new();
    let token = node.lead();
    node.claim(waiting(CLIENT, 1));
    let negative = Release { negative_ms: Some(1_000), ..Release::default() };
    assert!(node.keyspace.release(&mut node.turn, DB, KEY, token, negative));
    assert!(matches!(node.wakes()[..], [(1, WakeEvent::Absent { ttl_ms: 1_000, .. })]));
    assert!(matches!(node.claim(CLIENT), Claimed::Negative { ttl_ms: 1_000, .. }));
    node.pass_ms(1_000);
    node.lead();
}

#[test]
fn a_set_ends_a_negative_entry() {
    let mut node = Node::new();
    let token = node.lead();
    node.keyspace.release(&mut node.turn, DB, KEY, token, Release { negative_ms: Some(1_000), ..Release::default() });
    node.set(b"v");
    node.delete();
    node.lead();
}

#[test]
fn waiters_are_bounded_per_key() {
    let mut node = Node::new();
    node.lead();
    for index in 0..3 {
        assert!(matches!(node.claim(waiting(CLIENT, index)), Claimed::Parked { .. }));
    }
    assert!(matches!(node.claim(waiting(CLIENT, 3)), Claimed::Wait { .. }));
    let waiter = waiting(CLIENT, 0).waiter.unwrap();
    assert!(node.keyspace.leave(&mut node.turn, DB, KEY, waiter));
    assert!(!node.keyspace.leave(&mut node.turn, DB, KEY, waiter));
    assert!(matches!(node.claim(waiting(CLIENT, 3)), Claimed::Parked { .. }));
}

#[test]
fn all_waiters_of_the_node_may_wait_on_one_key() {
    let mut settings = settings();
    settings.shards = 64;
    settings.lease.waiters_per_key_max = 1_000;
    settings.lease.waiters_max = 100;
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), ..Node::new() };
    node.lead();
    for index in 0..100 {
        let claimed = node.claim(waiting(CLIENT, index));
        assert!(matches!(claimed, Claimed::Parked { .. }), "{index}: {claimed:?}");
    }
    assert!(matches!(node.claim(waiting(CLIENT, 100)), Claimed::Wait { .. }));
    // Nor does another shard take more.
    let other = |node: &mut Node, claim| node.keyspace.claim(&mut node.turn, DB, b"other", claim);
    assert!(matches!(other(&mut node, CLIENT), Claimed::Lead { .. }));
    assert!(matches!(other(&mut node, waiting(CLIENT, 101)), Claimed::Wait { .. }));
    node.set(b"v");
    assert_eq!(node.wakes().len(), 100);
    assert!(matches!(other(&mut node, waiting(CLIENT, 102)), Claimed::Parked { .. }), "there is room again");
}

#[test]
fn records_are_bounded_and_a_lost_record_fails_closed() {
    let mut settings = settings();
    settings.shards = 1;
    settings.lease.records_max = 1;
    let keyspace = Keyspace::new(settings, HashSeed([1, 2, 3, 4]));
    let mut turn = Turn::new(START_MS, 1);
    let first = token(keyspace.claim(&mut turn, DB, b"a", CLIENT));
    let second = token(keyspace.claim(&mut turn, DB, b"b", CLIENT));
    let fill =
        Fill::Value { value: b"v", expiry: Expiry::Never, stale_for_ms: 0, version: None, client_flags: 0, tags: &[] };
    assert_eq!(keyspace.fill(&mut turn, DB, b"a", first, fill), LOST_UNKNOWN);
    assert!(matches!(keyspace.fill(&mut turn, DB, b"b", second, fill), Filled::Stored));
}

#[test]
fn a_soft_invalidation_leaves_a_stale_value_that_an_overtaken_fill_may_replace() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v1", Expiry::At(START_MS + 100), 60_000, None);
    node.pass_ms(100);
    let overtaken = node.lead();
    assert!(!node.invalidate(Invalidation::Soft { stale_ms: Some(500) }, None), "it was stale already");
    assert_eq!(node.fill(overtaken, b"v2"), Filled::Stale);
    assert_eq!(node.value(), None);
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: Some(stale), .. } if stale == "v2"));
}

#[test]
fn a_soft_invalidation_keeps_the_value_for_its_window() {
    let mut node = Node::new();
    node.set(b"v");
    assert!(node.invalidate(Invalidation::Soft { stale_ms: Some(500) }, None));
    assert_eq!(node.value(), None);
    node.pass_ms(499);
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: Some(stale), .. } if stale == "v"));
    node.pass_ms(1);
    node.delete();
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: None, .. }));
}

#[test]
fn an_older_version_cannot_come_back() {
    let mut node = Node::new();
    let early = node.lead();
    node.fill_with(early, b"v5", Expiry::Never, 0, Some(5));
    assert!(node.invalidate(Invalidation::Hard, Some(7)));
    let token = match node.claim(CLIENT) {
        Claimed::Lead { token, version_floor: 7, .. } => token,
        other => panic!("{other:?}"),
    };
    assert_eq!(node.fill_with(token, b"v6", Expiry::Never, 0, Some(6)), Filled::Lost(LostReason::OlderVersion));
    node.pass_ms(50);
    let token = node.lead();
    assert!(matches!(node.fill_with(token, b"v8", Expiry::Never, 0, Some(8)), Filled::Stored));
    assert!(!node.invalidate(Invalidation::Hard, Some(8)), "not newer than what is there");
    assert_eq!(node.value().unwrap(), b"v8");
}

#[test]
fn an_entry_below_the_wanted_version_counts_as_stale() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v5", Expiry::Never, 0, Some(5));
    assert!(matches!(node.claim(Claim { version_min: Some(5), ..CLIENT }), Claimed::Hit { version: 5, .. }));
    let newer = Claim { version_min: Some(6), ..CLIENT };
    assert!(matches!(node.claim(newer), Claimed::Lead { stale: Some(_), version_floor: 6, .. }));
}

#[test]
fn a_killed_lease_is_void_and_listed_no_more() {
    let mut node = Node::new();
    let token = node.lead();
    let views = node.keyspace.leases(&mut node.turn, DB, 10, |_| true);
    assert_eq!(views.len(), 1);
    assert_eq!((&views[0].key[..], views[0].token, views[0].lease_left_ms), (KEY, token, 10_000));
    assert!(node.keyspace.kill_lease(&mut node.turn, DB, KEY));
    assert!(!node.keyspace.kill_lease(&mut node.turn, DB, KEY));
    assert_eq!(node.fill(token, b"v"), LOST_REVOKED);
    assert!(node.keyspace.leases(&mut node.turn, DB, 10, |_| true).is_empty());
}

#[test]
fn records_go_when_their_time_is_over() {
    let mut node = Node::new();
    let empty_bytes = node.keyspace.stats().used_bytes;
    node.lead();
    assert!(node.keyspace.stats().leases == 1);
    node.pass_ms(10_000);
    node.pass_ms(10_000);
    let stats = node.keyspace.stats();
    assert_eq!((stats.leases, stats.used_bytes), (0, empty_bytes));
}

#[test]
fn of_two_overtaken_fills_the_older_does_not_replace_the_newer() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v1", Expiry::At(START_MS + 100), 60_000, None);
    node.pass_ms(100);
    let older = node.lead();
    node.pass_ms(5_000);
    let newer = node.lead();
    node.invalidate(Invalidation::Soft { stale_ms: None }, None);
    assert_eq!(node.fill(newer, b"v3"), Filled::Stale);
    assert_eq!(node.fill(older, b"v2"), Filled::Lost(LostReason::Superseded));
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: Some(stale), .. } if stale == "v3"));
}

#[test]
fn a_backoff_is_bounded_by_the_longest_lease_and_ended_by_a_kill() {
    let mut node = Node::new();
    let for_ever = Release { backoff_ms: Some(u64::MAX), ..Release::default() };
    let first = node.lead();
    node.keyspace.release(&mut node.turn, DB, KEY, first, for_ever);
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { retry_after_ms: 60_000, .. }));
    node.pass_ms(60_000);
    let second = node.lead();
    node.keyspace.release(&mut node.turn, DB, KEY, second, for_ever);
    node.claim(waiting(CLIENT, 1));
    node.keyspace.kill_lease(&mut node.turn, DB, KEY);
    assert!(matches!(node.wakes()[..], [(1, WakeEvent::Lead { .. })]));
}

#[test]
fn the_row_that_an_invalidation_told_of_may_be_filled_with_its_version() {
    for invalidation in [Invalidation::Hard, Invalidation::Soft { stale_ms: None }] {
        let mut node = Node::new();
        let first = node.lead();
        node.fill_with(first, b"v5", Expiry::Never, 0, Some(5));
        node.invalidate(invalidation, Some(7));
        let token = node.lead();
        assert!(matches!(node.fill_with(token, b"v7", Expiry::Never, 0, Some(7)), Filled::Stored));
        let newer = Claim { version_min: Some(8), ..CLIENT };
        let token = match node.claim(newer) {
            Claimed::Lead { token, .. } => token,
            other => panic!("{other:?}"),
        };
        let other_value = node.fill_with(token, b"other", Expiry::Never, 0, Some(7));
        assert_eq!(other_value, Filled::Lost(LostReason::OlderVersion), "one version, one value");
    }
}

#[test]
fn a_rush_of_leases_leaves_the_memory_to_the_entries() {
    let settings = Settings {
        memory_bytes_max: 8 << 20,
        lease: LeaseSettings { records_max: 1_000_000, ..settings().lease },
        ..settings()
    };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    let empty_bytes = node.keyspace.stats().used_bytes;
    for round in 0..2 {
        let mut last = 0;
        for number in 0..20_000u32 {
            let key = [&number.to_le_bytes()[..], &[round; 1_000]].concat();
            last = token(node.keyspace.claim(&mut node.turn, DB, &key, CLIENT));
        }
        let used_bytes = node.keyspace.stats().used_bytes - empty_bytes;
        let most = 1 << 20;
        let (entry_bytes, table_bytes) = (16 << 10, 64 << 10);
        assert!(
            used_bytes > most / 4 && used_bytes <= most + entry_bytes + table_bytes,
            "{used_bytes} bytes of leases in round {round}, {} leases",
            node.keyspace.stats().leases
        );
        let key = [&19_999u32.to_le_bytes()[..], &[round; 1_000]].concat();
        let fill = Fill::Value {
            value: b"v",
            expiry: Expiry::Never,
            stale_for_ms: 0,
            version: None,
            client_flags: 0,
            tags: &[],
        };
        assert!(matches!(node.keyspace.fill(&mut node.turn, DB, &key, last, fill), Filled::Stored));
        // A limit set later holds too.
        node.keyspace.set_memory_bytes_max(0);
        node.keyspace.set_memory_bytes_max(8 << 20);
    }
}

#[test]
fn the_lease_records_of_all_shards_together_keep_to_their_limit() {
    let settings = Settings { lease: LeaseSettings { records_max: 64, ..settings().lease }, ..settings() };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    for number in 0..2_000u32 {
        node.keyspace.claim(&mut node.turn, DB, &number.to_le_bytes(), CLIENT);
    }
    assert_eq!(node.keyspace.stats().leases, 64);
}

#[test]
fn what_leases_and_waiters_hold_is_counted_to_the_byte() {
    let lease = LeaseSettings { waiters_per_key_max: 10_000, waiters_max: 10_000, ..settings().lease };
    let settings = Settings { lease, ..settings() };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    let empty_bytes = node.keyspace.stats().used_bytes;
    let first = node.lead();
    let alone_bytes = node.keyspace.stats().used_bytes;
    for index in 0..5_000 {
        node.claim(waiting(CLIENT, index));
    }
    node.keyspace.check();
    assert!(node.keyspace.stats().used_bytes > alone_bytes + 5_000 * 32, "waiters count");
    for index in 0..4_990 {
        node.keyspace.leave(&mut node.turn, DB, KEY, waiting(CLIENT, index).waiter.unwrap());
    }
    node.keyspace.check();
    assert!(node.keyspace.stats().used_bytes < alone_bytes + 16_384, "who has left costs nothing");
    for _ in 0..12 {
        node.pass_ms(10_000);
        node.keyspace.check();
    }
    assert_eq!(node.fill(first, b"v"), LOST_UNKNOWN);
    for number in 0..900u32 {
        let key = number.to_le_bytes().repeat(1 + number as usize % 40);
        node.keyspace.claim(&mut node.turn, DB, &key, CLIENT);
    }
    node.keyspace.check();
    node.pass_ms(10_000);
    node.pass_ms(10_000);
    node.keyspace.check();
    assert_eq!((node.keyspace.stats().leases, node.keyspace.stats().used_bytes), (0, empty_bytes));
}

#[test]
fn a_rush_of_leases_on_short_keys_takes_no_more_than_its_share() {
    let lease = LeaseSettings { records_max: 1_000_000, ..settings().lease };
    let settings = Settings { memory_bytes_max: 8 << 20, lease, ..settings() };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    let empty_bytes = node.keyspace.used_bytes();
    let mut most = 0;
    for number in 0..20_000u32 {
        node.keyspace.claim(&mut node.turn, DB, &number.to_le_bytes(), CLIENT);
        most = most.max(node.keyspace.used_bytes().saturating_sub(empty_bytes));
    }
    assert!(most > 1 << 18 && most <= 1 << 20, "{most} bytes of leases");
}

#[test]
fn waiters_are_told_the_ttl_that_a_fill_keeps() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v", Expiry::At(START_MS + 5_000), 0, Some(1));
    let newer = Claim { version_min: Some(2), ..CLIENT };
    let second = token(node.claim(newer));
    assert!(matches!(node.claim(waiting(newer, 1)), Claimed::Parked { .. }));
    node.fill_with(second, b"w", Expiry::Keep, 0, Some(2));
    let kept_ms = START_MS + 5_000;
    assert!(matches!(node.wakes()[..], [(1, WakeEvent::Value { expire_at_ms: Some(at), .. })] if at == kept_ms));
    assert!(matches!(node.claim(CLIENT), Claimed::Hit { expire_at_ms: Some(at), .. } if at == kept_ms));
}

#[test]
fn a_fill_whose_time_is_over_deletes_the_key_and_waiters_hear_what_it_brought() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"old", Expiry::At(START_MS + 100), 60_000, None);
    node.pass_ms(100);
    let second = node.lead();
    node.claim(waiting(CLIENT, 1));
    assert_eq!(node.fill_with(second, b"new", Expiry::At(START_MS), 0, None), Filled::Stored);
    assert!(matches!(&node.wakes()[..], [(1, WakeEvent::Value { value, .. })] if value == "new"));
    assert_eq!(node.keyspace.len(DB), 0, "no dead entry");
    assert_eq!(node.keyspace.stats().expired, 0, "a deletion");
    // Still within its stale window: stored, as stale.
    let third = node.lead();
    assert_eq!(node.fill_with(third, b"stale", Expiry::At(START_MS), 60_000, None), Filled::Stored);
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { .. } | Claimed::Lead { stale: Some(_), .. }));
    assert_eq!((node.keyspace.len(DB), node.value()), (1, None));
}

#[test]
fn leases_of_many_absent_keys_make_room_for_themselves() {
    let limit = 8 << 20;
    let lease = LeaseSettings { records_max: 1_000_000, ..settings().lease };
    let settings = Settings { memory_bytes_max: limit, lease, ..settings() };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    for number in 0..20_000u32 {
        let key = number.to_le_bytes();
        node.keyspace.make_room(&mut node.turn, 1_004).unwrap();
        node.keyspace.update(&mut node.turn, DB, &key, |slot| slot.set(&[7; 1_000], Attributes::PLAIN));
    }
    let full_bytes = node.keyspace.used_bytes();
    assert!(full_bytes > limit / 10 * 9, "{full_bytes} bytes of entries");
    for number in 0..20_000u64 {
        node.keyspace.claim(&mut node.turn, DB, &number.to_le_bytes(), CLIENT);
        // What a shard has not told of yet comes on top, and the segment that is being filled.
        let used_bytes = node.keyspace.used_bytes();
        assert!(used_bytes <= limit + (256 << 10), "{used_bytes} bytes after {number} leases");
    }
}

#[test]
fn where_nothing_may_be_evicted_leases_are_given_all_the_same() {
    let settings = Settings { policy: EvictionPolicy::NoEviction, memory_bytes_max: 1 << 20, ..settings() };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    for number in 0..2_000u32 {
        if node.keyspace.make_room(&mut node.turn, 1_004).is_ok() {
            let key = number.to_le_bytes();
            node.keyspace.update(&mut node.turn, DB, &key, |slot| slot.set(&[7; 1_000], Attributes::PLAIN));
        }
    }
    assert!(node.keyspace.make_room(&mut node.turn, 1_004).is_err(), "full");
    for number in 2_000..12_000u32 {
        assert!(matches!(node.keyspace.claim(&mut node.turn, DB, &number.to_le_bytes(), CLIENT), Claimed::Lead { .. }));
    }
    // An eighth for leases, and what shards have not told of.
    assert!(
        node.keyspace.stats().used_bytes <= (1 << 20) / 8 * 9 + (32 << 10),
        "{:?}",
        node.keyspace.stats().used_bytes
    );
}
