//! What the keyspace is told at start, and what an operator may change while it runs.

use crate::policy::duel::Objective;
use crate::policy::miniature::Share;

/// A logical database, as chosen by `SELECT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Db(pub u8);

/// Databases a keyspace can hold.
pub const DATABASES_MAX: usize = 16;

/// The random key of the hash function; a fresh one per process keeps key floods out of one bucket.
#[derive(Clone, Copy, Debug)]
pub struct HashSeed(pub [u64; 4]);

/// What to evict when memory is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// Nothing: writes that need memory are refused.
    NoEviction,
    /// The least recently used of all entries.
    AllKeysLru,
    /// The least recently used of the entries with a TTL.
    VolatileLru,
    /// Any entry.
    AllKeysRandom,
    /// Any entry with a TTL.
    VolatileRandom,
    /// The entry whose TTL ends first.
    VolatileTtl,
    /// What is used least for its size, with a window for new entries.
    AllKeysTinyLfu,
    /// The same among the entries with a TTL.
    VolatileTinyLfu,
    /// What is used least often.
    AllKeysLfu,
    /// What is used least often of the entries with a TTL.
    VolatileLfu,
}

/// The window of a policy that starts with one, in thousandths of the capacity.
const WINDOW_PER_MILLE: u16 = 100;

/// The window of the policies that go by frequency alone.
const WINDOW_PER_MILLE_LFU: u16 = 10;

/// What orders the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    None,
    Frequency,
    Recency,
    Random,
    Ttl,
}

impl EvictionPolicy {
    /// All policies, in order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NoEviction,
        Self::AllKeysLru,
        Self::VolatileLru,
        Self::AllKeysRandom,
        Self::VolatileRandom,
        Self::VolatileTtl,
        Self::AllKeysTinyLfu,
        Self::VolatileTinyLfu,
        Self::AllKeysLfu,
        Self::VolatileLfu,
    ];

    /// Whether entries without a TTL stay.
    #[must_use]
    pub fn is_volatile(self) -> bool {
        match self {
            Self::VolatileLru
            | Self::VolatileRandom
            | Self::VolatileTtl
            | Self::VolatileTinyLfu
            | Self::VolatileLfu => true,
            Self::NoEviction | Self::AllKeysLru | Self::AllKeysRandom | Self::AllKeysTinyLfu | Self::AllKeysLfu => {
                false
            }
        }
    }

    /// Whether the window follows what the traffic is.
    pub(crate) fn has_adaptive_window(self) -> bool {
        matches!(self, Self::AllKeysTinyLfu | Self::VolatileTinyLfu)
    }

    #[inline]
    pub(crate) fn engine(self) -> Engine {
        match self {
            Self::NoEviction => Engine::None,
            Self::AllKeysLru | Self::VolatileLru => Engine::Recency,
            Self::AllKeysRandom | Self::VolatileRandom => Engine::Random,
            Self::VolatileTtl => Engine::Ttl,
            Self::AllKeysTinyLfu | Self::VolatileTinyLfu | Self::AllKeysLfu | Self::VolatileLfu => Engine::Frequency,
        }
    }

    pub(crate) fn share(self) -> Share {
        let window_per_mille = match self {
            Self::AllKeysLfu | Self::VolatileLfu => WINDOW_PER_MILLE_LFU,
            _ => WINDOW_PER_MILLE,
        };
        Share { window_per_mille, margin: 0 }
    }

    /// What its duels are about, where the operator wishes this: those of the policies that go by frequency alone do not
    /// look at sizes.
    pub(crate) fn objective_of(self, wished: Objective) -> Objective {
        match self {
            Self::AllKeysLfu | Self::VolatileLfu => Objective::Bytes,
            _ => wished,
        }
    }
}

/// Settings of a [`crate::Keyspace`].
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Number of shards, a power of two from 1 to 4096.
    pub shards: usize,
    /// Memory for entries, tables, absences and leases in bytes; 0 = no limit. Live.
    pub memory_bytes_max: u64,
    /// Live.
    pub policy: EvictionPolicy,
    /// Memory for negative entries and tombstones in bytes, within `memory_bytes_max`. Live.
    pub absence_bytes_max: u64,
    /// Wall clock at boot, milliseconds since 1970: makes versions and tokens of this boot larger than of any before.
    pub boot_unix_ms: u64,
    /// See [`LeaseSettings`].
    pub lease: LeaseSettings,
}

/// Defaults and bounds of leases. All live.
#[derive(Clone, Copy, Debug)]
pub struct LeaseSettings {
    /// How long a token is valid, in ms, when the client names no time.
    pub lease_ms: u64,
    /// Longest time a client may ask for, in ms.
    pub lease_ms_max: u64,
    /// Least time between two tokens of a key in ms; `None` = min(lease, 4 × the key's recent load time).
    pub reissue_after_ms: Option<u64>,
    /// Waiters that may park on one key, beside the one whose miss starts a load of the server.
    pub waiters_per_key_max: usize,
    /// Waiters that may park in all, beside those.
    pub waiters_max: usize,
    /// Lease records in all, of which each shard may have an equal part, at least one; over it the oldest of some records without
    /// waiters goes, and its tokens are lost.
    pub records_max: usize,
    /// How long a key stays remembered as deleted at a version, in ms.
    pub tombstone_ttl_ms: u64,
    /// How long an entry softly invalidated stays readable as stale, in ms, when neither the entry nor the caller says.
    pub invalidated_stale_ms: u64,
}
