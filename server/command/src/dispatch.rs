//! One request from name to outcome: look up, admit, run.

use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Flags, Spec};
use crate::table;
use leasehold_protocol::Request;

/// Executes one request; an empty one does nothing.
pub fn execute(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if request.len() == 0 {
        return Outcome::Replied;
    }
    let spec = match admit(context, request) {
        Ok(spec) => spec,
        Err(error) => {
            context.reply.error(&error);
            return Outcome::Replied;
        }
    };
    (spec.run)(context, request)
}

fn admit(context: &mut Context<'_>, request: Request<'_>) -> Result<&'static Spec, ReplyError> {
    let (index, spec) = table::find(request)?;
    context.client.last_command = Some(index);
    if !context.client.authenticated && !spec.flags.has(Flags::NO_AUTH) && context.host.password_required() {
        return Err(ReplyError::NoAuth);
    }
    if spec.flags.has(Flags::DENYOOM) {
        context.keyspace.make_room(context.turn, request.bytes_total()).map_err(|_| ReplyError::OutOfMemory)?;
    }
    Ok(spec)
}

/// Starts the loads that the last commands asked for. Wakes stay in `turn.effects` for the caller to deliver.
pub fn finish_effects(
    keyspace: &leasehold_keyspace::Keyspace,
    host: &dyn crate::Host,
    turn: &mut leasehold_keyspace::Turn,
) {
    while let Some(load) = turn.effects.loads.pop() {
        let (db, key, token) = (load.db, load.key.clone(), load.token);
        if let Err(reason) = host.start_load(load) {
            keyspace.fail(turn, db, &key, token, &reason.into(), 0);
        }
    }
}
