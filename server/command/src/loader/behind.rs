//! What is written behind: WAITDB waits for it, WB shows what could not be written.

use super::through;
use crate::argument;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::help;
use crate::host::LetterView;
use crate::parked::{Awaited, Kind, Parked, Patience};
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use bytes::Bytes;
use leasehold_protocol::Request;

pub(super) const WAITDB: Spec = Spec {
    name: "waitdb",
    summary: "Waits until all that was written behind so far is in its source; answers how many changes are still pending",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N changes that are pending when the time is up",
    arity: -2,
    flags: Flags::BLOCKING.with(Flags::NOSCRIPT),
    keys: Keys::None,
    arguments: &[Argument::integer("timeout-ms"), Argument::string("loader").optional()],
    subcommands: &[],
    run: waitdb,
};

pub(super) const WB: Spec = Spec {
    name: "wb",
    summary: "Shows the changes written behind that their source refused for good, and tries or drops them",
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
            summary: "Lists dead letters, of one loader or of all",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N dead letters",
            arity: -2,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[Argument::string("loader").optional()],
            subcommands: &[],
            run: list,
        },
        Spec {
            name: "replay",
            summary: "Writes the dead letters of a loader behind once more, where no later change of the key is; answers how many",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N dead letters",
            arity: 3,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[Argument::string("loader")],
            subcommands: &[],
            run: |context, request| count(context, context.host.replay_letters(request.arg(2))),
        },
        Spec {
            name: "drop",
            summary: "Forgets the dead letters of a loader for good; answers how many",
            group: Group::Loader,
            since: "leasehold 0.1.0",
            complexity: "O(N) for N dead letters",
            arity: 3,
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            keys: Keys::None,
            arguments: &[Argument::string("loader")],
            subcommands: &[],
            run: |context, request| count(context, context.host.drop_letters(request.arg(2))),
        },
        help::subcommand(Group::Loader, "leasehold 0.1.0"),
    ],
    run: help::run,
};

fn waitdb(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if request.len() > 3 {
        return context.conclude(Err(ReplyError::Syntax));
    }
    let timeout_ms = match argument::milliseconds(request.arg(1)) {
        Ok(timeout_ms) => timeout_ms,
        Err(error) => return context.conclude(Err(error)),
    };
    let loader = match request.get(2).map(|name| context.host.writer_named(name)) {
        None => None,
        Some(Some(loader)) => Some(loader),
        Some(None) => {
            let text = "NOLOADER no loader of this name writes behind".to_owned();
            return context.conclude(Err(ReplyError::Text(text)));
        }
    };
    let up_to = context.host.last_change();
    through::next_ticket(context);
    let waiter = through::waiter(context, 0);
    if !context.host.wait_flushed(loader, up_to, waiter) {
        context.reply.integer(0);
        return Outcome::Replied;
    }
    // As for WAIT, 0 is as long as may be.
    let timeout_ms = if timeout_ms == 0 { u64::MAX } else { timeout_ms }.min(context.host.wait_ms_max());
    let deadline_ms = context.turn.now_ms.saturating_add(timeout_ms);
    let patience = Patience::Flush { loader, up_to, deadline_ms };
    let awaited = Awaited { db: context.client.db, key: Bytes::new(), waiter, patience, answer: None };
    Parked::park_or_reply_one(context, Kind::One, awaited)
}

fn list(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if request.len() > 3 {
        return context.conclude(Err(ReplyError::Syntax));
    }
    let letters = context.host.letters(request.get(2));
    let reply = &mut *context.reply;
    reply.array(letters.len());
    for LetterView { loader, db, key, value, number, attempts, parked_at_ms, reason } in &letters {
        reply.map(9);
        for (field, text) in [("loader", loader.as_bytes()), ("key", key), ("reason", reason.as_bytes())] {
            reply.bulk(field.as_bytes());
            reply.bulk(text);
        }
        reply.bulk(b"change");
        reply.bulk(if value.is_some() { b"set" } else { b"delete" });
        reply.bulk(b"value");
        match value {
            Some(value) => reply.bulk(value),
            None => reply.null(),
        }
        for (field, number) in [
            ("db", u64::from(*db)),
            ("number", *number),
            ("attempts", u64::from(*attempts)),
            ("parked_at_ms", *parked_at_ms),
        ] {
            reply.bulk(field.as_bytes());
            reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
    Outcome::Replied
}

fn count(context: &mut Context<'_>, counted: Result<u64, String>) -> Outcome {
    let result = counted.map_err(ReplyError::Text);
    let result = result.map(|count| context.reply.integer(i64::try_from(count).unwrap_or(i64::MAX)));
    context.conclude(result)
}
