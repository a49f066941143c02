//! What a shard notes for operators besides keeping entries: which keys are hot, which are large, whose the hits are.
//!
//! ```text
//!     every hit and miss:   a counter, and one comparison with the count at which the next is sampled
//!     a sampled one:        hot keys of the shard, hits and misses by prefix and by loader
//!     every write:          sizes; the largest entries; one comparison with the keys that are audited
//! ```
//!
//! Nothing here is asked what to keep or to evict. All tables have a bound, and what a sample stands for is known, so figures
//! are estimates without a bias. How much memory a prefix has is not noted at all: whoever asks looks at some entries of
//! each shard ([`crate::attribution`]).

pub mod changes;
pub(crate) mod hot;
pub mod listing;
pub(crate) mod sampling;
pub mod sizes;
pub mod stream;
pub mod whatif;

use crate::attribution::Attribution;
use crate::lending::{Lent, Recalls};
use changes::{Changes, HashWindow};
use hot::HotKeys;
use sampling::Sampling;
use sizes::Sizes;
use std::sync::Arc;
use stream::Streams;

/// Places for hot and for large keys in all shards together, and how many a shard has at least and at most.
const PLACES: usize = 2048;
const PLACES_MIN: usize = 16;
const PLACES_MAX: usize = 256;

/// What all shards tell of their samples.
#[derive(Debug, Default)]
pub(crate) struct Observers {
    pub(crate) attribution: Attribution,
    pub(crate) streams: Streams,
    pub(crate) changes: Changes,
    pub(crate) recalls: Recalls,
}

/// What one shard has noted.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) hits: Sampling,
    pub(crate) misses: Sampling,
    pub(crate) hot: HotKeys,
    pub(crate) sizes: Sizes,
    /// Keys with a smaller hash are in a stream; 0 = there is none.
    pub(crate) streamed_below: u64,
    /// Keys whose changes are told.
    pub(crate) audited: HashWindow,
    /// Keys of which others hold copies.
    pub(crate) lent: Lent,
    pub(crate) observers: Arc<Observers>,
}

impl Watch {
    /// For one of `shards` shards, from `now_ms` on.
    pub(crate) fn new(shards: usize, seed: u64, now_ms: u64, observers: &Arc<Observers>) -> Self {
        let places = (PLACES / shards).clamp(PLACES_MIN, PLACES_MAX);
        Self {
            hits: Sampling::new(seed),
            misses: Sampling::new(!seed),
            hot: HotKeys::new(places, now_ms),
            sizes: Sizes::new(places),
            streamed_below: 0,
            audited: HashWindow::NONE,
            lent: Lent::default(),
            observers: Arc::clone(observers),
        }
    }

    /// Bytes of what was noted.
    pub(crate) fn bytes(&self) -> usize {
        self.hot.bytes() + self.sizes.bytes()
    }
}
