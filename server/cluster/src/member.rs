//! One node's view of a topology: which of the nodes it is itself.

use crate::slot::Slot;
use crate::topology::{Node, Place, Topology};

/// See the module.
#[derive(Clone, Debug)]
pub struct Member {
    topology: Topology,
    own: Place,
}

impl Member {
    /// The view of the node with this name; `None` if there is none.
    #[must_use]
    pub fn new(topology: Topology, name: &str) -> Option<Self> {
        let own = topology.place_of(name)?;
        Some(Self { topology, own })
    }

    /// All nodes.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// This node.
    #[must_use]
    pub fn own(&self) -> &Node {
        &self.topology.all()[self.own.index()]
    }

    /// Its place.
    #[must_use]
    pub fn place(&self) -> Place {
        self.own
    }

    /// Whether the slot is this node's.
    #[must_use]
    pub fn owns(&self, slot: Slot) -> bool {
        self.topology.owner_place(slot) == self.own
    }

    /// Whether a key is this node's.
    #[must_use]
    pub fn owns_key(&self, key: &[u8]) -> bool {
        self.owns(Slot::of_key(key))
    }
}
