//! The longest common subsequence of two values.
//!
//! The classic table holds the length for each pair of prefixes. Along a row these grow by 0 or 1 from one position to the
//! next, so a row is a string of bits, and the next row follows from it with an addition and three bitwise operations for
//! 64 positions at a time (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"). The way back needs nothing but
//! these bits: a table is a 32nd of Redis's, with the same choice among equal subsequences.

use crate::argument::{VALUE_BYTES_MAX, integer_or_error, is_word};
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::{Reply, Request};

/// Most positions of a table, the empty prefixes included, as in Redis: there each takes 4 bytes, and all together may take
/// as many as a value. Here they take 16 MiB, and the masks of the bytes as much again.
const CELLS_MAX: u64 = VALUE_BYTES_MAX / 4;

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
    // Too long even against nothing: not worth a copy.
    let copy = |value: &[u8]| if (value.len() as u64) < CELLS_MAX { Ok(value.to_vec()) } else { Err(()) };
    keyspace.read_many(turn, client.db, keys.into_iter(), client.access(), |index, entry| {
        values[index] = entry.map_or(Ok(Vec::new()), |entry| copy(entry.value));
    });
    let [Ok(a), Ok(b)] = values else { return Err(ReplyError::LcsTooLong) };
    if (a.len() as u64 + 1) * (b.len() as u64 + 1) > CELLS_MAX {
        return Err(ReplyError::LcsTooLong);
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
    let masks = Masks::new(a, b);
    let mut row = masks.first_row();
    for &byte in a {
        next_row(&mut row, masks.of(byte));
    }
    masks.length(&row)
}

/// Turns the row of a prefix of `a` into the row of the prefix that is one byte longer, given the positions of that byte in
/// `b`. A bit is 0 where the length grows by 1.
fn next_row(row: &mut [u64], mask: &[u64]) {
    let mut carry = false;
    for (word, mask) in row.iter_mut().zip(mask) {
        let (sum, carry_out) = add(*word, *word & mask, carry);
        *word = sum | *word & !mask;
        carry = carry_out;
    }
}

/// One word of the addition of long numbers.
#[inline]
fn add(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, over) = a.overflowing_add(b);
    let (sum, over_by_carry) = sum.overflowing_add(u64::from(carry));
    (sum, over || over_by_carry)
}

/// For each byte that `a` has, the positions of it in `b`, one bit each.
struct Masks {
    /// Index of the byte's mask, in masks.
    index: [u8; 256],
    masks: Vec<u64>,
    b_len: usize,
}

impl Masks {
    fn new(a: &[u8], b: &[u8]) -> Self {
        let mut present = [false; 256];
        a.iter().for_each(|byte| present[usize::from(*byte)] = true);
        let mut index = [0; 256];
        let mut count = 0usize;
        for byte in (0..256).filter(|byte| present[*byte]) {
            index[byte] = count as u8;
            count += 1;
        }
        let words = b.len().div_ceil(64);
        let mut masks = vec![0u64; count * words];
        for (at, byte) in b.iter().map(|byte| usize::from(*byte)).enumerate() {
            if present[byte] {
                masks[usize::from(index[byte]) * words + at / 64] |= 1 << (at % 64);
            }
        }
        Self { index, masks, b_len: b.len() }
    }

    fn words(&self) -> usize {
        self.b_len.div_ceil(64)
    }

    /// The byte is one of `a`.
    fn of(&self, byte: u8) -> &[u64] {
        let first = usize::from(self.index[usize::from(byte)]) * self.words();
        &self.masks[first..first + self.words()]
    }

    /// The row of the empty prefix: nothing grows.
    fn first_row(&self) -> Vec<u64> {
        vec![u64::MAX; self.words()]
    }

    /// The last length of a row. Bits behind the end of `b` match nothing and stay 1, but for a carry into the first of them.
    fn length(&self, row: &[u64]) -> usize {
        let growth = |at: usize| usize::from(row[at / 64] >> (at % 64) & 1 == 0);
        let (whole, rest) = (self.b_len / 64, self.b_len / 64 * 64..self.b_len);
        row[..whole].iter().map(|word| word.count_zeros() as usize).sum::<usize>() + rest.map(growth).sum::<usize>()
    }
}

/// All rows.
struct Table<'a> {
    a: &'a [u8],
    b: &'a [u8],
    /// Bit `i * b.len() + j` is position `j` of the row of the prefix of `a` that ends with byte `i`.
    rows: Vec<u64>,
    length: usize,
}

impl<'a> Table<'a> {
    fn new(a: &'a [u8], b: &'a [u8]) -> Self {
        let masks = Masks::new(a, b);
        let mut row = masks.first_row();
        // One word more, so that every word of a row may be written over a boundary.
        let mut rows = vec![0u64; (a.len() * b.len()).div_ceil(64) + 1];
        for (i, &byte) in a.iter().enumerate() {
            next_row(&mut row, masks.of(byte));
            for (index, word) in row.iter().enumerate() {
                let used = (b.len() - 64 * index).min(64);
                let word = word & (u64::MAX >> (64 - used));
                let (at, shift) = ((i * b.len() + 64 * index) / 64, (i * b.len()) % 64);
                rows[at] |= word << shift;
                rows[at + 1] |= word.checked_shr(64 - shift as u32).unwrap_or(0);
            }
        }
        let length = masks.length(&row);
        Self { a, b, rows, length }
    }

    /// Calls `matched` with the offsets of each pair of bytes of the subsequence, from its end to its start.
    fn walk_back(&self, mut matched: impl FnMut(usize, usize)) {
        let (mut i, mut j) = (self.a.len(), self.b.len());
        while i > 0 && j > 0 {
            let at = (i - 1) * self.b.len() + j - 1;
            let grows = self.rows[at / 64] >> (at % 64) & 1 == 0;
            if self.a[i - 1] == self.b[j - 1] {
                i -= 1;
                j -= 1;
                matched(i, j);
            } else if grows {
                // The length grew here without a match: the shorter prefix of `a` has it too, that of `b` has not.
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
    use proptest::prelude::*;

    /// The classic table.
    fn lengths(a: &[u8], b: &[u8]) -> Vec<Vec<usize>> {
        let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                let longer = table[i - 1][j].max(table[i][j - 1]);
                table[i][j] = if a[i - 1] == b[j - 1] { table[i - 1][j - 1] + 1 } else { longer };
            }
        }
        table
    }

    proptest! {
        #[test]
        fn rows_of_bits_lead_back_the_way_that_the_table_of_lengths_does(
            a in proptest::collection::vec(b'a'..b'd', 0..200),
            b in proptest::collection::vec(b'a'..b'e', 0..200),
        ) {
            let lengths = lengths(&a, &b);
            let (mut i, mut j) = (a.len(), b.len());
            let mut wanted = Vec::new();
            while i > 0 && j > 0 {
                if a[i - 1] == b[j - 1] {
                    (i, j) = (i - 1, j - 1);
                    wanted.push((i, j));
                } else if lengths[i - 1][j] > lengths[i][j - 1] {
                    i -= 1;
                } else {
                    j -= 1;
                }
            }
            let table = Table::new(&a, &b);
            let mut found = Vec::new();
            table.walk_back(|i, j| found.push((i, j)));
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(table.length, wanted.len());
            prop_assert_eq!(length(&a, &b), wanted.len());
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
        node.run_args(&[b"SET", b"a", &vec![b'x'; (1 << 14) - 1]]);
        node.run_args(&[b"SET", b"b", &vec![b'x'; (1 << 13) - 1]]);
        assert_eq!(node.run("LCS a b LEN"), ":8191\r\n");
        node.run("APPEND b x");
        let too_long = "-ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len\r\n";
        assert_eq!(node.run("LCS a b LEN"), too_long);
    }
}
