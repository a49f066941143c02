//! One node's view of a topology: which of the nodes it is itself.

use crate::slot::Slot;
use crate::topology::{Node, Topology};

/// See the module.
#[derive(Clone, Debug)]
pub struct Member {
    topology: Topology,
    own: usize,
}

impl Member {
    /// The view of the node with this name; `None` if there is none.
    #[must_use]
    pub fn new(topology: Topology, name: &str) -> Option<Self> {
        let own = topology.nodes().iter().position(|node| node.name() == name)?;
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
        &self.topology.nodes()[self.own]
    }

    /// Its place in [`Topology::nodes`].
    #[must_use]
    pub fn place(&self) -> usize {
        self.own
    }

    /// Whether the slot is this node's.
    #[must_use]
    pub fn owns(&self, slot: Slot) -> bool {
        self.topology.place_of_owner(slot) == self.own
    }

    /// Whether a key is this node's.
    #[must_use]
    pub fn owns_key(&self, key: &[u8]) -> bool {
        self.owns(Slot::of_key(key))
    }
}
