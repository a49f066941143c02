//! A block says what it was made of.

use super::*;
use proptest::prelude::*;

fn fields() -> impl Strategy<Value = Fields> {
    let rarely = |number: BoxedStrategy<u64>| prop_oneof![3 => Just(0), 1 => number];
    let number = || prop_oneof![0..1000_u64, any::<u64>()].boxed();
    (prop::option::of(number()), rarely(number()), prop::option::of(number()), any::<bool>()).prop_map(
        |(expire_at_ms, stale_for_ms, external_version, negative)| Fields {
            expire_at_ms,
            stale_for_ms,
            external_version,
            negative,
            ..Fields::default()
        },
    )
}

proptest! {
    #[test]
    fn block_says_what_it_was_made_of(
        db in 0..16_u8, key in prop::collection::vec(any::<u8>(), 0..400), fields in fields(), version in any::<u64>(),
    ) {
        let mut block = Block::new(Db(db), &key, &fields);
        block.set_version(version);
        prop_assert_eq!((block.db(), block.key(), block.version()), (Db(db), &key[..], version));
        prop_assert_eq!(block.expire_at_ms(), fields.expire_at_ms);
        prop_assert_eq!(block.external_version(), fields.external_version);
        prop_assert_eq!((block.stale_for_ms(), block.is_negative()), (fields.stale_for_ms, fields.negative));
        prop_assert_eq!(size_class(block.capacity()), block.capacity());
        prop_assert!(block.capacity() >= 16 + key.len());
        for now_ms in [0, 500, 1000, u64::MAX] {
            let gone_at_ms = fields.expire_at_ms.map(|at| at.saturating_add(fields.stale_for_ms));
            prop_assert_eq!(block.is_gone(now_ms), gone_at_ms.is_some_and(|at| at <= now_ms));
            prop_assert_eq!(block.is_fresh(now_ms), fields.expire_at_ms.is_none_or(|at| now_ms < at));
        }
    }
}

#[test]
fn fields_are_counted_as_bits_are() {
    for flags in 0..=u8::MAX {
        assert_eq!(fields_count(flags), (flags & FIELDS).count_ones() as usize);
    }
}
