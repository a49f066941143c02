//! What is asked of a node in passing: `TIME`, `MODULE LIST`.

use crate::context::{Context, Outcome};
use crate::help;
use crate::spec::{Flags, Group, Keys, Spec};
use leasehold_protocol::Request;

pub(super) static TIME: Spec = Spec {
    name: "time",
    summary: "Tells the node's wall clock: seconds since 1970, and the microseconds of the second",
    group: Group::Server,
    since: "2.6.0",
    complexity: "O(1)",
    arity: 1,
    flags: Flags::LOADING.with(Flags::STALE).with(Flags::FAST),
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: time,
};

pub(super) static MODULE: Spec = Spec {
    name: "module",
    summary: "Tells about modules; there are none",
    group: Group::Server,
    since: "4.0.0",
    subcommands: &[
        Spec {
            name: "list",
            summary: "Lists loaded modules; always empty",
            group: Group::Server,
            since: "4.0.0",
            complexity: "O(1)",
            arity: 2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[],
            subcommands: &[],
            run: |context, _| {
                context.reply.array(0);
                Outcome::Replied
            },
        },
        help::subcommand(Group::Server, "5.0.0"),
    ],
    ..help::CONTAINER
};

fn time(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    let now_us = context.host.wall_us();
    context.reply.array(2);
    context.reply.bulk_integer((now_us / 1_000_000) as i64);
    context.reply.bulk_integer((now_us % 1_000_000) as i64);
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn time_is_seconds_and_microseconds() {
        assert_eq!(Node::new().run("TIME"), "*2\r\n$10\r\n1700000000\r\n$1\r\n7\r\n");
    }

    #[test]
    fn there_are_no_modules_and_one_user() {
        let mut node = Node::new();
        assert_eq!(node.run("MODULE LIST"), "*0\r\n");
        assert_eq!(node.run("ACL WHOAMI"), "$7\r\ndefault\r\n");
    }
}
