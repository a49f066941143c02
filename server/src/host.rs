//! The world as commands see it: this node.

use crate::audit::Auditor;
use crate::behind::{self, Behind};
use crate::config::live::Changed;
use crate::info;
use crate::load;
use crate::node::Node;
use bytes::Bytes;
use leasehold_command::{
    AuditView, Change, ClientFilter, ClientRow, Host, LetterView, LoaderOrder, LoaderPolicy, NO_JOURNAL, RefreshRule,
    ReplyError, View, ViolationView,
};
use leasehold_keyspace::{Db, Load, Turn, Waiter};
use std::cell::Cell;
use std::sync::Arc;

/// The node behind the trait that `command` defines. Each thread has its own.
pub(crate) struct NodeHost {
    node: Arc<Node>,
    /// The connection whose commands run now.
    serving: Cell<u64>,
}

impl NodeHost {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, serving: Cell::new(0) }
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
    fn loader_for(&self, db: Db, key: &[u8]) -> Option<LoaderPolicy> {
        self.node.loaders.policy_for(db, key)
    }

    fn refresh_rule(&self, db: Db, key: &[u8], left_ms: u64) -> Option<RefreshRule> {
        self.node.loaders.refresh_rule(db, key, left_ms)
    }

    fn start_loads(&self, loads: Vec<Load>) -> Vec<(Load, String)> {
        self.node.loaders.start(behind::answer(&self.node, loads))
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
        self.node.loaders.name(loader).unwrap_or("?").to_owned()
    }

    fn refuse_load(&self, loader: u32) -> String {
        self.node.loaders.refuse(loader)
    }

    fn explain(&self, db: Db, key: &[u8]) -> Option<Vec<(&'static str, String)>> {
        self.node.loaders.explain(db, key)
    }

    fn test_load(&self, db: Db, key: &[u8], waiter: Waiter) -> Result<(), String> {
        load::test(&self.node, db, key, waiter)
    }

    fn writes_to_sources(&self) -> bool {
        self.node.loaders.any_writes()
    }

    fn writer_for(&self, db: Db, key: &[u8]) -> Option<u32> {
        self.node.loaders.writer_for(db, key)
    }

    fn start_write(&self, loader: u32, db: Db, changes: Vec<Change>, waiter: Waiter) -> Result<u64, String> {
        load::write::start(&self.node, loader, db, changes, waiter)
    }

    fn restore_pending(&self, turn: &mut Turn, db: Db, key: &[u8]) -> Option<Option<Bytes>> {
        behind::restore(&self.node, turn, db, key)
    }

    fn is_pending(&self, db: Db, key: &[u8]) -> bool {
        behind::is_pending(&self.node, db, key)
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
        self.node.live.set(pairs, |Changed { live, names }| {
            let keyspace = &self.node.keyspace;
            keyspace.set_memory_bytes_max(live.memory_bytes_max);
            keyspace.set_policy(live.policy);
            keyspace.set_objective(live.objective);
            keyspace.set_absence_bytes_max(live.absence_bytes_max());
            keyspace.set_prefix_delimiter(live.prefix_delimiter);
            keyspace.set_whatif(live.whatif);
            keyspace.set_lease_settings(live.lease);
            self.node.log.set_level(live.log_level);
            if !names.is_empty() {
                tracing::info!(options = ?names, "CONFIG SET");
            }
        })
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
