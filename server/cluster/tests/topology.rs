//! What holds for every topology: nodes agree, shares are fair, and little moves.

#![forbid(unsafe_code)]

use leasehold_cluster::{Address, Flaw, Member, NODES_MAX, NodeSettings, Pool, SLOTS, Slot, Topology};
use proptest::prelude::*;

fn settings(name: &str, port: u16, weight: u32) -> NodeSettings {
    let address = Address { host: "10.0.0.1".to_owned(), port };
    NodeSettings { name: name.to_owned(), address, weight, pool: Pool::Main, zone: String::new() }
}

fn gutter(name: &str, port: u16) -> NodeSettings {
    NodeSettings { pool: Pool::Gutter, ..settings(name, port, 1) }
}

/// Nodes of one weight.
fn equal(names: &[String]) -> Vec<NodeSettings> {
    names.iter().zip(7000..).map(|(name, port)| settings(name, port, 1)).collect()
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

fn topology(list: Vec<NodeSettings>) -> Topology {
    Topology::new(list).expect("a list without flaw")
}

fn slots() -> impl Iterator<Item = Slot> {
    (0..SLOTS).map(|number| Slot::new(number).expect("below the number of slots"))
}

/// Whom each slot belongs to, by name.
fn owners(topology: &Topology) -> Vec<String> {
    slots().map(|slot| topology.owner(slot).name().to_owned()).collect()
}

fn count(owners: &[String], name: &str) -> usize {
    owners.iter().filter(|owner| *owner == name).count()
}

#[test]
fn equal_nodes_have_equal_shares_within_two_percent() {
    for nodes in 2..=32 {
        let names = names("node", nodes);
        let owners = owners(&topology(equal(&names)));
        let share = f64::from(SLOTS) / nodes as f64;
        for name in &names {
            let slots = count(&owners, name) as f64;
            assert!((slots - share).abs() <= share * 0.02, "{name} of {nodes}: {slots} and not {share}");
        }
    }
}

#[test]
fn shares_follow_the_weights() {
    let list = vec![settings("a", 1, 1), settings("b", 2, 2), settings("c", 3, 5)];
    let owners = owners(&topology(list));
    for (name, weight) in [("a", 1.0), ("b", 2.0), ("c", 5.0)] {
        let (slots, share) = (count(&owners, name) as f64, f64::from(SLOTS) * weight / 8.0);
        assert!((slots - share).abs() <= share * 0.02, "{name}: {slots} and not {share}");
    }
}

#[test]
fn every_node_has_slots_however_small_its_weight() {
    let mut list: Vec<NodeSettings> =
        names("small", NODES_MAX - 1).iter().zip(1..).map(|(name, port)| settings(name, port, 1)).collect();
    list.push(settings("large", 9999, 1000));
    let owners = owners(&topology(list.clone()));
    assert!(list.iter().all(|node| count(&owners, &node.name) > 0));
}

#[test]
fn ranges_are_all_slots_in_order() {
    let topology = topology(equal(&names("node", 5)));
    let mut next = 0;
    let mut last_owner = "";
    for range in topology.ranges() {
        assert_eq!(range.first.number(), next);
        assert_ne!(range.owner.name(), last_owner, "a range is as long as it can be");
        for number in range.first.number()..=range.last.number() {
            assert_eq!(topology.owner(Slot::new(number).expect("in range")).id(), range.owner.id());
        }
        next = range.last.number() + 1;
        last_owner = range.owner.name();
    }
    assert_eq!(next, SLOTS);
}

#[test]
fn the_map_never_changes_between_versions() {
    // Two nodes of different versions must agree: if these numbers change, keys of every cluster move.
    let topology = topology(vec![settings("a", 7001, 1), settings("b", 7002, 1), settings("c", 7003, 2)]);
    let owners: String = (0..16).map(|step| topology.owner(Slot::new(step * 1024).expect("in range")).name()).collect();
    assert_eq!(owners, "cbababcaabcbbcbc");
    assert_eq!(topology.nodes()[0].id(), "82aafea5aa7a15378507f39e610a2cc87e77d792");
    assert_eq!(topology.epoch().to_string(), "1594008763782100");
}

#[test]
fn an_epoch_is_that_of_its_list() {
    let list = vec![settings("a", 1, 1), settings("b", 2, 1)];
    let epoch = |list: Vec<NodeSettings>| topology(list).epoch();
    assert_eq!(epoch(list.clone()), epoch(list.iter().rev().cloned().collect()));
    for other in [settings("c", 2, 1), settings("b", 3, 1), settings("b", 2, 2)] {
        assert_ne!(epoch(list.clone()), epoch(vec![list[0].clone(), other]));
    }
    assert!(epoch(list).to_string().parse::<u64>().expect("a number") < 1 << 53);
}

#[test]
fn an_id_is_that_of_its_name() {
    let one = topology(vec![settings("a", 1, 1), settings("b", 2, 1)]);
    let other = topology(vec![settings("c", 9, 4), settings("a", 5, 7)]);
    let id = |topology: &Topology, name: &str| {
        topology.nodes().iter().find(|node| node.name() == name).expect("it is there").id().to_owned()
    };
    assert_eq!(id(&one, "a"), id(&other, "a"));
    assert_ne!(id(&one, "a"), id(&one, "b"));
    assert!(id(&one, "a").len() == 40 && id(&one, "a").bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[test]
fn a_member_owns_what_is_its_own() {
    let topology = topology(equal(&names("node", 3)));
    let members: Vec<Member> =
        names("node", 3).iter().map(|name| Member::new(topology.clone(), name).expect("it is there")).collect();
    for slot in slots() {
        let owner: Vec<&str> =
            members.iter().filter(|member| member.owns(slot)).map(|member| member.own().name()).collect();
        assert_eq!(owner, [topology.owner(slot).name()]);
    }
    assert!(Member::new(topology, "other").is_none());
}

#[test]
fn the_gutter_pool_owns_nothing_and_moves_nothing() {
    let mains = equal(&names("node", 3));
    let with_gutter = topology([mains.clone(), vec![gutter("a", 1), gutter("z", 2)]].concat());
    assert_eq!(owners(&with_gutter), owners(&topology(mains.clone())));
    assert_ne!(with_gutter.epoch(), topology(mains).epoch());
    assert_eq!(with_gutter.nodes().len(), 3);
    assert_eq!(with_gutter.gutter().iter().map(|node| node.name()).collect::<Vec<_>>(), ["a", "z"]);
    for place in with_gutter.places() {
        let node = &with_gutter.all()[place.index()];
        assert_eq!(with_gutter.place_of(node.name()), Some(place));
        assert_eq!(with_gutter.is_main(place), node.pool() == Pool::Main);
    }
    let member = Member::new(with_gutter, "a").expect("it is there");
    assert!(slots().all(|slot| !member.owns(slot)));
}

#[test]
fn a_zone_is_part_of_what_nodes_agree_on() {
    let (a, b) = (settings("a", 1, 1), settings("b", 2, 1));
    let zoned = NodeSettings { zone: "east".to_owned(), ..b.clone() };
    assert_ne!(topology(vec![a.clone(), b]).epoch(), topology(vec![a, zoned]).epoch());
}

#[test]
fn lists_with_a_flaw_are_refused() {
    let flaw = |list: Vec<NodeSettings>| Topology::new(list).expect_err("it has a flaw");
    assert_eq!(flaw(Vec::new()), Flaw::Empty);
    assert_eq!(flaw(vec![gutter("a", 1)]), Flaw::Empty);
    assert_eq!(flaw(vec![settings("a", 1, 0)]), Flaw::Weight("a".to_owned()));
    assert_eq!(flaw(vec![settings("a", 1, 1001)]), Flaw::Weight("a".to_owned()));
    assert_eq!(flaw(vec![settings("a", 1, 1), settings("a", 2, 1)]), Flaw::SameName("a".to_owned()));
    let same = Flaw::SameAddress { first: "a".to_owned(), second: "b".to_owned() };
    assert_eq!(flaw(vec![settings("a", 1, 1), settings("b", 1, 1)]), same);
    assert_eq!(flaw(equal(&names("node", NODES_MAX + 1))), Flaw::TooMany);
}

#[test]
fn addresses_are_read_as_clients_write_them() {
    let shown = |text: &str| Address::parse(text).map(|address| address.to_string());
    for text in ["127.0.0.1:6379", "cache-1.example.com:7000", "a_b:1"] {
        assert_eq!(shown(text).as_deref(), Some(text));
    }
    assert_eq!(shown("[2001:db8::1]:6379").as_deref(), Some("2001:db8::1:6379"));
    let wrong = [
        "",
        ":1",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:+1",
        "0.0.0.0:1",
        "[::]:1",
        "a b:1",
        "[host]:1",
        "a:b:1",
        "a,b:1",
    ];
    for text in wrong {
        assert_eq!(shown(text), None, "{text}");
    }
}

proptest! {
    // Each case makes some topologies, a few milliseconds each.
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_the_list_does_not_matter(
        mut list in prop::collection::btree_map("[a-z]{1,8}", 1..20_u32, 1..9)
            .prop_map(|weights| weights.into_iter().zip(7000..).map(|((name, weight), port)| settings(&name, port, weight)).collect::<Vec<_>>())
            .prop_shuffle()
    ) {
        let one = topology(list.clone());
        list.reverse();
        let other = topology(list);
        prop_assert_eq!(owners(&one), owners(&other));
        prop_assert_eq!(one.epoch(), other.epoch());
    }
}

/// Of many lists: what moves when a node is added is what it gets and 2 % of all at most, and the same when it goes again.
#[test]
fn little_moves_when_a_node_comes_or_goes() {
    for list in 0..10 {
        let names = names(&format!("list{list}"), 11);
        let (ten, eleven) = (owners(&topology(equal(&names[..10]))), owners(&topology(equal(&names))));
        let moved = ten.iter().zip(&eleven).filter(|(before, after)| before != after).count() as f64;
        let among_others =
            ten.iter().zip(&eleven).filter(|(before, after)| before != after && **after != names[10]).count() as f64;
        let all = f64::from(SLOTS);
        assert!(moved <= all / 11.0 + all * 0.02, "list {list}: {moved} slots move");
        assert!(among_others <= all * 0.02, "list {list}: {among_others} slots move between nodes that stay");
    }
}
