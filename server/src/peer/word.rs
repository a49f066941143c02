//! What nodes say of themselves to each other, as bytes: a ping, and the answer to it with what the asker must forget.
//!
//! ```text
//! ping   number u64 │ 0, or 1 │ and then: boot u64 │ breaks u32 │ applied u64
//! pong   number u64 │ flags u8 │ boot u64 │ breaks u32 │ up to u64 │ removals: way and target u8 │ len u32 │ bytes
//! ```
//!
//! Numbers are little-endian. Whatever is not whole, or has bytes left over, is nothing: no node of this version says it.

use leasehold_cluster::{Applied, Delivery, Lineage, Ping, Pong, Removal, Target, Way};

/// Flags of a pong.
const VOUCHES: u8 = 1;
const IS_BROKEN: u8 = 2;
const IS_WHOLE: u8 = 4;

/// Adds a ping.
pub(crate) fn put_ping(out: &mut Vec<u8>, ping: &Ping) {
    out.extend_from_slice(&ping.number.to_le_bytes());
    out.push(ping.applied.is_some().into());
    if let Some(Applied { lineage, number }) = ping.applied {
        put_lineage(out, lineage);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Reads a ping.
pub(crate) fn ping(bytes: &[u8]) -> Option<Ping> {
    let mut bytes = Bytes(bytes);
    let number = bytes.u64()?;
    let applied = match bytes.u8()? {
        0 => None,
        1 => Some(Applied { lineage: bytes.lineage()?, number: bytes.u64()? }),
        _ => return None,
    };
    bytes.0.is_empty().then_some(Ping { number, applied })
}

/// Adds a pong.
pub(crate) fn put_pong(out: &mut Vec<u8>, pong: &Pong) {
    let Delivery { lineage, is_broken, removals, is_whole, up_to } = &pong.delivery;
    let flags = [(pong.vouches, VOUCHES), (*is_broken, IS_BROKEN), (*is_whole, IS_WHOLE)];
    out.extend_from_slice(&pong.number.to_le_bytes());
    out.push(flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
    put_lineage(out, *lineage);
    out.extend_from_slice(&up_to.to_le_bytes());
    removals.iter().for_each(|removal| put_removal(out, removal));
}

/// Reads a pong.
pub(crate) fn pong(bytes: &[u8]) -> Option<Pong> {
    let mut bytes = Bytes(bytes);
    let (number, flags, lineage, up_to) = (bytes.u64()?, bytes.u8()?, bytes.lineage()?, bytes.u64()?);
    let mut removals = Vec::new();
    while !bytes.0.is_empty() {
        removals.push(bytes.removal()?);
    }
    let has = |flag: u8| flags & flag != 0;
    let delivery = Delivery { lineage, is_broken: has(IS_BROKEN), removals, is_whole: has(IS_WHOLE), up_to };
    Some(Pong { number, delivery, vouches: has(VOUCHES) })
}

/// Adds a removal.
pub(crate) fn put_removal(out: &mut Vec<u8>, Removal { target, way }: &Removal) {
    let (kind, bytes): (u8, &[u8]) = match target {
        Target::Key(key) => (0, key),
        Target::Tag(tag) => (1, tag),
        Target::Prefix(prefix) => (2, prefix),
        Target::Everything => (3, &[]),
    };
    out.push(kind << 1 | u8::from(*way == Way::Hard));
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_lineage(out: &mut Vec<u8>, Lineage { boot, breaks }: Lineage) {
    out.extend_from_slice(&boot.to_le_bytes());
    out.extend_from_slice(&breaks.to_le_bytes());
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn lineage(&mut self) -> Option<Lineage> {
        Some(Lineage { boot: self.u64()?, breaks: self.u32()? })
    }

    fn removal(&mut self) -> Option<Removal> {
        let (kind, len) = (self.u8()?, self.u32()? as usize);
        let bytes = self.take(len)?;
        let target = match kind >> 1 {
            0 => Target::Key(bytes.into()),
            1 => Target::Tag(bytes.into()),
            2 => Target::Prefix(bytes.into()),
            3 if bytes.is_empty() => Target::Everything,
            _ => return None,
        };
        let way = if kind & 1 == 1 { Way::Hard } else { Way::Soft };
        Some(Removal { target, way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lineages() -> impl Strategy<Value = Lineage> {
        (any::<u64>(), any::<u32>()).prop_map(|(boot, breaks)| Lineage { boot, breaks })
    }

    fn removals() -> impl Strategy<Value = Removal> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Vec::into_boxed_slice);
        let targets = prop_oneof![
            bytes().prop_map(Target::Key),
            bytes().prop_map(Target::Tag),
            bytes().prop_map(Target::Prefix),
            Just(Target::Everything)
        ];
        (targets, any::<bool>())
            .prop_map(|(target, is_hard)| Removal { target, way: if is_hard { Way::Hard } else { Way::Soft } })
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard_whole_or_not_at_all(
            number in any::<u64>(),
            applied in prop::option::of((lineages(), any::<u64>())),
            lineage in lineages(),
            flags in any::<(bool, bool, bool)>(),
            up_to in any::<u64>(),
            removals in prop::collection::vec(removals(), 0..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let said = Ping { number, applied: applied.map(|(lineage, number)| Applied { lineage, number }) };
            let mut bytes = Vec::new();
            put_ping(&mut bytes, &said);
            prop_assert_eq!(ping(&bytes[..cut.index(bytes.len())]), None);
            prop_assert_eq!(ping(&bytes), Some(said));
            bytes.push(0);
            prop_assert_eq!(ping(&bytes), None);

            let ends: usize = removals.len();
            let (vouches, is_broken, is_whole) = flags;
            let said = Pong { number, delivery: Delivery { lineage, is_broken, removals, is_whole, up_to }, vouches };
            let mut bytes = Vec::new();
            put_pong(&mut bytes, &said);
            let part = pong(&bytes[..cut.index(bytes.len())]);
            prop_assert!(part.is_none_or(|part| part.delivery.removals.len() < ends));
            prop_assert_eq!(pong(&bytes), Some(said));
        }

        #[test]
        fn whatever_comes_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (ping(&bytes), pong(&bytes));
        }
    }
}
