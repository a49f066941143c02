//! The same commands to redis-server and to us, over sockets: every reply must be the same byte for byte, but for a list of
//! differences that has a reason for each.
//!
//! Sequences come from proptest, which shrinks a failing one to the few commands that matter. The seed is printed;
//! `LEASEHOLD_SEED=n` runs it again. `LEASEHOLD_DIFFERENTIAL_COMMANDS=n` changes how many commands are compared.

mod allowed;
mod grammar;

use allowed::{ALLOWED, Pair};
use grammar::{SHAPES, command};
use leasehold_command::table;
use leasehold_tests::choices::Choices;
use leasehold_tests::client::{PATIENCE, request};
use leasehold_tests::reply::{Quoted, decode};
use leasehold_tests::{Client, RedisServer, Server, Value, groups};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestError, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Over both versions of RESP together.
const COMMANDS_MIN: u64 = 600_000;
/// Commands in one sequence, which starts on empty servers.
const SEQUENCE_MAX: usize = 150;
/// Decisions in one command.
const CHOICES: usize = 24;

#[test]
fn replies_are_those_of_redis_server() {
    let Some(redis) = RedisServer::start_for("differential") else { return };
    // Redis's own default; under another policy OBJECT FREQ and IDLETIME answer otherwise.
    let server = Server::options().set("maxmemory-policy", "noeviction").start();
    let seed = number_from("LEASEHOLD_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ now_ns());
    let commands = number_from("LEASEHOLD_DIFFERENTIAL_COMMANDS").unwrap_or(COMMANDS_MIN);
    groups::say(&format!("differential: LEASEHOLD_SEED={seed}, {commands} commands"));
    for version in [2, 3] {
        let tally = compare(server.port(), redis.port(), version, seed, commands / 2);
        groups::say(&format!("differential: RESP{version}: {tally}"));
    }
}

/// What this finds is a difference between servers, not between two runs.
#[test]
fn redis_server_agrees_with_itself() {
    let Some(one) = RedisServer::start_for("differential") else { return };
    let Some(other) = RedisServer::start_for("differential") else { return };
    let seed = number_from("LEASEHOLD_SEED").unwrap_or_else(now_ns);
    for version in [2, 3] {
        let tally = compare(one.port(), other.port(), version, seed, 10_000);
        // Commands that are all refused compare nothing.
        assert!(tally.errors * 3 < tally.commands, "{tally}");
    }
}

/// Commands of our table that redis-server knows too and that no shape names, and why not.
const NOT_COMPARED: &[(&str, &str)] = &[
    ("quit", "closes the connection; see the transcripts"),
    ("info", "describes the server"),
    ("time", "tells the time"),
];

#[test]
fn every_command_that_both_know_is_compared() {
    let Some(redis) = RedisServer::start_for("differential") else { return };
    let mut redis = redis.client();
    let mut missing = Vec::new();
    for spec in table::TABLE {
        let known = redis.command(&["COMMAND", "INFO", spec.name]);
        let is_known = !known.elements()[0].is_null();
        let is_compared = SHAPES.iter().any(|shape| {
            shape
                .trim_start_matches('!')
                .split_whitespace()
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(spec.name))
        });
        let is_excused = NOT_COMPARED.iter().any(|(name, _)| *name == spec.name);
        if is_known && is_compared == is_excused {
            missing.push(spec.name);
        }
    }
    assert!(missing.is_empty(), "neither compared nor excused, or both: {missing:?}");
}

#[test]
fn allowed_differences_do_not_hide_others() {
    let argv = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let is_allowed = |line: &str, ours: &Value, theirs: &Value| {
        let argv = argv(line);
        ALLOWED.iter().any(|difference| (difference.is_it)(&Pair { argv: &argv, ours, theirs }))
    };
    let (one, two) = (Value::Integer(1), Value::Integer(2));
    assert!(is_allowed("TTL k", &one, &two));
    assert!(!is_allowed("TTL k", &Value::Integer(-1), &Value::Integer(-2)));
    assert!(!is_allowed("TTL k", &one, &Value::Integer(100)));
    assert!(!is_allowed("INCR k", &one, &two));
    let keys = |keys: &[&str]| Value::Array(keys.iter().map(Value::bulk).collect());
    assert!(is_allowed("KEYS *", &keys(&["a", "b"]), &keys(&["b", "a"])));
    assert!(!is_allowed("KEYS *", &keys(&["a"]), &keys(&["b", "a"])));
    assert!(!is_allowed("MGET a b", &keys(&["a", "b"]), &keys(&["b", "a"])));
}

/// What was compared.
#[derive(Debug, Default)]
struct Tally {
    commands: u64,
    errors: u64,
    allowed: BTreeMap<&'static str, u64>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} commands compared, {} of them errors", self.commands, self.errors)?;
        for (reason, count) in &self.allowed {
            write!(f, "; {count} × {reason}")?;
        }
        Ok(())
    }
}

fn compare(ours: u16, theirs: u16, version: u8, seed: u64, commands: u64) -> Tally {
    let tally = RefCell::new(Tally::default());
    let shrinking = Cell::new(false);
    let one = (0..SHAPES.len(), vec(any::<u16>(), CHOICES))
        .prop_map(|(shape, choices)| command(SHAPES[shape], &mut Choices::new(&choices)));
    let sequences = vec(one, 1..=SEQUENCE_MAX);
    while tally.borrow().commands < commands {
        let config = Config {
            cases: 50,
            failure_persistence: None,
            max_shrink_iters: 3000,
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(seed.wrapping_add(tally.borrow().commands).wrapping_add(u64::from(version))),
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&sequences, |sequence| {
            let result = one_sequence(ours, theirs, version, &sequence, &mut tally.borrow_mut());
            shrinking.set(shrinking.get() || result.is_err());
            result.map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(reason, sequence)) => {
                let lines: Vec<String> = sequence.iter().map(|argv| shown(argv)).collect();
                panic!("RESP{version}, LEASEHOLD_SEED={seed}: {reason}\nafter:\n{}", lines.join("\n"));
            }
            Err(TestError::Abort(reason)) => panic!("RESP{version}, LEASEHOLD_SEED={seed}: {reason}"),
        }
    }
    tally.into_inner()
}

/// Runs a sequence on both, from empty, and asks at the end what each holds.
fn one_sequence(
    ours: u16,
    theirs: u16,
    version: u8,
    sequence: &[Vec<Vec<u8>>],
    tally: &mut Tally,
) -> Result<(), String> {
    let mut argvs = Vec::new();
    for one in sequence {
        argvs.push(one.clone());
        // RESET takes RESP3 back.
        if version == 3 && one.len() == 1 && one[0].eq_ignore_ascii_case(b"RESET") {
            argvs.push(argv(&["HELLO", "3"]));
        }
    }
    for db in ["0", "1"] {
        argvs.push(argv(&["SELECT", db]));
        argvs.push(argv(&["DBSIZE"]));
        argvs.push(argv(&["KEYS", "*"]));
        for key in ["k0", "k1", "k2", "k3", "k4", "k5", "", "k*"] {
            for name in ["GET", "PTTL", "TYPE"] {
                argvs.push(argv(&[name, key]));
            }
        }
    }
    let ours = replies("ours", ours, version, &argvs)?;
    let theirs = replies("theirs", theirs, version, &argvs)?;
    for (argv, (ours, theirs)) in argvs.iter().zip(ours.iter().zip(&theirs)) {
        tally.commands += 1;
        tally.errors += u64::from(theirs.starts_with(b"-"));
        if ours != theirs {
            let reason = allowed(argv, ours, theirs).ok_or_else(|| {
                format!("{}\n  ours:   {}\n  theirs: {}", shown(argv), beginning(ours), beginning(theirs))
            })?;
            *tally.allowed.entry(reason).or_default() += 1;
        }
    }
    Ok(())
}

fn allowed(argv: &[Vec<u8>], ours: &[u8], theirs: &[u8]) -> Option<&'static str> {
    let value = |bytes| decode(bytes).ok().flatten().map(|(value, _)| value);
    let (ours, theirs) = (value(ours)?, value(theirs)?);
    let pair = Pair { argv, ours: &ours, theirs: &theirs };
    ALLOWED.iter().find(|difference| (difference.is_it)(&pair)).map(|difference| difference.reason)
}

/// The replies to all commands, sent in one write.
fn replies(name: &str, port: u16, version: u8, argvs: &[Vec<Vec<u8>>]) -> Result<Vec<Vec<u8>>, String> {
    let mut client = Client::connect(port);
    client.command(&["FLUSHALL"]);
    if version == 3 {
        client.hello(3);
    }
    let bytes: Vec<u8> = argvs.iter().flat_map(|argv| request(argv)).collect();
    client.send_raw(&bytes);
    let reply = |(index, argv): (usize, &Vec<Vec<u8>>)| {
        let reply = client.receive_bytes_within(PATIENCE);
        reply.map_err(|why| format!("{name}: no reply to command {index}, {}: {why:?}", shown(argv)))
    };
    argvs.iter().enumerate().map(reply).collect()
}

fn argv(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// Enough of a reply to see what it is.
fn beginning(reply: &[u8]) -> String {
    const SHOWN_MAX: usize = 600;
    match reply.get(..SHOWN_MAX) {
        Some(part) => format!("{}… ({} bytes)", Quoted(part), reply.len()),
        None => Quoted(reply).to_string(),
    }
}

fn shown(argv: &[Vec<u8>]) -> String {
    argv.iter().map(|argument| Quoted(argument).to_string()).collect::<Vec<_>>().join(" ")
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    since.as_nanos() as u64
}
