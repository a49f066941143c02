//! What only holds between options, and what only the databases can tell.

use super::Config;
use super::text;
use std::time::Duration;

/// The first rule between the server's options that does not hold: an option and what is wrong with it.
pub(crate) fn between_options(config: &Config) -> Option<(&'static str, String)> {
    let lease = &config.live.lease;
    if lease.lease_ms > lease.lease_ms_max {
        let most = text::show_duration(Duration::from_millis(lease.lease_ms_max));
        return Some(("lease-ms", format!("is longer than lease-ms-max ({most})")));
    }
    if config.limits.bulk_bytes_max > config.limits.request_bytes_max {
        let most = text::show_bytes(config.limits.request_bytes_max as u64);
        return Some(("proto-max-bulk-len", format!("is more than client-query-buffer-limit ({most})")));
    }
    None
}
