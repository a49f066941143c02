//! Real clients in their own languages, each connected with its defaults: redis-py, ioredis, node-redis (scripts in
//! `tests/clients`) and redis-rs (here). They run everyday commands and read rows through a loader.

use leasehold_tests::Server;
use leasehold_tests::client_scripts::{Node, node_js, python, run};
use redis::{AsyncCommands, Commands};

#[test]
fn redis_py_works_unchanged() {
    let Some(python) = python("redis-py", "redis") else { return };
    run("redis-py", python, "redis_py.py", Server::port);
}

#[test]
fn ioredis_works_unchanged() {
    let Some(node) = node_js("ioredis", "ioredis") else { return };
    run("ioredis", node, "ioredis.mjs", Server::port);
}

#[test]
fn node_redis_works_unchanged() {
    let Some(node) = node_js("node-redis", "redis") else { return };
    run("node-redis", node, "node_redis.mjs", Server::port);
}

#[test]
fn redis_rs_works_unchanged() -> redis::RedisResult<()> {
    let node = Node::start();
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
    let node = Node::start();
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
