//! `lease-get` and `lease-set`: leases as mcrouter's ASCII protocol has them, on the same tokens as GETL, SETL and the meta commands.
//!
//! ```text
//!   lease-get <key>*                  VALUE <key> <flags> <bytes>             a fresh value
//!                                     LVALUE <key> <token> <flags> <bytes>    token above 1: the caller is to fill the key;
//!                                                                             1: another is (a hot miss); 0: there is nothing to
//!                                                                             fill, as the source has no such key. With the stale
//!                                                                             value, if there is one, else 0 bytes
//!                                     END
//!   lease-set <key> <token> <flags> <exptime> <bytes> [noreply]
//!                                     STORED, STALE_STORED (the key was invalidated softly meanwhile: only a stale value was
//!                                     replaced), NOT_STORED (the lease is lost)
//! ```
//!
//! The numbers of tokens are those of "Scaling Memcache at Facebook" (NSDI 2013); the form is that of mcrouter's `McAsciiParser.rl`.

use super::buffer;
use super::dispatch::answer;
use super::entry::expiry;
use super::read::too_long;
use super::table::Verb;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::loader::through;
use crate::room::Room;
use crate::spec::{Flags, Keys};
use leasehold_keyspace::{Fill, Filled, LostReason, Sight, Sighting, Standing};
use leasehold_protocol::memcached::{Request, reply};

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&LEASE_GET, &LEASE_SET];

static LEASE_GET: Verb = Verb {
    name: "lease-get",
    usage: "<key>*",
    summary: "Answers the values that the keys have, or gives the caller the right to fill them",
    words_min: 2,
    keys: Keys::ALL,
    flags: Flags::WRITE.with(Flags::FAST),
    noreply_from: None,
    run: lease_get,
};

static LEASE_SET: Verb = Verb {
    name: "lease-set",
    usage: "<key> <token> <flags> <exptime> <bytes> [noreply]",
    summary: "Fills a key under a lease, if nothing invalidated the key since the lease was given",
    words_min: 6,
    keys: Keys::ONE,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    noreply_from: Some(7),
    run: lease_set,
};

/// No lease: the source has no such key.
const NOTHING: u64 = 0;

/// Another has the lease.
const HOT_MISS: u64 = 1;

fn lease_get(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let written_before = context.reply.len();
    let mut room = Room::of(context.reply);
    for key in request.words_from(1) {
        let before = context.reply.len();
        let is_hit = show(context, key);
        context.host.count(if is_hit { Count::GetHits } else { Count::GetMisses }, 1);
        // Tokens that are not told are given again when their time is over.
        if !room.take(context.reply.len() - before) {
            return too_long(context, written_before);
        }
    }
    reply::line(buffer(context), b"END");
    Outcome::Replied
}

/// Answers one key; whether with a fresh value.
fn show(context: &mut Context<'_>, key: &[u8]) -> bool {
    let access = context.client.access();
    if context.host.writes_to_sources() {
        // What the source does not have yet nobody can load from there.
        let Context { keyspace, client, turn, .. } = context;
        let quiet = Sight::QUIET;
        let is_fresh = keyspace.sight(turn, client.db, key, &quiet, |sighting| sighting.is_fresh);
        if !is_fresh && let Some(pending) = through::restored(context, key) {
            match &pending {
                Some(value) => reply::value(buffer(context), key, 0, value, None),
                None => lvalue(buffer(context), key, NOTHING, 0, b""),
            }
            return pending.is_some();
        }
    }
    let Context { keyspace, client, reply, turn, .. } = context;
    let buffer = reply.buffer_mut();
    let sight = Sight { access, leads_on_miss: true, leads_on_stale: true, ..Sight::QUIET };
    keyspace.sight(turn, client.db, key, &sight, |sighting| {
        let &Sighting { entry, is_fresh, standing, .. } = sighting;
        let (client_flags, value) = entry.map_or((0, &b""[..]), |entry| (entry.client_flags, entry.value));
        if is_fresh {
            reply::value(buffer, key, client_flags, value, None);
            return true;
        }
        let token = match standing {
            Standing::Won { token, .. } => token,
            Standing::Led { .. } => HOT_MISS,
            Standing::Free => NOTHING,
        };
        lvalue(buffer, key, token, client_flags, value);
        false
    })
}

fn lvalue(buffer: &mut Vec<u8>, key: &[u8], token: u64, client_flags: u32, value: &[u8]) {
    buffer.reserve(key.len() + value.len() + 64);
    buffer.extend_from_slice(b"LVALUE ");
    buffer.extend_from_slice(key);
    for number in [token, u64::from(client_flags), value.len() as u64] {
        buffer.push(b' ');
        reply::number(buffer, number);
    }
    buffer.extend_from_slice(b"\r\n");
    reply::line(buffer, value);
}

fn lease_set(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let key = request.word(1).expect("a storage command without a key has a fault");
    let value = request.data().expect("a storage command without data has a fault");
    let storage = request.storage();
    let db = context.client.db;
    context.host.count(Count::CmdSet, 1);
    // The source's row is older than what it is still to get.
    if context.host.writes_to_sources() && context.host.is_pending(db, key) {
        return answer(context, b"NOT_STORED");
    }
    let expiry = expiry(storage.exptime, context.turn);
    let fill = Fill::Value { value, expiry, stale_for_ms: 0, version: None, client_flags: storage.flags, tags: &[] };
    match context.keyspace.fill(context.turn, db, key, storage.unique, fill) {
        Filled::Stored => answer(context, b"STORED"),
        Filled::Stale => answer(context, b"STALE_STORED"),
        Filled::Lost(LostReason::NoRoom) => {
            context.host.count(Count::StoreNoMemory, 1);
            answer(context, b"SERVER_ERROR out of memory storing object")
        }
        Filled::Lost(_) => answer(context, b"NOT_STORED"),
    }
}
