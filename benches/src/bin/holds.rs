//! The longest holds of a shard's lock, without what the machine does by itself.
//!
//! One thread takes a keyspace through the steps of the bench `stalls`, in a time of its own, again and again from the
//! beginning. The same holds come in the same order each time, so of each the shortest time counts: a machine that stops for
//! some milliseconds does not stop at the same hold each time, and what a hold has to do it does every time. Page faults count,
//! as every repetition begins with memory that the system has to give.

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use leasehold_benches::record::{self, Circumstances};
use leasehold_benches::{keyspace, rival, system};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Expiry, HoldObserver, Keyspace, Turn, observe_holds};
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

/// Records the longest holds of locks.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Entries that the keyspace grows to.
    #[arg(long, default_value_t = 20_000_000)]
    entries: u64,
    /// Repetitions; of each hold the shortest counts.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE: [u8; 32] = [b'v'; 32];
const HUGE_BYTES: usize = 100 << 20;
/// Commands in a millisecond of the keyspace's time.
const COMMANDS_PER_MS: u64 = 100;
/// As often as the server, and as much.
const TICK_MS: u64 = 100;
const TICK_STEPS_MAX: usize = 1024;
/// Reads beside and after what happens.
const READS: u64 = 1_000_000;
/// Time within which all entries of the last step expire.
const EXPIRY_SPREAD_MS: u64 = 10_000;
const LONG_NS: u32 = 1_000_000;

/// Holds that there is room for, per entry: about eight are seen.
const HOLDS_PER_ENTRY: u64 = 12;
const HOLDS_MIN: u64 = 200_000_000;

/// Lengths of the holds of a repetition, in ns. Its room is there from the beginning: what this bench allocates and frees
/// itself would be given back to the system within a hold.
static HOLDS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// The holds of a step.
struct Step<'h> {
    what: String,
    shortest_ns: &'h [u32],
    /// Of one repetition, the first, as it was.
    longest_once_ns: u32,
}

/// A keyspace, its time, and what was seen in it.
struct Run {
    keyspace: Keyspace,
    turn: Turn,
    commands: u64,
    random: u64,
    steps: Vec<(String, Range<usize>)>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = Circumstances::here(benches, "holds", 1, arguments.repetitions, 0.0);
    system::pin_current_thread(&[*rival::all_cores().last().context("no cores")?])?;
    observe_holds(HoldObserver { now_ns, ended });
    let room = usize::try_from((arguments.entries * HOLDS_PER_ENTRY).max(HOLDS_MIN))?;
    let (mut shortest_ns, mut spare) = (Vec::new(), Vec::with_capacity(room));
    *holds() = Vec::with_capacity(room);
    let (mut steps, mut longest_once_ns) = (Vec::new(), Vec::new());
    for repetition in 0..arguments.repetitions {
        let seen = Run::new().steps(arguments.entries);
        writeln!(std::io::stderr(), "repetition {}: {:.0} s", repetition + 1, now_ns() as f64 / 1e9)?;
        ensure!(holds().len() < room, "there were more holds than there is room for");
        if repetition == 0 {
            shortest_ns = std::mem::replace(&mut *holds(), std::mem::take(&mut spare));
            longest_once_ns = seen.iter().map(|(_, range)| longest(&shortest_ns[range.clone()])).collect();
            steps = seen;
            continue;
        }
        ensure!(seen == steps, "the repetitions differ");
        shortest_ns.iter_mut().zip(&*holds()).for_each(|(least, ns)| *least = (*least).min(*ns));
        holds().clear();
    }
    let step = |((what, range), longest_once_ns)| Step { what, shortest_ns: &shortest_ns[range], longest_once_ns };
    let steps: Vec<Step<'_>> = steps.into_iter().zip(longest_once_ns).map(step).collect();
    let table = table(&steps, arguments.repetitions);
    writeln!(std::io::stdout(), "{table}")?;
    if !arguments.no_record {
        let path = record::write_text(&benches.join("records"), "holds", &here, &table, &json(&steps))?;
        writeln!(std::io::stdout(), "record: {}", path.display())?;
    }
    Ok(())
}

fn now_ns() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    START.elapsed().as_nanos() as u64
}

fn ended(held_ns: u64) {
    let mut holds = holds();
    if holds.len() < holds.capacity() {
        holds.push(u32::try_from(held_ns).unwrap_or(u32::MAX));
    }
}

fn holds() -> std::sync::MutexGuard<'static, Vec<u32>> {
    HOLDS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    fn new() -> Self {
        let keyspace = keyspace::new(EvictionPolicy::AllKeysLru, 0);
        Self { keyspace, turn: Turn::new(keyspace::BOOT_UNIX_MS, 1), commands: 0, random: 1, steps: Vec::new() }
    }

    fn steps(mut self, entries: u64) -> Vec<(String, Range<usize>)> {
        let millions = entries as f64 / 1e6;
        for policy in [EvictionPolicy::AllKeysLru, EvictionPolicy::AllKeysTinyLfu] {
            let name = if policy == EvictionPolicy::AllKeysLru { "lru" } else { "tinylfu" };
            self.keyspace.set_policy(policy);
            self.fill(entries, None);
            self.end_step(&format!("{name}: growth to {millions} M entries"));
            self.read(entries, READS);
            self.end_step(&format!("{name}: calm"));
            for (other, to) in
                [(EvictionPolicy::AllKeysTinyLfu, "tinylfu"), (EvictionPolicy::AllKeysLru, "lru"), (policy, name)]
            {
                self.keyspace.set_policy(other);
                self.read(entries, READS);
                self.end_step(&format!("{name}: policy to {to}, and calm"));
            }
            self.set(b"huge", &vec![b'h'; HUGE_BYTES], Attributes::PLAIN);
            self.end_step(&format!("{name}: SET of a value of 100 MB"));
            self.keyspace.update(&mut self.turn, Db(0), b"huge", |slot| slot.remove());
            self.end_step(&format!("{name}: DEL of it"));
            let half = self.keyspace.used_bytes() / 2;
            self.keyspace.set_memory_bytes_max(half);
            while self.keyspace.used_bytes() > half {
                self.read(entries, COMMANDS_PER_MS);
                self.tick();
            }
            self.end_step(&format!("{name}: limit to half of what is used"));
            self.fill(entries / 4, None);
            self.end_step(&format!("{name}: writes at the limit"));
            self.keyspace.set_memory_bytes_max(0);
            self.fill(entries, None);
            self.end_step(&format!("{name}: growth back"));
            self.flush();
            self.end_step(&format!("{name}: FLUSHALL of {millions} M entries"));
            self.fill(entries / 2, Some(self.turn.now_ms + 30_000));
            let last_ms = self.turn.now_ms + 60_000;
            while self.keyspace.len(Db(0)) > 0 && self.turn.now_ms < last_ms {
                self.read(entries, COMMANDS_PER_MS);
                self.tick();
            }
            self.end_step(&format!("{name}: {} M entries expire within {} s", millions / 2.0, EXPIRY_SPREAD_MS / 1000));
            self.flush();
        }
        self.steps
    }

    fn end_step(&mut self, what: &str) {
        let start = self.steps.last().map_or(0, |(_, range)| range.end);
        self.steps.push((what.to_owned(), start..holds().len()));
    }

    /// A command's share of the time; what the server does every now and then comes with it.
    fn pass_time(&mut self) {
        self.commands += 1;
        if self.commands.is_multiple_of(COMMANDS_PER_MS) {
            self.turn.now_ms += 1;
            if self.turn.now_ms.is_multiple_of(TICK_MS) {
                self.tick();
            }
        }
    }

    fn tick(&mut self) {
        let shards = 0..self.keyspace.shards();
        self.keyspace.sweep_leases(&mut self.turn, shards.clone());
        self.keyspace.adapt_window_if_due(&mut self.turn);
        self.keyspace.expire_cycle(&mut self.turn, shards, TICK_STEPS_MAX);
    }

    fn set(&mut self, key: &[u8], value: &[u8], attributes: Attributes) {
        if self.keyspace.make_room(&mut self.turn, key.len() + value.len()).is_ok() {
            self.keyspace.update(&mut self.turn, Db(0), key, |slot| slot.set(value, attributes));
        }
        self.pass_time();
    }

    /// Entries one after the other; with a time, all expire within [`EXPIRY_SPREAD_MS`] from it on.
    fn fill(&mut self, entries: u64, expire_from_ms: Option<u64>) {
        let mut key = String::new();
        for number in 0..entries {
            key.clear();
            let _ = write!(key, "key:{number:012}");
            let at = |from_ms: u64| Expiry::At(from_ms + number * EXPIRY_SPREAD_MS / entries);
            let expiry = expire_from_ms.map_or(Expiry::Never, at);
            self.set(key.as_bytes(), &VALUE, Attributes { expiry, ..Attributes::PLAIN });
        }
    }

    fn read(&mut self, keys: u64, reads: u64) {
        let mut key = String::new();
        for _ in 0..reads {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            key.clear();
            let _ = write!(key, "key:{:012}", (self.random >> 16) % keys.max(1));
            self.keyspace.read(&mut self.turn, Db(0), key.as_bytes(), Access::Touch, |entry| entry.value.len());
            self.pass_time();
        }
    }

    /// What was taken out is given back where no lock is held.
    fn flush(&mut self) {
        self.keyspace.flush(&mut self.turn, None);
        self.turn.effects.flushed.clear();
    }
}

fn longest(holds_ns: &[u32]) -> u32 {
    holds_ns.iter().copied().max().unwrap_or_default()
}

fn json(steps: &[Step<'_>]) -> serde_json::Value {
    let step = |step: &Step<'_>| {
        serde_json::json!({
            "step": step.what, "holds": step.shortest_ns.len(), "longest_ns": longest(step.shortest_ns),
            "p999_ns": quantile(step.shortest_ns, 0.999), "over_1ms": over_1ms(step.shortest_ns), "longest_once_ns": step.longest_once_ns,
        })
    };
    steps.iter().map(step).collect()
}

fn over_1ms(holds_ns: &[u32]) -> usize {
    holds_ns.iter().filter(|&&ns| ns >= LONG_NS).count()
}

fn quantile(holds_ns: &[u32], quantile: f64) -> u32 {
    let mut sorted = holds_ns.to_vec();
    sorted.sort_unstable();
    sorted
        .get(((sorted.len() as f64 * quantile) as usize).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn table(steps: &[Step<'_>], repetitions: usize) -> String {
    let mut text = format!(
        "### holds\n\nHolds of shards' locks in one thread; of each hold the shortest of {repetitions} repetitions, and beside it the \
         longest of the first repetition as it was, with what the machine did meanwhile.\n\n\
         | step | holds | over 1 ms | longest µs | p99.9 µs | longest once µs |\n|---|--:|--:|--:|--:|--:|\n",
    );
    for Step { what, shortest_ns, longest_once_ns } in steps {
        let us = |ns: u32| f64::from(ns) / 1e3;
        let _ = writeln!(
            text,
            "| {what} | {} | {} | {:.1} | {:.1} | {:.1} |",
            shortest_ns.len(),
            over_1ms(shortest_ns),
            us(longest(shortest_ns)),
            us(quantile(shortest_ns, 0.999)),
            us(*longest_once_ns),
        );
    }
    text
}
