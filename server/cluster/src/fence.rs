//! Whether this node may answer for its keys: whether it has been told of all that was deleted.
//!
//! Each other node that answers a ping may *vouch*: "this is all that is remembered for you here, and for so long nobody will hear from me that I
//! have remembered more". While a majority of the main pool vouches, its own voice included, the node is *proven*. A delete that could not reach
//! it is answered to a client only once a majority remembers it and its word no longer counts (`errand.rs`). Two majorities share a node, so:
//! **a proven node has applied every delete of its keys that has been answered.** No clocks are compared: a vouch counts from when its ping was sent
//! for the one, and from when it was given, and longer, for the other.
//!
//! A time without proof is a *gap*. After one, if a majority vouches whose histories (`Lineage`) are unbroken since before the gap, the node has been
//! told all; else it puts up a *fence*: every entry born before, and every token, is stale. A node that has started has a gap behind it.
//!
//! ```text
//!   vouch of S:  ping sent ├──── vouch_ms ────┤            by the clock of the node
//!   word of S:        pong sent ├──── vouch_ms + drift ────┤   by the clock of S: until then S confirms no delete
//! ```

use crate::remembered::{Applied, Lineage};
use crate::rules::{Rule, Rules};

/// What the node knows of one that may vouch for it.
#[derive(Clone, Copy, Debug, Default)]
struct Voucher {
    /// Its word counts up to here.
    until_ms: u64,
    /// With which history it last vouched.
    lineage: Option<Lineage>,
    /// With which it last vouched outside of a gap.
    known: Option<Lineage>,
    /// What of its log has been applied here.
    applied: Option<Applied>,
}

/// What an answer to a ping says of this node's keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    /// Of the log of whoever answers.
    pub lineage: Lineage,
    /// Up to which number the removals in the answer go.
    pub up_to: u64,
    /// The log ran over.
    pub is_broken: bool,
    /// Whether it vouches.
    pub vouches: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    /// How many others must vouch.
    needed: usize,
    vouchers: Vec<Voucher>,
    proven_until_ms: u64,
    /// Entries and tokens born up to here are stale; 0: none is.
    fence_ms: u64,
    is_gap: bool,
    /// Since when a majority vouches that is no unbroken one.
    waits_since_ms: Option<u64>,
}

impl Fence {
    /// Of a node that has started, among `nodes` nodes; `needed` of the others must vouch for it.
    #[must_use]
    pub(crate) fn new(nodes: usize, needed: usize) -> Self {
        Self {
            needed,
            vouchers: vec![Voucher::default(); nodes],
            proven_until_ms: if needed == 0 { u64::MAX } else { 0 },
            fence_ms: 0,
            is_gap: needed != 0,
            waits_since_ms: None,
        }
    }

    /// The node is proven before this time.
    #[must_use]
    pub(crate) fn proven_until_ms(&self) -> u64 {
        self.proven_until_ms
    }

    /// Entries and tokens born up to here are stale; 0: none is.
    #[must_use]
    pub(crate) fn fence_ms(&self) -> u64 {
        self.fence_ms
    }

    /// What has been applied of the log of the node at this index.
    #[must_use]
    pub(crate) fn applied(&self, index: usize) -> Option<Applied> {
        self.vouchers[index].applied
    }

    /// Notes whether there is a gap by now.
    pub(crate) fn look(&mut self, now_ms: u64) {
        if now_ms >= self.proven_until_ms && !self.is_gap {
            self.is_gap = true;
            self.waits_since_ms = None;
        }
    }

    /// Takes the word of the node at this index, after what it told has been applied; `sent_ms` is when the ping was sent. `votes` is whether the
    /// node is of the main pool.
    pub(crate) fn hear(&mut self, index: usize, word: Word, sent_ms: u64, votes: bool, now_ms: u64, rules: &Rules) {
        self.look(now_ms);
        let voucher = &mut self.vouchers[index];
        let before = voucher.applied.filter(|applied| applied.lineage == word.lineage);
        if word.is_broken && before.is_none() && rules.has(Rule::Overflow) {
            self.fence_ms = now_ms;
        }
        // A pong that was overtaken tells less.
        let number = before.map_or(word.up_to, |before| before.number.max(word.up_to));
        let is_of_older = voucher.applied.is_some_and(|applied| {
            applied.lineage.boot == word.lineage.boot && applied.lineage.breaks > word.lineage.breaks
        });
        if !is_of_older {
            voucher.applied = Some(Applied { lineage: word.lineage, number });
        }
        if word.vouches && votes {
            voucher.until_ms = voucher.until_ms.max(sent_ms + rules.vouch_ms);
            voucher.lineage = Some(word.lineage);
            if !self.is_gap {
                voucher.known = Some(word.lineage);
            }
            self.count(now_ms, rules);
        }
    }

    /// Ends a gap that waits for no more. To be called now and then.
    pub(crate) fn count(&mut self, now_ms: u64, rules: &Rules) {
        self.look(now_ms);
        if self.is_gap && !self.ends_gap(now_ms, rules) {
            return;
        }
        self.proven_until_ms = self.proven_until_ms.max(self.majority_until_ms(|_| true));
    }

    /// Up to when `needed` of those that `counts` let vouch.
    fn majority_until_ms(&self, counts: impl Fn(&Voucher) -> bool) -> u64 {
        if self.needed == 0 {
            return u64::MAX;
        }
        let mut untils: Vec<u64> =
            self.vouchers.iter().filter(|voucher| counts(voucher)).map(|voucher| voucher.until_ms).collect();
        untils.sort_unstable_by(|one, other| other.cmp(one));
        untils.get(self.needed - 1).copied().unwrap_or(0)
    }

    fn ends_gap(&mut self, now_ms: u64, rules: &Rules) -> bool {
        if self.majority_until_ms(|_| true) <= now_ms {
            self.waits_since_ms = None;
            return false;
        }
        let is_unbroken = |voucher: &Voucher| voucher.known.is_some() && voucher.known == voucher.lineage;
        if self.majority_until_ms(is_unbroken) <= now_ms && rules.has(Rule::Fence) {
            // Those that are still missing answer within a round of pings, if they are there.
            let since_ms = *self.waits_since_ms.get_or_insert(now_ms);
            let knows_majority = self.vouchers.iter().filter(|voucher| voucher.known.is_some()).count() >= self.needed;
            if knows_majority && now_ms < since_ms + rules.ping_every_ms {
                return false;
            }
            self.fence_ms = now_ms;
        }
        self.is_gap = false;
        self.waits_since_ms = None;
        for voucher in self.vouchers.iter_mut().filter(|voucher| voucher.until_ms > now_ms) {
            voucher.known = voucher.lineage;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Lineage = Lineage { boot: 1, breaks: 0 };

    fn rules() -> Rules {
        Rules::default()
    }

    /// Of five nodes; two of the other four must vouch.
    fn fence() -> Fence {
        Fence::new(5, 2)
    }

    fn vouch(fence: &mut Fence, index: usize, lineage: Lineage, now_ms: u64) {
        let word = Word { lineage, up_to: 0, is_broken: false, vouches: true };
        fence.hear(index, word, now_ms, true, now_ms, &rules());
    }

    /// Proven by all at this time.
    fn proven(now_ms: u64) -> Fence {
        let mut fence = fence();
        [1, 2, 3, 4].into_iter().for_each(|index| vouch(&mut fence, index, BOOT, now_ms));
        assert!(fence.proven_until_ms() > now_ms);
        fence
    }

    #[test]
    fn a_majority_proves_for_as_long_as_it_vouches() {
        let mut fence = fence();
        assert_eq!(fence.proven_until_ms(), 0);
        vouch(&mut fence, 1, BOOT, 1_000);
        vouch(&mut fence, 1, BOOT, 1_010);
        assert_eq!(fence.proven_until_ms(), 0, "one node is one voice");
        vouch(&mut fence, 2, BOOT, 1_100);
        assert_eq!(fence.proven_until_ms(), 1_010 + rules().vouch_ms, "the lesser of the two counts");
        assert_eq!(fence.fence_ms(), 1_100, "a node that has started has a gap behind it");
        vouch(&mut fence, 3, BOOT, 1_200);
        assert_eq!(fence.proven_until_ms(), 1_100 + rules().vouch_ms);
    }

    #[test]
    fn who_does_not_vote_or_vouch_does_not_count() {
        let mut fence = fence();
        let word = Word { lineage: BOOT, up_to: 0, is_broken: false, vouches: true };
        (1..5).for_each(|index| fence.hear(index, word, 10, false, 10, &rules()));
        (1..5).for_each(|index| fence.hear(index, Word { vouches: false, ..word }, 10, true, 10, &rules()));
        assert_eq!(fence.proven_until_ms(), 0);
    }

    #[test]
    fn a_gap_after_which_all_is_told_leaves_entries_as_they_are() {
        let mut fence = proven(1_000);
        let before = fence.fence_ms();
        vouch(&mut fence, 3, BOOT, 9_000);
        assert!(fence.proven_until_ms() <= 9_000, "one is not enough");
        vouch(&mut fence, 4, BOOT, 9_010);
        assert_eq!(fence.proven_until_ms(), 9_000 + rules().vouch_ms);
        assert_eq!(fence.fence_ms(), before);
    }

    #[test]
    fn a_gap_with_a_witness_that_has_started_anew_makes_all_stale() {
        let other = Lineage { boot: 2, breaks: 0 };
        let mut fence = proven(1_000);
        vouch(&mut fence, 3, BOOT, 9_000);
        vouch(&mut fence, 4, other, 9_010);
        assert!(fence.proven_until_ms() <= 9_010, "it waits a moment for one that knows");
        fence.count(9_010 + rules().ping_every_ms, &rules());
        assert!(fence.proven_until_ms() > 9_010);
        assert_eq!(fence.fence_ms(), 9_010 + rules().ping_every_ms);
        let mut fence = proven(1_000);
        vouch(&mut fence, 3, BOOT, 9_000);
        vouch(&mut fence, 4, other, 9_010);
        vouch(&mut fence, 2, BOOT, 9_020);
        assert_eq!(fence.fence_ms(), 1_000, "one that knows came in time");
    }

    #[test]
    fn a_log_that_ran_over_makes_all_stale_once() {
        let mut fence = proven(1_000);
        let broken = Word { lineage: Lineage { boot: 1, breaks: 1 }, up_to: 7, is_broken: true, vouches: true };
        fence.hear(3, broken, 1_100, true, 1_100, &rules());
        assert_eq!(fence.fence_ms(), 1_100);
        assert_eq!(fence.applied(3), Some(Applied { lineage: broken.lineage, number: 7 }));
        fence.hear(3, broken, 1_150, true, 1_150, &rules());
        assert_eq!(fence.fence_ms(), 1_100, "it has not heard yet that this is known");
        let overtaken = Word { lineage: BOOT, up_to: 5, is_broken: false, vouches: true };
        fence.hear(3, overtaken, 1_090, true, 1_160, &rules());
        assert_eq!(
            fence.applied(3).map(|applied| applied.number),
            Some(7),
            "an answer that was overtaken takes nothing back"
        );
    }

    #[test]
    fn who_needs_nobody_is_proven() {
        assert_eq!(Fence::new(1, 0).proven_until_ms(), u64::MAX);
    }
}
