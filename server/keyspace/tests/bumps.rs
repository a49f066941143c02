//! Tags and prefixes, one test a rule (SPEC §2, rule 1; `server/keyspace/src/bumps.rs` and `shard/bumped.rs`).

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/lease.rs"]
mod lease;

use lease::{CLIENT, DB, KEY, LOST_REVOKED, Node, SERVER, START_MS, settings, token, waiting};
use leasehold_keyspace::{
    Access, Attributes, Claim, Claimed, Db, EvictionPolicy, Expiry, Fill, Filled, HashSeed, Keyspace, Lookup,
    LostReason, Release, Settings, Tag, Turn, WakeEvent,
};

fn fill_tagged(node: &mut Node, token: u64, value: &[u8], stale_for_ms: u64, tags: &[&[u8]]) -> Filled {
    let tags: Vec<Tag> = tags.iter().map(|name| node.keyspace.tag(name)).collect();
    let expiry = if stale_for_ms > 0 { Expiry::At(node.turn.now_ms + 60_000) } else { Expiry::Never };
    let fill = Fill::Value { value, expiry, stale_for_ms, version: None, client_flags: 0, tags: &tags };
    node.keyspace.fill(&mut node.turn, DB, KEY, token, fill)
}

fn tagged(value: &[u8], stale_for_ms: u64, tags: &[&[u8]]) -> Node {
    let mut node = Node::new();
    let token = node.lead();
    assert_eq!(fill_tagged(&mut node, token, value, stale_for_ms, tags), Filled::Stored);
    node
}

fn bump_tag(node: &mut Node, tag: &[u8]) {
    node.keyspace.invalidate_tag(&mut node.turn, tag);
}

fn bump_prefix(node: &mut Node, prefix: &[u8]) {
    node.keyspace.invalidate_prefix(&mut node.turn, DB, prefix);
}

/// Until no prefix is pending.
fn sweep(node: &mut Node) {
    for _ in 0..100 {
        node.keyspace.expire_cycle(&mut node.turn, 0..node.keyspace.shards(), 10_000);
        if node.keyspace.stats().prefix_bumps_pending == 0 {
            return;
        }
    }
    panic!("the sweep does not end: {:?}", node.keyspace.stats());
}

fn lookup(node: &mut Node) -> Lookup<Vec<u8>> {
    node.keyspace.lookup(&mut node.turn, DB, KEY, Access::Touch, |entry| entry.value.to_vec())
}

#[test]
fn a_bumped_tag_makes_its_entries_stale_since_then_for_their_window() {
    let mut node = tagged(b"v", 5_000, &[b"other", b"tag"]);
    assert_eq!(node.value(), Some(b"v".to_vec()));
    node.turn.now_ms += 100;
    bump_tag(&mut node, b"tag");
    node.turn.now_ms += 4_999;
    assert_eq!((node.value(), lookup(&mut node)), (None, Lookup::Stale(b"v".to_vec())));
    node.turn.now_ms += 1;
    assert_eq!(lookup(&mut node), Lookup::Absent);
    assert_eq!(node.keyspace.stats().bumped_by_tag, 1);
}

#[test]
fn an_entry_that_nobody_came_to_in_its_window_is_gone_after_it() {
    let mut node = tagged(b"v", 0, &[b"tag"]);
    bump_tag(&mut node, b"tag");
    node.turn.now_ms += settings().lease.invalidated_stale_ms;
    assert_eq!(lookup(&mut node), Lookup::Absent);
    assert_eq!(node.keyspace.stats().entries, 0);
}

#[test]
fn another_tag_and_an_older_bump_change_nothing() {
    let mut node = Node::new();
    bump_tag(&mut node, b"tag");
    let token = node.lead();
    assert_eq!(fill_tagged(&mut node, token, b"v", 0, &[b"tag"]), Filled::Stored);
    bump_tag(&mut node, b"tag2");
    bump_tag(&mut node, b"");
    assert_eq!(node.value(), Some(b"v".to_vec()));
}

#[test]
fn a_fill_whose_tag_was_bumped_since_its_token_is_lost() {
    let mut node = Node::new();
    let token = node.lead();
    bump_tag(&mut node, b"tag");
    assert_eq!(fill_tagged(&mut node, token, b"old", 0, &[b"other", b"tag"]), LOST_REVOKED);
    assert_eq!(node.value(), None);
}

#[test]
fn what_a_fill_brings_is_as_old_as_its_token() {
    // Bumped between the check of the fill and the next read, or at any time after the token was given: the same to a reader.
    let mut node = Node::new();
    let token = node.lead();
    node.turn.now_ms += 50;
    assert_eq!(fill_tagged(&mut node, token, b"v", 0, &[b"tag"]), Filled::Stored);
    bump_tag(&mut node, b"tag");
    assert_eq!(node.value(), None);
}

#[test]
fn a_fill_that_would_replace_an_entry_whose_tag_was_bumped_is_stale_at_most() {
    let mut node = tagged(b"v1", 5_000, &[b"tag"]);
    node.turn.now_ms += 60_000;
    let late = node.lead();
    bump_tag(&mut node, b"tag");
    // It has no tags itself.
    assert_eq!(node.fill(late, b"v2"), Filled::Stale);
    assert_eq!((node.value(), lookup(&mut node)), (None, Lookup::Stale(b"v2".to_vec())));

    // The tags are still there: a second bump voids the next token too.
    node.pass_ms(10_000);
    let mut node = tagged(b"v1", 5_000, &[b"tag"]);
    bump_tag(&mut node, b"tag");
    assert_eq!(node.value(), None);
    let next = node.lead();
    bump_tag(&mut node, b"tag");
    assert_eq!(node.fill(next, b"v2"), Filled::Stale);
    let last = node.lead();
    assert_eq!(node.fill(last, b"v3"), Filled::Stored);
}

#[test]
fn a_reader_of_a_bumped_entry_leads_although_another_does() {
    let mut node = tagged(b"v", 60_000, &[b"tag"]);
    node.turn.now_ms += 60_000;
    let first = node.lead();
    assert!(matches!(node.claim(CLIENT), Claimed::Wait { .. }));
    bump_tag(&mut node, b"tag");
    let second = node.lead();
    assert_eq!(fill_tagged(&mut node, first, b"old", 0, &[b"tag"]), Filled::Stale);
    assert_eq!(fill_tagged(&mut node, second, b"new", 0, &[b"tag"]), Filled::Stored);
    assert_eq!(node.value(), Some(b"new".to_vec()));
}

#[test]
fn those_who_wait_for_a_load_overtaken_by_a_bump_get_the_next_one() {
    let mut node = Node::new();
    let first = token(node.claim(waiting(SERVER, 1)));
    bump_tag(&mut node, b"tag");
    assert_eq!(fill_tagged(&mut node, first, b"old", 0, &[b"tag"]), LOST_REVOKED);
    assert!(node.wakes().is_empty());
    let load = node.turn.effects.loads.pop().expect("it is loaded again");
    assert_eq!(fill_tagged(&mut node, load.token, b"new", 0, &[b"tag"]), Filled::Stored);
    let wakes = node.wakes();
    assert!(matches!(&wakes[..], [(1, WakeEvent::Value { value, .. })] if &value[..] == b"new"), "{wakes:?}");
}

#[test]
fn a_client_waiting_behind_a_voided_holder_leads_at_the_next_sweep() {
    let mut node = tagged(b"v", 60_000, &[b"tag"]);
    node.turn.now_ms += 60_000;
    node.lead();
    assert!(matches!(node.claim(waiting(CLIENT, 7)), Claimed::Parked { .. }));
    bump_tag(&mut node, b"tag");
    // A reader comes to the entry.
    assert_eq!(node.value(), None);
    node.pass_ms(1);
    let wakes = node.wakes();
    assert!(matches!(&wakes[..], [(7, WakeEvent::Lead { .. })]), "{wakes:?}");
}

#[test]
fn a_set_has_no_tags_and_a_change_in_place_keeps_them() {
    for (keeps, change) in [(false, "set"), (true, "in place"), (true, "expiry"), (true, "version")] {
        let mut node = tagged(b"v", 0, &[b"tag"]);
        node.keyspace.update(&mut node.turn, DB, KEY, |slot| match change {
            "set" => slot.set(b"w", Attributes::PLAIN),
            "in place" => slot.value_mut(2)[1] = b'x',
            "expiry" => assert!(slot.set_expiry(Some(START_MS + 100_000))),
            _ => assert!(slot.version().is_some()),
        });
        bump_tag(&mut node, b"tag");
        assert_eq!(node.value().is_none(), keeps, "{change}");
    }
}

#[test]
fn a_bumped_entry_is_in_no_scan_and_no_random_choice() {
    let mut node = tagged(b"v", 0, &[b"tag"]);
    bump_tag(&mut node, b"tag");
    let mut seen = 0;
    node.keyspace.scan(&mut node.turn, DB, 0, 1000, |_| seen += 1);
    assert_eq!((seen, node.keyspace.random_key(&mut node.turn, DB)), (0, None));
    node.set(b"again");
    bump_prefix(&mut node, b"");
    node.keyspace.scan(&mut node.turn, DB, 0, 1000, |_| seen += 1);
    assert_eq!((seen, node.keyspace.random_key(&mut node.turn, DB)), (0, None));
}

#[test]
fn a_bumped_prefix_makes_what_was_written_before_stale_and_nothing_else() {
    for sweeps in [false, true] {
        let mut node = Node::new();
        let keys: Vec<Vec<u8>> = (0..2_000).map(|number| format!("{}:{number}", number % 3).into_bytes()).collect();
        let set = |node: &mut Node, db: Db, key: &[u8]| {
            node.keyspace.update(&mut node.turn, db, key, |slot| slot.set(b"v", Attributes::PLAIN));
        };
        for key in &keys {
            set(&mut node, DB, key);
            set(&mut node, Db(1), key);
        }
        bump_prefix(&mut node, b"1:");
        // Overwritten in place, if anything is.
        for key in keys.iter().skip(1).step_by(6) {
            set(&mut node, DB, key);
        }
        if sweeps {
            sweep(&mut node);
            node.keyspace.check();
        }
        for (number, key) in keys.iter().enumerate() {
            let is_fresh =
                |node: &mut Node, db| node.keyspace.read(&mut node.turn, db, key, Access::Touch, |_| ()).is_some();
            let expected = number % 3 != 1 || number % 6 == 1;
            assert_eq!(is_fresh(&mut node, DB), expected, "{number}, swept: {sweeps}");
            assert!(is_fresh(&mut node, Db(1)), "{number}");
        }
        sweep(&mut node);
        assert_eq!(node.keyspace.stats().bumped_by_prefix, 667);
    }
}

#[test]
fn what_is_written_under_a_pending_prefix_is_covered_by_the_next_bump() {
    let mut node = Node::new();
    node.set(b"v0");
    bump_prefix(&mut node, b"k");
    node.set(b"v1");
    assert_eq!(node.value(), Some(b"v1".to_vec()));
    bump_prefix(&mut node, KEY);
    assert_eq!(node.value(), None);
    node.set(b"v2");
    sweep(&mut node);
    assert_eq!(node.value(), Some(b"v2".to_vec()));
    bump_prefix(&mut node, b"");
    assert_eq!(node.value(), None);
}

#[test]
fn a_bumped_prefix_voids_tokens_of_absent_keys_before_and_after_the_sweep() {
    for sweeps in [false, true] {
        let mut node = Node::new();
        let before = node.lead();
        bump_prefix(&mut node, b"k");
        if sweeps {
            sweep(&mut node);
        }
        assert_eq!(node.fill(before, b"old"), LOST_REVOKED, "swept: {sweeps}");
        let after = node.lead();
        assert_eq!(node.fill(after, b"new"), Filled::Stored);

        let before = node.lead_again();
        bump_prefix(&mut node, b"k");
        if sweeps {
            sweep(&mut node);
        }
        let release = Release { negative_ms: Some(1_000), backoff_ms: None };
        node.keyspace.release(&mut node.turn, DB, KEY, before, release);
        assert!(!matches!(lookup(&mut node), Lookup::Negative { .. }), "an old absence is none, swept: {sweeps}");
    }
}

#[test]
fn a_bumped_prefix_ends_negative_entries_but_no_version_floor() {
    for sweeps in [false, true] {
        let mut node = Node::new();
        node.invalidate(leasehold_keyspace::Invalidation::Hard, Some(7));
        let token = node.lead();
        let release = Release { negative_ms: Some(50_000), backoff_ms: None };
        assert!(node.keyspace.release(&mut node.turn, DB, KEY, token, release));
        assert!(matches!(lookup(&mut node), Lookup::Negative { .. }));
        bump_prefix(&mut node, b"k");
        if sweeps {
            sweep(&mut node);
        }
        assert_eq!(lookup(&mut node), Lookup::Absent, "swept: {sweeps}");
        let token = node.lead();
        let older = node.fill_with(token, b"old", Expiry::Never, 0, Some(6));
        assert_eq!(older, Filled::Lost(LostReason::OlderVersion), "swept: {sweeps}");
    }
}

#[test]
fn a_negative_entry_after_the_bump_stays() {
    let mut node = Node::new();
    bump_prefix(&mut node, b"k");
    let token = node.lead();
    let release = Release { negative_ms: Some(50_000), backoff_ms: None };
    assert!(node.keyspace.release(&mut node.turn, DB, KEY, token, release));
    sweep(&mut node);
    assert!(matches!(lookup(&mut node), Lookup::Negative { .. }));
}

#[test]
fn a_load_that_fails_revives_no_entry_that_a_prefix_covers() {
    let mut node = Node::new();
    let token = node.lead();
    node.fill_with(token, b"v", Expiry::At(START_MS + 100), 60_000, None);
    node.pass_ms(200);
    let token = lease::token(node.claim(SERVER));
    bump_prefix(&mut node, b"k");
    node.keyspace.fail(&mut node.turn, DB, KEY, token, &"LOADFAIL".into(), 1_000);
    assert_eq!((node.value(), lookup(&mut node)), (None, Lookup::Stale(b"v".to_vec())));
}

#[test]
fn more_prefixes_than_may_be_pending_are_gone_through_at_once() {
    let mut node = Node::new();
    let keys: Vec<Vec<u8>> = (0..100).map(|number| format!("{number:03}").into_bytes()).collect();
    for key in &keys {
        node.keyspace.update(&mut node.turn, DB, key, |slot| slot.set(b"v", Attributes::PLAIN));
    }
    for key in &keys[..70] {
        bump_prefix(&mut node, key);
        assert!(node.keyspace.stats().prefix_bumps_pending <= 16);
    }
    for (number, key) in keys.iter().enumerate() {
        let is_fresh = node.keyspace.read(&mut node.turn, DB, key, Access::Touch, |_| ()).is_some();
        assert_eq!(is_fresh, number >= 70, "{number}");
    }
    // The same prefix again and again is one, and a shorter one takes its place.
    sweep(&mut node);
    for key in [b"07", b"07", b"08", b"09"] {
        bump_prefix(&mut node, key);
    }
    assert_eq!(node.keyspace.stats().prefix_bumps_pending, 3);
    bump_prefix(&mut node, b"0");
    assert_eq!(node.keyspace.stats().prefix_bumps_pending, 1);
}

#[test]
fn a_bumped_tag_gives_memory_back_although_nobody_comes_to_its_entries() {
    let mut node = tagged(b"v", 0, &[b"tag"]);
    let cycle = |node: &mut Node| {
        node.keyspace.expire_cycle(&mut node.turn, 0..node.keyspace.shards(), 100_000);
        node.keyspace.stats().entries
    };
    bump_tag(&mut node, b"tag");
    node.turn.now_ms += 299_999;
    assert_eq!(cycle(&mut node), 1);
    node.turn.now_ms += 1;
    assert_eq!(cycle(&mut node), 0);
}

/// What is told of the memory stays right, and untagged entries cost what they did.
#[test]
fn tags_cost_their_bytes_and_bumps_cost_untagged_entries_none() {
    let bytes =
        |node: &mut Node| node.keyspace.read(&mut node.turn, DB, KEY, Access::Quiet, |entry| entry.memory_bytes);
    let plain = bytes(&mut {
        let mut node = Node::new();
        node.set(b"value");
        node
    })
    .unwrap();
    // A birth, a count, two hashes and the byte that says so are 26, to a multiple of four.
    let mut node = tagged(b"value", 0, &[b"one", b"two"]);
    assert_eq!(bytes(&mut node), Some(plain + 24));

    let mut node = Node::new();
    bump_tag(&mut node, b"tag");
    bump_prefix(&mut node, b"other");
    node.set(b"value");
    assert_eq!(bytes(&mut node), Some(plain));
    let stats = node.keyspace.stats();
    assert_eq!((stats.tag_table_bytes, stats.tag_bumps, stats.prefix_bumps), (4 << 20, 1, 1));
    assert!(node.keyspace.used_bytes() >= stats.tag_table_bytes);
}

/// Entries that a bump covers are taken for gone when memory is short, although nobody came to them.
#[test]
fn what_a_bump_covers_makes_room() {
    let policy = EvictionPolicy::AllKeysLru;
    let keyspace =
        Keyspace::new(Settings { shards: 1, memory_bytes_max: 1 << 20, policy, ..settings() }, HashSeed([1, 2, 3, 4]));
    let mut turn = Turn::new(START_MS, 1);
    let tag = keyspace.tag(b"tag");
    let claim = Claim { fresh_required: true, ..CLIENT };
    for number in 0..1_000 {
        let key = format!("old:{number}");
        let token = token(keyspace.claim(&mut turn, DB, key.as_bytes(), claim));
        let fill = Fill::Value {
            value: &[b'v'; 100],
            expiry: Expiry::Never,
            stale_for_ms: 0,
            version: None,
            client_flags: 0,
            tags: &[tag],
        };
        assert_eq!(keyspace.fill(&mut turn, DB, key.as_bytes(), token, fill), Filled::Stored);
    }
    keyspace.invalidate_tag(&mut turn, b"tag");
    turn.now_ms += settings().lease.invalidated_stale_ms;
    keyspace.sweep_leases(&mut turn, 0..1);
    for number in 0..20_000 {
        let key = format!("new:{number}");
        keyspace.make_room(&mut turn, 200).unwrap();
        keyspace.update(&mut turn, DB, key.as_bytes(), |slot| slot.set(&[b'v'; 100], Attributes::PLAIN));
    }
    assert!(keyspace.stats().expired >= 1_000, "{:?}", keyspace.stats());
    keyspace.check();
}

#[test]
fn a_change_of_policy_forgets_no_pending_prefix() {
    let mut node = tagged(b"v", 0, &[]);
    bump_prefix(&mut node, KEY);
    node.keyspace.set_policy(EvictionPolicy::AllKeysLru);
    node.keyspace.set_policy(EvictionPolicy::AllKeysTinyLfu);
    assert_eq!(lookup(&mut node), Lookup::Stale(b"v".to_vec()));
    node.keyspace.check();
}
