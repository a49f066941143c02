//! Loaders change while the server runs: the new ones take over at one moment, and what the old ones are at comes to an end.
//!
//! ```text
//!                   what waits in its queue      what is under way          what it has loaded
//! replaced          the new one loads it         fills                      is fresh as long as it was
//! outdated          the new one loads it anew    is lost, and loaded anew   is stale at once
//! removed           it loads it itself           fills                      is stale once the last of its loads has ended
//! ```
//!
//! A loader is outdated if what makes its values is another: a statement, the form of the value, the keys, the database. Its answers are
//! told from those of the new one by its fate, which is set before the prefix of its keys is bumped: who has a token from before the bump
//! has lost it, and who has one from after it finds the fate ([`super::apply`]).
//!
//! The desk of an old loader goes with the last load, thread or task that has it; only then are its connections closed.

use super::gate::{Gate, Guard};
use super::table::Table;
use super::{Job, LoadCounters, LoaderDesk, Queue, load_batch, schedule, write};
use crate::config::LoaderConfig;
use crate::feed::{Cover, cover_is_stale};
use crate::node::Node;
use leasehold_command::LoaderPolicy;
use leasehold_keyspace::{Load, Turn};
use leasehold_loader_api::Loader;
use leasehold_loader_sql::SourceSettings;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, Semaphore, mpsc};

/// What becomes of a loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It loads.
    Serving,
    /// Another is in its place, whose values are the same.
    Replaced,
    /// Another is in its place, whose values may be others.
    Outdated,
    /// No loader is in its place.
    Removed,
}

const FATES: [Fate; 4] = [Fate::Serving, Fate::Replaced, Fate::Outdated, Fate::Removed];

/// How a loader comes to its end.
#[derive(Debug)]
pub(super) struct Retirement {
    /// A place in [`FATES`]; released when it is set, acquired by who asks.
    fate: AtomicU8,
    /// Its scheduler is to look at its fate.
    told: Notify,
    /// Nobody has the desk any more.
    ended: Arc<Notify>,
}

impl Default for Retirement {
    fn default() -> Self {
        Self { fate: AtomicU8::new(0), told: Notify::new(), ended: Arc::default() }
    }
}

impl Drop for Retirement {
    fn drop(&mut self) {
        self.ended.notify_one();
    }
}

/// One loader of the next configuration.
pub(crate) enum Next {
    /// As it was, in all it needs.
    Kept(String),
    Other(Box<Other>),
}

/// A loader that is new, or not as it was.
pub(crate) struct Other {
    pub(crate) config: LoaderConfig,
    pub(crate) loader: Arc<dyn Loader>,
    /// Whether statements and connections are those of before.
    pub(crate) is_loader_kept: bool,
    /// Whether connections are those of before.
    pub(crate) is_source_kept: bool,
    /// Whether what was loaded before may be another value than would be loaded now.
    pub(crate) is_outdating: bool,
}

/// The next loaders, with nothing of them begun.
pub(crate) struct Exchange {
    table: Table,
    queues: Vec<(Arc<LoaderDesk>, Queue)>,
    retired: Vec<(Arc<LoaderDesk>, Fate)>,
}

impl Exchange {
    /// Puts the next loaders together.
    ///
    /// # Errors
    /// A loader, and why it has no place: there were too many names.
    pub(crate) fn plan(
        now: &Table,
        sources: &[SourceSettings],
        is_source_kept: impl Fn(&str) -> bool,
        next: Vec<Next>,
    ) -> Result<Self, (String, String)> {
        let mut table = now.without_loaders();
        for source in sources {
            let kept = now.guards.get(&source.name).filter(|_| is_source_kept(&source.name)).cloned();
            table.guards.insert(source.name.clone(), kept.unwrap_or_else(|| Arc::new(Guard::of_source(source))));
        }
        let mut queues = Vec::new();
        let mut retired = Vec::new();
        for next in next {
            let other = match next {
                Next::Kept(name) => {
                    table.add(Arc::clone(now.desk_named(name.as_bytes()).expect("it is kept, so it is there")));
                    continue;
                }
                Next::Other(other) => other,
            };
            let name = other.config.settings.name.clone();
            let has_been = table.has_known(&name);
            let number = table.number_for(&name).map_err(|reason| (name.clone(), reason))?;
            let before = now.desk_named(name.as_bytes());
            let fate = if other.is_outdating { Fate::Outdated } else { Fate::Replaced };
            let (desk, queue) = match before {
                Some(before) => LoaderDesk::after(before, *other, &table.guards),
                None => {
                    let (mut desk, queue) = LoaderDesk::new(other.config, other.loader, number, &table.guards);
                    desk.is_rematched = has_been;
                    (desk, queue)
                }
            };
            let desk = Arc::new(desk);
            table.add(Arc::clone(&desk));
            queues.push((desk, queue));
            retired.extend(before.map(|before| (Arc::clone(before), fate)));
        }
        let is_gone = |desk: &&Arc<LoaderDesk>| table.desk_named(desk.name().as_bytes()).is_none();
        retired.extend(now.list.iter().filter(is_gone).map(|desk| (Arc::clone(desk), Fate::Removed)));
        Ok(Self { table, queues, retired })
    }

    /// Exchanges the loaders, on the loader runtime. Told when the desk of each old one is gone.
    pub(crate) fn carry_out(self, node: &Arc<Node>) -> Vec<Arc<Notify>> {
        let Self { table, queues, retired } = self;
        let loader_of = table.loader_of();
        for (desk, queue) in queues {
            tokio::spawn(schedule(Arc::clone(node), desk, queue));
        }
        // The new ones first: who is sent away by an old one must find them.
        node.loaders.install(table);
        node.keyspace.attribute_to_loaders(loader_of);
        for (desk, fate) in &retired {
            desk.retirement.fate.store(*fate as u8, Ordering::Release);
            desk.retirement.told.notify_one();
        }
        for (desk, _) in retired.iter().filter(|(_, fate)| *fate == Fate::Outdated) {
            cover_is_stale(node, &Cover::new(&desk.config));
        }
        let ends = retired.into_iter().map(|(desk, fate)| {
            let ended = Arc::clone(&desk.retirement.ended);
            if fate != Fate::Removed {
                return ended;
            }
            let (node, cover, told) = (Arc::clone(node), Cover::new(&desk.config), Arc::new(Notify::new()));
            let covered = Arc::clone(&told);
            drop(desk);
            tokio::spawn(async move {
                ended.notified().await;
                cover_is_stale(&node, &cover);
                covered.notify_one();
            });
            told
        });
        ends.collect()
    }
}

impl LoaderDesk {
    /// A loader that begins, and the queue its scheduler reads.
    pub(super) fn new(
        config: LoaderConfig,
        loader: Arc<dyn Loader>,
        number: u32,
        guards: &HashMap<String, Arc<Guard>>,
    ) -> (Self, Queue) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let guard = Guard::new("loader", &config.settings.name, config.breaker);
        let desk = Self {
            gate: Arc::new(Gate::new(guard, source_guard(&config, guards))),
            prefix: config.key_prefix(),
            policy: policy(&config, number),
            writes: write::Writes::new(config.concurrency_max),
            permits: Arc::new(Semaphore::new(config.concurrency_max.max(1))),
            config,
            loader,
            queue,
            queued: AtomicUsize::new(0),
            counters: Arc::new(LoadCounters::default()),
            pace: Arc::default(),
            is_paused: Arc::new(AtomicBool::new(false)),
            warm: Arc::default(),
            last_error: Arc::new(Mutex::default()),
            retirement: Retirement::default(),
            is_rematched: false,
        };
        (desk, receiver)
    }

    /// A loader in the place of another: what was counted, whether it is paused, and a warming that is under way go on.
    fn after(before: &Self, other: Other, guards: &HashMap<String, Arc<Guard>>) -> (Self, Queue) {
        let Other { config, loader, is_loader_kept, is_source_kept, .. } = other;
        let (desk, queue) = Self::new(config, loader, before.policy.loader, guards);
        let config = &desk.config;
        let is_breaker_kept = is_loader_kept && config.breaker == before.config.breaker;
        let are_permits_kept = is_source_kept && config.concurrency_max == before.config.concurrency_max;
        let desk = Self {
            // What another statement, or another database, has failed at says nothing about this one.
            gate: if is_breaker_kept {
                Arc::new(Gate::new(before.gate.loader_guard(), source_guard(config, guards)))
            } else {
                desk.gate
            },
            // One database has no more queries of a loader at one time than it may have, whatever is exchanged.
            permits: if are_permits_kept { Arc::clone(&before.permits) } else { desk.permits },
            writes: before.writes.going_on(config.concurrency_max, are_permits_kept),
            counters: Arc::clone(&before.counters),
            pace: Arc::clone(&before.pace),
            is_paused: Arc::clone(&before.is_paused),
            warm: Arc::clone(&before.warm),
            last_error: if is_loader_kept { Arc::clone(&before.last_error) } else { desk.last_error },
            is_rematched: before.is_rematched
                || config.settings.pattern != before.config.settings.pattern
                || config.db != before.config.db,
            prefix: desk.prefix,
            policy: desk.policy,
            queue: desk.queue,
            queued: desk.queued,
            retirement: desk.retirement,
            loader: desk.loader,
            config: desk.config,
        };
        (desk, queue)
    }

    pub(super) fn fate(&self) -> Fate {
        FATES[usize::from(self.retirement.fate.load(Ordering::Acquire))]
    }

    /// Until the loader is to end.
    pub(super) async fn retired(&self) {
        while self.fate() == Fate::Serving {
            self.retirement.told.notified().await;
        }
    }

    /// Queues what waited for the loader of before; its places were given by that one.
    ///
    /// # Errors
    /// The queue is closed; the jobs come back.
    pub(super) fn take_over(&self, jobs: Vec<Job>) -> Result<(), Vec<Job>> {
        let count = jobs.len();
        self.queued.fetch_add(count, Ordering::Relaxed);
        self.queue.send(jobs).map_err(|mpsc::error::SendError(jobs)| {
            self.queued.fetch_sub(count, Ordering::Relaxed);
            jobs
        })
    }
}

fn policy(config: &LoaderConfig, number: u32) -> LoaderPolicy {
    LoaderPolicy {
        loader: number,
        transparent: config.transparent,
        serve_stale: config.serve_stale,
        soft_timeout_ms: config.soft_timeout.as_millis() as u64,
        hard_timeout_ms: config.hard_timeout.as_millis() as u64,
        loads_max: config.queue_max,
    }
}

fn source_guard(config: &LoaderConfig, guards: &HashMap<String, Arc<Guard>>) -> Arc<Guard> {
    // Loaders that are not built from a configuration need not have a source.
    let guard = guards.get(&config.source).cloned();
    guard.unwrap_or_else(|| Arc::new(Guard::new("source", &config.source, config.breaker)))
}

/// Sees to what stands in the queue of a loader that has ended.
pub(super) async fn close(node: &Arc<Node>, desk: &Arc<LoaderDesk>, mut queue: Queue, waiting: Vec<Job>) {
    queue.close();
    let mut jobs = waiting;
    while let Some(group) = queue.recv().await {
        jobs.extend(group);
    }
    desk.queued.fetch_sub(jobs.len(), Ordering::Relaxed);
    match desk.fate() {
        Fate::Removed => load_rest(node, desk, jobs).await,
        Fate::Serving | Fate::Replaced | Fate::Outdated => pass_on(node, desk, jobs),
    }
}

/// Gives jobs of a loader that is replaced to the one in its place; if its values are others, it loads them anew.
pub(super) fn pass_on(node: &Arc<Node>, desk: &LoaderDesk, jobs: Vec<Job>) {
    if jobs.is_empty() {
        return;
    }
    if desk.fate() != Fate::Replaced {
        return load_anew(node, desk, jobs);
    }
    let table = node.loaders.table();
    let taken = match table.desk(desk.policy.loader).filter(|next| !next.is_rematched) {
        Some(next) => next.take_over(jobs),
        None => Err(jobs),
    };
    if let Err(jobs) = taken {
        load_anew(node, desk, jobs);
    }
}

/// Gives the leases of jobs back: where somebody waits the key is loaded under a new one, by the loader that it has by now.
pub(super) fn load_anew(node: &Arc<Node>, desk: &LoaderDesk, jobs: Vec<Job>) {
    if jobs.is_empty() {
        return;
    }
    jobs.iter().for_each(|job| desk.note_failed(&job.load));
    super::end(node, |turn| jobs.iter().for_each(|job| lead_anew(node, desk, turn, &job.load)));
}

/// Gives the lease of a load back; nobody is told but who has waited for as long as a load may take.
pub(super) fn lead_anew(node: &Node, desk: &LoaderDesk, turn: &mut Turn, load: &Load) {
    let reason = super::reason(desk, "the configuration was reloaded");
    let patience_ms = desk.policy.hard_timeout_ms;
    node.keyspace.drop_load(turn, load.db, &load.key, load.token, &reason, patience_ms);
}

/// What a removed loader was asked before, it loads.
async fn load_rest(node: &Arc<Node>, desk: &Arc<LoaderDesk>, mut jobs: Vec<Job>) {
    let batch_max = desk.loader.batch_max().max(1);
    while !jobs.is_empty() {
        let Ok(permit) = Arc::clone(&desk.permits).acquire_owned().await else { return };
        let rest = jobs.split_off(jobs.len().min(batch_max));
        let batch = std::mem::replace(&mut jobs, rest);
        tokio::spawn(load_batch(Arc::clone(node), Arc::clone(desk), batch, permit));
    }
}
