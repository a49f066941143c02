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
pub(crate) const FORWARDED_MAX: usize = 1_024;

/// Bytes of replies that may be held back behind a forwarded request; with more the connection is not read.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

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
    is_closed: bool,
}

/// One reply, or several of commands that were run here one after the other.
#[derive(Debug)]
enum Place {
    Waiting {
        is_silent: bool,
        gives_lease: bool,
    },
    /// Several nodes make it.
    Gathering {
        is_silent: bool,
        gathering: Box<Gathering>,
    },
    Bytes(Vec<u8>),
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// The client gets it, in its turn, or wanted none.
    Taken,
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

    /// Adds replies of commands that were run here.
    pub(crate) fn hold(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let replies = &mut *self.replies.borrow_mut();
        match replies.places.back_mut() {
            None => return replies.ready.extend_from_slice(bytes),
            Some(Place::Bytes(held)) => held.extend_from_slice(bytes),
            Some(Place::Waiting { .. } | Place::Gathering { .. }) => {
                replies.places.push_back(Place::Bytes(bytes.to_vec()))
            }
        }
        replies.held_bytes += bytes.len();
    }

    /// Adds a place for the reply to a forwarded request; its number is for [`Owed::deliver`].
    pub(crate) fn wait(&self, is_silent: bool, gives_lease: bool) -> u32 {
        let replies = &mut *self.replies.borrow_mut();
        replies.waiting += 1;
        replies.places.push_back(Place::Waiting { is_silent, gives_lease });
        replies.first.wrapping_add(replies.places.len() as u32 - 1)
    }

    /// Adds a place for a reply that is gathered; its number is for [`Owed::deliver`].
    pub(crate) fn gather(&self, is_silent: bool, gathering: Gathering) -> u32 {
        let replies = &mut *self.replies.borrow_mut();
        replies.waiting += gathering.len();
        replies.places.push_back(Place::Gathering { is_silent, gathering: Box::new(gathering) });
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
        let was_full = replies.waiting >= FORWARDED_MAX || replies.held_bytes >= HELD_BYTES_MAX;
        let was_empty = replies.ready.is_empty();
        let gathered;
        let Some(place) = replies.places.get_mut(at) else {
            debug_assert!(false, "a place stays until it has its reply");
            return Delivered::Nobody;
        };
        let (is_silent, reply) = match place {
            Place::Waiting { is_silent, .. } => (*is_silent, reply),
            Place::Gathering { is_silent, gathering } => {
                replies.waiting -= 1;
                replies.held_bytes += reply.len();
                let Some(whole) = gathering.take(part, reply) else {
                    if was_full {
                        self.slot.wake();
                    }
                    return Delivered::Taken;
                };
                replies.held_bytes -= gathering.bytes();
                replies.waiting += 1;
                gathered = whole;
                (*is_silent, &gathered[..])
            }
            Place::Bytes(_) => {
                debug_assert!(false, "a reply is delivered once");
                return Delivered::Nobody;
            }
        };
        replies.waiting -= 1;
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
        Delivered::Taken
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
        let replies = self.replies.borrow();
        replies.waiting >= FORWARDED_MAX || replies.held_bytes + replies.ready.len() >= HELD_BYTES_MAX
    }

    /// Whether the answer that is waited for first may give a lease to the client.
    pub(crate) fn waits_for_lease(&self) -> bool {
        matches!(self.replies.borrow().places.front(), Some(Place::Waiting { gives_lease: true, .. }))
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
                    waiting.push((owed.wait(*is_silent, false), text));
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
        let number = owed.wait(false, true);
        assert!(owed.waits_for_lease() && !owed.is_done());
        assert!(owed.close());
        assert_eq!(owed.deliver(number, 0, b"x"), Delivered::Nobody);
        assert!(!owed.close());
    }

    #[test]
    fn a_connection_with_as_many_as_it_may_have_is_not_read() {
        let owed = owed();
        let numbers: Vec<u32> = (0..FORWARDED_MAX).map(|_| owed.wait(false, false)).collect();
        assert!(owed.is_full());
        owed.deliver(numbers[5], 0, b"x");
        assert!(!owed.is_full());
        owed.hold(&vec![0; HELD_BYTES_MAX]);
        assert!(owed.is_full());
    }
}
