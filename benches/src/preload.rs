//! Puts every key of a workload into a server before it is measured.

use crate::wire::{Protocol, Shape, Verb, Wire};
use anyhow::{Context as _, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How the keys come into the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preload {
    /// Not at all: the server answers without keys.
    Nothing,
    /// Written by SET.
    Set,
    /// Read by MGET, so that the server's own loader fills them.
    Load,
}

/// Requests (or keys of one MGET) sent before their replies are read.
const BATCH: u64 = 500;
/// A load of a batch may take a database its time.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Stores or loads all keys and checks the replies.
///
/// # Errors
/// The server cannot be reached, answers wrongly or not at all.
pub fn preload(
    preload: Preload,
    address: SocketAddr,
    protocol: Protocol,
    shape: &Shape,
    keys: u64,
) -> anyhow::Result<()> {
    if preload == Preload::Nothing {
        return Ok(());
    }
    let mut socket = TcpStream::connect(address).context("cannot connect to the server")?;
    socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
    let mut wire = Wire::new(protocol, shape);
    let (mut output, mut right, mut input) = (Vec::new(), Vec::new(), Vec::new());
    for first in (0..keys).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(keys);
        output.clear();
        right.clear();
        match preload {
            Preload::Load => {
                let count = batch.end - batch.start;
                write!(output, "*{}\r\n$4\r\nMGET\r\n", count + 1)?;
                write!(right, "*{count}\r\n")?;
                for number in batch {
                    output.extend_from_slice(&wire.key_argument(number));
                    right.extend_from_slice(wire.expected_reply(Verb::Get, number));
                }
            }
            Preload::Nothing | Preload::Set => {
                for number in batch {
                    wire.write_request(Verb::Set, number, &mut output);
                    right.extend_from_slice(wire.expected_reply(Verb::Set, number));
                }
            }
        }
        socket.write_all(&output)?;
        input.resize(right.len(), 0);
        let mut filled = 0;
        while filled < input.len() {
            let count = socket.read(&mut input[filled..]).context("no reply while keys were stored")?;
            ensure!(count > 0, "the server closed the connection while keys were stored");
            filled += count;
            ensure!(
                input[..filled] == right[..filled],
                "wrong reply while keys were stored: {:?}",
                input[..filled.min(200)].escape_ascii().to_string()
            );
        }
    }
    Ok(())
}
