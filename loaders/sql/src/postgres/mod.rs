//! PostgreSQL: types of parameters and columns learned from the server, statement timeouts kept by the server.

mod address;
mod codec;
mod parameter;
pub(crate) mod wal;
mod write;

use crate::columns::{Columns, Fields, Problem};
use crate::dialect::{CheckError, Dialect, Fault, Query, Refit, Role, not_prepared};
use crate::settings::BigNumbers;
use crate::template::Values;
use codec::Codec;
use futures_core::stream::BoxStream;
use parameter::Parameter;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgArguments, PgColumn, PgConnection, PgDatabaseError, PgQueryResult, PgRow};
use sqlx::{Arguments, AssertSqlSafe, Column, Either, Executor, Postgres, Row, SqlSafeStr, Statement, TypeInfo};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wal::{END_OF_LOG, end_of_log};

pub(crate) struct PostgresDialect;

#[derive(Clone)]
pub(crate) struct PostgresStatement {
    sql: Arc<str>,
    parameters: Vec<Parameter>,
    columns: Columns,
    /// The type of each column, as its number, and how to read it.
    codecs: Vec<(Option<u32>, Codec)>,
    /// It comes from a client: it may not write.
    is_list: bool,
}

impl Dialect for PostgresDialect {
    type Database = Postgres;
    type Statement = PostgresStatement;

    async fn check(connection: &mut PgConnection, query: Query<'_>) -> Result<PostgresStatement, CheckError> {
        // The SQL comes from the operator's configuration and from nowhere else.
        let prepared = connection.prepare(AssertSqlSafe(query.sql.clone()).into_sql_str()).await;
        let prepared = prepared.map_err(|error| not_prepared::<Self>(error, |reason| query.problem(reason)))?;
        let infos = match prepared.parameters() {
            Some(Either::Left(infos)) => infos,
            _ => &[],
        };
        let placeholders = query.parameters();
        if infos.len() != placeholders.len() {
            let reason = format!(
                "has {} parameters, but the pattern has {} placeholders; $1 … $n are the placeholders in order",
                infos.len(),
                placeholders.len()
            );
            return Err(query.problem(reason).into());
        }
        let mut parameters = Vec::new();
        for (index, (info, placeholder)) in infos.iter().zip(placeholders).enumerate() {
            let parameter = match query.role {
                Role::Single => Parameter::scalar(info, placeholder.kind),
                Role::Batch | Role::List => Parameter::array(info, placeholder.kind),
            };
            parameters.push(parameter.map_err(|found| {
                query.problem(format!(
                    "${} is the placeholder {{{}:{}}}, but PostgreSQL takes it as {found}",
                    index + 1,
                    placeholder.name,
                    placeholder.kind
                ))
            })?);
        }
        let (columns, codecs) = read_columns(prepared.columns(), query)?;
        let is_list = query.role == Role::List;
        Ok(PostgresStatement { sql: query.sql.clone(), parameters, columns, codecs, is_list })
    }

    fn refit(
        statement: &PostgresStatement,
        row: &PgRow,
        query: Query<'_>,
    ) -> Result<Refit<PostgresStatement>, Problem> {
        let names = statement.columns.names();
        let same = row.columns().len() == names.len()
            && row
                .columns()
                .iter()
                .zip(names)
                .zip(&statement.codecs)
                .all(|((column, name), (number, _))| column.name() == name && type_number(column) == *number);
        if same {
            return Ok(Refit::Same);
        }
        let (columns, codecs) = read_columns(row.columns(), query)?;
        Ok(Refit::To(PostgresStatement { columns, codecs, ..statement.clone() }))
    }

    fn columns(statement: &PostgresStatement) -> &Columns {
        &statement.columns
    }

    fn can_ask(statement: &PostgresStatement, values: &Values<'_>) -> bool {
        statement.parameters.iter().zip(values.texts()).all(|(parameter, text)| parameter.holds(text))
    }

    fn bind(statement: &PostgresStatement, _role: Role, keys: &[Values<'_>]) -> Result<PgArguments, String> {
        let mut arguments = PgArguments::default();
        for (index, parameter) in statement.parameters.iter().enumerate() {
            let bound = parameter.bind(keys.iter().map(|values| values.texts()[index]));
            arguments.add(bound).map_err(|error| error.to_string())?;
        }
        Ok(arguments)
    }

    fn explain(statement: &PostgresStatement, values: &Values<'_>) -> Vec<String> {
        let texts = values.texts().iter();
        let explain = |(text, parameter): (&&[u8], &Parameter)| {
            format!("{} ({})", String::from_utf8_lossy(text), parameter.type_name().to_ascii_lowercase())
        };
        texts.zip(&statement.parameters).map(explain).collect()
    }

    async fn begin(
        connection: &mut PgConnection,
        statement: &PostgresStatement,
        _timeout: Duration,
    ) -> Result<(), sqlx::Error> {
        // The server ends statements itself: statement_timeout is set when connecting.
        if statement.is_list {
            sqlx::raw_sql("START TRANSACTION READ ONLY").execute(connection).await?;
        }
        Ok(())
    }

    async fn end(connection: &mut PgConnection, statement: &PostgresStatement) -> Result<(), sqlx::Error> {
        if statement.is_list {
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
        }
        Ok(())
    }

    fn rows<'c>(
        connection: &'c mut PgConnection,
        statement: &PostgresStatement,
        arguments: PgArguments,
    ) -> BoxStream<'c, Result<Either<PgQueryResult, PgRow>, sqlx::Error>> {
        connection.fetch_many(sqlx::query_with(AssertSqlSafe(statement.sql.clone()), arguments))
    }

    fn fields<'r>(statement: &'r PostgresStatement, row: &'r PgRow) -> impl Fields + 'r {
        PostgresFields { row, codecs: &statement.codecs }
    }

    async fn position(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
        let row = connection.fetch_one(AssertSqlSafe(format!("SELECT {END_OF_LOG}"))).await?;
        let end = end_of_log(&row)?;
        Ok(format!("{:X}/{:X}", end >> 32, end & 0xFFFF_FFFF))
    }

    async fn reaches(connection: &mut PgConnection, position: &str, patience: Duration) -> Result<bool, sqlx::Error> {
        /// Between two looks at how far the replica is.
        const LOOK_EVERY: Duration = Duration::from_millis(2);
        let deadline = Instant::now() + patience;
        loop {
            let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() >= $1::text::pg_lsn END";
            match sqlx::query_scalar(sql).bind(position).fetch_one(&mut *connection).await? {
                Some(true) => return Ok(true),
                Some(false) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
                Some(false) => return Ok(false),
                None => return Err(sqlx::Error::Configuration("the server is no replica, or is one no longer".into())),
            }
        }
    }

    fn fault(error: &dyn DatabaseError) -> Fault {
        let code = error.code().unwrap_or_default();
        let routine = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::routine);
        fault_of(&code, routine, format!("{} (SQLSTATE {code})", error.message()))
    }
}

/// What an error means by its SQLSTATE and the function of the server that raised it.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn fault_of(code: &str, routine: Option<&str>, reason: String) -> Fault {
    match code {
        // query_canceled: the statement timeout.
        "57014" => Fault::Timeout,
        // The server is going away, or has thrown this connection out.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" => Fault::Broken(reason),
        // "cached plan must not change result type", statements that a pooler has lost, and one that was prepared when its
        // parameters, or the elements of one, had other types.
        "0A000" | "26000" | "22P03" | "42804" => Fault::Stale(reason),
        // A disk that is full for writers.
        "53100" => Fault::NotNow(reason),
        // A policy of the table refuses this row; whoever has no right at all is told so by another function.
        "42501" if routine == Some("ExecWithCheckOptions") => Fault::BadValue(reason),
        code => match code.get(..2) {
            Some("08") => Fault::Broken(reason),
            // A conflict, a lock.
            Some("40" | "55") => Fault::NotNow(reason),
            // Not enough resources, a disk, no login, no database: the query may be right.
            Some("28" | "3D" | "53" | "57" | "58") => Fault::Unavailable(reason),
            // Data exceptions, cardinality, constraints, WITH CHECK OPTION, what is too long for an index or too deep for the
            // stack, triggers, and what functions raise.
            Some("09" | "21" | "22" | "23" | "27" | "2F" | "38" | "39" | "44" | "54" | "P0") => Fault::BadValue(reason),
            _ => Fault::Refused(reason),
        },
    }
}

fn type_number(column: &PgColumn) -> Option<u32> {
    column.type_info().oid().map(|oid| oid.0)
}

/// The type number of each column, if it has one, and how its values are read.
type Codecs = Vec<(Option<u32>, Codec)>;

fn read_columns(columns: &[PgColumn], query: Query<'_>) -> Result<(Columns, Codecs), Problem> {
    let names = columns.iter().map(|column| column.name().to_owned()).collect();
    let resolved = query.columns(names)?;
    let mut codecs = Vec::new();
    for column in columns {
        let codec = Codec::of(column.type_info()).ok_or_else(|| {
            query.problem(format!(
                "column `{}` has the type {}, which has no JSON form here; convert it, as in {}::text or to_jsonb({})",
                column.name(),
                column.type_info().name(),
                column.name(),
                column.name()
            ))
        })?;
        codecs.push((type_number(column), codec));
    }
    for key in resolved.keys() {
        if !codecs[*key].1.is_key() {
            return Err(query.problem(format!(
                "the key column `{}` has the type {}; a key column is an integer, numeric, text or uuid",
                columns[*key].name(),
                columns[*key].type_info().name()
            )));
        }
    }
    if let Some(version) = resolved.version()
        && !codecs[version].1.is_version()
    {
        let reason = format!(
            "`{}` has the type {}; a version is an integer or timestamptz (a timestamp without a zone may go back; convert it \
             with AT TIME ZONE)",
            columns[version].name(),
            columns[version].type_info().name()
        );
        return Err(Problem { option: "version_column", reason });
    }
    Ok((resolved, codecs))
}

struct PostgresFields<'r> {
    row: &'r PgRow,
    codecs: &'r [(Option<u32>, Codec)],
}

impl<'r> PostgresFields<'r> {
    fn raw(&self, column: usize) -> Option<&'r [u8]> {
        self.row.try_get_raw(column).ok()?.as_bytes().ok()
    }

    fn value(&self, column: usize) -> Result<(&'r Codec, &'r [u8]), String> {
        let (_, codec) = self.codecs.get(column).ok_or("there is no such column")?;
        Ok((codec, self.raw(column).ok_or("is NULL")?))
    }
}

impl Fields for PostgresFields<'_> {
    fn raw_bytes(&self, column: usize) -> usize {
        self.raw(column).map_or(0, <[u8]>::len)
    }

    fn is_null(&self, column: usize) -> bool {
        self.raw(column).is_none()
    }

    fn json(&self, column: usize, big_numbers: BigNumbers, out: &mut Vec<u8>) -> Result<(), String> {
        let (codec, raw) = self.value(column)?;
        codec.json(raw, big_numbers, out)
    }

    fn binary(&self, column: usize) -> Option<&[u8]> {
        self.value(column).ok().filter(|(codec, _)| **codec == Codec::Bytea).map(|(_, raw)| raw)
    }

    fn plain(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let (codec, raw) = self.value(column)?;
        codec.plain(raw, out)
    }

    fn key(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let (codec, raw) = self.value(column)?;
        codec.key(raw, out)
    }

    fn version(&self, column: usize) -> Result<u64, String> {
        let (codec, raw) = self.value(column)?;
        codec.version(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_an_error_is() {
        let reason = || "why".to_owned();
        for (fault, codes) in [
            // Of the row: halving the batch finds it.
            (
                Fault::BadValue(reason()),
                &[
                    "22P02", "22001", "22003", "22007", "22021", "22023", "23502", "23503", "23505", "23514", "23P01",
                    "21000", "27000", "44000", "54000", "54001", "P0001", "P0004", "38000", "39004", "2F004", "09000",
                ][..],
            ),
            // Of the statement, the schema or the rights: every row has it.
            (
                Fault::Refused(reason()),
                &[
                    "42P01", "42703", "42601", "42501", "42883", "42P10", "42P18", "42809", "3F000", "42939", "XX000",
                    "XX001", "25P02", "25001", "25006", "0LP01", "F0000", "HV000", "2BP01",
                ],
            ),
            // Of the moment.
            (Fault::NotNow(reason()), &["40001", "40P01", "40003", "55P03", "55006", "55000", "53100"]),
            (Fault::Unavailable(reason()), &["53200", "53300", "53400", "57000", "58030", "28P01", "28000", "3D000"]),
            (Fault::Broken(reason()), &["08006", "08P01", "57P01", "57P02", "57P03", "57P05", "25P03"]),
            (Fault::Stale(reason()), &["0A000", "26000", "42804"]),
            (Fault::Timeout, &["57014"]),
        ] {
            for code in codes {
                assert_eq!(fault_of(code, None, reason()), fault, "{code}");
            }
        }
        // No right at all, and a policy of the table that this row does not meet.
        assert_eq!(fault_of("42501", Some("aclcheck_error"), reason()), Fault::Refused(reason()));
        assert_eq!(fault_of("42501", Some("ExecWithCheckOptions"), reason()), Fault::BadValue(reason()));
    }
}
