//! What bounds the requests that go to other nodes, and what becomes of them when a client, its node or a link ends.

use leasehold_tests::client::request;
use leasehold_tests::cluster::{addresses, options, port_of_owner};
use leasehold_tests::process::free_port;
use leasehold_tests::reply::Value;
use leasehold_tests::watch::{rss_peak_bytes, until};
use leasehold_tests::{Client, Cluster, NoReply, Proxy, ServerOptions, Trouble};
use std::io::Read as _;
use std::net::Shutdown;
use std::time::{Duration, Instant};

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

/// How many wait for a lease of the key.
fn waiters(node: &mut Client, key: &str) -> i64 {
    let leases = node.command(&["LEASES"]);
    let lease = leases.elements().iter().find(|lease| lease.elements().iter().any(|field| *field == Value::bulk(key)));
    let fields = lease.map(Value::elements).unwrap_or_default();
    fields.chunks(2).find(|pair| pair[0] == Value::bulk("waiters")).map_or(0, |pair| pair[1].integer())
}

/// A lease of a key of node b, its token, and a client of node a that waits for it.
fn wait_for_lease(cluster: &Cluster, wait_ms: &str) -> (String, String, Client) {
    let (key, mut owner) = (cluster.key_of(1, "lease"), cluster.nodes[1].client());
    let token = owner.command(&["GETL", &key]).elements()[2].text();
    let mut waiter = cluster.nodes[0].client();
    waiter.send(&["GETL", &key, "WAIT", wait_ms]);
    until("it waits", || waiters(&mut owner, &key) == 1);
    (key, token, waiter)
}

#[test]
fn a_client_that_does_not_read_long_values_of_another_node_takes_little_memory() {
    const READS: usize = 1_000;
    let cluster = Cluster::start_with("peer-timeout = \"60s\"", "");
    let (key, value) = (cluster.key_of(1, "long"), "x".repeat(400_000));
    let mut client = cluster.nodes[0].client();
    assert_eq!(client.command(&["SET", &key, &value]), ok());
    client.send_raw(&request(&["GET", &key]).repeat(READS));
    let (mut owner, mut before) = (cluster.nodes[1].client(), 0);
    until("as much as may be is on its way", || {
        let executed = owner.info("x_forwarded_here");
        std::mem::replace(&mut before, executed) == executed && executed > 100
    });
    for _ in 0..READS {
        assert_eq!(client.receive().text().len(), value.len());
    }
    let peak = rss_peak_bytes(cluster.nodes[0].pid());
    assert!(peak < 300_000_000, "{peak} bytes at most for {} of replies", READS * value.len());
}

#[test]
fn a_client_that_writes_much_goes_at_the_pace_of_the_line() {
    let (ports, real) = ([free_port(), 0, free_port()], free_port());
    let proxy = Proxy::before(real);
    let conf = format!("peer-timeout = \"60s\"\n{}", addresses([ports[0], proxy.port(), ports[2]]));
    let one = options("a", ports[0]).conf(conf.clone()).start();
    let _two = options("b", real).conf(conf).start();
    let mut client = one.client();
    let is_there = |key: &String| port_of_owner(&one, key) == proxy.port();
    let keys: Vec<String> = (0..).map(|number| format!("bulk:{number}")).filter(is_there).take(20).collect();
    assert_eq!(client.command(&["SET", &keys[0], "1"]), ok());
    // 16 KB at a time.
    proxy.set(Trouble::Delay(Duration::from_millis(1)));
    let mut sender = Client::over(client.stream().try_clone().expect("a socket"));
    let value = "x".repeat(1_000_000);
    let written = keys.iter().cycle().take(90).cloned().collect::<Vec<_>>();
    let sent = std::thread::spawn(move || written.iter().for_each(|key| sender.send(&["SET", key, &value])));
    (0..90).for_each(|number| assert_eq!(client.receive(), ok(), "SET number {number}"));
    sent.join().expect("all was sent");
}

#[test]
fn what_waits_behind_a_lease_is_executed_in_order_and_in_more_turns_than_one() {
    let cluster = Cluster::start();
    let (key, token, mut client) = wait_for_lease(&cluster, "60000");
    let value = "x".repeat(20_000);
    let mut requests = request(&["SET", &format!("{{{key}}}v"), &value]);
    for number in 0..90 {
        requests.extend(request(&["GET", &format!("{{{key}}}v")]));
        requests.extend(request(&["APPEND", &format!("{{{key}}}n"), if number % 2 == 0 { "a" } else { "b" }]));
    }
    client.send_raw(&requests);
    let mut owner = cluster.nodes[1].client();
    until("all of it waits", || owner.info("x_forwarded_here") >= 120);
    assert_eq!(owner.command(&["SETL", &key, &token, "filled"]).text(), "STORED");
    assert_eq!(client.receive().elements()[0].text(), "HIT");
    assert_eq!(client.receive(), ok());
    for number in 1..=90 {
        assert_eq!(client.receive().text().len(), 20_000);
        assert_eq!(client.receive().integer(), number);
    }
    assert_eq!(client.command(&["GET", &format!("{{{key}}}n")]).text(), "ab".repeat(45));
}

#[test]
fn a_client_that_ends_its_sending_behind_getl_gets_its_lease() {
    let cluster = Cluster::start();
    for number in 0..20 {
        let mut client = cluster.nodes[0].client();
        client.send(&["GETL", &format!("half:{number}")]);
        client.stream().shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(client.receive().elements()[0].text(), "LEASE");
        assert!(client.is_closed_by_server());
    }
}

#[test]
fn what_was_sent_on_behind_a_load_is_executed_though_its_client_is_gone() {
    let cluster = Cluster::start_with("", "batch_window = \"500ms\"");
    let (key, mut owner) = (cluster.key_of(1, "user:"), cluster.nodes[1].client());
    let behind = format!("{{{key}}}behind");
    let mut client = cluster.nodes[0].client();
    client.send_raw(&[request(&["PING"]), request(&["GET", &key]), request(&["SET", &behind, "1"])].concat());
    until("both are there", || owner.info("x_forwarded_here") == 2);
    // Dropped with a reply unread, which resets the connection.
    client.stream().peek(&mut [0]).expect("PONG is there");
    drop(client);
    until("what is behind the load is executed", || owner.command(&["GET", &behind]) == Value::bulk("1"));
}

#[test]
fn a_client_that_waits_at_another_node_is_not_idle() {
    let cluster = Cluster::start_with("timeout = \"1s\"", "");
    let (key, token, mut waiter) = wait_for_lease(&cluster, "60000");
    let mut idle = cluster.nodes[0].client();
    assert_eq!(idle.command(&["PING"]), Value::Simple("PONG".to_owned()));
    assert!(idle.is_closed_by_server(), "it was the younger of the two");
    assert_eq!(cluster.nodes[2].client().command(&["SETL", &key, &token, "value"]).text(), "STORED");
    assert_eq!(waiter.receive().elements()[0].text(), "HIT");
    assert!(waiter.is_closed_by_server());
}

#[test]
fn a_client_that_is_killed_leaves_the_queue_at_the_owner() {
    let cluster = Cluster::start();
    let (key, _, mut waiter) = wait_for_lease(&cluster, "60000");
    let mut client = cluster.nodes[0].client();
    let list = client.command(&["CLIENT", "LIST"]).text();
    let line = list.lines().find(|line| line.contains(" cmd=getl ")).expect("it is listed");
    let id = line.split(' ').find_map(|field| field.strip_prefix("id=")).expect("it has an id");
    assert_eq!(client.command(&["CLIENT", "KILL", "ID", id]).integer(), 1);
    assert!(waiter.is_closed_by_server());
    let mut owner = cluster.nodes[1].client();
    until("it waits no more", || waiters(&mut owner, &key) == 0);
}

#[test]
fn replies_of_other_nodes_are_held_against_the_output_limits() {
    let cluster = Cluster::start_with("client-output-buffer-limit = \"1mb\"", "");
    let (key, value) = (cluster.key_of(1, "long"), "x".repeat(500_000));
    let mut client = cluster.nodes[0].client();
    assert_eq!(client.command(&["SET", &key, &value]), ok());
    // Who reads gets any number of them.
    for _ in 0..10 {
        assert_eq!(client.command(&["GET", &key]).text().len(), value.len());
    }
    client.send_raw(&request(&["GET", &key]).repeat(100));
    let mut other = cluster.nodes[0].client();
    until("it is closed", || other.info("client_output_buffer_limit_disconnections") == 1);
}

#[test]
fn a_node_that_ends_gives_its_clients_what_others_owe_them() {
    let mut cluster = Cluster::start();
    let (_, _, mut waiter) = wait_for_lease(&cluster, "1500");
    assert!(cluster.nodes[0].terminate().is_some_and(|status| status.success()));
    assert_eq!(waiter.receive().elements()[0].text(), "WAIT");
    assert!(waiter.is_closed_by_server());
}

#[test]
fn a_node_that_stood_still_gives_its_clients_what_came_meanwhile() {
    let cluster = Cluster::start();
    let (key, token, mut waiter) = wait_for_lease(&cluster, "60000");
    let before = Instant::now();
    cluster.nodes[0].pause();
    assert_eq!(cluster.nodes[1].client().command(&["SETL", &key, &token, "value"]).text(), "STORED");
    until("its patience with others is over", || before.elapsed() > Duration::from_millis(1_500));
    cluster.nodes[0].resume();
    assert_eq!(waiter.receive().elements()[0].text(), "HIT");
    assert_eq!(waiter.command(&["GET", &key]), Value::bulk("value"));
}

#[test]
fn clients_of_memcached_that_hang_up_leave_nothing_behind() {
    let cluster = Cluster::start_changed("", "batch_window = \"200ms\"", ServerOptions::memcached);
    let keys: Vec<String> = (1..=40).map(|id| format!("user:{id}")).collect();
    for key in &keys {
        let mut gone = cluster.nodes[0].memcached();
        gone.send(format!("get {key}\r\n"));
        gone.stream().shutdown(Shutdown::Both).expect("it is open");
    }
    let mut client = cluster.nodes[0].client();
    let is_client = |line: &&str| !line.contains(" name=link-");
    until("they are gone", || client.command(&["CLIENT", "LIST"]).text().lines().filter(is_client).count() == 1);
    let answers = cluster.nodes[0].memcached().ask(format!("get {}\r\n", keys.join(" ")));
    assert_eq!(answers.matches("VALUE user:").count(), 40, "{answers}");
    assert!(cluster.counter("keys") >= 40);
}

#[test]
fn a_link_is_for_who_has_logged_in() {
    let cluster = Cluster::start_with("requirepass = \"secret\"", "");
    let mut client = cluster.nodes[0].client();
    let refused = client.command(&["CLUSTER", "LINK", "1", "b", "0"]);
    assert_eq!(refused.error(), "NOAUTH Authentication required.");
    assert_eq!(client.receive_within(Duration::ZERO), Err(NoReply::Timeout));
}

#[test]
fn a_link_that_an_operator_kills_is_opened_again() {
    let cluster = Cluster::start();
    let (mut client, mut owner) = (cluster.nodes[0].client(), cluster.nodes[1].client());
    let key = cluster.key_of(1, "key");
    assert_eq!(client.command(&["SET", &key, "1"]), ok());
    let list = owner.command(&["CLIENT", "LIST"]).text();
    let links = list.lines().filter(|line| line.contains(" name=link-a "));
    let ids: Vec<&str> = links.filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("id="))).collect();
    assert!(!ids.is_empty(), "{list}");
    for id in ids {
        assert_eq!(owner.command(&["CLIENT", "KILL", "ID", id]).integer(), 1);
    }
    until("it is asked again", || client.command(&["GET", &key]) == Value::bulk("1"));
}

/// A connection that says what another node would say, or would not.
struct RawLink {
    client: Client,
    received: Vec<u8>,
}

impl RawLink {
    /// To node a, as node b.
    fn open(cluster: &Cluster) -> Self {
        let mut client = cluster.nodes[0].client();
        let info = client.command(&["CLUSTER", "INFO"]).text();
        let epoch = info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:")).expect("it is told");
        client.send(&["CLUSTER", "LINK", "1", "b", epoch]);
        let mut answer = [0; 5];
        client.stream().read_exact(&mut answer).expect("the node answers");
        assert_eq!(answer, *b"+OK\r\n");
        let mut link = Self { client, received: Vec::new() };
        assert_eq!(link.receive().0, u32::MAX, "the time of node a");
        // What follows is executed until the end of all time.
        link.send(0, u64::MAX, 0x80, b"");
        link
    }

    fn send(&mut self, id: u32, number: u64, kind: u8, bytes: &[u8]) {
        let mut frame = (13 + bytes.len() as u32).to_le_bytes().to_vec();
        frame.extend(id.to_le_bytes());
        frame.extend(number.to_le_bytes());
        frame.push(kind);
        frame.extend(bytes);
        self.client.send_raw(&frame);
    }

    fn receive(&mut self) -> (u32, String) {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        self.client.stream().set_read_timeout(Some(Duration::from_secs(60))).expect("not zero");
        loop {
            if self.received.len() >= 8 && self.received.len() >= 4 + number(&self.received[..4]) as usize {
                let frame: Vec<u8> = self.received.drain(..4 + number(&self.received[..4]) as usize).collect();
                return (number(&frame[4..8]), String::from_utf8_lossy(&frame[8..]).into_owned());
            }
            let mut chunk = [0; 4096];
            let count = self.client.stream().read(&mut chunk).expect("the node answers");
            assert!(count > 0, "the node has closed the link");
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    /// The answer to a request.
    fn ask(&mut self, kind: u8, request: &[u8]) -> String {
        self.send(7, 1, kind, request);
        let (id, reply) = self.receive();
        assert_eq!(id, 7);
        reply
    }
}

#[test]
fn requests_on_a_link_that_no_node_sends_are_refused_and_harm_nothing() {
    let cluster = Cluster::start_changed("", "", ServerOptions::memcached);
    let (mut link, key) = (RawLink::open(&cluster), cluster.key_of(0, "key"));
    let get = request(&["GET", &key]);
    assert_eq!(link.ask(0, &request(&["SET", &key, "1"])), "+OK\r\n");
    for kind in (0x03..0x10).chain([0x83]).chain(0x86..=0xFF) {
        assert_eq!(link.ask(kind, &get), "-CLUSTERDOWN node a does not know this request\r\n", "{kind:#x}");
    }
    // Whoever asks for a copy here is given nothing, and what is said of copies or cannot be read is not answered.
    link.send(0, 5, 0x84, &[&[1; 8], key.as_bytes()].concat());
    let (id, copy) = link.receive();
    assert!(id == u32::MAX - 4 && copy.ends_with(&key), "{copy:?}");
    [(0x84, &b"short"[..]), (0x85, b""), (0x85, key.as_bytes())]
        .iter()
        .for_each(|(kind, bytes)| link.send(0, 0, *kind, bytes));
    assert_eq!(link.ask(0, &get), "$1\r\n1\r\n");
    for half in [&b""[..], b"*2\r\n$3\r\nGET\r\n", b"*1\r\n$1000000000000\r\n", b"GET"] {
        for kind in 0..=1 {
            let reply = link.ask(kind, half);
            assert!(reply.starts_with("-CLUSTERDOWN node a cannot read this"), "{half:?}: {reply}");
            assert_eq!(link.ask(kind, &get), "$1\r\n1\r\n");
        }
    }
    for nothing in ["*0\r\n", "*-7\r\n", "\r\n"] {
        assert_eq!(link.ask(0, nothing.as_bytes()), "", "{nothing:?}");
    }
    for half in [&b""[..], b"get", b"set x 0 0 5\r\nab", &[b'x'; 5000]] {
        let reply = link.ask(2, half);
        assert!(reply.starts_with("SERVER_ERROR node a cannot read this"), "{half:?}: {reply}");
        assert_eq!(link.ask(2, format!("get {key}\r\n").as_bytes()), format!("VALUE {key} 0 1\r\n1\r\nEND\r\n"));
    }
    assert!(cluster.nodes[0].client().info("x_forwarded_here_refused") > 100);
    // What would change the connection is no request about a key.
    let refused = "-ERR only requests about keys are sent on to another node\r\n";
    for line in [&["QUIT"][..], &["RESET"], &["CLIENT", "REPLY", "OFF"], &["HELLO", "3"], &["PING"], &["FLUSHALL"]] {
        assert_eq!(link.ask(0, &request(line)), refused, "{line:?}");
        assert_eq!(link.ask(0, &get), "$1\r\n1\r\n");
    }
    for line in ["quit\r\n", "flush_all\r\n", "version\r\n", "mn\r\n"] {
        let reply = link.ask(2, line.as_bytes());
        assert_eq!(reply, "SERVER_ERROR only requests about keys are sent on to another node\r\n", "{line}");
        assert_eq!(link.ask(0, &get), "$1\r\n1\r\n");
    }
    link.send(0, 1, 0x82, b"");
    assert_eq!(link.ask(0, &get), "$1\r\n1\r\n", "a client that is gone is forgotten, and no more");
}
