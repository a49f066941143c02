//! Writes that name a version or a token, and sightings: what they come to, one by one, on a keyspace whose time is in the test's hands.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/lease.rs"]
mod lease;

use lease::*;
use leasehold_keyspace::{
    Access, Attributes, Claimed, EvictionPolicy, Expiry, Fill, Filled, HashSeed, Invalidation, Keyspace, Release,
    Replaced, Replacement, Settings, Sight, Standing, Turn,
};

const LOOKS: Sight =
    Sight { version_wanted: true, leads_on_miss: true, leads_on_stale: true, access: Access::Touch, ..Sight::QUIET };

fn replacement(named: u64) -> Replacement<'static> {
    Replacement {
        named,
        fills_only: false,
        value: b"new",
        attributes: Attributes::PLAIN,
        stale_suffices: false,
        version_wanted: true,
    }
}

fn replace(node: &mut Node, replacement: Replacement<'_>) -> Replaced {
    node.keyspace.replace(&mut node.turn, DB, KEY, replacement)
}

/// Value, freshness, version, standing.
fn sight(node: &mut Node, sight: Sight) -> (Option<Vec<u8>>, bool, u64, Standing) {
    node.keyspace.sight(&mut node.turn, DB, KEY, &sight, |seen| {
        (seen.entry.map(|entry| entry.value.to_vec()), seen.is_fresh, seen.version, seen.standing)
    })
}

fn won(standing: Standing) -> u64 {
    match standing {
        Standing::Won { token, .. } => token,
        other => panic!("expected to lead, got {other:?}"),
    }
}

#[test]
fn a_version_is_replaced_once_and_a_token_fills_once() {
    let mut node = Node::new();
    assert_eq!(replace(&mut node, replacement(5)), Replaced::Absent);
    node.set(b"old");
    let version = sight(&mut node, LOOKS).2;
    assert_eq!(replace(&mut node, replacement(version + 1)), Replaced::Differs);
    assert_eq!(replace(&mut node, Replacement { fills_only: true, ..replacement(version) }), Replaced::Differs);
    let Replaced::Stored { version: newer } = replace(&mut node, replacement(version)) else { panic!("not stored") };
    assert!(newer > version);
    assert_eq!(sight(&mut node, LOOKS), (Some(b"new".to_vec()), true, newer, Standing::Free));
    assert_eq!(replace(&mut node, replacement(version)), Replaced::Differs);

    node.delete();
    let token = won(sight(&mut node, LOOKS).3);
    assert!(matches!(sight(&mut node, LOOKS), (None, false, 0, Standing::Led { .. })));
    assert_eq!(replace(&mut node, replacement(version)), Replaced::Differs, "a lease is out");
    let filled = Replacement { fills_only: true, ..replacement(token) };
    assert!(matches!(replace(&mut node, filled), Replaced::Stored { .. }));
    assert_eq!(replace(&mut node, filled), Replaced::Differs);
    node.delete();
    assert_eq!(replace(&mut node, filled), Replaced::Absent);
    node.keyspace.check();
}

#[test]
fn a_stale_value_is_replaced_only_by_what_was_made_from_it_or_under_a_lease_on_it() {
    for named_is_version in [true, false] {
        let mut node = Node::new();
        let token = node.lead();
        node.fill_with(token, b"old", Expiry::At(START_MS + 1_000), 60_000, None);
        let version = sight(&mut node, LOOKS).2;
        node.pass_ms(1_000);
        let (value, is_fresh, _, standing) = sight(&mut node, LOOKS);
        assert_eq!((value.unwrap().as_slice(), is_fresh), (&b"old"[..], false));
        let token = won(standing);
        node.invalidate(Invalidation::Soft { stale_ms: Some(50_000) }, None);
        let named = if named_is_version { version } else { token };
        if named_is_version {
            assert_eq!(replace(&mut node, replacement(named)), Replaced::Differs);
        }
        let enough = Replacement { stale_suffices: true, ..replacement(named) };
        assert_eq!(replace(&mut node, enough), Replaced::Stale);
        assert_eq!(node.value(), None, "it is stale all the same");
        assert_eq!(sight(&mut node, Sight::QUIET).0.unwrap(), b"new");
        assert_eq!(replace(&mut node, enough), Replaced::Differs, "that value is gone");
        node.keyspace.check();
    }
}

#[test]
fn a_version_of_the_writer_names_a_stale_value_once() {
    let mut node = Node::new();
    let attributes = Attributes { external_version: Some(5), ..Attributes::PLAIN };
    node.keyspace.update(&mut node.turn, DB, KEY, |slot| slot.set(b"old", attributes));
    node.invalidate(Invalidation::Soft { stale_ms: Some(50_000) }, None);
    let enough = Replacement { stale_suffices: true, ..replacement(5) };
    assert_eq!(replace(&mut node, enough), Replaced::Stale);
    assert_eq!(replace(&mut node, enough), Replaced::Differs, "that value is gone");
}

#[test]
fn no_fresh_value_is_replaced_by_an_older_one_not_even_as_a_stale_one() {
    let mut node = Node::new();
    node.set(b"old");
    let version = sight(&mut node, LOOKS).2;
    node.set(b"newer");
    assert_eq!(replace(&mut node, Replacement { stale_suffices: true, ..replacement(version) }), Replaced::Differs);
    assert_eq!(node.value().unwrap(), b"newer");
}

#[test]
fn who_looks_near_the_end_leads_once_and_all_go_on_reading() {
    let mut node = Node::new();
    let attributes = Attributes { expiry: Expiry::At(START_MS + 30_000), ..Attributes::PLAIN };
    node.keyspace.update(&mut node.turn, DB, KEY, |slot| slot.set(b"v", attributes));
    let early = |before_ms| Sight { leads_before_ms: START_MS + before_ms, ..LOOKS };
    assert_eq!(sight(&mut node, early(30_000)).3, Standing::Free, "not less than that is left");
    let (value, is_fresh, _, standing) = sight(&mut node, early(30_001));
    assert_eq!((value.unwrap().as_slice(), is_fresh), (&b"v"[..], true));
    let token = won(standing);
    assert!(matches!(sight(&mut node, early(30_001)).3, Standing::Led { .. }));
    assert!(matches!(sight(&mut node, LOOKS).3, Standing::Led { .. }));
    // A new end is no write.
    sight(&mut node, Sight { expiry: Expiry::At(START_MS + 90_000), ..LOOKS });
    assert_eq!(node.fill(token, b"w"), Filled::Stored);
    assert_eq!(sight(&mut node, LOOKS).3, Standing::Free);
    sight(&mut node, Sight { expiry: Expiry::At(START_MS), ..LOOKS });
    assert_eq!(node.value(), None, "an end that has passed deletes");
}

#[test]
fn nobody_leads_where_the_source_is_known_to_have_nothing() {
    let mut node = Node::new();
    let token = node.lead();
    let release = Release { negative_ms: Some(1_000), backoff_ms: None };
    assert!(node.keyspace.release(&mut node.turn, DB, KEY, token, release));
    assert_eq!(sight(&mut node, LOOKS), (None, false, 0, Standing::Free));
    node.pass_ms(1_000);
    won(sight(&mut node, LOOKS).3);
}

#[test]
fn where_nothing_may_be_evicted_nothing_is_replaced() {
    let policy = EvictionPolicy::NoEviction;
    let settings = Settings { memory_bytes_max: 8 << 20, policy, ..settings() };
    let mut node = Node { keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])), turn: Turn::new(START_MS, 1) };
    node.set(b"old");
    let version = sight(&mut node, LOOKS).2;
    let mut number = 0u32;
    while node.keyspace.make_room(&mut node.turn, 4096).is_ok() {
        number += 1;
        let key = number.to_le_bytes();
        node.keyspace.update(&mut node.turn, DB, &key, |slot| slot.set(&[7; 4096], Attributes::PLAIN));
    }
    let value = vec![7; 1 << 20];
    let large = Replacement { value: &value, ..replacement(version) };
    assert_eq!(replace(&mut node, large), Replaced::NoRoom);
    assert_eq!(node.value().unwrap(), b"old");
    let other = b"other";
    let Claimed::Lead { token, .. } = node.keyspace.claim(&mut node.turn, DB, other, CLIENT) else { panic!("a lease") };
    let replaced = node.keyspace.replace(&mut node.turn, DB, other, Replacement { named: token, ..large });
    assert_eq!(replaced, Replaced::NoRoom);
}

#[test]
fn client_flags_are_stored_with_a_fill() {
    let mut node = Node::new();
    let token = node.lead();
    let fill = Fill::Value {
        value: b"v",
        expiry: Expiry::Never,
        stale_for_ms: 0,
        version: None,
        client_flags: 0xffff_ffff,
        tags: &[],
    };
    assert_eq!(node.keyspace.fill(&mut node.turn, DB, KEY, token, fill), Filled::Stored);
    let flags = node.keyspace.read(&mut node.turn, DB, KEY, Access::Quiet, |entry| entry.client_flags);
    assert_eq!(flags, Some(0xffff_ffff));
}
