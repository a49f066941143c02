//! Which list an entry is in, and which goes next: the policies of [`crate::policy`] over the lists of a [`Log`].
//!
//! ```text
//!     tinylfu, lfu:  candidates, window, probation, protected
//!     lru:           a list for each generation of use
//!     ttl:           a list for each order of magnitude of the time to live
//!     random:        one list, of which any segment may be drawn
//!     all:           one list of what must not be evicted, pinned entries too once they were met
//! ```
//!
//! A change of policy puts the lists together in order and goes on with what they hold. That takes as long however many
//! entries there are: what has to be done for each is done when it comes to the end of its list, and the sketch is made larger
//! or given back by and by.

use crate::log::{Charge, ListNumber, Location, Log};
use crate::policy::ageing::Ageing;
use crate::policy::duel::{Control, Objective};
use crate::policy::miniature::Share;
use crate::policy::recency::{Begun, Generations};
use crate::policy::sketch::{Sketch, blocks_for};
use crate::policy::window::WindowControl;
use crate::settings::{Engine, EvictionPolicy};
use crate::shard::INDEX_BYTES_EACH;
use std::collections::BTreeSet;
use std::sync::Arc;

/// New entries, in order of arrival.
pub(crate) const WINDOW: ListNumber = ListNumber(0);
/// Of the main part: those not used since they came there.
pub(crate) const PROBATION: ListNumber = ListNumber(1);
/// Of the main part: those used.
pub(crate) const PROTECTED: ListNumber = ListNumber(2);
/// What must not be evicted.
pub(crate) const KEPT: ListNumber = ListNumber(3);
/// Large new entries, which do not pass through the window.
pub(crate) const CANDIDATES: ListNumber = ListNumber(4);
/// The first of eight lists, of generations or of times to live.
const FIRST_OF_EIGHT: u8 = 5;

/// All lists, from the one that most deserves to stay to the one that least does.
const BEST_FIRST: [ListNumber; crate::log::LISTS] = {
    let mut lists = [ListNumber(0); crate::log::LISTS];
    let first = [PROTECTED, WINDOW, CANDIDATES, PROBATION];
    let mut index = 0;
    while index < 4 {
        lists[index] = first[index];
        index += 1;
    }
    while index < 12 {
        lists[index] = ListNumber(FIRST_OF_EIGHT + 11 - index as u8);
        index += 1;
    }
    lists[12] = KEPT;
    lists
};

/// The lists of generations or times to live.
#[inline]
pub(crate) fn nth_of_eight(index: usize) -> ListNumber {
    ListNumber(FIRST_OF_EIGHT + (index & 7) as u8)
}

/// Under policies that do not look at use, the control byte is the time of the last use in units of 2^12 ms, modulo 256: 4
/// seconds and 17 minutes. Of an entry not used for longer, idle time is told modulo that.
const USE_CLOCK_SHIFT: u32 = 12;

#[inline]
fn use_clock(now_ms: u64) -> u8 {
    (now_ms >> USE_CLOCK_SHIFT) as u8
}

/// Between one segment that comes back and the next, the entries of a shard may weigh so many segments more.
const GRAIN_SEGMENTS: u64 = 4;

/// What there was when a segment came back counts one part in so many of what there is of late.
const SETTLED_PARTS: u64 = 8;

/// Blocks by which the sketch grows with one entry that is stored, and by which it grows or shrinks in one cycle of expiry,
/// when a policy that has none gave way to one that has, or the reverse. 1 and 64 KiB, some microseconds of a lock.
const SKETCH_BLOCKS_PER_STORE: usize = 16;
const SKETCH_BLOCKS_PER_CYCLE: usize = 1024;

/// Blocks of the sketch of so many entries.
fn sketch_blocks(entries: usize, log: &Log) -> usize {
    match log.charge() {
        Charge::Memory => blocks_for(entries, log.live_bytes() + entries * INDEX_BYTES_EACH),
        // Simulators do not count a sketch.
        Charge::Value => blocks_for(entries, usize::MAX),
    }
}

/// What decides about the entries of a shard. What a read looks at or writes comes first; see [`crate::shard::Shard`].
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Queues {
    pub(crate) ageing: Ageing,
    pub(crate) generations: Generations,
    pub(crate) policy: EvictionPolicy,
    pub(crate) objective: Objective,
    /// Whether bumps of prefixes are pending in the shard: here because each read looks at this line of memory anyway.
    pub(crate) has_prefix_bumps: bool,
    pub(crate) share: Share,
    pub(crate) sketch: Sketch,
    /// What the shard may hold; traffic of this makes some generations.
    pub(crate) capacity_bytes: u64,
    /// See [`Queues::target_bytes`].
    settled_bytes: u64,
    /// Chooses the window for all shards, from what they tell it of some keys.
    window: Arc<WindowControl>,
    /// When each epoch or generation began.
    epoch_starts_ms: [u64; 8],
    /// Hashes of keys whose entries stay, whatever the policy says. Looked at only where one would go.
    pins: BTreeSet<u64>,
}

/// What decides where a new entry goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer {
    pub(crate) hash: u64,
    pub(crate) weight: usize,
    pub(crate) expire_at_ms: Option<u64>,
    pub(crate) entries: usize,
    pub(crate) now_ms: u64,
}

impl Queues {
    pub(crate) fn new(policy: EvictionPolicy, capacity_bytes: u64, now_ms: u64, window: Arc<WindowControl>) -> Self {
        Self {
            policy,
            ageing: Ageing::default(),
            generations: Generations::default(),
            sketch: Sketch::new(0),
            share: policy.share(),
            objective: Objective::Objects,
            has_prefix_bumps: false,
            capacity_bytes,
            settled_bytes: 0,
            window,
            epoch_starts_ms: [now_ms; 8],
            pins: BTreeSet::new(),
        }
    }

    /// Bytes that the policy itself holds.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        match self.policy.engine() {
            Engine::Frequency => self.sketch.memory_bytes(),
            // That of the policy before.
            _ if self.sketch.blocks() > 1 => self.sketch.memory_bytes(),
            _ => 0,
        }
    }

    /// Whether new entries pass through a window, and uses are counted.
    pub(crate) fn has_window(&self) -> bool {
        self.policy.engine() == Engine::Frequency
    }

    /// Changes the policy: what is in the lists stays, in order, and goes through the new ones. Takes as long however many
    /// entries there are.
    pub(crate) fn set_policy(&mut self, policy: EvictionPolicy, wished: Objective, log: &mut Log) {
        self.objective = policy.objective_of(wished);
        if policy == self.policy {
            return;
        }
        let target = match policy.engine() {
            Engine::None => KEPT,
            Engine::Frequency => PROBATION,
            Engine::Random => WINDOW,
            Engine::Recency | Engine::Ttl => nth_of_eight(0),
        };
        let began_ms = self.epoch_starts_ms.into_iter().min().unwrap_or(0);
        let fresh = Self::new(policy, self.capacity_bytes, began_ms, Arc::clone(&self.window));
        let before = std::mem::replace(self, fresh);
        // What it says of keys that are gone holds whatever the policy is, and to give it back takes a while.
        self.sketch = before.sketch;
        self.has_prefix_bumps = before.has_prefix_bumps;
        self.pins = before.pins;
        self.objective = policy.objective_of(wished);
        for list in BEST_FIRST {
            log.merge(list, target);
        }
    }

    /// How long ago an entry with this control byte, that has been in its segment since `opened_at_ms`, was used: at most so
    /// long, known by epochs or generations; under policies that do not look at use, by the clock of [`USE_CLOCK_SHIFT`].
    pub(crate) fn idle_ms(&self, control: u8, opened_at_ms: u64, now_ms: u64) -> u64 {
        let idle_ms_max = now_ms.saturating_sub(opened_at_ms);
        match self.policy.engine() {
            Engine::Frequency | Engine::Recency => {
                let began_ms = self.epoch_starts_ms[Control(control).epoch().index()];
                idle_ms_max.min(now_ms.saturating_sub(began_ms))
            }
            Engine::None | Engine::Random | Engine::Ttl => {
                idle_ms_max.min(u64::from(use_clock(now_ms).wrapping_sub(control)) << USE_CLOCK_SHIFT)
            }
        }
    }

    /// How often an entry with this control byte was used, as it counts now.
    pub(crate) fn frequency(&self, control: u8) -> u8 {
        match self.policy.engine() {
            Engine::Frequency => Control(control).frequency(self.ageing.epoch()),
            _ => 0,
        }
    }

    /// Whether an entry with this control byte was used since it was stored, or since it came near its eviction; `false` where the
    /// policy notes no such thing.
    pub(crate) fn is_used(&self, control: u8) -> bool {
        match self.policy.engine() {
            Engine::Frequency | Engine::Recency => Control(control).is_visited(),
            Engine::None | Engine::Random | Engine::Ttl => false,
        }
    }

    /// The control byte and the list of an entry that is stored for a key without one.
    pub(crate) fn store(&mut self, newcomer: &Newcomer, log: &mut Log) -> (u8, ListNumber) {
        let control = match self.policy.engine() {
            Engine::Frequency => {
                self.fit_sketch(newcomer.entries + 1, log);
                self.count_request(newcomer.entries, newcomer.now_ms);
                self.sample(newcomer.hash, || newcomer.weight);
                Control::stored(self.sketch.estimate(newcomer.hash), self.ageing.epoch())
            }
            Engine::Recency => {
                self.generations.store(u32::try_from(newcomer.weight).unwrap_or(u32::MAX));
                self.begin_generation_if_full(log, newcomer.now_ms);
                Control::stored(0, self.generations.now())
            }
            Engine::None | Engine::Random | Engine::Ttl => Control(use_clock(newcomer.now_ms)),
        };
        (control.0, self.list_of_new(newcomer, log))
    }

    /// The list of an entry that is written anew while it is in a list.
    pub(crate) fn list_again(&self, before: ListNumber, newcomer: &Newcomer, log: &Log) -> ListNumber {
        let is_kept = self.is_kept(newcomer.expire_at_ms);
        match self.policy.engine() {
            Engine::None => KEPT,
            _ if is_kept => KEPT,
            Engine::Frequency | Engine::Random | Engine::Recency if before != KEPT => before,
            _ => self.list_of_new(newcomer, log),
        }
    }

    /// The control byte after a use of an entry. Its weight is asked for only if it matters.
    #[inline]
    pub(crate) fn touch(
        &mut self,
        control: u8,
        hash: u64,
        weight: impl FnOnce() -> usize,
        entries: usize,
        now_ms: u64,
    ) -> u8 {
        match self.policy.engine() {
            Engine::Frequency => {
                self.count_request(entries, now_ms);
                self.sample(hash, weight);
                Control(control).touched(self.ageing.epoch()).0
            }
            Engine::Recency => self.generations.touch(Control(control), weight).0,
            Engine::None | Engine::Random | Engine::Ttl => use_clock(now_ms),
        }
    }

    /// Begins a generation if the present one is full.
    #[inline]
    pub(crate) fn begin_generation_if_full(&mut self, log: &mut Log, now_ms: u64) {
        if self.generations.is_full(self.capacity_bytes) {
            self.begin_generation(log, now_ms);
        }
    }

    #[cold]
    fn begin_generation(&mut self, log: &mut Log, now_ms: u64) {
        if let Begun::Merge { from, into } = self.generations.begin() {
            log.merge(nth_of_eight(from.index()), nth_of_eight(into.index()));
        }
        self.epoch_starts_ms[self.generations.now().index()] = now_ms;
    }

    /// Brings the sketch nearer to what the policy needs, by a bounded part: called about ten times a second.
    pub(crate) fn tend_sketch(&mut self, entries: usize, log: &Log) {
        let blocks = self.sketch.blocks();
        match self.policy.engine() {
            Engine::Frequency => {
                self.sketch.grow_to_blocks(sketch_blocks(entries, log).min(blocks + SKETCH_BLOCKS_PER_CYCLE));
            }
            _ => self.sketch.forget_blocks(SKETCH_BLOCKS_PER_CYCLE),
        }
    }

    /// Grows the sketch to what the entries need, or takes one block off if it is larger by far.
    #[inline]
    fn fit_sketch(&mut self, entries: usize, log: &Log) {
        let wanted = sketch_blocks(entries, log);
        if self.sketch.blocks() < wanted {
            self.sketch.grow_to_blocks(wanted.min(self.sketch.blocks() + SKETCH_BLOCKS_PER_STORE));
        } else if self.sketch.blocks() > wanted + wanted / 4 + 1 {
            self.sketch.shrink_to_blocks(self.sketch.blocks() - 1);
        }
    }

    /// What the evictable entries, which weigh `all` now, may weigh once `bytes_over` of them are evicted.
    ///
    /// Memory comes back a segment at a time: entries come in until one more is needed, and as many bytes of entries are
    /// evicted until one is free, now some more, now some less. If the target followed what there is at the moment, the main
    /// part would have room for whatever leaves the window right after one segment came back, and would lose as much without a
    /// duel before the next. So it is what there has been of late whenever a segment came back.
    pub(crate) fn target_bytes(&mut self, all: u64, bytes_over: u64, segment_bytes: u64) -> u64 {
        let far_below = all.saturating_sub(GRAIN_SEGMENTS * segment_bytes);
        self.settled_bytes = self.settled_bytes.clamp(far_below, all);
        self.settled_bytes.min(all.saturating_sub(bytes_over))
    }

    /// Notes what the evictable entries weigh now that memory has come back.
    pub(crate) fn settle(&mut self, all: u64) {
        self.settled_bytes = self.settled_bytes - self.settled_bytes / SETTLED_PARTS + all / SETTLED_PARTS;
    }

    #[inline]
    fn sample(&self, hash: u64, weight: impl FnOnce() -> usize) {
        self.window.sample(hash, weight);
    }

    /// Takes the share that is in force for all shards.
    pub(crate) fn follow_window(&mut self) {
        if self.policy.has_adaptive_window() {
            self.share = self.window.share();
        }
    }

    #[inline]
    fn count_request(&mut self, entries: usize, now_ms: u64) {
        let before = self.ageing.epoch();
        self.ageing.count(entries, &mut self.sketch);
        if self.ageing.epoch() != before {
            self.epoch_starts_ms[self.ageing.epoch().index()] = now_ms;
        }
    }

    /// Whether the policy never evicts an entry with this time of expiry.
    pub(crate) fn is_kept(&self, expire_at_ms: Option<u64>) -> bool {
        self.policy.engine() == Engine::None || self.policy.is_volatile() && expire_at_ms.is_none()
    }

    /// Keeps the entry of a key from being evicted, or lets it go again.
    pub(crate) fn pin(&mut self, hash: u64) {
        self.pins.insert(hash);
    }

    /// See [`Queues::pin`].
    pub(crate) fn unpin(&mut self, hash: u64) {
        self.pins.remove(&hash);
    }

    pub(crate) fn has_pins(&self) -> bool {
        !self.pins.is_empty()
    }

    pub(crate) fn is_pinned(&self, hash: u64) -> bool {
        self.pins.contains(&hash)
    }

    fn list_of_new(&self, newcomer: &Newcomer, log: &Log) -> ListNumber {
        if self.is_kept(newcomer.expire_at_ms) {
            return KEPT;
        }
        match self.policy.engine() {
            Engine::None => KEPT,
            Engine::Random => WINDOW,
            Engine::Recency => nth_of_eight(self.generations.now().index()),
            Engine::Ttl => {
                // Eight times as long from class to class: below 1 s, 8 s, 64 s, 9 min, 68 min, 9 h, 3 days, and longer.
                let left_s = newcomer.expire_at_ms.unwrap_or(u64::MAX).saturating_sub(newcomer.now_ms) / 1000;
                let class = if left_s == 0 { 0 } else { left_s.ilog2() as usize / 3 + 1 };
                nth_of_eight(class.min(7))
            }
            Engine::Frequency => {
                let lists = [WINDOW, PROBATION, PROTECTED, CANDIDATES];
                let all = lists.iter().map(|&list| log.list_weight(list)).sum::<usize>() + newcomer.weight;
                let is_large = newcomer.weight as u64 > self.window_bytes_max(all);
                // In a window for a few entries, every entry is a large part of it.
                let is_mean_sized = newcomer.weight as u64 * newcomer.entries as u64 <= all as u64;
                if is_large && !is_mean_sized { CANDIDATES } else { WINDOW }
            }
        }
    }

    /// The part of all evictable bytes that the window may have. At least one: a window of nothing would let no new key in.
    pub(crate) fn window_bytes_max(&self, all: usize) -> u64 {
        (all as u64 * u64::from(self.share.window_per_mille) / 1000).max(1)
    }
}

/// What a walk over the oldest entries found in place of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    /// This one may go.
    Entry(Location),
    /// One that was gone by time was removed.
    Expired,
    /// Entries that must stay were moved to where they do: there may be one behind them.
    Kept,
    /// The list is empty.
    None,
}
