//! Real clients in their own languages, each connected with its defaults: redis-py, ioredis, node-redis (scripts in
//! `tests/clients`) and redis-rs (here). They run everyday commands and read rows through a loader.

use leasehold_tests::Server;
use leasehold_tests::groups::{leave_out, program_for, say};
use leasehold_tests::process::Directory;
use leasehold_tests::server::workspace;
use redis::{AsyncCommands, Commands};
use std::path::{Path, PathBuf};
use std::process::Command;

/// 1,000 users, and a loader for them.
const USERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 1000)
    INSERT INTO users SELECT id, 'user ' || id FROM ids;";

struct Node {
    server: Server,
    _files: Directory,
}

fn node() -> Node {
    let files = Directory::new();
    let script = files.path().join("users.sql");
    std::fs::write(&script, USERS).expect("the directory is ours");
    let conf = format!(
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
    );
    Node { server: Server::options().conf(conf).start(), _files: files }
}

fn run(group: &str, program: &Path, script: &str) {
    let node = node();
    let clients = workspace().join("tests/clients");
    let output = Command::new(program)
        .current_dir(&clients)
        .arg(clients.join(script))
        .arg(node.server.port().to_string())
        .output()
        .expect("the program can be run");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{group}: {}\n{text}\nserver:\n{}", output.status, node.server.logs());
    say(text.lines().last().unwrap_or_default());
}

fn node_script(group: &str, package: &str, script: &str) {
    let Some(program) = program_for(group, "node") else { return };
    if !workspace().join("tests/clients/node_modules").join(package).is_dir() {
        return leave_out(group, "`npm ci --prefix tests/clients` has not been run");
    }
    run(group, &program, script);
}

#[test]
fn redis_py_works_unchanged() {
    let python: PathBuf = workspace().join("tests/.venv/bin/python");
    if !python.is_file() {
        return leave_out("redis-py", "tests/.venv is not there; tests/run makes it");
    }
    run("redis-py", &python, "redis_py.py");
}

#[test]
fn ioredis_works_unchanged() {
    node_script("ioredis", "ioredis", "ioredis.mjs");
}

#[test]
fn node_redis_works_unchanged() {
    node_script("node-redis", "redis", "node_redis.mjs");
}

#[test]
fn redis_rs_works_unchanged() -> redis::RedisResult<()> {
    let node = node();
    for protocol in ["", "?protocol=resp3"] {
        let url = format!("redis://127.0.0.1:{}/{protocol}", node.server.port());
        let mut client = redis::Client::open(url)?.get_connection()?;
        redis::cmd("FLUSHALL").exec(&mut client)?;
        client.set::<_, _, ()>("s", "v")?;
        assert_eq!(client.get::<_, Option<String>>("s")?.as_deref(), Some("v"));
        assert_eq!(client.get::<_, Option<String>>("none")?, None);
        client.set_ex::<_, _, ()>("t", 7, 100)?;
        assert!((1..=100).contains(&client.ttl::<_, i64>("t")?));
        assert_eq!(client.incr::<_, _, i64>("t", 5)?, 12);
        assert!(client.set_nx::<_, _, bool>("n", 1)? && !client.set_nx::<_, _, bool>("n", 2)?);
        client.mset::<_, _, ()>(&[("a", 1), ("b", 2)])?;
        assert_eq!(client.mget::<_, Vec<Option<i64>>>(&["a", "none", "b"])?, [Some(1), None, Some(2)]);
        assert_eq!(client.append::<_, _, usize>("s", "w")?, 2);
        assert_eq!(client.getrange::<_, String>("s", 0, 0)?, "v");
        assert_eq!(client.exists::<_, i64>(&["a", "b", "none"])?, 2);
        assert_eq!(client.del::<_, i64>(&["a", "b", "none"])?, 2);
        let (one, two): (i64, i64) = redis::pipe().incr("p", 1).incr("p", 1).query(&mut client)?;
        assert_eq!((one, two), (1, 2));
        let mut keys: Vec<String> = client.scan::<String>()?.collect::<redis::RedisResult<_>>()?;
        keys.sort();
        assert_eq!(keys, ["n", "p", "s", "t"]);

        assert_eq!(client.get::<_, String>("user:42")?, r#"{"id":42,"name":"user 42"}"#);
        let users: Vec<String> = client.mget((1..=50).map(|id| format!("user:{id}")).collect::<Vec<_>>())?;
        assert_eq!(users.len(), 50);
        assert_eq!(client.get::<_, Option<String>>("user:100000")?, None);

        let (status, _, token, _, _): (String, Option<String>, String, i64, i64) =
            redis::cmd("GETL").arg("page").query(&mut client)?;
        assert_eq!(status, "LEASE");
        let stored: String =
            redis::cmd("SETL").arg("page").arg(&token).arg("html").arg("EX").arg(60).query(&mut client)?;
        assert_eq!(stored, "STORED");
        let lost: String = redis::cmd("SETL").arg("page").arg(&token).arg("late").query(&mut client)?;
        assert_eq!(lost, "LOST superseded");
        let error = redis::cmd("LOADTHROUGH").arg("nomatch:1").exec(&mut client).expect_err("no loader");
        assert_eq!(error.code(), Some("NOLOADER"));
    }
    Ok(())
}

#[tokio::test]
async fn redis_rs_multiplexed_connections_work_unchanged() -> redis::RedisResult<()> {
    let node = node();
    let url = format!("redis://127.0.0.1:{}/?protocol=resp3", node.server.port());
    let connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let reads = (1..=200).map(|id| {
        let mut connection = connection.clone();
        tokio::spawn(async move { connection.get::<_, String>(format!("user:{id}")).await })
    });
    for (id, read) in (1..=200).zip(reads.collect::<Vec<_>>()) {
        let user = read.await.expect("the task ends")?;
        assert_eq!(user, format!(r#"{{"id":{id},"name":"user {id}"}}"#));
    }
    Ok(())
}
