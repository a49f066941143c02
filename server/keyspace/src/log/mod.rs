//! The log of a shard: entries one after the other in segments, segments in lists, each list in order of arrival.
//!
//! ```text
//!     list:     oldest segment ──► … ──► newest segment
//!     segment:  │ walked │ entries, dead ones among them           │ free │
//!                        ▲ eviction looks here                    ▲ entries are added here
//! ```
//!
//! Nothing links entries: a list is the order in which its segments and what is in them lie. To move an entry is to copy it to
//! the newest segment of a list; the old copy is dead. A segment without live entries gives its memory back at once, any
//! other a part of it when [`Log::absorb`] moves the live ones together. Key and value that would be a large part of a segment
//! lie in [`runs`] of their own.
//!
//! The log knows bytes and lists, not hashes, policies or leases.

mod blocks;
mod extents;
mod labels;
pub(crate) mod layout;
mod lists;
pub(crate) mod pool;
mod runs;
mod segment;
mod upkeep;

pub(crate) use extents::{Extents, GRAIN_BYTES};
pub(crate) use layout::{EntryView, Layout, Plan, Stored};
pub use pool::Worked;
pub(crate) use pool::{KEPT_MAX, Owned, PAGE_BYTES, Pieces, Pool, Start, discard, prefetch, work_on_blocks};
pub(crate) use runs::Run;

use labels::Labels;
use layout::{WORD, mark_dead};
use pool::SegmentMemory;
use runs::Runs;
use segment::Segment;
use std::num::NonZeroU32;
use std::sync::Arc;

/// An entry larger than a segment divided by this keeps key and value in a run.
const ENTRY_PARTS: usize = 4;

/// To move an entry costs as much time as to copy so many bytes, besides its own: two places in memory that are not at hand, and
/// the index. About 0.15 µs.
const MOVE_COST: usize = 512;

/// Lists of a log.
pub(crate) const LISTS: usize = 13;

/// Bytes of segments that locations can name: 16 GiB.
pub(crate) const BYTES_MAX: u64 = (1 << u32::BITS) * WORD as u64;

/// Segments that are left to what is under way when a log counts as full: threads that are past the question whether there is
/// room, and entries that move.
pub(crate) const SPARE_SEGMENTS: usize = 64;

/// Segments have numbers from 1.
const NONE: u32 = 0;

/// Where an entry lies: the number of its segment and its word there. Valid until the entry is moved or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location(NonZeroU32);

impl Location {
    #[inline]
    pub(crate) fn decode(code: u32) -> Option<Self> {
        NonZeroU32::new(code).map(Self)
    }

    #[inline]
    pub(crate) fn encode(self) -> u32 {
        self.0.get()
    }
}

/// Which list. What each is for is the policy's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListNumber(pub(crate) u8);

/// Where the logs of a keyspace have their memory from.
#[derive(Clone, Debug)]
pub(crate) struct Backing {
    /// Of segments.
    pub(crate) pool: Arc<Pool>,
    /// Of runs.
    pub(crate) extents: Arc<Extents>,
}

impl Backing {
    pub(crate) fn new(segment_bytes: usize) -> Self {
        Self { pool: Pool::new(segment_bytes), extents: Extents::new() }
    }
}

/// The log of a shard.
#[derive(Debug)]
pub(crate) struct Log {
    backing: Backing,
    /// Bits of a location that are the word in the segment.
    word_bits: u32,
    /// By number; the first is never used.
    segments: Vec<Segment>,
    segments_in_use: usize,
    /// As many as have numbers.
    segments_max: usize,
    /// Numbers of segments that are not in use.
    vacant: Vec<u32>,
    lists: [List; LISTS],
    labels: Labels,
    runs: Runs,
    charge: Charge,
    live_bytes: usize,
    dead_bytes: usize,
    resident_bytes: usize,
    /// What [`Log::relocate`] has cost since [`Log::count_moves_anew`].
    moved_cost: usize,
    /// Of the segments' table and labels.
    table_bytes: usize,
    garbage: Garbage,
}

/// What is to be freed when no lock is held.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    segments: Vec<SegmentMemory>,
    runs: Vec<Run>,
}

impl Garbage {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.runs.is_empty()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct List {
    oldest: u32,
    newest: u32,
    /// Whether entries may be added to the newest.
    is_open: bool,
    /// Of live entries, with their runs.
    weight: usize,
}

/// What of an entry weighs, in lists, duels and simulations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// All its bytes in the log.
    Memory,
    /// Its value alone, as simulations have it.
    Value,
}

impl Log {
    pub(crate) fn new(backing: Backing) -> Self {
        let words = backing.pool.segment_bytes() / WORD;
        let runs = Runs::new(Arc::clone(&backing.extents));
        let mut log = Self {
            backing,
            word_bits: words.ilog2(),
            segments: vec![Segment::vacant()],
            segments_in_use: 0,
            segments_max: (1 << (u32::BITS - words.ilog2())) - 1,
            vacant: Vec::new(),
            lists: [List::default(); LISTS],
            labels: Labels::default(),
            runs,
            charge: Charge::Memory,
            live_bytes: 0,
            dead_bytes: 0,
            resident_bytes: 0,
            moved_cost: 0,
            garbage: Garbage::default(),
            table_bytes: 0,
        };
        log.count_tables();
        log
    }

    /// Whether nothing more should be added, because there are hardly any numbers for segments left.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.segments_in_use + SPARE_SEGMENTS > self.segments_max
    }

    /// As if locations had fewer bits, for tests of what happens when they are used up.
    #[cfg(test)]
    pub(crate) fn limit_segments(&mut self, segments_max: usize) {
        self.segments_max = segments_max;
    }

    /// Bytes of memory that the log holds.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.resident_bytes + self.runs.bytes() + self.table_bytes()
    }

    /// Bytes of live entries, with their runs.
    #[inline]
    pub(crate) fn live_bytes(&self) -> usize {
        self.live_bytes + self.runs.bytes()
    }

    /// Bytes of dead entries and gaps in segments.
    #[inline]
    pub(crate) fn dead_bytes(&self) -> usize {
        self.dead_bytes
    }

    /// Bytes of the tables that say where segments and runs are and in which lists.
    #[inline]
    pub(crate) fn table_bytes(&self) -> usize {
        self.table_bytes + self.runs.table_bytes()
    }

    /// Bytes of runs.
    pub(crate) fn bytes_of_runs(&self) -> usize {
        self.runs.bytes()
    }

    /// Segments in use.
    pub(crate) fn segments(&self) -> usize {
        self.segments_in_use
    }

    pub(crate) fn segment_bytes(&self) -> usize {
        self.backing.pool.segment_bytes()
    }

    /// Takes what is to be freed.
    #[inline]
    pub(crate) fn take_garbage(&mut self) -> Option<Garbage> {
        if self.garbage.is_empty() { None } else { Some(std::mem::take(&mut self.garbage)) }
    }

    /// The entry at a location.
    #[inline]
    pub(crate) fn view(&self, location: Location) -> EntryView<'_> {
        self.with_run(EntryView::new(self.bytes_at(location)))
    }

    #[inline]
    fn with_run<'l>(&'l self, view: EntryView<'l>) -> EntryView<'l> {
        match view.stored() {
            Stored::Here => view,
            Stored::Run(number) => view.with_run(self.runs.at(number)),
        }
    }

    /// The value of the entry at a location, for writing in place.
    pub(crate) fn value_mut(&mut self, location: Location) -> &mut [u8] {
        let view = self.view(location);
        let (key_at, key_len, len, stored) = (view.key_at(), view.key_len(), view.value_len(), view.stored());
        match stored {
            Stored::Here => &mut self.bytes_at_mut(location)[key_at + key_len..][..len],
            Stored::Run(number) => &mut self.runs.at_mut(number)[key_len..][..len],
        }
    }

    /// Fetches the lines that the first 96 bytes of an entry lie in: two or three.
    #[inline]
    pub(crate) fn prefetch(&self, location: Location) {
        let bytes = self.bytes_at(location);
        prefetch(&bytes[0]);
        for further in [64, 95] {
            if let Some(byte) = bytes.get(further) {
                prefetch(byte);
            }
        }
    }

    /// Bytes that an entry takes in all, with its run.
    #[inline]
    pub(crate) fn weight(&self, view: &EntryView<'_>) -> usize {
        match self.charge {
            Charge::Memory => view.bytes() + self.run_bytes(view.stored()),
            Charge::Value => view.value_len(),
        }
    }

    /// As [`Log::weight`], of an entry to come.
    #[inline]
    pub(crate) fn weight_of(&self, plan: &Plan<'_>) -> usize {
        match self.charge {
            Charge::Memory => plan.bytes() + self.run_bytes(plan.layout().stored),
            Charge::Value => plan.layout().value_len,
        }
    }

    /// What weighs of an entry.
    #[inline]
    pub(crate) fn charge(&self) -> Charge {
        self.charge
    }

    /// Changes what weighs of the entries to come; there are none yet.
    pub(crate) fn set_charge(&mut self, charge: Charge) {
        assert_eq!(self.live_bytes, 0, "entries are weighed alike");
        self.charge = charge;
    }

    /// The weight of all lists.
    pub(crate) fn weight_of_all(&self) -> usize {
        self.lists.iter().map(|list| list.weight).sum()
    }

    #[inline]
    pub(crate) fn set_control(&mut self, location: Location, control: u8) {
        self.bytes_at_mut(location)[0] = control;
    }

    #[inline]
    pub(crate) fn list_of(&self, location: Location) -> ListNumber {
        ListNumber(self.list_index(self.segment_of(location)) as u8)
    }

    /// When the segment of an entry was opened: the entry came there later.
    pub(crate) fn opened_at_ms(&self, location: Location) -> u64 {
        self.segments[self.segment_of(location)].opened_at_ms
    }

    /// Bytes of the live entries of a list, with their runs.
    #[inline]
    pub(crate) fn list_weight(&self, list: ListNumber) -> usize {
        self.lists[usize::from(list.0)].weight
    }

    /// Whether key and value with this layout have to lie in a run.
    #[inline]
    pub(crate) fn wants_run(&self, plan: &Plan<'_>) -> bool {
        plan.bytes() > self.backing.pool.segment_bytes() / ENTRY_PARTS && plan.layout().stored == Stored::Here
    }

    /// The most room that an entry with this layout may have in a segment, or 0 if it needs a run.
    pub(crate) fn room_max(&self, layout: &Layout<'_>) -> usize {
        // The fields that say how much room there is.
        const ROOM_FIELDS: usize = 8;

        let bare = Layout { room: 0, ..*layout }.plan();
        (self.backing.pool.segment_bytes() / ENTRY_PARTS).saturating_sub(bare.bytes() + ROOM_FIELDS)
    }

    /// A new run with this key and value, zeros after them, and at least `value_room` bytes for the value.
    pub(crate) fn new_run(&mut self, key: &[u8], value: &[u8], value_room: usize) -> u32 {
        self.runs.add(key, value, key.len() + value_room)
    }

    /// Makes the run of an entry at least `len` bytes long, with zeros from `len_before` on.
    pub(crate) fn lengthen_run(&mut self, location: Location, number: u32, len_before: usize, len: usize) {
        let list = usize::from(self.list_of(location).0);
        self.lists[list].weight -= self.runs.at(number).len();
        let left = self.runs.lengthen(number, len_before, len);
        self.garbage.runs.extend(left);
        self.lists[list].weight += self.runs.at(number).len();
    }

    /// Adds an entry at the newest end of a list. Key and value are written unless the layout has a run.
    pub(crate) fn add(
        &mut self,
        list: ListNumber,
        control: u8,
        plan: &Plan<'_>,
        key: &[u8],
        value: &[u8],
        now_ms: u64,
    ) -> Location {
        let len = plan.bytes();
        let location = self.reserve(list, len, now_ms);
        let weight = self.weight_of(plan);
        write(&mut self.bytes_at_mut(location)[..len], control, plan, key, value);
        self.count_in(location, len, weight, plan.gone_at_ms());
        location
    }

    /// Writes an entry over the one at `location`, if it takes as many bytes there. The run before, if any, is freed unless
    /// the new layout has it.
    pub(crate) fn try_overwrite(
        &mut self,
        location: Location,
        control: u8,
        plan: &Plan<'_>,
        key: &[u8],
        value: &[u8],
    ) -> bool {
        let view = self.view(location);
        let len = plan.bytes();
        if view.bytes() != len {
            return false;
        }
        let (weight_before, weight) = (self.weight(&view), self.weight_of(plan));
        let (stored_before, stored) = (view.stored(), plan.layout().stored);
        if stored_before != stored
            && let Stored::Run(number) = stored_before
        {
            self.free_run(number);
        }
        let number = self.segment_of(location);
        if weight != weight_before {
            let list = self.list_index(number);
            let list = &mut self.lists[list];
            list.weight = list.weight - weight_before + weight;
        }
        write(&mut self.bytes_at_mut(location)[..len], control, plan, key, value);
        self.note_gone_at(number, plan.gone_at_ms());
        true
    }

    /// Writes another value into an entry that has no fields, if it is as long as the one before: nothing else changes.
    #[inline]
    pub(crate) fn try_replace_plain(&mut self, location: Location, value: &[u8]) -> bool {
        let view = EntryView::new(self.bytes_at(location));
        let fits = view.is_plain() && view.value_len() == value.len();
        if fits {
            let at = view.key_at() + view.key_len();
            self.bytes_at_mut(location)[at..at + value.len()].copy_from_slice(value);
        }
        fits
    }

    /// Writes the header of the entry at `location` anew, if key and value stay where they are.
    pub(crate) fn try_rewrite_header(&mut self, location: Location, plan: &Plan<'_>) -> bool {
        let view = self.view(location);
        let control = view.control();
        if view.key_at() != plan.key_at() || view.bytes() != plan.bytes() {
            return false;
        }
        let (weight_before, weight) = (self.weight(&view), self.weight_of(plan));
        let number = self.segment_of(location);
        let list = self.list_index(number);
        let list = &mut self.lists[list];
        list.weight = list.weight - weight_before + weight;
        plan.write(control, self.bytes_at_mut(location));
        self.note_gone_at(number, plan.gone_at_ms());
        true
    }

    /// Copies an entry as it is, but for its control byte, to the newest end of a list; it is not at `location` any more.
    pub(crate) fn relocate(&mut self, location: Location, list: ListNumber, control: u8, now_ms: u64) -> Location {
        let view = self.view(location);
        let (len, weight, gone_at_ms) = (view.bytes(), self.weight(&view), view.gone_at_ms());
        self.moved_cost += MOVE_COST + len;
        let to = self.reserve(list, len, now_ms);
        let (from_segment, from) = self.place(location);
        let (to_segment, at) = self.place(to);
        if from_segment == to_segment {
            let memory = self.segments[from_segment].bytes_mut();
            memory.copy_within(from..from + len, at);
        } else {
            let [source, target] = self
                .segments
                .get_disjoint_mut([from_segment, to_segment])
                .expect("two segments that are in use and not the same");
            target.bytes_mut()[at..at + len].copy_from_slice(&source.bytes()[from..from + len]);
        }
        self.set_control(to, control);
        self.count_in(to, len, weight, gone_at_ms);
        self.count_out(location);
        self.bury(location);
        to
    }

    /// What moving entries has cost since the last call of [`Log::count_moves_anew`], in bytes of copying.
    #[inline]
    pub(crate) fn moved_cost(&self) -> usize {
        self.moved_cost
    }

    /// Counts moves from 0 on again: to be called where a lock is taken to move some.
    pub(crate) fn count_moves_anew(&mut self) {
        self.moved_cost = 0;
    }

    /// Removes an entry, and its run.
    pub(crate) fn remove(&mut self, location: Location) {
        self.count_out(location);
        if let Stored::Run(number) = self.view(location).stored() {
            self.free_run(number);
        }
        self.bury(location);
    }

    /// As [`Log::remove`] for an entry whose run, if it has one, belongs to another location now.
    pub(crate) fn remove_without_run(&mut self, location: Location) {
        self.count_out(location);
        self.bury(location);
    }

    /// Notes that an entry of a segment is gone by then.
    #[inline]
    fn note_gone_at(&mut self, number: usize, gone_at_ms: Option<u64>) {
        if let Some(gone_at_ms) = gone_at_ms {
            let segment = &mut self.segments[number];
            segment.gone_at_ms_min = segment.gone_at_ms_min.min(gone_at_ms);
        }
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self::new(self.backing.clone());
        std::mem::replace(self, empty)
    }

    fn free_run(&mut self, number: u32) {
        let run = self.runs.remove(number);
        self.garbage.runs.push(run);
    }

    fn run_bytes(&self, stored: Stored) -> usize {
        match stored {
            Stored::Here => 0,
            Stored::Run(number) => self.runs.at(number).len(),
        }
    }

    /// Counts an entry of so many bytes in, whose bytes counted as dead until now.
    fn count_in(&mut self, location: Location, len: usize, weight: usize, gone_at_ms: Option<u64>) {
        let number = self.segment_of(location);
        let segment = &mut self.segments[number];
        segment.live_bytes += len as u32;
        segment.live_count += 1;
        self.lists[self.labels.list(segment.label)].weight += weight;
        self.live_bytes += len;
        self.dead_bytes -= len;
        self.note_gone_at(number, gone_at_ms);
    }

    fn count_out(&mut self, location: Location) {
        let view = self.view(location);
        let (len, weight) = (view.bytes(), self.weight(&view));
        let number = self.segment_of(location);
        let segment = &mut self.segments[number];
        segment.live_bytes -= len as u32;
        segment.live_count -= 1;
        self.lists[self.labels.list(segment.label)].weight -= weight;
        self.live_bytes -= len;
        self.dead_bytes += len;
    }

    /// Marks an entry that is counted out as dead. A segment that has no other is freed.
    fn bury(&mut self, location: Location) {
        mark_dead(self.bytes_at_mut(location));
        let number = self.segment_of(location);
        let segment = &self.segments[number];
        if segment.live_count == 0 {
            let list = &self.lists[self.labels.list(segment.label)];
            if list.is_open && list.newest as usize == number {
                self.dead_bytes -= segment.used as usize;
                let segment = &mut self.segments[number];
                (segment.used, segment.walked) = (0, 0);
                (segment.gone_at_ms_min, segment.searched_at_ms) = (u64::MAX, 0);
            } else {
                self.free(number as u32);
            }
        }
    }

    /// The index of the list that a segment is in.
    #[inline]
    fn list_index(&self, number: usize) -> usize {
        self.labels.list(self.segments[number].label)
    }

    /// To be called when the tables may have grown or shrunk.
    fn count_tables(&mut self) {
        self.table_bytes = self.segments.capacity() * size_of::<Segment>() + self.labels.bytes();
    }

    #[inline]
    fn location(&self, number: u32, at: usize) -> Location {
        location(self.word_bits, number, at)
    }

    #[inline]
    fn segment_of(&self, location: Location) -> usize {
        (location.encode() >> self.word_bits) as usize
    }

    #[inline]
    fn place(&self, location: Location) -> (usize, usize) {
        let word = location.encode() & ((1 << self.word_bits) - 1);
        (self.segment_of(location), word as usize * WORD)
    }

    #[inline]
    fn bytes_at(&self, location: Location) -> &[u8] {
        let (segment, at) = self.place(location);
        &self.segments[segment].bytes()[at..]
    }

    #[inline]
    fn bytes_at_mut(&mut self, location: Location) -> &mut [u8] {
        let (segment, at) = self.place(location);
        &mut self.segments[segment].bytes_mut()[at..]
    }
}

/// Writes an entry over all of `bytes`.
fn write(bytes: &mut [u8], control: u8, plan: &Plan<'_>, key: &[u8], value: &[u8]) {
    plan.write(control, bytes);
    let at = plan.key_at();
    match plan.layout().stored {
        Stored::Run(number) => bytes[at..at + size_of::<u32>()].copy_from_slice(&number.to_le_bytes()),
        Stored::Here => {
            bytes[at..at + key.len()].copy_from_slice(key);
            let at = at + key.len();
            bytes[at..at + value.len()].copy_from_slice(value);
            // The value may be longer than what is given of it: zeros.
            bytes[at + value.len()..at + plan.layout().value_len].fill(0);
        }
    }
}

#[inline]
fn location(word_bits: u32, number: u32, at: usize) -> Location {
    let code = number << word_bits | (at / WORD) as u32;
    Location::decode(code).expect("segments have numbers from 1")
}
