//! What the policies hit on traffic of known kinds, replayed as a cache in front of a source: read, and store what is not there.
//!
//! The bounds stand close to what was measured when they were set, so that a policy that has lost its sense of frequency,
//! recency or size fails here at once. Real traces are replayed by `leasehold simulate`.

mod common;

use common::{SETTINGS, keyspace};
use leasehold_keyspace::{Access, Attributes, Db, EvictionPolicy, Objective, Settings, Turn};

/// Share of requests and share of bytes that were not there.
#[derive(Clone, Copy, Debug)]
struct Misses {
    objects: f64,
    bytes: f64,
}

fn replay(
    policy: EvictionPolicy,
    objective: Objective,
    capacity: u64,
    requests: impl Iterator<Item = (u64, usize)>,
) -> Misses {
    let keyspace = keyspace(Settings { shards: 1, policy, absence_bytes_max: 0, boot_unix_ms: 1, ..SETTINGS });
    keyspace.limit_values_only(capacity);
    keyspace.set_objective(objective);
    let mut turn = Turn::new(0, 7);
    let zeros = vec![0; 10_000];
    let (mut all, mut missed) = ((0, 0), (0, 0));
    for (number, (key, bytes)) in requests.enumerate() {
        turn.now_ms += 128;
        if number % 64 == 0 {
            keyspace.expire_cycle(&mut turn, 0..1, 16);
        }
        all = (all.0 + 1, all.1 + bytes);
        let key = key.to_le_bytes();
        if keyspace.read(&mut turn, Db(0), &key, Access::Touch, |_| ()).is_none() {
            missed = (missed.0 + 1, missed.1 + bytes);
            keyspace.update(&mut turn, Db(0), &key, |slot| slot.set(&zeros[..bytes], Attributes::PLAIN));
            keyspace.make_room(&mut turn, 0).expect("everything may go");
            assert!(keyspace.used_bytes() <= capacity);
        }
    }
    Misses { objects: f64::from(missed.0) / f64::from(all.0), bytes: missed.1 as f64 / all.1 as f64 }
}

/// Numbers from 0 to 1.
fn chances() -> impl Iterator<Item = f64> {
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    })
}

/// Keys below `keys`, the chance of each in inverse proportion to its number.
fn skewed(keys: u64, count: usize) -> impl Iterator<Item = u64> {
    chances().take(count).map(move |chance| (keys as f64).powf(chance) as u64)
}

fn objects(policy: EvictionPolicy, capacity: u64, keys: impl Iterator<Item = u64>) -> f64 {
    replay(policy, Objective::Objects, capacity, keys.map(|key| (key, 1))).objects
}

use EvictionPolicy::{AllKeysLru, AllKeysTinyLfu};

#[test]
fn frequency_wins_where_popularity_is_skewed() {
    let keys = || skewed(20_000, 200_000);
    let (lru, tinylfu) = (objects(AllKeysLru, 500, keys()), objects(AllKeysTinyLfu, 500, keys()));
    // The 500 most popular keys have log 500 / log 20,000 = 62.8 % of the requests: no cache misses less than 0.372.
    assert!(tinylfu < 0.41 && tinylfu < lru - 0.05, "tinylfu {tinylfu}, lru {lru}");
}

#[test]
fn a_circle_that_does_not_fit_is_kept_in_part() {
    let keys = || (0..100_000).map(|at| at % 2000);
    let (lru, tinylfu) = (objects(AllKeysLru, 500, keys()), objects(AllKeysTinyLfu, 500, keys()));
    // The best is to keep a quarter.
    assert!(tinylfu < 0.85 && lru > 0.999, "tinylfu {tinylfu}, lru {lru}");
}

#[test]
fn scans_do_not_push_out_what_is_used() {
    let keys =
        || skewed(400, 200_000).enumerate().map(|(at, key)| if at % 4 == 0 { key } else { 1_000_000 + at as u64 });
    let (lru, tinylfu) = (objects(AllKeysLru, 500, keys()), objects(AllKeysTinyLfu, 500, keys()));
    // Three quarters of the keys come once.
    assert!(tinylfu < 0.775 && tinylfu < lru - 0.03, "tinylfu {tinylfu}, lru {lru}");
}

#[test]
fn keys_that_come_again_soon_are_hit_as_by_lru() {
    let keys = || (0..100_000_u64).flat_map(|key| [key, key.saturating_sub(100)]);
    let (lru, tinylfu) = (objects(AllKeysLru, 500, keys()), objects(AllKeysTinyLfu, 500, keys()));
    assert!(lru < 0.51 && tinylfu < lru + 0.02, "tinylfu {tinylfu}, lru {lru}");
}

#[test]
fn small_entries_stay_unless_bytes_are_what_counts() {
    // One key in sixteen is a hundred times as large.
    let requests = || skewed(20_000, 200_000).map(|key| (key, if key % 16 == 0 { 5_000 } else { 50 }));
    let of = |objective| replay(AllKeysTinyLfu, objective, 200_000, requests());
    let (by_objects, by_bytes) = (of(Objective::Objects), of(Objective::Bytes));
    assert!(by_objects.objects < by_bytes.objects - 0.08, "{by_objects:?} {by_bytes:?}");
    assert!(by_bytes.bytes < by_objects.bytes - 0.02, "{by_objects:?} {by_bytes:?}");
}
