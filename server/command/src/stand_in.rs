//! Reads of keys whose node does not answer, as a stand-in executes them: with what it has loaded lately, or loads.
//!
//! All that a stand-in has of such a key is a load's. It is loaded once for all who ask, as any key is, and lives for `gutter-ttl` at most. Whoever asks says
//! how old it may be, because what was deleted through that node since must not be seen there again.

use crate::context::{Context, Outcome};
use crate::memcached;
use crate::redirect::{is_own, kind_of};
use crate::table;
use leasehold_cluster::Kind;
use leasehold_protocol::{
    Limits, Parsed, Parser, Request,
    memcached::{self as text, reply},
};

/// A change of such a key may wait in the journal of its node: then the source has an older value.
const IN_JOURNAL: &str = "CLUSTERDOWN the node of this key may have changes of it that its source does not have";

/// What is nobody's row has one place, and that does not answer.
const NO_LOADER: &str = "CLUSTERDOWN the node of this key does not answer, and no loader has it";

/// Nobody may have this node forget its own.
const OWN_KEY: &str = "CLUSTERDOWN nobody stands in for the node that is asked";

/// Only reads are sent to a stand-in by nodes of this version.
const NO_READ: &str = "CLUSTERDOWN a node that stands in for another one is only read from";

/// Executes a request for a node that does not answer, with answers that were loaded less than `age_max_ms` ago.
pub fn execute_for_another(context: &mut Context<'_>, request: Request<'_>, age_max_ms: u64) -> Outcome {
    if let Ok((_, spec)) = table::find(request) {
        let names_loader = !matches!(spec.name, "get" | "mget");
        let is_read = kind_of(spec) == Kind::Read && table::keys_of(spec, request).next().is_some();
        let mut keys = table::keys_of(spec, request);
        let prepared = match is_read {
            true => keys.try_for_each(|key| prepare(context, key, names_loader, age_max_ms)),
            false => Err(NO_READ),
        };
        if let Err(refusal) = prepared {
            context.reply.error(&refusal);
            return Outcome::Replied;
        }
    }
    crate::execute(context, request)
}

/// As [`execute_for_another`], of a request in memcached's words.
pub fn execute_text_for_another(context: &mut Context<'_>, request: text::Request<'_>, age_max_ms: u64) -> Outcome {
    if let Some((_, verb)) = request.word(0).and_then(memcached::find) {
        let is_read =
            memcached::kind_of(verb, request) == Kind::Read && memcached::keys(verb, request).next().is_some();
        let prepared = match is_read {
            true => memcached::keys(verb, request).try_for_each(|key| prepare(context, &key, false, age_max_ms)),
            false => Err(NO_READ),
        };
        if let Err(refusal) = prepared {
            let text = refusal.trim_start_matches("CLUSTERDOWN ");
            reply::error(context.reply.buffer_mut(), "SERVER_ERROR", text);
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

/// Has nothing answer for a key that is too old.
///
/// # Errors
/// Why what would be loaded is not the last word on the key.
fn prepare(context: &mut Context<'_>, key: &[u8], names_loader: bool, age_max_ms: u64) -> Result<(), &'static str> {
    let (db, now_ms) = (context.client.db, context.turn.now_ms);
    if is_own(context, key) {
        return Err(OWN_KEY);
    }
    if context.host.writes_behind(db, key) {
        return Err(IN_JOURNAL);
    }
    if context.host.loader_for(db, key).is_none_or(|policy| !policy.transparent && !names_loader) {
        return Err(NO_LOADER);
    }
    context.keyspace.require_younger(context.turn, db, key, now_ms.saturating_sub(age_max_ms));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Routing;
    use crate::testing::{MEMBERS, Node, parse};
    use leasehold_cluster::Slot;
    use leasehold_protocol::Reply;

    const AGE_MAX_MS: u64 = 1_000;

    /// A node that is asked for another one, and a key of that.
    fn asked() -> (Node, String) {
        let mut node = Node::among_others(MEMBERS[0]);
        node.host.loader = Node::with_loader().host.loader;
        node.client.routing = Routing::StandIn;
        let member = node.host.member.clone().expect("there are nodes");
        let key = (0..).map(|number| format!("load:{number}")).find(|key| !member.owns_key(key.as_bytes()));
        (node, key.expect("others have slots"))
    }

    fn ask(node: &mut Node, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (parser, input) = parse(&words);
        let mut reply = Reply::new(node.version);
        node.turn.effects.loads.clear();
        let outcome = execute_for_another(&mut node.context(&mut reply), parser.request(&input), AGE_MAX_MS);
        node.outcome = outcome;
        String::from_utf8_lossy(reply.as_bytes()).into_owned()
    }

    #[test]
    fn a_stand_in_only_reads_and_only_what_it_has_loaded() {
        let (mut node, key) = asked();
        assert_eq!(ask(&mut node, &format!("GET {key}")), "");
        assert!(matches!(node.outcome, Outcome::Parked(_)) && node.turn.effects.loads.len() == 1);
        for line in
            ["SET KEY v", "DEL KEY", "GETL KEY", "SETL KEY 5 v", "INCR KEY", "EXPIRE KEY 5", "EXISTS KEY", "TTL KEY"]
        {
            let answer = ask(&mut node, &line.replace("KEY", &key));
            assert!(answer.starts_with("-CLUSTERDOWN a node that stands in "), "{line}: {answer}");
        }
        // What was written here when the key was this node's has no birth.
        assert_eq!(node.run(&format!("SET {key} v")), "+OK\r\n");
        assert_eq!(ask(&mut node, &format!("GET {key}")), "");
        assert!(matches!(node.outcome, Outcome::Parked(_)));
        assert_eq!(ask(&mut node, &format!("GET {key} x")), "-ERR wrong number of arguments for 'get' command\r\n");
    }

    #[test]
    fn nobody_stands_in_for_what_no_loader_has_or_for_itself() {
        let (mut node, key) = asked();
        let plain = key.strip_prefix("load:").expect("a loader has it");
        let is_own =
            |node: &Node, key: &str| node.host.member.as_ref().is_some_and(|member| member.owns_key(key.as_bytes()));
        let plain =
            (0..).map(|number| format!("{plain}{number}")).find(|key| !is_own(&node, key)).expect("others have slots");
        assert!(
            ask(&mut node, &format!("GET {plain}")).starts_with("-CLUSTERDOWN the node of this key does not answer")
        );
        let own = (0..).map(|number| format!("load:{number}")).find(|key| is_own(&node, key)).expect("it has slots");
        assert_eq!(node.run(&format!("SET {own} v")), "+OK\r\n");
        assert!(ask(&mut node, &format!("GET {own}")).starts_with("-CLUSTERDOWN nobody stands in"));
        assert_eq!(node.run(&format!("GET {own}")), "$1\r\nv\r\n");
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
