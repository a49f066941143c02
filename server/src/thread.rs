//! One reactor thread: its connections, its buffers, what it hears from others, what it does when time passes.

use crate::batch::{self, Batch};
use crate::clients::Card;
use crate::config::live::LiveConfig;
use crate::config::{Config, Live};
use crate::connection::{self, CARRY_BYTES_MAX, Connection, READ_BYTES_MAX};
use crate::front::{Lane, Lanes, Protocol};
use crate::host::NodeHost;
use crate::mailbox::{Mailbox, Message};
use crate::node::{Node, ThreadDesk};
use crate::peer::link::SILENCE_MAX;
use crate::peer::{Links, hot};
use crate::stage::Stage;
use crate::stats::{PeerCounters, ThreadStats};
use crate::vital::Vital;
use leasehold_command::{Client, Routing, commands_total, finish_effects, give_back, name_by_index};
use leasehold_keyspace::{Turn, Wake, WakeEvent};
use leasehold_protocol::{Reply, RespVersion};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// Time between two rounds of removing what has expired, in ms.
const EXPIRE_EVERY_MS: u64 = 100;

/// Entries that one cycle of expiry looks at: a fraction of a millisecond. While there is more to do the next cycle follows
/// as soon as the sockets were looked at once.
const EXPIRE_STEPS_MAX: usize = 1_024;

/// The thread's input buffer: a batch of small requests and one full read behind them.
const INPUT_BYTES: usize = 256 * 1024;

const _: () = assert!(INPUT_BYTES >= 2 * (CARRY_BYTES_MAX + READ_BYTES_MAX));

/// Time between two looks at all connections of the thread, for idle ones and slow readers, in ms.
const SWEEP_CONNECTIONS_EVERY_MS: u64 = 1_000;

/// See the module. Shared by the thread's tasks, never by threads.
pub(crate) struct Thread {
    pub(crate) id: u16,
    pub(crate) node: Arc<Node>,
    pub(crate) host: NodeHost,
    pub(crate) links: Links,
    desk: RefCell<Desk>,
    slots: RefCell<HashMap<u64, Rc<Slot>>>,
    /// Parked commands by the time at which they are to be told.
    deadlines: RefCell<BTreeSet<(u64, u64)>>,
    draining: Cell<bool>,
    /// Whether expiry or eviction has more to do at once.
    is_behind: Cell<bool>,
    /// By index in the statistics: whether the command may change what `CLIENT LIST` shows of its client.
    changes_client: Box<[bool]>,
}

/// What the connection whose turn it is works with.
pub(crate) struct Desk {
    /// Every read goes here, behind what the batch has there.
    pub(crate) input: Box<[u8]>,
    pub(crate) batch: Batch,
    pub(crate) work: Work,
}

/// The desk without the input, so that requests can borrow that while they run.
pub(crate) struct Work {
    pub(crate) lanes: Lanes,
    pub(crate) reply: Reply,
    pub(crate) turn: Turn,
    /// Turns so far.
    pub(crate) turns: u64,
    /// A copy of the live settings, refreshed by the tick.
    pub(crate) live: Live,
    live_generation: u64,
    expired_at_ms: u64,
    swept_at_ms: u64,
}

/// Where the thread leaves things for a connection.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) card: Arc<Card>,
    waker: RefCell<Option<Waker>>,
    wakes: RefCell<VecDeque<Wake>>,
    killed: Cell<bool>,
    deadline_ms: Cell<Option<u64>>,
    /// The connection is another node's.
    pub(crate) is_link: Cell<bool>,
    /// Other nodes owe it answers.
    pub(crate) is_owed: Cell<bool>,
    /// Since when more is unsent than the soft limit allows.
    pub(crate) over_soft_limit_since_ms: Cell<Option<u64>>,
}

impl Slot {
    pub(crate) fn new(card: Arc<Card>) -> Self {
        Self {
            card,
            waker: RefCell::new(None),
            wakes: RefCell::default(),
            killed: Cell::new(false),
            deadline_ms: Cell::new(None),
            is_link: Cell::new(false),
            is_owed: Cell::new(false),
            over_soft_limit_since_ms: Cell::new(None),
        }
    }

    /// From now on `waker` is told when something is left here.
    #[inline]
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    #[inline]
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// The connection ends at its next turn, which is soon.
    pub(crate) fn kill(&self) {
        self.killed.set(true);
        self.wake();
    }

    pub(crate) fn take_wake(&self) -> Option<Wake> {
        self.wakes.borrow_mut().pop_front()
    }

    pub(crate) fn has_wakes(&self) -> bool {
        !self.wakes.borrow().is_empty()
    }

    /// Whether something that is parked is to be told that its time is up.
    pub(crate) fn is_late(&self, now_ms: u64) -> bool {
        self.deadline_ms.get().is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// Whether its peer has been silent for too long: for a client `idle_ms`, unless it waits for an answer.
    fn is_idle(&self, now_ms: u64, idle_ms: u64) -> bool {
        let silent_ms = now_ms.saturating_sub(self.card.active_at_ms());
        if self.is_link.get() {
            // Another node gives signs of life, whatever it waits for.
            return silent_ms >= SILENCE_MAX.as_millis() as u64;
        }
        silent_ms >= idle_ms && !self.card.is_parked() && !self.is_owed.get()
    }

    fn leave(&self, wake: Wake) {
        self.wakes.borrow_mut().push_back(wake);
        self.wake();
    }

    /// The connection has its turn soon.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Runs something with the waker that the connection last listened with.
    pub(crate) fn with_waker<R>(&self, run: impl FnOnce(&Waker) -> R) -> R {
        run(self.waker.borrow().as_ref().unwrap_or(Waker::noop()))
    }
}

impl Thread {
    fn new(id: u16, node: Arc<Node>) -> Self {
        let turn = node.turn();
        let work = Work {
            lanes: lanes(&node.config),
            reply: Reply::new(RespVersion::V2),
            turn,
            turns: 0,
            live: node.live.live(),
            live_generation: u64::MAX,
            expired_at_ms: 0,
            swept_at_ms: 0,
        };
        let mut desk = Desk { input: vec![0; INPUT_BYTES].into_boxed_slice(), batch: Batch::default(), work };
        desk.work.take_live(&node.live);
        let changes_client = (0..commands_total() as u16).map(|index| {
            let name = name_by_index(index).unwrap_or_default();
            matches!(&*name, "hello" | "reset" | "auth" | "select" | "cluster|link") || name.starts_with("client|")
        });
        Self {
            id,
            host: NodeHost::new(Arc::clone(&node), Some(id)),
            links: Links::new(
                node.member.as_ref().map_or(0, |member| member.topology().all().len()),
                node.config.peer_timeout,
            ),
            desk: RefCell::new(desk),
            slots: RefCell::default(),
            deadlines: RefCell::default(),
            draining: Cell::new(false),
            is_behind: Cell::new(false),
            changes_client: changes_client.collect(),
            node,
        }
    }

    /// The thread's desk. Who executes commands begins a turn first.
    #[inline]
    pub(crate) fn desk(&self) -> RefMut<'_, Desk> {
        self.desk.borrow_mut()
    }

    #[inline]
    pub(crate) fn stats(&self) -> &ThreadStats {
        &self.shown().stats
    }

    pub(crate) fn peer(&self, place: usize) -> &PeerCounters {
        &self.shown().peers[place]
    }

    #[inline]
    pub(crate) fn changes_client(&self, index: u16) -> bool {
        self.changes_client[usize::from(index)]
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    fn shown(&self) -> &ThreadDesk {
        &self.node.threads[usize::from(self.id)]
    }

    /// A command of this connection is parked until `deadline_ms` at the latest.
    pub(crate) fn park(&self, slot: &Slot, deadline_ms: u64) {
        let before = slot.deadline_ms.replace(Some(deadline_ms));
        if before == Some(deadline_ms) {
            return;
        }
        let mut deadlines = self.deadlines.borrow_mut();
        match before {
            Some(before) => {
                deadlines.remove(&(before, slot.card.id));
            }
            None => {
                slot.card.note_parked(true);
                self.node.note_parked();
            }
        }
        deadlines.insert((deadline_ms, slot.card.id));
    }

    /// The command is parked no more.
    pub(crate) fn unpark(&self, slot: &Slot) {
        if let Some(deadline_ms) = slot.deadline_ms.take() {
            self.deadlines.borrow_mut().remove(&(deadline_ms, slot.card.id));
            slot.card.note_parked(false);
            self.node.note_unparked();
        }
    }

    /// Does what the keyspace asked for: starts loads, delivers wakes. Called with no lock held.
    #[inline]
    pub(crate) fn settle(self: &Rc<Self>, turn: &mut Turn) {
        if !turn.effects.loads.is_empty() || !turn.effects.wakes.is_empty() {
            self.settle_effects(turn);
        }
        if !turn.effects.flushed.is_empty() {
            self.node.freeing.free(std::mem::take(&mut turn.effects.flushed));
        }
        if self.node.keyspace.has_recalls() {
            hot::send_recalls(self);
        }
    }

    #[cold]
    fn settle_effects(&self, turn: &mut Turn) {
        loop {
            // A load that is refused wakes its waiters; a lease nobody takes wakes the next.
            finish_effects(&self.node.keyspace, &self.host, turn);
            if turn.effects.wakes.is_empty() {
                return;
            }
            let wakes = std::mem::take(&mut turn.effects.wakes);
            let (own, others): (Vec<_>, Vec<_>) = wakes.into_iter().partition(|wake| wake.waiter.thread == self.id);
            self.node.post_wakes(others);
            for wake in own {
                if let Some(event) = self.deliver(wake) {
                    give_back(&self.node.keyspace, turn, event);
                }
            }
        }
    }

    /// Leaves a wake for its connection; gives the event back if that is gone, or waits no more: it would keep the value until
    /// it parks again.
    fn deliver(&self, wake: Wake) -> Option<WakeEvent> {
        match self.slots.borrow().get(&wake.waiter.connection).filter(|slot| slot.deadline_ms.get().is_some()) {
            Some(slot) => {
                slot.leave(wake);
                None
            }
            None => Some(wake.event),
        }
    }

    /// The connection has ended.
    pub(crate) fn remove(&self, slot: &Slot) {
        self.slots.borrow_mut().remove(&slot.card.id);
        self.shown().cards.remove(slot.card.id);
        // Relaxed: see `Node::connections`.
        self.shown().connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Closes a connection whose unsent replies went over a limit.
    pub(crate) fn close_for_output(&self, slot: &Slot) {
        if !slot.is_killed() {
            self.stats().output_limit_closes.add(1);
            tracing::warn!(
                client = slot.card.id,
                bytes = slot.card.output_bytes(),
                "closed: unsent replies over client-output-buffer-limit"
            );
            slot.kill();
        }
    }

    fn accept(self: &Rc<Self>, stream: std::net::TcpStream, peer: SocketAddr, id: u64, protocol: Protocol) {
        let now_ms = self.node.clock.now_ms();
        let fd = stream.as_raw_fd();
        let opened = stream.local_addr().and_then(|local| Ok((local, tokio::net::TcpStream::from_std(stream)?)));
        let (local, stream) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%peer, %error, "cannot serve a connection");
                self.shown().connections.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        };
        let card = Arc::new(Card::new(id, fd, peer, local, protocol, now_ms));
        let slot = Rc::new(Slot::new(Arc::clone(&card)));
        self.slots.borrow_mut().insert(id, Rc::clone(&slot));
        self.shown().cards.add(card);
        self.stats().connections_received.add(1);
        let mut client = Client::new(id, self.id, peer, local, now_ms);
        // As in Redis: who connects while there is no password stays in when one is set. Asked of the configuration
        // itself: the copy of this turn may be older than a password that a client has just set.
        client.authenticated = match protocol {
            Protocol::Resp | Protocol::Link => self.node.live.live().password.is_empty(),
            Protocol::Memcached => self.node.config.memcached_users.is_empty(),
        };
        if self.node.member.is_some() {
            // Clients of memcached cannot be told where a key is.
            client.routing = match protocol {
                Protocol::Memcached => Routing::Forward,
                Protocol::Resp | Protocol::Link => self.node.config.routing,
            };
        }
        let connection = Connection::new(Rc::clone(self), stream, slot, client, protocol);
        tokio::task::spawn_local(connection::serve(connection));
    }

    /// Serves what others leave here, until told to stop.
    async fn serve(self: Rc<Self>) {
        let node = Arc::clone(&self.node);
        let mailbox: &Mailbox = &node.threads[usize::from(self.id)].mailbox;
        loop {
            if self.is_behind.get() {
                tokio::task::yield_now().await;
                self.catch_up();
            } else {
                mailbox.rung().await;
            }
            while let Some(message) = mailbox.take() {
                match message {
                    Message::Accepted { stream, peer, id, protocol } => self.accept(stream, peer, id, protocol),
                    Message::Wake(wake) => {
                        if let Some(event) = self.deliver(wake) {
                            let mut turn = node.turn();
                            give_back(&node.keyspace, &mut turn, event);
                            self.settle(&mut turn);
                        }
                    }
                    Message::Kill { connection } => {
                        if let Some(slot) = self.slots.borrow().get(&connection) {
                            slot.kill();
                        }
                    }
                    Message::Drain => {
                        self.draining.set(true);
                        self.slots.borrow().values().for_each(|slot| slot.wake());
                    }
                    Message::Stop => return,
                }
            }
            if mailbox.take_tick() {
                self.tick();
            }
        }
    }

    fn tick(self: &Rc<Self>) {
        let mut desk = self.desk();
        desk.work.begin_turn(self);
        let Work { turn, .. } = &mut desk.work;
        turn.wall_offset_ms = self.node.clock.wall_offset_ms();
        let now_ms = turn.now_ms;
        self.tell_the_late(now_ms);
        self.links.tick(self, now_ms);
        if self.id == 0 {
            self.node.flush_if_due(turn);
        }
        let shards = self.own_shards();
        self.node.keyspace.sweep_leases(turn, shards.clone());
        self.node.keyspace.adapt_window_if_due(turn);
        if desk.work.expired_at_ms + EXPIRE_EVERY_MS <= now_ms {
            desk.work.expired_at_ms = now_ms;
            self.expire(&mut desk);
        }
        self.settle(&mut desk.work.turn);
        desk.work.take_live(&self.node.live);
        self.host.forget_old_loaders();
        if desk.work.swept_at_ms + SWEEP_CONNECTIONS_EVERY_MS <= now_ms {
            desk.work.swept_at_ms = now_ms;
            self.sweep_connections(now_ms, &desk.work.live);
            if self.id == 0 {
                hot::sweep(self, now_ms);
            }
        }
    }

    /// One cycle of expiry, and of eviction while the limit is passed.
    fn expire(&self, desk: &mut Desk) {
        let cycle = self.node.keyspace.expire_cycle(&mut desk.work.turn, self.own_shards(), EXPIRE_STEPS_MAX);
        self.is_behind.set(cycle.is_behind);
    }

    /// The next cycle of a thread that is behind.
    fn catch_up(self: &Rc<Self>) {
        let mut desk = self.desk();
        desk.work.begin_turn(self);
        self.expire(&mut desk);
        self.settle(&mut desk.work.turn);
    }

    /// Wakes the connections whose parked commands have waited long enough.
    fn tell_the_late(&self, now_ms: u64) {
        let slots = self.slots.borrow();
        for (_, id) in self.deadlines.borrow().range(..=(now_ms, u64::MAX)) {
            if let Some(slot) = slots.get(id) {
                slot.wake();
            }
        }
    }

    fn sweep_connections(&self, now_ms: u64, live: &Live) {
        let soft_ms = live.output_soft_time.as_millis() as u64;
        let idle_ms = live.idle_timeout.map_or(u64::MAX, |timeout| timeout.as_millis() as u64);
        for slot in self.slots.borrow().values() {
            if slot.over_soft_limit_since_ms.get().is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= soft_ms) {
                self.close_for_output(slot);
            } else if slot.is_idle(now_ms, idle_ms) {
                self.stats().idle_closes.add(1);
                slot.kill();
            }
        }
    }

    /// The shards whose clockwork this thread turns.
    fn own_shards(&self) -> std::ops::Range<usize> {
        let (shards, threads, id) = (self.node.keyspace.shards(), self.node.threads.len(), usize::from(self.id));
        shards * id / threads..shards * (id + 1) / threads
    }
}

impl Work {
    /// From now on it is the time it is now.
    #[inline]
    pub(crate) fn begin_turn(&mut self, thread: &Thread) {
        self.turn.now_ms = thread.node.clock.now_ms();
        self.turn.near_end_ms = self.turn.now_ms.saturating_add(thread.node.loaders.early_ms_max()).saturating_add(1);
    }

    fn take_live(&mut self, live: &LiveConfig) {
        let generation = live.generation();
        if generation == self.live_generation {
            return;
        }
        self.live_generation = generation;
        self.live = live.live();
        self.lanes.resp.password_required = !self.live.password.is_empty();
        let reply_bytes_max = Some(self.live.output_bytes_hard_max).filter(|bytes| *bytes > 0).unwrap_or(u64::MAX);
        self.reply.set_bytes_max(usize::try_from(reply_bytes_max).unwrap_or(usize::MAX));
    }
}

/// What the connections of each protocol are executed with.
fn lanes(config: &Config) -> Lanes {
    let limits = config.memcached_limits();
    Lanes {
        resp: Lane {
            stage: Stage::new(),
            limits: config.limits,
            limits_unauthenticated: config.limits.unauthenticated(),
            password_required: false,
        },
        memcached: Lane {
            stage: Stage::new(),
            limits,
            limits_unauthenticated: limits.unauthenticated(),
            password_required: !config.memcached_users.is_empty(),
        },
    }
}

/// Runs reactor thread `id` until it is told to stop.
///
/// # Errors
/// If the runtime cannot be made: no more file descriptors.
pub(crate) fn run(node: &Arc<Node>, id: u16) -> std::io::Result<()> {
    let _vital = Vital("reactor");
    if node.config.pin_threads {
        pin(id);
    }
    // No timer driver: ticks come by mailbox, so a wait costs no timer in user space or in the kernel.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let thread = Rc::new(Thread::new(id, Arc::clone(node)));
    runtime.block_on(async {
        tokio::task::spawn_local(batch::serve(Rc::clone(&thread)));
        Rc::clone(&thread).serve().await;
    });
    // Dropping the runtime drops the connections, and those leave their queues.
    thread.desk().batch.clear();
    drop(runtime);
    Ok(())
}

/// Keeps the calling thread on the CPU that is its turn among those the process may use.
fn pin(id: u16) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let core = cores.get(usize::from(id) % cores.len().max(1));
    if !core.is_some_and(|core| core_affinity::set_for_current(*core)) {
        tracing::warn!(thread = id, "cannot pin a thread; it runs where the system puts it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_not_idle_and_a_link_is_closed_when_it_is_silent() {
        let address = ([127, 0, 0, 1], 1).into();
        let slot = Slot::new(Arc::new(Card::new(1, 0, address, address, Protocol::Resp, 1_000)));
        assert!(!slot.is_idle(1_999, 1_000) && slot.is_idle(2_000, 1_000));
        slot.is_owed.set(true);
        assert!(!slot.is_idle(1_000_000, 1_000));
        slot.is_link.set(true);
        assert!(!slot.is_idle(60_999, 1_000), "the timeout of clients is not that of nodes");
        assert!(slot.is_idle(61_000, u64::MAX));
        slot.card.touch(50_000);
        assert!(!slot.is_idle(61_000, u64::MAX));
    }
}
