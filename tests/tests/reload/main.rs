//! `LOADER RELOAD` and SIGHUP: the configuration changes under clients that go on reading, all of it or nothing.

mod databases;
mod feeds;

use leasehold_tests::process::Directory;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Server, SqliteFile, Value};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const USERS: usize = 200;

/// A file with tables, and a server in front of it.
struct Setup {
    server: Server,
    client: Client,
    files: Directory,
}

/// The source of most tests.
fn file(files: &Directory) -> String {
    let directory = files.path().display();
    format!(
        "[sources.file]\nurl = \"sqlite:{directory}/a.db\"\nacquire_timeout = \"20s\"\nstatement_timeout = \"20s\"\n"
    )
}

/// A loader of the table `users`, with options of its own.
fn loader(name: &str, options: &str) -> String {
    format!(
        "[loaders.{name}]\nmatch = \"{name}:{{id:int}}\"\nsource = \"file\"\nvalue = \"column\"\nttl = \"1h\"\njitter = 0\n\
         hard_timeout = \"20s\"\n{options}\n"
    )
}

const NAMES: &str = "sql = \"SELECT id, name FROM users WHERE id = $1\"";
const MAILS: &str = "sql = \"SELECT id, mail FROM users WHERE id = $1\"";

impl Setup {
    /// A server with what `conf` makes of the source.
    fn new(conf: impl FnOnce(&str) -> String) -> Self {
        let files = Directory::new();
        let mut database = SqliteFile::open(&files.path().join("a.db"));
        database.run("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, mail TEXT)");
        database.run("CREATE TABLE more (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO more VALUES (7000, 'more')");
        database.run(&format!(
            "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {USERS})
             INSERT INTO users SELECT id, 'user ' || id, id || '@example.org' FROM n"
        ));
        let server = Server::options().conf(conf(&file(&files))).start();
        let client = server.client();
        Self { server, client, files }
    }

    fn write(&self, conf: &str) {
        write(&self.server, conf);
    }

    fn reload(&mut self, conf: &str) -> Value {
        self.write(conf);
        self.client.command(&["LOADER", "RELOAD"])
    }

    fn get(&mut self, key: &str) -> Value {
        self.client.command(&["GET", key])
    }

    fn count(&mut self, loader: &str, counter: &str) -> i64 {
        self.client.loader_counter(loader, counter)
    }
}

/// Exchanges the configuration of a server, as an editor does.
fn write(server: &Server, conf: &str) {
    let path = server.directory().join("leasehold.toml");
    std::fs::write(path.with_extension("new"), conf).expect("the directory is ours");
    std::fs::rename(path.with_extension("new"), path).expect("the directory is ours");
}

fn hang_up(server: &Server) {
    let status = Command::new("kill").arg("-HUP").arg(server.pid().to_string()).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -HUP");
}

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

/// A field of `INFO loaders`.
fn told(client: &mut Client, field: &str) -> String {
    let info = client.command(&["INFO", "loaders"]).text();
    let start = format!("{field}:");
    let value = info.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned);
    value.unwrap_or_else(|| panic!("no {field} in {info}"))
}

fn names_of_loaders(client: &mut Client) -> Vec<String> {
    client.command(&["LOADER", "LIST"]).elements().iter().map(|loader| loader.elements()[1].text()).collect()
}

/// A field of LOADER LIST.
fn setting(client: &mut Client, loader: &str, field: &str) -> String {
    let list = client.command(&["LOADER", "LIST"]);
    let of = list.elements().iter().find(|of| of.elements()[1].text() == loader).expect("there is such a loader");
    let pair = of.elements().chunks(2).find(|pair| pair[0].text() == field);
    pair.unwrap_or_else(|| panic!("no {field}"))[1].text()
}

#[test]
fn loaders_are_added_changed_and_removed_by_reload_and_by_sighup() {
    for by_signal in [false, true] {
        let mut setup = Setup::new(|file| file.to_owned() + &loader("user", NAMES) + &loader("old", NAMES));
        let mut reloads = 0;
        let mut reload = |setup: &mut Setup, conf: &str| {
            reloads += 1;
            if by_signal {
                setup.write(conf);
                hang_up(&setup.server);
                until("it is reloaded", || told(&mut setup.client, "reloads") == reloads.to_string());
            } else {
                assert_eq!(setup.reload(conf), ok());
            }
        };
        assert_eq!((setup.get("user:1"), setup.get("old:1")), (Value::bulk("user 1"), Value::bulk("user 1")));
        assert_eq!((setup.get("user:999"), setup.get("new:1")), (Value::NullBulk, Value::NullBulk));
        setup.client.command(&["SET", "plain", "stays"]);

        let conf = file(&setup.files) + &loader("new", NAMES) + &loader("user", MAILS);
        reload(&mut setup, &conf);
        assert_eq!(names_of_loaders(&mut setup.client), ["new", "user"]);
        // What the old statement said is stale at once.
        assert_eq!((setup.get("new:1"), setup.get("user:1")), (Value::bulk("user 1"), Value::bulk("1@example.org")));
        until("what the removed loader has loaded is no answer", || setup.get("old:1").is_null());
        assert_eq!(setup.client.command(&["SET", "old:1", "by hand"]), ok());
        assert_eq!((setup.get("old:1"), setup.get("plain")), (Value::bulk("by hand"), Value::bulk("stays")));
        let text = told(&mut setup.client, "reload_last_text");
        assert_eq!(text, "loaders added: new; loaders changed: user (sql); loaders removed: old");
        assert_eq!(told(&mut setup.client, "reload_last_status"), "ok");
        assert_eq!(setup.count("user", "keys"), 3, "counts go on: two keys before, one after");

        // A loader of a name that was there before, and other keys for one that stays.
        let conf = file(&setup.files) + &loader("old", MAILS) + &loader("user", NAMES).replace("user:{", "person:{");
        reload(&mut setup, &conf);
        assert_eq!((setup.get("old:1"), setup.get("old:2")), (Value::bulk("by hand"), Value::bulk("2@example.org")));
        assert_eq!((setup.get("person:1"), setup.get("user:1")), (Value::bulk("user 1"), Value::NullBulk));

        // An absence that the old statement has told is none of the new one.
        assert!(setup.get("person:7000").is_null());
        let more = NAMES.replace("users", "more");
        let conf = file(&setup.files) + &loader("user", &more).replace("user:{", "person:{");
        reload(&mut setup, &conf);
        assert_eq!(setup.get("person:7000"), Value::bulk("more"));
    }
}

#[test]
fn what_the_server_does_with_values_changes_without_another_load() {
    let with = |options: &str| loader("user", &format!("{NAMES}\n{options}"));
    let mut setup = Setup::new(|file| file.to_owned() + &with("") + &loader("other", NAMES));
    assert_eq!((setup.get("user:1"), setup.get("other:1")), (Value::bulk("user 1"), Value::bulk("user 1")));
    setup.client.command(&["LOADER", "PAUSE", "user"]);
    let conf = file(&setup.files) + &with("queue = 77\nstale_for = \"7s\"") + &loader("other", NAMES);
    assert_eq!(setup.reload(&conf), ok());
    assert_eq!(setting(&mut setup.client, "user", "queue"), "77");
    assert_eq!((setup.get("user:1"), setup.get("other:1")), (Value::bulk("user 1"), Value::bulk("user 1")));
    assert_eq!((setup.count("user", "keys"), setup.count("other", "keys")), (1, 1), "nothing was loaded anew");
    assert_eq!(setup.get("user:2").error(), "LOADFAIL user paused", "a reload does not resume");
    setup.client.command(&["LOADER", "RESUME", "user"]);
    assert_eq!(setup.get("user:2"), Value::bulk("user 2"));
    // Options that CONFIG SET can change follow the file where it has changed, and only there.
    setup.client.command(&["CONFIG", "SET", "maxclients", "123", "timeout", "600"]);
    assert_eq!(setup.reload(&format!("maxclients = 456\n{conf}")), ok());
    let value = |setup: &mut Setup, name: &str| setup.client.command(&["CONFIG", "GET", name]).elements()[1].text();
    assert_eq!((value(&mut setup, "maxclients"), value(&mut setup, "timeout")), ("456".to_owned(), "600".to_owned()));
    assert_eq!(told(&mut setup.client, "reload_last_text"), "options: maxclients");
    assert!(setup.server.logs().contains("CONFIG SET holds"), "{}", setup.server.logs());
    assert_eq!(setup.reload(&format!("maxclients = 456\n{conf}")), ok());
    assert_eq!(told(&mut setup.client, "reload_last_text"), "no changes");
}

#[test]
fn a_mistake_leaves_all_as_it_was_under_fifty_clients() {
    let user = loader(
        "user",
        &format!("{NAMES}\nbatch_sql = \"SELECT id, name FROM users WHERE id IN (SELECT value FROM json_each($1))\""),
    );
    let mut setup = Setup::new(|file| format!("{file}{user}"));
    let readers = Readers::start(&setup.server, 50, |client, number| {
        let id = number % USERS as u64 + 1;
        let value = client.command(&["GET", &format!("user:{id}")]);
        assert_eq!(value, Value::bulk(format!("user {id}")));
    });
    let good = format!("{}{user}", file(&setup.files));
    let list = setup.client.command(&["LOADER", "LIST"]);
    let other = format!("{good}{}", loader("other", NAMES));
    let wrong = format!("{good}{}", loader("other", &NAMES.replace("name", "nothing")));
    for (conf, says) in [
        (
            good.replace("ttl = ", "tttl = "),
            "leasehold.toml:9:1: loaders.user.tttl: unknown option; did you mean \"ttl\"?",
        ),
        (good.replace("\"1h\"", "\"1\""), "leasehold.toml:9:7: loaders.user.ttl: \"1\" has no unit"),
        (good.replace("[loaders", "[loaders["), "is not TOML"),
        (good.replace("id, name FROM users WHERE id = $1", "id, nam FROM users WHERE id = $1"), "loaders.user.sql: "),
        (good.replace("a.db", "no-such.db"), "leasehold.toml:2:7: sources.file.url: the source does not answer: "),
        (
            format!("{good}{}", user.replace("[loaders.user]", "[loaders.twin]")),
            "loaders.twin.match: fits keys that loaders.user loads",
        ),
        (wrong, "loaders.other.sql: "),
        (
            format!("databases = 3\n{other}"),
            "leasehold.toml:1:13: databases: needs a restart to change; the server runs with \"16\"",
        ),
        (format!("{other}[journal]\ndir = \"journal\"\n"), "journal.dir: needs a restart to change"),
        (
            format!("{other}[feeds.f]\nsource = \"file\"\nloaders = \"nobody\"\nvia = \"data_version\"\n"),
            "feeds.f.loaders: there is no [loaders.nobody]",
        ),
    ] {
        let refused = setup.reload(&conf);
        let text = refused.error();
        assert!(text.starts_with("ERR reload refused, nothing has changed: ") && text.contains(says), "{text}");
        assert!(!text.contains('\n') && !text.contains('\r'), "{text:?}");
        assert_eq!(told(&mut setup.client, "reload_last_status"), "refused");
    }
    // By a signal, too, and the log says it.
    setup.write("x = 1");
    hang_up(&setup.server);
    until("the log has it", || {
        setup.server.logs().contains("reload refused: ") && told(&mut setup.client, "reloads_refused") == "11"
    });
    std::fs::remove_file(setup.server.directory().join("leasehold.toml")).expect("it was there");
    assert!(setup.client.command(&["LOADER", "RELOAD"]).error().contains("cannot be read"));
    assert_eq!(names_of_loaders(&mut setup.client), ["user"]);
    assert_eq!(
        setup.client.command(&["LOADER", "LIST"]).elements()[0].elements()[..24],
        list.elements()[0].elements()[..24]
    );
    assert_eq!(told(&mut setup.client, "reloads"), "0");
    until("every key was read", || readers.count.load(Ordering::Relaxed) > 2 * USERS as u64);
    readers.end();
    assert_eq!(setup.count("user", "keys"), USERS as i64, "no key was loaded twice");
}

#[test]
fn without_a_file_there_is_nothing_to_reload_and_the_first_loader_may_come_later() {
    let server = Server::start();
    let mut client = server.client();
    let text = "ERR there is no configuration file to read again: the server was started without --conf";
    assert_eq!(client.command(&["LOADER", "RELOAD"]).error(), text);
    hang_up(&server);
    until("the log has it", || server.logs().contains("SIGHUP ignored"));
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));

    let mut setup = Setup::new(|_| String::new());
    assert!(setup.get("user:1").is_null());
    let conf = file(&setup.files) + &loader("user", NAMES);
    assert_eq!(setup.reload(&conf), ok());
    assert_eq!(setup.get("user:1"), Value::bulk("user 1"));
    assert_eq!(setup.reload(""), ok());
    assert!(names_of_loaders(&mut setup.client).is_empty());
    until("what it has loaded is no answer", || setup.get("user:1").is_null());
    assert_eq!(setup.reload(&conf), ok());
    assert_eq!(setup.get("user:1"), Value::bulk("user 1"));
}

#[test]
fn reloads_at_once_come_one_after_the_other() {
    let setup = Setup::new(|file| file.to_owned() + &loader("user", NAMES));
    let mut clients: Vec<Client> = (0..8).map(|_| setup.server.client()).collect();
    setup.write(&(file(&setup.files) + &loader("user", MAILS)));
    clients.iter_mut().for_each(|client| client.send(&["LOADER", "RELOAD"]));
    clients.iter_mut().for_each(|client| assert_eq!(client.receive(), ok()));
    assert_eq!(told(&mut clients[0], "reloads"), "8");
    assert_eq!(told(&mut clients[0], "reload_last_text"), "no changes");
}

#[test]
fn a_hundred_reloads_under_load_cost_no_reply_and_leave_nothing_behind() {
    const READERS: usize = 8;
    let setup = Setup::new(|file| file.to_owned() + &loader("user", NAMES));
    let user = |round: usize| match round % 4 {
        // Another statement with the same values; other options; another source; and all as it was.
        0 => (String::new(), loader("user", &NAMES.replace("SELECT id", &format!("SELECT /* {round} */ id")))),
        1 => (
            String::new(),
            loader("user", &format!("{NAMES}\nqueue = {}\nmax_concurrency = {}", 900 + round, 8 + round)),
        ),
        2 => (format!("max_connections = {}\n", 20 + round), loader("user", NAMES)),
        _ => (String::new(), loader("user", NAMES)),
    };
    let mut client = setup.server.client();
    assert_eq!(client.command(&["GET", "user:1"]), Value::bulk("user 1"));
    let before = Beside::connections(&setup);
    let readers = Readers::start(&setup.server, READERS, |client, number| {
        let id = number % USERS as u64 + 1;
        match number % 3 {
            // A load whatever is in the cache.
            0 => drop(client.command(&["DEL", &format!("user:{id}")])),
            1 => assert_eq!(client.command(&["GET", &format!("user:{id}")]), Value::bulk(format!("user {id}"))),
            _ => {
                let keys = ["MGET".to_owned(), format!("user:{id}"), "user:1".to_owned(), "user:0".to_owned()];
                let values = vec![Value::bulk(format!("user {id}")), Value::bulk("user 1"), Value::NullBulk];
                assert_eq!(client.command(&keys), Value::Array(values));
            }
        }
    });
    let quiet = |client: &mut Client| {
        until("nothing is under way", || {
            ["in_flight", "queue_length"].map(|counter| client.loader_counter("user", counter)) == [0, 0]
        });
    };
    for round in 0..100 {
        let (source, user) = user(round);
        let other = if round % 2 == 0 { loader("other", NAMES) } else { String::new() };
        write(&setup.server, &format!("{}{source}{user}{other}", file(&setup.files)));
        assert_eq!(client.command(&["LOADER", "RELOAD"]), ok(), "round {round}");
        assert_eq!(client.command(&["GET", "user:7"]), Value::bulk("user 7"), "round {round}");
        if round % 2 == 0 {
            assert_eq!(client.command(&["GET", "other:7"]), Value::bulk("user 7"), "round {round}");
        }
    }
    let reads = readers.end();
    quiet(&mut client);
    assert_eq!(told(&mut client, "reloads"), "100");
    assert_eq!(client.loader_counter("user", "errors"), 0);
    assert!(client.loader_counter("user", "keys") > 100 && reads > 100);
    let closed = "the connections of before the reload are closed";
    until("the connections of before are closed", || setup.server.logs().matches(closed).count() == 50);
    until("nothing is left open", || {
        let after = Beside::connections(&setup);
        // Threads that have read files for reloads stay for a while.
        after.connections <= 16 && after.files <= before.files + 2 && after.threads <= before.threads + 4
    });
}

/// What a server has open, and its threads.
struct Beside {
    /// To the database; each has a thread.
    connections: usize,
    files: usize,
    threads: usize,
}

impl Beside {
    fn connections(setup: &Setup) -> Self {
        let all = |what: &str| {
            let of_process = std::fs::read_dir(format!("/proc/{}/{what}", setup.server.pid())).expect("it runs");
            of_process.flatten().map(|entry| entry.path()).collect::<Vec<PathBuf>>()
        };
        let is_ours = |path: &&PathBuf| std::fs::read_link(path).is_ok_and(|to| to.starts_with(setup.files.path()));
        let files = all("fd");
        let connections = files.iter().filter(is_ours).count();
        Self { connections, files: files.len() - connections, threads: all("task").len().saturating_sub(connections) }
    }
}

/// Clients that go on doing something.
struct Readers {
    is_over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Readers {
    /// Starts so many, and waits until each has done it once. `read` is told how often it was done by all.
    fn start(server: &Server, clients: usize, read: fn(&mut Client, u64)) -> Self {
        let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..clients).map(|_| {
            let (mut client, is_over, count) = (server.client(), Arc::clone(&is_over), Arc::clone(&count));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    read(&mut client, count.fetch_add(1, Ordering::Relaxed));
                }
            })
        });
        let readers = Self { threads: threads.collect(), is_over, count };
        until("all clients read", || readers.count.load(Ordering::Relaxed) > 4 * clients as u64);
        readers
    }

    /// How often it was done; fails if one of them has.
    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no reader met with an error");
        }
        self.count.load(Ordering::Relaxed)
    }
}
