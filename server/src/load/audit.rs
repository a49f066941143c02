//! What the auditor asks of a source: behind everything that somebody waits for, and nothing that could do harm.
//!
//! It takes a place among the loader's queries only if one is free and no load waits for one, so there are never more queries under way than
//! `max_concurrency`. While the loader is paused, or a breaker is not closed, it does not ask; it is no probe, and what
//! becomes of its queries moves no breaker.

use super::table::Table;
use crate::node::Node;
use bytes::Bytes;
use leasehold_keyspace::{Actor, Db, LoadCause};
use leasehold_loader_api::{LoadRequest, Loaded};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What became of a question.
pub(crate) enum Asked {
    /// One answer per key, in order.
    Answers(Vec<Loaded>),
    /// Others come first; worth another try soon.
    Later,
    /// The source is not to be asked now, or gave no answer.
    Refused,
}

impl Table {
    /// The most keys that one query of a loader takes.
    pub(crate) fn batch_max(&self, loader: u32) -> usize {
        self.desk(loader).map_or(1, |desk| desk.loader.batch_max().max(1))
    }

    /// In which the loaders have keys, each once.
    pub(crate) fn databases(&self) -> Vec<Db> {
        let numbers: BTreeSet<u8> = self.list.iter().map(|desk| desk.config.db.0).collect();
        numbers.into_iter().map(Db).collect()
    }
}

/// Who fills by a load of this cause.
pub(super) fn actor(cause: LoadCause) -> Actor {
    match cause {
        LoadCause::Missed | LoadCause::Invalidated | LoadCause::HolderLost => Actor::Load,
        LoadCause::Refresh => Actor::Refresh,
        LoadCause::Warm => Actor::Warm,
    }
}

/// Loads keys of one loader, at most as many as a query takes, and stores nothing.
pub(crate) async fn ask(node: &Arc<Node>, loader: u32, keys: Vec<Bytes>) -> Asked {
    let table = node.loaders.table();
    let Some(desk) = table.desk(loader) else { return Asked::Refused };
    // A reload may have given the keys to another loader.
    if !keys.iter().all(|key| desk.loader.matches(key)) {
        return Asked::Refused;
    }
    if desk.is_paused() || desk.gate.trouble(Instant::now()).is_some() {
        return Asked::Refused;
    }
    if desk.queued.load(Ordering::Relaxed) > 0 {
        return Asked::Later;
    }
    let Ok(_permit) = Arc::clone(&desk.permits).try_acquire_owned() else { return Asked::Later };
    let loader = Arc::clone(&desk.loader);
    let count = keys.len();
    // A task of its own: a panic in a loader is its own trouble.
    match tokio::spawn(async move { loader.load(LoadRequest { keys }).await }).await {
        Ok(answers) if answers.len() == count => Asked::Answers(answers),
        Ok(_) | Err(_) => Asked::Refused,
    }
}
