//! memcached's text protocol: a line of words, and for storage commands a block of data behind it.

pub mod parser;
pub mod reply;

pub use parser::{Fault, Limits, Parser, Request, Storage, first_key};
