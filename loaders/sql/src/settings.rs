//! What an operator says about a source and a loader, and what can be wrong with it.
//!
//! Plain values: reading them from a file, and naming file and line in an error, is the binary's work.

use leasehold_loader_api::BreakerSettings;
use std::fmt;
use std::time::Duration;

/// One database.
///
/// `Debug` prints no URL, because it may hold a password.
#[derive(Clone)]
pub struct SourceSettings {
    /// The name that loaders call it by.
    pub name: String,
    /// `postgres://…`, `postgresql://…`, `mysql://…`, `mariadb://…` or `sqlite:…`. A SQLite file is opened read-only; one with a write-ahead log still needs a
    /// directory that can be written, or `?immutable=1`.
    pub url: String,
    /// URLs of replicas, which loads are asked of where they have all that the primary, at `url`, had when the load began. PostgreSQL,
    /// MySQL and MariaDB.
    pub replicas: Vec<String>,
    /// Longest wait for a replica that is behind; then the primary is asked.
    pub replica_wait: Duration,
    /// Most connections open at once to each server; at least 1.
    pub max_connections: u32,
    /// Longest wait for a free connection, connecting included. Then the load fails as unavailable.
    pub acquire_timeout: Duration,
    /// Longest run of one statement; the database itself ends it.
    pub statement_timeout: Duration,
    /// SQL script that creates a SQLite database when its file does not exist yet. Run once, all or nothing.
    pub create_with: Option<String>,
    /// When all loaders together stop asking it. Heeded by the server, not here.
    pub breaker: BreakerSettings,
}

impl SourceSettings {
    /// Settings with the defaults: 16 connections, 1 s for a connection, 2 s for a statement.
    #[must_use]
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            replicas: Vec::new(),
            replica_wait: Duration::from_millis(50),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(1),
            statement_timeout: Duration::from_secs(2),
            create_with: None,
            breaker: BreakerSettings::default(),
        }
    }
}

impl fmt::Debug for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceSettings")
            .field("name", &self.name)
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// One loader: which keys, which query, what becomes the value.
#[derive(Clone, Debug)]
pub struct LoaderSettings {
    /// Its name in errors and statistics.
    pub name: String,
    /// The keys it loads, such as `user:{id:int}`; see [`crate::Template`].
    pub pattern: String,
    /// The query for one key. `$1` … `$n` are the placeholders of the pattern, in order; on MySQL, `?` may stand for each in turn.
    pub sql: String,
    /// The query for many keys. `$1` … `$n` are arrays, one per placeholder: PostgreSQL arrays (`id = ANY($1)`), on MySQL lists
    /// (`id IN ($1)`, `(org, id) IN (($1, $2))`), on SQLite JSON arrays (`id IN (SELECT value FROM json_each($1))`). It selects the same columns as `sql`, in the same order.
    pub batch_sql: Option<String>,
    /// The columns that hold the key's values, one per placeholder, in order; in both queries. By default the columns
    /// named like the placeholders.
    pub batch_key: Option<Vec<String>>,
    /// Most keys in one batch query; at least 1.
    pub batch_max: usize,
    /// What becomes the value.
    pub value: ValueFormat,
    /// How many rows a key has.
    pub rows: RowsPerKey,
    /// Most rows of a key that may have many.
    pub rows_max: usize,
    /// Column with the version of the row: an integer, or a time with a zone: PostgreSQL's `timestamptz`, MySQL's `TIMESTAMP` (microseconds
    /// since 1970).
    pub version_column: Option<String>,
    /// Tags of each value: texts with columns in braces, `org:{org_id}`.
    pub tags: Vec<String>,
    /// Largest value, and largest row, in bytes; a list of rows is a value.
    pub row_bytes_max: usize,
    /// Columns of text that hold JSON and go into the value as they are; a text that is none fails its row.
    pub json_columns: Vec<String>,
    /// How integers that a double cannot hold are written in JSON.
    pub big_numbers: BigNumbers,
    /// The statement that writes a value. `$1` … `$n` are the placeholders of the pattern, and the next is the value as the
    /// client sent it: text, JSON or bytes, as the statement takes it.
    pub upsert_sql: Option<String>,
    /// The statement that deletes a row; its parameters are the placeholders.
    pub delete_sql: Option<String>,
    /// Whether writes come from a journal, whose position the source keeps in [`crate::POSITION_TABLE`].
    pub journaled: bool,
}

impl LoaderSettings {
    /// Settings with the defaults: no batch query, JSON, no version, rows up to 16 MiB.
    #[must_use]
    pub fn new(name: impl Into<String>, pattern: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            pattern: pattern.into(),
            sql: sql.into(),
            batch_sql: None,
            batch_key: None,
            batch_max: 500,
            value: ValueFormat::Json,
            rows: RowsPerKey::One,
            rows_max: 1000,
            version_column: None,
            tags: Vec::new(),
            row_bytes_max: 16 * 1024 * 1024,
            json_columns: Vec::new(),
            big_numbers: BigNumbers::Number,
            upsert_sql: None,
            delete_sql: None,
            journaled: false,
        }
    }
}

/// What becomes the value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueFormat {
    /// One JSON object of all columns, in the order of the query.
    Json,
    /// The same as a MessagePack map.
    MsgPack,
    /// The bytes of the one column that is neither key nor version. NULL there counts as no row.
    Column,
}

/// How many rows a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsPerKey {
    /// One; a second one is an error.
    One,
    /// Any number: the value is the list of them, and a key without rows is absent.
    Many,
}

/// How JSON holds integers beyond ±2^53, which many readers of JSON round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BigNumbers {
    /// As numbers, like all other integers.
    Number,
    /// As strings of digits.
    String,
}

/// Which part of the configuration a problem is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSubject {
    /// The source of this name.
    Source(String),
    /// The loader of this name.
    Loader(String),
    /// The feed of this name.
    Feed(String),
}

/// What is wrong with one option of one source, loader or feed. The binary adds file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The source, loader or feed.
    pub subject: ConfigSubject,
    /// The option as it is called in the settings: `url`, `pattern`, `sql`, `batch_sql`, `batch_key`, `version_column` …
    pub option: &'static str,
    /// What is wrong and what would be right. Holds no secrets.
    pub reason: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.subject {
            ConfigSubject::Source(name) => ("source", name),
            ConfigSubject::Loader(name) => ("loader", name),
            ConfigSubject::Feed(name) => ("feed", name),
        };
        write!(f, "{kind} {name}: {}: {}", self.option, self.reason)
    }
}

impl std::error::Error for ConfigProblem {}
