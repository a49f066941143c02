//! What changes in PostgreSQL reaches the cache by a feed alone: nobody deletes a key. The outbox is made by the SQL that
//! `leasehold sql outbox` prints.

use leasehold_tests::fed::{Fed, lags, user};
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Database, Postgres, Server, Value, groups};
use std::process::Command;

const GROUP: &str = "feeds";

const SCHEMA: &str =
    "CREATE TABLE users (id int8 PRIMARY KEY, name text, updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 20) n;";

/// Rows live for an hour: what is seen sooner is seen by the feed.
fn conf(url: &str, feed: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "10s"
        acquire_timeout = "10s"

        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = "SELECT id, name FROM users WHERE id = $1"
        batch_sql = "SELECT id, name FROM users WHERE id = ANY($1)"
        ttl = "1h"
        negative_ttl = "1h"
        serve_stale = "never"
        hard_timeout = "10s"

        [feeds.users]
        source = "main"
        loaders = "user"
        {feed}
        "#
    )
}

const OUTBOX: &str = "table = \"users\"\nkey = \"id\"\nstale_after = \"1h\"";

/// The SQL of the outbox, as an operator gets it.
fn outbox_sql() -> String {
    let output = Command::new(binary()).args(["sql", "outbox", "--table", "users", "--key", "id"]).output();
    let output = output.expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("SQL is text")
}

/// A server whose feed has begun, on a database of its own.
fn new(feed: &str) -> Option<Fed> {
    let postgres = Postgres::shared(GROUP)?;
    Some(Fed::on_a_new_database(postgres, &schema(), |url| conf(url, feed)))
}

/// A server whose feed has begun, on this database.
fn on(url: &str, feed: &str) -> Fed {
    Database::connect(url).run(&schema());
    Fed::start(url, &conf(url, feed))
}

fn schema() -> String {
    format!("{SCHEMA}\n{}", outbox_sql())
}

#[test]
fn updates_deletes_inserts_and_moved_keys_are_seen() {
    let Some(mut setup) = new(OUTBOX) else { return };
    assert_eq!((setup.get(1), setup.get(2), setup.get(3)), (user(1, "user 1"), user(2, "user 2"), user(3, "user 3")));
    assert!(setup.get(77).is_null() && setup.get(78).is_null(), "there are no such rows, which is remembered");
    setup.database.run("UPDATE users SET name = 'ann' WHERE id = 1");
    setup.until_seen(1, &user(1, "ann"));
    setup.database.run("DELETE FROM users WHERE id = 2");
    until("the delete is seen", || setup.get(2).is_null());
    setup.database.run("INSERT INTO users VALUES (77, 'new')");
    setup.until_seen(77, &user(77, "new"));
    setup.database.run("UPDATE users SET id = 78 WHERE id = 3");
    setup.until_seen(78, &user(78, "user 3"));
    assert!(setup.get(3).is_null(), "the key before is told together with the key after");
    assert_eq!((setup.stat("events"), setup.stat("gaps"), setup.stat("wholes")), (4, 0, 0));
    assert_eq!((setup.stat("keys"), setup.stat("blinds")), (5, 0));
}

#[test]
fn a_transaction_that_rolls_back_tells_nothing() {
    let Some(mut setup) = new(OUTBOX) else { return };
    assert_eq!((setup.get(1), setup.get(2)), (user(1, "user 1"), user(2, "user 2")));
    setup.database.run("BEGIN; UPDATE users SET name = 'no' WHERE id = 1; ROLLBACK");
    setup.database.run(
        "BEGIN; UPDATE users SET name = 'yes' WHERE id = 2; SAVEPOINT s; UPDATE users SET name = 'no' WHERE id = 1;
         ROLLBACK TO s; COMMIT",
    );
    setup.until_seen(2, &user(2, "yes"));
    assert_eq!((setup.stat("events"), setup.stat("keys")), (1, 1));
}

#[test]
fn a_transaction_that_commits_after_a_later_one_is_seen_and_holds_nobody_back() {
    let Some(mut setup) = new(OUTBOX) else { return };
    assert_eq!((setup.get(1), setup.get(2)), (user(1, "user 1"), user(2, "user 2")));
    let mut slow = Database::connect(&setup.url);
    slow.run("BEGIN; UPDATE users SET name = 'late' WHERE id = 1");
    for round in 0..5 {
        setup.database.run(&format!("UPDATE users SET name = 'round {round}' WHERE id = 2"));
        setup.until_seen(2, &user(2, &format!("round {round}")));
    }
    assert_eq!(setup.get(1), user(1, "user 1"));
    slow.run("COMMIT");
    setup.until_seen(1, &user(1, "late"));
    let order = "SELECT count(*) FROM leasehold_outbox a, leasehold_outbox b
                 WHERE a.new_key->>'id' = '1' AND b.new_key->>'id' = '2' AND a.id < b.id";
    assert_eq!(setup.database.number(order), 5, "what came last had the first number");
    assert_eq!((setup.stat("events"), setup.stat("gaps")), (6, 0));
}

#[test]
fn a_truncate_makes_all_stale() {
    let Some(mut setup) = new(OUTBOX) else { return };
    for id in 1..=20 {
        assert_eq!(setup.get(id), user(id, &format!("user {id}")));
    }
    setup.client.command(&["SET", "other", "stays"]);
    setup.database.run("TRUNCATE users");
    until("the truncate is seen", || setup.stat("events") == 1);
    for id in 1..=20 {
        assert!(setup.get(id).is_null(), "user:{id}");
    }
    assert_eq!(setup.client.command(&["GET", "other"]), Value::bulk("stays"));
    assert_eq!((setup.stat("wholes"), setup.stat("gaps")), (1, 0));
}

#[test]
fn a_lost_connection_loses_nothing_that_the_outbox_still_has() {
    let Some(mut setup) = new(OUTBOX) else { return };
    for round in 0..3 {
        assert_ne!(setup.get(1), Value::Null);
        setup.shut_out();
        setup.database.run(&format!("UPDATE users SET name = 'round {round}' WHERE id = 1"));
        until("the feed has noticed", || setup.client.feed_field("state") == "trouble");
        setup.let_in();
        setup.until_seen(1, &user(1, &format!("round {round}")));
    }
    assert_eq!((setup.stat("events"), setup.stat("gaps"), setup.stat("blinds")), (3, 0, 0));
}

#[test]
fn rows_that_were_purged_unread_make_all_stale_and_rows_that_were_read_do_not() {
    // A server of its own: a transaction that is open in any of its databases would make the feed more careful than it is here.
    let Some(postgres) = Postgres::start(GROUP) else { return };
    let mut setup = on(&postgres.new_database(), OUTBOX);
    setup.keeper = Some(Database::connect(&postgres.url()));
    assert_eq!((setup.get(1), setup.get(2)), (user(1, "user 1"), user(2, "user 2")));
    setup.database.run("UPDATE users SET name = 'ann' WHERE id = 1");
    setup.until_seen(1, &user(1, "ann"));
    setup.database.run("DELETE FROM leasehold_outbox");
    setup.database.run("UPDATE users SET name = 'bea' WHERE id = 1");
    setup.until_seen(1, &user(1, "bea"));
    assert_eq!((setup.stat("events"), setup.stat("gaps")), (2, 0));
    for (gaps, purge) in [
        (1, "DELETE FROM leasehold_outbox"),
        (2, "TRUNCATE leasehold_outbox"),
        (3, "SELECT leasehold_outbox_purge('0')"),
    ] {
        assert_ne!(setup.get(2), Value::Null);
        setup.shut_out();
        setup.database.run(&format!("UPDATE users SET name = 'gap {gaps}' WHERE id = 2"));
        setup.database.run(purge);
        setup.let_in();
        setup.until_seen(2, &user(2, &format!("gap {gaps}")));
        assert_eq!(setup.stat("gaps"), gaps, "{purge}");
    }
    assert_eq!(setup.stat("events"), 2);
    assert!(setup.client.feed_field("last_gap").contains("purged"));
}

#[test]
fn a_trigger_that_was_off_is_a_gap() {
    let Some(mut setup) = new(OUTBOX) else { return };
    assert_eq!(setup.get(1), user(1, "user 1"));
    setup.database.run("ALTER TABLE users DISABLE TRIGGER leasehold_outbox");
    setup.database.run("UPDATE users SET name = 'unseen' WHERE id = 1");
    // It is noticed at the next look after the triggers, of which each new connection does one.
    setup.throw_out();
    until("the missing trigger is told", || {
        setup.client.feed_field("problem").contains("leasehold sql outbox --table users")
    });
    setup.database.run("ALTER TABLE users ENABLE ALWAYS TRIGGER leasehold_outbox");
    setup.until_seen(1, &user(1, "unseen"));
    assert_eq!(setup.stat("gaps"), 1);
}

#[test]
fn a_feed_that_cannot_be_read_makes_all_stale() {
    let Some(mut setup) = new("table = \"users\"\nkey = \"id\"\nstale_after = \"1500ms\"") else { return };
    assert_eq!(setup.get(1), user(1, "user 1"));
    setup.shut_out();
    setup.database.run("UPDATE users SET name = 'unseen' WHERE id = 1");
    until("the feed is blind", || setup.client.feed_field("state") == "blind");
    until("nothing is fresh", || setup.client.command(&["EXISTS", "user:1"]).integer() == 0);
    setup.let_in();
    setup.until_seen(1, &user(1, "unseen"));
    until("the feed sees again", || setup.client.feed_field("state") == "ok");
    assert!(setup.stat("blinds") >= 1);
}

#[test]
fn a_restart_of_the_database_makes_all_stale() {
    let Some(mut postgres) = Postgres::start(GROUP) else { return };
    let mut setup = on(&postgres.url(), OUTBOX);
    assert_eq!(setup.get(1), user(1, "user 1"));
    postgres.stop();
    until("the feed has noticed", || setup.client.feed_field("state") == "trouble");
    // What was fresh before stays so for a while: nobody can tell that it is not.
    assert_eq!(setup.get(1), user(1, "user 1"));
    postgres.resume();
    let mut database = Database::connect(&setup.url);
    // As if the transaction that wrote the row had been undone by a crash: no trigger tells of it.
    database.run("SET session_replication_role = replica; ALTER TABLE users DISABLE TRIGGER ALL");
    database.run("UPDATE users SET name = 'after the crash' WHERE id = 1; ALTER TABLE users ENABLE TRIGGER ALL");
    database.run("ALTER TABLE users ENABLE ALWAYS TRIGGER leasehold_outbox");
    setup.until_seen(1, &user(1, "after the crash"));
    assert!(setup.stat("gaps") >= 1);
}

#[test]
fn a_polled_time_of_change_and_a_table_of_versions_work_too() {
    let by_time = "via = \"updated_at\"\ntable = \"users\"\nkey = \"id\"\npoll = \"20ms\"\nstale_after = \"1h\"";
    let Some(mut setup) = new(by_time) else { return };
    assert_eq!(setup.get(1), user(1, "user 1"));
    assert!(setup.get(77).is_null());
    let mut slow = Database::connect(&setup.url);
    slow.run("BEGIN; UPDATE users SET name = 'late', updated_at = now() WHERE id = 1");
    setup.database.run("INSERT INTO users VALUES (77, 'new')");
    setup.until_seen(77, &user(77, "new"));
    slow.run("COMMIT");
    setup.until_seen(1, &user(1, "late"));
    assert_eq!(setup.stat("gaps"), 0);

    setup
        .database
        .run("CREATE TABLE versions (name text PRIMARY KEY, version int8); INSERT INTO versions VALUES ('users', 1)");
    let by_version =
        "via = \"versions\"\ntable = \"versions\"\nresource = \"users\"\npoll = \"20ms\"\nstale_after = \"1h\"";
    let server = Server::options().conf(conf(&setup.url, by_version)).start();
    let mut client = server.client();
    until("the feed has begun", || client.feed_field("state") == "ok");
    assert_eq!(client.command(&["GET", "user:2"]), user(2, "user 2"));
    setup.database.run(
        "BEGIN; UPDATE users SET name = 'bulk'; UPDATE versions SET version = version + 1 WHERE name = 'users'; COMMIT",
    );
    until("the new version is seen", || client.command(&["GET", "user:2"]) == user(2, "bulk"));
    assert_eq!((client.feed_counter("users", "wholes"), client.feed_counter("users", "gaps")), (1, 0));
}

#[test]
fn what_a_feed_lacks_stops_the_start_with_its_place() {
    let Some(postgres) = Postgres::shared(GROUP) else { return };
    let url = postgres.new_database();
    Database::connect(&url).run(SCHEMA);
    for (feed, says) in [
        ("table = \"users\"\nkey = \"id\"", "feeds.users.outbox: there is no table leasehold_outbox in this database"),
        ("table = \"usres\"\nkey = \"id\"", "feeds.users.table: there is no table usres"),
        ("table = \"users\"\nkey = [\"id\", \"org\"]", "feeds.users.key: the table users has no column org"),
        ("table = \"users\"\nkey = \"name\"", "feeds.users.key: has no column for {id} of loaders.user"),
        ("table = \"users\"", "feeds.users.key: is missing; via = \"outbox\" needs it"),
        ("via = \"data_version\"", "feeds.users.via: data_version is for SQLite only"),
        (
            "via = \"updated_at\"\ntable = \"users\"\nkey = \"id\"\nupdated_column = \"at\"",
            "feeds.users.updated_column: ",
        ),
        ("via = \"versions\"\ntable = \"users\"\nresource = \"x\"", "feeds.users.version_column: "),
    ] {
        for arguments in [&["--check-config"][..], &[]] {
            let options = Server::options().conf(conf(&url, feed));
            let options = arguments.iter().fold(options, |options, argument| options.argument(*argument));
            let (status, text) = options.run_to_end();
            assert_eq!(status.code(), Some(1), "{feed}: {text}");
            let line = text.lines().find(|line| line.contains(says)).unwrap_or_else(|| panic!("{says}: {text}"));
            assert!(line.contains("leasehold.toml:"), "{line}");
        }
    }
    Database::connect(&url).run(&outbox_sql());
    let valid = Server::options().conf(conf(&url, OUTBOX)).argument("--check-config").run_to_end();
    assert_eq!(valid.0.code(), Some(0), "{}", valid.1);
}

/// From the commit to the moment at which no client sees the old row any more, by clients that look.
#[test]
fn the_lag_is_told() {
    const ROUNDS: usize = 300;
    let Some(mut setup) = new(OUTBOX) else { return };
    let Fed { client, database, .. } = &mut setup;
    let [p50, p99] = lags(client, "user:1", ROUNDS, || database.run("UPDATE users SET name = name WHERE id = 1"));
    let own = ["lag_p50_us", "lag_p99_us"].map(|counter| setup.stat(counter));
    groups::say(&format!(
        "feeds: outbox with NOTIFY, from the acknowledged commit to the first read that is not stale: p50 {p50:?}, p99 {p99:?} of {ROUNDS}; by the \
         feed's own count from the write: p50 {} us, p99 {} us",
        own[0], own[1]
    ));
    assert_eq!((setup.stat("events"), setup.stat("invalidated")), (ROUNDS as i64, ROUNDS as i64));
}
