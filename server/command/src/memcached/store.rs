//! Verbs that store or delete.

use super::dispatch::answer;
use super::entry::{expire_at_ms, expiry, store};
use super::table::Verb;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::spec::{Flags, Keys};
use leasehold_keyspace::{Attributes, Replaced, Replacement, Slot};
use leasehold_protocol::memcached::parser::{self, ENTRY_OVERHEAD_BYTES};
use leasehold_protocol::memcached::{Request, Storage};

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&SET, &ADD, &REPLACE, &APPEND, &PREPEND, &CAS, &TOUCH, &DELETE];

static SET: Verb = Verb {
    name: "set",
    usage: "<key> <flags> <exptime> <bytes> [noreply]",
    summary: "Stores a value",
    words_min: 5,
    keys: Keys::ONE,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    noreply_from: Some(5),
    run: |context, request| store_if(context, request, |_| true),
};

static ADD: Verb = Verb {
    name: "add",
    summary: "Stores a value if the key has none",
    run: |context, request| store_if(context, request, |slot| slot.entry().is_none()),
    ..SET
};

static REPLACE: Verb = Verb {
    name: "replace",
    summary: "Stores a value if the key has one",
    run: |context, request| store_if(context, request, |slot| slot.entry().is_some()),
    ..SET
};

static CAS: Verb = Verb {
    name: "cas",
    usage: "<key> <flags> <exptime> <bytes> <cas unique> [noreply]",
    summary: "Stores a value if the key still has the version that gets answered, or fills it under a lease's token",
    run: cas,
    ..SET
};

/// Stores the value if what is there allows it.
#[inline]
fn store_if(context: &mut Context<'_>, request: Request<'_>, allows: impl FnOnce(&Slot<'_>) -> bool) -> Outcome {
    let (key, data, storage) = parts(request);
    context.host.count(Count::CmdSet, 1);
    let Context { keyspace, client, turn, .. } = context;
    let expiry = expiry(storage.exptime, turn);
    let is_stored = keyspace.update(turn, client.db, key, |slot| {
        let is_allowed = allows(slot);
        if is_allowed {
            store(slot, data, storage.flags, expiry);
        }
        is_allowed
    });
    answer_stored(context, is_stored)
}

fn answer_stored(context: &mut Context<'_>, is_stored: bool) -> Outcome {
    answer(context, if is_stored { b"STORED" } else { b"NOT_STORED" })
}

/// Key, data and numbers of a storage command.
fn parts<'a>(request: Request<'a>) -> (&'a [u8], &'a [u8], Storage) {
    let key = request.word(1).expect("words are counted");
    let data = request.data().expect("a storage command without data has a fault");
    (key, data, request.storage())
}

/// As `ms` with `C`: the number is the version that is there, or a token of the key's lease.
fn cas(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (key, value, storage) = parts(request);
    context.host.count(Count::CmdSet, 1);
    let Context { keyspace, client, turn, .. } = context;
    let replacement = Replacement {
        named: storage.unique,
        fills_only: false,
        value,
        attributes: Attributes {
            client_flags: storage.flags,
            expiry: expiry(storage.exptime, turn),
            ..Attributes::PLAIN
        },
        stale_suffices: false,
        version_wanted: false,
    };
    let (count, line): (_, &[u8]) = match keyspace.replace(turn, client.db, key, replacement) {
        Replaced::Stored { .. } => (Count::CasHits, b"STORED"),
        Replaced::Absent => (Count::CasMisses, b"NOT_FOUND"),
        Replaced::Differs | Replaced::Stale => (Count::CasBadval, b"EXISTS"),
        Replaced::NoRoom => (Count::StoreNoMemory, b"SERVER_ERROR out of memory storing object"),
    };
    context.host.count(count, 1);
    answer(context, line)
}

static APPEND: Verb = Verb {
    name: "append",
    summary: "Adds to the end of a value; its flags and exptime stay",
    run: |context, request| lengthen(context, request, Place::Behind),
    ..SET
};

static PREPEND: Verb = Verb {
    name: "prepend",
    summary: "Adds to the start of a value; its flags and exptime stay",
    run: |context, request| lengthen(context, request, Place::Before),
    ..SET
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    Behind,
}

fn lengthen(context: &mut Context<'_>, request: Request<'_>, place: Place) -> Outcome {
    let (key, data, _) = parts(request);
    context.host.count(Count::CmdSet, 1);
    let entry_bytes_max = context.host.memcached_entry_bytes_max();
    let Context { keyspace, client, turn, .. } = context;
    let held = keyspace.read(turn, client.db, key, leasehold_keyspace::Access::Quiet, |entry| entry.value.len());
    // The value moves to a longer place, so for a moment it needs room twice.
    if held.is_some_and(|held| keyspace.make_room(turn, held + data.len()).is_err()) {
        context.host.count(Count::StoreNoMemory, 1);
        return answer(context, b"SERVER_ERROR out of memory storing object");
    }
    let is_stored = keyspace.update(turn, client.db, key, |slot| {
        let Some(held) = slot.entry().map(|entry| entry.value.len()) else { return false };
        let len = held + data.len();
        if key.len() + len + ENTRY_OVERHEAD_BYTES > entry_bytes_max {
            return false;
        }
        let value = slot.value_mut_with_flags(len);
        match place {
            Place::Behind => value[held..].copy_from_slice(data),
            Place::Before => {
                value.copy_within(..held, data.len());
                value[..data.len()].copy_from_slice(data);
            }
        }
        true
    });
    context.host.count(Count::Lengthened, u64::from(is_stored));
    answer_stored(context, is_stored)
}

static TOUCH: Verb = Verb {
    name: "touch",
    usage: "<key> <exptime> [noreply]",
    summary: "Gives what a key has a new exptime",
    words_min: 3,
    keys: Keys::ONE,
    flags: Flags::WRITE.with(Flags::FAST),
    noreply_from: Some(3),
    run: touch,
};

fn touch(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (Some(key), Some(exptime)) = (request.word(1), request.word(2).and_then(parser::signed)) else {
        return answer(context, b"CLIENT_ERROR invalid exptime argument");
    };
    let Context { keyspace, client, turn, .. } = context;
    let expire_at_ms = expire_at_ms(exptime, turn);
    let was_there = keyspace.update(turn, client.db, key, |slot| slot.set_expiry(expire_at_ms));
    context.host.count(if was_there { Count::TouchHits } else { Count::TouchMisses }, 1);
    answer(context, if was_there { b"TOUCHED" } else { b"NOT_FOUND" })
}

static DELETE: Verb = Verb {
    name: "delete",
    usage: "<key> [noreply]",
    summary: "Deletes a value",
    words_min: 2,
    keys: Keys::ONE,
    flags: Flags::WRITE.with(Flags::FAST),
    noreply_from: Some(2),
    run: delete,
};

fn delete(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Some(key) = request.word(1).filter(|_| is_delete(request)) else {
        return answer(context, b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
    };
    let Context { keyspace, client, turn, .. } = context;
    // As `md`: who deletes a stale value, or a lease, which memcached shows as an empty item, has deleted something.
    let was_there = keyspace.update(turn, client.db, key, |slot| {
        let was_seen = slot.is_stale() || slot.is_leased();
        slot.remove() || was_seen
    });
    context.host.count(if was_there { Count::DeleteHits } else { Count::DeleteMisses }, 1);
    answer(context, if was_there { b"DELETED" } else { b"NOT_FOUND" })
}

/// Whether behind the key stands what may stand there: old clients send a time, which must be 0. memcached 1.6.45 does not look; memcapable
/// does.
pub(super) fn is_delete(request: Request<'_>) -> bool {
    match request.len() {
        2 => true,
        3 => request.word(2) == Some(b"0") || request.is_noreply(),
        _ => request.word(2) == Some(b"0") && request.is_noreply(),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Node, START_MS};
    use leasehold_keyspace::Settings;
    use leasehold_protocol::memcached::Limits;

    /// Pairs of requests and replies, in order, on one node.
    fn talk(node: &mut Node, lines: &[(&str, &str)]) {
        for (input, reply) in lines {
            assert_eq!(node.talk(input), *reply, "{input:?}");
        }
    }

    #[test]
    fn a_stale_value_or_a_lease_is_something_to_delete() {
        talk(
            &mut Node::new(),
            &[
                ("set a 0 0 1\r\n1\r\n", "STORED\r\n"),
                ("md a I T30\r\n", "HD\r\n"),
                ("delete a\r\n", "DELETED\r\n"),
                ("mg a v\r\n", "EN\r\n"),
                ("mg a N30 v\r\n", "VA 0 W\r\n\r\n"),
                ("delete a\r\n", "DELETED\r\n"),
                ("delete a\r\n", "NOT_FOUND\r\n"),
            ],
        );
    }

    #[test]
    fn a_version_of_0_is_none() {
        talk(
            &mut Node::new(),
            &[("ms a 1 E0\r\n1\r\n", "HD\r\n"), ("ms a 1 E0\r\n2\r\n", "HD\r\n"), ("mg a v\r\n", "VA 1\r\n2\r\n")],
        );
    }

    #[test]
    fn each_way_of_storing_has_its_condition() {
        talk(
            &mut Node::new(),
            &[
                ("replace a 0 0 1\r\n1\r\n", "NOT_STORED\r\n"),
                ("append a 0 0 1\r\n1\r\n", "NOT_STORED\r\n"),
                ("prepend a 0 0 1\r\n1\r\n", "NOT_STORED\r\n"),
                ("add a 7 0 1\r\n1\r\n", "STORED\r\n"),
                ("add a 8 0 1\r\n2\r\n", "NOT_STORED\r\n"),
                ("append a 9 1 2\r\n23\r\n", "STORED\r\n"),
                ("prepend a 9 1 1\r\n0\r\n", "STORED\r\n"),
                ("get a\r\n", "VALUE a 7 4\r\n0123\r\nEND\r\n"),
                ("replace a 8 0 0\r\n\r\n", "STORED\r\n"),
                ("get a\r\n", "VALUE a 8 0\r\n\r\nEND\r\n"),
            ],
        );
    }

    #[test]
    fn cas_stores_over_the_version_that_gets_told_and_no_other() {
        let mut node = Node::new();
        let version = |node: &mut Node| {
            let reply = node.talk("gets a\r\n");
            reply.split_ascii_whitespace().nth(4).expect("a version").parse::<u64>().expect("a number")
        };
        assert_eq!(node.talk("cas a 0 0 1 1\r\n1\r\n"), "NOT_FOUND\r\n");
        node.talk("set a 0 0 1\r\n1\r\n");
        let first = version(&mut node);
        assert_eq!(version(&mut node), first, "a read gives no new one");
        node.talk("touch a 100\r\n");
        assert_eq!(version(&mut node), first, "nor does touch");
        assert_eq!(node.talk(format!("cas a 3 0 1 {first}\r\n2\r\n")), "STORED\r\n");
        assert_eq!(node.talk(format!("cas a 0 0 1 {first}\r\n3\r\n")), "EXISTS\r\n");
        for writer in ["set a 0 0 1\r\n4\r\n", "incr a 1\r\n", "append a 0 0 1\r\n0\r\n"] {
            let before = version(&mut node);
            node.talk(writer);
            assert_eq!(node.talk(format!("cas a 0 0 1 {before}\r\nx\r\n")), "EXISTS\r\n", "{writer}");
        }
        let before = version(&mut node);
        node.run("SET a 5");
        assert_eq!(node.talk(format!("cas a 0 0 1 {before}\r\nx\r\n")), "EXISTS\r\n");
        assert_eq!(node.talk("cas a 0 0 1 -1\r\n"), "CLIENT_ERROR bad command line format\r\n");
        assert_eq!(node.talk("cas a 0 0 1 0\r\nx\r\n"), "EXISTS\r\n");
    }

    #[test]
    fn an_exptime_counts_from_now_up_to_thirty_days_and_from_1970_beyond() {
        const DAYS_30: u64 = 30 * 24 * 60 * 60;
        for (exptime, life_ms) in [(1, 1_000), (DAYS_30, DAYS_30 * 1_000), (START_MS / 1_000 + 5, 5_000)] {
            let mut node = Node::new();
            assert_eq!(node.talk(format!("set a 0 {exptime} 1\r\n1\r\n")), "STORED\r\n");
            node.advance_ms(life_ms - 1);
            assert_eq!(node.talk("get a\r\n"), "VALUE a 0 1\r\n1\r\nEND\r\n", "{exptime}");
            node.advance_ms(1);
            assert_eq!(node.talk("get a\r\n"), "END\r\n", "{exptime}");
        }
        let past = DAYS_30 + 1;
        for exptime in ["-1", "-9223372036854775808", &past.to_string()] {
            let mut node = Node::new();
            node.talk("set a 0 0 1\r\n1\r\n");
            assert_eq!(node.talk(format!("set a 0 {exptime} 1\r\n2\r\nget a\r\n")), "STORED\r\nEND\r\n", "{exptime}");
            node.talk("set a 0 0 1\r\n1\r\n");
            assert_eq!(node.talk(format!("touch a {exptime}\r\nget a\r\n")), "TOUCHED\r\nEND\r\n", "{exptime}");
            node.talk("set a 0 0 1\r\n1\r\n");
            let read = format!("gat {exptime} a\r\nget a\r\n");
            assert_eq!(node.talk(read), "VALUE a 0 1\r\n1\r\nEND\r\nEND\r\n", "{exptime}");
        }
        let mut node = Node::new();
        assert_eq!(
            node.talk("set a 0 9223372036854775807 1\r\n1\r\nget a\r\n"),
            "STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n"
        );
    }

    #[test]
    fn a_value_of_one_protocol_is_read_by_the_other_and_resp_writes_forget_the_flags() {
        let mut node = Node::new();
        node.talk("set a 7 0 1\r\n1\r\n");
        assert_eq!(node.run("GET a"), "$1\r\n1\r\n");
        assert_eq!(node.run("TTL a"), ":-1\r\n");
        node.talk("touch a 100\r\n");
        assert_eq!(node.run("TTL a"), ":100\r\n");
        assert_eq!(node.talk("get a\r\n"), "VALUE a 7 1\r\n1\r\nEND\r\n");
        for write in [
            "SET a 2",
            "APPEND a 2",
            "SETRANGE a 0 2",
            "SETBIT a 1 0",
            "BITFIELD a SET u8 0 50",
            "INCR a",
            "DECRBY a 1",
            "INCRBYFLOAT a 1",
            "GETSET a 2",
        ] {
            node.talk("set a 7 100 1\r\n1\r\n");
            node.run(write);
            assert!(node.talk("get a\r\n").starts_with("VALUE a 0 "), "{write}");
        }
        for other in ["GET a", "EXPIRE a 50", "PERSIST a", "GETEX a EX 9", "RENAME a b"] {
            node.talk("set a 7 100 1\r\n1\r\n");
            node.run(other);
            let name = if other == "RENAME a b" { "b" } else { "a" };
            assert_eq!(node.talk(format!("get {name}\r\n")), format!("VALUE {name} 7 1\r\n1\r\nEND\r\n"), "{other}");
        }
        node.run("DEL b");
        node.run("SET a 2");
        assert_eq!(node.talk("delete a\r\n"), "DELETED\r\n");
        assert_eq!(node.run("GET a"), "$-1\r\n");
        node.run("SELECT 1");
        node.run("SET b 1");
        node.run("SELECT 0");
        assert_eq!(node.talk("get b\r\n"), "END\r\n", "memcached clients see database 0");
    }

    #[test]
    fn a_write_of_memcached_revokes_leases() {
        let mut node = Node::new();
        for write in ["set a 0 0 1\r\n1\r\n", "delete a\r\n"] {
            let reply = node.run("GETL a WAIT 0");
            let token = reply.split("\r\n").find(|word| word.len() > 15).expect("a token").to_owned();
            node.talk(write);
            assert!(node.run(&format!("SETL a {token} old")).starts_with("+LOST"), "{write:?}");
            node.talk("delete a\r\n");
        }
    }

    #[test]
    fn what_is_too_large_takes_the_old_value_with_it_and_is_passed_over() {
        let mut node = Node::new();
        let limits = Limits { entry_bytes_max: 100, ..Limits::DEFAULT };
        let mut talk = |input: &str| node.talk_within(input.as_bytes(), &limits);
        // 59 bytes are memcached's, 1 the key's.
        let fits = format!("set a 0 0 40\r\n{}\r\n", "x".repeat(40));
        assert_eq!(talk(&fits), "STORED\r\n");
        let large = |verb: &str, end: &str| {
            format!("{verb} a 0 0 41{end}\r\n{}\r\nget a\r\n", "get a\r\n".repeat(6)[..41].to_owned())
        };
        let kept = format!("SERVER_ERROR object too large for cache\r\nVALUE a 0 40\r\n{}\r\nEND\r\n", "x".repeat(40));
        assert_eq!(talk(&large("add", "")), kept);
        assert_eq!(talk(&large("set", "")), "SERVER_ERROR object too large for cache\r\nEND\r\n");
        assert_eq!(talk(&large("set", " noreply")), "END\r\n");
        // Client flags that are not 0 take four bytes more.
        assert_eq!(talk(&fits.replace(" 0 0 ", " 1 0 ")), "SERVER_ERROR object too large for cache\r\n");
    }

    #[test]
    fn old_clients_may_send_a_time_of_0_with_delete() {
        let usage = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
        talk(
            &mut Node::new(),
            &[
                ("delete a\r\n", "NOT_FOUND\r\n"),
                ("delete a 0\r\n", "NOT_FOUND\r\n"),
                ("delete a 1\r\n", usage),
                ("delete a 0 0\r\n", usage),
                ("delete a noreply\r\n", ""),
                ("delete a 1 noreply\r\n", ""),
                ("delete noreply\r\n", ""),
                ("delete a 0 noreply x\r\n", usage),
            ],
        );
    }

    #[test]
    fn without_room_nothing_is_stored_and_deletes_go_on() {
        let mut node =
            Node::with_settings(Settings { shards: 1, memory_bytes_max: 1 << 20, ..crate::testing::settings() });
        node.talk("set a 0 0 1\r\n1\r\n");
        let value = "x".repeat(4096);
        let refusal = "SERVER_ERROR out of memory storing object\r\n";
        let refused = (0..1000).any(|number| node.talk(format!("set key:{number} 0 0 4096\r\n{value}\r\n")) == refusal);
        assert!(refused);
        assert_eq!(node.talk(format!("append a 0 0 4096\r\n{value}\r\n")), refusal);
        assert_eq!(node.talk("get a\r\n"), "VALUE a 0 1\r\n1\r\nEND\r\n");
        // Nobody must read the value that these were to take the place of.
        for verb in ["set a 0 0 4096", "ms a 4096"] {
            assert_eq!(node.talk(format!("{verb}\r\n{value}\r\nget a\r\n")), format!("{refusal}END\r\n"));
            node.talk("set a 0 0 1\r\n1\r\n");
        }
        assert_eq!(node.talk("delete a\r\n"), "DELETED\r\n");
    }

    #[test]
    fn counting_keeps_flags_and_length_and_knows_its_ends() {
        talk(
            &mut Node::new(),
            &[
                ("incr n 1\r\n", "NOT_FOUND\r\n"),
                ("set n 5 0 2\r\n10\r\ndecr n 1\r\nget n\r\n", "STORED\r\n9\r\nVALUE n 5 2\r\n9 \r\nEND\r\n"),
                ("incr n 991\r\nget n\r\n", "1000\r\nVALUE n 5 4\r\n1000\r\nEND\r\n"),
                ("decr n 1001\r\nget n\r\n", "0\r\nVALUE n 5 4\r\n0   \r\nEND\r\n"),
                ("incr n 18446744073709551615\r\nincr n 2\r\n", "18446744073709551615\r\n1\r\n"),
                ("incr n -1\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
                ("incr n 18446744073709551616\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
                ("incr n 1 noreply\r\n", ""),
                ("set t 0 0 1\r\nx\r\n", "STORED\r\n"),
                ("incr t 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
            ],
        );
    }
}
