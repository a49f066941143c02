//! A raw client: sends bytes, reads one reply at a time. Blocking, with a time limit on every read.

use crate::reply::{Value, decode};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// How long a test waits for a reply before it calls the server hung.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    consumed: usize,
}

/// Why no reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {
    /// Nothing in the time given.
    Timeout,
    /// The server closed the connection.
    Closed,
}

impl Client {
    /// Connects to a server on this machine; RESP2 until [`Client::hello`].
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts connections");
        Self::over(stream)
    }

    /// Speaks over a connection that exists already.
    ///
    /// # Panics
    /// If the socket is broken.
    #[must_use]
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket has nodelay");
        Self { stream, input: Vec::new(), consumed: 0 }
    }

    /// Switches to RESP `version`, 2 or 3.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn hello(&mut self, version: u8) {
        let reply = self.command(&["HELLO", &version.to_string()]);
        assert!(!matches!(reply, Value::Error(_)), "HELLO {version}: {reply}");
    }

    /// The socket, for tests of its limits.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the server closed the connection.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends one request and waits for nothing.
    pub fn send<A: AsRef<[u8]>>(&mut self, argv: &[A]) {
        self.send_raw(&request(argv));
    }

    /// The next reply.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`], or bytes that are none.
    pub fn receive(&mut self) -> Value {
        match self.receive_within(PATIENCE) {
            Ok(value) => value,
            Err(why) => panic!("no reply: {why:?}"),
        }
    }

    /// The next reply, if it comes in time. Zero: only what has arrived already.
    ///
    /// # Errors
    /// [`NoReply`].
    ///
    /// # Panics
    /// On bytes that are no reply.
    pub fn receive_within(&mut self, patience: Duration) -> Result<Value, NoReply> {
        let bytes = self.receive_bytes_within(patience)?;
        let (value, _) = decode(&bytes).expect("checked").expect("whole");
        Ok(value)
    }

    /// The bytes of the next reply, if it comes in time.
    ///
    /// # Errors
    /// [`NoReply`].
    ///
    /// # Panics
    /// On bytes that are no reply.
    pub fn receive_bytes_within(&mut self, patience: Duration) -> Result<Vec<u8>, NoReply> {
        let deadline = Instant::now() + patience;
        loop {
            match decode(&self.input[self.consumed..]) {
                Ok(Some((_, len))) => {
                    let bytes = self.input[self.consumed..self.consumed + len].to_vec();
                    self.consumed += len;
                    if self.consumed == self.input.len() {
                        self.input.clear();
                        self.consumed = 0;
                    }
                    return Ok(bytes);
                }
                Ok(None) => {}
                Err(malformed) => panic!("{malformed:?} in {}", crate::reply::Quoted(&self.input[self.consumed..])),
            }
            self.read_more(deadline)?;
        }
    }

    /// Sends a request and waits for its reply.
    pub fn command<A: AsRef<[u8]>>(&mut self, argv: &[A]) -> Value {
        self.send(argv);
        self.receive()
    }

    /// A number of INFO.
    ///
    /// # Panics
    /// If there is no such field, or it is no number.
    pub fn info(&mut self, field: &str) -> u64 {
        let text = self.command(&["INFO"]).text();
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("INFO has no number {field}"))
    }

    /// A counter of `LOADER STATS` of one loader.
    ///
    /// # Panics
    /// If there is no such loader or counter.
    pub fn loader_counter(&mut self, loader: &str, counter: &str) -> i64 {
        let reply = self.command(&["LOADER", "STATS", loader]);
        let pair = reply.elements().chunks(2).find(|pair| pair[0].text() == counter);
        pair.unwrap_or_else(|| panic!("loader {loader} has no counter {counter}"))[1].integer()
    }

    /// A counter of `FEED STATS` of one feed.
    ///
    /// # Panics
    /// If there is no such feed or counter.
    pub fn feed_counter(&mut self, feed: &str, counter: &str) -> i64 {
        let reply = self.command(&["FEED", "STATS", feed]);
        let pair = reply.elements().chunks(2).find(|pair| pair[0].text() == counter);
        pair.unwrap_or_else(|| panic!("feed {feed} has no counter {counter}"))[1].integer()
    }

    /// A field of `FEED LIST` of the only feed.
    ///
    /// # Panics
    /// If there is no feed, or no such field.
    pub fn feed_field(&mut self, field: &str) -> String {
        let reply = self.command(&["FEED", "LIST"]);
        let pair = reply.elements()[0].elements().chunks(2).find(|pair| pair[0].text() == field);
        pair.unwrap_or_else(|| panic!("the feed has no field {field}"))[1].text()
    }

    /// Whether the server closes the connection within [`PATIENCE`]; replies before that are dropped.
    pub fn is_closed_by_server(&mut self) -> bool {
        loop {
            match self.receive_within(PATIENCE) {
                Ok(_) => {}
                Err(NoReply::Closed) => return true,
                Err(NoReply::Timeout) => return false,
            }
        }
    }

    /// Hangs up.
    pub fn close(self) {
        // The peer may have closed first; there is nobody to tell.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn read_more(&mut self, deadline: Instant) -> Result<(), NoReply> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.stream.set_nonblocking(true).expect("the socket is open");
        } else {
            self.stream.set_read_timeout(Some(left)).expect("the time is not zero");
        }
        let mut chunk = [0; 64 * 1024];
        let read = self.stream.read(&mut chunk);
        if left.is_zero() {
            self.stream.set_nonblocking(false).expect("the socket is open");
        }
        match read {
            Ok(0) => Err(NoReply::Closed),
            Ok(len) => {
                self.input.extend_from_slice(&chunk[..len]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(NoReply::Timeout),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(NoReply::Closed),
                ErrorKind::Interrupted => Ok(()),
                _ => panic!("reading a reply: {error}"),
            },
        }
    }
}

/// A request as an array of bulk strings.
#[must_use]
pub fn request<A: AsRef<[u8]>>(argv: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", argv.len()).into_bytes();
    for argument in argv {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
