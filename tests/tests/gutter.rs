//! Reads of a node that does not answer go to nodes that stand in for it: a gutter node, or the others. Changes wait for the node.

use leasehold_tests::client_scripts::{python, run_on};
use leasehold_tests::cluster::address_of_owner;
use leasehold_tests::reply::Value;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Cluster, SqliteFile};

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

fn row(id: usize) -> String {
    format!(r#"{{"id":{id},"name":"user {id}"}}"#)
}

/// So many keys of users that the node at `place` owns, with their ids.
fn users_of(cluster: &Cluster, place: usize, count: usize) -> Vec<(usize, String)> {
    let users = (1..=1000).map(|id| (id, format!("user:{id}")));
    users.filter(|(_, key)| cluster.owner(key) == place).take(count).collect()
}

/// Whether a node sees another one so, as `INFO cluster` tells.
fn sees(node: &mut Client, other: &str, state: &str) -> bool {
    let info = node.command(&["INFO", "cluster"]).text();
    info.lines().any(|line| line.starts_with(&format!("x_peer_{other}:state={state},")))
}

/// Waits until each living node may have others stand in: it hears from a majority that has started long enough ago.
fn until_ready(cluster: &Cluster) {
    for node in &cluster.nodes {
        let mut client = node.client();
        until("a majority vouches", || {
            client.command(&["CLUSTER", "INFO"]).text().contains("x_cluster_majority:1\r\n")
        });
    }
}

fn is_refused(value: &Value, name: &str) -> bool {
    matches!(value, Value::Error(text) if text.starts_with(&format!("CLUSTERDOWN node {name} ")))
}

#[test]
fn reads_go_on_while_a_node_is_killed_and_the_source_is_asked_little() {
    let mut cluster = Cluster::start_with_gutter("gutter-ttl = \"1h\"", "");
    until_ready(&cluster);
    let users = users_of(&cluster, 1, 40);
    let absent = (1001..).map(|id| format!("user:{id}")).find(|key| cluster.owner(key) == 1).expect("it has many");
    let mut client = cluster.nodes[0].client();
    let read_all = |client: &mut Client| {
        for (id, key) in &users {
            assert_eq!(client.command(&["GET", key]), Value::bulk(row(*id)), "{key}");
        }
    };
    read_all(&mut client);
    let mut gutter = cluster.nodes[3].client();
    assert_eq!(gutter.loader_counter("user", "keys"), 0, "a gutter is asked because of errors only");
    // Some are on their way when the node dies.
    users.iter().for_each(|(_, key)| client.send(&["GET", key]));
    cluster.nodes[1].kill();
    for (id, key) in &users {
        assert_eq!(client.receive(), Value::bulk(row(*id)), "{key}");
    }
    until("it is out", || {
        read_all(&mut client);
        sees(&mut client, "b", "out")
    });
    let mget: Vec<&str> = std::iter::once("MGET").chain(users.iter().map(|(_, key)| key.as_str())).collect();
    let values = client.command(&mget);
    for ((id, key), value) in users.iter().zip(values.elements()) {
        assert_eq!(value.text(), row(*id), "{key}");
    }
    (0..50).for_each(|_| read_all(&mut client));
    read_all(&mut gutter);
    // Not once: what was loaded in the first 32nd of an outage is too old after the rest.
    let (loads, answered) = (gutter.loader_counter("user", "keys"), gutter.info("x_stood_in"));
    assert!(loads < 8 * users.len() as i64 && answered > 2_000, "{loads} loads for {answered} answers");
    assert_eq!(cluster.nodes[2].client().info("x_stood_in"), 0);
    // A row that is not there is no error.
    assert!(client.command(&["GET", &absent]).is_null());
    cluster.restart(1);
    until("it has returned", || sees(&mut client, "b", "well"));
    assert_eq!(client.command(&["SET", &users[0].1, "1"]), ok());
    assert_eq!(client.command(&["GET", &users[0].1]), Value::bulk("1"));
    assert_eq!(cluster.nodes[1].client().command(&["GET", &users[0].1]), Value::bulk("1"));
}

#[test]
fn changes_and_leases_wait_for_their_node() {
    let mut cluster = Cluster::start_with_gutter("", "");
    until_ready(&cluster);
    let key = users_of(&cluster, 1, 1)[0].1.clone();
    let plain = cluster.key_of(1, "plain:");
    let mut client = cluster.nodes[0].client();
    cluster.nodes[1].kill();
    until("it is out", || sees(&mut client, "b", "out"));
    for command in [
        &["SET", &key, "1"][..],
        &["DEL", &key],
        &["INVAL", &key],
        &["EXPIRE", &key, "0"],
        &["APPEND", &key, "1"],
        &["GETDEL", &key],
        &["GETL", &key],
        &["SETL", &key, "12345", "1"],
        &["RELL", &key, "12345"],
        // Nobody else knows what they ask.
        &["EXISTS", &key],
        &["PTTL", &key],
        &["STRLEN", &key],
    ] {
        let answer = client.command(command);
        assert!(is_refused(&answer, "b"), "{command:?}: {answer}");
    }
    assert!(client.command(&["GET", &key]).text().contains("name"));
    // What no loader has, only the node could have.
    let answer = client.command(&["GET", &plain]);
    assert_eq!(answer.error(), "CLUSTERDOWN the node of this key does not answer, and no loader has it");
    let mut text = cluster.nodes[2].memcached();
    assert!(text.ask(format!("set {key} 0 0 1\r\n1\r\n")).starts_with("SERVER_ERROR node b "));
    assert!(text.ask(format!("mg {key} v N30\r\n")).starts_with("SERVER_ERROR node b "));
    assert!(text.ask(format!("get {key}\r\n")).starts_with(&format!("VALUE {key} 0 ")));
    assert!(text.ask(format!("mg {key} v\r\n")).starts_with("VA "));
}

#[test]
fn a_node_that_stands_still_is_read_around() {
    let cluster = Cluster::start_with_gutter("peer-timeout = \"500ms\"", "");
    until_ready(&cluster);
    let users = users_of(&cluster, 1, 10);
    let mut client = cluster.nodes[0].client();
    users.iter().for_each(|(id, key)| assert_eq!(client.command(&["GET", key]), Value::bulk(row(*id))));
    cluster.nodes[1].pause();
    users.iter().for_each(|(_, key)| client.send(&["GET", key]));
    users.iter().for_each(|(id, _)| assert_eq!(client.receive(), Value::bulk(row(*id))));
    cluster.nodes[1].resume();
    until("it is well again", || sees(&mut client, "b", "well"));
    users.iter().for_each(|(id, key)| assert_eq!(client.command(&["GET", key]), Value::bulk(row(*id))));
}

#[test]
fn what_a_stand_in_has_from_before_a_change_is_not_shown_after_it() {
    let mut cluster = Cluster::start_with_gutter("gutter-ttl = \"1h\"\nflap-out = \"0s\"", "");
    until_ready(&cluster);
    let (id, key) = users_of(&cluster, 1, 1).remove(0);
    let mut client = cluster.nodes[0].client();
    for turn in 0..3 {
        cluster.nodes[1].kill();
        until("it is out", || sees(&mut client, "b", "out"));
        let before = client.command(&["GET", &key]).text();
        assert_eq!(before, if turn == 0 { row(id) } else { format!(r#"{{"id":{id},"name":"turn {}"}}"#, turn - 1) });
        cluster.restart(1);
        until("it has returned", || sees(&mut client, "b", "well"));
        let update = format!("UPDATE users SET name = 'turn {turn}' WHERE id = {id}");
        SqliteFile::open(&cluster.database()).run(&update);
        until("it is told", || !matches!(client.command(&["DEL", &key]), Value::Error(_)));
    }
}

#[test]
fn without_a_majority_or_a_stand_in_reads_are_refused() {
    let mut cluster = Cluster::start_with_gutter("", "");
    until_ready(&cluster);
    let (of_b, of_c) = (users_of(&cluster, 1, 1)[0].1.clone(), users_of(&cluster, 2, 1)[0].1.clone());
    let mut client = cluster.nodes[0].client();
    cluster.nodes[3].kill();
    cluster.nodes[1].kill();
    until("both are out", || sees(&mut client, "b", "out") && sees(&mut client, "g", "out"));
    assert!(is_refused(&client.command(&["GET", &of_b]), "b"));
    assert!(client.command(&["GET", &of_c]).text().contains("name"), "other nodes are served as ever");

    let mut cluster = Cluster::start_with_gutter("", "");
    until_ready(&cluster);
    let (of_a, of_b) = (users_of(&cluster, 0, 1)[0].1.clone(), users_of(&cluster, 1, 1)[0].1.clone());
    let mut client = cluster.nodes[0].client();
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    until("it hears from no majority", || {
        client.command(&["CLUSTER", "INFO"]).text().contains("x_cluster_majority:0\r\n")
    });
    until("nobody stands in", || is_refused(&client.command(&["GET", &of_b]), "b"));
    assert!(client.command(&["GET", &of_a]).text().contains("name"), "own keys are served as ever");
}

#[test]
fn a_stand_in_that_is_back_is_asked_at_once() {
    let mut cluster = Cluster::start_with_gutter("peer-timeout = \"500ms\"\nflap-out = \"0s\"", "");
    until_ready(&cluster);
    let (id, key) = users_of(&cluster, 1, 1).remove(0);
    let mut client = cluster.nodes[0].client();
    cluster.nodes[1].kill();
    until("it is out", || sees(&mut client, "b", "out"));
    assert_eq!(client.command(&["GET", &key]), Value::bulk(row(id)));
    // A request that it leaves without an answer has its connection tried again and again; when it is gone, more and more rarely.
    cluster.nodes[3].pause();
    assert!(matches!(client.command(&["GET", &key]), Value::Error(_)));
    cluster.nodes[3].kill();
    until("the gutter has been tried in vain, again and again", || {
        assert!(matches!(client.command(&["GET", &key]), Value::Error(_)));
        let info = client.command(&["INFO", "cluster"]).text();
        let line = info.lines().find(|line| line.starts_with("x_peer_g:")).expect("each other node is told of");
        let failures = line.split(',').find_map(|field| field.strip_prefix("failures="));
        failures.and_then(|failures| failures.parse::<u32>().ok()).is_some_and(|failures| failures >= 30)
    });
    cluster.restart_gutter();
    until("it has returned", || sees(&mut client, "g", "well"));
    assert_eq!(client.command(&["GET", &key]), Value::bulk(row(id)));
}

#[test]
fn the_other_nodes_may_stand_in_themselves() {
    let mut cluster = Cluster::start_with("gutter = \"same\"", "");
    until_ready(&cluster);
    let users = users_of(&cluster, 1, 30);
    let mut client = cluster.nodes[0].client();
    cluster.nodes[1].kill();
    until("it is out", || sees(&mut client, "b", "out"));
    for _ in 0..3 {
        let mget: Vec<&str> = std::iter::once("MGET").chain(users.iter().map(|(_, key)| key.as_str())).collect();
        let values = client.command(&mget);
        for ((id, key), value) in users.iter().zip(values.elements()) {
            assert_eq!(value.text(), row(*id), "{key}");
            assert_eq!(client.command(&["GET", key]), Value::bulk(row(*id)));
        }
    }
    for place in [0, 2] {
        assert!(cluster.nodes[place].client().info("x_stood_in") > 0, "keys are spread over those that are left");
    }
}

#[test]
fn clients_that_know_the_slots_are_led_to_who_reads_for_the_dead_node() {
    let mut cluster = Cluster::start_with_gutter("", "");
    until_ready(&cluster);
    let (id, key) = users_of(&cluster, 1, 1).remove(0);
    let mut client = cluster.nodes[0].client();
    let owner = |client: &mut Client| address_of_owner(client, &key).1;
    let (here, there) = (cluster.nodes[0].port(), cluster.nodes[1].port());
    assert_eq!(owner(&mut client), there);
    assert!(client.command(&["GET", &key]).error().starts_with("MOVED "));
    cluster.nodes[1].kill();
    until("it is out", || sees(&mut client, "b", "out"));
    assert_eq!(owner(&mut client), here);
    assert_eq!(client.command(&["GET", &key]), Value::bulk(row(id)));
    assert!(is_refused(&client.command(&["DEL", &key]), "b"), "nobody is sent to a node that is out");
    cluster.restart(1);
    until("it has returned", || sees(&mut client, "b", "well"));
    assert_eq!(owner(&mut client), there);
    assert!(client.command(&["GET", &key]).error().starts_with("MOVED "));
}

#[test]
fn what_may_wait_in_a_journal_is_not_read_from_the_source() {
    let behind = r#"
        write = "behind"
        upsert_sql = "INSERT INTO users VALUES ($1, $2->>'name') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
        delete_sql = "DELETE FROM users WHERE id = $1"
        [journal]
        dir = "journal"
    "#;
    let mut cluster = Cluster::start_with_gutter_and_journal(behind);
    until_ready(&cluster);
    let (_, key) = users_of(&cluster, 1, 1).remove(0);
    let mut client = cluster.nodes[0].client();
    assert_eq!(client.command(&["SET", &key, r#"{"name":"later"}"#]), ok());
    cluster.nodes[1].kill();
    until("it is out", || sees(&mut client, "b", "out"));
    let answer = client.command(&["GET", &key]);
    assert!(answer.error().starts_with("CLUSTERDOWN the node of this key may have changes of it "), "{answer}");
    let text = cluster.nodes[2].memcached().ask(format!("get {key}\r\n"));
    assert!(text.starts_with("SERVER_ERROR the node of this key"), "{text}");
}

#[test]
fn an_absence_that_a_stand_in_has_seen_is_not_told_after_a_change() {
    let conf = "gutter-ttl = \"1h\"\nflap-out = \"0s\"";
    let mut cluster = Cluster::start_with_gutter(conf, "negative_ttl = \"1h\"");
    until_ready(&cluster);
    let absent = (1001..).map(|id| (id, format!("user:{id}"))).filter(|(_, key)| cluster.owner(key) == 1);
    let rows: Vec<(usize, String)> = absent.take(2).collect();
    let mut client = cluster.nodes[0].client();
    cluster.nodes[1].kill();
    until("it is out", || sees(&mut client, "b", "out"));
    // Nobody has asked for these before the outage.
    assert!(rows.iter().all(|(_, key)| client.command(&["GET", key]).is_null()));
    cluster.restart(1);
    until("it has returned", || sees(&mut client, "b", "well"));
    let mut database = SqliteFile::open(&cluster.database());
    for (id, key) in &rows {
        assert!(client.command(&["GET", key]).is_null(), "the node remembers that there is none");
        database.run(&format!("INSERT INTO users VALUES ({id}, 'user {id}')"));
    }
    assert_eq!(client.command(&["SET", &rows[0].1, &row(rows[0].0)]), ok());
    assert!(!matches!(client.command(&["INVAL", &rows[1].1]), Value::Error(_)));
    cluster.nodes[1].kill();
    until("it is out again", || sees(&mut client, "b", "out"));
    for (id, key) in &rows {
        assert_eq!(client.command(&["GET", key]), Value::bulk(row(*id)));
    }
}

#[test]
fn a_read_behind_a_change_that_nobody_answers_is_answered_after_it() {
    let mut cluster = Cluster::start_with_gutter("", "");
    until_ready(&cluster);
    let users = users_of(&cluster, 1, 2);
    let mut client = cluster.nodes[0].client();
    assert_eq!(client.command(&["GET", &users[0].1]), Value::bulk(row(users[0].0)));
    cluster.nodes[1].pause();
    for (_, key) in &users {
        client.send(&["SET", key, "late"]);
        client.send(&["GET", key]);
    }
    cluster.nodes[1].kill();
    for (id, _) in &users {
        let answer = client.receive();
        assert!(is_refused(&answer, "b"), "{answer}");
        assert_eq!(client.receive(), Value::bulk(row(*id)));
    }
}

#[test]
fn redis_py_reads_on_when_a_node_is_killed() {
    let Some(mut python) = python("redis-py and a dead node", "redis") else { return };
    let mut cluster = Cluster::start_with_gutter("", "");
    until_ready(&cluster);
    python.env("VICTIM", cluster.nodes[1].port().to_string());
    run_on(&cluster.nodes, cluster.nodes[0].port(), "redis-py and a dead node", python, "redis_py_gutter.py");
    cluster.nodes[1].kill();
}

#[test]
fn a_ring_of_pymemcache_reads_on_when_a_node_is_killed() {
    let Some(mut python) = python("pymemcache and a dead node", "pymemcache") else { return };
    let mut cluster = Cluster::start_with_gutter("", "");
    until_ready(&cluster);
    let ports: Vec<String> = cluster.nodes[..3].iter().map(|node| node.memcached_port().to_string()).collect();
    python.env("PORTS", ports.join(" "));
    let victim = cluster.nodes[1].memcached_port();
    run_on(&cluster.nodes, victim, "pymemcache and a dead node", python, "memcached_pymemcache_gutter.py");
    assert!(cluster.nodes[3].client().info("x_stood_in") > 0);
    cluster.nodes[1].kill();
}
