//! Connections of a source: taking one, finding out why there is none, and remembering whether the database answers.

use crate::settings::SourceSettings;
use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection, Database, Pool};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one extra connection is tried to learn why the pool has none.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

/// Why the pool has no connection is asked at most this often.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What all loaders of a source share beside its pool.
pub(crate) struct SourceState {
    pub(crate) settings: SourceSettings,
    /// Texts that no error may show.
    secrets: Vec<String>,
    /// Set while `failure` holds something; spares the lock on the way of a good load.
    is_failing: AtomicBool,
    failure: Mutex<Option<(String, Instant)>>,
}

impl SourceState {
    pub(crate) fn new(settings: SourceSettings, secrets: Vec<String>) -> Self {
        Self { settings, secrets, is_failing: AtomicBool::new(false), failure: Mutex::new(None) }
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((reason, _)) => Err(reason.clone()),
        }
    }

    /// The database answered.
    pub(crate) fn answered(&self) {
        // Relaxed: a load that misses the flag leaves it to the next one.
        if self.is_failing.load(Ordering::Relaxed) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if failure.take().is_some() {
                tracing::info!(source = self.settings.name, "the source answers again");
            }
            self.is_failing.store(false, Ordering::Relaxed);
        }
    }

    /// The database did not answer.
    pub(crate) fn failed(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::warn!(source = self.settings.name, reason, "the source does not answer");
        }
        *failure = Some((reason.to_owned(), Instant::now()));
        self.is_failing.store(true, Ordering::Relaxed);
    }

    /// An error as text, without secrets.
    pub(crate) fn redacted(&self, error: &sqlx::Error) -> String {
        crate::mysql::connect::advice(error).map_or_else(|| self.hidden(&error.to_string()), str::to_owned)
    }

    /// A text without secrets.
    pub(crate) fn hidden(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        text
    }

    fn recent_failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let (reason, at) = failure.as_ref()?;
        (at.elapsed() < PROBE_EVERY).then(|| reason.clone())
    }
}

/// Takes a connection; it may have died while it was idle.
///
/// # Errors
/// None came free in time, or the database does not answer; the text says which.
pub(crate) async fn acquire<DB: Database>(pool: &Pool<DB>, state: &SourceState) -> Result<PoolConnection<DB>, String> {
    match pool.acquire().await {
        Ok(connection) => Ok(connection),
        Err(sqlx::Error::PoolTimedOut) => Err(why_none(pool, state).await),
        Err(sqlx::Error::PoolClosed) => Err("the source is closed".into()),
        Err(error) => {
            let reason = state.redacted(&error);
            state.failed(&reason);
            Err(reason)
        }
    }
}

/// Takes a connection that answers now, throwing away those that do not: after a restart of the server every idle connection
/// is dead.
///
/// # Errors
/// As [`acquire`].
pub(crate) async fn acquire_live<DB: Database>(
    pool: &Pool<DB>,
    state: &SourceState,
) -> Result<PoolConnection<DB>, String> {
    for _ in 0..=state.settings.max_connections {
        let mut connection = acquire(pool, state).await?;
        match tokio::time::timeout(state.settings.acquire_timeout, connection.ping()).await {
            Ok(Ok(())) => return Ok(connection),
            Ok(Err(_)) | Err(_) => connection.close_on_drop(),
        }
    }
    let reason = "every connection was lost".to_owned();
    state.failed(&reason);
    Err(reason)
}

/// The pool does not say why it ran out of time: all connections may be in use, or the database may be away.
async fn why_none<DB: Database>(pool: &Pool<DB>, state: &SourceState) -> String {
    if let Some(reason) = state.recent_failure() {
        return reason;
    }
    let waited_ms = state.settings.acquire_timeout.as_millis();
    let options = pool.connect_options();
    let reason = match tokio::time::timeout(PROBE_TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => {
            // It answers; nothing is done with this connection.
            let _ = connection.close().await;
            return format!("all {} connections were in use for {waited_ms} ms", state.settings.max_connections);
        }
        Ok(Err(error)) => state.redacted(&error),
        Err(_) => format!("no connection within {waited_ms} ms"),
    };
    state.failed(&reason);
    reason
}
