//! The options of several nodes: which of them this one is, and the keys of `[nodes.NAME]`.

use super::super::spec::{Change, Default, Kind, Spec, Unit, Value};
use super::super::{Config, NodeConfig};
use super::{integer, ms};
use leasehold_cluster::{Pool, StandIns, WEIGHT_MAX};
use leasehold_command::Routing;
use std::time::Duration;

pub(super) const NODES: &[Spec<Config>] = &[
    Spec {
        name: "node",
        kind: Kind::Text,
        default: Default::Text(""),
        change: Change::Start,
        doc: "Which of the [nodes.NAME] this process is. They share the keys by 16384 hash slots, as Redis Cluster does, and clients of Redis Cluster \
          find the right one. All nodes must have the same [nodes.NAME]; only this option is each one's own. Without it this process is alone.",
        write: |config, value| config.node = value.text_or_none(),
        read: |config| Value::Text(config.node.clone().unwrap_or_default()),
    },
    Spec {
        name: "routing",
        kind: Kind::Choice(&["auto", "redirect", "forward"]),
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "What becomes of a command whose keys are another node's. redirect: it is answered with MOVED. forward: it is sent on to that node. auto: a \
          client that has asked for the slots (CLUSTER SLOTS, SHARDS or NODES) or has said READONLY, READWRITE or ASKING on its connection \
          is redirected, all others are forwarded.",
        write: |config, value| config.routing = value.choice(&ROUTINGS),
        read: |config| Value::from_choice(&ROUTINGS, config.routing),
    },
    Spec {
        name: "peer-timeout",
        kind: ms(Duration::from_millis(250), Duration::from_secs(60)),
        default: Default::Text("1s"),
        change: Change::Start,
        doc: "After so long without a sign of life from another node, what was sent on to it is answered with an error, and that node does not \
          execute it any more. A command that waits there for a load, a lease or a commit may take longer: that has limits of its own.",
        write: |config, value| config.peer_timeout = value.duration(),
        read: |config| Value::Duration(config.peer_timeout),
    },
    Spec {
        name: "peer-failures",
        kind: integer(1, 1_000),
        default: Default::Text("3"),
        change: Change::Start,
        doc: "After so many failures in a row, of requests and of pings, another node is taken to be out. One to which no connection comes about is out at \
          once. INFO cluster and CLUSTER NODES show it, and a line of the log.",
        write: |config, value| config.peer_failures = value.u32(),
        read: |config| Value::Integer(config.peer_failures.into()),
    },
    Spec {
        name: "peer-ping",
        kind: Kind::Duration {
            min: Duration::from_millis(10),
            max: Duration::from_secs(10),
            unit: Some(Unit::Milliseconds),
            auto: true,
        },
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "How often each other node is asked whether it is there, on a connection of its own. auto: a tenth of peer-timeout, at most 100ms. Nodes that \
          are out are asked up to once a second.",
        write: |config, value| config.peer_ping = if value == Value::Auto { None } else { Some(value.duration()) },
        read: |config| config.peer_ping.map_or(Value::Auto, Value::Duration),
    },
    Spec {
        name: "flap-out",
        kind: ms(Duration::ZERO, Duration::from_secs(60)),
        default: Default::Text("2s"),
        change: Change::Start,
        doc: "A node that is out again soon after its return stays out for so long at least, twice as long with each further time, up to a minute. \
          Half a minute without trouble makes one time less.",
        write: |config, value| config.flap_out = value.duration(),
        read: |config| Value::Duration(config.flap_out),
    },
    Spec {
        name: "gutter",
        kind: Kind::Choice(&["none", "pool", "same"]),
        default: Default::Text("none"),
        change: Change::Start,
        doc: "Who answers reads of the keys of a node that is out, by its loaders. none: nobody, they are refused. pool: the nodes with pool = \"gutter\". same: \
          the other nodes. Only nodes that hear from a majority of the others ask them. Changes of those keys are refused meanwhile.",
        write: |config, value| config.gutter = value.choice(&GUTTERS),
        read: |config| Value::from_choice(&GUTTERS, config.gutter),
    },
    Spec {
        name: "gutter-ttl",
        kind: ms(Duration::from_millis(100), Duration::from_secs(60 * 60)),
        default: Default::Text("10s"),
        change: Change::Start,
        doc: "What a node has loaded for one that is out lives no longer than this, whatever the ttl of its loader. So old may be what it answers after a change \
          that another node has seen.",
        write: |config, value| config.gutter_ttl = value.duration(),
        read: |config| Value::Duration(config.gutter_ttl),
    },
    Spec {
        name: "failover-share",
        kind: Kind::Ratio { min: 0.0, max: 1.0 },
        default: Default::Text("0.5"),
        change: Change::Start,
        doc: "At most this share of its requests, and failover-burst at once, a node sends to those that stand in for others while one is out. What is more is \
          answered as without gutter.",
        write: |config, value| config.failover_share = value.ratio(),
        read: |config| Value::Ratio(config.failover_share),
    },
    Spec {
        name: "failover-burst",
        kind: integer(1, 1_000_000),
        default: Default::Text("10000"),
        change: Change::Start,
        doc: "So many requests may go to those that stand in for others before failover-share bounds them.",
        write: |config, value| config.failover_burst = value.u32(),
        read: |config| Value::Integer(config.failover_burst.into()),
    },
    Spec {
        name: "hot-key-rate",
        kind: integer(0, 1_000_000_000),
        default: Default::Text("0"),
        change: Change::Start,
        doc: "A key that other nodes' clients read more often than about so many times a second is hot: those nodes get copies, and answer GET, MGET, get and mg \
              from them. 0 = none is. Off by default, as a read may then miss a change that was answered by another node: until that node's word \
              comes, at most for hot-key-ttl. 10000 is a good start.",
        write: |config, value| config.hot_key_rate = value.integer(),
        read: |config| Value::Integer(config.hot_key_rate),
    },
    Spec {
        name: "hot-key-ttl",
        kind: ms(Duration::from_millis(10), Duration::from_secs(60)),
        default: Default::Text("1s"),
        change: Change::Start,
        doc: "A copy of a hot key is used for so long at most, and no longer than the key lives. A change recalls it at once; where that word is lost, \
              so old may a read be. Copies take up to a 32nd of maxmemory and 64mb.",
        write: |config, value| config.hot_key_ttl = value.duration(),
        read: |config| Value::Duration(config.hot_key_ttl),
    },
];

const GUTTERS: [StandIns; 3] = [StandIns::None, StandIns::Pool, StandIns::Same];

const ROUTINGS: [Routing; 3] = [Routing::Auto, Routing::Redirect, Routing::Forward];

const POOLS: [Pool; 2] = [Pool::Main, Pool::Gutter];

/// The keys of `[nodes.NAME]`.
pub(crate) const NODE: &[Spec<NodeConfig>] = &[
    Spec {
        name: "address",
        kind: Kind::Text,
        default: Default::Required { example: "10.0.0.1:6379" },
        change: Change::Start,
        doc: "Where clients reach this node, as host:port or [IPv6]:port: what they are told when a key is another node's. bind and port say \
              where it listens.",
        write: |node, value| node.address = value.text(),
        read: |node| Value::Text(node.address.clone()),
    },
    Spec {
        name: "weight",
        kind: integer(1, WEIGHT_MAX as u64),
        default: Default::Text("1"),
        change: Change::Start,
        doc: "Its part of all weights is its share of the keys.",
        write: |node, value| node.weight = value.u32(),
        read: |node| Value::Integer(node.weight.into()),
    },
    Spec {
        name: "pool",
        kind: Kind::Choice(&["main", "gutter"]),
        default: Default::Text("main"),
        change: Change::Start,
        doc: "main: it owns a share of the keys. gutter: it owns none, and stands in for nodes that are out if gutter = \"pool\".",
        write: |node, value| node.pool = value.choice(&POOLS),
        read: |node| Value::from_choice(&POOLS, node.pool),
    },
];
