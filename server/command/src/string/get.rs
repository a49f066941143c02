//! Commands that read whole values.

use super::lifetime::{EXPIRATION_OR_PERSIST, Lifetime};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::loader::refresh::{Reader, hit_near_end};
use crate::loader::through;
use crate::room::Room;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::Request;

pub(super) static GET: Spec = Spec {
    name: "get",
    summary: "Returns the value of a key; null if it has none",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::READONLY.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key")],
    subcommands: &[],
    run: get,
};

fn get(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    let near_end_ms = turn.near_end_ms;
    let found = keyspace.read(turn, client.db, request.arg(1), client.access(), |entry| {
        reply.bulk(entry.value);
        entry.expire_at_ms.filter(|&at_ms| at_ms < near_end_ms)
    });
    match found {
        Some(None) => Outcome::Replied,
        Some(Some(expire_at_ms)) => {
            hit_near_end(context, request.arg(1), expire_at_ms, Reader::Plain);
            Outcome::Replied
        }
        None => through::missed(context, request.arg(1)),
    }
}

pub(super) static MGET: Spec = Spec {
    name: "mget",
    summary: "Returns the values of several keys as of one moment; null for each that has none",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(N) where N is the number of keys",
    arity: -2,
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::LISTED),
    keys: Keys::ALL,
    arguments: &[Argument::key("key").multiple()],
    subcommands: &[],
    run: mget,
};

fn mget(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    let written_before = reply.len();
    let near_end_ms = turn.near_end_ms;
    let mut near_end = Vec::new();
    let (mut missed, mut is_too_long) = (false, false);
    let mut room = Room::of(reply);
    reply.array(request.len() - 1);
    keyspace.read_many(turn, client.db, request.args_from(1), client.access(), |index, entry| match entry {
        Some(entry) if !room.take(entry.value.len()) => is_too_long = true,
        Some(entry) => {
            reply.bulk(entry.value);
            near_end.extend(entry.expire_at_ms.filter(|&at_ms| at_ms < near_end_ms).map(|at_ms| (index, at_ms)));
        }
        None => {
            missed = true;
            reply.null();
        }
    });
    if is_too_long {
        context.reply.truncate(written_before);
        return context.conclude(Err(ReplyError::ReplyTooLong));
    }
    for (index, expire_at_ms) in near_end {
        hit_near_end(context, request.arg(index + 1), expire_at_ms, Reader::Plain);
    }
    if missed && request.args_from(1).any(|key| through::transparent_loader(context, key).is_some()) {
        context.reply.truncate(written_before);
        return through::many_missed(context, request);
    }
    Outcome::Replied
}

pub(super) static GETDEL: Spec = Spec {
    name: "getdel",
    summary: "Returns the value of a key and deletes the key",
    group: Group::String,
    since: "6.2.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::WRITE.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key")],
    subcommands: &[],
    run: getdel,
};

fn getdel(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    keyspace.update(turn, client.db, request.arg(1), |slot| {
        slot.touch();
        match slot.entry() {
            Some(entry) => reply.bulk(entry.value),
            None => reply.null(),
        }
        // Of an absent key too: who is loading it must not fill it after this.
        slot.remove();
    });
    Outcome::Replied
}

pub(super) static GETEX: Spec = Spec {
    name: "getex",
    summary: "Returns the value of a key and sets, keeps or removes its time to live",
    group: Group::String,
    since: "6.2.0",
    complexity: "O(1)",
    arity: -2,
    flags: Flags::WRITE.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), EXPIRATION_OR_PERSIST],
    subcommands: &[],
    run: |context, request| {
        let result = getex(context, request);
        context.conclude(result)
    },
};

fn getex(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let mut lifetime = Lifetime::default();
    let mut index = 2;
    while index < request.len() {
        index = lifetime.take("PERSIST", request, index)?.ok_or(ReplyError::Syntax)?;
    }
    let Context { keyspace, client, reply, turn, .. } = context;
    // A bad time is an error only if there is a value whose time it would be.
    let expire_at_ms = match lifetime {
        Lifetime::Unsaid => Ok(None),
        Lifetime::Bare => Ok(Some(None)),
        Lifetime::Until(unit, time) => unit.deadline_ms(time, turn, "getex").map(|time| Some(Some(time))),
    };
    keyspace.update(turn, client.db, request.arg(1), |slot| {
        slot.touch();
        let Some(entry) = slot.entry() else {
            reply.null();
            return Ok(());
        };
        let expire_at_ms = expire_at_ms?;
        reply.bulk(entry.value);
        if let Some(expire_at_ms) = expire_at_ms {
            slot.set_expiry(expire_at_ms);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn getex_changes_the_ttl_of_what_it_reads() {
        let mut node = Node::new();
        node.run("SET k v PX 100");
        assert_eq!(node.run("GETEX k PERSIST"), "$1\r\nv\r\n");
        node.advance_ms(100);
        assert_eq!(node.run("GETEX k PX 50"), "$1\r\nv\r\n");
        node.advance_ms(49);
        assert_eq!(node.run("GETEX k"), "$1\r\nv\r\n");
        node.advance_ms(1);
        assert_eq!(node.run("GETEX k"), "$-1\r\n");
        node.run("SET k v");
        assert_eq!(node.run("GETEX k EXAT 1"), "$1\r\nv\r\n");
        assert_eq!(node.run("GET k"), "$-1\r\n");
    }

    #[test]
    fn getex_looks_at_the_time_only_if_there_is_a_value() {
        let mut node = Node::new();
        assert_eq!(node.run("GETEX k EX 0"), "$-1\r\n");
        assert_eq!(node.run("GETEX k EX 10 PERSIST"), "-ERR syntax error\r\n");
        assert_eq!(node.run("GETEX k KEEPTTL"), "-ERR syntax error\r\n");
        node.run("SET k v");
        assert_eq!(node.run("GETEX k EX 0"), "-ERR invalid expire time in 'getex' command\r\n");
        assert_eq!(node.run("GETEX k EX x"), "-ERR value is not an integer or out of range\r\n");
    }

    #[test]
    fn getdel_leaves_nothing() {
        let mut node = Node::new();
        node.run("SET k v");
        assert_eq!(node.run("GETDEL k"), "$1\r\nv\r\n");
        assert_eq!(node.run("GETDEL k"), "$-1\r\n");
    }

    #[test]
    fn mget_has_a_null_for_each_key_without_a_value() {
        let mut node = Node::new();
        node.run("SET a 1");
        assert_eq!(node.run("MGET a b a"), "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n1\r\n");
        node.version = leasehold_protocol::RespVersion::V3;
        assert_eq!(node.run("MGET b"), "*1\r\n_\r\n");
    }

    #[test]
    fn mget_of_values_that_are_too_long_together_is_an_error() {
        let too_long = "-ERR reply exceeds maximum allowed size (client-output-buffer-limit)\r\n";
        let mut node = Node::with_loader();
        node.reply_bytes_max = 10;
        node.run("SET a 1234");
        assert_eq!(node.run("MGET a a none"), "*3\r\n$4\r\n1234\r\n$4\r\n1234\r\n$-1\r\n");
        assert_eq!(node.run("MGET a a none a"), too_long);
        assert_eq!(node.run("MGET a a a load:1"), too_long);
        assert!(node.turn.effects.loads.is_empty(), "nothing is loaded for a reply that cannot be");
        node.run("SET b 12345678901");
        assert_eq!(node.run("MGET b"), "*1\r\n$11\r\n12345678901\r\n", "a value has a limit of its own");
    }

    #[test]
    fn reads_count_as_hits_and_misses() {
        let mut node = Node::new();
        node.run("SET a 1");
        for line in ["GET a", "GETEX a", "GETDEL a", "GET a", "GETSET a 1"] {
            node.run(line);
        }
        let stats = node.keyspace.stats();
        assert_eq!((stats.hits, stats.misses), (3, 2));
    }
}
