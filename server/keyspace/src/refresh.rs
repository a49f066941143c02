//! Refresh before expiry: the server takes the lease of a key whose value is still fresh, and loads it anew behind its readers.
//!
//! ```text
//!   loaded                      due: one load, token as for a miss      TTL
//!     ├──────── fresh ─────────────────┬───────────────────────────────┤
//!     │  readers: the value            │  readers: the value           │  readers park on that load, if it still runs
//!                                      └► fill: new value, new TTL │ absent: negative │ failed: as it was, not again at once
//! ```
//!
//! The lease is that of a miss, so rule 1 of SPEC §2 holds for its fill without a word of its own: a DEL, SET or INVAL meanwhile
//! takes the token off the record. Not here: which keys have a loader, and when theirs are due; that comes with [`Refresh`].

use crate::entry::Key;
use crate::keyspace::Keyspace;
use crate::lease::{Claim, Claimant};
use crate::lease_table::{Contest, RECORD_BYTES};
use crate::settings::Db;
use crate::shard::Shard;
use crate::turn::Turn;

/// After a refresh that brought nothing the key gets another no sooner than after half of what is left of its fresh life, but
/// within these, in ms: a dead source is asked once a second for a key, and a value of a short life is tried again before its end.
const AGAIN_MS_MIN: u64 = 50;
const AGAIN_MS_MAX: u64 = 1_000;

/// What a reader of a loader's key asks for when the value it has read is near its end.
#[derive(Clone, Copy, Debug)]
pub struct Refresh {
    /// Index of the loader.
    pub loader: u32,
    /// How long the load may fill, in ms.
    pub lease_ms: u64,
    /// The value is due so long before the end of its fresh life, in ms.
    pub early_ms: u64,
    /// And, added to that, so many times what its last load took.
    pub early_loads: f64,
}

impl Keyspace {
    /// The token for loading a fresh value anew, if it is due and nobody loads it. Only values that a load has brought are: what
    /// a client has SET stays until it expires. Nobody waits for it and nothing is changed until it is filled.
    pub fn claim_refresh(&self, turn: &mut Turn, db: Db, key: &[u8], refresh: Refresh) -> Option<u64> {
        // As for any claim; see `Keyspace::claim`.
        let _ = self.make_room(turn, key.len() + RECORD_BYTES);
        self.with_shard(db, key, |shard, key| shard.claim_refresh(key, &refresh, turn))
    }
}

impl Shard {
    fn claim_refresh(&mut self, key: &Key<'_>, refresh: &Refresh, turn: &mut Turn) -> Option<u64> {
        // As for a claim: what a bump covers is no fresh value.
        self.settle_leases(key);
        let place = self.find_live(key, turn.now_ms)?;
        let fields = self.entry(place).fields();
        let left_ms = fields.expire_at_ms?.checked_sub(turn.now_ms).filter(|&left_ms| left_ms > 0)?;
        // The new life that a failed load gave is a pause for the source.
        let is_loaded = fields.load_ms > 0 && fields.stale_since_ms.is_none();
        let early_ms = refresh.early_ms as f64 + refresh.early_loads * f64::from(fields.load_ms);
        if !is_loaded || early_ms < left_ms as f64 || !self.leases.may_refresh(key.db, key.bytes, turn.now_ms) {
            return None;
        }
        let claim = Claim {
            claimant: Claimant::Server { loader: refresh.loader },
            lease_ms: Some(refresh.lease_ms),
            version_min: None,
            fresh_required: true,
            stale_ms_max: None,
            waiter: None,
        };
        let load_ms = Some(u64::from(fields.load_ms));
        match self.lease_event(key, turn, |leases, at| leases.contest(&at, &claim, load_ms)) {
            Contest::Lead(issue) => Some(issue.token),
            Contest::Parked | Contest::Wait { .. } | Contest::Failed { .. } => None,
        }
    }

    /// A load of the key has failed: if its value is fresh all the same, it was a refresh, and the next has to wait.
    pub(crate) fn postpone_refresh(&mut self, key: &Key<'_>, now_ms: u64) {
        let expire_at_ms = self.find(key).and_then(|place| self.entry(place).expire_at_ms());
        if let Some(left_ms) = expire_at_ms.and_then(|at_ms| at_ms.checked_sub(now_ms)).filter(|&left_ms| left_ms > 0) {
            let again_ms = (left_ms / 2).clamp(AGAIN_MS_MIN, AGAIN_MS_MAX);
            self.leases.postpone_refresh(key.db, key.bytes, now_ms + again_ms);
        }
    }
}
