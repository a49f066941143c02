//! Feeds of a real MariaDB or MySQL: the outbox that `leasehold sql outbox --database mysql` prints, read by number with an overlap, and a polled
//! time of change.

use leasehold_loader_api::feed::Gap;
use leasehold_loader_sql::{FeedSettings, OutboxDatabase, Source, SourceSettings, Via, check_feed, outbox_sql};
use leasehold_tests::MySqlServer;
use leasehold_tests::notices::{WrittenDatabase, key, row, run};
use sqlx::Connection;
use sqlx::mysql::MySqlConnection;
use std::time::Duration;

const GROUP: &str = "MySQL feeds";

const SCHEMA: &str =
    "CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(100), updated_at DATETIME(6) NOT NULL DEFAULT now(6));
    INSERT INTO users (id, name) VALUES (1, 'ann'), (2, 'bob');";

async fn new() -> Option<WrittenDatabase> {
    let mut database = WrittenDatabase::new(MySqlServer::shared(GROUP)?, SCHEMA).await;
    let outbox = outbox_sql(OutboxDatabase::Mysql, "users", &key(&["id"]), "leasehold_outbox");
    database.run(&outbox.expect("plain names")).await;
    Some(database)
}

/// A minute of overlap: longer than any transaction here, whatever the machine does beside.
fn settings(via: Via) -> FeedSettings {
    let (poll, overlap) = (Some(Duration::from_millis(10)), Duration::from_secs(60));
    FeedSettings { via, table: "users".into(), key: key(&["id"]), poll, overlap, ..FeedSettings::new("feed") }
}

#[tokio::test]
async fn each_committed_change_is_told_with_both_keys_and_none_that_was_rolled_back() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings(Via::Outbox)).await;
    database.run("INSERT INTO users (id, name) VALUES (3, 'cid')").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("3"))]);
    database.run("BEGIN; UPDATE users SET id = 4 WHERE id = 3; DELETE FROM users WHERE id = 1; COMMIT").await;
    assert_eq!(feed.changes(2).await, [row(Some("3"), Some("4")), row(Some("1"), None)]);
    database.run("BEGIN; DELETE FROM users; ROLLBACK").await;
    feed.nothing().await;
}

#[tokio::test]
async fn a_transaction_that_commits_after_a_later_one_is_seen() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings(Via::Outbox)).await;
    let mut slow = MySqlConnection::connect(&database.url).await.expect("the server runs");
    run(&mut slow, "BEGIN; UPDATE users SET name = 'late' WHERE id = 1").await;
    for _ in 0..3 {
        database.run("UPDATE users SET name = 'soon' WHERE id = 2").await;
        assert_eq!(feed.changes(1).await, [row(Some("2"), Some("2"))]);
    }
    run(&mut slow, "COMMIT").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);
}

/// It has a smaller number than one that was there when the feed began, or began anew.
#[tokio::test]
async fn a_transaction_that_is_open_when_the_feed_begins_is_seen_when_it_commits() {
    let Some(mut database) = new().await else { return };
    let mut slow = database.another().await;
    run(&mut slow, "BEGIN; UPDATE users SET name = 'late' WHERE id = 1").await;
    database.run("UPDATE users SET name = 'soon' WHERE id = 2").await;
    let mut feed = database.feed(&settings(Via::Outbox)).await;
    feed.nothing().await;
    run(&mut slow, "COMMIT").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);
    run(&mut slow, "BEGIN; UPDATE users SET name = 'later' WHERE id = 1").await;
    // Not the row that is not committed: it is locked.
    database
        .run("BEGIN; UPDATE users SET name = 'x' WHERE id = 2; DELETE FROM leasehold_outbox ORDER BY id DESC LIMIT 1; COMMIT")
        .await;
    assert_eq!(feed.gap().await, Gap::Purged);
    database.run("UPDATE users SET name = 'sooner' WHERE id = 2").await;
    assert_eq!(feed.changes(1).await, [row(Some("2"), Some("2"))]);
    run(&mut slow, "COMMIT").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);
    feed.nothing().await;
}

#[tokio::test]
async fn purged_rows_a_truncate_and_a_lost_connection_are_gaps() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings(Via::Outbox)).await;
    for (purge, gap) in [
        ("BEGIN; UPDATE users SET name = 'x'; DELETE FROM leasehold_outbox; COMMIT", Gap::Purged),
        ("UPDATE users SET name = 'y' WHERE id = 2", Gap::Settled),
        ("TRUNCATE leasehold_outbox", Gap::Purged),
        ("UPDATE leasehold_outbox_state SET epoch = 'another'", Gap::Restarted),
    ] {
        database.run(purge).await;
        if gap == Gap::Settled {
            // No gap, but numbers that the truncate takes back.
            assert_eq!(feed.changes(1).await, [row(Some("2"), Some("2"))]);
        } else {
            assert_eq!(feed.gap().await, gap, "{purge}");
        }
    }
    let kill =
        "SELECT CAST(ID AS CHAR) FROM information_schema.PROCESSLIST WHERE DB = database() AND ID <> connection_id()";
    let others = sqlx::query_scalar::<_, String>(kill).fetch_all(&mut database.writer).await.expect("good SQL");
    for id in others {
        database.run(&format!("KILL {id}")).await;
    }
    assert_eq!(feed.gap().await, Gap::PositionLost);
    database.run("UPDATE users SET name = 'z' WHERE id = 1").await;
    assert_eq!(feed.changes(1).await, [row(Some("1"), Some("1"))]);
}

#[tokio::test]
async fn rows_are_told_by_their_time_of_change_and_what_is_missing_with_its_option() {
    let Some(mut database) = new().await else { return };
    let mut feed = database.feed(&settings(Via::UpdatedAt)).await;
    // Both were written at one time, which is the largest there is.
    assert_eq!(feed.changes(2).await, [row(None, Some("1")), row(None, Some("2"))]);
    database.run("UPDATE users SET name = 'x', updated_at = now(6) WHERE id = 2").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("2"))]);

    let source = Source::open(SourceSettings::new("main", &database.url)).await.expect("a good URL");
    let option =
        async |settings: FeedSettings| check_feed(&source, &settings).await.expect_err("something is missing").option;
    let named = |via, table: &str| FeedSettings { table: table.into(), ..settings(via) };
    assert_eq!(option(named(Via::Outbox, "nobody")).await, "table");
    assert_eq!(option(FeedSettings { outbox: "other".into(), ..settings(Via::Outbox) }).await, "outbox");
    let by_name = key(&["name"]);
    assert_eq!(option(FeedSettings { key: by_name, ..settings(Via::Outbox) }).await, "key");
    database.run("DROP TRIGGER leasehold_outbox_users_delete").await;
    assert_eq!(option(settings(Via::Outbox)).await, "table");
    assert_eq!(
        option(FeedSettings { updated_column: "at".into(), ..settings(Via::UpdatedAt) }).await,
        "updated_column"
    );
    assert_eq!(option(settings(Via::DataVersion)).await, "via");
}
