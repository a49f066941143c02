//! Absences: what is remembered, for how long, in how much memory.

use super::*;
use std::sync::Arc;

const SETTINGS: LeaseSettings = LeaseSettings {
    lease_ms: 10_000,
    lease_ms_max: 60_000,
    reissue_after_ms: None,
    waiters_per_key_max: 100,
    waiters_max: 1000,
    records_max: 1000,
    tombstone_ttl_ms: 1000,
    invalidated_stale_ms: 1000,
};

fn shard() -> Shard {
    let hash = RandomState::with_seeds(1, 2, 3, 4);
    let backing = Backing::new(1 << 16);
    Shard::new(
        ShardNumber { index: 3, count: 8 },
        1_700_000_000_000,
        SETTINGS,
        &hash,
        &backing,
        EvictionPolicy::NoEviction,
        &Arc::default(),
    )
}

/// A name for key `number`, kept by the caller.
fn name(number: u32) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

fn key<'k>(shard: &Shard, bytes: &'k [u8]) -> Key<'k> {
    Key { db: Db(0), bytes, hash: shard.hash(Db(0), bytes) }
}

fn remember(shard: &mut Shard, number: u32, kind: AbsenceKind, until_ms: u64) {
    let bytes = name(number);
    let version = shard.next_version();
    let key = key(shard, &bytes);
    let version_floor = (kind == AbsenceKind::Tombstone).then_some(7);
    shard.set_absence(&key, Absence { kind, until_ms, version, version_floor });
}

fn remembered(shard: &mut Shard, numbers: std::ops::Range<u32>, now_ms: u64) -> usize {
    numbers
        .filter(|&number| {
            let bytes = name(number);
            let key = key(shard, &bytes);
            shard.absence(&key, now_ms).is_some()
        })
        .count()
}

#[test]
fn absence_is_remembered_until_its_time_and_costs_nothing_after() {
    let mut shard = shard();
    let bytes = name(1);
    remember(&mut shard, 1, AbsenceKind::Tombstone, 1000);
    let key = key(&shard, &bytes);
    let absence = shard.absence(&key, 999).expect("remembered");
    assert_eq!((absence.kind, absence.version_floor), (AbsenceKind::Tombstone, Some(7)));
    assert_eq!(shard.version_floor(&key, 999), Some(7));
    assert_eq!(shard.version_floor(&key, 1000), None);
    assert_eq!(shard.absence(&key, 1000), None);
    assert_eq!(shard.bytes(), shard.table_bytes() + shard.leases.memory_bytes());
}

#[test]
fn absences_stay_within_their_budget_and_negatives_go_before_tombstones() {
    let mut shard = shard();
    shard.absence_bytes_max = 64 << 10;
    for number in 0..100 {
        remember(&mut shard, number, AbsenceKind::Tombstone, 1_000_000);
    }
    for number in 100..20_000 {
        remember(&mut shard, number, AbsenceKind::Negative, 2_000_000 + u64::from(number));
        assert!(shard.absence_budget_bytes() <= shard.absence_bytes_max);
    }
    assert!(shard.absences.len() > 500, "{} absences fit in 64 KiB", shard.absences.len());
    assert!(remembered(&mut shard, 0..100, 0) > 90, "a crowd of negative entries leaves the tombstones");
    let (older, newer) = (remembered(&mut shard, 100..10_000, 0), remembered(&mut shard, 19_500..20_000, 0));
    assert!(newer > 300 && older < 100, "{older} of the older and {newer} of the newest negatives are left");
}

#[test]
fn a_lowered_budget_drops_absences_and_none_at_all_keeps_none() {
    let mut shard = shard();
    for number in 0..1000 {
        remember(&mut shard, number, AbsenceKind::Negative, 1000);
    }
    shard.absence_bytes_max = 8 << 10;
    shard.shrink_absences();
    assert!(shard.absences.len() > 50 && shard.absence_budget_bytes() <= 8 << 10);
    shard.absence_bytes_max = 0;
    shard.shrink_absences();
    assert_eq!(shard.absences.len(), 0);
    remember(&mut shard, 1, AbsenceKind::Negative, 1000);
    assert_eq!(shard.absences.len(), 0);
    assert_eq!(shard.bytes(), shard.table_bytes() + shard.leases.memory_bytes());
}

#[test]
fn versions_of_a_shard_are_its_own() {
    let mut shard = shard();
    let first = shard.next_version();
    assert_eq!(first % 8, 3);
    assert_eq!(shard.next_version(), first + 8);
    assert!(first > 1_700_000_000_000 << VERSION_SHIFT && first < 1_700_000_000_001 << VERSION_SHIFT);
}
