//! A test's own connection to a SQLite file: statements one after another, blocking.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// One connection.
pub struct SqliteFile {
    // Before the runtime, which runs its end.
    connection: SqliteConnection,
    runtime: Runtime,
}

impl SqliteFile {
    /// Opens a file, and makes it if it is not there.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let options = options.busy_timeout(Duration::from_secs(20)).disable_statement_logging();
        let connection = runtime.block_on(options.connect()).expect("the file can be opened");
        Self { connection, runtime }
    }

    /// Runs statements that answer nothing.
    ///
    /// # Panics
    /// If one fails.
    pub fn run(&mut self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// As [`SqliteFile::run`], for what another connection may stand in the way of.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn try_run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let Self { connection, runtime } = self;
        runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection)).map(drop)
    }

    /// The rows of a query with two columns of text; NULL is an empty one.
    ///
    /// # Panics
    /// If it fails.
    pub fn pairs(&mut self, sql: &str) -> Vec<(String, String)> {
        let Self { connection, runtime } = self;
        let rows = runtime.block_on(sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(connection));
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = |row: &sqlx::sqlite::SqliteRow, at| row.get::<Option<String>, usize>(at).unwrap_or_default();
        rows.iter().map(|row| (text(row, 0), text(row, 1))).collect()
    }
}
