//! Real traces through the keyspace of the server, against the reference policies' miss ratios on the same traces.
//!
//! Two accountings. `none` counts the sizes of the trace alone, as the reference does: a row is a trace and a capacity of
//! `reference.csv`. `real` counts all that an entry costs, as the server does; there a row is a trace and a share of what all
//! its keys would cost, and the rows of two policies are compared with each other.

use anyhow::{Context as _, ensure};
use clap::{Parser as _, ValueEnum};
use leasehold_benches::miss_ratio::{self, Measured, Reference, Row};
use leasehold_benches::record::{self, Circumstances};
use leasehold_keyspace::replay::{Cache, Limit, Trace, replay};
use leasehold_keyspace::{EvictionPolicy, Objective};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Replays traces and compares miss ratios.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Folder with the traces and `reference.csv`.
    #[arg(long, default_value = "../shared/traces")]
    traces: PathBuf,
    /// Only traces whose name starts with one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// What is counted: sizes of the trace as the reference does, all memory as the server does, or one after the other.
    #[arg(long, value_enum, default_value_t = Accounting::Both)]
    overhead: Accounting,
    /// Lanes: tinylfu, tinylfu-bytes, lru.
    #[arg(long, value_delimiter = ',', default_value = "tinylfu,tinylfu-bytes,lru")]
    lanes: Vec<String>,
    /// Threads, a trace each at a time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Parts of the keyspace.
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Where to leave a record; none if not given.
    #[arg(long)]
    records: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accounting {
    None,
    Real,
    Both,
}

/// Shares of the footprint where all memory is counted.
const REAL_PERCENTS: [u32; 5] = [1, 5, 10, 25, 50];

/// A limit below that is no cache of a server.
const REAL_BYTES_MIN: u64 = 64 << 10;

/// What an entry costs beyond key and value, about: for the footprint only.
const ENTRY_BYTES: u64 = 14;

/// One replay to do.
#[derive(Clone, Debug)]
struct Job {
    row: Row,
    limit: Limit,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let reference = Reference::read(&arguments.traces.join("reference.csv"))?;
    for lane in &arguments.lanes {
        ensure!(lane_of(lane).is_some(), "there is no lane {lane:?}");
    }
    let mut names: Vec<String> = reference.capacities.keys().map(|row| row.trace.clone()).collect();
    names.dedup();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| arguments.only.is_empty() || arguments.only.iter().any(|only| name.starts_with(only)));
    let measured: Mutex<[Measured; 2]> = Mutex::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let work = || -> anyhow::Result<()> {
            while let Some(name) = names.get(next.fetch_add(1, Relaxed)) {
                run(name, &arguments, &reference, &measured)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..arguments.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a replay does not panic"))
    })?;
    let [by_sizes, by_memory] = measured.into_inner().expect("a replay does not panic");
    let mut report = String::new();
    if arguments.overhead != Accounting::Real {
        report += &by_sizes.against_reference(&reference);
    }
    if arguments.overhead != Accounting::None {
        report += "\n";
        report += &by_memory.against_lane("tinylfu", "lru");
    }
    write!(std::io::stdout().lock(), "{report}")?;
    if let Some(folder) = &arguments.records {
        let here = Circumstances::here(Path::new("."), "replay", std::thread::available_parallelism()?.get(), 1, 0.0);
        let json = miss_ratio::json(&here, &by_sizes, &by_memory);
        let path = record::write_text(folder, "replay", &here, &report, &json)?;
        writeln!(std::io::stdout().lock(), "\n{}", path.display())?;
    }
    Ok(())
}

fn lane_of(name: &str) -> Option<(EvictionPolicy, Objective)> {
    match name {
        "tinylfu" => Some((EvictionPolicy::AllKeysTinyLfu, Objective::Objects)),
        "tinylfu-bytes" => Some((EvictionPolicy::AllKeysTinyLfu, Objective::Bytes)),
        "lru" => Some((EvictionPolicy::AllKeysLru, Objective::Objects)),
        _ => None,
    }
}

/// All rows of a trace in all lanes.
fn run(
    name: &str,
    arguments: &Arguments,
    reference: &Reference,
    measured: &Mutex<[Measured; 2]>,
) -> anyhow::Result<()> {
    let trace = miss_ratio::read_trace(&arguments.traces.join(format!("{name}.txt.zst")))?;
    for job in jobs(name, &trace, arguments.overhead, reference) {
        for lane in &arguments.lanes {
            let (policy, objective) = lane_of(lane).context("lanes were checked")?;
            // Where all sizes are alike both objectives come to the same.
            if objective == Objective::Bytes && job.row.section != "sized" {
                continue;
            }
            let misses = replay(&trace, Cache { policy, objective, limit: job.limit, shards: arguments.shards });
            let [by_sizes, by_memory] = &mut *measured.lock().expect("a replay does not panic");
            let measured = if matches!(job.limit, Limit::Values(_)) { by_sizes } else { by_memory };
            measured.add(job.row.clone(), lane, misses);
        }
    }
    Ok(())
}

fn jobs(name: &str, trace: &Trace, overhead: Accounting, reference: &Reference) -> Vec<Job> {
    let rows = reference.capacities.iter().filter(|(row, _)| row.trace == name);
    let mut jobs = Vec::new();
    if overhead != Accounting::Real {
        jobs.extend(rows.clone().map(|(row, &capacity)| Job { row: row.clone(), limit: Limit::Values(capacity) }));
    }
    if overhead != Accounting::None
        && let Some((row, _)) = rows.clone().next()
    {
        let sizes: BTreeMap<&[u8], u64> = trace.requests().collect();
        let footprint: u64 = sizes.iter().map(|(key, bytes)| key.len() as u64 + bytes + ENTRY_BYTES).sum();
        let of_percent = |percent| {
            let bytes = footprint * u64::from(percent) / 100;
            (bytes >= REAL_BYTES_MIN).then(|| Job { row: Row { percent, ..row.clone() }, limit: Limit::Memory(bytes) })
        };
        jobs.extend(REAL_PERCENTS.into_iter().filter_map(of_percent));
    }
    jobs
}
