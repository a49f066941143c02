//! Transcripts: conversations with the server as text, one file for every world they run in.
//!
//! ```text
//! # Two readers miss together: one query, two answers.
//! loader users:1 -> "ann" after 20ms
//! a> GET users:1
//! b> GET users:1
//! +20ms
//! a< "ann"    b< "ann"    loads users:1 = 1
//! ```
//!
//! `tests/transcripts/README.md` has the whole notation. A file runs over RESP2 and RESP3, with one shard and with many, in
//! simulated time and over real sockets; a file of Redis's own commands runs against redis-server as well, so that what it
//! claims is Redis's behaviour and not only ours.

mod parse;
pub mod pattern;
mod run;
mod source;
mod text;
mod world;

pub use parse::{Answer, Row, Statement, Transcript, Word};
pub use run::{Failure, run};
pub(crate) use text::duration_ms;
pub use world::{Place, Setting};
