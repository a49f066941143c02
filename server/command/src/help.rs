//! The `HELP` subcommand that every container has: its subcommands' usage lines and summaries, from the table.

use crate::context::{Context, Outcome};
use crate::spec::{Flags, Group, Keys, Spec};
use crate::table;
use crate::usage::usage;
use leasehold_protocol::Request;

/// What is the same of all commands that only have subcommands. The name, the summary, the group, `since` and they are each one's own.
pub const CONTAINER: Spec = Spec {
    name: "",
    summary: "",
    group: Group::Server,
    since: "",
    complexity: "Depends on subcommand",
    arity: -2,
    flags: Flags::NONE,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run,
};

/// The row of a container's `HELP`.
#[must_use]
pub const fn subcommand(group: Group, since: &'static str) -> Spec {
    Spec {
        name: "help",
        summary: "Prints this help",
        group,
        since,
        complexity: "O(1)",
        arity: 2,
        flags: Flags::LOADING.with(Flags::STALE),
        keys: Keys::None,
        arguments: &[],
        subcommands: &[],
        run,
    }
}

/// Answers with the help of the container that argument 0 names.
pub fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (_, spec) = table::command(request.arg(0)).expect("the dispatcher found the command by this name");
    let mut lines =
        vec![format!("{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", spec.name.to_ascii_uppercase())];
    if table::arity_accepts(spec.arity, 1) {
        lines.push("(no subcommand)".to_owned());
        lines.push(format!("    {}.", spec.summary));
    }
    for subcommand in spec.subcommands {
        lines.push(usage(subcommand));
        lines.push(format!("    {}.", subcommand.summary));
    }
    context.reply.array(lines.len());
    lines.iter().for_each(|line| context.reply.simple(line));
    Outcome::Replied
}
