//! What an entry costs in resident memory, and what reads and writes cost: `resident [entries] [value bytes] [policy] [limit MiB]`.
//!
//! Without a limit it fills the keyspace and prints bytes of resident memory an entry beyond key and value. With one it stores
//! three times what fits, and prints how many entries it holds. Then it times reads and writes of one thread.

#![allow(clippy::print_stdout, reason = "its output")]

use leasehold_keyspace::{
    Access, Attributes, Db, EvictionPolicy, HashSeed, Keyspace, LeaseSettings, PREFETCH_KEYS_MAX, Settings, Turn,
};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BOOT_MS: u64 = 1_700_000_000_000;
const KEY_BYTES: usize = 16;

fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Resident bytes of this process.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = text.split_whitespace().nth(1).and_then(|field| field.parse().ok()).expect("as proc(5) says");
    pages * 4096
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (entries, value_bytes, policy, limit_mib) = (number(2_000_000), number(100) as usize, number(0), number(0));
    let settings = Settings {
        shards: 256,
        memory_bytes_max: limit_mib << 20,
        policy: EvictionPolicy::ALL[policy as usize],
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
    let before = resident_bytes();
    let keyspace = Keyspace::new(settings, HashSeed([1, 2, 3, 4]));
    let mut turn = Turn::new(BOOT_MS, 7);
    let value = vec![b'v'; value_bytes];
    let set = |turn: &mut Turn, number: u64| {
        let key = key(number);
        if keyspace.make_room(turn, KEY_BYTES + value_bytes).is_ok() {
            keyspace.update(turn, Db(0), &key, |slot| slot.set(&value, Attributes::PLAIN));
        }
    };
    let start = Instant::now();
    (0..entries).for_each(|number| set(&mut turn, number));
    let insert_ns = start.elapsed().as_nanos() as f64 / entries as f64;
    let held = keyspace.stats();
    let resident = resident_bytes() - before;
    let each = resident as f64 / held.entries as f64;
    println!(
        "{policy:?}: {} entries held, {resident} bytes resident, {} counted: {:.1} bytes an entry beyond key and value; {:?}",
        held.entries,
        held.used_bytes,
        each - (KEY_BYTES + value_bytes) as f64,
        (held.table_bytes as f64 / held.entries as f64, held.dead_bytes, held.evicted),
        policy = settings.policy
    );
    println!("insert {insert_ns:.0} ns");
    let recent = entries - held.entries * 3 / 4;
    let span = entries - recent;
    let time = |name: &str, count: u64, run: &mut dyn FnMut(&mut Turn)| {
        let mut turn = Turn::new(BOOT_MS + 1000, 99);
        let mut longest_ns = 0;
        let start = Instant::now();
        for _ in 0..count {
            let before = Instant::now();
            run(&mut turn);
            longest_ns = longest_ns.max(before.elapsed().as_nanos());
        }
        let ns = start.elapsed().as_nanos() as f64 / count as f64;
        println!("{name} {ns:.0} ns, longest {} us", longest_ns / 1000);
    };
    time("read", 3_000_000, &mut |turn| {
        let key = key(recent + turn.random() % span);
        keyspace.read(turn, Db(0), &key, Access::Touch, |entry| entry.value.len());
    });
    time("read in batches, for 16", 300_000, &mut |turn| {
        let keys: Vec<_> = (0..PREFETCH_KEYS_MAX).map(|_| key(recent + turn.random() % span)).collect();
        keyspace.prefetch(Db(0), keys.iter().map(|key| &key[..]));
        for key in &keys {
            keyspace.read(turn, Db(0), key, Access::Touch, |entry| entry.value.len());
        }
    });
    time("overwrite", 3_000_000, &mut |turn| {
        let number = recent + turn.random() % span;
        set(turn, number);
    });
    let mut next = entries;
    time("insert", 3_000_000, &mut |turn| {
        next += 1;
        set(turn, next);
    });
    let stats = keyspace.stats();
    println!(
        "{} entries, {} resident, {} counted, {} dead",
        stats.entries,
        resident_bytes() - before,
        stats.used_bytes,
        stats.dead_bytes
    );
    keyspace.check();
}
