//! memcached's commands, on the same keys as Redis's: the same database 0, the same loaders, the same leases.
//!
//! Verbs are declared once, in [`table`], and have the shape of Redis's commands: a handler gets the [`Context`] that those get,
//! since keyspace, host, client, turn and parking are the same. Only the reply is not RESP: it is appended to the bytes of
//! [`leasehold_protocol::Reply`] with the helpers of [`leasehold_protocol::memcached::reply`].

pub mod dispatch;
mod entry;
mod lease;
mod meta;
mod number;
mod parked;
mod read;
mod routing;
mod store;
pub mod table;
mod upkeep;
pub(crate) mod writing;

pub use dispatch::execute;
pub(crate) use meta::{answer_copy as answer_meta, is_copied};
pub use read::load_ahead;
pub(crate) use routing::{keys, kind_of};
pub use table::{Handler, VERBS, Verb, find};

pub(crate) use parked::Form;

use crate::context::Context;

/// The memcached version whose behaviour this is: client libraries choose features by it.
pub const VERSION: &str = "1.6.45";

/// The values of many keys would be longer than `client-output-buffer-limit`.
pub(crate) const TOO_LONG: &[u8] = b"SERVER_ERROR out of memory writing get response";

/// Where the reply of the command under way goes.
#[inline]
pub(crate) fn buffer<'c>(context: &'c mut Context<'_>) -> &'c mut Vec<u8> {
    context.reply.buffer_mut()
}
