//! Commands on a part of a value, and on its length.

use crate::argument::{integer_or_error, value_end};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::Access;
use leasehold_protocol::Request;

pub(super) static STRLEN: Spec = Spec {
    name: "strlen",
    summary: "Returns the length of a value in bytes; 0 if there is none",
    group: Group::String,
    since: "2.2.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::READONLY.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key")],
    subcommands: &[],
    run: strlen,
};

fn strlen(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    let len = keyspace.read(turn, client.db, request.arg(1), client.access(), |entry| entry.value.len());
    reply.integer(len.unwrap_or(0) as i64);
    Outcome::Replied
}

pub(super) static GETRANGE: Spec = Spec {
    name: "getrange",
    summary: "Returns the bytes of a value from one position to another, both included",
    group: Group::String,
    since: "2.4.0",
    complexity: "O(N) where N is the number of bytes returned",
    arity: 4,
    flags: Flags::READONLY,
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("start"), Argument::integer("end")],
    subcommands: &[],
    run: |context, request| {
        let result = getrange(context, request);
        context.conclude(result)
    },
};

pub(super) static SUBSTR: Spec =
    Spec { name: "substr", summary: "The former name of GETRANGE", since: "1.0.0", ..GETRANGE };

fn getrange(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let start = integer_or_error(request.arg(2))?;
    let end = integer_or_error(request.arg(3))?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let found = keyspace.read(turn, client.db, request.arg(1), client.access(), |entry| {
        reply.bulk(Positions { start, end }.part_of(entry.value));
    });
    if found.is_none() {
        reply.bulk(b"");
    }
    Ok(())
}

/// Two positions, both included; negative ones count from the end.
#[derive(Clone, Copy)]
pub(crate) struct Positions {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl Positions {
    /// As offsets from the start of `len` units; `None` if there is nothing between them. A position before the start means
    /// the start, also as an end, which is how Redis 7 does it.
    pub(crate) fn within(self, len: u64) -> Option<(u64, u64)> {
        if self.start < 0 && self.end < 0 && self.start > self.end { None } else { self.clamped(len) }
    }

    /// As [`Positions::within`], but two positions before the start mean the first unit even in the wrong order, which is
    /// how `BITPOS` does it.
    pub(crate) fn clamped(self, len: u64) -> Option<(u64, u64)> {
        // Lengths are below 2^35 (bits of the longest value).
        let len = len as i64;
        let from_start = |position: i64| if position < 0 { position.saturating_add(len).max(0) } else { position };
        let (start, end) = (from_start(self.start), from_start(self.end).min(len - 1));
        if start <= end { Some((start as u64, end as u64)) } else { None }
    }

    fn part_of(self, value: &[u8]) -> &[u8] {
        match self.within(value.len() as u64) {
            Some((start, end)) => &value[start as usize..=end as usize],
            None => &[],
        }
    }
}

pub(super) static SETRANGE: Spec = Spec {
    name: "setrange",
    summary: "Overwrites a part of a value from an offset on, with zero bytes in between if it is too short",
    group: Group::String,
    since: "2.2.0",
    complexity: "O(N) where N is the number of bytes written or filled with zeros",
    arity: 4,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("offset"), Argument::string("value")],
    subcommands: &[],
    run: |context, request| {
        let result = setrange(context, request);
        context.conclude(result)
    },
};

fn setrange(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let (key, part) = (request.arg(1), request.arg(3));
    let offset = integer_or_error(request.arg(2))?;
    let offset = u64::try_from(offset).map_err(|_| ReplyError::OffsetOutOfRange)?;
    if part.is_empty() {
        let Context { keyspace, client, reply, turn, .. } = context;
        let len = keyspace.read(turn, client.db, key, Access::Quiet, |entry| entry.value.len());
        reply.integer(len.unwrap_or(0) as i64);
        return Ok(());
    }
    let end = context.make_room_until(key, offset, part.len())?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let len = keyspace.update(turn, client.db, key, |slot| {
        let value = slot.value_mut(end);
        value[end - part.len()..end].copy_from_slice(part);
        value.len()
    });
    reply.integer(len as i64);
    Ok(())
}

pub(super) static APPEND: Spec = Spec {
    name: "append",
    summary: "Appends to a value, or stores one if there is none; returns the new length",
    group: Group::String,
    since: "2.0.0",
    complexity: "O(N) where N is the number of bytes appended, as long as the value's block has room for them",
    arity: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::string("value")],
    subcommands: &[],
    run: |context, request| {
        let result = append(context, request);
        context.conclude(result)
    },
};

fn append(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let part = request.arg(2);
    let bytes_max = context.host.value_bytes_max();
    let Context { keyspace, client, reply, turn, .. } = context;
    let len = keyspace.update(turn, client.db, request.arg(1), |slot| {
        let len = slot.entry().map_or(0, |entry| entry.value.len());
        let end = value_end(len as u64, part.len(), bytes_max)?;
        slot.value_mut(end)[len..].copy_from_slice(part);
        Ok(end)
    })?;
    reply.integer(len as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    #[test]
    fn positions_clamp_as_redis_clamps_them() {
        for (start, end, wanted) in [
            (0, -1, "hello"),
            (0, 0, "h"),
            (1, 3, "ell"),
            (-3, -2, "ll"),
            (-2, -3, ""),
            (-100, 1, "he"),
            (0, -100, "h"),
            (-100, -100, "h"),
            (3, 100, "lo"),
            (5, 9, ""),
            (4, 2, ""),
            (i64::MIN, i64::MAX, "hello"),
            (i64::MAX, i64::MAX, ""),
        ] {
            assert_eq!(Positions { start, end }.part_of(b"hello"), wanted.as_bytes(), "{start} {end}");
        }
        assert_eq!(Positions { start: 0, end: -1 }.part_of(b""), b"");
        assert_eq!(Positions { start: -1, end: 0 }.part_of(b""), b"");
    }

    #[test]
    fn appending_and_overwriting_keep_the_ttl() {
        let mut node = Node::new();
        node.run("SET k ab PX 100");
        assert_eq!(node.run("APPEND k cd"), ":4\r\n");
        assert_eq!(node.run("SETRANGE k 1 XX"), ":4\r\n");
        assert_eq!(node.run("GETRANGE k 0 -1"), "$4\r\naXXd\r\n");
        assert_eq!(node.run("SUBSTR k -3 -2"), "$2\r\nXX\r\n");
        node.advance_ms(100);
        assert_eq!(node.run("STRLEN k"), ":0\r\n");
        assert_eq!(node.run("APPEND k e"), ":1\r\n");
        assert_eq!(node.run("GET k"), "$1\r\ne\r\n");
    }

    #[test]
    fn nothing_written_at_an_offset_creates_nothing() {
        let mut node = Node::new();
        assert_eq!(node.run_args(&[b"SETRANGE", b"k", b"5", b""]), b":0\r\n");
        assert_eq!(node.run("GET k"), "$-1\r\n");
        assert_eq!(node.run("SETRANGE k 2 x"), ":3\r\n");
        assert_eq!(node.run("GET k"), "$3\r\n\0\0x\r\n");
        assert_eq!(node.run_args(&[b"APPEND", b"empty", b""]), b":0\r\n");
        assert_eq!(node.run("GET empty"), "$0\r\n\r\n");
    }

    #[test]
    fn values_end_at_the_limit() {
        let mut node = Node::new();
        let too_long = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n";
        assert_eq!(node.run("SETRANGE k 536870912 x"), too_long);
        assert_eq!(node.run("SETRANGE k 9223372036854775807 x"), too_long);
        assert_eq!(node.run("SETRANGE k -1 x"), "-ERR offset is out of range\r\n");
        assert_eq!(node.run("SETRANGE k x x"), "-ERR value is not an integer or out of range\r\n");
        assert_eq!(node.run("GETRANGE k 0 x"), "-ERR value is not an integer or out of range\r\n");
        assert_eq!(node.run("GETRANGE k 0 1"), "$0\r\n\r\n");
    }

    #[test]
    fn short_request_for_a_long_value_is_refused_when_memory_is_full() {
        let settings = leasehold_keyspace::Settings { memory_bytes_max: 4 << 20, ..crate::testing::settings() };
        let mut node = Node::with_settings(settings);
        let full = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
        assert_eq!(node.run("SETRANGE k 500000000 x"), full);
        assert_eq!(node.run("SETBIT k 4000000000 1"), full);
        assert_eq!(node.run("BITFIELD k SET u8 4000000000 1"), full);
        assert_eq!(node.run("SETBIT k 4000 1"), ":0\r\n");
    }
}
