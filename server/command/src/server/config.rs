//! `CONFIG`: options by Redis's names and ours, and the counters' restart.

use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::help;
use crate::spec::{Argument, Flags, Group, Handler, Keys, Spec};
use leasehold_protocol::Request;

const OPERATORS: Flags = Flags::ADMIN.with(Flags::NOSCRIPT).with(Flags::LOADING).with(Flags::STALE);

pub(super) static CONFIG: Spec = Spec {
    name: "config",
    summary: "Tells and changes the configuration while the node runs",
    group: Group::Server,
    since: "2.0.0",
    subcommands: &[
        subcommand(
            "get",
            "Tells the values of the options that match glob patterns",
            "O(N) for N options",
            -3,
            &[Argument::string("parameter").multiple()],
            get,
        ),
        subcommand(
            "set",
            "Changes options, all or none",
            "O(N) for N options",
            -4,
            &[Argument::block("data", &[Argument::string("parameter"), Argument::string("value")]).multiple()],
            |context, request| {
                let result = set(context, request).map(|()| context.reply.ok());
                context.conclude(result)
            },
        ),
        subcommand("resetstat", "Sets the counters of INFO to zero", "O(1)", 2, &[], |context, _| {
            context.keyspace.reset_stats();
            context.host.reset_stats();
            context.reply.ok();
            Outcome::Replied
        }),
        subcommand(
            "rewrite",
            "Is refused: the configuration file belongs to the operator",
            "O(1)",
            2,
            &[],
            |context, _| {
                context.conclude(Err(ReplyError::err(
                    "CONFIG REWRITE is not supported: the server never writes its configuration file",
                )))
            },
        ),
        help::subcommand(Group::Server, "5.0.0"),
    ],
    ..help::CONTAINER
};

const fn subcommand(
    name: &'static str,
    summary: &'static str,
    complexity: &'static str,
    arity: i32,
    arguments: &'static [Argument],
    run: Handler,
) -> Spec {
    let (group, flags, keys, since) = (Group::Server, OPERATORS, Keys::None, "2.0.0");
    Spec { name, summary, group, since, complexity, arity, flags, keys, arguments, subcommands: &[], run }
}

fn get(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let patterns: Vec<&[u8]> = request.args_from(2).collect();
    let options = context.host.config_get(&patterns);
    context.reply.map(options.len());
    for (name, value) in &options {
        context.reply.bulk(name.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    Outcome::Replied
}

fn set(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    if !request.len().is_multiple_of(2) {
        return Err(ReplyError::WrongArity { command: "config|set".to_owned() });
    }
    let arguments: Vec<&[u8]> = request.args_from(2).collect();
    let pairs: Vec<(&[u8], &[u8])> = arguments.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    for (index, (name, _)) in pairs.iter().enumerate() {
        if pairs[..index].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
            let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
            return Err(ReplyError::err(format_args!(
                "CONFIG SET failed (possibly related to argument '{name}') - duplicate parameter"
            )));
        }
    }
    context.host.config_set(&pairs)
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn options_are_set_and_told_as_a_map() {
        let mut node = Node::new();
        assert_eq!(node.run("CONFIG SET maxmemory 1gb timeout 5"), "+OK\r\n");
        assert_eq!(node.run("CONFIG GET max* nosuch"), "*2\r\n$9\r\nmaxmemory\r\n$3\r\n1gb\r\n");
        node.run("HELLO 3");
        assert_eq!(node.run("CONFIG GET TIMEOUT"), "%1\r\n$7\r\ntimeout\r\n$1\r\n5\r\n");
        assert_eq!(node.run("CONFIG GET nosuch"), "%0\r\n");
    }

    #[test]
    fn half_a_pair_and_the_same_option_twice_are_refused() {
        let mut node = Node::new();
        let wrong = "-ERR wrong number of arguments for 'config|set' command\r\n";
        assert_eq!(node.run("CONFIG SET maxmemory"), wrong);
        assert_eq!(node.run("CONFIG SET maxmemory 1 timeout"), wrong);
        assert_eq!(
            node.run("CONFIG SET maxmemory 1 maxmemory 2"),
            "-ERR CONFIG SET failed (possibly related to argument 'maxmemory') - duplicate parameter\r\n"
        );
        assert!(node.host.options.borrow().is_empty());
        assert!(node.run("CONFIG REWRITE").starts_with("-ERR CONFIG REWRITE is not supported"));
    }

    #[test]
    fn resetstat_restarts_both_sides_counters() {
        let mut node = Node::new();
        node.run("GET nokey");
        assert_eq!(node.keyspace.stats().misses, 1);
        assert_eq!(node.run("CONFIG RESETSTAT"), "+OK\r\n");
        assert_eq!(node.host.stats_resets.get(), 1);
        assert_eq!(node.keyspace.stats().misses, 0);
    }
}
