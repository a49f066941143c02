//! SETL: fill a key under a lease.

use crate::argument;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::string::lifetime::Lifetime;
use leasehold_keyspace::{Expiry, Fill, Filled, Keyspace, LostReason, TAGS_MAX, Tag, Turn};
use leasehold_protocol::Request;

/// Runs SETL.
pub(super) fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Brought { token, expiry, stale_for_ms, version, tags } = match parse(request, context.turn, context.keyspace) {
        Ok(parsed) => parsed,
        Err(error) => return context.conclude(Err(error)),
    };
    // The source's row is older than what it is still to get.
    if context.host.writes_to_sources() && context.host.is_pending(context.client.db, request.arg(1)) {
        context.reply.simple(LostReason::Revoked.reply());
        return Outcome::Replied;
    }
    let fill = Fill::Value { value: request.arg(3), expiry, stale_for_ms, version, client_flags: 0, tags: &tags };
    match context.keyspace.fill(context.turn, context.client.db, request.arg(1), token, fill) {
        Filled::Stored => context.reply.simple("STORED"),
        Filled::Stale => context.reply.simple("STALE"),
        Filled::Lost(reason) => context.reply.simple(reason.reply()),
    }
    Outcome::Replied
}

/// What a holder brings beside the value.
struct Brought {
    token: u64,
    expiry: Expiry,
    stale_for_ms: u64,
    version: Option<u64>,
    tags: Vec<Tag>,
}

fn parse(request: Request<'_>, turn: &Turn, keyspace: &Keyspace) -> Result<Brought, ReplyError> {
    let token = argument::token(request.arg(2))?;
    let mut tags = Vec::new();
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
        } else if argument::is_word(word, "TAGS") {
            let count = argument::unsigned(argument).and_then(|count| usize::try_from(count).ok());
            let count =
                count.filter(|&count| count <= TAGS_MAX && index + count <= request.len()).ok_or_else(|| {
                    ReplyError::err(format_args!("TAGS needs a number from 0 to {TAGS_MAX}, and so many tags"))
                })?;
            tags = request.args_from(index).take(count).map(|name| keyspace.tag(name)).collect();
            index += count;
        } else {
            return Err(ReplyError::Syntax);
        }
    }
    Ok(Brought { token, expiry: lifetime.expiry(turn, "setl")?, stale_for_ms, version, tags })
}
