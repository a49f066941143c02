//! Audit commands: looking at what the auditor has found, which compares the cache with the sources.

use crate::argument;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::help;
use crate::host::{AuditView, NO_LOADER_NAMED, ViolationView};
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use bytes::Bytes;
use leasehold_protocol::Request;

/// The commands of this file; they belong to the group of the loaders.
pub static SPECS: &[&Spec] = &[&AUDIT];

const NO_AUDITOR: &str = "ERR there is no [auditor]";

const AUDIT: Spec = Spec {
    name: "audit",
    summary: "Shows how much of the cache was what its sources have, and what was not",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "Depends on the subcommand",
    arity: -2,
    flags: Flags::NONE,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[
        Spec {
            name: "stats",
            summary: "Shows the share and the counts of entries that were what their source has, of one loader or of all",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N loaders",
            arity: -2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[Argument::string("loader").optional()],
            subcommands: &[],
            run: stats,
        },
        Spec {
            name: "list",
            summary: "Lists the last entries that were not what their source has, newest first, with the history of their keys",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N violations that are kept",
            arity: -2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[
                Argument::string("loader").optional(),
                Argument::integer("count").with_token("COUNT").optional(),
            ],
            subcommands: &[],
            run: list,
        },
        Spec {
            name: "reset",
            summary: "Forgets what was counted and listed, and reports anew what still differs",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N keys that are known",
            arity: 2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[],
            subcommands: &[],
            run: reset,
        },
        help::subcommand(Group::Loader, "leasehold 0.1.0"),
    ],
    run: help::run,
};

fn no_auditor(context: &mut Context<'_>) -> Outcome {
    context.conclude(Err(ReplyError::Text(NO_AUDITOR.to_owned())))
}

fn stats(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Some(views) = context.host.audits() else { return no_auditor(context) };
    match request.get(2) {
        None => {
            context.reply.array(views.len());
            views.iter().for_each(|view| write_audit(context, view));
        }
        Some(_) if request.len() > 3 => return context.conclude(Err(ReplyError::Syntax)),
        Some(name) => match views.iter().find(|view| view.loader.as_bytes() == name) {
            Some(view) => write_audit(context, view),
            None => return context.conclude(Err(ReplyError::Text(NO_LOADER_NAMED.to_owned()))),
        },
    }
    Outcome::Replied
}

fn write_audit(context: &mut Context<'_>, view: &AuditView) {
    let AuditView { loader, texts, counters } = view;
    context.reply.map(1 + texts.len() + counters.len());
    context.reply.bulk(b"loader");
    context.reply.bulk(loader.as_bytes());
    for (field, value) in texts {
        context.reply.bulk(field.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    for (field, value) in counters {
        context.reply.bulk(field.as_bytes());
        context.reply.integer(*value);
    }
}

fn list(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (loader, count_max) = match parse_list(request) {
        Ok(asked) => asked,
        Err(error) => return context.conclude(Err(error)),
    };
    let Some(mut violations) = context.host.violations() else { return no_auditor(context) };
    violations.retain(|violation| loader.is_none_or(|loader| violation.loader.as_bytes() == loader));
    violations.truncate(count_max);
    context.reply.array(violations.len());
    violations.iter().for_each(|violation| write_violation(context, violation));
    Outcome::Replied
}

/// The loader that is asked for, and how many.
fn parse_list(request: Request<'_>) -> Result<(Option<&[u8]>, usize), ReplyError> {
    let is_count = |index| request.get(index).is_some_and(|word| argument::is_word(word, "COUNT"));
    // A loader may have any name: what stands before COUNT, or alone, is one.
    let (loader, next) = match request.len() {
        3 => (Some(2), 3),
        4 if is_count(2) => (None, 2),
        5 => (Some(2), 3),
        2 => (None, 2),
        _ => return Err(ReplyError::Syntax),
    };
    let count = match request.get(next) {
        None => usize::MAX,
        Some(_) if is_count(next) => {
            let count = request.get(next + 1).and_then(argument::unsigned).ok_or(ReplyError::Syntax)?;
            usize::try_from(count).unwrap_or(usize::MAX)
        }
        Some(_) => return Err(ReplyError::Syntax),
    };
    Ok((loader.map(|index| request.arg(index)), count))
}

fn write_violation(context: &mut Context<'_>, violation: &ViolationView) {
    let ViolationView { loader, key, texts, numbers, cached_value, source_value, history } = violation;
    let reply = &mut *context.reply;
    reply.map(5 + texts.len() + numbers.len());
    for (field, text) in [("loader", loader.as_bytes()), ("key", key)] {
        reply.bulk(field.as_bytes());
        reply.bulk(text);
    }
    for (field, text) in texts {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    for (field, number) in numbers {
        reply.bulk(field.as_bytes());
        reply.integer(*number);
    }
    for (field, value) in [("cached_value", cached_value), ("source_value", source_value)] {
        reply.bulk(field.as_bytes());
        match value.as_ref().map(Bytes::as_ref) {
            Some(value) => reply.bulk(value),
            None => reply.null(),
        }
    }
    reply.bulk(b"history");
    reply.array(history.len());
    history.iter().for_each(|line| reply.bulk(line.as_bytes()));
}

fn reset(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    if !context.host.reset_audit() {
        return no_auditor(context);
    }
    context.reply.ok();
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use crate::host::{AuditView, ViolationView};
    use crate::testing::Node;
    use bytes::Bytes;
    use std::cell::RefCell;

    fn node() -> Node {
        let mut node = Node::new();
        let violation = |loader: &str, number| ViolationView {
            loader: loader.to_owned(),
            key: Bytes::from_static(b"k"),
            texts: vec![("class", "untold".to_owned())],
            numbers: vec![("number", number)],
            cached_value: Some(Bytes::from_static(b"old")),
            source_value: None,
            history: vec!["5 filled by a load".to_owned()],
        };
        node.host.audited = RefCell::new(Some((
            vec![AuditView {
                loader: "user".to_owned(),
                texts: vec![("consistency_1s".to_owned(), "99.000000%".to_owned())],
                counters: vec![("compared".to_owned(), 7)],
            }],
            vec![violation("user", 3), violation("count", 2), violation("user", 1)],
        )));
        node
    }

    fn run(node: &mut Node, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        String::from_utf8_lossy(&node.run_args(&words)).into_owned()
    }

    #[test]
    fn without_an_auditor_each_says_so() {
        for word in ["STATS", "LIST", "RESET"] {
            assert_eq!(run(&mut Node::new(), &["AUDIT", word]), "-ERR there is no [auditor]\r\n");
        }
    }

    #[test]
    fn stats_are_of_all_loaders_or_of_one() {
        let mut node = node();
        let user = "*6\r\n$6\r\nloader\r\n$4\r\nuser\r\n$14\r\nconsistency_1s\r\n$10\r\n99.000000%\r\n$8\r\ncompared\r\n:7\r\n";
        assert_eq!(run(&mut node, &["AUDIT", "STATS"]), format!("*1\r\n{user}"));
        assert_eq!(run(&mut node, &["AUDIT", "STATS", "user"]), user);
        assert!(run(&mut node, &["AUDIT", "STATS", "none"]).starts_with("-NOLOADER "));
        assert_eq!(run(&mut node, &["AUDIT", "STATS", "user", "more"]), "-ERR syntax error\r\n");
    }

    #[test]
    fn a_list_is_of_all_or_one_loader_and_as_long_as_asked_for() {
        let mut node = node();
        let numbers = |reply: String| {
            let after = |part: &str| part.split("\r\n").next().map(str::to_owned);
            reply.split("number\r\n:").skip(1).filter_map(after).collect::<Vec<_>>()
        };
        assert_eq!(numbers(run(&mut node, &["AUDIT", "LIST"])), ["3", "2", "1"]);
        assert_eq!(numbers(run(&mut node, &["AUDIT", "LIST", "user"])), ["3", "1"]);
        assert_eq!(numbers(run(&mut node, &["AUDIT", "LIST", "COUNT"])), [""; 0], "a loader may be called so");
        assert_eq!(numbers(run(&mut node, &["AUDIT", "LIST", "COUNT", "2"])), ["3", "2"]);
        assert_eq!(numbers(run(&mut node, &["AUDIT", "LIST", "count", "count", "9"])), ["2"]);
        assert_eq!(numbers(run(&mut node, &["AUDIT", "LIST", "user", "COUNT", "1"])), ["3"]);
        for wrong in
            [&["AUDIT", "LIST", "a", "b"][..], &["AUDIT", "LIST", "COUNT", "x"], &["AUDIT", "LIST", "a", "b", "1"]]
        {
            assert_eq!(run(&mut node, wrong), "-ERR syntax error\r\n", "{wrong:?}");
        }
        let one = run(&mut node, &["AUDIT", "LIST", "COUNT", "1"]);
        let end = "$12\r\ncached_value\r\n$3\r\nold\r\n$12\r\nsource_value\r\n$-1\r\n$7\r\nhistory\r\n*1\r\n$18\r\n5 filled by a load\r\n";
        assert!(one.ends_with(end), "{one}");
    }

    #[test]
    fn a_reset_forgets() {
        let mut node = node();
        assert_eq!(run(&mut node, &["AUDIT", "RESET"]), "+OK\r\n");
        assert_eq!(run(&mut node, &["AUDIT", "LIST"]), "*0\r\n");
    }
}
