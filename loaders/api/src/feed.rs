//! What a feed is to the server: news of changes in a database, after their commit, from which keys become stale.
//!
//! A feed tells every change at least once, in any order, or tells that it may have missed some. It never says nothing: a feed that
//! has not been [`Notice::UpToDate`] for a while is blind, and what it covers must not be taken for fresh.

use std::time::{Duration, Instant};

/// What a feed tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Changes that were committed.
    Changes(Batch),
    /// All changes committed before this moment have been told.
    UpToDate(Instant),
    /// Changes may have been missed: anything the feed covers may have changed.
    Gap(Gap),
    /// The feed cannot be read now; the text says why, without secrets.
    Trouble(String),
}

/// Changes that were read together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Without order.
    pub events: Vec<Event>,
    /// When the database answered them.
    pub read_at: Instant,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What changed.
    pub change: Change,
    /// How long ago it was written when the database answered, by the clock of the database; `None` where it does not say.
    pub age: Option<Duration>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// One row: what its key columns held before and after. An insert has no `old`, a delete no `new`; an update that leaves the key
    /// as it was may have `new` only.
    Row {
        /// Before.
        old: Option<KeyValues>,
        /// After.
        new: Option<KeyValues>,
    },
    /// Perhaps all rows: a TRUNCATE, a new version of the resource, any change of the file.
    All,
}

/// The texts of a row's key columns, in the order of the feed's `key`; `None` stands for NULL.
pub type KeyValues = Vec<Option<String>>;

/// Why changes may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The feed has just begun.
    Started,
    /// The connection was lost, and the feed cannot go on where it was.
    PositionLost,
    /// The database was restarted, restored or exchanged: what it had told may be undone.
    Restarted,
    /// Changes were deleted from the log before they were read.
    Purged,
    /// The log has changes that do not say, in a form that is read here, which rows they are of.
    Unreadable,
    /// The wait for transactions that were open at the beginning is over; see the feed.
    Settled,
}

impl Gap {
    /// For logs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Started => "the feed has begun",
            Self::PositionLost => "the connection was lost and with it the position",
            Self::Restarted => "the database was restarted or exchanged",
            Self::Purged => "changes were purged before they were read",
            Self::Unreadable => "the log has changes that do not say of which rows",
            Self::Settled => "transactions that were open at the beginning have ended",
        }
    }
}
