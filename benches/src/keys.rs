//! Which key comes next: uniform, zipf or one hot key, from a seed.

/// How requests spread over the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Every key as often as every other.
    Uniform,
    /// Zipf with exponent 0.99, as YCSB has it; the popular keys lie anywhere in the key range.
    Zipf,
    /// One key only.
    Hot,
}

/// An endless stream of key numbers.
#[derive(Debug)]
pub struct Keys {
    keys: u64,
    random: u64,
    distribution: Distribution,
    /// Zipf numbers drawn before the run: drawing one takes longer than the rest of a request.
    drawn: Vec<u32>,
    next: usize,
}

/// 4 MiB of numbers; longer than what one round asks for per popular key, and read in sequence.
const DRAWN: usize = 1 << 20;
const ZIPF_EXPONENT: f64 = 0.99;

impl Keys {
    /// Numbers from 0 to `keys - 1`; the same seed gives the same stream.
    ///
    /// # Panics
    /// If `keys` is 0 or above `u32::MAX`.
    #[must_use]
    pub fn new(distribution: Distribution, keys: u64, seed: u64) -> Self {
        assert!((1..=u64::from(u32::MAX)).contains(&keys), "a workload has 1 to 2^32 - 1 keys");
        let mut stream = Self { keys, random: seed.wrapping_mul(2) | 1, distribution, drawn: Vec::new(), next: 0 };
        if distribution == Distribution::Zipf {
            stream.drawn = zipf(keys, DRAWN, || stream.random());
        }
        stream
    }

    /// The next key number.
    #[inline]
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        match self.distribution {
            Distribution::Uniform => scale(self.random(), self.keys),
            Distribution::Zipf => {
                let number = self.drawn[self.next];
                self.next = (self.next + 1) % DRAWN;
                u64::from(number)
            }
            Distribution::Hot => 0,
        }
    }

    /// Whether the next request of a mix is of a kind that has `percent` of all.
    #[inline]
    pub fn percent(&mut self, percent: u8) -> bool {
        percent == 100 || scale(self.random(), 100) < u64::from(percent)
    }

    /// xorshift64* (Vigna 2016).
    #[inline]
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// A number below `limit` from 64 random bits, `limit` below 2^32.
#[inline]
fn scale(random: u64, limit: u64) -> u64 {
    ((random >> 32) * limit) >> 32
}

/// Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994.
fn zipf(keys: u64, count: usize, mut random: impl FnMut() -> u64) -> Vec<u32> {
    let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-ZIPF_EXPONENT)).sum::<f64>();
    let zeta_n = zeta(keys);
    let alpha = 1.0 / (1.0 - ZIPF_EXPONENT);
    let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - zeta(2) / zeta_n);
    let mut draw = || {
        let unit = (random() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = if unit * zeta_n < 1.0 {
            0
        } else if unit * zeta_n < zeta(2) {
            1
        } else {
            (keys as f64 * (eta * unit - eta + 1.0).powf(alpha)) as u64
        };
        // Fibonacci hashing spreads the ranks over the key range; two ranks that meet on a number do no harm.
        (rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys) as u32
    };
    (0..count).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_reaches_all_keys_and_no_other() {
        let mut keys = Keys::new(Distribution::Uniform, 10, 7);
        let mut seen = [0u32; 10];
        (0..10_000).for_each(|_| seen[keys.next() as usize] += 1);
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    }

    #[test]
    fn zipf_prefers_few_keys() {
        let mut keys = Keys::new(Distribution::Zipf, 1_000_000, 7);
        let mut seen = std::collections::HashMap::<u64, u32>::new();
        (0..100_000).for_each(|_| *seen.entry(keys.next()).or_default() += 1);
        let top = seen.values().max().copied().unwrap_or_default();
        // 1 / zeta(10^6, 0.99) = 6.5 % of all go to the first key.
        assert!((5_500..7_500).contains(&top), "{top}");
        assert!(seen.len() > 20_000, "{}", seen.len());
    }
}
