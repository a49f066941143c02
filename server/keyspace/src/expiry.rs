//! Removing what is over without anybody asking for it, and flushing.
//!
//! Expiry is lazy first: who finds an entry past its time removes it. The cycle here finds those that nobody asks for, a few
//! hundred buckets per lock, round and round.

use crate::eviction::EVICTIONS_PER_CYCLE;
use crate::keyspace::Keyspace;
use crate::settings::Db;
use crate::shard::Shard;
use crate::table::{FETCH_AHEAD, Place};
use crate::turn::Turn;
use std::ops::Range;

/// Buckets looked at under one lock: some 10 µs when no block is in the cache.
const STEPS_PER_LOCK: usize = 256;

impl Keyspace {
    /// Removes expired entries and absences for a share of the shards; called about every 100 ms by each thread. Looks at no
    /// more than `steps_max` table positions. Returns how many entries it removed. While the memory limit is passed, because
    /// it was lowered, evicts a bounded number of entries of all shards too.
    pub fn expire_cycle(&self, turn: &mut Turn, shards: Range<usize>, steps_max: usize) -> usize {
        let shards = shards.start.min(self.shards())..shards.end.min(self.shards());
        let mut removed = 0;
        let mut steps_left = steps_max;
        let mut done = 0;
        let mut next = turn.random() as usize;
        // Shard after shard, a part of each, until the steps are used up or all shards in a row came to their end: one full of
        // entries does not use up what is there for all, and small ones are not walked over and over.
        while done < shards.len() && steps_left > 0 {
            let mut shard = self.lock(shards.start + next % shards.len());
            next = next.wrapping_add(1);
            removed += shard.expire_entries(turn.now_ms, &mut steps_left);
            shard.expire_absences(turn.now_ms, &mut steps_left);
            done = if shard.is_expiry_at_start() { done + 1 } else { 0 };
        }
        self.evict_slice(turn, EVICTIONS_PER_CYCLE.min(steps_max));
        removed
    }

    /// Removes all entries and absences of one database or of all, and revokes their leases.
    pub fn flush(&self, turn: &mut Turn, db: Option<Db>) {
        for index in 0..self.shards() {
            match db {
                None => self.flush_shard(turn, index),
                Some(db) => self.flush_database(turn, index, db),
            }
        }
    }

    fn flush_shard(&self, turn: &mut Turn, index: usize) {
        let mut shard = self.lock(index);
        shard.revoke_all_leases(None, turn);
        let tables = shard.take_all();
        shard.publish();
        drop(shard);
        drop(tables);
    }

    /// Table by table, so that no lock is held for longer than one of them takes. Leases are revoked at both ends: a token
    /// issued in between may stand for an entry that is about to go.
    fn flush_database(&self, turn: &mut Turn, index: usize, db: Db) {
        let mut shard = self.lock(index);
        shard.revoke_all_leases(Some(db), turn);
        if shard.count(db).entries == shard.entries.len() && shard.absences.is_empty() {
            let tables = shard.take_all();
            shard.publish();
            drop(shard);
            drop(tables);
            return;
        }
        let mut table = 0;
        // Splits in between move blocks to higher tables only.
        while table < shard.entries.count().max(shard.absences.count()) {
            if shard.count(db).entries == 0 && shard.absences.is_empty() {
                break;
            }
            let taken = (shard.take_entries(table, db), shard.take_absences(table, db));
            table += 1;
            if taken.0.is_empty() && taken.1.is_empty() {
                continue;
            }
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
            self.leases.revoke_all(db, || versions.next(), turn.now_ms, &mut turn.effects);
        }
    }

    /// Removes entries that are gone by time among the next few; returns how many.
    fn expire_entries(&mut self, now_ms: u64, steps_left: &mut usize) -> usize {
        if self.count_with_ttl() == 0 {
            self.expiry_place = Place::default();
            return 0;
        }
        let mut removed = 0;
        let mut ahead = self.expiry_place;
        for _ in 0..FETCH_AHEAD {
            ahead = self.fetch_and_next(ahead);
        }
        for _ in 0..STEPS_PER_LOCK.min(*steps_left) {
            *steps_left -= 1;
            ahead = self.fetch_and_next(ahead);
            let place = self.expiry_place;
            if self.entries.at(place).is_some_and(|block| block.is_gone(now_ms)) {
                let epoch = self.entries.epoch(place.table);
                self.expire(place);
                removed += 1;
                if self.entries.epoch(place.table) != epoch {
                    // The table became sparse and was rebuilt.
                    self.expiry_place.bucket = 0;
                    continue;
                }
            }
            self.expiry_place = self.entries.next_place(place);
            if self.expiry_place == Place::default() {
                break;
            }
        }
        removed
    }

    fn fetch_and_next(&self, place: Place) -> Place {
        if let Some(block) = self.entries.at(place) {
            block.prefetch();
        }
        self.entries.next_place(place)
    }

    /// Whether the walks through entries and absences are about to start anew.
    fn is_expiry_at_start(&self) -> bool {
        self.expiry_place == Place::default() && self.absence_expiry_place == Place::default()
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
