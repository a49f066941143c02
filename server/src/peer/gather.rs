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
    /// Of [`Gather::Values`], which answers only the keys that it finds.
    request: Vec<u8>,
    reply: Option<Vec<u8>>,
}

/// The end of what memcached's `get` answers.
const END: &[u8] = b"END\r\n";

/// A node of this version does not answer so.
const STRANGE: &str = "ERR another node's part of the reply cannot be read";

impl Gathering {
    /// Of a command in these parts, whose reply may have `bytes_max` bytes.
    pub(crate) fn new(gather: Gather, parts: &mut [Part], bytes_max: usize) -> Self {
        let gathered = |part: &mut Part| Gathered {
            keys: std::mem::take(&mut part.keys),
            request: if gather == Gather::Values { part.request.clone() } else { Vec::new() },
            reply: None,
        };
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
            (Gather::Told(line), _) => [line, b"\r\n"].concat(),
            (Gather::Values, _) if total > self.bytes_max => {
                b"SERVER_ERROR out of memory writing get response\r\n".to_vec()
            }
            (Gather::Values, _) => {
                let is_error =
                    |reply: &[u8]| ![&b"VALUE "[..], b"LVALUE ", END].iter().any(|start| reply.starts_with(start));
                match replies().map(|(_, reply)| reply).find(|reply| is_error(reply)) {
                    Some(error) => error.to_vec(),
                    None => self.values().unwrap_or_else(|| format!("SERVER_{STRANGE}\r\n").into_bytes()),
                }
            }
        }
    }

    /// The values of all parts, in the order of the keys, and `END`.
    fn values(&self) -> Option<Vec<u8>> {
        let mut values: Vec<&[u8]> = vec![&[]; self.parts.iter().map(|part| part.keys.len()).sum()];
        for Gathered { keys, request, reply } in &self.parts {
            let mut rest = reply.as_deref()?;
            let words = request.strip_suffix(b"\r\n")?.split(|byte| *byte == b' ').collect::<Vec<_>>();
            let names = words.get(words.len().checked_sub(keys.len())?..)?;
            for (key, name) in keys.iter().zip(names) {
                let Some((_, value)) = value_at(rest).filter(|(own, _)| own == name) else { continue };
                values[*key as usize] = value;
                rest = &rest[value.len()..];
            }
            if rest != END {
                return None;
            }
        }
        values.push(END);
        Some(values.concat())
    }

    /// The elements of all parts, in the order of the keys.
    fn elements(&self) -> Option<Vec<&[u8]>> {
        let mut elements: Vec<&[u8]> = vec![&[]; self.parts.iter().map(|part| part.keys.len()).sum()];
        for Gathered { keys, reply, .. } in &self.parts {
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

/// The key, and all of it, of the value at the front of what memcached's `get` or `lease-get` has answered.
fn value_at(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = bytes.windows(2).position(|end| end == b"\r\n")?;
    let mut words = bytes[..line].split(|byte| *byte == b' ');
    // Between key and length stand the flags, and the token of a lease.
    let between = if words.next()? == b"LVALUE" { 2 } else { 1 };
    let (key, len) = (words.next()?, words.nth(between)?);
    let len: usize = std::str::from_utf8(len).ok()?.parse().ok()?;
    Some((key, bytes.get(..line.checked_add(len)?.checked_add(4)?)?))
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
    use leasehold_command::Way;
    use leasehold_protocol::{Reply, RespVersion};
    use proptest::prelude::*;

    /// A gathering of parts with these keys.
    fn gathering(gather: Gather, keys: &[Vec<u32>]) -> Gathering {
        let slot = Slot::of_key(b"k");
        let part = |keys: &Vec<u32>| Part {
            way: Way { place: None, age_max_ms: None },
            slot,
            request: Vec::new(),
            keys: keys.clone(),
            touched: leasehold_cluster::Touched::NOTHING,
            answer: None,
        };
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
    fn values_of_memcached_come_in_the_order_of_the_keys() {
        let slot = Slot::of_key(b"k");
        let part = |request: &str, keys: &[u32]| Part {
            way: Way { place: None, age_max_ms: None },
            slot,
            request: request.as_bytes().to_vec(),
            keys: keys.to_vec(),
            touched: leasehold_cluster::Touched::NOTHING,
            answer: None,
        };
        let gather = |replies: [&str; 2]| {
            let parts = &mut [part("gat 100 a c a\r\n", &[0, 2, 4]), part("gat 100 b d\r\n", &[1, 3])];
            let mut gathering = Gathering::new(Gather::Values, parts, 1_000);
            assert_eq!(gathering.take(1, replies[1].as_bytes()), None);
            String::from_utf8(gathering.take(0, replies[0].as_bytes()).expect("it is the last")).expect("it is a text")
        };
        let value = |key: &str, data: &str| format!("VALUE {key} 7 {}\r\n{data}\r\n", data.len());
        let (a, b, c, d) = (value("a", "\r\nEND\r\n"), value("b", "two"), value("c", ""), value("d", "VALUE b 0 1"));
        let (one, two) = (format!("{a}{c}{a}END\r\n"), format!("{b}{d}END\r\n"));
        assert_eq!(gather([&one, &two]), format!("{a}{b}{c}{d}{a}END\r\n"));
        assert_eq!(gather([&format!("{a}{a}END\r\n"), &format!("{d}END\r\n")]), format!("{a}{d}{a}END\r\n"));
        assert_eq!(gather(["END\r\n", "END\r\n"]), "END\r\n");
        assert_eq!(
            gather([&one, "SERVER_ERROR node b does not answer\r\n"]),
            "SERVER_ERROR node b does not answer\r\n"
        );
        assert_eq!(
            gather([&format!("{b}END\r\n"), &two]),
            format!("SERVER_{STRANGE}\r\n"),
            "a key that was not asked for"
        );
        let long = "x".repeat(1_000);
        assert_eq!(
            gather([&format!("{}END\r\n", value("a", &long)), &two]),
            "SERVER_ERROR out of memory writing get response\r\n"
        );
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
