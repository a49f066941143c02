//! Commands about the connection itself: handshake, names, reply modes, other clients.

mod client_command;
mod handshake;
mod kill;
mod list;

use crate::context::Outcome;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};

pub use handshake::REDIS_VERSION;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[
    &handshake::HELLO,
    &handshake::AUTH,
    &handshake::SELECT,
    &handshake::RESET,
    &handshake::QUIT,
    &PING,
    &ECHO,
    &client_command::CLIENT,
];

/// Allowed at any time: without authentication, while a script runs.
const ALWAYS: Flags = Flags::NOSCRIPT
    .with(Flags::LOADING)
    .with(Flags::STALE)
    .with(Flags::FAST)
    .with(Flags::NO_AUTH)
    .with(Flags::ALLOW_BUSY);

static PING: Spec = Spec {
    name: "ping",
    summary: "Answers PONG, or the message",
    group: Group::Connection,
    since: "1.0.0",
    complexity: "O(1)",
    arity: -1,
    flags: Flags::FAST,
    keys: Keys::None,
    arguments: &[Argument::string("message").optional()],
    subcommands: &[],
    run: |context, request| {
        match request.len() {
            1 => context.reply.simple("PONG"),
            2 => context.reply.bulk(request.arg(1)),
            _ => return context.conclude(Err(ReplyError::WrongArity { command: "ping".to_owned() })),
        }
        Outcome::Replied
    },
};

static ECHO: Spec = Spec {
    name: "echo",
    summary: "Answers the message",
    group: Group::Connection,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::LOADING.with(Flags::STALE).with(Flags::FAST),
    keys: Keys::None,
    arguments: &[Argument::string("message")],
    subcommands: &[],
    run: |context, request| {
        context.reply.bulk(request.arg(1));
        Outcome::Replied
    },
};

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn ping_and_echo_answer_what_they_were_given() {
        let mut node = Node::new();
        assert_eq!(node.run("PING"), "+PONG\r\n");
        assert_eq!(node.run("ping hi"), "$2\r\nhi\r\n");
        assert_eq!(node.run("PING a b"), "-ERR wrong number of arguments for 'ping' command\r\n");
        assert_eq!(node.run("ECHO hi"), "$2\r\nhi\r\n");
        assert_eq!(node.run("ECHO"), "-ERR wrong number of arguments for 'echo' command\r\n");
    }
}
