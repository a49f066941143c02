//! What nodes do for each other: a request whose keys are another node's goes there, and its reply comes back.
//!
//! ```text
//! client ─► Connection ─► Outcome::Forward ─► Owed: a place in the order of the replies
//!                                          └► Link of this thread to the owner ─ frames ─► Connection of the owner (Serving) ─► execute
//!           Connection ◄─ ready bytes ◄─ Owed ◄─────── Link ◄────────── frames ◄─────────────────────────────────────────────────┘
//! ```
//!
//! Each thread has a link of its own to each node, opened at the first need; nothing crosses threads. Whether the others are there is asked by `pulse`, on
//! one connection for each pair of nodes, and what that and the links have found out is in `watch`.
//! A read that its node does not answer is sent to a stand-in instead (`spare`), over the link to that.

pub(crate) mod copies;
pub(crate) mod frame;
pub(crate) mod gather;
pub(crate) mod heat;
pub(crate) mod hot;
pub(crate) mod link;
mod offset;
mod outgoing;
pub(crate) mod owed;
pub(crate) mod pulse;
pub(crate) mod reply;
pub(crate) mod shown;
pub(crate) mod spare;
pub(crate) mod under_way;
pub(crate) mod watch;
pub(crate) mod word;

use crate::thread::Thread;
use frame::Sent;
use link::Link;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use under_way::Forwarded;

/// The links of a thread.
pub(crate) struct Links {
    /// By the place of the node; none where there is but one node.
    links: Box<[Link]>,
    /// Every read of a link goes here; made at the first.
    input: RefCell<Vec<u8>>,
}

impl Links {
    pub(crate) fn new(nodes: usize, timeout: Duration) -> Self {
        Self { links: (0..nodes).map(|place| Link::new(place, timeout)).collect(), input: RefCell::default() }
    }

    /// Sends a request on to the node at `place`, in a frame that gets its id there; the answer goes to `request.owed`.
    #[inline]
    pub(crate) fn forward(
        &self,
        thread: &Rc<Thread>,
        place: usize,
        request: Forwarded,
        frame: Sent<'_>,
        age_max_ms: Option<u64>,
    ) {
        self.link(place).forward(thread, request, frame, age_max_ms);
    }

    /// Tells the node at `place` something that has no answer. A node that cannot be reached is told nothing.
    #[cold]
    pub(crate) fn tell(&self, thread: &Rc<Thread>, place: usize, frame: Sent<'_>) {
        self.link(place).tell(thread, frame);
    }

    /// A client that waits for answers is gone.
    pub(crate) fn forget(&self, client: u64) {
        self.links.iter().for_each(|link| link.forget(client));
    }

    pub(crate) fn tick(&self, thread: &Rc<Thread>, now_ms: u64) {
        self.links.iter().for_each(|link| link.tick(thread, now_ms));
    }

    fn link(&self, place: usize) -> &Link {
        &self.links[place]
    }

    fn name<'a>(&self, thread: &'a Thread, place: usize) -> &'a str {
        let member = thread.node.member.as_ref().expect("there are links only among nodes");
        member.topology().all()[place].name()
    }
}
