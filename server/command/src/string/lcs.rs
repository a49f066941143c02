//! The longest common subsequence of two values.
//!
//! The classic table of prefix lengths, but only two rows of it exist at a time: on the way back only the direction of each
//! step matters, which is one bit per position. A table is thus a 32nd of Redis's, with the same choice among
//! subsequences of equal length. The time is what limits the lengths: nothing else runs on the thread meanwhile.

use crate::argument::{integer_or_error, is_word};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::{Reply, Request};

/// Most positions of a table: two values of 16 KiB each. 32 MiB of memory, and some tenths of a second.
const CELLS_MAX: u64 = 1 << 28;

pub(super) static LCS: Spec = Spec {
    name: "lcs",
    summary: "Finds the longest common subsequence of two values",
    group: Group::String,
    since: "7.0.0",
    complexity: "O(N*M) where N and M are the lengths of the values",
    arity: -3,
    flags: Flags::READONLY,
    keys: Keys::Range { first: 1, last: 2, step: 1 },
    arguments: &[
        Argument::key("key1"),
        Argument::key("key2"),
        Argument::word("len", "LEN").optional(),
        Argument::word("idx", "IDX").optional(),
        Argument::integer("min-match-len").with_token("MINMATCHLEN").optional(),
        Argument::word("withmatchlen", "WITHMATCHLEN").optional(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = lcs(context, request);
        context.conclude(result)
    },
};

fn lcs(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let options = Options::parse(request)?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let keys = [request.arg(1), request.arg(2)];
    let mut values: [Result<Vec<u8>, ()>; 2] = [const { Ok(Vec::new()) }; 2];
    // Longer than the table could be even against a single byte: not worth a copy.
    let copy = |value: &[u8]| if value.len() as u64 <= CELLS_MAX { Ok(value.to_vec()) } else { Err(()) };
    keyspace.read_many(turn, client.db, keys.into_iter(), client.access(), |index, entry| {
        values[index] = entry.map_or(Ok(Vec::new()), |entry| copy(entry.value));
    });
    let too_long = ReplyError::LcsTooLong { cells_max: CELLS_MAX };
    let [Ok(a), Ok(b)] = values else { return Err(too_long) };
    if a.len() as u64 * b.len() as u64 > CELLS_MAX {
        return Err(too_long);
    }
    match options.wanted {
        Wanted::Len => reply.integer(length(&a, &b) as i64),
        Wanted::Subsequence => {
            let mut bytes = Vec::new();
            Table::new(&a, &b).walk_back(|i, _| bytes.push(a[i]));
            bytes.reverse();
            reply.bulk(&bytes);
        }
        Wanted::Matches => reply_matches(reply, &a, &b, &options),
    }
    Ok(())
}

/// A stretch that both values have, as offsets of its first bytes.
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

fn reply_matches(reply: &mut Reply, a: &[u8], b: &[u8], options: &Options) {
    let table = Table::new(a, b);
    let mut matches: Vec<Match> = Vec::new();
    table.walk_back(|i, j| match matches.last_mut() {
        Some(last) if last.a == i + 1 && last.b == j + 1 => {
            *last = Match { a: i, b: j, len: last.len + 1 };
        }
        _ => matches.push(Match { a: i, b: j, len: 1 }),
    });
    matches.retain(|found| found.len as i64 >= options.match_len_min);
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.len());
    for found in matches {
        reply.array(if options.with_match_len { 3 } else { 2 });
        for start in [found.a, found.b] {
            reply.array(2);
            reply.integer(start as i64);
            reply.integer((start + found.len - 1) as i64);
        }
        if options.with_match_len {
            reply.integer(found.len as i64);
        }
    }
    reply.bulk(b"len");
    reply.integer(table.length as i64);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Subsequence,
    Len,
    Matches,
}

struct Options {
    wanted: Wanted,
    match_len_min: i64,
    with_match_len: bool,
}

impl Options {
    fn parse(request: Request<'_>) -> Result<Self, ReplyError> {
        let mut options = Self { wanted: Wanted::Subsequence, match_len_min: 0, with_match_len: false };
        let (mut len, mut idx) = (false, false);
        let mut index = 3;
        while index < request.len() {
            let word = request.arg(index);
            if is_word(word, "IDX") {
                idx = true;
            } else if is_word(word, "LEN") {
                len = true;
            } else if is_word(word, "WITHMATCHLEN") {
                options.with_match_len = true;
            } else if let (true, Some(number)) = (is_word(word, "MINMATCHLEN"), request.get(index + 1)) {
                options.match_len_min = integer_or_error(number)?;
                index += 1;
            } else {
                return Err(ReplyError::Syntax);
            }
            index += 1;
        }
        options.wanted = match (len, idx) {
            (true, true) => return Err(ReplyError::LcsLenAndIdx),
            (true, false) => Wanted::Len,
            (false, true) => Wanted::Matches,
            (false, false) => Wanted::Subsequence,
        };
        Ok(options)
    }
}

/// The length alone, in the memory of one row.
fn length(a: &[u8], b: &[u8]) -> usize {
    let mut row = vec![0u32; b.len() + 1];
    for &byte in a {
        next_row(&mut row, byte, b, |_, _| {});
    }
    row[b.len()] as usize
}

/// Turns the row of a prefix of `a` into the row of the prefix that is one byte longer. `step` hears for each position of `b`
/// whether the way back goes to the shorter prefix of `a`, where the bytes differ.
#[inline]
fn next_row(row: &mut [u32], byte: u8, b: &[u8], mut step: impl FnMut(usize, bool)) {
    let mut diagonal = 0;
    let mut left = 0;
    for (index, &other) in b.iter().enumerate() {
        let above = row[index + 1];
        step(index, above > left);
        let cell = if byte == other { diagonal + 1 } else { above.max(left) };
        diagonal = above;
        left = cell;
        row[index + 1] = cell;
    }
}

/// The directions of all steps back, one bit each.
struct Table<'a> {
    a: &'a [u8],
    b: &'a [u8],
    /// Bit `i * b.len() + j`: from prefixes `i + 1` and `j + 1` with different last bytes, shorten `a`, not `b`.
    shorten_a: Vec<u64>,
    length: usize,
}

impl<'a> Table<'a> {
    /// The product of the lengths is at most [`CELLS_MAX`].
    fn new(a: &'a [u8], b: &'a [u8]) -> Self {
        let mut shorten_a = vec![0u64; (a.len() * b.len()).div_ceil(64)];
        let mut row = vec![0u32; b.len() + 1];
        for (i, &byte) in a.iter().enumerate() {
            let first = i * b.len();
            next_row(&mut row, byte, b, |j, shorten| {
                shorten_a[(first + j) / 64] |= u64::from(shorten) << ((first + j) % 64);
            });
        }
        let length = row[b.len()] as usize;
        Self { a, b, shorten_a, length }
    }

    /// Calls `matched` with the offsets of each pair of bytes of the subsequence, from its end to its start.
    fn walk_back(&self, mut matched: impl FnMut(usize, usize)) {
        let (mut i, mut j) = (self.a.len(), self.b.len());
        while i > 0 && j > 0 {
            let cell = (i - 1) * self.b.len() + j - 1;
            if self.a[i - 1] == self.b[j - 1] {
                i -= 1;
                j -= 1;
                matched(i, j);
            } else if self.shorten_a[cell / 64] >> (cell % 64) & 1 == 1 {
                i -= 1;
            } else {
                j -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    #[test]
    fn table_and_single_row_agree_on_the_length() {
        let words: [&[u8]; 6] = [b"", b"a", b"ohmytext", b"mynewtext", b"aaaaabbbbb", b"babababab"];
        for a in words {
            for b in words {
                let table = Table::new(a, b);
                let mut pairs = Vec::new();
                table.walk_back(|i, j| pairs.push((i, j)));
                assert_eq!(table.length, length(a, b), "{a:?} {b:?}");
                assert_eq!(pairs.len(), table.length, "{a:?} {b:?}");
                assert!(pairs.iter().all(|(i, j)| a[*i] == b[*j]));
                assert!(pairs.is_sorted_by(|one, next| one.0 > next.0 && one.1 > next.1));
            }
        }
    }

    #[test]
    fn replies_are_the_bytes_the_length_or_the_matches() {
        let mut node = Node::new();
        node.run("MSET a ohmytext b mynewtext");
        for (line, reply) in [
            ("LCS a b", "$6\r\nmytext\r\n"),
            ("LCS a b LEN", ":6\r\n"),
            ("LCS a none", "$0\r\n\r\n"),
            (
                "LCS a b IDX",
                "*4\r\n$7\r\nmatches\r\n*2\r\n*2\r\n*2\r\n:4\r\n:7\r\n*2\r\n:5\r\n:8\r\n*2\r\n*2\r\n:2\r\n:3\r\n*2\r\n:0\r\n:1\r\n$3\r\nlen\r\n:6\r\n",
            ),
            (
                "LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN",
                "*4\r\n$7\r\nmatches\r\n*1\r\n*3\r\n*2\r\n:4\r\n:7\r\n*2\r\n:5\r\n:8\r\n:4\r\n$3\r\nlen\r\n:6\r\n",
            ),
            ("LCS a b LEN IDX", "-ERR If you want both the length and indexes, please just use IDX.\r\n"),
            ("LCS a b MINMATCHLEN", "-ERR syntax error\r\n"),
            ("LCS a b MINMATCHLEN x", "-ERR value is not an integer or out of range\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
        node.version = leasehold_protocol::RespVersion::V3;
        assert_eq!(node.run("LCS a none IDX"), "%2\r\n$7\r\nmatches\r\n*0\r\n$3\r\nlen\r\n:0\r\n");
    }

    #[test]
    fn values_whose_table_would_be_too_large_are_refused() {
        let mut node = Node::new();
        node.run_args(&[b"SET", b"a", &vec![b'x'; 1 << 15]]);
        node.run_args(&[b"SET", b"b", &vec![b'y'; (1 << 13) + 1]]);
        let reply = node.run("LCS a b LEN");
        assert!(reply.starts_with("-ERR values too long for LCS"), "{reply}");
    }
}
