//! Reads PostgreSQL's binary values and writes them as JSON, as plain text, or as the text of a key.
//!
//! Formats are those of the servers' `*_send` functions. A type that is not here is an error when the loader is checked, never a
//! null. What JSON shows:
//!
//! | types | JSON |
//! |---|---|
//! | smallint, integer, bigint, oid | number (bigint beyond ±2^53 as string if `big_numbers` says so) |
//! | real, double precision | number; `"NaN"`, `"Infinity"`, `"-Infinity"` as `to_json` does |
//! | numeric | string, exact, with the digits the column has |
//! | boolean | `true`, `false` |
//! | text, varchar, char(n), "char", name, citext, xml, enums | string |
//! | uuid | string |
//! | timestamptz | RFC 3339 in UTC; `"infinity"`, `"-infinity"`; years beyond four digits as ISO 8601 writes them |
//! | timestamp, date, time, timetz | ISO 8601 |
//! | interval | ISO 8601: `"P1Y2M3DT4H5M6.5S"`, each part with its own sign |
//! | inet, cidr, macaddr, macaddr8 | string |
//! | bit, varbit | string of 0 and 1 |
//! | json, jsonb | inline |
//! | bytea | base64 |
//! | arrays of these | arrays, nested as they are |
//! | domains | as their base type |
//! | ranges, composites, geometric types, tsvector, money, … | error; select `column::text` or `to_jsonb(column)` |

use super::address;
use crate::json;
use crate::settings::BigNumbers;
use sqlx::TypeInfo;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgTypeInfo, PgTypeKind};
use std::io::Write;

/// Arrays deeper than this do not exist in PostgreSQL (MAXDIM).
const ARRAY_DEPTH_MAX: i32 = 6;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i64 = 10_957;

/// How to read the values of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    Uuid,
    Json,
    Jsonb,
    Bytea,
    Timestamptz,
    Timestamp,
    Date,
    Time,
    Timetz,
    Interval,
    Inet,
    Mac,
    Bits,
    Array(Box<Codec>),
}

impl Codec {
    /// How to read values of this type; `None` if we cannot.
    pub(crate) fn of(info: &PgTypeInfo) -> Option<Self> {
        match info.kind() {
            PgTypeKind::Domain(base) => return Self::of(base),
            PgTypeKind::Array(element) => return Some(Self::Array(Box::new(Self::of(element)?))),
            PgTypeKind::Enum(_) => return Some(Self::Text),
            _ => {}
        }
        // The numbers are those of pg_type.dat and never change.
        Some(match info.oid() {
            Some(Oid(16)) => Self::Bool,
            Some(Oid(17)) => Self::Bytea,
            Some(Oid(20)) => Self::Int8,
            Some(Oid(21)) => Self::Int2,
            Some(Oid(23)) => Self::Int4,
            Some(Oid(18 | 19 | 25 | 142 | 1042 | 1043)) => Self::Text,
            Some(Oid(26)) => Self::Oid,
            Some(Oid(114)) => Self::Json,
            Some(Oid(700)) => Self::Float4,
            Some(Oid(701)) => Self::Float8,
            Some(Oid(650 | 869)) => Self::Inet,
            Some(Oid(774 | 829)) => Self::Mac,
            Some(Oid(1082)) => Self::Date,
            Some(Oid(1083)) => Self::Time,
            Some(Oid(1114)) => Self::Timestamp,
            Some(Oid(1184)) => Self::Timestamptz,
            Some(Oid(1186)) => Self::Interval,
            Some(Oid(1266)) => Self::Timetz,
            Some(Oid(1560 | 1562)) => Self::Bits,
            Some(Oid(1700)) => Self::Numeric,
            Some(Oid(2950)) => Self::Uuid,
            Some(Oid(3802)) => Self::Jsonb,
            // An extension's type has a number of its own in each database; its binary form is that of text.
            _ if info.name().eq_ignore_ascii_case("citext") => Self::Text,
            _ => return None,
        })
    }

    /// Whether a key column may have this type: its values have one text each, the one that a placeholder takes.
    pub(crate) fn is_key(&self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8 | Self::Numeric | Self::Text | Self::Uuid)
    }

    /// Whether a version column may have this type.
    pub(crate) fn is_version(&self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8 | Self::Timestamptz)
    }

    /// Writes the value as JSON.
    pub(crate) fn json(&self, raw: &[u8], big: BigNumbers, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Int8 => {
                json::int(i64::from_be_bytes(exactly(raw)?), big, out);
                Ok(())
            }
            Self::Bool | Self::Int2 | Self::Int4 | Self::Oid | Self::Json | Self::Jsonb => self.plain(raw, out),
            Self::Float4 => json::single(f32::from_be_bytes(exactly(raw)?), out),
            Self::Float8 => json::float(f64::from_be_bytes(exactly(raw)?), out),
            Self::Text => json::string(raw, out),
            Self::Bytea => json::base64(raw, out),
            Self::Numeric
            | Self::Uuid
            | Self::Timestamptz
            | Self::Timestamp
            | Self::Date
            | Self::Time
            | Self::Timetz
            | Self::Interval
            | Self::Inet
            | Self::Mac
            | Self::Bits => json::quoted(out, |out| self.plain(raw, out)),
            Self::Array(element) => array(element, raw, big, out),
        }
    }

    /// Writes the value as its text, or the bytes of a bytea.
    pub(crate) fn plain(&self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Bool => json::bool(exactly::<1>(raw)? != [0], out),
            Self::Int2 => json::int_text(i16::from_be_bytes(exactly(raw)?).into(), out),
            Self::Int4 => json::int_text(i32::from_be_bytes(exactly(raw)?).into(), out),
            Self::Int8 => json::int_text(i64::from_be_bytes(exactly(raw)?), out),
            Self::Oid => json::int_text(u32::from_be_bytes(exactly(raw)?).into(), out),
            Self::Float4 => json::single_text(f32::from_be_bytes(exactly(raw)?), out)?,
            Self::Float8 => json::float_text(f64::from_be_bytes(exactly(raw)?), out)?,
            Self::Numeric => numeric(raw, out)?,
            Self::Text | Self::Bytea | Self::Json => out.extend_from_slice(raw),
            Self::Jsonb => match raw {
                [1, text @ ..] => out.extend_from_slice(text),
                _ => return Err("jsonb of an unknown version".into()),
            },
            Self::Uuid => uuid(exactly(raw)?, out),
            Self::Timestamptz => {
                let finite = timestamp(i64::from_be_bytes(exactly(raw)?), out);
                if finite {
                    out.push(b'Z');
                }
            }
            Self::Timestamp => {
                timestamp(i64::from_be_bytes(exactly(raw)?), out);
            }
            Self::Date => date(i32::from_be_bytes(exactly(raw)?), out),
            Self::Time => time(i64::from_be_bytes(exactly(raw)?), out),
            Self::Timetz => timetz(exactly(raw)?, out),
            Self::Interval => interval(raw, out)?,
            Self::Inet => address::network(raw, out)?,
            Self::Mac => address::mac(raw, out),
            Self::Bits => bits(raw, out)?,
            Self::Array(element) => array(element, raw, BigNumbers::Number, out)?,
        }
        Ok(())
    }

    /// Writes the value as a placeholder would hold it.
    pub(crate) fn key(&self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let start = out.len();
        self.plain(raw, out)?;
        if *self == Self::Numeric {
            json::whole(start, out);
        }
        Ok(())
    }

    /// The value as a version: an integer as it is, a time as microseconds since 1970.
    pub(crate) fn version(&self, raw: &[u8]) -> Result<u64, String> {
        let version = match self {
            Self::Int2 => i16::from_be_bytes(exactly(raw)?).into(),
            Self::Int4 => i32::from_be_bytes(exactly(raw)?).into(),
            Self::Int8 => i64::from_be_bytes(exactly(raw)?),
            Self::Timestamptz => match i64::from_be_bytes(exactly(raw)?) {
                i64::MAX | i64::MIN => return Err("infinity is no version".into()),
                micros => micros + EPOCH_DAYS * MICROS_PER_DAY,
            },
            _ => return Err("is of a type that is no version".into()),
        };
        u64::try_from(version).map_err(|_| format!("the version {version} is negative"))
    }
}

/// The bytes of a value that has a fixed size.
fn exactly<const N: usize>(raw: &[u8]) -> Result<[u8; N], String> {
    raw.try_into().map_err(|_| format!("a value of {} bytes where {N} are expected", raw.len()))
}

/// Takes the next `N` bytes.
fn next<const N: usize>(raw: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = raw.split_first_chunk::<N>().ok_or("a value that ends too early")?;
    *raw = tail;
    Ok(*head)
}

fn uuid(bytes: [u8; 16], out: &mut Vec<u8>) {
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        let _ = write!(out, "{byte:02x}");
    }
}

/// ```text
/// i16 groups | i16 weight | u16 sign | u16 digits after the point | i16 group of four digits …
/// ```
/// The first group counts 10000^weight.
fn numeric(mut raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let groups = usize::from(u16::from_be_bytes(next(&mut raw)?));
    let weight = i64::from(i16::from_be_bytes(next(&mut raw)?));
    let sign = u16::from_be_bytes(next(&mut raw)?);
    let scale = usize::from(u16::from_be_bytes(next(&mut raw)?));
    match sign {
        0x0000 => {}
        0x4000 => out.push(b'-'),
        0xC000 => {
            out.extend_from_slice(b"NaN");
            return Ok(());
        }
        0xD000 => {
            out.extend_from_slice(b"Infinity");
            return Ok(());
        }
        0xF000 => {
            out.extend_from_slice(b"-Infinity");
            return Ok(());
        }
        _ => return Err("a numeric of an unknown sign".into()),
    }
    if raw.len() != groups * 2 {
        return Err("a numeric of a wrong length".into());
    }
    // Groups that are not sent are zero, on both sides.
    let group = |place: i64| -> u16 {
        let index = usize::try_from(weight - place).ok().and_then(|index| index.checked_mul(2));
        match index.and_then(|index| raw.get(index..index + 2)) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        }
    };
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{}", group(weight.max(0)));
    for place in (0..weight).rev() {
        let _ = write!(out, "{:04}", group(place));
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        for place in 1..=scale.div_ceil(4) {
            let _ = write!(out, "{:04}", group(-(place as i64)));
        }
        out.truncate(end);
    }
    Ok(())
}

/// Writes date and time of microseconds since 2000; `false` for the two infinities, which have neither.
fn timestamp(micros: i64, out: &mut Vec<u8>) -> bool {
    match micros {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            civil_date(micros.div_euclid(MICROS_PER_DAY) + EPOCH_DAYS, out);
            out.push(b'T');
            time(micros.rem_euclid(MICROS_PER_DAY), out);
            return true;
        }
    }
    false
}

fn date(days: i32, out: &mut Vec<u8>) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        _ => civil_date(i64::from(days) + EPOCH_DAYS, out),
    }
}

/// Microseconds since midnight; 24:00:00 is a time in PostgreSQL. A fraction is written as far as it has digits.
fn time(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros / MICROS_PER_SECOND;
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    json::fraction(micros % MICROS_PER_SECOND, out);
}

/// Time of day, then the offset in seconds, counted west.
fn timetz(raw: [u8; 12], out: &mut Vec<u8>) {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = raw;
    time(i64::from_be_bytes([a, b, c, d, e, f, g, h]), out);
    let east = -i64::from(i32::from_be_bytes([i, j, k, l]));
    out.push(if east < 0 { b'-' } else { b'+' });
    let east = east.abs();
    let _ = write!(out, "{:02}:{:02}", east / 3600, east / 60 % 60);
    if east % 60 != 0 {
        let _ = write!(out, ":{:02}", east % 60);
    }
}

/// Microseconds, days and months are counted apart, because a day may have 23 hours and a month 28 days.
fn interval(mut raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let micros = i64::from_be_bytes(next(&mut raw)?);
    let days = i32::from_be_bytes(next(&mut raw)?);
    let months = i32::from_be_bytes(exactly(raw)?);
    match (micros, days, months) {
        (0, 0, 0) => out.extend_from_slice(b"PT0S"),
        (i64::MAX, i32::MAX, i32::MAX) => out.extend_from_slice(b"infinity"),
        (i64::MIN, i32::MIN, i32::MIN) => out.extend_from_slice(b"-infinity"),
        _ => {
            let part = |out: &mut Vec<u8>, count: i64, unit: char| {
                if count != 0 {
                    let _ = write!(out, "{count}{unit}");
                }
            };
            out.push(b'P');
            part(out, i64::from(months) / 12, 'Y');
            part(out, i64::from(months) % 12, 'M');
            part(out, days.into(), 'D');
            if micros != 0 {
                out.push(b'T');
                let seconds = micros / MICROS_PER_SECOND;
                part(out, seconds / 3600, 'H');
                part(out, seconds / 60 % 60, 'M');
                if micros % (60 * MICROS_PER_SECOND) != 0 {
                    if micros < 0 {
                        out.push(b'-');
                    }
                    let _ = write!(out, "{}", (seconds % 60).unsigned_abs());
                    json::fraction((micros % MICROS_PER_SECOND).abs(), out);
                    out.push(b'S');
                }
            }
        }
    }
    Ok(())
}

/// The number of bits, then the bits, the first one highest.
fn bits(mut raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let count = usize::try_from(i32::from_be_bytes(next(&mut raw)?)).map_err(|_| "a negative number of bits")?;
    if raw.len() != count.div_ceil(8) {
        return Err("bits of a wrong length".into());
    }
    out.extend((0..count).map(|bit| if raw[bit / 8] >> (7 - bit % 8) & 1 == 1 { b'1' } else { b'0' }));
    Ok(())
}

/// The day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last day of a year, and in eras of 400 years, which all have the
/// same number of days.
fn civil_date(days: i64, out: &mut Vec<u8>) {
    const DAYS_PER_ERA: i64 = 146_097;
    const DAYS_FROM_MARCH_OF_YEAR_0_TO_1970: i64 = 719_468;
    let days = days + DAYS_FROM_MARCH_OF_YEAR_0_TO_1970;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March to July and August to December have 153 days each, in the same order of 31 and 30.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let _ = if (0..=9999).contains(&year) {
        write!(out, "{year:04}-{month:02}-{day:02}")
    } else {
        write!(out, "{year:+05}-{month:02}-{day:02}")
    };
}

/// ```text
/// i32 dimensions | i32 has nulls | u32 element type | (i32 length | i32 lower bound) per dimension | (i32 bytes or -1 | bytes) …
/// ```
fn array(element: &Codec, mut raw: &[u8], big: BigNumbers, out: &mut Vec<u8>) -> Result<(), String> {
    let dimensions = i32::from_be_bytes(next(&mut raw)?);
    let _has_nulls: [u8; 4] = next(&mut raw)?;
    let _element_type: [u8; 4] = next(&mut raw)?;
    if !(0..=ARRAY_DEPTH_MAX).contains(&dimensions) {
        return Err(format!("an array of {dimensions} dimensions"));
    }
    if dimensions == 0 {
        out.extend_from_slice(b"[]");
        return Ok(());
    }
    let mut lengths = [0; ARRAY_DEPTH_MAX as usize];
    let lengths = &mut lengths[..dimensions as usize];
    for length in lengths.iter_mut() {
        *length = i32::from_be_bytes(next(&mut raw)?);
        let _lower_bound: [u8; 4] = next(&mut raw)?;
    }
    array_level(element, lengths, &mut raw, big, out)
}

fn array_level(
    element: &Codec,
    lengths: &[i32],
    raw: &mut &[u8],
    big: BigNumbers,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let Some((length, inner)) = lengths.split_first() else {
        let bytes = i32::from_be_bytes(next(raw)?);
        let Ok(bytes) = usize::try_from(bytes) else {
            out.extend_from_slice(b"null");
            return Ok(());
        };
        let (value, rest) = raw.split_at_checked(bytes).ok_or("an array that ends too early")?;
        *raw = rest;
        return element.json(value, big, out);
    };
    out.push(b'[');
    for index in 0..*length {
        if index > 0 {
            out.push(b',');
        }
        array_level(element, inner, raw, big, out)?;
    }
    out.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sqlx::types::chrono::{DateTime, NaiveDate};

    fn plain(codec: &Codec, raw: &[u8]) -> String {
        let mut out = Vec::new();
        codec.plain(raw, &mut out).expect("a good value");
        String::from_utf8(out).expect("text")
    }

    fn numeric_of(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
        let mut raw = (groups.len() as u16).to_be_bytes().to_vec();
        raw.extend(weight.to_be_bytes());
        raw.extend(sign.to_be_bytes());
        raw.extend(scale.to_be_bytes());
        raw.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
        raw
    }

    #[test]
    fn numerics_are_exact() {
        for (weight, sign, scale, groups, text) in [
            (0, 0, 0, &[][..], "0"),
            (0, 0, 2, &[], "0.00"),
            (0, 0, 2, &[12, 5000], "12.50"),
            (1, 0x4000, 0, &[1], "-10000"),
            (1, 0, 3, &[1, 2, 340], "10002.034"),
            (-1, 0, 4, &[1], "0.0001"),
            (-2, 0, 8, &[1234], "0.00001234"),
            (2, 0, 0, &[99, 0, 1], "9900000001"),
            (4, 0, 0, &[1], "10000000000000000"),
            (0, 0xC000, 0, &[], "NaN"),
            (0, 0xD000, 0, &[], "Infinity"),
            (0, 0xF000, 0, &[], "-Infinity"),
        ] {
            assert_eq!(plain(&Codec::Numeric, &numeric_of(weight, sign, scale, groups)), text);
        }
        let mut key = Vec::new();
        Codec::Numeric.key(&numeric_of(0, 0, 2, &[42]), &mut key).expect("a key");
        assert_eq!(key, b"42");
    }

    #[test]
    fn dates_and_times_of_the_edges() {
        assert_eq!(plain(&Codec::Date, &i32::MAX.to_be_bytes()), "infinity");
        assert_eq!(plain(&Codec::Timestamptz, &i64::MIN.to_be_bytes()), "-infinity");
        assert_eq!(plain(&Codec::Timestamptz, &0i64.to_be_bytes()), "2000-01-01T00:00:00Z");
        assert_eq!(plain(&Codec::Timestamp, &(-1i64).to_be_bytes()), "1999-12-31T23:59:59.999999");
        assert_eq!(plain(&Codec::Time, &MICROS_PER_DAY.to_be_bytes()), "24:00:00");
        assert_eq!(plain(&Codec::Time, &1_500_000i64.to_be_bytes()), "00:00:01.5");
        assert_eq!(plain(&Codec::Date, &(-730_486i32).to_be_bytes()), "-0001-12-31");
        assert_eq!(plain(&Codec::Date, &2_921_940i32.to_be_bytes()), "+10000-01-01");
        let zone = [1_000_000i64.to_be_bytes().as_slice(), &(-19_800i32).to_be_bytes()].concat();
        assert_eq!(plain(&Codec::Timetz, &zone), "00:00:01+05:30");
        assert_eq!(Codec::Timestamptz.version(&0i64.to_be_bytes()), Ok(946_684_800_000_000));
        assert!(Codec::Timestamptz.version(&i64::MAX.to_be_bytes()).is_err());
        assert!(Codec::Int4.version(&(-1i32).to_be_bytes()).is_err());
    }

    #[test]
    fn arrays_nest_and_hold_nulls() {
        let mut raw = Vec::new();
        for int in [2, 1, 23, 2, 1, 2, 1] {
            raw.extend(i32::to_be_bytes(int));
        }
        for int in [Some(1), None, Some(-3), Some(4)] {
            match int {
                Some(int) => raw.extend([4i32.to_be_bytes(), i32::to_be_bytes(int)].concat()),
                None => raw.extend((-1i32).to_be_bytes()),
            }
        }
        let codec = Codec::Array(Box::new(Codec::Int4));
        assert_eq!(plain(&codec, &raw), "[[1,null],[-3,4]]");
        for length in 0..raw.len() {
            assert!(codec.plain(&raw[..length], &mut Vec::new()).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn dates_agree_with_chrono(days in -700_000i32..2_900_000) {
            // Chrono counts days from the first day of the year 1, which is day 1.
            let date = NaiveDate::from_num_days_from_ce_opt(days + 730_120).expect("a date");
            prop_assert_eq!(plain(&Codec::Date, &days.to_be_bytes()), date.to_string());
        }

        #[test]
        fn timestamps_read_back(micros in -60_000_000_000_000_000i64..250_000_000_000_000_000) {
            let text = plain(&Codec::Timestamptz, &micros.to_be_bytes());
            let read = DateTime::parse_from_rfc3339(&text).expect("RFC 3339");
            prop_assert_eq!(read.timestamp_micros() - EPOCH_DAYS * MICROS_PER_DAY, micros);
        }

        #[test]
        fn no_bytes_are_too_strange(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
            for codec in [Codec::Numeric, Codec::Timetz, Codec::Interval, Codec::Inet, Codec::Bits, Codec::Jsonb, Codec::Text, Codec::Array(Box::new(Codec::Text))] {
                let _ = codec.json(&raw, BigNumbers::String, &mut Vec::new());
                let _ = codec.key(&raw, &mut Vec::new());
            }
        }
    }
}
