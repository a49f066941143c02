//! SQLite: values have types of their own, columns only hints.
//!
//! What JSON shows follows the storage class of each value: INTEGER and REAL are numbers (the infinities are strings), TEXT is a
//! string, BLOB is base64. A boolean or a date is what the application stored.
//!
//! The file is opened read-only, and once more by one connection if a loader writes to it. Statements end by a progress handler, which SQLite calls every [`OPS_PER_LOOK`] operations.

pub(crate) mod create;
mod parameters;
mod write;

use crate::columns::{Columns, Fields, Problem};
use crate::dialect::{CheckError, Dialect, Fault, Query, Refit, Role, not_prepared};
use crate::json;
use crate::settings::BigNumbers;
use crate::template::{self, PlaceholderKind, Values};
use futures_core::stream::BoxStream;
use parameters::Outline;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteQueryResult, SqliteRow, SqliteValueRef};
use sqlx::{
    Arguments, AssertSqlSafe, Column, Decode, Either, Executor, Row, SqlSafeStr, Sqlite, Statement, TypeInfo, ValueRef,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Operations of SQLite's machine between two looks at the clock: some ten to hundred microseconds.
const OPS_PER_LOOK: i32 = 4_000;

pub(crate) struct SqliteDialect;

#[derive(Clone)]
pub(crate) struct SqliteStatement {
    sql: Arc<str>,
    kinds: Vec<PlaceholderKind>,
    columns: Columns,
    /// Whether the columns may change with the schema. SQLite notices a change only when a statement runs, and then gives the
    /// new columns where sqlx still has the old names.
    has_star: bool,
}

impl Dialect for SqliteDialect {
    type Database = Sqlite;
    type Statement = SqliteStatement;

    async fn check(connection: &mut SqliteConnection, query: Query<'_>) -> Result<SqliteStatement, CheckError> {
        let outline = Outline::of(query.sql);
        let count = query.parameters().len();
        check_outline(&outline, count, |found| {
            format!("must use each of the pattern's {count} placeholders as $1 … $n and nothing else; it uses {found}")
        })
        .map_err(|reason| query.problem(reason))?;
        // The SQL comes from the operator's configuration and from nowhere else.
        let prepared = connection.prepare(AssertSqlSafe(query.sql.clone()).into_sql_str()).await;
        let prepared = prepared.map_err(|error| not_prepared::<Self>(error, |reason| query.problem(reason)))?;
        let names = prepared.columns().iter().map(|column| column.name().to_owned()).collect();
        let columns = query.columns(names)?;
        let kinds = query.parameters().iter().map(|placeholder| placeholder.kind).collect();
        if outline.has_star {
            // The statement that prepare left in the cache of this connection.
            sqlx::Connection::clear_cached_statements(connection).await.map_err(CheckError::Failed)?;
        }
        Ok(SqliteStatement { sql: query.sql.clone(), kinds, columns, has_star: outline.has_star })
    }

    fn refit(
        statement: &SqliteStatement,
        row: &SqliteRow,
        query: Query<'_>,
    ) -> Result<Refit<SqliteStatement>, Problem> {
        let names = statement.columns.names();
        let same = row.columns().len() == names.len()
            && row.columns().iter().zip(names).all(|(column, name)| column.name() == name);
        if same {
            return Ok(Refit::Same);
        }
        let names = row.columns().iter().map(|column| column.name().to_owned()).collect();
        let columns = query.columns(names)?;
        Ok(Refit::To(SqliteStatement { columns, ..statement.clone() }))
    }

    fn columns(statement: &SqliteStatement) -> &Columns {
        &statement.columns
    }

    fn can_ask(_statement: &SqliteStatement, _values: &Values<'_>) -> bool {
        true
    }

    fn bind(statement: &SqliteStatement, role: Role, keys: &[Values<'_>]) -> Result<SqliteArguments, String> {
        let mut arguments = SqliteArguments::default();
        for (index, kind) in statement.kinds.iter().enumerate() {
            let added = match (role, keys) {
                (Role::Single, [values]) => bind_scalar(*kind, values.texts()[index], &mut arguments)?,
                _ => arguments.add(json_array(*kind, keys.iter().map(|values| values.texts()[index]))?),
            };
            added.map_err(|error| error.to_string())?;
        }
        Ok(arguments)
    }

    fn explain(statement: &SqliteStatement, values: &Values<'_>) -> Vec<String> {
        let class = |kind: &PlaceholderKind| match kind {
            PlaceholderKind::Int => "integer",
            PlaceholderKind::Text | PlaceholderKind::Uuid => "text",
        };
        let texts = values.texts().iter().zip(&statement.kinds);
        texts.map(|(text, kind)| format!("{} ({})", String::from_utf8_lossy(text), class(kind))).collect()
    }

    async fn begin(
        connection: &mut SqliteConnection,
        statement: &SqliteStatement,
        timeout: Duration,
    ) -> Result<(), sqlx::Error> {
        let deadline = Instant::now() + timeout;
        connection.lock_handle().await?.set_progress_handler(OPS_PER_LOOK, move || Instant::now() < deadline);
        if statement.has_star {
            // The read brings the connection's idea of the schema up to date, the transaction keeps it so.
            sqlx::raw_sql("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 1").execute(connection).await?;
        }
        Ok(())
    }

    async fn end(connection: &mut SqliteConnection, statement: &SqliteStatement) -> Result<(), sqlx::Error> {
        if statement.has_star {
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
        }
        Ok(())
    }

    fn rows<'c>(
        connection: &'c mut SqliteConnection,
        statement: &SqliteStatement,
        arguments: SqliteArguments,
    ) -> BoxStream<'c, Result<Either<SqliteQueryResult, SqliteRow>, sqlx::Error>> {
        let query = sqlx::query_with(AssertSqlSafe(statement.sql.clone()), arguments);
        connection.fetch_many(query.persistent(!statement.has_star))
    }

    fn fields<'r>(_statement: &'r SqliteStatement, row: &'r SqliteRow) -> impl Fields + 'r {
        SqliteFields { row }
    }

    fn fault(error: &dyn DatabaseError) -> Fault {
        let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
        fault_of(code, error.message(), format!("{} (SQLite code {code})", error.message()))
    }
}

/// What an error means by its code, of which the low byte is the primary one: <https://www.sqlite.org/rescode.html>
fn fault_of(code: i32, message: &str, reason: String) -> Fault {
    match code & 0xff {
        // SQLITE_INTERRUPT: our progress handler.
        9 => Fault::Timeout,
        // SQLITE_BUSY, LOCKED: another writes. FULL: nobody writes now.
        5 | 6 | 13 => Fault::NotNow(reason),
        // SQLITE_NOMEM, IOERR, CANTOPEN, PROTOCOL, NOTADB and CORRUPT: the file, not the query.
        7 | 10 | 11 | 14 | 15 | 26 => Fault::Unavailable(reason),
        // SQLITE_SCHEMA: it changed while the statement began.
        17 => Fault::Stale(reason),
        // SQLITE_ERROR is for bad SQL and for what functions raise ("malformed JSON", "integer overflow"); TOOBIG, CONSTRAINT,
        // MISMATCH and RANGE are about values.
        1 if message.starts_with("no such ") => Fault::Refused(reason),
        1 | 18 | 19 | 20 | 25 => Fault::BadValue(reason),
        _ => Fault::Refused(reason),
    }
}

/// Whether it is one statement with the parameters `$1` to `$count`; `else_text` says what is wrong with those that were found.
fn check_outline(outline: &Outline, count: usize, else_text: impl FnOnce(String) -> String) -> Result<(), String> {
    if outline.has_more_statements {
        return Err("holds more than one statement".into());
    }
    if let Some(other) = &outline.other_parameter {
        return Err(format!("has the parameter {other}; parameters are written $1 … $n"));
    }
    if outline.parameters.iter().copied().ne(1..=count) {
        let found: Vec<String> = outline.parameters.iter().map(|number| format!("${number}")).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        return Err(else_text(found));
    }
    Ok(())
}

type Added = Result<(), sqlx::error::BoxDynError>;

fn bind_scalar(kind: PlaceholderKind, text: &[u8], arguments: &mut SqliteArguments) -> Result<Added, String> {
    Ok(match kind {
        PlaceholderKind::Int => arguments.add(template::int_of(text).ok_or("an integer that is none")?),
        PlaceholderKind::Text | PlaceholderKind::Uuid => {
            arguments.add(std::str::from_utf8(text).map_err(|error| error.to_string())?.to_owned())
        }
    })
}

/// The values of a batch as `json_each` reads them: integers as INTEGER, all others as TEXT.
fn json_array<'v>(kind: PlaceholderKind, texts: impl Iterator<Item = &'v [u8]>) -> Result<String, String> {
    let mut out = vec![b'['];
    for (index, text) in texts.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match kind {
            PlaceholderKind::Int => out.extend_from_slice(text),
            PlaceholderKind::Text | PlaceholderKind::Uuid => json::string(text, &mut out)?,
        }
    }
    out.push(b']');
    String::from_utf8(out).map_err(|error| error.to_string())
}

struct SqliteFields<'r> {
    row: &'r SqliteRow,
}

/// A value of one of the storage classes.
enum Stored<'r> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'r [u8]),
    Blob(&'r [u8]),
}

impl<'r> SqliteFields<'r> {
    fn stored(&self, column: usize) -> Result<Stored<'r>, String> {
        let value = self.row.try_get_raw(column).map_err(|error| error.to_string())?;
        if value.is_null() {
            return Ok(Stored::Null);
        }
        // The class of the value, because it is not NULL; the declared type of the column plays no part.
        let class = match value.type_info().name() {
            "INTEGER" => 'i',
            "REAL" => 'r',
            "TEXT" => 't',
            "BLOB" => 'b',
            other => return Err(format!("has the unknown storage class {other}")),
        };
        Ok(match class {
            'i' => Stored::Integer(decode(value)?),
            'r' => Stored::Real(decode(value)?),
            't' => Stored::Text(decode(value)?),
            _ => Stored::Blob(decode(value)?),
        })
    }
}

fn decode<'r, T: Decode<'r, Sqlite>>(value: SqliteValueRef<'r>) -> Result<T, String> {
    T::decode(value).map_err(|error| error.to_string())
}

impl Fields for SqliteFields<'_> {
    fn raw_bytes(&self, column: usize) -> usize {
        match self.stored(column) {
            Ok(Stored::Text(bytes) | Stored::Blob(bytes)) => bytes.len(),
            Ok(Stored::Integer(_) | Stored::Real(_)) => 8,
            Ok(Stored::Null) | Err(_) => 0,
        }
    }

    fn is_null(&self, column: usize) -> bool {
        matches!(self.stored(column), Ok(Stored::Null))
    }

    fn json(&self, column: usize, big_numbers: BigNumbers, out: &mut Vec<u8>) -> Result<(), String> {
        match self.stored(column)? {
            Stored::Null => out.extend_from_slice(b"null"),
            Stored::Integer(value) => json::int(value, big_numbers, out),
            Stored::Real(value) => json::float(value, out)?,
            Stored::Text(text) => json::string(text, out)?,
            Stored::Blob(bytes) => json::base64(bytes, out)?,
        }
        Ok(())
    }

    fn binary(&self, column: usize) -> Option<&[u8]> {
        match self.stored(column) {
            Ok(Stored::Blob(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn plain(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        match self.stored(column)? {
            Stored::Null => return Err("is NULL".into()),
            Stored::Integer(value) => json::int_text(value, out),
            Stored::Real(value) => json::float_text(value, out)?,
            Stored::Text(bytes) | Stored::Blob(bytes) => out.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn key(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        self.plain(column, out)
    }

    fn version(&self, column: usize) -> Result<u64, String> {
        match self.stored(column)? {
            Stored::Integer(value) => u64::try_from(value).map_err(|_| format!("the version {value} is negative")),
            _ => Err("a version is an INTEGER in SQLite".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_an_error_is() {
        let reason = || "why".to_owned();
        for (fault, codes) in [
            // Of the row: CONSTRAINT and its kinds (CHECK, FOREIGNKEY, NOTNULL, PRIMARYKEY, TRIGGER, UNIQUE), MISMATCH, TOOBIG.
            (Fault::BadValue(reason()), &[19, 275, 787, 1299, 1555, 1811, 2067, 20, 18][..]),
            // PERM, AUTH, MISUSE, READONLY.
            (Fault::Refused(reason()), &[3, 23, 21, 8, 1032]),
            // BUSY, LOCKED, FULL.
            (Fault::NotNow(reason()), &[5, 261, 517, 6, 262, 13]),
            // NOMEM, IOERR, CORRUPT, CANTOPEN, PROTOCOL, NOTADB.
            (Fault::Unavailable(reason()), &[7, 10, 778, 11, 14, 15, 26]),
            (Fault::Stale(reason()), &[17]),
            (Fault::Timeout, &[9]),
        ] {
            for code in codes {
                assert_eq!(fault_of(*code, "", reason()), fault, "{code}");
            }
        }
        assert_eq!(fault_of(1, "malformed JSON", reason()), Fault::BadValue(reason()));
        assert_eq!(fault_of(1, "no such table: notes", reason()), Fault::Refused(reason()));
    }
}
