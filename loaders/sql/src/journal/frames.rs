//! Frames: pieces of a file that are whole or not there.
//!
//! ```text
//! 0      4      8        16       24
//! ├──────┼──────┼────────┼────────┼─────────┐   len     bytes behind the checksum
//! │ len  │ crc  │ number │ before │ payload │   crc     CRC-32C of all but itself
//! │ u32  │ u32  │  u64   │  u64   │         │   number  grows from frame to frame
//! └──────┴──────┴────────┴────────┴─────────┘   before  the last number that was written before this frame's group
//! ```
//!
//! Frames that are written together are a group. What a crash leaves of the last group is torn and may go: nobody was told
//! that it is there. A frame that is bad before a later group is damage, and an error. `before` tells the two apart: a frame
//! behind the bad one that was written after it names it, or one behind it.

use std::ops::Range;

/// CRC-32C, as iSCSI has it.
const CRC: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

const PREFIX_BYTES: usize = 8;
pub(super) const HEAD_BYTES: usize = PREFIX_BYTES + 16;

/// Longest payload: a value of the longest kind, a key, and some names.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// A frame of a file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: u64,
    before: u64,
    /// Where its payload lies in the file.
    pub(super) payload: Range<usize>,
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a frame.
    Whole,
    /// With what a crash left of the last group, from here on.
    Torn { at: usize },
    /// A frame here is bad, and later ones are good.
    Damaged { at: usize },
}

/// The checksum of some bytes.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// Appends a frame, whose payload `write` appends.
pub(super) fn encode(out: &mut Vec<u8>, number: u64, before: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&before.to_le_bytes());
    write(out);
    let len = u32::try_from(out.len() - start - PREFIX_BYTES).expect("a payload is at most PAYLOAD_BYTES_MAX long");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    let crc = checksum_of(len, &out[start + PREFIX_BYTES..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The frames of `bytes` from `at` on, each with a number above `last` and above those before it.
pub(super) fn scan(bytes: &[u8], mut at: usize, mut last: u64, mut each: impl FnMut(Frame)) -> (u64, Ending) {
    while at < bytes.len() {
        let Some(frame) = frame(bytes, at).filter(|frame| frame.number > last) else {
            let is_later = |place: &usize| {
                plausible(bytes, *place, last) && frame(bytes, *place).is_some_and(|frame| frame.before > last)
            };
            let ending = match (at + 1..bytes.len()).find(is_later) {
                None => Ending::Torn { at },
                Some(_) => Ending::Damaged { at },
            };
            return (last, ending);
        };
        last = frame.number;
        at = frame.payload.end;
        each(frame);
    }
    (last, Ending::Whole)
}

fn checksum_of(len: u32, body: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&len.to_le_bytes());
    digest.update(body);
    digest.finalize()
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The whole frame that begins here, if there is one.
fn frame(bytes: &[u8], at: usize) -> Option<Frame> {
    let len = u32::from_le_bytes(number_at(bytes, at)?);
    let crc = u32::from_le_bytes(number_at(bytes, at + 4)?);
    let number = u64::from_le_bytes(number_at(bytes, at + 8)?);
    let before = u64::from_le_bytes(number_at(bytes, at + 16)?);
    let start = at + PREFIX_BYTES;
    let body = bytes.get(start..start.checked_add(len as usize)?)?;
    if len as usize > PAYLOAD_BYTES_MAX + HEAD_BYTES || body.len() < HEAD_BYTES - PREFIX_BYTES {
        return None;
    }
    (checksum_of(len, body) == crc).then(|| Frame { number, before, payload: at + HEAD_BYTES..start + body.len() })
}

/// Whether a checksum is worth computing: most places are no begin of a frame.
fn plausible(bytes: &[u8], at: usize, last: u64) -> bool {
    let number = |at| number_at(bytes, at).map(u64::from_le_bytes);
    match (number(at + 8), number(at + 16)) {
        (Some(number), Some(before)) => before > last && before < number,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of payloads, numbered from 1 on; where each frame begins, and the end.
    fn file(groups: &[&[&[u8]]]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts, mut last) = (Vec::new(), Vec::new(), 0);
        for group in groups {
            let before = last;
            for payload in *group {
                starts.push(bytes.len());
                last += 1;
                encode(&mut bytes, last, before, |out| out.extend_from_slice(payload));
            }
        }
        starts.push(bytes.len());
        (bytes, starts)
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Ending) {
        let mut found = Vec::new();
        let (_, ending) = scan(bytes, 0, 0, |frame| found.push(bytes[frame.payload].to_vec()));
        (found, ending)
    }

    #[test]
    fn what_was_written_is_read() {
        let (bytes, _) = file(&[&[b"a", b""], &[b"ccc"]]);
        assert_eq!(read(&bytes), (vec![b"a".to_vec(), Vec::new(), b"ccc".to_vec()], Ending::Whole));
        assert_eq!(read(&[]), (Vec::new(), Ending::Whole));
        assert_eq!(CRC.checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_ends_with_its_last_whole_frame() {
        let (bytes, starts) = file(&[&[b"one"], &[b"two", b"three"], &[b"four"]]);
        for end in 0..bytes.len() {
            let whole = starts[1..].iter().filter(|&&start| start <= end).count();
            let (found, ending) = read(&bytes[..end]);
            assert_eq!(found.len(), whole, "cut at {end}");
            let at = starts[whole];
            assert_eq!(ending, if at == end { Ending::Whole } else { Ending::Torn { at } }, "cut at {end}");
        }
    }

    #[test]
    fn a_bit_that_turned_is_damage_before_a_later_group_and_torn_in_the_last() {
        let (bytes, starts) = file(&[&[b"one"], &[b"two", b"three"], &[b"four", b"five"]]);
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut turned = bytes.clone();
                turned[place] ^= 1 << bit;
                let hit = starts.iter().filter(|&&start| start <= place).count() - 1;
                let (found, ending) = read(&turned);
                assert_eq!(found.len(), hit, "bit {bit} of byte {place}");
                let at = starts[hit];
                let wanted = if hit < 3 { Ending::Damaged { at } } else { Ending::Torn { at } };
                assert_eq!(ending, wanted, "bit {bit} of byte {place}");
            }
        }
    }

    #[test]
    fn pages_that_a_crash_left_empty_are_torn() {
        let (mut bytes, starts) = file(&[&[b"one"], &[b"two", b"three"]]);
        bytes[starts[1]..starts[2]].fill(0);
        assert_eq!(read(&bytes), (vec![b"one".to_vec()], Ending::Torn { at: starts[1] }));
    }
}
