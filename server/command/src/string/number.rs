//! Commands that count.

use super::extended::Extended;
use crate::argument::{integer, integer_or_error};
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Attributes, Expiry, Slot};
use leasehold_protocol::Request;

pub(super) static INCR: Spec = Spec {
    name: "incr",
    summary: "Adds 1 to a whole number; an absent key counts as 0",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key")],
    subcommands: &[],
    run: |context, request| {
        let result = add(context, request, 1);
        context.conclude(result)
    },
};

pub(super) static DECR: Spec = Spec {
    name: "decr",
    summary: "Subtracts 1 from a whole number; an absent key counts as 0",
    run: |context, request| {
        let result = add(context, request, -1);
        context.conclude(result)
    },
    ..INCR
};

pub(super) static INCRBY: Spec = Spec {
    name: "incrby",
    summary: "Adds to a whole number; an absent key counts as 0",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("increment")],
    subcommands: &[],
    run: |context, request| {
        let result = integer_or_error(request.arg(2)).and_then(|increment| add(context, request, increment));
        context.conclude(result)
    },
};

pub(super) static DECRBY: Spec = Spec {
    name: "decrby",
    summary: "Subtracts from a whole number; an absent key counts as 0",
    arguments: &[Argument::key("key"), Argument::integer("decrement")],
    run: |context, request| {
        let result = decrby(context, request);
        context.conclude(result)
    },
    ..INCRBY
};

fn decrby(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let increment = integer_or_error(request.arg(2))?.checked_neg().ok_or(ReplyError::DecrementOverflow)?;
    add(context, request, increment)
}

fn add(context: &mut Context<'_>, request: Request<'_>, increment: i64) -> Result<(), ReplyError> {
    let Context { keyspace, client, reply, turn, .. } = context;
    let sum = keyspace.update(turn, client.db, request.arg(1), |slot| {
        let before = match slot.entry() {
            Some(entry) => integer(entry.value).ok_or(ReplyError::NotAnInteger)?,
            None => 0,
        };
        let sum = before.checked_add(increment).ok_or(ReplyError::Overflow)?;
        replace(slot, itoa::Buffer::new().format(sum).as_bytes(), None, 0);
        Ok(sum)
    })?;
    reply.integer(sum);
    Ok(())
}

/// Stores a value that came of the one before, with a version of its own or none: its life goes on, as with `APPEND`, and it becomes
/// stale when the one before would. Client flags are the caller's affair: to Redis's commands they are 0.
pub(crate) fn replace(slot: &mut Slot<'_>, value: &[u8], external_version: Option<u64>, client_flags: u32) {
    let stale_for_ms = slot.entry().map_or(0, |entry| entry.stale_for_ms);
    let tags = slot.tags();
    slot.set(value, Attributes { expiry: Expiry::Keep, stale_for_ms, client_flags, external_version });
    slot.set_tags(&tags);
}

pub(super) static INCRBYFLOAT: Spec = Spec {
    name: "incrbyfloat",
    summary: "Adds to a number with decimals; an absent key counts as 0",
    group: Group::String,
    since: "2.6.0",
    complexity: "O(1)",
    arity: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::new("increment", crate::spec::ArgumentKind::Double)],
    subcommands: &[],
    run: |context, request| {
        let result = incrbyfloat(context, request);
        context.conclude(result)
    },
};

fn incrbyfloat(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let increment = Extended::parse(request.arg(2)).ok_or(ReplyError::NotAFloat)?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let text = keyspace.update(turn, client.db, request.arg(1), |slot| {
        let before = match slot.entry() {
            Some(entry) => Extended::parse(entry.value).ok_or(ReplyError::NotAFloat)?,
            None => Extended::ZERO,
        };
        let text = before.plus(increment).and_then(Extended::decimal).ok_or(ReplyError::NotFinite)?;
        replace(slot, text.as_bytes(), None, 0);
        Ok(text)
    })?;
    reply.bulk(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn counting_keeps_the_ttl() {
        let mut node = Node::new();
        node.run("SET k 10 PX 100");
        assert_eq!(node.run("INCR k"), ":11\r\n");
        assert_eq!(node.run("INCRBYFLOAT k 0.5"), "$4\r\n11.5\r\n");
        node.advance_ms(100);
        assert_eq!(node.run("DECRBY k 3"), ":-3\r\n");
        node.advance_ms(100_000);
        assert_eq!(node.run("DECR k"), ":-4\r\n");
    }

    #[test]
    fn numbers_that_do_not_fit_leave_the_value_alone() {
        let mut node = Node::new();
        for (line, reply) in [
            ("SET k 9223372036854775807", "+OK\r\n"),
            ("INCR k", "-ERR increment or decrement would overflow\r\n"),
            ("DECRBY k -9223372036854775808", "-ERR decrement would overflow\r\n"),
            ("INCRBY k -9223372036854775808", ":-1\r\n"),
            ("DECRBY k 9223372036854775807", ":-9223372036854775808\r\n"),
            ("DECR k", "-ERR increment or decrement would overflow\r\n"),
            ("INCRBY k 1.5", "-ERR value is not an integer or out of range\r\n"),
            ("SET text 1.5", "+OK\r\n"),
            ("INCR text", "-ERR value is not an integer or out of range\r\n"),
            ("INCRBYFLOAT text inf", "-ERR increment would produce NaN or Infinity\r\n"),
            ("INCRBYFLOAT text one", "-ERR value is not a valid float\r\n"),
            ("INCRBYFLOAT absent -0", "$1\r\n0\r\n"),
            ("MGET k text", "*2\r\n$20\r\n-9223372036854775808\r\n$3\r\n1.5\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
    }
}
