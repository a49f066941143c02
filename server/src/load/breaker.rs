//! A circuit breaker: whether it makes sense to ask at all, judged by the calls of the last seconds.
//!
//! ```text
//!             enough calls in the window, and too many of them failed
//!    closed ───────────────────────────────────────────────────────────► open for a while (twice as long each time)
//!       ▲                                                                 │      ▲
//!       │ it was answered                           the next call is let through │ it failed
//!       └────────────────────────────────────────── half-open ◄──────────────────┘
//! ```
//!
//! A state machine and nothing else: it knows no clock, no source and no error, and what a failed call is its user decides. A call
//! is let through with a [`Pass`] that says in which life of the breaker it began, so that an answer from before a trip, however
//! late, neither closes the breaker nor opens it.

use leasehold_loader_api::BreakerSettings;
use std::time::{Duration, Instant};

/// The window slides in so many steps. With ten a call is forgotten after nine to ten tenths of the window.
const STEPS: usize = 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    state: State,
    window: Window,
    /// Moves with each change of state.
    life: u64,
    changed_at: Instant,
    /// How long it was, or will be, open.
    open_for: Duration,
    trips: u64,
    probes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Until then nothing passes; the first call after that is the probe.
    Open {
        until: Instant,
    },
    /// One call is under way and decides.
    Probing,
}

/// What operators are told of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    Open,
    /// The next call is a probe, or one is under way.
    HalfOpen,
}

/// A call that was let through. It ends in [`Breaker::record`] or [`Breaker::withdraw`]; a probe that does neither would leave
/// the breaker half-open for ever.
#[derive(Debug)]
#[must_use = "the breaker waits for the outcome"]
pub(crate) struct Pass {
    life: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Failed,
}

/// Why a call is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The next try is allowed after so long.
    Open { next_try: Duration },
    /// Another call is the probe.
    Probing,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Closed,
            window: Window::new(settings.window, now),
            life: 0,
            changed_at: now,
            open_for: settings.open,
            trips: 0,
            probes: 0,
        }
    }

    pub(crate) fn settings(&self) -> &BreakerSettings {
        &self.settings
    }

    /// Asks to make a call. The first one after an open time becomes the probe.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Pass, Refusal> {
        if let Some(refusal) = self.refusal(now) {
            return Err(refusal);
        }
        if let State::Open { .. } = self.state {
            self.probes += 1;
            self.become_state(State::Probing, now);
        }
        Ok(Pass { life: self.life })
    }

    /// Whether a call would be refused now.
    pub(crate) fn refusal(&self, now: Instant) -> Option<Refusal> {
        match self.state {
            State::Open { until } if now < until => Some(Refusal::Open { next_try: until - now }),
            State::Probing => Some(Refusal::Probing),
            State::Closed | State::Open { .. } => None,
        }
    }

    /// A call has ended. What began in an earlier life says nothing any more.
    pub(crate) fn record(&mut self, now: Instant, pass: &Pass, outcome: Outcome) {
        if !self.settings.enabled || pass.life != self.life {
            return;
        }
        match (self.state, outcome) {
            (State::Closed, _) => {
                self.window.note(now, outcome);
                // An answer makes no trip, though it may be the one that completes the number of calls.
                if outcome == Outcome::Failed && self.is_bad() {
                    self.trips += 1;
                    self.open_for = self.settings.open;
                    self.open(now);
                }
            }
            (State::Probing, Outcome::Answered) => {
                self.window.clear();
                self.become_state(State::Closed, now);
            }
            (State::Probing, Outcome::Failed) => {
                self.open_for = self.open_for.saturating_mul(2).min(self.settings.open_max.max(self.settings.open));
                self.open(now);
            }
            (State::Open { .. }, _) => unreachable!("no pass has the life of an open breaker"),
        }
    }

    /// The call was not made after all. If it was the probe, the next one is.
    pub(crate) fn withdraw(&mut self, now: Instant, pass: &Pass) {
        if self.is_probe(pass) {
            self.probes -= 1;
            self.become_state(State::Open { until: now }, now);
        }
    }

    /// Whether this call decides.
    pub(crate) fn is_probe(&self, pass: &Pass) -> bool {
        self.state == State::Probing && pass.life == self.life
    }

    pub(crate) fn phase(&self, now: Instant) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { until } if now < until => Phase::Open,
            State::Open { .. } | State::Probing => Phase::HalfOpen,
        }
    }

    /// How long the state has been what it is.
    pub(crate) fn in_state_for(&self, now: Instant) -> Duration {
        let since = match self.state {
            State::Open { until } if until <= now => until,
            _ => self.changed_at,
        };
        now.saturating_duration_since(since)
    }

    /// How long it opened for when it last did.
    pub(crate) fn open_for(&self) -> Duration {
        self.open_for
    }

    /// Moves with each change of state.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// How often it opened after it had been closed.
    pub(crate) fn trips(&self) -> u64 {
        self.trips
    }

    pub(crate) fn probes(&self) -> u64 {
        self.probes
    }

    fn is_bad(&self) -> bool {
        let (calls, failures) = self.window.sums();
        calls >= u64::from(self.settings.calls_min) && failures as f64 >= self.settings.failures_max * calls as f64
    }

    fn open(&mut self, now: Instant) {
        self.become_state(State::Open { until: now + self.open_for }, now);
    }

    fn become_state(&mut self, state: State, now: Instant) {
        self.state = state;
        self.life += 1;
        self.changed_at = now;
    }
}

impl Phase {
    /// The word of `LOADER STATS`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Calls and failures of the last seconds.
#[derive(Debug)]
struct Window {
    start: Instant,
    step: Duration,
    /// The step that was last written; the others are those before it.
    newest: u64,
    steps: [Step; STEPS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    calls: u64,
    failures: u64,
}

impl Window {
    fn new(len: Duration, start: Instant) -> Self {
        let step = (len / STEPS as u32).max(Duration::from_nanos(1));
        Self { start, step, newest: 0, steps: [Step::default(); STEPS] }
    }

    fn note(&mut self, now: Instant, outcome: Outcome) {
        let number = (now.saturating_duration_since(self.start).as_nanos() / self.step.as_nanos()) as u64;
        // Threads read the clock before they take the breaker's lock: one may come with an earlier time than the one before.
        let number = number.max(self.newest);
        for passed in self.newest..number.min(self.newest + STEPS as u64) {
            self.steps[(passed + 1) as usize % STEPS] = Step::default();
        }
        self.newest = number;
        let step = &mut self.steps[number as usize % STEPS];
        step.calls += 1;
        step.failures += u64::from(outcome == Outcome::Failed);
    }

    fn sums(&self) -> (u64, u64) {
        self.steps.iter().fold((0, 0), |(calls, failures), step| (calls + step.calls, failures + step.failures))
    }

    fn clear(&mut self) {
        self.steps = [Step::default(); STEPS];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        enabled: true,
        window: Duration::from_secs(10),
        calls_min: 4,
        failures_max: 0.5,
        slow: Duration::ZERO,
        open: Duration::from_secs(5),
        open_max: Duration::from_secs(60),
    };

    /// A breaker with a clock.
    struct Watched {
        breaker: Breaker,
        now: Instant,
    }

    impl Watched {
        fn new(settings: BreakerSettings) -> Self {
            let now = Instant::now();
            Self { breaker: Breaker::new(settings, now), now }
        }

        fn pass_ms(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn call(&mut self, outcome: Outcome) -> Result<(), Refusal> {
            let pass = self.breaker.admit(self.now)?;
            self.breaker.record(self.now, &pass, outcome);
            Ok(())
        }

        fn phase(&self) -> Phase {
            self.breaker.phase(self.now)
        }

        fn trip(&mut self) {
            while self.phase() == Phase::Closed {
                self.call(Outcome::Failed).expect("closed");
            }
        }
    }

    #[test]
    fn it_opens_when_half_of_enough_calls_have_failed_and_not_before() {
        let mut watched = Watched::new(SETTINGS);
        for outcome in [Outcome::Failed, Outcome::Failed, Outcome::Answered] {
            assert_eq!(watched.call(outcome), Ok(()));
        }
        assert_eq!(watched.phase(), Phase::Closed, "three calls are too few");
        for outcome in [Outcome::Answered, Outcome::Answered, Outcome::Answered, Outcome::Failed] {
            assert_eq!(watched.call(outcome), Ok(()));
        }
        assert_eq!(watched.phase(), Phase::Closed, "three of seven");
        assert_eq!(watched.call(Outcome::Failed), Ok(()));
        assert_eq!(watched.phase(), Phase::Open, "four of eight");
        watched.pass_ms(2_000);
        assert_eq!(watched.call(Outcome::Answered), Err(Refusal::Open { next_try: Duration::from_secs(3) }));
        assert_eq!(watched.breaker.in_state_for(watched.now), Duration::from_secs(2));
        assert_eq!(watched.breaker.trips(), 1);
    }

    #[test]
    fn failures_of_long_ago_do_not_count() {
        let mut watched = Watched::new(SETTINGS);
        for _ in 0..3 {
            assert_eq!(watched.call(Outcome::Failed), Ok(()));
        }
        watched.pass_ms(10_000);
        for _ in 0..3 {
            assert_eq!(watched.call(Outcome::Failed), Ok(()));
        }
        assert_eq!(watched.phase(), Phase::Closed);
        assert_eq!(watched.call(Outcome::Failed), Ok(()));
        assert_eq!(watched.phase(), Phase::Open);
    }

    #[test]
    fn one_probe_decides_and_the_open_time_doubles_up_to_its_most() {
        let mut watched = Watched::new(SETTINGS);
        watched.trip();
        for open_s in [5, 10, 20, 40, 60, 60] {
            assert_eq!(watched.breaker.open_for(), Duration::from_secs(open_s));
            watched.pass_ms(open_s * 1_000 - 1);
            assert_eq!(watched.call(Outcome::Answered), Err(Refusal::Open { next_try: Duration::from_millis(1) }));
            watched.pass_ms(1);
            assert_eq!(watched.phase(), Phase::HalfOpen);
            let probe = watched.breaker.admit(watched.now).expect("the time is over");
            assert_eq!(watched.call(Outcome::Answered), Err(Refusal::Probing), "one probe");
            watched.breaker.record(watched.now, &probe, Outcome::Failed);
            assert_eq!(watched.phase(), Phase::Open);
        }
        watched.pass_ms(60_000);
        assert_eq!(watched.call(Outcome::Answered), Ok(()));
        assert_eq!(watched.phase(), Phase::Closed);
        assert_eq!((watched.breaker.trips(), watched.breaker.probes()), (1, 7));
        // What failed before the trip is forgotten, and so is the long open time.
        watched.trip();
        assert_eq!((watched.breaker.trips(), watched.breaker.open_for()), (2, SETTINGS.open));
    }

    #[test]
    fn calls_from_before_a_trip_decide_nothing() {
        let mut watched = Watched::new(SETTINGS);
        let early: Vec<Pass> = (0..20).map(|_| watched.breaker.admit(watched.now).expect("closed")).collect();
        watched.trip();
        watched.breaker.record(watched.now, &early[0], Outcome::Answered);
        assert_eq!(watched.phase(), Phase::Open, "an answer from before does not close it");
        watched.pass_ms(5_000);
        let probe = watched.breaker.admit(watched.now).expect("the time is over");
        watched.breaker.record(watched.now, &early[1], Outcome::Failed);
        watched.breaker.record(watched.now, &early[2], Outcome::Answered);
        assert_eq!(watched.phase(), Phase::HalfOpen, "only the probe decides");
        watched.breaker.record(watched.now, &probe, Outcome::Answered);
        for pass in &early {
            watched.breaker.record(watched.now, pass, Outcome::Failed);
        }
        assert_eq!(watched.phase(), Phase::Closed);
    }

    #[test]
    fn a_probe_that_was_not_made_leaves_the_next_call_to_be_it() {
        let mut watched = Watched::new(SETTINGS);
        watched.trip();
        watched.pass_ms(5_000);
        let probe = watched.breaker.admit(watched.now).expect("the time is over");
        watched.breaker.withdraw(watched.now, &probe);
        assert_eq!((watched.phase(), watched.breaker.probes()), (Phase::HalfOpen, 0));
        assert_eq!(watched.call(Outcome::Answered), Ok(()));
        assert_eq!((watched.phase(), watched.breaker.probes()), (Phase::Closed, 1));
        let call = watched.breaker.admit(watched.now).expect("closed");
        watched.breaker.withdraw(watched.now, &call);
        assert_eq!(watched.phase(), Phase::Closed, "other calls may be withdrawn too");
    }

    #[test]
    fn switched_off_it_never_opens() {
        let mut watched = Watched::new(BreakerSettings { enabled: false, ..SETTINGS });
        for _ in 0..1_000 {
            assert_eq!(watched.call(Outcome::Failed), Ok(()));
        }
        assert_eq!((watched.phase(), watched.breaker.trips()), (Phase::Closed, 0));
    }

    /// The rules as one would tell them, over a list of all that happened.
    #[derive(Default)]
    struct Model {
        /// Calls that ended in this closed life, by step of the window.
        ended: Vec<(u64, Outcome)>,
        open_until_ms: Option<u64>,
        open_ms: u64,
        is_probing: bool,
    }

    impl Model {
        fn may_pass(&self, now_ms: u64) -> bool {
            !self.is_probing && self.open_until_ms.is_none_or(|until_ms| until_ms <= now_ms)
        }

        fn admit(&mut self) -> bool {
            self.is_probing = self.open_until_ms.is_some();
            self.is_probing
        }

        fn record(&mut self, now_ms: u64, is_probe: bool, outcome: Outcome, settings: &BreakerSettings) {
            let step = now_ms * STEPS as u64 / settings.window.as_millis() as u64;
            match (is_probe, outcome) {
                (true, Outcome::Answered) => *self = Self::default(),
                (true, Outcome::Failed) => {
                    self.open_ms = (self.open_ms * 2).min(settings.open_max.as_millis() as u64);
                    self.open_until_ms = Some(now_ms + self.open_ms);
                    self.is_probing = false;
                }
                (false, _) => {
                    self.ended.push((step, outcome));
                    let counted: Vec<Outcome> = self
                        .ended
                        .iter()
                        .filter(|(other, _)| other + STEPS as u64 > step)
                        .map(|(_, outcome)| *outcome)
                        .collect();
                    let failures = counted.iter().filter(|outcome| **outcome == Outcome::Failed).count();
                    if outcome == Outcome::Failed
                        && counted.len() >= settings.calls_min as usize
                        && failures as f64 >= settings.failures_max * counted.len() as f64
                    {
                        self.open_ms = settings.open.as_millis() as u64;
                        self.open_until_ms = Some(now_ms + self.open_ms);
                        self.ended.clear();
                    }
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Wait {
            ms: u64,
        },
        Begin,
        /// The one of those under way at this place, modulo their number.
        End {
            place: usize,
            outcome: Outcome,
        },
        Withdraw {
            place: usize,
        },
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let outcome = prop_oneof![Just(Outcome::Answered), Just(Outcome::Failed), Just(Outcome::Failed)];
        let event = prop_oneof![
            1 => (0u64..400).prop_map(|ms| Event::Wait { ms }),
            1 => (400u64..8_000).prop_map(|ms| Event::Wait { ms }),
            6 => Just(Event::Begin),
            6 => (any::<usize>(), outcome).prop_map(|(place, outcome)| Event::End { place, outcome }),
            1 => any::<usize>().prop_map(|place| Event::Withdraw { place }),
        ];
        prop::collection::vec(event, 0..400)
    }

    proptest! {
        /// Whatever happens: it lets through what the rules let through, one probe at a time, and never waits longer than it may.
        #[test]
        fn it_does_what_its_rules_say(events in events(), calls_min in 1u32..8, failures_max in 0.1f64..=1.0) {
            let settings = BreakerSettings {
                window: Duration::from_secs(2),
                calls_min,
                failures_max,
                open: Duration::from_millis(500),
                open_max: Duration::from_secs(3),
                ..SETTINGS
            };
            let mut watched = Watched::new(settings);
            let mut model = Model::default();
            let (mut now_ms, mut epoch) = (0, 0u64);
            // The pass, the epoch of the model it belongs to, and whether it is a probe.
            let mut under_way: Vec<(Pass, u64, bool)> = Vec::new();
            for event in events {
                match event {
                    Event::Wait { ms } => {
                        now_ms += ms;
                        watched.pass_ms(ms);
                    }
                    Event::Begin => {
                        let refusal = watched.breaker.refusal(watched.now);
                        prop_assert_eq!(refusal.is_none(), model.may_pass(now_ms));
                        match watched.breaker.admit(watched.now) {
                            Ok(pass) => {
                                prop_assert!(refusal.is_none());
                                let is_probe = model.admit();
                                prop_assert_eq!(watched.breaker.is_probe(&pass), is_probe);
                                epoch += u64::from(is_probe);
                                under_way.push((pass, epoch, is_probe));
                            }
                            Err(again) => {
                                prop_assert_eq!(Some(again), refusal);
                                if let Refusal::Open { next_try } = again {
                                    prop_assert!(!next_try.is_zero() && next_try <= settings.open_max);
                                }
                            }
                        }
                    }
                    Event::End { .. } | Event::Withdraw { .. } if under_way.is_empty() => {}
                    Event::End { place, outcome } => {
                        let (pass, of, is_probe) = under_way.swap_remove(place % under_way.len());
                        watched.breaker.record(watched.now, &pass, outcome);
                        if of == epoch {
                            let was_open = model.open_until_ms;
                            model.record(now_ms, is_probe, outcome, &settings);
                            epoch += u64::from(model.open_until_ms != was_open || is_probe);
                        }
                    }
                    Event::Withdraw { place } => {
                        let (pass, of, is_probe) = under_way.swap_remove(place % under_way.len());
                        watched.breaker.withdraw(watched.now, &pass);
                        if of == epoch && is_probe {
                            model.is_probing = false;
                            model.open_until_ms = Some(now_ms);
                            epoch += 1;
                        }
                    }
                }
                prop_assert!(under_way.iter().filter(|(pass, ..)| watched.breaker.is_probe(pass)).count() <= 1);
                let phase = match (model.open_until_ms, model.is_probing) {
                    (None, _) => Phase::Closed,
                    (Some(until_ms), false) if now_ms < until_ms => Phase::Open,
                    (Some(_), _) => Phase::HalfOpen,
                };
                prop_assert_eq!(watched.phase(), phase);
            }
        }
    }
}
