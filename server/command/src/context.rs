//! What a handler works with, and what it answers.

use crate::client::Client;
use crate::error::ReplyError;
use crate::host::Host;
use crate::parked::Parked;
use leasehold_keyspace::{Keyspace, Turn};
use leasehold_protocol::Reply;

/// The arguments of every handler.
pub struct Context<'a> {
    pub keyspace: &'a Keyspace,
    pub host: &'a dyn Host,
    /// The connection's own state.
    pub client: &'a mut Client,
    pub reply: &'a mut Reply,
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
}

impl Context<'_> {
    /// How a handler that may fail ends: its error, if there is one, is the reply. It must have written nothing then.
    #[inline]
    pub fn conclude(&mut self, result: Result<(), ReplyError>) -> Outcome {
        if let Err(error) = result {
            self.reply.error(&error);
        }
        Outcome::Replied
    }
}
