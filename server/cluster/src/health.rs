//! Whether another node is there, as told by the requests to it and by pings.
//!
//! ```text
//!           failure           failures_max in a row        answers a ping, and        hit rate,
//!     Well ────────► Suspect ───────────────────────► Out ───────────────────► Ramp ───────────► Well
//!       ▲               │                              ▲    its time is up      │   or time
//!       └───────────────┘                              └────────────────────────┘
//!            success                                           fails again
//! ```
//!
//! From the first failure on the node is in *trouble*: stand-ins may be asked, so deletes go to them, too. A node that fails again soon after its
//! return stays out longer each time. When more than a share of the main pool looks dead, it is rather this node that is cut off: then failures
//! put nobody out, and every request finds out for itself.

use crate::hash;
use crate::rules::{Rule, Rules, TURN_SLACK_MS};
use std::collections::VecDeque;

/// Pings under way to one node, at most; older ones are forgotten.
const PINGS_MAX: usize = 64;

/// How a request or a ping failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection came about.
    Refused,
    /// The connection ended before the answer.
    Reset,
    /// No answer in time.
    Timeout,
    /// A ping had no answer in time.
    Silent,
}

/// See the module. Times are those of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All is well.
    Well,
    /// It has failed, but not often.
    Suspect {
        /// Since when deletes have gone to stand-ins, too.
        since_ms: u64,
    },
    /// It is not asked.
    Out {
        /// As for `Suspect`.
        since_ms: u64,
        /// It does not return before.
        until_ms: u64,
    },
    /// It has returned, and gets a share.
    Ramp {
        /// As for `Suspect`.
        since_ms: u64,
        /// When it returned.
        returned_ms: u64,
    },
}

impl Condition {
    /// Since when deletes go to stand-ins, too; `None` if they do not.
    #[must_use]
    pub fn since_ms(self) -> Option<u64> {
        match self {
            Self::Well => None,
            Self::Suspect { since_ms } | Self::Out { since_ms, .. } | Self::Ramp { since_ms, .. } => Some(since_ms),
        }
    }

    /// Whether it is not asked.
    #[must_use]
    pub fn is_out(self) -> bool {
        matches!(self, Self::Out { .. })
    }
}

/// What this node knows of another one.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    condition: Condition,
    /// Failures in a row.
    failures: u32,
    /// How often it was out again soon after a return.
    flaps: u32,
    /// When it last was put out, or lost a flap.
    settled_ms: u64,
    /// It has answered a ping since it was put out.
    is_heard: bool,
    next_ping_ms: u64,
    /// Between two pings.
    ping_gap_ms: u64,
    last_ping: u64,
    /// Number and time of those without an answer.
    pings: VecDeque<(u64, u64)>,
}

impl Health {
    /// Of a node that nothing is known of: it is well until it fails. It is pinged at once. Pings are numbered from a place that `boot` names, so that an
    /// answer to the process before this one is none.
    #[must_use]
    pub(crate) fn new(boot: u64, now_ms: u64, rules: &Rules) -> Self {
        Self {
            condition: Condition::Well,
            failures: 0,
            flaps: 0,
            settled_ms: now_ms,
            is_heard: false,
            next_ping_ms: now_ms,
            ping_gap_ms: rules.ping_every_ms,
            last_ping: hash::mix(boot),
            pings: VecDeque::new(),
        }
    }

    /// See [`Condition`].
    #[must_use]
    pub(crate) fn condition(&self) -> Condition {
        self.condition
    }

    /// Whether it is out, and has answered no ping since.
    #[must_use]
    pub(crate) fn is_dead(&self) -> bool {
        self.condition.is_out() && !self.is_heard
    }

    /// Failures in a row.
    #[must_use]
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a failure. `may_go` is whether failures may put it out: see the module.
    pub(crate) fn failed(&mut self, now_ms: u64, may_go: bool, rules: &Rules) {
        self.failures = self.failures.saturating_add(1);
        self.suspect(now_ms);
        if self.failures >= rules.failures_max && may_go && !self.condition.is_out() {
            self.put_out(now_ms, rules);
        }
    }

    /// Notes that it answered that it cannot serve its keys now: a stand-in may be asked.
    pub(crate) fn suspect(&mut self, now_ms: u64) {
        if self.condition == Condition::Well {
            self.condition = Condition::Suspect { since_ms: now_ms + TURN_SLACK_MS };
        }
    }

    fn put_out(&mut self, now_ms: u64, rules: &Rules) {
        let since_ms = self.condition.since_ms().unwrap_or(now_ms + TURN_SLACK_MS);
        self.calm_down(now_ms, rules);
        let until_ms = now_ms + self.out_ms(rules);
        self.flaps = self.flaps.saturating_add(1);
        self.settled_ms = now_ms;
        self.is_heard = false;
        self.condition = Condition::Out { since_ms, until_ms };
    }

    /// Flaps go one by one while it is well.
    fn calm_down(&mut self, now_ms: u64, rules: &Rules) {
        if matches!(self.condition, Condition::Out { .. }) {
            return;
        }
        let gone = now_ms.saturating_sub(self.settled_ms) / rules.flap_ms.max(1);
        self.flaps = self.flaps.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX));
        self.settled_ms += gone * rules.flap_ms;
    }

    /// How long it is out: the first time, until it answers.
    fn out_ms(&self, rules: &Rules) -> u64 {
        match self.flaps {
            0 => 0,
            flaps => rules.flap_out_ms.saturating_mul(1 << (flaps - 1).min(32)).min(rules.flap_out_longest_ms),
        }
    }

    /// Notes an answer to a request.
    pub(crate) fn answered(&mut self) {
        self.failures = 0;
        if matches!(self.condition, Condition::Suspect { .. }) {
            self.condition = Condition::Well;
        }
    }

    /// Notes that it has sent a ping itself: if it is out, it is asked at once.
    pub(crate) fn heard_from(&mut self, now_ms: u64) {
        if self.condition.is_out() {
            self.next_ping_ms = self.next_ping_ms.min(now_ms);
        }
    }

    /// Puts it back if that is due; whether it was.
    pub(crate) fn try_return(&mut self, now_ms: u64) -> bool {
        let Condition::Out { since_ms, until_ms } = self.condition else { return false };
        let is_due = self.is_heard && until_ms <= now_ms;
        if is_due {
            self.failures = 0;
            self.settled_ms = now_ms;
            self.condition = Condition::Ramp { since_ms, returned_ms: now_ms };
        }
        is_due
    }

    /// Ends the ramp.
    pub(crate) fn is_warm(&mut self) {
        if matches!(self.condition, Condition::Ramp { .. }) {
            self.condition = Condition::Well;
        }
    }

    /// The number of the ping that is to be sent now, if one is. Of a node that is out it becomes rarer, up to a bound; `random` spreads them by a
    /// quarter.
    pub(crate) fn ping_due(&mut self, now_ms: u64, random: u64, rules: &Rules) -> Option<u64> {
        if now_ms < self.next_ping_ms {
            return None;
        }
        self.ping_gap_ms = match self.condition {
            Condition::Out { .. } if !self.is_heard => (self.ping_gap_ms * 3 / 2).min(rules.ping_rarest_ms),
            _ => rules.ping_every_ms,
        };
        let spread = random % (self.ping_gap_ms / 4 + 1);
        self.next_ping_ms = now_ms + self.ping_gap_ms - spread;
        if !rules.has(Rule::PingIdle) && self.condition == Condition::Well {
            return None;
        }
        self.last_ping = self.last_ping.wrapping_add(1);
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((self.last_ping, now_ms));
        Some(self.last_ping)
    }

    /// Has the next ping sent at once.
    pub(crate) fn hurry(&mut self, now_ms: u64) {
        self.next_ping_ms = self.next_ping_ms.min(now_ms);
    }

    /// Takes the answer to a ping, and says when that was sent; `None`: it is no answer to one under way.
    ///
    /// Earlier ones count as answered: the node was there later than when they were sent.
    pub(crate) fn ponged(&mut self, ping: u64) -> Option<u64> {
        let place = self.pings.iter().position(|(number, _)| *number == ping)?;
        let sent_ms = self.pings[place].1;
        self.pings.drain(..=place);
        self.is_heard = true;
        self.answered();
        Some(sent_ms)
    }

    /// Takes a ping out that has had no answer in time; whether there was one.
    pub(crate) fn take_overdue(&mut self, now_ms: u64, rules: &Rules) -> bool {
        let is_overdue = |(_, sent_ms): &(u64, u64)| sent_ms + rules.peer_timeout_ms <= now_ms;
        let was_overdue = self.pings.front().is_some_and(is_overdue);
        if was_overdue {
            self.pings.pop_front();
        }
        was_overdue
    }

    /// Forgets pings under way: this node itself was stopped, so nothing follows from them.
    pub(crate) fn forget_pings(&mut self, now_ms: u64) {
        self.pings.clear();
        self.hurry(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::default()
    }

    fn fail(health: &mut Health, now_ms: u64) {
        (0..rules().failures_max).for_each(|_| health.failed(now_ms, true, &rules()));
    }

    fn answer_ping(health: &mut Health, now_ms: u64) {
        health.hurry(now_ms);
        let ping = health.ping_due(now_ms, 0, &rules()).expect("due at once");
        assert_eq!(health.ponged(ping), Some(now_ms));
    }

    fn come_back(health: &mut Health, now_ms: u64) -> bool {
        answer_ping(health, now_ms);
        health.try_return(now_ms)
    }

    /// Until when it is out.
    fn until_ms(health: &Health) -> u64 {
        match health.condition() {
            Condition::Out { until_ms, .. } => until_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn so_many_failures_in_a_row_put_it_out() {
        let mut health = Health::new(1, 0, &rules());
        for _ in 0..3 {
            health.failed(10, true, &rules());
            health.failed(10, true, &rules());
            assert_eq!(health.condition(), Condition::Suspect { since_ms: 10 + TURN_SLACK_MS });
            health.answered();
            assert_eq!(health.condition(), Condition::Well);
        }
        fail(&mut health, 20);
        assert!(health.condition().is_out());
    }

    #[test]
    fn one_that_fails_again_stays_out_longer_and_is_forgiven_in_time() {
        let rules = rules();
        let mut health = Health::new(1, 0, &rules);
        fail(&mut health, 1_000);
        assert_eq!(until_ms(&health), 1_000, "the first time it may return as soon as it answers");
        let mut now_ms = 1_000;
        let mut out_ms = Vec::new();
        for _ in 0..8 {
            assert!(come_back(&mut health, now_ms));
            health.is_warm();
            fail(&mut health, now_ms + 10);
            out_ms.push(until_ms(&health) - (now_ms + 10));
            assert!(out_ms.last() == Some(&0) || !come_back(&mut health, now_ms + 11), "not before its time");
            now_ms = until_ms(&health);
        }
        assert_eq!(out_ms, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert!(come_back(&mut health, now_ms));
        health.is_warm();
        now_ms += 9 * rules.flap_ms;
        fail(&mut health, now_ms);
        assert_eq!(until_ms(&health), now_ms, "nine times well, nine flaps less");
    }

    #[test]
    fn failures_that_may_be_ours_put_nobody_out() {
        let mut health = Health::new(1, 0, &rules());
        (0..100).for_each(|_| health.failed(10, false, &rules()));
        assert!(matches!(health.condition(), Condition::Suspect { .. }));
    }

    #[test]
    fn it_returns_when_it_answers() {
        let mut health = Health::new(1, 0, &rules());
        fail(&mut health, 10);
        health.answered();
        assert!(!health.try_return(20), "an answer to a request may be an old one");
        answer_ping(&mut health, 15);
        assert!(health.try_return(20));
        assert_eq!(health.condition(), Condition::Ramp { since_ms: 10 + TURN_SLACK_MS, returned_ms: 20 });
        health.answered();
        assert!(matches!(health.condition(), Condition::Ramp { .. }), "an answer does not end the ramp");
        health.is_warm();
        assert_eq!(health.condition(), Condition::Well);
    }

    #[test]
    fn pings_go_on_without_traffic_and_become_rare_when_it_is_out() {
        let rules = rules();
        let mut health = Health::new(1, 0, &rules);
        let pings = |health: &mut Health, from: u64, to: u64| {
            (from..to)
                .filter(|now_ms| health.ping_due(*now_ms, 0, &rules).map(|ping| health.ponged(ping)).is_some())
                .count()
        };
        assert_eq!(pings(&mut health, 0, 10_000), 100);
        fail(&mut health, 10_000);
        let unanswered = |health: &mut Health, from: u64, to: u64| {
            (from..to).filter(|now_ms| health.ping_due(*now_ms, 0, &rules).is_some()).count()
        };
        assert!(unanswered(&mut health, 10_000, 20_000) < 20);
        assert_eq!(unanswered(&mut health, 20_000, 30_000), 10);
        health.heard_from(30_100);
        assert!(health.ping_due(30_100, 0, &rules).is_some(), "who sends a ping is there");
    }

    #[test]
    fn silence_counts_as_failure_and_a_late_answer_is_none() {
        let rules = rules();
        let mut health = Health::new(1, 0, &rules);
        let ping = health.ping_due(0, 0, &rules).expect("due at once");
        assert!(!health.take_overdue(rules.peer_timeout_ms - 1, &rules));
        assert!(health.take_overdue(rules.peer_timeout_ms, &rules));
        assert_eq!(health.ponged(ping), None);
        let (first, second) = (health.ping_due(2_000, 0, &rules), health.ping_due(2_100, 0, &rules));
        assert_eq!(health.ponged(second.expect("due")), Some(2_100));
        assert_eq!(health.ponged(first.expect("due")), None, "a later answer covers it");
    }
}
