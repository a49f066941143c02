//! What two clients that run beside a test have done so far: the test waits for progress instead of time, and ends them.

use crate::watch::until;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    ends: AtomicBool,
    /// By client: changes that were answered.
    pub changes: [AtomicUsize; 2],
    /// By client: reads that were answered.
    pub reads: [AtomicUsize; 2],
}

/// Ends the clients when it is dropped, also where the test fails: else it would wait for them for ever.
#[derive(Debug)]
pub struct End<'a>(&'a AtomicBool);

impl Board {
    /// Whether the clients are to end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// See [`End`].
    #[must_use]
    pub fn end(&self) -> End<'_> {
        End(&self.ends)
    }

    /// Waits until both clients have done so many more than now.
    ///
    /// # Panics
    /// If they never do; `what` says what was waited for.
    pub fn more(&self, what: &str, done: &[AtomicUsize; 2], more: usize) {
        let before = done.each_ref().map(|done| done.load(Ordering::Relaxed));
        until(what, || done.iter().zip(before).all(|(done, before)| done.load(Ordering::Relaxed) >= before + more));
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
