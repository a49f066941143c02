//! What each verb means. Commands are declared once, in [`table`]; lookup, arity errors, `COMMAND`, `COMMAND DOCS`, key
//! positions, statistics and the README's table derive from there.
//!
//! A handler runs to completion on the thread that read the request: it never awaits, blocks or sends. What it cannot
//! finish it returns as [`Parked`]. The world outside (loaders, configuration, other clients) is behind [`Host`], which
//! the binary implements for real and the tests with simulated time.

#![forbid(unsafe_code)]

pub mod client;
pub mod context;
pub mod dispatch;
pub mod error;
pub mod host;
pub mod parked;
pub mod spec;
pub mod table;

pub use client::{Client, ReplyMode};
pub use context::{Context, Outcome};
pub use dispatch::{execute, finish_effects};
pub use error::ReplyError;
pub use host::{ClientFilter, ClientRow, Host, LoaderPolicy, LoaderView, ServeStale};
pub use parked::Parked;
pub use spec::{Flags, Group, Keys, Spec};
