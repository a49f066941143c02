//! What only holds between options, and what only the databases can tell.

use super::parse::{Places, Section, nearest};
use super::problem::{Level, Problem};
use super::text::{parse_duration, show_bytes, show_duration};
use super::{Config, FeedConfig, LoaderConfig, NodeConfig, WriteMode};
use crate::feed::mapping_of;
use crate::load::LOADER_NAMES_MAX;
use leasehold_cluster::{Address, Flaw, NODES_MAX, Pool, RulesFlaw, StandIns, Topology};
use leasehold_command::{Routing, ServeStale};
use leasehold_keyspace::SHARD_BYTES_MAX;
use leasehold_loader_api::BreakerSettings;
use leasehold_loader_sql::{
    ConfigProblem, ConfigSubject, FeedColumn, Source, Template, Via, build_loader, check_feed, overlaps,
};
use std::time::Duration;

/// The first rule between the server's options that does not hold: an option and what is wrong with it.
pub(crate) fn between_options(config: &Config) -> Option<(&'static str, String)> {
    let lease = &config.live.lease;
    if lease.lease_ms > lease.lease_ms_max {
        let most = show_duration(Duration::from_millis(lease.lease_ms_max));
        return Some(("lease-ms", format!("is longer than lease-ms-max ({most})")));
    }
    if config.limits.bulk_bytes_max > config.limits.request_bytes_max {
        let most = show_bytes(config.limits.request_bytes_max as u64);
        return Some(("proto-max-bulk-len", format!("is more than client-query-buffer-limit ({most})")));
    }
    let mut users = config.memcached_users.iter();
    if let Some(wrong) = users.position(|(user, password)| user.is_empty() || password.is_empty()) {
        return Some(("memcached-auth-file", format!("its user {} is no line of the form user:password", wrong + 1)));
    }
    if config.memcached_port != 0 && config.memcached_port == config.port {
        return Some(("memcached-port", "is that of Redis clients (port)".to_owned()));
    }
    // Without a limit a shard that is full evicts, or answers OOM.
    too_few_shards(config.shards, config.live.memory_bytes_max).map(|text| ("maxmemory", text))
}

/// What is wrong if so many shards cannot hold so much memory.
fn too_few_shards(shards: usize, bytes: u64) -> Option<String> {
    let wanted = bytes.div_ceil(SHARD_BYTES_MAX).next_power_of_two();
    (wanted > shards as u64).then(|| {
        let (all, each) = (show_bytes(bytes), show_bytes(SHARD_BYTES_MAX));
        format!("{shards} shards cannot hold {all}, at {each} each; allowed: shards = {wanted} or more")
    })
}

/// Every rule between options that does not hold.
pub(crate) fn between(config: &Config, places: &Places, problems: &mut Vec<Problem>) {
    let mut found = Findings { places, problems };
    if let Some((option, text)) = between_options(config) {
        found.error(&Section::Server, option, text);
    }
    found.not_both(&Section::Server, "requirepass", "requirepass-file");
    if config.memcached_port != 0
        && config.memcached_users.is_empty()
        && (!config.live.password.is_empty() || config.bind.iter().any(|address| !address.ip.is_loopback()))
    {
        let text = "memcached clients need no password: there is no memcached-auth-file".to_owned();
        found.warning(&Section::Server, "memcached-port", text);
    }
    if config.live.password.is_empty() && config.bind.iter().any(|address| !address.ip.is_loopback()) {
        let text = "other machines can reach the server and no requirepass is set".to_owned();
        found.warning(&Section::Server, "bind", text);
    }
    if let Some(text) =
        super::machine::memory_bytes().and_then(|bytes| too_much_memory(config.live.memory_bytes_max, bytes))
    {
        found.warning(&Section::Server, "maxmemory", text);
    }
    for source in &config.sources {
        let section = Section::Source(source.name.clone());
        found.not_both(&section, "url", "url_file");
        found.not_both(&section, "replicas", "replicas_file");
        breaker_rules(&source.breaker, &section, &mut found);
        let is_used = config.loaders.iter().any(|loader| loader.source == source.name)
            || config.feeds.iter().any(|feed| feed.source == source.name);
        if !is_used {
            found.warning(&section, "", "no loader uses this source".to_owned());
        }
    }
    for loader in &config.loaders {
        loader_rules(config, loader, &mut found);
    }
    if let Some(loader) = config.loaders.get(LOADER_NAMES_MAX) {
        let text = format!("is one loader too many; allowed: {LOADER_NAMES_MAX}");
        found.error(&Section::Loader(loader.settings.name.clone()), "", text);
    }
    patterns(config, &mut found);
    for feed in &config.feeds {
        feed_rules(config, feed, &mut found);
    }
    let journal = &config.journal;
    if journal.bytes_max < journal.segment_bytes.saturating_mul(2) {
        let least = show_bytes(journal.segment_bytes.saturating_mul(2));
        let option = if found.places.is_set(&Section::Journal, "max_bytes") { "max_bytes" } else { "segment_bytes" };
        let text = format!("max_bytes must be at least twice segment_bytes ({least}): a file goes only as a whole");
        found.error(&Section::Journal, option, text);
    }
    auditor_rules(config, &mut found);
    node_rules(config, &mut found);
}

/// What several nodes need, and what they rule out.
fn node_rules(config: &Config, found: &mut Findings<'_>) {
    let is_wrong = |node: &&NodeConfig| Address::parse(&node.address).is_none();
    let mut list_is_whole = true;
    for node in config.nodes.iter().filter(is_wrong) {
        let section = Section::Node(node.name.clone());
        list_is_whole = false;
        if found.places.is_set(&section, "address") {
            let text = format!(
                "{:?} is no address that clients could connect to; allowed: host:port or [IPv6]:port",
                node.address
            );
            found.error(&section, "address", text);
        }
    }
    if list_is_whole
        && !config.nodes.is_empty()
        && let Err(flaw) = Topology::new(config.nodes.iter().filter_map(NodeConfig::settings).collect())
    {
        node_flaw(config, flaw, found);
    }
    let Some(name) = &config.node else {
        if let Some(node) = config.nodes.first() {
            let text = "does nothing: without node = \"NAME\" this process is alone".to_owned();
            found.warning(&Section::Node(node.name.clone()), "", text);
        }
        return;
    };
    found.must_exist(&Section::Server, "node", "nodes", name, config.nodes.iter().map(|node| node.name.as_str()));
    let rules = config.peer_rules();
    if let Some(RulesFlaw::VouchTooLong) = rules.flaw() {
        let (ping, timeout) = (config.peer_ping.unwrap_or_default(), show_duration(config.peer_timeout));
        let text =
            format!("{} is too long for peer-timeout = {timeout}; allowed: a tenth of that", show_duration(ping));
        found.error(&Section::Server, "peer-ping", text);
    }
    if config.gutter == StandIns::Pool && config.nodes.iter().all(|node| node.pool == Pool::Main) {
        let text = "is pool, and no node is in that; allowed: none, same, or pool = \"gutter\" at a node".to_owned();
        found.error(&Section::Server, "gutter", text);
    }
    if config.memcached_port != 0 && config.routing == Routing::Redirect {
        let text = "cannot be redirect beside memcached-port: clients of memcached cannot be sent to another node; allowed: auto, forward";
        found.error(&Section::Server, "routing", text.to_owned());
    }
    for loader in config.loaders.iter().filter(|loader| loader.db.0 != 0) {
        let text = "is not there where this is one of several nodes (node); allowed: 0".to_owned();
        found.error(&Section::Loader(loader.settings.name.clone()), "db", text);
    }
}

fn node_flaw(config: &Config, flaw: Flaw, found: &mut Findings<'_>) {
    match flaw {
        Flaw::SameAddress { first, second } => {
            let text = format!("is the address of nodes.{first} as well; allowed: one node at an address");
            found.error(&Section::Node(second), "address", text);
        }
        Flaw::TooMany => {
            let node = config.nodes.get(NODES_MAX).expect("there are more");
            let text = format!("is one node too many; allowed: {NODES_MAX}");
            found.error(&Section::Node(node.name.clone()), "", text);
        }
        Flaw::Empty => {
            let node = config.nodes.first().expect("an empty list has no flaw");
            let text =
                "is gutter at all nodes, so that nobody owns a key; allowed: main at one node at least".to_owned();
            found.error(&Section::Node(node.name.clone()), "pool", text);
        }
        // The reader has told of a weight, of which the default has been left; tables have one name each.
        Flaw::Weight(_) | Flaw::SameName(_) => {}
    }
}

fn auditor_rules(config: &Config, found: &mut Findings<'_>) {
    const SCALES_MAX: usize = 4;
    const SCALE_MIN: Duration = Duration::from_millis(100);
    const SCALE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
    let (section, auditor) = (Section::Auditor, &config.auditor);
    if !auditor.is_on {
        return;
    }
    let is_scale =
        |scale: &&String| parse_duration(scale).is_some_and(|scale| (SCALE_MIN..=SCALE_MAX).contains(&scale));
    let allowed = format!("allowed: up to {SCALES_MAX} durations from 100ms to 1d, each longer than the one before");
    if let Some(wrong) = auditor.after.iter().find(|scale| !is_scale(scale)) {
        found.error(&section, "after", format!("{wrong:?} is not such a duration; {allowed}"));
    } else if auditor.after.is_empty()
        || auditor.after.len() > SCALES_MAX
        || !auditor.scales().is_sorted_by(|a, b| a < b)
    {
        found.error(&section, "after", format!("{:?} are not such durations; {allowed}", auditor.after));
    }
    for loader in &auditor.exclude {
        let known = config.loaders.iter().map(|loader| loader.settings.name.as_str());
        found.must_exist(&section, "exclude", "loaders", loader, known);
    }
    if config.loaders.is_empty() {
        found.warning(&section, "", "there is no loader to audit".to_owned());
    }
}

/// Each pattern must be one, and no key may have two loaders: which of them would load it, nobody could say.
fn patterns(config: &Config, found: &mut Findings<'_>) {
    let mut parsed: Vec<(&LoaderConfig, Template)> = Vec::new();
    for loader in &config.loaders {
        let section = Section::Loader(loader.settings.name.clone());
        if !found.places.is_set(&section, "match") {
            continue;
        }
        let template = match Template::parse(&loader.settings.pattern) {
            Ok(template) => template,
            Err(reason) => {
                found.error(&section, "match", reason);
                continue;
            }
        };
        let same_key =
            |(other, earlier): &&(&LoaderConfig, Template)| other.db == loader.db && overlaps(earlier, &template);
        if let Some((other, _)) = parsed.iter().find(same_key) {
            let (name, pattern) = (&other.settings.name, &other.settings.pattern);
            let text =
                format!("fits keys that loaders.{name} loads as well ({pattern:?}); allowed: one loader for a key");
            found.error(&section, "match", text);
        }
        parsed.push((loader, template));
    }
}

/// Whether `maxmemory` leaves too little of the machine for buffers, fragmentation and the process itself.
fn too_much_memory(asked: u64, machine: u64) -> Option<String> {
    /// What experience with caches leaves free, in percent.
    const SHARE_MAX: u64 = 80;
    (asked > machine / 100 * SHARE_MAX).then(|| {
        let megabytes = machine >> 20;
        format!("is more than {SHARE_MAX} % of the {megabytes} MiB this process may use; buffers and fragmentation come on top")
    })
}

fn loader_rules(config: &Config, loader: &LoaderConfig, found: &mut Findings<'_>) {
    let section = Section::Loader(loader.settings.name.clone());
    let sources = config.sources.iter().map(|source| source.name.as_str());
    found.must_exist(&section, "source", "sources", &loader.source, sources);
    if loader.db.0 >= config.databases {
        let text = format!("{} is no database; allowed: less than databases ({})", loader.db.0, config.databases);
        found.error(&section, "db", text);
    }
    if loader.soft_timeout > loader.hard_timeout {
        let (soft, hard) = (show_duration(loader.soft_timeout), show_duration(loader.hard_timeout));
        let option = if found.places.is_set(&section, "soft_timeout") { "soft_timeout" } else { "hard_timeout" };
        found.error(&section, option, format!("soft_timeout ({soft}) is longer than hard_timeout ({hard})"));
    }
    breaker_rules(&loader.breaker, &section, found);
    if loader.serve_stale == ServeStale::Always && loader.stale_for.is_zero() {
        let text = "does nothing while stale_for is 0: no value is kept past its TTL".to_owned();
        found.warning(&section, "serve_stale", text);
    }
    let statements = [("upsert_sql", &loader.settings.upsert_sql), ("delete_sql", &loader.settings.delete_sql)];
    if loader.write != WriteMode::Off && statements.iter().all(|(_, sql)| sql.is_none()) {
        let mode = if loader.write == WriteMode::Behind { "behind" } else { "through" };
        found.error(&section, "write", format!("{mode:?} needs upsert_sql, delete_sql or both"));
    }
    if loader.write == WriteMode::Behind && config.journal.directory.is_none() {
        let text = "\"behind\" needs a journal; write [journal] and dir = \"DIRECTORY\" below".to_owned();
        found.error(&section, "write", text);
    }
    // Who says that it does not write has parked them.
    if loader.write == WriteMode::Off && !found.places.is_set(&section, "write") {
        for (option, _) in statements.iter().filter(|(_, sql)| sql.is_some()) {
            found.warning(&section, option, "does nothing without write = \"through\" or \"behind\"".to_owned());
        }
    }
    if loader.settings.batch_sql.is_none() {
        for option in ["batch_window", "batch_max"] {
            if found.places.is_set(&section, option) {
                found.warning(&section, option, "does nothing without batch_sql".to_owned());
            }
        }
    }
}

fn breaker_rules(breaker: &BreakerSettings, section: &Section, found: &mut Findings<'_>) {
    if breaker.open > breaker.open_max {
        let (first, most) = (show_duration(breaker.open), show_duration(breaker.open_max));
        let option = if found.places.is_set(section, "breaker_open") { "breaker_open" } else { "breaker_open_max" };
        found.error(section, option, format!("breaker_open ({first}) is longer than breaker_open_max ({most})"));
    }
}

/// What a feed needs for the way it learns of changes.
fn feed_rules(config: &Config, feed: &FeedConfig, found: &mut Findings<'_>) {
    let section = Section::Feed(feed.settings.name.clone());
    let sources = config.sources.iter().map(|source| source.name.as_str());
    found.must_exist(&section, "source", "sources", &feed.source, sources);
    let known = || config.loaders.iter().map(|loader| loader.settings.name.as_str());
    for loader in &feed.loaders {
        found.must_exist(&section, "loaders", "loaders", loader, known());
    }
    if found.places.is_set(&section, "loaders") && feed.loaders.is_empty() {
        found.error(&section, "loaders", "names no loader, so the feed has nothing to do".to_owned());
    }
    let needed: &[(&str, bool)] = match feed.settings.via {
        Via::Outbox | Via::UpdatedAt | Via::Logical | Via::Binlog => {
            &[("table", feed.settings.table.is_empty()), ("key", feed.key.is_empty())]
        }
        Via::Versions => &[("table", feed.settings.table.is_empty()), ("resource", feed.settings.resource.is_empty())],
        Via::DataVersion => &[],
    };
    for (option, _) in needed.iter().filter(|(_, is_missing)| *is_missing) {
        found.error(&section, option, format!("is missing; via = {:?} needs it", feed.via_name()));
    }
    let source = config.sources.iter().find(|source| source.name == feed.source);
    if feed.settings.via == Via::DataVersion && source.is_some_and(|source| !source.url.starts_with("sqlite")) {
        found.error(
            &section,
            "via",
            "data_version is for SQLite only; allowed: outbox, updated_at, versions".to_owned(),
        );
    }
    if feed.settings.via == Via::Logical && source.is_some_and(|source| !source.url.starts_with("postgres")) {
        found.error(
            &section,
            "via",
            "logical is for PostgreSQL only; allowed: outbox, updated_at, versions".to_owned(),
        );
    }
    let is_mysql = |url: &str| url.starts_with("mysql:") || url.starts_with("mariadb:");
    if feed.settings.via == Via::Binlog && source.is_some_and(|source| !is_mysql(&source.url)) {
        let text = "binlog is for MySQL and MariaDB only; allowed: outbox, updated_at, versions";
        found.error(&section, "via", text.to_owned());
    }
    let wrong_columns = feed.key.iter().filter_map(|text| FeedColumn::parse(text).err());
    let mut has_wrong_columns = false;
    for text in wrong_columns {
        has_wrong_columns = true;
        found.error(&section, "key", text);
    }
    if !has_wrong_columns
        && !feed.key.is_empty()
        && let Err(text) = mapping_of(config, feed)
    {
        found.error(&section, "key", text);
    }
    let poll = feed.settings.poll.unwrap_or(Duration::from_secs(1));
    if poll >= feed.stale_after {
        let (poll, stale_after) = (show_duration(poll), show_duration(feed.stale_after));
        let option = if found.places.is_set(&section, "stale_after") { "stale_after" } else { "poll" };
        found.error(&section, option, format!("poll ({poll}) must be shorter than stale_after ({stale_after})"));
    }
}

struct Findings<'a> {
    places: &'a Places,
    problems: &'a mut Vec<Problem>,
}

impl Findings<'_> {
    fn error(&mut self, section: &Section, option: &str, text: String) {
        self.add(Level::Error, section, option, text);
    }

    fn warning(&mut self, section: &Section, option: &str, text: String) {
        self.add(Level::Warning, section, option, text);
    }

    fn add(&mut self, level: Level, section: &Section, option: &str, text: String) {
        let place = self.places.of(section, option);
        self.problems.push(Problem { level, place, option: section.qualified(option), text });
    }

    /// An option that names a source or a loader must name one that there is.
    fn must_exist<'n>(
        &mut self,
        section: &Section,
        option: &str,
        group: &str,
        name: &str,
        known: impl Iterator<Item = &'n str>,
    ) {
        let known: Vec<&str> = known.collect();
        if !self.places.is_set(section, option) || known.contains(&name) {
            return;
        }
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if known.is_empty() => format!("write a [{group}.{name}]"),
            None => format!("allowed: {}", known.join(", ")),
        };
        self.error(section, option, format!("there is no [{group}.{name}]; {hint}"));
    }

    fn not_both(&mut self, section: &Section, one: &str, other: &str) {
        if self.places.is_set(section, one) && self.places.is_set(section, other) {
            self.error(section, other, format!("{one} is set as well; allowed: one of the two"));
        }
    }
}

/// A problem that building a source or a loader has found, with its place.
pub(crate) fn located(problem: &ConfigProblem, places: &Places) -> Problem {
    let section = match &problem.subject {
        ConfigSubject::Source(name) => Section::Source(name.clone()),
        ConfigSubject::Loader(name) => Section::Loader(name.clone()),
        ConfigSubject::Feed(name) => Section::Feed(name.clone()),
    };
    // The file's word for what the loader calls its pattern.
    let option = if problem.option == "pattern" { "match" } else { problem.option };
    Problem {
        level: Level::Error,
        place: places.of(&section, option),
        option: section.qualified(option),
        text: problem.reason.clone(),
    }
}

/// Opens every source and prepares every loader, as a start would, and closes them again. A source that is down is a
/// warning: a start does not wait for it either. What lacks a required option, or has no
/// pattern, is left out; that has been said.
pub(crate) async fn databases(config: &Config, places: &Places) -> Vec<Problem> {
    let mut problems = Vec::new();
    for settings in config.sources.iter().filter(|source| !source.url.is_empty()) {
        let source = match Source::open(settings.clone()).await {
            Ok(source) => source,
            Err(problem) => {
                problems.push(located(&problem, places));
                continue;
            }
        };
        if let Err(reason) = source.check().await {
            let section = Section::Source(settings.name.clone());
            problems.push(Problem {
                level: Level::Warning,
                place: places.of(&section, "url"),
                option: section.qualified("url"),
                text: format!("the source is down, so its loaders' SQL could not be checked: {reason}"),
            });
        }
        let whole = |loader: &&LoaderConfig| {
            Template::parse(&loader.settings.pattern).is_ok() && !loader.settings.sql.is_empty()
        };
        for loader in config.loaders.iter().filter(|loader| loader.source == settings.name).filter(whole) {
            if let Err(problem) = build_loader(&source, loader.loader_settings()).await {
                problems.push(located(&problem, places));
            }
        }
        let whole = |feed: &&FeedConfig| feed.source == settings.name && mapping_of(config, feed).is_ok();
        for feed in config.feeds.iter().filter(whole) {
            if let Err(problem) = check_feed(&source, &feed.settings()).await {
                problems.push(located(&problem, places));
            }
        }
        source.close().await;
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_cannot_hold_the_memory_are_refused() {
        assert_eq!(too_few_shards(1, 8 << 30), None);
        assert_eq!(too_few_shards(256, 2 << 40), None);
        let text = too_few_shards(1, (8 << 30) + 1).expect("more than a shard holds");
        assert_eq!(text, "1 shards cannot hold 8589934593, at 8gb each; allowed: shards = 2 or more");
        let config = Config { shards: 4, ..Config::default() };
        let with_limit = |bytes| {
            let mut config = config.clone();
            config.live.memory_bytes_max = bytes;
            config
        };
        assert_eq!(between_options(&with_limit(32 << 30)), None);
        assert_eq!(between_options(&with_limit(0)), None);
        let (option, text) = between_options(&with_limit(100 << 30)).expect("too much for four shards");
        assert_eq!(
            (option, text.as_str()),
            ("maxmemory", "4 shards cannot hold 100gb, at 8gb each; allowed: shards = 16 or more")
        );
    }

    #[test]
    fn memory_beyond_four_fifths_of_the_machine_is_warned_of() {
        assert_eq!(too_much_memory(0, 1000 << 20), None);
        assert_eq!(too_much_memory(800 << 20, 1000 << 20), None);
        let text = too_much_memory((800 << 20) + 1, 1000 << 20).expect("more than 80 %");
        assert!(text.starts_with("is more than 80 % of the 1000 MiB"), "{text}");
    }
}
