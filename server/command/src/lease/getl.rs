//! GETL: read, or get the right to fill.

use crate::argument;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::loader::through;
use crate::parked::{Answer, Awaited, Kind, Parked, Patience};
use bytes::Bytes;
use leasehold_keyspace::{Claim, Claimant, Claimed, Db, Lookup, Waiter, WakeEvent};
use leasehold_protocol::{Reply, Request};

/// What the caller of GETL wishes, beside the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    wait_ms: u64,
    lease_ms: Option<u64>,
    stale_hidden: bool,
    version_min: Option<u64>,
}

/// The five elements of the reply.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    word: &'static str,
    value: Option<Bytes>,
    token: u64,
    /// TTL, lease or retry time; -1: the value has no TTL.
    left_ms: i64,
    version: u64,
}

/// Runs GETL.
pub(super) fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let wish = match parse(request) {
        Ok(wish) => wish,
        Err(error) => return context.conclude(Err(error)),
    };
    let (db, key, now_ms) = (context.client.db, request.arg(1), context.turn.now_ms);
    let access = context.client.access();
    let (turn, reply) = (&mut *context.turn, &mut *context.reply);
    let lookup = context.keyspace.lookup_with_version(turn, db, key, access, |entry, version| {
        let is_new_enough = wish.version_min.is_none_or(|minimum| minimum <= version);
        if is_new_enough && entry.expire_at_ms.is_none_or(|at| now_ms < at) {
            write(reply, "HIT", Some(entry.value), 0, left_ms(entry.expire_at_ms, now_ms), version);
        }
        is_new_enough
    });
    match lookup {
        Lookup::Fresh(true) => return Outcome::Replied,
        Lookup::Negative { ttl_ms, version } if wish.version_min.is_none_or(|minimum| minimum <= version) => {
            Status::negative(ttl_ms, version).write(reply);
            return Outcome::Replied;
        }
        _ => {}
    }
    // What the source does not have yet nobody can load from there.
    if wish.version_min.is_none()
        && let Some(pending) = through::restored(context, key)
    {
        let status = match pending {
            Some(value) => Status::hit(value, 0, None, now_ms),
            None => Status::negative(0, 0),
        };
        status.write(context.reply);
        return Outcome::Replied;
    }
    if wish.wait_ms == 0 {
        let status = wish.claim(context, db, key, None).expect("without a waiter nothing is parked");
        status.write(context.reply);
        return Outcome::Replied;
    }
    through::next_ticket(context);
    let waiter = through::waiter(context, 0);
    let answer = wish.claim(context, db, key, Some(waiter)).map(Answer::Getl);
    let deadline_ms = now_ms.saturating_add(wish.wait_ms.min(context.host.wait_ms_max()));
    let awaited = Awaited {
        db,
        key: Bytes::copy_from_slice(key),
        waiter,
        patience: Patience::Lease { deadline_ms, claim: wish },
        answer,
    };
    Parked::park_or_reply_one(context, Kind::Getl, awaited)
}

fn parse(request: Request<'_>) -> Result<Wish, ReplyError> {
    let mut wish = Wish::default();
    let mut index = 2;
    while let Some(word) = request.get(index) {
        let value = request.get(index + 1).ok_or(ReplyError::Syntax);
        index += 2;
        if argument::is_word(word, "WAIT") {
            wish.wait_ms = argument::milliseconds(value?)?;
        } else if argument::is_word(word, "LEASE") {
            wish.lease_ms = Some(argument::milliseconds(value?)?);
            if wish.lease_ms == Some(0) {
                return Err(ReplyError::err("LEASE must be at least 1 ms"));
            }
        } else if argument::is_word(word, "MINVER") {
            wish.version_min = Some(argument::version(value?)?);
        } else if argument::is_word(word, "STALE") {
            wish.stale_hidden = false;
            index -= 1;
        } else if argument::is_word(word, "NOSTALE") {
            wish.stale_hidden = true;
            index -= 1;
        } else {
            return Err(ReplyError::Syntax);
        }
    }
    Ok(wish)
}

impl Wish {
    /// `None`: parked.
    pub(crate) fn claim(
        &self,
        context: &mut Context<'_>,
        db: Db,
        key: &[u8],
        waiter: Option<Waiter>,
    ) -> Option<Status> {
        let now_ms = context.turn.now_ms;
        let claim = Claim {
            claimant: Claimant::Client,
            lease_ms: self.lease_ms,
            version_min: self.version_min,
            fresh_required: false,
            stale_ms_max: None,
            waiter,
        };
        Some(match context.keyspace.claim(context.turn, db, key, claim) {
            Claimed::Hit { value, version, expire_at_ms } => Status::hit(value, version, expire_at_ms, now_ms),
            Claimed::Negative { ttl_ms, version } => Status::negative(ttl_ms, version),
            Claimed::Lead { token, lease_ms, stale, version_floor } => self.lead(token, lease_ms, stale, version_floor),
            Claimed::Wait { retry_after_ms, stale, version } => {
                Status { word: "WAIT", value: self.shown(stale), token: 1, left_ms: as_ms(retry_after_ms), version }
            }
            Claimed::Parked { .. } => return None,
        })
    }

    /// Whether this is a value below the version that was asked for.
    pub(crate) fn is_too_old(&self, event: &WakeEvent) -> bool {
        matches!(event, WakeEvent::Value { version, .. } if self.version_min.is_some_and(|minimum| *version < minimum))
    }

    /// What a parked GETL answers when it is woken.
    pub(crate) fn woken(&self, event: WakeEvent, now_ms: u64) -> Status {
        match event {
            WakeEvent::Value { value, version, expire_at_ms } => Status::hit(value, version, expire_at_ms, now_ms),
            WakeEvent::Absent { ttl_ms, version } => Status::negative(ttl_ms, version),
            WakeEvent::Lead { token, lease_ms, stale, version_floor, .. } => {
                self.lead(token, lease_ms, stale, version_floor.max(self.version_min.unwrap_or(0)))
            }
            WakeEvent::Failed { stale, .. } => self.again(stale),
            // No waiter for a lease hears that.
            WakeEvent::Written { .. } => self.again(None),
        }
    }

    /// What a parked GETL answers when its time is up: it leads if it can, else it is told to come again.
    pub(crate) fn last_word(&self, context: &mut Context<'_>, db: Db, key: &[u8]) -> Status {
        self.claim(context, db, key, None).expect("without a waiter nothing is parked")
    }

    fn lead(&self, token: u64, lease_ms: u64, stale: Option<Bytes>, version_floor: u64) -> Status {
        Status { word: "LEASE", value: self.shown(stale), token, left_ms: as_ms(lease_ms), version: version_floor }
    }

    fn again(&self, stale: Option<Bytes>) -> Status {
        Status { word: "WAIT", value: self.shown(stale), token: 1, left_ms: 1, version: 0 }
    }

    fn shown(&self, stale: Option<Bytes>) -> Option<Bytes> {
        stale.filter(|_| !self.stale_hidden)
    }
}

impl Status {
    fn hit(value: Bytes, version: u64, expire_at_ms: Option<u64>, now_ms: u64) -> Self {
        Self { word: "HIT", value: Some(value), token: 0, left_ms: left_ms(expire_at_ms, now_ms), version }
    }

    fn negative(ttl_ms: u64, version: u64) -> Self {
        Self { word: "NEGATIVE", value: None, token: 0, left_ms: as_ms(ttl_ms), version }
    }

    pub(crate) fn write(&self, reply: &mut Reply) {
        write(reply, self.word, self.value.as_deref(), self.token, self.left_ms, self.version);
    }
}

fn write(reply: &mut Reply, word: &str, value: Option<&[u8]>, token: u64, left_ms: i64, version: u64) {
    reply.array(5);
    reply.bulk(word.as_bytes());
    match value {
        Some(value) => reply.bulk(value),
        None => reply.null(),
    }
    reply.bulk_integer(as_ms(token));
    reply.integer(left_ms);
    reply.integer(as_ms(version));
}

fn left_ms(expire_at_ms: Option<u64>, now_ms: u64) -> i64 {
    expire_at_ms.map_or(-1, |at| as_ms(at.saturating_sub(now_ms)))
}

/// RESP integers are signed; an external version above 2^63 is the caller's to avoid and shows as the largest.
fn as_ms(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
