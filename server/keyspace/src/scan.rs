//! Stepping through the entries of a database, and picking one at random.
//!
//! A cursor is a shard and a position in its index:
//!
//! ```text
//!     bit 63   62…51    50…0
//!          0   shard    position, see [`Index::step`]
//! ```
//!
//! Positions go through the buckets in an order that splits and joins do not disturb. So an entry that is there from the first
//! call to the last is visited at least once, and sometimes twice, as in Redis. A step goes to the end of a position: a call
//! may show some 20 entries more than it was asked for.
//!
//! [`Index::step`]: crate::index::Index::step

use crate::keyspace::{Entry, Keyspace};
use crate::log::Location;
use crate::settings::Db;
use crate::shard::Shard;
use crate::turn::Turn;

const POSITION_BITS: u32 = 51;
const SHARD_BITS: u32 = 12;

const _: () = assert!(POSITION_BITS + SHARD_BITS == 63);

/// Positions cost so much less to visit than entries that a step may pass this many without one.
const EMPTY_POSITIONS_PER_STEP: usize = 8;

/// Buckets tried before [`Keyspace::random_key`] walks through the shard.
const RANDOM_TRIES: usize = 64;

/// Places in a bucket and its overflow that are drawn from, so that all entries are about as likely whatever their bucket
/// holds.
const PLACES: u64 = 32;

impl Keyspace {
    /// Steps through the fresh entries of `db`, about `count` entries of all databases a call. Cursor 0 starts and ends. An
    /// entry present from the first call to the last is visited at least once. A cursor made up by the caller does no harm.
    pub fn scan(&self, turn: &mut Turn, db: Db, cursor: u64, count: usize, mut visit: impl FnMut(Entry<'_>)) -> u64 {
        let mut index = (cursor >> POSITION_BITS) as usize & ((1 << SHARD_BITS) - 1);
        let mut position = cursor & ((1 << POSITION_BITS) - 1);
        let mut budget = count.max(1).saturating_mul(EMPTY_POSITIONS_PER_STEP);
        while index < self.shards() {
            let shard = self.lock(index);
            while shard.count(db).entries > 0 {
                if budget == 0 {
                    return (index as u64) << POSITION_BITS | position;
                }
                position = shard.index.step(position, |location| {
                    budget = budget.saturating_sub(EMPTY_POSITIONS_PER_STEP);
                    if is_visible(&shard, location, db, turn.now_ms) {
                        visit(shard.view(location, turn.now_ms));
                    }
                });
                budget = budget.saturating_sub(1);
                if position == 0 {
                    break;
                }
            }
            position = 0;
            index += 1;
        }
        0
    }

    /// A fresh entry of `db` chosen at random.
    pub fn random_key(&self, turn: &mut Turn, db: Db) -> Option<Vec<u8>> {
        let first = turn.random() as usize;
        let now_ms = turn.now_ms;
        (0..self.shards()).find_map(|step| {
            let shard = self.lock(first.wrapping_add(step) % self.shards());
            if shard.count(db).entries == 0 {
                return None;
            }
            let key = |location| shard.entry(location).key().to_vec();
            let mut found = Vec::new();
            for _ in 0..RANDOM_TRIES {
                found.clear();
                shard.index.by_chance(turn.random(), |location| found.push(location));
                let drawn = found.get((turn.random() % PLACES) as usize);
                if let Some(&location) = drawn.filter(|&&location| is_visible(&shard, location, db, now_ms)) {
                    return Some(key(location));
                }
            }
            let mut position = 0;
            loop {
                found.clear();
                position = shard.index.step(position, |location| found.push(location));
                if let Some(&location) = found.iter().find(|&&location| is_visible(&shard, location, db, now_ms)) {
                    return Some(key(location));
                }
                if position == 0 {
                    return None;
                }
            }
        })
    }
}

fn is_visible(shard: &Shard, location: Location, db: Db, now_ms: u64) -> bool {
    let entry = shard.entry(location);
    entry.db() == db && entry.is_fresh(now_ms) && shard.bump_of(&entry).is_none()
}
