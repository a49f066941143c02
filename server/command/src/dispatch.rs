//! One request from name to outcome: look up, admit, run.

use crate::client::{ReplyMode, Routing};
use crate::context::{Context, Forward, Outcome};
use crate::copies;
use crate::error::ReplyError;
use crate::redirect::{self, Away};
use crate::spec::{Flags, Spec};
use crate::{table, writing};
use leasehold_protocol::Request;

/// Executes one request; an empty one does nothing.
pub fn execute(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if request.len() == 0 {
        return Outcome::Replied;
    }
    if context.client.reply_mode == ReplyMode::On {
        return admit_and_run(context, request);
    }
    execute_silenced(context, request)
}

#[inline]
fn admit_and_run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match admit(context, request) {
        Ok(spec) => {
            if spec.flags.has(Flags::WRITE)
                && context.host.writes_to_sources()
                && let Some(outcome) = writing::intercept(context, spec, request)
            {
                return outcome;
            }
            (spec.run)(context, request)
        }
        Err(Refusal::Error(error)) => {
            context.reply.error(&error);
            Outcome::Replied
        }
        Err(Refusal::Away(Away::One(forward))) => {
            if forward.is_read && copies::answer(context, request) {
                return Outcome::Replied;
            }
            Outcome::Forward(forward)
        }
        Err(Refusal::Away(Away::Parts(split))) => Outcome::Split(split),
    }
}

/// As [`execute`], for a client that said `CLIENT REPLY OFF` or `SKIP`.
#[cold]
fn execute_silenced(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if context.client.reply_mode == ReplyMode::SkipNext {
        context.client.reply_mode = ReplyMode::Skip;
    }
    let start = context.reply.len();
    let mut outcome = admit_and_run(context, request);
    match &mut outcome {
        Outcome::Parked(_) => {}
        Outcome::Forward(Forward { is_silent, .. }) => {
            *is_silent = is_silenced(context.client.reply_mode);
            silence(context, start);
        }
        Outcome::Split(split) => {
            split.is_silent = is_silenced(context.client.reply_mode);
            silence(context, start);
        }
        Outcome::Replied | Outcome::Close | Outcome::Link(_) => silence(context, start),
    }
    outcome
}

fn is_silenced(mode: ReplyMode) -> bool {
    matches!(mode, ReplyMode::Off | ReplyMode::Skip)
}

/// Takes back the reply written from `start` on, if the client wants none. Called when a command ends; for one that was
/// parked, when it ends later.
pub(crate) fn silence(context: &mut Context<'_>, start: usize) {
    match context.client.reply_mode {
        // SKIP was said just now, and has no reply of its own; or replies are on again, and this one says so.
        ReplyMode::On | ReplyMode::SkipNext => {}
        ReplyMode::Off => context.reply.truncate(start),
        ReplyMode::Skip => {
            context.reply.truncate(start);
            context.client.reply_mode = ReplyMode::On;
        }
    }
}

/// Why a command is not run.
enum Refusal {
    Error(ReplyError),
    /// It runs on other nodes.
    Away(Away),
}

impl From<ReplyError> for Refusal {
    fn from(error: ReplyError) -> Self {
        Self::Error(error)
    }
}

/// The checks before a command, in the order in which Redis makes them. They cost a hit about as much as hashing its key.
#[inline]
fn admit(context: &mut Context<'_>, request: Request<'_>) -> Result<&'static Spec, Refusal> {
    let (index, spec) = table::find(request)?;
    context.client.last_command = Some(index);
    if !context.client.authenticated {
        admit_stranger(context, spec)?;
    }
    if context.client.routing != Routing::Alone
        && let Some(away) = redirect::check(context, spec, request)?
    {
        return Err(Refusal::Away(away));
    }
    let bytes = request.bytes_total();
    if bytes > table::KEY_BYTES_MAX {
        check_keys(spec, request)?;
    }
    if spec.flags.has(Flags::DENYOOM) {
        context.keyspace.make_room(context.turn, bytes).map_err(|_| ReplyError::OutOfMemory)?;
    }
    Ok(spec)
}

/// Who needs no password is taken for authenticated, and stays so when a password is set later, as in Redis.
#[cold]
fn admit_stranger(context: &mut Context<'_>, spec: &Spec) -> Result<(), ReplyError> {
    if !context.host.password_required() {
        context.client.authenticated = true;
        return Ok(());
    }
    if spec.flags.has(Flags::NO_AUTH) { Ok(()) } else { Err(ReplyError::NoAuth) }
}

#[cold]
fn check_keys(spec: &Spec, request: Request<'_>) -> Result<(), ReplyError> {
    match table::keys_of(spec, request).find(|key| key.len() > table::KEY_BYTES_MAX) {
        None => Ok(()),
        Some(key) => Err(ReplyError::err(format_args!(
            "key is too long: {} bytes, and at most {} are allowed",
            key.len(),
            table::KEY_BYTES_MAX
        ))),
    }
}

/// Starts the loads that the last commands asked for, all together. Wakes stay in `turn.effects` for the caller to deliver.
pub fn finish_effects(
    keyspace: &leasehold_keyspace::Keyspace,
    host: &dyn crate::Host,
    turn: &mut leasehold_keyspace::Turn,
) {
    // A load that is refused may leave another behind it.
    while !turn.effects.loads.is_empty() {
        let loads = std::mem::take(&mut turn.effects.loads);
        for (load, reason) in host.start_loads(loads) {
            keyspace.fail(turn, load.db, &load.key, load.token, &reason.into(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::table::KEY_BYTES_MAX;
    use crate::testing::{Node, settings};
    use leasehold_keyspace::Settings;

    #[test]
    fn a_key_of_the_greatest_length_is_stored_and_a_longer_one_named() {
        let mut node = Node::new();
        let (longest, longer) = (vec![b'k'; KEY_BYTES_MAX], vec![b'k'; KEY_BYTES_MAX + 1]);
        assert_eq!(node.run_args(&[b"SET", &longest, b"v"]), b"+OK\r\n");
        assert_eq!(node.run_args(&[b"GET", &longest]), b"$1\r\nv\r\n");
        let refused = b"-ERR key is too long: 65536 bytes, and at most 65535 are allowed\r\n";
        assert_eq!(node.run_args(&[b"SET", &longer, b"v"]), refused);
        assert_eq!(node.run_args(&[b"GET", &longer]), refused);
        assert_eq!(node.run_args(&[b"DEL", b"a", &longer]), refused);
        assert_eq!(node.run_args(&[b"SET", b"a", &longer]), b"+OK\r\n", "a value may be long");
        assert_eq!(node.run_args(&[b"OBJECT", b"ENCODING", &longer]), refused);
    }

    #[test]
    fn without_room_only_commands_that_grow_are_refused() {
        let mut node = Node::with_settings(Settings { shards: 1, memory_bytes_max: 1 << 20, ..settings() });
        node.run("SET a 1");
        let value = vec![b'x'; 4096];
        let mut refused = false;
        for number in 0..1000 {
            let reply = node.run_args(&[b"SET", format!("key:{number}").as_bytes(), &value]);
            refused |= reply.starts_with(b"-OOM ");
        }
        assert!(refused);
        let refusal = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";
        assert_eq!(node.run_args(&[b"APPEND", b"a", &value]), refusal);
        assert_eq!(node.run("GET a"), "$1\r\n1\r\n");
        assert_eq!(node.run("DEL a"), ":1\r\n");
    }

    #[test]
    fn the_last_command_is_noted_with_its_subcommand() {
        let mut node = Node::new();
        node.run("CLIENT GETNAME");
        let index = node.client.last_command.expect("a command ran");
        assert_eq!(crate::table::spec_by_index(index).expect("in range").full_name(), "client|getname");
    }
}
