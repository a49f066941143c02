//! Reading through: what happens when a key is missing that a loader knows.
//!
//! ```text
//! miss ─► loader? ─► claim ─► Hit | Negative                     answered at once
//!                          ├► Lead    the server loads           ┐
//!                          └► Parked  somebody is loading it     ┴► parked until the fill, or the deadline
//! ```

use crate::context::{Context, Outcome};
use crate::host::{Host, LoaderPolicy, ServeStale};
use crate::parked::{Answer, Awaited, Kind, Parked, Patience};
use crate::redirect;
use crate::room::Room;
use bytes::Bytes;
use leasehold_keyspace::{Access, Claim, Claimant, Claimed, Entry, KEY_BYTES_MAX, Load, LoadCause, Lookup, Waiter};
use leasehold_protocol::Request;

/// How long a load of the server may fill, in ms: far longer than any statement timeout, so that a late load still fills.
pub(crate) const SERVER_LEASE_MS: u64 = 10 * 60 * 1000;

/// What a reader demands of a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Loads even if there is a fresh value.
    pub(crate) fresh: bool,
    /// A value at most so long past its fresh life is good enough, in ms.
    pub(crate) stale_ms_max: Option<u64>,
    /// Instead of the loader's hard timeout, in ms.
    pub(crate) timeout_ms: Option<u64>,
}

impl Demand {
    /// What a plain GET demands.
    pub(crate) const PLAIN: Self = Self { fresh: false, stale_ms_max: None, timeout_ms: None };
}

/// GET of a key that has no fresh entry.
#[cold]
pub(crate) fn missed(context: &mut Context<'_>, key: &[u8]) -> Outcome {
    match transparent_loader(context, key) {
        Some(policy) => load_one(context, key, policy, Demand::PLAIN),
        None => {
            match restored(context, key) {
                Some(Some(value)) => context.reply.bulk(&value),
                _ => context.reply.null(),
            }
            Outcome::Replied
        }
    }
}

/// The pending change of a key that was not found fresh: its value, or `None` inside for a deletion.
pub(crate) fn restored(context: &mut Context<'_>, key: &[u8]) -> Option<Option<Bytes>> {
    if !context.host.writes_to_sources() {
        return None;
    }
    context.host.restore_pending(context.turn, context.client.db, key)
}

/// MGET where some keys have no fresh entry: the missing ones that a loader knows are loaded together.
#[cold]
pub(crate) fn many_missed(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let db = context.client.db;
    let mut values = Vec::with_capacity(request.len() - 1);
    let mut room = Room::of(context.reply);
    context.keyspace.read_many(context.turn, db, request.args_from(1), Access::Quiet, |_, entry| {
        values.push(entry.map(|entry| match room.take(entry.value.len()) {
            true => Answer::Value(Bytes::copy_from_slice(entry.value)),
            false => Answer::TooLong,
        }));
    });
    let mut values = values.into_iter();
    load_many(context, Kind::Many, request.args_from(1), |context, key| match values.next().flatten() {
        Some(answer) => Found::Answer(answer),
        None => match transparent_loader(context, key) {
            Some(policy) => Found::Loader(policy),
            None => Found::Answer(restored(context, key).flatten().map_or(Answer::Absent, Answer::Value)),
        },
    })
}

/// The loader that plain reads of `key` go through, if there is one.
pub(crate) fn transparent_loader(context: &Context<'_>, key: &[u8]) -> Option<LoaderPolicy> {
    context.host.loader_for(context.client.db, key).filter(|policy| policy.transparent)
}

/// Answers or parks one key.
pub(crate) fn load_one(context: &mut Context<'_>, key: &[u8], policy: LoaderPolicy, demand: Demand) -> Outcome {
    load_as(context, Kind::One, key, policy, demand)
}

/// As [`load_one`], answered in the form of `kind`.
pub(crate) fn load_as(
    context: &mut Context<'_>,
    kind: Kind,
    key: &[u8],
    policy: LoaderPolicy,
    demand: Demand,
) -> Outcome {
    next_ticket(context);
    let awaited = want(context, 0, key, policy, demand, &mut Started::default());
    Parked::park_or_reply_one(context, kind, awaited)
}

/// Answers or parks many keys; each is its value already, or absent, or to be loaded, as `find` says.
pub(crate) fn load_many<'k>(
    context: &mut Context<'_>,
    kind: Kind,
    keys: impl Iterator<Item = &'k [u8]>,
    mut find: impl FnMut(&mut Context<'_>, &'k [u8]) -> Found,
) -> Outcome {
    next_ticket(context);
    let mut wanted = Vec::new();
    let mut started = Started::default();
    let mut room = Room::of(context.reply);
    for (index, key) in keys.enumerate() {
        let index = u32::try_from(index).expect("a request has at most 2^20 arguments");
        let mut awaited = match find(context, key) {
            Found::Answer(answer) => answered(context, index, key, answer),
            Found::Loader(policy) => want(context, index, key, policy, Demand::PLAIN, &mut started),
        };
        awaited.take_room(&mut room);
        wanted.push(awaited);
    }
    Parked::park_or_reply(context, kind, wanted, room)
}

/// What is known of a key before anything is loaded.
pub(crate) enum Found {
    Answer(Answer),
    Loader(LoaderPolicy),
}

/// Loads that a command has started, by loader.
#[derive(Default)]
struct Started(Vec<usize>);

impl Started {
    fn of(&mut self, loader: u32) -> &mut usize {
        let loader = loader as usize;
        if self.0.len() <= loader {
            self.0.resize(loader + 1, 0);
        }
        &mut self.0[loader]
    }
}

/// The text for a reader whose time is up.
pub(crate) fn timeout_text(host: &dyn Host, loader: u32, timeout_ms: u64) -> String {
    let name = host.loader_name(loader);
    format!("LOADFAIL {name} no answer within {timeout_ms} ms")
}

/// Every parked command has a number of its own on its connection, so that a late wake finds it gone.
pub(crate) fn next_ticket(context: &mut Context<'_>) {
    context.client.ticket = context.client.ticket.wrapping_add(1);
}

/// The name under which key `index` of the command under way waits.
pub(crate) fn waiter(context: &Context<'_>, index: u32) -> Waiter {
    let client = &context.client;
    Waiter { thread: client.thread, connection: client.id, ticket: client.ticket, index }
}

fn answered(context: &Context<'_>, index: u32, key: &[u8], answer: Answer) -> Awaited {
    Awaited {
        db: context.client.db,
        key: Bytes::copy_from_slice(key),
        waiter: waiter(context, index),
        patience: Patience::Test { deadline_ms: 0, asked_ms: 0 },
        answer: Some(answer),
    }
}

fn want(
    context: &mut Context<'_>,
    index: u32,
    key: &[u8],
    policy: LoaderPolicy,
    demand: Demand,
    started: &mut Started,
) -> Awaited {
    let (db, now_ms) = (context.client.db, context.turn.now_ms);
    if let Some(pending) = restored(context, key) {
        return answered(context, index, key, pending.map_or(Answer::Absent, Answer::Value));
    }
    if !demand.fresh
        && let Some(stale) = acceptable_stale(context, key, policy, demand)
    {
        refresh_behind(context, key, policy);
        return answered(context, index, key, Answer::Value(stale));
    }
    // Who says how stale a value may be has been answered already if there is one.
    let takes_stale = policy.serve_stale != ServeStale::Never && !demand.fresh && demand.stale_ms_max.is_none();
    if *started.of(policy.loader) >= policy.loads_max {
        let answer = without_load(context, key, policy, takes_stale);
        return answered(context, index, key, answer);
    }
    if demand.fresh {
        // A load that began before this command may not show what its caller has just written.
        context.keyspace.outdate(context.turn, db, key);
    }
    let claim = Claim {
        claimant: Claimant::Server { loader: policy.loader },
        lease_ms: Some(SERVER_LEASE_MS),
        version_min: None,
        fresh_required: demand.fresh,
        stale_ms_max: demand.stale_ms_max,
        waiter: Some(waiter(context, index)),
    };
    let stale = match context.keyspace.claim(context.turn, db, key, claim) {
        Claimed::Hit { value, .. } => return answered(context, index, key, Answer::Value(value)),
        Claimed::Negative { .. } => return answered(context, index, key, Answer::Absent),
        Claimed::Lead { token, stale, .. } => {
            will_load(context, key, policy, token);
            *started.of(policy.loader) += 1;
            stale
        }
        Claimed::Parked { stale, .. } => stale,
        Claimed::Wait { stale, .. } => {
            let busy = || Answer::Error("LOADBUSY too many clients wait for this key".to_owned());
            let answer = stale.filter(|_| takes_stale).map_or_else(busy, Answer::Value);
            return answered(context, index, key, answer);
        }
    };
    let timeout_ms =
        demand.timeout_ms.map_or(policy.hard_timeout_ms, |wish_ms| wish_ms.min(context.host.wait_ms_max()));
    Awaited {
        db,
        key: Bytes::copy_from_slice(key),
        waiter: waiter(context, index),
        patience: Patience::Load {
            loader: policy.loader,
            stale: stale.filter(|_| takes_stale),
            takes_stale,
            soft_deadline_ms: now_ms.saturating_add(policy.soft_timeout_ms),
            hard_deadline_ms: now_ms.saturating_add(timeout_ms),
            asked_ms: now_ms,
        },
        answer: None,
    }
}

/// The answer for a key that is not loaded, as the source has enough to do.
fn without_load(context: &mut Context<'_>, key: &[u8], policy: LoaderPolicy, takes_stale: bool) -> Answer {
    let copy = |entry: Entry<'_>| Bytes::copy_from_slice(entry.value);
    match context.keyspace.lookup(context.turn, context.client.db, key, Access::Quiet, copy) {
        Lookup::Fresh(value) => Answer::Value(value),
        Lookup::Stale(value) if takes_stale => Answer::Value(value),
        Lookup::Negative { .. } => Answer::Absent,
        Lookup::Stale(_) | Lookup::Absent => Answer::Error(context.host.refuse_load(policy.loader)),
    }
}

/// A stale value that this reader takes without waiting.
fn acceptable_stale(context: &mut Context<'_>, key: &[u8], policy: LoaderPolicy, demand: Demand) -> Option<Bytes> {
    let now_ms = context.turn.now_ms;
    let stale_ms_max = match (demand.stale_ms_max, policy.serve_stale) {
        (Some(ms), _) => ms,
        (None, ServeStale::Always) => u64::MAX,
        (None, ServeStale::OnError | ServeStale::Never) => return None,
    };
    let lookup = context.keyspace.lookup(context.turn, context.client.db, key, Access::Quiet, |entry| {
        (entry.stale_ms(now_ms) <= stale_ms_max).then(|| Bytes::copy_from_slice(entry.value))
    });
    match lookup {
        Lookup::Stale(value) => value,
        Lookup::Fresh(_) | Lookup::Negative { .. } | Lookup::Absent => None,
    }
}

/// Starts the loads that a read of `request` will want, while the command before it on the same connection is parked: a
/// pipeline of cold reads then waits for one batch, not for one load after the other. Whether the request was a read, so that
/// the one behind it may be looked at too; what stands behind a write must see it, and is left alone.
/// `keys_left` counts down the keys that may be looked at.
pub fn load_ahead(context: &mut Context<'_>, request: Request<'_>, keys_left: &mut usize) -> bool {
    let is_read = match request.len() {
        0 | 1 => false,
        2 => request.arg(0).eq_ignore_ascii_case(b"get") || request.arg(0).eq_ignore_ascii_case(b"mget"),
        _ => request.arg(0).eq_ignore_ascii_case(b"mget"),
    };
    if is_read {
        load_keys_ahead(context, request.args_from(1), keys_left);
    }
    is_read
}

/// Starts the loads that a read of `keys` will want, of the first `keys_left` of them.
pub(crate) fn load_keys_ahead<'k>(
    context: &mut Context<'_>,
    keys: impl Iterator<Item = &'k [u8]>,
    keys_left: &mut usize,
) {
    for key in keys.take(*keys_left) {
        *keys_left -= 1;
        load_key_ahead(context, key);
    }
}

fn load_key_ahead(context: &mut Context<'_>, key: &[u8]) {
    // The command that reads it will refuse it, or another node answers it.
    if key.len() > KEY_BYTES_MAX || !redirect::is_own(context, key) {
        return;
    }
    let Some(policy) = transparent_loader(context, key) else { return };
    let (db, turn) = (context.client.db, &mut *context.turn);
    if matches!(context.keyspace.lookup(turn, db, key, Access::Quiet, |_| ()), Lookup::Stale(()) | Lookup::Absent) {
        refresh_behind(context, key, policy);
    }
}

/// Loads a key without anybody waiting for it.
fn refresh_behind(context: &mut Context<'_>, key: &[u8], policy: LoaderPolicy) {
    let claim = Claim {
        claimant: Claimant::Server { loader: policy.loader },
        lease_ms: Some(SERVER_LEASE_MS),
        version_min: None,
        fresh_required: false,
        stale_ms_max: None,
        waiter: None,
    };
    if let Claimed::Lead { token, .. } = context.keyspace.claim(context.turn, context.client.db, key, claim) {
        will_load(context, key, policy, token);
    }
}

/// The lease just won is loaded once this turn's commands have run, in one query with what else they want; a refusal is told to
/// everyone who waits, this command too.
fn will_load(context: &mut Context<'_>, key: &[u8], policy: LoaderPolicy, token: u64) {
    let (db, key) = (context.client.db, Bytes::copy_from_slice(key));
    let load = Load { db, key, token, loader: policy.loader, cause: LoadCause::Missed };
    context.turn.effects.loads.push(load);
}
