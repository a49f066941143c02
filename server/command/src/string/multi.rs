//! Commands that store several whole values in one step.

use super::lifetime::{EXPIRATION, Lifetime};
use crate::argument::{integer, is_word};
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Attributes, Db};
use leasehold_protocol::Request;

const KEY_AND_VALUE: Argument = Argument::block("data", &[Argument::key("key"), Argument::string("value")]).multiple();

pub(super) static MSET: Spec = Spec {
    name: "mset",
    summary: "Stores several values in one step",
    group: Group::String,
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys",
    arity: -3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::ALL_OK),
    keys: Keys::Range { first: 1, last: -1, step: 2 },
    arguments: &[KEY_AND_VALUE],
    subcommands: &[],
    run: |context, request| {
        let result = mset(context, request);
        context.conclude(result)
    },
};

fn mset(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let pairs = Pairs::until_end(request, "mset")?;
    let stored = pairs.store(context, Wanted::Always, Attributes::PLAIN);
    debug_assert!(stored);
    context.reply.ok();
    Ok(())
}

pub(super) static MSETNX: Spec = Spec {
    name: "msetnx",
    summary: "Stores several values in one step if none of the keys has one",
    group: Group::String,
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys",
    arity: -3,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::Range { first: 1, last: -1, step: 2 },
    arguments: &[KEY_AND_VALUE],
    subcommands: &[],
    run: |context, request| {
        let result = msetnx(context, request);
        context.conclude(result)
    },
};

fn msetnx(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let pairs = Pairs::until_end(request, "msetnx")?;
    let stored = pairs.store(context, Wanted::AllAbsent, Attributes::PLAIN);
    context.reply.integer(i64::from(stored));
    Ok(())
}

pub(super) static MSETEX: Spec = Spec {
    name: "msetex",
    summary: "Stores several values in one step with one time to live, on request only if all or none of the keys exist",
    group: Group::String,
    since: "8.4.0",
    complexity: "O(N) where N is the number of keys",
    arity: -4,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::MOVABLEKEYS),
    keys: Keys::Counted { numkeys: 1, step: 2 },
    arguments: &[
        Argument::integer("numkeys"),
        KEY_AND_VALUE,
        Argument::one_of("condition", &[Argument::word("nx", "NX"), Argument::word("xx", "XX")]).optional(),
        EXPIRATION,
    ],
    subcommands: &[],
    run: |context, request| {
        let result = msetex(context, request);
        context.conclude(result)
    },
};

fn msetex(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let count = integer(request.arg(1)).and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let count = count.ok_or(ReplyError::Numkeys)?;
    if count > (request.len() - 2) / 2 {
        return Err(ReplyError::KeyValuePairs);
    }
    let pairs = Pairs { request, first: 2, count };
    let mut lifetime = Lifetime::default();
    let mut wanted = Wanted::Always;
    let mut index = 2 + 2 * count;
    while index < request.len() {
        if let Some(next) = lifetime.take("KEEPTTL", request, index)? {
            index = next;
            continue;
        }
        wanted = match (request.arg(index), wanted) {
            (word, Wanted::Always | Wanted::AllAbsent) if is_word(word, "NX") => Wanted::AllAbsent,
            (word, Wanted::Always | Wanted::AllPresent) if is_word(word, "XX") => Wanted::AllPresent,
            _ => return Err(ReplyError::Syntax),
        };
        index += 1;
    }
    let expiry = lifetime.expiry(context.turn, "msetex")?;
    let stored = pairs.store(context, wanted, Attributes { expiry, ..Attributes::PLAIN });
    context.reply.integer(i64::from(stored));
    Ok(())
}

/// Keys and values in turn, among the arguments of a request.
#[derive(Clone, Copy)]
struct Pairs<'a> {
    request: Request<'a>,
    /// Index of the first key.
    first: usize,
    count: usize,
}

/// What must hold of the keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Always,
    AllAbsent,
    AllPresent,
}

impl<'a> Pairs<'a> {
    /// All arguments are pairs.
    fn until_end(request: Request<'a>, command: &'static str) -> Result<Self, ReplyError> {
        if request.len().is_multiple_of(2) {
            return Err(ReplyError::WrongArity { command: command.to_owned() });
        }
        Ok(Self { request, first: 1, count: request.len() / 2 })
    }

    fn key(&self, index: usize) -> &'a [u8] {
        self.request.arg(self.first + 2 * index)
    }

    fn value(&self, index: usize) -> &'a [u8] {
        self.request.arg(self.first + 2 * index + 1)
    }

    /// Stores all pairs, a later one of the same key over an earlier; or none, if the condition does not hold.
    fn store(&self, context: &mut Context<'_>, wanted: Wanted, attributes: Attributes) -> bool {
        let Context { keyspace, client, turn, .. } = context;
        let keys: Vec<(Db, &[u8])> = (0..self.count).map(|index| (client.db, self.key(index))).collect();
        keyspace.update_many(turn, &keys, |slots| {
            let mut held = 0..self.count;
            let holds = match wanted {
                Wanted::Always => true,
                Wanted::AllAbsent => held.all(|index| slots.slot(index).entry().is_none()),
                Wanted::AllPresent => held.all(|index| slots.slot(index).entry().is_some()),
            };
            if holds {
                for index in 0..self.count {
                    slots.slot(index).store(self.value(index), attributes);
                }
            }
            holds
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn later_pair_of_a_key_wins() {
        let mut node = Node::new();
        assert_eq!(node.run("MSET a 1 b 2 a 3"), "+OK\r\n");
        assert_eq!(node.run("MGET a b"), "*2\r\n$1\r\n3\r\n$1\r\n2\r\n");
        assert_eq!(node.run("MSET a 1 b"), "-ERR wrong number of arguments for 'mset' command\r\n");
        assert_eq!(node.run("MSETNX a 1 b"), "-ERR wrong number of arguments for 'msetnx' command\r\n");
    }

    #[test]
    fn msetnx_stores_all_or_none() {
        let mut node = Node::new();
        assert_eq!(node.run("MSETNX a 1 b 2"), ":1\r\n");
        assert_eq!(node.run("MSETNX c 1 b 3"), ":0\r\n");
        assert_eq!(node.run("MGET a b c"), "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n");
    }

    #[test]
    fn msetex_gives_all_keys_one_ttl_under_one_condition() {
        let mut node = Node::new();
        for (line, reply) in [
            ("MSETEX 2 a 1 b 2 XX", ":0\r\n"),
            ("MSETEX 2 a 1 b 2 PX 100 NX", ":1\r\n"),
            ("MSETEX 2 a 3 c 4 NX", ":0\r\n"),
            ("MSETEX 2 a 5 b 6 XX KEEPTTL", ":1\r\n"),
            ("MGET a b c", "*3\r\n$1\r\n5\r\n$1\r\n6\r\n$-1\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
        node.advance_ms(100);
        assert_eq!(node.run("MGET a b"), "*2\r\n$-1\r\n$-1\r\n");
    }

    #[test]
    fn msetex_refuses_what_does_not_add_up() {
        let mut node = Node::new();
        for (line, reply) in [
            ("MSETEX 0 a 1", "-ERR invalid numkeys value\r\n"),
            ("MSETEX a 1 b", "-ERR invalid numkeys value\r\n"),
            ("MSETEX 9223372036854775807 a 1", "-ERR wrong number of key-value pairs\r\n"),
            ("MSETEX 2 a 1 b", "-ERR wrong number of key-value pairs\r\n"),
            ("MSETEX 1 a 1 b", "-ERR syntax error\r\n"),
            ("MSETEX 1 a 1 NX XX", "-ERR syntax error\r\n"),
            ("MSETEX 1 a 1 EX 1 KEEPTTL", "-ERR syntax error\r\n"),
            ("MSETEX 1 a 1 EX 0", "-ERR invalid expire time in 'msetex' command\r\n"),
            ("MSETEX 1 a", "-ERR wrong number of arguments for 'msetex' command\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
    }
}
