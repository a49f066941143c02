//! A segment: a piece of memory with entries one after the other, and what is known of them.

use super::NONE;
use super::labels::Label;
use super::layout::EntryView;
use super::pool::SegmentMemory;

/// One segment of a log; without memory if its number is not in use.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) memory: Option<SegmentMemory>,
    /// Bytes up to the end of its last entry.
    pub(super) used: u32,
    /// Bytes from the start that hold no live entry.
    pub(super) walked: u32,
    pub(super) live_bytes: u32,
    pub(super) live_count: u32,
    pub(super) older: u32,
    pub(super) newer: u32,
    /// Says in which list it is.
    pub(super) label: Label,
    /// No live entry of it is gone before.
    pub(super) gone_at_ms_min: u64,
    /// When it was last searched for entries that are gone.
    pub(super) searched_at_ms: u64,
    pub(super) opened_at_ms: u64,
}

impl Segment {
    pub(super) fn vacant() -> Self {
        Self {
            memory: None,
            used: 0,
            walked: 0,
            live_bytes: 0,
            live_count: 0,
            older: NONE,
            newer: NONE,
            label: Label::default(),
            gone_at_ms_min: u64::MAX,
            searched_at_ms: 0,
            opened_at_ms: 0,
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| memory.bytes())
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], |memory| memory.bytes_mut())
    }

    /// Where the first live entry from `at` on starts.
    pub(super) fn next_live(&self, mut at: usize, end: usize) -> Option<usize> {
        let bytes = self.bytes();
        while at < end {
            let view = EntryView::new(&bytes[at..]);
            if !view.is_dead() {
                return Some(at);
            }
            at += view.bytes();
        }
        None
    }
}
