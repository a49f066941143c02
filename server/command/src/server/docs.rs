//! `COMMAND DOCS`: what each command is for, as maps within maps.

use super::keys::roles;
use crate::spec::{Argument, ArgumentKind, Group, Spec};
use crate::table::Indexed;
use leasehold_protocol::Reply;

/// A map from full name to documentation.
pub(super) fn write(reply: &mut Reply, commands: &[Indexed]) {
    reply.map(commands.len());
    for command in commands {
        reply.bulk(command.full_name().as_bytes());
        document(reply, command.spec);
    }
}

fn document(reply: &mut Reply, spec: &'static Spec) {
    let optional_fields = usize::from(!spec.arguments.is_empty()) + usize::from(!spec.subcommands.is_empty());
    reply.map(4 + optional_fields);
    for (name, text) in [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", group_word(spec.group)),
        ("complexity", spec.complexity),
    ] {
        field(reply, name, text);
    }
    if !spec.arguments.is_empty() {
        reply.bulk(b"arguments");
        let mut keys = KeyArguments { documented: 0, specs: roles(spec).len() };
        write_arguments(reply, spec.arguments, &mut keys);
    }
    if !spec.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        let inner = spec.subcommands.iter().map(|subcommand| Indexed { container: Some(spec), spec: subcommand });
        write(reply, &inner.collect::<Vec<_>>());
    }
}

/// How many key arguments were written, so that the next can name its key specification.
struct KeyArguments {
    documented: usize,
    specs: usize,
}

impl KeyArguments {
    /// Several arguments share the last specification (`LCS key1 key2`).
    fn next_spec(&mut self) -> usize {
        self.documented += 1;
        self.documented.min(self.specs) - 1
    }
}

fn write_arguments(reply: &mut Reply, arguments: &[Argument], keys: &mut KeyArguments) {
    reply.array(arguments.len());
    arguments.iter().for_each(|argument| write_argument(reply, argument, keys));
}

fn write_argument(reply: &mut Reply, argument: &Argument, keys: &mut KeyArguments) {
    let is_key = argument.kind == ArgumentKind::Key;
    // A name of its own for people makes no sense where the parts are shown instead.
    let is_leaf = argument.parts.is_empty();
    let flags: Vec<&str> = [
        (argument.optional, "optional"),
        (argument.multiple, "multiple"),
        (argument.repeats_token(), "multiple_token"),
    ]
    .into_iter()
    .filter_map(|(set, word)| set.then_some(word))
    .collect();
    reply.map(
        2 + usize::from(is_leaf)
            + usize::from(is_key)
            + usize::from(argument.token.is_some())
            + usize::from(!flags.is_empty())
            + usize::from(!is_leaf),
    );
    field(reply, "name", argument.name);
    field(reply, "type", kind_word(argument.kind));
    if is_leaf {
        field(reply, "display_text", argument.name);
    }
    if is_key {
        reply.bulk(b"key_spec_index");
        reply.integer(keys.next_spec() as i64);
    }
    if let Some(token) = argument.token {
        field(reply, "token", token);
    }
    if !flags.is_empty() {
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.iter().for_each(|word| reply.simple(word));
    }
    if !is_leaf {
        reply.bulk(b"arguments");
        write_arguments(reply, argument.parts, keys);
    }
}

fn field(reply: &mut Reply, name: &str, text: &str) {
    reply.bulk(name.as_bytes());
    reply.bulk(text.as_bytes());
}

fn group_word(group: Group) -> &'static str {
    match group {
        Group::Connection => "connection",
        Group::Server => "server",
        Group::Generic => "generic",
        Group::String => "string",
        Group::Bitmap => "bitmap",
        Group::Lease => "lease",
        Group::Loader => "loader",
        Group::Cluster => "cluster",
    }
}

fn kind_word(kind: ArgumentKind) -> &'static str {
    match kind {
        ArgumentKind::Key => "key",
        ArgumentKind::String => "string",
        ArgumentKind::Integer => "integer",
        ArgumentKind::Double => "double",
        ArgumentKind::Pattern => "pattern",
        ArgumentKind::UnixTime => "unix-time",
        ArgumentKind::PureToken => "pure-token",
        ArgumentKind::OneOf => "oneof",
        ArgumentKind::Block => "block",
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn an_expire_is_documented_down_to_its_conditions() {
        let mut node = Node::new();
        node.run("HELLO 3");
        assert_eq!(
            node.run("COMMAND DOCS persist nosuch"),
            "%1\r\n$7\r\npersist\r\n%5\r\n$7\r\nsummary\r\n$19\r\nRemoves a key's TTL\r\n$5\r\nsince\r\n$5\r\n2.2.0\r\n\
             $5\r\ngroup\r\n$7\r\ngeneric\r\n$10\r\ncomplexity\r\n$4\r\nO(1)\r\n$9\r\narguments\r\n*1\r\n%4\r\n$4\r\nname\r\n\
             $3\r\nkey\r\n$4\r\ntype\r\n$3\r\nkey\r\n$12\r\ndisplay_text\r\n$3\r\nkey\r\n$14\r\nkey_spec_index\r\n:0\r\n"
        );
        let expire = node.run("COMMAND DOCS expire");
        assert!(
            expire.contains(
                "%4\r\n$4\r\nname\r\n$9\r\ncondition\r\n$4\r\ntype\r\n$5\r\noneof\r\n$5\r\nflags\r\n~1\r\n+optional\r\n\
                 $9\r\narguments\r\n*4\r\n%4\r\n$4\r\nname\r\n$2\r\nnx\r\n$4\r\ntype\r\n$10\r\npure-token\r\n$12\r\n\
                 display_text\r\n$2\r\nnx\r\n$5\r\ntoken\r\n$2\r\nNX\r\n"
            ),
            "{expire}"
        );
    }

    #[test]
    fn each_key_argument_names_its_key_specification() {
        let mut node = Node::new();
        let specs = |reply: &str| -> Vec<String> {
            reply.split("key_spec_index\r\n:").skip(1).map(|rest| rest[..1].to_owned()).collect()
        };
        assert_eq!(specs(&node.run("COMMAND DOCS rename")), ["0", "1"]);
        assert_eq!(specs(&node.run("COMMAND DOCS lcs")), ["0", "0"]);
        assert_eq!(specs(&node.run("COMMAND DOCS bitop")), ["0", "1"]);
        assert_eq!(specs(&node.run("COMMAND DOCS mset")), ["0"]);
    }

    #[test]
    fn a_container_documents_its_subcommands() {
        let mut node = Node::new();
        let reply = node.run("COMMAND DOCS memory");
        assert!(
            reply.contains("$11\r\nsubcommands\r\n*8\r\n$12\r\nmemory|usage\r\n*10\r\n$7\r\nsummary\r\n"),
            "{reply}"
        );
        assert_eq!(node.run("COMMAND DOCS nosuch"), "*0\r\n");
    }
}
