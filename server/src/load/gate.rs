//! What stands between a load or a write and its source: the breaker of its loader, and that of the source, which all its loaders
//! share.
//!
//! A database that cannot be reached opens both. One query that takes too long is its loader's trouble first: what such a loader
//! goes on to fail at once its own breaker has opened is not held against the source, whose other loaders may be quick.

use super::breaker::{Breaker, Outcome, Pass, Phase, Refusal};
use leasehold_loader_api::{BreakerSettings, LoadError, Loaded, Row, WriteError};
use leasehold_loader_sql::SourceSettings;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The way of one loader to its source.
pub(crate) struct Gate {
    loader: Arc<Guard>,
    source: Arc<Guard>,
}

/// A breaker that threads share, with what operators want to know of it.
pub(crate) struct Guard {
    /// `loader user` or `source main`.
    name: String,
    state: Mutex<Guarded>,
}

struct Guarded {
    breaker: Breaker,
    /// Of the last call that failed.
    error: String,
}

/// A call that was let through; see [`Gate::leave`].
#[must_use = "the breakers wait for the outcome"]
pub(crate) struct Entry {
    loader: Pass,
    source: Pass,
    since: Instant,
}

/// How a call ended, as far as it says something about the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Also by refusing a value, a query or a change.
    Answered,
    /// Not in time.
    TimedOut(String),
    Unavailable(String),
}

impl Gate {
    pub(crate) fn new(loader: impl Into<Arc<Guard>>, source: Arc<Guard>) -> Self {
        Self { loader: loader.into(), source }
    }

    /// The breaker of the loader itself.
    pub(crate) fn loader_guard(&self) -> Arc<Guard> {
        Arc::clone(&self.loader)
    }

    /// Why nothing may be asked now.
    pub(crate) fn refusal(&self, now: Instant) -> Option<String> {
        self.loader.refusal(now).or_else(|| self.source.refusal(now).map(|text| self.with_source(&text)))
    }

    /// Lets a call through that is made now, or says why not.
    pub(crate) fn enter(&self, now: Instant) -> Result<Entry, String> {
        let loader = self.loader.admit(now)?;
        match self.source.admit(now) {
            Ok(source) => Ok(Entry { loader, source, since: now }),
            Err(text) => {
                self.loader.change(now, |breaker| breaker.withdraw(now, &loader));
                Err(self.with_source(&text))
            }
        }
    }

    /// A call has ended, or is known to have failed while it runs on.
    pub(crate) fn leave(&self, now: Instant, entry: Entry, ending: &Ending) {
        let took = now.saturating_duration_since(entry.since);
        self.loader.record(now, &entry.loader, ending, took);
        let is_for_loader = matches!(ending, Ending::TimedOut(_)) && self.loader.phase(now) != Phase::Closed;
        if !is_for_loader || self.source.lock().breaker.is_probe(&entry.source) {
            self.source.record(now, &entry.source, ending, took);
        }
    }

    /// `open` or `half-open`, if one of the breakers is.
    pub(crate) fn trouble(&self, now: Instant) -> Option<&'static str> {
        let phases = [self.loader.phase(now), self.source.phase(now)];
        [Phase::Open, Phase::HalfOpen].into_iter().find(|phase| phases.contains(phase)).map(Phase::word)
    }

    /// The state of the source's own breaker.
    pub(crate) fn source_state(&self, now: Instant) -> &'static str {
        self.source.phase(now).word()
    }

    /// For `LOADER STATS`.
    pub(crate) fn counters(&self, now: Instant) -> [(&'static str, i64); 6] {
        let (loader, source) = (&self.loader.lock().breaker, &self.source.lock().breaker);
        let ms = |breaker: &Breaker| breaker.in_state_for(now).as_millis() as i64;
        [
            ("breaker_trips", loader.trips() as i64),
            ("breaker_probes", loader.probes() as i64),
            ("breaker_state_ms", ms(loader)),
            ("source_breaker_trips", source.trips() as i64),
            ("source_breaker_probes", source.probes() as i64),
            ("source_breaker_state_ms", ms(source)),
        ]
    }

    fn with_source(&self, text: &str) -> String {
        format!("{text} ({})", self.source.name)
    }
}

impl Guard {
    pub(crate) fn new(kind: &str, name: &str, settings: BreakerSettings) -> Self {
        let breaker = Breaker::new(settings, Instant::now());
        Self { name: format!("{kind} {name}"), state: Mutex::new(Guarded { breaker, error: String::new() }) }
    }

    /// The breaker that all loaders of a source share.
    pub(crate) fn of_source(source: &SourceSettings) -> Self {
        Self::new("source", &source.name, source.breaker)
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self, now: Instant) -> Phase {
        self.lock().breaker.phase(now)
    }

    fn refusal(&self, now: Instant) -> Option<String> {
        let state = self.lock();
        state.breaker.refusal(now).map(|refusal| state.text(refusal, now))
    }

    fn admit(&self, now: Instant) -> Result<Pass, String> {
        let admitted = self.change(now, |breaker| breaker.admit(now));
        admitted.map_err(|refusal| self.lock().text(refusal, now))
    }

    fn record(&self, now: Instant, pass: &Pass, ending: &Ending, took: Duration) {
        let slow = self.lock().breaker.settings().slow;
        let error = match ending {
            Ending::TimedOut(error) | Ending::Unavailable(error) => Some(error.clone()),
            Ending::Answered if !slow.is_zero() && took >= slow => Some(format!("it took {} ms", took.as_millis())),
            Ending::Answered => None,
        };
        let outcome = if error.is_some() { Outcome::Failed } else { Outcome::Answered };
        if let Some(error) = error {
            self.lock().error = error;
        }
        self.change(now, |breaker| breaker.record(now, pass, outcome));
    }

    /// Does something to the breaker, and tells the log if that changed its state.
    fn change<R>(&self, now: Instant, event: impl FnOnce(&mut Breaker) -> R) -> R {
        let mut state = self.lock();
        let before = state.breaker.life();
        let result = event(&mut state.breaker);
        if state.breaker.life() != before {
            let breaker = &state.breaker;
            let (name, trips, open_ms) = (&self.name, breaker.trips(), breaker.open_for().as_millis() as u64);
            match breaker.phase(now) {
                Phase::Open => tracing::warn!(of = name, trips, open_ms, error = state.error, "a breaker opened"),
                Phase::HalfOpen => tracing::info!(of = name, "a breaker is half-open: one call tries"),
                Phase::Closed => tracing::info!(of = name, "a breaker closed: the source is asked again"),
            }
        }
        result
    }
}

impl Guarded {
    fn text(&self, refusal: Refusal, now: Instant) -> String {
        let Self { breaker, error } = self;
        match refusal {
            // Rounded up: who comes back after that is let through.
            Refusal::Open { next_try } => {
                let ms = next_try.as_micros().div_ceil(1_000);
                format!("breaker {}: {error}, next try in {ms} ms", breaker.phase(now).word())
            }
            Refusal::Probing => format!("breaker {}: {error}, one call tries now", breaker.phase(now).word()),
        }
    }
}

impl Ending {
    /// What the answers to one call say. A single one that the source made shows that it is there.
    pub(crate) fn of(answers: &[Loaded]) -> Self {
        let is_transient = |answer: &Loaded| answer.as_ref().is_err_and(LoadError::is_transient);
        // A key that no row can have is absent without a query.
        let is_made = |answer: &Loaded| !is_transient(answer) && !matches!(answer, Ok(Row::Absent));
        if answers.iter().any(is_made) {
            return Self::Answered;
        }
        match answers.iter().find(|answer| is_transient(answer)) {
            Some(Err(error @ LoadError::Timeout(_))) => Self::TimedOut(error.to_string()),
            Some(Err(error)) => Self::Unavailable(error.to_string()),
            _ => Self::Answered,
        }
    }

    /// What the answer to a write says. A source that takes no change now, as its disk is full or it is a standby, goes on being
    /// read.
    pub(crate) fn of_write<T>(written: &Result<T, WriteError>) -> Self {
        match written {
            Ok(_) | Err(WriteError::Refused(_) | WriteError::Blocked(_)) => Self::Answered,
            Err(error @ WriteError::TimedOut(_)) => Self::TimedOut(error.to_string()),
            Err(error @ (WriteError::Unavailable(_) | WriteError::Unknown(_))) => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const SETTINGS: BreakerSettings = BreakerSettings {
        enabled: true,
        window: Duration::from_secs(10),
        calls_min: 4,
        failures_max: 0.5,
        slow: Duration::ZERO,
        open: Duration::from_secs(5),
        open_max: Duration::from_secs(60),
    };

    fn gates<const N: usize>(settings: BreakerSettings) -> [Gate; N] {
        let source = Arc::new(Guard::new("source", "main", settings));
        std::array::from_fn(|index| {
            Gate::new(Guard::new("loader", &format!("l{index}"), settings), Arc::clone(&source))
        })
    }

    fn call(gate: &Gate, now: Instant, ending: &Ending) -> Result<(), String> {
        let entry = gate.enter(now)?;
        gate.leave(now, entry, ending);
        Ok(())
    }

    fn unavailable() -> Ending {
        Ending::Unavailable("gone".to_owned())
    }

    fn timed_out() -> Ending {
        Ending::TimedOut("no answer within 1 ms".to_owned())
    }

    #[test]
    fn a_source_that_cannot_be_reached_is_left_alone_by_all_its_loaders() {
        let [one, other] = gates(SETTINGS);
        let now = Instant::now();
        for gate in [&one, &other, &one, &other] {
            assert_eq!(gate.refusal(now), None);
            assert_eq!(call(gate, now, &unavailable()), Ok(()));
        }
        for gate in [&one, &other] {
            let text = gate.refusal(now).expect("the source's breaker is open");
            assert_eq!(text, "breaker open: gone, next try in 5000 ms (source main)");
            assert_eq!(gate.enter(now).err(), Some(text));
            assert_eq!((gate.trouble(now), gate.source_state(now)), (Some("open"), "open"));
        }
        let later = now + SETTINGS.open;
        let probe = one.enter(later).expect("the time is over");
        assert_eq!(other.refusal(later).as_deref(), Some("breaker half-open: gone, one call tries now (source main)"));
        one.leave(later, probe, &Ending::Answered);
        assert_eq!((other.refusal(later), other.trouble(later)), (None, None));
    }

    #[test]
    fn a_slow_query_closes_the_way_of_its_loader_only() {
        let [slow, quick] = gates(SETTINGS);
        let now = Instant::now();
        // All of them are under way when the first come back.
        let entries: Vec<Entry> = (0..40).map(|_| slow.enter(now).expect("closed")).collect();
        for entry in entries {
            slow.leave(now, entry, &timed_out());
        }
        assert_eq!(slow.refusal(now).as_deref(), Some("breaker open: no answer within 1 ms, next try in 5000 ms"));
        for _ in 0..100 {
            assert_eq!(call(&quick, now, &Ending::Answered), Ok(()));
        }
        assert_eq!((quick.trouble(now), quick.source_state(now)), (None, "closed"));
    }

    #[test]
    fn a_probe_that_the_source_refuses_is_no_probe_of_the_loader() {
        let [one, other] = gates(SETTINGS);
        let now = Instant::now();
        (0..4).for_each(|_| assert_eq!(call(&one, now, &unavailable()), Ok(())));
        let later = now + SETTINGS.open;
        let probe = other.enter(later).expect("its own breaker is closed, the source's half-open");
        assert!(one.enter(later).is_err());
        other.leave(later, probe, &Ending::Answered);
        assert_eq!(one.trouble(later), Some("half-open"));
        assert_eq!(call(&one, later, &Ending::Answered), Ok(()));
        assert_eq!(one.trouble(later), None);
    }

    #[test]
    fn who_is_slower_than_allowed_has_failed_though_it_answered() {
        let [gate] = gates(BreakerSettings { slow: Duration::from_millis(100), ..SETTINGS });
        let now = Instant::now();
        let later = now + Duration::from_millis(100);
        for _ in 0..4 {
            let entry = gate.enter(now).expect("closed");
            gate.leave(later, entry, &Ending::Answered);
        }
        let text = gate.refusal(later).expect("open");
        assert_eq!(text, "breaker open: it took 100 ms, next try in 5000 ms");
    }

    #[test]
    fn what_the_source_refuses_is_an_answer_and_what_it_does_not_say_is_none() {
        let lost = || Err(LoadError::Unavailable("lost".to_owned()));
        let late = || Err(LoadError::Timeout(Duration::from_millis(5)));
        let refused = || Err(LoadError::Rejected("bad value".to_owned()));
        let row = || Ok(Row::Value { value: Bytes::from_static(b"v"), version: None, tags: Vec::new() });
        for (answers, ending) in [
            (vec![], Ending::Answered),
            (vec![Ok(Row::Absent)], Ending::Answered),
            (vec![refused()], Ending::Answered),
            (vec![Err(LoadError::TooLarge { bytes: 2, bytes_max: 1 })], Ending::Answered),
            (vec![lost(), refused()], Ending::Answered),
            (vec![lost(), row()], Ending::Answered),
            (vec![Ok(Row::Absent), lost()], Ending::Unavailable("source unavailable: lost".to_owned())),
            (vec![late(), lost()], Ending::TimedOut("no answer within 5 ms".to_owned())),
        ] {
            assert_eq!(Ending::of(&answers), ending, "{answers:?}");
        }
    }

    #[test]
    fn what_the_source_says_to_a_write_is_an_answer_whatever_it_says() {
        let text = || "why".to_owned();
        for (written, ending) in [
            (Ok(()), Ending::Answered),
            (Err(WriteError::Refused(text())), Ending::Answered),
            (Err(WriteError::Blocked(text())), Ending::Answered),
            (Err(WriteError::TimedOut(Duration::from_millis(5))), Ending::TimedOut("no answer within 5 ms".to_owned())),
            (Err(WriteError::Unavailable(text())), Ending::Unavailable("source unavailable: why".to_owned())),
            (Err(WriteError::Unknown(text())), Ending::Unavailable("lost while it committed: why".to_owned())),
        ] {
            assert_eq!(Ending::of_write(&written), ending, "{written:?}");
        }
    }
}
