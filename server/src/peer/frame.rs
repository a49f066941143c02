//! What two nodes say to each other behind `CLUSTER LINK`: frames of bytes that are passed on, not translated.
//!
//! ```text
//! to the owner      0      4       8          16     17
//!                   ├──────┼───────┼──────────┼──────┼─────────────────────────────────────────────┐
//!                   │ len  │ id    │ client   │ kind │ the request as the client sent it           │
//!                   │ len  │ id    │ client   │ kind │ with STAND_IN: age u64, then the request    │
//!                   ├──────┼───────┼──────────┼──────┼─────────────────────────────────────────────┤
//!                   │ len  │ 0     │ time     │ TIME │ nothing: what follows is executed until then │
//!                   │ len  │ 0     │ time     │ PING │ as TIME; a CLOCK is the answer              │
//!                   │ len  │ 0     │ client   │ GONE │ nothing: the client is gone                 │
//!                   │ len  │ 0     │ 0        │ ASK  │ a ping of `word`; a WORD is the answer      │
//!                   │ len  │ 0     │ stamp    │ LEND │ time u64, key: a COPY is the answer         │
//!                   │ len  │ 0     │ 0        │ RECALL │ a key, or nothing: copies are wrong       │
//!                   └──────┴───────┴──────────┴──────┴─────────────────────────────────────────────┘
//! to the origin     ┌──────┬───────┬─────────────────────────────────────────────┐
//!                   │ len  │ id    │ the reply as the client is to get it        │
//!                   ├──────┼───────┼─────────────────────────────────────────────┤
//!                   │ len  │ CLOCK │ u64: the owner's time                       │
//!                   │ len  │ LEAVE │ nothing: the owner ends, and takes no more  │
//!                   │ len  │ WORD  │ a pong of `word`                            │
//!                   │ len  │ HOT   │ a key that is hot                           │
//!                   │ len  │ COPY  │ a copy of an entry, see `hot`               │
//!                   └──────┴───────┴─────────────────────────────────────────────┘
//! ```
//!
//! Numbers are little-endian; `len` counts the bytes behind itself. All times are the owner's, in ms.

use leasehold_command::Client;

/// Bytes before a request.
pub(crate) const REQUEST_HEAD: usize = 17;
/// Bytes before a reply.
pub(crate) const REPLY_HEAD: usize = 8;

/// A longer request has no frame: as many bytes as a number of 32 bits counts, and room for the head.
pub(crate) const REQUEST_BYTES_MAX: usize = u32::MAX as usize - 64;

/// Kinds of frames to the owner, beside requests.
pub(crate) const TIME: u8 = 0x80;
pub(crate) const PING: u8 = 0x81;
pub(crate) const GONE: u8 = 0x82;
pub(crate) const ASK: u8 = 0x83;
pub(crate) const LEND: u8 = 0x84;
pub(crate) const RECALL: u8 = 0x85;

/// A client that said `CLIENT NO-TOUCH`.
pub(crate) const NO_TOUCH: u8 = 0x10;
/// A request for a stand-in. Before the request stand [`AGE_BYTES`]: how old the answer may be, in ms.
pub(crate) const STAND_IN: u8 = 0x20;

pub(crate) const AGE_BYTES: usize = 8;

/// Ids of frames to the origin that answer no request.
pub(crate) const CLOCK: u32 = u32::MAX;
pub(crate) const LEAVE: u32 = u32::MAX - 1;
pub(crate) const WORD: u32 = u32::MAX - 2;
pub(crate) const HOT: u32 = u32::MAX - 3;
pub(crate) const COPY: u32 = u32::MAX - 4;

/// What a request is written in, and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Dialect {
    Resp2 = 0,
    Resp3 = 1,
    Memcached = 2,
}

impl Dialect {
    /// Of the kind of a request's frame.
    pub(crate) fn of(kind: u8) -> Option<Self> {
        match kind & !(NO_TOUCH | STAND_IN) {
            0 => Some(Self::Resp2),
            1 => Some(Self::Resp3),
            2 => Some(Self::Memcached),
            _ => None,
        }
    }
}

/// The kind of the frame of a client's request.
pub(crate) fn kind_of(dialect: Dialect, client: &Client) -> u8 {
    dialect as u8 | if client.no_touch { NO_TOUCH } else { 0 }
}

/// A frame to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent<'a> {
    pub(crate) id: u32,
    /// A client or a time.
    pub(crate) number: u64,
    pub(crate) kind: u8,
    pub(crate) bytes: &'a [u8],
}

/// A frame to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered<'a> {
    pub(crate) id: u32,
    pub(crate) bytes: &'a [u8],
}

/// What the front of an input comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next<F> {
    /// A frame, and the bytes that it takes.
    Frame(F, usize),
    Incomplete,
    /// No node sends this.
    Broken,
}

/// Adds a frame to the owner.
pub(crate) fn put(out: &mut Vec<u8>, frame: Sent<'_>) {
    let len = (REQUEST_HEAD - 4 + frame.bytes.len()) as u32;
    let mut head = [0; REQUEST_HEAD];
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..8].copy_from_slice(&frame.id.to_le_bytes());
    head[8..16].copy_from_slice(&frame.number.to_le_bytes());
    head[16] = frame.kind;
    out.extend_from_slice(&head);
    out.extend_from_slice(frame.bytes);
}

/// Adds the frame of a request for a stand-in.
pub(crate) fn put_for_stand_in(out: &mut Vec<u8>, frame: Sent<'_>, age_max_ms: u64) {
    let start = out.len();
    put(out, Sent { kind: frame.kind | STAND_IN, bytes: &age_max_ms.to_le_bytes(), ..frame });
    out.extend_from_slice(frame.bytes);
    let len = (REQUEST_HEAD - 4 + AGE_BYTES + frame.bytes.len()) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

impl<'a> Sent<'a> {
    /// The request, and how old its answer may be if it is for a stand-in; `None`: it is none.
    pub(crate) fn request(&self) -> Option<(Option<u64>, &'a [u8])> {
        if self.kind & STAND_IN == 0 {
            return Some((None, self.bytes));
        }
        let (age_max_ms, request) = self.bytes.split_first_chunk::<AGE_BYTES>()?;
        Some((Some(u64::from_le_bytes(*age_max_ms)), request))
    }
}

/// Sets the number of the frame to the owner at the front of `frame`.
pub(crate) fn set_number(frame: &mut [u8], number: u64) {
    frame[8..16].copy_from_slice(&number.to_le_bytes());
}

/// The frame to the owner at the front of `input`, of which `bytes_max` is the longest request.
#[inline]
pub(crate) fn next_sent(input: &[u8], bytes_max: usize) -> Next<Sent<'_>> {
    let Some(head) = input.first_chunk::<REQUEST_HEAD>() else { return Next::Incomplete };
    let len = u32_at(head, 0) as usize;
    if !(REQUEST_HEAD - 4..=REQUEST_HEAD - 4 + bytes_max).contains(&len) {
        return Next::Broken;
    }
    let Some(bytes) = input.get(REQUEST_HEAD..len + 4) else { return Next::Incomplete };
    let number = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
    Next::Frame(Sent { id: u32_at(head, 4), number, kind: head[16], bytes }, len + 4)
}

/// Begins a frame to the origin at the end of `out`; [`end`] follows with what this gives.
#[inline]
pub(crate) fn begin(out: &mut Vec<u8>, id: u32) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.to_le_bytes());
    start
}

/// Ends the frame that began at `start`: all behind it is its reply. A reply is shorter than 4 GiB: `Room` sees to that.
#[inline]
pub(crate) fn end(out: &mut [u8], start: usize) {
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The frame to the origin at the front of `input`.
#[inline]
pub(crate) fn next_answered(input: &[u8]) -> Next<Answered<'_>> {
    let Some(head) = input.first_chunk::<REPLY_HEAD>() else { return Next::Incomplete };
    let len = u32_at(head, 0) as usize;
    if len < REPLY_HEAD - 4 {
        return Next::Broken;
    }
    match input.get(REPLY_HEAD..len + 4) {
        Some(bytes) => Next::Frame(Answered { id: u32_at(head, 4), bytes }, len + 4),
        None => Next::Incomplete,
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec((any::<u32>(), any::<u64>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 1..5),
            cut in 0_usize..300,
        ) {
            let mut out = Vec::new();
            let mut replies = Vec::new();
            for (id, number, kind, bytes) in &frames {
                put(&mut out, Sent { id: *id, number: *number, kind: *kind, bytes });
                let start = begin(&mut replies, *id);
                replies.extend_from_slice(bytes);
                end(&mut replies, start);
            }
            let (mut rest, mut rest_of_replies) = (&out[..], &replies[..]);
            for (id, number, kind, bytes) in &frames {
                let frame = Sent { id: *id, number: *number, kind: *kind, bytes };
                let len = REQUEST_HEAD + bytes.len();
                prop_assert_eq!(next_sent(&rest[..cut.min(len - 1)], 50), Next::Incomplete);
                prop_assert_eq!(next_sent(rest, 50), Next::Frame(frame, len));
                rest = &rest[len..];
                let len = REPLY_HEAD + bytes.len();
                prop_assert_eq!(next_answered(&rest_of_replies[..cut.min(len - 1)]), Next::Incomplete);
                prop_assert_eq!(next_answered(rest_of_replies), Next::Frame(Answered { id: *id, bytes }, len));
                rest_of_replies = &rest_of_replies[len..];
            }
            prop_assert!(rest.is_empty() && rest_of_replies.is_empty());
        }
    }

    #[test]
    fn what_is_too_long_or_too_short_is_no_frame() {
        let mut out = Vec::new();
        put(&mut out, Sent { id: 1, number: 2, kind: 0, bytes: b"12345" });
        assert_eq!(next_sent(&out, 4), Next::Broken);
        out[..4].copy_from_slice(&12_u32.to_le_bytes());
        assert_eq!(next_sent(&out, 5), Next::Broken);
        assert_eq!(next_answered(&[3, 0, 0, 0, 0, 0, 0, 0]), Next::Broken);
    }
}
