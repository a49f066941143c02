//! Reloads while PostgreSQL is slow, away, or wants another password.

use super::{NAMES, hang_up, names_of_loaders, ok, setting, told, write};
use leasehold_tests::process::Directory;
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Proxy, Server, Trouble, Value};
use std::process::Command;
use std::sync::Arc;

const GROUP: &str = "reload";

const SCHEMA: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text NOT NULL);
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 100) n;
    CREATE TABLE people (id int8 PRIMARY KEY, name text NOT NULL);
    INSERT INTO people SELECT n, 'person ' || n FROM generate_series(1, 100) n;";

struct World {
    server: Server,
    client: Client,
    database: Database,
    url: String,
    _postgres: Arc<Postgres>,
}

fn source(url: &str, options: &str) -> String {
    format!("[sources.file]\nurl = \"{url}\"\nacquire_timeout = \"20s\"\nstatement_timeout = \"60s\"\n{options}\n")
}

fn loader(sql: &str, options: &str) -> String {
    super::loader("user", &format!("{sql}\n{options}\n")).replace("hard_timeout = \"20s\"", "hard_timeout = \"60s\"")
}

const PEOPLE: &str = "sql = \"SELECT id, name FROM people WHERE id = $1\"";

impl World {
    fn new(conf: impl FnOnce(&str) -> String) -> Option<Self> {
        let postgres = Postgres::shared(GROUP)?;
        let url = postgres.new_database();
        let mut database = Database::connect(&url);
        database.run(SCHEMA);
        let server = Server::options().conf(conf(&url)).start();
        let mut client = server.client();
        // It listens before its statements are checked, which a locked table would hold up.
        assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
        Some(Self { server, client, database, url, _postgres: postgres })
    }

    /// Readers of these keys, whose loads hang in the database until [`World::release`].
    fn hang(&mut self, keys: std::ops::RangeInclusive<usize>, under_way: i64, waiting: i64) -> Vec<Client> {
        self.database.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE");
        let mut readers = Vec::new();
        for id in keys {
            let mut reader = self.server.client();
            reader.send(&["GET", &format!("user:{id}")]);
            readers.push(reader);
            // The first of them are those that the database is asked for.
            let asked = under_way.min(readers.len() as i64);
            until("the load hangs", || self.count("in_flight") == asked);
        }
        until("the loads hang", || {
            let client = &mut self.client;
            ["in_flight", "queue_length"].map(|counter| client.loader_counter("user", counter)) == [under_way, waiting]
        });
        readers
    }

    fn release(&mut self) {
        self.database.run("COMMIT");
    }

    fn reload(&mut self, conf: &str) -> Value {
        write(&self.server, conf);
        self.client.command(&["LOADER", "RELOAD"])
    }

    fn count(&mut self, counter: &str) -> i64 {
        self.client.loader_counter("user", counter)
    }
}

#[test]
fn what_the_old_statement_was_asked_is_not_kept_and_its_readers_hear_the_new_one() {
    let Some(mut world) = World::new(|url| source(url, "") + &loader(NAMES, "max_concurrency = 2")) else { return };
    let readers = world.hang(1..=6, 2, 4);
    let conf = source(&world.url, "") + &loader(PEOPLE, "max_concurrency = 3");
    assert_eq!(world.reload(&conf), ok());
    // What waited is loaded by the new statement, while the old one hangs.
    let mut late = world.server.client();
    assert_eq!(late.command(&["GET", "user:77"]), Value::bulk("person 77"));
    let mut readers = readers.into_iter().enumerate();
    let hanging: Vec<_> = readers.by_ref().take(2).collect();
    for (place, mut reader) in readers {
        assert_eq!(reader.receive(), Value::bulk(format!("person {}", place + 1)));
    }
    world.release();
    for (place, mut reader) in hanging {
        assert_eq!(reader.receive(), Value::bulk(format!("person {}", place + 1)), "asked before the reload");
    }
    until("all is loaded", || world.count("in_flight") == 0);
    assert_eq!(world.count("lost_fills"), 2);
    for id in 1..=6 {
        assert_eq!(world.client.command(&["GET", &format!("user:{id}")]), Value::bulk(format!("person {id}")));
    }
    assert_eq!(world.count("errors"), 0);
}

#[test]
fn loads_go_on_under_other_options_and_other_connections_and_end_with_a_removed_loader() {
    let Some(mut world) = World::new(|url| source(url, "") + &loader(NAMES, "max_concurrency = 2")) else { return };
    let mut readers = world.hang(1..=6, 2, 4);
    let conf =
        source(&world.url, "") + &loader(NAMES, "max_concurrency = 2\nttl = \"2h\"").replacen("ttl = \"1h\"\n", "", 1);
    assert_eq!(world.reload(&conf), ok());
    until("what waited waits on, and no more than two are under way", || {
        (world.count("in_flight"), world.count("queue_length")) == (2, 4)
    });
    // Other connections have places of their own, but the statement is refused none.
    let conf = conf.replace("[loaders", "max_connections = 9\n[loaders");
    write(&world.server, &conf);
    let mut reloading = world.server.client();
    reloading.send(&["LOADER", "RELOAD"]);
    // The statement cannot be prepared while the table is locked: it waits for that, and all goes on meanwhile.
    assert_eq!(world.client.command(&["PING"]), Value::Simple("PONG".to_owned()));
    world.release();
    assert_eq!(reloading.receive(), ok());
    for (place, reader) in readers.iter_mut().enumerate() {
        assert_eq!(reader.receive(), Value::bulk(format!("user {}", place + 1)));
    }
    let keys = world.count("keys");
    assert_eq!(world.client.command(&["GET", "user:1"]), Value::bulk("user 1"));
    assert_eq!((world.count("keys"), world.count("lost_fills"), world.count("errors")), (keys, 0, 0));

    let mut readers = world.hang(11..=16, 2, 4);
    assert_eq!(world.reload(&source(&world.url, "")), ok());
    assert!(names_of_loaders(&mut world.client).is_empty());
    assert!(world.server.client().command(&["GET", "user:50"]).is_null());
    world.release();
    for (place, reader) in readers.iter_mut().enumerate() {
        assert_eq!(reader.receive(), Value::bulk(format!("user {}", place + 11)), "asked before the reload");
    }
    until("what it has loaded is no answer any more", || {
        (1..=16).all(|id| world.client.command(&["GET", &format!("user:{id}")]).is_null())
    });
    assert_eq!(world.client.command(&["LOADTHROUGH", "user:1"]).error(), "NOLOADER no loader matches this key");
}

#[test]
fn a_loader_that_is_as_it_was_keeps_its_breaker_its_counts_and_its_pause() {
    let Some(postgres) = Postgres::shared(GROUP) else { return };
    let proxy = Proxy::before(postgres.port());
    let url = postgres.new_database();
    Database::connect(&url).run(SCHEMA);
    let through = url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.port()));
    let quick = "[sources.away]\nacquire_timeout = \"3s\"\nstatement_timeout = \"20s\"\nbreaker = \"off\"\n";
    let away = |options: &str| {
        let user = loader(NAMES, "breaker_calls = 1\nbreaker_open = \"1h\"\nbreaker_open_max = \"1h\"");
        let user = user.replace("source = \"file\"", "source = \"away\"");
        format!("{quick}url = \"{through}\"\n{user}{options}\n")
    };
    let here = |name: &str, options: &str| super::loader(name, &format!("{NAMES}\n{options}"));
    let conf = away("") + &source(&url, "") + &here("other", "");
    let server = Server::options().conf(conf).start();
    let mut client = server.client();
    assert_eq!(client.command(&["GET", "user:1"]), Value::bulk("user 1"));
    proxy.set(Trouble::Refuse);
    until("the breaker is open", || {
        client.command(&["GET", "user:2"]);
        setting(&mut client, "user", "state") == "open"
    });
    client.command(&["LOADER", "PAUSE", "other"]);
    let counters = ["loads", "keys", "errors", "breaker_trips", "cut_off"];
    let before = counters.map(|counter| client.loader_counter("user", counter));
    assert_eq!(before[3], 1);
    // Another loader changes, and one comes.
    write(&server, &(away("") + &source(&url, "") + &here("other", "queue = 7") + &here("new", "")));
    assert_eq!(client.command(&["LOADER", "RELOAD"]), ok());
    assert_eq!(setting(&mut client, "user", "state"), "open");
    assert_eq!(counters.map(|counter| client.loader_counter("user", counter)), before);
    assert_eq!(
        (setting(&mut client, "other", "state"), setting(&mut client, "new", "state")),
        ("paused".to_owned(), "ok".to_owned())
    );
    assert_eq!(client.command(&["GET", "new:3"]), Value::bulk("user 3"));
    // What has changed must answer, or all stays as it was.
    write(
        &server,
        &(away("ttl = \"7s\"\n").replacen("ttl = \"1h\"\n", "", 1).replace("name FROM users", "id::text FROM users")
            + &source(&url, "")),
    );
    let refused = client.command(&["LOADER", "RELOAD"]);
    assert!(refused.error().contains("loaders.user.source: its statements cannot be checked: "), "{refused}");
    assert_eq!(names_of_loaders(&mut client), ["user", "other", "new"]);
    // Another way to the database, which answers, has a breaker of its own.
    write(&server, &(away("").replace(&through, &format!("{url}&application_name=leasehold")) + &source(&url, "")));
    assert_eq!(client.command(&["LOADER", "RELOAD"]), ok());
    assert_eq!(setting(&mut client, "user", "state"), "ok");
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk("user 2"));
    assert!(client.loader_counter("user", "loads") > before[0], "counts go on");
}

#[test]
fn a_password_is_rotated_by_the_file_that_holds_it() {
    const RULES: &str =
        "local all all trust\nhost all test 127.0.0.1/32 trust\nhost all app 127.0.0.1/32 scram-sha-256\n";
    let fill =
        |directory: &std::path::Path| std::fs::write(directory.join("hba"), RULES).expect("the directory is ours");
    let Some(postgres) = Postgres::start_with(GROUP, &["hba_file={dir}/hba"], fill) else { return };
    let mut database = Database::connect(&postgres.url());
    database.run(SCHEMA);
    let journal = Command::new(binary()).args(["sql", "journal"]).output().expect("the binary runs");
    database.run(&String::from_utf8(journal.stdout).expect("SQL is text"));
    database.run("CREATE TABLE carts (id int8 PRIMARY KEY, items text)");
    database.run("CREATE ROLE app LOGIN PASSWORD 'one'; GRANT ALL ON ALL TABLES IN SCHEMA public TO app");
    let files = Directory::new();
    let secret = files.path().join("url");
    let set_password = |password: &str| {
        let url = postgres.url().replace("test@", &format!("app:{password}@"));
        std::fs::write(&secret, url + "\n").expect("the directory is ours");
    };
    set_password("one");
    let conf = format!(
        "[sources.file]\nurl_file = \"{}\"\nacquire_timeout = \"20s\"\nstatement_timeout = \"20s\"\n{}{}
         [journal]\ndir = \"journal\"\n",
        secret.display(),
        super::loader("user", NAMES),
        super::loader(
            "cart",
            "sql = \"SELECT id, items FROM carts WHERE id = $1\"\nwrite = \"behind\"
             upsert_sql = \"INSERT INTO carts VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET items = excluded.items\""
        )
    );
    let server = Server::options().conf(conf).start();
    let mut client = server.client();
    assert_eq!(client.command(&["GET", "user:1"]), Value::bulk("user 1"));
    assert_eq!(client.command(&["SET", "cart:1", "a"]), ok());
    assert_eq!(client.command(&["WAITDB", "60000"]), Value::Integer(0));

    database.run("ALTER ROLE app PASSWORD 'two'");
    set_password("wrong");
    let refused = client.command(&["LOADER", "RELOAD"]);
    assert!(refused.error().contains("sources.file.url: the source does not answer: "), "{refused}");
    assert!(!refused.error().contains("wrong@"), "{refused}");
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk("user 2"), "by the connections of before");

    set_password("two");
    hang_up(&server);
    until("it is reloaded", || told(&mut client, "reloads") == "1");
    let thrown_out = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'";
    until("the connections of before are closed", || {
        server.logs().contains("connections of before the reload are closed")
    });
    database.number(thrown_out);
    assert_eq!(client.command(&["GET", "user:3"]), Value::bulk("user 3"));
    assert_eq!(client.command(&["SET", "cart:1", "b"]), ok());
    assert_eq!(client.command(&["WAITDB", "60000"]), Value::Integer(0));
    assert_eq!(client.command(&["GET", "cart:1"]), Value::bulk("b"));
    assert_eq!(database.number("SELECT count(*) FROM carts WHERE items = 'b'"), 1);
    assert_eq!(client.command(&["GET", "user:1"]), Value::bulk("user 1"));
    assert_eq!(
        client.loader_counter("user", "keys"),
        3,
        "under another password it is the same database: nothing is stale"
    );
    assert!(!server.logs().contains("app:one") && !server.logs().contains("app:two"), "{}", server.logs());

    // What the journal depends on stays as it is.
    let text = std::fs::read_to_string(server.directory().join("leasehold.toml")).expect("it is there");
    for (from, to, says) in [
        (
            "dir = \"journal\"\n",
            "dir = \"journal\"\nfsync = \"no\"\n",
            "journal.fsync: needs a restart to change; the server runs with \"always\"",
        ),
        (
            "DO UPDATE SET items = excluded.items",
            "DO NOTHING",
            "loaders.cart.upsert_sql: needs a restart: the loader writes behind",
        ),
        ("[loaders.cart]", "[loaders.basket]", "loaders.cart: is gone and writes behind"),
    ] {
        write(&server, &text.replace(from, to));
        let refused = client.command(&["LOADER", "RELOAD"]);
        assert!(refused.error().contains(says), "{refused}");
    }
    assert_eq!(names_of_loaders(&mut client), ["user", "cart"]);
}
