//! When to look at a hit or miss more closely: the first of each second, then one in two, in four, and so on.
//!
//! The caller counts anyway; it compares its count with [`Sampling::due`] and does nothing else until that is reached. How
//! many are skipped is drawn at random, with the mean that the sample is told to stand for, so sums of these weights are
//! estimates without a bias whatever the order of the requests. A shard takes about 100 samples a second at a million
//! requests a second, and all of up to 32 a second.

/// Samples of a second before some are skipped.
const EXACT: u32 = 32;

/// Samples of each weight after that.
const PER_WEIGHT: u32 = 8;

/// The most that a sample stands for, as a power of two.
const WEIGHT_SHIFT_MAX: u32 = 10;

/// A second, as a shift of ms.
const PERIOD_SHIFT: u32 = 10;

/// When the next sample of one counter is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    /// The count of the next sample.
    pub(crate) due: u64,
    weight: u32,
    taken: u32,
    period: u64,
    random: u64,
}

impl Sampling {
    pub(crate) fn new(seed: u64) -> Self {
        // Any odd number starts the sequence.
        Self { due: 1, weight: 1, taken: 0, period: 0, random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// The counter starts from 0 again.
    pub(crate) fn restart(&mut self) {
        self.due = 1;
        self.weight = 1;
    }

    /// If a sample is due at this count: how many it stands for.
    pub(crate) fn take(&mut self, count: u64, now_ms: u64) -> Option<u32> {
        if count < self.due {
            return None;
        }
        let weight = self.weight;
        let period = now_ms >> PERIOD_SHIFT;
        if period != self.period {
            self.period = period;
            self.taken = 0;
        }
        self.taken = self.taken.saturating_add(1);
        self.weight = match self.taken.checked_sub(EXACT + 1) {
            None => 1,
            Some(over) => 1 << (over / PER_WEIGHT + 1).min(WEIGHT_SHIFT_MAX),
        };
        self.due = count + 1 + self.random() % u64::from(2 * self.weight - 1);
        Some(weight)
    }

    /// As [`crate::Turn::random`].
    fn random(&mut self) -> u64 {
        let mut x = self.random;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of a second with so many events: how many there were, and what they stand for.
    fn second(sampling: &mut Sampling, count: &mut u64, events: u64, now_ms: u64) -> (u64, u64) {
        let (mut samples, mut sum) = (0, 0);
        for _ in 0..events {
            *count += 1;
            if let Some(weight) = sampling.take(*count, now_ms) {
                sum += u64::from(weight);
                samples += 1;
            }
        }
        (samples, sum)
    }

    #[test]
    fn few_are_all_looked_at() {
        let (mut sampling, mut count) = (Sampling::new(1), 0);
        for time in 0..20 {
            assert_eq!(second(&mut sampling, &mut count, u64::from(EXACT), time << PERIOD_SHIFT), (32, 32));
        }
    }

    #[test]
    fn weights_add_up_to_the_count() {
        for events in [100, 3_000, 50_000] {
            let (mut sampling, mut count) = (Sampling::new(7), 0);
            let (mut samples, mut sum) = (0, 0);
            for time in 0..400 {
                let (more, weight) = second(&mut sampling, &mut count, events, time << PERIOD_SHIFT);
                samples += more;
                sum += weight;
            }
            assert!(sum.abs_diff(count) < count / 20, "{sum} for {count}");
            assert!(samples < 400 * (EXACT as u64 + 11 * 8 + events / 1024 + 2), "{samples} samples of {count}");
        }
    }

    #[test]
    fn what_comes_in_a_rhythm_is_sampled_like_the_rest() {
        let (mut sampling, mut at_multiples, mut all) = (Sampling::new(3), 0_u64, 0_u64);
        for count in 1..=2_000_000_u64 {
            if let Some(weight) = sampling.take(count, count / 1000) {
                let weight = u64::from(weight);
                all += weight;
                at_multiples += if count.is_multiple_of(64) { weight } else { 0 };
            }
        }
        let share = at_multiples as f64 / all as f64;
        assert!((share - 1.0 / 64.0).abs() < 0.006, "{share}");
    }
}
