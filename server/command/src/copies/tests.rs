//! What copies of other nodes' entries answer, and what goes to their nodes all the same.

use super::*;
use crate::client::Routing;
use crate::context::Outcome;
use crate::testing::{MEMBERS, Node};
use leasehold_cluster::{Slot, Touched};

/// A node that forwards, and two keys of each node, its own first. Of the first of each other node there is a copy.
fn node() -> (Node, [Vec<String>; 3]) {
    let mut node = Node::among_others(MEMBERS[0]);
    node.client.routing = Routing::Forward;
    let member = node.host.member.clone().expect("there are nodes");
    let key_of = |place: usize| {
        let is_its = |key: &String| member.topology().place_of_owner(Slot::of_key(key.as_bytes())) == place;
        (0..).map(|number| format!("k{number}")).filter(is_its).take(2).collect::<Vec<_>>()
    };
    let own = member.place().index();
    let keys = [own, (own + 1) % 3, (own + 2) % 3].map(key_of);
    for (key, value) in [(&keys[1][0], "one"), (&keys[2][0], "two")] {
        node.host.copies.insert(key.clone().into_bytes(), (value.into(), 7));
    }
    (node, keys)
}

/// What a line is answered here; `None`: it goes elsewhere.
fn here(node: &mut Node, line: &str) -> Option<String> {
    let reply = node.run(line);
    matches!(node.outcome, Outcome::Replied).then_some(reply)
}

/// As [`here`], in memcached's words.
fn here_in_text(node: &mut Node, line: &str) -> Option<String> {
    let reply = node.talk(line);
    matches!(node.outcome, Outcome::Replied).then_some(reply)
}

#[test]
fn reads_of_values_are_answered_from_copies_and_all_else_is_not() {
    let (mut node, [_, one, _]) = node();
    let (hot, cold) = (&one[0], &one[1]);
    assert_eq!(here(&mut node, &format!("GET {hot}")).as_deref(), Some("$3\r\none\r\n"));
    assert_eq!(here(&mut node, &format!("MGET {hot} {hot}")).as_deref(), Some("*2\r\n$3\r\none\r\n$3\r\none\r\n"));
    assert_eq!(here(&mut node, &format!("GET {cold}")), None);
    assert_eq!(here(&mut node, &format!("MGET {hot} {cold}")), None, "their node has both");
    for line in [
        "SET KEY v",
        "DEL KEY",
        "GETDEL KEY",
        "INCR KEY",
        "GETL KEY",
        "SETL KEY 5 v",
        "RELL KEY 5",
        "INVAL KEY",
        "EXPIRE KEY 9",
        "TTL KEY",
        "STRLEN KEY",
        "EXISTS KEY",
        "LOADTHROUGH KEY",
        "MLOADTHROUGH KEY",
        "GETRANGE KEY 0 1",
        "OBJECT FREQ KEY",
    ] {
        assert_eq!(here(&mut node, &line.replace("KEY", hot)), None, "{line}");
    }
    assert_eq!(node.run("DBSIZE"), ":0\r\n");
    assert!(here(&mut node, &format!("GET {hot} x")).is_some_and(|reply| reply.starts_with("-ERR wrong number")));
}

#[test]
fn a_client_that_waits_for_a_change_reads_from_the_node_of_the_key() {
    let (mut node, [_, one, two]) = node();
    node.client.changes_under_way = true;
    assert_eq!(here(&mut node, &format!("GET {}", one[0])), None);
    assert_eq!(here_in_text(&mut node, &format!("get {}\r\n", one[0])), None);
    node.run(&format!("MGET {} {}", one[0], two[0]));
    assert!(matches!(&node.outcome, Outcome::Split(split) if split.parts.iter().all(|part| part.answer.is_none())));
}

#[test]
fn who_finds_nodes_by_itself_is_told_of_them() {
    let (mut node, [_, one, _]) = node();
    node.client.routing = Routing::Redirect;
    assert!(here(&mut node, &format!("GET {}", one[0])).is_some_and(|reply| reply.starts_with("-MOVED ")));
}

#[test]
fn parts_of_which_all_keys_have_copies_go_nowhere() {
    let (mut node, [own, one, two]) = node();
    node.run(&format!("MGET {} {} {} {} {}", one[0], own[0], two[0], one[0], two[1]));
    let Outcome::Split(split) = &node.outcome else { panic!("{:?}", node.outcome) };
    let answers: Vec<_> = split.parts.iter().map(|part| part.answer.as_deref().map(String::from_utf8_lossy)).collect();
    assert_eq!(answers, [Some("*2\r\n$3\r\none\r\n$3\r\none\r\n".into()), None, None]);
    node.talk(format!("get {} {} {}\r\n", own[0], two[0], one[1]));
    let Outcome::Split(split) = &node.outcome else { panic!("{:?}", node.outcome) };
    let answers: Vec<_> = split.parts.iter().map(|part| part.answer.as_deref().map(String::from_utf8_lossy)).collect();
    assert_eq!(answers, [None, Some(format!("VALUE {} 7 3\r\ntwo\r\nEND\r\n", two[0]).into()), None]);
    node.talk(format!("gets {} {}\r\n", own[0], two[0]));
    let Outcome::Split(split) = &node.outcome else { panic!("{:?}", node.outcome) };
    assert!(split.parts.iter().all(|part| part.answer.is_none()), "a copy has no version");
    node.run(&format!("DEL {} {}", one[0], two[0]));
    let Outcome::Split(split) = &node.outcome else { panic!("{:?}", node.outcome) };
    let of_parts = |split: &Split| split.parts.iter().map(|part| part.touched).collect::<Vec<_>>();
    let of_keys = [&one[0], &two[0]].map(|key| Touched::of_keys([key].into_iter()));
    assert_eq!(of_parts(split), of_keys);
    node.talk(format!("gat 9 {} {}\r\n", one[0], two[0]));
    let Outcome::Split(split) = &node.outcome else { panic!("{:?}", node.outcome) };
    assert_eq!(of_parts(split), of_keys, "it changes TTLs");
}

#[test]
fn memcached_reads_what_a_copy_knows() {
    let (mut node, [_, one, _]) = node();
    let (hot, cold) = (&one[0], &one[1]);
    let value = format!("VALUE {hot} 7 3\r\none\r\n");
    assert_eq!(here_in_text(&mut node, &format!("get {hot}\r\n")), Some(format!("{value}END\r\n")));
    assert_eq!(here_in_text(&mut node, &format!("get {hot} {hot}\r\n")), Some(format!("{value}{value}END\r\n")));
    assert_eq!(
        here_in_text(&mut node, &format!("mg {hot} v f s k O12\r\n")),
        Some(format!("VA 3 f7 s3 k{hot} O12\r\none\r\n"))
    );
    assert_eq!(here_in_text(&mut node, &format!("mg {hot}\r\n")).as_deref(), Some("HD\r\n"));
    for line in [
        "get COLD\r\n",
        "get KEY COLD\r\n",
        "gets KEY\r\n",
        "gat 10 KEY\r\n",
        "mg KEY v t\r\n",
        "mg KEY c\r\n",
        "mg KEY h\r\n",
        "mg KEY l\r\n",
        "mg KEY N30 v\r\n",
        "mg KEY R5 v\r\n",
        "mg KEY T9 v\r\n",
        "mg COLD v\r\n",
        "md KEY\r\n",
        "set KEY 0 0 1\r\nx\r\n",
        "touch KEY 5\r\n",
        "lease-get KEY\r\n",
    ] {
        assert_eq!(here_in_text(&mut node, &line.replace("KEY", hot).replace("COLD", cold)), None, "{line}");
    }
}

#[test]
fn what_may_change_a_key_says_so_and_what_reads_does_not() {
    let (mut node, [_, one, _]) = node();
    let (key, other) = (&one[0], &one[1]);
    let touched = |node: &Node| match node.outcome {
        Outcome::Forward(forward) => forward.touched,
        _ => panic!("{:?}", node.outcome),
    };
    let (its, both) = (Touched::of_keys([key].into_iter()), Touched::of_keys([key, other].into_iter()));
    for (line, expected) in [
        ("SET KEY v", its),
        ("DEL KEY", its),
        ("GETL KEY", its),
        ("INVAL KEY", its),
        ("LOADTHROUGH KEY FRESH", its),
        ("DEL KEY OTHER", both),
        ("MSET KEY 1 OTHER 2", both),
        ("GET OTHER", Touched::NOTHING),
        ("STRLEN KEY", Touched::NOTHING),
        ("TTL KEY", Touched::NOTHING),
    ] {
        node.run(&line.replace("KEY", key).replace("OTHER", other));
        assert_eq!(touched(&node), expected, "{line}");
    }
    for (line, expected) in [
        ("delete KEY\r\n", its),
        ("md KEY\r\n", its),
        ("gat 9 KEY\r\n", its),
        ("mg KEY N9\r\n", its),
        ("gets KEY\r\n", Touched::NOTHING),
        ("mg KEY c v\r\n", Touched::NOTHING),
    ] {
        node.talk(line.replace("KEY", key));
        assert_eq!(touched(&node), expected, "{line}");
    }
}

#[test]
fn the_keys_that_are_counted_are_those_that_copies_could_answer() {
    let keys = |words: &[&str]| {
        let mut reply = Reply::new(leasehold_protocol::RespVersion::V2);
        reply.array(words.len());
        words.iter().for_each(|word| reply.bulk(word.as_bytes()));
        let mut keys = Vec::new();
        read_keys_of_request(reply.as_bytes(), &Limits::DEFAULT, &mut |key| {
            keys.push(String::from_utf8_lossy(key).into_owned())
        });
        keys
    };
    assert_eq!(keys(&["get", "a"]), ["a"]);
    assert_eq!(keys(&["MGET", "a", "b"]), ["a", "b"]);
    assert!(keys(&["STRLEN", "a"]).is_empty() && keys(&["SET", "a", "b"]).is_empty() && keys(&["GET"]).is_empty());
    let keys = |line: &str| {
        let mut keys = Vec::new();
        read_keys_of_text(line.as_bytes(), &text::Limits::DEFAULT, &mut |key| {
            keys.push(String::from_utf8_lossy(key).into_owned())
        });
        keys
    };
    assert_eq!(keys("get a b\r\n"), ["a", "b"]);
    assert_eq!(keys("mg a v f\r\n"), ["a"]);
    assert!(["gets a\r\n", "mg a c\r\n", "mg a t\r\n", "md a\r\n", "get a"].iter().all(|line| keys(line).is_empty()));
}
