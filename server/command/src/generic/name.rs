//! Giving an entry another name or a second one: `RENAME`, `RENAMENX`, `COPY`.
//!
//! Both names are written in one step under both locks: readers see the entry under exactly one name, and leases on both
//! names are revoked. TTL, stale window, external version and client flags go along.

use crate::argument::{integer_or_error, is_word};
use crate::context::Context;
use crate::error::ReplyError;
use crate::spec::{Argument, ArgumentKind, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Access, Attributes, Db, Entry, Expiry};
use leasehold_protocol::Request;

const BOTH: Keys = Keys::Range { first: 1, last: 2, step: 1 };

pub(super) static RENAME: Spec = Spec {
    name: "rename",
    summary: "Gives a key another name, and deletes what had that name",
    group: Group::Generic,
    since: "1.0.0",
    complexity: "O(N) for a value of N bytes",
    arity: 3,
    flags: Flags::WRITE,
    keys: BOTH,
    arguments: &[Argument::key("key"), Argument::key("newkey")],
    subcommands: &[],
    run: |context, request| {
        let result = rename(context, request, Existing::Replace).map(|_| context.reply.ok());
        context.conclude(result)
    },
};

pub(super) static RENAMENX: Spec = Spec {
    name: "renamenx",
    summary: "Gives a key another name if no key has that name",
    group: Group::Generic,
    since: "1.0.0",
    complexity: "O(N) for a value of N bytes",
    arity: 3,
    flags: Flags::WRITE.with(Flags::FAST),
    keys: BOTH,
    arguments: &[Argument::key("key"), Argument::key("newkey")],
    subcommands: &[],
    run: |context, request| {
        let result = rename(context, request, Existing::Keep).map(|renamed| context.reply.integer(i64::from(renamed)));
        context.conclude(result)
    },
};

pub(super) static COPY: Spec = Spec {
    name: "copy",
    summary: "Copies a key's value and TTL to another key, also in another database",
    group: Group::Generic,
    since: "6.2.0",
    complexity: "O(N) for a value of N bytes",
    arity: -3,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: BOTH,
    arguments: &[
        Argument::key("source"),
        Argument::key("destination"),
        Argument::new("destination-db", ArgumentKind::Integer).with_token("DB").optional(),
        Argument::word("replace", "REPLACE").optional(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = copy(context, request).map(|copied| context.reply.integer(i64::from(copied)));
        context.conclude(result)
    },
};

/// What happens to an entry that has the new name already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replace,
    Keep,
}

fn rename(context: &mut Context<'_>, request: Request<'_>, existing: Existing) -> Result<bool, ReplyError> {
    let (db, from, to) = (context.client.db, request.arg(1), request.arg(2));
    if from == to {
        // Nothing changes, so nothing is revoked.
        let found = context.keyspace.read(context.turn, db, from, Access::Quiet, |_| ());
        return found.map(|()| existing == Existing::Replace).ok_or(ReplyError::NoSuchKey);
    }
    context.keyspace.update_many(context.turn, &[(db, from), (db, to)], |slots| {
        let Some((value, attributes)) = slots.slot(0).entry().map(taken_along) else {
            return Err(ReplyError::NoSuchKey);
        };
        if existing == Existing::Keep && slots.slot(1).entry().is_some() {
            return Ok(false);
        }
        let tags = slots.slot(0).tags();
        slots.slot(0).remove();
        slots.slot(1).set(&value, attributes);
        slots.slot(1).set_tags(&tags);
        Ok(true)
    })
}

fn copy(context: &mut Context<'_>, request: Request<'_>) -> Result<bool, ReplyError> {
    let (from, to) = (request.arg(1), request.arg(2));
    let from_db = context.client.db;
    let (mut to_db, mut existing) = (from_db, Existing::Keep);
    let mut index = 3;
    while index < request.len() {
        if is_word(request.arg(index), "REPLACE") {
            existing = Existing::Replace;
        } else if is_word(request.arg(index), "DB") && index + 1 < request.len() {
            index += 1;
            to_db = database(context, request.arg(index))?;
        } else {
            return Err(ReplyError::Syntax);
        }
        index += 1;
    }
    if to_db != Db(0) && context.host.member().is_some() {
        return Err(ReplyError::CopyInCluster);
    }
    if (from_db, from) == (to_db, to) {
        return Err(ReplyError::err("source and destination objects are the same"));
    }
    // Admission saw the request only, and the copy may be far larger.
    let bytes = context.keyspace.read(context.turn, from_db, from, Access::Quiet, |entry| entry.memory_bytes);
    let Some(bytes) = bytes else { return Ok(false) };
    context.keyspace.make_room(context.turn, bytes).map_err(|_| ReplyError::OutOfMemory)?;
    Ok(context.keyspace.update_many(context.turn, &[(from_db, from), (to_db, to)], |slots| {
        let Some((value, attributes)) = slots.slot(0).entry().map(taken_along) else { return false };
        if existing == Existing::Keep && slots.slot(1).entry().is_some() {
            return false;
        }
        let tags = slots.slot(0).tags();
        slots.slot(1).set(&value, attributes);
        slots.slot(1).set_tags(&tags);
        true
    }))
}

fn database(context: &Context<'_>, argument: &[u8]) -> Result<Db, ReplyError> {
    let index = integer_or_error(argument)?;
    match u8::try_from(index) {
        Ok(index) if index < context.host.databases() => Ok(Db(index)),
        _ => Err(ReplyError::DbIndexOutOfRange),
    }
}

/// An entry's value, and what is stored with it under the other name.
fn taken_along(entry: Entry<'_>) -> (Vec<u8>, Attributes) {
    let attributes = Attributes {
        expiry: entry.expire_at_ms.map_or(Expiry::Never, Expiry::At),
        stale_for_ms: entry.stale_for_ms,
        external_version: entry.external_version,
        client_flags: entry.client_flags,
    };
    (entry.value.to_vec(), attributes)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Node, settings};
    use leasehold_keyspace::Settings;

    #[test]
    fn rename_takes_value_and_ttl_along() {
        let mut node = Node::new();
        node.run("SET a one PX 5000");
        node.run("SET b two");
        assert_eq!(node.run("RENAME a b"), "+OK\r\n");
        assert_eq!(node.run("GET b"), "$3\r\none\r\n");
        assert_eq!(node.run("PTTL b"), ":5000\r\n");
        assert_eq!(node.run("EXISTS a"), ":0\r\n");
        assert_eq!(node.run("RENAME a b"), "-ERR no such key\r\n");
        assert_eq!(node.run("RENAME b b"), "+OK\r\n");
        assert_eq!(node.run("RENAME a a"), "-ERR no such key\r\n");
    }

    #[test]
    fn renamenx_spares_an_existing_name() {
        let mut node = Node::new();
        node.run("SET a one");
        node.run("SET b two");
        assert_eq!(node.run("RENAMENX a b"), ":0\r\n");
        assert_eq!(node.run("GET b"), "$3\r\ntwo\r\n");
        assert_eq!(node.run("RENAMENX a a"), ":0\r\n");
        assert_eq!(node.run("RENAMENX a c"), ":1\r\n");
        assert_eq!(node.run("GET c"), "$3\r\none\r\n");
        assert_eq!(node.run("RENAMENX a c"), "-ERR no such key\r\n");
    }

    #[test]
    fn copy_reaches_another_database_and_replaces_only_when_told() {
        let mut node = Node::new();
        node.run("SET a one PX 5000");
        assert_eq!(node.run("COPY a b"), ":1\r\n");
        assert_eq!(node.run("PTTL b"), ":5000\r\n");
        node.run("SET a two");
        assert_eq!(node.run("COPY a b"), ":0\r\n");
        assert_eq!(node.run("COPY a b replace"), ":1\r\n");
        assert_eq!(node.run("GET b"), "$3\r\ntwo\r\n");
        assert_eq!(node.run("PTTL b"), ":-1\r\n");
        assert_eq!(node.run("COPY a a DB 1"), ":1\r\n");
        assert_eq!(node.run("COPY nokey a"), ":0\r\n");
        node.run("SELECT 1");
        assert_eq!(node.run("GET a"), "$3\r\ntwo\r\n");
        assert_eq!(node.run("COPY a a"), "-ERR source and destination objects are the same\r\n");
        assert_eq!(node.run("COPY a b DB 16"), "-ERR DB index is out of range\r\n");
        assert_eq!(node.run("COPY a b DB x"), "-ERR value is not an integer or out of range\r\n");
        assert_eq!(node.run("COPY a b DB"), "-ERR syntax error\r\n");
        assert_eq!(node.run("COPY a b FOO"), "-ERR syntax error\r\n");
    }

    #[test]
    fn a_rename_is_a_write_of_both_names() {
        for line in ["RENAME a b", "RENAMENX a b", "COPY a b"] {
            let mut node = Node::new();
            node.run("SET a one");
            let fresh = node.run("GETL b");
            let token = fresh.split("\r\n").nth(5).expect("the third element is the token").to_owned();
            node.run(line);
            assert!(node.run(&format!("SETL b {token} old")).contains("LOST revoked"), "{line}: {fresh}");
            assert_eq!(node.run("GET b"), "$3\r\none\r\n");
        }
        // The name that went away: a load begun before must not bring the old value back.
        let mut node = Node::new();
        node.run("SET a one PX 10");
        node.advance_ms(10);
        let fresh = node.run("GETL a");
        let token = fresh.split("\r\n").nth(5).expect("the third element is the token").to_owned();
        node.run("MSET a two");
        node.run("RENAME a b");
        assert!(node.run(&format!("SETL a {token} old")).contains("LOST revoked"), "{fresh}");
        assert_eq!(node.run("GET a"), "$-1\r\n");
    }

    #[test]
    fn copy_of_a_large_value_respects_the_memory_limit() {
        let mut node = Node::with_settings(Settings { shards: 1, memory_bytes_max: 3 << 20, ..settings() });
        assert_eq!(node.run_args(&[b"SET", b"a", &vec![b'x'; 2 << 20]]), b"+OK\r\n");
        assert_eq!(node.run("COPY a b"), "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        assert_eq!(node.run("EXISTS b"), ":0\r\n");
    }
}
