//! The miss ratio of a trace of `key size` lines through the real keyspace, cache-aside: `replay [limit KiB] [shards] [policy …] < trace`.
//!
//! Values have the size that the trace says less key and header, so that an entry takes about that much in the log.

use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, HashSeed, Keyspace, LeaseSettings, Settings, Turn};
use std::io::BufRead;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BOOT_MS: u64 = 1_700_000_000_000;

fn main() {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (limit_kib, shards) = (arguments[0], arguments[1] as usize);
    let trace: Vec<(u64, usize)> = std::io::stdin()
        .lock()
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .collect();
    for &policy in &arguments[2..] {
        let policy = EvictionPolicy::ALL[policy as usize];
        let settings = Settings {
            shards,
            memory_bytes_max: limit_kib << 10,
            policy,
            eviction_samples: 5,
            absence_bytes_max: 1 << 20,
            boot_unix_ms: BOOT_MS,
            lease: LeaseSettings {
                lease_ms: 10_000,
                lease_ms_max: 60_000,
                reissue_after_ms: None,
                waiters_per_key_max: 100,
                waiters_max: 1000,
                records_max: 1000,
                tombstone_ttl_ms: 1000,
                invalidated_stale_ms: 1000,
            },
        };
        let keyspace = Keyspace::new(settings, HashSeed([1, 2, 3, 4]));
        let mut turn = Turn::new(BOOT_MS, 7);
        let value = vec![0; trace.iter().map(|&(_, size)| size).max().unwrap_or(0)];
        let mut missed_bytes = 0;
        for &(key, size) in &trace {
            let key = key.to_le_bytes();
            if keyspace.read(&mut turn, Db(0), &key, Access::Touch, |_| ()).is_none() {
                missed_bytes += size;
                let value = &value[..size.saturating_sub(12)];
                if keyspace.make_room(&mut turn, key.len() + value.len()).is_ok() {
                    keyspace.update(&mut turn, Db(0), &key, |slot| slot.set(value, Attributes::PLAIN));
                }
            }
            turn.now_ms += 1;
        }
        keyspace.check();
        let stats = keyspace.stats();
        let bytes: usize = trace.iter().map(|&(_, size)| size).sum();
        println!(
            "{policy:?}: object miss {:.4}, byte miss {:.4}, {} entries of {} bytes, {} dead, {} counted",
            stats.misses as f64 / trace.len() as f64,
            missed_bytes as f64 / bytes as f64,
            stats.entries,
            stats.entry_bytes,
            stats.dead_bytes,
            stats.used_bytes,
        );
    }
}
