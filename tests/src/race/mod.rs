//! The race checker: what clients may see while everybody acts at once, and the counts that say who has met whom.
//!
//! Each row has versions, one after the other. The checker knows the oldest one that a read beginning now may answer, and that is the
//! whole promise: no read answers an older one. It knows it in two ways, by how the cache learns of a change:
//!
//! ```text
//! a delete, or a write through the cache: what was acknowledged before the read began
//! a feed and nothing else:                what was committed before the moment up to which the feed says that it has told all
//! ```
//!
//! So a feed may lag and break as it likes, but must not say that it does not. How old reads were, and how far the feed said it was behind
//! when they began, is measured beside: the second bounds the first.
//!
//! A row whose version is [`is_absent`] is none to its readers, so that absences race too.
//!
//! A race runs on until there were as many operations as were asked for and each kind of race has happened often enough, however fast
//! the machine is. What races is chosen by [`Random`] with the seed that is printed; `LEASEHOLD_SEED=n` repeats the choices of each
//! actor, though not the schedule of the threads. `LEASEHOLD_RACE_OPERATIONS=n` changes how many operations there are; each
//! feed takes a tenth of them.

mod actor;
mod source;

pub use actor::Actor;
pub use source::{Connection, NEXT, Source};

use crate::random::Random;
use crate::{Client, Value, groups};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rows of a kind: few, so that everybody meets everybody.
pub const KEYS: usize = 12;

/// A race fails that has not come nearer to what it wants for so long. No machine that works is so slow.
const WITHIN: Duration = Duration::from_secs(240);

/// A version of such a row is the absence of a row.
#[must_use]
pub fn is_absent(version: i64) -> bool {
    version % 8 == 7
}

/// The condition under which a row is there, by the same rule, for queries.
pub const IS_THERE: &str = "version % 8 <> 7";

/// How a row changes, and how the cache learns of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In this process; clients load through leases, and delete the key after a change.
    Own,
    /// In a database, loaded by the server; writers change it there, and delete the key afterwards.
    Direct,
    /// Written by SET and DEL through to the database.
    Through,
    /// Written by SET and DEL, which the database has later.
    Behind,
    /// Changed in the database, and a feed tells of it.
    Fed,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Own, Self::Direct, Self::Through, Self::Behind, Self::Fed];

    /// Its table, and what its keys begin with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Direct => "direct",
            Self::Through => "through",
            Self::Behind => "behind",
            Self::Fed => "fed",
        }
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Below [`KEYS`].
    pub index: usize,
}

impl Key {
    /// As clients say it.
    #[must_use]
    pub fn name(self) -> String {
        format!("{}:{}", self.kind.name(), self.index)
    }

    /// What it is always filled with: a tag of its own, and one of several keys. A conf must have the same.
    #[must_use]
    pub fn tags(self) -> Option<[String; 2]> {
        match (self.kind, self.index) {
            (Kind::Own, index) if index % 2 == 0 => {
                Some([format!("own-one:{index}"), format!("own-some:{}", index / 8)])
            }
            (Kind::Direct, index) => Some([format!("direct-one:{index}"), "direct-all".to_owned()]),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Row {
    /// The newest version that may be seen by anybody.
    issued: AtomicI64,
    /// The version that a read beginning now must at least see.
    acknowledged: AtomicI64,
    /// When each version was known to be committed, of rows that are fed.
    commits: Mutex<Vec<Option<Instant>>>,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Commands sent.
    pub operations: AtomicU64,
    /// Values and absences that were read and checked.
    pub reads: AtomicU64,
    /// Absences among them.
    pub absences: AtomicU64,
    /// Changes that were acknowledged.
    pub writes: AtomicU64,
    /// Transactions that were rolled back, and writes that the database refused.
    pub rollbacks: AtomicU64,
    /// Writes of which nobody knows whether they were made.
    pub unknown: AtomicU64,
    /// Loads that failed.
    pub failed: AtomicU64,
    /// Fills by clients that were stored.
    pub fills: AtomicU64,
    /// Fills by clients that came too late.
    pub lost: AtomicU64,
    /// Reads of fed rows that answered a version whose successor was committed before they began.
    pub old: AtomicU64,
    /// By how much, at most, in microseconds.
    pub oldest_us: AtomicU64,
    /// How far behind the feed said it was when a read began, at most, in microseconds.
    pub told_us: AtomicU64,
}

impl Counts {
    /// One more.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// A read that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    key: Key,
    how: &'static str,
    at: Instant,
    /// The oldest version that it may answer.
    oldest: i64,
}

/// What everybody knows.
pub struct World {
    rows: [Vec<Row>; Kind::ALL.len()],
    begun: Instant,
    /// Up to when the feed has told all, in microseconds after `begun`.
    told_us: AtomicU64,
    is_over: AtomicBool,
    violations: Mutex<Vec<String>>,
    /// What has happened so far.
    pub counts: Counts,
}

impl Default for World {
    fn default() -> Self {
        Self {
            rows: Kind::ALL.map(|_| (0..KEYS).map(|_| Row::default()).collect()),
            begun: Instant::now(),
            told_us: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            violations: Mutex::default(),
            counts: Counts::default(),
        }
    }
}

impl World {
    fn row(&self, key: Key) -> &Row {
        &self.rows[key.kind as usize][key.index]
    }

    /// Says that one more version of a row is about to be made; which one that is, if nobody else makes one.
    fn issue(&self, key: Key) -> i64 {
        self.row(key).issued.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The newest version that was issued: what the row is, where this process is its database.
    fn issued(&self, key: Key) -> i64 {
        self.row(key).issued.load(Ordering::SeqCst)
    }

    /// Whether a version before this one is an absence that readers may still see.
    fn was_absent_before(&self, key: Key, version: i64) -> bool {
        (self.row(key).acknowledged.load(Ordering::SeqCst)..version).any(is_absent)
    }

    /// No read that begins from now on may answer an older version.
    fn acknowledge(&self, key: Key, version: i64) {
        self.row(key).acknowledged.fetch_max(version, Ordering::SeqCst);
        Counts::add(&self.counts.writes);
    }

    /// A version of a fed row is committed.
    fn note_commit(&self, key: Key, version: i64) {
        let at = Instant::now();
        let version = usize::try_from(version).expect("versions of commits count from 1");
        let mut commits = self.row(key).commits.lock().unwrap_or_else(PoisonError::into_inner);
        if commits.len() <= version {
            commits.resize(version + 1, None);
        }
        commits[version] = Some(at);
        Counts::add(&self.counts.writes);
    }

    /// Asks a feed up to when it has told all; reads that begin from now on are held to it.
    pub fn hear(&self, client: &mut Client, feed: &str) {
        let Some(told) = told_by(client, feed) else { return };
        let told_us = told.saturating_duration_since(self.begun).as_micros() as u64;
        self.told_us.fetch_max(told_us, Ordering::SeqCst);
    }

    fn told(&self) -> Instant {
        self.begun + Duration::from_micros(self.told_us.load(Ordering::SeqCst))
    }

    /// A read begins now.
    #[must_use]
    pub fn begin(&self, key: Key, how: &'static str) -> Begun {
        let row = self.row(key);
        let oldest = if key.kind == Kind::Fed {
            let told = self.told();
            let commits = row.commits.lock().unwrap_or_else(PoisonError::into_inner);
            commits.iter().rposition(|at| at.is_some_and(|at| at < told)).unwrap_or(0) as i64
        } else {
            row.acknowledged.load(Ordering::SeqCst)
        };
        Begun { key, how, at: Instant::now(), oldest }
    }

    /// The read has answered `seen`.
    pub fn check(&self, begun: Begun, seen: &Value) {
        let Begun { key, how, at, oldest } = begun;
        let issued = self.issued(key);
        Counts::add(&self.counts.reads);
        let version = if seen.is_null() {
            Counts::add(&self.counts.absences);
            // The newest absence there can be.
            (issued + 1) / 8 * 8 - 1
        } else {
            let version = seen.text().parse().unwrap_or(-1);
            if is_absent(version) { -1 } else { version }
        };
        if !(oldest.max(0)..=issued).contains(&version) {
            return self
                .complain(format!("{how} {}: {seen}, which is {version}; {oldest} to {issued} may be", key.name()));
        }
        if key.kind != Kind::Fed {
            return;
        }
        let behind = at.saturating_duration_since(self.told());
        self.counts.told_us.fetch_max(behind.as_micros() as u64, Ordering::Relaxed);
        let commits = self.row(key).commits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(next)) = commits.get(version as usize + 1)
            && *next < at
        {
            Counts::add(&self.counts.old);
            self.counts.oldest_us.fetch_max((at - *next).as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// What must not happen has happened.
    pub fn complain(&self, text: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// All that must not have happened.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nobody is to do anything more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Lets all act at once, each again and again, until nothing is lacking any more or there is a violation. `lacking` is asked all the
    /// while; it says what has not happened often enough.
    ///
    /// # Panics
    /// If something is lacking, and has not become less so for some minutes.
    pub fn run(&self, acts: Vec<Act<'_>>, mut lacking: impl FnMut() -> Option<String>) -> Duration {
        // Before anybody acts: what a feed has told until now is heard there.
        let mut lacked = lacking().unwrap_or_default();
        let begun = Instant::now();
        let mut since = begun;
        std::thread::scope(|scope| {
            let _ends = Ends(self);
            for mut act in acts {
                scope.spawn(move || {
                    let _ends = Ends(self);
                    while !self.is_over() {
                        act();
                    }
                });
            }
            while !self.is_over() && self.violations().is_empty() {
                let Some(lack) = lacking() else { break };
                if lack != lacked {
                    (lacked, since) = (lack, Instant::now());
                }
                assert!(since.elapsed() < WITHIN, "too few races: {lacked}");
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        begun.elapsed()
    }
}

/// What an actor does between two looks at whether it is over.
pub type Act<'w> = Box<dyn FnMut() + Send + 'w>;

/// Ends the race with whoever holds it, by a panic too: else the others went on for ever.
struct Ends<'w>(&'w World);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Up to when a feed says that it has told all; none before it has begun.
#[must_use]
pub fn told_by(client: &mut Client, feed: &str) -> Option<Instant> {
    let asked = Instant::now();
    let ago_ms = u64::try_from(client.feed_counter(feed, "up_to_date_ms_ago")).ok()?;
    // The milliseconds are whole ones: it may be a part of one more.
    asked.checked_sub(Duration::from_millis(ago_ms + 1))
}

/// The first of these that has not happened as often as wanted.
#[must_use]
pub fn lack<const N: usize>(wanted: [(&str, u64, u64); N]) -> Option<String> {
    let lacking = wanted.into_iter().find(|(_, happened, wanted)| happened < wanted);
    lacking.map(|(what, happened, wanted)| format!("{what}: {happened} of {wanted}"))
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// How many operations there are: those of the environment, or `all` when everything must run, or `few`.
#[must_use]
pub fn operations(all: u64, few: u64) -> u64 {
    number_from("LEASEHOLD_RACE_OPERATIONS").unwrap_or(if groups::all_required() { all } else { few })
}

/// The seed of the environment, or one of the clock; it is printed.
#[must_use]
pub fn seed(race: &str) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = number_from("LEASEHOLD_SEED").unwrap_or(now.as_micros() as u64 % 1_000_000_000);
    groups::say(&format!("{race}: LEASEHOLD_SEED={seed}"));
    seed
}

/// The choices of an actor.
#[must_use]
pub fn choices(seed: u64, actor: u64) -> Random {
    Random(seed.wrapping_add(actor).wrapping_mul(0x2545_f491_4f6c_dd1d))
}
