//! Verbs that store or delete.

use super::dispatch::answer;
use super::entry::{expiry, store};
use super::table::Verb;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::spec::Flags;
use leasehold_protocol::memcached::Request;

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&SET, &DELETE];

static SET: Verb = Verb {
    name: "set",
    usage: "<key> <flags> <exptime> <bytes> [noreply]",
    summary: "Stores a value",
    words_min: 5,
    words_max: 6,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    noreply_from: Some(2),
    run: set,
};

fn set(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (key, data, storage) = parts(request);
    context.host.count(Count::CmdSet, 1);
    let Context { keyspace, client, turn, .. } = context;
    let (now_ms, expiry) = (turn.now_ms, expiry(storage.exptime, turn));
    keyspace.update(turn, client.db, key, |slot| store(slot, data, storage.flags, expiry, now_ms));
    answer(context, b"STORED")
}

/// Key, data and numbers of a storage command.
fn parts(request: Request<'_>) -> (&[u8], &[u8], leasehold_protocol::memcached::Storage) {
    let key = request.word(1).expect("a storage command without a key has a fault");
    let data = request.data().expect("a storage command without data has a fault");
    (key, data, request.storage())
}

static DELETE: Verb = Verb {
    name: "delete",
    usage: "<key> [noreply]",
    summary: "Deletes a value",
    words_min: 2,
    words_max: 4,
    flags: Flags::WRITE.with(Flags::FAST),
    noreply_from: Some(3),
    run: delete,
};

fn delete(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let is_valid = match request.len() {
        2 => true,
        // Old clients send a time, which must be 0.
        3 => request.word(2) == Some(b"0") || request.is_noreply(),
        _ => request.word(2) == Some(b"0") && request.is_noreply(),
    };
    if !is_valid {
        return answer(context, b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
    }
    let key = request.word(1).expect("words are counted");
    let Context { keyspace, client, turn, .. } = context;
    let was_there = keyspace.update(turn, client.db, key, |slot| slot.remove());
    context.host.count(if was_there { Count::DeleteHits } else { Count::DeleteMisses }, 1);
    answer(context, if was_there { b"DELETED" } else { b"NOT_FOUND" })
}
