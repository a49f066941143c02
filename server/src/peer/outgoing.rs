//! What is to be sent to a node: frames in pieces, each of which begins with the time until which it may be executed.

use super::frame::{self, Sent};
use std::collections::VecDeque;

/// A piece with so many bytes gets no more frames: the next has a time of its own, so that a line that is busy for long makes nothing late.
const PIECE_BYTES: usize = 256 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// None is empty; each begins with a [`frame::TIME`].
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that are sent.
    sent: usize,
    /// Bytes of all pieces, without those that are sent.
    unsent: usize,
    /// The buffer of a piece that was sent.
    spare: Vec<u8>,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that are not sent.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Adds a frame; with how old the answer may be, if it is for a stand-in.
    pub(super) fn put(&mut self, frame: Sent<'_>, age_max_ms: Option<u64>) {
        if self.pieces.back().is_none_or(|piece| piece.len() >= PIECE_BYTES) {
            let mut piece = std::mem::take(&mut self.spare);
            frame::put(&mut piece, Sent { id: 0, number: 0, kind: frame::TIME, bytes: &[] });
            self.unsent += piece.len();
            self.pieces.push_back(piece);
        }
        let piece = self.pieces.back_mut().expect("it was just put there");
        let len = piece.len();
        match age_max_ms {
            None => frame::put(piece, frame),
            Some(age_max_ms) => frame::put_for_stand_in(piece, frame, age_max_ms),
        }
        self.unsent += piece.len() - len;
    }

    /// What is to be sent next, if anything is. `until_ms` is the time of a piece that begins with this.
    pub(super) fn next(&mut self, until_ms: u64) -> Option<&[u8]> {
        let piece = self.pieces.front_mut()?;
        if self.sent == 0 {
            frame::set_number(piece, until_ms);
        }
        Some(&piece[self.sent..])
    }

    /// So many bytes of [`Outgoing::next`] were sent.
    pub(super) fn note_sent(&mut self, count: usize) {
        self.unsent -= count;
        self.sent += count;
        if self.pieces.front().is_some_and(|piece| piece.len() == self.sent) {
            self.sent = 0;
            let mut piece = self.pieces.pop_front().unwrap_or_default();
            piece.clear();
            if piece.capacity() <= 2 * PIECE_BYTES {
                self.spare = piece;
            }
        }
        if self.pieces.is_empty() {
            self.pieces.shrink_to(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Next, next_sent};
    use super::*;

    /// Frames that were sent: kind, number, bytes.
    fn frames(mut input: &[u8]) -> Vec<(u8, u64, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Next::Frame(frame, len) = next_sent(input, frame::REQUEST_BYTES_MAX) {
            frames.push((frame.kind, frame.number, frame.bytes.to_vec()));
            input = &input[len..];
        }
        assert!(input.is_empty(), "{} bytes are no frame", input.len());
        frames
    }

    #[test]
    fn a_backlog_that_never_ends_takes_no_more_than_what_is_unsent() {
        let mut outgoing = Outgoing::default();
        let request = vec![b'x'; 10_000];
        let mut wire = Vec::new();
        let mut written = 0_u64;
        for now_ms in 0..5_000 {
            for _ in 0..2 {
                if outgoing.unsent() < 1_000_000 {
                    written += 1;
                    outgoing.put(Sent { id: 7, number: written, kind: 0, bytes: &request }, None);
                }
            }
            let part = outgoing.next(now_ms + 1_000).expect("there is always more");
            let count = part.len().min(15_013);
            wire.extend_from_slice(&part[..count]);
            outgoing.note_sent(count);
            let held: usize = outgoing.pieces.iter().map(Vec::capacity).sum();
            assert!(held <= outgoing.unsent() + outgoing.pieces.len() * PIECE_BYTES + 4 * PIECE_BYTES, "{held}");
        }
        while let Some(part) = outgoing.next(6_000) {
            let count = part.len();
            wire.extend_from_slice(part);
            outgoing.note_sent(count);
        }
        assert!(outgoing.is_empty() && outgoing.unsent() == 0);
        let (times, requests): (Vec<_>, Vec<_>) =
            frames(&wire).into_iter().partition(|(kind, ..)| *kind == frame::TIME);
        assert!(requests.iter().map(|(_, number, _)| *number).eq(1..=written), "each once, in order");
        assert!(requests.iter().all(|(_, _, bytes)| *bytes == request));
        assert!(times.windows(2).all(|pair| pair[0].1 <= pair[1].1), "a time for each piece, when it begins");
        assert!(times.len() > wire.len() / (2 * PIECE_BYTES));
    }
}
