//! Hash slots, as Redis Cluster defines them: a key's CRC16 modulo 16384, of its hash tag alone if it has one.

use std::fmt;

/// How many slots there are.
pub const SLOTS: u16 = 16_384;

/// A hash slot, below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number; `None` if there is none.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOTS { Some(Self(number)) } else { None }
    }

    /// The slot of a key.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self(crc16(hashed_part(key)) % SLOTS)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What stands between the first `{` and the first `}` behind it, if anything does; else all of the key (Redis Cluster
/// specification, "Hash tags").
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let behind = &key[open + 1..];
    match behind.iter().position(|byte| *byte == b'}') {
        Some(0) | None => key,
        Some(close) => &behind[..close],
    }
}

/// CRC-16/XMODEM: polynomial 0x1021, from 0, nothing reflected (Redis Cluster specification, appendix A).
pub(crate) fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_has_its_published_check_value() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn slots_are_those_that_redis_computes() {
        // CLUSTER KEYSLOT of redis-server 7.0.15.
        let known: &[(&[u8], u16)] =
            &[(b"a", 15_495), (b"foo", 12_182), (b"123456789", 12_739), (b"", 0), (b"hello", 866), (b"{a}b", 15_495)];
        for (key, slot) in known {
            assert_eq!(Slot::of_key(key).number(), *slot, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(Slot::new(16_383).map(Slot::number), Some(16_383));
        assert_eq!(Slot::new(16_384), None);
    }

    #[test]
    fn only_the_first_tag_that_is_not_empty_counts() {
        // The examples of the specification.
        let parts: &[(&[u8], &[u8])] = &[
            (b"{user1000}.following", b"user1000"),
            (b"{user1000}.followers", b"user1000"),
            (b"foo{}{bar}", b"foo{}{bar}"),
            (b"foo{{bar}}zap", b"{bar"),
            (b"foo{bar}{zap}", b"bar"),
            (b"foo{bar", b"foo{bar"),
            (b"foo}bar{", b"foo}bar{"),
            (b"}{a}", b"a"),
        ];
        for (key, part) in parts {
            assert_eq!(hashed_part(key), *part, "{}", String::from_utf8_lossy(key));
            assert_eq!(Slot::of_key(key).number(), crc16(part) % SLOTS);
        }
    }
}
