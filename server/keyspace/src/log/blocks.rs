//! Which memory is worth a huge page: what is known of each block of the size of one.
//!
//! Where an entry lies is chance, so nearly every access to one page of many misses the processor's table of addresses, and the
//! walk through the page tables costs as much as the access. A huge page is looked up once for 2 MiB. But memory that comes and goes
//! by the page cannot have huge ones from the beginning: what is given back of one is not free before all of it is, and
//! the next byte written makes all of it resident.
//!
//! So a block is gathered into a huge page only when every byte of it is in use, and has been for a while, and is parted into small pages
//! as soon as some of it is given back. One that was parted soon waits longer the next time.
//!
//! ```text
//!     small ── whole and calm ──► gathering ──► huge ── a piece is given back ──► torn ──► small
//!                                     └── a piece is given back meanwhile ─────────▲
//! ```
//!
//! This file keeps the books; [`super::pool`] owns the memory and asks the system.

use std::collections::{BTreeMap, VecDeque};

/// Of a huge page, on the processors we build for.
pub(crate) const BLOCK_BYTES: usize = 2 << 20;

/// A block must have been whole for so long, in s, before it is gathered. Doubled each time it was parted soon after.
const CALM_S_MIN: u32 = 2;
const CALM_S_MAX: u32 = 256;

/// Parted after less than so many times of what it was calm for is soon.
const LIVES_CALM: u32 = 16;

/// Candidates that one call looks at: it is under a lock that writers take.
const LOOKS_MAX: usize = 64;

/// What is to be done with a block, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Make it a huge page, then tell [`Blocks::gathered`].
    Gather(usize),
    /// Make it small pages.
    Part(usize),
}

/// All blocks of some regions.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    by_address: BTreeMap<usize, Block>,
    /// Blocks that are whole, or were when they came here; each at most once.
    candidates: VecDeque<usize>,
    torn: VecDeque<usize>,
    huge: usize,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    state: State,
    /// Bytes in use, of pieces all of whose bytes are.
    bytes: u32,
    /// In s; since when it is whole as far as somebody has looked, or huge.
    since_s: Option<u32>,
    calm_s: u32,
    is_candidate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Small,
    Gathering,
    Huge,
    Torn,
}

impl Block {
    fn is_whole(&self) -> bool {
        self.bytes as usize == BLOCK_BYTES
    }
}

impl Blocks {
    pub(crate) const fn new() -> Self {
        Self { by_address: BTreeMap::new(), candidates: VecDeque::new(), torn: VecDeque::new(), huge: 0 }
    }

    /// The blocks from `start` on, of which nothing is in use. `start` and `len` are multiples of a block.
    pub(crate) fn add_region(&mut self, start: usize, len: usize) {
        debug_assert!(start.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES));
        let block = Block { state: State::Small, bytes: 0, since_s: None, calm_s: CALM_S_MIN, is_candidate: false };
        self.by_address.extend((start..start + len).step_by(BLOCK_BYTES).map(|address| (address, block)));
    }

    /// All of the piece at this address is in use now.
    pub(crate) fn fill(&mut self, piece: usize, bytes: usize) {
        let address = block_of(piece);
        let Some(block) = self.by_address.get_mut(&address) else { return };
        block.bytes += bytes as u32;
        debug_assert!(block.bytes as usize <= BLOCK_BYTES);
        if block.is_whole() && block.state == State::Small && !block.is_candidate {
            block.is_candidate = true;
            self.candidates.push_back(address);
        }
    }

    /// A piece that was in use as a whole will not be. Whether its memory may be given back now: else after the gathering that
    /// is under way, which would make it resident again.
    pub(crate) fn empty(&mut self, piece: usize, bytes: usize) -> bool {
        let address = block_of(piece);
        let Some(block) = self.by_address.get_mut(&address) else { return true };
        debug_assert!(block.bytes as usize >= bytes);
        block.bytes -= bytes as u32;
        if block.state == State::Small {
            block.since_s = None;
        }
        if block.state == State::Huge {
            block.state = State::Torn;
            self.huge -= 1;
            self.torn.push_back(address);
        }
        block.state != State::Gathering
    }

    pub(crate) fn is_gathering(&self, piece: usize) -> bool {
        self.by_address.get(&block_of(piece)).is_some_and(|block| block.state == State::Gathering)
    }

    /// What is to be done first, if anything is. Looks at a few candidates. `now_s` is from any clock that goes on.
    pub(crate) fn next(&mut self, now_s: u32) -> Option<Work> {
        if let Some(address) = self.torn.pop_front() {
            if let Some(block) = self.by_address.get_mut(&address) {
                let lived_s = now_s.saturating_sub(block.since_s.take().unwrap_or(now_s));
                block.calm_s = match lived_s < LIVES_CALM * block.calm_s {
                    true => (2 * block.calm_s).min(CALM_S_MAX),
                    false => (block.calm_s / 2).max(CALM_S_MIN),
                };
                block.state = State::Small;
                self.propose(address);
            }
            return Some(Work::Part(address));
        }
        for _ in 0..self.candidates.len().min(LOOKS_MAX) {
            let address = self.candidates.pop_front()?;
            let Some(block) = self.by_address.get_mut(&address) else { continue };
            if !block.is_whole() || block.state != State::Small {
                block.is_candidate = false;
                continue;
            }
            let since_s = *block.since_s.get_or_insert(now_s);
            if now_s.saturating_sub(since_s) >= block.calm_s {
                block.is_candidate = false;
                block.state = State::Gathering;
                return Some(Work::Gather(address));
            }
            self.candidates.push_back(address);
        }
        None
    }

    /// How a gathering has ended. What was emptied meanwhile may be given back now.
    pub(crate) fn gathered(&mut self, address: usize, is_huge: bool, now_s: u32) {
        let Some(block) = self.by_address.get_mut(&address) else { return };
        block.since_s = Some(now_s);
        block.state = match (is_huge, block.is_whole()) {
            (true, true) => State::Huge,
            (true, false) => State::Torn,
            (false, _) => State::Small,
        };
        match block.state {
            State::Huge => self.huge += 1,
            State::Torn => self.torn.push_back(address),
            _ => {
                // The system had no huge page to give; it may have one later.
                block.calm_s = CALM_S_MAX;
                block.since_s = None;
                self.propose(address);
            }
        }
    }

    /// Blocks that are huge pages.
    pub(crate) fn huge(&self) -> usize {
        self.huge
    }

    fn propose(&mut self, address: usize) {
        let Some(block) = self.by_address.get_mut(&address) else { return };
        if block.is_whole() && !block.is_candidate {
            block.is_candidate = true;
            self.candidates.push_back(address);
        }
    }
}

fn block_of(piece: usize) -> usize {
    piece / BLOCK_BYTES * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: usize = 5 * BLOCK_BYTES;
    const PIECE: usize = BLOCK_BYTES / 4;

    fn whole() -> Blocks {
        let mut blocks = Blocks::new();
        blocks.add_region(START, 2 * BLOCK_BYTES);
        (0..4).for_each(|number| blocks.fill(START + number * PIECE, PIECE));
        blocks
    }

    #[test]
    fn a_block_that_is_whole_and_calm_becomes_huge_and_small_again_with_the_first_piece_that_goes() {
        let mut blocks = whole();
        assert_eq!(blocks.next(10), None, "not calm yet");
        assert_eq!(blocks.next(11), None);
        assert_eq!(blocks.next(12), Some(Work::Gather(START)));
        assert_eq!(blocks.next(99), None, "it is under way");
        blocks.gathered(START, true, 12);
        assert_eq!(blocks.huge(), 1);
        assert!(blocks.empty(START + PIECE, PIECE), "its memory may go at once");
        assert_eq!(blocks.huge(), 0);
        assert_eq!(blocks.next(20), Some(Work::Part(START)));
        assert_eq!(blocks.next(999), None, "it is not whole");
        blocks.fill(START + PIECE, PIECE);
        assert_eq!(blocks.next(1_000), None);
        assert_eq!(blocks.next(1_003), None, "it was torn soon, so it has to be calm for longer");
        assert_eq!(blocks.next(1_004), Some(Work::Gather(START)));
    }

    #[test]
    fn what_changes_is_not_calm() {
        let mut blocks = whole();
        assert_eq!(blocks.next(10), None);
        assert!(blocks.empty(START, PIECE));
        blocks.fill(START, PIECE);
        assert_eq!(blocks.next(12), None);
        assert_eq!(blocks.next(14), Some(Work::Gather(START)));
    }

    #[test]
    fn a_piece_that_goes_while_its_block_is_gathered_waits_for_the_end_of_that() {
        let mut blocks = whole();
        blocks.next(10);
        assert_eq!(blocks.next(12), Some(Work::Gather(START)));
        assert!(blocks.is_gathering(START + 1) && !blocks.is_gathering(START + BLOCK_BYTES));
        assert!(!blocks.empty(START, PIECE));
        blocks.gathered(START, true, 13);
        assert_eq!(blocks.next(13), Some(Work::Part(START)));
        assert_eq!(blocks.huge(), 0);
    }

    #[test]
    fn without_huge_pages_nobody_asks_again_soon() {
        let mut blocks = whole();
        blocks.next(10);
        assert_eq!(blocks.next(12), Some(Work::Gather(START)));
        blocks.gathered(START, false, 12);
        assert_eq!(blocks.next(13), None);
        assert_eq!(blocks.next(13 + CALM_S_MAX - 1), None);
        assert_eq!(blocks.next(13 + CALM_S_MAX), Some(Work::Gather(START)));
    }

    proptest! {
        /// However pieces come and go: only whole blocks are gathered, each huge one that loses a piece is parted, and the count is right.
        #[test]
        fn books_are_right(steps in proptest::collection::vec((0_usize..8, any::<bool>(), 0_u32..40), 1..400)) {
            let mut blocks = Blocks::new();
            blocks.add_region(START, 2 * BLOCK_BYTES);
            let mut used = [false; 8];
            let mut huge = [false; 2];
            let mut gathering = None;
            let mut now_s = 0;
            for (piece, works, pause_s) in steps {
                now_s += pause_s;
                if !works {
                    let at = START + piece * PIECE;
                    match used[piece] {
                        false => blocks.fill(at, PIECE),
                        true => {
                            let may_go = blocks.empty(at, PIECE);
                            prop_assert_eq!(may_go, gathering != Some(piece / 4));
                        }
                    }
                    used[piece] = !used[piece];
                    continue;
                }
                if let Some(block) = gathering.take() {
                    let is_huge = pause_s % 5 != 0;
                    blocks.gathered(START + block * BLOCK_BYTES, is_huge, now_s);
                    huge[block] = is_huge;
                }
                let whole = |block: usize| used[4 * block..][..4].iter().all(|used| *used);
                match blocks.next(now_s) {
                    Some(Work::Gather(address)) => {
                        let block = (address - START) / BLOCK_BYTES;
                        prop_assert!(whole(block) && !huge[block]);
                        gathering = Some(block);
                    }
                    Some(Work::Part(address)) => {
                        let block = (address - START) / BLOCK_BYTES;
                        prop_assert!(huge[block]);
                        huge[block] = false;
                    }
                    None => {
                        for (address, block) in &blocks.by_address {
                            let is_huge = huge[(address - START) / BLOCK_BYTES];
                            prop_assert!(!is_huge || block.state == State::Huge);
                        }
                    }
                }
                let states = blocks.by_address.values().filter(|block| block.state == State::Huge).count();
                prop_assert_eq!(blocks.huge(), states);
            }
        }
    }
}
