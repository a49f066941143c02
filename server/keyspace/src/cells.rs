//! Rows of values that tables consist of: a page of the operating system each, which goes back to it with the row.
//!
//! Blocks of an allocator share its pages with others of their size, and a page stays resident while one of them is used: after 2 M
//! entries had made room for 30 thousand larger ones, 11 MB of index that was free were resident beside 2 MB that was not.
#![allow(unsafe_code)]

use crate::log::{Owned, PAGE_BYTES, Pieces, Start, Worked, discard};
use std::alloc::Layout;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pages that are free: those of the whole process, because a row has no room for a reference to its owner.
static FREE: Mutex<Pieces> = Mutex::new(Pieces::new());

/// Free pages that keep their memory for the next taker: 256 KiB.
const KEPT_MAX: usize = 64;

/// Values in a row, owned: in a page of their own if they fill one, else in a block of the heap.
#[derive(Debug)]
pub(crate) struct Cells<T: Copy>(Owned<T>);

impl<T: Copy> Cells<T> {
    /// So many values that fill a page.
    pub(crate) const PER_PAGE: usize = PAGE_BYTES / size_of::<T>();

    /// `len` times the value.
    ///
    /// Aborts the process if the system has no memory, as every allocation does.
    ///
    /// # Panics
    /// If `len` is 0 or more than fill a page.
    pub(crate) fn new(value: T, len: usize) -> Self {
        assert!((1..=Self::PER_PAGE).contains(&len));
        let start = if Self::is_page(len) {
            let mut free = free();
            let (page, has_memory) = free.take(PAGE_BYTES);
            if !has_memory {
                free.fill(page, PAGE_BYTES);
            }
            page.0.cast::<T>()
        } else {
            // SAFETY: the layout is not empty: neither is T, else no number of them would fill a page.
            let start = unsafe { std::alloc::alloc(Self::layout(len)) };
            NonNull::new(start.cast::<T>()).unwrap_or_else(|| std::alloc::handle_alloc_error(Self::layout(len)))
        };
        for index in 0..len {
            // SAFETY: within the memory just taken, which is aligned: T divides a page, and its layout was asked for.
            unsafe { start.add(index).write(value) };
        }
        // SAFETY: just written, into memory that is nobody else's until the row goes.
        Self(unsafe { Owned::new(start, len) })
    }

    fn is_page(len: usize) -> bool {
        const { assert!(size_of::<T>() > 0 && PAGE_BYTES.is_multiple_of(size_of::<T>())) }
        len == Self::PER_PAGE
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len).expect("less than a page")
    }
}

impl<T: Copy> Deref for Cells<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Copy> DerefMut for Cells<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: Copy> Drop for Cells<T> {
    fn drop(&mut self) {
        let start = self.0.start();
        if Self::is_page(self.len()) {
            return give_page(start);
        }
        // SAFETY: allocated in `new` with this layout, and the row goes.
        unsafe { std::alloc::dealloc(start.0.as_ptr(), Self::layout(self.len())) }
    }
}

fn free() -> MutexGuard<'static, Pieces> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`crate::log::work_on_blocks`].
pub(crate) fn work_on_blocks(now_s: u32) -> Worked {
    crate::log::work_on_blocks(&FREE, PAGE_BYTES, now_s)
}

/// Bytes of tables in huge pages, of the whole process.
pub(crate) fn huge_bytes() -> usize {
    free().huge_bytes()
}

fn give_page(page: Start) {
    let mut free = free();
    if free.keep(page, KEPT_MAX) || !free.empty(page, PAGE_BYTES) {
        return;
    }
    drop(free);
    // SAFETY: a whole page of a region, that its row has left and nobody else has.
    unsafe { discard(page.0, PAGE_BYTES) };
    self::free().put(page);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line = [u64; 8];

    #[test]
    fn rows_are_apart_and_filled_whatever_was_there() {
        let lens = [1, 3, 64, 64, 2, 64];
        for round in 0..3_u64 {
            let mut rows: Vec<Cells<Line>> = (0..200).map(|number| Cells::new([round; 8], lens[number % 6])).collect();
            for (number, row) in rows.iter_mut().enumerate() {
                assert!(row.iter().all(|line| *line == [round; 8]));
                row.fill([number as u64 + 10; 8]);
            }
            for (number, row) in rows.iter().enumerate() {
                assert_eq!(row.len(), lens[number % 6]);
                assert!(row.iter().all(|line| *line == [number as u64 + 10; 8]));
            }
        }
    }

    #[test]
    fn free_pages_keep_little_memory() {
        drop((0..KEPT_MAX + 100).map(|_| Cells::new([1_u64; 8], Cells::<Line>::PER_PAGE)).collect::<Vec<_>>());
        let mut free = free();
        let taken: Vec<(Start, bool)> = (0..KEPT_MAX + 100).map(|_| free.take(PAGE_BYTES)).collect();
        assert!(taken.iter().filter(|(_, has_memory)| *has_memory).count() <= KEPT_MAX);
        for (page, has_memory) in taken {
            if !has_memory || free.empty(page, PAGE_BYTES) {
                free.put(page);
            }
        }
    }
}
