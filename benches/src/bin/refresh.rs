//! Refresh: what readers of hot keys wait for when the keys' lives are short and the source is slow.
//!
//! One server with a loader for each lane: one whose values never expire while it runs, one that refreshes nothing, one that refreshes ahead,
//! two that refresh by chance. All lanes are read at the same time, so that the noise of the machine is the same for all, each by
//! connections of its own. A read has a time at which it is due, whatever became of the one before it, and is timed from then: a
//! client that waits for a load does not hide the reads that it held up.

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use leasehold_benches::histogram::Histogram;
use leasehold_benches::keys::{Distribution, Keys};
use leasehold_benches::preload::Preload;
use leasehold_benches::rival::{Server, all_cores};
use leasehold_benches::served;
use leasehold_benches::wire::{Protocol, Shape};
use leasehold_benches::workload::Rival;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Times readers of values that are refreshed, beside those of values that live on and of values that expire.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// The server's program; by default the one beside this.
    #[arg(long)]
    server: Option<PathBuf>,
    /// The source: by default a SQLite file whose query computes for a while; a postgres:// URL sleeps as long, and leaves the
    /// processor to the others.
    #[arg(long)]
    source: Option<String>,
    /// Steps of the SQLite query: some 5 ms.
    #[arg(long, default_value_t = 60_000)]
    steps: u32,
    /// What the PostgreSQL query sleeps, in ms.
    #[arg(long, default_value_t = 5)]
    sleep_ms: u32,
    /// Keys of each lane, read by a Zipf distribution.
    #[arg(long, default_value_t = 10)]
    keys: u64,
    /// Fresh life of a value, in ms.
    #[arg(long, default_value_t = 250)]
    ttl_ms: u64,
    /// Connections of each lane.
    #[arg(long, default_value_t = 4)]
    connections: u64,
    /// Reads a second on each of them.
    #[arg(long, default_value_t = 500)]
    reads: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Fail if the p99 of `ahead` or `xfetch-4` is more than so many times that of `hit`.
    #[arg(long)]
    at_most: Option<f64>,
}

/// Before it counts: all keys are loaded, and have been refreshed or expired a few times.
const WARM_UP: Duration = Duration::from_secs(3);

/// Lanes and their options.
const LANES: [(&str, &str); 5] = [
    ("hit", "ttl = \"1d\""),
    ("off", ""),
    ("ahead", "refresh = \"ahead\"\nrefresh_at = 0.5"),
    ("xfetch-1", "refresh = \"xfetch\""),
    ("xfetch-4", "refresh = \"xfetch\"\nrefresh_beta = 4"),
];

/// Those that must keep up with `hit`.
const JUDGED: [&str; 2] = ["ahead", "xfetch-4"];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let program = arguments.server.clone().unwrap_or_else(|| PathBuf::from("{bin}/leasehold"));
    let rival = Rival {
        name: "leasehold-refresh".to_owned(),
        command: [&program.to_string_lossy(), "--port", "{port}", "--threads", "1", "--conf", "{dir}/bench.toml"]
            .map(str::to_owned)
            .to_vec(),
        beside: Vec::new(),
        version: Vec::new(),
        protocol: Protocol::Resp,
        preload: Preload::Nothing,
        canned: false,
        files: vec![
            ("schema.sql".to_owned(), "CREATE TABLE none_is_needed (id INTEGER);".to_owned()),
            ("bench.toml".to_owned(), conf(&arguments)),
        ],
    };
    let shape = Shape { prefix: String::new(), key_bytes: 16, value_bytes: 16 };
    let server = Server::start(&rival, 1, &all_cores(), &shape, 0).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let begins = Instant::now() + WARM_UP;
    let times = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (lane, _) in LANES {
            for connection in 0..arguments.connections {
                let (arguments, address) = (&arguments, server.address);
                threads.push((lane, scope.spawn(move || read(arguments, address, lane, connection, begins))));
            }
        }
        let mut times: Vec<(&str, Histogram)> = LANES.map(|(lane, _)| (lane, Histogram::default())).to_vec();
        for (lane, thread) in threads {
            let seen = thread.join().map_err(|_| anyhow::anyhow!("a reader of {lane} panicked"))??;
            times.iter_mut().filter(|(known, _)| *known == lane).for_each(|(_, all)| all.merge(&seen));
        }
        anyhow::Ok(times)
    })?;
    report(&arguments, &times, server.address)
}

fn conf(arguments: &Arguments) -> String {
    let Arguments { steps, sleep_ms, ttl_ms, .. } = arguments;
    let (url, slow, cast, many) = match &arguments.source {
        Some(url) => (
            format!("url = \"{url}\""),
            format!("SELECT pg_sleep({sleep_ms} * 0.001)::text AS done"),
            "$1::text",
            "unnest($1::text[]) k(value)",
        ),
        None => (
            "url = \"sqlite:{dir}/bench.db\"\ncreate_with = \"{dir}/schema.sql\"".to_owned(),
            format!(
                "SELECT max(x) AS done FROM (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {steps}) SELECT x FROM n)"
            ),
            "$1",
            "json_each($1) k",
        ),
    };
    let mut conf = format!("[sources.slow]\n{url}\n");
    for (lane, options) in LANES {
        let ttl = if options.contains("ttl") { String::new() } else { format!("ttl = \"{ttl_ms}ms\"") };
        let _ = write!(
            conf,
            "\n[loaders.{lane}]\nmatch = \"{lane}:{{id}}\"\nsource = \"slow\"\nvalue = \"column\"\n{ttl}\n{options}\n\
             sql = \"WITH s AS MATERIALIZED ({slow}) SELECT {cast} AS id, 'value' AS value FROM s WHERE done IS NOT NULL\"\n\
             batch_sql = \"WITH s AS MATERIALIZED ({slow}) SELECT k.value AS id, 'value' AS value FROM s, {many} WHERE done IS NOT NULL\"\n"
        );
    }
    conf
}

/// Reads keys of a lane at their times, and says how long after its time each was answered.
fn read(
    arguments: &Arguments,
    address: SocketAddr,
    lane: &str,
    connection: u64,
    begins: Instant,
) -> anyhow::Result<Histogram> {
    const REPLY: &[u8] = b"$5\r\nvalue\r\n";

    let mut socket = TcpStream::connect(address).context("cannot connect to the server")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut keys = Keys::new(Distribution::Zipf, arguments.keys, connection + 1);
    let mut times = Histogram::default();
    let every = Duration::from_secs(1).div_f64(arguments.reads as f64);
    let ends = begins + Duration::from_secs(arguments.seconds);
    // The connections take turns.
    let mut due = Instant::now() + every.mul_f64(connection as f64 / arguments.connections as f64);
    let mut reply = [0; REPLY.len()];
    while due < ends {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let key = format!("{lane}:{}", keys.next());
        write!(socket, "*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len())?;
        socket.read_exact(&mut reply)?;
        ensure!(reply == REPLY, "GET {key}: {:?}", reply.escape_ascii().to_string());
        if due >= begins {
            times.record(due.elapsed().as_nanos() as u64, 1);
        }
        due += every;
    }
    Ok(times)
}

fn report(arguments: &Arguments, times: &[(&str, Histogram)], address: SocketAddr) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let us = |times: &Histogram, quantile: f64| times.quantile_ns(quantile) as f64 / 1_000.0;
    let hit = times.iter().find(|(lane, _)| *lane == "hit").map(|(_, times)| times).context("there is such a lane")?;
    writeln!(out, "| lane | p50 µs | p99 µs | p99.9 µs | p99 × hit | loads | refreshes | mean load ms |")?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|")?;
    let mut too_slow = Vec::new();
    for (lane, seen) in times {
        let ratio = us(seen, 0.99) / us(hit, 0.99);
        let counter = |name: &str| served::counter(address, lane, name);
        writeln!(
            out,
            "| {lane} | {:.0} | {:.0} | {:.0} | {ratio:.2} | {} | {} | {:.1} |",
            us(seen, 0.5),
            us(seen, 0.99),
            us(seen, 0.999),
            counter("keys")?,
            counter("refreshes")?,
            counter("mean_us")? as f64 / 1_000.0,
        )?;
        if JUDGED.contains(lane) && arguments.at_most.is_some_and(|most| ratio > most) {
            too_slow.push(format!("{lane}: {ratio:.2}"));
        }
    }
    if !too_slow.is_empty() {
        bail!("p99 is too far from that of hits: {}", too_slow.join(", "));
    }
    Ok(())
}
