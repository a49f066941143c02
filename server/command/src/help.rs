//! The HELP of a container command, from its declaration.

use crate::spec::{Argument, ArgumentKind, Spec};
use leasehold_protocol::Reply;

/// Writes an array of lines in the form Redis uses: the title, then each subcommand and, indented, what it does.
pub(crate) fn write(reply: &mut Reply, container: &Spec) {
    let name = container.name.to_ascii_uppercase();
    reply.array(1 + 2 * container.subcommands.len());
    reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for subcommand in container.subcommands {
        let mut line = subcommand.name.to_ascii_uppercase();
        for argument in subcommand.arguments {
            line.push(' ');
            line.push_str(&usage(argument));
        }
        reply.simple(&line);
        reply.simple(&format!("    {}.", subcommand.summary));
    }
}

/// One argument as it is written in a usage line: `[MATCH <pattern>]`, `<a|b>`, `<key> [<key> ...]`.
pub(crate) fn usage(argument: &Argument) -> String {
    let join = |separator| argument.parts.iter().map(usage).collect::<Vec<_>>().join(separator);
    let value = match argument.kind {
        ArgumentKind::PureToken => argument.token.unwrap_or(argument.name).to_owned(),
        ArgumentKind::OneOf => format!("<{}>", join(" | ")),
        ArgumentKind::Block => join(" "),
        _ => format!("<{}>", argument.name),
    };
    let value = match argument.token {
        Some(token) if argument.kind != ArgumentKind::PureToken => format!("{token} {value}"),
        _ => value,
    };
    let value = if argument.multiple { format!("{value} [{value} ...]") } else { value };
    if argument.optional { format!("[{value}]") } else { value }
}
