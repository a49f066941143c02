//! Options of a running server: that each takes effect, and that those marked live do so at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes so long on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// The binary on a free port, in a folder of its own; both go at the end.
struct Server {
    child: Child,
    port: u16,
    folder: PathBuf,
    log: std::sync::mpsc::Receiver<String>,
}

impl Server {
    fn start(name: &str, sets: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("leasehold-options-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.current_dir(&folder).args(["--port", "0", "--threads", "1", "--bind", "127.0.0.1"]);
        for set in sets {
            command.args(["--set", set]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (lines, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let mut server = Self { child, port: 0, folder, log };
        let line = server.line_with("127.0.0.1:");
        let digits = line.split("127.0.0.1:").nth(1).unwrap_or_default();
        server.port =
            digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|port| port.parse().ok()).expect("a port");
        server
    }

    /// The next line of standard output with this text.
    fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Client(BufReader::new(stream))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn send(&mut self, words: &[&str]) {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        // A server that has closed is seen in the reply.
        let _ = self.0.get_mut().write_all(request.as_bytes());
    }

    /// A reply in one line: arrays in brackets, an empty text when the connection is closed.
    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap_or_else(|error| panic!("no reply: {error}"));
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("$", length)) => match length.parse::<usize>() {
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.0.read_exact(&mut bytes).expect("the whole bulk string");
                    String::from_utf8_lossy(&bytes[..length]).into_owned()
                }
                Err(_) => "nil".to_owned(),
            },
            Some(("*", count)) => {
                let parts: Vec<String> = (0..count.parse().unwrap_or(0)).map(|_| self.reply()).collect();
                format!("[{}]", parts.join(" "))
            }
            _ => line.to_owned(),
        }
    }

    fn ask(&mut self, words: &[&str]) -> String {
        self.send(words);
        self.reply()
    }
}

#[test]
fn a_wish_to_wait_is_cut_to_wait_max() {
    let server = Server::start("wait", &["wait-max=100ms"]);
    let (mut holder, mut waiter) = (server.client(), server.client());
    assert!(holder.ask(&["GETL", "key"]).starts_with("[LEASE"));
    let asked = Instant::now();
    let answer = waiter.ask(&["GETL", "key", "WAIT", "600000"]);
    assert!(answer.starts_with("[WAIT"), "{answer}");
    assert!(asked.elapsed() >= Duration::from_millis(90), "it did wait");
    assert_eq!(waiter.ask(&["CONFIG", "SET", "wait-max", "1"]), "+OK");
    assert!(waiter.ask(&["GETL", "key", "WAIT", "600000"]).starts_with("[WAIT"));
}

#[test]
fn timeout_closes_idle_connections_as_soon_as_it_is_set() {
    let server = Server::start("timeout", &[]);
    let (mut idle, mut other) = (server.client(), server.client());
    assert_eq!(idle.ask(&["PING"]), "+PONG");
    assert_eq!(other.ask(&["CONFIG", "SET", "timeout", "1"]), "+OK");
    assert_eq!(idle.reply(), "", "closed by the server");
}

#[test]
fn maxclients_refuses_one_more_and_can_be_raised() {
    let server = Server::start("maxclients", &["maxclients=1"]);
    let mut first = server.client();
    assert_eq!(first.ask(&["PING"]), "+PONG");
    assert_eq!(server.client().reply(), "-ERR max number of clients reached");
    assert_eq!(first.ask(&["CONFIG", "SET", "maxclients", "2"]), "+OK");
    assert_eq!(server.client().ask(&["PING"]), "+PONG");
}

#[test]
fn a_password_holds_for_new_connections_at_once() {
    let server = Server::start("password", &["requirepass=one"]);
    let mut client = server.client();
    assert_eq!(client.ask(&["GET", "a"]), "-NOAUTH Authentication required.");
    assert!(client.ask(&["AUTH", "two"]).starts_with("-WRONGPASS"));
    assert_eq!(client.ask(&["AUTH", "one"]), "+OK");
    assert_eq!(client.ask(&["CONFIG", "SET", "requirepass", "two"]), "+OK");
    assert_eq!(client.ask(&["CONFIG", "GET", "requirepass"]), "[requirepass ]");
    assert_eq!(client.ask(&["GET", "a"]), "nil", "who is in stays in");
    let mut later = server.client();
    assert!(later.ask(&["AUTH", "one"]).starts_with("-WRONGPASS"));
    assert_eq!(later.ask(&["AUTH", "two"]), "+OK");
}

#[test]
fn maxmemory_and_its_policy_act_at_once() {
    let server = Server::start("memory", &[]);
    let mut client = server.client();
    let value = "x".repeat(100_000);
    for key in 0..50 {
        assert_eq!(client.ask(&["SET", &format!("key:{key}"), &value]), "+OK");
    }
    assert_eq!(client.ask(&["CONFIG", "SET", "maxmemory", "1mb", "maxmemory-policy", "noeviction"]), "+OK");
    assert!(client.ask(&["SET", "more", &value]).starts_with("-OOM"));
    assert_eq!(client.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]), "+OK");
    assert_eq!(client.ask(&["SET", "more", &value]), "+OK");
    // A write evicts a bounded number of entries, so that no client pays for a much lower limit alone.
    let start = Instant::now();
    loop {
        let kept: u32 = client.ask(&["DBSIZE"]).trim_start_matches(':').parse().expect("a number");
        if (1..=10).contains(&kept) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{kept} entries of 100 kB are still in 1 MiB");
        std::thread::yield_now();
    }
}

#[test]
fn the_log_level_changes_while_the_server_runs() {
    let server = Server::start("level", &[]);
    let mut client = server.client();
    assert_eq!(client.ask(&["CONFIG", "SET", "loglevel", "nothing"]), "+OK");
    assert_eq!(client.ask(&["CONFIG", "SET", "maxclients", "77"]), "+OK");
    assert_eq!(client.ask(&["CONFIG", "SET", "loglevel", "notice"]), "+OK");
    let next = server.line_with("CONFIG SET");
    assert!(next.contains("loglevel") && !next.contains("maxclients"), "{next}");
}

#[test]
fn the_log_goes_to_its_file_as_json() {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("leasehold-options-{}.log", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let set = format!("logfile={}", path.display());
    let mut child = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args([
            "--port",
            "0",
            "--threads",
            "1",
            "--set",
            &set,
            "--set",
            "log-format=json",
            "--set",
            "welcome=it listens",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut first).expect("a line");
    assert_eq!(first, "it listens\n");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let log = std::fs::read_to_string(&path).expect("a log");
    std::fs::remove_file(&path).expect("it is ours");
    let line = log.lines().find(|line| line.contains("listening")).expect("it says where it listens");
    assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"level\":\"INFO\""), "{line}");
}

#[test]
fn limits_of_a_request_are_those_of_the_configuration() {
    let server = Server::start("limits", &["proto-max-bulk-len=1kb", "proto-max-args=16", "databases=2"]);
    let mut client = server.client();
    assert_eq!(client.ask(&["SET", "a", &"x".repeat(1024)]), "+OK");
    assert_eq!(client.ask(&["SELECT", "1"]), "+OK");
    assert!(client.ask(&["SELECT", "2"]).starts_with("-ERR DB index is out of range"));
    assert!(client.ask(&["SET", "a", &"x".repeat(1025)]).starts_with("-ERR Protocol error"));
    let many: Vec<&str> = std::iter::once("DEL").chain(std::iter::repeat_n("a", 16)).collect();
    assert!(server.client().ask(&many).starts_with("-ERR Protocol error"));
}

#[test]
fn the_health_check_is_content_with_a_server_that_wants_a_password() {
    let server = Server::start("ping", &["requirepass=secret"]);
    let status = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(["--ping", "--port", &server.port.to_string()])
        .stdout(Stdio::null())
        .status()
        .expect("the binary runs");
    assert!(status.success());
}
