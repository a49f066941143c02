//! SQLite: the outbox, and the counter of commits.
//!
//! One connection writes at a time, so ids of the outbox are in the order of commits, and without holes: what is missing between the
//! position and the last id that was given has been deleted.
//!
//! `PRAGMA data_version` changes when another connection has committed. It is asked often, as that costs some microseconds, and means
//! something only on the connection that asked before: after a new connection the position is lost.

use super::{FILE_LOOK, FeedSettings, LOOK_AGAIN, Read, Tail, Teller, Trouble, next, outbox_change, outbox_sql};
use crate::dialect::{Dialect, Fault};
use crate::source::{AnyPool, Source};
use crate::sqlite::SqliteDialect;
use leasehold_loader_api::feed::{Change, Event, Gap};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};
use std::time::{Duration, Instant};

/// A connection that watches its file.
struct Watch {
    connection: SqliteConnection,
    source: Source,
    /// The counter at the last look.
    version: i64,
}

impl Watch {
    async fn open(source: &Source) -> Result<Self, Trouble> {
        let AnyPool::Sqlite(pool) = &source.pool else { unreachable!("asked of SQLite only") };
        let connection = pool.reads.connect_options().connect().await.map_err(|error| trouble(source, error))?;
        let mut watch = Self { connection, source: source.clone(), version: 0 };
        watch.look().await?;
        Ok(watch)
    }

    /// Looks at the counter; whether it has changed.
    async fn look(&mut self) -> Result<bool, Trouble> {
        let row = self.connection.fetch_one("PRAGMA data_version").await;
        let version = row.and_then(|row| row.try_get(0)).map_err(|error| trouble(&self.source, error))?;
        Ok(std::mem::replace(&mut self.version, version) != version)
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        let until = Instant::now() + LOOK_AGAIN;
        while Instant::now() < until {
            tokio::time::sleep(poll.unwrap_or(FILE_LOOK).min(LOOK_AGAIN)).await;
            if self.look().await? {
                break;
            }
        }
        Ok(())
    }

    /// The first column of each row, as text.
    async fn texts(&mut self, sql: String, bound: &str) -> Result<Vec<String>, Trouble> {
        let failed = |error| trouble(&self.source, error);
        let rows = self.connection.fetch_all(sqlx::query(AssertSqlSafe(sql)).bind(bound)).await.map_err(failed)?;
        rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
    }
}

pub(crate) struct Outbox {
    watch: Watch,
    settings: FeedSettings,
    read_sql: String,
}

pub(crate) struct Position {
    /// Of the outbox; another one is another outbox.
    epoch: String,
    /// The last row that was told.
    id: i64,
}

impl Tail for Outbox {
    type Position = Position;

    async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let names = outbox_sql::Names::sqlite(settings)?;
        let mut tail = Self {
            watch: Watch::open(source).await?,
            settings: settings.clone(),
            read_sql: read_sql(settings, &names),
        };
        tail.check().await?;
        Ok(tail)
    }

    async fn read(&mut self, position: &mut Option<Position>, teller: &mut Teller) -> Result<Read, Trouble> {
        let (since, table) = match position {
            Some(position) => (position.id, Some(self.settings.table.as_str())),
            None => (i64::MAX, None),
        };
        let Watch { connection, source, .. } = &mut self.watch;
        let failed = |error| trouble(source, error);
        let mut rows = connection.fetch(sqlx::query(AssertSqlSafe(self.read_sql.clone())).bind(since).bind(table));
        let mut head = None;
        while let Some(row) = next(&mut rows).await {
            let row = row.map_err(failed)?;
            match Head::of(&row).map_err(failed)? {
                Some(found) => head = Some(found),
                None => teller.event(event(&self.settings, &row).map_err(failed)??).await,
            }
        }
        drop(rows);
        let head = head.ok_or_else(|| Trouble::Wrong("outbox", "its state table is empty; make it anew".into()))?;
        let read = match position {
            None => Read::Began,
            Some(before) if before.epoch != head.epoch || head.last < before.id => Read::Gap(Gap::Restarted),
            Some(before) if head.unread < head.last - before.id => Read::Gap(Gap::Purged),
            Some(_) => Read::Went,
        };
        *position = Some(Position { epoch: head.epoch, id: head.last });
        Ok(read)
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        self.watch.wait(poll).await
    }

    async fn tidy(&mut self) -> Result<(), Trouble> {
        self.check().await
    }
}

impl Outbox {
    async fn check(&mut self) -> Result<(), Trouble> {
        const TABLES: &str =
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND lower(name) = lower($1)";
        let FeedSettings { table, outbox, .. } = &self.settings;
        if self.watch.texts(TABLES.into(), table).await?.is_empty() {
            return Err(Trouble::Wrong("table", format!("there is no table {table} in this database")));
        }
        let columns = self.watch.texts("SELECT name FROM pragma_table_info($1)".into(), table).await?;
        for column in self.settings.columns() {
            if !columns.iter().any(|known| known.eq_ignore_ascii_case(column)) {
                return Err(Trouble::Wrong("key", format!("the table {table} has no column {column}")));
            }
        }
        let advice = outbox_sql::advice(&self.settings, "sqlite");
        for name in [outbox.clone(), format!("{outbox}_state")] {
            if self.watch.texts(TABLES.into(), &name).await?.is_empty() {
                return Err(Trouble::Wrong("outbox", format!("there is no table {name} in this database; {advice}")));
            }
        }
        const TRIGGERS: &str = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = $1";
        for name in outbox_sql::sqlite_triggers(&self.settings) {
            let Some(sql) = self.watch.texts(TRIGGERS.into(), &name).await?.pop() else {
                let reason = format!("{table} has no trigger {name} that writes to the outbox; {advice}");
                return Err(Trouble::Wrong("table", reason));
            };
            let is_written = |column: &&str| sql.contains(&outbox_sql::literal(column));
            if let Some(missing) = self.settings.columns().into_iter().find(|column| !is_written(column)) {
                let reason = format!("the trigger {name} does not write the column {missing}; {advice}");
                return Err(Trouble::Wrong("key", reason));
            }
        }
        Ok(())
    }
}

/// What a read tells beside the events. `$1`: the position, `$2`: the table, or NULL for no events. One statement, so one state of
/// the file.
fn read_sql(settings: &FeedSettings, names: &outbox_sql::Names) -> String {
    let outbox_sql::Names { outbox, state, .. } = names;
    let name = outbox_sql::literal(&settings.outbox);
    format!(
        "SELECT s.epoch AS epoch, coalesce((SELECT seq FROM sqlite_sequence WHERE name = {name}), 0) AS last, \
         (SELECT count(*) FROM {outbox} WHERE id > $1) AS unread, NULL AS old_key, NULL AS new_key, NULL AS age_ms FROM {state} s \
         UNION ALL \
         SELECT NULL, NULL, NULL, o.old_key, o.new_key, \
         CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - o.written_at_ms \
         FROM {outbox} o WHERE o.id > $1 AND o.table_name = $2"
    )
}

struct Head {
    epoch: String,
    /// The last id that was given.
    last: i64,
    /// Rows of any table behind the position.
    unread: i64,
}

impl Head {
    /// `None`: the row is an event.
    fn of(row: &SqliteRow) -> Result<Option<Self>, sqlx::Error> {
        let Some(epoch) = row.try_get::<Option<String>, _>("epoch")? else { return Ok(None) };
        Ok(Some(Self { epoch, last: row.try_get("last")?, unread: row.try_get("unread")? }))
    }
}

fn event(settings: &FeedSettings, row: &SqliteRow) -> Result<Result<Event, Trouble>, sqlx::Error> {
    let old: Option<&str> = row.try_get("old_key")?;
    let new: Option<&str> = row.try_get("new_key")?;
    let age_ms: Option<i64> = row.try_get("age_ms")?;
    let age = age_ms.map(|ms| Duration::from_millis(ms.max(0).cast_unsigned()));
    Ok(outbox_change(settings, old, new).map(|change| Event { change, age }))
}

/// Any commit to the file is a change of all.
pub(crate) struct DataVersion {
    watch: Watch,
    /// Whether the position of the connection before is still to be thrown away.
    is_new: bool,
}

impl Tail for DataVersion {
    /// Means something on this connection only.
    type Position = i64;

    async fn open(source: &Source, _settings: &FeedSettings) -> Result<Self, Trouble> {
        Ok(Self { watch: Watch::open(source).await?, is_new: true })
    }

    async fn read(&mut self, position: &mut Option<i64>, teller: &mut Teller) -> Result<Read, Trouble> {
        self.watch.look().await?;
        let had_none = std::mem::take(&mut self.is_new);
        let before = position.replace(self.watch.version);
        if had_none {
            return Ok(Read::Began);
        }
        if before != *position {
            teller.event(Event { change: Change::All, age: None }).await;
        }
        Ok(Read::Went)
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        self.watch.wait(poll).await
    }
}

fn trouble(source: &Source, error: sqlx::Error) -> Trouble {
    let reason = source.state.redacted(&error);
    match &error {
        sqlx::Error::Database(database) => match SqliteDialect::fault(database.as_ref()) {
            Fault::Refused(reason) => Trouble::Wrong("outbox", reason),
            _ => Trouble::Failed(reason),
        },
        _ => Trouble::Failed(reason),
    }
}
