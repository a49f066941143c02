//! What an operator has of memcached's port: how it ends, who is let in, who is sent away, what may be changed from there.

use leasehold_tests::process::Directory;
use leasehold_tests::watch::until;
use leasehold_tests::{Database, Memcached, Postgres, Server, Value};
use std::net::TcpStream;

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn sigterm_answers_a_get_that_waits_for_its_load_and_ends_with_0() {
    let Some(postgres) = Postgres::shared("memcached operation") else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database
        .run("CREATE TABLE users (id int8 PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'ann'), (2, 'bob')");
    let conf = format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "60s"

        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = "SELECT id, name FROM users WHERE id = $1"
        value = "column"
        hard_timeout = "60s"
        "#
    );
    let mut server = Server::options().conf(conf).memcached().set("shutdown-timeout", 60).start();
    let (port, memcached_port) = (server.port(), server.memcached_port());
    let mut redis = server.client();
    // The loader's statements are checked after the server listens, and a locked table would hold that up.
    assert_eq!(redis.command(&["GET", "user:2"]), Value::bulk("bob"));
    database.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE");
    let mut waiting = ["get user:1\r\n", "get user:1 user:2\r\n", "mg user:1 v\r\n"].map(|line| {
        let mut client = server.memcached();
        // What is behind it in the pipeline is run, too.
        client.send(format!("{line}mn\r\n"));
        client
    });
    let mut idle = server.memcached();
    assert_eq!(idle.ask("get none\r\n"), "END\r\n");
    until("they wait", || redis.info("blocked_clients") == 3);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            until("nobody is let in any more", || !is_open(port) && !is_open(memcached_port));
            assert_eq!(idle.receive_to_end(), "");
            database.run("COMMIT");
        });
        server.terminate()
    });
    assert!(status.is_some_and(|status| status.code() == Some(0)), "{status:?}\n{}", server.logs());
    let answers = waiting.each_mut().map(Memcached::receive_to_end);
    let (ann, bob) = ("VALUE user:1 0 3\r\nann\r\n", "VALUE user:2 0 3\r\nbob\r\n");
    let expected =
        [format!("{ann}END\r\nMN\r\n"), format!("{ann}{bob}END\r\nMN\r\n"), "VA 3\r\nann\r\nMN\r\n".to_owned()];
    assert_eq!(answers, expected);
}

#[test]
fn a_configured_timeout_closes_idle_clients_only() {
    let server = Server::options().memcached().set("timeout", 3).start();
    let (mut watcher, mut busy) = (server.client(), server.memcached());
    let mut idle: Vec<Memcached> = (0..5).map(|_| server.memcached()).collect();
    // One that connected and never said anything, one with half a command, and three that were answered.
    idle[1].send("get half");
    idle[2..].iter_mut().for_each(|client| assert_eq!(client.ask("get none\r\n"), "END\r\n"));
    until("the idle are closed", || {
        assert_eq!(busy.ask("get none\r\n"), "END\r\n");
        watcher.info("x_idle_disconnections") == 5
    });
    idle.iter_mut().for_each(|client| assert_eq!(client.receive_to_end(), ""));
    assert_eq!(busy.ask("get none\r\n"), "END\r\n");
}

/// What a line is answered with, by a server that may not know the client yet.
fn line(client: &mut Memcached, request: &str) -> String {
    client.send(request);
    client.receive_until("\r\n")
}

#[test]
fn with_an_authentication_file_nothing_is_run_for_strangers() {
    let files = Directory::new();
    let path = files.path().join("users");
    std::fs::write(&path, "ann:se:cret\nbob:hush\n").expect("the directory is ours");
    let conf = format!("memcached-auth-file = \"{}\"", path.display());
    let server = Server::options().memcached().conf(conf).set("requirepass", "other").start();
    let mut client = server.memcached();
    for request in
        ["get k\r\n", "version\r\n", "mg k v\r\n", "flush_all noreply\r\n", "lease-get k\r\n", "nonsense\r\n"]
    {
        assert_eq!(line(&mut client, request), "CLIENT_ERROR unauthenticated\r\n", "{request:?}");
    }
    for (data, answer) in [
        ("ann wrong", "CLIENT_ERROR authentication failure\r\n"),
        ("ann hush", "CLIENT_ERROR authentication failure\r\n"),
        ("eve se:cret", "CLIENT_ERROR authentication failure\r\n"),
        ("ann", "CLIENT_ERROR bad authentication token format\r\n"),
        ("other other", "CLIENT_ERROR authentication failure\r\n"),
    ] {
        assert_eq!(line(&mut client, &format!("set k 0 0 {}\r\n{data}\r\n", data.len())), answer, "{data}");
    }
    assert_eq!(line(&mut client, "get k\r\n"), "CLIENT_ERROR unauthenticated\r\n");
    // The answer to this set says whether it worked, so noreply does not hold for it.
    assert_eq!(line(&mut client, "set k 0 0 11 noreply\r\nann se:cret\r\n"), "STORED\r\n");
    assert_eq!(client.ask("get k\r\n"), "END\r\n", "a password is no value");
    assert_eq!(client.ask("set k 0 0 1\r\nv\r\nset k 0 0 11 noreply\r\nann se:cret\r\n"), "STORED\r\n");
    assert_eq!(client.ask("get k\r\n"), "VALUE k 0 11\r\nann se:cret\r\nEND\r\n", "who is known stores what it likes");
    let stats = client.ask("stats\r\n");
    assert!(stats.contains("STAT auth_cmds 5\r\n") && stats.contains("STAT auth_errors 4\r\n"), "{stats}");
    // Each connection for itself, and at once with what follows.
    let mut other = server.memcached();
    assert_eq!(line(&mut other, "get k\r\n"), "CLIENT_ERROR unauthenticated\r\n");
    other.send("set k 0 0 8\r\nbob hush\r\nget none\r\n");
    assert_eq!(other.receive_until("END\r\n"), "STORED\r\nEND\r\n");
    // Redis's clients have a password of their own.
    let mut redis = server.client();
    assert!(redis.command(&["GET", "k"]).error().starts_with("NOAUTH"));
    assert_eq!(redis.command(&["AUTH", "other"]), ok());
    assert_eq!(redis.command(&["GET", "k"]), Value::bulk("ann se:cret"));
    // Read again, for those who come from then on.
    std::fs::write(&path, "ann:other\n").expect("the directory is ours");
    assert_eq!(redis.command(&["LOADER", "RELOAD"]), ok());
    for (data, answer) in [("ann se:cret", "CLIENT_ERROR authentication failure\r\n"), ("ann other", "STORED\r\n")] {
        let mut client = server.memcached();
        assert_eq!(line(&mut client, &format!("set k 0 0 {}\r\n{data}\r\n", data.len())), answer, "{data}");
    }
    std::fs::write(&path, "").expect("the directory is ours");
    let refused = redis.command(&["LOADER", "RELOAD"]);
    assert!(refused.error().contains("memcached-auth-file"), "{}", refused.error());
}

#[test]
fn shutdown_ends_the_server_where_that_is_allowed_and_nowhere_else() {
    let server = Server::options().memcached().start();
    let mut client = server.memcached();
    assert_eq!(client.ask("shutdown\r\nshutdown graceful\r\n"), "SERVER_ERROR: shutdown not enabled\r\n".repeat(2));
    assert_eq!(server.memcached().ask("get none\r\n"), "END\r\n");
    for request in ["shutdown\r\n", "shutdown graceful\r\n"] {
        let mut server = Server::options().memcached().set("memcached-shutdown", "yes").start();
        let mut client = server.memcached();
        assert_eq!(client.ask("shutdown now\r\n"), "CLIENT_ERROR invalid shutdown mode\r\n");
        client.send(request);
        assert_eq!(client.receive_to_end(), "");
        let status = server.wait();
        assert!(status.is_some_and(|status| status.code() == Some(0)), "{status:?}\n{}", server.logs());
    }
}

fn stat(client: &mut Memcached, command: &str, name: &str) -> u64 {
    let stats = client.ask(format!("{command}\r\n"));
    let value = stats.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {stats}"))
}

#[test]
fn a_server_without_a_memory_limit_tells_the_memory_that_there_is() {
    let server = Server::options().memcached().set("maxmemory", 0).start();
    let mut client = server.memcached();
    let limit = stat(&mut client, "stats", "limit_maxbytes");
    assert!(limit > 0);
    assert_eq!(stat(&mut client, "stats settings", "maxbytes"), limit);
}

#[test]
fn values_that_find_no_room_are_counted() {
    let server = Server::options().memcached().set("maxmemory", "8mb").set("maxmemory-policy", "noeviction").start();
    let mut client = server.memcached();
    let value = "x".repeat(100_000);
    let refusal = "SERVER_ERROR out of memory storing object\r\n";
    let full =
        |client: &mut Memcached, number| client.ask(format!("set k{number} 0 0 100000\r\n{value}\r\n")) == refusal;
    assert!((0..1000).any(|number| full(&mut client, number)));
    for (commands, counted) in [
        (format!("set a 0 0 100000\r\n{value}\r\n"), 1),
        (format!("set a 0 0 100000 noreply\r\n{value}\r\n"), 1),
        (format!("append k0 0 0 100000\r\n{value}\r\n"), 1),
        (format!("cas k0 0 0 100000 1\r\n{value}\r\n"), 1),
        ("get k0\r\ndelete none\r\n".to_owned(), 0),
        // What an `ms` could not store takes the value with it that was there.
        (format!("ms a 100000\r\n{value}\r\nms k0 100000 MA\r\n{value}\r\n"), 2),
    ] {
        let before = stat(&mut client, "stats", "store_no_memory");
        client.ask(&commands);
        let line = commands.lines().next().expect("there is one");
        assert_eq!(stat(&mut client, "stats", "store_no_memory") - before, counted, "{line}");
        assert_eq!(stat(&mut client, "stats items", "items:1:outofmemory"), before + counted, "{line}");
    }
}

#[test]
fn a_lowered_memory_limit_holds_for_what_is_there() {
    const MEBIBYTE: u64 = 1024 * 1024;
    let server = Server::options().memcached().set("maxmemory", "64mb").start();
    let (mut redis, mut client) = (server.client(), server.memcached());
    let value = "x".repeat(10_000);
    for index in 0..4_000 {
        client.send(format!("set k{index} 0 0 10000 noreply\r\n{value}\r\n"));
    }
    assert_eq!(client.ask(""), "");
    assert!(redis.info("used_memory") > 32 * MEBIBYTE);
    assert_eq!(
        client.ask("verbosity 1\r\nverbosity 2 noreply\r\ncache_memlimit 7\r\ncache_memlimit 24\r\n"),
        "OK\r\nMEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\nOK\r\n"
    );
    assert!(client.ask("stats\r\n").contains(&format!("STAT limit_maxbytes {}\r\n", 24 * MEBIBYTE)));
    until("what is over it has gone", || redis.info("used_memory") <= 24 * MEBIBYTE);
    assert!(redis.info("evicted_keys") > 0);
    assert_eq!(client.ask("cache_memlimit 128 noreply\r\n"), "");
    let limit = redis.command(&["CONFIG", "GET", "maxmemory"]).elements()[1].text();
    assert_eq!(limit, (128 * MEBIBYTE).to_string());
}
