//! Writes of keys whose loader writes to its source: `set` and `delete` go there first, as SET and DEL do; verbs that change a part
//! of a value are refused.

use super::store::is_delete;
use super::{Form, Verb, buffer};
use crate::context::{Context, Outcome};
use crate::host::Change;
use crate::parked::{Answer, Kind};
use crate::writing::{Effect, write_as};
use bytes::Bytes;
use leasehold_protocol::memcached::{Request, reply};

/// Sends a command that writes to the source of its key, if it has one. `None`: it is a matter of the cache alone.
#[cold]
pub(super) fn intercept(context: &mut Context<'_>, verb: &Verb, request: Request<'_>) -> Option<Outcome> {
    let (db, key) = (context.client.db, request.word(1)?);
    let loader = context.host.writer_for(db, key)?;
    let value = match verb.name {
        "set" => Some(Bytes::copy_from_slice(request.data()?)),
        "delete" if !is_delete(request) => return None,
        "delete" => None,
        // They give what is there another end, or stand on no key.
        "touch" | "gat" | "gats" => return None,
        // A lease is filled with what the source has. Meta commands see to it themselves: only they know the key that base64 stands for.
        "lease-get" | "lease-set" | "mg" | "ms" | "md" | "ma" => return None,
        name => {
            let text = format!(
                "{name} cannot write a key that loader '{}' writes to its source; set and delete can",
                context.host.loader_name(loader)
            );
            reply::error(buffer(context), "SERVER_ERROR", &text);
            return Some(Outcome::Replied);
        }
    };
    let effect = if value.is_some() { Effect::Stored } else { Effect::Deleted { others: Vec::new() } };
    let kind = Kind::Memcached(Form::Write { is_silent: request.is_noreply() });
    let changes = vec![Change { key: Bytes::copy_from_slice(key), value }];
    match write_as(context, kind, db, loader, changes, effect) {
        Ok(outcome) => Some(outcome),
        Err(text) => {
            reply::error(buffer(context), "SERVER_ERROR", &text);
            Some(Outcome::Replied)
        }
    }
}

/// The reply to a write that has ended.
pub(super) fn reply(buffer: &mut Vec<u8>, answer: &Answer) {
    match answer {
        Answer::Ok => reply::line(buffer, b"STORED"),
        Answer::Count(0) => reply::line(buffer, b"NOT_FOUND"),
        Answer::Count(_) => reply::line(buffer, b"DELETED"),
        Answer::Error(text) => reply::error(buffer, "SERVER_ERROR", text),
        Answer::Value(_) | Answer::Entry { .. } | Answer::Absent | Answer::Getl(_) => {}
    }
}
