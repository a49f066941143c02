//! `leasehold simulate`: what a recorded trace would hit under each policy and memory limit.
//!
//! The requests go through the keyspace of the server itself, as a client that reads a key and stores it when it is not
//! there; nothing about eviction is modelled. Everything is derived from fixed seeds, so the same trace gives the same figures.

mod report;
mod trace;

use crate::config::options::eviction_policies;
use crate::config::text;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use leasehold_keyspace::replay::{Cache, Limit, replay};
use leasehold_keyspace::{EvictionPolicy, Objective};
use report::{Report, Row};
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

/// Replays a trace through the server's own code and prints the miss ratios.
///
/// A trace has a line "key size" per request, size in bytes; it may be compressed by zstd. A key that is not there is stored
/// after its request. A trace of leasehold trace may have a part of the keys only; limits are for all of them. Values are really held, so as much memory as the largest limit is needed.
#[derive(Debug, Args)]
pub(crate) struct Simulation {
    /// The trace: a line "key size" per request; plain, or compressed by zstd.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,

    /// Memory limits, separated by commas: 64mb,1gb, or shares of what all keys of the trace have together: 1%,10%.
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    memory: Vec<MemoryLimit>,

    /// Policies, separated by commas, as maxmemory-policy has them; "all" = those for entries without a TTL, which those of a
    /// trace are.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "all")]
    policy: Vec<String>,

    /// What counts against the limit: "real" = all an entry costs; "none" = the sizes of the trace alone, as simulators count.
    #[arg(long, value_enum, default_value_t = Overhead::Real)]
    overhead: Overhead,

    /// What the tinylfu policies make the most of, as tinylfu-objective has it: objects or bytes.
    #[arg(long, value_enum, default_value_t = Goal::Objects)]
    objective: Goal,

    /// Parts of the keyspace, each of which evicts by itself: a power of two.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = shards)]
    shards: usize,

    /// "table" also draws a chart; "csv" has one line per policy and limit.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Overhead {
    Real,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Goal {
    Objects,
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum MemoryLimit {
    Bytes(u64),
    /// Of the sum of the sizes of all keys.
    Percent(f64),
}

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let limit = match given.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent > 0.0).map(Self::Percent),
            None => text::parse_bytes(given).filter(|bytes| *bytes > 0).map(Self::Bytes),
        };
        limit.ok_or_else(|| "write a size, such as 64mb, or a share of the trace's keys, such as 5%".to_owned())
    }
}

impl MemoryLimit {
    /// At least one byte: none would mean no limit.
    fn bytes(self, footprint_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => ((footprint_bytes as f64 * percent / 100.0) as u64).max(1),
        }
    }
}

fn shards(given: &str) -> Result<usize, String> {
    let shards = given.parse().ok().filter(|shards: &usize| shards.is_power_of_two() && *shards <= 4096);
    shards.ok_or_else(|| "write a power of two up to 4096".to_owned())
}

/// Runs it and prints to `out`, a row at a time.
///
/// # Errors
/// A policy that does not exist, a trace that cannot be read or has a line that is none, an output that is closed.
pub(crate) fn run(simulation: &Simulation, out: &mut impl Write) -> anyhow::Result<()> {
    let policies = policies(&simulation.policy)?;
    let trace::Recorded { trace, keys_per_traced } = trace::read(&simulation.trace)
        .with_context(|| format!("the trace {} cannot be used", simulation.trace.display()))?;
    let objective = match simulation.objective {
        Goal::Objects => Objective::Objects,
        Goal::Bytes => Objective::Bytes,
    };
    let mut report = Report::new(simulation.format == Format::Csv);
    report.begin(&trace, out)?;
    for memory in &simulation.memory {
        let memory_bytes = memory.bytes(trace.footprint_bytes().saturating_mul(keys_per_traced));
        // A part of the keys in the same part of the memory does as all of them in all of it.
        let part = (memory_bytes / keys_per_traced).max(1);
        let limit = match simulation.overhead {
            Overhead::Real => Limit::Memory(part),
            Overhead::None => Limit::Values(part),
        };
        for &(name, policy) in &policies {
            let misses = replay(&trace, Cache { policy, objective, limit, shards: simulation.shards });
            report.add(Row { policy: name, memory_bytes, requests: trace.len(), misses }, out)?;
        }
    }
    report.end(out)?;
    Ok(())
}

fn policies(given: &[String]) -> anyhow::Result<Vec<(&'static str, EvictionPolicy)>> {
    let mut policies = Vec::new();
    for name in given {
        if name == "all" {
            policies.extend(eviction_policies().filter(|(name, _)| name.starts_with("allkeys-")));
            continue;
        }
        let Some(policy) = eviction_policies().find(|(known, _)| known == name) else {
            let known: Vec<&str> = eviction_policies().map(|(name, _)| name).collect();
            bail!("there is no policy {name:?}; there are all, {}", known.join(", "));
        };
        policies.push(policy);
    }
    Ok(policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_sizes_or_shares_of_the_footprint() {
        let bytes = |given: &str| given.parse::<MemoryLimit>().map(|limit| limit.bytes(2000));
        assert_eq!(bytes("64mb"), Ok(64 << 20));
        assert_eq!(bytes("10%"), Ok(200));
        assert_eq!(bytes("0.5%"), Ok(10));
        assert_eq!(bytes("0.0001%"), Ok(1));
        for wrong in ["", "%", "0", "0%", "-1%", "nan%", "64mbit"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_are_the_policies_that_evict_entries_without_a_ttl() {
        let names = |given: &[&str]| {
            policies(&given.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                .map(|policies| policies.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        let all = names(&["all"]).expect("it is a word");
        assert!(all.contains(&"allkeys-lru") && all.iter().all(|name| name.starts_with("allkeys-")), "{all:?}");
        assert_eq!(names(&["noeviction", "allkeys-lru"]).expect("both exist"), ["noeviction", "allkeys-lru"]);
        let error = names(&["lru"]).expect_err("there is none").to_string();
        assert!(error.contains("\"lru\"") && error.contains("allkeys-lru"), "{error}");
    }
}
