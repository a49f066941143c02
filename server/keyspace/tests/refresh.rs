//! Refresh before expiry (SPEC §3 rule 6) as the keyspace sees it: who may load a fresh key anew, and what becomes of it.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/lease.rs"]
mod lease;

use lease::*;
use leasehold_keyspace::{Attributes, Claimed, Expiry, Fill, Filled, Invalidation, Refresh, WakeEvent};

const TTL_MS: u64 = 10_000;
/// Due in the last fifth of the TTL.
const AHEAD: Refresh = Refresh { loader: 0, lease_ms: 60_000, early_ms: TTL_MS / 5, early_loads: 0.0 };

/// A node whose key was loaded in 100 ms, with a TTL and a stale window.
fn loaded() -> Node {
    let mut node = Node::new();
    let token = token(node.claim(SERVER));
    node.pass_ms(100);
    assert_eq!(bring(&mut node, token, b"old"), Filled::Stored);
    node
}

fn bring(node: &mut Node, token: u64, value: &[u8]) -> Filled {
    let expiry = Expiry::At(node.turn.now_ms + TTL_MS);
    let fill = Fill::Value { value, expiry, stale_for_ms: 1_000, version: None, client_flags: 0, tags: &[] };
    node.keyspace.fill(&mut node.turn, DB, KEY, token, fill)
}

fn refresh(node: &mut Node) -> Option<u64> {
    node.keyspace.claim_refresh(&mut node.turn, DB, KEY, AHEAD)
}

fn value(node: &mut Node) -> Option<String> {
    node.value().map(|value| String::from_utf8(value).unwrap())
}

fn fail(node: &mut Node, token: u64) {
    node.keyspace.fail(&mut node.turn, DB, KEY, token, &"LOADFAIL users down".into(), 1_000);
}

#[test]
fn a_value_past_its_share_is_loaded_once_and_lives_anew() {
    let mut node = loaded();
    node.pass_ms(TTL_MS * 4 / 5 - 1);
    assert_eq!(refresh(&mut node), None, "not due yet");
    node.pass_ms(1);
    let token = refresh(&mut node).unwrap();
    assert_eq!(refresh(&mut node), None, "one load at a time");
    assert!(matches!(node.claim(SERVER), Claimed::Hit { value, .. } if value == "old"));
    assert!(matches!(node.claim(CLIENT), Claimed::Hit { value, .. } if value == "old"), "GETL too");
    node.pass_ms(50);
    assert_eq!(bring(&mut node, token, b"new"), Filled::Stored);
    node.pass_ms(TTL_MS - 1);
    assert_eq!(value(&mut node).as_deref(), Some("new"));
}

#[test]
fn a_value_with_early_loads_is_due_by_the_time_its_load_took() {
    let mut node = loaded();
    let early = Refresh { early_ms: 0, early_loads: 3.0, ..AHEAD };
    // 100 ms are kept as 96: a load has six bits.
    node.pass_ms(TTL_MS - 3 * 96 - 1);
    assert_eq!(node.keyspace.claim_refresh(&mut node.turn, DB, KEY, early), None);
    node.pass_ms(1);
    assert!(node.keyspace.claim_refresh(&mut node.turn, DB, KEY, early).is_some());
}

#[test]
fn what_a_client_has_set_is_left_alone() {
    let mut node = loaded();
    let expiry = Expiry::At(node.turn.now_ms + TTL_MS);
    node.keyspace.update(&mut node.turn, DB, KEY, |slot| slot.set(b"set", Attributes { expiry, ..Attributes::PLAIN }));
    node.pass_ms(TTL_MS - 1);
    assert_eq!(refresh(&mut node), None);
    node.pass_ms(1);
    assert_eq!(refresh(&mut node), None, "expired: that is a miss");
}

#[test]
fn a_refresh_overtaken_by_a_write_or_a_delete_is_not_stored() {
    for deletes in [false, true] {
        let mut node = loaded();
        node.pass_ms(TTL_MS - 1_000);
        let token = refresh(&mut node).unwrap();
        node.keyspace.update(&mut node.turn, DB, KEY, |slot| match deletes {
            true => drop(slot.remove()),
            false => slot.set(b"set", Attributes::PLAIN),
        });
        assert_eq!(bring(&mut node, token, b"row of before"), LOST_REVOKED);
        assert_eq!(value(&mut node).as_deref(), if deletes { None } else { Some("set") });
        assert!(node.wakes().is_empty() && node.turn.effects.loads.is_empty(), "nobody has asked");
        node.keyspace.check();
        assert_eq!(node.keyspace.stats().leases, 0, "nothing is left of it");
    }
}

#[test]
fn a_soft_invalidation_during_a_refresh_makes_the_value_stale_as_ever() {
    let mut node = loaded();
    node.pass_ms(TTL_MS - 1_000);
    let token = refresh(&mut node).unwrap();
    node.invalidate(Invalidation::Soft { stale_ms: None }, None);
    assert_eq!(bring(&mut node, token, b"row of before"), Filled::Stale);
    assert_eq!(value(&mut node), None);
}

#[test]
fn a_failed_refresh_leaves_the_value_and_is_not_repeated_at_once() {
    let mut node = loaded();
    node.pass_ms(TTL_MS - 2_000);
    let token = refresh(&mut node).unwrap();
    fail(&mut node, token);
    assert_eq!(value(&mut node).as_deref(), Some("old"));
    node.pass_ms(999);
    assert_eq!(refresh(&mut node), None);
    node.pass_ms(1);
    // A second before the end the pause is half of that, then a quarter.
    let token = refresh(&mut node).unwrap();
    fail(&mut node, token);
    node.pass_ms(499);
    assert_eq!(refresh(&mut node), None);
    node.pass_ms(1);
    let token = refresh(&mut node).unwrap();
    fail(&mut node, token);
    assert_eq!(value(&mut node).as_deref(), Some("old"));
    node.pass_ms(500);
    assert_eq!(value(&mut node), None, "failures do not lengthen its life");
    assert!(matches!(node.claim(SERVER), Claimed::Lead { stale: Some(_), .. }), "a miss does not wait for the pause");
}

#[test]
fn the_pause_after_a_failed_load_is_not_cut_short_by_a_refresh() {
    let mut node = loaded();
    node.pass_ms(TTL_MS);
    let token = token(node.claim(SERVER));
    fail(&mut node, token);
    assert_eq!(value(&mut node).as_deref(), Some("old"), "fresh again for the pause");
    assert_eq!(refresh(&mut node), None);
}

#[test]
fn an_absent_row_makes_the_key_negative() {
    let mut node = loaded();
    node.pass_ms(TTL_MS - 1);
    let token = refresh(&mut node).unwrap();
    let filled = node.keyspace.fill(&mut node.turn, DB, KEY, token, Fill::Absent { ttl_ms: 5_000 });
    assert_eq!(filled, Filled::Stored);
    assert!(matches!(node.claim(SERVER), Claimed::Negative { ttl_ms: 5_000, .. }));
}

#[test]
fn who_misses_while_a_refresh_runs_on_waits_for_it() {
    let mut node = loaded();
    node.pass_ms(TTL_MS - 10);
    let token = refresh(&mut node).unwrap();
    node.pass_ms(10);
    assert!(matches!(node.claim(waiting(SERVER, 1)), Claimed::Parked { .. }));
    assert_eq!(bring(&mut node, token, b"new"), Filled::Stored);
    assert!(matches!(&node.wakes()[..], [(1, WakeEvent::Value { value, .. })] if value == "new"));
}
