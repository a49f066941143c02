//! Clients of memcached at any of three nodes: what is another node's is sent on to it, and comes back in order.

use leasehold_tests::client_scripts::{python, run_on};
use leasehold_tests::reply::Value;
use leasehold_tests::{Cluster, Memcached, Server, ServerOptions};

fn start() -> Cluster {
    Cluster::start_changed("", "", ServerOptions::memcached)
}

fn clients(cluster: &Cluster) -> Vec<Memcached> {
    cluster.nodes.iter().map(Server::memcached).collect()
}

#[test]
fn every_verb_reaches_its_key_through_any_node() {
    let cluster = start();
    let mut clients = clients(&cluster);
    for number in 0..60 {
        let (key, here, there) = (format!("key:{number}"), number % 3, (number + 1) % 3);
        assert_eq!(clients[here].ask(format!("set {key} 7 0 5\r\nvalue\r\n")), "STORED\r\n");
        assert_eq!(clients[there].ask(format!("get {key}\r\n")), format!("VALUE {key} 7 5\r\nvalue\r\nEND\r\n"));
        let gets = clients[there].ask(format!("gets {key}\r\n"));
        let cas = gets.split([' ', '\r']).nth(4).expect("a CAS number").to_owned();
        assert_eq!(clients[here].ask(format!("cas {key} 0 0 1 {cas}\r\n5\r\n")), "STORED\r\n");
        assert_eq!(clients[there].ask(format!("cas {key} 0 0 1 {cas}\r\n6\r\n")), "EXISTS\r\n");
        assert_eq!(clients[there].ask(format!("incr {key} 3\r\ndecr {key} 1\r\n")), "8\r\n7\r\n");
        assert_eq!(
            clients[here].ask(format!("append {key} 0 0 1 noreply\r\n0\r\nmg {key} v t\r\n")),
            "VA 2 t-1\r\n70\r\n"
        );
        assert_eq!(clients[there].ask(format!("touch {key} 100\r\nma {key} v\r\n")), "TOUCHED\r\nVA 2\r\n71\r\n");
        assert_eq!(cluster.nodes[here].client().command(&["GET", &key]), Value::bulk("71"));
        assert_eq!(clients[there].ask(format!("delete {key} noreply\r\nget {key}\r\n")), "END\r\n");
        assert_eq!(clients[here].ask(format!("mg {key} v k q\r\nmn\r\n")), "MN\r\n", "a quiet miss says nothing");
        assert_eq!(clients[here].ask(format!("md {key}\r\n")), "NF\r\n");
    }
}

#[test]
fn leases_are_taken_and_spent_through_different_nodes() {
    let cluster = start();
    let mut clients = clients(&cluster);
    for number in 0..30 {
        let (key, here, there) = (format!("lease:{number}"), number % 3, (number + 1) % 3);
        let won = clients[here].ask(format!("mg {key} v c N30\r\n"));
        let cas = won.split([' ', '\r']).find_map(|word| word.strip_prefix('c')).expect("a CAS number").to_owned();
        assert!(won.contains(" W"), "{won}");
        assert!(clients[there].ask(format!("mg {key} v N30\r\n")).contains(" Z"));
        assert_eq!(clients[there].ask(format!("ms {key} 1 C{cas}\r\nx\r\n")), "HD\r\n");
        assert_eq!(clients[here].ask(format!("get {key}\r\n")), format!("VALUE {key} 0 1\r\nx\r\nEND\r\n"));
    }
    let keys: Vec<String> = (0..20).map(|number| format!("mcrouter:{number}")).collect();
    let replies = clients[0].ask(format!("lease-get {}\r\n", keys.join(" ")));
    let lines: Vec<&str> = replies.lines().filter(|line| line.starts_with("LVALUE ")).collect();
    for ((line, key), place) in lines.iter().zip(&keys).zip((0..3).cycle()) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[1], key, "in the order of the keys");
        assert_eq!(clients[place].ask(format!("lease-set {key} {} 0 0 1\r\ny\r\n", words[2])), "STORED\r\n");
    }
    assert_eq!(lines.len(), 20);
}

#[test]
fn many_keys_are_read_in_parts_and_answered_in_their_order() {
    let cluster = start();
    for (place, mut client) in clients(&cluster).into_iter().enumerate() {
        let keys: Vec<String> = (0..50).map(|number| format!("many:{place}:{number}")).collect();
        let sets: String = keys.iter().skip(1).step_by(2).map(|key| format!("set {key} 0 0 3\r\nEND\r\n")).collect();
        assert_eq!(client.ask(sets), "STORED\r\n".repeat(25));
        let value = |key: &String| format!("VALUE {key} 0 3\r\nEND\r\n");
        let values: String = keys.iter().skip(1).step_by(2).map(value).collect();
        let line = keys.join(" ");
        let replies = client.ask(format!("get {line} {}\r\nmn\r\ngat 100 {line}\r\nversion\r\n", keys[1]));
        let repeated = value(&keys[1]);
        assert!(replies.starts_with(&format!("{values}{repeated}END\r\nMN\r\n{values}END\r\n")), "{replies}");
        assert_eq!(client.ask(format!("get {} {}\r\n", keys[0], keys[2])), "END\r\n");
        assert_eq!(client.ask(format!("gets {line}\r\n")).matches("VALUE ").count(), 25);
    }
}

#[test]
fn a_value_that_is_too_large_leaves_no_older_one_at_its_node() {
    let cluster = start();
    let mut client = cluster.nodes[0].memcached();
    for (place, verb) in [(0, "set"), (1, "set"), (2, "set"), (1, "ms")] {
        let key = cluster.key_of(place, "large");
        assert_eq!(client.ask(format!("set {key} 0 0 1\r\nx\r\n")), "STORED\r\n");
        let head = if verb == "set" { format!("set {key} 0 0 2000000") } else { format!("ms {key} 2000000") };
        let request = format!("{head}\r\n{}\r\nget {key}\r\n", "x".repeat(2_000_000));
        assert_eq!(client.ask(request), "SERVER_ERROR object too large for cache\r\nEND\r\n", "{verb} {place}");
    }
    assert!(client.ask("stats\r\n").contains("STAT store_too_large 4\r\n"));
}

#[test]
fn errors_of_other_nodes_are_counted_where_the_client_is() {
    let cluster = start();
    let (mut client, key) = (cluster.nodes[0].memcached(), cluster.key_of(1, "key"));
    assert_eq!(client.ask(format!("set {key} 0 0 1\r\nx\r\n")), "STORED\r\n");
    let refused = client.ask(format!("incr {key} 1\r\n"));
    assert!(refused.starts_with("CLIENT_ERROR "), "{refused}");
    let errors = cluster.nodes[0].client().command(&["INFO", "errorstats"]).text();
    assert!(errors.contains("errorstat_CLIENT_ERROR:count=1\r\n"), "{errors}");
}

#[test]
fn rows_are_loaded_once_by_the_nodes_of_their_keys() {
    let cluster = start();
    let keys: Vec<String> = (1..=30).map(|id| format!("user:{id}")).collect();
    for mut client in clients(&cluster) {
        let replies = client.ask(format!("get {} user:5000\r\n", keys.join(" ")));
        let ids: Vec<String> = replies.lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect();
        let expected: Vec<String> = (1..=30).map(|id| format!(r#"{{"id":{id},"name":"user {id}"}}"#)).collect();
        assert_eq!(ids, expected);
    }
    assert_eq!(cluster.counter("keys"), 31);
}

#[test]
fn a_node_that_does_not_answer_is_named() {
    let mut cluster = start();
    let (dead, alive) = (cluster.key_of(1, "key"), cluster.key_of(2, "key"));
    let mut client = cluster.nodes[0].memcached();
    assert_eq!(client.ask(format!("set {dead} 0 0 1\r\nx\r\nset {alive} 0 0 1\r\nx\r\n")), "STORED\r\nSTORED\r\n");
    cluster.nodes[1].kill();
    let down = "SERVER_ERROR node b does not answer\r\n";
    assert_eq!(client.ask(format!("get {dead}\r\n")), down);
    let replies = client.ask(format!("get {alive} {dead}\r\nset {dead} 0 0 1 noreply\r\nx\r\nget {alive}\r\n"));
    assert_eq!(replies, format!("{down}VALUE {alive} 0 1\r\nx\r\nEND\r\n"));
}

#[test]
fn pymemcache_works_at_any_node_and_with_a_ring_over_all() {
    let Some(mut python) = python("pymemcache at any node", "pymemcache") else { return };
    let cluster = start();
    let ports: Vec<String> = cluster.nodes.iter().map(|node| node.memcached_port().to_string()).collect();
    python.env("PORTS", ports.join(" "));
    let port = cluster.nodes[0].memcached_port();
    run_on(&cluster.nodes, port, "pymemcache at any node", python, "memcached_pymemcache_nodes.py");
}
