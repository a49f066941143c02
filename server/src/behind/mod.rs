//! Writing behind: a change is answered once the journal has it, and the source gets it later.
//!
//! ```text
//! data threads ─► scribe (thread) ─► journal: one write and one sync for all that wait
//!                   │                  └► pending, keyspace ─► wakes: OK
//!                   └ no room: direct ──────────────┐
//! flusher (task of a loader): round of what is pending ─► batches, each one transaction with the position ─► gone from pending
//!                                                   └► then what is direct: as writing through
//! ```
//!
//! What is pending is pinned: a change is put into the map and the keyspace under the map's lock, so every load that began before has
//! lost its lease; every load that begins later is answered from the map ([`answer`]); and once the source has committed, both go
//! under that lock again, so that nothing that was read before is stored. The cache holds what the client wrote until then, and the
//! next reader loads what the source has made of it.
//!
//! Lock order: what is pending, then a shard of the keyspace. No effect is carried out under either.

mod flusher;
mod letters;
mod pending;
mod scribe;
mod waits;

use crate::config::{Config, JournalConfig, LoaderConfig, WriteMode};
use crate::load;
use crate::node::Node;
use anyhow::Context as _;
use bytes::Bytes;
use leasehold_command::Change;
use leasehold_keyspace::{Attributes, Db, Fill, Load, Turn, Waiter, Wake, WakeEvent};
use leasehold_loader_api::Loader;
use leasehold_loader_sql::{DeadLetter, Journal, JournalChange, Letters};
use pending::Pending;
use scribe::Order;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use waits::FlushWait;

/// How often the end of a drain is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// All that is behind, of all loaders.
pub(crate) struct Behind {
    config: JournalConfig,
    /// By the loader's place in the configuration; `None`: it does not write behind.
    desks: Vec<Option<Arc<Desk>>>,
    orders: mpsc::Sender<Order>,
    scribe: Mutex<Option<JoinHandle<()>>>,
    letters: Mutex<Letters>,
    waits: Mutex<Vec<FlushWait>>,
    /// Keys with a pending change; relaxed, a bound that may be passed by a group.
    pending: AtomicUsize,
    journal_bytes: AtomicU64,
    /// How often the journal was brought to the disk.
    journal_syncs: AtomicU64,
    /// The last number that was answered. Released by the scribe, acquired by who waits for it.
    last: AtomicU64,
    /// Above every number of earlier starts, and below those of this one.
    floor: u64,
    is_draining: AtomicBool,
}

/// One loader that writes behind.
pub(crate) struct Desk {
    name: String,
    index: u32,
    db: Db,
    loader: Arc<dyn Loader>,
    negative_ttl_ms: u64,
    /// What its source calls this journal.
    journal: String,
    /// The highest number of its dead letters when the journal was opened.
    parked_before: u64,
    pending: Mutex<Pending>,
    directs: Mutex<Directs>,
    /// There is something to flush.
    work: Notify,
    /// It is not to wait for more.
    hurry: Notify,
    counters: Counters,
    /// Why nothing can be flushed now.
    trouble: Mutex<Option<String>>,
    /// Somebody else writes for this journal: nothing is taken any more.
    is_halted: AtomicBool,
}

/// Writes that wait for their source, as there is no room for them in the journal.
#[derive(Default)]
struct Directs {
    queue: VecDeque<Direct>,
    /// How many of the queue, or under way, are of each key: a change that came later must not pass them.
    keys: HashMap<Bytes, usize>,
}

struct Direct {
    changes: Vec<Change>,
    waiter: Option<Waiter>,
}

/// All relaxed: each is a number of its own.
#[derive(Default)]
struct Counters {
    /// Commands on their way into the journal, or direct.
    under_way: AtomicU64,
    journaled: AtomicU64,
    coalesced: AtomicU64,
    flushed: AtomicU64,
    direct: AtomicU64,
    refused: AtomicU64,
    retries: AtomicU64,
    parked: AtomicU64,
    /// How often the source was found to have lost what it had committed.
    lost_positions: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the journal, if there is one; what is in it is pending.
///
/// # Errors
/// The directory cannot be used, or what is in it is damaged.
pub(crate) fn open(
    config: &Config,
    loaders: &[(LoaderConfig, Arc<dyn Loader>)],
) -> anyhow::Result<Option<(Behind, Journal, mpsc::Receiver<Order>)>> {
    let Some(settings) = config.journal.settings() else { return Ok(None) };
    let directory = settings.directory.clone();
    let mut found: HashMap<String, Pending> = HashMap::new();
    let mut dbs: HashMap<(String, Bytes), u8> = HashMap::new();
    let now = Instant::now();
    let journal = Journal::open(settings, |number, JournalChange { loader, db, key, value }| {
        dbs.insert((loader.clone(), key.clone()), db);
        found.entry(loader).or_default().put(number, key, value, now);
    })
    .context("the journal cannot be used")?;
    let mut letters = Letters::open(&directory).context("the dead letters of the journal cannot be used")?;
    forget_settled(&mut found, &mut letters).context("the dead letters of the journal cannot be written")?;
    let parked_before = |name: &str| {
        let numbers = letters.iter().filter(|letter| letter.change.loader == name).map(|letter| letter.number);
        numbers.max().unwrap_or(0)
    };
    let desks: Vec<Option<Arc<Desk>>> = loaders
        .iter()
        .enumerate()
        .map(|(index, (config, loader))| {
            (config.write == WriteMode::Behind).then(|| {
                let name = config.settings.name.clone();
                Arc::new(Desk {
                    journal: format!("{}:{name}", journal.identity()),
                    pending: Mutex::new(found.remove(&name).unwrap_or_default()),
                    parked_before: parked_before(&name),
                    index: index as u32,
                    db: config.db,
                    loader: Arc::clone(loader),
                    negative_ttl_ms: config.negative_ttl.as_millis() as u64,
                    directs: Mutex::default(),
                    work: Notify::new(),
                    hurry: Notify::new(),
                    counters: Counters::default(),
                    trouble: Mutex::default(),
                    is_halted: AtomicBool::new(false),
                    name,
                })
            })
        })
        .collect();
    // What is of nobody is for the operator to see, not for us to lose.
    let mut strays = Vec::new();
    for (loader, pending) in found {
        let round = pending.round();
        tracing::warn!(
            loader,
            changes = round.len(),
            "no loader of this name writes behind; its changes are dead letters"
        );
        for due in round {
            let db = dbs.get(&(loader.clone(), due.key.clone())).copied().unwrap_or(0);
            let change = JournalChange { loader: loader.clone(), db, key: due.key, value: due.value };
            let reason = "no loader of this name writes behind".to_owned();
            strays.push(DeadLetter { number: due.number, change, attempts: 0, parked_at_ms: unix_ms(), reason });
        }
    }
    letters.park_all(strays).context("the dead letters of the journal cannot be written")?;
    let (orders, receiver) = mpsc::channel();
    let pending = desks.iter().flatten().map(|desk| lock(&desk.pending).len()).sum();
    if pending > 0 {
        tracing::info!(pending, "changes of the journal are to be flushed");
    }
    let behind = Behind {
        config: config.journal.clone(),
        desks,
        orders,
        scribe: Mutex::default(),
        letters: Mutex::new(letters),
        waits: Mutex::default(),
        pending: AtomicUsize::new(pending),
        journal_bytes: AtomicU64::new(journal.bytes()),
        journal_syncs: AtomicU64::new(0),
        last: AtomicU64::new(journal.last()),
        floor: journal.range_start(),
        is_draining: AtomicBool::new(false),
    };
    Ok(Some((behind, journal, receiver)))
}

/// What was parked is not pending, and a letter goes when there is a later change of its key.
fn forget_settled(found: &mut HashMap<String, Pending>, letters: &mut Letters) -> std::io::Result<()> {
    let mut gone = Vec::new();
    for letter in letters.iter() {
        let Some(pending) = found.get_mut(&letter.change.loader) else { continue };
        pending.remove(letter.number, &letter.change.key);
        if pending.get(&letter.change.key).is_some() {
            gone.push(letter.number);
        }
    }
    gone.into_iter().try_for_each(|number| letters.remove(number).map(drop))
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Starts what writes and what flushes, on the current runtime.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn start(
    node: &Arc<Node>,
    behind: Behind,
    journal: Journal,
    orders: mpsc::Receiver<Order>,
) -> anyhow::Result<()> {
    let behind = node.behind.get_or_init(|| behind);
    let scribe = {
        let node = Arc::clone(node);
        std::thread::Builder::new().name("journal".into()).spawn(move || scribe::run(&node, journal, &orders))
    };
    *lock(&behind.scribe) = Some(scribe.context("cannot start the thread of the journal")?);
    for desk in behind.desks.iter().flatten() {
        load::end(node, |turn| {
            let pending = lock(&desk.pending);
            pending.round().iter().for_each(|due| desk.show(node, turn, &due.key, due.value.as_ref()));
        });
        tokio::spawn(flusher::run(Arc::clone(node), Arc::clone(desk)));
    }
    Ok(())
}

impl Behind {
    /// Whether this loader writes behind.
    pub(crate) fn has(&self, loader: u32) -> bool {
        self.desk(loader).is_some()
    }

    fn desk(&self, loader: u32) -> Option<&Arc<Desk>> {
        self.desks.get(loader as usize)?.as_ref()
    }

    /// Takes a command's changes; its waiter is woken once the journal or the source has them.
    ///
    /// # Errors
    /// The text of the error reply: nothing was begun.
    pub(crate) fn submit(
        &self,
        loader: u32,
        changes: Vec<Change>,
        waiter: Waiter,
        queue_max: u64,
    ) -> Result<(), String> {
        let desk = self.desk(loader).ok_or_else(|| format!("NOLOADER no loader {loader}"))?;
        if desk.is_halted.load(Ordering::Relaxed) {
            return Err(format!("WRITEFAIL {} {}", desk.name, desk.trouble_text()));
        }
        if desk.counters.under_way.fetch_add(1, Ordering::Relaxed) >= queue_max {
            desk.counters.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(format!("LOADBUSY {} queue full: {queue_max} writes wait", desk.name));
        }
        let order = Order::Write { desk: Arc::clone(desk), changes, waiter: Some(waiter), letter: None };
        self.orders.send(order).map_err(|_| {
            desk.counters.under_way.fetch_sub(1, Ordering::Relaxed);
            format!("WRITEFAIL {} the server is shutting down", desk.name)
        })
    }

    /// For `LOADER STATS`.
    pub(crate) fn counters(&self, loader: u32) -> Vec<(&'static str, i64)> {
        let Some(desk) = self.desk(loader) else { return Vec::new() };
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        let (pending, oldest) = {
            let pending = lock(&desk.pending);
            (pending.len() as i64, pending.oldest())
        };
        let counters = &desk.counters;
        vec![
            ("behind_pending", pending),
            ("behind_oldest_ms", oldest.map_or(0, |since| since.elapsed().as_millis() as i64)),
            ("behind_journaled", value(&counters.journaled)),
            ("behind_coalesced", value(&counters.coalesced)),
            ("behind_flushed", value(&counters.flushed)),
            ("behind_direct", value(&counters.direct)),
            ("behind_refused", value(&counters.refused)),
            ("behind_retries", value(&counters.retries)),
            ("behind_parked", value(&counters.parked)),
            ("behind_lost_positions", value(&counters.lost_positions)),
            ("behind_in_trouble", i64::from(desk.has_trouble())),
            ("dead_letters", self.dead_letters_of(&desk.name) as i64),
            ("journal_bytes", value(&self.journal_bytes)),
            ("journal_syncs", value(&self.journal_syncs)),
        ]
    }

    /// Why nothing of this loader can be flushed, if so.
    pub(crate) fn trouble(&self, loader: u32) -> Option<String> {
        lock(&self.desk(loader)?.trouble).clone()
    }

    /// Flushes what is pending, for so long at most; the rest stays in the journal. Nothing can be written after it.
    pub(crate) async fn end(&self, patience: Duration) {
        self.is_draining.store(true, Ordering::Relaxed);
        for desk in self.desks.iter().flatten() {
            desk.work.notify_one();
            desk.hurry.notify_one();
        }
        let deadline = Instant::now() + patience;
        let is_under_way = || {
            let commands = |desk: &Arc<Desk>| desk.counters.under_way.load(Ordering::Relaxed);
            self.pending.load(Ordering::Relaxed) > 0 || self.desks.iter().flatten().any(|desk| commands(desk) > 0)
        };
        while is_under_way() && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        let pending = self.pending.load(Ordering::Relaxed);
        if pending > 0 {
            tracing::warn!(pending, "not all changes were flushed; they are in the journal");
        }
        // An error says that it has ended.
        let _ = self.orders.send(Order::Stop);
        let scribe = lock(&self.scribe).take();
        if scribe.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the journal panicked");
        }
    }

    /// Why this loader's source may not be asked now.
    fn refusal(&self, node: &Node, desk: &Desk) -> Option<String> {
        node.loaders.gate(desk.index)?.refusal(Instant::now())
    }

    fn is_full(&self) -> bool {
        self.pending.load(Ordering::Relaxed) >= self.config.pending_max
    }
}

impl Desk {
    fn note_trouble(&self, text: &str) {
        let mut trouble = lock(&self.trouble);
        if trouble.as_deref() != Some(text) {
            tracing::warn!(loader = self.name, error = text, "changes cannot be flushed");
            *trouble = Some(text.to_owned());
        }
    }

    fn trouble_text(&self) -> String {
        lock(&self.trouble).clone().unwrap_or_default()
    }

    fn has_trouble(&self) -> bool {
        lock(&self.trouble).is_some()
    }

    fn end_trouble(&self) {
        if lock(&self.trouble).take().is_some() {
            tracing::info!(loader = self.name, "changes are flushed again");
        }
    }

    /// Puts what is pending for a key into the keyspace. The caller has locked what is pending.
    fn show(&self, node: &Node, turn: &mut Turn, key: &[u8], value: Option<&Bytes>) {
        node.keyspace.update(turn, self.db, key, |slot| match value {
            // Without a TTL: it stays until it is flushed.
            Some(value) => slot.set_pinned(value, Attributes::PLAIN),
            None => drop(slot.remove_pinned()),
        });
    }
}

fn tell(node: &Node, waiter: Option<Waiter>, event: WakeEvent) {
    if let Some(waiter) = waiter {
        node.post_wake(Wake { waiter, event });
    }
}

/// Brings the pending change of a loader's key back into the keyspace, for a reader who does not find it there: its value, or `None` inside
/// for a deletion.
pub(crate) fn restore(node: &Node, turn: &mut Turn, loader: u32, key: &[u8]) -> Option<Option<Bytes>> {
    let desk = node.behind.get()?.desk(loader)?;
    let pending = lock(&desk.pending);
    let value = pending.get(key)?.clone();
    desk.show(node, turn, key, value.as_ref());
    Some(value)
}

/// Whether a loader's key has a pending change.
pub(crate) fn is_pending(node: &Node, loader: u32, key: &[u8]) -> bool {
    let desk = node.behind.get().and_then(|behind| behind.desk(loader));
    desk.is_some_and(|desk| lock(&desk.pending).get(key).is_some())
}

/// Answers the loads of keys with a pending change; the others. A token was given for each before this looks: a change that comes
/// after the look revokes it.
pub(crate) fn answer(node: &Arc<Node>, loads: Vec<Load>) -> Vec<Load> {
    let Some(behind) = node.behind.get() else { return loads };
    let mut answered = Vec::new();
    let mut others = Vec::with_capacity(loads.len());
    for load in loads {
        let desk = behind.desk(load.loader);
        let value = desk.and_then(|desk| Some((desk, lock(&desk.pending).get(&load.key)?.clone())));
        match value {
            Some((desk, value)) => answered.push((Arc::clone(desk), load, value)),
            None => others.push(load),
        }
    }
    if !answered.is_empty() {
        load::end(node, |turn| {
            for (desk, Load { db, key, token, .. }, value) in &answered {
                let fill = match value {
                    Some(value) => Fill::Value {
                        value,
                        expiry: leasehold_keyspace::Expiry::Never,
                        stale_for_ms: 0,
                        version: None,
                        client_flags: 0,
                        tags: &[],
                    },
                    None => Fill::Absent { ttl_ms: desk.negative_ttl_ms },
                };
                // Lost: a later change, or the end of the flush, has revoked the token, and who waits is served by that.
                let _ = node.keyspace.fill(turn, *db, key, *token, fill);
            }
        });
    }
    others
}

#[cfg(test)]
mod tests;
