//! The lease rules of SPEC §2, one test each, on a keyspace whose time is in the test's hands.

#![allow(missing_docs, clippy::unwrap_used)]

use leasehold_keyspace::{
    Access, Attributes, Claim, Claimant, Claimed, Db, EvictionPolicy, Expiry, Fill, Filled, HashSeed, Invalidation,
    Keyspace, LeaseSettings, LostReason, Release, Settings, Turn, Waiter, WakeEvent,
};

const DB: Db = Db(0);
const KEY: &[u8] = b"k";
const START_MS: u64 = 1_700_000_000_000;

fn settings() -> Settings {
    Settings {
        shards: 4,
        memory_bytes_max: 0,
        policy: EvictionPolicy::AllKeysLru,
        eviction_samples: 5,
        absence_bytes_max: 1 << 20,
        boot_unix_ms: START_MS,
        lease: LeaseSettings {
            lease_ms: 10_000,
            lease_ms_max: 60_000,
            reissue_after_ms: None,
            waiters_per_key_max: 3,
            waiters_max: 100,
            records_max: 1_000,
            tombstone_ttl_ms: 60_000,
            invalidated_stale_ms: 10_000,
        },
    }
}

struct Node {
    keyspace: Keyspace,
    turn: Turn,
}

impl Node {
    fn new() -> Self {
        Self { keyspace: Keyspace::new(settings(), HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) }
    }

    fn claim(&mut self, claim: Claim) -> Claimed {
        self.keyspace.claim(&mut self.turn, DB, KEY, claim)
    }

    fn lead(&mut self) -> u64 {
        token(self.claim(CLIENT))
    }

    fn fill(&mut self, token: u64, value: &[u8]) -> Filled {
        self.fill_with(token, value, Expiry::Never, 0, None)
    }

    fn fill_with(
        &mut self,
        token: u64,
        value: &[u8],
        expiry: Expiry,
        stale_for_ms: u64,
        version: Option<u64>,
    ) -> Filled {
        self.keyspace.fill(&mut self.turn, DB, KEY, token, Fill::Value { value, expiry, stale_for_ms, version })
    }

    fn set(&mut self, value: &[u8]) {
        self.keyspace.update(&mut self.turn, DB, KEY, |slot| slot.set(value, Attributes::PLAIN));
    }

    fn delete(&mut self) -> bool {
        self.keyspace.update(&mut self.turn, DB, KEY, |slot| slot.remove())
    }

    fn invalidate(&mut self, invalidation: Invalidation, version: Option<u64>) -> bool {
        self.keyspace.invalidate(&mut self.turn, DB, KEY, invalidation, version)
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        self.keyspace.read(&mut self.turn, DB, KEY, Access::Touch, |entry| entry.value.to_vec())
    }

    fn pass_ms(&mut self, ms: u64) {
        self.turn.now_ms += ms;
        self.keyspace.sweep_leases(&mut self.turn, 0..self.keyspace.shards());
    }

    /// Wakes since the last call, as waiter index and event.
    fn wakes(&mut self) -> Vec<(u32, WakeEvent)> {
        self.turn.effects.wakes.drain(..).map(|wake| (wake.waiter.index, wake.event)).collect()
    }
}

const CLIENT: Claim =
    Claim { claimant: Claimant::Client, lease_ms: None, version_min: None, fresh_required: false, waiter: None };
const SERVER: Claim = Claim { claimant: Claimant::Server { loader: 0 }, ..CLIENT };

fn waiting(claim: Claim, index: u32) -> Claim {
    Claim { waiter: Some(Waiter { thread: 0, connection: 1, ticket: 1, index }), ..claim }
}

#[track_caller]
fn token(claimed: Claimed) -> u64 {
    match claimed {
        Claimed::Lead { token, .. } => token,
        other => panic!("expected to lead, got {other:?}"),
    }
}

const LOST_REVOKED: Filled = Filled::Lost(LostReason::Revoked);
const LOST_UNKNOWN: Filled = Filled::Lost(LostReason::Unknown);

#[test]
fn the_first_who_misses_leads_and_the_next_waits() {
    let mut node = Node::new();
    let token = node.lead();
    assert!(token > 1 && token <= i64::MAX as u64);
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { retry_after_ms: 10_000, stale: None, version: 0 }));
    assert!(matches!(node.fill(token, b"v"), Filled::Stored { .. }));
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
    assert!(matches!(node.fill(second, b"w"), Filled::Stored { .. }));
}

#[test]
fn an_unknown_token_is_lost() {
    let mut node = Node::new();
    for token in [0, 1, 2, u64::MAX] {
        assert_eq!(node.fill(token, b"v"), LOST_UNKNOWN);
    }
    let own = node.lead();
    let other = Keyspace::new(Settings { boot_unix_ms: START_MS + 1, ..settings() }, HashSeed([1, 2, 3, 4]));
    let fill = Fill::Value { value: b"v", expiry: Expiry::Never, stale_for_ms: 0, version: None };
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
    assert!(matches!(node.fill(quick, b"quick"), Filled::Stored { .. }));
    assert_eq!(node.fill(slow, b"slow"), Filled::Lost(LostReason::Superseded));

    node.delete();
    let slow = node.lead();
    node.pass_ms(50);
    let _quick = node.lead();
    assert!(matches!(node.fill(slow, b"slow"), Filled::Stored { .. }));
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
        let fill = Fill::Value { value: b"v", expiry: Expiry::Never, stale_for_ms: 0, version: None };
        assert!(matches!(node.keyspace.fill(&mut node.turn, DB, &key, token, fill), Filled::Stored { .. }));
    }
    let first = node.lead();
    let mut leases = 1;
    for _ in 0..300 {
        node.pass_ms(10);
        leases += usize::from(matches!(node.claim(CLIENT), Claimed::Lead { .. }));
    }
    // After 50, 100, 200, 400, 800 and 1600 ms; every 50 ms would be 60.
    assert!((2..=6).contains(&leases), "{leases} leases");
    assert!(matches!(node.fill(first, b"slow"), Filled::Stored { .. }));
}

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
    assert!(matches!(node.fill(token, b"new"), Filled::Stored { .. }));
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
    let fill = Fill::Value { value: b"v", expiry: Expiry::Never, stale_for_ms: 0, version: None };
    assert_eq!(keyspace.fill(&mut turn, DB, b"a", first, fill), LOST_UNKNOWN);
    assert!(matches!(keyspace.fill(&mut turn, DB, b"b", second, fill), Filled::Stored { .. }));
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
        assert!(matches!(node.fill(load.token, b"new row"), Filled::Stored { .. }));
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

#[test]
fn a_late_load_still_fills_and_no_other_is_started_beside_it() {
    let mut node = Node::new();
    let late = token(node.claim(waiting(SERVER, 1)));
    node.keyspace.overdue(&mut node.turn, DB, KEY, late, &"LOADFAIL users late".into(), 0);
    assert!(matches!(node.wakes()[..], [(1, WakeEvent::Failed { .. })]));
    assert!(matches!(node.claim(waiting(SERVER, 2)), Claimed::Parked { .. }));
    assert!(matches!(node.fill(late, b"row"), Filled::Stored { .. }));
    assert!(matches!(&node.wakes()[..], [(2, WakeEvent::Value { value, .. })] if value == "row"));
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
    assert!(matches!(node.fill_with(token, b"v8", Expiry::Never, 0, Some(8)), Filled::Stored { .. }));
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
fn the_same_row_read_again_refreshes_an_entry_with_its_version() {
    let mut node = Node::new();
    let first = token(node.claim(SERVER));
    node.fill_with(first, b"row", Expiry::At(START_MS + 100), 10_000, Some(5));
    node.pass_ms(100);
    let again = token(node.claim(SERVER));
    assert!(matches!(node.fill_with(again, b"row", Expiry::Never, 0, Some(5)), Filled::Stored { .. }));
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
    assert!(matches!(node.fill(running, b"v"), Filled::Stored { .. }));
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
    assert!(matches!(node.fill(fourth, b"four"), Filled::Stored { .. }));
    assert!(matches!(&node.wakes()[..], [(3, WakeEvent::Value { value, .. })] if value == "four"));
    assert_eq!(node.keyspace.stats().waiters, 0);
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
fn the_row_that_an_invalidation_told_of_may_be_filled_with_its_version() {
    for invalidation in [Invalidation::Hard, Invalidation::Soft { stale_ms: None }] {
        let mut node = Node::new();
        let first = node.lead();
        node.fill_with(first, b"v5", Expiry::Never, 0, Some(5));
        node.invalidate(invalidation, Some(7));
        let token = node.lead();
        assert!(matches!(node.fill_with(token, b"v7", Expiry::Never, 0, Some(7)), Filled::Stored { .. }));
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
        let most = 2 << 20;
        assert!(used_bytes > most / 4 && used_bytes <= most, "{used_bytes} bytes of leases");
        let key = [&19_999u32.to_le_bytes()[..], &[round; 1_000]].concat();
        let fill = Fill::Value { value: b"v", expiry: Expiry::Never, stale_for_ms: 0, version: None };
        assert!(matches!(node.keyspace.fill(&mut node.turn, DB, &key, last, fill), Filled::Stored { .. }));
        // A limit set later holds too.
        node.keyspace.set_memory_bytes_max(0);
        node.keyspace.set_memory_bytes_max(8 << 20);
    }
}
