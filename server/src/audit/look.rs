//! What GET would answer of a loader's key now, as far as it is answered as fresh.

use super::ledger::{Evidence, SHOWN_BYTES_MAX, Side};
use crate::behind;
use crate::load;
use crate::node::Node;
use bytes::Bytes;
use leasehold_keyspace::{Access, Db, Lookup, Turn};
use leasehold_loader_api::Row;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// What is there: `None` is a remembered absence.
#[derive(Clone, Copy, Debug)]
struct Seen<'e> {
    value: Option<&'e [u8]>,
    /// Internal, so that whatever replaces the entry has another.
    version: u64,
    external_version: Option<u64>,
    ttl_ms: Option<u64>,
    is_filled: bool,
}

/// How a key compares with its row.
pub(super) enum Compared {
    Same {
        version: u64,
    },
    Differs(Evidence),
    /// There is nothing fresh, or a change is pending, which is newer than the row.
    Nothing,
}

/// The version of what is there.
pub(super) fn version(node: &Arc<Node>, db: Db, key: &Bytes) -> Option<u64> {
    let mut version = None;
    load::end(node, |turn| version = look(node, turn, db, key, |seen| seen.version));
    version
}

/// Compares what is there with a row of the source.
pub(super) fn compare(node: &Arc<Node>, db: Db, key: &Bytes, row: &Row, digests: &Digests) -> Compared {
    let (value, source_version) = match row {
        Row::Value { value, version, .. } => (Some(value), *version),
        Row::Absent | Row::Behind(_) => (None, None),
    };
    let mut compared = None;
    load::end(node, |turn| {
        compared = look(node, turn, db, key, |seen| {
            if seen.value == value.map(|value| &value[..]) {
                return Compared::Same { version: seen.version };
            }
            Compared::Differs(Evidence {
                cached: seen.value.map(|value| digests.side(value, seen.external_version)),
                source: value.map(|value| digests.side(value, source_version)),
                ttl_ms: seen.ttl_ms,
                version: seen.version,
                is_filled: seen.is_filled,
            })
        });
    });
    compared.unwrap_or(Compared::Nothing)
}

fn look<R>(node: &Arc<Node>, turn: &mut Turn, db: Db, key: &[u8], read: impl FnOnce(Seen<'_>) -> R) -> Option<R> {
    let policy = node.loaders.table().policy_for(db, key);
    if policy.is_some_and(|policy| behind::is_pending(node, policy.loader, key)) {
        return None;
    }
    let now_ms = turn.now_ms;
    let mut read = Some(read);
    let found = node.keyspace.update(turn, db, key, |slot| {
        let (version, is_filled) = (slot.version()?, slot.is_filled());
        let entry = slot.entry()?;
        // One that a failed load has given a new life is known to be old.
        if entry.stale_since_ms.is_some() {
            return Some(None);
        }
        let ttl_ms = entry.expire_at_ms.map(|at_ms| at_ms.saturating_sub(now_ms));
        let external_version = entry.external_version;
        let seen = Seen { value: Some(entry.value), version, external_version, ttl_ms, is_filled };
        Some(read.take().map(|read| read(seen)))
    });
    if let Some(found) = found {
        return found;
    }
    match node.keyspace.lookup(turn, db, key, Access::Quiet, |_| ()) {
        Lookup::Negative { ttl_ms, version } => {
            let seen = Seen { value: None, version, external_version: None, ttl_ms: Some(ttl_ms), is_filled: true };
            read.take().map(|read| read(seen))
        }
        Lookup::Fresh(()) | Lookup::Stale(()) | Lookup::Absent => None,
    }
}

/// Names values without showing them: by a hash whose key nobody knows, so that a short value cannot be found by trying.
pub(super) struct Digests {
    hasher: RandomState,
    shows_values: bool,
}

impl Digests {
    pub(super) fn new(shows_values: bool) -> Self {
        Self { hasher: RandomState::new(), shows_values }
    }

    fn side(&self, value: &[u8], version: Option<u64>) -> Side {
        let is_shown = self.shows_values && value.len() <= SHOWN_BYTES_MAX;
        let shown = is_shown.then(|| Bytes::copy_from_slice(value));
        Side { len: value.len(), digest: self.hasher.hash_one(value), value: shown, version }
    }
}
