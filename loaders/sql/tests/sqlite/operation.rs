//! Files, schemas, limits and mistakes: what an operator meets.

use super::*;

/// A source with one connection, a loader whose query never ends, and one of users.
async fn endless_and_users(limits: SourceSettings) -> (Source, SqlLoader, SqlLoader) {
    let settings = SourceSettings { create_with: Some(USERS.into()), max_connections: 1, ..limits };
    let source = Source::open(settings).await.unwrap();
    let endless = "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s) SELECT $1 AS id, max(i) AS n FROM s";
    let endless = build_loader(&source, loader("endless:{id:int}", endless)).await.unwrap();
    let users =
        build_loader(&source, loader("user:{id:int}", "SELECT id, name FROM users WHERE id = $1")).await.unwrap();
    (source, endless, users)
}

#[tokio::test]
async fn a_slow_statement_ends_in_time_and_the_connection_lives_on() {
    let database = Database::new();
    let limits = SourceSettings { statement_timeout: Duration::from_millis(150), ..database.settings() };
    let (_source, endless, users) = endless_and_users(limits).await;
    let begun = Instant::now();
    assert_eq!(load_one(&endless, "endless:1").await, Err(LoadError::Timeout(Duration::from_millis(150))));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"ann"}"#));
    assert!(users.health().is_ok());
}

#[tokio::test]
async fn a_load_goes_on_when_nobody_waits_for_it() {
    let (_database, source) = Database::created(USERS).await;
    let users =
        build_loader(&source, loader("user:{id:int}", "SELECT id, name FROM users WHERE id = $1")).await.unwrap();
    for _ in 0..200 {
        let keys = vec![Bytes::from_static(b"user:1")];
        drop(users.load(LoadRequest { keys }));
        assert_eq!(load_one(&users, "user:2").await, value(r#"{"id":2,"name":"bob"}"#));
    }
}

#[tokio::test]
async fn a_star_follows_the_schema() {
    let (database, source) = Database::created(USERS).await;
    let settings = batched(
        "user:{id:int}",
        "SELECT * FROM users WHERE id = $1",
        "SELECT * FROM users WHERE id IN (SELECT value FROM json_each($1))",
    );
    let users = build_loader(&source, settings).await.unwrap();
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"ann","updated":10}"#));
    database.run("ALTER TABLE users ADD COLUMN email TEXT DEFAULT 'none'").await;
    let grown = r#"{"id":1,"name":"ann","updated":10,"email":"none"}"#;
    assert_eq!(load_one(&users, "user:1").await, value(grown));
    assert_eq!(load(&users, &["user:1", "user:99"]).await[0], value(grown));
    database.run("ALTER TABLE users DROP COLUMN name").await;
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"updated":10,"email":"none"}"#));
    database.run("ALTER TABLE users RENAME COLUMN id TO number").await;
    assert!(matches!(load_one(&users, "user:1").await, Err(LoadError::Rejected(_))));
}

#[tokio::test]
async fn a_named_column_that_is_dropped_is_refused_and_health_stays_good() {
    let (database, source) = Database::created(USERS).await;
    let users =
        build_loader(&source, loader("user:{id:int}", "SELECT id, name FROM users WHERE id = $1")).await.unwrap();
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"ann"}"#));
    database.run("ALTER TABLE users DROP COLUMN name").await;
    assert!(matches!(load_one(&users, "user:1").await, Err(LoadError::Rejected(reason)) if reason.contains("name")));
    database.run("ALTER TABLE users ADD COLUMN name TEXT DEFAULT 'new'").await;
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"new"}"#));
}

#[tokio::test]
async fn a_database_that_is_not_there_yet_is_no_error() {
    let database = Database::new();
    let source = Source::open(database.settings()).await.unwrap();
    assert!(source.check().await.is_err());
    let sql = "SELECT id, name FROM users WHERE id = $1";
    let users = build_loader(&source, loader("user:{id:int}", sql)).await.unwrap();
    let wrong =
        build_loader(&source, loader("user:{id:int}", "SELECT id, shoe FROM users WHERE id = $1")).await.unwrap();
    assert!(users.health().unwrap_err().contains("not checked yet"));
    assert!(matches!(load_one(&users, "user:1").await, Err(LoadError::Unavailable(_))));
    assert!(users.matches(b"user:1"), "a degraded loader knows its keys");

    database.run(USERS).await;
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"ann"}"#));
    assert_eq!(users.health(), Ok(()));
    assert_eq!(source.health(), Ok(()));
    assert!(matches!(load_one(&wrong, "user:1").await, Err(LoadError::Rejected(reason)) if reason.contains("shoe")));
    assert!(wrong.health().unwrap_err().contains("shoe"));
}

#[tokio::test]
async fn the_file_is_never_written() {
    let (_database, source) = Database::created(USERS).await;
    let settings = loader("user:{id:int}", "UPDATE users SET name = 'x' WHERE id = $1 RETURNING id, name");
    // SQLite prepares it; running it is what the read-only file forbids.
    if let Ok(writer) = build_loader(&source, settings).await {
        assert!(matches!(load_one(&writer, "user:1").await, Err(LoadError::Rejected(_))));
    }
    let users =
        build_loader(&source, loader("user:{id:int}", "SELECT id, name FROM users WHERE id = $1")).await.unwrap();
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"ann"}"#));
}

#[tokio::test]
async fn a_script_creates_the_file_once_and_wholly() {
    let database = Database::new();
    let with = |script: &str| SourceSettings { create_with: Some(script.into()), ..database.settings() };
    let error = Source::open(with("CREATE TABLE a (x); INSERT INTO a VALUES (1); no sql;")).await.unwrap_err();
    assert_eq!(error.option, "create_with");
    assert!(error.reason.contains("syntax error"), "{error}");
    assert!(database.files().is_empty(), "{:?}", database.files());

    Source::open(with(USERS)).await.unwrap().close().await;
    assert_eq!(database.files(), ["test.db"]);
    // The second time the file is there and the script is not looked at.
    let source = Source::open(with("no sql")).await.unwrap();
    let users =
        build_loader(&source, loader("user:{id:int}", "SELECT id, name FROM users WHERE id = $1")).await.unwrap();
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"ann"}"#));
}

#[tokio::test]
async fn two_starts_at_once_share_one_file() {
    let database = Database::new();
    let open = || Source::open(SourceSettings { create_with: Some(USERS.into()), ..database.settings() });
    // The unfinished files carry the process id; within one process the second start waits for nothing, so run them in turn.
    let (first, second) = (open().await.unwrap(), open().await.unwrap());
    first.check().await.unwrap();
    second.check().await.unwrap();
}

#[tokio::test]
async fn every_mistake_of_the_operator_is_named() {
    let (_database, source) = Database::created(USERS).await;
    let good = "SELECT id, name FROM users WHERE id = $1";
    let good_batch = "SELECT id, name FROM users WHERE id IN (SELECT value FROM json_each($1))";
    let user = "user:{id:int}";
    let batch = |sql: &str| batched(user, good, sql);
    for (settings, option, says) in [
        (loader("user:{id:integer}", good), "pattern", "not one of int"),
        (loader(user, ""), "sql", "is empty"),
        (loader(user, "SELEKT $1"), "sql", "syntax error"),
        (loader(user, "SELECT id, shoe FROM users WHERE id = $1"), "sql", "no such column: shoe"),
        (loader(user, "SELECT id FROM shoes WHERE id = $1"), "sql", "no such table"),
        (loader(user, "SELECT name FROM users WHERE id = $1"), "sql", "key column `id`"),
        (loader(user, "SELECT id FROM users"), "sql", "it uses none"),
        (loader(user, "SELECT id FROM users WHERE id = $1 OR id = $2"), "sql", "it uses $1, $2"),
        (loader(user, "SELECT id FROM users WHERE id = $2"), "sql", "it uses $2"),
        (loader(user, "SELECT id FROM users WHERE id = ?"), "sql", "parameter ?"),
        (loader(user, "SELECT id FROM users WHERE id = :id"), "sql", "parameter :id"),
        (loader(user, "SELECT id FROM users WHERE id = $1; SELECT 1"), "sql", "more than one statement"),
        (loader(user, "SELECT id, name, name FROM users WHERE id = $1"), "sql", "two columns named `name`"),
        (batch("SELECT id FROM users WHERE id IN (SELECT value FROM json_each($1))"), "batch_sql", "same columns"),
        (batch("SELECT id, name FROM users"), "batch_sql", "it uses none"),
        (batch("nonsense $1"), "batch_sql", "syntax error"),
        (LoaderSettings { batch_max: 0, ..batch(good_batch) }, "batch_max", "from 1"),
        (LoaderSettings { row_bytes_max: 0, ..loader(user, good) }, "row_bytes_max", "from 1"),
        (LoaderSettings { version_column: Some("at".into()), ..loader(user, good) }, "version_column", "not among"),
        (LoaderSettings { tags: vec!["of:{nobody}".into()], ..loader(user, good) }, "tags", "`nobody` is not among"),
        (LoaderSettings { tags: vec!["of:{id".into()], ..loader(user, good) }, "tags", "a brace must open or close"),
        (LoaderSettings { tags: vec!["all".into(); 33], ..loader(user, good) }, "tags", "at most 32"),
        (
            LoaderSettings { batch_key: Some(vec!["name".into(), "id".into()]), ..batch(good_batch) },
            "batch_key",
            "names 2 columns",
        ),
        (LoaderSettings { batch_key: Some(vec!["shoe".into()]), ..batch(good_batch) }, "sql", "key column `shoe`"),
        (
            LoaderSettings {
                value: ValueFormat::Column,
                ..loader(user, "SELECT id, name, updated FROM users WHERE id = $1")
            },
            "value",
            "exactly one column",
        ),
        (batched("settings", "SELECT 1 AS one", "SELECT 1 AS one"), "batch_sql", "no placeholders"),
    ] {
        let problem = problem(&source, settings.clone()).await;
        assert_eq!(problem.option, option, "{problem}");
        assert!(problem.reason.contains(says), "{says}: {problem}");
        assert!(problem.to_string().starts_with("loader test: "), "{problem}");
    }
}

#[tokio::test]
async fn a_key_column_may_have_another_name() {
    let (_database, source) = Database::created(USERS).await;
    let settings = LoaderSettings {
        batch_key: Some(vec!["number".into()]),
        ..batched(
            "user:{id:int}",
            "SELECT id AS number, name FROM users WHERE id = $1",
            "SELECT id AS number, name FROM users WHERE id IN (SELECT value FROM json_each($1))",
        )
    };
    let users = build_loader(&source, settings).await.unwrap();
    assert_eq!(load(&users, &["user:2", "user:1"]).await[1], value(r#"{"number":1,"name":"ann"}"#));
}

#[tokio::test]
async fn a_pattern_without_placeholders_is_one_key() {
    let (_database, source) = Database::created(USERS).await;
    let settings = loader("users:count", "SELECT count(*) AS count FROM users");
    let count = build_loader(&source, settings).await.unwrap();
    assert_eq!(load_one(&count, "users:count").await, value(r#"{"count":4}"#));
}

#[tokio::test]
async fn explain_shows_what_would_be_asked() {
    let (_database, source) = Database::created(USERS).await;
    let sql = "SELECT id, name FROM users WHERE id = $1";
    let batch_sql = "SELECT id, name FROM users WHERE id IN (SELECT value FROM json_each($1))";
    let users = build_loader(&source, batched("user:{id:int}", sql, batch_sql)).await.unwrap();
    let lines = users.explain(b"user:42");
    let line = |name| lines.iter().find(|(field, _)| *field == name).map(|(_, text)| text.as_str());
    assert_eq!(line("sql"), Some(sql));
    assert_eq!(line("param 1"), Some("42 (integer)"));
    assert_eq!(line("batch_sql"), Some(batch_sql));
}

#[tokio::test]
async fn busy_connections_make_a_load_unavailable_but_not_the_source() {
    let database = Database::new();
    let limits = SourceSettings {
        acquire_timeout: Duration::from_millis(100),
        statement_timeout: Duration::from_millis(1_500),
        ..database.settings()
    };
    let (source, endless, users) = endless_and_users(limits).await;
    let slow = endless.load(LoadRequest { keys: vec![Bytes::from_static(b"endless:1")] });
    let answer = loop {
        // Until the slow load has the connection.
        let answer = load_one(&users, "user:1").await;
        if answer.is_err() {
            break answer;
        }
    };
    assert!(matches!(answer, Err(LoadError::Unavailable(reason)) if reason.contains("were in use")));
    assert_eq!(source.health(), Ok(()));
    assert!(matches!(slow.await[0], Err(LoadError::Timeout(_))));
    assert_eq!(load_one(&users, "user:1").await, value(r#"{"id":1,"name":"ann"}"#));
}

#[tokio::test]
async fn the_demo_database_is_the_same_everywhere() {
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/demo.sql")).unwrap();
    let (database, source) = Database::created(&script).await;
    assert_eq!(database.files(), ["test.db"]);
    let user = loader("user:{id:int}", "SELECT id, name, email, city, created_at FROM users WHERE id = $1");
    let user = build_loader(&source, user).await.unwrap();
    let sophie = r#"{"id":42,"name":"Sophie Novák","email":"user42@example.com","city":"Dresden","created_at":"2020-01-01T18:19:42Z"}"#;
    assert_eq!(load_one(&user, "user:42").await, value(sophie));
    assert!(matches!(load_one(&user, "user:100000").await, Ok(Row::Value { .. })));
    assert_eq!(load_one(&user, "user:100001").await, Ok(Row::Absent));
    let order = loader("order:{id:int}", "SELECT id, user_id, item, quantity, price_cents FROM orders WHERE id = $1");
    let order = build_loader(&source, order).await.unwrap();
    let desk = r#"{"id":62,"user_id":42,"item":"desk","quantity":2,"price_cents":24900}"#;
    assert_eq!(load_one(&order, "order:62").await, value(desk));
    let sums = "SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM orders) AS orders,
                       (SELECT sum(price_cents * quantity) FROM orders) AS cents";
    let sums = build_loader(&source, loader("sums", sums)).await.unwrap();
    assert_eq!(load_one(&sums, "sums").await, value(r#"{"users":100000,"orders":150000,"cents":3532582480}"#));
}

#[tokio::test]
async fn keys_are_listed_from_the_columns_of_a_query() {
    let (_database, source) = Database::created(
        "CREATE TABLE orders (org INTEGER, name TEXT);
         INSERT INTO orders VALUES (2, 'b'), (1, 'a'), (3, NULL), (NULL, 'c'), ('x', 'd'), (4, ''), (5, 'e:f');",
    )
    .await;
    let sql = "SELECT org, name FROM orders WHERE org = $1 AND name = $2";
    let orders = build_loader(&source, loader("order:{org:int}:{name}", sql)).await.unwrap();
    let list =
        |sql: &str, keys_max, bytes_max| orders.list_keys(sql.to_owned(), KeyList::with_limits(keys_max, bytes_max));
    let found = list("SELECT org AS whatever, name FROM orders ORDER BY org", 10, 100).await.unwrap();
    let keys: Vec<&[u8]> = (0..found.len()).map(|place| found.get(place).unwrap()).collect();
    assert_eq!(keys, [&b"order:1:a"[..], b"order:2:b", b"order:5:e:f"]);
    assert_eq!(found.bad_rows, 4, "two NULLs, a word for a number, an empty text");

    for (sql, keys_max, bytes_max, says) in [
        ("SELECT org, name FROM orders", 2, 100, "more keys than may be warmed: 2"),
        ("SELECT org, name FROM orders", 10, 20, "more keys than may be warmed"),
        ("SELECT org FROM orders", 10, 100, "one column for each of the pattern's 2 placeholders"),
        ("SELECT org, name FROM orders WHERE org = $1", 10, 100, "each of the pattern's 0 placeholders"),
        ("DELETE FROM orders RETURNING org, name", 10, 100, "readonly"),
        ("SELECT missing, name FROM orders", 10, 100, "no such column"),
    ] {
        let Err(LoadError::Rejected(reason)) = list(sql, keys_max, bytes_max).await else { panic!("{sql} lists keys") };
        assert!(reason.contains(says), "{sql}: {reason}");
    }
    assert_eq!(load_one(&orders, "order:1:a").await, value(r#"{"org":1,"name":"a"}"#), "nothing was deleted");
}
