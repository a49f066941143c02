//! Brings what is pending for one loader to its source, in rounds.
//!
//! A round is all that is pending, in the order of its numbers, so that a key that is written all the time has its turn, too. It is cut into
//! batches, one transaction each, of upserts and deletes as they come, which moves the source's position to the last number in it. So
//! every number up to the position is in the source, or has been overtaken by a later one of its key, or is a dead letter; and an answer that
//! was lost does no harm: the next try finds the position moved.
//!
//! What the source refuses for what is in it is found by halving its batch, and parked. What it takes from nobody now is tried again for
//! ever. Each try passes the breakers and counts in them, as a load does.

use super::pending::Due;
use super::{Behind, Desk, Direct, lock, tell};
use crate::load;
use crate::load::gate::Ending;
use crate::node::Node;
use crate::vital::Vital;
use leasehold_keyspace::WakeEvent;
use leasehold_loader_api::{Change, Step, Stepped, WriteError};
use leasehold_loader_sql::{DeadLetter, JournalChange};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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
    /// Where the source may be instead: nobody has heard whether that was committed.
    position_in_doubt: Option<u64>,
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
    let mut flusher =
        Flusher { node, desk, position: 0, position_in_doubt: None, parked, pause: PAUSE_MIN, directs: Vec::new() };
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
        self.position = self.ask_position().await;
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

    async fn ask_position(&mut self) -> u64 {
        loop {
            match self.asked(|| self.desk.loader.position(self.desk.journal.clone())).await {
                Ok(position) => return position,
                Err(error) => self.pause_refusing_directs(&error.to_string()).await,
            }
        }
    }

    /// Asks the source something, if the breakers let it through.
    async fn asked<T, F: Future<Output = Result<T, WriteError>>>(
        &self,
        ask: impl FnOnce() -> F,
    ) -> Result<T, WriteError> {
        let gate = self.node.loaders.gate(self.desk.index).expect("a loader that writes behind is one of the loaders");
        let entry = gate.enter(Instant::now()).map_err(WriteError::Unavailable)?;
        let answer = ask().await;
        gate.leave(Instant::now(), entry, &Ending::of_write(&answer));
        answer
    }

    /// Brings changes to the source, which moves its position to a number.
    async fn step(&mut self, changes: Vec<Change>, to: u64) -> Result<Result<(), WriteError>, Halted> {
        loop {
            let step = Step { journal: self.desk.journal.clone(), from: self.position, to };
            match self.asked(|| self.desk.loader.write_step(changes.clone(), step)).await {
                Ok(Stepped::Now | Stepped::Before) => {
                    (self.position, self.position_in_doubt) = (to, None);
                    return Ok(Ok(()));
                }
                Ok(Stepped::Elsewhere { at }) if self.position_in_doubt == Some(at) => {
                    (self.position, self.position_in_doubt) = (at, None);
                }
                Ok(Stepped::Elsewhere { at }) if at < self.position => self.go_back(at).await?,
                Ok(Stepped::Elsewhere { at }) => return Err(self.halt(at)),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// The source has lost what it had committed: it was restored from a copy, or another server took over that had not heard of it
    /// yet. What is pending goes on from there.
    async fn go_back(&mut self, at: u64) -> Result<(), Halted> {
        let before = self.position;
        tracing::error!(
            loader = self.desk.name,
            at,
            before,
            "the source has lost changes that it had committed; they are in no journal any more"
        );
        self.desk.counters.lost_positions.fetch_add(1, Ordering::Relaxed);
        // The row may be gone, and is made again.
        self.position = self.ask_position().await;
        self.position_in_doubt = None;
        if self.position > before { Err(self.halt(self.position)) } else { Ok(()) }
    }

    /// Moves the position past dead letters: once they are dropped, the journal must not bring them back.
    async fn pass_parked(&mut self) -> Result<(), Halted> {
        let lowest = lock(&self.desk.pending).lowest();
        if self.parked <= self.position || lowest.is_some_and(|lowest| lowest <= self.parked) {
            return Ok(());
        }
        let to = self.parked;
        // If not, until the next round they are skipped by their letters.
        if let Err(error) = self.step(Vec::new(), to).await? {
            tracing::debug!(loader = self.desk.name, %error, "the position was not moved past dead letters");
            if matches!(error, WriteError::Unknown(_)) {
                self.position_in_doubt = Some(to);
            }
        }
        Ok(())
    }

    /// Brings a batch to the source, or parks of it what the source refuses.
    async fn flush(&mut self, batch: &[Due]) -> Result<(), Halted> {
        let mut parts = vec![(batch, 0)];
        while let Some((part, attempts)) = parts.pop() {
            let Some(last) = part.last() else { continue };
            let changes = part.iter().map(|due| Change { key: due.key.clone(), value: due.value.clone() }).collect();
            match self.step(changes, last.number).await? {
                Ok(()) => {
                    self.succeeded();
                    self.desk.counters.flushed.fetch_add(part.len() as u64, Ordering::Relaxed);
                    self.settle(part);
                }
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
                        self.desk.note_trouble(&format!("{}: {reason}", last.key.escape_ascii()));
                        let pause = self.next_pause();
                        tokio::time::sleep(pause).await;
                        parts.push((part, attempts));
                    }
                }
                Err(error) => {
                    self.pause_refusing_directs(&error.to_string()).await;
                    parts.push((part, attempts));
                }
            }
        }
        Ok(())
    }

    /// The source has these, or will never have them.
    fn settle(&self, part: &[Due]) {
        let (node, desk, behind) = (&self.node, &self.desk, self.behind());
        // First: a letter that is replayed now finds a later change of its key pending, or is gone.
        behind.forget_letters(desk, part.iter().map(|due| (&due.key, due.number)));
        let mut gone = 0;
        load::end(node, |turn| {
            turn.actor = leasehold_keyspace::Actor::Write;
            for due in part {
                let mut pending = lock(&desk.pending);
                if pending.remove(due.number, &due.key) {
                    gone += 1;
                    node.keyspace.update(turn, desk.db, &due.key, |slot| slot.remove_pinned());
                }
            }
        });
        behind.pending.fetch_sub(gone, Ordering::Relaxed);
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
        match self.asked(|| self.desk.loader.write(changes(&directs))).await {
            // One of them spoils it for all.
            Err(WriteError::Refused(_)) if directs.len() > 1 => {
                for direct in directs {
                    let one = changes(std::slice::from_ref(&direct));
                    let written = self.asked(|| self.desk.loader.write(one)).await;
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
                // No later one than these is in the source.
                let keys = directs.iter().flat_map(|direct| &direct.changes).map(|change| (&change.key, u64::MAX));
                self.behind().forget_letters(desk, keys);
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

    /// Waits until the source is to be asked again. Who waits for it is told so, also who comes meanwhile.
    async fn pause_refusing_directs(&mut self, text: &str) {
        // An open breaker says for how long, another number each time; what has opened it is known.
        let is_shut = self.behind().refusal(&self.node, &self.desk).is_some();
        if !is_shut || !self.desk.has_trouble() {
            self.desk.note_trouble(text);
        }
        let end = tokio::time::Instant::now() + self.next_pause();
        let desk = Arc::clone(&self.desk);
        loop {
            self.fail_directs("WRITEFAIL", text);
            if tokio::time::timeout_at(end, desk.work.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Each is twice as long as the one before.
    fn next_pause(&mut self) -> Duration {
        self.desk.counters.retries.fetch_add(1, Ordering::Relaxed);
        // Spread over a half of it, so that many servers do not come back to a source at the same moment.
        let half = self.pause / 2;
        let share = self.node.turn().random() % 1_000;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        half + half * share as u32 / 1_000
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
