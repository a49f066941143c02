//! Commands about the node: its commands, configuration and state.

use crate::spec::Spec;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[];
