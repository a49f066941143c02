//! What becomes of a key that is compared: found to differ, looked at again by the scales of time, reported or dropped.
//!
//! ```text
//!   sample ── same ─► consistent at every scale
//!     └ differs ─► suspicion (this version of the entry, since now) ── 1 s ─► same version, differs still: inconsistent ── 1 m ─► …
//!                                                                       └► other version, or gone: overtaken, at this scale and all after
//! ```
//!
//! So a scale counts an entry only if it was answered for so long although the source had said at the beginning and at the end that it is
//! something else. No clock, no keyspace and no source here: they are arguments and outcomes.

use bytes::Bytes;
use leasehold_keyspace::Db;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A key and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) loader: Arc<str>,
    pub(super) db: Db,
    pub(super) key: Bytes,
}

/// A key that is, or is to be, compared with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) subject: Subject,
    /// `None`: it has not been compared yet.
    pub(super) suspicion: Option<Suspicion>,
}

/// An entry that was not what the source had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// Of the entry.
    pub(super) version: u64,
    pub(super) since_ms: u64,
    /// The scale by which it is looked at next.
    pub(super) scale: usize,
}

/// What a comparison has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// The cache and the source said the same. Of this version of the entry.
    Same(u64),
    /// They did not.
    Differs(u64),
    /// Nothing that GET would answer as fresh, or it was replaced while the source was asked.
    Overtaken,
    /// The source did not say.
    Unknown,
}

/// What a comparison means for one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Consistent,
    Inconsistent,
    Overtaken,
    Unknown,
}

/// What follows from a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conclusion {
    /// By scale. At most one is inconsistent, the first; only then it is a violation.
    pub(super) verdicts: Vec<(usize, Verdict)>,
    /// To be looked at again.
    pub(super) next: Option<Suspicion>,
}

/// Concludes, with scales in ms that grow.
pub(super) fn conclude(suspicion: Option<Suspicion>, sight: Sight, now_ms: u64, scales_ms: &[u64]) -> Conclusion {
    let from = suspicion.map_or(0, |suspicion| suspicion.scale);
    let all =
        |verdict| Conclusion { verdicts: (from..scales_ms.len()).map(|scale| (scale, verdict)).collect(), next: None };
    match (suspicion, sight) {
        (None, Sight::Same(_)) => all(Verdict::Consistent),
        (None, Sight::Differs(version)) => {
            Conclusion { verdicts: Vec::new(), next: Some(Suspicion { version, since_ms: now_ms, scale: 0 }) }
        }
        (_, Sight::Overtaken) => all(Verdict::Overtaken),
        (None, Sight::Unknown) => all(Verdict::Unknown),
        (Some(before), Sight::Same(version) | Sight::Differs(version)) if version != before.version => {
            all(Verdict::Overtaken)
        }
        (Some(_), Sight::Same(_)) => all(Verdict::Consistent),
        (Some(before), Sight::Differs(_)) => go_on(before, Verdict::Inconsistent, scales_ms),
        (Some(before), Sight::Unknown) => go_on(before, Verdict::Unknown, scales_ms),
    }
}

fn go_on(before: Suspicion, verdict: Verdict, scales_ms: &[u64]) -> Conclusion {
    let scale = before.scale + 1;
    let next = (scale < scales_ms.len()).then_some(Suspicion { scale, ..before });
    Conclusion { verdicts: vec![(before.scale, verdict)], next }
}

/// Keys in work, each once: suspicions in the order in which they are due, and those that somebody has taken.
#[derive(Debug)]
pub(super) struct Cases {
    due: BTreeMap<(u64, u64), Case>,
    keys: HashSet<(Db, Bytes)>,
    number: u64,
    most: usize,
}

impl Cases {
    pub(super) fn new(most: usize) -> Self {
        Self { due: BTreeMap::new(), keys: HashSet::new(), number: 0, most }
    }

    /// Takes a key into work. `false`: it is already, or there are too many.
    pub(super) fn begin(&mut self, db: Db, key: &Bytes) -> bool {
        self.keys.len() < self.most && self.keys.insert((db, key.clone()))
    }

    pub(super) fn end(&mut self, db: Db, key: &Bytes) {
        self.keys.remove(&(db, key.clone()));
    }

    /// To be taken from `due_ms` on; its key is in work.
    pub(super) fn wait(&mut self, case: Case, due_ms: u64) {
        self.number += 1;
        self.due.insert((due_ms, self.number), case);
    }

    /// At most `most` of those whose time has come, the oldest first, that `accept` takes.
    pub(super) fn take_due(&mut self, now_ms: u64, most: usize, mut accept: impl FnMut(&Case) -> bool) -> Vec<Case> {
        let ripe = self.due.range(..=(now_ms, u64::MAX)).filter(|(_, case)| accept(case));
        let places: Vec<_> = ripe.take(most).map(|(place, _)| *place).collect();
        places.iter().filter_map(|place| self.due.remove(place)).collect()
    }

    /// Suspicions that wait.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALES_MS: &[u64] = &[1_000, 60_000];

    fn suspicion(scale: usize) -> Suspicion {
        Suspicion { version: 7, since_ms: 100, scale }
    }

    fn at(suspicion: Option<Suspicion>, sight: Sight) -> Conclusion {
        conclude(suspicion, sight, 100, SCALES_MS)
    }

    fn verdicts(conclusion: &Conclusion) -> &[(usize, Verdict)] {
        &conclusion.verdicts
    }

    #[test]
    fn what_is_the_same_at_once_is_consistent_by_every_scale() {
        let same = at(None, Sight::Same(7));
        assert_eq!(verdicts(&same), [(0, Verdict::Consistent), (1, Verdict::Consistent)]);
        assert_eq!(same.next, None);
    }

    #[test]
    fn a_difference_counts_only_once_it_has_lasted_and_then_at_each_scale() {
        let first = at(None, Sight::Differs(7));
        assert_eq!(first, Conclusion { verdicts: vec![], next: Some(suspicion(0)) });
        let second = at(first.next, Sight::Differs(7));
        assert_eq!(second, Conclusion { verdicts: vec![(0, Verdict::Inconsistent)], next: Some(suspicion(1)) });
        let third = at(second.next, Sight::Differs(7));
        assert_eq!(third, Conclusion { verdicts: vec![(1, Verdict::Inconsistent)], next: None });
    }

    #[test]
    fn another_entry_or_none_ends_the_suspicion_whatever_it_holds() {
        for sight in [Sight::Same(8), Sight::Differs(8), Sight::Overtaken] {
            let ended = at(Some(suspicion(0)), sight);
            assert_eq!(verdicts(&ended), [(0, Verdict::Overtaken), (1, Verdict::Overtaken)], "{sight:?}");
            assert_eq!(ended.next, None);
            assert_eq!(verdicts(&at(Some(suspicion(1)), sight)), [(1, Verdict::Overtaken)]);
        }
    }

    #[test]
    fn a_row_that_is_again_what_the_cache_has_is_consistent() {
        assert_eq!(verdicts(&at(Some(suspicion(1)), Sight::Same(7))), [(1, Verdict::Consistent)]);
    }

    #[test]
    fn a_source_that_does_not_say_is_no_violation_and_the_next_scale_asks_again() {
        assert_eq!(verdicts(&at(None, Sight::Unknown)), [(0, Verdict::Unknown), (1, Verdict::Unknown)]);
        let unknown = at(Some(suspicion(0)), Sight::Unknown);
        assert_eq!(unknown, Conclusion { verdicts: vec![(0, Verdict::Unknown)], next: Some(suspicion(1)) });
        assert_eq!(at(Some(suspicion(1)), Sight::Unknown).next, None);
    }

    #[test]
    fn suspicions_come_when_they_are_due_oldest_first_and_each_key_is_in_work_once() {
        let mut cases = Cases::new(3);
        let case = |name: &'static str| Case {
            subject: Subject { loader: "user".into(), db: Db(0), key: Bytes::from_static(name.as_bytes()) },
            suspicion: Some(suspicion(0)),
        };
        for (name, due_ms) in [("b", 20), ("a", 10), ("c", 10)] {
            let case = case(name);
            assert!(cases.begin(Db(0), &case.subject.key) && !cases.begin(Db(0), &case.subject.key));
            cases.wait(case, due_ms);
        }
        assert!(!cases.begin(Db(1), &Bytes::from_static(b"a")), "there are three");
        let names = |cases: Vec<Case>| cases.into_iter().map(|case| case.subject.key).collect::<Vec<_>>();
        assert_eq!(names(cases.take_due(9, 9, |_| true)), [""; 0]);
        assert_eq!(names(cases.take_due(20, 9, |case| case.subject.key != "c")), ["a", "b"]);
        assert_eq!(names(cases.take_due(20, 0, |_| true)), [""; 0]);
        assert_eq!(names(cases.take_due(20, 1, |_| true)), ["c"]);
        assert!(!cases.begin(Db(0), &Bytes::from_static(b"c")), "taken, and in work still");
        cases.end(Db(0), &Bytes::from_static(b"c"));
        assert!(cases.begin(Db(0), &Bytes::from_static(b"c")));
        assert_eq!(cases.len(), 0);
    }
}
