//! A server process of a test: started on a port that was free, its output kept, ended by its id.

use crate::watch::until;
use std::collections::HashSet;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A child that listens on a port.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    port: u16,
    output: Arc<Mutex<Vec<u8>>>,
    /// Set once somebody ended the process on purpose.
    ended: bool,
}

/// How a start went wrong.
#[derive(Debug)]
pub struct StartFailed {
    /// What the process wrote.
    pub output: String,
    /// Its exit status, if it ended.
    pub status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, which must listen on `port`, and waits until it does.
    ///
    /// # Errors
    /// [`StartFailed`] if it ends before, or does not listen within `patience`.
    ///
    /// # Panics
    /// If the program cannot be run at all.
    pub fn start(mut command: Command, port: u16, patience: Duration) -> Result<Self, StartFailed> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().expect("stdout is piped"), &output);
        collect(child.stderr.take().expect("stderr is piped"), &output);
        let mut process = Self { child, name, port, output, ended: false };
        let deadline = Instant::now() + patience;
        while !listens(process.pid(), port) {
            let status = process.child.try_wait().expect("the child is ours");
            if status.is_some() || Instant::now() > deadline {
                process.kill();
                // The collectors see the end of the pipes a moment later.
                std::thread::sleep(Duration::from_millis(20));
                return Err(StartFailed { output: process.output(), status });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(process)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written to stdout and stderr so far.
    #[must_use]
    pub fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// SIGTERM, and the status it ends with within `patience`; after that SIGKILL and `None`.
    pub fn terminate(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.ended = true;
        signal(self.pid(), "TERM");
        let status = self.wait(patience);
        if status.is_none() {
            self.kill();
        }
        status
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.ended = true;
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP: the process hangs, its sockets stay. Returns when it does.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
        until("the process stands still", || is_stopped(self.pid()));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// The status it ends with by itself within `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                self.ended = true;
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let crashed = if self.ended { None } else { self.child.try_wait().ok().flatten() };
        self.kill();
        if std::thread::panicking() || crashed.is_some() {
            let output = self.output();
            let tail = output.char_indices().rev().nth(4000).map_or(0, |(index, _)| index);
            crate::groups::say(&format!("--- output of {} on port {}:\n{}---", self.name, self.port, &output[tail..]));
        }
        if let Some(status) = crashed
            && !std::thread::panicking()
        {
            panic!("{} ended by itself during the test: {status}", self.name);
        }
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{name} {pid}");
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(len) = from.read(&mut chunk) {
            if len == 0 {
                break;
            }
            into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..len]);
        }
    });
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    // Behind the name in parentheses comes the state.
    let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    threads.flatten().all(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(is_stopped))
}

/// A port that the system chose and nobody listens on. Handed out once per test process.
///
/// # Panics
/// If the machine has no port left.
#[must_use]
pub fn free_port() -> u16 {
    static HANDED_OUT: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        if HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// Whether process `pid` itself, and not somebody who took the port first, listens on `port`: the kernel's table of
/// sockets names an inode, and the process has it open.
#[must_use]
pub fn listens(pid: u32, port: u16) -> bool {
    const STATE_LISTEN: &str = "0A";
    let mut inodes = HashSet::new();
    for table in ["tcp", "tcp6"] {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..]
                && state == STATE_LISTEN
                && local.rsplit(':').next() == Some(&format!("{port:04X}"))
            {
                inodes.insert(format!("socket:[{inode}]"));
            }
        }
    }
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
        .any(|target| inodes.contains(target.to_string_lossy().as_ref()))
}

/// Raises this process's limit of open files to `wanted`, for itself and for the servers it starts.
///
/// # Errors
/// What the limit is, if the system allows no more.
pub fn allow_open_files(wanted: u64) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let most = maximum.unwrap_or(u64::MAX);
    // Root may raise the hard limit as well.
    let raised = Rlimit { current: Some(wanted), maximum: Some(most.max(wanted)) };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| format!("open files are limited to {most}, {wanted} are needed: {error}"))
}

/// A directory of one test, removed at its end.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new empty directory.
    ///
    /// # Panics
    /// If the system's temporary directory cannot be written.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only uniqueness matters.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("leasehold-tests-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory can be written");
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What stays behind lies in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The server that is running, or one that is started: it ends with the last that has it.
pub fn shared<T>(running: &Mutex<Weak<T>>, start: impl FnOnce() -> Option<T>) -> Option<Arc<T>> {
    // A test that panicked while it started the server leaves nothing here.
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = running.upgrade() {
        return Some(shared);
    }
    let started = Arc::new(start()?);
    *running = Arc::downgrade(&started);
    Some(started)
}
