//! Loads from replicas, as far as they have all that the primary had when the load began.
//!
//! ```text
//! load → how far is the primary? ── so far → a replica that comes as far in time → its rows
//!                                 │        └ none does → the primary
//!                                 ├ it cannot tell → the primary
//!                                 └ it is away → any replica → its rows, marked as perhaps behind
//! ```
//!
//! A replica lags. What it answers may be older than the change that made a key miss, and nothing would tell the cache of that
//! change again. So the primary is asked for its position after the load has begun: whatever was committed before the key was
//! invalidated is at or before it. Loads that begin while one question is under way share the next.

use crate::dialect::{self, Dialect, Fault};
use crate::engine::{Collector, Engine, GRACE};
use crate::pool::{self, SourceState};
use crate::template::Values;
use leasehold_loader_api::Row;
use sqlx::Pool;
use sqlx::pool::PoolConnection;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A replica that failed is left alone for this long. Then one load tries it again.
const REST: Duration = Duration::from_secs(5);

/// A primary that did not tell its position is asked again after this long, behind the back of the loads.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The replicas of a source.
pub(crate) struct Replicas<D: Dialect> {
    primary: Pool<D::Database>,
    state: Arc<SourceState>,
    /// Held by the one that asks the primary.
    latest: tokio::sync::Mutex<Option<Asked>>,
    /// The last answer was none; spares the lock above while the primary is in trouble.
    trouble: Mutex<Option<Trouble>>,
    is_probing: AtomicBool,
    list: Vec<Replica<D>>,
    /// Whose turn it is to be asked first.
    turn: AtomicUsize,
}

/// The answer to a question for the position, and when it was asked.
struct Asked {
    at: Instant,
    position: Arc<str>,
}

#[derive(Clone, Copy)]
struct Trouble {
    progress: NoPosition,
    at: Instant,
}

#[derive(Clone, Copy)]
enum NoPosition {
    /// The primary does not answer.
    Away,
    /// It answers, but not this: no binary log, or a replica itself.
    Untold,
}

/// How far the primary is.
pub(crate) enum Progress {
    At(Arc<str>),
    Away,
    Untold,
}

/// One replica.
pub(crate) struct Replica<D: Dialect> {
    pool: Pool<D::Database>,
    state: Arc<SourceState>,
    /// Set while it rests after a failure.
    rests_until: Mutex<Option<Instant>>,
    behind: AtomicU64,
    failed: AtomicU64,
}

impl<D: Dialect> Replicas<D> {
    pub(crate) fn new(
        primary: Pool<D::Database>,
        state: Arc<SourceState>,
        replicas: impl Iterator<Item = (Pool<D::Database>, Arc<SourceState>)>,
    ) -> Self {
        let replica = |(pool, state)| Replica {
            pool,
            state,
            rests_until: Mutex::new(None),
            behind: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        Self {
            primary,
            state,
            latest: tokio::sync::Mutex::new(None),
            trouble: Mutex::new(None),
            is_probing: AtomicBool::new(false),
            list: replicas.map(replica).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Each replica once, beginning with another one each time.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = &Replica<D>> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.list.len().max(1);
        let (before, after) = self.list.split_at(first);
        after.iter().chain(before)
    }

    /// Until when a replica is waited for that has not come as far as the primary.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.state.settings.replica_wait
    }

    /// How far the primary is, asked no earlier than now.
    pub(crate) async fn progress(self: &Arc<Self>) -> Progress {
        let wanted_at = Instant::now();
        if let Some(progress) = self.known_trouble() {
            return progress;
        }
        let mut latest = self.latest.lock().await;
        match &*latest {
            Some(asked) if asked.at >= wanted_at => return Progress::At(Arc::clone(&asked.position)),
            _ => {}
        }
        // Somebody else has found out while this load waited.
        if let Some(progress) = self.known_trouble() {
            return progress;
        }
        let at = Instant::now();
        match self.ask().await {
            Ok(position) => {
                *latest = Some(Asked { at, position: Arc::clone(&position) });
                Progress::At(position)
            }
            Err(progress) => self.note_trouble(progress),
        }
    }

    fn known_trouble(self: &Arc<Self>) -> Option<Progress> {
        let trouble = (*self.trouble.lock().unwrap_or_else(PoisonError::into_inner))?;
        if trouble.at.elapsed() >= ASK_AGAIN_AFTER && !self.is_probing.swap(true, Ordering::Relaxed) {
            let replicas = Arc::clone(self);
            tokio::spawn(async move {
                match replicas.ask().await {
                    Ok(_) => *replicas.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None,
                    Err(progress) => drop(replicas.note_trouble(progress)),
                }
                replicas.is_probing.store(false, Ordering::Relaxed);
            });
        }
        Some(trouble.progress.into())
    }

    fn note_trouble(&self, progress: NoPosition) -> Progress {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(Trouble { progress, at: Instant::now() });
        progress.into()
    }

    async fn ask(&self) -> Result<Arc<str>, NoPosition> {
        // A connection that died while it was idle says nothing about the primary.
        for is_first in [true, false] {
            let acquired = if is_first {
                pool::acquire(&self.primary, &self.state).await
            } else {
                pool::acquire_live(&self.primary, &self.state).await
            };
            let Ok(mut connection) = acquired else { return Err(NoPosition::Away) };
            let patience = self.state.settings.acquire_timeout;
            match tokio::time::timeout(patience, D::position(&mut connection)).await {
                Ok(Ok(position)) => {
                    self.state.answered();
                    return Ok(position.into());
                }
                Ok(Err(error)) => match dialect::fault::<D>(&error) {
                    Fault::Broken(_) if is_first => connection.close_on_drop(),
                    Fault::Broken(reason) => {
                        connection.close_on_drop();
                        self.state.failed(&reason);
                        return Err(NoPosition::Away);
                    }
                    Fault::Refused(reason)
                    | Fault::Unavailable(reason)
                    | Fault::NotNow(reason)
                    | Fault::Stale(reason)
                    | Fault::BadValue(reason) => {
                        let source = &self.state.settings.name;
                        tracing::warn!(
                            source,
                            reason,
                            "replicas cannot be used: the primary does not tell how far it is"
                        );
                        return Err(NoPosition::Untold);
                    }
                    Fault::Timeout => {
                        connection.close_on_drop();
                        return Err(NoPosition::Away);
                    }
                },
                Err(_) => {
                    connection.close_on_drop();
                    self.state.failed(&format!("no answer within {} ms", patience.as_millis()));
                    return Err(NoPosition::Away);
                }
            }
        }
        Err(NoPosition::Away)
    }

    /// A connection to any replica that answers.
    pub(crate) async fn any(&self) -> Option<PoolConnection<D::Database>> {
        for replica in self.in_turn() {
            if let Some(connection) = replica.connection(None, Instant::now()).await {
                return Some(connection);
            }
        }
        None
    }

    /// Closes the connections to all of them.
    pub(crate) async fn close(&self) {
        for replica in &self.list {
            replica.pool.close().await;
        }
    }

    /// For `LOADER STATS`.
    pub(crate) fn counters(&self) -> [(&'static str, i64); 3] {
        let sum = |of: fn(&Replica<D>) -> &AtomicU64| {
            self.list.iter().map(|replica| of(replica).load(Ordering::Relaxed)).sum::<u64>() as i64
        };
        let resting = self.list.iter().filter(|replica| replica.is_resting(Instant::now())).count();
        [
            ("replicas_behind", sum(|replica| &replica.behind)),
            ("replicas_failed", sum(|replica| &replica.failed)),
            ("replicas_resting", resting as i64),
        ]
    }
}

/// What becomes of the rows that a replica has given.
type Wrap = fn(Row) -> Row;

impl<D: Dialect> Engine<D> {
    /// Lets a replica run the query. `None`: none did, the primary must.
    pub(crate) async fn ask_replicas(
        &self,
        replicas: &Arc<Replicas<D>>,
        collector: &mut Collector<'_, D>,
        values: &[Values<'_>],
    ) -> Option<Result<Wrap, Fault>> {
        let (position, wrap): (_, Wrap) = match replicas.progress().await {
            Progress::At(position) => (Some(position), |row| row),
            Progress::Away => (None, |row| Row::Behind(Box::new(row))),
            Progress::Untold => return None,
        };
        let deadline = replicas.deadline();
        for replica in replicas.in_turn() {
            let Some(mut connection) = replica.connection(position.as_deref(), deadline).await else { continue };
            let begun = Instant::now();
            let fault = match self.attempt(&mut connection, collector, values).await {
                Ok(()) => {
                    self.counters.replica_queries.fetch_add(1, Ordering::Relaxed);
                    return Some(Ok(wrap));
                }
                Err(fault) => fault,
            };
            connection.close_on_drop();
            match fault {
                // The primary would say the same.
                Fault::BadValue(_) => return Some(Err(fault)),
                // The database has ended the statement: it is slow there as here, and the primary shall not bear it too.
                Fault::Timeout if begun.elapsed() < self.source.settings.statement_timeout + GRACE => {
                    return Some(Err(fault));
                }
                Fault::Broken(reason) => replica.broke(&reason),
                Fault::Timeout | Fault::Unavailable(_) | Fault::NotNow(_) => replica.failed(),
                // It may not have a change of the schema yet.
                Fault::Stale(_) | Fault::Refused(_) => {}
            }
            collector.clear();
        }
        None
    }
}

impl From<NoPosition> for Progress {
    fn from(none: NoPosition) -> Self {
        match none {
            NoPosition::Away => Self::Away,
            NoPosition::Untold => Self::Untold,
        }
    }
}

impl<D: Dialect> Replica<D> {
    /// A connection that answers, on which all up to `position` can be read; `None` if there is none by `deadline`.
    pub(crate) async fn connection(
        &self,
        position: Option<&str>,
        deadline: Instant,
    ) -> Option<PoolConnection<D::Database>> {
        if !self.may_be_tried(Instant::now()) {
            return None;
        }
        for is_first in [true, false] {
            let acquired = if is_first && position.is_some() {
                pool::acquire(&self.pool, &self.state).await
            } else {
                pool::acquire_live(&self.pool, &self.state).await
            };
            let Ok(mut connection) = acquired else {
                self.failed();
                return None;
            };
            let Some(position) = position else {
                self.answered();
                return Some(connection);
            };
            let patience = deadline.saturating_duration_since(Instant::now());
            let reason =
                match tokio::time::timeout(patience + GRACE, D::reaches(&mut connection, position, patience)).await {
                    Ok(Ok(true)) => {
                        self.answered();
                        return Some(connection);
                    }
                    Ok(Ok(false)) => {
                        self.answered();
                        self.behind.fetch_add(1, Ordering::Relaxed);
                        return None;
                    }
                    Ok(Err(error)) => self.state.redacted(&error),
                    Err(_) => format!("no answer within {} ms", (patience + GRACE).as_millis()),
                };
            connection.close_on_drop();
            // A connection that died while it was idle says nothing about the replica.
            if !is_first {
                self.state.failed(&reason);
                self.failed();
            }
        }
        None
    }

    fn answered(&self) {
        self.state.answered();
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// It did not do what a load asked of it, so it rests.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    /// It lost a connection in the middle of a load.
    pub(crate) fn broke(&self, reason: &str) {
        self.state.failed(reason);
        self.failed();
    }

    fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }

    /// Whether a load may try it: after a rest, one may, and the others wait for what it finds.
    fn may_be_tried(&self, now: Instant) -> bool {
        let mut rests_until = self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        match *rests_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                *rests_until = Some(now + REST);
                true
            }
        }
    }
}
