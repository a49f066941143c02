//! Every option: the server's in groups, those of `[sources.NAME]`, those of `[loaders.NAME]`.
//!
//! Redis's names and units where Redis has the option. An option of Redis that means nothing here (`save`, `appendonly`,
//! `notify-keyspace-events` …) has no row: `CONFIG GET` answers nothing for it, which clients take for an old server, and
//! setting it is an error rather than a promise.

use super::spec::{Change, Default, Kind, NO_MOST, Spec, Unit, Value};
use super::{BindAddress, Config, Live, LoaderConfig, LogFormat, LogLevel, Secret};
use leasehold_command::ServeStale;
use leasehold_keyspace::settings::DATABASES_MAX;
use leasehold_keyspace::{Db, EvictionPolicy, LeaseSettings};
use leasehold_loader_sql::{BigNumbers, LoaderSettings, SourceSettings, ValueFormat};
use leasehold_protocol::Limits;
use std::net::{IpAddr, Ipv4Addr};
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
    Group { title: "Threads and data", options: THREADS },
    Group { title: "Memory", options: MEMORY },
    Group { title: "Leases", options: LEASES },
    Group { title: "Limits of a client", options: LIMITS },
    Group { title: "Log and life", options: LOG },
];

/// The server's options without their groups.
pub(crate) fn server_options() -> impl Iterator<Item = &'static Spec<Config>> {
    GROUPS.iter().flat_map(|group| group.options)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MS: Duration = Duration::from_millis(1);
const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

/// A duration of ours whose bare number counts milliseconds.
const fn ms(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, unit: Some(Unit::Milliseconds), auto: false }
}

/// A duration of Redis's whose bare number counts seconds.
const fn seconds(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, unit: Some(Unit::Seconds), auto: false }
}

/// A duration that says its unit.
const fn span(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, unit: None, auto: false }
}

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max, auto: false }
}

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

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

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
            config.threads = if value == Value::Auto { super::machine::usable_cpus() } else { value.usize() };
        },
        read: |config| Value::from_usize(config.threads),
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
                if value == Value::Auto { (super::machine::usable_cpus() / 2).clamp(1, 4) } else { value.usize() };
        },
        read: |config| Value::from_usize(config.loader_threads),
    },
    Spec {
        name: "shards",
        kind: Kind::PowerOfTwo { min: 1, max: 4096 },
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "Parts of the keyspace, each with its own lock. \"auto\" = 64 for each usable CPU, at least 256.",
        write: |config, value| {
            config.shards = if value == Value::Auto {
                (super::machine::usable_cpus() * 64).next_power_of_two().clamp(256, 4096)
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

const POLICY_NAMES: &[&str] =
    &["noeviction", "allkeys-lru", "volatile-lru", "allkeys-random", "volatile-random", "volatile-ttl"];
const POLICIES: [EvictionPolicy; POLICY_NAMES.len()] = [
    EvictionPolicy::NoEviction,
    EvictionPolicy::AllKeysLru,
    EvictionPolicy::VolatileLru,
    EvictionPolicy::AllKeysRandom,
    EvictionPolicy::VolatileRandom,
    EvictionPolicy::VolatileTtl,
];

const MEMORY: &[Spec<Config>] = &[
    Spec {
        name: "maxmemory",
        kind: Kind::Bytes { min: 0, max: NO_MOST },
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
        default: Default::Text("allkeys-lru"),
        change: Change::Live,
        doc: "What goes when maxmemory is reached: the least recently used entry, a random one, or the one that expires \
              first; \"volatile\" looks only at entries with a TTL. With \"noeviction\", which is Redis's default, writes \
              get an OOM error instead.",
        write: |config, value| config.live.policy = value.choice(&POLICIES),
        read: |config| Value::from_choice(&POLICIES, config.live.policy),
    },
    Spec {
        name: "maxmemory-samples",
        kind: integer(1, 64),
        default: Default::Text("5"),
        change: Change::Live,
        doc: "Entries compared to find one to evict. More is closer to the true order and costs more time.",
        write: |config, value| config.live.eviction_samples = value.u8(),
        read: |config| Value::Integer(config.live.eviction_samples.into()),
    },
    Spec {
        name: "negative-memory",
        kind: Kind::Bytes { min: 0, max: NO_MOST },
        default: Default::Text("64mb"),
        change: Change::Live,
        doc: "Memory, within maxmemory, for remembered absences and deletions, so that a scan of keys that do not exist \
              cannot push out entries that do. Never more than half of maxmemory is used.",
        write: |config, value| config.live.negative_memory_bytes = value.integer(),
        read: |config| Value::Integer(config.live.negative_memory_bytes),
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
              = four times the key's recent load time, at least 50 ms, at most the lease.",
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
        doc: "Clients that may wait on one key. One more gets WAIT at once.",
        write: |config, value| config.live.lease.waiters_per_key_max = value.usize(),
        read: |config| Value::from_usize(config.live.lease.waiters_per_key_max),
    },
    Spec {
        name: "lease-waiters-max",
        kind: integer(0, 10_000_000),
        default: Default::Text("100000"),
        change: Change::Live,
        doc: "Clients that may wait on all keys together. One more gets WAIT at once.",
        write: |config, value| config.live.lease.waiters_max = value.usize(),
        read: |config| Value::from_usize(config.live.lease.waiters_max),
    },
    Spec {
        name: "lease-records-max",
        kind: integer(1, 100_000_000),
        default: Default::Text("1000000"),
        change: Change::Live,
        doc: "Keys with a lease at one time. Over it the oldest lease that nobody waits on is forgotten, and its fill is LOST.",
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
        kind: Kind::Bytes { min: KB, max: 512 * MB },
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
        kind: Kind::Bytes { min: 64, max: MB },
        default: Default::Text("64kb"),
        change: Change::Start,
        doc: "The longest command typed as a plain line, as by telnet or nc.",
        write: |config, value| config.limits.inline_bytes_max = value.usize(),
        read: |config| Value::from_usize(config.limits.inline_bytes_max),
    },
    Spec {
        name: "client-query-buffer-limit",
        kind: Kind::Bytes { min: 64 * KB, max: GB },
        default: Default::Text("1gb"),
        change: Change::Start,
        doc: "The most bytes of one command in all. A client that sends more is closed.",
        write: |config, value| config.limits.request_bytes_max = value.usize(),
        read: |config| Value::from_usize(config.limits.request_bytes_max),
    },
    Spec {
        name: "client-output-buffer-limit",
        kind: Kind::Bytes { min: 0, max: NO_MOST },
        default: Default::Text("1gb"),
        change: Change::Live,
        doc: "The most bytes of replies that may wait for a client to read them; then it is closed. 0 = no limit. One number \
              for all clients, where Redis has a list of classes.",
        write: |config, value| config.live.output_bytes_hard_max = value.integer(),
        read: |config| Value::Integer(config.live.output_bytes_hard_max),
    },
    Spec {
        name: "client-output-buffer-soft-limit",
        kind: Kind::Bytes { min: 0, max: NO_MOST },
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

/// The keys of `[sources.NAME]`.
pub(crate) const SOURCE: &[Spec<SourceSettings>] = &[
    Spec {
        name: "url",
        kind: Kind::Secret,
        default: Default::Absent { example: "postgres://app@localhost/shop" },
        change: Change::Start,
        doc: "The database: \"postgres://user:password@host/database\" or \"sqlite:file.db\" (relative to the working \
              directory). ${NAME} stands for a variable of the environment. CONFIG GET and errors never show it.",
        write: |source, value| source.url = value.text(),
        read: |source| Value::Text(source.url.clone()),
    },
    Spec {
        name: "url_file",
        kind: Kind::SecretFile,
        default: Default::Absent { example: "/run/credentials/shop.url" },
        change: Change::Start,
        doc: "A file whose text is the url. Instead of url.",
        write: |source, value| source.url = value.text(),
        read: |_| Value::Absent,
    },
    Spec {
        name: "max_connections",
        kind: integer(1, 1_000),
        default: Default::Text("16"),
        change: Change::Start,
        doc: "Connections to this database. They are opened when loads need them.",
        write: |source, value| source.max_connections = value.u32(),
        read: |source| Value::Integer(source.max_connections.into()),
    },
    Spec {
        name: "statement_timeout",
        kind: span(Duration::from_millis(10), HOUR),
        default: Default::Text("2s"),
        change: Change::Start,
        doc: "The database ends a query that takes longer.",
        write: |source, value| source.statement_timeout = value.duration(),
        read: |source| Value::Duration(source.statement_timeout),
    },
    Spec {
        name: "acquire_timeout",
        kind: span(MS, MINUTE),
        default: Default::Text("1s"),
        change: Change::Start,
        doc: "How long a load waits for a free connection, or for a new one to be made.",
        write: |source, value| source.acquire_timeout = value.duration(),
        read: |source| Value::Duration(source.acquire_timeout),
    },
    Spec {
        name: "create_with",
        kind: Kind::Script,
        default: Default::Absent { example: "schema.sql" },
        change: Change::Start,
        doc: "For SQLite: a script that creates and fills the database if its file does not exist yet. Without it a missing \
              file is an error.",
        write: |source, value| source.create_with = value.text_or_none(),
        read: |source| Value::from_text(source.create_with.as_deref()),
    },
];

const VALUE_NAMES: &[&str] = &["json", "column"];
const VALUES: [ValueFormat; VALUE_NAMES.len()] = [ValueFormat::Json, ValueFormat::Column];
const BIG_NUMBER_NAMES: &[&str] = &["number", "string"];
const BIG_NUMBERS: [BigNumbers; BIG_NUMBER_NAMES.len()] = [BigNumbers::Number, BigNumbers::String];
const MODE_NAMES: &[&str] = &["transparent", "explicit"];
const MODES: [bool; MODE_NAMES.len()] = [true, false];
const SERVE_STALE_NAMES: &[&str] = &["never", "on-error", "always"];
const SERVE_STALES: [ServeStale; SERVE_STALE_NAMES.len()] =
    [ServeStale::Never, ServeStale::OnError, ServeStale::Always];

/// The keys of `[loaders.NAME]`.
pub(crate) const LOADER: &[Spec<LoaderConfig>] = &[
    Spec {
        name: "match",
        kind: Kind::Text,
        default: Default::Required { example: "user:{id:int}" },
        change: Change::Start,
        doc: "Which keys this loader loads: text and placeholders, {name} or {name:int}, {name:text}, {name:uuid}. A key \
              that does not fit is a plain miss. The patterns of two loaders must not fit the same key.",
        write: |loader, value| loader.settings.pattern = value.text(),
        read: |loader| Value::Text(loader.settings.pattern.clone()),
    },
    Spec {
        name: "source",
        kind: Kind::Text,
        default: Default::Required { example: "main" },
        change: Change::Start,
        doc: "The name of the [sources.NAME] to ask.",
        write: |loader, value| loader.source = value.text(),
        read: |loader| Value::Text(loader.source.clone()),
    },
    Spec {
        name: "sql",
        kind: Kind::Sql,
        default: Default::Required { example: "SELECT id, name, email FROM users WHERE id = $1" },
        change: Change::Start,
        doc: "The query for one key. $1, $2 … are the placeholders of match, in order; they are bound, never spliced in. \
              The columns named like the placeholders must come back, and must equal the key.",
        write: |loader, value| loader.settings.sql = value.text(),
        read: |loader| Value::Text(loader.settings.sql.clone()),
    },
    Spec {
        name: "batch_sql",
        kind: Kind::Sql,
        default: Default::Absent { example: "SELECT id, name, email FROM users WHERE id = ANY($1)" },
        change: Change::Start,
        doc: "One query for many keys: misses that come together, and all misses of an MGET, share it. $1 … are arrays here, on \
              SQLite as JSON: \"… WHERE id IN (SELECT value FROM json_each($1))\".",
        write: |loader, value| loader.settings.batch_sql = value.text_or_none(),
        read: |loader| Value::from_text(loader.settings.batch_sql.as_deref()),
    },
    Spec {
        name: "batch_key",
        kind: Kind::Lines,
        default: Default::Absent { example: "id" },
        change: Change::Start,
        doc: "The columns that hold the values of the placeholders, in order, in both queries; one may be written without \
              brackets. Without this option the columns are named like the placeholders.",
        write: |loader, value| loader.settings.batch_key = Some(value.lines()),
        read: |loader| loader.settings.batch_key.clone().map_or(Value::Absent, Value::Lines),
    },
    Spec {
        name: "value",
        kind: Kind::Choice(VALUE_NAMES),
        default: Default::Text("json"),
        change: Change::Start,
        doc: "What a row becomes: a JSON object of its columns, or the bytes of its one column that is not part of the key.",
        write: |loader, value| loader.settings.value = value.choice(&VALUES),
        read: |loader| Value::from_choice(&VALUES, loader.settings.value),
    },
    Spec {
        name: "big_numbers",
        kind: Kind::Choice(BIG_NUMBER_NAMES),
        default: Default::Text("number"),
        change: Change::Start,
        doc: "How JSON holds whole numbers beyond 2^53, which JavaScript and others round: as numbers, or as strings.",
        write: |loader, value| loader.settings.big_numbers = value.choice(&BIG_NUMBERS),
        read: |loader| Value::from_choice(&BIG_NUMBERS, loader.settings.big_numbers),
    },
    Spec {
        name: "mode",
        kind: Kind::Choice(MODE_NAMES),
        default: Default::Text("transparent"),
        change: Change::Start,
        doc: "Whether GET and MGET load what is missing, or only LOADTHROUGH and MLOADTHROUGH do.",
        write: |loader, value| loader.transparent = value.choice(&MODES),
        read: |loader| Value::from_choice(&MODES, loader.transparent),
    },
    Spec {
        name: "db",
        kind: integer(0, DATABASES_MAX as u64 - 1),
        default: Default::Text("0"),
        change: Change::Start,
        doc: "The database (SELECT) whose keys this loader loads.",
        write: |loader, value| loader.db = Db(value.u8()),
        read: |loader| Value::Integer(loader.db.0.into()),
    },
    Spec {
        name: "ttl",
        kind: span(MS, YEAR),
        default: Default::Text("5m"),
        change: Change::Start,
        doc: "How long a loaded value is fresh.",
        write: |loader, value| loader.ttl = value.duration(),
        read: |loader| Value::Duration(loader.ttl),
    },
    Spec {
        name: "jitter",
        kind: Kind::Ratio { min: 0.0, max: 0.5 },
        default: Default::Text("0.1"),
        change: Change::Start,
        doc: "The share of the TTL by which it is spread up and down, so that keys loaded together do not expire together.",
        write: |loader, value| loader.jitter = value.ratio(),
        read: |loader| Value::Ratio(loader.jitter),
    },
    Spec {
        name: "negative_ttl",
        kind: span(Duration::ZERO, DAY),
        default: Default::Text("10s"),
        change: Change::Start,
        doc: "How long it is remembered that there is no such row. 0 = not at all.",
        write: |loader, value| loader.negative_ttl = value.duration(),
        read: |loader| Value::Duration(loader.negative_ttl),
    },
    Spec {
        name: "stale_for",
        kind: span(Duration::ZERO, YEAR),
        default: Default::Text("0"),
        change: Change::Start,
        doc: "How long past its TTL a value is kept as stale, for serve_stale.",
        write: |loader, value| loader.stale_for = value.duration(),
        read: |loader| Value::Duration(loader.stale_for),
    },
    Spec {
        name: "serve_stale",
        kind: Kind::Choice(SERVE_STALE_NAMES),
        default: Default::Text("on-error"),
        change: Change::Start,
        doc: "When a stale value is the answer: never; when the load fails or takes longer than soft_timeout; or always, with \
              a load behind it.",
        write: |loader, value| loader.serve_stale = value.choice(&SERVE_STALES),
        read: |loader| Value::from_choice(&SERVE_STALES, loader.serve_stale),
    },
    Spec {
        name: "soft_timeout",
        kind: span(MS, HOUR),
        default: Default::Text("50ms"),
        change: Change::Start,
        doc: "How long a client waits for a load when there is a stale value to answer instead.",
        write: |loader, value| loader.soft_timeout = value.duration(),
        read: |loader| Value::Duration(loader.soft_timeout),
    },
    Spec {
        name: "hard_timeout",
        kind: span(MS, HOUR),
        default: Default::Text("2s"),
        change: Change::Start,
        doc: "How long a client waits for a load at all; then it gets LOADFAIL. The load goes on and still fills.",
        write: |loader, value| loader.hard_timeout = value.duration(),
        read: |loader| Value::Duration(loader.hard_timeout),
    },
    Spec {
        name: "max_concurrency",
        kind: integer(1, 10_000),
        default: Default::Text("32"),
        change: Change::Start,
        doc: "Queries of this loader under way at one time. More than max_connections of the source only wait there.",
        write: |loader, value| loader.concurrency_max = value.usize(),
        read: |loader| Value::from_usize(loader.concurrency_max),
    },
    Spec {
        name: "queue",
        kind: integer(0, 1_000_000),
        default: Default::Text("1000"),
        change: Change::Start,
        doc: "Keys that may wait for a query of this loader. One more gets LOADBUSY, or the stale value.",
        write: |loader, value| loader.queue_max = value.usize(),
        read: |loader| Value::from_usize(loader.queue_max),
    },
    Spec {
        name: "batch_window",
        kind: span(Duration::ZERO, SECOND),
        default: Default::Text("1ms"),
        change: Change::Start,
        doc: "How long a miss waits for others to share batch_sql with. 0 = it does not wait, and shares with those that are \
              already there.",
        write: |loader, value| loader.batch_window = value.duration(),
        read: |loader| Value::Duration(loader.batch_window),
    },
    Spec {
        name: "batch_max",
        kind: integer(1, 10_000),
        default: Default::Text("500"),
        change: Change::Start,
        doc: "The most keys of one batch_sql.",
        write: |loader, value| loader.settings.batch_max = value.usize(),
        read: |loader| Value::from_usize(loader.settings.batch_max),
    },
    Spec {
        name: "version_column",
        kind: Kind::Text,
        default: Default::Absent { example: "updated_at" },
        change: Change::Start,
        doc: "A column that only grows, an integer or a timestamp: it becomes the value's version, and an older row never \
              replaces a newer one.",
        write: |loader, value| loader.settings.version_column = value.text_or_none(),
        read: |loader| Value::from_text(loader.settings.version_column.as_deref()),
    },
    Spec {
        name: "row_bytes_max",
        kind: Kind::Bytes { min: KB, max: 512 * MB },
        default: Default::Text("16mb"),
        change: Change::Start,
        doc: "The longest value this loader may make; a larger one is a LOADFAIL.",
        write: |loader, value| loader.settings.row_bytes_max = value.usize(),
        read: |loader| Value::from_usize(loader.settings.row_bytes_max),
    },
];

// What a field holds before the table's defaults fill it; no row is left out, as a test shows.

impl std::default::Default for Config {
    fn default() -> Self {
        let lease = LeaseSettings {
            lease_ms: 0,
            lease_ms_max: 0,
            reissue_after_ms: None,
            waiters_per_key_max: 0,
            waiters_max: 0,
            records_max: 0,
            tombstone_ttl_ms: 0,
            invalidated_stale_ms: 0,
        };
        let live = Live {
            clients_max: 0,
            idle_timeout: None,
            tcp_keepalive: None,
            output_bytes_hard_max: 0,
            output_bytes_soft_max: 0,
            output_soft_time: Duration::ZERO,
            memory_bytes_max: 0,
            policy: EvictionPolicy::NoEviction,
            eviction_samples: 0,
            negative_memory_bytes: 0,
            lease,
            wait_max: Duration::ZERO,
            log_level: LogLevel::Notice,
            password: Secret::default(),
        };
        let mut config = Self {
            bind: vec![BindAddress { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), optional: false }],
            port: 0,
            tcp_backlog: 0,
            threads: 0,
            loader_threads: 0,
            shards: 0,
            databases: 0,
            limits: Limits::DEFAULT,
            shutdown_timeout: Duration::ZERO,
            log_format: LogFormat::Text,
            log_file: None,
            welcome: Vec::new(),
            live,
            sources: Vec::new(),
            loaders: Vec::new(),
        };
        fill_defaults(server_options(), &mut config);
        config
    }
}

/// A source of this name with the defaults of the table.
pub(crate) fn source_named(name: &str) -> SourceSettings {
    let mut source = SourceSettings::new(name, "");
    fill_defaults(SOURCE.iter(), &mut source);
    source
}

/// A loader of this name with the defaults of the table.
pub(crate) fn loader_named(name: &str) -> LoaderConfig {
    let mut loader = LoaderConfig {
        settings: LoaderSettings::new(name, "", ""),
        source: String::new(),
        db: Db(0),
        transparent: false,
        serve_stale: ServeStale::Never,
        ttl: Duration::ZERO,
        jitter: 0.0,
        negative_ttl: Duration::ZERO,
        stale_for: Duration::ZERO,
        soft_timeout: Duration::ZERO,
        hard_timeout: Duration::ZERO,
        concurrency_max: 0,
        queue_max: 0,
        batch_window: Duration::ZERO,
    };
    fill_defaults(LOADER.iter(), &mut loader);
    loader
}

fn fill_defaults<T: 'static>(options: impl Iterator<Item = &'static Spec<T>>, target: &mut T) {
    for option in options {
        if let Default::Text(text) = option.default {
            let value = option.kind.parse(text).expect("the table's defaults are values of their kinds");
            (option.write)(target, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every default is a value of its kind, and comes back from its field as it went in.
    fn defaults_round_trip<T: 'static>(options: impl Iterator<Item = &'static Spec<T>>, target: &mut T) {
        for option in options {
            if let Default::Text(text) = option.default {
                let value = option.kind.parse(text).unwrap_or_else(|wrong| panic!("{}: {wrong:?}", option.name));
                (option.write)(target, value.clone());
                let back = (option.read)(target);
                let lost = matches!((&value, &back), (Value::Auto, Value::Integer(_)));
                assert!(lost || value == back, "{}: {value:?} came back as {back:?}", option.name);
            }
        }
    }

    /// A value of the kind that is not the default.
    fn other_value(kind: Kind, default: &Value) -> Value {
        let candidates = match kind {
            Kind::Integer { min, max, .. } | Kind::Bytes { min, max } | Kind::PowerOfTwo { min, max } => {
                vec![Value::Integer(min), Value::Integer(max)]
            }
            Kind::Duration { min, max, .. } => vec![Value::Duration(min), Value::Duration(max)],
            Kind::Ratio { min, max } => vec![Value::Ratio(min), Value::Ratio(max)],
            Kind::Choice(words) => (0..words.len()).map(Value::Choice).collect(),
            Kind::Text | Kind::Sql | Kind::Secret | Kind::SecretFile | Kind::Script | Kind::Path => {
                vec![Value::Text("other".to_owned())]
            }
            Kind::Lines => vec![Value::Lines(vec!["other".to_owned()])],
            Kind::Addresses => {
                vec![Value::Addresses(vec![BindAddress { ip: Ipv4Addr::UNSPECIFIED.into(), optional: false }])]
            }
        };
        candidates.into_iter().find(|value| value != default).expect("a kind has more than one value")
    }

    /// Writing another value changes this option's field, to that value, and no other option's.
    fn rows_have_a_field_each<T: 'static>(options: &[&'static Spec<T>], fresh: impl Fn() -> T) {
        for option in options {
            let mut target = fresh();
            let value = other_value(option.kind, &(option.read)(&target));
            (option.write)(&mut target, value.clone());
            // A file that stands for another option shows there.
            if !matches!(option.kind, Kind::SecretFile) {
                assert_eq!((option.read)(&target), value, "{}", option.name);
                for other in options.iter().filter(|other| other.name != option.name) {
                    assert_eq!((other.read)(&target), (other.read)(&fresh()), "{} moved {}", option.name, other.name);
                }
            }
        }
    }

    #[test]
    fn defaults_are_values_of_their_kinds() {
        defaults_round_trip(server_options(), &mut Config::default());
        defaults_round_trip(SOURCE.iter(), &mut source_named("a"));
        defaults_round_trip(LOADER.iter(), &mut loader_named("a"));
    }

    #[test]
    fn each_option_has_a_field_of_its_own_over_its_whole_range() {
        rows_have_a_field_each(&server_options().collect::<Vec<_>>(), Config::default);
        rows_have_a_field_each(&SOURCE.iter().collect::<Vec<_>>(), || source_named("a"));
        rows_have_a_field_each(&LOADER.iter().collect::<Vec<_>>(), || loader_named("a"));
    }

    #[test]
    fn names_are_unique_and_of_one_spelling() {
        let server: Vec<&str> = server_options().map(|option| option.name).collect();
        let source: Vec<&str> = SOURCE.iter().map(|option| option.name).collect();
        let loader: Vec<&str> = LOADER.iter().map(|option| option.name).collect();
        let groups = [(server, b'-'), (source, b'_'), (loader, b'_')];
        for (names, joint) in groups {
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{names:?}");
            let fits = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == joint);
            assert!(names.iter().all(fits), "{names:?}");
        }
    }

    #[test]
    fn docs_are_one_to_three_sentences() {
        let docs = server_options()
            .map(|option| (option.name, option.doc))
            .chain(SOURCE.iter().map(|option| (option.name, option.doc)))
            .chain(LOADER.iter().map(|option| (option.name, option.doc)));
        for (name, doc) in docs {
            assert!(doc.ends_with('.') && !doc.contains("  ") && doc.len() < 400, "{name}: {doc}");
        }
    }
}
