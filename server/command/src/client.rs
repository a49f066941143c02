//! The state of one connection that commands read and write.

use core::net::SocketAddr;
use leasehold_keyspace::{Access, Db};

/// A connection as its commands see it. The socket and the buffers belong to the binary.
#[derive(Clone, Debug)]
pub struct Client {
    /// Unique on the node, never reused; `CLIENT ID`.
    pub id: u64,
    /// Reactor thread that owns the connection.
    pub thread: u16,
    /// Chosen by `SELECT`.
    pub db: Db,
    /// Whether it may run every command.
    pub authenticated: bool,
    /// What becomes of its commands on keys of other nodes.
    pub routing: Routing,
    /// What it calls itself. Most idle connections of a pool have said nothing.
    pub names: Option<Box<Names>>,
    /// Address of the peer.
    pub address: SocketAddr,
    /// Our address on this connection.
    pub local_address: SocketAddr,
    /// Which replies are sent.
    pub reply_mode: ReplyMode,
    /// `CLIENT NO-EVICT`.
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH`.
    pub no_touch: bool,
    /// Server time in ms.
    pub connected_at_ms: u64,
    /// Index in the command table of the last command, for `CLIENT LIST`.
    pub last_command: Option<u16>,
    /// Another node owes it the answer to what may be a change.
    pub changes_under_way: bool,
    /// Number of the command under way, counted per connection; part of its [`leasehold_keyspace::Waiter`]s.
    pub ticket: u32,
}

/// What becomes of a command whose keys are another node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// There is no other node.
    Alone,
    /// The client is told that node's address.
    Redirect,
    /// It is sent on.
    Forward,
    /// It is sent on, until the client shows that it finds nodes by itself.
    Auto,
    /// As `Auto`, for a client that has shown it: it is told the address.
    Shown,
    /// It was sent on by another node already, and is told the address: it goes no further.
    Link,
    /// As `Link`, and this node stands in for that of the keys, which does not answer.
    StandIn,
}

impl Routing {
    /// The client knows which node has which slot.
    pub(crate) fn show(&mut self) {
        if *self == Self::Auto {
            *self = Self::Shown;
        }
    }

    /// As for a client just connected.
    pub(crate) fn reset(&mut self) {
        if *self == Self::Shown {
            *self = Self::Auto;
        }
    }
}

/// What a client calls itself; each empty until it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: Vec<u8>,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_version: Vec<u8>,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every reply is sent.
    On,
    /// No reply is sent.
    Off,
    /// The reply to `CLIENT REPLY SKIP` itself is not sent, nor that to the command after it.
    SkipNext,
    /// The command under way is the one to be skipped.
    Skip,
}

impl Client {
    /// A client just connected.
    #[must_use]
    pub fn new(id: u64, thread: u16, address: SocketAddr, local_address: SocketAddr, now_ms: u64) -> Self {
        Self {
            id,
            thread,
            db: Db(0),
            authenticated: false,
            routing: Routing::Alone,
            names: None,
            address,
            local_address,
            reply_mode: ReplyMode::On,
            no_evict: false,
            no_touch: false,
            connected_at_ms: now_ms,
            last_command: None,
            changes_under_way: false,
            ticket: 0,
        }
    }

    /// `CLIENT SETNAME`; empty: none.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.names.as_ref().map_or(&[], |names| &names.name)
    }

    /// For a client that says what it calls itself.
    pub fn names_mut(&mut self) -> &mut Names {
        self.names.get_or_insert_default()
    }

    /// How this client's reads of values count.
    #[inline]
    #[must_use]
    pub fn access(&self) -> Access {
        if self.no_touch { Access::Quiet } else { Access::Touch }
    }
}

/// Whether a client may give itself this name: `CLIENT LIST` must be able to show it on its line.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}
