//! MySQL and MariaDB: types of columns learned from the server, parameters checked against the pattern, statement timeouts kept by
//! the server.
//!
//! The server does not tell the types of parameters, and converts what does not fit: `'1abc' = 1` is true, and a comparison of text
//! with a number reads the whole table. So integers are bound as BIGINT, text and UUIDs as text, and the key column that comes back
//! must be of the same kind. Its own idea of equality (`'A' = 'a '`) does no harm: rows are compared with the key byte for byte.

mod codec;
pub(crate) mod connect;
mod parameters;
mod write;

use crate::columns::{Columns, Fields, Problem};
use crate::dialect::{CheckError, Dialect, Fault, Query, Refit, Role, not_prepared};
use crate::settings::BigNumbers;
use crate::template::{self, PlaceholderKind, Values};
use codec::Codec;
use futures_core::stream::BoxStream;
use parameters::{Pieces, Text};
use sqlx::error::DatabaseError;
use sqlx::mysql::{
    MySqlArguments, MySqlColumn, MySqlConnection, MySqlDatabaseError, MySqlQueryResult, MySqlRow,
    MySqlStatement as MySqlPrepared, MySqlTypeInfo,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column, ColumnOrigin, Decode, Either, Executor, MySql, Row, SqlSafeStr, Statement,
    TypeInfo,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct MySqlDialect;

#[derive(Clone)]
pub(crate) struct MySqlStatement {
    kinds: Vec<PlaceholderKind>,
    pieces: Pieces,
    /// The query for each number of keys, rising.
    texts: Vec<Text>,
    columns: Columns,
    /// How to read each column.
    codecs: Vec<Codec>,
    json_columns: JsonColumns,
    /// It comes from a client: it may not write.
    is_list: bool,
}

/// Which columns of text were declared JSON on MariaDB, by table and column; `false` for those that were not.
type JsonColumns = HashMap<(Arc<str>, Arc<str>), bool>;

impl MySqlStatement {
    /// The query for at least so many keys.
    fn text(&self, keys: usize) -> Result<&Text, String> {
        self.texts.iter().find(|text| text.keys >= keys).ok_or_else(|| format!("no query for {keys} keys"))
    }
}

impl Dialect for MySqlDialect {
    type Database = MySql;
    type Statement = MySqlStatement;

    async fn check(connection: &mut MySqlConnection, query: Query<'_>) -> Result<MySqlStatement, CheckError> {
        let placeholders = query.parameters();
        let pieces = Pieces::of(query.sql, placeholders.len()).map_err(|reason| query.problem(reason))?;
        let texts = match query.role {
            Role::Single | Role::List => vec![pieces.single()],
            Role::Batch => pieces.batch(query.settings.batch_max).map_err(|reason| query.problem(reason))?,
        };
        // Lists of two show what lists of one hide.
        let text = texts.iter().find(|text| text.keys == 2).unwrap_or(&texts[0]);
        // The SQL comes from the operator's configuration and from nowhere else.
        let prepared = match connection.prepare(AssertSqlSafe(text.sql.clone()).into_sql_str()).await {
            Ok(prepared) => prepared,
            Err(error) => return Err(check_error(error, query)),
        };
        is_counted(&prepared, text).map_err(|reason| query.problem(reason))?;
        let json_columns = json_columns(connection, prepared.columns()).await.map_err(CheckError::Failed)?;
        let (columns, codecs) = read_columns(prepared.columns(), &json_columns, query)?;
        let kinds = placeholders.iter().map(|placeholder| placeholder.kind).collect();
        let is_list = query.role == Role::List;
        Ok(MySqlStatement { kinds, pieces, texts, columns, codecs, json_columns, is_list })
    }

    fn refit(statement: &MySqlStatement, row: &MySqlRow, query: Query<'_>) -> Result<Refit<MySqlStatement>, Problem> {
        let known = &statement.json_columns;
        if row.columns().iter().any(|column| json_place(column).is_some_and(|place| !known.contains_key(&place))) {
            return Ok(Refit::Recheck);
        }
        let names = statement.columns.names();
        let same = row.columns().len() == names.len()
            && row
                .columns()
                .iter()
                .zip(names)
                .zip(&statement.codecs)
                .all(|((column, name), codec)| column.name() == name && codec_of(column, known) == Some(*codec));
        if same {
            return Ok(Refit::Same);
        }
        let (columns, codecs) = read_columns(row.columns(), known, query)?;
        Ok(Refit::To(MySqlStatement { columns, codecs, ..statement.clone() }))
    }

    fn columns(statement: &MySqlStatement) -> &Columns {
        &statement.columns
    }

    fn can_ask(_statement: &MySqlStatement, _values: &Values<'_>) -> bool {
        // A number beyond the column's type is compared as it is, and found nowhere.
        true
    }

    fn bind(statement: &MySqlStatement, _role: Role, keys: &[Values<'_>]) -> Result<MySqlArguments, String> {
        let text = statement.text(keys.len())?;
        let mut arguments = MySqlArguments::default();
        for (place, key) in statement.pieces.bindings(text.keys) {
            // None where the list is longer than the batch.
            let value = keys.get(key).map(|values| values.texts()[place]);
            bind_value(statement.kinds[place], value, &mut arguments)?;
        }
        Ok(arguments)
    }

    fn explain(statement: &MySqlStatement, values: &Values<'_>) -> Vec<String> {
        let type_of = |kind: &PlaceholderKind| match kind {
            PlaceholderKind::Int => "bigint",
            PlaceholderKind::Text | PlaceholderKind::Uuid => "varchar",
        };
        let texts = values.texts().iter().zip(&statement.kinds);
        texts.map(|(text, kind)| format!("{} ({})", String::from_utf8_lossy(text), type_of(kind))).collect()
    }

    async fn begin(
        connection: &mut MySqlConnection,
        statement: &MySqlStatement,
        _timeout: Duration,
    ) -> Result<(), sqlx::Error> {
        // The server ends statements itself: the limit is set when connecting.
        if statement.is_list {
            sqlx::raw_sql("START TRANSACTION READ ONLY").execute(connection).await?;
        }
        Ok(())
    }

    async fn end(connection: &mut MySqlConnection, statement: &MySqlStatement) -> Result<(), sqlx::Error> {
        if statement.is_list {
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
        }
        Ok(())
    }

    fn rows<'c>(
        connection: &'c mut MySqlConnection,
        statement: &MySqlStatement,
        arguments: MySqlArguments,
    ) -> BoxStream<'c, Result<Either<MySqlQueryResult, MySqlRow>, sqlx::Error>> {
        let count = arguments.len();
        let text = statement.texts.iter().find(|text| text.parameters == count).unwrap_or(&statement.texts[0]);
        connection.fetch_many(sqlx::query_with(AssertSqlSafe(text.sql.clone()), arguments))
    }

    fn fields<'r>(statement: &'r MySqlStatement, row: &'r MySqlRow) -> impl Fields + 'r {
        MySqlFields { row, codecs: &statement.codecs }
    }

    async fn position(connection: &mut MySqlConnection) -> Result<String, sqlx::Error> {
        // Each server reads what is meant for it: the first comment MariaDB, the second MySQL from 5.7 on.
        let sql = "SELECT /*M! @@GLOBAL.log_bin, @@GLOBAL.gtid_binlog_pos */ \
                          /*!50700 @@GLOBAL.gtid_mode LIKE 'ON%', @@GLOBAL.gtid_executed */";
        let row = sqlx::raw_sql(sql).fetch_one(connection).await?;
        if row.try_get::<i64, _>(0)? == 0 {
            let reason = "it has no GTIDs; replicas need log_bin on MariaDB, gtid_mode = ON on MySQL";
            return Err(sqlx::Error::Configuration(reason.into()));
        }
        row.try_get(1)
    }

    async fn reaches(
        connection: &mut MySqlConnection,
        position: &str,
        patience: Duration,
    ) -> Result<bool, sqlx::Error> {
        // Sets of MySQL's are server:numbers, MariaDB's domain-server-number.
        let sql = if position.contains(':') {
            "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)"
        } else {
            "SELECT MASTER_GTID_WAIT(?, ?)"
        };
        let waited: Option<i64> =
            sqlx::query_scalar(sql).bind(position).bind(patience.as_secs_f64()).fetch_one(connection).await?;
        Ok(waited == Some(0))
    }

    fn fault(error: &dyn DatabaseError) -> Fault {
        let number = error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
        let state = error.code().unwrap_or_default();
        fault_of(number, &state, format!("{} (MySQL error {number}, SQLSTATE {state})", error.message()))
    }
}

/// What an error means by its number, or by its SQLSTATE, which for many is the general HY000.
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>, <https://mariadb.com/kb/en/mariadb-error-codes/>
fn fault_of(number: u16, state: &str, reason: String) -> Fault {
    match number {
        // The time limit: MySQL's, MariaDB's.
        3024 | 1969 => Fault::Timeout,
        // Shutting down, killed (MySQL's and MariaDB's), idle for too long, the network.
        1053 | 3169 | 1927 | 4031 | 1152 | 1158..=1161 | 1184 => Fault::Broken(reason),
        // A statement that must be prepared again, or that a proxy has lost.
        1615 | 1243 => Fault::Stale(reason),
        // A full disk or table; table locks of others, row locks, deadlocks, too many locks; MySQL's NOWAIT.
        1021 | 1114 | 1099 | 1100 | 1205 | 1206 | 1213 | 1223 | 3572 => Fault::NotNow(reason),
        // Memory, connections, statements, KILL QUERY, a Galera node that is not ready, and MySQL's offline mode.
        1037 | 1038 | 1040 | 1041 | 1047 | 1129 | 1130 | 1203 | 1226 | 1317 | 1461 | 3032 => Fault::Unavailable(reason),
        // No such database, or not for this user.
        1044 | 1049 => Fault::Unavailable(reason),
        // A write where only reads are allowed: for a load the statement is wrong, and a write is tried again anyway.
        1290 | 1792 | 1836 => Fault::Refused(reason),
        // Another number of columns than values, or of columns side by side: the statement does not fit the table.
        1136 | 1222 | 1241 => Fault::Refused(reason),
        // A packet for too many or too long keys; text that has no place in the column's character set.
        1153 | 1267 | 1270 | 1271 | 1300 | 3854 | 3988 => Fault::BadValue(reason),
        // Values that are wrong for their columns, cut off or out of range; rows that are too long, in no partition or outside of a
        // view; MySQL's check constraints.
        1118 | 1264 | 1265 | 1292 | 1366 | 1369 | 1411 | 1526 | 1748 | 3819 => Fault::BadValue(reason),
        _ => match state.get(..2) {
            Some("08") => Fault::Broken(reason),
            Some("28") => Fault::Unavailable(reason),
            Some("40") => Fault::NotNow(reason),
            // Cardinality, data exceptions, constraints, views, SIGNAL.
            Some("21" | "22" | "23" | "44" | "45") => Fault::BadValue(reason),
            _ => Fault::Refused(reason),
        },
    }
}

/// Whether the server finds the parameters that were found here.
fn is_counted(prepared: &MySqlPrepared, text: &Text) -> Result<(), String> {
    match prepared.parameters() {
        Some(Either::Right(count)) if count == text.parameters => Ok(()),
        _ => Err(format!(
            "has {} parameters outside of quotes and comments, but the server finds another number; is a quote or a backslash read \
             otherwise by its sql_mode?",
            text.parameters
        )),
    }
}

/// Binds a value of a key as its kind, or NULL.
fn bind_value(kind: PlaceholderKind, text: Option<&[u8]>, arguments: &mut MySqlArguments) -> Result<(), String> {
    match kind {
        PlaceholderKind::Int => {
            let int = text.map(|text| template::int_of(text).ok_or("an integer that is none")).transpose()?;
            arguments.add(int)
        }
        PlaceholderKind::Text | PlaceholderKind::Uuid => {
            arguments.add(text.map(std::str::from_utf8).transpose().map_err(|error| error.to_string())?)
        }
    }
    .map_err(|error| error.to_string())
}

fn check_error(error: sqlx::Error, query: Query<'_>) -> CheckError {
    match error {
        // A type that is newer than sqlx, such as VECTOR.
        sqlx::Error::Protocol(text) if text.contains("unknown column type") => query
            .problem(format!("selects a column that has no JSON form here ({text}); cast it, or leave it out"))
            .into(),
        error => not_prepared::<MySqlDialect>(error, |mut reason| {
            if query.role == Role::Batch {
                reason.push_str(
                    "; in batch_sql a $n is the list of its values, as in id IN ($1), or (a, b) IN (($1, $2))",
                );
            }
            query.problem(reason)
        }),
    }
}

/// The table and the column that a column of text comes from: on MariaDB it may have been declared JSON.
fn json_place(column: &MySqlColumn) -> Option<(Arc<str>, Arc<str>)> {
    let is_long = matches!(column.type_info().name(), "TEXT" | "BLOB" | "LONGTEXT" | "LONGBLOB");
    match column.origin() {
        ColumnOrigin::Table(table) if is_long && Codec::of(column.type_info()) == Some(Codec::Text) => {
            Some((table.table, table.name))
        }
        _ => None,
    }
}

/// Asks MariaDB which columns of text were declared JSON: they have a check of their own name.
async fn json_columns(connection: &mut MySqlConnection, columns: &[MySqlColumn]) -> Result<JsonColumns, sqlx::Error> {
    const SQL: &str = "SELECT COUNT(*) FROM information_schema.CHECK_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = ? AND \
                       TABLE_NAME = ? AND CONSTRAINT_NAME = ? AND CHECK_CLAUSE = CONCAT('json_valid(`', ?, '`)')";
    let mut found: JsonColumns = columns.iter().filter_map(json_place).map(|place| (place, false)).collect();
    if found.is_empty() || !connect::is_mariadb(connection).await? {
        return Ok(found);
    }
    for ((table, column), is_json) in &mut found {
        let Some((schema, table)) = table.split_once('.') else { continue };
        let asked = sqlx::query_scalar(SQL).bind(schema).bind(table).bind(&**column).bind(&**column);
        // A version without this table has JSON in text, as a server that hides it has.
        match asked.fetch_one(&mut *connection).await {
            Ok(count) => *is_json = i64::is_positive(count),
            Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn codec_of(column: &MySqlColumn, json_columns: &JsonColumns) -> Option<Codec> {
    match json_place(column) {
        Some(place) if json_columns.get(&place).copied().unwrap_or_default() => Some(Codec::JsonText),
        _ => Codec::of(column.type_info()),
    }
}

fn read_columns(
    columns: &[MySqlColumn],
    json_columns: &JsonColumns,
    query: Query<'_>,
) -> Result<(Columns, Vec<Codec>), Problem> {
    let names = columns.iter().map(|column| column.name().to_owned()).collect();
    let resolved = query.columns(names)?;
    let mut codecs = Vec::new();
    for column in columns {
        codecs.push(codec_of(column, json_columns).ok_or_else(|| {
            query.problem(format!(
                "column `{name}` has the type {}, which has no JSON form here; convert it, as in ST_AsGeoJSON({name}) AS {name}",
                column.type_info().name(),
                name = column.name()
            ))
        })?);
    }
    for (key, placeholder) in resolved.keys().iter().zip(query.template.placeholders()) {
        let (codec, kind) = (codecs[*key], placeholder.kind);
        // A NULL in the place of a key is a column whose type is not known yet; such a row is no one's.
        if !codec.is_key(kind) && codec != Codec::Null {
            return Err(query.problem(key_problem(&columns[*key], kind)));
        }
    }
    if let Some(version) = resolved.version()
        && !codecs[version].is_version()
    {
        let reason = format!(
            "`{}` has the type {}; a version is an integer or a TIMESTAMP, best a TIMESTAMP(6) (a DATETIME has no zone and may go back)",
            columns[version].name(),
            columns[version].type_info().name()
        );
        return Err(Problem { option: "version_column", reason });
    }
    Ok((resolved, codecs))
}

fn key_problem(column: &MySqlColumn, kind: PlaceholderKind) -> String {
    let (name, type_info): (&str, &MySqlTypeInfo) = (column.name(), column.type_info());
    let found = format!("the key column `{name}` has the type {}", type_info.name());
    match (kind, Codec::of(type_info)) {
        (PlaceholderKind::Int, Some(Codec::Text | Codec::Bytes)) => format!(
            "{found}, but the placeholder is an int: MySQL would compare them as floating point numbers and read the whole table; \
             write {{…:text}}"
        ),
        (PlaceholderKind::Int, _) => format!("{found}; the column of an int placeholder is an integer or decimal"),
        (PlaceholderKind::Text, Some(Codec::Int(_) | Codec::Unsigned(_) | Codec::Decimal)) => {
            format!("{found}, but the placeholder is text: MySQL would take '1abc' for 1; write {{…:int}}")
        }
        (PlaceholderKind::Text, _) => {
            format!("{found}; the column of a text placeholder is text; convert it with CAST({name} AS CHAR) AS {name}")
        }
        (PlaceholderKind::Uuid, _) => format!(
            "{found}; the column of a uuid placeholder is text in lower case; convert a BINARY(16) with BIN_TO_UUID({name}) AS {name}"
        ),
    }
}

struct MySqlFields<'r> {
    row: &'r MySqlRow,
    codecs: &'r [Codec],
}

impl<'r> MySqlFields<'r> {
    /// The value as it was sent. What sqlx calls NULL is more than NULL: zero dates as well.
    fn raw(&self, column: usize) -> Option<&'r [u8]> {
        <&[u8] as Decode<MySql>>::decode(self.row.try_get_raw(column).ok()?).ok()
    }

    fn value(&self, column: usize) -> Result<(Codec, &'r [u8]), String> {
        let codec = self.codecs.get(column).ok_or("there is no such column")?;
        Ok((*codec, self.raw(column).ok_or("is NULL")?))
    }
}

impl Fields for MySqlFields<'_> {
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
        self.value(column).ok().filter(|(codec, _)| *codec == Codec::Bytes).map(|(_, raw)| raw)
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
        for (fault, errors) in [
            // Of the row: halving the batch finds it.
            (
                Fault::BadValue(reason()),
                &[
                    (1048, "23000"),
                    (1062, "23000"),
                    (1451, "23000"),
                    (1452, "23000"),
                    (4025, "23000"),
                    (1406, "22001"),
                    (1264, "22003"),
                    (1690, "22003"),
                    (3140, "22032"),
                    (1366, "HY000"),
                    (1366, "22007"),
                    (1292, "22007"),
                    (1265, "01000"),
                    (3819, "HY000"),
                    (1526, "HY000"),
                    (1748, "HY000"),
                    (1369, "44000"),
                    (1369, "HY000"),
                    (1644, "45000"),
                    (1242, "21000"),
                    (1153, "08S01"),
                    (1118, "42000"),
                    (1300, "HY000"),
                    (3988, "HY000"),
                ][..],
            ),
            // Of the statement, the schema or the rights: every row has it.
            (
                Fault::Refused(reason()),
                &[
                    (1146, "42S02"),
                    (1054, "42S22"),
                    (1064, "42000"),
                    (1142, "42000"),
                    (1143, "42000"),
                    (1370, "42000"),
                    (1136, "21S01"),
                    (1241, "21000"),
                    (1364, "HY000"),
                    (1305, "42000"),
                    (1030, "HY000"),
                    (1227, "42000"),
                    (1290, "HY000"),
                    (1792, "25006"),
                    (1836, "HY000"),
                ],
            ),
            // Of the moment.
            (
                Fault::NotNow(reason()),
                &[
                    (1205, "HY000"),
                    (1213, "40001"),
                    (1206, "HY000"),
                    (1021, "HY000"),
                    (1114, "HY000"),
                    (1099, "HY000"),
                    (3101, "40000"),
                    (3572, "HY000"),
                ],
            ),
            (
                Fault::Unavailable(reason()),
                &[
                    (1040, "08004"),
                    (1203, "42000"),
                    (1226, "42000"),
                    (1045, "28000"),
                    (1049, "42000"),
                    (1047, "08S01"),
                    (3032, "HY000"),
                ],
            ),
            (
                Fault::Broken(reason()),
                &[(1053, "08S01"), (1927, "70100"), (1158, "08S01"), (4031, "HY000"), (1, "08S01")],
            ),
            (Fault::Stale(reason()), &[(1615, "HY000"), (1243, "HY000")]),
            (Fault::Timeout, &[(3024, "HY000"), (1969, "70100")]),
        ] {
            for (number, state) in errors {
                assert_eq!(fault_of(*number, state, reason()), fault, "{number} {state}");
            }
        }
    }
}
