//! What a handler works with, and what it answers.

use crate::argument::value_end;
use crate::client::Client;
use crate::error::ReplyError;
use crate::host::Host;
use crate::parked::Parked;
use crate::split::Split;
use leasehold_cluster::{Place, Slot, Touched};
use leasehold_keyspace::{Access, Keyspace, Turn};
use leasehold_protocol::Reply;

/// The arguments of every handler.
pub struct Context<'a> {
    /// The data.
    pub keyspace: &'a Keyspace,
    /// The world outside.
    pub host: &'a dyn Host,
    /// The connection's own state.
    pub client: &'a mut Client,
    /// Where the reply is written.
    pub reply: &'a mut Reply,
    /// The time, and what happens outside once the command is done.
    pub turn: &'a mut Turn,
}

/// How a command ended.
#[derive(Debug)]
pub enum Outcome {
    /// The reply is written.
    Replied,
    /// The reply comes later; the connection executes nothing else until then.
    Parked(Box<Parked>),
    /// The reply is written; the connection closes once it is sent.
    Close,
    /// Nothing was done or written: another node has the keys, and the request goes there.
    Forward(Forward),
    /// Nothing was done or written: several nodes have the keys, and each gets its part of the request.
    Split(Box<Split>),
    /// The reply is written; from here on the connection carries what the node at this place sends on.
    Link(Place),
}

/// A request that another node executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// That node, by its place in the topology.
    pub place: u16,
    /// Of the first key.
    pub slot: Slot,
    /// The client wants no reply.
    pub is_silent: bool,
    /// The reply may give a lease to the client, for argument 1.
    pub gives_lease: bool,
    /// The reply may be held up for that lease.
    pub waits_for_lease: bool,
    /// Whether it only reads: then another node may be asked if this one does not answer.
    pub is_read: bool,
    /// What it may change: copies of that are not to be used any more.
    pub touched: Touched,
    /// That node stands in for the one that has the keys: only what was loaded less than so long before, in ms, is an answer.
    pub age_max_ms: Option<u64>,
}

/// Growth in bytes that needs no room of its own: a request of some length has been made room for already.
const GROWTH_BYTES_MIN: usize = 4096;

impl Context<'_> {
    /// Evicts for a value that is about to reach to `offset + len`, however short the request that says so. Returns that
    /// end. The value may change before it is written: then a little more or less is evicted than needed.
    ///
    /// # Errors
    /// [`ReplyError::ValueTooLong`], [`ReplyError::OutOfMemory`].
    pub fn make_room_until(&mut self, key: &[u8], offset: u64, len: usize) -> Result<usize, ReplyError> {
        let end = value_end(offset, len, self.host.value_bytes_max())?;
        if end > GROWTH_BYTES_MIN {
            let (turn, db) = (&mut *self.turn, self.client.db);
            let held = self.keyspace.read(turn, db, key, Access::Quiet, |entry| entry.value.len()).unwrap_or(0);
            if end > held + GROWTH_BYTES_MIN {
                self.keyspace.make_room(turn, end - held).map_err(|_| ReplyError::OutOfMemory)?;
            }
        }
        Ok(end)
    }

    /// How a handler that may fail ends: its error, if there is one, is the reply. It must have written nothing then.
    #[inline]
    pub fn conclude(&mut self, result: Result<(), ReplyError>) -> Outcome {
        if let Err(error) = result {
            self.reply.error(&error);
        }
        Outcome::Replied
    }
}
