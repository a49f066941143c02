//! The connection of another node's thread, which carries what that node's clients have asked of us.
//!
//! ```text
//! frame ─► client has something parked? ─yes─► behind it, in order ─┐
//!            │ no                                                   │
//!            └─► too late? ─► execute ─► reply ─► frame             │
//!                              └► parked ─► wake or time ─► reply ─►┴─► what was behind it
//! ```
//!
//! Commands of one client follow each other, as on a connection of its own; those of others go on while one is parked. A command is executed
//! only until the time that the other node has named last ([`frame::TIME`]): later its client has been told that it is not.

use super::running::{KEYS_AHEAD_MAX, load_ahead_one};
use super::{Connection, REPLY_BYTES_PER_TURN, Stop};
use crate::front::{Memcached, Protocol, Resp};
use crate::peer::frame::{self, Dialect, Next, Sent};
use crate::peer::heat::READS_PER_SAMPLE;
use crate::peer::hot;
use crate::peer::word;
use crate::thread::{Slot, Thread, Work};
use leasehold_cluster::{Cell, Place};
use leasehold_command::{
    Client, Context, Outcome, Parked, Routing, execute, execute_for_another, execute_text_for_another, give_back,
    memcached,
};
use leasehold_keyspace::{Db, PREFETCH_KEYS_MAX, Turn};
use leasehold_protocol::{Limits, Parsed, Parser, Reply, RespVersion, memcached as text};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// Bytes of requests that wait behind parked ones of their clients, on one link; over it one is refused.
const BEHIND_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A longer reply has no frame: as many bytes as a number of 32 bits counts, and room for the head.
const REPLY_BYTES_MAX: usize = u32::MAX as usize - 64;

/// What a link has under way here.
pub(crate) struct Serving {
    /// The other node.
    pub(super) from: Place,
    parsers: Parsers,
    /// Server time until which requests are executed.
    valid_until_ms: u64,
    /// Server time that this is compared with: not the turn's, which may have begun long ago.
    pub(super) now_ms: u64,
    /// By the ticket of their waiters.
    parked: HashMap<u32, ParkedFrame>,
    /// Time and ticket of each of them.
    deadlines: BTreeSet<(u64, u32)>,
    /// Each client with a parked request is here.
    held: HashMap<u64, Held>,
    /// Clients whose parked request has ended, with more behind it than fits into a turn.
    next: VecDeque<u64>,
    behind_bytes: usize,
    /// When the other node was last told that a key is hot, by the cell of the key.
    pub(super) told: HashMap<Cell, u64>,
    /// The other node knows that this one ends.
    has_left: bool,
}

/// Of requests of both protocols.
struct Parsers {
    resp: Parser,
    text: text::Parser,
}

struct ParkedFrame {
    id: u32,
    client: u64,
    dialect: Dialect,
    parked: Box<Parked>,
}

/// What a client has under way here, once one of its requests is parked.
struct Held {
    /// Of the parked request; without one the client is among those that come next.
    ticket: Option<u32>,
    behind: VecDeque<Behind>,
    /// Keys of what comes next that may be looked at, for loads to start ahead; none behind what is no read.
    keys_left: usize,
}

struct Behind {
    id: u32,
    kind: u8,
    request: Box<[u8]>,
}

/// What a link executes with.
pub(super) struct Hands<'a> {
    pub(super) thread: &'a Thread,
    client: &'a mut Client,
    pub(super) reply: &'a mut Reply,
    pub(super) turn: &'a mut Turn,
    pub(super) limits: &'a Limits,
    pub(super) text_limits: &'a text::Limits,
}

impl Hands<'_> {
    fn context(&mut self) -> Context<'_> {
        Context {
            keyspace: &self.thread.node.keyspace,
            host: &self.thread.host,
            client: self.client,
            reply: self.reply,
            turn: self.turn,
        }
    }
}

impl Connection {
    /// `CLUSTER LINK` was accepted: what follows are frames.
    pub(super) fn become_link(&mut self, from: Place, reply: &mut Reply, now_ms: u64) {
        self.protocol = Protocol::Link;
        self.client.authenticated = true;
        self.slot.is_link.set(true);
        self.serving = Some(Box::new(Serving {
            from,
            parsers: Parsers { resp: Parser::new(), text: text::Parser::new() },
            valid_until_ms: 0,
            now_ms,
            parked: HashMap::new(),
            deadlines: BTreeSet::new(),
            held: HashMap::new(),
            next: VecDeque::new(),
            behind_bytes: 0,
            told: HashMap::new(),
            has_left: false,
        }));
        put_clock(reply, now_ms);
    }

    /// Executes the frames in `input`; how many bytes they had, and why it stopped.
    pub(super) fn run_frames(&mut self, work: &mut Work, input: &[u8]) -> (usize, Stop) {
        let thread = Rc::clone(&self.thread);
        let Work { lanes, reply, turn, .. } = work;
        let serving = self.serving.as_mut().expect("frames come over links");
        let (limits, text_limits) = (&lanes.resp.limits, &lanes.memcached.limits);
        let hands = &mut Hands { thread: &thread, client: &mut self.client, reply, turn, limits, text_limits };
        let start = hands.reply.len();
        let (mut done, mut commands) = (0, 0);
        let stop = 'turn: loop {
            serving.now_ms = thread.node.clock.now_ms();
            let mut frames = [Sent { id: 0, number: 0, kind: frame::GONE, bytes: &[] }; PREFETCH_KEYS_MAX];
            let (mut len, mut end) = (0, None);
            let mut ahead = done;
            while len < PREFETCH_KEYS_MAX && end.is_none() {
                match frame::next_sent(&input[ahead..], limits.request_bytes_max + frame::AGE_BYTES) {
                    Next::Frame(frame, bytes) => {
                        frames[len] = frame;
                        len += 1;
                        ahead += bytes;
                    }
                    Next::Incomplete => end = Some(Stop::Starved),
                    Next::Broken => end = Some(Stop::Closing),
                }
            }
            let frames = &frames[..len];
            if len > 1 {
                thread.node.keyspace.prefetch(Db(0), frames.iter().filter_map(first_key));
            }
            for frame in frames {
                serving.take(hands, frame);
                done += frame::REQUEST_HEAD + frame.bytes.len();
                commands += usize::from(frame.kind < frame::TIME);
                if hands.reply.len() - start >= REPLY_BYTES_PER_TURN {
                    break 'turn Stop::Bound;
                }
            }
            match end {
                None => {}
                Some(Stop::Closing) => {
                    thread.stats().protocol_errors.add(1);
                    tracing::warn!(client = %hands.client.address, "another node sends what is no frame");
                    self.closing = super::Closing::Flush;
                    break Stop::Closing;
                }
                Some(stop) => break stop,
            }
        };
        thread.stats().turns.add(1);
        thread.stats().forwarded_here.add(commands as u64);
        serving.watch_time(&thread, &self.slot);
        (done, stop)
    }

    /// Gives parked commands their wakes, and tells those whose time is up. What they answer is in `work.reply`.
    pub(super) fn hear_frames(&mut self, work: &mut Work) {
        let thread = Rc::clone(&self.thread);
        let Work { lanes, reply, turn, .. } = work;
        reply.buffer_mut().clear();
        let serving = self.serving.as_mut().expect("it is a link");
        let (limits, text_limits) = (&lanes.resp.limits, &lanes.memcached.limits);
        let hands = &mut Hands { thread: &thread, client: &mut self.client, reply, turn, limits, text_limits };
        // The rest at another turn.
        let has_room = |hands: &Hands<'_>| hands.reply.len() < REPLY_BYTES_PER_TURN;
        while has_room(hands)
            && let Some(client) = serving.next.pop_front()
        {
            serving.go_on(hands, client);
        }
        while has_room(hands)
            && let Some(wake) = self.slot.take_wake()
        {
            if serving.parked.contains_key(&wake.waiter.ticket) {
                let (index, ticket) = (wake.waiter.index, wake.waiter.ticket);
                serving.tell(hands, ticket, |parked, context| parked.wake(context, index, wake.event));
            } else {
                give_back(&thread.node.keyspace, hands.turn, wake.event);
            }
        }
        let now_ms = hands.turn.now_ms;
        while has_room(hands)
            && let Some((_, ticket)) = serving.deadlines.first().copied().filter(|(at_ms, _)| *at_ms <= now_ms)
        {
            serving.tell(hands, ticket, |parked, context| parked.time_out(context));
        }
        if thread.is_draining() && !std::mem::replace(&mut serving.has_left, thread.is_draining()) {
            let buffer = hands.reply.buffer_mut();
            let start = frame::begin(buffer, frame::LEAVE);
            frame::end(buffer, start);
        }
        serving.watch_time(&thread, &self.slot);
    }

    /// Nobody waits any more: all that is parked leaves its queues.
    pub(super) fn abandon_frames(&mut self, turn: &mut Turn) {
        let Some(mut serving) = self.serving.take() else { return };
        let thread = Rc::clone(&self.thread);
        let mut reply = Reply::new(RespVersion::V2);
        for (_, mut frame) in serving.parked.drain() {
            let mut context = Context {
                keyspace: &thread.node.keyspace,
                host: &thread.host,
                client: &mut self.client,
                reply: &mut reply,
                turn,
            };
            frame.parked.abandon(&mut context);
        }
    }
}

impl Serving {
    /// Takes a frame.
    fn take(&mut self, hands: &mut Hands<'_>, frame: &Sent<'_>) {
        match frame.kind {
            frame::TIME => self.valid_until_ms = frame.number,
            frame::PING => {
                self.valid_until_ms = frame.number;
                put_clock(hands.reply, hands.turn.now_ms);
            }
            frame::GONE => self.forget(hands, frame.number),
            frame::ASK => self.answer(hands, frame),
            frame::LEND => self.lend(hands, frame),
            frame::RECALL => hot::hear_recall(hands.thread, frame.bytes),
            _ if self.held.is_empty() || !self.held.contains_key(&frame.number) => {
                self.execute(hands, frame);
            }
            _ => self.put_behind(hands, frame),
        }
    }

    /// Lets a request wait behind the parked one of its client.
    fn put_behind(&mut self, hands: &mut Hands<'_>, frame: &Sent<'_>) {
        if self.behind_bytes + frame.bytes.len() > BEHIND_BYTES_MAX {
            return refuse(hands, frame, "has too much waiting");
        }
        let Some(held) = self.held.get_mut(&frame.number) else { return };
        self.behind_bytes += frame.bytes.len();
        held.behind.push_back(Behind { id: frame.id, kind: frame.kind, request: frame.bytes.into() });
        if self.now_ms <= self.valid_until_ms {
            match frame.request() {
                Some((None, request)) => self.parsers.load_ahead(hands, frame.kind, request, &mut held.keys_left),
                // How old what is there may be is known when it is its turn.
                Some((Some(_), _)) | None => held.keys_left = 0,
            }
        }
    }

    /// Answers a ping of the other node.
    fn answer(&self, hands: &mut Hands<'_>, frame: &Sent<'_>) {
        let (Some(watch), Some(ping)) = (&hands.thread.node.watch, word::ping(frame.bytes)) else {
            return refuse(hands, frame, "does not know this request");
        };
        let pong = watch.peers.answer(self.from, &ping, self.now_ms);
        let buffer = hands.reply.buffer_mut();
        let start = frame::begin(buffer, frame::WORD);
        word::put_pong(buffer, &pong);
        frame::end(buffer, start);
    }

    /// Executes a request, and writes its reply unless it parks.
    fn execute(&mut self, hands: &mut Hands<'_>, frame: &Sent<'_>) {
        let Some(dialect) = Dialect::of(frame.kind) else { return refuse(hands, frame, "does not know this request") };
        if self.now_ms > self.valid_until_ms {
            return refuse(hands, frame, "got this too late, and has not executed it");
        }
        let Some((age_max_ms, request)) = frame.request() else { return refuse(hands, frame, "cannot read this") };
        hands.thread.stats().stood_in.add(u64::from(age_max_ms.is_some()));
        hands.reply.set_version(version_of(dialect));
        let head = frame::begin(hands.reply.buffer_mut(), frame.id);
        let client = &mut *hands.client;
        client.routing = if age_max_ms.is_some() { Routing::StandIn } else { Routing::Link };
        client.no_touch = frame.kind & frame::NO_TOUCH != 0;
        client.ticket = client.ticket.wrapping_add(1);
        client.last_command = None;
        let outcome = match dialect {
            Dialect::Resp2 | Dialect::Resp3 => match self.parsers.resp.parse(request, hands.limits) {
                Ok(Parsed::Complete { .. }) => {
                    let request = self.parsers.resp.request(request);
                    Some(match age_max_ms {
                        None => execute(&mut hands.context(), request),
                        Some(age_max_ms) => execute_for_another(&mut hands.context(), request, age_max_ms),
                    })
                }
                Ok(Parsed::Incomplete) | Err(_) => None,
            },
            Dialect::Memcached => match self.parsers.text.parse(request, hands.text_limits) {
                Ok(Parsed::Complete { .. }) => {
                    let request = self.parsers.text.request(request);
                    Some(match age_max_ms {
                        None => memcached::execute(&mut hands.context(), request),
                        Some(age_max_ms) => execute_text_for_another(&mut hands.context(), request, age_max_ms),
                    })
                }
                Ok(Parsed::Incomplete) | Err(_) => None,
            },
        };
        self.parsers.end_request(outcome.is_some());
        match outcome {
            None => {
                hands.reply.truncate(head);
                refuse(hands, frame, "cannot read this: is proto-max-bulk-len the same there?");
            }
            Some(Outcome::Parked(parked)) => {
                hands.reply.truncate(head);
                let ticket = hands.client.ticket;
                self.deadlines.insert((parked.deadline_ms, ticket));
                self.parked.insert(ticket, ParkedFrame { id: frame.id, client: frame.number, dialect, parked });
                let held = Held { ticket: Some(ticket), behind: VecDeque::new(), keys_left: KEYS_AHEAD_MAX };
                self.held.insert(frame.number, held);
            }
            Some(Outcome::Replied | Outcome::Close | Outcome::Forward(_) | Outcome::Split(_) | Outcome::Link(_)) => {
                end(hands, head);
                let is_counted = hands.thread.node.hot.is_some() && age_max_ms.is_none();
                if is_counted && hands.turn.random().is_multiple_of(READS_PER_SAMPLE) {
                    self.note_read(hands, dialect, request);
                }
            }
        }
    }

    /// Tells a parked command something; if that ends it, writes its reply and executes what has waited behind it.
    fn tell(
        &mut self,
        hands: &mut Hands<'_>,
        ticket: u32,
        say: impl FnOnce(&mut Parked, &mut Context<'_>) -> Option<Outcome>,
    ) {
        let Some(frame) = self.parked.get_mut(&ticket) else { return };
        self.deadlines.remove(&(frame.parked.deadline_ms, ticket));
        hands.reply.set_version(version_of(frame.dialect));
        let head = frame::begin(hands.reply.buffer_mut(), frame.id);
        let outcome = say(&mut frame.parked, &mut hands.context());
        if let Some(Outcome::Parked(next)) = outcome {
            frame.parked = next;
            hands.reply.truncate(head);
        } else if outcome.is_none() {
            hands.reply.truncate(head);
        } else {
            end(hands, head);
            let client = frame.client;
            self.parked.remove(&ticket);
            return self.go_on(hands, client);
        }
        self.deadlines.insert((frame.parked.deadline_ms, ticket));
    }

    /// Executes what has waited behind a request of this client, up to the next that parks, or to the end of the turn.
    fn go_on(&mut self, hands: &mut Hands<'_>, client: u64) {
        let Some(Held { mut behind, .. }) = self.held.remove(&client) else { return };
        while !behind.is_empty() {
            if hands.reply.len() >= REPLY_BYTES_PER_TURN {
                self.held.insert(client, Held { ticket: None, behind, keys_left: 0 });
                self.next.push_back(client);
                return;
            }
            let Some(Behind { id, kind, request }) = behind.pop_front() else { return };
            self.behind_bytes -= request.len();
            self.now_ms = hands.thread.node.clock.now_ms();
            self.execute(hands, &Sent { id, number: client, kind, bytes: &request });
            if let Some(held) = self.held.get_mut(&client) {
                // As in `put_behind`.
                for Behind { kind, request, .. } in &behind {
                    match (Sent { id, number: client, kind: *kind, bytes: request }).request() {
                        Some((None, request)) => {
                            self.parsers.load_ahead(hands, *kind, request, &mut held.keys_left);
                        }
                        Some((Some(_), _)) | None => held.keys_left = 0,
                    }
                }
                held.behind = behind;
                return;
            }
        }
    }

    /// A client is gone: if it waits for a lease it leaves the queue, what waits behind that is not executed, and the answers are empty. All else
    /// is executed, as on a connection whose peer sends no more.
    fn forget(&mut self, hands: &mut Hands<'_>, client: u64) {
        let ticket = self.held.get(&client).and_then(|held| held.ticket);
        if ticket.and_then(|ticket| self.parked.get(&ticket)).is_none_or(|frame| frame.parked.outlives_input()) {
            return;
        }
        let Some(Held { ticket, behind, .. }) = self.held.remove(&client) else { return };
        let empty = |hands: &mut Hands<'_>, id| {
            let buffer = hands.reply.buffer_mut();
            let start = frame::begin(buffer, id);
            frame::end(buffer, start);
        };
        if let Some(ticket) = ticket
            && let Some(mut frame) = self.parked.remove(&ticket)
        {
            self.deadlines.remove(&(frame.parked.deadline_ms, ticket));
            frame.parked.abandon(&mut hands.context());
            empty(hands, frame.id);
        }
        for Behind { id, request, .. } in behind {
            self.behind_bytes -= request.len();
            empty(hands, id);
        }
    }

    /// Whether clients have requests that did not fit into the last turn.
    pub(super) fn must_go_on(&self) -> bool {
        !self.next.is_empty()
    }

    /// Whether the other node is to be told that this one ends.
    pub(super) fn must_leave(&self, thread: &Thread) -> bool {
        thread.is_draining() && !self.has_left
    }

    /// Sees to it that the next deadline is kept.
    fn watch_time(&self, thread: &Thread, slot: &Slot) {
        match self.deadlines.first() {
            Some((at_ms, _)) => thread.park(slot, *at_ms),
            None => thread.unpark(slot),
        }
    }
}

impl Parsers {
    /// Starts the loads that a request behind a parked one will want, so that a pipeline of cold reads shares them. What is no read
    /// leaves no keys to look at: what stands behind it must see it.
    fn load_ahead(&mut self, hands: &mut Hands<'_>, kind: u8, request: &[u8], keys_left: &mut usize) {
        if *keys_left == 0 {
            return;
        }
        let (limits, text_limits) = (hands.limits, hands.text_limits);
        let (context, resp, text) = (&mut hands.context(), &mut self.resp, &mut self.text);
        let read = match Dialect::of(kind) {
            Some(Dialect::Resp2 | Dialect::Resp3) => load_ahead_one::<Resp>(context, resp, request, limits, keys_left),
            Some(Dialect::Memcached) => load_ahead_one::<Memcached>(context, text, request, text_limits, keys_left),
            None => None,
        };
        self.end_request(read.is_some());
        if read.is_none() {
            *keys_left = 0;
        }
    }

    /// The next request begins anew, also behind one that is not whole, or too large.
    fn end_request(&mut self, is_whole: bool) {
        if !is_whole {
            self.resp = Parser::new();
        }
        if self.text.is_inside_request() {
            self.text = text::Parser::new();
        }
    }
}

/// What is a key for nearly all commands.
fn first_key<'a>(frame: &Sent<'a>) -> Option<&'a [u8]> {
    let (_, request) = frame.request()?;
    match Dialect::of(frame.kind)? {
        Dialect::Resp2 | Dialect::Resp3 => leasehold_protocol::first_key(request),
        Dialect::Memcached => text::first_key(request),
    }
}

fn version_of(dialect: Dialect) -> RespVersion {
    match dialect {
        Dialect::Resp2 | Dialect::Memcached => RespVersion::V2,
        Dialect::Resp3 => RespVersion::V3,
    }
}

/// Ends the frame of a reply.
#[inline]
fn end(hands: &mut Hands<'_>, head: usize) {
    if hands.reply.len() - head > REPLY_BYTES_MAX {
        hands.reply.truncate(head + frame::REPLY_HEAD);
        hands.reply.error(&leasehold_command::ReplyError::ReplyTooLong);
    }
    frame::end(hands.reply.buffer_mut(), head);
}

/// Answers a request that is not executed.
#[cold]
fn refuse(hands: &mut Hands<'_>, frame: &Sent<'_>, reason: &str) {
    hands.thread.stats().forwarded_here_refused.add(1);
    let node = hands.thread.node.config.node.as_deref().unwrap_or_default();
    let head = frame::begin(hands.reply.buffer_mut(), frame.id);
    if Dialect::of(frame.kind) == Some(Dialect::Memcached) {
        hands.reply.buffer_mut().extend_from_slice(format!("SERVER_ERROR node {node} {reason}\r\n").as_bytes());
    } else {
        hands.reply.error(&format_args!("CLUSTERDOWN node {node} {reason}"));
    }
    frame::end(hands.reply.buffer_mut(), head);
}

fn put_clock(reply: &mut Reply, now_ms: u64) {
    let buffer = reply.buffer_mut();
    let start = frame::begin(buffer, frame::CLOCK);
    buffer.extend_from_slice(&now_ms.to_le_bytes());
    frame::end(buffer, start);
}
