//! Brings what is pending for one loader to its source, in rounds.
//!
//! A round is all that is pending, in the order of its numbers, so that a key that is written all the time has its turn, too. It is cut into
//! batches, one transaction each, of upserts and deletes as they come, which moves the source's position to the last number in it. So
//! every number up to the position is in the source, or has been overtaken by a later one of its key, or is a dead letter; and an answer that
//! was lost does no harm: the next try finds the position moved.

use super::pending::Due;
use super::{Behind, Desk, Direct, lock, tell};
use crate::load;
use crate::node::Node;
use crate::vital::Vital;
use leasehold_keyspace::WakeEvent;
use leasehold_loader_api::{Change, Step, Stepped, WriteError};
use leasehold_loader_sql::{DeadLetter, JournalChange};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The first pause after a failure; each is twice as long, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Nobody else may write for this journal, and somebody did.
struct Halted;

struct Flusher {
    node: Arc<Node>,
    desk: Arc<Desk>,
    /// The source's, as far as is known.
    position: u64,
    /// The highest number of a dead letter.
    parked: u64,
    pause: Duration,
    /// Taken from the queue, and not begun.
    directs: Vec<Direct>,
}

/// Flushes until the runtime ends.
pub(super) async fn run(node: Arc<Node>, desk: Arc<Desk>) {
    let _vital = Vital("flusher");
    let parked = desk.parked_before;
    let mut flusher = Flusher { node, desk, position: 0, parked, pause: PAUSE_MIN, directs: Vec::new() };
    let Err(Halted) = flusher.serve().await;
    // Nothing more can be written, and who waits is told so.
    loop {
        flusher.fail_directs("WRITEFAIL", "the source is at a position that this journal did not write");
        flusher.desk.work.notified().await;
    }
}

impl Flusher {
    fn behind(&self) -> &Behind {
        self.node.behind.get().expect("flushers are started after it was set")
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Halted> {
        self.find_position().await?;
        loop {
            while !self.has_work() {
                self.desk.work.notified().await;
            }
            if !self.behind().is_draining.load(Ordering::Relaxed) {
                // Whoever is in a hurry says so.
                let hurry = self.desk.hurry.notified();
                let _ = tokio::time::timeout(self.behind().config.flush_interval, hurry).await;
            }
            // These first: what was pending when they came is in the round then.
            self.directs.extend(lock(&self.desk.directs).queue.drain(..));
            let round = lock(&self.desk.pending).round();
            let batch_max = self.behind().config.flush_batch;
            for batch in round.chunks(batch_max) {
                self.flush(batch).await?;
            }
            self.pass_parked().await?;
            self.write_directs().await;
        }
    }

    fn has_work(&self) -> bool {
        lock(&self.desk.pending).len() > 0 || !lock(&self.desk.directs).queue.is_empty()
    }

    /// Asks the source how far it is; what it has is not pending any more.
    async fn find_position(&mut self) -> Result<(), Halted> {
        self.position = loop {
            match self.desk.loader.position(self.desk.journal.clone()).await {
                Ok(position) => break position,
                Err(error) => {
                    self.fail_directs("WRITEFAIL", &error.to_string());
                    self.failed(&error.to_string()).await;
                }
            }
        };
        self.succeeded();
        let floor = self.behind().floor;
        if self.position > floor {
            return Err(self.halt(self.position));
        }
        let mut applied = lock(&self.desk.pending).round();
        applied.retain(|due| due.number <= self.position);
        self.settle(&applied);
        self.pass_parked().await
    }

    /// Moves the position past dead letters: once they are dropped, the journal must not bring them back.
    async fn pass_parked(&mut self) -> Result<(), Halted> {
        let lowest = lock(&self.desk.pending).lowest();
        if self.parked <= self.position || lowest.is_some_and(|lowest| lowest <= self.parked) {
            return Ok(());
        }
        let step = Step { journal: self.desk.journal.clone(), from: self.position, to: self.parked };
        match self.desk.loader.write_step(Vec::new(), step).await {
            Ok(Stepped::Now | Stepped::Before) => self.position = self.parked,
            Ok(Stepped::Elsewhere { at }) => return Err(self.halt(at)),
            // Until the next round they are skipped by their letters.
            Err(error) => {
                tracing::debug!(loader = self.desk.name, %error, "the position was not moved past dead letters")
            }
        }
        Ok(())
    }

    /// Brings a batch to the source, or parks of it what the source refuses.
    async fn flush(&mut self, batch: &[Due]) -> Result<(), Halted> {
        let mut parts = vec![(batch, 0)];
        while let Some((part, attempts)) = parts.pop() {
            let Some(last) = part.last() else { continue };
            let step = Step { journal: self.desk.journal.clone(), from: self.position, to: last.number };
            let changes = part.iter().map(|due| Change { key: due.key.clone(), value: due.value.clone() }).collect();
            match self.desk.loader.write_step(changes, step).await {
                Ok(Stepped::Now | Stepped::Before) => {
                    self.position = last.number;
                    self.succeeded();
                    self.desk.counters.flushed.fetch_add(part.len() as u64, Ordering::Relaxed);
                    self.settle(part);
                }
                Ok(Stepped::Elsewhere { at }) => return Err(self.halt(at)),
                Err(WriteError::Refused(_)) if part.len() > 1 => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([(right, 0), (left, 0)]);
                }
                Err(WriteError::Refused(reason)) => {
                    let attempts = attempts + 1;
                    if attempts >= self.behind().config.attempts_max && self.park(last, attempts, &reason) {
                        self.pause = PAUSE_MIN;
                        self.pass_parked().await?;
                    } else {
                        self.failed(&format!("{}: {reason}", last.key.escape_ascii())).await;
                        parts.push((part, attempts));
                    }
                }
                Err(error @ (WriteError::Unavailable(_) | WriteError::Unknown(_))) => {
                    self.fail_directs("WRITEFAIL", &error.to_string());
                    self.failed(&error.to_string()).await;
                    parts.push((part, attempts));
                }
            }
        }
        Ok(())
    }

    /// The source has these, or will never have them.
    fn settle(&self, part: &[Due]) {
        let (node, desk, behind) = (&self.node, &self.desk, self.behind());
        let mut gone = 0;
        load::end(node, |turn| {
            turn.actor = leasehold_keyspace::Actor::Write;
            for due in part {
                let mut pending = lock(&desk.pending);
                if pending.remove(due.number, &due.key) {
                    gone += 1;
                    node.keyspace.update(turn, desk.db, &due.key, |slot| slot.remove());
                }
            }
        });
        behind.pending.fetch_sub(gone, Ordering::Relaxed);
        behind.forget_letters(desk, part);
        // An error says that the server ends.
        let _ = behind.orders.send(super::scribe::Order::Release);
        behind.tell_waits(node);
    }

    /// Makes a change that its source refuses a dead letter. `false`: there is no room for it.
    fn park(&mut self, due: &Due, attempts: u32, reason: &str) -> bool {
        let desk = Arc::clone(&self.desk);
        let behind = self.behind();
        if lock(&desk.pending).is_later(due.number, &due.key) {
            // Another has taken its place, and may do.
            return true;
        }
        let change =
            JournalChange { loader: desk.name.clone(), db: desk.db.0, key: due.key.clone(), value: due.value.clone() };
        let parked_at_ms = super::unix_ms();
        let letter = DeadLetter { number: due.number, change, attempts, parked_at_ms, reason: reason.to_owned() };
        // It waits for the disk, which others on this thread need not.
        let parked = tokio::task::block_in_place(|| behind.park(letter));
        if let Err(error) = parked {
            desk.note_trouble(&format!("no room for another dead letter: {error}"));
            return false;
        }
        tracing::error!(loader = desk.name, key = %due.key.escape_ascii(), attempts, reason, "a change is a dead letter");
        desk.counters.parked.fetch_add(1, Ordering::Relaxed);
        self.parked = self.parked.max(due.number);
        self.settle(std::slice::from_ref(due));
        true
    }

    /// Writes through what found no room in the journal.
    async fn write_directs(&mut self) {
        let directs = std::mem::take(&mut self.directs);
        if directs.is_empty() {
            return;
        }
        let changes = |directs: &[Direct]| -> Vec<Change> {
            let of =
                |change: &leasehold_command::Change| Change { key: change.key.clone(), value: change.value.clone() };
            directs.iter().flat_map(|direct| direct.changes.iter().map(of)).collect()
        };
        match self.desk.loader.write(changes(&directs)).await {
            // One of them spoils it for all.
            Err(WriteError::Refused(_)) if directs.len() > 1 => {
                for direct in directs {
                    let written = self.desk.loader.write(changes(std::slice::from_ref(&direct))).await;
                    self.answer_directs(vec![direct], written);
                }
            }
            written => self.answer_directs(directs, written),
        }
    }

    fn answer_directs(&self, directs: Vec<Direct>, written: Result<Vec<u64>, WriteError>) {
        let (node, desk) = (&self.node, &self.desk);
        if matches!(written, Ok(_) | Err(WriteError::Unknown(_))) {
            load::end(node, |turn| {
                for change in directs.iter().flat_map(|direct| &direct.changes) {
                    node.keyspace.update(turn, desk.db, &change.key, |slot| slot.remove());
                }
            });
        }
        match written {
            Ok(rows) => {
                let mut rows = rows.into_iter();
                for direct in directs {
                    let rows = rows.by_ref().take(direct.changes.len()).filter(|&rows| rows > 0).count() as u64;
                    self.finish(direct, WakeEvent::Written { rows });
                }
            }
            Err(error) => {
                let word = if matches!(error, WriteError::Unknown(_)) { "UNKNOWNSTATE" } else { "WRITEFAIL" };
                directs.into_iter().for_each(|direct| self.fail_direct(direct, word, &error.to_string()));
            }
        }
    }

    /// Tells those who wait for the source that it is not there.
    fn fail_directs(&mut self, word: &str, text: &str) {
        self.directs.extend(lock(&self.desk.directs).queue.drain(..));
        for direct in std::mem::take(&mut self.directs) {
            self.fail_direct(direct, word, text);
        }
    }

    fn fail_direct(&self, direct: Direct, word: &str, text: &str) {
        self.desk.counters.refused.fetch_add(1, Ordering::Relaxed);
        let reason = format!("{word} {} {text}", self.desk.name).into();
        self.finish(direct, WakeEvent::Failed { stale: None, reason });
    }

    fn finish(&self, Direct { changes, waiter }: Direct, event: WakeEvent) {
        let mut directs = lock(&self.desk.directs);
        for change in &changes {
            if let Some(count) = directs.keys.get_mut(&change.key) {
                *count -= 1;
                if *count == 0 {
                    directs.keys.remove(&change.key);
                }
            }
        }
        drop(directs);
        self.desk.counters.under_way.fetch_sub(1, Ordering::Relaxed);
        tell(&self.node, waiter, event);
    }

    async fn failed(&mut self, text: &str) {
        self.desk.counters.retries.fetch_add(1, Ordering::Relaxed);
        self.desk.note_trouble(text);
        // Spread over a half of it, so that many servers do not come back to a source at the same moment.
        let half = self.pause / 2;
        let share = self.node.turn().random() % 1_000;
        tokio::time::sleep(half + half * share as u32 / 1_000).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn succeeded(&mut self) {
        self.pause = PAUSE_MIN;
        self.desk.end_trouble();
    }

    fn halt(&self, at: u64) -> Halted {
        let desk = &self.desk;
        let text = format!(
            "the source has change {at} of the journal {}, which did not write that: its directory is used elsewhere, or was \
             restored from a copy; nothing more is taken or flushed",
            desk.journal
        );
        tracing::error!(loader = desk.name, error = text, "writing behind has stopped");
        *lock(&desk.trouble) = Some(text);
        desk.is_halted.store(true, Ordering::Relaxed);
        Halted
    }
}
