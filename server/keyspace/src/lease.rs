//! Leases: who may fill a missing key, and whether what they bring may still be stored.

use crate::bumps::Tag;
use crate::settings::Db;
use crate::turn::Waiter;
use bytes::Bytes;
use std::sync::Arc;

/// Who asks to fill a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant {
    /// A client, by GETL: the winner gets a token.
    Client,
    /// The server itself, for a reader of this loader's key.
    Server {
        /// Index of the loader.
        loader: u32,
    },
}

/// What a reader that missed asks for.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Who would fill the key.
    pub claimant: Claimant,
    /// How long the token shall be valid, in ms; `None` = the configured time.
    pub lease_ms: Option<u64>,
    /// An entry with a version below this counts as stale.
    pub version_min: Option<u64>,
    /// Treat a fresh value as stale (`LOADTHROUGH … FRESH`).
    pub fresh_required: bool,
    /// Treat as stale what is longer past its own fresh life than this, in ms, and is fresh only because a load failed.
    pub stale_ms_max: Option<u64>,
    /// Park this waiter if another holds the lease.
    pub waiter: Option<Waiter>,
}

/// What a claim came to.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// Somebody filled the key meanwhile.
    Hit {
        /// The value.
        value: Bytes,
        /// The external version if there is one, else the internal.
        version: u64,
        /// End of the fresh life in server time.
        expire_at_ms: Option<u64>,
    },
    /// The source is known to have no such key.
    Negative {
        /// How long this is remembered, in ms.
        ttl_ms: u64,
        /// Version of the negative entry.
        version: u64,
    },
    /// The claimant is the holder. A server's waiter, if given, is parked already.
    Lead {
        /// Names the lease; above 1.
        token: u64,
        /// How long the token is valid, in ms.
        lease_ms: u64,
        /// The stale value, if there is one.
        stale: Option<Bytes>,
        /// A fill must have a version of at least this, if it has one; 0 = none.
        version_floor: u64,
    },
    /// Another holds the lease and no waiter was given, or no more may park.
    Wait {
        /// When a new token may be issued, in ms from now.
        retry_after_ms: u64,
        /// The stale value, if there is one.
        stale: Option<Bytes>,
        /// Version of the stale value, or 0.
        version: u64,
    },
    /// Another holds the lease; the waiter is parked.
    Parked {
        /// The stale value, if there is one: for an answer when the wait is over.
        stale: Option<Bytes>,
        /// Version of the stale value, or 0.
        version: u64,
    },
}

/// What a holder brings.
#[derive(Clone, Copy, Debug)]
pub enum Fill<'a> {
    /// The value of the key.
    Value {
        /// The bytes.
        value: &'a [u8],
        /// End of the fresh life. `Keep` leaves that of the fresh value that is there; without one there is no end.
        expiry: crate::keyspace::Expiry,
        /// How long the entry stays readable as stale after that, in ms. A fill whose stale time has passed already deletes the
        /// key, and counts as stored; who waits hears the value, with no TTL left: else each of them would have to load it.
        stale_for_ms: u64,
        /// External version.
        version: Option<u64>,
        /// memcached's client flags.
        client_flags: u32,
        /// At most [`TAGS_MAX`](crate::TAGS_MAX). A bump of one of them after the token was issued voids the fill, and a later one
        /// makes the entry stale.
        tags: &'a [Tag],
    },
    /// The source has no such key.
    Absent {
        /// How long to remember it, in ms.
        ttl_ms: u64,
    },
}

/// What became of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Stored; waiters have it.
    Stored,
    /// Stored, but only as a stale value: the key was softly invalidated meanwhile.
    Stale,
    /// Not stored.
    Lost(LostReason),
}

/// Why a fill was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// The key was written, deleted or invalidated since the token was issued.
    Revoked,
    /// A newer token has filled the key.
    Superseded,
    /// No such token: evicted, timed out, of another key, of another boot or node.
    Unknown,
    /// The key has a newer version already, or this one with another value.
    OlderVersion,
    /// The memory limit is reached and nothing may be evicted.
    NoRoom,
}

impl LostReason {
    /// The reply of SETL.
    #[must_use]
    pub fn reply(self) -> &'static str {
        match self {
            Self::Revoked => "LOST revoked",
            Self::Superseded => "LOST superseded",
            Self::Unknown => "LOST unknown",
            Self::OlderVersion => "LOST older-version",
            Self::NoRoom => "LOST no-room",
        }
    }
}

/// How a load of the server ended that brought nothing.
#[derive(Clone, Debug)]
pub struct Failure {
    /// `<loader> <reason>`, for those who wait.
    pub reason: Arc<str>,
    /// For so long the stale value, if there is one, is taken for fresh, in ms.
    pub stale_life_ms: u64,
    /// For so long readers of the key hear the same without another load, in ms; at most until the key is changed, invalidated or
    /// filled by a client.
    pub error_life_ms: u64,
}

/// How a holder gives up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Release {
    /// The source has no such key: remember it so long, in ms.
    pub negative_ms: Option<u64>,
    /// Issue no new token for so long, in ms.
    pub backoff_ms: Option<u64>,
}

/// How a key is invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The entry is gone.
    Hard,
    /// The entry is stale from now on, for so many ms; `None` = its own `stale_for`, or the configured time.
    Soft {
        /// Milliseconds, or the entry's own.
        stale_ms: Option<u64>,
    },
}

/// One line of `LEASES`.
#[derive(Clone, Debug)]
pub struct LeaseView {
    /// Database of the key.
    pub db: Db,
    /// The key.
    pub key: Bytes,
    /// The newest token, 0 if none is valid.
    pub token: u64,
    /// Whether a client holds it, or the server.
    pub claimant: Claimant,
    /// Server time at which it was issued.
    pub issued_at_ms: u64,
    /// How long it is valid still, in ms.
    pub lease_left_ms: u64,
    /// Commands parked on the key.
    pub waiters: usize,
}
