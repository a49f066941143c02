//! How often the clients of other nodes read each key here, as far as it takes to tell which keys are hot.
//!
//! Only reads that came over links count: a copy saves those, and its owner's own clients have no shorter way. Keys are counted by their cells, in windows
//! of a quarter of a second; a key that shares the cell of a hot one is taken for hot, too, which costs copies and is not wrong.

use leasehold_cluster::{CELLS, Cell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A count begins anew after so many ms: short, so that a key is found soon, and long enough for a few hundred reads.
const WINDOW_MS: u64 = 256;

/// What was hot is taken for hot so long: reads that copies answer are not seen here.
const HOT_FOR_MS: u64 = 10_000;

/// One read in so many is looked at, by chance, and stands for all.
pub(crate) const READS_PER_SAMPLE: u64 = 8;

/// See the module. All threads count in it, each a read in some: the line of a hot key goes from one to the other some 10,000 times a second.
#[derive(Debug)]
pub(crate) struct Heat {
    cells: Box<[Count]>,
    /// Reads in a window that make a key hot.
    reads_min: u32,
}

/// Of one cell. All loads and stores are relaxed: a read that is counted in the wrong window changes nothing that matters.
#[derive(Debug, Default)]
struct Count {
    /// High: the number of the window. Low: reads in it.
    reads: AtomicU64,
    hot_until_ms: AtomicU64,
}

impl Heat {
    /// Where `rate` reads a second make a key hot.
    pub(crate) fn new(rate: u64) -> Self {
        let reads_min = rate.saturating_mul(WINDOW_MS).div_ceil(1_000);
        Self {
            cells: (0..CELLS).map(|_| Count::default()).collect(),
            reads_min: u32::try_from(reads_min).unwrap_or(u32::MAX).max(1),
        }
    }

    /// Notes a read of a key of this cell that stands for [`READS_PER_SAMPLE`]. Whether the key is hot.
    pub(crate) fn note(&self, cell: Cell, now_ms: u64) -> bool {
        let count = &self.cells[cell.index()];
        let window = (now_ms / WINDOW_MS) & u64::from(u32::MAX);
        let more = |before: u64| {
            let reads = if before >> 32 == window { before & u64::from(u32::MAX) } else { 0 };
            (window << 32) | (reads + READS_PER_SAMPLE).min(u64::from(u32::MAX))
        };
        let before =
            count.reads.fetch_update(Relaxed, Relaxed, |before| Some(more(before))).unwrap_or_else(|same| same);
        if more(before) as u32 >= self.reads_min {
            count.hot_until_ms.store(now_ms + HOT_FOR_MS, Relaxed);
            return true;
        }
        count.hot_until_ms.load(Relaxed) > now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time at which a window begins.
    const START_MS: u64 = 1_700_000_000_000 / WINDOW_MS * WINDOW_MS;

    /// Whether a key is hot after `seconds` of `samples` a second, evenly.
    fn is_hot(heat: &Heat, cell: Cell, samples: u64, seconds: u64) -> bool {
        (0..samples * seconds).fold(false, |_, sample| heat.note(cell, START_MS + sample * 1_000 / samples))
    }

    #[test]
    fn a_key_is_hot_above_the_rate_and_not_below() {
        let (one, other) = (Cell::of_key(b"one"), Cell::of_key(b"other"));
        let heat = Heat::new(10_000);
        assert!(!is_hot(&heat, one, 9_000 / READS_PER_SAMPLE, 20));
        assert!(is_hot(&heat, other, 11_000 / READS_PER_SAMPLE, 1));
        assert!(!heat.note(one, START_MS + 30_000), "its neighbour is not");
    }

    #[test]
    fn it_is_found_within_a_window_and_forgotten_after_a_while() {
        let (heat, cell) = (Heat::new(10_000), Cell::of_key(b"key"));
        let sample = (0..).find(|sample| heat.note(cell, START_MS + sample / 10)).expect("10,000 samples a second");
        assert!(sample / 10 < WINDOW_MS);
        let hot_at_ms = START_MS + sample / 10;
        assert!(heat.note(cell, hot_at_ms + HOT_FOR_MS - 1), "copies answer, and few reads are seen");
        assert!(!heat.note(cell, hot_at_ms + HOT_FOR_MS + WINDOW_MS));
    }
}
