//! A database in trouble: slow, frozen, killed, down at start, changed under a prepared statement.

use super::*;

#[tokio::test]
async fn a_slow_statement_ends_on_the_server_too() {
    let Some(database) = Database::with(USERS, |settings| {
        settings.statement_timeout = Duration::from_millis(300);
        settings.max_connections = 1;
    })
    .await
    else {
        return;
    };
    let loader = database.loader(users()).await;
    let slow = single("slow:{id:int}", "SELECT id FROM users WHERE id = $1 AND pg_sleep(30) IS NOT NULL");
    let slow = database.loader(slow).await;
    let begun = Instant::now();
    assert_eq!(load_one(&slow, "slow:1").await, Err(LoadError::Timeout(Duration::from_millis(300))));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    database.until_idle().await;
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    assert_eq!(loader.health(), Ok(()));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_query_behind_on_a_free_connection() {
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 1).await else { return };
    let loader = database.loader(users()).await;
    let slow = single("slow:{id:int}", "SELECT id FROM users WHERE id = $1 AND pg_sleep(3) IS NOT NULL");
    let slow = database.loader(slow).await;
    drop(slow.load(LoadRequest { keys: vec![Bytes::from_static(b"slow:1")] }));
    database.until_running(None).await;
    assert_eq!(load_one(&loader, "user:2").await, user(2));
    database.until_idle().await;
}

#[tokio::test]
async fn a_frozen_server_does_not_hold_a_load_for_ever() {
    let Some(database) = Database::with(USERS, |settings| {
        settings.statement_timeout = Duration::from_millis(300);
        settings.acquire_timeout = Duration::from_secs(1);
        settings.max_connections = 1;
    })
    .await
    else {
        return;
    };
    let loader = database.loader(users()).await;
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    let frozen = database.backends().await;
    assert_eq!(frozen.len(), 1);
    signal("STOP", &frozen);
    let begun = Instant::now();
    let answer = load_one(&loader, "user:1").await;
    let took = begun.elapsed();
    signal("CONT", &frozen);
    // The second where the connection froze on its way back into the pool, which asks it whether it lives.
    assert!(matches!(answer, Err(LoadError::Timeout(_) | LoadError::Unavailable(_))), "{answer:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(load_one(&loader, "user:2").await, user(2), "on a connection of its own");
}

fn signal(name: &str, pids: &[i32]) {
    let pids = pids.iter().map(i32::to_string);
    let status = std::process::Command::new("kill").arg(format!("-{name}")).args(pids).status();
    assert!(status.expect("there is `kill`").success());
}

#[tokio::test]
async fn a_backend_killed_in_the_middle_costs_one_more_try() {
    // An idle connection beside it would be killed a moment later, perhaps when the load has just moved there.
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 1).await else { return };
    let slow = single("slow:{id:int}", "SELECT id, name FROM users WHERE id = $1 AND pg_sleep(3) IS NOT NULL");
    let slow = database.loader(slow).await;
    let load = slow.load(LoadRequest { keys: vec![Bytes::from_static(b"slow:7")] });
    database.until_running(None).await;
    database.run(KILL).await;
    assert_eq!(load.await, [user(7)]);
    assert_eq!(slow.counters().retries, 1);
    assert_eq!(slow.health(), Ok(()));
}

const KILL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'leasehold' AND datname = current_database()";

#[tokio::test]
async fn a_backend_killed_twice_makes_the_load_unavailable() {
    // An idle connection beside it would be killed a moment later, perhaps when the load has just moved there.
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 1).await else { return };
    let slow = single("slow:{id:int}", "SELECT id, name FROM users WHERE id = $1 AND pg_sleep(3) IS NOT NULL");
    let slow = database.loader(slow).await;
    let load = slow.load(LoadRequest { keys: vec![Bytes::from_static(b"slow:7")] });
    let first = database.until_running(None).await;
    database.run(KILL).await;
    database.until_running(Some(first)).await;
    database.run(KILL).await;
    let loaded = load.await;
    assert!(matches!(&loaded[0], Err(LoadError::Unavailable(_))), "{loaded:?}");
    assert!(slow.health().is_err());
    assert_eq!(load_one(&slow, "slow:7").await, user(7));
    assert_eq!(slow.health(), Ok(()));
}

#[tokio::test]
async fn idle_connections_that_died_are_not_noticed() {
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 8).await else { return };
    let loader = Arc::new(database.loader(users()).await);
    let slow = single("slow:{id:int}", "SELECT id, name FROM users WHERE id = $1 AND pg_sleep(1) IS NOT NULL");
    let slow = database.loader(slow).await;
    let open: Vec<_> =
        (1..=8).map(|id| slow.load(LoadRequest { keys: vec![Bytes::from(format!("slow:{id}"))] })).collect();
    for load in open {
        assert!(load.await[0].is_ok());
    }
    // As many as were under way at once; on a slow machine one may have served two loads.
    assert!(database.backends().await.len() > 1);
    database.run(KILL).await;
    database.until_left_alone().await;
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
    let Some(mut server) = Postgres::start(GROUP) else { return };
    let mut admin = PgConnection::connect(&server.url()).await.expect("the server runs");
    sqlx::raw_sql(USERS).execute(&mut admin).await.expect("good SQL");
    server.stop();

    let mut settings = SourceSettings::new("main", server.url().replace("test@", "test:hush%21@"));
    settings.acquire_timeout = Duration::from_millis(500);
    let source = Source::open(settings.clone()).await.expect("a database that is down is no error");
    let loader = build_loader(&source, users()).await.expect("nor for a loader");
    let wrong = build_loader(&source, single("t:{id:int}", "SELECT id, shoe FROM users WHERE id = $1")).await;
    let wrong = wrong.expect("nobody can know yet");
    assert!(loader.matches(b"user:1"));
    let health = loader.health().expect_err("it is down");
    assert!(health.contains("not checked yet") && health.contains("refused"), "{health}");
    let begun = Instant::now();
    let answers = tokio::join!(load_one(&loader, "user:1"), load_one(&loader, "user:2"), load_one(&wrong, "t:1"));
    for answer in [answers.0, answers.1, answers.2] {
        let Err(LoadError::Unavailable(reason)) = answer else { panic!("{answer:?}") };
        assert!(reason.contains("refused"), "{reason}");
        assert!(!reason.contains("hush"), "{reason}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "loads do not queue up behind each other: {:?}", begun.elapsed());
    assert!(source.check().await.is_err());

    server.resume();
    settings.acquire_timeout = Duration::from_secs(10);
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    assert_eq!(load(&loader, &["user:2", "user:0"]).await, [user(2), Ok(Row::Absent)]);
    assert_eq!((loader.health(), source.health(), source.check().await), (Ok(()), Ok(()), Ok(())));
    assert!(refused(&load_one(&wrong, "t:1").await).contains("shoe"));
    assert!(wrong.health().expect_err("it is wrong").contains("shoe"));

    server.stop();
    let answer = load_one(&loader, "user:1").await;
    assert!(matches!(answer, Err(LoadError::Unavailable(_))), "{answer:?}");
    assert!(loader.health().is_err());
    server.resume();
    assert_eq!(load_one(&loader, "user:1").await, user(1));
    assert_eq!(loader.health(), Ok(()));
}

#[tokio::test]
async fn a_changed_table_under_a_prepared_statement_is_followed() {
    let Some(database) = Database::with(USERS, |settings| settings.max_connections = 4).await else { return };
    let star = batched(
        "user:{id:int}",
        "SELECT * FROM users WHERE id = $1",
        "SELECT * FROM users WHERE id = ANY($1) AND pg_sleep(0.05) IS NOT NULL",
    );
    let star = Arc::new(database.loader(star).await);
    let on_each_connection = |expected: Loaded| {
        let star = star.clone();
        async move {
            let loads: Vec<_> = (0..4)
                .map(|_| {
                    let star = star.clone();
                    tokio::spawn(async move { load(&star, &["user:5", "user:0"]).await })
                })
                .collect();
            for load in loads {
                assert_eq!(load.await.expect("no panic")[0], expected);
            }
            assert_eq!(load_one(&star, "user:5").await, expected);
        }
    };
    on_each_connection(user(5)).await;
    database.run("ALTER TABLE users ADD COLUMN city text DEFAULT 'Rome'").await;
    on_each_connection(value(r#"{"id":5,"name":"user 5","city":"Rome"}"#)).await;
    database.run("ALTER TABLE users DROP COLUMN name").await;
    on_each_connection(value(r#"{"id":5,"city":"Rome"}"#)).await;
    // The same names, another type: numeric is a string in JSON.
    database
        .run("ALTER TABLE users ALTER COLUMN id TYPE numeric, ALTER COLUMN city DROP DEFAULT, ALTER COLUMN city TYPE text[] USING ARRAY[city]")
        .await;
    on_each_connection(value(r#"{"id":"5","city":["Rome"]}"#)).await;
    assert!(star.counters().retries > 0, "the server must have refused the old plan, or this test sees nothing");
    database.run("ALTER TABLE users ADD COLUMN ip point").await;
    assert!(refused(&load_one(&star, "user:5").await).contains("POINT"));
    database.run("ALTER TABLE users DROP COLUMN ip").await;
    on_each_connection(value(r#"{"id":"5","city":["Rome"]}"#)).await;
    database.run("DROP TABLE users").await;
    let answer = load_one(&star, "user:5").await;
    assert!(refused(&answer).contains("42P01"), "{answer:?}");
    assert_eq!(star.health(), Ok(()), "the source answers");
}
