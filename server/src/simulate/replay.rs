//! One replay of a trace through a keyspace of its own.

use super::trace::Trace;
use crate::config::parse::{Given, read};
use leasehold_keyspace::{
    Access, Attributes, Db, EvictionPolicy, HashSeed, Keyspace, Objective, Settings, Turn, VALUE_BYTES_MAX,
};

/// What is limited.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// All that entries cost.
    Memory(u64),
    /// The lengths of the values alone.
    Values(u64),
}

/// What was not there when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Misses {
    /// Of the requests.
    pub object_ratio: f64,
    /// Of the bytes of all requests.
    pub byte_ratio: f64,
}

/// Time from one request to the next: what a policy's clock tells apart. A trace has no times.
const REQUEST_MS: u64 = 128;

/// A thread of the server does its periodic work once in so many requests.
const TICK_REQUESTS: usize = 64;

/// Positions that the search for expired entries looks at then. A trace has no TTLs.
const EXPIRE_STEPS: usize = 16;

const SEED: HashSeed = HashSeed([0x9E37, 0x79B9, 0x7F4A, 0x7C15]);
const DB: Db = Db(0);

/// What is replayed through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cache {
    pub policy: EvictionPolicy,
    pub objective: Objective,
    pub limit: Limit,
    pub shards: usize,
}

/// Asks for each key in turn, and stores it if it is not there.
pub(crate) fn replay(trace: &Trace, cache: Cache) -> Misses {
    let keyspace = keyspace(cache);
    let Cache { limit, shards, .. } = cache;
    let mut turn = Turn::new(0, SEED.0[0]);
    let largest = trace.requests().map(|(_, bytes)| bytes).filter(|&bytes| storable(bytes).is_some()).max();
    let zeros = vec![0; largest.and_then(storable).unwrap_or(0)];
    let (mut misses, mut missed_bytes, mut bytes_of_all) = (0_u64, 0_u64, 0_u64);
    for (number, (key, bytes)) in trace.requests().enumerate() {
        turn.now_ms += REQUEST_MS;
        if number % TICK_REQUESTS == 0 {
            keyspace.expire_cycle(&mut turn, 0..shards, EXPIRE_STEPS);
        }
        bytes_of_all = bytes_of_all.saturating_add(bytes);
        if keyspace.read(&mut turn, DB, key, Access::Touch, |_| ()).is_some() {
            continue;
        }
        misses += 1;
        missed_bytes = missed_bytes.saturating_add(bytes);
        if let Some(value) = storable(bytes).and_then(|bytes| zeros.get(..bytes)) {
            store(&keyspace, &mut turn, limit, key, value);
        }
    }
    Misses {
        object_ratio: misses as f64 / trace.len() as f64,
        byte_ratio: missed_bytes as f64 / bytes_of_all.max(1) as f64,
    }
}

/// As `SET` does. What has no room is not stored.
fn store(keyspace: &Keyspace, turn: &mut Turn, limit: Limit, key: &[u8], value: &[u8]) {
    match limit {
        Limit::Memory(_) => {
            if keyspace.make_room(turn, key.len() + value.len()).is_ok() {
                keyspace.update(turn, DB, key, |slot| slot.set(value, Attributes::PLAIN));
            }
        }
        // Simulators let the newcomer in first and then see who goes.
        Limit::Values(bytes_max) => {
            if value.len() as u64 <= bytes_max {
                keyspace.update(turn, DB, key, |slot| slot.set(value, Attributes::PLAIN));
                // Under a policy that evicts nothing the newcomer has to go again.
                if keyspace.make_room(turn, 0).is_err() {
                    keyspace.update(turn, DB, key, |slot| slot.remove());
                }
            }
        }
    }
}

fn storable(bytes: u64) -> Option<usize> {
    usize::try_from(bytes).ok().filter(|&bytes| bytes <= VALUE_BYTES_MAX)
}

fn keyspace(cache: Cache) -> Keyspace {
    let Cache { policy, objective, limit, shards } = cache;
    let defaults = read(&Given { conf: None, arguments: Vec::new() }).config.keyspace_settings(0);
    let memory_bytes_max = match limit {
        Limit::Memory(bytes) => bytes,
        Limit::Values(_) => 0,
    };
    let keyspace = Keyspace::new(Settings { shards, policy, memory_bytes_max, ..defaults }, SEED);
    keyspace.set_objective(objective);
    if let Limit::Values(bytes) = limit {
        keyspace.limit_values_only(bytes);
    }
    keyspace
}
