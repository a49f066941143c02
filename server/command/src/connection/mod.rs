//! Commands about the connection itself: handshake, names, reply modes, other clients.

use crate::spec::Spec;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[];
