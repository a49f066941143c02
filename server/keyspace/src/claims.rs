//! The lease verbs: each locks the key's shard, asks its lease table, and does to the entry what the table allows.

use crate::bumps::Tags;
use crate::entry::{Fields, Key};
use crate::keyspace::{Expiry, Keyspace};
use crate::lease::{Claim, Claimant, Claimed, Failure, Fill, Filled, Invalidation, LeaseView, LostReason, Release};
use crate::lease_table::{Contest, End, LeaseTable, Moment, RECORD_BYTES, TokenState, Told};
use crate::log::Location;
use crate::settings::Db;
use crate::shard::{Absence, AbsenceKind, Contents, Shard};
use crate::turn::{Effects, Turn, Waiter, Wake, WakeEvent};
use crate::watch::changes::ChangeKind;
use bytes::Bytes;
use std::sync::Arc;

/// No new load so soon after one that brought too old a version, in ms: the replica it came from has to catch up.
const OLDER_VERSION_BACKOFF_MS: u64 = 50;

impl Keyspace {
    /// A reader that missed asks for the right to fill; see [`Claimed`].
    pub fn claim(&self, turn: &mut Turn, db: Db, key: &[u8], claim: Claim) -> Claimed {
        // For a record, which may be new. Where nothing can go a lease is given all the same: they have their share of the memory.
        let _ = self.make_room(turn, key.len() + RECORD_BYTES);
        self.with_shard(db, key, |shard, key| shard.claim(key, &claim, turn))
    }

    /// Stores what the holder of `token` brings, if it may be stored (SPEC §2 rule 1), and wakes the waiters.
    pub fn fill(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, fill: Fill<'_>) -> Filled {
        let room = match fill {
            Fill::Value { value, .. } => self.make_room(turn, key.len() + value.len()),
            Fill::Absent { .. } => Ok(()),
        };
        self.with_shard(db, key, |shard, key| {
            let filled = shard.fill(key, token, &fill, room.is_ok(), turn);
            shard.count_fill(filled);
            if filled == Filled::Stored {
                shard.note_filled(key, token, turn.actor, turn.now_ms);
            }
            filled
        })
    }

    /// The holder gives up; the next waiter leads. Whether the token was valid.
    pub fn release(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, release: Release) -> bool {
        self.with_shard(db, key, |shard, key| shard.release(key, token, release, turn))
    }

    /// The server's load failed: all readers who wait hear `reason`, the stale entry (if any) gets `stale_life_ms` of new fresh
    /// life. The next reader who finds nothing fresh starts another load; see [`Keyspace::fail_with`].
    pub fn fail(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, reason: &Arc<str>, stale_life_ms: u64) {
        let failure = Failure { reason: Arc::clone(reason), stale_life_ms, error_life_ms: 0 };
        self.fail_with(turn, db, key, token, &failure);
    }

    /// As [`Keyspace::fail`], and the failure is remembered for a while, so that a dead source is not asked once per request.
    pub fn fail_with(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, failure: &Failure) {
        self.with_shard(db, key, |shard, key| shard.fail(key, token, Told::All, failure, turn));
    }

    /// The server's load takes longer than it should, and is under way still: it keeps the lease, may fill when it comes back,
    /// and no other is started beside it. Nobody is told, as each reader has a time of its own; the stale entry gets a new life
    /// as by [`Keyspace::fail`].
    pub fn overdue(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, stale_life_ms: u64) {
        self.with_shard(db, key, |shard, key| {
            shard.settle_leases(key);
            if let TokenState::Valid { .. } = shard.leases.check(key.db, key.bytes, token, turn.now_ms) {
                shard.revive(key, stale_life_ms, turn.now_ms);
            }
        });
    }

    /// The server's load was given up before the source was asked: readers who have waited for `patience_ms` hear `reason`. If
    /// others wait, the key is loaded for them.
    pub fn drop_load(&self, turn: &mut Turn, db: Db, key: &[u8], token: u64, reason: &Arc<str>, patience_ms: u64) {
        self.with_shard(db, key, |shard, key| {
            let told = Told::WhoWaited { ms: patience_ms };
            let failure = Failure { reason: Arc::clone(reason), stale_life_ms: 0, error_life_ms: 0 };
            shard.fail(key, token, told, &failure, turn);
        });
    }

    /// Takes a waiter out of the queue. `false`: it was woken already and its wake is on the way.
    pub fn leave(&self, turn: &mut Turn, db: Db, key: &[u8], waiter: Waiter) -> bool {
        self.with_shard(db, key, |shard, key| shard.leases.leave(key.db, key.bytes, waiter, turn.now_ms))
    }

    /// Makes the entry stale or removes it, leaves a tombstone if `version` is given, always revokes the leases. Whether
    /// there was a fresh entry that is one no more.
    pub fn invalidate(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        invalidation: Invalidation,
        version: Option<u64>,
    ) -> bool {
        self.with_shard(db, key, |shard, key| {
            // Before it: a waiter may be given the next token by it.
            shard.note_change(key, ChangeKind::Invalidated, turn.actor, turn.now_ms);
            shard.invalidate(key, invalidation, version, turn)
        })
    }

    /// Lets no load that began before now fill the key for those who come after; entries stay as they are.
    pub fn outdate(&self, turn: &mut Turn, db: Db, key: &[u8]) {
        self.with_shard(db, key, |shard, key| {
            shard.leases.soften(key.db, key.bytes);
            shard.settle(key, turn);
        });
    }

    /// Ends the lease of a key (`LEASE KILL`): tokens are void, the next waiter leads. Whether there was one.
    pub fn kill_lease(&self, turn: &mut Turn, db: Db, key: &[u8]) -> bool {
        self.with_shard(db, key, |shard, key| shard.lease_event(key, turn, LeaseTable::kill))
    }

    /// Outstanding leases of `db`, at most `count_max`, that `wanted` accepts.
    pub fn leases(
        &self,
        turn: &mut Turn,
        db: Db,
        count_max: usize,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Vec<LeaseView> {
        let mut views = Vec::new();
        for index in 0..self.shards() {
            let shard = self.lock(index);
            let of_db = shard.leases.views(turn.now_ms).filter(|view| view.db == db && wanted(&view.key));
            views.extend(of_db.take(count_max - views.len()));
        }
        views
    }

    /// Ends leases whose time is up and hands them to waiters; called about every 10 ms by each thread for its shards.
    pub fn sweep_leases(&self, turn: &mut Turn, shards: std::ops::Range<usize>) {
        for index in shards {
            let mut shard = self.lock(index);
            if shard.leases.is_due(turn.now_ms) {
                shard.sweep_leases(turn);
            }
        }
    }

    /// Test-only: with `false`, writes no longer revoke leases. The no-stale-set checker must fail then.
    #[doc(hidden)]
    pub fn set_lease_revocation(&self, revoking: bool) {
        for index in 0..self.shards() {
            self.lock(index).leases.set_revoking(revoking);
        }
    }
}

/// What is known of the load of a fill by its token.
#[derive(Clone, Copy, Debug)]
struct LoadedUnder {
    load_ms: u64,
    /// When the token was issued, by the clock of bumps: what was loaded is as old as that at worst.
    stamp: u64,
}

impl Shard {
    fn claim(&mut self, key: &Key<'_>, claim: &Claim, turn: &mut Turn) -> Claimed {
        let now_ms = turn.now_ms;
        self.settle_leases(key);
        let load_ms = self.find(key).map(|found| u64::from(self.entry(found).fields().load_ms)).filter(|&ms| ms > 0);
        let fresh = self.find_live(key, now_ms).filter(|&found| self.entry(found).is_fresh(now_ms));
        let is_near = |found| claim.stale_ms_max.is_none_or(|most| self.entry(found).entry().stale_ms(now_ms) <= most);
        if let Some(found) = fresh.filter(|&found| !claim.fresh_required && is_near(found)) {
            let (found, version) = self.shown_version(found, key, now_ms);
            if claim.version_min.is_none_or(|minimum| minimum <= version) {
                let entry = self.entry(found);
                let value = Bytes::copy_from_slice(entry.value());
                return Claimed::Hit { value, version, expire_at_ms: entry.expire_at_ms() };
            }
        }
        let absence = self.absence(key, now_ms);
        if let Some(Absence { kind: AbsenceKind::Negative, until_ms, version, .. }) = absence
            && !claim.fresh_required
            && claim.version_min.is_none_or(|minimum| minimum <= version)
        {
            self.stats.negative_hits += 1;
            return Claimed::Negative { ttl_ms: until_ms - now_ms, version };
        }
        let contest = self.lease_event(key, turn, |leases, at| leases.contest(&at, claim, load_ms));
        let stale = self.stale(key, now_ms);
        let version = stale.as_ref().map_or(0, |(_, version)| *version);
        let stale = stale.map(|(value, _)| value);
        match contest {
            Contest::Lead(issue) => {
                let floor = self.version_floor(key, now_ms).unwrap_or(0);
                let version_floor = floor.max(claim.version_min.unwrap_or(0));
                Claimed::Lead { token: issue.token, lease_ms: issue.lease_ms, stale, version_floor }
            }
            Contest::Parked => Claimed::Parked { stale, version },
            Contest::Failed { reason, retry_after_ms } => match claim.waiter {
                // As if it had waited for the load that has failed.
                Some(waiter) => {
                    let event = WakeEvent::Failed { stale: stale.clone(), reason };
                    turn.effects.wakes.push(Wake { waiter, event });
                    Claimed::Parked { stale, version }
                }
                None => Claimed::Wait { retry_after_ms, stale, version },
            },
            Contest::Wait { retry_after_ms } => Claimed::Wait { retry_after_ms, stale, version },
        }
    }

    pub(crate) fn fill(
        &mut self,
        key: &Key<'_>,
        token: u64,
        fill: &Fill<'_>,
        has_room: bool,
        turn: &mut Turn,
    ) -> Filled {
        let now_ms = turn.now_ms;
        match self.judge(key, token, fill, now_ms) {
            TokenState::Lost(reason) => {
                self.overtaken(key, token, fill, turn);
                Filled::Lost(reason)
            }
            TokenState::Softened { stamp } => {
                let filled = self.fill_stale(key, fill, stamp, now_ms);
                if filled == Filled::Stale {
                    self.lease_event(key, turn, |leases, at| leases.filled_stale(&at, token));
                }
                self.overtaken(key, token, fill, turn);
                filled
            }
            TokenState::Valid { load_ms, claimant, stamp } => {
                if self.is_older(key, fill, claimant, now_ms) {
                    self.ended(key, token, End::Released { backoff_ms: OLDER_VERSION_BACKOFF_MS }, turn);
                    return Filled::Lost(LostReason::OlderVersion);
                }
                let fill = &self.with_kept_ttl(key, *fill, now_ms);
                let loaded = LoadedUnder { load_ms, stamp };
                let stored = has_room.then(|| self.store_fill(key, fill, loaded, now_ms));
                // Who waits hears what could not be stored too, else they would load it one after the other; it has no life left.
                let mut told = *fill;
                if stored.is_none()
                    && let Fill::Value { expiry, .. } = &mut told
                {
                    *expiry = Expiry::At(now_ms);
                }
                self.tell_filled(key, token, &told, stored.unwrap_or(0), load_ms, turn);
                stored.map_or(Filled::Lost(LostReason::NoRoom), |_| Filled::Stored)
            }
        }
    }

    /// Whether the token may fill. A bump of a tag of what it brings, or of what is there, counts like an invalidation of the key.
    fn judge(&mut self, key: &Key<'_>, token: u64, fill: &Fill<'_>, now_ms: u64) -> TokenState {
        self.settle_leases(key);
        // An entry that a bump covers takes the tokens with it.
        self.find_live(key, now_ms);
        match self.leases.check(key.db, key.bytes, token, now_ms) {
            TokenState::Valid { stamp, .. } if self.leases.is_revoking() && self.is_bumped_since(stamp, fill) => {
                TokenState::Softened { stamp }
            }
            state => state,
        }
    }

    fn is_bumped_since(&self, stamp: u64, fill: &Fill<'_>) -> bool {
        match *fill {
            Fill::Value { tags, .. } => self.bumps.newest_since(stamp, tags.iter().copied()).is_some(),
            Fill::Absent { .. } => false,
        }
    }

    /// The key was filled; those who wait for it hear what it is now. The value is copied for them, once.
    fn tell_filled(&mut self, key: &Key<'_>, token: u64, fill: &Fill<'_>, version: u64, load_ms: u64, turn: &mut Turn) {
        let is_awaited = self.leases.has_waiters(key.db, key.bytes);
        let event = is_awaited.then(|| fill_event(fill, version, turn.now_ms));
        self.lease_event(key, turn, |leases, at| leases.filled(at, token, load_ms, event.as_ref()));
    }

    /// Whether the key is known to have a newer version, or this one with another value. The version of an invalidation may be
    /// filled: it is that of the row which the holder was to load. A loader's row with the version that the key has is the row
    /// itself, read anew.
    fn is_older(&mut self, key: &Key<'_>, fill: &Fill<'_>, claimant: Claimant, now_ms: u64) -> bool {
        let Fill::Value { value, version: Some(version), .. } = *fill else { return false };
        let Some(floor) = self.version_floor(key, now_ms) else { return false };
        match version.cmp(&floor) {
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => {
                let is_other = self.find_live(key, now_ms).is_some_and(|place| {
                    let entry = self.entry(place);
                    entry.external_version() == Some(version) && entry.value() != value
                });
                claimant == Claimant::Client && is_other
            }
        }
    }

    /// The fill with the TTL that the key has, if it is to keep that.
    fn with_kept_ttl<'f>(&mut self, key: &Key<'_>, fill: Fill<'f>, now_ms: u64) -> Fill<'f> {
        let Fill::Value { value, expiry: Expiry::Keep, stale_for_ms, version, client_flags, tags } = fill else {
            return fill;
        };
        let fresh = self.find_live(key, now_ms).map(|place| self.entry(place)).filter(|entry| entry.is_fresh(now_ms));
        let expiry = fresh.and_then(|entry| entry.expire_at_ms()).map_or(Expiry::Never, Expiry::At);
        Fill::Value { value, expiry, stale_for_ms, version, client_flags, tags }
    }

    fn store_fill(&mut self, key: &Key<'_>, fill: &Fill<'_>, under: LoadedUnder, now_ms: u64) -> u64 {
        let LoadedUnder { load_ms, stamp } = under;
        let place = self.find_live(key, now_ms);
        match *fill {
            Fill::Value { value, expiry, stale_for_ms, version, client_flags, tags } => {
                let expire_at_ms = match expiry {
                    Expiry::Never | Expiry::Keep => None,
                    Expiry::At(at_ms) => Some(at_ms),
                };
                if expire_at_ms.is_some_and(|at_ms| at_ms.saturating_add(stale_for_ms) <= now_ms) {
                    return self.fill_with_nothing(key, place, version, now_ms);
                }
                let fields = Fields {
                    expire_at_ms,
                    stale_for_ms,
                    external_version: version,
                    client_flags,
                    load_ms: u32::try_from(load_ms.max(1)).unwrap_or(u32::MAX),
                    ..Fields::default()
                };
                self.remove_absence(key);
                let contents = Contents { fields, tags: Tags { birth: stamp, tags } };
                let place = self.store(place, key, value, contents, now_ms);
                match version {
                    // Nobody is told.
                    None if self.leases.has_waiting_clients(key.db, key.bytes) => {
                        self.observe_version(place, key, now_ms).1
                    }
                    _ => 0,
                }
            }
            Fill::Absent { ttl_ms } => {
                if let Some(place) = place {
                    self.remove(place, key.hash);
                }
                let version = self.next_version();
                let version_floor = self.absence(key, now_ms).and_then(|absence| absence.version_floor);
                let until_ms = now_ms.saturating_add(ttl_ms);
                if ttl_ms > 0 {
                    self.set_absence(key, Absence { kind: AbsenceKind::Negative, until_ms, version, version_floor });
                }
                version
            }
        }
    }

    /// A fill whose time is over deletes, as a SET does; with a version it leaves a tombstone, so that no older fill follows.
    fn fill_with_nothing(&mut self, key: &Key<'_>, place: Option<Location>, version: Option<u64>, now_ms: u64) -> u64 {
        if let Some(place) = place {
            self.remove(place, key.hash);
        }
        if version.is_some() {
            self.leave_tombstone(key, version, now_ms);
        } else {
            self.end_negative(key, now_ms);
        }
        self.next_version()
    }

    pub(crate) fn leave_tombstone(&mut self, key: &Key<'_>, version_floor: Option<u64>, now_ms: u64) {
        let until_ms = now_ms.saturating_add(self.lease_settings.tombstone_ttl_ms);
        let version = self.next_version();
        self.set_absence(key, Absence { kind: AbsenceKind::Tombstone, until_ms, version, version_floor });
    }

    /// A fill that was overtaken by a soft invalidation: better than the stale value that is there, no more.
    fn fill_stale(&mut self, key: &Key<'_>, fill: &Fill<'_>, stamp: u64, now_ms: u64) -> Filled {
        let Fill::Value { value, version, client_flags, tags, .. } = *fill else {
            return Filled::Lost(LostReason::Revoked);
        };
        let floor = self.version_floor(key, now_ms);
        let stale = self.find_live(key, now_ms).filter(|&place| !self.entry(place).is_fresh(now_ms));
        match stale {
            Some(_) if version.is_some_and(|version| floor.is_some_and(|floor| version < floor)) => {
                Filled::Lost(LostReason::OlderVersion)
            }
            Some(place) => {
                let before = self.entry(place).fields();
                let fields = Fields { external_version: version.or(before.external_version), client_flags, ..before };
                let kept = self.entry(place).tag_set();
                let tags = if tags.is_empty() { kept.borrow() } else { Tags { birth: stamp, tags } };
                self.store(Some(place), key, value, Contents { fields, tags }, now_ms);
                Filled::Stale
            }
            None => Filled::Lost(LostReason::Revoked),
        }
    }

    fn release(&mut self, key: &Key<'_>, token: u64, release: Release, turn: &mut Turn) -> bool {
        self.settle_leases(key);
        match (self.leases.check(key.db, key.bytes, token, turn.now_ms), release.negative_ms) {
            (TokenState::Lost(_), _) => return false,
            (TokenState::Valid { load_ms, stamp, .. }, Some(ttl_ms)) => {
                let fill = Fill::Absent { ttl_ms };
                let version = self.store_fill(key, &fill, LoadedUnder { load_ms, stamp }, turn.now_ms);
                self.note_filled(key, token, turn.actor, turn.now_ms);
                self.tell_filled(key, token, &fill, version, load_ms, turn);
            }
            (TokenState::Valid { .. } | TokenState::Softened { .. }, _) => {
                self.ended(key, token, End::Released { backoff_ms: release.backoff_ms.unwrap_or(0) }, turn);
            }
        }
        true
    }

    /// The fill of `token` was overtaken by a change of the key.
    pub(crate) fn overtaken(&mut self, key: &Key<'_>, token: u64, fill: &Fill<'_>, turn: &mut Turn) {
        if self.leases.has_waiters(key.db, key.bytes) {
            let event = fill_event(fill, 0, turn.now_ms);
            self.lease_event(key, turn, |leases, mut at| leases.overtaken(&mut at, token, &event));
        }
        self.ended(key, token, End::Lost, turn);
    }

    fn fail(&mut self, key: &Key<'_>, token: u64, told: Told, failure: &Failure, turn: &mut Turn) {
        self.settle_leases(key);
        let Failure { reason, stale_life_ms, error_life_ms } = failure;
        let state = self.leases.check(key.db, key.bytes, token, turn.now_ms);
        self.postpone_refresh(key, turn.now_ms);
        let stale = self.stale(key, turn.now_ms).map(|(value, _)| value);
        let event = WakeEvent::Failed { stale, reason: reason.clone() };
        // A load that began before an invalidation says nothing about whether one after it would fail as well.
        let is_news = matches!(state, TokenState::Valid { .. });
        let remembered = (is_news && *error_life_ms > 0).then(|| (reason, turn.now_ms.saturating_add(*error_life_ms)));
        self.lease_event(key, turn, |leases, at| leases.failed(at, token, told, &event, remembered));
        if is_news {
            self.revive(key, *stale_life_ms, turn.now_ms);
        }
    }

    /// Makes a stale entry fresh again for a while; its stale window ends when it would have ended, and since when it is stale
    /// stays known.
    fn revive(&mut self, key: &Key<'_>, stale_life_ms: u64, now_ms: u64) {
        let stale = self.find_live(key, now_ms).filter(|&place| !self.entry(place).is_fresh(now_ms));
        if let Some(place) = stale.filter(|_| stale_life_ms > 0) {
            let change = |before: Fields| {
                let before = before.with_own_life();
                let since_ms = before.expire_at_ms.unwrap_or(now_ms);
                let gone_at_ms = since_ms.saturating_add(before.stale_for_ms);
                let expire_at_ms = now_ms.saturating_add(stale_life_ms).min(gone_at_ms);
                let stale_for_ms = gone_at_ms - expire_at_ms;
                let stale_since_ms = Some(since_ms);
                Fields { expire_at_ms: Some(expire_at_ms), stale_for_ms, stale_since_ms, ..before }
            };
            self.set_fields(place, key, change, now_ms);
        }
    }

    fn invalidate(&mut self, key: &Key<'_>, invalidation: Invalidation, version: Option<u64>, turn: &mut Turn) -> bool {
        let now_ms = turn.now_ms;
        let place = self.find_live(key, now_ms);
        let is_fresh = place.is_some_and(|place| self.entry(place).is_fresh(now_ms));
        let floor = self.version_floor(key, now_ms);
        let is_news = version.is_none_or(|version| floor.is_none_or(|floor| floor < version));
        if is_news {
            match (place, invalidation) {
                (Some(place), Invalidation::Hard) => self.remove(place, key.hash),
                (Some(place), Invalidation::Soft { stale_ms }) => {
                    let invalidated_stale_ms = self.lease_settings.invalidated_stale_ms;
                    let change = |before: Fields| before.invalidated(now_ms, stale_ms, invalidated_stale_ms);
                    self.set_fields(place, key, change, now_ms);
                }
                (None, _) => {}
            }
            match version {
                Some(_) => self.leave_tombstone(key, version, now_ms),
                // A negative entry is a claim about the source, and the source has changed. A tombstone goes on counting.
                None => self.end_negative(key, now_ms),
            }
        }
        match invalidation {
            Invalidation::Hard => self.leases.revoke(key.db, key.bytes),
            Invalidation::Soft { .. } => self.leases.soften(key.db, key.bytes),
        };
        self.settle(key, turn);
        is_news && is_fresh
    }

    fn sweep_leases(&mut self, turn: &mut Turn) {
        let before = turn.effects.wakes.len();
        let versions = &mut self.versions;
        let stamp = self.bumps.now();
        self.leases.sweep(|| versions.next(), stamp, turn.now_ms, &mut turn.effects);
        self.complete_leads(&mut turn.effects, before, turn.now_ms);
    }

    /// After a write or an invalidation of the key: those who wait for it hear its new value, or the next of them leads.
    pub(crate) fn settle(&mut self, key: &Key<'_>, turn: &mut Turn) {
        if self.leases.is_empty() {
            return;
        }
        let now_ms = turn.now_ms;
        let fresh = if self.leases.has_waiters(key.db, key.bytes) {
            let place = self.find_live(key, now_ms).filter(|&place| self.entry(place).is_fresh(now_ms));
            place.map(|place| {
                let (place, version) = self.shown_version(place, key, now_ms);
                let entry = self.entry(place);
                let value = Bytes::copy_from_slice(entry.value());
                WakeEvent::Value { value, version, expire_at_ms: entry.expire_at_ms() }
            })
        } else {
            None
        };
        self.lease_event(key, turn, |leases, at| leases.settle(at, fresh.as_ref()));
    }

    fn ended(&mut self, key: &Key<'_>, token: u64, end: End, turn: &mut Turn) {
        self.lease_event(key, turn, |leases, at| leases.ended(at, token, end));
    }

    /// Runs something that may hand the key's lease on; who leads by it gets the stale value and the version floor too.
    pub(crate) fn lease_event<R>(
        &mut self,
        key: &Key<'_>,
        turn: &mut Turn,
        event: impl FnOnce(&mut LeaseTable, Moment<'_>) -> R,
    ) -> R {
        let before = turn.effects.wakes.len();
        let moment = Moment {
            db: key.db,
            key: key.bytes,
            now_ms: turn.now_ms,
            stamp: self.bumps.now(),
            token_next: self.next_version(),
            effects: &mut turn.effects,
        };
        let result = event(&mut self.leases, moment);
        self.complete_leads(&mut turn.effects, before, turn.now_ms);
        result
    }

    fn complete_leads(&mut self, effects: &mut Effects, first: usize, now_ms: u64) {
        for Wake { event, .. } in &mut effects.wakes[first..] {
            let WakeEvent::Lead { db, key, stale, version_floor, .. } = event else { continue };
            let bytes = key.clone();
            let key = Key { db: *db, bytes: &bytes, hash: self.hash(*db, &bytes) };
            *stale = self.stale(&key, now_ms).map(|(value, _)| value);
            *version_floor = self.version_floor(&key, now_ms).unwrap_or(0);
        }
    }

    /// The value of a key that is not fresh any more but still there (or fresh, but not enough for who asks), and its version.
    fn stale(&mut self, key: &Key<'_>, now_ms: u64) -> Option<(Bytes, u64)> {
        let place = self.find_live(key, now_ms)?;
        let (place, version) = self.shown_version(place, key, now_ms);
        Some((Bytes::copy_from_slice(self.entry(place).value()), version))
    }

    pub(crate) fn count_fill(&mut self, filled: Filled) {
        let stats = &mut self.stats;
        *match filled {
            Filled::Stored => &mut stats.fills_stored,
            Filled::Stale => &mut stats.fills_stale,
            Filled::Lost(LostReason::Revoked) => &mut stats.fills_lost_revoked,
            Filled::Lost(LostReason::Superseded) => &mut stats.fills_lost_superseded,
            Filled::Lost(LostReason::Unknown) => &mut stats.fills_lost_unknown,
            Filled::Lost(LostReason::OlderVersion) => &mut stats.fills_lost_older,
            Filled::Lost(LostReason::NoRoom) => &mut stats.fills_lost_no_room,
        } += 1;
    }
}

fn fill_event(fill: &Fill<'_>, version: u64, now_ms: u64) -> WakeEvent {
    match *fill {
        Fill::Value { value, expiry, version: external, .. } => WakeEvent::Value {
            value: Bytes::copy_from_slice(value),
            version: external.unwrap_or(version),
            expire_at_ms: match expiry {
                Expiry::At(at_ms) => Some(at_ms.max(now_ms)),
                Expiry::Never | Expiry::Keep => None,
            },
        },
        Fill::Absent { ttl_ms } => WakeEvent::Absent { ttl_ms, version },
    }
}
