//! A test's own connection to a MySQL or MariaDB database: statements one after another, blocking.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::runtime::Runtime;

/// One connection.
pub struct MySqlDatabase {
    // Before the runtime: the socket belongs to it.
    connection: MySqlConnection,
    runtime: Runtime,
}

impl MySqlDatabase {
    /// Connects.
    ///
    /// # Panics
    /// If the database does not answer.
    #[must_use]
    pub fn connect(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
        let connection = runtime.block_on(MySqlConnection::connect(url)).expect("the database runs");
        Self { connection, runtime }
    }

    /// Runs statements that answer nothing.
    ///
    /// # Panics
    /// If one fails.
    pub fn run(&mut self, sql: &str) {
        if let Err(error) = self.try_run(sql) {
            panic!("{sql}: {error}");
        }
    }

    /// Runs statements that may fail.
    ///
    /// # Errors
    /// One has failed; the text says which and why.
    pub fn try_run(&mut self, sql: &str) -> Result<(), String> {
        let Self { connection, runtime } = self;
        let done = runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection));
        done.map(drop).map_err(|error| error.to_string())
    }

    /// The first column of what a query answers; it is text.
    ///
    /// # Panics
    /// If it fails.
    pub fn texts(&mut self, sql: &str) -> Vec<String> {
        let Self { connection, runtime } = self;
        let rows = runtime.block_on(sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(connection));
        rows.unwrap_or_else(|error| panic!("{sql}: {error}")).iter().map(|row| row.get(0)).collect()
    }
}
