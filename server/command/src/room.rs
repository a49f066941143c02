//! How long the reply of a command with many keys may be.
//!
//! A client may name one large value a million times, and the reply is made before any of it is sent. So whoever gathers the values of
//! many keys asks before each whether it still fits; a command whose values do not fit is answered with an error. The first always does:
//! the length of one value has a limit of its own.

use leasehold_protocol::Reply;

/// How many bytes of values a command has gathered, and may gather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    taken: usize,
    bytes_max: usize,
}

impl Room {
    /// What the reply of a command may have.
    #[inline]
    pub(crate) fn of(reply: &Reply) -> Self {
        Self { taken: 0, bytes_max: reply.bytes_max() }
    }

    /// Takes room for `len` bytes; whether there was enough.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> bool {
        let taken = self.taken.saturating_add(len);
        let fits = taken <= self.bytes_max || self.taken == 0;
        if fits {
            self.taken = taken;
        }
        fits
    }

    /// What was taken is gathered no more.
    pub(crate) fn give_back(&mut self, len: usize) {
        self.taken -= len;
    }
}

#[cfg(test)]
mod tests {
    use super::Room;
    use leasehold_protocol::{Reply, RespVersion};

    #[test]
    fn the_first_fits_always_and_the_others_while_there_is_room() {
        let mut reply = Reply::new(RespVersion::V2);
        assert!((0..3).all(|_| Room::of(&reply).take(usize::MAX)));
        reply.set_bytes_max(10);
        let mut room = Room::of(&reply);
        assert!(room.take(11) && !room.take(1));
        let mut room = Room::of(&reply);
        assert!(room.take(4) && !room.take(7) && room.take(6) && !room.take(1));
        room.give_back(4);
        assert!(!room.take(5) && room.take(4));
        room.give_back(10);
        assert!(room.take(11));
    }
}
