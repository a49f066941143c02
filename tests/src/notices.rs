//! A database of MariaDB or MySQL that a test writes to, and what a feed of it tells: [`Notice`] by [`Notice`], without a server.

use crate::MySqlServer;
use crate::client::PATIENCE;
use leasehold_loader_api::feed::{Batch, Change, Gap, Notice};
use leasehold_loader_sql::{FeedColumn, FeedSettings, Source, SourceSettings, check_feed, run_feed};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A database of its own, and a connection that writes to it.
pub struct WrittenDatabase {
    /// The database.
    pub url: String,
    /// The connection.
    pub writer: MySqlConnection,
    _server: Option<Arc<MySqlServer>>,
}

impl WrittenDatabase {
    /// On a server that tests share.
    pub async fn new(server: Arc<MySqlServer>, schema: &str) -> Self {
        let database = Self::on(&server, schema).await;
        Self { _server: Some(server), ..database }
    }

    /// On a server that lives longer.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn on(server: &MySqlServer, schema: &str) -> Self {
        let name = MySqlServer::new_name();
        let mut admin = MySqlConnection::connect(&server.url("")).await.expect("the server runs");
        run(&mut admin, &format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await;
        let url = server.url(&name);
        let mut writer = MySqlConnection::connect(&url).await.expect("the server runs");
        run(&mut writer, schema).await;
        Self { _server: None, url, writer }
    }

    /// Runs statements.
    pub async fn run(&mut self, sql: &str) {
        run(&mut self.writer, sql).await;
    }

    /// One more connection.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn another(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.url).await.expect("the server runs")
    }

    /// A feed that has begun.
    pub async fn feed(&self, settings: &FeedSettings) -> Notices {
        Notices::start(&self.url, settings).await
    }
}

/// Runs statements.
///
/// # Panics
/// If one fails.
pub async fn run(connection: &mut MySqlConnection, sql: &str) {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The database as feeds and loaders see it.
///
/// # Panics
/// If the URL is none.
pub async fn source(url: &str) -> Source {
    let seconds = Duration::from_secs(20);
    let limits =
        SourceSettings { acquire_timeout: seconds, statement_timeout: seconds, ..SourceSettings::new("main", url) };
    Source::open(limits).await.expect("a good URL")
}

/// What a feed tells.
pub struct Notices(mpsc::Receiver<Notice>);

impl Notices {
    /// Those of a feed that has begun.
    ///
    /// # Panics
    /// If it does not begin.
    pub async fn start(url: &str, settings: &FeedSettings) -> Self {
        let source = source(url).await;
        assert_eq!(check_feed(&source, settings).await, Ok(()));
        let mut feed = Self::of(source, settings);
        assert_eq!(feed.gap().await, Gap::Started);
        feed
    }

    /// Those of a feed that may never begin.
    #[must_use]
    pub fn of(source: Source, settings: &FeedSettings) -> Self {
        let (notices, received) = mpsc::channel(64);
        tokio::spawn(run_feed(source, settings.clone(), notices));
        Self(received)
    }

    /// The next one.
    ///
    /// # Panics
    /// If none comes in time.
    pub async fn notice(&mut self) -> Notice {
        let notice = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        notice.expect("the feed tells something").expect("the feed runs")
    }

    /// Waits for a gap.
    ///
    /// # Panics
    /// If there are changes before it.
    pub async fn gap(&mut self) -> Gap {
        loop {
            match self.notice().await {
                Notice::Gap(gap) => return gap,
                Notice::Changes(batch) => panic!("{batch:?}"),
                Notice::UpToDate(_) | Notice::Trouble(_) => {}
            }
        }
    }

    /// Waits for changes.
    ///
    /// # Panics
    /// If there is anything else before them.
    pub async fn batch(&mut self) -> Batch {
        let asked = Instant::now();
        loop {
            assert!(asked.elapsed() < PATIENCE, "the feed tells nothing");
            match self.notice().await {
                Notice::Changes(batch) => return batch,
                Notice::UpToDate(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// As many changes.
    ///
    /// # Panics
    /// If there is anything else.
    pub async fn changes(&mut self, count: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < count {
            changes.extend(self.batch().await.events.into_iter().map(|event| event.change));
        }
        assert_eq!(changes.len(), count, "{changes:?}");
        changes
    }

    /// All of what was committed before this call that it has not told yet.
    ///
    /// # Panics
    /// If there is anything but changes.
    pub async fn all(&mut self) -> Vec<Change> {
        let asked = Instant::now();
        let mut changes = Vec::new();
        loop {
            match self.notice().await {
                Notice::UpToDate(at) if at > asked => return changes,
                Notice::UpToDate(_) => {}
                Notice::Changes(batch) => changes.extend(batch.events.into_iter().map(|event| event.change)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// It tells nothing of what was committed before this call.
    ///
    /// # Panics
    /// If it does.
    pub async fn nothing(&mut self) {
        assert_eq!(self.all().await, []);
    }

    /// Waits for trouble; its text.
    ///
    /// # Panics
    /// If there is anything else before it.
    pub async fn trouble(&mut self) -> String {
        loop {
            match self.notice().await {
                Notice::Trouble(text) => return text,
                Notice::UpToDate(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Columns that make up keys.
///
/// # Panics
/// If one is none.
#[must_use]
pub fn key(columns: &[&str]) -> Vec<FeedColumn> {
    columns.iter().map(|column| FeedColumn::parse(column).expect("a column")).collect()
}

/// A change of a row with a key of one column.
#[must_use]
pub fn row(old: Option<&str>, new: Option<&str>) -> Change {
    let values = |text: &str| vec![Some(text.to_owned())];
    Change::Row { old: old.map(values), new: new.map(values) }
}
