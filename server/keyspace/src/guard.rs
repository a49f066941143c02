//! The guard of a shard's lock. With the feature `hold-times` it tells how long each lock was held, for the benches `stalls` and
//! `holds`; the clock comes from who wants to know. Without it, it is the guard of the standard library.

#[cfg(not(feature = "hold-times"))]
pub(crate) use plain::{Guard, guard};
#[cfg(feature = "hold-times")]
pub(crate) use timed::{Guard, guard};
#[cfg(feature = "hold-times")]
pub use timed::{HoldObserver, observe_holds};

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
    use std::sync::{MutexGuard, OnceLock};

    /// Who wants to know how long locks are held.
    #[derive(Clone, Copy, Debug)]
    pub struct HoldObserver {
        /// Time in ns since whenever.
        pub now_ns: fn() -> u64,
        /// Called at the end of each hold, under the lock, with its length in ns.
        pub ended: fn(u64),
    }

    static OBSERVER: OnceLock<HoldObserver> = OnceLock::new();

    /// From now on all holds of all shards' locks are timed. Who came first stays.
    pub fn observe_holds(observer: HoldObserver) {
        let _ = OBSERVER.set(observer);
    }

    pub(crate) struct Guard<'k> {
        guard: MutexGuard<'k, Shard>,
        since_ns: Option<u64>,
    }

    pub(crate) fn guard(guard: MutexGuard<'_, Shard>) -> Guard<'_> {
        Guard { guard, since_ns: OBSERVER.get().map(|observer| (observer.now_ns)()) }
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
            if let (Some(since_ns), Some(observer)) = (self.since_ns, OBSERVER.get()) {
                (observer.ended)((observer.now_ns)().saturating_sub(since_ns));
            }
        }
    }
}
