//! The command line.

use crate::cluster::Asking;
use crate::config::parse::{Argument, Given};
use crate::simulate::Simulation;
use crate::sql::Printing;
use crate::trace::Recording;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// A cache server for Redis clients that loads what it does not hold from SQL databases.
///
/// Without arguments it listens on 127.0.0.1:6379 and loads nothing. A value on the command line wins over the file.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Option<Task>,

    /// Configuration file, in TOML.
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,

    /// TCP port; the same as --set port=N.
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<String>,

    /// Threads that serve clients; the same as --set threads=N.
    #[arg(long, value_name = "N")]
    threads: Option<String>,

    /// Addresses to listen on, separated by spaces; the same as --set bind=ADDRESSES.
    #[arg(long, value_name = "ADDRESSES", allow_hyphen_values = true)]
    bind: Option<String>,

    /// Sets any option: timeout=30, sources.main.url=sqlite:a.db, loaders.user.ttl=10m. May be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,

    /// Reads the configuration, opens its databases, prepares its SQL, prints every mistake, and ends: 0 = valid, 1 = not.
    /// As at a start, an SQLite database that does not exist yet is created if it has a create_with.
    #[arg(long)]
    pub(crate) check_config: bool,

    /// Prints a configuration file with every option, its meaning and its default.
    #[arg(long)]
    pub(crate) print_config: bool,

    /// Asks the server with this configuration (or --port) whether it answers: 0 = it does, 1 = not.
    #[arg(long)]
    pub(crate) ping: bool,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    Simulate(Simulation),
    Trace(Recording),
    Sql(Printing),
    Cluster(Asking),
}

impl Arguments {
    /// What the configuration is read from. The named arguments come last, so they win over --set.
    pub(crate) fn given(&self) -> Given {
        let sets = self.set.iter().map(|(name, value)| ("--set", name.as_str(), value));
        let named = [("port", &self.port), ("threads", &self.threads), ("bind", &self.bind)];
        let flags = ["--port", "--threads", "--bind"].into_iter().zip(named);
        let named = flags.filter_map(|(flag, (name, value))| value.as_ref().map(|value| (flag, name, value)));
        let arguments = sets.chain(named).map(|(flag, name, value)| Argument {
            flag: flag.to_owned(),
            name: name.to_owned(),
            value: value.clone(),
        });
        Given { conf: self.conf.clone(), arguments: arguments.collect() }
    }
}

/// `NAME=VALUE`; the value may hold more `=`.
fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn read(line: &[&str]) -> parse::Reading {
        let arguments = Arguments::try_parse_from([&["leasehold"], line].concat()).expect("a command line");
        parse::read(&arguments.given())
    }

    #[test]
    fn named_arguments_win_over_set_and_the_last_set_wins() {
        let reading = read(&["--port", "7000", "--set", "port=1", "--set", "timeout=1", "--set", "timeout=5m"]);
        assert_eq!(reading.problems, []);
        assert_eq!(reading.config.port, 7000);
        assert_eq!(reading.config.live.idle_timeout, Some(std::time::Duration::from_secs(300)));
    }

    #[test]
    fn bind_takes_optional_addresses() {
        let reading = read(&["--bind", "-::1 127.0.0.1"]);
        assert_eq!(reading.problems, []);
        assert_eq!(reading.config.bind.len(), 2);
        assert!(reading.config.bind[0].optional);
    }

    #[test]
    fn a_set_without_a_value_is_refused() {
        assert!(Arguments::try_parse_from(["leasehold", "--set", "port"]).is_err());
        assert!(Arguments::try_parse_from(["leasehold", "--set", "=1"]).is_err());
    }
}
