//! Nodes on hosts of a network that loses packets, is cut one way, or falls apart: every request is answered or refused within its time, and no
//! answer is wrong.

use leasehold_tests::client_scripts::users;
use leasehold_tests::cluster::{NAMES, address_of_owner};
use leasehold_tests::hosts::{Hosts, address};
use leasehold_tests::process::Directory;
use leasehold_tests::random::Random;
use leasehold_tests::reply::Value;
use leasehold_tests::watch::{until, until_some};
use leasehold_tests::{Client, Server};
use std::time::{Duration, Instant};

/// Each host has ports of its own.
const PORT: u16 = 6379;

/// `peer-timeout` of the nodes.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// Beyond `peer-timeout`, for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Three nodes, each on a host of its own, with a loader for `user:…` each, over one database.
struct Network {
    // Ends before the hosts do.
    _nodes: Vec<Server>,
    hosts: Hosts,
    _files: Directory,
}

impl Network {
    /// `None`: this machine cannot.
    fn start() -> Option<Self> {
        let hosts = Hosts::new("network of hosts", NAMES.len())?;
        let files = Directory::new();
        let table = |(host, name)| format!("[nodes.{name}]\naddress = \"{}:{PORT}\"\n", address(host));
        let tables: String = NAMES.iter().enumerate().map(table).collect();
        let millis = PEER_TIMEOUT.as_millis();
        let conf = format!("peer-timeout = \"{millis}ms\"\n{tables}\n{}", users(&files));
        let start = |(host, name): (usize, &'static str)| {
            let (conf, bind) = (conf.clone(), format!("127.0.0.1 {}", address(host)));
            hosts.on(host, move || Server::options().set("node", name).set("bind", bind).port(PORT).conf(conf).start())
        };
        let nodes = NAMES.into_iter().enumerate().map(start).collect();
        Some(Self { _nodes: nodes, hosts, _files: files })
    }

    /// A client on the host of a node, of that node.
    fn client(&self, host: usize) -> Client {
        self.hosts.on(host, || Client::connect(PORT))
    }

    /// A key of each node, made of `prefix` and a number.
    fn keys(&self, prefix: &str) -> [String; 3] {
        let mut client = self.client(0);
        let mut owner = |key: &str| {
            let (ip, _) = address_of_owner(&mut client, key);
            (0..NAMES.len()).find(|&host| address(host).to_string() == ip).expect("it is one of the three")
        };
        std::array::from_fn(|host| {
            let mut keys = (1..1000).map(|number| format!("{prefix}{number}"));
            keys.find(|key| owner(key) == host).expect("each has a third of the keys")
        })
    }

    /// Waits until every node answers for the keys of all.
    fn until_well(&self) {
        let keys = self.keys("well:");
        let mut clients: Vec<Client> = (0..NAMES.len()).map(|host| self.client(host)).collect();
        until("every node answers for all keys", || {
            clients.iter_mut().all(|client| keys.iter().all(|key| is_ok(&client.command(&["SET", key, "1"]))))
        });
    }
}

fn is_ok(value: &Value) -> bool {
    matches!(value, Value::Simple(text) if text == "OK")
}

fn is_refused(value: &Value) -> bool {
    matches!(value, Value::Error(text) if text.starts_with("CLUSTERDOWN"))
}

/// The answer once there is one: each thread of a node finds out for itself that another is back.
fn answer(client: &mut Client, argv: &[&str]) -> Value {
    until_some("the node that has the key is asked again", || {
        Some(client.command(argv)).filter(|reply| !is_refused(reply))
    })
}

/// What may lie under a key after writes some of which were refused: they may have been executed or not.
#[derive(Default)]
struct Possible(Vec<Option<String>>);

impl Possible {
    fn new() -> Self {
        Self(vec![None])
    }

    fn written(&mut self, value: String, reply: &Value) {
        if is_ok(reply) {
            self.0.clear();
        } else {
            assert!(is_refused(reply), "{reply}");
        }
        self.0.push(Some(value));
    }

    fn read(&mut self, key: &str, reply: &Value) {
        if is_refused(reply) {
            return;
        }
        let found = if reply.is_null() { None } else { Some(reply.text()) };
        assert!(self.0.contains(&found), "{key}: {found:?} is none of {:?}", self.0);
        // What is read once stays: whatever was refused is not begun after its time, and this client waits for each reply.
        self.0 = vec![found];
    }
}

/// One client at each node, each with keys of its own at all nodes.
fn talk(network: &Network, requests: usize, round: u64) {
    let clients: Vec<_> = (0..NAMES.len())
        .map(|host| (host, network.client(host), network.keys(&format!("of:{round}:{host}:"))))
        .collect();
    std::thread::scope(|scope| {
        for (host, mut client, keys) in clients {
            scope.spawn(move || {
                let mut random = Random(round << 8 | host as u64);
                let mut possible = keys.each_ref().map(|_| Possible::new());
                for number in 0..requests {
                    let place = random.below(3) as usize;
                    let (key, possible) = (&keys[place], &mut possible[place]);
                    let begun = Instant::now();
                    if random.below(2) == 0 {
                        let value = format!("{host}:{number}");
                        let reply = client.command(&["SET", key, &value]);
                        possible.written(value, &reply);
                    } else {
                        let reply = client.command(&["GET", key]);
                        possible.read(key, &reply);
                    }
                    let took = begun.elapsed();
                    assert!(took < PEER_TIMEOUT + PATIENCE, "{took:?} for {key} at {}", NAMES[host]);
                }
            });
        }
    });
}

#[test]
fn a_network_that_loses_packets_makes_no_answer_wrong() {
    let Some(network) = Network::start() else { return };
    network.until_well();
    for (round, (percent, requests)) in [(1, 300), (10, 40), (30, 15)].into_iter().enumerate() {
        let lost = network.hosts.lost();
        network.hosts.lose(percent);
        talk(&network, requests, round as u64);
        network.hosts.heal();
        assert!(network.hosts.lost() > lost, "{percent} % of all packets are lost");
        network.until_well();
        talk(&network, 100, 10 + round as u64);
    }
}

#[test]
fn what_is_refused_over_a_line_cut_one_way_is_not_executed_when_it_heals() {
    let Some(network) = Network::start() else { return };
    network.until_well();
    let [_, key, _] = network.keys("cut:");
    let (mut here, mut there) = (network.client(0), network.client(1));
    // Requests do not arrive; then their answers do not.
    for (from, to) in [(0, 1), (1, 0)] {
        network.hosts.cut(from, to);
        let begun = Instant::now();
        let refused = here.command(&["SET", &key, "late"]);
        assert!(
            is_refused(&refused) && begun.elapsed() < PEER_TIMEOUT + PATIENCE,
            "{refused} after {:?}",
            begun.elapsed()
        );
        assert!(is_ok(&there.command(&["SET", &key, "newer"])), "the node itself is there");
        network.hosts.heal();
        // The system sends again what did not arrive, and the node must not take it for new.
        network.until_well();
        for client in [&mut here, &mut there] {
            assert_eq!(answer(client, &["GET", &key]), Value::bulk("newer"));
        }
    }
}

#[test]
fn a_host_that_is_cut_off_is_refused_for_and_back_when_the_line_is() {
    let Some(network) = Network::start() else { return };
    network.until_well();
    let keys = network.keys("user:");
    let mut clients: Vec<Client> = (0..NAMES.len()).map(|host| network.client(host)).collect();
    network.hosts.isolate(2);
    for (host, client) in clients.iter_mut().enumerate() {
        for (owner, key) in keys.iter().enumerate() {
            let reply = client.command(&["GET", key]);
            let is_apart = (host == 2) != (owner == 2);
            assert_eq!(is_refused(&reply), is_apart, "{} asked for a key of {}: {reply}", NAMES[host], NAMES[owner]);
        }
    }
    network.hosts.heal();
    network.until_well();
    for client in &mut clients {
        for key in &keys {
            let reply = answer(client, &["GET", key]);
            assert!(reply.text().starts_with("{\"id\":"), "{reply}");
        }
    }
    let loads: i64 = clients.iter_mut().map(|client| client.loader_counter("user", "loads")).sum();
    assert_eq!(loads, 3, "one load a key, whoever asks");
}
