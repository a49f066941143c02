//! `leasehold cluster status`: every node is asked, at the same time, how it is and how it sees the others.

use super::{listed, slots};
use crate::inquiry::Connection;
use anyhow::Context as _;
use clap::Args;
use leasehold_cluster::{Node, Pool, Topology};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Asks each node of a list how it is, which list it has and how it sees the others. Ends with 0 if all is well, 1 if not.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// A configuration with the list of nodes.
    #[arg(long, value_name = "FILE")]
    conf: PathBuf,

    /// A file with the nodes' password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// How long to wait for a node, in seconds.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    patience: u64,
}

/// What a node says.
#[derive(Debug, Default)]
struct Answer {
    keys: i64,
    memory_bytes: u64,
    /// Of the node that answers.
    id: String,
    /// Of its list.
    epoch: String,
    hears_majority: bool,
    stood_in: u64,
    /// Of the others that it does not see well: name, state, since when in s since 1970, reason.
    unwell: Vec<(String, String, u64, String)>,
}

pub(super) fn run(status: &Status, out: &mut impl Write) -> anyhow::Result<bool> {
    let topology = listed(&status.conf)?;
    let answers: Vec<anyhow::Result<Answer>> = std::thread::scope(|scope| {
        let asked: Vec<_> = topology.all().iter().map(|node| scope.spawn(move || ask(node, status))).collect();
        asked.into_iter().map(|asked| asked.join().expect("asking does not panic")).collect()
    });
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let troubles = troubles(&topology, &answers, now_s);
    write!(out, "{}", table(&topology, &answers))?;
    writeln!(out)?;
    for trouble in &troubles {
        writeln!(out, "{trouble}")?;
    }
    if troubles.is_empty() {
        writeln!(out, "all {} nodes are well", answers.len())?;
    }
    Ok(troubles.is_empty())
}

fn ask(node: &Node, status: &Status) -> anyhow::Result<Answer> {
    let address = node.address();
    let mut server = Connection::open(&address.host, address.port, Duration::from_secs(status.patience))?;
    if let Some(file) = &status.password_file {
        server.authenticate(file)?;
    }
    let cluster = server.ask(&["CLUSTER", "INFO"])?;
    let (peers, memory) = (server.ask(&["INFO", "cluster"])?, server.ask(&["INFO", "memory"])?);
    let answer = read(cluster.text()?, peers.text()?, memory.text()?)?;
    let id = server.ask(&["CLUSTER", "MYID"])?.text()?.to_owned();
    Ok(Answer { id, keys: server.ask(&["DBSIZE"])?.integer()?, ..answer })
}

/// All but its id and how many keys it has.
fn read(cluster: &str, peers: &str, memory: &str) -> anyhow::Result<Answer> {
    let mut answer = Answer {
        memory_bytes: field(memory, "used_memory")?.parse()?,
        epoch: field(cluster, "cluster_current_epoch")?.to_owned(),
        hears_majority: field(cluster, "x_cluster_majority")? == "1",
        stood_in: field(peers, "x_stood_in")?.parse()?,
        ..Answer::default()
    };
    for line in peers.lines() {
        let Some((name, facts)) = line.strip_prefix("x_peer_").and_then(|line| line.split_once(':')) else { continue };
        let fact = |wanted: &str| {
            // The reason stands at the end and may have commas.
            let at =
                facts.find(&format!("{wanted}=")).context("a node is described in another way")? + wanted.len() + 1;
            let rest = &facts[at..];
            anyhow::Ok(if wanted == "reason" { rest } else { rest.split(',').next().unwrap_or(rest) })
        };
        let state = fact("state")?;
        if state != "well" {
            answer.unwell.push((
                name.to_owned(),
                state.to_owned(),
                fact("since")?.parse()?,
                fact("reason")?.to_owned(),
            ));
        }
    }
    Ok(answer)
}

fn field<'t>(text: &'t str, name: &str) -> anyhow::Result<&'t str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.with_context(|| format!("it does not tell {name}: it is no node of a cluster, or of another version"))
}

fn table(topology: &Topology, answers: &[anyhow::Result<Answer>]) -> String {
    let line = |cells: [&str; 7]| {
        let [name, address, pool, slots, keys, memory, stood_in] = cells;
        format!("{name:<12} {address:<24} {pool:<6} {slots:>6} {keys:>12} {memory:>12} {stood_in:>10}\n")
    };
    let mut text = line(["node", "address", "pool", "slots", "keys", "memory MiB", "stood in"]);
    let mut slots = slots(topology).into_iter();
    for (node, answer) in topology.all().iter().zip(answers) {
        let pool = if node.pool() == Pool::Main { "main" } else { "gutter" };
        let slots = slots.next().map_or_else(|| "-".to_owned(), |slots| slots.to_string());
        let [keys, memory, stood_in] = match answer {
            Ok(answer) => [
                answer.keys.to_string(),
                format!("{:.1}", answer.memory_bytes as f64 / f64::from(1 << 20)),
                answer.stood_in.to_string(),
            ],
            Err(_) => ["-"; 3].map(str::to_owned),
        };
        text += &line([node.name(), &node.address().to_string(), pool, &slots, &keys, &memory, &stood_in]);
    }
    text
}

/// What is not well, a line each.
fn troubles(topology: &Topology, answers: &[anyhow::Result<Answer>], now_s: u64) -> Vec<String> {
    let mut troubles = Vec::new();
    let epoch = topology.epoch().to_string();
    for (node, answer) in topology.all().iter().zip(answers) {
        let name = node.name();
        match answer {
            Err(error) => troubles.push(format!("{name}: {error:#}")),
            Ok(answer) => {
                if answer.id != node.id() {
                    troubles.push(format!("{name}: another node answers at {}", node.address()));
                }
                if answer.epoch != epoch {
                    troubles.push(format!("{name} has another list of nodes (epoch {}, not {epoch})", answer.epoch));
                }
                if !answer.hears_majority {
                    troubles.push(format!("{name} does not hear a majority of the main nodes"));
                }
                for (other, state, since_s, reason) in &answer.unwell {
                    let for_s = now_s.saturating_sub(*since_s);
                    troubles.push(format!("{name} sees {other} {state} for {for_s} s: {reason}"));
                }
            }
        }
    }
    troubles
}
