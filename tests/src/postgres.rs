//! A PostgreSQL server of a test: its own data directory in a temporary place, its own port, stopped at the end.
//!
//! PostgreSQL refuses to run as root, so root's tests run it as the user `postgres`.

use crate::groups;
use crate::process::shared;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Starting is tried again with another port if somebody took the one that was free.
const START_ATTEMPTS: usize = 5;

/// A PostgreSQL server. Any number may run at once.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    directory: PathBuf,
    port: u16,
    /// More settings, as `name=value`.
    settings: Vec<String>,
    /// The user and group that it runs as, if that is another than ours.
    runs_as: Option<(u32, u32)>,
}

impl Postgres {
    /// Starts a server with an empty database `test`, or leaves the group of tests out when there is no PostgreSQL here.
    ///
    /// # Panics
    /// If it cannot be started, or is missing while everything is required.
    #[must_use]
    pub fn start(group: &str) -> Option<Self> {
        Self::start_with(group, &[], |_| {})
    }

    /// As [`Postgres::start`], with settings (`name=value`). `{dir}` in them is a directory that only the server can read, which
    /// `fill` may fill before.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    #[must_use]
    pub fn start_with(group: &str, settings: &[&str], fill: impl FnOnce(&Path)) -> Option<Self> {
        let Some(binaries) = binaries() else {
            groups::leave_out(group, "PostgreSQL (initdb, pg_ctl) is not installed");
            return None;
        };
        let runs_as = if is_root() {
            let user = user_postgres();
            if user.is_none() {
                groups::leave_out(group, "PostgreSQL does not run as root, and there is no user `postgres`");
            }
            Some(user?)
        } else {
            None
        };
        let directory = new_directory();
        fill(&directory);
        if let Some((user, group)) = runs_as {
            let files = fs::read_dir(&directory).expect("the directory is ours").flatten().map(|entry| entry.path());
            for path in files.chain([directory.clone()]) {
                chown(path, Some(user), Some(group)).expect("root may give a file away");
            }
        }
        let settings =
            settings.iter().map(|setting| setting.replace("{dir}", &directory.display().to_string())).collect();
        let mut postgres = Self { binaries, directory, port: 0, settings, runs_as };
        postgres.initialise();
        postgres.start_on_a_free_port();
        postgres.create_database("test");
        Some(postgres)
    }

    /// Starts a replica of this server, with settings of its own (`name=value`).
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn standby(&self, settings: &[&str]) -> Self {
        let directory = new_directory();
        if let Some((user, group)) = self.runs_as {
            chown(&directory, Some(user), Some(group)).expect("root may give a file away");
        }
        // A server that is away is looked for again soon.
        let settings = settings.iter().copied().chain(["wal_retrieve_retry_interval=100ms"]);
        let settings = settings.map(str::to_owned).collect();
        let mut standby = Self { binaries: self.binaries.clone(), directory, port: 0, settings, runs_as: self.runs_as };
        let (data, port) = (standby.data(), self.port.to_string());
        let output = standby.run(
            "pg_basebackup",
            [
                OsStr::new("--host=127.0.0.1"),
                OsStr::new("--port"),
                OsStr::new(&port),
                OsStr::new("--username=test"),
                OsStr::new("--pgdata"),
                data.as_os_str(),
                OsStr::new("--checkpoint=fast"),
                OsStr::new("--write-recovery-conf"),
                OsStr::new("--no-sync"),
            ],
        );
        assert!(output.status.success(), "pg_basebackup: {}", text(&output));
        standby.start_on_a_free_port();
        standby
    }

    /// The server that the tests of one binary share; it ends with the last of them. Each test makes its own database.
    #[must_use]
    pub fn shared(group: &str) -> Option<Arc<Self>> {
        Self::shared_with(group, &[])
    }

    /// As [`Postgres::shared`], with settings (`name=value`): the same in all tests of the binary.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    #[must_use]
    pub fn shared_with(group: &str, settings: &[&str]) -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        shared(&SHARED, || Self::start_with(group, settings, |_| {}))
    }

    /// Makes an empty database and returns its URL.
    #[must_use]
    pub fn new_database(&self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.create_database(&name);
        self.url_of(&name)
    }

    /// The URL of the database `test`, over TCP.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("test")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://test@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The URL of the database `test`, over its unix socket.
    #[must_use]
    pub fn socket_url(&self) -> String {
        format!("postgres://test@localhost:{}/test?host={}", self.port, self.socket_dir().display())
    }

    /// The directory of its unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.directory
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops the server at once, as a crash would; connections break.
    pub fn stop(&mut self) {
        let output = self.control(["stop", "--mode=immediate", "--wait"]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Starts it again, on the same port, with the same data.
    pub fn resume(&mut self) {
        self.try_start().unwrap_or_else(|output| panic!("{output}"));
    }

    fn initialise(&self) {
        let data = self.data();
        let output = self.run(
            "initdb",
            [
                OsStr::new("--pgdata"),
                data.as_os_str(),
                OsStr::new("--username=test"),
                OsStr::new("--auth=trust"),
                OsStr::new("--encoding=UTF8"),
                OsStr::new("--locale=C"),
                OsStr::new("--no-sync"),
            ],
        );
        assert!(output.status.success(), "initdb: {}", text(&output));
    }

    fn start_on_a_free_port(&mut self) {
        let mut output = String::new();
        for _ in 0..START_ATTEMPTS {
            self.port = free_port();
            match self.try_start() {
                Ok(()) => return,
                Err(failed) => output = failed,
            }
        }
        panic!("PostgreSQL does not start: {output}");
    }

    fn try_start(&mut self) -> Result<(), String> {
        // Nothing here must survive a crash of the machine.
        let mut options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off -c full_page_writes=off \
             -c shared_buffers=32MB -c max_connections=200",
            self.port,
            self.directory.display()
        );
        for setting in &self.settings {
            options.push_str(&format!(" -c {setting}"));
        }
        let log = self.directory.join("log");
        let output = self.control([
            OsStr::new("start"),
            OsStr::new("--wait"),
            OsStr::new("--timeout=60"),
            OsStr::new("--log"),
            log.as_os_str(),
            OsStr::new("--options"),
            OsStr::new(&options),
        ]);
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{}{}", text(&output), fs::read_to_string(log).unwrap_or_default()))
    }

    fn create_database(&self, name: &str) {
        let port = self.port.to_string();
        let output = self.run("createdb", ["--host=127.0.0.1", "--port", &port, "--username=test", name]);
        assert!(output.status.success(), "createdb: {}", text(&output));
    }

    fn control<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        let data = self.data();
        let arguments: Vec<S> = arguments.into_iter().collect();
        let all = [OsStr::new("--pgdata"), data.as_os_str()].into_iter().chain(arguments.iter().map(AsRef::as_ref));
        self.run("pg_ctl", all)
    }

    fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
        let program = self.binaries.join(program);
        let mut command = match self.runs_as {
            None => Command::new(program),
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
                command.arg(program);
                command
            }
        };
        // The server lives on after pg_ctl and would hold our pipes open, so what it writes goes to files.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let run = COUNT.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) =
            (self.directory.join(format!("{run}.stdout")), self.directory.join(format!("{run}.stderr")));
        command.args(arguments).current_dir(&self.directory);
        command.stdin(std::process::Stdio::null());
        command.stdout(fs::File::create(&stdout).expect("a file in our own directory"));
        command.stderr(fs::File::create(&stderr).expect("a file in our own directory"));
        let status = command.status().expect("the program was found before");
        Output { status, stdout: fs::read(stdout).unwrap_or_default(), stderr: fs::read(stderr).unwrap_or_default() }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A server that is stopped already makes this fail, which is what we want to hear least in a drop.
        let _ = self.control(["stop", "--mode=immediate", "--wait"]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Where the server's programs are: on the PATH, or where Debian keeps each version's.
fn binaries() -> Option<PathBuf> {
    // A link on the PATH may stand alone; its siblings are where it points to.
    if let Some(initdb) = groups::program("initdb").and_then(|initdb| fs::canonicalize(initdb).ok()) {
        return initdb.parent().map(Path::to_owned);
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            let binaries = entry.path().join("bin");
            binaries.join("initdb").is_file().then_some((version, binaries))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, binaries)| binaries)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// User and group of `postgres`.
fn user_postgres() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A directory of our own, with a name short enough for a unix socket in it.
fn new_directory() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("leasehold-pg-{}-{count}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the temporary directory can be written");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
    directory
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("some port is free");
    listener.local_addr().expect("it is bound").port()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
