//! What replies are made of. They are plain bytes, so these append to the connection's buffer, and that is all.

/// A line: `STORED`, `CLIENT_ERROR …`. The text has no line end.
#[inline]
pub fn line(buffer: &mut Vec<u8>, text: &[u8]) {
    buffer.reserve(text.len() + 2);
    buffer.extend_from_slice(text);
    buffer.extend_from_slice(b"\r\n");
}

/// A line of a text that may hold anything: line ends become spaces.
pub fn error(buffer: &mut Vec<u8>, kind: &str, text: &str) {
    buffer.extend_from_slice(kind.as_bytes());
    buffer.push(b' ');
    buffer.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    buffer.extend_from_slice(b"\r\n");
}

/// A number in decimal digits.
#[inline]
pub fn number(buffer: &mut Vec<u8>, value: u64) {
    if value < 10 {
        buffer.push(b'0' + value as u8);
    } else {
        buffer.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

/// `VALUE key flags length [cas]` and the data, as `get` and its kind answer them.
#[inline]
pub fn value(buffer: &mut Vec<u8>, key: &[u8], flags: u32, data: &[u8], cas: Option<u64>) {
    // The words and numbers around key and data: at most 6 + 1 + 10 + 1 + 20 + 1 + 20 + 2 + 2 bytes.
    buffer.reserve(key.len() + data.len() + 64);
    buffer.extend_from_slice(b"VALUE ");
    buffer.extend_from_slice(key);
    buffer.push(b' ');
    number(buffer, u64::from(flags));
    buffer.push(b' ');
    number(buffer, data.len() as u64);
    if let Some(cas) = cas {
        buffer.push(b' ');
        number(buffer, cas);
    }
    buffer.extend_from_slice(b"\r\n");
    buffer.extend_from_slice(data);
    buffer.extend_from_slice(b"\r\n");
}

/// `STAT name value`.
pub fn stat(buffer: &mut Vec<u8>, name: &str, value: impl std::fmt::Display) {
    buffer.extend_from_slice(format!("STAT {name} {value}\r\n").as_bytes());
}
