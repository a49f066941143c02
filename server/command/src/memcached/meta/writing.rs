//! Meta commands on keys whose loader writes to its source: whole values and deletions go there first, as by SET and DEL; what
//! changes a part of a value is refused.

use super::answer;
use super::flags::Asked;
use crate::context::{Context, Outcome};
use crate::host::Change;
use crate::memcached::{Form, buffer};
use crate::parked::{Answer, Kind};
use crate::writing::{Effect, write_as};
use bytes::Bytes;
use leasehold_protocol::memcached::reply;

/// A source that gets the writes of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    loader: u32,
}

/// Where the writes of a key go, if not to the cache alone.
#[inline]
pub(super) fn source_of(context: &Context<'_>, key: &[u8]) -> Option<Source> {
    if !context.host.writes_to_sources() {
        return None;
    }
    context.host.writer_for(context.client.db, key).map(|loader| Source { loader })
}

/// Tells that such a command would change the cache and not the source.
#[cold]
pub(super) fn refuse(context: &mut Context<'_>, source: Source, what: &str, instead: &str) -> Outcome {
    let name = context.host.loader_name(source.loader);
    let text = format!("{what} cannot write a key that loader '{name}' writes to its source; {instead} can");
    reply::error(buffer(context), "SERVER_ERROR", &text);
    Outcome::Replied
}

/// Sends a value.
#[cold]
pub(super) fn store<'w>(
    context: &mut Context<'_>,
    source: Source,
    asked: &Asked<'_>,
    words: impl Iterator<Item = &'w [u8]>,
    value: &[u8],
) -> Outcome {
    let change = Change { key: Bytes::copy_from_slice(&asked.key), value: Some(Bytes::copy_from_slice(value)) };
    write(context, source, change, Effect::Stored, form(asked, words))
}

/// Sends a deletion.
#[cold]
pub(super) fn delete<'w>(
    context: &mut Context<'_>,
    source: Source,
    asked: &Asked<'_>,
    words: impl Iterator<Item = &'w [u8]>,
) -> Outcome {
    let change = Change { key: Bytes::copy_from_slice(&asked.key), value: None };
    write(context, source, change, Effect::Deleted { others: Vec::new() }, form(asked, words))
}

fn write(context: &mut Context<'_>, source: Source, change: Change, effect: Effect, form: Form) -> Outcome {
    let db = context.client.db;
    write_as(context, Kind::Memcached(form), db, source.loader, vec![change], effect).unwrap_or_else(|text| {
        reply::error(buffer(context), "SERVER_ERROR", &text);
        Outcome::Replied
    })
}

/// The flags of the reply are written ahead: none of them depends on how the write ends.
fn form<'w>(asked: &Asked<'_>, words: impl Iterator<Item = &'w [u8]>) -> Form {
    let mut flags = Vec::new();
    answer::flags(&mut flags, asked.name(), words, &answer::Told::default());
    Form::MetaWrite { is_quiet: asked.is_quiet, flags: flags.into() }
}

/// Answers an `ms` or `md` that has waited for its source.
pub(in crate::memcached) fn written(buffer: &mut Vec<u8>, outcome: &Answer, is_quiet: bool, flags: &[u8]) {
    let code: &[u8] = match outcome {
        Answer::Error(text) => return reply::error(buffer, "SERVER_ERROR", text),
        Answer::Count(0) => b"NF",
        _ if is_quiet => return,
        _ => b"HD",
    };
    buffer.extend_from_slice(code);
    buffer.extend_from_slice(flags);
    answer::end(buffer);
}
