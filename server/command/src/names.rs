//! The rows of the statistics: Redis's commands and subcommands, and behind them memcached's verbs.

use crate::memcached::VERBS;
use crate::table;

/// All rows: indices of commands are below this.
#[must_use]
pub fn commands_total() -> usize {
    table::commands_total() + VERBS.len()
}

/// `get`, `client|setname`, or `memcached|get`.
#[must_use]
pub fn name_by_index(index: u16) -> Option<String> {
    match table::spec_by_index(index) {
        Some(indexed) => Some(indexed.full_name()),
        None => {
            let verb = VERBS.get(usize::from(index).checked_sub(table::commands_total())?)?;
            Some(format!("memcached|{}", verb.name))
        }
    }
}
