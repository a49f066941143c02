//! How an entry lies in a segment: a few bytes of header, what fields it has, key and value, one after the other.
//!
//! ```text
//!     control u8 │ flags u8 │ key_len u8 │ value_len 1–5 bytes │ {key_len u16} │ {more flags u8}
//!     {db u8} {expire_at_ms u42 with load u6, or u64} {version u64} {stale_for_ms u64} {external u64}
//!     {client_flags u32} {room u32} {stale_since_ms u64} {written u64}
//!     {tags: birth u64 │ count u8 │ count × hash u64}
//!     key │ value │ room │ up to 3 bytes to a multiple of 4
//! ```
//!
//! What stands in braces is there only if a flag says so: a plain entry with a value below 128 bytes costs 4 bytes. A key of
//! 255 bytes or more has its length in two more bytes. `value_len` has seven bits a byte, low ones first. Key and value of a
//! large entry lie in a run of their own; then the run's number, a u32, stands in place of key, value and room. `load` is how
//! long the key's load took, to a quarter of it: it needs no byte of its own, because what is loaded has a TTL.
//!
//! All of it is safe code over slices: a wrong length is a panic, not a read of other memory.

use crate::bumps::{TAGS_MAX, Tag, TagSet, Tags};
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
const ROOM: u8 = 1 << 3;
const STALE_SINCE: u8 = 1 << 4;
const WRITTEN: u8 = 1 << 5;
const TAGS: u8 = 1 << 6;

const KEY_LEN_LONG: usize = u8::MAX as usize;
/// Of 48: up to the year 2109. Above them stands the load.
const EXPIRY_NEAR_BITS: u32 = 42;
const TAG_BYTES: usize = size_of::<u64>();
/// Of the tags, before the first: their birth, and how many there are.
const TAGS_HEADER_BYTES: usize = size_of::<u64>() + 1;

const _: () = assert!(TAGS_MAX <= u8::MAX as usize);

/// Where key and value of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// In the entry.
    Here,
    /// In the run of this number.
    Run(u32),
}

/// The sizes and fields that decide how an entry lies. [`Layout::plan`] works out where everything stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout<'t> {
    pub(crate) db: Db,
    pub(crate) key_len: usize,
    /// Of the value itself, wherever it is.
    pub(crate) value_len: usize,
    pub(crate) stored: Stored,
    pub(crate) version: Option<u64>,
    pub(crate) fields: Fields,
    pub(crate) tags: Tags<'t>,
    /// Bytes after the value for it to grow into.
    pub(crate) room: usize,
}

/// A layout, and where everything stands by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'t> {
    layout: Layout<'t>,
    flags: u8,
    more: u8,
    key_at: usize,
    bytes: usize,
}

impl<'t> Layout<'t> {
    pub(crate) fn plan(self) -> Plan<'t> {
        let flag = |is_set: bool, flag: u8| u8::from(is_set) * flag;
        let fields = &self.fields;
        let more = flag(fields.stale_for_ms > 0, STALE)
            | flag(fields.external_version.is_some(), EXTERNAL)
            | flag(fields.client_flags > 0, CLIENT_FLAGS)
            | flag(self.room > 0, ROOM)
            | flag(fields.stale_since_ms.is_some(), STALE_SINCE)
            | flag(fields.written.is_some(), WRITTEN)
            | flag(!self.tags.tags.is_empty(), TAGS);
        let flags = flag(fields.expire_at_ms.is_some(), EXPIRES)
            | flag(fields.expire_at_ms.is_some_and(|at| at >> EXPIRY_NEAR_BITS > 0), FAR)
            | flag(self.version.is_some(), VERSION)
            | flag(self.db != Db(0), DB)
            | flag(more > 0, MORE)
            | flag(self.stored != Stored::Here, RUN);
        let lens = 3 + varint_len(self.value_len) + if self.key_len < KEY_LEN_LONG { 0 } else { 2 };
        let tags_len = if more & TAGS == 0 { 0 } else { TAGS_HEADER_BYTES + self.tags.tags.len() * TAG_BYTES };
        let key_at = lens + usize::from(flags & MORE != 0) + fields_len(flags, more) + tags_len;
        let body_len = match self.stored {
            Stored::Here => self.key_len + self.value_len + self.room,
            Stored::Run(_) => size_of::<u32>(),
        };
        Plan { layout: self, flags, more, key_at, bytes: (key_at + body_len).next_multiple_of(WORD) }
    }
}

impl<'t> Plan<'t> {
    #[inline]
    pub(crate) fn layout(&self) -> &Layout<'t> {
        &self.layout
    }

    /// Bytes before the key.
    #[inline]
    pub(crate) fn key_at(&self) -> usize {
        self.key_at
    }

    /// Bytes of the entry in a segment, a multiple of [`WORD`].
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the entry is gone.
    #[inline]
    pub(crate) fn gone_at_ms(&self) -> Option<u64> {
        let fields = &self.layout.fields;
        fields.expire_at_ms.map(|at| at.saturating_add(fields.stale_for_ms))
    }

    /// Writes header and fields. Key and value are the caller's to write, at [`Plan::key_at`].
    pub(crate) fn write(&self, control: u8, to: &mut [u8]) {
        let Self { layout, flags, more, .. } = *self;
        let mut to = Writer { to: &mut to[..self.key_at], at: 0 };
        to.put([control, flags, layout.key_len.min(KEY_LEN_LONG) as u8]);
        let mut value_len = layout.value_len;
        while value_len >= 0x80 {
            to.put([value_len as u8 | 0x80]);
            value_len >>= 7;
        }
        to.put([value_len as u8]);
        if layout.key_len >= KEY_LEN_LONG {
            let len = u16::try_from(layout.key_len).expect("commands refuse keys longer than KEY_BYTES_MAX");
            to.put(len.to_le_bytes());
        }
        if flags & !RUN != 0 {
            to.put_fields(&layout, flags, more);
        }
        debug_assert_eq!(to.at, self.key_at);
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

    fn put_fields(&mut self, layout: &Layout<'_>, flags: u8, more: u8) {
        let fields = &layout.fields;
        if more != 0 {
            self.put([more]);
        }
        if flags & DB != 0 {
            self.put([layout.db.0]);
        }
        if let Some(at) = fields.expire_at_ms {
            if flags & FAR != 0 {
                self.put(at.to_le_bytes());
            } else {
                let [bytes @ .., _, _] = (at | u64::from(load_class(fields.load_ms)) << EXPIRY_NEAR_BITS).to_le_bytes();
                self.put::<6>(bytes);
            }
        }
        if let Some(version) = layout.version {
            self.put(version.to_le_bytes());
        }
        if more & STALE != 0 {
            self.put(fields.stale_for_ms.to_le_bytes());
        }
        if let Some(version) = fields.external_version {
            self.put(version.to_le_bytes());
        }
        if more & CLIENT_FLAGS != 0 {
            self.put(fields.client_flags.to_le_bytes());
        }
        if more & ROOM != 0 {
            let room = u32::try_from(layout.room).expect("an entry is shorter than its segment");
            self.put(room.to_le_bytes());
        }
        if let Some(since_ms) = fields.stale_since_ms {
            self.put(since_ms.to_le_bytes());
        }
        if let Some(written) = fields.written {
            self.put(written.to_le_bytes());
        }
        if more & TAGS != 0 {
            let Tags { birth, tags } = layout.tags;
            self.put(birth.to_le_bytes());
            self.put([u8::try_from(tags.len()).expect("an entry has at most TAGS_MAX tags")]);
            tags.iter().for_each(|tag| self.put(tag.0.to_le_bytes()));
        }
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
    #[inline(always)]
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
        let mut key_at = at + fields_len(flags, more);
        if more & TAGS != 0 {
            key_at += TAGS_HEADER_BYTES + usize::from(bytes[key_at + TAGS_HEADER_BYTES - 1]) * TAG_BYTES;
        }
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

    /// Neither fields nor a run, and neither moved nor removed.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.flags == 0
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
        Some(self.u48_at(at) & ((1 << EXPIRY_NEAR_BITS) - 1))
    }

    /// How long the key's load took, in ms, to a quarter of it; 0 = unknown.
    pub(crate) fn load_ms(&self) -> u32 {
        if self.flags & (EXPIRES | FAR) != EXPIRES {
            return 0;
        }
        let at = self.fields_at as usize + usize::from(self.flags & DB != 0);
        load_ms((self.u48_at(at) >> EXPIRY_NEAR_BITS) as u8)
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

    fn stale_since_ms(&self) -> Option<u64> {
        (self.more & STALE_SINCE != 0).then(|| self.u64_at(self.more_at(STALE_SINCE)))
    }

    pub(crate) fn external_version(&self) -> Option<u64> {
        (self.more & EXTERNAL != 0).then(|| self.u64_at(self.more_at(EXTERNAL)))
    }

    pub(crate) fn client_flags(&self) -> u32 {
        if self.more & CLIENT_FLAGS == 0 { 0 } else { self.u32_at(self.more_at(CLIENT_FLAGS)) }
    }

    /// The stamp of the write, if a bump of a prefix of the key was pending then.
    pub(crate) fn written(&self) -> Option<u64> {
        (self.more & WRITTEN != 0).then(|| self.u64_at(self.more_at(WRITTEN)))
    }

    #[inline]
    pub(crate) fn is_tagged(&self) -> bool {
        self.more & TAGS != 0
    }

    /// From which stamp on bumps of the tags count; `None` without tags.
    pub(crate) fn tags_birth(&self) -> Option<u64> {
        self.is_tagged().then(|| self.u64_at(self.more_at(TAGS)))
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = Tag> {
        let end = self.key_at as usize;
        let start = if self.is_tagged() { self.more_at(TAGS) + TAGS_HEADER_BYTES } else { end };
        self.bytes[start..end].as_chunks::<TAG_BYTES>().0.iter().map(|&hash| Tag(u64::from_le_bytes(hash)))
    }

    pub(crate) fn tag_set(&self) -> TagSet {
        TagSet { birth: self.tags_birth().unwrap_or(0), tags: self.tags().collect() }
    }

    pub(crate) fn fields(&self) -> Fields {
        Fields {
            expire_at_ms: self.expire_at_ms(),
            stale_for_ms: self.stale_for_ms(),
            stale_since_ms: self.stale_since_ms(),
            external_version: self.external_version(),
            written: self.written(),
            client_flags: self.client_flags(),
            load_ms: self.load_ms(),
            negative: false,
        }
    }

    /// Bytes after the value for it to grow into.
    pub(crate) fn room(&self) -> usize {
        if self.more & ROOM == 0 { 0 } else { self.u32_at(self.more_at(ROOM)) as usize }
    }

    /// The layout, with tags as given: those it has are of a length of their own, and borrowed.
    pub(crate) fn layout<'t>(&self, tags: &'t TagSet) -> Layout<'t> {
        Layout {
            db: self.db(),
            key_len: self.key_len as usize,
            value_len: self.value_len as usize,
            stored: self.stored(),
            version: self.version(),
            fields: self.fields(),
            tags: tags.borrow(),
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
    #[inline(always)]
    pub(crate) fn entry(&self) -> Entry<'s> {
        let mut entry = Entry {
            db: self.db(),
            key: self.key(),
            value: self.value(),
            external_version: None,
            expire_at_ms: None,
            stale_for_ms: 0,
            stale_since_ms: None,
            client_flags: 0,
            idle_ms: 0,
            frequency: None,
            memory_bytes: 0,
        };
        entry.expire_at_ms = self.expire_at_ms();
        if self.more & (STALE | EXTERNAL | CLIENT_FLAGS | STALE_SINCE) != 0 {
            entry.external_version = self.external_version();
            entry.stale_for_ms = self.stale_for_ms();
            entry.stale_since_ms = self.stale_since_ms();
            entry.client_flags = self.client_flags();
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

    /// Two reads of a known length: one of a length that varies would be a call.
    #[inline]
    fn u48_at(&self, at: usize) -> u64 {
        let [low @ .., e, f] = *self.bytes[at..].first_chunk::<6>().expect("an entry has all its fields");
        u64::from(u32::from_le_bytes(low)) | u64::from(u16::from_le_bytes([e, f])) << 32
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

/// Bytes of the optional fields that these flags name, without tags.
#[inline]
fn fields_len(flags: u8, more: u8) -> usize {
    let first = usize::from(FIELDS_LEN[usize::from(flags & (EXPIRES | FAR | VERSION | DB))]);
    if more == 0 {
        return first;
    }
    let part = |flag: u8, len: usize| if more & flag == 0 { 0 } else { len };
    let of_life = part(STALE, 8) + part(STALE_SINCE, 8) + part(WRITTEN, 8);
    first + of_life + part(EXTERNAL, 8) + part(CLIENT_FLAGS, 4) + part(ROOM, 4)
}

/// Of the fields that the first flags name; a read looks it up for each entry.
const FIELDS_LEN: [u8; 16] = {
    assert!(EXPIRES | FAR | VERSION | DB == 15);
    let mut lens = [0; 16];
    let mut flags = 0;
    while flags < 16 {
        let all = [(EXPIRES, 6), (FAR, 2), (VERSION, 8), (DB, 1)];
        let mut index = 0;
        while index < all.len() {
            if flags & all[index].0 != 0 {
                lens[flags as usize] += all[index].1;
            }
            index += 1;
        }
        flags += 1;
    }
    lens
};

/// Six bits for a time in ms: exact below 8, then four classes per doubling, up to two minutes.
fn load_class(ms: u32) -> u8 {
    const MS_MAX: u32 = (1 << 17) - 1;

    let ms = ms.min(MS_MAX);
    if ms < 4 {
        return ms as u8;
    }
    let octave = ms.ilog2();
    ((octave - 1) * 4 + (ms >> (octave - 2) & 3)) as u8
}

/// The shortest time of a class.
fn load_ms(class: u8) -> u32 {
    let class = u32::from(class);
    if class < 4 { class } else { (4 + class % 4) << (class / 4 - 1) }
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
