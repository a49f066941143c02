//! Asks each other node again and again whether it is there, on a thread of its own, so that no command holds it up.
//!
//! ```text
//! ticker: Watch::tick ─► pings ─► one task for each node: its connection ─► ASK frames ─► a connection of that node (Serving) ─► Peers::answer
//!                                              Peers::hear ◄──────────────── WORD frames ◄───────────────────────────────────────┘
//! ```
//!
//! The connection is opened as a link is, and carries nothing else. A ping that finds none has one opened; what is due meanwhile is not sent.

use super::frame::{self, Answered, Next, Sent};
use super::link::connect;
use super::word;
use crate::node::Node;
use crate::vital::Vital;
use leasehold_cluster::{Fault, Ping, Place};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Ticks between two pings: health is judged a little more often than it is asked for.
const TICKS_PER_PING: u64 = 4;

/// Pings that may wait for a connection. They are late there, and another comes soon.
const WAITING_MAX: usize = 2;

/// A connection on which nothing has come for so many `peer-timeout`s is opened anew: after a long silence of the network, TCP itself tries rarely.
const SILENT_TIMEOUTS_MAX: u32 = 2;

/// Starts the thread, if there are other nodes. It ends with the process.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn start(node: &Arc<Node>) -> std::io::Result<()> {
    let Some(watch) = &node.watch else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let others: Vec<Place> = watch.peers.topology().places().filter(|place| *place != watch.peers.own()).collect();
    let node = Arc::clone(node);
    std::thread::Builder::new().name("peers".into()).spawn(move || {
        let _vital = Vital("peers");
        runtime.block_on(async {
            let mut pings = Vec::new();
            for place in others {
                let (send, receive) = mpsc::channel(WAITING_MAX);
                pings.push((place, send));
                tokio::spawn(attend(Arc::clone(&node), place, receive));
            }
            keep_time(&node, &pings).await;
        });
    })?;
    Ok(())
}

async fn keep_time(node: &Node, pings: &[(Place, mpsc::Sender<Ping>)]) {
    let watch = node.watch.as_ref().expect("there are other nodes");
    let every = Duration::from_millis((watch.peers.rules().ping_every_ms / TICKS_PER_PING).max(1));
    loop {
        tokio::time::sleep(every).await;
        // What has arrived is heard first: it may be this process that stood still.
        tokio::task::yield_now().await;
        let mut turn = node.turn();
        for (place, ping) in watch.tick(turn.now_ms, turn.random()).pings {
            if let Some((_, send)) = pings.iter().find(|(other, _)| *other == place) {
                // What finds no room is late already.
                let _ = send.try_send(ping);
            }
        }
    }
}

/// Sends one node its pings, and hears the answers.
async fn attend(node: Arc<Node>, place: Place, mut pings: mpsc::Receiver<Ping>) {
    let _vital = Vital("pulse");
    let watch = node.watch.as_ref().expect("there are other nodes");
    let failed = |fault, reason: &str| watch.failed(place, fault, reason, node.clock.now_ms());
    let mut was_heard = false;
    loop {
        // Whoever has answered just now either is there still or refuses: one look tells.
        let ping = if was_heard { None } else { pings.recv().await };
        let (stream, received) =
            match tokio::time::timeout(node.config.peer_timeout, connect(&node, place.index())).await {
                Ok(Ok(opened)) => opened,
                Ok(Err(reason)) => {
                    failed(Fault::Refused, &reason);
                    was_heard = false;
                    continue;
                }
                // That the pings have no answer says it.
                Err(_) => {
                    was_heard = false;
                    continue;
                }
            };
        let mut line = Line { node: &node, place, stream, received, was_heard: false, heard: Instant::now() };
        let end = line.serve(ping, &mut pings).await;
        was_heard = line.was_heard;
        if let End::Broken(reason) = end {
            failed(Fault::Reset, reason);
        }
    }
}

/// An open connection to another node.
struct Line<'a> {
    node: &'a Node,
    place: Place,
    stream: TcpStream,
    received: Vec<u8>,
    was_heard: bool,
    heard: Instant,
}

/// Why it ended.
enum End {
    Broken(&'static str),
    /// The pings say it.
    Silent,
}

impl Line<'_> {
    async fn serve(&mut self, first: Option<Ping>, pings: &mut mpsc::Receiver<Ping>) -> End {
        let mut next = first;
        loop {
            if let Some(ping) = next.take() {
                if self.heard.elapsed() > self.node.config.peer_timeout * SILENT_TIMEOUTS_MAX {
                    return End::Silent;
                }
                if self.ask(&ping).await.is_err() {
                    return End::Broken("does not answer");
                }
            }
            tokio::select! {
                ping = pings.recv() => next = ping,
                read = self.stream.read_buf(&mut self.received) => match read {
                    Ok(0) | Err(_) => return End::Broken("does not answer"),
                    Ok(_) => if let Err(reason) = self.hear() { return End::Broken(reason) },
                },
            }
        }
    }

    async fn ask(&mut self, ping: &Ping) -> std::io::Result<()> {
        let (mut bytes, mut frame) = (Vec::new(), Vec::new());
        word::put_ping(&mut bytes, ping);
        frame::put(&mut frame, Sent { id: 0, number: 0, kind: frame::ASK, bytes: &bytes });
        // A few bytes, rarely: there is room for them in the socket, or it has been silent for very long.
        self.stream.write_all(&frame).await
    }

    /// Takes the frames that are whole.
    fn hear(&mut self) -> Result<(), &'static str> {
        let watch = self.node.watch.as_ref().expect("there are other nodes");
        self.heard = Instant::now();
        let mut taken = 0;
        loop {
            match frame::next_answered(&self.received[taken..]) {
                Next::Frame(Answered { id: frame::WORD, bytes }, len) => {
                    let Some(pong) = word::pong(bytes) else { return Err("does not speak this protocol") };
                    watch.peers.hear(self.place, &pong, self.node.clock.now_ms());
                    self.was_heard = true;
                    taken += len;
                }
                Next::Frame(Answered { id: frame::LEAVE, .. }, _) => return Err("ends"),
                // Its time, which links need.
                Next::Frame(_, len) => taken += len,
                Next::Incomplete => break,
                Next::Broken => return Err("does not speak this protocol"),
            }
        }
        self.received.drain(..taken);
        Ok(())
    }
}
