//! Reads MySQL's binary values and writes them as JSON, as plain text, or as the text of a key.
//!
//! A type that is not here is an error when the loader is checked, never a null. What JSON shows:
//!
//! | types | JSON |
//! |---|---|
//! | tinyint … bigint, signed and unsigned, year | number (beyond ±2^53 as string if `big_numbers` says so) |
//! | boolean, which is tinyint(1) | number: there may be a 2 in it |
//! | bit(n) | number, of its bits |
//! | decimal | string, exact, with the digits the column has |
//! | float, double | number |
//! | char, varchar, text, enum | string |
//! | set | string, members with commas, as MySQL writes it |
//! | MariaDB's uuid, inet4, inet6 | string |
//! | binary, varbinary, blob | base64 |
//! | timestamp | RFC 3339 in UTC (the session's time zone is set so) |
//! | datetime, date | ISO 8601; a zero date as it is: `"0000-00-00"` |
//! | time | string, `"-838:59:59.5"`: a span that may be negative and longer than a day |
//! | json | inline; so too a column of a MariaDB table that was declared JSON, which is text with a check |
//! | geometry | error; select `ST_AsGeoJSON(column)` |
//!
//! An expression of MariaDB that makes JSON is text; the loader's `json_columns` puts it inline.

use crate::json;
use crate::settings::BigNumbers;
use crate::template::PlaceholderKind;
use sqlx::mysql::MySqlTypeInfo;
use sqlx::{MySql, Type, TypeInfo};
use std::io::Write;

/// How to read the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Signed integers of 1, 2, 4 or 8 bytes.
    Int(u8),
    /// Unsigned ones.
    Unsigned(u8),
    Bit,
    Decimal,
    Float,
    Double,
    Text,
    Bytes,
    Timestamp,
    Datetime,
    Date,
    Time,
    Json,
    /// Text that was declared to be JSON.
    JsonText,
    /// A literal NULL: there are no values.
    Null,
}

impl Codec {
    /// How to read values of this type; `None` if we cannot.
    pub(crate) fn of(info: &MySqlTypeInfo) -> Option<Self> {
        Some(match info.name() {
            // The name hides the sign of a tinyint(1).
            "BOOLEAN" if *info == <i8 as Type<MySql>>::type_info() => Self::Int(1),
            "BOOLEAN" | "TINYINT UNSIGNED" => Self::Unsigned(1),
            "TINYINT" => Self::Int(1),
            "SMALLINT" => Self::Int(2),
            "SMALLINT UNSIGNED" | "YEAR" => Self::Unsigned(2),
            // Three bytes on disk, four on the wire.
            "MEDIUMINT" | "INT" => Self::Int(4),
            "MEDIUMINT UNSIGNED" | "INT UNSIGNED" => Self::Unsigned(4),
            "BIGINT" => Self::Int(8),
            "BIGINT UNSIGNED" => Self::Unsigned(8),
            "BIT" => Self::Bit,
            "DECIMAL" => Self::Decimal,
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "TIMESTAMP" => Self::Timestamp,
            "DATETIME" => Self::Datetime,
            "DATE" => Self::Date,
            "TIME" => Self::Time,
            "JSON" => Self::Json,
            "NULL" => Self::Null,
            "SET" => Self::Text,
            // Text of a `_bin` collation is called binary, too; only the collation `binary` is.
            _ if <str as Type<MySql>>::compatible(info) => Self::Text,
            _ if <[u8] as Type<MySql>>::compatible(info) => Self::Bytes,
            _ => return None,
        })
    }

    /// Whether a key column of this type has one text for each value that the placeholder takes.
    pub(crate) fn is_key(self, kind: PlaceholderKind) -> bool {
        match kind {
            PlaceholderKind::Int => matches!(self, Self::Int(_) | Self::Unsigned(_) | Self::Decimal),
            PlaceholderKind::Text => matches!(self, Self::Text | Self::Bytes),
            PlaceholderKind::Uuid => self == Self::Text,
        }
    }

    /// Whether a version column may have this type.
    pub(crate) fn is_version(self) -> bool {
        matches!(self, Self::Int(_) | Self::Unsigned(_) | Self::Timestamp)
    }

    /// Writes the value as JSON.
    pub(crate) fn json(self, raw: &[u8], big: BigNumbers, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Int(_) => json::int(signed(raw)?, big, out),
            Self::Unsigned(_) => json::unsigned(unsigned(raw)?, big, out),
            Self::Bit => json::unsigned(bits(raw)?, big, out),
            // MySQL has no infinities, and no NaN.
            Self::Float | Self::Double => self.plain(raw, out)?,
            Self::Text => json::string(raw, out)?,
            Self::Bytes => json::base64(raw, out)?,
            Self::Json => out.extend_from_slice(raw),
            Self::JsonText => {
                json::check(raw)?;
                out.extend_from_slice(raw);
            }
            Self::Decimal | Self::Timestamp | Self::Datetime | Self::Date | Self::Time => {
                json::quoted(out, |out| self.plain(raw, out))?;
            }
            Self::Null => return Err("has a value, but no type".into()),
        }
        Ok(())
    }

    /// Writes the value as its text, or the bytes of a blob.
    pub(crate) fn plain(self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Int(_) => json::int_text(signed(raw)?, out),
            Self::Unsigned(_) => json::unsigned(unsigned(raw)?, BigNumbers::Number, out),
            Self::Bit => json::unsigned(bits(raw)?, BigNumbers::Number, out),
            Self::Float => json::single_text(f32::from_le_bytes(exactly(raw)?), out)?,
            Self::Double => json::float_text(f64::from_le_bytes(exactly(raw)?), out)?,
            Self::Decimal | Self::Text | Self::Bytes | Self::Json | Self::JsonText => out.extend_from_slice(raw),
            Self::Timestamp => {
                DateTime::of(raw)?.write(out);
                out.push(b'Z');
            }
            Self::Datetime => DateTime::of(raw)?.write(out),
            Self::Date => DateTime::of(raw)?.write_date(out),
            Self::Time => time(raw, out)?,
            Self::Null => return Err("has a value, but no type".into()),
        }
        Ok(())
    }

    /// Writes the value as a placeholder would hold it.
    pub(crate) fn key(self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let start = out.len();
        self.plain(raw, out)?;
        if self == Self::Decimal {
            json::whole(start, out);
        }
        Ok(())
    }

    /// The value as a version: an integer as it is, a time as microseconds since 1970.
    pub(crate) fn version(self, raw: &[u8]) -> Result<u64, String> {
        let version = match self {
            Self::Unsigned(_) => return unsigned(raw),
            Self::Int(_) => signed(raw)?,
            Self::Timestamp => DateTime::of(raw)?.micros_since_1970()?,
            _ => return Err("is of a type that is no version".into()),
        };
        u64::try_from(version).map_err(|_| format!("the version {version} is negative"))
    }
}

/// The bytes of a value that has a fixed size.
fn exactly<const N: usize>(raw: &[u8]) -> Result<[u8; N], String> {
    raw.try_into().map_err(|_| format!("a value of {} bytes where {N} are expected", raw.len()))
}

fn signed(raw: &[u8]) -> Result<i64, String> {
    Ok(match raw.len() {
        1 => i8::from_le_bytes(exactly(raw)?).into(),
        2 => i16::from_le_bytes(exactly(raw)?).into(),
        4 => i32::from_le_bytes(exactly(raw)?).into(),
        _ => i64::from_le_bytes(exactly(raw)?),
    })
}

fn unsigned(raw: &[u8]) -> Result<u64, String> {
    Ok(match raw.len() {
        1 => u8::from_le_bytes(exactly(raw)?).into(),
        2 => u16::from_le_bytes(exactly(raw)?).into(),
        4 => u32::from_le_bytes(exactly(raw)?).into(),
        _ => u64::from_le_bytes(exactly(raw)?),
    })
}

/// One to eight bytes, the highest first.
fn bits(raw: &[u8]) -> Result<u64, String> {
    if raw.len() > 8 {
        return Err(format!("has {} bytes where a bit column has at most 8", raw.len()));
    }
    Ok(raw.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
}

/// ```text
/// u8 length: 0, 4, 7 or 11 | u16 year | u8 month | u8 day | u8 hour | u8 minute | u8 second | u32 microseconds
/// ```
/// What is not sent is zero; so is the month or the day of some dates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DateTime {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    micros: u32,
}

impl DateTime {
    fn of(raw: &[u8]) -> Result<Self, String> {
        let mut parts = [0; 11];
        let body = body(raw)?;
        match body.len() {
            0 | 4 | 7 | 11 => parts[..body.len()].copy_from_slice(body),
            length => return Err(format!("a time of {length} bytes")),
        }
        let [a, b, month, day, hour, minute, second, c, d, e, f] = parts;
        Ok(Self {
            year: u16::from_le_bytes([a, b]),
            month,
            day,
            hour,
            minute,
            second,
            micros: u32::from_le_bytes([c, d, e, f]),
        })
    }

    fn write_date(self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{:04}-{:02}-{:02}", self.year, self.month, self.day);
    }

    fn write(self, out: &mut Vec<u8>) {
        self.write_date(out);
        let _ = write!(out, "T{:02}:{:02}:{:02}", self.hour, self.minute, self.second);
        json::fraction(self.micros.into(), out);
    }

    fn micros_since_1970(self) -> Result<i64, String> {
        if self.month == 0 || self.day == 0 {
            return Err("a zero date is no version".into());
        }
        // Years are counted from March, so that the leap day is the last day of one.
        let (year, month) = match i64::from(self.month) {
            month @ 3.. => (i64::from(self.year), month - 3),
            month => (i64::from(self.year) - 1, month + 9),
        };
        const DAYS_FROM_MARCH_OF_YEAR_0_TO_1970: i64 = 719_468;
        let days_of_years = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        // March to July and August to December have 153 days each, in the same order of 31 and 30.
        let days_of_months = (153 * month + 2) / 5;
        let days = days_of_years + days_of_months + i64::from(self.day) - 1 - DAYS_FROM_MARCH_OF_YEAR_0_TO_1970;
        let seconds = (i64::from(self.hour) * 60 + i64::from(self.minute)) * 60 + i64::from(self.second);
        Ok((days * 86_400 + seconds) * 1_000_000 + i64::from(self.micros))
    }
}

/// ```text
/// u8 length: 0, 8 or 12 | u8 is negative | u32 days | u8 hours | u8 minutes | u8 seconds | u32 microseconds
/// ```
fn time(raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut parts = [0; 12];
    let body = body(raw)?;
    match body.len() {
        0 | 8 | 12 => parts[..body.len()].copy_from_slice(body),
        length => return Err(format!("a span of {length} bytes")),
    }
    let [sign, a, b, c, d, hours, minutes, seconds, e, f, g, h] = parts;
    if sign != 0 {
        out.push(b'-');
    }
    let hours = u64::from(u32::from_le_bytes([a, b, c, d])) * 24 + u64::from(hours);
    let _ = write!(out, "{hours:02}:{minutes:02}:{seconds:02}");
    json::fraction(u32::from_le_bytes([e, f, g, h]).into(), out);
    Ok(())
}

/// What follows the byte that says how long it is.
fn body(raw: &[u8]) -> Result<&[u8], String> {
    match raw.split_first() {
        Some((length, body)) if usize::from(*length) == body.len() => Ok(body),
        _ => Err("a time of a wrong length".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sqlx::types::chrono::DateTime as ChronoTime;

    fn plain(codec: Codec, raw: &[u8]) -> String {
        let mut out = Vec::new();
        codec.plain(raw, &mut out).expect("a good value");
        String::from_utf8(out).expect("text")
    }

    fn json(codec: Codec, raw: &[u8], big: BigNumbers) -> String {
        let mut out = Vec::new();
        codec.json(raw, big, &mut out).expect("a good value");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn unsigned_integers_are_whole() {
        assert_eq!(json(Codec::Unsigned(8), &u64::MAX.to_le_bytes(), BigNumbers::Number), "18446744073709551615");
        assert_eq!(json(Codec::Unsigned(8), &u64::MAX.to_le_bytes(), BigNumbers::String), "\"18446744073709551615\"");
        assert_eq!(json(Codec::Unsigned(8), &(1_u64 << 53).to_le_bytes(), BigNumbers::String), "9007199254740992");
        assert_eq!(json(Codec::Unsigned(1), &[255], BigNumbers::Number), "255");
        assert_eq!(json(Codec::Int(1), &[255], BigNumbers::Number), "-1");
        assert_eq!(json(Codec::Bit, &[1, 0], BigNumbers::Number), "256");
        assert_eq!(Codec::Unsigned(8).version(&u64::MAX.to_le_bytes()), Ok(u64::MAX));
        assert!(Codec::Int(8).version(&(-1_i64).to_le_bytes()).is_err());
    }

    #[test]
    fn zero_dates_and_long_spans_are_as_they_are() {
        assert_eq!(plain(Codec::Date, &[0]), "0000-00-00");
        assert_eq!(plain(Codec::Datetime, &[0]), "0000-00-00T00:00:00");
        assert_eq!(plain(Codec::Date, &[4, 0xe8, 0x07, 2, 0]), "2024-02-00");
        assert_eq!(plain(Codec::Time, &[0]), "00:00:00");
        assert_eq!(plain(Codec::Time, &[12, 1, 34, 0, 0, 0, 22, 59, 59, 0x20, 0xa1, 7, 0]), "-838:59:59.5");
        assert!(Codec::Timestamp.version(&[0]).is_err());
    }

    #[test]
    fn a_decimal_key_is_a_whole_number() {
        let mut key = Vec::new();
        Codec::Decimal.key(b"42.00", &mut key).expect("a key");
        assert_eq!(key, b"42");
    }

    proptest! {
        #[test]
        fn timestamps_agree_with_chrono(seconds in 0_i64..2_147_483_648, micros in 0_u32..1_000_000) {
            let time = ChronoTime::from_timestamp(seconds, micros * 1_000).expect("a time").naive_utc();
            let parts = time.format("%Y %m %d %H %M %S").to_string();
            let parts: Vec<u16> = parts.split(' ').map(|part| part.parse().expect("a number")).collect();
            let mut raw = vec![11];
            raw.extend(parts[0].to_le_bytes());
            raw.extend(parts[1..].iter().map(|part| *part as u8));
            raw.extend(micros.to_le_bytes());
            prop_assert_eq!(Codec::Timestamp.version(&raw), Ok(seconds as u64 * 1_000_000 + u64::from(micros)));
            let text = plain(Codec::Timestamp, &raw);
            let read = ChronoTime::parse_from_rfc3339(&text).expect("RFC 3339");
            prop_assert_eq!(read.naive_utc(), time);
        }

        #[test]
        fn no_bytes_are_too_strange(raw in proptest::collection::vec(any::<u8>(), 0..16)) {
            for codec in [Codec::Int(4), Codec::Unsigned(8), Codec::Bit, Codec::Double, Codec::Timestamp, Codec::Time, Codec::JsonText] {
                let _ = codec.json(&raw, BigNumbers::String, &mut Vec::new());
                let _ = codec.key(&raw, &mut Vec::new());
                let _ = codec.version(&raw);
            }
        }
    }
}
