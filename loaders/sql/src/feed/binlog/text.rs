//! Values of key columns in the log, as the texts that keys hold.
//!
//! The log has the bytes of a value and the type of its column, but not whether an integer is unsigned, nor the character set of a text, nor
//! the words of an enum: these come from the database (`information_schema`). The texts are those that a loader compares with its key.

use crate::json;
use mysql_async::Value;
use mysql_async::binlog::value::BinlogValue;
use mysql_async::consts::ColumnType;

/// How to read the values of a key column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// So many bits.
    Int(u32),
    Unsigned(u32),
    Year,
    Decimal,
    Date,
    /// Text in UTF-8, or a part of it.
    Utf8,
    /// What MySQL calls latin1, which is Windows-1252.
    Latin1,
    /// MariaDB's.
    Uuid,
    /// Its words.
    Enum(Vec<String>),
}

const SUPPORTED: &str = "a key column for the binlog may be an integer, decimal, year, date, enum, uuid, or a text in utf8mb4, utf8mb3, ascii \
                         or latin1; for others there is via = \"outbox\"";

impl Kind {
    /// From what `information_schema.columns` says.
    ///
    /// # Errors
    /// It is no type of a key here; the text says which are.
    pub(super) fn new(data_type: &str, column_type: &str, charset: Option<&str>) -> Result<Self, String> {
        let bits = match data_type {
            "tinyint" => Some(8),
            "smallint" => Some(16),
            "mediumint" => Some(24),
            "int" => Some(32),
            "bigint" => Some(64),
            _ => None,
        };
        if let Some(bits) = bits {
            return Ok(if column_type.contains("unsigned") { Self::Unsigned(bits) } else { Self::Int(bits) });
        }
        match (data_type, charset) {
            ("year", _) => Ok(Self::Year),
            ("decimal", _) => Ok(Self::Decimal),
            ("date", _) => Ok(Self::Date),
            ("uuid", _) => Ok(Self::Uuid),
            ("enum", _) => Ok(Self::Enum(words(column_type))),
            (
                "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext",
                Some("utf8mb4" | "utf8mb3" | "utf8" | "ascii"),
            ) => Ok(Self::Utf8),
            ("char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext", Some("latin1")) => Ok(Self::Latin1),
            (_, charset) => {
                let charset = charset.map(|charset| format!(" in {charset}")).unwrap_or_default();
                Err(format!("is a {column_type}{charset}; {SUPPORTED}"))
            }
        }
    }

    /// Whether a column of the log may be of this kind. Dates are `NEWDATE` there.
    pub(super) fn fits(&self, column: ColumnType) -> bool {
        use ColumnType::*;
        match self {
            Self::Int(bits) | Self::Unsigned(bits) => match bits {
                8 => column == MYSQL_TYPE_TINY,
                16 => column == MYSQL_TYPE_SHORT,
                24 => column == MYSQL_TYPE_INT24,
                32 => column == MYSQL_TYPE_LONG,
                _ => column == MYSQL_TYPE_LONGLONG,
            },
            Self::Year => column == MYSQL_TYPE_YEAR,
            Self::Decimal => column == MYSQL_TYPE_NEWDECIMAL,
            Self::Date => column == MYSQL_TYPE_NEWDATE,
            Self::Utf8 | Self::Latin1 => matches!(
                column,
                MYSQL_TYPE_VARCHAR
                    | MYSQL_TYPE_VAR_STRING
                    | MYSQL_TYPE_STRING
                    | MYSQL_TYPE_BLOB
                    | MYSQL_TYPE_TINY_BLOB
                    | MYSQL_TYPE_MEDIUM_BLOB
                    | MYSQL_TYPE_LONG_BLOB
            ),
            Self::Uuid => column == MYSQL_TYPE_STRING,
            Self::Enum(_) => column == MYSQL_TYPE_ENUM,
        }
    }

    /// The text of a value; `None` stands for NULL.
    ///
    /// # Errors
    /// The value is none of this kind.
    pub(super) fn text(&self, value: &BinlogValue<'_>) -> Result<Option<String>, NoText> {
        let BinlogValue::Value(value) = value else { return Err(NoText) };
        if *value == Value::NULL {
            return Ok(None);
        }
        let text = match (self, value) {
            (Self::Int(bits), Value::Int(_) | Value::UInt(_)) => {
                // The sign of the reader is a guess; the bits are right.
                let unused = 64 - bits;
                (((raw(value)? << unused).cast_signed()) >> unused).to_string()
            }
            (Self::Unsigned(bits), Value::Int(_) | Value::UInt(_)) => {
                let unused = 64 - bits;
                ((raw(value)? << unused) >> unused).to_string()
            }
            // The reader counts from 1900, the zero year too.
            (Self::Year, Value::Bytes(bytes)) if bytes == b"1900" => "0".into(),
            (Self::Year, Value::Bytes(bytes)) => utf8(bytes)?,
            (Self::Decimal, Value::Bytes(bytes)) => whole_decimal(bytes)?,
            (Self::Date, Value::Date(year, month, day, ..)) => format!("{year:04}-{month:02}-{day:02}"),
            (Self::Utf8, Value::Bytes(bytes)) => utf8(bytes)?,
            (Self::Latin1, Value::Bytes(bytes)) => bytes.iter().map(|byte| latin1(*byte)).collect(),
            (Self::Uuid, Value::Bytes(bytes)) => uuid(bytes)?,
            (Self::Enum(_), Value::Int(0) | Value::UInt(0)) => String::new(),
            (Self::Enum(words), Value::Int(_) | Value::UInt(_)) => {
                let place = usize::try_from(raw(value)?).map_err(|_| NoText)?.checked_sub(1).ok_or(NoText)?;
                words.get(place).ok_or(NoText)?.clone()
            }
            _ => return Err(NoText),
        };
        Ok(Some(text))
    }
}

/// A value that is not of the kind of its column.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoText;

fn raw(value: &Value) -> Result<u64, NoText> {
    match value {
        Value::Int(int) => Ok(int.cast_unsigned()),
        Value::UInt(int) => Ok(*int),
        _ => Err(NoText),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, NoText> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| NoText)
}

/// A decimal without zeros that mean nothing, as a key has it.
fn whole_decimal(bytes: &[u8]) -> Result<String, NoText> {
    let text = utf8(bytes)?;
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let mut out = digits.trim_start_matches('0').as_bytes().to_vec();
    if !out.first().is_some_and(u8::is_ascii_digit) {
        out.insert(0, b'0');
    }
    json::whole(0, &mut out);
    let digits = utf8(&out)?;
    Ok(if digits == "0" { digits } else { format!("{sign}{digits}") })
}

/// Windows-1252 with the five holes of that table as MySQL fills them.
fn latin1(byte: u8) -> char {
    const FROM_0X80: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..0xa0 => FROM_0X80[usize::from(byte - 0x80)],
        byte => char::from(byte),
    }
}

/// The bytes stand in the order of the text, without zeros at the end.
fn uuid(bytes: &[u8]) -> Result<String, NoText> {
    let mut whole = [0; 16];
    whole.get_mut(..bytes.len()).ok_or(NoText)?.copy_from_slice(bytes);
    let hex = whole.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok([0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &hex[group]).join("-"))
}

/// The words of `enum('a','it''s')`.
fn words(column_type: &str) -> Vec<String> {
    let inner = column_type.strip_prefix("enum(").and_then(|rest| rest.strip_suffix(')')).unwrap_or_default();
    let mut words = Vec::new();
    let mut rest = inner;
    while let Some(quoted) = rest.strip_prefix('\'') {
        let mut word = String::new();
        let mut chars = quoted.char_indices();
        let mut end = quoted.len();
        while let Some((at, char)) = chars.next() {
            if char != '\'' {
                word.push(char);
            } else if quoted[at + 1..].starts_with('\'') {
                word.push('\'');
                chars.next();
            } else {
                end = at + 1;
                break;
            }
        }
        words.push(word);
        rest = quoted[end..].trim_start_matches(',');
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(column_type: &str, charset: Option<&str>) -> Kind {
        let data_type = column_type.split(['(', ' ']).next().expect("a type");
        Kind::new(data_type, column_type, charset).expect("a key")
    }

    fn text(kind: &Kind, value: Value) -> String {
        kind.text(&BinlogValue::Value(value)).expect("a value of the kind").expect("no NULL")
    }

    #[test]
    fn integers_have_the_sign_of_their_column_whatever_the_reader_guessed() {
        for (column, value, expected) in [
            ("bigint(20) unsigned", Value::Int(-1), "18446744073709551615"),
            ("bigint(20) unsigned", Value::UInt(u64::MAX), "18446744073709551615"),
            ("bigint(20)", Value::UInt(u64::MAX), "-1"),
            ("bigint(20)", Value::Int(i64::MIN), "-9223372036854775808"),
            ("int(10) unsigned", Value::Int(-1), "4294967295"),
            ("int(11)", Value::UInt(0xffff_fffe), "-2"),
            ("mediumint unsigned", Value::Int(-1), "16777215"),
            ("mediumint", Value::Int(0x00ff_ffff), "-1"),
            ("smallint unsigned", Value::Int(-2), "65534"),
            ("tinyint(1)", Value::Int(-128), "-128"),
            ("tinyint unsigned", Value::Int(-128), "128"),
            ("year(4)", Value::Bytes(b"2026".to_vec()), "2026"),
            ("year(4)", Value::Bytes(b"1900".to_vec()), "0"),
        ] {
            assert_eq!(text(&kind(column, None), value.clone()), expected, "{column} {value:?}");
        }
    }

    #[test]
    fn decimals_are_as_keys_have_them() {
        for (value, expected) in [
            ("42.00", "42"),
            ("-0042", "-42"),
            ("0", "0"),
            ("000000000000000007", "7"),
            ("0.00", "0"),
            ("-0.00", "0"),
            ("1.50", "1.50"),
            ("100", "100"),
        ] {
            assert_eq!(text(&kind("decimal(20,2)", None), Value::Bytes(value.into())), expected, "{value}");
        }
    }

    #[test]
    fn texts_are_read_in_their_character_set() {
        let utf8 = kind("varchar(10)", Some("utf8mb4"));
        assert_eq!(text(&utf8, Value::Bytes("größe".into())), "größe");
        assert_eq!(utf8.text(&BinlogValue::Value(Value::Bytes(vec![0xff]))), Err(NoText));
        assert_eq!(text(&kind("char(10)", Some("latin1")), Value::Bytes(vec![b'a', 0xe4, 0x80, 0x81])), "aä€\u{81}");
        let words = kind("enum('a','it''s','c,d','')", Some("latin1"));
        let read: Vec<String> = (0..5).map(|place| text(&words, Value::Int(place))).collect();
        assert_eq!(read, ["", "a", "it's", "c,d", ""]);
        assert_eq!(words.text(&BinlogValue::Value(Value::Int(5))), Err(NoText));
        for (data_type, charset) in [("varchar", Some("utf16")), ("binary", None), ("datetime", None), ("json", None)] {
            assert!(Kind::new(data_type, data_type, charset).is_err_and(|text| text.contains("outbox")), "{data_type}");
        }
    }

    #[test]
    fn dates_uuids_and_nulls_are_too() {
        assert_eq!(text(&Kind::Date, Value::Date(2026, 2, 3, 0, 0, 0, 0)), "2026-02-03");
        assert_eq!(text(&Kind::Date, Value::Date(0, 0, 0, 0, 0, 0, 0)), "0000-00-00");
        let bytes = (0x10..0x1f).collect::<Vec<u8>>();
        assert_eq!(text(&Kind::Uuid, Value::Bytes(bytes)), "10111213-1415-1617-1819-1a1b1c1d1e00");
        assert_eq!(Kind::Uuid.text(&BinlogValue::Value(Value::NULL)), Ok(None));
        assert_eq!(Kind::Uuid.text(&BinlogValue::Value(Value::Int(1))), Err(NoText));
    }
}
