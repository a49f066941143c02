//! What memcached's words mean for an entry: exptime, client flags, CAS.

use leasehold_keyspace::{Attributes, Expiry, Slot, Turn};

/// An exptime up to this counts from now, a larger one from 1970. In seconds; memcached protocol.txt, "Expiration times".
const RELATIVE_S_MAX: i64 = 30 * 24 * 60 * 60;

/// When an entry with this exptime ends: 0 never, below 0 at once.
pub(super) fn expiry(exptime: i64, turn: &Turn) -> Expiry {
    match exptime {
        0 => Expiry::Never,
        // Server time is never 0: this has passed.
        ..0 => Expiry::At(0),
        1..=RELATIVE_S_MAX => Expiry::At(turn.now_ms + exptime as u64 * 1000),
        _ => {
            let wall_ms = (exptime as u64).saturating_mul(1000);
            Expiry::At(wall_ms.saturating_add_signed(turn.wall_offset_ms.saturating_neg()))
        }
    }
}

/// As [`expiry`], for an entry that stays and only gets another end.
pub(super) fn expire_at_ms(exptime: i64, turn: &Turn) -> Option<u64> {
    match expiry(exptime, turn) {
        Expiry::At(at_ms) => Some(at_ms),
        Expiry::Never | Expiry::Keep => None,
    }
}

/// Stores a value under these client flags; one whose time has passed is not kept.
#[inline]
pub(super) fn store(slot: &mut Slot<'_>, value: &[u8], client_flags: u32, expiry: Expiry) {
    slot.store(value, Attributes { client_flags, expiry, ..Attributes::PLAIN });
}
