//! The load: one thread, some connections, each with one batch of requests under way.
//!
//! A connection sends a batch, waits for all its replies, compares every byte with what is right, and sends the next: a
//! closed loop, as a client library with a pipeline behaves. A wrong reply, an error, a miss or five silent seconds end the
//! bench: a server that answers wrongly has no speed. The latency of an operation is that of its batch, from `write` to the
//! last byte read.

use crate::histogram::Histogram;
use crate::keys::{Distribution, Keys};
use crate::system::{self, Epoll};
use crate::wire::{Verb, Wire};
use anyhow::{Context as _, bail, ensure};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a generator sends.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub address: SocketAddr,
    /// What it speaks.
    pub wire: Wire,
    /// Share of reads in percent; the rest overwrites.
    pub get_percent: u8,
    /// Requests in a batch.
    pub pipeline: usize,
    /// Connections of this generator.
    pub connections: usize,
    /// Number of keys.
    pub keys: u64,
    /// How requests spread over them.
    pub distribution: Distribution,
    /// Replies are those of key 0 whatever was asked: the server is the floor.
    pub canned: bool,
    /// Whether a read may find nothing.
    pub misses: bool,
    /// Of the key stream.
    pub seed: u64,
}

/// What the thread that measures and the generators share.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Progress {
    /// Operations answered so far. Relaxed: a count, read while it moves.
    pub operations: AtomicU64,
    /// Latencies count from when this is set. Relaxed: a batch more or less is nothing.
    pub measuring: AtomicBool,
    /// Ends the run. Relaxed: seen within one wait.
    pub stop: AtomicBool,
}

/// A server that says nothing for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A wait ends after so long at the latest, to look at `stop`.
const WAIT_MS: i32 = 50;

struct Connection {
    socket: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    filled: usize,
    sent: Instant,
    /// What the batch under way asked for, in order.
    asked: Vec<(Verb, u64)>,
    reply_bytes: usize,
}

/// Runs until `progress.stop`; returns the latencies of the measured part.
///
/// # Errors
/// The server cannot be reached, is silent, or a reply is wrong; the text shows the reply.
pub fn run(plan: &Plan, progress: &Progress) -> anyhow::Result<Histogram> {
    let mut generator = Generator {
        keys: Keys::new(plan.distribution, plan.keys, plan.seed),
        wire: plan.wire.clone(),
        plan,
        histogram: Histogram::default(),
    };
    let mut epoll = Epoll::new()?;
    let mut connections = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        let connection = generator.connect()?;
        epoll.add(&connection.socket, index)?;
        connections.push(connection);
    }
    for connection in &mut connections {
        generator.send_batch(connection, Instant::now())?;
    }
    let mut last_heard = Instant::now();
    while !progress.stop.load(Ordering::Relaxed) {
        let count = epoll.wait(WAIT_MS)?;
        if count == 0 {
            ensure!(last_heard.elapsed() < SILENCE_MAX, "the server has been silent for {SILENCE_MAX:?}");
            continue;
        }
        let measuring = progress.measuring.load(Ordering::Relaxed);
        for event in 0..count {
            let connection = &mut connections[epoll.ready(event)];
            if !connection.receive(&generator)? {
                continue;
            }
            generator.verify(connection)?;
            let now = Instant::now();
            let operations = connection.asked.len() as u64;
            if measuring {
                generator.histogram.record((now - connection.sent).as_nanos() as u64, operations);
            }
            progress.operations.fetch_add(operations, Ordering::Relaxed);
            generator.send_batch(connection, now)?;
            last_heard = now;
        }
    }
    Ok(generator.histogram)
}

struct Generator<'a> {
    plan: &'a Plan,
    wire: Wire,
    keys: Keys,
    histogram: Histogram,
}

impl Generator<'_> {
    fn connect(&self) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect(self.plan.address).context("cannot connect to the server")?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let reply_bytes_max = self.wire.reply_len(Verb::Get).max(self.wire.reply_len(Verb::Set)) * self.plan.pipeline
            + self.wire.around().reply_tail.len();
        Ok(Connection {
            socket,
            output: Vec::new(),
            // One byte more than is right, so that a reply too many is seen.
            input: vec![0; reply_bytes_max + 1],
            filled: 0,
            sent: Instant::now(),
            asked: Vec::with_capacity(self.plan.pipeline),
            reply_bytes: 0,
        })
    }

    fn send_batch(&mut self, connection: &mut Connection, now: Instant) -> anyhow::Result<()> {
        connection.output.clear();
        connection.asked.clear();
        let around = self.wire.around();
        connection.reply_bytes = around.reply_tail.len();
        connection.output.extend_from_slice(around.head);
        for _ in 0..self.plan.pipeline {
            let verb = if self.keys.percent(self.plan.get_percent) { Verb::Get } else { Verb::Set };
            let number = self.keys.next();
            self.wire.write_request(verb, number, &mut connection.output);
            connection.reply_bytes += self.wire.reply_len(verb);
            connection.asked.push((verb, number));
        }
        connection.output.extend_from_slice(around.tail);
        connection.filled = 0;
        connection.sent = now;
        connection.send()
    }

    fn verify(&mut self, connection: &Connection) -> anyhow::Result<()> {
        let mut rest = &connection.input[..connection.filled];
        for &(verb, number) in &connection.asked {
            if let Some(behind) = self.missed(verb, rest) {
                rest = behind;
                continue;
            }
            let right = self.wire.expected_reply(verb, if self.plan.canned { 0 } else { number });
            let (reply, behind) = rest.split_at(right.len());
            if reply != right {
                bail!(
                    "wrong reply to {verb:?} of key {number}: {:?} instead of {:?}",
                    shown(reply),
                    shown(self.wire.expected_reply(verb, number))
                );
            }
            rest = behind;
        }
        ensure!(rest == self.wire.around().reply_tail, "the batch ends with {:?}", shown(rest));
        Ok(())
    }

    /// What stands behind the reply to a read that found nothing, if that is the first reply.
    fn missed<'r>(&self, verb: Verb, replies: &'r [u8]) -> Option<&'r [u8]> {
        if self.plan.misses && verb == Verb::Get { replies.strip_prefix(self.wire.missed()) } else { None }
    }
}

impl Connection {
    fn send(&mut self) -> anyhow::Result<()> {
        let mut unsent = &self.output[..];
        while !unsent.is_empty() {
            match self.socket.write(unsent) {
                Ok(count) => unsent = &unsent[count..],
                // A batch fits the socket's buffers unless it is huge; then waiting here holds up the other
                // connections, which costs speed but not truth.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    system::wait_writable(&self.socket, SILENCE_MAX).context("the server does not read")?;
                }
                Err(error) => return Err(error).context("cannot send to the server"),
            }
        }
        Ok(())
    }

    /// Whether the replies of the whole batch are there.
    fn receive(&mut self, generator: &Generator<'_>) -> anyhow::Result<bool> {
        match self.socket.read(&mut self.input[self.filled..]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("cannot read from the server"),
        }
        if self.filled >= self.reply_bytes {
            return Ok(true);
        }
        // A miss or an error is shorter than the reply it stands for: without this look the rest would be awaited for ever.
        let mut start = 0;
        for &(verb, number) in &self.asked {
            let reply = &self.input[start.min(self.filled)..self.filled];
            if generator.missed(verb, reply).is_some() {
                start += generator.wire.missed().len();
                continue;
            }
            if generator.plan.misses && generator.wire.missed().starts_with(reply) {
                return Ok(false);
            }
            if !generator.wire.may_become_reply(verb, reply) {
                bail!("wrong reply to {verb:?} of key {number}: {:?}", shown(reply));
            }
            start += generator.wire.reply_len(verb);
        }
        Ok(start + generator.wire.around().reply_tail.len() <= self.filled)
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(120)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Protocol, Shape};
    use std::net::TcpListener;

    /// Runs the generator for two keys against a server that answers every read with `reply`.
    fn run_against(reply: &'static [u8]) -> anyhow::Result<u64> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            let Ok((mut socket, _)) = listener.accept() else { return };
            let mut input = [0; 4096];
            while matches!(socket.read(&mut input), Ok(1..)) && socket.write_all(reply).is_ok() {}
        });
        let shape = Shape { prefix: "key:".into(), key_bytes: 16, value_bytes: 16 };
        let plan = Plan {
            address,
            wire: Wire::new(Protocol::Resp, &shape),
            get_percent: 100,
            pipeline: 2,
            connections: 1,
            keys: 1,
            distribution: Distribution::Hot,
            canned: false,
            misses: false,
            seed: 1,
        };
        let progress = Progress::default();
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| run(&plan, &progress));
            while progress.operations.load(Ordering::Relaxed) < 1000 && !runner.is_finished() {
                std::thread::yield_now();
            }
            progress.stop.store(true, Ordering::Relaxed);
            runner.join().expect("the generator does not panic")
        })?;
        Ok(progress.operations.load(Ordering::Relaxed))
    }

    #[test]
    fn right_replies_count() {
        let reply = b"$16\r\nkey:000000000000\r\n$16\r\nkey:000000000000\r\n";
        assert!(run_against(reply).expect("right replies") >= 1000);
    }

    #[test]
    fn a_wrong_byte_a_miss_and_a_reply_too_many_end_the_run() {
        let wrong: [&[u8]; 3] = [
            b"$16\r\nkey:000000000000\r\n$16\r\nkey:000000000001\r\n",
            b"$16\r\nkey:000000000000\r\n$-1\r\n",
            b"$16\r\nkey:000000000000\r\n$16\r\nkey:000000000000\r\n+OK\r\n",
        ];
        for reply in wrong {
            assert!(run_against(reply).is_err(), "{}", reply.escape_ascii());
        }
    }
}
