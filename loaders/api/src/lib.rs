//! What a loader is to the server: a pattern of keys, a way to bring the values of some of them, and perhaps one to write them.
//! And what a feed tells of changes.
//!
//! No database here, no runtime, no protocol: only the words both sides share.

#![forbid(unsafe_code)]

pub mod feed;

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Loads values for keys of one pattern. Shared by all tasks of the loader runtime.
pub trait Loader: Send + Sync + 'static {
    /// Whether this loader loads `key`: it fits the pattern, every placeholder parses, and the text is the canonical text
    /// of its values (`user:42`, not `user:042`). Called on data threads, for misses only; must not block or allocate much.
    fn matches(&self, key: &[u8]) -> bool;

    /// Loads all keys of the request, with one query where the loader has a batch query. One answer per key, in order.
    /// Never cancelled by the caller; ends by itself within about the source's statement timeout.
    fn load(&self, request: LoadRequest) -> Pin<Box<dyn Future<Output = Vec<Loaded>> + Send + '_>>;

    /// Most keys in one request; 1 if there is no batch query.
    fn batch_max(&self) -> usize;

    /// What would be asked for `key`, as field and value (`sql`, `batch_sql`, `param 1` …), for `LOADER EXPLAIN`.
    fn explain(&self, key: &[u8]) -> Vec<(&'static str, String)>;

    /// The keys whose placeholders a query selects, in its order, as many as the list takes. For `LOADER WARM`.
    ///
    /// # Errors
    /// The query is wrong, or the source does not answer. A row that makes no key is none: it is counted.
    fn list_keys(
        &self,
        sql: String,
        list: KeyList,
    ) -> Pin<Box<dyn Future<Output = Result<KeyList, LoadError>> + Send + '_>> {
        let _ = (sql, list);
        Box::pin(std::future::ready(Err(LoadError::Rejected("this loader has no query to list keys with".into()))))
    }

    /// Whether the source answered when it was last needed; the text says what is wrong.
    fn health(&self) -> Result<(), String>;

    /// What it counts of its own, as field and value, for `LOADER STATS`.
    fn statistics(&self) -> Vec<(&'static str, i64)> {
        Vec::new()
    }

    /// Which changes [`Loader::write`] takes. What is not said here never comes.
    fn writes(&self) -> Writes {
        Writes::default()
    }

    /// Writes all changes in one transaction of the source, in order. How many rows each has changed, once all are committed.
    /// Never cancelled by the caller; ends by itself within about the source's statement timeout a change.
    fn write(&self, changes: Vec<Change>) -> Pin<Box<dyn Future<Output = Result<Vec<u64>, WriteError>> + Send + '_>> {
        drop(changes);
        Box::pin(std::future::ready(Err(WriteError::Refused("the loader only reads".to_owned()))))
    }

    /// As [`Loader::write`], and the source remembers in the same transaction how far the journal is: whatever becomes of the answer,
    /// nothing is written twice.
    fn write_step(
        &self,
        changes: Vec<Change>,
        step: Step,
    ) -> Pin<Box<dyn Future<Output = Result<Stepped, WriteError>> + Send + '_>> {
        drop((changes, step));
        Box::pin(std::future::ready(Err(WriteError::Refused("the loader only reads".to_owned()))))
    }

    /// The position of a journal in the source; 0 for one that it hears of for the first time.
    fn position(&self, journal: String) -> Pin<Box<dyn Future<Output = Result<u64, WriteError>> + Send + '_>> {
        drop(journal);
        Box::pin(std::future::ready(Err(WriteError::Refused("the loader only reads".to_owned()))))
    }
}

/// How far a journal's changes are in the source, as the transaction that writes some of them moves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whose changes.
    pub journal: String,
    /// The position before.
    pub from: u64,
    /// The position once they are committed.
    pub to: u64,
}

/// What became of changes with a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// They are committed.
    Now,
    /// They had been committed by an earlier try.
    Before,
    /// The source is at another position than both of the step: somebody else writes for this journal.
    Elsewhere {
        /// There.
        at: u64,
    },
}

/// Which changes a loader writes to its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// New values.
    pub upserts: bool,
    /// The end of keys.
    pub deletes: bool,
}

/// One change of a key that the loader matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
}

/// Why changes were not written, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The source refuses one of the changes for what is in it (a constraint, a value that fits no column): nothing is written, and
    /// the same would be refused again. The others may be taken.
    Refused(String),
    /// The source answers and takes no such change now, whatever is in it: a table or a right that is missing, a server that only
    /// reads, a full disk, a lock, a conflict. Nothing is written. Worth another try later.
    Blocked(String),
    /// The source was too slow: nothing is written. Worth another try later.
    TimedOut(Duration),
    /// The source cannot be reached: nothing is written. Worth another try later.
    Unavailable(String),
    /// The source was lost while it committed: all is written, or nothing.
    Unknown(String),
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::Blocked(reason) => write!(f, "blocked: {reason}"),
            Self::TimedOut(after) => write!(f, "no answer within {} ms", after.as_millis()),
            Self::Unavailable(reason) => write!(f, "source unavailable: {reason}"),
            Self::Unknown(reason) => write!(f, "lost while it committed: {reason}"),
        }
    }
}

impl std::error::Error for WriteError {}

/// Tags of one value at most.
pub const TAGS_MAX: usize = 32;

/// Keys to load together.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// Keys that this loader matches, without duplicates, at most `batch_max`.
    pub keys: Vec<Bytes>,
}

/// Keys one after the other in one piece of memory, up to a limit: there may be millions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyList {
    bytes: Vec<u8>,
    /// Where each key ends.
    ends: Vec<usize>,
    keys_max: usize,
    bytes_max: usize,
    /// Rows that made no key.
    pub bad_rows: u64,
}

impl KeyList {
    /// An empty list for so many keys, and so many bytes of them.
    #[must_use]
    pub fn with_limits(keys_max: usize, bytes_max: usize) -> Self {
        Self { keys_max, bytes_max, ..Self::default() }
    }

    /// Adds a key. `false`: there is no room for it.
    #[must_use]
    pub fn push(&mut self, key: &[u8]) -> bool {
        let has_room = self.ends.len() < self.keys_max && key.len() <= self.bytes_max - self.bytes.len();
        if has_room {
            self.bytes.extend_from_slice(key);
            self.ends.push(self.bytes.len());
        }
        has_room
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key at a place below [`KeyList::len`].
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&[u8]> {
        let end = *self.ends.get(place)?;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }
}

/// The answer for one key.
pub type Loaded = Result<Row, LoadError>;

/// What the source has for a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// The value as it will be cached.
    Value {
        /// JSON, or the bytes of the column.
        value: Bytes,
        /// From the version column, if the loader has one: microseconds for timestamps, the number for integers.
        version: Option<u64>,
        /// What the value was made of, at most [`TAGS_MAX`]; to invalidate one makes the value stale.
        tags: Vec<Bytes>,
    },
    /// There is no such row.
    Absent,
    /// What a replica has, which may be behind its primary; that one does not answer.
    Behind(Box<Row>),
}

/// Why a load brought nothing. Absence is a [`Row`], not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The source cannot be reached, or no connection came free in time. Worth another try later.
    Unavailable(String),
    /// The query ran into a time limit. Worth another try later.
    Timeout(Duration),
    /// The source refused the query, or sent what the loader cannot turn into a value. Asking again will not help
    /// until somebody changes the data, the schema or the configuration.
    Rejected(String),
    /// The row is larger than the loader's limit, in bytes.
    TooLarge {
        /// What the row would take.
        bytes: usize,
        /// What it may take.
        bytes_max: usize,
    },
}

impl LoadError {
    /// Whether the same load may succeed later without a change by anyone.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_))
    }
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(reason) => write!(f, "source unavailable: {reason}"),
            Self::Timeout(after) => write!(f, "no answer within {} ms", after.as_millis()),
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
            Self::TooLarge { bytes, bytes_max } => write!(f, "row of {bytes} bytes is over the limit of {bytes_max}"),
        }
    }
}

impl std::error::Error for LoadError {}

/// When the server stops asking for a while, because what it asks fails or takes too long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Whether it ever does.
    pub enabled: bool,
    /// How far back calls count.
    pub window: Duration,
    /// Fewer calls than this in the window say nothing; at least 1.
    pub calls_min: u32,
    /// The share of failed calls from which on it stops asking, above 0 and at most 1.
    pub failures_max: f64,
    /// A call that takes so long has failed, whatever it brings. Zero: only one that outlasts its loader's hard timeout.
    pub slow: Duration,
    /// For how long it asks nothing the first time; twice as long after each try that fails.
    pub open: Duration,
    /// The longest it asks nothing.
    pub open_max: Duration,
}

impl Default for BreakerSettings {
    /// Half of at least 20 calls in 10 s; 5 s to 60 s.
    fn default() -> Self {
        Self {
            enabled: true,
            window: Duration::from_secs(10),
            calls_min: 20,
            failures_max: 0.5,
            slow: Duration::ZERO,
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::KeyList;

    #[test]
    fn a_list_takes_keys_up_to_its_limits() {
        let mut list = KeyList::with_limits(3, 5);
        assert!(list.push(b"ab") && list.push(b"") && !list.push(b"cdef") && list.push(b"c") && !list.push(b""));
        assert_eq!(
            (list.len(), list.get(0), list.get(1), list.get(2)),
            (3, Some(&b"ab"[..]), Some(&b""[..]), Some(&b"c"[..]))
        );
        assert_eq!(list.get(3), None);
    }
}
