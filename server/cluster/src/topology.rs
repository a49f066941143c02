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

/// What a node is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pool {
    /// It owns slots.
    #[default]
    Main,
    /// It owns none, and stands in for nodes of the main pool that do not answer.
    Gutter,
}

/// A node's place in [`Topology::all`], the same at each node that has the same list. Below [`NODES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u8);

impl Place {
    /// The place with this number, which a node has.
    pub(crate) fn new(number: usize) -> Self {
        Self(u8::try_from(number).expect("a list has at most NODES_MAX nodes"))
    }

    /// As an index into [`Topology::all`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is said of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Tells it from all others; its slots depend on it, not on its address.
    pub name: String,
    /// For clients.
    pub address: Address,
    /// Its share of the slots, or of what the gutter pool stands in for, is its part of all weights; 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// See [`Pool`].
    pub pool: Pool,
    /// What fails with it, such as a rack or a data centre; empty: nothing is said. No line ends.
    pub zone: String,
}

/// A node of a topology.
#[derive(Clone, Debug)]
pub struct Node {
    settings: NodeSettings,
    id: String,
    /// Its part in the order of stand-ins.
    stand_in_hash: u64,
}

impl Node {
    fn new(settings: NodeSettings) -> Self {
        let stand_in_hash = hash::of_bytes(hash::STAND_INS, settings.name.as_bytes());
        Self { id: id_of(&settings.name), stand_in_hash, settings }
    }

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

    /// As configured.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.settings.pool
    }

    /// As configured.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.settings.zone
    }

    /// Of its name, as a stand-in.
    pub(crate) fn stand_in_hash(&self) -> u64 {
        self.stand_in_hash
    }

    /// As configured.
    pub(crate) fn weight(&self) -> u32 {
        self.settings.weight
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
    /// There is no node of the main pool.
    Empty,
    /// There are more than [`NODES_MAX`] of both pools.
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
    /// Those of the main pool, then those of the gutter pool, each in the order of their names.
    nodes: Vec<Node>,
    /// How many are of the main pool.
    mains: usize,
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
        list.sort_by(|one, other| (one.pool as u8, &one.name).cmp(&(other.pool as u8, &other.name)));
        let mains = list.iter().filter(|node| node.pool == Pool::Main).count();
        let nodes: Vec<Node> = list.into_iter().map(Node::new).collect();
        let candidate =
            |node: &Node| Candidate { hash: hash::of_bytes(0, node.name().as_bytes()), weight: node.settings.weight };
        let owners = assign(&nodes[..mains].iter().map(candidate).collect::<Vec<_>>());
        let epoch = epoch_of(&nodes);
        Ok(Self { nodes, mains, owners, epoch })
    }

    /// The nodes that own slots, in the order of their names.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes[..self.mains]
    }

    /// The nodes of the gutter pool, in the order of their names.
    #[must_use]
    pub fn gutter(&self) -> &[Node] {
        &self.nodes[self.mains..]
    }

    /// The nodes of the main pool, then those of the gutter pool; [`Place`] is the index.
    #[must_use]
    pub fn all(&self) -> &[Node] {
        &self.nodes
    }

    /// The place of the node with this name.
    #[must_use]
    pub fn place_of(&self, name: &str) -> Option<Place> {
        self.nodes.iter().position(|node| node.name() == name).map(Place::new)
    }

    /// The place with this number, as it came from another node with the same list.
    #[must_use]
    pub fn place(&self, number: usize) -> Option<Place> {
        (number < self.nodes.len()).then(|| Place::new(number))
    }

    /// The places of all nodes.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        (0..self.nodes.len()).map(Place::new)
    }

    /// Whether the node owns slots.
    #[must_use]
    pub fn is_main(&self, place: Place) -> bool {
        place.index() < self.mains
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

    /// The place of a slot's owner.
    #[must_use]
    pub fn owner_place(&self, slot: Slot) -> Place {
        Place::new(self.place_of_owner(slot))
    }

    /// Its index in [`Topology::nodes`].
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
    if !list.iter().any(|node| node.pool == Pool::Main) {
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
        if settings.pool == Pool::Gutter {
            text.push_str("gutter\n");
        }
        if !settings.zone.is_empty() {
            text.push_str(&format!("zone {}\n", settings.zone));
        }
    }
    Epoch(hash::of_bytes(4, text.as_bytes()) >> (u64::BITS - BITS))
}
