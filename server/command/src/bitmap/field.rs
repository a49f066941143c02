//! `BITFIELD`: whole numbers of any width at any bit of a value.

use super::bit::BitOffset;
use crate::argument::{integer, integer_or_error, is_word};
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::{Reply, Request};

const ENCODING_AND_OFFSET: &[Argument] = &[Argument::string("encoding"), Argument::integer("offset")];

pub(super) static BITFIELD: Spec = Spec {
    name: "bitfield",
    summary: "Reads, writes and counts with whole numbers of any width at any bit of a value",
    group: Group::Bitmap,
    since: "3.2.0",
    complexity: "O(1) for each operation",
    arity: -2,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::one_of(
            "operation",
            &[
                Argument::block("get-block", ENCODING_AND_OFFSET).with_token("GET"),
                Argument::block(
                    "write",
                    &[
                        Argument::one_of(
                            "overflow-block",
                            &[
                                Argument::word("wrap", "WRAP"),
                                Argument::word("sat", "SAT"),
                                Argument::word("fail", "FAIL"),
                            ],
                        )
                        .with_token("OVERFLOW")
                        .optional(),
                        Argument::one_of(
                            "write-operation",
                            &[
                                Argument::block(
                                    "set-block",
                                    &[
                                        Argument::string("encoding"),
                                        Argument::integer("offset"),
                                        Argument::integer("value"),
                                    ],
                                )
                                .with_token("SET"),
                                Argument::block(
                                    "incrby-block",
                                    &[
                                        Argument::string("encoding"),
                                        Argument::integer("offset"),
                                        Argument::integer("increment"),
                                    ],
                                )
                                .with_token("INCRBY"),
                            ],
                        ),
                    ],
                ),
            ],
        )
        .optional()
        .multiple(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = bitfield(context, request, Writes::Allowed);
        context.conclude(result)
    },
};

pub(super) static BITFIELD_RO: Spec = Spec {
    name: "bitfield_ro",
    summary: "Reads whole numbers of any width at any bit of a value",
    group: Group::Bitmap,
    since: "6.0.0",
    complexity: "O(1) for each operation",
    arity: -2,
    flags: Flags::READONLY.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::block("get-block", ENCODING_AND_OFFSET).with_token("GET").optional().multiple(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = bitfield(context, request, Writes::Refused);
        context.conclude(result)
    },
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Allowed,
    Refused,
}

fn bitfield(context: &mut Context<'_>, request: Request<'_>, writes: Writes) -> Result<(), ReplyError> {
    let operations = parse(request)?;
    let key = request.arg(1);
    // The value grows once, to where the last write ends, also if that write then fails.
    let written = operations.iter().filter(|operation| !matches!(operation.action, Action::Get));
    let Some(end) = written.map(|operation| operation.field.end_byte()).max() else {
        let Context { keyspace, client, reply, turn, .. } = context;
        reply.array(operations.len());
        let read = |value: &[u8], reply: &mut Reply| {
            operations.iter().for_each(|operation| reply.integer(operation.field.value(value)));
        };
        let found = keyspace.read(turn, client.db, key, client.access(), |entry| read(entry.value, reply));
        if found.is_none() {
            read(&[], reply);
        }
        return Ok(());
    };
    if writes == Writes::Refused {
        return Err(ReplyError::BitfieldReadOnly);
    }
    let end = context.make_room_until(key, 0, end)?;
    let Context { keyspace, client, reply, turn, .. } = context;
    keyspace.update(turn, client.db, key, |slot| {
        let value = slot.value_mut(end);
        reply.array(operations.len());
        for operation in &operations {
            match operation.run(value) {
                Some(result) => reply.integer(result),
                None => reply.null(),
            }
        }
    });
    Ok(())
}

fn parse(request: Request<'_>) -> Result<Vec<Operation>, ReplyError> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut index = 2;
    while index < request.len() {
        let word = request.arg(index);
        let operands = request.len() - index - 1;
        if is_word(word, "OVERFLOW") && operands >= 1 {
            overflow = Overflow::parse(request.arg(index + 1)).ok_or(ReplyError::BitfieldOverflow)?;
            index += 2;
            continue;
        }
        let is_get = is_word(word, "GET") && operands >= 2;
        let is_set = is_word(word, "SET") && operands >= 3;
        let is_incrby = is_word(word, "INCRBY") && operands >= 3;
        if !is_get && !is_set && !is_incrby {
            return Err(ReplyError::Syntax);
        }
        let field = Field::parse(request.arg(index + 1), request.arg(index + 2))?;
        let action = if is_get {
            Action::Get
        } else {
            let operand = integer_or_error(request.arg(index + 3))?;
            if is_set { Action::Set(operand) } else { Action::Add(operand) }
        };
        operations.push(Operation { field, action, overflow });
        index += if is_get { 3 } else { 4 };
    }
    Ok(operations)
}

struct Operation {
    field: Field,
    action: Action,
    overflow: Overflow,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    /// The reply is the number before.
    Set(i64),
    /// The reply is the sum.
    Add(i64),
}

impl Operation {
    /// `None`: the number does not fit, and `OVERFLOW FAIL` says to leave the field as it is. The value reaches to the end
    /// of the field, if this writes.
    fn run(&self, value: &mut [u8]) -> Option<i64> {
        let before = self.field.value(value);
        match self.action {
            Action::Get => Some(before),
            Action::Set(number) => {
                // An unsigned field takes a negative number as the large one with the same bits.
                let number = if self.field.signed { i128::from(number) } else { i128::from(number as u64) };
                let mut stored = self.field.fit(number, self.overflow)?;
                let highest = i64::MAX >> (64 - self.field.bits);
                if self.overflow == Overflow::Saturate
                    && self.field.signed
                    && self.field.bits < 64
                    && i128::from(highest) - number > i128::from(i64::MAX)
                {
                    // As Redis, for which a number so far below is above: the distance overflows.
                    stored = highest;
                }
                self.field.write(value, stored);
                Some(before)
            }
            Action::Add(increment) => {
                let sum = self.field.fit(i128::from(before) + i128::from(increment), self.overflow)?;
                self.field.write(value, sum);
                Some(sum)
            }
        }
    }
}

/// What to do with a number that does not fit its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overflow {
    /// Keep the lowest bits.
    Wrap,
    /// Take the nearest number that fits.
    Saturate,
    /// Write nothing.
    Fail,
}

impl Overflow {
    fn parse(word: &[u8]) -> Option<Self> {
        let words = [("WRAP", Self::Wrap), ("SAT", Self::Saturate), ("FAIL", Self::Fail)];
        words.into_iter().find(|(name, _)| is_word(word, name)).map(|(_, overflow)| overflow)
    }
}

/// Where a number lies, and of which type it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    signed: bool,
    /// 1 to 64 if signed, else 1 to 63: every value of it is an i64.
    bits: u32,
    offset: u64,
}

impl Field {
    fn parse(encoding: &[u8], offset: &[u8]) -> Result<Self, ReplyError> {
        let (signed, bits_max, digits) = match encoding {
            [b'i', digits @ ..] => (true, 64, digits),
            [b'u', digits @ ..] => (false, 63, digits),
            _ => return Err(ReplyError::BitfieldType),
        };
        let bits = integer(digits).filter(|bits| (1..=bits_max).contains(bits)).ok_or(ReplyError::BitfieldType)? as u32;
        Ok(Self { signed, bits, offset: BitOffset::parse_in_fields(offset, bits)?.0 })
    }

    /// The byte behind the field.
    fn end_byte(&self) -> usize {
        (self.offset + u64::from(self.bits)).div_ceil(8) as usize
    }

    /// The bytes that hold the field, at most nine, as one number, and how many bits of it lie behind the field.
    fn window(&self, value: &[u8]) -> (u128, u32) {
        let (first, end) = ((self.offset / 8) as usize, self.end_byte());
        let window = (first..end).fold(0, |window, at| window << 8 | u128::from(value.get(at).copied().unwrap_or(0)));
        (window, (end as u64 * 8 - self.offset) as u32 - self.bits)
    }

    /// The number in the field; bits behind the end of the value are 0.
    fn value(&self, value: &[u8]) -> i64 {
        let (window, behind) = self.window(value);
        let unsigned = (window >> behind) as u64 & (u64::MAX >> (64 - self.bits));
        let unused = 64 - self.bits;
        if self.signed { ((unsigned << unused) as i64) >> unused } else { unsigned as i64 }
    }

    /// Writes a number that fits. The value reaches to the end of the field.
    fn write(&self, value: &mut [u8], number: i64) {
        let (window, behind) = self.window(value);
        let mask = u128::from(u64::MAX >> (64 - self.bits)) << behind;
        let mut window = window & !mask | (u128::from(number as u64) << behind) & mask;
        for byte in value[(self.offset / 8) as usize..self.end_byte()].iter_mut().rev() {
            *byte = window as u8;
            window >>= 8;
        }
    }

    fn fit(&self, number: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = match self.signed {
            true => (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1),
            false => (0, (1i128 << self.bits) - 1),
        };
        if (min..=max).contains(&number) {
            return Some(number as i64);
        }
        match overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(number.clamp(min, max) as i64),
            Overflow::Wrap => {
                let low = number as u64 & (u64::MAX >> (64 - self.bits));
                let unused = 64 - self.bits;
                Some(if self.signed { ((low << unused) as i64) >> unused } else { low as i64 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;
    use proptest::prelude::*;

    fn field(encoding: &str, offset: &str) -> Result<Field, ReplyError> {
        Field::parse(encoding.as_bytes(), offset.as_bytes())
    }

    #[test]
    fn types_are_lower_case_with_a_width_that_an_i64_holds() {
        for encoding in ["u64", "i65", "u0", "i0", "U8", "I8", "u", "8", "", "u08", "u-1", "ux"] {
            assert_eq!(field(encoding, "0"), Err(ReplyError::BitfieldType), "{encoding}");
        }
        assert_eq!(field("i64", "#2"), Ok(Field { signed: true, bits: 64, offset: 128 }));
        assert_eq!(field("u63", "5"), Ok(Field { signed: false, bits: 63, offset: 5 }));
    }

    #[test]
    fn offsets_end_with_the_longest_value() {
        assert_eq!(field("u8", "4294967295").map(|field| field.offset), Ok(4_294_967_295));
        for offset in ["4294967296", "-1", "#-1", "#536870912", "#9223372036854775807", "#", "x", ""] {
            assert_eq!(field("u8", offset), Err(ReplyError::BitOffset), "{offset}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_other_bit_changes(
            signed: bool, bits in 1u32..=63, offset in 0u64..80, number: i64, fill: u8,
        ) {
            let field = Field { signed, bits, offset };
            let number = field.fit(i128::from(number), Overflow::Wrap).expect("wrapped numbers fit");
            let mut value = vec![fill; 20];
            field.write(&mut value, number);
            prop_assert_eq!(field.value(&value), number);
            for at in (0..160).filter(|at| !(offset..offset + u64::from(bits)).contains(at)) {
                let bit = |byte: u8| byte >> (7 - at % 8) & 1;
                prop_assert_eq!(bit(value[(at / 8) as usize]), bit(fill), "bit {}", at);
            }
        }
    }

    #[test]
    fn numbers_that_do_not_fit_wrap_saturate_or_fail() {
        let byte = |signed| Field { signed, bits: 8, offset: 0 };
        assert_eq!(byte(false).fit(257, Overflow::Wrap), Some(1));
        assert_eq!(byte(false).fit(257, Overflow::Saturate), Some(255));
        assert_eq!(byte(false).fit(-1, Overflow::Saturate), Some(0));
        assert_eq!(byte(false).fit(-1, Overflow::Wrap), Some(255));
        assert_eq!(byte(true).fit(128, Overflow::Wrap), Some(-128));
        assert_eq!(byte(true).fit(-129, Overflow::Saturate), Some(-128));
        assert_eq!(byte(true).fit(128, Overflow::Fail), None);
        let widest = Field { signed: true, bits: 64, offset: 0 };
        assert_eq!(widest.fit(i128::from(i64::MAX) + 1, Overflow::Wrap), Some(i64::MIN));
    }

    #[test]
    fn operations_run_in_order_with_the_overflow_named_last() {
        let mut node = Node::new();
        for (line, reply) in [
            ("BITFIELD k INCRBY i5 100 1 GET u4 0", "*2\r\n:1\r\n:0\r\n"),
            (
                "BITFIELD k SET u8 0 255 OVERFLOW FAIL INCRBY u8 0 1 OVERFLOW SAT INCRBY u8 0 9 GET i8 0",
                "*4\r\n:0\r\n$-1\r\n:255\r\n:-1\r\n",
            ),
            ("BITFIELD k SET u8 #1 -1 GET u8 #1", "*2\r\n:0\r\n:255\r\n"),
            ("BITFIELD far OVERFLOW SAT SET i16 0 -9223372036854775808 GET i16 0", "*2\r\n:0\r\n:32767\r\n"),
            ("BITFIELD far OVERFLOW SAT SET i16 0 -9223372036854743040 GET i16 0", "*2\r\n:32767\r\n:-32768\r\n"),
            (
                "BITFIELD widest OVERFLOW SAT SET i64 0 -9223372036854775808 GET i64 0",
                "*2\r\n:0\r\n:-9223372036854775808\r\n",
            ),
            ("BITFIELD k", "*0\r\n"),
            ("BITFIELD none GET u8 0", "*1\r\n:0\r\n"),
            ("BITFIELD_RO k GET u8 0 GET u8 8", "*2\r\n:255\r\n:255\r\n"),
            ("BITFIELD grown OVERFLOW FAIL INCRBY u1 20 2", "*1\r\n$-1\r\n"),
            ("STRLEN grown", ":3\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
        node.version = leasehold_protocol::RespVersion::V3;
        assert_eq!(node.run("BITFIELD k OVERFLOW FAIL SET u8 0 256"), "*1\r\n_\r\n");
    }

    #[test]
    fn nothing_is_written_when_any_operation_is_malformed() {
        let mut node = Node::new();
        for (line, reply) in [
            ("BITFIELD k SET u8 0 1 GET u8", "-ERR syntax error\r\n"),
            ("BITFIELD k SET u8 0 1 SET u8 0 x", "-ERR value is not an integer or out of range\r\n"),
            ("BITFIELD k SET u8 0 1 OVERFLOW x", "-ERR Invalid OVERFLOW type specified\r\n"),
            ("BITFIELD_RO k GET u8 0 SET u8 0 1", "-ERR BITFIELD_RO only supports the GET subcommand\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
        assert_eq!(node.run("STRLEN k"), ":0\r\n");
    }
}
