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
use crate::memcached::number::{self, Direction};
use crate::string::number::replace;
use leasehold_keyspace::{Attributes, Expiry};
use leasehold_protocol::memcached::{Request, reply};

/// memcached has one line for nearly all mistakes of this command.
pub(in crate::memcached) const BAD_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag";

/// What became of the number.
enum Counted {
    Yes { value: u64, version: u64, life: Life },
    Absent,
    Differs,
    NoNumber,
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
    context.host.count(Count::CmdMeta, 1);
    let is_hit = matches!(counted, Counted::Yes { .. });
    context.host.count(
        match (direction, is_hit) {
            (Direction::Up, true) => Count::IncrHits,
            (Direction::Up, false) => Count::IncrMisses,
            (Direction::Down, true) => Count::DecrHits,
            (Direction::Down, false) => Count::DecrMisses,
        },
        1,
    );
    let buffer = buffer(context);
    match counted {
        Counted::Yes { .. } if asked.is_quiet => {}
        Counted::Yes { value, version, life } => {
            let mut digits = Vec::new();
            reply::number(&mut digits, value);
            if asked.value_wanted {
                buffer.extend_from_slice(b"VA ");
                reply::number(buffer, digits.len() as u64);
            } else {
                buffer.extend_from_slice(b"HD");
            }
            let told = Told { version: Some(version), life: Some(life), ..Told::default() };
            answer::flags(buffer, &asked, words, &told);
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
            if life.is_none_or(|at_ms| at_ms > now_ms) {
                slot.set(&digits, Attributes { expiry, external_version: asked.version, ..Attributes::PLAIN });
            }
            let version = shown_version(slot, asked);
            return Counted::Yes { value: asked.initial, version, life: Life::unchanged(life, now_ms) };
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
        let Ok(value) = number::add(slot, asked.delta, direction) else { return Counted::NoNumber };
        if asked.version.is_some() {
            let made = slot.entry().map(|entry| (entry.value.to_vec(), entry.client_flags));
            let (text, client_flags) = made.unwrap_or_default();
            replace(slot, &text, asked.version, client_flags);
        }
        let version = shown_version(slot, asked);
        if let Some(end_ms) = new_end {
            slot.set_expiry(end_ms);
        }
        Counted::Yes { value, version, life: Life { before_ms, after_ms: new_end.unwrap_or(before_ms), now_ms } }
    })
}
