//! Commands on a single bit.

use crate::argument::{VALUE_BYTES_MAX, integer};
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::Request;

/// A place in a string of bits that a value can have: its byte lies below [`VALUE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BitOffset(pub(super) u64);

impl BitOffset {
    /// # Errors
    /// [`ReplyError::BitOffset`].
    pub(super) fn parse(argument: &[u8]) -> Result<Self, ReplyError> {
        integer(argument).and_then(Self::of).ok_or(ReplyError::BitOffset)
    }

    /// `#n`: the n-th field of so many bits.
    ///
    /// # Errors
    /// [`ReplyError::BitOffset`].
    pub(super) fn parse_in_fields(argument: &[u8], bits: u32) -> Result<Self, ReplyError> {
        let [b'#', number @ ..] = argument else { return Self::parse(argument) };
        let offset = integer(number).and_then(|number| number.checked_mul(i64::from(bits)));
        offset.and_then(Self::of).ok_or(ReplyError::BitOffset)
    }

    fn of(offset: i64) -> Option<Self> {
        u64::try_from(offset).ok().filter(|offset| offset / 8 < VALUE_BYTES_MAX).map(Self)
    }

    fn byte(self) -> usize {
        (self.0 / 8) as usize
    }

    /// How far to shift the byte so that the bit is its lowest.
    fn shift(self) -> u32 {
        7 - (self.0 % 8) as u32
    }
}

pub(super) static SETBIT: Spec = Spec {
    name: "setbit",
    summary: "Sets one bit of a value to 0 or 1, and returns what it was",
    group: Group::Bitmap,
    since: "2.2.0",
    complexity: "O(1), but for the zeros that are written if the value is too short",
    arity: 4,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("offset"), Argument::integer("value")],
    subcommands: &[],
    run: |context, request| {
        let result = setbit(context, request);
        context.conclude(result)
    },
};

fn setbit(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let key = request.arg(1);
    let offset = BitOffset::parse(request.arg(2))?;
    let bit = match request.arg(3) {
        b"0" => 0,
        b"1" => 1,
        _ => return Err(ReplyError::BitValue),
    };
    let end = context.make_room_until(key, offset.byte() as u64, 1)?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let before = keyspace.update(turn, client.db, key, |slot| {
        let byte = &mut slot.value_mut(end)[offset.byte()];
        let before = *byte >> offset.shift() & 1;
        *byte = *byte & !(1 << offset.shift()) | bit << offset.shift();
        before
    });
    reply.integer(i64::from(before));
    Ok(())
}

pub(super) static GETBIT: Spec = Spec {
    name: "getbit",
    summary: "Returns one bit of a value; 0 behind its end",
    group: Group::Bitmap,
    since: "2.2.0",
    complexity: "O(1)",
    arity: 3,
    flags: Flags::READONLY.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("offset")],
    subcommands: &[],
    run: |context, request| {
        let result = getbit(context, request);
        context.conclude(result)
    },
};

fn getbit(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let offset = BitOffset::parse(request.arg(2))?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let bit = keyspace.read(turn, client.db, request.arg(1), client.access(), |entry| {
        entry.value.get(offset.byte()).map_or(0, |byte| *byte >> offset.shift() & 1)
    });
    reply.integer(i64::from(bit.unwrap_or(0)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn bits_count_from_the_top_of_the_first_byte() {
        let mut node = Node::new();
        for (line, reply) in [
            ("SETBIT k 7 1", ":0\r\n"),
            ("SETBIT k 1 1", ":0\r\n"),
            ("GET k", "$1\r\nA\r\n"),
            ("SETBIT k 1 0", ":1\r\n"),
            ("GETBIT k 7", ":1\r\n"),
            ("GETBIT k 8", ":0\r\n"),
            ("GETBIT k 4294967295", ":0\r\n"),
            ("GETBIT none 0", ":0\r\n"),
            ("SETBIT k 17 0", ":0\r\n"),
            ("STRLEN k", ":3\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
    }

    #[test]
    fn offset_is_looked_at_before_the_bit() {
        let mut node = Node::new();
        let bad_offset = "-ERR bit offset is not an integer or out of range\r\n";
        for line in ["SETBIT k 4294967296 2", "SETBIT k -1 x", "SETBIT k #1 1", "GETBIT k x", "GETBIT k 4294967296"] {
            assert_eq!(node.run(line), bad_offset, "{line}");
        }
        for line in ["SETBIT k 0 2", "SETBIT k 0 -1", "SETBIT k 0 x"] {
            assert_eq!(node.run(line), "-ERR bit is not an integer or out of range\r\n", "{line}");
        }
    }
}
