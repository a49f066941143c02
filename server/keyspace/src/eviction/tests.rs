//! What eviction costs under one lock, and shards that are full: seen from within, where both can be counted.

use super::*;
use crate::keyspace::{Access, Attributes, Expiry};
use crate::replay::NO_LEASES;
use crate::settings::{Db, HashSeed, Settings};

const BOOT_MS: u64 = 1_700_000_000_000;

/// The most that one lock may cost: a step may begin just below the bound of the lock.
const COST_MAX: usize = LOCK_COST_MAX + STEP_COST_MAX + (64 << 10);

fn keyspace(policy: EvictionPolicy, shards: usize) -> Keyspace {
    let settings =
        Settings { shards, memory_bytes_max: 0, policy, absence_bytes_max: 0, boot_unix_ms: BOOT_MS, lease: NO_LEASES };
    Keyspace::new(settings, HashSeed([1, 2, 3, 4]))
}

fn try_set(keyspace: &Keyspace, turn: &mut Turn, number: u32, expiry: Expiry) -> Result<(), OutOfMemory> {
    let value = [7; 100];
    keyspace.make_room(turn, 4 + value.len())?;
    let attributes = Attributes { expiry, ..Attributes::PLAIN };
    keyspace.update(turn, Db(0), &number.to_le_bytes(), |slot| slot.set(&value, attributes));
    Ok(())
}

fn fill(keyspace: &Keyspace, turn: &mut Turn, entries: u32) {
    (0..entries).for_each(|number| try_set(keyspace, turn, number, Expiry::Never).expect("there is no limit"));
}

fn has(keyspace: &Keyspace, turn: &mut Turn, number: u32) -> bool {
    keyspace.read(turn, Db(0), &number.to_le_bytes(), Access::Touch, |_| ()).is_some()
}

#[test]
fn eviction_after_hits_on_everything_moves_a_bounded_part_under_one_lock() {
    const ENTRIES: u32 = 30_000;

    for policy in [EvictionPolicy::AllKeysLru, EvictionPolicy::AllKeysTinyLfu, EvictionPolicy::AllKeysLfu] {
        let keyspace = keyspace(policy, 1);
        let mut turn = Turn::new(BOOT_MS, 1);
        fill(&keyspace, &mut turn, ENTRIES);
        keyspace.set_memory_bytes_max(keyspace.used_bytes() * 5 / 4);
        // Many generations without an eviction: all lists become one, of entries that were all used since.
        for _ in 0..12 {
            assert!((0..ENTRIES).all(|number| has(&keyspace, &mut turn, number)));
        }
        keyspace.set_memory_bytes_max(keyspace.used_bytes());
        for number in ENTRIES..ENTRIES + 2000 {
            try_set(&keyspace, &mut turn, number, Expiry::Never).expect("something can go");
            let cost = keyspace.lock(0).log.moved_cost();
            assert!(cost <= COST_MAX, "{policy:?}: {cost}");
        }
        keyspace.check();
    }
}

#[test]
fn what_must_stay_is_put_aside_in_bounded_parts_after_a_change_of_policy() {
    const ENTRIES: u32 = 60_000;

    for (before, after) in [
        (EvictionPolicy::AllKeysLru, EvictionPolicy::VolatileLru),
        (EvictionPolicy::AllKeysTinyLfu, EvictionPolicy::VolatileTtl),
        (EvictionPolicy::NoEviction, EvictionPolicy::VolatileRandom),
        (EvictionPolicy::NoEviction, EvictionPolicy::VolatileTinyLfu),
    ] {
        let keyspace = keyspace(before, 1);
        let mut turn = Turn::new(BOOT_MS, 1);
        fill(&keyspace, &mut turn, ENTRIES);
        let expiry = Expiry::At(BOOT_MS + 1_000_000);
        for number in ENTRIES..ENTRIES + 100 {
            try_set(&keyspace, &mut turn, number, expiry).expect("there is no limit");
        }
        keyspace.set_policy(after);
        keyspace.set_memory_bytes_max(keyspace.used_bytes());
        let mut refused = 0;
        while keyspace.stats().evicted == 0 {
            refused += usize::from(try_set(&keyspace, &mut turn, ENTRIES + 100, expiry).is_err());
            let cost = keyspace.lock(0).log.moved_cost();
            assert!(cost <= COST_MAX, "{before:?} to {after:?}: {cost}");
            assert!(refused < 100, "{before:?} to {after:?}: each command goes on where the one before ended");
        }
        assert!((0..ENTRIES).all(|number| has(&keyspace, &mut turn, number)), "{before:?} to {after:?}");
        keyspace.check();
    }
}

#[test]
fn pinned_entries_stay_under_every_policy_until_they_are_removed() {
    const PINNED: u32 = 3_000;
    const OTHERS: u32 = 20_000;

    let expiry = Expiry::At(BOOT_MS + 1_000_000);
    for policy in EvictionPolicy::ALL {
        let keyspace = keyspace(EvictionPolicy::AllKeysLru, 2);
        let mut turn = Turn::new(BOOT_MS, 1);
        let pin = |turn: &mut Turn, number: u32| {
            let attributes = Attributes { expiry, ..Attributes::PLAIN };
            keyspace.update(turn, Db(0), &number.to_le_bytes(), |slot| slot.set_pinned(&[7; 100], attributes));
        };
        (0..PINNED).for_each(|number| pin(&mut turn, number));
        for number in PINNED..OTHERS {
            try_set(&keyspace, &mut turn, number, expiry).expect("there is no limit");
        }
        // What is pinned stays so over a change of policy.
        keyspace.set_policy(policy);
        keyspace.set_memory_bytes_max(keyspace.used_bytes());
        let mut refused = 0;
        for number in OTHERS..3 * OTHERS {
            refused += u32::from(try_set(&keyspace, &mut turn, number, expiry).is_err());
            if number % 7 == 0 {
                pin(&mut turn, number % PINNED);
            }
        }
        let evicted = keyspace.stats().evicted;
        let is_there = |turn: &mut Turn, number: u32| {
            keyspace.read(turn, Db(0), &number.to_le_bytes(), Access::Quiet, |_| ()).is_some()
        };
        assert!((0..PINNED).all(|number| is_there(&mut turn, number)), "{policy:?}");
        match policy {
            EvictionPolicy::NoEviction => assert_eq!((refused, evicted), (2 * OTHERS, 0)),
            _ => {
                assert!(evicted > u64::from(OTHERS), "{policy:?}: {evicted}");
                assert!(refused < 100, "{policy:?}: others go, {refused} were refused");
            }
        }
        keyspace.check();
        // Nothing but pinned entries: that is the end of memory, and nobody looks for long.
        for number in PINNED..3 * OTHERS {
            keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.remove());
        }
        keyspace.set_memory_bytes_max(1);
        assert!(try_set(&keyspace, &mut turn, OTHERS, expiry).is_err(), "{policy:?}");
        assert!((0..PINNED).all(|number| is_there(&mut turn, number)), "{policy:?}");
        for number in 0..PINNED {
            assert!(keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.remove_pinned()));
        }
        keyspace.check();
        keyspace.set_memory_bytes_max(0);
        fill(&keyspace, &mut turn, PINNED);
        (0..2).for_each(|index| assert!(!keyspace.lock(index).queues.has_pins()));
    }
}

#[test]
fn dead_bytes_that_are_not_worth_it_are_not_searched_for_with_every_write() {
    // Dead bytes are 8 and 6 % of each segment: enough in all, too few in each.
    for (policy, dead_one_in) in [(EvictionPolicy::NoEviction, 12), (EvictionPolicy::AllKeysLru, 18)] {
        let keyspace = keyspace(policy, 1);
        let mut turn = Turn::new(BOOT_MS, 1);
        fill(&keyspace, &mut turn, 100_000);
        // Without `update`, which would clean up in between.
        for number in (0..100_000_u32).step_by(dead_one_in) {
            keyspace.with_shard(Db(0), &number.to_le_bytes(), |shard, key| {
                let location = shard.find(key).expect("stored");
                shard.remove(location, key.hash);
            });
        }
        let (mut searches, mut in_vain) = (0, 0);
        for number in 0..10_000_u32 {
            let mut shard = keyspace.lock(0);
            if shard.is_untidy() {
                searches += 1;
                if !shard.clean_up(turn.now_ms) {
                    in_vain += 1;
                    assert!(!shard.is_untidy(), "{policy:?}: a search in vain is not made again");
                    assert!(!shard.may_be_tidied(), "{policy:?}: nor is it by who needs room");
                }
            }
            drop(shard);
            // Each write leaves some dead bytes, a segment in 500.
            keyspace.with_shard(Db(0), &(1 + number * 6 % 90_000).to_le_bytes(), |shard, key| {
                if let Some(location) = shard.find(key) {
                    shard.remove(location, key.hash);
                }
            });
        }
        assert!((1..200).contains(&searches), "{policy:?}: {searches} searches");
        assert!(in_vain > 0 || policy != EvictionPolicy::NoEviction, "no search was in vain");
        keyspace.check();
    }
}

#[test]
fn a_full_shard_evicts_or_refuses_writes_and_loses_nothing() {
    const SEGMENTS: usize = 100;

    for policy in EvictionPolicy::ALL {
        let keyspace = keyspace(policy, 2);
        keyspace.lock(0).log.limit_segments(SEGMENTS);
        let mut turn = Turn::new(BOOT_MS, 1);
        let segment_bytes = keyspace.lock(0).log.segment_bytes();
        let entries = (4 * SEGMENTS * segment_bytes / 100) as u32;
        let refused = (0..entries).find(|&number| try_set(&keyspace, &mut turn, number, Expiry::Never).is_err());
        assert!(keyspace.lock(0).log.segments() <= SEGMENTS, "{policy:?}");
        keyspace.check();
        if policy == EvictionPolicy::NoEviction || policy.is_volatile() {
            let stored = refused.expect("a shard is full and nothing may go");
            assert!((0..stored).all(|number| has(&keyspace, &mut turn, number)), "{policy:?}");
            for number in (0..stored).step_by(2) {
                keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.remove());
            }
            try_set(&keyspace, &mut turn, stored, Expiry::Never).expect("half of the entries went");
        } else {
            assert_eq!(refused, None, "{policy:?}");
            let full_bytes = ((SEGMENTS - crate::log::SPARE_SEGMENTS - 2) * segment_bytes) as u64;
            assert!(keyspace.lock(0).bytes() as u64 >= full_bytes, "{policy:?}: only what must go goes");
        }
    }
}

#[test]
fn a_shard_where_nothing_may_go_is_left_alone_until_something_is_changed_there() {
    const SHARDS: usize = 4;

    for policy in [EvictionPolicy::NoEviction, EvictionPolicy::VolatileLru, EvictionPolicy::VolatileTinyLfu] {
        let keyspace = keyspace(policy, SHARDS);
        // Of which a segment or two a shard may be free and resident.
        keyspace.set_memory_bytes_max(2 << 20);
        let mut turn = Turn::new(BOOT_MS, 1);
        let stored = (0..).find(|&number| try_set(&keyspace, &mut turn, number, Expiry::Never).is_err());
        let stored = stored.expect("a limit is reached");
        let barren = |now_ms| (0..SHARDS).filter(|&shard| keyspace.memory.is_barren(shard, now_ms)).count();
        assert_eq!(barren(turn.now_ms), SHARDS, "{policy:?}");
        assert!(try_set(&keyspace, &mut turn, stored, Expiry::Never).is_err());
        // At once, not when it is looked at again.
        for number in 0..stored / 2 {
            keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.remove());
        }
        assert_eq!(barren(turn.now_ms), 0);
        try_set(&keyspace, &mut turn, stored, Expiry::Never).expect("half of the entries went");
        // What has a TTL may go at once where policies say so.
        let refused = (stored + 1..).find(|&number| try_set(&keyspace, &mut turn, number, Expiry::Never).is_err());
        let refused = refused.expect("the limit is reached again");
        assert!(barren(turn.now_ms) > 0 && barren(turn.now_ms + BARREN_MS) == 0);
        for number in stored..refused {
            keyspace.update(&mut turn, Db(0), &number.to_le_bytes(), |slot| slot.set_expiry(Some(BOOT_MS + 9000)));
        }
        let is_stored = try_set(&keyspace, &mut turn, refused, Expiry::Never).is_ok();
        assert!(is_stored || policy == EvictionPolicy::NoEviction, "{policy:?}");
        turn.now_ms += 10_000;
        keyspace.expire_cycle(&mut turn, 0..SHARDS, 1_000_000);
        try_set(&keyspace, &mut turn, refused, Expiry::Never).expect("half of the entries are over");
        keyspace.check();
    }
}
