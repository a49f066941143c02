//! A recorded trace played through a keyspace: what it would hit under a policy and a limit.
//!
//! The requests go through the code that serves clients, as one that reads a key and stores it when it is not there; nothing
//! about eviction is modelled. Everything follows from fixed seeds, so the same trace gives the same figures. Reading files is
//! the caller's part: this takes lines.

use crate::keyspace::{Access, Attributes, Keyspace};
use crate::memory::VALUE_BYTES_MAX;
use crate::policy::duel::Objective;
use crate::settings::{Db, EvictionPolicy, HashSeed, LeaseSettings, Settings};
use crate::turn::Turn;
use std::collections::BTreeMap;

/// A trace in memory: 16 bytes per request and each key once.
#[derive(Debug, Default)]
pub struct Trace {
    requests: Vec<Request>,
    keys: Vec<Box<[u8]>>,
    numbers: BTreeMap<Box<[u8]>, u32>,
    footprint_bytes: u64,
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Request {
    key: u32,
    bytes: u64,
}

/// A line that is not "key size", or one key more than a trace can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARequest;

impl Trace {
    /// Adds a line "key size", size in bytes; blanks around the words do not count.
    ///
    /// # Errors
    /// The line is something else, or the trace has 2^32 keys already.
    pub fn push_line(&mut self, line: &[u8]) -> Result<(), NotARequest> {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let (Some(key), Some(size), None) = (words.next(), words.next(), words.next()) else { return Err(NotARequest) };
        let size = std::str::from_utf8(size).ok().filter(|size| size.bytes().all(|byte| byte.is_ascii_digit()));
        self.push(key, size.and_then(|size| size.parse().ok()).ok_or(NotARequest)?)
    }

    fn push(&mut self, key: &[u8], bytes: u64) -> Result<(), NotARequest> {
        let key = match self.numbers.get(key) {
            Some(&number) => number,
            None => {
                let number = u32::try_from(self.keys.len()).map_err(|_| NotARequest)?;
                self.numbers.insert(key.into(), number);
                self.keys.push(key.into());
                self.footprint_bytes = self.footprint_bytes.saturating_add(bytes);
                number
            }
        };
        self.requests.push(Request { key, bytes });
        Ok(())
    }

    /// Number of requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is no request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Number of keys.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Sum of the sizes of all keys, of each the first.
    #[must_use]
    pub fn footprint_bytes(&self) -> u64 {
        self.footprint_bytes
    }

    /// Keys and sizes, in order.
    pub fn requests(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.requests.iter().map(|request| (&*self.keys[request.key as usize], request.bytes))
    }
}

/// What is played through.
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    /// What goes when it is full.
    pub policy: EvictionPolicy,
    /// What the tinylfu policies keep most of.
    pub objective: Objective,
    /// What is limited.
    pub limit: Limit,
    /// Parts that evict by themselves, a power of two up to 4096.
    pub shards: usize,
}

/// What is limited, and to how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// All that entries cost.
    Memory(u64),
    /// The lengths of the values alone, as simulators of caches count.
    Values(u64),
}

/// What was not there when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Misses {
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

/// A replay claims no lease.
pub(crate) const NO_LEASES: LeaseSettings = LeaseSettings {
    lease_ms: 1000,
    lease_ms_max: 1000,
    reissue_after_ms: None,
    waiters_per_key_max: 0,
    waiters_max: 0,
    records_max: 0,
    tombstone_ttl_ms: 0,
    invalidated_stale_ms: 0,
};

/// Asks for each key of a trace in turn, and stores it if it is not there. Values are really held.
///
/// # Panics
/// If the number of shards is not a power of two up to 4096.
#[must_use]
pub fn replay(trace: &Trace, cache: Cache) -> Misses {
    let keyspace = keyspace(cache);
    let Cache { limit, shards, .. } = cache;
    let mut turn = Turn::new(0, SEED.0[0]);
    let largest = trace.requests().filter_map(|(_, bytes)| storable(bytes)).max();
    let zeros = vec![0; largest.unwrap_or(0)];
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
        object_ratio: misses as f64 / trace.len().max(1) as f64,
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
    let memory_bytes_max = match limit {
        Limit::Memory(bytes) => bytes,
        Limit::Values(_) => 0,
    };
    let settings =
        Settings { shards, memory_bytes_max, policy, absence_bytes_max: 0, boot_unix_ms: 0, lease: NO_LEASES };
    let keyspace = Keyspace::new(settings, SEED);
    keyspace.set_objective(objective);
    if let Limit::Values(bytes) = limit {
        keyspace.limit_values_only(bytes);
    }
    keyspace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_words_and_the_first_size_makes_the_footprint() {
        let mut trace = Trace::default();
        for line in [&b"a 10\r\n"[..], b"user:1 20\n", b" a  11 \n", b"last 5"] {
            trace.push_line(line).expect("a request");
        }
        let requests: Vec<(&[u8], u64)> = trace.requests().collect();
        assert_eq!(requests, [(&b"a"[..], 10), (b"user:1", 20), (b"a", 11), (b"last", 5)]);
        assert_eq!((trace.key_count(), trace.footprint_bytes()), (3, 35));
        for line in [&b""[..], b"b", b"d -1", b"d +1", b"a 1 extra", b"a 99999999999999999999"] {
            assert_eq!(trace.push_line(line), Err(NotARequest), "{line:?}");
        }
        assert_eq!(trace.len(), 4);
    }

    #[test]
    fn what_fits_misses_once_and_what_is_too_large_always() {
        let mut trace = Trace::default();
        for _ in 0..10 {
            trace.push_line(b"small 100").expect("a request");
            trace.push_line(b"large 5000").expect("a request");
        }
        for policy in EvictionPolicy::ALL {
            let cache = Cache { policy, objective: Objective::Objects, limit: Limit::Values(4000), shards: 1 };
            let misses = replay(&trace, cache);
            assert!((misses.object_ratio - 11.0 / 20.0).abs() < 1e-9, "{policy:?}: {misses:?}");
        }
    }
}
