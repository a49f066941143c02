//! `CLIENT KILL`: closes connections, by address as ever or by conditions that must all hold.

use super::client_command::{ANY_TIME, subcommand};
use super::handshake::DEFAULT_USER;
use super::list::{KINDS, Kind};
use crate::argument::{integer, is_word};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::host::ClientFilter;
use crate::spec::{Argument, Flags, Spec};
use leasehold_protocol::Request;

pub(super) const KILL: Spec = Spec {
    flags: ANY_TIME.with(Flags::ADMIN),
    complexity: "O(N) for N connections",
    ..subcommand(
        "kill",
        "Closes connections by address, or those that meet all conditions",
        "2.4.0",
        -3,
        &[Argument::one_of(
            "filter",
            &[
                Argument::string("ip:port"),
                Argument::one_of(
                    "new-format",
                    &[
                        Argument::integer("client-id").with_token("ID"),
                        Argument::one_of("client-type", &KINDS).with_token("TYPE"),
                        Argument::string("username").with_token("USER"),
                        Argument::string("addr").with_token("ADDR"),
                        Argument::string("laddr").with_token("LADDR"),
                        Argument::one_of("skipme", &[Argument::word("yes", "YES"), Argument::word("no", "NO")])
                            .with_token("SKIPME"),
                        Argument::integer("maxage").with_token("MAXAGE"),
                    ],
                )
                .multiple(),
            ],
        )],
        |context, request| {
            if request.len() == 3 { kill_address(context, request) } else { kill_by_conditions(context, request) }
        },
    )
};

fn kill_address(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let filter = ClientFilter { address: Some(text(request.arg(2))), ..ClientFilter::default() };
    let (killed, own) = kill(context, &filter);
    if killed == 0 {
        return context.conclude(Err(ReplyError::err("No such client")));
    }
    context.reply.ok();
    own
}

fn kill_by_conditions(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match conditions(request) {
        Ok(filter) => {
            let (killed, own) = kill(context, &filter);
            context.reply.integer(killed as i64);
            own
        }
        Err(error) => context.conclude(Err(error)),
    }
}

/// How many were closed, and whether the caller is among them: it still gets its reply.
fn kill(context: &mut Context<'_>, filter: &ClientFilter) -> (usize, Outcome) {
    let killed = context.host.kill_clients(filter, context.client.id);
    let own = filter.matches(context.client, context.turn.now_ms) && !filter.skip_caller;
    (killed, if own { Outcome::Close } else { Outcome::Replied })
}

fn conditions(request: Request<'_>) -> Result<ClientFilter, ReplyError> {
    let mut filter = ClientFilter { skip_caller: true, ..ClientFilter::default() };
    let mut index = 2;
    while index < request.len() {
        let (word, value) = (request.arg(index), request.get(index + 1).ok_or(ReplyError::Syntax)?);
        match word {
            _ if is_word(word, "ID") => {
                filter.ids.push(positive(value).ok_or_else(|| ReplyError::err("client-id should be greater than 0"))?);
            }
            _ if is_word(word, "MAXAGE") => {
                filter.age_s_min =
                    Some(positive(value).ok_or_else(|| ReplyError::err("maxage should be greater than 0"))?);
            }
            _ if is_word(word, "TYPE") => filter.kind = Some(Kind::parse(value)?.word().to_owned()),
            _ if is_word(word, "ADDR") => filter.address = Some(text(value)),
            _ if is_word(word, "LADDR") => filter.local_address = Some(text(value)),
            _ if is_word(word, "USER") => {
                if value != DEFAULT_USER {
                    return Err(ReplyError::err(format_args!("No such user '{}'", text(value))));
                }
                filter.user = Some(text(value));
            }
            _ if is_word(word, "SKIPME") && is_word(value, "YES") => filter.skip_caller = true,
            _ if is_word(word, "SKIPME") && is_word(value, "NO") => filter.skip_caller = false,
            _ => return Err(ReplyError::Syntax),
        }
        index += 2;
    }
    Ok(filter)
}

fn positive(argument: &[u8]) -> Option<u64> {
    integer(argument).filter(|number| *number > 0).map(|number| number as u64)
}

fn text(argument: &[u8]) -> String {
    String::from_utf8_lossy(&argument[..argument.len().min(128)]).into_owned()
}

#[cfg(test)]
mod tests {
    use crate::context::Outcome;
    use crate::host::ClientRow;
    use crate::testing::Node;

    fn with_two_clients() -> Node {
        let mut node = Node::new();
        node.host.rows = [3, 7].into_iter().map(|id| ClientRow { id, line: String::new() }).collect();
        node
    }

    #[test]
    fn conditions_reach_the_host() {
        let mut node = with_two_clients();
        assert_eq!(node.run("CLIENT KILL ID 3 TYPE slave LADDR 1.2.3.4:5 USER default MAXAGE 9"), ":1\r\n");
        assert!(matches!(node.outcome, Outcome::Replied));
        let filter = node.host.killed.borrow().last().expect("the host was asked").clone();
        assert_eq!(filter.ids, [3]);
        assert_eq!(filter.kind.as_deref(), Some("replica"));
        assert_eq!(filter.local_address.as_deref(), Some("1.2.3.4:5"));
        assert_eq!(filter.age_s_min, Some(9));
        assert!(filter.skip_caller);
    }

    #[test]
    fn who_kills_itself_is_answered_and_closed() {
        let mut node = with_two_clients();
        assert_eq!(node.run("CLIENT KILL ID 7 SKIPME no"), ":1\r\n");
        assert!(matches!(node.outcome, Outcome::Close));
        assert_eq!(node.run("CLIENT KILL 127.0.0.1:50000"), "+OK\r\n");
        assert!(matches!(node.outcome, Outcome::Close));
        node.run("CLIENT KILL ID 3 SKIPME no");
        assert!(matches!(node.outcome, Outcome::Replied));
        node.run("CLIENT KILL MAXAGE 10 SKIPME no");
        assert!(matches!(node.outcome, Outcome::Replied), "connected just now");
        node.advance_ms(10_000);
        node.run("CLIENT KILL MAXAGE 10 SKIPME no");
        assert!(matches!(node.outcome, Outcome::Close));
    }

    #[test]
    fn nobody_to_kill_is_an_error_in_the_old_form_only() {
        let mut node = Node::new();
        assert_eq!(node.run("CLIENT KILL 1.2.3.4:5"), "-ERR No such client\r\n");
        assert_eq!(node.run("CLIENT KILL ADDR 1.2.3.4:5"), ":0\r\n");
    }

    #[test]
    fn bad_conditions_are_named() {
        let mut node = Node::new();
        let mut expect = |line: &str, text: &str| assert_eq!(node.run(line), format!("-ERR {text}\r\n"), "{line}");
        expect("CLIENT KILL", "wrong number of arguments for 'client|kill' command");
        expect("CLIENT KILL ID x", "client-id should be greater than 0");
        expect("CLIENT KILL ID 0", "client-id should be greater than 0");
        expect("CLIENT KILL MAXAGE 0", "maxage should be greater than 0");
        expect("CLIENT KILL TYPE foo", "Unknown client type 'foo'");
        expect("CLIENT KILL USER nouser", "No such user 'nouser'");
        expect("CLIENT KILL SKIPME maybe", "syntax error");
        expect("CLIENT KILL foo bar", "syntax error");
        expect("CLIENT KILL ID 3 TYPE", "syntax error");
    }
}
