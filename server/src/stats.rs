//! Counters that only their own thread writes, summed when somebody asks.
//!
//! A counter is an atomic so that `INFO` may read it from another thread; the owner adds with a plain load and store, which
//! costs no more than an ordinary variable. `CONFIG RESETSTAT` cannot clear what another thread adds to, so the
//! totals at the reset are kept and subtracted.

use leasehold_command::{Count, commands_total};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number written by one thread and read by all.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread may.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        // Relaxed: one writer, and readers want a recent number, not an order between numbers.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The value now, or a little before.
    pub(crate) fn value(&self) -> u64 {
        // Relaxed: see `add`.
        self.0.load(Ordering::Relaxed)
    }
}

/// What one command was used for.
#[derive(Debug, Default)]
pub(crate) struct CommandCounters {
    pub(crate) calls: Counter,
    /// Calls whose time was taken, and their time.
    pub(crate) timed_calls: Counter,
    pub(crate) timed_nanos: Counter,
    pub(crate) failed: Counter,
    pub(crate) rejected: Counter,
}

/// What one reactor thread has to do with one other node.
#[derive(Debug, Default)]
pub(crate) struct PeerCounters {
    /// Links that were opened, and that have ended: one more or as many.
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    /// Sent on to it.
    pub(crate) forwarded: Counter,
    /// Answered with an error as it did not.
    pub(crate) refused: Counter,
    /// Reads of its keys that were sent to a stand-in.
    pub(crate) failovers: Counter,
}

/// The counters of one reactor thread. Aligned so that two threads never write one cache line (or its prefetched pair).
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct ThreadStats {
    pub(crate) commands_total: Counter,
    pub(crate) turns: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) connections_received: Counter,
    /// Closed because their unsent replies went over the limit.
    pub(crate) output_limit_closes: Counter,
    /// Closed because they were idle for longer than `timeout`.
    pub(crate) idle_closes: Counter,
    pub(crate) protocol_errors: Counter,
    pub(crate) panics: Counter,
    /// Sent on to other nodes.
    pub(crate) forwarded: Counter,
    /// Of other nodes' clients, executed here.
    pub(crate) forwarded_here: Counter,
    /// Of those, not executed: too late, too much waits for its client, or unreadable.
    pub(crate) forwarded_here_refused: Counter,
    /// Of these, for nodes that did not answer.
    pub(crate) stood_in: Counter,
    /// Answered with an error as the other node did not.
    pub(crate) forwarded_refused: Counter,
    /// Words to other nodes that a key is hot.
    pub(crate) hot_told: Counter,
    /// Copies of entries given to other nodes.
    pub(crate) copies_lent: Counter,
    /// Reads answered from copies of other nodes' entries.
    pub(crate) copy_hits: Counter,
    /// Words of other nodes that copies of theirs are wrong.
    pub(crate) copy_drops: Counter,
    /// By [`Count`].
    pub(crate) memcached: [Counter; Count::TOTAL],
    /// By the index that `table::find` gives.
    pub(crate) commands: Box<[CommandCounters]>,
    /// Error replies by their code; errors are rare enough for a lock.
    errors: Mutex<BTreeMap<String, u64>>,
}

/// Different error codes counted; a code is the first word of an error, some of which a client can choose.
const ERROR_CODES_MAX: usize = 128;

impl ThreadStats {
    pub(crate) fn new() -> Self {
        Self {
            commands_total: Counter::default(),
            turns: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            connections_received: Counter::default(),
            output_limit_closes: Counter::default(),
            idle_closes: Counter::default(),
            protocol_errors: Counter::default(),
            panics: Counter::default(),
            forwarded: Counter::default(),
            forwarded_here: Counter::default(),
            forwarded_here_refused: Counter::default(),
            stood_in: Counter::default(),
            forwarded_refused: Counter::default(),
            hot_told: Counter::default(),
            copies_lent: Counter::default(),
            copy_hits: Counter::default(),
            copy_drops: Counter::default(),
            memcached: Default::default(),
            commands: (0..commands_total()).map(|_| CommandCounters::default()).collect(),
            errors: Mutex::default(),
        }
    }

    /// Counts an error reply, of which `text` begins with its code. `index` is the command, if there is such a command.
    #[cold]
    pub(crate) fn count_error(&self, index: Option<u16>, text: &[u8]) {
        let text = &text[..text.len().min(64)];
        let end = text.iter().position(|byte| byte.is_ascii_whitespace()).unwrap_or(text.len());
        let code = String::from_utf8_lossy(&text[..end]);
        if let Some(counters) = index.and_then(|index| self.commands.get(usize::from(index))) {
            // What `execute` refuses before the handler runs.
            if matches!(&*code, "NOAUTH" | "OOM") || text.starts_with(b"ERR wrong number of arguments") {
                counters.rejected.add(1);
            } else {
                counters.failed.add(1);
            }
        }
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = errors.get_mut(&*code) {
            *count += 1;
        } else if errors.len() < ERROR_CODES_MAX {
            errors.insert(code.into_owned(), 1);
        }
    }
}

/// Sums over threads at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) commands_total: u64,
    pub(crate) turns: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) connections_received: u64,
    pub(crate) connections_rejected: u64,
    pub(crate) output_limit_closes: u64,
    pub(crate) idle_closes: u64,
    pub(crate) protocol_errors: u64,
    pub(crate) panics: u64,
    pub(crate) forwarded: u64,
    pub(crate) forwarded_here: u64,
    pub(crate) forwarded_here_refused: u64,
    pub(crate) stood_in: u64,
    pub(crate) forwarded_refused: u64,
    pub(crate) hot_told: u64,
    pub(crate) copies_lent: u64,
    pub(crate) copy_hits: u64,
    pub(crate) copy_drops: u64,
    pub(crate) memcached: [u64; Count::TOTAL],
    pub(crate) commands: Vec<CommandTotals>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// By the place of the node.
    pub(crate) peers: Vec<PeerTotals>,
}

/// What was sent on to one other node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerTotals {
    pub(crate) forwarded: u64,
    pub(crate) refused: u64,
}

/// Sums of one command.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommandTotals {
    pub(crate) calls: u64,
    pub(crate) timed_calls: u64,
    pub(crate) timed_nanos: u64,
    pub(crate) failed: u64,
    pub(crate) rejected: u64,
}

impl Totals {
    /// The sum over `threads`.
    pub(crate) fn of<'a>(threads: impl Iterator<Item = &'a ThreadStats>) -> Self {
        let mut totals = Self { commands: vec![CommandTotals::default(); commands_total()], ..Self::default() };
        for stats in threads {
            totals.commands_total += stats.commands_total.value();
            totals.turns += stats.turns.value();
            totals.bytes_in += stats.bytes_in.value();
            totals.bytes_out += stats.bytes_out.value();
            totals.connections_received += stats.connections_received.value();
            totals.output_limit_closes += stats.output_limit_closes.value();
            totals.idle_closes += stats.idle_closes.value();
            totals.protocol_errors += stats.protocol_errors.value();
            totals.panics += stats.panics.value();
            totals.forwarded += stats.forwarded.value();
            totals.forwarded_here += stats.forwarded_here.value();
            totals.forwarded_here_refused += stats.forwarded_here_refused.value();
            totals.stood_in += stats.stood_in.value();
            totals.forwarded_refused += stats.forwarded_refused.value();
            totals.hot_told += stats.hot_told.value();
            totals.copies_lent += stats.copies_lent.value();
            totals.copy_hits += stats.copy_hits.value();
            totals.copy_drops += stats.copy_drops.value();
            for (total, counter) in totals.memcached.iter_mut().zip(&stats.memcached) {
                *total += counter.value();
            }
            for (total, counters) in totals.commands.iter_mut().zip(&stats.commands) {
                total.calls += counters.calls.value();
                total.timed_calls += counters.timed_calls.value();
                total.timed_nanos += counters.timed_nanos.value();
                total.failed += counters.failed.value();
                total.rejected += counters.rejected.value();
            }
            for (code, count) in &*stats.errors.lock().unwrap_or_else(PoisonError::into_inner) {
                *totals.errors.entry(code.clone()).or_default() += count;
            }
        }
        totals
    }

    /// Adds what a thread has had to do with each other node.
    pub(crate) fn add_peers(&mut self, peers: &[PeerCounters]) {
        self.peers.resize(peers.len(), PeerTotals::default());
        for (total, peer) in self.peers.iter_mut().zip(peers) {
            total.forwarded += peer.forwarded.value();
            total.refused += peer.refused.value();
        }
    }

    /// What was added since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut errors = self.errors.clone();
        errors.retain(|code, count| {
            *count -= before.errors.get(code).copied().unwrap_or(0).min(*count);
            *count > 0
        });
        let mut commands = self.commands.clone();
        for (now, before) in commands.iter_mut().zip(&before.commands) {
            now.calls -= before.calls.min(now.calls);
            now.timed_calls -= before.timed_calls.min(now.timed_calls);
            now.timed_nanos -= before.timed_nanos.min(now.timed_nanos);
            now.failed -= before.failed.min(now.failed);
            now.rejected -= before.rejected.min(now.rejected);
        }
        let mut peers = self.peers.clone();
        for (now, before) in peers.iter_mut().zip(&before.peers) {
            now.forwarded -= before.forwarded.min(now.forwarded);
            now.refused -= before.refused.min(now.refused);
        }
        let mut memcached = self.memcached;
        for (now, before) in memcached.iter_mut().zip(&before.memcached) {
            *now -= (*before).min(*now);
        }
        Self {
            memcached,
            commands_total: self.commands_total.saturating_sub(before.commands_total),
            turns: self.turns.saturating_sub(before.turns),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            connections_received: self.connections_received.saturating_sub(before.connections_received),
            connections_rejected: self.connections_rejected.saturating_sub(before.connections_rejected),
            output_limit_closes: self.output_limit_closes.saturating_sub(before.output_limit_closes),
            idle_closes: self.idle_closes.saturating_sub(before.idle_closes),
            protocol_errors: self.protocol_errors.saturating_sub(before.protocol_errors),
            panics: self.panics.saturating_sub(before.panics),
            forwarded: self.forwarded.saturating_sub(before.forwarded),
            forwarded_here: self.forwarded_here.saturating_sub(before.forwarded_here),
            forwarded_here_refused: self.forwarded_here_refused.saturating_sub(before.forwarded_here_refused),
            stood_in: self.stood_in.saturating_sub(before.stood_in),
            forwarded_refused: self.forwarded_refused.saturating_sub(before.forwarded_refused),
            hot_told: self.hot_told.saturating_sub(before.hot_told),
            copies_lent: self.copies_lent.saturating_sub(before.copies_lent),
            copy_hits: self.copy_hits.saturating_sub(before.copy_hits),
            copy_drops: self.copy_drops.saturating_sub(before.copy_drops),
            commands,
            errors,
            peers,
        }
    }
}

impl CommandTotals {
    /// Time of all calls in µs, scaled up from those that were timed.
    pub(crate) fn usec(&self) -> u64 {
        if self.timed_calls == 0 {
            return 0;
        }
        (u128::from(self.timed_nanos) * u128::from(self.calls) / u128::from(self.timed_calls) / 1_000) as u64
    }
}

/// Samples in a rate: with one every 100 ms, the mean of the last 1.6 s, as in Redis.
const RATE_SAMPLES: usize = 16;

/// The rate of a growing number, averaged over its last samples.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    last: u64,
    last_at_ms: u64,
    per_second: [u64; RATE_SAMPLES],
    next: usize,
}

impl Rate {
    /// Takes a sample.
    pub(crate) fn sample(&mut self, value: u64, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.last_at_ms);
        if elapsed_ms == 0 {
            return;
        }
        if self.last_at_ms != 0 {
            self.per_second[self.next] = value.saturating_sub(self.last).saturating_mul(1_000) / elapsed_ms;
            self.next = (self.next + 1) % RATE_SAMPLES;
        }
        self.last = value;
        self.last_at_ms = now_ms;
    }

    /// The mean of the samples, a second.
    pub(crate) fn per_second(&self) -> u64 {
        self.per_second.iter().sum::<u64>() / RATE_SAMPLES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_subtracts_what_was_there_before() {
        let stats = ThreadStats::new();
        stats.commands_total.add(5);
        stats.count_error(None, b"ERR no such thing\r\n");
        let before = Totals::of(std::iter::once(&stats));
        stats.commands_total.add(2);
        stats.count_error(None, b"WRONGTYPE Operation\r\n");
        let since = Totals::of(std::iter::once(&stats)).since(&before);
        assert_eq!(since.commands_total, 2);
        assert_eq!(since.errors.into_iter().collect::<Vec<_>>(), [("WRONGTYPE".to_owned(), 1)]);
    }

    #[test]
    fn error_codes_a_client_can_make_up_do_not_fill_the_memory() {
        let stats = ThreadStats::new();
        for code in 0..10_000 {
            stats.count_error(None, format!("CODE{code} text\r\n").as_bytes());
        }
        assert_eq!(Totals::of(std::iter::once(&stats)).errors.len(), ERROR_CODES_MAX);
    }

    #[test]
    fn a_steady_stream_has_its_rate() {
        let mut rate = Rate::default();
        for sample in 1..=40 {
            rate.sample(sample * 250, sample * 100);
        }
        assert_eq!(rate.per_second(), 2_500);
    }
}
