//! `leasehold cluster plan`: what a change of the list moves, computed as the nodes do it.

use super::{listed, slots};
use clap::Args;
use leasehold_cluster::{SLOTS, Slot, Topology};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// Tells which slots change their owner from one list of nodes to another. Asks no node, and changes nothing.
///
/// What is in slots that move is loaded anew where they go.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// A configuration with the list that the nodes have.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,

    /// One with the list that they shall have.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(super) fn run(plan: &Plan, out: &mut impl Write) -> anyhow::Result<()> {
    Ok(write!(out, "{}", told(&listed(&plan.from)?, &listed(&plan.to)?))?)
}

fn told(before: &Topology, after: &Topology) -> String {
    let mut lines = vec![format!("{:<16} {:>12} {:>12}", "node", "slots before", "slots after")];
    let count = |topology: &Topology| -> BTreeMap<String, usize> {
        let names = topology.nodes().iter().map(|node| node.name().to_owned());
        names.zip(slots(topology)).collect()
    };
    let (had, has) = (count(before), count(after));
    let names = had.keys().chain(has.keys().filter(|name| !had.contains_key(*name)));
    let shown = |slots: Option<&usize>| slots.map_or_else(|| "-".to_owned(), ToString::to_string);
    lines.extend(names.map(|name| format!("{name:<16} {:>12} {:>12}", shown(had.get(name)), shown(has.get(name)))));
    let mut moves: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for slot in (0..SLOTS).filter_map(Slot::new) {
        let (from, to) = (before.owner(slot).name(), after.owner(slot).name());
        if from != to {
            *moves.entry((from, to)).or_default() += 1;
        }
    }
    let moved: usize = moves.values().sum();
    lines.push(format!("\n{moved} of {SLOTS} slots move ({:.1} %)", moved as f64 * 100.0 / f64::from(SLOTS)));
    lines.extend(moves.iter().map(|((from, to), slots)| format!("{slots:>8} from {from} to {to}")));
    if before.epoch() == after.epoch() {
        lines.push("the lists are the same".to_owned());
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_cluster::{Address, NodeSettings, Pool};

    fn topology(names: &[&str]) -> Topology {
        let node = |(place, name): (usize, &&str)| NodeSettings {
            name: (*name).to_owned(),
            address: Address { host: "127.0.0.1".to_owned(), port: 7_000 + place as u16 },
            weight: 1,
            pool: Pool::Main,
            zone: String::new(),
        };
        Topology::new(names.iter().enumerate().map(node).collect()).expect("a list of nodes")
    }

    #[test]
    fn a_node_that_comes_takes_its_share_from_each_and_a_plan_says_so() {
        let (three, four) = (topology(&["a", "b", "c"]), topology(&["a", "b", "c", "d"]));
        let text = told(&three, &four);
        let d: usize = slots(&four)[3];
        assert!(text.contains(&format!("{:<16} {:>12} {d:>12}\n", "d", "-")), "{text}");
        let moved: usize = text
            .lines()
            .filter_map(|line| line.trim_start().split_once(" from "))
            .map(|(slots, _)| slots.parse::<usize>().expect("a number"))
            .sum();
        assert!(text.contains(&format!("\n{moved} of 16384 slots move (")), "{text}");
        assert!((d..d + 16_384 / 50).contains(&moved), "{text}");
    }

    #[test]
    fn the_same_list_moves_nothing() {
        let text = told(&topology(&["a", "b"]), &topology(&["a", "b"]));
        assert!(text.ends_with("\n0 of 16384 slots move (0.0 %)\nthe lists are the same\n"), "{text}");
    }
}
