//! The feed from the binary log, of a real MariaDB or MySQL: what it tells of which statement, when, and what it does with what it cannot read.

use leasehold_loader_api::feed::{Change, Gap, Notice};
use leasehold_loader_sql::{FeedSettings, Via, check_feed};
use leasehold_tests::client::PATIENCE;
use leasehold_tests::mysql_server::as_user;
use leasehold_tests::notices::{Notices, WrittenDatabase, key, row, run, source};
use leasehold_tests::{Certificates, MySqlKind, MySqlServer, groups};
use sqlx::{AssertSqlSafe, Executor, Row};
use std::time::{Duration, Instant};

const GROUP: &str = "MySQL binlog";

/// As long as a commit waits for a replica that there is not.
const HELD: Duration = Duration::from_millis(1_500);

const SCHEMA: &str = "CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(100));
    INSERT INTO users (id, name) VALUES (1, 'ann'), (2, 'bob');";

/// On the server that tests share whose statements concern their own database only.
async fn new() -> Option<WrittenDatabase> {
    Some(WrittenDatabase::new(MySqlServer::shared_with(GROUP, MySqlServer::WITH_LOG)?, SCHEMA).await)
}

/// Kills the connections on which logs are followed, as long as it takes to find one.
async fn kill_followers(database: &mut WrittenDatabase) {
    const SQL: &str = "SELECT CAST(ID AS CHAR) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'
                       AND DB = database()";
    let begun = Instant::now();
    loop {
        let found = sqlx::query(SQL).fetch_all(&mut database.writer).await.expect("good SQL");
        for row in &found {
            // It may have ended meanwhile.
            let kill = format!("KILL {}", row.get::<String, _>(0));
            let _ = database.writer.execute(sqlx::raw_sql(AssertSqlSafe(kill))).await;
        }
        if !found.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody follows the log");
    }
}

/// An hour of overlap: no test is still there when all is stale once more.
fn settings() -> FeedSettings {
    let (poll, overlap) = (Some(Duration::from_millis(50)), Duration::from_secs(60 * 60));
    FeedSettings {
        via: Via::Binlog,
        table: "users".into(),
        key: key(&["id"]),
        poll,
        overlap,
        ..FeedSettings::new("feed")
    }
}

#[tokio::test]
async fn each_committed_change_is_told_with_both_keys_and_none_that_was_rolled_back() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings()).await;
    database.run("INSERT INTO users (id, name) VALUES (3, 'cid')").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("3"))]);
    database.run("UPDATE users SET name = 'eve' WHERE id = 2").await;
    assert_eq!(feed.changes(1).await, [row(Some("2"), Some("2"))]);
    database.run("BEGIN; UPDATE users SET id = 4 WHERE id = 3; DELETE FROM users WHERE id = 1; COMMIT").await;
    assert_eq!(feed.changes(2).await, [row(Some("3"), Some("4")), row(Some("1"), None)]);
    database.run("BEGIN; DELETE FROM users; ROLLBACK").await;
    database.run("CREATE TABLE other (id BIGINT PRIMARY KEY); INSERT INTO other VALUES (1); TRUNCATE other").await;
    feed.nothing().await;
    // What a savepoint takes back is not in the log either.
    database
        .run("BEGIN; UPDATE users SET name = 'x' WHERE id = 2; SAVEPOINT a; DELETE FROM users; ROLLBACK TO a; COMMIT")
        .await;
    assert_eq!(feed.changes(1).await, [row(Some("2"), Some("2"))]);
    feed.nothing().await;
}

#[tokio::test]
async fn a_transaction_is_told_at_its_end_and_whole() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings()).await;
    let mut slow = database.another().await;
    let many = |range| format!("INSERT INTO users (id) SELECT seq FROM {}", MySqlServer::numbers(range));
    run(&mut slow, &format!("BEGIN; {}", many(1_000..=20_999))).await;
    database.run("UPDATE users SET name = 'soon' WHERE id = 2").await;
    assert_eq!(feed.changes(1).await, [row(Some("2"), Some("2"))]);
    feed.nothing().await;
    run(&mut slow, "COMMIT").await;
    let told = feed.changes(20_000).await;
    assert!(told.iter().zip(1_000..).all(|(change, id)| *change == row(None, Some(&i32::to_string(&id)))));
    // Too many to be told one by one.
    database.run(&many(1_000_000..=1_120_000)).await;
    assert_eq!(feed.changes(1).await, [Change::All]);
    database.run("DELETE FROM users WHERE id = 1000000").await;
    assert_eq!(feed.changes(1).await, [row(Some("1000000"), None)]);
}

/// A replica that never answers makes commits wait between their writing to the log and their being readable. Who made keys stale when the
/// log has the change would have readers load the old row once more, and keep it.
#[tokio::test]
async fn a_change_is_told_when_it_can_be_read_and_not_before() {
    let Some(server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let schema = "CREATE TABLE users (id BIGINT PRIMARY KEY, name LONGTEXT); INSERT INTO users VALUES (1, ''), (2, '')";
    let mut database = WrittenDatabase::on(&server, schema).await;
    let mut feed = database.feed(&settings()).await;
    let held_ms = HELD.as_millis();
    if server.kind() == MySqlKind::MySql {
        database.run("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'").await;
    }
    let semi_sync = server.kind().choose("rpl_semi_sync_master", "rpl_semi_sync_source");
    database
        .run(&format!("SET GLOBAL {semi_sync}_wait_point = 'AFTER_SYNC'; SET GLOBAL {semi_sync}_timeout = {held_ms}"))
        .await;
    let mut reader = database.another().await;
    // The second time the log changes files within the transaction: then the server itself says too early that it can be read.
    for (round, file_bytes) in [(1, 1 << 30), (2, 4_096)] {
        database
            .run(&format!(
                "SET GLOBAL max_binlog_size = {file_bytes}; SET GLOBAL {semi_sync}_enabled = OFF;
                 SET GLOBAL {semi_sync}_enabled = ON"
            ))
            .await;
        let mut writer = database.another().await;
        let begun = Instant::now();
        let written = tokio::spawn(async move {
            run(&mut writer, &format!("UPDATE users SET name = repeat('{round}', 20000) WHERE id = {round}")).await;
        });
        let batch = feed.batch().await;
        let told = begun.elapsed();
        let sql = format!("SELECT left(name, 1) FROM users WHERE id = {round}");
        let seen = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_one(&mut reader).await.expect("good SQL");
        assert_eq!(seen, round.to_string(), "told after {told:?}, and not readable");
        let id = round.to_string();
        let changes: Vec<Change> = batch.events.into_iter().map(|event| event.change).collect();
        assert_eq!(changes, [row(Some(&id), Some(&id))]);
        written.await.expect("the update works");
        assert!(begun.elapsed() >= HELD, "the commit was held back, or this shows nothing");
    }
    database.run(&format!("SET GLOBAL {semi_sync}_enabled = OFF")).await;
    // A feed that begins between the two moments.
    let schema = "CREATE TABLE users (id BIGINT PRIMARY KEY, name LONGTEXT); INSERT INTO users VALUES (1, '')";
    let mut database = WrittenDatabase::on(&server, schema).await;
    database.run(&format!("SET GLOBAL max_binlog_size = 1073741824; SET GLOBAL {semi_sync}_enabled = ON")).await;
    let mut writer = database.another().await;
    let written = tokio::spawn(async move { run(&mut writer, "UPDATE users SET name = 'new' WHERE id = 1").await });
    let logged = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for semi-sync ACK%'";
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(logged).fetch_one(&mut database.writer).await.expect("good SQL") == 0 {
        assert!(begun.elapsed() < PATIENCE, "the commit does not wait for a replica");
    }
    let mut feed = database.feed(&settings()).await;
    // MySQL says where its log ends, and not to where it could be read then: it may be from before the columns that the feed has seen.
    let told = server.kind().choose(row(Some("1"), Some("1")), Change::All);
    assert_eq!(feed.changes(1).await, [told]);
    written.await.expect("the update works");
}

#[tokio::test]
async fn keys_of_every_type_are_the_texts_of_the_column() {
    let Some(server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let mut columns = vec![
        ("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615"),
        ("BIGINT", "-9223372036854775808", "-9223372036854775808"),
        ("INT UNSIGNED", "4294967295", "4294967295"),
        ("MEDIUMINT UNSIGNED", "16777215", "16777215"),
        ("MEDIUMINT", "-8388608", "-8388608"),
        ("SMALLINT UNSIGNED", "65535", "65535"),
        ("TINYINT", "-128", "-128"),
        ("TINYINT UNSIGNED", "200", "200"),
        ("YEAR", "2026", "2026"),
        ("DECIMAL(30,0)", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("DECIMAL(30,0)", "-7", "-7"),
        ("DECIMAL(12,2)", "42", "42"),
        ("DECIMAL(20,0)", "1000000000", "1000000000"),
        ("VARCHAR(300)", "'größe €'", "größe €"),
        ("VARCHAR(20) CHARACTER SET latin1", "'größe €'", "größe €"),
        ("CHAR(255)", "'it''s  '", "it's"),
        ("CHAR(5) CHARACTER SET ascii", "'a'", "a"),
        ("TEXT CHARACTER SET utf8mb3", "'naïve'", "naïve"),
        ("ENUM('a','it''s')", "'it''s'", "it's"),
        ("DATE", "'2026-02-03'", "2026-02-03"),
    ];
    if server.kind() == MySqlKind::MariaDb {
        columns.extend([
            ("UUID", "'11111111-2222-1333-8444-555555555500'", "11111111-2222-1333-8444-555555555500"),
            ("UUID", "'31111111-2222-7333-8444-555555555555'", "31111111-2222-7333-8444-555555555555"),
        ]);
    }
    let names: Vec<String> = (0..columns.len()).map(|index| format!("c{index}")).collect();
    let definitions: Vec<String> =
        names.iter().zip(&columns).map(|(name, (kind, ..))| format!("{name} {kind}")).collect();
    let values: Vec<&str> = columns.iter().map(|(_, value, _)| *value).collect();
    let schema =
        format!("CREATE TABLE users (pad JSON, {}, bits BIT(9), at TIMESTAMP(3) NULL)", definitions.join(", "));
    let mut database = WrittenDatabase::on(&server, &schema).await;
    let by_all = FeedSettings { key: key(&names.iter().map(String::as_str).collect::<Vec<_>>()), ..settings() };
    let expected: Vec<Option<String>> = columns.iter().map(|(.., text)| Some((*text).to_owned())).collect();
    let metadata = MySqlKind::here().choose(&["NO_LOG", "MINIMAL", "FULL"][..], &["MINIMAL", "FULL"]);
    for metadata in metadata {
        database.run(&format!("SET GLOBAL binlog_row_metadata = {metadata}")).await;
        let mut writer = database.another().await;
        let mut feed = database.feed(&by_all).await;
        run(&mut writer, &format!("INSERT INTO users VALUES ('{{}}', {}, b'1', now(3))", values.join(", "))).await;
        assert_eq!(feed.changes(1).await, [Change::Row { old: None, new: Some(expected.clone()) }], "{metadata}");
        run(&mut writer, "UPDATE users SET pad = NULL, c0 = NULL").await;
        let nulled = std::iter::once(None).chain(expected[1..].iter().cloned()).collect();
        assert_eq!(feed.changes(1).await, [Change::Row { old: Some(expected.clone()), new: Some(nulled) }]);
        run(&mut writer, "DELETE FROM users").await;
        feed.changes(1).await;
    }
}

#[tokio::test]
async fn row_images_that_leave_out_columns_still_have_the_key() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings()).await;
    for image in ["NOBLOB", "MINIMAL"] {
        database.run(&format!("SET binlog_row_image = {image}")).await;
        database.run("UPDATE users SET name = concat(name, 'x') WHERE id = 1").await;
        assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))], "{image}");
        database.run("UPDATE users SET id = 7 WHERE id = 1; UPDATE users SET id = 1 WHERE id = 7").await;
        assert_eq!(feed.changes(2).await, [row(Some("1"), Some("7")), row(Some("7"), Some("1"))], "{image}");
    }
    // A key that is not in what is logged: nobody knows which rows.
    let by_name = FeedSettings { key: key(&["name"]), ..settings() };
    let mut feed = database.feed(&by_name).await;
    database.run("UPDATE users SET name = 'y' WHERE id = 1").await;
    assert_eq!(feed.gap().await, Gap::Unreadable);
    database.run("SET binlog_row_image = FULL").await;
    database.run("UPDATE users SET name = 'z' WHERE id = 1").await;
    assert_eq!(feed.changes(1).await, [row(Some("y"), Some("z"))]);
}

#[tokio::test]
async fn definitions_make_all_stale_and_keys_stay_right_behind_them() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings()).await;
    for definition in [
        "TRUNCATE users",
        "ALTER TABLE users ADD COLUMN first BIGINT NOT NULL DEFAULT 99 FIRST",
        "ALTER TABLE users MODIFY id BIGINT AFTER name",
        "/* by hand */ ALTER TABLE users ADD COLUMN last BIGINT DEFAULT 98",
        "CREATE TABLE fresh LIKE users; RENAME TABLE users TO old, fresh TO users",
        "DROP TABLE old",
        MySqlKind::here().choose(
            "CREATE OR REPLACE TABLE users (other INT, id BIGINT UNSIGNED PRIMARY KEY, name TEXT)",
            "CREATE TABLE fresh (other INT, id BIGINT UNSIGNED PRIMARY KEY, name TEXT); RENAME TABLE users TO gone, fresh TO users",
        ),
    ] {
        // Behind it at once: what comes before the feed has looked at the table again is for all rows, too.
        database.run(&format!("{definition}; INSERT INTO users (id, name) VALUES (5, 'x')")).await;
        let told = feed.all().await;
        assert!(told.iter().all(|change| [Change::All, row(None, Some("5"))].contains(change)), "{told:?}");
        let is_old = definition == "DROP TABLE old";
        assert_eq!(told.contains(&Change::All), !is_old, "{definition}: {told:?}");
        database.run("UPDATE users SET name = 'y' WHERE id = 5; DELETE FROM users WHERE id = 5").await;
        assert_eq!(feed.changes(2).await, [row(Some("5"), Some("5")), row(Some("5"), None)], "{definition}");
    }
    database.run("INSERT INTO users (id) VALUES (18446744073709551615)").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("18446744073709551615"))]);
}

#[tokio::test]
async fn what_foreign_keys_change_makes_all_stale() {
    let Some(mut database) = new().await else { return };
    database
        .run(
            "CREATE TABLE firms (id BIGINT PRIMARY KEY);
             CREATE TABLE orgs (id BIGINT PRIMARY KEY, firm BIGINT, FOREIGN KEY (firm) REFERENCES firms (id) ON DELETE CASCADE);
             INSERT INTO firms VALUES (1), (2); INSERT INTO orgs VALUES (1, 1), (2, 2);
             ALTER TABLE users ADD COLUMN org BIGINT, ADD FOREIGN KEY (org) REFERENCES orgs (id) ON DELETE SET NULL;
             UPDATE users SET org = id",
        )
        .await;
    let mut feed = database.feed(&settings()).await;
    database.run("INSERT INTO firms VALUES (3); INSERT INTO orgs VALUES (3, 3)").await;
    feed.nothing().await;
    database.run("DELETE FROM orgs WHERE id = 1").await;
    assert_eq!(feed.changes(1).await, [Change::All]);
    database.run("DELETE FROM firms WHERE id = 2").await;
    assert_eq!(feed.changes(1).await, [Change::All]);
}

#[tokio::test]
async fn changes_as_text_or_in_two_phases_are_gaps() {
    // Of its own: nobody can tell of which database a change as text is.
    let Some(server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    let mut feed = database.feed(&settings()).await;
    database.run("SET SESSION binlog_format = STATEMENT; UPDATE users SET name = 'x' WHERE id = 1").await;
    assert_eq!(feed.gap().await, Gap::Unreadable);
    database.run("BEGIN; DELETE FROM users WHERE id = 1; ROLLBACK").await;
    feed.nothing().await;
    database.run("SET SESSION binlog_format = ROW; UPDATE users SET name = 'y' WHERE id = 1").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);

    database.run("XA START 'a'; UPDATE users SET name = 'z' WHERE id = 1; XA END 'a'; XA PREPARE 'a'").await;
    feed.nothing().await;
    database.run("XA COMMIT 'a'").await;
    assert_eq!(feed.gap().await, Gap::Unreadable);
    database.run("XA START 'b'; UPDATE users SET name = 'w' WHERE id = 1; XA END 'b'; XA COMMIT 'b' ONE PHASE").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);
    // Tables that know no transactions.
    database
        .run(MySqlKind::here().choose("ALTER TABLE users ENGINE = Aria", "ALTER TABLE users ENGINE = MyISAM"))
        .await;
    assert_eq!(feed.changes(1).await, [Change::All]);
    feed.nothing().await;
    database.run("BEGIN; UPDATE users SET name = 'v' WHERE id = 1; ROLLBACK").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);
}

#[tokio::test]
async fn compressed_events_of_mariadb_are_a_gap_and_refused_at_start() {
    if MySqlKind::here() == MySqlKind::MySql {
        return;
    }
    let Some(server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    let mut feed = database.feed(&settings()).await;
    database.run("SET GLOBAL log_bin_compress = ON, GLOBAL log_bin_compress_min_len = 10").await;
    let mut writer = database.another().await;
    run(&mut writer, "UPDATE users SET name = repeat('x', 100) WHERE id = 1").await;
    assert_eq!(feed.gap().await, Gap::Unreadable);
    let problem = check_feed(&source(&database.url).await, &settings()).await.expect_err("it is not read");
    assert!(problem.to_string().contains("log_bin_compress"), "{problem}");
}

/// Types of events in the file of the log that is written.
async fn types_of_events(database: &mut WrittenDatabase) -> Vec<String> {
    let last = sqlx::query("SHOW BINARY LOG STATUS").fetch_one(&mut database.writer).await.expect("good SQL");
    let sql = format!("SHOW BINLOG EVENTS IN '{}'", last.get::<String, _>(0));
    let events = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut database.writer).await.expect("good SQL");
    events.iter().map(|event| event.get(2)).collect()
}

#[tokio::test]
async fn packed_transactions_and_parts_of_json_of_mysql_are_read() {
    if MySqlKind::here() == MySqlKind::MariaDb {
        return;
    }
    let Some(server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    database.run("ALTER TABLE users ADD COLUMN doc JSON").await;
    database.run("UPDATE users SET doc = JSON_OBJECT('n', 1000, 'more', repeat('x', 10000))").await;
    let mut feed = database.feed(&settings()).await;
    for (packed, part, types) in [
        ("ON", "", &["Transaction_payload"][..]),
        ("OFF", "PARTIAL_JSON", &["Update_rows_partial"]),
        ("ON", "PARTIAL_JSON", &["Transaction_payload", "Update_rows_partial"]),
    ] {
        database.run("FLUSH BINARY LOGS").await;
        database
            .run(&format!("SET binlog_transaction_compression = {packed}, binlog_row_value_options = '{part}'"))
            .await;
        for image in ["FULL", "MINIMAL"] {
            database.run(&format!("SET binlog_row_image = {image}")).await;
            database
                .run("UPDATE users SET doc = JSON_SET(doc, '$.n', 7 + JSON_EXTRACT(doc, '$.n')) WHERE id = 1")
                .await;
            assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))], "{packed} {part} {image}");
            database
                .run("BEGIN; INSERT INTO users (id) VALUES (3); UPDATE users SET id = 4 WHERE id = 3; DELETE FROM users WHERE id = 4; COMMIT")
                .await;
            let expected = [row(None, Some("3")), row(Some("3"), Some("4")), row(Some("4"), None)];
            assert_eq!(feed.changes(3).await, expected, "{packed} {part} {image}");
            database.run("BEGIN; DELETE FROM users; ROLLBACK").await;
            feed.nothing().await;
        }
        let found = types_of_events(&mut database).await;
        assert!(types.iter().all(|name| found.iter().any(|found| found == name)), "or this shows nothing: {found:?}");
    }
}

#[tokio::test]
async fn gtids_of_mysql_may_have_tags_and_must_be_on() {
    if MySqlKind::here() == MySqlKind::MariaDb {
        return;
    }
    let Some(server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    let mut before = database.feed(&settings()).await;
    for tag in [":blue", "", ":green"] {
        database.run(&format!("SET gtid_next = 'AUTOMATIC{tag}'; UPDATE users SET name = 'a{tag}' WHERE id = 1")).await;
        assert_eq!(before.changes(1).await, [row(Some("1"), Some("1"))], "{tag}");
    }
    let mut after = database.feed(&settings()).await;
    database.run("UPDATE users SET name = 'b' WHERE id = 2").await;
    for feed in [&mut before, &mut after] {
        assert_eq!(feed.changes(1).await, [row(Some("2"), Some("2"))]);
    }
    database.run("SET gtid_next = 'AUTOMATIC'; SET GLOBAL gtid_mode = ON_PERMISSIVE").await;
    let problem = check_feed(&source(&database.url).await, &settings()).await.expect_err("it is off for some");
    assert!(problem.option == "source" && problem.reason.contains("gtid_mode = ON"), "{problem}");
}

#[tokio::test]
async fn a_killed_follower_and_purged_logs_are_gaps() {
    // Of its own: PURGE takes the log from all feeds.
    let Some(server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    let mut feed = database.feed(&FeedSettings { server_id: Some(4_711), ..settings() }).await;
    for _ in 0..3 {
        kill_followers(&mut database).await;
        assert_eq!(feed.gap().await, Gap::PositionLost);
        database.run("UPDATE users SET name = 'x' WHERE id = 1; UPDATE users SET name = 'y' WHERE id = 1").await;
        assert_eq!(feed.changes(2).await, [row(Some("1"), Some("1")), row(Some("1"), Some("1"))]);
    }
    database.run("FLUSH BINARY LOGS; INSERT INTO users (id) VALUES (5)").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("5"))]);
    // While nobody may connect, the log that has the change goes away.
    database.run("CREATE USER feed@'%' IDENTIFIED BY 'p@ss'; GRANT ALL ON *.* TO feed@'%'").await;
    let url = as_user(&database.url, "feed:p%40ss");
    let mut feed = Notices::start(&url, &settings()).await;
    database.run("ALTER USER feed@'%' ACCOUNT LOCK").await;
    kill_followers(&mut database).await;
    feed.trouble().await;
    database.run("DELETE FROM users WHERE id = 5; FLUSH BINARY LOGS; FLUSH BINARY LOGS").await;
    let last = sqlx::query(MySqlKind::here().choose("SHOW MASTER STATUS", "SHOW BINARY LOG STATUS"))
        .fetch_one(&mut database.writer)
        .await
        .expect("good SQL");
    database.run(&format!("PURGE BINARY LOGS TO '{}'", last.get::<String, _>(0))).await;
    database.run("ALTER USER feed@'%' ACCOUNT UNLOCK").await;
    assert_eq!(feed.gap().await, Gap::PositionLost);
    database.run("INSERT INTO users (id) VALUES (6)").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("6"))]);
    database.run("DELETE FROM users WHERE id = 6").await;
    assert_eq!(feed.changes(1).await, [row(Some("6"), None)]);
    // From the first file again, with the offsets that were there before.
    let anew = MySqlKind::here().choose("RESET MASTER", "RESET BINARY LOGS AND GTIDS");
    database.run(&format!("{anew}; INSERT INTO users (id) VALUES (7)")).await;
    assert_eq!(feed.gap().await, Gap::PositionLost);
    database.run("INSERT INTO users (id) VALUES (8)").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("8"))]);
}

#[tokio::test]
async fn connections_are_as_safe_as_the_url_says() {
    let Some(certificates) = Certificates::make(GROUP) else { return };
    let tls = ["--ssl-ca={dir}/ca.pem", "--ssl-cert={dir}/server.pem", "--ssl-key={dir}/server.key"];
    let options = [MySqlServer::WITH_LOG, &tls].concat();
    let Some(server) = MySqlServer::start(GROUP, &options, |directory| certificates.install(directory)) else { return };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    database.run("CREATE USER app@'%' IDENTIFIED BY 'hush!' REQUIRE SSL; GRANT ALL ON *.* TO app@'%'").await;
    let name = database.url.rsplit('/').next().and_then(|path| path.split('?').next()).expect("a database").to_owned();
    let ca = certificates.path("ca.pem").display().to_string();
    let other_ca = certificates.path("other-ca.pem").display().to_string();
    let url = |host: &str, more: &str| format!("mysql://app:hush%21@{host}:{}/{name}?{more}", server.port());
    for more in [
        "ssl-mode=preferred".to_owned(),
        "ssl-mode=required".to_owned(),
        format!("ssl-mode=verify_ca&ssl-ca={ca}"),
        format!("sslmode=verify_identity&sslca={ca}"),
    ] {
        let mut feed = Notices::start(&url("127.0.0.1", &more), &settings()).await;
        feed.nothing().await;
    }
    for (host, more, says) in [
        ("127.0.0.1", format!("ssl-mode=verify_ca&ssl-ca={other_ca}"), "certificate"),
        ("127.0.0.1", "ssl-mode=verify_identity".to_owned(), "certificate"),
        ("localhost", format!("ssl-mode=verify_identity&ssl-ca={ca}"), "certificate"),
        ("127.0.0.1", "ssl-mode=disabled".to_owned(), "Access denied"),
    ] {
        let reason = Notices::of(source(&url(host, &more)).await, &settings()).trouble().await;
        assert!(reason.contains(says) && !reason.contains("hush"), "{more}: {reason}");
    }
}

#[tokio::test]
async fn a_crash_of_the_server_is_a_gap_and_a_hang_is_not_up_to_date() {
    let Some(mut server) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    let mut feed = database.feed(&settings()).await;
    server.kill();
    feed.trouble().await;
    server.resume();
    assert_eq!(feed.gap().await, Gap::PositionLost);
    database.writer = database.another().await;
    database.run("UPDATE users SET name = 'x' WHERE id = 1").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);

    server.pause();
    let paused = Instant::now();
    let silent = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            if let Notice::UpToDate(at) = feed.notice().await {
                assert!(at <= paused, "nobody can know while the server hangs");
            }
        }
    });
    assert!(silent.await.is_err());
    server.go_on();
    database.run("UPDATE users SET name = 'y' WHERE id = 1").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);
}

#[tokio::test]
async fn what_the_log_lacks_is_told_at_the_start_with_what_to_do() {
    let Some(server) = MySqlServer::start(GROUP, &[], |_| {}) else { return };
    let database = WrittenDatabase::on(&server, SCHEMA).await;
    let refused = async |url: &str, settings: FeedSettings| {
        let problem = check_feed(&source(url).await, &settings).await.expect_err("something is missing");
        (problem.option, problem.reason)
    };
    let (option, reason) = refused(&database.url, settings()).await;
    assert!(option == "source" && reason.contains("log_bin"), "{option}: {reason}");
    drop(server);

    let Some(server) =
        MySqlServer::start(GROUP, &[MySqlServer::WITH_LOG, &["--binlog-ignore-db=ignored"]].concat(), |_| {})
    else {
        return;
    };
    let mut database = WrittenDatabase::on(&server, SCHEMA).await;
    for format in ["STATEMENT", "MIXED"] {
        database.run(&format!("SET GLOBAL binlog_format = {format}")).await;
        let (option, reason) = refused(&database.url, settings()).await;
        assert!(option == "source" && reason.contains("set binlog_format = ROW"), "{option}: {reason}");
    }
    database.run("SET GLOBAL binlog_format = ROW, GLOBAL binlog_row_image = MINIMAL").await;
    let by_name = FeedSettings { key: key(&["name"]), ..settings() };
    let (option, reason) = refused(&database.url, by_name.clone()).await;
    assert!(option == "source" && reason.contains("binlog_row_image"), "{option}: {reason}");
    assert_eq!(check_feed(&source(&database.url).await, &settings()).await, Ok(()));
    database
        .run("SET GLOBAL binlog_row_image = FULL; ALTER TABLE users ADD COLUMN at DATETIME, ADD raw BINARY(16)")
        .await;
    for (settings, expected, says) in [
        (FeedSettings { server_id: Some(7), ..settings() }, "server_id", "the server's own"),
        (FeedSettings { table: "usres".into(), ..settings() }, "table", "no table"),
        (FeedSettings { key: key(&["org"]), ..settings() }, "key", "has no column org"),
        (FeedSettings { key: key(&["at"]), ..settings() }, "key", "is a datetime"),
        (FeedSettings { key: key(&["raw"]), ..settings() }, "key", "is a binary(16)"),
        (FeedSettings { table: "ignored.users".into(), ..settings() }, "source", "leaves out the database ignored"),
    ] {
        let (option, reason) = refused(&database.url, settings).await;
        assert!(option == expected && reason.contains(says), "{option}: {reason}");
    }
    // Rights, one by one.
    let name = database.url.rsplit('/').next().and_then(|path| path.split('?').next()).expect("a database").to_owned();
    database.run(&format!("CREATE USER feed@'%' IDENTIFIED BY 'p@ss'; GRANT SELECT ON {name}.* TO feed@'%'")).await;
    let url = as_user(&database.url, "feed:p%40ss");
    let monitor = MySqlKind::here().choose("BINLOG MONITOR", "REPLICATION CLIENT");
    for grant in ["SELECT", monitor] {
        database.run(&format!("GRANT {grant} ON *.* TO feed@'%'")).await;
        let (option, reason) = refused(&url, settings()).await;
        assert!(
            option == "source" && reason.contains(&format!("GRANT REPLICATION SLAVE, {monitor}")),
            "{option}: {reason}"
        );
        assert!(!reason.contains("p@ss"), "{reason}");
    }
    database.run("GRANT REPLICATION SLAVE ON *.* TO feed@'%'").await;
    assert_eq!(check_feed(&source(&url).await, &settings()).await, Ok(()));
    groups::say(&format!("{GROUP}: SELECT, REPLICATION SLAVE and {monitor} are enough"));
}
