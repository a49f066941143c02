//! How many requests may go to stand-ins: a share of all, and a burst.
//!
//! Requests are counted only while some node is in trouble, so that those of good days pay nothing.

use crate::rules::Rules;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens are counted in thousandths.
const TOKEN: u64 = 1_000;

/// See the module. All orderings are relaxed: it is a number that stands for itself.
#[derive(Debug)]
pub(crate) struct Budget {
    thousandths: AtomicU64,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub(crate) fn new(rules: &Rules) -> Self {
        Self { thousandths: AtomicU64::new(most(rules)) }
    }

    /// Counts a request.
    pub(crate) fn deposit(&self, rules: &Rules) {
        let add =
            |level: u64| (level < most(rules)).then(|| (level + u64::from(rules.failover_share)).min(most(rules)));
        // It fails when the budget is full, which is as well.
        let _ = self.thousandths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes what one request costs; whether it was there.
    pub(crate) fn take(&self) -> bool {
        let less = |level: u64| level.checked_sub(TOKEN);
        self.thousandths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

fn most(rules: &Rules) -> u64 {
    u64::from(rules.failover_burst) * TOKEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_get_a_share_and_a_burst() {
        let rules = Rules { failover_share: 250, failover_burst: 10, ..Rules::default() };
        let budget = Budget::new(&rules);
        let taken = (0..1_000).filter(|_| {
            budget.deposit(&rules);
            budget.take()
        });
        let taken = taken.count();
        assert!((250..=262).contains(&taken), "{taken} of 1000");
        (0..1_000_000).for_each(|_| budget.deposit(&rules));
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10, "no more is saved up");
    }
}
