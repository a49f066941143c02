//! What a lease table tells of a key without changing anything.

use super::{LeaseTable, RecordRef};
use crate::settings::Db;

impl LeaseTable {
    /// Until when somebody leads, if nobody changes it: before that no token is issued. `None`: nobody does.
    pub(crate) fn led_until_ms(&self, db: Db, key: &[u8]) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        self.records.get(&RecordRef { db, key })?.holder.map(|holder| holder.until_ms)
    }

    /// Whether a token is out that may fill the key, or replace its stale value.
    pub(crate) fn has_tokens(&self, db: Db, key: &[u8], now_ms: u64) -> bool {
        let record = self.records.get(&RecordRef { db, key });
        record.is_some_and(|record| record.issued.iter().any(|issued| issued.valid_until_ms > now_ms))
    }
}
