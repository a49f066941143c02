//! Whose the memory is and whose the hits are: by prefix of the key, and by loader.
//!
//! The prefix of a key is what stands before the first delimiter (`:`). Two estimates, both of bounded cost:
//!
//! ```text
//!     hits and misses   counted when they happen, from the sampled ones, in a table of prefixes with a bound
//!     entries, bytes    counted when somebody asks, from some buckets of each shard's index
//! ```
//!
//! Keys lie in buckets by their hash, so some buckets are a fair sample of all entries, as they are at that moment: nothing
//! has to be noted when an entry is written, evicted or expires, and nothing can go out of step. A keyspace with no more than
//! [`SAMPLED_ENTRIES`] entries is counted in full. Else, of a prefix that has a share p of the entries, the count is off by
//! `1 / √(p · 16384)` of itself (standard error): 8 % for a hundredth, 2.5 % for a tenth; the bytes by more if sizes differ
//! widely.
//!
//! When the table of prefixes is full, a new one takes the place of the least used (SpaceSaving; Metwally and others 2005), one
//! time in [`NEWCOMERS_REFUSED`]: traffic of prefixes that come once costs little and pushes out none that matters. What the
//! table does not have is under "other", so the sums are those of all requests.

use crate::entry::Key;
use crate::keyspace::Keyspace;
use crate::settings::Db;
use crate::shard::Shard;
use crate::turn::Turn;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// Prefixes told apart.
pub const PREFIXES_MAX: usize = 256;

/// Longest prefix in bytes; keys with a longer one count as other.
pub const PREFIX_BYTES_MAX: usize = 64;

/// Entries looked at to say how much memory each prefix has, in all shards together.
pub const SAMPLED_ENTRIES: usize = 16_384;

/// And in one shard at least.
const SAMPLED_PER_SHARD_MIN: usize = 16;

/// Sampled requests of new prefixes per one that gets a place in a full table.
const NEWCOMERS_REFUSED: u32 = 16;

/// Says which loader a key belongs to, by its number. For a sampled request, of which a shard has about a hundred a second, it runs
/// under the shard's lock: keep it linear in the key and free of allocations, and do not call the keyspace.
pub type LoaderOf = Box<dyn Fn(Db, &[u8]) -> Option<u32> + Send + Sync>;

/// What belongs to a prefix or a loader: estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Reads that found a fresh entry, since the last reset.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Entries now.
    pub entries: u64,
    /// Bytes of these, as [`crate::Entry::memory_bytes`].
    pub bytes: u64,
}

impl Share {
    fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.entries += other.entries;
        self.bytes += other.bytes;
    }
}

/// Shares of everything, by prefix and by loader.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    /// At most [`PREFIXES_MAX`], those with the most bytes first, then those with the most requests.
    pub prefixes: Vec<(Vec<u8>, Share)>,
    /// Of keys without a delimiter.
    pub unprefixed: Share,
    /// Of prefixes that have no place, or are too long.
    pub other: Share,
    /// By number, up to the highest that had a part.
    pub loaders: Vec<Share>,
    /// One entry in so many was looked at; 0 = none.
    pub entries_per_sample: f64,
}

/// The group of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Prefix<'k> {
    Named(&'k [u8]),
    Unprefixed,
    TooLong,
}

/// What was counted, shared by all shards; touched by sampled requests only.
pub(crate) struct Attribution {
    /// 256 = none: no key has a prefix.
    delimiter: AtomicU16,
    /// Beside the table: who matches many keys must not keep those waiting who note one, under the lock of a shard.
    loader_of: RwLock<Option<Arc<LoaderOf>>>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    named: HashMap<Box<[u8]>, Tracked>,
    unprefixed: Share,
    other: Share,
    loaders: Vec<Share>,
    newcomers: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tracked {
    share: Share,
    /// Requests, with those of who had the place before.
    rank: u64,
}

impl fmt::Debug for Attribution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Attribution").field("delimiter", &self.delimiter).finish_non_exhaustive()
    }
}

impl Default for Attribution {
    fn default() -> Self {
        Self { delimiter: AtomicU16::new(b':'.into()), loader_of: RwLock::default(), table: Mutex::default() }
    }
}

impl Attribution {
    /// Notes a sampled hit or miss that stands for `weight` of them.
    pub(crate) fn note(&self, key: &Key<'_>, is_hit: bool, weight: u32) {
        let weight = u64::from(weight);
        let share = match is_hit {
            true => Share { hits: weight, ..Share::default() },
            false => Share { misses: weight, ..Share::default() },
        };
        let prefix = self.prefix_of(key.bytes);
        let loader = self.loader_of().as_ref().and_then(|loader_of| loader_of(key.db, key.bytes));
        let mut table = self.table();
        table.note(prefix, share);
        if let Some(loader) = loader {
            share_of(&mut table.loaders, loader).add(share);
        }
    }

    pub(crate) fn reset(&self) {
        *self.table() = Table::default();
    }

    fn prefix_of<'k>(&self, key: &'k [u8]) -> Prefix<'k> {
        // Relaxed: a setting by itself.
        let delimiter = self.delimiter.load(Relaxed);
        let Some(at) = key.iter().position(|&byte| u16::from(byte) == delimiter) else { return Prefix::Unprefixed };
        if at <= PREFIX_BYTES_MAX { Prefix::Named(&key[..at]) } else { Prefix::TooLong }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whole after every statement: a panic leaves nothing half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a moment: nobody may wait for another lock with it, as who exchanges it keeps new readers waiting for those there are.
    fn loader_of(&self) -> RwLockReadGuard<'_, Option<Arc<LoaderOf>>> {
        self.loader_of.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn note(&mut self, prefix: Prefix<'_>, share: Share) {
        let requests = share.hits + share.misses;
        let name = match prefix {
            Prefix::Named(name) => name,
            Prefix::Unprefixed => return self.unprefixed.add(share),
            Prefix::TooLong => return self.other.add(share),
        };
        if let Some(tracked) = self.named.get_mut(name) {
            tracked.share.add(share);
            tracked.rank += requests;
        } else if self.named.len() < PREFIXES_MAX {
            self.named.insert(name.into(), Tracked { share, rank: requests });
        } else {
            self.newcomers = (self.newcomers + 1) % NEWCOMERS_REFUSED;
            if self.newcomers > 0 {
                return self.other.add(share);
            }
            let least = self.named.iter().min_by_key(|(_, tracked)| tracked.rank).map(|(name, _)| name.clone());
            let least = least.expect("a full table is not empty");
            let before = self.named.remove(&least).expect("it was just found");
            self.other.add(before.share);
            self.named.insert(name.into(), Tracked { share, rank: before.rank + requests });
        }
    }
}

impl Keyspace {
    /// Changes what ends a prefix; `None`: no key has one. What was counted by prefix begins anew if it is another.
    pub fn set_prefix_delimiter(&self, delimiter: Option<u8>) {
        let code = delimiter.map_or(256, u16::from);
        let attribution = &self.observers().attribution;
        if attribution.delimiter.swap(code, Relaxed) != code {
            attribution.reset();
        }
    }

    /// From now on hits and memory are told by loader too.
    pub fn attribute_to_loaders(&self, loader_of: LoaderOf) {
        let next = Some(Arc::new(loader_of));
        let mut current = self.observers().attribution.loader_of.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, next);
        // Who knows what it takes to drop it.
        drop(current);
        drop(before);
    }

    /// Hits and misses by prefix and loader, without entries and bytes.
    #[must_use]
    pub fn hit_shares(&self) -> Shares {
        let table = self.observers().attribution.table();
        let mut shares = Shares {
            prefixes: table.named.iter().map(|(name, tracked)| (name.to_vec(), tracked.share)).collect(),
            unprefixed: table.unprefixed,
            other: table.other,
            loaders: table.loaders.clone(),
            entries_per_sample: 0.0,
        };
        shares.sort();
        shares
    }

    /// Hits, misses, entries and bytes by prefix and loader. Looks at about [`SAMPLED_ENTRIES`] entries, a few of each shard
    /// under its lock: some milliseconds.
    #[must_use]
    pub fn shares(&self, turn: &mut Turn) -> Shares {
        let mut shares = self.hit_shares();
        let mut named: HashMap<Vec<u8>, Share> = shares.prefixes.drain(..).collect();
        let attribution = &self.observers().attribution;
        let per_shard = (SAMPLED_ENTRIES / self.shards()).max(SAMPLED_PER_SHARD_MIN);
        // Not the lock: those who note a request wait for it under the lock of their shard.
        let loader_of = attribution.loader_of().clone();
        let (mut all, mut looked_at) = (0, 0);
        let mut sample = Sample::default();
        for index in 0..self.shards() {
            let entries = self.lock(index).sample(per_shard, turn.random(), &mut sample);
            all += entries;
            looked_at += sample.entries.len();
            let scale = entries as f64 / sample.entries.len().max(1) as f64;
            for (db, key, bytes) in sample.iter() {
                let part = Part { entries: scale, bytes: bytes as f64 * scale };
                let share = match attribution.prefix_of(key) {
                    Prefix::Named(name) => match named.get_mut(name) {
                        Some(share) => share,
                        None => named.entry(name.to_vec()).or_default(),
                    },
                    Prefix::Unprefixed => &mut shares.unprefixed,
                    Prefix::TooLong => &mut shares.other,
                };
                part.add_to(share);
                if let Some(loader) = loader_of.as_ref().and_then(|loader_of| loader_of(db, key)) {
                    part.add_to(share_of(&mut shares.loaders, loader));
                }
            }
        }
        shares.prefixes = named.into_iter().collect();
        shares.sort();
        for (_, share) in shares.prefixes.split_off(shares.prefixes.len().min(PREFIXES_MAX)) {
            shares.other.add(share);
        }
        shares.unscale();
        shares.entries_per_sample = if looked_at == 0 { 0.0 } else { all as f64 / looked_at as f64 };
        shares
    }
}

/// While sums are made, entries and bytes are counted in parts of this: a sample stands for a number that is not whole.
const PARTS: f64 = 256.0;

struct Part {
    entries: f64,
    bytes: f64,
}

impl Part {
    fn add_to(&self, share: &mut Share) {
        share.entries += (self.entries * PARTS).round() as u64;
        share.bytes += (self.bytes * PARTS).round() as u64;
    }
}

impl Shares {
    fn sort(&mut self) {
        let weight = |share: &Share| (share.bytes, share.hits + share.misses);
        self.prefixes.sort_unstable_by(|(name, share), (other_name, other)| {
            weight(other).cmp(&weight(share)).then_with(|| name.cmp(other_name))
        });
    }

    fn unscale(&mut self) {
        let whole = |parts: u64| (parts as f64 / PARTS).round() as u64;
        let prefixes = self.prefixes.iter_mut().map(|(_, share)| share);
        for share in prefixes.chain([&mut self.unprefixed, &mut self.other]).chain(&mut self.loaders) {
            (share.entries, share.bytes) = (whole(share.entries), whole(share.bytes));
        }
    }
}

fn share_of(shares: &mut Vec<Share>, number: u32) -> &mut Share {
    let number = number as usize;
    if number >= shares.len() {
        shares.resize(number + 1, Share::default());
    }
    &mut shares[number]
}

/// Some entries of a shard, copied out.
#[derive(Default)]
struct Sample {
    keys: Vec<u8>,
    /// Database, end of the key, bytes.
    entries: Vec<(Db, usize, usize)>,
}

impl Sample {
    fn iter(&self) -> impl Iterator<Item = (Db, &[u8], usize)> {
        let mut start = 0;
        self.entries.iter().map(move |&(db, end, bytes)| {
            let key = &self.keys[start..end];
            start = end;
            (db, key, bytes)
        })
    }
}

impl Shard {
    /// Copies about `count` entries out, or all if there are no more; how many there are.
    fn sample(&self, count: usize, random: u64, sample: &mut Sample) -> usize {
        sample.keys.clear();
        sample.entries.clear();
        let entries = self.index.len();
        let is_all = entries <= count;
        let mut position = if is_all { 0 } else { random };
        while sample.entries.len() < count.min(entries) || is_all {
            position = self.index.step(position, |location| {
                let (entry, bytes) = (self.entry(location), self.memory_bytes(location));
                sample.keys.extend_from_slice(entry.key());
                sample.entries.push((entry.db(), sample.keys.len(), bytes));
            });
            if position == 0 && is_all {
                break;
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8]) -> Key<'_> {
        Key { db: Db(0), bytes, hash: 0 }
    }

    #[test]
    fn prefixes_end_at_the_first_delimiter() {
        let attribution = Attribution::default();
        let long = [b'x'; PREFIX_BYTES_MAX + 1];
        assert_eq!(attribution.prefix_of(b"user:1:posts"), Prefix::Named(b"user"));
        assert_eq!(attribution.prefix_of(b":1"), Prefix::Named(b""));
        assert_eq!(attribution.prefix_of(b"plain"), Prefix::Unprefixed);
        assert_eq!(attribution.prefix_of(&[&long[..], b":1"].concat()), Prefix::TooLong);
        assert_eq!(attribution.prefix_of(&[&long[1..], b":1"].concat()), Prefix::Named(&long[1..]));
    }

    #[test]
    fn a_full_table_keeps_those_that_matter_and_counts_all() {
        let attribution = Attribution::default();
        for number in 0..100_000_u32 {
            let name = match number % 4 {
                0 => "often".to_owned(),
                1 if number > 20_000 => "late".to_owned(),
                _ => format!("once{number}"),
            };
            attribution.note(&key(format!("{name}:1").as_bytes()), number % 8 == 0, 3);
        }
        let table = attribution.table();
        assert_eq!(table.named.len(), PREFIXES_MAX);
        let often = table.named[&b"often"[..]].share;
        assert_eq!((often.hits, often.misses), (37_500, 37_500));
        let late = table.named[&b"late"[..]].share;
        assert!(late.misses > 55_000, "{late:?}");
        let mut sum = table.other;
        table.named.values().for_each(|tracked| sum.add(tracked.share));
        assert_eq!((sum.hits, sum.misses), (37_500, 262_500));
    }
}
