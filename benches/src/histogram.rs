//! Latencies in buckets: 32 to each doubling, so a quantile is right within 3 %.

/// Buckets to each power of two.
const FINE: u64 = 32;
const FINE_BITS: u32 = FINE.trailing_zeros();

/// Counts of latencies in ns.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], total: 0 }
    }
}

impl Histogram {
    /// Counts `operations` operations that took `ns` each.
    #[inline]
    pub fn record(&mut self, ns: u64, operations: u64) {
        self.counts[bucket(ns)] += operations;
        self.total += operations;
    }

    /// How many operations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Takes in another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The latency in ns that a share of `quantile` (0 to 1) of the operations did not exceed; 0 if there were none.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let wanted = (self.total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_bound(index);
            }
        }
        0
    }
}

/// Values below FINE have a bucket each; above, the FINE_BITS bits behind the leading one choose it.
#[inline]
fn bucket(ns: u64) -> usize {
    if ns < FINE {
        return ns as usize;
    }
    let shift = ns.ilog2() - FINE_BITS;
    ((u64::from(shift) + 1) * FINE + ((ns >> shift) - FINE)) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < FINE {
        return bucket;
    }
    let shift = bucket / FINE - 1;
    let low = (FINE + bucket % FINE) << shift;
    low + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_three_percent() {
        for value in (0..5_000).chain((0..58).map(|shift| (1u64 << shift) + 12_345)) {
            let upper = upper_bound(bucket(value));
            assert!(upper >= value && upper - value <= value / 32 + 1, "{value} went to {upper}");
        }
    }

    #[test]
    fn quantiles_of_a_known_spread() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.record(value * 1000, 2));
        assert!((485_000..=516_000).contains(&histogram.quantile_ns(0.5)));
        assert!((985_000..=1_025_000).contains(&histogram.quantile_ns(0.99)));
    }
}
