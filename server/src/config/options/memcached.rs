//! The options of the port that speaks memcached's text protocol.

use super::super::spec::{Change, Default, Kind, Spec, Value};
use super::super::{Config, Secret};
use super::{KB, MB, integer};
use leasehold_keyspace::KEY_BYTES_MAX;

pub(super) const MEMCACHED: &[Spec<Config>] = &[
    Spec {
        name: "memcached-port",
        kind: integer(0, 65_535),
        default: Default::Absent { example: "11211" },
        change: Change::Start,
        doc: "TCP port for memcached clients, on the addresses of bind. They see database 0, and any of several nodes (node) will do for them. 0 = none.",
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
    Spec {
        name: "memcached-auth-file",
        kind: Kind::SecretFile,
        default: Default::Absent { example: "/run/credentials/leasehold.memcached" },
        change: Change::Start,
        doc: "A file of lines user:password. With it a memcached client must first send one of them, as \"user password\", in the \
              data of a set (memcached's -Y). requirepass does not hold for memcached clients. \
              A reload reads it again.",
        write: |config, value| config.memcached_users = users(&value.text()),
        read: |_| Value::Absent,
    },
    Spec {
        name: "memcached-shutdown",
        kind: Kind::Choice(&["no", "yes"]),
        default: Default::Text("no"),
        change: Change::Start,
        doc: "Whether memcached clients may end the server by the command shutdown (memcached's -A).",
        write: |config, value| config.memcached_shutdown = value.choice(&[false, true]),
        read: |config| Value::from_choice(&[false, true], config.memcached_shutdown),
    },
];

/// Names and passwords, a line each. A line without a colon is a user without a password, which `check` refuses.
fn users(text: &str) -> Vec<(String, Secret)> {
    // A line of spaces is a user without a name, which is refused: a file without users would let everybody in.
    let lines = text.lines().filter(|line| !line.is_empty()).map(str::trim_end);
    lines
        .map(|line| {
            let (user, password) = line.split_once(':').unwrap_or((line, ""));
            (user.to_owned(), Secret(password.to_owned()))
        })
        .collect()
}
