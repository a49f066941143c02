//! The configuration is read again (`LOADER RELOAD`, SIGHUP): sources, loaders and feeds become what it says, all of it or nothing.
//!
//! ```text
//! read ─► compare ─► open what is new, ask the databases ─► exchange ─► what was before ends by itself
//!   └────────┴─────────────────────┴─► refused: all is as it was
//! ```
//!
//! What is the same in the file stays as it is: its connections, breakers, counts and loads. Of the settings of the server those that `CONFIG
//! SET` can change follow the file where the file has changed; what was set by a client and is not touched by the file stays. All
//! else needs a restart, and a file that asks for it is refused. Unlike a start, a reload takes nothing that its database has not answered for.

mod compare;
mod report;
mod writer;

use crate::config::check::located;
use crate::config::parse::{self, Given, Places, Reading, Section};
use crate::config::problem::{Level, Problem};
use crate::config::{Config, WriteMode};
use crate::feed::{self, FeedDesk};
use crate::load::exchange::{Exchange, Next, Other};
use crate::load::{Opened, Table};
use crate::node::Node;
use compare::Differences;
use leasehold_command::NO_CONFIGURATION;
use leasehold_keyspace::{Waiter, Wake, WakeEvent};
use leasehold_loader_api::Loader;
use leasehold_loader_sql::{ConfigProblem, Source, build_loader, check_feed};
use report::Report;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;
use writer::Writer;

/// What reads the configuration again.
pub(crate) struct Reloader {
    given: Given,
    threads: usize,
    /// Locked for the length of a reload: another waits.
    running: tokio::sync::Mutex<Running>,
    /// Where loaders run, from the first one on; until the server ends.
    runtime: Mutex<Option<Runtime>>,
    report: Mutex<Report>,
}

/// What the server runs with.
pub(crate) struct Running {
    /// As it was last read and taken.
    pub(crate) config: Config,
    pub(crate) sources: HashMap<String, Source>,
    /// What writes for loaders that write behind, by their names.
    pub(crate) writers: HashMap<String, Arc<Writer>>,
}

/// Why nothing was changed: mistakes, with their places. There is at least one.
struct Refused(Vec<Problem>);

/// What is to be exchanged, opened and checked, with nothing of it begun.
struct Plan {
    exchange: Exchange,
    opened: HashMap<String, Source>,
    /// By name, of loaders that write behind and are built anew.
    writers: Vec<(String, Arc<dyn Loader>)>,
    feeds: Vec<NextFeed>,
    differences: Differences,
}

enum NextFeed {
    Kept(Arc<FeedDesk>),
    Other(Arc<FeedDesk>),
}

impl Reloader {
    pub(crate) fn new(given: Given, running: Running, runtime: Option<Runtime>) -> Self {
        Self {
            given,
            threads: running.config.loader_threads,
            running: tokio::sync::Mutex::new(running),
            runtime: Mutex::new(runtime),
            report: Mutex::default(),
        }
    }

    /// Whether there is a file to read again.
    pub(crate) fn has_file(&self) -> bool {
        self.given.conf.is_some()
    }

    /// For INFO.
    pub(crate) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where loaders run, for the end of the server.
    pub(crate) fn take_runtime(&self) -> Option<Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where loaders run; it is started if there was no loader yet.
    fn handle(&self, node: &Node) -> anyhow::Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if runtime.is_none() {
            let started = loader_runtime(self.threads)?;
            // Set once, as there is one runtime until the end.
            let _ = node.loader_runtime.set(started.handle().clone());
            *runtime = Some(started);
        }
        Ok(runtime.as_ref().expect("it is there by now").handle().clone())
    }
}

/// Threads for loaders.
///
/// # Errors
/// The system has none to give.
pub(crate) fn loader_runtime(threads: usize) -> anyhow::Result<Runtime> {
    use anyhow::Context as _;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads.max(1)).thread_name("loader").enable_all();
    builder.build().context("cannot start the loader threads")
}

/// What writes for a loader that writes behind: as long as there is a journal, whatever its connections are.
pub(crate) fn writers_of(loaders: &mut [Opened]) -> HashMap<String, Arc<Writer>> {
    let mut writers = HashMap::new();
    for (config, loader) in loaders.iter_mut().filter(|(config, _)| config.write == WriteMode::Behind) {
        let writer = Arc::new(Writer::new(Arc::clone(loader)));
        writers.insert(config.settings.name.clone(), Arc::clone(&writer));
        *loader = writer;
    }
    writers
}

/// See `Host::reload`.
pub(crate) fn ask(node: &Arc<Node>, waiter: Waiter) -> Result<(), String> {
    let reloader = node.reload.get().filter(|reloader| reloader.has_file()).ok_or(NO_CONFIGURATION)?;
    let handle = reloader.handle(node).map_err(|error| format!("ERR {error:#}"))?;
    let node = Arc::clone(node);
    let task = handle.clone();
    handle.spawn(async move {
        let reloading = Arc::clone(&node);
        // A task of its own: whoever waits hears of a bug, too.
        let reloaded = task.spawn(async move { run(&reloading).await }).await;
        let event = match reloaded {
            Ok(Ok(())) => WakeEvent::Written { rows: 0 },
            Ok(Err(text)) => WakeEvent::Failed { stale: None, reason: text.into() },
            Err(_) => WakeEvent::Failed { stale: None, reason: "ERR the reload ended by an internal error".into() },
        };
        node.post_wake(Wake { waiter, event });
    });
    Ok(())
}

/// SIGHUP has come.
pub(crate) async fn hang_up(node: &Arc<Node>) {
    let Some(reloader) = node.reload.get().filter(|reloader| reloader.has_file()) else {
        // The terminal that started us may close; the server goes on.
        return tracing::info!("SIGHUP ignored: the server was started without --conf");
    };
    match reloader.handle(node) {
        Ok(handle) => {
            let node = Arc::clone(node);
            // The log has told how it ended.
            let _ = handle.spawn(async move { run(&node).await }).await;
        }
        Err(error) => tracing::error!("SIGHUP: {error:#}"),
    }
}

/// Reads the configuration again, and does what it says. On the loader runtime.
///
/// # Errors
/// The text of the error reply: all is as it was.
async fn run(node: &Arc<Node>) -> Result<(), String> {
    let reloader = node.reload.get().expect("it is asked for there");
    let mut running = reloader.running.lock().await;
    let at_s = node.clock.wall_us() / 1_000_000;
    match reload(node, reloader, &mut running).await {
        Ok(differences) => {
            differences.tell(&node.live.differences(&running.config));
            reloader.report().note_done(at_s, differences.summary());
            Ok(())
        }
        Err(Refused(problems)) => {
            for problem in &problems {
                tracing::error!("reload refused: {problem}");
            }
            let text = refusal(&problems);
            reloader.report().note_refused(at_s, text.clone());
            Err(format!("ERR reload refused, nothing has changed: {text}"))
        }
    }
}

/// The first problem in one line, and how many more there are.
fn refusal(problems: &[Problem]) -> String {
    let first = problems.first().map(ToString::to_string).unwrap_or_default();
    let line = first.lines().next().unwrap_or_default();
    match problems.len() {
        0 | 1 => line.to_owned(),
        count => format!("{line} (and {} more; see the log)", count - 1),
    }
}

async fn reload(node: &Arc<Node>, reloader: &Reloader, running: &mut Running) -> Result<Differences, Refused> {
    let reading = tokio::task::block_in_place(|| parse::read(&reloader.given));
    let Reading { config, problems, places } = reading;
    let (mut errors, warnings): (Vec<_>, Vec<_>) =
        problems.into_iter().partition(|problem| problem.level == Level::Error);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if errors.is_empty() {
        errors = compare::fixed(&running.config, &config, &places);
    }
    if let Some((option, text)) = node.live.adoptable(&running.config, &config).filter(|_| errors.is_empty()) {
        errors.push(problem(&places, &Section::Server, option, text));
    }
    if !errors.is_empty() {
        return Err(Refused(errors));
    }
    let mut opened = HashMap::new();
    match plan(node, running, &config, &mut opened).await {
        Ok(plan) => Ok(carry_out(node, running, config, plan).await),
        Err(wrong) => {
            for source in opened.into_values() {
                source.close().await;
            }
            Err(Refused(vec![match wrong {
                Wrong::Found(found) => located(&found, &places),
                Wrong::At(section, option, text) => problem(&places, &section, option, text),
            }]))
        }
    }
}

/// What only the databases, or the process, can tell.
enum Wrong {
    Found(ConfigProblem),
    At(Section, &'static str, String),
}

impl From<ConfigProblem> for Wrong {
    fn from(problem: ConfigProblem) -> Self {
        Self::Found(problem)
    }
}

fn problem(places: &Places, section: &Section, option: &str, text: String) -> Problem {
    Problem { level: Level::Error, place: places.of(section, option), option: section.qualified(option), text }
}

/// Opens and checks what is not as it was. What is in `opened` is to be closed if it fails.
async fn plan(
    node: &Arc<Node>,
    running: &Running,
    config: &Config,
    opened: &mut HashMap<String, Source>,
) -> Result<Plan, Wrong> {
    let differences = Differences::between(&running.config, config);
    for settings in config.sources.iter().filter(|source| differences.is_new_source(&source.name)) {
        let source = Source::open(settings.clone()).await?;
        opened.insert(settings.name.clone(), source.clone());
        if let Err(reason) = source.check().await {
            let text = format!("the source does not answer: {reason}");
            return Err(Wrong::At(Section::Source(settings.name.clone()), "url", text));
        }
    }
    let sources = |name: &str| opened.get(name).or_else(|| running.sources.get(name));
    let now = node.loaders.table();
    let mut next = Vec::new();
    let mut writers = Vec::new();
    for loader in &config.loaders {
        let name = &loader.settings.name;
        let Some(change) = differences.loader(name) else {
            next.push(Next::Kept(name.clone()));
            continue;
        };
        let kept = loader_of(&now, name).filter(|_| change.is_loader_kept);
        let is_loader_kept = kept.is_some();
        let built = match kept {
            Some(kept) => kept,
            None => {
                let source = sources(&loader.source).expect("the configuration was checked: there is such a source");
                let built: Arc<dyn Loader> = Arc::new(build_loader(source, loader.loader_settings()).await?);
                if let Err(reason) = built.health() {
                    let text = format!("its statements cannot be checked: {reason}");
                    return Err(Wrong::At(Section::Loader(name.clone()), "source", text));
                }
                if loader.write == WriteMode::Behind {
                    writers.push((name.clone(), Arc::clone(&built)));
                }
                built
            }
        };
        next.push(Next::Other(Box::new(Other {
            config: loader.clone(),
            loader: built,
            is_loader_kept,
            is_source_kept: change.is_source_kept,
            is_outdating: change.is_outdating,
        })));
    }
    let mut feeds = Vec::new();
    let running_feeds = node.feeds.desks();
    for feed in &config.feeds {
        let name = &feed.settings.name;
        let kept = running_feeds.iter().find(|desk| desk.config().settings.name == *name);
        if let Some(kept) = kept.filter(|_| !differences.is_new_feed(name)) {
            feeds.push(NextFeed::Kept(Arc::clone(kept)));
            continue;
        }
        let source = sources(&feed.source).expect("the configuration was checked: there is such a source");
        // Under another number than the running feed may have: a server sends its log to one of a number only.
        let settings = leasehold_loader_sql::FeedSettings { server_id: None, ..feed.settings() };
        check_feed(source, &settings).await?;
        feeds.push(NextFeed::Other(node.feeds.desk(config, feed)));
    }
    let is_kept = |source: &str| !differences.is_new_source(source);
    let exchange = Exchange::plan(&now, &config.sources, is_kept, next)
        .map_err(|(name, reason)| Wrong::At(Section::Loader(name), "", reason))?;
    Ok(Plan { exchange, opened: opened.clone(), writers, feeds, differences })
}

fn loader_of(table: &Table, name: &str) -> Option<Arc<dyn Loader>> {
    Some(table.desk_named(name.as_bytes())?.loader())
}

/// The exchange itself, in which nothing can fail.
async fn carry_out(node: &Arc<Node>, running: &mut Running, config: Config, plan: Plan) -> Differences {
    let Plan { exchange, opened, writers, feeds, differences } = plan;
    node.live.adopt(&running.config, &config, |changed| node.heed(changed));
    let ends = exchange.carry_out(node);
    for (name, loader) in writers {
        if let Some(writer) = running.writers.get(&name) {
            writer.exchange(loader);
        }
    }
    let mut sources = opened;
    let mut closing = Vec::new();
    for (name, source) in running.sources.drain() {
        let stays = config.sources.iter().any(|source| source.name == name) && !sources.contains_key(&name);
        if stays {
            sources.insert(name, source);
        } else {
            closing.push(source);
        }
    }
    exchange_feeds(node, &sources, feeds).await;
    running.sources = sources;
    running.config = config;
    if !closing.is_empty() {
        tokio::spawn(close_behind(closing, ends));
    }
    differences
}

async fn exchange_feeds(node: &Arc<Node>, sources: &HashMap<String, Source>, feeds: Vec<NextFeed>) {
    let before = node.feeds.desks();
    let desk = |next: &NextFeed| match next {
        NextFeed::Kept(desk) | NextFeed::Other(desk) => Arc::clone(desk),
    };
    let next: Vec<Arc<FeedDesk>> = feeds.iter().map(desk).collect();
    node.feeds.install(next.clone());
    for old in before.iter().filter(|old| !next.iter().any(|desk| Arc::ptr_eq(desk, old))) {
        feed::stop(node, old).await;
    }
    for next in feeds {
        if let NextFeed::Other(desk) = next
            && let Some(source) = sources.get(&desk.config().source)
        {
            feed::start(node, &desk, source);
        }
    }
}

/// Closes sources once the last load of those who used them has ended.
async fn close_behind(sources: Vec<Source>, ends: Vec<Arc<Notify>>) {
    for end in ends {
        end.notified().await;
    }
    for source in sources {
        source.close().await;
        tracing::info!(source = source.name(), "the connections of before the reload are closed");
    }
}
