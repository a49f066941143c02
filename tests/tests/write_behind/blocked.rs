//! A source that takes no change from anybody, for a while: nothing becomes a dead letter by that, and whoever has to wait is told why.

use super::{EXCLUDED, GROUP, Setup, VALUES, error_of, flushed, note_loader, ok, printed_sql};
use leasehold_tests::process::Directory;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, MySqlServer, Postgres, Server, Value};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection};
use std::path::Path;

/// What makes a source take nothing, what it says then, and what ends it.
struct Block<'s> {
    begin: &'s str,
    says: &'s str,
    end: &'s str,
}

const fn block<'s>(begin: &'s str, says: &'s str, end: &'s str) -> Block<'s> {
    Block { begin, says, end }
}

/// Two changes are pending at most, and one that is refused is a dead letter at once.
const TIGHT: &str = "flush_interval = \"1ms\"\nmax_attempts = 1\nmax_pending = 2";

fn conf(url: &str, journal: &Path, on_conflict: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "500ms"
        acquire_timeout = "1s"
        {loader}
        hard_timeout = "20s"
        [journal]
        dir = "{journal}/journal"
        {TIGHT}
        "#,
        loader = note_loader(on_conflict),
        journal = journal.display()
    )
}

/// What `LOADER LIST` says is wrong, if anything is.
fn problem(client: &mut Client) -> String {
    let reply = client.command(&["LOADER", "LIST"]);
    let fields = reply.elements()[0].elements().to_vec();
    let pair = fields.chunks(2).find(|pair| pair[0].text() == "behind_trouble");
    pair.map(|pair| pair[1].text()).unwrap_or_default()
}

/// Goes through the blocks one after the other. `row` reads a row's text.
fn go_through(
    client: &mut Client,
    blocks: &[Block<'_>],
    mut run: impl FnMut(&str),
    mut row: impl FnMut(&str) -> Option<String>,
) {
    // It has started, and found its source in order.
    assert_eq!(client.command(&["SET", "note:a", "first"]), ok());
    flushed(client);
    for (number, Block { begin, says, end }) in blocks.iter().enumerate() {
        let value = format!("value {number}");
        run(begin);
        for key in ["note:a", "note:b"] {
            assert_eq!(client.command(&["SET", key, &value]), ok(), "{begin}");
        }
        until(begin, || problem(client).contains(says));
        // There is no room for another: it waits for the source, and hears why it need not.
        let text = error_of(client.command(&["SET", "note:c", &value]));
        assert!(text.starts_with("WRITEFAIL note ") && text.contains(says), "{begin}: {text}");
        assert_eq!(client.command(&["GET", "note:a"]), Value::bulk(&value), "{begin}");
        run(end);
        until(end, || client.command(&["WAITDB", "100"]) == Value::Integer(0));
        assert_eq!((row("a"), row("b"), row("c")), (Some(value.clone()), Some(value), None), "{begin}");
        assert_eq!(client.loader_counter("note", "dead_letters"), 0, "{begin}");
        until("the trouble is over", || problem(client).is_empty());
    }
    // And what is in a change is still judged by itself.
    assert_eq!(client.command(&["SET", "note:a", "bad"]), ok());
    until("it is parked", || client.loader_counter("note", "dead_letters") == 1);
    assert_eq!(client.loader_counter("note", "source_breaker_trips"), 0);
}

#[test]
fn postgres_may_lose_its_table_rights_room_or_freedom_to_write_and_no_change_is_lost() {
    let Some(postgres) = Postgres::shared(GROUP) else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database.run(
        "CREATE TABLE notes (name text PRIMARY KEY, body text CHECK (body <> 'bad'));
         CREATE TABLE trouble (code text);
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE said text; BEGIN
             SELECT code INTO said FROM trouble;
             IF FOUND THEN RAISE EXCEPTION 'error %', said USING ERRCODE = said; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION fail()",
    );
    database.run(&printed_sql("postgres"));
    database.run(
        "CREATE ROLE writer_behind LOGIN;
         GRANT SELECT, INSERT, UPDATE, DELETE ON notes, leasehold_writes TO writer_behind;
         GRANT SELECT ON trouble TO writer_behind",
    );
    let journal = Directory::new();
    let of_writer = url.replace("://test@", "://writer_behind@");
    let server = Server::options().conf(conf(&of_writer, journal.path(), EXCLUDED)).start();
    const THROWN_OUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer_behind'";
    let only_reads = format!("ALTER ROLE writer_behind SET default_transaction_read_only = on; {THROWN_OUT}");
    let writes_again = format!("ALTER ROLE writer_behind RESET default_transaction_read_only; {THROWN_OUT}");
    let nobody = format!("ALTER ROLE writer_behind CONNECTION LIMIT 0; {THROWN_OUT}");
    let blocks = [
        block(
            "ALTER TABLE notes RENAME TO elsewhere",
            "\"notes\" does not exist",
            "ALTER TABLE elsewhere RENAME TO notes",
        ),
        block(
            "ALTER TABLE notes RENAME COLUMN body TO words",
            "does not exist (SQLSTATE 42703)",
            "ALTER TABLE notes RENAME COLUMN words TO body",
        ),
        block(
            "REVOKE INSERT ON notes FROM writer_behind",
            "permission denied for table notes",
            "GRANT INSERT ON notes TO writer_behind",
        ),
        block(
            "REVOKE UPDATE ON leasehold_writes FROM writer_behind",
            "permission denied for table leasehold_writes",
            "GRANT UPDATE ON leasehold_writes TO writer_behind",
        ),
        block(&only_reads, "read-only transaction", &writes_again),
        block(&nobody, "too many connections for role", "ALTER ROLE writer_behind CONNECTION LIMIT -1"),
        block("INSERT INTO trouble VALUES ('53100')", "error 53100", "DELETE FROM trouble"),
        block("INSERT INTO trouble VALUES ('40P01')", "error 40P01", "DELETE FROM trouble"),
        block("INSERT INTO trouble VALUES ('40001')", "error 40001", "DELETE FROM trouble"),
        block("INSERT INTO trouble VALUES ('55P03')", "error 55P03", "DELETE FROM trouble"),
        block("BEGIN; LOCK TABLE notes", "no answer within 500 ms", "COMMIT"),
    ];
    let mut reader = Database::connect(&url);
    let row = |name: &str| {
        let rows = reader.pairs(&format!("SELECT body, '' FROM notes WHERE name = '{name}'")).expect("it answers");
        rows.into_iter().next().map(|(body, _)| body)
    };
    go_through(&mut server.client(), &blocks, |sql| database.run(sql), row);
    drop((server, reader));
    database.run("DROP OWNED BY writer_behind; DROP ROLE writer_behind");
}

#[test]
fn mysql_may_lose_its_table_or_rights_and_no_change_is_lost() {
    let Some(mysql) = MySqlServer::shared(GROUP) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
    let name = MySqlServer::new_name();
    let connect = |database: &str| {
        let url = mysql.url(database);
        runtime.block_on(async { MySqlConnection::connect(&url).await.expect("the server runs") })
    };
    let run = |connection: &mut MySqlConnection, sql: &str| {
        let done = runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection));
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    run(&mut connect(""), &format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"));
    let mut database = connect(&name);
    run(
        &mut database,
        "CREATE TABLE notes (name varchar(50) PRIMARY KEY, body varchar(50), CHECK (body <> 'bad')) ENGINE = InnoDB",
    );
    run(&mut database, &printed_sql("mysql"));
    run(
        &mut database,
        &format!(
            "CREATE USER writer_behind;
             GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.notes TO writer_behind;
             GRANT SELECT, INSERT, UPDATE ON {name}.leasehold_writes TO writer_behind"
        ),
    );
    let journal = Directory::new();
    let url = mysql.url(&name).replace("://root@", "://writer_behind@");
    assert_ne!(url, mysql.url(&name));
    let server = Server::options().conf(conf(&url, journal.path(), VALUES)).start();
    // What is taken of a table is taken at once, of a database from later connections.
    let revoke = format!("REVOKE INSERT ON {name}.notes FROM writer_behind");
    let grant = format!("GRANT INSERT ON {name}.notes TO writer_behind");
    let trigger = |state: &str, number: u32| {
        format!(
            "CREATE TRIGGER fail BEFORE INSERT ON notes FOR EACH ROW
             SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'as it was told'"
        )
    };
    let (deadlock, full, only_reads) = (trigger("40001", 1213), trigger("HY000", 1114), trigger("HY000", 1290));
    let blocks = [
        block("RENAME TABLE notes TO elsewhere", "notes' doesn't exist", "RENAME TABLE elsewhere TO notes"),
        block(
            "ALTER TABLE notes ADD COLUMN more int",
            "Column count doesn't match",
            "ALTER TABLE notes DROP COLUMN more",
        ),
        block(&revoke, "INSERT command denied", &grant),
        block(&deadlock, "MySQL error 1213", "DROP TRIGGER fail"),
        block(&full, "MySQL error 1114", "DROP TRIGGER fail"),
        block(&only_reads, "MySQL error 1290", "DROP TRIGGER fail"),
    ];
    let mut reader = connect(&name);
    let row = |key: &str| {
        let sql = format!("SELECT body FROM notes WHERE name = '{key}'");
        let found = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_optional(&mut reader);
        runtime.block_on(found).expect("it answers")
    };
    go_through(&mut server.client(), &blocks, |sql| run(&mut database, sql), row);
    drop(server);
    run(&mut database, "DROP USER writer_behind");
}

#[test]
fn sqlite_may_lose_its_table_or_be_locked_and_no_change_is_lost() {
    let setup = Setup::new("");
    let mut file = setup.file();
    file.run("DELETE FROM notes; DROP TRIGGER inserted; DROP TRIGGER updated; DROP TRIGGER deleted");
    let url = format!("sqlite:{}/notes.db", setup.files.path().display());
    let server = Server::options().conf(conf(&url, setup.files.path(), EXCLUDED)).start();
    let blocks = [
        block("ALTER TABLE notes RENAME TO elsewhere", "no such table: notes", "ALTER TABLE elsewhere RENAME TO notes"),
        block(
            "ALTER TABLE notes RENAME COLUMN body TO words",
            "no such column",
            "ALTER TABLE notes RENAME COLUMN words TO body",
        ),
        // The same code as for what a function does not take.
        block("ALTER TABLE notes ADD COLUMN more", "has 3 columns but 2 values", "ALTER TABLE notes DROP COLUMN more"),
        block("BEGIN IMMEDIATE", "database is locked", "COMMIT"),
    ];
    let mut client = server.client();
    go_through(&mut client, &blocks, |sql| file.run(sql), |name| setup.body(name));
    // That is in the change.
    file.run("CREATE TRIGGER parse BEFORE INSERT ON notes BEGIN SELECT json(new.body); END");
    assert_eq!(client.command(&["SET", "note:b", "{"]), ok());
    until("it is parked", || client.loader_counter("note", "dead_letters") == 2);
}
