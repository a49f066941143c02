//! How long the locks of shards are held, counted for the bench `stalls`.

use crate::clock;
use leasehold_keyspace::HoldObserver;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Holds are counted as long from here on.
const LONG_NS: u64 = 1_000_000;

static COUNT: AtomicU64 = AtomicU64::new(0);
static LONG: AtomicU64 = AtomicU64::new(0);
static LONGEST_NS: AtomicU64 = AtomicU64::new(0);

/// Holds since they were last taken.
pub(crate) struct Holds {
    pub(crate) count: u64,
    /// Of a millisecond or more.
    pub(crate) over_1ms: u64,
    pub(crate) longest_ns: u64,
}

/// Counts all holds from now on.
pub(crate) fn observe() {
    leasehold_keyspace::observe_holds(HoldObserver { now_ns: clock::since_start_ns, ended: count });
}

/// What holds there were since the last call.
pub(crate) fn take() -> Holds {
    Holds { count: COUNT.swap(0, Relaxed), over_1ms: LONG.swap(0, Relaxed), longest_ns: LONGEST_NS.swap(0, Relaxed) }
}

fn count(held_ns: u64) {
    COUNT.fetch_add(1, Relaxed);
    LONG.fetch_add(u64::from(held_ns >= LONG_NS), Relaxed);
    LONGEST_NS.fetch_max(held_ns, Relaxed);
}
