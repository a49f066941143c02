//! A node as the core needs it: requests of clients, what is sent to other nodes and comes from them, and the core's word on each.

use crate::plan::{Flaw, KEYS, Plan, key, slot};
use crate::store::Cell;
use leasehold_cluster::{
    Ask, Call, Errand, Fault, Kept, Kind, Peers, Ping, Place, PlaceSet, Pong, Refusal, Removal, Route, StandIn, Target,
    Verdict, Way,
};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Get,
    Delete,
    /// Everything that the owner of the key has.
    Flush,
    Set {
        version: u64,
    },
    GetLease,
    SetLease {
        token: u64,
        version: u64,
    },
}

/// As whom a node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Owner,
    StandIn(StandIn),
}

/// What a node is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) key: usize,
    pub(crate) op: Op,
    pub(crate) role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value {
        version: u64,
        is_fresh: bool,
        is_hit: bool,
    },
    Done,
    Lease {
        token: u64,
    },
    Wait,
    Stored,
    Lost,
    Kept(Kept),
    /// It may not answer for its keys now.
    Unproven,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Ping(Ping),
    Pong(Pong),
    Request { call: u64, command: Command },
    Keep { call: u64, owner: Place, removal: Removal },
    Reply { call: u64, answer: Answer },
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Value { version: u64, is_fresh: bool, by_stand_in: bool },
    Done,
    Lease { token: u64 },
    Wait,
    Stored,
    Lost,
    Refused,
}

/// What a server wants of the world.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Send {
        to: Place,
        body: Body,
    },
    /// Read the source for this key, and come back with its version.
    Load {
        key: usize,
        token: u64,
    },
    Answer {
        request: u32,
        outcome: Outcome,
    },
    /// A fill was taken as fresh, under this token.
    Filled {
        key: usize,
        version: u64,
        token: u64,
        by_stand_in: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ReplyTo {
    Node { place: Place, call: u64 },
    Job(u64),
}

#[derive(Debug)]
struct Job {
    id: u64,
    request: u32,
    key: usize,
    op: Op,
    until_ms: u64,
    tried: PlaceSet,
    errand: Option<Errand>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Owner,
    StandIn,
    ErrandOwner,
    ErrandStandIn,
    Keep,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    call: u64,
    job: u64,
    place: Place,
    purpose: Purpose,
    until_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Keeping {
    owner: Place,
    number: u64,
    to: ReplyTo,
    until_ms: u64,
}

pub(crate) struct Server {
    pub(crate) peers: Peers,
    own: Place,
    pub(crate) flaw: Option<Flaw>,
    boot: u64,
    next: u64,
    pub(crate) cells: [Cell; KEYS],
    jobs: Vec<Job>,
    pending: Vec<Pending>,
    keeping: Vec<Keeping>,
    pub(crate) out: Vec<Effect>,
    /// All that were routed.
    pub(crate) requests: u64,
    /// Those that were given to a stand-in.
    pub(crate) failovers: u64,
}

impl Server {
    pub(crate) fn new(plan: &Plan, own: Place, boot: u64, now_ms: u64) -> Self {
        Self {
            peers: Peers::new(plan.topology.clone(), own, plan.rules.clone(), boot, now_ms),
            own,
            flaw: plan.flaw,
            boot,
            next: 0,
            cells: std::array::from_fn(|_| Cell::default()),
            jobs: Vec::new(),
            pending: Vec::new(),
            keeping: Vec::new(),
            out: Vec::new(),
            requests: 0,
            failovers: 0,
        }
    }

    /// Requests of clients that have no answer yet.
    pub(crate) fn open(&self) -> impl Iterator<Item = u32> {
        self.jobs.iter().map(|job| job.request)
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next += 1;
        self.boot << 32 | self.next
    }

    // Requests of clients.

    pub(crate) fn submit(&mut self, request: u32, key_number: usize, op: Op, now_ms: u64, random: u64) {
        let id = self.id();
        let until_ms = now_ms + 2 * self.peers.rules().peer_timeout_ms + 50;
        self.jobs.push(Job { id, request, key: key_number, op, until_ms, tried: PlaceSet::default(), errand: None });
        self.requests += 1;
        let bytes = key(key_number);
        let ask = ask(&bytes, key_number, op, now_ms, random);
        let route = match self.peers.route(&ask) {
            // What is no key's has no other route.
            Route::Owner(_) if op == Op::Flush => Route::Errand,
            route => route,
        };
        self.go(id, route, &ask);
    }

    fn go(&mut self, id: u64, route: Route, ask: &Ask) {
        let (key, op) = self.jobs.iter().find(|job| job.id == id).map(|job| (job.key, job.op)).expect("it is open");
        match route {
            Route::Here => {
                if let Some(answer) = self.execute(key, op, Role::Owner, ReplyTo::Job(id), ask.now_ms) {
                    self.job_answered(id, answer, Role::Owner, ask.now_ms);
                }
            }
            Route::HereStale => {
                let outcome = match self.cells[key].entry {
                    Some(entry) => Outcome::Value { version: entry.version, is_fresh: false, by_stand_in: false },
                    None => Outcome::Refused,
                };
                self.finish(id, outcome);
            }
            Route::Owner(place) => {
                self.request(id, place, Purpose::Owner, Command { key, op, role: Role::Owner }, ask.now_ms);
            }
            Route::StandIn(stand_in) => {
                self.failovers += 1;
                self.stand_in(id, Purpose::StandIn, stand_in, (key, op), ask.now_ms);
            }
            Route::Errand => {
                let (errand, calls) = Errand::new(
                    &self.peers,
                    self.peers.topology().owner_place(ask.slot),
                    ask.kind,
                    removal(key, op),
                    ask.now_ms,
                );
                self.run(id, errand, &calls, ask.now_ms);
            }
            Route::Refuse(refusal) => {
                let is_lost = refusal == Refusal::NeedsOwner && matches!(op, Op::SetLease { .. });
                self.finish(id, if is_lost { Outcome::Lost } else { Outcome::Refused });
            }
        }
    }

    fn stand_in(&mut self, id: u64, purpose: Purpose, stand_in: StandIn, (key, op): (usize, Op), now_ms: u64) {
        let role = Role::StandIn(stand_in);
        if stand_in.place != self.own {
            self.request(id, stand_in.place, purpose, Command { key, op, role }, now_ms);
            return;
        }
        if let Some(answer) = self.execute(key, op, role, ReplyTo::Job(id), now_ms) {
            self.local_answered(id, purpose, answer, role, now_ms);
        }
    }

    fn local_answered(&mut self, id: u64, purpose: Purpose, answer: Answer, role: Role, now_ms: u64) {
        match purpose {
            Purpose::ErrandStandIn => {
                let own = self.own;
                self.with_errand(id, now_ms, |errand, _| errand.stand_in_answered(own));
            }
            _ => self.job_answered(id, answer, role, now_ms),
        }
    }

    fn request(&mut self, job: u64, place: Place, purpose: Purpose, command: Command, now_ms: u64) {
        let call = self.note_call(job, place, purpose, now_ms);
        self.out.push(Effect::Send { to: place, body: Body::Request { call, command } });
    }

    fn note_call(&mut self, job: u64, place: Place, purpose: Purpose, now_ms: u64) -> u64 {
        let call = self.id();
        let until_ms = now_ms + self.peers.rules().peer_timeout_ms;
        self.pending.push(Pending { call, job, place, purpose, until_ms });
        call
    }

    fn run(&mut self, id: u64, errand: Errand, calls: &[Call], now_ms: u64) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            job.errand = Some(errand);
        }
        self.call_all(id, calls, now_ms);
        self.judge(id, now_ms);
    }

    fn call_all(&mut self, id: u64, calls: &[Call], now_ms: u64) {
        let Some(job) = self.jobs.iter().find(|job| job.id == id) else { return };
        let (key, op, owner) = (job.key, job.op, self.peers.topology().owner_place(slot(job.key)));
        for call in calls {
            match *call {
                Call::Ask(place) => {
                    self.request(id, place, Purpose::ErrandOwner, Command { key, op, role: Role::Owner }, now_ms);
                }
                Call::Store(stand_in) => {
                    self.failovers += 1;
                    self.stand_in(id, Purpose::ErrandStandIn, stand_in, (key, op), now_ms);
                }
                Call::Remove(place) => {
                    let stand_in = StandIn { place, age_max_ms: 0, ttl_max_ms: 0 };
                    let removes = if op == Op::Flush { Op::Flush } else { Op::Delete };
                    self.stand_in(id, Purpose::ErrandStandIn, stand_in, (key, removes), now_ms);
                }
                Call::Keep(place) => {
                    let call = self.note_call(id, place, Purpose::Keep, now_ms);
                    self.out
                        .push(Effect::Send { to: place, body: Body::Keep { call, owner, removal: removal(key, op) } });
                }
            }
        }
    }

    fn with_errand(&mut self, id: u64, now_ms: u64, act: impl FnOnce(&mut Errand, &Peers)) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) else { return };
        if let Some(errand) = &mut job.errand {
            act(errand, &self.peers);
        }
        self.judge(id, now_ms);
    }

    fn judge(&mut self, id: u64, now_ms: u64) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) else { return };
        let Some(errand) = &mut job.errand else { return };
        match errand.verdict(&self.peers, now_ms) {
            Verdict::Open => {}
            Verdict::Done => self.finish(id, Outcome::Done),
            Verdict::Refused(_) => self.finish(id, Outcome::Refused),
        }
    }

    fn finish(&mut self, id: u64, outcome: Outcome) {
        let Some(place) = self.jobs.iter().position(|job| job.id == id) else { return };
        let job = self.jobs.swap_remove(place);
        self.out.push(Effect::Answer { request: job.request, outcome });
    }

    /// The answer to a job that is no errand.
    fn job_answered(&mut self, id: u64, answer: Answer, role: Role, now_ms: u64) {
        let by_stand_in = matches!(role, Role::StandIn(_));
        let outcome = match answer {
            Answer::Value { version, is_fresh, .. } => Outcome::Value { version, is_fresh, by_stand_in },
            Answer::Done => Outcome::Done,
            Answer::Lease { token } => Outcome::Lease { token },
            Answer::Wait => Outcome::Wait,
            Answer::Stored => Outcome::Stored,
            Answer::Lost => Outcome::Lost,
            Answer::Unproven | Answer::Kept(_) => return self.go_instead(id, None, now_ms),
        };
        self.finish(id, outcome);
    }

    /// The owner, or a stand-in, has failed.
    fn go_instead(&mut self, id: u64, stand_in: Option<Place>, now_ms: u64) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) else { return };
        if let Some(place) = stand_in {
            job.tried.insert(place);
        }
        let bytes = key(job.key);
        let ask = ask(&bytes, job.key, job.op, now_ms, 0);
        let (key, op, tried) = (job.key, job.op, job.tried);
        let owner = self.peers.topology().owner_place(ask.slot);
        if owner == self.own {
            return self.finish(id, Outcome::Refused);
        }
        match ask.kind {
            Kind::Write | Kind::Update | Kind::Delete => {
                let (errand, calls) = Errand::instead(&self.peers, owner, ask.kind, removal(key, op), now_ms);
                self.run(id, errand, &calls, now_ms);
            }
            Kind::Read | Kind::Lease => {
                let route = self.peers.instead(&ask, tried);
                self.go(id, route, &ask);
            }
        }
    }

    // Messages.

    pub(crate) fn receive(&mut self, from: Place, body: Body, now_ms: u64) {
        match body {
            Body::Ping(ping) => {
                let pong = self.peers.answer(from, &ping, now_ms);
                self.out.push(Effect::Send { to: from, body: Body::Pong(pong) });
                self.answer_keeps(now_ms);
            }
            Body::Pong(pong) => {
                let removals = self.peers.to_apply(from, &pong).to_vec();
                removals.iter().for_each(|removal| self.apply(removal));
                self.peers.hear(from, &pong, now_ms);
            }
            Body::Request { call, command: Command { key, op, role } } => {
                let to = ReplyTo::Node { place: from, call };
                if let Some(answer) = self.execute(key, op, role, to, now_ms) {
                    self.reply(to, answer, role, now_ms);
                }
            }
            Body::Keep { call, owner, removal } => {
                let number = self.peers.remember(owner, removal);
                let to = ReplyTo::Node { place: from, call };
                let until_ms = now_ms + self.peers.rules().peer_timeout_ms;
                self.keeping.push(Keeping { owner, number, to, until_ms });
                self.answer_keeps(now_ms);
            }
            Body::Reply { call, answer } => self.replied(call, answer, now_ms),
        }
    }

    fn apply(&mut self, removal: &Removal) {
        match &removal.target {
            Target::Key(key) => self.remove(usize::from(key[1] - b'0')),
            Target::Everything => (0..KEYS).for_each(|key| self.remove(key)),
            other => panic!("nothing else is sent: {other:?}"),
        }
    }

    fn answer_keeps(&mut self, now_ms: u64) {
        let mut answers = Vec::new();
        let peers = &self.peers;
        self.keeping.retain(|keeping| match peers.kept(keeping.owner, keeping.number, now_ms) {
            Kept::Waiting { .. } => now_ms < keeping.until_ms,
            kept => {
                answers.push((keeping.to, Answer::Kept(kept)));
                false
            }
        });
        for (to, answer) in answers {
            self.reply(to, answer, Role::Owner, now_ms);
        }
    }

    pub(crate) fn reply(&mut self, to: ReplyTo, answer: Answer, role: Role, now_ms: u64) {
        match to {
            ReplyTo::Node { place, call } => {
                self.out.push(Effect::Send { to: place, body: Body::Reply { call, answer } });
            }
            ReplyTo::Job(id) => self.job_answered(id, answer, role, now_ms),
        }
    }

    fn replied(&mut self, call: u64, answer: Answer, now_ms: u64) {
        let Some(place) = self.pending.iter().position(|pending| pending.call == call) else { return };
        let Pending { job, place, purpose, .. } = self.pending.swap_remove(place);
        let is_unproven = answer == Answer::Unproven;
        match (purpose, answer) {
            (Purpose::Owner | Purpose::ErrandOwner, Answer::Unproven) => self.peers.turned_away(place, now_ms),
            (Purpose::Owner, Answer::Value { is_hit, .. }) => self.peers.answered_read(place, is_hit, now_ms),
            (Purpose::Keep, _) => {}
            _ => self.peers.answered(place),
        }
        let stand_in = Role::StandIn(StandIn { place, age_max_ms: 0, ttl_max_ms: 0 });
        match purpose {
            Purpose::Owner if is_unproven => self.go_instead(job, None, now_ms),
            Purpose::Owner => self.job_answered(job, answer, Role::Owner, now_ms),
            Purpose::StandIn => self.job_answered(job, answer, stand_in, now_ms),
            Purpose::ErrandOwner if is_unproven => self.owner_failed(job, now_ms),
            Purpose::ErrandOwner => self.with_errand(job, now_ms, |errand, _| errand.owner_answered()),
            Purpose::ErrandStandIn => self.with_errand(job, now_ms, |errand, _| errand.stand_in_answered(place)),
            Purpose::Keep => {
                if let Answer::Kept(kept) = answer {
                    self.with_errand(job, now_ms, |errand, _| errand.kept(place, kept));
                }
            }
        }
    }

    fn owner_failed(&mut self, id: u64, now_ms: u64) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) else { return };
        let Some(errand) = &mut job.errand else { return };
        let calls = errand.owner_failed(&self.peers, now_ms);
        self.call_all(id, &calls, now_ms);
        self.judge(id, now_ms);
    }

    /// A message did not come there, or its answer did not come back.
    pub(crate) fn call_failed(&mut self, call: u64, fault: Fault, now_ms: u64) {
        self.call_ended(call, Some(fault), now_ms);
    }

    /// As [`Server::call_failed`]; `None`: nobody is to blame but this node.
    fn call_ended(&mut self, call: u64, fault: Option<Fault>, now_ms: u64) {
        let Some(place) = self.pending.iter().position(|pending| pending.call == call) else { return };
        let Pending { job, place, purpose, .. } = self.pending.swap_remove(place);
        match fault {
            // Whoever has nothing to say about a delete yet has heard of it all the same.
            Some(Fault::Timeout) if purpose == Purpose::Keep => {}
            Some(fault) => self.peers.failed(place, fault, now_ms),
            None => self.peers.turned_away(place, now_ms),
        }
        match purpose {
            Purpose::Owner => self.go_instead(job, None, now_ms),
            Purpose::StandIn => self.go_instead(job, Some(place), now_ms),
            Purpose::ErrandOwner => self.owner_failed(job, now_ms),
            Purpose::ErrandStandIn => {
                self.with_errand(job, now_ms, |errand, peers| errand.stand_in_failed(peers, place));
            }
            Purpose::Keep => {}
        }
    }

    /// Whatever was under way there has no answer.
    pub(crate) fn connection_ended(&mut self, place: Place, now_ms: u64) {
        let calls: Vec<u64> =
            self.pending.iter().filter(|pending| pending.place == place).map(|pending| pending.call).collect();
        calls.into_iter().for_each(|call| self.call_failed(call, Fault::Reset, now_ms));
    }

    pub(crate) fn ping_refused(&mut self, place: Place, now_ms: u64) {
        self.peers.failed(place, Fault::Refused, now_ms);
    }

    pub(crate) fn tick(&mut self, now_ms: u64, random: u64) {
        let tick = self.peers.tick(now_ms, random);
        self.out.extend(tick.pings.into_iter().map(|(to, ping)| Effect::Send { to, body: Body::Ping(ping) }));
        if self.flaw == Some(Flaw::NeverTimesOut) {
            return;
        }
        let overdue = |pending: &&Pending| pending.until_ms <= now_ms;
        let overdue: Vec<u64> = self.pending.iter().filter(overdue).map(|pending| pending.call).collect();
        let fault = (!tick.was_stopped).then_some(Fault::Timeout);
        overdue.into_iter().for_each(|call| self.call_ended(call, fault, now_ms));
        self.answer_keeps(now_ms);
        for cell in &mut self.cells {
            cell.waiters.retain(|waiter| now_ms < waiter.until_ms);
        }
        let jobs: Vec<(u64, bool)> = self.jobs.iter().map(|job| (job.id, job.until_ms <= now_ms)).collect();
        for (id, is_overdue) in jobs {
            self.judge(id, now_ms);
            if is_overdue {
                self.finish(id, Outcome::Refused);
            }
        }
    }
}

/// What forgets what the request changes.
fn removal(number: usize, op: Op) -> Removal {
    let target = if op == Op::Flush { Target::Everything } else { Target::Key(key(number).to_vec().into()) };
    Removal { target, way: Way::Hard }
}

fn ask(bytes: &[u8], number: usize, op: Op, now_ms: u64, random: u64) -> Ask<'_> {
    let kind = match op {
        Op::Get => Kind::Read,
        Op::Delete | Op::Flush => Kind::Delete,
        Op::Set { .. } => Kind::Write,
        Op::GetLease | Op::SetLease { .. } => Kind::Lease,
    };
    Ask { slot: slot(number), key: bytes, kind, now_ms, random }
}
