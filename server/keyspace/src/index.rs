//! Where the entry of a key is: buckets of one cache line, and a table of them that grows bucket by bucket.
//!
//! ```text
//!     bucket: 12 × location u32 │ 12 × tag u8 │ overflow u32          64 bytes, one cache line
//!
//!     hash bits  51…44   43…32    31…0
//!                tag     shard    bucket
//! ```
//!
//! A lookup reads one line and the entries whose tag is that of the key, so nearly always the right one only. Linear hashing
//! (Litwin 1980): the next bucket in order is split when the mean passes [`MEAN_MAX`], and two become one again when it is
//! below [`MEAN_MIN`], so no operation moves more than a bucket or two. A bucket that is full has a second one in overflow:
//! with buckets that are not yet split in their round, a fifth of the entries or less. Buckets lie in chunks of a page.
//!
//! The index knows hashes and locations. What lies there is told by who asks.

use crate::cells::{Cells, Rows};
use crate::log::{Location, prefetch};

const SLOTS: usize = 12;

/// Entries per bucket, on average, from which on buckets are split. With 10 the whole costs 7.7 to 8.2 bytes an entry with
/// overflow, by Poisson's distribution; more saves little and lengthens the chains.
const MEAN_MAX: usize = 10;

/// Below this buckets are joined.
const MEAN_MIN: usize = 3;

/// Buckets of a page.
const CHUNK: usize = Cells::<Bucket>::PER_PAGE;
const TAG_SHIFT: u32 = 44;

type Buckets = Rows<Bucket>;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 = empty.
    locations: [u32; SLOTS],
    tags: [u8; SLOTS],
    /// Number of the overflow bucket that follows, and 1; 0 = none.
    overflow: u32,
}

const EMPTY: Bucket = Bucket { locations: [0; SLOTS], tags: [0; SLOTS], overflow: 0 };

const _: () = assert!(size_of::<Bucket>() == 64);

/// The index of a shard.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Buckets,
    overflow: Buckets,
    /// First of the overflow buckets that are not used, linked by `overflow`; as there.
    vacant: u32,
    overflow_used: usize,
    /// Buckets at the start of the round of splits under way, a power of two.
    round: usize,
    len: usize,
}

/// Where a location stands.
#[derive(Clone, Copy, Debug)]
struct Spot {
    /// `None` = the bucket itself, else the overflow bucket.
    overflow: Option<usize>,
    bucket: usize,
    slot: usize,
}

impl Index {
    pub(crate) fn new() -> Self {
        let mut buckets = Buckets::default();
        buckets.push(EMPTY);
        Self { buckets, overflow: Buckets::default(), vacant: 0, overflow_used: 0, round: 1, len: 0 }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the index holds.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.buckets.bytes() + self.overflow.bytes()
    }

    /// What `look` finds at the location of the key with this hash: it is asked about each that may be it.
    #[inline(always)]
    pub(crate) fn find<R>(&self, hash: u64, mut look: impl FnMut(Location) -> Option<R>) -> Option<R> {
        let tag = tag_of(hash);
        let mut bucket = self.buckets.at(self.bucket_of(hash));
        loop {
            for slot in bucket.matching(tag) {
                if let Some(location) = Location::decode(bucket.locations[slot])
                    && let Some(found) = look(location)
                {
                    return Some(found);
                }
            }
            if bucket.overflow == 0 {
                return None;
            }
            bucket = self.overflow.at(bucket.overflow as usize - 1);
        }
    }

    /// Fetches the bucket of a hash.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(self.buckets.at(self.bucket_of(hash)));
    }

    /// The location that is probably that of the hash, without a look at what is there.
    #[inline]
    pub(crate) fn guess(&self, hash: u64) -> Option<Location> {
        let bucket = self.buckets.at(self.bucket_of(hash));
        bucket.matching(tag_of(hash)).next().and_then(|slot| Location::decode(bucket.locations[slot]))
    }

    /// Adds the location of a key that is not in the index. `hash_at` is asked for the hashes of those that move.
    pub(crate) fn insert(&mut self, hash: u64, location: Location, hash_at: impl Fn(Location) -> u64) {
        if self.len >= self.buckets.len() * MEAN_MAX {
            self.split(&hash_at);
        }
        self.add(self.bucket_of(hash), tag_of(hash), location);
        self.len += 1;
    }

    /// Says that an entry is at another place now.
    ///
    /// # Panics
    /// If `from` is not in the index.
    #[inline]
    pub(crate) fn relocate(&mut self, hash: u64, from: Location, to: Location) {
        let spot = self.spot(hash, from).expect("every live entry is in the index");
        self.at_mut(spot).locations[spot.slot] = to.encode();
    }

    /// Takes a location out.
    ///
    /// # Panics
    /// If it is not in the index.
    pub(crate) fn remove(&mut self, hash: u64, location: Location) {
        let spot = self.spot(hash, location).expect("every live entry is in the index");
        self.vacate(spot);
        self.len -= 1;
        if self.len < self.buckets.len() * MEAN_MIN && self.buckets.len() > 1 {
            self.join();
        }
    }

    /// Whether the index has this location for this hash.
    pub(crate) fn has(&self, hash: u64, location: Location) -> bool {
        self.spot(hash, location).is_some()
    }

    /// Steps through the index from position 0 until 0 comes back: hands over the locations at a position, and says the next
    /// one. A location that is there from the first step to the last is handed over at least once, however the index grows or
    /// shrinks meanwhile: positions are bucket numbers with their bits in reverse order, so that those a bucket is split into
    /// come where it would have come (as in Redis's SCAN). Any number is a position.
    pub(crate) fn step(&self, position: u64, mut visit: impl FnMut(Location)) -> u64 {
        let mask = self.round as u64 - 1;
        let number = (position & mask) as usize;
        self.each_in(number, &mut visit);
        if number + self.round < self.buckets.len() {
            self.each_in(number + self.round, &mut visit);
        }
        ((position | !mask).reverse_bits().wrapping_add(1)).reverse_bits() & mask
    }

    /// Locations in a bucket chosen at random.
    pub(crate) fn by_chance(&self, random: u64, mut visit: impl FnMut(Location)) {
        let number = (((random >> 32) * self.buckets.len() as u64) >> 32) as usize;
        self.each_in(number, &mut visit);
    }

    fn each_in(&self, number: usize, visit: &mut impl FnMut(Location)) {
        let mut bucket = self.buckets.at(number);
        loop {
            bucket.locations.iter().filter_map(|&code| Location::decode(code)).for_each(&mut *visit);
            if bucket.overflow == 0 {
                return;
            }
            bucket = self.overflow.at(bucket.overflow as usize - 1);
        }
    }

    #[inline]
    fn bucket_of(&self, hash: u64) -> usize {
        let wide = hash as u32 as usize & (2 * self.round - 1);
        if wide < self.buckets.len() { wide } else { wide & (self.round - 1) }
    }

    #[inline]
    fn spot(&self, hash: u64, location: Location) -> Option<Spot> {
        let number = self.bucket_of(hash);
        let code = location.encode();
        let mut bucket = self.buckets.at(number);
        let mut overflow = None;
        loop {
            if let Some(slot) = bucket.locations.iter().position(|&other| other == code) {
                return Some(Spot { overflow, bucket: number, slot });
            }
            if bucket.overflow == 0 {
                return None;
            }
            overflow = Some(bucket.overflow as usize - 1);
            bucket = self.overflow.at(bucket.overflow as usize - 1);
        }
    }

    #[inline]
    fn at_mut(&mut self, spot: Spot) -> &mut Bucket {
        match spot.overflow {
            None => self.buckets.at_mut(spot.bucket),
            Some(number) => self.overflow.at_mut(number),
        }
    }

    /// Empties a slot. An overflow bucket that was the last of its chain gives its last location for it, so that chains are
    /// no longer than they must be.
    fn vacate(&mut self, spot: Spot) {
        let head = spot.bucket;
        let mut last = None;
        let mut before_last = None;
        let mut next = self.buckets.at(head).overflow;
        while next != 0 {
            before_last = last;
            last = Some(next as usize - 1);
            next = self.overflow.at(next as usize - 1).overflow;
        }
        let Some(last) = last else {
            self.at_mut(spot).locations[spot.slot] = 0;
            return;
        };
        let donor = self.overflow.at_mut(last);
        let slot = donor.locations.iter().position(|&code| code != 0).expect("an overflow bucket in use is not empty");
        let (code, tag) = (donor.locations[slot], donor.tags[slot]);
        donor.locations[slot] = 0;
        let is_empty = donor.locations.iter().all(|&code| code == 0);
        if !(spot.overflow == Some(last) && spot.slot == slot) {
            let bucket = self.at_mut(spot);
            (bucket.locations[spot.slot], bucket.tags[spot.slot]) = (code, tag);
        }
        if is_empty {
            match before_last {
                None => self.buckets.at_mut(head).overflow = 0,
                Some(before) => self.overflow.at_mut(before).overflow = 0,
            }
            self.release(last);
        }
    }

    fn release(&mut self, number: usize) {
        *self.overflow.at_mut(number) = Bucket { overflow: self.vacant, ..EMPTY };
        self.vacant = number as u32 + 1;
        self.overflow_used -= 1;
    }

    fn add(&mut self, number: usize, tag: u8, location: Location) {
        let mut spot = Spot { overflow: None, bucket: number, slot: 0 };
        loop {
            let bucket = self.at_mut(spot);
            if let Some(slot) = bucket.locations.iter().position(|&code| code == 0) {
                (bucket.locations[slot], bucket.tags[slot]) = (location.encode(), tag);
                return;
            }
            if bucket.overflow == 0 {
                let fresh = self.take_overflow();
                self.at_mut(spot).overflow = fresh as u32 + 1;
                spot.overflow = Some(fresh);
            } else {
                spot.overflow = Some(bucket.overflow as usize - 1);
            }
        }
    }

    fn take_overflow(&mut self) -> usize {
        self.overflow_used += 1;
        if self.vacant == 0 {
            self.overflow.push(EMPTY);
            return self.overflow.len() - 1;
        }
        let number = self.vacant as usize - 1;
        self.vacant = self.overflow.at(number).overflow;
        *self.overflow.at_mut(number) = EMPTY;
        number
    }

    /// Empties a bucket and its overflow.
    fn drain(&mut self, number: usize) -> Vec<(u8, Location)> {
        let mut found = Vec::with_capacity(2 * SLOTS);
        let mut bucket = std::mem::replace(self.buckets.at_mut(number), EMPTY);
        loop {
            let slots = bucket.tags.iter().zip(&bucket.locations);
            found.extend(slots.filter_map(|(&tag, &code)| Some((tag, Location::decode(code)?))));
            if bucket.overflow == 0 {
                return found;
            }
            let next = bucket.overflow as usize - 1;
            bucket = *self.overflow.at(next);
            self.release(next);
        }
    }

    #[cold]
    fn split(&mut self, hash_at: &impl Fn(Location) -> u64) {
        if self.buckets.len() > u32::MAX as usize / 2 {
            return;
        }
        let number = self.buckets.len() - self.round;
        let moving = self.round as u64;
        let found = self.drain(number);
        self.buckets.push(EMPTY);
        let fresh = self.buckets.len() - 1;
        for (tag, location) in found {
            let target = if hash_at(location) & moving == 0 { number } else { fresh };
            self.add(target, tag, location);
        }
        if self.buckets.len() == 2 * self.round {
            self.round *= 2;
        }
        self.trim_overflow();
    }

    /// The reverse of [`Index::split`].
    #[cold]
    fn join(&mut self) {
        if self.buckets.len() == self.round {
            self.round /= 2;
        }
        let last = self.buckets.len() - 1;
        let found = self.drain(last);
        self.buckets.pop();
        for (tag, location) in found {
            self.add(last - self.round, tag, location);
        }
        self.trim_overflow();
    }

    /// Gives the overflow buckets back if none is in use, but many were.
    fn trim_overflow(&mut self) {
        if self.overflow_used == 0 && self.overflow.capacity() > CHUNK {
            self.overflow = Buckets::default();
            self.vacant = 0;
        }
    }
}

impl Bucket {
    /// The slots with this tag.
    #[inline]
    fn matching(&self, tag: u8) -> Matching {
        const LOW_7: u64 = 0x7f7f_7f7f_7f7f_7f7f;

        let wanted = u64::from_ne_bytes([tag; 8]);
        // The top bit of each byte that is 0, and no other.
        let zeros = |bytes: u64| !(((bytes & LOW_7) + LOW_7) | bytes | LOW_7);
        let [a, b, c, d, e, f, g, h, high @ ..] = self.tags;
        let low = zeros(u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ wanted);
        let high = zeros(u64::from(u32::from_le_bytes(high)) ^ wanted) & u64::from(u32::MAX);
        Matching(low >> 7 | high >> 6)
    }
}

/// Slots of a bucket: slot n below 8 is bit 8 n, and slot 8 + n is bit 8 n + 1.
struct Matching(u64);

impl Iterator for Matching {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit / 8 + bit % 8 * 8)
    }
}

#[inline]
fn tag_of(hash: u64) -> u8 {
    (hash >> TAG_SHIFT) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The hash of a location in these tests; some collide in all bits that count.
    fn hash_at(location: Location) -> u64 {
        (u64::from(location.encode() / 2)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    }

    fn location(number: u32) -> Location {
        Location::decode(number + 1).expect("not 0")
    }

    fn positions(index: &Index) -> Vec<u32> {
        let mut found = Vec::new();
        let mut position = 0;
        loop {
            position = index.step(position, |location| found.push(location.encode()));
            if position == 0 {
                return found;
            }
        }
    }

    #[test]
    fn every_slot_with_a_tag_matches_and_no_other() {
        for (tag, other) in [(0, 1), (1, 0), (0x7f, 0x80), (0x80, 0x7f), (0xff, 0), (5, 0x85)] {
            for chosen in 0..1_usize << SLOTS {
                let tags = std::array::from_fn(|slot| if chosen >> slot & 1 == 1 { tag } else { other });
                let found = Bucket { tags, ..EMPTY }.matching(tag).fold(0, |found, slot| found | 1 << slot);
                assert_eq!(found, chosen, "{tag} among {tags:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn index_behaves_as_a_map(steps in prop::collection::vec((0..3000_u32, 0..3_u8), 1..6000), fill in 0..3000_u32) {
            let mut index = Index::new();
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            for number in 0..fill {
                index.insert(hash_at(location(number)), location(number), hash_at);
                model.insert(number, number);
            }
            for (number, step) in steps {
                let hash = hash_at(location(number));
                let found = index.find(hash, |at| (at == location(number)).then_some(())).is_some();
                prop_assert_eq!(found, model.contains_key(&number));
                match step {
                    0 | 1 if found => {
                        index.remove(hash, location(number));
                        model.remove(&number);
                    }
                    _ if found => index.relocate(hash, location(number), location(number)),
                    _ => {
                        index.insert(hash, location(number), hash_at);
                        model.insert(number, number);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
            }
            let found = positions(&index);
            prop_assert_eq!(found.len(), model.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), model.keys().map(|n| n + 1).collect());
        }
    }

    /// As good as a keyed hash (the finalizer of splitmix64).
    fn mixed(location: Location) -> u64 {
        let mut x = u64::from(location.encode()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }

    #[test]
    fn an_entry_costs_about_eight_bytes_at_any_size() {
        let mut index = Index::new();
        for number in 0..400_000_u32 {
            index.insert(mixed(location(number)), location(number), mixed);
            if number > 20_000 && number % 10_000 == 0 {
                let each = index.bytes() as f64 / f64::from(number);
                assert!((6.5..8.8).contains(&each), "{each} bytes an entry at {number}");
            }
        }
        (0..400_000).for_each(|number| index.remove(mixed(location(number)), location(number)));
        assert!(index.bytes() < 16 << 10, "{} bytes for no entry", index.bytes());
    }
}
