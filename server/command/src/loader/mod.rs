//! Loader commands.

use crate::spec::Spec;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[];
