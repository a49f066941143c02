//! What meta commands answer: a code of two letters, the flags that were asked for in the order asked, and perhaps a value.

use super::base64;
use super::flags::Asked;
use leasehold_protocol::memcached::reply;

/// The key as a reply names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'k> {
    /// As it is stored.
    pub(super) key: &'k [u8],
    /// It came as base64, and goes back as that.
    pub(super) is_binary: bool,
}

/// What a reply can tell beside the key and the opaque token, which every reply tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// `c`.
    pub(super) version: Option<u64>,
    /// `s`.
    pub(super) value_len: Option<usize>,
    /// `f`.
    pub(super) client_flags: Option<u32>,
    /// `t`: the end of the life, before and after a `T` among the flags. `None` inside: it has no end.
    pub(super) life: Option<Life>,
    /// `h`.
    pub(super) is_used: Option<bool>,
    /// `l`.
    pub(super) idle_s: Option<u64>,
}

/// When an entry ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// As it was found.
    pub(super) before_ms: Option<u64>,
    /// From the flag `T` on.
    pub(super) after_ms: Option<u64>,
    /// Server time.
    pub(super) now_ms: u64,
}

impl Life {
    /// Of an entry that keeps its end.
    pub(super) fn unchanged(end_ms: Option<u64>, now_ms: u64) -> Self {
        Self { before_ms: end_ms, after_ms: end_ms, now_ms }
    }
}

/// Writes the flags that were asked for, behind the code; no line end.
pub(super) fn flags<'w>(buffer: &mut Vec<u8>, name: Name<'_>, words: impl Iterator<Item = &'w [u8]>, told: &Told) {
    let mut has_new_life = false;
    for word in words {
        match (word[0], told) {
            (b'k', _) => write_name(buffer, name),
            (b'O', _) => {
                buffer.push(b' ');
                buffer.extend_from_slice(word);
            }
            (b'T', _) => has_new_life = true,
            (b'c', Told { version: Some(version), .. }) => number(buffer, b'c', *version),
            (b's', Told { value_len: Some(len), .. }) => number(buffer, b's', *len as u64),
            (b'f', Told { client_flags: Some(flags), .. }) => number(buffer, b'f', u64::from(*flags)),
            (b't', Told { life: Some(life), .. }) => {
                let end_ms = if has_new_life { life.after_ms } else { life.before_ms };
                match end_ms {
                    None => buffer.extend_from_slice(b" t-1"),
                    // Begun seconds count as whole ones, so that what was just stored has the TTL it was given.
                    Some(end_ms) => number(buffer, b't', end_ms.saturating_sub(life.now_ms).div_ceil(1000)),
                }
            }
            (b'h', Told { is_used: Some(is_used), .. }) => number(buffer, b'h', u64::from(*is_used)),
            (b'l', Told { idle_s: Some(seconds), .. }) => number(buffer, b'l', *seconds),
            _ => {}
        }
    }
}

/// A reply without a value that tells only what every reply tells.
pub(super) fn bare<'w>(buffer: &mut Vec<u8>, code: &[u8], asked: &Asked<'_>, words: impl Iterator<Item = &'w [u8]>) {
    buffer.extend_from_slice(code);
    flags(buffer, asked.name(), words, &Told::default());
    end(buffer);
}

/// Ends a line.
pub(super) fn end(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(b"\r\n");
}

fn write_name(buffer: &mut Vec<u8>, Name { key, is_binary }: Name<'_>) {
    buffer.extend_from_slice(b" k");
    if is_binary {
        base64::encode(key, buffer);
        buffer.extend_from_slice(b" b");
    } else {
        buffer.extend_from_slice(key);
    }
}

fn number(buffer: &mut Vec<u8>, letter: u8, value: u64) {
    buffer.extend_from_slice(&[b' ', letter]);
    reply::number(buffer, value);
}
