//! Every event on some of the keys, told to those who ask for it: a trace that a client records, and the shadow caches of
//! [`super::whatif`].
//!
//! Keys are chosen by their hash (Waldspurger and others 2015): of one key in so many all events are told, of the others none.
//! So a cache of one part in so many of the memory that is played these events does what the real one would.
//!
//! ```text
//!     shard ── event ─► queue of the trace (bounded) ─► TRACE READ
//!                    └► queue of the shadows (bounded) ─► tick
//! ```
//!
//! A full queue drops events and counts them; no shard ever waits for a reader. Without a stream no shard comes here.

use super::whatif::WhatIf;
use crate::keyspace::Keyspace;
use crate::policy::window::Cache;
use crate::turn::Turn;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Events that wait for the reader of a trace. 2 MiB.
pub const TRACE_EVENTS_MAX: usize = 1 << 16;

/// A trace that nobody has read for so long, in ms, ends by itself.
const UNREAD_MS_MAX: u64 = 10_000;

/// Keys that a trace is to have, about, when its client does not say how many.
const TRACED_KEYS: u64 = 100_000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A read found a fresh entry.
    Hit,
    /// A read found none.
    Miss,
    /// A value was stored.
    Store,
}

/// An event on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    pub(crate) hash: u64,
    /// What the entry weighs for the policy; 0 for a miss.
    pub(crate) weight: u32,
    /// Bytes of key and value; 0 for a miss.
    pub(crate) len: u32,
}

/// An event as a trace has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// What happened.
    pub kind: EventKind,
    /// Stands for the key, in this trace only.
    pub key: u64,
    /// Bytes of key and value; 0 for a miss.
    pub bytes: u32,
}

/// The state of a trace when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceState {
    /// Events lost since the last read because the queue was full.
    pub dropped: u64,
    /// Events that still wait.
    pub waiting: usize,
    /// One key in so many is traced.
    pub keys_per_traced: u64,
}

/// Why there is no trace to begin or to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceError {
    /// Another client records one.
    Running,
    /// There is none, or it was not read for 10 seconds.
    NotRunning,
}

/// The streams of a keyspace.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    trace: Mutex<Option<Trace>>,
    whatif: Mutex<Option<Shadowed>>,
}

#[derive(Debug)]
struct Trace {
    below: u64,
    keys_per_traced: u64,
    events: VecDeque<Event>,
    dropped: u64,
    /// Makes names of hashes.
    seed: u64,
    read_at_ms: u64,
}

#[derive(Debug)]
struct Shadowed {
    below: u64,
    events: VecDeque<Event>,
    is_dropping: bool,
    /// Out while a thread works with it.
    shadows: Option<Box<WhatIf>>,
}

/// Events that wait for the shadows; 96 KiB.
const SHADOW_EVENTS_MAX: usize = 4096;

/// Events that one tick works off: about half a millisecond.
const SHADOW_EVENTS_PER_TICK: usize = 512;

impl Streams {
    pub(crate) fn push(&self, event: Event) {
        if let Some(trace) = &mut *lock(&self.trace)
            && event.hash < trace.below
        {
            if trace.events.len() < TRACE_EVENTS_MAX {
                trace.events.push_back(event);
            } else {
                trace.dropped += 1;
            }
        }
        if let Some(shadowed) = &mut *lock(&self.whatif)
            && event.hash < shadowed.below
        {
            if shadowed.events.len() < SHADOW_EVENTS_MAX {
                shadowed.events.push_back(event);
            } else {
                shadowed.is_dropping = true;
            }
        }
    }

    /// Bytes of the queues and the shadows.
    pub(crate) fn bytes(&self) -> usize {
        let trace = lock(&self.trace).as_ref().map_or(0, |trace| trace.events.capacity());
        let whatif = lock(&self.whatif);
        let shadowed = whatif.as_ref().map_or(0, |shadowed| shadowed.events.capacity());
        let shadows = whatif.as_ref().and_then(|shadowed| shadowed.shadows.as_ref());
        (trace + shadowed) * size_of::<Event>() + shadows.map_or(0, |shadows| shadows.memory_bytes())
    }

    fn below(&self) -> u64 {
        let trace = lock(&self.trace).as_ref().map_or(0, |trace| trace.below);
        trace.max(lock(&self.whatif).as_ref().map_or(0, |shadowed| shadowed.below))
    }
}

impl Keyspace {
    /// Begins to record the events on one key in `keys_per_traced`; `None`: so that there are about 100,000 keys. The rate in
    /// force.
    ///
    /// # Errors
    /// [`TraceError::Running`].
    pub fn start_trace(&self, turn: &mut Turn, keys_per_traced: Option<u64>) -> Result<u64, TraceError> {
        let rate = keys_per_traced.unwrap_or_else(|| (self.stats().entries / TRACED_KEYS).max(1).next_power_of_two());
        let rate = rate.max(1);
        {
            let mut trace = lock(&self.observers().streams.trace);
            if trace.as_ref().is_some_and(|trace| !trace.is_forgotten(turn.now_ms)) {
                return Err(TraceError::Running);
            }
            *trace = Some(Trace {
                below: u64::MAX / rate,
                keys_per_traced: rate,
                events: VecDeque::new(),
                dropped: 0,
                seed: turn.random(),
                read_at_ms: turn.now_ms,
            });
        }
        self.tell_streams();
        Ok(rate)
    }

    /// Takes up to `count` events out of the trace, oldest first.
    ///
    /// # Errors
    /// [`TraceError::NotRunning`].
    pub fn read_trace(
        &self,
        turn: &Turn,
        count: usize,
        mut visit: impl FnMut(Traced),
    ) -> Result<TraceState, TraceError> {
        let (taken, seed, state) = {
            let mut trace = lock(&self.observers().streams.trace);
            let trace = trace.as_mut().ok_or(TraceError::NotRunning)?;
            trace.read_at_ms = turn.now_ms;
            let taken: Vec<Event> = trace.events.drain(..count.min(trace.events.len())).collect();
            let dropped = std::mem::take(&mut trace.dropped);
            let state = TraceState { dropped, waiting: trace.events.len(), keys_per_traced: trace.keys_per_traced };
            (taken, trace.seed, state)
        };
        for event in taken {
            visit(Traced { kind: event.kind, key: mixed(event.hash, seed), bytes: event.len });
        }
        Ok(state)
    }

    /// Ends the trace, and forgets what waits in it. Whether there was one.
    pub fn stop_trace(&self) -> bool {
        let trace = lock(&self.observers().streams.trace).take();
        self.tell_streams();
        trace.is_some()
    }

    /// Turns the shadow caches of `INFO whatif` on or off.
    pub fn set_whatif(&self, is_on: bool) {
        {
            let mut whatif = lock(&self.observers().streams.whatif);
            match (&*whatif, is_on) {
                (None, true) => {
                    *whatif = Some(Shadowed {
                        below: u64::MAX,
                        events: VecDeque::new(),
                        is_dropping: false,
                        shadows: Some(Box::default()),
                    });
                }
                (Some(_), false) => *whatif = None,
                _ => return,
            }
        }
        self.tell_streams();
    }

    /// Runs something with the shadow caches, if they are on and no other thread works with them.
    pub fn with_whatif<R>(&self, run: impl FnOnce(&WhatIf) -> R) -> Option<R> {
        lock(&self.observers().streams.whatif).as_ref()?.shadows.as_deref().map(run)
    }

    /// Ends a trace that nobody reads, and plays what waits to the shadow caches. Called from a tick of each thread.
    pub(crate) fn tend_streams(&self, turn: &mut Turn) {
        let streams = &self.observers().streams;
        let is_forgotten = lock(&streams.trace).as_ref().is_some_and(|trace| trace.is_forgotten(turn.now_ms));
        if is_forgotten {
            self.stop_trace();
        }
        if lock(&streams.whatif).is_none() {
            return;
        }
        let cache = self.shadowed_cache(turn);
        let taken = {
            let mut whatif = lock(&streams.whatif);
            let Some(shadowed) = &mut *whatif else { return };
            let Some(shadows) = shadowed.shadows.take() else { return };
            let count = shadowed.events.len().min(SHADOW_EVENTS_PER_TICK);
            let events: Vec<Event> = shadowed.events.drain(..count).collect();
            (shadows, events, std::mem::take(&mut shadowed.is_dropping))
        };
        let (mut shadows, events, is_dropping) = taken;
        shadows.follow(cache, is_dropping);
        events.iter().for_each(|event| shadows.play(event));
        let below = u64::MAX >> shadows.rank();
        let has_moved = {
            let mut whatif = lock(&streams.whatif);
            let Some(shadowed) = &mut *whatif else { return };
            shadowed.shadows = Some(shadows);
            std::mem::replace(&mut shadowed.below, below) != below
        };
        if has_moved {
            self.tell_streams();
        }
    }

    /// The real cache, as the shadows are to follow it: by what entries weigh, of which there may be as much as there is when
    /// memory is full.
    fn shadowed_cache(&self, turn: &mut Turn) -> Cache {
        let mut cache = self.cache(turn);
        if cache.capacity_bytes == 0 {
            let shard = self.lock(turn.random() as usize % self.shards());
            cache.capacity_bytes = (shard.log.weight_of_all() * self.shards()).max(1) as u64;
        }
        cache
    }

    /// Tells all shards which keys are in a stream.
    fn tell_streams(&self) {
        for index in 0..self.shards() {
            // Read under the lock, so that of two who tell at one time the last to come tells what holds.
            let mut shard = self.lock(index);
            shard.set_streamed_below(self.observers().streams.below());
        }
    }
}

impl Trace {
    fn is_forgotten(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.read_at_ms) > UNREAD_MS_MAX
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another number for each hash, and for each seed (the finalizer of MurmurHash3 is a bijection; Appleby 2011).
fn mixed(hash: u64, seed: u64) -> u64 {
    let mut x = hash ^ seed;
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}
