//! Databases as wholes: `DBSIZE`, `FLUSHDB`, `FLUSHALL`.

use crate::argument::is_word;
use crate::context::Outcome;
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::Request;

pub(super) static DBSIZE: Spec = Spec {
    name: "dbsize",
    summary: "Counts the keys of the database",
    group: Group::Server,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 1,
    flags: Flags::READONLY.with(Flags::FAST),
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: |context, _| {
        let len = context.keyspace.len(context.client.db);
        context.reply.integer(len as i64);
        Outcome::Replied
    },
};

pub(super) static FLUSHDB: Spec = Spec {
    name: "flushdb",
    summary: "Deletes all keys of the database and revokes their leases",
    group: Group::Server,
    since: "1.0.0",
    complexity: "O(N) for N keys",
    arity: -1,
    flags: Flags::WRITE.with(Flags::DANGEROUS),
    keys: Keys::None,
    arguments: &[HOW],
    subcommands: &[],
    run: |context, request| {
        let result = check(request).map(|()| {
            context.keyspace.flush(context.turn, Some(context.client.db));
            context.reply.ok();
        });
        context.conclude(result)
    },
};

pub(super) static FLUSHALL: Spec = Spec {
    name: "flushall",
    summary: "Deletes all keys of all databases and revokes their leases",
    group: Group::Server,
    since: "1.0.0",
    complexity: "O(N) for N keys",
    arity: -1,
    flags: Flags::WRITE.with(Flags::DANGEROUS),
    keys: Keys::None,
    arguments: &[HOW],
    subcommands: &[],
    run: |context, request| {
        let result = check(request).map(|()| {
            context.keyspace.flush(context.turn, None);
            context.reply.ok();
        });
        context.conclude(result)
    },
};

const HOW: Argument =
    Argument::one_of("flush-type", &[Argument::word("async", "ASYNC"), Argument::word("sync", "SYNC")]).optional();

/// Both words are taken and neither changes anything: there is no background thread to free values in.
fn check(request: Request<'_>) -> Result<(), ReplyError> {
    match (request.len(), request.get(1)) {
        (1, _) => Ok(()),
        (2, Some(word)) if is_word(word, "ASYNC") || is_word(word, "SYNC") => Ok(()),
        _ => Err(ReplyError::Syntax),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn flushdb_spares_other_databases_and_flushall_none() {
        let mut node = Node::new();
        node.run("SET a 1");
        node.run("SET b 1");
        node.run("SELECT 1");
        node.run("SET c 1");
        assert_eq!(node.run("DBSIZE"), ":1\r\n");
        assert_eq!(node.run("FLUSHDB"), "+OK\r\n");
        assert_eq!(node.run("DBSIZE"), ":0\r\n");
        node.run("SET c 1");
        node.run("SELECT 0");
        assert_eq!(node.run("DBSIZE"), ":2\r\n");
        assert_eq!(node.run("FLUSHALL async"), "+OK\r\n");
        assert_eq!(node.run("DBSIZE"), ":0\r\n");
        node.run("SELECT 1");
        assert_eq!(node.run("DBSIZE"), ":0\r\n");
        assert_eq!(node.run("FLUSHALL SYNC"), "+OK\r\n");
    }

    #[test]
    fn a_word_it_does_not_know_deletes_nothing() {
        let mut node = Node::new();
        node.run("SET a 1");
        assert_eq!(node.run("FLUSHALL now"), "-ERR syntax error\r\n");
        assert_eq!(node.run("FLUSHDB SYNC SYNC"), "-ERR syntax error\r\n");
        assert_eq!(node.run("DBSIZE"), ":1\r\n");
    }
}
