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
        rarely(small()),
    )
        .prop_map(|(expire_at_ms, stale_for_ms, external_version, client_flags, load_ms)| Fields {
            expire_at_ms,
            stale_for_ms,
            external_version,
            client_flags: client_flags as u32,
            load_ms: load_ms as u32,
            negative: false,
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
    ) {
        let stored = run.map_or(Stored::Here, Stored::Run);
        let layout = Layout { db: Db(db), key_len, value_len, stored, version, fields, room };
        let mut bytes = vec![0xee; layout.bytes() + 4];
        layout.write(control, &mut bytes);
        let key: Vec<u8> = (0..key_len).map(|index| index as u8).collect();
        let body = [&key[..], &vec![7; value_len]].concat();
        match run {
            Some(run) => bytes[layout.key_at()..][..4].copy_from_slice(&run.to_le_bytes()),
            None => bytes[layout.key_at()..][..body.len()].copy_from_slice(&body),
        }
        let view = EntryView::new(&bytes);
        let view = if run.is_some() { view.with_run(&body) } else { view };
        prop_assert_eq!(view.layout(), layout);
        prop_assert_eq!(view.key(), &key[..]);
        prop_assert_eq!(view.bytes(), layout.bytes());
        prop_assert_eq!(view.control(), control);
        prop_assert_eq!(view.value(), &body[key_len..]);
        prop_assert_eq!(view.gone_at_ms(), fields.expire_at_ms.map(|at| at.saturating_add(fields.stale_for_ms)));
        prop_assert!(!view.is_dead());
        let entry = view.entry();
        prop_assert_eq!((entry.db, entry.value.len(), entry.expire_at_ms), (Db(db), value_len, fields.expire_at_ms));
        prop_assert_eq!((entry.client_flags, entry.stale_for_ms), (fields.client_flags, fields.stale_for_ms));
        mark_dead(&mut bytes);
        prop_assert!(EntryView::new(&bytes).is_dead());
        prop_assert_eq!(EntryView::new(&bytes).layout(), layout);
    }
}

#[test]
fn a_plain_entry_costs_four_bytes() {
    let layout = |key_len, value_len| Layout {
        db: Db(0),
        key_len,
        value_len,
        stored: Stored::Here,
        version: None,
        fields: Fields::default(),
        room: 0,
    };
    assert_eq!(layout(16, 100).bytes(), 120);
    assert_eq!(layout(16, 32).bytes(), 52);
    assert_eq!(layout(16, 500).bytes(), 524);
}
