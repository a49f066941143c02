//! Three nodes that share the keys: clients of Redis Cluster find the right one (redis-py, ioredis, node-redis: scripts in `tests/clients`;
//! redis-rs), and each key is loaded once in all.

use leasehold_tests::client_scripts::{node_js, python, run_on};
use leasehold_tests::cluster::NAMES;
use leasehold_tests::reply::Value;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Cluster, Server};
use redis::Commands as _;
use redis::cluster::{ClusterClient, cluster_pipe};

/// Nodes that tell every client of the right node.
fn redirecting() -> Cluster {
    Cluster::start_with("routing = \"redirect\"", "")
}

/// What GET of a key answers at a node, or where it sends the client.
fn get(node: &mut Client, key: &str) -> Result<Value, u16> {
    let reply = node.command(&["GET", key]);
    match &reply {
        Value::Error(text) => {
            let (_, port) = text.rsplit_once(':').filter(|_| text.starts_with("MOVED ")).expect("an address");
            Err(port.parse().expect("the address ends with a port"))
        }
        _ => Ok(reply),
    }
}

#[test]
fn each_key_is_served_by_one_node_and_the_others_name_it() {
    let cluster = redirecting();
    let mut clients: Vec<Client> = cluster.nodes.iter().map(Server::client).collect();
    let mut served = [0; NAMES.len()];
    for number in 0..300 {
        let key = format!("key:{number}");
        let answers: Vec<Result<Value, u16>> = clients.iter_mut().map(|client| get(client, &key)).collect();
        let owner = answers.iter().position(Result::is_ok).expect("one node has the key");
        served[owner] += 1;
        let port = cluster.nodes[owner].port();
        for (place, answer) in answers.into_iter().enumerate() {
            assert!(place == owner || answer == Err(port), "{key} at {}", NAMES[place]);
        }
    }
    assert!(served.iter().all(|count| *count > 50), "{served:?}");
    assert_eq!(clients[0].info("cluster_enabled"), 1);
}

#[test]
fn a_key_is_loaded_once_whichever_node_is_asked_first() {
    let cluster = redirecting();
    let ports: Vec<u16> = cluster.nodes.iter().map(Server::port).collect();
    let read = |port: u16| match get(&mut Client::connect(port), "user:999") {
        Ok(value) => value.text(),
        Err(owner) => get(&mut Client::connect(owner), "user:999").expect("the owner answers").text(),
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..30)
            .map(|reader| {
                let ports = &ports;
                scope.spawn(move || (0..10).map(|turn| read(ports[(reader + turn) % 3])).collect::<Vec<_>>())
            })
            .collect();
        for reader in readers {
            let texts = reader.join().expect("the reader ends");
            assert!(texts.iter().all(|text| text == r#"{"id":999,"name":"user 999"}"#), "{texts:?}");
        }
    });
    assert_eq!(cluster.counter("keys"), 1);
}

#[test]
fn warming_loads_own_keys_only() {
    let cluster = redirecting();
    let keys: Vec<String> = (1..=100).map(|id| format!("user:{id}")).collect();
    let mut loaded = 0;
    for node in &cluster.nodes {
        let mut client = node.client();
        let mut words = vec!["LOADER", "WARM", "user", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        assert_eq!(client.command(&words).text(), "OK");
        until("all keys are loaded or skipped", || client.loader_counter("user", "warm_done") == 100);
        let own = keys.iter().filter(|key| get(&mut client, key).is_ok()).count() as i64;
        assert_eq!(client.loader_counter("user", "warm_skipped"), 100 - own);
        assert_eq!(client.loader_counter("user", "keys"), own);
        loaded += own;
    }
    assert_eq!(loaded, 100);
}

#[test]
fn redis_py_finds_every_key_and_each_is_loaded_once() {
    let Some(python) = python("redis-py cluster", "redis") else { return };
    let cluster = Cluster::start();
    run_on(&cluster.nodes, cluster.nodes[0].port(), "redis-py cluster", python, "redis_py_cluster.py");
}

#[test]
fn ioredis_finds_every_key() {
    let Some(node) = node_js("ioredis cluster", "ioredis") else { return };
    let cluster = Cluster::start();
    run_on(&cluster.nodes, cluster.nodes[0].port(), "ioredis cluster", node, "ioredis_cluster.mjs");
}

#[test]
fn node_redis_finds_every_key() {
    let Some(node) = node_js("node-redis cluster", "redis") else { return };
    let cluster = Cluster::start();
    run_on(&cluster.nodes, cluster.nodes[0].port(), "node-redis cluster", node, "node_redis_cluster.mjs");
}

#[test]
fn redis_rs_finds_every_key() -> redis::RedisResult<()> {
    let cluster = Cluster::start();
    for protocol in ["", "?protocol=resp3"] {
        let url = format!("redis://127.0.0.1:{}/{protocol}", cluster.nodes[0].port());
        let mut client = ClusterClient::new([url])?.get_connection()?;
        for number in 0..300 {
            client.set::<_, _, ()>(format!("key:{number}"), number)?;
            assert_eq!(client.get::<_, i64>(format!("key:{number}"))?, number);
        }
        // Split by the client, over all nodes.
        let keys: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
        assert_eq!(client.mget::<_, Vec<i64>>(&keys)?, (0..300).collect::<Vec<_>>());
        assert_eq!(client.del::<_, i64>(&keys)?, 300);
        let mut pipeline = cluster_pipe();
        for number in 0..100 {
            pipeline.set(format!("pipe:{number}"), number).ignore().get(format!("pipe:{number}"));
        }
        assert_eq!(pipeline.query::<Vec<i64>>(&mut client)?, (0..100).collect::<Vec<_>>());
        for number in 0..50 {
            let key = format!("lease:{number}");
            let (status, _, token, _, _): (String, Option<String>, String, i64, i64) =
                redis::cmd("GETL").arg(&key).query(&mut client)?;
            assert_eq!(status, "LEASE", "{key}");
            let stored: String = redis::cmd("SETL").arg(&key).arg(&token).arg("html").query(&mut client)?;
            assert_eq!(stored, "STORED");
            assert_eq!(client.get::<_, String>(&key)?, "html");
            assert_eq!(redis::cmd("INVAL").arg(&key).arg("HARD").query::<i64>(&mut client)?, 1);
        }
        for id in 1..=50 {
            let row = format!(r#"{{"id":{id},"name":"user {id}"}}"#);
            assert_eq!(client.get::<_, String>(format!("user:{id}"))?, row);
        }
        assert_eq!(client.get::<_, Option<String>>("user:100000")?, None);
    }
    assert_eq!(cluster.counter("keys"), 51, "of both clients together");
    Ok(())
}
