//! What is kept of a read that was sent on, to ask a stand-in if the node of its keys does not answer.
//!
//! Reads alone are sent twice: whether a request that has no answer was executed is not known. Where nobody stands in for others nothing is kept.

use super::frame::{self, Dialect, Sent};
use crate::thread::Thread;
use leasehold_cluster::{Ask, Kind, Place, PlaceSet, Route, Slot};
use leasehold_command::{keys_of_request, keys_of_text};

/// See the module.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) request: Box<[u8]>,
    client: u64,
    /// Of its frame, as for the owner.
    kind: u8,
    /// Stand-ins that did not answer.
    tried: PlaceSet,
}

impl Spare {
    pub(crate) fn new(frame: &Sent<'_>) -> Box<Self> {
        let Sent { number, kind, bytes, .. } = *frame;
        Box::new(Self { request: bytes.into(), client: number, kind, tried: PlaceSet::default() })
    }

    /// The frame of the request, which gets its id with a link.
    pub(super) fn frame<'a>(&self, request: &'a [u8]) -> Sent<'a> {
        Sent { id: 0, number: self.client, kind: self.kind, bytes: request }
    }

    /// Where the request goes next, as the node at `place` did not answer, and how old the answer may be, in ms; `None`: nowhere.
    pub(super) fn instead(mut self: Box<Self>, thread: &Thread, place: usize) -> Option<(usize, u64, Box<Self>)> {
        let peers = &thread.node.watch.as_ref()?.peers;
        let failed = peers.topology().place(place)?;
        let keys = self.keys(thread)?;
        let owner = peers.topology().owner_place(Slot::of_key(keys.first()?));
        if failed != owner {
            self.tried.insert(failed);
        }
        let now_ms = thread.node.clock.now_ms();
        // Any stand-in can load any key: that of the first is asked for all.
        let mut next: Option<(Place, u64)> = None;
        for key in &keys {
            let ask = Ask { slot: Slot::of_key(key), key, kind: Kind::Read, now_ms, random: now_ms };
            let Route::StandIn(stand_in) = peers.instead(&ask, self.tried) else { return None };
            let (place, age_max_ms) = next.unwrap_or((stand_in.place, stand_in.age_max_ms));
            next = Some((place, age_max_ms.min(stand_in.age_max_ms)));
        }
        let (place, age_max_ms) = next?;
        thread.peer(owner.index()).failovers.add(1);
        Some((place.index(), age_max_ms, self))
    }

    fn keys(&self, thread: &Thread) -> Option<Vec<Vec<u8>>> {
        let config = &thread.node.config;
        match Dialect::of(self.kind & !frame::STAND_IN)? {
            Dialect::Resp2 | Dialect::Resp3 => keys_of_request(&self.request, &config.limits),
            Dialect::Memcached => keys_of_text(&self.request, &config.memcached_limits()),
        }
    }
}
