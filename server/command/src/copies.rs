//! Reads of other nodes' hot keys, answered here from copies: see [`crate::Host::read_copy`].
//!
//! A copy knows value and client flags. What asks for more is for the owner, as is all that changes something, and a request that has a key without a copy. Keys that
//! are read together from copies are not of one moment, but each is as young as any other read of it may be here.

use crate::context::Context;
use crate::host::Host;
use crate::memcached;
use crate::room::Room;
use crate::split::{Gather, Split};
use leasehold_protocol::{
    Limits, Parsed, Parser, Reply, Request,
    memcached::{self as text, reply},
};

const END: &[u8] = b"END\r\n";

/// Whether copies may answer the client now. A read must not overtake a change by the same client.
#[inline]
fn may_be_used(context: &Context<'_>) -> bool {
    context.host.may_have_copies() && !context.client.changes_under_way
}

/// Answers a request whose keys are another node's, if there are copies of all of them. `false`: nothing is written.
#[inline]
pub(crate) fn answer(context: &mut Context<'_>, request: Request<'_>) -> bool {
    may_be_used(context) && answer_known(context, request)
}

#[inline(never)]
fn answer_known(context: &mut Context<'_>, request: Request<'_>) -> bool {
    let Context { host, reply, .. } = context;
    if is_get(request) {
        return host.read_copy(request.arg(1), &mut |value, _| reply.bulk(value));
    }
    if !is_mget(request) {
        return false;
    }
    let (start, mut room) = (reply.len(), Room::of(reply));
    reply.array(request.len() - 1);
    let has_all = request.args_from(1).all(|key| read_within(*host, &mut room, key, |value, _| reply.bulk(value)));
    if !has_all {
        reply.truncate(start);
    }
    has_all
}

/// As [`answer`], of a request in memcached's words.
#[inline]
pub(crate) fn answer_text(context: &mut Context<'_>, request: text::Request<'_>) -> bool {
    may_be_used(context) && answer_known_text(context, request)
}

#[inline(never)]
fn answer_known_text(context: &mut Context<'_>, request: text::Request<'_>) -> bool {
    match request.word(0) {
        Some(b"get") => {
            let Context { host, reply, .. } = context;
            let (start, mut room) = (reply.len(), Room::of(reply));
            let buffer = reply.buffer_mut();
            let has_all = request.words_from(1).all(|key| {
                read_within(*host, &mut room, key, |value, flags| reply::value(buffer, key, flags, value, None))
            });
            if has_all {
                buffer.extend_from_slice(END);
            } else {
                buffer.truncate(start);
            }
            has_all
        }
        Some(b"mg") => memcached::answer_meta(context, request),
        _ => false,
    }
}

/// Reads a copy, one of several, if there is one and room for its value.
fn read_within(host: &dyn Host, room: &mut Room, key: &[u8], mut read: impl FnMut(&[u8], u32)) -> bool {
    let mut has_room = true;
    let is_read = host.read_copy(key, &mut |value, flags| {
        has_room = room.take(value.len());
        if has_room {
            read(value, flags);
        }
    });
    is_read && has_room
}

/// Answers the parts of a read that have copies of all of their keys.
pub(crate) fn answer_parts<'k>(context: &Context<'_>, split: &mut Split, key_at: impl Fn(usize) -> &'k [u8]) {
    if !split.is_read || !matches!(split.gather, Gather::List | Gather::Values) || !may_be_used(context) {
        return;
    }
    for part in split.parts.iter_mut().filter(|part| part.way.place.is_some()) {
        let mut out = Reply::new(context.reply.version());
        let mut room = Room::of(context.reply);
        if split.gather == Gather::List {
            out.array(part.keys.len());
        }
        let has_all = part.keys.iter().all(|number| {
            let key = key_at(*number as usize);
            read_within(context.host, &mut room, key, |value, flags| match split.gather {
                Gather::List => out.bulk(value),
                _ => reply::value(out.buffer_mut(), key, flags, value, None),
            })
        });
        if split.gather == Gather::Values {
            out.buffer_mut().extend_from_slice(END);
        }
        part.answer = has_all.then(|| std::mem::take(out.buffer_mut()));
    }
}

/// Tells of the keys of a whole request, if it is a read that copies could answer.
pub fn read_keys_of_request(bytes: &[u8], limits: &Limits, note: &mut dyn FnMut(&[u8])) {
    let mut parser = Parser::new();
    if let Ok(Parsed::Complete { .. }) = parser.parse(bytes, limits) {
        let request = parser.request(bytes);
        if is_get(request) || is_mget(request) {
            request.args_from(1).for_each(note);
        }
    }
}

/// As [`read_keys_of_request`], of a request in memcached's words.
pub fn read_keys_of_text(bytes: &[u8], limits: &text::Limits, note: &mut dyn FnMut(&[u8])) {
    let mut parser = text::Parser::new();
    if let Ok(Parsed::Complete { .. }) = parser.parse(bytes, limits) {
        let request = parser.request(bytes);
        match request.word(0) {
            Some(b"get") => request.words_from(1).for_each(note),
            Some(b"mg") if memcached::is_copied(request) => request.words_from(1).take(1).for_each(note),
            _ => {}
        }
    }
}

fn is_get(request: Request<'_>) -> bool {
    request.len() == 2 && request.arg(0).eq_ignore_ascii_case(b"get")
}

fn is_mget(request: Request<'_>) -> bool {
    request.len() > 1 && request.arg(0).eq_ignore_ascii_case(b"mget")
}

#[cfg(test)]
mod tests;
