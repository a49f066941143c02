//! memcached's text protocol for tests: a raw client, and memcached as the reference: the one that is installed, or the one that the
//! environment variable `LEASEHOLD_MEMCACHED` names (`tests/memcached` gets the newest).

use crate::client::PATIENCE;
use crate::groups;
use crate::process::{Process, free_port};
use crate::reply::Quoted;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// One connection. Replies have no common frame, so a test says where what it waits for ends.
#[derive(Debug)]
pub struct Memcached {
    stream: TcpStream,
    input: Vec<u8>,
}

/// Why not everything came that was waited for, and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// Nothing more in the time given.
    Timeout(Vec<u8>),
    /// The server closed the connection.
    Closed(Vec<u8>),
}

impl Memcached {
    /// Connects to a server on this machine.
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
        Self { stream, input: Vec::new() }
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
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends requests and returns the bytes of all replies: those before the answer to a `version` that is sent behind.
    ///
    /// # Panics
    /// If they do not come in time, or the server closes the connection.
    pub fn ask(&mut self, requests: impl AsRef<[u8]>) -> String {
        let requests = requests.as_ref();
        self.send([requests, b"version\r\n"].concat());
        match self.receive_while(|bytes| version_line_start(bytes).is_none()) {
            Ok(mut bytes) => {
                bytes.truncate(version_line_start(&bytes).expect("waited for"));
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Err(why) => panic!("no whole answer to {}: {why:?}", Quoted(&requests[..requests.len().min(200)])),
        }
    }

    /// The bytes up to the first reply that is this line, and the line.
    ///
    /// # Panics
    /// If it does not come in time, or the server closes the connection.
    pub fn receive_until(&mut self, end: &str) -> String {
        let bytes = self.receive_while(|bytes| !bytes.ends_with(end.as_bytes()));
        String::from_utf8_lossy(&bytes.unwrap_or_else(|why| panic!("no {end:?}: {why:?}"))).into_owned()
    }

    /// What arrives as long as it is too little.
    ///
    /// # Errors
    /// [`Incomplete`], with what arrived.
    pub fn receive_while(&mut self, is_too_little: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Incomplete> {
        let deadline = Instant::now() + PATIENCE;
        while is_too_little(&self.input) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Incomplete::Timeout(std::mem::take(&mut self.input)));
            }
            if self.read_within(left) == Some(0) {
                return Err(Incomplete::Closed(std::mem::take(&mut self.input)));
            }
        }
        Ok(std::mem::take(&mut self.input))
    }

    /// What the server still sends before it closes the connection.
    ///
    /// # Panics
    /// If it does not close it.
    pub fn receive_to_end(&mut self) -> String {
        match self.receive_while(|_| true) {
            Err(Incomplete::Closed(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            other => panic!("the connection goes on: {other:?}"),
        }
    }

    /// Says that nothing more will be sent.
    ///
    /// # Panics
    /// If the server closed the connection.
    pub fn end_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("it is open");
    }

    /// How many bytes came: 0 for the end of the connection, `None` for nothing in time.
    fn read_within(&mut self, patience: Duration) -> Option<usize> {
        self.stream.set_read_timeout(Some(patience)).expect("the time is not zero");
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(len) => {
                self.input.extend_from_slice(&chunk[..len]);
                Some(len)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => None,
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Some(0),
                _ => panic!("reading a reply: {error}"),
            },
        }
    }
}

/// Where the line of the version starts, if that is the last one and it is whole.
fn version_line_start(bytes: &[u8]) -> Option<usize> {
    let line = bytes.strip_suffix(b"\r\n")?;
    let start = line.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    line[start..].starts_with(b"VERSION ").then_some(start)
}

/// Names a memcached.
const MEMCACHED: &str = "LEASEHOLD_MEMCACHED";

/// A running memcached.
#[derive(Debug)]
pub struct MemcachedServer {
    process: Process,
    version: [u64; 3],
}

impl MemcachedServer {
    /// Starts one; `None`, and `group` is left out, if it is not installed.
    ///
    /// # Panics
    /// If it is installed and does not start, or everything must run and it is missing.
    #[must_use]
    pub fn start_for(group: &str) -> Option<Self> {
        let program = match std::env::var_os(MEMCACHED) {
            Some(path) => PathBuf::from(path),
            None => groups::program_for(group, "memcached")?,
        };
        for _ in 0..3 {
            let port = free_port();
            let mut command = Command::new(&program);
            // Root has to name a user; others stay who they are.
            command.args(["-u", "root", "-l", "127.0.0.1", "-t", "2", "-p", &port.to_string()]);
            // Threads in the background hold entries for a moment, and what a command answers may depend on that.
            command.args(["-o", "no_lru_maintainer,no_lru_crawler"]);
            if let Ok(process) = Process::start(command, port, Duration::from_secs(20)) {
                let version = version_at(port);
                return Some(Self { process, version });
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Which one it is: versions compare as arrays.
    #[must_use]
    pub fn version(&self) -> [u64; 3] {
        self.version
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.process.port()
    }

    /// A new connection.
    #[must_use]
    pub fn client(&self) -> Memcached {
        Memcached::connect(self.port())
    }
}

fn version_at(port: u16) -> [u64; 3] {
    let mut client = Memcached::connect(port);
    client.send("version\r\n");
    let line = client.receive_until("\r\n");
    let text = line.trim_end().strip_prefix("VERSION ").unwrap_or_else(|| panic!("{line} is no version"));
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or_else(|_| panic!("{line} is no version")));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}
