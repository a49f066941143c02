//! Debian's redis-server, as the reference that replies are compared with.

use crate::client::Client;
use crate::groups;
use crate::process::{Directory, Process, free_port};
use std::process::Command;
use std::time::Duration;

/// A running redis-server without persistence.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    _directory: Directory,
}

impl RedisServer {
    /// Starts one; `None`, and `group` is left out, if it is not installed.
    ///
    /// # Panics
    /// If it is installed and does not start, or everything must run and it is missing.
    #[must_use]
    pub fn start_for(group: &str) -> Option<Self> {
        let program = groups::program_for(group, "redis-server")?;
        for _ in 0..3 {
            let directory = Directory::new();
            let port = free_port();
            let mut command = Command::new(&program);
            command.current_dir(directory.path()).args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]);
            command.args(["--port", &port.to_string()]);
            if let Ok(process) = Process::start(command, port, Duration::from_secs(20)) {
                return Some(Self { process, _directory: directory });
            }
        }
        panic!("redis-server is installed and does not start");
    }

    /// A new connection, RESP2.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.process.port())
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.process.port()
    }
}
