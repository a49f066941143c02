//! From a lease that the server holds to the answer of a source: one queue, one scheduler and one set of counters per loader,
//! on a runtime of its own.
//!
//! ```text
//! data threads ── start ─► queue of groups (bounded) ─► scheduler ─► batch ─► Loader::load ─► Keyspace::fill | fail ─► wakes
//!                  │ full: LOADBUSY                       │ at most concurrency_max under way
//! ```
//!
//! No load passes while a breaker is open ([`gate`]): what is wanted then is refused at once. A load is never cancelled: its
//! waiters give up by themselves, each by its own time, and one that comes after the hard timeout still fills if its token is
//! still good. Leases keep a key from being loaded twice; when a token was revoked during its load and the key is wanted again,
//! both answers may come from one query only if that began after the second token was issued.

pub(crate) mod audit;
mod breaker;
mod counters;
mod gate;
mod pause;
mod refresh;
mod warm;
pub(crate) mod write;

use self::counters::LoadCounters;
use self::gate::{Ending, Gate, Guard};
use self::refresh::Pace;
use self::warm::Warm;
use crate::config::{LoaderConfig, RefreshMode};
use crate::host::NodeHost;
use crate::node::Node;
use crate::vital::Vital;
use bytes::Bytes;
use leasehold_command::{LoaderOrder, LoaderPolicy, NO_LOADER_NAMED, ServeStale, View, finish_effects};
use leasehold_keyspace::attribution::LoaderOf;
use leasehold_keyspace::{
    Access, Db, Entry, Expiry, Failure, Fill, Filled, Load, LoadCause, LostReason, TAGS_MAX, Tag, Turn, Waiter, Wake,
    WakeEvent,
};
use leasehold_loader_api::{LoadError, LoadRequest, Loaded, Loader, Row, Writes};
use leasehold_loader_sql::SourceSettings;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

const _: () = assert!(leasehold_loader_api::TAGS_MAX <= TAGS_MAX);

/// After a failed load the stale value is taken for fresh for so long, in ms: a dead source is asked once a second for a key,
/// not once per request.
const FAILURE_LIFE_MS: u64 = 1_000;

/// What a replica answers while its primary does not may be old, so it lives for so long at most, in ms.
const BEHIND_LIFE_MS: u64 = 1_000;

/// Loads that nobody waits for take at most one place in so many of the queue: readers who miss come first.
const BACKGROUND_SHARE: usize = 2;

/// `LOADER TEST`s of one loader under way at one time.
const TESTS_MAX: u64 = 16;

/// All loaders, in the order of the configuration; `LoaderPolicy::loader` is the index.
pub(crate) struct Loaders {
    list: Vec<LoaderDesk>,
    any_writes: bool,
    /// The most that any of them refreshes early by, in ms; relaxed, a bound for itself.
    early_ms_max: AtomicU64,
}

/// One loader with what the scheduler of its loads needs.
pub(crate) struct LoaderDesk {
    config: LoaderConfig,
    loader: Arc<dyn Loader>,
    /// What every key of the pattern begins with.
    prefix: Vec<u8>,
    policy: LoaderPolicy,
    /// What is wanted together travels together: a group is never torn apart by the clock. Bounded by `queued`.
    queue: mpsc::UnboundedSender<Vec<Job>>,
    /// Loads given to the queue and not taken into a query yet; at most `queue_max`.
    queued: AtomicUsize,
    gate: Gate,
    /// One for each query under way.
    permits: Arc<Semaphore>,
    counters: LoadCounters,
    pace: Pace,
    writes: write::Writes,
    is_paused: AtomicBool,
    warm: Arc<Warm>,
    last_error: Mutex<Option<String>>,
}

/// The receiving end of a loader's queue.
pub(crate) type Queue = mpsc::UnboundedReceiver<Vec<Job>>;

/// A load that waits for its query.
#[derive(Debug)]
pub(crate) struct Job {
    load: Load,
    asked: Instant,
}

impl Loaders {
    /// The name of a loader, by its place in the configuration.
    pub(crate) fn name(&self, loader: u32) -> Option<&str> {
        self.list.get(loader as usize).map(LoaderDesk::name)
    }

    /// The text for a key that its command did not even ask to be loaded, as the queue cannot hold all the command wants.
    pub(crate) fn refuse(&self, loader: u32) -> String {
        let Some(desk) = self.list.get(loader as usize) else { return no_loader(loader) };
        desk.counters.asked.fetch_add(1, Ordering::Relaxed);
        desk.counters.busy.fetch_add(1, Ordering::Relaxed);
        desk.busy_text()
    }

    /// Loaders and the queues their schedulers read.
    pub(crate) fn new(sources: &[SourceSettings], loaders: Vec<(LoaderConfig, Arc<dyn Loader>)>) -> (Self, Vec<Queue>) {
        let guard_of = |source: &SourceSettings| {
            (source.name.clone(), Arc::new(Guard::new("source", &source.name, source.breaker)))
        };
        let guards: HashMap<String, Arc<Guard>> = sources.iter().map(guard_of).collect();
        let mut queues = Vec::new();
        let any_writes = loaders.iter().any(|(_, loader)| loader.writes() != Writes::default());
        let list = loaders
            .into_iter()
            .enumerate()
            .map(|(index, (config, loader))| {
                let (queue, receiver) = mpsc::unbounded_channel();
                queues.push(receiver);
                let guard = Guard::new("loader", &config.settings.name, config.breaker);
                let source = guards.get(&config.source).cloned();
                // Loaders that are not built from a configuration need not have a source.
                let source = source.unwrap_or_else(|| Arc::new(Guard::new("source", &config.source, config.breaker)));
                LoaderDesk {
                    gate: Gate::new(guard, source),
                    permits: Arc::new(Semaphore::new(config.concurrency_max.max(1))),
                    prefix: config.key_prefix(),
                    policy: LoaderPolicy {
                        loader: index as u32,
                        transparent: config.transparent,
                        serve_stale: config.serve_stale,
                        soft_timeout_ms: config.soft_timeout.as_millis() as u64,
                        hard_timeout_ms: config.hard_timeout.as_millis() as u64,
                        loads_max: config.queue_max,
                    },
                    writes: write::Writes::new(config.concurrency_max),
                    config,
                    loader,
                    queue,
                    queued: AtomicUsize::new(0),
                    counters: LoadCounters::default(),
                    pace: Pace::default(),
                    is_paused: AtomicBool::new(false),
                    warm: Arc::default(),
                    last_error: Mutex::default(),
                }
            })
            .collect();
        let loaders = Self { list, any_writes, early_ms_max: AtomicU64::new(0) };
        loaders.set_early_ms_max();
        (loaders, queues)
    }

    /// The loader of a key.
    pub(crate) fn policy_for(&self, db: Db, key: &[u8]) -> Option<LoaderPolicy> {
        self.desk_for(db, key).map(|desk| desk.policy)
    }

    fn desk_for(&self, db: Db, key: &[u8]) -> Option<&LoaderDesk> {
        // The literal prefix tells nearly all loaders apart; the pattern is looked at once or twice.
        self.list.iter().find(|desk| desk.fits(db, key))
    }

    /// Queues loads, those of a loader as one group; see `Host::start_loads`.
    pub(crate) fn start(&self, mut loads: Vec<Load>) -> Vec<(Load, String)> {
        let mut refused = Vec::new();
        // Nearly always they are all of one loader.
        while let Some(loader) = loads.first().map(|load| load.loader) {
            let (group, others): (Vec<_>, Vec<_>) = loads.into_iter().partition(|load| load.loader == loader);
            match self.list.get(loader as usize) {
                Some(desk) => desk.start(group, &mut refused),
                None => refused.extend(group.into_iter().map(|load| (load, no_loader(loader)))),
            }
            loads = others;
        }
        refused
    }

    /// Says which loader a key belongs to; `None` without loaders.
    pub(crate) fn loader_of(&self) -> Option<LoaderOf> {
        let matchers: Vec<(Db, Vec<u8>, Arc<dyn Loader>)> =
            self.list.iter().map(|desk| (desk.config.db, desk.prefix.clone(), Arc::clone(&desk.loader))).collect();
        let loader_of = move |db: Db, key: &[u8]| {
            let is_its = |(of, prefix, loader): &(Db, Vec<u8>, Arc<dyn Loader>)| {
                *of == db && key.starts_with(prefix) && loader.matches(key)
            };
            matchers.iter().position(is_its).map(|index| index as u32)
        };
        if self.list.is_empty() { None } else { Some(Box::new(loader_of)) }
    }

    /// For `LOADER LIST` and `LOADER STATS`.
    pub(crate) fn views(&self) -> Vec<View> {
        self.list.iter().map(LoaderDesk::view).collect()
    }

    /// For `LOADER EXPLAIN`.
    pub(crate) fn explain(&self, db: Db, key: &[u8]) -> Option<Vec<(&'static str, String)>> {
        let desk = self.desk_for(db, key)?;
        let mut fields = vec![
            ("loader", desk.name().to_owned()),
            ("match", desk.config.settings.pattern.clone()),
            ("source", desk.config.source.clone()),
        ];
        fields.extend(desk.loader.explain(key));
        fields.push(("ttl_ms", desk.config.ttl.as_millis().to_string()));
        fields.push(("negative_ttl_ms", desk.config.negative_ttl.as_millis().to_string()));
        Some(fields)
    }
}

impl LoaderDesk {
    fn fits(&self, db: Db, key: &[u8]) -> bool {
        self.config.db == db && key.starts_with(&self.prefix) && self.loader.matches(key)
    }

    /// Queues as many of a group as there is room for: what readers wait for first.
    fn start(&self, group: Vec<Load>, refused: &mut Vec<(Load, String)>) {
        self.counters.asked.fetch_add(group.len() as u64, Ordering::Relaxed);
        if self.is_paused() {
            return self.refuse_paused(group, refused);
        }
        if let Some(why) = self.gate.refusal(Instant::now()) {
            self.count_refused(&group, &self.counters.cut_off);
            let text = reason(self, &why);
            return refused.extend(group.into_iter().map(|load| (load, text.to_string())));
        }
        let (refreshes, mut admitted): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|load| load.cause == LoadCause::Refresh);
        let without_room = admitted.split_off(self.reserve(admitted.len(), self.config.queue_max));
        self.counters.busy.fetch_add(without_room.len() as u64, Ordering::Relaxed);
        refused.extend(without_room.into_iter().map(|load| (load, self.busy_text())));
        admitted.extend(self.admit_refreshes(refreshes, refused));
        if admitted.is_empty() {
            return;
        }
        let (asked, name) = (Instant::now(), self.name());
        let jobs = admitted.into_iter().map(|load| Job { load, asked }).collect();
        if let Err(mpsc::error::SendError(jobs)) = self.queue.send(jobs) {
            let closed = |job: Job| (job.load, format!("LOADBUSY {name} the server is shutting down"));
            refused.extend(jobs.into_iter().map(closed));
        }
    }

    fn busy_text(&self) -> String {
        format!("LOADBUSY {} queue full: {} loads wait for the source", self.name(), self.config.queue_max)
    }

    /// Takes up to `wanted` places of the queue, as long as no more than `queued_max` are taken; how many there were.
    fn reserve(&self, wanted: usize, queued_max: usize) -> usize {
        let room = |queued: usize| wanted.min(queued_max.saturating_sub(queued));
        // Relaxed: a count for itself; the jobs travel by the channel.
        let before = self.queued.update(Ordering::Relaxed, Ordering::Relaxed, |queued| queued + room(queued));
        room(before)
    }

    /// Counts a load that brought nothing by what it was for.
    fn note_failed(&self, load: &Load) {
        match load.cause {
            LoadCause::Refresh => drop(self.counters.refreshes.failed.fetch_add(1, Ordering::Relaxed)),
            LoadCause::Warm => self.warm.note_failed(),
            LoadCause::Missed | LoadCause::Invalidated | LoadCause::HolderLost => {}
        }
    }

    fn name(&self) -> &str {
        &self.config.settings.name
    }

    fn view(&self) -> View {
        let config = &self.config;
        let ms = |duration: Duration| duration.as_millis().to_string();
        let (now, health) = (Instant::now(), self.loader.health());
        let state = self.gate.trouble(now).unwrap_or(if health.is_ok() { "ok" } else { "degraded" });
        let state = if self.is_paused() { "paused" } else { state };
        let problem = health.err().or_else(|| self.gate.refusal(now)).unwrap_or_default();
        let serve_stale = match config.serve_stale {
            ServeStale::Never => "never",
            ServeStale::OnError => "on-error",
            ServeStale::Always => "always",
        };
        let refresh = match config.refresh {
            RefreshMode::Off => "off",
            RefreshMode::Ahead => "ahead",
            RefreshMode::XFetch => "xfetch",
        };
        let settings = vec![
            ("match", config.settings.pattern.clone()),
            ("source", config.source.clone()),
            ("mode", if config.transparent { "transparent" } else { "explicit" }.to_owned()),
            ("value", format!("{:?}", config.settings.value).to_lowercase()),
            ("write", format!("{:?}", config.write).to_lowercase()),
            ("db", config.db.0.to_string()),
            ("batch_max", self.loader.batch_max().to_string()),
            ("batch_window_ms", ms(config.batch_window)),
            ("max_concurrency", config.concurrency_max.to_string()),
            ("queue", config.queue_max.to_string()),
            ("ttl_ms", ms(config.ttl)),
            ("jitter", config.jitter.to_string()),
            ("negative_ttl_ms", ms(config.negative_ttl)),
            ("stale_for_ms", ms(config.stale_for)),
            ("serve_stale", serve_stale.to_owned()),
            ("refresh", refresh.to_owned()),
            ("error_ttl_ms", ms(config.error_ttl)),
            ("soft_timeout_ms", ms(config.soft_timeout)),
            ("hard_timeout_ms", ms(config.hard_timeout)),
            ("breaker", if config.breaker.enabled { "on" } else { "off" }.to_owned()),
            ("state", state.to_owned()),
            ("source_breaker", self.gate.source_state(now).to_owned()),
            ("warm_state", self.warm.state()),
            ("problem", problem),
            ("last_error", self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()),
        ];
        View { name: self.name().to_owned(), settings, counters: self.counters() }
    }

    fn counters(&self) -> Vec<(&'static str, i64)> {
        let counters = &self.counters;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        let batches = value(&counters.batches);
        let queued = self.queued.load(Ordering::Relaxed);
        let mut fields = vec![
            ("loads", value(&counters.asked)),
            ("batches", batches),
            ("keys", value(&counters.keys)),
            ("rows", value(&counters.rows)),
            ("absent", value(&counters.absent)),
            ("errors", value(&counters.errors)),
            ("timeouts", value(&counters.timeouts)),
            ("busy", value(&counters.busy)),
            ("cut_off", value(&counters.cut_off)),
            ("refused_paused", value(&counters.paused)),
            ("in_flight", value(&counters.in_flight)),
            ("queue_length", queued as i64),
            ("late_fills", value(&counters.late_fills)),
            ("lost_fills", value(&counters.lost_fills)),
            ("unstored", value(&counters.unstored)),
            ("panics", value(&counters.panics)),
            ("paused", i64::from(self.is_paused())),
            ("mean_us", value(&counters.time_us) / batches.max(1)),
            ("p50_us", counters.quantile_us(50)),
            ("p99_us", counters.quantile_us(99)),
            ("max_us", value(&counters.time_us_max)),
        ];
        fields.extend(counters.refresh_fields());
        fields.extend(self.warm.fields());
        fields.extend(self.writes.counters());
        fields.extend(self.gate.counters(Instant::now()));
        fields.extend(self.loader.statistics());
        fields
    }

    /// The fresh life of a value loaded now, spread by the jitter.
    fn ttl_ms(&self, turn: &mut Turn, is_behind: bool) -> u64 {
        let ttl_ms = jittered(self.config.ttl.as_millis() as u64, self.config.jitter, turn.random()).max(1);
        if is_behind { ttl_ms.min(BEHIND_LIFE_MS) } else { ttl_ms }
    }

    /// New life of a stale value after a failed load; none where stale values are not for plain readers.
    fn failure_life_ms(&self) -> u64 {
        match self.config.serve_stale {
            ServeStale::Never => 0,
            ServeStale::OnError | ServeStale::Always => FAILURE_LIFE_MS,
        }
    }

    fn note_error(&self, text: &str) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        // A source that is down says the same for every load: one line of log for each new trouble.
        if last.as_deref() != Some(text) {
            tracing::warn!(loader = self.name(), error = text, "a load failed");
            *last = Some(text.to_owned());
        }
    }
}

/// `ttl_ms` spread evenly over ± `jitter` of itself.
fn jittered(ttl_ms: u64, jitter: f64, random: u64) -> u64 {
    // 53 bits are what a double holds exactly: from -1 to 1.
    let spread = (random >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    ttl_ms.saturating_add_signed((ttl_ms as f64 * jitter * spread) as i64)
}

/// Starts the schedulers on the current runtime.
pub(crate) fn start_schedulers(node: &Arc<Node>, queues: Vec<Queue>) {
    for (index, queue) in queues.into_iter().enumerate() {
        tokio::spawn(schedule(Arc::clone(node), index, queue));
    }
}

/// Does what an operator tells a loader by name.
///
/// # Errors
/// The text of the error reply.
pub(crate) fn order(node: &Arc<Node>, name: &[u8], order: LoaderOrder) -> Result<(), String> {
    let desk = node.loaders.list.iter().find(|desk| desk.name().as_bytes() == name);
    let desk = desk.ok_or_else(|| NO_LOADER_NAMED.to_owned())?;
    match order {
        LoaderOrder::Pause => desk.pause(),
        LoaderOrder::Resume => desk.resume(),
        LoaderOrder::Warm { keys, rate } => return warm::start(node, desk.policy.loader, keys, rate),
        LoaderOrder::StopWarm => desk.warm.stop(),
    }
    Ok(())
}

fn no_loader(loader: u32) -> String {
    format!("NOLOADER no loader {loader}")
}

/// Takes loads from the queue, as many together as one query takes, no more queries at one time than the loader may have.
async fn schedule(node: Arc<Node>, index: usize, mut queue: Queue) {
    let _vital = Vital("scheduler of loads");
    let desk = &node.loaders.list[index];
    let batch_max = desk.loader.batch_max().max(1);
    // Taken from the queue; the rest of a group longer than a query begins the next.
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Some(group) = queue.recv().await else { return };
            waiting.extend(group);
        }
        // The permit before the rest: what comes while all are taken shares the next query.
        let Ok(permit) = Arc::clone(&desk.permits).acquire_owned().await else { return };
        // What is there already goes along, whatever the window.
        while waiting.len() < batch_max
            && let Ok(group) = queue.try_recv()
        {
            waiting.extend(group);
        }
        let window_end = tokio::time::Instant::now() + desk.config.batch_window;
        while waiting.len() < batch_max && !desk.config.batch_window.is_zero() {
            match tokio::time::timeout_at(window_end, queue.recv()).await {
                Ok(Some(group)) => waiting.extend(group),
                Ok(None) | Err(_) => break,
            }
        }
        let batch: Vec<Job> = waiting.drain(..waiting.len().min(batch_max)).collect();
        desk.queued.fetch_sub(batch.len(), Ordering::Relaxed);
        if desk.is_paused() {
            pause::give_up(&node, desk, &batch);
            continue;
        }
        tokio::spawn(load_batch(Arc::clone(&node), index, batch, permit));
    }
}

/// Loads the keys of a batch with one request and ends their leases.
async fn load_batch(node: Arc<Node>, index: usize, batch: Vec<Job>, permit: OwnedSemaphorePermit) {
    let desk = &node.loaders.list[index];
    let hard_timeout = desk.config.hard_timeout;
    // Whoever began these has left: the source has enough to do. They are asked for again if somebody has come since.
    let (late, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.asked.elapsed() >= hard_timeout);
    if !late.is_empty() {
        desk.counters.timeouts.fetch_add(late.len() as u64, Ordering::Relaxed);
        late.iter().for_each(|job| desk.note_failed(&job.load));
        let reason = reason(desk, &format!("not asked within {} ms: the queue is too slow", hard_timeout.as_millis()));
        let patience_ms = hard_timeout.as_millis() as u64;
        let give_up = |turn: &mut Turn, Load { db, key, token, .. }: &Load| {
            node.keyspace.drop_load(turn, *db, key, *token, &reason, patience_ms);
        };
        end(&node, |turn| late.iter().for_each(|job| give_up(turn, &job.load)));
    }
    // The batch is overdue when the last of its loads has waited long enough.
    let Some(youngest) = batch.iter().map(|job| job.asked).max() else { return };
    let oldest = batch.iter().map(|job| job.asked).min().unwrap_or(youngest);
    let (keys, jobs) = group_by_key(batch);
    let counters = &desk.counters;
    // Judged when the source would be asked: the breaker may have opened while these waited, and the first of them is the probe
    // that closes it.
    let mut entry = match desk.gate.enter(Instant::now()) {
        Ok(entry) => Some(entry),
        Err(why) => {
            counters.cut_off.fetch_add(jobs.iter().map(|jobs| jobs.len() as u64).sum(), Ordering::Relaxed);
            let reason = reason(desk, &why);
            return end(&node, |turn| {
                jobs.iter().flatten().for_each(|job| fail(&node, desk, turn, &job.load, &reason, Duration::ZERO));
            });
        }
    };
    counters.batches.fetch_add(1, Ordering::Relaxed);
    counters.keys.fetch_add(keys.len() as u64, Ordering::Relaxed);
    counters.in_flight.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    let loader = Arc::clone(&desk.loader);
    // A task of its own: a panic in a loader ends the load, not the scheduler.
    let mut answer = tokio::spawn(async move { loader.load(LoadRequest { keys }).await });
    let in_time = tokio::time::timeout_at((youngest + hard_timeout).into(), &mut answer).await;
    let timed_out = in_time.is_err();
    if timed_out {
        counters.timeouts.fetch_add(jobs.iter().map(|jobs| jobs.len() as u64).sum(), Ordering::Relaxed);
        let text = no_answer_within(hard_timeout);
        let reason = reason(desk, &text);
        desk.note_error(&reason);
        // What was longer in the queue than at the source says little about the source; its answer will.
        if let Some(entry) = entry.take_if(|_| started.elapsed() * 2 >= hard_timeout) {
            desk.gate.leave(Instant::now(), entry, &Ending::TimedOut(text));
        }
        let life_ms = desk.failure_life_ms();
        let overdue = |turn: &mut Turn, Load { db, key, token, .. }: &Load| {
            node.keyspace.overdue(turn, *db, key, *token, life_ms);
        };
        end(&node, |turn| jobs.iter().flatten().for_each(|job| overdue(turn, &job.load)));
    }
    let answer = match in_time {
        Ok(answer) => answer,
        Err(_) => answer.await,
    };
    counters.note_time(started.elapsed());
    desk.note_pace(oldest.elapsed());
    node.loaders.set_early_ms_max();
    counters.in_flight.fetch_sub(1, Ordering::Relaxed);
    drop(permit);
    let answers = answer.unwrap_or_else(|_| {
        counters.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(loader = desk.name(), "a load panicked");
        Vec::new()
    });
    if let Some(entry) = entry {
        let ending = match Ending::of(&answers) {
            Ending::Answered if started.elapsed() >= hard_timeout => Ending::TimedOut(no_answer_within(hard_timeout)),
            ending => ending,
        };
        desk.gate.leave(Instant::now(), entry, &ending);
    }
    end(&node, |turn| {
        let mut answers = answers.into_iter();
        for jobs in &jobs {
            let answer =
                answers.next().unwrap_or_else(|| Err(LoadError::Rejected("the loader gave no answer".to_owned())));
            for job in jobs {
                apply(&node, desk, turn, job, &answer, timed_out);
            }
        }
    });
}

/// Keys without duplicates, and the jobs of each.
fn group_by_key(batch: Vec<Job>) -> (Vec<Bytes>, Vec<Vec<Job>>) {
    let mut places: HashMap<Bytes, usize> = HashMap::with_capacity(batch.len());
    let (mut keys, mut jobs) = (Vec::with_capacity(batch.len()), Vec::<Vec<Job>>::with_capacity(batch.len()));
    for job in batch {
        let place = *places.entry(job.load.key.clone()).or_insert_with(|| {
            keys.push(job.load.key.clone());
            jobs.push(Vec::new());
            keys.len() - 1
        });
        jobs[place].push(job);
    }
    (keys, jobs)
}

/// Ends the lease of one job with the answer for its key.
fn apply(node: &Node, desk: &LoaderDesk, turn: &mut Turn, job: &Job, answer: &Loaded, timed_out: bool) {
    let Load { db, key, token, .. } = &job.load;
    turn.actor = audit::actor(job.load.cause);
    let counters = &desk.counters;
    let named: Vec<Tag>;
    let (answer, is_behind) = match answer {
        Ok(Row::Behind(row)) => (Ok(&**row), true),
        answer => (answer.as_ref(), false),
    };
    if is_behind && matches!(job.load.cause, LoadCause::Refresh | LoadCause::Warm) {
        // What is there came from the primary.
        let reason = reason(desk, "the primary does not answer, and a replica may be behind");
        return fail(node, desk, turn, &job.load, &reason, Duration::ZERO);
    }
    let fill = match answer {
        Ok(Row::Value { value, version, tags }) => {
            counters.rows.fetch_add(1, Ordering::Relaxed);
            if job.load.cause == LoadCause::Refresh {
                let is_same = |entry: Entry<'_>| entry.value == value;
                let unchanged = node.keyspace.read(turn, *db, key, Access::Quiet, is_same).unwrap_or(false);
                counters.refreshes.unchanged.fetch_add(u64::from(unchanged), Ordering::Relaxed);
            }
            let stale_for_ms = desk.config.stale_for.as_millis() as u64;
            named = tags.iter().map(|tag| node.keyspace.tag(tag)).collect();
            let ttl_ms = desk.ttl_ms(turn, is_behind);
            let expiry = Expiry::At(turn.now_ms.saturating_add(ttl_ms));
            Fill::Value { value, expiry, stale_for_ms, version: *version, tags: &named }
        }
        Ok(Row::Absent | Row::Behind(_)) => {
            counters.absent.fetch_add(1, Ordering::Relaxed);
            let ttl_ms = desk.config.negative_ttl.as_millis() as u64;
            Fill::Absent { ttl_ms: if is_behind { ttl_ms.min(BEHIND_LIFE_MS) } else { ttl_ms } }
        }
        Err(error) => {
            counters.errors.fetch_add(1, Ordering::Relaxed);
            let reason = reason(desk, &error.to_string());
            desk.note_error(&reason);
            let error_ttl = match error {
                LoadError::TooLarge { .. } => desk.config.too_large_ttl,
                LoadError::Unavailable(_) | LoadError::Timeout(_) | LoadError::Rejected(_) => desk.config.error_ttl,
            };
            return fail(node, desk, turn, &job.load, &reason, error_ttl);
        }
    };
    if job.load.cause == LoadCause::Warm {
        desk.warm.note_loaded();
    }
    match node.keyspace.fill(turn, *db, key, *token, fill) {
        Filled::Stored | Filled::Stale => {
            if timed_out {
                counters.late_fills.fetch_add(1, Ordering::Relaxed);
            }
        }
        Filled::Lost(LostReason::NoRoom) => {
            counters.unstored.fetch_add(1, Ordering::Relaxed);
        }
        Filled::Lost(_) => {
            counters.lost_fills.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn fail(node: &Node, desk: &LoaderDesk, turn: &mut Turn, load: &Load, reason: &Arc<str>, error_ttl: Duration) {
    desk.note_failed(load);
    let (reason, stale_life_ms) = (Arc::clone(reason), desk.failure_life_ms());
    let failure = Failure { reason, stale_life_ms, error_life_ms: error_ttl.as_millis() as u64 };
    node.keyspace.fail_with(turn, load.db, &load.key, load.token, &failure);
}

/// The text of the error reply.
fn reason(desk: &LoaderDesk, text: &str) -> Arc<str> {
    format!("LOADFAIL {} {text}", desk.name()).into()
}

fn no_answer_within(timeout: Duration) -> String {
    format!("no answer within {} ms", timeout.as_millis())
}

/// Runs `work` in a turn of its own, then does what the keyspace asked for.
pub(crate) fn end(node: &Arc<Node>, work: impl FnOnce(&mut Turn)) {
    let mut turn = node.turn();
    work(&mut turn);
    let host = NodeHost::new(Arc::clone(node));
    finish_effects(&node.keyspace, &host, &mut turn);
    node.post_wakes(std::mem::take(&mut turn.effects.wakes));
}

/// Runs a load whose answer goes to `waiter` and nowhere else; see `Host::test_load`.
pub(crate) fn test(node: &Arc<Node>, db: Db, key: &[u8], waiter: Waiter) -> Result<(), String> {
    let (Some(runtime), Some(policy)) = (&node.loader_runtime, node.loaders.policy_for(db, key)) else {
        return Err("NOLOADER no loader matches this key".to_owned());
    };
    let index = policy.loader as usize;
    let desk = &node.loaders.list[index];
    if desk.counters.tests.fetch_add(1, Ordering::Relaxed) >= TESTS_MAX {
        desk.counters.tests.fetch_sub(1, Ordering::Relaxed);
        return Err(format!("LOADBUSY {} {TESTS_MAX} tests are under way", desk.name()));
    }
    let (node, key) = (Arc::clone(node), Bytes::copy_from_slice(key));
    runtime.spawn(async move {
        let desk = &node.loaders.list[index];
        let loader = Arc::clone(&desk.loader);
        let answer = tokio::spawn(async move { loader.load(LoadRequest { keys: vec![key] }).await }).await;
        desk.counters.tests.fetch_sub(1, Ordering::Relaxed);
        let answer = answer.ok().and_then(|answers| answers.into_iter().next());
        let answer = answer.map(|answer| answer.map(|row| if let Row::Behind(row) = row { *row } else { row }));
        let event = match answer {
            Some(Ok(Row::Value { value, version, .. })) => {
                WakeEvent::Value { value, version: version.unwrap_or(0), expire_at_ms: None }
            }
            Some(Ok(Row::Absent | Row::Behind(_))) => WakeEvent::Absent { ttl_ms: 0, version: 0 },
            Some(Err(error)) => WakeEvent::Failed { stale: None, reason: reason(desk, &error.to_string()) },
            None => WakeEvent::Failed { stale: None, reason: reason(desk, "the loader gave no answer") },
        };
        node.post_wake(Wake { waiter, event });
    });
    Ok(())
}

#[cfg(test)]
mod tests;
