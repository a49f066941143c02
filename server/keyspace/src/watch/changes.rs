//! What changes keys, one after the other: for who compares the cache with the sources, and shows the history of a key that differs.
//!
//! ```text
//!     shard ── write, deletion, invalidation, fill of a key in the window ─► queue (bounded) ─► auditor
//! ```
//!
//! The window is a part of the hashes, so of the keys in it all is told, in the order in which it happened to each, until the queue is
//! full: then changes are dropped and counted. Not told: what a bump of a tag or a prefix makes stale, which touches no key, and
//! what expiry and eviction take, which say nothing about the source. Reads never come here; without a window nobody does.

use crate::entry::Key;
use crate::keyspace::Keyspace;
use crate::settings::Db;
use crate::shard::Shard;
use crate::turn::Actor;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Changes that wait for the auditor: at most 3 MiB with the longest keys.
pub const CHANGES_MAX: usize = 4096;

/// Changes of longer keys are not told, in bytes.
pub const CHANGED_KEY_BYTES_MAX: usize = 512;

/// Which keys are told of: those whose hash is less than `width` past `start`, around the end if need be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashWindow {
    /// The first hash.
    pub start: u64,
    /// How many hashes; 0: none.
    pub width: u64,
}

impl HashWindow {
    /// No key at all.
    pub const NONE: Self = Self { start: 0, width: 0 };

    #[inline]
    fn holds(self, hash: u64) -> bool {
        hash.wrapping_sub(self.start) < self.width
    }
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The holder of a lease brought its value, or that there is none.
    Filled,
    /// A value was written, whatever was there.
    Written,
    /// It was deleted, or is known to be nowhere.
    Deleted,
    /// What was there is stale.
    Invalidated,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Database of the key.
    pub db: Db,
    /// The key.
    pub key: Bytes,
    /// What became of it.
    pub kind: ChangeKind,
    /// By whom.
    pub actor: Actor,
    /// When, in server time.
    pub at_ms: u64,
    /// Of a fill its token; else the newest token that may have been given before. So a fill with a number up to that of an earlier change
    /// is one that the change should have prevented.
    pub number: u64,
}

/// What waits for the auditor.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<KeyChange>,
    dropped: u64,
}

impl Changes {
    fn push(&self, change: KeyChange) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.changes.len() < CHANGES_MAX {
            queue.changes.push_back(change);
        } else {
            queue.dropped += 1;
        }
    }

    /// Bytes of the queue, without the keys.
    pub(crate) fn bytes(&self) -> usize {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.changes.capacity() * size_of::<KeyChange>()
    }
}

impl Shard {
    /// Tells the auditor of a change other than a fill, if it asked for this key, and who holds copies of it. Under the lock, before any token is given
    /// after it.
    #[inline]
    pub(crate) fn note_change(&mut self, key: &Key<'_>, kind: ChangeKind, actor: Actor, at_ms: u64) {
        self.recall(key);
        if self.watch.audited.holds(key.hash) {
            self.tell_change(key, kind, actor, at_ms, self.versions.last());
        }
    }

    /// As [`Shard::note_change`], for the fill of a token.
    #[inline]
    pub(crate) fn note_filled(&mut self, key: &Key<'_>, token: u64, actor: Actor, at_ms: u64) {
        self.recall(key);
        if self.watch.audited.holds(key.hash) {
            self.tell_change(key, ChangeKind::Filled, actor, at_ms, token);
        }
    }

    #[cold]
    fn tell_change(&self, key: &Key<'_>, kind: ChangeKind, actor: Actor, at_ms: u64, number: u64) {
        if key.bytes.len() <= CHANGED_KEY_BYTES_MAX {
            let (db, key) = (key.db, Bytes::copy_from_slice(key.bytes));
            self.watch.observers.changes.push(KeyChange { db, key, kind, actor, at_ms, number });
        }
    }
}

impl Keyspace {
    /// From now on changes of the keys in this window are told, and of no others.
    pub fn tell_changes_of(&self, window: HashWindow) {
        for index in 0..self.shards() {
            self.lock(index).watch.audited = window;
        }
    }

    /// Takes what was told, oldest first, and how many changes were dropped since the last time.
    pub fn take_changes(&self) -> (VecDeque<KeyChange>, u64) {
        let mut queue = self.observers().changes.queue.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut queue.changes), std::mem::take(&mut queue.dropped))
    }
}
