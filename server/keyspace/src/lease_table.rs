//! The lease table of one shard: who leads, who waits, which tokens may still fill.

mod record;
mod softening;
mod standing;

use self::record::{Holder, Issued, Issuing, LoadTimes, Pace, REISSUE_MS_MIN, Record, Remembered, Waiting};
use crate::lease::{Claim, Claimant, LeaseView, LostReason};
use crate::memory::size_class;
use crate::settings::{Db, LeaseSettings};
use crate::turn::{Effects, Load, LoadCause, Waiter, Wake, WakeEvent};
use crate::waiter_count::WaiterCount;
use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};
use std::sync::Arc;

/// Buckets of the histogram of waits: under 1 ms, 2, 4, 8 … 2^18 ms (4 minutes), and longer ones.
pub(crate) const WAIT_BUCKETS: usize = 20;

/// Records looked at to find an old one to give up.
const RECORD_SAMPLES: usize = 16;

/// Records given up for one new one at most: a long key may take the place of many short ones.
const RECORDS_GIVEN_UP_MAX: usize = 16;

/// Records that a table always has room for: most shards have few leases at a time, and need not allocate for each.
const RECORDS_KEPT: usize = 3;

/// A table gives memory back once it has room for so many times the records in it.
const SPARSE: usize = 8;

/// Bytes of a record in the table, for the share of the memory that leases may take: a table that has just grown has twice the
/// places it needs, and fills seven eighths of them; each has a control byte. Where leases come and go at the limit a table can
/// be twice as large again, because places of records that went stay unusable for a while; what it really takes is counted.
const PLACE_BYTES: usize = (size_of::<(RecordKey, Record)>() + 1) * 2 * 8 / 7;

/// Bytes that a record without waiters has beside its place and its key: most have one token.
const TOKEN_BYTES: usize = size_class(size_of::<Issued>());

/// Bytes of a record without waiters, beside its key.
pub(crate) const RECORD_BYTES: usize = PLACE_BYTES + TOKEN_BYTES;

/// Name of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RecordKey {
    db: Db,
    key: Box<[u8]>,
}

/// A borrowed [`RecordKey`]; hashes alike.
#[derive(Hash)]
struct RecordRef<'a> {
    db: Db,
    key: &'a [u8],
}

impl Equivalent<RecordKey> for RecordRef<'_> {
    fn equivalent(&self, other: &RecordKey) -> bool {
        self.db == other.db && *self.key == *other.key
    }
}

/// Where and when something happens to a lease, and what it leads to.
pub(crate) struct Moment<'a> {
    pub(crate) db: Db,
    pub(crate) key: &'a [u8],
    pub(crate) now_ms: u64,
    /// Of the node's clock of bumps: tokens that are issued by what happens are older than every bump to come.
    pub(crate) stamp: u64,
    /// Unused, and larger than all tokens before: for whoever leads by what happens.
    pub(crate) token_next: u64,
    pub(crate) effects: &'a mut Effects,
}

impl Moment<'_> {
    fn name(&self) -> RecordRef<'_> {
        RecordRef { db: self.db, key: self.key }
    }
}

/// A right to fill that was just given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issue {
    pub(crate) token: u64,
    pub(crate) lease_ms: u64,
}

/// Whether a token may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenState {
    Valid {
        load_ms: u64,
        claimant: Claimant,
        /// When it was issued, by the clock of bumps.
        stamp: u64,
    },
    /// Valid but for a soft invalidation.
    Softened {
        /// See `Valid`.
        stamp: u64,
    },
    Lost(LostReason),
}

/// What a claim on a record comes to.
#[derive(Clone, Debug)]
pub(crate) enum Contest {
    Lead(Issue),
    Parked,
    Wait {
        retry_after_ms: u64,
    },
    /// The server's last load of the key failed just now.
    Failed {
        reason: Arc<str>,
        retry_after_ms: u64,
    },
}

/// The leases of one shard: a state machine per key. It knows tokens, holders and waiters, not values; the shard asks it
/// whether a fill is allowed, and passes on what its waiters are to hear.
///
/// ```text
///             claim                    fill ≥ all waiters hear the value
///   no record ─────► held ──────────────────────────────────────────────► filled (record kept for its other tokens)
///                     │ release, revoked (client), reissue time over
///                     └► next waiter leads │ none: free for the next claim
///   held by the server and revoked: the load runs on, its fill is LOST; waiters left → it loads again, once at a time
/// ```
///
/// Rule 1 of SPEC §2 is [`LeaseTable::check`] and [`LeaseTable::revoke`]; everything else is load shedding.
pub(crate) struct LeaseTable {
    records: HashMap<RecordKey, Record, ahash::RandomState>,
    settings: LeaseSettings,
    /// This shard's part of `records_max`, at least 1.
    records_max: usize,
    /// For records without waiters, so that a rush of leases does not push all entries out.
    bytes_max: usize,
    waiters: WaiterCount,
    /// Of the table.
    table_bytes: usize,
    /// Of all keys, tokens and waiters, as allocated.
    heap_bytes: usize,
    load_times: LoadTimes,
    /// Nothing is due before this time.
    due_ms: u64,
    /// Test-only: rule 1 switched off, to prove that the checkers of the test suite can see a stale fill.
    revoking: bool,
    pub(crate) counters: LeaseCounters,
}

/// Sums since start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeaseCounters {
    pub(crate) issued: u64,
    pub(crate) hot_misses: u64,
    /// Waits that have ended, by length; see [`WAIT_BUCKETS`].
    pub(crate) waits: [u64; WAIT_BUCKETS],
}

impl LeaseCounters {
    fn wait_ended(&mut self, waiting: &Waiting, now_ms: u64) {
        let wait_ms = now_ms.saturating_sub(waiting.since_ms);
        let bucket = (u64::BITS - wait_ms.leading_zeros()) as usize;
        self.waits[bucket.min(WAIT_BUCKETS - 1)] += 1;
    }
}

impl LeaseTable {
    pub(crate) fn new(settings: LeaseSettings, shards: usize, hasher: ahash::RandomState) -> Self {
        let mut table = Self {
            records: HashMap::with_capacity_and_hasher(RECORDS_KEPT, hasher),
            settings,
            records_max: 0,
            bytes_max: usize::MAX,
            waiters: WaiterCount::default(),
            table_bytes: 0,
            heap_bytes: 0,
            load_times: LoadTimes::default(),
            due_ms: u64::MAX,
            revoking: true,
            counters: LeaseCounters::default(),
        };
        table.table_bytes = table.records.allocation_size();
        table.set_settings(settings, shards);
        table
    }

    pub(crate) fn set_settings(&mut self, settings: LeaseSettings, shards: usize) {
        self.settings = settings;
        // Equal parts: keys spread over shards by their hash, and a total that all count by would be one more line of memory for
        // all of them to write.
        self.records_max = (settings.records_max / shards).max(1);
    }

    /// From now on this shard's waiters count against `waiters_max` together with those of all tables that are given `count`.
    /// Called before there are any.
    pub(crate) fn count_waiters_with(&mut self, count: WaiterCount) {
        self.waiters = count;
    }

    /// Changes the memory for records.
    pub(crate) fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = bytes;
    }

    /// Test-only switch: tokens survive writes. Exists to show that the no-stale-set checker fails without rule 1.
    pub(crate) fn set_revoking(&mut self, revoking: bool) {
        self.revoking = revoking;
    }

    /// See [`LeaseTable::set_revoking`].
    pub(crate) fn is_revoking(&self) -> bool {
        self.revoking
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn waiters(&self) -> usize {
        self.waiters.here()
    }

    /// What is allocated for leases, used or not.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.table_bytes + self.heap_bytes
    }

    /// Checks the counts against what is there; for tests.
    pub(crate) fn check_counts(&self) {
        assert_eq!(self.table_bytes, self.records.allocation_size());
        let heap = self.records.iter().map(|(name, record)| size_class(name.key.len()) + record.heap_bytes());
        assert_eq!(self.heap_bytes, heap.sum::<usize>());
        assert_eq!(self.waiters.here(), self.records.values().map(|record| record.waiting.len()).sum::<usize>());
    }

    /// Whether [`LeaseTable::sweep`] has something to do at `now_ms`.
    #[inline]
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms <= now_ms
    }

    /// Someone who missed asks to lead. `token` is unused and larger than all before; it is issued if the answer is `Lead`.
    /// A server's waiter is parked in either case: the value comes by its own load.
    pub(crate) fn contest(&mut self, at: &Moment<'_>, claim: &Claim, entry_load_ms: Option<u64>) -> Contest {
        let Moment { db, key, now_ms, token_next: token, stamp, .. } = *at;
        let lease_ms = claim.lease_ms.unwrap_or(self.settings.lease_ms).max(1);
        let lease_ms = match claim.claimant {
            Claimant::Client => lease_ms.min(self.settings.lease_ms_max),
            Claimant::Server { .. } => lease_ms,
        };
        self.make_record(db, key, now_ms);
        let mut pace = self.pace();
        if claim.lease_ms.is_some() {
            // Who names a time knows better than other keys do.
            pace.usual.of_clients = None;
        }
        let waiters_per_key_max = self.settings.waiters_per_key_max;
        let room = self.waiters.everywhere() < self.settings.waiters_max;
        let record = self.records.get_mut(&RecordRef { db, key }).expect("made above");
        let heap_bytes_before = record.heap_bytes();
        record.load_ms = record.load_ms.or(entry_load_ms);
        let is_server = matches!(claim.claimant, Claimant::Server { .. });
        let free_at_ms = record.free_at_ms();
        let leads = free_at_ms <= now_ms;
        if leads
            && is_server
            && let Some(failure) = record.failure.as_ref().filter(|failure| failure.until_ms > now_ms)
        {
            let (reason, retry_after_ms) = (Arc::clone(&failure.reason), failure.until_ms - now_ms);
            return Contest::Failed { reason, retry_after_ms };
        }
        if leads {
            record.issue(Issuing { token, stamp, claimant: claim.claimant }, lease_ms, now_ms, &pace);
            self.counters.issued += 1;
        } else {
            self.counters.hot_misses += 1;
        }
        // The reader that starts the server's load always has a place: its answer comes with the load.
        let has_place = room && record.waiting.len() < waiters_per_key_max;
        let parks = if leads { is_server } else { has_place };
        if let Some(waiter) = claim.waiter.filter(|_| parks) {
            let (claimant, since_ms, asked_at) = (claim.claimant, now_ms, token);
            record.waiting.push_back(Waiting { waiter, claimant, lease_ms, since_ms, asked_at, is_overtaken: false });
            self.waiters.add_one();
        }
        self.heap_bytes = self.heap_bytes + record.heap_bytes() - heap_bytes_before;
        self.due_ms = self.due_ms.min(record.due_ms());
        if leads {
            Contest::Lead(Issue { token, lease_ms })
        } else if parks && claim.waiter.is_some() {
            Contest::Parked
        } else {
            let free_after_ms = free_at_ms.saturating_sub(now_ms);
            let retry_after_ms = match record.holder {
                // Its load ends long before the lease does.
                Some(Holder { claimant: Claimant::Server { .. }, .. }) => {
                    free_after_ms.min(record.load_ms.or(pace.usual.of_server).unwrap_or(0).max(REISSUE_MS_MIN))
                }
                _ => free_after_ms,
            };
            Contest::Wait { retry_after_ms: retry_after_ms.max(1) }
        }
    }

    /// Whether `token` may fill the key now.
    pub(crate) fn check(&self, db: Db, key: &[u8], token: u64, now_ms: u64) -> TokenState {
        let Some(record) = self.records.get(&RecordRef { db, key }) else {
            return TokenState::Lost(LostReason::Unknown);
        };
        match record.issued.iter().find(|issued| issued.token == token) {
            Some(issued) if issued.valid_until_ms <= now_ms => TokenState::Lost(LostReason::Unknown),
            Some(issued) if issued.softened => TokenState::Softened { stamp: issued.stamp },
            Some(&Issued { issued_at_ms, claimant, stamp, .. }) => {
                TokenState::Valid { load_ms: now_ms.saturating_sub(issued_at_ms), claimant, stamp }
            }
            None if token <= 1 => TokenState::Lost(LostReason::Unknown),
            None if token <= record.revoked_up_to => TokenState::Lost(LostReason::Revoked),
            None if token <= record.filled_up_to => TokenState::Lost(LostReason::Superseded),
            None => TokenState::Lost(LostReason::Unknown),
        }
    }

    /// Whether a fresh key may be loaded anew: nobody leads, nobody asked for a pause, and no refresh has failed just now.
    pub(crate) fn may_refresh(&self, db: Db, key: &[u8], now_ms: u64) -> bool {
        let record = self.records.get(&RecordRef { db, key });
        record.is_none_or(|record| record.free_at_ms().max(record.refresh_after_ms) <= now_ms)
    }

    /// No refresh of the key begins before `until_ms`; its record, if it has one, is kept until then.
    pub(crate) fn postpone_refresh(&mut self, db: Db, key: &[u8], until_ms: u64) {
        if let Some(record) = self.records.get_mut(&RecordRef { db, key }) {
            record.refresh_after_ms = record.refresh_after_ms.max(until_ms);
        }
    }

    /// `token`, found valid, has filled the key: it and all older ones are spent. Everyone who waits hears `event`, which is
    /// there if somebody does.
    pub(crate) fn filled(&mut self, at: Moment<'_>, token: u64, load_ms: u64, event: Option<&WakeEvent>) {
        let Some(record) = self.records.get_mut(&at.name()) else { return };
        if let Some(issued) = record.issued.iter().find(|issued| issued.token == token) {
            self.load_times.note(issued.claimant, load_ms);
        }
        record.load_ms = Some(load_ms);
        record.forget_failure();
        record.issued.retain(|issued| issued.token > token);
        record.filled_up_to = record.filled_up_to.max(token);
        // A server's load that is still running stays the holder: its end must find the record.
        if record.holder.is_some_and(|holder| holder.token == token || holder.claimant == Claimant::Client) {
            record.holder = None;
        }
        debug_assert!(event.is_some() || record.waiting.is_empty());
        if let Some(event) = event {
            self.waiters.remove(record.waiting.len());
            for waiting in record.waiting.drain(..) {
                self.counters.wait_ended(&waiting, at.now_ms);
                at.effects.wakes.push(Wake { waiter: waiting.waiter, event: event.clone() });
            }
        }
        self.due_ms = self.due_ms.min(record.due_ms());
        self.tidy(&at.name(), at.now_ms);
    }

    /// `token` came back with a fill that was not stored as fresh; `event` is what it brought. If the server loaded it, a
    /// reader who has asked before that load and before the one ahead of it hears what it brought: he asked before the
    /// change that overtook it. Or readers of a key that changes more often than it can be loaded would wait for ever.
    pub(crate) fn overtaken(&mut self, at: &mut Moment<'_>, token: u64, event: &WakeEvent) {
        let Some(record) = self.records.get_mut(&at.name()) else { return };
        let is_servers = |holder: Holder| holder.token == token && holder.claimant != Claimant::Client;
        if !record.holder.is_some_and(is_servers) {
            return;
        }
        let before = record.waiting.len();
        record.waiting.retain_mut(|waiting| {
            if waiting.claimant == Claimant::Client || token < waiting.asked_at {
                return true;
            }
            if !waiting.is_overtaken {
                waiting.is_overtaken = true;
                return true;
            }
            self.counters.wait_ended(waiting, at.now_ms);
            at.effects.wakes.push(Wake { waiter: waiting.waiter, event: event.clone() });
            false
        });
        self.waiters.remove(before - record.waiting.len());
    }

    /// The holder of `token` is done without a fill that counted: a lost fill, a release. The next in the queue leads.
    pub(crate) fn ended(&mut self, at: Moment<'_>, token: u64, end: End) {
        let Some(record) = self.records.get_mut(&at.name()) else { return };
        record.issued.retain(|issued| issued.token != token);
        if let End::Released { backoff_ms } = end {
            // No longer than a lease may last: whoever gives one back cannot keep a key from being loaded for ever.
            let backoff_ms = backoff_ms.min(self.settings.lease_ms_max);
            record.backoff_until_ms = record.backoff_until_ms.max(at.now_ms.saturating_add(backoff_ms));
        }
        if record.holder.is_some_and(|holder| holder.token == token) {
            record.holder = None;
        }
        let cause = match end {
            End::Lost => LoadCause::Invalidated,
            End::Released { .. } => LoadCause::HolderLost,
        };
        self.hand_over(at, cause);
    }

    /// The server's load of `token` ended without an answer: readers who wait hear `event`, as far as they are `told`. The first
    /// of the others leads. What is `remembered`, and until when, readers hear without a load; a client that leads may try.
    pub(crate) fn failed(
        &mut self,
        at: Moment<'_>,
        token: u64,
        told: Told,
        event: &WakeEvent,
        remembered: Option<(&Arc<str>, u64)>,
    ) {
        let Some(record) = self.records.get_mut(&at.name()) else { return };
        if record.holder.is_none_or(|holder| holder.token != token) {
            return;
        }
        let before = record.waiting.len();
        record.waiting.retain(|waiting| {
            let is_told = waiting.claimant != Claimant::Client
                && match told {
                    Told::All => true,
                    Told::WhoWaited { ms } => waiting.since_ms.saturating_add(ms) <= at.now_ms,
                };
            if is_told {
                self.counters.wait_ended(waiting, at.now_ms);
                at.effects.wakes.push(Wake { waiter: waiting.waiter, event: event.clone() });
            }
            !is_told
        });
        self.waiters.remove(before - record.waiting.len());
        let stamp = record.issued.iter().find(|issued| issued.token == token).map_or(0, |issued| issued.stamp);
        record.issued.retain(|issued| issued.token != token);
        record.holder = None;
        if let Some((reason, until_ms)) = remembered {
            self.heap_bytes -= record.heap_bytes();
            record.failure = Some(Box::new(Remembered { reason: Arc::clone(reason), stamp, until_ms }));
            self.heap_bytes += record.heap_bytes();
        }
        self.hand_over(at, LoadCause::HolderLost);
    }

    /// The key was written, deleted or hard invalidated: no token issued so far may fill it. The caller goes on to
    /// [`LeaseTable::settle`] once the key has its new state. Whether there was a token.
    pub(crate) fn revoke(&mut self, db: Db, key: &[u8]) -> bool {
        self.revoking && self.records.get_mut(&RecordRef { db, key }).is_some_and(Record::revoke)
    }

    /// After a change of the key from outside its leases: those who wait hear `fresh` if the key has a value now, else the
    /// next of them leads.
    pub(crate) fn settle(&mut self, at: Moment<'_>, fresh: Option<&WakeEvent>) {
        let Some(record) = self.records.get_mut(&at.name()) else { return };
        if let Some(event) = fresh {
            self.waiters.remove(record.waiting.len());
            for waiting in record.waiting.drain(..) {
                self.counters.wait_ended(&waiting, at.now_ms);
                at.effects.wakes.push(Wake { waiter: waiting.waiter, event: event.clone() });
            }
        }
        self.hand_over(at, LoadCause::HolderLost);
    }

    /// Whether commands are parked on this key.
    pub(crate) fn has_waiters(&self, db: Db, key: &[u8]) -> bool {
        self.records.get(&RecordRef { db, key }).is_some_and(|record| !record.waiting.is_empty())
    }

    /// Whether one of them is a GETL, which is told the version; who reads through a loader is not.
    pub(crate) fn has_waiting_clients(&self, db: Db, key: &[u8]) -> bool {
        let is_client = |waiting: &Waiting| waiting.claimant == Claimant::Client;
        self.records.get(&RecordRef { db, key }).is_some_and(|record| record.waiting.iter().any(is_client))
    }

    /// Revokes every record of one database, or of all.
    pub(crate) fn revoke_all(
        &mut self,
        db: Option<Db>,
        mut next_token: impl FnMut() -> u64,
        stamp: u64,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let keys: Vec<RecordKey> =
            self.records.keys().filter(|name| db.is_none_or(|db| name.db == db)).cloned().collect();
        for name in keys {
            self.revoke(name.db, &name.key);
            let (db, key, token_next) = (name.db, &name.key, next_token());
            self.settle(Moment { db, key, now_ms, stamp, token_next, effects: &mut *effects }, None);
        }
    }

    /// `LEASE KILL`: the holder, whoever it is, is one no more. Whether there was a token.
    pub(crate) fn kill(&mut self, at: Moment<'_>) -> bool {
        let Some(record) = self.records.get_mut(&at.name()) else { return false };
        let had_token = record.revoke();
        record.holder = None;
        record.backoff_until_ms = 0;
        self.hand_over(at, LoadCause::HolderLost);
        had_token
    }

    /// Takes a waiter out of the queue; `false` if it is not in it.
    pub(crate) fn leave(&mut self, db: Db, key: &[u8], waiter: Waiter, now_ms: u64) -> bool {
        let Some(record) = self.records.get_mut(&RecordRef { db, key }) else { return false };
        let Some(position) = record.waiting.iter().position(|waiting| waiting.waiter == waiter) else { return false };
        if let Some(waiting) = record.waiting.remove(position) {
            self.counters.wait_ended(&waiting, now_ms);
            self.waiters.remove(1);
        }
        self.heap_bytes -= record.heap_bytes();
        record.shrink();
        self.heap_bytes += record.heap_bytes();
        true
    }

    /// Ends what is over at `now_ms`: tokens, reissue times, back-offs, records. Waiters whose turn has come lead.
    pub(crate) fn sweep(
        &mut self,
        mut next_token: impl FnMut() -> u64,
        stamp: u64,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        if !self.is_due(now_ms) {
            return;
        }
        let due: Vec<RecordKey> =
            self.records.iter().filter(|(_, record)| record.due_ms() <= now_ms).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some(record) = self.records.get_mut(&name) else { continue };
            record.issued.retain(|issued| issued.valid_until_ms > now_ms);
            if record.holder.is_some_and(|holder| holder.until_ms <= now_ms) {
                record.holder = None;
            }
            let (db, key, token_next) = (name.db, &name.key, next_token());
            let moment = Moment { db, key, now_ms, stamp, token_next, effects: &mut *effects };
            self.hand_over(moment, LoadCause::HolderLost);
        }
        self.due_ms = self.records.values().map(Record::due_ms).min().unwrap_or(u64::MAX);
    }

    /// What is outstanding at `now_ms`.
    pub(crate) fn views(&self, now_ms: u64) -> impl Iterator<Item = LeaseView> + '_ {
        self.records.iter().filter_map(move |(name, record)| {
            let newest = record.issued.iter().rev().find(|issued| issued.valid_until_ms > now_ms);
            let claimant = record.holder.map(|holder| holder.claimant).or(newest.map(|issued| issued.claimant))?;
            Some(LeaseView {
                db: name.db,
                key: Bytes::copy_from_slice(&name.key),
                token: newest.map_or(0, |issued| issued.token),
                claimant,
                issued_at_ms: newest.map_or(now_ms, |issued| issued.issued_at_ms),
                lease_left_ms: newest.map_or(0, |issued| issued.valid_until_ms.saturating_sub(now_ms)),
                waiters: record.waiting.len(),
            })
        })
    }

    /// If nobody leads and someone waits, the first in the queue leads: a client by a wake, the server by a load.
    fn hand_over(&mut self, at: Moment<'_>, cause: LoadCause) {
        let pace = self.pace();
        let Some(record) = self.records.get_mut(&at.name()) else { return };
        let Moment { db, now_ms, token_next: token, stamp, effects, .. } = at;
        if record.free_at_ms() <= now_ms
            && let Some(&waiting) = record.waiting.front()
        {
            let Waiting { waiter, claimant, lease_ms, .. } = waiting;
            let heap_bytes_before = record.heap_bytes();
            record.issue(Issuing { token, stamp, claimant }, lease_ms, now_ms, &pace);
            self.heap_bytes = self.heap_bytes + record.heap_bytes() - heap_bytes_before;
            self.counters.issued += 1;
            let key = Bytes::copy_from_slice(at.key);
            match claimant {
                Claimant::Client => {
                    record.waiting.pop_front();
                    self.counters.wait_ended(&waiting, now_ms);
                    self.waiters.remove(1);
                    // The shard adds the stale value and the version floor.
                    let event = WakeEvent::Lead { db, key, token, lease_ms, stale: None, version_floor: 0 };
                    effects.wakes.push(Wake { waiter, event });
                }
                Claimant::Server { loader } => effects.loads.push(Load { db, key, token, loader, cause }),
            }
        }
        self.due_ms = self.due_ms.min(record.due_ms());
        self.tidy(&RecordRef { db, key: at.key }, now_ms);
    }

    fn pace(&self) -> Pace {
        Pace { reissue_after_ms: self.settings.reissue_after_ms, usual: self.load_times }
    }

    fn make_record(&mut self, db: Db, key: &[u8], now_ms: u64) {
        if self.records.contains_key(&RecordRef { db, key }) {
            return;
        }
        for _ in 0..RECORDS_GIVEN_UP_MAX {
            let bytes = self.records.len() * PLACE_BYTES + self.heap_bytes;
            let has_room = bytes + RECORD_BYTES + size_class(key.len()) <= self.bytes_max;
            if has_room && self.records.len() < self.records_max {
                break;
            }
            // A record given up makes its tokens unknown: they fail closed.
            let oldest = self
                .records
                .iter()
                .filter(|(_, record)| record.waiting.is_empty())
                .take(RECORD_SAMPLES)
                .min_by_key(|(_, record)| (record.holder.is_some(), record.keep_until_ms))
                .map(|(name, _)| name.clone());
            let Some(name) = oldest else { break };
            self.drop_record(&RecordRef { db: name.db, key: &name.key });
        }
        let record = Record { issued: Vec::with_capacity(1), keep_until_ms: now_ms, ..Record::default() };
        self.heap_bytes += size_class(key.len()) + record.heap_bytes();
        self.records.insert(RecordKey { db, key: key.into() }, record);
        self.table_bytes = self.records.allocation_size();
    }

    /// Drops a record at once when nothing is to be remembered of it: one for each of a million loaded keys would cost half a
    /// gigabyte. One that stays gives back the memory of a crowd that waited for it.
    fn tidy(&mut self, name: &RecordRef<'_>, now_ms: u64) {
        let Some(record) = self.records.get_mut(name) else { return };
        if record.is_over(now_ms) {
            return self.drop_record(name);
        }
        self.heap_bytes -= record.heap_bytes();
        record.shrink();
        self.heap_bytes += record.heap_bytes();
    }

    fn drop_record(&mut self, name: &RecordRef<'_>) {
        let Some(record) = self.records.remove(name) else { return };
        debug_assert!(record.waiting.is_empty());
        self.heap_bytes -= size_class(name.key.len()) + record.heap_bytes();
        let len = self.records.len();
        if self.records.capacity() > (SPARSE * len).max(RECORDS_KEPT) {
            self.records.shrink_to((2 * len).max(RECORDS_KEPT));
            self.table_bytes = self.records.allocation_size();
        }
    }
}

/// Which readers of a loader's key hear that a load of it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    All,
    /// Those who have waited so long, in ms.
    WhoWaited {
        ms: u64,
    },
}

/// How a lease ended that did not fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its fill came and was refused.
    Lost,
    /// Its holder gave it back.
    Released { backoff_ms: u64 },
}
