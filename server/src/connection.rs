//! One connection: bytes in, requests executed, replies out. One task each, no task per command.
//!
//! ```text
//! poll ─► flush what is owed ─► parked? hear wakes, watch for hang-up ─► run what is kept ─► read ─► batch: run, write ─┐
//!          ▲                                                                                                            │
//!          └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What was read is executed together with what the thread's other connections have sent ([`crate::batch`]).
//!
//! An idle connection owns no buffers. It reads into the thread's buffer and its replies are written from the thread's
//! reply buffer; only what is left over (half a request, replies the socket did not take) moves to buffers of its own. What
//! a request announces is never allocated, only what arrives.
//!
//! Fairness: a turn ends after `COMMANDS_PER_TURN` commands, [`REPLY_BYTES_PER_TURN`] bytes of replies or one full read.
//! Backpressure: with [`OUTPUT_PAUSE_BYTES`] unsent nothing more is read or executed until the client has taken them.

mod lending;
mod output;
mod running;
mod serving;

use crate::batch;
use crate::front::{Front, Memcached, Protocol, Resp, Unfinished};
use crate::peer::owed::{Delivered, Owed};
use crate::thread::{Desk, Slot, Thread, Work};
use leasehold_command::{Client, Context, Outcome, Parked, give_back};
use leasehold_keyspace::Db;
use leasehold_protocol::RespVersion;
use output::Output;
use serving::Serving;
use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes of one read.
pub(crate) const READ_BYTES_MAX: usize = 64 * 1024;

/// A rest of input up to this length is carried in front of the next read, so that requests are parsed where they were read. A
/// longer one is a big argument on its way and collects in a buffer of its own.
pub(crate) const CARRY_BYTES_MAX: usize = 16 * 1024;

/// Bytes of replies written in a turn before they are sent.
pub(crate) const REPLY_BYTES_PER_TURN: usize = 256 * 1024;

/// A client that lets so much pile up is not served until it reads. Large, because a client may send a whole pipeline
/// before it reads the first reply, and would wait for us for ever.
const OUTPUT_PAUSE_BYTES: usize = 32 * 1024 * 1024;

/// A parked connection goes on being read, to notice a hang-up, up to so many bytes.
const PARKED_INPUT_BYTES_MAX: usize = 256 * 1024;

/// A reply buffer that grew beyond this is given back.
pub(crate) const REPLY_BYTES_KEPT: usize = 512 * 1024;

/// Input discarded after an error before the socket is closed: closing with unread input would reset the connection and the
/// client might never see the error.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// See the module.
pub(crate) struct Connection {
    thread: Rc<Thread>,
    stream: TcpStream,
    slot: Rc<Slot>,
    client: Client,
    protocol: Protocol,
    version: RespVersion,
    /// Input not executed: the rest of a request, or requests that must wait.
    input: Vec<u8>,
    /// The state of a request that is half received.
    unfinished: Option<Box<Unfinished>>,
    /// `input` may hold whole requests.
    runnable: bool,
    /// The peer will send no more.
    ended: bool,
    /// Replies the socket did not take.
    output: Output,
    parked: Option<Box<Parked>>,
    /// The order of the replies, while other nodes work on some of them.
    owed: Option<Rc<Owed>>,
    /// Of a link.
    serving: Option<Box<Serving>>,
    closing: Closing,
    /// Input of this connection waits in the thread's batch.
    is_staged: bool,
    /// The task was woken meanwhile, or has more to do after the batch.
    is_wanted: bool,
}

/// Whether the connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// Once all replies are sent.
    Flush,
    /// As `Flush`; the client may still be sending.
    Linger,
}

/// What a read came to.
#[derive(Clone, Debug)]
enum Ahead {
    /// The peer ended the stream, or the read failed.
    Ended,
    /// See [`Step::Staged`].
    Staged(Range<usize>),
    /// It was run at once.
    Run(Stop),
}

/// Why [`Connection::run`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// All whole requests are done.
    Starved,
    /// The turn is over, more can be run.
    Bound,
    Parked,
    /// Other nodes are to answer some of what was sent on, first.
    Owed,
    /// What follows comes over a link.
    Linked,
    Closing,
}

impl Connection {
    pub(crate) fn new(
        thread: Rc<Thread>,
        stream: TcpStream,
        slot: Rc<Slot>,
        client: Client,
        protocol: Protocol,
    ) -> Self {
        Self {
            thread,
            stream,
            slot,
            client,
            protocol,
            version: RespVersion::V2,
            input: Vec::new(),
            unfinished: None,
            runnable: false,
            ended: false,
            output: Output::default(),
            parked: None,
            owed: None,
            serving: None,
            closing: Closing::No,
            is_staged: false,
            is_wanted: false,
        }
    }
}

/// Serves a connection until it ends.
// Not an `async fn`: its future would hold the connection beside what it makes of it.
pub(crate) fn serve(connection: Connection) -> impl Future<Output = ()> {
    let connection = Rc::new(RefCell::new(connection));
    poll_fn(move |task| {
        let mut this = connection.borrow_mut();
        let thread = Rc::clone(&this.thread);
        let mut desk = thread.desk();
        // A panic in a command is a bug of ours; it costs this connection, not the server. Nothing that other connections see
        // is left half done: shards guard themselves, and the thread's buffers are cleared before use.
        let step = catch_unwind(AssertUnwindSafe(|| this.advance(&mut desk, task)));
        match step {
            Ok(Step::Done) => Poll::Ready(()),
            Ok(Step::Waits) => Poll::Pending,
            Ok(Step::Staged(input)) => {
                desk.batch.add(Rc::clone(&connection), input);
                Poll::Pending
            }
            Err(_) => {
                this.note_panic();
                desk.work.lanes.reset();
                desk.work.reply.buffer_mut().clear();
                Poll::Ready(())
            }
        }
    })
}

/// What a look at a connection came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// It has ended.
    Done,
    /// Something will wake it.
    Waits,
    /// Its input lies in this part of the thread's buffer and waits for the batch.
    Staged(Range<usize>),
}

impl Connection {
    fn advance(&mut self, desk: &mut Desk, task: &mut TaskContext<'_>) -> Step {
        if self.is_staged {
            // Executed first.
            self.is_wanted = true;
            return Step::Waits;
        }
        self.slot.listen(task.waker());
        loop {
            if self.slot.is_killed() {
                return Step::Done;
            }
            let is_paused = self.output.len() >= OUTPUT_PAUSE_BYTES;
            if is_paused {
                // What other nodes have answered, and what is parked for them, waits until the peer reads.
            } else if self.owed.is_some() {
                self.collect();
            } else if self.serving.is_some() && self.hears_frames(desk, task) {
                if self.must_hear_frames(desk) {
                    // The others first.
                    self.slot.wake();
                    return Step::Waits;
                }
                continue;
            }
            if !self.output.is_empty() {
                match self.flush(task) {
                    Poll::Ready(Ok(())) if is_paused => continue,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Step::Done,
                    Poll::Pending => {
                        self.watch_output(&desk.work);
                        if self.closing != Closing::No || self.output.len() >= OUTPUT_PAUSE_BYTES {
                            return Step::Waits;
                        }
                    }
                }
            }
            if self.closing != Closing::No {
                if self.owed.is_some() {
                    return Step::Waits;
                }
                self.finish(desk, task);
                return Step::Done;
            }
            if self.parked.is_some() {
                desk.work.begin_turn(&self.thread);
                self.hear(&mut desk.work);
                self.end_turn(&mut desk.work, task);
                let Some(parked) = &self.parked else { continue };
                let outlives_input = parked.outlives_input();
                if !self.ended {
                    if self.watch(desk, task).is_pending() {
                        return Step::Waits;
                    }
                    self.ended = true;
                }
                // Without the peer, nobody waits for the answer any more.
                return if outlives_input { Step::Waits } else { Step::Done };
            }
            if self.owed.as_ref().is_some_and(|owed| owed.is_full()) {
                return Step::Waits;
            }
            let stop = if self.runnable {
                desk.work.begin_turn(&self.thread);
                self.run_kept(&mut desk.work)
            } else if self.ended
                && self.output.is_empty()
                && self.owed.as_ref().is_some_and(|owed| owed.waits_for_lease())
            {
                // The lease would go to nobody.
                return Step::Done;
            } else if self.ended || (self.thread.is_draining() && self.serving.is_none()) {
                self.closing = Closing::Flush;
                continue;
            } else {
                match self.read_ahead(desk, task) {
                    Poll::Pending => return Step::Waits,
                    Poll::Ready(Ahead::Ended) => {
                        self.ended = true;
                        continue;
                    }
                    Poll::Ready(Ahead::Staged(input)) => return Step::Staged(input),
                    Poll::Ready(Ahead::Run(stop)) => stop,
                }
            };
            self.end_turn(&mut desk.work, task);
            if stop == Stop::Bound {
                // The others first.
                self.slot.wake();
                return Step::Waits;
            }
        }
    }

    /// Reads once, behind the input of the batch. What arrived waits there for the batch, unless there is so much of it that it
    /// is run by itself.
    fn read_ahead(&mut self, desk: &mut Desk, task: &mut TaskContext<'_>) -> Poll<Ahead> {
        let carried = if self.input.len() <= CARRY_BYTES_MAX { self.input.len() } else { 0 };
        let start = self.room_behind_batch(desk, carried);
        let Some(received) = ready!(self.read(desk, start + carried, task)) else {
            return Poll::Ready(Ahead::Ended);
        };
        let end = start + carried + received;
        if carried < self.input.len() {
            self.input.extend_from_slice(&desk.input[start..end]);
            desk.work.begin_turn(&self.thread);
            return Poll::Ready(Ahead::Run(self.run_kept(&mut desk.work)));
        }
        desk.input[start..start + carried].copy_from_slice(&self.input);
        self.input = Vec::new();
        self.is_staged = true;
        // From here on the task hears of new input; the execution of the batch wakes it for what is there already.
        self.is_wanted = received == READ_BYTES_MAX || self.stream.poll_read_ready(task).is_ready();
        Poll::Ready(Ahead::Staged(start..end))
    }

    /// Database of the client.
    pub(crate) fn db(&self) -> Db {
        self.client.db
    }

    /// The key of the first request in `input`, if it is easily seen: a hint for fetching memory ahead.
    pub(crate) fn first_key<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        match self.protocol {
            Protocol::Resp => leasehold_protocol::first_key(input),
            Protocol::Memcached => leasehold_protocol::memcached::first_key(input),
            Protocol::Link => None,
        }
    }

    /// A command panicked: the connection ends at its next turn.
    #[cold]
    pub(crate) fn note_panic(&mut self) {
        self.thread.stats().panics.add(1);
        let command = self.client.last_command.and_then(leasehold_command::name_by_index).unwrap_or_default();
        tracing::error!(client = %self.client.address, command, "a command panicked; closing its connection");
        self.slot.kill();
    }

    /// Executes the staged input; replies are added to those of the batch. [`Connection::end_staged`] follows.
    pub(crate) fn run_staged(&mut self, work: &mut Work, input: &[u8]) {
        self.slot.card.touch(work.turn.now_ms);
        let (consumed, stop) = self.run(work, input);
        self.keep(&input[consumed..]);
        self.runnable = stop != Stop::Starved;
        // Only this connection's task may wait for the peer, or run on.
        self.is_wanted |= stop != Stop::Starved;
    }

    /// Sends what [`Connection::run_staged`] replied, and lets the connection's task go on.
    pub(crate) fn end_staged(&mut self, work: &mut Work, replies: Range<usize>) {
        let slot = Rc::clone(&self.slot);
        slot.with_waker(|waker| self.send(work, replies, &mut TaskContext::from_waker(waker)));
        self.is_staged = false;
        if std::mem::take(&mut self.is_wanted) || !self.output.is_empty() || slot.is_killed() {
            slot.wake();
        }
    }

    /// Where the next input goes: behind that of the batch. The batch is executed first if there is no room for `carried` bytes
    /// and a full read.
    fn room_behind_batch(&self, desk: &mut Desk, carried: usize) -> usize {
        if desk.batch.filled() + carried + READ_BYTES_MAX > desk.input.len() {
            batch::execute(&self.thread, desk);
        }
        desk.batch.filled()
    }

    /// Reads into the thread's buffer from `start` on. `None` at the end of the stream.
    fn read(&mut self, desk: &mut Desk, start: usize, task: &mut TaskContext<'_>) -> Poll<Option<usize>> {
        let mut buffer = ReadBuf::new(&mut desk.input[start..start + READ_BYTES_MAX]);
        // poll_read, not readable + try_read: after a short read it knows without a system call that nothing is left.
        let result = ready!(Pin::new(&mut self.stream).poll_read(task, &mut buffer));
        let received = buffer.filled().len();
        if result.is_err() {
            // Not only the end of what the peer sends: it takes no reply any more.
            self.slot.kill();
        }
        if result.is_err() || received == 0 {
            return Poll::Ready(None);
        }
        self.thread.stats().bytes_in.add(received as u64);
        Poll::Ready(Some(received))
    }

    /// Keeps the rest of the input for later, or gives the buffer back.
    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.input = Vec::new();
        } else {
            self.input.clear();
            self.input.extend_from_slice(rest);
        }
    }

    /// Runs requests from the connection's own buffer.
    fn run_kept(&mut self, work: &mut Work) -> Stop {
        self.slot.card.touch(work.turn.now_ms);
        work.reply.buffer_mut().clear();
        let mut input = std::mem::take(&mut self.input);
        let (consumed, stop) = self.run(work, &input);
        if consumed == input.len() {
            input = Vec::new();
        } else {
            input.drain(..consumed);
        }
        self.input = input;
        self.runnable = stop != Stop::Starved;
        stop
    }

    /// After commands were run: delivers wakes, starts loads, sends replies.
    fn end_turn(&mut self, work: &mut Work, task: &mut TaskContext<'_>) {
        self.thread.settle(&mut work.turn);
        let replies = 0..work.reply.len();
        self.send(work, replies, task);
        let buffer = work.reply.buffer_mut();
        buffer.clear();
        if buffer.capacity() > REPLY_BYTES_KEPT {
            *buffer = Vec::new();
        }
    }

    /// Writes a part of the thread's reply buffer to the socket; what it does not take becomes the connection's own.
    fn send(&mut self, work: &mut Work, replies: Range<usize>, task: &mut TaskContext<'_>) {
        let buffer = work.reply.buffer_mut();
        let (mut sent, end) = (replies.start, replies.end);
        if !self.output.is_empty() {
            self.output.add(&buffer[replies]);
            sent = end;
        }
        while sent < end {
            match Pin::new(&mut self.stream).poll_write(task, &buffer[sent..end]) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.slot.kill();
                    sent = end;
                }
                Poll::Ready(Ok(count)) => {
                    self.thread.stats().bytes_out.add(count as u64);
                    sent += count;
                }
                Poll::Pending => break,
            }
        }
        if sent < end && end == buffer.len() && end - sent >= REPLY_BYTES_KEPT {
            // Long, and nobody's replies come behind: the buffer itself changes hands, nothing is copied.
            self.output.take(std::mem::take(buffer), sent);
        } else if sent < end {
            self.output.add(&buffer[sent..end]);
        }
        self.slot.card.note_buffers(self.input.len(), self.output.len());
        if !self.output.is_empty() {
            self.watch_output(work);
        }
    }

    /// Takes over the replies for which no other node is waited for any more.
    fn collect(&mut self) {
        let Some(owed) = &self.owed else { return };
        let ready = owed.take_ready();
        if owed.is_done() {
            self.owed = None;
            self.client.changes_under_way = false;
        }
        self.slot.is_owed.set(self.owed.is_some());
        if ready.is_empty() {
            return;
        }
        self.output.take(ready, 0);
        self.slot.card.note_buffers(self.input.len(), self.output.len());
    }

    /// Of a link: whether there is something to tell its parked commands, or the other node, or to go on with.
    fn must_hear_frames(&self, desk: &mut Desk) -> bool {
        let Some(serving) = &self.serving else { return false };
        desk.work.begin_turn(&self.thread);
        self.slot.has_wakes()
            || self.slot.is_late(desk.work.turn.now_ms)
            || serving.must_go_on()
            || serving.must_leave(&self.thread)
    }

    /// Of a link: whether there was such a thing.
    fn hears_frames(&mut self, desk: &mut Desk, task: &mut TaskContext<'_>) -> bool {
        if !self.must_hear_frames(desk) {
            return false;
        }
        self.hear_frames(&mut desk.work);
        self.end_turn(&mut desk.work, task);
        true
    }

    /// Sends what is owed. `Pending`: the socket takes no more now.
    fn flush(&mut self, task: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(task, self.output.rest()))?;
            if count == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
            self.thread.stats().bytes_out.add(count as u64);
            self.slot.card.touch(self.thread.node.clock.now_ms());
        }
        self.slot.card.note_buffers(self.input.len(), 0);
        self.slot.over_soft_limit_since_ms.set(None);
        Poll::Ready(Ok(()))
    }

    /// Holds the unsent replies against `client-output-buffer-limit`.
    fn watch_output(&mut self, work: &Work) {
        let unsent = self.output.len() as u64;
        if self.serving.is_some() {
            // Another node is not read while it does not read; that is its limit.
        } else if work.live.output_bytes_hard_max > 0 && unsent > work.live.output_bytes_hard_max {
            self.thread.close_for_output(&self.slot);
        } else if work.live.output_bytes_soft_max > 0 && unsent > work.live.output_bytes_soft_max {
            if self.slot.over_soft_limit_since_ms.get().is_none() {
                self.slot.over_soft_limit_since_ms.set(Some(work.turn.now_ms));
            }
        } else {
            self.slot.over_soft_limit_since_ms.set(None);
        }
    }

    /// Gives the parked command its wakes, and tells it when its time is up.
    fn hear(&mut self, work: &mut Work) {
        let thread = Rc::clone(&self.thread);
        let Work { reply, turn, .. } = work;
        reply.buffer_mut().clear();
        reply.set_version(self.version);
        let now_ms = turn.now_ms;
        // The command stays where it is while it runs: if it panics, the end of the connection takes it out of all queues.
        while let Some(parked) = &mut self.parked {
            let mut context =
                Context { keyspace: &thread.node.keyspace, host: &thread.host, client: &mut self.client, reply, turn };
            let outcome = if let Some(wake) = self.slot.take_wake() {
                if wake.waiter.ticket == context.client.ticket {
                    parked.wake(&mut context, wake.waiter.index, wake.event)
                } else {
                    give_back(context.keyspace, context.turn, wake.event);
                    None
                }
            } else if parked.deadline_ms <= now_ms {
                let deadline_ms = parked.deadline_ms;
                let outcome = parked.time_out(&mut context);
                // A command that waits on must say until when, or this would go on for ever.
                debug_assert!(outcome.is_some() || parked.deadline_ms > deadline_ms);
                outcome
            } else {
                thread.park(&self.slot, parked.deadline_ms);
                return;
            };
            match outcome {
                None => {}
                Some(Outcome::Parked(next)) => self.parked = Some(next),
                Some(outcome) => {
                    if matches!(outcome, Outcome::Close) {
                        self.closing = Closing::Flush;
                    }
                    self.version = context.reply.version();
                    self.parked = None;
                    thread.unpark(&self.slot);
                    let own_part = self.owed.as_ref().and_then(|owed| Some((owed, owed.take_own_part()?)));
                    let gathered;
                    let told = match own_part.map(|(owed, (number, part))| owed.deliver(number, part, reply.as_bytes()))
                    {
                        None => reply.as_bytes(),
                        Some(Delivered::Gathered(start)) => {
                            gathered = start;
                            &gathered[..]
                        }
                        Some(Delivered::Taken | Delivered::Part | Delivered::Nobody) => &[],
                    };
                    let error = match self.protocol {
                        Protocol::Resp | Protocol::Link => Resp::error_of(told),
                        Protocol::Memcached => Memcached::error_of(told),
                    };
                    if let Some(error) = error {
                        thread.stats().count_error(self.client.last_command, error);
                    }
                    match (&self.owed, own_part) {
                        (Some(_), Some(_)) => reply.truncate(0),
                        (Some(owed), None) => running::hold(owed, reply, Some(0)),
                        (None, _) => {}
                    }
                    return;
                }
            }
        }
    }

    /// Watches the peer of a parked command: what it sends is kept for later. Ready when it will send no more.
    fn watch(&mut self, desk: &mut Desk, task: &mut TaskContext<'_>) -> Poll<()> {
        while self.input.len() < PARKED_INPUT_BYTES_MAX {
            let start = self.room_behind_batch(desk, 0);
            let Some(received) = ready!(self.read(desk, start, task)) else {
                return Poll::Ready(());
            };
            self.input.extend_from_slice(&desk.input[start..start + received]);
            self.runnable = true;
        }
        Poll::Pending
    }

    /// All replies are sent. Reads away what the peer of an error may still be sending, then ends.
    fn finish(&mut self, desk: &mut Desk, task: &mut TaskContext<'_>) {
        if self.closing == Closing::Linger {
            let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
            let mut discarded = 0;
            while discarded < LINGER_BYTES_MAX {
                let start = self.room_behind_batch(desk, 0);
                match self.read(desk, start, task) {
                    Poll::Ready(Some(received)) => discarded += received,
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let thread = Rc::clone(&self.thread);
        let mut turn = thread.node.turn();
        if let Some(owed) = self.owed.take()
            && owed.close()
        {
            thread.links.forget(self.client.id);
        }
        self.abandon_frames(&mut turn);
        if let Some(mut parked) = self.parked.take() {
            let mut reply = leasehold_protocol::Reply::new(self.version);
            let mut context = Context {
                keyspace: &thread.node.keyspace,
                host: &thread.host,
                client: &mut self.client,
                reply: &mut reply,
                turn: &mut turn,
            };
            parked.abandon(&mut context);
        }
        thread.unpark(&self.slot);
        while let Some(wake) = self.slot.take_wake() {
            give_back(&thread.node.keyspace, &mut turn, wake.event);
        }
        thread.remove(&self.slot);
        thread.settle(&mut turn);
    }
}
