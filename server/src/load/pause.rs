//! LOADER PAUSE: no load of a loader begins until LOADER RESUME, for as long as somebody works on its database.
//!
//! Loads under way end and fill as ever. What is wanted meanwhile, and what stands in the queue, is refused: its readers have the
//! stale value if the loader allows that, else `-LOADFAIL name paused` at once. LOADER TEST goes on
//! asking, to see whether all is well again, and writes go through: whoever writes wants the database to have it.

use super::{Job, LoaderDesk, end};
use crate::node::Node;
use leasehold_keyspace::Load;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl LoaderDesk {
    pub(super) fn pause(&self) {
        if !self.is_paused.swap(true, Ordering::Relaxed) {
            tracing::info!(loader = self.name(), "paused");
        }
    }

    pub(super) fn resume(&self) {
        if self.is_paused.swap(false, Ordering::Relaxed) {
            tracing::info!(loader = self.name(), "resumed");
        }
    }

    /// Relaxed: a load that is asked for at the same moment may still begin.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    pub(super) fn refuse_paused(&self, group: Vec<Load>, refused: &mut Vec<(Load, String)>) {
        self.count_refused(&group, &self.counters.paused);
        refused.extend(group.into_iter().map(|load| (load, self.paused_text())));
    }

    fn paused_text(&self) -> String {
        format!("LOADFAIL {} paused", self.name())
    }
}

/// Refuses what was queued before the pause.
pub(super) fn give_up(node: &Arc<Node>, desk: &LoaderDesk, batch: &[Job]) {
    let reason: Arc<str> = desk.paused_text().into();
    end(node, |turn| {
        for Job { load, .. } in batch {
            desk.count_refused(std::slice::from_ref(load), &desk.counters.paused);
            // No new life for a stale value: it ends with the pause, not a second later.
            node.keyspace.fail(turn, load.db, &load.key, load.token, &reason, 0);
        }
    });
}
