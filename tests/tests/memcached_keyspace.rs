//! One keyspace for Redis' and memcached's clients: what one writes the other reads, counts, lets expire and flushes.

use leasehold_tests::client_scripts::Node;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Memcached, Server, Value};

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

fn server() -> (Server, Client, Memcached) {
    let server = Server::options().memcached().start();
    let (redis, memcached) = (server.client(), server.memcached());
    (server, redis, memcached)
}

/// The CAS value of a key that is there.
fn cas(client: &mut Memcached, key: &str) -> u64 {
    let reply = client.ask(format!("gets {key}\r\n"));
    let line = reply.lines().next().expect("a line");
    line.rsplit(' ').next().and_then(|cas| cas.parse().ok()).unwrap_or_else(|| panic!("no CAS value: {reply}"))
}

fn value(key: &str, flags: u32, value: &str) -> String {
    format!("VALUE {key} {flags} {}\r\n{value}\r\nEND\r\n", value.len())
}

#[test]
fn values_of_one_are_read_by_the_other() {
    let (_server, mut redis, mut memcached) = server();
    assert_eq!(redis.command(&["SET", "r", "from redis"]), ok());
    assert_eq!(memcached.ask("get r\r\n"), value("r", 0, "from redis"));
    assert_eq!(memcached.ask("set m 0 0 14\r\nfrom memcached\r\n"), "STORED\r\n");
    assert_eq!(redis.command(&["GET", "m"]), Value::bulk("from memcached"));
    assert_eq!(redis.command(&["MGET", "r", "m"]).elements().len(), 2);
    let binary = "\0\r\n\u{e9}END\r\n";
    redis.command(&["SET", "b", binary]);
    let both = format!("VALUE b 0 {}\r\n{binary}\r\n{}", binary.len(), value("r", 0, "from redis"));
    assert_eq!(memcached.ask("get b none r\r\n"), both);
    assert_eq!(memcached.ask("delete r\r\n"), "DELETED\r\n");
    assert!(redis.command(&["GET", "r"]).is_null());
    assert_eq!(redis.command(&["DEL", "m"]), Value::Integer(1));
    assert_eq!(memcached.ask("get m\r\n"), "END\r\n");
}

#[test]
fn numbers_are_counted_by_both() {
    let (_server, mut redis, mut memcached) = server();
    redis.command(&["SET", "n", "40"]);
    assert_eq!(memcached.ask("incr n 1\r\n"), "41\r\n");
    assert_eq!(redis.command(&["INCR", "n"]), Value::Integer(42));
    assert_eq!(memcached.ask("decr n 2\r\n"), "40\r\n");
    // Redis counts below nothing, memcached does not.
    assert_eq!(redis.command(&["DECRBY", "n", "50"]), Value::Integer(-10));
    assert!(memcached.ask("incr n 1\r\n").starts_with("CLIENT_ERROR cannot increment or decrement non-numeric value"));
    assert_eq!(redis.command(&["APPEND", "n", "x"]), Value::Integer(4));
    assert_eq!(memcached.ask("append n 0 0 1\r\ny\r\nprepend n 0 0 1\r\nz\r\n"), "STORED\r\nSTORED\r\n");
    assert_eq!(redis.command(&["GET", "n"]), Value::bulk("z-10xy"));
}

#[test]
fn flags_are_kept_until_redis_writes_the_value_or_a_part_of_it() {
    let (_server, mut redis, mut memcached) = server();
    let mut flags_after = |argv: &[&str]| -> u32 {
        assert_eq!(memcached.ask("set k 4294967295 0 1\r\n1\r\n"), "STORED\r\n");
        assert!(!matches!(redis.command(argv), Value::Error(_)), "{argv:?}");
        let reply = memcached.ask("get k\r\n");
        reply.split(' ').nth(2).and_then(|flags| flags.parse().ok()).unwrap_or_else(|| panic!("{argv:?}: {reply}"))
    };
    let whole = ["SET k 2", "SET k 2 KEEPTTL", "GETSET k 2", "MSET k 2", "SETEX k 100 2"];
    let part = ["INCR k", "INCRBYFLOAT k 1", "APPEND k 2", "SETRANGE k 0 2", "SETBIT k 7 1", "BITFIELD k SET u8 0 50"];
    for write in whole.iter().chain(&part) {
        assert_eq!(flags_after(&write.split(' ').collect::<Vec<_>>()), 0, "{write}");
    }
    for other in ["GET k", "EXPIRE k 100", "GETEX k EX 100", "PERSIST k"] {
        assert_eq!(flags_after(&other.split(' ').collect::<Vec<_>>()), u32::MAX, "{other}");
    }
    memcached.ask("set k 7 0 1\r\n1\r\nappend k 9 0 1\r\n2\r\nincr k 1\r\n");
    assert_eq!(memcached.ask("get k\r\n"), value("k", 7, "13"), "memcached's own changes leave flags");
}

#[test]
fn stats_tell_how_many_values_both_have_stored() {
    let (_server, mut redis, mut memcached) = server();
    memcached.ask("set a 0 0 1\r\n1\r\nset a 0 0 1\r\n2\r\nadd a 0 0 1\r\n3\r\nincr a 1\r\n");
    redis.command(&["SET", "b", "1"]);
    let stats = memcached.ask("stats\r\n");
    assert!(stats.contains("STAT curr_items 2\r\nSTAT total_items 3\r\n"), "{stats}");
}

#[test]
fn writes_of_redis_change_the_cas_value() {
    let (_server, mut redis, mut memcached) = server();
    assert_eq!(redis.command(&["SET", "k", "1"]), ok());
    for write in [
        &["SET", "k", "1"][..],
        &["APPEND", "k", "1"],
        &["INCR", "k"],
        &["SETRANGE", "k", "0", "1"],
        &["MSET", "k", "1"],
        &["SETBIT", "k", "1", "0"],
    ] {
        let before = cas(&mut memcached, "k");
        assert_eq!(cas(&mut memcached, "k"), before, "a read changes nothing");
        redis.command(write);
        assert_eq!(memcached.ask(format!("cas k 0 0 3 {before}\r\nold\r\n")), "EXISTS\r\n", "{write:?}");
        assert_ne!(cas(&mut memcached, "k"), before, "{write:?}");
    }
    let before = cas(&mut memcached, "k");
    redis.command(&["EXPIRE", "k", "1000"]);
    assert_eq!(memcached.ask("touch k 500\r\n"), "TOUCHED\r\n");
    assert_eq!(memcached.ask(format!("cas k 0 0 3 {before}\r\nnew\r\n")), "STORED\r\n", "times change nothing");
    let before = cas(&mut memcached, "k");
    redis.command(&["DEL", "k"]);
    assert_eq!(memcached.ask(format!("cas k 0 0 3 {before}\r\nold\r\n")), "NOT_FOUND\r\n");
    redis.command(&["SET", "k", "again"]);
    assert_eq!(memcached.ask(format!("cas k 0 0 3 {before}\r\nold\r\n")), "EXISTS\r\n", "numbers never come again");
}

#[test]
fn either_side_sets_how_long_a_key_lives() {
    let (_server, mut redis, mut memcached) = server();
    memcached.ask("set k 0 1000 1\r\nv\r\n");
    let ttl = |redis: &mut Client| redis.command(&["TTL", "k"]).integer();
    assert!((900..=1000).contains(&ttl(&mut redis)));
    memcached.ask("touch k 5000\r\n");
    assert!((4900..=5000).contains(&ttl(&mut redis)));
    memcached.ask("gat 9000 k\r\n");
    assert!((8900..=9000).contains(&ttl(&mut redis)));
    memcached.ask("touch k 0\r\n");
    assert_eq!(ttl(&mut redis), -1);
    memcached.ask("set k 0 2592000 1\r\nv\r\n");
    assert!((2_591_900..=2_592_000).contains(&ttl(&mut redis)), "thirty days are a span");
    memcached.ask("set k 0 2592001 1\r\nv\r\n");
    assert_eq!(ttl(&mut redis), -2, "a second more is a point in time, and past");
    memcached.ask("set k 0 -1 1\r\nv\r\n");
    assert_eq!(ttl(&mut redis), -2);

    redis.command(&["SET", "k", "v", "PX", "50"]);
    until("it has expired for memcached, too", || memcached.ask("get k\r\n") == "END\r\n");
    memcached.ask("set k 0 1 1\r\nv\r\n");
    until("it has expired for Redis, too", || redis.command(&["GET", "k"]).is_null());
    assert_eq!(redis.command(&["EXISTS", "k"]), Value::Integer(0));
}

#[test]
fn either_side_flushes_both() {
    let (_server, mut redis, mut memcached) = server();
    let fill = |redis: &mut Client, memcached: &mut Memcached| {
        redis.command(&["SET", "r", "v"]);
        assert_eq!(memcached.ask("set m 0 0 1\r\nv\r\n"), "STORED\r\n");
    };
    fill(&mut redis, &mut memcached);
    assert_eq!(memcached.ask("flush_all\r\n"), "OK\r\n");
    assert_eq!(redis.command(&["MGET", "r", "m"]), Value::Array(vec![Value::NullBulk, Value::NullBulk]));
    fill(&mut redis, &mut memcached);
    assert_eq!(redis.command(&["FLUSHALL"]), ok());
    assert_eq!(memcached.ask("get r m\r\n"), "END\r\n");
    fill(&mut redis, &mut memcached);
    assert_eq!(memcached.ask("flush_all 100000\r\n"), "OK\r\n");
    assert_eq!(memcached.ask("get m\r\n"), value("m", 0, "v"), "it is put off");
    assert_eq!(memcached.ask("flush_all 1\r\n"), "OK\r\n");
    until("the time has come", || redis.command(&["EXISTS", "r", "m"]) == Value::Integer(0));
}

#[test]
fn memcached_sees_the_first_database_only() {
    let (_server, mut redis, mut memcached) = server();
    redis.command(&["SELECT", "1"]);
    redis.command(&["SET", "k", "other"]);
    assert_eq!(memcached.ask("get k\r\n"), "END\r\n");
    assert_eq!(memcached.ask("set k 0 0 4\r\nmine\r\n"), "STORED\r\n");
    assert_eq!(redis.command(&["GET", "k"]), Value::bulk("other"));
}

#[test]
fn a_full_server_refuses_both_and_keeps_what_it_has() {
    let server = Server::options().memcached().set("maxmemory", "16mb").set("maxmemory-policy", "noeviction").start();
    let (mut redis, mut memcached) = (server.client(), server.memcached());
    let body = "x".repeat(100_000);
    let refusal = (0..10_000).find_map(|index| {
        let answer = memcached.ask(format!("set k{index} 0 0 {}\r\n{body}\r\n", body.len()));
        (answer != "STORED\r\n").then_some(answer)
    });
    assert_eq!(refusal.as_deref(), Some("SERVER_ERROR out of memory storing object\r\n"));
    assert!(redis.command(&["SET", "one-more", &body]).error().starts_with("OOM "));
    assert_eq!(memcached.ask("get k0\r\n"), value("k0", 0, &body));
}

#[test]
fn get_reads_through_a_loader() {
    let node = Node::start();
    let (mut redis, mut memcached) = (node.server.client(), node.server.memcached());
    let user = |id: u32| format!(r#"{{"id":{id},"name":"user {id}"}}"#);
    assert_eq!(memcached.ask("get user:42\r\n"), value("user:42", 0, &user(42)));
    assert_eq!(redis.command(&["GET", "user:42"]), Value::bulk(user(42)));
    assert_eq!(memcached.ask("get user:100000\r\n"), "END\r\n", "the source has no such row");
    assert_eq!(memcached.ask("get user:abc\r\n"), "END\r\n");
    let before = cas(&mut memcached, "user:7");
    assert_eq!(memcached.ask(format!("cas user:7 3 0 4 {before}\r\nmine\r\n")), "STORED\r\n");
    assert_eq!(redis.command(&["GET", "user:7"]), Value::bulk("mine"));
    // Loaded once each, the absent one, too.
    assert_eq!(memcached.ask("get user:42 user:100000 user:7\r\n").matches("VALUE").count(), 2);
    assert_eq!(redis.loader_counter("user", "keys"), 3);
    assert_eq!(
        memcached.ask("set user:8 0 0 1\r\nv\r\nget user:8\r\n"),
        format!("STORED\r\n{}", value("user:8", 0, "v"))
    );
    assert_eq!(memcached.ask("touch user:9 10\r\nincr user:9 1\r\n"), "NOT_FOUND\r\nNOT_FOUND\r\n", "only reads load");
    assert_eq!(redis.loader_counter("user", "keys"), 3);
}

#[test]
fn a_multi_get_of_cold_keys_is_one_query() {
    let node = Node::start();
    let (mut redis, mut memcached) = (node.server.client(), node.server.memcached());
    for round in 0..10 {
        let ids = round * 50 + 1..=round * 50 + 50;
        let line: String = ids.clone().map(|id| format!(" user:{id}")).collect();
        let replies = memcached.ask(format!("{}{line} none\r\n", ["get", "gets"][round % 2]));
        let found: Vec<&str> = replies.lines().filter(|line| line.starts_with("VALUE")).collect();
        assert_eq!(found.len(), 50, "{replies}");
        for (id, line) in ids.zip(found) {
            assert!(line.starts_with(&format!("VALUE user:{id} 0 ")), "in the order of the keys: {line}");
        }
        assert_eq!(redis.loader_counter("user", "batches"), round as i64 + 1);
    }
}

#[test]
fn two_hundred_readers_of_one_key_of_both_fronts_are_one_load() {
    const CLIENTS: usize = 200;
    let node = Node::start();
    let mut redis = node.server.client();
    let mut memcached: Vec<Memcached> = (0..CLIENTS).map(|_| node.server.memcached()).collect();
    memcached.iter_mut().for_each(|client| assert_eq!(client.ask(""), ""));
    for id in 1..=5 {
        memcached.iter_mut().for_each(|client| client.send(format!("get user:{id}\r\n")));
        redis.send(&["GET", &format!("user:{id}")]);
        let user = format!(r#"{{"id":{id},"name":"user {id}"}}"#);
        for client in &mut memcached {
            assert_eq!(client.receive_until("END\r\n"), value(&format!("user:{id}"), 0, &user));
        }
        assert_eq!(redis.receive(), Value::bulk(&user));
        assert_eq!(redis.loader_counter("user", "keys"), id);
    }
    assert_eq!((redis.info("lease_waiters"), redis.info("blocked_clients")), (0, 0));
}
