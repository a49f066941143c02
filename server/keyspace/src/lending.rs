//! Copies of entries that other nodes hold for a moment, and who holds them: so that those are told of every change.
//!
//! ```text
//!     lend ──(one lock)── the entry is read, its holder noted ─► the copy goes out
//!     write, deletion, invalidation, fill, another TTL ──(the same lock)── the key is taken off the list ─► recalls (bounded) ─► holders
//! ```
//!
//! A change that comes before a copy was read is in it, and one that comes after finds the holder: both happen under the lock of the key's shard.
//! What changes without a look at every key, as a bump of a tag, recalls all copies there are. A copy lives no longer than its entry, so expiry need not
//! tell anybody; nor need eviction, which changes nothing. A recall that is lost leaves a copy its life, which its borrower ends by its own clock.

use crate::entry::Key;
use crate::keyspace::{Entry, Keyspace};
use crate::settings::Db;
use crate::shard::Shard;
use crate::turn::Turn;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// Keys of one shard of which copies are out; with more nothing is lent.
pub const LENT_MAX: usize = 64;

/// Recalls that wait to be sent; with more all copies are recalled at once.
const RECALLS_MAX: usize = 4096;

/// Who holds copies: a bit for each of at most 128 places.
pub type Holders = u128;

/// What must be told to those who hold copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recall {
    /// The copies of this key are not to be used any more.
    Key {
        /// The key.
        key: Bytes,
        /// Who has one.
        holders: Holders,
    },
    /// No copy at all is.
    All,
}

/// The keys of a shard that are lent, few or none.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    keys: Vec<LentKey>,
}

#[derive(Debug)]
struct LentKey {
    db: Db,
    hash: u64,
    key: Bytes,
    holders: Holders,
    /// The end of the last copy's life.
    until_ms: u64,
}

/// What all shards have to tell.
#[derive(Debug, Default)]
pub(crate) struct Recalls {
    /// Whether there is something in the queue.
    are_waiting: AtomicBool,
    queue: Mutex<Vec<Recall>>,
    /// Until when there may be copies.
    lent_until_ms: AtomicU64,
}

impl Recalls {
    fn push(&self, recall: Recall) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if recall == Recall::All || queue.len() >= RECALLS_MAX {
            queue.clear();
            queue.push(Recall::All);
        } else if queue.first() != Some(&Recall::All) {
            queue.push(recall);
        }
        // Under the queue's lock, as it is taken back. Relaxed: who sees it late comes again soon.
        self.are_waiting.store(true, Relaxed);
    }
}

impl Shard {
    /// Recalls the copies of a key. Under the lock, by whatever changes what a reader finds.
    #[inline]
    pub(crate) fn recall(&mut self, key: &Key<'_>) {
        if !self.watch.lent.keys.is_empty() {
            self.recall_lent(key);
        }
    }

    #[cold]
    fn recall_lent(&mut self, key: &Key<'_>) {
        let is_it = |lent: &LentKey| lent.hash == key.hash && lent.db == key.db && lent.key == key.bytes;
        if let Some(at) = self.watch.lent.keys.iter().position(is_it) {
            let LentKey { key, holders, .. } = self.watch.lent.keys.swap_remove(at);
            self.watch.observers.recalls.push(Recall::Key { key, holders });
        }
    }

    fn lend<R>(
        &mut self,
        key: &Key<'_>,
        holder: usize,
        life_ms_max: u64,
        now_ms: u64,
        read: impl FnOnce(Entry<'_>, u64) -> R,
    ) -> Option<R> {
        let location = self.find_live(key, now_ms)?;
        let fields = self.entry(location).fields();
        // A value that is fresh only because its source fails is not given away.
        let is_fresh = self.entry(location).is_fresh(now_ms) && fields.stale_since_ms.is_none();
        let life_ms = fields.expire_at_ms.map_or(life_ms_max, |at_ms| at_ms.saturating_sub(now_ms).min(life_ms_max));
        if !is_fresh || life_ms == 0 || !self.watch.lent.note(key, 1 << holder, now_ms, now_ms + life_ms) {
            return None;
        }
        Some(read(self.view(location, now_ms), life_ms))
    }
}

impl Lent {
    /// Notes a holder. `false`: there is no place.
    fn note(&mut self, key: &Key<'_>, holder: Holders, now_ms: u64, until_ms: u64) -> bool {
        let is_it = |lent: &&mut LentKey| lent.hash == key.hash && lent.db == key.db && lent.key == key.bytes;
        if let Some(lent) = self.keys.iter_mut().find(is_it) {
            lent.holders |= holder;
            lent.until_ms = lent.until_ms.max(until_ms);
            return true;
        }
        if self.keys.len() >= LENT_MAX {
            self.keys.retain(|lent| lent.until_ms > now_ms);
        }
        if self.keys.len() >= LENT_MAX {
            return false;
        }
        let (db, hash, key) = (key.db, key.hash, Bytes::copy_from_slice(key.bytes));
        self.keys.push(LentKey { db, hash, key, holders: holder, until_ms });
        true
    }
}

impl Keyspace {
    /// Reads the fresh entry of a key for a copy that `holder` is to have for `life_ms_max` at most, and for as long as the entry lives; `read` is told how
    /// long that is. From now on [`Keyspace::take_recalls`] tells of what makes it wrong. No use of the entry, no hit and no miss. `None`: there is nothing to
    /// be lent, or too much is.
    ///
    /// # Panics
    /// If `holder` is no place below 128.
    pub fn lend<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        holder: usize,
        life_ms_max: u64,
        read: impl FnOnce(Entry<'_>, u64) -> R,
    ) -> Option<R> {
        assert!(holder < Holders::BITS as usize, "{holder} is no place");
        // Before the entry is looked at. Pairs with `recall_all`: a bump that this does not see sees that something is lent.
        self.observers().recalls.lent_until_ms.fetch_max(turn.now_ms.saturating_add(life_ms_max), SeqCst);
        std::sync::atomic::fence(SeqCst);
        self.with_shard(db, key, |shard, key| shard.lend(key, holder, life_ms_max, turn.now_ms, read))
    }

    /// Recalls all copies, if there may be any. To be called when what has changed can be seen by readers.
    pub(crate) fn recall_all(&self, now_ms: u64) {
        // Pairs with `lend`.
        std::sync::atomic::fence(SeqCst);
        if self.observers().recalls.lent_until_ms.load(SeqCst) > now_ms {
            self.observers().recalls.push(Recall::All);
        }
    }

    /// Whether somebody is to be told that copies are wrong: one load.
    #[inline]
    #[must_use]
    pub fn has_recalls(&self) -> bool {
        self.observers().recalls.are_waiting.load(Relaxed)
    }

    /// Takes what is to be told, in the order in which it happened.
    #[must_use]
    pub fn take_recalls(&self) -> Vec<Recall> {
        let recalls = &self.observers().recalls;
        let mut queue = recalls.queue.lock().unwrap_or_else(PoisonError::into_inner);
        recalls.are_waiting.store(false, Relaxed);
        std::mem::take(&mut queue)
    }

    /// Counts bytes of the node that lie outside the shards, so many more or less than before, against the limit on memory.
    pub fn count_outside(&self, change: i64) {
        self.memory.publish(change);
    }
}
