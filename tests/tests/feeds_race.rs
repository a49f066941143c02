//! Each feed in turn as the only source of invalidation: writers commit, roll back, and commit in another order than they began; readers load
//! and read; the network of the feed is slow, silent or cut, connections are killed, logs purged, files locked. Nobody deletes a key, and
//! rows live for an hour.
//!
//! What a reader may see is an old row, for as long as the feed says that it lags: [`leasehold_tests::race`] holds each read to that, and
//! prints how old the oldest was. And once the feed has told all, each key must be what the database has, at the first look.

use leasehold_tests::fed::lags;
use leasehold_tests::process::Directory;
use leasehold_tests::race::{
    self, Act, Actor, Connection, Counts, IS_THERE, KEYS, Key, Kind, NEXT, Source, World, lack,
};
use leasehold_tests::random::Random;
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{
    Client, Database, MySqlDatabase, MySqlServer, Postgres, Proxy, Server, SqliteFile, Trouble, groups,
};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const GROUP: &str = "feeds race";
/// Commands sent to all feeds together, when everything must run and when not.
const OPERATIONS_ALL: u64 = 60_000;
const OPERATIONS_FEW: u64 = 30_000;
/// Of so many ways to learn of changes, a few more or less.
const FEEDS: u64 = 10;
const READERS: u64 = 6;
const WRITERS: u64 = 3;
/// At least one transaction for so many commands, however fast those are.
const OPERATIONS_PER_WRITE: u64 = 50;

/// Where the rows are.
enum Base {
    Postgres(Arc<Postgres>, String),
    MySql(Arc<MySqlServer>, String),
    Sqlite(Directory),
}

impl Base {
    fn postgres() -> Option<Self> {
        let server = Postgres::shared_with(GROUP, &["wal_level=logical"])?;
        let url = server.new_database();
        Some(Self::Postgres(server, url))
    }

    fn mysql() -> Option<Self> {
        let server = MySqlServer::shared_with(GROUP, MySqlServer::WITH_LOG)?;
        let name = MySqlServer::new_name();
        MySqlDatabase::connect(&server.url("")).run(&format!("CREATE DATABASE {name}"));
        let url = server.url(&name);
        Some(Self::MySql(server, url))
    }

    #[expect(clippy::unnecessary_wraps, reason = "the others may be missing")]
    fn sqlite() -> Option<Self> {
        Some(Self::Sqlite(Directory::new()))
    }

    fn url(&self) -> String {
        match self {
            Self::Postgres(_, url) | Self::MySql(_, url) => url.clone(),
            Self::Sqlite(directory) => format!("sqlite:{}/rows.db", directory.path().display()),
        }
    }

    /// A network between the feed and the database; a file has none.
    fn proxy(&self) -> Option<(Proxy, String)> {
        let (port, url) = match self {
            Self::Postgres(server, url) => (server.port(), url),
            Self::MySql(server, url) => (server.port(), url),
            Self::Sqlite(_) => return None,
        };
        let proxy = Proxy::before(port);
        let url = url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
        Some((proxy, url))
    }

    fn connect(&self, way: &Way) -> Source {
        let connection = match self {
            Self::Postgres(_, url) => Connection::Postgres(Database::connect(url)),
            Self::MySql(_, url) => Connection::MySql(MySqlDatabase::connect(url)),
            Self::Sqlite(directory) => Connection::Sqlite(SqliteFile::open(&directory.path().join("rows.db"))),
        };
        Source { connection, set: way.set, also: way.also }
    }

    /// The condition of many ids.
    fn among(&self) -> &'static str {
        match self {
            Self::Postgres(..) => "= ANY($1)",
            Self::MySql(..) => "IN ($1)",
            Self::Sqlite(_) => "IN (SELECT value FROM json_each($1))",
        }
    }
}

/// A way for a feed to learn of changes.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    base: fn() -> Option<Base>,
    /// Lines of the feed's configuration.
    feed: &'static str,
    /// More columns of the table.
    columns: &'static str,
    /// What a writer sets, and does besides.
    set: &'static str,
    also: Option<&'static str>,
    /// Makes what the feed reads: SQL, and what prints some.
    sql: Option<&'static str>,
    printed: &'static [&'static str],
    /// What goes wrong, again and again; `None`: nothing does.
    trouble: Option<fn(&mut Breaker)>,
    /// Whether that may be missed changes to the feed, as it should be at times.
    has_gaps: bool,
}

const OUTBOX: Way = Way {
    name: "outbox with NOTIFY, PostgreSQL",
    base: Base::postgres,
    feed: "via = \"outbox\"\ntable = \"fed\"\nkey = \"id\"",
    columns: "",
    set: NEXT,
    also: None,
    sql: None,
    printed: &["outbox", "--table", "fed", "--key", "id"],
    trouble: Some(Breaker::outbox),
    has_gaps: true,
};

const LOGICAL: Way = Way {
    name: "logical replication, PostgreSQL",
    feed: "via = \"logical\"\ntable = \"fed\"\nkey = \"id\"\npoll = \"20ms\"",
    printed: &["publication", "--table", "fed", "--key", "id", "--user", "test"],
    trouble: Some(Breaker::connections),
    ..OUTBOX
};

const UPDATED_AT: Way = Way {
    name: "updated_at, PostgreSQL",
    feed: "via = \"updated_at\"\ntable = \"fed\"\nkey = \"id\"\npoll = \"20ms\"\noverlap = \"1m\"",
    columns: ", updated_at timestamptz NOT NULL DEFAULT now()",
    // When the transaction began: it may have to wait for one that began later.
    set: "version = version + 1, updated_at = now()",
    printed: &[],
    trouble: Some(Breaker::connections),
    has_gaps: false,
    ..OUTBOX
};

const VERSIONS: Way = Way {
    name: "resource versions, PostgreSQL",
    feed: "via = \"versions\"\ntable = \"versions\"\nresource = \"fed\"\npoll = \"20ms\"",
    sql: Some("CREATE TABLE versions (name text PRIMARY KEY, version int8); INSERT INTO versions VALUES ('fed', 1)"),
    also: Some("UPDATE versions SET version = version + 1 WHERE name = 'fed'"),
    printed: &[],
    trouble: Some(Breaker::connections),
    has_gaps: false,
    ..OUTBOX
};

const BINLOG: Way = Way {
    name: "binary log, MariaDB or MySQL",
    base: Base::mysql,
    feed: "via = \"binlog\"\ntable = \"fed\"\nkey = \"id\"\npoll = \"20ms\"",
    printed: &[],
    trouble: Some(Breaker::binary_log),
    ..OUTBOX
};

const OUTBOX_OF_MYSQL: Way = Way {
    name: "outbox by number, MariaDB or MySQL",
    base: Base::mysql,
    feed: "via = \"outbox\"\ntable = \"fed\"\nkey = \"id\"\npoll = \"20ms\"\noverlap = \"1m\"",
    printed: &["outbox", "--database", "mysql", "--table", "fed", "--key", "id"],
    ..OUTBOX
};

const DATA_VERSION: Way = Way {
    name: "data_version, SQLite",
    base: Base::sqlite,
    feed: "via = \"data_version\"",
    printed: &[],
    trouble: Some(Breaker::file),
    has_gaps: false,
    ..OUTBOX
};

const OUTBOX_OF_SQLITE: Way = Way {
    name: "outbox, SQLite",
    base: Base::sqlite,
    sql: Some("PRAGMA journal_mode = WAL"),
    printed: &["outbox", "--database", "sqlite", "--table", "fed", "--key", "id"],
    trouble: Some(Breaker::outbox_of_file),
    ..OUTBOX
};

/// Who makes trouble.
struct Breaker {
    proxy: Option<Arc<Proxy>>,
    source: Source,
    random: Random,
}

impl Breaker {
    /// One of so many.
    fn chooses(&mut self, choices: u64) -> bool {
        self.random.below(choices) == 0
    }

    /// The network of the feed is slow, or silent for a while, or cut; meanwhile something else may happen.
    fn network(&mut self, meanwhile: &str) {
        let proxy = self.proxy.as_ref().expect("a database with a network");
        match self.random.below(3) {
            0 => proxy.set(Trouble::Delay(Duration::from_millis(self.random.below(20)))),
            1 => proxy.set(Trouble::BlackHole),
            _ => proxy.cut(),
        }
        std::thread::sleep(Duration::from_millis(self.random.below(150)));
        if !meanwhile.is_empty() {
            self.source.run(meanwhile);
        }
        proxy.set(Trouble::None);
    }

    fn outbox(&mut self) {
        if self.chooses(2) { self.network("DELETE FROM leasehold_outbox") } else { self.connections() }
    }

    /// The server's own are killed, too, if the database says whose they are.
    fn connections(&mut self) {
        if matches!(self.source.connection, Connection::Postgres(_)) && self.chooses(3) {
            self.source.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = 'leasehold' AND datname = current_database()",
            );
        } else {
            self.network("");
        }
    }

    /// Who follows the log is killed, the log goes on in another file, and those that are over are purged.
    fn binary_log(&mut self) {
        if self.chooses(2) {
            let meanwhile = if self.chooses(2) { "FLUSH BINARY LOGS" } else { "" };
            return self.network(meanwhile);
        }
        let Connection::MySql(database) = &mut self.source.connection else {
            unreachable!("only these have such a log")
        };
        for id in database
            .texts("SELECT CAST(ID AS CHAR) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'")
        {
            // It may be gone.
            let _ = database.try_run(&format!("KILL {id}"));
        }
        if self.random.below(2) == 0 {
            database.run("FLUSH BINARY LOGS");
            let files = database.texts("SHOW BINARY LOGS");
            // One that somebody still follows is left, with a warning.
            database.run(&format!("PURGE BINARY LOGS TO '{}'", files[files.len() - 1]));
        }
    }

    /// Nobody can read or write the file for a while, or all of it is written anew.
    fn file(&mut self) {
        if self.chooses(2) {
            self.source.run("BEGIN EXCLUSIVE");
            std::thread::sleep(Duration::from_millis(self.random.below(60)));
            self.source.run("COMMIT");
        } else {
            self.source.run("VACUUM");
        }
    }

    /// Rows go in the transaction that wrote them, so that nobody can have read them.
    fn outbox_of_file(&mut self) {
        if self.chooses(2) {
            self.source.run(
                "BEGIN IMMEDIATE; UPDATE fed SET version = version WHERE id = 0; DELETE FROM leasehold_outbox; COMMIT",
            );
        } else {
            self.source.run("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }
}

fn conf(base: &Base, way: &Way, url_of_log: &str) -> String {
    let (url, among, feed) = (base.url(), base.among(), way.feed);
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "20s"
        acquire_timeout = "20s"
        breaker = "off"

        [sources.log]
        url = "{url_of_log}"
        statement_timeout = "20s"
        acquire_timeout = "20s"
        breaker = "off"

        [loaders.fed]
        match = "fed:{{id:int}}"
        source = "main"
        value = "column"
        sql = "SELECT id, version FROM fed WHERE id = $1 AND {IS_THERE}"
        batch_sql = "SELECT id, version FROM fed WHERE id {among} AND {IS_THERE}"
        ttl = "1h"
        negative_ttl = "1h"
        serve_stale = "never"
        breaker = "off"
        error_ttl = 0
        hard_timeout = "20s"

        [feeds.fed]
        source = "log"
        loaders = "fed"
        stale_after = "1h"
        {feed}
        "#
    )
}

#[test]
fn with_an_outbox_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(OUTBOX);
}

#[test]
fn with_logical_replication_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(LOGICAL);
}

#[test]
fn with_a_polled_time_of_change_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(UPDATED_AT);
}

#[test]
fn with_a_table_of_versions_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(VERSIONS);
}

#[test]
fn with_the_binary_log_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(BINLOG);
}

#[test]
fn with_an_outbox_of_mysql_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(OUTBOX_OF_MYSQL);
}

#[test]
fn with_the_count_of_commits_of_a_file_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(DATA_VERSION);
}

#[test]
fn with_an_outbox_of_a_file_alone_a_read_is_at_most_as_old_as_its_lag() {
    race(OUTBOX_OF_SQLITE);
}

/// What a commit is old by when its keys are stale is what the feed calls its lag, by the same clock.
#[test]
fn where_nothing_breaks_the_lag_that_is_told_is_the_bound() {
    for way in [OUTBOX, LOGICAL] {
        let Some(raced) = race(Way { trouble: None, has_gaps: false, ..way }) else { return };
        assert_eq!((raced.gaps, raced.failed), (0, 0));
        /// An answer of the database is as old as its way here, which on a busy machine is some milliseconds.
        const WAY_US: u64 = 250_000;
        let (oldest_us, lag_us) = (raced.oldest_us, raced.lag_us);
        assert!(oldest_us <= lag_us + WAY_US, "a read was old by {oldest_us} us, and the feed's lag was {lag_us} us");
    }
}

#[test]
fn the_checker_sees_the_stale_values_of_a_feed_that_is_not_told() {
    for way in [Way { also: None, ..VERSIONS }, Way { set: NEXT, ..UPDATED_AT }] {
        let Some(running) = Running::start(Way { trouble: None, name: "nobody tells the feed", ..way }) else { return };
        let mut client = running.server.client();
        let world = World::default();
        let seed = race::seed(way.name);
        world.run(running.acts(&world, seed), || {
            world.hear(&mut client, "fed");
            Some("a violation".to_owned())
        });
        let violations = world.violations();
        assert!(violations.iter().any(|text| text.contains(" fed:")), "{violations:?}");
    }
}

/// From the commit to the moment at which no client sees the old row any more, by clients that look.
#[test]
fn the_lag_of_the_log_is_told() {
    const ROUNDS: usize = 300;
    let Some(running) = Running::start(Way { trouble: None, ..BINLOG }) else { return };
    let (mut client, mut source) = (running.server.client(), running.base.connect(&running.way));
    let [p50, p99] =
        lags(&mut client, "fed:1", ROUNDS, || source.run("UPDATE fed SET version = (version + 1) % 7 WHERE id = 1"));
    let [p50_us, p99_us, events, gaps] =
        ["lag_p50_us", "lag_p99_us", "events", "gaps"].map(|counter| client.feed_counter("fed", counter));
    groups::say(&format!(
        "{GROUP}: binary log, from the acknowledged commit to the first read that is not stale: p50 {p50:?}, p99 {p99:?} of {ROUNDS}; by the feed's own \
         count from when the log had it: p50 {p50_us} us, p99 {p99_us} us"
    ));
    assert_eq!((events, gaps), (ROUNDS as i64, 0));
}

/// A server whose feed has begun.
struct Running {
    way: Way,
    server: Server,
    proxy: Option<Arc<Proxy>>,
    base: Base,
    /// Races beside each other would measure each other.
    _alone: MutexGuard<'static, ()>,
}

impl Running {
    fn start(way: Way) -> Option<Self> {
        static ONE: Mutex<()> = Mutex::new(());
        // Before we wait for our turn, so that a database goes on from one race to the next.
        let base = (way.base)()?;
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut source = base.connect(&way);
        source.make(Kind::Fed, way.columns);
        way.sql.into_iter().for_each(|sql| source.run(sql));
        if !way.printed.is_empty() {
            let printed = Command::new(binary()).arg("sql").args(way.printed).output().expect("the binary runs");
            assert!(printed.status.success(), "{printed:?}");
            source.run(&String::from_utf8(printed.stdout).expect("SQL is text"));
        }
        let (proxy, url) = base.proxy().map_or_else(|| (None, base.url()), |(proxy, url)| (Some(Arc::new(proxy)), url));
        let server = Server::options().conf(conf(&base, &way, &url)).start();
        let mut client = server.client();
        until("the feed has begun", || client.feed_field("state") == "ok");
        Some(Self { way, server, proxy, base, _alone: alone })
    }

    fn acts<'w>(&'w self, world: &'w World, seed: u64) -> Vec<Act<'w>> {
        let actor = |number| Actor {
            world,
            client: self.server.client(),
            source: Some(self.base.connect(&self.way)),
            random: race::choices(seed, number),
            kinds: &[Kind::Fed],
            may_fail: if self.way.trouble.is_some() { |_| true } else { |_| false },
        };
        let mut acts: Vec<Act<'_>> = Vec::new();
        for number in 1..=READERS {
            let mut reader = actor(number);
            acts.push(Box::new(move || reader.read()));
        }
        for number in 1..=WRITERS {
            let mut writer = actor(READERS + number);
            acts.push(Box::new(move || writer.write_for_the_feed()));
        }
        if let Some(trouble) = self.way.trouble {
            let (source, random) = (self.base.connect(&self.way), race::choices(seed, 0));
            let mut breaker = Breaker { proxy: self.proxy.clone(), source, random };
            acts.push(Box::new(move || {
                std::thread::sleep(Duration::from_millis(100 + breaker.random.below(300)));
                trouble(&mut breaker);
            }));
        }
        acts
    }
}

struct Raced {
    gaps: u64,
    failed: u64,
    oldest_us: u64,
    /// As the feed counts it for itself.
    lag_us: u64,
}

fn race(way: Way) -> Option<Raced> {
    let running = Running::start(way)?;
    let operations = race::operations(OPERATIONS_ALL, OPERATIONS_FEW) / FEEDS;
    let seed = race::seed(way.name);
    let world = World::default();
    let mut client = running.server.client();
    let took = world.run(running.acts(&world, seed), || {
        world.hear(&mut client, "fed");
        lacking(&world, &mut client, operations, way)
    });
    let raced = tell(way, &world, &mut client, took);
    assert_eq!(world.violations(), [""; 0]);
    assert!(raced.oldest_us <= Counts::of(&world.counts.told_us));
    all_is_as_it_is_in_the_database(&running, &mut client);
    Some(raced)
}

/// Races that did not happen prove nothing.
fn lacking(world: &World, client: &mut Client, operations: u64, way: Way) -> Option<String> {
    let counts = &world.counts;
    let writes = operations / OPERATIONS_PER_WRITE;
    let sent = [
        ("operations", Counts::of(&counts.operations), operations),
        ("changes", Counts::of(&counts.writes), writes),
        ("rolled back", Counts::of(&counts.rollbacks), writes / 50),
        ("values read", Counts::of(&counts.reads), operations / 10),
        ("absences read", Counts::of(&counts.absences), writes / 50),
        ("fills stored", Counts::of(&counts.fills), writes / 50),
        ("old reads", Counts::of(&counts.old), 1),
    ];
    lack(sent).or_else(|| {
        let [events, gaps] = ["events", "gaps"].map(|counter| client.feed_counter("fed", counter) as u64);
        lack([("events", events, writes / 50), ("gaps", gaps, u64::from(way.has_gaps))])
    })
}

fn tell(way: Way, world: &World, client: &mut Client, took: Duration) -> Raced {
    let (counts, of) = (&world.counts, Counts::of);
    let [events, invalidated, gaps, wholes, lag_us, p99_us] =
        ["events", "invalidated", "gaps", "wholes", "lag_max_us", "lag_p99_us"]
            .map(|counter| client.feed_counter("fed", counter));
    groups::say(&format!(
        "{GROUP}: {}: {} commands and {} transactions ({} rolled back) in {took:?}; {} values read and checked, {} of them absences; {} were old, by {} us \
         at most, and the bound is what the feed said it was behind by, {} us at most; it told {events} events ({invalidated} cached keys, {wholes} times \
         all), at most {lag_us} us (p99 {p99_us} us) after the write where that is known, with {gaps} gaps; {} loads failed; {} violations",
        way.name,
        of(&counts.operations),
        of(&counts.writes) + of(&counts.rollbacks),
        of(&counts.rollbacks),
        of(&counts.reads),
        of(&counts.absences),
        of(&counts.old),
        of(&counts.oldest_us),
        of(&counts.told_us),
        of(&counts.failed),
        world.violations().len(),
    ));
    Raced { gaps: gaps as u64, failed: of(&counts.failed), oldest_us: of(&counts.oldest_us), lag_us: lag_us as u64 }
}

fn all_is_as_it_is_in_the_database(running: &Running, client: &mut Client) {
    let ended = Instant::now();
    until("the feed has told all", || race::told_by(client, "fed").is_some_and(|told| told > ended));
    let mut source = running.base.connect(&running.way);
    for index in 0..KEYS {
        let key = Key { kind: Kind::Fed, index };
        let version = source.version(key);
        let seen = client.command(&["GET", &key.name()]);
        if race::is_absent(version) {
            assert!(seen.is_null(), "{} after the feed has told all: {seen}", key.name());
        } else {
            assert_eq!(seen.text(), version.to_string(), "{} after the feed has told all", key.name());
        }
    }
}
