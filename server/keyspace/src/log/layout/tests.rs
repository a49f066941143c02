//! What is written is what is read.

use super::*;
use proptest::prelude::*;

fn fields() -> impl Strategy<Value = Fields> {
    let rarely = |number: BoxedStrategy<u64>| prop_oneof![3 => Just(0), 1 => number];
    let number = || prop_oneof![0..1000_u64, any::<u64>()].boxed();
    let small = || any::<u32>().prop_map(u64::from).boxed();
    (
        prop::option::of(prop_oneof![number(), (0_u64..1 << 49).boxed()]),
        rarely(number()),
        prop::option::of(number()),
        rarely(small()),
        0..64_u8,
        prop::option::of(number()),
        prop::option::of(number()),
    )
        .prop_map(|(expire_at_ms, stale_for_ms, external_version, client_flags, load, stale_since_ms, written)| {
            Fields {
                expire_at_ms,
                stale_for_ms,
                stale_since_ms,
                external_version,
                written,
                client_flags: client_flags as u32,
                load_ms: if expire_at_ms.is_some_and(|at| at >> EXPIRY_NEAR_BITS == 0) { load_ms(load) } else { 0 },
                negative: false,
            }
        })
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(
        db in prop_oneof![Just(0_u8), 0..16_u8],
        key_len in prop_oneof![0..300_usize, 0..=u16::MAX as usize],
        value_len in prop_oneof![0..300_usize, 0..100_000_usize],
        run in prop::option::weighted(0.2, any::<u32>()),
        version in prop::option::of(any::<u64>()),
        fields in fields(),
        room in prop_oneof![Just(0_usize), 0..1000_usize],
        control in any::<u8>(),
        (birth, tags) in (any::<u64>(), prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u64>(), 0..=TAGS_MAX)]),
    ) {
        let stored = run.map_or(Stored::Here, Stored::Run);
        let birth = if tags.is_empty() { 0 } else { birth };
        let tags = TagSet { birth, tags: tags.into_iter().map(Tag).collect() };
        let layout = Layout { db: Db(db), key_len, value_len, stored, version, fields, tags: tags.borrow(), room };
        let plan = layout.plan();
        let mut bytes = vec![0xee; plan.bytes() + 4];
        plan.write(control, &mut bytes);
        let key: Vec<u8> = (0..key_len).map(|index| index as u8).collect();
        let body = [&key[..], &vec![7; value_len]].concat();
        match run {
            Some(run) => bytes[plan.key_at()..][..4].copy_from_slice(&run.to_le_bytes()),
            None => bytes[plan.key_at()..][..body.len()].copy_from_slice(&body),
        }
        let view = EntryView::new(&bytes);
        let view = if run.is_some() { view.with_run(&body) } else { view };
        prop_assert_eq!(view.tag_set(), tags.clone());
        prop_assert_eq!(view.layout(&tags), layout);
        prop_assert_eq!((view.is_tagged(), view.written()), (!tags.is_empty(), fields.written));
        prop_assert_eq!(view.key(), &key[..]);
        prop_assert_eq!((view.bytes(), view.key_at()), (plan.bytes(), plan.key_at()));
        prop_assert_eq!(view.control(), control);
        prop_assert_eq!(view.value(), &body[key_len..]);
        prop_assert_eq!(view.gone_at_ms(), fields.expire_at_ms.map(|at| at.saturating_add(fields.stale_for_ms)));
        prop_assert_eq!(plan.gone_at_ms(), view.gone_at_ms());
        prop_assert!(!view.is_dead());
        let entry = view.entry();
        prop_assert_eq!((entry.db, entry.value.len(), entry.expire_at_ms), (Db(db), value_len, fields.expire_at_ms));
        prop_assert_eq!((entry.client_flags, entry.stale_for_ms), (fields.client_flags, fields.stale_for_ms));
        prop_assert_eq!(entry.stale_since_ms, fields.stale_since_ms);
        mark_dead(&mut bytes);
        prop_assert!(EntryView::new(&bytes).is_dead());
        prop_assert_eq!(EntryView::new(&bytes).layout(&tags), layout);
    }
}

#[test]
fn a_plain_entry_costs_four_bytes() {
    assert_eq!(bytes(16, 100, Fields::default()), 120);
    assert_eq!(bytes(16, 32, Fields::default()), 52);
    assert_eq!(bytes(16, 500, Fields::default()), 524);
}

#[test]
fn a_loaded_entry_costs_six_bytes_more() {
    let loaded = Fields { expire_at_ms: Some(1_800_000_000_000), load_ms: 12, ..Fields::default() };
    assert_eq!(bytes(18, 100, Fields::default()) + 8, bytes(20, 100, loaded));
}

#[test]
fn the_longest_header_fits_in_the_smallest_segment() {
    const SEGMENT_BYTES_MIN: usize = 1 << 10;
    let tags = TagSet { birth: 1, tags: vec![Tag(u64::MAX); TAGS_MAX].into() };
    let fields = Fields {
        expire_at_ms: Some(u64::MAX),
        stale_for_ms: 1,
        stale_since_ms: Some(1),
        external_version: Some(1),
        written: Some(1),
        client_flags: 1,
        ..Fields::default()
    };
    let (key_len, value_len, stored) = (usize::from(u16::MAX), 1 << 31, Stored::Run(1));
    let layout =
        Layout { db: Db(1), key_len, value_len, stored, version: Some(1), fields, tags: tags.borrow(), room: 1 };
    assert!(layout.plan().bytes() <= SEGMENT_BYTES_MIN / 2, "{}", layout.plan().bytes());
}

#[test]
fn load_times_are_kept_to_a_quarter() {
    for ms in (0..100_000).chain([131_071]) {
        let kept = load_ms(load_class(ms));
        assert!(load_class(ms) < 64 && kept <= ms && ms - kept <= ms / 5, "{ms} ms as {kept} ms");
    }
    assert_eq!(load_class(u32::MAX), 63);
    (0..64).for_each(|class| assert_eq!(load_class(load_ms(class)), class));
}

fn bytes(key_len: usize, value_len: usize, fields: Fields) -> usize {
    let tags = Tags::default();
    Layout { db: Db(0), key_len, value_len, stored: Stored::Here, version: None, fields, tags, room: 0 }.plan().bytes()
}
