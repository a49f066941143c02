//! The wire protocols, without input or output: bytes in, requests out; values in, reply bytes out.
//!
//! Nothing here reads a socket, a clock or a configuration file. Every limit is an argument.

#![forbid(unsafe_code)]

pub mod error;
pub mod limits;
pub mod memcached;
pub mod resp;

pub use error::ProtocolError;
pub use limits::Limits;
pub use resp::parser::{Parsed, Parser, Request, first_key};
pub use resp::reply::{Reply, RespVersion};
