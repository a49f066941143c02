//! Clients that know nothing of several nodes, at any of three: what is another node's is sent on to it, and comes back in order.

use leasehold_tests::client::request;
use leasehold_tests::client_scripts::{python, run_on};
use leasehold_tests::cluster::{addresses, options};
use leasehold_tests::process::free_port;
use leasehold_tests::reply::Value;
use leasehold_tests::watch::{until, until_some};
use leasehold_tests::{Client, Cluster, NoReply, Server, ServerOptions};
use std::io::Read as _;
use std::net::Shutdown;
use std::time::{Duration, Instant};

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

/// Whether this is the answer for a node that does not.
fn is_down(value: &Value, name: &str) -> bool {
    matches!(value, Value::Error(text) if text.starts_with(&format!("CLUSTERDOWN node {name} ")))
}

#[test]
fn any_key_is_set_and_read_at_any_node() {
    let cluster = Cluster::start();
    for version in [2, 3] {
        let mut clients = cluster.clients();
        clients.iter_mut().for_each(|client| client.hello(version));
        for number in 0..150 {
            let (key, value) = (format!("key:{number}"), format!("value {number}"));
            let (here, there) = (number % 3, (number + 1) % 3);
            assert_eq!(clients[here].command(&["SET", &key, &value]), ok());
            assert_eq!(clients[there].command(&["GET", &key]), Value::bulk(&value));
            assert_eq!(clients[here].command(&["APPEND", &key, "!"]).integer(), value.len() as i64 + 1);
            assert!(clients[there].command(&["GET", &format!("none:{number}")]).is_null());
            assert_eq!(clients[there].command(&["OBJECT", "REFCOUNT", &key]).integer(), 1);
        }
        let sizes: Vec<i64> = clients.iter_mut().map(|client| client.command(&["DBSIZE"]).integer()).collect();
        assert!(sizes.iter().sum::<i64>() == 150 && sizes.iter().all(|size| *size > 20), "{sizes:?}");
        // A mistake is told as ever, by whoever has the key.
        assert_eq!(clients[0].command(&["INCR", "key:1"]).error(), "ERR value is not an integer or out of range");
        clients.iter_mut().for_each(|client| assert_eq!(client.command(&["FLUSHALL"]), ok()));
    }
    let forwarded: u64 = cluster.clients().iter_mut().map(|client| client.info("x_forwarded")).sum();
    let executed: u64 = cluster.clients().iter_mut().map(|client| client.info("x_forwarded_here")).sum();
    let info = cluster.nodes[0].client().command(&["INFO", "cluster"]).text();
    for name in ["b", "c"] {
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("x_node_{name}:"))).expect("it is shown");
        assert!(line.starts_with("links=") && !line.starts_with("links=0,") && line.ends_with(",refused=0"), "{line}");
    }
    assert!(!info.contains("x_node_a:"), "{info}");
    assert!(forwarded == executed && forwarded > 500, "{forwarded} sent on, {executed} executed");
}

#[test]
fn a_pipeline_over_all_nodes_is_answered_in_its_order() {
    let cluster = Cluster::start();
    let mut client = cluster.nodes[0].client();
    // More than may be under way for one client.
    const REQUESTS: usize = 5_000;
    let mut sender = Client::over(client.stream().try_clone().expect("a socket"));
    let sent = std::thread::spawn(move || {
        for number in 0..REQUESTS {
            let number = number.to_string();
            sender.send(&["ECHO", &number]);
            sender.send(&["SET", &format!("key:{number}"), &number]);
            sender.send(&["GET", &format!("key:{number}")]);
            sender.send(&["INCR", &format!("counter:{}", number.len())]);
        }
    });
    let mut counts = [0_i64; 8];
    for number in 0..REQUESTS {
        let text = number.to_string();
        assert_eq!(client.receive(), Value::bulk(&text));
        assert_eq!(client.receive(), ok(), "SET key:{number}");
        assert_eq!(client.receive(), Value::bulk(&text), "GET key:{number}");
        counts[text.len()] += 1;
        assert_eq!(client.receive().integer(), counts[text.len()]);
    }
    sent.join().expect("all was sent");
}

#[test]
fn commands_on_keys_of_several_slots_that_must_be_one_step_are_refused() {
    let cluster = Cluster::start();
    let mut client = cluster.nodes[0].client();
    let refused = "CROSSSLOT Keys in request don't hash to the same slot";
    for command in [
        &["MSETNX", "a", "1", "b", "2"][..],
        &["RENAME", "a", "b"],
        &["COPY", "a", "b"],
        &["BITOP", "AND", "a", "b"],
        &["LCS", "a", "b"],
    ] {
        assert_eq!(client.command(command).error(), refused, "{command:?}");
    }
    for place in 0..3 {
        let key = cluster.key_of(place, "tag");
        let (one, other) = (format!("{{{key}}}1"), format!("{{{key}}}2"));
        assert_eq!(client.command(&["MSETNX", &one, "1", &other, "2"]).integer(), 1);
        assert_eq!(client.command(&["RENAME", &one, &other]), ok());
        assert!(client.command(&["GET", &one]).is_null());
        assert_eq!(client.command(&["MGET", &other, &other]).elements(), [Value::bulk("1"), Value::bulk("1")]);
    }
}

#[test]
fn commands_on_many_keys_are_split_and_gathered_in_the_order_of_the_keys() {
    let cluster = Cluster::start();
    for version in [2, 3] {
        for (place, mut client) in cluster.clients().into_iter().enumerate() {
            client.hello(version);
            let keys: Vec<String> = (0..60).map(|number| format!("many:{place}:{number}")).collect();
            let words = |command: &'static str, keys: &[String]| -> Vec<String> {
                std::iter::once(command.to_owned()).chain(keys.iter().cloned()).collect()
            };
            let mut pairs = vec!["MSET".to_owned()];
            keys.iter().skip(1).for_each(|key| pairs.extend([key.clone(), format!("value of {key}")]));
            // In a pipeline with others before, between and behind.
            client.send(&pairs);
            client.send(&["APPEND", &keys[5], "!"]);
            client.send(&words("MGET", &keys));
            client.send(&["PING"]);
            client.send(&words("EXISTS", &keys));
            client.send(&words("TOUCH", &keys[..10]));
            client.send(&words("INVAL", &keys[10..20]));
            client.send(&words("UNLINK", &keys[..30]));
            client.send(&words("DEL", &keys));
            client.send(&words("MGET", &keys));
            assert_eq!(client.receive(), ok());
            assert_eq!(client.receive().integer(), format!("value of {}!", keys[5]).len() as i64);
            let values = client.receive();
            assert_eq!(values.elements().len(), 60);
            assert!(values.elements()[0].is_null());
            for (number, value) in values.elements().iter().enumerate().skip(1) {
                let end = if number == 5 { "!" } else { "" };
                assert_eq!(value.text(), format!("value of {}{end}", keys[number]));
            }
            assert_eq!(client.receive(), Value::Simple("PONG".to_owned()));
            let counts: Vec<i64> = (0..5).map(|_| client.receive().integer()).collect();
            // What is invalidated is stale at once, and no entry for plain commands any more.
            assert_eq!(counts[..3], [59, 9, 10]);
            assert_eq!(counts[3] + counts[4], 49, "{counts:?}");
            assert!(client.receive().elements().iter().all(Value::is_null));
        }
    }
}

#[test]
fn missing_keys_of_one_command_are_loaded_by_their_nodes() {
    let cluster = Cluster::start();
    let mut client = cluster.nodes[0].client();
    let ids = [7, 2000, 8, 1, 9, 2, 7, 3, 4, 5];
    let row = |id: i64| format!(r#"{{"id":{id},"name":"user {id}"}}"#);
    for command in ["MGET", "MLOADTHROUGH"] {
        let mut words = vec![command.to_owned()];
        words.extend(ids.iter().map(|id| format!("user:{id}")));
        client.send(&words);
        client.send(&["PING"]);
        let values = client.receive();
        for (value, id) in values.elements().iter().zip(ids) {
            assert!(if id == 2000 { value.is_null() } else { value.text() == row(id) }, "{command} {id}: {value}");
        }
        assert_eq!(client.receive(), Value::Simple("PONG".to_owned()));
    }
    assert_eq!(cluster.counter("keys"), 9);
    // A key without a loader has an error of its own.
    let (own, foreign) = (cluster.key_of(0, "plain"), cluster.key_of(1, "plain"));
    let reply = client.command(&["MLOADTHROUGH", &own, "user:1", &foreign, "user:2"]);
    let [one, first, two, second] = reply.elements() else { panic!("{reply}") };
    assert!(one.error().starts_with("NOLOADER ") && two.error().starts_with("NOLOADER "), "{reply}");
    assert_eq!((first.text(), second.text()), (row(1), row(2)));
}

#[test]
fn a_pipeline_of_missing_keys_shares_queries_at_their_node() {
    // A window that holds all loads which are asked for together, however slow the machine.
    let cluster = Cluster::start_changed("", "batch_window = \"200ms\"", ServerOptions::memcached);
    let keys = |from: usize| -> Vec<String> {
        let keys = (from..).map(|id| format!("user:{id}"));
        keys.filter(|key| cluster.owner(key) == 1).take(20).collect()
    };
    let mut owner = cluster.nodes[1].client();
    let mut batches = || owner.loader_counter("user", "batches");
    let mut client = cluster.nodes[0].client();
    let first = keys(1);
    client.send_raw(&first.iter().flat_map(|key| request(&["GET", key])).collect::<Vec<u8>>());
    first.iter().for_each(|key| assert!(client.receive().text().contains("name"), "{key}"));
    let of_redis = batches();
    assert!(of_redis <= 4, "{of_redis} queries for a pipeline of 20");
    // What stands behind a write is read after it, and loaded no sooner.
    let second = keys(200);
    client.send(&["GET", &second[0]]);
    client.send(&["DEL", &second[1]]);
    client.send(&["GET", &second[1]]);
    assert!(client.receive().text().contains("name"));
    assert_eq!(client.receive().integer(), 0);
    assert!(client.receive().text().contains("name"));
    assert_eq!(batches() - of_redis, 2);
    let third = keys(500);
    let gets: String = third.iter().map(|key| format!("get {key}\r\n")).collect();
    let before = batches();
    assert_eq!(cluster.nodes[0].memcached().ask(gets).matches("VALUE user:").count(), 20);
    let of_memcached = batches() - before;
    assert!(of_memcached <= 4, "{of_memcached} queries for a pipeline of 20");
}

#[test]
fn a_part_that_has_no_answer_is_told_as_the_answer_of_all_or_of_its_keys() {
    let mut cluster = Cluster::start();
    let keys: Vec<String> = (0..3).map(|place| cluster.key_of(place, "user:")).collect();
    let mut client = cluster.nodes[0].client();
    let words = |command: &'static str| [command, &keys[0], &keys[1], &keys[2]].map(str::to_owned);
    cluster.nodes[1].kill();
    for command in ["MGET", "DEL", "EXISTS", "TOUCH"] {
        let answer = client.command(&words(command));
        assert!(is_down(&answer, "b"), "{command}: {answer}");
    }
    let answer = client.command(&words("MLOADTHROUGH"));
    let [one, two, three] = answer.elements() else { panic!("{answer}") };
    assert!(one.text().contains("name") && is_down(two, "b") && three.text().contains("name"), "{answer}");
    client.send(&["CLIENT", "REPLY", "OFF"]);
    client.send(&words("DEL"));
    client.send(&["CLIENT", "REPLY", "ON"]);
    assert_eq!(client.receive(), ok());
    assert_eq!(client.command(&["EXISTS", &keys[0], &keys[0]]).integer(), 0);
}

#[test]
fn errors_are_counted_once_for_each_command_and_all_counts_begin_anew() {
    let mut cluster = Cluster::start();
    let keys: Vec<String> = (0..3).map(|place| cluster.key_of(place, "user:")).collect();
    let mut client = cluster.nodes[0].client();
    let words = |command: &'static str| [command, &keys[0], &keys[1], &keys[2]].map(str::to_owned);
    assert!(client.command(&words("MGET")).elements().iter().all(|value| value.text().contains("name")));
    assert_eq!(client.command(&["CONFIG", "RESETSTAT"]), ok());
    assert!(client.command(&["INFO", "cluster"]).text().contains("x_node_b:links=1,forwarded=0,refused=0"));
    assert!(client.command(&["INCR", &keys[1]]).error().starts_with("ERR value is not an integer"));
    assert!(client.command(&["INFO", "errorstats"]).text().contains("errorstat_ERR:count=1\r\n"));
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    // Both parts are refused; in MLOADTHROUGH they are elements.
    assert!(is_down(&client.command(&words("DEL")), "b"));
    assert_eq!(client.command(&words("MLOADTHROUGH")).elements().len(), 3);
    let stats = client.command(&["INFO", "everything"]).text();
    assert!(stats.contains("errorstat_CLUSTERDOWN:count=1\r\n"), "{stats}");
    let calls = stats.lines().find(|line| line.starts_with("cmdstat_del:")).expect("it was called");
    assert!(calls.ends_with("rejected_calls=0,failed_calls=1"), "{calls}");
    assert!(stats.contains("x_node_c:links=0,forwarded=") && stats.contains("x_forwarded_refused:4\r\n"), "{stats}");
}

#[test]
fn a_client_that_asks_for_the_slots_is_told_where_its_keys_are() {
    let cluster = Cluster::start();
    let (mut client, key) = (cluster.nodes[0].client(), cluster.key_of(1, "key"));
    let moved = |value: Value| value.error().starts_with("MOVED ");
    assert!(client.command(&["GET", &key]).is_null());
    for shown in [&["CLUSTER", "SLOTS"][..], &["CLUSTER", "SHARDS"], &["CLUSTER", "NODES"], &["READONLY"], &["ASKING"]]
    {
        client.command(shown);
        assert!(moved(client.command(&["GET", &key])), "{shown:?}");
        assert_eq!(client.command(&["RESET"]), Value::Simple("RESET".to_owned()));
        assert!(client.command(&["GET", &key]).is_null());
    }
    // What says nothing of the slots is no sign.
    client.command(&["CLUSTER", "KEYSLOT", &key]);
    client.command(&["CLUSTER", "INFO"]);
    assert!(client.command(&["GET", &key]).is_null());
    let forwarding = Cluster::start_with("routing = \"forward\"", "");
    let (mut client, key) = (forwarding.nodes[0].client(), forwarding.key_of(1, "key"));
    client.command(&["CLUSTER", "SLOTS"]);
    assert!(client.command(&["GET", &key]).is_null());
}

#[test]
fn a_key_is_loaded_once_however_many_nodes_are_asked_for_it() {
    let cluster = Cluster::start();
    let ports: Vec<u16> = cluster.nodes.iter().map(Server::port).collect();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..30)
            .map(|reader| {
                let port = ports[reader % 3];
                scope.spawn(move || {
                    let mut client = Client::connect(port);
                    (1..=20).map(|id| client.command(&["GET", &format!("user:{id}")]).text()).collect::<Vec<_>>()
                })
            })
            .collect();
        for reader in readers {
            for (text, id) in reader.join().expect("the reader ends").iter().zip(1..) {
                assert_eq!(*text, format!(r#"{{"id":{id},"name":"user {id}"}}"#));
            }
        }
    });
    assert_eq!(cluster.counter("keys"), 20);
}

#[test]
fn what_follows_a_command_that_waits_for_a_database_sees_what_it_did() {
    let through = r#"
        write = "through"
        upsert_sql = "INSERT INTO users VALUES ($1, $2->>'name') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
        delete_sql = "DELETE FROM users WHERE id = $1"
    "#;
    let cluster = Cluster::start_with("", through);
    for place in 0..3 {
        let key = cluster.key_of((place + 1) % 3, "user:");
        let id = key.strip_prefix("user:").expect("it is its prefix");
        let mut client = cluster.nodes[place].client();
        client.send(&["GET", &key]);
        for turn in 0..5 {
            client.send(&["SET", &key, &format!(r#"{{"name":"turn {turn}"}}"#)]);
            client.send(&["GET", &key]);
            client.send(&["ECHO", "between"]);
        }
        assert_eq!(client.receive().text(), format!(r#"{{"id":{id},"name":"user {id}"}}"#));
        for turn in 0..5 {
            assert_eq!(client.receive(), ok());
            assert_eq!(client.receive().text(), format!(r#"{{"id":{id},"name":"turn {turn}"}}"#));
            assert_eq!(client.receive(), Value::bulk("between"));
        }
    }
}

#[test]
fn a_lease_is_taken_waited_for_and_spent_through_any_node() {
    let cluster = Cluster::start();
    let key = cluster.key_of(1, "lease");
    let (mut holder, mut waiter, mut other) =
        (cluster.nodes[0].client(), cluster.nodes[0].client(), cluster.nodes[0].client());
    let lease = holder.command(&["GETL", &key]);
    assert_eq!(lease.elements()[0].text(), "LEASE");
    let token = lease.elements()[2].text();
    waiter.send(&["GETL", &key, "WAIT", "60000"]);
    waiter.send(&["GET", &key]);
    let mut owner = cluster.nodes[1].client();
    until("the reader waits at the owner", || waiters(&mut owner, &key) == 1);
    // Another client of the same node is not held up by that one.
    assert_eq!(other.command(&["SET", &format!("{{{key}}}x"), "1"]), ok());
    assert_eq!(cluster.nodes[2].client().command(&["SETL", &key, &token, "value"]).text(), "STORED");
    let hit = waiter.receive();
    assert_eq!((hit.elements()[0].text(), hit.elements()[1].text()), ("HIT".to_owned(), "value".to_owned()));
    assert_eq!(waiter.receive(), Value::bulk("value"));
    assert_eq!(holder.command(&["INVAL", &key, "HARD"]).integer(), 1);
    assert_eq!(holder.command(&["GETL", &key]).elements()[0].text(), "LEASE");
    assert!(other.command(&["SETL", &key, &token, "old"]).text().starts_with("LOST "));
}

/// How many wait for a lease of the key.
fn waiters(node: &mut Client, key: &str) -> i64 {
    let leases = node.command(&["LEASES"]);
    let lease = leases.elements().iter().find(|lease| lease.elements().iter().any(|field| *field == Value::bulk(key)));
    let fields = lease.map(Value::elements).unwrap_or_default();
    fields.chunks(2).find(|pair| pair[0] == Value::bulk("waiters")).map_or(0, |pair| pair[1].integer())
}

#[test]
fn a_client_that_hangs_up_leaves_the_queue_at_the_owner() {
    let cluster = Cluster::start();
    let key = cluster.key_of(2, "lease");
    let mut owner = cluster.nodes[2].client();
    let token = owner.command(&["GETL", &key]).elements()[2].text();
    let mut gone = cluster.nodes[0].client();
    gone.send(&["GETL", &key, "WAIT", "60000"]);
    until("it waits", || waiters(&mut owner, &key) == 1);
    gone.close();
    until("it waits no more", || waiters(&mut owner, &key) == 0);
    // The lease goes to who asks, and to nobody else.
    assert_eq!(owner.command(&["RELL", &key, &token]).integer(), 1);
    assert_eq!(cluster.nodes[1].client().command(&["GETL", &key]).elements()[0].text(), "LEASE");
}

#[test]
fn a_client_that_ends_its_sending_gets_all_answers() {
    let cluster = Cluster::start();
    let mut client = cluster.nodes[0].client();
    for number in 0..100 {
        client.send(&["SET", &format!("key:{number}"), "1"]);
    }
    client.stream().shutdown(Shutdown::Write).expect("it is open");
    for _ in 0..100 {
        assert_eq!(client.receive(), ok());
    }
    assert!(client.is_closed_by_server());
    let mut client = cluster.nodes[1].client();
    for number in 0..100 {
        client.send(&["INCR", &format!("key:{number}")]);
    }
    client.send(&["QUIT"]);
    client.send(&["SET", "key:1", "9"]);
    for _ in 0..100 {
        assert_eq!(client.receive().integer(), 2);
    }
    assert_eq!(client.receive(), ok());
    assert!(client.is_closed_by_server());
    assert_eq!(cluster.nodes[2].client().command(&["GET", "key:1"]), Value::bulk("2"));
}

#[test]
fn who_wants_no_replies_gets_none() {
    let cluster = Cluster::start();
    let mut client = cluster.nodes[0].client();
    client.send(&["CLIENT", "REPLY", "OFF"]);
    for number in 0..50 {
        client.send(&["SET", &format!("key:{number}"), "1"]);
    }
    client.send(&["CLIENT", "REPLY", "ON"]);
    assert_eq!(client.receive(), ok());
    for number in 0..50 {
        client.send(&["CLIENT", "REPLY", "SKIP"]);
        client.send(&["INCR", &format!("key:{number}")]);
        assert_eq!(client.command(&["GET", &format!("key:{number}")]), Value::bulk("2"));
    }
}

#[test]
fn big_values_go_there_and_back() {
    let cluster = Cluster::start();
    let (mut client, key) = (cluster.nodes[0].client(), cluster.key_of(1, "big"));
    for size in [20_000, 70_000, 300_000, 20 << 20] {
        let value: Vec<u8> = (0..size).map(|place: usize| (place / 7) as u8).collect();
        assert_eq!(client.command(&[b"SET", key.as_bytes(), &value]), ok());
        client.send(&["PING"]);
        client.send(&["GET", &key]);
        client.send(&["STRLEN", &key]);
        assert_eq!(client.receive(), Value::Simple("PONG".to_owned()));
        assert!(client.receive() == Value::bulk(&value), "{size} bytes come back");
        assert_eq!(client.receive().integer(), size as i64);
    }
}

#[test]
fn with_a_password_nodes_log_in_to_each_other() {
    let cluster = Cluster::start_with("requirepass = \"secret\"", "");
    let mut client = cluster.nodes[0].client();
    for number in 0..20 {
        assert_eq!(client.command(&["SET", &format!("key:{number}"), "1"]).error(), "NOAUTH Authentication required.");
    }
    assert_eq!(client.command(&["AUTH", "secret"]), ok());
    for number in 0..20 {
        assert_eq!(client.command(&["SET", &format!("key:{number}"), "1"]), ok());
    }
}

#[test]
fn a_node_that_is_killed_is_named_and_asked_again_when_it_is_back() {
    let ports = [free_port(), free_port(), free_port()];
    let start = |place: usize| options(["a", "b", "c"][place], ports[place]).conf(addresses(ports)).start();
    let mut nodes: Vec<Server> = (0..3).map(start).collect();
    let mut client = nodes[0].client();
    let keys: Vec<String> = (0..60).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        assert_eq!(client.command(&["SET", key, "1"]), ok());
    }
    nodes[1].kill();
    // All at once: those of the dead node are refused, and hold up nobody.
    keys.iter().for_each(|key| client.send(&["GET", key]));
    let answers: Vec<Value> = keys.iter().map(|_| client.receive()).collect();
    let refused = answers.iter().filter(|answer| is_down(answer, "b")).count();
    assert!(refused > 5, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == Value::bulk("1")).count(), 60 - refused);
    nodes[1] = start(1);
    until("the new node is asked", || keys.iter().all(|key| !matches!(client.command(&["GET", key]), Value::Error(_))));
    let lost = keys.iter().filter(|key| client.command(&["GET", key]).is_null()).count();
    assert_eq!(lost, refused, "a node that restarts is empty");
}

#[test]
fn a_node_that_stands_still_executes_nothing_that_was_refused() {
    let cluster = Cluster::start();
    let keys: Vec<String> = (0..20).map(|number| format!("{{{}}}{number}", cluster.key_of(1, "key"))).collect();
    let (mut client, mut owner) = (cluster.nodes[0].client(), cluster.nodes[1].client());
    for key in &keys {
        assert_eq!(client.command(&["SET", key, "old"]), ok());
    }
    cluster.nodes[1].pause();
    let before = Instant::now();
    for key in &keys {
        client.send(&["SET", key, "new"]);
    }
    for _ in &keys {
        let answer = client.receive();
        assert!(is_down(&answer, "b"), "{answer}");
    }
    assert!(before.elapsed() >= Duration::from_millis(900), "it is given the time that it has");
    // From then on nobody waits for it, and the other nodes are served.
    for _ in 0..20 {
        assert!(is_down(&client.command(&["SET", &keys[0], "newer"]), "b"));
    }
    assert_eq!(client.command(&["SET", &cluster.key_of(2, "key"), "1"]), ok());
    cluster.nodes[1].resume();
    until("it is asked again", || !matches!(client.command(&["EXISTS", &keys[0]]), Value::Error(_)));
    for key in &keys {
        assert_eq!(owner.command(&["GET", key]), Value::bulk("old"));
        assert_eq!(client.command(&["GET", key]), Value::bulk("old"));
    }
}

#[test]
fn what_waits_behind_a_parked_command_is_not_executed_after_it_was_refused() {
    let cluster = Cluster::start();
    let key = cluster.key_of(1, "lease");
    let (mut client, mut owner) = (cluster.nodes[0].client(), cluster.nodes[1].client());
    let token = owner.command(&["GETL", &key]).elements()[2].text();
    client.send(&["GETL", &key, "WAIT", "60000"]);
    client.send(&["SET", &key, "behind"]);
    until("it waits", || waiters(&mut owner, &key) == 1);
    cluster.nodes[1].pause();
    assert!(is_down(&client.receive(), "b"));
    assert!(is_down(&client.receive(), "b"));
    cluster.nodes[1].resume();
    // Were the parked command still there, this would wake it, and what is behind it would run.
    assert_eq!(owner.command(&["SETL", &key, &token, "filled"]).text(), "STORED");
    until("it is asked again", || !matches!(client.command(&["EXISTS", &key]), Value::Error(_)));
    assert_eq!(owner.command(&["GET", &key]), Value::bulk("filled"));
}

#[test]
fn nodes_with_different_lists_refuse_each_other_in_words() {
    let ports = [free_port(), free_port(), free_port()];
    let other = addresses(ports).replacen("[nodes.b]\n", "[nodes.b]\nweight = 2\n", 1);
    let one = options("a", ports[0]).conf(addresses(ports)).start();
    let _two = options("b", ports[1]).conf(other).start();
    let mut client = one.client();
    let refusal = until_some("a key is node b's", || {
        let number = client.command(&["CLUSTER", "MYID"]).text().len() as u64 + client.info("total_commands_processed");
        match client.command(&["GET", &format!("key:{number}")]) {
            Value::Error(text) if text.contains("node b ") => Some(text),
            _ => None,
        }
    });
    assert!(
        refusal.starts_with("CLUSTERDOWN node b refuses this one: node b has another list of nodes (epoch "),
        "{refusal}"
    );
    assert!(refusal.contains("(slot "), "{refusal}");
}

#[test]
fn a_link_is_for_nodes_of_the_same_list_and_version() {
    let cluster = Cluster::start();
    let mut client = cluster.nodes[0].client();
    let info = client.command(&["CLUSTER", "INFO"]).text();
    let epoch =
        info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:")).expect("it is told").to_owned();
    for (protocol, name, epoch, words) in [
        ("2", "b", epoch.as_str(), "node a speaks version 1 of the protocol between nodes, not 2"),
        ("1", "b", "7", "node a has another list of nodes"),
        ("1", "x", &epoch, "node a knows no node x"),
    ] {
        let refusal = client.command(&["CLUSTER", "LINK", protocol, name, epoch]);
        assert!(refusal.error().contains(words), "{refusal}");
        assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
    }
    assert_eq!(client.command(&["CLUSTER", "LINK", "1", "b", &epoch]), ok());
    // What follows is read as frames; this is none.
    client.send_raw(b"PING\r\n and more than the head of a frame\r\n");
    let mut stream = client.stream();
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
    stream.read_to_end(&mut Vec::new()).expect("the server closes");
    assert_eq!(cluster.nodes[0].client().command(&["PING"]), Value::Simple("PONG".to_owned()));
}

#[test]
fn a_node_that_ends_answers_what_it_has() {
    let mut cluster = Cluster::start();
    let keys: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
    let mut client = cluster.nodes[0].client();
    keys.iter().for_each(|key| assert_eq!(client.command(&["SET", key, "1"]), ok()));
    let held = cluster.key_of(1, "lease");
    assert_eq!(cluster.nodes[1].client().command(&["GETL", &held]).elements()[0].text(), "LEASE");
    let mut waiter = cluster.nodes[0].client();
    waiter.send(&["GETL", &held, "WAIT", "2000"]);
    let mut owner = cluster.nodes[1].client();
    until("it waits", || waiters(&mut owner, &held) == 1);
    owner.close();
    assert!(cluster.nodes[1].terminate().is_some_and(|status| status.success()));
    let answer = waiter.receive();
    assert!(!matches!(answer, Value::Error(_)), "the patience of what waits is kept: {answer}");
    let answers: Vec<Value> = keys.iter().map(|key| client.command(&["GET", key])).collect();
    assert!(answers.iter().any(|answer| is_down(answer, "b")));
    assert!(answers.iter().all(|answer| is_down(answer, "b") || *answer == Value::bulk("1")), "{answers:?}");
    assert_eq!(client.receive_within(Duration::ZERO), Err(NoReply::Timeout), "one answer each");
}

#[test]
fn redis_py_works_at_any_node() {
    let Some(python) = python("redis-py at any node", "redis") else { return };
    let cluster = Cluster::start();
    run_on(&cluster.nodes, cluster.nodes[0].port(), "redis-py at any node", python, "redis_py_nodes.py");
}
