//! Fuzz target: the keyspace, which has `unsafe` below it, against its safe twin (`server/keyspace/tests/common/twin.rs`).
//!
//! Each four bytes of the input draw one step: the fuzzer changes, cuts and mixes sequences of steps, and whatever it writes is one
//! that may happen.

#![no_main]

#[path = "../../../server/keyspace/tests/common/mod.rs"]
mod common;
#[path = "../../../server/keyspace/tests/common/twin.rs"]
mod twin;

use common::SETTINGS;
use leasehold_keyspace::Settings;
use libfuzzer_sys::fuzz_target;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Steps of one input at most: more make a crash hard to read.
const STEPS_MAX: usize = 200;

fuzz_target!(|data: &[u8]| {
    let Some((&shape, data)) = data.split_first() else { return };
    let (chunks, _) = data.as_chunks::<4>();
    let strategy = twin::step_with_limits();
    let steps: Vec<twin::Step> = chunks.iter().take(STEPS_MAX).map(|chunk| step(&strategy, *chunk)).collect();
    let shards = 1 << (shape % 4);
    let memory_bytes_max = if shape & 4 == 0 { 0 } else { 1 << 18 };
    twin::run(Settings { shards, memory_bytes_max, ..SETTINGS }, &steps);
});

fn step(strategy: &impl Strategy<Value = twin::Step>, seed: [u8; 4]) -> twin::Step {
    let random = TestRng::from_seed(RngAlgorithm::XorShift, &[seed; 4].concat());
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    strategy.new_tree(&mut runner).expect("every step may be drawn").current()
}
