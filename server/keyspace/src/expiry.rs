//! Removing what is over without anybody asking for it, and flushing.
//!
//! Expiry is lazy first: who finds an entry past its time removes it. The cycle here finds those that nobody asks for. Each
//! segment knows when the first of its entries is gone; from then on it is searched from end to end, a few microseconds of
//! reading in order, but not more often than [`SEARCH_AGAIN_MS`] allows. So what is over is removed well within a second,
//! and segments without an entry that is over cost nothing. After a bump of a prefix the cycle goes through all entries once
//! (`shard/bumped.rs`).

use crate::index::Index;
use crate::keyspace::Keyspace;
use crate::log::Log;
use crate::settings::Db;
use crate::shard::Shard;
use crate::table::{Place, Tables};
use crate::turn::Turn;
use std::ops::Range;

/// A segment is searched so often at most, in ms.
const SEARCH_AGAIN_MS: u64 = 400;

/// Absences looked at under one lock.
const STEPS_PER_LOCK: usize = 256;

/// Entries removed under one lock.
const REMOVALS_PER_LOCK: usize = 256;

/// What a cycle of expiry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Entries and absences that were over.
    pub removed: usize,
    /// Whether there is more to do at once: the steps were used up, or the limit is still passed and entries can go.
    pub is_behind: bool,
}

/// Entries and absences that a flush has taken out, to be dropped.
#[derive(Debug)]
pub struct Flushed(#[expect(dead_code, reason = "held to be dropped")] Box<(Log, Index, Tables)>);

impl Keyspace {
    /// Removes expired entries and absences for a share of the shards; called about every 100 ms by each thread, and again
    /// soon while it is behind. Looks at about `steps_max` entries at most. While the memory limit is passed, because it was
    /// lowered, evicts a quarter as many entries of all shards too.
    pub fn expire_cycle(&self, turn: &mut Turn, shards: Range<usize>, steps_max: usize) -> Cycle {
        let shards = shards.start.min(self.shards())..shards.end.min(self.shards());
        let mut removed = 0;
        let mut steps_left = steps_max;
        let mut done = 0;
        let mut next = turn.random() as usize;
        let mut is_sweeping = false;
        // Shard after shard, a part of each, until the steps are used up or all shards in a row came to their end: one full of
        // entries does not use up what is there for all, and small ones are not walked over and over.
        while done < shards.len() && steps_left > 0 {
            let mut shard = self.lock(shards.start + next % shards.len());
            next = next.wrapping_add(1);
            let expired = shard.expire_entries(turn.now_ms, &mut steps_left);
            removed += expired.unwrap_or(0);
            shard.expire_absences(turn.now_ms, &mut steps_left);
            let swept = shard.sweep_bumps(turn.now_ms, &mut steps_left);
            removed += swept.unwrap_or(0);
            is_sweeping |= swept.is_some();
            shard.tend_sketch();
            shard.forget_vain_search();
            if shard.is_untidy() {
                shard.clean_up(turn.now_ms);
            }
            let is_done = expired.is_none() && swept.is_none() && shard.absence_expiry_place == Place::default();
            done = if is_done { done + 1 } else { 0 };
        }
        let is_over = self.evict_slice(turn, steps_max.div_ceil(4));
        self.adapt_window(turn);
        self.tend_streams(turn);
        Cycle { removed, is_behind: is_over || steps_left == 0 && (removed > 0 || is_sweeping) }
    }

    /// Removes all entries and absences of one database or of all, and revokes their leases.
    pub fn flush(&self, turn: &mut Turn, db: Option<Db>) {
        for index in 0..self.shards() {
            match db {
                None => self.flush_shard(turn, index),
                Some(db) => self.flush_database(turn, index, db),
            }
        }
        self.recall_all(turn.now_ms);
    }

    fn flush_shard(&self, turn: &mut Turn, index: usize) {
        let mut shard = self.lock(index);
        shard.revoke_all_leases(None, turn);
        turn.effects.flushed.push(Flushed(Box::new(shard.take_all())));
        shard.publish();
    }

    /// Bit by bit, so that no lock is held for long. Leases are revoked at both ends: a token issued in between may stand for
    /// an entry that is about to go.
    fn flush_database(&self, turn: &mut Turn, index: usize, db: Db) {
        let mut shard = self.lock(index);
        shard.revoke_all_leases(Some(db), turn);
        if shard.count(db).entries == shard.index.len() && shard.absences.is_empty() {
            turn.effects.flushed.push(Flushed(Box::new(shard.take_all())));
            shard.publish();
            return;
        }
        let mut position = 0;
        while shard.count(db).entries > 0 {
            position = shard.remove_some(db, position);
            if position == 0 {
                break;
            }
            drop(shard);
            shard = self.lock(index);
        }
        let mut table = 0;
        // Splits in between move blocks to higher tables only.
        while table < shard.absences.count() && !shard.absences.is_empty() {
            let taken = shard.take_absences(table, db);
            table += 1;
            drop(shard);
            drop(taken);
            shard = self.lock(index);
        }
        shard.revoke_all_leases(Some(db), turn);
        shard.publish();
    }
}

impl Shard {
    fn revoke_all_leases(&mut self, db: Option<Db>, turn: &mut Turn) {
        if !self.leases.is_empty() {
            let versions = &mut self.versions;
            let stamp = self.bumps.now();
            self.leases.revoke_all(db, || versions.next(), stamp, turn.now_ms, &mut turn.effects);
        }
    }

    /// Removes entries of a database for as many as one lock may; returns the position in the index to go on from, 0 at the
    /// end.
    fn remove_some(&mut self, db: Db, mut position: u64) -> u64 {
        let mut found = Vec::new();
        loop {
            position = self.index.step(position, |location| {
                if self.log.view(location).db() == db {
                    found.push(location);
                }
            });
            if position == 0 || found.len() >= REMOVALS_PER_LOCK {
                break;
            }
        }
        for location in found {
            let hash = self.hash_of(location);
            self.remove(location, hash);
        }
        position
    }

    /// Searches the next segment that may have entries that are gone by time and removes them; returns how many, `None` if no
    /// segment is due.
    pub(crate) fn expire_entries(&mut self, now_ms: u64, steps_left: &mut usize) -> Option<usize> {
        *steps_left = steps_left.saturating_sub(1);
        let found = match self.count_with_ttl() {
            0 => None,
            _ => {
                let due = |from| self.log.due(from, now_ms, SEARCH_AGAIN_MS);
                due(self.expiry_segment).or_else(|| due(0))
            }
        };
        let Some(number) = found else {
            self.expiry_segment = 0;
            return None;
        };
        let (looked_at, _) = self.log.count_in_segment(number);
        *steps_left = steps_left.saturating_sub(looked_at);
        let mut gone = Vec::new();
        let mut gone_at_ms_min = u64::MAX;
        let mut is_all = true;
        self.log.live_in(number, |location, entry| {
            let Some(gone_at_ms) = entry.gone_at_ms() else { return };
            if gone_at_ms <= now_ms && gone.len() < REMOVALS_PER_LOCK {
                gone.push((location, self.hash(entry.db(), entry.key())));
            } else {
                is_all &= gone_at_ms > now_ms;
                gone_at_ms_min = gone_at_ms_min.min(gone_at_ms);
            }
        });
        gone.iter().for_each(|&(_, hash)| self.index.prefetch(hash));
        self.log.note_searched(number, gone_at_ms_min, if is_all { now_ms } else { 0 });
        for &(location, hash) in &gone {
            self.expire(location, hash);
        }
        self.expiry_segment = if is_all { number + 1 } else { number };
        Some(gone.len())
    }

    fn tend_sketch(&mut self) {
        self.queues.tend_sketch(self.index.len(), &self.log);
    }

    fn expire_absences(&mut self, now_ms: u64, steps_left: &mut usize) {
        if self.absences.is_empty() {
            self.absence_expiry_place = Place::default();
            return;
        }
        for _ in 0..STEPS_PER_LOCK.min(*steps_left) {
            *steps_left -= 1;
            let place = self.absence_expiry_place;
            if self.absences.at(place).is_some_and(|block| block.is_gone(now_ms)) {
                let epoch = self.absences.epoch(place.table);
                drop(self.remove_absence_at(place));
                if self.absences.epoch(place.table) != epoch {
                    self.absence_expiry_place.bucket = 0;
                    continue;
                }
            }
            self.absence_expiry_place = self.absences.next_place(place);
            if self.absence_expiry_place == Place::default() {
                break;
            }
        }
    }
}
