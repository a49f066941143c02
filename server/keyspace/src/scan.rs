//! Stepping through the entries of a database, and picking one at random.
//!
//! A cursor is a place in a table and the table's epoch:
//!
//! ```text
//!     bit 63   62…51    50…31   30…19    18…0
//!          0   shard    table   bucket   epoch
//! ```
//!
//! Blocks keep their bucket while the epoch stays. If it has changed, the table is visited from its start, and to its end in
//! the same call, as a reply after that could not name a bucket that means the same again for long. Splits move blocks to
//! higher table numbers only, which are visited later. So an entry that is there from the first call to the last is visited at
//! least once, and sometimes twice, as in Redis.

use crate::entry::Block;
use crate::keyspace::{Entry, Keyspace};
use crate::settings::Db;
use crate::table::Place;
use crate::turn::Turn;

const EPOCH_BITS: u32 = 19;
const BUCKET_BITS: u32 = 12;
const TABLE_BITS: u32 = 20;
const SHARD_BITS: u32 = 12;

const _: () = assert!(EPOCH_BITS + BUCKET_BITS + TABLE_BITS + SHARD_BITS == 63);

/// An empty bucket costs so much less to visit than an entry that a step may pass this many.
const EMPTY_BUCKETS_PER_STEP: usize = 64;

/// Places tried before [`Keyspace::random_key`] walks through the shard.
const RANDOM_TRIES: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    shard: usize,
    place: Place,
    epoch: u32,
}

impl Cursor {
    fn decode(code: u64) -> Self {
        let field = |shift: u32, bits: u32| (code >> shift) & ((1 << bits) - 1);
        Self {
            shard: field(EPOCH_BITS + BUCKET_BITS + TABLE_BITS, SHARD_BITS) as usize,
            place: Place {
                table: field(EPOCH_BITS + BUCKET_BITS, TABLE_BITS) as usize,
                bucket: field(EPOCH_BITS, BUCKET_BITS) as usize,
            },
            epoch: field(0, EPOCH_BITS) as u32,
        }
    }

    fn encode(self) -> u64 {
        let shard = (self.shard as u64) << (EPOCH_BITS + BUCKET_BITS + TABLE_BITS);
        let table = (self.place.table as u64) << (EPOCH_BITS + BUCKET_BITS);
        let bucket = (self.place.bucket as u64) << EPOCH_BITS;
        shard | table | bucket | u64::from(self.epoch)
    }
}

/// The part of an epoch that a cursor has room for.
fn epoch_code(epoch: u32) -> u32 {
    epoch & ((1 << EPOCH_BITS) - 1)
}

impl Keyspace {
    /// Steps through the fresh entries of `db`, about `count` entries of all databases a call. Cursor 0 starts and ends. An
    /// entry present from the first call to the last is visited at least once. A cursor made up by the caller does no harm.
    pub fn scan(&self, turn: &mut Turn, db: Db, cursor: u64, count: usize, mut visit: impl FnMut(Entry<'_>)) -> u64 {
        let mut cursor = Cursor::decode(cursor);
        let mut budget = count.max(1).saturating_mul(EMPTY_BUCKETS_PER_STEP);
        while cursor.shard < self.shards() {
            let shard = self.lock(cursor.shard);
            if shard.count(db).entries > 0 {
                while cursor.place.table < shard.entries.count() {
                    let table = cursor.place.table;
                    let epoch = epoch_code(shard.entries.epoch(table));
                    let must_finish = cursor.place.bucket > 0 && cursor.epoch != epoch;
                    let from = if must_finish { 0 } else { cursor.place.bucket };
                    for bucket in from..shard.entries.buckets(table) {
                        if budget == 0 && !must_finish && bucket < 1 << BUCKET_BITS {
                            return Cursor { place: Place { table, bucket }, epoch, ..cursor }.encode();
                        }
                        match shard.entries.at(Place { table, bucket }) {
                            None => budget = budget.saturating_sub(1),
                            Some(block) => {
                                budget = budget.saturating_sub(EMPTY_BUCKETS_PER_STEP);
                                if is_visible(block, db, turn.now_ms) {
                                    visit(block.view(turn.now_ms));
                                }
                            }
                        }
                    }
                    cursor.place = Place { table: table + 1, bucket: 0 };
                }
            }
            cursor = Cursor { shard: cursor.shard + 1, ..Cursor::default() };
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
            let visible = |place| shard.entries.at(place).filter(|block| is_visible(block, db, now_ms));
            let mut place = Place::default();
            for _ in 0..RANDOM_TRIES {
                place = shard.entries.place_by_chance(turn.random());
                if let Some(block) = visible(place) {
                    return Some(block.key().to_vec());
                }
            }
            let start = place;
            loop {
                if let Some(block) = visible(place) {
                    return Some(block.key().to_vec());
                }
                place = shard.entries.next_place(place);
                if place == start {
                    return None;
                }
            }
        })
    }
}

fn is_visible(block: &Block, db: Db, now_ms: u64) -> bool {
    block.db() == db && block.is_fresh(now_ms)
}
