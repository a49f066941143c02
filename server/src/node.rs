//! What all threads of the process share.

use crate::audit::Auditor;
use crate::behind::Behind;
use crate::clients::Cards;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::live::{Changed, LiveConfig};
use crate::feed::Feeds;
use crate::freeing::Freeing;
use crate::load::Loaders;
use crate::log::LogControl;
use crate::mailbox::{Mailbox, Message};
use crate::peer::hot::Hot;
use crate::peer::watch::Watch;
use crate::reload::Reloader;
use crate::stats::{PeerCounters, Rate, ThreadStats, Totals};
use leasehold_cluster::{Fault, Member};
use leasehold_command::{ClientFilter, View};
use leasehold_keyspace::{Keyspace, Turn, Wake};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use tokio::sync::Notify;

/// See the module.
pub(crate) struct Node {
    pub(crate) clock: Clock,
    pub(crate) keyspace: Keyspace,
    /// As it was at start.
    pub(crate) config: Config,
    /// As it is now, where `CONFIG SET` may change it.
    pub(crate) live: LiveConfig,
    /// The nodes, and which of them this process is; `None`: it is alone.
    pub(crate) member: Option<Member>,
    /// The other nodes as they are; `None` where there is none.
    pub(crate) watch: Option<Watch>,
    /// Of hot keys; `None` where there is no other node, or `hot-key-rate` is 0.
    pub(crate) hot: Option<Hot>,
    pub(crate) loaders: Loaders,
    pub(crate) feeds: Feeds,
    /// `None` without `[auditor]`.
    pub(crate) auditor: Option<Auditor>,
    /// Set once at start if there is a journal.
    pub(crate) behind: OnceLock<Behind>,
    /// One per reactor thread; `Waiter::thread` is the index.
    pub(crate) threads: Box<[ThreadDesk]>,
    /// 40 hexadecimal digits that are new with every start.
    pub(crate) run_id: String,
    /// Port that clients connect to.
    pub(crate) port: u16,
    /// Where loaders run; set with the first loader.
    pub(crate) loader_runtime: OnceLock<tokio::runtime::Handle>,
    /// Set once at start: what reads the configuration again.
    pub(crate) reload: OnceLock<Reloader>,
    pub(crate) log: LogControl,
    pub(crate) freeing: Freeing,
    /// Rung when the first command parks, so that ticks come often from now on.
    pub(crate) pace: Notify,
    /// Server time at which all is flushed, as a memcached client has asked; `u64::MAX`: at none.
    pub(crate) flush_at_ms: AtomicU64,
    /// Commands parked now, on all threads.
    parked: AtomicUsize,
    /// Links to other nodes, on all threads, over which nothing has come for a while although something is waited for.
    awaited: AtomicUsize,
    clients_made: AtomicU64,
    connections_rejected: AtomicU64,
    seeds: AtomicU64,
    rates: Mutex<Rates>,
    /// The totals at the last `CONFIG RESETSTAT`.
    totals_before: Mutex<Totals>,
}

/// What one reactor thread shows to the others.
#[derive(Debug)]
pub(crate) struct ThreadDesk {
    pub(crate) mailbox: Mailbox,
    pub(crate) stats: ThreadStats,
    pub(crate) cards: Cards,
    /// Connections given to this thread and not closed yet.
    pub(crate) connections: AtomicUsize,
    /// By the place of the node; none where there is but one.
    pub(crate) peers: Box<[PeerCounters]>,
}

/// `instantaneous_…` of INFO.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) commands: Rate,
    pub(crate) bytes_in: Rate,
    pub(crate) bytes_out: Rate,
}

impl Node {
    pub(crate) fn new(
        config: Config,
        live: LiveConfig,
        loaders: Loaders,
        loader_runtime: Option<tokio::runtime::Handle>,
        log: LogControl,
        port: u16,
    ) -> Self {
        let clock = Clock::start();
        let seed = crate::config::random_hash_seed();
        let keyspace = Keyspace::new(config.keyspace_settings(clock.boot_unix_ms()), seed);
        keyspace.set_objective(config.live.objective);
        keyspace.set_tag_bytes_max(config.tag_memory_bytes);
        keyspace.set_prefix_delimiter(config.live.prefix_delimiter);
        keyspace.set_whatif(config.live.whatif);
        let table = loaders.table();
        if !table.is_empty() {
            keyspace.attribute_to_loaders(table.loader_of());
        }
        let run = crate::config::random_hash_seed().0;
        let member = config.member();
        let nodes = member.as_ref().map_or(0, |member| member.topology().all().len());
        let watch = member
            .as_ref()
            .filter(|_| nodes > 1)
            .map(|member| Watch::new(member, config.peer_rules(), run[1], clock.now_ms()));
        let hot = watch.as_ref().and_then(|_| Hot::new(&config));
        let threads = (0..config.threads).map(|_| ThreadDesk {
            mailbox: Mailbox::default(),
            stats: ThreadStats::new(),
            cards: Cards::default(),
            connections: AtomicUsize::new(0),
            peers: (0..nodes).map(|_| PeerCounters::default()).collect(),
        });
        Self {
            threads: threads.collect(),
            run_id: format!("{:016x}{:016x}{:08x}", run[0], run[1], run[2] >> 32),
            keyspace,
            feeds: Feeds::new(&config),
            auditor: Auditor::new(&config, clock.now_ms()),
            clock,
            behind: OnceLock::new(),
            member,
            watch,
            hot,
            config,
            live,
            loaders,
            loader_runtime: loader_runtime.map(OnceLock::from).unwrap_or_default(),
            reload: OnceLock::new(),
            log,
            freeing: Freeing::start(),
            port,
            pace: Notify::new(),
            flush_at_ms: AtomicU64::new(u64::MAX),
            parked: AtomicUsize::new(0),
            awaited: AtomicUsize::new(0),
            clients_made: AtomicU64::new(0),
            connections_rejected: AtomicU64::new(0),
            seeds: AtomicU64::new(run[3]),
            rates: Mutex::default(),
            totals_before: Mutex::default(),
        }
    }

    /// Whether a key is this node's.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        self.member.as_ref().is_none_or(|member| member.owns_key(key))
    }

    /// A request to another node has failed, or its connection has.
    #[cold]
    pub(crate) fn note_failed(&self, place: usize, fault: Fault, reason: &str, now_ms: u64) {
        if let Some(watch) = &self.watch
            && let Some(place) = watch.peers.topology().place(place)
        {
            watch.failed(place, fault, reason, now_ms);
        }
    }

    /// Whether another node has answered since it last failed. This node's own failures, as its own stand-in, are not noted.
    #[cold]
    pub(crate) fn is_well(&self, place: usize) -> bool {
        let Some(watch) = &self.watch else { return false };
        let place = watch.peers.topology().place(place);
        place.is_some_and(|place| place != watch.peers.own() && watch.peers.is_well(place))
    }

    /// Another node has answered a request.
    #[inline]
    pub(crate) fn note_answered(&self, place: usize) {
        if let Some(watch) = &self.watch
            && let Some(place) = watch.peers.topology().place(place)
        {
            watch.peers.answered(place);
        }
    }

    /// Another node has answered a request that may have changed something.
    #[inline]
    pub(crate) fn note_changed(&self, place: usize) {
        if let Some(watch) = &self.watch
            && !watch.peers.are_well()
            && let Some(place) = watch.peers.topology().place(place)
        {
            watch.peers.changed(place, self.clock.now_ms());
        }
    }

    /// How long what is loaded of a key lives at most that is another node's; `None`: it is this node's.
    pub(crate) fn life_for_another_ms(&self, key: &[u8]) -> Option<u64> {
        (!self.owns(key)).then_some(self.config.gutter_ttl.as_millis() as u64)
    }

    /// A turn that starts now, with a random stream of its own.
    pub(crate) fn turn(&self) -> Turn {
        // An odd step visits every u64 before it repeats (Weyl sequence).
        let seed = self.seeds.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut turn = Turn::new(self.clock.now_ms(), seed);
        turn.wall_offset_ms = self.clock.wall_offset_ms();
        turn
    }

    /// Flushes if that is due. Relaxed: one thread calls this, and a client that asks anew meanwhile may have it a tick later.
    pub(crate) fn flush_if_due(&self, turn: &mut Turn) {
        let at_ms = self.flush_at_ms.load(Ordering::Relaxed);
        if at_ms <= turn.now_ms
            && self.flush_at_ms.compare_exchange(at_ms, u64::MAX, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.keyspace.flush(turn, None);
        }
    }

    /// Open connections of all threads.
    pub(crate) fn connections(&self) -> usize {
        // Relaxed: a number to compare with a limit; the acceptor is the only one that raises it.
        self.threads.iter().map(|desk| desk.connections.load(Ordering::Relaxed)).sum()
    }

    /// The thread with the fewest connections.
    pub(crate) fn least_loaded(&self) -> &ThreadDesk {
        self.threads
            .iter()
            .min_by_key(|desk| desk.connections.load(Ordering::Relaxed))
            .expect("there is at least one thread")
    }

    pub(crate) fn next_client_id(&self) -> u64 {
        self.clients_made.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn count_rejected_connection(&self) {
        self.connections_rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Commands parked now.
    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    pub(crate) fn note_parked(&self) {
        if self.parked.fetch_add(1, Ordering::Relaxed) == 0 {
            self.pace.notify_one();
        }
    }

    pub(crate) fn note_unparked(&self) {
        self.parked.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether ticks are to come often.
    pub(crate) fn is_waiting(&self) -> bool {
        self.parked() > 0 || self.awaited.load(Ordering::Relaxed) > 0
    }

    /// A link has heard nothing for a while.
    pub(crate) fn note_awaited(&self) {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        self.pace.notify_one();
    }

    /// It has, or waits no more.
    pub(crate) fn note_heard(&self) {
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }

    /// The loaders with what is theirs of hits and memory: estimates.
    pub(crate) fn loader_views(&self) -> Vec<View> {
        let mut views = self.loaders.table().views();
        if views.is_empty() {
            return Vec::new();
        }
        let shares = self.keyspace.shares(&mut self.turn()).loaders;
        for (number, view) in &mut views {
            let share = shares.get(*number as usize).copied().unwrap_or_default();
            let fields =
                [("hits", share.hits), ("misses", share.misses), ("entries", share.entries), ("bytes", share.bytes)];
            view.counters.extend(fields.map(|(name, value)| (name, i64::try_from(value).unwrap_or(i64::MAX))));
            if let Some(behind) = self.behind.get() {
                view.counters.extend(behind.counters(*number));
                if let Some(trouble) = behind.trouble(*number) {
                    view.settings.push(("behind_trouble", trouble));
                }
            }
        }
        views.into_iter().map(|(_, view)| view).collect()
    }

    /// Does what changed settings ask for beyond the threads' own copies of them.
    pub(crate) fn heed(&self, Changed { live, .. }: &Changed) {
        self.keyspace.set_memory_bytes_max(live.memory_bytes_max);
        self.keyspace.set_policy(live.policy);
        self.keyspace.set_objective(live.objective);
        self.keyspace.set_absence_bytes_max(live.absence_bytes_max());
        self.keyspace.set_prefix_delimiter(live.prefix_delimiter);
        self.keyspace.set_whatif(live.whatif);
        self.keyspace.set_lease_settings(live.lease);
        self.log.set_level(live.log_level);
    }

    /// Hands a wake to the thread of its connection.
    pub(crate) fn post_wake(&self, wake: Wake) {
        if let Some(desk) = self.threads.get(usize::from(wake.waiter.thread)) {
            desk.mailbox.post(Message::Wake(wake));
        }
    }

    /// Hands many wakes to the threads of their connections, each thread woken once.
    pub(crate) fn post_wakes(&self, wakes: Vec<Wake>) {
        match wakes.len() {
            0 => {}
            1 => wakes.into_iter().for_each(|wake| self.post_wake(wake)),
            _ => {
                let mut by_thread: Vec<Vec<Message>> = self.threads.iter().map(|_| Vec::new()).collect();
                for wake in wakes {
                    if let Some(messages) = by_thread.get_mut(usize::from(wake.waiter.thread)) {
                        messages.push(Message::Wake(wake));
                    }
                }
                for (desk, messages) in self.threads.iter().zip(by_thread) {
                    if !messages.is_empty() {
                        desk.mailbox.post_all(messages.into_iter());
                    }
                }
            }
        }
    }

    /// See `Host::kill_clients`.
    pub(crate) fn kill_clients(&self, filter: &ClientFilter, caller: u64) -> usize {
        let now_ms = self.clock.now_ms();
        let mut killed = 0;
        for desk in &self.threads {
            for connection in desk.cards.matching(filter, now_ms) {
                if connection != caller {
                    desk.mailbox.post(Message::Kill { connection });
                } else if filter.skip_caller {
                    continue;
                }
                killed += 1;
            }
        }
        killed
    }

    /// Sums since start or the last `CONFIG RESETSTAT`.
    pub(crate) fn totals(&self) -> Totals {
        self.totals_since_start().since(&self.totals_before.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn reset_totals(&self) {
        *self.totals_before.lock().unwrap_or_else(PoisonError::into_inner) = self.totals_since_start();
    }

    fn totals_since_start(&self) -> Totals {
        let mut totals = Totals::of(self.threads.iter().map(|desk| &desk.stats));
        self.threads.iter().for_each(|desk| totals.add_peers(&desk.peers));
        totals.connections_rejected = self.connections_rejected.load(Ordering::Relaxed);
        totals
    }

    /// Takes a sample of the rates; about every 100 ms.
    pub(crate) fn sample_rates(&self) {
        let now_ms = self.clock.now_ms();
        let sum = |of: fn(&ThreadStats) -> u64| self.threads.iter().map(|desk| of(&desk.stats)).sum();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.commands.sample(sum(|stats| stats.commands_total.value()), now_ms);
        rates.bytes_in.sample(sum(|stats| stats.bytes_in.value()), now_ms);
        rates.bytes_out.sample(sum(|stats| stats.bytes_out.value()), now_ms);
    }

    pub(crate) fn rates(&self) -> Rates {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
