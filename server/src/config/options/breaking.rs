//! The keys of a breaker, which each source and each loader has.

use super::super::spec::{Change, Default, Kind, Spec, Value};
use super::{DAY, HOUR, MS, integer, span};
use std::time::Duration;

type Write<T> = fn(&mut T, Value);
type Read<T> = fn(&T) -> Value;

const SWITCH_NAMES: &[&str] = &["on", "off"];
pub(super) const SWITCH: [bool; SWITCH_NAMES.len()] = [true, false];

pub(super) const fn switch<T>(write: Write<T>, read: Read<T>) -> Spec<T> {
    let doc = "The breaker: when too many of the last calls have failed, nothing is asked for a while, and readers get the stale \
               value or LOADFAIL at once; then one load that somebody wants is let through, and decides. A call has failed if \
               the database could not be reached or did not answer in time, not if it refused a value.";
    Spec {
        name: "breaker",
        kind: Kind::Choice(SWITCH_NAMES),
        default: Default::Text("on"),
        change: CHANGE,
        doc,
        write,
        read,
    }
}

pub(super) const fn window<T>(write: Write<T>, read: Read<T>) -> Spec<T> {
    let (kind, default) = (span(Duration::from_millis(100), HOUR), Default::Text("10s"));
    let doc = "How far back calls count for the breaker.";
    Spec { name: "breaker_window", kind, default, change: CHANGE, doc, write, read }
}

pub(super) const fn calls<T>(write: Write<T>, read: Read<T>) -> Spec<T> {
    let (kind, default) = (integer(1, 1_000_000), Default::Text("20"));
    let doc = "With fewer calls in breaker_window the breaker stays closed. A query for many keys is one call.";
    Spec { name: "breaker_calls", kind, default, change: CHANGE, doc, write, read }
}

pub(super) const fn failures<T>(write: Write<T>, read: Read<T>) -> Spec<T> {
    let (kind, default) = (Kind::Ratio { min: 0.01, max: 1.0 }, Default::Text("0.5"));
    let doc = "The share of calls in breaker_window that have failed at which the breaker opens.";
    Spec { name: "breaker_failures", kind, default, change: CHANGE, doc, write, read }
}

pub(super) const fn slow<T>(write: Write<T>, read: Read<T>) -> Spec<T> {
    let (kind, default) = (span(Duration::ZERO, HOUR), Default::Text("0"));
    let doc = "A call that takes so long has failed for the breaker, whatever it brings. 0 = one that takes longer than the \
               loader's hard_timeout.";
    Spec { name: "breaker_slow", kind, default, change: CHANGE, doc, write, read }
}

pub(super) const fn open<T>(write: Write<T>, read: Read<T>) -> Spec<T> {
    let (kind, default) = (span(MS, DAY), Default::Text("5s"));
    let doc = "For how long nothing is asked once the breaker opens; twice as long after each try that fails.";
    Spec { name: "breaker_open", kind, default, change: CHANGE, doc, write, read }
}

pub(super) const fn open_max<T>(write: Write<T>, read: Read<T>) -> Spec<T> {
    let (kind, default) = (span(MS, DAY), Default::Text("60s"));
    let doc = "The longest time between two tries.";
    Spec { name: "breaker_open_max", kind, default, change: CHANGE, doc, write, read }
}

const CHANGE: Change = Change::Start;
