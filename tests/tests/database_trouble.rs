//! A database that is down, slow, killed or wrong, seen by a client of the real binary: each answer as SPEC §3 says, never a
//! hang, and the server goes on. What the loaders make of types and errors by themselves is in `loader_postgres.rs`.

use leasehold_tests::client::request;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Server, Value, groups};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GROUP: &str = "database trouble";

/// Beyond a promised time; a machine that compiles beside needs some.
const SLACK: Duration = Duration::from_secs(8);

/// A query of the loader `user` waits at a gate, a lock that a test can hold, and reads its row after or before it.
const SCHEMA: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text);
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 100) n;";

const GATE: i64 = 77;

/// A database that is there, on a machine that may be slow.
fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\nstatement_timeout = \"60s\"\nacquire_timeout = \"10s\"\n")
}

/// A database that will be away: for so long a connection to it is tried for.
fn source_that_ends(url: &str) -> String {
    source(url).replace("acquire_timeout = \"10s\"", "acquire_timeout = \"1s\"")
}

/// A loader for `user:N`; each query first passes the gate.
fn gated(more: &str) -> String {
    format!(
        r#"
        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = """WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared({GATE})::text AS passed)
            SELECT id, name FROM gate, users WHERE passed IS NOT NULL AND id = $1"""
        {more}
        "#
    )
}

/// A loader for `user:N`.
fn plain(more: &str) -> String {
    format!(
        "[loaders.user]\nmatch = \"user:{{id:int}}\"\nsource = \"main\"\nsql = \"SELECT id, name FROM users WHERE id = $1\"\n{more}\n"
    )
}

fn user(id: u64) -> Value {
    named(id, &format!("user {id}"))
}

fn named(id: u64, name: &str) -> Value {
    Value::bulk(format!(r#"{{"id":{id},"name":"{name}"}}"#))
}

/// A server in front of a database that the tests of this file share.
struct Setup {
    server: Server,
    client: Client,
    database: Database,
    /// Keeps the gate closed while it holds the lock.
    keeper: Database,
    _postgres: Arc<Postgres>,
}

impl Setup {
    fn new(script: &str, loaders: &str) -> Option<Self> {
        Self::with_source(script, loaders, "")
    }

    fn with_source(script: &str, loaders: &str, more: &str) -> Option<Self> {
        let postgres = Postgres::shared(GROUP)?;
        let url = postgres.new_database();
        let mut database = Database::connect(&url);
        database.run(script);
        let server = Server::options().conf(format!("{}{more}{loaders}", source(&url))).start();
        let client = server.client();
        Some(Self { client, server, database, keeper: Database::connect(&url), _postgres: postgres })
    }

    fn close_gate(&mut self) {
        self.keeper.number(&format!("SELECT 1::int8 FROM pg_advisory_lock({GATE})"));
    }

    fn open_gate(&mut self) {
        self.keeper.number(&format!("SELECT 1::int8 FROM pg_advisory_unlock({GATE})"));
    }

    fn until_queries_run(&mut self, count: i64) {
        let database = &mut self.database;
        until("queries are under way", || running(database) == count);
    }
}

/// Queries of our loaders under way in this database.
fn running(database: &mut Database) -> i64 {
    database.number(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name = 'leasehold' AND datname = current_database() AND state = 'active'",
    )
}

fn terminate_backends(database: &mut Database) {
    database.number(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = 'leasehold' AND datname = current_database()",
    );
}

/// Sends a command and says how long the reply took.
fn timed(client: &mut Client, argv: &[&str]) -> (Value, Duration) {
    let sent = Instant::now();
    (client.command(argv), sent.elapsed())
}

fn state(client: &mut Client) -> String {
    let reply = client.command(&["LOADER", "LIST"]);
    let fields = reply.elements()[0].elements();
    fields.chunks(2).find(|pair| pair[0].text() == "state").expect("each loader has a state")[1].text()
}

fn assert_loadfail(reply: &Value) {
    assert!(matches!(reply, Value::Error(text) if text.starts_with("LOADFAIL user ")), "{reply}");
}

#[test]
fn a_database_that_is_down_at_start_is_used_once_it_is_up() {
    let Some(mut postgres) = Postgres::start(GROUP) else { return };
    Database::connect(&postgres.url()).run(SCHEMA);
    postgres.stop();
    let server = Server::options().conf(source_that_ends(&postgres.url()) + &plain("")).start();
    let mut client = server.client();
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
    let (reply, took) = timed(&mut client, &["GET", "user:1"]);
    assert_loadfail(&reply);
    groups::say(&format!("database trouble: down at start: {reply} after {took:?}"));
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    assert_eq!(state(&mut client), "degraded");
    assert_eq!(client.command(&["SET", "user:2", "by hand"]), Value::Simple("OK".to_owned()));
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk("by hand"));

    postgres.resume();
    until("it loads", || client.command(&["GET", "user:1"]) == user(1));
    assert_eq!(state(&mut client), "ok");
    assert_eq!(client.info("x_panics"), 0);
}

#[test]
fn a_server_killed_in_the_middle_of_a_load_is_an_error_and_then_works_again() {
    let Some(mut postgres) = Postgres::start(GROUP) else { return };
    Database::connect(&postgres.url()).run(SCHEMA);
    let server = Server::options().conf(source_that_ends(&postgres.url()) + &gated("hard_timeout = \"5s\"")).start();
    let mut client = server.client();
    assert_eq!(client.command(&["GET", "user:1"]), user(1));
    let mut keeper = Database::connect(&postgres.url());
    keeper.number(&format!("SELECT 1::int8 FROM pg_advisory_lock({GATE})"));
    let mut reader = server.client();
    reader.send(&["GET", "user:2"]);
    until("the load is under way", || running(&mut keeper) == 1);
    let stopped = Instant::now();
    postgres.stop();
    let reply = reader.receive();
    assert_loadfail(&reply);
    groups::say(&format!("database trouble: killed mid-load: {reply} {:?} after the end", stopped.elapsed()));
    assert!(stopped.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", stopped.elapsed());
    assert_eq!(client.command(&["GET", "user:1"]), user(1), "what is cached needs no database");
    let (reply, took) = timed(&mut client, &["GET", "user:3"]);
    assert_loadfail(&reply);
    assert!(took < Duration::from_secs(5) + SLACK, "{took:?}");
    // An error of the source is no absence.
    assert_eq!(client.info("absences"), 0);
    postgres.resume();
    until("it loads", || client.command(&["GET", "user:2"]) == user(2));
    // Its failure may be remembered still.
    until("so does the other", || client.command(&["GET", "user:3"]) == user(3));
    assert_eq!(state(&mut client), "ok");
}

#[test]
fn a_connection_killed_in_the_middle_of_a_load_is_not_noticed() {
    let Some(mut setup) = Setup::new(SCHEMA, &gated("hard_timeout = \"15s\"")) else { return };
    setup.close_gate();
    setup.client.send(&["GET", "user:1"]);
    setup.until_queries_run(1);
    terminate_backends(&mut setup.database);
    setup.open_gate();
    assert_eq!(setup.client.receive(), user(1));
}

#[test]
fn slower_than_the_hard_timeout_is_an_error_in_time_and_the_late_load_still_fills() {
    let Some(mut setup) = Setup::new(SCHEMA, &gated("hard_timeout = \"1s\"")) else { return };
    // So that no load has to open a connection against the clock; this one may, and be late itself.
    setup.client.command(&["MGET", "user:11", "user:12", "user:13"]);
    until("they are loaded", || setup.client.loader_counter("user", "rows") == 3);
    until("nothing is under way", || setup.client.loader_counter("user", "in_flight") == 0);
    let counters = ["late_fills", "keys", "timeouts"];
    let [late, keys, timeouts] = counters.map(|counter| setup.client.loader_counter("user", counter));
    setup.close_gate();
    let (reply, took) = timed(&mut setup.client, &["GET", "user:1"]);
    assert_eq!(reply.error(), "LOADFAIL user no answer within 1000 ms");
    groups::say(&format!("database trouble: hard_timeout 1 s: answered after {took:?}"));
    assert!(took >= Duration::from_millis(999) && took < Duration::from_secs(1) + SLACK, "{took:?}");
    let (reply, took) = timed(&mut setup.client, &["MGET", "user:2", "user:3"]);
    assert_loadfail(&reply);
    assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
    assert_eq!(setup.client.command(&["GET", "nomatch"]), Value::NullBulk, "the connection is usable");
    // The readers' time may be up a moment before that of their loads.
    until("the loads are late", || setup.client.loader_counter("user", "timeouts") == timeouts + 3);
    setup.open_gate();
    let client = &mut setup.client;
    until("the late load has filled", || client.loader_counter("user", "late_fills") >= late + 3);
    assert_eq!(client.command(&["MGET", "user:1", "user:2", "user:3"]), Value::Array((1..=3).map(user).collect()));
    assert_eq!(client.loader_counter("user", "keys"), keys + 3, "each was asked for once");
}

#[test]
fn slower_than_the_soft_timeout_is_the_stale_value_and_the_late_load_still_fills() {
    let more = "stale_for = \"1h\"\nserve_stale = \"on-error\"\nsoft_timeout = \"100ms\"\nhard_timeout = \"60s\"";
    let Some(mut setup) = Setup::new(SCHEMA, &gated(more)) else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), user(1));
    setup.database.run("UPDATE users SET name = 'new' WHERE id = 1");
    assert_eq!(setup.client.command(&["INVAL", "user:1", "STALE", "600000"]), Value::Integer(1));
    setup.close_gate();
    let (reply, took) = timed(&mut setup.client, &["GET", "user:1"]);
    assert_eq!(reply, user(1));
    groups::say(&format!("database trouble: soft_timeout 100 ms: the stale value after {took:?}"));
    // Server time has whole ms: what began in the middle of one ends a part of it early.
    assert!(took >= Duration::from_millis(99) && took < Duration::from_millis(100) + SLACK, "{took:?}");
    setup.open_gate();
    let client = &mut setup.client;
    until("the late load has filled", || client.command(&["GET", "user:1"]) == named(1, "new"));
    assert_eq!(client.loader_counter("user", "keys"), 2);
}

#[test]
fn a_failed_load_is_the_stale_value_and_the_database_is_left_in_peace_for_a_while() {
    let more = "stale_for = \"1h\"\nserve_stale = \"on-error\"\nsoft_timeout = \"5s\"\nhard_timeout = \"10s\"";
    let Some(mut setup) = Setup::new(SCHEMA, &plain(more)) else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), user(1));
    assert_eq!(setup.client.command(&["INVAL", "user:1", "STALE", "600000"]), Value::Integer(1));
    setup.database.run("ALTER TABLE users RENAME TO gone");
    assert_eq!(setup.client.command(&["GET", "user:1"]), user(1));
    let errors = setup.client.loader_counter("user", "errors");
    assert_eq!(errors, 1);
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(setup.client.command(&["GET", "user:1"]), user(1));
    }
    // One more for each second that the hundred took on a slow machine.
    let asked = setup.client.loader_counter("user", "errors") - errors;
    assert!(asked <= begun.elapsed().as_secs() as i64 + 1, "{asked} queries for 100 reads");
    setup.database.run("ALTER TABLE gone RENAME TO users; UPDATE users SET name = 'new' WHERE id = 1");
    let client = &mut setup.client;
    until("the new value", || client.command(&["GET", "user:1"]) == named(1, "new"));
}

#[test]
fn serve_stale_always_never_makes_a_reader_wait() {
    let more = "stale_for = \"1h\"\nserve_stale = \"always\"\nsoft_timeout = \"30s\"\nhard_timeout = \"60s\"";
    let Some(mut setup) = Setup::new(SCHEMA, &gated(more)) else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), user(1));
    setup.database.run("UPDATE users SET name = 'new' WHERE id = 1");
    assert_eq!(setup.client.command(&["INVAL", "user:1", "STALE", "600000"]), Value::Integer(1));
    setup.close_gate();
    for _ in 0..10 {
        let (reply, took) = timed(&mut setup.client, &["GET", "user:1"]);
        assert_eq!(reply, user(1));
        assert!(took < SLACK, "{took:?}");
    }
    setup.open_gate();
    let client = &mut setup.client;
    until("the load behind them has filled", || client.command(&["GET", "user:1"]) == named(1, "new"));
    assert_eq!(client.loader_counter("user", "keys"), 2, "one load behind ten readers");
}

#[test]
fn serve_stale_never_is_an_error_instead() {
    let more = "stale_for = \"1h\"\nserve_stale = \"never\"\nsoft_timeout = \"50ms\"\nhard_timeout = \"3s\"";
    let Some(mut setup) = Setup::new(SCHEMA, &gated(more)) else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), user(1));
    assert_eq!(setup.client.command(&["INVAL", "user:1", "STALE", "600000"]), Value::Integer(1));
    setup.close_gate();
    let (reply, took) = timed(&mut setup.client, &["GET", "user:1"]);
    assert_eq!(reply.error(), "LOADFAIL user no answer within 3000 ms");
    assert!(took < Duration::from_secs(3) + SLACK, "{took:?}");
    setup.open_gate();
    let client = &mut setup.client;
    until("it loads", || client.command(&["GET", "user:1"]) == user(1));
}

#[test]
fn a_full_queue_says_so_at_once() {
    let more = "max_concurrency = 1\nqueue = 2\nhard_timeout = \"15s\"";
    let Some(mut setup) = Setup::new(SCHEMA, &gated(more)) else { return };
    setup.close_gate();
    let mut readers: Vec<Client> = Vec::new();
    let mut read = |id: u64| {
        let mut client = setup.server.client();
        client.send(&["GET", &format!("user:{id}")]);
        readers.push(client);
    };
    read(1);
    let client = &mut setup.client;
    until("one is under way", || client.loader_counter("user", "in_flight") == 1);
    read(2);
    read(3);
    until("two wait", || client.loader_counter("user", "queue_length") == 2);
    let (reply, took) = timed(client, &["GET", "user:4"]);
    assert_eq!(reply.error(), "LOADBUSY user queue full: 2 loads wait for the source");
    assert!(took < SLACK, "{took:?}");
    assert_eq!(client.loader_counter("user", "busy"), 1);
    setup.open_gate();
    for (id, reader) in (1..).zip(&mut readers) {
        assert_eq!(reader.receive(), user(id));
    }
    assert_eq!(setup.client.command(&["GET", "user:4"]), user(4));
}

#[test]
fn a_load_under_way_is_answered_before_the_server_ends() {
    let Some(mut setup) = Setup::new(SCHEMA, &gated("hard_timeout = \"15s\"")) else { return };
    setup.close_gate();
    setup.client.send(&["GET", "user:1"]);
    setup.until_queries_run(1);
    let mut idle = setup.server.client();
    let status = std::thread::scope(|scope| {
        let ended = scope.spawn(|| setup.server.terminate());
        assert!(idle.is_closed_by_server(), "the drain has begun");
        setup.keeper.number(&format!("SELECT 1::int8 FROM pg_advisory_unlock({GATE})"));
        ended.join().expect("it is waited for")
    });
    assert_eq!(setup.client.receive(), user(1));
    assert!(setup.client.is_closed_by_server());
    assert!(status.is_some_and(|status| status.code() == Some(0)), "{status:?}");
}

/// Ends the readers when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_request_hangs_whatever_happens_to_the_database() {
    const HARD_TIMEOUT: Duration = Duration::from_millis(1_000);
    let Some(mut postgres) = Postgres::start(GROUP) else { return };
    Database::connect(&postgres.url()).run(SCHEMA);
    let more = "ttl = \"50ms\"\nstale_for = 0\nhard_timeout = \"1s\"\nnegative_ttl = \"50ms\"";
    let server = Server::options().conf(source_that_ends(&postgres.url()) + &plain(more)).start();
    let over = AtomicBool::new(false);
    let (mut values, mut failures, mut slowest) = (0, 0, Duration::ZERO);
    std::thread::scope(|scope| {
        // Also when this thread panics: a scope waits for its threads.
        let end = Over(&over);
        let readers: Vec<_> = (0..8)
            .map(|reader: u64| {
                let (mut client, over) = (server.client(), &over);
                scope.spawn(move || {
                    let (mut values, mut failures, mut slowest, mut round) = (0, 0, Duration::ZERO, reader);
                    while !over.load(Ordering::Relaxed) {
                        round += 1;
                        let id = round * 7 % 100 + 1;
                        let (reply, took) = timed(&mut client, &["GET", &format!("user:{id}")]);
                        slowest = slowest.max(took);
                        match reply {
                            Value::Error(text) if text.starts_with("LOADFAIL user ") => failures += 1,
                            reply => {
                                assert_eq!(reply, user(id));
                                values += 1;
                            }
                        }
                    }
                    (values, failures, slowest)
                })
            })
            .collect();
        for _ in 0..3 {
            let loads = |client: &mut Client| client.loader_counter("user", "rows");
            let mut client = server.client();
            let before = loads(&mut client);
            until("rows are loaded", || loads(&mut client) > before + 100);
            terminate_backends(&mut Database::connect(&postgres.url()));
            let before = loads(&mut client);
            until("rows are loaded again", || loads(&mut client) > before + 100);
            postgres.stop();
            let before = client.loader_counter("user", "errors");
            until("loads fail", || client.loader_counter("user", "errors") > before + 10);
            postgres.resume();
        }
        drop(end);
        for reader in readers {
            let (own_values, own_failures, own_slowest) = reader.join().expect("each answer was right");
            values += own_values;
            failures += own_failures;
            slowest = slowest.max(own_slowest);
        }
    });
    groups::say(&format!(
        "database trouble: three outages: {values} values, {failures} LOADFAIL, the slowest answer took {slowest:?} (hard_timeout {HARD_TIMEOUT:?})"
    ));
    assert!(slowest < HARD_TIMEOUT + SLACK, "{slowest:?}");
    assert!(values > 300 && failures > 10);
    let mut client = server.client();
    until("it loads", || client.command(&["GET", "user:1"]) == user(1));
    assert_eq!((client.info("x_panics"), client.info("absences")), (0, 0));
}

#[test]
fn a_column_of_the_wrong_type_stops_the_start_with_its_place() {
    let Some(postgres) = Postgres::shared(GROUP) else { return };
    let url = postgres.new_database();
    Database::connect(&url).run("CREATE TABLE hosts (id date, name text, address int4range)");
    for (sql, says) in [
        ("SELECT id, name FROM hosts WHERE id = $1", "id"),
        ("SELECT 1::int8 AS id, address FROM hosts WHERE $1::int8 = 1", "address"),
        ("SELECT id, nmae FROM hosts", "nmae"),
    ] {
        let conf = source(&url)
            + &format!("[loaders.host]\nmatch = \"host:{{id:int}}\"\nsource = \"main\"\nsql = \"{sql}\"\n");
        let (status, output) = Server::options().conf(&conf).run_to_end();
        assert_eq!(status.code(), Some(1), "{output}");
        let line = output.lines().find(|line| line.contains("leasehold.toml:8:7: loaders.host.sql: "));
        assert!(line.is_some_and(|line| line.contains(says)), "{says}: {output}");
    }
}

#[test]
fn a_row_of_every_kind_of_column_is_json_to_the_client() {
    let script = "CREATE TABLE things (id int8, n numeric, t timestamptz, d date, u uuid, j jsonb, a int4[], s text[], b bytea, x text,
            f float8, y boolean);
        INSERT INTO things VALUES (1, 12345678901234567890.50, '2024-02-29 23:59:59.5+02', '1999-12-31',
            '67e55044-10b1-426f-9247-bb680e5fe0c8', '{\"b\": [1, null]}', '{1,NULL,3}', '{\"a,b\",NULL}', '\\x00ff10', E'l1\\nl2 \"q\" €',
            0.1, true), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);";
    let loader = "[loaders.thing]\nmatch = \"thing:{id:int}\"\nsource = \"main\"\nsql = \"SELECT * FROM things WHERE id = $1\"\n\
        [loaders.blob]\nmatch = \"blob:{id:int}\"\nsource = \"main\"\nvalue = \"column\"\n\
        sql = \"SELECT id, b FROM things WHERE id = $1\"\n";
    let Some(mut setup) = Setup::new(script, loader) else { return };
    assert_eq!(
        setup.client.command(&["GET", "thing:1"]).text(),
        r#"{"id":1,"n":"12345678901234567890.50","t":"2024-02-29T21:59:59.500Z","d":"1999-12-31","u":"67e55044-10b1-426f-9247-bb680e5fe0c8","j":{"b": [1, null]},"a":[1,null,3],"s":["a,b",null],"b":"AP8Q","x":"l1\nl2 \"q\" €","f":0.1,"y":true}"#
            .replace("59.500Z", "59.5Z")
    );
    assert_eq!(
        setup.client.command(&["GET", "thing:2"]).text(),
        r#"{"id":2,"n":null,"t":null,"d":null,"u":null,"j":null,"a":null,"s":null,"b":null,"x":null,"f":null,"y":null}"#
    );
    assert_eq!(setup.client.command(&["GET", "blob:1"]), Value::bulk(b"\x00\xff\x10"));
    assert_eq!(setup.client.command(&["GET", "blob:2"]), Value::NullBulk, "a NULL is no value");
    assert_eq!(setup.client.command(&["STRLEN", "blob:1"]), Value::Integer(3));
}

#[test]
fn a_row_of_ten_megabytes_arrives_and_one_over_the_limit_is_an_error() {
    const LEN: usize = 10 << 20;
    let script = format!(
        "CREATE TABLE users (id int8 PRIMARY KEY, name text);
         INSERT INTO users VALUES (1, repeat('0123456789', {})), (2, 'small');",
        LEN / 10
    );
    let small = "[loaders.small]\nmatch = \"small:{id:int}\"\nsource = \"main\"\nsql = \"SELECT id, name FROM users WHERE id = $1\"\n\
        batch_sql = \"SELECT id, name FROM users WHERE id = ANY($1)\"\nrow_bytes_max = \"1mb\"\n";
    let Some(mut setup) = Setup::new(&script, &(plain("hard_timeout = \"20s\"") + small)) else { return };
    let expected = named(1, &"0123456789".repeat(LEN / 10));
    let mut others: Vec<Client> = (0..8).map(|_| setup.server.client()).collect();
    others.iter_mut().for_each(|client| client.send(&["GET", "user:1"]));
    for client in &mut others {
        assert!(client.receive() == expected, "ten megabytes came out wrong");
    }
    assert_eq!(setup.client.loader_counter("user", "keys"), 1);
    let reply = setup.client.command(&["GET", "small:1"]);
    assert!(
        matches!(&reply, Value::Error(text) if text.starts_with("LOADFAIL small ") && text.contains("1048576")),
        "{reply}"
    );
    let reply = setup.client.command(&["MLOADTHROUGH", "small:1", "small:2"]);
    let [too_large, fits] = reply.elements() else { panic!("{reply}") };
    assert!(matches!(too_large, Value::Error(text) if text.starts_with("LOADFAIL small ")), "{reply}");
    assert_eq!(*fits, named(2, "small"), "only the one key fails");
    assert_eq!(setup.client.loader_counter("small", "keys"), 2, "the large row was asked for once");
}

#[test]
fn a_value_without_room_is_answered_to_all_who_wait_and_not_loaded_by_one_after_the_other() {
    const LEN: usize = 3 << 20;
    const READERS: usize = 20;
    let script = format!(
        "CREATE TABLE users (id int8 PRIMARY KEY, name text); INSERT INTO users VALUES (1, repeat('0123456789', {}));",
        LEN / 10
    );
    let Some(mut setup) = Setup::new(&script, &gated("hard_timeout = \"20s\"")) else { return };
    assert_eq!(setup.client.command(&["CONFIG", "SET", "maxmemory", "2mb"]), Value::Simple("OK".to_owned()));
    let expected = named(1, &"0123456789".repeat(LEN / 10));
    let mut readers: Vec<Client> = (0..READERS).map(|_| setup.server.client()).collect();
    let mut holder = setup.server.client();
    for round in 1..=3 {
        setup.close_gate();
        readers.iter_mut().for_each(|client| client.send(&["GET", "user:1"]));
        holder.send(&["GETL", "user:1", "WAIT", "20000"]);
        let client = &mut setup.client;
        until("all wait", || client.info("lease_waiters") == READERS as u64 + 1);
        setup.open_gate();
        for client in &mut readers {
            assert!(client.receive() == expected, "three megabytes came out wrong");
        }
        let reply = holder.receive();
        let [status, value, token, ttl_left_ms, _] = reply.elements() else { panic!("{reply}") };
        assert_eq!((status.text().as_str(), token.text().as_str(), ttl_left_ms.integer()), ("HIT", "0", 0));
        assert!(*value == expected);
        assert_eq!(setup.client.loader_counter("user", "keys"), round, "one query for all of them");
        assert_eq!(setup.client.loader_counter("user", "unstored"), round);
        assert_eq!(setup.client.command(&["EXISTS", "user:1"]), Value::Integer(0));
    }
}

#[test]
fn a_load_that_fails_is_not_repeated_for_each_request() {
    let Some(mut setup) = Setup::new(SCHEMA, &plain("error_ttl = \"1h\"")) else { return };
    // It listens before its loaders are checked; now they are.
    assert_eq!(setup.client.command(&["GET", "user:3"]), user(3));
    setup.database.run("ALTER TABLE users RENAME TO gone");
    for _ in 0..100 {
        assert_loadfail(&setup.client.command(&["GET", "user:1"]));
    }
    assert_eq!(setup.client.loader_counter("user", "keys"), 2);
    // The next one asks about another row, and a change of the key ends what is remembered of it.
    setup.database.run("ALTER TABLE gone RENAME TO users");
    assert_eq!(setup.client.command(&["GET", "user:2"]), user(2));
    assert_loadfail(&setup.client.command(&["GET", "user:1"]));
    assert_eq!(setup.client.command(&["INVAL", "user:1"]), Value::Integer(0));
    assert_eq!(setup.client.command(&["GET", "user:1"]), user(1));
}

#[test]
fn a_missing_row_is_remembered_and_a_new_row_is_seen_after_a_delete() {
    let Some(mut setup) = Setup::new(SCHEMA, &plain("negative_ttl = \"10m\"")) else { return };
    let client = &mut setup.client;
    for _ in 0..50 {
        assert_eq!(client.command(&["GET", "user:500"]), Value::NullBulk);
    }
    client.send_raw(&request(&["GET", "user:500"]).repeat(50));
    (0..50).for_each(|_| assert_eq!(client.receive(), Value::NullBulk));
    assert_eq!(client.loader_counter("user", "keys"), 1, "one query for a hundred reads");
    assert_eq!((client.info("absences"), client.command(&["DBSIZE"])), (1, Value::Integer(0)));
    let reply = client.command(&["GETL", "user:500"]);
    assert_eq!((reply.elements()[0].text().as_str(), reply.elements()[1].is_null()), ("NEGATIVE", true), "{reply}");
    assert_eq!(client.command(&["EXISTS", "user:500"]), Value::Integer(0));

    setup.database.run("INSERT INTO users VALUES (500, 'user 500')");
    assert_eq!(client.command(&["GET", "user:500"]), Value::NullBulk);
    assert_eq!(client.command(&["DEL", "user:500"]), Value::Integer(0));
    assert_eq!(client.command(&["GET", "user:500"]), user(500));
    setup.database.run("DELETE FROM users WHERE id = 500");
    assert_eq!(client.command(&["INVAL", "user:500", "HARD"]), Value::Integer(1));
    assert_eq!(client.command(&["GET", "user:500"]), Value::NullBulk);
    assert_eq!(client.loader_counter("user", "keys"), 3);
}

#[test]
fn an_alias_of_a_key_is_no_key() {
    let script = "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
        CREATE TABLE words (word text COLLATE blind, meaning text);
        INSERT INTO words VALUES ('Café', 'place');
        CREATE TABLE users (id int8 PRIMARY KEY, name text);
        INSERT INTO users VALUES (42, 'user 42');";
    let words = "[loaders.word]\nmatch = \"word:{word}\"\nsource = \"main\"\n\
        sql = \"SELECT word, meaning FROM words WHERE word = $1\"\n";
    let Some(mut setup) = Setup::new(script, &(plain("") + words)) else { return };
    let client = &mut setup.client;
    assert_eq!(client.command(&["GET", "word:Café"]).text(), r#"{"word":"Café","meaning":"place"}"#);
    // The database thinks that these are the same word.
    for alias in ["word:cafe", "word:CAFÉ", "word:Cafe"] {
        assert_eq!(client.command(&["GET", alias]), Value::NullBulk, "{alias}");
    }
    assert_eq!(client.command(&["DBSIZE"]), Value::Integer(1));
    assert_eq!(client.command(&["GET", "user:42"]), user(42));
    for no_key in
        ["user:042", "user:+42", "user: 42", "user:42 ", "user:abc", "user:", "user:4_2", "user:99999999999999999999"]
    {
        assert_eq!(client.command(&["GET", no_key]), Value::NullBulk, "{no_key}");
    }
    assert_eq!(client.loader_counter("user", "loads"), 1, "what cannot be a key is not asked for");
    let reply = client.command(&["LOADTHROUGH", "user:042"]);
    assert!(matches!(&reply, Value::Error(text) if text.starts_with("NOLOADER ")), "{reply}");
}
