//! The keys of a shard that are used most: counters for some of them, and no more (SpaceSaving; Metwally and others 2005).
//!
//! A key without a counter takes the smallest one and begins at its count, which is noted as its error. So a key that is used
//! more often than one request in as many as there are counters has one. Counts fade: every 8 seconds all are halved,
//! and so is the time that they stand for.

/// Counts are kept in parts of this, so that halving loses nothing that matters.
const UNIT: u64 = 1 << 8;

/// All counts are halved once in so many ms, as a shift.
const HALVE_SHIFT: u32 = 13;

/// The counters of a shard.
#[derive(Debug)]
pub(crate) struct HotKeys {
    /// Apart from the counts, because they are searched.
    hashes: Vec<u64>,
    counts: Vec<Count>,
    places: usize,
    /// When counting began, or was halved.
    since_ms: u64,
    /// What the counts before that stand for, in ms.
    faded_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    uses: u64,
    /// Of these, how many may be those of keys before.
    error: u64,
}

/// A key by its hash, and how often it is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hot {
    pub(crate) hash: u64,
    /// Uses a second: at least so many, but for the sampling.
    pub(crate) per_second: f64,
}

impl HotKeys {
    pub(crate) fn new(places: usize, now_ms: u64) -> Self {
        Self { hashes: Vec::new(), counts: Vec::new(), places, since_ms: now_ms, faded_ms: 0 }
    }

    /// Notes a use that stands for `weight` of them.
    pub(crate) fn note(&mut self, hash: u64, weight: u32, now_ms: u64) {
        self.fade(now_ms);
        let uses = u64::from(weight) * UNIT;
        if let Some(at) = self.hashes.iter().position(|&known| known == hash) {
            self.counts[at].uses += uses;
        } else if self.hashes.len() < self.places {
            self.hashes.push(hash);
            self.counts.push(Count { uses, error: 0 });
        } else {
            let smallest = self.counts.iter().enumerate().min_by_key(|(_, count)| count.uses);
            let (at, &Count { uses: error, .. }) = smallest.expect("there is at least one place");
            self.hashes[at] = hash;
            self.counts[at] = Count { uses: error + uses, error };
        }
    }

    /// The keys that have a counter, in no order.
    pub(crate) fn list(&mut self, now_ms: u64) -> impl Iterator<Item = Hot> {
        self.fade(now_ms);
        let ms = (self.faded_ms + now_ms.saturating_sub(self.since_ms)).max(1);
        let per_second = move |count: &Count| (count.uses - count.error) as f64 / UNIT as f64 * 1000.0 / ms as f64;
        self.hashes.iter().zip(&self.counts).map(move |(&hash, count)| Hot { hash, per_second: per_second(count) })
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self, now_ms: u64) {
        *self = Self::new(self.places, now_ms);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.hashes.capacity() * size_of::<u64>() + self.counts.capacity() * size_of::<Count>()
    }

    fn fade(&mut self, now_ms: u64) {
        let halvings = now_ms.saturating_sub(self.since_ms) >> HALVE_SHIFT;
        if halvings == 0 {
            return;
        }
        self.since_ms += halvings << HALVE_SHIFT;
        for _ in 0..halvings.min(u64::BITS.into()) {
            self.faded_ms = (self.faded_ms + (1 << HALVE_SHIFT)) / 2;
        }
        for count in &mut self.counts {
            count.uses = count.uses.checked_shr(halvings as u32).unwrap_or(0);
            count.error = count.error.checked_shr(halvings as u32).unwrap_or(0);
        }
        let mut at = 0;
        while at < self.counts.len() {
            if self.counts[at].uses == 0 {
                self.counts.swap_remove(at);
                self.hashes.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(hot: &mut HotKeys, hash: u64, now_ms: u64) -> f64 {
        hot.list(now_ms).find(|hot| hot.hash == hash).map_or(0.0, |hot| hot.per_second)
    }

    #[test]
    fn rates_are_those_of_the_traffic_soon_and_long_after() {
        let mut hot = HotKeys::new(4, 1000);
        for ms in 0..100_000_u64 {
            if ms % 10 == 0 {
                hot.note(1, 2, 1000 + ms);
            }
            if ms % 100 == 0 {
                hot.note(2, 1, 1000 + ms);
            }
            if ms == 2_000 || ms == 20_000 || ms == 99_999 {
                let (one, two) = (rate(&mut hot, 1, 1000 + ms), rate(&mut hot, 2, 1000 + ms));
                assert!((one - 200.0).abs() < 10.0 && (two - 10.0).abs() < 1.0, "{one} {two} after {ms} ms");
            }
        }
        let later = 101_000 + 60_000;
        assert!(rate(&mut hot, 1, later) < 4.0);
        assert_eq!(hot.list(later + 1_000_000).count(), 0, "forgotten");
    }

    #[test]
    fn hot_keys_are_found_among_many_that_come_once() {
        let mut hot = HotKeys::new(16, 0);
        for at in 0..200_000_u64 {
            // Three in twenty, two in twenty, and keys that never come again.
            let hash = match at % 20 {
                0 | 10 | 15 => 1,
                5 | 13 => 2,
                _ => 1_000 + at,
            };
            hot.note(hash, 1, at / 20);
        }
        let mut found: Vec<Hot> = hot.list(10_000).collect();
        assert_eq!(found.len(), 16);
        found.sort_by(|one, other| other.per_second.total_cmp(&one.per_second));
        assert_eq!((found[0].hash, found[1].hash), (1, 2));
        assert!((found[0].per_second - 3_000.0).abs() < 200.0, "{found:?}");
        assert!(found[2].per_second < 300.0, "{found:?}");
    }
}
