//! The same commands to memcached and to us, over sockets: every reply must be the same byte for byte, but for a list of differences
//! that has a reason for each.
//!
//! The memcached is the installed one, or another by `LEASEHOLD_MEMCACHED`: the newest (`tests/memcached`) is asked what older ones answer
//! otherwise, too. CAS values are each server's own: what must agree is when they change. Sequences come from proptest, which shrinks a failing one
//! to the few commands that matter. The seed is printed; `LEASEHOLD_SEED=n` runs it again, and
//! `LEASEHOLD_MEMCACHED_COMMANDS=n` changes how many commands are compared.

mod counters;
mod grammar;
mod meta;
mod session;

use grammar::{Flushes, Oracle, Step, text_command};
use leasehold_tests::choices::Choices;
use leasehold_tests::{MemcachedServer, Server, groups};
use meta::meta_command;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestError, TestRunner};
use session::{Pair, Tally};
use std::cell::RefCell;

const GROUP: &str = "memcached differential";
const COMMANDS_MIN: u64 = 500_000;
/// Of those; the meta commands have fewer shapes.
const META_SHARE: u64 = 4;
/// Commands in one sequence, which starts without any of its keys.
const SEQUENCE_MAX: usize = 120;
/// Decisions in one command, but for the keys of a long list.
const CHOICES: usize = 24;

#[test]
fn replies_are_those_of_memcached() {
    let Some(oracle) = MemcachedServer::start_for(GROUP) else { return };
    let server = Server::options().memcached().start();
    let commands = commands();
    let text = commands - commands / META_SHARE;
    let tally = compare(Commands::Text, server.memcached_port(), &oracle, seed(), text);
    groups::say(&format!("{GROUP}: text: {tally}"));
}

#[test]
fn replies_to_meta_commands_are_those_of_memcached() {
    let Some(oracle) = MemcachedServer::start_for(GROUP) else { return };
    // One shard: a meta reply names a CAS value without its key, and numbers of two shards may be the same.
    let server = Server::options().memcached().set("shards", 1).start();
    let tally = compare(Commands::Meta, server.memcached_port(), &oracle, seed(), commands() / META_SHARE);
    groups::say(&format!("{GROUP}: meta: {tally}"));
}

#[test]
fn commands_are_counted_as_memcached_counts_them() {
    let Some(oracle) = MemcachedServer::start_for(GROUP) else { return };
    let server = Server::options().memcached().start();
    counters::compare(&mut server.memcached(), &mut oracle.client(), Oracle::of(oracle.version()));
}

/// What this finds is a difference between servers, not between two runs.
#[test]
fn memcached_agrees_with_itself() {
    let Some(one) = MemcachedServer::start_for(GROUP) else { return };
    let Some(other) = MemcachedServer::start_for(GROUP) else { return };
    for commands in [Commands::Text, Commands::Meta] {
        let tally = compare(commands, one.port(), &other, seed(), 10_000);
        // Commands that are all refused compare nothing.
        assert!(tally.done * 6 > tally.commands, "{tally}");
        groups::say(&format!("{GROUP}: memcached with itself, {commands:?}: {tally}"));
    }
}

/// Which commands are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commands {
    Text,
    Meta,
}

fn compare(commands: Commands, ours: u16, theirs: &MemcachedServer, seed: u64, count: u64) -> Tally {
    let (version, oracle) = (theirs.version(), Oracle::of(theirs.version()));
    groups::say(&format!("{GROUP}: LEASEHOLD_SEED={seed}, {count} commands ({commands:?}), {version:?}"));
    let pair = RefCell::new(Pair::new(ours, theirs.port()));
    let sequences = (any::<bool>(), vec(vec(any::<u16>(), CHOICES), 1..=SEQUENCE_MAX), any::<u64>());
    let sequences = sequences.prop_map(move |(is_delayed, choices, cuts)| {
        let flushes = if is_delayed { Flushes::Delayed } else { Flushes::AtOnce };
        let step = |choices: &Vec<u16>| match commands {
            Commands::Text => text_command(&mut Choices::new(choices), flushes, oracle),
            Commands::Meta => meta_command(&mut Choices::new(choices), oracle),
        };
        (choices.iter().map(step).collect::<Vec<Step>>(), cuts)
    });
    let done = || pair.borrow().tally.commands;
    while done() < count {
        let config = Config {
            cases: 50,
            failure_persistence: None,
            max_shrink_iters: 2000,
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(seed.wrapping_add(done())),
            ..Config::default()
        };
        let result = TestRunner::new(config)
            .run(&sequences, |(steps, cuts)| pair.borrow_mut().run(&steps, cuts).map_err(TestCaseError::fail));
        match result {
            Ok(()) => {}
            Err(TestError::Fail(reason, (steps, cuts))) => {
                let lines: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
                panic!("LEASEHOLD_SEED={seed}, cuts {cuts}: {reason}\nafter:\n{}", lines.join("\n"));
            }
            Err(TestError::Abort(reason)) => panic!("LEASEHOLD_SEED={seed}: {reason}"),
        }
    }
    pair.into_inner().tally
}

fn commands() -> u64 {
    number_from("LEASEHOLD_MEMCACHED_COMMANDS").unwrap_or(COMMANDS_MIN)
}

fn seed() -> u64 {
    number_from("LEASEHOLD_SEED").unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::from(std::process::id()) ^ since.as_nanos() as u64
    })
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
