//! Majorities of the main pool: how many that is, and whether a delete has one.
//!
//! | the cluster is parted, and here is | reads of own keys | writes, deletes, leases of own keys | keys of nodes on the other side |
//! |---|---|---|---|
//! | a majority | answered | answered | answered by stand-ins; deletes are remembered |
//! | a minority, `refuse` | refused | refused | refused |
//! | a minority, `serve-stale` | answered, marked stale, nothing is loaded | refused | refused |
//!
//! In the words of CAP: `refuse` is consistent; `serve-stale` is available for reads, and says which are not consistent. No token of one side fills on
//! the other: a node gives tokens and takes fills for its own keys only, while it is proven.

use crate::topology::Place;

/// How many of the main pool are a majority.
#[must_use]
pub const fn majority(mains: usize) -> usize {
    mains / 2 + 1
}

/// What a node says of a delete that it was given to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The owner has applied it.
    Delivered,
    /// It is remembered, and this node does not vouch for the owner before that has it.
    Held,
    /// It is remembered, but the owner may still rely on this node's word.
    Waiting {
        /// At most until this time.
        until_ms: u64,
    },
}

/// Who remembers a delete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witnesses {
    needed: usize,
    held: u128,
    is_delivered: bool,
}

impl Witnesses {
    /// Nobody yet, of a main pool of so many nodes.
    #[must_use]
    pub(crate) fn new(mains: usize) -> Self {
        Self { needed: majority(mains), held: 0, is_delivered: false }
    }

    /// Notes what a node of the main pool says.
    pub(crate) fn note(&mut self, place: Place, kept: Kept) {
        match kept {
            Kept::Delivered => self.is_delivered = true,
            Kept::Held => self.held |= 1 << place.index(),
            Kept::Waiting { .. } => {}
        }
    }

    /// Whether the client may be told that it is done.
    #[must_use]
    pub(crate) fn suffice(&self) -> bool {
        self.is_delivered || self.held.count_ones() as usize >= self.needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_or_the_owner_itself_suffices() {
        for (mains, needed) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let mut witnesses = Witnesses::new(mains);
            for number in 0..needed {
                assert!(!witnesses.suffice(), "{number} of {mains}");
                witnesses.note(Place::new(number), Kept::Waiting { until_ms: 5 });
                witnesses.note(Place::new(number), Kept::Held);
                witnesses.note(Place::new(number), Kept::Held);
            }
            assert!(witnesses.suffice(), "{needed} of {mains}");
        }
        let mut witnesses = Witnesses::new(7);
        witnesses.note(Place::new(3), Kept::Delivered);
        assert!(witnesses.suffice());
    }
}
