//! What a feed covers: all keys of some loaders, which become stale at once when changes may have been missed.

use crate::load;
use crate::node::Node;
use leasehold_keyspace::{Db, Invalidation};
use leasehold_loader_sql::Template;
use std::sync::Arc;

/// Keys of a loader.
#[derive(Clone, Debug)]
pub(crate) struct Cover {
    pub(crate) db: Db,
    pub(crate) template: Template,
}

/// Entries that a step looks at before others may lock the shard.
const STEP: usize = 256;

/// Makes every entry of a loader stale, ends its negatives, and voids the tokens of loads that began before now. In steps, so that
/// nobody waits; a load that begins meanwhile sees the database as it is.
pub(crate) async fn cover_is_stale(node: &Arc<Node>, cover: &Cover) {
    let Cover { db, template } = cover;
    // Leases first: what they fill after this is stale, and what they have filled is found below.
    let leases = node.keyspace.leases(&mut node.turn(), *db, usize::MAX, |key| template.matches(key));
    load::end(node, |turn| {
        for lease in &leases {
            node.keyspace.invalidate(turn, *db, &lease.key, Invalidation::Soft { stale_ms: None }, None);
        }
    });
    // Negatives have no list: all of them go.
    node.keyspace.set_absence_bytes_max(0);
    node.keyspace.set_absence_bytes_max(node.live.live().absence_bytes_max());
    let mut cursor = 0;
    loop {
        let mut keys = Vec::new();
        cursor = node.keyspace.scan(&mut node.turn(), *db, cursor, STEP, |entry| {
            if template.matches(entry.key) {
                keys.push(entry.key.to_vec());
            }
        });
        load::end(node, |turn| {
            for key in &keys {
                node.keyspace.invalidate(turn, *db, key, Invalidation::Soft { stale_ms: None }, None);
            }
        });
        if cursor == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}
