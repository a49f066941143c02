//! The auditor: takes samples of what loaders' keys are answered with, compares them with the source, and says how much of it is true, and
//! what is not. The idea is Polaris's, of Meta (Cache made consistent, 2022): watch from the side, and judge by scales of time,
//! as a difference for a moment is what every cache has.
//!
//! ```text
//!   keyspace ── changes of keys (a window of hashes) ─► trails (history) ─► keys at risk ─┐
//!   keyspace ── an entry by chance; a key that is known, once more ──────────────────────┤ so many a second
//!   suspicions that are due ─────────────────────────────────────────────────────────────┴► version ─► source ─► compare ─► conclude
//! ```
//!
//! One task on the loader runtime decides; one query at most per loader is under way for it ([`load::audit`]). Without `[auditor]`
//! nothing of this runs, and what is left on the path of a write is one comparison. Nothing here changes what is cached.
//!
//! What it cannot know: whether somebody who changed a row has told the cache, if not by way of this server. So what it reports is that an
//! entry lasted although the source had something else, with what it knows of why ([`ledger::Class`]). Sound by itself is one
//! class: a fill whose token was given before a change that revokes, which needs no source to be seen.

mod cases;
mod ledger;
mod look;
mod pace;
mod trails;

use self::cases::{Case, Cases, Conclusion, Sight, Subject, Suspicion, Verdict, conclude};
use self::ledger::{Class, Evidence, Ledger, Violation};
use self::look::{Compared, Digests};
use self::pace::{Budget, Window};
use self::trails::{Event, Noted, Trails};
use crate::config::text::show_duration;
use crate::config::{AuditorConfig, Config};
use crate::feed::FeedDesk;
use crate::load;
use crate::load::Table;
use crate::load::audit::Asked;
use crate::node::Node;
use bytes::Bytes;
use leasehold_command::{AuditView, ViolationView};
use leasehold_keyspace::{CHANGED_KEY_BYTES_MAX, Db, HashWindow, KeyChange};
use leasehold_loader_api::{Loaded, Row};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the auditor looks whether there is something to do: how exactly it keeps its scales.
const TICK: Duration = Duration::from_millis(50);

/// Keys of one loader that are asked for one after the other, and in one query at most.
const BATCH_MAX: usize = 100;

/// Keys at risk that wait to be compared; the oldest go if there are more.
const AT_RISK_MAX: usize = 1_024;

/// Keys that are compared or under suspicion at one time.
const IN_WORK_MAX: usize = 4_096;

/// Tries to find a key by chance, for each that is wanted: most keys may be no loader's.
const TRIES_PER_KEY: usize = 4;

/// Violations that are told to the log, one in so many ms; the others are counted.
const LOG_EVERY_MS: u64 = 1_000;

/// See the module.
pub(crate) struct Auditor {
    scales_ms: Vec<u64>,
    excluded: HashSet<String>,
    digests: Digests,
    state: Mutex<State>,
}

struct State {
    window: Window,
    budget: Budget,
    trails: Trails,
    cases: Cases,
    /// In work as well.
    at_risk: VecDeque<(Db, Bytes)>,
    /// Loaders whose source is being asked, by their places.
    busy: HashSet<u32>,
    ledger: Ledger,
    changes_dropped: u64,
    is_dead: bool,
    logged_at_ms: u64,
    /// Violations since then.
    unlogged: u64,
}

/// Keys of one loader that are asked for together, each with the version of what was there before.
struct Batch {
    loader: u32,
    cases: Vec<(Case, u64)>,
}

impl Auditor {
    /// The auditor of a configuration that was checked; `None`: it has none.
    pub(crate) fn new(config: &Config, now_ms: u64) -> Option<Self> {
        let AuditorConfig { is_on, rate, exclude, keys_max, violations_max, shows_values, .. } = &config.auditor;
        if !is_on {
            return None;
        }
        let scales = config.auditor.scales();
        let mut ledger = Ledger::new(scales.iter().map(|scale| show_duration(*scale)).collect(), *violations_max);
        let excluded: HashSet<String> = exclude.iter().cloned().collect();
        let names = config.loaders.iter().map(|loader| &loader.settings.name);
        names.filter(|name| !excluded.contains(*name)).for_each(|name| ledger.enter(&name.as_str().into()));
        let state = State {
            window: Window::new(),
            budget: Budget::new(*rate, now_ms),
            trails: Trails::new(*keys_max),
            cases: Cases::new(IN_WORK_MAX),
            at_risk: VecDeque::new(),
            busy: HashSet::new(),
            ledger,
            changes_dropped: 0,
            is_dead: false,
            logged_at_ms: 0,
            unlogged: 0,
        };
        Some(Self {
            scales_ms: scales.iter().map(|scale| scale.as_millis() as u64).collect(),
            excluded,
            digests: Digests::new(*shows_values),
            state: Mutex::new(state),
        })
    }

    /// For `AUDIT STATS` and INFO.
    pub(crate) fn views(&self) -> Vec<AuditView> {
        self.state().ledger.views()
    }

    /// For `AUDIT LIST`, newest first.
    pub(crate) fn violations(&self, node: &Node) -> Vec<ViolationView> {
        self.state().ledger.violations(|feed| node.feeds.name(feed))
    }

    /// For `AUDIT RESET`.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.ledger.reset();
        state.trails.forget_reports();
    }

    /// What INFO says of the auditor itself, as field and value.
    pub(crate) fn fields(&self) -> [(&'static str, String); 6] {
        let state = self.state();
        let window = state.window.get().width as f64 / u64::MAX as f64;
        [
            ("state", if state.is_dead { "failed" } else { "on" }.to_owned()),
            ("keys_known", state.trails.len().to_string()),
            ("keys_at_risk", state.at_risk.len().to_string()),
            ("suspicions", state.cases.len().to_string()),
            ("keys_followed", format!("{window:.6}")),
            ("changes_dropped", state.changes_dropped.to_string()),
        ]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loader of a key: its place, and its name.
    fn loader_of(&self, table: &Table, db: Db, key: &[u8]) -> Option<(u32, Arc<str>)> {
        let place = table.policy_for(db, key)?.loader;
        let name = table.name(place).filter(|name| !self.excluded.contains(*name))?;
        Some((place, name.into()))
    }
}

/// Starts the auditor on the current runtime, if there is one.
pub(crate) fn start(node: &Arc<Node>) {
    if node.auditor.is_none() {
        return;
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        // A bug here costs the auditor, which nobody waits for, and not the server.
        if tokio::spawn(run(Arc::clone(&node))).await.is_err() {
            node.keyspace.tell_changes_of(HashWindow::NONE);
            if let Some(auditor) = &node.auditor {
                auditor.state().is_dead = true;
            }
            tracing::error!("a bug has ended the auditor; the server goes on without");
        }
    });
}

async fn run(node: Arc<Node>) {
    let Some(auditor) = &node.auditor else { return };
    node.keyspace.tell_changes_of(auditor.state().window.get());
    loop {
        tokio::time::sleep(TICK).await;
        hear(&node, auditor);
        for batch in choose(&node, auditor) {
            tokio::spawn(check(Arc::clone(&node), batch));
        }
    }
}

/// Takes note of what has changed.
fn hear(node: &Arc<Node>, auditor: &Auditor) {
    let (changes, dropped) = node.keyspace.take_changes();
    let now_ms = node.clock.now_ms();
    let random = node.turn().random();
    let (count, table) = (changes.len(), node.loaders.table());
    let ours: Vec<(KeyChange, Arc<str>)> = changes
        .into_iter()
        .filter_map(|change| auditor.loader_of(&table, change.db, &change.key).map(|(_, name)| (change, name)))
        .collect();
    let mut state = auditor.state();
    state.changes_dropped += dropped;
    for (change, loader) in ours {
        let KeyChange { db, ref key, at_ms, .. } = change;
        if state.trails.note_change(&change) {
            let subject = Subject { loader, db, key: key.clone() };
            state.report(node, Class::StaleSet, &subject, None, (at_ms, now_ms));
        }
        if state.cases.begin(db, key) {
            state.at_risk.push_back((db, key.clone()));
            if state.at_risk.len() > AT_RISK_MAX
                && let Some((db, key)) = state.at_risk.pop_front()
            {
                state.cases.end(db, &key);
            }
        }
    }
    let window = state.window.tick(count, dropped, random);
    drop(state);
    if let Some(window) = window {
        node.keyspace.tell_changes_of(window);
    }
}

/// Chooses what is compared now: suspicions first, then keys at risk and keys by chance by halves.
fn choose(node: &Arc<Node>, auditor: &Auditor) -> Vec<Batch> {
    let mut chosen = Chosen { node, auditor, table: node.loaders.table(), batches: HashMap::new() };
    let now_ms = node.clock.now_ms();
    let (mut keys, busy, due) = {
        let mut state = auditor.state();
        let keys = state.budget.keys(now_ms);
        let busy = state.busy.clone();
        let table = &chosen.table;
        let is_free = |case: &Case| {
            let Subject { db, key, .. } = &case.subject;
            table.policy_for(*db, key).is_none_or(|policy| !busy.contains(&policy.loader))
        };
        let due = state.cases.take_due(now_ms, keys, is_free);
        (keys, busy, due)
    };
    for case in due {
        keys -= usize::from(chosen.suspicion(case, now_ms));
    }
    let half = keys.div_ceil(2);
    keys -= chosen.at_risk(half, &busy);
    keys -= chosen.by_chance(keys, &busy);
    chosen.at_risk(keys, &busy);
    let batches: Vec<Batch> = chosen.batches.into_iter().map(|(loader, cases)| Batch { loader, cases }).collect();
    let mut state = auditor.state();
    state.busy.extend(batches.iter().map(|batch| batch.loader));
    state.budget.take(batches.iter().map(|batch| batch.cases.len()).sum());
    batches
}

/// Batches in the making.
struct Chosen<'a> {
    node: &'a Arc<Node>,
    auditor: &'a Auditor,
    table: Arc<Table>,
    batches: HashMap<u32, Vec<(Case, u64)>>,
}

impl Chosen<'_> {
    /// A suspicion whose time has come. Whether the source is to be asked.
    fn suspicion(&mut self, case: Case, now_ms: u64) -> bool {
        let (db, key) = (case.subject.db, case.subject.key.clone());
        let version = look::version(self.node, db, &key);
        let loader = self.auditor.loader_of(&self.table, db, &key).filter(|(_, name)| *name == case.subject.loader);
        match (loader, version) {
            // Else that is the answer.
            (Some((loader, _)), Some(version)) if case.suspicion.is_some_and(|of| of.version == version) => {
                if self.has_room(loader) {
                    self.batches.entry(loader).or_default().push((case, version));
                    return true;
                }
                self.auditor.state().cases.wait(case, now_ms);
            }
            _ => self.auditor.state().finish(self.node, self.auditor, case, Sight::Overtaken, None, now_ms),
        }
        false
    }

    /// Of the keys at risk, the oldest first; how many.
    fn at_risk(&mut self, most: usize, busy: &HashSet<u32>) -> usize {
        let mut taken = 0;
        let mut later = Vec::new();
        while taken < most {
            let Some((db, key)) = self.auditor.state().at_risk.pop_front() else { break };
            match self.auditor.loader_of(&self.table, db, &key) {
                Some((loader, _)) if busy.contains(&loader) || !self.has_room(loader) => {
                    later.push((db, key));
                    if later.len() >= AT_RISK_MAX {
                        break;
                    }
                }
                Some(loader) if self.sample(db, &key, &loader) => taken += 1,
                Some(_) | None => self.auditor.state().cases.end(db, &key),
            }
        }
        let mut state = self.auditor.state();
        later.into_iter().rev().for_each(|waiting| state.at_risk.push_front(waiting));
        taken
    }

    /// Of all keys, those that are known and those that are there by turns; how many.
    fn by_chance(&mut self, most: usize, busy: &HashSet<u32>) -> usize {
        let databases = self.table.databases();
        if databases.is_empty() {
            return 0;
        }
        let mut taken = 0;
        for attempt in 0..most * TRIES_PER_KEY {
            if taken == most {
                break;
            }
            let mut turn = self.node.turn();
            let found = if attempt % 2 == 0 {
                let db = databases[turn.random() as usize % databases.len()];
                self.node.keyspace.random_key(&mut turn, db).map(|key| (db, Bytes::from(key)))
            } else {
                self.auditor.state().trails.next_known()
            };
            let Some((db, key)) = found.filter(|(_, key)| key.len() <= CHANGED_KEY_BYTES_MAX) else { continue };
            let Some(loader) = self.auditor.loader_of(&self.table, db, &key) else { continue };
            if busy.contains(&loader.0) || !self.has_room(loader.0) || !self.auditor.state().cases.begin(db, &key) {
                continue;
            }
            if self.sample(db, &key, &loader) {
                taken += 1;
            } else {
                self.auditor.state().cases.end(db, &key);
            }
        }
        taken
    }

    /// Takes a key, in work already, if there is something to compare that was not reported.
    fn sample(&mut self, db: Db, key: &Bytes, (loader, name): &(u32, Arc<str>)) -> bool {
        let Some(version) = look::version(self.node, db, key) else { return false };
        let reported = self.auditor.state().trails.of(db, key).and_then(|trail| trail.reported);
        if reported == Some(version) {
            return false;
        }
        let subject = Subject { loader: Arc::clone(name), db, key: key.clone() };
        self.batches.entry(*loader).or_default().push((Case { subject, suspicion: None }, version));
        true
    }

    fn has_room(&self, loader: u32) -> bool {
        self.batches.get(&loader).is_none_or(|cases| cases.len() < BATCH_MAX)
    }
}

/// Asks the source of one loader, one query after the other, and concludes.
async fn check(node: Arc<Node>, batch: Batch) {
    let Some(auditor) = &node.auditor else { return };
    let Batch { loader, mut cases } = batch;
    let together = node.loaders.table().batch_max(loader).min(BATCH_MAX);
    while !cases.is_empty() {
        let later = cases.split_off(cases.len().min(together));
        let part = std::mem::replace(&mut cases, later);
        let keys = part.iter().map(|(case, _)| case.subject.key.clone()).collect();
        let asked = load::audit::ask(&node, loader, keys).await;
        let now_ms = node.clock.now_ms();
        match asked {
            Asked::Answers(answers) => {
                for ((case, version), answer) in part.into_iter().zip(answers) {
                    let (sight, evidence) = auditor.judge(&node, &case, version, &answer);
                    auditor.state().finish(&node, auditor, case, sight, evidence, now_ms);
                }
            }
            Asked::Refused => {
                for (case, _) in part {
                    auditor.state().finish(&node, auditor, case, Sight::Unknown, None, now_ms);
                }
            }
            Asked::Later => {
                let mut state = auditor.state();
                state.budget.give_back(part.len() + cases.len());
                for (case, _) in part.into_iter().chain(cases.drain(..)) {
                    match case.suspicion {
                        Some(_) => state.cases.wait(case, now_ms),
                        None => state.at_risk.push_front((case.subject.db, case.subject.key)),
                    }
                }
            }
        }
    }
    auditor.state().busy.remove(&loader);
}

impl Auditor {
    /// What the answer of the source says of an entry that had this version before it was asked.
    fn judge(&self, node: &Arc<Node>, case: &Case, version: u64, answer: &Loaded) -> (Sight, Option<Evidence>) {
        let row = match answer {
            Ok(Row::Behind(_)) | Err(_) => return (Sight::Unknown, None),
            Ok(row) => row,
        };
        match look::compare(node, case.subject.db, &case.subject.key, row, &self.digests) {
            Compared::Same { version: now } if now == version => (Sight::Same(version), None),
            Compared::Differs(evidence) if evidence.version == version => (Sight::Differs(version), Some(evidence)),
            // Replaced while the source was asked: which of them it was nobody knows.
            Compared::Same { .. } | Compared::Differs(_) | Compared::Nothing => (Sight::Overtaken, None),
        }
    }
}

impl State {
    /// Takes note of what a comparison has shown, and of what follows.
    fn finish(
        &mut self,
        node: &Node,
        auditor: &Auditor,
        case: Case,
        sight: Sight,
        evidence: Option<Evidence>,
        now_ms: u64,
    ) {
        let Case { subject, suspicion } = case;
        let (db, key) = (subject.db, subject.key.clone());
        let event = match sight {
            Sight::Same(_) => Some(Event::Same),
            Sight::Differs(_) => Some(Event::Differs),
            Sight::Unknown => Some(Event::Unknown),
            Sight::Overtaken => None,
        };
        if let Some(event) = event {
            self.trails.note(db, &key, Noted { at_ms: now_ms, event });
        }
        if suspicion.is_none() {
            self.ledger.count_compared(&subject.loader);
        }
        let Conclusion { verdicts, next } = conclude(suspicion, sight, now_ms, &auditor.scales_ms);
        for &(scale, verdict) in &verdicts {
            self.ledger.count(&subject.loader, scale, verdict);
        }
        if let (Some((scale, Verdict::Inconsistent)), Some(of)) = (verdicts.first().copied(), suspicion) {
            let class = self.class_of(node, &subject, evidence.as_ref());
            if let Some(trail) = self.trails.of_mut(db, &key) {
                trail.reported = Some(of.version);
            }
            self.report(node, class, &subject, evidence.map(|evidence| (scale, evidence)), (of.since_ms, now_ms));
        }
        if let Some(trail) = self.trails.of_mut(db, &key) {
            trail.is_suspect = next.is_some();
        }
        match next {
            Some(next) => {
                let Suspicion { since_ms, scale, .. } = next;
                let due_ms = since_ms + auditor.scales_ms.get(scale).copied().unwrap_or(0);
                self.cases.wait(Case { subject, suspicion: Some(next) }, due_ms);
            }
            None => self.cases.end(db, &key),
        }
    }

    /// Why an entry may differ, as far as it can be told.
    fn class_of(&self, node: &Node, subject: &Subject, evidence: Option<&Evidence>) -> Class {
        let is_by_client = self.trails.of(subject.db, &subject.key).and_then(trails::Trail::is_by_client);
        if evidence.is_some_and(|evidence| !evidence.is_filled) || is_by_client == Some(true) {
            return Class::Written;
        }
        let covers = |feed: &Arc<FeedDesk>| feed.config().loaders.iter().any(|name| **name == *subject.loader);
        if node.feeds.desks().iter().any(covers) { Class::FeedLate } else { Class::Untold }
    }

    /// Keeps a violation, with what led to it, and tells the log of it, if there was not one just now.
    fn report(
        &mut self,
        node: &Node,
        class: Class,
        subject: &Subject,
        evidence: Option<(usize, Evidence)>,
        (since_ms, now_ms): (u64, u64),
    ) {
        let trail = self.trails.of(subject.db, &subject.key);
        let (scale, evidence) = evidence.unzip();
        let violation = Violation {
            number: 0,
            loader: Arc::clone(&subject.loader),
            db: subject.db.0,
            key: subject.key.clone(),
            class,
            after: scale.map_or(String::new(), |scale| self.ledger.scale_name(scale).to_owned()),
            at_ms: now_ms,
            since_ms,
            history: trail.map(|trail| trail.events().copied().collect()).unwrap_or_default(),
            evidence,
        };
        self.unlogged += 1;
        if now_ms.saturating_sub(self.logged_at_ms) >= LOG_EVERY_MS {
            let view = violation.view(|feed| node.feeds.name(feed));
            tracing::warn!(
                loader = &*subject.loader,
                key = %String::from_utf8_lossy(&subject.key),
                class = class.word(),
                after = violation.after,
                for_ms = now_ms.saturating_sub(since_ms),
                not_told = self.unlogged - 1,
                history = ?view.history,
                "an entry is not what its source has"
            );
            self.logged_at_ms = now_ms;
            self.unlogged = 0;
        }
        self.ledger.report(violation);
    }
}

#[cfg(test)]
mod tests;
