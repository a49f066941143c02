//! The connection of one thread to another node, over which requests go that are that node's.
//!
//! ```text
//! closed ──needed──► opening: connect, AUTH, CLUSTER LINK ──► open ──silence, end, error──► closed: all that waits is answered with an error
//!    ▲                                                                                          │ opened again by the tick,
//!    └──────────────────────────────── opened, or tried in vain ◄───────────────────────────────┘ with longer and longer pauses
//! ```
//!
//! While a node that has failed is not back its requests are refused at once. What was sent is never sent again: whether it was executed
//! is not known. Before each write the owner is told until when it may execute what it finds behind that, in its own time, and that is before
//! this side gives up (`give_up_ms`). So an error for silence is the last word: a node that was stopped and goes on executes nothing old. Where a
//! link breaks before, what is on its way may be executed until that time, and no later.

use super::frame::{self, Answered, Dialect, Next, Sent};
use super::hot;
use super::offset::Offset;
use super::outgoing::Outgoing;
use super::owed::{Delivered, OWED_BYTES_MAX};
use super::under_way::{Forwarded, UnderWay};
use crate::connection::READ_BYTES_MAX;
use crate::front::{Front as _, Memcached, Resp};
use crate::node::Node;
use crate::thread::Thread;
use leasehold_cluster::{Address, Fault};
use leasehold_command::LINK_PROTOCOL;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// Bytes that may wait to be sent; over it a request is refused.
const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// With so much unsent, bytes that the system takes are a sign of life: they are not those of a few requests that lie in its buffers.
const BACKLOG_BYTES_MIN: usize = 16 * 1024 * 1024;

/// Bytes of requests under way that are kept to be asked of a stand-in; what is more is answered with an error if its node does not answer.
const SPARE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Requests under way to one node; over it one is refused.
const UNDER_WAY_MAX: usize = 1 << 20;

/// Pause after an attempt to open a link that failed; twice as long after the next, up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A link without requests is tried so often: often enough that the two clocks have not drifted apart.
const PING_IDLE: Duration = Duration::from_secs(10);

/// A link on which another node says nothing for so long is closed: that node is gone, or it is no node.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

const _: () = assert!(SILENCE_MAX.as_secs() >= 3 * PING_IDLE.as_secs());

/// Pings in a `peer-timeout` while something is waited for.
const PINGS_PER_TIMEOUT: u64 = 4;

/// Reads before other tasks have their turn.
const READS_PER_TURN: usize = 4;

/// Silence after which ticks come often, so that the end of patience is seen in time.
const SLOW_MS: u64 = 50;

/// Longest line of an answer to the greeting.
const GREETING_BYTES_MAX: usize = 1024;

/// See the module.
pub(crate) struct Link {
    place: usize,
    timeout_ms: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Of the task of this phase.
    task: Option<AbortHandle>,
    waker: Option<Waker>,
    out: Outgoing,
    /// Bytes received of a frame that is not whole.
    carried: Vec<u8>,
    under_way: UnderWay,
    /// Bytes of requests that are kept to be asked of somebody else.
    spare_bytes: usize,
    /// Server time at which something was heard last, or began to be waited for.
    heard_ms: u64,
    /// Server time of the last ping.
    pinged_ms: u64,
    /// Whether a ping has no answer.
    is_pinged: bool,
    /// Whether the last tick would have given up.
    is_overdue: bool,
    /// Whether nothing was heard between two ticks although something is waited for, and ticks are to come often.
    is_slow: bool,
    offset: Offset,
    /// Attempts in vain since the last success.
    failures: u32,
    retry_at_ms: u64,
    /// Why the link is closed, for clients.
    trouble: String,
}

#[derive(Default)]
enum Phase {
    #[default]
    Closed,
    Opening,
    Open(TcpStream),
    /// The peer ends: it answers what it has, and gets no more.
    Leaving(TcpStream),
}

impl Link {
    pub(super) fn new(place: usize, timeout: Duration) -> Self {
        Self { place, timeout_ms: timeout.as_millis() as u64, state: RefCell::default() }
    }

    /// Sends a request on; the answer goes to `request.owed`, also if that is an error. For a stand-in with how old it may be.
    pub(super) fn forward(
        &self,
        thread: &Rc<Thread>,
        mut request: Forwarded,
        frame: Sent<'_>,
        age_max_ms: Option<u64>,
    ) {
        let state = &mut *self.state.borrow_mut();
        let refusal = match state.phase {
            // Its pause is for a node that is silent: one that is there again is asked at once.
            Phase::Closed if state.failures == 0 || thread.node.is_well(self.place) => {
                self.open(thread, state);
                None
            }
            // It is tried, and not waited for.
            Phase::Closed | Phase::Leaving(_) => Some(()),
            Phase::Opening if state.failures > 0 && !thread.node.is_well(self.place) => Some(()),
            Phase::Opening | Phase::Open(_) => None,
        };
        if refusal.is_some() {
            let trouble = state.trouble.clone();
            return fail_over(thread, self.place, request, &trouble);
        }
        let is_full = state.out.unsent() > UNSENT_BYTES_MAX || state.under_way.count >= UNDER_WAY_MAX;
        if is_full || frame.bytes.len() > frame::REQUEST_BYTES_MAX {
            return refuse(thread, self.place, request, "takes no more");
        }
        if state.under_way.count == 0 && !state.is_pinged {
            state.heard_ms = thread.node.clock.now_ms();
        }
        thread.stats().forwarded.add(1);
        thread.peer(self.place).forwarded.add(1);
        if let Some(spare) = &request.spare {
            let bytes = state.spare_bytes + spare.request.len();
            if bytes <= SPARE_BYTES_MAX {
                state.spare_bytes = bytes;
            } else {
                request.spare = None;
            }
        }
        let id = state.under_way.add(request);
        state.put(Sent { id, ..frame }, age_max_ms);
    }

    /// Tells the other node something, if the link is open or can be tried at once.
    pub(super) fn tell(&self, thread: &Rc<Thread>, frame: Sent<'_>) {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.phase, Phase::Closed) && state.failures == 0 {
            self.open(thread, state);
        }
        if matches!(state.phase, Phase::Opening | Phase::Open(_)) && state.out.unsent() <= UNSENT_BYTES_MAX {
            state.put(frame, None);
        }
    }

    /// A client is gone: what it has asked for is dropped where it waits.
    pub(super) fn forget(&self, client: u64) {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.phase, Phase::Open(_)) && state.under_way.count > 0 {
            state.put(Sent { id: 0, number: client, kind: frame::GONE, bytes: &[] }, None);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&self, thread: &Rc<Thread>, now_ms: u64) {
        let state = &mut *self.state.borrow_mut();
        let waits = state.under_way.count > 0 || state.is_pinged || matches!(state.phase, Phase::Opening);
        let is_overdue = waits && state.give_up_ms(self.timeout_ms) <= now_ms;
        if is_overdue && state.is_overdue {
            self.fail(thread, state, "does not answer");
        } else if is_overdue {
            // It may be this process that stood still: what has arrived is read first.
            if let Some(waker) = &state.waker {
                waker.wake_by_ref();
            }
        } else if matches!(state.phase, Phase::Open(_) | Phase::Leaving(_)) {
            let idle_ms = PING_IDLE.as_millis() as u64;
            let every_ms = if waits { idle_ms.min(self.timeout_ms / PINGS_PER_TIMEOUT) } else { idle_ms };
            if now_ms >= state.pinged_ms + every_ms && !state.is_pinged {
                state.ping(now_ms, self.timeout_ms);
            }
        } else if matches!(state.phase, Phase::Closed) && state.failures > 0 && state.retry_at_ms <= now_ms {
            self.open(thread, state);
        }
        state.is_overdue = is_overdue;
        let waits = state.under_way.count > 0 || state.is_pinged || matches!(state.phase, Phase::Opening);
        let is_slow = waits && state.heard_ms + SLOW_MS <= now_ms;
        if is_slow != state.is_slow {
            state.is_slow = is_slow;
            if is_slow { thread.node.note_awaited() } else { thread.node.note_heard() }
        }
    }

    fn open(&self, thread: &Rc<Thread>, state: &mut State) {
        state.phase = Phase::Opening;
        state.heard_ms = thread.node.clock.now_ms();
        let (thread, place) = (Rc::clone(thread), self.place);
        let task = tokio::task::spawn_local(async move {
            let reason = match connect(&thread.node, place).await {
                Ok((stream, rest)) => serve(&thread, place, stream, rest).await,
                Err(reason) => reason,
            };
            let link = thread.links.link(place);
            let state = &mut *link.state.borrow_mut();
            // Whoever aborts a task has failed the link already.
            state.task = None;
            link.fail(&thread, state, &reason);
        });
        state.task = Some(task.abort_handle());
    }

    /// Closes the link, and answers all that waits with an error.
    fn fail(&self, thread: &Rc<Thread>, state: &mut State, reason: &str) {
        let was_open = matches!(state.phase, Phase::Open(_) | Phase::Leaving(_));
        let now_ms = thread.node.clock.now_ms();
        if let Some(task) = state.task.take() {
            task.abort();
        }
        if was_open {
            thread.peer(self.place).closed.add(1);
        }
        if state.trouble != reason || was_open {
            let node = thread.links.name(thread, self.place);
            tracing::warn!(node, reason, waiting = state.under_way.count, "another node cannot be asked");
        }
        let is_silent = state.give_up_ms(self.timeout_ms) <= now_ms;
        let fault = match (was_open, is_silent) {
            (_, true) => Fault::Timeout,
            (true, false) => Fault::Reset,
            (false, false) => Fault::Refused,
        };
        thread.node.note_failed(self.place, fault, reason, now_ms);
        // Who closes an open link is there, or was until now: the next request finds out.
        state.failures = if was_open && !is_silent { 0 } else { state.failures.saturating_add(1) };
        let pause = (PAUSE_MIN * 2_u32.saturating_pow(state.failures.saturating_sub(1))).min(PAUSE_MAX);
        state.retry_at_ms = now_ms + pause.as_millis() as u64;
        reason.clone_into(&mut state.trouble);
        state.phase = Phase::Closed;
        state.out = Outgoing::default();
        state.spare_bytes = 0;
        state.carried = Vec::new();
        state.is_pinged = false;
        state.offset = Offset::default();
        for request in std::mem::take(&mut state.under_way).into_all() {
            fail_over(thread, self.place, request, reason);
        }
    }
}

/// Has a request that the other node does not answer go to a stand-in, or answers it with an error.
#[cold]
fn fail_over(thread: &Rc<Thread>, place: usize, mut request: Forwarded, reason: &str) {
    match request.spare.take().and_then(|spare| spare.instead(thread, place)) {
        Some((place, age_max_ms, spare)) => {
            let bytes = spare.request.clone();
            let frame = spare.frame(&bytes);
            thread.links.forward(thread, place, Forwarded { spare: Some(spare), ..request }, frame, Some(age_max_ms));
        }
        None => refuse(thread, place, request, reason),
    }
}

/// Answers a request that the other node does not.
#[cold]
fn refuse(thread: &Rc<Thread>, place: usize, request: Forwarded, reason: &str) {
    let node = thread.links.name(thread, place);
    let text = match request.dialect {
        Dialect::Resp2 | Dialect::Resp3 => format!("-CLUSTERDOWN node {node} {reason} (slot {})\r\n", request.slot),
        Dialect::Memcached => format!("SERVER_ERROR node {node} {reason}\r\n"),
    };
    thread.stats().forwarded_refused.add(1);
    thread.peer(place).refused.add(1);
    deliver(thread, &request, text.as_bytes());
}

/// Gives an answer to the client that waits for it, and counts it if it is an error, or makes the whole reply one.
fn deliver(thread: &Thread, request: &Forwarded, reply: &[u8]) -> Delivered {
    // Before the client can know of it.
    hot::note_touched(thread, request.touched);
    let delivered = request.owed.deliver(request.number, request.part, reply);
    let told = match &delivered {
        Delivered::Part => return delivered,
        Delivered::Gathered(start) => start,
        Delivered::Taken | Delivered::Nobody => reply,
    };
    let error = match request.dialect {
        Dialect::Resp2 | Dialect::Resp3 => Resp::error_of(told),
        Dialect::Memcached => Memcached::error_of(told),
    };
    if let Some(error) = error {
        thread.stats().count_error(request.command, error);
    }
    delivered
}

/// Connects to a node and makes the connection a link; what was received behind the answers is the first of its frames.
pub(super) async fn connect(node: &Node, place: usize) -> Result<(TcpStream, Vec<u8>), String> {
    let member = node.member.as_ref().expect("there are links only among nodes");
    let Address { host, port } = member.topology().all()[place].address();
    let unreachable = |error: std::io::Error| {
        tracing::debug!(%error, "a link");
        "does not answer".to_owned()
    };
    let mut stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let password = node.live.live().password;
    let mut greeting = Vec::new();
    let mut answers = 1;
    if !password.is_empty() {
        answers += 1;
        put_command(&mut greeting, &["AUTH", &password.0]);
    }
    let (version, epoch) = (LINK_PROTOCOL.to_string(), member.topology().epoch().to_string());
    put_command(&mut greeting, &["CLUSTER", "LINK", &version, member.own().name(), &epoch]);
    stream.write_all(&greeting).await.map_err(unreachable)?;
    let mut received = Vec::new();
    while answers > 0 {
        let Some(end) = received.windows(2).position(|bytes| bytes == b"\r\n") else {
            if received.len() > GREETING_BYTES_MAX || stream.read_buf(&mut received).await.map_err(unreachable)? == 0 {
                return Err("does not answer".to_owned());
            }
            continue;
        };
        let line = String::from_utf8_lossy(&received[..end]).into_owned();
        if line != "+OK" {
            return Err(format!("refuses this one: {}", line.trim_start_matches("-ERR ").trim_start_matches('-')));
        }
        received.drain(..end + 2);
        answers -= 1;
    }
    Ok((stream, received))
}

fn put_command(out: &mut Vec<u8>, words: &[&str]) {
    write!(out, "*{}\r\n", words.len()).expect("a Vec takes every write");
    for word in words {
        write!(out, "${}\r\n{word}\r\n", word.len()).expect("a Vec takes every write");
    }
}

/// Serves an open link until it ends; why it did.
async fn serve(thread: &Rc<Thread>, place: usize, stream: TcpStream, received: Vec<u8>) -> String {
    let link = thread.links.link(place);
    {
        let state = &mut *link.state.borrow_mut();
        state.phase = Phase::Open(stream);
        state.failures = 0;
        state.carried = received;
        state.heard_ms = thread.node.clock.now_ms();
        state.trouble.clear();
        thread.peer(place).opened.add(1);
        tracing::info!(node = thread.links.name(thread, place), thread = thread.id, "linked to another node");
    }
    poll_fn(|task| {
        let state = &mut *link.state.borrow_mut();
        if !state.waker.as_ref().is_some_and(|own| own.will_wake(task.waker())) {
            state.waker = Some(task.waker().clone());
        }
        match state.advance(thread, link, task) {
            Ok(()) => Poll::Pending,
            Err(reason) => Poll::Ready(reason),
        }
    })
    .await
}

impl State {
    /// When nothing that was sent is waited for any longer, unless something is heard before.
    fn give_up_ms(&self, timeout_ms: u64) -> u64 {
        self.heard_ms + timeout_ms
    }

    /// Adds a frame to what is to be sent, all of it at the next turn of the link's task, which comes behind all tasks woken before.
    #[inline]
    fn put(&mut self, frame: Sent<'_>, age_max_ms: Option<u64>) {
        if self.out.is_empty()
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
        self.out.put(frame, age_max_ms);
    }

    /// Asks for a sign of life.
    fn ping(&mut self, now_ms: u64, timeout_ms: u64) {
        if self.under_way.count == 0 {
            self.heard_ms = now_ms;
        }
        (self.pinged_ms, self.is_pinged) = (now_ms, true);
        let until_ms = self.offset.owners(self.give_up_ms(timeout_ms));
        self.put(Sent { id: 0, number: until_ms, kind: frame::PING, bytes: &[] }, None);
    }

    /// Reads, then writes. The other way round would send requests of clients that could be answered.
    fn advance(&mut self, thread: &Rc<Thread>, link: &Link, task: &mut Context<'_>) -> Result<(), String> {
        self.read(thread, link, task)?;
        match self.write(thread, link, task) {
            Poll::Ready(Err(_)) => Err("does not answer".to_owned()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn read(&mut self, thread: &Rc<Thread>, link: &Link, task: &mut Context<'_>) -> Result<(), String> {
        let input = &mut *thread.links.input.borrow_mut();
        if input.is_empty() {
            input.resize(READ_BYTES_MAX, 0);
        }
        if self.offset.is_unknown() {
            // What came behind the answer to the greeting.
            self.take_carried(thread, link, &[])?;
        }
        let mut left = READS_PER_TURN;
        loop {
            let (Phase::Open(stream) | Phase::Leaving(stream)) = &mut self.phase else { return Ok(()) };
            let mut buffer = ReadBuf::new(input);
            match Pin::new(stream).poll_read(task, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => return Err("does not answer".to_owned()),
                Poll::Ready(Ok(())) => {}
            }
            let received = buffer.filled().len();
            if received == 0 {
                return Err("does not answer".to_owned());
            }
            self.heard_ms = thread.node.clock.now_ms();
            thread.node.note_answered(link.place);
            if self.carried.is_empty() {
                let taken = self.take(thread, link, &input[..received])?;
                self.carried = input[taken..received].to_vec();
            } else {
                self.take_carried(thread, link, &input[..received])?;
            }
            left -= 1;
            if left == 0 {
                // The others first.
                task.waker().wake_by_ref();
                return Ok(());
            }
        }
    }

    /// Takes the frames in what was kept and what was received behind it. A long one collects, and is not copied with each read.
    fn take_carried(&mut self, thread: &Rc<Thread>, link: &Link, received: &[u8]) -> Result<(), String> {
        let mut carried = std::mem::take(&mut self.carried);
        carried.extend_from_slice(received);
        let taken = self.take(thread, link, &carried)?;
        if taken < carried.len() {
            carried.drain(..taken);
            self.carried = carried;
        }
        Ok(())
    }

    /// Takes the frames in `input`; how many bytes they have.
    fn take(&mut self, thread: &Rc<Thread>, link: &Link, input: &[u8]) -> Result<usize, String> {
        let mut taken = 0;
        loop {
            match frame::next_answered(&input[taken..]) {
                Next::Frame(frame, len) => {
                    self.take_one(thread, link, frame)?;
                    taken += len;
                }
                Next::Incomplete => return Ok(taken),
                Next::Broken => return Err("does not speak this protocol".to_owned()),
            }
        }
    }

    fn take_one(&mut self, thread: &Rc<Thread>, link: &Link, frame: Answered<'_>) -> Result<(), String> {
        let Answered { id, bytes } = frame;
        if let Some(request) = self.under_way.take(id) {
            self.spare_bytes -= request.spare.as_ref().map_or(0, |spare| spare.request.len());
            if request.spare.is_none() {
                thread.node.note_changed(link.place);
            }
            if !request.owed.has_room(bytes.len()) {
                self.give_back(&request, bytes);
                let reason = format!("has answered, but {OWED_BYTES_MAX} bytes wait for this client to read");
                refuse(thread, link.place, request, &reason);
                return Ok(());
            }
            if deliver(thread, &request, bytes) == Delivered::Nobody {
                self.give_back(&request, bytes);
            }
            return Ok(());
        }
        match (id, bytes.first_chunk::<8>()) {
            (frame::CLOCK, Some(time)) => {
                self.is_pinged = false;
                self.offset.hear(u64::from_le_bytes(*time), thread.node.clock.now_ms());
                // What waited for the owner's time may be sent.
                if let Some(waker) = &self.waker {
                    waker.wake_by_ref();
                }
                Ok(())
            }
            (frame::HOT, _) => {
                if let Some((question, bytes)) = hot::hear_hot(thread, bytes) {
                    self.put(Sent { id: 0, number: question.stamp, kind: frame::LEND, bytes: &bytes }, None);
                }
                Ok(())
            }
            (frame::COPY, _) => hot::hear_copy(thread, bytes).ok_or_else(|| "does not speak this protocol".to_owned()),
            (frame::LEAVE, _) => {
                match std::mem::take(&mut self.phase) {
                    Phase::Open(stream) | Phase::Leaving(stream) => self.phase = Phase::Leaving(stream),
                    other => self.phase = other,
                }
                "ends".clone_into(&mut self.trouble);
                Ok(())
            }
            _ => Err("does not speak this protocol".to_owned()),
        }
    }

    /// Gives back a lease that came for a client that is gone, or that is not told.
    #[cold]
    fn give_back(&mut self, request: &Forwarded, reply: &[u8]) {
        let (Some(key), Some(token)) = (&request.lease_key, token_of_lease(reply)) else { return };
        let mut bytes = b"*3\r\n$4\r\nRELL\r\n".to_vec();
        for word in [&**key, token] {
            write!(bytes, "${}\r\n", word.len()).expect("a Vec takes every write");
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        let id =
            self.under_way.add(Forwarded { owed: request.owed.nobodys(), lease_key: None, spare: None, ..*request });
        self.put(Sent { id, number: 0, kind: Dialect::Resp2 as u8, bytes: &bytes }, None);
    }

    /// Writes what is to be sent. A node that leaves gets the end of the stream when it has answered all.
    fn write(&mut self, thread: &Rc<Thread>, link: &Link, task: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.offset.is_unknown() {
            return Poll::Pending;
        }
        let mut give_up_ms = self.give_up_ms(link.timeout_ms);
        let stream = match &mut self.phase {
            Phase::Open(stream) => stream,
            Phase::Leaving(_) if self.under_way.count == 0 => {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
            }
            Phase::Leaving(stream) => stream,
            Phase::Closed | Phase::Opening => return Poll::Pending,
        };
        while let Some(part) = self.out.next(self.offset.owners(give_up_ms)) {
            let count = ready!(Pin::new(&mut *stream).poll_write(task, part))?;
            if count == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.out.note_sent(count);
            if self.out.unsent() >= BACKLOG_BYTES_MIN {
                self.heard_ms = thread.node.clock.now_ms();
                give_up_ms = self.heard_ms + link.timeout_ms;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The token, if this is GETL's reply with a lease.
fn token_of_lease(reply: &[u8]) -> Option<&[u8]> {
    let rest = reply.strip_prefix(b"*5\r\n$5\r\nLEASE\r\n")?;
    let mut elements = super::reply::Elements::new(rest);
    elements.next()?;
    super::reply::bulk(elements.next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_seen_in_its_reply_and_nothing_else_is() {
        let lease = b"*5\r\n$5\r\nLEASE\r\n$-1\r\n$3\r\n123\r\n:5\r\n:6\r\n";
        assert_eq!(token_of_lease(lease), Some(&b"123"[..]));
        let stale = b"*5\r\n$5\r\nLEASE\r\n$5\r\nol\r\nd\r\n$3\r\n124\r\n:5\r\n:6\r\n";
        assert_eq!(token_of_lease(stale), Some(&b"124"[..]));
        for other in [&b"*5\r\n$3\r\nHIT\r\n$1\r\na\r\n$1\r\n0\r\n:5\r\n:6\r\n"[..], b"-ERR\r\n", b"", &lease[..20]] {
            assert_eq!(token_of_lease(other), None);
        }
    }
}
