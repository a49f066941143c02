//! The store of a node: entries that are born and expire, leases, loads and who waits for them.

use crate::plan::{Flaw, KEYS};
use crate::server::{Answer, Effect, Op, ReplyTo, Role, Server};
use leasehold_cluster::{Rule, Standing};

/// How long a value lives that its owner stores.
const TTL_MS: u64 = 100_000;

/// How long a client's token is valid.
const LEASE_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) version: u64,
    born_ms: u64,
    expire_at_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    token: u64,
    born_ms: u64,
    ttl_ms: u64,
    role: Role,
    is_load: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    to: ReplyTo,
    born_min_ms: u64,
    role: Role,
    pub(crate) until_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Cell {
    pub(crate) entry: Option<Entry>,
    pub(crate) lease: Option<Lease>,
    pub(crate) waiters: Vec<Waiter>,
}

impl Server {
    /// `None`: the answer comes when a load has ended.
    pub(crate) fn execute(&mut self, key: usize, op: Op, role: Role, to: ReplyTo, now_ms: u64) -> Option<Answer> {
        let standing = match role {
            Role::Owner => self.peers.standing(now_ms),
            Role::StandIn(_) => Standing::Proven,
        };
        if standing != Standing::Proven {
            return Some(self.execute_unproven(key, op, standing));
        }
        match op {
            Op::Get => self.read(key, role, to, now_ms),
            Op::Delete => {
                self.remove(key);
                Some(Answer::Done)
            }
            Op::Flush => {
                (0..KEYS).for_each(|key| self.remove(key));
                Some(Answer::Done)
            }
            Op::Set { version } => {
                self.remove(key);
                let expire_at_ms = now_ms + ttl_ms(role);
                self.cells[key].entry = Some(Entry { version, born_ms: now_ms, expire_at_ms });
                Some(Answer::Done)
            }
            Op::GetLease => Some(self.lease(key, role, now_ms)),
            Op::SetLease { token, version } => Some(self.fill_lease(key, token, version, role, now_ms)),
        }
    }

    fn execute_unproven(&mut self, key: usize, op: Op, standing: Standing) -> Answer {
        match op {
            Op::Get if standing == Standing::StaleOnly => match self.cells[key].entry {
                Some(entry) => Answer::Value { version: entry.version, is_fresh: false, is_hit: true },
                None => Answer::Unproven,
            },
            Op::Delete | Op::Flush => {
                // It does no harm, but nobody may rely on it.
                self.remove(key);
                Answer::Unproven
            }
            Op::SetLease { .. } => Answer::Lost,
            Op::Get | Op::Set { .. } | Op::GetLease => Answer::Unproven,
        }
    }

    fn usable(&self, key: usize, born_min_ms: u64, now_ms: u64) -> Option<Entry> {
        let fence_ms = self.peers.fence_ms();
        let is_usable = |entry: &Entry| {
            entry.expire_at_ms > now_ms && entry.born_ms >= born_min_ms && (fence_ms == 0 || entry.born_ms > fence_ms)
        };
        self.cells[key].entry.filter(is_usable)
    }

    fn read(&mut self, key: usize, role: Role, to: ReplyTo, now_ms: u64) -> Option<Answer> {
        let born_min_ms = match role {
            Role::Owner => 0,
            Role::StandIn(stand_in) => (now_ms + 1).saturating_sub(stand_in.age_max_ms),
        };
        if let Some(Entry { version, .. }) = self.usable(key, born_min_ms, now_ms) {
            return Some(Answer::Value { version, is_fresh: true, is_hit: true });
        }
        let until_ms = now_ms + self.peers.rules().peer_timeout_ms;
        let can_join = self.cells[key].lease.is_some_and(|lease| lease.is_load && lease.born_ms >= born_min_ms);
        // What is loaded for this one is young enough.
        let born_min_ms = born_min_ms.min(now_ms);
        self.cells[key].waiters.push(Waiter { to, born_min_ms, role, until_ms });
        if !can_join {
            self.load(key, role, now_ms);
        }
        None
    }

    fn load(&mut self, key: usize, role: Role, now_ms: u64) {
        let token = self.id();
        self.cells[key].lease = Some(Lease { token, born_ms: now_ms, ttl_ms: ttl_ms(role), role, is_load: true });
        self.out.push(Effect::Load { key, token });
    }

    /// A load has ended.
    pub(crate) fn loaded(&mut self, key: usize, token: u64, version: u64, now_ms: u64) {
        let born_ms = match self.take_lease(key, token) {
            Some(lease) if self.may_fill(&lease, now_ms) => {
                self.fill(key, version, &lease, now_ms);
                Some(lease.born_ms)
            }
            _ if self.cells[key].lease.is_some_and(|lease| lease.is_load) => return,
            _ => None,
        };
        let waiters = std::mem::take(&mut self.cells[key].waiters);
        for waiter in waiters {
            let is_proven = waiter.role != Role::Owner || self.peers.standing(now_ms) == Standing::Proven;
            if !is_proven {
                self.reply(waiter.to, Answer::Unproven, waiter.role, now_ms);
            } else if born_ms.is_some_and(|born_ms| born_ms >= waiter.born_min_ms) {
                let answer = Answer::Value { version, is_fresh: true, is_hit: false };
                self.reply(waiter.to, answer, waiter.role, now_ms);
            } else {
                self.cells[key].waiters.push(waiter);
            }
        }
        if let Some(waiter) = self.cells[key].waiters.first() {
            let role = waiter.role;
            self.load(key, role, now_ms);
        }
    }

    fn take_lease(&mut self, key: usize, token: u64) -> Option<Lease> {
        let lease = self.cells[key].lease.filter(|lease| lease.token == token)?;
        if self.flaw != Some(Flaw::KeepsTokens) {
            self.cells[key].lease = None;
        }
        Some(lease)
    }

    fn may_fill(&self, lease: &Lease, now_ms: u64) -> bool {
        let fence_ms = self.peers.fence_ms();
        let is_behind = fence_ms == 0 || lease.born_ms > fence_ms || !self.peers.rules().has(Rule::FenceTokens);
        is_behind && (lease.role != Role::Owner || self.peers.standing(now_ms) == Standing::Proven)
    }

    fn fill(&mut self, key: usize, version: u64, lease: &Lease, now_ms: u64) {
        let is_fenced = self.peers.rules().has(Rule::FenceTokens) || lease.role != Role::Owner;
        let born_ms = if is_fenced { lease.born_ms } else { now_ms };
        self.cells[key].entry = Some(Entry { version, born_ms, expire_at_ms: now_ms + lease.ttl_ms });
        let by_stand_in = lease.role != Role::Owner && lease.is_load;
        self.out.push(Effect::Filled { key, version, token: lease.token, by_stand_in });
    }

    fn lease(&mut self, key: usize, role: Role, now_ms: u64) -> Answer {
        if let Some(Entry { version, .. }) = self.usable(key, 0, now_ms) {
            return Answer::Value { version, is_fresh: true, is_hit: true };
        }
        let is_taken = |lease: &Lease| lease.is_load || now_ms < lease.born_ms + LEASE_MS;
        if self.cells[key].lease.as_ref().is_some_and(is_taken) {
            return Answer::Wait;
        }
        let token = self.id();
        self.cells[key].lease = Some(Lease { token, born_ms: now_ms, ttl_ms: ttl_ms(role), role, is_load: false });
        Answer::Lease { token }
    }

    fn fill_lease(&mut self, key: usize, token: u64, version: u64, role: Role, now_ms: u64) -> Answer {
        match self.take_lease(key, token) {
            Some(lease) if !lease.is_load && now_ms < lease.born_ms + LEASE_MS && self.may_fill(&lease, now_ms) => {
                self.fill(key, version, &Lease { role, ..lease }, now_ms);
                Answer::Stored
            }
            _ => Answer::Lost,
        }
    }

    pub(crate) fn remove(&mut self, key: usize) {
        self.cells[key].entry = None;
        if self.flaw != Some(Flaw::DeletesNoTokens) {
            self.cells[key].lease = None;
        }
    }
}

fn ttl_ms(role: Role) -> u64 {
    match role {
        Role::Owner => TTL_MS,
        Role::StandIn(stand_in) => TTL_MS.min(stand_in.ttl_max_ms),
    }
}
