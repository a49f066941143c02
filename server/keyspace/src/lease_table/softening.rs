//! Soft invalidations of one shard's leases: which tokens may only replace a stale value, and when no longer.

use super::{LeaseTable, Moment, RecordRef};
use crate::settings::Db;

impl LeaseTable {
    /// The key was softly invalidated: tokens issued so far may at most replace its stale value. As
    /// [`LeaseTable::revoke`] otherwise.
    pub(crate) fn soften(&mut self, db: Db, key: &[u8]) -> bool {
        let Some(record) = self.records.get_mut(&RecordRef { db, key }).filter(|_| self.revoking) else { return false };
        record.forget_failure();
        record.issued.iter_mut().for_each(|issued| issued.softened = true);
        record.drop_client();
        !record.issued.is_empty()
    }

    /// As [`LeaseTable::soften`], of the tokens that were issued before a stamp. The next sweep tells those who wait.
    pub(crate) fn soften_before(&mut self, db: Db, key: &[u8], stamp: u64) {
        if let Some(record) = self.records.get_mut(&RecordRef { db, key }).filter(|_| self.revoking) {
            record.soften_before(stamp);
            self.due_ms = self.due_ms.min(record.due_ms());
        }
    }

    /// As [`LeaseTable::soften_before`], for all keys that are `wanted`.
    pub(crate) fn soften_where(&mut self, stamp: u64, wanted: impl Fn(Db, &[u8]) -> bool) {
        let wanted = self.records.iter_mut().filter(|(name, _)| self.revoking && wanted(name.db, &name.key));
        for (_, record) in wanted {
            record.soften_before(stamp);
            self.due_ms = self.due_ms.min(record.due_ms());
        }
    }

    /// `token` has replaced a stale value by one that is stale too: older ones may not any more.
    pub(crate) fn filled_stale(&mut self, at: &Moment<'_>, token: u64) {
        let Some(record) = self.records.get_mut(&at.name()) else { return };
        record.issued.retain(|issued| issued.token > token);
        record.filled_up_to = record.filled_up_to.max(token);
    }

    /// A stale value was replaced by one that is stale too, without a token: those that were overtaken by an invalidation may not replace
    /// it any more.
    pub(crate) fn spend_softened(&mut self, db: Db, key: &[u8]) {
        let Some(record) = self.records.get_mut(&RecordRef { db, key }) else { return };
        // The rest were issued after all of them.
        let newest = record.issued.iter().filter(|issued| issued.softened).map(|issued| issued.token).max();
        record.issued.retain(|issued| !issued.softened);
        record.filled_up_to = record.filled_up_to.max(newest.unwrap_or(0));
    }
}
