//! Verbs that read values.

use super::dispatch::answer;
use super::entry::expire_at_ms;
use super::table::Verb;
use super::{Form, TOO_LONG, buffer};
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::loader::refresh::{Reader, hit_near_end};
use crate::loader::through::{self, Demand, Found};
use crate::parked::{Answer, Kind};
use crate::room::Room;
use crate::spec::{Flags, Keys};
use bytes::Bytes;
use leasehold_keyspace::{Access, Slot};
use leasehold_protocol::memcached::{Request, parser, reply};

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&GET, &GETS, &GAT, &GATS];

static GET: Verb = Verb {
    name: "get",
    usage: "<key>*",
    summary: "Answers the values that the keys have",
    words_min: 2,
    keys: Keys::ALL,
    flags: Flags::READONLY.with(Flags::FAST),
    noreply_from: None,
    run: get,
};

static GETS: Verb = Verb {
    name: "gets",
    usage: "<key>*",
    summary: "As get, with the version of each value, for cas",
    run: gets,
    ..GET
};

static GAT: Verb = Verb {
    name: "gat",
    usage: "<exptime> <key>*",
    summary: "As get, and gives what it reads a new exptime",
    words_min: 3,
    keys: Keys::Range { first: 2, last: -1, step: 1 },
    flags: Flags::WRITE.with(Flags::FAST),
    run: |context, request| get_and_touch(context, request, false),
    ..GET
};

static GATS: Verb = Verb {
    name: "gats",
    usage: "<exptime> <key>*",
    summary: "As gat, with the version of each value, for cas",
    run: |context, request| get_and_touch(context, request, true),
    ..GAT
};

const END: &[u8] = b"END\r\n";

fn get(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match (request.len(), request.word(1)) {
        (2, Some(key)) => get_one(context, key),
        _ => get_many(context, request),
    }
}

#[inline]
fn get_one(context: &mut Context<'_>, key: &[u8]) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    let near_end_ms = turn.near_end_ms;
    let buffer = reply.buffer_mut();
    let found = keyspace.read(turn, client.db, key, Access::Touch, |entry| {
        reply::value(buffer, key, entry.client_flags, entry.value, None);
        entry.expire_at_ms.filter(|&at_ms| at_ms < near_end_ms)
    });
    let Some(near_end) = found else { return missed(context, key, false) };
    buffer.extend_from_slice(END);
    context.host.count(Count::GetHits, 1);
    if let Some(expire_at_ms) = near_end {
        hit_near_end(context, key, expire_at_ms, Reader::Plain);
    }
    Outcome::Replied
}

/// Many keys under one look, as MGET.
fn get_many(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    let near_end_ms = turn.near_end_ms;
    let (mut near_end, mut hits) = (Vec::new(), 0);
    let (mut room, mut is_too_long) = (Room::of(reply), false);
    let buffer = reply.buffer_mut();
    let written_before = buffer.len();
    let mut keys = request.words_from(1);
    keyspace.read_many(turn, client.db, request.words_from(1), Access::Touch, |index, entry| {
        let Some(key) = keys.next() else { return };
        if let Some(entry) = entry {
            hits += 1;
            if !room.take(entry.value.len()) {
                is_too_long = true;
                return;
            }
            reply::value(buffer, key, entry.client_flags, entry.value, None);
            near_end.extend(entry.expire_at_ms.filter(|&at_ms| at_ms < near_end_ms).map(|at_ms| (index, at_ms)));
        }
    });
    buffer.extend_from_slice(END);
    let misses = request.len() - 1 - hits;
    context.host.count(Count::GetHits, hits as u64);
    if is_too_long {
        return too_long(context, written_before);
    }
    for (index, expire_at_ms) in near_end {
        let key = request.word(index + 1).expect("it was read");
        hit_near_end(context, key, expire_at_ms, Reader::Plain);
    }
    if misses > 0 {
        context.host.count(Count::GetMisses, misses as u64);
        return many_missed(context, request, written_before, false);
    }
    Outcome::Replied
}

fn gets(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let written_before = context.reply.len();
    let near_end_ms = context.turn.near_end_ms;
    let mut misses = 0;
    let mut room = Room::of(context.reply);
    for key in request.words_from(1) {
        let Context { keyspace, client, reply, turn, .. } = context;
        let buffer = reply.buffer_mut();
        let found = keyspace.update(turn, client.db, key, |slot| {
            slot.touch();
            let version = slot.shown_version();
            write(slot, key, version, buffer, &mut room)
        });
        match found {
            Written::Absent => misses += 1,
            Written::TooLong => return too_long(context, written_before),
            Written::Until(Some(at_ms)) if at_ms < near_end_ms => hit_near_end(context, key, at_ms, Reader::Plain),
            Written::Until(_) => {}
        }
    }
    buffer(context).extend_from_slice(END);
    context.host.count(Count::GetHits, request.len() as u64 - 1 - misses);
    if misses > 0 {
        context.host.count(Count::GetMisses, misses);
        return many_missed(context, request, written_before, true);
    }
    Outcome::Replied
}

/// What became of a key whose value is to be written.
enum Written {
    Absent,
    /// It is written; when the entry expires.
    Until(Option<u64>),
    TooLong,
}

/// Writes a fresh entry if there is room for it.
fn write(slot: &mut Slot<'_>, key: &[u8], version: Option<u64>, buffer: &mut Vec<u8>, room: &mut Room) -> Written {
    let Some(entry) = slot.entry() else { return Written::Absent };
    if !room.take(entry.value.len()) {
        return Written::TooLong;
    }
    reply::value(buffer, key, entry.client_flags, entry.value, version);
    Written::Until(entry.expire_at_ms)
}

/// The reply to keys whose values are too long together.
#[cold]
pub(super) fn too_long(context: &mut Context<'_>, written_before: usize) -> Outcome {
    context.reply.truncate(written_before);
    answer(context, TOO_LONG)
}

/// `gat` loads nothing: as `GETEX`, which only gives another end to what is there.
fn get_and_touch(context: &mut Context<'_>, request: Request<'_>, with_version: bool) -> Outcome {
    let Some(exptime) = request.word(1).and_then(parser::signed) else {
        return answer(context, b"CLIENT_ERROR invalid exptime argument");
    };
    let expire_at_ms = expire_at_ms(exptime, context.turn);
    let written_before = context.reply.len();
    let mut hits = 0;
    let mut room = Room::of(context.reply);
    for key in request.words_from(2) {
        let Context { keyspace, client, reply, turn, .. } = context;
        let buffer = reply.buffer_mut();
        let found = keyspace.update(turn, client.db, key, |slot| {
            slot.touch();
            let version = if with_version { slot.shown_version() } else { None };
            let found = write(slot, key, version, buffer, &mut room);
            if matches!(found, Written::Until(_)) {
                slot.set_expiry(expire_at_ms);
            }
            found
        });
        match found {
            Written::Absent => {}
            Written::Until(_) => hits += 1,
            Written::TooLong => return too_long(context, written_before),
        }
    }
    buffer(context).extend_from_slice(END);
    let keys = request.len() as u64 - 2;
    context.host.count(Count::TouchHits, hits);
    context.host.count(Count::TouchMisses, keys - hits);
    Outcome::Replied
}

/// A key without a fresh entry.
#[cold]
fn missed(context: &mut Context<'_>, key: &[u8], with_version: bool) -> Outcome {
    context.host.count(Count::GetMisses, 1);
    if let Some(policy) = through::transparent_loader(context, key) {
        return through::load_as(context, Kind::Memcached(Form::Get { with_version }), key, policy, Demand::PLAIN);
    }
    if let Some(Some(value)) = through::restored(context, key) {
        reply::value(buffer(context), key, 0, &value, None);
    }
    buffer(context).extend_from_slice(END);
    Outcome::Replied
}

/// Keys of which some have no fresh entry. What was answered from `written_before` on stays if nobody can load or restore those.
#[cold]
fn many_missed(context: &mut Context<'_>, request: Request<'_>, written_before: usize, with_version: bool) -> Outcome {
    let can_more = context.host.writes_to_sources()
        || request.words_from(1).any(|key| through::transparent_loader(context, key).is_some());
    if !can_more {
        return Outcome::Replied;
    }
    context.reply.truncate(written_before);
    let kind = Kind::Memcached(Form::Get { with_version });
    through::load_many(context, kind, request.words_from(1), |context, key| match look(context, key, with_version) {
        Some(answer) => Found::Answer(answer),
        None => match through::transparent_loader(context, key) {
            Some(policy) => Found::Loader(policy),
            None => Found::Answer(through::restored(context, key).flatten().map_or(Answer::Absent, Answer::Value)),
        },
    })
}

/// The fresh entry of a key, copied.
pub(super) fn look(context: &mut Context<'_>, key: &[u8], with_version: bool) -> Option<Answer> {
    let copy = |client_flags, value: &[u8], version| Answer::Entry {
        client_flags,
        value: Bytes::copy_from_slice(value),
        version,
    };
    let Context { keyspace, client, turn, .. } = context;
    if with_version {
        return keyspace.update(turn, client.db, key, |slot| {
            let version = slot.shown_version().unwrap_or(0);
            slot.entry().map(|entry| copy(entry.client_flags, entry.value, version))
        });
    }
    keyspace.read(turn, client.db, key, Access::Quiet, |entry| copy(entry.client_flags, entry.value, 0))
}

/// As [`crate::load_ahead`].
pub fn load_ahead(context: &mut Context<'_>, request: Request<'_>, keys_left: &mut usize) -> bool {
    if request.fault().is_some() {
        return false;
    }
    match request.word(0) {
        Some(b"get" | b"gets") => through::load_keys_ahead(context, request.words_from(1), keys_left),
        // With N or R the caller is the loader; the others do not write, and their keys are the words.
        Some(b"mg") if request.words_from(2).all(|flag| !matches!(flag[0], b'N' | b'R' | b'T' | b'b')) => {
            through::load_keys_ahead(context, request.words_from(1).take(1), keys_left);
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use crate::context::Outcome;
    use crate::testing::Node;
    use leasehold_keyspace::{Db, Expiry, Fill};
    use leasehold_protocol::memcached::{Limits, Parser};
    use leasehold_protocol::{Reply, RespVersion};

    /// Ends all loads that were asked for; each brings its key.
    fn load_all(node: &mut Node) -> usize {
        let loads = std::mem::take(&mut node.turn.effects.loads);
        let count = loads.len();
        for load in loads {
            let fill = Fill::Value {
                value: &load.key,
                expiry: Expiry::Never,
                stale_for_ms: 0,
                version: None,
                client_flags: 0,
                tags: &[],
            };
            node.keyspace.fill(&mut node.turn, Db(0), &load.key, load.token, fill);
        }
        count
    }

    #[test]
    fn multi_get_answers_what_there_is_in_the_order_of_the_keys() {
        let mut node = Node::new();
        node.talk("set a 1 0 1\r\n1\r\nset c 3 0 1\r\n3\r\n");
        assert_eq!(node.talk("get c b a c\r\n"), "VALUE c 3 1\r\n3\r\nVALUE a 1 1\r\n1\r\nVALUE c 3 1\r\n3\r\nEND\r\n");
        assert_eq!(node.talk("gat 0 c b\r\n"), "VALUE c 3 1\r\n3\r\nEND\r\n");
        assert_eq!(node.talk("gat 0\r\n"), "CLIENT_ERROR bad command line format\r\n");
        assert_eq!(node.talk("gat x a\r\n"), "CLIENT_ERROR invalid exptime argument\r\n");
        let stats = node.keyspace.stats();
        assert_eq!((stats.hits, stats.misses), (4, 2));
    }

    #[test]
    fn missing_keys_of_a_loader_are_loaded_together() {
        for verb in ["get", "gets"] {
            let mut node = Node::with_loader();
            node.talk("set a 7 0 1\r\n1\r\n");
            assert_eq!(node.talk(format!("{verb} load:1 a absent load:2\r\n")), "");
            assert!(matches!(node.outcome, Outcome::Parked(_)));
            assert_eq!(load_all(&mut node), 2);
            let reply = node.wake().expect("all keys have an answer");
            let parked: Vec<&str> = reply.split("\r\n").collect();
            let again = node.talk(format!("{verb} load:1 a absent load:2\r\n"));
            assert_eq!(again, reply, "with the flags and versions that a hit tells");
            assert!(parked[0].starts_with("VALUE load:1 0 6"), "{reply}");
            assert!(parked[2].starts_with("VALUE a 7 1"), "{reply}");
            assert_eq!((parked[1], parked[3], parked[5], parked[6]), ("load:1", "1", "load:2", "END"), "{reply}");
        }
    }

    #[test]
    fn the_error_of_a_load_is_the_reply() {
        let mut node = Node::with_loader();
        node.talk("set a 7 0 1\r\n1\r\n");
        node.talk("get a load:1\r\n");
        let load = node.turn.effects.loads.pop().expect("a load is to start");
        node.keyspace.fail(&mut node.turn, Db(0), b"load:1", load.token, &"LOADFAIL users down".into(), 0);
        assert_eq!(node.wake().as_deref(), Some("SERVER_ERROR LOADFAIL users down\r\n"));
    }

    #[test]
    fn values_of_many_keys_that_are_too_long_together_are_an_error() {
        let mut node = Node::new();
        node.reply_bytes_max = 10;
        node.talk("set a 0 0 4\r\n1234\r\nset b 0 0 11\r\n12345678901\r\n");
        // Around its values lease-get tells keys and tokens.
        assert_eq!(node.talk("lease-get b b\r\nmn\r\n"), "SERVER_ERROR out of memory writing get response\r\nMN\r\n");
        for verb in ["get", "gets", "gat 0", "gats 0"] {
            assert_eq!(node.talk(format!("{verb} a a none\r\n")).matches("1234").count(), 2, "{verb}");
            let reply = node.talk(format!("mn\r\n{verb} a a none a\r\nmn\r\n"));
            assert_eq!(reply, "MN\r\nSERVER_ERROR out of memory writing get response\r\nMN\r\n", "{verb}");
            assert!(
                node.talk(format!("{verb} b\r\n")).contains("12345678901"),
                "{verb}: a value has a limit of its own"
            );
        }
    }

    #[test]
    fn no_more_keys_are_loaded_ahead_than_may_be_and_none_that_is_refused() {
        let mut node = Node::with_loader();
        let long = format!("load:{}", "x".repeat(70_000));
        let mut ahead = |line: &str, mut keys_left: usize| {
            let mut parser = Parser::new();
            let limits = Limits { key_bytes_max: usize::MAX, line_bytes_max: usize::MAX, ..Limits::DEFAULT };
            parser.parse(line.as_bytes(), &limits).expect("a line");
            let mut reply = Reply::new(RespVersion::V2);
            assert!(super::load_ahead(&mut node.context(&mut reply), parser.request(line.as_bytes()), &mut keys_left));
            (std::mem::take(&mut node.turn.effects.loads).len(), keys_left)
        };
        assert_eq!(ahead("get load:1 load:2 load:3\r\n", 2), (2, 0));
        assert_eq!(ahead("get load:4 load:5\r\n", 3), (2, 1));
        assert_eq!(ahead(&format!("get {long} load:6\r\n"), 3), (1, 1));
    }

    #[test]
    fn gat_loads_nothing() {
        let mut node = Node::with_loader();
        assert_eq!(node.talk("gat 10 load:1\r\n"), "END\r\n");
        assert!(node.turn.effects.loads.is_empty());
    }
}
