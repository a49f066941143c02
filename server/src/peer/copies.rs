//! Copies of hot entries of other nodes, which this one answers reads from for a short time.
//!
//! ```text
//!     owner says that a key is hot ─► ask: the stamp of the key's cell, and the time ─► owner ─► keep: with that stamp, until that time and a life
//!     read: from a copy whose stamp is that of its cell still
//!     a change is sent on, or answered; the owner recalls ─► the stamp of the cell moves, and the copy is none any more
//! ```
//!
//! What must hold, and why it does, whatever links the words take and in whichever order they come:
//!
//! 1. *A copy that was read before a change is not used once the change's recall is here.* It was asked for before it was read, and the recall was sent after
//!    the change, so the stamp that it came with was taken before the recall moved it.
//! 2. *Nor once the change was answered by way of this node*: the stamp moves before the answer is given to the client. A copy that is asked for later is read
//!    later.
//! 3. *A copy is used for its life at most, from when it was asked for*: it was read later than that. So a recall that is lost makes no answer older than
//!    `hot-key-ttl`.
//!
//! A connection that waits for the answer to a change does not read copies, so its reads do not overtake that change. Copies are no entries: the keyspace
//! knows nothing of them but their memory.

use leasehold_cluster::{CELLS, Cell, Many, Touched};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Parts of the table, each with a lock of its own.
const STRIPES: usize = 64;

/// Keys that there are copies of, or that are asked for; with more none is asked for.
const KEYS_MAX: usize = 4096;

/// A copy that is asked for and does not come, or is none after it came, is asked for again after so long.
const ASK_AGAIN_MS: u64 = 100;

/// One for which there was no room, after so long.
const NO_ROOM_MS: u64 = 1_000;

/// What a copy takes beside key and value: its place in a table that is half full, and two allocations.
const COPY_BYTES: usize = 2 * size_of::<(Box<[u8]>, Held)>() + 32;

/// See the module. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Copies {
    ttl_ms: u64,
    /// By cell: moved by what touches one of its keys.
    stamps: Box<[AtomicU32]>,
    /// Moved by what touches keys of many cells.
    epoch: AtomicU32,
    stripes: Box<[Mutex<Stripe>]>,
    /// No copy lives longer, also none that is on its way.
    live_until_ms: AtomicU64,
    keys: AtomicUsize,
    bytes: AtomicUsize,
}

/// What is held of some keys.
type Stripe = HashMap<Box<[u8]>, Held>;

#[derive(Debug)]
enum Held {
    /// A copy was asked for; not again before that time.
    Asked {
        again_ms: u64,
    },
    Copy {
        value: Box<[u8]>,
        client_flags: u32,
        until_ms: u64,
        stamp: u64,
    },
}

/// What is sent with the request for a copy, and comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) stamp: u64,
    pub(crate) at_ms: u64,
}

/// A copy as its owner gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given<'a> {
    pub(crate) question: Question,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) client_flags: u32,
    /// From when it was asked for. 0: there is nothing to be given.
    pub(crate) life_ms: u64,
}

impl Copies {
    pub(crate) fn new(ttl_ms: u64) -> Self {
        Self {
            ttl_ms,
            stamps: (0..CELLS).map(|_| AtomicU32::new(0)).collect(),
            epoch: AtomicU32::new(0),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            live_until_ms: AtomicU64::new(0),
            keys: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Whether there may be any copy: one load.
    #[inline]
    pub(crate) fn may_be_any(&self, now_ms: u64) -> bool {
        // Pairs with `ask`.
        self.live_until_ms.load(SeqCst) > now_ms
    }

    /// Reads the copy of a key, with the client flags of memcached. `false`: there is none that may be used.
    pub(crate) fn read(&self, key: &[u8], now_ms: u64, read: impl FnOnce(&[u8], u32)) -> bool {
        let cell = Cell::of_key(key);
        let stripe = self.stripe(cell);
        match stripe.get(key) {
            Some(Held::Copy { value, client_flags, until_ms, stamp })
                if now_ms < *until_ms && *stamp == self.stamp(cell) =>
            {
                read(value, *client_flags);
                true
            }
            _ => false,
        }
    }

    /// A key is hot: what to ask its owner for a copy with; `None`: it is not to be asked now.
    pub(crate) fn ask(&self, key: &[u8], now_ms: u64) -> Option<Question> {
        let cell = Cell::of_key(key);
        let mut stripe = self.stripe(cell);
        match stripe.get_mut(key) {
            Some(Held::Asked { again_ms }) if now_ms < *again_ms => return None,
            Some(Held::Copy { until_ms, stamp, .. }) if now_ms < *until_ms && *stamp == self.stamp(cell) => {
                return None;
            }
            Some(Held::Asked { again_ms }) => *again_ms = now_ms + ASK_AGAIN_MS,
            // It stays counted, and makes room when it is exchanged or swept.
            Some(Held::Copy { .. }) => {}
            None if self.keys.load(Relaxed) >= KEYS_MAX => return None,
            None => {
                self.keys.fetch_add(1, Relaxed);
                stripe.insert(key.into(), Held::Asked { again_ms: now_ms + ASK_AGAIN_MS });
            }
        }
        // Before the stamp is taken and the question sent: a change that is answered before this is seen was executed before the copy is read.
        self.live_until_ms.fetch_max(now_ms + self.ttl_ms, SeqCst);
        Some(Question { stamp: self.stamp(cell), at_ms: now_ms })
    }

    /// Keeps a copy that has come, if it is one still and all copies together have no more than `bytes_max` bytes. By how many bytes there are more.
    pub(crate) fn keep(&self, given: &Given<'_>, bytes_max: usize, now_ms: u64) -> i64 {
        let Given { question: Question { stamp, at_ms }, key, value, client_flags, life_ms } = *given;
        let cell = Cell::of_key(key);
        // The time has come back as it was sent, if the other node is what it should be.
        let until_ms = at_ms.min(now_ms).saturating_add(life_ms.min(self.ttl_ms));
        let mut stripe = self.stripe(cell);
        let is_late = life_ms > 0 && (until_ms <= now_ms || stamp != self.stamp(cell));
        if is_late && matches!(stripe.get(key), Some(Held::Copy { .. })) {
            return 0;
        }
        let before = self.take(&mut stripe, key);
        let after = (key.len() + value.len() + COPY_BYTES) as i64;
        let held = if is_late {
            // The next question may be asked at once.
            return -before;
        } else if life_ms == 0 {
            Held::Asked { again_ms: now_ms + ASK_AGAIN_MS }
        } else if self.bytes.load(Relaxed) as i64 + after > bytes_max as i64 {
            Held::Asked { again_ms: now_ms + NO_ROOM_MS }
        } else {
            Held::Copy { value: value.into(), client_flags, until_ms, stamp }
        };
        let after = if matches!(held, Held::Copy { .. }) { after } else { 0 };
        self.keys.fetch_add(1, Relaxed);
        self.bytes.fetch_add(after as usize, Relaxed);
        stripe.insert(key.into(), held);
        after - before
    }

    /// Something has changed, or may have: what was read of these keys before is not used any more.
    pub(crate) fn touch(&self, touched: Touched, now_ms: u64) {
        if !self.may_be_any(now_ms) {
            return;
        }
        match touched.cell() {
            None => {}
            Some(Ok(cell)) => {
                self.stamps[cell.index()].fetch_add(1, SeqCst);
            }
            Some(Err(Many)) => self.touch_all(),
        }
    }

    /// No copy is used any more that was asked for before.
    pub(crate) fn touch_all(&self) {
        self.epoch.fetch_add(1, SeqCst);
    }

    /// Gives up what can be used no more; how many bytes there are less.
    pub(crate) fn sweep(&self, now_ms: u64) -> i64 {
        if self.keys.load(Relaxed) == 0 {
            return 0;
        }
        let mut freed = 0;
        for stripe in &self.stripes {
            let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            let over: Vec<_> = stripe
                .iter()
                .filter(|(key, held)| self.is_over(key, held, now_ms))
                .map(|(key, _)| key.clone())
                .collect();
            freed += over.iter().map(|key| self.take(&mut stripe, key)).sum::<i64>();
            if stripe.is_empty() {
                stripe.shrink_to_fit();
            }
        }
        freed
    }

    /// Copies that may be used, and the bytes of all that there are.
    pub(crate) fn count(&self, now_ms: u64) -> (usize, usize) {
        let used = |stripe: &Mutex<Stripe>| {
            let stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            let copies = stripe.iter().filter(|(_, held)| matches!(held, Held::Copy { .. }));
            copies.filter(|(key, held)| !self.is_over(key, held, now_ms)).count()
        };
        (self.stripes.iter().map(used).sum(), self.bytes.load(Relaxed))
    }

    /// Whether a copy can be used no more, or what was asked for may be asked for again.
    fn is_over(&self, key: &[u8], held: &Held, now_ms: u64) -> bool {
        match held {
            Held::Asked { again_ms } => *again_ms <= now_ms,
            Held::Copy { until_ms, stamp, .. } => *until_ms <= now_ms || *stamp != self.stamp(Cell::of_key(key)),
        }
    }

    /// Takes out what is held of a key; its bytes.
    fn take(&self, stripe: &mut Stripe, key: &[u8]) -> i64 {
        let Some(held) = stripe.remove(key) else { return 0 };
        self.keys.fetch_sub(1, Relaxed);
        let Held::Copy { value, .. } = held else { return 0 };
        let bytes = key.len() + value.len() + COPY_BYTES;
        self.bytes.fetch_sub(bytes, Relaxed);
        bytes as i64
    }

    /// Of a cell now. Sequentially consistent with what moves it, so that who learns of an answer finds the stamp that was moved before it.
    #[inline]
    fn stamp(&self, cell: Cell) -> u64 {
        (u64::from(self.epoch.load(SeqCst)) << 32) | u64::from(self.stamps[cell.index()].load(SeqCst))
    }

    fn stripe(&self, cell: Cell) -> MutexGuard<'_, Stripe> {
        // Whole after every statement.
        self.stripes[cell.index() % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
