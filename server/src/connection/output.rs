//! Replies that the socket of a connection did not take. Most connections have none, so there is room for a pointer only.

use super::REPLY_BYTES_KEPT;

#[derive(Debug, Default)]
pub(super) struct Output(Option<Box<Unsent>>);

/// Replies from `sent` on: never none.
#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that are not sent.
    pub(super) fn len(&self) -> usize {
        self.rest().len()
    }

    /// What is to be sent next.
    pub(super) fn rest(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |unsent| &unsent.bytes[unsent.sent..])
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Some(unsent) => unsent.bytes.extend_from_slice(bytes),
            None => self.take(bytes.to_vec(), 0),
        }
    }

    /// As [`Output::add`], of what is in `bytes` from `sent` on; nothing is copied if there is nothing yet.
    pub(super) fn take(&mut self, bytes: Vec<u8>, sent: usize) {
        match &self.0 {
            Some(_) => self.add(&bytes[sent..]),
            None if sent < bytes.len() => self.0 = Some(Box::new(Unsent { bytes, sent })),
            None => {}
        }
    }

    /// So many more bytes are sent.
    pub(super) fn advance(&mut self, count: usize) {
        let Some(unsent) = &mut self.0 else { return };
        unsent.sent += count;
        if unsent.sent == unsent.bytes.len() {
            self.0 = None;
        } else if unsent.sent >= REPLY_BYTES_KEPT && unsent.sent > unsent.bytes.len() / 2 {
            unsent.bytes.drain(..unsent.sent);
            unsent.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_sent_in_order_and_takes_no_memory_then() {
        let mut output = Output::default();
        output.take(b"gone".to_vec(), 4);
        assert!(output.is_empty());
        output.take(b"+OK\r\n".to_vec(), 1);
        output.add(b":1\r\n");
        assert_eq!((output.rest(), output.len()), (&b"OK\r\n:1\r\n"[..], 8));
        output.advance(3);
        assert_eq!(output.rest(), b"\n:1\r\n");
        output.advance(5);
        assert!(output.is_empty() && output.0.is_none());
        let long: Vec<u8> = (0..4 * REPLY_BYTES_KEPT).map(|index| index as u8).collect();
        output.take(long.clone(), 0);
        output.advance(3 * REPLY_BYTES_KEPT);
        assert_eq!(output.rest(), &long[3 * REPLY_BYTES_KEPT..]);
        assert!(output.0.as_ref().is_some_and(|unsent| unsent.sent == 0), "what is sent does not stay");
    }
}
