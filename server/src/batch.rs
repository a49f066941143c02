//! What the connections of a thread have sent since it last looked at its sockets, executed together.
//!
//! ```text
//! sockets ready ─► connection tasks: read only ─► batch ─► prefetch all keys ─► execute all ─► send all
//! ```
//!
//! Between two system calls the kernel sweeps our code and data out of the nearest caches, and a lookup waits for memory. Requests
//! of many clients at once are therefore treated as a pipeline of one client is: the reads, the lookups and the writes each follow one
//! another, so that each finds its code warm, and the memory of all keys is fetched side by side.

use crate::connection::{Connection, REPLY_BYTES_KEPT, REPLY_BYTES_PER_TURN};
use crate::thread::{Desk, Thread};
use crate::vital::Vital;
use leasehold_keyspace::PREFETCH_KEYS_MAX;
use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Input longer than this is a pipeline of its own, and fetches its keys itself.
const HINT_BYTES_MAX: usize = 256;

/// Connections with input, in the order in which they were read.
#[derive(Default)]
pub(crate) struct Batch {
    staged: Vec<Staged>,
    /// Bytes of the thread's input that they take.
    filled: usize,
    /// Of the task that executes the batch.
    waker: Option<Waker>,
}

/// A connection whose input waits in the thread's buffer.
struct Staged {
    connection: Rc<RefCell<Connection>>,
    input: Range<usize>,
}

impl Batch {
    /// Where the next input goes.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Adds a connection; the first of a batch wakes the task that executes it, which comes behind all tasks woken before.
    pub(crate) fn add(&mut self, connection: Rc<RefCell<Connection>>, input: Range<usize>) {
        self.filled = input.end;
        if self.staged.is_empty()
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
        self.staged.push(Staged { connection, input });
    }

    /// Lets go of all connections: nothing is executed any more.
    pub(crate) fn clear(&mut self) {
        self.staged.clear();
        self.filled = 0;
    }
}

/// Executes batches for as long as the thread runs.
pub(crate) async fn serve(thread: Rc<Thread>) {
    let _vital = Vital("batch");
    poll_fn(|task| {
        let mut desk = thread.desk();
        execute(&thread, &mut desk);
        let waker = &mut desk.batch.waker;
        if !waker.as_ref().is_some_and(|own| own.will_wake(task.waker())) {
            *waker = Some(task.waker().clone());
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Executes what is staged, and sends the replies.
pub(crate) fn execute(thread: &Rc<Thread>, desk: &mut Desk) {
    if desk.batch.staged.is_empty() {
        return;
    }
    desk.work.begin_turn(thread);
    let Desk { input, work, batch } = desk;
    let mut rest = &batch.staged[..];
    while !rest.is_empty() {
        prefetch(thread, input, &rest[..rest.len().min(PREFETCH_KEYS_MAX)]);
        work.reply.buffer_mut().clear();
        let mut ends = [0; PREFETCH_KEYS_MAX];
        let mut count = 0;
        for (Staged { connection, input: span }, end) in rest.iter().zip(&mut ends) {
            let start = work.reply.len();
            let mut connection = connection.borrow_mut();
            // A panic in a command is a bug of ours; it costs this connection and not the others.
            let ended = catch_unwind(AssertUnwindSafe(|| connection.run_staged(work, &input[span.clone()])));
            if ended.is_err() {
                connection.note_panic();
                work.lanes.reset();
                work.reply.truncate(start);
            }
            *end = work.reply.len();
            count += 1;
            if *end >= REPLY_BYTES_PER_TURN {
                break;
            }
        }
        thread.settle(&mut work.turn);
        let (done, others) = rest.split_at(count);
        let mut start = 0;
        for (Staged { connection, .. }, end) in done.iter().zip(ends) {
            connection.borrow_mut().end_staged(work, start..end);
            start = end;
        }
        rest = others;
    }
    let replies = work.reply.buffer_mut();
    replies.clear();
    if replies.capacity() > REPLY_BYTES_KEPT {
        *replies = Vec::new();
    }
    batch.clear();
}

/// Fetches the memory of the first key of each input.
fn prefetch(thread: &Thread, input: &[u8], staged: &[Staged]) {
    let [first, _, ..] = staged else { return };
    let db = first.connection.borrow().db();
    let same_db = staged.iter().filter(|staged| staged.connection.borrow().db() == db);
    let short = same_db.filter(|staged| staged.input.len() <= HINT_BYTES_MAX);
    thread
        .node
        .keyspace
        .prefetch(db, short.filter_map(|staged| staged.connection.borrow().first_key(&input[staged.input.clone()])));
}
