//! From an argument's bytes to its meaning: numbers, literal words, times, as strictly as Redis reads them.
//!
//! Nothing here allocates on success. What a wrong argument is answered with depends on the command, so the parsers of
//! bare values give `Option`, and those that only one answer fits give `Result`.

use crate::error::ReplyError;
use leasehold_keyspace::Turn;

/// Longest value in bytes that a command may build (`proto-max-bulk-len`).
pub const VALUE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Whether an argument is this literal word, in any case.
#[inline]
#[must_use]
pub const fn is_word(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// A signed number in the one form that Redis takes: its canonical decimal text. No `+`, no space, no leading zero, no `-0`.
#[inline]
#[must_use]
pub fn integer(argument: &[u8]) -> Option<i64> {
    let (negative, digits) = match argument {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let magnitude = unsigned(digits)?;
    if !negative {
        return i64::try_from(magnitude).ok();
    }
    // The magnitude of i64::MIN is one more than i64 holds.
    if (1..=1 << 63).contains(&magnitude) { Some((magnitude as i64).wrapping_neg()) } else { None }
}

/// An unsigned number in its canonical decimal text.
#[inline]
#[must_use]
pub fn unsigned(argument: &[u8]) -> Option<u64> {
    /// Digits of `u64::MAX`.
    const DIGITS_MAX: usize = 20;
    match argument {
        [b'0'] => return Some(0),
        [b'1'..=b'9', ..] if argument.len() <= DIGITS_MAX => {}
        _ => return None,
    }
    let mut value = 0u64;
    for &byte in argument {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// A signed number, or the usual error.
///
/// # Errors
/// [`ReplyError::NotAnInteger`].
#[inline]
pub fn integer_or_error(argument: &[u8]) -> Result<i64, ReplyError> {
    integer(argument).ok_or(ReplyError::NotAnInteger)
}

/// Where `len` bytes from `offset` on end in a value of at most `bytes_max`.
///
/// # Errors
/// [`ReplyError::ValueTooLong`].
#[inline]
pub fn value_end(offset: u64, len: usize, bytes_max: u64) -> Result<usize, ReplyError> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= bytes_max => Ok(end as usize),
        _ => Err(ReplyError::ValueTooLong),
    }
}

/// The external version behind `VER`, and the floor behind `MINVER`: any u64.
///
/// # Errors
/// [`ReplyError::NotAVersion`].
pub fn version(argument: &[u8]) -> Result<u64, ReplyError> {
    unsigned(argument).ok_or(ReplyError::NotAVersion)
}

/// A span of time in ms, such as `WAIT` and `STALEFOR` take.
///
/// # Errors
/// [`ReplyError::NotMilliseconds`].
pub fn milliseconds(argument: &[u8]) -> Result<u64, ReplyError> {
    integer(argument).and_then(|ms| u64::try_from(ms).ok()).ok_or(ReplyError::NotMilliseconds)
}

/// A lease token as GETL gave it.
///
/// # Errors
/// [`ReplyError::NotAToken`]: not even a number, so no lease that was lost.
pub fn token(argument: &[u8]) -> Result<u64, ReplyError> {
    unsigned(argument).ok_or(ReplyError::NotAToken)
}

/// The word before a time, which says what the number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// `EX`: seconds from now.
    Seconds,
    /// `PX`: milliseconds from now.
    Milliseconds,
    /// `EXAT`: seconds since 1970.
    UnixSeconds,
    /// `PXAT`: milliseconds since 1970.
    UnixMilliseconds,
}

impl TimeUnit {
    /// The unit that `EX`, `PX`, `EXAT` or `PXAT` stands for.
    #[inline]
    #[must_use]
    pub fn from_word(argument: &[u8]) -> Option<Self> {
        match argument.len() {
            2 if is_word(argument, "EX") => Some(Self::Seconds),
            2 if is_word(argument, "PX") => Some(Self::Milliseconds),
            4 if is_word(argument, "EXAT") => Some(Self::UnixSeconds),
            4 if is_word(argument, "PXAT") => Some(Self::UnixMilliseconds),
            _ => None,
        }
    }

    /// The server time that an argument of this unit means; it may have passed, if the unit is an absolute one.
    ///
    /// # Errors
    /// [`ReplyError::NotAnInteger`], and [`ReplyError::InvalidExpire`] for a time that is not positive or too far away
    /// for an i64 of milliseconds since 1970.
    #[inline]
    pub fn deadline_ms(self, argument: &[u8], turn: &Turn, command: &'static str) -> Result<u64, ReplyError> {
        let time = integer_or_error(argument)?;
        if time <= 0 {
            return Err(ReplyError::InvalidExpire { command });
        }
        self.deadline_of(time, turn).ok_or(ReplyError::InvalidExpire { command })
    }

    /// The server time that this number of the unit means, for commands that allow numbers below 1 (`EXPIRE`): what lies
    /// before server time 0 becomes 0. `None`: too far away in either direction.
    #[inline]
    #[must_use]
    pub fn deadline_of(self, time: i64, turn: &Turn) -> Option<u64> {
        let time_ms = match self {
            Self::Seconds | Self::UnixSeconds => time.checked_mul(1000)?,
            Self::Milliseconds | Self::UnixMilliseconds => time,
        };
        let unix_ms = match self {
            Self::Seconds | Self::Milliseconds => time_ms.checked_add(turn.wall_ms() as i64)?,
            Self::UnixSeconds | Self::UnixMilliseconds => time_ms,
        };
        Some(u64::try_from(unix_ms.saturating_sub(turn.wall_offset_ms)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_text_is_an_integer() {
        for (text, value) in [
            ("0", 0),
            ("7", 7),
            ("-1", -1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-9223372036854775807", i64::MIN + 1),
        ] {
            assert_eq!(integer(text.as_bytes()), Some(value), "{text}");
        }
        for text in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "01",
            "00",
            "-0",
            "-01",
            "1.0",
            "1e3",
            "0x10",
            "9223372036854775808",
            "--1",
            "-9223372036854775809",
            "18446744073709551616",
            "99999999999999999999",
            "100000000000000000000",
            "1\0",
        ] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn versions_use_all_of_a_u64() {
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned(b"18446744073709551616"), None);
        assert_eq!(unsigned(b"-1"), None);
        assert_eq!(version(b"x"), Err(ReplyError::NotAVersion));
    }

    #[test]
    fn words_match_in_any_case_and_whole() {
        assert!(is_word(b"kEeptTl", "KEEPTTL"));
        assert!(!is_word(b"EXA", "EXAT"));
        assert_eq!(TimeUnit::from_word(b"pxat"), Some(TimeUnit::UnixMilliseconds));
        assert_eq!(TimeUnit::from_word(b"E\0"), None);
    }

    #[test]
    fn absolute_times_are_corrected_by_the_wall_clock() {
        let mut turn = Turn::new(1_000_000, 1);
        turn.wall_offset_ms = 500;
        assert_eq!(TimeUnit::Seconds.deadline_ms(b"2", &turn, "set"), Ok(1_002_000));
        assert_eq!(TimeUnit::Milliseconds.deadline_ms(b"2", &turn, "set"), Ok(1_000_002));
        assert_eq!(TimeUnit::UnixSeconds.deadline_ms(b"2000", &turn, "set"), Ok(1_999_500));
        assert_eq!(TimeUnit::UnixMilliseconds.deadline_ms(b"2000", &turn, "set"), Ok(1_500));
        assert_eq!(TimeUnit::UnixMilliseconds.deadline_ms(b"1", &turn, "set"), Ok(0));
    }

    #[test]
    fn times_that_overflow_are_refused() {
        let turn = Turn::new(1_700_000_000_000, 1);
        let refused = Err(ReplyError::InvalidExpire { command: "set" });
        for text in ["0", "-1", "-9223372036854775808"] {
            for unit in [TimeUnit::Seconds, TimeUnit::Milliseconds, TimeUnit::UnixSeconds, TimeUnit::UnixMilliseconds] {
                assert_eq!(unit.deadline_ms(text.as_bytes(), &turn, "set"), refused, "{text}");
            }
        }
        assert_eq!(TimeUnit::Seconds.deadline_ms(b"9223372036854775", &turn, "set"), refused);
        assert_eq!(TimeUnit::Seconds.deadline_ms(b"9223372036854776", &turn, "set"), refused);
        assert_eq!(TimeUnit::Milliseconds.deadline_ms(b"9223372036854775807", &turn, "set"), refused);
        assert!(TimeUnit::UnixMilliseconds.deadline_ms(b"9223372036854775807", &turn, "set").is_ok());
        assert_eq!(TimeUnit::Seconds.deadline_ms(b"soon", &turn, "set"), Err(ReplyError::NotAnInteger));
    }
}
