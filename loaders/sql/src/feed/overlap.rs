//! Which rows of a polled table are news: a row may be committed later than the time of change it carries.
//!
//! ```text
//! each look notes the largest time it has seen:   09:00:01   09:00:03   09:00:04 …
//! the next look asks from what was the largest one overlap ago, with ties, and drops what it has been told already
//! ```
//!
//! So nothing is compared with a clock of ours, or of the database, and times may be of any type that sorts.

use leasehold_loader_api::feed::KeyValues;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The largest time of change at some moment, as text; `None`: the table had no row.
pub(crate) type Mark = Option<String>;

/// What the looks of one overlap have seen.
pub(crate) struct Overlap {
    overlap: Duration,
    /// Oldest first; the first is at least one overlap old, or the very first.
    marks: VecDeque<(Instant, Mark)>,
    /// The time of change that each key was told with, and the look that saw it last.
    seen: HashMap<KeyValues, (String, u64)>,
    look: u64,
}

impl Overlap {
    pub(crate) fn new(overlap: Duration, now: Instant, mark: Mark) -> Self {
        Self { overlap, marks: [(now, mark)].into(), seen: HashMap::new(), look: 0 }
    }

    /// From where the next look must ask, this time included.
    pub(crate) fn from(&self) -> &Mark {
        &self.marks.front().expect("the first mark stays until there is one as old").1
    }

    /// Whether a row that a look has found is news.
    pub(crate) fn is_news(&mut self, key: KeyValues, updated: String) -> bool {
        let before = self.seen.insert(key, (updated.clone(), self.look));
        before.is_none_or(|(before, _)| before != updated)
    }

    /// The look is over; `mark` is the largest time there was.
    pub(crate) fn end_look(&mut self, now: Instant, mark: Mark) {
        // A row that was deleted takes the largest time with it.
        let last = self.marks.back().map(|(_, last)| last.clone()).unwrap_or_default();
        self.marks.push_back((now, mark.or(last)));
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.overlap) {
            self.marks.pop_front();
        }
        // What lies before the mark is not asked for again.
        let look = self.look;
        self.seen.retain(|_, (_, seen)| *seen == look);
        self.look += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> KeyValues {
        vec![Some(id.to_owned())]
    }

    fn mark(text: &str) -> Mark {
        Some(text.to_owned())
    }

    #[test]
    fn a_look_asks_from_the_time_of_one_overlap_ago() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut looks = Overlap::new(Duration::from_secs(10), start, mark("100"));
        for s in 1..=9 {
            looks.end_look(at(s), mark(&format!("{}", 100 + s)));
            assert_eq!(*looks.from(), mark("100"));
        }
        looks.end_look(at(11), mark("111"));
        assert_eq!(*looks.from(), mark("101"));
        looks.end_look(at(60), mark("111"));
        assert_eq!(*looks.from(), mark("111"));
    }

    #[test]
    fn a_row_is_told_once_for_each_of_its_times_and_a_late_one_is_told() {
        let start = Instant::now();
        let mut looks = Overlap::new(Duration::from_secs(10), start, None);
        assert!(looks.is_news(key("1"), "105".into()) && looks.is_news(key("2"), "105".into()), "a tie is two rows");
        looks.end_look(start, mark("105"));
        assert!(!looks.is_news(key("1"), "105".into()) && !looks.is_news(key("2"), "105".into()));
        assert!(looks.is_news(key("3"), "101".into()), "committed after a later one");
        looks.end_look(start, mark("105"));
        assert!(looks.is_news(key("1"), "106".into()) && !looks.is_news(key("3"), "101".into()));
        looks.end_look(start, mark("106"));
        assert_eq!(looks.seen.len(), 2, "what a look does not see is forgotten");
    }
}
