//! Measures servers against each other under the workloads of `benches/workloads/`.
//!
//! `benches/README.md` says what is measured and how to read the tables.

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use leasehold_benches::generator::{self, Plan, Progress};
use leasehold_benches::histogram::Histogram;
use leasehold_benches::record::{self, Circumstances, Measure, Outcome, Series};
use leasehold_benches::rival::{self, Server, StartError};
use leasehold_benches::system;
use leasehold_benches::wire::{Shape, Wire};
use leasehold_benches::workload::{Lane, Plans, Workload};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Measures Leasehold, its rivals and the floor of kernel TCP under named workloads, interleaved in one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// A workload, or a file of workloads without `.toml`; repeat for more. Default: all but `scaling`.
    #[arg(long)]
    workload: Vec<String>,
    /// Only these lanes; repeat for more.
    #[arg(long)]
    lane: Vec<String>,
    /// Rounds; each measures every lane once. Many short ones say more than few long ones: neighbours come and go.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Measured seconds of each lane in each round.
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 0.1)]
    warm: f64,
    /// Cores of the generator, one thread each, such as `1` or `12-15`. Servers have the cores from 0 on.
    #[arg(long)]
    generator_cores: Option<String>,
    /// The workloads of `scaling.toml`: one to twelve server threads, the generator on the cores from 12 on.
    #[arg(long)]
    scaling: bool,
    /// Take the binaries as they are.
    #[arg(long)]
    no_build: bool,
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
    /// Show names and summaries of all workloads, and end.
    #[arg(long)]
    list: bool,
}

/// With `--scaling` the servers have the cores below.
const SCALING_FIRST_GENERATOR_CORE: usize = 12;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plans = Plans::read(&benches.join("workloads"))?;
    if arguments.list {
        let mut out = std::io::stdout().lock();
        for (file, workload) in &plans.workloads {
            writeln!(out, "{file:14} {:24} {}", workload.name, workload.summary)?;
        }
        return Ok(());
    }
    ensure!(arguments.rounds > 0 && arguments.seconds > 0.0, "at least one round of some length");
    let chosen = choose(&plans, &arguments)?;
    if !arguments.no_build {
        build()?;
    }
    let here = Circumstances::here(benches, "load", rival::all_cores().len(), arguments.rounds, arguments.seconds);
    let mut bench = Bench { plans: &plans, generator_cores: Vec::new(), arguments: &arguments, running: Vec::new() };
    let mut outcomes = Vec::new();
    for workload in chosen {
        bench.generator_cores = generator_cores(&arguments, workload)?;
        let outcome = bench.measure(workload)?;
        writeln!(std::io::stdout(), "{}", outcome.markdown())?;
        outcomes.push(outcome);
    }
    drop(bench);
    if !arguments.no_record {
        let path = record::write(&benches.join("records"), &label(&arguments), &here, &outcomes)?;
        writeln!(std::io::stdout(), "record: {}", path.display())?;
    }
    Ok(())
}

fn choose<'a>(plans: &'a Plans, arguments: &Arguments) -> anyhow::Result<Vec<&'a Workload>> {
    let mut names = arguments.workload.clone();
    if arguments.scaling {
        names.push("scaling".into());
    }
    for name in &names {
        let known = plans.workloads.iter().any(|(file, workload)| file == name || workload.name == *name);
        ensure!(known, "no workload or file of workloads `{name}`; --list shows them");
    }
    let wanted = |file: &str, workload: &Workload| {
        if names.is_empty() {
            file != "scaling"
        } else {
            names.iter().any(|name| name == file || *name == workload.name)
        }
    };
    Ok(plans.workloads.iter().filter(|(file, workload)| wanted(file, workload)).map(|(_, workload)| workload).collect())
}

fn label(arguments: &Arguments) -> String {
    match (&arguments.workload[..], arguments.scaling) {
        ([], false) => "all".into(),
        (names, true) => [names, &["scaling".to_owned()]].concat().join("-"),
        (names, false) => names.join("-"),
    }
}

/// The order of so many lanes in a round: each is first in turn, and every other round runs backwards, because it counts who
/// runs behind whom.
fn order(lanes: usize, round: usize) -> impl Iterator<Item = usize> {
    let first = round / 2 % lanes.max(1);
    let is_backward = round % 2 == 1;
    (0..lanes).map(move |step| if is_backward { first + lanes - step } else { first + step } % lanes)
}

fn generator_cores(arguments: &Arguments, workload: &Workload) -> anyhow::Result<Vec<usize>> {
    let all = rival::all_cores();
    let cores = match (&arguments.generator_cores, &workload.generator_cores) {
        (Some(text), _) => rival::parse_cores(text).context("--generator-cores")?,
        (None, Some(cores)) => cores.clone(),
        (None, None) if arguments.scaling => {
            all.iter().copied().filter(|&core| core >= SCALING_FIRST_GENERATOR_CORE).collect()
        }
        (None, None) => vec![1],
    };
    ensure!(
        !cores.is_empty() && cores.iter().all(|core| all.contains(core)),
        "the generator's cores {cores:?} are not all here: {all:?}"
    );
    Ok(cores)
}

/// The server and the floor, as they will be shipped.
fn build() -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "leasehold", "-p", "leasehold-benches", "--bins"])
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

/// A server kept between workloads that share its keys.
struct Running {
    rival: String,
    threads: usize,
    shape: Shape,
    keys: u64,
    server: Server,
}

struct Bench<'a> {
    plans: &'a Plans,
    arguments: &'a Arguments,
    generator_cores: Vec<usize>,
    running: Vec<Running>,
}

impl Bench<'_> {
    fn measure(&mut self, workload: &Workload) -> anyhow::Result<Outcome> {
        let asked = |lane: &&Lane| self.arguments.lane.is_empty() || self.arguments.lane.contains(&lane.name);
        let lanes: Vec<&Lane> = workload.lanes.iter().filter(asked).collect();
        let fits = |running: &Running| {
            running.shape == workload.shape
                && running.keys == workload.keys
                && lanes.iter().any(|lane| lane.rival == running.rival && lane.threads == running.threads)
        };
        self.running.retain(fits);
        let mut outcome = Outcome { workload: workload.clone(), series: Vec::new(), skipped: Vec::new() };
        let mut measured = Vec::new();
        for lane in lanes {
            if let Err(reason) = self.start(workload, lane)? {
                outcome.skipped.push(format!("{}: {reason}", lane.name));
                continue;
            }
            let server = self.server(lane);
            let rival = self.plans.rival(&lane.rival).context("lanes name rivals")?;
            outcome.series.push(Series {
                lane: lane.name.clone(),
                version: rival::version(rival).unwrap_or_default(),
                resident_bytes: server.resident_bytes()?,
                rounds: Vec::new(),
            });
            measured.push(lane);
        }
        let rounds_per_start = self.arguments.rounds.div_ceil(workload.starts);
        for round in 0..self.arguments.rounds {
            if round > 0 && round.is_multiple_of(rounds_per_start) {
                self.running.clear();
                for lane in &measured {
                    self.start(workload, lane)?.map_err(anyhow::Error::msg)?;
                }
            }
            for index in order(measured.len(), round) {
                let (lane, series) = (measured[index], &mut outcome.series[index]);
                let measure = self
                    .round(workload, lane, round)
                    .with_context(|| format!("workload {}, lane {}, round {round}", workload.name, lane.name))?;
                series.rounds.push(measure);
                progress_line(&format!(
                    "{} round {}/{} {}: {:.3} µs/op",
                    workload.name,
                    round + 1,
                    self.arguments.rounds,
                    lane.name,
                    measure.cpu_us()
                ));
            }
        }
        progress_line("");
        Ok(outcome)
    }

    /// Starts the lane's server if none runs. The inner error is why the lane is left out.
    fn start(&mut self, workload: &Workload, lane: &Lane) -> anyhow::Result<Result<(), String>> {
        if self.running.iter().any(|running| running.rival == lane.rival && running.threads == lane.threads) {
            return Ok(Ok(()));
        }
        let cores: Vec<usize> = rival::all_cores().into_iter().take(lane.threads).collect();
        if cores.len() < lane.threads {
            return Ok(Err(format!("the machine has {} cores", cores.len())));
        }
        let rival = self.plans.rival(&lane.rival).context("lanes name rivals")?;
        progress_line(&format!("{}: starting {} and storing {} keys", workload.name, lane.rival, workload.keys));
        match Server::start(rival, lane.threads, &cores, &workload.shape, workload.keys) {
            Ok(server) => {
                self.running.push(Running {
                    rival: lane.rival.clone(),
                    threads: lane.threads,
                    shape: workload.shape.clone(),
                    keys: workload.keys,
                    server,
                });
                Ok(Ok(()))
            }
            Err(StartError::Missing(reason)) => Ok(Err(reason)),
            Err(StartError::Failed(error)) => Err(error.context(format!("lane {}", lane.name))),
        }
    }

    fn server(&self, lane: &Lane) -> &Server {
        let fits = |running: &&Running| running.rival == lane.rival && running.threads == lane.threads;
        &self.running.iter().find(fits).expect("start was called for every lane").server
    }

    fn round(&self, workload: &Workload, lane: &Lane, round: usize) -> anyhow::Result<Measure> {
        let server = self.server(lane);
        let rival = self.plans.rival(&lane.rival).context("lanes name rivals")?;
        let generators = self.generator_cores.len().min(workload.connections);
        let plan = |index: usize| Plan {
            address: server.address,
            wire: Wire::with_reads(rival.protocol, &workload.shape, workload.reads),
            get_percent: workload.get_percent,
            pipeline: workload.pipeline,
            connections: workload.connections / generators + usize::from(index < workload.connections % generators),
            keys: workload.keys,
            distribution: lane.distribution,
            canned: rival.canned,
            misses: workload.misses,
            seed: (round * generators + index) as u64 + 1,
        };
        let progress = Progress::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..generators)
                .map(|index| {
                    let (plan, core, progress) = (plan(index), self.generator_cores[index], &progress);
                    scope.spawn(move || {
                        system::pin_current_thread(&[core])?;
                        let result = generator::run(&plan, progress);
                        progress.stop.store(true, Ordering::Relaxed);
                        result
                    })
                })
                .collect();
            sleep_unless_stopped(&progress, self.arguments.warm);
            progress.measuring.store(true, Ordering::Relaxed);
            let before = Reading::take(server, &progress)?;
            sleep_unless_stopped(&progress, self.arguments.seconds);
            let after = Reading::take(server, &progress);
            progress.stop.store(true, Ordering::Relaxed);
            let mut histogram = Histogram::default();
            for thread in threads {
                match thread.join() {
                    Ok(result) => histogram.merge(&result?),
                    Err(_) => bail!("a generator panicked"),
                }
            }
            let after = after?;
            ensure!(after.operations > before.operations, "no operation was answered");
            Ok(Measure {
                operations: after.operations - before.operations,
                elapsed_ns: (after.at - before.at).as_nanos() as u64,
                cpu_ns: after.cpu_ns - before.cpu_ns,
                p50_ns: histogram.quantile_ns(0.5),
                p99_ns: histogram.quantile_ns(0.99),
            })
        })
    }
}

/// The counts at one moment.
struct Reading {
    at: Instant,
    cpu_ns: u64,
    operations: u64,
}

impl Reading {
    fn take(server: &Server, progress: &Progress) -> anyhow::Result<Self> {
        let cpu_ns = server.cpu_ns();
        let reading = Self {
            at: Instant::now(),
            cpu_ns: *cpu_ns.as_ref().unwrap_or(&0),
            operations: progress.operations.load(Ordering::Relaxed),
        };
        if cpu_ns.is_err() {
            // The scope joins the generators before the error can leave it.
            progress.stop.store(true, Ordering::Relaxed);
        }
        cpu_ns.map(|_| reading)
    }
}

/// Sleeps for so long, or until a generator has failed.
fn sleep_unless_stopped(progress: &Progress, seconds: f64) {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while !progress.stop.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Overwrites one line of the terminal.
fn progress_line(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "\r\x1b[K{text}");
    let _ = err.flush();
}
