//! A command over keys of several nodes that have nothing to do with each other: a part for each node, run side by side, and gathered.

use crate::spec::{Flags, Keys, Spec};
use crate::{redirect, table};
use leasehold_cluster::{Kind, Slot, Touched};
use leasehold_protocol::{Reply, Request, RespVersion};

/// How the replies of the parts become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// The sum of numbers, or the first error.
    Sum,
    /// OK if all are, or the first error.
    All,
    /// The elements of arrays in the order of the keys, or the first error.
    List,
    /// As `List`, where an error stands in the places of its keys.
    ListWithErrors,
    /// What memcached's `get` and its kind answer, in the order of the keys, or the first error.
    Values,
    /// This line of memcached's, whatever the replies are.
    Told(&'static [u8]),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// In the order of their first keys.
    pub parts: Vec<Part>,
    /// Of all parts.
    pub gather: Gather,
    /// The client wants no reply.
    pub is_silent: bool,
    /// As [`crate::Forward::is_read`].
    pub is_read: bool,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Another node, by its place in the topology; `None`: it is run here.
    pub place: Option<u16>,
    /// As [`crate::Forward::age_max_ms`].
    pub age_max_ms: Option<u64>,
}

impl Way {
    /// To the owner of a key.
    pub(crate) const fn to(place: Option<u16>) -> Self {
        Self { place, age_max_ms: None }
    }
}

/// What one node is to do of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it is run.
    pub way: Way,
    /// Of its first key.
    pub slot: Slot,
    /// As a client would send it.
    pub request: Vec<u8>,
    /// Where its keys stand among all.
    pub keys: Vec<u32>,
    /// As [`crate::Forward::touched`].
    pub touched: Touched,
    /// The reply, where copies have given it: then it goes nowhere.
    pub answer: Option<Vec<u8>>,
}

impl Gather {
    /// Of a command whose keys have nothing to do with each other.
    pub(crate) fn of(spec: &Spec) -> Option<Self> {
        let kinds = [
            (Flags::SUMMED, Self::Sum),
            (Flags::ALL_OK, Self::All),
            (Flags::LISTED, Self::List),
            (Flags::LISTED_WITH_ERRORS, Self::ListWithErrors),
        ];
        kinds.into_iter().find_map(|(flag, gather)| spec.flags.has(flag).then_some(gather))
    }
}

impl Split {
    /// The parts of a request; `None` if it is not whole, as an `MSET` without its last value is not.
    pub(crate) fn of(
        spec: &Spec,
        request: Request<'_>,
        gather: Gather,
        way_to: impl Fn(Slot, &[u8]) -> Way,
    ) -> Option<Self> {
        let step = if let Keys::Range { step, .. } = spec.keys { step as usize } else { 1 };
        let places = || table::key_positions(spec.keys, request.len(), |index| request.arg(index));
        let (first, last) = (places().next()?, places().next_back()?);
        let behind = last + step;
        if behind > request.len() {
            return None;
        }
        let mut parts: Vec<Part> = Vec::new();
        for (key, place) in places().enumerate() {
            let slot = Slot::of_key(request.arg(place));
            part_of(&mut parts, way_to(slot, request.arg(place)), slot, &[]).keys.push(key as u32);
        }
        for part in &mut parts {
            let mut out = Reply::new(RespVersion::V2);
            out.array(first + part.keys.len() * step + request.len() - behind);
            (0..first).for_each(|index| out.bulk(request.arg(index)));
            for key in &part.keys {
                let place = first + *key as usize * step;
                (place..place + step).for_each(|index| out.bulk(request.arg(index)));
            }
            (behind..request.len()).for_each(|index| out.bulk(request.arg(index)));
            part.request = std::mem::take(out.buffer_mut());
        }
        let is_read = redirect::kind_of(spec) == Kind::Read;
        Some(Self { parts, gather, is_silent: false, is_read })
    }

    /// Notes that each part may change its keys, which `key_at` gives by their number.
    pub(crate) fn touch<K: AsRef<[u8]>>(&mut self, key_at: impl Fn(usize) -> K) {
        for part in &mut self.parts {
            part.touched = Touched::of_keys(part.keys.iter().map(|key| key_at(*key as usize)));
        }
    }
}

/// The part of a key of this slot that goes this way; a new one begins with `head`.
pub(crate) fn part_of<'p>(parts: &'p mut Vec<Part>, way: Way, slot: Slot, head: &[u8]) -> &'p mut Part {
    let at = parts.iter().position(|part| part.way == way).unwrap_or_else(|| {
        let request = head.to_vec();
        parts.push(Part { way, slot, request, keys: Vec::new(), touched: Touched::NOTHING, answer: None });
        parts.len() - 1
    });
    &mut parts[at]
}

#[cfg(test)]
mod tests {
    use crate::client::Routing;
    use crate::context::Outcome;
    use crate::testing::{MEMBERS, Node};

    /// Keys of each node, this one's first.
    fn keys(node: &Node) -> [Vec<String>; 3] {
        let member = node.host.member.as_ref().expect("there are nodes");
        let key_of = |place: usize| {
            let is_its = |key: &String| {
                member.topology().place_of_owner(leasehold_cluster::Slot::of_key(key.as_bytes())) == place
            };
            (0..).map(|number| format!("k{number}")).filter(is_its).take(3).collect::<Vec<_>>()
        };
        let own = member.place().index();
        [own, (own + 1) % 3, (own + 2) % 3].map(key_of)
    }

    /// The places and requests of the parts of a line, as text, and where the keys of each stood.
    fn parts(node: &mut Node, line: &str) -> Vec<(Option<u16>, String, Vec<u32>)> {
        assert_eq!(node.run(line), "");
        let Outcome::Split(split) = &node.outcome else { panic!("{line} is not split: {:?}", node.outcome) };
        let text = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).into_owned();
            text.lines().skip(2).step_by(2).collect::<Vec<_>>().join(" ")
        };
        split.parts.iter().map(|part| (part.way.place, text(&part.request), part.keys.clone())).collect()
    }

    #[test]
    fn each_node_gets_its_keys_with_what_stands_around_them() {
        for name in MEMBERS {
            let mut node = Node::among_others(name);
            node.client.routing = Routing::Forward;
            let own = node.host.member.as_ref().expect("there are nodes").place().index() as u16;
            let [here, one, two] = keys(&node);
            let (first, second) = (Some((own + 1) % 3), Some((own + 2) % 3));
            assert_eq!(
                parts(&mut node, &format!("MGET {} {} {} {} {}", one[0], here[0], two[0], one[1], one[0])),
                [
                    (first, format!("MGET {} {} {}", one[0], one[1], one[0]), vec![0, 3, 4]),
                    (None, format!("MGET {}", here[0]), vec![1]),
                    (second, format!("MGET {}", two[0]), vec![2]),
                ]
            );
            assert_eq!(
                parts(&mut node, &format!("MSET {} 1 {} 2 {} 3", here[0], one[0], here[1])),
                [
                    (None, format!("MSET {} 1 {} 3", here[0], here[1]), vec![0, 2]),
                    (first, format!("MSET {} 2", one[0]), vec![1]),
                ]
            );
            assert_eq!(
                parts(&mut node, &format!("INVAL {} {} STALE 5 VER 7", two[0], one[0])),
                [
                    (second, format!("INVAL {} STALE 5 VER 7", two[0]), vec![0]),
                    (first, format!("INVAL {} STALE 5 VER 7", one[0]), vec![1]),
                ]
            );
            for command in ["DEL", "UNLINK", "EXISTS", "TOUCH", "MLOADTHROUGH"] {
                assert_eq!(parts(&mut node, &format!("{command} {} {}", one[0], two[0])).len(), 2, "{command}");
            }
        }
    }

    #[test]
    fn what_one_node_has_goes_there_whole_whatever_the_slots() {
        let mut node = Node::among_others(MEMBERS[0]);
        node.client.routing = Routing::Auto;
        let [here, one, _] = keys(&node);
        node.run(&format!("MGET {} {}", one[0], one[1]));
        assert!(matches!(node.outcome, Outcome::Forward(forward) if forward.place == 1), "{:?}", node.outcome);
        assert_eq!(node.run(&format!("MSET {} 1 {} 2", here[0], here[1])), "+OK\r\n");
        assert_eq!(node.run(&format!("EXISTS {} {} {}", here[0], here[1], here[0])), ":3\r\n");
        // So does a part that another node has made.
        node.client.routing = Routing::Link;
        assert_eq!(node.run(&format!("DEL {} {}", here[0], here[1])), ":2\r\n");
        assert!(node.run(&format!("DEL {} {}", here[0], one[0])).starts_with("-MOVED "));
    }

    #[test]
    fn what_must_be_one_step_is_not_split_and_a_mistake_is_told_here() {
        let mut node = Node::among_others(MEMBERS[0]);
        node.client.routing = Routing::Forward;
        let [here, one, two] = keys(&node);
        let (a, b) = (&one[0], &two[0]);
        for line in [
            format!("MSETNX {a} 1 {b} 2"),
            format!("MSETEX 2 {a} 1 {b} 2"),
            format!("RENAME {a} {b}"),
            format!("COPY {a} {b}"),
            format!("BITOP AND {a} {b}"),
            format!("LCS {a} {b}"),
        ] {
            let reply = node.run(&line);
            assert!(reply.starts_with("-CROSSSLOT "), "{line}: {reply}");
        }
        let reply = node.run(&format!("MSET {} 1 {}", here[0], one[0]));
        assert_eq!(reply, "-ERR wrong number of arguments for 'mset' command\r\n");
        node.run("CLIENT REPLY OFF");
        assert_eq!(node.run(&format!("DEL {} {}", here[0], one[0])), "");
        assert!(matches!(&node.outcome, Outcome::Split(split) if split.is_silent), "{:?}", node.outcome);
    }
}
