//! Where runs lie: memory of the operating system in pieces of any size, best fit.
//!
//! Regions of address space are mapped as they are needed, each for many extents, and stay; an extent larger than a region has
//! one of its own, which goes with it. What fits best is taken, and free extents that touch become one, so that sizes
//! may change for ever. Pages that no extent touches go back to the system, but for some that are kept for the next
//! takers. What is resident is known to the page: [`ledger`] keeps the books, this file owns the memory.
#![allow(unsafe_code)]

mod ledger;

use super::pool::{Owned, Start, discard, map, unmap};
use ledger::Ledger;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Extents have whole multiples of this, a line of memory: small beside a run, and no two share a line.
pub(crate) const GRAIN_BYTES: usize = 64;

/// Mapped at a time. Untouched, it costs address space only; each costs a search step and a bit for each page.
#[cfg(not(miri))]
const REGION_BYTES: usize = 64 << 20;
#[cfg(miri)]
const REGION_BYTES: usize = 1 << 20;

/// Gives out extents. Shared by the shards of a keyspace.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    state: Mutex<State>,
    /// See [`Extents::overhead_bytes`]; written under the lock.
    overhead_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    /// By address.
    regions: BTreeMap<usize, Start>,
}

/// Memory of some length, owned. What is in it was left from its owner before.
#[derive(Debug)]
pub(crate) struct Extent {
    memory: Owned<u8>,
    owner: Arc<Extents>,
}

impl Extents {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An extent of at least `len` bytes.
    ///
    /// Aborts the process if the system has no memory, as every allocation does.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Extent {
        let len = len.max(1).next_multiple_of(GRAIN_BYTES);
        let mut state = self.lock();
        let start = if len > REGION_BYTES { state.take_lone(len) } else { state.take(len) };
        self.note(&state);
        // SAFETY: initialised bytes (mapped as zeros) that are nobody else's until the extent goes.
        let memory = unsafe { Owned::new(start.0, len) };
        Extent { memory, owner: Arc::clone(self) }
    }

    /// What counts against the limit beside the extents: the rest of the pages they lie in, and what free pages may be kept.
    #[inline]
    pub(crate) fn overhead_bytes(&self) -> u64 {
        self.overhead_bytes.load(Relaxed) as u64
    }

    /// Bytes that are resident beside those of extents, now.
    pub(crate) fn gap_bytes(&self) -> u64 {
        let state = self.lock();
        (state.ledger.resident_bytes() - state.ledger.live_bytes()) as u64
    }

    /// Changes how much memory free pages may keep.
    pub(crate) fn set_kept_bytes_max(&self, bytes: usize) {
        let mut state = self.lock();
        state.ledger.set_kept_bytes_max(bytes);
        self.trim(state);
    }

    /// Checks the books, and that extents have at least this many bytes; for tests. What was flushed may not be dropped yet.
    pub(crate) fn check(&self, live_bytes_min: usize) {
        let state = self.lock();
        state.ledger.check();
        assert!(state.ledger.live_bytes() >= live_bytes_min);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, state: &State) {
        self.overhead_bytes.store(state.ledger.overhead_bytes(), Relaxed);
    }

    /// Gives back what is kept too much. The system takes a while for that, so the lock is let go meanwhile.
    fn trim<'e>(&'e self, mut state: MutexGuard<'e, State>) {
        while let Some(excess) = state.ledger.take_excess() {
            let start = state.pointer(excess.pages.start);
            self.note(&state);
            drop(state);
            // SAFETY: whole pages of a region, in an extent that is free and, until it is put back, in nobody's hands.
            unsafe { discard(start.0, excess.pages.len()) };
            state = self.lock();
            state.ledger.put_back(&excess);
        }
        self.note(&state);
    }
}

impl State {
    fn take(&mut self, len: usize) -> Start {
        let at = self.ledger.take(len).unwrap_or_else(|| {
            let region = Start(map(REGION_BYTES));
            self.regions.insert(region.0.addr().get(), region);
            self.ledger.add_region(region.0.addr().get(), REGION_BYTES);
            self.ledger.take(len).expect("a region has room for every extent that is to lie in one")
        });
        self.pointer(at)
    }

    fn take_lone(&mut self, len: usize) -> Start {
        self.ledger.count_lone(len);
        Start(map(len))
    }

    /// The pointer to an address in a region.
    fn pointer(&self, at: usize) -> Start {
        let (start, region) = self.regions.range(..=at).next_back().expect("every extent lies in a region");
        // SAFETY: the ledger knows only addresses within its regions.
        Start(unsafe { region.0.add(at - start) })
    }
}

impl Drop for Extents {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for region in state.regions.values() {
            // SAFETY: mapped by `take` with this length; every extent holds a reference to the owner, so none is left.
            unsafe { unmap(region.0, REGION_BYTES) }
        }
    }
}

impl Extent {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Makes it at least `len` bytes long where it is, if what lies behind is free.
    pub(crate) fn try_lengthen(&mut self, len: usize) -> bool {
        let len = len.next_multiple_of(GRAIN_BYTES);
        if self.is_lone() || len <= self.len() {
            return len <= self.len();
        }
        let start = self.memory.start().0;
        let mut state = self.owner.lock();
        let is_longer = state.ledger.try_lengthen(start.addr().get(), self.len(), len - self.len());
        if is_longer {
            // SAFETY: as before, and what lies behind was free and is the extent's now.
            self.memory = unsafe { Owned::new(start, len) };
            self.owner.note(&state);
        }
        is_longer
    }

    /// Whether it has a region of its own.
    fn is_lone(&self) -> bool {
        self.len() > REGION_BYTES
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        let (start, len) = (self.memory.start().0, self.len());
        let mut state = self.owner.lock();
        if self.is_lone() {
            state.ledger.uncount_lone(len);
            self.owner.trim(state);
            // SAFETY: mapped by `take` with this length, and the extent goes.
            unsafe { unmap(start, len) };
            return;
        }
        state.ledger.free(start.addr().get(), len);
        self.owner.trim(state);
    }
}

#[cfg(test)]
mod tests;
