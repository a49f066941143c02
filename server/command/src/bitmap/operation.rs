//! `BITOP`: values combined bit by bit.

use crate::argument::is_word;
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Access, Attributes, Db};
use leasehold_protocol::Request;

pub(super) static BITOP: Spec = Spec {
    name: "bitop",
    summary: "Combines several values bit by bit and stores the result; shorter ones count as followed by zeros",
    group: Group::Bitmap,
    since: "2.6.0",
    complexity: "O(N) where N is the number of bytes of all values",
    arity: -4,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::Range { first: 2, last: -1, step: 1 },
    arguments: &[
        Argument::one_of(
            "operation",
            &[
                Argument::word("and", "AND"),
                Argument::word("or", "OR"),
                Argument::word("xor", "XOR"),
                Argument::word("not", "NOT"),
            ],
        ),
        Argument::key("destkey"),
        Argument::key("key").multiple(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = bitop(context, request);
        context.conclude(result)
    },
};

fn bitop(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let operation = Operation::parse(request.arg(1)).ok_or(ReplyError::Syntax)?;
    if operation == Operation::Not && request.len() != 4 {
        return Err(ReplyError::BitopNot);
    }
    let Context { keyspace, client, reply, turn, .. } = context;
    let db = client.db;
    // The destination, then the sources.
    let keys: Vec<(Db, &[u8])> = request.args_from(2).map(|key| (db, key)).collect();
    // The result may be longer than all that dispatch made room for: the request.
    let mut longest = 0;
    let sources = keys[1..].iter().map(|(_, key)| *key);
    keyspace.read_many(turn, db, sources, Access::Quiet, |_, entry| {
        longest = longest.max(entry.map_or(0, |entry| entry.value.len()));
    });
    keyspace.make_room(turn, longest).map_err(|_| ReplyError::OutOfMemory)?;
    let len = keyspace.update_many(turn, &keys, |slots| {
        let mut result = Vec::new();
        for index in 1..keys.len() {
            let source = slots.slot(index);
            let value = source.entry().map_or(&[][..], |entry| entry.value);
            if index == 1 {
                result.extend_from_slice(value);
            } else {
                operation.combine(&mut result, value);
            }
        }
        if operation == Operation::Not {
            result.iter_mut().for_each(|byte| *byte = !*byte);
        }
        let mut destination = slots.slot(0);
        if result.is_empty() {
            destination.remove();
        } else {
            destination.set(&result, Attributes::PLAIN);
        }
        result.len()
    });
    reply.integer(len as i64);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

impl Operation {
    fn parse(word: &[u8]) -> Option<Self> {
        let words = [("AND", Self::And), ("OR", Self::Or), ("XOR", Self::Xor), ("NOT", Self::Not)];
        words.into_iter().find(|(name, _)| is_word(word, name)).map(|(_, operation)| operation)
    }

    /// Makes `result` the combination of itself and `value`, as long as the longer of them.
    fn combine(self, result: &mut Vec<u8>, value: &[u8]) {
        if result.len() < value.len() {
            result.resize(value.len(), 0);
        }
        let (both, rest) = result.split_at_mut(value.len());
        let pairs = both.iter_mut().zip(value);
        match self {
            Self::And => {
                pairs.for_each(|(byte, other)| *byte &= other);
                rest.fill(0);
            }
            Self::Or => pairs.for_each(|(byte, other)| *byte |= other),
            Self::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
            Self::Not => unreachable!("NOT has one source"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    #[test]
    fn shorter_values_count_as_followed_by_zeros() {
        for (operation, wanted) in [
            (Operation::And, [0x0f & 0x33, 0, 0]),
            (Operation::Or, [0x0f | 0x33, 0x55, 0x66]),
            (Operation::Xor, [0x0f ^ 0x33, 0x55, 0x66]),
        ] {
            let (mut short, mut long) = (vec![0x0f], vec![0x33, 0x55, 0x66]);
            operation.combine(&mut short, &[0x33, 0x55, 0x66]);
            operation.combine(&mut long, &[0x0f]);
            assert_eq!(short, wanted, "{operation:?}");
            assert_eq!(long, wanted, "{operation:?}");
        }
    }

    #[test]
    fn result_replaces_the_destination_and_its_ttl_and_an_empty_one_deletes_it() {
        let mut node = Node::new();
        node.run("MSET a abc b ac");
        node.run("SET to x PX 10");
        assert_eq!(node.run("BITOP AND to a b"), ":3\r\n");
        node.advance_ms(10);
        assert_eq!(node.run("GET to"), "$3\r\nab\0\r\n");
        assert_eq!(node.run("BITOP xor to to to"), ":3\r\n");
        assert_eq!(node.run("GET to"), "$3\r\n\0\0\0\r\n");
        assert_eq!(node.run_args(&[b"BITOP", b"NOT", b"to", b"to"]), b":3\r\n");
        assert_eq!(node.run_args(&[b"GET", b"to"]), b"$3\r\n\xff\xff\xff\r\n");
        assert_eq!(node.run("BITOP OR to none"), ":0\r\n");
        assert_eq!(node.run("GET to"), "$-1\r\n");
    }

    #[test]
    fn operation_and_its_number_of_sources_are_checked() {
        let mut node = Node::new();
        assert_eq!(node.run("BITOP NAND to a"), "-ERR syntax error\r\n");
        let not = "-ERR BITOP NOT must be called with a single source key.\r\n";
        assert_eq!(node.run("BITOP NOT to a b"), not);
        assert_eq!(node.run("BITOP AND to"), "-ERR wrong number of arguments for 'bitop' command\r\n");
    }
}
