//! The narrow waist: every verb of every protocol ends in a method of [`Keyspace`].

use crate::settings::{Db, EvictionPolicy, HashSeed, LeaseSettings, Settings};
use crate::turn::Turn;

/// All data of a node: shards behind short locks. Shared by all threads.
pub struct Keyspace {}

/// An entry, borrowed under the shard's lock.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub db: Db,
    pub key: &'a [u8],
    pub value: &'a [u8],
    /// Internal version: unique on the node, only grows.
    pub version: u64,
    pub external_version: Option<u64>,
    /// End of the fresh life in server time.
    pub expire_at_ms: Option<u64>,
    /// How long the entry stays readable as stale after that, in ms.
    pub stale_for_ms: u64,
    /// memcached's client flags; RESP writes reset them to 0.
    pub client_flags: u32,
    /// Milliseconds since the last access that counted as one.
    pub idle_ms: u64,
    /// Bytes this entry costs: block with allocator rounding, and its place in the table.
    pub memory_bytes: usize,
}

/// Whether a read counts as use of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Counts as use, and as hit or miss.
    Touch,
    /// Leaves recency and counters alone (`OBJECT`, `TTL`, a client with `NO-TOUCH`).
    Quiet,
}

/// What a reader of a loader's key finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<R> {
    Fresh(R),
    /// Past its fresh life or softly invalidated, within its stale window.
    Stale(R),
    /// The source is known to have no such key.
    Negative {
        ttl_ms: u64,
        version: u64,
    },
    Absent,
}

/// The TTL of a value that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    Never,
    /// Server time in ms.
    At(u64),
    /// As the entry before had it.
    Keep,
}

/// What is stored with a value.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    pub expiry: Expiry,
    pub stale_for_ms: u64,
    pub external_version: Option<u64>,
    pub client_flags: u32,
}

impl Attributes {
    /// No TTL, no stale window, no external version, flags 0: a plain `SET`.
    pub const PLAIN: Self = Self { expiry: Expiry::Never, stale_for_ms: 0, external_version: None, client_flags: 0 };
}

/// One key under its shard's lock, for reading and writing in one step. Keep what runs under it short.
pub struct Slot<'s> {
    _shard: &'s mut (),
}

/// Several keys under all their shards' locks, taken in order.
pub struct Slots<'s> {
    _shards: &'s mut (),
}

/// The memory limit is reached and nothing may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Sums over all shards since start, and sizes now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub hits: u64,
    pub misses: u64,
    pub expired: u64,
    pub evicted: u64,
    /// Bytes of blocks, tables, absences and leases.
    pub used_bytes: u64,
    pub used_bytes_peak: u64,
    pub table_bytes: u64,
    pub entries: u64,
    pub entries_with_ttl: u64,
    /// Negative entries and tombstones.
    pub absences: u64,
    pub absence_bytes: u64,
    pub negative_hits: u64,
    pub leases_issued: u64,
    pub lease_hot_misses: u64,
    pub fills_stored: u64,
    pub fills_stale: u64,
    pub fills_lost_revoked: u64,
    pub fills_lost_superseded: u64,
    pub fills_lost_unknown: u64,
    pub fills_lost_older: u64,
    pub leases: u64,
    pub waiters: u64,
}

impl Keyspace {
    #[must_use]
    pub fn new(settings: Settings, seed: HashSeed) -> Self {
        let _ = (settings, seed);
        todo!()
    }

    /// Reads a fresh entry; `None` if there is none. `read` runs under the lock: copy out, nothing else.
    pub fn read<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        access: Access,
        read: impl FnOnce(Entry<'_>) -> R,
    ) -> Option<R> {
        let _ = (turn, db, key, access, read);
        todo!()
    }

    /// As [`Keyspace::read`], but tells stale, negative and absent apart.
    pub fn lookup<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        access: Access,
        read: impl FnOnce(Entry<'_>) -> R,
    ) -> Lookup<R> {
        let _ = (turn, db, key, access, read);
        todo!()
    }

    /// Reads fresh entries of many keys at one moment; `read` is called once per key, in order.
    pub fn read_many<'k>(
        &self,
        turn: &mut Turn,
        db: Db,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
        access: Access,
        read: impl FnMut(usize, Option<Entry<'_>>),
    ) {
        let _ = (turn, db, keys, access, read);
        todo!()
    }

    /// Reads and writes one key in one step.
    pub fn update<R>(&self, turn: &mut Turn, db: Db, key: &[u8], update: impl FnOnce(&mut Slot<'_>) -> R) -> R {
        let _ = (turn, db, key, update);
        todo!()
    }

    /// Reads and writes several keys in one step; a key may be named twice.
    pub fn update_many<R>(&self, turn: &mut Turn, keys: &[(Db, &[u8])], update: impl FnOnce(&mut Slots<'_>) -> R) -> R {
        let _ = (turn, keys, update);
        todo!()
    }

    /// Evicts until `bytes_wanted` more fit. Called before a command that may grow the keyspace, with no lock held.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the policy leaves nothing to evict; the client gets `-OOM`.
    pub fn make_room(&self, turn: &mut Turn, bytes_wanted: usize) -> Result<(), OutOfMemory> {
        let _ = (turn, bytes_wanted);
        todo!()
    }

    /// Removes expired entries, absences and leases for a share of the shards; called about every 100 ms by each thread.
    /// Looks at no more than `steps_max` table positions. Returns how many entries it removed.
    pub fn expire_cycle(&self, turn: &mut Turn, shards: std::ops::Range<usize>, steps_max: usize) -> usize {
        let _ = (turn, shards, steps_max);
        todo!()
    }

    #[must_use]
    pub fn shards(&self) -> usize {
        todo!()
    }

    /// Steps through the fresh entries of `db`, about `count` table positions a call. Cursor 0 starts and ends. An entry
    /// present from the first call to the last is visited at least once.
    pub fn scan(&self, turn: &mut Turn, db: Db, cursor: u64, count: usize, visit: impl FnMut(Entry<'_>)) -> u64 {
        let _ = (turn, db, cursor, count, visit);
        todo!()
    }

    /// A fresh entry of `db` chosen at random.
    pub fn random_key(&self, turn: &mut Turn, db: Db) -> Option<Vec<u8>> {
        let _ = (turn, db);
        todo!()
    }

    /// Entries of `db`, fresh, stale or expired and not yet removed; as Redis's DBSIZE.
    #[must_use]
    pub fn len(&self, db: Db) -> usize {
        let _ = db;
        todo!()
    }

    /// Entries of `db` with a TTL.
    #[must_use]
    pub fn len_with_ttl(&self, db: Db) -> usize {
        let _ = db;
        todo!()
    }

    /// Removes all entries and absences of one database or of all, and revokes their leases.
    pub fn flush(&self, turn: &mut Turn, db: Option<Db>) {
        let _ = (turn, db);
        todo!()
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        todo!()
    }

    pub fn reset_stats(&self) {
        todo!()
    }

    /// Bytes counted against the limit now.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        todo!()
    }

    pub fn set_memory_bytes_max(&self, bytes: u64) {
        let _ = bytes;
        todo!()
    }

    pub fn set_policy(&self, policy: EvictionPolicy) {
        let _ = policy;
        todo!()
    }

    pub fn set_eviction_samples(&self, samples: u8) {
        let _ = samples;
        todo!()
    }

    pub fn set_absence_bytes_max(&self, bytes: u64) {
        let _ = bytes;
        todo!()
    }

    pub fn set_lease_settings(&self, lease: LeaseSettings) {
        let _ = lease;
        todo!()
    }
}

impl Slot<'_> {
    /// The fresh entry, if there is one.
    #[must_use]
    pub fn entry(&self) -> Option<Entry<'_>> {
        todo!()
    }

    /// The external version that a `VER` write must exceed: of the entry, fresh or stale, or of a tombstone.
    #[must_use]
    pub fn version_floor(&self) -> Option<u64> {
        todo!()
    }

    /// Counts as use of the entry, and as hit or miss.
    pub fn touch(&mut self) {
        todo!()
    }

    /// Stores a value, whatever was there; revokes leases, ends a negative entry or tombstone. Returns the internal version.
    pub fn set(&mut self, value: &[u8], attributes: Attributes) -> u64 {
        let _ = (value, attributes);
        todo!()
    }

    /// The value for writing in place, lengthened with zero bytes to at least `len`; made empty first if there is no fresh
    /// entry. Keeps the TTL, drops the external version, revokes leases, gives a new version.
    pub fn value_mut(&mut self, len: usize) -> &mut [u8] {
        let _ = len;
        todo!()
    }

    /// Sets or removes the TTL of the fresh entry. No write: leases stay. A time that has passed deletes (and revokes).
    /// Whether there was an entry.
    pub fn set_expiry(&mut self, expire_at_ms: Option<u64>) -> bool {
        let _ = expire_at_ms;
        todo!()
    }

    /// Deletes; revokes leases, also of an absent key. Whether there was a fresh entry.
    pub fn remove(&mut self) -> bool {
        todo!()
    }
}

impl Slots<'_> {
    /// The slot of `keys[index]`.
    pub fn slot(&mut self, index: usize) -> Slot<'_> {
        let _ = index;
        todo!()
    }
}
