//! How large the entries of a shard are: a histogram of their values, and the largest of them.
//!
//! The histogram is exact. The list of the largest has a bound, so it is exact as long as what was pushed out of it by larger
//! entries is not among the largest again when these have gone; from then on it holds the largest of what is written or
//! sampled anew.

use crate::settings::Db;

/// Lengths of 0, of 1, below 4, below 8, … up to 2^31 and more.
pub const SIZE_BUCKETS: usize = 33;

/// Entries by the length of their value: bucket 0 holds those of 0 bytes, bucket n those from 2^(n-1) bytes up to 2^n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeHistogram {
    /// Entries in each bucket.
    pub entries: [u64; SIZE_BUCKETS],
    /// Bytes of their values.
    pub bytes: [u64; SIZE_BUCKETS],
}

impl Default for SizeHistogram {
    fn default() -> Self {
        Self { entries: [0; SIZE_BUCKETS], bytes: [0; SIZE_BUCKETS] }
    }
}

impl SizeHistogram {
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.entries.iter_mut().zip(other.entries) {
            *sum += count;
        }
        for (sum, bytes) in self.bytes.iter_mut().zip(other.bytes) {
            *sum += bytes;
        }
    }
}

/// The bucket of a length. The longest value is shorter than 2^32 bytes.
#[inline]
fn bucket(len: usize) -> usize {
    ((usize::BITS - len.leading_zeros()) as usize).min(SIZE_BUCKETS - 1)
}

/// What is written, as far as sizes go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sized {
    pub(crate) db: Db,
    pub(crate) hash: u64,
    pub(crate) key_len: usize,
}

/// The sizes of a shard.
#[derive(Debug)]
pub(crate) struct Sizes {
    /// By database, up to the highest that ever had an entry.
    by_db: Vec<SizeHistogram>,
    largest: Vec<Large>,
    places: usize,
    /// Smaller entries are not in the list of the largest.
    least: u64,
    /// A bit for each hash in the list, by nine bits of it: where all entries are of one size, most that go are not listed.
    listed: [u64; 8],
}

/// An entry among the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Large {
    pub(crate) hash: u64,
    /// Of key and value.
    pub(crate) bytes: u64,
}

impl Sizes {
    pub(crate) fn new(places: usize) -> Self {
        Self { by_db: Vec::new(), largest: Vec::new(), places, least: 0, listed: [0; 8] }
    }

    /// An entry was added.
    #[inline]
    pub(crate) fn add(&mut self, entry: &Sized, value_len: usize) {
        let db = usize::from(entry.db.0);
        if db >= self.by_db.len() {
            self.by_db.resize(db + 1, SizeHistogram::default());
        }
        let (sizes, bucket) = (&mut self.by_db[db], bucket(value_len));
        sizes.entries[bucket] += 1;
        sizes.bytes[bucket] += value_len as u64;
        self.offer(entry, value_len);
    }

    /// An entry was removed.
    #[inline]
    pub(crate) fn remove(&mut self, entry: &Sized, value_len: usize) {
        let (sizes, bucket) = (&mut self.by_db[usize::from(entry.db.0)], bucket(value_len));
        sizes.entries[bucket] -= 1;
        sizes.bytes[bucket] -= value_len as u64;
        let (word, bit) = place_of(entry.hash);
        if self.listed[word] & bit != 0 && (entry.key_len + value_len) as u64 >= self.least {
            self.drop_large(entry.hash);
        }
    }

    /// The value of an entry has another length.
    #[inline]
    pub(crate) fn change(&mut self, entry: &Sized, len_before: usize, len: usize) {
        if len != len_before {
            self.remove(entry, len_before);
            self.add(entry, len);
        }
    }

    /// An entry that is there may be among the largest.
    #[inline]
    pub(crate) fn offer(&mut self, entry: &Sized, value_len: usize) {
        let bytes = (entry.key_len + value_len) as u64;
        if self.largest.len() < self.places || bytes > self.least {
            self.list(Large { hash: entry.hash, bytes });
        }
    }

    /// The largest entries, in no order.
    pub(crate) fn largest(&self) -> &[Large] {
        &self.largest
    }

    /// Of a database.
    pub(crate) fn histogram(&self, db: Db) -> Option<&SizeHistogram> {
        self.by_db.get(usize::from(db.0))
    }

    /// There is no entry any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.places);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.by_db.capacity() * size_of::<SizeHistogram>() + self.largest.capacity() * size_of::<Large>()
    }

    #[cold]
    fn list(&mut self, large: Large) {
        if let Some(known) = self.largest.iter_mut().find(|known| known.hash == large.hash) {
            known.bytes = large.bytes;
        } else if self.largest.len() < self.places {
            self.largest.push(large);
        } else {
            let smallest = self.largest.iter_mut().min_by_key(|known| known.bytes);
            *smallest.expect("there is at least one place") = large;
        }
        self.find_least();
    }

    #[cold]
    fn drop_large(&mut self, hash: u64) {
        if let Some(at) = self.largest.iter().position(|known| known.hash == hash) {
            self.largest.swap_remove(at);
            self.find_least();
        }
    }

    fn find_least(&mut self) {
        self.least = self.largest.iter().map(|known| known.bytes).min().unwrap_or(0);
        self.listed = [0; 8];
        for known in &self.largest {
            let (word, bit) = place_of(known.hash);
            self.listed[word] |= bit;
        }
    }
}

#[inline]
fn place_of(hash: u64) -> (usize, u64) {
    ((hash & 7) as usize, 1 << (hash >> 3 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn entry(hash: u64) -> Sized {
        Sized { db: Db((hash % 2) as u8), hash, key_len: 3 }
    }

    proptest! {
        #[test]
        fn sizes_are_those_of_the_entries_there_are(
            steps in prop::collection::vec((0..60_u64, prop::option::of(0..5000_usize)), 0..400),
        ) {
            let mut sizes = Sizes::new(8);
            let mut model: HashMap<u64, usize> = HashMap::new();
            for (hash, len) in steps {
                match (model.get(&hash).copied(), len) {
                    (None, Some(len)) => sizes.add(&entry(hash), len),
                    (Some(before), Some(len)) => sizes.change(&entry(hash), before, len),
                    (Some(before), None) => sizes.remove(&entry(hash), before),
                    (None, None) => {}
                }
                match len {
                    Some(len) => model.insert(hash, len),
                    None => model.remove(&hash),
                };
                for db in 0..2 {
                    let mut expected = SizeHistogram::default();
                    for (_, &len) in model.iter().filter(|(hash, _)| entry(**hash).db == Db(db)) {
                        let bucket = (0..33).find(|&bucket| (len as u64) < 1 << bucket).expect("2^32 is more");
                        expected.entries[bucket] += 1;
                        expected.bytes[bucket] += len as u64;
                    }
                    prop_assert_eq!(sizes.histogram(Db(db)).copied().unwrap_or_default(), expected);
                }
                prop_assert!(sizes.largest().len() <= 8);
                for large in sizes.largest() {
                    prop_assert_eq!(model.get(&large.hash).map(|&len| len as u64 + 3), Some(large.bytes));
                }
            }
        }

        #[test]
        fn the_largest_are_listed(lens in prop::collection::vec(0..1_000_000_usize, 1..200)) {
            let mut sizes = Sizes::new(8);
            for (hash, &len) in lens.iter().enumerate() {
                sizes.add(&entry(hash as u64), len);
            }
            let mut expected: Vec<u64> = lens.iter().map(|&len| len as u64 + 3).collect();
            expected.sort_unstable_by(|one, other| other.cmp(one));
            expected.truncate(8);
            let mut listed: Vec<u64> = sizes.largest().iter().map(|large| large.bytes).collect();
            listed.sort_unstable_by(|one, other| other.cmp(one));
            prop_assert_eq!(listed, expected);
        }
    }
}
