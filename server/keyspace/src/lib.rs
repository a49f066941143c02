//! The keyspace: what is stored, for how long, in how much memory, and who may fill what is missing.
//!
//! Protocol-neutral and without input or output: no clock, socket, thread, async or randomness of its own. Time and random
//! numbers come in with [`Turn`], what must happen outside (clients to wake, loads to start) goes out with
//! [`Turn::effects`]. Redis and memcached verbs both end in the methods of [`Keyspace`].

mod age;
pub mod attribution;
mod bumps;
mod cells;
mod claims;
mod entry;
mod eviction;
mod expiry;
mod guard;
mod index;
pub mod keyspace;
pub mod lease;
mod lease_table;
mod lending;
mod log;
pub mod memory;
pub mod policy;
mod prefetch;
mod queues;
mod refresh;
mod replacement;
pub mod replay;
mod scan;
pub mod settings;
mod shard;
mod sighting;
pub mod slot;
pub mod stats;
mod table;
pub mod turn;
mod waiter_count;
pub mod watch;

pub use attribution::{Share, Shares};
pub use bumps::{TAGS_MAX, Tag, TagSet};
pub use expiry::{Cycle, Flushed};
#[cfg(feature = "hold-times")]
pub use guard::{HoldObserver, observe_holds};
pub use keyspace::{Access, Attributes, Entry, Expiry, Keyspace, Lookup, OutOfMemory};
pub use lease::{Claim, Claimant, Claimed, Failure, Fill, Filled, Invalidation, LeaseView, LostReason, Release};
pub use lending::{Holders, LENT_MAX, Recall};
pub use log::Worked;
pub use memory::{KEY_BYTES_MAX, SHARD_BYTES_MAX, VALUE_BYTES_MAX, size_class};
pub use policy::duel::Objective;
pub use prefetch::PREFETCH_KEYS_MAX;
pub use refresh::Refresh;
pub use replacement::{Replaced, Replacement};
pub use settings::{Db, EvictionPolicy, HashSeed, LeaseSettings, Settings};
pub use sighting::{Sight, Sighting, Standing};
pub use slot::{Slot, Slots};
pub use stats::{Count, PolicyStats, Stats};
pub use turn::{Actor, Effects, Load, LoadCause, Turn, Waiter, Wake, WakeEvent};
pub use watch::changes::{CHANGED_KEY_BYTES_MAX, CHANGES_MAX, ChangeKind, HashWindow, KeyChange};
pub use watch::listing::{HotKey, LargeEntry};
pub use watch::sizes::{SIZE_BUCKETS, SizeHistogram};
pub use watch::stream::{EventKind, TraceError, TraceState, Traced};
pub use watch::whatif::{Outlook, WhatIf};
