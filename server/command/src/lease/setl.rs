//! SETL: fill a key under a lease.

use crate::argument;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::string::lifetime::Lifetime;
use leasehold_keyspace::{Fill, Filled, Turn};
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
    let mut lifetime = Lifetime::default();
    let mut stale_for_ms = 0;
    let mut version = None;
    let mut index = 4;
    while let Some(word) = request.get(index) {
        if let Some(next) = lifetime.take("KEEPTTL", request, index)? {
            index = next;
            continue;
        }
        let argument = request.get(index + 1).ok_or(ReplyError::Syntax)?;
        index += 2;
        if argument::is_word(word, "STALEFOR") {
            stale_for_ms = argument::milliseconds(argument)?;
        } else if argument::is_word(word, "VER") {
            version = Some(argument::version(argument)?);
        } else {
            return Err(ReplyError::Syntax);
        }
    }
    Ok((token, Fill::Value { value, expiry: lifetime.expiry(turn, "setl")?, stale_for_ms, version }))
}
