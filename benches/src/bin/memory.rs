//! Memory, from the resident set of server processes: what an entry costs beyond its key and value, how many entries a limit
//! holds, what stays resident while the sizes of values change, and what an idle connection costs.

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use leasehold_benches::keys::{Distribution, Keys};
use leasehold_benches::record::{self, Circumstances};
use leasehold_benches::rival::{self, Server, StartError};
use leasehold_benches::wire::{Protocol, Shape};
use leasehold_benches::{preload, workload::Plans, workload::Rival};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Measures resident memory of Leasehold and of the rivals that are installed.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Entries of the first table.
    #[arg(long, default_value_t = 2_000_000)]
    entries: u64,
    /// Idle connections of the last.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Only these rivals; repeat for more.
    #[arg(long)]
    rival: Vec<String>,
    /// Print the tables and write no record.
    #[arg(long)]
    no_record: bool,
}

const RIVALS: [&str; 4] = ["leasehold", "redis", "valkey", "memcached"];
const KEY_BYTES: usize = 16;
const VALUE_BYTES: [usize; 3] = [32, 100, 500];
const LIMIT_BYTES: u64 = 256 << 20;
/// Written to a server under the limit: more than it can hold.
const OFFERED: u64 = 3_000_000;
/// What a server does after the last reply (giving memory back) has so long.
const SETTLE: Duration = Duration::from_millis(1500);
/// A size is drawn from so many.
const DRAWS: u64 = 1 << 24;
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// What values there are for a while.
struct Phase {
    name: &'static str,
    /// Sizes are drawn so that each order of magnitude between these is as likely.
    bytes: (u64, u64),
    /// Bytes written, all values together.
    total: u64,
}

/// The trouble of allocators and of slabs alike: what was cut for one size is wanted for another.
const PHASES: [Phase; 8] = [
    Phase { name: "50 B", bytes: (50, 50), total: 500 << 20 },
    Phase { name: "5 KB", bytes: (5_000, 5_000), total: 1 << 30 },
    Phase { name: "50 B", bytes: (50, 50), total: 500 << 20 },
    Phase { name: "8 B to 256 KB", bytes: (8, 256 << 10), total: 2 << 30 },
    Phase { name: "50 B", bytes: (50, 50), total: 500 << 20 },
    Phase { name: "8 B to 4 KB", bytes: (8, 4 << 10), total: 1 << 30 },
    Phase { name: "100 KB to 1 MB", bytes: (100 << 10, 1 << 20), total: 2 << 30 },
    Phase { name: "50 B", bytes: (50, 50), total: 500 << 20 },
];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = Circumstances::here(benches, "memory", rival::all_cores().len(), 1, 0.0);
    let plans = Plans::read(&benches.join("workloads"))?;
    let is_wanted = |name: &str| arguments.rival.is_empty() || arguments.rival.iter().any(|wanted| wanted == name);
    let rivals: Vec<&Rival> =
        RIVALS.iter().filter(|name| is_wanted(name)).filter_map(|name| plans.rival(name)).collect();
    let mut report = Report::default();
    overheads(&rivals, arguments.entries, &mut report)?;
    capacities(&rivals, &mut report)?;
    for policy in ["allkeys-tinylfu", "allkeys-lru"] {
        if let Some(leasehold) = rivals.iter().find(|rival| rival.name == "leasehold") {
            changing_sizes(leasehold, policy, &mut report)?;
        }
    }
    connections(&rivals, arguments.connections, &mut report)?;
    writeln!(std::io::stdout(), "{}", report.text)?;
    if !arguments.no_record {
        let path = record::write_text(&benches.join("records"), "memory", &here, &report.text, &json!(report.figures))?;
        writeln!(std::io::stdout(), "record: {}", path.display())?;
    }
    Ok(())
}

/// Tables for people, figures for programs.
#[derive(Default)]
struct Report {
    text: String,
    figures: Vec<serde_json::Value>,
}

impl Report {
    fn heading(&mut self, name: &str, about: &str, columns: &str) {
        let rule: String =
            columns.matches('|').skip(1).enumerate().map(|(at, _)| if at == 0 { "---|" } else { "--:|" }).collect();
        let _ = writeln!(self.text, "### {name}\n\n{about}\n\n{columns}\n|{rule}");
    }
}

/// Starts a server with more arguments than its command has; `None` if it is not installed.
fn start(rival: &Rival, more: &[&str]) -> anyhow::Result<Option<Server>> {
    let mut rival = rival.clone();
    rival.command.extend(more.iter().map(|&word| word.to_owned()));
    match Server::start(&rival, 1, &[0], &shape(VALUE_BYTES[0]), 0) {
        Ok(server) => Ok(Some(server)),
        Err(StartError::Missing(_)) => Ok(None),
        Err(StartError::Failed(error)) => Err(error),
    }
}

fn shape(value_bytes: usize) -> Shape {
    Shape { prefix: "key:".into(), key_bytes: KEY_BYTES, value_bytes }
}

fn overheads(rivals: &[&Rival], entries: u64, report: &mut Report) -> anyhow::Result<()> {
    let about = format!(
        "Bytes an entry beyond key ({KEY_BYTES} bytes) and value: the growth of the resident set over {entries} entries, divided by them."
    );
    report.heading("overhead", &about, "| server | 32 B | 100 B | 500 B |");
    for rival in rivals {
        let mut row = Vec::new();
        for value_bytes in VALUE_BYTES {
            // No limit, or one that this does not reach.
            let Some(server) = start(rival, &[])? else { break };
            let before = server.resident_bytes()?;
            let shape = shape(value_bytes);
            preload::preload(rival.preload, server.address, rival.protocol, &shape, entries)?;
            std::thread::sleep(SETTLE);
            let grown = server.resident_bytes()?.saturating_sub(before);
            let overhead = grown as f64 / entries as f64 - (KEY_BYTES + value_bytes) as f64;
            row.push(format!("{overhead:.1}"));
            report.figures.push(
                json!({ "table": "overhead", "server": rival.name, "value_bytes": value_bytes, "overhead": overhead }),
            );
        }
        if !row.is_empty() {
            let _ = writeln!(report.text, "| {} | {} |", rival.name, row.join(" | "));
        }
    }
    Ok(())
}

fn capacities(rivals: &[&Rival], report: &mut Report) -> anyhow::Result<()> {
    let about = format!(
        "Entries held with 100-byte values in 256 MiB after {OFFERED} were written, the server evicting, and what is resident then."
    );
    report.text.push('\n');
    report.heading("entries in 256 MiB", &about, "| server | entries | resident MB |");
    for rival in rivals {
        let limit = LIMIT_BYTES.to_string();
        let more: &[&str] = match rival.name.as_str() {
            "leasehold" => &["--set", "maxmemory=256mb"],
            "memcached" => &["-m", "256"],
            _ => &["--maxmemory", &limit, "--maxmemory-policy", "allkeys-lru"],
        };
        let Some(server) = start(rival, more)? else { continue };
        preload::preload(rival.preload, server.address, rival.protocol, &shape(100), OFFERED)?;
        std::thread::sleep(SETTLE);
        let (entries, resident) = (held(rival.protocol, server.address)?, server.resident_bytes()?);
        let _ = writeln!(report.text, "| {} | {entries} | {:.1} |", rival.name, resident as f64 / 1e6);
        report
            .figures
            .push(json!({ "table": "entries", "server": rival.name, "entries": entries, "resident_bytes": resident }));
    }
    Ok(())
}

/// Entries that a server says it holds.
fn held(protocol: Protocol, address: SocketAddr) -> anyhow::Result<u64> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
    let (question, prefix): (&[u8], _) = match protocol {
        Protocol::Resp => (b"*1\r\n$6\r\nDBSIZE\r\n", ":"),
        Protocol::Memcached => (b"stats\r\n", "STAT curr_items "),
    };
    socket.write_all(question)?;
    for line in BufReader::new(socket).lines() {
        if let Some(count) = line?.strip_prefix(prefix) {
            return Ok(count.trim().parse()?);
        }
    }
    bail!("the server does not say how many entries it holds")
}

fn changing_sizes(rival: &Rival, policy: &str, report: &mut Report) -> anyhow::Result<()> {
    let bound = LIMIT_BYTES * 105 / 100 + (20 << 20);
    let about = format!(
        "leasehold under {policy} at a limit of {:.1} MB while values change their size. Wanted: 1.05 × the limit + 20 MiB, {:.1} MB.",
        LIMIT_BYTES as f64 / 1e6,
        bound as f64 / 1e6
    );
    report.text.push('\n');
    report.heading(&format!("changing sizes, {policy}"), &about, "| values | resident MB | × limit | verdict |");
    let policy = format!("maxmemory-policy={policy}");
    let Some(server) = start(rival, &["--set", "maxmemory=256mb", "--set", &policy])? else { return Ok(()) };
    let (mut writer, mut random) = (Writer::connect(server.address)?, Keys::new(Distribution::Uniform, DRAWS, 1));
    for phase in &PHASES {
        writer.write(phase, &mut random)?;
        std::thread::sleep(SETTLE);
        let resident = server.resident_bytes()?;
        let ratio = resident as f64 / LIMIT_BYTES as f64;
        let verdict = if resident <= bound { "holds" } else { "does not hold" };
        let _ = writeln!(report.text, "| {} | {:.1} | {ratio:.3} | {verdict} |", phase.name, resident as f64 / 1e6);
        report.figures.push(
            json!({ "table": "changing sizes", "policy": policy, "phase": phase.name, "resident_bytes": resident }),
        );
    }
    Ok(())
}

/// Writes keys that were never there.
struct Writer {
    socket: TcpStream,
    replies: BufReader<TcpStream>,
    key: u64,
}

impl Writer {
    fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        let replies = BufReader::new(socket.try_clone()?);
        Ok(Self { socket, replies, key: 0 })
    }

    fn write(&mut self, phase: &Phase, random: &mut Keys) -> anyhow::Result<()> {
        const BATCH: usize = 64;

        let (least, most) = (phase.bytes.0 as f64, phase.bytes.1 as f64);
        let mut written = 0;
        while written < phase.total {
            let mut request = Vec::new();
            for _ in 0..BATCH {
                let bytes = (least * (most / least).powf(random.next() as f64 / DRAWS as f64)) as usize;
                write!(request, "*3\r\n$3\r\nSET\r\n${KEY_BYTES}\r\n{:016}\r\n${bytes}\r\n", self.key)?;
                request.resize(request.len() + bytes, b'v');
                request.extend_from_slice(b"\r\n");
                self.key += 1;
                written += bytes as u64;
            }
            self.socket.write_all(&request)?;
            let mut replies = vec![0; 5 * BATCH];
            self.replies.read_exact(&mut replies)?;
            ensure!(replies == b"+OK\r\n".repeat(BATCH), "{}", replies.escape_ascii());
        }
        Ok(())
    }
}

fn connections(rivals: &[&Rival], count: usize, report: &mut Report) -> anyhow::Result<()> {
    let maximum = (2 * count).to_string();
    let open_files = Rlimit { current: Some(2 * count as u64), maximum: Some(2 * count as u64) };
    if getrlimit(Resource::Nofile).current.is_some_and(|current| current < 2 * count as u64) {
        setrlimit(Resource::Nofile, open_files).context("too few open files are allowed")?;
    }
    let about = format!("Resident bytes a connection, {count} of them idle after a GET each.");
    report.text.push('\n');
    report.heading("idle connections", &about, "| server | bytes each |");
    for rival in rivals {
        let maxclients = format!("maxclients={maximum}");
        let more = match rival.name.as_str() {
            "leasehold" => ["--set", &maxclients],
            "memcached" => ["-c", &maximum],
            _ => ["--maxclients", &maximum],
        };
        let Some(server) = start(rival, &more)? else { continue };
        let question: &[u8] = match rival.protocol {
            Protocol::Resp => b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
            Protocol::Memcached => b"get k\r\n",
        };
        let mut sockets = Vec::with_capacity(count);
        // The first ones make the server's own buffers.
        for _ in 0..100 {
            sockets.push(asked(server.address, question)?);
        }
        let before = server.resident_bytes()?;
        for _ in 0..count {
            sockets.push(asked(server.address, question)?);
        }
        std::thread::sleep(SETTLE);
        let each = server.resident_bytes()?.saturating_sub(before) as f64 / count as f64;
        let _ = writeln!(report.text, "| {} | {each:.0} |", rival.name);
        report.figures.push(json!({ "table": "idle connections", "server": rival.name, "bytes": each }));
    }
    Ok(())
}

/// A connection that has asked for a key that is not there, and has its answer.
fn asked(address: SocketAddr, question: &[u8]) -> anyhow::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
    socket.write_all(question)?;
    let mut reply = [0; 5];
    socket.read_exact(&mut reply)?;
    ensure!(reply == *b"$-1\r\n" || reply == *b"END\r\n", "{}", reply.escape_ascii());
    Ok(socket)
}
