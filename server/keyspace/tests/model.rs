//! The keyspace does what a sorted map with a clock does, whatever the number of shards, and under a limit what is left of it.

mod common;
#[path = "common/twin.rs"]
mod twin;

use common::SETTINGS;
use leasehold_keyspace::Settings;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keyspace_behaves_as_a_map_with_a_clock(steps in prop::collection::vec(twin::step(), 1..300)) {
        twin::run(Settings { shards: 1, ..SETTINGS }, &steps);
        twin::run(Settings { shards: 16, ..SETTINGS }, &steps);
    }
}

#[test]
fn what_a_limit_leaves_is_right() {
    let evicted = Cell::new(0);
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&prop::collection::vec(twin::step_with_limits(), 1..300), |steps| {
        let limited = twin::run(Settings { shards: 1, memory_bytes_max: 1 << 18, ..SETTINGS }, &steps);
        let limited_later = twin::run(Settings { shards: 4, ..SETTINGS }, &steps);
        evicted.set(evicted.get() + limited + limited_later);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(evicted.get() > 100, "too little was tested: {} entries were evicted", evicted.get());
}
