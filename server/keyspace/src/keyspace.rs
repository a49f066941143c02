//! The narrow waist: every verb of every protocol ends in a method of [`Keyspace`].
//!
//! A method hashes the key, locks its shard, finds the entry and runs what the caller brought: one hash, one lock, one find.
//! Methods on several keys lock the shards they need in order of their number, each once, so they cannot wait for each other
//! in a circle. Reading and writing live here; stepping through entries in [`crate::scan`], eviction, expiry, flushing, the
//! lease verbs and statistics in files of those names.

use crate::bumps::Bumps;
use crate::entry::Key;
use crate::guard::{Guard, guard};
use crate::log::{Backing, Charge, Garbage, PAGE_BYTES, Worked};
use crate::memory::Memory;
use crate::policy::duel::Objective;
use crate::policy::window::{Cache, Report, WindowControl};
use crate::settings::{DATABASES_MAX, Db, EvictionPolicy, HashSeed, LeaseSettings, Settings};
use crate::shard::{Shard, ShardNumber};
use crate::slot::{Acting, Slot, Slots};
use crate::stats::Count;
use crate::table::{hash_key, shard_of};
use crate::turn::Turn;
use crate::waiter_count::WaiterCount;
use crate::watch::{Observers, Watch};
use ahash::RandomState;
use crossbeam::utils::CachePadded;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// All data of a node: shards behind short locks. Shared by all threads.
///
/// What callers pass to be run under a lock must not call the keyspace again: a thread would wait for itself.
pub struct Keyspace {
    pub(crate) shards: Box<[CachePadded<Mutex<Shard>>]>,
    pub(crate) hash: RandomState,
    pub(crate) memory: Memory,
    window: Arc<WindowControl>,
    observers: Arc<Observers>,
    bumps: Arc<Bumps>,
    pub(crate) policy: AtomicU8,
    /// Whether the objective is bytes.
    wants_bytes: AtomicBool,
    /// The shard to evict from, modulo their number.
    pub(crate) next_victim: AtomicUsize,
}

/// Most shards: the hash has 12 bits for their number.
const SHARDS_MAX: usize = 4096;

/// Lease records take at most this share of the memory limit, and each shard an equal part of that.
const LEASES_SHARE: u64 = 8;

/// The size of a segment if there is no limit.
const SEGMENT_BYTES: u64 = 64 << 10;

/// The largest: all its entries are looked at under one lock when it is cleaned up.
const SEGMENT_BYTES_MAX: u64 = 256 << 10;

/// The size of the segments of shards that share a limit. A shard has some that are partly used: of many small ones that is
/// little.
fn segment_bytes(memory_bytes_max: u64, shards: usize) -> usize {
    const PARTS: u64 = 1024;
    /// A list has a segment that is not full and one that is half evicted, and the pool keeps some. Each part more costs a
    /// place in the table of segments: below 1 KiB those would take more than the parts save.
    const PARTS_MIN: u64 = 128;
    const BYTES_MIN: u64 = 1 << 10;
    /// Segments below a page give no memory back to the system, so only small limits have them.
    const SMALL_LIMIT_BYTES: u64 = 8 << 20;

    let bytes_min = if memory_bytes_max <= SMALL_LIMIT_BYTES { BYTES_MIN } else { PAGE_BYTES as u64 };
    let capacity = memory_bytes_max / shards as u64;
    let bytes = match capacity {
        0 => SEGMENT_BYTES,
        _ => (capacity / PARTS).clamp(SEGMENT_BYTES, SEGMENT_BYTES_MAX).min(capacity / PARTS_MIN),
    };
    1 << bytes.max(bytes_min).ilog2()
}

/// An entry, borrowed under the shard's lock. What the server keeps about it (the last three) is told to quiet readers and in
/// a [`Slot`] only, and nothing otherwise: to find it out costs as much as a read.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Database of the key.
    pub db: Db,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The version its writer gave it, if one did.
    pub external_version: Option<u64>,
    /// End of the fresh life in server time.
    pub expire_at_ms: Option<u64>,
    /// How long the entry stays readable as stale after that, in ms.
    pub stale_for_ms: u64,
    /// When its own fresh life ended, if it has a new one only because a load failed.
    pub stale_since_ms: Option<u64>,
    /// memcached's client flags; RESP writes reset them to 0.
    pub client_flags: u32,
    /// Milliseconds since the last access that counted as one, roughly: a byte is kept for it, or the epoch of use.
    pub idle_ms: u64,
    /// How often it was used, from 0 to 15, older use counting less. `None` under policies that do not count it.
    pub frequency: Option<u8>,
    /// Bytes this entry has: in its segment or run, and its place in the index.
    pub memory_bytes: usize,
}

impl Entry<'_> {
    /// How long ago the value's own fresh life ended, in ms; 0 within it. A new life that a failed load gave does not count.
    #[must_use]
    pub fn stale_ms(&self, now_ms: u64) -> u64 {
        self.stale_since_ms.or(self.expire_at_ms).map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }
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
    /// Within its fresh life.
    Fresh(R),
    /// Past its fresh life or softly invalidated, within its stale window.
    Stale(R),
    /// The source is known to have no such key.
    Negative {
        /// How long this is remembered, in ms.
        ttl_ms: u64,
        /// Version of the negative entry.
        version: u64,
    },
    /// Nothing is known.
    Absent,
}

/// The TTL of a value that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// No TTL.
    Never,
    /// Server time in ms.
    At(u64),
    /// As the entry before had it.
    Keep,
}

/// What is stored with a value.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// End of the fresh life.
    pub expiry: Expiry,
    /// How long the entry stays readable as stale after that, in ms.
    pub stale_for_ms: u64,
    /// The version its writer gives it.
    pub external_version: Option<u64>,
    /// memcached's client flags.
    pub client_flags: u32,
}

impl Attributes {
    /// No TTL, no stale window, no external version, flags 0: a plain `SET`.
    pub const PLAIN: Self = Self { expiry: Expiry::Never, stale_for_ms: 0, external_version: None, client_flags: 0 };
}

/// The memory limit is reached and nothing may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A locked shard. Tells the node's memory counter of changes when it is let go.
pub(crate) struct Locked<'k> {
    shard: Guard<'k>,
    number: usize,
    memory: &'k Memory,
    stays_barren: bool,
    /// Dropped after the guard: giving memory back to the system takes time.
    garbage: Option<Garbage>,
}

impl Deref for Locked<'_> {
    type Target = Shard;

    #[inline]
    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.shard.unpublished_bytes().unsigned_abs() > self.memory.publish_bytes() {
            self.publish();
        }
        if self.shard.is_barren && !self.stays_barren {
            self.shard.is_barren = false;
            self.memory.note_barren_until(self.number, 0);
        }
        self.garbage = self.shard.take_garbage();
    }
}

impl Locked<'_> {
    pub(crate) fn publish(&mut self) {
        self.memory.publish(self.shard.unpublished_bytes());
        self.shard.note_published();
        if self.shard.log.is_full() {
            self.memory.note_full(self.number);
        }
    }

    /// Who needs memory need not look here again before that time, unless somebody changes something.
    pub(crate) fn note_barren_until(mut self, until_ms: u64) {
        self.shard.is_barren = true;
        self.stays_barren = true;
        self.memory.note_barren_until(self.number, until_ms);
    }
}

impl Keyspace {
    /// An empty keyspace.
    ///
    /// # Panics
    /// If the number of shards is not a power of two from 1 to 4096.
    #[must_use]
    pub fn new(settings: Settings, seed: HashSeed) -> Self {
        let count = settings.shards;
        assert!(count.is_power_of_two() && count <= SHARDS_MAX, "{count} shards: must be a power of two up to 4096");
        let HashSeed([a, b, c, d]) = seed;
        let hash = RandomState::with_seeds(a, b, c, d);
        let waiters = WaiterCount::default();
        let window = Arc::new(WindowControl::default());
        let observers = Arc::new(Observers::default());
        let bumps = Arc::new(Bumps::default());
        let backing = Backing::new(segment_bytes(settings.memory_bytes_max, count));
        let shards = (0..count)
            .map(|index| {
                let number = ShardNumber { index, count };
                let mut shard = Shard::new(
                    number,
                    settings.boot_unix_ms,
                    settings.lease,
                    &hash,
                    &backing,
                    settings.policy,
                    &window,
                );
                shard.leases.count_waiters_with(waiters.share());
                shard.watch = Watch::new(count, index as u64, settings.boot_unix_ms, &observers);
                shard.bumps = Arc::clone(&bumps);
                CachePadded::new(Mutex::new(shard))
            })
            .collect();
        let keyspace = Self {
            shards,
            hash,
            memory: Memory::new(settings.memory_bytes_max, count, backing),
            window,
            observers,
            bumps,
            policy: AtomicU8::new(0),
            wants_bytes: AtomicBool::new(false),
            next_victim: AtomicUsize::new(0),
        };
        keyspace.set_policy(settings.policy);
        keyspace.set_absence_bytes_max(settings.absence_bytes_max);
        keyspace.set_memory_bytes_max(settings.memory_bytes_max);
        keyspace
    }

    /// Moves 2 MiB of entries or index that have been in use for a while into a huge page, or makes one small again of which something
    /// went. Takes up to some ms, so it is for a thread of its own; who touches that memory meanwhile waits for the copy
    /// of it, some 100 µs. `now_s` is from any clock that goes on. Reads of a million keys cost a quarter less then.
    pub fn gather_pages(&self, now_s: u32) -> Worked {
        self.memory.gather_pages(now_s)
    }

    /// Reads a fresh entry; `None` if there is none. `read` runs under the lock: copy out, nothing else.
    #[inline]
    pub fn read<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        access: Access,
        read: impl FnOnce(Entry<'_>) -> R,
    ) -> Option<R> {
        let key = self.key(db, key);
        // Without `Locked`: a read changes memory only where it finds an entry that is over, and whoever locks the shard next
        // to write tells of that.
        let mut shard = self.lock_unpublished(self.shard_number(key.hash));
        shard.read(&key, access, turn.now_ms, read)
    }

    /// As [`Keyspace::read`], but tells stale, negative and absent apart. A stale entry counts as a miss; so does a negative
    /// one, which has its own counter too.
    pub fn lookup<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        access: Access,
        read: impl FnOnce(Entry<'_>) -> R,
    ) -> Lookup<R> {
        let key = self.key(db, key);
        let mut shard = self.lock_unpublished(self.shard_number(key.hash));
        shard.lookup(&key, access, turn.now_ms, read)
    }

    /// As [`Keyspace::lookup`], for who shows the version: the external one if there is one, else the internal.
    pub fn lookup_with_version<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        access: Access,
        read: impl FnOnce(Entry<'_>, u64) -> R,
    ) -> Lookup<R> {
        let key = self.key(db, key);
        let mut shard = self.lock_of(key.hash);
        let version = match shard.find_live(&key, turn.now_ms) {
            Some(location) => shard.shown_version(location, &key, turn.now_ms).1,
            None => 0,
        };
        shard.lookup(&key, access, turn.now_ms, |entry| read(entry, version))
    }

    /// Reads fresh entries of many keys at one moment; `read` is called once per key, in order.
    pub fn read_many<'k>(
        &self,
        turn: &mut Turn,
        db: Db,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
        access: Access,
        mut read: impl FnMut(usize, Option<Entry<'_>>),
    ) {
        let keys: Vec<Key<'k>> = keys.map(|key| self.key(db, key)).collect();
        let mut locks = self.lock_many(&keys);
        // First the lines of all buckets, then of all entries: the processor fetches those of many keys side by side.
        for key in &keys {
            locks.shard(key).index.prefetch(key.hash);
        }
        for key in &keys {
            locks.shard(key).prefetch_entry(key.hash);
        }
        for (index, key) in keys.iter().enumerate() {
            let shard = locks.shard(key);
            if shard.read(key, access, turn.now_ms, |entry| read(index, Some(entry))).is_none() {
                read(index, None);
            }
        }
    }

    /// Reads and writes one key in one step.
    #[inline]
    pub fn update<R>(&self, turn: &mut Turn, db: Db, key: &[u8], update: impl FnOnce(&mut Slot<'_>) -> R) -> R {
        let key = self.key(db, key);
        let mut shard = self.lock_of(key.hash);
        let mut is_written = false;
        let result = update(&mut Slot::new(&mut shard, key, Acting::of(turn), &mut is_written));
        if is_written {
            shard.settle(&key, turn);
        }
        if shard.is_untidy() {
            shard.clean_up(turn.now_ms);
        }
        result
    }

    /// Reads and writes several keys in one step; a key may be named twice.
    pub fn update_many<R>(&self, turn: &mut Turn, keys: &[(Db, &[u8])], update: impl FnOnce(&mut Slots<'_>) -> R) -> R {
        let keys: Vec<Key<'_>> = keys.iter().map(|&(db, key)| self.key(db, key)).collect();
        let mut slots = Slots::new(self.lock_many(&keys), &keys, Acting::of(turn));
        let result = update(&mut slots);
        slots.settle(turn);
        result
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Entries of `db`, fresh, stale or expired and not yet removed; as Redis's DBSIZE.
    #[must_use]
    pub fn len(&self, db: Db) -> usize {
        (0..self.shards()).map(|shard| self.lock(shard).count(db).entries).sum()
    }

    /// Entries of all databases, in order, with each shard locked once.
    #[must_use]
    pub fn counts(&self) -> [Count; DATABASES_MAX] {
        let mut counts = [Count::default(); DATABASES_MAX];
        for shard in 0..self.shards() {
            let shard = self.lock(shard);
            for (db, count) in (0..).zip(&mut counts) {
                let Count { entries, with_ttl } = shard.count(Db(db));
                count.entries += entries;
                count.with_ttl += with_ttl;
            }
        }
        counts
    }

    /// Bytes counted against the limit now, with what is kept for absences, short of at most 4 KiB per shard that it has not told yet. Part of them is what free
    /// pages may be kept, be they or not.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.memory.used_bytes()
    }

    /// Changes the limit; 0 = none. A lower limit is reached bit by bit, by writers and by [`Keyspace::expire_cycle`].
    pub fn set_memory_bytes_max(&self, bytes: u64) {
        self.memory.set_bytes_max(bytes);
        let part = match bytes {
            0 => usize::MAX,
            _ => usize::try_from(bytes / LEASES_SHARE / self.shards() as u64).unwrap_or(usize::MAX),
        };
        let capacity_bytes = if bytes == 0 { u64::MAX } else { bytes / self.shards() as u64 };
        for index in 0..self.shards() {
            let mut shard = self.lock(index);
            shard.leases.set_bytes_max(part);
            shard.queues.capacity_bytes = capacity_bytes;
            shard.reserve_for_absences(self.limit_of_a_shard());
            shard.publish();
        }
    }

    /// Lets the lengths of values alone count against the limit, not keys, headers and tables, and limits these bytes to
    /// `bytes`: what simulations of caches usually do, so that their figures can be compared.
    ///
    /// # Panics
    /// If something is stored already.
    pub fn limit_values_only(&self, bytes: u64) {
        self.memory.count_values_only();
        for index in 0..self.shards() {
            let mut shard = self.lock(index);
            shard.log.set_charge(Charge::Value);
            shard.note_published();
        }
        self.set_memory_bytes_max(bytes);
    }

    /// Works off a bounded part of what the shards have told of some keys, and chooses the window of the policies that have
    /// an adaptive one. [`Keyspace::expire_cycle`] calls this.
    pub fn adapt_window(&self, turn: &mut Turn) {
        if !self.policy().has_adaptive_window() {
            let objective = self.objective();
            self.window.adapt(Cache { capacity_bytes: 0, entries: 0, objective });
            return self.memory.count_shadows(0);
        }
        self.window.adapt(self.cache(turn));
        self.memory.count_shadows(self.window.memory_bytes());
    }

    /// What entries may weigh, and how many there are; a capacity of 0 = no limit.
    pub(crate) fn cache(&self, turn: &mut Turn) -> Cache {
        let objective = self.objective();
        let allowed = self.memory.bytes_allowed();
        // One shard stands for all, which are alike.
        let shard = self.lock(turn.random() as usize % self.shards());
        let entries = (shard.index.len() * self.shards()) as u64;
        let weight = (shard.log.weight_of_all() * self.shards()) as u64;
        let held = (shard.held_bytes() * self.shards()) as u64;
        drop(shard);
        let capacity_bytes = match self.memory.counts_values_only() {
            true => allowed,
            // The part of the memory that is entries, now and when it is full.
            false => (u128::from(allowed) * u128::from(weight.max(1)) / u128::from(held.max(1))) as u64,
        };
        Cache { capacity_bytes, entries, objective }
    }

    /// As [`Keyspace::adapt_window`] once there is enough to work off; else it costs two loads.
    #[inline]
    pub fn adapt_window_if_due(&self, turn: &mut Turn) {
        if self.window.is_due() {
            self.adapt_window(turn);
        }
    }

    /// What the controller of the window has done so far.
    #[must_use]
    pub fn window_report(&self) -> Report {
        self.window.report()
    }

    /// Changes what is evicted. Entries stay, and go by the new policy from now on.
    pub fn set_policy(&self, policy: EvictionPolicy) {
        self.policy.store(policy as u8, Relaxed);
        self.tell_policy();
    }

    /// Changes what policies that weigh frequency against size keep most of.
    pub fn set_objective(&self, objective: Objective) {
        self.wants_bytes.store(objective == Objective::Bytes, Relaxed);
        self.tell_policy();
    }

    fn objective(&self) -> Objective {
        if self.wants_bytes.load(Relaxed) { Objective::Bytes } else { Objective::Objects }
    }

    fn tell_policy(&self) {
        for index in 0..self.shards() {
            self.lock(index).set_policy(self.policy(), self.objective());
        }
    }

    /// Changes the memory for negative entries and tombstones; each shard has its part.
    pub fn set_absence_bytes_max(&self, bytes: u64) {
        let part = usize::try_from(bytes / self.shards() as u64).unwrap_or(usize::MAX);
        for index in 0..self.shards() {
            let mut shard = self.lock(index);
            shard.absence_bytes_max = part;
            shard.shrink_absences();
            shard.reserve_for_absences(self.limit_of_a_shard());
            shard.publish();
        }
    }

    /// A shard's part of the limit on memory, in bytes; 0 = none.
    fn limit_of_a_shard(&self) -> usize {
        match self.memory.counts_values_only() {
            true => 0,
            false => usize::try_from(self.memory.bytes_allowed() / self.shards() as u64).unwrap_or(usize::MAX),
        }
    }

    /// Changes the defaults and bounds of leases.
    pub fn set_lease_settings(&self, lease: LeaseSettings) {
        for index in 0..self.shards() {
            let mut shard = self.lock(index);
            shard.lease_settings = lease;
            shard.leases.set_settings(lease, self.shards());
        }
    }

    /// Checks the counts of every shard against what is there, while nobody writes; for tests.
    #[doc(hidden)]
    pub fn check(&self) {
        let mut run_bytes = 0;
        for index in 0..self.shards() {
            let shard = self.lock(index);
            shard.check();
            run_bytes += shard.log.bytes_of_runs();
        }
        self.memory.check_extents(run_bytes);
    }

    /// Runs something under the lock of a key's shard.
    pub(crate) fn with_shard<R>(&self, db: Db, key: &[u8], run: impl FnOnce(&mut Shard, &Key<'_>) -> R) -> R {
        let key = self.key(db, key);
        run(&mut self.lock_of(key.hash), &key)
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.observers
    }

    pub(crate) fn bumps(&self) -> &Bumps {
        &self.bumps
    }

    pub(crate) fn hash_of_tag(&self, name: &[u8]) -> u64 {
        hash_key(&self.hash, Db(0), name)
    }

    /// A key with its hash.
    #[inline]
    pub(crate) fn key<'k>(&self, db: Db, bytes: &'k [u8]) -> Key<'k> {
        Key { db, bytes, hash: hash_key(&self.hash, db, bytes) }
    }

    /// Locks the shard of a key's hash.
    #[inline]
    pub(crate) fn lock_of(&self, hash: u64) -> Locked<'_> {
        self.lock(self.shard_number(hash))
    }

    #[inline]
    pub(crate) fn shard_number(&self, hash: u64) -> usize {
        shard_of(hash, self.shards.len() - 1)
    }

    /// Locks a shard. A thread that panicked under the lock left every count valid, if not the entry it wrote.
    #[inline]
    pub(crate) fn lock(&self, index: usize) -> Locked<'_> {
        Locked {
            shard: self.lock_unpublished(index),
            number: index,
            memory: &self.memory,
            stays_barren: false,
            garbage: None,
        }
    }

    #[inline]
    pub(crate) fn lock_unpublished(&self, index: usize) -> Guard<'_> {
        guard(self.shards[index].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_many(&self, keys: &[Key<'_>]) -> Locks<'_> {
        let mask = self.shards.len() - 1;
        let mut numbers: Vec<usize> = keys.iter().map(|key| shard_of(key.hash, mask)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let shards = numbers.iter().map(|&number| self.lock(number)).collect();
        Locks { numbers, shards, mask }
    }
}

/// Several locked shards.
pub(crate) struct Locks<'k> {
    /// Sorted, each once, as long as `shards`.
    numbers: Vec<usize>,
    shards: Vec<Locked<'k>>,
    mask: usize,
}

impl Locks<'_> {
    /// The shard of one of the keys that the locks were taken for.
    pub(crate) fn shard(&mut self, key: &Key<'_>) -> &mut Shard {
        let number = shard_of(key.hash, self.mask);
        let index = self.numbers.binary_search(&number).expect("the shards of all keys are locked");
        &mut self.shards[index]
    }
}
