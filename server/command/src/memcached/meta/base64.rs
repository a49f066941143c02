//! Base64 for keys that a line cannot hold.
//!
//! Read as memcached reads it (its `base64.c`): bytes that belong to no digit are passed over, what stands behind the padding is
//! not looked at, and bits of the last digit that belong to no byte do not count.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

const PAD: u8 = b'=';

/// The bytes that a text stands for; `None`: it stands for none.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digits = || text.iter().filter_map(|&byte| value(byte));
    if !digits().count().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut group, mut padding) = (0u32, 0);
    for (index, digit) in digits().enumerate() {
        group = group << 6 | u32::from(digit.unwrap_or(0));
        padding += usize::from(digit.is_none());
        if index % 4 == 3 {
            let [_, triple @ ..] = group.to_be_bytes();
            match padding {
                0 => bytes.extend_from_slice(&triple),
                1 | 2 => {
                    bytes.extend_from_slice(&triple[..3 - padding]);
                    break;
                }
                _ => return None,
            }
            group = 0;
        }
    }
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

/// What a byte of the text counts: a digit, padding (`None` inside), or nothing.
fn value(byte: u8) -> Option<Option<u8>> {
    if byte == PAD {
        return Some(None);
    }
    DIGITS.iter().position(|&digit| digit == byte).map(|value| Some(value as u8))
}

/// Appends the text that stands for `bytes`.
pub(super) fn encode(bytes: &[u8], text: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { digit } else { PAD });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn keys_of_all_lengths_and_bytes_come_back() {
        let bytes: Vec<u8> = (0..=255).rev().collect();
        for len in 1..bytes.len() {
            let mut text = Vec::new();
            encode(&bytes[..len], &mut text);
            assert_eq!(text.len(), len.div_ceil(3) * 4);
            assert_eq!(decode(&text).as_deref(), Some(&bytes[..len]));
        }
    }

    /// Each as memcached 1.6.18 answers `mg <text> b`.
    #[test]
    fn texts_are_read_as_memcached_reads_them() {
        for (text, bytes) in [
            ("YQ==", Some("a")),
            ("YWE=", Some("aa")),
            ("YWFh", Some("aaa")),
            ("YR==", Some("a")),
            ("Y!Q==", Some("a")),
            ("YQ==YQ==", Some("a")),
            ("", None),
            ("YQ", None),
            ("YQ=", None),
            ("Y!Q", None),
            ("====", None),
            ("Y===", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), bytes.map(str::as_bytes), "{text}");
        }
    }
}
