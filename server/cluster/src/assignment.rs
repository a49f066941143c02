//! Weighted rendezvous over blocks of slots, evened out.
//!
//! Each block belongs to the node with the highest score, `-weight / ln(hash of node and block)`. So a node that comes or goes moves only what it
//! gets or had. But chance gives some of ten nodes a tenth more than their share, and some a tenth less. So weights are corrected by how
//! far the count of blocks is off, a few rounds long, and what is then still off goes block by block, those first that lose least by it.
//! The corrections move blocks between nodes that stay, when one comes: about 1 % of all at ten nodes.
//!
//! Giving each block to the best node that has room, with room for 1 % more than the share, is simpler; the last of ten nodes then has as little
//! as 87 % of its share, and as many blocks move.

use crate::SLOTS;
use crate::hash::{FRACTION_BITS, log2, of_pair};

/// Slots in a block: neighbours with one owner, so that lists of ranges are short. Blocks of 16 are too coarse for shares within 2 % at 32
/// nodes, and move twice as much beyond what must move.
pub(crate) const BLOCK_SLOTS: u16 = 8;

/// Blocks of slots.
pub(crate) const BLOCKS: usize = (SLOTS / BLOCK_SLOTS) as usize;

/// Corrections of the weights. The first few do most; the later ones are smaller and settle it.
const ROUNDS: i64 = 48;

/// A node, as far as the map is concerned.
pub(crate) struct Candidate {
    /// Of its name; no other has it.
    pub(crate) hash: u64,
    /// At least 1.
    pub(crate) weight: u32,
}

/// The owner of each block, by its place among the candidates. There is one at least, and at most as many as blocks.
pub(crate) fn assign(candidates: &[Candidate]) -> Vec<usize> {
    let scores_of = |candidate| (0..BLOCKS).map(|block| score(candidate, block)).collect();
    let mut scores: Vec<Vec<i64>> = candidates.iter().map(scores_of).collect();
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    for round in 0..ROUNDS {
        let counts = counts(&best(candidates, &scores), candidates.len());
        for ((candidate, count), scores) in candidates.iter().zip(counts).zip(&mut scores) {
            let share = log2(BLOCKS as u64 * u64::from(candidate.weight)) as i64 - log2(total) as i64;
            let surplus = log2(count.max(1)) as i64 - share;
            let step = surplus * 8 / (8 + round);
            scores.iter_mut().for_each(|score| *score -= step);
        }
    }
    let mut owners = best(candidates, &scores);
    even_out(&mut owners, &scores, &bounds(candidates));
    owners
}

/// The logarithm of the score in fixed point: its order is that of the score, and a factor of the weight is a summand.
fn score(candidate: &Candidate, block: usize) -> i64 {
    score_of(of_pair(candidate.hash, block as u64), candidate.weight)
}

/// As [`score`], by the hash of the candidate and what it is a candidate for.
pub(crate) fn score_of(hash: u64, weight: u32) -> i64 {
    // Above the logarithm of the largest hash, so that no score is infinite.
    const MOST: u64 = 64 << FRACTION_BITS;
    log2(u64::from(weight)) as i64 - log2(MOST - log2(hash.max(1))) as i64
}

/// The node with the highest score, for each block.
fn best(candidates: &[Candidate], scores: &[Vec<i64>]) -> Vec<usize> {
    let best_of = |block: usize| {
        let places = 0..candidates.len();
        places.max_by_key(|place| (scores[*place][block], candidates[*place].hash)).expect("there is a candidate")
    };
    (0..BLOCKS).map(best_of).collect()
}

fn counts(owners: &[usize], candidates: usize) -> Vec<u64> {
    let mut counts = vec![0; candidates];
    owners.iter().for_each(|owner| counts[*owner] += 1);
    counts
}

/// How many blocks a node may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    least: u64,
    most: u64,
}

/// Within 2 % of the share, or less than a block from it; one block at least.
fn bounds(candidates: &[Candidate]) -> Vec<Bounds> {
    const PERCENT: u64 = 2;
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let bounds_of = |candidate: &Candidate| {
        let blocks = BLOCKS as u64 * u64::from(candidate.weight);
        let least = (blocks * (100 - PERCENT)).div_ceil(total * 100).min(blocks / total).max(1);
        let most = (blocks * (100 + PERCENT) / (total * 100)).max(blocks.div_ceil(total));
        Bounds { least, most }
    };
    candidates.iter().map(bounds_of).collect()
}

/// Moves single blocks from nodes above their bounds, and to nodes below them.
fn even_out(owners: &mut [usize], scores: &[Vec<i64>], bounds: &[Bounds]) {
    let mut counts = counts(owners, bounds.len());
    loop {
        let is_any_short = counts.iter().zip(bounds).any(|(count, bounds)| *count < bounds.least);
        let is_any_over = counts.iter().zip(bounds).any(|(count, bounds)| *count > bounds.most);
        if !is_any_short && !is_any_over {
            return;
        }
        let may_give = |place: usize| {
            let bounds = bounds[place];
            counts[place] > if is_any_over { bounds.most } else { bounds.least }
        };
        let may_take = |place: &usize| {
            let bounds = bounds[*place];
            counts[*place] < if is_any_short { bounds.least } else { bounds.most }
        };
        let takers: Vec<usize> = (0..counts.len()).filter(may_take).collect();
        let givers = owners.iter().enumerate().filter(|(_, owner)| may_give(**owner));
        let moves = givers.flat_map(|(block, owner)| {
            takers.iter().map(move |taker| (scores[*owner][block] - scores[*taker][block], block, *taker))
        });
        // There is none only where nodes of the least weights take more than their shares, one block each.
        let Some((_, block, taker)) = moves.min() else { return };
        counts[owners[block]] -= 1;
        counts[taker] += 1;
        owners[block] = taker;
    }
}
