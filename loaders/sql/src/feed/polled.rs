//! Tables that are looked at again and again, of any database: a column with the time of each row's last change, or a table with a
//! version for a whole.
//!
//! The time of change is not the order of commits: `now()` of PostgreSQL is when the transaction began. Hence the overlap ([`Overlap`]):
//! a transaction that commits at most so long after its time of change is seen. Those that were open when the feed began carry times
//! from before it, so one overlap after its beginning all is stale once more ([`Gap::Settled`]). A delete leaves nothing to be seen.

use super::overlap::{Mark, Overlap};
use super::{FeedSettings, LOOK_AGAIN, Read, Tail, Teller, Trouble, outbox_sql};
use crate::dialect::{Dialect, Fault};
use crate::mysql::MySqlDialect;
use crate::postgres::PostgresDialect;
use crate::source::{AnyPool, Source};
use crate::sqlite::SqliteDialect;
use leasehold_loader_api::feed::{Change, Event, Gap};
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};
use std::time::{Duration, Instant};

/// More rows than this in one look are not told one by one.
const ROWS_MAX: usize = 100_000;

enum Connection {
    Postgres(PgConnection),
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// A connection of the feed's own.
pub(super) struct Asker {
    source: Source,
    connection: Connection,
}

pub(super) type Texts = Vec<Option<String>>;

impl Asker {
    pub(super) async fn open(source: &Source) -> Result<Self, Trouble> {
        let failed = |error: sqlx::Error| Trouble::Failed(source.state.redacted(&error));
        let limit = source.state.settings.acquire_timeout;
        let late = |_| Trouble::Failed(format!("no connection within {} ms", limit.as_millis()));
        let connection = match &source.pool {
            AnyPool::Postgres(pool) => {
                let options = pool.connect_options();
                let connected = tokio::time::timeout(limit, options.connect()).await.map_err(late)?;
                Connection::Postgres(connected.map_err(failed)?)
            }
            AnyPool::MySql(pool) => {
                let options = pool.connect_options();
                let connected = tokio::time::timeout(limit, options.connect()).await.map_err(late)?;
                Connection::MySql(connected.map_err(failed)?)
            }
            AnyPool::Sqlite(pool) => Connection::Sqlite(pool.reads.connect_options().connect().await.map_err(failed)?),
        };
        Ok(Self { source: source.clone(), connection })
    }

    /// All rows of a query whose columns are texts. Its one parameter, if it has one, is `$1`.
    pub(super) async fn ask(
        &mut self,
        option: &'static str,
        sql: &str,
        bound: &[Option<&str>],
    ) -> Result<Vec<Texts>, Trouble> {
        let sql = match &self.connection {
            Connection::MySql(_) => {
                PARAMETERS.iter().fold(sql.to_owned(), |sql, parameter| sql.replace(parameter, "?"))
            }
            Connection::Postgres(_) | Connection::Sqlite(_) => sql.to_owned(),
        };
        let sql = AssertSqlSafe(sql);
        let asked = match &mut self.connection {
            Connection::Postgres(connection) => {
                let query = bound.iter().fold(sqlx::query(sql), |query, text| query.bind(*text));
                let rows = connection.fetch_all(query).await;
                rows.and_then(|rows| rows.iter().map(texts).collect::<Result<Vec<_>, _>>())
            }
            Connection::MySql(connection) => {
                let query = bound.iter().fold(sqlx::query(sql), |query, text| query.bind(*text));
                let rows = connection.fetch_all(query).await;
                rows.and_then(|rows| rows.iter().map(texts).collect::<Result<Vec<_>, _>>())
            }
            Connection::Sqlite(connection) => {
                let query = bound.iter().fold(sqlx::query(sql), |query, text| query.bind(*text));
                let rows = connection.fetch_all(query).await;
                rows.and_then(|rows| rows.iter().map(texts).collect::<Result<Vec<_>, _>>())
            }
        };
        asked.map_err(|error| {
            let sqlx::Error::Database(database) = &error else {
                return Trouble::Failed(self.source.state.redacted(&error));
            };
            let fault = match &self.connection {
                Connection::Postgres(_) => PostgresDialect::fault(database.as_ref()),
                Connection::MySql(_) => MySqlDialect::fault(database.as_ref()),
                Connection::Sqlite(_) => SqliteDialect::fault(database.as_ref()),
            };
            match fault {
                Fault::Refused(reason) | Fault::BadValue(reason) => Trouble::Wrong(option, reason),
                Fault::Timeout => Trouble::TooSlow("the database ended the query for its time".into()),
                _ => Trouble::Failed(self.source.state.redacted(&error)),
            }
        })
    }
}

fn texts<'r, R: Row>(row: &'r R) -> Result<Texts, sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    Option<String>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    (0..row.len()).map(|column| row.try_get(column)).collect()
}

/// Parameters of a query, each used once and in order.
const PARAMETERS: [&str; 2] = ["$1", "$2"];

/// A name in the quotes of the database.
fn quoted(connection: &Connection, name: Result<String, String>) -> Result<String, String> {
    match connection {
        Connection::MySql(_) => name.map(|name| outbox_sql::backquoted(&name)),
        Connection::Postgres(_) | Connection::Sqlite(_) => name,
    }
}

/// A column as text, so that the text of a key is the one that its loader compares.
fn as_text(connection: &Connection, column: &str) -> String {
    match connection {
        Connection::Postgres(_) => format!("to_jsonb({column}) #>> '{{}}'"),
        Connection::MySql(_) => format!("CAST({column} AS CHAR)"),
        Connection::Sqlite(_) => format!("CAST({column} AS TEXT)"),
    }
}

/// Rows by the time of their last change.
pub(crate) struct UpdatedAt {
    asker: Asker,
    settings: FeedSettings,
    mark_sql: String,
    /// The rows from a time on, without its condition.
    rows_sql: String,
    /// The condition, with the time as `$1`.
    since_sql: String,
}

pub(crate) struct Position {
    looks: Overlap,
    began: Instant,
    is_settled: bool,
}

impl Tail for UpdatedAt {
    type Position = Position;

    async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let mut asker = Asker::open(source).await?;
        let wrong = |option| move |reason| Trouble::Wrong(option, reason);
        let table = quoted(&asker.connection, outbox_sql::quoted(&settings.table)).map_err(wrong("table"))?;
        let updated = outbox_sql::quoted_one(&settings.updated_column);
        let updated = quoted(&asker.connection, updated).map_err(wrong("updated_column"))?;
        // What is missing shows as an error of the option that names it. In quotes, SQLite would take it for a text.
        asker.ask("table", &format!("SELECT NULL FROM {table} LIMIT 0"), &[]).await?;
        asker
            .ask("updated_column", &format!("SELECT NULL FROM (SELECT t.{updated} FROM {table} t) AS x LIMIT 0"), &[])
            .await?;
        let mut columns = Vec::new();
        for column in settings.columns() {
            let column = quoted(&asker.connection, outbox_sql::quoted_one(column)).map_err(wrong("key"))?;
            asker.ask("key", &format!("SELECT NULL FROM (SELECT t.{column} FROM {table} t) AS x LIMIT 0"), &[]).await?;
            columns.push(as_text(&asker.connection, &format!("t.{column}")));
        }
        let mark = as_text(&asker.connection, &format!("max(t.{updated})"));
        let own = as_text(&asker.connection, &format!("t.{updated}"));
        let since_sql = match &asker.connection {
            Connection::Postgres(_) => {
                const SQL: &str = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass($1) \
                                   AND attname = $2 AND NOT attisdropped";
                let found = asker.ask("updated_column", SQL, &[Some(&table), Some(&settings.updated_column)]).await?;
                let kind = found.into_iter().flatten().flatten().next();
                let kind = kind.ok_or_else(|| Trouble::Wrong("table", format!("{} is no table", settings.table)))?;
                format!("t.{updated} >= CAST(CAST($1 AS text) AS {kind})")
            }
            // The text becomes what the column is.
            Connection::MySql(_) => format!("t.{updated} >= $1"),
            // The mark has the class of the column's values, and so must its text: numbers sort before texts.
            Connection::Sqlite(_) => format!(
                "t.{updated} >= CASE (SELECT typeof(max(m.{updated})) FROM {table} m) WHEN 'integer' THEN CAST($1 AS INTEGER) \
                 WHEN 'real' THEN CAST($1 AS REAL) ELSE $1 END"
            ),
        };
        Ok(Self {
            mark_sql: format!("SELECT {mark} FROM {table} t"),
            rows_sql: format!("SELECT {own}, {} FROM {table} t WHERE t.{updated} IS NOT NULL", columns.join(", ")),
            since_sql,
            asker,
            settings: settings.clone(),
        })
    }

    async fn read(&mut self, position: &mut Option<Position>, teller: &mut Teller) -> Result<Read, Trouble> {
        // Before the rows: one that comes in between lies behind the mark.
        let mark: Mark = self.asker.ask("table", &self.mark_sql, &[]).await?.into_iter().flatten().flatten().next();
        let now = Instant::now();
        let Some(Position { looks, began, is_settled }) = position else {
            let looks = Overlap::new(self.settings.overlap, now, mark);
            *position = Some(Position { looks, began: now, is_settled: false });
            return Ok(Read::Began);
        };
        let limit = ROWS_MAX + 1;
        let rows = match looks.from() {
            None => self.asker.ask("table", &format!("{} LIMIT {limit}", self.rows_sql), &[]).await?,
            Some(from) => {
                let sql = format!("{} AND {} LIMIT {limit}", self.rows_sql, self.since_sql);
                self.asker.ask("table", &sql, &[Some(from)]).await?
            }
        };
        let are_too_many = rows.len() == limit;
        if are_too_many {
            teller.event(Event { change: Change::All, age: None }).await;
        }
        for mut row in rows {
            let updated = row.remove(0).unwrap_or_default();
            if looks.is_news(row.clone(), updated) && !are_too_many {
                teller.event(Event { change: Change::Row { old: None, new: Some(row) }, age: None }).await;
            }
        }
        looks.end_look(now, mark);
        if !*is_settled && began.elapsed() >= self.settings.overlap {
            *is_settled = true;
            return Ok(Read::Gap(Gap::Settled));
        }
        Ok(Read::Went)
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        tokio::time::sleep(poll.unwrap_or(LOOK_AGAIN)).await;
        Ok(())
    }
}

/// The version of one resource.
pub(crate) struct Versions {
    asker: Asker,
    settings: FeedSettings,
    sql: String,
}

impl Tail for Versions {
    /// The version; `None`: there is no such row.
    type Position = Option<String>;

    async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let mut asker = Asker::open(source).await?;
        let wrong = |option| move |reason| Trouble::Wrong(option, reason);
        let table = quoted(&asker.connection, outbox_sql::quoted(&settings.table)).map_err(wrong("table"))?;
        asker.ask("table", &format!("SELECT NULL FROM {table} LIMIT 0"), &[]).await?;
        let mut column = async |option: &'static str, name: &str| {
            let name = quoted(&asker.connection, outbox_sql::quoted_one(name)).map_err(wrong(option))?;
            asker.ask(option, &format!("SELECT NULL FROM (SELECT t.{name} FROM {table} t) AS x LIMIT 0"), &[]).await?;
            Ok::<_, Trouble>(name)
        };
        let resource = column("resource_column", &settings.resource_column).await?;
        let version = column("version_column", &settings.version_column).await?;
        let shown = as_text(&asker.connection, &format!("t.{version}"));
        let sql = format!("SELECT {shown} FROM {table} t WHERE t.{resource} = $1 LIMIT 1");
        Ok(Self { asker, settings: settings.clone(), sql })
    }

    async fn read(&mut self, position: &mut Option<Option<String>>, teller: &mut Teller) -> Result<Read, Trouble> {
        let found = self.asker.ask("resource", &self.sql, &[Some(&self.settings.resource)]).await?;
        // A row without a version is a version too.
        let version = found.into_iter().next().map(|row| row.into_iter().flatten().next().unwrap_or_default());
        match position.replace(version.clone()) {
            None => return Ok(Read::Began),
            Some(before) if before != version => teller.event(Event { change: Change::All, age: None }).await,
            Some(_) => {}
        }
        Ok(Read::Went)
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        tokio::time::sleep(poll.unwrap_or(LOOK_AGAIN)).await;
        Ok(())
    }
}
