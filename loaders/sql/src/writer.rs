//! Writes changes of keys to a database: all of them or none, in one transaction.
//!
//! What is lost before the commit was sent is not written, whatever lost it; only what is lost after that may be either. A
//! connection that was dead already costs one more try, because nothing can have been committed on it.

use crate::columns::Problem;
use crate::dialect::{self, CheckError, Connection, Dialect, Fault};
use crate::engine::GRACE;
use crate::pool::{self, SourceState};
use crate::position::{POSITION_TABLE, PositionDialect};
use crate::settings::LoaderSettings;
use crate::template::{Template, Values};
use leasehold_loader_api::{Change, Step, Stepped, WriteError, Writes};
use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, Pool};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// One of the two statements of a writer.
#[derive(Clone, Debug)]
pub(crate) struct WriteStatement {
    /// The option that it stands in.
    pub(crate) option: &'static str,
    pub(crate) sql: Arc<str>,
    /// Whether the value is its last parameter.
    pub(crate) takes_value: bool,
}

impl WriteStatement {
    pub(crate) fn problem(&self, reason: impl Into<String>) -> Problem {
        Problem { option: self.option, reason: reason.into() }
    }
}

/// A kind of database that can be written to.
pub(crate) trait WriteDialect: Dialect {
    /// Begins a transaction that writes.
    const BEGIN: &'static str;

    /// Prepares the statement and checks that its parameters are those of the pattern, and the value.
    fn check_write(
        connection: &mut Connection<Self>,
        statement: &WriteStatement,
        template: &Template,
    ) -> impl Future<Output = Result<(), CheckError>> + Send;

    /// Whether this answer to a commit says that nothing is committed: a constraint that is checked late, a conflict.
    fn is_undone(error: &dyn DatabaseError) -> bool;

    /// Runs a statement for one key; the number of rows that it changed.
    fn apply(
        connection: &mut Connection<Self>,
        write: Write<'_>,
        timeout: Duration,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// A statement with what is bound to it.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) statement: &'a WriteStatement,
    pub(crate) template: &'a Template,
    pub(crate) values: &'a Values<'a>,
    /// There if the statement takes one.
    pub(crate) value: Option<&'a [u8]>,
}

/// Writes for one loader.
pub(crate) struct Writer<D: PositionDialect> {
    pool: Pool<D::Database>,
    source: Arc<SourceState>,
    template: Template,
    upsert: Option<WriteStatement>,
    delete: Option<WriteStatement>,
    /// Whether the source keeps positions of journals.
    is_journaled: bool,
}

/// What an attempt came to that did not fail.
enum Done {
    /// Committed; rows changed by each change.
    Rows(Vec<u64>),
    /// The position did not fit; nothing is changed.
    NotHere(Stepped),
}

/// How an attempt failed.
enum Failure {
    /// Nothing is committed.
    Before(Fault),
    /// The commit was sent and not answered.
    During(String),
}

impl<D: PositionDialect> Writer<D> {
    /// A writer that has checked its statements, or could not reach the database to do so: then the first write will tell.
    ///
    /// # Errors
    /// A statement is wrong.
    pub(crate) async fn start(
        pool: Pool<D::Database>,
        source: Arc<SourceState>,
        template: Template,
        settings: &LoaderSettings,
    ) -> Result<Self, Problem> {
        let statement = |option, sql: Option<&str>, takes_value| {
            sql.map(|sql| WriteStatement { option, sql: sql.into(), takes_value })
        };
        let writer = Self {
            pool,
            source,
            template,
            upsert: statement("upsert_sql", settings.upsert_sql.as_deref(), true),
            delete: statement("delete_sql", settings.delete_sql.as_deref(), false),
            is_journaled: settings.journaled,
        };
        writer.check().await?;
        Ok(writer)
    }

    pub(crate) fn writes(&self) -> Writes {
        Writes { upserts: self.upsert.is_some(), deletes: self.delete.is_some() }
    }

    /// Writes all changes or none; rows changed by each.
    pub(crate) async fn write(&self, changes: &[Change]) -> Result<Vec<u64>, WriteError> {
        match self.run(changes, None).await? {
            Done::Rows(rows) => Ok(rows),
            Done::NotHere(_) => Err(WriteError::Unavailable("there was no position to compare".into())),
        }
    }

    /// Writes all changes and the position, or nothing.
    pub(crate) async fn write_step(&self, changes: &[Change], step: &Step) -> Result<Stepped, WriteError> {
        Ok(match self.run(changes, Some(step)).await? {
            Done::Rows(_) => Stepped::Now,
            Done::NotHere(stepped) => stepped,
        })
    }

    /// The position of a journal, which is made at 0 if there is none.
    pub(crate) async fn position(&self, journal: &str) -> Result<u64, WriteError> {
        let mut connection = self.acquired(pool::acquire_live(&self.pool, &self.source).await)?;
        let patience = self.source.settings.statement_timeout + GRACE;
        let asked = async {
            if let Some(position) = D::journal_position(&mut connection, journal).await? {
                return Ok(Some(position));
            }
            D::begin_position(&mut connection, journal).await?;
            D::journal_position(&mut connection, journal).await
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(Some(position))) => {
                self.source.answered();
                Ok(position)
            }
            Ok(Ok(None)) => Err(WriteError::Blocked("the position was made and is not there".into())),
            Ok(Err(error)) => {
                connection.close_on_drop();
                let fault = of_positions(dialect::fault::<D>(&error));
                Err(self.ended(fault))
            }
            Err(_) => {
                connection.close_on_drop();
                Err(WriteError::TimedOut(self.source.settings.statement_timeout))
            }
        }
    }

    /// What a fault that no other try mends means for who writes.
    fn ended(&self, fault: Fault) -> WriteError {
        match fault {
            Fault::BadValue(reason) => WriteError::Refused(reason),
            Fault::Refused(reason) | Fault::Stale(reason) | Fault::NotNow(reason) => WriteError::Blocked(reason),
            Fault::Unavailable(reason) => WriteError::Unavailable(reason),
            Fault::Timeout => WriteError::TimedOut(self.source.settings.statement_timeout),
            Fault::Broken(reason) => {
                self.source.failed(&reason);
                WriteError::Unavailable(reason)
            }
        }
    }

    async fn run(&self, changes: &[Change], step: Option<&Step>) -> Result<Done, WriteError> {
        let mut connection = self.acquired(pool::acquire(&self.pool, &self.source).await)?;
        let (mut was_broken, mut was_stale) = (false, false);
        loop {
            let fault = match self.attempt(&mut connection, changes, step).await {
                Ok(done) => {
                    self.source.answered();
                    return Ok(done);
                }
                Err(Failure::During(reason)) => {
                    connection.close_on_drop();
                    return Err(WriteError::Unknown(reason));
                }
                Err(Failure::Before(fault)) => fault,
            };
            match fault {
                Fault::Broken(_) if !was_broken => {
                    was_broken = true;
                    connection.close_on_drop();
                    drop(connection);
                    connection = self.acquired(pool::acquire_live(&self.pool, &self.source).await)?;
                }
                Fault::Stale(_) if !was_stale => {
                    was_stale = true;
                    if let Err(error) = connection.clear_cached_statements().await {
                        connection.close_on_drop();
                        return Err(WriteError::Unavailable(self.source.redacted(&error)));
                    }
                }
                fault => {
                    if matches!(fault, Fault::Broken(_) | Fault::Timeout) {
                        connection.close_on_drop();
                    }
                    return Err(self.ended(fault));
                }
            }
        }
    }

    fn acquired(
        &self,
        connection: Result<PoolConnection<D::Database>, String>,
    ) -> Result<PoolConnection<D::Database>, WriteError> {
        connection.map_err(WriteError::Unavailable)
    }

    async fn attempt(
        &self,
        connection: &mut PoolConnection<D::Database>,
        changes: &[Change],
        step: Option<&Step>,
    ) -> Result<Done, Failure> {
        let timeout = self.source.settings.statement_timeout;
        let patience = timeout + GRACE;
        let failed = |error: sqlx::Error| Failure::Before(dialect::fault::<D>(&error));
        let begun = tokio::time::timeout(patience, connection.begin_with(AssertSqlSafe(D::BEGIN))).await;
        let mut transaction = begun.map_err(|_| Failure::Before(Fault::Timeout))?.map_err(failed)?;
        if let Some(step) = step {
            // The row stays locked until the end: an earlier try that nobody has heard of since is over when this one goes on.
            let moved = tokio::time::timeout(patience, D::advance(&mut transaction, step)).await;
            match moved {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(stepped))) => {
                    return match tokio::time::timeout(patience, transaction.rollback()).await {
                        Ok(Ok(())) => Ok(Done::NotHere(stepped)),
                        Ok(Err(error)) => Err(failed(error)),
                        Err(_) => Err(Failure::Before(Fault::Timeout)),
                    };
                }
                Ok(Err(error)) => return Err(Failure::Before(of_positions(dialect::fault::<D>(&error)))),
                Err(_) => return Err(Failure::Before(Fault::Timeout)),
            }
        }
        let mut rows = Vec::with_capacity(changes.len());
        for change in changes {
            let applied = self.apply(&mut transaction, change, timeout);
            match tokio::time::timeout(patience, applied).await.unwrap_or(Err(Fault::Timeout)) {
                Ok(count) => rows.push(count),
                // Whether it comes through or the connection goes, nothing is committed.
                Err(fault @ (Fault::Timeout | Fault::Broken(_))) => return Err(Failure::Before(fault)),
                Err(fault) => {
                    return match tokio::time::timeout(patience, transaction.rollback()).await {
                        Ok(Ok(())) => Err(Failure::Before(fault)),
                        Ok(Err(error)) => Err(failed(error)),
                        Err(_) => Err(Failure::Before(Fault::Timeout)),
                    };
                }
            }
        }
        match tokio::time::timeout(patience, transaction.commit()).await {
            Ok(Ok(())) => Ok(Done::Rows(rows)),
            Ok(Err(error)) => {
                // A transaction that is still open goes with its connection.
                connection.close_on_drop();
                Err(after_commit::<D>(&error))
            }
            Err(_) => Err(Failure::During(format!("no answer to the commit within {} ms", patience.as_millis()))),
        }
    }

    async fn apply(&self, connection: &mut Connection<D>, change: &Change, timeout: Duration) -> Result<u64, Fault> {
        let Some(values) = self.template.values(&change.key) else {
            return Err(Fault::BadValue("the key does not fit the pattern".into()));
        };
        let (statement, option) = match change.value {
            Some(_) => (&self.upsert, "upsert_sql"),
            None => (&self.delete, "delete_sql"),
        };
        // A change from a journal of another day, when the loader had one.
        let Some(statement) = statement else { return Err(Fault::BadValue(format!("the loader has no {option}"))) };
        let write = Write { statement, template: &self.template, values: &values, value: change.value.as_deref() };
        D::apply(connection, write, timeout).await
    }

    async fn check(&self) -> Result<(), Problem> {
        let Ok(mut connection) = pool::acquire_live(&self.pool, &self.source).await else { return Ok(()) };
        for statement in self.upsert.iter().chain(&self.delete) {
            let timeout = self.source.settings.statement_timeout + GRACE;
            match tokio::time::timeout(timeout, D::check_write(&mut connection, statement, &self.template)).await {
                Ok(Ok(())) => {}
                Ok(Err(CheckError::Wrong(problem))) => return Err(problem),
                Ok(Err(CheckError::Failed(error))) => {
                    connection.close_on_drop();
                    self.source.failed(&self.source.redacted(&error));
                    return Ok(());
                }
                Err(_) => {
                    connection.close_on_drop();
                    return Ok(());
                }
            }
        }
        if self.is_journaled {
            let timeout = self.source.settings.statement_timeout + GRACE;
            if let Ok(Err(error)) = tokio::time::timeout(timeout, D::journal_position(&mut connection, "")).await
                && let Fault::Refused(reason) | Fault::BadValue(reason) = dialect::fault::<D>(&error)
            {
                let reason =
                    format!("the source keeps no positions; run what `leasehold sql journal` prints: {reason}");
                return Err(Problem { option: "write", reason });
            }
        }
        Ok(())
    }
}

/// What a fault of the table of positions means: no change was refused.
fn of_positions(fault: Fault) -> Fault {
    match fault {
        Fault::Refused(reason) | Fault::BadValue(reason) => Fault::Refused(format!("{POSITION_TABLE}: {reason}")),
        fault => fault,
    }
}

/// What an error in answer to the commit means. What the database says about anything but the transaction itself, it may say
/// after it has committed.
fn after_commit<D: WriteDialect>(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(said) if D::is_undone(said.as_ref()) => Failure::Before(D::fault(said.as_ref())),
        _ => Failure::During(error.to_string()),
    }
}
