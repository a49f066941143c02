//! What a loader does that no reader waits for, on PostgreSQL: it refreshes what is read near its end, and warms what it is told to.

use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Server, Value, groups};
use std::sync::Arc;
use std::time::{Duration, Instant};

const GROUP: &str = "upkeep of loaders";
const USERS: usize = 2_000;

struct World {
    server: Server,
    database: Database,
    _postgres: Arc<Postgres>,
}

impl World {
    fn new(options: &str) -> Option<Self> {
        let postgres = Postgres::shared(GROUP)?;
        let url = postgres.new_database();
        let mut database = Database::connect(&url);
        database.run("CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL)");
        database.run(&format!("INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, {USERS}) n"));
        let conf = format!(
            r#"
            [sources.main]
            url = "{url}"
            statement_timeout = "20s"
            acquire_timeout = "20s"

            [loaders.user]
            match = "user:{{id:int}}"
            source = "main"
            value = "column"
            sql = "SELECT id, name FROM users WHERE id = $1"
            batch_sql = "SELECT id, name FROM users WHERE id = ANY($1)"
            jitter = 0
            hard_timeout = "20s"
            {options}
            "#
        );
        let server = Server::options().conf(conf).start();
        Some(Self { server, database, _postgres: postgres })
    }
}

fn count(client: &mut Client, counter: &str) -> i64 {
    client.loader_counter("user", counter)
}

fn warm_state(client: &mut Client) -> String {
    let reply = client.command(&["LOADER", "STATS", "user"]);
    let pair = reply.elements().chunks(2).find(|pair| pair[0].text() == "warm_state");
    pair.expect("STATS tells it")[1].text()
}

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

fn error(reply: &Value) -> String {
    match reply {
        Value::Error(text) => text.clone(),
        other => panic!("no error: {other}"),
    }
}

#[test]
fn refreshes_share_a_query_and_are_counted_by_what_they_bring() {
    let Some(mut world) = World::new("ttl = \"30s\"\nrefresh = \"ahead\"\nrefresh_at = 0.1") else { return };
    let mut client = world.server.client();
    let argv: Vec<String> = std::iter::once("MGET".to_owned()).chain((1..=50).map(|id| format!("user:{id}"))).collect();
    let values = |last: &str| {
        Value::Array(
            (1..=50).map(|id| Value::bulk(if id == 50 { last.to_owned() } else { format!("user {id}") })).collect(),
        )
    };
    let begun = Instant::now();
    assert_eq!(client.command(&argv), values("user 50"));
    let loaded = Instant::now();
    assert_eq!((count(&mut client, "batches"), count(&mut client, "refreshes")), (1, 0));
    world.database.run("UPDATE users SET name = 'new' WHERE id = 50");
    until("a tenth of the TTL has passed", || loaded.elapsed() > Duration::from_millis(3_100));
    assert_eq!(client.command(&argv), values("user 50"), "as it was, and at once");
    until("the refresh has ended", || count(&mut client, "keys") == 100 && count(&mut client, "in_flight") == 0);
    // Its books are closed a moment before it is stored; GETRANGE refreshes nothing.
    until("it is stored", || client.command(&["GETRANGE", "user:50", "0", "-1"]) == Value::bulk("new"));
    until("all are compared", || count(&mut client, "refresh_unchanged") == 49);
    assert_eq!(client.command(&argv), values("new"));
    assert!(begun.elapsed() < Duration::from_secs(30), "the first values have not expired");
    let counts = ["batches", "refreshes", "refresh_unchanged", "refresh_failed", "refresh_skipped"];
    assert_eq!(counts.map(|counter| count(&mut client, counter)), [2, 50, 49, 0, 0]);
}

#[test]
fn a_refresh_that_fails_is_not_repeated_with_each_read() {
    let Some(mut world) = World::new("ttl = \"20s\"\nrefresh = \"ahead\"\nrefresh_at = 0.1") else { return };
    let mut client = world.server.client();
    let begun = Instant::now();
    assert_eq!(client.command(&["GET", "user:1"]), Value::bulk("user 1"));
    world.database.run("ALTER TABLE users RENAME TO others");
    until("a share of the TTL has passed", || begun.elapsed() > Duration::from_millis(2_200));
    let reading = Instant::now();
    let mut reads = 0;
    while reading.elapsed() < Duration::from_millis(2_500) {
        assert_eq!(client.command(&["GET", "user:1"]), Value::bulk("user 1"));
        reads += 1;
    }
    // One each second, and the first.
    let failed = count(&mut client, "refresh_failed");
    groups::say(&format!("{GROUP}: {reads} reads while the source failed, {failed} refreshes"));
    let most = reading.elapsed().as_secs() as i64 + 2;
    assert!((2..=most).contains(&failed) && reads > most, "{failed} refreshes in {reads} reads");
}

#[test]
fn what_was_warmed_is_hit() {
    let Some(mut world) = World::new("ttl = \"10m\"\nbatch_max = 100") else { return };
    let mut client = world.server.client();
    client.command(&["GET", "user:7"]);
    client.command(&["GET", "user:0"]);
    // One row is no key, two name the same, one has no row.
    let query = "SELECT id FROM users UNION ALL SELECT NULL UNION ALL SELECT 1 UNION ALL SELECT 99999";
    assert_eq!(client.command(&["LOADER", "WARM", "user", "RATE", "1000000", "SQL", query]), ok());
    until("all is warm", || warm_state(&mut client) == "done");
    let counts = ["warm_total", "warm_done", "warm_failed", "warm_bad"].map(|counter| count(&mut client, counter));
    assert_eq!(counts, [USERS as i64 + 2, USERS as i64 + 2, 0, 1]);
    assert!((2..=3).contains(&count(&mut client, "warm_skipped")), "user:7, and user:1 if it was there by then");
    let (keys, batches) = (count(&mut client, "keys"), count(&mut client, "batches"));
    assert!(keys >= USERS as i64 && batches < keys / 2, "{keys} keys in {batches} queries");
    for id in 1..=USERS {
        assert_eq!(client.command(&["GET", &format!("user:{id}")]), Value::bulk(format!("user {id}")));
    }
    assert!(client.command(&["GET", "user:99999"]).is_null());
    assert_eq!(count(&mut client, "keys"), keys, "nothing more was loaded");
    assert_eq!(world.database.number("SELECT count(*) FROM users"), USERS as i64);
}

#[test]
fn keys_are_warmed_so_many_a_second_and_until_it_is_stopped() {
    let Some(world) = World::new("ttl = \"10m\"") else { return };
    let mut client = world.server.client();
    let warm = |rate: &str, ids: std::ops::Range<usize>| {
        let mut argv: Vec<String> = ["LOADER", "WARM", "user", "RATE", rate, "KEYS"].map(str::to_owned).to_vec();
        argv.extend(ids.map(|id| format!("user:{id}")));
        argv
    };
    let begun = Instant::now();
    let mut argv = warm("100", 1..101);
    argv.push("other:1".to_owned());
    assert_eq!(client.command(&argv), ok());
    let busy = error(&client.command(&warm("100", 1..2)));
    assert!(busy.starts_with("LOADBUSY user is being warmed"), "{busy}");
    until("all is warm", || warm_state(&mut client) == "done");
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let counts = ["warm_total", "warm_done", "warm_skipped", "warm_bad"];
    assert_eq!(counts.map(|counter| count(&mut client, counter)), [100, 100, 0, 1]);

    assert_eq!(client.command(&warm("10", 200..1_200)), ok());
    until("some are warm", || count(&mut client, "warm_done") > 3);
    assert_eq!(client.command(&["LOADER", "WARM", "user", "STOP"]), ok());
    until("it has stopped", || warm_state(&mut client) == "stopped");
    assert!(count(&mut client, "warm_done") < 1_000);

    // A paused loader warms nothing, and goes on when it is resumed.
    client.command(&["LOADER", "PAUSE", "user"]);
    assert_eq!(client.command(&warm("1000", 1_500..1_510)), ok());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((warm_state(&mut client).as_str(), count(&mut client, "warm_done")), ("loading", 0));
    client.command(&["LOADER", "RESUME", "user"]);
    until("all is warm", || warm_state(&mut client) == "done");
    assert_eq!(count(&mut client, "warm_done"), 10);
}

#[test]
fn a_query_that_lists_no_keys_is_told_and_one_that_writes_does_nothing() {
    let Some(mut world) = World::new("warm_keys_max = 1000") else { return };
    let mut client = world.server.client();
    for (query, says) in [
        ("SELECT id, name FROM users", "must select one column for each of the pattern's 1 placeholders, in order"),
        ("SELECT nothing FROM users", "does not exist"),
        ("SELECT id FROM users WHERE id = $1", "has 1 parameters"),
        ("DELETE FROM users RETURNING id", "read-only transaction"),
        ("SELECT 1; DELETE FROM users", "multiple commands"),
        ("SELECT id FROM users", "selects more keys than may be warmed: 1000"),
    ] {
        assert_eq!(client.command(&["LOADER", "WARM", "user", "SQL", query]), ok());
        until("it has failed", || warm_state(&mut client).starts_with("failed: "));
        let state = warm_state(&mut client);
        assert!(state.contains(says), "{query}: {state}");
    }
    assert_eq!(world.database.number("SELECT count(*) FROM users"), USERS as i64);
    assert!(!client.command(&["GET", "user:1"]).is_null());
    assert_eq!(error(&client.command(&["LOADER", "WARM", "nobody", "STOP"])), "NOLOADER no loader has this name");
}
