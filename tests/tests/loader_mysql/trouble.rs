//! MariaDB or MySQL that is slow, hangs, kills connections, restarts, or changes its tables.

use super::*;

// Statements that sleep read the whole table for it: of a single row MySQL would say that its SLEEP() has ended, not that it was ended.

#[tokio::test]
async fn the_server_ends_a_statement_after_its_limit() {
    let limit = Duration::from_millis(300);
    let Some(database) = Database::with(USERS, |settings| settings.statement_timeout = limit).await else { return };
    let slow = database
        .loader(single("slow:{id:int}", "SELECT id, name FROM users WHERE id + 0 = $1 AND SLEEP(30) = 0"))
        .await;
    let begun = Instant::now();
    assert_eq!(load_one(&slow, "slow:1").await, Err(LoadError::Timeout(limit)));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    database.until_none_sleeps().await;
    assert_eq!(slow.health(), Ok(()));
    let users = database.loader(users()).await;
    assert_eq!(load_one(&users, "user:1").await, user(1));
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_after_the_limit() {
    let Some(server) = MySqlServer::start(GROUP, &[], |_| {}) else { return };
    let server = Arc::new(server);
    let limit = Duration::from_millis(300);
    let database = Database::on(server.clone(), USERS, |settings| settings.statement_timeout = limit).await;
    let Some(database) = database else { return };
    let loader = database.loader(users()).await;
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    server.pause();
    let begun = Instant::now();
    let answer = load_one(&loader, "user:1").await;
    let took = begun.elapsed();
    server.go_on();
    // The connection of the load before may be on its way back to the pool yet; then a new one is tried for.
    assert!(matches!(&answer, Err(error) if error.is_transient()), "{answer:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(load_one(&loader, "user:2").await, user(2), "on a connection of its own");
}

#[tokio::test]
async fn a_connection_killed_in_the_middle_costs_one_more_try() {
    let Some(database) = Database::new(USERS).await else { return };
    let slow =
        database.loader(single("slow:{id:int}", "SELECT id, name FROM users WHERE id + 0 = $1 AND SLEEP(3) = 0")).await;
    let load = slow.load(LoadRequest { keys: vec![Bytes::from_static(b"slow:7")] });
    let id = database.until_sleeping(None).await;
    database.run(&format!("KILL CONNECTION {id}")).await;
    assert_eq!(load.await, [user(7)]);
    assert_eq!(slow.counters().retries, 1);
    assert_eq!(slow.health(), Ok(()));
}

#[tokio::test]
async fn a_connection_killed_twice_makes_the_load_unavailable() {
    let Some(database) = Database::new(USERS).await else { return };
    let slow =
        database.loader(single("slow:{id:int}", "SELECT id, name FROM users WHERE id + 0 = $1 AND SLEEP(3) = 0")).await;
    let load = slow.load(LoadRequest { keys: vec![Bytes::from_static(b"slow:7")] });
    let first = database.until_sleeping(None).await;
    database.run(&format!("KILL CONNECTION {first}")).await;
    let second = database.until_sleeping(Some(first)).await;
    database.run(&format!("KILL CONNECTION {second}")).await;
    let loaded = load.await;
    assert!(matches!(&loaded[0], Err(LoadError::Unavailable(_))), "{loaded:?}");
    assert!(slow.health().is_err());
    assert_eq!(load_one(&slow, "slow:7").await, user(7));
    assert_eq!(slow.health(), Ok(()));
}

#[tokio::test]
async fn a_query_killed_by_somebody_is_unavailable_not_absent() {
    let Some(database) = Database::new(USERS).await else { return };
    let slow =
        database.loader(single("slow:{id:int}", "SELECT id, name FROM users WHERE id + 0 = $1 AND SLEEP(5) = 0")).await;
    let load = slow.load(LoadRequest { keys: vec![Bytes::from_static(b"slow:7")] });
    let id = database.until_sleeping(None).await;
    database.run(&format!("KILL QUERY {id}")).await;
    let loaded = load.await;
    assert!(matches!(&loaded[0], Err(LoadError::Unavailable(reason)) if reason.contains("1317")), "{loaded:?}");
}

#[tokio::test]
async fn idle_connections_that_the_server_closed_are_not_noticed() {
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 4).await else { return };
    let loader = Arc::new(database.loader(users()).await);
    let slow =
        database.loader(single("slow:{id:int}", "SELECT id, name FROM users WHERE id + 0 = $1 AND SLEEP(1) = 0")).await;
    let open: Vec<_> =
        (1..=4).map(|id| slow.load(LoadRequest { keys: vec![Bytes::from(format!("slow:{id}"))] })).collect();
    for load in open {
        assert!(load.await[0].is_ok());
    }
    let ours = "COMMAND = 'Sleep'";
    let ids = database.connections(ours).await;
    // The one that asks, and as many as were under way at once; on a slow machine one may have served two loads.
    assert!(ids.len() > 2, "{ids:?}");
    let mine: u64 = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS UNSIGNED)")
        .fetch_one(&database.admin)
        .await
        .expect("good SQL");
    for id in ids.into_iter().filter(|id| *id != mine) {
        // One that is gone by itself is no error here.
        let _ = sqlx::raw_sql(AssertSqlSafe(format!("KILL CONNECTION {id}"))).execute(&database.admin).await;
    }
    let loads: Vec<_> = (1..=8)
        .map(|id| {
            let loader = loader.clone();
            tokio::spawn(async move { load_one(&loader, &format!("user:{id}")).await })
        })
        .collect();
    for (id, load) in (1..=8).zip(loads) {
        assert_eq!(load.await.expect("no panic"), user(id));
    }
}

#[tokio::test]
async fn a_database_that_is_down_at_start_is_checked_when_it_is_back() {
    let Some(mut server) = MySqlServer::start(GROUP, &[], |_| {}) else { return };
    let admin = MySqlPool::connect(&server.url("")).await.expect("the server runs");
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE DATABASE d; USE d; {USERS} CREATE USER app@127.0.0.1 IDENTIFIED BY 'hush!'; GRANT SELECT ON d.* TO app@127.0.0.1"
    )))
    .execute(&admin)
    .await
    .expect("good SQL");
    server.kill();

    let mut settings = SourceSettings::new("main", server.url_of("app:hush%21", "d"));
    settings.acquire_timeout = Duration::from_millis(500);
    let source = Source::open(settings).await.expect("a database that is down is no error");
    let loader = build_loader(&source, users()).await.expect("nor for a loader");
    let wrong = build_loader(&source, single("t:{id:int}", "SELECT id, shoe FROM users WHERE id = $1")).await;
    let wrong = wrong.expect("nobody can know yet");
    let health = loader.health().expect_err("it is down");
    assert!(health.contains("not checked yet") && health.contains("refused"), "{health}");
    for loader in [&loader, &wrong] {
        let answer = load_one(loader, if loader.matches(b"user:1") { "user:1" } else { "t:1" }).await;
        let Err(LoadError::Unavailable(reason)) = answer else { panic!("{answer:?}") };
        assert!(reason.contains("refused") && !reason.contains("hush"), "{reason}");
    }
    assert!(source.check().await.is_err());

    server.resume();
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    assert_eq!(load(&loader, &["user:2", "user:0"]).await, [user(2), Ok(Row::Absent)]);
    assert_eq!((loader.health(), source.health(), source.check().await), (Ok(()), Ok(()), Ok(())));
    assert!(refused(&load_one(&wrong, "t:1").await).contains("shoe"));

    server.kill();
    let answer = load_one(&loader, "user:1").await;
    assert!(matches!(answer, Err(LoadError::Unavailable(_))), "{answer:?}");
    server.resume();
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    assert_eq!(loader.health(), Ok(()));
}

#[tokio::test]
async fn wrong_logins_are_told_without_the_password() {
    let Some(server) = MySqlServer::shared(GROUP) else { return };
    let mut settings = SourceSettings::new("main", server.url_of("nobody:hush%21", "mysql"));
    settings.acquire_timeout = Duration::from_secs(10);
    let source = Source::open(settings).await.expect("a good URL");
    let reason = source.check().await.expect_err("no such user");
    assert!(reason.contains("Access denied") && !reason.contains("hush"), "{reason}");
    let mut settings = SourceSettings::new("main", server.url("no_such_database"));
    settings.acquire_timeout = Duration::from_secs(10);
    let source = Source::open(settings).await.expect("a good URL");
    let loader = build_loader(&source, users()).await.expect("a database may be made later");
    let answer = load_one(&loader, "user:1").await;
    assert!(
        matches!(&answer, Err(LoadError::Unavailable(reason)) if reason.contains("no_such_database")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_changed_table_under_a_prepared_statement_is_followed() {
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 2).await else { return };
    let star = batched("user:{id:int}", "SELECT * FROM users WHERE id = $1", "SELECT * FROM users WHERE id IN ($1)");
    let star = database.loader(star).await;
    let both_ways = async |expected: &str| {
        let loaded = load_both_ways(&star, &["user:5", "user:0"]).await;
        assert_eq!(loaded, [value(expected), Ok(Row::Absent)]);
    };
    both_ways(r#"{"id":5,"name":"user 5"}"#).await;
    database.run("ALTER TABLE users ADD COLUMN city text DEFAULT ('Rome')").await;
    both_ways(r#"{"id":5,"name":"user 5","city":"Rome"}"#).await;
    database.run("ALTER TABLE users DROP COLUMN name").await;
    both_ways(r#"{"id":5,"city":"Rome"}"#).await;
    // The same names, other types.
    database.run("ALTER TABLE users MODIFY id decimal(10,1), MODIFY city varbinary(20)").await;
    both_ways(r#"{"id":"5.0","city":"Um9tZQ=="}"#).await;
    // A new column that is declared JSON, which the server tells only if asked.
    database.run("ALTER TABLE users ADD COLUMN doc json DEFAULT ('{\"a\":1}'), DROP COLUMN city").await;
    let with_doc = MySqlKind::here().choose(r#"{"id":"5.0","doc":{"a":1}}"#, r#"{"id":"5.0","doc":{"a": 1}}"#);
    both_ways(with_doc).await;
    database.run("ALTER TABLE users ADD COLUMN place point").await;
    assert!(refused(&load_one(&star, "user:5").await).contains("GEOMETRY"));
    database.run("ALTER TABLE users DROP COLUMN place").await;
    both_ways(with_doc).await;
    database.run("DROP TABLE users").await;
    assert!(refused(&load_one(&star, "user:5").await).contains("1146"));
    assert_eq!(star.health(), Ok(()), "the source answers");
}

#[tokio::test]
async fn a_closed_source_is_unavailable() {
    let Some(database) = Database::new(USERS).await else { return };
    let loader = database.loader(users()).await;
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    database.source.close().await;
    assert!(matches!(load_one(&loader, "user:1").await, Err(LoadError::Unavailable(_))));
}
