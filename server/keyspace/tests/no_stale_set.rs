//! No stale set, simulated: writers change a database and delete keys, readers load through leases (their own and the
//! server's), every step at a moment of its own. One thread and a seed, so each schedule can be replayed.
//!
//! The checker knows the database's version of each key when a delete was acknowledged. A read that begins afterwards must
//! not return an older one, and once everything is quiet each cached value must be the database's. The last test switches
//! rule 1 of SPEC §2 off and demands that the checker sees it.
//!
//! What writers do after the database's change is one of: delete, hard or soft invalidation of the key, a bump of one of its tags
//! (only tagged keys), a bump of a prefix of it. What readers bring back names their token, or the version of the value that they saw.

#![allow(missing_docs, clippy::unwrap_used)]

use leasehold_keyspace::{
    Access, Attributes, Claim, Claimant, Claimed, Db, EvictionPolicy, Expiry, Fill, HashSeed, Invalidation, Keyspace,
    LeaseSettings, Refresh, Release, Replaced, Replacement, Settings, Sight, Standing, Tag, Turn, Waiter, WakeEvent,
};
use std::collections::HashMap;

const DB: Db = Db(0);
const KEYS: usize = 4;
/// Of these, the first have tags.
const TAGGED_KEYS: usize = 2;
const ACTORS: usize = 12;

/// What an actor does next; between any two steps the others may act.
#[derive(Clone, Copy, Debug)]
enum Step {
    Idle,
    /// A reader who leads must still read the row.
    Query {
        key: usize,
        token: u64,
    },
    /// It has the row and must still bring it.
    Bring {
        key: usize,
        token: u64,
        row: u64,
    },
    /// Parked until a wake.
    Parked {
        key: usize,
        oldest_allowed: u64,
    },
    /// The database is written; the delete is still to come.
    Delete {
        key: usize,
        row: u64,
    },
}

/// How writers invalidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Anything,
    /// Tags where the key has some, else prefixes.
    Bumps,
}

struct World {
    keyspace: Keyspace,
    turn: Turn,
    random: Turn,
    /// The database: the version of each row.
    rows: [u64; KEYS],
    /// The version that a read beginning now must at least see.
    acknowledged: [u64; KEYS],
    actors: [Step; ACTORS],
    /// Loads of the server under way: key, token, and the row once it is read.
    loads: Vec<(usize, u64, Option<u64>)>,
    operations: u64,
    violations: u64,
    fills: u64,
    refreshes: u64,
    /// Values stored for a version.
    exchanges: u64,
    by: By,
}

impl World {
    fn new(seed: u64, by: By) -> Self {
        let settings = Settings {
            shards: 2,
            memory_bytes_max: 0,
            policy: EvictionPolicy::AllKeysLru,
            absence_bytes_max: 1 << 20,
            boot_unix_ms: 1_700_000_000_000,
            lease: LeaseSettings {
                lease_ms: 200,
                lease_ms_max: 60_000,
                reissue_after_ms: None,
                waiters_per_key_max: 100,
                waiters_max: 1_000,
                records_max: 1_000,
                tombstone_ttl_ms: 1_000,
                invalidated_stale_ms: 100,
            },
        };
        Self {
            keyspace: Keyspace::new(settings, HashSeed([seed, 2, 3, 4])),
            turn: Turn::new(1_700_000_000_000, seed),
            random: Turn::new(0, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            rows: [1; KEYS],
            acknowledged: [0; KEYS],
            actors: [Step::Idle; ACTORS],
            loads: Vec::new(),
            operations: 0,
            violations: 0,
            fills: 0,
            refreshes: 0,
            exchanges: 0,
            by,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.random() % bound
    }

    fn step(&mut self) {
        self.operations += 1;
        match self.below(20) {
            0 => {
                self.turn.now_ms += self.random.random() % 30;
                self.keyspace.sweep_leases(&mut self.turn, 0..2);
                self.keyspace.expire_cycle(&mut self.turn, 0..2, 100);
            }
            1..=4 => self.step_load(),
            _ => {
                let actor = self.below(ACTORS as u64) as usize;
                self.actors[actor] = self.act(actor);
            }
        }
        self.deliver();
    }

    fn act(&mut self, actor: usize) -> Step {
        match self.actors[actor] {
            Step::Idle => self.begin(actor),
            Step::Query { key, token } => Step::Bring { key, token, row: self.rows[key] },
            Step::Bring { key, token, row } => {
                self.fill(key, token, row);
                Step::Idle
            }
            Step::Delete { key, row } => {
                self.invalidate(key);
                self.acknowledged[key] = self.acknowledged[key].max(row);
                Step::Idle
            }
            Step::Parked { key, oldest_allowed } => Step::Parked { key, oldest_allowed },
        }
    }

    fn begin(&mut self, actor: usize) -> Step {
        let key = self.below(KEYS as u64) as usize;
        match self.below(10) {
            0..=1 => {
                self.rows[key] += 1;
                Step::Delete { key, row: self.rows[key] }
            }
            2 => self.refresh(key),
            3..=4 => self.read_by_server(actor, key),
            5..=6 => self.read_by_sight(key),
            _ => self.read_by_lease(actor, key),
        }
    }

    fn read_by_lease(&mut self, actor: usize, key: usize) -> Step {
        let oldest_allowed = self.acknowledged[key];
        let waits = self.below(2) == 0;
        let claim = Claim {
            claimant: Claimant::Client,
            lease_ms: None,
            version_min: None,
            fresh_required: false,
            stale_ms_max: None,
            waiter: waits.then(|| waiter(actor)),
        };
        match self.keyspace.claim(&mut self.turn, DB, &name(key), claim) {
            Claimed::Hit { value, .. } => {
                self.check(&value, oldest_allowed);
                Step::Idle
            }
            // A holder may crash, or give up.
            Claimed::Lead { token, .. } => match self.below(10) {
                0 => Step::Idle,
                1 => {
                    self.keyspace.release(&mut self.turn, DB, &name(key), token, Release::default());
                    Step::Idle
                }
                _ => Step::Query { key, token },
            },
            Claimed::Parked { .. } => Step::Parked { key, oldest_allowed },
            Claimed::Wait { .. } | Claimed::Negative { .. } => Step::Idle,
        }
    }

    /// A reader who sees value and lease at once. One who does not lead may bring what it loads all the same, for the version that it saw.
    fn read_by_sight(&mut self, key: usize) -> Step {
        let oldest_allowed = self.acknowledged[key];
        let sight = Sight {
            version_wanted: true,
            leads_on_miss: self.below(2) == 0,
            leads_on_stale: self.below(2) == 0,
            leads_before_ms: self.below(2) * (self.turn.now_ms + 50),
            ..Sight::QUIET
        };
        let (value, version, standing) = self.keyspace.sight(&mut self.turn, DB, &name(key), &sight, |sighting| {
            let value = sighting.entry.filter(|_| sighting.is_fresh).map(|entry| entry.value.to_vec());
            (value, sighting.version, sighting.standing)
        });
        if let Some(value) = &value {
            self.check(value, oldest_allowed);
        }
        match standing {
            Standing::Won { token, .. } => Step::Query { key, token },
            Standing::Free if value.is_some() && key >= TAGGED_KEYS => Step::Query { key, token: version },
            Standing::Free | Standing::Led { .. } => Step::Idle,
        }
    }

    fn read_by_server(&mut self, actor: usize, key: usize) -> Step {
        let oldest_allowed = self.acknowledged[key];
        let claim = Claim {
            claimant: Claimant::Server { loader: 0 },
            lease_ms: Some(60_000),
            version_min: None,
            fresh_required: false,
            stale_ms_max: None,
            waiter: Some(waiter(actor)),
        };
        match self.keyspace.claim(&mut self.turn, DB, &name(key), claim) {
            Claimed::Hit { value, .. } => {
                self.check(&value, oldest_allowed);
                Step::Idle
            }
            Claimed::Lead { token, .. } => {
                self.loads.push((key, token, None));
                Step::Parked { key, oldest_allowed }
            }
            Claimed::Parked { .. } => Step::Parked { key, oldest_allowed },
            Claimed::Wait { .. } | Claimed::Negative { .. } => Step::Idle,
        }
    }

    /// A reader of a fresh value near its end: the server loads it anew, and he does not wait.
    fn refresh(&mut self, key: usize) -> Step {
        let oldest_allowed = self.acknowledged[key];
        let value = self.keyspace.read(&mut self.turn, DB, &name(key), Access::Touch, |entry| entry.value.to_vec());
        if let Some(value) = value {
            self.check(&value, oldest_allowed);
            let refresh = Refresh { loader: 0, lease_ms: 60_000, early_ms: 60, early_loads: 0.0 };
            if let Some(token) = self.keyspace.claim_refresh(&mut self.turn, DB, &name(key), refresh) {
                self.refreshes += 1;
                self.loads.push((key, token, None));
            }
        }
        Step::Idle
    }

    fn step_load(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let index = self.below(self.loads.len() as u64) as usize;
        let (key, token, row) = self.loads[index];
        match row {
            None => self.loads[index].2 = Some(self.rows[key]),
            Some(row) => {
                self.loads.swap_remove(index);
                if self.below(20) == 0 {
                    self.keyspace.fail(&mut self.turn, DB, &name(key), token, &"LOADFAIL".into(), 0);
                } else {
                    self.fill(key, token, row);
                }
            }
        }
    }

    fn fill(&mut self, key: usize, token: u64, row: u64) {
        self.fills += 1;
        let value = row.to_string();
        let expiry = match self.below(3) {
            0 => Expiry::At(self.turn.now_ms + 1 + self.random.random() % 100),
            _ => Expiry::Never,
        };
        let stale_for_ms = self.below(2) * 50;
        // It has no tags.
        if key >= TAGGED_KEYS && self.below(2) == 0 {
            let replacement = Replacement {
                named: token,
                fills_only: false,
                value: value.as_bytes(),
                attributes: Attributes { expiry, stale_for_ms, ..Attributes::PLAIN },
                stale_suffices: self.below(2) == 0,
                version_wanted: false,
            };
            let replaced = self.keyspace.replace(&mut self.turn, DB, &name(key), replacement);
            self.exchanges += u64::from(matches!(replaced, Replaced::Stored { .. }));
            return;
        }
        let tags: Vec<Tag> = tags(key).iter().map(|tag| self.keyspace.tag(tag)).collect();
        let fill =
            Fill::Value { value: value.as_bytes(), expiry, stale_for_ms, version: None, client_flags: 0, tags: &tags };
        self.keyspace.fill(&mut self.turn, DB, &name(key), token, fill);
    }

    fn invalidate(&mut self, key: usize) {
        let (name, tags, turn) = (name(key), tags(key), &mut self.turn);
        let by = match self.by {
            By::Anything => self.random.random() % 6,
            By::Bumps => 3 + u64::from(tags.is_empty()),
        };
        let chance = self.random.random();
        match by {
            3 if !tags.is_empty() => self.keyspace.invalidate_tag(turn, tags[chance as usize % tags.len()]),
            3 | 4 => self.keyspace.invalidate_prefix(turn, DB, &name[..chance as usize % 3]),
            0 => drop(self.keyspace.update(turn, DB, &name, |slot| slot.remove())),
            1 => drop(self.keyspace.invalidate(turn, DB, &name, Invalidation::Hard, None)),
            5 => drop(self.keyspace.update(turn, DB, &name, |slot| slot.make_stale(Expiry::Keep))),
            _ => drop(self.keyspace.invalidate(turn, DB, &name, Invalidation::Soft { stale_ms: None }, None)),
        }
    }

    fn deliver(&mut self) {
        for load in std::mem::take(&mut self.turn.effects.loads) {
            let key = load.key[1] - b'0';
            self.loads.push((usize::from(key), load.token, None));
        }
        for wake in std::mem::take(&mut self.turn.effects.wakes) {
            let actor = wake.waiter.index as usize;
            let Step::Parked { key, oldest_allowed } = self.actors[actor] else { panic!("{actor} is not parked") };
            self.actors[actor] = match wake.event {
                WakeEvent::Value { value, .. } => {
                    self.check(&value, oldest_allowed);
                    Step::Idle
                }
                WakeEvent::Lead { token, .. } => Step::Query { key, token },
                WakeEvent::Absent { .. } | WakeEvent::Failed { .. } => Step::Idle,
                WakeEvent::Written { .. } => unreachable!("nobody writes to a source here"),
            };
        }
    }

    fn check(&mut self, value: &[u8], oldest_allowed: u64) {
        let seen: u64 = std::str::from_utf8(value).unwrap().parse().unwrap();
        self.violations += u64::from(seen < oldest_allowed);
    }

    /// Lets everyone finish, then compares the cache with the database.
    fn settle(&mut self) {
        for _ in 0..100 {
            for actor in 0..ACTORS {
                if !matches!(self.actors[actor], Step::Idle | Step::Parked { .. }) {
                    self.actors[actor] = self.act(actor);
                }
            }
            for _ in 0..ACTORS {
                self.step_load();
            }
            self.turn.now_ms += 20;
            self.keyspace.sweep_leases(&mut self.turn, 0..2);
            self.deliver();
        }
        let stuck = self.actors.iter().filter(|step| !matches!(step, Step::Idle)).count();
        assert_eq!(stuck, 0, "everyone is done: {:?}", self.actors);
        let mut cached = HashMap::new();
        for key in 0..KEYS {
            if let Some(value) =
                self.keyspace.read(&mut self.turn, DB, &name(key), Access::Quiet, |entry| entry.value.to_vec())
            {
                cached.insert(key, String::from_utf8(value).unwrap().parse::<u64>().unwrap());
            }
        }
        self.violations += cached.iter().filter(|&(&key, &row)| row != self.rows[key]).count() as u64;
    }
}

fn name(key: usize) -> [u8; 2] {
    [b'k', b'0' + key as u8]
}

fn tags(key: usize) -> &'static [&'static [u8]] {
    const OWN: [&[&[u8]]; TAGGED_KEYS] = [&[b"own:0", b"all"], &[b"all", b"own:1", b"other"]];

    OWN.get(key).copied().unwrap_or(&[])
}

fn waiter(actor: usize) -> Waiter {
    Waiter { thread: 0, connection: actor as u64, ticket: 0, index: actor as u32 }
}

fn run(seed: u64, operations: u64, by: By, revoking: bool) -> World {
    let mut world = World::new(seed, by);
    world.keyspace.set_lease_revocation(revoking);
    while world.operations < operations {
        world.step();
    }
    world.settle();
    world
}

#[test]
fn no_read_is_older_than_an_acknowledged_delete() {
    for seed in 1..=25 {
        let by = if seed % 2 == 0 { By::Anything } else { By::Bumps };
        let world = run(seed, 50_000, by, true);
        assert_eq!(world.violations, 0, "seed {seed}");
        assert!(world.fills > 1_000, "seed {seed}: only {} fills", world.fills);
        assert!(world.exchanges > 500, "seed {seed}: only {} exchanges", world.exchanges);
        assert!(world.refreshes > 50, "seed {seed}: only {} refreshes", world.refreshes);
    }
}

#[test]
fn the_checker_sees_stale_sets_when_writes_do_not_revoke() {
    for seed in 1..=5 {
        assert!(run(seed, 40_000, By::Anything, false).violations > 0, "seed {seed}");
        assert!(run(seed, 40_000, By::Bumps, false).violations > 0, "bumps, seed {seed}");
    }
}
