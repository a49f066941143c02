//! The lease rules of SPEC §2 where the server itself loads, one test each.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/lease.rs"]
mod lease;

use lease::*;
use leasehold_keyspace::{
    Claim, Claimed, Expiry, Failure, Filled, HashSeed, Invalidation, Keyspace, LeaseSettings, Release, Settings, Turn,
    WakeEvent,
};

#[test]
fn waiters_hear_the_fill() {
    let mut node = Node::new();
    let token = node.lead();
    assert!(matches!(node.claim(waiting(CLIENT, 1)), Claimed::Parked { .. }));
    assert!(matches!(node.claim(waiting(SERVER, 2)), Claimed::Parked { .. }));
    node.fill(token, b"v");
    let wakes = node.wakes();
    assert_eq!(wakes.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2]);
    assert!(wakes.iter().all(|(_, event)| matches!(event, WakeEvent::Value { value, .. } if value == "v")));
}

#[test]
fn the_server_loads_once_and_its_readers_hear_the_row() {
    let mut node = Node::new();
    let token = token(node.claim(waiting(SERVER, 1)));
    assert!(matches!(node.claim(waiting(SERVER, 2)), Claimed::Parked { .. }));
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { .. }));
    // However long it takes: a second load is not started beside the first.
    node.pass_ms(5_000);
    assert!(matches!(node.claim(waiting(SERVER, 3)), Claimed::Parked { .. }));
    node.fill(token, b"row");
    assert_eq!(node.wakes().len(), 3);
    assert!(node.turn.effects.loads.is_empty());
}

#[test]
fn a_row_loaded_before_an_invalidation_is_loaded_again_for_those_who_wait() {
    for soft in [false, true] {
        let mut node = Node::new();
        let first = token(node.claim(waiting(SERVER, 1)));
        let invalidation = if soft { Invalidation::Soft { stale_ms: None } } else { Invalidation::Hard };
        node.invalidate(invalidation, None);
        assert!(node.wakes().is_empty() && node.turn.effects.loads.is_empty(), "one load at a time");
        assert_eq!(node.fill(first, b"old row"), LOST_REVOKED);
        assert_eq!(node.value(), None);
        let load = node.turn.effects.loads.pop().unwrap();
        assert!(matches!(node.fill(load.token, b"new row"), Filled::Stored));
        assert!(matches!(&node.wakes()[..], [(1, WakeEvent::Value { value, .. })] if value == "new row"));
    }
}

#[test]
fn a_failed_load_is_told_and_a_client_who_waits_leads() {
    let mut node = Node::new();
    let token = token(node.claim(waiting(SERVER, 1)));
    node.claim(waiting(CLIENT, 2));
    node.keyspace.fail(&mut node.turn, DB, KEY, token, &"LOADFAIL users down".into(), 0);
    let wakes = node.wakes();
    assert!(matches!(&wakes[0], (1, WakeEvent::Failed { stale: None, reason }) if &**reason == "LOADFAIL users down"));
    assert!(matches!(wakes[1], (2, WakeEvent::Lead { .. })));
}

fn failing(reason: &str, error_life_ms: u64) -> Failure {
    Failure { reason: reason.into(), stale_life_ms: 0, error_life_ms }
}

#[test]
fn a_failure_is_remembered_for_readers_and_not_for_who_loads_by_himself() {
    let mut node = Node::new();
    let first = token(node.claim(waiting(SERVER, 1)));
    node.keyspace.fail_with(&mut node.turn, DB, KEY, first, &failing("LOADFAIL users down", 1_000));
    assert!(matches!(node.wakes()[..], [(1, WakeEvent::Failed { .. })]));
    node.pass_ms(999);
    for _ in 0..100 {
        assert!(matches!(node.claim(waiting(SERVER, 2)), Claimed::Parked { .. }));
        let wakes = node.wakes();
        assert!(matches!(&wakes[..], [(2, WakeEvent::Failed { reason, .. })] if &**reason == "LOADFAIL users down"));
        assert!(matches!(node.claim(SERVER), Claimed::Wait { retry_after_ms: 1, .. }), "nor is it loaded behind them");
    }
    assert!(node.turn.effects.loads.is_empty());
    assert_eq!(node.keyspace.stats().leases_issued, 1);
    let client = token(node.claim(CLIENT));
    assert!(matches!(node.claim(waiting(SERVER, 3)), Claimed::Parked { .. }), "its fill may come");
    assert!(node.wakes().is_empty());
    node.fill(client, b"v");
    assert!(matches!(&node.wakes()[..], [(3, WakeEvent::Value { .. })]));
    // And then it is forgotten.
    let mut node = Node::new();
    let first = token(node.claim(waiting(SERVER, 1)));
    node.keyspace.fail_with(&mut node.turn, DB, KEY, first, &failing("LOADFAIL users down", 1_000));
    assert_eq!(node.keyspace.stats().leases, 1);
    node.pass_ms(1_000);
    node.keyspace.sweep_leases(&mut node.turn, 0..1);
    assert_eq!(node.keyspace.stats().leases, 0);
    token(node.claim(SERVER));
}

#[test]
fn a_change_of_the_key_ends_a_remembered_failure() {
    type Change = fn(&mut Node);

    let changes: [(&str, Change); 6] = [
        ("a hard invalidation", |node| assert!(!node.invalidate(Invalidation::Hard, None))),
        ("a soft invalidation", |node| assert!(!node.invalidate(Invalidation::Soft { stale_ms: None }, None))),
        ("a deletion", |node| assert!(!node.delete())),
        ("a demand for a fresh value", |node| node.keyspace.outdate(&mut node.turn, DB, KEY)),
        ("a bump of its prefix", |node| node.keyspace.invalidate_prefix(&mut node.turn, DB, &KEY[..1])),
        ("a flush", |node| node.keyspace.flush(&mut node.turn, None)),
    ];
    for (what, change) in changes {
        let mut node = Node::new();
        let first = token(node.claim(waiting(SERVER, 1)));
        node.keyspace.fail_with(&mut node.turn, DB, KEY, first, &failing("LOADFAIL users down", 1_000));
        node.wakes();
        assert!(matches!(node.claim(SERVER), Claimed::Wait { .. }));
        node.keyspace.check();
        change(&mut node);
        node.keyspace.check();
        assert!(matches!(node.claim(SERVER), Claimed::Lead { .. }), "{what}");
    }
    // One that began after the change counts, though the bump may be pending still.
    let mut node = Node::new();
    node.keyspace.invalidate_prefix(&mut node.turn, DB, &KEY[..1]);
    let first = token(node.claim(SERVER));
    node.keyspace.fail_with(&mut node.turn, DB, KEY, first, &failing("LOADFAIL users down", 1_000));
    assert!(matches!(node.claim(SERVER), Claimed::Wait { .. }));
    // A load that such a change has overtaken says nothing about the next one.
    let mut node = Node::new();
    let first = token(node.claim(SERVER));
    node.delete();
    node.keyspace.fail_with(&mut node.turn, DB, KEY, first, &failing("LOADFAIL users down", 1_000));
    assert!(matches!(node.claim(SERVER), Claimed::Lead { .. }));
}

#[test]
fn a_late_load_still_fills_and_no_other_is_started_beside_it() {
    let mut node = Node::new();
    let late = token(node.claim(waiting(SERVER, 1)));
    assert!(matches!(node.claim(waiting(SERVER, 2)), Claimed::Parked { .. }));
    node.keyspace.overdue(&mut node.turn, DB, KEY, late, 0);
    assert!(node.wakes().is_empty(), "each reader has a time of its own");
    assert!(node.keyspace.leave(&mut node.turn, DB, KEY, waiting(SERVER, 1).waiter.unwrap()));
    assert!(matches!(node.claim(waiting(SERVER, 3)), Claimed::Parked { .. }));
    assert!(matches!(node.fill(late, b"row"), Filled::Stored));
    assert!(matches!(&node.wakes()[..], [(2, WakeEvent::Value { value, .. }), (3, _)] if value == "row"));
}

#[test]
fn a_load_given_up_in_the_queue_is_begun_again_for_those_who_came_since() {
    let mut node = Node::new();
    let first = token(node.claim(waiting(SERVER, 1)));
    node.pass_ms(300);
    node.claim(waiting(SERVER, 2));
    node.pass_ms(500);
    let reason = "LOADFAIL users not asked within 800 ms".into();
    node.keyspace.drop_load(&mut node.turn, DB, KEY, first, &reason, 800);
    assert!(matches!(node.wakes()[..], [(1, WakeEvent::Failed { .. })]));
    let second = node.turn.effects.loads.pop().unwrap().token;
    assert_eq!(node.fill(first, b"given up"), LOST_UNKNOWN);
    assert!(matches!(node.fill(second, b"row"), Filled::Stored));
    assert!(matches!(node.wakes()[..], [(2, WakeEvent::Value { .. })]));
    // Where nobody came since, nothing is loaded.
    node.delete();
    let third = token(node.claim(waiting(SERVER, 3)));
    node.pass_ms(800);
    node.keyspace.drop_load(&mut node.turn, DB, KEY, third, &reason, 800);
    assert!(matches!(node.wakes()[..], [(3, WakeEvent::Failed { .. })]));
    assert!(node.turn.effects.loads.is_empty());
    assert_eq!(node.keyspace.stats().leases, 0);
}

#[test]
fn a_failure_gives_the_stale_value_a_short_new_life_within_its_window() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v", Expiry::At(START_MS + 100), 1_000, None);
    node.pass_ms(100);
    assert_eq!(node.value(), None);
    let token = token(node.claim(waiting(SERVER, 1)));
    node.keyspace.fail(&mut node.turn, DB, KEY, token, &"LOADFAIL users down".into(), 300);
    assert!(matches!(&node.wakes()[..], [(1, WakeEvent::Failed { stale: Some(stale), .. })] if stale == "v"));
    assert_eq!(node.value().unwrap(), b"v");
    node.pass_ms(300);
    assert_eq!(node.value(), None);
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: Some(_), .. }));
    node.pass_ms(700);
    node.delete();
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: None, .. }));
}

#[test]
fn the_same_row_read_again_refreshes_an_entry_with_its_version() {
    let mut node = Node::new();
    let first = token(node.claim(SERVER));
    node.fill_with(first, b"row", Expiry::At(START_MS + 100), 10_000, Some(5));
    node.pass_ms(100);
    let again = token(node.claim(SERVER));
    assert!(matches!(node.fill_with(again, b"row", Expiry::Never, 0, Some(5)), Filled::Stored));
}

#[test]
fn a_load_of_the_server_leaves_no_record() {
    let mut node = Node::new();
    node.delete();
    let empty_bytes = node.keyspace.stats().used_bytes;
    let server = Claim { lease_ms: Some(600_000), ..SERVER };
    let first = token(node.claim(server));
    node.keyspace.fail(&mut node.turn, DB, KEY, first, &"LOADFAIL users down".into(), 0);
    assert_eq!(node.keyspace.stats().leases, 0, "failed");
    assert_eq!(node.fill(first, b"v"), LOST_UNKNOWN, "a load that has failed does not come back");
    let second = token(node.claim(server));
    node.delete();
    node.fill(second, b"v");
    assert_eq!(node.keyspace.stats().leases, 0, "lost");
    assert_eq!(node.keyspace.stats().used_bytes, empty_bytes);
    let third = token(node.claim(server));
    node.pass_ms(1);
    assert_eq!(node.keyspace.stats().leases, 1);
    node.fill(third, b"v");
    assert_eq!(node.keyspace.stats().leases, 0, "filled");
}

#[test]
fn over_the_bound_a_running_load_keeps_its_record_before_a_lease_that_is_done_with() {
    let settings = Settings { shards: 1, lease: LeaseSettings { records_max: 2, ..settings().lease }, ..settings() };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    let running = token(node.claim(Claim { lease_ms: Some(600_000), ..SERVER }));
    for key in [b"a", b"b", b"c"] {
        let done = token(node.keyspace.claim(&mut node.turn, DB, key, CLIENT));
        node.keyspace.release(&mut node.turn, DB, key, done, Release::default());
    }
    assert!(matches!(node.fill(running, b"v"), Filled::Stored));
}

#[test]
fn who_meets_a_load_of_the_server_is_not_sent_away_for_the_time_of_its_lease() {
    let mut node = Node::new();
    let server = Claim { lease_ms: Some(600_000), ..SERVER };
    node.claim(server);
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { retry_after_ms: 50, .. }));
}

#[test]
fn readers_of_a_key_that_changes_faster_than_it_loads_are_not_kept_for_ever() {
    let mut node = Node::new();
    let first = token(node.claim(waiting(SERVER, 1)));
    node.delete();
    node.claim(waiting(SERVER, 2));
    assert_eq!(node.fill(first, b"one"), LOST_REVOKED);
    assert!(node.wakes().is_empty(), "the next load may bring what is there now");
    let second = node.turn.effects.loads.pop().unwrap().token;
    node.delete();
    node.claim(waiting(SERVER, 3));
    assert_eq!(node.fill(second, b"two"), LOST_REVOKED);
    // The first asked before both changes. The second asked after one of them and may hear only what is newer than that.
    assert!(matches!(&node.wakes()[..], [(1, WakeEvent::Value { value, .. })] if value == "two"));
    let third = node.turn.effects.loads.pop().unwrap().token;
    node.delete();
    node.fill(third, b"three");
    assert!(matches!(&node.wakes()[..], [(2, WakeEvent::Value { value, .. })] if value == "three"));
    assert_eq!(node.value(), None, "nothing of this is stored");
    let fourth = node.turn.effects.loads.pop().unwrap().token;
    assert!(matches!(node.fill(fourth, b"four"), Filled::Stored));
    assert!(matches!(&node.wakes()[..], [(3, WakeEvent::Value { value, .. })] if value == "four"));
    assert_eq!(node.keyspace.stats().waiters, 0);
}

#[test]
fn a_load_that_fails_after_an_invalidation_does_not_make_the_old_value_fresh() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v", Expiry::At(START_MS + 100), 60_000, None);
    node.pass_ms(100);
    let token = token(node.claim(SERVER));
    node.invalidate(Invalidation::Soft { stale_ms: None }, None);
    node.keyspace.fail(&mut node.turn, DB, KEY, token, &"LOADFAIL users down".into(), 1_000);
    assert_eq!(node.value(), None);
}

#[test]
fn a_soft_invalidation_ends_the_new_life_and_leaves_the_window_of_the_own_one() {
    let mut node = Node::new();
    let first = node.lead();
    node.fill_with(first, b"v", Expiry::At(START_MS + 100), 10_000, None);
    node.pass_ms(1_100);
    let token = token(node.claim(SERVER));
    node.keyspace.fail(&mut node.turn, DB, KEY, token, &"LOADFAIL users down".into(), 2_000);
    let near = |most_ms| Claim { stale_ms_max: Some(most_ms), ..CLIENT };
    assert!(matches!(node.claim(near(1_000)), Claimed::Hit { .. }));
    node.pass_ms(500);
    assert!(node.invalidate(Invalidation::Soft { stale_ms: None }, None), "it was fresh by its new life");
    assert_eq!(node.value(), None);
    node.pass_ms(8_499);
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: Some(_), .. }));
    node.pass_ms(1);
    node.delete();
    assert!(matches!(node.claim(CLIENT), Claimed::Lead { stale: None, .. }));
}
