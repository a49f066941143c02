//! What sharing queries is worth: keys per second that come cold out of a PostgreSQL, with `batch_sql` and without.
//!
//! Two servers differ in that option alone. The same connections ask both for all keys of a table, each key once, as deep in
//! pipelines as many readers at once would be; the lanes take turns, and are emptied between two rounds. `benches/batching` starts
//! a database for it.

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use leasehold_benches::record::{self, Circumstances, Spread};
use leasehold_benches::served::{Served, Socket, read_bulk, read_line};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Measures keys per second loaded with one query for many keys, and with a query for each.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// A PostgreSQL database with a table `users (id int8 PRIMARY KEY, name text)` of as many rows as `--keys` says, from 1 on.
    #[arg(long)]
    source: String,
    /// The server.
    #[arg(long, default_value = "target/release/leasehold")]
    server: PathBuf,
    /// Rows of the table.
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Connections that ask, each with a pipeline.
    #[arg(long, default_value_t = 20)]
    connections: usize,
    /// Requests in a pipeline.
    #[arg(long, default_value_t = 200)]
    pipeline: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
}

/// What SPEC-minded readers ask for: so many times the keys per second of one query a key.
const RATIO_MIN: f64 = 10.0;
const LANES: [&str; 2] = ["batched", "one query a key"];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.keys > 0 && arguments.connections > 0 && arguments.pipeline > 0 && arguments.rounds > 0);
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the benches lie in the workspace")?;
    let cores = std::thread::available_parallelism()?.get();
    let here = Circumstances::here(tree, "batching", cores, arguments.rounds, 0.0);
    let lanes = [
        Lane::start(&arguments, "batch_sql = \"SELECT id, name FROM users WHERE id = ANY($1)\"")?,
        Lane::start(&arguments, "")?,
    ];
    let mut rates: [Vec<f64>; 2] = Default::default();
    let mut queries = [0; 2];
    for round in 0..arguments.rounds {
        // Each lane is first every other time.
        for lane in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let before = lanes[lane].queries()?;
            let took = lanes[lane].load_all(&arguments)?;
            queries[lane] = lanes[lane].queries()? - before;
            rates[lane].push(arguments.keys as f64 / took.as_secs_f64());
        }
    }
    let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(batched, single)| batched / single).collect();
    let ratio = Spread::of(ratios.iter().copied());
    let mut table = String::from("| lane | keys/s | queries a round |\n|---|---|---|\n");
    for ((lane, rates), queries) in LANES.iter().zip(&rates).zip(queries) {
        let Spread { median, min, max } = Spread::of(rates.iter().copied());
        let _ = writeln!(table, "| {lane} | {median:.0} ({min:.0} – {max:.0}) | {queries} |");
    }
    let verdict = if ratio.median >= RATIO_MIN { "holds" } else { "MISSED" };
    let _ = writeln!(
        table,
        "\nneed: {} ≥ {RATIO_MIN} × {}: {:.1} ({:.1} – {:.1}), {verdict}",
        LANES[0], LANES[1], ratio.median, ratio.min, ratio.max
    );
    write!(std::io::stdout(), "{table}")?;
    if !arguments.no_record {
        let json = json!({ "keys": arguments.keys, "keys_per_second": rates, "queries": queries, "ratios": ratios });
        let about = format!(
            "{} keys a round, cold; {} connections with pipelines of {}; {} rounds.\n\n",
            arguments.keys, arguments.connections, arguments.pipeline, arguments.rounds
        );
        record::write_text(&tree.join("benches/records"), "batching", &here, &(about + &table), &json)?;
    }
    Ok(())
}

/// A server with one loader.
struct Lane {
    server: Served,
}

impl Lane {
    fn start(arguments: &Arguments, batch_sql: &str) -> anyhow::Result<Self> {
        let queue = (arguments.connections * arguments.pipeline).max(1_000);
        let text = format!(
            "[sources.main]\nurl = {:?}\nacquire_timeout = \"30s\"\n[loaders.user]\nmatch = \"user:{{id:int}}\"\nsource = \"main\"\n\
             sql = \"SELECT id, name FROM users WHERE id = $1\"\nhard_timeout = \"60s\"\nqueue = {queue}\n{batch_sql}\n",
            arguments.source
        );
        Ok(Self { server: Served::start(&arguments.server, &std::env::temp_dir(), &text)? })
    }

    /// Queries since the start.
    fn queries(&self) -> anyhow::Result<i64> {
        self.server.counter("user", "batches")
    }

    /// Empties the server and reads all keys once.
    fn load_all(&self, arguments: &Arguments) -> anyhow::Result<Duration> {
        let mut socket = self.server.connect()?;
        socket.get_mut().write_all(b"FLUSHALL\r\n")?;
        let line = read_line(&mut socket)?;
        ensure!(line == "+OK", "FLUSHALL: {line}");
        let mut sockets =
            (0..arguments.connections).map(|_| self.server.connect()).collect::<anyhow::Result<Vec<_>>>()?;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let readers: Vec<_> = sockets
                .iter_mut()
                .enumerate()
                .map(|(number, socket)| {
                    scope.spawn(move || {
                        let ids = (number + 1..=arguments.keys).step_by(arguments.connections);
                        read_all(socket, ids.collect(), arguments.pipeline)
                    })
                })
                .collect();
            readers.into_iter().try_for_each(|reader| match reader.join() {
                Ok(read) => read,
                Err(_) => bail!("a reader panicked"),
            })
        })?;
        Ok(begun.elapsed())
    }
}

/// Reads keys in pipelines, and checks that each answer is the row of its key.
fn read_all(socket: &mut Socket, ids: Vec<usize>, pipeline: usize) -> anyhow::Result<()> {
    let mut requests = String::new();
    for ids in ids.chunks(pipeline) {
        requests.clear();
        for id in ids {
            let key = format!("user:{id}");
            let _ = write!(requests, "*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        }
        socket.get_mut().write_all(requests.as_bytes())?;
        for id in ids {
            let value = read_bulk(socket)?;
            ensure!(value.starts_with(&format!("{{\"id\":{id},")), "user:{id}: {value}");
        }
    }
    Ok(())
}
