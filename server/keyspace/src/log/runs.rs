//! Keys and values too large for a segment, each pair in memory of its own, by number.
//!
//! The allocator gives whole pages for these, so what is counted is what is resident. Whoever removes a run gets it to drop
//! when no lock is held: giving back 100 MB takes the system a while.

use crate::memory::size_class;

/// A value from here on gets an eighth of spare room when it grows; the allocator's classes end soon after, and appending page
/// by page would copy the whole value each time.
const SPARE_FROM: usize = 64 << 10;

/// A key and a large value, with zeros up to what the allocator gives.
#[derive(Debug)]
pub(crate) struct Run(#[expect(dead_code, reason = "held to be dropped")] Vec<u8>);

/// The runs of a log.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: Vec<Vec<u8>>,
    vacant: Vec<u32>,
    bytes: usize,
}

impl Runs {
    /// Bytes of all runs.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A new run that starts with key and value and has at least `len` bytes; its number.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], len: usize) -> u32 {
        let len = size_class(len.max(key.len() + value.len()));
        let mut run = Vec::with_capacity(len);
        run.extend_from_slice(key);
        run.extend_from_slice(value);
        run.resize(len, 0);
        self.bytes += len;
        match self.vacant.pop() {
            Some(number) => {
                self.runs[number as usize] = run;
                number
            }
            None => {
                self.runs.push(run);
                (self.runs.len() - 1) as u32
            }
        }
    }

    #[inline]
    pub(super) fn at(&self, number: u32) -> &[u8] {
        &self.runs[number as usize]
    }

    pub(super) fn at_mut(&mut self, number: u32) -> &mut [u8] {
        &mut self.runs[number as usize]
    }

    /// Makes a run at least `len` bytes long; what is behind `len_before` is zero afterwards.
    pub(super) fn lengthen(&mut self, number: u32, len_before: usize, len: usize) {
        let run = &mut self.runs[number as usize];
        let end = len.min(run.len());
        run[len_before..end].fill(0);
        if len > run.len() {
            let spare = if len < SPARE_FROM { 0 } else { len / 8 };
            let target = size_class(len + spare);
            self.bytes += target - run.len();
            run.reserve_exact(target - run.len());
            run.resize(target, 0);
        }
    }

    pub(super) fn remove(&mut self, number: u32) -> Run {
        let run = std::mem::take(&mut self.runs[number as usize]);
        self.bytes -= run.len();
        self.vacant.push(number);
        Run(run)
    }
}
