//! How far the changes of a journal are in a source: a row of a table of its own, which moves in the transaction that writes them.
//!
//! The table is made by the operator, with what `leasehold sql journal` prints; only rows are written here.

use crate::dialect::Connection;
use crate::mysql::MySqlDialect;
use crate::postgres::PostgresDialect;
use crate::sqlite::SqliteDialect;
use crate::writer::WriteDialect;
use leasehold_loader_api::{Step, Stepped};
use sqlx::Row;
use std::future::Future;

/// The table of positions.
pub const POSITION_TABLE: &str = "leasehold_writes";

/// A kind of database that keeps positions.
pub(crate) trait PositionDialect: WriteDialect {
    /// Moves the position from one to the other place, within a transaction. Where it is instead, if it was not at the first.
    fn advance(
        connection: &mut Connection<Self>,
        step: &Step,
    ) -> impl Future<Output = Result<Option<Stepped>, sqlx::Error>> + Send;

    /// The position of a journal, if it has one.
    fn journal_position(
        connection: &mut Connection<Self>,
        journal: &str,
    ) -> impl Future<Output = Result<Option<u64>, sqlx::Error>> + Send;

    /// Gives a journal the position 0, unless it has one.
    fn begin_position(
        connection: &mut Connection<Self>,
        journal: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// The same for each kind, but for how parameters are written.
macro_rules! positions {
    ($dialect:ty, $advance:literal, $position:literal, $begin:literal) => {
        impl PositionDialect for $dialect {
            async fn advance(connection: &mut Connection<Self>, step: &Step) -> Result<Option<Stepped>, sqlx::Error> {
                let moved = sqlx::query($advance).bind(signed(step.to)).bind(&step.journal).bind(signed(step.from));
                if moved.execute(&mut *connection).await?.rows_affected() == 1 {
                    return Ok(None);
                }
                Ok(Some(match Self::journal_position(connection, &step.journal).await? {
                    Some(at) if at == step.to => Stepped::Before,
                    at => Stepped::Elsewhere { at: at.unwrap_or(0) },
                }))
            }

            async fn journal_position(
                connection: &mut Connection<Self>,
                journal: &str,
            ) -> Result<Option<u64>, sqlx::Error> {
                let row = sqlx::query($position).bind(journal).fetch_optional(connection).await?;
                row.map(|row| row.try_get::<i64, _>(0).map(i64::cast_unsigned)).transpose()
            }

            async fn begin_position(connection: &mut Connection<Self>, journal: &str) -> Result<(), sqlx::Error> {
                sqlx::query($begin).bind(journal).execute(connection).await.map(drop)
            }
        }
    };
}

positions!(
    PostgresDialect,
    "UPDATE leasehold_writes SET seq = $1 WHERE journal = $2 AND seq = $3",
    "SELECT seq FROM leasehold_writes WHERE journal = $1",
    "INSERT INTO leasehold_writes (journal, seq) VALUES ($1, 0) ON CONFLICT DO NOTHING"
);
positions!(
    SqliteDialect,
    "UPDATE leasehold_writes SET seq = $1 WHERE journal = $2 AND seq = $3",
    "SELECT seq FROM leasehold_writes WHERE journal = $1",
    "INSERT INTO leasehold_writes (journal, seq) VALUES ($1, 0) ON CONFLICT DO NOTHING"
);
positions!(
    MySqlDialect,
    "UPDATE leasehold_writes SET seq = ? WHERE journal = ? AND seq = ?",
    "SELECT seq FROM leasehold_writes WHERE journal = ?",
    "INSERT IGNORE INTO leasehold_writes (journal, seq) VALUES (?, 0)"
);

/// Numbers of changes stay far below 2^63.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}

/// The SQL that makes the table.
#[must_use]
pub fn position_sql(database: crate::OutboxDatabase) -> &'static str {
    use crate::OutboxDatabase::{Mysql, Postgres, Sqlite};
    match database {
        Postgres => {
            "-- Positions of Leasehold's journals: how far the changes of loaders with write = \"behind\" are in this database.
-- The server needs SELECT, INSERT and UPDATE on it.
CREATE TABLE IF NOT EXISTS leasehold_writes (
    journal text PRIMARY KEY,
    seq bigint NOT NULL
);
"
        }
        Mysql => {
            "-- Positions of Leasehold's journals: how far the changes of loaders with write = \"behind\" are in this database.
-- The server needs SELECT, INSERT and UPDATE on it.
CREATE TABLE IF NOT EXISTS leasehold_writes (
    journal varchar(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    seq bigint NOT NULL
) ENGINE = InnoDB;
"
        }
        Sqlite => {
            "-- Positions of Leasehold's journals: how far the changes of loaders with write = \"behind\" are in this database.
CREATE TABLE IF NOT EXISTS leasehold_writes (
    journal TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
);
"
        }
    }
}
