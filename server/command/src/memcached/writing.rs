//! Writes of keys whose loader writes to its source: `set` and `delete` go there first, as SET and DEL do; verbs that change a part
//! of a value are refused.

use super::store::is_delete;
use super::{Form, Verb, buffer};
use crate::context::{Context, Outcome};
use crate::host::Change;
use crate::parked::{Answer, Kind};
use crate::writing::{Effect, write_as};
use bytes::Bytes;
use leasehold_protocol::memcached::{Request, reply};

/// Sends a command that writes to the source of its key, if it has one. `None`: it is a matter of the cache alone.
#[cold]
pub(super) fn intercept(context: &mut Context<'_>, verb: &Verb, request: Request<'_>) -> Option<Outcome> {
    let (db, key) = (context.client.db, request.word(1)?);
    let loader = context.host.writer_for(db, key)?;
    let value = match verb.name {
        "set" => Some(Bytes::copy_from_slice(request.data()?)),
        "delete" if !is_delete(request) => return None,
        "delete" => None,
        // They give what is there another end, or stand on no key.
        "touch" | "gat" | "gats" => return None,
        // A lease is filled with what the source has. Meta commands see to it themselves: only they know the key that base64 stands for.
        "lease-get" | "lease-set" | "mg" | "ms" | "md" | "ma" => return None,
        name => {
            let text = format!(
                "{name} cannot write a key that loader '{}' writes to its source; set and delete can",
                context.host.loader_name(loader)
            );
            reply::error(buffer(context), "SERVER_ERROR", &text);
            return Some(Outcome::Replied);
        }
    };
    let effect = if value.is_some() { Effect::Stored } else { Effect::Deleted { others: Vec::new() } };
    let kind = Kind::Memcached(Form::Write { is_silent: verb.is_silent(request) });
    let changes = vec![Change { key: Bytes::copy_from_slice(key), value }];
    match write_as(context, kind, db, loader, changes, effect) {
        Ok(outcome) => Some(outcome),
        Err(text) => {
            reply::error(buffer(context), "SERVER_ERROR", &text);
            Some(Outcome::Replied)
        }
    }
}

/// The reply to a write that has ended.
pub(super) fn reply(buffer: &mut Vec<u8>, answer: &Answer) {
    match answer {
        Answer::Ok => reply::line(buffer, b"STORED"),
        Answer::Count(0) => reply::line(buffer, b"NOT_FOUND"),
        Answer::Count(_) => reply::line(buffer, b"DELETED"),
        Answer::Error(text) => reply::error(buffer, "SERVER_ERROR", text),
        Answer::Value(_) | Answer::Entry { .. } | Answer::Absent | Answer::Getl(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::context::Outcome;
    use crate::testing::Node;
    use leasehold_keyspace::{Wake, WakeEvent};

    /// Has the source commit what the parked command wrote; the reply.
    fn commit(node: &mut Node, rows: u64) -> Option<String> {
        let waiter = leasehold_keyspace::Waiter { thread: 0, connection: 7, ticket: node.client.ticket, index: 0 };
        node.turn.effects.wakes.push(Wake { waiter, event: WakeEvent::Written { rows } });
        node.wake()
    }

    #[test]
    fn set_and_delete_wait_for_the_commit() {
        let mut node = Node::new();
        node.host.writer = Some(0);
        for (input, rows, reply) in [
            ("set write:1 7 0 1\r\n1\r\n", 1, "STORED\r\n"),
            ("set write:1 7 0 1 noreply\r\n1\r\n", 1, ""),
            ("delete write:1\r\n", 1, "DELETED\r\n"),
            ("delete write:1\r\n", 0, "NOT_FOUND\r\n"),
            ("delete write:1 noreply\r\n", 1, ""),
        ] {
            assert_eq!(node.talk(input), "");
            assert!(matches!(node.outcome, Outcome::Parked(_)), "{input:?}");
            assert_eq!(commit(&mut node, rows).as_deref(), Some(reply), "{input:?}");
        }
        let changes = node.host.changes.borrow();
        assert_eq!(changes.len(), 5);
        assert_eq!((&*changes[0].key, changes[0].value.as_deref()), (&b"write:1"[..], Some(&b"1"[..])));
        assert_eq!(changes[2].value, None);
    }

    #[test]
    fn writes_of_a_part_are_refused_and_those_of_a_life_pass() {
        let mut node = Node::new();
        node.host.writer = Some(0);
        for verb in ["add", "replace", "append", "prepend"] {
            let refusal = format!(
                "SERVER_ERROR {verb} cannot write a key that loader '?' writes to its source; set and delete can\r\n"
            );
            assert_eq!(node.talk(format!("{verb} write:1 0 0 1\r\n1\r\n")), refusal);
            assert_eq!(node.talk(format!("{verb} write:1 0 0 1 noreply\r\n1\r\n")), "");
        }
        assert!(node.talk("incr write:1 1\r\n").starts_with("SERVER_ERROR incr cannot"));
        assert_eq!(node.talk("touch write:1 10\r\n"), "NOT_FOUND\r\n");
        assert_eq!(node.talk("set other 0 0 1\r\n1\r\n"), "STORED\r\n");
        assert!(node.host.changes.borrow().is_empty());
    }
}
