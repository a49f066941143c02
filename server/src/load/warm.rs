//! LOADER WARM: loads keys that nobody has asked for yet, so that the first readers hit.
//!
//! ```text
//!   KEYS … or SQL ─► list of keys (bounded) ─► so many a second ─► lease, queue, batch, fill: as for a miss
//!                                                └ waits while more than a part of the queue is taken, or the loader is
//!                                                  paused, or a breaker is open
//! ```
//!
//! One task per loader. What it may have under way at one time is a part of the queue and a quarter of the queries, so that misses pass.
//! Keys that are fresh, known to be absent, being loaded by somebody, or another node's are skipped.

use super::exchange::pass_on;
use super::{BACKGROUND_SHARE, Job, LoaderDesk, end};
use crate::behind;
use crate::node::Node;
use leasehold_command::WarmKeys;
use leasehold_keyspace::{Access, Claim, Claimant, Claimed, Db, Keyspace, Load, LoadCause, Lookup, Turn};
use leasehold_loader_api::KeyList;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::SendError;

/// How long a warm load may fill, in ms: as any load of the server.
const LEASE_MS: u64 = 10 * 60 * 1000;

/// How often the task looks for room and for its share of the rate: often enough for a thousand keys a second in batches of ten.
const PAUSE: Duration = Duration::from_millis(10);

/// Keys that are looked at in one turn, which holds up the other work of a loader thread.
const KEYS_PER_TURN: usize = 1_000;

/// What a list may take for each key that it may hold, in bytes.
const KEY_BYTES_MEAN_MAX: usize = 128;

/// Queries of a loader that warming takes at most one of so many of.
const QUERIES_SHARE: usize = 4;

/// The warming of one loader, and how far it is. All counts are relaxed: each is a number of its own.
#[derive(Debug, Default)]
pub(super) struct Warm {
    stage: Mutex<Stage>,
    /// Keys of the last list.
    total: AtomicU64,
    /// Of them: loaded, failed or skipped.
    done: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    /// Rows that made no key, and keys of another loader.
    bad: AtomicU64,
    /// Loads queued or under way.
    under_way: AtomicUsize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Never,
    /// The source is asked for the keys.
    Listing,
    Loading,
    /// STOP was said; what is under way ends first.
    Stopping,
    Done,
    Stopped,
    Failed(String),
}

impl Warm {
    pub(super) fn stop(&self) {
        let mut stage = self.stage();
        if matches!(*stage, Stage::Listing | Stage::Loading) {
            *stage = Stage::Stopping;
        }
    }

    /// For `LOADER LIST` and `LOADER STATS`.
    pub(super) fn state(&self) -> String {
        match &*self.stage() {
            Stage::Never => "none".to_owned(),
            Stage::Listing => "listing".to_owned(),
            Stage::Loading => "loading".to_owned(),
            Stage::Stopping => "stopping".to_owned(),
            Stage::Done => "done".to_owned(),
            Stage::Stopped => "stopped".to_owned(),
            Stage::Failed(reason) => format!("failed: {reason}"),
        }
    }

    pub(super) fn fields(&self) -> [(&'static str, i64); 5] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        [
            ("warm_total", value(&self.total)),
            ("warm_done", value(&self.done)),
            ("warm_skipped", value(&self.skipped)),
            ("warm_failed", value(&self.failed)),
            ("warm_bad", value(&self.bad)),
        ]
    }

    /// A load of this warming has brought its answer.
    pub(super) fn note_loaded(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// A load of this warming has brought nothing.
    pub(super) fn note_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.note_loaded();
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of the one warming that a loader may have.
    fn begin(&self) -> bool {
        let mut stage = self.stage();
        if matches!(*stage, Stage::Listing | Stage::Loading | Stage::Stopping) {
            return false;
        }
        *stage = Stage::Listing;
        for counter in [&self.total, &self.done, &self.skipped, &self.failed, &self.bad] {
            counter.store(0, Ordering::Relaxed);
        }
        true
    }

    /// Goes on to loading, unless it was stopped.
    fn go_on(&self) -> bool {
        let mut stage = self.stage();
        let goes_on = *stage == Stage::Listing;
        if goes_on {
            *stage = Stage::Loading;
        }
        goes_on
    }

    fn is_stopping(&self) -> bool {
        *self.stage() == Stage::Stopping
    }

    fn end(&self, reason: Option<String>) {
        let mut stage = self.stage();
        *stage = match (reason, &*stage) {
            (Some(reason), _) => Stage::Failed(reason),
            (None, Stage::Stopping) => Stage::Stopped,
            (None, _) => Stage::Done,
        };
    }
}

/// Starts the warming of a loader.
///
/// # Errors
/// The text of the error reply: one is under way.
pub(super) fn start(node: &Arc<Node>, desk: &Arc<LoaderDesk>, keys: WarmKeys, rate: Option<u32>) -> Result<(), String> {
    let runtime = node.loader_runtime.get().expect("there is a loader, so there is its runtime");
    if !desk.warm.begin() {
        let name = desk.name();
        return Err(format!("LOADBUSY {name} is being warmed; LOADER WARM {name} STOP ends it"));
    }
    let (node, desk) = (Arc::clone(node), Arc::clone(desk));
    runtime.spawn(async move {
        // The desk itself may be replaced meanwhile, and is not to be held.
        let (name, warm) = (desk.name().to_owned(), Arc::clone(&desk.warm));
        let problem = match list(&desk, keys).await {
            Ok(keys) => {
                warm.total.store(keys.len() as u64, Ordering::Relaxed);
                warm.bad.fetch_add(keys.bad_rows, Ordering::Relaxed);
                load(&node, desk, &keys, rate).await.err()
            }
            Err(reason) => {
                tracing::warn!(loader = name, reason, "cannot list the keys to warm");
                Some(reason)
            }
        };
        warm.end(problem);
        let keys = warm.done.load(Ordering::Relaxed);
        tracing::info!(loader = name, state = warm.state(), keys, "warmed");
    });
    Ok(())
}

async fn list(desk: &LoaderDesk, keys: WarmKeys) -> Result<KeyList, String> {
    let keys_max = desk.config.warm_keys_max;
    match keys {
        WarmKeys::Selected(sql) => {
            let list = KeyList::with_limits(keys_max, keys_max.saturating_mul(KEY_BYTES_MEAN_MAX));
            desk.loader.list_keys(sql, list).await.map_err(|error| error.to_string())
        }
        WarmKeys::Named(keys) => {
            // They were in one request, which has limits of its own.
            let mut list = KeyList::with_limits(usize::MAX, usize::MAX);
            for key in keys {
                if !desk.fits(desk.config.db, &key) || !list.push(&key) {
                    list.bad_rows += 1;
                }
            }
            Ok(list)
        }
    }
}

/// Loads the keys, and waits until the last of them is done. Goes on with the loader that takes the place of this one.
///
/// # Errors
/// There is none any more.
async fn load(node: &Arc<Node>, desk: Arc<LoaderDesk>, keys: &KeyList, rate: Option<u32>) -> Result<(), String> {
    let (number, warm) = (desk.policy.loader, Arc::clone(&desk.warm));
    if !warm.go_on() {
        return Ok(());
    }
    let mut budget = Budget::new(rate.unwrap_or(desk.config.warm_rate), Instant::now());
    drop(desk);
    let mut next = 0;
    while next < keys.len() && !warm.is_stopping() {
        let desk = node.loaders.table().desk(number).cloned();
        let Some(desk) = desk.filter(|desk| Arc::ptr_eq(&desk.warm, &warm)) else {
            return Err("the loader was removed".to_owned());
        };
        let allowed = budget.take(Instant::now()).min(keys.len() - next).min(KEYS_PER_TURN);
        let must_wait = desk.is_paused() || desk.gate.refusal(Instant::now()).is_some();
        let places = if must_wait { 0 } else { desk.reserve_warm(allowed) };
        budget.give_back(allowed - places);
        if places == 0 {
            drop(desk);
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let mut loads = Vec::with_capacity(places);
        end(node, |turn| {
            for place in next..next + places {
                let key = keys.get(place).expect("the places are below the length");
                if node.owns(key) {
                    loads.extend(claim(&node.keyspace, turn, &desk, key));
                }
            }
        });
        // What the source does not have yet is not loaded from there.
        let loads = behind::answer(node, loads);
        let jobs: Vec<Job> = loads.into_iter().map(|load| Job { load, asked: Instant::now() }).collect();
        next += places;
        let skipped = places - jobs.len();
        warm.skipped.fetch_add(skipped as u64, Ordering::Relaxed);
        warm.done.fetch_add(skipped as u64, Ordering::Relaxed);
        warm.under_way.fetch_sub(skipped, Ordering::Relaxed);
        desk.queued.fetch_sub(skipped, Ordering::Relaxed);
        desk.counters.asked.fetch_add(jobs.len() as u64, Ordering::Relaxed);
        let count = jobs.len();
        if count > 0
            && let Err(SendError(jobs)) = desk.queue.send(jobs)
        {
            // Another loader is in its place, or the server is shutting down.
            desk.queued.fetch_sub(count, Ordering::Relaxed);
            pass_on(node, &desk, jobs);
        }
    }
    while warm.under_way.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The lease of a key that is not there and that nobody loads.
fn claim(keyspace: &Keyspace, turn: &mut Turn, desk: &LoaderDesk, key: &[u8]) -> Option<Load> {
    let (db, loader): (Db, u32) = (desk.config.db, desk.policy.loader);
    if !desk.fits(db, key) {
        // It did when the list was made.
        return None;
    }
    match keyspace.lookup(turn, db, key, Access::Quiet, |_| ()) {
        Lookup::Fresh(()) | Lookup::Negative { .. } => return None,
        Lookup::Stale(()) | Lookup::Absent => {}
    }
    let claim = Claim {
        claimant: Claimant::Server { loader },
        lease_ms: Some(LEASE_MS),
        version_min: None,
        fresh_required: false,
        stale_ms_max: None,
        waiter: None,
    };
    match keyspace.claim(turn, db, key, claim) {
        Claimed::Lead { token, .. } => {
            Some(Load { db, key: bytes::Bytes::copy_from_slice(key), token, loader, cause: LoadCause::Warm })
        }
        Claimed::Hit { .. } | Claimed::Negative { .. } | Claimed::Wait { .. } | Claimed::Parked { .. } => None,
    }
}

impl LoaderDesk {
    /// Takes up to `wanted` places of the queue for warming.
    fn reserve_warm(&self, wanted: usize) -> usize {
        let queries = (self.config.concurrency_max / QUERIES_SHARE).max(1);
        let under_way_max = (self.config.queue_max / BACKGROUND_SHARE).min(queries * self.loader.batch_max()).max(1);
        let under_way = self.warm.under_way.load(Ordering::Relaxed);
        let wanted = wanted.min(under_way_max.saturating_sub(under_way));
        let places = self.reserve(wanted, (self.config.queue_max / BACKGROUND_SHARE).max(1));
        self.warm.under_way.fetch_add(places, Ordering::Relaxed);
        places
    }
}

/// How many keys may be taken at a time: so many a second, and what was not taken in a tenth of a second is forgone.
struct Budget {
    rate: f64,
    keys: f64,
    at: Instant,
}

impl Budget {
    fn new(rate: u32, now: Instant) -> Self {
        Self { rate: f64::from(rate), keys: 1.0, at: now }
    }

    fn take(&mut self, now: Instant) -> usize {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.at = now;
        self.keys = (self.keys + earned).min((self.rate / 10.0).max(1.0));
        let whole = self.keys as usize;
        self.keys -= whole as f64;
        whole
    }

    fn give_back(&mut self, keys: usize) {
        self.keys += keys as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_so_many_a_second_and_does_not_pile_up() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut budget = Budget::new(100, begun);
        assert_eq!(budget.take(at(0)), 1);
        assert_eq!(budget.take(at(0)), 0);
        assert_eq!((1..=100).map(|turn| budget.take(at(turn * 10))).sum::<usize>(), 100);
        assert_eq!(budget.take(at(60_000)), 10, "a minute of waiting is no reason for a burst");
        budget.give_back(4);
        assert_eq!(budget.take(at(60_000)), 4);
        let mut slow = Budget::new(2, begun);
        assert_eq!((0..=40).map(|turn| slow.take(at(turn * 100))).sum::<usize>(), 9);
    }

    #[test]
    fn a_loader_is_warmed_once_at_a_time_and_can_be_stopped() {
        let warm = Warm::default();
        assert!(warm.begin() && !warm.begin());
        warm.stop();
        assert!(!warm.go_on() && !warm.begin(), "it ends first");
        warm.end(None);
        assert_eq!(warm.state(), "stopped");
        assert!(warm.begin() && warm.go_on());
        warm.end(Some("no".to_owned()));
        assert_eq!(warm.state(), "failed: no");
        warm.stop();
        assert_eq!(warm.state(), "failed: no", "there is nothing to stop");
    }
}
