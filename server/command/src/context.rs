//! What a handler works with, and what it answers.

use crate::client::Client;
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
