//! Commands that look through a range of bits.

use crate::argument::{integer_or_error, is_word};
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use crate::string::Positions;
use leasehold_protocol::Request;
use std::ops::Range;

const UNIT: Argument =
    Argument::one_of("unit", &[Argument::word("byte", "BYTE"), Argument::word("bit", "BIT")]).optional();

pub(super) static BITCOUNT: Spec = Spec {
    name: "bitcount",
    summary: "Counts the bits that are 1 in a value or a part of it",
    group: Group::Bitmap,
    since: "2.6.0",
    complexity: "O(N) where N is the number of bytes looked at",
    arity: -2,
    flags: Flags::READONLY,
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::block("range", &[Argument::integer("start"), Argument::integer("end"), UNIT]).optional(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = bitcount(context, request);
        context.conclude(result)
    },
};

fn bitcount(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let part = match request.len() {
        2 => Part::ALL,
        4 | 5 => Part {
            positions: Positions { start: integer_or_error(request.arg(2))?, end: integer_or_error(request.arg(3))? },
            unit: Unit::parse(request.get(4))?,
        },
        _ => return Err(ReplyError::Syntax),
    };
    let Context { keyspace, client, reply, turn, .. } = context;
    let count = keyspace.read(turn, client.db, request.arg(1), client.access(), |entry| {
        ones(entry.value, part.bits(entry.value.len(), Positions::within))
    });
    reply.integer(count.unwrap_or(0) as i64);
    Ok(())
}

pub(super) static BITPOS: Spec = Spec {
    name: "bitpos",
    summary: "Finds the first bit that is 0, or the first that is 1, in a value or a part of it",
    group: Group::Bitmap,
    since: "2.8.7",
    complexity: "O(N) where N is the number of bytes looked at",
    arity: -3,
    flags: Flags::READONLY,
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::integer("bit"),
        Argument::block(
            "range",
            &[
                Argument::integer("start"),
                Argument::block("end-unit-block", &[Argument::integer("end"), UNIT]).optional(),
            ],
        )
        .optional(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = bitpos(context, request);
        context.conclude(result)
    },
};

fn bitpos(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let wanted = match integer_or_error(request.arg(2))? {
        0 => Bit::Zero,
        1 => Bit::One,
        _ => return Err(ReplyError::BitWanted),
    };
    if request.len() > 6 {
        return Err(ReplyError::Syntax);
    }
    let mut part = Part::ALL;
    if let Some(start) = request.get(3) {
        part.positions.start = integer_or_error(start)?;
    }
    // The unit is looked at before the number that stands before it, as in Redis.
    part.unit = Unit::parse(request.get(5))?;
    if let Some(end) = request.get(4) {
        part.positions.end = integer_or_error(end)?;
    }
    let end_given = request.len() > 4;
    let Context { keyspace, client, reply, turn, .. } = context;
    let found = keyspace.read(turn, client.db, request.arg(1), client.access(), |entry| {
        let bits = part.bits(entry.value.len(), Positions::clamped);
        let end = bits.end;
        match first(entry.value, wanted, bits.clone()) {
            Some(offset) => offset as i64,
            // Without an end the value goes on in zeros, unless there is nothing to look at.
            None if wanted == Bit::Zero && !end_given && !bits.is_empty() => end as i64,
            None => -1,
        }
    });
    let absent = match wanted {
        Bit::Zero => 0,
        Bit::One => -1,
    };
    reply.integer(found.unwrap_or(absent));
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bit {
    Zero,
    One,
}

/// What the positions of a range count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Byte,
    Bit,
}

impl Unit {
    fn parse(word: Option<&[u8]>) -> Result<Self, ReplyError> {
        match word {
            None => Ok(Self::Byte),
            Some(word) if is_word(word, "BYTE") => Ok(Self::Byte),
            Some(word) if is_word(word, "BIT") => Ok(Self::Bit),
            Some(_) => Err(ReplyError::Syntax),
        }
    }
}

/// The part of a value that a request names.
#[derive(Clone, Copy)]
struct Part {
    positions: Positions,
    unit: Unit,
}

impl Part {
    const ALL: Self = Self { positions: Positions { start: 0, end: -1 }, unit: Unit::Byte };

    /// As bits of a value of `len` bytes; `positions` finds what lies between the positions in so many units.
    fn bits(self, len: usize, positions: fn(Positions, u64) -> Option<(u64, u64)>) -> Range<u64> {
        let len = len as u64;
        match self.unit {
            Unit::Byte => positions(self.positions, len).map_or(0..0, |(start, end)| start * 8..(end + 1) * 8),
            Unit::Bit => positions(self.positions, len * 8).map_or(0..0, |(start, end)| start..end + 1),
        }
    }
}

/// The bytes that hold a range of bits, and masks of the bits of the first and of the last that belong to it.
fn bytes_of(value: &[u8], bits: Range<u64>) -> Option<(&[u8], u8, u8)> {
    if bits.is_empty() {
        return None;
    }
    let bytes = &value[(bits.start / 8) as usize..bits.end.div_ceil(8) as usize];
    let first = 0xff >> (bits.start % 8);
    let last = match bits.end % 8 {
        0 => 0xff,
        used => !(0xff >> used),
    };
    Some((bytes, first, last))
}

/// Bits of the range that are 1. The range lies within the value.
fn ones(value: &[u8], bits: Range<u64>) -> u64 {
    let Some((bytes, first, last)) = bytes_of(value, bits) else { return 0 };
    let (words, rest) = bytes.as_chunks::<8>();
    let in_words: u64 = words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
    let in_rest: u64 = rest.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let outside = (bytes[0] & !first).count_ones() + (bytes[bytes.len() - 1] & !last).count_ones();
    in_words + in_rest - u64::from(outside)
}

/// The first bit of the range that is as wanted. The range lies within the value.
fn first(value: &[u8], wanted: Bit, bits: Range<u64>) -> Option<u64> {
    // Zeros are looked for as ones of the opposite.
    let flip = match wanted {
        Bit::Zero => 0xff,
        Bit::One => 0,
    };
    let first_byte = bits.start / 8;
    let (bytes, first, last) = bytes_of(value, bits)?;
    let end = bytes.len() - 1;
    let byte = |index: usize| {
        let mask = if index == 0 { first } else { 0xff } & if index == end { last } else { 0xff };
        (bytes[index] ^ flip) & mask
    };
    let mut index = 0;
    while index <= end {
        // Whole words inside the range, where no mask applies.
        if index > 0 && index + 8 <= end {
            let (words, _) = bytes[index..end].as_chunks::<8>();
            index += 8 * words.iter().take_while(|word| **word == [flip; 8]).count();
        }
        let found = byte(index);
        if found != 0 {
            return Some((first_byte + index as u64) * 8 + u64::from(found.leading_zeros()));
        }
        index += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;
    use proptest::prelude::*;

    fn bit(value: &[u8], offset: u64) -> Bit {
        if value[(offset / 8) as usize] >> (7 - offset % 8) & 1 == 1 { Bit::One } else { Bit::Zero }
    }

    proptest! {
        #[test]
        fn counting_and_searching_agree_with_looking_at_each_bit(
            value in proptest::collection::vec(prop_oneof![5 => Just(0u8), 5 => Just(0xff), 1 => any::<u8>()], 0..80),
            start in 0u64..640,
            end in 0u64..=640,
        ) {
            let len = value.len() as u64 * 8;
            let bits = start.min(len)..end.min(len);
            let all = bits.clone();
            prop_assert_eq!(ones(&value, bits.clone()), all.clone().filter(|at| bit(&value, *at) == Bit::One).count() as u64);
            for wanted in [Bit::Zero, Bit::One] {
                prop_assert_eq!(first(&value, wanted, bits.clone()), all.clone().find(|at| bit(&value, *at) == wanted));
            }
        }
    }

    #[test]
    fn ranges_are_of_bytes_unless_the_request_says_bits() {
        let mut node = Node::new();
        node.run("SET k foobar");
        for (line, reply) in [
            ("BITCOUNT k", ":26\r\n"),
            ("BITCOUNT k 0 0", ":4\r\n"),
            ("BITCOUNT k 1 1 byte", ":6\r\n"),
            ("BITCOUNT k 5 30 BIT", ":17\r\n"),
            ("BITCOUNT k -2 -1", ":7\r\n"),
            ("BITCOUNT k 5 2", ":0\r\n"),
            ("BITCOUNT none", ":0\r\n"),
            ("BITCOUNT k 0", "-ERR syntax error\r\n"),
            ("BITCOUNT none 0 1 word", "-ERR syntax error\r\n"),
            ("BITCOUNT none 0 x", "-ERR value is not an integer or out of range\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
    }

    #[test]
    fn zeros_follow_a_value_only_when_the_range_has_no_end() {
        let mut node = Node::new();
        node.run_args(&[b"SET", b"ones", b"\xff\xff\xff"]);
        node.run_args(&[b"SET", b"k", b"\x00\xff\xf0"]);
        node.run_args(&[b"SET", b"empty", b""]);
        for (line, reply) in [
            ("BITPOS k 1", ":8\r\n"),
            ("BITPOS k 0 1", ":20\r\n"),
            ("BITPOS k 1 2", ":16\r\n"),
            ("BITPOS k 1 0 0", ":-1\r\n"),
            ("BITPOS k 1 9 15 BIT", ":9\r\n"),
            ("BITPOS k 0 9 15 BIT", ":-1\r\n"),
            ("BITPOS ones 0", ":24\r\n"),
            ("BITPOS ones 0 1", ":24\r\n"),
            ("BITPOS ones 0 0 -1", ":-1\r\n"),
            ("BITPOS ones 0 3", ":-1\r\n"),
            ("BITPOS none 0", ":0\r\n"),
            ("BITPOS none 1", ":-1\r\n"),
            ("BITPOS empty 0", ":-1\r\n"),
            ("BITPOS k 0 -4 -8", ":0\r\n"),
            ("BITPOS k 0 -1 -2", ":-1\r\n"),
            ("BITPOS k 2", "-ERR The bit argument must be 1 or 0.\r\n"),
            ("BITPOS k x", "-ERR value is not an integer or out of range\r\n"),
            ("BITPOS k 1 0 x word", "-ERR syntax error\r\n"),
            ("BITPOS k 1 0 x", "-ERR value is not an integer or out of range\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
    }
}
