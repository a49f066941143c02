//! Writes rows as MessagePack: a map of the columns, in the order of the query.
//!
//! What is a number, a string, a list or null in JSON is the same here, with two differences: integers are whole whatever their
//! size, and bytes are bytes (`bin`), not base64. Inside of arrays and of inline JSON they are as JSON has them; a number there that
//! no 64-bit integer holds is a double.

use rmp::encode;
use serde_json::Value;

/// The head of a map with so many entries.
pub(crate) fn map_of(entries: usize, out: &mut Vec<u8>) {
    let entries = u32::try_from(entries).expect("a query selects far less than 2^32 columns");
    encode::write_map_len(out, entries).expect("a Vec takes all");
}

/// The head of a list of so many values.
pub(crate) fn list_of(values: usize, out: &mut Vec<u8>) {
    let values = u32::try_from(values).expect("a list is bounded by the bytes of a value");
    encode::write_array_len(out, values).expect("a Vec takes all");
}

/// A string.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    encode::write_str(out, text).expect("a Vec takes all");
}

/// Bytes.
pub(crate) fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    encode::write_bin(out, bytes).expect("a Vec takes all");
}

/// NULL.
pub(crate) fn nil(out: &mut Vec<u8>) {
    encode::write_nil(out).expect("a Vec takes all");
}

/// What JSON text says.
///
/// # Errors
/// It is not JSON, or nested too deeply.
pub(crate) fn json(text: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| format!("is not JSON: {error}"))?;
    write(&value, out);
    Ok(())
}

/// As deep as the parser goes, which is bounded.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => nil(out),
        Value::Bool(bool) => encode::write_bool(out, *bool).expect("a Vec takes all"),
        Value::String(text) => string(text, out),
        Value::Number(number) => {
            if let Some(int) = number.as_u64() {
                encode::write_uint(out, int).expect("a Vec takes all");
            } else if let Some(int) = number.as_i64() {
                encode::write_sint(out, int).expect("a Vec takes all");
            } else {
                encode::write_f64(out, number.as_f64().unwrap_or(f64::NAN)).expect("a Vec takes all");
            }
        }
        Value::Array(values) => {
            list_of(values.len(), out);
            values.iter().for_each(|value| write(value, out));
        }
        Value::Object(entries) => {
            map_of(entries.len(), out);
            for (name, value) in entries {
                string(name, out);
                write(value, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_messagepack_say_the_same() {
        for (text, packed) in [
            ("null", &b"\xc0"[..]),
            ("true", b"\xc3"),
            ("5", b"\x05"),
            ("-1", b"\xff"),
            ("-129", b"\xd1\xff\x7f"),
            ("18446744073709551615", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("-9223372036854775808", b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
            ("1.5", b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"),
            ("\"\\u00e4\"", b"\xa2\xc3\xa4"),
            ("[1, [], {}]", b"\x93\x01\x90\x80"),
            ("{\"a\": [null]}", b"\x81\xa1a\x91\xc0"),
        ] {
            let mut out = Vec::new();
            json(text.as_bytes(), &mut out).expect("JSON");
            assert_eq!(out, packed, "{text}");
        }
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        assert!(json(deep.as_bytes(), &mut Vec::new()).is_err());
    }
}
