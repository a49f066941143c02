//! What each verb means. Commands are declared once, in [`table`]; lookup, arity errors, `COMMAND`, `COMMAND DOCS`, key
//! positions, statistics and the README's table derive from there.
//!
//! A handler runs to completion on the thread that read the request: it never awaits, blocks or sends. What it cannot
//! finish it returns as [`Parked`]. The world outside (loaders, configuration, other clients) is behind [`Host`], which
//! the binary implements for real and the tests with simulated time.

#![forbid(unsafe_code)]

pub mod argument;
pub mod audit;
pub mod bitmap;
pub mod client;
pub mod cluster;
pub mod connection;
pub mod context;
pub mod copies;
pub mod dispatch;
pub mod error;
pub mod feed;
pub mod generic;
pub mod glob;
mod groups;
pub mod help;
pub mod host;
pub mod lease;
pub(crate) mod listing;
pub mod loader;
pub mod memcached;
mod names;
pub mod parked;
pub mod readme;
pub(crate) mod redirect;
pub(crate) mod room;
pub mod server;
pub mod spec;
pub mod split;
pub mod stand_in;
pub mod string;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod usage;
pub(crate) mod writing;

pub use client::{Client, Names, ReplyMode, Routing};
pub use cluster::LINK_PROTOCOL;
pub use context::{Context, Forward, Outcome};
pub use copies::{read_keys_of_request, read_keys_of_text};
pub use dispatch::{execute, finish_effects};
pub use error::ReplyError;
pub use host::{
    AuditView, Change, ClientFilter, ClientRow, Count, Host, LetterView, LoaderOrder, LoaderPolicy, NO_CONFIGURATION,
    NO_JOURNAL, NO_LOADER_NAMED, RefreshRule, RefreshWhen, ServeStale, StatsOf, View, ViolationView, WarmKeys,
};
pub use loader::{WARM_RATE_MAX, load_ahead};
pub use names::{commands_total, name_by_index};
pub use parked::{Parked, give_back};
pub use spec::{Flags, Group, Keys, Spec};
pub use split::{Gather, Part, Split, Way};
pub use stand_in::{execute_for_another, execute_text_for_another, keys_of_request, keys_of_text};
