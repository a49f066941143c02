//! The options of the port that speaks memcached's text protocol.

use super::super::Config;
use super::super::spec::{Change, Default, Kind, Spec, Value};
use super::{KB, MB, integer};
use leasehold_keyspace::KEY_BYTES_MAX;

pub(super) const MEMCACHED: &[Spec<Config>] = &[
    Spec {
        name: "memcached-port",
        kind: integer(0, 65_535),
        default: Default::Absent { example: "11211" },
        change: Change::Start,
        doc: "TCP port for memcached clients, on the addresses of bind. They see database 0. 0 = none.",
        write: |config, value| config.memcached_port = value.u16(),
        read: |config| Value::Integer(config.memcached_port.into()),
    },
    Spec {
        name: "memcached-key-bytes-max",
        kind: integer(250, KEY_BYTES_MAX as u64),
        default: Default::Text("250"),
        change: Change::Start,
        doc: "The longest key that memcached clients may use. memcached's own limit is 250.",
        write: |config, value| config.memcached_key_bytes_max = value.usize(),
        read: |config| Value::from_usize(config.memcached_key_bytes_max),
    },
    Spec {
        name: "item-size-max",
        kind: Kind::Bytes { min: KB, max: 512 * MB, auto: false },
        default: Default::Text("1mb"),
        change: Change::Start,
        doc: "The largest entry that memcached clients may store: its key, its value, and about 60 bytes, as memcached counts it \
              (its -I). The answer to a larger one is SERVER_ERROR object too large for cache.",
        write: |config, value| config.item_size_max = value.usize(),
        read: |config| Value::from_usize(config.item_size_max),
    },
];
