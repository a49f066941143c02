//! Who stands in for a key: the nodes in an order that each key has for itself.
//!
//! Weighted rendezvous, as for slots. Only the first few ever hold an entry of a key, so a delete that goes to these few goes to all of them.

use crate::assignment::score_of;
use crate::hash;
use crate::rules::StandIns;
use crate::topology::{Place, Topology};

/// Most nodes that may hold an entry of one key for its owner.
pub const STAND_INS_MAX: usize = 3;

/// The stand-ins of a key, the first choice first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranks {
    places: [Option<Place>; STAND_INS_MAX],
}

impl Ranks {
    /// Those of a key with this hash, which is `owner`'s. Those in the zone of the owner come last: they may fail with it.
    #[must_use]
    pub(crate) fn of(topology: &Topology, stand_ins: StandIns, owner: Place, key_hash: u64) -> Self {
        let zone = topology.all()[owner.index()].zone();
        let is_candidate = |place: &Place| match stand_ins {
            StandIns::None => false,
            StandIns::Pool => !topology.is_main(*place),
            StandIns::Same => topology.is_main(*place) && *place != owner,
        };
        let mut best = [None; STAND_INS_MAX];
        for place in topology.places().filter(is_candidate) {
            let node = &topology.all()[place.index()];
            let is_apart = zone.is_empty() || node.zone() != zone;
            let mut entry =
                Some((is_apart, score_of(hash::of_pair(node.stand_in_hash(), key_hash), node.weight()), place));
            for rank in &mut best {
                if entry > *rank {
                    std::mem::swap(&mut entry, rank);
                }
            }
        }
        Self { places: best.map(|entry| entry.map(|(_, _, place)| place)) }
    }

    /// In order.
    pub(crate) fn iter(self) -> impl Iterator<Item = Place> {
        self.places.into_iter().flatten()
    }
}

/// The hash of a key for [`Ranks::of`].
#[must_use]
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    hash::of_bytes(hash::STAND_INS, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Address, NodeSettings, Pool};

    fn node(name: &str, pool: Pool, zone: &str) -> NodeSettings {
        let port = 1 + name.bytes().fold(0, |port, byte| port * 31 % 10_007 + u16::from(byte));
        let address = Address { host: "10.0.0.1".to_owned(), port };
        NodeSettings { name: name.to_owned(), address, weight: 1, pool, zone: zone.to_owned() }
    }

    fn topology(list: &[(&str, Pool, &str)]) -> Topology {
        Topology::new(list.iter().map(|(name, pool, zone)| node(name, *pool, zone)).collect()).expect("no flaw")
    }

    #[test]
    fn keys_of_one_owner_are_spread_and_few_move_when_one_goes() {
        use Pool::{Gutter, Main};
        let four = topology(&[
            ("a", Main, ""),
            ("g1", Gutter, ""),
            ("g2", Gutter, ""),
            ("g3", Gutter, ""),
            ("g4", Gutter, ""),
        ]);
        let owner = four.place_of("a").expect("it is there");
        let mut firsts = [0; 5];
        for key in 0..4_000_u32 {
            let ranks = Ranks::of(&four, StandIns::Pool, owner, key_hash(&key.to_le_bytes()));
            let places: Vec<Place> = ranks.iter().collect();
            assert!(
                places.len() == STAND_INS_MAX
                    && places[0] != places[1]
                    && places[1] != places[2]
                    && places[0] != places[2]
            );
            assert!(places.iter().all(|place| !four.is_main(*place)));
            firsts[places[0].index()] += 1;
        }
        assert!(firsts[1..].iter().all(|count| (900..1_100).contains(count)), "{firsts:?}");
    }

    #[test]
    fn the_main_nodes_may_stand_in_for_each_other() {
        use Pool::{Gutter, Main};
        let all = topology(&[("a", Main, ""), ("b", Main, ""), ("g", Gutter, "")]);
        let (a, b) = (all.place_of("a").expect("a"), all.place_of("b").expect("b"));
        assert_eq!(Ranks::of(&all, StandIns::Same, a, 1).iter().collect::<Vec<_>>(), [b]);
        assert_eq!(Ranks::of(&all, StandIns::None, a, 1).iter().count(), 0);
    }

    #[test]
    fn another_zone_comes_first() {
        use Pool::{Gutter, Main};
        let zoned =
            topology(&[("a", Main, "east"), ("g1", Gutter, "east"), ("g2", Gutter, "west"), ("g3", Gutter, "east")]);
        let west = zoned.place_of("g2").expect("it is there");
        for key in 0..100 {
            assert_eq!(Ranks::of(&zoned, StandIns::Pool, Place::new(0), key).iter().next(), Some(west));
        }
    }
}
