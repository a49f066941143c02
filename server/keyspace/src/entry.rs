//! What is remembered of a key that has no entry, in one block of memory: header, optional fields and key.
//!
//! Absences come and go by themselves, each with a time, and there are few of them, so they lie with the allocator and in small
//! hash tables ([`crate::table`]), not in a log. A block is a header whose lengths say what follows it, and no Rust type says
//! that: hence `unsafe`. All methods are safe.
//!
//! ```text
//!     0        8          12       14      15   16
//!     ├────────┼──────────┼────────┼───────┼────┤
//!     │version │ capacity │key_len │ flags │ db │  header, 16 bytes
//!     │  u64   │   u32    │  u16   │  u8   │ u8 │
//!     ├────────┴──────────┴────────┴───────┴────┤
//!     │ expire_at_ms u64      if flags has EXPIRES
//!     │ stale_for_ms u64      if flags has STALE
//!     │ external_version u64  if flags has EXTERNAL
//!     ├─────────────────────────────────────────┤
//!     │ key        key_len bytes                │
//!     └─────────────────────────────────────────┘
//! ```
#![allow(unsafe_code)]

use crate::memory::{KEY_BYTES_MAX, size_class};
use crate::settings::Db;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Bytes of a block's place in a table: the pointer and the control byte.
pub(crate) const PLACE_BYTES: usize = size_of::<Block>() + 1;

#[repr(C)]
struct Header {
    version: u64,
    capacity: u32,
    key_len: u16,
    flags: u8,
    db: u8,
}

const HEADER_BYTES: usize = size_of::<Header>();
const BLOCK_ALIGN: usize = align_of::<Header>();
const FIELD_BYTES: usize = size_of::<u64>();

const _: () = assert!(HEADER_BYTES == 16);
const _: () = assert!(BLOCK_ALIGN == 8 && HEADER_BYTES.is_multiple_of(BLOCK_ALIGN) && FIELD_BYTES == BLOCK_ALIGN);
const _: () = assert!(size_of::<Option<Block>>() == size_of::<usize>());
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);

const EXPIRES: u8 = 1 << 0;
const STALE: u8 = 1 << 1;
const EXTERNAL: u8 = 1 << 2;
const FIELDS: u8 = EXPIRES | STALE | EXTERNAL;
/// The block is an absence that the source confirmed, not a tombstone. No field belongs to it.
const NEGATIVE: u8 = 1 << 7;

/// A key, and its hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'k> {
    pub(crate) db: Db,
    pub(crate) bytes: &'k [u8],
    /// Keyed hash of both; see [`crate::table::hash_key`].
    pub(crate) hash: u64,
}

/// What most entries do not have. Of an absence only the times, the external version and `negative` are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) expire_at_ms: Option<u64>,
    pub(crate) stale_for_ms: u64,
    /// When the entry's own fresh life ended, if a failed load has given it another since.
    pub(crate) stale_since_ms: Option<u64>,
    pub(crate) external_version: Option<u64>,
    /// The stamp of the write, if a bump of a prefix of the key was pending then; see `shard/bumped.rs`.
    pub(crate) written: Option<u64>,
    pub(crate) client_flags: u32,
    /// How long the key's last load took, in ms; 0 = unknown.
    pub(crate) load_ms: u32,
    /// In a table of absences: the source has no such key.
    pub(crate) negative: bool,
}

impl Fields {
    /// Without the new life that a failed load gave: the window ends when it would have ended.
    pub(crate) fn with_own_life(self) -> Self {
        let (Some(since_ms), Some(expire_at_ms)) = (self.stale_since_ms, self.expire_at_ms) else { return self };
        let stale_for_ms = expire_at_ms.saturating_add(self.stale_for_ms).saturating_sub(since_ms);
        Self { expire_at_ms: Some(since_ms), stale_for_ms, stale_since_ms: None, ..self }
    }

    /// With another end of its fresh life, or none. A life that a failed load gave stays as it is, and the window behind it can
    /// only get shorter: nobody has seen a newer value.
    pub(crate) fn ending_at(self, expire_at_ms: Option<u64>) -> Self {
        let (Some(_), Some(life_ends_ms)) = (self.stale_since_ms, self.expire_at_ms) else {
            return Self { expire_at_ms, ..self };
        };
        let window_ends_ms = life_ends_ms.saturating_add(self.stale_for_ms);
        let gone_at_ms = expire_at_ms.map_or(window_ends_ms, |at_ms| at_ms.min(window_ends_ms));
        let life_ends_ms = life_ends_ms.min(gone_at_ms);
        Self { expire_at_ms: Some(life_ends_ms), stale_for_ms: gone_at_ms - life_ends_ms, ..self }
    }

    /// Softly invalidated as of `since_ms`: stale from then on for `stale_ms`, or for its own window if it has one, or for
    /// `default_ms`.
    pub(crate) fn invalidated(self, since_ms: u64, stale_ms: Option<u64>, default_ms: u64) -> Self {
        let before = self.with_own_life();
        let own = (before.stale_for_ms > 0).then_some(before.stale_for_ms);
        let stale_for_ms = stale_ms.or(own).unwrap_or(default_ms);
        let expire_at_ms = Some(before.expire_at_ms.map_or(since_ms, |at_ms| at_ms.min(since_ms)));
        Self { expire_at_ms, stale_for_ms, ..before }
    }

    /// The end of the stale window.
    pub(crate) fn gone_at_ms(&self) -> Option<u64> {
        self.expire_at_ms.map(|at_ms| at_ms.saturating_add(self.stale_for_ms))
    }

    /// Past the stale window.
    pub(crate) fn is_gone(&self, now_ms: u64) -> bool {
        self.gone_at_ms().is_some_and(|at_ms| at_ms <= now_ms)
    }

    fn flags(&self) -> u8 {
        let expires = if self.expire_at_ms.is_some() { EXPIRES } else { 0 };
        let stale = if self.stale_for_ms > 0 { STALE } else { 0 };
        let external = if self.external_version.is_some() { EXTERNAL } else { 0 };
        let negative = if self.negative { NEGATIVE } else { 0 };
        expires | stale | external | negative
    }
}

/// An absence's block, owned.
#[derive(Debug)]
pub(crate) struct Block {
    /// Points to `capacity` bytes, allocated with [`BLOCK_ALIGN`], that begin with a [`Header`]; fields and key after it are
    /// initialised.
    start: NonNull<u8>,
}

// SAFETY: a block owns its memory alone, and what is in it are plain numbers and bytes.
unsafe impl Send for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        let layout = layout(self.capacity());
        // SAFETY: `start` came from this allocator with this layout: `capacity` changes only together with the allocation.
        unsafe { dealloc(self.start.as_ptr(), layout) }
    }
}

impl Block {
    pub(crate) fn new(db: Db, key: &[u8], fields: &Fields) -> Self {
        let flags = fields.flags();
        let capacity = size_class(key_offset(flags) + key.len());
        let layout = layout(capacity);
        // SAFETY: the layout is not empty, a block holds at least its header.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        let header = Header {
            version: 0,
            capacity: narrow(capacity),
            key_len: u16::try_from(key.len()).expect("commands refuse keys longer than KEY_BYTES_MAX"),
            flags,
            db: db.0,
        };
        // SAFETY: the block is at least HEADER_BYTES long, aligned for a header, and ours alone.
        unsafe { start.cast::<Header>().write(header) };
        let mut block = Self { start };
        block.write_fields(fields);
        block.write_bytes(key_offset(flags), key);
        block
    }

    #[inline]
    pub(crate) fn is(&self, key: &Key<'_>) -> bool {
        self.key() == key.bytes && self.db() == key.db
    }

    #[inline]
    pub(crate) fn db(&self) -> Db {
        Db(self.header().db)
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        let header = self.header();
        self.bytes(key_offset(header.flags), usize::from(header.key_len))
    }

    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.header().version
    }

    pub(crate) fn set_version(&mut self, version: u64) {
        self.header_mut().version = version;
    }

    /// Bytes of the block, with the allocator's rounding.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.header().capacity as usize
    }

    /// Asks the processor to have the block at hand soon: header, and a short key. A hint, no access.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.start.as_ptr().cast_const().cast::<i8>();
            // SAFETY: a prefetch reads nothing into the program and cannot fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
    }

    #[inline]
    pub(crate) fn expire_at_ms(&self) -> Option<u64> {
        self.field(EXPIRES)
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
    pub(crate) fn is_gone(&self, now_ms: u64) -> bool {
        self.gone_at_ms().is_some_and(|gone_at_ms| gone_at_ms <= now_ms)
    }

    /// The end of the stale window.
    pub(crate) fn gone_at_ms(&self) -> Option<u64> {
        self.expire_at_ms().map(|expire_at_ms| expire_at_ms.saturating_add(self.stale_for_ms()))
    }

    pub(crate) fn stale_for_ms(&self) -> u64 {
        self.field(STALE).unwrap_or(0)
    }

    pub(crate) fn external_version(&self) -> Option<u64> {
        self.field(EXTERNAL)
    }

    /// Of an absence: whether the source is known to have no such key.
    pub(crate) fn is_negative(&self) -> bool {
        self.header().flags & NEGATIVE != 0
    }

    fn write_fields(&mut self, fields: &Fields) {
        debug_assert_eq!(self.header().flags, fields.flags());
        if let Some(expire_at_ms) = fields.expire_at_ms {
            self.write_field(EXPIRES, expire_at_ms);
        }
        if fields.stale_for_ms > 0 {
            self.write_field(STALE, fields.stale_for_ms);
        }
        if let Some(version) = fields.external_version {
            self.write_field(EXTERNAL, version);
        }
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: `start` points to an initialised, aligned header that lives as long as the block.
        unsafe { self.start.cast::<Header>().as_ref() }
    }

    #[inline]
    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: as in `header`, and `&mut self` makes the borrow unique.
        unsafe { self.start.cast::<Header>().as_mut() }
    }

    #[inline]
    fn field(&self, flag: u8) -> Option<u64> {
        let flags = self.header().flags;
        if flags & flag == 0 {
            return None;
        }
        // SAFETY: the flag says that the field is there and initialised; its offset is a multiple of 8 within the block.
        Some(unsafe { self.start.add(field_offset(flags, flag)).cast::<u64>().read() })
    }

    fn write_field(&mut self, flag: u8, field: u64) {
        let flags = self.header().flags;
        assert!(flags & flag != 0, "a field is written only if the flags have room for it");
        // SAFETY: a block with the flag has 8 bytes at this offset, a multiple of 8.
        unsafe { self.start.add(field_offset(flags, flag)).cast::<u64>().write(field) }
    }

    /// `offset` and `len` must be those of the key.
    #[inline]
    fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        debug_assert!(offset + len <= self.capacity());
        // SAFETY: the key is initialised and inside the block, by its header; the borrow keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), len) }
    }

    fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.capacity(), "the caller chose a block that fits");
        // SAFETY: the target is inside the block, as asserted, and the source is not: `&mut self` has no other borrow.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) }
    }
}

/// Number of optional fields that `flags` names. A table of nibbles: without a target CPU named there is no `popcnt`, and
/// this is on the path of every key comparison.
#[inline]
const fn fields_count(flags: u8) -> usize {
    const COUNTS: u32 = 0x3221_2110;
    (COUNTS >> ((flags & FIELDS) * 4) & 0xf) as usize
}

#[inline]
const fn field_offset(flags: u8, flag: u8) -> usize {
    HEADER_BYTES + FIELD_BYTES * fields_count(flags & (flag - 1))
}

#[inline]
const fn key_offset(flags: u8) -> usize {
    HEADER_BYTES + FIELD_BYTES * fields_count(flags)
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, BLOCK_ALIGN).expect("block sizes fit in 32 bits")
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("commands refuse values longer than VALUE_BYTES_MAX")
}

#[cfg(test)]
mod tests;
