//! A feed by logical replication: what changes in PostgreSQL reaches the cache by its log alone. Nobody deletes a key, and rows live for
//! an hour.

use leasehold_tests::certificates::Certificates;
use leasehold_tests::fed::{Fed, lags, user};
use leasehold_tests::proxy::{Proxy, Trouble};
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Database, Postgres, Server, Value, groups};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const GROUP: &str = "feeds by logical replication";

const SCHEMA: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text);
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 20) n;
    CREATE PUBLICATION leasehold FOR TABLE users;";

const FEED: &str = "stale_after = \"1h\"";

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
        breaker = "off"

        [feeds.users]
        source = "main"
        loaders = "user"
        via = "logical"
        table = "users"
        key = "id"
        {feed}
        "#
    )
}

/// A server whose log can be read so, for itself.
fn start() -> Option<Postgres> {
    Postgres::start_with(GROUP, &["wal_level=logical"], |_| {})
}

/// The one that tests share which leave no transaction open: a slot waits for those of all databases.
fn shared() -> Option<Arc<Postgres>> {
    Postgres::shared_with(GROUP, &["wal_level=logical", "max_wal_senders=50", "max_replication_slots=50"])
}

/// A server whose feed has begun, on a database of its own.
fn new(feed: &str) -> Option<Fed> {
    Some(Fed::on_a_new_database(shared()?, SCHEMA, |url| conf(url, feed)))
}

/// A server whose feed has begun, on a database that has the schema.
fn on(url: &str, feed: &str) -> Fed {
    Fed::start(url, &conf(url, feed))
}

#[test]
fn updates_deletes_inserts_and_moved_keys_are_seen() {
    let Some(mut setup) = new(FEED) else { return };
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
    assert!(setup.stat("lag_p99_us") > 0);
    assert_eq!(setup.client.feed_field("via"), "logical");
    // Another table of the database, and a program's message.
    setup.database.run("CREATE TABLE others (id int8 PRIMARY KEY); ALTER PUBLICATION leasehold ADD TABLE others");
    setup.database.run("INSERT INTO others VALUES (1); SELECT pg_logical_emit_message(true, 'x', 'y')");
    setup.database.run("UPDATE users SET name = 'bea' WHERE id = 1");
    setup.until_seen(1, &user(1, "bea"));
    assert_eq!((setup.stat("events"), setup.stat("gaps")), (5, 0));
}

#[test]
fn a_transaction_that_rolls_back_tells_nothing_and_none_waits_for_another() {
    let Some(postgres) = start() else { return };
    let url = postgres.new_database();
    Database::connect(&url).run(SCHEMA);
    let mut setup = on(&url, FEED);
    assert_eq!((setup.get(1), setup.get(2)), (user(1, "user 1"), user(2, "user 2")));
    setup.database.run("BEGIN; UPDATE users SET name = 'no' WHERE id = 1; ROLLBACK");
    setup.database.run(
        "BEGIN; UPDATE users SET name = 'yes' WHERE id = 2; SAVEPOINT s; UPDATE users SET name = 'no' WHERE id = 1;
         ROLLBACK TO s; COMMIT",
    );
    setup.until_seen(2, &user(2, "yes"));
    assert_eq!((setup.stat("events"), setup.stat("keys")), (1, 1));
    let mut slow = Database::connect(&url);
    slow.run("BEGIN; UPDATE users SET name = 'late' WHERE id = 1");
    for round in 0..5 {
        setup.database.run(&format!("UPDATE users SET name = 'round {round}' WHERE id = 2"));
        setup.until_seen(2, &user(2, &format!("round {round}")));
    }
    assert_eq!(setup.get(1), user(1, "user 1"));
    slow.run("COMMIT");
    setup.until_seen(1, &user(1, "late"));
    assert_eq!((setup.stat("events"), setup.stat("gaps")), (7, 0));
}

#[test]
fn large_transactions_are_told_and_those_beyond_the_limit_make_all_stale() {
    // No other feed has to wait for them.
    let Some(postgres) = start() else { return };
    Database::connect(&postgres.url()).run(SCHEMA);
    let mut setup = on(&postgres.url(), FEED);
    assert_eq!(setup.get(7), user(7, "user 7"));
    setup.database.run("INSERT INTO users SELECT n, 'new' FROM generate_series(21, 30000) n");
    setup.database.run("UPDATE users SET name = 'all'");
    setup.until_seen(7, &user(7, "all"));
    until("all of it is told", || setup.stat("events") == 29_980 + 30_000);
    assert_eq!((setup.stat("gaps"), setup.stat("wholes")), (0, 0));
    setup.database.run("INSERT INTO users SELECT n, 'new' FROM generate_series(30001, 130001) n");
    until("it is told in one", || setup.stat("wholes") == 1);
    assert_eq!(setup.get(130_001), user(130_001, "new"));
    assert_eq!((setup.stat("gaps"), setup.stat("troubles")), (0, 0));
}

#[test]
fn a_truncate_makes_all_stale() {
    let Some(mut setup) = new(FEED) else { return };
    for id in 1..=20 {
        assert_eq!(setup.get(id), user(id, &format!("user {id}")));
    }
    setup.client.command(&["SET", "other", "stays"]);
    setup.database.run("TRUNCATE users");
    until("the truncate is seen", || setup.stat("events") >= 1);
    for id in 1..=20 {
        assert!(setup.get(id).is_null(), "user:{id}");
    }
    assert_eq!(setup.client.command(&["GET", "other"]), Value::bulk("stays"));
    assert_eq!(setup.stat("gaps"), 0);
    assert!(setup.stat("wholes") >= 1);
}

#[test]
fn what_the_log_does_not_tell_of_makes_all_stale_at_the_next_look() {
    let Some(mut setup) = new("stale_after = \"1h\"\npoll = \"100ms\"") else { return };
    assert_eq!(setup.get(1), user(1, "user 1"));
    // Written anew without a change of a row.
    setup.database.run("ALTER TABLE users ALTER COLUMN name TYPE varchar(50) USING upper(name)");
    setup.until_seen(1, &user(1, "USER 1"));
    assert_eq!((setup.stat("gaps"), setup.stat("wholes")), (0, 1));
    setup.database.run("ALTER TABLE users RENAME COLUMN id TO number; ALTER TABLE users RENAME COLUMN number TO id");
    setup.database.run("UPDATE users SET name = 'ann' WHERE id = 1");
    setup.until_seen(1, &user(1, "ann"));
}

#[test]
fn a_lost_connection_is_a_gap_and_never_a_wrong_value() {
    let Some(mut setup) = new(FEED) else { return };
    for round in 0..3 {
        assert_ne!(setup.get(1), Value::Null);
        setup.shut_out();
        setup.database.run(&format!("UPDATE users SET name = 'round {round}' WHERE id = 1"));
        until("the feed has noticed", || setup.client.feed_field("state") == "trouble");
        setup.let_in();
        setup.until_seen(1, &user(1, &format!("round {round}")));
        assert_eq!(setup.stat("gaps"), round + 1);
    }
    assert_eq!((setup.stat("events"), setup.stat("blinds")), (0, 0));
    // The sender of the log alone, while nobody is shut out.
    setup.database.number(
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_replication WHERE application_name = 'leasehold'
         AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())",
    );
    until("the feed has noticed", || setup.stat("gaps") == 4);
    assert_eq!(setup.get(1), user(1, "round 2"));
    setup.database.run("UPDATE users SET name = 'after' WHERE id = 1");
    setup.until_seen(1, &user(1, "after"));
    until("the change is told", || setup.stat("events") == 1);
    // No slot stays behind, and the log is not held back: ours says how far it is each second.
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND temporary";
    until("the slots of lost connections are gone", || setup.database.number(slots) == 1);
    setup.database.run("CREATE TABLE noise (id int8); INSERT INTO noise SELECT generate_series(1, 50000)");
    let behind = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND
         pg_current_wal_lsn() - confirmed_flush_lsn > 1000000";
    until("the log up to here is given up", || setup.database.number(behind) == 0);
}

#[test]
fn a_feed_that_cannot_be_read_makes_all_stale() {
    let Some(mut setup) = new("stale_after = \"1500ms\"") else { return };
    assert_eq!(setup.get(1), user(1, "user 1"));
    setup.shut_out();
    setup.database.run("UPDATE users SET name = 'unseen' WHERE id = 1");
    until("the feed is blind", || setup.client.feed_field("state") == "blind");
    until("nothing is fresh", || setup.client.command(&["EXISTS", "user:1"]).integer() == 0);
    setup.let_in();
    setup.until_seen(1, &user(1, "unseen"));
    until("the feed sees again", || setup.client.feed_field("state") == "ok");
}

#[test]
fn a_restart_of_the_database_makes_all_stale() {
    let Some(mut postgres) = start() else { return };
    Database::connect(&postgres.url()).run(SCHEMA);
    let mut setup = on(&postgres.url(), FEED);
    assert_eq!(setup.get(1), user(1, "user 1"));
    postgres.stop();
    until("the feed has noticed", || setup.client.feed_field("state") == "trouble");
    // What was fresh before stays so for a while: nobody can tell that it is not.
    assert_eq!(setup.get(1), user(1, "user 1"));
    postgres.resume();
    Database::connect(&setup.url).run("UPDATE users SET name = 'after the crash' WHERE id = 1");
    setup.until_seen(1, &user(1, "after the crash"));
    until("the gap is told", || setup.client.feed_field("last_gap").contains("restarted"));
}

#[test]
fn a_silent_network_makes_all_stale_and_does_no_more() {
    let Some(postgres) = start() else { return };
    Database::connect(&postgres.url()).run(SCHEMA);
    let proxy = Proxy::before(postgres.port());
    let through = postgres.url().replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.port()));
    let conf =
        conf(&through, "stale_after = \"1500ms\"").replace("acquire_timeout = \"10s\"", "acquire_timeout = \"1s\"");
    let mut setup =
        Fed::start(&postgres.url(), &conf.replace("statement_timeout = \"10s\"", "statement_timeout = \"1s\""));
    assert_eq!(setup.get(1), user(1, "user 1"));
    proxy.set(Trouble::BlackHole);
    setup.database.run("UPDATE users SET name = 'unseen' WHERE id = 1");
    until("nothing is fresh", || setup.client.command(&["EXISTS", "user:1"]).integer() == 0);
    proxy.set(Trouble::None);
    setup.until_seen(1, &user(1, "unseen"));
    until("the feed sees again", || setup.client.feed_field("state") == "ok");
    setup.database.run("UPDATE users SET name = 'seen' WHERE id = 1");
    setup.until_seen(1, &user(1, "seen"));
}

/// The log has the commit, and is sent, before any reader sees the row: who then loads finds the row as it was.
#[test]
fn a_commit_that_readers_do_not_see_yet_is_told_when_they_do() {
    let Some(postgres) = start() else { return };
    let url = postgres.url();
    let mut database = Database::connect(&url);
    database.run(SCHEMA);
    let mut setup = on(&url, "stale_after = \"1h\"\npoll = \"100ms\"");
    assert_eq!(setup.get(1), user(1, "user 1"));
    // Commits wait for a standby that never comes.
    database.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; ");
    database.run("SELECT pg_reload_conf()");
    let reload = "SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting <> ''";
    until("commits wait", || database.number(reload) == 1);
    let writer = std::thread::spawn({
        let url = url.clone();
        move || Database::connect(&url).run("UPDATE users SET name = 'seen late' WHERE id = 1")
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("the commit waits", || database.number(waiting) == 1);
    // The feed is read all the while, far beyond the commit; readers load the row as it was.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(setup.get(1), user(1, "user 1"));
    }
    assert_eq!((setup.stat("events"), setup.client.feed_field("state").as_str()), (0, "ok"));
    // A slot that is made now waits for it.
    throw_out_sender(&mut setup);
    until("it is told what the feed waits for", || setup.client.feed_field("problem").contains("open in the database"));
    database.run("ALTER SYSTEM RESET synchronous_standby_names; ");
    database.run("SELECT pg_reload_conf()");
    writer.join().expect("the update has ended");
    setup.until_seen(1, &user(1, "seen late"));
    until("the feed has begun anew", || setup.client.feed_field("state") == "ok");
    // And without a gap that helps.
    for name in ["late", "later"] {
        database.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; ");
        database.run("SELECT pg_reload_conf()");
        until("commits wait", || database.number(reload) == 1);
        let update = format!("UPDATE users SET name = '{name}' WHERE id = 1");
        let writer = std::thread::spawn({
            let url = url.clone();
            move || Database::connect(&url).run(&update)
        });
        until("the commit waits", || database.number(waiting) == 1);
        let (begun, old) = (Instant::now(), setup.get(1));
        while begun.elapsed() < Duration::from_millis(300) {
            assert_eq!(setup.get(1), old);
        }
        database.run("ALTER SYSTEM RESET synchronous_standby_names; ");
        database.run("SELECT pg_reload_conf()");
        writer.join().expect("the update has ended");
        setup.until_seen(1, &user(1, name));
    }
    assert_eq!((setup.stat("events"), setup.stat("gaps")), (2, 1));
}

/// The sender of the log alone: who waits for a standby would be told that it is over.
fn throw_out_sender(setup: &mut Fed) {
    setup.database.number(
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_replication WHERE application_name = 'leasehold'",
    );
}

#[test]
fn a_slot_waits_for_open_transactions_and_the_feed_says_so() {
    let Some(postgres) = start() else { return };
    let url = postgres.url();
    Database::connect(&url).run(SCHEMA);
    let mut open = Database::connect(&url);
    open.run("BEGIN; UPDATE users SET name = 'open' WHERE id = 1");
    let server = Server::options().conf(conf(&url, FEED)).start();
    let mut client = server.client();
    until("it is told what the feed waits for", || client.feed_field("problem").contains("open in the database"));
    assert_eq!(client.command(&["GET", "user:1"]), user(1, "user 1"));
    open.run("COMMIT");
    until("the feed has begun", || client.feed_field("state") == "ok");
    until("the commit is seen", || client.command(&["GET", "user:1"]) == user(1, "open"));
    open.run("UPDATE users SET name = 'later' WHERE id = 1");
    until("the change is seen", || client.command(&["GET", "user:1"]) == user(1, "later"));
}

#[test]
fn a_publication_that_changes_is_a_gap_and_one_that_is_gone_is_told() {
    let Some(mut setup) = new("stale_after = \"1h\"\npoll = \"100ms\"") else { return };
    assert_eq!(setup.get(1), user(1, "user 1"));
    setup.database.run("ALTER PUBLICATION leasehold DROP TABLE users");
    setup.database.run("UPDATE users SET name = 'unseen' WHERE id = 1");
    until("what is missing is told", || setup.client.feed_field("problem").contains("ADD TABLE users"));
    setup.database.run("ALTER PUBLICATION leasehold ADD TABLE users");
    setup.until_seen(1, &user(1, "unseen"));
    assert_eq!(setup.stat("gaps"), 1);
    setup.database.run("DROP PUBLICATION leasehold");
    setup.database.run("UPDATE users SET name = 'unseen too' WHERE id = 1");
    until("what is missing is told", || setup.client.feed_field("problem").contains("CREATE PUBLICATION leasehold"));
    setup.database.run("CREATE PUBLICATION leasehold FOR ALL TABLES");
    setup.until_seen(1, &user(1, "unseen too"));
    // Off and on between two looks, perhaps.
    setup.database.run(
        "BEGIN; DROP PUBLICATION leasehold; CREATE PUBLICATION leasehold FOR ALL TABLES; UPDATE users SET name = 'last' WHERE id = 1; COMMIT",
    );
    setup.until_seen(1, &user(1, "last"));
}

#[test]
fn keys_of_other_columns_come_with_a_full_identity() {
    let Some(postgres) = shared() else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    let long = "x".repeat(3_000);
    database.run(&format!(
        "CREATE TABLE members (id int8 PRIMARY KEY, org text NOT NULL, amount numeric(10, 2), name text);
         ALTER TABLE members REPLICA IDENTITY FULL; ALTER TABLE members ALTER COLUMN org SET STORAGE EXTERNAL;
         INSERT INTO members VALUES (1, 'a', 1, 'ann'), (2, '{long}', 2, 'bob');
         CREATE PUBLICATION cache FOR TABLE members"
    ));
    let conf = format!(
        r#"
        [sources.main]
        url = "{url}"
        [loaders.member]
        match = "m:{{org}}:{{amount:int}}"
        source = "main"
        sql = "SELECT org, amount, name FROM members WHERE org = $1 AND amount = $2"
        value = "column"
        ttl = "1h"
        negative_ttl = "1h"
        [feeds.users]
        source = "main"
        loaders = "member"
        via = "logical"
        table = "members"
        key = ["org", "amount"]
        publication = "cache"
        stale_after = "1h"
        "#
    );
    let mut setup = Fed::start(&url, &conf);
    let long_key = format!("m:{long}:2");
    let mut value = |key: &str| setup.client.command(&["GET", key]);
    assert_eq!((value("m:a:1"), value(&long_key)), (Value::bulk("ann"), Value::bulk("bob")));
    assert!(value("m:b:1").is_null());
    database.run("UPDATE members SET org = 'b' WHERE id = 1");
    until("the key after is told", || value("m:b:1") == Value::bulk("ann"));
    assert!(value("m:a:1").is_null(), "and the key before with it");
    // The large key lies beside the row, and is not written again.
    database.run("UPDATE members SET name = 'eve' WHERE id = 2");
    until("the change is seen", || value(&long_key) == Value::bulk("eve"));
    database.run("DELETE FROM members");
    until("the delete is seen", || value(&long_key).is_null() && value("m:b:1").is_null());
    assert_eq!((setup.stat("events"), setup.stat("wholes"), setup.stat("unmapped")), (4, 0, 0));
}

#[test]
fn partitions_are_seen_as_themselves_or_as_their_table() {
    // To wait for transactions of other tests would be one more trouble.
    let Some(postgres) = start() else { return };
    for via_root in [false, true] {
        let url = postgres.new_database();
        let mut database = Database::connect(&url);
        database.run(&format!(
            "CREATE TABLE users (id int8 PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF users FOR VALUES FROM (0) TO (10);
             CREATE TABLE high PARTITION OF users FOR VALUES FROM (10) TO (100);
             INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 20) n;
             CREATE TABLE more (LIKE users INCLUDING ALL); INSERT INTO more VALUES (200, 'attached');
             CREATE PUBLICATION leasehold FOR TABLE users WITH (publish_via_partition_root = {via_root})"
        ));
        let mut setup = on(&url, "stale_after = \"1h\"\npoll = \"100ms\"");
        assert_eq!((setup.get(1), setup.get(20)), (user(1, "user 1"), user(20, "user 20")));
        database.run("UPDATE users SET name = 'ann' WHERE id = 1");
        setup.until_seen(1, &user(1, "ann"));
        assert!(setup.get(30).is_null());
        database.run("UPDATE users SET id = 30 WHERE id = 1");
        setup.until_seen(30, &user(30, "ann"));
        assert!(setup.get(1).is_null());
        assert_eq!((setup.stat("gaps"), setup.stat("wholes")), (0, 0));
        assert!(setup.get(200).is_null());
        // Rows that come with their partition, and those of one that is emptied by itself.
        database.run("ALTER TABLE users ATTACH PARTITION more FOR VALUES FROM (100) TO (1000)");
        setup.until_seen(200, &user(200, "attached"));
        until("the gap is told", || setup.stat("gaps") == 1 && setup.client.feed_field("state") == "ok");
        database.run("UPDATE users SET name = 'moved on' WHERE id = 200");
        setup.until_seen(200, &user(200, "moved on"));
        database.run("TRUNCATE high");
        until("the truncate is seen", || setup.get(20).is_null());
        assert_eq!((setup.stat("gaps"), setup.stat("troubles")), (1, 1), "published via the root: {via_root}");
    }
}

#[test]
fn a_user_that_may_only_replicate_will_do_over_tls_with_a_password() {
    let Some(certificates) = Certificates::make(GROUP) else { return };
    let settings = [
        "wal_level=logical",
        "ssl=on",
        "ssl_cert_file={dir}/server.pem",
        "ssl_key_file={dir}/server.key",
        "hba_file={dir}/hba.conf",
    ];
    let postgres = Postgres::start_with(GROUP, &settings, |directory| {
        certificates.install(directory);
        let rules = "host all test 127.0.0.1/32 trust\nhostssl all scrammed 127.0.0.1/32 scram-sha-256\n\
                     hostnossl all hashed 127.0.0.1/32 md5\n";
        std::fs::write(directory.join("hba.conf"), rules).expect("the directory is ours");
    });
    let Some(postgres) = postgres else { return };
    let mut database = Database::connect(&postgres.url());
    database.run(SCHEMA);
    database.run("CREATE ROLE scrammed LOGIN REPLICATION PASSWORD 'pass word%'");
    database.run("SET password_encryption = md5; CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'secret'");
    let ca = certificates.path("ca.pem");
    let other_ca = certificates.path("other-ca.pem");
    let to = |login: &str, rest: String| format!("postgres://{login}@127.0.0.1:{}/test?{rest}", postgres.port());
    let verified = |authority: &std::path::Path| format!("sslmode=verify-full&sslrootcert={}", authority.display());
    for url in [
        to("scrammed:pass%20word%25", verified(&ca)),
        to("scrammed:pass%20word%25", "sslmode=require".into()),
        to("hashed:secret", "sslmode=disable".into()),
    ] {
        // The loaders read as another user.
        let conf = conf(&postgres.url(), FEED)
            .replace("[feeds.users]\n        source = \"main\"", "[feeds.users]\n        source = \"log\"");
        let conf = format!("{conf}\n[sources.log]\nurl = \"{url}\"\n");
        let mut setup = Fed::start(&postgres.url(), &conf);
        let name = format!("by {}", url.len());
        assert!(!setup.get(1).is_null());
        database.run(&format!("UPDATE users SET name = '{name}' WHERE id = 1"));
        setup.until_seen(1, &user(1, &name));
        assert_eq!(setup.stat("events"), 1);
        let tls = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid) WHERE s.ssl";
        assert_eq!(database.number(tls), i64::from(!url.contains("disable")), "{url}");
        drop(setup);
        until("the server is gone", || database.number("SELECT count(*) FROM pg_stat_replication") == 0);
    }
    for (url, says) in [
        (to("scrammed:wrong", verified(&ca)), "password authentication failed"),
        (to("scrammed:pass%20word%25", verified(&other_ca)), "certificate"),
    ] {
        let conf = conf(&postgres.url(), FEED)
            .replace("[feeds.users]\n        source = \"main\"", "[feeds.users]\n        source = \"log\"");
        let server = Server::options().conf(format!("{conf}\n[sources.log]\nurl = \"{url}\"\n")).start();
        let mut client = server.client();
        until(says, || client.feed_field("problem").contains(says));
        assert!(!client.feed_field("problem").contains("wrong"));
    }
}

#[test]
fn what_a_feed_lacks_stops_the_start_with_its_place() {
    let Some(postgres) = shared() else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database.run(SCHEMA);
    database.run(
        "CREATE TABLE bare (id int8, org int8, at timestamptz); CREATE UNLOGGED TABLE fast (id int8 PRIMARY KEY);
         CREATE VIEW seen AS SELECT * FROM users; CREATE TABLE orgs (id int8 PRIMARY KEY, org int8, flag bool);
         CREATE PUBLICATION inserts FOR TABLE users WITH (publish = 'insert, truncate');
         CREATE PUBLICATION few FOR TABLE users WHERE (id > 5);
         CREATE PUBLICATION every FOR ALL TABLES; CREATE PUBLICATION bares FOR TABLE bare;
         CREATE ROLE powerless LOGIN",
    );
    let table = |table: &str, publication: &str, key: &str| {
        conf(&url, FEED)
            .replace("table = \"users\"", &format!("table = \"{table}\"\npublication = \"{publication}\""))
            .replace("key = \"id\"", &format!("key = {key}"))
    };
    let powerless = url.replace("test@", "powerless@");
    let as_powerless =
        conf(&url, FEED).replace("[feeds.users]\n        source = \"main\"", "[feeds.users]\n        source = \"log\"");
    let as_powerless = format!("{as_powerless}\n[sources.log]\nurl = \"{powerless}\"\n");
    let replica = Postgres::start_with(GROUP, &["wal_level=replica"], |_| {}).expect("the other one was started");
    Database::connect(&replica.url()).run("SET client_min_messages = error");
    let mut cases = vec![
        (table("usres", "leasehold", "\"id\""), "feeds.users.table: there is no table usres"),
        (
            table("users", "none", "\"id\""),
            "feeds.users.publication: there is no publication none in this database; run: CREATE",
        ),
        (table("orgs", "leasehold", "\"id\""), "feeds.users.publication: leasehold does not publish orgs; run: ALTER"),
        (
            table("users", "inserts", "\"id\""),
            "feeds.users.publication: inserts does not publish update, delete; run: ALTER",
        ),
        (
            table("users", "few", "\"id\""),
            "feeds.users.publication: few publishes only some rows of users, WHERE (id > 5)",
        ),
        (table("users", "leasehold", "[\"id\", \"org\"]"), "feeds.users.key: the table users has no column org"),
        (
            table("orgs", "every", "[\"id\", \"org\"]"),
            "feeds.users.key: the replica identity of orgs lacks the column org",
        ),
        (table("bare", "bares", "\"id\""), "feeds.users.key: the replica identity of bare lacks the column id"),
        (table("orgs", "every", "[\"id\", \"flag\"]"), "feeds.users.key: the column flag is of the type boolean"),
        (table("fast", "every", "\"id\""), "feeds.users.table: fast is unlogged or temporary"),
        (table("seen", "every", "\"id\""), "feeds.users.table: seen is no table"),
        (conf(&url, FEED).replace("key = \"id\"", ""), "feeds.users.key: is missing; via = \"logical\" needs it"),
        (conf("sqlite:x.db", FEED), "feeds.users.via: logical is for PostgreSQL only"),
        (as_powerless, "feeds.users.source: logs in as powerless, which may not replicate; run: ALTER ROLE"),
    ];
    let on_replica =
        conf(&url, FEED).replace("[feeds.users]\n        source = \"main\"", "[feeds.users]\n        source = \"log\"");
    let on_replica = format!("{on_replica}\n[sources.log]\nurl = \"{}\"\n", replica.url());
    cases.push((
        on_replica,
        "feeds.users.source: has wal_level = replica, and via = \"logical\" needs logical; run: ALTER SYSTEM",
    ));
    for (conf, says) in cases {
        for arguments in [&["--check-config"][..], &[]] {
            let options = Server::options().conf(&conf);
            let options = arguments.iter().fold(options, |options, argument| options.argument(*argument));
            let (status, text) = options.run_to_end();
            assert_eq!(status.code(), Some(1), "{says}: {text}");
            let line = text.lines().find(|line| line.contains(says)).unwrap_or_else(|| panic!("{says}: {text}"));
            assert!(line.contains("leasehold.toml:"), "{line}");
        }
    }
    let valid = Server::options().conf(conf(&url, FEED)).argument("--check-config").run_to_end();
    assert_eq!(valid.0.code(), Some(0), "{}", valid.1);
}

#[test]
fn the_sql_that_is_printed_makes_all_that_a_feed_needs() {
    let Some(postgres) = shared() else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database.run(SCHEMA);
    database.run("DROP PUBLICATION leasehold; CREATE ROLE printed LOGIN; GRANT SELECT ON users TO printed");
    let sql = Command::new(binary())
        .args(["sql", "publication", "--table", "users", "--key", "id", "--user", "printed"])
        .output();
    let sql = sql.expect("the binary runs");
    assert!(sql.status.success(), "{sql:?}");
    database.run(&String::from_utf8(sql.stdout).expect("SQL is text"));
    let mut setup = Fed::start(&url, &conf(&url.replace("test@", "printed@"), FEED));
    assert_eq!(setup.get(1), user(1, "user 1"));
    database.run("UPDATE users SET name = 'ann' WHERE id = 1");
    setup.until_seen(1, &user(1, "ann"));
    // It ends with its server, and leaves nothing.
    setup.server.terminate();
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    until("the slot is gone", || database.number(slots) == 0);
}

/// From the commit to the moment at which no client sees the old row any more, by clients that look.
#[test]
fn the_lag_is_told() {
    const ROUNDS: usize = 300;
    let Some(mut setup) = new(FEED) else { return };
    let Fed { client, database, .. } = &mut setup;
    let [p50, p99] = lags(client, "user:1", ROUNDS, || database.run("UPDATE users SET name = name WHERE id = 1"));
    let own = ["lag_p50_us", "lag_p99_us"].map(|counter| setup.stat(counter));
    groups::say(&format!(
        "feeds: logical replication, from the acknowledged commit to the first read that is not stale: p50 {p50:?}, p99 {p99:?} of {ROUNDS}; by \
         the feed's own count from the commit: p50 {} us, p99 {} us",
        own[0], own[1]
    ));
    assert_eq!((setup.stat("events"), setup.stat("invalidated")), (ROUNDS as i64, ROUNDS as i64));
}
