//! Which node owns a key, and who answers for it when that node does not.
//!
//! Hash slots, the list of nodes and the map from the one to the other are computed from the configuration alone, in whole numbers: nodes that were told
//! the same list come to the same map on any machine, without a word between them. What a node does when others fail follows from what they answered
//! ([`Peers`]). No clock, socket or chance: times and random numbers are arguments, and what must be sent is returned.

#![forbid(unsafe_code)]

mod assignment;
mod budget;
mod cell;
mod errand;
mod fence;
mod hash;
mod health;
pub mod member;
mod partition;
mod peers;
mod ramp;
mod remembered;
mod rendezvous;
mod route;
mod rules;
pub mod slot;
#[cfg(test)]
mod testing;
pub mod topology;

pub use cell::{CELLS, Cell, Many, Touched};
pub use errand::{Call, Errand, Verdict};
pub use health::{Condition, Fault};
pub use member::Member;
pub use partition::{Kept, majority};
pub use peers::{Change, PeerView, Peers, Ping, Pong, Standing, Tick};
pub use remembered::{Applied, Delivery, Lineage, Removal, Target, Way};
pub use rendezvous::STAND_INS_MAX;
pub use route::{Ask, Kind, PlaceSet, Refusal, Route, StandIn};
pub use rules::{Minority, Rule, Rules, RulesFlaw, StandIns, TURN_SLACK_MS};
pub use slot::{SLOTS, Slot};
pub use topology::{Address, Epoch, Flaw, NODES_MAX, Node, NodeSettings, Place, Pool, SlotRange, Topology, WEIGHT_MAX};
