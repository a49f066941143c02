//! The core of several nodes in worlds made from seeds: crashes, stops, cuts, losses, clocks that go wrong. What must hold is in `oracle.rs`.
//!
//! `LEASEHOLD_CLUSTER_SEEDS` is how many worlds are made, and `LEASEHOLD_SEED` which ones.

mod oracle;
mod plan;
mod scenarios;
mod server;
mod store;
mod world;

use leasehold_cluster::Rule;
use oracle::Tally;
use plan::{Flaw, Plan, Variant};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

/// What may be left out, and how many worlds show at most that it is missed. `scenarios.rs` has those that would take too many.
const VARIANTS: &[(Variant, u64)] = &[
    (without(Rule::RememberDeletes), 100),
    (without(Rule::RememberWrites), 100),
    (without(Rule::DeleteAtStandIns), 100),
    (without(Rule::Witnesses), 100),
    (without(Rule::WitnessesWait), 100),
    (without(Rule::Proof), 100),
    (without(Rule::TellAll), 1_000),
    (without(Rule::Fence), 500),
    (without(Rule::Overflow), 500),
    (without(Rule::DeliverFirst), 1_000),
    (without(Rule::AgeAtStandIns), 500),
    (without(Rule::GutterTtl), 500),
    (without(Rule::MajorityForFailover), 500),
    (without(Rule::LeasesStay), 1_000),
    (without(Rule::PingIdle), 100),
    (without(Rule::Guard), 500),
    (without(Rule::Budget), 1_000),
    (without(Rule::MarkStale), 100),
    (with(Flaw::ExecutesLate), 5_000),
    (with(Flaw::KeepsTokens), 100),
    (with(Flaw::NeverTimesOut), 100),
    (with(Flaw::DeletesNoTokens), 100),
];

const fn without(rule: Rule) -> Variant {
    Variant { without: Some(rule), flaw: None }
}

const fn with(flaw: Flaw) -> Variant {
    Variant { without: None, flaw: Some(flaw) }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// The first world in which something is violated, and what.
fn first_violation(variant: Variant, first: u64, seeds: u64) -> Option<(u64, String)> {
    look_at(variant, first, seeds).0
}

/// As [`first_violation`], and what came of all requests.
fn look_at(variant: Variant, first: u64, seeds: u64) -> (Option<(u64, String)>, Tally) {
    let tally = Mutex::new(Tally::default());
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // Numbers are given in order, so those below one that was found are looked at by somebody.
                    if number >= seeds || found.lock().expect("no thread panics").is_some() {
                        return;
                    }
                    let seed = first + number;
                    let mut world = World::new(Plan::of(seed, variant), seed);
                    let violation = world.run();
                    tally.lock().expect("no thread panics").add(world.oracle.tally);
                    if let Some(violation) = violation {
                        let mut found = found.lock().expect("no thread panics");
                        if found.as_ref().is_none_or(|(other, _)| seed < *other) {
                            *found = Some((seed, violation));
                        }
                    }
                }
            });
        }
    });
    (found.into_inner().expect("no thread panics"), tally.into_inner().expect("no thread panics"))
}

#[test]
fn nothing_is_violated_in_any_world() {
    let (seeds, which) = (number("LEASEHOLD_CLUSTER_SEEDS", 2_000), number("LEASEHOLD_SEED", 1));
    let (found, tally) = look_at(Variant::default(), which << 32, seeds);
    if let Some((seed, violation)) = found {
        let Plan { rules, skews, faults, topology, .. } = Plan::of(seed, Variant::default());
        panic!("seed {seed}: {violation}\n{} main nodes, {rules:#?}\n{skews:?}\n{faults:#?}", topology.nodes().len());
    }
    println!("{seeds} worlds: {tally:?}");
    let at_least = |count: u64, percent: u64| assert!(count * 100 >= tally.requests * percent, "{tally:?}");
    at_least(tally.by_owners, 30);
    at_least(tally.by_stand_ins, 2);
    at_least(tally.written, 10);
    assert!(tally.stale > 0 && tally.stored > 0 && tally.lost > 0 && tally.refused > 0, "{tally:?}");
}

#[test]
fn each_rule_that_is_left_out_is_missed() {
    for (variant, seeds) in VARIANTS {
        let found = first_violation(*variant, 0, *seeds);
        println!("{variant:?}: {found:?}");
        assert!(found.is_some(), "{variant:?} is not missed in {seeds} worlds");
    }
}
