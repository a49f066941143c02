//! Feeds: news of what changes in a database, read from the database itself.
//!
//! ```text
//! open ─► read ─► (Notice::Changes …) ─► Notice::UpToDate ─► wait: a wake-up, or the poll ─► read …
//!   ▲       └ cannot go on where it was: Notice::Gap
//!   └──────── any trouble: Notice::Trouble, a pause
//! ```
//!
//! What is read is a position in a table that commits with the change ([`postgres`], [`mysql`], [`sqlite`]: the outbox; [`polled`]: a column
//! of the table itself, or a table of versions) or in the log of the database ([`logical`], [`binlog`]), never a message that can be lost:
//! wake-ups only say when to look. The position lives in memory and outlives a lost connection; where it is no good any more, that is a [`Gap`]. Reads are at least
//! [`FeedSettings::window`] apart, so that a burst of changes is a few large batches.
//!
//! Not here: what a change means for keys.

mod binlog;
mod logical;
mod mysql;
pub(crate) mod outbox_sql;
mod overlap;
mod polled;
mod postgres;
mod sqlite;

use crate::settings::{ConfigProblem, ConfigSubject};
use crate::source::{AnyPool, Source};
use leasehold_loader_api::feed::{Batch, Change, Event, Gap, KeyValues, Notice};
use serde_json::Value;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Events that travel together at most.
const BATCH_MAX: usize = 1_000;

/// Notices that wait to be taken; then the feed waits.
pub const NOTICES_MAX: usize = 64;

/// Longest pause between two looks where a wake-up or a cheap look tells of changes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often SQLite is asked whether its file has changed.
const FILE_LOOK: Duration = Duration::from_millis(10);

/// The first pause after trouble; each is twice as long, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time between two looks after the triggers and old rows.
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// What the client waits beyond the statement timeout.
const GRACE: Duration = Duration::from_millis(500);

/// How a feed learns of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Triggers write the keys of changed rows to a table, which the feed reads.
    Outbox,
    /// The table has a column with the time of each row's last change. Deletes are not seen.
    UpdatedAt,
    /// A table has a version for the whole; a new one makes all keys stale.
    Versions,
    /// SQLite counts commits to its file; each makes all keys stale.
    DataVersion,
    /// PostgreSQL sends what its log has of a publication.
    Logical,
    /// MySQL and MariaDB write changed rows to a log for replicas.
    Binlog,
}

/// One feed, as the operator says.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// Its name in errors and statistics.
    pub name: String,
    /// How it learns of changes.
    pub via: Via,
    /// The table whose rows it tells of, or the table of versions; `schema.table` or `table`, as the database spells them.
    pub table: String,
    /// The columns that make up keys.
    pub key: Vec<FeedColumn>,
    /// The outbox table.
    pub outbox: String,
    /// Time between two looks; `None`: what suits the way.
    pub poll: Option<Duration>,
    /// Least time between two reads.
    pub window: Duration,
    /// Rows of a PostgreSQL outbox older than this are deleted by the feed; zero = not by the feed.
    pub retention: Duration,
    /// The column with the time of the last change.
    pub updated_column: String,
    /// How much later than its time of change a row may be committed.
    pub overlap: Duration,
    /// The row of the table of versions.
    pub resource: String,
    /// The column that names the resource.
    pub resource_column: String,
    /// The column with its version.
    pub version_column: String,
    /// The publication that the log is read by.
    pub publication: String,
    /// The number that the feed has among the server's replicas; `None`: one by chance.
    pub server_id: Option<u32>,
}

impl FeedSettings {
    /// Settings with the defaults, by way of an outbox.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            via: Via::Outbox,
            table: String::new(),
            key: Vec::new(),
            outbox: "leasehold_outbox".into(),
            poll: None,
            window: Duration::from_millis(10),
            retention: Duration::from_secs(60 * 60),
            updated_column: "updated_at".into(),
            overlap: Duration::from_secs(10),
            resource: String::new(),
            resource_column: "name".into(),
            version_column: "version".into(),
            publication: "leasehold".into(),
            server_id: None,
        }
    }

    fn columns(&self) -> Vec<&str> {
        self.key.iter().map(|column| column.column.as_str()).collect()
    }
}

/// A column of the table and the placeholder that its text goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedColumn {
    /// As the database spells it.
    pub column: String,
    /// As patterns of loaders name it.
    pub placeholder: String,
}

impl FeedColumn {
    /// From `column`, or `column=placeholder`.
    ///
    /// # Errors
    /// One of the names is empty.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (column, placeholder) = text.split_once('=').unwrap_or((text, text));
        let (column, placeholder) = (column.trim(), placeholder.trim());
        if column.is_empty() || placeholder.is_empty() {
            return Err(format!("{text:?} is no column; write \"COLUMN\" or \"COLUMN=PLACEHOLDER\""));
        }
        Ok(Self { column: column.into(), placeholder: placeholder.into() })
    }
}

/// Why a feed could not be read.
pub(crate) enum Trouble {
    /// The database does not answer, or not now.
    Failed(String),
    /// It took too long: there is too much to read since the position.
    TooSlow(String),
    /// What the feed reads is not as it must be; an option and what is wrong.
    Wrong(&'static str, String),
}

impl Trouble {
    fn reason(&self) -> String {
        match self {
            Self::Failed(reason) | Self::TooSlow(reason) => reason.clone(),
            Self::Wrong(option, reason) => format!("{option}: {reason}"),
        }
    }
}

/// What a read came to.
pub(crate) enum Read {
    /// There was no position; now there is one.
    Began,
    /// All since the position was told.
    Went,
    /// All that was committed before this moment was told.
    Reached(Instant),
    /// There is more to come, and nobody knows how much.
    Behind,
    /// Changes may have been missed; the position is new.
    Gap(Gap),
}

/// The end of something that grows, in one kind of database.
pub(crate) trait Tail: Sized + Send {
    /// Up to where changes have been told.
    type Position: Send;

    /// Connects, and checks that what is to be read is there.
    fn open(source: &Source, settings: &FeedSettings) -> impl Future<Output = Result<Self, Trouble>> + Send;

    /// Tells what was committed since the position, and moves it. A position that is left as it was is good for another try.
    fn read(
        &mut self,
        position: &mut Option<Self::Position>,
        teller: &mut Teller,
    ) -> impl Future<Output = Result<Read, Trouble>> + Send;

    /// Until there may be something to read, at most for a second, or for `poll`.
    fn wait(&mut self, poll: Option<Duration>) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Looks again whether what writes is still in place, and removes what is old.
    fn tidy(&mut self) -> impl Future<Output = Result<(), Trouble>> + Send {
        async { Ok(()) }
    }
}

/// Where events go.
pub(crate) struct Teller {
    notices: mpsc::Sender<Notice>,
    pending: Vec<Event>,
    read_at: Instant,
}

/// The receiver of the notices is gone: the server ends.
struct Ended;

impl Teller {
    fn new(notices: mpsc::Sender<Notice>) -> Self {
        Self { notices, pending: Vec::new(), read_at: Instant::now() }
    }

    pub(crate) async fn event(&mut self, event: Event) {
        if self.pending.is_empty() {
            self.read_at = Instant::now();
        }
        self.pending.push(event);
        if self.pending.len() == BATCH_MAX {
            // Whoever reads on finds out soon enough that nobody listens.
            let _ = self.flush().await;
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let batch = Batch { events: std::mem::take(&mut self.pending), read_at: self.read_at };
        self.tell(Notice::Changes(batch)).await
    }

    async fn tell(&mut self, notice: Notice) -> Result<(), Ended> {
        self.notices.send(notice).await.map_err(|_| Ended)
    }
}

/// Checks a feed against its database: tables, columns, triggers. A database that is down is no error.
///
/// # Errors
/// Something is missing; the problem names the option.
pub async fn check_feed(source: &Source, settings: &FeedSettings) -> Result<(), ConfigProblem> {
    let (notices, _) = mpsc::channel(1);
    let mut teller = Teller::new(notices);
    let checked = match (&source.pool, settings.via) {
        (AnyPool::Postgres(_), Via::Outbox) => check::<postgres::Outbox>(source, settings, &mut teller).await,
        (AnyPool::MySql(_), Via::Outbox) => check::<mysql::Outbox>(source, settings, &mut teller).await,
        (AnyPool::Sqlite(_), Via::Outbox) => check::<sqlite::Outbox>(source, settings, &mut teller).await,
        (AnyPool::Sqlite(_), Via::DataVersion) => check::<sqlite::DataVersion>(source, settings, &mut teller).await,
        (AnyPool::Postgres(_), Via::Logical) => check_set_up::<logical::Logical>(source, settings).await,
        (AnyPool::MySql(_), Via::Binlog) => check::<binlog::Binlog>(source, settings, &mut teller).await,
        (_, Via::UpdatedAt) => check::<polled::UpdatedAt>(source, settings, &mut teller).await,
        (_, Via::Versions) => check::<polled::Versions>(source, settings, &mut teller).await,
        (_, Via::DataVersion) => Err(Trouble::Wrong("via", NOT_SO.to_owned())),
        (_, Via::Logical) => Err(Trouble::Wrong("via", NOT_THAT.to_owned())),
        (_, Via::Binlog) => Err(Trouble::Wrong("via", NO_BINLOG.to_owned())),
    };
    match checked {
        Err(Trouble::Wrong(option, reason)) => {
            Err(ConfigProblem { subject: ConfigSubject::Feed(settings.name.clone()), option, reason })
        }
        Err(Trouble::Failed(_) | Trouble::TooSlow(_)) | Ok(()) => Ok(()),
    }
}

const NOT_SO: &str = "data_version is for SQLite only; allowed here: outbox, updated_at, versions";
const NO_BINLOG: &str = "binlog is for MySQL and MariaDB only; allowed here: outbox, updated_at, versions";

const NOT_THAT: &str = "logical is for PostgreSQL only; allowed here: outbox, updated_at, versions";

async fn check<T: Tail>(source: &Source, settings: &FeedSettings, teller: &mut Teller) -> Result<(), Trouble> {
    within_limit(source, async {
        let mut tail = T::open(source, settings).await?;
        tail.read(&mut None, teller).await.map(drop)
    })
    .await
}

/// Of a tail whose first read leaves something behind in the database.
async fn check_set_up<T: Tail>(source: &Source, settings: &FeedSettings) -> Result<(), Trouble> {
    within_limit(source, async { T::open(source, settings).await.map(drop) }).await
}

async fn within_limit(source: &Source, look: impl Future<Output = Result<(), Trouble>>) -> Result<(), Trouble> {
    let limit = source.state.settings.acquire_timeout + source.state.settings.statement_timeout + GRACE;
    // What does not answer cannot be said to be wrong.
    tokio::time::timeout(limit, look).await.unwrap_or(Ok(()))
}

/// Reads a feed until nobody takes its notices any more. Runs on the runtime of the source.
pub async fn run_feed(source: Source, settings: FeedSettings, notices: mpsc::Sender<Notice>) {
    let teller = Teller::new(notices);
    // The end of the server; nobody is left to hear of it.
    let Err(Ended) = match (&source.pool, settings.via) {
        (AnyPool::Postgres(_), Via::Outbox) => run::<postgres::Outbox>(&source, &settings, teller).await,
        (AnyPool::MySql(_), Via::Outbox) => run::<mysql::Outbox>(&source, &settings, teller).await,
        (AnyPool::Sqlite(_), Via::Outbox) => run::<sqlite::Outbox>(&source, &settings, teller).await,
        (AnyPool::Sqlite(_), Via::DataVersion) => run::<sqlite::DataVersion>(&source, &settings, teller).await,
        (AnyPool::Postgres(_), Via::Logical) => run::<logical::Logical>(&source, &settings, teller).await,
        (AnyPool::MySql(_), Via::Binlog) => run::<binlog::Binlog>(&source, &settings, teller).await,
        (_, Via::UpdatedAt) => run::<polled::UpdatedAt>(&source, &settings, teller).await,
        (_, Via::Versions) => run::<polled::Versions>(&source, &settings, teller).await,
        // Refused by `check_feed`.
        (_, Via::DataVersion | Via::Logical | Via::Binlog) => Err(Ended),
    };
}

async fn run<T: Tail>(
    source: &Source,
    settings: &FeedSettings,
    mut teller: Teller,
) -> Result<std::convert::Infallible, Ended> {
    let mut position = None;
    let mut has_begun = false;
    let mut pause = PAUSE_MIN;
    loop {
        let trouble = match T::open(source, settings).await {
            Ok(tail) => {
                let followed = follow(tail, source, settings, &mut teller, &mut position, &mut has_begun, &mut pause);
                match followed.await? {
                    Ok(never) => match never {},
                    Err(trouble) => trouble,
                }
            }
            Err(trouble) => trouble,
        };
        // What was read before the trouble is news all the same.
        teller.flush().await?;
        // While triggers are not as they must be nobody writes down what changes; and what is too much to read must be given up.
        if !matches!(trouble, Trouble::Failed(_)) {
            position = None;
        }
        teller.tell(Notice::Trouble(trouble.reason())).await?;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

type Followed = Result<Result<std::convert::Infallible, Trouble>, Ended>;

/// Reads, waits, and reads again, until there is trouble.
async fn follow<T: Tail>(
    mut tail: T,
    source: &Source,
    settings: &FeedSettings,
    teller: &mut Teller,
    position: &mut Option<T::Position>,
    has_begun: &mut bool,
    pause: &mut Duration,
) -> Followed {
    let limit = source.state.settings.statement_timeout + GRACE;
    let mut tidied = Instant::now();
    loop {
        let begun = Instant::now();
        let read = match tokio::time::timeout(limit, tail.read(position, teller)).await {
            Ok(Ok(read)) => read,
            Ok(Err(trouble)) => return Ok(Err(trouble)),
            Err(_) => return Ok(Err(Trouble::TooSlow(format!("not read within {} ms", limit.as_millis())))),
        };
        teller.flush().await?;
        let up_to = match &read {
            Read::Reached(at) => Some(*at),
            Read::Behind => None,
            Read::Went | Read::Began | Read::Gap(_) => Some(begun),
        };
        match read {
            Read::Went | Read::Reached(_) | Read::Behind => {}
            Read::Began if *has_begun => teller.tell(Notice::Gap(Gap::PositionLost)).await?,
            Read::Began => teller.tell(Notice::Gap(Gap::Started)).await?,
            Read::Gap(gap) => teller.tell(Notice::Gap(gap)).await?,
        }
        if let Some(up_to) = up_to {
            *has_begun = true;
            *pause = PAUSE_MIN;
            teller.tell(Notice::UpToDate(up_to)).await?;
        }
        if tidied.elapsed() >= TIDY_EVERY {
            tidied = Instant::now();
            match tokio::time::timeout(limit, tail.tidy()).await {
                Ok(Ok(())) => {}
                Ok(Err(trouble)) => return Ok(Err(trouble)),
                Err(_) => return Ok(Err(Trouble::Failed("no answer to a look after the triggers".into()))),
            }
        }
        tokio::time::sleep_until((begun + settings.window).into()).await;
        if let Err(trouble) = tail.wait(settings.poll).await {
            return Ok(Err(trouble));
        }
    }
}

/// The change that a row of an outbox tells of: JSON objects of the key before and after. Neither: all rows.
fn outbox_change(settings: &FeedSettings, old: Option<&str>, new: Option<&str>) -> Result<Change, Trouble> {
    if old.is_none() && new.is_none() {
        return Ok(Change::All);
    }
    let values = |json: &str| key_values(&settings.columns(), json).map_err(|reason| Trouble::Wrong("key", reason));
    Ok(Change::Row { old: old.map(values).transpose()?, new: new.map(values).transpose()? })
}

/// The texts of these columns in a JSON object of texts and nulls.
fn key_values(columns: &[&str], json: &str) -> Result<KeyValues, String> {
    let object: Value =
        serde_json::from_str(json).map_err(|error| format!("the outbox has a key that is no JSON: {error}"))?;
    let text = |column: &&str| match object.get(column) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Null) => Ok(None),
        _ => Err(format!("the outbox has rows without {column:?}; make its triggers anew with `leasehold sql outbox`")),
    };
    columns.iter().map(text).collect()
}

/// The next element of a stream of rows.
async fn next<T>(rows: &mut futures_core::stream::BoxStream<'_, T>) -> Option<T> {
    std::future::poll_fn(|context| rows.as_mut().poll_next(context)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_may_have_another_name_in_keys() {
        let parsed = |text| FeedColumn::parse(text).map(|column| (column.column, column.placeholder));
        assert_eq!(parsed("id"), Ok(("id".into(), "id".into())));
        assert_eq!(parsed("user id = user"), Ok(("user id".into(), "user".into())));
        assert!(parsed("=id").is_err() && parsed("").is_err() && parsed("id=").is_err());
    }

    #[test]
    fn keys_of_the_outbox_are_texts_and_nulls_by_name() {
        let read = |json| key_values(&["a", "b"], json);
        assert_eq!(read(r#"{"b":null,"c":"3","a":"1"}"#), Ok(vec![Some("1".into()), None]));
        assert!(read(r#"{"a":"1"}"#).is_err_and(|reason| reason.contains("without \"b\"")));
        assert!(read(r#"{"a":1,"b":null}"#).is_err() && read("x").is_err());
    }
}
