//! Writing through: a write of a key whose loader writes goes to the source first, and the reply waits for the commit.
//!
//! What is not a whole value or its end (`APPEND`, `INCR`, `RENAME`, …) is refused for such keys: it would change the cache and
//! not the source. What changes a TTL or a lease only passes.

use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::host::Change;
use crate::loader::through::{next_ticket, waiter};
use crate::parked::{Awaited, Kind, Parked, Patience};
use crate::spec::{Group, Spec};
use crate::string::set;
use bytes::Bytes;
use leasehold_keyspace::Db;
use leasehold_protocol::Request;

/// What the cache does once the source has committed.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// The reply is OK.
    Stored,
    /// The reply is how many keys are gone; these are not of a loader that writes, and go with the others.
    Deleted { others: Vec<Bytes> },
}

/// Sends a command that writes to the source of its keys, if it has one. `None`: it is a matter of the cache alone.
pub(crate) fn intercept(context: &mut Context<'_>, spec: &Spec, request: Request<'_>) -> Option<Outcome> {
    let db = context.client.db;
    let loader = crate::table::keys_of(spec, request).find_map(|key| context.host.writer_for(db, key))?;
    let result = match spec.name {
        "set" | "setex" | "psetex" => store(context, db, loader, request),
        "del" | "unlink" => delete(context, db, loader, request),
        "expire" | "pexpire" | "expireat" | "pexpireat" | "persist" | "getex" => return None,
        _ if spec.group == Group::Lease => return None,
        name => Err(ReplyError::err(format_args!(
            "{} cannot write a key that loader '{}' writes to its source; SET, SETEX, PSETEX, DEL and UNLINK can",
            name.to_ascii_uppercase(),
            context.host.loader_name(loader)
        ))),
    };
    Some(result.unwrap_or_else(|error| context.conclude(Err(error))))
}

fn store(context: &mut Context<'_>, db: Db, loader: u32, request: Request<'_>) -> Result<Outcome, ReplyError> {
    let value = set::whole_value(context, request)?;
    let change = |key: &[u8]| Change { key: Bytes::copy_from_slice(key), value: Some(Bytes::copy_from_slice(value)) };
    let changes = vec![change(request.arg(1))];
    Ok(write(context, db, loader, changes, Effect::Stored))
}

fn delete(context: &mut Context<'_>, db: Db, loader: u32, request: Request<'_>) -> Result<Outcome, ReplyError> {
    let (mut changes, mut others) = (Vec::<Change>::new(), Vec::new());
    for key in request.args_from(1) {
        match context.host.writer_for(db, key) {
            None => others.push(Bytes::copy_from_slice(key)),
            // Named twice, it is gone once.
            Some(of) if of == loader && changes.iter().any(|change| change.key == key) => {}
            Some(of) if of == loader => changes.push(Change { key: Bytes::copy_from_slice(key), value: None }),
            Some(_) => {
                return Err(ReplyError::err(
                    "the keys belong to several loaders that write; delete those of each apart",
                ));
            }
        }
    }
    Ok(write(context, db, loader, changes, Effect::Deleted { others }))
}

fn write(context: &mut Context<'_>, db: Db, loader: u32, changes: Vec<Change>, effect: Effect) -> Outcome {
    write_as(context, Kind::One, db, loader, changes, effect).unwrap_or_else(|text| {
        context.reply.error(&text);
        Outcome::Replied
    })
}

/// Begins a write that is answered in the form of `kind`.
///
/// # Errors
/// The text of the error reply: nothing was begun.
pub(crate) fn write_as(
    context: &mut Context<'_>,
    kind: Kind,
    db: Db,
    loader: u32,
    changes: Vec<Change>,
    effect: Effect,
) -> Result<Outcome, String> {
    next_ticket(context);
    let waiter = waiter(context, 0);
    let key = changes.first().map(|change| change.key.clone()).unwrap_or_default();
    let timeout_ms = context.host.start_write(loader, db, changes, waiter)?;
    let asked_ms = context.turn.now_ms;
    let deadline_ms = asked_ms.saturating_add(timeout_ms);
    let patience = Patience::Write { loader, effect, asked_ms, deadline_ms };
    let awaited = Awaited { db, key, waiter, patience, answer: None };
    Ok(Parked::park_or_reply_one(context, kind, awaited))
}
