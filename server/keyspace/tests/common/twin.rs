//! A safe twin of the keyspace: a sorted map with a clock. Steps are taken by both, and what they answer is compared.
//!
//! Under a limit entries may go, as many as the keyspace says it evicted, and no others; what stays is as the twin has it.

use crate::common::{BOOT_MS, check_memory, keyspace, scan_all};
use leasehold_keyspace::{
    Access, Attributes, Claim, Claimant, Claimed, Count, Db, EvictionPolicy, Expiry, Fill, Filled, Keyspace, Lookup,
    LostReason, Settings, Tag, Turn,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Model = BTreeMap<(Db, Vec<u8>), ModelEntry>;

#[derive(Clone, Debug)]
struct ModelEntry {
    value: Vec<u8>,
    expire_at_ms: Option<u64>,
    stale_for_ms: u64,
    external_version: Option<u64>,
    client_flags: u32,
    /// If somebody asked for it.
    version: Option<u64>,
    tags: Vec<usize>,
    /// A bump has covered it.
    is_bumped: bool,
}

impl ModelEntry {
    fn is_fresh(&self, now_ms: u64) -> bool {
        self.expire_at_ms.is_none_or(|at| now_ms < at)
    }

    fn is_gone(&self, now_ms: u64) -> bool {
        self.expire_at_ms.is_some_and(|at| now_ms >= at.saturating_add(self.stale_for_ms))
    }

    fn invalidate(&mut self, now_ms: u64) {
        let gone_at_ms = self.expire_at_ms.map_or(u64::MAX, |at| at.saturating_add(self.stale_for_ms));
        let expire_at_ms = self.expire_at_ms.map_or(now_ms, |at| at.min(now_ms));
        let window_ms = match self.stale_for_ms {
            0 => crate::common::SETTINGS.lease.invalidated_stale_ms,
            own => own,
        };
        self.is_bumped = true;
        self.expire_at_ms = Some(expire_at_ms);
        self.stale_for_ms = window_ms.min(gone_at_ms - expire_at_ms);
    }
}

/// What both are asked.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Set {
        key: usize,
        len: usize,
        expiry: Option<u64>,
        keep: bool,
        stale_for_ms: u64,
        version: Option<u64>,
        flags: u32,
    },
    Read {
        key: usize,
    },
    Lookup {
        key: usize,
    },
    Remove {
        key: usize,
    },
    Version {
        key: usize,
    },
    SetExpiry {
        key: usize,
        after_ms: Option<u64>,
    },
    Lengthen {
        key: usize,
        len: usize,
        keeps_flags: bool,
    },
    Rename {
        from: usize,
        to: usize,
    },
    /// A load under a lease, and what is bumped meanwhile. Left out under a limit, where it may evict what it is compared with.
    Fill {
        key: usize,
        len: usize,
        tags: Vec<usize>,
        expiry: Option<u64>,
        stale_for_ms: u64,
        meanwhile: Option<Bump>,
    },
    Bump(Bump),
    ReadMany {
        keys: Vec<usize>,
    },
    Scan {
        count: usize,
    },
    RandomKey,
    Flush {
        all: bool,
    },
    Cycle,
    Pass {
        ms: u64,
    },
    /// Of memory; 0 = none.
    Limit {
        bytes: u64,
    },
    Policy(EvictionPolicy),
}

/// What becomes stale as a whole.
#[derive(Clone, Debug)]
pub(crate) enum Bump {
    Tag(usize),
    Prefix(Db, &'static [u8]),
}

impl Bump {
    fn covers(&self, db: Db, key: &[u8], tags: &[usize]) -> bool {
        match *self {
            Self::Tag(tag) => tags.contains(&tag),
            Self::Prefix(of, prefix) => of == db && key.starts_with(prefix),
        }
    }

    fn run(&self, keyspace: &Keyspace, turn: &mut Turn, model: &mut Model) {
        // Of several bumps that nobody has dealt with the last one counts, so somebody comes in between.
        for name in (0..KEYS).map(name).filter(|name| model.get(name).is_none_or(|entry| entry.is_bumped)) {
            keyspace.lookup(turn, name.0, &name.1, Access::Quiet, |_| ());
        }
        match *self {
            Self::Tag(tag) => keyspace.invalidate_tag(turn, TAGS[tag]),
            Self::Prefix(db, prefix) => keyspace.invalidate_prefix(turn, db, prefix),
        }
        let covered = model.iter_mut().filter(|((db, key), entry)| self.covers(*db, key, &entry.tags));
        covered.for_each(|(_, entry)| entry.invalidate(turn.now_ms));
    }
}

const KEYS: usize = 40;
const TAGS: [&[u8]; 4] = [b"one", b"two", b"", b"three"];
const PREFIXES: [&[u8]; 8] = [b"", b"k", b"key:", b"key:1", b"key:12", b"key:2", b"x", b"nothing"];

/// Steps without a limit.
pub(crate) fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    let len = prop_oneof![4 => 0..40_usize, 2 => 0..600_usize, 1 => 0..100_000_usize];
    prop_oneof![
        6 => (key.clone(), len.clone(), prop::option::of(1..200_u64), any::<bool>(), prop_oneof![Just(0), 0..100_u64],
            prop::option::of(1..9_u64), prop_oneof![Just(0), any::<u32>()])
            .prop_map(|(key, len, expiry, keep, stale_for_ms, version, flags)| {
                Step::Set { key, len, expiry, keep, stale_for_ms, version, flags }
            }),
        4 => key.clone().prop_map(|key| Step::Read { key }),
        3 => key.clone().prop_map(|key| Step::Lookup { key }),
        2 => key.clone().prop_map(|key| Step::Remove { key }),
        2 => key.clone().prop_map(|key| Step::Version { key }),
        2 => (key.clone(), prop::option::of(0..200_u64)).prop_map(|(key, after_ms)| Step::SetExpiry { key, after_ms }),
        3 => (key.clone(), len, any::<bool>()).prop_map(|(key, len, keeps_flags)| Step::Lengthen { key, len, keeps_flags }),
        1 => (key.clone(), key.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        4 => (key.clone(), 0..300_usize, tags(), prop::option::of(1..200_u64), prop_oneof![Just(0), 0..100_u64],
            prop::option::weighted(0.3, bump()))
            .prop_map(|(key, len, tags, expiry, stale_for_ms, meanwhile)| {
                Step::Fill { key, len, tags, expiry, stale_for_ms, meanwhile }
            }),
        2 => bump().prop_map(Step::Bump),
        1 => prop::collection::vec(key, 0..10).prop_map(|keys| Step::ReadMany { keys }),
        1 => (1..30_usize).prop_map(|count| Step::Scan { count }),
        1 => Just(Step::RandomKey),
        1 => prop::bool::weighted(0.2).prop_map(|all| Step::Flush { all }),
        1 => Just(Step::Cycle),
        3 => (0..60_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

fn tags() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..TAGS.len(), 0..3)
}

fn bump() -> impl Strategy<Value = Bump> {
    prop_oneof![
        (0..TAGS.len()).prop_map(Bump::Tag),
        (0..2_u8, prop::sample::select(&PREFIXES[..])).prop_map(|(db, prefix)| Bump::Prefix(Db(db), prefix)),
    ]
}

/// Steps under limits and policies that change.
pub(crate) fn step_with_limits() -> impl Strategy<Value = Step> {
    let limit = prop_oneof![1 => Just(0), 6 => 1_u64 << 15..1 << 19];
    prop_oneof![
        40 => step(),
        1 => limit.prop_map(|bytes| Step::Limit { bytes }),
        1 => prop::sample::select(&EvictionPolicy::ALL[..]).prop_map(Step::Policy),
    ]
}

/// Key number to database and key; some keys are the same in two databases.
fn name(key: usize) -> (Db, Vec<u8>) {
    let text = format!("key:{}", key / 2);
    (Db((key % 2) as u8), if key < 4 { vec![b'x'; key / 2 * 300] } else { text.into_bytes() })
}

/// Takes the steps, and panics where the twins differ or the keyspace's books are wrong. How many entries were evicted.
pub(crate) fn run(settings: Settings, steps: &[Step]) -> u64 {
    let shards = settings.shards;
    let keyspace = keyspace(settings);
    let mut turn = Turn::new(BOOT_MS, 7);
    let mut model = Model::new();
    let mut evicted = 0;
    let mut versions = BTreeSet::new();
    let mut is_limited = settings.memory_bytes_max > 0;
    for (number, step) in steps.iter().enumerate() {
        let now = turn.now_ms;
        model.retain(|_, entry| !entry.is_gone(now));
        let bytes_wanted = match *step {
            Step::Set { len, .. } | Step::Lengthen { len, .. } => Some(1000 + len),
            _ => None,
        };
        let has_room = bytes_wanted.is_none_or(|bytes| keyspace.make_room(&mut turn, bytes).is_ok());
        forget_evicted(&keyspace, &mut turn, &mut model, &mut evicted);
        if !has_room {
            continue;
        }
        match step.clone() {
            Step::Set { key, len, expiry, keep, stale_for_ms, version, flags } => {
                let (db, key) = name(key);
                let value: Vec<u8> = (0..len).map(|index| (index + number) as u8).collect();
                let expiry = match expiry {
                    Some(ms) => Expiry::At(now + ms),
                    None if keep => Expiry::Keep,
                    None => Expiry::Never,
                };
                let attributes = Attributes { expiry, stale_for_ms, external_version: version, client_flags: flags };
                let before = model.get(&(db, key.clone())).cloned();
                let version_new = keyspace.update(&mut turn, db, &key, |slot| {
                    slot.set(&value, attributes);
                    if number % 2 == 0 { slot.version() } else { None }
                });
                if let Some(version) = version_new {
                    assert!(versions.insert(version), "version {version} was given twice");
                    assert!(before.as_ref().is_none_or(|before| before.version < Some(version)));
                }
                let expire_at_ms = match expiry {
                    Expiry::Never => None,
                    Expiry::At(at) => Some(at),
                    Expiry::Keep => before.filter(|entry| entry.is_fresh(now)).and_then(|entry| entry.expire_at_ms),
                };
                model.insert(
                    (db, key),
                    ModelEntry {
                        value,
                        expire_at_ms,
                        stale_for_ms,
                        external_version: version,
                        client_flags: flags,
                        version: version_new,
                        tags: Vec::new(),
                        is_bumped: false,
                    },
                );
            }
            Step::Read { key } => {
                let (db, key) = name(key);
                let found = keyspace.read(&mut turn, db, &key, Access::Touch, |entry| {
                    assert_eq!((entry.db, entry.key), (db, &key[..]));
                    (entry.value.to_vec(), entry.expire_at_ms, entry.client_flags)
                });
                let expected = model.get(&(db, key)).filter(|entry| entry.is_fresh(now));
                let expected = expected.map(|e| (e.value.clone(), e.expire_at_ms, e.client_flags));
                assert_eq!(found, expected);
            }
            Step::Lookup { key } => {
                let (db, key) = name(key);
                let found = keyspace.lookup(&mut turn, db, &key, Access::Touch, |entry| {
                    (entry.value.to_vec(), entry.stale_for_ms, entry.external_version)
                });
                let expected = match model.get(&(db, key)) {
                    None => Lookup::Absent,
                    Some(e) if e.is_fresh(now) => Lookup::Fresh((e.value.clone(), e.stale_for_ms, e.external_version)),
                    Some(e) => Lookup::Stale((e.value.clone(), e.stale_for_ms, e.external_version)),
                };
                assert_eq!(found, expected);
            }
            Step::Remove { key } => {
                let (db, key) = name(key);
                let removed = keyspace.update(&mut turn, db, &key, |slot| slot.remove());
                assert_eq!(removed, model.remove(&(db, key)).is_some_and(|entry| entry.is_fresh(now)));
            }
            Step::Version { key } => {
                let (db, key) = name(key);
                let version = keyspace.update(&mut turn, db, &key, |slot| slot.version());
                let entry = model.get_mut(&(db, key)).filter(|entry| entry.is_fresh(now));
                assert_eq!(version.is_some(), entry.is_some());
                if let Some(entry) = entry {
                    match entry.version {
                        Some(before) => assert_eq!(version, Some(before), "a version stays until the next write"),
                        None => assert!(version.is_some_and(|version| versions.insert(version))),
                    }
                    entry.version = version;
                }
            }
            Step::SetExpiry { key, after_ms } => {
                let (db, key) = name(key);
                let at = after_ms.map(|ms| now + ms);
                let done = keyspace.update(&mut turn, db, &key, |slot| slot.set_expiry(at));
                let entry = model.get_mut(&(db, key.clone())).filter(|entry| entry.is_fresh(now));
                assert_eq!(done, entry.is_some());
                if let Some(entry) = entry {
                    entry.expire_at_ms = at;
                    if after_ms == Some(0) {
                        model.remove(&(db, key));
                    }
                }
            }
            Step::Lengthen { key, len, keeps_flags } => {
                let (db, key) = name(key);
                let value = keyspace.update(&mut turn, db, &key, |slot| {
                    let floor_before = slot.version_floor();
                    let value = if keeps_flags { slot.value_mut_with_flags(len) } else { slot.value_mut(len) };
                    if let Some(first) = value.first_mut() {
                        *first = first.wrapping_add(1);
                    }
                    let value = value.to_vec();
                    assert!(floor_before.is_none() || slot.version_floor().is_none());
                    value
                });
                let before = model.get(&(db, key.clone())).filter(|entry| entry.is_fresh(now)).cloned();
                let mut entry = before.unwrap_or(ModelEntry {
                    value: Vec::new(),
                    expire_at_ms: None,
                    stale_for_ms: 0,
                    external_version: None,
                    client_flags: 0,
                    version: None,
                    tags: Vec::new(),
                    is_bumped: false,
                });
                if !keeps_flags {
                    entry.client_flags = 0;
                }
                entry.value.resize(entry.value.len().max(len), 0);
                if let Some(first) = entry.value.first_mut() {
                    *first = first.wrapping_add(1);
                }
                assert_eq!(value, entry.value);
                entry.external_version = None;
                let before = entry.version;
                entry.version = keyspace.update(&mut turn, db, &key, |slot| slot.version());
                assert!(entry.version.is_some_and(|version| versions.insert(version)) && before < entry.version);
                model.insert((db, key), entry);
            }
            Step::Rename { from, to } => {
                let (from, to) = (name(from), name(to));
                let keys = [(from.0, &from.1[..]), (to.0, &to.1[..])];
                let moved = keyspace.update_many(&mut turn, &keys, |slots| {
                    let value = slots.slot(0).entry().map(|entry| entry.value.to_vec())?;
                    let tags = slots.slot(0).tags();
                    slots.slot(0).remove();
                    slots.slot(1).set(&value, Attributes::PLAIN);
                    slots.slot(1).set_tags(&tags);
                    slots.slot(1).version()
                });
                let expected = model.get(&from).filter(|entry| entry.is_fresh(now)).cloned();
                assert_eq!(moved.is_some(), expected.is_some());
                if let (Some(ModelEntry { value, tags, .. }), Some(version)) = (expected, moved) {
                    assert!(versions.insert(version));
                    model.remove(&from);
                    let entry = ModelEntry {
                        value,
                        expire_at_ms: None,
                        stale_for_ms: 0,
                        external_version: None,
                        client_flags: 0,
                        version: Some(version),
                        tags,
                        is_bumped: false,
                    };
                    model.insert(to, entry);
                }
            }
            Step::Fill { .. } if is_limited => {}
            Step::Fill { key, len, tags, expiry, stale_for_ms, meanwhile } => {
                let (db, key) = name(key);
                let claimed = keyspace.claim(&mut turn, db, &key, CLAIM);
                let Claimed::Lead { token, .. } = claimed else { panic!("nobody else leads: {claimed:?}") };
                let covered = meanwhile.as_ref().is_some_and(|bump| {
                    let of_entry = model.get(&(db, key.clone())).map_or(&[][..], |entry| &entry.tags);
                    bump.covers(db, &key, &tags) || bump.covers(db, &key, of_entry)
                });
                if let Some(bump) = meanwhile {
                    bump.run(&keyspace, &mut turn, &mut model);
                }
                let value: Vec<u8> = (0..len).map(|index| (index + number) as u8).collect();
                let expire_at_ms = expiry.map(|ms| now + ms);
                let named: Vec<Tag> = tags.iter().map(|&tag| keyspace.tag(TAGS[tag])).collect();
                let fill = Fill::Value {
                    value: &value,
                    expiry: expire_at_ms.map_or(Expiry::Never, Expiry::At),
                    stale_for_ms,
                    version: None,
                    client_flags: 0,
                    tags: &named,
                };
                let filled = keyspace.fill(&mut turn, db, &key, token, fill);
                let stale = model.get_mut(&(db, key.clone())).filter(|entry| !entry.is_fresh(now));
                match (covered, stale) {
                    (false, _) => {
                        assert_eq!(filled, Filled::Stored);
                        let (external_version, client_flags, version) = (None, 0, None);
                        let entry = ModelEntry {
                            value,
                            expire_at_ms,
                            stale_for_ms,
                            external_version,
                            client_flags,
                            version,
                            tags,
                            is_bumped: false,
                        };
                        model.insert((db, key), entry);
                    }
                    (true, Some(entry)) => {
                        assert_eq!(filled, Filled::Stale);
                        (entry.value, entry.version) = (value, None);
                        if !tags.is_empty() {
                            entry.tags = tags;
                        }
                    }
                    (true, None) => assert_eq!(filled, Filled::Lost(LostReason::Revoked)),
                }
            }
            Step::Bump(bump) => bump.run(&keyspace, &mut turn, &mut model),
            Step::ReadMany { keys } => {
                let names: Vec<Vec<u8>> = keys.iter().map(|&key| name(key).1).collect();
                let mut found = Vec::new();
                keyspace.read_many(
                    &mut turn,
                    Db(1),
                    names.iter().map(|key| &key[..]),
                    Access::Touch,
                    |index, entry| {
                        assert_eq!(index, found.len());
                        found.push(entry.map(|entry| entry.value.to_vec()));
                    },
                );
                let expected: Vec<_> = names
                    .iter()
                    .map(|key| {
                        let entry = model.get(&(Db(1), key.clone())).filter(|entry| entry.is_fresh(now));
                        entry.map(|entry| entry.value.clone())
                    })
                    .collect();
                assert_eq!(found, expected);
            }
            Step::Scan { count } => {
                for db in [Db(0), Db(1)] {
                    let expected: BTreeMap<_, _> = model
                        .iter()
                        .filter(|((entry_db, _), entry)| *entry_db == db && entry.is_fresh(now))
                        .map(|((_, key), entry)| (key.clone(), entry.value.clone()))
                        .collect();
                    assert_eq!(scan_all(&keyspace, &mut turn, db, count), expected);
                }
            }
            Step::RandomKey => {
                let found = keyspace.random_key(&mut turn, Db(0));
                let fresh: BTreeSet<_> =
                    model.iter().filter(|((db, _), e)| *db == Db(0) && e.is_fresh(now)).map(|((_, k), _)| k).collect();
                assert_eq!(found.is_some(), !fresh.is_empty());
                assert!(found.is_none_or(|key| fresh.contains(&key)));
            }
            Step::Flush { all } => {
                keyspace.flush(&mut turn, if all { None } else { Some(Db(1)) });
                model.retain(|(db, _), _| !all && *db != Db(1));
            }
            Step::Cycle => {
                // What is over is found within half a second, not at once.
                turn.now_ms += 500;
                model.retain(|_, entry| !entry.is_gone(turn.now_ms));
                keyspace.expire_cycle(&mut turn, 0..shards, 100_000);
                forget_evicted(&keyspace, &mut turn, &mut model, &mut evicted);
                // Tagged entries are dealt with when somebody comes to them.
                for (db, key) in (0..KEYS).map(name) {
                    keyspace.lookup(&mut turn, db, &key, Access::Quiet, |_| ());
                }
                for db in [Db(0), Db(1)] {
                    let entries = || model.iter().filter(|((entry_db, _), _)| *entry_db == db);
                    assert_eq!(keyspace.len(db), entries().count());
                    let with_ttl = entries().filter(|(_, entry)| entry.expire_at_ms.is_some()).count();
                    assert_eq!(keyspace.counts()[usize::from(db.0)], Count { entries: entries().count(), with_ttl });
                }
            }
            Step::Pass { ms } => turn.now_ms += ms,
            Step::Limit { bytes } => {
                is_limited = bytes > 0;
                keyspace.set_memory_bytes_max(bytes);
            }
            Step::Policy(policy) => keyspace.set_policy(policy),
        }
        keyspace.check();
    }
    check_cleanup(&keyspace, &mut turn, settings);
    evicted
}

const CLAIM: Claim = Claim {
    claimant: Claimant::Client,
    lease_ms: None,
    version_min: None,
    fresh_required: true,
    stale_ms_max: None,
    waiter: None,
};

/// Entries that were evicted go in the model too: as many as were counted.
fn forget_evicted(keyspace: &Keyspace, turn: &mut Turn, model: &mut Model, known: &mut u64) {
    let evicted = keyspace.stats().evicted - std::mem::replace(known, keyspace.stats().evicted);
    if evicted == 0 {
        return;
    }
    let before = model.len();
    model.retain(|(db, key), _| {
        !matches!(keyspace.lookup(turn, *db, key, Access::Quiet, |_| ()), Lookup::Absent | Lookup::Negative { .. })
    });
    assert_eq!((before - model.len()) as u64, evicted, "entries that went, and evictions");
}

/// What is left when all entries are gone, one by one: their tables. After a flush: nothing.
fn check_cleanup(keyspace: &Keyspace, turn: &mut Turn, settings: Settings) {
    // So that stale entries go and all others are visible to SCAN.
    turn.now_ms += 1000;
    for (db, key) in (0..KEYS).map(name) {
        keyspace.lookup(turn, db, &key, Access::Quiet, |_| ());
    }
    keyspace.expire_cycle(turn, 0..settings.shards, 1_000_000);
    check_memory(keyspace, turn);
    for db in [Db(0), Db(1)] {
        for key in scan_all(keyspace, turn, db, 100).keys() {
            assert!(keyspace.update(turn, db, key, |slot| slot.remove()));
        }
    }
    assert_eq!((keyspace.stats().entry_bytes, keyspace.stats().entries), (0, 0));
    keyspace.check();
    keyspace.flush(turn, None);
    // What was taken out has memory until it is dropped.
    turn.effects.flushed.clear();
    keyspace.set_memory_bytes_max(settings.memory_bytes_max);
    keyspace.set_policy(settings.policy);
    // The tables of a policy before are given back bit by bit.
    for _ in 0..100 {
        turn.now_ms += 500;
        keyspace.expire_cycle(turn, 0..settings.shards, 1000);
        keyspace.sweep_leases(turn, 0..settings.shards);
    }
    let stats = keyspace.stats();
    assert_eq!((stats.leases, stats.prefix_bumps_pending), (0, 0));
    let empty = crate::common::keyspace(settings).stats();
    // A table of leases may be larger for a while than it was at first.
    let used_bytes = stats.used_bytes - stats.tag_table_bytes - stats.lease_bytes;
    assert_eq!(used_bytes, empty.used_bytes - empty.lease_bytes);
}
