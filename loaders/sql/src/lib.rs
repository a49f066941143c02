//! SQL loaders: keys of a pattern are read through from PostgreSQL and SQLite.
//!
//! [`Source`] is one database with its pool; [`build_loader`] makes a [`SqlLoader`] from a pattern and a query and checks both
//! against the database. Pools are created inside, and used on, the loader runtime, which the binary owns: a socket belongs to
//! the runtime that opened it.

#![forbid(unsafe_code)]

mod loader;
mod settings;
mod source;

pub use loader::{SqlLoader, build_loader};
pub use settings::{BigNumbers, ConfigProblem, ConfigSubject, LoaderSettings, SourceSettings, ValueFormat};
pub use source::Source;
