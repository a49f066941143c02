//! The whole way: a client of the real server, GET and MGET, and rows of MariaDB or MySQL.

use super::*;
use leasehold_tests::{Server, Value};

/// What `text` runs on the server of the tests, blocking.
fn run(server: &MySqlServer, text: &str) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
    runtime.block_on(async {
        let pool = MySqlPool::connect(&server.url("")).await.expect("the server runs");
        let mut ran = None;
        for statement in text.split(';').filter(|statement| !statement.trim().is_empty()) {
            let row = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).fetch_optional(&pool).await;
            ran = row.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        ran.and_then(|row| row.try_get::<String, _>(1).ok()).and_then(|text| text.parse().ok()).unwrap_or_default()
    })
}

#[test]
fn get_and_mget_answer_rows_of_the_database() {
    let Some(server) = MySqlServer::start(GROUP, &[], |_| {}) else { return };
    let script = format!(
        "CREATE DATABASE shop; CREATE TABLE shop.users (id int PRIMARY KEY, name varchar(50));
         INSERT INTO shop.users SELECT seq, CONCAT('user ', seq) FROM {};
         CREATE USER app@127.0.0.1 IDENTIFIED BY 'hush!'; GRANT SELECT ON shop.* TO app@127.0.0.1",
        MySqlServer::numbers(1..=1000)
    );
    run(&server, &script);
    let url = server.url_of("app:${SHOP_PASSWORD}", "shop");
    let conf = format!(
        r#"
        [sources.shop]
        url = "{url}"
        [loaders.user]
        match = "user:{{id:int}}"
        source = "shop"
        sql = "{USER_SQL}"
        batch_sql = "{USER_BATCH_SQL}"
        [loaders.word]
        match = "word:{{name}}"
        source = "shop"
        sql = "SELECT name, id FROM users WHERE name = ?"
        "#
    );
    let front = Server::options().conf(&conf).environment("SHOP_PASSWORD", "hush%21").start();
    let mut client = front.client();
    assert_eq!(client.command(&["GET", "user:42"]), Value::bulk(r#"{"id":42,"name":"user 42"}"#));
    assert_eq!(client.command(&["GET", "user:5000"]), Value::NullBulk);
    assert_eq!(client.command(&["GET", "user:042"]), Value::NullBulk);
    assert_eq!(client.loader_counter("user", "absent"), 1);

    let selects = "SHOW GLOBAL STATUS LIKE 'Com_select'";
    let keys: Vec<String> = (100..600).map(|id| format!("user:{id}")).collect();
    let before = run(&server, selects);
    let argv: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    let rows = client.command(&argv);
    let expected: Vec<Value> =
        (100..600).map(|id| Value::bulk(format!(r#"{{"id":{id},"name":"user {id}"}}"#))).collect();
    assert_eq!(rows, Value::Array(expected));
    let queries = run(&server, selects) - before;
    // sqlx asks nothing by itself; a new connection of the pool asks for the version.
    assert!((1..=2).contains(&queries), "{queries} queries for one MGET of 500 cold keys");

    // The database thinks they are the same; the cache holds the row under its own name alone.
    assert_eq!(client.command(&["GET", "word:USER 7"]), Value::NullBulk);
    assert_eq!(client.command(&["GET", "word:user 7 "]), Value::NullBulk);
    assert_eq!(client.command(&["GET", "word:user 7"]), Value::bulk(r#"{"name":"user 7","id":7}"#));
    assert_eq!(client.info("x_panics"), 0);
    assert!(!front.logs().contains("hush"), "{}", front.logs());
}

#[test]
fn check_config_names_file_line_and_option() {
    let Some(server) = MySqlServer::shared(GROUP) else { return };
    let directory = leasehold_tests::process::Directory::new();
    let secret = directory.path().join("url");
    std::fs::write(&secret, format!("{}\n", server.url("mysql"))).expect("the directory is ours");
    let conf = |sql: &str| {
        format!(
            "[sources.main]\nurl_file = \"{}\"\n[loaders.user]\nmatch = \"user:{{User}}\"\nsource = \"main\"\nsql = \"{sql}\"\n",
            secret.display()
        )
    };
    let (status, output) = Server::options()
        .conf(conf("SELECT User, Host FROM mysql.user WHERE User = $1"))
        .argument("--check-config")
        .run_to_end();
    assert!(status.success(), "{output}");
    let (status, output) = Server::options()
        .conf(conf("SELECT User, Shoe FROM mysql.user WHERE User = $1"))
        .argument("--check-config")
        .run_to_end();
    assert!(!status.success());
    assert!(output.contains("leasehold.toml:6:") && output.contains("loaders.user.sql"), "{output}");
    assert!(output.contains("Unknown column 'Shoe'"), "{output}");
}

#[test]
fn set_and_del_go_through_to_the_database() {
    let Some(server) = MySqlServer::start(GROUP, &[], |_| {}) else { return };
    let script = format!(
        "CREATE DATABASE shop; CREATE TABLE shop.users (id int PRIMARY KEY, name varchar(10) NOT NULL, CHECK (name <> 'nobody'));
         INSERT INTO shop.users SELECT seq, CONCAT('user ', seq) FROM {}",
        MySqlServer::numbers(1..=10)
    );
    run(&server, &script);
    let conf = |upsert: &str| {
        format!(
            r#"
            [sources.shop]
            url = "{}"
            [loaders.user]
            match = "user:{{id:int}}"
            source = "shop"
            sql = "{USER_SQL}"
            write = "through"
            upsert_sql = """{upsert}"""
            delete_sql = "DELETE FROM users WHERE id = ?"
            "#,
            server.url("shop")
        )
    };
    let upsert = "INSERT INTO users (id, name) VALUES ($1, JSON_UNQUOTE(JSON_EXTRACT($2, '$.name')))
        ON DUPLICATE KEY UPDATE name = JSON_UNQUOTE(JSON_EXTRACT($2, '$.name'))";
    let front = Server::options().conf(conf(upsert)).start();
    let mut client = front.client();
    let row = |id: i64, name: &str| Value::bulk(format!(r#"{{"id":{id},"name":"{name}"}}"#));
    let names = |name: &str| {
        run(&server, &format!("SELECT 'count', CAST(COUNT(*) AS CHAR) FROM shop.users WHERE name = '{name}'"))
    };
    assert_eq!(client.command(&["GET", "user:1"]), row(1, "user 1"));
    assert_eq!(client.command(&["SET", "user:1", r#"{"name":"Ann"}"#]), Value::Simple("OK".into()));
    assert_eq!(names("Ann"), 1);
    assert_eq!(client.command(&["GET", "user:1"]), row(1, "Ann"));
    assert_eq!(client.command(&["GET", "user:500"]), Value::NullBulk);
    assert_eq!(client.command(&["SET", "user:500", r#"{"name":"Bob"}"#]), Value::Simple("OK".into()));
    assert_eq!(client.command(&["GET", "user:500"]), row(500, "Bob"));
    assert_eq!(client.command(&["DEL", "user:500", "user:1", "user:77"]), Value::Integer(2));
    assert_eq!(names("Ann") + names("Bob"), 0);
    for refused in [r#"{"name":"nobody"}"#, r#"{"name":"longer than ten"}"#, r#"{"no name":1}"#, "no JSON"] {
        let reply = client.command(&["SET", "user:2", refused]);
        assert!(matches!(&reply, Value::Error(text) if text.starts_with("WRITEFAIL user ")), "{refused}: {reply}");
        assert_eq!(client.command(&["GET", "user:2"]), row(2, "user 2"));
    }
    let mut wrong = vec![
        ("INSERT INTO users VALUES ($1, 'x')", "it uses $1 ($2 is the value, after the placeholders)"),
        ("INSERT INTO shoes VALUES ($1, $2)", "shoes' doesn't exist"),
    ];
    let untyped = "INSERT INTO users VALUES ($1, JSON_VALUE($2, '$.name'))";
    if server.kind() == MySqlKind::MySql {
        wrong.push((untyped, "write CAST($n AS CHAR) for $n"));
    }
    for (upsert, says) in wrong {
        let (status, output) = Server::options().conf(conf(upsert)).argument("--check-config").run_to_end();
        assert!(!status.success() && output.contains("loaders.user.upsert_sql") && output.contains(says), "{output}");
    }
    assert_eq!(client.info("x_panics"), 0);
}
