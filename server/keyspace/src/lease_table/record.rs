//! What a lease table keeps of one key, and what changes it without looking at others.

use super::SPARSE;
use crate::lease::Claimant;
use crate::memory::size_class;
use crate::turn::Waiter;
use std::collections::VecDeque;
use std::sync::Arc;

/// Tokens outstanding for one key at the same time. An older one than these is lost: it fails closed.
const ISSUED_MAX: usize = 8;

/// Least time between two tokens of a key in ms when it follows the load time (SPEC §2 rule 2).
pub(super) const REISSUE_MS_MIN: u64 = 50;

/// A token is reissued after so many recent load times, the next after twice as long, and so on until there is a fill.
const REISSUE_LOADS: u64 = 4;

/// A token that may still fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Issued {
    pub(super) token: u64,
    /// When it was issued, by the clock of bumps.
    pub(super) stamp: u64,
    pub(super) issued_at_ms: u64,
    pub(super) valid_until_ms: u64,
    pub(super) claimant: Claimant,
    /// The key was softly invalidated since: the fill may replace a stale value, no more.
    pub(super) softened: bool,
}

/// A token to be issued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Issuing {
    pub(super) token: u64,
    pub(super) stamp: u64,
    pub(super) claimant: Claimant,
}

/// Whose load the others wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) token: u64,
    pub(super) claimant: Claimant,
    /// From then on another may lead. For the server: when its load is given up for lost.
    pub(super) until_ms: u64,
}

/// A command parked on a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) waiter: Waiter,
    pub(super) claimant: Claimant,
    pub(super) lease_ms: u64,
    pub(super) since_ms: u64,
    /// Tokens from this one on were issued after it asked.
    pub(super) asked_at: u64,
    /// A load that began after it asked came back too late once already.
    pub(super) is_overtaken: bool,
}

/// What the server's last load of the key has failed with.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) reason: Arc<str>,
    /// When the load began, by the clock of bumps.
    pub(super) stamp: u64,
    /// Readers hear it instead of loading, until then.
    pub(super) until_ms: u64,
}

/// Bytes of the two counts beside a shared text.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

/// What is known of one key's leases. Kept while a token may still come back, so that its fate can be told by name.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Oldest first.
    pub(super) issued: Vec<Issued>,
    pub(super) holder: Option<Holder>,
    /// Nobody leads before this time: the last holder asked for it.
    pub(super) backoff_until_ms: u64,
    /// No refresh of the value before this time: the last one failed.
    pub(super) refresh_after_ms: u64,
    pub(super) waiting: VecDeque<Waiting>,
    /// How long the last fill took, in ms.
    pub(super) load_ms: Option<u64>,
    /// Tokens up to this one are void because of a write or an invalidation.
    pub(super) revoked_up_to: u64,
    /// The newest token that filled.
    pub(super) filled_up_to: u64,
    pub(super) failure: Option<Box<Remembered>>,
    /// When the record may go.
    pub(super) keep_until_ms: u64,
}

/// What decides when the next token of a key may be issued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// By configuration.
    pub(super) reissue_after_ms: Option<u64>,
    /// For keys that have no load time of their own.
    pub(super) usual: LoadTimes,
}

/// Recent load times over all keys of the shard, each exponentially averaged over about 8 fills, in ms. Clients and the server's own loads
/// have each their own: what the one takes says nothing of the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoadTimes {
    pub(super) of_clients: Option<u64>,
    pub(super) of_server: Option<u64>,
}

impl LoadTimes {
    pub(super) fn note(&mut self, claimant: Claimant, load_ms: u64) {
        let average = match claimant {
            Claimant::Client => &mut self.of_clients,
            Claimant::Server { .. } => &mut self.of_server,
        };
        *average = Some(average.map_or(load_ms, |average| (average * 7 + load_ms).div_ceil(8)));
    }
}

impl Record {
    /// Bytes of its tokens and waiters, as allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        let allocated = |bytes: usize| if bytes > 0 { size_class(bytes) } else { 0 };
        // The keys of a query share the text; it counts as if each had its own.
        let failure = self
            .failure
            .as_ref()
            .map_or(0, |failure| allocated(size_of::<Remembered>()) + allocated(COUNTS_BYTES + failure.reason.len()));
        allocated(self.issued.capacity() * size_of::<Issued>())
            + allocated(self.waiting.capacity() * size_of::<Waiting>())
            + failure
    }

    /// The next reader may load again. The memory goes with the record, soon.
    pub(super) fn forget_failure(&mut self) {
        if let Some(failure) = &mut self.failure {
            failure.until_ms = 0;
        }
    }

    fn failure_until_ms(&self) -> u64 {
        self.failure.as_ref().map_or(0, |failure| failure.until_ms)
    }

    /// Gives back most of what a crowd of waiters took.
    pub(super) fn shrink(&mut self) {
        if self.waiting.capacity() > SPARSE * self.waiting.len() {
            self.waiting.shrink_to(2 * self.waiting.len());
        }
    }

    /// When somebody may lead: now if there is no holder and no back-off.
    pub(super) fn free_at_ms(&self) -> u64 {
        self.holder.map_or(0, |holder| holder.until_ms).max(self.backoff_until_ms)
    }

    pub(super) fn issue(&mut self, issuing: Issuing, lease_ms: u64, now_ms: u64, pace: &Pace) {
        let Issuing { token, stamp, claimant } = issuing;
        let valid_until_ms = now_ms.saturating_add(lease_ms);
        let until_ms = match claimant {
            // One load at a time: another starts only when this one is given up for lost.
            Claimant::Server { .. } => valid_until_ms,
            Claimant::Client => {
                let reissue_ms = pace.reissue_after_ms.unwrap_or_else(|| {
                    // Each token that brought nothing yet doubles the wait, or a slow key's first holder would be pushed out.
                    let outstanding = self.issued.iter().filter(|issued| issued.valid_until_ms > now_ms).count();
                    let (load_ms, doublings) = (self.load_ms.or(pace.usual.of_clients), outstanding.min(ISSUED_MAX));
                    load_ms.map_or(lease_ms, |ms| (REISSUE_LOADS * ms).max(REISSUE_MS_MIN) << doublings)
                });
                now_ms.saturating_add(reissue_ms.min(lease_ms))
            }
        };
        if self.issued.len() == ISSUED_MAX {
            self.issued.remove(0);
        }
        self.issued.push(Issued { token, stamp, issued_at_ms: now_ms, valid_until_ms, claimant, softened: false });
        self.holder = Some(Holder { token, claimant, until_ms });
        self.backoff_until_ms = 0;
        // A client may come back with a token until then and is told what became of it. The server's own load asks once.
        if claimant == Claimant::Client {
            self.keep_until_ms = self.keep_until_ms.max(valid_until_ms);
        }
    }

    /// Voids all tokens. Whether there was one.
    pub(super) fn revoke(&mut self) -> bool {
        self.drop_client();
        self.forget_failure();
        let Some(newest) = self.issued.last() else { return false };
        self.revoked_up_to = self.revoked_up_to.max(newest.token);
        self.issued.clear();
        true
    }

    /// Tokens issued before a stamp may at most replace a stale value; a client that holds one leads no more. That a load which
    /// began before it has failed says nothing about the next one.
    pub(super) fn soften_before(&mut self, stamp: u64) {
        if self.failure.as_ref().is_some_and(|failure| failure.stamp < stamp) {
            self.forget_failure();
        }
        let holder = self.holder.map(|holder| holder.token);
        let mut is_held_by_newer = false;
        for issued in &mut self.issued {
            issued.softened |= issued.stamp < stamp;
            is_held_by_newer |= issued.stamp >= stamp && holder == Some(issued.token);
        }
        if !is_held_by_newer {
            self.drop_client();
        }
    }

    /// A client's lease is over. The server's load runs on and must not be doubled: if it is still wanted when it ends,
    /// it is run again.
    pub(super) fn drop_client(&mut self) {
        if self.holder.is_some_and(|holder| holder.claimant == Claimant::Client) {
            self.holder = None;
        }
    }

    /// When [`LeaseTable::sweep`] must look at this record: when the next waiter may lead, or when it may go.
    pub(super) fn due_ms(&self) -> u64 {
        let free_at_ms = self.free_at_ms();
        let kept_until_ms = self.keep_until_ms.max(self.refresh_after_ms).max(self.failure_until_ms());
        if self.waiting.is_empty() { free_at_ms.max(kept_until_ms) } else { free_at_ms }
    }

    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.waiting.is_empty()
            && self.issued.is_empty()
            && self.holder.is_none()
            && self.keep_until_ms.max(self.refresh_after_ms) <= now_ms
            && self.backoff_until_ms <= now_ms
            && self.failure_until_ms() <= now_ms
    }
}
