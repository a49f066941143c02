//! Writing to PostgreSQL: the value is bound as the type that the statement takes it as.

use super::PostgresDialect;
use super::parameter::{Bound, Parameter};
use crate::dialect::{self, CheckError, Fault, not_prepared};
use crate::template::Template;
use crate::writer::{Write, WriteDialect, WriteStatement};
use sqlx::error::DatabaseError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArguments, PgConnection, PgTypeInfo, PgTypeKind};
use sqlx::{Arguments, AssertSqlSafe, Either, Executor, SqlSafeStr, Statement, TypeInfo};
use std::time::Duration;

impl WriteDialect for PostgresDialect {
    const BEGIN: &'static str = "BEGIN";

    async fn check_write(
        connection: &mut PgConnection,
        statement: &WriteStatement,
        template: &Template,
    ) -> Result<(), CheckError> {
        let infos = parameters(connection, statement).await;
        let infos = infos.map_err(|error| not_prepared::<Self>(error, |reason| statement.problem(reason)))?;
        bindings(&infos, statement, template).map(drop).map_err(|reason| statement.problem(reason).into())
    }

    fn is_undone(error: &dyn DatabaseError) -> bool {
        error
            .code()
            .is_some_and(|code| matches!(code.get(..2), Some("22" | "23" | "P0")) || code == "40001" || code == "40P01")
    }

    async fn apply(
        connection: &mut PgConnection,
        Write { statement, template, values, value }: Write<'_>,
        _timeout: Duration,
    ) -> Result<u64, Fault> {
        let failed = |error: sqlx::Error| dialect::fault::<Self>(&error);
        // The connection remembers it; its types are asked for once.
        let infos = parameters(connection, statement).await.map_err(failed)?;
        let mut arguments = PgArguments::default();
        let mut add = |bound: Bound| arguments.add(bound).map_err(|error| Fault::BadValue(error.to_string()));
        bindings(&infos, statement, template).map_err(Fault::Refused)?;
        for ((info, text), placeholder) in infos.iter().zip(values.texts()).zip(template.placeholders()) {
            let parameter = Parameter::scalar(info, placeholder.kind).map_err(Fault::Refused)?;
            if !parameter.holds(text) {
                return Err(Fault::BadValue(format!("{} cannot hold the key's value", info.name())));
            }
            add(parameter.bind(std::iter::once(*text)))?;
        }
        if let (Some(value), Some(info)) = (value, infos.get(values.texts().len())) {
            add(bind_value(info, value).map_err(Fault::Refused)?)?;
        }
        let query = sqlx::query_with(AssertSqlSafe(statement.sql.clone()), arguments);
        let done = connection.execute(query).await.map_err(failed)?;
        Ok(done.rows_affected())
    }
}

/// The types that the server takes the parameters as.
async fn parameters(connection: &mut PgConnection, statement: &WriteStatement) -> Result<Vec<PgTypeInfo>, sqlx::Error> {
    // The SQL comes from the operator's configuration and from nowhere else.
    let prepared = connection.prepare(AssertSqlSafe(statement.sql.clone()).into_sql_str()).await?;
    Ok(match prepared.parameters() {
        Some(Either::Left(infos)) => infos.to_vec(),
        _ => Vec::new(),
    })
}

fn bindings(infos: &[PgTypeInfo], statement: &WriteStatement, template: &Template) -> Result<(), String> {
    let placeholders = template.placeholders();
    let wanted = placeholders.len() + usize::from(statement.takes_value);
    if infos.len() != wanted {
        let value = if statement.takes_value { ", then the value" } else { "" };
        return Err(format!(
            "has {} parameters and must have {wanted}: the placeholders of the pattern in order{value}",
            infos.len()
        ));
    }
    for (index, (info, placeholder)) in infos.iter().zip(placeholders).enumerate() {
        Parameter::scalar(info, placeholder.kind).map_err(|found| {
            format!(
                "${} is the placeholder {{{}:{}}}, but PostgreSQL takes it as {found}",
                index + 1,
                placeholder.name,
                placeholder.kind
            )
        })?;
    }
    match infos.get(placeholders.len()) {
        Some(info) if ValueForm::of(info).is_none() => Err(format!(
            "${wanted} is the value, but PostgreSQL takes it as {}; say ${wanted}::jsonb, ::text or ::bytea, and cast from there",
            info.name()
        )),
        _ => Ok(()),
    }
}

/// How the bytes of a value become a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueForm {
    /// As they are: text, JSON, bytes.
    Plain,
    /// Behind the number of jsonb's format.
    Jsonb,
}

impl ValueForm {
    fn of(info: &PgTypeInfo) -> Option<Self> {
        if let PgTypeKind::Domain(base) = info.kind() {
            return Self::of(base);
        }
        match info.oid() {
            Some(Oid(17 | 19 | 25 | 114 | 1042 | 1043)) => Some(Self::Plain),
            Some(Oid(3802)) => Some(Self::Jsonb),
            _ if info.name().eq_ignore_ascii_case("citext") => Some(Self::Plain),
            _ => None,
        }
    }
}

fn bind_value(info: &PgTypeInfo, value: &[u8]) -> Result<Bound, String> {
    /// See `jsonb_send` in PostgreSQL's source.
    const JSONB_FORMAT: u8 = 1;

    let mut bytes = Vec::with_capacity(value.len() + 1);
    match ValueForm::of(info) {
        None => return Err(format!("a value cannot be bound as {}", info.name())),
        Some(ValueForm::Plain) => {}
        Some(ValueForm::Jsonb) => bytes.push(JSONB_FORMAT),
    }
    bytes.extend_from_slice(value);
    Ok(Bound::new(info.clone(), bytes))
}
