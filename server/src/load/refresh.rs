//! Refresh before expiry: when a loader's values are due, and what is counted of it.
//!
//! The way of a refresh is that of a miss: lease, queue, batch, fill. What is its own is that nobody waits for it, so it gives way:
//! it takes no more than [`super::BACKGROUND_SHARE`] of the queue, and what finds no place there is left out and counted. Who decides whether a
//! value is due is the reader ([`leasehold_command::RefreshRule`]) together with the keyspace, which knows how long its load took.

use super::{BACKGROUND_SHARE, LoadCounters, LoaderDesk};
use crate::config::RefreshMode;
use leasehold_command::{RefreshRule, RefreshWhen};
use leasehold_keyspace::{Load, LoadCause};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// XFetch chooses from an exponential distribution how many load times before its end a value is due. More than so many come once in
/// 500 million times: values further from their end need not be looked at.
const LOAD_TIMES_MAX: f64 = 20.0;

/// A new load time counts for an eighth of the average, and the slowest of late is forgotten by an eighth with each load.
const WEIGHT: u64 = 8;

/// How long loads of one loader took of late, from the question to the answer, with their time in the queue. All relaxed: each is a
/// number of its own, and two loads that end at once may count as one.
#[derive(Debug, Default)]
pub(super) struct Pace {
    mean_us: AtomicU64,
    slowest_us: AtomicU64,
    is_warned: AtomicBool,
}

/// All relaxed, as [`LoadCounters`].
#[derive(Debug, Default)]
pub(super) struct RefreshCounters {
    /// Loads of values that were fresh still.
    pub(super) begun: AtomicU64,
    /// Those that brought the bytes that were there.
    pub(super) unchanged: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Due, but the source had enough to do.
    pub(super) skipped: AtomicU64,
}

impl Pace {
    fn note(&self, elapsed: Duration) {
        let us = elapsed.as_micros() as u64;
        self.mean_us.update(Ordering::Relaxed, Ordering::Relaxed, |mean| match mean {
            0 => us,
            mean => (mean * (WEIGHT - 1) + us) / WEIGHT,
        });
        self.slowest_us.update(Ordering::Relaxed, Ordering::Relaxed, |slowest| us.max(slowest - slowest / WEIGHT));
    }
}

impl LoaderDesk {
    pub(super) fn refresh_rule(&self) -> Option<RefreshRule> {
        let when = match self.config.refresh {
            RefreshMode::Off => return None,
            RefreshMode::Ahead => RefreshWhen::Ahead { early_ms: self.ahead_ms() },
            RefreshMode::XFetch => RefreshWhen::XFetch { beta: self.config.refresh_beta },
        };
        Some(RefreshRule { loader: self.policy.loader, transparent: self.policy.transparent, when })
    }

    /// The rest of the TTL past its share. An entry does not know how the jitter has changed its TTL: the rest of the shortest is
    /// for none of them too early.
    fn ahead_ms(&self) -> u64 {
        let shortest = self.config.ttl.mul_f64(1.0 - self.config.jitter);
        shortest.mul_f64(1.0 - self.config.refresh_at).as_millis() as u64
    }

    /// Values further from their end are not due.
    pub(super) fn early_ms_max(&self) -> u64 {
        match self.config.refresh {
            RefreshMode::Off => 0,
            RefreshMode::Ahead => self.ahead_ms(),
            RefreshMode::XFetch => {
                let slowest_ms = (self.pace.slowest_us.load(Ordering::Relaxed) as f64 / 1_000.0).max(1.0);
                (LOAD_TIMES_MAX * self.config.refresh_beta * slowest_ms) as u64
            }
        }
    }

    /// Queues refreshes as far as they leave room for readers who miss; the others are left out.
    pub(super) fn admit_refreshes(&self, mut refreshes: Vec<Load>, refused: &mut Vec<(Load, String)>) -> Vec<Load> {
        if refreshes.is_empty() {
            return refreshes;
        }
        let queued_max = (self.config.queue_max / BACKGROUND_SHARE).max(1);
        let skipped = refreshes.split_off(self.reserve(refreshes.len(), queued_max));
        let counters = &self.counters.refreshes;
        counters.begun.fetch_add(refreshes.len() as u64, Ordering::Relaxed);
        counters.skipped.fetch_add(skipped.len() as u64, Ordering::Relaxed);
        refused.extend(skipped.into_iter().map(|load| (load, self.busy_text())));
        refreshes
    }

    /// Counts loads that were not even queued, or not asked for: a refresh as left out, what readers wait for by `counter`.
    pub(super) fn count_refused(&self, group: &[Load], counter: &AtomicU64) {
        for load in group {
            let counter = match load.cause {
                LoadCause::Warm => {
                    self.warm.note_failed();
                    continue;
                }
                LoadCause::Refresh => &self.counters.refreshes.skipped,
                LoadCause::Missed | LoadCause::Invalidated | LoadCause::HolderLost => counter,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request to the source has ended. Says once if values hardly live longer than their loads take: then they are loaded all
    /// the time.
    pub(super) fn note_pace(&self, elapsed: Duration) {
        self.pace.note(elapsed);
        let share = match self.config.refresh {
            RefreshMode::Off => return,
            RefreshMode::Ahead => self.config.refresh_at,
            RefreshMode::XFetch => 1.0,
        };
        let mean = Duration::from_micros(self.pace.mean_us.load(Ordering::Relaxed));
        let lived = self.config.ttl.mul_f64(share);
        if lived < 2 * mean && !self.pace.is_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                loader = self.name(),
                mean_load_ms = mean.as_millis() as u64,
                refreshed_after_ms = lived.as_millis() as u64,
                "values are refreshed after less than twice what a load takes; a longer ttl is needed"
            );
        }
    }
}

impl LoadCounters {
    pub(super) fn refresh_fields(&self) -> [(&'static str, i64); 4] {
        let RefreshCounters { begun, unchanged, failed, skipped } = &self.refreshes;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        [
            ("refreshes", value(begun)),
            ("refresh_unchanged", value(unchanged)),
            ("refresh_failed", value(failed)),
            ("refresh_skipped", value(skipped)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoaderConfig;
    use crate::config::options::loader_named;
    use crate::load::tests::Unasked;
    use crate::load::{Loaders, Queue};
    use bytes::Bytes;
    use leasehold_keyspace::Db;
    use leasehold_loader_api::Loader;
    use std::sync::Arc;

    fn config(name: &str, change: impl FnOnce(&mut LoaderConfig)) -> (LoaderConfig, Arc<dyn Loader>) {
        let mut config = loader_named(name);
        config.settings.pattern = format!("{name}:{{id}}");
        change(&mut config);
        (config, Arc::new(Unasked))
    }

    fn loaders(configs: Vec<(LoaderConfig, Arc<dyn Loader>)>) -> (Loaders, Vec<Queue>) {
        Loaders::new(&[], configs)
    }

    #[test]
    fn refreshes_leave_half_of_the_queue_to_readers_who_miss() {
        let (loaders, mut queues) = loaders(vec![config("user", |config| config.queue_max = 4)]);
        let load = |token, cause| Load { db: Db(0), key: Bytes::from_static(b"user:1"), token, loader: 0, cause };
        let refused = loaders.start(&loaders.table(), (1..=3).map(|token| load(token, LoadCause::Refresh)).collect());
        assert_eq!(refused.iter().map(|(load, _)| load.token).collect::<Vec<_>>(), [3]);
        let mixed = vec![load(4, LoadCause::Refresh), load(5, LoadCause::Missed), load(6, LoadCause::Missed)];
        let refused = loaders.start(&loaders.table(), mixed);
        assert_eq!(refused.iter().map(|(load, _)| load.token).collect::<Vec<_>>(), [4]);
        let refused = loaders.start(&loaders.table(), vec![load(7, LoadCause::Missed)]);
        assert!(refused[0].1.starts_with("LOADBUSY user "));
        let queued: Vec<Vec<u64>> = std::iter::from_fn(|| queues[0].try_recv().ok())
            .map(|group| group.iter().map(|job| job.load.token).collect())
            .collect();
        assert_eq!(queued, [vec![1, 2], vec![5, 6]]);
        let desk = &loaders.table().list[0];
        let fields = desk.counters.refresh_fields();
        assert_eq!(&fields[..1], [("refreshes", 2)]);
        assert_eq!((fields[3], desk.counters.busy.load(Ordering::Relaxed)), (("refresh_skipped", 2), 1));
    }

    #[test]
    fn values_are_looked_at_only_as_near_to_their_end_as_some_loader_wants() {
        let off = || config("off", |_| {});
        let ahead = |name| {
            config(name, |config| {
                config.refresh = RefreshMode::Ahead;
                config.ttl = Duration::from_secs(100);
                config.jitter = 0.5;
            })
        };
        assert_eq!(loaders(vec![off()]).0.early_ms_max(), 0);
        let (all, _) = loaders(vec![off(), ahead("a")]);
        // A fifth of the shortest life that the jitter makes.
        assert!((9_999..=10_000).contains(&all.early_ms_max()), "{}", all.early_ms_max());
        assert_eq!(all.table().refresh_rule(Db(0), b"a:1", 10_001), None);
        assert_eq!(all.table().refresh_rule(Db(0), b"off:1", 1), None);
        assert_eq!(all.table().refresh_rule(Db(1), b"a:1", 1), None);
        let rule = all.table().refresh_rule(Db(0), b"a:1", 1).expect("near its end");
        assert!(rule.loader == 1 && rule.transparent && matches!(rule.when, RefreshWhen::Ahead { .. }));
    }

    #[test]
    fn xfetch_looks_as_far_ahead_as_loads_are_slow() {
        let (loaders, _) = loaders(vec![config("user", |config| {
            config.refresh = RefreshMode::XFetch;
            config.refresh_beta = 2.0;
        })]);
        assert_eq!(loaders.early_ms_max(), 40, "before the first load, as for loads of 1 ms");
        let desk = &loaders.table().list[0];
        desk.note_pace(Duration::from_millis(100));
        loaders.set_early_ms_max();
        assert_eq!(loaders.early_ms_max(), 4_000);
        for _ in 0..100 {
            desk.note_pace(Duration::from_millis(1));
        }
        loaders.set_early_ms_max();
        assert_eq!(loaders.early_ms_max(), 40, "the slow one is forgotten");
    }

    #[test]
    fn values_that_live_no_longer_than_two_loads_are_told_of_once() {
        let (loaders, _) = loaders(vec![config("user", |config| {
            config.refresh = RefreshMode::Ahead;
            config.ttl = Duration::from_millis(100);
        })]);
        let desk = &loaders.table().list[0];
        desk.note_pace(Duration::from_millis(39));
        assert!(!desk.pace.is_warned.load(Ordering::Relaxed));
        (0..40).for_each(|_| desk.note_pace(Duration::from_millis(50)));
        assert!(desk.pace.is_warned.load(Ordering::Relaxed));
    }
}
