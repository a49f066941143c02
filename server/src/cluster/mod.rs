//! `leasehold cluster`: what an operator asks of several nodes at once.

mod plan;
mod status;

use crate::config::NodeConfig;
use crate::config::parse::{self, Given};
use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use leasehold_cluster::Topology;
use std::io::Write;
use std::path::Path;

/// Asks the nodes of a cluster how they are, or tells what a change of their list would move.
#[derive(Debug, Args)]
pub(crate) struct Asking {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Status(status::Status),
    Plan(plan::Plan),
}

/// Does it; whether all is well.
///
/// # Errors
/// A configuration cannot be read or lists no nodes.
pub(crate) fn run(asking: &Asking, out: &mut impl Write) -> anyhow::Result<bool> {
    match &asking.what {
        What::Status(status) => status::run(status, out),
        What::Plan(plan) => plan::run(plan, out).map(|()| true),
    }
}

/// The nodes that a configuration lists.
fn listed(conf: &Path) -> anyhow::Result<Topology> {
    let reading = parse::read(&Given { conf: Some(conf.to_owned()), ..Given::default() });
    if reading.has_errors() {
        let problems: Vec<String> = reading.problems.iter().map(ToString::to_string).collect();
        bail!("{}", problems.join("\n"));
    }
    let list = reading.config.nodes.iter().map(NodeConfig::settings);
    let list = list.collect::<Option<Vec<_>>>().expect("addresses are checked");
    ensure!(!list.is_empty(), "{} lists no nodes: there is no [nodes.NAME]", conf.display());
    Ok(Topology::new(list).expect("the list is checked"))
}

/// How many slots each node of the main pool owns, in their order.
fn slots(topology: &Topology) -> Vec<usize> {
    let mut slots = vec![0; topology.nodes().len()];
    for range in topology.ranges() {
        let place = topology.place_of_owner(range.first);
        slots[place] += usize::from(range.last.number() - range.first.number()) + 1;
    }
    slots
}
