//! The replies that a connection owes its client while other nodes work on some of them: in the order of the requests.
//!
//! ```text
//! requests     1 forwarded     2 here      3 forwarded     4 here
//! places       [ waiting ]     [ bytes ]   [ waiting ]     [ bytes ]      1 is answered: 1 and 2 are ready to be sent
//! ```

use super::gather::Gathering;
use crate::thread::Slot;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Forwarded requests of one connection that may wait for an answer; with more it is not read. As many as a long pipeline has.
const FORWARDED_MAX: usize = 1_024;

/// As `FORWARDED_MAX`, before the first answer has come: how long the others will be is not known.
const FORWARDED_FIRST_MAX: usize = 128;

/// Bytes of replies that are here, or to be expected by those that came last; with more the connection is not read.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A reply up to this length is usual: with as many as may be waited for, they are no more than may be held.
const USUAL_REPLY_BYTES: usize = HELD_BYTES_MAX / FORWARDED_MAX;

/// Bytes of replies that are here; over it a longer one than usual is refused. What was sent on before anybody knew how long the answers are
/// may come to more than `HELD_BYTES_MAX`, and a client that does not read takes none of it.
pub(crate) const OWED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of a gathered reply that tell whether it is an error, and which.
const REPLY_START_BYTES: usize = 64;

/// Bytes of requests that may be under way; with more the connection is not read. So a client that writes much goes at the pace of the line
/// to the other node.
const SENT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Places and bytes for the requests of a usual pipeline, so that it costs one allocation each.
const USUAL_PLACES: usize = 16;
const USUAL_BYTES: usize = 1024;

/// See the module. Shared by the connection and the links that bring the answers.
#[derive(Debug)]
pub(crate) struct Owed {
    slot: Rc<Slot>,
    replies: RefCell<Replies>,
    /// The part of a reply that the connection's own parked command makes.
    own_part: Cell<Option<(u32, u16)>>,
}

#[derive(Debug, Default)]
struct Replies {
    /// To be sent now.
    ready: Vec<u8>,
    /// What comes behind them; the first is waiting.
    places: VecDeque<Place>,
    /// Number of the first place, counted per connection.
    first: u32,
    waiting: usize,
    held_bytes: usize,
    /// Of requests whose answers are waited for.
    sent_bytes: usize,
    /// About the longest reply of another node that came lately; 0: none has come.
    reply_bytes: usize,
    is_closed: bool,
}

/// One reply, or several of commands that were run here one after the other.
#[derive(Debug)]
enum Place {
    Waiting(Awaited),
    /// Several nodes make it.
    Gathering {
        awaited: Awaited,
        gathering: Box<Gathering>,
    },
    Bytes(Vec<u8>),
}

/// What is to be known of a request that was sent on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Awaited {
    /// The client wants no reply.
    pub(crate) is_silent: bool,
    /// It may be held up for a lease.
    pub(crate) waits_for_lease: bool,
    /// Bytes that were sent on.
    pub(crate) sent_bytes: usize,
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// The client gets it, in its turn, or wanted none.
    Taken,
    /// Other parts of the reply are missing.
    Part,
    /// It was the last part; how the whole begins.
    Gathered(Vec<u8>),
    /// The client is gone.
    Nobody,
}

impl Owed {
    pub(crate) fn new(slot: &Rc<Slot>) -> Rc<Self> {
        Rc::new(Self {
            slot: Rc::clone(slot),
            replies: RefCell::new(Replies { places: VecDeque::with_capacity(USUAL_PLACES), ..Replies::default() }),
            own_part: Cell::new(None),
        })
    }

    /// One for answers that nobody waits for.
    pub(crate) fn nobodys(&self) -> Rc<Self> {
        let owed = Self::new(&self.slot);
        owed.close();
        owed
    }

    /// Adds replies of commands that were run here.
    pub(crate) fn hold(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let replies = &mut *self.replies.borrow_mut();
        match replies.places.back_mut() {
            None => return replies.ready.extend_from_slice(bytes),
            Some(Place::Bytes(held)) => held.extend_from_slice(bytes),
            Some(Place::Waiting(_) | Place::Gathering { .. }) => replies.places.push_back(Place::Bytes(bytes.to_vec())),
        }
        replies.held_bytes += bytes.len();
    }

    /// Adds a place for the reply to a forwarded request; its number is for [`Owed::deliver`].
    pub(crate) fn wait(&self, awaited: Awaited) -> u32 {
        let replies = &mut *self.replies.borrow_mut();
        replies.waiting += 1;
        replies.sent_bytes += awaited.sent_bytes;
        replies.places.push_back(Place::Waiting(awaited));
        replies.first.wrapping_add(replies.places.len() as u32 - 1)
    }

    /// Adds a place for a reply that is gathered; its number is for [`Owed::deliver`].
    pub(crate) fn gather(&self, awaited: Awaited, gathering: Gathering) -> u32 {
        let replies = &mut *self.replies.borrow_mut();
        replies.waiting += gathering.len();
        replies.sent_bytes += awaited.sent_bytes;
        replies.places.push_back(Place::Gathering { awaited, gathering: Box::new(gathering) });
        replies.first.wrapping_add(replies.places.len() as u32 - 1)
    }

    /// A part of the reply at a place is made by the command that the connection has parked.
    pub(crate) fn set_own_part(&self, number: u32, part: u16) {
        self.own_part.set(Some((number, part)));
    }

    /// See [`Owed::set_own_part`]; it is no more.
    pub(crate) fn take_own_part(&self) -> Option<(u32, u16)> {
        self.own_part.take()
    }

    /// The answer to the request that waits at a place, or to a part of it.
    pub(crate) fn deliver(&self, number: u32, part: u16, reply: &[u8]) -> Delivered {
        let replies = &mut *self.replies.borrow_mut();
        if replies.is_closed {
            return Delivered::Nobody;
        }
        let at = number.wrapping_sub(replies.first) as usize;
        let was_full = replies.is_full();
        let was_empty = replies.ready.is_empty();
        // A long one counts for some time: the next may be as long.
        replies.reply_bytes = reply.len().max(replies.reply_bytes - replies.reply_bytes / 8).max(1);
        replies.waiting -= 1;
        let gathered;
        let mut delivered = Delivered::Taken;
        let Some(place) = replies.places.get_mut(at) else {
            debug_assert!(false, "a place stays until it has its reply");
            return Delivered::Nobody;
        };
        let (Awaited { is_silent, sent_bytes, .. }, reply) = match place {
            Place::Waiting(awaited) => (*awaited, reply),
            Place::Gathering { awaited, gathering } => {
                replies.held_bytes += reply.len();
                let Some(whole) = gathering.take(part, reply) else {
                    if was_full {
                        self.slot.wake();
                    }
                    return Delivered::Part;
                };
                delivered = Delivered::Gathered(whole[..whole.len().min(REPLY_START_BYTES)].to_vec());
                replies.held_bytes -= gathering.bytes();
                gathered = whole;
                (*awaited, &gathered[..])
            }
            Place::Bytes(_) => {
                debug_assert!(false, "a reply is delivered once");
                return Delivered::Nobody;
            }
        };
        replies.sent_bytes -= sent_bytes;
        let reply = if is_silent { &[] } else { reply };
        if at > 0 {
            replies.held_bytes += reply.len();
            *place = Place::Bytes(reply.to_vec());
        } else {
            if replies.ready.capacity() == 0 {
                replies.ready.reserve(USUAL_BYTES);
            }
            replies.ready.extend_from_slice(reply);
            replies.places.pop_front();
            replies.first = replies.first.wrapping_add(1);
            replies.release();
        }
        if was_empty || was_full {
            self.slot.wake();
        }
        delivered
    }

    /// Whether there is room for a reply of this length.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let replies = self.replies.borrow();
        let held = replies.held_bytes + replies.ready.len();
        bytes <= USUAL_REPLY_BYTES || held == 0 || held + bytes <= OWED_BYTES_MAX
    }

    /// What may be sent now, behind what was taken before.
    pub(crate) fn take_ready(&self) -> Vec<u8> {
        std::mem::take(&mut self.replies.borrow_mut().ready)
    }

    /// Whether nothing is waited for, and nothing left to be taken.
    pub(crate) fn is_done(&self) -> bool {
        let replies = self.replies.borrow();
        replies.places.is_empty() && replies.ready.is_empty()
    }

    /// Whether the connection is to read no more for now.
    pub(crate) fn is_full(&self) -> bool {
        self.replies.borrow().is_full()
    }

    /// Whether the answer that is waited for first may be held up for a lease.
    pub(crate) fn waits_for_lease(&self) -> bool {
        matches!(self.replies.borrow().places.front(), Some(Place::Waiting(Awaited { waits_for_lease: true, .. })))
    }

    /// The client is gone; whether something was waited for.
    pub(crate) fn close(&self) -> bool {
        let replies = &mut *self.replies.borrow_mut();
        let waited = replies.waiting > 0;
        *replies = Replies { is_closed: true, ..Replies::default() };
        waited
    }
}

impl Replies {
    fn is_full(&self) -> bool {
        let waiting_max = match self.reply_bytes {
            0 => FORWARDED_FIRST_MAX,
            bytes => (HELD_BYTES_MAX / bytes.max(USUAL_REPLY_BYTES)).max(1),
        };
        self.waiting >= waiting_max
            || self.held_bytes + self.ready.len() >= HELD_BYTES_MAX
            || self.sent_bytes >= SENT_BYTES_MAX
    }

    /// Moves what stands before the first waiting place to what is ready.
    fn release(&mut self) {
        while let Some(Place::Bytes(bytes)) = self.places.front() {
            self.held_bytes -= bytes.len();
            self.ready.extend_from_slice(bytes);
            self.places.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Card;
    use crate::front::Protocol;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn owed() -> Rc<Owed> {
        let address = ([127, 0, 0, 1], 1).into();
        let card = Card::new(1, 0, address, address, Protocol::Resp, 0);
        Owed::new(&Rc::new(Slot::new(Arc::new(card))))
    }

    proptest! {
        #[test]
        fn replies_come_in_the_order_of_their_requests(
            requests in prop::collection::vec((any::<bool>(), any::<bool>()), 0..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 40),
            taken in prop::collection::vec(any::<bool>(), 40),
        ) {
            let owed = owed();
            let mut expected = String::new();
            let mut waiting = Vec::new();
            for (number, (is_forwarded, is_silent)) in requests.iter().enumerate() {
                let text = format!("<{number}>");
                if !is_forwarded || !is_silent {
                    expected.push_str(&text);
                }
                if *is_forwarded {
                    waiting.push((owed.wait(Awaited { is_silent: *is_silent, ..Awaited::default() }), text));
                } else {
                    owed.hold(text.as_bytes());
                }
            }
            let mut sent = Vec::new();
            for (index, is_taken) in order.iter().zip(taken) {
                if is_taken {
                    sent.extend(owed.take_ready());
                }
                if !waiting.is_empty() {
                    let (number, text) = waiting.remove(index.index(waiting.len()));
                    prop_assert_eq!(owed.deliver(number, 0, text.as_bytes()), Delivered::Taken);
                }
            }
            sent.extend(owed.take_ready());
            prop_assert_eq!(String::from_utf8_lossy(&sent), expected);
            prop_assert!(owed.is_done());
        }
    }

    #[test]
    fn an_answer_for_a_client_that_is_gone_is_nobodys() {
        let owed = owed();
        let number = owed.wait(Awaited { waits_for_lease: true, ..Awaited::default() });
        assert!(owed.waits_for_lease() && !owed.is_done());
        assert!(owed.close());
        assert_eq!(owed.deliver(number, 0, b"x"), Delivered::Nobody);
        assert!(!owed.close());
        assert_eq!(owed.nobodys().deliver(0, 0, b"x"), Delivered::Nobody);
    }

    /// Adds a place for the reply to a request of this length.
    fn wait(owed: &Owed, sent_bytes: usize) -> u32 {
        owed.wait(Awaited { sent_bytes, ..Awaited::default() })
    }

    #[test]
    fn a_connection_with_as_many_as_it_may_have_is_not_read() {
        let owed = owed();
        let mut numbers: Vec<u32> = (0..FORWARDED_FIRST_MAX).map(|_| wait(&owed, 10)).collect();
        assert!(owed.is_full(), "nobody knows yet how long the answers are");
        owed.deliver(numbers[5], 0, b"x");
        assert!(!owed.is_full());
        numbers.extend((0..FORWARDED_MAX - FORWARDED_FIRST_MAX + 1).map(|_| wait(&owed, 10)));
        assert!(owed.is_full());
        owed.deliver(numbers[6], 0, b"x");
        assert!(!owed.is_full());
        owed.hold(&vec![0; HELD_BYTES_MAX]);
        assert!(owed.is_full());
    }

    #[test]
    fn with_long_replies_fewer_are_waited_for() {
        let owed = owed();
        let numbers: Vec<u32> = (0..20).map(|_| wait(&owed, 10)).collect();
        owed.deliver(numbers[0], 0, &vec![b'x'; HELD_BYTES_MAX / 8]);
        owed.take_ready();
        assert!(owed.is_full(), "19 such replies are too much");
        for number in &numbers[1..12] {
            owed.deliver(*number, 0, &vec![b'x'; HELD_BYTES_MAX / 8]);
            owed.take_ready();
        }
        assert!(owed.is_full());
        owed.deliver(numbers[12], 0, &vec![b'x'; HELD_BYTES_MAX / 8]);
        owed.take_ready();
        assert!(!owed.is_full(), "seven are not");
    }

    #[test]
    fn a_connection_with_long_requests_under_way_is_not_read() {
        let owed = owed();
        let number = wait(&owed, SENT_BYTES_MAX / 2);
        assert!(!owed.is_full());
        wait(&owed, SENT_BYTES_MAX / 2);
        assert!(owed.is_full());
        owed.deliver(number, 0, b"+OK\r\n");
        assert!(!owed.is_full());
    }

    #[test]
    fn a_long_reply_finds_room_where_little_is_held() {
        let owed = owed();
        assert!(owed.has_room(OWED_BYTES_MAX + 1), "alone it is no longer than a value may be");
        wait(&owed, 1);
        owed.hold(&vec![0; OWED_BYTES_MAX / 2]);
        assert!(owed.has_room(OWED_BYTES_MAX / 2) && !owed.has_room(OWED_BYTES_MAX / 2 + 1));
        owed.hold(&vec![0; OWED_BYTES_MAX / 2]);
        assert!(owed.has_room(USUAL_REPLY_BYTES), "a short one is told, whatever is held");
    }
}
