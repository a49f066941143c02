//! The world as commands see it: this node.

use crate::audit::Auditor;
use crate::behind::{self, Behind};
use crate::info;
use crate::load::{self, Table};
use crate::memcached_stats;
use crate::node::Node;
use crate::reload;
use bytes::Bytes;
use leasehold_cluster::{Member, Peers};
use leasehold_command::{
    AuditView, Change, ClientFilter, ClientRow, Count, Host, LetterView, LoaderOrder, LoaderPolicy, NO_JOURNAL,
    RefreshRule, ReplyError, StatsOf, View, ViolationView,
};
use leasehold_keyspace::{Db, Load, Turn, Waiter};
use std::cell::{Cell, Ref, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The node behind the trait that `command` defines. Each thread has its own.
pub(crate) struct NodeHost {
    node: Arc<Node>,
    /// The thread whose commands run with it; `None`: no commands do.
    thread: Option<u16>,
    /// The connection whose commands run now.
    serving: Cell<u64>,
    /// The loaders, with their generation, as they were when somebody last asked here; `None`: nobody has.
    loaders: RefCell<Option<(u64, Arc<Table>)>>,
}

impl NodeHost {
    pub(crate) fn new(node: Arc<Node>, thread: Option<u16>) -> Self {
        Self { node, thread, serving: Cell::new(0), loaders: RefCell::new(None) }
    }

    /// The loaders of now. Without a lock, but for the first look after they have changed.
    #[inline]
    fn table(&self) -> Ref<'_, Table> {
        let generation = self.node.loaders.generation();
        if self.loaders.borrow().as_ref().is_none_or(|(known, _)| *known != generation) {
            // The number first: a table that is newer than it is taken once more.
            self.loaders.replace(Some((generation, self.node.loaders.table())));
        }
        Ref::map(self.loaders.borrow(), |loaders| {
            loaders.as_ref().map(|(_, table)| &**table).expect("it was just put there")
        })
    }

    /// Lets go of loaders that have changed, for a thread that has nothing to ask of them.
    pub(crate) fn forget_old_loaders(&self) {
        let generation = self.node.loaders.generation();
        self.loaders.borrow_mut().take_if(|(known, _)| *known != generation);
    }

    /// From now on the commands of this connection run.
    #[inline]
    pub(crate) fn serve(&self, connection: u64) {
        self.serving.set(connection);
    }
}

/// The name that AUTH with a single argument means.
const DEFAULT_USER: &[u8] = b"default";

impl Host for NodeHost {
    fn member(&self) -> Option<&Member> {
        self.node.member.as_ref()
    }

    fn peers(&self) -> Option<&Peers> {
        self.node.watch.as_ref().map(|watch| &watch.peers)
    }

    fn keeps_copies(&self) -> bool {
        self.node.hot.is_some()
    }

    #[inline]
    fn may_have_copies(&self) -> bool {
        self.node.hot.as_ref().is_some_and(|hot| hot.copies.may_be_any(self.node.clock.now_ms()))
    }

    fn read_copy(&self, key: &[u8], read: &mut dyn FnMut(&[u8], u32)) -> bool {
        let Some(hot) = &self.node.hot else { return false };
        let is_read = hot.copies.read(key, self.node.clock.now_ms(), read);
        if is_read && let Some(desk) = self.thread.and_then(|thread| self.node.threads.get(usize::from(thread))) {
            desk.stats.copy_hits.add(1);
        }
        is_read
    }

    fn loader_for(&self, db: Db, key: &[u8]) -> Option<LoaderPolicy> {
        self.table().policy_for(db, key)
    }

    fn refresh_rule(&self, db: Db, key: &[u8], left_ms: u64) -> Option<RefreshRule> {
        self.table().refresh_rule(db, key, left_ms)
    }

    fn start_loads(&self, loads: Vec<Load>) -> Vec<(Load, String)> {
        let loads = behind::answer(&self.node, loads);
        self.node.loaders.start(&self.table(), loads)
    }

    fn loaders(&self) -> Vec<View> {
        self.node.loader_views()
    }

    fn order_loader(&self, name: &[u8], order: LoaderOrder) -> Result<(), String> {
        load::order(&self.node, name, order)
    }

    fn feeds(&self) -> Vec<View> {
        self.node.feeds.views()
    }

    fn loader_name(&self, loader: u32) -> String {
        self.table().name(loader).unwrap_or("?").to_owned()
    }

    fn refuse_load(&self, loader: u32) -> String {
        self.table().refuse(loader)
    }

    fn explain(&self, db: Db, key: &[u8]) -> Option<Vec<(&'static str, String)>> {
        self.table().explain(db, key)
    }

    fn test_load(&self, db: Db, key: &[u8], waiter: Waiter) -> Result<(), String> {
        load::test(&self.node, db, key, waiter)
    }

    fn writes_to_sources(&self) -> bool {
        self.table().any_writes()
    }

    fn writer_for(&self, db: Db, key: &[u8]) -> Option<u32> {
        self.table().writer_for(db, key)
    }

    fn writes_behind(&self, db: Db, key: &[u8]) -> bool {
        self.table().writes_behind(db, key)
    }

    fn start_write(&self, loader: u32, db: Db, changes: Vec<Change>, waiter: Waiter) -> Result<u64, String> {
        load::write::start(&self.node, loader, db, changes, waiter)
    }

    fn restore_pending(&self, turn: &mut Turn, db: Db, key: &[u8]) -> Option<Option<Bytes>> {
        let loader = self.table().writer_for(db, key)?;
        behind::restore(&self.node, turn, loader, key)
    }

    fn is_pending(&self, db: Db, key: &[u8]) -> bool {
        let loader = self.table().writer_for(db, key);
        loader.is_some_and(|loader| behind::is_pending(&self.node, loader, key))
    }

    fn last_change(&self) -> u64 {
        self.node.behind.get().map_or(0, Behind::last)
    }

    fn writer_named(&self, name: &[u8]) -> Option<u32> {
        self.node.behind.get()?.loader_named(name)
    }

    fn unflushed(&self, loader: Option<u32>, up_to: u64) -> u64 {
        self.node.behind.get().map_or(0, |behind| behind.unflushed(loader, up_to))
    }

    fn wait_flushed(&self, loader: Option<u32>, up_to: u64, waiter: Waiter) -> bool {
        self.node.behind.get().is_some_and(|behind| behind.wait_flushed(loader, up_to, waiter))
    }

    fn leave_flush(&self, waiter: Waiter) {
        if let Some(behind) = self.node.behind.get() {
            behind.leave_flush(waiter);
        }
    }

    fn letters(&self, loader: Option<&[u8]>) -> Vec<LetterView> {
        self.node.behind.get().map(|behind| behind.letters(loader)).unwrap_or_default()
    }

    fn replay_letters(&self, loader: &[u8]) -> Result<u64, String> {
        self.node.behind.get().ok_or_else(|| NO_JOURNAL.to_owned())?.replay(loader)
    }

    fn drop_letters(&self, loader: &[u8]) -> Result<u64, String> {
        self.node.behind.get().ok_or_else(|| NO_JOURNAL.to_owned())?.drop_letters(loader)
    }

    fn audits(&self) -> Option<Vec<AuditView>> {
        Some(self.node.auditor.as_ref()?.views())
    }

    fn violations(&self) -> Option<Vec<ViolationView>> {
        Some(self.node.auditor.as_ref()?.violations(&self.node))
    }

    fn reset_audit(&self) -> bool {
        self.node.auditor.as_ref().map(Auditor::reset).is_some()
    }

    fn config_get(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        self.node.live.pairs(patterns)
    }

    fn config_set(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), ReplyError> {
        self.node.live.set(pairs, |changed| {
            self.node.heed(changed);
            if !changed.names.is_empty() {
                tracing::info!(options = ?changed.names, "CONFIG SET");
            }
        })
    }

    fn reload(&self, waiter: Waiter) -> Result<(), String> {
        reload::ask(&self.node, waiter)
    }

    fn reset_stats(&self) {
        self.node.reset_totals();
        self.node.keyspace.reset_stats();
    }

    fn databases(&self) -> u8 {
        self.node.config.databases
    }

    fn check_password(&self, user: &[u8], password: &[u8]) -> Option<bool> {
        let live = self.node.live.live();
        (!live.password.is_empty()).then(|| user == DEFAULT_USER && live.password.accepts(password))
    }

    fn wait_ms_max(&self) -> u64 {
        self.node.live.wait_ms_max()
    }

    fn value_bytes_max(&self) -> u64 {
        self.node.config.limits.bulk_bytes_max as u64
    }

    fn password_required(&self) -> bool {
        !self.node.live.live().password.is_empty()
    }

    fn info(&self, sections: &[&[u8]]) -> String {
        info::text(&self.node, sections)
    }

    fn check_memcached_user(&self, user: &[u8], password: &[u8]) -> bool {
        self.node.live.accepts_memcached_user(user, password)
    }

    fn memcached_entry_bytes_max(&self) -> usize {
        self.node.config.item_size_max
    }

    fn flush_at(&self, at_ms: Option<u64>) {
        self.node.flush_at_ms.store(at_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn may_shut_down(&self) -> bool {
        self.node.config.memcached_shutdown
    }

    fn shut_down(&self) {
        use rustix::process::{Signal, getpid, kill_process};
        tracing::info!("a memcached client asks for the end");
        if let Err(error) = kill_process(getpid(), Signal::TERM) {
            tracing::warn!(%error, "cannot signal the own process");
        }
    }

    fn memcached_stats(&self, of: StatsOf) -> Vec<(String, String)> {
        memcached_stats::pairs(&self.node, of)
    }

    fn count(&self, count: Count, number: u64) {
        if let Some(thread) = self.thread {
            self.node.threads[usize::from(thread)].stats.memcached[count as usize].add(number);
        }
    }

    fn wall_us(&self) -> u64 {
        self.node.clock.wall_us()
    }

    fn clients(&self) -> Vec<ClientRow> {
        let now_ms = self.node.clock.now_ms();
        let mut rows = Vec::new();
        for desk in &self.node.threads {
            desk.cards.rows(now_ms, self.serving.get(), &mut rows);
        }
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    fn kill_clients(&self, filter: &ClientFilter, caller: u64) -> usize {
        self.node.kill_clients(filter, caller)
    }
}
