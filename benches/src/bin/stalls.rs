//! Stalls: how long the server's locks are held, and how long a pipelined client waits, while much happens at once.
//!
//! A probe on core 1 sends batches of reads, one after the other, to a server on core 0 that was built to time its locks.
//! Meanwhile one thing after the other is asked of the server: to grow, to change its policy, to delete a huge value, to drop
//! everything, to grow again, to shrink, to let all entries expire. Every batch and every hold counts, and what the machine does
//! by itself with them: the calm run shows it, and the bench `holds` does without it.
//!
//! Of each batch two times are kept: how long the client waited, and how long the server worked from the request to the reply. The
//! second is what the server does to its clients on any machine; the first has the machine in it, so run it under `nice -n -20`: what
//! fills the server shares the probe's core and gives way to it.

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use leasehold_benches::histogram::Histogram;
use leasehold_benches::record::{self, Circumstances};
use leasehold_benches::rival::{self, Server};
use leasehold_benches::wire::{Protocol, Shape};
use leasehold_benches::{preload::Preload, system, workload::Rival};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Records the longest holds of locks and pauses of a client.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Entries that the server grows to.
    #[arg(long, default_value_t = 20_000_000)]
    entries: u64,
    /// The server's policy, and the one it changes to and back.
    #[arg(long, num_args = 2, default_values = ["allkeys-lru", "allkeys-tinylfu"])]
    policies: Vec<String>,
    /// Take the binaries as they are.
    #[arg(long)]
    no_build: bool,
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
}

const PROBE_BATCH: usize = 16;
const FILL_BATCH: u64 = 500;
const VALUE: [u8; 32] = [b'v'; 32];
const HUGE_BYTES: usize = 100 << 20;
const CALM: Duration = Duration::from_secs(5);
/// After what was asked is done: what goes on behind it must not stall either.
const AFTER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(300);
/// Time within which all entries of the last step expire.
const EXPIRY_SPREAD_MS: u64 = 10_000;

/// What was seen while something happened.
struct Step {
    what: String,
    seconds: f64,
    seen: Seen,
    holds: Holds,
}

/// Of the probe's batches.
#[derive(Default)]
struct Seen {
    batches: Histogram,
    longest_ns: u64,
    /// CPU time of the server while a batch waits.
    worked: Histogram,
    worked_longest_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    count: u64,
    over_1ms: u64,
    longest_us: u64,
}

#[derive(Default)]
struct Probe {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !arguments.no_build {
        build()?;
    }
    let here = Circumstances::here(benches, "stalls", rival::all_cores().len(), 1, CALM.as_secs_f64());
    let rival = Rival {
        name: "leasehold-hold-times".into(),
        command: ["{bin}/leasehold-hold-times", "--port", "{port}", "--threads", "1", "--set"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("maxmemory-policy={}", arguments.policies[0])])
            .collect(),
        beside: Vec::new(),
        version: Vec::new(),
        protocol: Protocol::Resp,
        preload: Preload::Nothing,
        canned: false,
        files: Vec::new(),
    };
    let shape = Shape { prefix: "key:".into(), key_bytes: 16, value_bytes: VALUE.len() };
    let server = Server::start(&rival, 1, &[0], &shape, 0).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    system::pin_current_thread(&[*rival::all_cores().last().context("no cores")?])?;
    let probe = Probe::default();
    let steps = std::thread::scope(|scope| {
        let runner = scope.spawn(|| probe.run(&server, arguments.entries));
        system::give_way()?;
        let steps = Driver::new(&server, &probe).and_then(|mut driver| driver.steps(&arguments));
        probe.stop.store(true, Relaxed);
        let probed = runner.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?;
        steps.and_then(|steps| probed.map(|()| steps))
    })?;
    let table = table(&steps);
    writeln!(std::io::stdout(), "{table}")?;
    if !arguments.no_record {
        let path = record::write_text(&benches.join("records"), "stalls", &here, &table, &json(&steps))?;
        writeln!(std::io::stdout(), "record: {}", path.display())?;
    }
    Ok(())
}

/// The server with the feature, beside this program under a name of its own.
fn build() -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let run = |features: &[&str]| -> anyhow::Result<()> {
        let mut command = Command::new(&cargo);
        let status = command.args(["build", "--release", "--quiet", "-p", "leasehold"]).args(features).status()?;
        ensure!(status.success(), "the build failed");
        Ok(())
    };
    let bin = rival::program_folder();
    run(&["--features", "hold-times"])?;
    std::fs::copy(bin.join("leasehold"), bin.join("leasehold-hold-times"))?;
    run(&[])
}

impl Probe {
    fn run(&self, server: &Server, keys: u64) -> anyhow::Result<()> {
        let mut socket = TcpStream::connect(server.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut replies = BufReader::new(socket.try_clone()?);
        let (mut random, mut line) = (1_u64, Vec::new());
        while !self.stop.load(Relaxed) {
            let mut request = Vec::new();
            for _ in 0..PROBE_BATCH {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                write!(request, "*2\r\n$3\r\nGET\r\n$16\r\nkey:{:012}\r\n", (random >> 16) % keys.max(1))?;
            }
            let (sent, worked_ns) = (Instant::now(), server.cpu_ns()?);
            socket.write_all(&request)?;
            for _ in 0..PROBE_BATCH {
                line.clear();
                replies.read_until(b'\n', &mut line)?;
                match &line[..] {
                    b"$-1\r\n" => {}
                    b"$32\r\n" => {
                        let mut value = [0; VALUE.len() + 2];
                        replies.read_exact(&mut value)?;
                    }
                    other => bail!("the probe read {:?}", other.escape_ascii().to_string()),
                }
            }
            let took_ns = sent.elapsed().as_nanos() as u64;
            let worked_ns = server.cpu_ns()?.saturating_sub(worked_ns);
            let mut seen = self.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
            seen.batches.record(took_ns, 1);
            seen.longest_ns = seen.longest_ns.max(took_ns);
            seen.worked.record(worked_ns, 1);
            seen.worked_longest_ns = seen.worked_longest_ns.max(worked_ns);
        }
        Ok(())
    }
}

struct Driver<'p> {
    server: &'p Server,
    probe: &'p Probe,
    socket: TcpStream,
    replies: BufReader<TcpStream>,
}

impl<'p> Driver<'p> {
    fn new(server: &'p Server, probe: &'p Probe) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(server.address)?;
        socket.set_nodelay(true)?;
        let replies = BufReader::new(socket.try_clone()?);
        Ok(Self { server, probe, socket, replies })
    }

    fn steps(&mut self, arguments: &Arguments) -> anyhow::Result<Vec<Step>> {
        let entries = arguments.entries;
        let millions = entries as f64 / 1e6;
        let mut steps = Vec::new();
        let bare_bytes = self.server.resident_bytes()?;
        steps.push(self.step(&format!("growth to {millions} M entries"), |driver| driver.fill(entries, None))?);
        steps.push(self.step("calm", |_| {
            std::thread::sleep(CALM);
            Ok(())
        })?);
        for policy in [&arguments.policies[1], &arguments.policies[0]] {
            steps.push(self.step(&format!("policy to {policy}"), |driver| {
                driver.ask(&[b"CONFIG", b"SET", b"maxmemory-policy", policy.as_bytes()]).map(drop)
            })?);
        }
        self.ask(&[b"SET", b"huge", &vec![b'h'; HUGE_BYTES]])?;
        steps.push(self.step("DEL of a value of 100 MB", |driver| driver.ask(&[b"DEL", b"huge"]).map(drop))?);
        let half = self.info("memory", "used_memory")? / 2;
        steps.push(self.step("limit to half of what is used", |driver| {
            driver.ask(&[b"CONFIG", b"SET", b"maxmemory", half.to_string().as_bytes()])?;
            driver.wait(|driver| Ok(driver.info("memory", "used_memory")? <= half))
        })?);
        self.ask(&[b"CONFIG", b"SET", b"maxmemory", b"0"])?;
        self.fill(entries, None)?;
        let grown_bytes = self.server.resident_bytes()?.saturating_sub(bare_bytes);
        steps.push(self.step(&format!("FLUSHALL of {millions} M entries"), |driver| {
            driver.ask(&[b"FLUSHALL"])?;
            driver.wait(|driver| Ok(driver.server.resident_bytes()? < bare_bytes + grown_bytes / 4))
        })?);
        steps.push(self.step(&format!("growth to {millions} M entries again"), |driver| driver.fill(entries, None))?);
        self.ask(&[b"FLUSHALL"])?;
        let expiring = entries / 2;
        self.fill(expiring, Some(Instant::now()))?;
        steps.push(
            self.step(
                &format!("{} M entries expire within {} s", millions / 2.0, EXPIRY_SPREAD_MS / 1000),
                |driver| driver.wait(|driver| Ok(driver.info("stats", "expired_keys")? >= expiring as usize)),
            )?,
        );
        Ok(steps)
    }

    /// Does something, waits a while, and takes what probe and locks have seen since it began.
    fn step(&mut self, what: &str, run: impl FnOnce(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<Step> {
        self.take()?;
        let started = Instant::now();
        run(self).with_context(|| what.to_owned())?;
        let seconds = started.elapsed().as_secs_f64();
        std::thread::sleep(AFTER);
        writeln!(std::io::stderr(), "{what}: {seconds:.2} s")?;
        let (seen, holds) = self.take()?;
        Ok(Step { what: what.to_owned(), seconds, seen, holds })
    }

    fn take(&mut self) -> anyhow::Result<(Seen, Holds)> {
        let info = self.ask(&[b"INFO", b"stats"])?;
        let number = |name: &str| field(&info, name).map(|number| number as u64);
        let holds = Holds {
            count: number("x_lock_holds")?,
            over_1ms: number("x_lock_holds_over_1ms")?,
            longest_us: number("x_lock_hold_longest_us")?,
        };
        let seen = std::mem::take(&mut *self.probe.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?);
        Ok((seen, holds))
    }

    /// Entries one after the other; with a time, all expire within [`EXPIRY_SPREAD_MS`] from half a minute after it on.
    fn fill(&mut self, entries: u64, since: Option<Instant>) -> anyhow::Result<()> {
        const FILL_MS: u64 = 30_000;

        let mut first = 0;
        while first < entries {
            let last = (first + FILL_BATCH).min(entries);
            let mut request = Vec::new();
            for number in first..last {
                let spread_ms = FILL_MS + number * EXPIRY_SPREAD_MS / entries;
                let ttl_ms = since.map(|since| spread_ms.saturating_sub(since.elapsed().as_millis() as u64).max(1));
                let ttl_ms = ttl_ms.map(|ttl_ms| ttl_ms.to_string());
                write!(
                    request,
                    "*{}\r\n$3\r\nSET\r\n$16\r\nkey:{number:012}\r\n$32\r\n",
                    if ttl_ms.is_some() { 5 } else { 3 }
                )?;
                request.extend_from_slice(&VALUE);
                request.extend_from_slice(b"\r\n");
                if let Some(ttl_ms) = ttl_ms {
                    write!(request, "$2\r\nPX\r\n${}\r\n{ttl_ms}\r\n", ttl_ms.len())?;
                }
            }
            self.socket.write_all(&request)?;
            let mut replies = vec![0; 5 * (last - first) as usize];
            self.replies.read_exact(&mut replies)?;
            ensure!(replies.starts_with(b"+OK\r\n"), "{}", replies.escape_ascii());
            first = last;
        }
        Ok(())
    }

    fn wait(&mut self, is_done: impl Fn(&mut Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let started = Instant::now();
        while !is_done(self)? {
            ensure!(started.elapsed() < PATIENCE, "not done after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A field of a section. Not of all sections: the server would be busy with the text for as long as what is measured takes.
    fn info(&mut self, section: &str, name: &str) -> anyhow::Result<usize> {
        let info = self.ask(&[b"INFO", section.as_bytes()])?;
        field(&info, name)
    }

    /// One command; its reply as text, without the length of a bulk.
    fn ask(&mut self, words: &[&[u8]]) -> anyhow::Result<String> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            write!(request, "${}\r\n", word.len())?;
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.socket.write_all(&request)?;
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        ensure!(!line.starts_with('-') && !line.is_empty(), "{} answered {line:?}", words[0].escape_ascii());
        if let Some(len) = line.strip_prefix('$') {
            let mut bulk = vec![0; len.trim().parse::<usize>()? + 2];
            self.replies.read_exact(&mut bulk)?;
            line = String::from_utf8(bulk)?;
        }
        Ok(line)
    }
}

fn field(info: &str, name: &str) -> anyhow::Result<usize> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("INFO has no {name}: is the server built with hold-times?"))?.trim().parse()?)
}

fn json(steps: &[Step]) -> serde_json::Value {
    let step = |step: &Step| {
        let seen = &step.seen;
        serde_json::json!({
            "step": step.what, "seconds": step.seconds, "batches": seen.batches.count(),
            "p50_ns": seen.batches.quantile_ns(0.5), "p999_ns": seen.batches.quantile_ns(0.999), "longest_pause_ns": seen.longest_ns,
            "worked_p999_ns": seen.worked.quantile_ns(0.999), "worked_longest_ns": seen.worked_longest_ns,
            "holds": step.holds.count, "holds_over_1ms": step.holds.over_1ms, "longest_hold_us": step.holds.longest_us,
        })
    };
    steps.iter().map(step).collect()
}

fn table(steps: &[Step]) -> String {
    let mut text = String::from(
        "### stalls\n\nBatches of 16 reads beside each step: how long the client waited, how long the server worked meanwhile, and the holds of shards' locks.\n\n\
         | step | s | batches | p50 µs | p99.9 µs | longest pause µs | worked p99.9 µs | worked longest µs | holds | over 1 ms | longest hold µs |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for Step { what, seconds, seen, holds } in steps {
        let us = |histogram: &Histogram, quantile| histogram.quantile_ns(quantile) / 1000;
        let _ = writeln!(
            text,
            "| {what} | {seconds:.2} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            seen.batches.count(),
            us(&seen.batches, 0.5),
            us(&seen.batches, 0.999),
            seen.longest_ns / 1000,
            us(&seen.worked, 0.999),
            seen.worked_longest_ns / 1000,
            holds.count,
            holds.over_1ms,
            holds.longest_us,
        );
    }
    text
}
