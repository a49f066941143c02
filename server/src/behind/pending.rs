//! What is pending for one loader: the last change of each key that its source does not have yet, in the order of their numbers.
//!
//! A later change of a key takes the place of the earlier one, also while that is being flushed: what was flushed is taken out by its
//! number only, so a newer change stays.

use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    by_key: HashMap<Bytes, Held>,
    by_number: BTreeMap<u64, Bytes>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    value: Option<Bytes>,
    /// When the first change of this key came that is not flushed.
    since: Instant,
}

/// A change that is to be flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) number: u64,
    pub(super) key: Bytes,
    pub(super) value: Option<Bytes>,
}

impl Pending {
    /// Holds a change with a number above all before it. Whether it takes the place of another.
    pub(super) fn put(&mut self, number: u64, key: Bytes, value: Option<Bytes>, now: Instant) -> bool {
        let earlier = self.by_key.get(&key).map(|held| (held.number, held.since));
        let since = earlier.map_or(now, |(_, since)| since);
        if let Some((number, _)) = earlier {
            self.by_number.remove(&number);
        }
        self.by_number.insert(number, key.clone());
        self.by_key.insert(key, Held { number, value, since });
        earlier.is_some()
    }

    /// The pending change of a key: its value, or `None` inside for a deletion.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.by_key.get(key).map(|held| &held.value)
    }

    /// Lets a change go, if no later one has taken its place. Whether it did.
    pub(super) fn remove(&mut self, number: u64, key: &[u8]) -> bool {
        let is_it = self.by_key.get(key).is_some_and(|held| held.number == number);
        if is_it {
            self.by_key.remove(key);
            self.by_number.remove(&number);
        }
        is_it
    }

    /// Whether another change of the key has come after this one.
    pub(super) fn is_later(&self, number: u64, key: &[u8]) -> bool {
        self.by_key.get(key).is_some_and(|held| held.number > number)
    }

    /// All changes, in the order of their numbers.
    pub(super) fn round(&self) -> Vec<Due> {
        let due = |(number, key): (&u64, &Bytes)| {
            let value = self.by_key.get(key).and_then(|held| held.value.clone());
            Due { number: *number, key: key.clone(), value }
        };
        self.by_number.iter().map(due).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The lowest number.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.by_number.keys().next().copied()
    }

    /// How many have numbers up to this one.
    pub(super) fn count_up_to(&self, number: u64) -> usize {
        self.by_number.range(..=number).count()
    }

    /// Since when the change with the lowest number is pending, or an earlier one of its key.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let (_, key) = self.by_number.first_key_value()?;
        self.by_key.get(key).map(|held| held.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_change_that_came_during_a_flush_stays() {
        let mut pending = Pending::default();
        let now = Instant::now();
        assert!(!pending.put(1, bytes("a"), Some(bytes("one")), now));
        assert!(!pending.put(2, bytes("b"), None, now));
        let round = pending.round();
        assert!(pending.put(3, bytes("a"), Some(bytes("two")), now));
        let left: Vec<bool> = round.iter().map(|due| pending.remove(due.number, &due.key)).collect();
        assert_eq!(left, [false, true]);
        assert_eq!(pending.get(b"a"), Some(&Some(bytes("two"))));
        assert_eq!((pending.get(b"b"), pending.len(), pending.lowest()), (None, 1, Some(3)));
    }

    #[test]
    fn rounds_are_in_the_order_of_numbers_with_the_last_value_of_each_key() {
        let mut pending = Pending::default();
        let now = Instant::now();
        for (number, key, value) in [(1, "a", "1"), (2, "b", "2"), (5, "c", "3"), (7, "a", "4")] {
            pending.put(number, bytes(key), Some(bytes(value)), now);
        }
        let round: Vec<(u64, Bytes)> = pending.round().into_iter().map(|due| (due.number, due.key)).collect();
        assert_eq!(round, [(2, bytes("b")), (5, bytes("c")), (7, bytes("a"))]);
        assert_eq!((pending.count_up_to(5), pending.count_up_to(1), pending.count_up_to(u64::MAX)), (2, 0, 3));
        assert_eq!(pending.oldest(), Some(now));
    }
}
