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
pub(crate) mod exchange;
pub(crate) mod gate;
mod pause;
mod refresh;
mod table;
mod warm;
pub(crate) mod write;

use self::counters::LoadCounters;
use self::exchange::{Fate, Retirement};
use self::gate::{Ending, Gate};
use self::refresh::Pace;
pub(crate) use self::table::{LOADER_NAMES_MAX, Loaders, Table};
use self::warm::Warm;
use crate::config::{LoaderConfig, RefreshMode};
use crate::host::NodeHost;
use crate::node::Node;
use crate::vital::Vital;
use bytes::Bytes;
use leasehold_command::{LoaderOrder, LoaderPolicy, NO_LOADER_NAMED, ServeStale, View, finish_effects};
use leasehold_keyspace::{
    Access, Db, Entry, Expiry, Failure, Fill, Filled, Load, LoadCause, LostReason, TAGS_MAX, Tag, Turn, Waiter, Wake,
    WakeEvent,
};
use leasehold_loader_api::{LoadError, LoadRequest, Loaded, Loader, Row};
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

/// A loader as it is configured, and what loads.
pub(crate) type Opened = (LoaderConfig, Arc<dyn Loader>);

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
    /// Queries under way at one time.
    permits: Arc<Semaphore>,
    gate: Arc<Gate>,
    writes: write::Writes,
    // A loader that takes the place of this one goes on with these.
    counters: Arc<LoadCounters>,
    pace: Arc<Pace>,
    is_paused: Arc<AtomicBool>,
    warm: Arc<Warm>,
    last_error: Arc<Mutex<Option<String>>>,
    retirement: Retirement,
    /// Whether its number was given to loads of keys that it may not match.
    is_rematched: bool,
}

/// The receiving end of a loader's queue.
pub(crate) type Queue = mpsc::UnboundedReceiver<Vec<Job>>;

/// A load that waits for its query.
#[derive(Debug)]
pub(crate) struct Job {
    load: Load,
    asked: Instant,
}

impl LoaderDesk {
    fn fits(&self, db: Db, key: &[u8]) -> bool {
        self.config.db == db && key.starts_with(&self.prefix) && self.loader.matches(key)
    }

    /// Queues as many of a group as there is room for: what readers wait for first. They come back if the queue is closed.
    fn start(&self, group: Vec<Load>, refused: &mut Vec<(Load, String)>) -> Vec<Load> {
        self.counters.asked.fetch_add(group.len() as u64, Ordering::Relaxed);
        if self.is_paused() {
            self.refuse_paused(group, refused);
            return Vec::new();
        }
        if let Some(why) = self.gate.refusal(Instant::now()) {
            self.count_refused(&group, &self.counters.cut_off);
            let text = reason(self, &why);
            refused.extend(group.into_iter().map(|load| (load, text.to_string())));
            return Vec::new();
        }
        let (refreshes, mut admitted): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|load| load.cause == LoadCause::Refresh);
        let without_room = admitted.split_off(self.reserve(admitted.len(), self.config.queue_max));
        self.counters.busy.fetch_add(without_room.len() as u64, Ordering::Relaxed);
        refused.extend(without_room.into_iter().map(|load| (load, self.busy_text())));
        admitted.extend(self.admit_refreshes(refreshes, refused));
        if admitted.is_empty() {
            return Vec::new();
        }
        let (asked, count) = (Instant::now(), admitted.len());
        match self.queue.send(admitted.into_iter().map(|load| Job { load, asked }).collect()) {
            Ok(()) => Vec::new(),
            Err(mpsc::error::SendError(jobs)) => {
                self.queued.fetch_sub(count, Ordering::Relaxed);
                self.counters.asked.fetch_sub(count as u64, Ordering::Relaxed);
                jobs.into_iter().map(|job| job.load).collect()
            }
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

    /// What loads.
    pub(crate) fn loader(&self) -> Arc<dyn Loader> {
        Arc::clone(&self.loader)
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
    for (desk, queue) in node.loaders.table().list.iter().zip(queues) {
        tokio::spawn(schedule(Arc::clone(node), Arc::clone(desk), queue));
    }
}

/// Does what an operator tells a loader by name.
///
/// # Errors
/// The text of the error reply.
pub(crate) fn order(node: &Arc<Node>, name: &[u8], order: LoaderOrder) -> Result<(), String> {
    let table = node.loaders.table();
    let desk = table.desk_named(name).ok_or_else(|| NO_LOADER_NAMED.to_owned())?;
    match order {
        LoaderOrder::Pause => desk.pause(),
        LoaderOrder::Resume => desk.resume(),
        LoaderOrder::Warm { keys, rate } => return warm::start(node, desk, keys, rate),
        LoaderOrder::StopWarm => desk.warm.stop(),
    }
    Ok(())
}

fn no_loader(loader: u32) -> String {
    format!("NOLOADER no loader {loader}")
}

/// Takes loads from the queue until the loader is retired.
async fn schedule(node: Arc<Node>, desk: Arc<LoaderDesk>, mut queue: Queue) {
    let _vital = Vital("scheduler of loads");
    // Taken from the queue; the rest of a group longer than a query begins the next.
    let mut waiting = VecDeque::new();
    tokio::select! {
        () = desk.retired() => {}
        () = serve(&node, &desk, &mut queue, &mut waiting) => {}
    }
    exchange::close(&node, &desk, queue, waiting.into()).await;
}

/// Takes loads from the queue, as many together as one query takes, no more queries at one time than the loader may have. May be
/// given up at any moment: what is not begun is in the queue or in `waiting` then.
async fn serve(node: &Arc<Node>, desk: &Arc<LoaderDesk>, queue: &mut Queue, waiting: &mut VecDeque<Job>) {
    let batch_max = desk.loader.batch_max().max(1);
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
            pause::give_up(node, desk, &batch);
            continue;
        }
        tokio::spawn(load_batch(Arc::clone(node), Arc::clone(desk), batch, permit));
    }
}

/// Loads the keys of a batch with one request and ends their leases.
async fn load_batch(node: Arc<Node>, desk: Arc<LoaderDesk>, batch: Vec<Job>, permit: OwnedSemaphorePermit) {
    let desk = &desk;
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

/// The tag of what is loaded for a node that does not answer and has no tag of its own. No key or column has such a name.
const STOOD_IN: &[u8] = b"\0stood in";

/// Ends the lease of one job with the answer for its key.
fn apply(node: &Node, desk: &LoaderDesk, turn: &mut Turn, job: &Job, answer: &Loaded, timed_out: bool) {
    let Load { db, key, token, .. } = &job.load;
    turn.actor = audit::actor(job.load.cause);
    let counters = &desk.counters;
    let named: Vec<Tag>;
    let fate = desk.fate();
    let for_another = node.life_for_another_ms(key);
    if fate == Fate::Outdated {
        // Another loader makes this value by now: whoever waits has it from there.
        node.keyspace.outdate(turn, *db, key);
    }
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
            let mut stale_for_ms = desk.config.stale_for.as_millis() as u64;
            let mut tags_of_row: Vec<Tag> = tags.iter().map(|tag| node.keyspace.tag(tag)).collect();
            let mut ttl_ms = desk.ttl_ms(turn, is_behind);
            if let Some(life_ms) = for_another {
                (ttl_ms, stale_for_ms) = (ttl_ms.min(life_ms), 0);
                // An entry without a tag knows no birth.
                if tags_of_row.is_empty() {
                    tags_of_row.push(node.keyspace.tag(STOOD_IN));
                }
            }
            named = tags_of_row;
            let expiry = Expiry::At(turn.now_ms.saturating_add(ttl_ms));
            Fill::Value { value, expiry, stale_for_ms, version: *version, client_flags: 0, tags: &named }
        }
        Ok(Row::Absent | Row::Behind(_)) => {
            counters.absent.fetch_add(1, Ordering::Relaxed);
            let ttl_ms = desk.config.negative_ttl.as_millis() as u64;
            let ttl_ms = if is_behind { ttl_ms.min(BEHIND_LIFE_MS) } else { ttl_ms };
            Fill::Absent { ttl_ms: for_another.map_or(ttl_ms, |life_ms| ttl_ms.min(life_ms)) }
        }
        Err(error) => {
            counters.errors.fetch_add(1, Ordering::Relaxed);
            if error.is_transient() && matches!(fate, Fate::Replaced | Fate::Outdated) {
                // Of a source as it was before; as it is now it may answer.
                desk.note_failed(&job.load);
                return exchange::lead_anew(node, desk, turn, &job.load);
            }
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
    let host = NodeHost::new(Arc::clone(node), None);
    finish_effects(&node.keyspace, &host, &mut turn);
    node.post_wakes(std::mem::take(&mut turn.effects.wakes));
}

/// Runs a load whose answer goes to `waiter` and nowhere else; see `Host::test_load`.
pub(crate) fn test(node: &Arc<Node>, db: Db, key: &[u8], waiter: Waiter) -> Result<(), String> {
    let desk = node.loaders.table().desk_for(db, key).cloned();
    let (Some(runtime), Some(desk)) = (node.loader_runtime.get(), desk) else {
        return Err("NOLOADER no loader matches this key".to_owned());
    };
    if desk.counters.tests.fetch_add(1, Ordering::Relaxed) >= TESTS_MAX {
        desk.counters.tests.fetch_sub(1, Ordering::Relaxed);
        return Err(format!("LOADBUSY {} {TESTS_MAX} tests are under way", desk.name()));
    }
    let (node, key) = (Arc::clone(node), Bytes::copy_from_slice(key));
    runtime.spawn(async move {
        let desk = &desk;
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
pub(crate) mod tests;
