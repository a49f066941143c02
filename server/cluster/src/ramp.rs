//! How much of its traffic a node gets that has returned: as much as it can answer from memory, and some more.

use crate::rules::Rules;

/// Thousandths that are all.
pub(crate) const WHOLE: u32 = 1_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ramp {
    hits: u32,
    reads: u32,
    share: u32,
}

impl Ramp {
    /// Of a node that has returned.
    #[must_use]
    pub(crate) fn new(rules: &Rules) -> Self {
        Self { hits: 0, reads: 0, share: rules.ramp_start.min(WHOLE) }
    }

    /// The share of reads that it gets; in thousandths.
    #[must_use]
    pub(crate) fn share(&self) -> u32 {
        self.share
    }

    /// Notes a read that it answered. After each `ramp_reads` of them the share is measured anew.
    pub(crate) fn note(&mut self, is_hit: bool, rules: &Rules) {
        self.reads += 1;
        self.hits += u32::from(is_hit);
        if self.reads >= rules.ramp_reads.max(1) {
            let hit_rate = (u64::from(self.hits) * u64::from(WHOLE) / u64::from(self.reads)) as u32;
            self.share = if hit_rate > rules.ramp_leave { WHOLE } else { (rules.ramp_start + hit_rate).min(WHOLE) };
            (self.hits, self.reads) = (0, 0);
        }
    }

    /// Whether it gets all for good: its hit rate is high, or it has had the time to be as high as it gets.
    #[must_use]
    pub(crate) fn is_over(&self, ramping_ms: u64, rules: &Rules) -> bool {
        self.share >= WHOLE || ramping_ms >= rules.ramp_longest_ms
    }

    /// Whether a read is for it; `random` is any number.
    #[must_use]
    pub(crate) fn takes(share: u32, random: u64) -> bool {
        (random % u64::from(WHOLE)) < u64::from(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_follows_the_hit_rate() {
        let rules = Rules::default();
        let mut ramp = Ramp::new(&rules);
        assert_eq!(ramp.share(), 100);
        (0..99).for_each(|_| ramp.note(true, &rules));
        assert_eq!(ramp.share(), 100, "too few to tell");
        ramp.note(false, &rules);
        assert_eq!(ramp.share(), WHOLE, "99 of 100");
        let mut ramp = Ramp::new(&rules);
        (0..100).for_each(|read| ramp.note(read % 2 == 0, &rules));
        assert_eq!(ramp.share(), 600);
        assert!(!ramp.is_over(0, &rules) && ramp.is_over(rules.ramp_longest_ms, &rules));
        (0..100).for_each(|_| ramp.note(false, &rules));
        assert_eq!(ramp.share(), 100, "it may fall again");
    }

    #[test]
    fn a_share_is_a_share_of_the_reads() {
        let taken = (0..10_000).filter(|random| Ramp::takes(300, *random)).count();
        assert_eq!(taken, 3_000);
        assert!((0..1_000).all(|random| Ramp::takes(WHOLE, random) && !Ramp::takes(0, random)));
    }
}
