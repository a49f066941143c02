//! The parts between `read` and `write` alone, in ns of CPU time per operation: the least of many repetitions, because
//! everything that disturbs a loop only makes it slower.
//!
//! The bench `instructions` counts the instructions of some cases.

use anyhow::ensure;
use clap::Parser as _;
use leasehold_benches::keys::{Distribution, Keys};
use leasehold_benches::wire::{Protocol, Shape, Verb, Wire};
use leasehold_benches::{OPERATIONS_PER_REPETITION, keyspace, system};
use leasehold_keyspace::{
    Access, Attributes, Claim, Claimant, Claimed, Db, EvictionPolicy, Expiry, Fill, Keyspace, Turn,
};
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
        case(&format!("read with 2 tags and reply, {name}"), &|| read_tagged(keys))?;
        case(&format!("INVALTAG, all {name}"), &|| invalidate(keys, Invalidate::Tag))?;
        case(&format!("INVALPREFIX, all {name}"), &|| invalidate(keys, Invalidate::Prefix))?;
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

/// As [`filled`], under leases, each entry with two tags: one of all, and one of a hundred.
fn filled_tagged(keys: u64) -> (Keyspace, Turn, Vec<Vec<u8>>) {
    let (keyspace, mut turn, asked) = filled(keys, Attributes::PLAIN);
    let claim = Claim {
        claimant: Claimant::Client,
        lease_ms: None,
        version_min: None,
        fresh_required: true,
        stale_ms_max: None,
        waiter: None,
    };
    for number in 0..keys {
        let key = format!("key:{number:028}").into_bytes();
        let Claimed::Lead { token, .. } = keyspace.claim(&mut turn, Db(0), &key, claim) else {
            unreachable!("nobody else asks for a lease")
        };
        let tags = [keyspace.tag(b"all"), keyspace.tag(format!("one:{}", number / 100).as_bytes())];
        let fill = Fill::Value {
            value: &[b'v'; 32],
            expiry: Expiry::Never,
            stale_for_ms: 0,
            version: None,
            client_flags: 0,
            tags: &tags,
        };
        keyspace.fill(&mut turn, Db(0), &key, token, fill);
        if number % 10_000 == 0 {
            // Records of leases go.
            turn.now_ms += 20_000;
            keyspace.sweep_leases(&mut turn, 0..keyspace.shards());
        }
    }
    (keyspace, turn, asked)
}

/// While other tags are invalidated.
fn read_tagged(keys: u64) -> Box<dyn FnMut()> {
    let (keyspace, mut turn, asked) = filled_tagged(keys);
    (0..10_000).for_each(|number: u32| keyspace.invalidate_tag(&mut turn, &number.to_le_bytes()));
    read_from(keyspace, turn, asked)
}

#[derive(Clone, Copy)]
enum Invalidate {
    Tag,
    Prefix,
}

/// The command alone: of what it covers nothing is read.
fn invalidate(keys: u64, what: Invalidate) -> Box<dyn FnMut()> {
    let (keyspace, mut turn, _) = filled_tagged(keys);
    Box::new(move || {
        for _ in 0..BATCH * BATCHES {
            match what {
                Invalidate::Tag => keyspace.invalidate_tag(&mut turn, black_box(b"all")),
                Invalidate::Prefix => keyspace.invalidate_prefix(&mut turn, Db(0), black_box(b"key:")),
            }
        }
    })
}

fn read(keys: u64, attributes: Attributes) -> Box<dyn FnMut()> {
    let (keyspace, turn, asked) = filled(keys, attributes);
    read_from(keyspace, turn, asked)
}

fn read_from(keyspace: Keyspace, mut turn: Turn, asked: Vec<Vec<u8>>) -> Box<dyn FnMut()> {
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
