//! A MariaDB or MySQL server of a test: its own data directory in a temporary place, its own port on the loopback, ended by its id.
//!
//! It is the MariaDB that is installed, or the MySQL whose `mysqld` is named by the environment variable `LEASEHOLD_MYSQLD` (`tests/mysql` gets one).
//! Both refuse to run as root, so root's tests run them as the user `nobody`.

use crate::groups;
use crate::process::{Process, free_port, shared};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Names the `mysqld` of a MySQL.
const MYSQLD: &str = "LEASEHOLD_MYSQLD";
const INSTALL_MARIADB: &str = "mariadb-install-db";

/// Starting is tried again with another port if somebody took the one that was free.
const START_ATTEMPTS: usize = 5;
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MySqlKind {
    /// MariaDB.
    MariaDb,
    /// MySQL.
    MySql,
}

impl MySqlKind {
    /// The one that the tests run on.
    #[must_use]
    pub fn here() -> Self {
        if std::env::var_os(MYSQLD).is_some() { Self::MySql } else { Self::MariaDb }
    }

    /// What the one or the other has a name of its own for.
    #[must_use]
    pub fn choose<T>(self, mariadb: T, mysql: T) -> T {
        match self {
            Self::MariaDb => mariadb,
            Self::MySql => mysql,
        }
    }
}

/// A server whose user `root` has no password. Any number may run at once.
#[derive(Debug)]
pub struct MySqlServer {
    kind: MySqlKind,
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    options: Vec<String>,
    process: Option<Process>,
}

impl MySqlServer {
    /// Options of a server with a binary log that a feed can follow.
    pub const WITH_LOG: &[&str] = &["--log-bin=bin", "--binlog-format=ROW", "--server-id=7"];

    /// A table of numbers, for `SELECT seq FROM {}`.
    #[must_use]
    pub fn numbers(range: std::ops::RangeInclusive<u64>) -> String {
        let (first, count) = (range.start(), range.end() - range.start());
        format!(
            "(SELECT place + {first} - 1 AS seq FROM JSON_TABLE(CONCAT('[', REPEAT('0,', {count}), '0]'), '$[*]' \
             COLUMNS (place FOR ORDINALITY)) AS places) AS numbers"
        )
    }

    /// Starts a server, or leaves the group of tests out when there is none here. `options` are those of its command line;
    /// `{dir}` in them is a directory that it can read, which `fill` may fill before.
    ///
    /// # Panics
    /// If it cannot be started, or is missing while everything is required.
    #[must_use]
    pub fn start(group: &str, options: &[&str], fill: impl FnOnce(&Path)) -> Option<Self> {
        let kind = MySqlKind::here();
        let program = match std::env::var_os(MYSQLD) {
            Some(path) => Some(PathBuf::from(path)),
            None => sbin("mariadbd").filter(|_| groups::program(INSTALL_MARIADB).is_some()),
        };
        let Some(program) = program else {
            groups::leave_out(group, "MariaDB (mariadbd, mariadb-install-db) is not installed");
            return None;
        };
        let directory = new_directory();
        fs::create_dir(directory.join("tmp")).expect("the directory is ours");
        fill(&directory);
        if is_root() {
            let files = fs::read_dir(&directory).expect("the directory is ours").flatten().map(|entry| entry.path());
            for path in files.chain([directory.clone()]) {
                let (user, group) = nobody();
                chown(path, Some(user), Some(group)).expect("root may give a file away");
            }
        }
        let options = options.iter().map(|option| option.replace("{dir}", &directory.display().to_string())).collect();
        let mut server = Self { kind, program, directory, port: 0, options, process: None };
        server.initialise();
        server.start_on_a_free_port();
        Some(server)
    }

    /// The server that the tests of one binary share; it ends with the last of them. Each test makes its own database.
    #[must_use]
    pub fn shared(group: &str) -> Option<Arc<Self>> {
        Self::shared_with(group, &[])
    }

    /// As [`MySqlServer::shared`], with options of the command line: the same in all tests of the binary.
    ///
    /// # Panics
    /// As [`MySqlServer::start`].
    #[must_use]
    pub fn shared_with(group: &str, options: &[&str]) -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<MySqlServer>> = Mutex::new(Weak::new());
        shared(&SHARED, || Self::start(group, options, |_| {}))
    }

    /// A name for a database that no other test uses.
    #[must_use]
    pub fn new_name() -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// Which of the two it is.
    #[must_use]
    pub fn kind(&self) -> MySqlKind {
        self.kind
    }

    /// The URL of a database, for `root`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let scheme = self.kind.choose("mariadb", "mysql");
        format!("{scheme}://root@127.0.0.1:{}/{database}?ssl-mode=disabled", self.port)
    }

    /// The URL of a database for another user, `name:password`. MySQL wants a password over TLS.
    #[must_use]
    pub fn url_of(&self, user: &str, database: &str) -> String {
        as_user(&self.url(database), user)
    }

    /// The path of its unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// The directory that it has for itself.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends the server at once, as a crash would; connections break.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again, on the same port, with the same data.
    ///
    /// # Panics
    /// If it does not start.
    pub fn resume(&mut self) {
        self.try_start().unwrap_or_else(|output| panic!("{output}"));
    }

    /// SIGSTOP: the server hangs, its sockets stay.
    pub fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    fn initialise(&self) {
        let mut command = match self.kind {
            MySqlKind::MariaDb => {
                let mut command = self.as_user(Path::new(INSTALL_MARIADB));
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                command
            }
            MySqlKind::MySql => {
                let mut command = self.as_user(&self.program);
                command.args(["--no-defaults", "--initialize-insecure"]);
                // Who comes by TCP is not `root@localhost`, as names are not looked up.
                let users = self.directory.join("users.sql");
                let sql = "CREATE USER root@'127.0.0.1'; GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n";
                fs::write(&users, sql).expect("the directory is ours");
                command.arg(format!("--init-file={}", users.display()));
                command
            }
        };
        command.arg(format!("--datadir={}", self.data().display()));
        let output = command.output().expect("the program was found before");
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
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
        panic!("{} does not start: {output}", self.program.display());
    }

    fn try_start(&mut self) -> Result<(), String> {
        let mut command = self.as_user(&self.program);
        command.arg("--no-defaults").arg(format!("--datadir={}", self.data().display()));
        command.arg(format!("--socket={}", self.socket().display()));
        command.arg(format!("--port={}", self.port)).arg("--bind-address=127.0.0.1");
        // A crash of the server must be survived, one of the machine need not.
        command.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=32M"]);
        command.args(["--skip-name-resolve", "--max-connections=300", "--character-set-server=utf8mb4"]);
        if self.kind == MySqlKind::MySql {
            // Debian's has a directory for files that is not there where MySQL is only unpacked.
            command.args(["--skip-mysqlx", "--performance-schema=OFF", "--secure-file-priv=NULL"]);
            // As MariaDB does it: a log only where it is asked for.
            let has_log = self.options.iter().any(|option| option.starts_with("--log-bin"));
            command.args(if has_log {
                &["--gtid-mode=ON", "--enforce-gtid-consistency"][..]
            } else {
                &["--skip-log-bin"]
            });
        }
        command.args(&self.options);
        match Process::start(command, self.port, START_PATIENCE) {
            Ok(process) => {
                self.process = Some(process);
                Ok(())
            }
            Err(failed) => Err(format!("status {:?}\n{}", failed.status, failed.output)),
        }
    }

    fn as_user(&self, program: &Path) -> Command {
        let mut command = if is_root() {
            let (user, group) = nobody();
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        // A server that starts removes what others have left in its place for temporary files; or have there now.
        command.current_dir(&self.directory).env("TMPDIR", self.directory.join("tmp"));
        command
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }
}

impl Drop for MySqlServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate(STOP_PATIENCE);
        }
        // What stays behind lies in the temporary directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The URL, of `root`, for another user, `name:password`.
#[must_use]
pub fn as_user(url: &str, user: &str) -> String {
    let url = url.replace("://root@", &format!("://{user}@"));
    if MySqlKind::here() == MySqlKind::MySql && user.contains(':') {
        // A password goes over TLS only, and the certificate is one that the server has made for itself.
        url.replace("ssl-mode=disabled", "ssl-mode=required")
    } else {
        url
    }
}

/// A program that a user who is not root may not have on the PATH.
fn sbin(name: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"].map(|place| Path::new(place).join(name));
    groups::program(name).or_else(|| places.into_iter().find(|path| path.is_file()))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// User and group of `nobody`.
fn nobody() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = users.lines().find(|line| line.starts_with("nobody:")).unwrap_or("nobody:x:65534:65534");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().expect("a number in /etc/passwd"));
    (fields.next().expect("a user"), fields.next().expect("a group"))
}

/// A directory of our own, with a name short enough for a unix socket in it.
fn new_directory() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("leasehold-my-{}-{count}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the temporary directory can be written");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
    directory
}
