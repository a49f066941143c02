//! The options of several nodes: which of them this one is, and the keys of `[nodes.NAME]`.

use super::super::spec::{Change, Default, Kind, Spec, Value};
use super::super::{Config, NodeConfig};
use super::{integer, ms};
use leasehold_cluster::WEIGHT_MAX;
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
];

const ROUTINGS: [Routing; 3] = [Routing::Auto, Routing::Redirect, Routing::Forward];

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
];
