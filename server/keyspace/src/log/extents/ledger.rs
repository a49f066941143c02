//! Which bytes of the regions are free, and which of their pages have memory: the books of [`super::Extents`], without the
//! memory itself. Plain numbers in, plain numbers out.
//!
//! ```text
//!     region:  │ live │  free   │ live │ live │     free        │ live │
//!     pages:   │ █  █ │ █ ▒  ▒  │ █  █ │ █  █ │ █  ░   ░   ░  █ │ █  █ │
//!              █ pinned: an extent touches it   ▒ kept: free, with memory   ░ bare: without memory
//! ```
//!
//! Free bytes that touch are one free extent. One that no page lies wholly in has neither kept nor bare pages: the memory of
//! its bytes goes back when a neighbour is freed.

use super::super::PAGE_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// This part of the bytes wanted must have memory already, for them to be cut from an extent that does not fit best.
const WARM_PARTS: usize = 2;

/// Pages are given back so many bytes at a time, or more: fewer system calls.
const DISCARD_BYTES_MIN: usize = 64 << 10;

/// Of the bytes in use, the part that kept pages may have, but for [`KEPT_BYTES_LEAST`].
const KEPT_PARTS: usize = 16;

/// Few large values that are written again and again would else cost a system call each time.
const KEPT_BYTES_LEAST: usize = 32 << 10;

/// The books. Addresses are plain numbers here.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By address; the ends are those of pages.
    regions: BTreeMap<usize, Region>,
    /// By address.
    free: BTreeMap<usize, Free>,
    /// Length and address of the free extents that have kept pages.
    kept: BTreeSet<(usize, usize)>,
    /// And of those that have none.
    bare: BTreeSet<(usize, usize)>,
    /// Addresses of those with kept pages, by when bytes were last freed there.
    by_age: BTreeMap<u64, usize>,
    /// Counts what is freed.
    now: u64,
    live_bytes: usize,
    resident_bytes: usize,
    kept_bytes: usize,
    kept_bytes_max: usize,
}

#[derive(Debug)]
struct Region {
    len: usize,
    /// Which have memory.
    pages: Pages,
}

#[derive(Clone, Copy, Debug)]
struct Free {
    len: usize,
    kept_bytes: usize,
    /// In `by_age` if there are kept pages.
    freed_at: u64,
}

/// A free extent that is taken out of the books while its pages are given back.
#[derive(Debug)]
pub(super) struct Discard {
    at: usize,
    len: usize,
    freed_at: u64,
    /// Whole pages.
    pub(super) pages: Range<usize>,
}

impl Ledger {
    /// Bytes of the extents in use.
    pub(super) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Bytes of all pages with memory.
    pub(super) fn resident_bytes(&self) -> usize {
        self.resident_bytes
    }

    /// What the pages of the extents in use have beyond them, and what kept pages may have.
    pub(super) fn overhead_bytes(&self) -> usize {
        self.resident_bytes - self.live_bytes - self.kept_bytes + self.kept_bytes_allowed()
    }

    /// Changes how much memory free extents may keep.
    pub(super) fn set_kept_bytes_max(&mut self, bytes: usize) {
        self.kept_bytes_max = bytes;
    }

    fn kept_bytes_allowed(&self) -> usize {
        match self.live_bytes {
            0 => 0,
            live_bytes => self.kept_bytes_max.min((live_bytes / KEPT_PARTS).max(KEPT_BYTES_LEAST)),
        }
    }

    /// A new region without memory, free as a whole.
    pub(super) fn add_region(&mut self, at: usize, len: usize) {
        debug_assert!(at.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES));
        self.regions.insert(at, Region { len, pages: Pages::bare(len / PAGE_BYTES) });
        self.insert(at, Free { len, kept_bytes: 0, freed_at: 0 });
    }

    /// Takes bytes of the free extent that fits best, of one with memory if there is; their address.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        let best = |of: &BTreeSet<(usize, usize)>| of.range((len, 0)..).next().copied();
        let bare = best(&self.bare);
        if let Some((free_len, at)) = best(&self.kept) {
            // The end where more has memory: what was freed last, mostly.
            let last = at + free_len - len;
            let (low, high) = (self.kept_bytes_within(at, len), self.kept_bytes_within(last, len));
            let fits_best = bare.is_none_or(|(bare_len, _)| free_len <= bare_len);
            if fits_best || low.max(high) >= len / WARM_PARTS {
                let from = if low >= high { at } else { last };
                self.cut(at, from, len);
                return Some(from);
            }
        }
        let (_, at) = bare?;
        self.cut(at, at, len);
        Some(at)
    }

    fn kept_bytes_within(&mut self, at: usize, len: usize) -> usize {
        let (start, region) = self.region_mut(at);
        region.pages.count(inner_pages(at - start..at - start + len)) * PAGE_BYTES
    }

    /// Takes `more` bytes behind an extent in use, if they are free.
    pub(super) fn try_lengthen(&mut self, at: usize, len: usize, more: usize) -> bool {
        let end = at + len;
        let fits = self.free.get(&end).is_some_and(|free| free.len >= more) && end < self.end_of_region(at);
        if fits {
            self.cut(end, end, more);
        }
        fits
    }

    /// Frees an extent in use.
    pub(super) fn free(&mut self, at: usize, len: usize) {
        self.live_bytes -= len;
        self.now += 1;
        self.merge(at, len, self.now);
    }

    /// Counts an extent that has a region of its own, in no other books.
    pub(super) fn count_lone(&mut self, len: usize) {
        self.live_bytes += len;
        self.resident_bytes += len.next_multiple_of(PAGE_BYTES);
    }

    /// Counts it out.
    pub(super) fn uncount_lone(&mut self, len: usize) {
        self.live_bytes -= len;
        self.resident_bytes -= len.next_multiple_of(PAGE_BYTES);
    }

    /// If more memory is kept than may be: a free extent, some of whose pages are to be given back, the one where least lately bytes
    /// were freed: it had its chance to be taken. They count as given back from now on; nobody gets the extent before [`Ledger::put_back`].
    pub(super) fn take_excess(&mut self) -> Option<Discard> {
        let excess_bytes = self.kept_bytes.checked_sub(self.kept_bytes_allowed()).filter(|&bytes| bytes > 0)?;
        let (_, &at) = self.by_age.first_key_value().expect("kept pages lie in free extents");
        let Free { len, freed_at, .. } = self.remove(at);
        let (start, region) = self.region_mut(at);
        let kept = region.pages.span(inner_pages(at - start..at - start + len)).expect("it has kept pages");
        // From the low end, so that what is left lies in one piece.
        let count = excess_bytes.max(DISCARD_BYTES_MIN).div_ceil(PAGE_BYTES);
        let pages = kept.start..kept.end.min(kept.start + count);
        let discarded_bytes = region.pages.count(pages.clone()) * PAGE_BYTES;
        region.pages.clear(pages.clone());
        self.resident_bytes -= discarded_bytes;
        Some(Discard { at, len, freed_at, pages: start + pages.start * PAGE_BYTES..start + pages.end * PAGE_BYTES })
    }

    /// Its pages are given back.
    pub(super) fn put_back(&mut self, discard: &Discard) {
        self.merge(discard.at, discard.len, discard.freed_at);
    }

    /// Takes `len` bytes from `from` on, at either end of the free extent at `at`, into use.
    fn cut(&mut self, at: usize, from: usize, len: usize) {
        let free = self.remove(at);
        debug_assert!(from == at || from + len == at + free.len, "one piece is left");
        let (start, region) = self.region_mut(at);
        let filled_bytes = region.pages.set(outer_pages(from - start..from - start + len)) * PAGE_BYTES;
        self.resident_bytes += filled_bytes;
        self.live_bytes += len;
        for rest in [at..from, from + len..at + free.len] {
            if !rest.is_empty() {
                let kept_bytes = if free.kept_bytes == 0 { 0 } else { self.kept_bytes_within(rest.start, rest.len()) };
                self.insert(rest.start, Free { len: rest.len(), kept_bytes, freed_at: free.freed_at });
            }
        }
    }

    /// Enters free bytes; what is free beside them becomes one extent with them.
    fn merge(&mut self, at: usize, len: usize, mut freed_at: u64) {
        let (start, end_of_region) = (self.region_mut(at).0, self.end_of_region(at));
        let (mut from, mut to, mut kept_bytes) = (at, at + len, 0);
        let before = self.free.range(start..at).next_back().map(|(&before, free)| (before, before + free.len));
        if let Some((before, end)) = before
            && end == at
        {
            let free = self.remove(before);
            kept_bytes += free.kept_bytes;
            freed_at = freed_at.max(free.freed_at);
            from = before;
        }
        if to < end_of_region && self.free.contains_key(&to) {
            let behind = self.remove(to);
            kept_bytes += behind.kept_bytes;
            freed_at = freed_at.max(behind.freed_at);
            to += behind.len;
        }
        // Pages at the ends of what is entered may lie wholly in what is free now.
        let within = inner_pages(from - start..to - start);
        let touched = outer_pages(at - start..at - start + len);
        let fresh = touched.start.max(within.start)..touched.end.min(within.end);
        kept_bytes += self.region_mut(at).1.pages.count(fresh) * PAGE_BYTES;
        self.insert(from, Free { len: to - from, kept_bytes, freed_at });
    }

    fn insert(&mut self, at: usize, free: Free) {
        if free.kept_bytes > 0 {
            self.kept.insert((free.len, at));
            self.by_age.insert(free.freed_at, at);
        } else {
            self.bare.insert((free.len, at));
        }
        self.kept_bytes += free.kept_bytes;
        self.free.insert(at, free);
    }

    fn remove(&mut self, at: usize) -> Free {
        let free = self.free.remove(&at).expect("a free extent starts there");
        if free.kept_bytes > 0 {
            self.kept.remove(&(free.len, at));
            self.by_age.remove(&free.freed_at);
        } else {
            self.bare.remove(&(free.len, at));
        }
        self.kept_bytes -= free.kept_bytes;
        free
    }

    /// The region of an address, and where it starts.
    fn region_mut(&mut self, at: usize) -> (usize, &mut Region) {
        let (&start, region) = self.regions.range_mut(..=at).next_back().expect("every extent lies in a region");
        (start, region)
    }

    fn end_of_region(&self, at: usize) -> usize {
        let (start, region) = self.regions.range(..=at).next_back().expect("every extent lies in a region");
        start + region.len
    }

    /// Checks the books against each other; for tests.
    pub(super) fn check(&self) {
        let (mut free_bytes, mut kept_bytes, mut resident) = (0, 0, 0);
        for (&start, region) in &self.regions {
            let mut end_before = None;
            for (&at, free) in self.free.range(start..start + region.len) {
                assert_ne!(end_before, Some(at), "two free extents touch");
                let (from, to) = (at - start, at - start + free.len);
                assert!(to <= region.len);
                assert_eq!(region.pages.count(inner_pages(from..to)) * PAGE_BYTES, free.kept_bytes);
                let sizes = if free.kept_bytes > 0 { &self.kept } else { &self.bare };
                assert!(sizes.contains(&(free.len, at)));
                assert!(free.kept_bytes == 0 || self.by_age.get(&free.freed_at) == Some(&at));
                end_before = Some(at + free.len);
                free_bytes += free.len;
                kept_bytes += free.kept_bytes;
            }
            resident += region.pages.count(0..region.len / PAGE_BYTES) * PAGE_BYTES;
        }
        assert_eq!(self.kept.len() + self.bare.len(), self.free.len());
        assert_eq!(self.kept.len(), self.by_age.len());
        assert_eq!(kept_bytes, self.kept_bytes);
        let mapped: usize = self.regions.values().map(|region| region.len).sum();
        // Extents with a region of their own are in neither.
        let lone_bytes = self.live_bytes + free_bytes - mapped;
        let lone_resident = self.resident_bytes - resident;
        assert!((lone_bytes == 0) == (lone_resident == 0) && lone_bytes <= lone_resident);
    }
}

/// The pages that lie wholly within, by number.
fn inner_pages(bytes: Range<usize>) -> Range<usize> {
    let start = bytes.start.div_ceil(PAGE_BYTES);
    start..(bytes.end / PAGE_BYTES).max(start)
}

/// The pages that are touched.
fn outer_pages(bytes: Range<usize>) -> Range<usize> {
    bytes.start / PAGE_BYTES..bytes.end.div_ceil(PAGE_BYTES)
}

/// A bit for each page of a region: whether it has memory.
#[derive(Debug)]
struct Pages(Box<[u64]>);

const WORD_BITS: usize = u64::BITS as usize;

impl Pages {
    fn bare(pages: usize) -> Self {
        Self(vec![0; pages.div_ceil(WORD_BITS)].into())
    }

    /// How many of them have memory.
    fn count(&self, pages: Range<usize>) -> usize {
        words(pages).map(|(word, mask)| (self.0[word] & mask).count_ones() as usize).sum()
    }

    /// Gives them memory; how many had none.
    fn set(&mut self, pages: Range<usize>) -> usize {
        let set = |(word, mask): (usize, u64)| {
            let fresh = !self.0[word] & mask;
            self.0[word] |= mask;
            fresh.count_ones() as usize
        };
        words(pages).map(set).sum()
    }

    fn clear(&mut self, pages: Range<usize>) {
        words(pages).for_each(|(word, mask)| self.0[word] &= !mask);
    }

    /// From the first to the last of them that has memory.
    fn span(&self, pages: Range<usize>) -> Option<Range<usize>> {
        let mut found = words(pages).map(|(word, mask)| (word, self.0[word] & mask)).filter(|&(_, bits)| bits != 0);
        let (first, first_bits) = found.next()?;
        let (last, last_bits) = found.last().unwrap_or((first, first_bits));
        let start = first * WORD_BITS + first_bits.trailing_zeros() as usize;
        Some(start..(last + 1) * WORD_BITS - last_bits.leading_zeros() as usize)
    }
}

/// The words that have bits of these pages, and which.
fn words(pages: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let end = pages.end.max(pages.start);
    (pages.start / WORD_BITS..end.div_ceil(WORD_BITS)).filter_map(move |word| {
        let low = pages.start.saturating_sub(word * WORD_BITS);
        let high = (end - word * WORD_BITS).min(WORD_BITS);
        (low < high).then(|| (word, u64::MAX >> (WORD_BITS - (high - low)) << low))
    })
}

#[cfg(test)]
mod tests;
