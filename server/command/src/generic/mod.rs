//! Commands on keys of any type: deletion, names, lifetimes, iteration.

use crate::spec::Spec;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[];
