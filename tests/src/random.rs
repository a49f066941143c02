//! Random numbers and values of tests, the same in each run with the same seed.

/// Numbers without a pattern (SplitMix64; Steele and others 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number, below 2^53.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11
    }

    /// The next number, below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A size in bytes; every order of magnitude from `2^low` to `2^high` is as likely.
    pub fn size(&mut self, low: u32, high: u32) -> usize {
        let least = 1 << (low + self.below(u64::from(high - low)) as u32);
        (least + self.below(least)) as usize
    }
}

/// A value of `len` bytes, or a few more, that says whose it is.
#[must_use]
pub fn value(key: u64, len: usize) -> Vec<u8> {
    let mut bytes = format!("{key};").into_bytes();
    bytes.resize(len.max(bytes.len()), b'.');
    bytes
}
