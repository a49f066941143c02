//! One machine, three fronts: every way to take a lease, what may happen then, and every way to fill.

use super::{Player, memcached};
use crate::testing::Node;

/// How a lease on `k` is taken, and what the winner is told.
struct Taking {
    name: &'static str,
    send: &'static str,
    /// Where nothing is stored.
    wins_empty: &'static str,
    /// Where `old` is stored, and stale.
    wins_stale: &'static str,
    /// While another leads.
    loses_empty: &'static str,
    loses_stale: &'static str,
}

const TAKINGS: [Taking; 4] = [
    Taking {
        name: "GETL",
        send: "r> GETL k",
        wins_empty: "r< *5|$5|LEASE|$-1|$19|{t}|:10000|:0|",
        wins_stale: "r< *5|$5|LEASE|$3|old|$19|{t}|:10000|:0|",
        loses_empty: "r< *5|$4|WAIT|$-1|$1|1|:{retry}|:0|",
        loses_stale: "r< *5|$4|WAIT|$3|old|$1|1|:{retry}|:{version}|",
    },
    Taking {
        name: "mg N",
        send: "m> mg k N10 v c t",
        wins_empty: "m< VA 0 c{t} t10 W||",
        wins_stale: "m< VA 3 c{t} t{left} X W|old|",
        loses_empty: "m< VA 0 c1 t1 Z||",
        loses_stale: "m< VA 3 c1 t{left} Z X|old|",
    },
    Taking {
        name: "lease-get",
        send: "m> lease-get k",
        wins_empty: "m< LVALUE k {t} 0 0||END|",
        wins_stale: "m< LVALUE k {t} 7 3|old|END|",
        loses_empty: "m< LVALUE k 1 0 0||END|",
        loses_stale: "m< LVALUE k 1 7 3|old|END|",
    },
    // Without N: only where a stale value is there to see.
    Taking {
        name: "mg",
        send: "m> mg k v c",
        wins_empty: "m< EN|",
        wins_stale: "m< VA 3 c{t} X W|old|",
        loses_empty: "m< EN|",
        loses_stale: "m< VA 3 c1 Z X|old|",
    },
];

/// What a fill comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stored,
    /// The key was softly invalidated: what replaces a stale value is stored.
    Soft,
    Lost,
}

/// How a lease on `k` is filled with `new`, and what the holder is told.
struct Filling {
    name: &'static str,
    send: &'static str,
    stored: &'static str,
    /// Where a stale value is there; without one it is lost.
    soft: &'static str,
    replaces_stale: bool,
    /// Where an entry or another lease is there.
    lost: &'static [&'static str],
}

const FILLINGS: [Filling; 5] = [
    Filling {
        name: "SETL",
        send: "r> SETL k {t} new",
        stored: "+STORED|",
        soft: "+STALE|",
        replaces_stale: true,
        lost: &["+LOST revoked|", "+LOST unknown|", "+LOST superseded|"],
    },
    Filling {
        name: "ms C",
        send: "m> ms k 3 C{t} F9|new",
        stored: "HD|",
        soft: "EX|",
        replaces_stale: false,
        lost: &["EX|", "NF|"],
    },
    Filling {
        name: "ms C I",
        send: "m> ms k 3 C{t} I F9|new",
        stored: "HD|",
        soft: "HD|",
        replaces_stale: true,
        lost: &["EX|", "NF|"],
    },
    Filling {
        name: "cas",
        send: "m> cas k 9 0 3 {t}|new",
        stored: "STORED|",
        soft: "EXISTS|",
        replaces_stale: false,
        lost: &["EXISTS|", "NOT_FOUND|"],
    },
    Filling {
        name: "lease-set",
        send: "m> lease-set k {t} 9 0 3|new",
        stored: "STORED|",
        soft: "STALE_STORED|",
        replaces_stale: true,
        lost: &["NOT_STORED|"],
    },
];

/// What happens between: lines, the fate of a fill after it, and what plain reads see if the fill is lost.
const EVENTS: [(&str, Fate, Option<&str>); 24] = [
    ("", Fate::Stored, None),
    // No writes.
    ("r> EXPIRE k 100|r< :0|", Fate::Stored, None),
    ("m> touch k 100|m< NOT_FOUND|", Fate::Stored, None),
    ("m> mg k N10 q T50|m< HD Z|", Fate::Stored, None),
    ("m> md k C5|m< EX|", Fate::Stored, None),
    ("m> ms k 1 C5|m< x", Fate::Stored, None),
    ("m> ms k 1 MR|m< x", Fate::Stored, None),
    ("m> ms k 1 MA|m< x", Fate::Stored, None),
    ("+9999ms", Fate::Stored, None),
    // Deletions, also of an absent key.
    ("r> DEL k", Fate::Lost, None),
    ("m> delete k", Fate::Lost, None),
    ("m> md k", Fate::Lost, None),
    ("m> md k C{t}", Fate::Lost, None),
    ("r> INVAL k HARD", Fate::Lost, None),
    ("r> RELL k {t}", Fate::Lost, None),
    ("r> LEASE KILL k", Fate::Lost, None),
    ("r> FLUSHALL", Fate::Lost, None),
    ("+10000ms", Fate::Lost, None),
    // Writes, with a lease or without.
    ("r> SET k set", Fate::Lost, Some("set")),
    ("m> set k 0 0 3|set", Fate::Lost, Some("set")),
    ("m> ms k 3|set", Fate::Lost, Some("set")),
    ("m> ms k 3 ME|set", Fate::Lost, Some("set")),
    // Soft invalidations.
    ("r> INVAL k", Fate::Soft, None),
    ("m> md k I", Fate::Soft, None),
];

/// Sends a line and gives its reply.
fn send(node: &mut Node, player: &Player, line: &str) -> String {
    let line = player.fill_in(line);
    match line.split_at(3) {
        ("m> ", text) => memcached(node, text),
        ("r> ", text) => node.run(text).replace("\r\n", "|"),
        _ => panic!("no such mark: {line}"),
    }
}

fn happen(node: &mut Node, player: &Player, event: &str) {
    if let Some(ms) = event.strip_prefix('+').and_then(|event| event.strip_suffix("ms")) {
        super::pass_ms(node, ms.parse().expect("a number"));
    } else if let Some((line, reply)) = event.split_once("|m< ").or_else(|| event.split_once("|r< ")) {
        match reply {
            // A block of data, whose reply is that nothing was stored.
            "x" => assert!(["NS|", "EX|"].contains(&&*send(node, player, &format!("{line}|x"))), "{event}"),
            _ => assert_eq!(send(node, player, line), reply, "{event}"),
        }
    } else if !event.is_empty() {
        let reply = send(node, player, event);
        assert!(!reply.starts_with("-ERR") && !reply.contains("ERROR"), "{event}: {reply}");
    }
}

/// What a plain read of `k` sees through both fronts.
fn value(node: &mut Node) -> Option<String> {
    let by_get = node.run("GET k").replace("\r\n", "|");
    let by_text = memcached(node, "get k");
    let value = by_get
        .strip_prefix('$')
        .filter(|reply| *reply != "-1|")
        .map(|reply| reply.split('|').nth(1).expect("a value").to_owned());
    match &value {
        Some(value) => {
            assert!(by_text.starts_with("VALUE k ") && by_text.ends_with(&format!("|{value}|END|")), "{by_text}")
        }
        None => assert_eq!(by_text, "END|"),
    }
    value
}

#[test]
fn every_lease_on_an_absent_key_is_filled_or_lost_alike_through_all_fronts() {
    for taking in TAKINGS.iter().filter(|taking| taking.wins_empty.contains("{t}")) {
        for filling in &FILLINGS {
            for (event, fate, other) in EVENTS {
                let context = format!("{}, {event}, {}", taking.name, filling.name);
                let (mut node, mut player) = (Node::new(), Player::default());
                player.play(&mut node, &format!("{}\n{}", taking.send, taking.wins_empty));
                assert_eq!(value(&mut node), None, "{context}: plain reads see a miss");
                for other in &TAKINGS {
                    player.play(&mut node, &format!("{}\n{}", other.send, other.loses_empty));
                }
                happen(&mut node, &player, event);
                let reply = send(&mut node, &player, filling.send);
                match fate {
                    Fate::Stored => {
                        assert_eq!(reply, filling.stored, "{context}");
                        assert_eq!(value(&mut node).as_deref(), Some("new"), "{context}");
                    }
                    // There is no stale value that it could replace.
                    Fate::Soft | Fate::Lost => {
                        assert!(filling.lost.contains(&&*reply), "{context}: {reply}");
                        assert_eq!(value(&mut node).as_deref(), other, "{context}");
                    }
                }
                // Spent, or lost for good.
                let again = send(&mut node, &player, filling.send);
                assert!(filling.lost.contains(&&*again), "{context}: {again}");
                node.keyspace.check();
            }
        }
    }
}

#[test]
fn every_lease_on_a_stale_value_is_filled_or_lost_alike_through_all_fronts() {
    for soften in ["r> INVAL k STALE 100000", "m> md k I T100", "m> md k I"] {
        for taking in &TAKINGS {
            for filling in &FILLINGS {
                for (event, fate, other) in EVENTS {
                    if event.contains("|m< ") || event.contains("|r< ") {
                        // About an absent key.
                        continue;
                    }
                    let context = format!("{soften}, {}, {event}, {}", taking.name, filling.name);
                    let (mut node, mut player) = (Node::new(), Player::default());
                    player.play(&mut node, "m> set k 7 1000 3|old\nm< STORED|");
                    happen(&mut node, &player, soften);
                    assert_eq!(value(&mut node), None, "{context}: plain reads see no stale value");
                    player.play(&mut node, &format!("{}\n{}", taking.send, taking.wins_stale));
                    for other in &TAKINGS {
                        player.play(&mut node, &format!("{}\n{}", other.send, other.loses_stale));
                    }
                    happen(&mut node, &player, event);
                    let reply = send(&mut node, &player, filling.send);
                    match fate {
                        Fate::Stored => {
                            assert_eq!(reply, filling.stored, "{context}");
                            assert_eq!(value(&mut node).as_deref(), Some("new"), "{context}");
                        }
                        Fate::Soft => {
                            assert_eq!(reply, filling.soft, "{context}");
                            assert_eq!(value(&mut node), None, "{context}: it is stale all the same");
                            let stale = if filling.replaces_stale { "new" } else { "old" };
                            let seen = memcached(&mut node, "mg k v u");
                            assert_eq!(seen, format!("VA 3 X W|{stale}|"), "{context}");
                        }
                        Fate::Lost => {
                            assert!(filling.lost.contains(&&*reply), "{context}: {reply}");
                            assert_eq!(value(&mut node).as_deref(), other, "{context}");
                        }
                    }
                    node.keyspace.check();
                }
            }
        }
    }
}

#[test]
fn a_refresh_ahead_of_the_end_has_one_winner_and_its_fill_is_lost_to_any_change() {
    for filling in &FILLINGS {
        for (event, fate, other) in [
            ("", Fate::Stored, None),
            ("r> EXPIRE k 100", Fate::Stored, None),
            ("m> mg k T100", Fate::Stored, None),
            ("m> touch k 100", Fate::Stored, None),
            ("r> SET k set", Fate::Lost, Some("set")),
            ("m> ms k 3|set", Fate::Lost, Some("set")),
            ("m> ms k 3 MA|set", Fate::Lost, Some("oldset")),
            ("m> ms k 3 MP|set", Fate::Lost, Some("setold")),
            ("m> md k", Fate::Lost, None),
            ("m> md k C{t}", Fate::Lost, None),
            ("m> md k x", Fate::Lost, Some("")),
            ("m> md k I", Fate::Soft, None),
        ] {
            let context = format!("{event}, {}", filling.name);
            let (mut node, mut player) = (Node::new(), Player::default());
            player.play(
                &mut node,
                "
                m> ms k 3 T20 F7|old
                m< HD|
                # protocol.txt, Meta Get: R(token): if the token is less than the remaining TTL, win for recache
                m> mg k R20 v t
                m< VA 3 t20|old|
                m> mg k R30 v t c f
                m< VA 3 t20 c{t} f7 W|old|
                m> mg k R30 v t
                m< VA 3 t20 Z|old|
                m> mg k v c
                m< VA 3 c{v} Z|old|
                ",
            );
            assert_ne!(player.number("v"), player.number("t"), "others are told the version of the value");
            assert_eq!(value(&mut node).as_deref(), Some("old"), "readers go on reading");
            happen(&mut node, &player, event);
            let reply = send(&mut node, &player, filling.send);
            match fate {
                Fate::Stored => {
                    assert_eq!(reply, filling.stored, "{context}");
                    assert_eq!(value(&mut node).as_deref(), Some("new"), "{context}");
                }
                Fate::Soft => {
                    assert_eq!(reply, filling.soft, "{context}");
                    assert_eq!(value(&mut node), None, "{context}");
                }
                Fate::Lost => {
                    assert!(filling.lost.contains(&&*reply), "{context}: {reply}");
                    assert_eq!(value(&mut node).as_deref(), other, "{context}");
                }
            }
        }
    }
}

#[test]
fn client_flags_go_with_a_fill_and_resp_has_none() {
    let (mut node, mut player) = (Node::new(), Player::default());
    player.play(
        &mut node,
        "
        r> GETL a
        r< *5|$5|LEASE|$-1|$19|{a}|:10000|:0|
        m> ms a 1 C{a} F9 T50|x
        m< HD|
        m> mg a v f t
        m< VA 1 f9 t50|x|
        r> GETL a
        r< *5|$3|HIT|$1|x|$1|0|:50000|:{version}|
        m> mg b N30 c
        m< HD c{b} W|
        r> SETL b {b} y
        r< +STORED|
        m> mg b v f t
        m< VA 1 f0 t-1|y|
        m> lease-get c
        m< LVALUE c {c} 0 0||END|
        m> lease-set c {c} 4 0 1|z
        m< STORED|
        m> lease-get b c
        m< VALUE b 0 1|y|VALUE c 4 1|z|END|
        r> SET c z
        r< +OK|
        m> get c
        m< VALUE c 0 1|z|END|
        ",
    );
}

#[test]
fn a_holder_that_never_comes_back_costs_as_long_as_the_next_token_waits() {
    let (mut node, mut player) = (Node::new(), Player::default());
    player.play(
        &mut node,
        "
        m> mg k N30 c v
        m< VA 0 c{first} W||
        m> mg k N30 c v
        m< VA 0 c1 Z||
        # The testing node gives the next token after a second.
        +1000ms
        m> mg k N30 c v
        m< VA 0 c{second} W||
        m> ms k 3 C{second}|two
        m< HD|
        # SPEC §2: an earlier holder never takes the place of a later one's fill.
        m> ms k 3 C{first}|one
        m< EX|
        m> mg k v
        m< VA 3|two|
        ",
    );
}

#[test]
fn what_replaced_a_stale_value_is_not_replaced_by_a_holder_from_before_the_invalidation() {
    let (mut node, mut player) = (Node::new(), Player::default());
    player.play(
        &mut node,
        "
        m> ms k 3 T20|old
        m< HD|
        m> mg k R30 c
        m< HD c{before} W|
        m> gets k
        m< VALUE k 0 3 {v}|old|END|
        m> md k I
        m< HD|
        m> mg k c
        m< HD c{after} X W|
        m> ms k 3 C{v} I|new
        m< HD|
        r> SETL k {before} older
        r< +LOST superseded|
        m> mg k v
        m< VA 3 Z X|new|
        # Its lease was given after the invalidation.
        m> cas k 0 0 5 {after}|fresh
        m< STORED|
        m> mg k v
        m< VA 5|fresh|
        ",
    );
}

#[test]
fn all_fronts_tell_and_compare_one_version() {
    let (mut node, mut player) = (Node::new(), Player::default());
    player.play(
        &mut node,
        "
        m> ms a 1 E7 c|x
        m< HD c7|
        m> mg a c
        m< HD c7|
        m> gets a
        m< VALUE a 0 1 7|x|END|
        m> gats 0 a
        m< VALUE a 0 1 7|x|END|
        r> GETL a
        r< *5|$3|HIT|$1|x|$1|0|:-1|:7|
        m> cas a 0 0 1 6|y
        m< EXISTS|
        m> cas a 3 0 1 7|y
        m< STORED|
        # A write without a version of its own ends that of the one before.
        m> gets a
        m< VALUE a 3 1 {v}|y|END|
        m> mg a c
        m< HD c{v}|
        m> ms a 1 C{v} E8|z
        m< HD|
        m> gets a
        m< VALUE a 0 1 8|z|END|
        ",
    );
}

#[test]
fn dalli_fetches_with_a_lock_and_stores_plainly() {
    let (mut node, mut player) = (Node::new(), Player::default());
    player.play(
        &mut node,
        "
        m> mg k v f c k N30 R10 O1
        m< VA 0 f0 c{t} kk O1 W||
        m> mg k v f c k N30 R10 O2
        m< VA 0 f0 c1 kk O2 Z||
        m> ms k 3 T60 F2|new
        m< HD|
        m> mg k v f N30 R10
        m< VA 3 f2|new|
        m> ms k 3 C{t}|old
        m< EX|
        +51000ms
        m> mg k v t N30 R10
        m< VA 3 t9 W|new|
        ",
    );
}

#[test]
fn a_remembered_absence_gives_no_lease() {
    let (mut node, mut player) = (Node::new(), Player::default());
    player.play(
        &mut node,
        "
        m> mg k N30 c
        m< HD c{t} W|
        r> RELL k {t} NEGATIVE 5000
        r< :1|
        m> mg k N30 c
        m< EN|
        m> lease-get k
        m< LVALUE k 0 0 0||END|
        # A write by memcached's protocol ends it, as any write.
        m> md k
        m< NF|
        m> mg k N30 c
        m< HD c{u} W|
        ",
    );
}
