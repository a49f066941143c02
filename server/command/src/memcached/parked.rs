//! How a parked command of memcached's answers once all its keys have their answers.

use super::read::look;
use super::{TOO_LONG, buffer, meta, writing};
use crate::context::Context;
use crate::parked::{Answer, Awaited};
use crate::room::Room;
use leasehold_protocol::memcached::reply;

/// What the reply looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `get`, `gets`: the values that there are, or the first error.
    Get {
        /// `gets`.
        with_version: bool,
    },
    /// `set`, `delete` of a key whose loader writes.
    Write {
        /// `noreply`.
        is_silent: bool,
    },
    /// `mg`, with the flags that it was asked with.
    MetaGet(Box<[u8]>),
    /// `ms`, `md` of a key whose loader writes.
    MetaWrite {
        /// `q`.
        is_quiet: bool,
        /// The flags of the reply.
        flags: Box<[u8]>,
    },
}

impl Form {
    /// Writes the reply to keys that all have an answer.
    pub(crate) fn reply(&self, context: &mut Context<'_>, keys: &[Awaited]) {
        let answer = || keys.first().and_then(|key| key.answer.as_ref());
        match self {
            Self::Get { with_version } => values(context, keys, *with_version),
            Self::Write { is_silent: true } => {}
            Self::Write { is_silent: false } => {
                if let Some(answer) = answer() {
                    writing::reply(buffer(context), answer);
                }
            }
            Self::MetaGet(flags) => {
                if let Some(awaited) = keys.first() {
                    meta::loaded(context, &awaited.key, flags, awaited.answer.as_ref());
                }
            }
            Self::MetaWrite { is_quiet, flags } => {
                if let Some(answer) = answer() {
                    meta::written(buffer(context), answer, *is_quiet, flags);
                }
            }
        }
    }
}

fn values(context: &mut Context<'_>, keys: &[Awaited], with_version: bool) {
    let start = context.reply.len();
    // Again: what is stored by now may be longer than what was counted.
    let mut room = Room::of(context.reply);
    for Awaited { key, answer, .. } in keys {
        // What was loaded has flags and a version only where it is stored, and may have been overwritten since: the entry there is
        // taken as a whole, so that flags, value and version belong together.
        let stored = match answer {
            Some(Answer::Value(_)) => look(context, key, with_version),
            _ => None,
        };
        let version = |version| with_version.then_some(version);
        match stored.as_ref().or(answer.as_ref()) {
            Some(Answer::Entry { value, .. } | Answer::Value(value)) if !room.take(value.len()) => {
                context.reply.truncate(start);
                return reply::line(buffer(context), TOO_LONG);
            }
            Some(Answer::TooLong) => {
                context.reply.truncate(start);
                return reply::line(buffer(context), TOO_LONG);
            }
            Some(Answer::Entry { client_flags, value, version: own }) => {
                reply::value(buffer(context), key, *client_flags, value, version(*own));
            }
            // Not stored, or gone again: no version is 0, so `cas` with it stores nothing.
            Some(Answer::Value(value)) => reply::value(buffer(context), key, 0, value, version(0)),
            Some(Answer::Error(text)) => {
                context.reply.truncate(start);
                return reply::error(buffer(context), "SERVER_ERROR", text);
            }
            Some(_) | None => {}
        }
    }
    buffer(context).extend_from_slice(b"END\r\n");
}
