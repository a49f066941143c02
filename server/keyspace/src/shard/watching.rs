//! What a shard notes of hits, misses and writes for operators. All but a comparison is off the path of an ordinary one.

use super::Shard;
use crate::entry::Key;
use crate::log::{EntryView, Location};
use crate::watch::sizes::Sized;
use crate::watch::stream::{Event, EventKind};

impl Shard {
    /// Counts a hit on an entry.
    #[inline]
    pub(crate) fn count_hit(&mut self, key: &Key<'_>, location: Location, now_ms: u64) {
        self.reads.hits += 1;
        if self.reads.hits >= self.reads.hit_looked_at {
            self.look_at_hit(key, location, now_ms);
        }
    }

    /// Counts a miss.
    #[inline]
    pub(crate) fn count_miss(&mut self, key: &Key<'_>, now_ms: u64) {
        self.reads.misses += 1;
        if self.reads.misses >= self.reads.miss_looked_at {
            self.look_at_miss(key, now_ms);
        }
    }

    /// Tells the streams of a key that was just stored.
    #[inline]
    pub(super) fn note_stored(&mut self, key: &Key<'_>, location: Location) {
        if key.hash < self.watch.streamed_below {
            self.stream(EventKind::Store, key, Some(location));
        }
    }

    /// The value of an entry has another length from now on.
    #[inline]
    pub(super) fn note_length(&mut self, key: &Key<'_>, len_before: usize, len: usize) {
        self.watch.sizes.change(&sized(key), len_before, len);
    }

    /// From now on every event on a key with a smaller hash is told to the streams.
    pub(crate) fn set_streamed_below(&mut self, streamed_below: u64) {
        self.watch.streamed_below = streamed_below;
        self.note_next_look();
    }

    /// Hits and misses are counted from 0 again.
    pub(crate) fn restart_samples(&mut self) {
        self.watch.hits.restart();
        self.watch.misses.restart();
        self.note_next_look();
    }

    #[cold]
    fn look_at_hit(&mut self, key: &Key<'_>, location: Location, now_ms: u64) {
        if let Some(weight) = self.watch.hits.take(self.reads.hits, now_ms) {
            self.watch.hot.note(key.hash, weight, now_ms);
            self.watch.observers.attribution.note(key, true, weight);
            let value_len = self.entry(location).value_len();
            self.watch.sizes.offer(&sized(key), value_len);
        }
        if key.hash < self.watch.streamed_below {
            self.stream(EventKind::Hit, key, Some(location));
        }
        self.note_next_look();
    }

    #[cold]
    fn look_at_miss(&mut self, key: &Key<'_>, now_ms: u64) {
        if let Some(weight) = self.watch.misses.take(self.reads.misses, now_ms) {
            self.watch.observers.attribution.note(key, false, weight);
        }
        if key.hash < self.watch.streamed_below {
            self.stream(EventKind::Miss, key, None);
        }
        self.note_next_look();
    }

    #[cold]
    fn stream(&self, kind: EventKind, key: &Key<'_>, location: Option<Location>) {
        let (mut weight, mut len) = (0, 0);
        if let Some(entry) = location.map(|location| self.entry(location)) {
            weight = u32::try_from(self.log.weight(&entry)).unwrap_or(u32::MAX);
            len = u32::try_from(entry.key_len() + entry.value_len()).unwrap_or(u32::MAX);
        }
        self.watch.observers.streams.push(Event { kind, hash: key.hash, weight, len });
    }

    /// While there are streams, every hit and miss is looked at, to see whether its key is among theirs.
    fn note_next_look(&mut self) {
        let next = |due: u64| if self.watch.streamed_below > 0 { 0 } else { due };
        self.reads.hit_looked_at = next(self.watch.hits.due);
        self.reads.miss_looked_at = next(self.watch.misses.due);
    }
}

pub(super) fn sized(key: &Key<'_>) -> Sized {
    Sized { db: key.db, hash: key.hash, key_len: key.bytes.len() }
}

/// As [`sized`], of an entry with this hash.
pub(super) fn sized_entry(entry: &EntryView<'_>, hash: u64) -> Sized {
    Sized { db: entry.db(), hash, key_len: entry.key_len() }
}
