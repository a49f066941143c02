//! A node in simulated time: the real parser, commands and keyspace, with a clock that the test moves.
//!
//! It takes the place of the binary's reactor, which is the only part it leaves out: bytes come from the test instead of
//! a socket, and loaders answer from a script, as late as the script says. Single-threaded, so a run is its seed.

use crate::transcript::{Answer, Row};
use leasehold_command::{
    Client, ClientFilter, ClientRow, Context, Host, LoaderOrder, LoaderPolicy, NO_LOADER_NAMED, Outcome, Parked,
    RefreshRule, RefreshWhen, ReplyError, ReplyMode, ServeStale, View, execute, finish_effects,
};
use leasehold_keyspace::{
    Db, EvictionPolicy, Expiry, Failure, Fill, HashSeed, Keyspace, LeaseSettings, Load, Release, Settings, Turn,
    Waiter, Wake, WakeEvent,
};
use leasehold_protocol::{Limits, Parsed, Parser, Reply, RespVersion};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

/// Server time at the start of every simulation, in ms: 2023-11-14.
pub const START_MS: u64 = 1_700_000_000_000;

/// How often a reactor thread sweeps leases, in ms; see `Keyspace::sweep_leases`.
const SWEEP_EVERY_MS: u64 = 10;
/// How often a reactor thread removes expired entries, in ms; see `Keyspace::expire_cycle`.
const EXPIRE_EVERY_MS: u64 = 100;
const EXPIRE_STEPS_MAX: usize = 1000;

/// A node, its clients and its source.
pub struct Simulator {
    keyspace: Keyspace,
    world: ScriptedWorld,
    turn: Turn,
    connections: Vec<Connection>,
}

/// Names a connection of the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(usize);

struct Connection {
    client: Client,
    reply: Reply,
    parser: Parser,
    input: Vec<u8>,
    parked: Option<Box<Parked>>,
    open: bool,
}

/// A loader of the simulated node: one per key prefix.
#[derive(Clone, Debug)]
pub struct ScriptedLoader {
    /// Its keys are `name:…`.
    pub name: String,
    /// What readers are told.
    pub policy: LoaderPolicy,
    /// Fresh life of a value, in ms.
    pub ttl_ms: u64,
    /// Life of a remembered absence, in ms.
    pub negative_ttl_ms: u64,
    /// Stale window, in ms.
    pub stale_for_ms: u64,
    /// How long a failure is remembered, in ms.
    pub error_ttl_ms: u64,
    /// Whether values are loaded anew before they expire.
    pub refresh: ScriptedRefresh,
    /// Share of the TTL.
    pub refresh_at: f64,
    /// Whether it starts no loads.
    pub paused: Cell<bool>,
}

/// `refresh` of a scripted loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptedRefresh {
    /// Values expire.
    Off,
    /// At the first access past the share.
    Ahead,
    /// By chance.
    XFetch,
}

/// The world outside of a simulated node.
struct ScriptedWorld {
    loaders: Vec<ScriptedLoader>,
    answers: RefCell<HashMap<Vec<u8>, Answer>>,
    /// Asked for, per key.
    loads: RefCell<HashMap<Vec<u8>, u64>>,
    under_way: RefCell<Vec<UnderWay>>,
    now_ms: Cell<u64>,
    databases: u8,
    password: Option<Vec<u8>>,
}

/// A load and what it will bring.
struct UnderWay {
    ready_at_ms: u64,
    /// When those who wait hear that it takes too long; `None` once they have.
    overdue_at_ms: Option<u64>,
    row: Row,
    purpose: Purpose,
}

enum Purpose {
    Fill(Load),
    Test { key: Vec<u8>, waiter: Waiter },
}

impl Simulator {
    /// A node with `shards` shards, these options (names as in conf) and these loaders.
    ///
    /// # Errors
    /// An option that has no meaning here.
    pub fn new(shards: usize, options: &[(String, String)], loaders: Vec<ScriptedLoader>) -> Result<Self, String> {
        let mut settings = Settings {
            shards,
            memory_bytes_max: 0,
            policy: EvictionPolicy::AllKeysLru,
            absence_bytes_max: 16 << 20,
            boot_unix_ms: START_MS,
            lease: LeaseSettings {
                lease_ms: 10_000,
                lease_ms_max: 600_000,
                reissue_after_ms: None,
                waiters_per_key_max: 10_000,
                waiters_max: 100_000,
                records_max: 1_000_000,
                tombstone_ttl_ms: 60_000,
                invalidated_stale_ms: 10_000,
            },
        };
        let mut world = ScriptedWorld {
            loaders,
            answers: RefCell::default(),
            loads: RefCell::default(),
            under_way: RefCell::default(),
            now_ms: Cell::new(START_MS),
            databases: 16,
            password: None,
        };
        for (name, value) in options {
            set_option(&mut settings, &mut world, name, value)?;
        }
        let mut simulator = Self {
            keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])),
            world,
            turn: Turn::new(START_MS, 0x5eed),
            connections: Vec::new(),
        };
        simulator.turn.near_end_ms = simulator.near_end_ms();
        Ok(simulator)
    }

    /// Values that end before this time may be due for a refresh.
    fn near_end_ms(&self) -> u64 {
        let early_ms = |loader: &ScriptedLoader| match loader.refresh {
            ScriptedRefresh::Off => 0,
            ScriptedRefresh::Ahead | ScriptedRefresh::XFetch => loader.ttl_ms,
        };
        self.turn.now_ms + self.world.loaders.iter().map(early_ms).max().unwrap_or(0) + 1
    }

    /// A new connection; RESP2 until it says HELLO 3.
    pub fn connect(&mut self) -> ConnectionId {
        let index = self.connections.len();
        let id = index as u64 + 1;
        let peer = ([127, 0, 0, 1], 50_000 + index as u16).into();
        let mut client = Client::new(id, 0, peer, ([127, 0, 0, 1], 6379).into(), self.turn.now_ms);
        client.authenticated = self.world.password.is_none();
        self.connections.push(Connection {
            client,
            reply: Reply::new(RespVersion::V2),
            parser: Parser::new(),
            input: Vec::new(),
            parked: None,
            open: true,
        });
        ConnectionId(index)
    }

    /// Bytes arrive from a client.
    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.connections[id.0].input.extend_from_slice(bytes);
        self.run(id.0);
        self.settle();
    }

    /// Takes all reply bytes written for a client since the last call.
    pub fn take_output(&mut self, id: ConnectionId) -> Vec<u8> {
        std::mem::take(self.connections[id.0].reply.buffer_mut())
    }

    /// Whether the server has not closed the connection.
    #[must_use]
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connections[id.0].open
    }

    /// The client hangs up.
    pub fn close(&mut self, id: ConnectionId) {
        self.end(id.0);
        self.settle();
    }

    /// From now on a load of `key` brings this.
    pub fn answer(&mut self, key: &str, answer: Answer) {
        self.world.answers.borrow_mut().insert(key.as_bytes().to_vec(), answer);
    }

    /// How often `key` was loaded.
    #[must_use]
    pub fn loads(&self, key: &str) -> u64 {
        self.world.loads.borrow().get(key.as_bytes()).copied().unwrap_or_default()
    }

    /// Time passes, one millisecond at a time, with all that falls due in it. Long times pass in larger steps.
    pub fn advance(&mut self, ms: u64) {
        let step = if ms > 60_000 { SWEEP_EVERY_MS } else { 1 };
        let end = self.turn.now_ms + ms;
        while self.turn.now_ms < end {
            self.turn.now_ms = (self.turn.now_ms + step).min(end);
            self.turn.near_end_ms = self.near_end_ms();
            self.world.now_ms.set(self.turn.now_ms);
            self.end_loads();
            let shards = 0..self.keyspace.shards();
            if self.turn.now_ms.is_multiple_of(SWEEP_EVERY_MS) {
                self.keyspace.sweep_leases(&mut self.turn, shards.clone());
            }
            if self.turn.now_ms.is_multiple_of(EXPIRE_EVERY_MS) {
                self.keyspace.expire_cycle(&mut self.turn, shards, EXPIRE_STEPS_MAX);
            }
            self.settle();
            self.time_out();
        }
    }

    /// Executes what a connection has sent, up to a command that parks.
    fn run(&mut self, index: usize) {
        let Self { keyspace, world, turn, connections } = self;
        let connection = &mut connections[index];
        let mut limits = Limits::DEFAULT;
        while connection.open && connection.parked.is_none() {
            if !connection.client.authenticated {
                limits = limits.unauthenticated();
            }
            let consumed = match connection.parser.parse(&connection.input, &limits) {
                Ok(Parsed::Complete { consumed }) => consumed,
                Ok(Parsed::Incomplete) => return,
                Err(error) => {
                    connection.reply.error(&ReplyError::err(format!("Protocol error: {error}")));
                    connection.open = false;
                    return;
                }
            };
            let request = connection.parser.request(&connection.input);
            let start = connection.reply.len();
            connection.client.ticket = connection.client.ticket.wrapping_add(1);
            if connection.client.reply_mode == ReplyMode::SkipNext {
                connection.client.reply_mode = ReplyMode::Skip;
            }
            let mut context =
                Context { keyspace, host: world, client: &mut connection.client, reply: &mut connection.reply, turn };
            match execute(&mut context, request) {
                Outcome::Replied => finish_reply(connection, start),
                Outcome::Parked(parked) => connection.parked = Some(parked),
                Outcome::Forward(_) | Outcome::Split(_) | Outcome::Link(_) => {
                    unreachable!("the simulated node is alone")
                }
                Outcome::Close => {
                    finish_reply(connection, start);
                    connection.open = false;
                }
            }
            connection.input.drain(..consumed);
            limits = Limits::DEFAULT;
        }
    }

    /// Starts loads and delivers wakes until nothing is left to do.
    fn settle(&mut self) {
        self.turn.effects.flushed.clear();
        loop {
            finish_effects(&self.keyspace, &self.world, &mut self.turn);
            let wakes = std::mem::take(&mut self.turn.effects.wakes);
            if wakes.is_empty() {
                return;
            }
            for wake in wakes {
                self.wake(wake);
            }
        }
    }

    fn wake(&mut self, wake: Wake) {
        let index = self.connections.iter().position(|connection| {
            connection.client.id == wake.waiter.connection
                && connection.client.ticket == wake.waiter.ticket
                && connection.parked.is_some()
        });
        let Some(index) = index else {
            // Nobody waits any more; a lease among it goes to the next.
            if let WakeEvent::Lead { db, key, token, .. } = wake.event {
                self.keyspace.release(&mut self.turn, db, &key, token, Release::default());
            }
            return;
        };
        self.resume(index, |parked, context| parked.wake(context, wake.waiter.index, wake.event));
    }

    fn time_out(&mut self) {
        for index in 0..self.connections.len() {
            while self.connections[index].parked.as_ref().is_some_and(|parked| parked.deadline_ms <= self.turn.now_ms) {
                let before = self.connections[index].parked.as_ref().map(|parked| parked.deadline_ms);
                self.resume(index, |parked, context| parked.time_out(context));
                let after = self.connections[index].parked.as_ref().map(|parked| parked.deadline_ms);
                assert_ne!(before, after, "a parked command that waits on has a later deadline");
                self.settle();
            }
        }
    }

    /// Tells a parked command something; if that ends it, the connection goes on with what it has received since.
    fn resume(&mut self, index: usize, tell: impl FnOnce(&mut Parked, &mut Context<'_>) -> Option<Outcome>) {
        let Self { keyspace, world, turn, connections } = self;
        let connection = &mut connections[index];
        let Some(mut parked) = connection.parked.take() else { return };
        let start = connection.reply.len();
        let mut context =
            Context { keyspace, host: world, client: &mut connection.client, reply: &mut connection.reply, turn };
        match tell(&mut parked, &mut context) {
            None => connection.parked = Some(parked),
            Some(Outcome::Parked(next)) => connection.parked = Some(next),
            Some(outcome) => {
                finish_reply(connection, start);
                connection.open &= !matches!(outcome, Outcome::Close);
                self.run(index);
            }
        }
    }

    fn end(&mut self, index: usize) {
        let Self { keyspace, world, turn, connections } = self;
        let connection = &mut connections[index];
        connection.open = false;
        if let Some(mut parked) = connection.parked.take() {
            let mut context =
                Context { keyspace, host: world, client: &mut connection.client, reply: &mut connection.reply, turn };
            parked.abandon(&mut context);
        }
    }

    fn end_loads(&mut self) {
        let now_ms = self.turn.now_ms;
        self.tell_overdue();
        let due: Vec<UnderWay> =
            self.world.under_way.borrow_mut().extract_if(.., |load| load.ready_at_ms <= now_ms).collect();
        for UnderWay { row, purpose, .. } in due {
            match purpose {
                Purpose::Fill(load) => self.fill(&load, row),
                Purpose::Test { key, waiter } => {
                    let event = self.world.test_event(&key, row);
                    self.turn.effects.wakes.push(Wake { waiter, event });
                }
            }
        }
    }

    fn tell_overdue(&mut self) {
        let now_ms = self.turn.now_ms;
        for under_way in self.world.under_way.borrow_mut().iter_mut() {
            if let Purpose::Fill(load) = &under_way.purpose
                && under_way.ready_at_ms > now_ms
                && under_way.overdue_at_ms.take_if(|at_ms| *at_ms <= now_ms).is_some()
            {
                let loader = &self.world.loaders[load.loader as usize];
                self.keyspace.overdue(&mut self.turn, load.db, &load.key, load.token, loader.stale_life_ms());
            }
        }
    }

    fn fill(&mut self, load: &Load, row: Row) {
        let loader = &self.world.loaders[load.loader as usize];
        let fill = match &row {
            Row::Value(value) => Fill::Value {
                value: value.as_bytes(),
                expiry: Expiry::At(self.turn.now_ms + loader.ttl_ms),
                stale_for_ms: loader.stale_for_ms,
                version: None,
                client_flags: 0,
                tags: &[],
            },
            Row::Absent => Fill::Absent { ttl_ms: loader.negative_ttl_ms },
            Row::Failure(reason) => {
                let failure = Failure {
                    reason: loader.failure(reason),
                    stale_life_ms: loader.stale_life_ms(),
                    error_life_ms: loader.error_ttl_ms,
                };
                self.keyspace.fail_with(&mut self.turn, load.db, &load.key, load.token, &failure);
                return;
            }
        };
        self.keyspace.fill(&mut self.turn, load.db, &load.key, load.token, fill);
    }
}

/// New fresh life of a stale entry whose load failed, in ms; as the binary's.
const STALE_LIFE_MS: u64 = 1000;

fn finish_reply(connection: &mut Connection, start: usize) {
    match connection.client.reply_mode {
        ReplyMode::On => {}
        ReplyMode::Off | ReplyMode::SkipNext => connection.reply.truncate(start),
        ReplyMode::Skip => {
            connection.reply.truncate(start);
            connection.client.reply_mode = ReplyMode::On;
        }
    }
}

fn set_option(settings: &mut Settings, world: &mut ScriptedWorld, name: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u64>().map_err(|_| format!("{name} = {value}: a whole number is expected"));
    match name {
        "maxmemory" => settings.memory_bytes_max = number()?,
        "maxmemory-policy" => {
            settings.policy = match value {
                "noeviction" => EvictionPolicy::NoEviction,
                "allkeys-lru" => EvictionPolicy::AllKeysLru,
                "volatile-lru" => EvictionPolicy::VolatileLru,
                "allkeys-random" => EvictionPolicy::AllKeysRandom,
                "volatile-random" => EvictionPolicy::VolatileRandom,
                "volatile-ttl" => EvictionPolicy::VolatileTtl,
                _ => return Err(format!("no such policy: {value}")),
            }
        }
        "lease-ms" => settings.lease.lease_ms = number()?,
        "lease-ms-max" => settings.lease.lease_ms_max = number()?,
        "lease-reissue-after" => settings.lease.reissue_after_ms = Some(number()?),
        "lease-waiters-per-key-max" => {
            settings.lease.waiters_per_key_max = usize::try_from(number()?).map_err(|error| error.to_string())?;
        }
        "databases" => world.databases = u8::try_from(number()?).map_err(|error| error.to_string())?,
        "requirepass" => world.password = Some(value.as_bytes().to_vec()),
        _ => return Err(format!("the simulator knows no option `{name}`; write `only real: …`")),
    }
    Ok(())
}

impl ScriptedLoader {
    /// How long readers get the stale value after a failed load, without another load: not at all if they never may.
    fn stale_life_ms(&self) -> u64 {
        if self.policy.serve_stale == ServeStale::Never { 0 } else { STALE_LIFE_MS }
    }

    /// The text of the error reply.
    fn failure(&self, reason: &str) -> Arc<str> {
        format!("LOADFAIL {} {reason}", self.name).into()
    }

    /// A loader for `name:…` with these options, named as in conf.
    ///
    /// # Errors
    /// An option that has no meaning here.
    pub fn new(index: usize, name: &str, options: &[(String, String)]) -> Result<Self, String> {
        let mut loader = Self {
            name: name.to_owned(),
            policy: LoaderPolicy {
                loader: u32::try_from(index).map_err(|error| error.to_string())?,
                transparent: true,
                serve_stale: ServeStale::OnError,
                soft_timeout_ms: 50,
                hard_timeout_ms: 2000,
                loads_max: usize::MAX,
            },
            ttl_ms: 300_000,
            negative_ttl_ms: 10_000,
            stale_for_ms: 0,
            refresh: ScriptedRefresh::Off,
            refresh_at: 0.8,
            paused: Cell::new(false),
            error_ttl_ms: 0,
        };
        for (name, value) in options {
            let time = || crate::transcript::duration_ms(value);
            match (name.as_str(), value.as_str()) {
                ("ttl", _) => loader.ttl_ms = time()?,
                ("negative_ttl", _) => loader.negative_ttl_ms = time()?,
                ("stale_for", _) => loader.stale_for_ms = time()?,
                ("error_ttl", _) => loader.error_ttl_ms = time()?,
                ("soft_timeout", _) => loader.policy.soft_timeout_ms = time()?,
                ("hard_timeout", _) => loader.policy.hard_timeout_ms = time()?,
                ("refresh", "off") => loader.refresh = ScriptedRefresh::Off,
                ("refresh", "ahead") => loader.refresh = ScriptedRefresh::Ahead,
                ("refresh", "xfetch") => loader.refresh = ScriptedRefresh::XFetch,
                ("refresh_at", _) => {
                    loader.refresh_at = value.parse().map_err(|error| format!("refresh_at={value}: {error}"))?;
                }
                ("mode", "transparent") => loader.policy.transparent = true,
                ("mode", "explicit") => loader.policy.transparent = false,
                ("serve_stale", "never") => loader.policy.serve_stale = ServeStale::Never,
                ("serve_stale", "on-error") => loader.policy.serve_stale = ServeStale::OnError,
                ("serve_stale", "always") => loader.policy.serve_stale = ServeStale::Always,
                _ => return Err(format!("a scripted loader knows no option {name}={value}")),
            }
        }
        Ok(loader)
    }
}

impl ScriptedWorld {
    fn loader_of(&self, key: &[u8]) -> Option<&ScriptedLoader> {
        let prefix = &key[..key.iter().position(|&byte| byte == b':')?];
        self.loaders.iter().find(|loader| loader.name.as_bytes() == prefix)
    }

    fn start(&self, key: &[u8], purpose: Purpose) {
        *self.loads.borrow_mut().entry(key.to_vec()).or_default() += 1;
        let answer = self.answers.borrow().get(key).cloned();
        let Answer { row, after_ms } = answer.unwrap_or(Answer { row: Row::Absent, after_ms: 0 });
        // A source takes at least a moment: an answer at the very time of the question would hide a wait that is missing.
        let ready_at_ms = self.now_ms.get() + after_ms.max(1);
        let overdue_at_ms = self.loader_of(key).map(|loader| self.now_ms.get() + loader.policy.hard_timeout_ms);
        self.under_way.borrow_mut().push(UnderWay { ready_at_ms, overdue_at_ms, row, purpose });
    }

    fn test_event(&self, key: &[u8], row: Row) -> WakeEvent {
        let loader = self.loader_of(key).expect("a load was started for the key");
        match row {
            Row::Value(value) => WakeEvent::Value { value: value.into_bytes().into(), version: 0, expire_at_ms: None },
            Row::Absent => WakeEvent::Absent { ttl_ms: loader.negative_ttl_ms, version: 0 },
            Row::Failure(reason) => WakeEvent::Failed { stale: None, reason: loader.failure(&reason) },
        }
    }
}

impl Host for ScriptedWorld {
    fn loader_for(&self, db: Db, key: &[u8]) -> Option<LoaderPolicy> {
        if db != Db(0) {
            return None;
        }
        self.loader_of(key).map(|loader| loader.policy)
    }

    fn refresh_rule(&self, db: Db, key: &[u8], _: u64) -> Option<RefreshRule> {
        let loader = self.loader_of(key).filter(|_| db == Db(0))?;
        let when = match loader.refresh {
            ScriptedRefresh::Off => return None,
            ScriptedRefresh::Ahead => {
                let early_ms = loader.ttl_ms as f64 * (1.0 - loader.refresh_at);
                RefreshWhen::Ahead { early_ms: early_ms as u64 }
            }
            ScriptedRefresh::XFetch => RefreshWhen::XFetch { beta: 1.0 },
        };
        Some(RefreshRule { loader: loader.policy.loader, transparent: loader.policy.transparent, when })
    }

    fn start_loads(&self, loads: Vec<Load>) -> Vec<(Load, String)> {
        let mut refused = Vec::new();
        for load in loads {
            let loader = &self.loaders[load.loader as usize];
            if loader.paused.get() {
                refused.push((load, loader.failure("paused").to_string()));
                continue;
            }
            let key = load.key.clone();
            self.start(&key, Purpose::Fill(load));
        }
        refused
    }

    fn order_loader(&self, name: &[u8], order: LoaderOrder) -> Result<(), String> {
        let loader = self.loaders.iter().find(|loader| loader.name.as_bytes() == name);
        let loader = loader.ok_or_else(|| NO_LOADER_NAMED.to_owned())?;
        match order {
            LoaderOrder::Pause => loader.paused.set(true),
            LoaderOrder::Resume => loader.paused.set(false),
            LoaderOrder::Warm { .. } | LoaderOrder::StopWarm => {
                return Err("ERR the simulator warms nothing".to_owned());
            }
        }
        Ok(())
    }

    fn loaders(&self) -> Vec<View> {
        self.loaders
            .iter()
            .map(|loader| View { name: loader.name.clone(), settings: Vec::new(), counters: Vec::new() })
            .collect()
    }

    fn loader_name(&self, loader: u32) -> String {
        self.loaders.get(loader as usize).map_or("?", |loader| loader.name.as_str()).to_owned()
    }

    fn refuse_load(&self, _: u32) -> String {
        "LOADBUSY".to_owned()
    }

    fn explain(&self, _: Db, key: &[u8]) -> Option<Vec<(&'static str, String)>> {
        self.loader_of(key).map(|loader| vec![("loader", loader.name.clone())])
    }

    fn test_load(&self, _: Db, key: &[u8], waiter: Waiter) -> Result<(), String> {
        if self.loader_of(key).is_none() {
            return Err("NOLOADER no loader matches this key".to_owned());
        }
        self.start(key, Purpose::Test { key: key.to_vec(), waiter });
        Ok(())
    }

    fn config_get(&self, _: &[&[u8]]) -> Vec<(String, String)> {
        Vec::new()
    }

    fn config_set(&self, _: &[(&[u8], &[u8])]) -> Result<(), ReplyError> {
        Err(ReplyError::err("the simulator has no configuration"))
    }

    fn reset_stats(&self) {}

    fn databases(&self) -> u8 {
        self.databases
    }

    fn check_password(&self, user: &[u8], password: &[u8]) -> Option<bool> {
        self.password.as_ref().map(|wanted| user == b"default" && password == wanted)
    }

    fn password_required(&self) -> bool {
        self.password.is_some()
    }

    fn info(&self, _: &[&[u8]]) -> String {
        String::new()
    }

    fn wall_us(&self) -> u64 {
        self.now_ms.get() * 1000
    }

    fn clients(&self) -> Vec<ClientRow> {
        Vec::new()
    }

    fn kill_clients(&self, _: &ClientFilter, _: u64) -> usize {
        0
    }
}
