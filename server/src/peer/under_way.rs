//! Requests that were sent on over a link and have no answer yet.

use super::frame::Dialect;
use super::owed::Owed;
use super::spare::Spare;
use leasehold_cluster::{Slot, Touched};
use std::rc::Rc;

/// One request on its way. 48 bytes at most, as there may be a million of them.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) owed: Rc<Owed>,
    /// Its place there.
    pub(crate) number: u32,
    /// Which part of that it is.
    pub(crate) part: u16,
    pub(crate) slot: Slot,
    pub(crate) dialect: Dialect,
    /// What it may change.
    pub(crate) touched: Touched,
    /// For the statistics.
    pub(crate) command: Option<u16>,
    /// The key, if the reply may be a lease.
    pub(crate) lease_key: Option<Box<[u8]>>,
    /// What is needed to ask somebody else, if that is possible.
    pub(crate) spare: Option<Box<Spare>>,
}

const _: () = assert!(size_of::<Forwarded>() <= 48);

/// Requests by their id.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    requests: Vec<Option<Forwarded>>,
    free: Vec<u32>,
    pub(super) count: usize,
}

impl UnderWay {
    /// Adds a request; its id.
    pub(super) fn add(&mut self, request: Forwarded) -> u32 {
        self.count += 1;
        if let Some(id) = self.free.pop() {
            self.requests[id as usize] = Some(request);
            return id;
        }
        self.requests.push(Some(request));
        (self.requests.len() - 1) as u32
    }

    /// Takes the request with this id out, if there is one.
    pub(super) fn take(&mut self, id: u32) -> Option<Forwarded> {
        let request = self.requests.get_mut(id as usize)?.take()?;
        self.count -= 1;
        self.free.push(id);
        Some(request)
    }

    /// All of them.
    pub(super) fn into_all(self) -> impl Iterator<Item = Forwarded> {
        self.requests.into_iter().flatten()
    }
}
