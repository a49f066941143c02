//! What is told of the changes of keys: all of those in the window, in order, with numbers that show a fill which should not have been.

#[path = "common/lease.rs"]
mod lease;

use lease::{DB, KEY, Node};
use leasehold_keyspace::{
    Actor, CHANGED_KEY_BYTES_MAX, CHANGES_MAX, ChangeKind, Filled, HashWindow, Invalidation, KeyChange, Release,
};

const ALL: HashWindow = HashWindow { start: 0, width: u64::MAX };

fn taken(node: &Node) -> Vec<KeyChange> {
    node.keyspace.take_changes().0.into()
}

fn kinds(changes: &[KeyChange]) -> Vec<(ChangeKind, Actor)> {
    changes.iter().map(|change| (change.kind, change.actor)).collect()
}

#[test]
fn nothing_is_told_of_keys_outside_the_window() {
    let mut node = Node::new();
    node.delete();
    node.keyspace.tell_changes_of(ALL);
    node.delete();
    node.keyspace.tell_changes_of(HashWindow::NONE);
    node.delete();
    assert_eq!(kinds(&taken(&node)), [(ChangeKind::Deleted, Actor::Client)]);
    // Half of the hashes have half of the keys, wherever it begins.
    for start in [0, u64::MAX / 4, u64::MAX / 4 * 3] {
        node.keyspace.tell_changes_of(HashWindow { start, width: u64::MAX / 2 });
        for number in 0..1_000 {
            let key = format!("key:{number}");
            node.keyspace.update(&mut node.turn, DB, key.as_bytes(), |slot| slot.remove());
        }
        let told = taken(&node).len();
        assert!((400..600).contains(&told), "{told} of 1000 from {start}");
    }
}

#[test]
fn changes_are_told_in_order_with_who_made_them() {
    let mut node = Node::new();
    node.keyspace.tell_changes_of(ALL);
    node.set(b"1");
    node.turn.actor = Actor::Feed(3);
    node.invalidate(Invalidation::Soft { stale_ms: None }, None);
    node.turn.actor = Actor::Load;
    let token = node.lead();
    node.turn.now_ms += 5;
    assert_eq!(node.fill(token, b"2"), Filled::Stored);
    node.turn.actor = Actor::Client;
    let token = node.lead_again();
    let none = Release { negative_ms: Some(1_000), backoff_ms: None };
    assert!(node.keyspace.release(&mut node.turn, DB, KEY, token, none));
    let changes = taken(&node);
    assert_eq!(
        kinds(&changes),
        [
            (ChangeKind::Written, Actor::Client),
            (ChangeKind::Invalidated, Actor::Feed(3)),
            (ChangeKind::Filled, Actor::Load),
            (ChangeKind::Filled, Actor::Client),
        ]
    );
    assert!(changes.iter().all(|change| change.db == DB && change.key == KEY));
    assert_eq!(changes[2].at_ms, changes[1].at_ms + 5);
    assert!(changes[2].number > changes[1].number && changes[3].number == token);
}

#[test]
fn a_fill_that_a_deletion_should_have_prevented_shows_by_its_number() {
    for is_right in [true, false] {
        let mut node = Node::new();
        node.keyspace.tell_changes_of(ALL);
        node.keyspace.set_lease_revocation(is_right);
        let token = node.lead();
        node.delete();
        let filled = node.fill(token, b"old");
        let changes = taken(&node);
        if is_right {
            assert!(matches!(filled, Filled::Lost(_)));
            assert_eq!(kinds(&changes), [(ChangeKind::Deleted, Actor::Client)]);
        } else {
            assert_eq!(filled, Filled::Stored);
            assert!(changes[1].kind == ChangeKind::Filled && changes[1].number <= changes[0].number, "{changes:?}");
        }
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_long_keys_are_left_out() {
    let mut node = Node::new();
    node.keyspace.tell_changes_of(ALL);
    for _ in 0..CHANGES_MAX + 7 {
        node.delete();
    }
    let (changes, dropped) = node.keyspace.take_changes();
    assert_eq!((changes.len(), dropped), (CHANGES_MAX, 7));
    let long = vec![b'k'; CHANGED_KEY_BYTES_MAX + 1];
    for key in [&long[..], &long[1..]] {
        node.keyspace.update(&mut node.turn, DB, key, |slot| slot.remove());
    }
    let (changes, dropped) = node.keyspace.take_changes();
    assert_eq!((changes.len(), dropped), (1, 0));
}
