//! `COMMAND`: the command table, told to clients that find keys, choose replicas and complete lines by it.

use super::keys::{self, KeyRole};
use super::{categories, docs};
use crate::argument::is_word;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, ArgumentKind, Flags, Group, Handler, Keys, Spec};
use crate::table::{self, Indexed, TABLE};
use crate::{glob, help};
use leasehold_protocol::{Reply, Request};

pub(super) static COMMAND: Spec = Spec {
    arity: -1,
    subcommands: &[
        subcommand("count", "Counts the commands", "2.8.13", 2, &[], |context, _| {
            context.reply.integer(TABLE.len() as i64);
            Outcome::Replied
        }),
        subcommand(
            "info",
            "Describes commands: arity, flags, keys, categories, subcommands",
            "2.8.13",
            -2,
            NAMES,
            |context, request| {
                if request.len() == 2 {
                    return describe_all(context, request);
                }
                context.reply.array(request.len() - 2);
                for name in request.args_from(2) {
                    match by_name(name) {
                        Some(command) => describe(context.reply, &command),
                        None => context.reply.null(),
                    }
                }
                Outcome::Replied
            },
        ),
        subcommand(
            "docs",
            "Documents commands: summary, origin, cost, arguments",
            "7.0.0",
            -2,
            NAMES,
            |context, request| {
                let commands: Vec<Indexed> = if request.len() == 2 {
                    TABLE.iter().map(|spec| Indexed { container: None, spec }).collect()
                } else {
                    request.args_from(2).filter_map(by_name).collect()
                };
                docs::write(context.reply, &commands);
                Outcome::Replied
            },
        ),
        subcommand(
            "list",
            "Lists the names of commands",
            "7.0.0",
            -2,
            &[Argument::one_of(
                "filterby",
                &[
                    Argument::string("module-name").with_token("MODULE"),
                    Argument::string("category").with_token("ACLCAT"),
                    Argument::new("pattern", ArgumentKind::Pattern).with_token("PATTERN"),
                ],
            )
            .with_token("FILTERBY")
            .optional()],
            |context, request| {
                let result = list(context, request);
                context.conclude(result)
            },
        ),
        subcommand("getkeys", "Finds the keys in a command line", "2.8.13", -3, LINE, |context, request| {
            let result = keys_in(request).map(|keys| {
                context.reply.array(keys.len());
                keys.iter().for_each(|(key, _)| context.reply.bulk(key));
            });
            context.conclude(result)
        }),
        subcommand(
            "getkeysandflags",
            "Finds the keys in a command line, and says what is done with them",
            "7.0.0",
            -3,
            LINE,
            |context, request| {
                let result = keys_in(request).map(|keys| {
                    context.reply.array(keys.len());
                    for (key, role) in keys {
                        context.reply.array(2);
                        context.reply.bulk(key);
                        role.write_words(context.reply);
                    }
                });
                context.conclude(result)
            },
        ),
        help::subcommand(Group::Server, "5.0.0"),
    ],
    ..subcommand("command", "Describes all commands", "2.8.13", -1, &[], describe_all)
};

const NAMES: &[Argument] = &[Argument::string("command-name").multiple().optional()];
const LINE: &[Argument] = &[Argument::string("command"), Argument::string("arg").multiple().optional()];

const fn subcommand(
    name: &'static str,
    summary: &'static str,
    since: &'static str,
    arity: i32,
    arguments: &'static [Argument],
    run: Handler,
) -> Spec {
    let (group, flags, keys) = (Group::Server, Flags::LOADING.with(Flags::STALE), Keys::None);
    let complexity = "O(N) for N commands";
    Spec { name, summary, group, since, complexity, arity, flags, keys, arguments, subcommands: &[], run }
}

/// A command or, as `container|name`, a subcommand.
fn by_name(name: &[u8]) -> Option<Indexed> {
    table::by_full_name(name).and_then(|(index, _)| table::spec_by_index(index))
}

fn describe_all(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    context.reply.array(TABLE.len());
    for spec in TABLE.iter().copied() {
        describe(context.reply, &Indexed { container: None, spec });
    }
    Outcome::Replied
}

/// The ten elements of `COMMAND INFO`.
fn describe(reply: &mut Reply, command: &Indexed) {
    let spec = command.spec;
    reply.array(10);
    reply.bulk(command.full_name().as_bytes());
    reply.integer(i64::from(spec.arity));
    let flags: Vec<&str> = flag_words(spec).collect();
    reply.set(flags.len());
    flags.iter().for_each(|word| reply.simple(word));
    let (first, last, step) = match spec.keys {
        Keys::Range { first, last, step } => (first, last, step),
        Keys::BeforeOptions(_) => (1, 1, 1),
        Keys::None | Keys::Counted { .. } => (0, 0, 0),
    };
    [first, last, step].into_iter().for_each(|number| reply.integer(i64::from(number)));
    let categories: Vec<&str> = categories::of(spec).collect();
    reply.set(categories.len());
    categories.iter().for_each(|name| reply.simple(&format!("@{name}")));
    let tips = tips(command);
    reply.set(tips.len());
    tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    keys::write_specs(reply, spec);
    if spec.subcommands.is_empty() {
        reply.set(0);
        return;
    }
    reply.array(spec.subcommands.len());
    for subcommand in spec.subcommands {
        describe(reply, &Indexed { container: Some(spec), spec: subcommand });
    }
}

fn flag_words(spec: &'static Spec) -> impl Iterator<Item = &'static str> {
    const WORDS: [(Flags, &str); 12] = [
        (Flags::WRITE, "write"),
        (Flags::READONLY, "readonly"),
        (Flags::DENYOOM, "denyoom"),
        (Flags::ADMIN, "admin"),
        (Flags::NOSCRIPT, "noscript"),
        (Flags::BLOCKING, "blocking"),
        (Flags::LOADING, "loading"),
        (Flags::STALE, "stale"),
        (Flags::FAST, "fast"),
        (Flags::NO_AUTH, "no_auth"),
        (Flags::MOVABLEKEYS, "movablekeys"),
        (Flags::ALLOW_BUSY, "allow_busy"),
    ];
    let is_movable = matches!(spec.keys, Keys::Counted { .. } | Keys::BeforeOptions(_));
    let movable = if is_movable { Flags::MOVABLEKEYS } else { Flags::NONE };
    let flags = spec.flags.with(movable);
    WORDS.iter().filter(move |(flag, _)| flags.has(*flag)).map(|(_, word)| *word)
}

/// How a client of several nodes splits a command and joins the answers (redis.io, "Command tips"), and whether two
/// answers may differ.
fn tips(command: &Indexed) -> &'static [&'static str] {
    match (command.container.map(|container| container.name), command.spec.name) {
        (None, "del" | "unlink" | "exists" | "touch") => &["request_policy:multi_shard", "response_policy:agg_sum"],
        (None, "mget" | "mloadthrough") => &["request_policy:multi_shard"],
        (None, "mset") => &["request_policy:multi_shard", "response_policy:all_succeeded"],
        (None, "msetnx") => &["request_policy:multi_shard", "response_policy:agg_min"],
        (None, "inval") => &["request_policy:multi_shard", "response_policy:agg_sum"],
        (None, "dbsize") => &["request_policy:all_shards", "response_policy:agg_sum"],
        (None, "flushall" | "flushdb" | "ping" | "invaltag" | "invalprefix") => {
            &["request_policy:all_shards", "response_policy:all_succeeded"]
        }
        (None, "keys") => &["request_policy:all_shards", "nondeterministic_output_order"],
        (None, "randomkey") => &["request_policy:all_shards", "nondeterministic_output"],
        (None, "scan") => &["nondeterministic_output", "request_policy:special"],
        (None, "info") => &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
        (Some("config"), "set" | "resetstat") => &["request_policy:all_nodes", "response_policy:all_succeeded"],
        (None, "command") | (Some("command"), "info" | "docs" | "list") => &["nondeterministic_output_order"],
        (None, "ttl" | "pttl" | "time") | (Some("client"), "list" | "info") => &["nondeterministic_output"],
        (Some("cluster"), "slots" | "shards" | "nodes" | "info" | "getkeysinslot") => &["nondeterministic_output"],
        (Some("object"), name) if name != "help" => &["nondeterministic_output"],
        _ => &[],
    }
}

fn list(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    if request.len() == 2 {
        context.reply.set(TABLE.len());
        TABLE.iter().for_each(|spec| context.reply.bulk(spec.name.as_bytes()));
        return Ok(());
    }
    if request.len() != 5 || !is_word(request.arg(2), "FILTERBY") {
        return Err(ReplyError::Syntax);
    }
    let (word, value) = (request.arg(3), request.arg(4));
    if is_word(word, "MODULE") {
        context.reply.array(0);
    } else if is_word(word, "ACLCAT") {
        let has = |category: &str| category.as_bytes().eq_ignore_ascii_case(value);
        names(context.reply, |command| categories::of(command.spec).any(has));
    } else if is_word(word, "PATTERN") {
        names(context.reply, |command| glob::matches_ignore_case(value, command.full_name().as_bytes()));
    } else {
        return Err(ReplyError::Syntax);
    }
    Ok(())
}

/// Full names of the commands and subcommands that are wanted.
fn names(reply: &mut Reply, wanted: impl Fn(&Indexed) -> bool) {
    let all = (0..table::commands_total()).filter_map(|index| table::spec_by_index(index as u16));
    let names: Vec<String> = all.filter(|command| wanted(command)).map(|command| command.full_name()).collect();
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
}

/// The keys in the command line behind `COMMAND GETKEYS`, and what would be done with them.
fn keys_in(request: Request<'_>) -> Result<Vec<(&[u8], KeyRole)>, ReplyError> {
    const LINE: usize = 2;
    let len = request.len() - LINE;
    let (_, mut spec) =
        table::command(request.arg(LINE)).ok_or_else(|| ReplyError::err("Invalid command specified"))?;
    if len > 1 && !spec.subcommands.is_empty() {
        let found = table::subcommand(spec, request.arg(LINE + 1));
        spec = found.ok_or_else(|| ReplyError::err("Invalid command specified"))?.1;
    }
    if matches!(spec.keys, Keys::None) {
        return Err(ReplyError::err("The command has no key arguments"));
    }
    if !table::arity_accepts(spec.arity, len) {
        return Err(ReplyError::err("Invalid number of arguments specified for command"));
    }
    let argument = |index: usize| request.arg(LINE + index);
    let positions_of = |role: KeyRole| table::key_positions(role.keys, len, argument).map(move |index| (index, role));
    let keys: Vec<(&[u8], KeyRole)> =
        keys::roles(spec).into_iter().flat_map(positions_of).map(|(index, role)| (argument(index), role)).collect();
    if keys.is_empty() {
        return Err(ReplyError::err("Invalid arguments specified for command"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use crate::table::TABLE;
    use crate::testing::Node;

    #[test]
    fn info_of_get_is_that_of_redis_in_both_versions() {
        let mut node = Node::new();
        // Both from redis-server 7.0.15.
        assert_eq!(
            node.run("COMMAND INFO nosuch get"),
            "*2\r\n$-1\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*3\r\n+@read\r\n\
             +@string\r\n+@fast\r\n*0\r\n*1\r\n*6\r\n$5\r\nflags\r\n*2\r\n+RO\r\n+access\r\n$12\r\nbegin_search\r\n\
             *4\r\n$4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n*2\r\n$5\r\nindex\r\n:1\r\n$9\r\nfind_keys\r\n*4\r\n$4\r\n\
             type\r\n$5\r\nrange\r\n$4\r\nspec\r\n*6\r\n$7\r\nlastkey\r\n:0\r\n$7\r\nkeystep\r\n:1\r\n$5\r\nlimit\r\n\
             :0\r\n*0\r\n"
        );
        node.run("HELLO 3");
        assert_eq!(
            node.run("COMMAND INFO nosuch get"),
            "*2\r\n_\r\n*10\r\n$3\r\nget\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n~3\r\n+@read\r\n\
             +@string\r\n+@fast\r\n~0\r\n~1\r\n%3\r\n$5\r\nflags\r\n~2\r\n+RO\r\n+access\r\n$12\r\nbegin_search\r\n%2\r\n\
             $4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n%1\r\n$5\r\nindex\r\n:1\r\n$9\r\nfind_keys\r\n%2\r\n$4\r\ntype\r\n\
             $5\r\nrange\r\n$4\r\nspec\r\n%3\r\n$7\r\nlastkey\r\n:0\r\n$7\r\nkeystep\r\n:1\r\n$5\r\nlimit\r\n:0\r\n~0\r\n"
        );
    }

    #[test]
    fn a_container_describes_its_subcommands_by_full_name() {
        let mut node = Node::new();
        let reply = node.run("COMMAND INFO object");
        assert!(
            reply.starts_with(
                "*1\r\n*10\r\n$6\r\nobject\r\n:-2\r\n*0\r\n:0\r\n:0\r\n:0\r\n*1\r\n+@slow\r\n*0\r\n*0\r\n*6\r\n"
            ),
            "{reply}"
        );
        assert!(reply.contains("$15\r\nobject|encoding\r\n:3\r\n*1\r\n+readonly\r\n:2\r\n:2\r\n:1\r\n"), "{reply}");
        let alone = node.run("COMMAND INFO Object|Encoding");
        assert!(alone.starts_with("*1\r\n*10\r\n$15\r\nobject|encoding\r\n"), "{alone}");
    }

    #[test]
    fn everything_is_counted_listed_and_described() {
        let mut node = Node::new();
        let total = TABLE.len();
        assert_eq!(node.run("COMMAND COUNT"), format!(":{total}\r\n"));
        assert!(node.run("COMMAND LIST").starts_with(&format!("*{total}\r\n")));
        let all = node.run("COMMAND");
        assert!(all.starts_with(&format!("*{total}\r\n*10\r\n")));
        assert_eq!(node.run("COMMAND INFO"), all);
        assert!(node.run("COMMAND DOCS").starts_with(&format!("*{}\r\n", total * 2)));
    }

    #[test]
    fn lists_are_filtered_by_category_and_pattern() {
        let mut node = Node::new();
        assert_eq!(
            node.run("COMMAND LIST FILTERBY PATTERN OBJECT|*"),
            "*6\r\n$15\r\nobject|encoding\r\n$12\r\nobject|flags\r\n$11\r\nobject|freq\r\n$15\r\nobject|idletime\r\n\
             $15\r\nobject|refcount\r\n$11\r\nobject|help\r\n"
        );
        let keyspace = node.run("COMMAND LIST FILTERBY ACLCAT keyspace");
        for name in ["del", "expire", "flushall", "dbsize", "object|encoding", "scan"] {
            assert!(keyspace.contains(&format!("\r\n{name}\r\n")), "{name}");
        }
        assert!(!keyspace.contains("\r\nget\r\n"));
        let dangerous = node.run("COMMAND LIST FILTERBY ACLCAT dangerous");
        for name in ["keys", "flushall", "info", "config|set", "client|kill"] {
            assert!(dangerous.contains(&format!("\r\n{name}\r\n")), "{name}");
        }
        assert_eq!(node.run("COMMAND LIST FILTERBY MODULE any"), "*0\r\n");
        assert_eq!(node.run("COMMAND LIST FILTERBY FOO any"), "-ERR syntax error\r\n");
        assert_eq!(node.run("COMMAND LIST FOO"), "-ERR syntax error\r\n");
        assert_eq!(node.run("COMMAND FOO"), "-ERR unknown subcommand 'FOO'. Try COMMAND HELP.\r\n");
    }

    #[test]
    fn keys_are_found_in_command_lines() {
        let mut node = Node::new();
        let mut expect = |line: &str, reply: &str| assert_eq!(node.run(line), reply, "{line}");
        expect("COMMAND GETKEYS MSET a 1 b 2", "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        expect("COMMAND GETKEYS INVAL a b STALE 5", "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        expect("COMMAND GETKEYS object encoding k", "*1\r\n$1\r\nk\r\n");
        expect("COMMAND GETKEYS client list", "-ERR The command has no key arguments\r\n");
        expect("COMMAND GETKEYS ping", "-ERR The command has no key arguments\r\n");
        expect("COMMAND GETKEYS get", "-ERR Invalid number of arguments specified for command\r\n");
        expect("COMMAND GETKEYS nosuch k", "-ERR Invalid command specified\r\n");
        expect("COMMAND GETKEYS", "-ERR wrong number of arguments for 'command|getkeys' command\r\n");
        expect("COMMAND GETKEYSANDFLAGS GET a", "*1\r\n*2\r\n$1\r\na\r\n*2\r\n+RO\r\n+access\r\n");
        expect("COMMAND GETKEYSANDFLAGS DEL a", "*1\r\n*2\r\n$1\r\na\r\n*2\r\n+RM\r\n+delete\r\n");
        expect(
            "COMMAND GETKEYSANDFLAGS COPY a b",
            "*2\r\n*2\r\n$1\r\na\r\n*2\r\n+RO\r\n+access\r\n*2\r\n$1\r\nb\r\n*2\r\n+OW\r\n+update\r\n",
        );
    }
}
