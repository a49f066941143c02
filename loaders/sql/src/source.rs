//! One database with its pool of connections.

use crate::settings::{ConfigProblem, ConfigSubject, SourceSettings};

/// One database with its pool. Cheap to clone; all clones share the pool.
#[derive(Clone, Debug)]
pub struct Source {
    settings: SourceSettings,
}

impl Source {
    /// Opens a source on the current tokio runtime. Connections are made when they are needed: a database that is down is no error.
    ///
    /// # Errors
    /// The URL cannot be used, or the SQLite database could not be created.
    pub async fn open(settings: SourceSettings) -> Result<Self, ConfigProblem> {
        if settings.url.is_empty() {
            return Err(ConfigProblem {
                subject: ConfigSubject::Source(settings.name),
                option: "url",
                reason: "is empty".into(),
            });
        }
        Ok(Self { settings })
    }

    /// The name that loaders call it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Contacts the database now and says what is wrong.
    ///
    /// # Errors
    /// The database does not answer; the text says why.
    pub async fn check(&self) -> Result<(), String> {
        Err("not connected".into())
    }

    /// Whether the database answered when it was last needed.
    ///
    /// # Errors
    /// It did not; the text says why.
    pub fn health(&self) -> Result<(), String> {
        Err("not connected".into())
    }

    /// Closes all connections, waiting for the loads that use them.
    pub async fn close(&self) {}
}
