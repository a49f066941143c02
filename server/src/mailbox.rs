//! What other threads leave for a reactor thread.
//!
//! The queue has no length limit of its own because everything in it is bounded elsewhere: new connections by `maxclients`,
//! wakes by the number of parked commands (each waits for a bounded number of keys, each key wakes it once), kills by
//! the number of connections. A refused wake would be a client that hangs.

use crate::front::Protocol;
use crossbeam::queue::SegQueue;
use leasehold_keyspace::Wake;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// One thing to do for a reactor thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// A connection that this thread serves from now on.
    Accepted { stream: TcpStream, peer: SocketAddr, id: u64, protocol: Protocol },
    /// For a command parked on this thread.
    Wake(Wake),
    /// `CLIENT KILL`.
    Kill { connection: u64 },
    /// Serve what is under way, close what is idle.
    Drain,
    /// Drop everything and end.
    Stop,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    messages: SegQueue<Message>,
    /// Ticks are a flag, so that a busy thread does not find a heap of old ones.
    tick: AtomicBool,
    bell: Notify,
}

impl Mailbox {
    /// Leaves a message and wakes the thread.
    pub(crate) fn post(&self, message: Message) {
        self.messages.push(message);
        self.bell.notify_one();
    }

    /// Leaves many messages and wakes the thread once.
    pub(crate) fn post_all(&self, messages: impl Iterator<Item = Message>) {
        messages.for_each(|message| self.messages.push(message));
        self.bell.notify_one();
    }

    /// Tells the thread that time has passed.
    pub(crate) fn ring_tick(&self) {
        // Release pairs with the swap in `take_tick`; the bell orders the rest.
        if !self.tick.swap(true, Ordering::Release) {
            self.bell.notify_one();
        }
    }

    /// The next message, if there is one.
    pub(crate) fn take(&self) -> Option<Message> {
        self.messages.pop()
    }

    /// Whether a tick is due; it is no more.
    pub(crate) fn take_tick(&self) -> bool {
        // Acquire pairs with the swap in `ring_tick`.
        self.tick.swap(false, Ordering::Acquire)
    }

    /// Waits until something may have been left since the last call.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heap_of_ticks_is_one_tick() {
        let mailbox = Mailbox::default();
        mailbox.ring_tick();
        mailbox.ring_tick();
        assert!(mailbox.take_tick());
        assert!(!mailbox.take_tick());
    }

    #[test]
    fn messages_come_out_in_order_and_ring_before_anyone_waits() {
        let mailbox = Mailbox::default();
        mailbox.post_all((1..=3).map(|connection| Message::Kill { connection }));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
        runtime.block_on(mailbox.rung());
        let order: Vec<_> = std::iter::from_fn(|| mailbox.take())
            .map(|message| if let Message::Kill { connection } = message { connection } else { 0 })
            .collect();
        assert_eq!(order, [1, 2, 3]);
    }
}
