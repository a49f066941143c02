//! Leasehold, the cache server: the command line, and the way from there to a running server.
//!
//! Ends with 0 when all went well, 1 when the configuration is wrong (or `--ping` got no answer, or not all nodes are well), 2 when the
//! server could not start or failed. Wrong arguments end with 2 as well, as clap has it.

mod audit;
mod batch;
mod behind;
mod cli;
mod clients;
mod clock;
mod cluster;
mod config;
mod connection;
mod feed;
mod freeing;
mod front;
#[cfg(feature = "hold-times")]
mod holds;
mod host;
mod info;
mod inquiry;
mod listener;
mod load;
mod log;
mod mailbox;
mod memcached_stats;
mod node;
mod pages;
mod peer;
mod ping;
mod reactor;
mod reload;
mod simulate;
mod sql;
mod stage;
mod stats;
mod thread;
mod trace;
mod vital;

use anyhow::Context;
use clap::Parser;
use config::parse::{Given, Reading};
use config::problem::{Level, Problem};
use config::{check, parse, render};
use leasehold_loader_sql::ConfigProblem;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The configuration is wrong.
const WRONG_CONFIG: u8 = 1;
/// `--ping` got no answer; the number a container's health check wants.
const NO_ANSWER: u8 = 1;
/// `cluster status` has found something.
const NOT_WELL: u8 = 1;
/// The server could not start, or failed.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    if let Some(task) = &arguments.task {
        let out = &mut std::io::stdout().lock();
        let result = match task {
            cli::Task::Simulate(simulation) => simulate::run(simulation, out).map(|()| true),
            cli::Task::Trace(recording) => trace::run(recording, out).map(|()| true),
            cli::Task::Sql(printing) => sql::run(printing, out).map(|()| true),
            cli::Task::Cluster(asking) => cluster::run(asking, out),
        };
        return match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(NOT_WELL),
            Err(error) => fail(&error, FAILED),
        };
    }
    #[cfg(feature = "hold-times")]
    holds::observe();
    if arguments.print_config {
        return say(render::conf().trim_end());
    }
    let reading = parse::read(&arguments.given());
    if arguments.check_config {
        return check_config(reading);
    }
    if reading.has_errors() {
        complain(&reading.problems);
        return ExitCode::from(WRONG_CONFIG);
    }
    if arguments.ping {
        return match ping::ping(&reading.config) {
            Ok(()) => say("PONG"),
            Err(reason) => fail(&anyhow::anyhow!(reason), NO_ANSWER),
        };
    }
    match serve(reading, arguments.given()) {
        Ok(code) => code,
        Err(error) => fail(&error, FAILED),
    }
}

/// `--check-config`: everything that can be told without serving.
fn check_config(reading: Reading) -> ExitCode {
    let Reading { config, mut problems, places } = reading;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => problems.extend(runtime.block_on(check::databases(&config, &places))),
        Err(error) => return fail(&error.into(), FAILED),
    }
    complain(&problems);
    let errors = problems.iter().filter(|problem| problem.level == Level::Error).count();
    match errors {
        0 => say("configuration is valid"),
        1 => fail(&anyhow::anyhow!("1 error in the configuration"), WRONG_CONFIG),
        _ => fail(&anyhow::anyhow!("{errors} errors in the configuration"), WRONG_CONFIG),
    }
}

fn serve(reading: Reading, given: Given) -> anyhow::Result<ExitCode> {
    let Reading { config, problems, places } = reading;
    let log = log::start(&config).context("the log cannot be started")?;
    for problem in &problems {
        tracing::warn!("{problem}");
    }
    pages::keep_small();
    give_pages_back_soon();
    match reactor::run(config, given, log) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast_ref::<ConfigProblem>() {
            Some(problem) => {
                complain(&[check::located(problem, &places)]);
                Ok(ExitCode::from(WRONG_CONFIG))
            }
            None => Err(error),
        },
    }
}

/// Free pages of the heap go back to the system soon. The allocator looks at them only when it is called, so with its own second of
/// delay a server that grows quiet keeps what it last needed: 40 MB after batches of values up to 1 MB, under a `maxmemory` of 64 MiB.
/// `MIMALLOC_PURGE_DELAY` in the environment, in ms, wins.
#[allow(unsafe_code)]
fn give_pages_back_soon() {
    /// `mi_option_purge_delay`, which the bindings do not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;
    const DELAY_MS: std::ffi::c_long = 10;
    // SAFETY: a number of an option that there is, set before other threads are started.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, DELAY_MS) }
}

fn complain(problems: &[Problem]) {
    let mut out = std::io::stderr().lock();
    for problem in problems {
        // Nobody is left to hear that standard error is closed.
        let _ = writeln!(out, "{problem}");
    }
}

fn say(text: impl Display) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "leasehold: {error:#}");
    ExitCode::from(code)
}
