//! What is heard of changes, and what class a violation is of.

use super::*;
use crate::config::live::LiveConfig;
use crate::config::options::{feed_named, loader_named};
use crate::load::Loaders;
use crate::load::tests::Unasked;
use crate::log::LogControl;
use leasehold_keyspace::{Actor, Attributes, Claim, Claimant, Claimed, Expiry, Fill, Filled, Invalidation};
use leasehold_loader_api::Loader;

const DB: Db = Db(0);
const KEY: &[u8] = b"user:1";

/// A node whose auditor hears of all keys, with a loader `user`.
fn node(change: impl FnOnce(&mut Config)) -> Arc<Node> {
    let mut loader = loader_named("user");
    loader.settings.pattern = "user:{id}".to_owned();
    let mut config = Config { threads: 1, loaders: vec![loader.clone()], ..Config::default() };
    config.auditor.is_on = true;
    change(&mut config);
    let (loaders, _) = Loaders::new(&[], vec![(loader, Arc::new(Unasked) as Arc<dyn Loader>)]);
    let live = LiveConfig::new(config.clone());
    let node = Arc::new(Node::new(config, live, loaders, None, LogControl::for_tests(), 0));
    node.keyspace.tell_changes_of(auditor(&node).state().window.get());
    node
}

fn auditor(node: &Node) -> &Auditor {
    node.auditor.as_ref().expect("it is on")
}

fn lead(node: &Node) -> u64 {
    let claim = Claim {
        claimant: Claimant::Server { loader: 0 },
        lease_ms: None,
        version_min: None,
        fresh_required: false,
        stale_ms_max: None,
        waiter: None,
    };
    match node.keyspace.claim(&mut node.turn(), DB, KEY, claim) {
        Claimed::Lead { token, .. } => token,
        other => panic!("expected to lead, got {other:?}"),
    }
}

fn fill(node: &Node, token: u64, actor: Actor) -> Filled {
    let mut turn = node.turn();
    turn.actor = actor;
    let fill = Fill::Value {
        value: b"old",
        expiry: Expiry::Never,
        stale_for_ms: 0,
        version: None,
        client_flags: 0,
        tags: &[],
    };
    node.keyspace.fill(&mut turn, DB, KEY, token, fill)
}

fn invalidate(node: &Node) {
    let mut turn = node.turn();
    turn.actor = Actor::Feed(0);
    node.keyspace.invalidate(&mut turn, DB, KEY, Invalidation::Hard, None);
}

#[test]
fn a_load_from_before_an_invalidation_that_is_stored_is_a_stale_set() {
    // Without revocation the keyspace does what it never must.
    for is_right in [true, false] {
        let node = node(|config| config.feeds = vec![feed_named("users")]);
        node.keyspace.set_lease_revocation(is_right);
        let token = lead(&node);
        invalidate(&node);
        fill(&node, token, Actor::Load);
        hear(&node, auditor(&node));
        let found = auditor(&node).violations(&node);
        if is_right {
            assert!(found.is_empty(), "{found:?}");
            continue;
        }
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].texts[..2], [("class", "stale-set".to_owned()), ("after", String::new())]);
        let words: Vec<&str> =
            found[0].history.iter().filter_map(|line| line.split_once(' ')).map(|(_, what)| what).collect();
        assert_eq!(words, ["invalidated by feed users", "filled by a load"]);
        assert_eq!(auditor(&node).views()[0].counters[1], ("stale_sets".to_owned(), 1));
    }
}

#[test]
fn a_load_after_an_invalidation_or_after_the_one_before_is_none() {
    let node = node(|_| {});
    for _ in 0..3 {
        invalidate(&node);
        let token = lead(&node);
        assert_eq!(fill(&node, token, Actor::Load), Filled::Stored);
        node.keyspace.update(&mut node.turn(), DB, KEY, |slot| slot.set(b"new", Attributes::PLAIN));
        node.keyspace.update(&mut node.turn(), DB, KEY, |slot| slot.remove());
    }
    hear(&node, auditor(&node));
    assert!(auditor(&node).violations(&node).is_empty());
    assert_eq!(auditor(&node).state().at_risk.len(), 1, "each key once");
}

#[test]
fn keys_of_no_loader_and_of_excluded_ones_are_left_alone() {
    let plain = node(|_| {});
    plain.keyspace.update(&mut plain.turn(), DB, b"page:1", |slot| slot.set(b"1", Attributes::PLAIN));
    let excluded = node(|config| config.auditor.exclude = vec!["user".to_owned()]);
    excluded.keyspace.update(&mut excluded.turn(), DB, KEY, |slot| slot.set(b"1", Attributes::PLAIN));
    for node in [plain, excluded] {
        hear(&node, auditor(&node));
        let state = auditor(&node).state();
        assert_eq!((state.at_risk.len(), state.trails.len()), (0, 0));
    }
}

#[test]
fn a_class_says_what_is_known_of_who_brought_the_value() {
    let mut feed = feed_named("users");
    feed.loaders = vec!["user".to_owned()];
    for (feeds, actor, is_filled, class) in [
        (vec![], Actor::Load, true, Class::Untold),
        (vec![feed.clone()], Actor::Refresh, true, Class::FeedLate),
        (vec![feed.clone()], Actor::Client, true, Class::Written),
        (vec![feed], Actor::Load, false, Class::Written),
    ] {
        let node = node(|config| config.feeds = feeds);
        let token = lead(&node);
        assert_eq!(fill(&node, token, actor), Filled::Stored);
        hear(&node, auditor(&node));
        let subject = Subject { loader: "user".into(), db: DB, key: Bytes::from_static(KEY) };
        let evidence = Evidence { cached: None, source: None, ttl_ms: None, version: 1, is_filled };
        assert_eq!(auditor(&node).state().class_of(&node, &subject, Some(&evidence)), class, "{actor:?}");
    }
}
