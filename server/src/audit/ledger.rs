//! What operators are shown: of each loader how many of its entries were what the source had, by scales of time, and the last
//! violations with what led to them. Values are not kept unless somebody asked for that, as they may be secret; a digest says
//! whether two of them are the same, in this process only.

use super::cases::Verdict;
use super::trails::{Event, Noted};
use bytes::Bytes;
use leasehold_command::{AuditView, ViolationView};
use leasehold_keyspace::{Actor, ChangeKind};
use std::collections::VecDeque;
use std::sync::Arc;

/// Longer values are not shown whatever was asked for, in bytes.
pub(super) const SHOWN_BYTES_MAX: usize = 64;

/// Why the cache and the source may differ, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A load from before an invalidation was stored after it: the lease promise is broken, by a bug of the server.
    StaleSet,
    /// A client brought the value, and not a load.
    Written,
    /// A load brought the value, and a feed that covers the loader has not told of the change.
    FeedLate,
    /// A load brought the value, and nothing tells this server of changes: it may be so old, up to its TTL.
    Untold,
}

impl Class {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::StaleSet => "stale-set",
            Self::Written => "written",
            Self::FeedLate => "feed-late",
            Self::Untold => "untold",
        }
    }
}

/// What the cache, or the source, had; `None`: no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) len: usize,
    pub(super) digest: u64,
    /// Only if it is to be shown.
    pub(super) value: Option<Bytes>,
    /// The external version.
    pub(super) version: Option<u64>,
}

/// What a violation is reported with.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub(super) cached: Option<Side>,
    pub(super) source: Option<Side>,
    /// Fresh life that is left, in ms.
    pub(super) ttl_ms: Option<u64>,
    /// Of the entry, internal.
    pub(super) version: u64,
    pub(super) is_filled: bool,
}

/// An entry that was not what it should have been.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) number: u64,
    pub(super) loader: Arc<str>,
    pub(super) db: u8,
    pub(super) key: Bytes,
    pub(super) class: Class,
    /// `1s`; empty where the source was not even asked.
    pub(super) after: String,
    pub(super) at_ms: u64,
    /// When the difference was first seen.
    pub(super) since_ms: u64,
    pub(super) evidence: Option<Evidence>,
    pub(super) history: Vec<Noted>,
}

/// Counts of one loader.
#[derive(Debug)]
struct Tally {
    loader: Arc<str>,
    compared: u64,
    stale_sets: u64,
    /// By scale.
    scales: Vec<ScaleTally>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ScaleTally {
    consistent: u64,
    inconsistent: u64,
    overtaken: u64,
    unknown: u64,
}

impl ScaleTally {
    /// The share of those that were compared that is consistent.
    fn consistency(&self) -> String {
        let known = self.consistent + self.inconsistent;
        if known == 0 {
            return "unknown".to_owned();
        }
        // Rounded down: only without any violation it is 100 %.
        let millionths = (u128::from(self.consistent) * 100_000_000 / u128::from(known)) as u64;
        format!("{}.{:06}%", millionths / 1_000_000, millionths % 1_000_000)
    }
}

/// All that is counted and kept.
#[derive(Debug)]
pub(super) struct Ledger {
    /// How each scale is called.
    scales: Vec<String>,
    tallies: Vec<Tally>,
    violations: VecDeque<Violation>,
    violations_max: usize,
    violations_told: u64,
}

impl Ledger {
    pub(super) fn new(scales: Vec<String>, violations_max: usize) -> Self {
        Self { scales, tallies: Vec::new(), violations: VecDeque::new(), violations_max, violations_told: 0 }
    }

    pub(super) fn scale_name(&self, scale: usize) -> &str {
        self.scales.get(scale).map_or("", String::as_str)
    }

    /// Shows a loader though nothing is counted of it yet.
    pub(super) fn enter(&mut self, loader: &Arc<str>) {
        self.tally(loader);
    }

    pub(super) fn count_compared(&mut self, loader: &Arc<str>) {
        self.tally(loader).compared += 1;
    }

    pub(super) fn count(&mut self, loader: &Arc<str>, scale: usize, verdict: Verdict) {
        let Some(tally) = self.tally(loader).scales.get_mut(scale) else { return };
        *match verdict {
            Verdict::Consistent => &mut tally.consistent,
            Verdict::Inconsistent => &mut tally.inconsistent,
            Verdict::Overtaken => &mut tally.overtaken,
            Verdict::Unknown => &mut tally.unknown,
        } += 1;
    }

    /// Keeps a violation, and gives it its number.
    pub(super) fn report(&mut self, mut violation: Violation) {
        if violation.class == Class::StaleSet {
            self.tally(&violation.loader).stale_sets += 1;
        }
        self.violations_told += 1;
        violation.number = self.violations_told;
        if self.violations.len() == self.violations_max {
            self.violations.pop_front();
        }
        self.violations.push_back(violation);
    }

    /// Forgets all that was counted and kept; the numbers of violations go on.
    pub(super) fn reset(&mut self) {
        self.violations.clear();
        for tally in &mut self.tallies {
            (tally.compared, tally.stale_sets) = (0, 0);
            tally.scales.fill(ScaleTally::default());
        }
    }

    /// In the order in which the loaders were entered.
    pub(super) fn views(&self) -> Vec<AuditView> {
        self.tallies.iter().map(|tally| self.view(tally)).collect()
    }

    fn view(&self, tally: &Tally) -> AuditView {
        let mut counters =
            vec![("compared".to_owned(), tally.compared as i64), ("stale_sets".to_owned(), tally.stale_sets as i64)];
        let mut texts = Vec::new();
        for (name, scale) in self.scales.iter().zip(&tally.scales) {
            texts.push((format!("consistency_{name}"), scale.consistency()));
            for (word, count) in [
                ("consistent", scale.consistent),
                ("inconsistent", scale.inconsistent),
                ("overtaken", scale.overtaken),
                ("unknown", scale.unknown),
            ] {
                counters.push((format!("{word}_{name}"), count as i64));
            }
        }
        AuditView { loader: tally.loader.to_string(), texts, counters }
    }

    /// The newest first; names of feeds by their places.
    pub(super) fn violations(&self, feed: impl Fn(u32) -> String) -> Vec<ViolationView> {
        self.violations.iter().rev().map(|violation| violation.view(&feed)).collect()
    }

    fn tally(&mut self, loader: &Arc<str>) -> &mut Tally {
        let place = self.tallies.iter().position(|tally| tally.loader == *loader);
        let place = place.unwrap_or_else(|| {
            let scales = vec![ScaleTally::default(); self.scales.len()];
            self.tallies.push(Tally { loader: Arc::clone(loader), compared: 0, stale_sets: 0, scales });
            self.tallies.len() - 1
        });
        &mut self.tallies[place]
    }
}

impl Violation {
    pub(super) fn view(&self, feed: impl Fn(u32) -> String) -> ViolationView {
        let evidence = self.evidence.as_ref();
        let len = |side: Option<&Side>| side.map_or(-1, |side| side.len as i64);
        let version = |side: Option<&Side>| side.and_then(|side| side.version).map_or(-1, |version| version as i64);
        let (cached, source) = (evidence.and_then(|of| of.cached.as_ref()), evidence.and_then(|of| of.source.as_ref()));
        let digest = |side: Option<&Side>| side.map_or(String::new(), |side| format!("{:016x}", side.digest));
        let value = |side: Option<&Side>| side.and_then(|side| side.value.clone());
        ViolationView {
            loader: self.loader.to_string(),
            key: self.key.clone(),
            texts: vec![
                ("class", self.class.word().to_owned()),
                ("after", self.after.clone()),
                ("cached_digest", digest(cached)),
                ("source_digest", digest(source)),
            ],
            numbers: vec![
                ("number", self.number as i64),
                ("db", self.db.into()),
                ("at_ms", self.at_ms as i64),
                ("since_ms", self.since_ms as i64),
                ("version", evidence.map_or(-1, |evidence| evidence.version as i64)),
                ("ttl_ms", evidence.and_then(|evidence| evidence.ttl_ms).map_or(-1, |ttl_ms| ttl_ms as i64)),
                ("cached_bytes", len(cached)),
                ("cached_version", version(cached)),
                ("source_bytes", len(source)),
                ("source_version", version(source)),
            ],
            cached_value: value(cached),
            source_value: value(source),
            history: self.history.iter().map(|noted| line(noted, &feed)).collect(),
        }
    }
}

/// `1732233600123 filled by a load`.
fn line(noted: &Noted, feed: impl Fn(u32) -> String) -> String {
    let what = match noted.event {
        Event::Changed(kind, actor) => {
            let done = match kind {
                ChangeKind::Filled => "filled",
                ChangeKind::Written => "written",
                ChangeKind::Deleted => "deleted",
                ChangeKind::Invalidated => "invalidated",
            };
            let by = match actor {
                Actor::Client => "a client".to_owned(),
                Actor::Load => "a load".to_owned(),
                Actor::Refresh => "a refresh".to_owned(),
                Actor::Warm => "LOADER WARM".to_owned(),
                Actor::Write => "a write to the source".to_owned(),
                Actor::Feed(place) => format!("feed {}", feed(place)),
            };
            format!("{done} by {by}")
        }
        Event::Same => "compared: the same".to_owned(),
        Event::Differs => "compared: differs".to_owned(),
        Event::Unknown => "compared: the source does not say".to_owned(),
    };
    format!("{} {what}", noted.at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loader() -> Arc<str> {
        "user".into()
    }

    fn violation(class: Class) -> Violation {
        Violation {
            number: 0,
            loader: loader(),
            db: 0,
            key: Bytes::from_static(b"user:1"),
            class,
            after: "1s".to_owned(),
            at_ms: 2_000,
            since_ms: 1_000,
            evidence: None,
            history: vec![
                Noted { at_ms: 900, event: Event::Changed(ChangeKind::Invalidated, Actor::Feed(0)) },
                Noted { at_ms: 1_000, event: Event::Differs },
            ],
        }
    }

    #[test]
    fn a_share_is_rounded_down_so_that_only_no_violation_is_all() {
        let share =
            |consistent, inconsistent| ScaleTally { consistent, inconsistent, overtaken: 5, unknown: 5 }.consistency();
        assert_eq!(share(0, 0), "unknown");
        assert_eq!(share(7, 0), "100.000000%");
        assert_eq!(share(999_999_999, 1), "99.999999%");
        assert_eq!(share(2, 1), "66.666666%");
        assert_eq!(share(0, 3), "0.000000%");
    }

    #[test]
    fn the_last_violations_are_kept_newest_first_with_what_led_to_them() {
        let mut ledger = Ledger::new(vec!["1s".to_owned()], 2);
        for class in [Class::Untold, Class::Written, Class::StaleSet] {
            ledger.report(violation(class));
        }
        let views = ledger.violations(|_| "users".to_owned());
        let numbers: Vec<i64> = views.iter().map(|view| view.numbers[0].1).collect();
        assert_eq!(numbers, [3, 2]);
        assert_eq!(views[0].texts[0], ("class", "stale-set".to_owned()));
        assert_eq!(views[0].history, ["900 invalidated by feed users", "1000 compared: differs"]);
        assert_eq!(ledger.views()[0].counters[1], ("stale_sets".to_owned(), 1));
        ledger.reset();
        assert!(ledger.violations(|_| String::new()).is_empty());
        assert_eq!(ledger.views()[0].counters[1].1, 0);
    }

    #[test]
    fn each_scale_is_counted_for_itself() {
        let mut ledger = Ledger::new(vec!["1s".to_owned(), "1m".to_owned()], 2);
        ledger.count_compared(&loader());
        ledger.count(&loader(), 0, Verdict::Inconsistent);
        ledger.count(&loader(), 1, Verdict::Overtaken);
        ledger.count(&loader(), 2, Verdict::Overtaken);
        let view = ledger.views().remove(0);
        let counted: Vec<_> =
            view.counters.iter().filter(|(_, count)| *count > 0).map(|(name, _)| name.as_str()).collect();
        assert_eq!(counted, ["compared", "inconsistent_1s", "overtaken_1m"]);
        assert_eq!(view.texts[0], ("consistency_1s".to_owned(), "0.000000%".to_owned()));
    }
}
