//! Hot keys: the CPU time of the node that has a key which is read through another one, with copies and without.
//!
//! Two pairs of nodes, which differ in `hot-key-rate` alone. One key of node b is read through node a of each pair, in pipelines; the pairs take turns. What node b
//! pays for a read is its CPU time, divided by all reads; node a's is told, too, as a copy is read there instead of a link written.

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use leasehold_benches::record::{self, Circumstances, Spread};
use leasehold_benches::served::{Served, Socket, read_bulk, read_line};
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Measures what a hot key costs its node.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// The server.
    #[arg(long, default_value = "target/release/leasehold")]
    server: PathBuf,
    /// Reads a round.
    #[arg(long, default_value_t = 500_000)]
    reads: usize,
    /// Requests in a pipeline.
    #[arg(long, default_value_t = 16)]
    pipeline: usize,
    /// Bytes of the value.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// `hot-key-rate` of the second pair.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Print the table and write no record.
    #[arg(long)]
    no_record: bool,
}

/// What the owner may pay for a read with copies, as a part of what it pays without.
const RATIO_MAX: f64 = 0.1;

const LANES: [&str; 2] = ["without copies", "with copies"];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.reads > 0 && arguments.pipeline > 0 && arguments.rounds > 0 && arguments.rate > 0);
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the benches lie in the workspace")?;
    let cores = std::thread::available_parallelism()?.get();
    let here = Circumstances::here(tree, "hot-keys", cores, arguments.rounds, 0.0);
    let mut lanes = [Lane::start(&arguments, 0)?, Lane::start(&arguments, arguments.rate)?];
    // By lane: ns of CPU time a read, of the owner and of the node that is asked.
    let mut costs: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..arguments.rounds {
        // Each lane is first every other time.
        for lane in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let [owner, asked] = lanes[lane].read_all(&arguments)?;
            costs[lane][0].push(owner);
            costs[lane][1].push(asked);
        }
    }
    let ratios: Vec<f64> = costs[1][0].iter().zip(&costs[0][0]).map(|(with, without)| with / without).collect();
    let ratio = Spread::of(ratios.iter().copied());
    let mut table =
        String::from("| lane | owner, CPU ns a read | node that is asked, CPU ns a read |\n|---|---|---|\n");
    for (lane, costs) in LANES.iter().zip(&costs) {
        let [owner, asked] = costs.each_ref().map(|costs| {
            let Spread { median, min, max } = Spread::of(costs.iter().copied());
            format!("{median:.0} ({min:.0} – {max:.0})")
        });
        let _ = writeln!(table, "| {lane} | {owner} | {asked} |");
    }
    let verdict = if ratio.median <= RATIO_MAX { "holds" } else { "MISSED" };
    let Spread { median, min, max } = ratio;
    let _ = writeln!(
        table,
        "\nneed: owner {} ≤ {RATIO_MAX} × {}: {median:.3} ({min:.3} – {max:.3}), {verdict}",
        LANES[1], LANES[0]
    );
    write!(std::io::stdout(), "{table}")?;
    if !arguments.no_record {
        let json = json!({ "reads": arguments.reads, "pipeline": arguments.pipeline, "rate": arguments.rate, "cpu_ns_a_read": costs, "ratios": ratios });
        let about = format!(
            "One key of {} bytes, {} reads a round in pipelines of {}, hot-key-rate {}; {} rounds.\n\n",
            arguments.value_bytes, arguments.reads, arguments.pipeline, arguments.rate, arguments.rounds
        );
        record::write_text(&tree.join("benches/records"), "hot-keys", &here, &(about + &table), &json)?;
    }
    Ok(())
}

/// A pair of nodes, and what is read through the first.
struct Lane {
    nodes: [Served; 2],
    socket: Socket,
    request: Vec<u8>,
}

impl Lane {
    fn start(arguments: &Arguments, rate: u64) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir();
        let free = [0, 0].map(|_| TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()));
        let [one, other] = free;
        let ports = [one?.port(), other?.port()];
        let list = format!(
            "threads = 1\nhot-key-rate = {rate}\n[nodes.a]\naddress = \"127.0.0.1:{}\"\n[nodes.b]\naddress = \"127.0.0.1:{}\"\n",
            ports[0], ports[1]
        );
        let start = |name: &str, port| {
            Served::start_at(&arguments.server, &folder, &format!("node = \"{name}\"\n{list}"), port)
        };
        let nodes = [start("a", ports[0])?, start("b", ports[1])?];
        let (mut socket, mut owner) = (nodes[0].connect()?, nodes[1].connect()?);
        // A key that is stored at b without being sent on is b's.
        let mut key = String::new();
        for number in 0.. {
            key = format!("hot:{number}");
            owner.get_mut().write_all(b"INFO cluster\r\n")?;
            let before = read_bulk(&mut owner)?;
            owner.get_mut().write_all(format!("SET {key} {}\r\n", "x".repeat(arguments.value_bytes)).as_bytes())?;
            ensure!(read_line(&mut owner)? == "+OK", "{key} cannot be stored");
            owner.get_mut().write_all(b"INFO cluster\r\n")?;
            let sent_on =
                |info: &str| info.lines().find_map(|line| line.strip_prefix("x_forwarded:").map(str::to_owned));
            if sent_on(&before) == sent_on(&read_bulk(&mut owner)?) {
                break;
            }
        }
        let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).into_bytes();
        socket.get_mut().write_all(&request)?;
        ensure!(read_bulk(&mut socket)?.len() == arguments.value_bytes, "node a reads what b has");
        Ok(Self { nodes, socket, request })
    }

    /// CPU time a read in ns: of the owner, and of the node that is asked.
    fn read_all(&mut self, arguments: &Arguments) -> anyhow::Result<[f64; 2]> {
        let batch = self.request.repeat(arguments.pipeline);
        let batches = arguments.reads.div_ceil(arguments.pipeline);
        let before = [self.nodes[1].cpu_ns()?, self.nodes[0].cpu_ns()?];
        for _ in 0..batches {
            self.socket.get_mut().write_all(&batch)?;
            for _ in 0..arguments.pipeline {
                ensure!(read_bulk(&mut self.socket)?.len() == arguments.value_bytes, "all reads find the value");
            }
        }
        let after = [self.nodes[1].cpu_ns()?, self.nodes[0].cpu_ns()?];
        let reads = (batches * arguments.pipeline) as f64;
        Ok([0, 1].map(|node| (after[node] - before[node]) as f64 / reads))
    }
}
