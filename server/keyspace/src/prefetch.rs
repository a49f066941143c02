//! The memory of the keys of a pipeline, fetched side by side before its commands are run.

use crate::guard::guard;
use crate::keyspace::Keyspace;
use crate::settings::Db;
use crate::table::hash_key;

/// Keys that [`Keyspace::prefetch`] looks at: about as many misses as a core has in flight, and 16 blocks of two lines fit in
/// the first-level cache many times.
pub const PREFETCH_KEYS_MAX: usize = 16;

/// From what size of the keyspace fetching ahead pays: what the second-level cache of a core holds.
const PREFETCH_BYTES_MIN: u64 = 2 << 20;

/// A key to be fetched.
#[derive(Clone, Copy, Default)]
struct Wanted {
    hash: u64,
    shard: usize,
    /// The first key of the same shard, which has the guard.
    first: usize,
}

impl Keyspace {
    /// Fetches what reads of these keys will need, side by side, for a pipeline whose commands come next: at most the first
    /// [`PREFETCH_KEYS_MAX`]. A hint without effect on what is stored, so a key may be guessed. Does nothing for a keyspace so
    /// small that its memory is at hand anyway.
    pub fn prefetch<'k>(&self, db: Db, keys: impl Iterator<Item = &'k [u8]>) {
        if self.memory.used_bytes() < PREFETCH_BYTES_MIN {
            return;
        }
        let mut wanted = [Wanted::default(); PREFETCH_KEYS_MAX];
        let mut count = 0;
        for (index, (place, key)) in wanted.iter_mut().zip(keys).enumerate() {
            let hash = hash_key(&self.hash, db, key);
            *place = Wanted { hash, shard: self.shard_number(hash), first: index };
            count += 1;
        }
        let wanted = &mut wanted[..count];
        // All locks first: taking one waits for what the processor has under way, and would fetch one key after the other.
        // A shard that is busy is left out.
        let mut guards = [const { None }; PREFETCH_KEYS_MAX];
        // A bit for each shard so far, modulo 64: most keys are the first of theirs.
        let mut seen = 0u64;
        for index in 0..count {
            let shard = wanted[index].shard;
            let bit = 1 << (shard % 64);
            if seen & bit != 0
                && let Some(first) = wanted[..index].iter().position(|before| before.shard == shard)
            {
                wanted[index].first = first;
                continue;
            }
            seen |= bit;
            guards[index] = self.shards[shard].try_lock().ok().map(guard);
        }
        let locked = || wanted.iter().filter_map(|key| guards[key.first].as_ref().map(|shard| (shard, key.hash)));
        locked().for_each(|(shard, hash)| shard.index.prefetch(hash));
        locked().for_each(|(shard, hash)| shard.prefetch_entry(hash));
    }
}
