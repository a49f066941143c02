//! Commands about the node: its commands, configuration and state.

mod acl;
mod categories;
mod command;
mod config;
mod database;
mod docs;
mod info;
mod keys;
mod node;

use crate::spec::Spec;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[
    &command::COMMAND,
    &info::INFO,
    &config::CONFIG,
    &database::DBSIZE,
    &database::FLUSHDB,
    &database::FLUSHALL,
    &node::TIME,
    &node::MODULE,
    &acl::ACL,
];
