//! Every option: the server's in groups, those of `[sources.NAME]`, those of `[loaders.NAME]`, those of `[feeds.NAME]`,
//! those of `[journal]`, of `[auditor]` and of `[nodes.NAME]`.
//!
//! Redis's names and units where Redis has the option. An option of Redis that means nothing here (`save`, `appendonly`,
//! `notify-keyspace-events` …) has no row: `CONFIG GET` answers nothing for it, which clients take for an old server, and
//! setting it is an error rather than a promise.

mod auditing;
mod breaking;
mod clustering;
mod feeding;
mod journaling;
mod loading;
mod memcached;
mod server;

pub(crate) use auditing::AUDITOR;
pub(crate) use clustering::NODE;
pub(crate) use feeding::{FEED, VIA_NAMES, VIAS};
pub(crate) use journaling::JOURNAL;
pub(crate) use loading::{LOADER, SOURCE};
pub(crate) use server::{GROUPS, eviction_policies};

use super::spec::{Default, Kind, Spec, Unit};
use super::{
    AuditorConfig, BindAddress, Config, FeedConfig, JournalConfig, Live, LoaderConfig, LogFormat, LogLevel, NodeConfig,
    RefreshMode, Secret, WriteMode,
};
use leasehold_cluster::{Pool, StandIns};
use leasehold_command::{Routing, ServeStale};
use leasehold_keyspace::{Db, EvictionPolicy, LeaseSettings, Objective};
use leasehold_loader_api::BreakerSettings;
use leasehold_loader_sql::{FeedSettings, Fsync, LoaderSettings, SourceSettings};
use leasehold_protocol::Limits;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The server's options without their groups.
pub(crate) fn server_options() -> impl Iterator<Item = &'static Spec<Config>> {
    GROUPS.iter().flat_map(|group| group.options)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
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
            objective: Objective::Objects,
            eviction_samples: 0,
            prefix_delimiter: None,
            whatif: false,
            negative_memory_bytes: None,
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
            memcached_port: 0,
            memcached_key_bytes_max: 0,
            item_size_max: 0,
            memcached_users: Vec::new(),
            memcached_shutdown: false,
            pin_threads: false,
            loader_threads: 0,
            shards: 0,
            databases: 0,
            limits: Limits::DEFAULT,
            tag_memory_bytes: 0,
            huge_pages: false,
            shutdown_timeout: Duration::ZERO,
            log_format: LogFormat::Text,
            log_file: None,
            welcome: Vec::new(),
            live,
            sources: Vec::new(),
            loaders: Vec::new(),
            feeds: Vec::new(),
            journal: journal(),
            auditor: auditor(),
            node: None,
            nodes: Vec::new(),
            routing: Routing::Auto,
            peer_timeout: Duration::ZERO,
            peer_failures: 0,
            peer_ping: None,
            flap_out: Duration::ZERO,
            gutter: StandIns::None,
            gutter_ttl: Duration::ZERO,
            hot_key_rate: 0,
            hot_key_ttl: Duration::ZERO,
            failover_share: 0.0,
            failover_burst: 0,
        };
        fill_defaults(server_options(), &mut config);
        config
    }
}

/// A journal with the defaults of the table: none.
fn journal() -> JournalConfig {
    let mut journal = JournalConfig {
        directory: None,
        fsync: Fsync::Always,
        segment_bytes: 0,
        bytes_max: 0,
        pending_max: 0,
        flush_interval: Duration::ZERO,
        flush_batch: 0,
        attempts_max: 0,
        letters_max: 0,
    };
    fill_defaults(JOURNAL.iter(), &mut journal);
    journal
}

/// An auditor with the defaults of the table, and off.
fn auditor() -> AuditorConfig {
    let mut auditor = AuditorConfig {
        is_on: false,
        rate: 0,
        after: Vec::new(),
        exclude: Vec::new(),
        keys_max: 0,
        violations_max: 0,
        shows_values: false,
    };
    fill_defaults(AUDITOR.iter(), &mut auditor);
    auditor
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
        write: WriteMode::Off,
        serve_stale: ServeStale::Never,
        ttl: Duration::ZERO,
        jitter: 0.0,
        negative_ttl: Duration::ZERO,
        stale_for: Duration::ZERO,
        refresh: RefreshMode::Off,
        refresh_at: 0.0,
        refresh_beta: 0.0,
        warm_rate: 0,
        warm_keys_max: 0,
        soft_timeout: Duration::ZERO,
        hard_timeout: Duration::ZERO,
        concurrency_max: 0,
        queue_max: 0,
        batch_window: Duration::ZERO,
        breaker: BreakerSettings::default(),
        error_ttl: Duration::ZERO,
        too_large_ttl: Duration::ZERO,
    };
    fill_defaults(LOADER.iter(), &mut loader);
    loader
}

/// A feed of this name with the defaults of the table.
pub(crate) fn feed_named(name: &str) -> FeedConfig {
    let mut feed = FeedConfig {
        settings: FeedSettings::new(name),
        key: Vec::new(),
        source: String::new(),
        loaders: Vec::new(),
        stale_after: Duration::ZERO,
    };
    fill_defaults(FEED.iter(), &mut feed);
    feed
}

/// A node of this name with the defaults of the table.
pub(crate) fn node_named(name: &str) -> NodeConfig {
    let mut node = NodeConfig { name: name.to_owned(), address: String::new(), weight: 0, pool: Pool::Main };
    fill_defaults(NODE.iter(), &mut node);
    node
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
    use super::super::spec::Value;
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
            Kind::Integer { min, max, .. } | Kind::Bytes { min, max, .. } | Kind::PowerOfTwo { min, max } => {
                vec![Value::Integer(min), Value::Integer(max)]
            }
            Kind::Duration { min, max, .. } => vec![Value::Duration(min), Value::Duration(max)],
            Kind::Ratio { min, max } => vec![Value::Ratio(min), Value::Ratio(max)],
            Kind::Choice(words) => (0..words.len()).map(Value::Choice).collect(),
            Kind::Text | Kind::Sql | Kind::Secret | Kind::SecretFile | Kind::Script | Kind::Path => {
                vec![Value::Text("other".to_owned())]
            }
            Kind::Lines | Kind::SecretLines => vec![Value::Lines(vec!["other".to_owned()])],
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
        defaults_round_trip(FEED.iter(), &mut feed_named("a"));
        defaults_round_trip(JOURNAL.iter(), &mut journal());
        defaults_round_trip(AUDITOR.iter(), &mut auditor());
        defaults_round_trip(NODE.iter(), &mut node_named("a"));
    }

    #[test]
    fn each_option_has_a_field_of_its_own_over_its_whole_range() {
        rows_have_a_field_each(&server_options().collect::<Vec<_>>(), Config::default);
        rows_have_a_field_each(&SOURCE.iter().collect::<Vec<_>>(), || source_named("a"));
        rows_have_a_field_each(&LOADER.iter().collect::<Vec<_>>(), || loader_named("a"));
        rows_have_a_field_each(&FEED.iter().collect::<Vec<_>>(), || feed_named("a"));
        rows_have_a_field_each(&JOURNAL.iter().collect::<Vec<_>>(), journal);
        rows_have_a_field_each(&AUDITOR.iter().collect::<Vec<_>>(), auditor);
        rows_have_a_field_each(&NODE.iter().collect::<Vec<_>>(), || node_named("a"));
    }

    #[test]
    fn names_are_unique_and_of_one_spelling() {
        let server: Vec<&str> = server_options().map(|option| option.name).collect();
        let source: Vec<&str> = SOURCE.iter().map(|option| option.name).collect();
        let loader: Vec<&str> = LOADER.iter().map(|option| option.name).collect();
        let feed: Vec<&str> = FEED.iter().map(|option| option.name).collect();
        let journal: Vec<&str> = JOURNAL.iter().map(|option| option.name).collect();
        let auditor: Vec<&str> = AUDITOR.iter().map(|option| option.name).collect();
        let node: Vec<&str> = NODE.iter().map(|option| option.name).collect();
        let tables = [source, loader, feed, journal, auditor, node].map(|names| (names, b'_'));
        let groups = [(server, b'-')].into_iter().chain(tables);
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
            .chain(LOADER.iter().map(|option| (option.name, option.doc)))
            .chain(FEED.iter().map(|option| (option.name, option.doc)))
            .chain(JOURNAL.iter().map(|option| (option.name, option.doc)))
            .chain(AUDITOR.iter().map(|option| (option.name, option.doc)))
            .chain(NODE.iter().map(|option| (option.name, option.doc)));
        for (name, doc) in docs {
            assert!(doc.ends_with('.') && !doc.contains("  ") && doc.len() < 400, "{name}: {doc}");
        }
    }
}
