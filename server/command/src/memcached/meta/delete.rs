//! `md`: delete a key, make its value stale, or take the value and leave the entry.

use super::answer;
use super::flags::Asked;
use super::writing;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::memcached::buffer;
use crate::memcached::dispatch;
use crate::memcached::entry::expiry;
use leasehold_keyspace::{Attributes, Expiry, Release, Slot};
use leasehold_protocol::memcached::Request;

/// What became of the key, in memcached's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deleted {
    /// `HD`.
    Yes,
    /// `NF`.
    Absent,
    /// `EX`.
    Differs,
}

/// Runs `md`.
pub(super) fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let words = request.words_from(2);
    let asked = match Asked::of(request, 2) {
        Ok(asked) => asked,
        Err(line) => return dispatch::answer(context, line),
    };
    let deleted = match writing::source_of(context, &asked.key) {
        // Stale is what the cache knows, and nothing of the source's.
        Some(_) if asked.invalidates && !asked.removes_value => delete(context, &asked),
        Some(_) if asked.named.is_some() => release(context, &asked),
        Some(source) if asked.removes_value || asked.version.is_some() => {
            return writing::refuse(context, source, "md with x or E", "ms and md");
        }
        Some(source) => return writing::delete(context, source, &asked, words),
        None => delete(context, &asked),
    };
    match deleted {
        // What is only stale is there still.
        Deleted::Yes if asked.invalidates => {}
        Deleted::Yes => context.host.count(Count::DeleteHits, 1),
        Deleted::Absent | Deleted::Differs => context.host.count(Count::DeleteMisses, 1),
    }
    let code: &[u8] = match deleted {
        Deleted::Yes if asked.is_quiet => return Outcome::Replied,
        Deleted::Yes => b"HD",
        Deleted::Absent => b"NF",
        Deleted::Differs => b"EX",
    };
    answer::bare(buffer(context), code, &asked, words);
    Outcome::Replied
}

/// A holder gives up the lease of a key whose loader writes.
fn release(context: &mut Context<'_>, asked: &Asked<'_>) -> Deleted {
    let token = asked.named.unwrap_or(0);
    let was_held = context.keyspace.release(context.turn, context.client.db, &asked.key, token, Release::default());
    if was_held { Deleted::Yes } else { Deleted::Differs }
}

fn delete(context: &mut Context<'_>, asked: &Asked<'_>) -> Deleted {
    let end = asked.exptime.map_or(Expiry::Keep, |exptime| expiry(exptime, context.turn));
    let Context { keyspace, client, turn, .. } = context;
    keyspace.update(turn, client.db, &asked.key, |slot| {
        let is_there = slot.entry().is_some() || slot.is_stale();
        if asked.named.is_some() && !is_there && !slot.is_leased() {
            return Deleted::Absent;
        }
        if asked.named.is_some_and(|named| !slot.is_named(named)) {
            return Deleted::Differs;
        }
        let is_older = asked.version.is_some_and(|version| slot.version_floor().is_some_and(|floor| version <= floor));
        if is_older {
            return Deleted::Differs;
        }
        // A lease is seen as memcached's empty item, and is gone by this.
        let found = if is_there || slot.is_leased() { Deleted::Yes } else { Deleted::Absent };
        match (asked.removes_value && is_there, asked.invalidates) {
            (true, invalidates) => {
                empty(slot, asked, end);
                if invalidates {
                    slot.make_stale(Expiry::Keep);
                }
                return found;
            }
            (false, true) => drop(slot.make_stale(end)),
            (false, false) => drop(slot.remove()),
        }
        if let Some(version) = asked.version {
            slot.remember_version(version);
        }
        found
    })
}

/// Leaves an entry without a value: what memcached calls a tombstone. Its client flags and its TTL are those of the command.
fn empty(slot: &mut Slot<'_>, asked: &Asked<'_>, end: Expiry) {
    let expiry = match end {
        Expiry::Keep => Expiry::Never,
        end => end,
    };
    let (external_version, client_flags) = (asked.version, asked.client_flags);
    slot.store(b"", Attributes { expiry, external_version, client_flags, ..Attributes::PLAIN });
}
