//! Clients that send their commands and close their side, as `printf 'GET user:1\r\n' | nc` does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Every load takes the batch window at least.
const CONF: &str = "welcome = [\"ready\"]\n\
    [sources.main]\nurl = \"sqlite:x.db\"\ncreate_with = \"x.sql\"\n\
    [loaders.user]\nmatch = \"user:{id:int}\"\nsource = \"main\"\nvalue = \"column\"\n\
    sql = \"SELECT id, name FROM users WHERE id = $1\"\n\
    batch_sql = \"SELECT id, name FROM users WHERE id IN (SELECT value FROM json_each($1))\"\n\
    batch_window = \"200ms\"\n";
const SCHEMA: &str =
    "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'ann'), (2, 'bob');";

struct Server {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("leasehold-half-closed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        std::fs::write(folder.join("x.toml"), CONF).expect("the folder is ours");
        std::fs::write(folder.join("x.sql"), SCHEMA).expect("the folder is ours");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut process = Command::new(env!("CARGO_BIN_EXE_leasehold"))
            .current_dir(&folder)
            .args(["--conf", "x.toml", "--bind", "127.0.0.1", "--port", &port.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let stdout = BufReader::new(process.stdout.take().expect("piped"));
        assert!(stdout.lines().map_while(Result::ok).any(|line| line == "ready"));
        Self { process, folder, port }
    }

    /// Sends, closes the sending side, and reads to the end.
    fn talk(&self, requests: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(50))).expect("a socket has timeouts");
        stream.write_all(requests.as_bytes()).expect("it reads");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut replies = String::new();
        stream.read_to_string(&mut replies).expect("it answers and closes");
        replies
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_load_is_waited_for_and_a_lease_is_not() {
    let server = Server::start();
    let replies = server.talk("GET user:1\r\nSET a 1\r\nMGET user:2 a\r\nPING\r\n");
    assert_eq!(replies, "$3\r\nann\r\n+OK\r\n*2\r\n$3\r\nbob\r\n$1\r\n1\r\n+PONG\r\n");
    assert!(server.talk("GETL k\r\n").starts_with("*5\r\n$5\r\nLEASE\r\n"));
    let asked = Instant::now();
    assert_eq!(server.talk("GETL k WAIT 60000\r\n"), "", "a lease would go to nobody");
    assert!(asked.elapsed() < Duration::from_secs(40));
}
