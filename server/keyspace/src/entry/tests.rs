//! A block behaves as a plain struct does.

use super::*;
use proptest::prelude::*;

/// The safe, slow twin of a [`Block`].
#[derive(Clone, Debug, PartialEq)]
struct PlainEntry {
    db: Db,
    key: Vec<u8>,
    value: Vec<u8>,
    fields: Fields,
    version: u64,
}

impl PlainEntry {
    fn of(block: &Block) -> Self {
        Self {
            db: block.db(),
            key: block.key().to_vec(),
            value: block.value().to_vec(),
            fields: block.fields(),
            version: block.version(),
        }
    }

    fn is_gone(&self, now_ms: u64) -> bool {
        self.fields.expire_at_ms.is_some_and(|at| now_ms >= at.saturating_add(self.fields.stale_for_ms))
    }
}

#[derive(Clone, Debug)]
enum Change {
    Store(Vec<u8>, Fields),
    SetFields(Fields),
    Lengthen(usize),
    Write(usize, u8),
    SetVersion(u64),
    Touch(u64),
}

fn bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0..20_usize, 0..200_usize, 0..len_max];
    (len, any::<u8>()).prop_map(|(len, first)| (0..len).map(|index| first.wrapping_add(index as u8)).collect())
}

fn fields() -> impl Strategy<Value = Fields> {
    let rarely = |number: BoxedStrategy<u64>| prop_oneof![3 => Just(0), 1 => number];
    let number = || prop_oneof![0..1000_u64, any::<u64>()].boxed();
    let small = || any::<u32>().prop_map(u64::from).boxed();
    (
        prop::option::of(number()),
        rarely(number()),
        prop::option::of(number()),
        rarely(small()),
        rarely(small()),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(expire_at_ms, stale_for_ms, external_version, client_flags, load_ms, negative)| Fields {
            expire_at_ms,
            stale_for_ms,
            external_version,
            client_flags: client_flags as u32,
            load_ms: load_ms as u32,
            negative,
        })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (bytes(5000), fields()).prop_map(|(value, fields)| Change::Store(value, fields)),
        3 => fields().prop_map(Change::SetFields),
        3 => prop_oneof![4 => 0..3000_usize, 1 => 0..200_000_usize].prop_map(Change::Lengthen),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(index, byte)| Change::Write(index, byte)),
        1 => any::<u64>().prop_map(Change::SetVersion),
        1 => any::<u64>().prop_map(Change::Touch),
    ]
}

proptest! {
    #[test]
    fn block_behaves_as_a_plain_struct(
        db in 0..16_u8,
        key in bytes(KEY_BYTES_MAX),
        first in bytes(5000),
        first_fields in fields(),
        changes in prop::collection::vec(change(), 0..40),
    ) {
        let mut block = Block::new(Db(db), &key, &first, &first_fields);
        let mut twin = PlainEntry { db: Db(db), key, value: first, fields: first_fields, version: 0 };
        let mut access = 0;
        for change in changes {
            match change {
                Change::Store(value, fields) => {
                    block.store(&value, &fields);
                    twin.value = value;
                    twin.fields = fields;
                }
                Change::SetFields(fields) => {
                    block.set_fields(&fields);
                    twin.fields = fields;
                }
                Change::Lengthen(len) => {
                    block.lengthen(len);
                    twin.value.resize(twin.value.len().max(len), 0);
                }
                Change::Write(index, byte) if !twin.value.is_empty() => {
                    let index = index % twin.value.len();
                    block.value_mut()[index] = byte;
                    twin.value[index] = byte;
                }
                Change::Write(..) => prop_assert!(block.value_mut().is_empty()),
                Change::SetVersion(version) => {
                    block.set_version(version);
                    twin.version = version;
                }
                Change::Touch(now_ms) => {
                    block.touch(now_ms);
                    access = access_clock(now_ms);
                }
            }
            prop_assert_eq!(&PlainEntry::of(&block), &twin);
            prop_assert_eq!(block.access(), access);
            let needed = key_offset(twin.fields.flags()) + twin.key.len() + twin.value.len();
            prop_assert!(needed <= block.capacity());
            prop_assert_eq!(size_class(block.capacity()), block.capacity());
            for now_ms in [0, 500, 1000, u64::MAX] {
                prop_assert_eq!(block.is_gone(now_ms), twin.is_gone(now_ms));
                let is_fresh = twin.fields.expire_at_ms.is_none_or(|at| now_ms < at);
                prop_assert_eq!(block.is_fresh(now_ms), is_fresh);
            }
        }
    }
}

#[test]
fn fields_are_counted_as_bits_are() {
    for flags in 0..=u8::MAX {
        assert_eq!(fields_count(flags), (flags & FIELDS).count_ones() as usize);
    }
}

#[test]
fn storing_a_value_of_the_same_class_keeps_the_block() {
    let mut block = Block::new(Db(0), b"key", &[1; 100], &Fields::default());
    let start = block.start;
    block.store(&[2; 98], &Fields::default());
    assert_eq!(block.start, start);
    block.store(&[2; 10], &Fields::default());
    assert_eq!(block.capacity(), size_class(24 + 3 + 10), "a smaller value gives its memory back");
}

#[test]
fn appending_copies_a_value_a_few_times_only() {
    let mut block = Block::new(Db(0), b"key", b"", &Fields::default());
    let mut copies = 0;
    let mut capacity = block.capacity();
    for len in (0..4_000_000).step_by(100) {
        block.lengthen(len);
        copies += usize::from(block.capacity() != capacity);
        capacity = block.capacity();
    }
    assert!(copies < 100, "{copies} reallocations for 40,000 appends");
}

#[test]
fn idle_time_counts_from_the_last_use() {
    let mut block = Block::new(Db(0), b"key", b"", &Fields::default());
    let start_ms = 1_700_000_000_000;
    block.touch(start_ms);
    let idle_ms = block.view(start_ms + 10_000).idle_ms;
    assert!((10_000 - 128..10_000 + 128).contains(&idle_ms), "{idle_ms}");
}
