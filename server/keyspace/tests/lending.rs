//! Who holds a copy of an entry is told of whatever changes what a reader would find.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/lease.rs"]
mod lease;

use lease::*;
use leasehold_keyspace::{Access, Attributes, Expiry, Fill, Invalidation, LENT_MAX, Recall};
use std::sync::Arc;

/// How long copies live at most, in ms.
const LIFE_MS: u64 = 1_000;

/// The place of who borrows.
const HOLDER: usize = 5;

impl Node {
    /// A copy for [`HOLDER`]: the value, and how long it lives.
    fn lend(&mut self) -> Option<(Vec<u8>, u64)> {
        self.lend_to(HOLDER)
    }

    fn lend_to(&mut self, holder: usize) -> Option<(Vec<u8>, u64)> {
        let read = |entry: leasehold_keyspace::Entry<'_>, life_ms| (entry.value.to_vec(), life_ms);
        self.keyspace.lend(&mut self.turn, DB, KEY, holder, LIFE_MS, read)
    }

    fn set_until(&mut self, at_ms: u64, stale_for_ms: u64) {
        let attributes = Attributes { expiry: Expiry::At(at_ms), stale_for_ms, ..Attributes::PLAIN };
        self.keyspace.update(&mut self.turn, DB, KEY, |slot| slot.set(b"v", attributes));
    }
}

fn of_key(holders: u128) -> Vec<Recall> {
    vec![Recall::Key { key: KEY.into(), holders }]
}

#[test]
fn every_change_of_a_lent_key_is_told_once() {
    type Change = (&'static str, fn(&mut Node));
    let changes: [Change; 11] = [
        ("a write", |node| node.set(b"w")),
        ("a deletion", |node| assert!(node.delete())),
        ("a soft invalidation", |node| assert!(node.invalidate(Invalidation::Soft { stale_ms: None }, None))),
        ("a hard invalidation", |node| assert!(node.invalidate(Invalidation::Hard, None))),
        ("staleness", |node| {
            node.keyspace.update(&mut node.turn, DB, KEY, |slot| assert!(slot.make_stale(Expiry::Keep)));
        }),
        ("a write in place", |node| {
            node.keyspace.update(&mut node.turn, DB, KEY, |slot| slot.value_mut(1)[0] = b'w');
        }),
        ("a shorter life", |node| {
            let at_ms = node.turn.now_ms + 1;
            node.keyspace.update(&mut node.turn, DB, KEY, |slot| assert!(slot.set_expiry(Some(at_ms))));
        }),
        ("a life that is over", |node| {
            node.keyspace.update(&mut node.turn, DB, KEY, |slot| assert!(slot.set_expiry(Some(1))));
        }),
        ("a fill", |node| {
            let token = node.lead_again();
            assert_eq!(node.fill(token, b"w"), leasehold_keyspace::Filled::Stored);
        }),
        ("the fill that there is nothing", |node| {
            let token = node.lead_again();
            node.keyspace.fill(&mut node.turn, DB, KEY, token, Fill::Absent { ttl_ms: 100 });
        }),
        ("a deletion after it was evicted", |node| {
            node.keyspace.require_younger(&mut node.turn, DB, KEY, u64::MAX);
            assert!(!node.keyspace.has_recalls() && !node.delete());
        }),
    ];
    for (what, change) in changes {
        let mut node = Node::new();
        node.set(b"v");
        assert_eq!(node.lend(), Some((b"v".to_vec(), LIFE_MS)), "{what}");
        assert!(!node.keyspace.has_recalls(), "{what}");
        change(&mut node);
        assert!(node.keyspace.has_recalls(), "{what}");
        assert_eq!(node.keyspace.take_recalls(), of_key(1 << HOLDER), "{what}");
        assert!(!node.keyspace.has_recalls(), "{what}");
        node.set(b"x");
        assert_eq!(node.keyspace.take_recalls(), [], "{what}: nobody has a copy any more");
    }
}

#[test]
fn what_changes_without_a_look_at_the_key_recalls_all() {
    type Change = (&'static str, fn(&mut Node));
    let changes: [Change; 4] = [
        ("a tag", |node| node.keyspace.invalidate_tag(&mut node.turn, b"t")),
        ("a prefix", |node| node.keyspace.invalidate_prefix(&mut node.turn, DB, b"k")),
        ("a flush", |node| node.keyspace.flush(&mut node.turn, None)),
        ("a flush of a database", |node| node.keyspace.flush(&mut node.turn, Some(DB))),
    ];
    for (what, change) in changes {
        let mut node = Node::new();
        node.set(b"v");
        change(&mut node);
        assert_eq!(node.keyspace.take_recalls(), [], "{what}: nothing is lent");
        node.set(b"v");
        node.pass_ms(1);
        assert!(node.lend().is_some(), "{what}");
        change(&mut node);
        assert_eq!(node.keyspace.take_recalls(), [Recall::All], "{what}");
        node.pass_ms(2 * LIFE_MS);
        change(&mut node);
        assert_eq!(node.keyspace.take_recalls(), [], "{what}: no copy lives so long");
    }
}

#[test]
fn who_only_reads_recalls_nothing() {
    let mut node = Node::new();
    node.set(b"v");
    assert!(node.lend().is_some());
    assert!(node.value().is_some());
    node.claim(CLIENT);
    node.keyspace.update(&mut node.turn, DB, KEY, |slot| assert!(slot.shown_version().is_some()));
    node.keyspace.read(&mut node.turn, DB, KEY, Access::Quiet, |_| ());
    assert_eq!(node.keyspace.take_recalls(), []);
    assert!(node.lend_to(7).is_some());
    node.delete();
    assert_eq!(node.keyspace.take_recalls(), of_key(1 << HOLDER | 1 << 7));
}

#[test]
fn a_copy_lives_no_longer_than_its_entry_and_only_what_is_fresh_is_lent() {
    let mut node = Node::new();
    assert_eq!(node.lend(), None, "there is nothing");
    let end_ms = node.turn.now_ms + 300;
    node.set_until(end_ms, 10_000);
    node.pass_ms(100);
    assert_eq!(node.lend(), Some((b"v".to_vec(), 200)));
    node.pass_ms(200);
    assert_eq!(node.lend(), None, "it is stale");
    let load = token(node.claim(SERVER));
    node.keyspace.fail(&mut node.turn, DB, KEY, load, &Arc::from("LOADFAIL"), 5_000);
    assert!(node.value().is_some());
    assert_eq!(node.lend(), None, "it is fresh because its source fails");
    let token = node.lead_again();
    node.keyspace.fill(&mut node.turn, DB, KEY, token, Fill::Absent { ttl_ms: 10_000 });
    assert_eq!(node.lend(), None, "it is known to be absent");
}

#[test]
fn a_tagged_entry_is_not_lent_once_its_tag_was_bumped() {
    let mut node = Node::new();
    let token = node.lead();
    let tags = [node.keyspace.tag(b"t")];
    let fill = Fill::Value {
        value: b"v",
        expiry: Expiry::Never,
        stale_for_ms: 0,
        version: None,
        client_flags: 0,
        tags: &tags,
    };
    node.keyspace.fill(&mut node.turn, DB, KEY, token, fill);
    assert!(node.lend().is_some());
    node.keyspace.invalidate_tag(&mut node.turn, b"t");
    assert_eq!(node.keyspace.take_recalls(), [Recall::All]);
    assert_eq!(node.lend(), None);
}

#[test]
fn a_shard_lends_so_many_keys_and_more_when_their_copies_are_over() {
    let mut node = Node::new();
    let keys: Vec<String> = (0..10 * LENT_MAX).map(|number| format!("key:{number}")).collect();
    let lend_all = |node: &mut Node| {
        let lent = keys.iter().filter(|key| {
            let key = key.as_bytes();
            node.keyspace.update(&mut node.turn, DB, key, |slot| slot.set(b"v", Attributes::PLAIN));
            node.keyspace.lend(&mut node.turn, DB, key, HOLDER, LIFE_MS, |_, _| ()).is_some()
        });
        lent.count()
    };
    let shards = node.keyspace.shards();
    assert_eq!(lend_all(&mut node), shards * LENT_MAX);
    node.pass_ms(LIFE_MS);
    node.keyspace.flush(&mut node.turn, None);
    assert_eq!(lend_all(&mut node), shards * LENT_MAX, "those before have ended");
}
