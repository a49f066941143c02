//! The replies of the parts of one command, until all are there and become one.

use super::reply::Elements;
use leasehold_command::{Gather, Part, ReplyError};
use std::io::Write as _;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gathering {
    gather: Gather,
    parts: Vec<Gathered>,
    unanswered: usize,
    /// The longest reply.
    bytes_max: usize,
}

#[derive(Debug)]
struct Gathered {
    /// Where its keys stand among all.
    keys: Vec<u32>,
    reply: Option<Vec<u8>>,
}

/// A node of this version does not answer so.
const STRANGE: &str = "ERR another node's part of the reply cannot be read";

impl Gathering {
    /// Of a command in these parts, whose reply may have `bytes_max` bytes.
    pub(crate) fn new(gather: Gather, parts: &mut [Part], bytes_max: usize) -> Self {
        let gathered = |part: &mut Part| Gathered { keys: std::mem::take(&mut part.keys), reply: None };
        Self { gather, unanswered: parts.len(), parts: parts.iter_mut().map(gathered).collect(), bytes_max }
    }

    /// How many parts there are.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of the replies that are there.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().filter_map(|part| part.reply.as_ref()).map(Vec::len).sum()
    }

    /// Takes the reply of a part; all of them as one, if that was the last.
    pub(crate) fn take(&mut self, part: u16, reply: &[u8]) -> Option<Vec<u8>> {
        let place = &mut self.parts[usize::from(part)].reply;
        debug_assert!(place.is_none(), "a part is answered once");
        *place = Some(reply.to_vec());
        self.unanswered -= 1;
        (self.unanswered == 0).then(|| self.gathered())
    }

    fn gathered(&self) -> Vec<u8> {
        let replies = || self.parts.iter().map(|part| (part, part.reply.as_deref().unwrap_or_default()));
        let total: usize = replies().map(|(_, reply)| reply.len()).sum();
        let mut out = Vec::new();
        let error = replies().map(|(_, reply)| reply).find(|reply| reply.first() == Some(&b'-'));
        match (self.gather, error) {
            (Gather::Sum | Gather::All | Gather::List, Some(error)) => error.to_vec(),
            (Gather::Sum, None) => match replies().map(|(_, reply)| integer(reply)).sum::<Option<i64>>() {
                Some(sum) => format!(":{sum}\r\n").into_bytes(),
                None => error_of(STRANGE),
            },
            (Gather::All, None) if replies().all(|(_, reply)| reply == b"+OK\r\n") => b"+OK\r\n".to_vec(),
            (Gather::All, None) => error_of(STRANGE),
            (Gather::List | Gather::ListWithErrors, _) if total > self.bytes_max => {
                error_of(&ReplyError::ReplyTooLong.to_string())
            }
            (Gather::List | Gather::ListWithErrors, _) => match self.elements() {
                Some(elements) => {
                    out.reserve(total + 16);
                    write!(out, "*{}\r\n", elements.len()).expect("a Vec takes every write");
                    elements.iter().for_each(|element| out.extend_from_slice(element));
                    out
                }
                None => error_of(STRANGE),
            },
        }
    }

    /// The elements of all parts, in the order of the keys.
    fn elements(&self) -> Option<Vec<&[u8]>> {
        let mut elements: Vec<&[u8]> = vec![&[]; self.parts.iter().map(|part| part.keys.len()).sum()];
        for Gathered { keys, reply } in &self.parts {
            let reply = reply.as_deref()?;
            if reply.first() == Some(&b'-') {
                keys.iter().for_each(|key| elements[*key as usize] = reply);
                continue;
            }
            let head = format!("*{}\r\n", keys.len());
            let mut own = Elements::new(reply.strip_prefix(head.as_bytes())?);
            for key in keys {
                elements[*key as usize] = own.next()?;
            }
        }
        Some(elements)
    }
}

fn integer(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?).ok()?.parse().ok()
}

fn error_of(text: &str) -> Vec<u8> {
    format!("-{text}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_cluster::Slot;
    use leasehold_protocol::{Reply, RespVersion};
    use proptest::prelude::*;

    /// A gathering of parts with these keys.
    fn gathering(gather: Gather, keys: &[Vec<u32>]) -> Gathering {
        let slot = Slot::of_key(b"k");
        let part = |keys: &Vec<u32>| Part { place: None, slot, request: Vec::new(), keys: keys.clone() };
        Gathering::new(gather, &mut keys.iter().map(part).collect::<Vec<_>>(), 10_000)
    }

    /// What replies come to, the last part answered first.
    fn gather(gather: Gather, keys: &[Vec<u32>], replies: &[&str]) -> String {
        let mut gathering = gathering(gather, keys);
        let mut parts: Vec<_> = replies.iter().enumerate().rev().collect();
        let (last, reply) = parts.pop().expect("there are parts");
        for (part, reply) in parts {
            assert_eq!(gathering.take(part as u16, reply.as_bytes()), None);
        }
        let bytes = gathering.take(last as u16, reply.as_bytes()).expect("it was the last");
        String::from_utf8(bytes).expect("texts are gathered")
    }

    proptest! {
        #[test]
        fn a_list_is_what_one_node_would_have_answered(
            values in prop::collection::vec((0_usize..4, prop::option::of(prop::collection::vec(any::<u8>(), 0..20))), 1..30),
            order in any::<prop::sample::Index>(),
        ) {
            let write = |values: &[&Option<Vec<u8>>]| {
                let mut reply = Reply::new(RespVersion::V2);
                reply.array(values.len());
                for value in values {
                    match value {
                        Some(bytes) => reply.bulk(bytes),
                        None => reply.null(),
                    }
                }
                reply.as_bytes().to_vec()
            };
            let mut keys: Vec<Vec<u32>> = vec![Vec::new(); 4];
            for (key, (part, _)) in values.iter().enumerate() {
                keys[*part].push(key as u32);
            }
            keys.retain(|keys| !keys.is_empty());
            let mut gathering = gathering(Gather::List, &keys);
            let first = order.index(keys.len());
            let mut whole = None;
            for part in (0..keys.len()).map(|part| (part + first) % keys.len()) {
                prop_assert!(whole.is_none());
                let own: Vec<_> = keys[part].iter().map(|key| &values[*key as usize].1).collect();
                whole = gathering.take(part as u16, &write(&own));
            }
            prop_assert_eq!(whole, Some(write(&values.iter().map(|(_, value)| value).collect::<Vec<_>>())));
        }
    }

    #[test]
    fn numbers_are_added_and_oks_are_one() {
        let keys = [vec![0, 2], vec![1]];
        assert_eq!(gather(Gather::Sum, &keys, &[":2\r\n", ":1\r\n"]), ":3\r\n");
        assert_eq!(gather(Gather::All, &keys, &["+OK\r\n", "+OK\r\n"]), "+OK\r\n");
    }

    #[test]
    fn the_first_error_is_the_reply_except_where_each_key_has_its_own() {
        let keys = [vec![0, 2], vec![1], vec![3]];
        let (one, two) = ("-OOM one\r\n", "-CLUSTERDOWN two\r\n");
        for (kind, good) in [(Gather::Sum, ":2\r\n"), (Gather::All, "+OK\r\n"), (Gather::List, "*2\r\n:1\r\n:2\r\n")] {
            assert_eq!(gather(kind, &keys, &[good, one, two]), one);
        }
        let list = gather(Gather::ListWithErrors, &keys, &[one, "*1\r\n$1\r\na\r\n", "*1\r\n-LOADFAIL x\r\n"]);
        assert_eq!(list, format!("*4\r\n{one}$1\r\na\r\n{one}-LOADFAIL x\r\n"));
    }

    #[test]
    fn what_no_node_answers_and_what_is_too_long_is_an_error() {
        let keys = [vec![0], vec![1]];
        for (kind, good, bad) in [
            (Gather::Sum, ":1\r\n", "+OK\r\n"),
            (Gather::All, "+OK\r\n", ":1\r\n"),
            (Gather::List, "*1\r\n$-1\r\n", "*2\r\n$-1\r\n$-1\r\n"),
            (Gather::List, "*1\r\n$-1\r\n", "*1\r\n$5\r\nab\r\n"),
        ] {
            assert_eq!(gather(kind, &keys, &[good, bad]), format!("-{STRANGE}\r\n"), "{kind:?}");
        }
        let long = format!("*1\r\n$9990\r\n{}\r\n", "x".repeat(9_990));
        let reply = gather(Gather::List, &keys, &[&long, &long]);
        assert_eq!(reply, "-ERR reply exceeds maximum allowed size (client-output-buffer-limit)\r\n");
    }
}
