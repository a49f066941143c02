//! How often keys that are gone were used: a count-min sketch of 4-bit counters, fed by evictions only.
//!
//! A hit never comes here: it is counted in the entry itself. When an entry is evicted, its frequency is written back with
//! [`Sketch::raise_to`], and when its key comes again, [`Sketch::estimate`] says what it had. So a counter holds the largest
//! frequency written to it, not a sum, and half the counters of a sketch that counts every access do as well.
//!
//! ```text
//!     block, 64 bytes = one line of memory:   ├───── 64 counters ─────┤├───── 64 counters ─────┤
//!     a key has one counter in each half:               ▲                          ▲             estimate = the smaller
//! ```
//!
//! Two counters per key, not the usual four: a round of history sees several times more keys than are resident, and then the
//! counters are so full that more of them per key tell less. Mean miss ratios with 4, 3, 2 counters: unit sizes 0.5704, 0.5698,
//! 0.5696; loops 0.6895, 0.6881, 0.6870; sizes 0.5514 each.
//!
//! The sketch grows block by block (linear hashing, Litwin 1980): the keys of the block that is split find the same counters
//! in its copy, so growth changes no estimate and never stops the shard to move a table. Old use is forgotten by halving one
//! block after the other, never all at once.

use crate::cells::Rows;

/// The largest frequency that is told apart.
pub const FREQUENCY_MAX: u8 = 15;

/// Entries per block at best: 8 counters, 4 bytes, per entry. With 2 bytes per entry the mean miss ratio is 0.3 to 0.5 points
/// higher, with 8 it is 0.3 lower.
pub(crate) const ENTRIES_PER_BLOCK: usize = 16;

/// Entries per block at worst: 1 byte per entry.
const ENTRIES_PER_BLOCK_MAX: usize = 64;

/// The sketch may take so much of what entries take. Of entries of 21 bytes, 4 bytes for each cost a fifth of the entries, and
/// that costs more hits than the counters bring: on traces of such entries at 1 to 50 % of their footprint the mean miss ratio
/// was 0.549 with 4 bytes per entry, 0.540 with 2 and 0.535 with 1.
const MEMORY_PARTS: usize = 16;

/// A block's number is taken from 32 bits of the hash.
const BLOCKS_MAX: usize = 1 << 31;

const WORDS: usize = 8;
const HALVES: usize = 2;
const WORDS_PER_HALF: usize = WORDS / HALVES;
const COUNTER_BITS: u32 = 4;
const COUNTERS_PER_WORD: u32 = u64::BITS / COUNTER_BITS;
const COUNTER_MASK: u64 = FREQUENCY_MAX as u64;

/// Keeps counters apart when all are shifted right by one bit.
const HALVED: u64 = 0x7777_7777_7777_7777;

/// 128 counters, one line of memory.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Block([u64; WORDS]);

const _: () = assert!(size_of::<Block>() == 64);

const NOTHING: Block = Block([0; WORDS]);

/// The frequencies of keys that are gone.
#[derive(Debug)]
pub struct Sketch {
    /// At least one.
    blocks: Rows<Block>,
    /// The block that is halved next.
    hand: usize,
}

/// Where the counters of a key are.
#[derive(Clone, Copy)]
struct Counters {
    block: usize,
    /// Six bits of each 16: the counter in a half.
    choices: u32,
}

impl Sketch {
    /// An empty sketch for `entries` resident entries.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        let mut sketch = Self { blocks: Rows::default(), hand: 0 };
        sketch.blocks.push(NOTHING);
        sketch.grow_to(entries);
        sketch
    }

    /// How often the key of this hash was used, from 0 to [`FREQUENCY_MAX`]. Never less than what [`Sketch::raise_to`] was
    /// told since the key's block was last halved.
    #[inline]
    #[must_use]
    pub fn estimate(&self, hash: u64) -> u8 {
        let counters = self.counters(hash);
        let block = self.blocks.at(counters.block);
        (0..HALVES).map(|half| block.counter(counters.place(half))).min().expect("two halves")
    }

    /// Remembers that the key of this hash was used so often; more than [`FREQUENCY_MAX`] counts as that. Lowers nothing.
    #[inline]
    pub fn raise_to(&mut self, hash: u64, frequency: u8) {
        let counters = self.counters(hash);
        let block = self.blocks.at_mut(counters.block);
        for half in 0..HALVES {
            block.raise(counters.place(half), frequency.min(FREQUENCY_MAX));
        }
    }

    /// Makes the sketch large enough for `entries` resident entries. Changes no estimate. Costs a copy of 64 bytes per 16
    /// entries more.
    pub fn grow_to(&mut self, entries: usize) {
        self.grow_to_blocks(entries.div_ceil(ENTRIES_PER_BLOCK));
    }

    /// As [`Sketch::grow_to`], to so many blocks.
    #[inline]
    pub fn grow_to_blocks(&mut self, blocks: usize) {
        while self.blocks() < blocks.min(BLOCKS_MAX) {
            self.blocks.push(*self.blocks.at(split_of(self.blocks())));
        }
    }

    /// Makes the sketch as small as `entries` resident entries need. Blocks that become one keep the larger of their
    /// counters, so no estimate falls.
    pub fn shrink_to(&mut self, entries: usize) {
        self.shrink_to_blocks(entries.div_ceil(ENTRIES_PER_BLOCK));
    }

    /// As [`Sketch::shrink_to`], to so many blocks, or one.
    pub fn shrink_to_blocks(&mut self, blocks: usize) {
        while self.blocks() > blocks.max(1) {
            let last = *self.blocks.at(self.blocks() - 1);
            self.blocks.pop();
            let other = self.blocks.at_mut(split_of(self.blocks.len()));
            other.0 = std::array::from_fn(|word| max_of_counters(other.0[word], last.0[word]));
        }
        self.hand = self.hand.min(self.blocks() - 1);
    }

    /// Gives up to `blocks_max` blocks back, whatever they say; the first stays.
    pub fn forget_blocks(&mut self, blocks_max: usize) {
        let left = self.blocks().saturating_sub(blocks_max).max(1);
        while self.blocks() > left {
            self.blocks.pop();
        }
        self.hand = self.hand.min(self.blocks() - 1);
    }

    /// Halves the counters of the next `blocks` blocks. The caller spreads one round over as many requests as history shall
    /// last: [`Sketch::blocks`] is the length of a round.
    pub fn age(&mut self, blocks: usize) {
        for _ in 0..blocks {
            let block = self.blocks.at_mut(self.hand);
            block.0 = block.0.map(|word| (word >> 1) & HALVED);
            self.hand = (self.hand + 1) % self.blocks();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.blocks.iter_mut().for_each(|block| *block = NOTHING);
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes of memory that the sketch holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.blocks.bytes()
    }

    /// The hash picks the shard and the place in the index too, so its bits are mixed anew here.
    #[inline]
    fn counters(&self, hash: u64) -> Counters {
        let mixed = mix(hash);
        Counters { block: block_of((mixed >> 32) as usize, self.blocks()), choices: mixed as u32 }
    }
}

/// How many blocks serve so many entries that take so many bytes in all.
#[inline]
#[must_use]
pub fn blocks_for(entries: usize, bytes: usize) -> usize {
    let affordable = bytes / (MEMORY_PARTS * size_of::<Block>());
    affordable.clamp(entries.div_ceil(ENTRIES_PER_BLOCK_MAX), entries.div_ceil(ENTRIES_PER_BLOCK))
}

impl Counters {
    /// Word and shift of the counter in a half.
    #[inline]
    fn place(self, half: usize) -> (usize, u32) {
        let choice = self.choices >> (16 * half);
        let word = WORDS_PER_HALF * half + (choice / COUNTERS_PER_WORD) as usize % WORDS_PER_HALF;
        (word, choice % COUNTERS_PER_WORD * COUNTER_BITS)
    }
}

impl Block {
    #[inline]
    fn counter(&self, (word, shift): (usize, u32)) -> u8 {
        (self.0[word] >> shift & COUNTER_MASK) as u8
    }

    #[inline]
    fn raise(&mut self, place: (usize, u32), frequency: u8) {
        let (word, shift) = place;
        let raised = u64::from(self.counter(place).max(frequency));
        self.0[word] = self.0[word] & !(COUNTER_MASK << shift) | raised << shift;
    }
}

/// The block of a key, of `len` blocks: by the bits of the round under way if that block exists already, else by one less.
#[inline]
fn block_of(bits: usize, len: usize) -> usize {
    let round = len.next_power_of_two();
    let block = bits & (round - 1);
    if block < len { block } else { block - round / 2 }
}

/// The block whose keys the block with this number shares.
fn split_of(block: usize) -> usize {
    block - (1 << block.ilog2())
}

fn max_of_counters(one: u64, other: u64) -> u64 {
    (0..COUNTERS_PER_WORD)
        .map(|counter| COUNTER_MASK << (counter * COUNTER_BITS))
        .map(|mask| (one & mask).max(other & mask))
        .sum()
}

/// Every bit of the result depends on every bit of the hash (the finalizer of splitmix64, Steele and others 2014).
#[inline]
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn written(writes: &[(u64, u8)]) -> (Sketch, HashMap<u64, u8>) {
        let mut sketch = Sketch::new(40);
        let mut most = HashMap::new();
        for &(key, frequency) in writes {
            sketch.raise_to(key, frequency);
            let most = most.entry(key).or_default();
            *most = frequency.min(FREQUENCY_MAX).max(*most);
        }
        (sketch, most)
    }

    fn writes() -> impl Strategy<Value = Vec<(u64, u8)>> {
        prop::collection::vec((0..500_u64, 0..20_u8), 0..300)
    }

    proptest! {
        #[test]
        fn no_estimate_is_below_what_was_written_or_above_15(writes in writes()) {
            let (sketch, most) = written(&writes);
            for (key, most) in most {
                prop_assert!((most..=FREQUENCY_MAX).contains(&sketch.estimate(key)));
            }
        }

        #[test]
        fn growth_changes_no_estimate(writes in writes(), sizes in prop::collection::vec(0..5000_usize, 1..4)) {
            let (mut sketch, _) = written(&writes);
            let before: Vec<u8> = (0..500).map(|key| sketch.estimate(key)).collect();
            for entries in sizes {
                sketch.grow_to(entries);
                prop_assert!(sketch.blocks() * ENTRIES_PER_BLOCK >= entries);
                let after: Vec<u8> = (0..500).map(|key| sketch.estimate(key)).collect();
                prop_assert_eq!(&before, &after);
            }
        }

        #[test]
        fn shrinking_lowers_no_estimate(writes in writes(), large in 0..5000_usize, small in 0..5000_usize) {
            let (mut sketch, _) = written(&writes);
            sketch.grow_to(large);
            let before: Vec<u8> = (0..500).map(|key| sketch.estimate(key)).collect();
            sketch.shrink_to(small);
            for (key, before) in (0..500).zip(before) {
                prop_assert!((before..=FREQUENCY_MAX).contains(&sketch.estimate(key)));
            }
            sketch.age(3);
        }

        #[test]
        fn a_round_of_ageing_halves_every_estimate(writes in writes(), parts in prop::collection::vec(1..3_usize, 0..3)) {
            let (mut sketch, _) = written(&writes);
            let before: Vec<u8> = (0..500).map(|key| sketch.estimate(key)).collect();
            let mut left = sketch.blocks();
            for part in parts {
                sketch.age(part.min(left));
                left -= part.min(left);
            }
            sketch.age(left);
            let after: Vec<u8> = (0..500).map(|key| sketch.estimate(key)).collect();
            prop_assert_eq!(before.into_iter().map(|estimate| estimate / 2).collect::<Vec<_>>(), after);
        }
    }

    #[test]
    fn few_keys_are_mistaken_for_others() {
        let mut sketch = Sketch::new(10_000);
        (0..10_000_u64).for_each(|key| sketch.raise_to(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), 8));
        let strangers = 10_000..110_000_u64;
        let mistaken = strangers.filter(|key| sketch.estimate(key.wrapping_mul(0x9E37_79B9_7F4A_7C15)) != 0).count();
        // 10,000 keys in 625 blocks: those not yet split have 20 keys to 64 counters in a half, so a stranger finds both of
        // its counters taken with a chance of (1 - e^-0.31)^2 = 7 %; the others have 10, which gives 2 %.
        assert!((4_000..8_000).contains(&mistaken), "{mistaken} of 100,000");
    }

    #[test]
    fn memory_is_four_bytes_per_entry_and_a_page_at_most() {
        // What a page has besides: its place in the list of pages, which doubles.
        let bytes_max = |entries: usize| entries * 4 + entries * 4 / 64 + 4096 + 64;
        let mut sketch = Sketch::new(0);
        for entries in (0..200_000).step_by(16) {
            sketch.grow_to(entries);
            assert!(sketch.memory_bytes() <= bytes_max(entries), "{} for {entries}", sketch.memory_bytes());
        }
        sketch.shrink_to(1000);
        assert!(sketch.memory_bytes() <= bytes_max(200_000) - 195_000 * 4, "{}", sketch.memory_bytes());
    }

    #[test]
    fn a_sketch_is_forgotten_in_parts_until_one_block_is_left() {
        let mut sketch = Sketch::new(100_000);
        (0..1000).for_each(|key| sketch.raise_to(key, 9));
        let mut parts = 0;
        while sketch.blocks() > 1 {
            let before = sketch.blocks();
            sketch.forget_blocks(1024);
            assert!(sketch.blocks() < before && before - sketch.blocks() <= 1024, "{before} to {}", sketch.blocks());
            sketch.age(3);
            (0..1000).for_each(|key| assert!(sketch.estimate(key) <= FREQUENCY_MAX));
            parts += 1;
        }
        assert_eq!(parts, 7, "6250 blocks, 6 times 1024 and what is left");
        assert!(sketch.memory_bytes() <= 192, "{}", sketch.memory_bytes());
    }

    #[test]
    fn small_entries_have_smaller_sketches() {
        assert_eq!(blocks_for(64_000, 64_000 * 21), 1312);
        assert_eq!(blocks_for(64_000, 64_000 * 8), 1000, "1 byte per entry");
        assert_eq!(blocks_for(64_000, 64_000 * 32), 2000);
        assert_eq!(blocks_for(64_000, 64_000 * 64), 4000);
        assert_eq!(blocks_for(64_000, 64_000 * 5000), 4000, "4 bytes per entry");
        assert_eq!(blocks_for(0, 0), 0);
    }
}
