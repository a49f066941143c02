//! `TRACE`: records the events on some of the keys, for `leasehold trace`. Names of keys are not told, only numbers that stand
//! for them in one trace.

use crate::argument::{is_word, unsigned};
use crate::context::Context;
use crate::error::ReplyError;
use crate::help;
use crate::server::count_of;
use crate::spec::{Argument, Flags, Group, Handler, Keys, Spec};
use leasehold_keyspace::{EventKind, TraceError};
use leasehold_protocol::Request;
use std::fmt::Write as _;

/// Events of one reply; a reply of these has 300 KiB at most.
const EVENTS_MAX: usize = 10_000;

pub(super) static TRACE: Spec = Spec {
    name: "trace",
    summary: "Records the events on some keys, for leasehold trace",
    group: Group::Server,
    since: "leasehold 0.1.0",
    subcommands: &[
        subcommand(
            "start",
            "Begins a trace of one key in so many, of about 100,000 keys if none is named; the rate",
            -2,
            &[Argument::integer("keys-per-traced").with_token("RATE").optional()],
            |context, request| {
                let result = start(context, request);
                context.conclude(result)
            },
        ),
        subcommand(
            "read",
            "Takes events out of the trace: how many were dropped, how many still wait, and a line for each",
            -2,
            &[Argument::integer("count").with_token("COUNT").optional()],
            |context, request| {
                let result = read(context, request);
                context.conclude(result)
            },
        ),
        subcommand(
            "stop",
            "Ends the trace; one that is not read for 10 seconds ends by itself",
            2,
            &[],
            |context, _| {
                let was_running = context.keyspace.stop_trace();
                context.reply.integer(was_running.into());
                crate::Outcome::Replied
            },
        ),
        help::subcommand(Group::Server, "leasehold 0.1.0"),
    ],
    ..help::CONTAINER
};

const fn subcommand(
    name: &'static str,
    summary: &'static str,
    arity: i32,
    arguments: &'static [Argument],
    run: Handler,
) -> Spec {
    let (group, flags, keys) = (Group::Server, Flags::ADMIN.with(Flags::NOSCRIPT), Keys::None);
    let (since, complexity) = ("leasehold 0.1.0", "O(N) for N events");
    Spec { name, summary, group, since, complexity, arity, flags, keys, arguments, subcommands: &[], run }
}

fn start(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let rate = match (request.get(2), request.get(3)) {
        (None, _) => None,
        (Some(word), Some(rate)) if request.len() == 4 && is_word(word, "RATE") => {
            let rate = unsigned(rate).filter(|&rate| rate > 0);
            Some(rate.ok_or(ReplyError::NotAnInteger)?)
        }
        _ => return Err(ReplyError::Syntax),
    };
    let rate = context.keyspace.start_trace(context.turn, rate).map_err(refused)?;
    context.reply.integer(i64::try_from(rate).unwrap_or(i64::MAX));
    Ok(())
}

fn read(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let count = count_of(request, 2)?.unwrap_or(EVENTS_MAX).min(EVENTS_MAX);
    let mut lines = String::new();
    let state = context.keyspace.read_trace(context.turn, count, |event| {
        let kind = match event.kind {
            EventKind::Hit => 'H',
            EventKind::Miss => 'M',
            EventKind::Store => 'S',
        };
        writeln!(lines, "{kind} {:016x} {}", event.key, event.bytes).expect("a String takes every write");
    });
    let state = state.map_err(refused)?;
    context.reply.array(3);
    context.reply.integer(i64::try_from(state.dropped).unwrap_or(i64::MAX));
    context.reply.integer(state.waiting as i64);
    context.reply.bulk(lines.as_bytes());
    Ok(())
}

fn refused(error: TraceError) -> ReplyError {
    ReplyError::err(match error {
        TraceError::Running => "a trace is running already; TRACE STOP ends it",
        TraceError::NotRunning => "no trace is running; it ends when it is not read for 10 seconds",
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    /// Kinds, names and sizes of what a READ tells.
    fn events(reply: &str) -> Vec<(String, String, String)> {
        let lines = reply.lines().filter(|line| line.len() > 19 && line.as_bytes()[1] == b' ');
        let words = lines.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        words.map(|words| (words[0].clone(), words[1].clone(), words[2].trim_end().to_owned())).collect()
    }

    #[test]
    fn events_are_told_in_order_without_the_keys() {
        let mut node = Node::new();
        assert_eq!(node.run("TRACE START RATE 1"), ":1\r\n");
        node.run("GET secret");
        node.run("SET secret 12345");
        node.run("GET secret");
        let first = node.run("TRACE READ COUNT 2");
        assert!(first.starts_with("*3\r\n:0\r\n:1\r\n$"), "{first}");
        let mut told = events(&first);
        told.extend(events(&node.run("TRACE READ")));
        let kinds: Vec<(&str, &str)> = told.iter().map(|(kind, _, bytes)| (&**kind, &**bytes)).collect();
        assert_eq!(kinds, [("M", "0"), ("S", "11"), ("H", "11")]);
        assert!(told.iter().all(|(_, name, _)| *name == told[0].1 && name.len() == 16), "{told:?}");
        assert_eq!(node.run("TRACE STOP"), ":1\r\n");
        assert_eq!(node.run("TRACE START RATE 1"), ":1\r\n");
        node.run("GET secret");
        assert_ne!(events(&node.run("TRACE READ"))[0].1, told[0].1, "names are those of one trace");
    }

    #[test]
    fn one_trace_at_a_time_and_none_for_long_without_a_reader() {
        let mut node = Node::new();
        let none = "-ERR no trace is running; it ends when it is not read for 10 seconds\r\n";
        assert_eq!(node.run("TRACE READ"), none);
        assert_eq!(node.run("TRACE STOP"), ":0\r\n");
        assert_eq!(node.run("TRACE START"), ":1\r\n");
        assert_eq!(node.run("TRACE START"), "-ERR a trace is running already; TRACE STOP ends it\r\n");
        for _ in 0..70_000 {
            node.run("GET k");
        }
        assert!(node.run("TRACE READ COUNT 1").starts_with("*3\r\n:4464\r\n:65535\r\n"), "the queue has a bound");
        node.advance_ms(11_000);
        node.keyspace.expire_cycle(&mut node.turn, 0..4, 10);
        assert_eq!(node.run("TRACE READ"), none);
        for line in ["TRACE START RATE", "TRACE START RATE 0", "TRACE START FAST 1", "TRACE READ COUNT x"] {
            assert!(node.run(line).starts_with("-ERR "), "{line}");
        }
    }
}
