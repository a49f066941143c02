//! The memory limit and the settings that act at once, on the real binary.

use leasehold_tests::client::request;
use leasehold_tests::random::{Random, value};
use leasehold_tests::watch::{rss_bytes, rss_max, until};
use leasehold_tests::{Client, Server, ServerOptions, Value, groups};
use std::time::{Duration, Instant};

const MEBIBYTE: u64 = 1024 * 1024;

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

fn limited(bytes: u64, policy: &str) -> ServerOptions {
    Server::options().set("maxmemory", bytes).set("maxmemory-policy", policy)
}

/// Sets `keys` in one pipeline; all must be stored.
fn fill(client: &mut Client, keys: std::ops::Range<u64>, mut len: impl FnMut() -> usize) {
    let count = keys.end - keys.start;
    let mut pipeline = Vec::new();
    for key in keys {
        pipeline.extend(request(&[&b"SET"[..], key.to_string().as_bytes(), &value(key, len())]));
    }
    client.send_raw(&pipeline);
    for _ in 0..count {
        assert_eq!(client.receive(), ok());
    }
}

#[test]
fn resident_memory_keeps_to_the_limit_when_sizes_change() {
    const LIMIT: u64 = 64 * MEBIBYTE;
    for policy in ["allkeys-lru", "allkeys-tinylfu"] {
        let server = limited(LIMIT, policy).start();
        let mut client = server.client();
        let mut random = Random(3);
        let mut key = 0;
        let mut phase = |name: &str, entries: u64, batch: u64, len: &mut dyn FnMut() -> usize| {
            for first in (key..key + entries).step_by(batch as usize) {
                fill(&mut client, first..first + batch, &mut *len);
            }
            key += entries;
            // The last batches, up to 10 MB each, leave buffers that go once the connection is idle.
            until("resident memory is within its bound", || {
                client.info("used_memory") > 0 && rss_bytes(server.pid()) <= rss_max(LIMIT)
            });
            let (rss, used) = (rss_bytes(server.pid()), client.info("used_memory"));
            groups::say(&format!("memory: {policy}, after values of {name}: used {used}, rss {rss}, limit {LIMIT}"));
            assert!(used > LIMIT * 3 / 4 && used <= LIMIT, "{policy}, {name}: {used}");
        };
        phase("50 B", 1_000_000, 10_000, &mut || 50);
        phase("5 KB", 30_000, 200, &mut || 5_000);
        phase("50 B", 1_000_000, 10_000, &mut || 50);
        phase("8 B to 256 KB", 8_000, 40, &mut || random.size(3, 18));
    }
}

#[test]
fn the_limit_holds_under_random_sizes() {
    const LIMIT: u64 = 64 * MEBIBYTE;
    let server = limited(LIMIT, "allkeys-lru").start();
    let mut client = server.client();
    let rss_at_start = rss_bytes(server.pid());
    let (mut random, mut written, mut largest) = (Random(1), 0, 0);
    for batch in 0..400 {
        let first = batch * 100;
        fill(&mut client, first..first + 100, || {
            let len = random.size(3, 17);
            written += len as u64;
            len
        });
        let used = client.info("used_memory");
        assert!(used <= LIMIT, "{used} bytes after batch {batch}");
        largest = largest.max(used);
        // Of ten keys, hits and misses alike, each answer is whole and its own.
        for _ in 0..10 {
            let key = random.below(first + 100);
            let reply = client.command(&["GET", &key.to_string()]);
            assert!(
                reply.is_null() || reply.bytes().is_some_and(|bytes| bytes.starts_with(format!("{key};").as_bytes()))
            );
        }
    }
    let (evicted, rss) = (client.info("evicted_keys"), rss_bytes(server.pid()));
    groups::say(&format!(
        "memory: {written} bytes written under a limit of {LIMIT}: used at most {largest}, {evicted} keys evicted, rss {rss_at_start} -> {rss}"
    ));
    assert!(written > 6 * LIMIT, "only {written} bytes: nothing was tested");
    assert!(largest > LIMIT / 2, "the limit is used: {largest}");
    assert!(evicted > 1_000);
    assert!(rss <= rss_max(LIMIT), "rss {rss}");
}

#[test]
fn keys_in_use_stay_while_others_go() {
    const HOT: u64 = 50;
    let server = limited(4 * MEBIBYTE, "allkeys-lru").start();
    let mut client = server.client();
    let mut random = Random(2);
    fill(&mut client, 0..HOT, || 300);
    for round in 1..=8 {
        // Those of the rounds before are now older than those in use by more than the clock of accesses is fine.
        let begun = Instant::now();
        until("the clock of accesses has moved", || begun.elapsed() > Duration::from_millis(300));
        for key in 0..HOT {
            client.command(&["GET", &key.to_string()]);
        }
        // A third of the memory.
        for first in (round * 10_000..round * 10_000 + 3_000).step_by(500) {
            fill(&mut client, first..first + 500, || random.size(7, 9));
        }
    }
    let left = (0..HOT).filter(|key| !client.command(&["GET", &key.to_string()]).is_null()).count();
    groups::say(&format!(
        "memory: {left} of {HOT} keys in use are left after {} evictions",
        client.info("evicted_keys")
    ));
    assert!(client.info("evicted_keys") > 10_000);
    // Sampling may miss by a little.
    assert!(left >= 47, "{left} are left");
}

#[test]
fn the_limit_holds_while_many_write_at_once() {
    const LIMIT: u64 = 16 * MEBIBYTE;
    let server = limited(LIMIT, "allkeys-lru").start();
    let mut watcher = server.client();
    let largest = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer: u64| {
                let mut client = server.client();
                scope.spawn(move || {
                    let mut random = Random(writer);
                    for batch in 0..60 {
                        let first = (writer * 60 + batch) * 200;
                        fill(&mut client, first..first + 200, || random.size(3, 15));
                    }
                })
            })
            .collect();
        let mut largest = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            let used = watcher.info("used_memory");
            assert!(used <= LIMIT, "{used}");
            largest = largest.max(used);
        }
        largest
    });
    assert!(largest > LIMIT / 2, "{largest}");
    assert!(watcher.info("evicted_keys") > 1_000);
}

#[test]
fn volatile_policies_spare_what_has_no_ttl() {
    let server = limited(8 * MEBIBYTE, "volatile-lru").start();
    let mut client = server.client();
    fill(&mut client, 0..100, || 10_000);
    for key in 100..2_000 {
        assert_eq!(
            client.command(&[&b"SET"[..], key.to_string().as_bytes(), &value(key, 10_000), b"EX", b"1000"]),
            ok()
        );
    }
    for key in 0..100 {
        assert!(!client.command(&["GET", &key.to_string()]).is_null(), "{key} had no TTL");
    }
    assert!(client.info("evicted_keys") > 500);
    assert!(client.info("used_memory") <= 8 * MEBIBYTE);
}

#[test]
fn without_eviction_writes_are_refused_and_reads_go_on() {
    let server = limited(4 * MEBIBYTE, "noeviction").start();
    let mut client = server.client();
    let body = vec![b'x'; 10_000];
    let mut stored = 0;
    let refusal = loop {
        match client.command(&[&b"SET"[..], stored.to_string().as_bytes(), &body]) {
            Value::Error(text) => break text,
            reply => assert_eq!(reply, ok()),
        }
        stored += 1;
        assert!(stored < 1_000, "the limit is ignored");
    };
    assert_eq!(refusal, "OOM command not allowed when used memory > 'maxmemory'.");
    assert!(stored > 200, "only {stored} values of 10 kB fit into 4 MiB");
    let text = String::from_utf8(body.clone()).expect("letters");
    for command in [
        &["APPEND", "0", &text][..],
        &["MSET", "a", &text, "b", &text],
        &["GETSET", "a", &text],
        &["SETRANGE", "a", "20000", "x"],
        &["SETBIT", "bits", "200000", "1"],
        &["COPY", "0", "copy"],
    ] {
        let reply = client.command(command);
        assert!(matches!(&reply, Value::Error(text) if text.starts_with("OOM ")), "{command:?}: {reply}");
    }
    // A lease takes next to nothing; the value would not fit.
    let lease = client.command(&["GETL", "cold"]);
    assert_eq!(lease.elements()[0].text(), "LEASE");
    let reply = client.command(&["SETL", "cold", &lease.elements()[2].text(), &text]);
    assert!(
        matches!(&reply, Value::Error(text) if text.starts_with("OOM ")) || reply.text().starts_with("LOST"),
        "{reply}"
    );
    assert!(client.command(&["GET", "cold"]).is_null());
    assert_eq!(client.command(&["GET", "0"]), Value::bulk(&body));
    assert_eq!(client.command(&["MGET", "1", "a"]), Value::Array(vec![Value::bulk(&body), Value::NullBulk]));
    assert_eq!(client.command(&["EXPIRE", "0", "1000"]), Value::Integer(1));
    assert_eq!(client.info("evicted_keys"), 0);
    assert_eq!(client.command(&["DEL", "0", "1", "2"]), Value::Integer(3));
    assert_eq!(client.command(&["SET", "a", "1"]), ok());
    assert!(client.info("used_memory") <= 4 * MEBIBYTE);
}

#[test]
fn a_value_larger_than_the_limit_is_refused_and_evicts_nobody_else() {
    let server = limited(4 * MEBIBYTE, "allkeys-lru").start();
    let mut client = server.client();
    fill(&mut client, 0..100, || 1_000);
    let reply = client.command(&[&b"SET"[..], b"huge", &vec![b'x'; 5 * MEBIBYTE as usize]]);
    assert!(matches!(&reply, Value::Error(text) if text.starts_with("OOM ")), "{reply}");
    assert!(client.command(&["GET", "huge"]).is_null());
    assert_eq!(client.command(&["DBSIZE"]), Value::Integer(100));
    assert_eq!(client.command(&["SET", "small", "1"]), ok());
}

#[test]
fn a_lower_limit_shrinks_at_once_and_a_higher_one_gives_room() {
    let server = limited(32 * MEBIBYTE, "allkeys-lru").start();
    let mut client = server.client();
    fill(&mut client, 0..3_000, || 10_000);
    assert!(client.info("used_memory") > 24 * MEBIBYTE);
    assert_eq!(client.command(&["CONFIG", "SET", "maxmemory", "8mb"]), ok());
    assert_eq!(client.info("maxmemory"), 8 * MEBIBYTE);
    until("the entries fit into the new limit", || client.info("used_memory") <= 8 * MEBIBYTE);
    assert!(client.info("evicted_keys") > 1_000);
    assert!(client.command(&["DBSIZE"]).integer() > 300, "no more goes than must");
    assert_eq!(client.command(&["CONFIG", "SET", "maxmemory", "64mb"]), ok());
    let evicted = client.info("evicted_keys");
    fill(&mut client, 10_000..13_000, || 10_000);
    assert_eq!(client.info("evicted_keys"), evicted);
}

#[test]
fn a_new_policy_acts_at_once() {
    let server = limited(4 * MEBIBYTE, "allkeys-lru").start();
    let mut client = server.client();
    fill(&mut client, 0..1_000, || 10_000);
    for _ in 0..3 {
        assert_eq!(client.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]), ok());
        let body = vec![b'x'; 100_000];
        let refused = (0..40).any(|key| {
            matches!(client.command(&[&b"SET"[..], format!("new{key}").as_bytes(), &body]), Value::Error(text) if text.starts_with("OOM "))
        });
        assert!(refused, "4 MB more went in");
        assert_eq!(client.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]), ok());
        assert_eq!(client.command(&[&b"SET"[..], b"new", &body]), ok());
    }
    let reply = client.command(&["CONFIG", "SET", "maxmemory-policy", "oldest"]);
    assert!(reply.error().contains("maxmemory-policy"), "{reply}");
}

#[test]
fn a_new_timeout_acts_on_the_connections_there_are() {
    let server = Server::start();
    let mut client = server.client();
    let (mut idle, mut parked) = (server.client(), server.client());
    idle.command(&["PING"]);
    let lease = client.command(&["GETL", "k", "LEASE", "60000"]);
    assert_eq!(lease.elements()[0].text(), "LEASE");
    parked.send(&["GETL", "k", "WAIT", "60000"]);
    assert_eq!(client.command(&["CONFIG", "SET", "timeout", "1"]), ok());
    let set = Instant::now();
    until("the idle connection is closed", || client.info("x_idle_disconnections") == 1);
    groups::say(&format!("memory: timeout 1: the idle connection was closed after {:?}", set.elapsed()));
    assert!(idle.is_closed_by_server());
    // A second that it waits in a command is no second that it is idle.
    until("twice the timeout", || {
        client.command(&["PING"]);
        set.elapsed() > Duration::from_millis(2_500)
    });
    assert_eq!(client.command(&["SETL", "k", &lease.elements()[2].text(), "loaded"]).text(), "STORED");
    assert_eq!(parked.receive().elements()[1], Value::bulk("loaded"));
    assert_eq!(client.command(&["CONFIG", "SET", "timeout", "0"]), ok());
}

#[test]
fn a_new_log_level_acts_at_once() {
    let server = Server::start();
    let mut client = server.client();
    let mistake = || {
        let mut client = server.client();
        client.send_raw(b"*x\r\n");
        assert!(client.is_closed_by_server());
    };
    mistake();
    assert!(!server.logs().contains("protocol error"), "{}", server.logs());
    assert_eq!(client.command(&["CONFIG", "SET", "loglevel", "debug"]), ok());
    until("a protocol error is logged", || {
        mistake();
        server.logs().contains("protocol error")
    });
    assert_eq!(client.command(&["CONFIG", "SET", "loglevel", "warning"]), ok());
    assert_eq!(client.command(&["CONFIG", "GET", "loglevel"]).elements()[1].text(), "warning");
    let before = server.logs().matches("protocol error").count();
    mistake();
    assert_eq!(server.logs().matches("protocol error").count(), before);
}
