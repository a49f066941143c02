//! Feed commands: looking at the feeds, which tell what has changed in the databases.

use crate::context::{Context, Outcome};
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use crate::{help, listing};
use leasehold_protocol::Request;

/// The commands of this file; they belong to the group of the loaders.
pub static SPECS: &[&Spec] = &[&FEED];

const FEED: Spec = Spec {
    name: "feed",
    summary: "Shows the configured feeds and what they have told",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "Depends on the subcommand",
    arity: -2,
    flags: Flags::NONE,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[
        Spec {
            name: "list",
            summary: "Lists the feeds with their settings and state",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N feeds",
            arity: 2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[],
            subcommands: &[],
            run: list,
        },
        Spec {
            name: "stats",
            summary: "Shows the counters of one feed or of all",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N feeds",
            arity: -2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[Argument::string("name").optional()],
            subcommands: &[],
            run: stats,
        },
        help::subcommand(Group::Loader, "leasehold 0.1.0"),
    ],
    run: help::run,
};

fn list(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    let feeds = context.host.feeds();
    listing::list(context, &feeds)
}

fn stats(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let feeds = context.host.feeds();
    listing::stats(context, request, &feeds, &[], "ERR no feed has this name")
}
