//! The blocks of one shard by key: many small hash tables that grow one at a time.
//!
//! One large table doubles by moving everything at once, which stops the shard for as long as that takes. Here a table holds
//! about [`TABLE_LEN_MEAN`] blocks; when the mean passes that, one table is split in two (linear hashing, Litwin 1980), so
//! the worst insert moves one table. The number of a block's table comes from the hash, not from a directory:
//!
//! ```text
//!     hash bits  63…57                 43…32    31…12            11…0
//!                hashbrown's tag       shard    table number     position in the table
//! ```
//!
//! Tables are split in order of their number, and the half that moves goes to a new table with the highest number. The cycle of
//! expiry relies on that: blocks move to higher numbers only. A table that becomes sparse gives buckets back; the number of tables
//! falls only by [`Tables::take`].

use crate::entry::{Block, Key};
use crate::settings::Db;
use ahash::RandomState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

/// Blocks per table, on average, from which on tables are split. Those not yet split in a round hold up to twice as many:
/// 1600 and 4.7 standard deviations of 40 fit in the 1792 that hashbrown puts in 2048 buckets. A split touches each block,
/// so this bounds how long an insert can take: about 1600 cache misses that do not wait for each other.
const TABLE_LEN_MEAN: usize = 800;

/// A table with less than one block in so many buckets gives buckets back, unless it is small already.
const SPARSE: usize = 8;
const SPARSE_BUCKETS_MIN: usize = 64;

/// Blocks fetched ahead by who walks through a table: about as many misses as a core has in flight.
pub(crate) const FETCH_AHEAD: usize = 16;

const TABLE_SHIFT: u32 = 12;
const TABLE_BITS: u32 = 20;
const SHARD_SHIFT: u32 = 32;

/// Tables of a shard; past this, in the thousand millions of entries, they grow as hashbrown does.
const TABLES_MAX: usize = 1 << TABLE_BITS;

const _: () = assert!(TABLE_SHIFT + TABLE_BITS == SHARD_SHIFT);
const _: () = assert!(2 * TABLE_LEN_MEAN + 4 * 40 <= 2048 / 8 * 7 && 2048 <= 1 << TABLE_SHIFT);

/// The keyed hash of a key in its database.
#[inline]
pub(crate) fn hash_key(state: &RandomState, db: Db, key: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u8(db.0);
    hasher.write(key);
    hasher.finish()
}

/// The shard of a hash, of a number of shards that is a power of two, given as that number less one.
#[inline]
pub(crate) fn shard_of(hash: u64, shard_mask: usize) -> usize {
    (hash >> SHARD_SHIFT) as usize & shard_mask
}

/// Where a block lies. Valid until the next insert or removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: usize,
    pub(crate) bucket: usize,
}

/// The blocks of a shard.
#[derive(Debug)]
pub(crate) struct Tables {
    /// From 1 to [`TABLES_MAX`]; those from `tables.len() - round` to `round` are not yet split in this round.
    tables: Vec<Table>,
    /// Tables at the start of the round of splits under way, a power of two.
    round: usize,
    len: usize,
    /// Bytes of the tables, without the blocks.
    bytes: usize,
    epochs: u32,
    hash: RandomState,
}

#[derive(Debug)]
struct Table {
    blocks: HashTable<Block>,
    /// Changes whenever blocks may have changed their buckets.
    epoch: u32,
}

impl Tables {
    pub(crate) fn new(hash: RandomState) -> Self {
        let mut tables = Self { tables: Vec::new(), round: 1, len: 0, bytes: 0, epochs: 0, hash };
        tables.push(HashTable::new());
        tables
    }

    /// Takes all blocks out and leaves new, empty tables.
    pub(crate) fn take(&mut self) -> Self {
        let mut empty = Self::new(self.hash.clone());
        empty.epochs = self.epochs;
        empty.tables[0].epoch = empty.next_epoch();
        std::mem::replace(self, empty)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the tables, without the blocks.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline]
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<Place> {
        let table = self.table_of(key.hash);
        let bucket = self.tables[table].blocks.find_bucket_index(key.hash, |block| block.is(key))?;
        Some(Place { table, bucket })
    }

    /// The block at a place, if there is one.
    #[inline]
    pub(crate) fn at(&self, place: Place) -> Option<&Block> {
        self.tables.get(place.table)?.blocks.get_bucket(place.bucket)
    }

    /// Adds the block of a key that is not in the tables.
    pub(crate) fn insert(&mut self, hash: u64, block: Block) -> Place {
        if self.len >= self.tables.len() * TABLE_LEN_MEAN && self.tables.len() < TABLES_MAX {
            self.split();
        }
        let number = self.table_of(hash);
        if self.tables[number].blocks.len() == self.tables[number].blocks.capacity() {
            self.rebuild(number);
        }
        let (table, state) = (&mut self.tables[number], &self.hash);
        let bucket = table.blocks.insert_unique(hash, block, |block| hash_block(state, block)).bucket_index();
        self.len += 1;
        Place { table: number, bucket }
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<Block> {
        let table = self.tables.get_mut(place.table)?;
        let (block, _) = table.blocks.get_bucket_entry(place.bucket).ok()?.remove();
        self.len -= 1;
        self.shrink_if_sparse(place.table);
        Some(block)
    }

    /// Takes the blocks that `wanted` accepts out of one table.
    pub(crate) fn extract(&mut self, number: usize, mut wanted: impl FnMut(&Block) -> bool) -> Vec<Block> {
        let Some(table) = self.tables.get_mut(number) else { return Vec::new() };
        let taken: Vec<Block> = table.blocks.extract_if(|block| wanted(block)).collect();
        self.len -= taken.len();
        self.shrink_if_sparse(number);
        taken
    }

    /// Number of tables.
    pub(crate) fn count(&self) -> usize {
        self.tables.len()
    }

    /// Buckets of a table; 0 past the last.
    pub(crate) fn buckets(&self, table: usize) -> usize {
        self.tables.get(table).map_or(0, |table| table.blocks.num_buckets())
    }

    /// A number that changes whenever blocks of the table may have changed their buckets; 0 past the last table.
    pub(crate) fn epoch(&self, table: usize) -> u32 {
        self.tables.get(table).map_or(0, |table| table.epoch)
    }

    /// A place chosen at random, each block's bucket about as likely as any other's; it may be empty.
    pub(crate) fn place_by_chance(&self, random: u64) -> Place {
        let table = self.table_of(random);
        // Bits above those that chose the table; the number of buckets is a power of two.
        let bucket = (random >> SHARD_SHIFT) as usize & (self.buckets(table) - 1);
        Place { table, bucket }
    }

    /// The place after this one, round and round.
    pub(crate) fn next_place(&self, place: Place) -> Place {
        if place.bucket + 1 < self.buckets(place.table) {
            Place { table: place.table, bucket: place.bucket + 1 }
        } else if place.table + 1 < self.tables.len() {
            Place { table: place.table + 1, bucket: 0 }
        } else {
            Place::default()
        }
    }

    #[inline]
    fn table_of(&self, hash: u64) -> usize {
        let number = hash >> TABLE_SHIFT;
        let wide = number as usize & (2 * self.round - 1);
        if wide < self.tables.len() { wide } else { wide & (self.round - 1) }
    }

    #[inline]
    fn shrink_if_sparse(&mut self, number: usize) {
        let blocks = &self.tables[number].blocks;
        if blocks.len() < blocks.num_buckets() / SPARSE && blocks.num_buckets() >= SPARSE_BUCKETS_MIN {
            self.rebuild(number);
        }
    }

    /// Gives a table room for a quarter more than it has: twice the buckets if it is full, as many if removals left its
    /// buckets unusable, fewer if it is sparse.
    #[cold]
    fn rebuild(&mut self, number: usize) {
        let blocks = self.clear(number);
        let mut rebuilt = HashTable::with_capacity(blocks.len() + blocks.len() / 4 + 1);
        self.for_each_hash(blocks, |hash, block| {
            rebuilt.insert_unique(hash, block, |_| unreachable!("the table has room for all"));
        });
        self.put(number, rebuilt);
    }

    #[cold]
    fn split(&mut self) {
        let number = self.tables.len() - self.round;
        let blocks = self.clear(number);
        let moving = (self.round << TABLE_SHIFT) as u64;
        // Half of the blocks, and room for their spread.
        let capacity = blocks.len() / 2 + blocks.len() / 16;
        let mut halves = [HashTable::with_capacity(capacity), HashTable::with_capacity(capacity)];
        let state = &self.hash;
        self.for_each_hash(blocks, |hash, block| {
            let half = usize::from(hash & moving != 0);
            halves[half].insert_unique(hash, block, |block| hash_block(state, block));
        });
        let [stay, go] = halves;
        self.put(number, stay);
        self.push(go);
        if self.tables.len() == 2 * self.round {
            self.round *= 2;
        }
    }

    /// Hands over the blocks with their hashes. Each must be read for that: they are fetched some steps ahead.
    fn for_each_hash(&self, blocks: Vec<Block>, mut take: impl FnMut(u64, Block)) {
        blocks.iter().take(FETCH_AHEAD).for_each(Block::prefetch);
        let mut blocks = blocks.into_iter();
        while let Some(block) = blocks.next() {
            if let Some(ahead) = blocks.as_slice().get(FETCH_AHEAD - 1) {
                ahead.prefetch();
            }
            take(hash_block(&self.hash, &block), block);
        }
    }

    /// Empties a table.
    fn clear(&mut self, number: usize) -> Vec<Block> {
        let blocks = std::mem::take(&mut self.tables[number].blocks);
        self.bytes -= blocks.allocation_size();
        blocks.into_iter().collect()
    }

    fn put(&mut self, number: usize, blocks: HashTable<Block>) {
        self.bytes += blocks.allocation_size();
        self.tables[number] = Table { blocks, epoch: self.next_epoch() };
    }

    fn push(&mut self, blocks: HashTable<Block>) {
        let epoch = self.next_epoch();
        let capacity_before = self.tables.capacity();
        self.bytes += blocks.allocation_size();
        self.tables.push(Table { blocks, epoch });
        self.bytes += (self.tables.capacity() - capacity_before) * size_of::<Table>();
    }

    fn next_epoch(&mut self) -> u32 {
        self.epochs = self.epochs.wrapping_add(1);
        self.epochs
    }
}

#[inline]
fn hash_block(state: &RandomState, block: &Block) -> u64 {
    hash_key(state, block.db(), block.key())
}
