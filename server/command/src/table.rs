//! The one command table, and lookup in it.

use crate::error::ReplyError;
use crate::spec::Spec;
use leasehold_protocol::Request;

/// All commands, in the order of their groups.
pub static TABLE: &[&Spec] = &[];

/// The command (or subcommand) that a request names, with its index in the statistics; arity is checked.
///
/// # Errors
/// [`ReplyError::UnknownCommand`], [`ReplyError::UnknownSubcommand`], [`ReplyError::WrongArity`].
pub fn find(request: Request<'_>) -> Result<(u16, &'static Spec), ReplyError> {
    let _ = request;
    todo!()
}
