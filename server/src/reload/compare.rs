//! Two configurations compared: what is new, what has changed, what is gone, and what may not change. No file, no database.

use super::problem;
use crate::config::options::{AUDITOR, FEED, JOURNAL, LOADER, NODE, SOURCE, server_options};
use crate::config::parse::{Places, Section};
use crate::config::problem::Problem;
use crate::config::spec::{Change, Spec};
use crate::config::{Config, FeedConfig, LoaderConfig, WriteMode};
use leasehold_loader_sql::SourceSettings;
use std::fmt::Write as _;

/// Options of a loader that only say what the server does with it: its statements and its values are the same under others.
const SERVERS_OPTIONS: &[&str] = &[
    "mode",
    "ttl",
    "jitter",
    "negative_ttl",
    "stale_for",
    "serve_stale",
    "refresh",
    "refresh_at",
    "refresh_beta",
    "warm_rate",
    "warm_keys_max",
    "soft_timeout",
    "hard_timeout",
    "max_concurrency",
    "queue",
    "batch_window",
    "error_ttl",
    "too_large_ttl",
    "breaker",
    "breaker_window",
    "breaker_calls",
    "breaker_failures",
    "breaker_slow",
    "breaker_open",
    "breaker_open_max",
];

/// Options under which values are the same, too, though statements are not.
const VALUELESS_OPTIONS: &[&str] = &["batch_max", "write", "upsert_sql", "delete_sql"];

/// Options of a loader that its journal has taken over.
const JOURNALED_OPTIONS: &[&str] = &["match", "db", "source", "write", "upsert_sql", "delete_sql", "negative_ttl"];

/// What is other in a configuration than in the one before.
#[derive(Debug, Default)]
pub(super) struct Differences {
    sources: Changes,
    loaders: Changes,
    feeds: Changes,
    /// Loaders that are new or not as they were.
    others: Vec<(String, LoaderChange)>,
    /// Options of the server that `CONFIG SET` can change.
    options: Vec<&'static str>,
}

/// Names in the order of the configuration.
#[derive(Debug, Default)]
struct Changes {
    added: Vec<String>,
    /// With what has changed.
    changed: Vec<(String, Vec<&'static str>)>,
    removed: Vec<String>,
}

/// How a loader differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoaderChange {
    pub(super) is_loader_kept: bool,
    pub(super) is_source_kept: bool,
    pub(super) is_outdating: bool,
}

impl Differences {
    pub(super) fn between(before: &Config, now: &Config) -> Self {
        let sources =
            Changes::of(&before.sources, &now.sources, source_name, |was, is| changed(SOURCE.iter(), was, is));
        let mut differences = Self { sources, ..Self::default() };
        let mut loaders =
            Changes::of(&before.loaders, &now.loaders, loader_name, |was, is| changed(LOADER.iter(), was, is));
        for loader in &now.loaders {
            let options = loaders.options_of(&loader.settings.name);
            let is_new = loaders.added.contains(&loader.settings.name);
            let is_source_kept = !differences.is_new_source(&loader.source) && !options.contains(&"source");
            if !is_new && options.is_empty() && is_source_kept {
                continue;
            }
            let is_servers = |option: &&str| SERVERS_OPTIONS.contains(option);
            let is_valueless =
                |option: &&str| is_servers(option) || VALUELESS_OPTIONS.contains(option) || *option == "source";
            let was = before.loaders.iter().find(|was| was.settings.name == loader.settings.name);
            let is_same_database = was.is_some_and(|was| is_same_database(before, was, now, loader));
            let change = LoaderChange {
                is_loader_kept: !is_new && is_source_kept && options.iter().all(is_servers),
                is_source_kept,
                is_outdating: !(is_new || is_same_database && options.iter().all(is_valueless)),
            };
            if !is_new && options.is_empty() {
                loaders.changed.push((loader.settings.name.clone(), vec!["source"]));
            }
            differences.others.push((loader.settings.name.clone(), change));
        }
        let covers = |config: &Config, feed: &FeedConfig| -> Vec<(String, u8)> {
            let covered = config.loaders.iter().filter(|loader| feed.loaders.contains(&loader.settings.name));
            covered.map(|loader| (loader.settings.pattern.clone(), loader.db.0)).collect()
        };
        differences.feeds = Changes::of(&before.feeds, &now.feeds, feed_name, |was, is| {
            let mut options = changed(FEED.iter(), was, is);
            if options.is_empty() && differences.is_new_source(&is.source) {
                options.push("source");
            }
            if options.is_empty() && covers(before, was) != covers(now, is) {
                options.push("loaders");
            }
            options
        });
        differences.loaders = loaders;
        let differs = |option: &&Spec<Config>| (option.read)(before) != (option.read)(now);
        differences.options = server_options().filter(differs).map(|option| option.name).collect();
        if before.memcached_users != now.memcached_users {
            differences.options.push("memcached-auth-file");
        }
        differences
    }

    /// Whether a source is new or not as it was.
    pub(super) fn is_new_source(&self, name: &str) -> bool {
        self.sources.is_new(name)
    }

    pub(super) fn is_new_feed(&self, name: &str) -> bool {
        self.feeds.is_new(name)
    }

    /// `None`: the loader is as it was.
    pub(super) fn loader(&self, name: &str) -> Option<LoaderChange> {
        self.others.iter().find(|(other, _)| other == name).map(|(_, change)| *change)
    }

    /// One line.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        for (group, changes) in [("sources", &self.sources), ("loaders", &self.loaders), ("feeds", &self.feeds)] {
            changes.write(group, &mut text);
        }
        if !self.options.is_empty() {
            write!(text, "; options: {}", self.options.join(", ")).expect("a String takes every write");
        }
        if text.is_empty() { "no changes".to_owned() } else { text.trim_start_matches("; ").to_owned() }
    }

    /// Tells the log; `set_apart` are the options that are other than in the file.
    pub(super) fn tell(&self, set_apart: &[&str]) {
        tracing::info!("the configuration was reloaded: {}", self.summary());
        for (name, _) in self.others.iter().filter(|(_, change)| change.is_outdating) {
            tracing::info!(loader = name, "what it had loaded is stale: its values may be others now");
        }
        if !set_apart.is_empty() {
            tracing::info!(options = ?set_apart, "are not as in the file, which has not changed in them: CONFIG SET holds");
        }
    }
}

impl Changes {
    fn of<T>(
        before: &[T],
        now: &[T],
        name: impl Fn(&T) -> &str,
        changed: impl Fn(&T, &T) -> Vec<&'static str>,
    ) -> Self {
        let mut changes = Self::default();
        for is in now {
            match before.iter().find(|was| name(was) == name(is)) {
                None => changes.added.push(name(is).to_owned()),
                Some(was) => {
                    let options = changed(was, is);
                    if !options.is_empty() {
                        changes.changed.push((name(is).to_owned(), options));
                    }
                }
            }
        }
        let is_gone = |was: &&T| !now.iter().any(|is| name(is) == name(was));
        changes.removed = before.iter().filter(is_gone).map(|was| name(was).to_owned()).collect();
        changes
    }

    fn is_new(&self, name: &str) -> bool {
        self.added.iter().any(|added| added == name) || self.changed.iter().any(|(changed, _)| changed == name)
    }

    fn options_of(&self, name: &str) -> Vec<&'static str> {
        self.changed.iter().find(|(changed, _)| changed == name).map(|(_, options)| options.clone()).unwrap_or_default()
    }

    fn write(&self, group: &str, text: &mut String) {
        let changed: Vec<String> =
            self.changed.iter().map(|(name, options)| format!("{name} ({})", options.join(" "))).collect();
        for (what, names) in [("added", &self.added), ("changed", &changed), ("removed", &self.removed)] {
            if !names.is_empty() {
                write!(text, "; {group} {what}: {}", names.join(", ")).expect("a String takes every write");
            }
        }
    }
}

fn source_name(source: &SourceSettings) -> &str {
    &source.name
}

fn loader_name(loader: &LoaderConfig) -> &str {
    &loader.settings.name
}

fn feed_name(feed: &FeedConfig) -> &str {
    &feed.settings.name
}

/// The options that differ; every field has one.
fn changed<T: 'static>(options: impl Iterator<Item = &'static Spec<T>>, was: &T, is: &T) -> Vec<&'static str> {
    options.filter(|option| (option.read)(was) != (option.read)(is)).map(|option| option.name).collect()
}

fn is_same_database(before: &Config, was: &LoaderConfig, now: &Config, is: &LoaderConfig) -> bool {
    let source = |config: &Config, loader: &LoaderConfig| {
        config.sources.iter().find(|source| source.name == loader.source).cloned()
    };
    match (source(before, was), source(now, is)) {
        (Some(was), Some(is)) => was.is_same_database(&is),
        _ => false,
    }
}

/// What cannot change while the server runs, and is to.
pub(super) fn fixed(before: &Config, now: &Config, places: &Places) -> Vec<Problem> {
    let mut problems = Vec::new();
    let is_fixed =
        |option: &&Spec<Config>| option.change == Change::Start && (option.read)(before) != (option.read)(now);
    for option in server_options().filter(is_fixed) {
        let text = restart_text(&option.kind.show(&(option.read)(before)));
        problems.push(problem(places, &Section::Server, option.name, text));
    }
    if before.memcached_users.is_empty() != now.memcached_users.is_empty() {
        problems.push(problem(places, &Section::Server, "memcached-auth-file", restart_text("")));
    }
    for option in JOURNAL.iter().filter(|option| (option.read)(&before.journal) != (option.read)(&now.journal)) {
        let text = restart_text(&option.kind.show(&(option.read)(&before.journal)));
        problems.push(problem(places, &Section::Journal, option.name, text));
    }
    for option in AUDITOR.iter().filter(|option| (option.read)(&before.auditor) != (option.read)(&now.auditor)) {
        let text = restart_text(&option.kind.show(&(option.read)(&before.auditor)));
        problems.push(problem(places, &Section::Auditor, option.name, text));
    }
    if before.auditor.is_on != now.auditor.is_on {
        problems.push(problem(places, &Section::Auditor, "", restart_text("")));
    }
    problems.extend(fixed_nodes(before, now, places));
    let is_behind = |loader: &LoaderConfig| loader.write == WriteMode::Behind;
    for was in before.loaders.iter().filter(|was| is_behind(was)) {
        let section = Section::Loader(was.settings.name.clone());
        let Some(is) = now.loaders.iter().find(|is| is.settings.name == was.settings.name) else {
            let text = "is gone and writes behind; that needs a restart, after which what is pending is a dead letter";
            problems.push(problem(places, &section, "", text.to_owned()));
            continue;
        };
        for option in changed(LOADER.iter(), was, is).into_iter().filter(|option| JOURNALED_OPTIONS.contains(option)) {
            problems.push(problem(places, &section, option, "needs a restart: the loader writes behind".to_owned()));
        }
        if was.source == is.source && !is_same_database(before, was, now, is) {
            let section = Section::Source(is.source.clone());
            let name = &is.settings.name;
            let text = format!("is another database, which needs a restart: loaders.{name} writes behind to this one");
            problems.push(problem(places, &section, "url", text));
        }
    }
    let was_behind = |name: &str| before.loaders.iter().any(|was| was.settings.name == name && is_behind(was));
    for is in now.loaders.iter().filter(|is| is_behind(is) && !was_behind(&is.settings.name)) {
        let section = Section::Loader(is.settings.name.clone());
        let text = "\"behind\" needs a restart: the journal takes loaders when the server starts".to_owned();
        problems.push(problem(places, &section, "write", text));
    }
    problems
}

/// Nodes that are new, gone or not as they were.
fn fixed_nodes(before: &Config, now: &Config, places: &Places) -> Vec<Problem> {
    let changes = Changes::of(&before.nodes, &now.nodes, |node| &node.name, |was, is| changed(NODE.iter(), was, is));
    let whole = changes.added.iter().chain(&changes.removed).map(|name| (name, ""));
    let options = changes.changed.iter().flat_map(|(name, options)| options.iter().map(move |option| (name, *option)));
    let problem_of =
        |(name, option): (&String, &str)| problem(places, &Section::Node(name.clone()), option, restart_text(""));
    whole.chain(options).map(problem_of).collect()
}

fn restart_text(shown: &str) -> String {
    match shown {
        "" => "needs a restart to change".to_owned(),
        shown => format!("needs a restart to change; the server runs with {shown:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::{feed_named, loader_named, node_named, source_named};

    fn config() -> Config {
        let mut source = source_named("main");
        source.url = "postgres://app:one@db/shop".to_owned();
        let mut user = loader_named("user");
        user.settings.pattern = "user:{id:int}".to_owned();
        user.settings.sql = "SELECT id FROM users WHERE id = $1".to_owned();
        user.source = "main".to_owned();
        let mut feed = feed_named("users");
        feed.source = "main".to_owned();
        feed.loaders = vec!["user".to_owned()];
        Config { sources: vec![source], loaders: vec![user], feeds: vec![feed], ..Config::default() }
    }

    fn change(edit: impl FnOnce(&mut Config)) -> (Option<LoaderChange>, String, bool) {
        let before = config();
        let mut now = before.clone();
        edit(&mut now);
        let differences = Differences::between(&before, &now);
        (differences.loader("user"), differences.summary(), differences.is_new_feed("users"))
    }

    #[test]
    fn every_option_that_is_named_here_is_one() {
        let names: Vec<&str> = LOADER.iter().map(|option| option.name).collect();
        for option in SERVERS_OPTIONS.iter().chain(VALUELESS_OPTIONS).chain(JOURNALED_OPTIONS) {
            assert!(names.contains(option), "{option}");
        }
    }

    #[test]
    fn what_is_the_same_is_no_difference() {
        assert_eq!(change(|_| {}), (None, "no changes".to_owned(), false));
    }

    #[test]
    fn options_of_the_server_leave_statements_and_values_as_they_are() {
        let (loader, summary, is_new_feed) = change(|config| config.loaders[0].queue_max += 1);
        let kept = LoaderChange { is_loader_kept: true, is_source_kept: true, is_outdating: false };
        assert_eq!((loader, is_new_feed), (Some(kept), false));
        assert_eq!(summary, "loaders changed: user (queue)");
    }

    #[test]
    fn another_statement_or_database_makes_other_values_and_another_password_does_not() {
        let outdating = |edit: fn(&mut Config)| {
            let (loader, _, is_new_feed) = change(edit);
            loader.map(|loader| (loader.is_loader_kept, loader.is_source_kept, loader.is_outdating, is_new_feed))
        };
        assert_eq!(outdating(|config| config.loaders[0].settings.sql.push(' ')), Some((false, true, true, false)));
        assert_eq!(outdating(|config| config.loaders[0].settings.batch_max = 7), Some((false, true, false, false)));
        assert_eq!(outdating(|config| config.loaders[0].settings.pattern.push('x')), Some((false, true, true, true)));
        assert_eq!(
            outdating(|config| config.sources[0].url = "postgres://app:two@db/shop".to_owned()),
            Some((false, false, false, true))
        );
        assert_eq!(
            outdating(|config| config.sources[0].url = "postgres://app:one@db2/shop".to_owned()),
            Some((false, false, true, true))
        );
    }

    #[test]
    fn what_is_new_and_what_is_gone_is_told_by_name() {
        let (loader, summary, _) = change(|config| {
            config.loaders[0].settings.name = "member".to_owned();
            config.feeds.clear();
            config.live.clients_max = 7;
        });
        assert_eq!(loader, None);
        assert_eq!(summary, "loaders added: member; loaders removed: user; feeds removed: users; options: maxclients");
    }

    #[test]
    fn what_needs_a_restart_is_refused_by_name() {
        let fixed = |edit: fn(&mut Config)| -> Vec<String> {
            let mut before = config();
            before.loaders[0].write = WriteMode::Behind;
            let mut now = before.clone();
            edit(&mut now);
            fixed(&before, &now, &Places::default()).iter().map(ToString::to_string).collect()
        };
        assert!(fixed(|config| config.loaders[0].ttl *= 2).is_empty());
        assert!(fixed(|config| config.sources[0].url = "postgres://app:two@db/shop".to_owned()).is_empty());
        assert_eq!(fixed(|config| config.port = 7), ["port: needs a restart to change; the server runs with \"6379\""]);
        assert_eq!(
            fixed(|config| config.journal.flush_batch = 7),
            ["journal.flush_batch: needs a restart to change; the server runs with \"500\""]
        );
        let texts = fixed(|config| config.nodes.push(node_named("b")));
        assert_eq!(texts, ["nodes.b: needs a restart to change"]);
        let texts = fixed(|config| config.loaders[0].settings.upsert_sql = Some("x".to_owned()));
        assert_eq!(texts, ["loaders.user.upsert_sql: needs a restart: the loader writes behind"]);
        assert!(fixed(|config| config.loaders.clear())[0].starts_with("loaders.user: is gone and writes behind"));
        let texts = fixed(|config| config.sources[0].url = "postgres://app:one@db2/shop".to_owned());
        assert!(texts[0].starts_with("sources.main.url: is another database"), "{texts:?}");
        let texts = fixed(|config| {
            let mut other = loader_named("cart");
            other.write = WriteMode::Behind;
            config.loaders.push(other);
        });
        assert!(texts[0].starts_with("loaders.cart.write: \"behind\" needs a restart"), "{texts:?}");
    }
}
