//! Where there are several nodes: a verb whose keys are another node's is sent on to it. Clients of memcached cannot be told where a key is.

use super::table::Verb;
use super::{dispatch, meta};
use crate::client::Routing;
use crate::context::{Context, Forward, Outcome};
use crate::copies;
use crate::host::Count;
use crate::redirect::{KEYS_ONLY, place_of, way_of};
use crate::spec::Flags;
use crate::split::{Gather, Part, Split, Way, part_of};
use crate::table::key_positions;
use leasehold_cluster::{Kind, Slot, Touched};
use leasehold_protocol::memcached::{Fault, Request};
use std::borrow::Cow;

/// Said to another node that has sent a key which is not ours; only of one with another list.
const NOT_OURS: &[u8] = b"SERVER_ERROR this key is another node's";

/// Sends a request on if its keys are another node's. `None`: it is for this one.
#[inline(never)]
pub(super) fn send_on(context: &mut Context<'_>, verb: &Verb, request: Request<'_>) -> Option<Outcome> {
    let is_too_large = match request.fault() {
        None => false,
        Some(Fault::TooLarge) => true,
        Some(_) => return None,
    };
    let member = context.host.member().filter(|_| context.client.routing != Routing::StandIn)?;
    let mut places = places(verb, request);
    let Some(first) = places.next() else {
        let is_link = context.client.routing == Routing::Link;
        return is_link.then(|| dispatch::answer(context, format!("SERVER_ERROR {KEYS_ONLY}").as_bytes()));
    };
    let first_key = key_at(request, first);
    let slot = Slot::of_key(&first_key);
    let owner = place_of(member, slot);
    let kind = kind_of(verb, request);
    let is_touching = kind != Kind::Read && context.host.keeps_copies();
    let way_of_key = |slot: Slot, key: &[u8]| way_of(context, member, slot, key, kind);
    let way_to = |place: usize| {
        let key = key_at(request, place);
        way_of_key(Slot::of_key(&key), &key)
    };
    let way = way_of_key(slot, &first_key);
    let is_one_way = places.all(|place| way_to(place) == way);
    if is_one_way && way.place.is_none() {
        return None;
    }
    if context.client.routing == Routing::Link {
        return Some(dispatch::answer(context, NOT_OURS));
    }
    let split = if is_too_large {
        // It is refused here; but who reads on must not find the value that it was to take the place of.
        let request = outdated(context, verb, request)?;
        context.host.count(Count::StoreTooLarge, 1);
        let touched = Touched::of_keys([&first_key].into_iter());
        let part = Part { way: Way::to(owner), slot, request, keys: Vec::new(), touched, answer: None };
        Split { parts: vec![part], gather: Gather::Told(dispatch::TOO_LARGE), is_silent: false, is_read: false }
    } else if let (true, Way { place: Some(place), age_max_ms }) = (is_one_way, way) {
        let (gives_lease, waits_for_lease, is_read) = (false, false, kind == Kind::Read);
        let touched = if is_touching { Touched::of_keys(keys(verb, request)) } else { Touched::NOTHING };
        if is_read && copies::answer_text(context, request) {
            return Some(Outcome::Replied);
        }
        let is_silent = false;
        let forward = Forward { place, slot, is_silent, gives_lease, waits_for_lease, is_read, touched, age_max_ms };
        return Some(Outcome::Forward(forward));
    } else {
        let mut split = split(verb, request, kind, way_to);
        if is_touching {
            let keys: Vec<Cow<'_, [u8]>> = keys(verb, request).collect();
            split.touch(|key| &keys[key]);
        }
        if verb.name == "get" {
            copies::answer_parts(context, &mut split, |key| request.word(key + 1).unwrap_or_default());
        }
        split
    };
    Some(Outcome::Split(Box::new(split)))
}

/// The places of the keys among the words.
fn places<'a>(verb: &Verb, request: Request<'a>) -> impl Iterator<Item = usize> + use<'a> {
    key_positions(verb.keys, request.len(), move |index| request.word(index).unwrap_or_default())
}

/// The slot of the key at a place among the words.
fn slot_of(request: Request<'_>, place: usize) -> Slot {
    Slot::of_key(&key_at(request, place))
}

/// The key at a place among the words.
fn key_at<'a>(request: Request<'a>, place: usize) -> Cow<'a, [u8]> {
    let word = request.word(place).unwrap_or_default();
    meta::key_of(request, word).unwrap_or(Cow::Borrowed(word))
}

/// What a request does, as far as its way is concerned; see `redirect::kind_of`.
pub(crate) fn kind_of(verb: &Verb, request: Request<'_>) -> Kind {
    // Those make or take a lease, give an entry another time to live, or a version of the caller's.
    let changes = |flag: &[u8]| matches!(flag.first(), Some(b'N' | b'R' | b'T' | b'E'));
    let is_read = verb.flags.has(Flags::READONLY) || verb.name == "mg" && !request.words_from(2).any(changes);
    if is_read { Kind::Read } else { Kind::Update }
}

/// The keys of a request.
pub(crate) fn keys<'a>(verb: &Verb, request: Request<'a>) -> impl Iterator<Item = Cow<'a, [u8]>> + use<'a> {
    places(verb, request).map(move |place| key_at(request, place))
}

/// A part for each node of a verb that reads many keys.
fn split(verb: &Verb, request: Request<'_>, kind: Kind, way_to: impl Fn(usize) -> Way) -> Split {
    let mut parts: Vec<Part> = Vec::new();
    let mut head = Vec::new();
    for (key, place) in places(verb, request).enumerate() {
        if key == 0 {
            let words = request.words_from(0).take(place);
            head = words.collect::<Vec<_>>().join(&b' ');
        }
        let part = part_of(&mut parts, way_to(place), slot_of(request, place), &head);
        part.keys.push(key as u32);
        part.request.push(b' ');
        part.request.extend_from_slice(request.word(place).unwrap_or_default());
    }
    parts.iter_mut().for_each(|part| part.request.extend_from_slice(b"\r\n"));
    Split { parts, gather: Gather::Values, is_silent: false, is_read: kind == Kind::Read }
}

/// What removes the value that a `set` or `ms` was to replace, which is too large; `None`: nothing is to be removed.
fn outdated(context: &Context<'_>, verb: &Verb, request: Request<'_>) -> Option<Vec<u8>> {
    let word = request.word(1)?;
    let key = meta::key_of(request, word)?;
    let is_writer = context.host.writer_for(context.client.db, &key).is_some();
    let is_binary = verb.name == "ms" && matches!(key, Cow::Owned(_));
    if is_writer || !matches!(verb.name, "set" | "ms") {
        return None;
    }
    let mut out = [b"md ", word].concat();
    out.extend_from_slice(if is_binary { b" b\r\n" } else { b"\r\n" });
    Some(out)
}

#[cfg(test)]
mod tests {
    use crate::client::Routing;
    use crate::context::Outcome;
    use crate::split::Gather;
    use crate::testing::{MEMBERS, Node};
    use leasehold_cluster::Slot;
    use leasehold_protocol::memcached::Limits;

    /// A node whose client speaks memcached's protocol, and three keys of each node, its own first.
    fn node(routing: Routing) -> (Node, [Vec<String>; 3]) {
        let mut node = Node::among_others(MEMBERS[1]);
        node.client.routing = routing;
        let member = node.host.member.clone().expect("there are nodes");
        let key_of = |place: usize| {
            let is_its = |key: &String| member.topology().place_of_owner(Slot::of_key(key.as_bytes())) == place;
            (0..).map(|number| format!("k{number}")).filter(is_its).take(3).collect::<Vec<_>>()
        };
        (node, [1, 2, 0].map(key_of))
    }

    /// Where a request is sent on to as it is.
    fn place(node: &mut Node, request: &str) -> Option<u16> {
        let reply = node.talk(request);
        match node.outcome {
            Outcome::Forward(forward) => {
                assert_eq!(reply, "", "{request}");
                Some(forward.place)
            }
            _ => None,
        }
    }

    #[test]
    fn every_verb_with_a_key_goes_where_that_is() {
        let (mut node, [own, other, _]) = node(Routing::Forward);
        for request in [
            "get KEY\r\n",
            "gets KEY\r\n",
            "gat 10 KEY\r\n",
            "set KEY 0 0 1\r\nx\r\n",
            "add KEY 0 0 1\r\nx\r\n",
            "cas KEY 0 0 1 5\r\nx\r\n",
            "append KEY 0 0 1\r\nx\r\n",
            "touch KEY 10\r\n",
            "incr KEY 1\r\n",
            "mg KEY v\r\n",
            "ms KEY 1\r\nx\r\n",
            "ma KEY\r\n",
            "me KEY\r\n",
            "md KEY\r\n",
            "delete KEY\r\n",
            "lease-get KEY\r\n",
        ] {
            assert_eq!(place(&mut node, &request.replace("KEY", &other[0])), Some(2), "{request}");
            assert_eq!(place(&mut node, &request.replace("KEY", &own[0])), None, "{request}");
        }
        for request in ["version\r\n", "mn\r\n", "stats\r\n", "verbosity 1\r\n", "flush_all\r\n"] {
            assert_eq!(place(&mut node, request), None, "{request}");
        }
        let two = format!("get {} {}\r\n", other[0], other[1]);
        assert_eq!(place(&mut node, &two), Some(2), "one node has both");
        // A key in base64 is the key that it stands for: here "k0" and its like.
        for (base64, key) in [("azA=", "k0"), ("azE=", "k1"), ("azI=", "k2"), ("azM=", "k3")] {
            let owner =
                node.host.member.as_ref().expect("it is there").topology().place_of_owner(Slot::of_key(key.as_bytes()));
            let expected = (owner != 1).then_some(owner as u16);
            assert_eq!(place(&mut node, &format!("mg {base64} b v\r\n")), expected, "{key}");
            assert_eq!(place(&mut node, &format!("ms {base64} 1 b\r\nx\r\n")), expected, "{key}");
        }
    }

    #[test]
    fn what_wants_no_answer_wants_none_from_there() {
        let (mut node, [_, other, _]) = node(Routing::Forward);
        let mut is_silent = |request: &str| {
            node.talk(request.replace("KEY", &other[0]));
            matches!(node.outcome, Outcome::Forward(forward) if forward.is_silent)
        };
        assert!(is_silent("set KEY 0 0 1 noreply\r\nx\r\n") && is_silent("delete KEY noreply\r\n"));
        assert!(!is_silent("set KEY 0 0 1\r\nx\r\n"));
    }

    #[test]
    fn keys_of_several_nodes_are_read_in_parts() {
        let (mut node, [own, one, two]) = node(Routing::Forward);
        node.talk(format!("gat 100 {} {} {} {}\r\n", one[0], own[0], one[1], two[0]));
        let Outcome::Split(split) = &node.outcome else { panic!("{:?}", node.outcome) };
        assert_eq!(split.gather, Gather::Values);
        let parts: Vec<_> = split
            .parts
            .iter()
            .map(|part| (part.way.place, String::from_utf8_lossy(&part.request).into_owned(), part.keys.clone()))
            .collect();
        let expected = [
            (Some(2), format!("gat 100 {} {}\r\n", one[0], one[1]), vec![0, 2]),
            (None, format!("gat 100 {}\r\n", own[0]), vec![1]),
            (Some(0), format!("gat 100 {}\r\n", two[0]), vec![3]),
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn what_was_sent_on_goes_no_further() {
        let (mut node, [own, other, _]) = node(Routing::Link);
        assert_eq!(node.talk(format!("set {} 0 0 1\r\nx\r\n", own[0])), "STORED\r\n");
        let refused = "SERVER_ERROR this key is another node's\r\n";
        assert_eq!(node.talk(format!("set {} 0 0 1\r\nx\r\n", other[0])), refused);
        assert_eq!(node.talk(format!("get {} {}\r\n", own[0], other[0])), refused);
    }

    #[test]
    fn a_value_that_is_too_large_removes_the_old_one_where_that_is() {
        let limits = Limits { entry_bytes_max: 100, ..Limits::DEFAULT };
        let (mut node, [_, other, _]) = node(Routing::Forward);
        for (request, removal) in [("set KEY 0 0 200\r\n", "md KEY\r\n"), ("ms KEY 200\r\n", "md KEY\r\n")] {
            let reply = node.talk_within(request.replace("KEY", &other[0]).as_bytes(), &limits);
            assert_eq!(reply, "");
            let Outcome::Split(split) = &node.outcome else { panic!("{request}: {:?}", node.outcome) };
            assert_eq!(split.gather, Gather::Told(b"SERVER_ERROR object too large for cache"));
            let [part] = &split.parts[..] else { panic!("{split:?}") };
            assert_eq!(String::from_utf8_lossy(&part.request), removal.replace("KEY", &other[0]));
        }
        let reply = node.talk_within(format!("add {} 0 0 200\r\n", other[0]).as_bytes(), &limits);
        assert_eq!(reply, "SERVER_ERROR object too large for cache\r\n");
    }
}
