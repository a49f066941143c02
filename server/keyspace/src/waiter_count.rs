//! How many clients wait in a shard, and in all shards together. The limit is the node's: shares of it for the shards would not
//! do, because all clients may wait on one key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The count of one shard.
#[derive(Debug, Default)]
pub(crate) struct WaiterCount {
    here: usize,
    /// Of this shard and those it shares with. Relaxed: it orders no other memory. Two shards at once may pass the limit by
    /// one each.
    total: Arc<AtomicUsize>,
}

impl WaiterCount {
    /// The count of another shard, still 0, with the same total.
    pub(crate) fn share(&self) -> Self {
        Self { here: 0, total: Arc::clone(&self.total) }
    }

    pub(crate) fn here(&self) -> usize {
        self.here
    }

    pub(crate) fn everywhere(&self) -> usize {
        self.total.load(Relaxed)
    }

    pub(crate) fn add_one(&mut self) {
        self.here += 1;
        self.total.fetch_add(1, Relaxed);
    }

    pub(crate) fn remove(&mut self, count: usize) {
        if count > 0 {
            self.here -= count;
            self.total.fetch_sub(count, Relaxed);
        }
    }
}
