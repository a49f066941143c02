//! The auditor sees what is not what its source has, says so at each scale of time and with what led to it, and says nothing where all is
//! well, or where it cannot know.

use leasehold_tests::process::Directory;
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Proxy, Server, SqliteFile, Trouble, Value, groups};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GROUP: &str = "the auditor";

/// A server with an auditor over an SQLite file of twenty users.
struct World {
    server: Server,
    client: Client,
    file: SqliteFile,
    _folder: Directory,
}

impl World {
    fn new(auditor: &str) -> Self {
        let folder = Directory::new();
        let path = folder.path().join("users.db");
        let mut file = SqliteFile::open(&path);
        file.run(
            "PRAGMA journal_mode = WAL; CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
             WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 20)
             INSERT INTO users SELECT id, 'user ' || id FROM ids",
        );
        let path = path.display();
        let conf = format!(
            r#"
            [sources.main]
            url = "sqlite:{path}"

            [loaders.user]
            match = "user:{{id:int}}"
            source = "main"
            value = "column"
            sql = "SELECT id, name FROM users WHERE id = $1"
            ttl = "1h"
            negative_ttl = "1h"

            [loaders.dice]
            match = "dice:{{id:int}}"
            source = "main"
            sql = "SELECT id, random() AS number FROM users WHERE id = $1"
            ttl = "1h"

            [auditor]
            rate = 1000
            {auditor}
            "#
        );
        let server = Server::options().conf(conf).start();
        let client = server.client();
        Self { server, client, file, _folder: folder }
    }

    fn get(&mut self, id: i64) -> Value {
        self.client.command(&["GET", &format!("user:{id}")])
    }

    fn count(&mut self, counter: &str) -> i64 {
        counted(&mut self.client, "user", counter)
    }

    fn until_counted(&mut self, counter: &str, count: i64) {
        until(&format!("{counter} is {count}"), || self.count(counter) >= count);
    }

    /// Waits until something that was read since was compared.
    fn until_compared_anew(&mut self) {
        let compared = self.count("compared");
        // Those on the way may be from before.
        until("more was compared", || self.count("compared") > compared + 30);
    }
}

fn counted(client: &mut Client, loader: &str, counter: &str) -> i64 {
    field(&client.command(&["AUDIT", "STATS", loader]), counter).integer()
}

/// A field of a map.
fn field(map: &Value, name: &str) -> Value {
    let pair = map.elements().chunks(2).find(|pair| pair[0].text() == name);
    pair.unwrap_or_else(|| panic!("{map} has no {name}"))[1].clone()
}

/// The violations of a key, newest first.
fn violations(client: &mut Client, key: &str) -> Vec<Value> {
    let all = client.command(&["AUDIT", "LIST", "user"]);
    all.elements().iter().filter(|violation| field(violation, "key").text() == key).cloned().collect()
}

fn texts(violation: &Value, fields: &[&str]) -> Vec<String> {
    fields.iter().map(|name| field(violation, name).text()).collect()
}

fn history(violation: &Value) -> Vec<String> {
    let history = field(violation, "history");
    // Without the times.
    let words = |line: &Value| line.text().split_once(' ').expect("a time and words").1.to_owned();
    history.elements().iter().map(words).collect()
}

#[test]
fn a_row_changed_behind_the_cache_is_reported_at_each_scale_with_its_history() {
    let mut world = World::new("after = [\"200ms\", \"600ms\"]\nexclude = \"dice\"");
    for id in 1..=3 {
        assert_eq!(world.get(id), Value::bulk(format!("user {id}")));
    }
    world.client.command(&["GET", "dice:1"]);
    world.until_compared_anew();
    assert_eq!((world.count("inconsistent_200ms"), world.count("unknown_200ms")), (0, 0));
    world.file.run("UPDATE users SET name = 'secret' WHERE id = 2");
    world.until_counted("inconsistent_600ms", 1);
    assert_eq!(world.count("inconsistent_200ms"), 1);
    let found = violations(&mut world.client, "user:2");
    let of: Vec<_> = found.iter().map(|violation| texts(violation, &["after", "class", "loader"])).collect();
    assert_eq!(of, [["600ms", "untold", "user"], ["200ms", "untold", "user"]]);
    let number = |violation: &Value, name: &str| field(violation, name).integer();
    for violation in &found {
        let numbers = ["cached_bytes", "source_bytes", "db"].map(|name| number(violation, name));
        assert_eq!(numbers, [6, 6, 0]);
        assert_ne!(field(violation, "cached_digest"), field(violation, "source_digest"));
        assert!(field(violation, "cached_value").is_null() && field(violation, "source_value").is_null());
        assert!((3_000_000..=4_000_000).contains(&number(violation, "ttl_ms")), "{violation}");
        let history = history(violation);
        assert_eq!(history[0], "filled by a load");
        assert_eq!(history.last().map(String::as_str), Some("compared: differs"));
    }
    assert!(number(&found[0], "at_ms") - number(&found[0], "since_ms") >= 600);
    assert_eq!(number(&found[0], "version"), number(&found[1], "version"), "the same entry");
    assert_eq!(world.get(2), Value::bulk("user 2"), "nothing was changed by looking");
    // An entry is reported once at each scale, and what is as it should be goes on being compared.
    world.until_compared_anew();
    assert_eq!((world.count("inconsistent_200ms"), world.count("inconsistent_600ms")), (1, 1));
    let logs = world.server.logs();
    assert!(logs.contains("an entry is not what its source has") && !logs.contains("secret"), "{logs}");
    let info = world.client.command(&["INFO", "auditor"]).text();
    assert!(info.contains("state=on") && info.contains("inconsistent_200ms=1"), "{info}");
    // What is excluded is not there, however often its row gives another value.
    assert!(world.client.command(&["AUDIT", "STATS", "dice"]).error().starts_with("NOLOADER "));
    assert_eq!(world.client.command(&["AUDIT", "LIST", "dice"]), Value::Array(vec![]));
    // Who resets hears again of what is still so.
    world.client.command(&["AUDIT", "RESET"]);
    world.until_counted("inconsistent_200ms", 1);
    world.client.command(&["DEL", "user:2"]);
    assert_eq!(world.get(2), Value::bulk("secret"));
    world.until_compared_anew();
    world.client.command(&["AUDIT", "RESET"]);
    world.until_compared_anew();
    assert_eq!((world.count("inconsistent_200ms"), world.count("inconsistent_600ms")), (0, 0));
    let share = field(&world.client.command(&["AUDIT", "STATS", "user"]), "consistency_200ms");
    assert_eq!(share.text(), "100.000000%");
}

#[test]
fn stale_writes_of_clients_and_rows_that_come_and_go_are_seen() {
    let mut world = World::new("after = \"200ms\"\nexclude = [\"dice\"]\nshow_values = \"yes\"");
    let long = "x".repeat(65);
    assert_eq!(world.get(1), Value::bulk("user 1"));
    world.client.command(&["SET", "user:1", "stale"]);
    world.client.command(&["SET", "user:2", &long]);
    assert_eq!(world.get(3), Value::bulk("user 3"));
    assert!(world.get(99).is_null());
    world.file.run("DELETE FROM users WHERE id = 3; INSERT INTO users VALUES (99, 'new')");
    world.until_counted("inconsistent_200ms", 4);
    let one = |client: &mut Client, key: &str| {
        let mut found = violations(client, key);
        assert_eq!(found.len(), 1, "{key}");
        let violation = found.remove(0);
        let values = ["cached_value", "source_value"].map(|name| field(&violation, name));
        let lengths = ["cached_bytes", "source_bytes"].map(|name| field(&violation, name).integer());
        (field(&violation, "class").text(), values, lengths, history(&violation))
    };
    let (class, values, _, history) = one(&mut world.client, "user:1");
    assert_eq!((class.as_str(), values), ("written", [Value::bulk("stale"), Value::bulk("user 1")]));
    assert!(history.contains(&"written by a client".to_owned()), "{history:?}");
    let (class, values, lengths, _) = one(&mut world.client, "user:2");
    assert_eq!((class.as_str(), values, lengths), ("written", [Value::NullBulk, Value::bulk("user 2")], [65, 6]));
    let (class, values, lengths, _) = one(&mut world.client, "user:3");
    assert_eq!((class.as_str(), values, lengths), ("untold", [Value::bulk("user 3"), Value::NullBulk], [6, -1]));
    let (class, values, lengths, _) = one(&mut world.client, "user:99");
    assert_eq!((class.as_str(), values, lengths), ("untold", [Value::NullBulk, Value::bulk("new")], [-1, 3]));
    assert_eq!(world.client.command(&["AUDIT", "LIST", "COUNT", "3"]).elements().len(), 3);
}

#[test]
fn an_entry_that_is_replaced_in_time_is_no_violation() {
    const SCALE: Duration = Duration::from_secs(1);
    let mut world = World::new("after = \"1s\"\nexclude = \"dice\"");
    let mut slow = 0;
    for id in 1..=20 {
        assert_eq!(world.get(id), Value::bulk(format!("user {id}")));
        let begun = Instant::now();
        world.file.run(&format!("UPDATE users SET name = 'new {id}' WHERE id = {id}"));
        until("the difference is seen", || {
            let is_suspect = world.client.command(&["INFO", "auditor"]).text().contains("suspicions=1");
            is_suspect || world.count("inconsistent_1s") > slow
        });
        world.client.command(&["DEL", &format!("user:{id}")]);
        assert_eq!(world.get(id), Value::bulk(format!("new {id}")));
        let is_in_time = begun.elapsed() < SCALE;
        until("it is dealt with", || world.client.command(&["INFO", "auditor"]).text().contains("suspicions=0"));
        if is_in_time {
            break;
        }
        slow += 1;
    }
    assert!(slow < 20, "the machine never did so little within a second");
    world.until_counted("overtaken_1s", 1);
    assert!(world.count("inconsistent_1s") <= slow);
}

#[test]
fn where_the_source_does_not_say_nothing_is_reported() {
    let mut world = World::new("after = \"200ms\"\nexclude = \"dice\"");
    assert_eq!(world.get(1), Value::bulk("user 1"));
    world.until_compared_anew();
    world.client.command(&["LOADER", "PAUSE", "user"]);
    world.file.run("UPDATE users SET name = 'new' WHERE id = 1");
    let unknown = world.count("unknown_200ms");
    world.until_counted("unknown_200ms", unknown + 20);
    assert_eq!(world.count("inconsistent_200ms"), 0, "paused");
    world.file.run("ALTER TABLE users RENAME TO others");
    world.client.command(&["LOADER", "RESUME", "user"]);
    let unknown = world.count("unknown_200ms");
    world.until_counted("unknown_200ms", unknown + 20);
    assert_eq!(world.count("inconsistent_200ms"), 0, "the query fails");
    world.file.run("ALTER TABLE others RENAME TO users");
    world.until_counted("inconsistent_200ms", 1);
}

#[test]
fn without_an_auditor_its_commands_say_so() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.command(&["AUDIT", "STATS"]).error(), "ERR there is no [auditor]");
    assert!(client.command(&["INFO", "auditor"]).text().contains("auditor:state=off"));
}

/// `users` of PostgreSQL, with 40 rows.
fn postgres(url: &str) -> Database {
    let mut database = Database::connect(url);
    database.run("CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL)");
    database.run("INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 40) n");
    database
}

fn loader(name: &str, options: &str) -> String {
    format!(
        r#"
        [loaders.{name}]
        match = "{name}:{{id:int}}"
        source = "main"
        value = "column"
        sql = "SELECT id, name FROM users WHERE id = $1"
        batch_sql = "SELECT id, name FROM users WHERE id = ANY($1)"
        hard_timeout = "10s"
        {options}
        "#
    )
}

#[test]
fn where_a_feed_tells_of_changes_nothing_stays_wrong_and_where_none_does_it_is_seen() {
    let Some(postgres_server) = Postgres::shared(GROUP) else { return };
    let url = postgres_server.new_database();
    let mut database = postgres(&url);
    let outbox = Command::new(binary()).args(["sql", "outbox", "--table", "users", "--key", "id"]).output();
    database.run(&String::from_utf8(outbox.expect("the binary runs").stdout).expect("SQL is text"));
    let conf = format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "10s"
        acquire_timeout = "10s"
        {}
        {}

        [feeds.users]
        source = "main"
        loaders = "user"
        table = "users"
        key = "id"
        stale_after = "1h"

        [auditor]
        rate = 200
        after = "5s"
        "#,
        loader("user", "ttl = \"30s\"\nrefresh = \"ahead\"\nrefresh_at = 0.1"),
        loader("blind", "ttl = \"1h\"")
    );
    let server = Server::options().conf(conf).start();
    let mut client = server.client();
    until("the feed has begun", || client.feed_field("state") == "ok");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (server, is_over, url) = (&server, &is_over, &url);
        for reader in 0..2 {
            scope.spawn(move || {
                let mut client = server.client();
                let keys = |name: &'static str| (1..=40).map(move |id| format!("{name}:{id}"));
                let argv: Vec<String> =
                    std::iter::once("MGET".to_owned()).chain(keys("user")).chain(keys("blind")).collect();
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    client.command(&argv);
                    // Deletes beside the feed.
                    if round % 20 == 0 {
                        client.command(&["DEL", &format!("user:{}", reader + 1)]);
                    }
                }
            });
        }
        scope.spawn(move || {
            let mut database = Database::connect(url);
            for round in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                // The other half of the rows stays, and is refreshed.
                database.run(&format!("UPDATE users SET name = 'user {round}' WHERE id = {}", round % 20 + 1));
            }
        });
        // The counter shows that the auditor finds what is wrong for so long.
        let found = leasehold_tests::watch::holds_in_time(|| {
            counted(&mut client, "blind", "inconsistent_5s") >= 10 && client.loader_counter("user", "refreshes") > 0
        });
        is_over.store(true, Ordering::Relaxed);
        assert!(found, "the auditor is blind: {}", client.command(&["AUDIT", "STATS"]));
    });
    let stats = client.command(&["AUDIT", "STATS", "user"]);
    let count = |counter| field(&stats, counter).integer();
    groups::say(&format!("{GROUP}: {stats}"));
    assert_eq!(
        (count("inconsistent_5s"), count("stale_sets")),
        (0, 0),
        "{}",
        client.command(&["AUDIT", "LIST", "user"])
    );
    assert!(count("consistent_5s") > 0);
    let blind = client.command(&["AUDIT", "LIST", "blind", "COUNT", "1"]);
    assert_eq!(field(&blind.elements()[0], "class").text(), "untold");
}

#[test]
fn the_source_is_asked_only_so_often_behind_others_and_its_absence_is_no_violation() {
    const RATE: u64 = 20;
    let Some(postgres_server) = Postgres::shared(GROUP) else { return };
    let url = postgres_server.new_database();
    let mut database = postgres(&url);
    let proxy = Proxy::before(postgres_server.port());
    let url = url.replace(&format!(":{}/", postgres_server.port()), &format!(":{}/", proxy.port()));
    assert!(url.contains(&format!(":{}/", proxy.port())), "{url}");
    let conf = format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "10s"
        acquire_timeout = "1s"
        {}

        [auditor]
        rate = {RATE}
        after = "500ms"
        "#,
        // One at a time, and it finds its place.
        loader("user", "ttl = \"1h\"\nmax_concurrency = 1\nbreaker = \"off\"")
    );
    let server = Server::options().conf(conf).start();
    let mut client = server.client();
    // Loading and deleting makes many keys at risk.
    let argv: Vec<String> = std::iter::once("MGET".to_owned()).chain((1..=40).map(|id| format!("user:{id}"))).collect();
    client.command(&argv);
    proxy.take_peak();
    let (begun, before) = (Instant::now(), proxy.queries());
    let loads_before = client.loader_counter("user", "batches");
    let compared_before = counted(&mut client, "user", "compared");
    let mut compared = 0;
    while begun.elapsed() < Duration::from_secs(2) || compared < 10 {
        client.command(&["DEL", "user:1", "user:2", "user:3"]);
        client.command(&argv);
        compared = counted(&mut client, "user", "compared") - compared_before;
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing is compared");
    }
    let loads = (client.loader_counter("user", "batches") - loads_before) as u64;
    let audits = (proxy.queries() - before) as u64 - loads;
    let compared = (counted(&mut client, "user", "compared") - compared_before) as u64;
    // What was saved up is half a second's, and each connection begins with some statements of its own.
    let most = RATE * (begun.elapsed().as_millis() as u64 + 500) / 1_000 + 20;
    groups::say(&format!(
        "{GROUP}: {audits} queries beside {loads}, {compared} entries compared in {:?}",
        begun.elapsed()
    ));
    assert!((1..=most).contains(&audits), "{audits} queries, at most {most}");
    assert!(compared <= most, "{compared} entries, at most {most}");
    assert!(proxy.take_peak() <= 1, "the auditor is one of max_concurrency");
    proxy.set(Trouble::Refuse);
    database.run("UPDATE users SET name = 'new'");
    let unknown = counted(&mut client, "user", "unknown_500ms");
    until("the source was missed", || counted(&mut client, "user", "unknown_500ms") > unknown + 5);
    assert_eq!(counted(&mut client, "user", "inconsistent_500ms"), 0);
    proxy.set(Trouble::None);
    until("it is back, and has something else", || counted(&mut client, "user", "inconsistent_500ms") > 0);
}
