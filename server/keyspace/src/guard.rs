//! The guard of a shard's lock. With the feature `hold-times` it records how long each lock is held, for the bench of stalls;
//! the clock comes from who wants to know. Without it, it is the guard of the standard library.

#[cfg(not(feature = "hold-times"))]
pub(crate) use plain::{Guard, guard};
#[cfg(feature = "hold-times")]
pub(crate) use timed::{Guard, guard};
#[cfg(feature = "hold-times")]
pub use timed::{HOLD_CLASSES, observe_holds, take_holds};

#[cfg(not(feature = "hold-times"))]
mod plain {
    use crate::shard::Shard;
    use std::sync::MutexGuard;

    pub(crate) type Guard<'k> = MutexGuard<'k, Shard>;

    #[inline]
    pub(crate) fn guard(guard: MutexGuard<'_, Shard>) -> Guard<'_> {
        guard
    }
}

#[cfg(feature = "hold-times")]
mod timed {
    use crate::shard::Shard;
    use std::ops::{Deref, DerefMut};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::sync::{MutexGuard, OnceLock};

    /// Classes of times: class n holds those below 2^n ns.
    pub const HOLD_CLASSES: usize = 40;

    static CLOCK_NS: OnceLock<fn() -> u64> = OnceLock::new();
    static COUNTS: [AtomicU64; HOLD_CLASSES] = [const { AtomicU64::new(0) }; HOLD_CLASSES];
    static LONGEST_NS: AtomicU64 = AtomicU64::new(0);

    /// From now on all holds of all shards' locks are timed.
    pub fn observe_holds(clock_ns: fn() -> u64) {
        // Who came first stays: there is one clock.
        let _ = CLOCK_NS.set(clock_ns);
    }

    /// How many holds each class had since the last call, and the longest in ns.
    #[must_use]
    pub fn take_holds() -> ([u64; HOLD_CLASSES], u64) {
        let mut counts = [0; HOLD_CLASSES];
        for (count, class) in counts.iter_mut().zip(&COUNTS) {
            *count = class.swap(0, Relaxed);
        }
        (counts, LONGEST_NS.swap(0, Relaxed))
    }

    pub(crate) struct Guard<'k> {
        guard: MutexGuard<'k, Shard>,
        since_ns: Option<u64>,
    }

    pub(crate) fn guard(guard: MutexGuard<'_, Shard>) -> Guard<'_> {
        Guard { guard, since_ns: CLOCK_NS.get().map(|clock_ns| clock_ns()) }
    }

    impl Deref for Guard<'_> {
        type Target = Shard;

        fn deref(&self) -> &Shard {
            &self.guard
        }
    }

    impl DerefMut for Guard<'_> {
        fn deref_mut(&mut self) -> &mut Shard {
            &mut self.guard
        }
    }

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if let (Some(since_ns), Some(clock_ns)) = (self.since_ns, CLOCK_NS.get()) {
                let held_ns = clock_ns().saturating_sub(since_ns);
                let class = (u64::BITS - held_ns.leading_zeros()) as usize;
                COUNTS[class.min(HOLD_CLASSES - 1)].fetch_add(1, Relaxed);
                LONGEST_NS.fetch_max(held_ns, Relaxed);
            }
        }
    }
}
