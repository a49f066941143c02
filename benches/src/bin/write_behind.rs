//! Writing behind: what a stream of writes costs a PostgreSQL when its clients write to it, when they write through a server, and when
//! the server answers once its journal has the write.
//!
//! The same connections send the same writes, one after the other, to each lane in turn; a round of a lane ends when the database has all
//! of them. So the table tells what the writers wait for, and how long the database needs for the lot. `benches/write_behind` starts a
//! database for it, which syncs each commit to the disk.

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use leasehold_benches::histogram::Histogram;
use leasehold_benches::keys::{Distribution, Keys};
use leasehold_benches::postgres::{Address, Connection};
use leasehold_benches::record::{self, Circumstances, Spread};
use leasehold_benches::served::{Served, Socket, read_line};
use leasehold_benches::system;
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Measures writes that go straight to a database, through a server, and behind one.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// A PostgreSQL database in which tables may be made, as a user who sees all of the server.
    #[arg(long)]
    source: String,
    /// A directory for the journals, on the disk that the database is on.
    #[arg(long)]
    folder: PathBuf,
    /// The server.
    #[arg(long, default_value = "target/release/leasehold")]
    server: PathBuf,
    /// Writes of one lane in one round.
    #[arg(long, default_value_t = 20_000)]
    writes: u64,
    /// Different keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Connections that write.
    #[arg(long, default_value_t = 16)]
    connections: u64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
}

/// Bytes of a value, about.
const VALUE_BYTES: usize = 100;

/// Of the hot stream: so many of a hundred writes go to so many keys.
const HOT_PERCENT: u8 = 90;
const HOT_KEYS: u64 = 10;

/// Lanes: a name, `write` of the loader, `fsync` of the journal. The first has no server.
const LANES: [(&str, &str, &str); 5] = [
    ("straight to the database", "", ""),
    ("through", "through", ""),
    ("behind, always", "behind", "always"),
    ("behind, everysec", "behind", "everysec"),
    ("behind, no", "behind", "no"),
];

/// Which keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// Each as likely as another; each connection has its own.
    Spread,
    /// [`HOT_PERCENT`] of the writes go to [`HOT_KEYS`] keys, by all connections.
    Hot,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Spread => "spread keys",
            Self::Hot => "hot keys",
        }
    }
}

/// One lane of one round.
struct Measure {
    /// Until the last write was answered.
    answered: Duration,
    /// Until the database had all.
    stored: Duration,
    times: Histogram,
    database_cpu: Duration,
    /// That have written.
    transactions: u64,
    /// Of the journal.
    syncs: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.writes > 0 && arguments.connections > 0 && arguments.rounds > 0);
    ensure!(arguments.keys >= arguments.connections, "each connection has a key of its own");
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the benches lie in the workspace")?;
    let cores = std::thread::available_parallelism()?.get();
    let here = Circumstances::here(tree, "write_behind", cores, arguments.rounds, 0.0);
    let mut lanes = Vec::new();
    for (number, (_, write, fsync)) in LANES.iter().enumerate() {
        lanes.push(Lane::start(&arguments, number, write, fsync)?);
    }
    let mut table = String::new();
    let mut rounds_json = Vec::new();
    for stream in [Stream::Spread, Stream::Hot] {
        let mut measures: Vec<Vec<Measure>> = LANES.iter().map(|_| Vec::new()).collect();
        for round in 0..arguments.rounds {
            // Each time another is first, and every other time backwards.
            let mut order: Vec<usize> = (0..LANES.len()).map(|place| (place + round) % LANES.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for lane in order {
                let measure = lanes[lane].measure(&arguments, stream, round as u64)?;
                rounds_json.push(measure.json(stream, LANES[lane].0, round));
                measures[lane].push(measure);
            }
        }
        show(&mut table, &arguments, stream, &measures);
    }
    write!(std::io::stdout(), "{table}")?;
    if !arguments.no_record {
        let about = format!(
            "{} writes a round over {} keys, {} connections with one write under way each, values of {VALUE_BYTES} bytes; \
             {} rounds. PostgreSQL syncs each commit.\n\n",
            arguments.writes, arguments.keys, arguments.connections, arguments.rounds
        );
        let json = json!({ "writes": arguments.writes, "keys": arguments.keys, "rounds": rounds_json });
        record::write_text(&tree.join("benches/records"), "write-behind", &here, &(about + &table), &json)?;
    }
    Ok(())
}

impl Measure {
    fn json(&self, stream: Stream, lane: &str, round: usize) -> serde_json::Value {
        json!({
            "stream": stream.name(),
            "lane": lane,
            "round": round,
            "answered_ms": self.answered.as_secs_f64() * 1e3,
            "stored_ms": self.stored.as_secs_f64() * 1e3,
            "p50_us": self.times.quantile_ns(0.5) / 1_000,
            "p99_us": self.times.quantile_ns(0.99) / 1_000,
            "database_cpu_ms": self.database_cpu.as_secs_f64() * 1e3,
            "transactions": self.transactions,
            "syncs": self.syncs,
        })
    }
}

fn show(table: &mut String, arguments: &Arguments, stream: Stream, measures: &[Vec<Measure>]) {
    let writes = arguments.writes as f64;
    let _ = writeln!(
        table,
        "\n**{}**\n\n| lane | answered writes/s | × straight | stored writes/s | × straight | p50 µs | p99 µs | database CPU µs/write | × straight | \
         transactions/write | syncs/write |\n|---|---|---|---|---|---|---|---|---|---|---|",
        stream.name()
    );
    let of = |lane: usize, what: &dyn Fn(&Measure) -> f64| Spread::of(measures[lane].iter().map(what));
    // Ratios are taken within rounds.
    let against = |lane: usize, what: &dyn Fn(&Measure) -> f64| {
        Spread::of(measures[lane].iter().zip(&measures[0]).map(|(mine, straight)| what(mine) / what(straight)))
    };
    let spread = |Spread { median, min, max }: Spread| format!("{median:.0} ({min:.0} – {max:.0})");
    let answered = |measure: &Measure| writes / measure.answered.as_secs_f64();
    let stored = |measure: &Measure| writes / measure.stored.as_secs_f64();
    let cpu = |measure: &Measure| (measure.database_cpu.as_secs_f64() * 1e6 / writes).max(1e-9);
    for (lane, (name, _, _)) in LANES.iter().enumerate() {
        let _ = writeln!(
            table,
            "| {name} | {} | {:.2} | {} | {:.2} | {:.0} | {:.0} | {:.0} | {:.2} | {:.3} | {:.3} |",
            spread(of(lane, &answered)),
            against(lane, &answered).median,
            spread(of(lane, &stored)),
            against(lane, &stored).median,
            of(lane, &|measure| measure.times.quantile_ns(0.5) as f64 / 1e3).median,
            of(lane, &|measure| measure.times.quantile_ns(0.99) as f64 / 1e3).median,
            of(lane, &cpu).median,
            against(lane, &cpu).median,
            of(lane, &|measure| measure.transactions as f64 / writes).median,
            of(lane, &|measure| measure.syncs as f64 / writes).median,
        );
    }
}

/// One way of the writes, with a table of its own.
struct Lane {
    number: usize,
    address: Address,
    server: Option<Served>,
    write: &'static str,
}

impl Lane {
    fn start(arguments: &Arguments, number: usize, write: &'static str, fsync: &'static str) -> anyhow::Result<Self> {
        let address = Address::of_url(&arguments.source)?;
        let mut database = Connection::open(&address)?;
        database.query(&format!(
            "DROP TABLE IF EXISTS lane{number}; CREATE TABLE lane{number} (id int8 PRIMARY KEY, body text);
             CREATE TABLE IF NOT EXISTS leasehold_writes (journal text PRIMARY KEY, seq bigint NOT NULL)"
        ))?;
        let server = if write.is_empty() { None } else { Some(serve(arguments, number, write, fsync)?) };
        Ok(Self { number, address, server, write })
    }

    fn measure(&self, arguments: &Arguments, stream: Stream, round: u64) -> anyhow::Result<Measure> {
        let number = self.number;
        let mut database = Connection::open(&self.address)?;
        // The next round begins as this did, whatever the one before has left.
        database.query(&format!("TRUNCATE lane{number}; CHECKPOINT"))?;
        let mut sockets = (0..arguments.connections).map(|_| self.writer()).collect::<anyhow::Result<Vec<_>>>()?;
        let transactions = database.number("SELECT txid_current()")?;
        let (cpu, syncs) = (database_cpu(&mut database)?, self.syncs()?);
        let begun = Instant::now();
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            let writers: Vec<_> = sockets
                .iter_mut()
                .enumerate()
                .map(|(connection, socket)| {
                    scope.spawn(move || write_all(socket, arguments, stream, round, connection as u64))
                })
                .collect();
            writers.into_iter().try_for_each(|writer| match writer.join() {
                Ok(wrote) => {
                    seen.push(wrote?);
                    Ok(())
                }
                Err(_) => bail!("a writer panicked"),
            })
        })?;
        let answered = begun.elapsed();
        if let Some(server) = self.server.as_ref().filter(|_| self.write == "behind") {
            wait_stored(server)?;
        }
        let stored = begun.elapsed();
        let database_cpu = database_cpu(&mut database)?;
        let database_cpu =
            database_cpu.iter().map(|(id, now)| *now - cpu.get(id).copied().unwrap_or(0).min(*now)).sum();
        let transactions = database.number("SELECT txid_current()")? - transactions - 1;
        let mut times = Histogram::default();
        let mut last: HashMap<u64, u64> = HashMap::new();
        for (histogram, written) in seen {
            times.merge(&histogram);
            last.extend(written);
        }
        let rows = database.number(&format!("SELECT count(*) FROM lane{number}"))?;
        ensure!(rows == last.len() as u64, "{}: {rows} rows of {} keys", LANES[number].0, last.len());
        if stream == Stream::Spread {
            // Each key has one writer, so its last write is known.
            let sum = database.number(&format!("SELECT sum(split_part(body, ' ', 1)::int8) FROM lane{number}"))?;
            ensure!(sum == last.values().sum::<u64>(), "{}: another sum of last writes", LANES[number].0);
        }
        let syncs = self.syncs()? - syncs;
        Ok(Measure { answered, stored, times, database_cpu: Duration::from_nanos(database_cpu), transactions, syncs })
    }

    fn writer(&self) -> anyhow::Result<Writer> {
        match &self.server {
            Some(server) => Ok(Writer::Server(server.connect()?)),
            None => {
                let mut connection = Connection::open(&self.address)?;
                connection.prepare(&upsert(self.number))?;
                Ok(Writer::Database(connection))
            }
        }
    }

    /// Of the journal since the start.
    fn syncs(&self) -> anyhow::Result<u64> {
        match self.server.as_ref().filter(|_| self.write == "behind") {
            Some(server) => Ok(server.counter("key", "journal_syncs")?.try_into()?),
            None => Ok(0),
        }
    }
}

fn upsert(lane: usize) -> String {
    format!("INSERT INTO lane{lane} VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body")
}

/// CPU time of each process of the database, in ns.
fn database_cpu(database: &mut Connection) -> anyhow::Result<HashMap<u32, u64>> {
    let text = database.query("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")?;
    let postmaster: u32 = text.context("the database has a first process")?.trim().parse()?;
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
    let all = children.split_whitespace().filter_map(|id| id.parse().ok()).chain([postmaster]);
    // One that has just ended is of no use.
    Ok(all.filter_map(|id| Some((id, system::process_cpu_ns(id).ok()?))).collect())
}

enum Writer {
    Database(Connection),
    Server(Socket),
}

/// Sends a connection's share of the writes; times, and the last write of each key.
fn write_all(
    writer: &mut Writer,
    arguments: &Arguments,
    stream: Stream,
    round: u64,
    connection: u64,
) -> anyhow::Result<(Histogram, HashMap<u64, u64>)> {
    let (connections, keys) = (arguments.connections, arguments.keys);
    // The same for every lane.
    let mut random = Keys::new(Distribution::Uniform, keys / connections, round * connections + connection + 1);
    let mut times = Histogram::default();
    let mut last = HashMap::new();
    let filler = "x".repeat(VALUE_BYTES.saturating_sub(8));
    for number in (connection..arguments.writes).step_by(connections as usize) {
        let key = match stream {
            Stream::Hot if random.percent(HOT_PERCENT) => random.next() % HOT_KEYS,
            Stream::Spread | Stream::Hot => random.next() * connections + connection,
        };
        let value = format!("{number} {filler}");
        let begun = Instant::now();
        match writer {
            Writer::Database(database) => database.execute(&[&key.to_string(), &value])?,
            Writer::Server(socket) => {
                let key = format!("key:{key}");
                let request = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len());
                socket.get_mut().write_all(request.as_bytes())?;
                let line = read_line(socket)?;
                ensure!(line == "+OK", "{key}: {line}");
            }
        }
        times.record(u64::try_from(begun.elapsed().as_nanos())?, 1);
        last.insert(key, number);
    }
    Ok((times, last))
}

/// A server with one loader, `key`.
fn serve(arguments: &Arguments, number: usize, write: &str, fsync: &str) -> anyhow::Result<Served> {
    let journal = match write {
        "behind" => {
            format!("[journal]\ndir = \"{}/journal{number}\"\nfsync = \"{fsync}\"\n", arguments.folder.display())
        }
        _ => String::new(),
    };
    let text = format!(
        "[sources.main]\nurl = {:?}\nmax_connections = {connections}\nacquire_timeout = \"30s\"\n[loaders.key]\nmatch = \"key:{{id:int}}\"\n\
         source = \"main\"\nsql = \"SELECT id, body FROM lane{number} WHERE id = $1\"\nvalue = \"column\"\nhard_timeout = \"60s\"\n\
         max_concurrency = {connections}\nwrite = \"{write}\"\nupsert_sql = \"{}\"\n{journal}",
        arguments.source,
        upsert(number),
        connections = arguments.connections,
    );
    Served::start(&arguments.server, &arguments.folder, &text)
}

/// Waits until the database has all that was written.
fn wait_stored(server: &Served) -> anyhow::Result<()> {
    let mut socket = server.connect()?;
    socket.get_mut().write_all(b"WAITDB 30000\r\n")?;
    let line = read_line(&mut socket)?;
    ensure!(line == ":0", "WAITDB: {line}");
    ensure!(server.counter("key", "dead_letters")? == 0, "the database has refused a write");
    ensure!(server.counter("key", "behind_direct")? == 0, "the journal was full");
    Ok(())
}
