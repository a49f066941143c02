//! `ma`: count a decimal number up or down.

use super::answer::{self, Life, Told};
use super::flags::{Asked, are_flags};
use super::set::shown_version;
use super::writing;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::memcached::buffer;
use crate::memcached::dispatch::{self, BAD_FORMAT};
use crate::memcached::entry::{expire_at_ms, expiry};
use crate::memcached::number::{self, Direction, Sum, hit_and_miss};
use crate::string::number::replace;
use leasehold_keyspace::{Attributes, Expiry};
use leasehold_protocol::memcached::{Request, reply};

/// memcached has one line for nearly all mistakes of this command.
pub(in crate::memcached) const BAD_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag";

/// What became of the number.
enum Counted {
    Yes { how: How, value: u64, version: u64, life: Life },
    Absent,
    Differs,
    NoNumber,
}

/// How there came to be a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Created,
    Counted { is_longer: bool },
}

/// Runs `ma`.
pub(super) fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let words = request.words_from(2);
    let Ok(asked) = Asked::of(request, 2) else {
        let line = if are_flags(words) { BAD_FLAG } else { BAD_FORMAT };
        return dispatch::answer(context, line);
    };
    let direction = match asked.mode {
        None | Some(b'I' | b'+') => Direction::Up,
        Some(b'D' | b'-') => Direction::Down,
        Some(_) => return dispatch::answer(context, b"CLIENT_ERROR invalid mode for ma M token"),
    };
    if let Some(source) = writing::source_of(context, &asked.key) {
        return writing::refuse(context, source, "ma", "ms and md");
    }
    let counted = count(context, &asked, direction);
    let hit = hit_and_miss(direction);
    match counted {
        Counted::Yes { how: How::Counted { is_longer }, .. } => {
            context.host.count(hit[0], 1);
            if is_longer {
                context.host.count(Count::Lengthened, 1);
            }
        }
        Counted::Absent => context.host.count(hit[1], 1),
        Counted::Yes { how: How::Created, .. } | Counted::Differs | Counted::NoNumber => {}
    }
    let buffer = buffer(context);
    match counted {
        Counted::Yes { .. } if asked.is_quiet => {}
        Counted::Yes { value, version, life, .. } => {
            let mut digits = Vec::new();
            reply::number(&mut digits, value);
            if asked.value_wanted {
                buffer.extend_from_slice(b"VA ");
                reply::number(buffer, digits.len() as u64);
            } else {
                buffer.extend_from_slice(b"HD");
            }
            let told = Told { version: Some(version), life: Some(life), ..Told::default() };
            answer::flags(buffer, asked.name(), words, &told);
            answer::end(buffer);
            if asked.value_wanted {
                reply::line(buffer, &digits);
            }
        }
        Counted::Absent => answer::bare(buffer, b"NF", &asked, words),
        Counted::Differs => answer::bare(buffer, b"EX", &asked, words),
        Counted::NoNumber => {
            reply::line(buffer, b"CLIENT_ERROR cannot increment or decrement non-numeric value");
        }
    }
    Outcome::Replied
}

fn count(context: &mut Context<'_>, asked: &Asked<'_>, direction: Direction) -> Counted {
    let Context { keyspace, client, turn, .. } = context;
    let now_ms = turn.now_ms;
    let new_end = asked.exptime.map(|exptime| expire_at_ms(exptime, turn));
    let created_until = asked.vivify.map(|exptime| expiry(exptime, turn));
    keyspace.update(turn, client.db, &asked.key, |slot| {
        let Some(entry) = slot.entry() else {
            let Some(expiry) = created_until else { return Counted::Absent };
            if asked.is_outdated(slot) {
                return Counted::Differs;
            }
            let mut digits = Vec::new();
            reply::number(&mut digits, asked.initial);
            let life = match expiry {
                Expiry::At(at_ms) => Some(at_ms),
                Expiry::Never | Expiry::Keep => None,
            };
            slot.store(&digits, Attributes { expiry, external_version: asked.version, ..Attributes::PLAIN });
            let version = shown_version(slot, asked);
            let life = Life::unchanged(life, now_ms);
            return Counted::Yes { how: How::Created, value: asked.initial, version, life };
        };
        let before_ms = entry.expire_at_ms;
        // memcached sees that before it compares.
        if entry.value.is_empty() {
            return Counted::NoNumber;
        }
        if asked.is_mismatch(slot) {
            return Counted::Differs;
        }
        if asked.is_outdated(slot) {
            return Counted::Differs;
        }
        let Ok(Sum { number: value, is_longer }) = number::add(slot, asked.delta, direction) else {
            return Counted::NoNumber;
        };
        if asked.version.is_some() {
            let made = slot.entry().map(|entry| (entry.value.to_vec(), entry.client_flags));
            let (text, client_flags) = made.unwrap_or_default();
            replace(slot, &text, asked.version, client_flags);
        }
        let version = shown_version(slot, asked);
        if let Some(end_ms) = new_end {
            slot.set_expiry(end_ms);
        }
        let life = Life { before_ms, after_ms: new_end.unwrap_or(before_ms), now_ms };
        // What has a version was stored anew, and is counted by that.
        let how = How::Counted { is_longer: is_longer && asked.version.is_none() };
        Counted::Yes { how, value, version, life }
    })
}
