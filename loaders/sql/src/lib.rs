//! SQL loaders: keys of a pattern are read through from PostgreSQL, MySQL, MariaDB and SQLite.
//!
//! [`Source`] is one database with its pool; [`build_loader`] makes a [`SqlLoader`] from a pattern and a query and checks both
//! against the database. Pools are created inside, and used on, the loader runtime, which the binary owns: a socket belongs to
//! the runtime that opened it.
//!
//! ```text
//! SqlLoader (loader) → Engine (engine): check, query, retry, split
//!                        ├ Template (template, overlap): key ↔ values
//!                        ├ Dialect (postgres, mysql, sqlite): bind parameters, read columns, name faults
//!                        ├ Columns (columns, json): row → key, version, value
//!                        ├ pool: connections, health
//!                        └ Replicas (replica): those that have all that the primary has
//!           → Writer (writer): one transaction of upserts and deletes
//! Journal, Letters (journal) → writes that are answered before their source has them
//! check_feed, run_feed (feed) → Notice …: what has changed in the database, told to whoever must know
//! ```

#![forbid(unsafe_code)]

mod columns;
mod dialect;
mod engine;
mod feed;
mod journal;
mod json;
mod loader;
mod msgpack;
mod mysql;
mod overlap;
mod pool;
mod position;
mod postgres;
mod replica;
mod rows;
mod settings;
mod source;
mod sqlite;
mod tags;
mod template;
mod writer;

pub use feed::outbox_sql::{OutboxDatabase, outbox_sql, publication_sql};
pub use feed::{FeedColumn, FeedSettings, NOTICES_MAX, Via, check_feed, run_feed};
pub use journal::{AppendError, DeadLetter, Fsync, Journal, JournalChange, JournalError, JournalSettings, Letters};
pub use loader::{BATCH_MAX, ROW_BYTES_MAX, ROWS_MAX, SqlCounters, SqlLoader, build_loader};
pub use overlap::overlaps;
pub use position::{POSITION_TABLE, position_sql};
pub use settings::{BigNumbers, ConfigProblem, ConfigSubject, LoaderSettings, RowsPerKey, SourceSettings, ValueFormat};
pub use source::Source;
pub use template::{
    PATTERN_BYTES_MAX, PLACEHOLDERS_MAX, Placeholder, PlaceholderKind, TEXT_BYTES_MAX, Template, Values,
};
