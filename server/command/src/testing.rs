//! A node for tests of commands: a keyspace, a scripted world outside, and one client, with time in the test's hands.

use crate::client::{Client, Routing};
use crate::context::{Context, Outcome};
use crate::dispatch::execute;
use crate::error::ReplyError;
use crate::host::{
    AuditView, Change, ClientFilter, ClientRow, Host, LoaderOrder, LoaderPolicy, RefreshRule, ServeStale, StatsOf,
    View, ViolationView,
};
use leasehold_cluster::{Address, Fault, Member, NodeSettings, Peers, Place, Pool, Rules, StandIns, Topology};
use leasehold_keyspace::{Db, EvictionPolicy, HashSeed, Keyspace, LeaseSettings, Load, Settings, Turn, Waiter};
use leasehold_protocol::memcached;
use leasehold_protocol::{Limits, Parsed, Parser, Reply, RespVersion};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Server time at which every test begins, in ms.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// Names of three nodes on one machine, from port 7001 on.
pub(crate) const MEMBERS: [&str; 3] = ["a", "b", "c"];

/// One client on a node of its own.
pub(crate) struct Node {
    pub(crate) keyspace: Keyspace,
    pub(crate) host: FakeHost,
    pub(crate) client: Client,
    pub(crate) turn: Turn,
    pub(crate) version: RespVersion,
    /// See [`Reply::bytes_max`].
    pub(crate) reply_bytes_max: usize,
    /// How the last command ended.
    pub(crate) outcome: Outcome,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with_settings(settings())
    }

    pub(crate) fn with_settings(settings: Settings) -> Self {
        Self {
            keyspace: Keyspace::new(settings, HashSeed([1, 2, 3, 4])),
            host: FakeHost::default(),
            client: Client::new(7, 0, ([127, 0, 0, 1], 50_000).into(), ([127, 0, 0, 1], 6379).into(), START_MS),
            turn: Turn::new(START_MS, 42),
            version: RespVersion::V2,
            reply_bytes_max: usize::MAX,
            outcome: Outcome::Replied,
        }
    }

    /// As [`Node::new`], with a transparent loader for the keys `load:…`.
    pub(crate) fn with_loader() -> Self {
        let mut node = Self::new();
        node.host.loader = Some(LoaderPolicy {
            loader: 0,
            transparent: true,
            serve_stale: ServeStale::Never,
            soft_timeout_ms: 50,
            hard_timeout_ms: 1_000,
            loads_max: 10,
        });
        node
    }

    /// As [`Node::new`], the one of [`MEMBERS`] with this name.
    pub(crate) fn among_others(name: &str) -> Self {
        let list = MEMBERS.iter().zip(7001..).map(|(name, port)| NodeSettings {
            name: (*name).to_owned(),
            address: Address { host: "127.0.0.1".to_owned(), port },
            weight: 1,
            pool: Pool::Main,
            zone: String::new(),
        });
        let topology = Topology::new(list.collect()).expect("three nodes");
        let mut node = Self::new();
        node.host.member = Member::new(topology, name);
        node.client.routing = Routing::Redirect;
        node
    }

    /// As [`Node::among_others`]; another node, whose place this gives, has just died, and the third stands in for it.
    pub(crate) fn beside_a_dead_one(name: &str) -> (Self, Place) {
        let mut node = Self::among_others(name);
        let member = node.host.member.as_ref().expect("there are nodes");
        let (topology, own) = (Arc::new(member.topology().clone()), member.place());
        let rules = Rules { stand_ins: StandIns::Same, ramp_start: 1_000, ..Rules::default() };
        // Long enough ago that all count on each other.
        let since_ms = node.turn.now_ms - 3_000;
        let peers = |place| Peers::new(Arc::clone(&topology), place, rules.clone(), 1, since_ms);
        let mut nodes: Vec<Peers> = topology.places().map(peers).collect();
        for now_ms in (since_ms..=node.turn.now_ms).step_by(50) {
            for asking in &nodes {
                for (place, ping) in asking.tick(now_ms, 0).pings {
                    let pong = nodes[place.index()].answer(asking.own(), &ping, now_ms);
                    asking.hear(place, &pong, now_ms);
                }
            }
        }
        let dead = topology.places().find(|place| *place != own).expect("there are others");
        let peers = nodes.swap_remove(own.index());
        peers.failed(dead, Fault::Refused, node.turn.now_ms);
        node.host.peers = Some(peers);
        (node, dead)
    }

    /// What a command of the client works with.
    pub(crate) fn context<'a>(&'a mut self, reply: &'a mut Reply) -> Context<'a> {
        let Self { keyspace, host, client, turn, .. } = self;
        Context { keyspace, host, client, reply, turn }
    }

    fn reply(&self) -> Reply {
        let mut reply = Reply::new(self.version);
        reply.set_bytes_max(self.reply_bytes_max);
        reply
    }

    /// Runs a line of words, and gives the reply as text.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let words: Vec<&[u8]> = line.split_ascii_whitespace().map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.run_args(&words)).into_owned()
    }

    /// Runs a request of any bytes, and gives the bytes of the reply.
    pub(crate) fn run_args(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut reply = self.reply();
        let (parser, input) = parse(args);
        self.outcome = execute(&mut self.context(&mut reply), parser.request(&input));
        self.version = reply.version();
        reply.as_bytes().to_vec()
    }

    /// Runs all of memcached's requests in `input`, and gives the replies as text. Ends where a command parks or closes.
    pub(crate) fn talk(&mut self, input: impl AsRef<[u8]>) -> String {
        self.talk_within(input.as_ref(), &memcached::Limits::DEFAULT)
    }

    /// As [`Node::talk`], with other limits.
    pub(crate) fn talk_within(&mut self, mut input: &[u8], limits: &memcached::Limits) -> String {
        let mut reply = self.reply();
        let mut parser = memcached::Parser::new();
        self.outcome = Outcome::Replied;
        // As the server does when the client connects.
        self.client.authenticated |= self.host.memcached_user.is_none();
        while let (Outcome::Replied, Ok(Parsed::Complete { consumed })) = (&self.outcome, parser.parse(input, limits)) {
            self.outcome = crate::memcached::execute(&mut self.context(&mut reply), parser.request(input));
            input = &input[consumed..];
        }
        String::from_utf8_lossy(reply.as_bytes()).into_owned()
    }

    /// Delivers what wakes there are to the command that parked last; its reply, if that ended it.
    pub(crate) fn wake(&mut self) -> Option<String> {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Replied);
        let Outcome::Parked(mut parked) = outcome else { panic!("nothing is parked") };
        let mut reply = self.reply();
        let wakes = std::mem::take(&mut self.turn.effects.wakes);
        let mut context = self.context(&mut reply);
        let is_done = wakes.into_iter().any(|wake| parked.wake(&mut context, wake.waiter.index, wake.event).is_some());
        self.outcome = Outcome::Parked(parked);
        is_done.then(|| String::from_utf8_lossy(reply.as_bytes()).into_owned())
    }

    /// Lets time pass.
    pub(crate) fn advance_ms(&mut self, ms: u64) {
        self.turn.now_ms += ms;
    }
}

/// A parser that holds the request of these arguments, and the bytes that it borrows from.
pub(crate) fn parse(args: &[&[u8]]) -> (Parser, Vec<u8>) {
    let mut input = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        input.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        input.extend_from_slice(arg);
        input.extend_from_slice(b"\r\n");
    }
    let mut parser = Parser::new();
    let parsed = parser.parse(&input, &Limits::DEFAULT);
    assert!(matches!(parsed, Ok(Parsed::Complete { .. })), "{parsed:?}");
    (parser, input)
}

/// Four shards, no memory limit.
pub(crate) fn settings() -> Settings {
    Settings {
        shards: 4,
        memory_bytes_max: 0,
        policy: EvictionPolicy::NoEviction,
        absence_bytes_max: 32 << 10,
        boot_unix_ms: START_MS,
        lease: LeaseSettings {
            lease_ms: 10_000,
            lease_ms_max: 60_000,
            reissue_after_ms: Some(1_000),
            waiters_per_key_max: 100,
            waiters_max: 1_000,
            records_max: 1_000,
            tombstone_ttl_ms: 60_000,
            invalidated_stale_ms: 10_000,
        },
    }
}

/// A world outside that does what the test wrote into it, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct FakeHost {
    /// Of the user `default`.
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) member: Option<Member>,
    pub(crate) peers: Option<Peers>,
    pub(crate) options: RefCell<BTreeMap<String, String>>,
    pub(crate) rows: Vec<ClientRow>,
    pub(crate) killed: RefCell<Vec<ClientFilter>>,
    pub(crate) loader: Option<LoaderPolicy>,
    /// Of the same keys.
    pub(crate) refresh: Option<RefreshRule>,
    pub(crate) orders: RefCell<Vec<(Vec<u8>, LoaderOrder)>>,
    pub(crate) stats_resets: Cell<usize>,
    pub(crate) info_sections: RefCell<Vec<String>>,
    /// Of keys that begin with `write:`.
    pub(crate) writer: Option<u32>,
    pub(crate) changes: RefCell<Vec<Change>>,
    pub(crate) memcached_user: Option<(&'static str, &'static str)>,
    pub(crate) flush_at_ms: Cell<Option<u64>>,
    pub(crate) may_shut_down: bool,
    pub(crate) has_shut_down: Cell<bool>,
    pub(crate) audited: RefCell<Option<(Vec<AuditView>, Vec<ViolationView>)>>,
    /// Of other nodes' entries: value and client flags.
    pub(crate) copies: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
}

impl Host for FakeHost {
    fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    fn keeps_copies(&self) -> bool {
        true
    }

    fn may_have_copies(&self) -> bool {
        !self.copies.is_empty()
    }

    fn read_copy(&self, key: &[u8], read: &mut dyn FnMut(&[u8], u32)) -> bool {
        let copy = self.copies.get(key);
        copy.iter().for_each(|(value, client_flags)| read(value, *client_flags));
        copy.is_some()
    }

    fn loader_for(&self, _: Db, key: &[u8]) -> Option<LoaderPolicy> {
        self.loader.filter(|_| key.starts_with(b"load:"))
    }

    fn refresh_rule(&self, _: Db, key: &[u8], _: u64) -> Option<RefreshRule> {
        self.refresh.filter(|_| key.starts_with(b"load:"))
    }

    fn start_loads(&self, _: Vec<Load>) -> Vec<(Load, String)> {
        Vec::new()
    }

    fn loaders(&self) -> Vec<View> {
        Vec::new()
    }

    fn order_loader(&self, name: &[u8], order: LoaderOrder) -> Result<(), String> {
        self.orders.borrow_mut().push((name.to_vec(), order));
        Ok(())
    }

    fn loader_name(&self, _: u32) -> String {
        "?".to_owned()
    }

    fn refuse_load(&self, _: u32) -> String {
        "LOADBUSY".to_owned()
    }

    fn explain(&self, _: Db, _: &[u8]) -> Option<Vec<(&'static str, String)>> {
        None
    }

    fn test_load(&self, _: Db, _: &[u8], _: Waiter) -> Result<(), String> {
        Err("ERR no loader matches".to_owned())
    }

    fn writes_to_sources(&self) -> bool {
        self.writer.is_some()
    }

    fn writer_for(&self, _: Db, key: &[u8]) -> Option<u32> {
        self.writer.filter(|_| key.starts_with(b"write:"))
    }

    fn start_write(&self, _: u32, _: Db, changes: Vec<Change>, _: Waiter) -> Result<u64, String> {
        self.changes.borrow_mut().extend(changes);
        Ok(1_000)
    }

    fn check_memcached_user(&self, user: &[u8], password: &[u8]) -> bool {
        self.memcached_user.is_some_and(|(name, secret)| name.as_bytes() == user && secret.as_bytes() == password)
    }

    fn flush_at(&self, at_ms: Option<u64>) {
        self.flush_at_ms.set(at_ms);
    }

    fn may_shut_down(&self) -> bool {
        self.may_shut_down
    }

    fn shut_down(&self) {
        self.has_shut_down.set(true);
    }

    fn memcached_stats(&self, of: StatsOf) -> Vec<(String, String)> {
        vec![("asked".to_owned(), format!("{of:?}"))]
    }

    fn audits(&self) -> Option<Vec<AuditView>> {
        self.audited.borrow().as_ref().map(|(audits, _)| audits.clone())
    }

    fn violations(&self) -> Option<Vec<ViolationView>> {
        self.audited.borrow().as_ref().map(|(_, violations)| violations.clone())
    }

    fn reset_audit(&self) -> bool {
        self.audited.borrow_mut().as_mut().map(|(_, violations)| violations.clear()).is_some()
    }

    fn config_get(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        let options = self.options.borrow();
        let wanted =
            |name: &str| patterns.iter().any(|pattern| crate::glob::matches_ignore_case(pattern, name.as_bytes()));
        options.iter().filter(|(name, _)| wanted(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn config_set(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), ReplyError> {
        let mut options = self.options.borrow_mut();
        for (name, value) in pairs {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            options.insert(name.into_owned(), value.into_owned());
        }
        Ok(())
    }

    fn reset_stats(&self) {
        self.stats_resets.set(self.stats_resets.get() + 1);
    }

    fn databases(&self) -> u8 {
        16
    }

    fn check_password(&self, user: &[u8], password: &[u8]) -> Option<bool> {
        self.password.as_ref().map(|wanted| user == b"default" && wanted == password)
    }

    fn password_required(&self) -> bool {
        self.password.is_some()
    }

    fn info(&self, sections: &[&[u8]]) -> String {
        let sections: Vec<String> = sections.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let text = format!("# Asked\r\nsections:{}\r\n", sections.join(","));
        *self.info_sections.borrow_mut() = sections;
        text
    }

    fn wall_us(&self) -> u64 {
        START_MS * 1000 + 7
    }

    fn clients(&self) -> Vec<ClientRow> {
        self.rows.clone()
    }

    fn kill_clients(&self, filter: &ClientFilter, _: u64) -> usize {
        self.killed.borrow_mut().push(filter.clone());
        self.rows.iter().filter(|row| filter.ids.is_empty() || filter.ids.contains(&row.id)).count()
    }
}
