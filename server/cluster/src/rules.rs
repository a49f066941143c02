//! By which numbers and rules a node goes when others fail.

/// Milliseconds by which the clock that one thread has read for its turn may be behind that of another. What is measured from a time that a
/// thread has published is measured from this much later.
pub const TURN_SLACK_MS: u64 = 20;

/// Clocks of two machines are taken to run apart by less than one part in so many. Quartz is a thousand times better, a virtual machine that
/// is moved is not.
const DRIFT_PARTS: u64 = 32;

/// What a node does when it does not see a majority of the main pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minority {
    /// It answers no key that it cannot prove it owns.
    Refuse,
    /// It answers reads of its own keys from memory, as stale values; it loads nothing, and takes no writes.
    ServeStale,
}

/// Who stands in for a node that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandIns {
    /// Nobody: its keys are refused.
    None,
    /// The gutter pool.
    Pool,
    /// The other nodes of the main pool.
    Same,
}

/// See the module. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How long a request to another node may take.
    pub peer_timeout_ms: u64,
    /// So many failures in a row, and a node is out.
    pub failures_max: u32,
    /// How often each other node is asked whether it is there.
    pub ping_every_ms: u64,
    /// As `ping_every_ms`, at most, of a node that is out.
    pub ping_rarest_ms: u64,
    /// How long an answer to a ping vouches; above twice `ping_every_ms`, and at most `peer_timeout_ms`.
    pub vouch_ms: u64,
    /// How long a node is out that fails again within `flap_ms` of its return; twice as long with each time.
    pub flap_out_ms: u64,
    /// As `flap_out_ms`, at most.
    pub flap_out_longest_ms: u64,
    /// A node that has been well for so long has one flap less.
    pub flap_ms: u64,
    /// At most this share of the other nodes of the main pool is taken to be out by failures, in thousandths, and one node at least.
    pub out_share: u32,
    /// See [`StandIns`].
    pub stand_ins: StandIns,
    /// No entry of another node's key lives longer.
    pub gutter_ttl_ms: u64,
    /// The share of all reads and writes that may go to stand-ins, in thousandths.
    pub failover_share: u32,
    /// So many may go at once.
    pub failover_burst: u32,
    /// Most deletes remembered for one node.
    pub remembered_max: usize,
    /// Most bytes of their keys.
    pub remembered_bytes_max: usize,
    /// Most of them in one answer to a ping.
    pub delivery_max: usize,
    /// See [`Minority`].
    pub minority: Minority,
    /// The share of reads that a node gets which has returned, before its hit rate is known; in thousandths.
    pub ramp_start: u32,
    /// Its hit rate is known after so many reads.
    pub ramp_reads: u32,
    /// Above this hit rate it gets all; in thousandths.
    pub ramp_leave: u32,
    /// It gets all after this time, whatever its hit rate.
    pub ramp_longest_ms: u64,
    /// Which rule is left out; `None` but in the simulation, which proves that each is needed.
    pub without: Option<Rule>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            peer_timeout_ms: 1_000,
            failures_max: 3,
            ping_every_ms: 100,
            ping_rarest_ms: 1_000,
            vouch_ms: 400,
            flap_out_ms: 2_000,
            flap_out_longest_ms: 60_000,
            flap_ms: 30_000,
            out_share: 500,
            stand_ins: StandIns::Pool,
            gutter_ttl_ms: 10_000,
            failover_share: 500,
            failover_burst: 10_000,
            remembered_max: 100_000,
            remembered_bytes_max: 16 << 20,
            delivery_max: 512,
            minority: Minority::Refuse,
            ramp_start: 100,
            ramp_reads: 100,
            ramp_leave: 900,
            ramp_longest_ms: 60_000,
            without: None,
        }
    }
}

impl Rules {
    /// Whether the rule holds.
    #[must_use]
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// How long whoever vouches counts its word: longer than whoever relies on it, though their clocks differ, and threads on both sides may be behind them.
    pub(crate) fn vouch_held_ms(&self) -> u64 {
        longer(self.vouch_ms) + TURN_SLACK_MS
    }

    /// How long a node that has started vouches for nobody: by then no delete that it may have confirmed before is still to be answered.
    pub(crate) fn boot_silence_ms(&self) -> u64 {
        longer(self.peer_timeout_ms)
    }

    /// What makes these numbers useless together, if anything does.
    #[must_use]
    pub fn flaw(&self) -> Option<RulesFlaw> {
        let shares = [self.out_share, self.failover_share, self.ramp_start, self.ramp_leave];
        if self.vouch_ms < 2 * self.ping_every_ms {
            Some(RulesFlaw::VouchTooShort)
        } else if self.vouch_held_ms() + self.ping_every_ms > self.peer_timeout_ms {
            Some(RulesFlaw::VouchTooLong)
        } else if self.ping_every_ms == 0
            || self.failures_max == 0
            || self.remembered_max == 0
            || self.delivery_max == 0
        {
            Some(RulesFlaw::Zero)
        } else if shares.iter().any(|share| *share > 1_000) {
            Some(RulesFlaw::ShareAboveAll)
        } else {
            None
        }
    }
}

/// See [`Rules::flaw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesFlaw {
    /// A node would lose its proof with each ping that is late: `vouch_ms` is under twice `ping_every_ms`.
    VouchTooShort,
    /// A delete would be refused before anybody may confirm it: `vouch_ms` is not well below `peer_timeout_ms`.
    VouchTooLong,
    /// `ping_every_ms`, `failures_max`, `remembered_max` or `delivery_max` is 0.
    Zero,
    /// A share is above 1000 thousandths.
    ShareAboveAll,
}

/// At least `ms` on a clock that may run slower.
pub(crate) const fn longer(ms: u64) -> u64 {
    ms + ms / DRIFT_PARTS + TURN_SLACK_MS
}

/// At most `ms` on a clock that may run faster.
pub(crate) const fn shorter(ms: u64) -> u64 {
    ms - ms.div_ceil(DRIFT_PARTS)
}

/// What the simulation leaves out to show that it would be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A delete that did not reach its owner is remembered for it.
    RememberDeletes,
    /// So is a write that a stand-in took.
    RememberWrites,
    /// Deletes go to the stand-ins, too.
    DeleteAtStandIns,
    /// A delete that the owner has not seen is answered once a majority has it.
    Witnesses,
    /// Whoever confirms that it has one waits until it does not vouch for the owner.
    WitnessesWait,
    /// A node answers for its keys only while a majority vouches for it.
    Proof,
    /// Whoever vouches for a node has told it all that is remembered for it, in the same answer.
    TellAll,
    /// A node that was away makes its entries stale unless it has had all that was remembered.
    Fence,
    /// A fence covers loads and leases under way.
    FenceTokens,
    /// A log that runs over has the owner make everything stale.
    Overflow,
    /// A node for which something is remembered stands in for nobody.
    DeliverFirst,
    /// A stand-in's entry from before the owner's trouble is too old.
    AgeAtStandIns,
    /// Entries at stand-ins live for `gutter_ttl_ms` at most.
    GutterTtl,
    /// A node that has started vouches for nobody for a while.
    BootSilence,
    /// Only a node that sees a majority asks stand-ins.
    MajorityForFailover,
    /// Leases never go to stand-ins.
    LeasesStay,
    /// Nodes are pinged without other traffic.
    PingIdle,
    /// When too many nodes look dead, it is this one.
    Guard,
    /// The share of requests that stand-ins get is bounded.
    Budget,
    /// A node that sees no majority serves stale values as such.
    MarkStale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_go_together_are_told() {
        let flaw = |change: fn(&mut Rules)| {
            let mut rules = Rules::default();
            change(&mut rules);
            rules.flaw()
        };
        assert_eq!(flaw(|_| ()), None);
        assert_eq!(flaw(|rules| rules.vouch_ms = 150), Some(RulesFlaw::VouchTooShort));
        assert_eq!(flaw(|rules| rules.vouch_ms = 900), Some(RulesFlaw::VouchTooLong));
        assert_eq!(flaw(|rules| rules.remembered_max = 0), Some(RulesFlaw::Zero));
        assert_eq!(flaw(|rules| rules.failover_share = 1_001), Some(RulesFlaw::ShareAboveAll));
    }

    #[test]
    fn who_vouches_counts_longer_than_who_relies_on_it_whatever_their_clocks() {
        let rules = Rules::default();
        // The one clock a thirtieth of a second per second slow, the other fast.
        assert!(rules.vouch_held_ms() > rules.vouch_ms * 33 / 32);
        assert!(longer(1_000) > 1_031 && shorter(1_000) < 969 && shorter(0) == 0);
    }
}
