//! Writing to MySQL and MariaDB. Tables must be of an engine with transactions: InnoDB is, MyISAM is not.

use super::parameters::Pieces;
use super::{MySqlDialect, bind_value, is_counted};
use crate::dialect::{self, CheckError, Fault, not_prepared};
use crate::template::Template;
use crate::writer::{Write, WriteDialect, WriteStatement};
use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlArguments, MySqlConnection};
use sqlx::{Arguments, AssertSqlSafe, Executor, SqlSafeStr};
use std::time::Duration;

impl WriteDialect for MySqlDialect {
    const BEGIN: &'static str = "BEGIN";

    async fn check_write(
        connection: &mut MySqlConnection,
        statement: &WriteStatement,
        template: &Template,
    ) -> Result<(), CheckError> {
        let pieces = pieces(statement, template).map_err(|reason| CheckError::Wrong(statement.problem(reason)))?;
        let text = pieces.single();
        // The SQL comes from the operator's configuration and from nowhere else.
        let prepared = connection.prepare(AssertSqlSafe(text.sql.clone()).into_sql_str()).await;
        let prepared = prepared.map_err(|error| {
            not_prepared::<Self>(error, |mut reason| {
                // MySQL takes a parameter for text in JSON_EXTRACT, and in JSON_VALUE for nothing.
                if reason.contains("MySQL error 3146") {
                    reason
                        .push_str("; MySQL does not know the type of a parameter here: write CAST($n AS CHAR) for $n");
                }
                statement.problem(reason)
            })
        })?;
        is_counted(&prepared, &text).map_err(|reason| statement.problem(reason).into())
    }

    fn is_undone(error: &dyn DatabaseError) -> bool {
        // A conflict that ends the transaction, such as one that a cluster finds at the commit.
        error.code().is_some_and(|code| matches!(code.get(..2), Some("23" | "40")))
    }

    async fn apply(
        connection: &mut MySqlConnection,
        Write { statement, template, values, value }: Write<'_>,
        _timeout: Duration,
    ) -> Result<u64, Fault> {
        let pieces = pieces(statement, template).map_err(Fault::Refused)?;
        let placeholders = template.placeholders();
        let mut arguments = MySqlArguments::default();
        for (place, _) in pieces.bindings(1) {
            match (placeholders.get(place), value) {
                (Some(placeholder), _) => bind_value(placeholder.kind, Some(values.texts()[place]), &mut arguments),
                // Text is what JSON functions take; what is none is a blob.
                (None, Some(value)) => match std::str::from_utf8(value) {
                    Ok(text) => arguments.add(text),
                    Err(_) => arguments.add(value),
                }
                .map_err(|error| error.to_string()),
                (None, None) => Err("takes a value, and there is none".into()),
            }
            .map_err(Fault::BadValue)?;
        }
        let query = sqlx::query_with(AssertSqlSafe(pieces.single().sql), arguments);
        let done = connection.execute(query).await.map_err(|error| dialect::fault::<Self>(&error))?;
        Ok(done.rows_affected())
    }
}

/// The placeholders of the pattern, then the value.
fn pieces(statement: &WriteStatement, template: &Template) -> Result<Pieces, String> {
    let count = template.placeholders().len();
    let wanted = count + usize::from(statement.takes_value);
    Pieces::of(&statement.sql, wanted).map_err(|reason| {
        if statement.takes_value {
            format!("{reason} (${wanted} is the value, after the placeholders)")
        } else {
            reason
        }
    })
}
