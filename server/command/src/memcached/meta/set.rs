//! `ms`: store a value, whatever is there, under a condition, or as the fill of a lease.

use super::answer::{self, Told};
use super::flags::Asked;
use super::writing;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::memcached::buffer;
use crate::memcached::dispatch;
use crate::memcached::entry::expiry;
use crate::string::number as made_of;
use crate::string::set::Versioned;
use leasehold_keyspace::{Access, Attributes, Replaced, Replacement, Slot};
use leasehold_protocol::memcached::Request;
use leasehold_protocol::memcached::parser::ENTRY_OVERHEAD_BYTES;

/// How a value is stored; the flag `M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

impl Mode {
    fn of(asked: &Asked<'_>) -> Option<Self> {
        Some(match asked.mode {
            None | Some(b'S') => Self::Set,
            Some(b'E') => Self::Add,
            Some(b'R') => Self::Replace,
            Some(b'A') => Self::Append,
            Some(b'P') => Self::Prepend,
            Some(_) => return None,
        })
    }
}

/// What became of it, in memcached's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// `HD`.
    Yes {
        version: u64,
        value_len: usize,
    },
    /// `NS`.
    No,
    /// `EX`.
    Differs,
    /// `NF`.
    Absent,
    NoRoom,
}

/// Runs `ms`.
pub(super) fn run(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let data = request.data().expect("a storage command without data has a fault");
    let words = request.words_from(3);
    let mut asked = Asked::about(request);
    if let Err(line) = asked.read_flags(request, 3) {
        return dispatch::answer(context, line);
    }
    let Some(mode) = Mode::of(&asked) else {
        return dispatch::answer(context, b"CLIENT_ERROR invalid mode for ms M token");
    };
    context.host.count(Count::CmdSet, 1);
    let stored = match writing::source_of(context, &asked.key) {
        Some(source) => match (mode, asked.named) {
            (Mode::Set, None) if asked.version.is_none() => {
                return writing::store(context, source, &asked, words, data);
            }
            // The source's row is older than what it is still to get.
            (Mode::Set, Some(_)) if context.host.is_pending(context.client.db, &asked.key) => Stored::Differs,
            (Mode::Set, Some(token)) => replace(context, &asked, token, Names::Lease, data),
            _ => return writing::refuse(context, source, "ms with C, E or M", "ms and md"),
        },
        None => match (mode, asked.named) {
            (Mode::Set | Mode::Replace, Some(named)) => replace(context, &asked, named, Names::Any, data),
            (Mode::Set | Mode::Replace | Mode::Add, _) => store(context, &asked, mode, data),
            (Mode::Append | Mode::Prepend, _) => extend(context, &asked, mode, data),
        },
    };
    let (code, version, value_len): (&[u8], _, _) = match stored {
        Stored::Yes { .. } if asked.is_quiet => return Outcome::Replied,
        Stored::Yes { version, value_len } => (b"HD", version, value_len),
        Stored::No => (b"NS", 0, data.len()),
        Stored::Differs => (b"EX", 0, data.len()),
        Stored::Absent => (b"NF", 0, data.len()),
        Stored::NoRoom => {
            context.host.count(Count::StoreNoMemory, 1);
            return dispatch::answer(context, b"SERVER_ERROR out of memory storing object");
        }
    };
    let told = Told { version: Some(version), value_len: Some(value_len), ..Told::default() };
    let buffer = buffer(context);
    buffer.extend_from_slice(code);
    answer::flags(buffer, asked.name(), words, &told);
    answer::end(buffer);
    Outcome::Replied
}

fn attributes(context: &Context<'_>, asked: &Asked<'_>, exptime: Option<i64>) -> Attributes {
    Attributes {
        expiry: expiry(exptime.unwrap_or(0), context.turn),
        external_version: asked.version,
        client_flags: asked.client_flags,
        ..Attributes::PLAIN
    }
}

/// What the number of a `C` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Any,
    /// Of a key whose loader writes: a lease is filled with what the source has, as by SETL, and a version is no lease.
    Lease,
}

/// `C`: the fill of a lease, or a write of who knows the version that is there.
fn replace(context: &mut Context<'_>, asked: &Asked<'_>, named: u64, names: Names, data: &[u8]) -> Stored {
    let replacement = Replacement {
        named,
        fills_only: names == Names::Lease,
        value: data,
        attributes: attributes(context, asked, asked.exptime),
        stale_suffices: asked.invalidates,
        version_wanted: asked.version_wanted,
    };
    let replaced = context.keyspace.replace(context.turn, context.client.db, &asked.key, replacement);
    let (count, stored) = match replaced {
        Replaced::Stored { version } => (Count::CasHits, Stored::Yes { version, value_len: data.len() }),
        Replaced::Stale => (Count::CasHits, Stored::Yes { version: 0, value_len: data.len() }),
        Replaced::Differs => (Count::CasBadval, Stored::Differs),
        Replaced::Absent => (Count::CasMisses, Stored::Absent),
        Replaced::NoRoom => return Stored::NoRoom,
    };
    context.host.count(count, 1);
    stored
}

/// A plain write; it revokes leases.
fn store(context: &mut Context<'_>, asked: &Asked<'_>, mode: Mode, data: &[u8]) -> Stored {
    let attributes = attributes(context, asked, asked.exptime);
    let Context { keyspace, client, turn, .. } = context;
    keyspace.update(turn, client.db, &asked.key, |slot| {
        let is_there = slot.entry().is_some();
        if mode == Mode::Add && is_there || mode == Mode::Replace && !is_there {
            return Stored::No;
        }
        match asked.version.map_or(Versioned::Newer, |version| Versioned::compare(slot, version, data)) {
            Versioned::Older => return Stored::Differs,
            Versioned::Repeated => {}
            Versioned::Newer => slot.store(data, attributes),
        }
        Stored::Yes { version: shown_version(slot, asked), value_len: data.len() }
    })
}

/// `MA`, `MP`: adds to the value that is there. Its client flags and its TTL stay.
fn extend(context: &mut Context<'_>, asked: &Asked<'_>, mode: Mode, data: &[u8]) -> Stored {
    let (db, entry_bytes_max) = (context.client.db, context.host.memcached_entry_bytes_max());
    let held = context.keyspace.read(context.turn, db, &asked.key, Access::Quiet, |entry| entry.value.len());
    // The value moves to a longer place, so for a moment it needs room twice.
    if held.is_some_and(|held| context.keyspace.make_room(context.turn, held + data.len()).is_err()) {
        return Stored::NoRoom;
    }
    let created = attributes(context, asked, asked.vivify);
    let mut is_lengthened = false;
    let Context { keyspace, turn, .. } = context;
    let stored = keyspace.update(turn, db, &asked.key, |slot| {
        let Some(entry) = slot.entry() else {
            if asked.vivify.is_none() {
                return Stored::No;
            }
            if asked.is_outdated(slot) {
                return Stored::Differs;
            }
            slot.store(data, created);
            return Stored::Yes { version: shown_version(slot, asked), value_len: data.len() };
        };
        let len_before = entry.value.len();
        if asked.is_mismatch(slot) {
            return Stored::Differs;
        }
        let len = len_before + data.len();
        if asked.key.len() + len + ENTRY_OVERHEAD_BYTES > entry_bytes_max {
            return Stored::No;
        }
        if asked.is_outdated(slot) {
            return Stored::Differs;
        }
        match asked.version {
            Some(version) => {
                let (before, client_flags) =
                    slot.entry().map_or((&b""[..], 0), |entry| (entry.value, entry.client_flags));
                let whole = match mode {
                    Mode::Prepend => [data, before].concat(),
                    _ => [before, data].concat(),
                };
                made_of::replace(slot, &whole, Some(version), client_flags);
            }
            None => {
                is_lengthened = true;
                let value = slot.value_mut_with_flags(len);
                if mode == Mode::Prepend {
                    value.copy_within(..len_before, data.len());
                    value[..data.len()].copy_from_slice(data);
                } else {
                    value[len_before..].copy_from_slice(data);
                }
            }
        }
        Stored::Yes { version: shown_version(slot, asked), value_len: len }
    });
    context.host.count(Count::Lengthened, u64::from(is_lengthened));
    stored
}

/// The version of what was just stored, if it is asked for: an entry gets one by that.
pub(super) fn shown_version(slot: &mut Slot<'_>, asked: &Asked<'_>) -> u64 {
    if asked.version_wanted { slot.shown_version().unwrap_or(0) } else { 0 }
}

/// After a value that is too large, or has no room: who reads on must not find the one that it was to take the place of
/// (memcached, `process_mset_cmd_start`).
pub(in crate::memcached) fn remove_outdated(context: &mut Context<'_>, request: Request<'_>) {
    let Ok(asked) = Asked::of(request, 3) else { return };
    let db = context.client.db;
    if context.host.writer_for(db, &asked.key).is_none() {
        context.keyspace.update(context.turn, db, &asked.key, |slot| slot.remove());
    }
}
