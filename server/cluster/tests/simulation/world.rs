//! Nodes, a network that loses and delays, a source, clients, and true time.

use crate::oracle::Oracle;
use crate::plan::{Act, Fault as PlannedFault, Flaw, KEYS, Plan, Random, Step, Trouble, slot};
use crate::server::{Body, Effect, Op, Outcome, Server};
use leasehold_cluster::{Condition, Fault, Place, Standing};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// How often a node looks at its clock.
const TICK_MS: u64 = 20;

/// How often the share of dead nodes is looked at.
const LOOK_MS: u64 = 100;

#[derive(Clone, Debug)]
enum Event {
    Tick {
        node: usize,
        boot: u64,
    },
    Message {
        from: usize,
        to: usize,
        body: Body,
        sent_ms: u64,
    },
    /// Nobody listens there.
    Refused {
        node: usize,
        by: usize,
        body: Body,
    },
    /// The process there has ended, and its connections with it.
    Reset {
        node: usize,
        by: usize,
    },
    Load {
        node: usize,
        boot: u64,
        key: usize,
        token: u64,
    },
    Loaded {
        node: usize,
        boot: u64,
        key: usize,
        token: u64,
        version: u64,
    },
    /// A client's.
    Request {
        node: usize,
        request: u32,
        key: usize,
        op: Op,
    },
    Read,
    /// Something changes all keys of the owner of one, and flushes it.
    Flush,
    Write {
        key: usize,
    },
    /// A client comes back with what it has loaded.
    Fill {
        node: usize,
        key: usize,
        token: u64,
        version: u64,
    },
    Step(Step),
    FaultBegins(usize),
    FaultEnds(usize),
    Look,
    Settled,
    LastReads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    Stopped { since_ms: u64 },
    Gone,
}

pub(crate) struct World {
    plan: Plan,
    random: Random,
    now_ms: u64,
    queue: BinaryHeap<Reverse<(u64, u32)>>,
    events: Vec<Option<Event>>,
    servers: Vec<Server>,
    states: Vec<State>,
    boots: Vec<u64>,
    /// What came while a node was stopped.
    held_back: Vec<Vec<Event>>,
    /// By sender and receiver: how many faults cut it.
    cuts: Vec<Vec<u32>>,
    loss_percent: u64,
    slow_ms: u64,
    /// What the source has.
    versions: [u64; KEYS],
    /// Whose write is to be followed by another.
    writers: BTreeMap<u32, usize>,
    pub(crate) oracle: Oracle,
    /// The last writes have been answered.
    finals: [bool; KEYS],
}

impl World {
    pub(crate) fn new(plan: Plan, seed: u64) -> Self {
        let nodes = plan.topology.all().len();
        let boots: Vec<u64> = (0..nodes as u64).map(|node| node << 16).collect();
        let servers = plan.topology.places().map(|place| {
            let now_ms = plan.skews[place.index()].shown(0);
            Server::new(&plan, place, boots[place.index()], now_ms)
        });
        let mut world = Self {
            servers: servers.collect(),
            oracle: Oracle::new(&plan),
            random: Random::new(seed ^ 0x5eed),
            now_ms: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            states: vec![State::Runs; nodes],
            boots,
            held_back: vec![Vec::new(); nodes],
            cuts: vec![vec![0; nodes]; nodes],
            loss_percent: 0,
            slow_ms: 0,
            versions: [1; KEYS],
            writers: BTreeMap::new(),
            finals: [false; KEYS],
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.servers.len() {
            let boot = self.boots[node];
            let after_ms = self.random.below(TICK_MS);
            self.at(after_ms, Event::Tick { node, boot });
        }
        for (number, fault) in self.plan.faults.clone().into_iter().enumerate() {
            self.at(fault.from_ms, Event::FaultBegins(number));
            self.at(fault.until_ms, Event::FaultEnds(number));
        }
        match self.plan.script.clone() {
            Some(script) => script.into_iter().for_each(|step| self.at(step.at_ms, Event::Step(step))),
            None => {
                // Nodes that have started are silent for a while.
                self.at(250, Event::Read);
                (0..KEYS).for_each(|key| self.at(250 + 20 * key as u64, Event::Write { key }));
                // A value that a client puts while another one flushes may be older, whatever nodes do.
                if self.plan.set_percent == 0 {
                    self.at(400, Event::Flush);
                }
            }
        }
        self.at(LOOK_MS, Event::Look);
        if let Some(settled_ms) = self.plan.settled_ms {
            self.at(settled_ms, Event::Settled);
        }
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.queue.push(Reverse((at_ms, self.events.len() as u32)));
        self.events.push(Some(event));
    }

    fn after(&mut self, after_ms: u64, event: Event) {
        self.at(self.now_ms + after_ms, event);
    }

    /// Runs all of it; what was violated.
    pub(crate) fn run(&mut self) -> Option<String> {
        while let Some(Reverse((at_ms, number))) = self.queue.pop() {
            if at_ms > self.plan.end_ms || self.oracle.violation.is_some() {
                break;
            }
            self.now_ms = at_ms;
            let event = self.events[number as usize].take().expect("each happens once");
            self.happen(event);
        }
        self.oracle.check_open(self.now_ms, |_| true);
        if self.oracle.violation.is_none() && self.plan.settled_ms.is_some() && self.finals.contains(&false) {
            self.oracle.fail(format!("last writes without an answer: {:?}", self.finals));
        }
        self.oracle.violation.clone()
    }

    fn happen(&mut self, event: Event) {
        let node = match &event {
            Event::Message { to: node, .. }
            | Event::Tick { node, .. }
            | Event::Refused { node, .. }
            | Event::Request { node, .. }
            | Event::Reset { node, .. }
            | Event::Load { node, .. }
            | Event::Loaded { node, .. } => Some(*node),
            _ => None,
        };
        match node.map(|node| (node, self.states[node])) {
            Some((node, State::Stopped { .. })) => self.held_back[node].push(event),
            Some((node, State::Gone)) => self.happen_to_nobody(node, event),
            Some((node, State::Runs)) => self.happen_at(node, event),
            None => self.happen_outside(event),
        }
    }

    /// The process is gone: the machine answers for it.
    fn happen_to_nobody(&mut self, node: usize, event: Event) {
        if let Event::Message { from, body: body @ (Body::Request { .. } | Body::Ping(_) | Body::Keep { .. }), .. } =
            event
            && self.cuts[node][from] == 0
        {
            let after_ms = self.latency();
            self.after(after_ms, Event::Refused { node: from, by: node, body });
        }
    }

    fn happen_at(&mut self, node: usize, event: Event) {
        let now_ms = self.plan.skews[node].shown(self.now_ms);
        let random = self.random.number();
        let boot = self.boots[node];
        match event {
            Event::Tick { boot: of, .. } if of == boot => {
                self.servers[node].tick(now_ms, random);
                self.after(TICK_MS, Event::Tick { node, boot });
            }
            Event::Message { from, body, sent_ms, .. } => {
                if self.is_too_late(&body, sent_ms) {
                    return;
                }
                let from = self.place(from);
                self.servers[node].receive(from, body, now_ms);
            }
            Event::Refused { by, body, .. } => {
                let by = self.place(by);
                match body {
                    Body::Request { call, .. } | Body::Keep { call, .. } => {
                        self.servers[node].call_failed(call, Fault::Refused, now_ms);
                    }
                    _ => self.servers[node].ping_refused(by, now_ms),
                }
            }
            Event::Reset { by, .. } => {
                let by = self.place(by);
                self.servers[node].connection_ended(by, now_ms);
            }
            Event::Request { request, key, op, .. } => self.servers[node].submit(request, key, op, now_ms, random),
            Event::Load { boot: of, key, token, .. } if of == boot => {
                let (version, after_ms) = (self.versions[key], self.random.between(1, self.plan.load_ms));
                self.after(after_ms, Event::Loaded { node, boot, key, token, version });
            }
            Event::Loaded { boot: of, key, token, version, .. } if of == boot => {
                self.servers[node].loaded(key, token, version, now_ms);
            }
            _ => {}
        }
        self.take_effects(node);
    }

    /// Links drop what was under way for as long as whoever sent it waits for an answer.
    fn is_too_late(&self, body: &Body, sent_ms: u64) -> bool {
        let age_ms = self.now_ms - sent_ms;
        let is_request = matches!(body, Body::Request { .. } | Body::Keep { .. });
        is_request && age_ms >= self.plan.rules.peer_timeout_ms * 31 / 32 && self.plan.flaw != Some(Flaw::ExecutesLate)
    }

    fn take_effects(&mut self, node: usize) {
        let mut effects = std::mem::take(&mut self.servers[node].out);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, body } => self.send(node, to.index(), body),
                Effect::Load { key, token } => {
                    let (after_ms, boot) = (self.random.between(1, self.plan.load_ms), self.boots[node]);
                    self.after(after_ms, Event::Load { node, boot, key, token });
                }
                Effect::Answer { request, outcome } => self.answered(request, outcome),
                Effect::Filled { key, version, token, by_stand_in } => {
                    self.oracle.filled(node, key, version, token, by_stand_in, self.now_ms);
                }
            }
        }
        // The buffer goes on being used.
        self.servers[node].out = effects;
    }

    fn send(&mut self, from: usize, to: usize, body: Body) {
        let is_lost = self.cuts[from][to] > 0 || (self.loss_percent > 0 && self.random.percent(self.loss_percent));
        if is_lost {
            return;
        }
        let after_ms = self.latency();
        let sent_ms = self.now_ms;
        self.after(after_ms, Event::Message { from, to, body, sent_ms });
    }

    fn latency(&mut self) -> u64 {
        let usual_ms = self.random.between(1, 4);
        if self.slow_ms > 0 && self.random.percent(20) { usual_ms + self.random.below(self.slow_ms) } else { usual_ms }
    }

    // Clients.

    fn happen_outside(&mut self, event: Event) {
        match event {
            Event::Read => self.read(),
            Event::Write { key } => self.write(key),
            Event::Flush => self.flush(),
            Event::Fill { node, key, token, version } => self.ask(node, key, Op::SetLease { token, version }, 0),
            Event::Step(Step { node, key, act, .. }) => {
                self.versions[key] += u64::from(!matches!(act, Act::Read));
                let version = self.versions[key];
                match act {
                    Act::Read => self.ask(node, key, Op::Get, 0),
                    Act::Delete => self.ask(node, key, Op::Delete, version),
                    Act::Set => self.ask(node, key, Op::Set { version }, version),
                }
            }
            Event::FaultBegins(number) => self.fault(self.plan.faults[number], true),
            Event::FaultEnds(number) => self.fault(self.plan.faults[number], false),
            Event::Look => self.look(),
            Event::Settled => self.settle(),
            Event::LastReads => {
                for (node, key) in (0..self.servers.len()).flat_map(|node| (0..KEYS).map(move |key| (node, key))) {
                    self.ask(node, key, Op::Get, 0);
                }
            }
            other => unreachable!("{other:?} happens at a node"),
        }
    }

    /// Whether clients ask for more: the last of them have their answers before all must be well.
    fn goes_on(&self) -> bool {
        self.plan.settled_ms.is_some_and(|settled_ms| self.now_ms + 700 < settled_ms)
    }

    fn any_node(&mut self) -> usize {
        self.random.below(self.servers.len() as u64) as usize
    }

    fn read(&mut self) {
        let (node, key) = (self.any_node(), self.random.below(KEYS as u64) as usize);
        let op = if self.random.percent(20) { Op::GetLease } else { Op::Get };
        self.ask(node, key, op, 0);
        if self.goes_on() {
            let after_ms = self.random.between(1, 2 * self.plan.read_every_ms);
            self.after(after_ms, Event::Read);
        }
    }

    fn write(&mut self, key: usize) {
        self.versions[key] += 1;
        let (node, version) = (self.any_node(), self.versions[key]);
        let puts = self.random.percent(self.plan.set_percent);
        self.ask(node, key, if puts { Op::Set { version } } else { Op::Delete }, version);
    }

    fn flush(&mut self) {
        let (node, key) = (self.any_node(), self.random.below(KEYS as u64) as usize);
        let owner_of = |key: usize| self.plan.topology.owner_place(slot(key));
        let its: Vec<usize> = (0..KEYS).filter(|other| owner_of(*other) == owner_of(key)).collect();
        its.into_iter().for_each(|key| self.versions[key] += 1);
        self.ask(node, key, Op::Flush, 0);
        if self.goes_on() {
            let after_ms = self.random.between(20, 400);
            self.after(after_ms, Event::Flush);
        }
    }

    fn ask(&mut self, node: usize, key: usize, op: Op, version: u64) {
        let request = self.oracle.asked(node, key, op, version, self.now_ms);
        if version > 0 {
            self.writers.insert(request, key);
        }
        if op == Op::Flush {
            self.oracle.requests[request as usize].flushed = Some(self.versions);
        }
        if self.states[node] == State::Gone {
            self.oracle.answered(request, Outcome::Refused, self.now_ms);
            self.follow(request, true);
        } else {
            self.happen(Event::Request { node, request, key, op });
        }
    }

    fn answered(&mut self, number: u32, outcome: Outcome) {
        let is_acked = self.oracle.answered(number, outcome, self.now_ms);
        let request = &self.oracle.requests[number as usize];
        let (key, node, op, at_ms) = (request.key, request.node, request.op, request.at_ms);
        if self.plan.settled_ms.is_some_and(|settled_ms| at_ms >= settled_ms) {
            self.check_last(key, op, outcome, is_acked);
        }
        if let Outcome::Lease { token } = outcome {
            let version = self.versions[key];
            let to = if self.random.percent(70) { node } else { self.any_node() };
            for _ in 0..self.random.between(1, 2) {
                let after_ms = self.random.between(1, 120);
                self.after(after_ms, Event::Fill { node: to, key, token, version });
            }
        }
        self.follow(number, is_acked);
    }

    /// A writer goes on. If it does not know what became of its write, it waits until that cannot come after the next one.
    fn follow(&mut self, request: u32, is_known: bool) {
        let Some(key) = self.writers.remove(&request) else { return };
        if self.plan.script.is_none() && self.goes_on() {
            let pause_ms = if is_known { 0 } else { self.plan.rules.peer_timeout_ms };
            let after_ms = pause_ms + self.random.between(10, self.plan.write_every_ms);
            self.after(after_ms, Event::Write { key });
        }
    }

    fn check_last(&mut self, key: usize, op: Op, outcome: Outcome, is_acked: bool) {
        match (op, outcome) {
            (Op::Get, Outcome::Value { version, is_fresh: true, by_stand_in: false })
                if version == self.versions[key] => {}
            (Op::Delete, Outcome::Done) if is_acked => self.finals[key] = true,
            _ => self.oracle.fail(format!("after all is well, {op:?} of {key} came to {outcome:?}")),
        }
    }

    // Faults.

    fn fault(&mut self, fault: PlannedFault, begins: bool) {
        match fault.trouble {
            Trouble::Crash(node) if begins => self.crash(node),
            Trouble::Crash(node) => self.restart(node),
            Trouble::Pause(node) if begins && self.states[node] == State::Runs => {
                self.states[node] = State::Stopped { since_ms: self.now_ms };
            }
            Trouble::Pause(node) if !begins => self.go_on(node),
            Trouble::Pause(_) => {}
            Trouble::Cut(from, to) => self.cut(from, to, begins),
            Trouble::Part(set) => {
                let nodes = self.servers.len();
                let is_in = |node: usize| set >> node & 1 == 1;
                let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
                pairs.filter(|(from, to)| is_in(*from) != is_in(*to)).for_each(|(from, to)| self.cut(from, to, begins));
            }
            Trouble::Loss(percent) => self.loss_percent = if begins { percent } else { 0 },
            Trouble::Slow(ms) => self.slow_ms = if begins { ms } else { 0 },
        }
        self.note_reach();
    }

    fn cut(&mut self, from: usize, to: usize, begins: bool) {
        let cuts = &mut self.cuts[from][to];
        *cuts = if begins { *cuts + 1 } else { *cuts - 1 };
    }

    fn crash(&mut self, node: usize) {
        self.states[node] = State::Gone;
        for other in (0..self.servers.len()).filter(|other| *other != node) {
            if self.cuts[node][other] == 0 {
                let after_ms = self.latency();
                self.after(after_ms, Event::Reset { node: other, by: node });
            }
        }
        let mut open: Vec<u32> = self.servers[node].open().collect();
        open.extend(std::mem::take(&mut self.held_back[node]).into_iter().filter_map(|event| match event {
            Event::Request { request, .. } => Some(request),
            _ => None,
        }));
        self.oracle.crashed(node);
        open.into_iter().for_each(|request| self.follow(request, false));
    }

    fn restart(&mut self, node: usize) {
        if self.states[node] != State::Gone {
            return;
        }
        self.states[node] = State::Runs;
        self.boots[node] += 1;
        let boot = self.boots[node];
        self.servers[node] = Server::new(&self.plan, self.place(node), boot, self.plan.skews[node].shown(self.now_ms));
        self.after(0, Event::Tick { node, boot });
    }

    fn go_on(&mut self, node: usize) {
        let State::Stopped { since_ms } = self.states[node] else { return };
        self.states[node] = State::Runs;
        self.oracle.stood_still(node, self.now_ms - since_ms);
        for event in std::mem::take(&mut self.held_back[node]) {
            self.after(0, event);
        }
    }

    /// Notes who reaches whom.
    fn note_reach(&mut self) {
        let nodes = self.servers.len();
        for (one, other) in (0..nodes).flat_map(|one| (0..nodes).map(move |other| (one, other))) {
            let is_reached =
                self.cuts[one][other] == 0 && self.cuts[other][one] == 0 && self.states[other] == State::Runs;
            let reached_ms = &mut self.oracle.reached_ms[one][other];
            *reached_ms = (one != other && !is_reached).then(|| reached_ms.unwrap_or(self.now_ms));
        }
    }

    /// Looks at what is bounded.
    fn look(&mut self) {
        let mains = self.plan.topology.nodes().len();
        let rules = &self.plan.rules;
        for (node, server) in self.servers.iter().enumerate().filter(|(node, _)| self.states[*node] == State::Runs) {
            let others = (0..mains).filter(|other| *other != node);
            let dead = others.clone().filter(|other| server.peers.view(self.place(*other)).is_dead).count();
            let dead_max = (others.count() * rules.out_share as usize / 1_000).max(1);
            let failovers_max =
                server.requests * u64::from(rules.failover_share) / 1_000 + u64::from(rules.failover_burst);
            // A read in its second half may still try another one.
            if dead > dead_max || server.failovers > failovers_max {
                let text = format!(
                    "{dead} dead of at most {dead_max}, {} failovers of at most {failovers_max}",
                    server.failovers
                );
                self.oracle.fail(format!("node {node} at {}: {text}", self.now_ms));
            }
        }
        let states = &self.states;
        self.oracle.check_open(self.now_ms, |node| states[node] == State::Runs);
        self.after(LOOK_MS, Event::Look);
    }

    /// All is well by now; writes each key for the last time.
    fn settle(&mut self) {
        assert!(self.states.iter().all(|state| *state == State::Runs));
        for (node, server) in self.servers.iter().enumerate() {
            let now_ms = self.plan.skews[node].shown(self.now_ms);
            for other in self.plan.topology.places().filter(|other| other.index() != node) {
                let view = server.peers.view(other);
                if view.condition != Condition::Well || view.remembered > 0 {
                    self.oracle.fail(format!("node {node} has not settled with {}: {view:?}", other.index()));
                }
            }
            if server.peers.standing(now_ms) != Standing::Proven {
                self.oracle.fail(format!("node {node} is not proven after all"));
            }
        }
        for key in 0..KEYS {
            self.versions[key] += 1;
            let node = self.any_node();
            self.ask(node, key, Op::Delete, self.versions[key]);
        }
        self.after(300, Event::LastReads);
    }

    fn place(&self, number: usize) -> Place {
        self.plan.topology.place(number).expect("there are so many nodes")
    }
}
