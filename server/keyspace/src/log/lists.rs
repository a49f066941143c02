//! The lists of a log: which segments are in them, where entries are added, and which entry is the oldest.
//!
//! Segments are linked by their numbers. Only the newest of a list may be open; a segment is closed for good once its entries
//! are asked for, or it is put into another place.

use super::{ListNumber, Location, Log, NONE, Segment};

impl Log {
    /// The oldest entry of a list. Whoever asks must move or remove it before asking again, or gets it again. Nothing is added
    /// to the segment that it is in any more.
    pub(crate) fn oldest(&mut self, list: ListNumber) -> Option<Location> {
        loop {
            let number = self.lists[usize::from(list.0)].oldest;
            if number == NONE {
                return None;
            }
            self.close(list, number);
            let segment = &mut self.segments[number as usize];
            if segment.live_count == 0 {
                self.free(number);
                continue;
            }
            let at = segment.next_live(segment.walked as usize, segment.used as usize);
            let at = at.expect("a segment with live entries has one after what was walked");
            segment.walked = at as u32;
            return Some(self.location(number, at));
        }
    }

    /// When the first entry of the oldest segment of a list is gone, if any has a time.
    pub(crate) fn oldest_gone_at_ms(&self, list: ListNumber) -> Option<u64> {
        let number = self.lists[usize::from(list.0)].oldest;
        (number != NONE).then(|| self.segments[number as usize].gone_at_ms_min)
    }

    /// Makes a segment of the list, chosen by a random number, its oldest.
    pub(crate) fn draw(&mut self, list: ListNumber, random: u64) {
        const TRIES: u64 = 16;

        // The walk of the one before is to be finished first.
        let oldest = self.lists[usize::from(list.0)].oldest;
        if oldest == NONE || self.segments[oldest as usize].walked > 0 {
            return;
        }
        for attempt in 0..TRIES {
            let number = (random.rotate_left(attempt as u32 * 4) >> 16) as usize % self.segments.len();
            let segment = &self.segments[number];
            if segment.memory.is_some()
                && self.labels.list(segment.label) == usize::from(list.0)
                && number as u32 != oldest
            {
                let number = number as u32;
                self.close(list, number);
                self.unlink(number);
                self.link_oldest(list, number);
                return;
            }
        }
    }

    /// Puts all segments of a list before the oldest of another; takes as long however many there are.
    pub(crate) fn merge(&mut self, from: ListNumber, into: ListNumber) {
        let source = std::mem::take(&mut self.lists[usize::from(from.0)]);
        if source.newest == NONE || from == into {
            self.lists[usize::from(from.0)] = source;
            return;
        }
        self.labels.merge(from, into);
        self.count_tables();
        let oldest_before = self.lists[usize::from(into.0)].oldest;
        self.segments[source.newest as usize].newer = oldest_before;
        let target = &mut self.lists[usize::from(into.0)];
        target.weight += source.weight;
        target.oldest = source.oldest;
        if oldest_before == NONE {
            target.newest = source.newest;
            target.is_open = source.is_open;
        } else {
            self.segments[oldest_before as usize].older = source.newest;
        }
    }

    /// Room for `len` bytes at the newest end of a list, counted as dead until [`Log::count_in`].
    pub(super) fn reserve(&mut self, list: ListNumber, len: usize, now_ms: u64) -> Location {
        let state = &self.lists[usize::from(list.0)];
        let has_room = state.is_open
            && self.segments[state.newest as usize].used as usize + len <= self.backing.pool.segment_bytes();
        if !has_room {
            self.open(list, now_ms);
        }
        let number = self.lists[usize::from(list.0)].newest;
        let segment = &mut self.segments[number as usize];
        let at = segment.used as usize;
        segment.used += len as u32;
        self.dead_bytes += len;
        let memory = segment.memory.as_mut().expect("a segment in a list has memory");
        self.resident_bytes += memory.touch_up_to(at + len);
        self.location(number, at)
    }

    /// A new segment at the newest end of a list.
    pub(super) fn open(&mut self, list: ListNumber, now_ms: u64) {
        let newest = self.lists[usize::from(list.0)].newest;
        if newest != NONE && self.segments[newest as usize].live_count == 0 {
            self.free(newest);
        }
        let number = self.vacant_number();
        let memory = self.backing.pool.take();
        self.resident_bytes += memory.resident_bytes();
        self.segments_in_use += 1;
        let newest = self.lists[usize::from(list.0)].newest;
        let label = self.labels.name(list);
        self.segments[number as usize] =
            Segment { memory: Some(memory), older: newest, label, opened_at_ms: now_ms, ..Segment::vacant() };
        if newest != NONE {
            self.segments[newest as usize].newer = number;
        }
        let state = &mut self.lists[usize::from(list.0)];
        state.newest = number;
        state.is_open = true;
        if state.oldest == NONE {
            state.oldest = number;
        }
    }

    /// Nothing is added to the segment any more.
    pub(super) fn close(&mut self, list: ListNumber, number: u32) {
        let state = &mut self.lists[usize::from(list.0)];
        if state.newest == number {
            state.is_open = false;
        }
    }

    pub(super) fn free(&mut self, number: u32) {
        self.unlink(number);
        let segment = std::mem::replace(&mut self.segments[number as usize], Segment::vacant());
        debug_assert_eq!(segment.live_count, 0);
        let memory = segment.memory.expect("a segment in a list has memory");
        self.dead_bytes -= segment.used as usize;
        self.resident_bytes -= memory.resident_bytes();
        self.garbage.segments.push(memory);
        self.labels.release(segment.label);
        self.segments_in_use -= 1;
        self.vacant.push(number);
        self.trim();
    }

    /// The number of a segment that is not in use.
    pub(super) fn vacant_number(&mut self) -> u32 {
        while let Some(number) = self.vacant.pop() {
            // Numbers at the end may have been cut off, and be in use again.
            if self.segments.get(number as usize).is_some_and(|segment| segment.memory.is_none()) {
                return number;
            }
        }
        assert!(self.segments.len() <= self.segments_max, "writes are refused while a log is full");
        // By an eighth, not by doubling: of small segments the table is a part of memory that counts.
        if self.segments.len() == self.segments.capacity() {
            self.segments.reserve_exact(self.segments.len() / 8 + 1);
            self.count_tables();
        }
        self.segments.push(Segment::vacant());
        (self.segments.len() - 1) as u32
    }

    /// Makes the table of segments shorter if its end is not in use.
    pub(super) fn trim(&mut self) {
        while self.segments.len() > 1 && self.segments.last().is_some_and(|segment| segment.memory.is_none()) {
            self.segments.pop();
        }
        if self.segments.len() * 4 < self.segments.capacity() {
            self.segments.shrink_to(self.segments.len() * 2);
            self.count_tables();
            self.vacant.retain(|&number| (number as usize) < self.segments.len());
        }
    }

    pub(super) fn unlink(&mut self, number: u32) {
        let segment = &self.segments[number as usize];
        let (older, newer, list) = (segment.older, segment.newer, self.labels.list(segment.label));
        match older {
            NONE => self.lists[list].oldest = newer,
            older => self.segments[older as usize].newer = newer,
        }
        match newer {
            NONE => {
                self.lists[list].newest = older;
                self.lists[list].is_open = false;
            }
            newer => self.segments[newer as usize].older = older,
        }
    }

    pub(super) fn link_oldest(&mut self, list: ListNumber, number: u32) {
        let oldest = std::mem::replace(&mut self.lists[usize::from(list.0)].oldest, number);
        let segment = &mut self.segments[number as usize];
        (segment.older, segment.newer) = (NONE, oldest);
        match oldest {
            NONE => self.lists[usize::from(list.0)].newest = number,
            oldest => self.segments[oldest as usize].older = number,
        }
    }
}
