//! Feed commands: looking at the feeds, which tell what has changed in the databases.

use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::help;
use crate::host::FeedView;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
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
    context.reply.array(feeds.len());
    for feed in &feeds {
        context.reply.map(feed.settings.len() + 1);
        context.reply.bulk(b"name");
        context.reply.bulk(feed.name.as_bytes());
        for (field, value) in &feed.settings {
            context.reply.bulk(field.as_bytes());
            context.reply.bulk(value.as_bytes());
        }
    }
    Outcome::Replied
}

fn stats(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let feeds = context.host.feeds();
    match request.get(2) {
        None => {
            context.reply.array(feeds.len());
            feeds.iter().for_each(|feed| write_counters(context, feed));
            Outcome::Replied
        }
        Some(_) if request.len() > 3 => context.conclude(Err(ReplyError::Syntax)),
        Some(name) => match feeds.iter().find(|feed| feed.name.as_bytes() == name) {
            Some(feed) => {
                write_counters(context, feed);
                Outcome::Replied
            }
            None => context.conclude(Err(ReplyError::err("no feed has this name"))),
        },
    }
}

fn write_counters(context: &mut Context<'_>, feed: &FeedView) {
    context.reply.map(feed.counters.len() + 1);
    context.reply.bulk(b"name");
    context.reply.bulk(feed.name.as_bytes());
    for (field, value) in &feed.counters {
        context.reply.bulk(field.as_bytes());
        context.reply.integer(*value);
    }
}
