//! Who waits for a flush: `WAITDB`.

use super::{Behind, lock, tell};
use crate::node::Node;
use leasehold_keyspace::{Waiter, WakeEvent};
use std::sync::atomic::Ordering;

/// A command that waits until no change up to a number is pending.
pub(super) struct FlushWait {
    waiter: Waiter,
    loader: Option<u32>,
    up_to: u64,
}

impl Behind {
    /// The last change that was answered.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The place of a loader that writes behind, by its name.
    pub(crate) fn loader_named(&self, name: &[u8]) -> Option<u32> {
        self.desks.iter().flatten().find(|desk| desk.name.as_bytes() == name).map(|desk| desk.index)
    }

    /// Changes up to this one that are not flushed, of one loader or of all.
    pub(crate) fn unflushed(&self, loader: Option<u32>, up_to: u64) -> u64 {
        let is_meant = |index: u32| loader.is_none_or(|loader| loader == index);
        let desks = self.desks.iter().flatten().filter(|desk| is_meant(desk.index));
        desks.map(|desk| lock(&desk.pending).count_up_to(up_to) as u64).sum()
    }

    /// Wakes the waiter once nothing up to this change is pending. `false`: nothing is.
    pub(crate) fn wait_flushed(&self, loader: Option<u32>, up_to: u64, waiter: Waiter) -> bool {
        let mut waits = lock(&self.waits);
        if !self.is_pending_up_to(loader, up_to) {
            return false;
        }
        waits.push(FlushWait { waiter, loader, up_to });
        drop(waits);
        self.desks.iter().flatten().for_each(|desk| desk.hurry.notify_one());
        true
    }

    /// Takes back a wait.
    pub(crate) fn leave_flush(&self, waiter: Waiter) {
        lock(&self.waits).retain(|wait| wait.waiter != waiter);
    }

    /// Something was flushed: wakes those who have waited for it.
    pub(super) fn tell_waits(&self, node: &Node) {
        let mut waits = lock(&self.waits);
        waits.retain(|wait| {
            let waits_on = self.is_pending_up_to(wait.loader, wait.up_to);
            if !waits_on {
                tell(node, Some(wait.waiter), WakeEvent::Written { rows: 0 });
            }
            waits_on
        });
    }

    fn is_pending_up_to(&self, loader: Option<u32>, up_to: u64) -> bool {
        let is_meant = |index: u32| loader.is_none_or(|loader| loader == index);
        let mut desks = self.desks.iter().flatten().filter(|desk| is_meant(desk.index));
        desks.any(|desk| lock(&desk.pending).lowest().is_some_and(|lowest| lowest <= up_to))
    }
}
