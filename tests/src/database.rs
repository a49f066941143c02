//! A test's own connection to a PostgreSQL database: statements one after another, blocking.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::runtime::Runtime;

/// One connection.
pub struct Database {
    // Before the runtime: the socket belongs to it.
    connection: PgConnection,
    runtime: Runtime,
}

impl Database {
    /// Connects.
    ///
    /// # Panics
    /// If the database does not answer.
    #[must_use]
    pub fn connect(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
        let connection = runtime.block_on(PgConnection::connect(url)).expect("the database runs");
        Self { connection, runtime }
    }

    /// Connects, if the database answers.
    #[must_use]
    pub fn try_connect(url: &str) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
        let connection = runtime.block_on(PgConnection::connect(url)).ok()?;
        Some(Self { connection, runtime })
    }

    /// Runs statements that answer nothing.
    ///
    /// # Panics
    /// If one fails.
    pub fn run(&mut self, sql: &str) {
        let Self { connection, runtime } = self;
        let statements = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        if let Err(error) = runtime.block_on(statements.execute(connection)) {
            panic!("{sql}: {error}");
        }
    }

    /// The one number that a query answers.
    ///
    /// # Panics
    /// If it fails, or answers something else than an `int8`.
    pub fn number(&mut self, sql: &str) -> i64 {
        let Self { connection, runtime } = self;
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
        match runtime.block_on(query.fetch_one(connection)) {
            Ok(row) => row.get(0),
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// The number that a prepared query with one number as `$1` answers.
    ///
    /// # Panics
    /// As [`Database::number`].
    pub fn number_of(&mut self, sql: &'static str, parameter: i64) -> i64 {
        let Self { connection, runtime } = self;
        match runtime.block_on(sqlx::query(sql).bind(parameter).fetch_one(connection)) {
            Ok(row) => row.get(0),
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// The rows of a query with two columns of text; NULL is an empty one. `None`: the database does not answer.
    #[must_use]
    pub fn pairs(&mut self, sql: &str) -> Option<Vec<(String, String)>> {
        let Self { connection, runtime } = self;
        let rows = runtime.block_on(sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(connection)).ok()?;
        let text = |row: &sqlx::postgres::PgRow, at| row.get::<Option<String>, usize>(at).unwrap_or_default();
        Some(rows.iter().map(|row| (text(row, 0), text(row, 1))).collect())
    }
}
