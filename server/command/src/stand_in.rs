//! Reads of keys whose node does not answer, as a stand-in executes them: with what it has loaded lately, or loads.
//!
//! All that a stand-in has of such a key is a load's. It is loaded once for all who ask, as any key is, and lives for `gutter-ttl` at most. Whoever asks says
//! how old it may be, because what was deleted through that node since must not be seen there again.

use crate::context::{Context, Outcome};
use crate::memcached;
use crate::redirect::kind_of;
use crate::table;
use leasehold_cluster::Kind;
use leasehold_protocol::{Limits, Parsed, Parser, Request, memcached as text};

/// How old an answer may be, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// It was loaded less than so long ago.
    pub age_max_ms: u64,
    /// What this node loads for others lives for so long.
    pub ttl_max_ms: u64,
}

/// A change of such a key may wait in the journal of its node: then the source has an older value.
const IN_JOURNAL: &str = "CLUSTERDOWN the node of this key may have changes of it that its source does not have";

/// Only reads are sent to a stand-in by nodes of this version.
const NO_READ: &str = "CLUSTERDOWN a node that stands in for another one is only read from";

/// Executes a request for a node that does not answer; its keys are not this node's.
pub fn execute_for_another(context: &mut Context<'_>, request: Request<'_>, terms: Terms) -> Outcome {
    if let Ok((_, spec)) = table::find(request) {
        if kind_of(spec) != Kind::Read || table::keys_of(spec, request).next().is_none() {
            context.reply.error(&NO_READ);
            return Outcome::Replied;
        }
        for key in table::keys_of(spec, request) {
            if !prepare(context, key, terms) {
                context.reply.error(&IN_JOURNAL);
                return Outcome::Replied;
            }
        }
    }
    crate::execute(context, request)
}

/// As [`execute_for_another`], of a request in memcached's words.
pub fn execute_text_for_another(context: &mut Context<'_>, request: text::Request<'_>, terms: Terms) -> Outcome {
    if let Some((_, verb)) = request.word(0).and_then(memcached::find) {
        let refusal =
            if memcached::kind_of(verb, request) != Kind::Read || memcached::keys(verb, request).next().is_none() {
                Some(NO_READ)
            } else if memcached::keys(verb, request).all(|key| prepare(context, &key, terms)) {
                None
            } else {
                Some(IN_JOURNAL)
            };
        if let Some(refusal) = refusal {
            context.reply.buffer_mut().extend_from_slice(
                format!("SERVER_ERROR {}\r\n", refusal.trim_start_matches("CLUSTERDOWN ")).as_bytes(),
            );
            return Outcome::Replied;
        }
    }
    memcached::execute(context, request)
}

/// The keys of a whole request; `None`: it is not whole, or no command.
#[must_use]
pub fn keys_of_request(bytes: &[u8], limits: &Limits) -> Option<Vec<Vec<u8>>> {
    let mut parser = Parser::new();
    let Ok(Parsed::Complete { .. }) = parser.parse(bytes, limits) else { return None };
    let request = parser.request(bytes);
    let (_, spec) = table::find(request).ok()?;
    Some(table::keys_of(spec, request).map(<[u8]>::to_vec).collect())
}

/// As [`keys_of_request`], of a request in memcached's words.
#[must_use]
pub fn keys_of_text(bytes: &[u8], limits: &text::Limits) -> Option<Vec<Vec<u8>>> {
    let mut parser = text::Parser::new();
    let Ok(Parsed::Complete { .. }) = parser.parse(bytes, limits) else { return None };
    let request = parser.request(bytes);
    let (_, verb) = memcached::find(request.word(0)?)?;
    Some(memcached::keys(verb, request).map(std::borrow::Cow::into_owned).collect())
}

/// Has nothing answer for a key that is too old; whether the source is the last word on it.
fn prepare(context: &mut Context<'_>, key: &[u8], Terms { age_max_ms, ttl_max_ms }: Terms) -> bool {
    let (db, now_ms) = (context.client.db, context.turn.now_ms);
    if context.host.writes_behind(db, key) {
        return false;
    }
    let born_from_ms = now_ms.saturating_sub(age_max_ms);
    context.keyspace.require_younger(context.turn, db, key, born_from_ms, born_from_ms.saturating_add(ttl_max_ms));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Routing;
    use crate::testing::{MEMBERS, Node, parse};
    use leasehold_cluster::Slot;
    use leasehold_protocol::Reply;

    const TERMS: Terms = Terms { age_max_ms: 1_000, ttl_max_ms: 10_000 };

    /// A node that is asked for another one, and a key of that.
    fn asked() -> (Node, String) {
        let mut node = Node::among_others(MEMBERS[0]);
        node.client.routing = Routing::StandIn;
        let member = node.host.member.clone().expect("there are nodes");
        let key = (0..).map(|number| format!("k{number}")).find(|key| !member.owns_key(key.as_bytes()));
        (node, key.expect("others have slots"))
    }

    fn ask(node: &mut Node, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (parser, input) = parse(&words);
        let mut reply = Reply::new(node.version);
        execute_for_another(&mut node.context(&mut reply), parser.request(&input), TERMS);
        String::from_utf8_lossy(reply.as_bytes()).into_owned()
    }

    #[test]
    fn a_stand_in_only_reads_and_only_what_it_has_loaded() {
        let (mut node, key) = asked();
        assert_eq!(ask(&mut node, &format!("GET {key}")), "$-1\r\n");
        for line in ["SET KEY v", "DEL KEY", "GETL KEY", "SETL KEY 5 v", "INCR KEY", "EXPIRE KEY 5"] {
            let answer = ask(&mut node, &line.replace("KEY", &key));
            assert!(answer.starts_with("-CLUSTERDOWN a node that stands in "), "{line}: {answer}");
        }
        // What was written here when the key was this node's has no birth.
        assert_eq!(node.run(&format!("SET {key} v")), "+OK\r\n");
        assert_eq!(ask(&mut node, &format!("GET {key}")), "$-1\r\n");
        assert_eq!(ask(&mut node, &format!("GET {key} x")), "-ERR wrong number of arguments for 'get' command\r\n");
    }

    #[test]
    fn keys_are_found_in_whole_requests_of_both_protocols() {
        let request = b"*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$2\r\nbc\r\n";
        assert_eq!(keys_of_request(request, &Limits::DEFAULT), Some(vec![b"a".to_vec(), b"bc".to_vec()]));
        assert_eq!(keys_of_request(&request[..20], &Limits::DEFAULT), None);
        assert_eq!(keys_of_request(b"*1\r\n$4\r\nNONE\r\n", &Limits::DEFAULT), None);
        let text = |request: &[u8]| keys_of_text(request, &text::Limits::DEFAULT);
        assert_eq!(text(b"gets a bc\r\n"), Some(vec![b"a".to_vec(), b"bc".to_vec()]));
        assert_eq!(text(b"mg azA= b v\r\n"), Some(vec![b"k0".to_vec()]));
        assert_eq!(text(b"get a"), None);
        assert_eq!(Slot::of_key(b"k0"), Slot::of_key(&text(b"mg azA= b v\r\n").expect("it is whole")[0]));
    }

    #[test]
    fn what_memcached_reads_is_told_from_what_it_changes() {
        for (request, is_read) in [
            ("get a\r\n", true),
            ("gets a b\r\n", true),
            ("gat 10 a\r\n", false),
            ("mg a v t c\r\n", true),
            ("mg a v N30\r\n", false),
            ("mg a R5 v\r\n", false),
            ("mg a T10 v\r\n", false),
            ("md a\r\n", false),
            ("lease-get a\r\n", false),
        ] {
            let mut parser = text::Parser::new();
            assert!(matches!(parser.parse(request.as_bytes(), &text::Limits::DEFAULT), Ok(Parsed::Complete { .. })));
            let request_ = parser.request(request.as_bytes());
            let (_, verb) = memcached::find(request_.word(0).expect("it has one")).expect("it is a verb");
            assert_eq!(memcached::kind_of(verb, request_) == Kind::Read, is_read, "{request}");
        }
    }
}
