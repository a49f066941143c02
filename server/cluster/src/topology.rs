//! The nodes and what each of them owns: one value, made once, never changed.

use crate::assignment::{BLOCK_SLOTS, BLOCKS, Candidate, assign};
use crate::hash;
use crate::slot::{SLOTS, Slot};
use core::net::IpAddr;
use std::fmt;

/// Most nodes of a cluster: at so many, one has 16 blocks of slots.
pub const NODES_MAX: usize = 128;

/// The largest weight.
pub const WEIGHT_MAX: u32 = 1_000;

/// Where clients reach a node, as they are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

impl Address {
    /// Reads `host:port` or `[IPv6]:port`; `None`: it is neither, or nobody could connect to it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)?.parse().ok()?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':'))?,
            None => host,
        };
        let is_reachable = match host.parse::<IpAddr>() {
            Ok(ip) => !ip.is_unspecified(),
            Err(_) => is_name(host),
        };
        (is_reachable && port != 0).then(|| Self { host: host.to_owned(), port })
    }
}

/// Whether it may be the name of a host.
fn is_name(host: &str) -> bool {
    const BYTES_MAX: usize = 253;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= BYTES_MAX && host.bytes().all(fits)
}

impl fmt::Display for Address {
    /// As Redis writes it, without brackets around IPv6.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is said of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Tells it from all others; its slots depend on it, not on its address.
    pub name: String,
    /// For clients.
    pub address: Address,
    /// Its share of the slots is its part of all weights; 1 to [`WEIGHT_MAX`].
    pub weight: u32,
}

/// A node of a topology.
#[derive(Clone, Debug)]
pub struct Node {
    settings: NodeSettings,
    id: String,
}

impl Node {
    /// As configured.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// For clients.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.settings.address
    }

    /// 40 hexadecimal digits that depend on the name alone.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Names one version of a topology: equal lists of nodes have equal epochs. Below 2^53, for clients that keep numbers as floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a list of nodes is no topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// There is no node.
    Empty,
    /// There are more than [`NODES_MAX`].
    TooMany,
    /// Two nodes have this name.
    SameName(String),
    /// Two nodes have one address.
    SameAddress {
        /// The name of the one that comes first.
        first: String,
        /// The name of the other.
        second: String,
    },
    /// The weight of the node with this name is 0, or more than [`WEIGHT_MAX`].
    Weight(String),
}

/// Neighbouring slots with one owner.
#[derive(Clone, Copy, Debug)]
pub struct SlotRange<'a> {
    /// The first slot.
    pub first: Slot,
    /// The last slot.
    pub last: Slot,
    /// Whose they are.
    pub owner: &'a Node,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Topology {
    /// In the order of their names.
    nodes: Vec<Node>,
    /// For each block, the place of its owner.
    owners: Vec<usize>,
    epoch: Epoch,
}

impl Topology {
    /// The topology of these nodes, in whatever order. Takes about a millisecond for each.
    ///
    /// # Errors
    /// The list is none of nodes that a client could tell apart.
    pub fn new(mut list: Vec<NodeSettings>) -> Result<Self, Flaw> {
        find_flaw(&list).map_or(Ok(()), Err)?;
        list.sort_by(|one, other| one.name.cmp(&other.name));
        let nodes: Vec<Node> = list.into_iter().map(|settings| Node { id: id_of(&settings.name), settings }).collect();
        let candidate =
            |node: &Node| Candidate { hash: hash::of_bytes(0, node.name().as_bytes()), weight: node.settings.weight };
        let owners = assign(&nodes.iter().map(candidate).collect::<Vec<_>>());
        let epoch = epoch_of(&nodes);
        Ok(Self { nodes, owners, epoch })
    }

    /// All nodes, in the order of their names.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// See [`Epoch`].
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The owner of a slot.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> &Node {
        &self.nodes[self.place_of_owner(slot)]
    }

    /// The place of a slot's owner in [`Topology::nodes`].
    #[must_use]
    pub fn place_of_owner(&self, slot: Slot) -> usize {
        self.owners[usize::from(slot.number() / BLOCK_SLOTS)]
    }

    /// All slots, in order, in ranges that are as long as they can be.
    pub fn ranges(&self) -> impl Iterator<Item = SlotRange<'_>> {
        let mut block = 0;
        std::iter::from_fn(move || {
            let owner = *self.owners.get(block)?;
            let first = block;
            block += self.owners[first..].iter().take_while(|other| **other == owner).count();
            let slot = |number: usize| Slot::new(number as u16).expect("blocks end where slots end");
            let width = usize::from(BLOCK_SLOTS);
            Some(SlotRange { first: slot(first * width), last: slot(block * width - 1), owner: &self.nodes[owner] })
        })
    }
}

const _: () = assert!(BLOCKS * BLOCK_SLOTS as usize == SLOTS as usize && BLOCKS >= NODES_MAX);

fn find_flaw(list: &[NodeSettings]) -> Option<Flaw> {
    if list.is_empty() {
        return Some(Flaw::Empty);
    }
    if list.len() > NODES_MAX {
        return Some(Flaw::TooMany);
    }
    for (place, node) in list.iter().enumerate() {
        if !(1..=WEIGHT_MAX).contains(&node.weight) {
            return Some(Flaw::Weight(node.name.clone()));
        }
        for earlier in &list[..place] {
            if earlier.name == node.name {
                return Some(Flaw::SameName(node.name.clone()));
            }
            if earlier.address == node.address {
                return Some(Flaw::SameAddress { first: earlier.name.clone(), second: node.name.clone() });
            }
        }
    }
    None
}

fn id_of(name: &str) -> String {
    let [one, two, three] = [1, 2, 3].map(|stream| hash::of_bytes(stream, name.as_bytes()));
    format!("{one:016x}{two:016x}{:08x}", three >> 32)
}

fn epoch_of(nodes: &[Node]) -> Epoch {
    const BITS: u32 = 53;
    let mut text = String::new();
    for Node { settings, .. } in nodes {
        // Neither names nor hosts contain a line end.
        text.push_str(&format!("{}\n{}\n{}\n", settings.name, settings.address, settings.weight));
    }
    Epoch(hash::of_bytes(4, text.as_bytes()) >> (u64::BITS - BITS))
}
