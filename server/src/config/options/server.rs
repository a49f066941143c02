//! The options of the server itself, in the groups of the generated file.

use super::super::spec::{Change, Default, Kind, NO_MOST, Spec, Unit, Value};
use super::super::{Config, LogFormat, LogLevel, Secret, machine};
use super::{DAY, GB, HOUR, KB, MB, MS, SECOND, YEAR, integer, ms, seconds};
use leasehold_keyspace::settings::DATABASES_MAX;
use leasehold_keyspace::{EvictionPolicy, Objective};
use leasehold_protocol::Limits;
use std::path::PathBuf;
use std::time::Duration;

/// Options under one heading of the generated file.
pub(crate) struct Group {
    pub title: &'static str,
    pub options: &'static [Spec<Config>],
}

/// The server's options, in the order of the generated file.
pub(crate) const GROUPS: &[Group] = &[
    Group { title: "Network", options: NETWORK },
    Group { title: "Access", options: ACCESS },
    Group { title: "memcached", options: super::memcached::MEMCACHED },
    Group { title: "Several nodes", options: super::clustering::NODES },
    Group { title: "Threads and data", options: THREADS },
    Group { title: "Memory", options: MEMORY },
    Group { title: "Leases", options: LEASES },
    Group { title: "Limits of a client", options: LIMITS },
    Group { title: "Log and life", options: LOG },
];

const NETWORK: &[Spec<Config>] = &[
    Spec {
        name: "bind",
        kind: Kind::Addresses,
        default: Default::Text("127.0.0.1 -::1"),
        change: Change::Start,
        doc: "Addresses to listen on. The default answers this machine only; \"* -::*\" answers everybody, and then \
              requirepass or a firewall should say who that is.",
        write: |config, value| config.bind = value.addresses(),
        read: |config| Value::Addresses(config.bind.clone()),
    },
    Spec {
        name: "port",
        kind: integer(0, 65_535),
        default: Default::Text("6379"),
        change: Change::Start,
        doc: "TCP port for Redis clients. 0 takes a free one and says which in the log.",
        write: |config, value| config.port = value.u16(),
        read: |config| Value::Integer(config.port.into()),
    },
    Spec {
        name: "tcp-backlog",
        kind: integer(1, 65_535),
        default: Default::Text("511"),
        change: Change::Start,
        doc: "Connections the kernel keeps waiting for us. The kernel's own limit (net.core.somaxconn) holds as well.",
        write: |config, value| config.tcp_backlog = value.u32(),
        read: |config| Value::Integer(config.tcp_backlog.into()),
    },
    Spec {
        name: "tcp-keepalive",
        kind: seconds(Duration::ZERO, DAY),
        default: Default::Text("300"),
        change: Change::Live,
        doc: "Idle time after which the kernel asks a peer whether it is still there. 0 = never. Holds for connections \
              made from now on.",
        write: |config, value| config.live.tcp_keepalive = value.duration_or_never(),
        read: |config| Value::from_never(config.live.tcp_keepalive),
    },
    Spec {
        name: "timeout",
        kind: seconds(Duration::ZERO, YEAR),
        default: Default::Text("0"),
        change: Change::Live,
        doc: "A connection that has been idle for so long is closed. 0 = never.",
        write: |config, value| config.live.idle_timeout = value.duration_or_never(),
        read: |config| Value::from_never(config.live.idle_timeout),
    },
    Spec {
        name: "maxclients",
        kind: integer(1, 1_000_000),
        default: Default::Text("10000"),
        change: Change::Live,
        doc: "Connections at one time. One more gets an error and is closed.",
        write: |config, value| config.live.clients_max = value.usize(),
        read: |config| Value::from_usize(config.live.clients_max),
    },
];

const ACCESS: &[Spec<Config>] = &[
    Spec {
        name: "requirepass",
        kind: Kind::Secret,
        default: Default::Text(""),
        change: Change::Live,
        doc: "The password that clients must send with AUTH or HELLO. Empty = none. CONFIG GET never shows it.",
        write: |config, value| config.live.password = Secret(value.text()),
        read: |config| Value::Text(config.live.password.0.clone()),
    },
    Spec {
        name: "requirepass-file",
        kind: Kind::SecretFile,
        default: Default::Absent { example: "/run/credentials/leasehold.password" },
        change: Change::Start,
        doc: "A file whose text is the password (a line end at its end does not count). Instead of requirepass.",
        write: |config, value| config.live.password = Secret(value.text()),
        read: |_| Value::Absent,
    },
];

const THREADS: &[Spec<Config>] = &[
    Spec {
        name: "threads",
        kind: Kind::Integer { min: 1, max: 256, auto: true },
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "Threads that serve clients. \"auto\" = the CPUs this process may use: the smaller of its affinity and its \
              cgroup's CPU quota, rounded up.",
        write: |config, value| {
            config.threads = if value == Value::Auto { machine::usable_cpus() } else { value.usize() };
        },
        read: |config| Value::from_usize(config.threads),
    },
    Spec {
        name: "pin-threads",
        kind: Kind::Choice(&["no", "yes"]),
        default: Default::Text("no"),
        change: Change::Start,
        doc: "Keeps each of these threads on a CPU of its own. Worth it on a machine that does nothing else; in a shared one \
              a pinned thread waits for its CPU while others are idle.",
        write: |config, value| config.pin_threads = value.choice(&[false, true]),
        read: |config| Value::from_choice(&[false, true], config.pin_threads),
    },
    Spec {
        name: "loader-threads",
        kind: Kind::Integer { min: 1, max: 64, auto: true },
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "Threads that talk to the databases and turn rows into values. \"auto\" = half of the usable CPUs, 1 to 4. \
              None is started without loaders.",
        write: |config, value| {
            config.loader_threads =
                if value == Value::Auto { (machine::usable_cpus() / 2).clamp(1, 4) } else { value.usize() };
        },
        read: |config| Value::from_usize(config.loader_threads),
    },
    Spec {
        name: "shards",
        kind: Kind::PowerOfTwo { min: 1, max: 4096 },
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "Parts of the keyspace, each with its own lock and up to 8gb. \"auto\" = 64 for each usable CPU, and one for each \
              gb of the machine's memory, at least 256.",
        write: |config, value| {
            config.shards = if value == Value::Auto {
                shards_of(machine::usable_cpus(), machine::memory_bytes().unwrap_or(0))
            } else {
                value.usize()
            };
        },
        read: |config| Value::from_usize(config.shards),
    },
    Spec {
        name: "databases",
        kind: integer(1, DATABASES_MAX as u64),
        default: Default::Text("16"),
        change: Change::Start,
        doc: "Databases that clients may SELECT. 1 turns SELECT off.",
        write: |config, value| config.databases = value.u8(),
        read: |config| Value::Integer(config.databases.into()),
    },
];

/// Memory for which a machine has a shard: so much of it has 16,000 segments, and a table of them that grows within half a
/// millisecond.
const BYTES_PER_SHARD: u64 = 1 << 30;

/// Shards for a machine with so many CPUs and so much memory.
fn shards_of(cpus: usize, bytes: u64) -> usize {
    let for_memory = usize::try_from(bytes / BYTES_PER_SHARD).unwrap_or(usize::MAX);
    (cpus * 64).max(for_memory).clamp(256, 4096).next_power_of_two()
}

const POLICY_NAMES: &[&str] = &[
    "noeviction",
    "allkeys-lru",
    "volatile-lru",
    "allkeys-random",
    "volatile-random",
    "volatile-ttl",
    "allkeys-tinylfu",
    "volatile-tinylfu",
    "allkeys-lfu",
    "volatile-lfu",
];
const POLICIES: [EvictionPolicy; POLICY_NAMES.len()] = EvictionPolicy::ALL;

const PREFIX_DELIMITER_NAMES: &[&str] = &["none", ":", "/", ".", "-", "_", "|", "#"];
const PREFIX_DELIMITERS: [Option<u8>; PREFIX_DELIMITER_NAMES.len()] =
    [None, Some(b':'), Some(b'/'), Some(b'.'), Some(b'-'), Some(b'_'), Some(b'|'), Some(b'#')];

const OBJECTIVES: [Objective; 2] = [Objective::Objects, Objective::Bytes];

/// The values of `maxmemory-policy` with their names.
pub(crate) fn eviction_policies() -> impl Iterator<Item = (&'static str, EvictionPolicy)> {
    POLICY_NAMES.iter().copied().zip(POLICIES)
}

const MEMORY: &[Spec<Config>] = &[
    Spec {
        name: "maxmemory",
        kind: Kind::Bytes { min: 0, max: NO_MOST, auto: false },
        default: Default::Text("0"),
        change: Change::Live,
        doc: "Memory for entries, tables, absences and leases. 0 = no limit, as in Redis; a cache should have one, so set it \
              to about three quarters of what the machine or container has. Buffers of connections come on top.",
        write: |config, value| config.live.memory_bytes_max = value.integer(),
        read: |config| Value::Integer(config.live.memory_bytes_max),
    },
    Spec {
        name: "maxmemory-policy",
        kind: Kind::Choice(POLICY_NAMES),
        default: Default::Text("allkeys-tinylfu"),
        change: Change::Live,
        doc: "What goes when maxmemory is reached: what is used least for its size (tinylfu, which hits most on nearly all \
              traffic), used least often (lfu), used longest ago (lru), a random entry, or the one that expires first; \
              \"volatile\" looks only at entries with a TTL. With \"noeviction\", which is Redis's default, writes get an \
              OOM error instead.",
        write: |config, value| config.live.policy = value.choice(&POLICIES),
        read: |config| Value::from_choice(&POLICIES, config.live.policy),
    },
    Spec {
        name: "tinylfu-objective",
        kind: Kind::Choice(&["objects", "bytes"]),
        default: Default::Text("objects"),
        change: Change::Live,
        doc: "What the tinylfu policies make the most of: \"objects\" = hits, so of two entries used alike the smaller stays; \
              \"bytes\" = the bytes that hits save.",
        write: |config, value| config.live.objective = value.choice(&OBJECTIVES),
        read: |config| Value::from_choice(&OBJECTIVES, config.live.objective),
    },
    Spec {
        name: "maxmemory-samples",
        kind: integer(1, 64),
        default: Default::Text("5"),
        change: Change::Live,
        doc: "Has no effect: no policy here goes by samples. It is accepted, and CONFIG GET answers it, because clients and \
              frameworks written for Redis set it.",
        write: |config, value| config.live.eviction_samples = value.u8(),
        read: |config| Value::Integer(config.live.eviction_samples.into()),
    },
    Spec {
        name: "prefix-delimiter",
        kind: Kind::Choice(PREFIX_DELIMITER_NAMES),
        default: Default::Text(":"),
        change: Change::Live,
        doc: "What ends the prefix of a key: MEMORY PREFIXES and INFO prefixes tell hits and memory by it. With \"none\" no key has \
              one. A change begins the counts anew.",
        write: |config, value| config.live.prefix_delimiter = value.choice(&PREFIX_DELIMITERS),
        read: |config| Value::from_choice(&PREFIX_DELIMITERS, config.live.prefix_delimiter),
    },
    Spec {
        name: "whatif",
        kind: Kind::Choice(&["no", "yes"]),
        default: Default::Text("no"),
        change: Change::Live,
        doc: "Whether shadow caches run beside the real one, on a sample of the keys, for INFO whatif: what half and twice the \
              memory and other policies would hit. They take about 3 MB and a hundredth of each thread.",
        write: |config, value| config.live.whatif = value.choice(&[false, true]),
        read: |config| Value::from_choice(&[false, true], config.live.whatif),
    },
    Spec {
        name: "huge-pages",
        kind: Kind::Choice(&["no", "yes"]),
        default: Default::Text("yes"),
        change: Change::Start,
        doc: "Whether memory that has been in use for some seconds is moved into huge pages (Linux 6.1 or newer), which \
              makes reads of many keys cheaper. Takes up to a fiftieth of a CPU, and no memory. Where transparent_hugepage is \
              \"always\", Linux 6.18 or newer is needed.",
        write: |config, value| config.huge_pages = value.choice(&[false, true]),
        read: |config| Value::from_choice(&[false, true], config.huge_pages),
    },
    Spec {
        name: "negative-memory",
        kind: Kind::Bytes { min: 0, max: NO_MOST, auto: true },
        default: Default::Text("auto"),
        change: Change::Live,
        doc: "Memory, within maxmemory, for remembered absences and deletions. Entries cannot take it, so that a scan of keys \
              that do not exist pushes out none. \"auto\" is a 128th of maxmemory, or 64mb without a limit; never more than half \
              of maxmemory is used.",
        write: |config, value| {
            config.live.negative_memory_bytes = if value == Value::Auto { None } else { Some(value.integer()) };
        },
        read: |config| config.live.negative_memory_bytes.map_or(Value::Auto, Value::Integer),
    },
    Spec {
        name: "tag-memory",
        kind: Kind::Bytes { min: 4 << 10, max: 1 << 30, auto: false },
        default: Default::Text("4mb"),
        change: Change::Start,
        doc: "Memory, within maxmemory, for when each tag was last invalidated; taken with the first INVALTAG, a power of two, \
              at most a 32nd of maxmemory. It forgets nothing: with less, entries whose tags were not invalidated seem stale \
              too. With 4mb it is one in a hundred where 50,000 tags are invalidated in the life of an entry.",
        write: |config, value| config.tag_memory_bytes = value.integer(),
        read: |config| Value::Integer(config.tag_memory_bytes),
    },
];

const LEASES: &[Spec<Config>] = &[
    Spec {
        name: "lease-ms",
        kind: ms(MS, HOUR),
        default: Default::Text("10s"),
        change: Change::Live,
        doc: "How long a lease's token is valid when GETL names no time.",
        write: |config, value| config.live.lease.lease_ms = value.ms(),
        read: |config| Value::from_ms(config.live.lease.lease_ms),
    },
    Spec {
        name: "lease-ms-max",
        kind: ms(MS, DAY),
        default: Default::Text("5m"),
        change: Change::Live,
        doc: "The longest lease a client may ask for.",
        write: |config, value| config.live.lease.lease_ms_max = value.ms(),
        read: |config| Value::from_ms(config.live.lease.lease_ms_max),
    },
    Spec {
        name: "lease-reissue-after",
        kind: Kind::Duration { min: Duration::from_millis(50), max: HOUR, unit: Some(Unit::Milliseconds), auto: true },
        default: Default::Text("auto"),
        change: Change::Live,
        doc: "The least time between two tokens for one key: how soon somebody else may load when a holder has died. \"auto\" \
              = four times the key's recent load time, at least 50 ms, doubled for each token in a row that brought nothing, \
              at most the lease. A key without one: what clients took for others, or all of a lease whose time was asked for.",
        write: |config, value| {
            config.live.lease.reissue_after_ms = if value == Value::Auto { None } else { Some(value.ms()) };
        },
        read: |config| config.live.lease.reissue_after_ms.map_or(Value::Auto, Value::from_ms),
    },
    Spec {
        name: "lease-waiters-per-key-max",
        kind: integer(0, 1_000_000),
        default: Default::Text("10000"),
        change: Change::Live,
        doc: "Clients that may wait on one key, beside the one whose miss starts a load. One more gets WAIT at once, or LOADBUSY if it \
              reads through a loader.",
        write: |config, value| config.live.lease.waiters_per_key_max = value.usize(),
        read: |config| Value::from_usize(config.live.lease.waiters_per_key_max),
    },
    Spec {
        name: "lease-waiters-max",
        kind: integer(0, 10_000_000),
        default: Default::Text("100000"),
        change: Change::Live,
        doc: "Clients that may wait on all keys together, beside those whose misses start loads. One more gets WAIT at once, or LOADBUSY \
              if it reads through a loader.",
        write: |config, value| config.live.lease.waiters_max = value.usize(),
        read: |config| Value::from_usize(config.live.lease.waiters_max),
    },
    Spec {
        name: "lease-records-max",
        kind: integer(1, 100_000_000),
        default: Default::Text("1000000"),
        change: Change::Live,
        doc: "Keys with a lease at one time. Each shard has an equal part of them, at least one. Over it an old lease that nobody \
              waits on is forgotten, and its fill is LOST. So is it when the leases take more than an eighth of maxmemory.",
        write: |config, value| config.live.lease.records_max = value.usize(),
        read: |config| Value::from_usize(config.live.lease.records_max),
    },
    Spec {
        name: "tombstone-ttl",
        kind: ms(Duration::ZERO, DAY),
        default: Default::Text("1m"),
        change: Change::Live,
        doc: "How long a key deleted with a version is remembered, so that an older fill cannot bring it back. Should be \
              longer than the slowest load.",
        write: |config, value| config.live.lease.tombstone_ttl_ms = value.ms(),
        read: |config| Value::from_ms(config.live.lease.tombstone_ttl_ms),
    },
    Spec {
        name: "invalidated-stale-for",
        kind: ms(Duration::ZERO, DAY),
        default: Default::Text("1m"),
        change: Change::Live,
        doc: "How long a softly invalidated entry stays readable as stale when neither INVAL nor the entry says.",
        write: |config, value| config.live.lease.invalidated_stale_ms = value.ms(),
        read: |config| Value::from_ms(config.live.lease.invalidated_stale_ms),
    },
    Spec {
        name: "wait-max",
        kind: ms(MS, HOUR),
        default: Default::Text("1m"),
        change: Change::Live,
        doc: "The longest time a client may wait inside the server (GETL … WAIT, LOADTHROUGH … TIMEOUT); a longer wish is \
              cut to it.",
        write: |config, value| config.live.wait_max = value.duration(),
        read: |config| Value::Duration(config.live.wait_max),
    },
];

const LIMITS: &[Spec<Config>] = &[
    Spec {
        name: "proto-max-bulk-len",
        kind: Kind::Bytes { min: KB, max: 512 * MB, auto: false },
        default: Default::Text("512mb"),
        change: Change::Start,
        doc: "The longest argument of a command, so also the longest value.",
        write: |config, value| config.limits.bulk_bytes_max = value.usize(),
        read: |config| Value::from_usize(config.limits.bulk_bytes_max),
    },
    Spec {
        name: "proto-max-args",
        kind: integer(16, Limits::DEFAULT.args_max as u64),
        default: Default::Text("1048576"),
        change: Change::Start,
        doc: "The most arguments of one command, its name included.",
        write: |config, value| config.limits.args_max = value.usize(),
        read: |config| Value::from_usize(config.limits.args_max),
    },
    Spec {
        name: "proto-max-inline-len",
        kind: Kind::Bytes { min: 64, max: MB, auto: false },
        default: Default::Text("64kb"),
        change: Change::Start,
        doc: "The longest command typed as a plain line, as by telnet or nc.",
        write: |config, value| config.limits.inline_bytes_max = value.usize(),
        read: |config| Value::from_usize(config.limits.inline_bytes_max),
    },
    Spec {
        name: "client-query-buffer-limit",
        kind: Kind::Bytes { min: 64 * KB, max: GB, auto: false },
        default: Default::Text("1gb"),
        change: Change::Start,
        doc: "The most bytes of one command in all. A client that sends more is closed.",
        write: |config, value| config.limits.request_bytes_max = value.usize(),
        read: |config| Value::from_usize(config.limits.request_bytes_max),
    },
    Spec {
        name: "client-output-buffer-limit",
        kind: Kind::Bytes { min: 0, max: NO_MOST, auto: false },
        default: Default::Text("1gb"),
        change: Change::Live,
        doc: "The most bytes of replies that may wait for a client to read them; then it is closed. A command whose values or keys \
              alone would be longer (MGET, KEYS, memcached's get of many keys) is answered with an error. 0 = no limit. One number for \
              all clients, where Redis has a list of classes.",
        write: |config, value| config.live.output_bytes_hard_max = value.integer(),
        read: |config| Value::Integer(config.live.output_bytes_hard_max),
    },
    Spec {
        name: "client-output-buffer-soft-limit",
        kind: Kind::Bytes { min: 0, max: NO_MOST, auto: false },
        default: Default::Text("256mb"),
        change: Change::Live,
        doc: "As client-output-buffer-limit, for bytes that wait longer than client-output-buffer-soft-time. 0 = no limit.",
        write: |config, value| config.live.output_bytes_soft_max = value.integer(),
        read: |config| Value::Integer(config.live.output_bytes_soft_max),
    },
    Spec {
        name: "client-output-buffer-soft-time",
        kind: seconds(SECOND, DAY),
        default: Default::Text("60"),
        change: Change::Live,
        doc: "How long a client may stay over client-output-buffer-soft-limit.",
        write: |config, value| config.live.output_soft_time = value.duration(),
        read: |config| Value::Duration(config.live.output_soft_time),
    },
];

const LOG_LEVEL_NAMES: &[&str] = &["debug", "verbose", "notice", "warning", "nothing"];
const LOG_LEVELS: [LogLevel; LOG_LEVEL_NAMES.len()] =
    [LogLevel::Debug, LogLevel::Verbose, LogLevel::Notice, LogLevel::Warning, LogLevel::Nothing];
const LOG_FORMAT_NAMES: &[&str] = &["text", "json"];
const LOG_FORMATS: [LogFormat; LOG_FORMAT_NAMES.len()] = [LogFormat::Text, LogFormat::Json];

const LOG: &[Spec<Config>] = &[
    Spec {
        name: "loglevel",
        kind: Kind::Choice(LOG_LEVEL_NAMES),
        default: Default::Text("notice"),
        change: Change::Live,
        doc: "How much is logged, from everything to nothing.",
        write: |config, value| config.live.log_level = value.choice(&LOG_LEVELS),
        read: |config| Value::from_choice(&LOG_LEVELS, config.live.log_level),
    },
    Spec {
        name: "log-format",
        kind: Kind::Choice(LOG_FORMAT_NAMES),
        default: Default::Text("text"),
        change: Change::Start,
        doc: "Log lines for people, or one JSON object a line.",
        write: |config, value| config.log_format = value.choice(&LOG_FORMATS),
        read: |config| Value::from_choice(&LOG_FORMATS, config.log_format),
    },
    Spec {
        name: "logfile",
        kind: Kind::Path,
        default: Default::Text(""),
        change: Change::Start,
        doc: "The file the log is added to. Empty = standard output.",
        write: |config, value| config.log_file = value.text_or_none().map(PathBuf::from),
        read: |config| Value::Text(config.log_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default()),
    },
    Spec {
        name: "shutdown-timeout",
        kind: seconds(Duration::ZERO, HOUR),
        default: Default::Text("10"),
        change: Change::Start,
        doc: "After SIGTERM or SIGINT: how long commands, loads and unsent replies may take before connections are closed \
              anyway.",
        write: |config, value| config.shutdown_timeout = value.duration(),
        read: |config| Value::Duration(config.shutdown_timeout),
    },
    Spec {
        name: "welcome",
        kind: Kind::Lines,
        default: Default::Text(""),
        change: Change::Start,
        doc: "Lines printed to standard output once the server listens.",
        write: |config, value| config.welcome = value.lines(),
        read: |config| Value::Lines(config.welcome.clone()),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_enough_for_the_cpus_and_the_memory() {
        assert_eq!(shards_of(2, 0), 256);
        assert_eq!(shards_of(2, 23 << 30), 256);
        assert_eq!(shards_of(12, 64 << 30), 1024);
        assert_eq!(shards_of(2, 300 << 30), 512);
        assert_eq!(shards_of(512, 64 << 40), 4096);
    }
}
