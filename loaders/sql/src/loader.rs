//! A loader: its keys, its queries, and how a load runs.

use crate::columns::Problem;
use crate::engine::{Counters, Engine};
use crate::mysql::MySqlDialect;
use crate::postgres::PostgresDialect;
use crate::settings::{ConfigProblem, ConfigSubject, LoaderSettings, RowsPerKey, ValueFormat};
use crate::source::{AnyPool, Source};
use crate::sqlite::SqliteDialect;
use crate::template::{PLACEHOLDERS_MAX, Template};
use crate::writer::Writer;
use bytes::Bytes;
use leasehold_loader_api::{
    Change, KeyList, LoadError, LoadRequest, Loaded, Loader, Step, Stepped, WriteError, Writes,
};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

/// Most keys in one batch query.
pub const BATCH_MAX: usize = 10_000;

/// Most rows that a key may have.
pub const ROWS_MAX: usize = 100_000;

/// Largest limit for a row, in bytes: what PostgreSQL can send.
pub const ROW_BYTES_MAX: usize = 1 << 30;

/// Loads the rows of one pattern from one source.
pub struct SqlLoader {
    name: String,
    source: String,
    sql: String,
    batch_sql: Option<String>,
    batch_max: usize,
    /// The runtime that owns the pool. Loads run there as tasks of their own, whoever waits for them.
    runtime: Handle,
    engine: AnyEngine,
    /// If it writes.
    writer: Option<AnyWriter>,
}

#[derive(Clone)]
enum AnyEngine {
    Postgres(Arc<Engine<PostgresDialect>>),
    MySql(Arc<Engine<MySqlDialect>>),
    Sqlite(Arc<Engine<SqliteDialect>>),
}

#[derive(Clone)]
enum AnyWriter {
    Postgres(Arc<Writer<PostgresDialect>>),
    MySql(Arc<Writer<MySqlDialect>>),
    Sqlite(Arc<Writer<SqliteDialect>>),
}

/// What happened beside plain success, counted since the loader was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlCounters {
    /// Rows that came back for another key than was asked for, by the database's own idea of equality. They were ignored.
    pub alias_rows: u64,
    /// Queries tried again: a connection was lost, or the schema had changed.
    pub retries: u64,
    /// Batches that were split because the database refused a value in them.
    pub split_batches: u64,
    /// Queries that a replica has answered.
    pub replica_queries: u64,
}

/// Builds a loader and checks its queries against the database. If the database is down, the loader starts degraded and is
/// checked at the first contact. Must be called on the runtime on which the source was opened.
///
/// # Errors
/// The pattern, a query or a limit is wrong; the problem names the option.
pub async fn build_loader(source: &Source, settings: LoaderSettings) -> Result<SqlLoader, ConfigProblem> {
    let name = settings.name.clone();
    build(source, settings).await.map_err(|Problem { option, reason }| ConfigProblem {
        subject: ConfigSubject::Loader(name),
        option,
        reason,
    })
}

async fn build(source: &Source, settings: LoaderSettings) -> Result<SqlLoader, Problem> {
    let template = Template::parse(&settings.pattern).map_err(|reason| Problem { option: "pattern", reason })?;
    check_settings(&settings, &template)?;
    let name = settings.name.clone();
    let sql = settings.sql.clone();
    let batch_sql = settings.batch_sql.clone();
    let batch_max = if batch_sql.is_some() { settings.batch_max } else { 1 };
    let state = source.state.clone();
    let writer = build_writer(source, &settings, &template).await?;
    let engine = match &source.pool {
        AnyPool::Postgres(pool) => {
            let replicas = source.replicas.postgres.clone();
            AnyEngine::Postgres(Arc::new(Engine::start(pool.clone(), state, replicas, settings, template).await?))
        }
        AnyPool::MySql(pool) => {
            let replicas = source.replicas.mysql.clone();
            AnyEngine::MySql(Arc::new(Engine::start(pool.clone(), state, replicas, settings, template).await?))
        }
        AnyPool::Sqlite(pools) => {
            AnyEngine::Sqlite(Arc::new(Engine::start(pools.reads.clone(), state, None, settings, template).await?))
        }
    };
    Ok(SqlLoader {
        name,
        source: source.name().to_owned(),
        sql,
        batch_sql,
        batch_max,
        runtime: Handle::current(),
        engine,
        writer,
    })
}

async fn build_writer(
    source: &Source,
    settings: &LoaderSettings,
    template: &Template,
) -> Result<Option<AnyWriter>, Problem> {
    let (upsert, delete) = (settings.upsert_sql.as_deref(), settings.delete_sql.as_deref());
    if upsert.or(delete).is_none() {
        return Ok(None);
    }
    let (state, template) = (source.state.clone(), template.clone());
    Ok(Some(match &source.pool {
        AnyPool::Postgres(pool) => {
            AnyWriter::Postgres(Arc::new(Writer::start(pool.clone(), state, template, settings).await?))
        }
        AnyPool::MySql(pool) => {
            AnyWriter::MySql(Arc::new(Writer::start(pool.clone(), state, template, settings).await?))
        }
        AnyPool::Sqlite(pools) => {
            let pool = pools.writes(&state.settings);
            AnyWriter::Sqlite(Arc::new(Writer::start(pool, state, template, settings).await?))
        }
    }))
}

fn check_settings(settings: &LoaderSettings, template: &Template) -> Result<(), Problem> {
    let problem = |option, reason: String| Err(Problem { option, reason });
    let count = template.placeholders().len();
    for (option, sql) in [
        ("sql", Some(&settings.sql)),
        ("batch_sql", settings.batch_sql.as_ref()),
        ("upsert_sql", settings.upsert_sql.as_ref()),
        ("delete_sql", settings.delete_sql.as_ref()),
    ] {
        if sql.is_some_and(|sql| sql.trim().is_empty()) {
            return problem(option, "is empty".into());
        }
        if sql.is_some_and(|sql| sql.contains('\0')) {
            return problem(option, "holds a NUL".into());
        }
    }
    if settings.batch_sql.is_some() && count == 0 {
        return problem("batch_sql", "the pattern has no placeholders, so there is only one key to load".into());
    }
    if !(1..=BATCH_MAX).contains(&settings.batch_max) {
        return problem("batch_max", format!("must be from 1 to {BATCH_MAX}"));
    }
    if settings.rows == RowsPerKey::Many {
        if settings.value == ValueFormat::Column {
            return problem(
                "rows",
                "many rows are a list of objects; they need value = \"json\" or \"msgpack\"".into(),
            );
        }
        if settings.version_column.is_some() {
            let reason = "many rows have no version: when one of them goes, no column grows".into();
            return problem("version_column", reason);
        }
        if !(1..=ROWS_MAX).contains(&settings.rows_max) {
            return problem("rows_max", format!("must be from 1 to {ROWS_MAX}"));
        }
    }
    if !(1..=ROW_BYTES_MAX).contains(&settings.row_bytes_max) {
        return problem("row_bytes_max", format!("must be from 1 to {ROW_BYTES_MAX}"));
    }
    crate::tags::check(&settings.tags)?;
    if let Some(columns) = &settings.batch_key
        && columns.len() != count
    {
        let reason =
            format!("names {} columns, but the pattern has {count} placeholders; one column each", columns.len());
        return problem("batch_key", reason);
    }
    Ok(())
}

impl SqlLoader {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pattern of its keys.
    #[must_use]
    pub fn template(&self) -> &Template {
        match &self.engine {
            AnyEngine::Postgres(engine) => engine.template(),
            AnyEngine::MySql(engine) => engine.template(),
            AnyEngine::Sqlite(engine) => engine.template(),
        }
    }

    /// What happened beside plain success.
    #[must_use]
    pub fn counters(&self) -> SqlCounters {
        let Counters { alias_rows, retries, split_batches, replica_queries } = match &self.engine {
            AnyEngine::Postgres(engine) => &engine.counters,
            AnyEngine::MySql(engine) => &engine.counters,
            AnyEngine::Sqlite(engine) => &engine.counters,
        };
        SqlCounters {
            alias_rows: alias_rows.load(Ordering::Relaxed),
            retries: retries.load(Ordering::Relaxed),
            split_batches: split_batches.load(Ordering::Relaxed),
            replica_queries: replica_queries.load(Ordering::Relaxed),
        }
    }
}

impl SqlLoader {
    /// Runs a write as a task of its own, as for a load: what was begun comes to its end.
    fn written<T: Send + 'static>(
        &self,
        write: impl Future<Output = Result<T, WriteError>> + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<T, WriteError>> + Send + '_>> {
        let task = self.runtime.spawn(write);
        Box::pin(async move {
            match task.await {
                Ok(written) => written,
                Err(error) => {
                    tracing::error!(loader = self.name, %error, "a write did not end");
                    Err(WriteError::Unknown(
                        "the write ended by an internal error, or the runtime is shutting down".into(),
                    ))
                }
            }
        })
    }
}

impl fmt::Debug for SqlLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlLoader").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

impl AnyEngine {
    async fn load(&self, keys: &[Bytes]) -> Vec<Loaded> {
        match self {
            Self::Postgres(engine) => engine.load(keys).await,
            Self::MySql(engine) => engine.load(keys).await,
            Self::Sqlite(engine) => engine.load(keys).await,
        }
    }

    async fn list(&self, sql: &str, list: KeyList) -> Result<KeyList, LoadError> {
        match self {
            Self::Postgres(engine) => engine.list(sql, list).await,
            Self::MySql(engine) => engine.list(sql, list).await,
            Self::Sqlite(engine) => engine.list(sql, list).await,
        }
    }
}

impl AnyWriter {
    fn writes(&self) -> Writes {
        match self {
            Self::Postgres(writer) => writer.writes(),
            Self::MySql(writer) => writer.writes(),
            Self::Sqlite(writer) => writer.writes(),
        }
    }

    async fn write(&self, changes: &[Change]) -> Result<Vec<u64>, WriteError> {
        match self {
            Self::Postgres(writer) => writer.write(changes).await,
            Self::MySql(writer) => writer.write(changes).await,
            Self::Sqlite(writer) => writer.write(changes).await,
        }
    }

    async fn write_step(&self, changes: &[Change], step: &Step) -> Result<Stepped, WriteError> {
        match self {
            Self::Postgres(writer) => writer.write_step(changes, step).await,
            Self::MySql(writer) => writer.write_step(changes, step).await,
            Self::Sqlite(writer) => writer.write_step(changes, step).await,
        }
    }

    async fn position(&self, journal: &str) -> Result<u64, WriteError> {
        match self {
            Self::Postgres(writer) => writer.position(journal).await,
            Self::MySql(writer) => writer.position(journal).await,
            Self::Sqlite(writer) => writer.position(journal).await,
        }
    }
}

impl Loader for SqlLoader {
    fn matches(&self, key: &[u8]) -> bool {
        self.template().matches(key)
    }

    fn load(&self, request: LoadRequest) -> Pin<Box<dyn Future<Output = Vec<Loaded>> + Send + '_>> {
        let count = request.keys.len();
        let engine = self.engine.clone();
        // A task of its own: a caller that goes away must not leave a query running on a connection that looks free.
        let task = self.runtime.spawn(async move { engine.load(&request.keys).await });
        Box::pin(async move {
            match task.await {
                Ok(loaded) => loaded,
                // The runtime is going down, or a load panicked, which is a bug of ours and told as such.
                Err(error) => {
                    let failed = if error.is_cancelled() {
                        LoadError::Unavailable("the loader runtime is shutting down".into())
                    } else {
                        tracing::error!(loader = self.name, %error, "a load panicked");
                        LoadError::Rejected("the load failed by an internal error".into())
                    };
                    vec![Err(failed); count]
                }
            }
        })
    }

    fn list_keys(
        &self,
        sql: String,
        list: KeyList,
    ) -> Pin<Box<dyn Future<Output = Result<KeyList, LoadError>> + Send + '_>> {
        let engine = self.engine.clone();
        // A task of its own, as for a load.
        let task = self.runtime.spawn(async move { engine.list(&sql, list).await });
        Box::pin(async move {
            task.await.unwrap_or_else(|error| {
                tracing::error!(loader = self.name, %error, "a list of keys did not end");
                Err(LoadError::Unavailable("the query was given up".into()))
            })
        })
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }

    fn explain(&self, key: &[u8]) -> Vec<(&'static str, String)> {
        const PARAMETERS: [&str; PLACEHOLDERS_MAX] =
            ["param 1", "param 2", "param 3", "param 4", "param 5", "param 6", "param 7", "param 8"];
        let mut lines = vec![("sql", self.sql.clone())];
        if let Some(values) = self.template().values(key) {
            let parameters = match &self.engine {
                AnyEngine::Postgres(engine) => engine.explain(&values),
                AnyEngine::MySql(engine) => engine.explain(&values),
                AnyEngine::Sqlite(engine) => engine.explain(&values),
            };
            lines.extend(PARAMETERS.into_iter().zip(parameters));
        }
        if let Some(batch_sql) = &self.batch_sql {
            lines.push(("batch_sql", batch_sql.clone()));
            lines.push(("batch_max", self.batch_max.to_string()));
        }
        lines
    }

    fn health(&self) -> Result<(), String> {
        match &self.engine {
            AnyEngine::Postgres(engine) => engine.health(),
            AnyEngine::MySql(engine) => engine.health(),
            AnyEngine::Sqlite(engine) => engine.health(),
        }
    }

    fn statistics(&self) -> Vec<(&'static str, i64)> {
        let SqlCounters { alias_rows, retries, split_batches, replica_queries } = self.counters();
        let mut fields = vec![
            ("alias_rows", alias_rows as i64),
            ("retries", retries as i64),
            ("split_batches", split_batches as i64),
            ("replica_queries", replica_queries as i64),
        ];
        let of_replicas = match &self.engine {
            AnyEngine::Postgres(engine) => engine.replicas.as_ref().map(|replicas| replicas.counters()),
            AnyEngine::MySql(engine) => engine.replicas.as_ref().map(|replicas| replicas.counters()),
            AnyEngine::Sqlite(_) => None,
        };
        fields.extend(of_replicas.into_iter().flatten());
        fields
    }

    fn writes(&self) -> Writes {
        self.writer.as_ref().map_or(Writes::default(), AnyWriter::writes)
    }

    fn write(&self, changes: Vec<Change>) -> Pin<Box<dyn Future<Output = Result<Vec<u64>, WriteError>> + Send + '_>> {
        let Some(writer) = self.writer.clone() else {
            return Box::pin(std::future::ready(Err(WriteError::Refused("the loader only reads".into()))));
        };
        self.written(async move { writer.write(&changes).await })
    }

    fn write_step(
        &self,
        changes: Vec<Change>,
        step: Step,
    ) -> Pin<Box<dyn Future<Output = Result<Stepped, WriteError>> + Send + '_>> {
        let Some(writer) = self.writer.clone() else {
            return Box::pin(std::future::ready(Err(WriteError::Refused("the loader only reads".into()))));
        };
        self.written(async move { writer.write_step(&changes, &step).await })
    }

    fn position(&self, journal: String) -> Pin<Box<dyn Future<Output = Result<u64, WriteError>> + Send + '_>> {
        let Some(writer) = self.writer.clone() else {
            return Box::pin(std::future::ready(Err(WriteError::Refused("the loader only reads".into()))));
        };
        self.written(async move { writer.position(&journal).await })
    }
}
