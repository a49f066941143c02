//! A sighting: what one reader sees of a key at one moment, its entry and its lease together, and whether it leads from then on.
//!
//! [`Keyspace::claim`] answers who wants to lead and hands out copies; [`Keyspace::read`] knows no leases. A reader of
//! memcached's `mg` wants both in one step: fresh and stale values as they lie there, with all that is kept about them, and a
//! lease only where it asked for one. One lock, so that what it is told of the lease belongs to the value it is shown.

use crate::entry::{Fields, Key};
use crate::keyspace::{Access, Entry, Expiry, Keyspace};
use crate::lease::{Claim, Claimant};
use crate::lease_table::{Contest, RECORD_BYTES};
use crate::log::Location;
use crate::settings::Db;
use crate::shard::{AbsenceKind, Shard};
use crate::slot::{Acting, Slot};
use crate::turn::Turn;

/// What a reader wishes to see, and when it wants to lead.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Whether it counts as use, and as hit or miss.
    pub access: Access,
    /// Whether the version is asked for: an entry gets one by that.
    pub version_wanted: bool,
    /// Whether [`Entry::idle_ms`], [`Entry::memory_bytes`] and [`Entry::frequency`] are asked for; else they are what a plain read shows.
    pub upkeep_wanted: bool,
    /// Leads if nothing is known of the key.
    pub leads_on_miss: bool,
    /// Leads if there is a stale value only.
    pub leads_on_stale: bool,
    /// Leads if the fresh life ends before this server time; 0 = never.
    pub leads_before_ms: u64,
    /// How long a token shall be valid, in ms; `None` = the configured time.
    pub lease_ms: Option<u64>,
    /// The end of the entry's life from now on: the fresh one, or of a stale entry the end of its window. `Keep` = as it is.
    pub expiry: Expiry,
}

/// What a reader sees.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// The entry, fresh or stale, as it was before [`Sight::expiry`].
    pub entry: Option<Entry<'a>>,
    /// Whether it is within its fresh life.
    pub is_fresh: bool,
    /// Whether it was used since it was stored, if the policy of eviction notes that; else `false`.
    pub is_used: bool,
    /// The external version if there is one, else the internal; 0 if it was not asked for.
    pub version: u64,
    /// How the reader stands to the key's lease.
    pub standing: Standing,
}

/// How a reader stands to the lease of the key it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody leads, and the reader did not ask to.
    Free,
    /// The reader is the holder from now on.
    Won {
        /// Names the lease; above 1.
        token: u64,
        /// How long the token is valid, in ms.
        lease_ms: u64,
    },
    /// Another leads.
    Led {
        /// When a new token may be issued, in ms from now.
        retry_after_ms: u64,
    },
}

impl Sight {
    /// Looks without leaving a trace.
    pub const QUIET: Self = Self {
        access: Access::Quiet,
        version_wanted: false,
        upkeep_wanted: false,
        leads_on_miss: false,
        leads_on_stale: false,
        leads_before_ms: 0,
        lease_ms: None,
        expiry: Expiry::Keep,
    };
}

impl Keyspace {
    /// Shows a fresh value on whose key nobody has a lease, and whether it was used ([`Sighting::is_used`]): what [`Keyspace::sight`] would show
    /// to nearly all who only look, for less. `None`: nothing is done or counted, and `sight` knows. `see` runs under the lock: copy out, nothing else.
    #[inline]
    pub fn glance<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        access: Access,
        see: impl FnOnce(&Entry<'_>, bool) -> R,
    ) -> Option<R> {
        let key = self.key(db, key);
        // As `Keyspace::read` does.
        let mut shard = self.lock_unpublished(self.shard_number(key.hash));
        shard.glance(&key, access, turn.now_ms, see)
    }

    /// Shows a key to a reader who may lead by it, where it wishes to: on a miss, near the end, if the value is stale. `see` runs under the lock: copy out, nothing else.
    pub fn sight<R>(
        &self,
        turn: &mut Turn,
        db: Db,
        key: &[u8],
        sight: &Sight,
        see: impl FnOnce(&Sighting<'_>) -> R,
    ) -> R {
        if sight.leads_on_miss || sight.leads_on_stale || sight.leads_before_ms > 0 {
            // For a record, which may be new. Where nothing can go a lease is given all the same: they have their share of the memory.
            let _ = self.make_room(turn, key.len() + RECORD_BYTES);
        }
        self.with_shard(db, key, |shard, key| shard.sight(key, sight, turn, see))
    }
}

impl Shard {
    #[inline]
    fn glance<R>(
        &mut self,
        key: &Key<'_>,
        access: Access,
        now_ms: u64,
        see: impl FnOnce(&Entry<'_>, bool) -> R,
    ) -> Option<R> {
        if !self.leases.is_empty() {
            return None;
        }
        let (location, view) = self.find_view(key)?;
        let entry = view.entry();
        if self.bump_of(&view).is_some() || entry.expire_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            return None;
        }
        let control = view.control();
        let seen = see(&entry, self.queues.is_used(control));
        if access == Access::Touch {
            self.touch_known(location, key.hash, control, now_ms);
            self.count_hit(key, location, now_ms);
        }
        Some(seen)
    }

    fn sight<R>(&mut self, key: &Key<'_>, sight: &Sight, turn: &mut Turn, see: impl FnOnce(&Sighting<'_>) -> R) -> R {
        let now_ms = turn.now_ms;
        self.settle_leases(key);
        let mut found = self.find_live(key, now_ms);
        let is_fresh = found.is_some_and(|location| self.entry(location).is_fresh(now_ms));
        let leads = match found {
            Some(location) if is_fresh => {
                self.entry(location).expire_at_ms().is_some_and(|at_ms| at_ms < sight.leads_before_ms)
            }
            Some(_) => sight.leads_on_stale,
            None => sight.leads_on_miss && !self.is_known_absent(key, sight.access, now_ms),
        };
        let standing = match leads {
            true => self.contend(key, found, sight.lease_ms, turn),
            // A lease on a key without an entry is seen by those who would take it.
            false if found.is_some() => self.standing(key, now_ms),
            false => Standing::Free,
        };
        let mut version = 0;
        if let Some(location) = found.filter(|_| sight.version_wanted) {
            let (location, shown) = self.shown_version(location, key, now_ms);
            (found, version) = (Some(location), shown);
        }
        let mut sighting = Sighting { entry: None, is_fresh, is_used: false, version, standing };
        let seen = match found {
            Some(location) => {
                let view = self.entry(location);
                let control = view.control();
                sighting.is_used = self.queues.is_used(control);
                sighting.entry = Some(if sight.upkeep_wanted { self.view(location, now_ms) } else { view.entry() });
                let seen = see(&sighting);
                if sight.access == Access::Touch {
                    self.touch_known(location, key.hash, control, now_ms);
                }
                seen
            }
            None => see(&sighting),
        };
        match found {
            _ if sight.access == Access::Quiet => {}
            Some(location) if is_fresh => self.count_hit(key, location, now_ms),
            _ => self.count_miss(key, now_ms),
        }
        if let Some(location) = found.filter(|_| sight.expiry != Expiry::Keep) {
            self.change_life(key, location, sight.expiry, turn);
        }
        seen
    }

    fn is_known_absent(&mut self, key: &Key<'_>, access: Access, now_ms: u64) -> bool {
        let is_negative = self.absence(key, now_ms).is_some_and(|absence| absence.kind == AbsenceKind::Negative);
        self.stats.negative_hits += u64::from(is_negative && access == Access::Touch);
        is_negative
    }

    fn contend(&mut self, key: &Key<'_>, found: Option<Location>, lease_ms: Option<u64>, turn: &mut Turn) -> Standing {
        let load_ms = found.map(|location| u64::from(self.entry(location).fields().load_ms)).filter(|&ms| ms > 0);
        let claim = Claim {
            claimant: Claimant::Client,
            lease_ms,
            version_min: None,
            fresh_required: false,
            stale_ms_max: None,
            waiter: None,
        };
        match self.lease_event(key, turn, |leases, at| leases.contest(&at, &claim, load_ms)) {
            Contest::Lead(issue) => Standing::Won { token: issue.token, lease_ms: issue.lease_ms },
            Contest::Wait { retry_after_ms } | Contest::Failed { retry_after_ms, .. } => {
                Standing::Led { retry_after_ms }
            }
            // Only who brings a waiter is parked.
            Contest::Parked => Standing::Led { retry_after_ms: 1 },
        }
    }

    fn standing(&self, key: &Key<'_>, now_ms: u64) -> Standing {
        match self.leases.led_until_ms(key.db, key.bytes) {
            Some(until_ms) if until_ms > now_ms => Standing::Led { retry_after_ms: until_ms - now_ms },
            _ => Standing::Free,
        }
    }

    /// A fresh entry gets another TTL, as by `EXPIRE`; a stale one stays stale, until another time.
    fn change_life(&mut self, key: &Key<'_>, location: Location, expiry: Expiry, turn: &mut Turn) {
        let now_ms = turn.now_ms;
        let until_ms = match expiry {
            Expiry::Keep => return,
            Expiry::Never => None,
            Expiry::At(at_ms) => Some(at_ms),
        };
        if self.entry(location).is_fresh(now_ms) || until_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            let mut is_written = false;
            let mut slot = Slot::new(self, *key, Acting::of(turn), &mut is_written);
            if slot.entry().is_some() {
                slot.set_expiry(until_ms);
            } else {
                slot.remove();
            }
            if is_written {
                self.settle(key, turn);
            }
            return;
        }
        let change = |before: Fields| {
            let since_ms = before.expire_at_ms.unwrap_or(now_ms);
            let stale_for_ms = until_ms.unwrap_or(u64::MAX).saturating_sub(since_ms);
            Fields { stale_for_ms, ..before }
        };
        self.set_fields(location, key, change, now_ms);
    }
}
