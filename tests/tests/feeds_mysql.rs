//! Feeds of a real MariaDB: the outbox that `leasehold sql outbox --database mysql` prints, read by number with an overlap, and a polled
//! time of change.

use leasehold_loader_api::feed::{Change, Event, Gap, Notice};
use leasehold_loader_sql::{
    FeedColumn, FeedSettings, OutboxDatabase, Source, SourceSettings, Via, check_feed, outbox_sql, run_feed,
};
use leasehold_tests::MariaDb;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const GROUP: &str = "MariaDB feeds";

/// Nothing here takes so long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);

const SCHEMA: &str =
    "CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(100), updated_at DATETIME(6) NOT NULL DEFAULT now(6));
    INSERT INTO users (id, name) VALUES (1, 'ann'), (2, 'bob');";

struct Database {
    _server: Arc<MariaDb>,
    url: String,
    writer: MySqlConnection,
}

impl Database {
    async fn new() -> Option<Self> {
        let server = MariaDb::shared(GROUP)?;
        let name = MariaDb::new_name();
        let mut admin = MySqlConnection::connect(&server.url("")).await.expect("the server runs");
        run(&mut admin, &format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await;
        let url = server.url(&name);
        let mut writer = MySqlConnection::connect(&url).await.expect("the server runs");
        run(&mut writer, SCHEMA).await;
        run(&mut writer, &outbox_sql(OutboxDatabase::Mysql, "users", &key(), "leasehold_outbox").expect("plain names"))
            .await;
        Some(Self { _server: server, url, writer })
    }

    async fn run(&mut self, sql: &str) {
        run(&mut self.writer, sql).await;
    }

    /// A feed that has begun.
    async fn feed(&self, settings: &FeedSettings) -> Feed {
        let limits = SourceSettings::new("main", &self.url);
        let seconds = Duration::from_secs(10);
        let limits = SourceSettings { acquire_timeout: seconds, statement_timeout: seconds, ..limits };
        let source = Source::open(limits).await.expect("a good URL");
        assert_eq!(check_feed(&source, settings).await, Ok(()));
        let (notices, received) = mpsc::channel(64);
        tokio::spawn(run_feed(source, settings.clone(), notices));
        let mut feed = Feed(received);
        assert_eq!(feed.gap().await, Gap::Started);
        feed
    }
}

async fn run(connection: &mut MySqlConnection, sql: &str) {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

struct Feed(mpsc::Receiver<Notice>);

impl Feed {
    async fn notice(&mut self) -> Notice {
        let notice = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        notice.expect("the feed tells something").expect("the feed runs")
    }

    async fn gap(&mut self) -> Gap {
        loop {
            match self.notice().await {
                Notice::Gap(gap) => return gap,
                Notice::Changes(batch) => panic!("{batch:?}"),
                Notice::UpToDate(_) | Notice::Trouble(_) => {}
            }
        }
    }

    /// As many changes.
    async fn changes(&mut self, count: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < count {
            match self.notice().await {
                Notice::Changes(batch) => changes.extend(batch.events.into_iter().map(|Event { change, .. }| change)),
                Notice::UpToDate(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(changes.len(), count, "{changes:?}");
        changes
    }

    /// It tells nothing in a read that began after this call.
    async fn nothing(&mut self) {
        for _ in 0..2 {
            match self.notice().await {
                Notice::UpToDate(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn key() -> Vec<FeedColumn> {
    vec![FeedColumn::parse("id").expect("a column")]
}

/// A minute of overlap: longer than any transaction here, whatever the machine does beside.
fn settings(via: Via) -> FeedSettings {
    let (poll, overlap) = (Some(Duration::from_millis(10)), Duration::from_secs(60));
    FeedSettings { via, table: "users".into(), key: key(), poll, overlap, ..FeedSettings::new("feed") }
}

fn row(old: Option<&str>, new: Option<&str>) -> Change {
    let values = |text: &str| vec![Some(text.to_owned())];
    Change::Row { old: old.map(values), new: new.map(values) }
}

#[tokio::test]
async fn each_committed_change_is_told_with_both_keys_and_none_that_was_rolled_back() {
    let Some(mut database) = Database::new().await else { return };
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
    let Some(mut database) = Database::new().await else { return };
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

#[tokio::test]
async fn purged_rows_a_truncate_and_a_lost_connection_are_gaps() {
    let Some(mut database) = Database::new().await else { return };
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
    let Some(mut database) = Database::new().await else { return };
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
    let by_name = vec![FeedColumn::parse("name").expect("a column")];
    assert_eq!(option(FeedSettings { key: by_name, ..settings(Via::Outbox) }).await, "key");
    database.run("DROP TRIGGER leasehold_outbox_users_delete").await;
    assert_eq!(option(settings(Via::Outbox)).await, "table");
    assert_eq!(
        option(FeedSettings { updated_column: "at".into(), ..settings(Via::UpdatedAt) }).await,
        "updated_column"
    );
    assert_eq!(option(settings(Via::DataVersion)).await, "via");
}
