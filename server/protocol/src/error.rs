//! What a peer can do that ends its connection.

use std::fmt;

/// The client broke the protocol: the reply is `-ERR Protocol error: <text>` and the connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A multibulk header that is no number, or above `Limits::args_max`.
    InvalidMultibulkLength,
    /// More arguments, or longer ones, than a client may send before it authenticates.
    UnauthenticatedMultibulkLength,
    /// See [`ProtocolError::UnauthenticatedMultibulkLength`].
    UnauthenticatedBulkLength,
    /// An argument must open with `$`; this byte stood there.
    ExpectedDollar(u8),
    /// A bulk header that is no number, or above `Limits::bulk_bytes_max`.
    InvalidBulkLength,
    /// A header line longer than `Limits::inline_bytes_max`.
    TooBigMultibulkCount,
    /// See [`ProtocolError::TooBigMultibulkCount`].
    TooBigBulkCount,
    /// An inline command longer than `Limits::inline_bytes_max`.
    TooBigInline,
    /// An inline command with a quote that is not closed, or is followed by more text.
    UnbalancedQuotes,
    /// The bytes of an argument are not followed by CR LF.
    MissingBulkTerminator,
    /// The whole request is longer than `Limits::request_bytes_max`.
    RequestTooLong,
    /// A line of memcached's text protocol is longer than its command may have it.
    LineTooLong,
    /// The peer speaks HTTP or another protocol that a browser can be made to send (`POST`, `Host:`).
    CrossProtocol,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidMultibulkLength => f.write_str("invalid multibulk length"),
            Self::UnauthenticatedMultibulkLength => f.write_str("unauthenticated multibulk length"),
            Self::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
            Self::ExpectedDollar(byte) => write!(f, "expected '$', got '{}'", char::from(*byte)),
            Self::InvalidBulkLength => f.write_str("invalid bulk length"),
            Self::TooBigMultibulkCount => f.write_str("too big mbulk count string"),
            Self::TooBigBulkCount => f.write_str("too big bulk count string"),
            Self::TooBigInline => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::MissingBulkTerminator => f.write_str("an argument is not followed by CRLF"),
            Self::RequestTooLong => f.write_str("request longer than client-query-buffer-limit"),
            Self::LineTooLong => f.write_str("line too long"),
            Self::CrossProtocol => f.write_str("this is not an HTTP server"),
        }
    }
}

impl std::error::Error for ProtocolError {}
