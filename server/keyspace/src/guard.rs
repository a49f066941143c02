//! The guard of a shard's lock. With the feature `hold-times` it records how long each lock is held, for the bench of stalls;
//! the clocks come from who wants to know. Without it, it is the guard of the standard library.

#[cfg(not(feature = "hold-times"))]
pub(crate) use plain::{Guard, guard};
#[cfg(feature = "hold-times")]
pub(crate) use timed::{Guard, guard};
#[cfg(feature = "hold-times")]
pub use timed::{HoldClocks, HoldTimes, Holds, observe_holds, take_holds};

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

    /// Holds are counted as long from here on.
    const LONG_NS: u64 = 1_000_000;

    /// By what holds are timed, in ns.
    #[derive(Clone, Copy, Debug)]
    pub struct HoldClocks {
        /// Time as it passes: what waits for a lock waits by it.
        pub wall_ns: fn() -> u64,
        /// The processor time of the calling thread: it stands still while another thread or machine has the processor.
        pub cpu_ns: fn() -> u64,
    }

    /// Holds since they were last taken.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Holds {
        /// All.
        pub count: u64,
        /// By the clock on the wall.
        pub wall: HoldTimes,
        /// By what the thread did itself, page faults among it.
        pub cpu: HoldTimes,
    }

    /// Holds by one clock.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct HoldTimes {
        /// Holds of a millisecond or more.
        pub over_1ms: u64,
        /// The longest, in ns.
        pub longest_ns: u64,
    }

    #[derive(Debug)]
    struct Counters {
        over_1ms: AtomicU64,
        longest_ns: AtomicU64,
    }

    static CLOCKS: OnceLock<HoldClocks> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static WALL: Counters = Counters::new();
    static CPU: Counters = Counters::new();

    /// From now on all holds of all shards' locks are timed.
    pub fn observe_holds(clocks: HoldClocks) {
        // Who came first stays: there is one set of clocks.
        let _ = CLOCKS.set(clocks);
    }

    /// What holds there were since the last call.
    #[must_use]
    pub fn take_holds() -> Holds {
        Holds { count: COUNT.swap(0, Relaxed), wall: WALL.take(), cpu: CPU.take() }
    }

    impl Counters {
        const fn new() -> Self {
            Self { over_1ms: AtomicU64::new(0), longest_ns: AtomicU64::new(0) }
        }

        fn count(&self, held_ns: u64) {
            if held_ns >= LONG_NS {
                self.over_1ms.fetch_add(1, Relaxed);
            }
            self.longest_ns.fetch_max(held_ns, Relaxed);
        }

        fn take(&self) -> HoldTimes {
            HoldTimes { over_1ms: self.over_1ms.swap(0, Relaxed), longest_ns: self.longest_ns.swap(0, Relaxed) }
        }
    }

    pub(crate) struct Guard<'k> {
        guard: MutexGuard<'k, Shard>,
        since: Option<Since>,
    }

    struct Since {
        wall_ns: u64,
        cpu_ns: u64,
    }

    pub(crate) fn guard(guard: MutexGuard<'_, Shard>) -> Guard<'_> {
        // In this order, and in the reverse one at the end: to ask for processor time is a call to the system.
        let since = CLOCKS.get().map(|clocks| Since { cpu_ns: (clocks.cpu_ns)(), wall_ns: (clocks.wall_ns)() });
        Guard { guard, since }
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
            if let (Some(since), Some(clocks)) = (&self.since, CLOCKS.get()) {
                WALL.count((clocks.wall_ns)().saturating_sub(since.wall_ns));
                CPU.count((clocks.cpu_ns)().saturating_sub(since.cpu_ns));
                COUNT.fetch_add(1, Relaxed);
            }
        }
    }
}
