//! Commands that count.

use super::extended::Extended;
use crate::argument::{integer, integer_or_error};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Attributes, Expiry, Slot};
use leasehold_protocol::Request;

pub(super) static INCR: Spec = Spec {
    name: "incr",
    summary: "Adds 1 to a whole number; an absent key counts as 0",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key")],
    subcommands: &[],
    run: |context, request| {
        let result = add(context, request, 1);
        context.conclude(result)
    },
};

pub(super) static DECR: Spec = Spec {
    name: "decr",
    summary: "Subtracts 1 from a whole number; an absent key counts as 0",
    run: |context, request| {
        let result = add(context, request, -1);
        context.conclude(result)
    },
    ..INCR
};

pub(super) static INCRBY: Spec = Spec {
    name: "incrby",
    summary: "Adds to a whole number; an absent key counts as 0",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("increment")],
    subcommands: &[],
    run: |context, request| {
        let result = integer_or_error(request.arg(2)).and_then(|increment| add(context, request, increment));
        context.conclude(result)
    },
};

pub(super) static DECRBY: Spec = Spec {
    name: "decrby",
    summary: "Subtracts from a whole number; an absent key counts as 0",
    arguments: &[Argument::key("key"), Argument::integer("decrement")],
    run: |context, request| {
        let result = decrby(context, request);
        context.conclude(result)
    },
    ..INCRBY
};

fn decrby(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let increment = integer_or_error(request.arg(2))?.checked_neg().ok_or(ReplyError::DecrementOverflow)?;
    add(context, request, increment)
}

fn add(context: &mut Context<'_>, request: Request<'_>, increment: i64) -> Result<(), ReplyError> {
    let Context { keyspace, client, reply, turn, .. } = context;
    let sum = keyspace.update(turn, client.db, request.arg(1), |slot| {
        let before = match slot.entry() {
            Some(entry) => integer(entry.value).ok_or(ReplyError::NotAnInteger)?,
            None => 0,
        };
        let sum = before.checked_add(increment).ok_or(ReplyError::Overflow)?;
        replace(slot, itoa::Buffer::new().format(sum).as_bytes());
        Ok(sum)
    })?;
    reply.integer(sum);
    Ok(())
}

/// Stores a value that came of the one before: its life goes on.
fn replace(slot: &mut Slot<'_>, value: &[u8]) {
    let stale_for_ms = slot.entry().map_or(0, |entry| entry.stale_for_ms);
    slot.set(value, Attributes { expiry: Expiry::Keep, stale_for_ms, ..Attributes::PLAIN });
}

pub(super) static INCRBYFLOAT: Spec = Spec {
    name: "incrbyfloat",
    summary: "Adds to a number with decimals; an absent key counts as 0",
    group: Group::String,
    since: "2.6.0",
    complexity: "O(1)",
    arity: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::new("increment", crate::spec::ArgumentKind::Double)],
    subcommands: &[],
    run: |context, request| {
        let result = incrbyfloat(context, request);
        context.conclude(result)
    },
};

fn incrbyfloat(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let increment = Extended::parse(request.arg(2)).ok_or(ReplyError::NotAFloat)?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let text = keyspace.update(turn, client.db, request.arg(1), |slot| {
        let before = match slot.entry() {
            Some(entry) => Extended::parse(entry.value).ok_or(ReplyError::NotAFloat)?,
            None => Extended::ZERO,
        };
        let text = before.plus(increment).and_then(Extended::decimal).ok_or(ReplyError::NotFinite)?;
        replace(slot, text.as_bytes());
        Ok(text)
    })?;
    reply.bulk(text.as_bytes());
    Ok(())
}
