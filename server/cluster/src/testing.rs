//! Some nodes that answer each other's pings at once, for tests.

use crate::peers::Peers;
use crate::route::{Ask, Kind};
use crate::rules::Rules;
use crate::slot::Slot;
use crate::topology::{Address, NodeSettings, Place, Pool, Topology};
use std::sync::Arc;

/// See the module.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Peers>,
    pub(crate) now_ms: u64,
}

impl Cluster {
    /// `mains` nodes of the main pool, then `gutters` of the gutter pool, all well.
    pub(crate) fn new(mains: usize, gutters: usize, rules: &Rules) -> Self {
        let node = |number: usize| NodeSettings {
            name: format!("node-{number}"),
            address: Address { host: "10.0.0.1".to_owned(), port: 7_000 + number as u16 },
            weight: 1,
            pool: if number < mains { Pool::Main } else { Pool::Gutter },
            zone: String::new(),
        };
        let topology = Arc::new(Topology::new((0..mains + gutters).map(node).collect()).expect("no flaw"));
        let nodes = topology.places().map(|place| Peers::new(topology.clone(), place, rules.clone(), 1, 0));
        let mut cluster = Self { nodes: nodes.collect(), now_ms: 0 };
        cluster.go_on(3_000, &[]);
        cluster
    }

    /// Time goes on; the silent ones are cut off.
    pub(crate) fn go_on(&mut self, for_ms: u64, silent: &[usize]) {
        let until_ms = self.now_ms + for_ms;
        while self.now_ms < until_ms {
            self.now_ms += 50;
            for (number, node) in self.nodes.iter().enumerate() {
                for (to, ping) in node.tick(self.now_ms, 0).pings {
                    if silent.contains(&number) || silent.contains(&to.index()) {
                        continue;
                    }
                    let pong = self.nodes[to.index()].answer(self.place(number), &ping, self.now_ms);
                    node.hear(to, &pong, self.now_ms);
                }
            }
        }
    }

    pub(crate) fn place(&self, number: usize) -> Place {
        self.nodes[0].topology().place(number).expect("there are so many")
    }

    /// Some key of this node.
    pub(crate) fn key_of(&self, owner: usize) -> Vec<u8> {
        let keys = (0..u32::MAX).map(|number| number.to_string().into_bytes());
        let is_its = |key: &Vec<u8>| self.nodes[0].topology().owner_place(Slot::of_key(key)).index() == owner;
        keys.into_iter().find(is_its).expect("each has keys")
    }

    pub(crate) fn ask<'a>(&self, key: &'a [u8], kind: Kind) -> Ask<'a> {
        Ask { slot: Slot::of_key(key), key, kind, now_ms: self.now_ms, random: 999 }
    }
}
