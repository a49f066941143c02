//! Reading a recorded trace from a file: who was asked for, in what order, and how large it is.

use crate::trace::HEADER;
use anyhow::{Context, bail};
use leasehold_keyspace::replay::Trace;
use ruzstd::decoding::StreamingDecoder;
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

/// A trace, and of how many keys it has one.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub trace: Trace,
    /// 1: all keys are in it.
    pub keys_per_traced: u64,
}

/// Reads a file, plain or compressed by zstd.
///
/// # Errors
/// The file cannot be read, or has no request, or lines that are not "key size"; the first of these are named.
pub(crate) fn read(path: &Path) -> anyhow::Result<Recorded> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    if file.fill_buf()?.starts_with(&ZSTD_MAGIC) {
        let decoder = StreamingDecoder::new(file).map_err(|error| anyhow::anyhow!("{error}"))?;
        return read_lines(BufReader::with_capacity(1 << 20, decoder));
    }
    read_lines(file)
}

fn read_lines(mut lines: impl BufRead) -> anyhow::Result<Recorded> {
    let mut trace = Trace::default();
    let mut keys_per_traced = 1;
    let mut wrong = Vec::new();
    let mut line = Vec::new();
    for number in 1_usize.. {
        line.clear();
        let len = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).context("it cannot be read")?;
        if len == 0 {
            break;
        }
        if number == 1
            && let Some(rate) = rate_of(&line)
        {
            keys_per_traced = rate;
        } else if trace.push_line(&line).is_err() {
            wrong.push(number);
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
    if trace.is_empty() {
        bail!("it has no request");
    }
    Ok(Recorded { trace, keys_per_traced })
}

/// What the first line of a file of `leasehold trace` says.
fn rate_of(line: &[u8]) -> Option<u64> {
    let rate = std::str::from_utf8(line).ok()?.strip_prefix(HEADER)?;
    rate.trim_end().parse().ok().filter(|&rate| rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_may_say_how_many_keys_were_sampled() {
        let recorded = read_lines(format!("{HEADER}16\na 1\nb 2\n").as_bytes()).expect("two requests");
        assert_eq!((recorded.keys_per_traced, recorded.trace.len()), (16, 2));
        let recorded = read_lines(&b"a 1\nb 2\n"[..]).expect("two requests");
        assert_eq!((recorded.keys_per_traced, recorded.trace.len()), (1, 2));
        assert!(read_lines(format!("{HEADER}0\na 1\n").as_bytes()).is_err());
    }

    #[test]
    fn wrong_lines_are_named_by_number() {
        let error = |text: &[u8]| read_lines(text).expect_err("no trace").to_string();
        assert_eq!(error(b"a 1\nb\nc 1\n\nd -1\n"), "lines 2, 4, 5 should be \"key size\", size in bytes");
        assert_eq!(error(b"a 1 extra"), "line 1 should be \"key size\", size in bytes");
        assert_eq!(error(b""), "it has no request");
        assert!(error(&b"x\n".repeat(100)).starts_with("lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 should"));
        assert!(error(&vec![b'x'; 1 << 20]).starts_with("line 1 should"));
    }
}
