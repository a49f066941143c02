//! RESP2 and RESP3: what Redis clients speak.

pub mod parser;
pub mod reply;
