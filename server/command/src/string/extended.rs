//! The 80-bit floating-point number that `INCRBYFLOAT` computes with: sign, 64 bits of mantissa, 15 of exponent.
//!
//! Redis uses C's `long double`, which is this format on x86-64, and clients see its 64 bits: 0.1 + 0.2 is 0.3 there, not
//! 0.30000000000000004. Rust has no such type, so the three operations that are needed (read decimal or hexadecimal
//! text, add, write with 17 decimals) are done here on integers, each rounded once, to nearest, ties to even. The
//! results are those of Redis on x86-64 to the last digit, from the smallest denormal to the largest finite number.
//! Nothing else is offered: it is not an arithmetic library.

/// Longest text that is read as a number, in bytes (Redis: `MAX_LONG_DOUBLE_CHARS`).
const TEXT_BYTES_MAX: usize = 5 * 1024;

/// Exponent of the lowest bit of the smallest number.
const EXPONENT_MIN: i32 = -16445;

/// Numbers reach 2^16384, exclusive.
const EXPONENT_END: i32 = 16384;

/// Decimals that are written before trailing zeros go.
const DECIMALS: u32 = 17;

/// A number: `mantissa × 2^exponent`, or an infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extended {
    /// The top bit of the mantissa is set, unless the exponent is [`EXPONENT_MIN`] or the mantissa 0.
    Finite {
        negative: bool,
        mantissa: u64,
        exponent: i32,
    },
    Infinite {
        negative: bool,
    },
}

impl Extended {
    pub(super) const ZERO: Self = Self::Finite { negative: false, mantissa: 0, exponent: EXPONENT_MIN };

    /// Reads what C's `strtold` reads, if it is all of the text: decimal, hexadecimal with `0x`, `inf`, `infinity`. `None`
    /// for anything else, for NaN, and for numbers too large or so small that they would be 0.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, magnitude) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if magnitude.eq_ignore_ascii_case(b"inf") || magnitude.eq_ignore_ascii_case(b"infinity") {
            return Some(Self::Infinite { negative });
        }
        let (mantissa, exponent) = match magnitude {
            [b'0', b'x' | b'X', digits @ ..] => parse_hexadecimal(digits)?,
            digits => parse_decimal(digits)?,
        };
        Some(Self::Finite { negative, mantissa, exponent })
    }

    /// The sum; `None`: it is not a number, because the two are opposite infinities.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Infinite { negative: a }, Self::Infinite { negative: b }) if a != b => None,
            (Self::Infinite { negative }, _) | (_, Self::Infinite { negative }) => Some(Self::Infinite { negative }),
            (
                Self::Finite { negative: a_negative, mantissa: a_mantissa, exponent: a_exponent },
                Self::Finite { negative: b_negative, mantissa: b_mantissa, exponent: b_exponent },
            ) => {
                let a = (a_exponent, a_mantissa, a_negative);
                let b = (b_exponent, b_mantissa, b_negative);
                let (large, small) = if (a.0, a.1) >= (b.0, b.1) { (a, b) } else { (b, a) };
                Some(add_finite(large, small))
            }
        }
    }

    /// The text that Redis writes: at most 17 decimals, no exponent, no trailing zeros, no `-0`. `None` for infinities.
    pub(super) fn decimal(self) -> Option<String> {
        let Self::Finite { negative, mantissa, exponent } = self else { return None };
        let text = if exponent >= 0 {
            let mut number = Big::from(u128::from(mantissa));
            number.shift_left(exponent as u32);
            number.into_decimal()
        } else {
            decimal_with_fraction(mantissa, exponent.unsigned_abs())
        };
        Some(if negative && text != "0" { format!("-{text}") } else { text })
    }
}

/// Exponent, mantissa and sign of two numbers, the larger magnitude first.
fn add_finite(large: (i32, u64, bool), small: (i32, u64, bool)) -> Extended {
    // One bit for the carry, and so many below that rounding sees all it needs even after a cancellation.
    const GUARD_BITS: u32 = 62;
    let (exponent, negative) = (large.0, large.2);
    let distance = exponent.abs_diff(small.0);
    let aligned = u128::from(small.1) << GUARD_BITS;
    let (aligned, lost) = match aligned.checked_shr(distance) {
        Some(kept) => (kept, kept << distance != aligned),
        None => (0, aligned != 0),
    };
    let base = u128::from(large.1) << GUARD_BITS;
    let sum = match (negative == small.2, lost) {
        (true, _) => base + aligned,
        (false, false) => base - aligned,
        // What was lost would have taken a little more away.
        (false, true) => base - aligned - 1,
    };
    match round(sum, lost, exponent - GUARD_BITS as i32) {
        Some((mantissa, exponent)) => Extended::Finite { negative: negative && mantissa != 0, mantissa, exponent },
        None => Extended::Infinite { negative },
    }
}

/// The nearest mantissa and exponent to `bits × 2^exponent`, where `sticky` says that the exact number lies between `bits` and
/// `bits + 1`. `None`: too large.
fn round(bits: u128, sticky: bool, exponent: i32) -> Option<(u64, i32)> {
    let length = 128 - bits.leading_zeros() as i32;
    let drop = (length - 64).max(EXPONENT_MIN - exponent);
    if bits == 0 {
        // Less than one unit of what 128 bits resolve is less than half of the smallest number, for all callers.
        return Some((0, EXPONENT_MIN));
    }
    if drop <= 0 {
        debug_assert!(!sticky, "callers bring more bits than are kept, or all there are");
        let up = -drop;
        // Exact: fewer than 64 bits move up, as far as the least exponent allows.
        return finish((bits << up) as u64, exponent - up);
    }
    let drop_bits = drop as u32;
    let (kept, half, rest) = if drop_bits > 128 {
        (0, false, true)
    } else {
        let kept = bits.checked_shr(drop_bits).unwrap_or(0);
        let half = bits >> (drop_bits - 1) & 1 == 1;
        let rest = sticky || bits & ((1 << (drop_bits - 1)) - 1) != 0;
        (kept, half, rest)
    };
    let mut mantissa = kept as u64;
    let mut exponent = exponent + drop;
    if half && (rest || mantissa & 1 == 1) {
        match mantissa.checked_add(1) {
            Some(next) => mantissa = next,
            None => {
                mantissa = 1 << 63;
                exponent += 1;
            }
        }
    }
    finish(mantissa, exponent)
}

fn finish(mantissa: u64, exponent: i32) -> Option<(u64, i32)> {
    if mantissa == 0 {
        return Some((0, EXPONENT_MIN));
    }
    (exponent + 64 <= EXPONENT_END).then_some((mantissa, exponent))
}

/// Digits with at most one point among them, then maybe an exponent behind `e`.
fn parse_decimal(text: &[u8]) -> Option<(u64, i32)> {
    /// Powers of ten beyond which every number of [`TEXT_BYTES_MAX`] digits is too large or too small.
    const POWER_MAX: i64 = 4_940;
    const POWER_MIN: i64 = -4_960;

    let (digits, mut exponent) = split_exponent(text, |byte| matches!(byte, b'e' | b'E'))?;
    let mut number = Big::default();
    let (mut seen_digit, mut seen_point) = (false, false);
    let mut significant = 0i64;
    // Zeros wait here: behind the last other digit they only change the exponent.
    let mut zeros = 0u32;
    for &byte in digits {
        match byte {
            b'.' if !seen_point => seen_point = true,
            b'0'..=b'9' => {
                seen_digit = true;
                exponent -= i64::from(seen_point);
                if byte == b'0' {
                    zeros += u32::from(significant > 0);
                    continue;
                }
                for _ in 0..zeros {
                    number.multiply_add(10, 0);
                }
                number.multiply_add(10, u32::from(byte - b'0'));
                significant += i64::from(zeros) + 1;
                zeros = 0;
            }
            _ => return None,
        }
    }
    if !seen_digit {
        return None;
    }
    if significant == 0 {
        return Some((0, EXPONENT_MIN));
    }
    exponent += i64::from(zeros);
    let power = significant + exponent;
    if !(POWER_MIN..=POWER_MAX).contains(&power) {
        return None;
    }
    let (numerator, denominator) = if exponent >= 0 {
        number.multiply_power_of_ten(exponent as u32);
        (number, Big::from(1))
    } else {
        let mut denominator = Big::from(1);
        denominator.multiply_power_of_ten(exponent.unsigned_abs() as u32);
        (number, denominator)
    };
    let (bits, sticky, exponent) = divide(numerator, denominator);
    round(bits, sticky, exponent).filter(|(mantissa, _)| *mantissa != 0)
}

/// Hexadecimal digits with at most one point among them, then maybe a power of two behind `p`.
fn parse_hexadecimal(text: &[u8]) -> Option<(u64, i32)> {
    let (digits, mut exponent) = split_exponent(text, |byte| matches!(byte, b'p' | b'P'))?;
    let (mut bits, mut sticky) = (0u128, false);
    let (mut seen_digit, mut seen_point) = (false, false);
    for &byte in digits {
        if byte == b'.' && !seen_point {
            seen_point = true;
            continue;
        }
        let digit = char::from(byte).to_digit(16)?;
        seen_digit = true;
        if bits >> 120 == 0 {
            bits = bits << 4 | u128::from(digit);
            exponent -= 4 * i64::from(seen_point);
        } else {
            sticky |= digit != 0;
            exponent += 4 * i64::from(!seen_point);
        }
    }
    if !seen_digit {
        return None;
    }
    if bits == 0 {
        return Some((0, EXPONENT_MIN));
    }
    // Far outside of what the format holds, and far inside of an i32.
    let exponent = exponent.clamp(-100_000, 100_000) as i32;
    round(bits, sticky, exponent).filter(|(mantissa, _)| *mantissa != 0)
}

/// The digits before an exponent, and the exponent: 0 if there is none, and clamped to what an i32 holds.
fn split_exponent(text: &[u8], is_mark: impl Fn(u8) -> bool) -> Option<(&[u8], i64)> {
    let Some(mark) = text.iter().position(|byte| is_mark(*byte)) else {
        return Some((text, 0));
    };
    let (negative, digits) = match &text[mark + 1..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude =
        digits.iter().fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(i64::from(i32::MAX)));
    Some((&text[..mark], if negative { -magnitude } else { magnitude }))
}

/// The first 65 or 66 bits of the quotient, whether there are more, and the exponent of the lowest bit.
fn divide(mut numerator: Big, mut denominator: Big) -> (u128, bool, i32) {
    /// Bits that are computed: all of the mantissa, one to round by, and one because the lengths do not tell which of two
    /// lengths the quotient has.
    const BITS: u32 = 66;
    let shift = BITS as i32 - 1 - (numerator.bits() as i32 - denominator.bits() as i32);
    if shift >= 0 {
        numerator.shift_left(shift as u32);
    } else {
        denominator.shift_left(shift.unsigned_abs());
    }
    // The quotient lies below 2^66: long division, one bit at a time, on a denominator moved up to the first.
    denominator.shift_left(BITS - 1);
    let mut quotient = 0u128;
    for _ in 0..BITS {
        quotient <<= 1;
        if numerator.is_at_least(&denominator) {
            numerator.subtract(&denominator);
            quotient |= 1;
        }
        numerator.shift_left(1);
    }
    (quotient, !numerator.is_zero(), -shift)
}

/// `mantissa × 2^-places`, rounded to 17 decimals, without trailing zeros.
fn decimal_with_fraction(mantissa: u64, places: u32) -> String {
    // 64 bits and the 57 of 10^17 fit 128.
    const SCALE: u128 = 10u128.pow(DECIMALS);
    let scaled = u128::from(mantissa) * SCALE;
    let rounded = if places >= 128 {
        // Below 2^121 / 2^128: nearer to 0 than to the last decimal.
        0
    } else {
        let (kept, rest, half) = (scaled >> places, scaled & ((1 << places) - 1), 1u128 << (places - 1));
        kept + u128::from(rest > half || rest == half && kept & 1 == 1)
    };
    let (whole, fraction) = (rounded / SCALE, rounded % SCALE);
    if fraction == 0 {
        return whole.to_string();
    }
    let text = format!("{whole}.{fraction:0width$}", width = DECIMALS as usize);
    text.trim_end_matches('0').to_owned()
}

/// A natural number of any size: 32-bit digits, the lowest first, no zero at the end.
#[derive(Clone, Debug, Default)]
struct Big {
    digits: Vec<u32>,
}

impl From<u128> for Big {
    fn from(value: u128) -> Self {
        let mut big = Self { digits: (0..4).map(|index| (value >> (32 * index)) as u32).collect() };
        big.trim();
        big
    }
}

impl Big {
    fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    fn trim(&mut self) {
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
    }

    /// Length in bits.
    fn bits(&self) -> usize {
        self.digits.last().map_or(0, |top| self.digits.len() * 32 - top.leading_zeros() as usize)
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for digit in &mut self.digits {
            let product = u64::from(*digit) * u64::from(factor) + carry;
            *digit = product as u32;
            carry = product >> 32;
        }
        if carry > 0 {
            self.digits.push(carry as u32);
        }
    }

    fn multiply_power_of_ten(&mut self, mut power: u32) {
        while power > 0 {
            let step = power.min(9);
            self.multiply_add(10u32.pow(step), 0);
            power -= step;
        }
    }

    fn shift_left(&mut self, bits: u32) {
        if self.is_zero() {
            return;
        }
        let (words, bits) = (bits as usize / 32, bits % 32);
        if bits > 0 {
            let mut carry = 0;
            for digit in &mut self.digits {
                let shifted = u64::from(*digit) << bits | carry;
                *digit = shifted as u32;
                carry = shifted >> 32;
            }
            if carry > 0 {
                self.digits.push(carry as u32);
            }
        }
        self.digits.splice(0..0, std::iter::repeat_n(0, words));
    }

    fn is_at_least(&self, other: &Self) -> bool {
        let (own, others) = (self.digits.iter().rev(), other.digits.iter().rev());
        self.digits.len().cmp(&other.digits.len()).then_with(|| own.cmp(others)).is_ge()
    }

    /// `other` is not larger.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = 0i64;
        for (index, digit) in self.digits.iter_mut().enumerate() {
            let difference = i64::from(*digit) - i64::from(other.digits.get(index).copied().unwrap_or(0)) + borrow;
            *digit = difference as u32;
            borrow = difference >> 32;
        }
        debug_assert_eq!(borrow, 0, "the subtrahend is not larger");
        self.trim();
    }

    fn into_decimal(mut self) -> String {
        /// Nine decimal digits at a time.
        const GROUP: u64 = 1_000_000_000;
        let mut groups = Vec::new();
        while !self.is_zero() {
            let mut rest = 0u64;
            for digit in self.digits.iter_mut().rev() {
                let dividend = rest << 32 | u64::from(*digit);
                *digit = (dividend / GROUP) as u32;
                rest = dividend % GROUP;
            }
            groups.push(rest);
            self.trim();
        }
        let Some(first) = groups.pop() else { return "0".to_owned() };
        let mut text = first.to_string();
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:09}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: &str, b: &str) -> Option<String> {
        Extended::parse(a.as_bytes())?.plus(Extended::parse(b.as_bytes())?)?.decimal()
    }

    #[test]
    fn decimals_add_up_as_people_expect() {
        for (a, b, wanted) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-3", "0"),
            ("-0", "-0", "0"),
            ("3.0", "1.000", "4"),
            ("1", "1e-18", "1"),
            ("-1e-30", "0", "0"),
            (".5", "5.", "5.5"),
            ("0x1.8p1", "0", "3"),
            ("1e20", "1", "100000000000000000000"),
        ] {
            assert_eq!(sum(a, b).as_deref(), Some(wanted), "{a} + {b}");
        }
    }

    #[test]
    fn text_that_strtold_would_not_take_whole_is_no_number() {
        for text in
            ["", "-", ".", "1e", "1e+", " 1", "1 ", "1.2.3", "nan", "0x", "0xg", "1f", "abc", "1,5", "--1", "e5", "1\0"]
        {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Extended::parse(&[b'1'; TEXT_BYTES_MAX]), None);
    }

    #[test]
    fn infinities_are_read_but_never_written() {
        let infinity = Extended::parse(b"-Inf").expect("a word that is read");
        assert_eq!(infinity, Extended::Infinite { negative: true });
        assert_eq!(infinity.decimal(), None);
        assert_eq!(infinity.plus(Extended::Infinite { negative: false }), None);
        assert_eq!(Extended::parse(b"1e4933"), None);
        assert_eq!(sum("1.1e4932", "1.1e4932"), None);
    }

    #[test]
    fn the_smallest_and_largest_numbers_round_as_the_format_does() {
        let smallest = Extended::Finite { negative: false, mantissa: 1, exponent: EXPONENT_MIN };
        assert_eq!(Extended::parse(b"3.6e-4951"), Some(smallest));
        assert_eq!(Extended::parse(b"1e-4951"), None);
        assert_eq!(Extended::parse(b"0x1p-16445"), Some(smallest));
        assert_eq!(Extended::parse(b"0x1p-16446"), None);
        assert_eq!(Extended::parse(b"0x1.8p-16446"), Some(smallest));
        let largest = Extended::Finite { negative: false, mantissa: u64::MAX, exponent: EXPONENT_END - 64 };
        assert_eq!(Extended::parse(b"0x1.fffffffffffffffep16383"), Some(largest));
        assert_eq!(Extended::parse(b"0x1.ffffffffffffffffp16383"), None);
        assert_eq!(Extended::parse(b"0x0.0p99999999999"), Some(Extended::ZERO));
    }

    #[test]
    fn ties_go_to_even() {
        // 2^64 + 1 lies between 2^64 and 2^64 + 2.
        assert_eq!(sum("18446744073709551616", "1").as_deref(), Some("18446744073709551616"));
        assert_eq!(sum("18446744073709551616", "3").as_deref(), Some("18446744073709551620"));
        assert_eq!(sum("18446744073709551616", "1.0000001").as_deref(), Some("18446744073709551618"));
        assert_eq!(sum("18446744073709551616", "-0.5").as_deref(), Some("18446744073709551616"));
    }
}
