//! Which loaders there are, by name, by number and by key; and how that changes while the server runs.
//!
//! ```text
//! Loaders ─ the table of now, and its generation
//! NodeHost of each thread ─ a table of its own, exchanged when the generation has moved: one load, no lock, for each look
//! ```
//!
//! A loader has a number as long as the process lives, by its name: leases, loads on their way and counts by loader name it so. Who
//! comes with the number of a loader that is gone, or that matches other keys by now, is led to the loader that the key has now.

use super::gate::{Gate, Guard};
use super::{LoaderDesk, Opened, Queue, no_loader};
use crate::config::WriteMode;
use leasehold_command::{LoaderPolicy, RefreshRule, View};
use leasehold_keyspace::attribution::LoaderOf;
use leasehold_keyspace::{Db, Load};
use leasehold_loader_api::{Loader, Writes};
use leasehold_loader_sql::SourceSettings;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Names that loaders may have had since the start: a command keeps a count for each number up to its loader's.
pub(crate) const LOADER_NAMES_MAX: usize = 4_096;

/// The loaders of now.
pub(crate) struct Loaders {
    table: Mutex<Arc<Table>>,
    /// Of the table.
    generation: AtomicU64,
    /// The most that any of them refreshes early by, in ms; relaxed, a bound for itself.
    early_ms_max: AtomicU64,
}

/// All loaders at one time.
pub(crate) struct Table {
    /// In the order of the configuration.
    pub(super) list: Vec<Arc<LoaderDesk>>,
    /// By number: `LoaderPolicy::loader`.
    numbered: Vec<Numbered>,
    /// The breakers of the sources.
    pub(super) guards: HashMap<String, Arc<Guard>>,
    any_writes: bool,
}

#[derive(Clone)]
struct Numbered {
    name: String,
    /// `None`: it is gone.
    desk: Option<Arc<LoaderDesk>>,
}

impl Loaders {
    /// Loaders and the queues their schedulers read.
    pub(crate) fn new(sources: &[SourceSettings], loaders: Vec<Opened>) -> (Self, Vec<Queue>) {
        let mut table = Table::empty();
        table.guards = sources.iter().map(|source| (source.name.clone(), Arc::new(Guard::of_source(source)))).collect();
        let mut queues = Vec::new();
        for (config, loader) in loaders {
            let number = table.number_for(&config.settings.name).expect("the configuration was checked");
            let (desk, queue) = LoaderDesk::new(config, loader, number, &table.guards);
            table.add(Arc::new(desk));
            queues.push(queue);
        }
        let loaders = Self { table: Mutex::default(), generation: AtomicU64::new(0), early_ms_max: AtomicU64::new(0) };
        loaders.install(table);
        (loaders, queues)
    }

    /// The loaders as they are now, for who needs them rarely.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Grows with each new table, so that a thread can see with one load that its own is old.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        // Pairs with the release in `install`: who sees the number finds the table.
        self.generation.load(Ordering::Acquire)
    }

    /// From now on these are the loaders.
    pub(crate) fn install(&self, table: Table) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
        self.set_early_ms_max();
    }

    /// The way of a loader to its source as it is now, for who writes behind.
    pub(crate) fn gate(&self, loader: u32) -> Option<Arc<Gate>> {
        self.table().desk(loader).map(|desk| Arc::clone(&desk.gate))
    }

    /// Queues loads, those of a loader as one group; see `Host::start_loads`. `table` is what the caller takes for the loaders of now.
    pub(crate) fn start(&self, table: &Table, loads: Vec<Load>) -> Vec<(Load, String)> {
        let mut refused = Vec::new();
        let closed = table.start(loads, &mut refused);
        if !closed.is_empty() {
            self.start_anew(closed, &mut refused);
        }
        refused
    }

    /// Queues loads whose queue was closed: by a reload, after which there is another, or by the end of the server.
    #[cold]
    fn start_anew(&self, mut loads: Vec<Load>, refused: &mut Vec<(Load, String)>) {
        loop {
            let table = self.table();
            loads = table.start(loads, refused);
            if loads.is_empty() {
                return;
            }
            if Arc::ptr_eq(&table, &self.table()) {
                for load in loads {
                    let text =
                        format!("LOADBUSY {} the server is shutting down", table.name(load.loader).unwrap_or("?"));
                    refused.push((load, text));
                }
                return;
            }
        }
    }

    /// How long before their end values may be due, of all loaders, in ms; 0: never.
    pub(crate) fn early_ms_max(&self) -> u64 {
        self.early_ms_max.load(Ordering::Relaxed)
    }

    /// To be called when the pace of a loader has changed.
    pub(super) fn set_early_ms_max(&self) {
        let most = self.table().list.iter().map(|desk| desk.early_ms_max()).max().unwrap_or(0);
        // Every thread reads it each turn: written only if it changes, so that it stays in their caches.
        if self.early_ms_max() != most {
            self.early_ms_max.store(most, Ordering::Relaxed);
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::empty()
    }
}

impl Table {
    fn empty() -> Self {
        Self { list: Vec::new(), numbered: Vec::new(), guards: HashMap::new(), any_writes: false }
    }

    /// A table without loaders that goes on with the numbers of this one.
    pub(super) fn without_loaders(&self) -> Self {
        let gone = |numbered: &Numbered| Numbered { name: numbered.name.clone(), desk: None };
        Self { numbered: self.numbered.iter().map(gone).collect(), ..Self::empty() }
    }

    /// The number of a name: its own of before, or the next.
    ///
    /// # Errors
    /// There were too many names.
    pub(super) fn number_for(&mut self, name: &str) -> Result<u32, String> {
        let known = self.numbered.iter().position(|numbered| numbered.name == name);
        let number = known.unwrap_or(self.numbered.len());
        if number >= LOADER_NAMES_MAX {
            return Err(format!("loaders have had {LOADER_NAMES_MAX} names since the start; a restart makes room"));
        }
        if known.is_none() {
            self.numbered.push(Numbered { name: name.to_owned(), desk: None });
        }
        Ok(number as u32)
    }

    /// Whether a loader of this name was here before.
    pub(super) fn has_known(&self, name: &str) -> bool {
        self.numbered.iter().any(|numbered| numbered.name == name)
    }

    /// Puts a loader with a number of this table behind the others.
    pub(super) fn add(&mut self, desk: Arc<LoaderDesk>) {
        self.any_writes |= desk.loader.writes() != Writes::default();
        self.numbered[desk.policy.loader as usize].desk = Some(Arc::clone(&desk));
        self.list.push(desk);
    }

    /// Whether there is no loader.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The name of a loader, also of one that is gone.
    pub(crate) fn name(&self, loader: u32) -> Option<&str> {
        self.numbered.get(loader as usize).map(|numbered| numbered.name.as_str())
    }

    /// The loader of a number.
    pub(crate) fn desk(&self, loader: u32) -> Option<&Arc<LoaderDesk>> {
        self.numbered.get(loader as usize)?.desk.as_ref()
    }

    /// The loader of a name.
    pub(crate) fn desk_named(&self, name: &[u8]) -> Option<&Arc<LoaderDesk>> {
        self.list.iter().find(|desk| desk.name().as_bytes() == name)
    }

    /// The text for a key that its command did not even ask to be loaded, as the queue cannot hold all the command wants.
    pub(crate) fn refuse(&self, loader: u32) -> String {
        let Some(desk) = self.desk(loader) else { return self.gone_text(loader) };
        desk.counters.asked.fetch_add(1, Ordering::Relaxed);
        desk.counters.busy.fetch_add(1, Ordering::Relaxed);
        desk.busy_text()
    }

    /// The loader of a key.
    pub(crate) fn policy_for(&self, db: Db, key: &[u8]) -> Option<LoaderPolicy> {
        self.desk_for(db, key).map(|desk| desk.policy)
    }

    pub(super) fn desk_for(&self, db: Db, key: &[u8]) -> Option<&Arc<LoaderDesk>> {
        // The literal prefix tells nearly all loaders apart; the pattern is looked at once or twice.
        self.list.iter().find(|desk| desk.fits(db, key))
    }

    /// See `Host::refresh_rule`.
    pub(crate) fn refresh_rule(&self, db: Db, key: &[u8], left_ms: u64) -> Option<RefreshRule> {
        // The end first: nearly all values are far from the end that their own loader looks at.
        let is_near = |desk: &&Arc<LoaderDesk>| left_ms <= desk.early_ms_max() && desk.fits(db, key);
        self.list.iter().find(is_near).and_then(|desk| desk.refresh_rule())
    }

    /// Queues loads; those whose loader's queue is closed come back.
    fn start(&self, mut loads: Vec<Load>, refused: &mut Vec<(Load, String)>) -> Vec<Load> {
        let mut closed = Vec::new();
        // Nearly always they are all of one loader.
        while let Some(loader) = loads.first().map(|load| load.loader) {
            let (group, others): (Vec<_>, Vec<_>) = loads.into_iter().partition(|load| load.loader == loader);
            loads = others;
            match self.desk(loader) {
                Some(desk) if !desk.is_rematched => closed.extend(desk.start(group, refused)),
                desk => {
                    let fits = |load: &Load| desk.is_some_and(|desk| desk.fits(load.db, &load.key));
                    let (group, strays): (Vec<_>, Vec<_>) = group.into_iter().partition(fits);
                    if let Some(desk) = desk.filter(|_| !group.is_empty()) {
                        closed.extend(desk.start(group, refused));
                    }
                    for load in strays {
                        match self.desk_for(load.db, &load.key) {
                            Some(desk) => loads.push(Load { loader: desk.policy.loader, ..load }),
                            None => refused.push((load, self.gone_text(loader))),
                        }
                    }
                }
            }
        }
        closed
    }

    fn gone_text(&self, loader: u32) -> String {
        match self.name(loader) {
            Some(name) => format!("NOLOADER loader '{name}' has this key no more: the configuration was reloaded"),
            None => no_loader(loader),
        }
    }

    /// Says which loader a key belongs to.
    pub(crate) fn loader_of(&self) -> LoaderOf {
        struct Matcher {
            db: Db,
            prefix: Vec<u8>,
            loader: Arc<dyn Loader>,
            number: u32,
        }
        let matcher = |desk: &Arc<LoaderDesk>| Matcher {
            db: desk.config.db,
            prefix: desk.prefix.clone(),
            loader: desk.loader(),
            number: desk.policy.loader,
        };
        let matchers: Vec<Matcher> = self.list.iter().map(matcher).collect();
        Box::new(move |db: Db, key: &[u8]| {
            let is_its = |of: &&Matcher| of.db == db && key.starts_with(&of.prefix) && of.loader.matches(key);
            matchers.iter().find(is_its).map(|of| of.number)
        })
    }

    /// For `LOADER LIST` and `LOADER STATS`, with their numbers.
    pub(crate) fn views(&self) -> Vec<(u32, View)> {
        self.list.iter().map(|desk| (desk.policy.loader, desk.view())).collect()
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

    /// Whether any loader writes.
    pub(crate) fn any_writes(&self) -> bool {
        self.any_writes
    }

    /// See `Host::writes_behind`.
    pub(crate) fn writes_behind(&self, db: Db, key: &[u8]) -> bool {
        self.desk_for(db, key).is_some_and(|desk| desk.config.write == WriteMode::Behind)
    }

    /// The loader that writes a key.
    pub(crate) fn writer_for(&self, db: Db, key: &[u8]) -> Option<u32> {
        let desk = self.desk_for(db, key)?;
        (desk.loader.writes() != Writes::default()).then_some(desk.policy.loader)
    }
}
