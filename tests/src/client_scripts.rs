//! Real clients in their own languages, as scripts in `tests/clients`: each is run against a server with a thousand users in a
//! database behind `user:*`, and ends with 0 if all holds.

use crate::groups::{leave_out, program_for, say};
use crate::process::Directory;
use crate::server::{Server, workspace};
use std::path::PathBuf;
use std::process::Command;

/// 1,000 users, and a loader for them.
const USERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 1000)
    INSERT INTO users SELECT id, 'user ' || id FROM ids;";

/// The configuration of a source in `files`, made by the first server that starts, with a loader for `user:1` to `user:1000`.
///
/// # Panics
/// If nothing can be written to `files`.
#[must_use]
pub fn users(files: &Directory) -> String {
    let script = files.path().join("users.sql");
    std::fs::write(&script, USERS).expect("the directory is ours");
    format!(
        r#"
        [sources.main]
        url = "sqlite:{}"
        create_with = "{}"

        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = "SELECT id, name FROM users WHERE id = $1"
        batch_sql = "SELECT id, name FROM users WHERE id IN (SELECT value FROM json_each($1))"
        batch_key = "id"
        "#,
        files.path().join("users.db").display(),
        script.display(),
    )
}

/// A server that loads `user:1` to `user:1000` from a file, and listens for memcached's clients, too.
#[derive(Debug)]
pub struct Node {
    /// The server.
    pub server: Server,
    _files: Directory,
}

impl Node {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        let files = Directory::new();
        let conf = users(&files);
        Self { server: Server::options().conf(conf).memcached().start(), _files: files }
    }
}

/// Runs a script against a new server; its last line is shown.
///
/// # Panics
/// If the script fails.
pub fn run(group: &str, interpreter: Command, script: &str, port_of: fn(&Server) -> u16) {
    let node = Node::start();
    run_on(std::slice::from_ref(&node.server), port_of(&node.server), group, interpreter, script);
}

/// Runs a script with a port of these servers; its last line is shown.
///
/// # Panics
/// If the script fails; it tells what the servers have logged.
pub fn run_on(servers: &[Server], port: u16, group: &str, mut interpreter: Command, script: &str) {
    let clients = workspace().join("tests/clients");
    let output = interpreter.current_dir(&clients).arg(clients.join(script)).arg(port.to_string()).output();
    let output = output.expect("the program can be run");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let logs: Vec<String> = servers.iter().map(Server::logs).collect();
    assert!(output.status.success(), "{group}: {}\n{text}\nservers:\n{}", output.status, logs.join("\n"));
    say(text.lines().last().unwrap_or_default());
}

/// Node.js, if it and `package` are there; else the group is left out.
#[must_use]
pub fn node_js(group: &str, package: &str) -> Option<Command> {
    let program = program_for(group, "node")?;
    if !workspace().join("tests/clients/node_modules").join(package).is_dir() {
        leave_out(group, "`npm ci --prefix tests/clients` has not been run");
        return None;
    }
    Some(Command::new(program))
}

/// The Python of the tests, if it is there and has `module`; else the group is left out.
#[must_use]
pub fn python(group: &str, module: &str) -> Option<Command> {
    let program: PathBuf = workspace().join("tests/.venv/bin/python");
    let has_module = |program: &PathBuf| {
        let output = Command::new(program).args(["-c", &format!("import {module}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !program.is_file() || !has_module(&program) {
        leave_out(group, &format!("tests/.venv has no {module}; tests/run makes it"));
        return None;
    }
    Some(Command::new(program))
}
