//! Which groups of tests can run on this machine. A group that needs a program which is not installed is left out and says
//! so; under `LEASEHOLD_TESTS_REQUIRE=all`, which `tests/run` sets, it fails instead.

use std::io::Write as _;
use std::path::PathBuf;

/// Whether everything must run.
#[must_use]
pub fn all_required() -> bool {
    std::env::var("LEASEHOLD_TESTS_REQUIRE").is_ok_and(|value| value == "all")
}

/// Says that `group` is left out.
///
/// # Panics
/// If everything must run.
pub fn leave_out(group: &str, why: &str) {
    assert!(!all_required(), "group `{group}` cannot run: {why} (LEASEHOLD_TESTS_REQUIRE=all)");
    say(&format!("left out: {group}: {why}"));
}

/// Writes a line that the test harness does not swallow.
pub fn say(line: &str) {
    // Straight to the stream: `eprintln!` of a test that passes is captured. A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Where a program is, by PATH.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// The program, or the group is left out.
///
/// # Panics
/// If everything must run and the program is missing.
#[must_use]
pub fn program_for(group: &str, name: &str) -> Option<PathBuf> {
    let found = program(name);
    if found.is_none() {
        leave_out(group, &format!("`{name}` is not installed"));
    }
    found
}
