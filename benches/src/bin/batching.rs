//! What sharing queries is worth: keys per second that come cold out of a PostgreSQL, with `batch_sql` and without.
//!
//! Two servers differ in that option alone. The same connections ask both for all keys of a table, each key once, as deep in
//! pipelines as many readers at once would be; the lanes take turns, and are emptied between two rounds. `benches/batching` starts
//! a database for it.

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use leasehold_benches::record::{self, Circumstances, Spread};
use leasehold_benches::system;
use serde_json::json;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
const START_PATIENCE: Duration = Duration::from_secs(30);
const REPLY_PATIENCE: Duration = Duration::from_secs(60);
const LANES: [&str; 2] = ["batched", "one query a key"];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.keys > 0 && arguments.connections > 0 && arguments.pipeline > 0 && arguments.rounds > 0);
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the benches lie in the workspace")?;
    let cores = std::thread::available_parallelism()?.get();
    let here = Circumstances::here(tree, "batching", cores, arguments.rounds, 0.0);
    let servers = [
        Server::start(&arguments, "batch_sql = \"SELECT id, name FROM users WHERE id = ANY($1)\"")?,
        Server::start(&arguments, "")?,
    ];
    let mut rates: [Vec<f64>; 2] = Default::default();
    let mut queries = [0; 2];
    for round in 0..arguments.rounds {
        // Each lane is first every other time.
        for lane in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let before = servers[lane].queries()?;
            let took = servers[lane].load_all(&arguments)?;
            queries[lane] = servers[lane].queries()? - before;
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

/// A server with one loader. Ends with the value.
struct Server {
    process: Child,
    port: u16,
    conf: PathBuf,
}

impl Server {
    fn start(arguments: &Arguments, batch_sql: &str) -> anyhow::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let conf = std::env::temp_dir().join(format!("leasehold-batching-{port}.toml"));
        let queue = (arguments.connections * arguments.pipeline).max(1_000);
        let text = format!(
            "[sources.main]\nurl = {:?}\nacquire_timeout = \"30s\"\n[loaders.user]\nmatch = \"user:{{id:int}}\"\nsource = \"main\"\n\
             sql = \"SELECT id, name FROM users WHERE id = $1\"\nhard_timeout = \"60s\"\nqueue = {queue}\n{batch_sql}\n",
            arguments.source
        );
        std::fs::write(&conf, text)?;
        let mut command = Command::new(&arguments.server);
        command.arg("--conf").arg(&conf).arg("--port").arg(port.to_string()).stdout(Stdio::null());
        system::die_with_parent(&mut command);
        let process = command.spawn().with_context(|| format!("cannot start {}", arguments.server.display()))?;
        let server = Self { process, port, conf };
        let patience = Instant::now() + START_PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(Instant::now() < patience, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn connect(&self) -> anyhow::Result<BufReader<TcpStream>> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(REPLY_PATIENCE))?;
        Ok(BufReader::new(socket))
    }

    /// Queries since the start.
    fn queries(&self) -> anyhow::Result<u64> {
        let mut socket = self.connect()?;
        socket.get_mut().write_all(b"INFO loaders\r\n")?;
        let info = read_bulk(&mut socket)?;
        let field = info.split([',', '\r']).find_map(|field| field.strip_prefix("batches="));
        Ok(field.context("INFO tells of the loader")?.parse()?)
    }

    /// Empties the server and reads all keys once.
    fn load_all(&self, arguments: &Arguments) -> anyhow::Result<Duration> {
        let mut socket = self.connect()?;
        socket.get_mut().write_all(b"FLUSHALL\r\n")?;
        let mut line = String::new();
        socket.read_line(&mut line)?;
        ensure!(line == "+OK\r\n", "FLUSHALL: {line}");
        let mut sockets = (0..arguments.connections).map(|_| self.connect()).collect::<anyhow::Result<Vec<_>>>()?;
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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.conf);
    }
}

/// Reads keys in pipelines, and checks that each answer is the row of its key.
fn read_all(socket: &mut BufReader<TcpStream>, ids: Vec<usize>, pipeline: usize) -> anyhow::Result<()> {
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

fn read_bulk(socket: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    socket.read_line(&mut line)?;
    let len: usize = line
        .strip_prefix('$')
        .and_then(|len| len.trim_end().parse().ok())
        .with_context(|| format!("not a value: {line}"))?;
    let mut bytes = vec![0; len + 2];
    socket.read_exact(&mut bytes)?;
    bytes.truncate(len);
    Ok(String::from_utf8(bytes)?)
}
