//! Worlds with a story: what users of other gutters have reported, and what the seeds meet too seldom.

use crate::plan::{Act, Fault, HEALED_MS, Plan, Step, Trouble, quick};
use crate::server::Outcome;
use crate::world::World;
use leasehold_cluster::{Minority, Rule, Rules};

/// What happens to one key of the node `owner`.
struct Story {
    mains: usize,
    gutters: usize,
    rules: Rules,
    owner: usize,
    faults: Vec<Fault>,
    /// When, by way of which node, what.
    steps: Vec<(u64, usize, Act)>,
    /// What a load takes at most, up to the source's answer and from there; `None`: as in worlds from a seed.
    load_ms: Option<u64>,
    /// Whether all is well in the end, which takes minutes with the numbers that are used if nobody says otherwise.
    settles: bool,
}

impl Story {
    /// Three nodes and a spare one; the key is the first node's.
    fn of_three() -> Self {
        Self {
            mains: 3,
            gutters: 1,
            rules: quick(),
            owner: 0,
            faults: Vec::new(),
            steps: Vec::new(),
            load_ms: None,
            settles: true,
        }
    }

    /// As [`Story::of_three`], with the numbers that are used if nobody says otherwise.
    fn by_default() -> Self {
        Self { rules: Rules::default(), settles: false, ..Self::of_three() }
    }

    fn fault(mut self, from_ms: u64, until_ms: u64, trouble: Trouble) -> Self {
        self.faults.push(Fault { from_ms, until_ms, trouble });
        self
    }

    fn step(mut self, at_ms: u64, node: usize, act: Act) -> Self {
        self.steps.push((at_ms, node, act));
        self
    }

    fn without(mut self, rule: Rule) -> Self {
        self.rules.without = Some(rule);
        self
    }

    /// What each step came to, and what was violated.
    fn told(&self, seed: u64) -> (Vec<Outcome>, Option<String>) {
        let (answers, violation) = self.timed(seed);
        (answers.into_iter().map(|(_, outcome)| outcome).collect(), violation)
    }

    /// How long each step took, too.
    fn timed(&self, seed: u64) -> (Vec<(u64, Outcome)>, Option<String>) {
        let mut plan = Plan::scripted(self.mains, self.gutters, self.rules.clone(), self.faults.clone(), Vec::new());
        let key = plan.key_of(self.owner);
        let step = |(at_ms, node, act): &(u64, usize, Act)| Step { at_ms: *at_ms, node: *node, key, act: *act };
        let script = self.steps.iter().map(step).collect();
        plan = Plan::scripted(self.mains, self.gutters, self.rules.clone(), self.faults.clone(), script);
        plan.load_ms = self.load_ms.unwrap_or(plan.load_ms);
        if !self.settles {
            plan = plan.until_answered();
        }
        let mut world = World::new(plan, seed);
        let violation = world.run();
        let answers = world.oracle.requests.iter().take(self.steps.len());
        let answers =
            answers.filter_map(|request| request.answer.map(|(at_ms, outcome)| (at_ms - request.at_ms, outcome)));
        (answers.collect(), violation)
    }

    /// As [`Story::told`], of a story in which nothing is violated.
    fn outcomes(&self) -> Vec<Outcome> {
        let (outcomes, violation) = self.told(1);
        assert_eq!(violation, None, "{outcomes:?}");
        assert_eq!(outcomes.len(), self.steps.len(), "all are answered");
        outcomes
    }
}

fn by_owner(version: u64) -> Outcome {
    Outcome::Value { version, is_fresh: true, by_stand_in: false }
}

fn by_stand_in(version: u64) -> Outcome {
    Outcome::Value { version, is_fresh: true, by_stand_in: true }
}

/// mcrouter #202: what was written during the outage is forgotten when the owner is back, and it shows what it had before.
#[test]
fn mcrouter_202_an_owner_that_returns_does_not_show_what_was_deleted_meanwhile() {
    let story = Story::of_three()
        .step(600, 1, Act::Set)
        .step(650, 1, Act::Read)
        .fault(700, 1_500, Trouble::Part(0b0001))
        .step(1_000, 1, Act::Delete)
        .step(1_200, 1, Act::Set)
        .step(1_400, 1, Act::Read)
        .step(2_000, 1, Act::Read)
        .step(2_050, 2, Act::Read);
    let expected = [Outcome::Done, by_owner(2), Outcome::Done, Outcome::Done, by_stand_in(4), by_owner(4), by_owner(4)];
    assert_eq!(story.outcomes(), expected);
    let (_, violation) = story.without(Rule::RememberDeletes).told(1);
    // The write is remembered, and covers the delete.
    assert_eq!(violation, None);
    let forgetful = Story::of_three()
        .step(600, 1, Act::Set)
        .fault(700, 1_500, Trouble::Part(0b0001))
        .step(1_000, 1, Act::Delete)
        .step(2_000, 2, Act::Read);
    assert_eq!(forgetful.outcomes()[2], by_owner(3));
    let (outcomes, violation) = forgetful.without(Rule::RememberDeletes).told(1);
    assert!(violation.is_some_and(|text| text.contains("the owner answered version 2 and not 3")), "{outcomes:?}");
}

/// mcrouter #105: reads and writes went to the spare node during the outage, and deletes did not.
#[test]
fn mcrouter_105_deletes_reach_stand_ins() {
    let story = Story::of_three()
        .fault(700, 1_800, Trouble::Crash(0))
        .step(1_000, 1, Act::Read)
        .step(1_100, 1, Act::Delete)
        .step(1_200, 1, Act::Read)
        .step(1_250, 2, Act::Read);
    assert_eq!(story.outcomes(), [by_stand_in(1), Outcome::Done, by_stand_in(2), by_stand_in(2)]);
    let (_, violation) = story.without(Rule::DeleteAtStandIns).told(1);
    assert!(violation.is_some_and(|text| text.contains("a stand-in answered version 1 and not 2")));
}

/// mcrouter #190: a node goes in and out of communication, and in the end shows old values.
#[test]
fn mcrouter_190_a_node_that_comes_and_goes_shows_nothing_old() {
    let mut story = Story::of_three().step(600, 1, Act::Read);
    for round in 0..4 {
        let from_ms = 700 + round * 500;
        story = story
            .fault(from_ms, from_ms + 250, Trouble::Part(0b0001))
            .step(from_ms + 100, 1, Act::Delete)
            .step(from_ms + 300, 2, Act::Read)
            .step(from_ms + 480, 1, Act::Read);
    }
    let outcomes = story.outcomes();
    let written = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count() as u64;
    assert_eq!(written, 4, "deletes are answered during each outage: {outcomes:?}");
    let last = outcomes.last().expect("there are steps");
    assert!(*last == by_owner(5) || *last == by_stand_in(5), "{last:?}");
}

/// mcrouter #189: a spare node that was suspected stays so for weeks, as nobody asks it.
#[test]
fn mcrouter_189_an_idle_spare_node_is_well_again() {
    let story = Story::of_three().fault(700, 1_500, Trouble::Crash(3));
    let (_, violation) = story.told(1);
    assert_eq!(violation, None, "all are well without a request");
    let (_, violation) = story.without(Rule::PingIdle).told(1);
    assert!(violation.is_some());
}

/// mcrouter #146: the time to live that entries of a spare node get was given to deletes, too, which failed. Here values get it, and deletes are deletes.
#[test]
fn mcrouter_146_what_stand_ins_keep_is_cut_and_deletes_are_not() {
    let story = Story::of_three()
        .fault(700, 2_000, Trouble::Crash(0))
        .step(1_000, 1, Act::Set)
        .step(1_050, 1, Act::Read)
        .step(1_100, 1, Act::Delete)
        .step(1_150, 1, Act::Read);
    assert_eq!(story.outcomes(), [Outcome::Done, by_stand_in(2), Outcome::Done, by_stand_in(3)]);
}

/// Of many deaths at any moment, all are answered by a stand-in within a quarter of a second, with the numbers that are used if nobody says otherwise.
#[test]
fn a_killed_node_is_replaced_within_250_ms() {
    for seed in 0..100 {
        let mut story = Story::by_default().fault(3_000 + seed, 6_000, Trouble::Crash(0));
        for request in 0..50 {
            story = story.step(3_000 + request * 7, 1 + request as usize % 2, Act::Read);
        }
        let (answers, violation) = story.timed(seed);
        assert_eq!(violation, None);
        let slowest_ms = answers.iter().map(|(took_ms, _)| *took_ms).max();
        assert!(slowest_ms <= Some(250), "seed {seed}: {slowest_ms:?}");
        let is_value = |(_, outcome): &(u64, Outcome)| matches!(outcome, Outcome::Value { is_fresh: true, .. });
        assert!(answers.iter().all(is_value), "seed {seed}: {answers:?}");
    }
}

/// As above, of nodes that stand still: the requests that were under way wait for `peer_timeout_ms`, and those after that not at all.
#[test]
fn a_stopped_node_is_replaced_within_its_timeout_and_100_ms() {
    let rules = Rules::default();
    for seed in 0..100 {
        let mut story = Story::by_default().fault(3_000 + seed, 8_000, Trouble::Pause(0));
        for request in 0..50 {
            story = story.step(3_000 + request * 50, 1 + request as usize % 2, Act::Read);
        }
        let (answers, violation) = story.timed(seed);
        assert_eq!(violation, None);
        for (number, (took_ms, outcome)) in answers.iter().enumerate() {
            assert!(*took_ms <= rules.peer_timeout_ms + 100, "seed {seed}, read {number}: {took_ms} ms");
            assert!(
                matches!(outcome, Outcome::Value { is_fresh: true, .. }),
                "seed {seed}, read {number}: {outcome:?}"
            );
            let is_known = number as u64 * 50 > rules.peer_timeout_ms + 500;
            assert!(!is_known || *took_ms <= 100, "seed {seed}, read {number}: {took_ms} ms though it is known");
        }
    }
}

/// A delete is answered once nobody vouches any more for the node that was killed; later ones do not wait for that.
#[test]
fn deletes_of_keys_of_a_killed_node_are_answered_soon() {
    let rules = Rules::default();
    for seed in 0..50 {
        let mut story = Story::by_default().fault(3_000 + seed, 8_000, Trouble::Crash(0));
        for request in 0..40 {
            story = story.step(3_000 + request * 50, 1 + request as usize % 2, Act::Delete);
        }
        let (answers, violation) = story.timed(seed);
        assert_eq!(violation, None);
        for (number, (took_ms, outcome)) in answers.iter().enumerate() {
            assert_eq!(*outcome, Outcome::Done, "seed {seed}, delete {number}");
            let most_ms = if number < 15 { rules.vouch_ms + 150 } else { 50 };
            assert!(*took_ms <= most_ms, "seed {seed}, delete {number}: {took_ms} ms");
        }
    }
}

/// Two nodes lose sight of each other and all others see both: what one deletes reaches the other by way of them, and only the one asks stand-ins.
#[test]
fn a_cut_between_two_nodes_troubles_no_third() {
    let mut story = Story::by_default()
        .fault(3_000, 9_000, Trouble::Cut(0, 1))
        .fault(3_000, 9_000, Trouble::Cut(1, 0))
        .step(2_900, 2, Act::Read);
    for round in 0..10 {
        let at_ms = 5_000 + round * 400;
        story = story.step(at_ms, 1, Act::Delete).step(at_ms + 200, 2, Act::Read).step(at_ms + 200, 1, Act::Read);
    }
    let (answers, violation) = story.timed(1);
    assert_eq!(violation, None);
    for (round, answers) in answers[1..].chunks(3).enumerate() {
        let version = round as u64 + 2;
        let outcomes: Vec<Outcome> = answers.iter().map(|(_, outcome)| *outcome).collect();
        assert_eq!(outcomes, [Outcome::Done, by_owner(version), by_stand_in(version)]);
        assert!(answers[0].0 <= 200, "the delete took {} ms", answers[0].0);
    }
}

/// The two sides of a partition.
#[test]
fn a_minority_refuses_or_says_that_it_is_stale() {
    // Node 0 and its key on one side, all else on the other.
    let story = |minority| {
        let story = Story { rules: Rules { minority, ..quick() }, ..Story::of_three() };
        story
            .step(600, 0, Act::Read)
            .fault(700, 1_800, Trouble::Part(0b0001))
            .step(1_100, 1, Act::Delete)
            .step(1_300, 0, Act::Read)
            .step(1_320, 0, Act::Delete)
            .step(1_340, 1, Act::Read)
    };
    let refused = story(Minority::Refuse).outcomes();
    // The delete on the side of the minority has put a version into the source.
    assert_eq!(refused[1..], [Outcome::Done, Outcome::Refused, Outcome::Refused, by_stand_in(3)]);
    let stale = Outcome::Value { version: 1, is_fresh: false, by_stand_in: false };
    assert_eq!(story(Minority::ServeStale).outcomes()[1..], [Outcome::Done, stale, Outcome::Refused, by_stand_in(3)]);
}

/// A node confirms a delete and starts anew before it is answered; if it vouched at once, the owner would be proven without having heard.
#[test]
fn a_node_that_has_started_vouches_for_nobody_for_a_while() {
    // The owner is 0; 1 takes the delete, 2 confirms and starts anew, 3 confirms late, 4 hears of nothing.
    let cut = |story: Story, from_ms: u64, until_ms: u64, one: usize, other: usize| {
        story.fault(from_ms, until_ms, Trouble::Cut(one, other)).fault(from_ms, until_ms, Trouble::Cut(other, one))
    };
    let mut story = Story { mains: 5, ..Story::of_three() };
    story = cut(story, 1_000, 1_212, 2, 0);
    story = cut(story, 700, HEALED_MS, 1, 0);
    story = cut(story, 1_150, HEALED_MS, 3, 0);
    story = cut(story, 1_100, HEALED_MS, 1, 4);
    story = story.fault(1_208, 1_212, Trouble::Crash(2)).step(900, 4, Act::Read).step(1_200, 1, Act::Delete);
    for at_ms in (1_220..1_600).step_by(5) {
        story = story.step(at_ms, 4, Act::Read);
    }
    let outcomes = (0..20).map(|seed| {
        let (outcomes, violation) = story.told(seed);
        assert_eq!(violation, None);
        outcomes[1]
    });
    assert!(outcomes.filter(|outcome| *outcome == Outcome::Done).count() > 10, "the delete has its majority");
    let story = story.without(Rule::BootSilence);
    assert!((0..20).any(|seed| story.told(seed).1.is_some()));
}

/// A node that reaches nobody thinks that it is itself cut off; when it is back it goes on at once.
#[test]
fn a_node_that_was_cut_off_believes_most_of_the_others_to_be_alive() {
    let story =
        Story { mains: 5, ..Story::of_three() }.fault(700, 1_500, Trouble::Part(0b00010)).step(1_000, 1, Act::Read);
    assert_eq!(story.outcomes(), [Outcome::Refused]);
    let (_, violation) = story.without(Rule::Guard).told(1);
    assert!(violation.is_some_and(|text| text.contains("dead of at most")));
}

/// A load begins, its node stands still, a delete is answered, all who remember it start anew, and only then the load comes back: it is as stale as entries from
/// before the fence.
#[test]
fn a_fence_covers_loads_under_way() {
    let mut story = Story::of_three()
        .step(1_000, 0, Act::Read)
        .fault(1_300, 2_600, Trouble::Pause(0))
        .step(2_000, 1, Act::Delete)
        .fault(2_400, 2_410, Trouble::Crash(1))
        .fault(2_400, 2_410, Trouble::Crash(2));
    (story.load_ms, story.settles) = (Some(3_000), false);
    story = story.step(6_000, 0, Act::Read);
    let seeds = 0..60;
    for seed in seeds.clone() {
        let (outcomes, violation) = story.told(seed);
        assert_eq!((violation, outcomes[1]), (None, Outcome::Done), "seed {seed}");
    }
    let story = story.without(Rule::FenceTokens);
    assert!(seeds.clone().any(|seed| story.told(seed).1.is_some_and(|text| text.contains("stale set"))));
}
