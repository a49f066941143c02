//! The thread that writes the journal: what waits is one group, with one write and one sync, and is answered then.

use super::{Desk, Direct, lock, tell};
use crate::load;
use crate::node::Node;
use crate::vital::Vital;
use leasehold_command::Change;
use leasehold_keyspace::{Waiter, WakeEvent};
use leasehold_loader_sql::{AppendError, Journal, JournalChange};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Commands of one group at most, and bytes from which on no more are taken.
const GROUP_MAX: usize = 4_096;
const GROUP_BYTES: usize = 8 << 20;

/// What `fsync = "everysec"` says.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What the scribe is told.
pub(crate) enum Order {
    /// A command's changes.
    Write {
        desk: Arc<Desk>,
        changes: Vec<Change>,
        waiter: Option<Waiter>,
        /// The dead letter that it is made of.
        letter: Option<u64>,
    },
    /// Something was flushed.
    Release,
    Stop,
}

struct Submission {
    desk: Arc<Desk>,
    changes: Vec<Change>,
    waiter: Option<Waiter>,
    letter: Option<u64>,
}

/// Runs until it is told to stop.
pub(super) fn run(node: &Arc<Node>, journal: Journal, orders: &Receiver<Order>) {
    let _vital = Vital("journal");
    let mut scribe = Scribe { node, journal, synced: Instant::now(), is_flushed: true };
    loop {
        let order = match orders.recv_timeout(SYNC_EVERY) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut group = Vec::new();
        let (mut is_over, mut bytes) = (false, 0);
        let mut next = order;
        while let Some(order) = next {
            match order {
                Order::Write { desk, changes, waiter, letter } => {
                    bytes += changes
                        .iter()
                        .map(|change| change.value.as_ref().map_or(0, |value| value.len()))
                        .sum::<usize>();
                    group.push(Submission { desk, changes, waiter, letter });
                }
                Order::Release => scribe.is_flushed = true,
                Order::Stop => is_over = true,
            }
            let has_room = group.len() < GROUP_MAX && bytes < GROUP_BYTES;
            next = if has_room { orders.try_recv().ok() } else { None };
        }
        scribe.write(group);
        scribe.tidy();
        if is_over {
            break;
        }
    }
    if let Err(error) = scribe.journal.sync() {
        tracing::error!(?error, "the journal could not be synced at the end");
    }
}

/// Where a submission goes.
enum Way {
    Journal,
    /// To the source itself: there is no room in the journal, or a change of the same key is on that way.
    Source,
    /// It is refused.
    Nowhere(String),
    /// There is nothing left to do.
    Settled,
}

struct Scribe<'n> {
    node: &'n Arc<Node>,
    journal: Journal,
    synced: Instant,
    /// Since segments were last looked at.
    is_flushed: bool,
}

impl Scribe<'_> {
    /// Writes a group, and answers it.
    fn write(&mut self, group: Vec<Submission>) {
        let has_letters = group.iter().any(|submission| submission.letter.is_some());
        let mut admitted = Vec::with_capacity(group.len());
        // Of what is admitted, where a letter may have to give way to it.
        let mut keys = HashSet::new();
        for submission in group {
            if submission.letter.is_some() && submission.changes.iter().any(|change| keys.contains(&change.key)) {
                // The change before it is to be seen as pending.
                self.append(std::mem::take(&mut admitted));
                keys.clear();
            }
            match self.way_of(&submission) {
                Way::Journal => {
                    if has_letters {
                        keys.extend(submission.changes.iter().map(|change| change.key.clone()));
                    }
                    admitted.push(submission);
                }
                Way::Source => {
                    // It passes nothing that came before it.
                    self.append(std::mem::take(&mut admitted));
                    keys.clear();
                    self.go_direct(submission);
                }
                Way::Nowhere(text) => self.refuse(submission, "WRITEFAIL", &text),
                Way::Settled => {}
            }
        }
        self.append(admitted);
    }

    /// Writes submissions with one write and one sync, and answers them.
    fn append(&mut self, group: Vec<Submission>) {
        if group.is_empty() {
            return;
        }
        let record = |desk: &Desk, Change { key, value }: &Change| JournalChange {
            loader: desk.name.clone(),
            db: desk.db.0,
            key: key.clone(),
            value: value.clone(),
        };
        let records: Vec<JournalChange> = group
            .iter()
            .flat_map(|submission| submission.changes.iter().map(|change| record(&submission.desk, change)))
            .collect();
        match self.journal.append(records.iter()) {
            Ok(first) => self.apply(group, first),
            // A letter can wait.
            Err(AppendError::Full) => {
                group.into_iter().filter(|of| of.letter.is_none()).for_each(|of| self.go_direct(of));
            }
            Err(AppendError::Refused(text)) => {
                tracing::error!(error = text, commands = group.len(), "writes were refused");
                // What is flushed already may make room.
                self.is_flushed = true;
                group.into_iter().for_each(|of| self.refuse(of, "WRITEFAIL", &text));
            }
            Err(AppendError::Unknown(text)) => {
                tracing::error!(error = text, commands = group.len(), "writes may be lost, or come back");
                group.into_iter().for_each(|of| self.refuse(of, "UNKNOWNSTATE", &text));
            }
        }
    }

    /// Where this goes.
    fn way_of(&self, Submission { desk, changes, letter, .. }: &Submission) -> Way {
        let Some(behind) = self.node.behind.get() else { return Way::Settled };
        if let Some(number) = letter {
            // A later change of the key is on its way: the letter is of no use any more. Or it was flushed, and has taken the letter
            // along; that is looked at second, because it is done before the change is pending no more.
            if changes.iter().any(|change| lock(&desk.pending).get(&change.key).is_some()) {
                behind.remove_letter(*number);
                return Way::Settled;
            }
            if !behind.has_letter(*number) {
                return Way::Settled;
            }
        }
        if desk.is_halted.load(Ordering::Relaxed) {
            return if letter.is_some() { Way::Settled } else { Way::Nowhere(desk.trouble_text()) };
        }
        let is_passing = {
            let directs = lock(&desk.directs);
            changes.iter().any(|change| directs.keys.contains_key(&change.key))
        };
        if !behind.is_full() && !is_passing {
            return Way::Journal;
        }
        // A letter can wait.
        if letter.is_some() { Way::Settled } else { Way::Source }
    }

    /// Waits for the source, behind all that is pending, unless that is left alone for now.
    fn go_direct(&self, submission: Submission) {
        let Some(behind) = self.node.behind.get() else { return };
        if let Some(why) = behind.refusal(self.node, &submission.desk) {
            return self.refuse(submission, "WRITEFAIL", &why);
        }
        let Submission { desk, changes, waiter, .. } = submission;
        desk.counters.direct.fetch_add(1, Ordering::Relaxed);
        let mut directs = lock(&desk.directs);
        for change in &changes {
            *directs.keys.entry(change.key.clone()).or_insert(0) += 1;
        }
        directs.queue.push_back(Direct { changes, waiter });
        drop(directs);
        desk.work.notify_one();
        desk.hurry.notify_one();
    }

    /// What is in the journal is pending, and shown to readers, and answered.
    fn apply(&self, group: Vec<Submission>, first: u64) {
        let Some(behind) = self.node.behind.get() else { return };
        let mut number = first;
        let now = Instant::now();
        load::end(self.node, |turn| {
            for Submission { desk, changes, .. } in &group {
                let mut coalesced = 0;
                for Change { key, value } in changes {
                    let mut pending = lock(&desk.pending);
                    if pending.put(number, key.clone(), value.clone(), now) {
                        coalesced += 1;
                    } else {
                        behind.pending.fetch_add(1, Ordering::Relaxed);
                    }
                    desk.show(self.node, turn, key, value.as_ref());
                    number += 1;
                }
                desk.counters.journaled.fetch_add(changes.len() as u64, Ordering::Relaxed);
                desk.counters.coalesced.fetch_add(coalesced, Ordering::Relaxed);
            }
        });
        behind.last.store(number - 1, Ordering::Release);
        for Submission { desk, changes, waiter, letter } in group {
            if let Some(number) = letter {
                behind.remove_letter(number);
            }
            if waiter.is_some() {
                desk.counters.under_way.fetch_sub(1, Ordering::Relaxed);
            }
            tell(self.node, waiter, WakeEvent::Written { rows: changes.len() as u64 });
            desk.work.notify_one();
        }
    }

    fn refuse(&self, Submission { desk, waiter, .. }: Submission, word: &str, text: &str) {
        desk.counters.refused.fetch_add(1, Ordering::Relaxed);
        if waiter.is_some() {
            desk.counters.under_way.fetch_sub(1, Ordering::Relaxed);
        }
        let reason = format!("{word} {} {text}", desk.name).into();
        tell(self.node, waiter, WakeEvent::Failed { stale: None, reason });
    }

    /// What is done now and then: a sync, and files that are flushed.
    fn tidy(&mut self) {
        if self.synced.elapsed() >= SYNC_EVERY {
            self.synced = Instant::now();
            if let Err(error) = self.journal.sync() {
                tracing::error!(?error, "a crash of the machine would lose the last writes");
            }
        }
        let Some(behind) = self.node.behind.get() else { return };
        if std::mem::take(&mut self.is_flushed) {
            let lowest = behind.desks.iter().flatten().filter_map(|desk| lock(&desk.pending).lowest()).min();
            if let Err(error) = self.journal.release(lowest.unwrap_or(u64::MAX)) {
                tracing::warn!(%error, "a file of the journal that is flushed cannot be deleted");
                self.is_flushed = true;
            }
        }
        behind.journal_bytes.store(self.journal.bytes(), Ordering::Relaxed);
        behind.journal_syncs.store(self.journal.syncs(), Ordering::Relaxed);
    }
}
