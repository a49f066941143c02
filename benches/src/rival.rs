//! A server under measurement: started, pinned, filled, watched, ended.
//!
//! Places in a rival's commands: `{bin}` the folder of this program, `{port}`, `{port_beside}` that of the server beside it,
//! `{threads}`, `{dir}` a folder of its own, where its `files` are, `{protocol}`, `{prefix}`, `{key_bytes}`, `{value_bytes}`.

use crate::preload::preload;
use crate::system;
use crate::wire::{Protocol, Shape};
use crate::workload::Rival;
use anyhow::{Context as _, bail};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server must answer this long after its start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server; dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    /// See [`Rival::beside`].
    beside: Option<Box<Server>>,
    folder: PathBuf,
}

/// Why a rival is left out.
#[derive(Debug)]
pub enum StartError {
    /// The program is not on this machine: the lane is skipped.
    Missing(String),
    /// It is there and does not work: the bench ends.
    Failed(anyhow::Error),
}

impl Server {
    /// Starts `rival` on these cores and stores the keys.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(rival: &Rival, threads: usize, cores: &[usize], shape: &Shape, keys: u64) -> Result<Self, StartError> {
        let [port, port_beside] = free_ports().map_err(|error| StartError::Failed(error.into()))?;
        let folder = std::env::temp_dir().join(format!("leasehold-bench-{}-{}-{port}", std::process::id(), rival.name));
        let fill = |text: &str| {
            let bin = program_folder();
            text.replace("{bin}", &bin.to_string_lossy())
                .replace("{port}", &port.to_string())
                .replace("{port_beside}", &port_beside.to_string())
                .replace("{threads}", &threads.to_string())
                .replace("{dir}", &folder.to_string_lossy())
                .replace(
                    "{protocol}",
                    match rival.protocol {
                        Protocol::Resp => "resp",
                        Protocol::Memcached => "memcached",
                    },
                )
                .replace("{prefix}", &shape.prefix)
                .replace("{key_bytes}", &shape.key_bytes.to_string())
                .replace("{value_bytes}", &shape.value_bytes.to_string())
        };
        let files: Vec<_> = rival.files.iter().map(|(name, text)| (name.as_str(), fill(text))).collect();
        fs::create_dir_all(&folder).map_err(|error| StartError::Failed(error.into()))?;
        for (name, text) in files {
            fs::write(folder.join(name), text).map_err(|error| StartError::Failed(error.into()))?;
        }
        let argv = |command: &[String]| command.iter().map(|word| fill(word)).collect::<Vec<_>>();
        let mut server = Self::spawn(&argv(&rival.command), &folder, port, cores)?;
        if !rival.beside.is_empty() {
            let mut beside = Self::spawn(&argv(&rival.beside), &folder.join("beside"), port_beside, cores)?;
            beside.connect_until_timeout().map_err(StartError::Failed)?;
            server.beside = Some(Box::new(beside));
        }
        server.make_ready(rival, shape, keys).map_err(StartError::Failed)?;
        Ok(server)
    }

    fn spawn(argv: &[String], folder: &Path, port: u16, cores: &[usize]) -> Result<Self, StartError> {
        let failed = |error: std::io::Error| StartError::Failed(error.into());
        let (program, arguments) = argv.split_first().ok_or_else(|| StartError::Missing("an empty command".into()))?;
        fs::create_dir_all(folder).map_err(failed)?;
        let log = File::create(folder.join("log")).map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        system::die_with_parent(&mut command);
        // A child runs where its parent's thread ran, and so do all the child's threads.
        let everywhere = all_cores();
        system::pin_current_thread(cores).map_err(failed)?;
        let child = command.spawn();
        system::pin_current_thread(&everywhere).map_err(failed)?;
        match child {
            Ok(child) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                Ok(Self { address, child, beside: None, folder: folder.to_owned() })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let _ = fs::remove_dir_all(folder);
                Err(StartError::Missing(format!("{program} is not installed")))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn make_ready(&mut self, rival: &Rival, shape: &Shape, keys: u64) -> anyhow::Result<()> {
        self.await_answer(rival)
            .and_then(|()| preload(rival.preload, self.address, rival.protocol, shape, keys))
            .with_context(|| {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let tail =
                    log.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
                format!("{} does not serve; the end of its log:\n{tail}\n", rival.name)
            })
    }

    fn await_answer(&mut self, rival: &Rival) -> anyhow::Result<()> {
        if rival.canned {
            return self.connect_until_timeout().map(drop);
        }
        let (question, answer): (&[u8], &[u8]) = match rival.protocol {
            Protocol::Resp => (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
            Protocol::Memcached => (b"version\r\n", b"VERSION "),
        };
        let mut socket = self.connect_until_timeout()?;
        socket.set_read_timeout(Some(START_TIMEOUT))?;
        socket.write_all(question)?;
        let mut bytes = vec![0; answer.len()];
        socket.read_exact(&mut bytes)?;
        if bytes != answer {
            bail!("answered {:?}", bytes.escape_ascii().to_string());
        }
        Ok(())
    }

    fn connect_until_timeout(&mut self) -> anyhow::Result<TcpStream> {
        let started = Instant::now();
        loop {
            match TcpStream::connect(self.address) {
                Ok(socket) => return Ok(socket),
                Err(error) if started.elapsed() > START_TIMEOUT => return Err(error).context("does not listen"),
                Err(_) => {
                    if let Some(status) = self.child.try_wait()? {
                        bail!("ended at once: {status}");
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    /// CPU time used so far in ns, that of the server beside it included.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        let beside = self.beside.as_ref().map_or(Ok(0), |beside| beside.cpu_ns())?;
        Ok(system::process_cpu_ns(self.child.id()).context("the server is gone")? + beside)
    }

    /// Resident memory in bytes, for the record; that of the server beside it included.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let beside = self.beside.as_ref().map_or(Ok(0), |beside| beside.resident_bytes())?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024 + beside)
    }

    /// Process id, for profilers.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What the rival says its version is, in one line.
#[must_use]
pub fn version(rival: &Rival) -> Option<String> {
    let bin = program_folder();
    let words: Vec<String> = rival.version.iter().map(|word| word.replace("{bin}", &bin.to_string_lossy())).collect();
    let (program, arguments) = words.split_first()?;
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}

/// The folder this program was built into: ours lie beside it.
#[must_use]
pub fn program_folder() -> PathBuf {
    std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default()
}

/// Every core this machine has, by number.
#[must_use]
pub fn all_cores() -> Vec<usize> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    parse_cores(online.trim()).unwrap_or_else(|_| vec![0])
}

/// `0-3,6` as numbers.
///
/// # Errors
/// The text is no such list.
pub fn parse_cores(text: &str) -> anyhow::Result<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.trim().parse::<usize>()?..=last.trim().parse::<usize>()?);
    }
    Ok(cores)
}

/// Two ports that nobody has.
fn free_ports() -> std::io::Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (one, other) = (bind()?, bind()?);
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}
