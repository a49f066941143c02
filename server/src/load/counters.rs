//! What is counted of the loads of one loader.

use super::refresh::RefreshCounters;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// All relaxed: each is a number of its own.
#[derive(Debug, Default)]
pub(super) struct LoadCounters {
    /// Loads asked for.
    pub(super) asked: AtomicU64,
    /// Requests to the source, each for one key or more.
    pub(super) batches: AtomicU64,
    /// Keys in them.
    pub(super) keys: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) absent: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) timeouts: AtomicU64,
    /// Refused because the queue was full.
    pub(super) busy: AtomicU64,
    /// Refused because a breaker was open.
    pub(super) cut_off: AtomicU64,
    /// Refused because the loader was paused.
    pub(super) paused: AtomicU64,
    pub(super) in_flight: AtomicU64,
    /// Answers that came after the hard timeout and were stored.
    pub(super) late_fills: AtomicU64,
    /// Answers whose token was no longer good.
    pub(super) lost_fills: AtomicU64,
    /// Answers that their readers got and for which the keyspace had no room.
    pub(super) unstored: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) tests: AtomicU64,
    pub(super) refreshes: RefreshCounters,
    pub(super) time_us: AtomicU64,
    pub(super) time_us_max: AtomicU64,
    /// Requests by the power of two of their time in µs.
    pub(super) times: [AtomicU64; TIME_BUCKETS],
}

/// Up to 2^31 µs, 36 minutes.
const TIME_BUCKETS: usize = 32;

impl LoadCounters {
    pub(super) fn note_time(&self, elapsed: Duration) {
        let us = elapsed.as_micros() as u64;
        self.time_us.fetch_add(us, Ordering::Relaxed);
        self.time_us_max.fetch_max(us, Ordering::Relaxed);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.times[bucket.min(TIME_BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// An upper bound, within a factor of two, of what `percent` of the requests took.
    pub(super) fn quantile_us(&self, percent: u64) -> i64 {
        let counts: Vec<u64> = self.times.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen * 100 >= total * percent {
                return 1 << bucket;
            }
        }
        0
    }
}
