//! Writes that go through to PostgreSQL and SQLite, seen by clients of the real binary: the reply comes after the commit, and no
//! reader sees what was before it any more.

use leasehold_tests::process::Directory;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Server, Value, groups};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const GROUP: &str = "write through";

/// `slow` makes a commit wait, for who wants to be in the middle of one.
const SCHEMA: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL CHECK (name <> 'nobody'));
    CREATE TABLE pets (owner int8 REFERENCES users (id));
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 100) n;
    INSERT INTO pets VALUES (3);
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.name = 'slow') EXECUTE FUNCTION slow();";

const GATE: i64 = 78;

/// Reads pass a gate, a lock that a test can hold, after they have read.
fn conf(url: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "10s"
        acquire_timeout = "10s"

        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = """WITH row AS MATERIALIZED (SELECT id, name FROM users WHERE id = $1),
            gate AS MATERIALIZED (SELECT count(*), pg_advisory_xact_lock_shared({GATE})::text AS passed FROM row)
            SELECT id, name FROM row, gate WHERE passed IS NOT NULL"""
        write = "through"
        upsert_sql = """INSERT INTO users SELECT $1, r.name FROM jsonb_to_record($2::jsonb) r(name text)
            ON CONFLICT (id) DO UPDATE SET name = excluded.name"""
        delete_sql = "DELETE FROM users WHERE id = $1"
        hard_timeout = "20s"
        mode = "transparent"
        "#
    )
}

struct Setup {
    server: Server,
    client: Client,
    database: Database,
    _postgres: Arc<Postgres>,
}

impl Setup {
    fn new() -> Option<Self> {
        let postgres = Postgres::shared(GROUP)?;
        let url = postgres.new_database();
        let mut database = Database::connect(&url);
        database.run(SCHEMA);
        let server = Server::options().conf(conf(&url)).start();
        let client = server.client();
        Some(Self { client, server, database, _postgres: postgres })
    }

    /// How many rows have this id and name.
    fn rows(&mut self, id: i64, name: &str) -> i64 {
        self.database.number(&format!("SELECT count(*) FROM users WHERE id = {id} AND name = '{name}'"))
    }

    fn writes(&mut self, counter: &str) -> i64 {
        self.client.loader_counter("user", counter)
    }
}

fn row(id: i64, name: &str) -> Value {
    Value::bulk(format!(r#"{{"id":{id},"name":"{name}"}}"#))
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn error_of(reply: Value) -> String {
    match reply {
        Value::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn what_was_answered_is_in_the_database_and_the_next_read_is_its_row() {
    let Some(mut setup) = Setup::new() else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "user 1"));
    assert_eq!(setup.client.command(&["SET", "user:1", r#"{"name":"Ann"}"#]), ok());
    assert_eq!(setup.rows(1, "Ann"), 1);
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "Ann"));
    // An absence that was remembered ends with the row that is made.
    assert_eq!(setup.client.command(&["GET", "user:500"]), Value::NullBulk);
    assert_eq!(setup.client.command(&["SETEX", "user:500", "10", r#"{"name":"Bob"}"#]), ok());
    assert_eq!(setup.client.command(&["GET", "user:500"]), row(500, "Bob"));
    assert_eq!(setup.client.command(&["SET", "user:500", r#"{"name":"Cid"}"#, "EX", "10"]), ok());
    assert_eq!(setup.client.command(&["GET", "user:500"]), row(500, "Cid"));
    assert_eq!(setup.client.command(&["DEL", "user:500"]), Value::Integer(1));
    assert_eq!(setup.rows(500, "Cid"), 0);
    assert_eq!(setup.client.command(&["GET", "user:500"]), Value::NullBulk);
    assert_eq!(setup.client.command(&["DEL", "user:500"]), Value::Integer(0));
    // Keys of no loader go with the others.
    assert_eq!(setup.client.command(&["SET", "plain", "1"]), ok());
    assert_eq!(setup.client.command(&["UNLINK", "plain", "user:1", "user:2", "user:2", "none"]), Value::Integer(3));
    assert_eq!(setup.client.command(&["EXISTS", "plain"]), Value::Integer(0));
    assert_eq!(
        setup.client.command(&["MGET", "user:1", "user:2"]),
        Value::Array(vec![Value::NullBulk, Value::NullBulk])
    );
    assert_eq!(setup.writes("writes"), 7);
}

#[test]
fn what_the_database_refuses_is_nowhere() {
    let Some(mut setup) = Setup::new() else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "user 1"));
    for (value, says) in [
        (r#"{"name":"nobody"}"#, "violates check constraint"),
        (r#"{"name":null}"#, "violates not-null constraint"),
        ("no json", "invalid input syntax for type json"),
    ] {
        let text = error_of(setup.client.command(&["SET", "user:1", value]));
        assert!(text.starts_with("WRITEFAIL user refused: ") && text.contains(says), "{text}");
    }
    // All or none: the second key has a pet.
    let text = error_of(setup.client.command(&["DEL", "user:1", "user:3"]));
    assert!(text.starts_with("WRITEFAIL user refused: ") && text.contains("foreign key"), "{text}");
    assert_eq!(
        setup.client.command(&["MGET", "user:1", "user:3"]),
        Value::Array(vec![row(1, "user 1"), row(3, "user 3")])
    );
    assert_eq!(setup.rows(1, "user 1"), 1);
    assert_eq!((setup.writes("writes"), setup.writes("writes_failed")), (0, 4));
    // The connection is as good as before.
    assert_eq!(setup.client.command(&["SET", "user:1", r#"{"name":"Ann"}"#]), ok());
}

#[test]
fn parts_of_a_value_and_conditions_are_refused_and_lives_are_not() {
    let Some(mut setup) = Setup::new() else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "user 1"));
    for line in [
        "APPEND user:1 x",
        "INCR user:1",
        "SETRANGE user:1 0 x",
        "SETBIT user:1 0 1",
        "GETSET user:1 x",
        "GETDEL user:1",
        "SETNX user:1 x",
        "MSET plain x user:1 x",
        "RENAME user:1 other",
        "RENAME user:1 user:2",
        "COPY other user:1",
        "SET user:1 x NX",
        "SET user:1 x GET",
        "SET user:1 x VER 7",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let text = error_of(setup.client.command(&words));
        assert!(text.starts_with("ERR ") && text.contains("loader"), "{line}: {text}");
    }
    assert_eq!(
        setup.client.command(&["SET", "user:1", "x", "EX", "0"]),
        Value::Error("ERR invalid expire time in 'set' command".into())
    );
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "user 1"));
    assert_eq!(setup.client.command(&["EXISTS", "plain", "other"]), Value::Integer(0));
    assert_eq!(setup.client.command(&["EXPIRE", "user:1", "100"]), Value::Integer(1));
    assert_eq!(setup.client.command(&["INVAL", "user:1"]), Value::Integer(1));
    assert_eq!(setup.rows(1, "user 1"), 1);
    // Keys that the pattern does not fit are the cache's own.
    assert_eq!(setup.client.command(&["SET", "user:abc", "x", "NX"]), ok());
    assert_eq!(setup.client.command(&["APPEND", "user:abc", "y"]), Value::Integer(2));
}

#[test]
fn a_row_that_was_read_before_the_write_is_not_stored_after_it() {
    let Some(mut setup) = Setup::new() else { return };
    let gate = format!("SELECT 1::int8 FROM pg_advisory_lock({GATE})");
    setup.database.number(&gate);
    let mut reader = setup.server.client();
    reader.send(&["GET", "user:1"]);
    let database = &mut setup.database;
    until("the row is read", || {
        database.number(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        ) == 1
    });
    assert_eq!(setup.client.command(&["SET", "user:1", r#"{"name":"Ann"}"#]), ok());
    setup.database.number(&format!("SELECT 1::int8 FROM pg_advisory_unlock({GATE})"));
    // It waits on for the row that holds now.
    assert_eq!(reader.receive(), row(1, "Ann"));
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "Ann"));
    assert_eq!(setup.client.loader_counter("user", "lost_fills"), 1);
}

#[test]
fn a_commit_without_an_answer_is_told_so_and_the_cache_asks_again() {
    let Some(mut setup) = Setup::new() else { return };
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "user 1"));
    let mut writer = setup.server.client();
    writer.send(&["SET", "user:1", r#"{"name":"slow"}"#]);
    let committing =
        "FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query = 'COMMIT'";
    let database = &mut setup.database;
    until("it commits", || database.number(&format!("SELECT count(*) {committing}")) == 1);
    // Until it has, the row is what it was.
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "user 1"));
    setup.database.number(&format!("SELECT count(pg_terminate_backend(pid)) {committing}"));
    let text = error_of(writer.receive());
    assert!(text.starts_with("UNKNOWNSTATE user lost while it committed: "), "{text}");
    assert_eq!(setup.client.command(&["EXISTS", "user:1"]), Value::Integer(0));
    assert_eq!(setup.client.command(&["GET", "user:1"]), row(1, "user 1"));
    assert_eq!(setup.writes("writes_unknown"), 1);
    assert_eq!(setup.client.command(&["SET", "user:1", r#"{"name":"Ann"}"#]), ok());
}

#[test]
fn a_connection_that_died_while_idle_costs_nothing_and_a_database_that_is_down_an_error() {
    let Some(mut postgres) = Postgres::start(GROUP) else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database.run(SCHEMA);
    let server = Server::options().conf(conf(&url)).start();
    let mut client = server.client();
    assert_eq!(client.command(&["SET", "user:1", r#"{"name":"Ann"}"#]), ok());
    database
        .number("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'leasehold'");
    assert_eq!(client.command(&["SET", "user:1", r#"{"name":"Bob"}"#]), ok());
    assert_eq!(client.command(&["GET", "user:1"]), row(1, "Bob"));
    drop(database);
    postgres.stop();
    let text = error_of(client.command(&["SET", "user:1", r#"{"name":"Cid"}"#]));
    assert!(text.starts_with("WRITEFAIL user source unavailable: "), "{text}");
    assert_eq!(client.command(&["GET", "user:1"]), row(1, "Bob"), "nothing is written, so what is cached still holds");
}

#[test]
fn who_was_answered_reads_his_own_write_whoever_loads_beside() {
    const WRITERS: i64 = 4;
    const WRITES: u64 = 150;

    let Some(mut setup) = Setup::new() else { return };
    let written: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (server, written, is_over) = (&setup.server, &written, &is_over);
        for key in 0..WRITERS {
            scope.spawn(move || {
                let mut client = server.client();
                while !is_over.load(Ordering::Relaxed) {
                    let least = written[key as usize].load(Ordering::SeqCst);
                    assert_at_least(&mut client, key, least);
                    // Or all reads would be hits.
                    client.command(&["INVAL", &format!("user:{}", key + 1), "HARD"]);
                }
            });
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|key| {
                scope.spawn(move || {
                    let mut client = server.client();
                    for number in 1..=WRITES {
                        let value = format!(r#"{{"name":"{number}"}}"#);
                        assert_eq!(client.command(&["SET", &format!("user:{}", key + 1), &value]), ok());
                        written[key as usize].store(number, Ordering::SeqCst);
                        assert_at_least(&mut client, key, number);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.expect("no writer read an old value"));
    });
    let (writes, lost) = (setup.writes("writes"), setup.writes("lost_fills"));
    assert_eq!(writes, WRITERS * WRITES as i64);
    groups::say(&format!("{GROUP}: {writes} writes, {lost} loads that came too late were not stored"));
}

/// Reads a key whose rows are named by numbers that grow.
fn assert_at_least(client: &mut Client, key: i64, least: u64) {
    let key = format!("user:{}", key + 1);
    let reply = client.command(&["GET", &key]);
    let Value::Bulk(row) = reply else { panic!("{key} is {reply:?}") };
    let text = String::from_utf8(row).expect("JSON");
    let name = text.split('"').nth_back(1).expect("a name");
    let number = name.parse().unwrap_or(0);
    assert!(number >= least, "{key} was {number} after {least} was written");
}

#[test]
fn sqlite_takes_text_and_bytes_and_all_or_nothing() {
    let files = Directory::new();
    std::fs::write(
        files.path().join("schema.sql"),
        "CREATE TABLE notes (name TEXT PRIMARY KEY, body CHECK (body <> 'bad')); INSERT INTO notes VALUES ('a', 'one');",
    )
    .expect("the directory is ours");
    let conf = format!(
        r#"
        [sources.file]
        url = "sqlite:{directory}/notes.db"
        create_with = "{directory}/schema.sql"

        [loaders.note]
        match = "note:{{name}}"
        source = "file"
        sql = "SELECT name, body FROM notes WHERE name = $1"
        value = "column"
        mode = "transparent"
        write = "through"
        upsert_sql = "INSERT INTO notes VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET body = excluded.body"
        delete_sql = "DELETE FROM notes WHERE name = $1 AND body <> 'kept'"
        "#,
        directory = files.path().display()
    );
    let server = Server::options().conf(conf).start();
    let mut client = server.client();
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("one"));
    assert_eq!(client.command(&["SET", "note:a", "two"]), ok());
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("two"));
    assert_eq!(client.command::<&[u8]>(&[b"SET", b"note:b", b"\xff\x00\xfe"]), ok());
    assert_eq!(client.command(&["GET", "note:b"]), Value::bulk(b"\xff\x00\xfe"));
    let text = error_of(client.command(&["SET", "note:a", "bad"]));
    assert!(text.starts_with("WRITEFAIL note refused: CHECK constraint failed"), "{text}");
    assert_eq!(client.command(&["SET", "note:c", "kept"]), ok());
    assert_eq!(client.command(&["DEL", "note:a", "note:b", "note:c", "note:d"]), Value::Integer(2));
    assert_eq!(client.command(&["MGET", "note:a", "note:c"]), Value::Array(vec![Value::NullBulk, Value::bulk("kept")]));
}

#[test]
fn mistakes_in_the_statements_are_found_at_start() {
    let Some(setup) = Setup::new() else { return };
    let url = setup._postgres.new_database();
    Database::connect(&url).run(SCHEMA);
    for (from, to, says) in [
        ("$2::jsonb", "$2::int::text::jsonb", "upsert_sql: $2 is the value, but PostgreSQL takes it as INT4"),
        ("INSERT INTO users", "INSERT INTO nowhere", "upsert_sql: relation \"nowhere\" does not exist"),
        ("DELETE FROM users WHERE id = $1", "DELETE FROM users", "delete_sql: has 0 parameters and must have 1"),
        (
            "DELETE FROM users WHERE id = $1",
            "DELETE FROM users WHERE name = $1",
            "delete_sql: $1 is the placeholder {id:int}",
        ),
        ("write = \"through\"", "write = \"behind\"", "write"),
    ] {
        let mistaken = conf(&url).replace(from, to);
        assert_ne!(mistaken, conf(&url), "{from}");
        let (status, output) = Server::options().conf(mistaken).argument("--check-config").run_to_end();
        assert!(!status.success() && output.contains(says), "{to}: {output}");
    }
}
