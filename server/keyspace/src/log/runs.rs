//! Keys and values too large for a segment, each pair in memory of its own, by number.
//!
//! Whoever removes a run gets it to drop when no lock is held: giving back 100 MB takes the system a while.

use super::extents::{Extent, Extents};
use std::sync::Arc;

/// A value that grows gets this part of its length as spare room, or many appends would copy it each time.
const SPARE_PARTS: usize = 8;

/// A key and a large value, with zeros up to the end of its extent.
#[derive(Debug)]
pub(crate) struct Run(#[expect(dead_code, reason = "held to be dropped")] Extent);

/// The runs of a log.
#[derive(Debug)]
pub(super) struct Runs {
    extents: Arc<Extents>,
    runs: Vec<Option<Extent>>,
    vacant: Vec<u32>,
    bytes: usize,
    table_bytes: usize,
}

impl Runs {
    pub(super) fn new(extents: Arc<Extents>) -> Self {
        Self { extents, runs: Vec::new(), vacant: Vec::new(), bytes: 0, table_bytes: 0 }
    }

    /// Bytes of all runs.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the tables that say where they are.
    #[inline]
    pub(super) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    /// A new run that starts with key and value and has at least `len` bytes; its number.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], len: usize) -> u32 {
        let mut run = self.extents.take(len.max(key.len() + value.len()));
        let (key_part, rest) = run.bytes_mut().split_at_mut(key.len());
        let (value_part, spare) = rest.split_at_mut(value.len());
        key_part.copy_from_slice(key);
        value_part.copy_from_slice(value);
        spare.fill(0);
        self.bytes += run.len();
        match self.vacant.pop() {
            Some(number) => {
                self.runs[number as usize] = Some(run);
                number
            }
            None => {
                self.runs.push(Some(run));
                self.note_tables();
                (self.runs.len() - 1) as u32
            }
        }
    }

    #[inline]
    pub(super) fn at(&self, number: u32) -> &[u8] {
        self.runs[number as usize].as_ref().expect(IN_USE).bytes()
    }

    pub(super) fn at_mut(&mut self, number: u32) -> &mut [u8] {
        self.runs[number as usize].as_mut().expect(IN_USE).bytes_mut()
    }

    /// Makes a run at least `len` bytes long; what is behind `len_before` is zero afterwards. What it was in before is
    /// returned if it had to move.
    pub(super) fn lengthen(&mut self, number: u32, len_before: usize, len: usize) -> Option<Run> {
        let run = self.runs[number as usize].as_mut().expect(IN_USE);
        let run_bytes_before = run.len();
        if len <= run_bytes_before {
            run.bytes_mut()[len_before..len].fill(0);
            return None;
        }
        let target = len + len / SPARE_PARTS;
        let mut left = None;
        if !run.try_lengthen(target) {
            let mut longer = self.extents.take(target);
            longer.bytes_mut()[..len_before].copy_from_slice(&run.bytes()[..len_before]);
            left = Some(Run(std::mem::replace(run, longer)));
        }
        run.bytes_mut()[len_before..].fill(0);
        self.bytes += run.len() - run_bytes_before;
        left
    }

    pub(super) fn remove(&mut self, number: u32) -> Run {
        let run = self.runs[number as usize].take().expect(IN_USE);
        self.bytes -= run.len();
        self.vacant.push(number);
        self.note_tables();
        Run(run)
    }

    fn note_tables(&mut self) {
        self.table_bytes =
            self.runs.capacity() * size_of::<Option<Extent>>() + self.vacant.capacity() * size_of::<u32>();
    }
}

const IN_USE: &str = "an entry names its run as long as there is one";
