//! A recorded trace: who was asked for, in what order, and how large it is.

use anyhow::{Context, bail};
use ruzstd::decoding::StreamingDecoder;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// How a file compressed by zstd begins.
// RFC 8878, 3.1.1: Magic_Number 0xFD2FB528, little-endian.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Wrong lines that are named before the reader gives up.
const WRONG_LINES_MAX: usize = 10;

/// A longer line is no line of a trace.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// A trace in memory: 16 bytes per request and each key once.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    requests: Vec<Request>,
    keys: Vec<Box<[u8]>>,
    footprint_bytes: u64,
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Request {
    key: u32,
    bytes: u64,
}

impl Trace {
    /// Reads a file, plain or compressed by zstd.
    ///
    /// # Errors
    /// The file cannot be read, or has no request, or lines that are not "key size"; the first of these are named.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
        if file.fill_buf()?.starts_with(&ZSTD_MAGIC) {
            let decoder = StreamingDecoder::new(file).map_err(|error| anyhow::anyhow!("{error}"))?;
            return Self::read_lines(BufReader::with_capacity(1 << 20, decoder));
        }
        Self::read_lines(file)
    }

    fn read_lines(mut lines: impl BufRead) -> anyhow::Result<Self> {
        let mut trace = Self::default();
        let mut numbers: HashMap<Box<[u8]>, u32> = HashMap::new();
        let mut wrong = Vec::new();
        let mut line = Vec::new();
        for number in 1_usize.. {
            line.clear();
            let len = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).context("it cannot be read")?;
            if len == 0 {
                break;
            }
            match parse(&line) {
                Some((key, bytes)) => trace.push(&mut numbers, key, bytes)?,
                None => wrong.push(number),
            }
            if wrong.len() == WRONG_LINES_MAX || len as u64 == LINE_BYTES_MAX {
                break;
            }
        }
        if !wrong.is_empty() {
            let lines: Vec<String> = wrong.iter().map(usize::to_string).collect();
            let s = if lines.len() == 1 { "" } else { "s" };
            bail!("line{s} {} should be \"key size\", size in bytes", lines.join(", "));
        }
        if trace.requests.is_empty() {
            bail!("it has no request");
        }
        Ok(trace)
    }

    fn push(&mut self, numbers: &mut HashMap<Box<[u8]>, u32>, key: &[u8], bytes: u64) -> anyhow::Result<()> {
        let key = match numbers.get(key) {
            Some(&number) => number,
            None => {
                let number = u32::try_from(self.keys.len()).context("it has more than 2^32 keys")?;
                numbers.insert(key.into(), number);
                self.keys.push(key.into());
                self.footprint_bytes = self.footprint_bytes.saturating_add(bytes);
                number
            }
        };
        self.requests.push(Request { key, bytes });
        Ok(())
    }

    /// Number of requests; at least one.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Number of keys.
    pub(crate) fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Sum of the sizes of all keys, of each the first.
    pub(crate) fn footprint_bytes(&self) -> u64 {
        self.footprint_bytes
    }

    /// Keys and sizes, in order.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.requests.iter().map(|request| (&*self.keys[request.key as usize], request.bytes))
    }
}

/// Key and size of a line; blanks around them do not count.
fn parse(line: &[u8]) -> Option<(&[u8], u64)> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (key, size) = (words.next()?, words.next()?);
    let size = std::str::from_utf8(size).ok().and_then(crate::config::text::parse_integer)?;
    words.next().is_none().then_some((key, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_words_and_the_first_size_makes_the_footprint() {
        let trace = Trace::read_lines(&b"a 10\r\nuser:1 20\n a  11 \nlast 5"[..]).expect("four requests");
        let requests: Vec<(&[u8], u64)> = trace.requests().collect();
        assert_eq!(requests, [(&b"a"[..], 10), (b"user:1", 20), (b"a", 11), (b"last", 5)]);
        assert_eq!((trace.key_count(), trace.footprint_bytes()), (3, 35));
    }

    #[test]
    fn wrong_lines_are_named_by_number() {
        let error = |text: &[u8]| Trace::read_lines(text).expect_err("no trace").to_string();
        assert_eq!(error(b"a 1\nb\nc 1\n\nd -1\n"), "lines 2, 4, 5 should be \"key size\", size in bytes");
        assert_eq!(error(b"a 1 extra"), "line 1 should be \"key size\", size in bytes");
        assert_eq!(error(b""), "it has no request");
        assert!(error(&b"x\n".repeat(100)).starts_with("lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 should"));
        assert!(error(&vec![b'x'; 1 << 20]).starts_with("line 1 should"));
    }
}
