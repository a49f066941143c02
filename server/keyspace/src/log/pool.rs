//! Where segments come from and go back to: memory of the operating system, in pieces of one size.
//!
//! Regions of address space are mapped as they are needed, never unmapped before the end, and cut into segments. A segment
//! that comes back gives its pages to the system at once, except for a few that the next taker gets as they are. So resident
//! memory is what segments hold, as [`SegmentMemory::resident_bytes`] says, to the page. This file,
//! [`super::extents`] and [`crate::cells`] are the ones with `unsafe`: all others see slices.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Of the processors we build for; memory is resident by these.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The least: below that, what is known of a segment would be large beside it. Segments smaller than a page give no pages back;
/// they are for limits of some hundred KiB.
const SEGMENT_BYTES_MIN: usize = 1 << 10;

/// Mapped at a time. Untouched, it costs address space only.
const REGION_BYTES: usize = 4 << 20;

/// Segments kept with their pages for the next taker; their bytes are taken off the memory limit.
pub(crate) const KEPT_MAX: usize = 4;

/// Gives out segments. Shared by the shards of a keyspace.
#[derive(Debug)]
pub(crate) struct Pool {
    segment_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    regions: Vec<Start>,
    /// Without pages.
    bare: Vec<Start>,
    /// With pages; at most [`KEPT_MAX`].
    kept: Vec<Start>,
}

/// The start of a region, a segment, an extent or a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start(pub(crate) NonNull<u8>);

// SAFETY: an address; who may use what lies there is told by `Pool` and `SegmentMemory`, `Extents` and `Extent`, `Cells`.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

/// The memory of one segment, owned. Zeroed or left from its owner before.
#[derive(Debug)]
pub(crate) struct SegmentMemory {
    start: Start,
    len: usize,
    /// Bytes from the start that may have pages, in whole pages.
    resident_bytes: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// # Panics
    /// If `segment_bytes` is not a power of two from [`SEGMENT_BYTES_MIN`] to a region.
    pub(crate) fn new(segment_bytes: usize) -> Arc<Self> {
        assert!(segment_bytes.is_power_of_two() && (SEGMENT_BYTES_MIN..=REGION_BYTES).contains(&segment_bytes));
        Arc::new(Self { segment_bytes, state: Mutex::default() })
    }

    pub(crate) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// A segment.
    ///
    /// Aborts the process if the system has no memory, as every allocation does.
    pub(crate) fn take(self: &Arc<Self>) -> SegmentMemory {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, resident_bytes) = match state.kept.pop() {
            Some(start) => (start, self.segment_bytes),
            None => (state.bare.pop().unwrap_or_else(|| self.map(&mut state)), 0),
        };
        SegmentMemory { start, len: self.segment_bytes, resident_bytes, pool: Arc::clone(self) }
    }

    /// Maps a region; returns one of its segments.
    #[cold]
    fn map(&self, state: &mut State) -> Start {
        let region = Start(map(REGION_BYTES));
        state.regions.push(region);
        for offset in (self.segment_bytes..REGION_BYTES).step_by(self.segment_bytes).rev() {
            // SAFETY: the region has REGION_BYTES bytes, and `offset` is less.
            state.bare.push(Start(unsafe { region.0.add(offset) }));
        }
        region
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for region in state.regions.drain(..) {
            // SAFETY: mapped by `map` with this length; every segment holds a reference to the pool, so none is left.
            unsafe { unmap(region.0, REGION_BYTES) }
        }
    }
}

impl SegmentMemory {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes (mapped as zeros) at `start` belong to this segment alone.
        unsafe { std::slice::from_raw_parts(self.start.0.as_ptr(), self.len) }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.0.as_ptr(), self.len) }
    }

    /// Bytes of memory that it holds, in whole pages.
    #[inline]
    pub(crate) fn resident_bytes(&self) -> usize {
        self.resident_bytes
    }

    /// Must be told before bytes up to `end` are written. Returns by how much [`SegmentMemory::resident_bytes`] grew.
    #[inline]
    pub(crate) fn touch_up_to(&mut self, end: usize) -> usize {
        if end <= self.resident_bytes {
            return 0;
        }
        let before = self.resident_bytes;
        self.resident_bytes = end.next_multiple_of(PAGE_BYTES).min(self.len);
        self.resident_bytes - before
    }

    /// Gives the pages behind `end` back; what was there is zero then. Returns by how much
    /// [`SegmentMemory::resident_bytes`] fell.
    pub(crate) fn release_from(&mut self, end: usize) -> usize {
        // What is smaller than a page keeps it, for its neighbours and the next taker.
        let keep = if self.len < PAGE_BYTES && end > 0 { self.len } else { end.next_multiple_of(PAGE_BYTES) };
        if self.resident_bytes <= keep {
            return 0;
        }
        let released = self.resident_bytes - keep;
        if self.len < PAGE_BYTES {
            self.resident_bytes = 0;
            return released;
        }
        // SAFETY: `keep` is at most `resident_bytes`, which is within the segment.
        let start = unsafe { self.start.0.add(keep) };
        // SAFETY: whole pages of this segment; `&mut self` says that nobody has borrowed them.
        unsafe { discard(start, released) };
        self.resident_bytes = keep;
        released
    }
}

impl Drop for SegmentMemory {
    fn drop(&mut self) {
        let pool = Arc::clone(&self.pool);
        let is_whole = self.resident_bytes == self.len;
        if is_whole {
            let mut state = pool.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.kept.len() < KEPT_MAX {
                state.kept.push(self.start);
                return;
            }
        }
        self.release_from(0);
        pool.state.lock().unwrap_or_else(PoisonError::into_inner).bare.push(self.start);
    }
}

/// Asks the processor to have the line of a byte at hand soon. A hint, no access.
#[inline]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing into the program and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast::<i8>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// A new mapping of zeros without memory, `len` bytes of address space.
#[cfg(not(miri))]
pub(crate) fn map(len: usize) -> NonNull<u8> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

    // SAFETY: a new anonymous mapping at an address that the system chooses overlaps nothing of ours.
    let start = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    };
    let Some(start) = start.ok().and_then(|start| NonNull::new(start.cast::<u8>())) else {
        std::alloc::handle_alloc_error(layout(len))
    };
    // A huge page would be resident where one page of it was written. It is advice: without it more memory is resident.
    // SAFETY: the range is the mapping just made; the advice changes no contents.
    let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxNoHugepage) };
    start
}

/// Ends a mapping.
///
/// # Safety
/// The range was mapped by [`map`] with this length and nobody uses it any more.
#[cfg(not(miri))]
pub(super) unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: as the caller promises. It cannot fail for a range that is mapped; if it did, the memory would stay.
    let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), len) };
}

/// Gives pages back; they read as zeros then.
///
/// # Safety
/// The range is of whole pages within a mapping of [`map`], and nobody has borrowed it.
#[cfg(not(miri))]
pub(crate) unsafe fn discard(start: NonNull<u8>, len: usize) {
    use rustix::mm::{Advice, madvise};

    // SAFETY: as the caller promises; private anonymous pages read as zeros after this.
    let done = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxDontNeed) };
    debug_assert!(done.is_ok(), "{done:?}");
}

fn layout(len: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(len, PAGE_BYTES).expect("the length of a mapping, far below all memory")
}

#[cfg(miri)]
pub(crate) fn map(len: usize) -> NonNull<u8> {
    // SAFETY: the layout is not empty.
    let start = unsafe { std::alloc::alloc_zeroed(layout(len)) };
    NonNull::new(start).unwrap_or_else(|| std::alloc::handle_alloc_error(layout(len)))
}

/// # Safety
/// As of the real one.
#[cfg(miri)]
pub(super) unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: from `map` with this layout, as the caller promises.
    unsafe { std::alloc::dealloc(start.as_ptr(), layout(len)) }
}

/// # Safety
/// As of the real one.
#[cfg(miri)]
pub(crate) unsafe fn discard(start: NonNull<u8>, len: usize) {
    // SAFETY: the range is mapped and not borrowed, as the caller promises.
    unsafe { start.as_ptr().write_bytes(0, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_apart_and_come_back_with_or_without_pages() {
        // Miri looks at each byte for a while.
        let (bytes, count) = if cfg!(miri) { (1 << 13, 8) } else { (1 << 16, 100) };
        let pool = Pool::new(bytes);
        let mut segments: Vec<SegmentMemory> = (0..count).map(|_| pool.take()).collect();
        for (number, segment) in segments.iter_mut().enumerate() {
            assert_eq!(segment.touch_up_to(bytes), bytes);
            segment.bytes_mut().fill(number as u8);
        }
        for (number, segment) in segments.iter().enumerate() {
            assert!(segment.bytes().iter().all(|&byte| byte == number as u8));
        }
        drop(segments);
        let again: Vec<SegmentMemory> = (0..count).map(|_| pool.take()).collect();
        assert_eq!(again.iter().filter(|segment| segment.resident_bytes() > 0).count(), KEPT_MAX);
        for segment in again.iter().filter(|segment| segment.resident_bytes() == 0) {
            assert!(segment.bytes().iter().all(|&byte| byte == 0), "its pages were given back");
        }
    }

    #[test]
    fn pages_behind_the_end_are_given_back() {
        let pool = Pool::new(1 << 14);
        let mut segment = pool.take();
        assert_eq!(segment.touch_up_to(10), PAGE_BYTES);
        assert_eq!(segment.touch_up_to(9000), 2 * PAGE_BYTES);
        segment.bytes_mut()[..9000].fill(7);
        assert_eq!(segment.release_from(PAGE_BYTES + 1), PAGE_BYTES);
        assert_eq!((segment.bytes()[2 * PAGE_BYTES - 1], segment.bytes()[2 * PAGE_BYTES]), (7, 0));
        assert_eq!(segment.release_from(PAGE_BYTES), PAGE_BYTES);
        assert_eq!(segment.resident_bytes(), PAGE_BYTES);
    }
}
