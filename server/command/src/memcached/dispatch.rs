//! One request from its first word to its outcome: look up, admit, run.

use super::{buffer, meta, routing, table, writing};
use crate::client::Routing;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::spec::Flags;
use leasehold_protocol::memcached::{Fault, Request, reply};

/// No such verb.
pub(super) const ERROR: &[u8] = b"ERROR";

/// A key or a number that cannot be one, or fewer words than the verb needs.
pub(super) const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format";

/// The entry is longer than `item-size-max`.
pub(super) const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache";

/// Executes one request.
#[inline]
pub fn execute(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if !context.client.authenticated {
        return authenticate(context, request);
    }
    let Some((index, verb)) = request.word(0).and_then(table::find) else { return unknown(context, request) };
    context.client.last_command = Some(index);
    if request.len() < verb.words_min {
        return answer(context, BAD_FORMAT);
    }
    let start = context.reply.len();
    let is_silent = verb.is_silent(request) && request.fault() != Some(Fault::Unreadable);
    let mut outcome = admit_and_run(context, verb, request);
    if is_silent {
        context.reply.truncate(start);
        match &mut outcome {
            Outcome::Forward(forward) => forward.is_silent = true,
            Outcome::Split(split) => split.is_silent = true,
            _ => {}
        }
    }
    outcome
}

#[inline]
fn admit_and_run(context: &mut Context<'_>, verb: &table::Verb, request: Request<'_>) -> Outcome {
    if context.client.routing != Routing::Alone
        && let Some(outcome) = routing::send_on(context, verb, request)
    {
        return outcome;
    }
    if let Some(fault) = request.fault() {
        return refuse(context, verb, request, fault);
    }
    if verb.flags.has(Flags::WRITE)
        && context.host.writes_to_sources()
        && let Some(outcome) = writing::intercept(context, verb, request)
    {
        return outcome;
    }
    if verb.flags.has(Flags::DENYOOM) && context.keyspace.make_room(context.turn, request.bytes_total()).is_err() {
        return refuse_for_memory(context, verb, request);
    }
    (verb.run)(context, request)
}

/// The first `set` of a client that must authenticate: its data is `user password`. Nothing else is run before.
#[cold]
fn authenticate(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if request.fault() == Some(Fault::Skipped) {
        return Outcome::Replied;
    }
    context.client.last_command = None;
    if request.word(0) == Some(b"quit") {
        return Outcome::Close;
    }
    if is_http(request) {
        return Outcome::Close;
    }
    if request.word(0) != Some(b"set") {
        return answer(context, b"CLIENT_ERROR unauthenticated");
    }
    let Some(data) = request.data() else {
        return match request.fault() {
            Some(Fault::DataChunk) => answer(context, b"CLIENT_ERROR bad command line termination"),
            _ => answer(context, b"CLIENT_ERROR unauthenticated"),
        };
    };
    let mut words = data.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let (Some(user), Some(password)) = (words.next(), words.next()) else {
        return answer(context, b"CLIENT_ERROR bad authentication token format");
    };
    context.host.count(Count::AuthCmds, 1);
    if context.host.check_memcached_user(user, password) {
        context.client.authenticated = true;
        return answer(context, b"STORED");
    }
    context.host.count(Count::AuthErrors, 1);
    answer(context, b"CLIENT_ERROR authentication failure")
}

/// A line that names no verb.
#[cold]
fn unknown(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match request.fault() {
        Some(Fault::Skipped) => return Outcome::Replied,
        Some(Fault::Unreadable) => return answer(context, BAD_FORMAT),
        _ => context.client.last_command = None,
    }
    if is_http(request) {
        return Outcome::Close;
    }
    if request.is_noreply() { Outcome::Replied } else { answer(context, ERROR) }
}

/// What a browser can be made to send to us must not run, nor the lines behind it.
fn is_http(request: Request<'_>) -> bool {
    let last = request.len().checked_sub(1).and_then(|last| request.word(last));
    last.is_some_and(|last| last.starts_with(b"HTTP/"))
}

/// What the parser found wrong.
#[cold]
fn refuse(context: &mut Context<'_>, verb: &table::Verb, request: Request<'_>, fault: Fault) -> Outcome {
    match fault {
        // One line for all mistakes of this command.
        Fault::LineFormat if verb.name == "ma" => answer(context, meta::BAD_FLAG),
        Fault::LineFormat | Fault::Unreadable => answer(context, BAD_FORMAT),
        Fault::DataChunk => {
            // memcached counts it before it looks at the end of the data.
            context.host.count(Count::CmdSet, 1);
            answer(context, b"CLIENT_ERROR bad data chunk")
        }
        Fault::TooLarge => {
            context.host.count(Count::StoreTooLarge, 1);
            remove_outdated(context, verb, request);
            answer(context, TOO_LARGE)
        }
        Fault::Skipped => Outcome::Replied,
    }
}

#[cold]
fn refuse_for_memory(context: &mut Context<'_>, verb: &table::Verb, request: Request<'_>) -> Outcome {
    // Not of a number that is to be counted up.
    context.host.count(Count::StoreNoMemory, u64::from(request.data().is_some()));
    remove_outdated(context, verb, request);
    answer(context, b"SERVER_ERROR out of memory storing object")
}

/// After a `set` or `ms` that could not store: who reads on must not find the value that it was to take the place of.
fn remove_outdated(context: &mut Context<'_>, verb: &table::Verb, request: Request<'_>) {
    if verb.name == "ms" {
        return meta::remove_outdated(context, request);
    }
    if verb.name == "set"
        && let Some(key) = request.word(1)
        && context.host.writer_for(context.client.db, key).is_none()
    {
        context.keyspace.update(context.turn, context.client.db, key, |slot| slot.remove());
    }
}

/// Ends a command with a line.
#[inline]
pub(super) fn answer(context: &mut Context<'_>, line: &[u8]) -> Outcome {
    reply::line(buffer(context), line);
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use crate::context::Outcome;
    use crate::testing::Node;

    #[test]
    fn mistakes_are_answered_and_the_next_line_is_a_command() {
        let (format, error) = ("CLIENT_ERROR bad command line format\r\n", "ERROR\r\n");
        let long = "k".repeat(251);
        for (input, reply) in [
            ("\r\n".to_owned(), format.to_owned()),
            ("x\r\n".to_owned(), format.to_owned()),
            ("xy\r\n".to_owned(), error.to_owned()),
            ("xy\n".to_owned(), format.to_owned()),
            ("xy noreply\r\n".to_owned(), String::new()),
            ("GET a\r\n".to_owned(), error.to_owned()),
            (" get a\r\n".to_owned(), error.to_owned()),
            ("get\r\n".to_owned(), format.to_owned()),
            ("touch noreply\r\n".to_owned(), format.to_owned()),
            // Without a length what would be the data is a command, as in memcached.
            ("set a 0 0\r\n".to_owned(), format.to_owned()),
            ("set a 0 0 x\r\n11\r\n".to_owned(), format!("{format}{error}")),
            ("set a 0 0 -1 noreply\r\n11\r\n".to_owned(), format!("{format}{error}")),
            (" set a 0 0 1\r\n11\r\n".to_owned(), format!("{error}{error}")),
            // With one it is passed over.
            ("set a x 0 1\r\n1\r\n".to_owned(), format.to_owned()),
            ("set a 4294967296 0 1\r\n1\r\n".to_owned(), format.to_owned()),
            ("set a 0 x 1 noreply\r\n1\r\n".to_owned(), String::new()),
            ("cas a 0 0 1\r\n1\r\n".to_owned(), format.to_owned()),
            (format!("set {long} 0 0 1\r\n1\r\n"), format.to_owned()),
            (format!("ms {long} 1 T0\r\n1\r\n"), format.to_owned()),
            (format!("get a {long}\r\n"), format.to_owned()),
            (format!("incr {long}\r\n"), format.to_owned()),
            (format!("ma {long}\r\n"), "CLIENT_ERROR invalid or duplicate flag\r\n".to_owned()),
            ("set a 0 0 1\r\n12\r\n".to_owned(), format!("CLIENT_ERROR bad data chunk\r\n{format}")),
            ("set a 0 0 1 noreply\r\n12\r\n".to_owned(), format.to_owned()),
            ("set a 0 0 1 noreply x\r\n1\r\ndelete a 0\r\n".to_owned(), "STORED\r\nDELETED\r\n".to_owned()),
            ("touch a x\r\n".to_owned(), "CLIENT_ERROR invalid exptime argument\r\n".to_owned()),
            ("touch a +1\r\n".to_owned(), "CLIENT_ERROR invalid exptime argument\r\n".to_owned()),
            ("touch a noreply\r\n".to_owned(), String::new()),
        ] {
            let mut node = Node::new();
            let version = format!("VERSION {}\r\n", crate::memcached::VERSION);
            assert_eq!(node.talk(format!("{input}version\r\n")), format!("{reply}{version}"), "{input:?}");
            assert_eq!(node.talk("get a\r\n"), "END\r\n", "{input:?} stores nothing");
        }
    }

    #[test]
    fn who_speaks_http_is_not_served() {
        for is_stranger in [false, true] {
            let mut node = Node::new();
            node.host.memcached_user = is_stranger.then_some(("ann", "secret"));
            node.client.authenticated = !is_stranger;
            assert_eq!(node.talk("POST / HTTP/1.1\r\nset a 0 0 1\r\n1\r\n"), "");
            assert!(matches!(node.outcome, Outcome::Close));
            node.client.authenticated = true;
            assert_eq!(node.talk("get a\r\n"), "END\r\n");
        }
    }

    #[test]
    fn a_client_that_must_authenticate_does_so_with_its_first_set() {
        let mut node = Node::new();
        node.host.memcached_user = Some(("ann", "secret"));
        node.client.authenticated = false;
        for (input, reply) in [
            ("get a\r\n", "CLIENT_ERROR unauthenticated\r\n"),
            ("version\r\n", "CLIENT_ERROR unauthenticated\r\n"),
            ("set x 0 0 3\r\nann\r\n", "CLIENT_ERROR bad authentication token format\r\n"),
            ("set x 0 0 9\r\nann wrong\r\n", "CLIENT_ERROR authentication failure\r\n"),
            ("set x 0 0 10\r\nbob secret\r\n", "CLIENT_ERROR authentication failure\r\n"),
            (
                "set x 0 0 8\r\nann secret\r\n",
                "CLIENT_ERROR bad command line termination\r\nCLIENT_ERROR unauthenticated\r\n",
            ),
            ("set x 0 0 10\r\nann secret\r\n", "STORED\r\n"),
            ("get x\r\n", "END\r\n"),
        ] {
            assert_eq!(node.talk(input), reply, "{input:?}");
        }
        node.client.authenticated = false;
        assert_eq!(node.talk("quit\r\n"), "");
        assert!(matches!(node.outcome, Outcome::Close));
    }
}
