//! Verbs that store or delete.

use super::dispatch::answer;
use super::entry::{expire_at_ms, expiry, store};
use super::table::Verb;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::spec::Flags;
use leasehold_keyspace::Slot;
use leasehold_protocol::memcached::parser::{self, ENTRY_OVERHEAD_BYTES};
use leasehold_protocol::memcached::{Request, Storage};

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&SET, &ADD, &REPLACE, &APPEND, &PREPEND, &CAS, &TOUCH, &DELETE];

static SET: Verb = Verb {
    name: "set",
    usage: "<key> <flags> <exptime> <bytes> [noreply]",
    summary: "Stores a value",
    words_min: 5,
    words_max: 6,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    noreply_from: Some(5),
    run: |context, request| store_if(context, request, |_, _| Verdict::Stored),
};

static ADD: Verb = Verb {
    name: "add",
    summary: "Stores a value if the key has none",
    run: |context, request| store_if(context, request, |slot, _| stored_if(slot.entry().is_none())),
    ..SET
};

static REPLACE: Verb = Verb {
    name: "replace",
    summary: "Stores a value if the key has one",
    run: |context, request| store_if(context, request, |slot, _| stored_if(slot.entry().is_some())),
    ..SET
};

static CAS: Verb = Verb {
    name: "cas",
    usage: "<key> <flags> <exptime> <bytes> <cas unique> [noreply]",
    summary: "Stores a value if the key still has the version that gets answered",
    words_min: 6,
    words_max: 7,
    noreply_from: Some(6),
    run: cas,
    ..SET
};

/// What becomes of a value that is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stored,
    NotStored,
    Exists,
    NotFound,
}

fn stored_if(holds: bool) -> Verdict {
    if holds { Verdict::Stored } else { Verdict::NotStored }
}

impl Verdict {
    fn line(self) -> &'static [u8] {
        match self {
            Self::Stored => b"STORED",
            Self::NotStored => b"NOT_STORED",
            Self::Exists => b"EXISTS",
            Self::NotFound => b"NOT_FOUND",
        }
    }
}

/// Stores the value if `judge` says so, which sees what is there and the numbers of the line.
#[inline]
fn store_if(
    context: &mut Context<'_>,
    request: Request<'_>,
    judge: impl FnOnce(&mut Slot<'_>, Storage) -> Verdict,
) -> Outcome {
    let verdict = store_as(context, request, judge);
    answer(context, verdict.line())
}

#[inline]
fn store_as(
    context: &mut Context<'_>,
    request: Request<'_>,
    judge: impl FnOnce(&mut Slot<'_>, Storage) -> Verdict,
) -> Verdict {
    let (key, data, storage) = parts(request);
    context.host.count(Count::CmdSet, 1);
    let Context { keyspace, client, turn, .. } = context;
    let (now_ms, expiry) = (turn.now_ms, expiry(storage.exptime, turn));
    keyspace.update(turn, client.db, key, |slot| {
        let verdict = judge(slot, storage);
        if verdict == Verdict::Stored {
            store(slot, data, storage.flags, expiry, now_ms);
        }
        verdict
    })
}

/// Key, data and numbers of a storage command.
fn parts<'a>(request: Request<'a>) -> (&'a [u8], &'a [u8], Storage) {
    let key = request.word(1).expect("words are counted");
    let data = request.data().expect("a storage command without data has a fault");
    (key, data, request.storage())
}

fn cas(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let verdict = store_as(context, request, |slot, storage| match slot.version() {
        None => Verdict::NotFound,
        Some(version) if version == storage.unique => Verdict::Stored,
        Some(_) => Verdict::Exists,
    });
    let count = match verdict {
        Verdict::Stored => Count::CasHits,
        Verdict::NotFound => Count::CasMisses,
        Verdict::Exists | Verdict::NotStored => Count::CasBadval,
    };
    context.host.count(count, 1);
    answer(context, verdict.line())
}

static APPEND: Verb = Verb {
    name: "append",
    summary: "Adds to the end of a value; its flags and exptime stay",
    run: |context, request| lengthen(context, request, Place::Behind),
    ..SET
};

static PREPEND: Verb = Verb {
    name: "prepend",
    summary: "Adds to the start of a value; its flags and exptime stay",
    run: |context, request| lengthen(context, request, Place::Before),
    ..SET
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    Behind,
}

fn lengthen(context: &mut Context<'_>, request: Request<'_>, place: Place) -> Outcome {
    let (key, data, _) = parts(request);
    context.host.count(Count::CmdSet, 1);
    let entry_bytes_max = context.host.memcached_entry_bytes_max();
    let Context { keyspace, client, turn, .. } = context;
    let held = keyspace.read(turn, client.db, key, leasehold_keyspace::Access::Quiet, |entry| entry.value.len());
    // The value moves to a longer place, so for a moment it needs room twice.
    if held.is_some_and(|held| keyspace.make_room(turn, held + data.len()).is_err()) {
        return answer(context, b"SERVER_ERROR out of memory storing object");
    }
    let verdict = keyspace.update(turn, client.db, key, |slot| {
        let Some(held) = slot.entry().map(|entry| entry.value.len()) else { return Verdict::NotStored };
        let len = held + data.len();
        if key.len() + len + ENTRY_OVERHEAD_BYTES > entry_bytes_max {
            return Verdict::NotStored;
        }
        let value = slot.value_mut(len);
        match place {
            Place::Behind => value[held..].copy_from_slice(data),
            Place::Before => {
                value.copy_within(..held, data.len());
                value[..data.len()].copy_from_slice(data);
            }
        }
        Verdict::Stored
    });
    answer(context, verdict.line())
}

static TOUCH: Verb = Verb {
    name: "touch",
    usage: "<key> <exptime> [noreply]",
    summary: "Gives what a key has a new exptime",
    words_min: 3,
    words_max: 4,
    flags: Flags::WRITE.with(Flags::FAST),
    noreply_from: Some(3),
    run: touch,
};

fn touch(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (Some(key), Some(exptime)) = (request.word(1), request.word(2).and_then(parser::signed)) else {
        return answer(context, b"CLIENT_ERROR invalid exptime argument");
    };
    let Context { keyspace, client, turn, .. } = context;
    let expire_at_ms = expire_at_ms(exptime, turn);
    let was_there = keyspace.update(turn, client.db, key, |slot| slot.set_expiry(expire_at_ms));
    context.host.count(Count::CmdTouch, 1);
    context.host.count(if was_there { Count::TouchHits } else { Count::TouchMisses }, 1);
    answer(context, if was_there { b"TOUCHED" } else { b"NOT_FOUND" })
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
    let Some(key) = request.word(1).filter(|_| is_delete(request)) else {
        return answer(context, b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
    };
    let Context { keyspace, client, turn, .. } = context;
    let was_there = keyspace.update(turn, client.db, key, |slot| slot.remove());
    context.host.count(if was_there { Count::DeleteHits } else { Count::DeleteMisses }, 1);
    answer(context, if was_there { b"DELETED" } else { b"NOT_FOUND" })
}

/// Whether behind the key stands what may stand there: old clients send a time, which must be 0.
pub(super) fn is_delete(request: Request<'_>) -> bool {
    match request.len() {
        2 => true,
        3 => request.word(2) == Some(b"0") || request.is_noreply(),
        _ => request.word(2) == Some(b"0") && request.is_noreply(),
    }
}
