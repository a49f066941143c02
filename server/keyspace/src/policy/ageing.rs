//! When old use counts half: the epochs of a shard and the halving of its sketch, on one beat.
//!
//! Both make one round in [`ROUND_REQUESTS_PER_ENTRY`] requests per resident entry, so the history that is kept follows the
//! number of entries there are, not the capacity: a cache that keeps small entries holds several times more of them.

use super::duel::Epoch;
use super::sketch::{ENTRIES_PER_BLOCK, Sketch};

/// Requests per resident entry in which every frequency halves once. From 5 to 20 the mean miss ratio differs by less than
/// 0.2 points (longer is better on steady traffic, shorter where it changes).
const ROUND_REQUESTS_PER_ENTRY: usize = 10;

/// Requests from one beat to the next: in a sketch of the right size, time to halve one block.
const BEAT_REQUESTS: u32 = (ROUND_REQUESTS_PER_ENTRY * ENTRIES_PER_BLOCK) as u32;

/// The present epoch of a shard, and how far it is.
#[derive(Debug)]
pub struct Ageing {
    epoch: Epoch,
    requests_to_beat: u32,
    /// Beats of this epoch so far.
    beats: usize,
}

impl Default for Ageing {
    fn default() -> Self {
        Self { epoch: Epoch::default(), requests_to_beat: BEAT_REQUESTS, beats: 0 }
    }
}

impl Ageing {
    /// The present epoch.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Counts a hit, or an entry that is stored, of a shard with so many resident `entries`.
    #[inline]
    pub fn count(&mut self, entries: usize, sketch: &mut Sketch) {
        self.requests_to_beat -= 1;
        if self.requests_to_beat == 0 {
            self.beat(entries, sketch);
        }
    }

    #[cold]
    fn beat(&mut self, entries: usize, sketch: &mut Sketch) {
        self.requests_to_beat = BEAT_REQUESTS;
        let beats_per_round = entries.div_ceil(ENTRIES_PER_BLOCK).max(1);
        // Less than one block a beat where the sketch is small, more than one while it is larger than the entries need.
        let halved_after = |beats: usize| sketch.blocks() * beats.min(beats_per_round) / beats_per_round;
        let blocks = halved_after(self.beats + 1) - halved_after(self.beats);
        sketch.age(blocks);
        self.beats += 1;
        if self.beats >= beats_per_round {
            self.beats = 0;
            self.epoch = self.epoch.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::duel::Control;

    #[test]
    fn a_round_halves_what_entries_and_sketch_remember_once() {
        for entries in [1, 16, 17, 1000] {
            let mut ageing = Ageing::default();
            let mut sketch = Sketch::new(entries);
            let control = Control::stored(7, ageing.epoch());
            sketch.raise_to(1, 8);
            let round = entries.div_ceil(ENTRIES_PER_BLOCK) * BEAT_REQUESTS as usize;
            assert!((entries * ROUND_REQUESTS_PER_ENTRY..).contains(&round));
            (0..round - 1).for_each(|_| ageing.count(entries, &mut sketch));
            assert_eq!(control.frequency(ageing.epoch()), 8, "{entries} entries");
            ageing.count(entries, &mut sketch);
            assert_eq!(control.frequency(ageing.epoch()), 4, "{entries} entries");
            assert_eq!(sketch.estimate(1), 4, "{entries} entries");
        }
    }

    #[test]
    fn a_small_sketch_keeps_the_beat() {
        let mut ageing = Ageing::default();
        let mut sketch = Sketch::new(160);
        (0..100).for_each(|key| sketch.raise_to(key, 8));
        let before: Vec<u8> = (0..100).map(|key| sketch.estimate(key)).collect();
        (0..4 * 10 * BEAT_REQUESTS).for_each(|_| ageing.count(4 * 160, &mut sketch));
        assert!((0..100).all(|key| sketch.estimate(key) == before[key as usize] / 2));
    }

    #[test]
    fn a_sketch_left_too_large_keeps_the_beat() {
        let mut ageing = Ageing::default();
        let mut sketch = Sketch::new(10_000);
        (0..100).for_each(|key| sketch.raise_to(key, 8));
        (0..BEAT_REQUESTS).for_each(|_| ageing.count(10, &mut sketch));
        assert!((0..100).all(|key| sketch.estimate(key) == 4));
    }
}
