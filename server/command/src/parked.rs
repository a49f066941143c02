//! Commands that wait: for a fill, a lease, or the end of their patience.

use crate::context::{Context, Outcome};
use leasehold_keyspace::WakeEvent;

/// A command whose reply is still owed. The connection keeps it, and executes nothing else until it is done.
#[derive(Debug)]
pub struct Parked {
    /// Server time at which [`Parked::time_out`] is to be called.
    pub deadline_ms: u64,
}

impl Parked {
    /// One of the awaited keys has its answer. `None`: the command waits on; look at `deadline_ms` again.
    pub fn wake(&mut self, context: &mut Context<'_>, index: u32, event: WakeEvent) -> Option<Outcome> {
        let _ = (context, index, event);
        todo!()
    }

    /// The deadline has passed. `None`: the command waits on, with a later deadline.
    pub fn time_out(&mut self, context: &mut Context<'_>) -> Option<Outcome> {
        let _ = context;
        todo!()
    }

    /// The connection is gone: leave every queue, give back what was won.
    pub fn abandon(&mut self, context: &mut Context<'_>) {
        let _ = context;
        todo!()
    }
}
