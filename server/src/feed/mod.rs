//! From what a database tells of its changes to keys that are stale: one reader and one follower per feed, on the loader runtime.
//!
//! ```text
//! run_feed ── Notice ─► follow ─► Changes ─► Mapping ─► keys, each once ─► Keyspace::invalidate
//!                          │      Gap ─────► all that the feed covers is stale
//!                          └ not up to date for stale_after: the same, and again after as long
//! ```
//!
//! So no entry is older than what its feed has told, and where the feed is blind, not older than `stale_after`. A notice is applied before the
//! next one is taken; what was told twice is invalidated twice, which does no harm.

mod cover;
mod mapping;

use crate::config::{Config, FeedConfig, LoaderConfig};
use crate::load;
use crate::node::Node;
use crate::vital::Vital;
pub(crate) use cover::{Cover, cover_is_stale};
use leasehold_command::View;
use leasehold_keyspace::{Actor, Invalidation};
use leasehold_loader_api::feed::{Batch, Gap, Notice};
use leasehold_loader_sql::{NOTICES_MAX, Source, Template, run_feed};
pub(crate) use mapping::Mapping;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Keys that are invalidated before others have their turn.
const KEYS_PER_TURN: usize = 256;

/// Lags that quantiles are made of: the last of so many events.
const LAGS: usize = 1_024;

/// All feeds of now, in the order of the configuration.
pub(crate) struct Feeds {
    list: Mutex<Vec<Arc<FeedDesk>>>,
    /// By number: those that feeds have or had.
    names: Mutex<Vec<String>>,
}

/// One feed.
pub(crate) struct FeedDesk {
    /// Its name's among all that feeds have had.
    number: u32,
    config: FeedConfig,
    mapping: Mapping,
    covers: Vec<Cover>,
    counters: Counters,
    state: Mutex<State>,
    /// Its reader and its follower, once they run.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// All relaxed, as each is a number of its own, but for the first.
#[derive(Debug, Default)]
struct Counters {
    /// Events that have been applied.
    events: AtomicU64,
    keys: AtomicU64,
    /// Of the keys, those that had a fresh entry.
    invalidated: AtomicU64,
    duplicates: AtomicU64,
    unmapped: AtomicU64,
    /// Times that all was stale because the database said so.
    wholes: AtomicU64,
    /// Times that changes may have been missed, not counting the start.
    gaps: AtomicU64,
    /// Times that all was stale because the feed was not up to date for too long.
    blinds: AtomicU64,
    troubles: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    problem: Option<String>,
    last_gap: Option<&'static str>,
    /// A ring of the last lags in µs, and how many there were in all.
    lags_us: Vec<u64>,
    lags: usize,
    lag_us_max: u64,
    up_to_date_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Not read yet.
    #[default]
    Starting,
    Ok,
    /// The feed cannot be read now.
    Troubled,
    /// It could not be read for `stale_after`.
    Blind,
}

impl Feeds {
    /// The feeds of a configuration that was checked.
    pub(crate) fn new(config: &Config) -> Self {
        let feeds = Self { list: Mutex::default(), names: Mutex::default() };
        feeds.install(config.feeds.iter().map(|feed| feeds.desk(config, feed)).collect());
        feeds
    }

    /// A feed of a configuration that was checked, which does nothing yet.
    pub(crate) fn desk(&self, config: &Config, feed: &FeedConfig) -> Arc<FeedDesk> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let name = &feed.settings.name;
        let known = names.iter().position(|known| known == name);
        let number = known.unwrap_or_else(|| {
            names.push(name.clone());
            names.len() - 1
        });
        Arc::new(FeedDesk::new(config, feed, number as u32))
    }

    /// The name of a feed, also of one that is gone.
    pub(crate) fn name(&self, number: u32) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(number as usize).cloned().unwrap_or_default()
    }

    /// The feeds as they are now.
    pub(crate) fn desks(&self) -> Vec<Arc<FeedDesk>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these are the feeds.
    pub(crate) fn install(&self, desks: Vec<Arc<FeedDesk>>) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = desks;
    }

    /// For `FEED LIST`, `FEED STATS` and INFO.
    pub(crate) fn views(&self) -> Vec<View> {
        self.desks().iter().map(|desk| desk.view()).collect()
    }
}

/// A loader of the configuration by its name, with its pattern.
fn loader_of<'c>(config: &'c Config, name: &str) -> Option<(&'c str, leasehold_keyspace::Db, Template)> {
    let loader = config.loaders.iter().find(|loader| loader.settings.name == name)?;
    Some((&loader.settings.name, loader.db, Template::parse(&loader.settings.pattern).ok()?))
}

/// How the feed's events become keys.
///
/// # Errors
/// A loader has a placeholder that no column of the feed is for; the text says which.
pub(crate) fn mapping_of(config: &Config, feed: &FeedConfig) -> Result<Mapping, String> {
    if !feed.has_rows() {
        return Ok(Mapping::whole());
    }
    let settings = feed.settings();
    Mapping::new(&settings.key, feed.loaders.iter().filter_map(|name| loader_of(config, name)))
}

/// Starts reading a feed, on the current runtime.
pub(crate) fn start(node: &Arc<Node>, desk: &Arc<FeedDesk>, source: &Source) {
    let (notices, received) = mpsc::channel(NOTICES_MAX);
    let reader = run_feed(source.clone(), desk.config.settings(), notices);
    let reader = tokio::spawn(async {
        let _vital = Vital("reader of a feed");
        reader.await;
    });
    let follower = tokio::spawn(follow(Arc::clone(node), Arc::clone(desk), received));
    desk.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend([reader, follower]);
}

/// Stops reading a feed. What it was about to tell is lost, so all that it covers is stale.
pub(crate) async fn stop(node: &Arc<Node>, desk: &FeedDesk) {
    let tasks = std::mem::take(&mut *desk.tasks.lock().unwrap_or_else(PoisonError::into_inner));
    tasks.iter().for_each(JoinHandle::abort);
    for task in tasks {
        // It says that it was aborted; a panic has ended the process.
        let _ = task.await;
    }
    tracing::info!(feed = desk.name(), "the feed is read no more as it was: all that it covered is stale");
    desk.all_is_stale(node);
}

/// Takes what a feed tells, until the server ends or the feed is stopped.
async fn follow(node: Arc<Node>, desk: Arc<FeedDesk>, mut notices: mpsc::Receiver<Notice>) {
    let _vital = Vital("follower of a feed");
    let stale_after = desk.config.stale_after;
    let mut blind_at = Instant::now() + stale_after;
    loop {
        match timeout_at(blind_at, notices.recv()).await {
            Ok(Some(Notice::Changes(batch))) => desk.apply(&node, &batch).await,
            Ok(Some(Notice::Gap(gap))) => {
                desk.note_gap(gap);
                desk.all_is_stale(&node);
            }
            Ok(Some(Notice::UpToDate(at))) => {
                blind_at = Instant::from_std(at) + stale_after;
                desk.note_up_to_date(Instant::from_std(at));
            }
            Ok(Some(Notice::Trouble(problem))) => desk.note_trouble(problem),
            Ok(None) => return,
            Err(_) => {
                blind_at = Instant::now() + stale_after;
                desk.note_blind();
                desk.all_is_stale(&node);
            }
        }
    }
}

impl FeedDesk {
    fn new(config: &Config, feed: &FeedConfig, number: u32) -> Self {
        let is_covered = |loader: &&LoaderConfig| feed.loaders.contains(&loader.settings.name);
        Self {
            number,
            mapping: mapping_of(config, feed).unwrap_or_else(|_| Mapping::whole()),
            covers: config.loaders.iter().filter(is_covered).map(Cover::new).collect(),
            config: feed.clone(),
            counters: Counters::default(),
            state: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// What it is told.
    pub(crate) fn config(&self) -> &FeedConfig {
        &self.config
    }

    /// Invalidates the keys of a batch.
    async fn apply(&self, node: &Arc<Node>, batch: &Batch) {
        let mapped = self.mapping.map(&batch.events);
        let add = |counter: &AtomicU64, count: u64| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.counters.keys, mapped.keys.len() as u64);
        add(&self.counters.duplicates, mapped.duplicates);
        add(&self.counters.unmapped, mapped.unmapped);
        if mapped.is_all {
            add(&self.counters.wholes, 1);
            self.all_is_stale(node);
        } else {
            let mut keys = mapped.keys.iter();
            while keys.len() > 0 {
                let mut hits = 0;
                load::end(node, |turn| {
                    turn.actor = Actor::Feed(self.number);
                    for (db, key) in keys.by_ref().take(KEYS_PER_TURN) {
                        let soft = Invalidation::Soft { stale_ms: None };
                        hits += u64::from(node.keyspace.invalidate(turn, *db, key, soft, None));
                    }
                });
                add(&self.counters.invalidated, hits);
                if keys.len() > 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.note_lags(batch);
        // Last: who has seen the count knows that the keys are stale.
        self.counters.events.fetch_add(batch.events.len() as u64, Ordering::Release);
    }

    fn all_is_stale(&self, node: &Arc<Node>) {
        for cover in &self.covers {
            cover_is_stale(node, cover);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> &str {
        &self.config.settings.name
    }

    fn note_lags(&self, batch: &Batch) {
        let since_us = batch.read_at.elapsed().as_micros() as u64;
        let mut state = self.state();
        for age in batch.events.iter().filter_map(|event| event.age) {
            let lag_us = age.as_micros() as u64 + since_us;
            state.lag_us_max = state.lag_us_max.max(lag_us);
            let place = state.lags % LAGS;
            match state.lags_us.get_mut(place) {
                Some(oldest) => *oldest = lag_us,
                None => state.lags_us.push(lag_us),
            }
            state.lags += 1;
        }
    }

    fn note_gap(&self, gap: Gap) {
        let is_loss = !matches!(gap, Gap::Started | Gap::Settled);
        let reason = gap.reason();
        if is_loss {
            self.counters.gaps.fetch_add(1, Ordering::Relaxed);
            self.state().last_gap = Some(reason);
            tracing::warn!(
                feed = self.name(),
                reason,
                "changes may have been missed: all that the feed covers is stale"
            );
        } else {
            tracing::info!(feed = self.name(), reason, "all that the feed covers is stale");
        }
    }

    fn note_up_to_date(&self, at: Instant) {
        let mut state = self.state();
        state.up_to_date_at = Some(at);
        state.problem = None;
        if std::mem::replace(&mut state.phase, Phase::Ok) != Phase::Ok {
            tracing::info!(feed = self.name(), "the feed is read");
        }
    }

    fn note_trouble(&self, problem: String) {
        self.counters.troubles.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        // A database that is down says the same at each try: one line for each new trouble.
        if state.problem.as_deref() != Some(&problem) {
            tracing::warn!(feed = self.name(), problem, "the feed cannot be read");
        }
        state.problem = Some(problem);
        if state.phase != Phase::Blind {
            state.phase = Phase::Troubled;
        }
    }

    fn note_blind(&self) {
        self.counters.blinds.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        if std::mem::replace(&mut state.phase, Phase::Blind) != Phase::Blind {
            let problem = state.problem.as_deref().unwrap_or("it says nothing");
            tracing::warn!(
                feed = self.name(),
                problem,
                "the feed is blind: all that it covers is stale until it can be read"
            );
        }
    }

    fn view(&self) -> View {
        let FeedConfig { settings, source, loaders, stale_after, .. } = &self.config;
        let ms = |span: Duration| span.as_millis().to_string();
        let state = self.state();
        let phase = match state.phase {
            Phase::Starting => "starting",
            Phase::Ok => "ok",
            Phase::Troubled => "trouble",
            Phase::Blind => "blind",
        };
        let fields = vec![
            ("source", source.clone()),
            ("via", self.config.via_name().to_owned()),
            ("table", settings.table.clone()),
            ("key", self.config.key.join(",")),
            ("loaders", loaders.join(",")),
            ("window_ms", ms(settings.window)),
            ("stale_after_ms", ms(*stale_after)),
            ("state", phase.to_owned()),
            ("problem", state.problem.clone().unwrap_or_default()),
            ("last_gap", state.last_gap.unwrap_or_default().to_owned()),
        ];
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        let counters = &self.counters;
        let mut lags_us = state.lags_us.clone();
        lags_us.sort_unstable();
        let lag_us = |per_mille: usize| {
            let place = (lags_us.len() * per_mille).div_ceil(1_000).saturating_sub(1);
            lags_us.get(place).copied().unwrap_or(0) as i64
        };
        let behind_ms = state.up_to_date_at.map_or(-1, |at| at.elapsed().as_millis() as i64);
        let counters = vec![
            // Pairs with `apply`.
            ("events", counters.events.load(Ordering::Acquire) as i64),
            ("keys", count(&counters.keys)),
            ("invalidated", count(&counters.invalidated)),
            ("duplicates", count(&counters.duplicates)),
            ("unmapped", count(&counters.unmapped)),
            ("wholes", count(&counters.wholes)),
            ("gaps", count(&counters.gaps)),
            ("blinds", count(&counters.blinds)),
            ("troubles", count(&counters.troubles)),
            ("up_to_date_ms_ago", behind_ms),
            ("lag_p50_us", lag_us(500)),
            ("lag_p99_us", lag_us(990)),
            ("lag_max_us", state.lag_us_max as i64),
        ];
        View { name: settings.name.clone(), settings: fields, counters }
    }
}
