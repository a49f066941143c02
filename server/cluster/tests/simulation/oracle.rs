//! What must hold, whatever happens.
//!
//! 1. *No stale set*: what is stored as fresh at an owner, or for a client's token anywhere, is no older than any delete of its key that has been answered.
//! 2. *No stale read*: what an owner answers as fresh is no older than any delete, or write, of its key that was answered before the read began.
//! 3. *The bound at stand-ins*: what a stand-in answers may be older than such a delete by `gutter_ttl_ms`, but never older than one that was answered by
//!    the node that asks.
//! 4. *One fill for a token*.
//! 5. *An answer in time*: each request, by a node that runs, within two times `peer_timeout_ms` and some.
//! 6. *A minority refuses*: a node that has reached no majority for longer than a vouch lasts answers none of its keys as fresh, and asks no stand-in.
//! 7. *Failures are bounded*: the share of requests that go to stand-ins, and of nodes that are taken to be dead.
//! 8. *All ends well*: some time after the last fault all nodes are well to each other, nothing is remembered any more, writes are answered and reads
//!    show what was written last.

use crate::plan::{KEYS, Plan, slot};
use crate::server::{Op, Outcome};
use leasehold_cluster::majority;
use std::collections::BTreeSet;

/// What a load or a message takes at most when nothing is wrong, and how often a node looks at its clock.
const SLACK_MS: u64 = 150;

#[derive(Clone, Copy, Debug)]
struct Ack {
    at_ms: u64,
    version: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) node: usize,
    pub(crate) key: usize,
    pub(crate) op: Op,
    /// The version of the source when a write began.
    pub(crate) version: u64,
    pub(crate) at_ms: u64,
    /// Later than `at_ms` if its node stood still.
    pub(crate) until_ms: u64,
    /// The versions of all keys when a flush began.
    pub(crate) flushed: Option<[u64; KEYS]>,
    /// When and what; `None`: it waits, or its node is gone.
    pub(crate) answer: Option<(u64, Outcome)>,
    is_open: bool,
    floor: u64,
    floor_of_node: u64,
}

pub(crate) struct Oracle {
    answer_ms: u64,
    gutter_ms: u64,
    vouch_ms: u64,
    /// By key.
    owners: [usize; KEYS],
    acks: [Vec<Ack>; KEYS],
    /// By node and key.
    floors: Vec<[u64; KEYS]>,
    pub(crate) requests: Vec<Request>,
    tokens: BTreeSet<u64>,
    /// How many nodes the main pool has; they come first.
    mains: usize,
    /// By two nodes: when the one last reached the other; `None`: it does.
    pub(crate) reached_ms: Vec<Vec<Option<u64>>>,
    pub(crate) violation: Option<String>,
    pub(crate) tally: Tally,
}

/// What came of all requests: a world in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// Fresh values from owners.
    pub(crate) by_owners: u64,
    pub(crate) by_stand_ins: u64,
    /// Values that are marked stale.
    pub(crate) stale: u64,
    /// Writes and deletes that were done.
    pub(crate) written: u64,
    /// Fills of clients that were stored.
    pub(crate) stored: u64,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.by_owners += other.by_owners;
        self.by_stand_ins += other.by_stand_ins;
        self.stale += other.stale;
        self.written += other.written;
        self.stored += other.stored;
        self.lost += other.lost;
        self.refused += other.refused;
    }
}

impl Oracle {
    pub(crate) fn new(plan: &Plan) -> Self {
        let nodes = plan.topology.all().len();
        let drifted = |ms: u64| ms + ms / 40 + SLACK_MS;
        Self {
            answer_ms: drifted(2 * plan.rules.peer_timeout_ms),
            // Clocks apart from each other, and cut off at the millisecond.
            gutter_ms: plan.rules.gutter_ttl_ms + plan.rules.gutter_ttl_ms / 40 + 2,
            vouch_ms: drifted(plan.rules.vouch_ms),
            owners: std::array::from_fn(|key| plan.topology.owner_place(slot(key)).index()),
            acks: std::array::from_fn(|_| vec![Ack { at_ms: 0, version: 0 }]),
            floors: vec![[0; KEYS]; nodes],
            requests: Vec::new(),
            tokens: BTreeSet::new(),
            mains: plan.topology.nodes().len(),
            reached_ms: vec![vec![None; nodes]; nodes],
            violation: None,
            tally: Tally::default(),
        }
    }

    fn floor(&self, key: usize) -> u64 {
        self.acks[key].last().map_or(0, |ack| ack.version)
    }

    fn floor_at(&self, key: usize, at_ms: u64) -> u64 {
        self.acks[key].iter().rev().find(|ack| ack.at_ms <= at_ms).map_or(0, |ack| ack.version)
    }

    /// A client asks; the number of its request.
    pub(crate) fn asked(&mut self, node: usize, key: usize, op: Op, version: u64, at_ms: u64) -> u32 {
        let (floor, floor_of_node) = (self.floor(key), self.floors[node][key]);
        let until_ms = at_ms + self.answer_ms;
        let (flushed, answer, is_open) = (None, None, true);
        self.requests.push(Request {
            node,
            key,
            op,
            version,
            at_ms,
            until_ms,
            flushed,
            answer,
            is_open,
            floor,
            floor_of_node,
        });
        self.requests.len() as u32 - 1
    }

    /// A client has its answer. Whether its write took effect.
    pub(crate) fn answered(&mut self, number: u32, outcome: Outcome, at_ms: u64) -> bool {
        let request = self.requests[number as usize].clone();
        let noted = &mut self.requests[number as usize];
        (noted.is_open, noted.answer) = (false, Some((at_ms, outcome)));
        if at_ms > request.until_ms {
            self.fail(format!("late answer {outcome:?} at {at_ms} to {request:?}"));
        }
        self.tally.requests += 1;
        match outcome {
            Outcome::Value { version, is_fresh: true, by_stand_in } => {
                self.tally.by_stand_ins += u64::from(by_stand_in);
                self.tally.by_owners += u64::from(!by_stand_in);
                self.check_value(&request, version, by_stand_in, at_ms);
            }
            Outcome::Value { is_fresh: false, .. } => self.tally.stale += 1,
            Outcome::Done => {
                match request.flushed {
                    Some(versions) => {
                        let owner = self.owners[request.key];
                        let keys = (0..KEYS).filter(|key| self.owners[*key] == owner).collect::<Vec<_>>();
                        keys.into_iter().for_each(|key| self.acknowledge(request.node, key, versions[key], at_ms));
                    }
                    None => self.acknowledge(request.node, request.key, request.version, at_ms),
                }
                self.tally.written += 1;
                return true;
            }
            Outcome::Stored => self.tally.stored += 1,
            Outcome::Lost => self.tally.lost += 1,
            Outcome::Refused => self.tally.refused += 1,
            Outcome::Lease { .. } | Outcome::Wait => {}
        }
        false
    }

    fn acknowledge(&mut self, node: usize, key: usize, version: u64, at_ms: u64) {
        let latest = version.max(self.floor(key));
        self.acks[key].push(Ack { at_ms, version: latest });
        let floor = &mut self.floors[node][key];
        *floor = (*floor).max(version);
    }

    fn check_value(&mut self, request: &Request, version: u64, by_stand_in: bool, at_ms: u64) {
        // Whoever may be asked by a node without a majority has one itself.
        let judge = if by_stand_in { request.node } else { self.owners[request.key] };
        let vouch_ms = self.vouch_ms;
        let counts =
            |reached_ms: &&Option<u64>| reached_ms.is_none_or(|reached_ms| reached_ms + vouch_ms >= request.at_ms);
        if self.reached_ms[judge][..self.mains].iter().filter(counts).count() < majority(self.mains) {
            self.fail(format!("an answer at {at_ms} without a majority: {request:?}"));
        }
        let floor = if by_stand_in {
            request.floor_of_node.max(self.floor_at(request.key, request.at_ms.saturating_sub(self.gutter_ms)))
        } else {
            request.floor
        };
        if version < floor {
            let who = if by_stand_in { "a stand-in" } else { "the owner" };
            self.fail(format!("{who} answered version {version} and not {floor} at {at_ms} to {request:?}"));
        }
    }

    /// A fill was taken as fresh.
    pub(crate) fn filled(&mut self, node: usize, key: usize, version: u64, token: u64, by_stand_in: bool, at_ms: u64) {
        if !self.tokens.insert(token) {
            self.fail(format!("token {token:x} filled {key} at {node} twice, at {at_ms}"));
        }
        if !by_stand_in && version < self.floor(key) {
            self.fail(format!("stale set of {key} at {node}: {version} and not {}, at {at_ms}", self.floor(key)));
        }
    }

    /// A node has lost its memory, and its clients with it.
    pub(crate) fn crashed(&mut self, node: usize) {
        self.floors[node] = [0; KEYS];
        self.requests.iter_mut().filter(|request| request.node == node).for_each(|request| request.is_open = false);
    }

    /// A node stood still for so long.
    pub(crate) fn stood_still(&mut self, node: usize, for_ms: u64) {
        let waits = |request: &&mut Request| request.node == node && request.is_open;
        self.requests.iter_mut().filter(waits).for_each(|request| request.until_ms += for_ms);
    }

    /// Nobody waits for too long at a node that runs.
    pub(crate) fn check_open(&mut self, now_ms: u64, runs: impl Fn(usize) -> bool) {
        let is_late = |request: &&Request| request.is_open && request.until_ms < now_ms && runs(request.node);
        let late = self.requests.iter().find(is_late);
        if let Some(request) = late {
            self.fail(format!("no answer by {now_ms} to {request:?}"));
        }
    }

    pub(crate) fn fail(&mut self, violation: String) {
        self.violation.get_or_insert(violation);
    }
}
