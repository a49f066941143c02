//! Rows of values that tables consist of: a page of the operating system each, which goes back to it with the row.
//!
//! Blocks of an allocator share its pages with others of their size, and a page stays resident while one of them is used: after 2 M
//! entries had made room for 30 thousand larger ones, 11 MB of index that was free were resident beside 2 MB that was not.
#![allow(unsafe_code)]

use crate::log::{PAGE_BYTES, Start, discard, map};
use std::alloc::Layout;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pages that are free: those of the whole process, because a row has no room for a reference to its owner.
static FREE: Mutex<Free> = Mutex::new(Free { bare: Vec::new(), kept: Vec::new() });

/// Free pages that keep their memory for the next taker: 256 KiB.
const KEPT_MAX: usize = 64;

/// Mapped at a time. Untouched, it costs address space only.
const REGION_BYTES: usize = 4 << 20;

#[derive(Debug)]
struct Free {
    /// Without memory.
    bare: Vec<Start>,
    /// With memory; at most [`KEPT_MAX`].
    kept: Vec<Start>,
}

/// Values in a row, owned: in a page of their own if they fill one, else in a block of the heap.
#[derive(Debug)]
pub(crate) struct Cells<T: Copy> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the values are owned, as those of a Box are.
unsafe impl<T: Copy + Send> Send for Cells<T> {}
// SAFETY: as above; `&Cells` gives out `&[T]` only.
unsafe impl<T: Copy + Sync> Sync for Cells<T> {}

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
            take_page().0.cast::<T>()
        } else {
            // SAFETY: the layout is not empty: neither is T, else no number of them would fill a page.
            let start = unsafe { std::alloc::alloc(Self::layout(len)) };
            NonNull::new(start.cast::<T>()).unwrap_or_else(|| std::alloc::handle_alloc_error(Self::layout(len)))
        };
        for index in 0..len {
            // SAFETY: within the memory just taken, which is aligned: T divides a page, and its layout was asked for.
            unsafe { start.add(index).write(value) };
        }
        Self { start, len }
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
        // SAFETY: `len` initialised values at `start` belong to this row alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Cells<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Cells<T> {
    fn drop(&mut self) {
        if Self::is_page(self.len) {
            give_page(Start(self.start.cast()));
        } else {
            // SAFETY: allocated in `new` with this layout, and the row goes.
            unsafe { std::alloc::dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_page() -> Start {
    let mut free = free();
    if let Some(page) = free.kept.pop().or_else(|| free.bare.pop()) {
        return page;
    }
    let region = Start(map(REGION_BYTES));
    for offset in (PAGE_BYTES..REGION_BYTES).step_by(PAGE_BYTES).rev() {
        // SAFETY: the region has REGION_BYTES bytes, and `offset` is less.
        free.bare.push(Start(unsafe { region.0.add(offset) }));
    }
    region
}

fn give_page(page: Start) {
    let mut kept = free();
    if kept.kept.len() < KEPT_MAX {
        return kept.kept.push(page);
    }
    drop(kept);
    // SAFETY: a whole page of a region, that its row has left and nobody else has.
    unsafe { discard(page.0, PAGE_BYTES) };
    free().bare.push(page);
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
        let free = free();
        assert!(free.kept.len() <= KEPT_MAX && free.bare.len() >= 100);
    }
}
