//! What differs between kinds of databases. The engine is generic over it, so that each kind runs on its own sqlx pool with its
//! own types, and nothing is reduced to what all kinds share.

use crate::columns::{Columns, Fields, Problem};
use crate::settings::LoaderSettings;
use crate::template::{Placeholder, Template, Values};
use futures_core::stream::BoxStream;
use sqlx::Either;
use sqlx::database::{Database, HasStatementCache};
use sqlx::error::DatabaseError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Connection<D> = <<D as Dialect>::Database as Database>::Connection;
pub(crate) type Arguments<D> = <<D as Dialect>::Database as Database>::Arguments;
pub(crate) type Completion<D> = <<D as Dialect>::Database as Database>::QueryResult;
pub(crate) type DatabaseRow<D> = <<D as Dialect>::Database as Database>::Row;
/// Rows as they come, then the completion of the statement.
pub(crate) type Rows<'c, D> = BoxStream<'c, Result<Either<Completion<D>, DatabaseRow<D>>, sqlx::Error>>;

/// Which of a loader's two queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Single,
    Batch,
    /// Lists keys: no parameters, and a column for each placeholder.
    List,
}

impl Role {
    /// The option that the query stands in.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Single => "sql",
            Self::Batch => "batch_sql",
            Self::List => "the query",
        }
    }
}

/// A query as the operator wrote it.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) role: Role,
    pub(crate) sql: &'a Arc<str>,
    pub(crate) settings: &'a LoaderSettings,
    pub(crate) template: &'a Template,
}

impl Query<'_> {
    /// What its parameters are.
    pub(crate) fn parameters(&self) -> &[Placeholder] {
        match self.role {
            Role::Single | Role::Batch => self.template.placeholders(),
            Role::List => &[],
        }
    }

    /// What its columns mean.
    pub(crate) fn columns(&self, names: Vec<String>) -> Result<Columns, Problem> {
        match self.role {
            Role::Single | Role::Batch => Columns::resolve(names, self.role.option(), self.settings, self.template),
            Role::List => Columns::of_list(names, self.template),
        }
    }

    /// A problem with the query itself.
    pub(crate) fn problem(&self, reason: impl Into<String>) -> Problem {
        Problem { option: self.role.option(), reason: reason.into() }
    }
}

/// Why a query brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is gone or unusable. Another one may work.
    Broken(String),
    /// The connection's prepared statement no longer fits the schema. Preparing it again may work.
    Stale(String),
    /// The database ended the statement because of its time limit.
    Timeout,
    /// The database cannot serve this now.
    Unavailable(String),
    /// The database serves others, and not this now: a lock, a conflict; for writes a full disk.
    NotNow(String),
    /// The database refuses the query itself: schema, permissions, a write where only reads are allowed.
    Refused(String),
    /// The database refuses it for the values given or met; other keys may do.
    BadValue(String),
}

/// Whether a statement fits the rows that come.
pub(crate) enum Refit<S> {
    Same,
    /// This one does.
    To(S),
    /// The database must be asked about the new columns first.
    Recheck,
}

/// Why a query could not be checked.
pub(crate) enum CheckError {
    /// It is wrong.
    Wrong(Problem),
    /// The database did not answer.
    Failed(sqlx::Error),
}

impl From<Problem> for CheckError {
    fn from(problem: Problem) -> Self {
        Self::Wrong(problem)
    }
}

/// One kind of database.
pub(crate) trait Dialect: Sized + Send + Sync + 'static {
    type Database: Database + HasStatementCache;
    /// A checked query: how to bind its parameters and read its columns.
    type Statement: Send + Sync + 'static;

    /// Prepares the query and checks that its parameters and columns fit the loader.
    fn check(
        connection: &mut Connection<Self>,
        query: Query<'_>,
    ) -> impl Future<Output = Result<Self::Statement, CheckError>> + Send;

    /// What the columns of a row, which may have changed since the check, ask for.
    fn refit(
        statement: &Self::Statement,
        row: &DatabaseRow<Self>,
        query: Query<'_>,
    ) -> Result<Refit<Self::Statement>, Problem>;

    fn columns(statement: &Self::Statement) -> &Columns;

    /// Whether the values can be asked for at all; if not, no row has them.
    fn can_ask(statement: &Self::Statement, values: &Values<'_>) -> bool;

    /// Binds the values of one key, or of many for a batch query.
    fn bind(statement: &Self::Statement, role: Role, keys: &[Values<'_>]) -> Result<Arguments<Self>, String>;

    /// Bound parameters as text, for people.
    fn explain(statement: &Self::Statement, values: &Values<'_>) -> Vec<String>;

    /// Readies the connection for the statement, and limits its time where that is not done once when connecting.
    fn begin(
        connection: &mut Connection<Self>,
        statement: &Self::Statement,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Undoes what `begin` did. After an error the connection is not used again.
    fn end(
        connection: &mut Connection<Self>,
        statement: &Self::Statement,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Runs the statement: its rows, then its completion.
    fn rows<'c>(
        connection: &'c mut Connection<Self>,
        statement: &Self::Statement,
        arguments: Arguments<Self>,
    ) -> Rows<'c, Self>;

    fn fields<'r>(statement: &'r Self::Statement, row: &'r DatabaseRow<Self>) -> impl Fields + 'r;

    /// How far the server, a primary, is: all that is committed now is at or before it. Asked only where there are replicas.
    fn position(connection: &mut Connection<Self>) -> impl Future<Output = Result<String, sqlx::Error>> + Send {
        let _ = connection;
        std::future::ready(Err(no_replicas()))
    }

    /// Whether the server, a replica, comes so far within `patience`: then what is read on the connection has it all.
    fn reaches(
        connection: &mut Connection<Self>,
        position: &str,
        patience: Duration,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        let _ = (connection, position, patience);
        std::future::ready(Err(no_replicas()))
    }

    /// What an error of the database means for us.
    fn fault(error: &dyn DatabaseError) -> Fault;
}

fn no_replicas() -> sqlx::Error {
    sqlx::Error::Configuration("this kind of database has no replicas".into())
}

/// Why a statement could not be prepared: what the database refuses is a problem of the statement itself.
pub(crate) fn not_prepared<D: Dialect>(error: sqlx::Error, problem: impl FnOnce(String) -> Problem) -> CheckError {
    let said = match &error {
        sqlx::Error::Database(said) => D::fault(said.as_ref()),
        _ => return CheckError::Failed(error),
    };
    match said {
        // Nothing that is prepared now is stale.
        Fault::Refused(reason) | Fault::BadValue(reason) | Fault::Stale(reason) => problem(reason).into(),
        _ => CheckError::Failed(error),
    }
}

/// What an error of sqlx means for us.
pub(crate) fn fault<D: Dialect>(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(error) => D::fault(error.as_ref()),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            Fault::Broken(error.to_string())
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Configuration(_) => {
            Fault::Unavailable(error.to_string())
        }
        _ => Fault::Refused(error.to_string()),
    }
}
