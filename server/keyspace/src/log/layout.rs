//! How an entry lies in a segment: a few bytes of header, what fields it has, key and value, one after the other.
//!
//! ```text
//!     control u8 │ flags u8 │ key_len u8 │ value_len 1–5 bytes │ {key_len u16} │ {more flags u8}
//!     {db u8} {expire_at_ms u48 or u64} {version u64} {stale_for_ms u64} {external u64}
//!     {client_flags u32} {load_ms u32} {room u32}
//!     key │ value │ room │ up to 3 bytes to a multiple of 4
//! ```
//!
//! What stands in braces is there only if a flag says so: a plain entry with a value below 128 bytes costs 4 bytes. A key of
//! 255 bytes or more has its length in two more bytes. `value_len` has seven bits a byte, low ones first. Key and value of a
//! large entry lie in a run of their own; then the run's number, a u32, stands in place of key, value and room.
//!
//! All of it is safe code over slices: a wrong length is a panic, not a read of other memory.

use crate::entry::Fields;
use crate::keyspace::Entry;
use crate::settings::Db;

/// Entries start at, and are long, multiples of this.
pub(crate) const WORD: usize = 4;

const EXPIRES: u8 = 1 << 0;
/// The time of expiry has 8 bytes.
const FAR: u8 = 1 << 1;
const VERSION: u8 = 1 << 2;
const DB: u8 = 1 << 3;
const MORE: u8 = 1 << 4;
/// Key and value lie in a run of their own; its number stands in place of them.
const RUN: u8 = 1 << 5;
/// The entry was moved or removed.
const DEAD: u8 = 1 << 6;

/// In the byte of more flags.
const STALE: u8 = 1 << 0;
const EXTERNAL: u8 = 1 << 1;
const CLIENT_FLAGS: u8 = 1 << 2;
const LOAD: u8 = 1 << 3;
const ROOM: u8 = 1 << 4;

const KEY_LEN_LONG: usize = u8::MAX as usize;
const EXPIRY_NEAR_BITS: u32 = 48;

/// Where key and value of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// In the entry.
    Here,
    /// In the run of this number.
    Run(u32),
}

/// The sizes and fields that decide how an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) db: Db,
    pub(crate) key_len: usize,
    /// Of the value itself, wherever it is.
    pub(crate) value_len: usize,
    pub(crate) stored: Stored,
    pub(crate) version: Option<u64>,
    pub(crate) fields: Fields,
    /// Bytes after the value for it to grow into.
    pub(crate) room: usize,
}

impl Layout {
    fn more(&self) -> u8 {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        flag(self.fields.stale_for_ms > 0, STALE)
            | flag(self.fields.external_version.is_some(), EXTERNAL)
            | flag(self.fields.client_flags > 0, CLIENT_FLAGS)
            | flag(self.fields.load_ms > 0, LOAD)
            | flag(self.room > 0, ROOM)
    }

    fn flags(&self) -> u8 {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        flag(self.fields.expire_at_ms.is_some(), EXPIRES)
            | flag(self.fields.expire_at_ms.is_some_and(|at| at >> EXPIRY_NEAR_BITS > 0), FAR)
            | flag(self.version.is_some(), VERSION)
            | flag(self.db != Db(0), DB)
            | flag(self.more() > 0, MORE)
            | flag(self.stored != Stored::Here, RUN)
    }

    /// Bytes of key, value and room, or of the number of their run.
    fn body_len(&self) -> usize {
        match self.stored {
            Stored::Here => self.key_len + self.value_len + self.room,
            Stored::Run(_) => size_of::<u32>(),
        }
    }

    /// Bytes before the key.
    pub(crate) fn key_at(&self) -> usize {
        let flags = self.flags();
        let lens = 3 + varint_len(self.value_len) + if self.key_len < KEY_LEN_LONG { 0 } else { 2 };
        lens + usize::from(flags & MORE != 0) + fields_len(flags, self.more())
    }

    /// Bytes of the entry in a segment, a multiple of [`WORD`].
    pub(crate) fn bytes(&self) -> usize {
        (self.key_at() + self.body_len()).next_multiple_of(WORD)
    }

    /// Writes header and fields. Key and value are the caller's to write, at [`Layout::key_at`].
    pub(crate) fn write(&self, control: u8, to: &mut [u8]) {
        let (flags, more) = (self.flags(), self.more());
        let mut to = Writer { to, at: 0 };
        to.put([control, flags, self.key_len.min(KEY_LEN_LONG) as u8]);
        let mut value_len = self.value_len;
        while value_len >= 0x80 {
            to.put([value_len as u8 | 0x80]);
            value_len >>= 7;
        }
        to.put([value_len as u8]);
        if self.key_len >= KEY_LEN_LONG {
            let len = u16::try_from(self.key_len).expect("commands refuse keys longer than KEY_BYTES_MAX");
            to.put(len.to_le_bytes());
        }
        if more != 0 {
            to.put([more]);
        }
        if flags & DB != 0 {
            to.put([self.db.0]);
        }
        if let Some(at) = self.fields.expire_at_ms {
            let [a, b, c, d, e, f, g, h] = at.to_le_bytes();
            to.put([a, b, c, d, e, f]);
            if flags & FAR != 0 {
                to.put([g, h]);
            }
        }
        if let Some(version) = self.version {
            to.put(version.to_le_bytes());
        }
        if more & STALE != 0 {
            to.put(self.fields.stale_for_ms.to_le_bytes());
        }
        if let Some(version) = self.fields.external_version {
            to.put(version.to_le_bytes());
        }
        if more & CLIENT_FLAGS != 0 {
            to.put(self.fields.client_flags.to_le_bytes());
        }
        if more & LOAD != 0 {
            to.put(self.fields.load_ms.to_le_bytes());
        }
        if more & ROOM != 0 {
            let room = u32::try_from(self.room).expect("an entry is shorter than its segment");
            to.put(room.to_le_bytes());
        }
        debug_assert_eq!(to.at, self.key_at());
    }
}

struct Writer<'t> {
    to: &'t mut [u8],
    at: usize,
}

impl Writer<'_> {
    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.to[self.at..self.at + N].copy_from_slice(&bytes);
        self.at += N;
    }
}

/// An entry as it lies in its segment, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryView<'s> {
    /// From the entry's start to its segment's end.
    bytes: &'s [u8],
    /// What starts with key and value.
    body: &'s [u8],
    flags: u8,
    more: u8,
    /// Where the optional fields start.
    fields_at: u32,
    key_at: u32,
    key_len: u32,
    value_len: u32,
}

impl<'s> EntryView<'s> {
    /// Of the entry that starts where `bytes` do. If its body lies in a run, [`EntryView::with_run`] must be called before key
    /// and value can be asked for.
    #[inline]
    pub(crate) fn new(bytes: &'s [u8]) -> Self {
        let flags = bytes[1];
        let mut at = 3;
        let first = bytes[at];
        at += 1;
        let mut value_len = u32::from(first);
        if first >= 0x80 {
            value_len &= 0x7f;
            let mut shift = 7;
            loop {
                let byte = bytes[at];
                at += 1;
                value_len |= u32::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
                shift += 7;
            }
        }
        let mut key_len = u32::from(bytes[2]);
        if key_len as usize == KEY_LEN_LONG {
            key_len = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
            at += 2;
        }
        if flags & !(DEAD | RUN) == 0 {
            let body = &bytes[at..];
            let at = at as u32;
            return Self { bytes, body, flags, more: 0, fields_at: at, key_at: at, key_len, value_len };
        }
        let more = if flags & MORE != 0 { bytes[at] } else { 0 };
        at += usize::from(flags & MORE != 0);
        let key_at = at + fields_len(flags, more);
        let (body, fields_at, key_at) = (&bytes[key_at..], at as u32, key_at as u32);
        Self { bytes, body, flags, more, fields_at, key_at, key_len, value_len }
    }

    /// The same with the run that its body lies in.
    #[inline]
    pub(crate) fn with_run(self, run: &'s [u8]) -> Self {
        Self { body: run, ..self }
    }

    #[inline]
    pub(crate) fn is(&self, db: Db, key: &[u8]) -> bool {
        self.key() == key && self.db() == db
    }

    #[inline]
    pub(crate) fn control(&self) -> u8 {
        self.bytes[0]
    }

    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.flags & DEAD != 0
    }

    #[inline]
    pub(crate) fn db(&self) -> Db {
        Db(if self.flags & DB == 0 { 0 } else { self.bytes[self.fields_at as usize] })
    }

    #[inline]
    pub(crate) fn key(&self) -> &'s [u8] {
        &self.body[..self.key_len as usize]
    }

    /// Where key or run number start, from the entry's start.
    #[inline]
    pub(crate) fn key_at(&self) -> usize {
        self.key_at as usize
    }

    #[inline]
    pub(crate) fn key_len(&self) -> usize {
        self.key_len as usize
    }

    #[inline]
    pub(crate) fn value_len(&self) -> usize {
        self.value_len as usize
    }

    #[inline]
    pub(crate) fn value(&self) -> &'s [u8] {
        &self.body[self.key_len as usize..][..self.value_len as usize]
    }

    #[inline]
    pub(crate) fn stored(&self) -> Stored {
        if self.flags & RUN == 0 {
            return Stored::Here;
        }
        Stored::Run(self.u32_at(self.key_at as usize))
    }

    #[inline]
    pub(crate) fn expire_at_ms(&self) -> Option<u64> {
        if self.flags & EXPIRES == 0 {
            return None;
        }
        let at = self.fields_at as usize + usize::from(self.flags & DB != 0);
        if self.flags & FAR != 0 {
            return Some(self.u64_at(at));
        }
        // Two reads of a known length: one of a length that varies would be a call.
        let [low @ .., e, f] = *self.bytes[at..].first_chunk::<6>().expect("an entry has all its fields");
        Some(u64::from(u32::from_le_bytes(low)) | u64::from(u16::from_le_bytes([e, f])) << 32)
    }

    /// Within its fresh life.
    #[inline]
    pub(crate) fn is_fresh(&self, now_ms: u64) -> bool {
        match self.expire_at_ms() {
            None => true,
            Some(expire_at_ms) => now_ms < expire_at_ms,
        }
    }

    /// Past its fresh life and its stale window: nobody may see it any more.
    #[inline]
    pub(crate) fn is_gone(&self, now_ms: u64) -> bool {
        self.gone_at_ms().is_some_and(|gone_at_ms| gone_at_ms <= now_ms)
    }

    /// The end of the stale window.
    #[inline]
    pub(crate) fn gone_at_ms(&self) -> Option<u64> {
        self.expire_at_ms().map(|expire_at_ms| expire_at_ms.saturating_add(self.stale_for_ms()))
    }

    /// The internal version, if somebody has asked for it.
    pub(crate) fn version(&self) -> Option<u64> {
        (self.flags & VERSION != 0)
            .then(|| self.u64_at(self.fields_at as usize + fields_len(self.flags & (VERSION - 1) | self.flags & DB, 0)))
    }

    pub(crate) fn stale_for_ms(&self) -> u64 {
        if self.more & STALE == 0 { 0 } else { self.u64_at(self.more_at(STALE)) }
    }

    pub(crate) fn external_version(&self) -> Option<u64> {
        (self.more & EXTERNAL != 0).then(|| self.u64_at(self.more_at(EXTERNAL)))
    }

    pub(crate) fn fields(&self) -> Fields {
        let small = |flag: u8| if self.more & flag == 0 { 0 } else { self.u32_at(self.more_at(flag)) };
        Fields {
            expire_at_ms: self.expire_at_ms(),
            stale_for_ms: self.stale_for_ms(),
            external_version: self.external_version(),
            client_flags: small(CLIENT_FLAGS),
            load_ms: small(LOAD),
            negative: false,
        }
    }

    /// Bytes after the value for it to grow into.
    pub(crate) fn room(&self) -> usize {
        if self.more & ROOM == 0 { 0 } else { self.u32_at(self.more_at(ROOM)) as usize }
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout {
            db: self.db(),
            key_len: self.key_len as usize,
            value_len: self.value_len as usize,
            stored: self.stored(),
            version: self.version(),
            fields: self.fields(),
            room: self.room(),
        }
    }

    /// Bytes of the entry in its segment.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        let body_len =
            if self.flags & RUN == 0 { self.key_len() + self.value_len() + self.room() } else { size_of::<u32>() };
        (self.key_at() + body_len).next_multiple_of(WORD)
    }

    /// The entry as callers of the keyspace see it, but for what only the log and the policy know.
    #[inline]
    pub(crate) fn entry(&self) -> Entry<'s> {
        let mut entry = Entry {
            db: self.db(),
            key: self.key(),
            value: self.value(),
            external_version: None,
            expire_at_ms: None,
            stale_for_ms: 0,
            client_flags: 0,
            idle_ms: 0,
            frequency: 0,
            memory_bytes: 0,
        };
        entry.expire_at_ms = self.expire_at_ms();
        if self.more & (STALE | EXTERNAL | CLIENT_FLAGS) != 0 {
            let fields = self.fields();
            entry.external_version = fields.external_version;
            entry.stale_for_ms = fields.stale_for_ms;
            entry.client_flags = fields.client_flags;
        }
        entry
    }

    /// Where a field of the second flags starts.
    fn more_at(&self, flag: u8) -> usize {
        self.fields_at as usize + fields_len(self.flags, self.more & (flag - 1))
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_le_bytes(bytes)
    }
}

/// Marks the entry that starts where `bytes` do as moved or removed.
pub(crate) fn mark_dead(bytes: &mut [u8]) {
    bytes[1] |= DEAD;
}

/// Bytes of the optional fields that these flags name.
#[inline]
fn fields_len(flags: u8, more: u8) -> usize {
    let part = |flags: u8, flag: u8, len: usize| if flags & flag == 0 { 0 } else { len };
    let first = part(flags, DB, 1) + part(flags, EXPIRES, 6) + part(flags, FAR, 2) + part(flags, VERSION, 8);
    if more == 0 {
        return first;
    }
    let second = part(more, STALE, 8) + part(more, EXTERNAL, 8);
    first + second + part(more, CLIENT_FLAGS, 4) + part(more, LOAD, 4) + part(more, ROOM, 4)
}

/// Bytes of a length, seven bits a byte.
fn varint_len(len: usize) -> usize {
    match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests;
