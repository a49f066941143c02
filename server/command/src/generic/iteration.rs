//! Looking through a database: `SCAN`, `KEYS`, `RANDOMKEY`.

use crate::argument::{integer_or_error, is_word};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::glob;
use crate::room::Room;
use crate::spec::{Argument, ArgumentKind, Flags, Group, Keys, Spec};
use leasehold_protocol::Request;
use std::collections::HashSet;

pub(super) static SCAN: Spec = Spec {
    name: "scan",
    summary: "Steps through the keys of the database with a cursor; 0 begins and ends",
    group: Group::Generic,
    since: "2.8.0",
    complexity: "O(COUNT) a call, O(N) for all N keys",
    arity: -2,
    flags: Flags::READONLY,
    keys: Keys::None,
    arguments: &[
        Argument::integer("cursor"),
        Argument::new("pattern", ArgumentKind::Pattern).with_token("MATCH").optional(),
        Argument::integer("count").with_token("COUNT").optional(),
        Argument::string("type").with_token("TYPE").optional(),
    ],
    subcommands: &[],
    run: |context, request| {
        let result = scan(context, request);
        context.conclude(result)
    },
};

pub(super) static KEYS: Spec = Spec {
    name: "keys",
    summary: "Lists all keys of the database that match a glob pattern; SCAN does it in steps",
    group: Group::Generic,
    since: "1.0.0",
    complexity: "O(N) for the N keys of the database",
    arity: 2,
    flags: Flags::READONLY.with(Flags::DANGEROUS),
    keys: Keys::None,
    arguments: &[Argument::new("pattern", ArgumentKind::Pattern)],
    subcommands: &[],
    run: keys,
};

pub(super) static RANDOMKEY: Spec = Spec {
    name: "randomkey",
    summary: "Names a key of the database chosen at random",
    group: Group::Generic,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 1,
    flags: Flags::READONLY,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: random_key,
};

/// Table positions that one call of SCAN looks at unless it says COUNT, as in Redis.
const COUNT_DEFAULT: usize = 10;

/// Table positions that KEYS looks at between two moments in which other threads may lock the shard.
const KEYS_STEP: usize = 1024;

/// What a short key has around it in a reply: `$`, its length, two line ends.
const FRAME_BYTES: usize = 8;

/// Which keys SCAN or KEYS answers with.
struct Filter<'a> {
    /// `None`: all.
    pattern: Option<&'a [u8]>,
}

impl<'a> Filter<'a> {
    fn of(pattern: &'a [u8]) -> Self {
        Self { pattern: (!glob::is_everything(pattern)).then_some(pattern) }
    }

    fn accepts(&self, key: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, key))
    }
}

fn scan(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let cursor = cursor(request.arg(1)).ok_or_else(|| ReplyError::err("invalid cursor"))?;
    let (mut count, mut filter, mut type_wanted) = (COUNT_DEFAULT, Filter { pattern: None }, true);
    let mut index = 2;
    while index < request.len() {
        let (word, value) = (request.arg(index), request.get(index + 1).ok_or(ReplyError::Syntax)?);
        if is_word(word, "COUNT") {
            count = match usize::try_from(integer_or_error(value)?) {
                Ok(0) | Err(_) => return Err(ReplyError::Syntax),
                Ok(count) => count,
            };
        } else if is_word(word, "MATCH") {
            filter = Filter::of(value);
        } else if is_word(word, "TYPE") {
            // A type that no value has matches nothing, and is no error.
            type_wanted = is_word(value, "string");
        } else {
            return Err(ReplyError::Syntax);
        }
        index += 2;
    }
    let mut found: Vec<Vec<u8>> = Vec::new();
    let (mut room, mut is_too_long) = (Room::of(context.reply), false);
    let next = context.keyspace.scan(context.turn, context.client.db, cursor, count, |entry| {
        if type_wanted && filter.accepts(entry.key) {
            match room.take(entry.key.len() + FRAME_BYTES) {
                true => found.push(entry.key.to_vec()),
                false => is_too_long = true,
            }
        }
    });
    if is_too_long {
        return Err(ReplyError::ReplyTooLong);
    }
    context.reply.array(2);
    let mut digits = itoa::Buffer::new();
    context.reply.bulk(digits.format(next).as_bytes());
    context.reply.array(found.len());
    found.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}

/// A cursor as C's `strtoul` reads it, since Redis does: empty is 0, and a minus sign wraps around.
fn cursor(text: &[u8]) -> Option<u64> {
    match text {
        [] => Some(0),
        [b'-', digits @ ..] => std::str::from_utf8(digits).ok()?.parse::<u64>().ok().map(u64::wrapping_neg),
        digits => std::str::from_utf8(digits).ok()?.parse().ok(),
    }
}

fn keys(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let filter = Filter::of(request.arg(1));
    // While other threads write, the cursor may pass a key twice.
    let mut found: HashSet<Vec<u8>> = HashSet::new();
    let (mut room, mut is_too_long) = (Room::of(context.reply), false);
    let mut cursor = 0;
    loop {
        cursor = context.keyspace.scan(context.turn, context.client.db, cursor, KEYS_STEP, |entry| {
            if filter.accepts(entry.key) && !found.contains(entry.key) {
                match room.take(entry.key.len() + FRAME_BYTES) {
                    true => drop(found.insert(entry.key.to_vec())),
                    false => is_too_long = true,
                }
            }
        });
        if is_too_long {
            return context.conclude(Err(ReplyError::ReplyTooLong));
        }
        if cursor == 0 {
            break;
        }
    }
    context.reply.array(found.len());
    found.iter().for_each(|key| context.reply.bulk(key));
    Outcome::Replied
}

fn random_key(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    match context.keyspace.random_key(context.turn, context.client.db) {
        Some(key) => context.reply.bulk(&key),
        None => context.reply.null(),
    }
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;
    use std::collections::BTreeSet;

    /// The bulk strings of a reply.
    fn strings(reply: &str) -> Vec<String> {
        let lines: Vec<&str> = reply.split("\r\n").collect();
        let bulk = |index: usize| lines[index].starts_with('$').then(|| lines[index + 1].to_owned());
        (0..lines.len() - 1).filter_map(bulk).collect()
    }

    #[test]
    fn keys_that_are_too_long_together_are_an_error() {
        let too_long = "-ERR reply exceeds maximum allowed size (client-output-buffer-limit)\r\n";
        let mut node = Node::new();
        node.reply_bytes_max = 1_000;
        (0..5).for_each(|index| drop(node.run(&format!("SET key:{index} v"))));
        assert_eq!(strings(&node.run("KEYS *")).len(), 5);
        (0..200).for_each(|index| drop(node.run(&format!("SET more:{index} v"))));
        assert_eq!(node.run("KEYS *"), too_long);
        assert_eq!(strings(&node.run("KEYS key:*")).len(), 5);
        assert_eq!(node.run("SCAN 0 COUNT 1000"), too_long);
        assert!(node.run("SCAN 0 COUNT 1").starts_with("*2"));
    }

    #[test]
    fn scan_visits_every_key_and_keys_finds_each_once() {
        let mut node = Node::new();
        let expected: BTreeSet<String> = (0..1000).map(|number| format!("key:{number}")).collect();
        for key in &expected {
            node.run(&format!("SET {key} x"));
        }
        node.run("SELECT 1");
        node.run("SET other x");
        node.run("SELECT 0");
        let (mut seen, mut cursor, mut calls) = (BTreeSet::new(), "0".to_owned(), 0);
        loop {
            let mut reply = strings(&node.run(&format!("SCAN {cursor} COUNT 50 MATCH key:*")));
            cursor = reply.remove(0);
            seen.extend(reply);
            calls += 1;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen, expected);
        assert!(calls > 5, "COUNT bounds a call");
        let found = strings(&node.run("KEYS *"));
        assert_eq!(found.len(), 1000);
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(strings(&node.run("KEYS key:99[78]")).len(), 2);
        assert!(strings(&node.run("SCAN 0 TYPE list COUNT 10000")).len() == 1, "the cursor only");
        assert!(strings(&node.run("SCAN 0 TYPE STRING COUNT 100000")).len() == 1001);
    }

    #[test]
    fn scan_refuses_what_redis_refuses() {
        let mut node = Node::new();
        let mut expect = |line: &str, text: &str| assert_eq!(node.run(line), text, "{line}");
        expect("SCAN x", "-ERR invalid cursor\r\n");
        expect("SCAN 18446744073709551616", "-ERR invalid cursor\r\n");
        expect("SCAN 0 COUNT 0", "-ERR syntax error\r\n");
        expect("SCAN 0 COUNT -1", "-ERR syntax error\r\n");
        expect("SCAN 0 COUNT x", "-ERR value is not an integer or out of range\r\n");
        expect("SCAN 0 MATCH", "-ERR syntax error\r\n");
        expect("SCAN 0 FOO x", "-ERR syntax error\r\n");
        expect("SCAN 0", "*2\r\n$1\r\n0\r\n*0\r\n");
        assert_eq!(cursor(b"-1"), Some(u64::MAX));
    }

    #[test]
    fn randomkey_is_a_key_or_nil() {
        let mut node = Node::new();
        assert_eq!(node.run("RANDOMKEY"), "$-1\r\n");
        node.run("SET a 1");
        assert_eq!(node.run("RANDOMKEY"), "$1\r\na\r\n");
    }
}
