//! Loads from replicas: never an older row than the primary would give, and an answer while the primary is away.

use bytes::Bytes;
use leasehold_loader_api::{LoadError, LoadRequest, Loaded, Loader, Row};
use leasehold_loader_sql::{
    ConfigProblem, FeedSettings, LoaderSettings, Source, SourceSettings, SqlLoader, Via, build_loader, check_feed,
};
use leasehold_tests::watch::until;
use leasehold_tests::{Database, MySqlKind, MySqlServer, Postgres, Server, notices};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};
use std::time::{Duration, Instant};

const GROUP: &str = "replicas";

const USERS: &str = "CREATE TABLE users (id int8 PRIMARY KEY, n int8 NOT NULL);
    INSERT INTO users SELECT n, 0 FROM generate_series(1, 100) n;";

/// Each row says which server it was read from.
const USER_SQL: &str = "SELECT id, n, pg_is_in_recovery() AS replica FROM users WHERE id = $1";
const USERS_SQL: &str = "SELECT id, n, pg_is_in_recovery() AS replica FROM users WHERE id = ANY($1)";

fn settings(url: &str, replicas: &[String]) -> SourceSettings {
    SourceSettings {
        replicas: replicas.to_vec(),
        // On a busy machine a replica that is not held back is this late at most.
        replica_wait: Duration::from_secs(10),
        acquire_timeout: Duration::from_secs(2),
        statement_timeout: Duration::from_secs(10),
        ..SourceSettings::new("main", url)
    }
}

async fn loader(settings: SourceSettings) -> SqlLoader {
    let source = Source::open(settings).await.expect("good settings");
    let loader =
        LoaderSettings { batch_sql: Some(USERS_SQL.into()), ..LoaderSettings::new("user", "user:{id:int}", USER_SQL) };
    build_loader(&source, loader).await.expect("a good loader")
}

async fn load(loader: &SqlLoader, key: &str) -> Loaded {
    let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
    loader.load(LoadRequest { keys }).await.pop().expect("one answer per key")
}

fn row(n: i64, is_replica: bool) -> Row {
    let value = Bytes::from(format!(r#"{{"id":1,"n":{n},"replica":{is_replica}}}"#));
    Row::Value { value, version: None, tags: Vec::new() }
}

fn statistic(loader: &SqlLoader, name: &str) -> i64 {
    let found = loader.statistics().into_iter().find(|(field, _)| *field == name);
    found.expect("the loader counts this").1
}

/// Loads until a replica answers again: one that failed rests for some seconds.
async fn until_a_replica_answers(loader: &SqlLoader, n: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while load(loader, "user:1").await != Ok(row(n, true)) {
        assert!(Instant::now() < deadline, "the replica is not asked again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_replica_answers_only_once_it_has_what_the_primary_had() {
    let Some(primary) = Postgres::start(GROUP) else { return };
    let mut writes = Database::connect(&primary.url());
    writes.run(USERS);
    let mut replica = primary.standby(&[]);
    let mut on_replica = Database::connect(&replica.url());
    let runtime = runtime();
    let loader = runtime.block_on(loader(settings(&primary.url(), &[replica.url()])));
    let load = |key: &str| runtime.block_on(load(&loader, key));

    assert_eq!(load("user:1"), Ok(row(0, true)));
    assert_eq!(load("user:999"), Ok(Row::Absent), "absence, too, is read there");
    assert_eq!(loader.counters().replica_queries, 2);
    // In step, whatever the delay between the two.
    for n in 1..=200 {
        writes.run(&format!("UPDATE users SET n = {n} WHERE id = 1"));
        assert_eq!(load("user:1"), Ok(row(n, true)));
    }
    assert_eq!(statistic(&loader, "replicas_behind"), 0);

    // A batch, too.
    let keys = ["user:1", "user:999"].map(|key| Bytes::from_static(key.as_bytes())).to_vec();
    let loaded = runtime.block_on(loader.load(LoadRequest { keys }));
    assert_eq!(loaded, [Ok(row(200, true)), Ok(Row::Absent)]);

    // Behind for good: the primary answers, and a new row is not taken for absent.
    let source =
        SourceSettings { replica_wait: Duration::from_millis(20), ..settings(&primary.url(), &[replica.url()]) };
    let hasty = runtime.block_on(self::loader(source));
    on_replica.run("SELECT pg_wal_replay_pause()");
    writes.run(
        "UPDATE users SET n = 1000 WHERE id = 1; DELETE FROM users WHERE id = 2; INSERT INTO users VALUES (999, 1)",
    );
    assert_eq!(runtime.block_on(self::load(&hasty, "user:1")), Ok(row(1000, false)));
    assert_eq!(runtime.block_on(self::load(&hasty, "user:2")), Ok(Row::Absent));
    assert!(matches!(runtime.block_on(self::load(&hasty, "user:999")), Ok(Row::Value { .. })));
    assert_eq!(statistic(&hasty, "replicas_behind"), 3);
    on_replica.run("SELECT pg_wal_replay_resume()");
    runtime.block_on(until_a_replica_answers(&loader, 1000));

    // Gone: the primary answers. Back: it is asked again.
    drop(on_replica);
    replica.stop();
    assert_eq!(load("user:1"), Ok(row(1000, false)));
    assert!(statistic(&loader, "replicas_failed") > 0);
    assert_eq!(statistic(&loader, "replicas_resting"), 1);
    assert_eq!(loader.health(), Ok(()), "the primary is well");
    replica.resume();
    runtime.block_on(until_a_replica_answers(&loader, 1000));
    assert_eq!(statistic(&loader, "replicas_resting"), 0);

    // No longer a replica: what it has is its own.
    Database::connect(&replica.url()).run("SELECT pg_promote()");
    until("the replica is promoted", || {
        Database::connect(&replica.url()).number("SELECT pg_is_in_recovery()::int::int8") == 0
    });
    assert_eq!(load("user:1"), Ok(row(1000, false)));
}

#[test]
fn replicas_answer_while_the_primary_is_away() {
    let Some(mut primary) = Postgres::start(GROUP) else { return };
    Database::connect(&primary.url()).run(USERS);
    let replicas = [primary.standby(&[]), primary.standby(&[])];
    let urls = replicas.each_ref().map(Postgres::url);
    let runtime = runtime();
    let loader = runtime.block_on(loader(settings(&primary.url(), &urls)));
    assert_eq!(runtime.block_on(load(&loader, "user:1")), Ok(row(0, true)));

    let [mut one, mut other] = replicas;
    primary.stop();
    let behind = Ok(Row::Behind(Box::new(row(0, true))));
    assert_eq!(runtime.block_on(load(&loader, "user:1")), behind);
    assert_eq!(runtime.block_on(load(&loader, "user:999")), Ok(Row::Behind(Box::new(Row::Absent))));
    one.stop();
    for _ in 0..4 {
        assert_eq!(runtime.block_on(load(&loader, "user:1")), behind, "the other one answers");
    }
    assert!(loader.health().is_err());
    // A loader that starts now can check its queries, and load.
    let late = runtime.block_on(self::loader(settings(&primary.url(), &urls)));
    assert_eq!(runtime.block_on(load(&late, "user:1")), behind);
    other.stop();
    let answer = runtime.block_on(load(&loader, "user:1"));
    assert!(matches!(answer, Err(LoadError::Unavailable(_))), "{answer:?}");

    primary.resume();
    one.resume();
    runtime.block_on(until_a_replica_answers(&loader, 0));
    assert_eq!(loader.health(), Ok(()));
}

/// A writer changes a row, invalidates the key and reads it; the replica is always some time behind.
#[test]
fn nobody_reads_what_was_there_before_an_invalidation() {
    let Some(primary) = Postgres::start(GROUP) else { return };
    let mut writes = Database::connect(&primary.url());
    writes.run(USERS);
    let replica = primary.standby(&["recovery_min_apply_delay=20ms"]);
    let conf = format!(
        r#"
        [sources.main]
        url = "{}"
        replicas = ["{}"]
        replica_wait = "200ms"

        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = "{USER_SQL}"
        batch_sql = "{USERS_SQL}"
        ttl = "1h"
        hard_timeout = "20s"
        "#,
        primary.url(),
        replica.url(),
    );
    let server = Server::options().conf(conf).start();
    let mut client = server.client();
    let (mut from_replica, mut rounds) = (0, 0);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end || rounds < 20 {
        rounds += 1;
        writes.run(&format!("UPDATE users SET n = {rounds} WHERE id = 1"));
        client.command(&["DEL", "user:1"]);
        let text = client.command(&["GET", "user:1"]).text();
        assert!(text.contains(&format!("\"n\":{rounds},")), "round {rounds}: {text}");
        from_replica += usize::from(text.contains("\"replica\":true"));
    }
    println!("{rounds} rounds, {from_replica} read from the replica");
    assert!(from_replica > 0, "no load was asked of the replica, so this test sees nothing");
}

#[test]
fn a_replica_of_mysql_answers_once_it_has_what_the_primary_had() {
    let kind = MySqlKind::here();
    let Some(primary) = start_mysql(1, "ON") else { return };
    let Some(replica) = start_mysql(2, "ON") else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let mut writes = MySqlConnection::connect(&primary.url("mysql")).await.expect("it runs");
        let mut on_replica = MySqlConnection::connect(&replica.url("mysql")).await.expect("it runs");
        let applier = kind.choose("SLAVE", "REPLICA");
        run(&mut on_replica, &format!("{}; START {applier}", follow(&primary))).await;
        run(
            &mut writes,
            "CREATE DATABASE shop; CREATE TABLE shop.users (id BIGINT PRIMARY KEY, n BIGINT NOT NULL); \
            INSERT INTO shop.users VALUES (1, 0)",
        )
        .await;
        // Without its database it lets nobody in, and rests.
        until_it_has_the_table(&mut on_replica).await;
        assert_eq!(check_log(&replica).await, Ok(()), "its log has what it repeats");
        let source = SourceSettings {
            replica_wait: Duration::from_secs(10),
            ..settings(&primary.url("shop"), &[replica.url("shop")])
        };
        let hasty = SourceSettings { replica_wait: Duration::from_millis(20), ..source.clone() };
        let sql = "SELECT id, n, @@server_id = 2 AS replica FROM users WHERE id = ?";
        let open = async |settings: SourceSettings| {
            let source = Source::open(settings).await.expect("good settings");
            build_loader(&source, LoaderSettings::new("user", "user:{id:int}", sql)).await.expect("a good loader")
        };
        let (loader, hasty) = (open(source).await, open(hasty).await);
        let of = |n: i64, is_replica: bool| {
            let value = Bytes::from(format!(r#"{{"id":1,"n":{n},"replica":{}}}"#, i32::from(is_replica)));
            Ok(Row::Value { value, version: None, tags: Vec::new() })
        };
        for n in 1..=50 {
            run(&mut writes, &format!("UPDATE shop.users SET n = {n} WHERE id = 1")).await;
            assert_eq!(load(&loader, "user:1").await, of(n, true));
        }
        run(&mut on_replica, &format!("STOP {applier} SQL_THREAD")).await;
        run(&mut writes, "UPDATE shop.users SET n = 1000 WHERE id = 1").await;
        assert_eq!(load(&hasty, "user:1").await, of(1000, false));
        assert_eq!(statistic(&hasty, "replicas_behind"), 1);
        run(&mut on_replica, &format!("START {applier} SQL_THREAD")).await;
        assert_eq!(load(&loader, "user:1").await, of(1000, true));
    });
    drop(primary);
}

#[tokio::test]
async fn the_binary_log_of_a_replica_without_what_it_repeats_is_refused() {
    let applier = MySqlKind::here().choose("SLAVE", "REPLICA");
    let Some(primary) = start_mysql(1, "ON") else { return };
    let Some(replica) = start_mysql(2, "OFF") else { return };
    let mut writes = MySqlConnection::connect(&primary.url("mysql")).await.expect("it runs");
    let mut on_replica = MySqlConnection::connect(&replica.url("mysql")).await.expect("it runs");
    run(&mut writes, "CREATE DATABASE shop; CREATE TABLE shop.users (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)").await;
    run(&mut on_replica, &format!("{}; START {applier}", follow(&primary))).await;
    until_it_has_the_table(&mut on_replica).await;
    let reason = check_log(&replica).await.expect_err("its log has nothing of what it repeats").reason;
    assert!(reason.contains("follow the primary"), "{reason}");
    // As long as it has something to repeat, whether or not more arrives.
    run(&mut on_replica, &format!("STOP {applier} IO_THREAD")).await;
    assert!(check_log(&replica).await.is_err());
    run(&mut on_replica, &format!("STOP {applier}")).await;
    assert_eq!(check_log(&replica).await, Ok(()), "all its changes are its own");
}

/// A server with a log. `updates`, `ON` or `OFF`: whether that has what the server repeats as a replica.
fn start_mysql(id: u32, updates: &str) -> Option<MySqlServer> {
    let name = MySqlKind::here().choose("--log-slave-updates", "--log-replica-updates");
    let updates = format!("{name}={updates}");
    let id = format!("--server-id={id}");
    MySqlServer::start(GROUP, &[&id, "--log-bin=binlog", "--binlog-format=ROW", &updates], |_| {})
}

/// What makes a server a replica of this one.
fn follow(primary: &MySqlServer) -> String {
    let port = primary.port();
    match primary.kind() {
        MySqlKind::MariaDb => format!(
            "CHANGE MASTER TO master_host = '127.0.0.1', master_port = {port}, master_user = 'root', master_use_gtid = slave_pos"
        ),
        MySqlKind::MySql => format!(
            "CHANGE REPLICATION SOURCE TO source_host = '127.0.0.1', source_port = {port}, source_user = 'root', \
             source_auto_position = 1"
        ),
    }
}

async fn until_it_has_the_table(replica: &mut MySqlConnection) {
    let has_begun = async {
        while sqlx::raw_sql("SELECT n FROM shop.users").execute(&mut *replica).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), has_begun).await.expect("the replica follows");
}

/// Whether a feed may follow the log of this server.
async fn check_log(server: &MySqlServer) -> Result<(), ConfigProblem> {
    let settings = FeedSettings {
        via: Via::Binlog,
        table: "users".into(),
        key: notices::key(&["id"]),
        ..FeedSettings::new("feed")
    };
    check_feed(&notices::source(&server.url("shop")).await, &settings).await
}

#[tokio::test]
async fn replicas_of_another_kind_are_refused() {
    let wrong = async |url: &str, replica: &str| {
        let problem = Source::open(settings(url, &[replica.to_owned()])).await.expect_err("it is wrong");
        assert_eq!(problem.option, "replicas");
        assert!(!problem.to_string().contains("hush"), "{problem}");
        problem.reason
    };
    assert!(wrong("postgres://a@h/d", "mysql://a:hush@h/d").await.contains("number 1: is another kind of database"));
    assert!(wrong("postgres://a@h/d", "redis://a:hush@h/d").await.contains("is unknown"));
    assert!(wrong("sqlite:a.db", "sqlite:b.db").await.contains("SQLite has none"));
}

async fn run(connection: &mut MySqlConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect("good SQL");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a small runtime")
}
