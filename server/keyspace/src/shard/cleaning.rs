//! Moving entries of a shard together, where many beside them are dead.

use super::{Shard, hash_of};
use crate::log::PAGE_BYTES;
use crate::queues::KEPT;

/// Dead bytes are cleaned up once they are this part of what the log holds, and some segments.
const DEAD_PARTS: usize = 24;
const DEAD_SEGMENTS: usize = 2;

/// A segment whose entries would be copied elsewhere is cleaned up if it is dead by this part.
const KEPT_DEAD_PARTS: usize = 8;

impl Shard {
    /// Whether dead bytes are worth cleaning up. After a search in vain not until there are more by some segments: dead bytes
    /// spread thinly over all segments may pass the bound for good, and a search looks at every segment.
    #[inline]
    pub(crate) fn is_untidy(&self) -> bool {
        let segments = DEAD_SEGMENTS * self.log.segment_bytes();
        self.log.dead_bytes() > segments + (self.log.bytes() / DEAD_PARTS).max(self.dead_bytes_in_vain)
    }

    /// Whether a search for something to clean up may find it, for who needs every byte: since the last one in vain half a page
    /// has died.
    pub(crate) fn may_be_tidied(&self) -> bool {
        let grain = PAGE_BYTES.min(self.log.segment_bytes()) / 2;
        self.log.dead_bytes() >= grain + self.dead_bytes_in_vain
    }

    /// Cleans up the segment with the most dead bytes. Entries keep their order and what is known of their use; where order
    /// says nothing they fill up other segments. Whether there was something to gain.
    pub(crate) fn clean_up(&mut self, now_ms: u64) -> bool {
        let has_gained = self.clean_up_sparsest(now_ms);
        self.dead_bytes_in_vain = if has_gained { 0 } else { self.log.dead_bytes() };
        has_gained
    }

    /// To be called now and then: what has died since counts from what is dead now.
    pub(crate) fn forget_vain_search(&mut self) {
        self.dead_bytes_in_vain = self.dead_bytes_in_vain.min(self.log.dead_bytes());
    }

    fn clean_up_sparsest(&mut self, now_ms: u64) -> bool {
        let Some((number, dead_bytes)) = self.log.sparsest(KEPT) else { return false };
        let (_, list) = self.log.count_in_segment(number);
        if list != KEPT {
            let bytes_before = self.log.bytes();
            self.prefetch_places(number);
            let (log, index, state) = (&mut self.log, &mut self.index, &self.hash);
            log.compact(number, &mut |from, to, entry| index.relocate(hash_of(state, &entry), from, to));
            while let Some(next) = self.log.newer_that_fits(number) {
                self.prefetch_places(next);
                let (log, index, state) = (&mut self.log, &mut self.index, &self.hash);
                if !log.absorb(number, next, &mut |from, to, entry| index.relocate(hash_of(state, &entry), from, to)) {
                    break;
                }
            }
            return self.log.bytes() < bytes_before;
        }
        // Entries are copied for it, so it has to bring more than where they are moved together in place.
        if dead_bytes < self.log.segment_bytes() / KEPT_DEAD_PARTS {
            return false;
        }
        self.prefetch_places(number);
        let (log, index, state) = (&mut self.log, &mut self.index, &self.hash);
        let mut found = Vec::new();
        log.live_in(number, |location, entry| found.push((location, entry.control(), hash_of(state, &entry))));
        log.retire(number);
        for (location, control, hash) in found {
            let to = log.relocate(location, list, control, now_ms);
            index.relocate(hash, location, to);
        }
        true
    }

    /// Fetches the places in the index of all entries of a segment, side by side: to find each when it is moved would wait for memory each time, half a
    /// millisecond for a segment of small entries.
    fn prefetch_places(&self, number: u32) {
        self.log.live_in(number, |_, entry| self.index.prefetch(hash_of(&self.hash, &entry)));
    }
}
