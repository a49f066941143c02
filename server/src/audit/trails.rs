//! What is remembered of keys: what became of them lately, and what comparisons have shown. So many keys, so many events of each; the key
//! that was begun first goes first, but for one under suspicion.

use bytes::Bytes;
use leasehold_keyspace::{Actor, ChangeKind, Db, KeyChange};
use std::collections::{HashMap, VecDeque};

/// Events that are kept of a key.
const EVENTS_MAX: usize = 16;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Changed(ChangeKind, Actor),
    /// It was compared.
    Same,
    Differs,
    Unknown,
}

/// An event, and when, in server time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) at_ms: u64,
    pub(super) event: Event,
}

/// The recent history of one key.
#[derive(Debug)]
pub(super) struct Trail {
    db: Db,
    key: Bytes,
    events: VecDeque<Noted>,
    /// The newest token that may have been given before the last change that revokes.
    revoked: u64,
    /// The version of the entry that was reported last: once is enough.
    pub(super) reported: Option<u64>,
    pub(super) is_suspect: bool,
}

impl Trail {
    pub(super) fn events(&self) -> impl Iterator<Item = &Noted> {
        self.events.iter()
    }

    /// Whether a client brought the value that was stored last; `None`: it is not known who did.
    pub(super) fn is_by_client(&self) -> Option<bool> {
        self.events.iter().rev().find_map(|noted| match noted.event {
            Event::Changed(ChangeKind::Filled | ChangeKind::Written, actor) => Some(actor == Actor::Client),
            _ => None,
        })
    }

    fn push(&mut self, noted: Noted) {
        // Of comparisons that show the same again and again the last says it all.
        if let Some(last) =
            self.events.back_mut().filter(|last| last.event == noted.event && noted.event == Event::Same)
        {
            *last = noted;
            return;
        }
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(noted);
    }
}

/// The trails of all keys that are known.
#[derive(Debug)]
pub(super) struct Trails {
    list: Vec<Trail>,
    places: HashMap<(Db, Bytes), usize>,
    most: usize,
    /// The next to go.
    hand: usize,
    /// The next to be compared again.
    cursor: usize,
}

impl Trails {
    pub(super) fn new(most: usize) -> Self {
        Self { list: Vec::new(), places: HashMap::new(), most: most.max(1), hand: 0, cursor: 0 }
    }

    /// Notes a change. Whether it is a fill that an earlier change should have prevented.
    pub(super) fn note_change(&mut self, change: &KeyChange) -> bool {
        let Some(trail) = self.enter(change.db, &change.key) else { return false };
        trail.push(Noted { at_ms: change.at_ms, event: Event::Changed(change.kind, change.actor) });
        match change.kind {
            ChangeKind::Filled => change.number <= trail.revoked,
            ChangeKind::Written | ChangeKind::Deleted | ChangeKind::Invalidated => {
                trail.revoked = change.number;
                false
            }
        }
    }

    /// Notes what a comparison has shown.
    pub(super) fn note(&mut self, db: Db, key: &Bytes, noted: Noted) {
        if let Some(trail) = self.enter(db, key) {
            trail.push(noted);
        }
    }

    pub(super) fn of(&self, db: Db, key: &Bytes) -> Option<&Trail> {
        self.list.get(*self.places.get(&(db, key.clone()))?)
    }

    pub(super) fn of_mut(&mut self, db: Db, key: &Bytes) -> Option<&mut Trail> {
        self.list.get_mut(*self.places.get(&(db, key.clone()))?)
    }

    /// One key after the other, round and round.
    pub(super) fn next_known(&mut self) -> Option<(Db, Bytes)> {
        let place = self.cursor % self.list.len().max(1);
        self.cursor = place + 1;
        self.list.get(place).map(|trail| (trail.db, trail.key.clone()))
    }

    /// What was reported may be reported again.
    pub(super) fn forget_reports(&mut self) {
        self.list.iter_mut().for_each(|trail| trail.reported = None);
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The trail of a key, begun if there is none; `None`: all others are under suspicion.
    fn enter(&mut self, db: Db, key: &Bytes) -> Option<&mut Trail> {
        let name = (db, key.clone());
        if let Some(&place) = self.places.get(&name) {
            return self.list.get_mut(place);
        }
        let trail =
            Trail { db, key: key.clone(), events: VecDeque::new(), revoked: 0, reported: None, is_suspect: false };
        let place = if self.list.len() < self.most {
            self.list.push(trail);
            self.list.len() - 1
        } else {
            let count = self.list.len();
            let place =
                (0..count).map(|step| (self.hand + step) % count).find(|&place| !self.list[place].is_suspect)?;
            let before = std::mem::replace(&mut self.list[place], trail);
            self.places.remove(&(before.db, before.key));
            self.hand = place + 1;
            place
        };
        self.places.insert(name, place);
        self.list.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &'static str, kind: ChangeKind, number: u64) -> KeyChange {
        let key = Bytes::from_static(key.as_bytes());
        KeyChange { db: Db(0), key, kind, actor: Actor::Client, at_ms: number, number }
    }

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn a_fill_by_a_token_from_before_a_change_is_told() {
        let mut trails = Trails::new(10);
        assert!(!trails.note_change(&change("a", ChangeKind::Filled, 5)));
        for kind in [ChangeKind::Written, ChangeKind::Deleted, ChangeKind::Invalidated] {
            assert!(!trails.note_change(&change("a", kind, 8)));
            assert!(trails.note_change(&change("a", ChangeKind::Filled, 8)), "{kind:?}");
            assert!(!trails.note_change(&change("a", ChangeKind::Filled, 9)), "{kind:?}");
            assert!(!trails.note_change(&change("b", ChangeKind::Filled, 7)), "of another key");
        }
    }

    #[test]
    fn so_many_keys_and_so_many_events_are_kept_and_suspects_stay() {
        let mut trails = Trails::new(2);
        for number in 0..100 {
            trails.note_change(&change("a", ChangeKind::Written, number));
        }
        let trail = trails.of(Db(0), &key("a")).expect("known");
        assert_eq!(trail.events().map(|noted| noted.at_ms).collect::<Vec<_>>(), (84..100).collect::<Vec<_>>());
        assert_eq!(trail.is_by_client(), Some(true));
        trails.of_mut(Db(0), &key("a")).expect("known").is_suspect = true;
        for name in ["b", "c", "d"] {
            trails.note(Db(0), &key(name), Noted { at_ms: 1, event: Event::Same });
        }
        assert!(trails.of(Db(0), &key("a")).is_some() && trails.of(Db(0), &key("d")).is_some());
        assert!(trails.of(Db(0), &key("b")).is_none() && trails.len() == 2);
        let known: Vec<_> = (0..4).filter_map(|_| trails.next_known()).map(|(_, key)| key).collect();
        assert_eq!(known, ["a", "d", "a", "d"]);
        trails.of_mut(Db(0), &key("d")).expect("known").is_suspect = true;
        trails.note(Db(0), &key("e"), Noted { at_ms: 1, event: Event::Same });
        assert!(trails.of(Db(0), &key("e")).is_none(), "all others are under suspicion");
    }

    #[test]
    fn the_same_again_and_again_is_one_event() {
        let mut trails = Trails::new(2);
        for (at_ms, event) in [(1, Event::Same), (2, Event::Same), (3, Event::Differs), (4, Event::Differs)] {
            trails.note(Db(0), &key("a"), Noted { at_ms, event });
        }
        let trail = trails.of(Db(0), &key("a")).expect("known");
        assert_eq!(trail.events().map(|noted| noted.at_ms).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(trail.is_by_client(), None);
    }
}
