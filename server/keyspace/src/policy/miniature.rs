//! A cache in miniature: the whole policy over queues of numbers, without keys, values and memory of entries.
//!
//! [`super::window`] runs some of these beside the real cache, each with another window, on a sample of the keys (Waldspurger
//! and others 2017), to see which would have done best. It is also the model that the engine's decisions are tested against.
//!
//! ```text
//!     store ──► window ──► duel ──► probation ──► evicted
//!                 ▲  │       ▲          │ used          ▲
//!            used └──┘       │          ▼               │ lost the duel
//!                            └────── protected          │
//! ```
//!
//! All queues are in order of arrival; a hit only marks its entry. What was used since goes on when it reaches the end: in
//! the window back to its start, from probation to protected, in protected back to its start.

use super::ageing::Ageing;
use super::duel::{Control, Objective, Rated, candidate_wins};
use super::sketch::Sketch;
use hashbrown::HashTable;

/// The protected queue holds at most so much of the main part; over it its oldest entry goes back to probation.
pub const PROTECTED_PERCENT: u64 = 80;

/// A candidate is evicted when so many victims have stood against it. Each of these goes back to the start of probation, so
/// that the next candidate meets another.
pub const ROTATIONS_MAX: usize = 2;

/// Used entries passed over in search of one victim; then an entry goes although it was used. Bounds the work of an eviction.
pub const PASSES_MAX: usize = 8;

/// Which share of the capacity the window has, and how hard the duel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of the capacity.
    pub window_per_mille: u16,
    /// See [`candidate_wins`].
    pub margin: u8,
}

impl Share {
    /// Bytes of the window in a cache of this capacity; not none, because a window of nothing would let no new key in.
    #[inline]
    #[must_use]
    pub fn window_bytes_max(self, capacity_bytes: u64) -> u64 {
        (u128::from(capacity_bytes) * u128::from(self.window_per_mille) / 1000).max(1) as u64
    }
}

/// A request for a key of this hash, which costs so many bytes if it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Keys are told apart by these bits of their hash alone.
    key: u32,
    bytes: u32,
    /// Zero bits the hash starts with: keys of rank r and above are one in 2^r.
    rank: u8,
}

impl Request {
    /// Of a keyed hash.
    #[inline]
    #[must_use]
    pub fn new(hash: u64, bytes: u32) -> Self {
        Self { key: hash as u32, bytes, rank: hash.leading_zeros() as u8 }
    }

    /// Bytes of the entry.
    #[inline]
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.bytes
    }

    /// Zero bits the hash starts with.
    #[inline]
    #[must_use]
    pub fn rank(self) -> u8 {
        self.rank
    }
}

/// A cache of sizes.
#[derive(Debug)]
pub struct Miniature {
    capacity_bytes: u64,
    share: Share,
    objective: Objective,
    /// Resident entries and, linked by `next` from `vacant`, free places.
    entries: Vec<Entry>,
    vacant: u32,
    index: HashTable<u32>,
    queues: [Queue; 3],
    sketch: Sketch,
    ageing: Ageing,
}

/// 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u32,
    bytes: u32,
    /// The next younger entry of the queue.
    next: u32,
    control: Control,
    queue: QueueName,
    rank: u8,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// Ends the lists of `next`.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueName {
    Window,
    Probation,
    Protected,
}

use QueueName::{Probation, Protected, Window};

#[derive(Clone, Copy, Debug)]
struct Queue {
    oldest: u32,
    youngest: u32,
    bytes: u64,
}

const EMPTY: Queue = Queue { oldest: NONE, youngest: NONE, bytes: 0 };

impl Miniature {
    /// An empty cache.
    #[must_use]
    pub fn new(capacity_bytes: u64, share: Share, objective: Objective) -> Self {
        Self {
            capacity_bytes,
            share,
            objective,
            entries: Vec::new(),
            vacant: NONE,
            index: HashTable::new(),
            queues: [EMPTY; 3],
            sketch: Sketch::new(0),
            ageing: Ageing::default(),
        }
    }

    /// Looks the key up and stores it if it is not there. Whether it was there.
    pub fn request(&mut self, request: Request) -> bool {
        self.ageing.count(self.index.len(), &mut self.sketch);
        if let Some(at) = self.find(request.key) {
            self.touch(at, request.bytes);
            return true;
        }
        if u64::from(request.bytes) <= self.capacity_bytes {
            self.store(request);
        }
        false
    }

    /// Drops the keys below this rank and forgets them.
    pub fn retain_rank(&mut self, rank: u8) {
        for name in [Window, Probation, Protected] {
            let mut next = std::mem::replace(&mut self.queues[name as usize], EMPTY).oldest;
            while let Some(&entry) = self.entries.get(next as usize) {
                if entry.rank >= rank {
                    self.push(name, next);
                } else {
                    self.remove(next);
                }
                next = entry.next;
            }
        }
        self.sketch.shrink_to(self.index.len());
    }

    /// Changes window and margin; what does not fit the new share goes.
    pub fn set_share(&mut self, share: Share) {
        self.share = share;
        self.make_room();
    }

    /// Changes the capacity; what does not fit goes.
    pub fn set_capacity(&mut self, capacity_bytes: u64) {
        self.capacity_bytes = capacity_bytes;
        self.make_room();
    }

    /// Changes what the duels are about from now on.
    pub fn set_objective(&mut self, objective: Objective) {
        self.objective = objective;
    }

    /// Resident entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes that the resident entries may have.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Bytes of the resident entries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.queues.iter().map(|queue| queue.bytes).sum()
    }

    /// Bytes of memory that this takes itself.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let index = self.index.capacity() * (size_of::<u32>() + 1) * 8 / 7;
        self.entries.capacity() * size_of::<Entry>() + index + self.sketch.memory_bytes()
    }

    fn touch(&mut self, at: u32, bytes: u32) {
        let epoch = self.ageing.epoch();
        let entry = &mut self.entries[at as usize];
        entry.control = entry.control.touched(epoch);
        if entry.bytes != bytes {
            let queue = &mut self.queues[entry.queue as usize];
            queue.bytes = queue.bytes - u64::from(entry.bytes) + u64::from(bytes);
            entry.bytes = bytes;
            self.make_room();
        }
    }

    fn store(&mut self, request: Request) {
        let Request { key, bytes, rank } = request;
        let control = Control::stored(self.sketch.estimate(key.into()), self.ageing.epoch());
        let at = self.place(Entry { key, bytes, next: NONE, control, queue: Window, rank });
        self.index.insert_unique(hash_of(key), at, |&at| hash_of(self.entries[at as usize].key));
        self.sketch.grow_to(self.index.len());
        // An entry that is larger than the window would push everything out of it and then go itself.
        if u64::from(bytes) > self.window_bytes_max() {
            self.admit(at);
        } else {
            self.push(Window, at);
        }
        self.make_room();
    }

    /// Until the window holds no more than its share, and all no more than the capacity.
    fn make_room(&mut self) {
        let mut passes = 0;
        while self.queue(Window).bytes > self.window_bytes_max() {
            let at = self.pop(Window).expect("its bytes are those of entries");
            if self.pass(at, &mut passes) {
                self.push(Window, at);
            } else {
                self.admit(at);
            }
        }
        while self.bytes() > self.capacity_bytes {
            let victim = self.pop_victim().or_else(|| self.pop(Window)).expect("bytes are those of entries");
            self.evict(victim);
        }
    }

    /// The duel for a place in the main part. The candidate is in no queue.
    fn admit(&mut self, candidate: u32) {
        let bytes = self.rated(candidate).bytes;
        if u64::from(bytes) > self.main_bytes_max() {
            return self.evict(candidate);
        }
        let mut rotations = 0;
        while self.queue(Probation).bytes + self.queue(Protected).bytes + u64::from(bytes) > self.main_bytes_max() {
            let victim = self.pop_victim().expect("the candidate would fit an empty main part");
            if candidate_wins(self.rated(candidate), self.rated(victim), self.share.margin, self.objective) {
                self.evict(victim);
                continue;
            }
            self.push(Probation, victim);
            rotations += 1;
            if rotations == ROTATIONS_MAX {
                return self.evict(candidate);
            }
        }
        self.push(Probation, candidate);
    }

    /// The oldest entry of the main part that was not used since it was last looked at.
    fn pop_victim(&mut self) -> Option<u32> {
        let mut passes = 0;
        while let Some(at) = self.pop(Probation) {
            if !self.pass(at, &mut passes) {
                return Some(at);
            }
            self.push(Protected, at);
            self.demote();
        }
        while let Some(at) = self.pop(Protected) {
            if !self.pass(at, &mut passes) {
                return Some(at);
            }
            self.push(Protected, at);
        }
        None
    }

    /// Until the protected queue holds no more than its share.
    fn demote(&mut self) {
        let protected_bytes_max = self.main_bytes_max() * PROTECTED_PERCENT / 100;
        let mut passes = 0;
        while self.queue(Protected).bytes > protected_bytes_max {
            let at = self.pop(Protected).expect("its bytes are those of entries");
            let queue = if self.pass(at, &mut passes) { Protected } else { Probation };
            self.push(queue, at);
        }
    }

    /// Whether an entry at the end of its queue goes on because it was used; if not, or after too many, it does not.
    fn pass(&mut self, at: u32, passes: &mut usize) -> bool {
        let epoch = self.ageing.epoch();
        let entry = &mut self.entries[at as usize];
        let goes_on = entry.control.is_visited() && *passes < PASSES_MAX;
        entry.control = entry.control.unvisited(epoch);
        *passes += usize::from(goes_on);
        goes_on
    }

    /// Forgets an entry that is in no queue, but not how often it was used.
    fn evict(&mut self, at: u32) {
        let Rated { frequency, .. } = self.rated(at);
        let Entry { key, .. } = self.entries[at as usize];
        self.sketch.raise_to(key.into(), frequency);
        self.remove(at);
    }

    /// Forgets an entry that is in no queue.
    fn remove(&mut self, at: u32) {
        let Entry { key, .. } = self.entries[at as usize];
        if let Ok(found) = self.index.find_entry(hash_of(key), |&other| other == at) {
            found.remove();
        }
        self.entries[at as usize].next = self.vacant;
        self.vacant = at;
    }

    fn rated(&self, at: u32) -> Rated {
        let entry = &self.entries[at as usize];
        Rated { frequency: entry.control.frequency(self.ageing.epoch()), bytes: entry.bytes }
    }

    fn window_bytes_max(&self) -> u64 {
        self.share.window_bytes_max(self.capacity_bytes)
    }

    fn main_bytes_max(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.window_bytes_max())
    }

    fn find(&self, key: u32) -> Option<u32> {
        self.index.find(hash_of(key), |&at| self.entries[at as usize].key == key).copied()
    }

    fn queue(&self, name: QueueName) -> &Queue {
        &self.queues[name as usize]
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if self.vacant == NONE {
            self.entries.push(entry);
            return (self.entries.len() - 1) as u32;
        }
        let at = self.vacant;
        self.vacant = self.entries[at as usize].next;
        self.entries[at as usize] = entry;
        at
    }

    fn push(&mut self, name: QueueName, at: u32) {
        let queue = &mut self.queues[name as usize];
        let entry = &mut self.entries[at as usize];
        entry.queue = name;
        entry.next = NONE;
        queue.bytes += u64::from(entry.bytes);
        let before = std::mem::replace(&mut queue.youngest, at);
        match before {
            NONE => queue.oldest = at,
            before => self.entries[before as usize].next = at,
        }
    }

    fn pop(&mut self, name: QueueName) -> Option<u32> {
        let queue = &mut self.queues[name as usize];
        let at = queue.oldest;
        let entry = self.entries.get(at as usize)?;
        queue.oldest = entry.next;
        if queue.oldest == NONE {
            queue.youngest = NONE;
        }
        queue.bytes -= u64::from(entry.bytes);
        Some(at)
    }
}

/// Keys are parts of a keyed hash already; the table wants their entropy in its high bits too.
fn hash_of(key: u32) -> u64 {
    u64::from(key).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    impl Miniature {
        fn check(&self) {
            let mut keys = HashSet::new();
            for name in [Window, Probation, Protected] {
                let mut at = self.queue(name).oldest;
                let mut bytes = 0;
                let mut youngest = NONE;
                while at != NONE {
                    let entry = &self.entries[at as usize];
                    assert_eq!(entry.queue, name);
                    assert!(keys.insert(entry.key), "{} is in two places", entry.key);
                    assert_eq!(self.find(entry.key), Some(at));
                    bytes += u64::from(entry.bytes);
                    youngest = at;
                    at = entry.next;
                }
                assert_eq!((bytes, youngest), (self.queue(name).bytes, self.queue(name).youngest));
            }
            assert_eq!(keys.len(), self.len());
            assert!(self.bytes() <= self.capacity_bytes, "{} of {}", self.bytes(), self.capacity_bytes);
            assert!(self.queue(Window).bytes <= self.window_bytes_max(), "the window keeps its share");
            assert!(self.sketch.blocks() * crate::policy::sketch::ENTRIES_PER_BLOCK >= self.len());
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Request(u64, u32),
        Share(Share),
        Capacity(u64),
        Retain(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            40 => (0..200_u64, 1..300_u32).prop_map(|(key, bytes)| Step::Request(key, bytes)),
            1 => (0..=1000_u16, 0..2_u8)
                .prop_map(|(window_per_mille, margin)| Step::Share(Share { window_per_mille, margin })),
            1 => (0..5000_u64).prop_map(Step::Capacity),
            1 => (0..4_u8).prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn queues_index_and_bytes_agree_whatever_happens(steps in prop::collection::vec(step(), 0..600)) {
            let share = Share { window_per_mille: 100, margin: 0 };
            let mut cache = Miniature::new(3000, share, Objective::Objects);
            for step in steps {
                match step {
                    // The rank of a key is that of its two highest bits.
                    Step::Request(key, bytes) => {
                        cache.request(Request::new(key << 62 | key, bytes));
                    }
                    Step::Share(share) => cache.set_share(share),
                    Step::Capacity(bytes) => cache.set_capacity(bytes),
                    Step::Retain(rank) => {
                        cache.retain_rank(rank);
                        prop_assert!(cache.index.iter().all(|&at| cache.entries[at as usize].rank >= rank));
                    }
                }
                cache.check();
            }
        }
    }
}
