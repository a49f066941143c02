//! The server under test: the real binary, built once per test process, one process per test.

use crate::client::Client;
use crate::memcached::Memcached;
use crate::process::{Directory, Process, free_port, listens};
use crate::watch::{holds_in_time, until};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

/// A running server. Ends with the value; a server that ended by itself fails the test.
#[derive(Debug)]
pub struct Server {
    process: Process,
    memcached_port: u16,
    directory: Directory,
}

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    conf: Option<String>,
    settings: Vec<(String, String)>,
    arguments: Vec<String>,
    with_memcached: bool,
    port: Option<u16>,
    environment: Vec<(String, String)>,
}

/// The port was taken between its choice and its use; more than a few times in a row is no accident.
const START_ATTEMPTS_MAX: usize = 3;
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(20);

impl Server {
    /// A server with two threads, and defaults for everything else.
    #[must_use]
    pub fn start() -> Self {
        Self::options().start()
    }

    /// Options of a server to be started.
    #[must_use]
    pub fn options() -> ServerOptions {
        ServerOptions::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.process.port()
    }

    /// Where it listens for memcached's clients; 0 without [`ServerOptions::memcached`].
    #[must_use]
    pub fn memcached_port(&self) -> u16 {
        self.memcached_port
    }

    /// A new connection to the memcached port.
    #[must_use]
    pub fn memcached(&self) -> Memcached {
        Memcached::connect(self.memcached_port)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A directory that lives as long as the server; its conf lies there as `leasehold.toml`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new connection, RESP2.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.port())
    }

    /// What the server has written to stdout and stderr.
    #[must_use]
    pub fn logs(&self) -> String {
        self.process.output()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// SIGSTOP: the process hangs, its sockets stay. Returns when it does.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// SIGTERM; the status it ends with, `None` if it had to be killed.
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        self.process.terminate(STOP_PATIENCE)
    }

    /// The status it ends with by itself; `None` if it does not.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        self.process.wait(STOP_PATIENCE)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

impl ServerOptions {
    /// The text of the conf.
    #[must_use]
    pub fn conf(mut self, text: impl Into<String>) -> Self {
        self.conf = Some(text.into());
        self
    }

    /// `--set name=value`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// With a port for memcached's clients.
    #[must_use]
    pub fn memcached(mut self) -> Self {
        self.with_memcached = true;
        self
    }

    /// On this port of [`free_port`], which others must know before the server starts.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// One more argument on the command line.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(&self) -> Server {
        let mut failure = String::new();
        for _ in 0..START_ATTEMPTS_MAX {
            let directory = Directory::new();
            let port = self.port.unwrap_or_else(free_port);
            let memcached_port = if self.with_memcached { free_port() } else { 0 };
            let mut command = self.command(&directory, port);
            if self.with_memcached {
                command.arg("--set").arg(format!("memcached-port={memcached_port}"));
            }
            match Process::start(command, port, START_PATIENCE) {
                Ok(process) => {
                    if self.with_memcached {
                        let listens = || listens(process.pid(), memcached_port);
                        until("the server listens for memcached's clients, too", listens);
                    }
                    return Server { process, memcached_port, directory };
                }
                Err(failed) => failure = format!("status {:?}\n{}", failed.status, failed.output),
            }
        }
        panic!("the server does not start: {failure}");
    }

    /// Runs the binary to its end with these options, without waiting for it to listen: for `--check-config` and for
    /// starts that must fail. Status, and stdout and stderr.
    ///
    /// # Panics
    /// If the binary cannot be run, or goes on running.
    #[must_use]
    pub fn run_to_end(&self) -> (ExitStatus, String) {
        let directory = Directory::new();
        let path = directory.path().join("output");
        let file = || File::options().create(true).append(true).open(&path).expect("the directory is ours");
        let mut command = self.command(&directory, free_port());
        let mut child = command.stdout(file()).stderr(file()).spawn().expect("the binary can be run");
        let mut status = None;
        let has_ended = holds_in_time(|| {
            status = child.try_wait().expect("it is our child");
            status.is_some()
        });
        if !has_ended {
            // Who does not listen to this cannot be helped; the panic says what matters.
            let _ = child.kill();
            let _ = child.wait();
        }
        let output = String::from_utf8_lossy(&std::fs::read(&path).expect("it was made above")).into_owned();
        (status.unwrap_or_else(|| panic!("it goes on running:\n{output}")), output)
    }

    fn command(&self, directory: &Directory, port: u16) -> Command {
        let mut command = Command::new(binary());
        command.current_dir(directory.path()).arg("--port").arg(port.to_string());
        if let Some(text) = &self.conf {
            let path = directory.path().join("leasehold.toml");
            std::fs::write(&path, text).expect("the directory is ours");
            command.arg("--conf").arg(path);
        }
        if !self.settings.iter().any(|(name, _)| name == "threads") {
            command.arg("--threads").arg("2");
        }
        for (name, value) in &self.settings {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Where the binary is: `LEASEHOLD_BIN`, or built here in the profile that this test was built in.
///
/// # Panics
/// If it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("LEASEHOLD_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    // target/PROFILE/deps/TEST-HASH
    let profile_directory = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The features of the whole workspace, as `cargo test --workspace` has them: nothing is built twice.
    command.current_dir(workspace()).args(["build", "--quiet", "--workspace", "--bin", "leasehold"]);
    // Cargo tells a test of its package; build scripts (ring's) look at the same variables, and would run again for each test.
    for (name, _) in std::env::vars_os() {
        let is_of_package = name.to_str().is_some_and(|name| {
            ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if is_of_package {
            command.env_remove(name);
        }
    }
    if profile_directory.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "the server does not build");
    let binary = profile_directory.join("leasehold");
    assert!(binary.is_file(), "no binary at {}", binary.display());
    binary
}

/// The root of the workspace.
///
/// # Panics
/// If this crate was moved.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}
