//! memcached's meta commands: `mg`, `ms`, `md`, `ma`, `mn`, `me`.
//!
//! Their leases are those of GETL and SETL: one record a key, one set of tokens. What memcached keeps as an item without a value
//! while somebody fills it is a lease record here, and is shown as such an item to those who ask with `N` only; all others see a
//! miss. A winner's token is told as the CAS (`c`), and comes back as `C`.
//!
//! ```text
//!   the key has …             command              what happens                              reply          by GETL and its kind
//!   nothing                   mg N                 a lease is given                          VA 0 W         LEASE
//!   nothing, a lease is out   mg N                 nothing                                   VA 0 Z         WAIT
//!   nothing, whatever leases  mg                   nothing (a transparent loader loads)      EN             GET: nil
//!   a remembered absence      mg N                 nothing                                   EN             NEGATIVE
//!   a fresh value             mg                   nothing                                   VA n           HIT
//!   less life left than R     mg R                 a lease is given                          VA n W         (refresh-ahead)
//!   less life left than R     mg R, a lease is out nothing                                   VA n Z         HIT
//!   a stale value             mg                   a lease is given                          VA n X W       LEASE stale
//!   a stale value             mg, a lease is out   nothing                                   VA n Z X       WAIT stale
//!   a valid token             ms C<token>          the key is filled                         HD             SETL: STORED
//!   a softly revoked token    ms C<token> I        the stale value is replaced               HD             SETL: STALE
//!   a softly revoked token    ms C<token>          nothing                                   EX             –
//!   a token that is lost      ms C<token>          nothing                                   EX, or NF      SETL: LOST
//!   the fresh value's version ms C<version>        a write, which revokes                    HD             (IFEQ)
//!   the stale value's version ms C<version> I      the stale value is replaced               HD             –
//!   the stale value's version ms C<version>        nothing                                   EX             –
//!   anything                  ms                   a write, which revokes                    HD             SET
//!   anything                  md                   a deletion, which revokes                 HD, or NF      DEL
//!   anything                  md I [T]             stale from now on, tokens softly revoked  HD, or NF      INVAL STALE
//!   a valid token             md C<token>          a deletion, which revokes                 HD             RELL
//! ```
//!
//! `cas` is `ms C`. A stale value that is taken for fresh while its source fails is stale to both.
//!
//! So a client that knows only `N`, `R` and plain `ms` (Dalli's `fetch_with_lock`) is served as by memcached, and one that gives its
//! token back is never the one to store an old value. Unlike memcached, a lease that brought nothing goes to another client
//! after some load times of the key, and not only when the time of `N` is over.

mod answer;
mod arithmetic;
mod base64;
mod delete;
mod flags;
mod get;
mod set;
#[cfg(test)]
mod tests;
mod writing;

use self::flags::Asked;
use super::dispatch;
use super::table::Verb;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::spec::{Flags, Keys};
pub(super) use arithmetic::BAD_FLAG;
pub(super) use get::loaded;
pub(crate) use get::{answer_copy, is_copied};
use leasehold_keyspace::Sight;
use leasehold_protocol::memcached::{Request, reply};
pub(super) use set::remove_outdated;
use std::borrow::Cow;
pub(super) use writing::written;

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&MG, &MS, &MD, &MA, &MN, &ME];

static MG: Verb = Verb {
    name: "mg",
    usage: "<key> <flags>*",
    summary: "Answers a value with what is kept about it, or gives the caller the right to fill it",
    words_min: 2,
    keys: Keys::ONE,
    flags: Flags::WRITE.with(Flags::FAST),
    noreply_from: None,
    run: get::run,
};

static MS: Verb = Verb {
    name: "ms",
    usage: "<key> <bytes> <flags>*",
    summary: "Stores a value; on request under a condition, as an addition, at a version, or under a lease",
    words_min: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    run: set::run,
    ..MG
};

static MD: Verb =
    Verb { name: "md", usage: "<key> <flags>*", summary: "Deletes a value, or makes it stale", run: delete::run, ..MG };

static MA: Verb = Verb {
    name: "ma",
    usage: "<key> <flags>*",
    summary: "Counts a number up or down",
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    run: arithmetic::run,
    ..MG
};

static MN: Verb = Verb {
    name: "mn",
    usage: "",
    summary: "Answers MN: all replies before it are there then, those that were not sent too",
    words_min: 1,
    keys: Keys::None,
    flags: Flags::FAST,
    run: |context, _| dispatch::answer(context, b"MN"),
    ..MG
};

static ME: Verb = Verb {
    name: "me",
    usage: "<key> [b]",
    summary: "Tells what is kept about a value, for a human to read",
    flags: Flags::READONLY.with(Flags::FAST),
    run: debug,
    ..MG
};

/// The key that a word of a request stands for: with the flag b of a meta command it is base64. `None`: it is none.
pub(super) fn key_of<'a>(request: Request<'_>, word: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let is_meta = matches!(request.word(0), Some([b'm', _]));
    if is_meta && request.words_from(2).any(|flag| flag.first() == Some(&b'b')) {
        return base64::decode(word).map(Cow::Owned);
    }
    Some(Cow::Borrowed(word))
}

fn debug(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let asked = request.word(1).and_then(|key| {
        let is_binary = request.word(2) == Some(b"b");
        Asked::parse(key, is_binary.then_some(&b"b"[..]).into_iter()).ok()
    });
    let (Some(name), Some(asked)) = (request.word(1), asked) else {
        return dispatch::answer(context, dispatch::BAD_FORMAT);
    };
    context.host.count(Count::CmdMeta, 1);
    let Context { keyspace, client, reply, turn, .. } = context;
    let (buffer, now_ms) = (reply.buffer_mut(), turn.now_ms);
    let sight = Sight { version_wanted: true, upkeep_wanted: true, ..Sight::QUIET };
    keyspace.sight(turn, client.db, &asked.key, &sight, |sighting| {
        let Some(entry) = sighting.entry else {
            return buffer.extend_from_slice(b"EN\r\n");
        };
        buffer.extend_from_slice(b"ME ");
        buffer.extend_from_slice(name);
        let left_s = entry.expire_at_ms.map_or(-1, |at_ms| at_ms.saturating_sub(now_ms).div_ceil(1000) as i64);
        let (idle_s, fetched) = (entry.idle_ms / 1000, if sighting.is_used { "yes" } else { "no" });
        let (version, bytes) = (sighting.version, entry.memory_bytes);
        // There is one class of sizes here.
        let rest = format!(" exp={left_s} la={idle_s} cas={version} fetch={fetched} cls=1 size={bytes}");
        reply::line(buffer, rest.as_bytes());
    });
    Outcome::Replied
}
