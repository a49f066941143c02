//! Gives memory back to the system where nobody waits for it: what a flush has taken out is dropped on a thread of its own, at
//! low priority.

use leasehold_keyspace::Flushed;
use std::sync::mpsc::{Sender, channel};

/// Niceness of the thread: it works when the processors have nothing better to do.
const NICENESS: i32 = 10;

/// The thread; it ends with this.
pub(crate) struct Freeing(Option<Sender<Vec<Flushed>>>);

impl Freeing {
    /// Starts the thread. Without one, whoever flushes waits.
    pub(crate) fn start() -> Self {
        let (sender, receiver) = channel::<Vec<Flushed>>();
        let started = std::thread::Builder::new().name("free".into()).spawn(move || {
            // Refused, it competes with the others.
            let _ = rustix::process::nice(NICENESS);
            receiver.into_iter().flatten().for_each(drop);
        });
        if let Err(error) = &started {
            tracing::warn!(%error, "no thread to free memory on: whoever flushes waits for it");
        }
        Self(started.is_ok().then_some(sender))
    }

    pub(crate) fn free(&self, flushed: Vec<Flushed>) {
        if let Some(sender) = &self.0 {
            // Only a thread that panicked takes nothing more; then it is dropped here.
            let _ = sender.send(flushed);
        }
    }
}
