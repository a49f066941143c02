//! `mg`: read a key with what is kept about it, or get the right to fill it.

use super::answer::{self, Life, Name, Told};
use super::flags::{Asked, Plain};
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::loader::refresh::{Reader, hit_near_end};
use crate::loader::through::{self, Demand};
use crate::memcached::entry::expiry;
use crate::memcached::{Form, buffer};
use crate::parked::{Answer, Kind};
use leasehold_keyspace::{Access, Entry, Expiry, Sight, Sighting, Standing, Turn};
use leasehold_protocol::memcached::{Request, reply};

/// What a `Z` without a fresh value tells as version: the token of a hot miss, which fills nothing.
const HOT_MISS: u64 = 1;

/// Runs `mg`.
pub(super) fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match Plain::of(request).and_then(|plain| glance(context, request, plain)) {
        Some(outcome) => outcome,
        None => look(context, request),
    }
}

/// Answers nearly all that are asked: a fresh value, without a lease. `None`: nothing is done.
#[inline]
fn glance(context: &mut Context<'_>, request: Request<'_>, plain: Plain) -> Option<Outcome> {
    let key = request.word(1)?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let access = if plain.has(b'u') { Access::Quiet } else { client.access() };
    let (buffer, now_ms) = (reply.buffer_mut(), turn.now_ms);
    let expire_at_ms = keyspace.glance(turn, client.db, key, access, |entry, is_used| {
        buffer.reserve(entry.value.len() + 64);
        write_code(buffer, plain.has(b'v'), entry.value.len());
        if plain.has_words() {
            let told = Told {
                value_len: Some(entry.value.len()),
                client_flags: Some(entry.client_flags),
                life: Some(Life::unchanged(entry.expire_at_ms, now_ms)),
                is_used: Some(is_used),
                ..Told::default()
            };
            answer::flags(buffer, Name { key, is_binary: false }, request.words_from(2), &told);
        }
        write_end(buffer, plain.has(b'v'), entry.value);
        entry.expire_at_ms
    })?;
    let near_end_ms = turn.near_end_ms;
    context.host.count(Count::GetHits, 1);
    if let Some(at_ms) = expire_at_ms.filter(|&at_ms| at_ms < near_end_ms) {
        hit_near_end(context, key, at_ms, Reader::Plain);
    }
    Some(Outcome::Replied)
}

/// Whether an `mg` asks for nothing that a copy of another node's entry does not have.
pub(crate) fn is_copied(request: Request<'_>) -> bool {
    Plain::of(request).is_some_and(|plain| !plain.has(b't') && !plain.has(b'h'))
}

/// Answers an `mg` from a copy of another node's entry. `false`: there is none, or more is asked for.
pub(crate) fn answer_copy(context: &mut Context<'_>, request: Request<'_>) -> bool {
    let (Some(key), Some(plain)) = (request.word(1), Plain::of(request).filter(|_| is_copied(request))) else {
        return false;
    };
    let buffer = context.reply.buffer_mut();
    context.host.read_copy(key, &mut |value, client_flags| {
        write_code(buffer, plain.has(b'v'), value.len());
        if plain.has_words() {
            let told = Told { value_len: Some(value.len()), client_flags: Some(client_flags), ..Told::default() };
            answer::flags(buffer, Name { key, is_binary: false }, request.words_from(2), &told);
        }
        write_end(buffer, plain.has(b'v'), value);
    })
}

/// Answers whatever is asked.
fn look(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let words = request.words_from(2);
    let mut asked = Asked::about(request);
    if let Err(line) = asked.read_flags(request, 2) {
        return crate::memcached::dispatch::answer(context, line);
    }
    // Nothing is led before it is known that neither a pending change nor a loader has the value.
    let wants_lease = asked.vivify.is_some() || asked.recache.is_some();
    let mut first = sight(&asked, context.turn);
    first.access = access(context, &asked);
    if !wants_lease || context.host.writes_to_sources() {
        (first.leads_on_miss, first.leads_on_stale) = (false, false);
    }
    let near_end_ms = context.turn.near_end_ms;
    let seen = show(context, &asked, words.clone(), &first);
    if !matches!(seen, Seen::Missed) {
        count_hit(context, &asked);
    }
    match seen {
        Seen::Fresh { expire_at_ms: Some(at_ms) } if at_ms < near_end_ms && !wants_lease => {
            hit_near_end(context, &asked.key, at_ms, Reader::Plain);
            Outcome::Replied
        }
        Seen::Fresh { .. } | Seen::Answered => Outcome::Replied,
        Seen::Missed => missed(context, &asked, words),
    }
}

/// Whatever is shown is a hit in memcached's books, stale or an empty stub; with `T` it is one of `touch`, and no miss is.
fn count_hit(context: &Context<'_>, asked: &Asked<'_>) {
    context.host.count(if asked.exptime.is_some() { Count::TouchHits } else { Count::GetHits }, 1);
}

/// What became of a look at the key.
enum Seen {
    /// The reply is written: a hit.
    Fresh { expire_at_ms: Option<u64> },
    /// The reply is written: stale, or without a value.
    Answered,
    /// Nothing is written.
    Missed,
}

fn access(context: &Context<'_>, asked: &Asked<'_>) -> Access {
    if asked.is_unnoticed { Access::Quiet } else { context.client.access() }
}

fn sight(asked: &Asked<'_>, turn: &Turn) -> Sight {
    let expiry = |exptime: Option<i64>| exptime.map_or(Expiry::Keep, |exptime| expiry(exptime, turn));
    // memcached: the win is for who finds less time left than that, or has just set less by a `T` before.
    let leads_before_ms =
        asked.recache.map_or(0, |(seconds, exptime)| match (expiry(Some(seconds)), expiry(exptime)) {
            (Expiry::At(before_ms), Expiry::At(end_ms)) if end_ms < before_ms => u64::MAX,
            (Expiry::At(before_ms), Expiry::Keep) => before_ms,
            _ => 0,
        });
    let lease_ms = asked.vivify.and_then(|exptime| match expiry(Some(exptime)) {
        Expiry::At(at_ms) => Some(at_ms.saturating_sub(turn.now_ms)),
        // For ever is longer than a lease lasts: as long as one does.
        Expiry::Never | Expiry::Keep => None,
    });
    Sight {
        version_wanted: asked.version_wanted,
        upkeep_wanted: asked.idle_wanted,
        leads_on_miss: asked.vivify.is_some(),
        leads_on_stale: true,
        leads_before_ms,
        lease_ms,
        expiry: expiry(asked.exptime),
        ..Sight::QUIET
    }
}

/// Looks, and answers what can be answered by that.
fn show<'w>(
    context: &mut Context<'_>,
    asked: &Asked<'_>,
    words: impl Iterator<Item = &'w [u8]>,
    sight: &Sight,
) -> Seen {
    let Context { keyspace, client, reply, turn, .. } = context;
    let (buffer, now_ms) = (reply.buffer_mut(), turn.now_ms);
    keyspace.sight(turn, client.db, &asked.key, sight, |sighting| match sighting {
        Sighting { entry: Some(entry), is_fresh: true, .. } => {
            write_entry(buffer, asked, words, sighting, entry, sight, now_ms);
            Seen::Fresh { expire_at_ms: entry.expire_at_ms }
        }
        Sighting { entry: Some(entry), .. } if sight.leads_on_stale => {
            write_entry(buffer, asked, words, sighting, entry, sight, now_ms);
            Seen::Answered
        }
        Sighting { entry: None, standing: Standing::Won { .. } | Standing::Led { .. }, .. } => {
            write_stub(buffer, asked, words, sighting.standing, now_ms);
            Seen::Answered
        }
        Sighting { .. } => Seen::Missed,
    })
}

/// A key without a fresh value.
#[cold]
fn missed<'w>(context: &mut Context<'_>, asked: &Asked<'_>, words: impl Iterator<Item = &'w [u8]> + Clone) -> Outcome {
    if asked.vivify.is_none()
        && asked.recache.is_none()
        && let Some(policy) = through::transparent_loader(context, &asked.key)
    {
        context.host.count(Count::GetMisses, 1);
        let form = Form::MetaGet(join(words));
        return through::load_as(context, Kind::Memcached(form), &asked.key, policy, Demand::PLAIN);
    }
    if let Some(pending) = through::restored(context, &asked.key) {
        context.host.count(Count::GetMisses, 1);
        match pending {
            Some(value) => write_value(buffer(context), asked, words, &value),
            None => write_miss(buffer(context), asked, words),
        }
        return Outcome::Replied;
    }
    // The look before has counted as a read; this one is quiet.
    let sight = sight(asked, context.turn);
    match show(context, asked, words.clone(), &sight) {
        Seen::Fresh { .. } | Seen::Answered => count_hit(context, asked),
        Seen::Missed => {
            context.host.count(Count::GetMisses, 1);
            write_miss(buffer(context), asked, words);
        }
    }
    Outcome::Replied
}

/// Flags to be read again when the load has come.
fn join<'w>(words: impl Iterator<Item = &'w [u8]>) -> Box<[u8]> {
    words.collect::<Vec<_>>().join(&b' ').into()
}

/// Answers an `mg` that has waited for a load of its key; `flags` as it was asked with.
pub(crate) fn loaded(context: &mut Context<'_>, key: &[u8], flags: &[u8], loaded: Option<&Answer>) {
    let words = flags.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    // The key is decoded already, and the flags had no mistake.
    let is_binary = words.clone().any(|word| word[0] == b'b');
    let plain = words.clone().filter(|word| word[0] != b'b');
    let Ok(asked) = Asked::parse(key, plain) else { return };
    let asked = Asked { is_binary, ..asked };
    match loaded {
        Some(Answer::Error(text)) => reply::error(buffer(context), "SERVER_ERROR", text),
        Some(Answer::Value(value)) => {
            // What was loaded has a version and a time only where it is stored.
            let sight = Sight { leads_on_miss: false, leads_on_stale: false, ..sight(&asked, context.turn) };
            if matches!(show(context, &asked, words.clone(), &sight), Seen::Missed) {
                write_value(buffer(context), &asked, words, value);
            }
        }
        _ => write_miss(buffer(context), &asked, words),
    }
}

/// `HD`, or `VA` and a length.
#[inline]
fn write_code(buffer: &mut Vec<u8>, value_wanted: bool, value_len: usize) {
    if value_wanted {
        buffer.extend_from_slice(b"VA ");
        reply::number(buffer, value_len as u64);
    } else {
        buffer.extend_from_slice(b"HD");
    }
}

#[inline]
fn write_end(buffer: &mut Vec<u8>, value_wanted: bool, value: &[u8]) {
    answer::end(buffer);
    if value_wanted {
        buffer.extend_from_slice(value);
        answer::end(buffer);
    }
}

fn write_entry<'w>(
    buffer: &mut Vec<u8>,
    asked: &Asked<'_>,
    words: impl Iterator<Item = &'w [u8]>,
    sighting: &Sighting<'_>,
    entry: &Entry<'_>,
    sight: &Sight,
    now_ms: u64,
) {
    let &Sighting { is_fresh, is_used, version, standing, .. } = sighting;
    let end_ms = match is_fresh {
        true => entry.expire_at_ms,
        false => entry.expire_at_ms.map(|at_ms| at_ms.saturating_add(entry.stale_for_ms)).filter(|&at| at < u64::MAX),
    };
    let after_ms = match sight.expiry {
        Expiry::Keep => end_ms,
        Expiry::Never => None,
        Expiry::At(at_ms) => Some(at_ms),
    };
    let version = match standing {
        Standing::Won { token, .. } => token,
        Standing::Led { .. } if !is_fresh => HOT_MISS,
        Standing::Led { .. } | Standing::Free => version,
    };
    let told = Told {
        version: Some(version),
        value_len: Some(entry.value.len()),
        client_flags: Some(entry.client_flags),
        life: Some(Life { before_ms: end_ms, after_ms, now_ms }),
        is_used: Some(is_used),
        idle_s: Some(entry.idle_ms / 1000),
    };
    buffer.reserve(entry.value.len() + 64);
    write_code(buffer, asked.value_wanted, entry.value.len());
    answer::flags(buffer, asked.name(), words, &told);
    // memcached's order.
    if matches!(standing, Standing::Led { .. }) {
        buffer.extend_from_slice(b" Z");
    }
    if !is_fresh {
        buffer.extend_from_slice(b" X");
    }
    if matches!(standing, Standing::Won { .. }) {
        buffer.extend_from_slice(b" W");
    }
    write_end(buffer, asked.value_wanted, entry.value);
}

/// A key that somebody is to fill, in the form that memcached has for it: an empty value.
fn write_stub<'w>(
    buffer: &mut Vec<u8>,
    asked: &Asked<'_>,
    words: impl Iterator<Item = &'w [u8]>,
    standing: Standing,
    now_ms: u64,
) {
    let (version, left_ms, mark) = match standing {
        Standing::Won { token, lease_ms } => (token, lease_ms, b" W"),
        Standing::Led { retry_after_ms } => (HOT_MISS, retry_after_ms, b" Z"),
        Standing::Free => return,
    };
    let told = Told {
        version: Some(version),
        value_len: Some(0),
        client_flags: Some(0),
        life: Some(Life::unchanged(Some(now_ms.saturating_add(left_ms)), now_ms)),
        is_used: Some(false),
        idle_s: Some(0),
    };
    write_code(buffer, asked.value_wanted, 0);
    answer::flags(buffer, asked.name(), words, &told);
    buffer.extend_from_slice(mark);
    write_end(buffer, asked.value_wanted, b"");
}

/// A value that is not in the keyspace: without a version, which no number is equal to, and without an end.
fn write_value<'w>(buffer: &mut Vec<u8>, asked: &Asked<'_>, words: impl Iterator<Item = &'w [u8]>, value: &[u8]) {
    let told = Told {
        version: Some(0),
        value_len: Some(value.len()),
        client_flags: Some(0),
        life: Some(Life::unchanged(None, 0)),
        is_used: Some(false),
        idle_s: Some(0),
    };
    write_code(buffer, asked.value_wanted, value.len());
    answer::flags(buffer, asked.name(), words, &told);
    write_end(buffer, asked.value_wanted, value);
}

fn write_miss<'w>(buffer: &mut Vec<u8>, asked: &Asked<'_>, words: impl Iterator<Item = &'w [u8]>) {
    if !asked.is_quiet {
        answer::bare(buffer, b"EN", asked, words);
    }
}
