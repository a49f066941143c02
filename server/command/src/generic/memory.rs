//! `MEMORY`: what a key costs.

use crate::argument::{integer_or_error, is_word};
use crate::context::Context;
use crate::error::ReplyError;
use crate::help;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::Access;
use leasehold_protocol::Request;

pub(super) static MEMORY: Spec = Spec {
    name: "memory",
    summary: "Tells what keys cost in memory",
    group: Group::Server,
    since: "4.0.0",
    complexity: "Depends on subcommand",
    arity: -2,
    flags: Flags::NONE,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[
        Spec {
            name: "usage",
            summary: "Counts the bytes of a key: all that its entry has in memory, and its place in the index",
            group: Group::Server,
            since: "4.0.0",
            complexity: "O(1)",
            arity: -3,
            flags: Flags::READONLY,
            keys: Keys::Range { first: 2, last: 2, step: 1 },
            arguments: &[Argument::key("key"), Argument::integer("count").with_token("SAMPLES").optional()],
            subcommands: &[],
            run: |context, request| {
                let result = usage(context, request);
                context.conclude(result)
            },
        },
        help::subcommand(Group::Server, "4.0.0"),
    ],
    run: help::run,
};

fn usage(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let mut index = 3;
    while index < request.len() {
        // Redis samples nested values; here every answer is exact, so the number only has to be one.
        let count = request.get(index + 1).filter(|_| is_word(request.arg(index), "SAMPLES"));
        if integer_or_error(count.ok_or(ReplyError::Syntax)?)? < 0 {
            return Err(ReplyError::Syntax);
        }
        index += 2;
    }
    let db = context.client.db;
    match context.keyspace.read(context.turn, db, request.arg(2), Access::Quiet, |entry| entry.memory_bytes) {
        Some(bytes) => context.reply.integer(bytes as i64),
        None => context.reply.null(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn usage_grows_with_the_value() {
        let mut node = Node::new();
        node.run("SET small 1");
        node.run_args(&[b"SET", b"large", &[b'x'; 10_000]]);
        let mut bytes = |line: &str| -> i64 {
            let reply = node.run(line);
            reply.trim_start_matches(':').trim_end().parse().expect("an integer reply")
        };
        let (small, large) = (bytes("MEMORY USAGE small"), bytes("MEMORY USAGE large SAMPLES 0"));
        assert!((6..200).contains(&small), "{small}");
        assert!((10_005..13_000).contains(&large), "{large}");
        assert_eq!(node.run("MEMORY USAGE nokey"), "$-1\r\n");
        assert_eq!(node.run("MEMORY USAGE small SAMPLES -1"), "-ERR syntax error\r\n");
        assert_eq!(node.run("MEMORY USAGE small SAMPLES"), "-ERR syntax error\r\n");
        assert_eq!(node.run("MEMORY USAGE small FOO 1"), "-ERR syntax error\r\n");
    }
}
