//! Making room: which entries go when the memory limit is reached.
//!
//! Keys spread over the shards by hash, so each shard gives its own, shard after shard. What an eviction frees comes back when
//! a segment has no entry left. So that no command waits for a whole segment, room is made a little ahead: over
//! [`Memory::bytes_wished`](crate::memory::Memory) each command that may grow the keyspace looks at a few entries.

use crate::keyspace::{Keyspace, OutOfMemory};
use crate::log::Location;
use crate::memory::bytes_at_most;
use crate::policy::duel::{Control, Rated, candidate_wins, is_lucky};
use crate::policy::miniature::{PASSES_MAX, PROTECTED_PERCENT, ROTATIONS_MAX};
use crate::policy::recency::Verdict;
use crate::queues::{CANDIDATES, KEPT, Oldest, PROBATION, PROTECTED, WINDOW, nth_of_eight};
use crate::settings::{Engine, EvictionPolicy};
use crate::shard::Shard;
use crate::turn::Turn;
use std::sync::atomic::Ordering::Relaxed;

/// Steps of eviction under one lock: each looks at one entry that may go, and at some that may not.
const STEPS_PER_LOCK: usize = 32;

/// Times around all shards without a victim before memory counts as out. More than one, because a step looks at some entries
/// only.
const BARREN_ROUNDS_MAX: usize = 4;

/// Where nothing could go nobody looks again for so long, unless something is changed there: by then some entry may be over.
const BARREN_MS: u64 = 50;

/// Evictions of one call beyond those that make up for what its caller adds: a limit that was lowered is reached in such
/// slices.
const EVICTIONS_EXTRA_MAX: usize = 64;

/// What moving entries to where they may stay may cost in one step, in bytes of copying: about 1800 small entries, a quarter of
/// a millisecond. With less, more entries than necessary would go although they were used.
const STEP_COST_MAX: usize = 1 << 20;

/// After so much no further step begins under this lock. Where the index is larger than all caches, a small entry takes half a microsecond to move.
const LOCK_COST_MAX: usize = STEP_COST_MAX / 4;

/// Locks of one command under which entries were moved and none was found to go, before what comes first goes: two milliseconds
/// at worst.
const MOVING_LOCKS_MAX: usize = 8;

/// As [`MOVING_LOCKS_MAX`] where what comes first must not go: entries with a TTL lie behind half a million without, as just
/// after a change to a volatile policy, or others behind pinned ones. Then memory counts as out; the next command goes on from there.
const MOVING_LOCKS_VOLATILE_MAX: usize = 256;

/// Victims of one step: a large candidate that wins takes the places of many small ones, some with each step.
const VICTIMS_MAX: usize = 64;

/// What an entry has besides key and value in bytes, at most, and its place in the index.
const ENTRY_OVERHEAD: usize = 64;

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// An entry was evicted, or one that was gone by time removed.
    Removed,
    /// Entries were moved: the next step may find one.
    Moved,
    /// There is nothing to evict.
    Nothing,
}

/// What the steps under one lock are for, and how far they go.
#[derive(Clone, Copy, Debug)]
struct Slice {
    /// By the command that needs room.
    bytes_wanted: u64,
    /// Of entries that go.
    bytes_max: u64,
    steps_max: usize,
    choice: Choice,
}

/// How it is found out which entries go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    ByPolicy,
    /// Whatever comes first, for who has looked long enough.
    Any,
}

/// What some steps came to.
#[derive(Clone, Copy, Debug)]
struct Evicted {
    /// Of the entries that went.
    bytes: u64,
    entries: usize,
    /// Whether memory came back.
    has_freed: bool,
    /// Whether entries went on in their lists: each does so once per use, so this ends.
    has_moved: bool,
    /// Whether some entries there must stay.
    has_pins: bool,
}

/// What a policy with a window evicts towards: parts of what all lists may weigh when enough is evicted, so that what stands
/// beyond them has to prove itself. With parts of what there is now, every candidate would find room, and what is evicted
/// afterwards would not be compared with anything.
#[derive(Clone, Copy, Debug)]
struct Goal {
    /// Down to this the oldest of the window is a candidate. Less than the window's share where memory comes back in pieces:
    /// then the window is now over, now under it, and the loser of a duel goes in both cases.
    window_bytes_min: u64,
    /// Over this a candidate takes the place of a victim.
    main_bytes_max: u64,
}

impl Goal {
    /// Every candidate goes: for who has no time to find out which ones should.
    const ANY: Self = Self { window_bytes_min: 0, main_bytes_max: 0 };
}

impl Keyspace {
    /// Evicts until `bytes_wanted` more fit. Called before a command that may grow the keyspace, with no lock held. If the
    /// limit was passed by far already, frees what is wanted and a bounded number of entries more.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the policy leaves nothing to evict, or a shard is full ([`SHARD_BYTES_MAX`](crate::memory)); the
    /// client gets `-OOM`.
    #[inline]
    pub fn make_room(&self, turn: &mut Turn, bytes_wanted: usize) -> Result<(), OutOfMemory> {
        let bytes_wished = self.memory.bytes_wished();
        if bytes_wished == u64::MAX {
            return Ok(());
        }
        let bytes_wanted = match self.memory.counts_values_only() {
            true => bytes_wanted as u64,
            false => (bytes_at_most(bytes_wanted) + ENTRY_OVERHEAD) as u64,
        };
        if self.memory.used_bytes() + bytes_wanted <= bytes_wished {
            return Ok(());
        }
        self.make_room_slowly(turn, bytes_wanted)
    }

    #[cold]
    fn make_room_slowly(&self, turn: &mut Turn, bytes_wanted: u64) -> Result<(), OutOfMemory> {
        if let Some(index) = self.memory.full_shard() {
            self.make_room_in(index, turn)?;
        }
        let bytes_allowed = self.memory.bytes_allowed();
        if bytes_allowed > 0 && bytes_wanted > bytes_allowed {
            return Err(OutOfMemory);
        }
        if self.memory.used_bytes() + bytes_wanted <= self.memory.bytes_wished() {
            return Ok(());
        }
        if self.fits(bytes_wanted) {
            if self.policy() != EvictionPolicy::NoEviction {
                let slice = Slice {
                    bytes_wanted,
                    bytes_max: 2 * bytes_wanted,
                    steps_max: STEPS_PER_LOCK,
                    choice: Choice::ByPolicy,
                };
                let evicted = self.evict_steps(self.victim_shard(), turn, slice);
                if evicted.entries == 0 && !evicted.has_freed {
                    self.next_victim.fetch_add(1, Relaxed);
                }
            }
            return Ok(());
        }
        let evictions_extra_max = if self.memory.counts_values_only() { usize::MAX } else { EVICTIONS_EXTRA_MAX };
        self.evict(turn, bytes_wanted, evictions_extra_max)
    }

    /// Evicts from a shard that is full until a segment of it is free: other shards have more room, so no other will do.
    #[cold]
    fn make_room_in(&self, index: usize, turn: &mut Turn) -> Result<(), OutOfMemory> {
        let choice = Choice::ByPolicy;
        let slice = Slice { bytes_wanted: 0, bytes_max: u64::MAX, steps_max: STEPS_PER_LOCK, choice };
        let mut barren = 0;
        while barren < MOVING_LOCKS_MAX {
            if !self.lock(index).log.is_full() {
                self.memory.note_room();
                return Ok(());
            }
            let has_removed = match self.policy() {
                EvictionPolicy::NoEviction => false,
                _ => self.evict_steps(index, turn, slice).entries > 0,
            };
            let has_gained = has_removed || self.lock(index).clean_up(turn.now_ms);
            barren = if has_gained { 0 } else { barren + 1 };
        }
        Err(OutOfMemory)
    }

    /// Evicts up to `evictions_max` entries while the limit is passed. Whether it still is, and more can go.
    pub(crate) fn evict_slice(&self, turn: &mut Turn, evictions_max: usize) -> bool {
        // Out of memory here means only that nothing can go; writers will be told.
        !self.fits(0) && self.evict(turn, 0, evictions_max).is_ok() && !self.fits(0)
    }

    #[inline]
    fn fits(&self, bytes_wanted: u64) -> bool {
        let bytes_allowed = self.memory.bytes_allowed();
        bytes_allowed == 0 || self.memory.used_bytes().saturating_add(bytes_wanted) <= bytes_allowed
    }

    #[cold]
    fn evict(&self, turn: &mut Turn, bytes_wanted: u64, evictions_extra_max: usize) -> Result<(), OutOfMemory> {
        let evicts = self.policy() != EvictionPolicy::NoEviction;
        let mut freed_bytes = 0;
        let mut evictions_extra = 0;
        let mut barren = 0;
        let mut moving = 0;
        while !self.fits(bytes_wanted) {
            if freed_bytes > bytes_wanted && evictions_extra >= evictions_extra_max {
                return Ok(());
            }
            if barren == self.shards() * BARREN_ROUNDS_MAX {
                return Err(OutOfMemory);
            }
            let index = match barren {
                0 => self.victim_shard(),
                _ => self.next_victim.fetch_add(1, Relaxed) % self.shards(),
            };
            if self.memory.is_barren(index, turn.now_ms) {
                barren += 1;
                continue;
            }
            if evicts {
                let steps = evictions_extra_max - evictions_extra.min(evictions_extra_max);
                let slice = Slice {
                    bytes_wanted,
                    bytes_max: u64::MAX,
                    steps_max: steps.clamp(1, STEPS_PER_LOCK),
                    choice: if moving + 1 < MOVING_LOCKS_MAX { Choice::ByPolicy } else { Choice::Any },
                };
                let evicted = self.evict_steps(index, turn, slice);
                freed_bytes += evicted.bytes;
                evictions_extra += evicted.entries;
                if evicted.entries > 0 || evicted.has_freed {
                    (barren, moving) = (0, 0);
                    continue;
                }
                if evicted.has_moved {
                    (barren, moving) = (0, moving + 1);
                    let some_stay = self.policy().is_volatile() || evicted.has_pins;
                    if moving == if some_stay { MOVING_LOCKS_VOLATILE_MAX } else { MOVING_LOCKS_MAX } {
                        return Err(OutOfMemory);
                    }
                    continue;
                }
            }
            // Absences have their own budget and go only when no entry can.
            let mut shard = self.lock(index);
            let bytes_before = shard.bytes();
            let is_late = barren >= self.shards();
            shard.log.count_moves_anew();
            let has_cleaned = shard.may_be_tidied() && shard.clean_up(turn.now_ms);
            let gained = has_cleaned && shard.bytes() < bytes_before || is_late && shard.drop_absence(turn.random());
            // A segment that is cleaned up takes as long as some evictions.
            evictions_extra += if has_cleaned { STEPS_PER_LOCK } else { 0 };
            freed_bytes += bytes_before.saturating_sub(shard.bytes()) as u64;
            shard.publish();
            if gained {
                barren = 0;
            } else {
                barren += 1;
                if is_late {
                    shard.note_barren_until(turn.now_ms + BARREN_MS);
                }
            }
        }
        Ok(())
    }

    /// The next shard to evict from: in turn, but those that hold much less than others are left out, so that they stay of
    /// one size although segments go one at a time.
    fn victim_shard(&self) -> usize {
        let mean = self.memory.used_bytes() as usize / self.shards();
        let mut index = self.next_victim.load(Relaxed);
        for _ in 0..4 {
            let shard = self.lock_unpublished(index % self.shards());
            if shard.held_bytes() >= mean - mean / 8 {
                break;
            }
            index = index.wrapping_add(1);
        }
        self.next_victim.store(index, Relaxed);
        index % self.shards()
    }

    /// Evicts from a shard until entries of so many bytes are gone or a segment is free. Goes on to the next shard once memory
    /// has come back.
    fn evict_steps(&self, index: usize, turn: &mut Turn, slice: Slice) -> Evicted {
        let Slice { bytes_wanted, bytes_max, steps_max, choice } = slice;
        let mut shard = self.lock(index);
        shard.queues.follow_window();
        shard.log.count_moves_anew();
        let goal = match self.memory.counts_values_only() {
            _ if choice == Choice::Any => Goal::ANY,
            true => {
                let used = self.memory.used_bytes() + bytes_wanted;
                shard.goal_by_values(used.saturating_sub(self.memory.bytes_allowed()))
            }
            false => shard.goal_by_memory(bytes_wanted),
        };
        let held_before = shard.bytes();
        let live_before = shard.log.live_bytes() as u64;
        // What is over goes before what is not.
        let mut removed = shard.expire_entries(turn.now_ms, &mut usize::from(u16::MAX)).unwrap_or(0);
        if removed > 0 || shard.is_untidy() {
            while shard.bytes() >= held_before && shard.log.moved_cost() < LOCK_COST_MAX && shard.clean_up(turn.now_ms)
            {
            }
        }
        let mut has_moved = false;
        for _ in 0..steps_max {
            if shard.bytes() < held_before {
                self.next_victim.fetch_add(1, Relaxed);
                break;
            }
            match shard.evict_step(turn.now_ms, turn.random(), goal) {
                Step::Removed => removed += 1,
                Step::Moved => has_moved = true,
                Step::Nothing => break,
            }
            let is_enough = live_before.saturating_sub(shard.log.live_bytes() as u64) >= bytes_max;
            if is_enough || shard.log.moved_cost() > LOCK_COST_MAX {
                break;
            }
        }
        if shard.bytes() < held_before {
            let all = shard.evictable_weight();
            shard.queues.settle(all);
        }
        shard.publish();
        Evicted {
            bytes: live_before.saturating_sub(shard.log.live_bytes() as u64),
            entries: removed,
            has_freed: shard.bytes() < held_before,
            has_moved,
            has_pins: shard.queues.has_pins(),
        }
    }

    pub(crate) fn policy(&self) -> EvictionPolicy {
        EvictionPolicy::ALL[usize::from(self.policy.load(Relaxed))]
    }
}

impl Shard {
    /// Evicts one entry by the policy, or finds out more about which.
    fn evict_step(&mut self, now_ms: u64, random: u64, goal: Goal) -> Step {
        let policy = self.queues.policy;
        let none = if policy.is_volatile() { self.count_with_ttl() == 0 } else { self.index.len() == 0 };
        if none {
            return Step::Nothing;
        }
        match policy.engine() {
            Engine::None => Step::Nothing,
            Engine::Frequency => self.evict_by_frequency(now_ms, random, goal),
            Engine::Recency => self.evict_by_recency(now_ms),
            Engine::Ttl => self.evict_by_ttl(now_ms),
            Engine::Random => {
                self.log.draw(WINDOW, random);
                self.evict_oldest(WINDOW, now_ms)
            }
        }
    }

    /// Where every byte over is known.
    fn goal_by_values(&self, bytes_over: u64) -> Goal {
        let target = self.evictable_weight().saturating_sub(bytes_over);
        let window_bytes_max = self.queues.share.window_bytes_max(target);
        Goal { window_bytes_min: window_bytes_max, main_bytes_max: target - window_bytes_max.min(target) }
    }

    /// Where memory comes back a segment at a time. A candidate has to make up for what comes in its place, not for that.
    fn goal_by_memory(&mut self, bytes_wanted: u64) -> Goal {
        let segment_bytes = self.log.segment_bytes() as u64;
        let (all, over) = (self.evictable_weight(), bytes_wanted.max(self.mean_weight()));
        let target = self.queues.target_bytes(all, over, segment_bytes);
        let window_bytes_max = self.queues.share.window_bytes_max(target);
        let window_bytes_min = (window_bytes_max / 2).min(window_bytes_max.saturating_sub(2 * segment_bytes));
        Goal { window_bytes_min, main_bytes_max: target - window_bytes_max.min(target) }
    }

    fn evictable_weight(&self) -> u64 {
        [WINDOW, PROBATION, PROTECTED, CANDIDATES].iter().map(|&list| self.log.list_weight(list) as u64).sum()
    }

    fn mean_weight(&self) -> u64 {
        (self.log.weight_of_all() / self.index.len().max(1)) as u64
    }

    fn evict_by_recency(&mut self, now_ms: u64) -> Step {
        let cost_max = self.log.moved_cost() + STEP_COST_MAX;
        loop {
            let list = nth_of_eight(self.queues.generations.oldest().index());
            match self.oldest(list, now_ms) {
                Oldest::Expired => return Step::Removed,
                Oldest::Kept => return Step::Moved,
                Oldest::None => {
                    if !self.queues.generations.drop_oldest() {
                        return Step::Nothing;
                    }
                }
                Oldest::Entry(location) => {
                    let control = Control(self.entry(location).control());
                    match self.queues.generations.verdict(control) {
                        Verdict::Move(generation) if self.log.moved_cost() < cost_max => {
                            self.move_to(location, nth_of_eight(generation.index()), control, now_ms);
                        }
                        // One that was used goes after so many that were: after a long time without an eviction the whole
                        // list may be such.
                        Verdict::Evict | Verdict::Move(_) => return self.evict(location),
                    }
                }
            }
        }
    }

    /// From the list in which the first entry ends soonest.
    fn evict_by_ttl(&mut self, now_ms: u64) -> Step {
        let lists = (0..8).map(nth_of_eight).filter_map(|list| Some((self.log.oldest_gone_at_ms(list)?, list)));
        match lists.min_by_key(|&(gone_at_ms, _)| gone_at_ms) {
            Some((_, list)) => self.evict_oldest(list, now_ms),
            None => Step::Nothing,
        }
    }

    fn evict_oldest(&mut self, list: crate::log::ListNumber, now_ms: u64) -> Step {
        match self.oldest(list, now_ms) {
            Oldest::Expired => Step::Removed,
            Oldest::Kept => Step::Moved,
            Oldest::None => Step::Nothing,
            Oldest::Entry(location) => self.evict(location),
        }
    }

    fn evict_by_frequency(&mut self, now_ms: u64, random: u64, goal: Goal) -> Step {
        let Goal { window_bytes_min, main_bytes_max } = goal;
        match self.oldest(CANDIDATES, now_ms) {
            Oldest::Expired => return Step::Removed,
            Oldest::Kept => return Step::Moved,
            Oldest::Entry(candidate) => return self.duel(candidate, main_bytes_max, now_ms, random),
            Oldest::None => {}
        }
        let mut passes = 0;
        while self.log.list_weight(WINDOW) as u64 > window_bytes_min {
            match self.oldest(WINDOW, now_ms) {
                Oldest::Expired => return Step::Removed,
                Oldest::Kept => return Step::Moved,
                Oldest::None => break,
                Oldest::Entry(candidate) if self.passes(candidate, &mut passes) => {
                    self.move_on(candidate, WINDOW, now_ms);
                }
                Oldest::Entry(candidate) => return self.duel(candidate, main_bytes_max, now_ms, random),
            }
        }
        match self.victim(main_bytes_max, now_ms) {
            Oldest::Expired => Step::Removed,
            Oldest::Kept => Step::Moved,
            Oldest::Entry(victim) => self.evict(victim),
            Oldest::None => self.evict_oldest(WINDOW, now_ms),
        }
    }

    /// The duel for a place in the main part: the candidate goes there, or it goes.
    fn duel(&mut self, candidate: Location, main_bytes_max: u64, now_ms: u64, random: u64) -> Step {
        let rated = self.rated(candidate);
        if u64::from(rated.bytes) > main_bytes_max {
            self.stats.rejected += 1;
            return self.evict(candidate);
        }
        let (margin, objective) = (self.queues.share.margin, self.queues.objective);
        let is_lucky = is_lucky(rated, random);
        let mut rotations = 0;
        let mut victims = 0;
        let mut step = Step::Moved;
        while (self.log.list_weight(PROBATION) + self.log.list_weight(PROTECTED)) as u64 + u64::from(rated.bytes)
            > main_bytes_max
        {
            match self.victim(main_bytes_max, now_ms) {
                Oldest::None => break,
                Oldest::Kept => return Step::Moved,
                Oldest::Expired => step = Step::Removed,
                Oldest::Entry(victim) if is_lucky || candidate_wins(rated, self.rated(victim), margin, objective) => {
                    step = self.evict(victim);
                    victims += 1;
                    if victims == VICTIMS_MAX {
                        return step;
                    }
                }
                Oldest::Entry(victim) => {
                    self.move_on(victim, PROBATION, now_ms);
                    rotations += 1;
                    if rotations == ROTATIONS_MAX {
                        self.stats.rejected += 1;
                        return self.evict(candidate);
                    }
                }
            }
        }
        self.stats.admitted += 1;
        self.move_on(candidate, PROBATION, now_ms);
        step
    }

    /// The oldest entry of the main part that was not used since it was last looked at.
    fn victim(&mut self, main_bytes_max: u64, now_ms: u64) -> Oldest {
        let mut passes = 0;
        loop {
            match self.oldest(PROBATION, now_ms) {
                Oldest::Entry(location) if self.passes(location, &mut passes) => {
                    self.move_on(location, PROTECTED, now_ms);
                    self.demote(main_bytes_max, now_ms);
                }
                Oldest::None => break,
                found => return found,
            }
        }
        loop {
            match self.oldest(PROTECTED, now_ms) {
                Oldest::Entry(location) if self.passes(location, &mut passes) => {
                    self.move_on(location, PROTECTED, now_ms);
                }
                found => return found,
            }
        }
    }

    /// Until the protected list holds no more than its share.
    fn demote(&mut self, main_bytes_max: u64, now_ms: u64) {
        let protected_bytes_max = main_bytes_max * PROTECTED_PERCENT / 100;
        let mut passes = 0;
        while self.log.list_weight(PROTECTED) as u64 > protected_bytes_max && self.log.moved_cost() < LOCK_COST_MAX {
            match self.oldest(PROTECTED, now_ms) {
                Oldest::Entry(location) => {
                    let list = if self.passes(location, &mut passes) { PROTECTED } else { PROBATION };
                    self.move_on(location, list, now_ms);
                }
                Oldest::Expired | Oldest::Kept => {}
                Oldest::None => return,
            }
        }
    }

    /// The oldest entry of a list. Those that are gone by time are removed, and those that must stay are moved to where they do.
    fn oldest(&mut self, list: crate::log::ListNumber, now_ms: u64) -> Oldest {
        let cost_max = self.log.moved_cost() + STEP_COST_MAX;
        while self.log.moved_cost() < cost_max {
            let Some(location) = self.log.oldest(list) else { return Oldest::None };
            let entry = self.log.view(location);
            if self.is_over(&entry, now_ms) {
                let hash = self.hash_of(location);
                self.expire(location, hash);
                return Oldest::Expired;
            }
            let is_pinned = self.queues.has_pins() && self.queues.is_pinned(self.hash_of(location));
            if !is_pinned && !self.queues.is_kept(entry.expire_at_ms()) {
                return Oldest::Entry(location);
            }
            let control = Control(entry.control());
            self.move_to(location, KEPT, control, now_ms);
        }
        Oldest::Kept
    }

    /// Whether an entry at the end of its list goes on because it was used; if not, or after too many, it does not.
    fn passes(&self, location: Location, passes: &mut usize) -> bool {
        let goes_on = Control(self.entry(location).control()).is_visited() && *passes < PASSES_MAX;
        *passes += usize::from(goes_on);
        goes_on
    }

    /// To the newest end of a list, as not used since.
    fn move_on(&mut self, location: Location, list: crate::log::ListNumber, now_ms: u64) {
        let control = Control(self.entry(location).control()).unvisited(self.queues.ageing.epoch());
        self.move_to(location, list, control, now_ms);
    }

    fn move_to(&mut self, location: Location, list: crate::log::ListNumber, control: Control, now_ms: u64) {
        let hash = self.hash_of(location);
        let to = self.log.relocate(location, list, control.0, now_ms);
        self.index.relocate(hash, location, to);
    }

    fn rated(&self, location: Location) -> Rated {
        let entry = self.entry(location);
        let bytes = u32::try_from(self.log.weight(&entry)).unwrap_or(u32::MAX);
        Rated { frequency: self.queues.frequency(entry.control()), bytes }
    }

    fn evict(&mut self, location: Location) -> Step {
        let hash = self.hash_of(location);
        if self.queues.policy.engine() == Engine::Frequency {
            let frequency = self.queues.frequency(self.entry(location).control());
            self.queues.sketch.raise_to(hash, frequency);
        }
        self.stats.evicted += 1;
        self.remove(location, hash);
        Step::Removed
    }

    fn drop_absence(&mut self, random: u64) -> bool {
        if self.absences.is_empty() {
            return false;
        }
        let mut place = self.absences.place_by_chance(random);
        while self.absences.at(place).is_none() {
            place = self.absences.next_place(place);
        }
        self.remove_absence_at(place);
        true
    }
}

#[cfg(test)]
mod tests;
