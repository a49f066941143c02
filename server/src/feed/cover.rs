//! What a feed covers: all keys of some loaders, which become stale at once when changes may have been missed.

use crate::config::LoaderConfig;
use crate::load;
use crate::node::Node;
use leasehold_keyspace::Db;
use std::sync::Arc;

/// Keys of a loader.
#[derive(Clone, Debug)]
pub(crate) struct Cover {
    db: Db,
    /// What every key of the pattern begins with.
    prefix: Vec<u8>,
}

impl Cover {
    pub(crate) fn new(loader: &LoaderConfig) -> Self {
        Self { db: loader.db, prefix: loader.key_prefix() }
    }
}

/// Makes every entry of a loader stale, ends its negatives, and voids the tokens of loads that began before now; in a time that does not
/// depend on how many there are. Other keys that begin with what its keys begin with become stale with them.
pub(crate) fn cover_is_stale(node: &Arc<Node>, cover: &Cover) {
    load::end(node, |turn| node.keyspace.invalidate_prefix(turn, cover.db, &cover.prefix));
}
