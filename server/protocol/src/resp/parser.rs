//! The request parser: a resumable scanner over the connection's input buffer.
//!
//! A client's request is an array of bulk strings or an inline line, nothing else, so the parser keeps three numbers
//! between reads (arguments left, bulk bytes left, position) and the list of argument ranges. It copies nothing, except
//! inline arguments with quotes, which go to a scratch buffer. It does not decode RESP values in general: replies of
//! peers are read by `redis-protocol`.
//!
//! ```text
//! *2\r\n $3\r\nGET\r\n $7\r\nuser:42\r\n
//!            └ args[0]       └ args[1]     ranges into the input buffer
//! ```

use crate::error::ProtocolError;
use crate::limits::Limits;

/// What a call of [`Parser::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole request lies in the first `consumed` bytes of the input. It may be empty (a blank line, `*0`): no reply.
    Complete {
        /// Bytes of input that belong to the request; the caller drops them once the request is done.
        consumed: usize,
    },
    /// More input is needed; call again with the same bytes and more behind them.
    Incomplete,
}

/// One argument: a range of the bytes that hold it.
#[derive(Clone, Copy, Debug)]
struct Arg {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first byte of a request.
    Start,
    /// Inside an array, at the header of an argument.
    BulkHeader,
    /// Inside an argument whose header announced this many bytes.
    Bulk { len: u32 },
}

/// Parses requests from the front of a growing buffer, and remembers where it was.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// Next unread byte of the input.
    position: usize,
    args_left: usize,
    args: Vec<Arg>,
    /// Unescaped arguments of an inline command; empty for arrays.
    scratch: Vec<u8>,
    inline: bool,
}

/// The arguments of one request, borrowed from the input buffer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    bytes: &'a [u8],
    args: &'a [Arg],
}

impl<'a> Request<'a> {
    /// Number of arguments, the command name included.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// The argument at `index`; 0 is the command name.
    ///
    /// # Panics
    /// If `index >= self.len()`: handlers run after the arity check.
    #[inline]
    #[must_use]
    pub fn arg(&self, index: usize) -> &'a [u8] {
        let arg = self.args[index];
        &self.bytes[arg.start as usize..][..arg.len as usize]
    }

    /// The argument at `index`, if there is one.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        (index < self.args.len()).then(|| self.arg(index))
    }

    /// The arguments from `first` on.
    pub fn args_from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let Request { bytes, args } = *self;
        args[first.min(args.len())..].iter().map(move |arg| &bytes[arg.start as usize..][..arg.len as usize])
    }

    /// Bytes of all arguments together.
    #[must_use]
    pub fn bytes_total(&self) -> usize {
        self.args.iter().map(|arg| arg.len as usize).sum()
    }
}

/// Arguments kept between requests; a larger list is given back to the allocator.
const ARGS_KEPT_MAX: usize = 1024;

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the start of a request.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Start, position: 0, args_left: 0, args: Vec::new(), scratch: Vec::new(), inline: false }
    }

    /// Whether a request has begun and is not complete: the peer owes bytes.
    #[must_use]
    pub fn is_inside_request(&self) -> bool {
        self.state != State::Start || self.position > 0
    }

    /// Bytes that the argument under way still lacks (its CR LF included), 0 if unknown: how much to read at least.
    #[must_use]
    pub fn bytes_wanted(&self, input_len: usize) -> usize {
        match self.state {
            State::Bulk { len } => (self.position + len as usize + 2).saturating_sub(input_len),
            State::Start | State::BulkHeader => 0,
        }
    }

    /// Parses on from where the last call stopped. `input` is everything received since the last complete request.
    ///
    /// After `Complete` the arguments are read with [`Parser::request`]; the next call starts a new request, for which
    /// the caller must have dropped the consumed bytes.
    ///
    /// # Errors
    /// A [`ProtocolError`]; the caller answers it and closes the connection.
    pub fn parse(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.state == State::Start && self.position == 0 {
            self.args.clear();
            if self.args.capacity() > ARGS_KEPT_MAX {
                self.args.shrink_to(ARGS_KEPT_MAX);
            }
            if let Some(consumed) = self.parse_short(input, limits) {
                return Ok(Parsed::Complete { consumed });
            }
            self.args.clear();
            let Some(&first) = input.first() else { return Ok(Parsed::Incomplete) };
            if first != b'*' {
                return self.parse_inline(input, limits);
            }
            self.inline = false;
            let Some((count, next)) = header(input, 1, limits).map_err(|error| match error {
                HeaderError::TooLong => ProtocolError::TooBigMultibulkCount,
                HeaderError::NotANumber => ProtocolError::InvalidMultibulkLength,
            })?
            else {
                return Ok(Parsed::Incomplete);
            };
            if count <= 0 {
                return Ok(Parsed::Complete { consumed: next });
            }
            let count = usize::try_from(count).map_err(|_| ProtocolError::InvalidMultibulkLength)?;
            if count > limits.args_max {
                return Err(if limits.stranger && count <= Limits::DEFAULT.args_max {
                    ProtocolError::UnauthenticatedMultibulkLength
                } else {
                    ProtocolError::InvalidMultibulkLength
                });
            }
            self.args_left = count;
            self.position = next;
            self.state = State::BulkHeader;
        }
        self.parse_args(input, limits)
    }

    /// The common request in one go: up to nine arguments of up to 9,999 bytes, whole in the input. Whatever it does not
    /// like, it leaves to the scanner that can stop and go on, and that knows the errors.
    #[inline]
    fn parse_short(&mut self, input: &[u8], limits: &Limits) -> Option<usize> {
        let &[b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = input else { return None };
        let count = usize::from(count - b'0');
        if count > limits.args_max {
            return None;
        }
        let mut position = 4;
        for _ in 0..count {
            let (len, header_bytes) = short_bulk_header(input.get(position..)?)?;
            let start = position + header_bytes;
            let end = start + len;
            if input.get(end..end + 2)? != b"\r\n" || len > limits.bulk_bytes_max {
                return None;
            }
            self.args.push(Arg { start: start as u32, len: len as u32 });
            position = end + 2;
        }
        self.inline = false;
        (position <= limits.request_bytes_max).then_some(position)
    }

    fn parse_args(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        loop {
            let len = match self.state {
                State::Bulk { len } => len as usize,
                State::Start | State::BulkHeader => {
                    let Some(&first) = input.get(self.position) else { return Ok(Parsed::Incomplete) };
                    if first != b'$' {
                        return Err(ProtocolError::ExpectedDollar(first));
                    }
                    let Some((len, next)) = header(input, self.position + 1, limits).map_err(|error| match error {
                        HeaderError::TooLong => ProtocolError::TooBigBulkCount,
                        HeaderError::NotANumber => ProtocolError::InvalidBulkLength,
                    })?
                    else {
                        return Ok(Parsed::Incomplete);
                    };
                    let len = usize::try_from(len).map_err(|_| ProtocolError::InvalidBulkLength)?;
                    if len > limits.bulk_bytes_max {
                        return Err(if limits.stranger && len <= Limits::DEFAULT.bulk_bytes_max {
                            ProtocolError::UnauthenticatedBulkLength
                        } else {
                            ProtocolError::InvalidBulkLength
                        });
                    }
                    if next + len + 2 > limits.request_bytes_max {
                        return Err(ProtocolError::RequestTooLong);
                    }
                    self.position = next;
                    // In range: request_bytes_max is at most u32::MAX.
                    self.state = State::Bulk { len: len as u32 };
                    len
                }
            };
            let Some(terminator) = input.get(self.position + len..self.position + len + 2) else {
                return Ok(Parsed::Incomplete);
            };
            if terminator != b"\r\n" {
                return Err(ProtocolError::MissingBulkTerminator);
            }
            self.args.push(Arg { start: self.position as u32, len: len as u32 });
            self.position += len + 2;
            self.state = State::BulkHeader;
            self.args_left -= 1;
            if self.args_left == 0 {
                let consumed = self.position;
                self.position = 0;
                self.state = State::Start;
                return Ok(Parsed::Complete { consumed });
            }
        }
    }

    fn parse_inline(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let searched = &input[..input.len().min(limits.inline_bytes_max + 2)];
        let Some(end) = searched.iter().position(|&byte| byte == b'\n') else {
            return if input.len() > limits.inline_bytes_max {
                Err(ProtocolError::TooBigInline)
            } else {
                Ok(Parsed::Incomplete)
            };
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        self.inline = true;
        self.scratch.clear();
        split_inline(line, &mut self.scratch, &mut self.args)?;
        if let Some(name) = self.args.first() {
            let name = &self.scratch[..name.len as usize];
            // A web page can make a browser POST to us; its lines must not run as commands.
            if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:") {
                return Err(ProtocolError::CrossProtocol);
            }
        }
        Ok(Parsed::Complete { consumed: end + 1 })
    }

    /// The request that the last call of [`Parser::parse`] completed; `input` is what that call was given.
    #[inline]
    #[must_use]
    pub fn request<'a>(&'a self, input: &'a [u8]) -> Request<'a> {
        Request { bytes: if self.inline { &self.scratch } else { input }, args: &self.args }
    }
}

/// The length that `$1\r\n` to `$9999\r\n` announces, and the bytes of that header. The least argument that a short header
/// can stand before makes eight bytes with it (`$2\r\nab\r\n`); shorter ones are rare.
#[inline]
fn short_bulk_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let digit = |byte: u8| {
        let value = byte.wrapping_sub(b'0');
        (value < 10).then_some(usize::from(value))
    };
    match *bytes.first_chunk::<8>()? {
        [b'$', a, b'\r', b'\n', ..] => Some((digit(a)?, 4)),
        [b'$', a, b, b'\r', b'\n', ..] => Some((digit(a)? * 10 + digit(b)?, 5)),
        [b'$', a, b, c, b'\r', b'\n', ..] => Some(((digit(a)? * 10 + digit(b)?) * 10 + digit(c)?, 6)),
        [b'$', a, b, c, d, b'\r', b'\n', _] => {
            Some((((digit(a)? * 10 + digit(b)?) * 10 + digit(c)?) * 10 + digit(d)?, 7))
        }
        _ => None,
    }
}

enum HeaderError {
    TooLong,
    NotANumber,
}

/// Reads a number and CR LF at `start`: the number and the offset behind it, or `None` if the line is not whole yet.
#[inline]
fn header(input: &[u8], start: usize, limits: &Limits) -> Result<Option<(i64, usize)>, HeaderError> {
    let rest = input.get(start..).unwrap_or_default();
    // The common case by far: one to three digits and CR LF.
    let mut value: i64 = 0;
    for (index, &byte) in rest.iter().take(10).enumerate() {
        if byte.is_ascii_digit() {
            value = value * 10 + i64::from(byte - b'0');
        } else if byte == b'\r' && index > 0 {
            return match rest.get(index + 1) {
                Some(b'\n') => Ok(Some((value, start + index + 2))),
                Some(_) => Err(HeaderError::NotANumber),
                None => Ok(None),
            };
        } else {
            break;
        }
    }
    header_slow(rest, start, limits)
}

#[cold]
fn header_slow(rest: &[u8], start: usize, limits: &Limits) -> Result<Option<(i64, usize)>, HeaderError> {
    let Some(end) = rest.iter().take(limits.inline_bytes_max).position(|&byte| byte == b'\r') else {
        return if rest.len() >= limits.inline_bytes_max { Err(HeaderError::TooLong) } else { Ok(None) };
    };
    match rest.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(HeaderError::NotANumber),
    }
    let digits = rest[..end].strip_prefix(b"-").unwrap_or(&rest[..end]);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HeaderError::NotANumber);
    }
    let text = std::str::from_utf8(&rest[..end]).map_err(|_| HeaderError::NotANumber)?;
    let value = text.parse().map_err(|_| HeaderError::NotANumber)?;
    Ok(Some((value, start + end + 2)))
}

/// Splits a line as a shell would, with Redis's rules: `"…"` with escapes (`\n \r \t \b \a \xHH`), `'…'` with `\'`.
fn split_inline(line: &[u8], scratch: &mut Vec<u8>, args: &mut Vec<Arg>) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(());
        }
        let start = scratch.len();
        rest = match rest[0] {
            b'"' => double_quoted(&rest[1..], scratch)?,
            b'\'' => single_quoted(&rest[1..], scratch)?,
            _ => bare_word(rest, scratch)?,
        };
        args.push(Arg { start: start as u32, len: (scratch.len() - start) as u32 });
    }
}

/// A closing quote must end the argument.
fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !byte.is_ascii_whitespace() => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

/// A word up to white space. A quote inside it opens a quoted part that must end the word, as in Redis.
fn bare_word<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            b'"' => return double_quoted(tail, scratch),
            b'\'' => return single_quoted(tail, scratch),
            _ if byte.is_ascii_whitespace() => break,
            _ => scratch.push(byte),
        }
        rest = tail;
    }
    Ok(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (&byte, tail) = rest.split_first().ok_or(ProtocolError::UnbalancedQuotes)?;
        match (byte, tail) {
            (b'"', _) => return after_quote(tail),
            (b'\\', [b'x', high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                scratch.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = &tail[3..];
            }
            (b'\\', [escaped, ..]) => {
                scratch.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = &tail[1..];
            }
            _ => {
                scratch.push(byte);
                rest = tail;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (&byte, tail) = rest.split_first().ok_or(ProtocolError::UnbalancedQuotes)?;
        match (byte, tail) {
            (b'\'', _) => return after_quote(tail),
            (b'\\', [b'\'', ..]) => {
                scratch.push(b'\'');
                rest = &tail[1..];
            }
            _ => {
                scratch.push(byte);
                rest = tail;
            }
        }
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

/// The first argument of a request in the form that clients send, an array of bulk strings; which is the key for nearly all
/// commands. A hint, for fetching memory ahead: nothing is checked that is not needed to find it, and `None` says nothing.
#[must_use]
pub fn first_key(input: &[u8]) -> Option<&[u8]> {
    let (_, rest) = short_header(input, b'*')?;
    let (name_len, rest) = short_header(rest, b'$')?;
    let (key_len, rest) = short_header(rest.get(name_len + 2..)?, b'$')?;
    rest.get(..key_len)
}

/// The number in a header of one to three digits, and what comes behind its line.
#[inline]
fn short_header(input: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    if *input.first()? != kind {
        return None;
    }
    let mut number = 0;
    for at in 1..=4 {
        match *input.get(at)? {
            digit @ b'0'..=b'9' => number = number * 10 + usize::from(digit - b'0'),
            b'\r' => return Some((number, input.get(at + 2..)?)),
            _ => return None,
        }
    }
    None
}
