//! What bounds the requests that go to other nodes, and what becomes of them when a client, its node or a link ends.

use leasehold_tests::client::request;
use leasehold_tests::cluster::{addresses, options, port_of_owner};
use leasehold_tests::process::free_port;
use leasehold_tests::reply::Value;
use leasehold_tests::watch::{rss_peak_bytes, until};
use leasehold_tests::{Client, Cluster, Proxy, ServerOptions, Trouble};
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
    until("they are gone", || client.info("connected_clients") == 1);
    let answers = cluster.nodes[0].memcached().ask(format!("get {}\r\n", keys.join(" ")));
    assert_eq!(answers.matches("VALUE user:").count(), 40, "{answers}");
    assert!(cluster.counter("keys") >= 40);
}
