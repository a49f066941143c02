//! A reply as a tree, for both versions of RESP.
//!
//! Written apart from the server's own reply writer and from `redis-protocol`, so that a mistake in either shows. It keeps
//! what the wire said: a null bulk string and a null array stay apart, a double keeps its text.

use std::fmt;

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `+`
    Simple(String),
    /// `-`, the whole text with its code.
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1`, RESP2 only.
    NullBulk,
    /// `*-1`, RESP2 only.
    NullArray,
    /// `_`, RESP3 only.
    Null,
    /// `*`
    Array(Vec<Value>),
    /// `%`, RESP3 only.
    Map(Vec<(Value, Value)>),
    /// `~`, RESP3 only.
    Set(Vec<Value>),
    /// `>`, RESP3 only.
    Push(Vec<Value>),
    /// `,` as it was written, RESP3 only.
    Double(String),
    /// `#`, RESP3 only.
    Boolean(bool),
    /// `=`: format and text, RESP3 only.
    Verbatim(String, Vec<u8>),
    /// `(`, RESP3 only.
    BigNumber(String),
}

/// The bytes are no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Nesting that no reply of ours needs.
const DEPTH_MAX: usize = 64;

/// Reads one reply from the front of `bytes`: the reply and its length, or `None` if it is not whole yet.
///
/// # Errors
/// [`Malformed`]; the test that sees it fails.
pub fn decode(bytes: &[u8]) -> Result<Option<(Value, usize)>, Malformed> {
    let mut cursor = Cursor { bytes, position: 0 };
    Ok(cursor.value(DEPTH_MAX)?.map(|value| (value, cursor.position)))
}

impl Value {
    /// A bulk string.
    #[must_use]
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    /// Whether this is a null of any kind.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null | Self::NullBulk | Self::NullArray)
    }

    /// The bytes of a bulk, simple or verbatim string.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) | Self::Verbatim(_, bytes) => Some(bytes),
            Self::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The text of a bulk, simple or verbatim string, lossy.
    ///
    /// # Panics
    /// If the reply is of another type.
    #[must_use]
    pub fn text(&self) -> String {
        let bytes = self.bytes().unwrap_or_else(|| panic!("a string was expected, the reply is {self}"));
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The number of an integer reply.
    ///
    /// # Panics
    /// If the reply is of another type.
    #[must_use]
    pub fn integer(&self) -> i64 {
        match self {
            Self::Integer(value) => *value,
            other => panic!("an integer was expected, the reply is {other}"),
        }
    }

    /// The elements of an array, set or push.
    ///
    /// # Panics
    /// If the reply is of another type.
    #[must_use]
    pub fn elements(&self) -> &[Value] {
        match self {
            Self::Array(elements) | Self::Set(elements) | Self::Push(elements) => elements,
            other => panic!("an array was expected, the reply is {other}"),
        }
    }

    /// The text of an error reply.
    ///
    /// # Panics
    /// If the reply is no error.
    #[must_use]
    pub fn error(&self) -> &str {
        match self {
            Self::Error(text) => text,
            other => panic!("an error was expected, the reply is {other}"),
        }
    }
}

/// The notation of the transcripts.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) if text.trim() == text => write!(f, "-{text}"),
            Self::Error(text) => write!(f, "-{}", Quoted(text.as_bytes())),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Bulk(bytes) => write!(f, "{}", Quoted(bytes)),
            Self::NullBulk | Self::Null => f.write_str("nil"),
            Self::NullArray => f.write_str("nil-array"),
            Self::Array(elements) => write_list(f, "[", elements),
            Self::Set(elements) => write_list(f, "~[", elements),
            Self::Push(elements) => write_list(f, ">[", elements),
            Self::Map(pairs) => {
                f.write_str("{")?;
                for (index, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Double(text) => write!(f, "({text})"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Verbatim(format, text) => write!(f, "{format}:{}", Quoted(text)),
            Self::BigNumber(text) => write!(f, "({text})"),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, open: &str, elements: &[Value]) -> fmt::Result {
    f.write_str(open)?;
    for (index, element) in elements.iter().enumerate() {
        write!(f, "{}{element}", if index == 0 { "" } else { ", " })?;
    }
    f.write_str("]")
}

/// Bytes in double quotes, with escapes for what is not printable ASCII.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for &byte in self.0 {
            match byte {
                b'"' => f.write_str("\\\"")?,
                b'\\' => f.write_str("\\\\")?,
                b'\n' => f.write_str("\\n")?,
                b'\r' => f.write_str("\\r")?,
                b'\t' => f.write_str("\\t")?,
                b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_str("\"")
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn value(&mut self, depth: usize) -> Result<Option<Value>, Malformed> {
        if depth == 0 {
            return Err(Malformed("nested too deeply".to_owned()));
        }
        let Some(line) = self.line()? else { return Ok(None) };
        let Some((&kind, rest)) = line.split_first() else { return Err(Malformed("empty line".to_owned())) };
        let text = || String::from_utf8_lossy(rest).into_owned();
        Ok(Some(match kind {
            b'+' => Value::Simple(text()),
            b'-' => Value::Error(text()),
            b':' => Value::Integer(number(rest)?),
            b',' => Value::Double(text()),
            b'(' => Value::BigNumber(text()),
            b'_' if rest.is_empty() => Value::Null,
            b'#' if rest == b"t" => Value::Boolean(true),
            b'#' if rest == b"f" => Value::Boolean(false),
            b'$' if rest == b"-1" => Value::NullBulk,
            b'*' if rest == b"-1" => Value::NullArray,
            b'$' => match self.payload(number(rest)?)? {
                Some(bytes) => Value::Bulk(bytes),
                None => return Ok(None),
            },
            b'=' => match self.payload(number(rest)?)? {
                Some(bytes) if bytes.len() >= 4 && bytes[3] == b':' => {
                    Value::Verbatim(String::from_utf8_lossy(&bytes[..3]).into_owned(), bytes[4..].to_vec())
                }
                Some(_) => return Err(Malformed("verbatim string without a format".to_owned())),
                None => return Ok(None),
            },
            b'*' | b'~' | b'>' => {
                let Some(elements) = self.values(number(rest)?, depth)? else { return Ok(None) };
                match kind {
                    b'*' => Value::Array(elements),
                    b'~' => Value::Set(elements),
                    _ => Value::Push(elements),
                }
            }
            b'%' => {
                let Some(flat) = self.values(number(rest)? * 2, depth)? else { return Ok(None) };
                let mut pairs = Vec::with_capacity(flat.len() / 2);
                let mut flat = flat.into_iter();
                while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
                    pairs.push((key, value));
                }
                Value::Map(pairs)
            }
            _ => return Err(Malformed(format!("unknown reply line {}", Quoted(line)))),
        }))
    }

    fn values(&mut self, count: i64, depth: usize) -> Result<Option<Vec<Value>>, Malformed> {
        let count = usize::try_from(count).map_err(|_| Malformed(format!("length {count}")))?;
        let mut values = Vec::new();
        for _ in 0..count {
            let Some(value) = self.value(depth - 1)? else { return Ok(None) };
            values.push(value);
        }
        Ok(Some(values))
    }

    fn payload(&mut self, len: i64) -> Result<Option<Vec<u8>>, Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed(format!("length {len}")))?;
        let Some(bytes) = self.bytes.get(self.position..self.position + len + 2) else { return Ok(None) };
        let Some(payload) = bytes.strip_suffix(b"\r\n") else {
            return Err(Malformed("a bulk string is not followed by CR LF".to_owned()));
        };
        self.position += len + 2;
        Ok(Some(payload.to_vec()))
    }

    fn line(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let rest: &'a [u8] = &self.bytes[self.position..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let Some(line) = rest[..end].strip_suffix(b"\r") else {
            return Err(Malformed(format!("line without CR: {}", Quoted(&rest[..end]))));
        };
        self.position += end + 1;
        Ok(Some(line))
    }
}

fn number(digits: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Malformed(format!("no number: {}", Quoted(digits))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_nested_replies_and_waits_for_whole_ones() {
        let bytes = b"%1\r\n$1\r\na\r\n*3\r\n:-5\r\n_\r\n,1.5\r\n";
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), Ok(None));
        }
        let (value, len) = decode(bytes).expect("well formed").expect("whole");
        assert_eq!(len, bytes.len());
        assert_eq!(value.to_string(), "{\"a\": [-5, nil, (1.5)]}");
    }

    #[test]
    fn keeps_the_nulls_of_both_versions_apart() {
        for (bytes, value) in
            [(&b"$-1\r\n"[..], Value::NullBulk), (b"*-1\r\n", Value::NullArray), (b"_\r\n", Value::Null)]
        {
            assert_eq!(decode(bytes), Ok(Some((value, bytes.len()))));
        }
    }

    #[test]
    fn refuses_what_is_no_reply() {
        for bytes in [&b"?1\r\n"[..], b":x\r\n", b"$3\r\nabcde", b"+OK\n", b"*-2\r\n"] {
            assert!(decode(bytes).is_err(), "{}", Quoted(bytes));
        }
    }
}
