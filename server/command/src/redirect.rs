//! Where there are several nodes: what becomes of a command whose keys are another node's, decided before anything is done.
//!
//! It is answered with that node's address, or it is sent on to that node, as the client's [`Routing`] says.

use crate::client::Routing;
use crate::context::{Context, Forward};
use crate::copies;
use crate::error::ReplyError;
use crate::spec::{Flags, Spec};
use crate::split::{Gather, Split, Way};
use crate::table;
use leasehold_cluster::{Ask, Kind, Member, Peers, Place, Route, Slot, StandIns, Touched};
use leasehold_protocol::Request;

/// Said to another node that has sent a command which would be about the connection, or this node. None does.
pub(crate) const KEYS_ONLY: &str = "only requests about keys are sent on to another node";

/// Where a request goes that this node does not execute alone.
pub(crate) enum Away {
    One(Forward),
    Parts(Box<Split>),
}

/// Whether this node executes a request; else where it goes.
///
/// # Errors
/// [`ReplyError::Moved`], [`ReplyError::CrossSlot`].
#[inline(never)]
pub(crate) fn check(context: &Context<'_>, spec: &Spec, request: Request<'_>) -> Result<Option<Away>, ReplyError> {
    let Some(member) = context.host.member().filter(|_| context.client.routing != Routing::StandIn) else {
        return Ok(None);
    };
    let mut keys = table::keys_of(spec, request);
    let Some(first) = keys.next() else {
        return if context.client.routing == Routing::Link { Err(ReplyError::err(KEYS_ONLY)) } else { Ok(None) };
    };
    let slot = Slot::of_key(first);
    let is_sent_on = matches!(context.client.routing, Routing::Forward | Routing::Auto | Routing::Link);
    let kind = kind_of(spec);
    let is_touching = || context.host.keeps_copies() && touches(spec);
    let way_to = |slot: Slot, key: &[u8]| way_of(context, member, slot, key, kind);
    let way = match Gather::of(spec).filter(|_| is_sent_on) {
        Some(gather) => {
            let way = way_to(slot, first);
            let other = keys.map(|key| (Slot::of_key(key), key)).find(|(slot, key)| way_to(*slot, key) != way);
            match other.map(|(slot, _)| slot) {
                None => way,
                // A node is sent its own keys only; one of these two is not.
                Some(other) if context.client.routing == Routing::Link => {
                    return Err(moved(member, if member.owns(slot) { other } else { slot }));
                }
                Some(_) => {
                    let split = Split::of(spec, request, gather, way_to);
                    return Ok(split.map(|mut split| {
                        if is_touching() {
                            let keys: Vec<&[u8]> = table::keys_of(spec, request).collect();
                            split.touch(|key| keys[key]);
                        }
                        // Of MGET alone, whose keys stand behind its name.
                        copies::answer_parts(context, &mut split, |key| request.arg(key + 1));
                        Away::Parts(Box::new(split))
                    }));
                }
            }
        }
        // Also where one node has them all: with another node in the list it might not have them any more.
        None if keys.any(|key| Slot::of_key(key) != slot) => return Err(ReplyError::CrossSlot),
        None => way_to(slot, first),
    };
    let Way { place: Some(place), age_max_ms } = way else { return Ok(None) };
    match context.client.routing {
        Routing::Alone | Routing::StandIn => Ok(None),
        // Who would be told of a node that does not answer could only come back.
        Routing::Redirect | Routing::Shown if !is_replaced(context, member.topology().owner_place(slot)) => {
            Err(moved(member, slot))
        }
        Routing::Forward | Routing::Auto | Routing::Redirect | Routing::Shown => {
            let (gives_lease, is_read) = (spec.name == "getl", kind == Kind::Read);
            let waits_for_lease = gives_lease && request.args_from(2).any(|word| word.eq_ignore_ascii_case(b"wait"));
            let touched = match is_touching() {
                true => Touched::of_keys(table::keys_of(spec, request)),
                false => Touched::NOTHING,
            };
            let is_silent = false;
            let forward =
                Forward { place, slot, is_silent, gives_lease, waits_for_lease, is_read, touched, age_max_ms };
            Ok(Some(Away::One(forward)))
        }
        Routing::Link => Err(moved(member, slot)),
    }
}

/// Commands that load what is missing: what they answer is the same wherever it is loaded.
const LOADING: [&str; 4] = ["get", "mget", "loadthrough", "mloadthrough"];

/// What a command does, as far as its way is concerned: a read that loads may be answered by a stand-in, all else is for the owner of its key.
pub(crate) fn kind_of(spec: &Spec) -> Kind {
    if LOADING.contains(&spec.name) { Kind::Read } else { Kind::Update }
}

/// Whether a command may change what others read, or show its client something newer than a copy.
pub(crate) fn touches(spec: &Spec) -> bool {
    !spec.flags.has(Flags::READONLY) || matches!(spec.name, "loadthrough" | "mloadthrough")
}

/// Whether others stand in for a node, as it does not answer.
pub(crate) fn is_replaced(context: &Context<'_>, place: Place) -> bool {
    let stands_in = |peers: &&Peers| peers.rules().stand_ins != StandIns::None;
    context.host.peers().filter(stands_in).is_some_and(|peers| !peers.are_well() && peers.is_out(place))
}

fn moved(member: &Member, slot: Slot) -> ReplyError {
    ReplyError::Moved { slot, address: member.topology().owner(slot).address().clone() }
}

/// The one place where it is decided where a request for a key goes: to its owner, or to a stand-in if it may.
pub(crate) fn way_of(context: &Context<'_>, member: &Member, slot: Slot, key: &[u8], kind: Kind) -> Way {
    let way = Way::to(place_of(member, slot));
    match context.host.peers() {
        // What came over a link has come as far as it goes.
        Some(peers) if !peers.are_well() && context.client.routing != Routing::Link => {
            way_in_trouble(context, peers, slot, key, kind).unwrap_or(way)
        }
        _ => way,
    }
}

/// The way to a stand-in. Where none may be asked the owner is: if it does not answer, its link says so.
#[cold]
fn way_in_trouble(context: &Context<'_>, peers: &Peers, slot: Slot, key: &[u8], kind: Kind) -> Option<Way> {
    let now_ms = context.turn.now_ms;
    if peers.rules().stand_ins == StandIns::None {
        return None;
    }
    // A read must not overtake a change by the same client that its owner may still answer.
    let waits = context.client.changes_under_way;
    if kind != Kind::Read || waits || peers.topology().owner_place(slot) == peers.own() {
        peers.count();
        return None;
    }
    match peers.route(&Ask { slot, key, kind: Kind::Read, now_ms, random: now_ms }) {
        Route::StandIn(stand_in) => {
            Some(Way { place: Some(stand_in.place.index() as u16), age_max_ms: Some(stand_in.age_max_ms) })
        }
        Route::Here | Route::HereStale | Route::Owner(_) | Route::Errand | Route::Refuse(_) => None,
    }
}

/// The place of the other node that owns a slot; `None`: this one does.
pub(crate) fn place_of(member: &Member, slot: Slot) -> Option<u16> {
    let place = member.topology().place_of_owner(slot);
    (place != member.place().index()).then_some(place as u16)
}

/// Whether a key is this node's.
pub(crate) fn is_own(context: &Context<'_>, key: &[u8]) -> bool {
    context.client.routing == Routing::Alone || context.host.member().is_none_or(|member| member.owns_key(key))
}

#[cfg(test)]
mod tests {
    use crate::client::Routing;
    use crate::context::{Forward, Outcome};
    use crate::testing::{MEMBERS, Node};
    use leasehold_cluster::{Slot, Touched};

    /// A key of the node itself, and one of another with its slot and address.
    fn keys(node: &Node) -> (String, String, String) {
        let member = node.host.member.as_ref().expect("there are nodes");
        let key = |is_own: bool| {
            let mut keys = (0..).map(|number| format!("k{number}"));
            keys.find(|key| member.owns_key(key.as_bytes()) == is_own).expect("both have slots")
        };
        let (own, foreign) = (key(true), key(false));
        let slot = Slot::of_key(foreign.as_bytes());
        let moved = format!("-MOVED {slot} {}\r\n", member.topology().owner(slot).address());
        (own, foreign, moved)
    }

    #[test]
    fn commands_on_keys_of_another_node_name_it_and_do_nothing() {
        for name in MEMBERS {
            let mut node = Node::among_others(name);
            let (own, foreign, moved) = keys(&node);
            for line in [
                "GET KEY",
                "SET KEY v",
                "DEL KEY",
                "GETL KEY",
                "SETL KEY 5 v",
                "RELL KEY 5",
                "INVAL KEY",
                "INVAL KEY HARD",
                "INVAL KEY STALE 5 VER 7",
                "LOADTHROUGH KEY",
                "MLOADTHROUGH KEY",
                "MGET KEY",
                "LEASE KILL KEY",
                "OBJECT ENCODING KEY",
                "BITOP NOT KEY KEY",
                "LOADER EXPLAIN KEY",
                "MSETEX 1 KEY v",
            ] {
                assert_eq!(node.run(&line.replace("KEY", &foreign)), moved, "{line}");
                let here = node.run(&line.replace("KEY", &own));
                assert!(!here.starts_with("-MOVED"), "{line}: {here}");
            }
            node.run(&format!("SET {own} v"));
            assert_eq!(node.run("DBSIZE"), ":1\r\n");
        }
    }

    #[test]
    fn keys_of_several_slots_are_refused_even_if_all_are_here() {
        let mut node = Node::among_others(MEMBERS[0]);
        let (own, ..) = keys(&node);
        let member = node.host.member.as_ref().expect("there are nodes");
        let slot = Slot::of_key(own.as_bytes());
        let is_other = |key: &String| member.owns_key(key.as_bytes()) && Slot::of_key(key.as_bytes()) != slot;
        let other = (0..).map(|number| format!("o{number}")).find(is_other).expect("a node has many slots");
        let refused = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
        assert_eq!(node.run(&format!("MGET {own} {other}")), refused);
        assert_eq!(node.run(&format!("MSET {own} 1 {other} 2")), refused);
        assert_eq!(node.run(&format!("RENAME {own} {other}")), refused);
        assert_eq!(node.run(&format!("MGET {own} {{{own}}}x")), "*2\r\n$-1\r\n$-1\r\n");
    }

    /// Whether a line is sent on, and how.
    fn forwarded(node: &mut Node, line: &str) -> Option<Forward> {
        let reply = node.run(line);
        match node.outcome {
            Outcome::Forward(forward) => {
                assert_eq!(reply, "", "{line}");
                Some(forward)
            }
            _ => None,
        }
    }

    #[test]
    fn who_does_not_find_nodes_has_commands_sent_on() {
        for routing in [Routing::Forward, Routing::Auto] {
            let mut node = Node::among_others(MEMBERS[0]);
            node.client.routing = routing;
            let (own, foreign, _) = keys(&node);
            let slot = Slot::of_key(foreign.as_bytes());
            let place = node.host.member.as_ref().expect("there are nodes").topology().place_of_owner(slot) as u16;
            for line in ["GET KEY", "SET KEY v", "LOADTHROUGH KEY", "OBJECT ENCODING KEY"] {
                let is_read = !line.starts_with("SET") && !line.starts_with("OBJECT");
                let (gives_lease, waits_for_lease, age_max_ms) = (false, false, None);
                let changes = line.starts_with("SET") || line.starts_with("LOADTHROUGH");
                let touched = if changes { Touched::of_keys([&foreign].into_iter()) } else { Touched::NOTHING };
                let is_silent = false;
                let expected =
                    Forward { place, slot, is_silent, gives_lease, waits_for_lease, is_read, touched, age_max_ms };
                assert_eq!(forwarded(&mut node, &line.replace("KEY", &foreign)), Some(expected), "{line}");
                assert_eq!(forwarded(&mut node, &line.replace("KEY", &own)), None, "{line}");
            }
            for (line, waits) in [("GETL KEY", false), ("GETL KEY NOSTALE wait 50", true)] {
                let forward = forwarded(&mut node, &line.replace("KEY", &foreign)).expect("it is sent on");
                assert!(forward.gives_lease && forward.waits_for_lease == waits, "{line}");
            }
            assert_eq!(forwarded(&mut node, &format!("GET {foreign} x")), None, "a mistake is told here");
            assert!(node.run(&format!("RENAME {own} {foreign}")).starts_with("-CROSSSLOT "));
            assert_eq!(node.run("DBSIZE"), ":1\r\n");
        }
    }

    #[test]
    fn reads_of_a_dead_node_go_to_a_stand_in_and_changes_to_nobody_else() {
        for routing in [Routing::Forward, Routing::Auto, Routing::Redirect, Routing::Shown] {
            let (mut node, dead) = Node::beside_a_dead_one(MEMBERS[0]);
            node.client.routing = routing;
            let member = node.host.member.clone().expect("there are nodes");
            let key_of = |place: usize| {
                let is_its = |key: &String| member.topology().place_of_owner(Slot::of_key(key.as_bytes())) == place;
                (0..).map(|number| format!("k{number}")).find(is_its).expect("each has slots")
            };
            let lost = key_of(dead.index());
            node.client.changes_under_way = true;
            let behind = forwarded(&mut node, &format!("GET {lost}")).expect("its owner is asked");
            assert_eq!((usize::from(behind.place), behind.age_max_ms), (dead.index(), None), "it overtakes no change");
            node.client.changes_under_way = false;
            let read = forwarded(&mut node, &format!("GET {lost}")).expect("somebody reads it");
            assert!(read.is_read && read.age_max_ms == Some(0) && usize::from(read.place) != dead.index());
            for line in ["SET KEY v", "DEL KEY", "GETL KEY", "APPEND KEY x", "EXPIRE KEY 0"] {
                let change = forwarded(&mut node, &line.replace("KEY", &lost)).expect("its link refuses it");
                assert!(!change.is_read && change.age_max_ms.is_none(), "{line}");
                assert_eq!(usize::from(change.place), dead.index(), "{line}");
            }
            let third = key_of(3 - dead.index() - member.place().index());
            let sent_on = forwarded(&mut node, &format!("GET {third}"));
            let is_told = matches!(routing, Routing::Redirect | Routing::Shown);
            assert_eq!(sent_on.is_none(), is_told, "{routing:?}: the others are where they were");
            assert!(sent_on.is_none_or(|forward| forward.age_max_ms.is_none()));
            let own = key_of(member.place().index());
            assert!(forwarded(&mut node, &format!("GET {own}")).is_none());
            if is_told {
                continue;
            }
            node.run(&format!("MGET {lost} {own} {third}"));
            let Outcome::Split(split) = &node.outcome else { panic!("{:?}", node.outcome) };
            let ages: Vec<_> = split.parts.iter().map(|part| part.way.age_max_ms).collect();
            assert!(split.is_read && ages.iter().flatten().count() == 1, "{split:?}");
        }
    }

    #[test]
    fn replies_that_are_not_wanted_are_not_wanted_from_there_either() {
        let mut node = Node::among_others(MEMBERS[0]);
        node.client.routing = Routing::Forward;
        let (_, foreign, _) = keys(&node);
        let get = format!("GET {foreign}");
        let mut is_silent = || forwarded(&mut node, &get).map(|forward| forward.is_silent);
        assert_eq!(is_silent(), Some(false));
        node.run("CLIENT REPLY SKIP");
        let mut is_silent = || forwarded(&mut node, &get).map(|forward| forward.is_silent);
        assert_eq!((is_silent(), is_silent()), (Some(true), Some(false)));
        node.run("CLIENT REPLY OFF");
        let mut is_silent = || forwarded(&mut node, &get).map(|forward| forward.is_silent);
        assert_eq!((is_silent(), is_silent()), (Some(true), Some(true)));
    }

    #[test]
    fn who_shows_that_it_finds_nodes_is_told_of_them_until_it_resets() {
        let mut node = Node::among_others(MEMBERS[0]);
        node.client.routing = Routing::Auto;
        let (_, foreign, moved) = keys(&node);
        let get = format!("GET {foreign}");
        for line in ["CLUSTER SLOTS", "CLUSTER SHARDS", "CLUSTER NODES", "READONLY", "READWRITE", "ASKING"] {
            assert!(forwarded(&mut node, &get).is_some());
            node.run(line);
            assert_eq!(node.run(&get), moved, "{line}");
            node.run("RESET");
        }
        node.client.routing = Routing::Forward;
        node.run("CLUSTER SLOTS");
        assert!(forwarded(&mut node, &get).is_some());
    }

    #[test]
    fn what_was_sent_on_goes_no_further() {
        let mut node = Node::among_others(MEMBERS[0]);
        node.client.routing = Routing::Link;
        let (own, foreign, moved) = keys(&node);
        assert_eq!(node.run(&format!("SET {own} v")), "+OK\r\n");
        assert_eq!(node.run(&format!("SET {foreign} v")), moved);
        for line in ["PING", "RESET", "QUIT", "CLIENT REPLY OFF", "FLUSHALL"] {
            assert_eq!(node.run(line), "-ERR only requests about keys are sent on to another node\r\n", "{line}");
        }
        assert_eq!(node.run(&format!("GET {own}")), "$1\r\nv\r\n");
    }

    #[test]
    fn a_wrong_command_is_told_so_before_it_is_sent_away() {
        let mut node = Node::among_others(MEMBERS[0]);
        let (_, foreign, _) = keys(&node);
        let refused = node.run(&format!("GET {foreign} x"));
        assert_eq!(refused, "-ERR wrong number of arguments for 'get' command\r\n");
        assert_eq!(node.run("PING"), "+PONG\r\n");
        let mut node = Node::among_others(MEMBERS[0]);
        node.host.password = Some(b"secret".to_vec());
        assert_eq!(node.run(&format!("GET {foreign}")), "-NOAUTH Authentication required.\r\n");
    }

    #[test]
    fn only_the_first_database_is_there() {
        let mut node = Node::among_others(MEMBERS[0]);
        let (own, ..) = keys(&node);
        assert_eq!(node.run("SELECT 0"), "+OK\r\n");
        assert_eq!(node.run("SELECT 1"), "-ERR SELECT is not allowed in cluster mode\r\n");
        assert_eq!(node.run("SELECT 99"), "-ERR SELECT is not allowed in cluster mode\r\n");
        assert_eq!(node.run("SELECT x"), "-ERR value is not an integer or out of range\r\n");
        node.run(&format!("SET {own} v"));
        let copied = node.run(&format!("COPY {own} {own} DB 1"));
        assert_eq!(copied, "-ERR Copying to another database is not allowed in cluster mode\r\n");
        assert!(node.run("HELLO").contains("$4\r\nmode\r\n$7\r\ncluster\r\n"));
    }

    #[test]
    fn loads_ahead_are_for_own_keys_only() {
        let mut node = Node::among_others(MEMBERS[0]);
        node.host.loader = Node::with_loader().host.loader;
        let member = node.host.member.clone().expect("there are nodes");
        let mut keys_left = 100;
        for number in 0..20 {
            let key = format!("load:{number}");
            let (parser, input) = crate::testing::parse(&[b"GET", key.as_bytes()]);
            let mut reply = leasehold_protocol::Reply::new(node.version);
            let mut context = node.context(&mut reply);
            assert!(crate::load_ahead(&mut context, parser.request(&input), &mut keys_left));
        }
        let loads: Vec<_> = node.turn.effects.loads.iter().map(|load| load.key.clone()).collect();
        let own = (0..20).map(|number| format!("load:{number}")).filter(|key| member.owns_key(key.as_bytes()));
        assert_eq!(loads, own.collect::<Vec<_>>());
        assert!(!loads.is_empty() && loads.len() < 20);
    }
}
