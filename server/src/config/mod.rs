//! What the process was told: every option once, in one table ([`options`]), and the settings they fill.
//!
//! The way of a value: command line and file → [`parse`] (against the table; every mistake is kept, with its place) →
//! [`check`] (what only holds between options) → [`Config`]. [`render`] writes `conf/leasehold.toml` from the same table,
//! and [`live`] answers `CONFIG GET` and `CONFIG SET` from it. No option is described anywhere else.

pub(crate) mod check;
pub(crate) mod live;
pub(crate) mod machine;
#[cfg(test)]
mod mistakes;
pub(crate) mod options;
pub(crate) mod parse;
pub(crate) mod problem;
pub(crate) mod render;
pub(crate) mod spec;
pub(crate) mod text;

use leasehold_cluster::{Address, Member, NodeSettings, Pool, Rules, StandIns, Topology};
use leasehold_command::{Routing, ServeStale};
use leasehold_keyspace::{Db, EvictionPolicy, HashSeed, LeaseSettings, Objective, Settings};
use leasehold_loader_api::BreakerSettings;
use leasehold_loader_sql::{FeedColumn, FeedSettings, Fsync, JournalSettings, LoaderSettings, SourceSettings, Via};
use leasehold_protocol::{Limits, memcached};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the process runs with. The defaults are those of the option table: [`Config::default`] fills it from there.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Addresses to listen on.
    pub bind: Vec<BindAddress>,
    pub port: u16,
    /// Of memcached's protocol; 0 = none.
    pub memcached_port: u16,
    pub memcached_key_bytes_max: usize,
    /// Most bytes of an entry that a memcached client may store, as memcached counts them.
    pub item_size_max: usize,
    /// Names and passwords of memcached clients; none: they need not authenticate.
    pub memcached_users: Vec<(String, Secret)>,
    /// Whether memcached clients may end the server.
    pub memcached_shutdown: bool,
    /// Length of the queue of connections the kernel has accepted and we have not.
    pub tcp_backlog: u32,
    /// Data threads.
    pub threads: usize,
    /// Whether each data thread stays on one CPU.
    pub pin_threads: bool,
    /// Threads of the runtime that runs the loaders.
    pub loader_threads: usize,
    /// Shards of the keyspace, a power of two.
    pub shards: usize,
    /// Logical databases, 1 to 16.
    pub databases: u8,
    pub limits: Limits,
    /// Memory for when each tag was last invalidated.
    pub tag_memory_bytes: u64,
    /// Whether memory that is in use for long may lie in huge pages.
    pub huge_pages: bool,
    /// How long connections may go on after SIGTERM.
    pub shutdown_timeout: Duration,
    pub log_format: LogFormat,
    /// Where the log goes; `None` = standard output.
    pub log_file: Option<PathBuf>,
    /// Lines for standard output once the server listens.
    pub welcome: Vec<String>,
    /// What `CONFIG SET` changes.
    pub live: Live,
    /// In the order of the file.
    pub sources: Vec<SourceSettings>,
    /// In the order of the file.
    pub loaders: Vec<LoaderConfig>,
    /// In the order of the file.
    pub feeds: Vec<FeedConfig>,
    pub journal: JournalConfig,
    pub auditor: AuditorConfig,
    /// Name of the node that this process is; `None`: it is alone.
    pub node: Option<String>,
    /// In the order of the file.
    pub nodes: Vec<NodeConfig>,
    /// What becomes of commands on keys of other nodes: `Auto`, `Redirect` or `Forward`.
    pub routing: Routing,
    /// How long another node may say nothing while it is asked.
    pub peer_timeout: Duration,
    /// So many failures in a row, and another node is not asked any more.
    pub peer_failures: u32,
    /// How often other nodes are asked whether they are there; `None`: as `peer_timeout` allows.
    pub peer_ping: Option<Duration>,
    /// How long a node is not asked that fails again soon after its return.
    pub flap_out: Duration,
    /// Who answers reads for a node that is out.
    pub gutter: StandIns,
    /// What is loaded for such a node lives no longer.
    pub gutter_ttl: Duration,
    /// Reads a second that make a key hot; 0: none is.
    pub hot_key_rate: u64,
    /// Longest life of a copy.
    pub hot_key_ttl: Duration,
    /// Share of requests that may go to stand-ins.
    pub failover_share: f64,
    /// So many may go at once.
    pub failover_burst: u32,
}

impl Config {
    /// The nodes, and which of them this process is; `None`: it is alone.
    ///
    /// # Panics
    /// If `check` has found an error.
    pub(crate) fn member(&self) -> Option<Member> {
        let name = self.node.as_deref()?;
        let list =
            self.nodes.iter().map(NodeConfig::settings).collect::<Option<Vec<_>>>().expect("addresses are checked");
        let topology = Topology::new(list).expect("the list is checked");
        Some(Member::new(topology, name).expect("the name is checked"))
    }

    /// By which numbers this node judges the others.
    pub(crate) fn peer_rules(&self) -> Rules {
        /// Longest time between two pings, where nobody says otherwise.
        const PING_EVERY_MS: u64 = 100;
        let timeout_ms = self.peer_timeout.as_millis() as u64;
        let ping_every_ms = self.peer_ping.map_or(PING_EVERY_MS.min(timeout_ms / 10), |span| span.as_millis() as u64);
        Rules {
            peer_timeout_ms: timeout_ms,
            failures_max: self.peer_failures,
            ping_every_ms,
            // A word outlives three pings that are lost.
            vouch_ms: 4 * ping_every_ms,
            flap_out_ms: self.flap_out.as_millis() as u64,
            stand_ins: self.gutter,
            gutter_ttl_ms: self.gutter_ttl.as_millis() as u64,
            failover_share: (self.failover_share * 1_000.0) as u32,
            failover_burst: self.failover_burst,
            // It gets all of its keys at once: stand-ins are not told of what changes while it is there.
            ramp_start: 1_000,
            ..Rules::default()
        }
    }

    /// What a request of memcached's may be.
    pub(crate) fn memcached_limits(&self) -> memcached::Limits {
        let key_bytes_max = self.memcached_key_bytes_max;
        memcached::Limits {
            // Room for a key and what else stands on a line.
            line_bytes_max: memcached::Limits::DEFAULT.line_bytes_max.max(key_bytes_max + 1024),
            multiget_bytes_max: self.limits.request_bytes_max,
            words_max: self.limits.args_max,
            key_bytes_max,
            entry_bytes_max: self.item_size_max,
        }
    }

    /// The keyspace's settings; the seed of the hash is not part of them.
    pub(crate) fn keyspace_settings(&self, boot_unix_ms: u64) -> Settings {
        Settings {
            shards: self.shards,
            memory_bytes_max: self.live.memory_bytes_max,
            policy: self.live.policy,
            absence_bytes_max: self.live.absence_bytes_max(),
            boot_unix_ms,
            lease: self.live.lease,
        }
    }
}

/// The settings `CONFIG SET` may change while the server runs. A thread works with its own copy and takes a new one when
/// [`live::LiveConfig::generation`] has moved.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Connections in all; one more is refused.
    pub clients_max: usize,
    /// Idle connections are closed after so long; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Idle time before the kernel probes a peer; `None` = never. For connections accepted from now on.
    pub tcp_keepalive: Option<Duration>,
    /// A connection whose unsent replies take more bytes is closed; 0 = no limit.
    pub output_bytes_hard_max: u64,
    /// A connection whose unsent replies take more bytes for longer than [`Live::output_soft_time`] is closed; 0 = no limit.
    pub output_bytes_soft_max: u64,
    pub output_soft_time: Duration,
    /// 0 = no limit.
    pub memory_bytes_max: u64,
    pub policy: EvictionPolicy,
    pub objective: Objective,
    pub eviction_samples: u8,
    /// What ends the prefix of a key; `None`: nothing.
    pub prefix_delimiter: Option<u8>,
    /// Whether shadow caches run.
    pub whatif: bool,
    /// As configured, `None` = auto; the keyspace is given [`Live::absence_bytes_max`].
    pub negative_memory_bytes: Option<u64>,
    pub lease: LeaseSettings,
    /// Longest time a client may park with `WAIT` or `TIMEOUT`.
    pub wait_max: Duration,
    pub log_level: LogLevel,
    /// What AUTH must bring; empty = no password.
    pub password: Secret,
}

impl Live {
    /// Memory for absences in bytes: never more than half of a limited memory.
    pub(crate) fn absence_bytes_max(&self) -> u64 {
        /// Without a limit, and without a word on it.
        const BYTES: u64 = 64 << 20;
        /// Part of a limit.
        const SHARE: u64 = 128;
        match (self.negative_memory_bytes, self.memory_bytes_max) {
            (asked, 0) => asked.unwrap_or(BYTES),
            (Some(asked), memory) => asked.min(memory / 2),
            (None, memory) => memory / SHARE,
        }
    }
}

/// A text nobody may see: `Debug` hides it, and it has no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(pub String);

impl Secret {
    /// Whether there is no secret.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `attempt` is this secret, in a time that does not tell how much of it was right.
    pub(crate) fn accepts(&self, attempt: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let mut difference = u8::from(secret.len() != attempt.len());
        for (index, byte) in attempt.iter().enumerate() {
            difference |= byte ^ secret.get(index).copied().unwrap_or(0);
        }
        // Without the fence the optimiser may leave the loop at the first difference.
        std::hint::black_box(difference) == 0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "(none)" } else { "(hidden)" })
    }
}

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BindAddress {
    pub ip: IpAddr,
    /// Written with a leading `-`: it is no error if this machine has no such address.
    pub optional: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Redis's log levels, from the most to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    Debug,
    Verbose,
    Notice,
    Warning,
    Nothing,
}

/// What brings the values of some keys: `[loaders.NAME]`.
#[derive(Clone, Debug)]
pub(crate) struct LoaderConfig {
    /// Name, pattern, queries and form of the value, as the loader itself needs them.
    pub settings: LoaderSettings,
    /// Name of the source; it exists.
    pub source: String,
    /// Keys of other databases are not this loader's.
    pub db: Db,
    /// Whether GET and MGET load, or only LOADTHROUGH does.
    pub transparent: bool,
    /// What SET and DEL do beside changing the cache.
    pub write: WriteMode,
    pub serve_stale: ServeStale,
    pub ttl: Duration,
    /// Share of the TTL by which it is spread up and down, 0 to 0.5.
    pub jitter: f64,
    pub negative_ttl: Duration,
    pub stale_for: Duration,
    pub refresh: RefreshMode,
    /// Share of the TTL, 0.1 to 0.99.
    pub refresh_at: f64,
    pub refresh_beta: f64,
    /// Keys a second that LOADER WARM loads if it does not say.
    pub warm_rate: u32,
    /// Keys that one LOADER WARM may list.
    pub warm_keys_max: usize,
    pub soft_timeout: Duration,
    pub hard_timeout: Duration,
    /// Queries of this loader under way at one time.
    pub concurrency_max: usize,
    /// Keys that wait for a query of this loader.
    pub queue_max: usize,
    /// How long a load waits for others to share its query.
    pub batch_window: Duration,
    pub breaker: BreakerSettings,
    /// How long readers hear of a failed load without another.
    pub error_ttl: Duration,
    /// As `error_ttl`, for a row that is larger than the loader takes.
    pub too_large_ttl: Duration,
}

impl LoaderConfig {
    /// What every key of the pattern begins with: all up to the first brace, of a placeholder or a doubled one that stands for
    /// itself.
    pub(crate) fn key_prefix(&self) -> Vec<u8> {
        let literal = self.settings.pattern.split(['{', '}']).next().unwrap_or_default();
        literal.as_bytes().to_vec()
    }

    /// What the loader itself is told: statements that write only if it does.
    pub(crate) fn loader_settings(&self) -> LoaderSettings {
        let mut settings = self.settings.clone();
        if self.write == WriteMode::Off {
            (settings.upsert_sql, settings.delete_sql) = (None, None);
        }
        settings.journaled = self.write == WriteMode::Behind;
        settings
    }
}

/// What a write of a loader's key does beside changing the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteMode {
    Off,
    /// The source has committed it before the reply.
    Through,
    /// The journal has it before the reply, the source later.
    Behind,
}

/// Where writes that are behind wait for their source: `[journal]`.
#[derive(Clone, Debug)]
pub(crate) struct JournalConfig {
    /// The directory; `None`: there is no journal.
    pub directory: Option<PathBuf>,
    pub fsync: Fsync,
    pub segment_bytes: u64,
    pub bytes_max: u64,
    /// Changes that are pending at one time, of all loaders together.
    pub pending_max: usize,
    /// How long a change waits for others to its key, and for company.
    pub flush_interval: Duration,
    /// Changes in one transaction.
    pub flush_batch: usize,
    /// How often a change is tried that its source refuses.
    pub attempts_max: u32,
    pub letters_max: usize,
}

impl JournalConfig {
    /// What the journal itself is told.
    pub(crate) fn settings(&self) -> Option<JournalSettings> {
        Some(JournalSettings {
            directory: self.directory.clone()?,
            fsync: self.fsync,
            segment_bytes: self.segment_bytes,
            bytes_max: self.bytes_max,
        })
    }
}

/// How the cache is compared with the sources: `[auditor]`.
#[derive(Clone, Debug)]
pub(crate) struct AuditorConfig {
    /// Whether there is an `[auditor]`.
    pub is_on: bool,
    /// Entries a second.
    pub rate: u32,
    /// The scales of time as they were written; see [`AuditorConfig::scales`].
    pub after: Vec<String>,
    /// Names of loaders that are left alone; they exist.
    pub exclude: Vec<String>,
    /// Keys whose history is kept.
    pub keys_max: usize,
    /// Violations that are kept.
    pub violations_max: usize,
    pub shows_values: bool,
}

impl AuditorConfig {
    /// How long an entry must have differed to be reported. What is no duration is left out, which `check` has told.
    pub(crate) fn scales(&self) -> Vec<Duration> {
        self.after.iter().filter_map(|scale| text::parse_duration(scale)).collect()
    }
}

/// Whether values are loaded anew before they expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshMode {
    Off,
    /// At the first access past a share of the TTL.
    Ahead,
    /// By chance, the likelier the nearer the end.
    XFetch,
}

/// One of several nodes: `[nodes.NAME]`.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub name: String,
    /// As it was written.
    pub address: String,
    pub weight: u32,
    pub pool: Pool,
}

impl NodeConfig {
    /// What the topology is told; `None`: the address is none, which `check` has told.
    pub(crate) fn settings(&self) -> Option<NodeSettings> {
        let address = Address::parse(&self.address)?;
        let (name, zone) = (self.name.clone(), String::new());
        Some(NodeSettings { name, address, weight: self.weight, pool: self.pool, zone })
    }
}

/// What tells of changes in a database: `[feeds.NAME]`.
#[derive(Clone, Debug)]
pub(crate) struct FeedConfig {
    /// As the feed itself needs them, but for its key columns; see [`FeedConfig::settings`].
    pub settings: FeedSettings,
    /// The key columns as they were written.
    pub key: Vec<String>,
    /// Name of the source; it exists.
    pub source: String,
    /// Names of the loaders that the feed covers; they exist.
    pub loaders: Vec<String>,
    /// What the feed covers is stale when it was not up to date for so long.
    pub stale_after: Duration,
}

impl FeedConfig {
    /// Whether the feed tells of rows; else it tells of all of them at once.
    pub(crate) fn has_rows(&self) -> bool {
        matches!(self.settings.via, Via::Outbox | Via::UpdatedAt | Via::Logical | Via::Binlog)
    }

    /// The word for how changes are learned.
    pub(crate) fn via_name(&self) -> &'static str {
        let place = options::VIAS.iter().position(|via| *via == self.settings.via);
        place.and_then(|place| options::VIA_NAMES.get(place)).copied().unwrap_or_default()
    }

    /// Whole settings. Key columns that are none are left out, which `check` has told.
    pub(crate) fn settings(&self) -> FeedSettings {
        let key = self.key.iter().filter_map(|text| FeedColumn::parse(text).ok()).collect();
        FeedSettings { key, ..self.settings.clone() }
    }
}

/// A hash seed from the system's randomness.
pub(crate) fn random_hash_seed() -> HashSeed {
    use std::hash::{BuildHasher, RandomState};
    HashSeed(std::array::from_fn(|index| RandomState::new().hash_one(index)))
}
