//! Feeds of SQLite files that another connection writes: what they tell, and that no change goes unsaid.

use leasehold_loader_api::feed::{Change, Event, Gap, Notice};
use leasehold_loader_sql::{
    FeedColumn, FeedSettings, OutboxDatabase, Source, SourceSettings, Via, check_feed, outbox_sql, run_feed,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Nothing here takes so long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);

struct File {
    directory: TempDir,
    writer: SqliteConnection,
}

impl File {
    async fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a folder for the test");
        let writer = Self::connect(&directory).await;
        let mut file = Self { directory, writer };
        file.run(script).await;
        file
    }

    async fn connect(directory: &TempDir) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(directory.path().join("test.db")).create_if_missing(true);
        options.connect().await.expect("the folder is ours")
    }

    async fn run(&mut self, sql: &str) {
        let script = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        self.writer.execute(script).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn source(&self) -> Source {
        let url = format!("sqlite:{}", self.directory.path().join("test.db").display());
        Source::open(SourceSettings::new("main", url)).await.expect("a good URL")
    }

    /// A feed that has begun.
    async fn feed(&self, settings: &FeedSettings) -> Feed {
        let source = self.source().await;
        assert_eq!(check_feed(&source, settings).await, Ok(()));
        let (notices, received) = mpsc::channel(64);
        tokio::spawn(run_feed(source, settings.clone(), notices));
        let mut feed = Feed(received);
        assert_eq!(feed.gap().await, Gap::Started);
        feed
    }
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
                Notice::Gap(gap) => panic!("{gap:?}"),
                Notice::UpToDate(_) => {}
                Notice::Trouble(problem) => panic!("{problem}"),
            }
        }
        assert_eq!(changes.len(), count, "{changes:?}");
        changes
    }

    /// What it tells until it has been up to date twice: reads that began after this call.
    async fn nothing(&mut self) {
        for _ in 0..2 {
            match self.notice().await {
                Notice::UpToDate(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn settings(via: Via, table: &str, key: &[&str]) -> FeedSettings {
    let key = key.iter().map(|text| FeedColumn::parse(text).expect("a column")).collect();
    FeedSettings { via, table: table.into(), key, ..FeedSettings::new("feed") }
}

fn users() -> (String, FeedSettings) {
    let settings = settings(Via::Outbox, "users", &["id"]);
    let outbox = outbox_sql(OutboxDatabase::Sqlite, "users", &settings.key, &settings.outbox).expect("plain names");
    (
        format!(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'ann'); {outbox}"
        ),
        settings,
    )
}

fn row(old: Option<&str>, new: Option<&str>) -> Change {
    let values = |text: &str| vec![Some(text.to_owned())];
    Change::Row { old: old.map(values), new: new.map(values) }
}

#[tokio::test]
async fn each_committed_change_is_told_with_both_keys_and_none_that_was_rolled_back() {
    let (script, settings) = users();
    let mut file = File::new(&script).await;
    let mut feed = file.feed(&settings).await;
    file.run("INSERT INTO users VALUES (2, 'bob')").await;
    assert_eq!(feed.changes(1).await, [row(None, Some("2"))]);
    file.run("BEGIN; UPDATE users SET id = 3 WHERE id = 2; DELETE FROM users WHERE id = 1; COMMIT").await;
    assert_eq!(feed.changes(2).await, [row(Some("2"), Some("3")), row(Some("1"), None)]);
    file.run("BEGIN; DELETE FROM users; ROLLBACK").await;
    feed.nothing().await;
}

#[tokio::test]
async fn rows_that_were_deleted_unread_are_a_gap_and_rows_that_were_read_are_none() {
    let (script, settings) = users();
    let mut file = File::new(&script).await;
    let mut feed = file.feed(&settings).await;
    file.run("INSERT INTO users VALUES (2, 'bob')").await;
    feed.changes(1).await;
    file.run("DELETE FROM leasehold_outbox").await;
    feed.nothing().await;
    file.run(
        "BEGIN; INSERT INTO users VALUES (3, 'cid'), (4, 'dan'); DELETE FROM leasehold_outbox WHERE id = 2; COMMIT",
    )
    .await;
    // What is left is told, and that something is missing.
    assert_eq!(feed.changes(1).await.len(), 1);
    assert_eq!(feed.gap().await, Gap::Purged);
    file.run("DELETE FROM users WHERE id = 3").await;
    assert_eq!(feed.changes(1).await, [row(Some("3"), None)]);
}

#[tokio::test]
async fn an_outbox_that_was_made_anew_is_a_gap() {
    let (script, settings) = users();
    let mut file = File::new(&script).await;
    let mut feed = file.feed(&settings).await;
    file.run("INSERT INTO users VALUES (2, 'bob')").await;
    feed.changes(1).await;
    let anew = outbox_sql(OutboxDatabase::Sqlite, "users", &settings.key, &settings.outbox).expect("plain names");
    let anew = anew
        .replace("BEGIN;\n\nCREATE", "BEGIN;\nDROP TABLE leasehold_outbox; DROP TABLE leasehold_outbox_state;\nCREATE");
    file.run(&anew).await;
    assert_eq!(feed.gap().await, Gap::Restarted);
}

#[tokio::test]
async fn a_commit_to_the_file_is_a_change_of_all() {
    let mut file = File::new("CREATE TABLE t (n INTEGER)").await;
    let mut feed = file.feed(&settings(Via::DataVersion, "", &[])).await;
    for _ in 0..3 {
        file.run("INSERT INTO t VALUES (1)").await;
        assert_eq!(feed.changes(1).await, [Change::All]);
    }
}

#[tokio::test]
async fn a_new_version_of_the_resource_is_a_change_of_all_and_one_of_another_is_none() {
    let script = "CREATE TABLE versions (name TEXT PRIMARY KEY, version INTEGER); INSERT INTO versions VALUES ('users', 1), ('x', 1)";
    let mut file = File::new(script).await;
    let poll = Some(Duration::from_millis(5));
    let versions = FeedSettings { resource: "users".into(), poll, ..settings(Via::Versions, "versions", &[]) };
    let mut feed = file.feed(&versions).await;
    for sql in [
        "UPDATE versions SET version = 2 WHERE name = 'users'",
        "DELETE FROM versions WHERE name = 'users'",
        "INSERT INTO versions VALUES ('users', NULL)",
    ] {
        file.run("UPDATE versions SET version = version + 1 WHERE name = 'x'").await;
        feed.nothing().await;
        file.run(sql).await;
        assert_eq!(feed.changes(1).await, [Change::All], "{sql}");
    }
}

#[tokio::test]
async fn rows_are_told_by_their_time_of_change_ties_and_late_ones_too() {
    for (kind, times) in [("INTEGER", ["90", "100", "200"]), ("TEXT", ["'2026-01-02'", "'2026-01-10'", "'2026-02-01'"])]
    {
        let [before, first, second] = times;
        let script =
            format!("CREATE TABLE t (id INTEGER PRIMARY KEY, updated_at {kind}); INSERT INTO t VALUES (1, {first})");
        let mut file = File::new(&script).await;
        let poll = Some(Duration::from_millis(5));
        let by_time =
            FeedSettings { poll, overlap: Duration::from_secs(600), ..settings(Via::UpdatedAt, "t", &["id"]) };
        let mut feed = file.feed(&by_time).await;
        // It is in the overlap, and told once for nothing.
        assert_eq!(feed.changes(1).await, [row(None, Some("1"))], "{kind}");
        file.run(&format!("INSERT INTO t VALUES (2, {second}), (3, {second})")).await;
        assert_eq!(feed.changes(2).await, [row(None, Some("2")), row(None, Some("3"))]);
        file.run(&format!("INSERT INTO t VALUES (4, {first}), (5, {before}), (6, NULL)")).await;
        // From before the feed began: so long no transaction takes.
        assert_eq!(feed.changes(1).await, [row(None, Some("4"))], "{kind}");
        feed.nothing().await;
        file.run(&format!("UPDATE t SET updated_at = {second} WHERE id = 4")).await;
        assert_eq!(feed.changes(1).await, [row(None, Some("4"))]);
    }
}

#[tokio::test]
async fn one_overlap_after_the_beginning_all_is_stale_once_more() {
    let file = File::new("CREATE TABLE t (id INTEGER PRIMARY KEY, updated_at INTEGER)").await;
    let (poll, overlap) = (Some(Duration::from_millis(5)), Duration::from_millis(50));
    let mut feed = file.feed(&FeedSettings { poll, overlap, ..settings(Via::UpdatedAt, "t", &["id"]) }).await;
    assert_eq!(feed.gap().await, Gap::Settled);
    feed.nothing().await;
}

#[tokio::test]
async fn what_is_missing_is_told_with_its_option() {
    let (script, good) = users();
    let file = File::new(&format!("{script}; CREATE TABLE bare (id INTEGER, n INTEGER)")).await;
    let source = file.source().await;
    let option =
        async |settings: FeedSettings| check_feed(&source, &settings).await.expect_err("something is missing").option;
    assert_eq!(option(settings(Via::Outbox, "nobody", &["id"])).await, "table");
    assert_eq!(option(settings(Via::Outbox, "bare", &["id"])).await, "table");
    assert_eq!(option(settings(Via::Outbox, "users", &["nothing"])).await, "key");
    assert_eq!(option(settings(Via::Outbox, "users", &["name"])).await, "key");
    assert_eq!(option(FeedSettings { outbox: "other".into(), ..good }).await, "outbox");
    assert_eq!(option(settings(Via::UpdatedAt, "nobody", &["id"])).await, "table");
    assert_eq!(option(settings(Via::UpdatedAt, "bare", &["id"])).await, "updated_column");
    let by_n = FeedSettings { updated_column: "n".into(), ..settings(Via::UpdatedAt, "bare", &["nothing"]) };
    assert_eq!(option(by_n).await, "key");
    assert_eq!(option(settings(Via::Versions, "nobody", &[])).await, "table");
    assert_eq!(option(settings(Via::Versions, "bare", &[])).await, "resource_column");
}
