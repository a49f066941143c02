//! Where segments come from and go back to: memory of the operating system, in pieces of one size.
//!
//! Regions of address space are mapped as they are needed, never unmapped before the end, and cut into segments. A segment
//! that comes back gives its pages to the system at once, except for a few that the next taker gets as they are. So resident
//! memory is what segments hold, as [`SegmentMemory::resident_bytes`] says, to the page. What is in use for long lies in huge
//! pages ([`super::blocks`]). This file,
//! [`super::extents`] and [`crate::cells`] are the ones with `unsafe`: all others see slices.
#![allow(unsafe_code)]

use super::blocks::{BLOCK_BYTES, Blocks, Work};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    free: Mutex<Pieces>,
}

/// Pieces of one size, cut from regions, that nobody has.
#[derive(Debug)]
pub(crate) struct Pieces {
    regions: Vec<Start>,
    /// Without memory.
    bare: Vec<Start>,
    /// With memory.
    kept: Vec<Start>,
    /// With memory that cannot go before the gathering of its block has ended.
    late: Vec<Start>,
    blocks: Blocks,
}

/// The start of a region, a segment, an extent or a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start(pub(crate) NonNull<u8>);

// SAFETY: an address; who may use what lies there is told by `Pieces`, `Extents` and `Owned`.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

/// Values in a row that lie in such memory and belong to who has this. It gives nothing back by itself.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the values are owned, as those of a Box are.
unsafe impl<T: Send> Send for Owned<T> {}
// SAFETY: as above; `&Owned` gives out `&[T]` only.
unsafe impl<T: Sync> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// # Safety
    /// From `start` on lie `len` initialised values, which nobody else reads or writes while this is used.
    pub(crate) unsafe fn new(start: NonNull<T>, len: usize) -> Self {
        Self { start, len }
    }

    /// Where the first value is.
    pub(crate) fn start(&self) -> Start {
        Start(self.start.cast())
    }
}

impl<T> Deref for Owned<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: as was promised when it was made.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Owned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as was promised when it was made, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// The memory of one segment, owned. Zeroed or left from its owner before.
#[derive(Debug)]
pub(crate) struct SegmentMemory {
    memory: Owned<u8>,
    /// Bytes from the start that may have pages, in whole pages.
    resident_bytes: usize,
    pool: Arc<Pool>,
}

impl Pieces {
    pub(crate) const fn new() -> Self {
        Self { regions: Vec::new(), bare: Vec::new(), kept: Vec::new(), late: Vec::new(), blocks: Blocks::new() }
    }

    /// A piece of `bytes`, the same each time, and whether it has memory.
    ///
    /// Aborts the process if the system has no memory, as every allocation does.
    pub(crate) fn take(&mut self, bytes: usize) -> (Start, bool) {
        match self.kept.pop() {
            Some(start) => (start, true),
            None => (self.bare.pop().unwrap_or_else(|| self.map(bytes)), false),
        }
    }

    /// Keeps a piece with its memory, if fewer than `kept_max` are kept. Whether it does.
    pub(crate) fn keep(&mut self, piece: Start, kept_max: usize) -> bool {
        let keeps = self.kept.len() < kept_max;
        if keeps {
            self.kept.push(piece);
        }
        keeps
    }

    /// All `bytes` of a piece have memory now, until [`Pieces::empty`]. Kept pieces have it still.
    pub(crate) fn fill(&mut self, piece: Start, bytes: usize) {
        self.blocks.fill(piece.0.addr().get(), bytes);
    }

    /// A piece that was full goes back. Whether its owner may give its memory to the system now, and then [`Pieces::put`]s it; else
    /// both are done later.
    pub(crate) fn empty(&mut self, piece: Start, bytes: usize) -> bool {
        let may_go = self.blocks.empty(piece.0.addr().get(), bytes);
        if !may_go {
            self.late.push(piece);
        }
        may_go
    }

    /// Takes a piece back whose memory was given to the system.
    pub(crate) fn put(&mut self, piece: Start) {
        self.bare.push(piece);
    }

    /// Bytes in huge pages.
    pub(crate) fn huge_bytes(&self) -> usize {
        self.blocks.huge() * BLOCK_BYTES
    }

    /// Maps a region; returns one of its pieces.
    #[cold]
    fn map(&mut self, bytes: usize) -> Start {
        let region = Start(map_blocks());
        self.regions.push(region);
        self.blocks.add_region(region.0.addr().get(), REGION_BYTES);
        for offset in (bytes..REGION_BYTES).step_by(bytes).rev() {
            // SAFETY: the region has REGION_BYTES bytes, and `offset` is less.
            self.bare.push(Start(unsafe { region.0.add(offset) }));
        }
        region
    }
}

impl Pool {
    /// # Panics
    /// If `segment_bytes` is not a power of two from [`SEGMENT_BYTES_MIN`] to a region.
    pub(crate) fn new(segment_bytes: usize) -> Arc<Self> {
        assert!(segment_bytes.is_power_of_two() && (SEGMENT_BYTES_MIN..=REGION_BYTES).contains(&segment_bytes));
        Arc::new(Self { segment_bytes, free: Mutex::new(Pieces::new()) })
    }

    pub(crate) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// A segment.
    ///
    /// Aborts the process if the system has no memory, as every allocation does.
    pub(crate) fn take(self: &Arc<Self>) -> SegmentMemory {
        let (start, is_resident) = self.free().take(self.segment_bytes);
        let resident_bytes = if is_resident { self.segment_bytes } else { 0 };
        // SAFETY: initialised bytes (mapped as zeros) of a piece that nobody else has until it is put back.
        let memory = unsafe { Owned::new(start.0, self.segment_bytes) };
        SegmentMemory { memory, resident_bytes, pool: Arc::clone(self) }
    }

    /// See [`work_on_blocks`].
    pub(crate) fn work_on_blocks(&self, now_s: u32) -> Worked {
        work_on_blocks(&self.free, self.segment_bytes, now_s)
    }

    /// Bytes of segments in huge pages.
    pub(crate) fn huge_bytes(&self) -> usize {
        self.free().huge_bytes()
    }

    fn free(&self) -> MutexGuard<'_, Pieces> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a look at the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// There was nothing to do.
    Idle,
    /// One block was dealt with.
    Done,
    /// The system refuses huge pages.
    Refused,
}

/// Gathers a block into a huge page or parts one, if one is due. Takes some 100 µs to some ms, most of them without the lock; who
/// touches the block meanwhile waits for the copy of it, a few 100 µs. `now_s` is from any clock that goes on.
pub(crate) fn work_on_blocks(pieces: &Mutex<Pieces>, piece_bytes: usize, now_s: u32) -> Worked {
    let lock = || pieces.lock().unwrap_or_else(PoisonError::into_inner);
    let mut free = lock();
    let Some(work) = free.blocks.next(now_s) else { return Worked::Idle };
    let (Work::Gather(address) | Work::Part(address)) = work;
    let Some(block) = free.at(address) else { return Worked::Idle };
    drop(free);
    let result = match work {
        // SAFETY: a block of a region, and regions stay while their `Pieces` do.
        Work::Part(_) => return unsafe { part(block.0) },
        // SAFETY: as above.
        Work::Gather(_) => unsafe { gather(block.0) },
    };
    let mut free = lock();
    free.blocks.gathered(address, result == Worked::Done, now_s);
    let late = free.take_late();
    drop(free);
    for &piece in &late {
        // SAFETY: a piece with whole pages that came back and nobody else has until it is put.
        unsafe { discard(piece.0, piece_bytes) };
    }
    lock().bare.extend(late);
    result
}

impl Pieces {
    /// The pieces whose memory may go by now.
    fn take_late(&mut self) -> Vec<Start> {
        let (late, waiting) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|piece| !self.blocks.is_gathering(piece.0.addr().get()));
        self.late = waiting;
        late
    }

    /// The pointer to an address in a region.
    fn at(&self, address: usize) -> Option<Start> {
        let offset_in =
            |region: &Start| address.checked_sub(region.0.addr().get()).filter(|&offset| offset < REGION_BYTES);
        let (region, offset) = self.regions.iter().find_map(|region| Some((region, offset_in(region)?)))?;
        // SAFETY: the offset is within the region.
        Some(Start(unsafe { region.0.add(offset) }))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let free = self.free.get_mut().unwrap_or_else(PoisonError::into_inner);
        for region in free.regions.drain(..) {
            // SAFETY: mapped by `Pieces::map` with this length; every segment holds a reference to the pool, so none is left.
            unsafe { unmap(region.0, REGION_BYTES) }
        }
    }
}

impl SegmentMemory {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory
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
        self.resident_bytes = end.next_multiple_of(PAGE_BYTES).min(self.memory.len());
        if self.is_full() {
            self.pool.free().fill(self.memory.start(), self.memory.len());
        }
        self.resident_bytes - before
    }

    /// Whether all of it has memory, in pages of its own.
    fn is_full(&self) -> bool {
        self.resident_bytes == self.memory.len() && self.memory.len() >= PAGE_BYTES
    }

    /// Gives the pages behind `end` back; what was there is zero then. Returns by how much
    /// [`SegmentMemory::resident_bytes`] fell.
    pub(crate) fn release_from(&mut self, end: usize) -> usize {
        // What is smaller than a page keeps it, for its neighbours and the next taker.
        let keep = if self.memory.len() < PAGE_BYTES && end > 0 {
            self.memory.len()
        } else {
            end.next_multiple_of(PAGE_BYTES)
        };
        if self.resident_bytes <= keep {
            return 0;
        }
        let released = self.resident_bytes - keep;
        if self.memory.len() < PAGE_BYTES {
            self.resident_bytes = 0;
            return released;
        }
        if self.is_full() {
            let mut free = self.pool.free();
            // It stays as it is while its block is gathered.
            if free.blocks.is_gathering(self.memory.start().0.addr().get()) {
                return 0;
            }
            free.blocks.empty(self.memory.start().0.addr().get(), self.memory.len());
        }
        // SAFETY: `keep` is at most `resident_bytes`, which is within the segment.
        let start = unsafe { self.memory.start().0.add(keep) };
        // SAFETY: whole pages of this segment; `&mut self` says that nobody has borrowed them.
        unsafe { discard(start, released) };
        self.resident_bytes = keep;
        released
    }
}

impl Drop for SegmentMemory {
    fn drop(&mut self) {
        let pool = Arc::clone(&self.pool);
        let (start, len) = (self.memory.start(), self.memory.len());
        if self.resident_bytes == len {
            let mut free = pool.free();
            if free.keep(start, KEPT_MAX) || len >= PAGE_BYTES && !free.empty(start, len) {
                return;
            }
        }
        if self.resident_bytes > 0 && len >= PAGE_BYTES {
            // SAFETY: whole pages of this segment, which goes.
            unsafe { discard(start.0, self.resident_bytes) };
        }
        pool.free().put(start);
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
pub(super) fn map(len: usize) -> NonNull<u8> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

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
    start
}

/// A region, which begins where a block may.
#[cfg(not(miri))]
fn map_blocks() -> NonNull<u8> {
    let start = map(REGION_BYTES);
    if start.addr().get().is_multiple_of(BLOCK_BYTES) {
        return start;
    }
    // SAFETY: just mapped, and nobody has it.
    unsafe { unmap(start, REGION_BYTES) };
    let start = map(REGION_BYTES + BLOCK_BYTES);
    let before = start.addr().get().next_multiple_of(BLOCK_BYTES) - start.addr().get();
    // SAFETY: what is asked for beyond a region is one block, and `before` is at most that.
    let (region, behind) = unsafe { (start.add(before), start.add(before + REGION_BYTES)) };
    if before > 0 {
        // SAFETY: the beginning of what was just mapped, in whole pages.
        unsafe { unmap(start, before) };
    }
    if before < BLOCK_BYTES {
        // SAFETY: the end of it.
        unsafe { unmap(behind, BLOCK_BYTES - before) };
    }
    region
}

/// Makes a block a huge page, whatever the system does by itself.
///
/// # Safety
/// A block of a mapping of [`map`].
#[cfg(not(miri))]
unsafe fn gather(block: NonNull<u8>) -> Worked {
    // SAFETY: the advice moves the contents to another page, and who reads or writes them meanwhile waits.
    let done = unsafe { libc::madvise(block.as_ptr().cast(), BLOCK_BYTES, libc::MADV_COLLAPSE) };
    // SAFETY: the thread's own, and the call has just set it if it failed.
    match (done, unsafe { *libc::__errno_location() }) {
        (0, _) => Worked::Done,
        // An old system (before Linux 6.1), or it was told to have none.
        (_, libc::EINVAL) => Worked::Refused,
        // No huge page is to be had now.
        _ => Worked::Idle,
    }
}

/// Makes a huge page of which some was given back small pages, so that the system has that memory again.
///
/// # Safety
/// As of [`gather`].
#[cfg(not(miri))]
unsafe fn part(block: NonNull<u8>) -> Worked {
    use rustix::mm::{Advice, madvise};

    // SAFETY: the advice changes no contents; that a page is cold is said of a part of a huge one by parting that. Refused, the
    // system does it by itself when it is short of memory.
    let _ = unsafe { madvise(block.as_ptr().cast(), BLOCK_BYTES, Advice::LinuxCold) };
    Worked::Done
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
    std::alloc::Layout::from_size_align(len, BLOCK_BYTES).expect("the length of a mapping, far below all memory")
}

#[cfg(miri)]
pub(super) fn map(len: usize) -> NonNull<u8> {
    // SAFETY: the layout is not empty.
    let start = unsafe { std::alloc::alloc_zeroed(layout(len)) };
    NonNull::new(start).unwrap_or_else(|| std::alloc::handle_alloc_error(layout(len)))
}

#[cfg(miri)]
fn map_blocks() -> NonNull<u8> {
    map(REGION_BYTES)
}

/// # Safety
/// As of the real one.
#[cfg(miri)]
unsafe fn gather(_block: NonNull<u8>) -> Worked {
    Worked::Refused
}

/// # Safety
/// As of the real one.
#[cfg(miri)]
unsafe fn part(_block: NonNull<u8>) -> Worked {
    Worked::Done
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
