//! Writes the scalars of a row as JSON text, straight into the bytes of the value: no tree, no second pass.

use crate::settings::BigNumbers;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;

/// Integers up to here fit a double exactly, and so survive every reader of JSON.
const EXACT_IN_DOUBLE_MAX: u64 = 1 << 53;

/// A JSON string of UTF-8 text.
///
/// # Errors
/// The bytes are no UTF-8.
pub(crate) fn string(text: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let text =
        std::str::from_utf8(text).map_err(|error| format!("text is not UTF-8 from byte {}", error.valid_up_to()))?;
    serde_json::to_writer(out, text).map_err(|error| error.to_string())
}

/// Whether the text is JSON.
///
/// # Errors
/// It is not; where.
pub(crate) fn check(text: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<&serde_json::value::RawValue>(text).map_err(|error| format!("is not JSON: {error}"))?;
    Ok(())
}

/// Cuts the fraction off the number that begins at `start`, if it is zero: as a key, 42.00 is the integer 42.
pub(crate) fn whole(start: usize, out: &mut Vec<u8>) {
    if let Some(point) = out[start..].iter().position(|byte| *byte == b'.')
        && out[start + point + 1..].iter().all(|digit| *digit == b'0')
    {
        out.truncate(start + point);
    }
}

/// What `write` writes, in quotes. It must need no escapes.
pub(crate) fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>) -> Result<(), String> {
    out.push(b'"');
    write(out)?;
    out.push(b'"');
    Ok(())
}

/// Decimal digits.
pub(crate) fn int_text(value: i64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

/// As [`int`], for the integers that only MySQL has.
pub(crate) fn unsigned(value: u64, big: BigNumbers, out: &mut Vec<u8>) {
    let is_quoted = big == BigNumbers::String && value > EXACT_IN_DOUBLE_MAX;
    let _ = if is_quoted { write!(out, "\"{value}\"") } else { write!(out, "{value}") };
}

/// An integer as a number, or as a string if it is big and `big` says so.
pub(crate) fn int(value: i64, big: BigNumbers, out: &mut Vec<u8>) {
    if big == BigNumbers::String && value.unsigned_abs() > EXACT_IN_DOUBLE_MAX {
        out.push(b'"');
        int_text(value, out);
        out.push(b'"');
    } else {
        int_text(value, out);
    }
}

/// The shortest text that reads back as the same double; `NaN`, `Infinity`, `-Infinity`.
pub(crate) fn float_text(value: f64, out: &mut Vec<u8>) -> Result<(), String> {
    if value.is_finite() {
        serde_json::to_writer(out, &value).map_err(|error| error.to_string())
    } else {
        out.extend_from_slice(not_finite(value));
        Ok(())
    }
}

/// The shortest text that reads back as the same single; `NaN`, `Infinity`, `-Infinity`.
pub(crate) fn single_text(value: f32, out: &mut Vec<u8>) -> Result<(), String> {
    if value.is_finite() {
        serde_json::to_writer(out, &value).map_err(|error| error.to_string())
    } else {
        out.extend_from_slice(not_finite(f64::from(value)));
        Ok(())
    }
}

/// A number, or a string for the values that JSON has no number for, as PostgreSQL's own `to_json` does.
pub(crate) fn float(value: f64, out: &mut Vec<u8>) -> Result<(), String> {
    if value.is_finite() { float_text(value, out) } else { quoted(out, |out| float_text(value, out)) }
}

/// As [`float`], for single precision.
pub(crate) fn single(value: f32, out: &mut Vec<u8>) -> Result<(), String> {
    if value.is_finite() { single_text(value, out) } else { quoted(out, |out| single_text(value, out)) }
}

fn not_finite(value: f64) -> &'static [u8] {
    if value.is_nan() {
        b"NaN"
    } else if value > 0.0 {
        b"Infinity"
    } else {
        b"-Infinity"
    }
}

/// A JSON string of the bytes in base64 (standard alphabet, padded).
pub(crate) fn base64(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    quoted(out, |out| {
        let start = out.len();
        out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(bytes, &mut out[start..]).map_err(|error| error.to_string())?;
        out.truncate(start + written);
        Ok(())
    })
}

/// The fraction of a second as far as it has digits, with its point; nothing for a whole second.
pub(crate) fn fraction(micros: i64, out: &mut Vec<u8>) {
    if micros > 0 {
        let _ = write!(out, ".{micros:06}");
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// `true` or `false`.
pub(crate) fn bool(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}
