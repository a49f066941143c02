//! Upkeep of a log: closing the gaps that dead entries leave, and finding what is gone by time.

use super::layout::Stored;
use super::{EntryView, LISTS, ListNumber, Location, Log, NONE, PAGE_BYTES, Segment, location};

impl Log {
    /// The segment with the most dead bytes, and how many, among those that give memory back when they are cleaned up: because
    /// a page of them is dead, or the next newer segment fits in, or they are in `refilled`, whose entries may go anywhere.
    pub(crate) fn sparsest(&self, refilled: ListNumber) -> Option<(u32, usize)> {
        let pages = |bytes: u32| (bytes as usize).div_ceil(PAGE_BYTES);
        let dead = |segment: &Segment| (segment.used - segment.live_bytes) as usize;
        let gives = |segment: &Segment| {
            let newer = self.segments.get(segment.newer as usize).filter(|newer| newer.memory.is_some());
            let fits = |newer: &Segment| (newer.live_bytes + segment.live_bytes) as usize <= self.segment_bytes();
            pages(segment.live_bytes) < pages(segment.used)
                || newer.is_some_and(fits)
                || self.labels.list(segment.label) == usize::from(refilled.0)
        };
        let numbered = self.segments.iter().enumerate();
        let (number, segment) = numbered
            .filter(|(_, segment)| segment.memory.is_some() && dead(segment) > 0 && gives(segment))
            .max_by_key(|(_, segment)| dead(segment))?;
        Some((number as u32, dead(segment)))
    }

    /// Locations of the live entries of a segment, oldest first.
    pub(crate) fn live_in(&self, number: u32, mut visit: impl FnMut(Location, EntryView<'_>)) {
        let Some(segment) = self.segments.get(number as usize).filter(|segment| segment.memory.is_some()) else {
            return;
        };
        let mut at = segment.walked as usize;
        while let Some(found) = segment.next_live(at, segment.used as usize) {
            let view = EntryView::new(&segment.bytes()[found..]);
            at = found + view.bytes();
            visit(self.location(number, found), self.with_run(view));
        }
    }

    /// Moves the entries of a segment together, in their order, and gives the pages behind them back. `moved` is told of each
    /// entry with the place it was at and where it is now.
    pub(crate) fn compact(&mut self, number: u32, moved: &mut impl FnMut(Location, Location, EntryView<'_>)) {
        let (shift, segment) = (self.word_bits, &mut self.segments[number as usize]);
        if segment.memory.is_none() {
            return;
        }
        let location = |at: usize| location(shift, number, at);
        let (mut at, mut end) = (segment.walked as usize, 0);
        while let Some(found) = segment.next_live(at, segment.used as usize) {
            let len = EntryView::new(&segment.bytes()[found..]).bytes();
            if found != end {
                segment.bytes_mut().copy_within(found..found + len, end);
                let view = EntryView::new(&segment.bytes()[end..]);
                let view = match view.stored() {
                    Stored::Here => view,
                    Stored::Run(number) => view.with_run(self.runs.at(number)),
                };
                moved(location(found), location(end), view);
            }
            at = found + len;
            end += len;
        }
        self.dead_bytes -= segment.used as usize - end;
        segment.used = end as u32;
        segment.walked = 0;
        debug_assert_eq!(segment.used, segment.live_bytes);
        if let Some(memory) = &mut segment.memory {
            self.resident_bytes -= memory.release_from(end);
        }
    }

    /// The next newer segment, if its entries fit behind those of a segment in which all are live.
    pub(crate) fn newer_that_fits(&self, number: u32) -> Option<u32> {
        let segment = &self.segments[number as usize];
        let newer = self.segments.get(segment.newer as usize).filter(|newer| newer.memory.is_some())?;
        ((segment.used + newer.live_bytes) as usize <= self.segment_bytes()).then_some(segment.newer)
    }

    /// Moves the entries of the next newer segment behind those of a segment, where they fit, so that all stay in order. `moved` is told of each with
    /// the place it was at and where it is now. Whether that segment is gone; it stays if it is open.
    pub(crate) fn absorb(
        &mut self,
        number: u32,
        next: u32,
        moved: &mut impl FnMut(Location, Location, EntryView<'_>),
    ) -> bool {
        let mut found = Vec::new();
        self.live_in(next, |location, _| found.push(location));
        let (gone_at_ms_min, searched_at_ms) = {
            let next = &self.segments[next as usize];
            (next.gone_at_ms_min, next.searched_at_ms)
        };
        for location in found {
            let view = self.view(location);
            let (len, weight, gone_at_ms) = (view.bytes(), self.weight(&view), view.gone_at_ms());
            let (from_segment, from) = self.place(location);
            let [source, target] = self
                .segments
                .get_disjoint_mut([from_segment, number as usize])
                .expect("two segments that are in use and not the same");
            let at = target.used as usize;
            target.used += len as u32;
            let memory = target.memory.as_mut().expect("a segment in a list has memory");
            self.resident_bytes += memory.touch_up_to(at + len);
            target.bytes_mut()[at..at + len].copy_from_slice(&source.bytes()[from..from + len]);
            self.dead_bytes += len;
            let to = self.location(number, at);
            self.count_in(to, len, weight, gone_at_ms);
            self.count_out(location);
            moved(location, to, self.view(to));
            self.bury(location);
        }
        let segment = &mut self.segments[number as usize];
        segment.gone_at_ms_min = segment.gone_at_ms_min.min(gone_at_ms_min);
        segment.searched_at_ms = segment.searched_at_ms.min(searched_at_ms);
        segment.newer != next
    }

    /// Adds nothing to a segment any more.
    pub(crate) fn retire(&mut self, number: u32) {
        let list = ListNumber(self.list_index(number as usize) as u8);
        self.close(list, number);
    }

    /// A segment with entries that may be gone by now, searched long enough ago: its number.
    pub(crate) fn due(&self, from: u32, now_ms: u64, again_after_ms: u64) -> Option<u32> {
        let count = self.segments.len();
        (from as usize..count).find_map(|number| {
            let segment = &self.segments[number];
            let is_due = segment.memory.is_some()
                && segment.gone_at_ms_min <= now_ms
                && segment.searched_at_ms.saturating_add(again_after_ms) <= now_ms;
            is_due.then_some(number as u32)
        })
    }

    /// Notes what a search of a segment has found: when the next of its entries is gone.
    pub(crate) fn note_searched(&mut self, number: u32, gone_at_ms_min: u64, now_ms: u64) {
        let segment = &mut self.segments[number as usize];
        segment.gone_at_ms_min = gone_at_ms_min;
        segment.searched_at_ms = now_ms;
    }

    /// Entries of a segment, and its list.
    pub(crate) fn count_in_segment(&self, number: u32) -> (usize, ListNumber) {
        let segment = &self.segments[number as usize];
        (segment.live_count as usize, ListNumber(self.list_index(number as usize) as u8))
    }

    /// Checks all counts against what is there; for tests.
    pub(crate) fn check(&self) {
        let (mut live, mut dead, mut resident, mut run_bytes) = (0, 0, 0, 0);
        let mut weights = [0; LISTS];
        for (index, list) in self.lists.iter().enumerate() {
            let mut older = NONE;
            let mut number = list.oldest;
            while number != NONE {
                let segment = &self.segments[number as usize];
                assert_eq!((self.labels.list(segment.label), segment.older), (index, older), "segment {number}");
                let (mut count, mut bytes) = (0, 0);
                self.live_in(number, |_, view| {
                    count += 1;
                    bytes += view.bytes();
                    weights[index] += self.weight(&view);
                    run_bytes += self.run_bytes(view.stored());
                    assert!(view.gone_at_ms().is_none_or(|at| segment.gone_at_ms_min <= at));
                });
                assert_eq!(
                    (segment.live_count as usize, segment.live_bytes as usize),
                    (count, bytes),
                    "segment {number}"
                );
                live += bytes;
                dead += segment.used as usize - bytes;
                let memory = segment.memory.as_ref().expect("a segment in a list has memory");
                assert!(segment.used as usize <= memory.resident_bytes());
                resident += memory.resident_bytes();
                older = number;
                number = segment.newer;
            }
            assert_eq!(list.newest, older, "list {index}");
        }
        assert_eq!((self.live_bytes, self.dead_bytes, self.resident_bytes), (live, dead, resident));
        assert_eq!(self.runs.bytes(), run_bytes);
        let in_use = self.segments.iter().filter(|segment| segment.memory.is_some()).count();
        assert_eq!(self.segments_in_use, in_use);
        for (list, weight) in self.lists.iter().zip(weights) {
            assert_eq!(list.weight, weight);
        }
    }
}
