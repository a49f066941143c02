//! The request parser: a resumable scanner over the connection's input buffer, as [`crate::resp::parser`].
//!
//! A request is the words of its line and, for commands that store, the block of data whose length the line announces. What the
//! parser must know to find the end of a request, it reads: so the numbers of a storage line are read here, once. It copies nothing
//! and keeps the ranges of the words only. A block that is too large is passed over as it arrives and never held.
//!
//! ```text
//! set user:42 0 60 3\r\n abc\r\n
//! └─┴ words ┴─┴──┴─┘     └ data        ranges into the input buffer
//! ```
//!
//! A mistake on the line is a [`Fault`] of the request: it has an answer, and the connection goes on, in step where memcached is (the line
//! tells how long the data is), and out of step where memcached is (it does not).

use crate::error::ProtocolError;
use crate::resp::parser::Parsed;

/// Bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest line in bytes, its end included, of all commands but those that read many keys.
    pub line_bytes_max: usize,
    /// Longest line of `get`, `gets`, `gat` and `gats`.
    pub multiget_bytes_max: usize,
    /// Most words of such a line.
    pub words_max: usize,
    /// Longest key in bytes.
    pub key_bytes_max: usize,
    /// Most bytes of an entry, as memcached counts them: see [`ENTRY_OVERHEAD_BYTES`].
    pub entry_bytes_max: usize,
}

impl Limits {
    /// What memcached accepts.
    pub const DEFAULT: Self = Self {
        line_bytes_max: 2048,
        multiget_bytes_max: 64 * 1024 * 1024,
        words_max: 1024 * 1024,
        key_bytes_max: 250,
        entry_bytes_max: 1024 * 1024,
    };

    /// What a client may send before it has authenticated.
    #[must_use]
    pub fn unauthenticated(self) -> Self {
        Self { multiget_bytes_max: self.line_bytes_max, entry_bytes_max: self.entry_bytes_max.min(16 * 1024), ..self }
    }
}

/// What memcached counts of an entry beside key and value (its header, the CAS, a NUL and the CR LF), on 64-bit machines: so that
/// the same values are too large here and there.
pub const ENTRY_OVERHEAD_BYTES: usize = 59;

/// Client flags that are not 0 count so many bytes more.
pub const FLAGS_BYTES: usize = 4;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No request can be read from the line: it is shorter than any, or does not tell how much data comes, or a flag begins with what
    /// no flag does. What follows is read as requests.
    Unreadable,
    /// A key is too long, or a number of a storage line is none. Its data is passed over.
    LineFormat,
    /// No CR LF stands behind so many bytes of data as the line announces; that many, and two, are gone.
    DataChunk,
    /// The line announces more data than an entry may have. It is passed over.
    TooLarge,
    /// No request at all: data of a block that is passed over.
    Skipped,
}

/// One word: a range of the input.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    start: u32,
    len: u32,
}

/// The numbers of a storage line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Client flags.
    pub flags: u32,
    /// As the client wrote it.
    pub exptime: i64,
    /// `cas`: the version that the entry must have; `lease-set`: the token.
    pub unique: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// On the line.
    Line,
    /// Behind the line, at a block of this length.
    Data { len: u32 },
    /// In a block that is too large: so many bytes are left to pass over.
    Skip { left: usize },
}

/// Parses requests from the front of a growing buffer, and remembers where it was.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// Next byte of the input that was not looked at.
    position: usize,
    /// Where the word under way begins; `position` if none has begun.
    word_start: usize,
    /// Bytes of the longest word behind the first.
    longest: u32,
    words: Vec<Word>,
    data: Option<Word>,
    storage: Storage,
    fault: Option<Fault>,
}

/// The words and the data of one request, borrowed from the input buffer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    bytes: &'a [u8],
    parser: &'a Parser,
}

impl<'a> Request<'a> {
    /// Number of words, the command's name included.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.parser.words.len()
    }

    /// The word at `index`; 0 is the command's name.
    #[inline]
    #[must_use]
    pub fn word(&self, index: usize) -> Option<&'a [u8]> {
        self.parser.words.get(index).map(|&word| self.range(word))
    }

    /// The words from `first` on.
    pub fn words_from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let Request { bytes, parser: Parser { words, .. } } = *self;
        words[first.min(words.len())..].iter().map(move |word| &bytes[word.start as usize..][..word.len as usize])
    }

    /// The block of data, of a storage command whose block is whole.
    #[inline]
    #[must_use]
    pub fn data(&self) -> Option<&'a [u8]> {
        self.parser.data.map(|data| self.range(data))
    }

    /// The numbers of a storage line; zeros for other commands.
    #[inline]
    #[must_use]
    pub fn storage(&self) -> Storage {
        self.parser.storage
    }

    /// What is wrong with it, if something is.
    #[inline]
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.parser.fault
    }

    /// Whether the last word is `noreply`.
    #[inline]
    #[must_use]
    pub fn is_noreply(&self) -> bool {
        self.parser.words.last().is_some_and(|&word| self.range(word) == b"noreply")
    }

    /// Bytes of all words and the data together.
    #[must_use]
    pub fn bytes_total(&self) -> usize {
        self.parser.words.iter().chain(&self.parser.data).map(|word| word.len as usize).sum()
    }

    #[inline]
    fn range(&self, word: Word) -> &'a [u8] {
        &self.bytes[word.start as usize..][..word.len as usize]
    }
}

/// Words kept between requests; a larger list is given back to the allocator.
const WORDS_KEPT_MAX: usize = 1024;

/// memcached reads lengths as signed 32-bit numbers, and adds the two bytes of CR LF.
const DATA_BYTES_MAX: u64 = i32::MAX as u64 - 2;

/// The shortest line with its end in which memcached looks for a command.
const LINE_BYTES_MIN: usize = 4;

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the start of a request.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Line,
            position: 0,
            word_start: 0,
            longest: 0,
            words: Vec::new(),
            data: None,
            storage: Storage::default(),
            fault: None,
        }
    }

    /// Whether a request has begun and is not complete: the peer owes bytes.
    #[inline]
    #[must_use]
    pub fn is_inside_request(&self) -> bool {
        self.state != State::Line || self.position > 0
    }

    /// Behind a request whose data is passed over: a parser that does it, so that this one can keep the request.
    #[must_use]
    pub fn take_rest(&mut self) -> Self {
        Self { state: std::mem::replace(&mut self.state, State::Line), ..Self::new() }
    }

    /// Parses on from where the last call stopped. `input` is everything received since the last complete request.
    ///
    /// After `Complete` the request is read with [`Parser::request`]; the next call starts a new one, for which the caller must have
    /// dropped the consumed bytes. A request of [`Fault::TooLarge`] or [`Fault::LineFormat`] may leave the parser inside its data: the calls
    /// that follow must be to this same parser, or to its [`Parser::take_rest`], and complete [`Fault::Skipped`] requests until the data has passed.
    ///
    /// # Errors
    /// A [`ProtocolError`]; the caller closes the connection.
    #[inline]
    pub fn parse(&mut self, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if let State::Line = self.state {
            if self.position == 0 {
                self.begin();
            }
            let Some(line_end) = self.scan_line(input, limits)? else { return Ok(Parsed::Incomplete) };
            self.position = 0;
            self.word_start = 0;
            if line_end < LINE_BYTES_MIN {
                self.fault = Some(Fault::Unreadable);
                return Ok(Parsed::Complete { consumed: line_end });
            }
            let announced = self.announced(input);
            if self.longest as usize > limits.key_bytes_max && self.fault.is_none() && self.has_long_key(input, limits)
            {
                self.fault = Some(Fault::LineFormat);
            }
            return match announced {
                Some(len) => self.begin_data(input, line_end, len, limits),
                None => Ok(Parsed::Complete { consumed: line_end }),
            };
        }
        self.parse_data(input)
    }

    #[inline]
    fn begin(&mut self) {
        self.words.clear();
        if self.words.capacity() > WORDS_KEPT_MAX {
            self.words.shrink_to(WORDS_KEPT_MAX);
        }
        self.longest = 0;
        self.data = None;
        self.storage = Storage::default();
        self.fault = None;
    }

    /// Finds words up to the end of the line; the offset behind it, or `None` if it is not whole yet. A line that begins with a space has
    /// an empty first word: the command that stands behind is none.
    #[inline]
    fn scan_line(&mut self, input: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        if self.position == 0 && input.first() == Some(&b' ') {
            self.push(0, 0);
        }
        let mut breaks = Breaks { at: self.position, found: 0 };
        let mut start = self.word_start;
        while let Some(found) = breaks.next(input) {
            if input[found] == b' ' {
                if found > start {
                    self.push(start, found);
                }
                start = found + 1;
                continue;
            }
            let end = if found > start && input[found - 1] == b'\r' { found - 1 } else { found };
            if end > start {
                self.push(start, end);
            }
            self.check_length(found + 1, input, limits)?;
            return Ok(Some(found + 1));
        }
        (self.position, self.word_start) = (input.len(), start);
        self.check_length(input.len(), input, limits)?;
        Ok(None)
    }

    #[inline]
    fn push(&mut self, start: usize, end: usize) {
        let len = (end - start) as u32;
        if !self.words.is_empty() {
            self.longest = self.longest.max(len);
        }
        // In range: `check_length` holds lines to less than 4 GiB.
        self.words.push(Word { start: start as u32, len });
    }

    /// Whether so long a line is allowed to the command that it names.
    #[inline]
    fn check_length(&self, len: usize, input: &[u8], limits: &Limits) -> Result<(), ProtocolError> {
        if len <= limits.line_bytes_max { Ok(()) } else { self.check_long_line(len, input, limits) }
    }

    #[cold]
    fn check_long_line(&self, len: usize, input: &[u8], limits: &Limits) -> Result<(), ProtocolError> {
        let is_multiget = self.words.first().is_some_and(|&Word { start, len }| {
            matches!(&input[start as usize..][..len as usize], b"get" | b"gets" | b"gat" | b"gats")
        });
        let bytes_max = if is_multiget { limits.multiget_bytes_max } else { limits.line_bytes_max };
        let fits = len <= bytes_max.min(u32::MAX as usize) && self.words.len() <= limits.words_max;
        if fits { Ok(()) } else { Err(ProtocolError::LineTooLong) }
    }

    /// How many bytes of data the line announces; `None`: it has none. Notes what is wrong with it.
    #[inline]
    fn announced(&mut self, input: &[u8]) -> Option<u32> {
        let name = self.range(0, input)?;
        let shape = match name {
            b"set" | b"add" | b"replace" | b"append" | b"prepend" => Shape { unique: None, flags: 2 },
            b"cas" => Shape { unique: Some(5), flags: 2 },
            b"lease-set" => Shape { unique: Some(2), flags: 3 },
            b"ms" => return self.announced_by_meta_set(input),
            _ => return None,
        };
        let Some(len) = self.range(shape.flags + 2, input).and_then(data_len) else {
            self.fault = Some(Fault::Unreadable);
            return None;
        };
        let numbers = || {
            let flags = u32::try_from(unsigned(without_plus(self.range(shape.flags, input)?))?).ok()?;
            let exptime = signed(without_plus(self.range(shape.flags + 1, input)?))?;
            let unique = match shape.unique {
                Some(index) => unsigned(self.range(index, input)?)?,
                None => 0,
            };
            Some(Storage { flags, exptime, unique })
        };
        match numbers() {
            Some(storage) => self.storage = storage,
            None => self.fault = Some(Fault::LineFormat),
        }
        Some(len)
    }

    fn announced_by_meta_set(&mut self, input: &[u8]) -> Option<u32> {
        let are_flags = || self.words.iter().skip(3).all(|word| may_be_flag(input[word.start as usize]));
        let len = self.range(2, input).and_then(data_len).filter(|_| are_flags());
        if len.is_none() {
            self.fault = Some(Fault::Unreadable);
        }
        len
    }

    /// Whether a word that is a key to the command is longer than a key may be.
    #[cold]
    fn has_long_key(&self, input: &[u8], limits: &Limits) -> bool {
        let keys = match self.range(0, input).unwrap_or_default() {
            b"get" | b"gets" | b"lease-get" => 1..self.words.len(),
            b"gat" | b"gats" => 2..self.words.len(),
            b"flush_all" | b"stats" | b"version" | b"verbosity" | b"cache_memlimit" | b"shutdown" | b"quit" | b"mn" => {
                0..0
            }
            _ => 1..2,
        };
        self.words.get(keys).is_some_and(|keys| keys.iter().any(|key| key.len as usize > limits.key_bytes_max))
    }

    #[inline]
    fn begin_data(
        &mut self,
        input: &[u8],
        line_end: usize,
        len: u32,
        limits: &Limits,
    ) -> Result<Parsed, ProtocolError> {
        let key = self.words.get(1).map_or(0, |key| key.len as usize);
        let flags = if self.storage.flags == 0 { 0 } else { FLAGS_BYTES };
        if self.fault.is_none() && len as usize + key + flags + ENTRY_OVERHEAD_BYTES > limits.entry_bytes_max {
            self.fault = Some(Fault::TooLarge);
        }
        if self.fault.is_some() {
            self.state = State::Skip { left: len as usize + 2 };
            return Ok(Parsed::Complete { consumed: line_end });
        }
        self.position = line_end;
        self.state = State::Data { len };
        self.parse_data(input)
    }

    #[inline]
    fn parse_data(&mut self, input: &[u8]) -> Result<Parsed, ProtocolError> {
        match self.state {
            State::Data { len } => {
                let end = self.position + len as usize;
                let Some(terminator) = input.get(end..end + 2) else { return Ok(Parsed::Incomplete) };
                if terminator == b"\r\n" {
                    self.data = Some(Word { start: self.position as u32, len });
                } else {
                    self.fault = Some(Fault::DataChunk);
                }
                self.position = 0;
                self.state = State::Line;
                Ok(Parsed::Complete { consumed: end + 2 })
            }
            State::Skip { left } => {
                if input.is_empty() {
                    return Ok(Parsed::Incomplete);
                }
                let consumed = left.min(input.len());
                self.begin();
                self.fault = Some(Fault::Skipped);
                self.state = if consumed == left { State::Line } else { State::Skip { left: left - consumed } };
                Ok(Parsed::Complete { consumed })
            }
            State::Line => unreachable!("the caller looked"),
        }
    }

    /// The request that the last call of [`Parser::parse`] completed; `input` is what that call was given.
    #[inline]
    #[must_use]
    pub fn request<'a>(&'a self, input: &'a [u8]) -> Request<'a> {
        Request { bytes: input, parser: self }
    }

    #[inline]
    fn range<'a>(&self, index: usize, input: &'a [u8]) -> Option<&'a [u8]> {
        self.words.get(index).map(|word| &input[word.start as usize..][..word.len as usize])
    }
}

/// Where the numbers of a storage line stand: client flags, exptime and length follow one another.
struct Shape {
    flags: usize,
    unique: Option<usize>,
}

/// The offsets of spaces and line feeds, found eight bytes at a time.
#[derive(Default)]
struct Breaks {
    /// Behind the bytes that were looked at.
    at: usize,
    /// The top bit of each byte that is one, of the eight before `at`.
    found: u64,
}

impl Breaks {
    /// The next one in `input`, which is the same each time.
    #[inline]
    fn next(&mut self, input: &[u8]) -> Option<usize> {
        const EACH: u64 = 0x0101_0101_0101_0101;
        const TOPS: u64 = 0x80 * EACH;
        /// The top bit of each byte that is not 0.
        fn others(word: u64) -> u64 {
            ((word & !TOPS) + !TOPS) | word
        }
        while self.found == 0 {
            let Some(chunk) = input.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) else {
                let rest = input.get(self.at..)?;
                let found = rest.iter().position(|&byte| byte == b' ' || byte == b'\n')?;
                self.at += found + 1;
                return Some(self.at - 1);
            };
            let word = u64::from_le_bytes(*chunk);
            self.found = !(others(word ^ (EACH * b' ' as u64)) & others(word ^ (EACH * b'\n' as u64))) & TOPS;
            self.at += 8;
        }
        let place = self.found.trailing_zeros() as usize / 8;
        self.found &= self.found - 1;
        Some(self.at - 8 + place)
    }
}

/// The length of a block of data.
#[inline]
fn data_len(word: &[u8]) -> Option<u32> {
    unsigned(word).filter(|&len| len <= DATA_BYTES_MAX).map(|len| len as u32)
}

/// Whether a flag of a meta command may begin so: with a digit, a letter, or what stands between large and small letters. memcached's
/// lines with another are none of a command.
#[inline]
#[must_use]
pub fn may_be_flag(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'z')
}

/// A number from 0 to 2⁶⁴ − 1: digits.
#[inline]
#[must_use]
pub fn unsigned(word: &[u8]) -> Option<u64> {
    let (&first, rest) = word.split_first()?;
    let digit = |byte: u8| {
        let value = byte.wrapping_sub(b'0');
        (value < 10).then_some(u64::from(value))
    };
    let mut value = digit(first)?;
    for &byte in rest {
        value = value.checked_mul(10)?.checked_add(digit(byte)?)?;
    }
    Some(value)
}

/// A number of 64 bits: digits, with a minus sign before them if it is below 0.
#[inline]
#[must_use]
pub fn signed(word: &[u8]) -> Option<i64> {
    match word.strip_prefix(b"-") {
        Some(digits) => 0i64.checked_sub_unsigned(unsigned(digits)?),
        None => i64::try_from(unsigned(word)?).ok(),
    }
}

/// A number without the plus sign that it may have where memcached reads it by C's `strtol`.
#[inline]
#[must_use]
pub fn without_plus(word: &[u8]) -> &[u8] {
    match word {
        [b'+', digits @ ..] if digits.first().is_some_and(u8::is_ascii_digit) => digits,
        _ => word,
    }
}

/// The second word of a line, which is the key for nearly all commands: a hint for fetching memory ahead.
#[inline]
#[must_use]
pub fn first_key(input: &[u8]) -> Option<&[u8]> {
    let mut breaks = Breaks::default();
    let start = breaks.next(input)? + 1;
    let end = breaks.next(input)?;
    let key = &input[start..end];
    Some(key.strip_suffix(b"\r").unwrap_or(key))
}
