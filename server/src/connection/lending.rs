//! The owner's side of hot keys, on the link of who reads them: see `peer::hot`.

use super::serving::{Hands, Serving};
use crate::peer::copies::Given;
use crate::peer::frame::{self, Dialect, Sent};
use crate::peer::hot::{LENT_BYTES_MAX, TELL_AGAIN_MS, asked, put_given};
use leasehold_cluster::Cell;
use leasehold_command::{read_keys_of_request, read_keys_of_text};
use leasehold_keyspace::Db;

impl Serving {
    /// A read was executed, one of some: if its keys are hot the other node is told, unless it was just now.
    pub(super) fn note_read(&mut self, hands: &mut Hands<'_>, dialect: Dialect, request: &[u8]) {
        let thread = hands.thread;
        let Some(hot) = &thread.node.hot else { return };
        let (told, now_ms) = (&mut self.told, self.now_ms);
        let buffer = hands.reply.buffer_mut();
        let mut note = |key: &[u8]| {
            let cell = Cell::of_key(key);
            if !hot.heat.note(cell, now_ms) || told.get(&cell).is_some_and(|told_ms| told_ms + TELL_AGAIN_MS > now_ms) {
                return;
            }
            told.insert(cell, now_ms);
            thread.stats().hot_told.add(1);
            let start = frame::begin(buffer, frame::HOT);
            buffer.extend_from_slice(key);
            frame::end(buffer, start);
        };
        match dialect {
            Dialect::Resp2 | Dialect::Resp3 => read_keys_of_request(request, hands.limits, &mut note),
            Dialect::Memcached => read_keys_of_text(request, hands.text_limits, &mut note),
        }
    }

    /// The other node asks for a copy. Nothing is the answer where none are lent; what cannot be read has no answer, as it has no id.
    pub(super) fn lend(&self, hands: &mut Hands<'_>, sent: &Sent<'_>) {
        let node = &hands.thread.node;
        let Some((question, key)) = asked(sent) else { return };
        let buffer = hands.reply.buffer_mut();
        let start = frame::begin(buffer, frame::COPY);
        let nothing = Given { question, key, value: &[], client_flags: 0, life_ms: 0 };
        let mut put = |given: &Given<'_>| put_given(buffer, given);
        let lent = node.hot.as_ref().filter(|_| node.owns(key)).map(|hot| {
            node.keyspace.lend(hands.turn, Db(0), key, self.from.index(), hot.ttl_ms, |entry, life_ms| {
                let is_short = entry.value.len() <= LENT_BYTES_MAX;
                let (value, client_flags) = (entry.value, entry.client_flags);
                let given = if is_short { Given { value, client_flags, life_ms, ..nothing } } else { nothing };
                put(&given);
                is_short
            })
        });
        match lent.flatten() {
            None => put(&nothing),
            Some(is_lent) => hands.thread.stats().copies_lent.add(u64::from(is_lent)),
        }
        frame::end(hands.reply.buffer_mut(), start);
    }
}
