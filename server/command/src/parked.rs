//! Commands that wait: for a fill, a lease, a commit, a reload, or the end of their patience.
//!
//! A parked command is a list of keys, each of which will have an answer, and a way to write the reply once all have. Keys
//! are woken one by one, in any order; each has its own deadlines.

use crate::context::{Context, Outcome};
use crate::dispatch::silence;
use crate::error::ReplyError;
use crate::lease::getl;
use crate::loader::through;
use crate::memcached::Form;
use crate::room::Room;
use crate::writing::Effect;
use bytes::Bytes;
use leasehold_keyspace::{Db, Keyspace, Release, Turn, Waiter, WakeEvent};

/// A command whose reply is still owed. The connection keeps it, and executes nothing else until it is done.
#[derive(Debug)]
pub struct Parked {
    /// Server time at which [`Parked::time_out`] is to be called; at times before any key is late, as wakes leave it alone.
    pub deadline_ms: u64,
    kind: Kind,
    keys: Vec<Awaited>,
    unanswered: usize,
    /// For the values of the keys that have no answer.
    room: Room,
}

/// What the reply looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// GET, LOADTHROUGH, LOADER TEST: the value, nil or an error.
    One,
    /// MGET: an array of values, or the first error.
    Many,
    /// MLOADTHROUGH: an array, with an error in the place of a key that failed.
    ManyWithErrors,
    /// GETL: its array of five.
    Getl,
    /// A command of memcached's.
    Memcached(Form),
}

/// One key of a parked command.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) db: Db,
    pub(crate) key: Bytes,
    pub(crate) waiter: Waiter,
    pub(crate) patience: Patience,
    pub(crate) answer: Option<Answer>,
}

/// How long a key is waited for, and what it comes to then.
#[derive(Clone, Debug)]
pub(crate) enum Patience {
    /// A read through a loader. The stale value, if it may be served, is the answer after the soft timeout.
    Load {
        loader: u32,
        stale: Option<Bytes>,
        /// Whether a stale value is an answer when the load fails.
        takes_stale: bool,
        soft_deadline_ms: u64,
        hard_deadline_ms: u64,
        asked_ms: u64,
    },
    /// GETL … WAIT.
    Lease { deadline_ms: u64, claim: getl::Wish },
    /// A write to the source: not in any queue of the keyspace.
    Write { loader: u32, effect: Effect, asked_ms: u64, deadline_ms: u64 },
    /// WAITDB: not in any queue of the keyspace.
    Flush { loader: Option<u32>, up_to: u64, deadline_ms: u64 },
    /// LOADER TEST: not in any queue of the keyspace.
    Test { deadline_ms: u64, asked_ms: u64 },
    /// LOADER RELOAD: not in any queue of the keyspace.
    Reload { deadline_ms: u64 },
}

/// What became of a key.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Value(Bytes),
    /// A value with what memcached's clients see of its entry.
    Entry {
        client_flags: u32,
        value: Bytes,
        /// 0: none was asked for.
        version: u64,
    },
    Absent,
    Ok,
    Count(u64),
    /// The text of an error reply.
    Error(String),
    /// There is a value; with it the reply would be too long.
    TooLong,
    Getl(getl::Status),
}

impl Patience {
    fn deadline_ms(&self) -> u64 {
        match self {
            Self::Load { stale: Some(_), soft_deadline_ms, hard_deadline_ms, .. } => {
                (*soft_deadline_ms).min(*hard_deadline_ms)
            }
            Self::Load { hard_deadline_ms, .. } => *hard_deadline_ms,
            Self::Lease { deadline_ms, .. }
            | Self::Write { deadline_ms, .. }
            | Self::Flush { deadline_ms, .. }
            | Self::Test { deadline_ms, .. }
            | Self::Reload { deadline_ms } => *deadline_ms,
        }
    }
}

impl Parked {
    /// As [`Parked::park_or_reply`] for a command with one key.
    pub(crate) fn park_or_reply_one(context: &mut Context<'_>, kind: Kind, mut key: Awaited) -> Outcome {
        let mut room = Room::of(context.reply);
        key.take_room(&mut room);
        Self::park_or_reply(context, kind, vec![key], room)
    }

    /// Parks a command, unless all its keys have their answers already. `room` is what those that it has leave.
    pub(crate) fn park_or_reply(context: &mut Context<'_>, kind: Kind, keys: Vec<Awaited>, room: Room) -> Outcome {
        let unanswered = keys.iter().filter(|key| key.answer.is_none()).count();
        let mut parked = Self { deadline_ms: 0, kind, keys, unanswered, room };
        if unanswered == 0 {
            return parked.reply(context);
        }
        parked.set_deadline();
        Outcome::Parked(Box::new(parked))
    }

    /// One of the awaited keys has its answer. `None`: the command waits on.
    pub fn wake(&mut self, context: &mut Context<'_>, index: u32, event: WakeEvent) -> Option<Outcome> {
        let awaited = self.keys.get_mut(index as usize)?;
        if awaited.answer.is_some() {
            give_back(context.keyspace, context.turn, event);
            return None;
        }
        let answer = match &awaited.patience {
            Patience::Lease { claim, .. } if claim.is_too_old(&event) => {
                let (claim, db, key, waiter) = (claim.clone(), awaited.db, awaited.key.clone(), awaited.waiter);
                // Filled, but not for this one, who asks again and keeps its patience.
                Answer::Getl(claim.claim(context, db, &key, Some(waiter))?)
            }
            Patience::Lease { claim, .. } => Answer::Getl(claim.woken(event, context.turn.now_ms)),
            Patience::Write { effect, .. } => match event {
                WakeEvent::Written { rows } => written(context, awaited.db, effect, rows),
                WakeEvent::Failed { reason, .. } => Answer::Error(reason.to_string()),
                other => {
                    give_back(context.keyspace, context.turn, other);
                    return None;
                }
            },
            Patience::Reload { .. } => match event {
                WakeEvent::Written { .. } => Answer::Ok,
                WakeEvent::Failed { reason, .. } => Answer::Error(reason.to_string()),
                other => {
                    give_back(context.keyspace, context.turn, other);
                    return None;
                }
            },
            Patience::Flush { .. } => match event {
                WakeEvent::Written { rows } => Answer::Count(rows),
                other => {
                    give_back(context.keyspace, context.turn, other);
                    return None;
                }
            },
            Patience::Load { .. } | Patience::Test { .. } => match event {
                WakeEvent::Written { .. } => return None,
                WakeEvent::Value { value, .. } => Answer::Value(value),
                WakeEvent::Absent { .. } => Answer::Absent,
                WakeEvent::Failed { stale, reason } => awaited.failed(stale, &reason),
                WakeEvent::Lead { .. } => {
                    give_back(context.keyspace, context.turn, event);
                    return None;
                }
            },
        };
        awaited.end(answer, &mut self.room);
        self.answered(context, 1)
    }

    /// The deadline has passed. `None`: the command waits on, with a later deadline.
    pub fn time_out(&mut self, context: &mut Context<'_>) -> Option<Outcome> {
        let mut answered = 0;
        for awaited in &mut self.keys {
            if awaited.answer.is_none() && awaited.patience.deadline_ms() <= context.turn.now_ms {
                awaited.time_out(context, &mut self.room);
                answered += usize::from(awaited.answer.is_some());
            }
        }
        self.set_deadline();
        self.answered(context, answered)
    }

    /// Whether a client that sends no more may still wait for the reply, as a script does that pipes its commands in. Not for
    /// a lease: it would go to nobody if the client is gone for good.
    #[must_use]
    pub fn outlives_input(&self) -> bool {
        self.kind != Kind::Getl
    }

    /// The connection is gone: leave every queue. A lease that is on the way to this command comes back by its wake.
    pub fn abandon(&mut self, context: &mut Context<'_>) {
        for awaited in self.keys.iter().filter(|awaited| awaited.answer.is_none()) {
            if let Patience::Flush { .. } = awaited.patience {
                context.host.leave_flush(awaited.waiter);
            }
            context.keyspace.leave(context.turn, awaited.db, &awaited.key, awaited.waiter);
        }
        // A lease already won and not yet told (the other keys of its command still wait) cannot occur: GETL has one key.
        self.unanswered = 0;
    }

    fn answered(&mut self, context: &mut Context<'_>, count: usize) -> Option<Outcome> {
        self.unanswered -= count;
        (self.unanswered == 0).then(|| self.reply(context))
    }

    /// Looks at every key: not for each wake, of which there is one a key.
    fn set_deadline(&mut self) {
        let open = self.keys.iter().filter(|awaited| awaited.answer.is_none());
        self.deadline_ms = open.map(|awaited| awaited.patience.deadline_ms()).min().unwrap_or(u64::MAX);
    }

    fn reply(&mut self, context: &mut Context<'_>) -> Outcome {
        if let Kind::Memcached(form) = &self.kind {
            form.reply(context, &self.keys);
            return Outcome::Replied;
        }
        let start = context.reply.len();
        let answers = || self.keys.iter().filter_map(|awaited| awaited.answer.as_ref());
        match self.kind {
            Kind::Memcached(_) => {}
            Kind::One | Kind::Getl => answers().for_each(|answer| write_answer(context, answer)),
            Kind::Many => match answers().find(|answer| matches!(answer, Answer::Error(_) | Answer::TooLong)) {
                Some(error) => write_answer(context, error),
                None => {
                    context.reply.array(self.keys.len());
                    answers().for_each(|answer| write_answer(context, answer));
                }
            },
            Kind::ManyWithErrors => {
                context.reply.array(self.keys.len());
                answers().for_each(|answer| write_answer(context, answer));
            }
        }
        silence(context, start);
        Outcome::Replied
    }
}

impl Awaited {
    /// Takes room for what this key holds. A stale value without room is let go: a reply with it would be too long.
    pub(crate) fn take_room(&mut self, room: &mut Room) {
        if let Some(answer) = self.answer.take() {
            self.end(answer, room);
        } else if let Patience::Load { stale, .. } = &mut self.patience
            && stale.as_ref().is_some_and(|stale| !room.take(stale.len()))
        {
            *stale = None;
        }
    }

    /// This is the answer, if there is room for it.
    fn end(&mut self, answer: Answer, room: &mut Room) {
        if let Patience::Load { stale, .. } = &mut self.patience
            && let Some(stale) = stale.take()
        {
            room.give_back(stale.len());
        }
        let fits = match &answer {
            Answer::Value(value) | Answer::Entry { value, .. } => room.take(value.len()),
            _ => true,
        };
        self.answer = Some(if fits { answer } else { Answer::TooLong });
    }

    fn failed(&self, stale: Option<Bytes>, reason: &str) -> Answer {
        match &self.patience {
            Patience::Load { takes_stale: true, .. } => {
                stale.map_or_else(|| Answer::Error(reason.to_owned()), Answer::Value)
            }
            _ => Answer::Error(reason.to_owned()),
        }
    }

    /// Past one of its deadlines. Without an answer afterwards only if its wake is on the way.
    fn time_out(&mut self, context: &mut Context<'_>, room: &mut Room) {
        let now_ms = context.turn.now_ms;
        let answer = match &mut self.patience {
            // The load goes on without this reader.
            Patience::Load { stale: Some(stale), .. } => Answer::Value(stale.clone()),
            // The text says what was allowed, as that of the load itself does: either may come first.
            Patience::Load { loader, asked_ms, hard_deadline_ms, .. } => {
                Answer::Error(through::timeout_text(context.host, *loader, *hard_deadline_ms - *asked_ms))
            }
            Patience::Write { loader, asked_ms, deadline_ms, .. } => Answer::Error(format!(
                "UNKNOWNSTATE {} no answer within {} ms; it may be written or not",
                context.host.loader_name(*loader),
                *deadline_ms - *asked_ms
            )),
            Patience::Flush { loader, up_to, .. } => {
                context.host.leave_flush(self.waiter);
                Answer::Count(context.host.unflushed(*loader, *up_to))
            }
            Patience::Test { asked_ms, deadline_ms } => {
                Answer::Error(format!("LOADFAIL no answer within {} ms", *deadline_ms - *asked_ms))
            }
            Patience::Reload { .. } => {
                let text = "ERR the reload is under way still; INFO loaders and the log will say how it has ended";
                Answer::Error(text.to_owned())
            }
            Patience::Lease { deadline_ms, claim } => {
                let claim = claim.clone();
                // Woken already: the wake brings a lease or a value, and reaches us within this turn or the next.
                *deadline_ms = now_ms + WAKE_UNDER_WAY_MS;
                if context.keyspace.leave(context.turn, self.db, &self.key, self.waiter) {
                    self.answer = Some(Answer::Getl(claim.last_word(context, self.db, &self.key)));
                }
                return;
            }
        };
        context.keyspace.leave(context.turn, self.db, &self.key, self.waiter);
        self.end(answer, room);
    }
}

/// What a committed write comes to.
fn written(context: &mut Context<'_>, db: Db, effect: &Effect, rows: u64) -> Answer {
    match effect {
        Effect::Stored => Answer::Ok,
        Effect::Deleted { others } => {
            let mut removed = rows;
            for key in others {
                removed += u64::from(context.keyspace.update(context.turn, db, key, |slot| slot.remove()));
            }
            Answer::Count(removed)
        }
    }
}

/// How long to wait for a wake that left the keyspace already: it crosses threads in microseconds.
const WAKE_UNDER_WAY_MS: u64 = 100;

/// A wake that nobody takes any more: a lease that came with it goes to the next waiter. The reactor calls this for wakes
/// whose connection is gone or busy with a later command.
pub fn give_back(keyspace: &Keyspace, turn: &mut Turn, event: WakeEvent) {
    if let WakeEvent::Lead { db, key, token, .. } = event {
        keyspace.release(turn, db, &key, token, Release::default());
    }
}

fn write_answer(context: &mut Context<'_>, answer: &Answer) {
    match answer {
        Answer::Value(value) | Answer::Entry { value, .. } => context.reply.bulk(value),
        Answer::Absent => context.reply.null(),
        Answer::Ok => context.reply.ok(),
        Answer::Count(count) => context.reply.integer(i64::try_from(*count).unwrap_or(i64::MAX)),
        Answer::Error(text) => context.reply.error(text),
        Answer::TooLong => context.reply.error(&ReplyError::ReplyTooLong),
        Answer::Getl(status) => status.write(context.reply),
    }
}

#[cfg(test)]
mod tests {
    use super::Parked;
    use crate::context::{Context, Outcome};
    use crate::host::{LoaderPolicy, ServeStale};
    use crate::testing::Node;
    use leasehold_keyspace::{Db, Expiry, Fill};
    use leasehold_protocol::Reply;

    /// Runs a line that parks.
    fn park(node: &mut Node, line: &str) -> Box<Parked> {
        node.run(line);
        match std::mem::replace(&mut node.outcome, Outcome::Replied) {
            Outcome::Parked(parked) => parked,
            other => panic!("{line} does not park: {other:?}"),
        }
    }

    /// Gives a parked command all wakes there are; its reply, if it has one then.
    fn wake(node: &mut Node, parked: &mut Parked) -> Option<String> {
        let mut reply = Reply::new(node.version);
        let wakes = std::mem::take(&mut node.turn.effects.wakes);
        let mut context = Context {
            keyspace: &node.keyspace,
            host: &node.host,
            client: &mut node.client,
            reply: &mut reply,
            turn: &mut node.turn,
        };
        let is_done = wakes.into_iter().any(|wake| parked.wake(&mut context, wake.waiter.index, wake.event).is_some());
        is_done.then(|| String::from_utf8_lossy(reply.as_bytes()).into_owned())
    }

    fn token(reply: &str) -> String {
        reply.split("\r\n").find(|word| word.len() > 15).expect("a token in the reply").to_owned()
    }

    #[test]
    fn a_fill_below_the_wanted_version_does_not_end_the_wait() {
        let mut node = Node::new();
        let first = token(&node.run("GETL k"));
        let mut parked = park(&mut node, "GETL k WAIT 1000 MINVER 6");
        assert_eq!(node.run(&format!("SETL k {first} v5 VER 5")), "+STORED\r\n");
        let reply = wake(&mut node, &mut parked).expect("nobody else leads");
        assert!(reply.starts_with("*5\r\n$5\r\nLEASE\r\n$2\r\nv5\r\n"), "{reply}");
        // With another leading it goes on waiting, until the version is there.
        let second = token(&reply);
        let mut parked = park(&mut node, "GETL k WAIT 1000 MINVER 7");
        assert_eq!(node.run(&format!("SETL k {second} v6 VER 6")), "+STORED\r\n");
        let third = node.run("GETL k MINVER 7");
        assert_eq!(wake(&mut node, &mut parked), None);
        assert_eq!(node.run(&format!("SETL k {} v7 VER 7", token(&third))), "+STORED\r\n");
        let reply = wake(&mut node, &mut parked).expect("filled");
        assert!(reply.starts_with("*5\r\n$3\r\nHIT\r\n$2\r\nv7\r\n"), "{reply}");
    }

    /// Ends the loads that were asked for, each with this value; the reply of the command that waits for them.
    fn load_all(node: &mut Node, value: &[u8]) -> Option<String> {
        for load in std::mem::take(&mut node.turn.effects.loads) {
            let fill = Fill::Value {
                value,
                expiry: Expiry::Never,
                stale_for_ms: 0,
                version: None,
                client_flags: 0,
                tags: &[],
            };
            node.keyspace.fill(&mut node.turn, Db(0), &load.key, load.token, fill);
        }
        node.wake()
    }

    #[test]
    fn loaded_values_that_are_too_long_together_are_not_gathered() {
        let too_long = "-ERR reply exceeds maximum allowed size (client-output-buffer-limit)\r\n";
        let new = || {
            let mut node = Node::with_loader();
            node.reply_bytes_max = 10;
            node.run("SET a 123");
            node
        };
        let mut node = new();
        node.run("MGET a load:1");
        assert_eq!(load_all(&mut node, b"1234567").as_deref(), Some("*2\r\n$3\r\n123\r\n$7\r\n1234567\r\n"));
        node.run("MGET a load:2");
        assert_eq!(load_all(&mut node, b"12345678").as_deref(), Some(too_long));
        let mut node = new();
        node.run("MLOADTHROUGH load:1 a load:2");
        let reply = load_all(&mut node, b"12345").expect("all have an answer");
        assert_eq!(reply, format!("*3\r\n$5\r\n12345\r\n$3\r\n123\r\n{too_long}"), "what fits is answered");
        // Of one key there is no more than a value.
        node.run("LOADTHROUGH load:3");
        assert_eq!(load_all(&mut node, b"12345678901").as_deref(), Some("$11\r\n12345678901\r\n"));
        for verb in ["get", "gets"] {
            let mut node = new();
            node.talk(format!("{verb} a load:1 load:2\r\n"));
            let reply = load_all(&mut node, b"1234");
            assert_eq!(reply.as_deref(), Some("SERVER_ERROR out of memory writing get response\r\n"));
            node.talk(format!("{verb} load:3\r\n"));
            assert!(load_all(&mut node, b"12345678901").is_some_and(|reply| reply.contains("\r\n12345678901\r\n")));
        }
    }

    #[test]
    fn a_stale_value_kept_for_later_takes_its_room_until_the_answer_is_there() {
        let mut node = Node::with_loader();
        node.reply_bytes_max = 10;
        if let Some(loader) = &mut node.host.loader {
            loader.serve_stale = ServeStale::OnError;
        }
        for key in ["load:1", "load:2"] {
            let lease = token(&node.run(&format!("GETL {key}")));
            node.run(&format!("SETL {key} {lease} 123456 PX 10 STALEFOR 60000"));
        }
        node.advance_ms(11);
        node.run("MGET load:1 load:2");
        assert_eq!(load_all(&mut node, b"12345").as_deref(), Some("*2\r\n$5\r\n12345\r\n$5\r\n12345\r\n"));
    }

    #[test]
    fn who_demands_a_fresh_value_is_told_of_the_failure_and_not_given_a_stale_one() {
        for (line, answer) in [
            ("LOADTHROUGH load:1", "$3\r\nold\r\n"),
            ("LOADTHROUGH load:1 FRESH", "-LOADFAIL users down\r\n"),
            ("LOADTHROUGH load:1 MAXSTALE 5", "-LOADFAIL users down\r\n"),
        ] {
            let mut node = Node::new();
            let lease = token(&node.run("GETL load:1"));
            assert_eq!(node.run(&format!("SETL load:1 {lease} old PX 10 STALEFOR 60000")), "+STORED\r\n");
            node.advance_ms(100);
            node.host.loader = Some(LoaderPolicy {
                loader: 0,
                transparent: true,
                serve_stale: ServeStale::OnError,
                soft_timeout_ms: 50,
                hard_timeout_ms: 1_000,
                loads_max: 10,
            });
            let mut parked = park(&mut node, line);
            let load = node.turn.effects.loads.pop().expect("a load is to start");
            let reason = "LOADFAIL users down".into();
            node.keyspace.fail(&mut node.turn, Db(0), b"load:1", load.token, &reason, 0);
            assert_eq!(wake(&mut node, &mut parked).as_deref(), Some(answer), "{line}");
        }
    }

    #[test]
    fn a_failed_load_does_not_make_a_value_less_stale_than_it_is() {
        let mut node = Node::new();
        let lease = token(&node.run("GETL load:1"));
        assert_eq!(node.run(&format!("SETL load:1 {lease} old PX 10 STALEFOR 60000")), "+STORED\r\n");
        node.advance_ms(1_010);
        node.host.loader = Some(LoaderPolicy {
            loader: 0,
            transparent: true,
            serve_stale: ServeStale::OnError,
            soft_timeout_ms: 50,
            hard_timeout_ms: 1_000,
            loads_max: 10,
        });
        for _ in 0..2 {
            let mut parked = park(&mut node, "LOADTHROUGH load:1 TIMEOUT 60000");
            let load = node.turn.effects.loads.pop().expect("a load is to start");
            node.keyspace.fail(&mut node.turn, Db(0), b"load:1", load.token, &"LOADFAIL users down".into(), 1_000);
            assert_eq!(wake(&mut node, &mut parked).as_deref(), Some("$3\r\nold\r\n"));
            // Read without a load for a second.
            node.advance_ms(500);
            assert_eq!(node.run("GET load:1"), "$3\r\nold\r\n");
            assert!(node.turn.effects.loads.is_empty(), "the source has a pause");
            assert_eq!(node.run("LOADTHROUGH load:1 MAXSTALE 60000"), "$3\r\nold\r\n");
            node.advance_ms(500);
        }
        // Three seconds stale by now, whatever happened since.
        assert_eq!(node.run("LOADTHROUGH load:1 MAXSTALE 3000"), "$3\r\nold\r\n");
        node.turn.effects.loads.clear();
        park(&mut node, "LOADTHROUGH load:1 MAXSTALE 2999");
    }

    #[test]
    fn who_bounds_the_staleness_asks_the_source_within_the_new_life_too() {
        let mut node = Node::new();
        let lease = token(&node.run("GETL load:1"));
        assert_eq!(node.run(&format!("SETL load:1 {lease} old PX 10 STALEFOR 60000")), "+STORED\r\n");
        node.advance_ms(1_010);
        let lease = token(&node.run("GETL load:1"));
        node.host.loader = Some(LoaderPolicy {
            loader: 0,
            transparent: true,
            serve_stale: ServeStale::OnError,
            soft_timeout_ms: 50,
            hard_timeout_ms: 1_000,
            loads_max: 10,
        });
        let lease = lease.parse().expect("a token");
        node.keyspace.fail(&mut node.turn, Db(0), b"load:1", lease, &"LOADFAIL users down".into(), 1_000);
        assert_eq!(node.run("GET load:1"), "$3\r\nold\r\n");
        assert_eq!(node.run("LOADTHROUGH load:1 MAXSTALE 1000"), "$3\r\nold\r\n");
        park(&mut node, "LOADTHROUGH load:1 MAXSTALE 999");
        assert_eq!(node.turn.effects.loads.len(), 1);
    }

    #[test]
    fn a_remembered_absence_counts_once_when_it_answers_getl() {
        let mut node = Node::new();
        let lease = token(&node.run("GETL k"));
        assert_eq!(node.run(&format!("RELL k {lease} NEGATIVE 1000")), ":1\r\n");
        assert!(node.run("GETL k").starts_with("*5\r\n$8\r\nNEGATIVE\r\n"));
        assert!(node.run("GETL k WAIT 10").starts_with("*5\r\n$8\r\nNEGATIVE\r\n"));
        assert_eq!(node.keyspace.stats().negative_hits, 2);
    }
}
