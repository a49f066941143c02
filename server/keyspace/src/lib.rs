//! The keyspace: what is stored, for how long, in how much memory, and who may fill what is missing.
//!
//! Protocol-neutral and without input or output: no clock, socket, thread, async or randomness of its own. Time and random
//! numbers come in with [`Turn`], what must happen outside (clients to wake, loads to start) goes out with
//! [`Turn::effects`]. Redis and memcached verbs both end in the methods of [`Keyspace`].

mod claims;
pub mod keyspace;
pub mod lease;
mod lease_table;
pub mod settings;
pub mod turn;

pub use keyspace::{Access, Attributes, Entry, Expiry, Keyspace, Lookup, OutOfMemory, Slot, Slots, Stats};
pub use lease::{Claim, Claimant, Claimed, Fill, Filled, Invalidation, LeaseView, LostReason, Release};
pub use settings::{Db, EvictionPolicy, HashSeed, LeaseSettings, Settings};
pub use turn::{Effects, Load, LoadCause, Turn, Waiter, Wake, WakeEvent};
