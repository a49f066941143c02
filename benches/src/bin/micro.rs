//! The parts between `read` and `write` alone, in ns of CPU time per operation: the least of many repetitions, because
//! everything that disturbs a loop only makes it slower.
//!
//! The bench `instructions` counts the instructions of some cases.

use anyhow::ensure;
use clap::Parser as _;
use leasehold_benches::keys::{Distribution, Keys};
use leasehold_benches::wire::{Protocol, Shape, Verb, Wire};
use leasehold_benches::{OPERATIONS_PER_REPETITION, keyspace, system};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Expiry, Keyspace, Turn};
use leasehold_protocol::{Limits, Parsed, Parser, Reply, RespVersion};
use std::hint::black_box;
use std::io::Write as _;

/// Times parsing, lookup and replies without sockets.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only the case that is called just so.
    #[arg(long, conflicts_with = "only")]
    case: Option<String>,
    /// Repetitions of each case; the least counts.
    #[arg(long, default_value_t = 40)]
    repetitions: usize,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests in one buffer: a pipeline of 16, as the load bench sends.
const BATCH: usize = 16;
/// As a loader stores.
const WITH_TTL: Attributes = Attributes { expiry: Expiry::At(1_700_003_600_000), ..Attributes::PLAIN };
/// Batches in one repetition, which takes some milliseconds.
const BATCHES: usize = OPERATIONS_PER_REPETITION / BATCH;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let mut cases = 0;
    let mut case = |name: &str, prepare: &dyn Fn() -> Box<dyn FnMut()>| -> anyhow::Result<()> {
        if !name.contains(&arguments.only) || arguments.case.as_ref().is_some_and(|case| case != name) {
            return Ok(());
        }
        cases += 1;
        let mut run = prepare();
        let mut least = f64::INFINITY;
        for _ in 0..arguments.repetitions {
            let started_ns = system::thread_cpu_ns()?;
            run();
            least = least.min((system::thread_cpu_ns()? - started_ns) as f64 / (BATCH * BATCHES) as f64);
        }
        writeln!(out, "{name:32} {least:8.1} ns/op")?;
        Ok(())
    };
    case("parse GET", &|| parse(Verb::Get, 32))?;
    case("parse SET of 32 bytes", &|| parse(Verb::Set, 32))?;
    case("parse SET of 1 KiB", &|| parse(Verb::Set, 1024))?;
    case("reply with 32 bytes", &|| reply(32))?;
    case("reply with 1 KiB", &|| reply(1024))?;
    for (name, keys) in [("1 K keys", 1_000), ("1 M keys", 1_000_000)] {
        case(&format!("read and reply, {name}"), &|| read(keys, Attributes::PLAIN))?;
        case(&format!("read with TTL and reply, {name}"), &|| read(keys, WITH_TTL))?;
        case(&format!("prefetch, read and reply, {name}"), &|| prefetched(keys))?;
        case(&format!("overwrite 32 bytes, {name}"), &|| overwrite(keys))?;
    }
    case("insert with eviction, lru", &|| insert(EvictionPolicy::AllKeysLru))?;
    case("insert with eviction, tinylfu", &|| insert(EvictionPolicy::AllKeysTinyLfu))?;
    ensure!(cases > 0, "there is no such case");
    Ok(())
}

fn parse(verb: Verb, value_bytes: usize) -> Box<dyn FnMut()> {
    let shape = Shape { prefix: "key:".into(), key_bytes: 32, value_bytes };
    let wire = Wire::new(Protocol::Resp, &shape);
    let mut keys = Keys::new(Distribution::Uniform, 1_000_000, 1);
    let mut input = Vec::new();
    (0..BATCH).for_each(|_| wire.write_request(verb, keys.next(), &mut input));
    let mut parser = Parser::new();
    Box::new(move || {
        for _ in 0..BATCHES {
            let mut rest = black_box(&input[..]);
            while let Ok(Parsed::Complete { consumed }) = parser.parse(rest, &Limits::DEFAULT) {
                black_box(parser.request(rest).arg(1));
                rest = &rest[consumed..];
            }
        }
    })
}

fn reply(value_bytes: usize) -> Box<dyn FnMut()> {
    let value = vec![b'v'; value_bytes];
    let mut reply = Reply::new(RespVersion::V2);
    Box::new(move || {
        for _ in 0..BATCHES {
            for _ in 0..BATCH {
                reply.bulk(black_box(&value));
            }
            black_box(reply.as_bytes());
            reply.buffer_mut().clear();
        }
    })
}

/// A keyspace that holds `keys` keys of 32 bytes with values of 32 bytes, and a long list of these keys at random.
fn filled(keys: u64, attributes: Attributes) -> (Keyspace, Turn, Vec<Vec<u8>>) {
    let keyspace = keyspace::new(EvictionPolicy::NoEviction, 0);
    let mut turn = Turn::new(1_700_000_000_000, 1);
    let name = |number: u64| format!("key:{number:028}").into_bytes();
    for number in 0..keys {
        keyspace.update(&mut turn, Db(0), &name(number), |slot| slot.set(&[b'v'; 32], attributes));
    }
    let mut random = Keys::new(Distribution::Uniform, keys, 3);
    // Contiguous, as keys are in a connection's input: only the keyspace shall miss the caches.
    let asked = (0..BATCH * BATCHES).map(|_| name(random.next())).collect();
    (keyspace, turn, asked)
}

fn read(keys: u64, attributes: Attributes) -> Box<dyn FnMut()> {
    let (keyspace, mut turn, asked) = filled(keys, attributes);
    let mut reply = Reply::new(RespVersion::V2);
    Box::new(move || {
        for batch in asked.chunks(BATCH) {
            for key in batch {
                keyspace
                    .read(&mut turn, Db(0), key, Access::Touch, |entry| reply.bulk(entry.value))
                    .expect("every key is there");
            }
            black_box(reply.as_bytes());
            reply.buffer_mut().clear();
        }
    })
}

fn prefetched(keys: u64) -> Box<dyn FnMut()> {
    let (keyspace, mut turn, asked) = filled(keys, Attributes::PLAIN);
    let mut reply = Reply::new(RespVersion::V2);
    Box::new(move || {
        for batch in asked.chunks(BATCH) {
            keyspace.prefetch(Db(0), batch.iter().map(Vec::as_slice));
            for key in batch {
                keyspace
                    .read(&mut turn, Db(0), key, Access::Touch, |entry| reply.bulk(entry.value))
                    .expect("every key is there");
            }
            black_box(reply.as_bytes());
            reply.buffer_mut().clear();
        }
    })
}

fn overwrite(keys: u64) -> Box<dyn FnMut()> {
    let (keyspace, mut turn, asked) = filled(keys, Attributes::PLAIN);
    Box::new(move || {
        for key in &asked {
            keyspace.update(&mut turn, Db(0), key, |slot| slot.set(&[b'w'; 32], Attributes::PLAIN));
        }
    })
}

/// Entries of 32 + 32 bytes for keys that are new, each of which makes another go.
fn insert(policy: EvictionPolicy) -> Box<dyn FnMut()> {
    const MEMORY_BYTES_MAX: u64 = 16 << 20;
    /// More than it can hold, twice.
    const FIRST: u64 = 500_000;

    let keyspace = keyspace::new(policy, MEMORY_BYTES_MAX);
    let mut turn = Turn::new(1_700_000_000_000, 1);
    let mut number = 0_u64;
    let mut key = [b'k'; 32];
    let mut insert = move || {
        key[..8].copy_from_slice(&number.to_le_bytes());
        number += 1;
        keyspace.make_room(&mut turn, key.len() + 32).expect("something can go");
        keyspace.update(&mut turn, Db(0), &key, |slot| slot.set(&[b'v'; 32], Attributes::PLAIN));
    };
    (0..FIRST).for_each(|_| insert());
    Box::new(move || (0..BATCH * BATCHES).for_each(|_| insert()))
}
