//! `HOTKEYS`: the keys that are hit most. They are sampled all the time, so there is nothing to start or stop.

use crate::argument::is_word;
use crate::context::Context;
use crate::error::ReplyError;
use crate::server::count_of;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::Request;

/// Keys that are listed if nobody says how many; as in Redis 8.6.
const COUNT: usize = 10;

pub(super) static HOTKEYS: Spec = Spec {
    name: "hotkeys",
    summary: "Lists the keys of the database that are hit most, with hits a second, or forgets them",
    group: Group::Server,
    since: "8.6.0",
    complexity: "O(N) for N sampled keys, which have a bound",
    arity: -1,
    flags: Flags::ADMIN.with(Flags::NOSCRIPT),
    keys: Keys::None,
    arguments: &[
        Argument::one_of("action", &[Argument::word("get", "GET"), Argument::word("reset", "RESET")]).optional(),
        Argument::integer("count").with_token("COUNT").optional(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = hotkeys(context, request);
        context.conclude(result)
    },
};

fn hotkeys(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let is = |word: &str| request.get(1).is_some_and(|given| is_word(given, word));
    if is("RESET") && request.len() == 2 {
        context.keyspace.reset_hot_keys(context.turn);
        context.reply.ok();
        return Ok(());
    }
    if is("START") || is("STOP") {
        return Err(ReplyError::err("hot keys are sampled all the time; HOTKEYS GET lists them"));
    }
    let count = count_of(request, if is("GET") { 2 } else { 1 })?.unwrap_or(COUNT);
    let hot = context.keyspace.hot_keys(context.turn, context.client.db, count);
    // The names that Redis has for these; its metrics (CPU time, network) are not what is counted here.
    context.reply.map(2);
    context.reply.bulk(b"tracking-active");
    context.reply.integer(1);
    context.reply.bulk(b"by-hits-per-second");
    context.reply.array(2 * hot.len());
    for hot in &hot {
        context.reply.bulk(&hot.key);
        context.reply.integer(hot.per_second.round() as i64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn the_hottest_come_first_until_they_are_forgotten() {
        let mut node = Node::new();
        node.run("MSET cold 1 hot 1 warm 1");
        for round in 0..40 {
            node.advance_ms(100);
            node.run("GET hot");
            if round % 4 == 0 {
                node.run("GET warm");
            }
        }
        let hot = node.run("HOTKEYS");
        assert_eq!(
            hot,
            "*4\r\n$15\r\ntracking-active\r\n:1\r\n$18\r\nby-hits-per-second\r\n*4\r\n$3\r\nhot\r\n:10\r\n$4\r\nwarm\r\n:3\r\n"
        );
        assert_eq!(node.run("HOTKEYS GET COUNT 10"), hot);
        assert!(node.run("HOTKEYS COUNT 1").ends_with("*2\r\n$3\r\nhot\r\n:10\r\n"));
        node.run("SELECT 1");
        assert!(node.run("HOTKEYS").ends_with("*0\r\n"));
        node.run("SELECT 0");
        assert_eq!(node.run("HOTKEYS RESET"), "+OK\r\n");
        node.run("HELLO 3");
        let none = "%2\r\n$15\r\ntracking-active\r\n:1\r\n$18\r\nby-hits-per-second\r\n*0\r\n";
        assert_eq!(node.run("HOTKEYS GET"), none);
    }

    #[test]
    fn mistakes_are_told() {
        let mut node = Node::new();
        for line in ["HOTKEYS FOO", "HOTKEYS GET COUNT", "HOTKEYS COUNT 0", "HOTKEYS RESET NOW"] {
            assert!(node.run(line).starts_with("-ERR "), "{line}");
        }
        assert_eq!(
            node.run("HOTKEYS START METRICS 1 CPU"),
            "-ERR hot keys are sampled all the time; HOTKEYS GET lists them\r\n"
        );
    }
}
