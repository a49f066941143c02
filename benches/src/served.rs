//! A Leasehold in front of a database, for the benches of loaders: started with a configuration of its own, and asked for its counters.

use crate::system;
use anyhow::{Context as _, ensure};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_PATIENCE: Duration = Duration::from_secs(30);
const REPLY_PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a server.
pub type Socket = BufReader<TcpStream>;

/// A running server. Ends with the value, and its configuration file with it.
#[derive(Debug)]
pub struct Served {
    process: Child,
    address: SocketAddr,
    conf: PathBuf,
}

impl Served {
    /// Writes the configuration to a file in `folder`, starts `program` with it and waits until it listens.
    ///
    /// # Errors
    /// The file cannot be written, or the server does not start.
    pub fn start(program: &Path, folder: &Path, text: &str) -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Self::start_at(program, folder, text, address.port())
    }

    /// As [`Served::start`], on a port that others know.
    ///
    /// # Errors
    /// As there.
    pub fn start_at(program: &Path, folder: &Path, text: &str, port: u16) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let port = port.to_string();
        let conf = folder.join(format!("leasehold-{port}.toml"));
        std::fs::write(&conf, text)?;
        let mut command = Command::new(program);
        command.arg("--conf").arg(&conf).arg("--port").arg(port).stdout(Stdio::null());
        system::die_with_parent(&mut command);
        let process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut served = Self { process, address, conf };
        let patience = Instant::now() + START_PATIENCE;
        while TcpStream::connect(address).is_err() {
            ensure!(served.process.try_wait()?.is_none(), "the server has ended");
            ensure!(Instant::now() < patience, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(served)
    }

    /// A new connection.
    ///
    /// # Errors
    /// Of the system.
    pub fn connect(&self) -> anyhow::Result<Socket> {
        connect(self.address)
    }

    /// CPU time used so far in ns.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        Ok(system::process_cpu_ns(self.process.id())?)
    }

    /// See [`counter`].
    ///
    /// # Errors
    /// As there.
    pub fn counter(&self, loader: &str, name: &str) -> anyhow::Result<i64> {
        counter(self.address, loader, name)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.conf);
    }
}

fn connect(address: SocketAddr) -> anyhow::Result<Socket> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(REPLY_PATIENCE))?;
    Ok(BufReader::new(socket))
}

/// A number that `LOADER STATS` says of a loader.
///
/// # Errors
/// The server does not answer, or knows no such loader or number.
pub fn counter(address: SocketAddr, loader: &str, name: &str) -> anyhow::Result<i64> {
    let mut socket = connect(address)?;
    socket.get_mut().write_all(format!("LOADER STATS {loader}\r\n").as_bytes())?;
    let head = read_line(&mut socket)?;
    let count: usize = head.strip_prefix('*').and_then(|count| count.parse().ok()).context(head)?;
    let fields = (0..count).map(|_| read_field(&mut socket)).collect::<anyhow::Result<Vec<_>>>()?;
    let pair = fields.chunks_exact(2).find(|pair| pair[0] == name);
    pair.and_then(|pair| pair[1].parse().ok()).with_context(|| format!("there is no counter {name}"))
}

/// A line without its end.
///
/// # Errors
/// Of the connection.
pub fn read_line(socket: &mut Socket) -> anyhow::Result<String> {
    let mut line = String::new();
    socket.read_line(&mut line)?;
    line.truncate(line.trim_end().len());
    Ok(line)
}

/// A text.
///
/// # Errors
/// Of the connection, or the reply is none.
pub fn read_bulk(socket: &mut Socket) -> anyhow::Result<String> {
    let line = read_line(socket)?;
    let len = line.strip_prefix('$').and_then(|len| len.parse().ok());
    read_text(socket, len.with_context(|| format!("not a value: {line}"))?)
}

/// A number, or a text.
fn read_field(socket: &mut Socket) -> anyhow::Result<String> {
    let line = read_line(socket)?;
    match line.strip_prefix('$') {
        Some(len) => read_text(socket, len.parse()?),
        None => Ok(line.trim_start_matches([':', '+']).to_owned()),
    }
}

fn read_text(socket: &mut Socket, len: usize) -> anyhow::Result<String> {
    let mut bytes = vec![0; len + 2];
    socket.read_exact(&mut bytes)?;
    bytes.truncate(len);
    Ok(String::from_utf8(bytes)?)
}
