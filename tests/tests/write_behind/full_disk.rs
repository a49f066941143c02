//! A disk of its own for the journal, and a small one: a mount that only the server sees.

use super::{GROUP, HELD_BACK, Setup, error_of, flushed, ok};
use leasehold_tests::process::free_port;
use leasehold_tests::server::binary;
use leasehold_tests::watch::{until, until_some};
use leasehold_tests::{Client, Value, groups};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};

const DISK: &str = "512k";
const VALUE_BYTES: usize = 10_000;
const KEYS: usize = 7;

/// Whether this user may mount, in a namespace of its own.
fn may_mount(directory: &str) -> bool {
    let script = format!("mount -t tmpfs -o size={DISK} tmpfs {directory}");
    let status = Command::new("unshare").args(["--mount", "sh", "-c", &script]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A server on its disk: a shell that mounts the one and starts the other, and again after a kill. Ends with the value.
struct OnDisk {
    shell: Child,
    port: u16,
}

impl OnDisk {
    fn start(setup: &Setup, journal: &str) -> Self {
        std::fs::write(setup.path("leasehold.toml"), setup.conf()).expect("the directory is ours");
        let port = free_port();
        let mount = format!("mount -t tmpfs -o size={DISK} tmpfs {journal}");
        let script = format!("{mount} || exit 1; for start in 1 2 3; do \"$0\" \"$@\"; done");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(binary());
        command.args(["--threads", "2", "--port"]).arg(port.to_string());
        command.arg("--conf").arg(setup.path("leasehold.toml"));
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { shell: quiet.spawn().expect("unshare was run before"), port }
    }

    /// A client, once the server takes one.
    fn client(&self) -> Client {
        until_some("it listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok().map(Client::over))
    }

    /// The server's process id, if it runs.
    fn server(&self) -> Option<String> {
        let shell = self.shell.id();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    }

    /// Kills the server; the shell starts another.
    fn kill(&self) {
        let server = self.server().expect("it runs");
        kill(&server);
        until("another runs", || self.server().is_some_and(|other| other != server));
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let server = self.server();
        // The shell first, or it would start another. An error says that it has ended.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        server.iter().for_each(|server| kill(server));
    }
}

fn kill(process: &str) {
    let status = Command::new("kill").args(["-KILL", process]).status();
    assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "no signal to {process}");
}

#[test]
fn a_disk_that_the_journal_has_filled_is_flushed_also_after_a_kill() {
    let setup = Setup::new(HELD_BACK);
    let journal = setup.path("journal");
    std::fs::create_dir(&journal).expect("the directory is ours");
    let journal = journal.display().to_string();
    if !may_mount(&journal) {
        // The limit of a file's size stands for it where nobody may mount.
        groups::say(&format!("{GROUP}: no full disk, as nothing may be mounted here"));
        return;
    }
    let disk = OnDisk::start(&setup, &journal);
    let value = "x".repeat(VALUE_BYTES);
    let mut number = 0;
    for is_killed in [false, true, true, false] {
        let mut client = disk.client();
        let text = loop {
            number += 1;
            match client.command(&["SET", &format!("note:{}", number % KEYS), &format!("{number} {value}")]) {
                Value::Simple(_) => {}
                refused => break error_of(refused),
            }
            assert!(number < 1_000, "the disk has an end");
        };
        assert!(text.starts_with("WRITEFAIL note the journal cannot be written: No space left on device"), "{text}");
        if is_killed {
            drop(client);
            disk.kill();
            client = disk.client();
        }
        // What was answered is there, and what was refused is not.
        for back in 1..KEYS {
            let answered = number - back;
            let held = client.command(&["GET", &format!("note:{}", answered % KEYS)]);
            assert_eq!(held, Value::bulk(format!("{answered} {value}")), "killed: {is_killed}");
        }
        flushed(&mut client);
        for answered in number - KEYS..number {
            assert_eq!(setup.body(&(answered % KEYS).to_string()), Some(format!("{answered} {value}")));
        }
        until("there is room again", || client.command(&["SET", "note:y", "small"]) == ok());
    }
}
