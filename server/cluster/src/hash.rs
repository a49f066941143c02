//! Hashes and logarithms that are the same on every machine and in every version: nodes agree by them.

/// Offset and step of what is mixed in: 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bits behind the point of [`log2`].
pub(crate) const FRACTION_BITS: u32 = 32;

/// The stream of [`of_bytes`] for the order of stand-ins, so that keys of one node are spread over all others. The map of slots and what names nodes
/// and epochs have those below.
pub(crate) const STAND_INS: u64 = 5;

/// A permutation of all 64-bit numbers in which each bit depends on all (the finalizer of `SplitMix64`).
pub(crate) const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Hash of some bytes; another one for each `stream`.
pub(crate) fn of_bytes(stream: u64, bytes: &[u8]) -> u64 {
    let start = mix(stream.wrapping_mul(GOLDEN) ^ bytes.len() as u64);
    bytes.iter().fold(start, |hash, byte| mix((hash ^ u64::from(*byte)).wrapping_add(GOLDEN)))
}

/// Hash of a hash and a number.
pub(crate) const fn of_pair(hash: u64, number: u64) -> u64 {
    mix(hash ^ mix(number.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// Logarithm of `number` to the base 2, in units of 2^-[`FRACTION_BITS`], rounded down. `number` is not 0.
///
/// Digit by digit: squaring what is between 1 and 2 doubles its logarithm, whose whole part is then the next digit. The
/// logarithms of the standard library may differ between machines in their last digit.
pub(crate) const fn log2(number: u64) -> u64 {
    let whole = number.ilog2();
    // From 1 up to 2, with 63 bits behind the point.
    let mut rest = number << (63 - whole);
    let mut log = whole as u64;
    let mut digit = 0;
    while digit < FRACTION_BITS {
        let square = (rest as u128) * (rest as u128);
        // The square has 126 bits behind the point, and is below 4.
        let carries = square >> 127 == 1;
        rest = (square >> if carries { 64 } else { 63 }) as u64;
        log = log << 1 | carries as u64;
        digit += 1;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_mathematics() {
        for number in [1, 2, 3, 10, 255, 1 << 20, (1 << 40) + 12_345, u64::MAX] {
            let exact = (number as f64).log2() * f64::from(1_u32 << 31) * 2.0;
            assert!((log2(number) as f64 - exact).abs() < 64.0, "{number}: {} and not {exact}", log2(number));
        }
        assert_eq!(log2(8), 3 << FRACTION_BITS);
    }

    #[test]
    fn hashes_never_change() {
        // Nodes of different versions must agree; a change of these numbers moves every key of every cluster.
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
        assert_eq!(of_bytes(0, b"node-a"), of_bytes(0, b"node-a"));
        assert_ne!(of_bytes(0, b"node-a"), of_bytes(1, b"node-a"));
        assert_ne!(of_bytes(0, b"ab"), of_bytes(0, b"ba"));
    }
}
