//! Waiting for what a server will show: a condition that is looked at again and again, never a sleep of a guessed length.

use crate::client::PATIENCE;
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until `holds`, at most [`PATIENCE`].
///
/// # Panics
/// If it never does; `what` says what was waited for.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Waits until `find` finds something, at most [`PATIENCE`].
///
/// # Panics
/// If it never does; `what` says what was waited for.
pub fn until_some<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    found_in_time(find).unwrap_or_else(|| panic!("waited in vain: {what}"))
}

/// Waits until `holds`, at most [`PATIENCE`]; whether it came to that. For a test that has more to tell if not.
#[must_use]
pub fn holds_in_time(mut holds: impl FnMut() -> bool) -> bool {
    found_in_time(|| holds().then_some(())).is_some()
}

fn found_in_time<T>(mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = find();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The resident memory of a process, in bytes, without what it has mapped of files: how much of its own code a process built for tests
/// has in memory depends on what else the system has read, and is not the cache's.
///
/// # Panics
/// If the process is gone.
#[must_use]
pub fn rss_bytes(pid: u32) -> u64 {
    status_bytes(pid, "RssAnon:") + status_bytes(pid, "RssShmem:")
}

/// The most resident memory that a process has had, in bytes, what it has mapped of files included.
///
/// # Panics
/// If the process is gone.
#[must_use]
pub fn rss_peak_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a process has resident memory");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024
}

/// What resident memory may be under a `limit`, both in bytes.
#[must_use]
pub fn rss_max(limit: u64) -> u64 {
    const MEBIBYTE: u64 = 1 << 20;
    limit + limit / 20 + 20 * MEBIBYTE
}
