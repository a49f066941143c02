//! One turn of a reactor as the keyspace sees it: the time and a random stream going in, effects coming out.

use crate::expiry::Flushed;
use crate::settings::Db;
use bytes::Bytes;

/// The arguments that every keyspace method shares. Made once per reactor thread, refreshed once per turn.
#[derive(Debug)]
pub struct Turn {
    /// Server time in ms: the wall clock at boot plus the monotonic time since, so it never jumps. All deadlines use it.
    pub now_ms: u64,
    /// Wall clock minus server time in ms; what absolute times of clients (`EXAT`) are corrected by.
    pub wall_offset_ms: i64,
    /// A value whose fresh life ends before this time may be due for a refresh ([`crate::Keyspace::claim_refresh`]); no later than
    /// `now_ms`: none is.
    pub near_end_ms: u64,
    /// Who acts, for the history of keys that are audited.
    pub actor: Actor,
    random: u64,
    /// What the caller must do once no lock is held.
    pub effects: Effects,
}

impl Turn {
    /// A turn at `now_ms` with its own random stream; the same seed gives the same stream.
    #[must_use]
    pub fn new(now_ms: u64, seed: u64) -> Self {
        Self {
            now_ms,
            wall_offset_ms: 0,
            near_end_ms: 0,
            actor: Actor::Client,
            random: seed | 1,
            effects: Effects::default(),
        }
    }

    /// The next 64 random bits (xorshift64*; Marsaglia 2003, Vigna 2016): for sampling and jitter, not for secrets.
    pub fn random(&mut self) -> u64 {
        let mut x = self.random;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Milliseconds since 1970 by the wall clock.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.now_ms.saturating_add_signed(self.wall_offset_ms)
    }
}

/// Who changes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A command.
    Client,
    /// A load that a reader missed.
    Load,
    /// A load of a value that was fresh still.
    Refresh,
    /// A load that nobody has asked for.
    Warm,
    /// A write to a source, and its end.
    Write,
    /// News from a database; the number is the feed's place in the configuration.
    Feed(u32),
}

/// What keyspace methods ask of the world outside, in order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Parked commands that have their answer.
    pub wakes: Vec<Wake>,
    /// Loads that the server itself must start: it holds the lease.
    pub loads: Vec<Load>,
    /// What a flush has taken out. To give so much memory back takes the system a while: drop it where nobody waits.
    pub flushed: Vec<Flushed>,
}

/// Names one key that one parked command waits for. Opaque to the keyspace; compared for equality only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// Reactor thread of the connection.
    pub thread: u16,
    /// The connection, unique on the node and never reused.
    pub connection: u64,
    /// The command on that connection, so that a late wake cannot reach a later command.
    pub ticket: u32,
    /// Which of the command's keys.
    pub index: u32,
}

/// A waiter and what became of its key.
#[derive(Clone, Debug)]
pub struct Wake {
    /// Whom to tell.
    pub waiter: Waiter,
    /// What happened.
    pub event: WakeEvent,
}

/// How a wait ended.
#[derive(Clone, Debug)]
pub enum WakeEvent {
    /// The key was filled.
    Value {
        /// The value, shared by all waiters.
        value: Bytes,
        /// The external version if there is one, else the internal.
        version: u64,
        /// End of the fresh life in server time.
        expire_at_ms: Option<u64>,
    },
    /// The source has no such key.
    Absent {
        /// How long this is remembered, in ms.
        ttl_ms: u64,
        /// Version of the negative entry.
        version: u64,
    },
    /// The waiter is the holder now.
    Lead {
        /// The key that the lease is for, so that a lease nobody takes any more can be given back.
        db: Db,
        /// See `db`.
        key: Bytes,
        /// Names the lease.
        token: u64,
        /// How long the token is valid, in ms.
        lease_ms: u64,
        /// The stale value, if there is one.
        stale: Option<Bytes>,
        /// A fill must have a version of at least this, if it has one.
        version_floor: u64,
    },
    /// What the command wanted written is committed in the source, and the keys are invalidated.
    Written {
        /// Changes that changed a row.
        rows: u64,
    },
    /// The server's load or write failed; the text is that of the error reply.
    Failed {
        /// The stale value, if there is one that may be served instead.
        stale: Option<Bytes>,
        /// The text of the error reply.
        reason: std::sync::Arc<str>,
    },
}

/// A load that the server must start.
#[derive(Clone, Debug)]
pub struct Load {
    /// Database of the key.
    pub db: Db,
    /// The key.
    pub key: Bytes,
    /// The lease that the load's result fills.
    pub token: u64,
    /// The loader, as the claim named it.
    pub loader: u32,
    /// Why.
    pub cause: LoadCause,
}

/// Why a load is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadCause {
    /// A reader missed.
    Missed,
    /// The value is fresh still, and near its end.
    Refresh,
    /// Nobody has asked for the key yet.
    Warm,
    /// The key was invalidated while it was loaded, and clients still wait for it.
    Invalidated,
    /// The holder before gave up or ran out of time, and a reader of a loader's key waits.
    HolderLost,
}
