//! Writing to SQLite: one connection writes, because the file takes one writer at a time.

use super::parameters::Outline;
use super::{OPS_PER_LOOK, SqliteDialect, bind_scalar, check_outline};
use crate::dialect::{self, CheckError, Fault, not_prepared};
use crate::template::Template;
use crate::writer::{Write, WriteDialect, WriteStatement};
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe, Executor, SqlSafeStr};
use std::time::{Duration, Instant};

impl WriteDialect for SqliteDialect {
    /// A transaction that reads first could not become one that writes while another writes.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    async fn check_write(
        connection: &mut SqliteConnection,
        statement: &WriteStatement,
        template: &Template,
    ) -> Result<(), CheckError> {
        let count = template.placeholders().len() + usize::from(statement.takes_value);
        let value = if statement.takes_value { ", then the value," } else { "" };
        check_outline(&Outline::of(&statement.sql), count, |found| {
            format!(
                "must use the placeholders of the pattern in order{value} as $1 … ${count} and nothing else; it uses {found}"
            )
        })
        .map_err(|reason| statement.problem(reason))?;
        // The SQL comes from the operator's configuration and from nowhere else.
        let prepared = connection.prepare(AssertSqlSafe(statement.sql.clone()).into_sql_str()).await;
        prepared.map(drop).map_err(|error| not_prepared::<Self>(error, |reason| statement.problem(reason)))
    }

    fn is_undone(error: &dyn DatabaseError) -> bool {
        let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
        // SQLITE_BUSY and SQLITE_CONSTRAINT leave the transaction open, and it goes with its connection.
        matches!(code & 0xff, 5 | 19)
    }

    async fn apply(
        connection: &mut SqliteConnection,
        Write { statement, template, values, value }: Write<'_>,
        timeout: Duration,
    ) -> Result<u64, Fault> {
        let failed = |error: sqlx::Error| dialect::fault::<Self>(&error);
        let refused = |error: sqlx::error::BoxDynError| Fault::BadValue(error.to_string());
        let mut arguments = SqliteArguments::default();
        for (placeholder, text) in template.placeholders().iter().zip(values.texts()) {
            bind_scalar(placeholder.kind, text, &mut arguments).map_err(Fault::BadValue)?.map_err(refused)?;
        }
        if let Some(value) = value {
            // Text is what SQLite's functions and other programs expect; what is none is a blob.
            match std::str::from_utf8(value) {
                Ok(text) => arguments.add(text.to_owned()),
                Err(_) => arguments.add(value.to_vec()),
            }
            .map_err(refused)?;
        }
        let deadline = Instant::now() + timeout;
        let in_time = move || Instant::now() < deadline;
        connection.lock_handle().await.map_err(failed)?.set_progress_handler(OPS_PER_LOOK, in_time);
        let query = sqlx::query_with(AssertSqlSafe(statement.sql.clone()), arguments);
        let done = connection.execute(query).await;
        // The commit has its own time.
        connection.lock_handle().await.map_err(failed)?.remove_progress_handler();
        match done.map_err(failed) {
            Ok(done) => Ok(done.rows_affected()),
            Err(Fault::BadValue(reason)) if !compiles(connection, statement).await => Err(Fault::Refused(reason)),
            Err(fault) => Err(fault),
        }
    }
}

/// Whether the statement fits the schema as it is now. SQLite has one code for a table with another number of columns and for a
/// value that a function does not take; but the one is found without running anything.
async fn compiles(connection: &mut SqliteConnection, statement: &WriteStatement) -> bool {
    let explain = sqlx::query(AssertSqlSafe(format!("EXPLAIN {}", statement.sql))).persistent(false);
    connection.execute(explain).await.is_ok()
}
