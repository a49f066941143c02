//! What is kept for nodes that do not answer is as young as whoever asks wants it.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/lease.rs"]
mod lease;

use lease::*;
use leasehold_keyspace::{Expiry, Fill, Filled};

impl Node {
    /// From now on only what was loaded from `born_from_ms` on is an answer.
    fn require(&mut self, born_from_ms: u64) {
        self.keyspace.require_younger(&mut self.turn, DB, KEY, born_from_ms);
    }

    /// A load of the server that is given its token now.
    fn begin(&mut self) -> u64 {
        token(self.claim(waiting(SERVER, 1)))
    }

    fn end(&mut self, token: u64) -> Filled {
        let tags = [self.keyspace.tag(b"t")];
        let (expiry, value) = (Expiry::Never, b"row");
        let fill = Fill::Value { value, expiry, stale_for_ms: 0, version: None, client_flags: 0, tags: &tags };
        self.keyspace.fill(&mut self.turn, DB, KEY, token, fill)
    }
}

#[test]
fn an_entry_is_as_old_as_the_token_of_its_load() {
    let mut node = Node::new();
    node.require(START_MS - 100);
    let load = node.begin();
    node.pass_ms(50);
    assert!(matches!(node.end(load), Filled::Stored));
    node.require(START_MS);
    assert_eq!(node.value().as_deref(), Some(&b"row"[..]), "it was begun just then");
    node.require(START_MS + 1);
    assert_eq!(node.value(), None, "though it came later");
}

#[test]
fn what_knows_no_birth_is_too_old() {
    let mut node = Node::new();
    let load = node.lead();
    node.fill(load, b"plain");
    node.require(START_MS - 1_000);
    assert_eq!(node.value(), None);
}

#[test]
fn a_load_that_began_too_early_is_not_what_later_readers_get() {
    let mut node = Node::new();
    node.require(START_MS);
    let early = node.begin();
    node.pass_ms(10);
    node.require(START_MS + 5);
    assert!(!matches!(node.end(early), Filled::Stored));
    assert_eq!(node.value(), None);
    let again = node.turn.effects.loads.pop().unwrap().token;
    assert!(matches!(node.end(again), Filled::Stored));
    node.require(START_MS + 5);
    assert_eq!(node.value().as_deref(), Some(&b"row"[..]));
}

#[test]
fn a_load_that_began_late_enough_is_shared() {
    let mut node = Node::new();
    node.require(START_MS);
    let load = node.begin();
    node.pass_ms(10);
    node.require(START_MS);
    assert!(matches!(node.end(load), Filled::Stored));
}

#[test]
fn an_absence_goes_as_it_knows_no_birth() {
    for is_required in [false, true] {
        let mut node = Node::new();
        let load = node.begin();
        node.keyspace.fill(&mut node.turn, DB, KEY, load, Fill::Absent { ttl_ms: 1_000 });
        if is_required {
            node.require(START_MS);
        }
        let is_absent = matches!(node.claim(SERVER), leasehold_keyspace::Claimed::Negative { .. });
        assert_eq!(is_absent, !is_required);
    }
}
