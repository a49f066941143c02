//! Hot keys between nodes: an owner tells that a key is hot, the other asks for a copy, is given one, and hears when it is wrong.
//!
//! ```text
//!     this node                                      the owner of the key
//!     reads sent on ───────────────────────────────► Heat: above hot-key-rate
//!     Copies::ask   ◄──────── HOT: the key ───────── at most once in some ms on a link
//!                   ───────── LEND: question, key ─► Keyspace::lend
//!     Copies::keep  ◄──────── COPY: question, life, value
//!     Copies::touch ◄──────── RECALL: the key ────── Keyspace::take_recalls, by the next turn of any thread, over that thread's own link
//! ```
//!
//! Which words overtake which does not matter; see `copies`.

use super::copies::{Copies, Given, Question};
use super::frame::{self, Sent};
use super::heat::Heat;
use crate::config::Config;
use crate::thread::Thread;
use leasehold_cluster::Touched;
use leasehold_keyspace::Recall;
use std::rc::Rc;

/// Longest value that is lent. One copy of it holds up a link for some ms.
pub(crate) const LENT_BYTES_MAX: usize = 1024 * 1024;

/// All copies have at most this part of the limit on memory, and at most so many bytes.
const COPIES_SHARE: u64 = 32;
const COPIES_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A link is told again that a key is hot after so many ms.
pub(crate) const TELL_AGAIN_MS: u64 = 10;

/// What a node has of hot keys, its own and those of others.
#[derive(Debug)]
pub(crate) struct Hot {
    pub(crate) heat: Heat,
    pub(crate) copies: Copies,
    /// Of copies that are lent.
    pub(crate) ttl_ms: u64,
}

impl Hot {
    /// As configured; `None`: nothing is told or lent.
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let ttl_ms = config.hot_key_ttl.as_millis() as u64;
        let is_on = config.hot_key_rate > 0;
        is_on.then(|| Self { heat: Heat::new(config.hot_key_rate), copies: Copies::new(ttl_ms), ttl_ms })
    }
}

/// The owner of a key says that it is hot: what it is asked for then.
pub(super) fn hear_hot(thread: &Thread, key: &[u8]) -> Option<(Question, Vec<u8>)> {
    let hot = thread.node.hot.as_ref()?;
    let question = hot.copies.ask(key, thread.node.clock.now_ms())?;
    Some((question, [&question.at_ms.to_le_bytes(), key].concat()))
}

/// A copy has come. `None`: it cannot be read.
pub(super) fn hear_copy(thread: &Thread, bytes: &[u8]) -> Option<()> {
    let given = given(bytes)?;
    let Some(hot) = &thread.node.hot else { return Some(()) };
    let node = &thread.node;
    let bytes_max = match node.live.live().memory_bytes_max {
        0 => COPIES_BYTES_MAX,
        bytes => (bytes / COPIES_SHARE).min(COPIES_BYTES_MAX),
    };
    let bytes_more = hot.copies.keep(&given, bytes_max as usize, node.clock.now_ms());
    node.keyspace.count_outside(bytes_more);
    Some(())
}

/// The owner of a key says that its copies are wrong; an empty key stands for all.
pub(crate) fn hear_recall(thread: &Thread, key: &[u8]) {
    let Some(hot) = &thread.node.hot else { return };
    thread.stats().copy_drops.add(1);
    match key {
        [] => hot.copies.touch_all(),
        key => hot.copies.touch(Touched::of_keys([key].into_iter()), thread.node.clock.now_ms()),
    }
}

/// A request that may change these keys is sent on, or its answer is here.
#[inline]
pub(crate) fn note_touched(thread: &Thread, touched: Touched) {
    if touched != Touched::NOTHING
        && let Some(hot) = &thread.node.hot
    {
        hot.copies.touch(touched, thread.node.clock.now_ms());
    }
}

/// Gives up copies that can be used no more.
pub(crate) fn sweep(thread: &Thread, now_ms: u64) {
    if let Some(hot) = &thread.node.hot {
        thread.node.keyspace.count_outside(-hot.copies.sweep(now_ms));
    }
}

/// Tells the holders of copies what is wrong.
#[cold]
pub(crate) fn send_recalls(thread: &Rc<Thread>) {
    let Some(member) = &thread.node.member else { return };
    for recall in thread.node.keyspace.take_recalls() {
        let others = member.topology().places().filter(|place| *place != member.place());
        let (key, holders) = match &recall {
            Recall::Key { key, holders } => (&key[..], *holders),
            Recall::All => (&[][..], u128::MAX),
        };
        for place in others.map(leasehold_cluster::Place::index).filter(|place| holders >> place & 1 == 1) {
            thread.links.tell(thread, place, Sent { id: 0, number: 0, kind: frame::RECALL, bytes: key });
        }
    }
}

/// Adds the rest of a [`frame::COPY`] behind its head: who asks knows the key, which comes before the value.
pub(crate) fn put_given(out: &mut Vec<u8>, given: &Given<'_>) {
    out.extend_from_slice(&given.question.stamp.to_le_bytes());
    out.extend_from_slice(&given.question.at_ms.to_le_bytes());
    out.extend_from_slice(&given.life_ms.to_le_bytes());
    out.extend_from_slice(&given.client_flags.to_le_bytes());
    out.extend_from_slice(&(given.key.len() as u32).to_le_bytes());
    out.extend_from_slice(given.key);
    out.extend_from_slice(given.value);
}

/// What [`put_given`] has written.
fn given(bytes: &[u8]) -> Option<Given<'_>> {
    let (stamp, rest) = bytes.split_first_chunk()?;
    let (at_ms, rest) = rest.split_first_chunk()?;
    let (life_ms, rest) = rest.split_first_chunk()?;
    let (client_flags, rest) = rest.split_first_chunk()?;
    let (key_len, rest) = rest.split_first_chunk()?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    Some(Given {
        question: Question { stamp: u64::from_le_bytes(*stamp), at_ms: u64::from_le_bytes(*at_ms) },
        key,
        value,
        client_flags: u32::from_le_bytes(*client_flags),
        life_ms: u64::from_le_bytes(*life_ms),
    })
}

/// The question and the key of a [`frame::LEND`].
pub(crate) fn asked<'a>(frame: &Sent<'a>) -> Option<(Question, &'a [u8])> {
    let (at_ms, key) = frame.bytes.split_first_chunk()?;
    Some((Question { stamp: frame.number, at_ms: u64::from_le_bytes(*at_ms) }, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_as_it_was_written_and_a_part_of_one_is_none() {
        let question = Question { stamp: 7 << 32 | 5, at_ms: 1_700_000_000_000 };
        let copy = Given { question, key: b"key", value: b"value", client_flags: 3, life_ms: 1_000 };
        let mut bytes = Vec::new();
        put_given(&mut bytes, &copy);
        assert_eq!(given(&bytes), Some(copy));
        assert_eq!((0..bytes.len() - 5).find_map(|len| given(&bytes[..len])), None);
    }
}
