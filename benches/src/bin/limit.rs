//! The floor: an epoll server that answers every request with the same prepared bytes.
//!
//! It shows what reading requests from and writing replies to the kernel's TCP costs on this machine, and nothing else: no
//! parsing beyond finding where a request ends, no keys, no memory. Requests of a workload have a known length, told apart
//! by one byte (`*2` is a GET, `*3` a SET; `g`, `m` and `s` begin those of memcached's clients), so the scan is one load and one addition per request. One `read`, one
//! `write` per turn and connection, as the servers it is compared with. Not a server for anything else: what does not
//! look like the workload closes the connection.

use anyhow::{Context as _, bail};
use clap::Parser;
use leasehold_benches::system::{self, Epoll};
use leasehold_benches::wire::{Protocol, Reads, Shape, Verb, Wire};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// The floor of kernel TCP: answers canned replies.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    port: u16,
    #[arg(long, value_parser = ["resp", "memcached"], default_value = "resp")]
    protocol: String,
    #[arg(long, default_value = "key:")]
    prefix: String,
    #[arg(long, default_value_t = 32)]
    key_bytes: usize,
    #[arg(long, default_value_t = 32)]
    value_bytes: usize,
    /// Keys in each `get` of a memcached client.
    #[arg(long)]
    joined: Option<usize>,
}

/// Requests of one kind.
struct Kind {
    /// The byte at `Canned::mark_at` that tells this kind.
    mark: u8,
    request_len: usize,
    reply_len: usize,
    /// The reply, `RUN` times in a row: a run of equal requests is answered by one slice.
    replies: Vec<u8>,
}

struct Canned {
    mark_at: usize,
    kinds: Vec<Kind>,
}

/// Equal replies kept in a row.
const RUN: usize = 256;
/// A read takes this much at most.
const INPUT_BYTES: usize = 256 * 1024;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let canned = Canned::new(&arguments);
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).context("the port is taken")?;
    listener.set_nonblocking(true)?;
    serve(&listener, &canned)
}

const LISTENER: usize = usize::MAX;

fn serve(listener: &TcpListener, canned: &Canned) -> anyhow::Result<()> {
    let mut epoll = Epoll::new()?;
    epoll.add(listener, LISTENER)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut mixed = Vec::new();
    loop {
        let count = epoll.wait(-1)?;
        for event in 0..count {
            let index = epoll.ready(event);
            if index == LISTENER {
                let (socket, _) = listener.accept()?;
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
                let index = connections.iter().position(Option::is_none).unwrap_or(connections.len());
                epoll.add(&socket, index)?;
                let connection = Some(Connection { socket, input: vec![0; INPUT_BYTES], filled: 0 });
                if index == connections.len() {
                    connections.push(connection);
                } else {
                    connections[index] = connection;
                }
            } else if let Some(connection) = &mut connections[index]
                && connection.turn(canned, &mut mixed).is_err()
            {
                connections[index] = None;
            }
        }
    }
}

struct Connection {
    socket: TcpStream,
    input: Vec<u8>,
    /// Bytes of a request that is not whole yet.
    filled: usize,
}

impl Connection {
    fn turn(&mut self, canned: &Canned, mixed: &mut Vec<u8>) -> anyhow::Result<()> {
        match self.socket.read(&mut self.input[self.filled..]) {
            Ok(0) => bail!("closed"),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let (consumed, replies) = canned.answer(&self.input[..self.filled], mixed)?;
        write_all(&mut self.socket, replies)?;
        self.input.copy_within(consumed..self.filled, 0);
        self.filled -= consumed;
        Ok(())
    }
}

impl Canned {
    fn new(arguments: &Arguments) -> Self {
        let (protocol, mark_at, kinds): (_, _, &[_]) = match arguments.protocol.as_str() {
            "resp" => (Protocol::Resp, 1, &[(b'2', Verb::Get, Reads::Get), (b'3', Verb::Set, Reads::Get)]),
            _ => {
                let reads = if arguments.joined.is_some() { Reads::Joined } else { Reads::Get };
                let meta = (b'm', Verb::Get, Reads::Meta);
                (Protocol::Memcached, 0, &[(b'g', Verb::Get, reads), (b's', Verb::Set, Reads::Get), meta])
            }
        };
        let shape = Shape {
            prefix: arguments.prefix.clone(),
            key_bytes: arguments.key_bytes,
            value_bytes: arguments.value_bytes,
        };
        let kind = |&(mark, verb, reads): &(u8, Verb, Reads)| {
            let mut wire = Wire::with_reads(protocol, &shape, reads);
            let keys = if reads == Reads::Joined { arguments.joined.unwrap_or(1) } else { 1 };
            let around = wire.around();
            let mut reply = wire.expected_reply(verb, 0).repeat(keys);
            reply.extend_from_slice(around.reply_tail);
            Kind {
                mark,
                request_len: around.head.len() + wire.request_len(verb) * keys + around.tail.len(),
                reply_len: reply.len(),
                replies: reply.repeat(RUN),
            }
        };
        Self { mark_at, kinds: kinds.iter().map(kind).collect() }
    }

    /// Bytes of whole requests, and their replies: of one kind from the prepared run, else copied together.
    fn answer<'a>(&'a self, input: &[u8], mixed: &'a mut Vec<u8>) -> anyhow::Result<(usize, &'a [u8])> {
        let mut consumed = 0;
        let mut runs = 0;
        let mut last: &[u8] = &[];
        mixed.clear();
        while let Some(&mark) = input.get(consumed + self.mark_at) {
            let Some(kind) = self.kinds.iter().find(|kind| kind.mark == mark) else { bail!("not the workload's") };
            let start = consumed;
            while consumed - start < RUN * kind.request_len
                && input.get(consumed + self.mark_at) == Some(&mark)
                && input.len() - consumed >= kind.request_len
            {
                consumed += kind.request_len;
            }
            if start == consumed {
                break;
            }
            mixed.extend_from_slice(last);
            last = &kind.replies[..(consumed - start) / kind.request_len * kind.reply_len];
            runs += 1;
        }
        if runs <= 1 {
            return Ok((consumed, last));
        }
        mixed.extend_from_slice(last);
        Ok((consumed, mixed))
    }
}

fn write_all(socket: &mut TcpStream, mut bytes: &[u8]) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                system::wait_writable(socket, Duration::from_secs(5))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
