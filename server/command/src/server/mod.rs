//! Commands about the node: its commands, configuration and state.

mod acl;
mod categories;
mod command;
mod config;
mod database;
mod docs;
mod hotkeys;
mod info;
mod keys;
mod node;
mod trace;

use crate::argument::{is_word, unsigned};
use crate::error::ReplyError;
use crate::spec::Spec;
use leasehold_protocol::Request;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[
    &command::COMMAND,
    &info::INFO,
    &hotkeys::HOTKEYS,
    &trace::TRACE,
    &config::CONFIG,
    &database::DBSIZE,
    &database::FLUSHDB,
    &database::FLUSHALL,
    &node::TIME,
    &node::MODULE,
    &acl::ACL,
];

/// The number behind `COUNT`, if the arguments from `index` on are these two; `None` if there are none.
pub(crate) fn count_of(request: Request<'_>, index: usize) -> Result<Option<usize>, ReplyError> {
    match (request.get(index), request.get(index + 1)) {
        (None, _) => Ok(None),
        (Some(word), Some(count)) if request.len() == index + 2 && is_word(word, "COUNT") => {
            let count = unsigned(count).and_then(|count| usize::try_from(count).ok()).filter(|&count| count > 0);
            count.map(Some).ok_or(ReplyError::NotAnInteger)
        }
        _ => Err(ReplyError::Syntax),
    }
}
