//! The addresses we listen on, and the acceptor that gives connections to the reactor threads.

use crate::config::{BindAddress, Config};
use crate::front::Protocol;
use crate::mailbox::Message;
use crate::node::Node;
use anyhow::{Context as _, bail};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause after an accept that failed for want of file descriptors or memory: trying at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The reply to one connection too many, as Redis and memcached have it.
fn refusal(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Resp | Protocol::Link => b"-ERR max number of clients reached\r\n",
        Protocol::Memcached => b"ERROR Too many open connections\r\n",
    }
}

/// Probes of a dead peer after the keepalive time, and the share of that time between two of them; as Redis.
const KEEPALIVE_PROBES: u32 = 3;

/// Listens on all addresses of the configuration; `port` is the same on all, also where the system chooses it (0).
///
/// # Errors
/// An address cannot be had that is not optional, or none can.
pub(crate) fn listen(config: &Config, mut port: u16) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for address in &config.bind {
        match listen_on(address, port, config.tcp_backlog) {
            Ok(listener) => {
                port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(error) if address.optional && is_missing_address(&error) => {
                tracing::info!(address = %address.ip, %error, "not listening on an optional address");
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot listen on {}", SocketAddr::new(address.ip, port)));
            }
        }
    }
    if listeners.is_empty() {
        bail!("no address to listen on: see the option bind");
    }
    Ok(listeners)
}

fn listen_on(address: &BindAddress, port: u16, backlog: u32) -> std::io::Result<TcpListener> {
    let address = SocketAddr::new(address.ip, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        // `*` and `::*` are two addresses of their own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Errors of a machine that does not have the address or its family.
fn is_missing_address(error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    const EPROTONOSUPPORT: i32 = 93;
    error.kind() == ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EPROTONOSUPPORT))
}

/// Accepts until dropped, and gives each connection to the thread with the fewest.
pub(crate) async fn accept_all(node: Arc<Node>, listener: tokio::net::TcpListener, protocol: Protocol) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = admit(&node, stream, peer, protocol) {
                    tracing::debug!(%peer, %error, "a connection was gone before it was served");
                }
            }
            Err(error) if is_passing(&error) => tracing::debug!(%error, "accept"),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of one connection that ended in the queue, not of the listener.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

fn admit(node: &Node, stream: tokio::net::TcpStream, peer: SocketAddr, protocol: Protocol) -> std::io::Result<()> {
    let mut stream = stream.into_std()?;
    let live = node.live.live();
    if node.connections() >= live.clients_max {
        node.count_rejected_connection();
        // Best effort, as the socket does not block: a new socket takes so short a text.
        let _ = stream.write(refusal(protocol));
        return Ok(());
    }
    stream.set_nodelay(true)?;
    if let Some(idle) = live.tcp_keepalive {
        let interval = (idle / KEEPALIVE_PROBES).max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    }
    let desk = node.least_loaded();
    // Counted here, not by the thread: the next connection must already see it.
    desk.connections.fetch_add(1, Ordering::Relaxed);
    desk.mailbox.post(Message::Accepted { stream, peer, id: node.next_client_id(), protocol });
    Ok(())
}
