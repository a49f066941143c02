//! The parts between `read` and `write` alone, in ns per operation: the least of many repetitions, because everything that
//! disturbs a loop only makes it slower.
//!
//! Counts instructions where the machine lets us (`perf stat` on one case by `--only`); the loops have no other work.

use clap::Parser as _;
use leasehold_benches::keys::{Distribution, Keys};
use leasehold_benches::wire::{Protocol, Shape, Verb, Wire};
use leasehold_protocol::{Limits, Parsed, Parser, Reply, RespVersion};
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

/// Times parsing, lookup and replies without sockets.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Repetitions of each case; the least counts.
    #[arg(long, default_value_t = 40)]
    repetitions: usize,
}

/// Requests in one buffer: a pipeline of 16, as the load bench sends.
const BATCH: usize = 16;
/// Batches in one repetition; together with the batch some milliseconds.
const BATCHES: usize = 2_000;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let mut case = |name: &str, mut run: Box<dyn FnMut()>| -> anyhow::Result<()> {
        if !name.contains(&arguments.only) {
            return Ok(());
        }
        let mut least = f64::INFINITY;
        for _ in 0..arguments.repetitions {
            let started = Instant::now();
            run();
            least = least.min(started.elapsed().as_nanos() as f64 / (BATCH * BATCHES) as f64);
        }
        writeln!(out, "{name:32} {least:8.1} ns/op")?;
        Ok(())
    };
    case("parse GET", parse(Verb::Get, 32))?;
    case("parse SET of 32 bytes", parse(Verb::Set, 32))?;
    case("parse SET of 1 KiB", parse(Verb::Set, 1024))?;
    case("reply with 32 bytes", reply(32))?;
    case("reply with 1 KiB", reply(1024))?;
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
