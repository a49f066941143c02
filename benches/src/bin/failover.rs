//! Failover: how long clients wait when a node of a cluster is lost, until another one answers for it.
//!
//! Three nodes and a gutter with their defaults; clients of node a read keys of node b without a pause. Then node b is killed, or stopped, or all packets to it
//! are lost. Each node's loader says which node it is, so an answer tells who gave it. Time runs from before the kill, or from the last answer of a node that
//! falls silent, to the arrival of the gutter's first answer, and to that of its first answer to the client that got it last. Reads that are refused are counted.
//!
//! For packets to be lost, node b gets a network of its own, and that takes one for all of this: `benches/failover` makes it.

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use leasehold_benches::record::{self, Circumstances};
use leasehold_benches::served::{Socket, read_bulk};
use leasehold_benches::system;
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Measures how long reads wait when their node is killed, stopped, or cut off.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// The server.
    #[arg(long, default_value = "target/release/leasehold")]
    server: PathBuf,
    /// Losses of each kind.
    #[arg(long, default_value_t = 50)]
    repetitions: usize,
    /// This process has a network of its own: node b gets another one, so that packets to it can be lost.
    #[arg(long)]
    own_network: bool,
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
}

const NAMES: [&str; 4] = ["a", "b", "c", "g"];
const VICTIM: usize = 1;

/// Clients that read.
const READERS: usize = 4;

/// Answers of the node itself that each of them has had before it is lost.
const READS_BEFORE: usize = 20;

/// No answer in this time ends the bench.
const PATIENCE: Duration = Duration::from_secs(30);

/// `peer-timeout` as it is if nobody says otherwise.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// What is needed: 99 of 100 kills, and any stop or cut.
const KILL_P99_MAX: Duration = Duration::from_millis(250);
const SILENCE_MAX: Duration = Duration::from_millis(100 + PEER_TIMEOUT.as_millis() as u64);

/// The two networks, where node b has one of its own, and a hardware address that nobody has there.
const OUTSIDE: &str = "10.78.0.1";
const INSIDE: &str = "10.78.0.2";
const NOBODY: &str = "02:00:00:00:00:99";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Kill,
    Stop,
    Hole,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Stop => "SIGSTOP",
            Self::Hole => "all packets to it are lost",
        }
    }
}

/// The times of one kind of loss.
struct Times {
    loss: Loss,
    /// To the gutter's first answer.
    first: Vec<Duration>,
    /// To that of the client that waited longest.
    last: Vec<Duration>,
    /// Reads that were answered with an error, which a node does that hears from no majority just then.
    refused: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cores = std::thread::available_parallelism()?.get();
    let here = Circumstances::here(benches, "failover", cores, arguments.repetitions, 0.0);
    let folder = std::env::temp_dir().join(format!("leasehold-failover-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&arguments, &folder);
    fs::remove_dir_all(&folder)?;
    let times = measured?;
    let table = table(&arguments, &times);
    writeln!(std::io::stdout(), "{table}")?;
    if !arguments.no_record {
        let path = record::write_text(&benches.join("records"), "failover", &here, &table, &json(&times))?;
        writeln!(std::io::stdout(), "record: {}", path.display())?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, folder: &Path) -> anyhow::Result<Vec<Times>> {
    let mut all = Vec::new();
    for loss in [Loss::Kill, Loss::Stop, Loss::Hole] {
        if loss == Loss::Hole && !arguments.own_network {
            continue;
        }
        let mut cluster = Cluster::start(arguments, folder, loss == Loss::Hole)?;
        let mut times = Times { loss, first: Vec::new(), last: Vec::new(), refused: 0 };
        for repetition in 1..=arguments.repetitions {
            cluster.until_well()?;
            cluster.lose(&mut times)?;
            cluster.find(loss)?;
            if repetition.is_multiple_of(10) {
                writeln!(std::io::stderr(), "{}: {repetition} of {}", loss.name(), arguments.repetitions)?;
            }
        }
        all.push(times);
    }
    Ok(all)
}

/// The nodes. They end with the value.
struct Cluster {
    server: PathBuf,
    folder: PathBuf,
    /// In the order of [`NAMES`].
    addresses: Vec<SocketAddr>,
    nodes: Vec<Child>,
    /// Whether node b has a network of its own.
    is_apart: bool,
}

impl Cluster {
    fn start(arguments: &Arguments, folder: &Path, is_apart: bool) -> anyhow::Result<Self> {
        let server = fs::canonicalize(&arguments.server).context("the server is not built")?;
        let mut addresses = Vec::new();
        for place in 0..NAMES.len() {
            let ip = match (is_apart, place) {
                (false, _) => "127.0.0.1",
                (true, VICTIM) => INSIDE,
                (true, _) => OUTSIDE,
            };
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            addresses.push(SocketAddr::new(ip.parse()?, port));
        }
        let users = "CREATE TABLE users (id INTEGER PRIMARY KEY);
            WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 1000) INSERT INTO users SELECT id FROM ids;";
        fs::write(folder.join("users.sql"), users)?;
        let mut cluster = Self { server, folder: folder.to_owned(), addresses, nodes: Vec::new(), is_apart };
        for place in 0..NAMES.len() {
            fs::write(cluster.conf(place), cluster.conf_text(place))?;
        }
        // With node b comes the line between the networks, and so the address of the others; and it makes the database.
        for place in [VICTIM, 0, 2, 3] {
            let node = cluster.start_node(place)?;
            cluster.nodes.insert(place.min(cluster.nodes.len()), node);
        }
        Ok(cluster)
    }

    fn conf(&self, place: usize) -> PathBuf {
        self.folder.join(format!("{}.toml", NAMES[place]))
    }

    /// How long a node stays out that was out before has nothing to do with what is measured.
    fn conf_text(&self, place: usize) -> String {
        let tables = NAMES.iter().zip(&self.addresses).map(|(name, address)| {
            let pool = if *name == "g" { "pool = \"gutter\"\n" } else { "" };
            format!("[nodes.{name}]\naddress = \"{address}\"\n{pool}")
        });
        format!(
            "gutter = \"pool\"\nflap-out = \"0s\"\nloglevel = \"nothing\"\n{}\n[sources.main]\nurl = \"sqlite:{}\"\ncreate_with = \"{}\"\n\n\
             [loaders.user]\nmatch = \"user:{{id:int}}\"\nsource = \"main\"\nsql = \"SELECT id, '{}' AS node FROM users WHERE id = $1\"\n",
            tables.collect::<String>(),
            self.folder.join("users.db").display(),
            self.folder.join("users.sql").display(),
            NAMES[place],
        )
    }

    /// Returns when it listens.
    fn start_node(&self, place: usize) -> anyhow::Result<Child> {
        let address = self.addresses[place];
        let is_apart = self.is_apart && place == VICTIM;
        let mut command = if is_apart {
            let mut command = Command::new("unshare");
            let script = format!("read go; ip addr add {INSIDE}/24 dev inside && ip link set inside up && exec \"$@\"");
            command.args(["--net", "--", "sh", "-c", &script, "sh"]).arg(&self.server).stdin(Stdio::piped());
            command
        } else {
            Command::new(&self.server)
        };
        command.arg("--conf").arg(self.conf(place)).arg("--port").arg(address.port().to_string());
        command.args(["--bind", &address.ip().to_string(), "--set", &format!("node={}", NAMES[place])]);
        system::die_with_parent(&mut command);
        let mut child = command.stdout(Stdio::null()).spawn().context("a node cannot be started")?;
        if is_apart {
            let pid = child.id().to_string();
            let own = fs::read_link("/proc/self/ns/net")?;
            until("node b has a network of its own", || {
                fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|network| network != own)
            })?;
            ip(&["link", "add", "outside", "type", "veth", "peer", "name", "inside", "netns", &pid])?;
            ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", "outside"])?;
            ip(&["link", "set", "outside", "up"])?;
            child.stdin.take().context("it has a pipe")?.write_all(b"go\n")?;
        }
        let mut has_ended = false;
        until("a node listens", || {
            has_ended = child.try_wait().is_ok_and(|status| status.is_some());
            has_ended || TcpStream::connect(address).is_ok()
        })?;
        ensure!(!has_ended, "node {} has ended", NAMES[place]);
        Ok(child)
    }

    fn connect(&self) -> anyhow::Result<Socket> {
        let socket = TcpStream::connect(self.addresses[0])?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(socket))
    }

    /// Waits until node a sees all others well, hears from a majority, and gets answers of node b itself.
    fn until_well(&self) -> anyhow::Result<()> {
        let mut socket = self.connect()?;
        until("node a sees all well", || {
            let mut info = |section: &str| text(&mut socket, section).unwrap_or_default();
            info("INFO cluster").matches(":state=well,").count() == NAMES.len() - 1
                && info("CLUSTER INFO").contains("x_cluster_majority:1")
        })
    }

    /// Loses node b while clients read its keys, and notes how long they have waited for an answer of the gutter.
    fn lose(&mut self, times: &mut Times) -> anyhow::Result<()> {
        let loss = times.loss;
        let mut socket = self.connect()?;
        let mut keys = Vec::new();
        for id in 1..=1000 {
            if keys.len() < READERS && text(&mut socket, &format!("GET user:{id}"))?.contains("\"b\"") {
                keys.push(format!("user:{id}"));
            }
        }
        ensure!(keys.len() == READERS, "node b has {} of 1000 keys", keys.len());
        let sockets = keys.iter().map(|_| self.connect()).collect::<anyhow::Result<Vec<_>>>()?;
        let reads = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let readers: Vec<_> = keys
                .into_iter()
                .zip(sockets)
                .map(|(key, socket)| scope.spawn(|| until_gutter(key, socket, &reads)))
                .collect();
            until("clients read", || reads.load(Ordering::Relaxed) >= READERS * READS_BEFORE)?;
            let before_loss = Instant::now();
            match loss {
                Loss::Kill => self.nodes[VICTIM].kill()?,
                Loss::Stop => self.signal("STOP")?,
                Loss::Hole => {
                    ip(&["neigh", "replace", INSIDE, "lladdr", NOBODY, "dev", "outside", "nud", "permanent"])?
                }
            }
            let answers = readers
                .into_iter()
                .map(|reader| reader.join().map_err(|_| anyhow::anyhow!("a reader has panicked"))?)
                .collect::<anyhow::Result<Vec<Answers>>>()?;
            let last_of_node = answers.iter().map(|answers| answers.last_of_node).max().context("there are readers")?;
            let lost = if loss == Loss::Kill { before_loss } else { last_of_node };
            let waits = answers.iter().map(|answers| answers.first_of_gutter.saturating_duration_since(lost));
            times.first.extend(waits.clone().min());
            times.last.extend(waits.max());
            times.refused += answers.iter().map(|answers| answers.refused).sum::<u64>();
            Ok(())
        })
    }

    /// Has node b back.
    fn find(&mut self, loss: Loss) -> anyhow::Result<()> {
        match loss {
            Loss::Kill => {
                self.nodes[VICTIM].wait()?;
                self.nodes[VICTIM] = self.start_node(VICTIM)?;
                Ok(())
            }
            Loss::Stop => self.signal("CONT"),
            Loss::Hole => ip(&["neigh", "del", INSIDE, "dev", "outside"]),
        }
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.nodes[VICTIM].id().to_string();
        ensure!(Command::new("kill").args([&format!("-{name}"), &pid]).status()?.success(), "kill -{name}");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// When a client got them.
struct Answers {
    last_of_node: Instant,
    first_of_gutter: Instant,
    /// Errors.
    refused: u64,
}

/// Reads a key until the gutter answers.
fn until_gutter(key: String, mut socket: Socket, reads: &AtomicUsize) -> anyhow::Result<Answers> {
    let begun = Instant::now();
    let (mut last_of_node, mut refused) = (begun, 0);
    loop {
        ensure!(begun.elapsed() < PATIENCE, "node b answers on, or nobody does");
        let answer = match text(&mut socket, &format!("GET {key}")) {
            // Its line has been read.
            Err(error) if error.to_string().contains("-CLUSTERDOWN ") => {
                refused += 1;
                continue;
            }
            answer => answer?,
        };
        let arrived = Instant::now();
        if answer.contains("\"g\"") {
            return Ok(Answers { last_of_node, first_of_gutter: arrived, refused });
        }
        ensure!(answer.contains("\"b\""), "{key} is {answer}");
        last_of_node = arrived;
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

fn text(socket: &mut Socket, request: &str) -> anyhow::Result<String> {
    socket.get_mut().write_all(format!("{request}\r\n").as_bytes())?;
    read_bulk(socket)
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("ip").args(words).status().context("`ip` is not installed")?;
    ensure!(status.success(), "ip {}", words.join(" "));
    Ok(())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let patience = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > patience {
            bail!("waited in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn quantile(times: &[Duration], quantile: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

fn table(arguments: &Arguments, times: &[Times]) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut text = format!(
        "### failover\n\n{} losses of a node of each kind, {READERS} clients that read its keys by way of another one, defaults but `flap-out`; from before the kill, or \
         from the last answer of the node that falls silent, to the gutter's first answer, and to its first answer to the last of the clients. Server: `{}`.\n\n\
         | loss | first p50 ms | p99 ms | max ms | last p50 ms | p99 ms | max ms | refused | need |\n|---|--:|--:|--:|--:|--:|--:|--:|---|\n",
        arguments.repetitions,
        arguments.server.display(),
    );
    for Times { loss, first, last, refused } in times {
        let (seen, most, what) = match loss {
            Loss::Kill => (quantile(first, 0.99), KILL_P99_MAX, "p99"),
            Loss::Stop | Loss::Hole => (quantile(first, 1.0), SILENCE_MAX, "max"),
        };
        let verdict = if seen <= most { "met" } else { "missed" };
        let _ = write!(text, "| {} |", loss.name());
        for times in [first, last] {
            for share in [0.5, 0.99, 1.0] {
                let _ = write!(text, " {:.1} |", ms(quantile(times, share)));
            }
        }
        let _ = writeln!(text, " {refused} | {what} ≤ {:.0} ms: **{verdict}** |", ms(most));
    }
    text
}

fn json(times: &[Times]) -> serde_json::Value {
    let us = |times: &[Duration]| times.iter().map(|time| time.as_micros() as u64).collect::<Vec<_>>();
    let one =
        |times: &Times| json!({ "loss": times.loss.name(), "first_us": us(&times.first), "last_us": us(&times.last) });
    times.iter().map(one).collect()
}
