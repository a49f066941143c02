//! What a seed comes to: nodes, rules, faults and clients.

use leasehold_cluster::{Address, Minority, NodeSettings, Pool, Rule, Rules, Slot, StandIns, Topology};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of a run; few, so that clients meet.
pub(crate) const KEYS: usize = 5;

/// When the last fault ends, in ms of true time.
pub(crate) const HEALED_MS: u64 = 2_000;

/// When all must be well again.
const SETTLED_MS: u64 = 3_600;

/// From then until the last answer must have come.
const LAST_MS: u64 = 1_000;

/// What a load takes at most, up to the source's answer and from there.
const LOAD_MS: u64 = 20;

/// Clocks of nodes run apart by as many parts in a thousand.
const DRIFT_PER_MILLE: i64 = 10;

/// Numbers without a pattern (SplitMix64; Steele and others 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// From `least` to `most`.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A mistake in what lies around the core: the links and the store of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Requests that were under way for longer than `peer_timeout_ms` are executed all the same.
    ExecutesLate,
    /// A token is not spent by its fill.
    KeepsTokens,
    /// Nobody watches the clock.
    NeverTimesOut,
    /// A deletion leaves the tokens of its key alone.
    DeletesNoTokens,
}

/// What is left out of a run, to see that it is missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) without: Option<Rule>,
    pub(crate) flaw: Option<Flaw>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The process ends and loses all; it starts anew when the trouble is over.
    Crash(usize),
    /// The process is stopped, and goes on.
    Pause(usize),
    /// Nothing goes from the first to the second.
    Cut(usize, usize),
    /// Nothing goes between those in the set and the others.
    Part(u32),
    /// So many of a hundred messages are lost.
    Loss(u64),
    /// Messages take up to so many ms.
    Slow(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    pub(crate) trouble: Trouble,
}

/// A clock that is off, and goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skew {
    pub(crate) offset_ms: u64,
    pub(crate) per_mille: i64,
}

impl Skew {
    /// What the clock shows.
    pub(crate) fn shown(self, true_ms: u64) -> u64 {
        let gained = true_ms as i64 * self.per_mille / 1_000;
        (self.offset_ms as i64 + true_ms as i64 + gained) as u64
    }
}

/// What a client does in a world that is not made by chance. A write, or a delete, puts another version into the source first.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Read,
    Delete,
    Set,
}

/// At a time, by way of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) at_ms: u64,
    pub(crate) node: usize,
    pub(crate) key: usize,
    pub(crate) act: Act,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) topology: Arc<Topology>,
    pub(crate) rules: Rules,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) skews: Vec<Skew>,
    pub(crate) faults: Vec<Fault>,
    /// `None`: clients read and write by chance.
    pub(crate) script: Option<Vec<Step>>,
    /// When all must be well again; `None`: nobody looks.
    pub(crate) settled_ms: Option<u64>,
    pub(crate) end_ms: u64,
    /// See [`LOAD_MS`].
    pub(crate) load_ms: u64,
    /// Between two reads of any key by any client.
    pub(crate) read_every_ms: u64,
    /// Between two writes of a key, at most.
    pub(crate) write_every_ms: u64,
    /// Of a hundred writes, those that put the value instead of deleting it.
    pub(crate) set_percent: u64,
}

impl Plan {
    pub(crate) fn of(seed: u64, variant: Variant) -> Self {
        let random = &mut Random::new(seed);
        let mains = [3, 3, 3, 3, 4, 5, 7][random.below(7) as usize];
        let stand_ins = if random.percent(25) { StandIns::Same } else { StandIns::Pool };
        let gutters = if stand_ins == StandIns::Pool { random.between(1, 2) as usize } else { 0 };
        let nodes = mains + gutters;
        let rules = Rules {
            failures_max: random.between(1, 3) as u32,
            stand_ins,
            gutter_ttl_ms: random.between(200, 600),
            failover_share: [200, 500, 1_000][random.below(3) as usize],
            failover_burst: 20,
            remembered_max: if random.percent(25) { 1 } else { 1_000 },
            delivery_max: random.between(1, 3) as usize,
            minority: if random.percent(50) { Minority::Refuse } else { Minority::ServeStale },
            without: variant.without,
            ..quick()
        };
        assert_eq!(rules.flaw(), None);
        let skew = |random: &mut Random| Skew {
            offset_ms: 10_000 + random.below(1_000_000),
            per_mille: random.between(0, 2 * DRIFT_PER_MILLE as u64) as i64 - DRIFT_PER_MILLE,
        };
        Self {
            topology: topology(mains, gutters),
            rules,
            flaw: variant.flaw,
            skews: (0..nodes).map(|_| skew(random)).collect(),
            faults: faults(random, mains, nodes),
            script: None,
            settled_ms: Some(SETTLED_MS),
            end_ms: SETTLED_MS + LAST_MS,
            load_ms: LOAD_MS,
            read_every_ms: random.between(3, 8),
            write_every_ms: random.between(40, 200),
            set_percent: [0, 30, 60][random.below(3) as usize],
        }
    }
}

impl Plan {
    /// Clocks that are right, and nothing by chance but how long a message takes.
    pub(crate) fn scripted(mains: usize, gutters: usize, rules: Rules, faults: Vec<Fault>, script: Vec<Step>) -> Self {
        let last_ms = faults.iter().map(|fault| fault.until_ms).chain(script.iter().map(|step| step.at_ms)).max();
        let quiet_ms = rules.flap_out_longest_ms + rules.ramp_longest_ms + 10 * rules.peer_timeout_ms;
        let settled_ms = last_ms.unwrap_or(0) + quiet_ms;
        Self {
            topology: topology(mains, gutters),
            flaw: None,
            skews: vec![Skew { offset_ms: 10_000, per_mille: 0 }; mains + gutters],
            faults,
            script: Some(script),
            settled_ms: Some(settled_ms),
            end_ms: settled_ms + LAST_MS,
            load_ms: LOAD_MS,
            read_every_ms: 1,
            write_every_ms: 1,
            set_percent: 0,
            rules,
        }
    }

    /// As it is, but that nobody waits until all is well again.
    pub(crate) fn until_answered(mut self) -> Self {
        let last_ms = self.script.iter().flatten().map(|step| step.at_ms).max();
        self.end_ms = last_ms.unwrap_or(0) + 3 * self.rules.peer_timeout_ms;
        self.settled_ms = None;
        self
    }

    /// A key of this node.
    pub(crate) fn key_of(&self, node: usize) -> usize {
        let is_its = |number: &usize| self.topology.owner_place(slot(*number)).index() == node;
        (0..KEYS).find(is_its).expect("there is one")
    }
}

/// Some of any kind, and most of them about one node, so that they meet.
fn faults(random: &mut Random, mains: usize, nodes: usize) -> Vec<Fault> {
    let victim = random.below(mains as u64) as usize;
    let mut faults: Vec<Fault> = (0..random.between(1, 4)).map(|_| fault(random, victim, nodes)).collect();
    if random.percent(20) {
        // It comes and goes.
        let (gap_ms, is_pause) = (random.between(60, 250), random.percent(50));
        let trouble = if is_pause { Trouble::Pause(victim) } else { Trouble::Crash(victim) };
        let flap = |number: u64| Fault {
            from_ms: 400 + 2 * number * gap_ms,
            until_ms: 400 + (2 * number + 1) * gap_ms,
            trouble,
        };
        faults = (0..3).map(flap).collect();
    }
    if random.percent(20) {
        // It is away; who remembers for it starts anew meanwhile; and it meets another one when it is back.
        let (from_ms, until_ms) = (random.between(400, 600), random.between(1_100, 1_400));
        let away = if random.percent(50) { Trouble::Pause(victim) } else { Trouble::Part(1 << victim) };
        let [one, other] = [1, 2].map(|step| (victim + step) % mains);
        let crash_ms = random.between(from_ms + 300, until_ms - 60);
        faults = vec![
            Fault { from_ms, until_ms, trouble: away },
            Fault { from_ms: crash_ms, until_ms: crash_ms + random.between(1, 60), trouble: Trouble::Crash(one) },
            Fault { from_ms: crash_ms, until_ms: HEALED_MS, trouble: Trouble::Cut(victim, other) },
        ];
    }
    faults
}

fn fault(random: &mut Random, victim: usize, nodes: usize) -> Fault {
    let any = |random: &mut Random| if random.percent(60) { victim } else { random.below(nodes as u64) as usize };
    let from_ms = random.between(300, 1_500);
    let longest_ms = if random.percent(30) { 120 } else { 1_200 };
    let until_ms = (from_ms + random.between(5, longest_ms)).min(HEALED_MS);
    let trouble = match random.below(7) {
        0 => Trouble::Crash(any(random)),
        1 => Trouble::Pause(any(random)),
        2 | 3 => {
            let one = any(random);
            let other = (one + 1 + random.below(nodes as u64 - 1) as usize) % nodes;
            Trouble::Cut(one, other)
        }
        4 => Trouble::Part(random.between(1, (1 << nodes) - 2) as u32),
        5 => Trouble::Loss(random.between(1, 30)),
        _ => Trouble::Slow(if random.percent(40) { 500 } else { random.between(20, 150) }),
    };
    Fault { from_ms, until_ms, trouble }
}

/// The key with this number.
pub(crate) fn key(number: usize) -> [u8; 2] {
    [b'k', b'0' + number as u8]
}

pub(crate) fn slot(number: usize) -> Slot {
    Slot::of_key(&key(number))
}

/// Times of all worlds: short, so that much happens in each.
pub(crate) fn quick() -> Rules {
    Rules {
        peer_timeout_ms: 250,
        ping_every_ms: 60,
        ping_rarest_ms: 200,
        vouch_ms: 130,
        flap_out_ms: 80,
        flap_out_longest_ms: 300,
        flap_ms: 500,
        gutter_ttl_ms: 400,
        ramp_reads: 4,
        ramp_longest_ms: 300,
        ..Rules::default()
    }
}

/// One for each size: they take a while to make. Named so that the keys have several owners.
fn topology(mains: usize, gutters: usize) -> Arc<Topology> {
    thread_local!(static MADE: RefCell<BTreeMap<(usize, usize), Arc<Topology>>> = const { RefCell::new(BTreeMap::new()) });
    let make = || {
        let node = |number: usize| NodeSettings {
            name: format!("node-{number}"),
            address: Address { host: "10.0.0.1".to_owned(), port: 7_000 + number as u16 },
            weight: 1,
            pool: if number < mains { Pool::Main } else { Pool::Gutter },
            zone: String::new(),
        };
        Arc::new(Topology::new((0..mains + gutters).map(node).collect()).expect("no flaw"))
    };
    MADE.with_borrow_mut(|made| made.entry((mains, gutters)).or_insert_with(make).clone())
}
