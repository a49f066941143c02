//! `OBJECT`: what a value looks like from inside. Looking does not count as use.

use crate::argument::integer;
use crate::context::{Context, Outcome};
use crate::help;
use crate::spec::{Argument, Flags, Group, Handler, Keys, Spec};
use leasehold_keyspace::{Access, Entry};
use leasehold_protocol::{Reply, Request};

pub(super) static OBJECT: Spec = Spec {
    name: "object",
    summary: "Tells how a key's value is kept",
    group: Group::Generic,
    since: "2.2.3",
    subcommands: &[
        inspection(
            "encoding",
            "Names the encoding that Redis would choose for a value: int, embstr or raw",
            |context, request| inspect(context, request, |reply, entry| reply.bulk(encoding(entry.value).as_bytes())),
        ),
        Spec {
            since: "leasehold 0.1.0",
            ..inspection(
                "flags",
                "Tells the client flags that a client of memcached has stored with a value; every write by a command of Redis's sets them to 0",
                |context, request| inspect(context, request, |reply, entry| reply.integer(entry.client_flags.into())),
            )
        },
        inspection(
            "freq",
            "Tells how often a key was used, from 0 to 15; an error under policies that do not count it",
            |context, request| {
                inspect(context, request, |reply, entry| match entry.frequency {
                    Some(frequency) => reply.integer(frequency.into()),
                    // Redis's text with the policies that it does not count under.
                    None => reply.error(
                        &"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
                          that when switching between policies at runtime LRU and LFU data will take some time to \
                          adjust.",
                    ),
                })
            },
        ),
        inspection("idletime", "Tells how many seconds ago a key was last used", |context, request| {
            inspect(context, request, |reply, entry| {
                reply.integer(i64::try_from(entry.idle_ms / 1000).unwrap_or(i64::MAX));
            })
        }),
        inspection("refcount", "Tells how often a value is shared; here always once", |context, request| {
            inspect(context, request, |reply, _| reply.integer(1))
        }),
        help::subcommand(Group::Generic, "6.2.0"),
    ],
    ..help::CONTAINER
};

const fn inspection(name: &'static str, summary: &'static str, run: Handler) -> Spec {
    const KEY: &[Argument] = &[Argument::key("key")];
    Spec {
        name,
        summary,
        group: Group::Generic,
        since: "2.2.3",
        complexity: "O(1)",
        arity: 3,
        flags: Flags::READONLY,
        keys: Keys::Range { first: 2, last: 2, step: 1 },
        arguments: KEY,
        subcommands: &[],
        run,
    }
}

fn inspect(context: &mut Context<'_>, request: Request<'_>, tell: impl FnOnce(&mut Reply, Entry<'_>)) -> Outcome {
    let reply = &mut *context.reply;
    let found = context
        .keyspace
        .read(context.turn, context.client.db, request.arg(2), Access::Quiet, |entry| tell(reply, entry));
    if found.is_none() {
        context.reply.null();
    }
    Outcome::Replied
}

/// What Redis would call a value that was stored whole. It calls some values `raw` for their history (after `APPEND`);
/// here all have the one layout.
fn encoding(value: &[u8]) -> &'static str {
    /// Longest value that Redis keeps in one block with its header (`OBJ_ENCODING_EMBSTR_SIZE_LIMIT`).
    const EMBSTR_BYTES_MAX: usize = 44;
    if integer(value).is_some() {
        "int"
    } else if value.len() <= EMBSTR_BYTES_MAX {
        "embstr"
    } else {
        "raw"
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;
    use leasehold_keyspace::EvictionPolicy;

    #[test]
    fn encodings_are_those_of_redis() {
        let mut node = Node::new();
        let (short, long) = ("x".repeat(44), "x".repeat(45));
        for (value, encoding) in [
            ("12", "int"),
            ("-9223372036854775808", "int"),
            ("9223372036854775808", "embstr"),
            ("007", "embstr"),
            ("1.5", "embstr"),
            (&*short, "embstr"),
            (&*long, "raw"),
        ] {
            node.run(&format!("SET a {value}"));
            assert_eq!(node.run("OBJECT ENCODING a"), format!("${}\r\n{encoding}\r\n", encoding.len()), "{value}");
        }
    }

    #[test]
    fn client_flags_are_those_of_the_last_who_stored_the_value() {
        let mut node = Node::new();
        assert_eq!(node.talk("set a 4294967295 0 1\r\n1\r\n"), "STORED\r\n");
        assert_eq!(node.run("OBJECT FLAGS a"), ":4294967295\r\n");
        node.run("EXPIRE a 100");
        assert_eq!(node.run("OBJECT FLAGS a"), ":4294967295\r\n");
        node.run("INCR a");
        assert_eq!(node.run("OBJECT FLAGS a"), ":0\r\n");
    }

    #[test]
    fn looking_is_no_use_and_no_touch_makes_reading_none() {
        let mut node = Node::new();
        node.run("SET a 1");
        node.advance_ms(60_000);
        let idle = node.run("OBJECT IDLETIME a");
        assert!([":59\r\n", ":60\r\n"].contains(&&*idle), "{idle}: times of use are kept coarsely");
        node.run("TTL a");
        node.run("EXISTS a");
        node.run("OBJECT ENCODING a");
        assert_eq!(node.run("OBJECT IDLETIME a"), idle);
        node.run("CLIENT NO-TOUCH ON");
        node.run("GET a");
        assert_eq!(node.run("OBJECT IDLETIME a"), idle);
        node.run("TOUCH a");
        assert_eq!(node.run("OBJECT IDLETIME a"), ":0\r\n");
    }

    #[test]
    fn a_missing_key_is_nil_and_frequency_an_error_where_it_is_not_counted() {
        let mut node = Node::new();
        for subcommand in ["ENCODING", "FLAGS", "FREQ", "IDLETIME", "REFCOUNT"] {
            assert_eq!(node.run(&format!("OBJECT {subcommand} nokey")), "$-1\r\n");
        }
        node.keyspace.set_policy(EvictionPolicy::AllKeysLfu);
        node.run("SET a 1");
        node.run("GET a");
        node.run("GET a");
        assert_eq!(node.run("OBJECT FREQ a"), ":3\r\n");
        node.keyspace.set_policy(EvictionPolicy::AllKeysLru);
        assert_eq!(node.run("OBJECT REFCOUNT a"), ":1\r\n");
        assert!(node.run("OBJECT FREQ a").starts_with("-ERR An LFU maxmemory policy is not selected"));
        assert_eq!(node.run("OBJECT FOO a"), "-ERR unknown subcommand 'FOO'. Try OBJECT HELP.\r\n");
        assert_eq!(node.run("OBJECT"), "-ERR wrong number of arguments for 'object' command\r\n");
        assert_eq!(node.run("OBJECT ENCODING"), "-ERR wrong number of arguments for 'object|encoding' command\r\n");
        assert!(node.run("OBJECT HELP").contains("+ENCODING key\r\n"));
    }
}
