//! Loader commands: reading through by name, and looking at the loaders.

mod behind;
mod order;
pub(crate) mod refresh;
pub(crate) mod through;

pub use order::WARM_RATE_MAX;
pub use through::load_ahead;

use crate::argument;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::help;
use crate::host::NO_LOADER_NAMED;
use crate::listing;
use crate::parked::{Answer, Awaited, Kind, Parked, Patience};
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use bytes::Bytes;
use leasehold_keyspace::Lookup;
use leasehold_protocol::Request;
use refresh::{Reader, hit_near_end};
use through::{Demand, Found};

/// The commands of this group.
pub static SPECS: &[&Spec] = &[&LOADTHROUGH, &MLOADTHROUGH, &LOADER, &behind::WAITDB, &behind::WB];

/// How long LOADER TEST waits for the source, in ms, when the key's loader has a shorter hard timeout.
const TEST_MS_MIN: u64 = 10_000;

const NO_LOADER: &str = "NOLOADER no loader matches this key";

const LOADTHROUGH: Spec = Spec {
    name: "loadthrough",
    summary: "Answers a key, and loads it from its source if it is missing",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(1), and one query if the key is missing",
    arity: -2,
    flags: Flags::READONLY.with(Flags::BLOCKING).with(Flags::NOSCRIPT),
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::word("fresh", "FRESH").optional(),
        Argument::integer("max-stale-ms").with_token("MAXSTALE").optional(),
        Argument::integer("timeout-ms").with_token("TIMEOUT").optional(),
    ],
    subcommands: &[],
    run: loadthrough,
};

const MLOADTHROUGH: Spec = Spec {
    name: "mloadthrough",
    summary: "Answers many keys, and loads the missing ones together",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N keys, and one query per batch of missing keys",
    arity: -2,
    flags: Flags::READONLY.with(Flags::BLOCKING).with(Flags::NOSCRIPT).with(Flags::LISTED_WITH_ERRORS),
    keys: Keys::ALL,
    arguments: &[Argument::key("key").multiple()],
    subcommands: &[],
    run: mloadthrough,
};

const LOADER: Spec = Spec {
    name: "loader",
    summary: "Shows the configured loaders and what they do",
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
            summary: "Lists the loaders with their settings and state",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N loaders",
            arity: 2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[],
            subcommands: &[],
            run: list,
        },
        Spec {
            name: "stats",
            summary: "Shows the counters of one loader or of all",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N loaders",
            arity: -2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[Argument::string("name").optional()],
            subcommands: &[],
            run: stats,
        },
        Spec {
            name: "explain",
            summary: "Shows how a key would be loaded, without loading it",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N loaders",
            arity: 3,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::Range { first: 2, last: 2, step: 1 },
            arguments: &[Argument::key("key")],
            subcommands: &[],
            run: explain,
        },
        Spec {
            name: "test",
            summary: "Loads a key from its source and answers the value without storing it",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "One query",
            arity: 3,
            flags: Flags::ADMIN.with(Flags::BLOCKING).with(Flags::NOSCRIPT),
            keys: Keys::Range { first: 2, last: 2, step: 1 },
            arguments: &[Argument::key("key")],
            subcommands: &[],
            run: test,
        },
        order::PAUSE,
        order::RESUME,
        order::WARM,
        order::RELOAD,
        help::subcommand(Group::Loader, "leasehold 0.1.0"),
    ],
    run: help::run,
};

fn loadthrough(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let demand = match parse_demand(request) {
        Ok(demand) => demand,
        Err(error) => return context.conclude(Err(error)),
    };
    let key = request.arg(1);
    if !demand.fresh {
        match look(context, key, demand.stale_ms_max) {
            Some(Answer::Value(value)) => {
                context.reply.bulk(&value);
                return Outcome::Replied;
            }
            Some(_) => {
                context.reply.null();
                return Outcome::Replied;
            }
            None => {}
        }
    }
    match context.host.loader_for(context.client.db, key) {
        Some(policy) => through::load_one(context, key, policy, demand),
        None => context.conclude(Err(ReplyError::Text(NO_LOADER.to_owned()))),
    }
}

fn parse_demand(request: Request<'_>) -> Result<Demand, ReplyError> {
    let mut demand = Demand::PLAIN;
    let mut index = 2;
    while let Some(word) = request.get(index) {
        let value = || argument::milliseconds(request.get(index + 1).ok_or(ReplyError::Syntax)?);
        if argument::is_word(word, "FRESH") {
            demand.fresh = true;
            index += 1;
        } else if argument::is_word(word, "MAXSTALE") {
            demand.stale_ms_max = Some(value()?);
            index += 2;
        } else if argument::is_word(word, "TIMEOUT") {
            demand.timeout_ms = Some(value()?);
            index += 2;
        } else {
            return Err(ReplyError::Syntax);
        }
    }
    if demand.fresh && demand.stale_ms_max.is_some() {
        return Err(ReplyError::err("FRESH and MAXSTALE cannot be used together"));
    }
    Ok(demand)
}

/// What the keyspace can answer by itself: a fresh value, or a known absence. A value that is fresh only because a load failed
/// is none past `stale_ms_max`.
fn look(context: &mut Context<'_>, key: &[u8], stale_ms_max: Option<u64>) -> Option<Answer> {
    let (access, now_ms, near_end_ms) = (context.client.access(), context.turn.now_ms, context.turn.near_end_ms);
    let mut near_end = None;
    let lookup = context.keyspace.lookup(context.turn, context.client.db, key, access, |entry| {
        near_end = entry.expire_at_ms.filter(|&at_ms| at_ms < near_end_ms);
        let is_near = stale_ms_max.is_none_or(|most| entry.stale_ms(now_ms) <= most);
        is_near.then(|| Bytes::copy_from_slice(entry.value))
    });
    match lookup {
        Lookup::Fresh(value) => {
            if let Some(expire_at_ms) = near_end {
                hit_near_end(context, key, expire_at_ms, Reader::Through);
            }
            value.map(Answer::Value)
        }
        Lookup::Negative { .. } => Some(Answer::Absent),
        Lookup::Stale(_) | Lookup::Absent => None,
    }
}

fn mloadthrough(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    through::load_many(context, Kind::ManyWithErrors, request.args_from(1), |context, key| {
        match look(context, key, None) {
            Some(answer) => Found::Answer(answer),
            None => match context.host.loader_for(context.client.db, key) {
                Some(policy) => Found::Loader(policy),
                None => Found::Answer(Answer::Error(NO_LOADER.to_owned())),
            },
        }
    })
}

fn list(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    let loaders = context.host.loaders();
    listing::list(context, &loaders)
}

fn stats(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let loaders = context.host.loaders();
    listing::stats(context, request, &loaders, &["state", "warm_state"], NO_LOADER_NAMED)
}

fn explain(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match context.host.explain(context.client.db, request.arg(2)) {
        Some(fields) => {
            context.reply.map(fields.len());
            for (field, value) in &fields {
                context.reply.bulk(field.as_bytes());
                context.reply.bulk(value.as_bytes());
            }
            Outcome::Replied
        }
        None => context.conclude(Err(ReplyError::Text(NO_LOADER.to_owned()))),
    }
}

fn test(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (db, key, now_ms) = (context.client.db, request.arg(2), context.turn.now_ms);
    let Some(policy) = context.host.loader_for(db, key) else {
        return context.conclude(Err(ReplyError::Text(NO_LOADER.to_owned())));
    };
    through::next_ticket(context);
    let waiter = through::waiter(context, 0);
    if let Err(text) = context.host.test_load(db, key, waiter) {
        return context.conclude(Err(ReplyError::Text(text)));
    }
    let deadline_ms = now_ms + policy.hard_timeout_ms.max(TEST_MS_MIN);
    let awaited = Awaited {
        db,
        key: Bytes::copy_from_slice(key),
        waiter,
        patience: Patience::Test { deadline_ms, asked_ms: now_ms },
        answer: None,
    };
    Parked::park_or_reply_one(context, Kind::One, awaited)
}
