//! `MEMORY`: what a key costs.

use crate::argument::{integer_or_error, is_word};
use crate::context::Context;
use crate::error::ReplyError;
use crate::help;
use crate::server::count_of;
use crate::spec::{Argument, Flags, Group, Handler, Keys, Spec};
use leasehold_keyspace::Access;
use leasehold_protocol::Request;

pub(super) static MEMORY: Spec = Spec {
    name: "memory",
    summary: "Tells what keys cost in memory",
    group: Group::Server,
    since: "4.0.0",
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
        listing(
            "bigkeys",
            "Lists the largest entries of the database and their bytes; scans nothing",
            |context, request| {
                let result = bigkeys(context, request);
                context.conclude(result)
            },
        ),
        listing(
            "prefixes",
            "Estimates bytes, keys, hits and misses by prefix of the key, those with the most bytes first",
            |context, request| {
                let result = prefixes(context, request);
                context.conclude(result)
            },
        ),
        help::subcommand(Group::Server, "4.0.0"),
    ],
    ..help::CONTAINER
};

const fn listing(name: &'static str, summary: &'static str, run: Handler) -> Spec {
    const COUNT: &[Argument] = &[Argument::integer("count").with_token("COUNT").optional()];
    Spec {
        name,
        summary,
        group: Group::Server,
        since: "leasehold 0.1.0",
        complexity: "O(N) for N entries looked at, which have a bound",
        arity: -2,
        flags: Flags::READONLY,
        keys: Keys::None,
        arguments: COUNT,
        subcommands: &[],
        run,
    }
}

/// Entries that BIGKEYS lists, and prefixes, if nobody says how many.
const COUNT: usize = 10;

fn bigkeys(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let count = count_of(request, 2)?.unwrap_or(COUNT);
    let largest = context.keyspace.largest(context.client.db, count);
    context.reply.array(2 * largest.len());
    for large in &largest {
        context.reply.bulk(&large.key);
        context.reply.integer(large.bytes as i64);
    }
    Ok(())
}

fn prefixes(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let count = count_of(request, 2)?.unwrap_or(COUNT);
    let shares = context.keyspace.shares(context.turn);
    let listed = &shares.prefixes[..count.min(shares.prefixes.len())];
    context.reply.array(listed.len());
    for (name, share) in listed {
        let fields = [("bytes", share.bytes), ("keys", share.entries), ("hits", share.hits), ("misses", share.misses)];
        context.reply.map(fields.len() + 1);
        context.reply.bulk(b"prefix");
        context.reply.bulk(name);
        for (field, value) in fields {
            context.reply.bulk(field.as_bytes());
            context.reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    Ok(())
}

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
    fn the_largest_and_the_prefixes_are_listed() {
        let mut node = Node::new();
        for (key, len) in [("a:1", 10), ("a:2", 3000), ("b:1", 5000), ("plain", 100)] {
            node.run_args(&[b"SET", key.as_bytes(), &vec![b'x'; len]]);
        }
        node.run("GET a:1");
        node.run("GET a:3");
        let usage = |node: &mut Node, key: &str| node.run(&format!("MEMORY USAGE {key}"));
        let (one, two, large) = (usage(&mut node, "a:1"), usage(&mut node, "a:2"), usage(&mut node, "b:1"));
        assert_eq!(node.run("MEMORY BIGKEYS COUNT 2"), format!("*4\r\n$3\r\nb:1\r\n{large}$3\r\na:2\r\n{two}"));
        let number = |reply: &str| reply[1..].trim_end().parse::<u64>().expect("an integer reply");
        let shares = node.run("MEMORY PREFIXES");
        let of_a = format!(
            "*10\r\n$6\r\nprefix\r\n$1\r\na\r\n$5\r\nbytes\r\n:{}\r\n$4\r\nkeys\r\n:2\r\n$4\r\nhits\r\n:1\r\n$6\r\nmisses\r\n:1\r\n",
            number(&one) + number(&two)
        );
        assert!(shares.starts_with("*2\r\n*10\r\n$6\r\nprefix\r\n$1\r\nb\r\n") && shares.ends_with(&of_a), "{shares}");
        assert!(node.run("MEMORY PREFIXES COUNT 1").starts_with("*1\r\n"));
        for line in ["MEMORY BIGKEYS COUNT", "MEMORY BIGKEYS 5", "MEMORY PREFIXES COUNT -1"] {
            assert!(node.run(line).starts_with("-ERR "), "{line}");
        }
    }

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
