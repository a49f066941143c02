//! Writing through: one transaction of the source for each command that writes, on the loaders' runtime.
//!
//! A write passes the breakers as a load does, and counts in them; while one is open it is refused at once.
//!
//! Once the source has committed, or may have, the keys are invalidated: leases on them end, and what was read before is never
//! stored. The next reader loads what the source has, which may be more than the client wrote.

use super::gate::Ending;
use super::{LoaderDesk, end};
use crate::node::Node;
use leasehold_command::Change;
use leasehold_keyspace::{Db, Waiter, Wake, WakeEvent};
use leasehold_loader_api as api;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::Semaphore;

/// The writes of one loader.
pub(super) struct Writes {
    /// Transactions under way at one time.
    permits: Arc<Semaphore>,
    counts: Arc<WriteCounts>,
}

/// All relaxed: each is a number of its own.
#[derive(Default)]
struct WriteCounts {
    /// Commands that wait for their transaction or its end.
    under_way: AtomicU64,
    /// Changes that are committed.
    written: AtomicU64,
    /// Commands of which nothing is written.
    failed: AtomicU64,
    /// Commands that may be written or not.
    unknown: AtomicU64,
}

impl Writes {
    pub(super) fn new(concurrency_max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(concurrency_max.max(1))), counts: Arc::default() }
    }

    /// The writes of a loader in the place of this one.
    pub(super) fn going_on(&self, concurrency_max: usize, are_permits_kept: bool) -> Self {
        let counts = Arc::clone(&self.counts);
        match are_permits_kept {
            true => Self { permits: Arc::clone(&self.permits), counts },
            false => Self { counts, ..Self::new(concurrency_max) },
        }
    }

    /// For `LOADER STATS`.
    pub(super) fn counters(&self) -> [(&'static str, i64); 4] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        [
            ("writes", value(&self.counts.written)),
            ("writes_failed", value(&self.counts.failed)),
            ("writes_unknown", value(&self.counts.unknown)),
            ("writes_under_way", value(&self.counts.under_way)),
        ]
    }
}

/// See `Host::start_write`.
pub(crate) fn start(
    node: &Arc<Node>,
    loader: u32,
    db: Db,
    changes: Vec<Change>,
    waiter: Waiter,
) -> Result<u64, String> {
    let desk = node.loaders.table().desk(loader).cloned();
    let (Some(runtime), Some(desk)) = (node.loader_runtime.get(), desk) else {
        return Err(super::no_loader(loader));
    };
    let takes = desk.loader.writes();
    for (is_taken, is_there, command, option) in [
        (takes.upserts, changes.iter().any(|change| change.value.is_some()), "SET", "upsert_sql"),
        (takes.deletes, changes.iter().any(|change| change.value.is_none()), "DEL", "delete_sql"),
    ] {
        if is_there && !is_taken {
            return Err(format!("ERR {command} needs {option}, which loader '{}' has not", desk.name()));
        }
    }
    if let Some(behind) = node.behind.get().filter(|behind| behind.has(loader)) {
        behind.submit(loader, changes, waiter, desk.config.queue_max as u64)?;
        return Ok(desk.policy.hard_timeout_ms);
    }
    if let Some(why) = desk.gate.refusal(Instant::now()) {
        return Err(format!("WRITEFAIL {} {why}", desk.name()));
    }
    let queue_max = desk.config.queue_max as u64;
    if desk.writes.counts.under_way.fetch_add(1, Ordering::Relaxed) >= queue_max {
        desk.writes.counts.under_way.fetch_sub(1, Ordering::Relaxed);
        return Err(format!("LOADBUSY {} queue full: {queue_max} writes wait for the source", desk.name()));
    }
    let hard_timeout_ms = desk.policy.hard_timeout_ms;
    let task = {
        let node = Arc::clone(node);
        async move { write(&node, &desk, db, changes, waiter).await }
    };
    runtime.spawn(task);
    Ok(hard_timeout_ms)
}

async fn write(node: &Arc<Node>, desk: &LoaderDesk, db: Db, changes: Vec<Change>, waiter: Waiter) {
    // Closed by nobody.
    let _permit = Arc::clone(&desk.writes.permits).acquire_owned().await;
    let changes: Vec<api::Change> =
        changes.into_iter().map(|Change { key, value }| api::Change { key, value }).collect();
    let keys: Vec<_> = changes.iter().map(|change| change.key.clone()).collect();
    // It may have opened while this waited; or this is the one that tries.
    let written = match desk.gate.enter(Instant::now()) {
        Ok(entry) => {
            let written = desk.loader.write(changes).await;
            desk.gate.leave(Instant::now(), entry, &Ending::of_write(&written));
            written
        }
        Err(why) => Err(api::WriteError::Unavailable(why)),
    };
    if matches!(written, Ok(_) | Err(api::WriteError::Unknown(_))) {
        end(node, |turn| {
            turn.actor = leasehold_keyspace::Actor::Write;
            for key in &keys {
                node.keyspace.update(turn, db, key, |slot| slot.remove());
            }
        });
    }
    let event = match written {
        Ok(rows) => {
            desk.writes.counts.written.fetch_add(keys.len() as u64, Ordering::Relaxed);
            WakeEvent::Written { rows: rows.iter().filter(|&&rows| rows > 0).count() as u64 }
        }
        Err(error) => failed(desk, &error),
    };
    desk.writes.counts.under_way.fetch_sub(1, Ordering::Relaxed);
    node.post_wake(Wake { waiter, event });
}

fn failed(desk: &LoaderDesk, error: &api::WriteError) -> WakeEvent {
    let (counter, word) = match error {
        api::WriteError::Unknown(_) => (&desk.writes.counts.unknown, "UNKNOWNSTATE"),
        api::WriteError::Refused(_)
        | api::WriteError::Blocked(_)
        | api::WriteError::TimedOut(_)
        | api::WriteError::Unavailable(_) => (&desk.writes.counts.failed, "WRITEFAIL"),
    };
    counter.fetch_add(1, Ordering::Relaxed);
    let reason = format!("{word} {} {error}", desk.name());
    desk.note_error(&reason);
    WakeEvent::Failed { stale: None, reason: reason.into() }
}
