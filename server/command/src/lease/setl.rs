//! SETL: fill a key under a lease.

use crate::argument::{self, TimeUnit};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use leasehold_keyspace::{Expiry, Fill, Filled, Turn};
use leasehold_protocol::Request;

/// Runs SETL.
pub(super) fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (token, fill) = match parse(request, context.turn) {
        Ok(parsed) => parsed,
        Err(error) => return context.conclude(Err(error)),
    };
    match context.keyspace.fill(context.turn, context.client.db, request.arg(1), token, fill) {
        Filled::Stored => context.reply.simple("STORED"),
        Filled::Stale => context.reply.simple("STALE"),
        Filled::Lost(reason) => context.reply.simple(reason.reply()),
    }
    Outcome::Replied
}

fn parse<'a>(request: Request<'a>, turn: &Turn) -> Result<(u64, Fill<'a>), ReplyError> {
    let token = argument::token(request.arg(2))?;
    let value = request.arg(3);
    let mut expiry = None;
    let mut stale_for_ms = 0;
    let mut version = None;
    let mut index = 4;
    while let Some(word) = request.get(index) {
        index += 1;
        if argument::is_word(word, "KEEPTTL") && expiry.is_none() {
            expiry = Some(Expiry::Keep);
            continue;
        }
        let argument = request.get(index).ok_or(ReplyError::Syntax)?;
        index += 1;
        if let Some(unit) = TimeUnit::from_word(word).filter(|_| expiry.is_none()) {
            expiry = Some(Expiry::At(unit.deadline_ms(argument, turn, "setl")?));
        } else if argument::is_word(word, "STALEFOR") {
            stale_for_ms = argument::milliseconds(argument)?;
        } else if argument::is_word(word, "VER") {
            version = Some(argument::version(argument)?);
        } else {
            return Err(ReplyError::Syntax);
        }
    }
    Ok((token, Fill::Value { value, expiry: expiry.unwrap_or(Expiry::Never), stale_for_ms, version }))
}
