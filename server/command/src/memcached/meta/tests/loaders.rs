//! Meta commands on keys that the server loads, or writes to their source.

use super::{Player, memcached};
use crate::context::Outcome;
use crate::parked::Parked;
use crate::testing::Node;
use leasehold_keyspace::{Db, Expiry, Fill, WakeEvent};
use leasehold_protocol::Reply;

/// Sends a line that parks.
#[track_caller]
fn park(node: &mut Node, line: &str) -> Box<Parked> {
    assert_eq!(memcached(node, line), "");
    match std::mem::replace(&mut node.outcome, Outcome::Replied) {
        Outcome::Parked(parked) => parked,
        other => panic!("{line} does not park: {other:?}"),
    }
}

fn wake(node: &mut Node, parked: &mut Parked, event: WakeEvent) -> String {
    let mut reply = Reply::new(node.version);
    assert!(parked.wake(&mut node.context(&mut reply), 0, event).is_some(), "the command has its answer");
    String::from_utf8_lossy(reply.as_bytes()).replace("\r\n", "|")
}

/// Ends the load under way, and gives the reply of the command that has waited for it.
fn load(node: &mut Node, parked: &mut Parked, value: Option<&[u8]>) -> String {
    let load = node.turn.effects.loads.pop().expect("a load is to start");
    let fill = match value {
        Some(value) => Fill::Value {
            value,
            expiry: Expiry::At(node.turn.now_ms + 60_000),
            stale_for_ms: 0,
            version: None,
            client_flags: 0,
            tags: &[],
        },
        None => Fill::Absent { ttl_ms: 1_000 },
    };
    node.keyspace.fill(&mut node.turn, Db(0), &load.key, load.token, fill);
    let event = node.turn.effects.wakes.pop().expect("it is woken").event;
    wake(node, parked, event)
}

#[test]
fn mg_without_n_waits_for_the_load_and_answers_as_asked() {
    let mut node = Node::with_loader();
    let mut parked = park(&mut node, "mg load:1 v k t s f O7");
    assert_eq!(load(&mut node, &mut parked, Some(b"row")), "VA 3 kload:1 t60 s3 f0 O7|row|");
    assert_eq!(memcached(&mut node, "mg load:1 v"), "VA 3|row|", "held from now on");
    assert!(node.turn.effects.loads.is_empty());

    let mut parked = park(&mut node, "mg load:2 v k");
    assert_eq!(load(&mut node, &mut parked, None), "EN kload:2|");
    let mut parked = park(&mut node, "mg load:3 v k q");
    assert_eq!(load(&mut node, &mut parked, None), "", "a quiet miss");

    // The same key in base64 is the same key.
    let mut parked = park(&mut node, "mg bG9hZDo0 b v k");
    assert_eq!(load(&mut node, &mut parked, Some(b"row")), "VA 3 kbG9hZDo0 b|row|");
}

#[test]
fn mg_tells_of_a_load_that_has_failed() {
    let mut node = Node::with_loader();
    let mut parked = park(&mut node, "mg load:1 v q");
    let load = node.turn.effects.loads.pop().expect("a load is to start");
    node.keyspace.fail(&mut node.turn, Db(0), b"load:1", load.token, &"LOADFAIL users down".into(), 0);
    let event = node.turn.effects.wakes.pop().expect("it is woken").event;
    assert_eq!(wake(&mut node, &mut parked, event), "SERVER_ERROR LOADFAIL users down|");
}

/// SPEC §3: there the caller is the loader.
#[test]
fn mg_with_n_or_r_and_lease_get_never_ask_the_source() {
    let mut node = Node::with_loader();
    Player::default().play(
        &mut node,
        "
        m> mg load:1 v N30 c
        m< VA 0 c{t} W||
        m> ms load:1 3 C{t} T20|row
        m< HD|
        m> mg load:1 v R30
        m< VA 3 W|row|
        m> mg load:2 v R30
        m< EN|
        m> lease-get load:3
        m< LVALUE load:3 {u} 0 0||END|
        ",
    );
    assert!(node.turn.effects.loads.is_empty());
    // While the server itself loads the key, the caller is to come again.
    let _parked = park(&mut node, "mg load:4 v");
    assert_eq!(memcached(&mut node, "mg load:4 v N30 c"), "VA 0 c1 Z||");
}

#[test]
fn whole_values_and_deletions_go_to_the_source_first() {
    let mut node = Node::new();
    node.host.writer = Some(0);
    for (line, value, rows, reply) in [
        ("ms write:1 3 k O1 T60|row", Some("row"), 1, "HD kwrite:1 O1|"),
        ("ms write:1 3 q|row", Some("row"), 1, ""),
        ("ms d3JpdGU6MQ== 3 b k|row", Some("row"), 1, "HD kd3JpdGU6MQ== b|"),
        ("md write:1 k", None, 1, "HD kwrite:1|"),
        ("md write:1 q", None, 1, ""),
        ("md write:1 q", None, 0, "NF|"),
    ] {
        let mut parked = park(&mut node, line);
        let change = node.host.changes.borrow_mut().pop().expect("a write is to start");
        assert_eq!((&*change.key, change.value.as_deref()), (&b"write:1"[..], value.map(str::as_bytes)), "{line}");
        assert_eq!(wake(&mut node, &mut parked, WakeEvent::Written { rows }), reply, "{line}");
    }
    let refused = |what: &str, by: &str| {
        format!("SERVER_ERROR {what} cannot write a key that loader '?' writes to its source; {by} can|")
    };
    for (line, what) in [
        ("ms write:1 1 MA|x", "ms with C, E or M"),
        ("ms write:1 1 ME|x", "ms with C, E or M"),
        ("ms write:1 1 E5|x", "ms with C, E or M"),
        ("md write:1 x", "md with x or E"),
        ("md write:1 E5", "md with x or E"),
        ("ma write:1", "ma"),
    ] {
        assert_eq!(memcached(&mut node, line), refused(what, "ms and md"), "{line}");
    }
    // What the source has may be filled and made stale.
    Player::default().play(
        &mut node,
        "
        m> mg write:1 N30 c
        m< HD c{t} W|
        m> ms write:1 3 C{t} c|row
        m< HD c{v}|
        # A version is no lease: that would be a write.
        m> ms write:1 3 C{v}|new
        m< EX|
        m> md write:1 I T30
        m< HD|
        m> mg write:1 v N30 c
        m< VA 3 c{u} X W|row|
        m> md write:1 C{u}
        m< HD|
        m> md write:1 C{u}
        m< EX|
        ",
    );
    assert!(node.host.changes.borrow().is_empty());
}

/// SPEC §2, rule 1: what is made from a stale value is stale.
#[test]
fn a_stale_value_that_is_taken_for_fresh_is_no_ground_for_a_fresh_one() {
    let writes = ["cas load:1 0 0 3 {v}|new", "ms load:1 3 C{v}|new", "ms load:1 3 MA C{v}|new", "ma load:1 C{v}"];
    // Another TTL is not another value.
    let touches =
        ["m> touch load:1 300", "m> gat 300 load:1", "m> mg load:1 T300", "r> EXPIRE load:1 300", "r> PERSIST load:1"];
    for (write, touch) in writes.iter().flat_map(|write| touches.iter().map(move |touch| (write, touch))) {
        let (mut node, mut player) = (Node::with_loader(), Player::default());
        let mut parked = park(&mut node, "mg load:1 v");
        assert_eq!(load(&mut node, &mut parked, Some(b"100")), "VA 3|100|");
        node.run("INVAL load:1 STALE 60000");
        let _parked = park(&mut node, "get load:1");
        let failing = node.turn.effects.loads.pop().expect("a load is to start");
        node.keyspace.fail(&mut node.turn, Db(0), b"load:1", failing.token, &"LOADFAIL users down".into(), 1_000);
        player.play(&mut node, "m> gets load:1\nm< VALUE load:1 0 3 {v}|100|END|");
        match touch.split_at(3) {
            ("m> ", line) => drop(memcached(&mut node, line)),
            (_, line) => drop(node.run(line)),
        }
        let reply = memcached(&mut node, &player.fill_in(write));
        assert!(["EXISTS|", "EX|"].contains(&&*reply), "{touch}, {write}: {reply}");
        // Good enough for a stale one; its readers see it for as long as they would have seen the one before.
        player.play(
            &mut node,
            "
            m> ms load:1 3 C{v} I|new
            m< HD|
            m> get load:1
            m< VALUE load:1 0 3|new|END|
            +1000ms
            r> GETL load:1
            r< *5|$5|LEASE|$3|new|$19|{t}|:10000|:0|
            ",
        );
    }
}
