//! The hot and the large keys of all shards, by their names, and how large all are.
//!
//! Shards note hashes; the name of a key is that of the entry which has the hash now. A key that is gone is not listed.

use super::sizes::SizeHistogram;
use crate::keyspace::Keyspace;
use crate::settings::Db;
use crate::shard::Shard;
use crate::turn::Turn;

/// A key that is used much.
#[derive(Clone, Debug, PartialEq)]
pub struct HotKey {
    /// The key.
    pub key: Vec<u8>,
    /// Uses a second: at least so many, as far as samples tell, most of them within the last 10 seconds or so.
    pub per_second: f64,
}

/// A large entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargeEntry {
    /// The key.
    pub key: Vec<u8>,
    /// As [`crate::Entry::memory_bytes`].
    pub bytes: usize,
}

impl Keyspace {
    /// The keys of `db` that are hit most, at most `count`, hottest first. Scans nothing.
    #[must_use]
    pub fn hot_keys(&self, turn: &Turn, db: Db, count: usize) -> Vec<HotKey> {
        let mut found = Vec::new();
        for index in 0..self.shards() {
            let mut shard = self.lock(index);
            let hot: Vec<_> = shard.watch.hot.list(turn.now_ms).filter(|hot| hot.per_second > 0.0).collect();
            let named = |hot: super::hot::Hot| {
                let key = shard.key_of(db, hot.hash)?.0;
                Some(HotKey { key, per_second: hot.per_second })
            };
            found.extend(hot.into_iter().filter_map(named));
        }
        found.sort_by(|one, other| other.per_second.total_cmp(&one.per_second).then_with(|| one.key.cmp(&other.key)));
        found.truncate(count);
        found
    }

    /// Forgets which keys were hot.
    pub fn reset_hot_keys(&self, turn: &Turn) {
        for index in 0..self.shards() {
            self.lock(index).watch.hot.clear(turn.now_ms);
        }
    }

    /// The largest entries of `db`, at most `count`, largest first. Scans nothing. An entry may be missing if larger ones that
    /// were there are gone, until it is written or read.
    #[must_use]
    pub fn largest(&self, db: Db, count: usize) -> Vec<LargeEntry> {
        let mut found = Vec::new();
        for index in 0..self.shards() {
            let shard = self.lock(index);
            let named = shard.watch.sizes.largest().iter().filter_map(|large| shard.key_of(db, large.hash));
            found.extend(named.map(|(key, bytes)| LargeEntry { key, bytes }));
        }
        found.sort_unstable_by(|one, other| other.bytes.cmp(&one.bytes).then_with(|| one.key.cmp(&other.key)));
        found.truncate(count);
        found
    }

    /// How many entries of `db` have values of which size.
    #[must_use]
    pub fn size_histogram(&self, db: Db) -> SizeHistogram {
        let mut sum = SizeHistogram::default();
        for index in 0..self.shards() {
            if let Some(sizes) = self.lock(index).watch.sizes.histogram(db) {
                sum.add(sizes);
            }
        }
        sum
    }

    /// Bytes of what is noted for operators, traces and shadow caches included, which is not part of the memory limit.
    #[must_use]
    pub fn watch_bytes(&self) -> u64 {
        let shards = (0..self.shards()).map(|index| self.lock(index).watch.bytes() as u64);
        shards.sum::<u64>() + (self.observers().streams.bytes() + self.observers().changes.bytes()) as u64
    }
}

impl Shard {
    /// The key with this hash, if it is in `db`, and what its entry costs.
    fn key_of(&self, db: Db, hash: u64) -> Option<(Vec<u8>, usize)> {
        let location = self.index.find(hash, |location| (self.hash_of(location) == hash).then_some(location))?;
        let entry = self.entry(location);
        (entry.db() == db).then(|| (entry.key().to_vec(), self.memory_bytes(location)))
    }
}
