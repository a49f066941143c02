//! The reply writer: typed replies appended to the connection's output buffer, in the client's RESP version.
//!
//! A handler says what a value is (a map, a double, null); the version decides how it looks. RESP2 has no maps, sets,
//! doubles, booleans or one null, so they become arrays, bulk strings, integers and `$-1` or `*-1`, as Redis does it.

use std::fmt::{Display, Write as _};

/// The version of RESP a connection speaks; `HELLO` changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RespVersion {
    /// What a connection speaks until it says `HELLO 3`.
    V2,
    /// With maps, sets, doubles, booleans, one null, verbatim strings and pushes.
    V3,
}

/// Replies of one connection, in order, not yet sent.
#[derive(Debug)]
pub struct Reply {
    buffer: Vec<u8>,
    version: RespVersion,
    bytes_max: usize,
}

impl Reply {
    /// An empty buffer for a client that speaks `version`.
    #[must_use]
    pub fn new(version: RespVersion) -> Self {
        Self { buffer: Vec::new(), version, bytes_max: usize::MAX }
    }

    /// The version replies are written in.
    #[must_use]
    pub fn version(&self) -> RespVersion {
        self.version
    }

    /// Writes what follows in `version`.
    pub fn set_version(&mut self, version: RespVersion) {
        self.version = version;
    }

    /// The most bytes that the values of one command may have. Nothing here holds to it: who writes many values does, before
    /// each.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// See [`Reply::bytes_max`]; without a call there is no limit.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// What is to be sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Number of bytes to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing is to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Forgets what was written behind `len`: an answer that `CLIENT REPLY OFF` swallows.
    pub fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len);
    }

    /// The buffer itself, for the connection that sends it and gives memory back.
    pub fn buffer_mut(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.buffer.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string; `text` has no line end.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.buffer.push(b'+');
        self.buffer.extend_from_slice(text.as_bytes());
        self.crlf();
    }

    /// An error: `-` and the text, which begins with its code (`ERR`, `WRONGTYPE` …). Line ends become spaces.
    pub fn error(&mut self, error: &dyn Display) {
        self.buffer.push(b'-');
        let start = self.buffer.len();
        let mut text = String::new();
        write!(text, "{error}").expect("a String takes every write");
        self.buffer.extend_from_slice(text.as_bytes());
        for byte in &mut self.buffer[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.crlf();
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        match value {
            0 => self.buffer.extend_from_slice(b":0\r\n"),
            1 => self.buffer.extend_from_slice(b":1\r\n"),
            _ => self.header(b':', value),
        }
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.buffer.reserve(bytes.len() + 32);
        let digit = |value: usize| b'0' + (value % 10) as u8;
        match bytes.len() {
            // Arrays of known length become one store each.
            len @ 0..10 => self.buffer.extend_from_slice(&[b'$', digit(len), b'\r', b'\n']),
            len @ 10..100 => self.buffer.extend_from_slice(&[b'$', digit(len / 10), digit(len), b'\r', b'\n']),
            len @ 100..1000 => {
                let header = [b'$', digit(len / 100), digit(len / 10), digit(len), b'\r', b'\n'];
                self.buffer.extend_from_slice(&header);
            }
            len => self.header(b'$', len as i64),
        }
        self.buffer.extend_from_slice(bytes);
        self.crlf();
    }

    /// A bulk string of the number's decimal digits.
    pub fn bulk_integer(&mut self, value: i64) {
        let mut digits = itoa::Buffer::new();
        self.bulk(digits.format(value).as_bytes());
    }

    /// No value: `_` in RESP3, the null bulk string in RESP2.
    #[inline]
    pub fn null(&mut self) {
        self.buffer.extend_from_slice(match self.version {
            RespVersion::V2 => b"$-1\r\n",
            RespVersion::V3 => b"_\r\n",
        });
    }

    /// No array: `_` in RESP3, the null array in RESP2.
    pub fn null_array(&mut self) {
        self.buffer.extend_from_slice(match self.version {
            RespVersion::V2 => b"*-1\r\n",
            RespVersion::V3 => b"_\r\n",
        });
    }

    /// The header of an array of `len` elements, which the caller writes next.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// The header of a map of `pairs` keys and values; an array of twice as many in RESP2.
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            RespVersion::V2 => self.header(b'*', pairs as i64 * 2),
            RespVersion::V3 => self.header(b'%', pairs as i64),
        }
    }

    /// The header of a set of `len` elements; an array in RESP2.
    pub fn set(&mut self, len: usize) {
        match self.version {
            RespVersion::V2 => self.header(b'*', len as i64),
            RespVersion::V3 => self.header(b'~', len as i64),
        }
    }

    /// A double; a bulk string in RESP2. Infinities are `inf` and `-inf`, as in Redis.
    pub fn double(&mut self, value: f64) {
        let mut text = String::new();
        if value.is_nan() {
            text.push_str("nan");
        } else {
            write!(text, "{value}").expect("a String takes every write");
        }
        match self.version {
            RespVersion::V2 => self.bulk(text.as_bytes()),
            RespVersion::V3 => {
                self.buffer.push(b',');
                self.buffer.extend_from_slice(text.as_bytes());
                self.crlf();
            }
        }
    }

    /// A boolean; 1 or 0 in RESP2.
    pub fn boolean(&mut self, value: bool) {
        match self.version {
            RespVersion::V2 => self.integer(i64::from(value)),
            RespVersion::V3 => self.buffer.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A text with its format (`txt`, `mkd`); a bulk string in RESP2.
    pub fn verbatim(&mut self, format: &[u8; 3], text: &[u8]) {
        match self.version {
            RespVersion::V2 => self.bulk(text),
            RespVersion::V3 => {
                self.header(b'=', text.len() as i64 + 4);
                self.buffer.extend_from_slice(format);
                self.buffer.push(b':');
                self.buffer.extend_from_slice(text);
                self.crlf();
            }
        }
    }

    #[inline]
    fn crlf(&mut self) {
        self.buffer.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn header(&mut self, kind: u8, value: i64) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(value).as_bytes();
        self.buffer.push(kind);
        self.buffer.extend_from_slice(digits);
        self.crlf();
    }
}
