//! Which node owns a key: hash slots, the list of nodes, and the map from the one to the other.
//!
//! Everything here is computed from the configuration alone, in whole numbers: nodes that were told the same list come to the same map on any
//! machine, without a word between them. No clock, socket or chance.

#![forbid(unsafe_code)]

mod assignment;
mod hash;
pub mod member;
pub mod slot;
pub mod topology;

pub use member::Member;
pub use slot::{SLOTS, Slot};
pub use topology::{Address, Epoch, Flaw, NODES_MAX, Node, NodeSettings, SlotRange, Topology, WEIGHT_MAX};
