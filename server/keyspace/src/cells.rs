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

/// Values one behind the other in rows of a page each, to which more are added at the end. Nothing that fills a page is copied when they become more, nor
/// left behind for the allocator when they become fewer: what it frees it gives back to the system in one go, milliseconds for what a shard may have.
#[derive(Debug)]
pub(crate) struct Rows<T: Copy> {
    /// The only row may be shorter than a page.
    rows: Vec<Cells<T>>,
    len: usize,
    /// Of all rows.
    capacity: usize,
}

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

impl<T: Copy> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), len: 0, capacity: 0 }
    }
}

impl<T: Copy> Rows<T> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Values that there is room for.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of all rows and their list.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.capacity * size_of::<T>() + self.rows.capacity() * size_of::<Cells<T>>()
    }

    #[inline]
    pub(crate) fn at(&self, number: usize) -> &T {
        &self.rows[number / Cells::<T>::PER_PAGE][number % Cells::<T>::PER_PAGE]
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, number: usize) -> &mut T {
        &mut self.rows[number / Cells::<T>::PER_PAGE][number % Cells::<T>::PER_PAGE]
    }

    pub(crate) fn push(&mut self, value: T) {
        if self.len == self.capacity {
            self.grow(value);
        }
        self.len += 1;
        *self.at_mut(self.len - 1) = value;
    }

    /// Room for more; `value` stands there meanwhile.
    #[cold]
    fn grow(&mut self, value: T) {
        let first = self.rows.first_mut().filter(|first| first.len() < Cells::<T>::PER_PAGE);
        if let Some(first) = first {
            let mut larger = Cells::new(value, first.len() * 2);
            larger[..first.len()].copy_from_slice(first);
            *first = larger;
            self.capacity *= 2;
        } else {
            let len = if self.rows.is_empty() { 1 } else { Cells::<T>::PER_PAGE };
            self.rows.push(Cells::new(value, len));
            self.capacity += len;
        }
    }

    /// Drops the last value.
    pub(crate) fn pop(&mut self) {
        self.len -= 1;
        if self.len.is_multiple_of(Cells::<T>::PER_PAGE) && self.rows.len() > 1 {
            self.rows.pop();
            self.capacity -= Cells::<T>::PER_PAGE;
            if self.rows.len() * 4 < self.rows.capacity() {
                self.rows.shrink_to(self.rows.len() * 2);
            }
        } else if self.rows.len() == 1 && self.len > 0 && self.len * 4 <= self.capacity {
            self.capacity /= 2;
            let mut smaller = Cells::new(self.rows[0][0], self.capacity);
            smaller.copy_from_slice(&self.rows[0][..self.capacity]);
            self.rows[0] = smaller;
        }
    }

    /// All values.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.rows.iter_mut().flat_map(|row| row.iter_mut()).take(self.len)
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
