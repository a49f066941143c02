//! Writes that are answered once the journal has them, and reach SQLite and PostgreSQL later: seen by clients of the real binary, which
//! is killed in between.
//!
//! Tables write down what is applied to them, so that nothing can be lost, applied twice, or come in another order unseen.

mod blocked;
mod full_disk;
mod kills;
mod pressure;

use leasehold_tests::process::{Directory, Process, free_port};
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, MySqlServer, Postgres, Proxy, Server, SqliteFile, Trouble, Value, groups};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const GROUP: &str = "write behind";

/// A file, a journal, and servers one after the other.
struct Setup {
    files: Directory,
    options: String,
}

impl Setup {
    fn new(options: &str) -> Self {
        let setup = Self { files: Directory::new(), options: options.to_owned() };
        let mut file = setup.file();
        file.run("PRAGMA journal_mode = WAL");
        file.run(
            "CREATE TABLE notes (name TEXT PRIMARY KEY, body TEXT CHECK (body <> 'bad'));
             CREATE TABLE applied (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, body TEXT);
             CREATE TRIGGER inserted AFTER INSERT ON notes BEGIN INSERT INTO applied (name, body) VALUES (new.name, new.body); END;
             CREATE TRIGGER updated AFTER UPDATE ON notes BEGIN INSERT INTO applied (name, body) VALUES (new.name, new.body); END;
             CREATE TRIGGER deleted AFTER DELETE ON notes BEGIN INSERT INTO applied (name, body) VALUES (old.name, NULL); END;
             INSERT INTO notes VALUES ('a', 'one'), ('b', 'one');
             DELETE FROM applied",
        );
        file.run(&printed_sql("sqlite"));
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn file(&self) -> SqliteFile {
        SqliteFile::open(&self.path("notes.db"))
    }

    fn conf(&self) -> String {
        format!(
            r#"
            shutdown-timeout = "20s"
            [sources.main]
            url = "sqlite:{directory}/notes.db"
            statement_timeout = "20s"
            {loader}
            hard_timeout = "20s"
            [journal]
            dir = "{directory}/journal"
            {options}
            "#,
            loader = note_loader(EXCLUDED),
            directory = self.files.path().display(),
            options = self.options
        )
    }

    fn server(&self) -> Server {
        Server::options().conf(self.conf()).start()
    }

    /// The text of a row.
    fn body(&self, name: &str) -> Option<String> {
        let rows = self.file().pairs(&format!("SELECT body, '' FROM notes WHERE name = '{name}'"));
        rows.into_iter().next().map(|(body, _)| body)
    }

    /// What was applied to a row, in order; a deletion is an empty text.
    fn applied(&self, name: &str) -> Vec<String> {
        let rows = self.file().pairs(&format!("SELECT body, '' FROM applied WHERE name = '{name}' ORDER BY id"));
        rows.into_iter().map(|(body, _)| body).collect()
    }
}

/// How an upsert overwrites a row in PostgreSQL and SQLite, and in MariaDB.
const EXCLUDED: &str = "ON CONFLICT (name) DO UPDATE SET body = excluded.body";
const VALUES: &str = "ON DUPLICATE KEY UPDATE body = VALUES(body)";

/// A loader of `main` for `note:NAME`, which writes behind.
fn note_loader(on_conflict: &str) -> String {
    format!(
        r#"
        [loaders.note]
        match = "note:{{name}}"
        source = "main"
        sql = "SELECT name, body FROM notes WHERE name = $1"
        value = "column"
        write = "behind"
        upsert_sql = "INSERT INTO notes VALUES ($1, $2) {on_conflict}"
        delete_sql = "DELETE FROM notes WHERE name = $1"
        "#
    )
}

/// What `leasehold sql journal` prints.
fn printed_sql(database: &str) -> String {
    let output = Command::new(binary()).args(["sql", "journal", "--database", database]).output();
    String::from_utf8(output.expect("the binary can be run").stdout).expect("SQL")
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

fn flushed(client: &mut Client) {
    assert_eq!(client.command(&["WAITDB", "20000"]), Value::Integer(0));
}

fn error_of(reply: Value) -> String {
    match reply {
        Value::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

/// No flush by itself within a test.
const HELD_BACK: &str = "flush_interval = \"1m\"";

#[test]
fn what_is_pending_is_what_every_reader_sees_and_then_it_is_in_the_source() {
    let setup = Setup::new(HELD_BACK);
    let server = setup.server();
    let mut client = server.client();
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("one"));
    assert_eq!(client.command(&["SET", "note:a", "two"]), ok());
    assert_eq!(client.command(&["DEL", "note:b", "note:b"]), Value::Integer(1));
    assert_eq!((setup.body("a"), setup.body("b")), (Some("one".into()), Some("one".into())));
    assert_eq!(client.loader_counter("note", "behind_pending"), 2);
    // Whatever the cache forgets, and whoever asks: never the rows that are still there.
    for forget in [
        &["PING"][..],
        &["INVAL", "note:a", "note:b", "HARD"],
        &["INVAL", "note:a", "note:b"],
        &["FLUSHALL"],
        &["INVALPREFIX", "note:"],
    ] {
        assert!(!matches!(client.command(forget), Value::Error(_)), "{forget:?}");
        assert_eq!(
            client.command(&["MGET", "note:a", "note:b"]),
            Value::Array(vec![Value::bulk("two"), Value::NullBulk])
        );
        client.command(forget);
        assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("two"), "{forget:?}");
        client.command(forget);
        assert_eq!(client.command(&["GET", "note:b"]), Value::NullBulk, "{forget:?}");
        client.command(forget);
        assert_eq!(client.command(&["LOADTHROUGH", "note:a", "FRESH"]), Value::bulk("two"), "{forget:?}");
        assert_eq!(client.command(&["LOADTHROUGH", "note:b", "FRESH"]), Value::NullBulk, "{forget:?}");
        client.command(forget);
        assert_eq!(client.command(&["GETL", "note:a"]).elements()[0], Value::bulk("HIT"), "{forget:?}");
        assert_eq!(client.command(&["GETL", "note:b"]).elements()[0], Value::bulk("NEGATIVE"), "{forget:?}");
    }
    client.command(&["INVAL", "note:a", "note:b", "HARD"]);
    assert_eq!(client.command(&["LOADER", "WARM", "note", "KEYS", "note:a", "note:b"]), ok());
    until("it is warm", || {
        (client.loader_counter("note", "warm_total"), client.loader_counter("note", "warm_done")) == (2, 2)
    });
    assert_eq!(client.command(&["MGET", "note:a", "note:b"]), Value::Array(vec![Value::bulk("two"), Value::NullBulk]));
    // A client that loads by itself comes too late.
    let lease = client.command(&["GETL", "note:c"]);
    let token = lease.elements()[2].text();
    assert_eq!(client.command(&["SET", "note:c", "three"]), ok());
    assert!(client.command(&["SETL", "note:c", &token, "old"]).text().starts_with("LOST"));
    assert_eq!(client.command(&["GET", "note:c"]), Value::bulk("three"));
    flushed(&mut client);
    assert_eq!((setup.body("a"), setup.body("b"), setup.body("c")), (Some("two".into()), None, Some("three".into())));
    assert_eq!(client.command(&["MGET", "note:a", "note:b"]), Value::Array(vec![Value::bulk("two"), Value::NullBulk]));
    let mut counter = |name| client.loader_counter("note", name);
    assert_eq!((counter("behind_pending"), counter("behind_flushed"), counter("behind_oldest_ms")), (0, 3, 0));
}

#[test]
fn many_writes_of_a_key_are_one_and_a_batch_has_them_as_they_come() {
    let setup = Setup::new(HELD_BACK);
    let server = setup.server();
    let mut client = server.client();
    for number in 1..=100 {
        assert_eq!(client.command(&["SET", "note:x", &number.to_string()]), ok());
    }
    assert_eq!(client.command(&["SET", "note:y", "1"]), ok());
    assert_eq!(client.command(&["DEL", "note:a"]), Value::Integer(1));
    assert_eq!(client.command(&["SET", "note:z", "1"]), ok());
    flushed(&mut client);
    assert_eq!(setup.applied("x"), ["100"]);
    let order = setup.file().pairs("SELECT name, body FROM applied ORDER BY id");
    let order: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, ["x", "y", "a", "z"]);
    assert_eq!(client.loader_counter("note", "behind_coalesced"), 99);
    assert_eq!(client.loader_counter("note", "behind_journaled"), 103);
}

#[test]
fn what_the_source_refuses_is_parked_and_everything_else_is_flushed() {
    let setup = Setup::new("flush_interval = \"1m\"\nmax_attempts = 2");
    let mut server = setup.server();
    let mut client = server.client();
    for number in 0..40 {
        let value = if number % 13 == 7 { "bad" } else { "good" };
        assert_eq!(client.command(&["SET", &format!("note:{number}"), value]), ok());
    }
    assert_eq!(client.command(&["SET", "note:a", "bad"]), ok());
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("bad"));
    flushed(&mut client);
    assert_eq!(setup.file().pairs("SELECT name, body FROM notes WHERE body = 'good'").len(), 37);
    let listed = |client: &mut Client| -> Vec<String> {
        let letters = client.command(&["WB", "LIST", "note"]);
        let field = |letter: &Value, name: &str| {
            letter.elements().chunks(2).find(|pair| pair[0].text() == name).expect("a field")[1].clone()
        };
        letters
            .elements()
            .iter()
            .map(|letter| {
                assert_eq!(field(letter, "attempts").integer(), 2);
                assert!(field(letter, "reason").text().contains("CHECK constraint failed"));
                format!("{}={}", field(letter, "key").text(), field(letter, "value").text())
            })
            .collect()
    };
    assert_eq!(listed(&mut client), ["note:7=bad", "note:20=bad", "note:33=bad", "note:a=bad"]);
    assert_eq!(client.loader_counter("note", "dead_letters"), 4);
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("one"), "what was refused is shown no more");
    assert_eq!(client.command(&["GET", "note:7"]), Value::NullBulk);
    // They outlive the server, and a later change of the key takes the place of one.
    server.kill();
    let server = setup.server();
    let mut client = server.client();
    assert_eq!(listed(&mut client).len(), 4);
    assert_eq!(client.command(&["SET", "note:20", "better"]), ok());
    flushed(&mut client);
    assert_eq!(listed(&mut client), ["note:7=bad", "note:33=bad", "note:a=bad"]);
    // Again, in vain.
    assert_eq!(client.command(&["WB", "REPLAY", "note"]), Value::Integer(3));
    until("they are parked again", || {
        client.command(&["WAITDB", "100"]);
        client.loader_counter("note", "behind_parked") == 3
    });
    assert_eq!(listed(&mut client).len(), 3);
    // And once the source takes them.
    setup.file().run("CREATE TABLE better AS SELECT * FROM notes WHERE 0; INSERT INTO better SELECT * FROM notes;
        DROP TABLE notes; CREATE TABLE notes (name TEXT PRIMARY KEY, body TEXT); INSERT INTO notes SELECT * FROM better");
    assert_eq!(client.command(&["WB", "REPLAY", "note"]), Value::Integer(3));
    until("they are taken", || {
        client.command(&["WAITDB", "100"]);
        listed(&mut client).is_empty()
    });
    flushed(&mut client);
    assert_eq!((setup.body("7"), setup.body("a")), (Some("bad".into()), Some("bad".into())));
    assert_eq!(client.command(&["WB", "DROP", "note"]), Value::Integer(0));
    assert!(error_of(client.command(&["WB", "REPLAY", "nobody"])).starts_with("NOLOADER"));
    assert!(error_of(client.command(&["WAITDB", "1", "nobody"])).starts_with("NOLOADER"));
}

#[test]
fn what_was_dropped_is_gone_for_good() {
    let setup = Setup::new("flush_interval = \"0\"\nmax_attempts = 1");
    let mut server = setup.server();
    let mut client = server.client();
    for key in ["note:a", "note:b"] {
        assert_eq!(client.command(&["SET", key, "bad"]), ok());
    }
    flushed(&mut client);
    // The position is moved past them a moment after they are pending no more.
    let letters = client.command(&["WB", "LIST"]);
    let number = |letter: &Value| {
        letter.elements().chunks(2).find(|pair| pair[0].text() == "number").expect("it has one")[1].integer()
    };
    let last = letters.elements().iter().map(number).max().expect("there are letters").to_string();
    let position = "SELECT CAST(max(seq) AS TEXT), '' FROM leasehold_writes";
    until("the source is past them", || setup.file().pairs(position)[0].0 == last);
    assert_eq!(client.command(&["WB", "DROP", "note"]), Value::Integer(2));
    assert_eq!(client.command(&["WB", "LIST"]), Value::Array(Vec::new()));
    server.kill();
    let server = setup.server();
    let mut client = server.client();
    flushed(&mut client);
    assert_eq!(client.command(&["WB", "LIST"]), Value::Array(Vec::new()));
    assert_eq!((setup.body("a"), setup.body("b")), (Some("one".into()), Some("one".into())));
}

#[test]
fn what_was_answered_outlives_a_kill_and_an_orderly_end_leaves_nothing() {
    let setup = Setup::new(HELD_BACK);
    let mut server = setup.server();
    assert_eq!(server.client().command(&["SET", "note:a", "two"]), ok());
    assert_eq!(server.client().command(&["DEL", "note:b"]), Value::Integer(1));
    server.kill();
    assert_eq!(setup.body("a"), Some("one".into()));
    let mut server = setup.server();
    let mut client = server.client();
    assert_eq!(client.command(&["MGET", "note:a", "note:b"]), Value::Array(vec![Value::bulk("two"), Value::NullBulk]));
    assert_eq!(client.command(&["SET", "note:c", "three"]), ok());
    drop(client);
    assert!(server.terminate().is_some_and(|status| status.success()));
    assert_eq!((setup.body("a"), setup.body("b"), setup.body("c")), (Some("two".into()), None, Some("three".into())));
    assert_eq!((setup.applied("a").len(), setup.applied("b").len(), setup.applied("c").len()), (1, 1, 1));
    let mut server = setup.server();
    flushed(&mut server.client());
    assert!(server.terminate().is_some_and(|status| status.success()));
    assert_eq!((setup.applied("a").len(), setup.applied("b").len(), setup.applied("c").len()), (1, 1, 1));
}

#[test]
fn without_room_in_the_journal_a_write_waits_for_the_source_behind_what_is_pending() {
    let setup = Setup::new("flush_interval = \"1m\"\nmax_pending = 1");
    let server = setup.server();
    let mut client = server.client();
    assert_eq!(client.command(&["SET", "note:a", "two"]), ok());
    assert_eq!(setup.body("a"), Some("one".into()));
    assert_eq!(client.command(&["SET", "note:a", "three"]), ok(), "goes through, behind the one before");
    assert_eq!(setup.applied("a"), ["two", "three"]);
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("three"));
    assert_eq!(
        (client.loader_counter("note", "behind_direct"), client.loader_counter("note", "behind_pending")),
        (1, 0)
    );
    // What the source refuses is told at once then.
    assert_eq!(client.command(&["SET", "note:a", "four"]), ok());
    let text = error_of(client.command(&["SET", "note:b", "bad"]));
    assert!(text.starts_with("WRITEFAIL note refused: CHECK constraint failed"), "{text}");
    assert_eq!(setup.applied("a"), ["two", "three", "four"]);
}

#[test]
fn a_journal_that_is_full_goes_on_through_and_comes_back() {
    let setup = Setup::new("flush_interval = \"1m\"\nsegment_bytes = \"8kb\"\nmax_bytes = \"16kb\"");
    let server = setup.server();
    let mut client = server.client();
    let value = "x".repeat(2_000);
    for number in 0..50 {
        assert_eq!(client.command(&["SET", &format!("note:{number}"), &value]), ok());
    }
    flushed(&mut client);
    assert!(client.loader_counter("note", "behind_direct") > 1);
    assert!(client.loader_counter("note", "behind_journaled") > 10);
    assert!(client.loader_counter("note", "journal_bytes") <= 16 * 1024);
    assert_eq!(setup.file().pairs("SELECT name, body FROM notes WHERE length(body) = 2000").len(), 50);
}

#[test]
fn a_full_disk_refuses_writes_loses_none_and_is_left_behind_when_there_is_room() {
    const LIMIT_KB: usize = 256;
    let setup = Setup::new(HELD_BACK);
    // The shared memory of SQLite's WAL would meet the limit of the files, too.
    let mut file = setup.file();
    // Once the connection that made the table is closed, which its own thread does.
    until("nobody else has the file open", || file.try_run("PRAGMA journal_mode = DELETE").is_ok());
    drop(file);
    std::fs::write(setup.path("leasehold.toml"), setup.conf()).expect("the directory is ours");
    let port = free_port();
    let mut command = Command::new("sh");
    // A file that may not grow: the same to a writer as a disk that has no room, and it needs no privileges.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", LIMIT_KB * 2);
    command.arg("-c").arg(script).arg(binary()).args(["--threads", "2", "--port"]).arg(port.to_string());
    command.arg("--conf").arg(setup.path("leasehold.toml"));
    let mut server = Process::start(command, port, Duration::from_secs(30)).expect("it starts");
    let mut client = Client::connect(port);
    let value = "x".repeat(10_000);
    let mut answered = 0;
    let text = loop {
        match client.command(&["SET", "note:x", &format!("{answered}{value}")]) {
            Value::Simple(_) => answered += 1,
            refused => break error_of(refused),
        }
        assert!(answered < LIMIT_KB, "the limit does not hold");
    };
    assert!(text.starts_with("WRITEFAIL note the journal cannot be written: "), "{text}");
    assert_eq!(client.loader_counter("note", "behind_refused"), 1);
    assert_eq!(client.command(&["GET", "note:x"]), Value::bulk(format!("{}{value}", answered - 1)));
    // A smaller one may have room.
    assert_eq!(client.command(&["SET", "note:y", "small"]), ok());
    server.kill();
    let again = setup.server();
    let mut client = again.client();
    assert_eq!(client.command(&["GET", "note:x"]), Value::bulk(format!("{}{value}", answered - 1)));
    assert_eq!(client.command(&["GET", "note:y"]), Value::bulk("small"));
    flushed(&mut client);
    assert_eq!(setup.body("x"), Some(format!("{}{value}", answered - 1)));
    drop(again);
    // The same file goes on once all in it is flushed.
    let port = free_port();
    let mut command = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", LIMIT_KB * 2);
    command.arg("-c").arg(script).arg(binary()).args(["--threads", "2", "--port"]).arg(port.to_string());
    command.arg("--conf").arg(setup.path("leasehold.toml"));
    let mut server = Process::start(command, port, Duration::from_secs(30)).expect("it starts");
    let mut client = Client::connect(port);
    for _ in 0..3 {
        while let Value::Simple(_) = client.command(&["SET", "note:x", &value]) {}
        flushed(&mut client);
        until("there is room again", || client.command(&["SET", "note:x", "short"]) == ok());
    }
    server.kill();
}

#[test]
fn a_source_without_the_table_and_a_loader_without_a_journal_do_not_start() {
    let setup = Setup::new("");
    setup.file().run("DROP TABLE leasehold_writes");
    let (status, output) = Server::options().conf(setup.conf()).argument("--check-config").run_to_end();
    assert!(!status.success() && output.contains("leasehold sql journal"), "{output}");
    let (status, output) = Server::options().conf(setup.conf()).run_to_end();
    assert!(!status.success() && output.contains("leasehold sql journal"), "{output}");
    let conf = setup.conf().split("[journal]").next().expect("a first part").to_owned();
    let (status, output) = Server::options().conf(conf).argument("--check-config").run_to_end();
    assert!(!status.success() && output.contains("\"behind\" needs a journal"), "{output}");
}

#[test]
fn changes_of_a_loader_that_is_no_more_are_dead_letters() {
    let setup = Setup::new(HELD_BACK);
    let mut server = setup.server();
    assert_eq!(server.client().command(&["SET", "note:a", "two"]), ok());
    server.kill();
    let server = Server::options().conf(setup.conf().replace("\"behind\"", "\"through\"")).start();
    let letters = server.client().command(&["WB", "LIST"]);
    let text: Vec<String> = letters.elements()[0]
        .elements()
        .iter()
        .filter_map(|value| match value {
            Value::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        })
        .collect();
    assert!(
        text.contains(&"no loader of this name writes behind".to_owned()) && text.contains(&"two".to_owned()),
        "{text:?}"
    );
    drop(server);
    let server = setup.server();
    let mut client = server.client();
    assert_eq!(client.command(&["WB", "REPLAY", "note"]), Value::Integer(1));
    until("it is flushed", || {
        client.command(&["WAITDB", "100"]);
        setup.body("a") == Some("two".into())
    });
}

#[test]
fn who_was_answered_reads_his_own_write_whatever_is_flushed_evicted_and_loaded_beside() {
    const KEYS: u64 = 4;
    const WRITES: u64 = 300;

    let setup = Setup::new("flush_interval = \"1ms\"\nflush_batch = 2");
    let server = setup.server();
    let written: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let is_over = AtomicBool::new(false);
    let at_least = |client: &mut Client, key: u64, least: u64| {
        let reply = client.command(&["GET", &format!("note:k{key}")]);
        let number = if reply.is_null() { 0 } else { reply.text().parse().expect("a number") };
        assert!(number >= least, "k{key} was {number} after {least} was written");
    };
    std::thread::scope(|scope| {
        let (server, written, is_over, at_least) = (&server, &written, &is_over, &at_least);
        for key in 0..KEYS {
            scope.spawn(move || {
                let (mut client, name) = (server.client(), format!("note:k{key}"));
                let mut turn = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let least = written[key as usize].load(Ordering::SeqCst);
                    at_least(&mut client, key, least);
                    turn += 1;
                    match turn % 3 {
                        0 => client.command(&["INVAL", &name, "HARD"]),
                        1 => client.command(&["LOADTHROUGH", &name, "FRESH"]),
                        _ => client.command(&["INVALPREFIX", "note:"]),
                    };
                }
            });
        }
        let writers: Vec<_> = (0..KEYS)
            .map(|key| {
                scope.spawn(move || {
                    let mut client = server.client();
                    for number in 1..=WRITES {
                        assert_eq!(client.command(&["SET", &format!("note:k{key}"), &number.to_string()]), ok());
                        written[key as usize].store(number, Ordering::SeqCst);
                        at_least(&mut client, key, number);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.expect("no writer read an old value"));
    });
    let mut client = server.client();
    flushed(&mut client);
    for key in 0..KEYS {
        assert_eq!(setup.body(&format!("k{key}")), Some(WRITES.to_string()));
        let applied = setup.applied(&format!("k{key}"));
        assert!(applied.is_sorted_by_key(|body| body.parse::<u64>().expect("a number")));
    }
    let flushes = client.loader_counter("note", "behind_flushed");
    groups::say(&format!("{GROUP}: {} writes were {flushes} rows for the source", KEYS * WRITES));
}

/// A commit takes half a second where a row is called slow.
const SCHEMA: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL);
    CREATE TABLE applied (n bigserial, id int8, name text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO applied (id, name) VALUES (NEW.id, NEW.name); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION note();
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON users DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.name = 'slow') EXECUTE FUNCTION slow();";

fn postgres_conf(url: &str, journal: &Directory) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "10s"
        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = "SELECT id, name FROM users WHERE id = $1"
        write = "behind"
        upsert_sql = """INSERT INTO users SELECT $1, r.name FROM jsonb_to_record($2::jsonb) r(name text)
            ON CONFLICT (id) DO UPDATE SET name = excluded.name"""
        delete_sql = "DELETE FROM users WHERE id = $1"
        [journal]
        dir = "{directory}/journal"
        flush_interval = "1ms"
        "#,
        directory = journal.path().display()
    )
}

#[test]
fn a_commit_whose_answer_was_lost_is_not_made_again() {
    let Some(postgres) = Postgres::shared(GROUP) else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database.run(SCHEMA);
    database.run(&printed_sql("postgres"));
    let proxy = Proxy::before(postgres.port());
    let through = url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.port()));
    assert_ne!(through, url);
    let journal = Directory::new();
    let mut server = Server::options().conf(postgres_conf(&through, &journal)).start();
    let mut client = server.client();
    for (id, is_killed) in [(1, false), (2, true)] {
        assert_eq!(client.command(&["SET", &format!("user:{id}"), r#"{"name":"slow"}"#]), ok());
        until("it commits", || {
            database.number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND state = 'active'") == 1
        });
        // The database goes on with what it was asked for, and nobody hears of it.
        if is_killed {
            server.kill();
            server = Server::options().conf(postgres_conf(&through, &journal)).start();
            client = server.client();
        } else {
            proxy.set(Trouble::Reset);
            until("it is committed", || database.number(&format!("SELECT count(*) FROM users WHERE id = {id}")) == 1);
            proxy.set(Trouble::None);
        }
        flushed(&mut client);
        assert_eq!(database.number(&format!("SELECT count(*) FROM applied WHERE id = {id}")), 1, "user:{id}");
    }
}

#[test]
fn a_database_that_is_away_gets_all_of_it_later() {
    let Some(mut postgres) = Postgres::start(GROUP) else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database.run(SCHEMA);
    database.run(&printed_sql("postgres"));
    drop(database);
    let journal = Directory::new();
    let mut server = Server::options().conf(postgres_conf(&url, &journal)).start();
    let mut client = server.client();
    assert_eq!(client.command(&["SET", "user:1", r#"{"name":"Ann"}"#]), ok());
    flushed(&mut client);
    postgres.stop();
    assert_eq!(client.command(&["SET", "user:1", r#"{"name":"Bob"}"#]), ok());
    assert_eq!(client.command(&["SET", "user:2", r#"{"name":"Cid"}"#]), ok());
    assert_eq!(client.command(&["WAITDB", "50"]), Value::Integer(2));
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk(r#"{"name":"Cid"}"#));
    // Also over a start while it is away.
    server.kill();
    let server = Server::options().conf(postgres_conf(&url, &journal)).start();
    let mut client = server.client();
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk(r#"{"name":"Cid"}"#));
    assert_eq!(client.command(&["SET", "user:2", r#"{"name":"Dan"}"#]), ok());
    postgres.resume();
    flushed(&mut client);
    let mut database = Database::connect(&url);
    assert_eq!(database.number("SELECT count(*) FROM users WHERE (id, name) IN ((1, 'Bob'), (2, 'Dan'))"), 2);
    assert_eq!(database.number("SELECT count(*) FROM applied"), 3);
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk(r#"{"id":2,"name":"Dan"}"#));
}

#[test]
fn mysql_takes_each_change_once() {
    let Some(mysql) = MySqlServer::shared(GROUP) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
    let run = |database: &str, sql: String| {
        runtime.block_on(async {
            let mut connection = MySqlConnection::connect(&mysql.url(database)).await.expect("the server runs");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("it is SQL");
        });
    };
    let name = MySqlServer::new_name();
    run("", format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"));
    let table =
        "CREATE TABLE notes (name varchar(50) PRIMARY KEY, body varchar(50), CHECK (body <> 'bad')) ENGINE = InnoDB";
    run(&name, table.to_owned());
    run(&name, printed_sql("mysql"));
    let url = mysql.url(&name);
    let journal = Directory::new();
    let conf = format!(
        r#"
        [sources.main]
        url = "{url}"
        {loader}
        [journal]
        dir = "{directory}/journal"
        max_attempts = 1
        "#,
        loader = note_loader(VALUES),
        directory = journal.path().display()
    );
    let mut server = Server::options().conf(conf.clone()).start();
    let mut client = server.client();
    for (key, value) in [("note:a", "one"), ("note:b", "bad"), ("note:a", "two"), ("note:c", "one")] {
        assert_eq!(client.command(&["SET", key, value]), ok());
    }
    assert_eq!(client.command(&["DEL", "note:c"]), Value::Integer(1));
    flushed(&mut client);
    let get = ["MGET", "note:a", "note:b", "note:c"];
    let held = Value::Array(vec![Value::bulk("two"), Value::NullBulk, Value::NullBulk]);
    assert_eq!(client.command(&get), held);
    assert_eq!(client.loader_counter("note", "dead_letters"), 1);
    server.kill();
    // What is in the journal is flushed, and is not written again.
    run(&name, "UPDATE notes SET body = 'by another' WHERE name = 'a'".to_owned());
    let server = Server::options().conf(conf).start();
    let mut client = server.client();
    flushed(&mut client);
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("by another"));
}
