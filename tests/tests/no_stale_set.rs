//! No stale set, live: writers change rows and delete the keys, readers load through leases (the server's loader, and
//! their own GETL and SETL), everybody with a delay of its own in every step. The loader refreshes what is read past a share of its
//! TTL, so loads run while there is a value too.
//!
//! Two databases, both real to the cache: PostgreSQL behind a loader, and a store of this process, fast enough for very many
//! fills. The checker knows the version of each row when a delete was acknowledged. A read that begins afterwards must not
//! answer an older one; once all is quiet each cached value must be the database's. To delete is DEL, UNLINK, INVAL, and INVALPREFIX
//! or, of all keys but every other one of this process, INVALTAG: those are filled with tags. That the checker can see is
//! shown by clients that cache as one does without leases (miss, read, SET), and in simulated time by
//! `server/keyspace/tests/no_stale_set.rs`, with rule 1 of SPEC §2 switched off.
//!
//! `LEASEHOLD_SEED=n` repeats the choices of each client, though not the schedule of the threads.
//! `LEASEHOLD_NO_STALE_SET_OPERATIONS=n` changes how many commands are sent.

use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Server, Value, groups};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const GROUP: &str = "no stale set";
/// Commands sent, when everything must run and when not.
const OPERATIONS_ALL: u64 = 520_000;
const OPERATIONS_FEW: u64 = 20_000;
/// Few, so that everybody meets everybody.
const KEYS: usize = 12;
const READERS: usize = 10;
const WRITERS: usize = 4;
/// What runs on because there were too few races yet ends after so long, and fails.
const RACES_WITHIN: Duration = Duration::from_secs(240);
/// Reads that one client sends before it reads the answers.
const PIPELINE_MAX: usize = 8;

/// What a key's database row may be at least, and must be at the end.
#[derive(Default)]
struct Row {
    /// The committed version, where this process is the database.
    version: AtomicI64,
    /// The version that a read beginning now must at least see.
    acknowledged: AtomicI64,
}

struct World {
    /// `lease:N`, whose database is this process.
    own: Vec<Row>,
    /// `row:N`, whose database is PostgreSQL.
    rows: Vec<Row>,
    operations: AtomicU64,
    operations_min: u64,
    is_over: AtomicBool,
    fills: AtomicU64,
    lost: AtomicU64,
    hits: AtomicU64,
    violations: Mutex<Vec<String>>,
}

impl World {
    fn new(operations_min: u64) -> Self {
        let rows = || (0..KEYS).map(|_| Row::default()).collect();
        Self {
            own: rows(),
            rows: rows(),
            operations: AtomicU64::new(0),
            operations_min,
            is_over: AtomicBool::new(false),
            fills: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            violations: Mutex::default(),
        }
    }

    fn row(&self, key: Key) -> &Row {
        match key {
            Key::Own(index) => &self.own[index],
            Key::Row(index) => &self.rows[index],
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether all is sent that was asked for, and what this counts raced often enough. Races that did not happen prove nothing.
    fn has_raced(&self) -> bool {
        let [operations, fills, lost, hits] = self.counts();
        let few = self.operations_min / 1_000;
        operations >= self.operations_min && fills > few && lost > few && hits > self.operations_min / 10
    }

    /// Operations, fills by clients stored and lost, and values read.
    fn counts(&self) -> [u64; 4] {
        [&self.operations, &self.fills, &self.lost, &self.hits].map(|count| count.load(Ordering::Relaxed))
    }

    /// A read that began when `oldest` was acknowledged has answered `seen`.
    fn check(&self, key: Key, how: &str, oldest: i64, seen: &Value) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        let version: i64 = seen.text().parse().unwrap_or(-1);
        if version < oldest {
            self.complain(format!("{how} {}: {seen}, but {oldest} was deleted before", key.name()));
        }
    }

    fn complain(&self, text: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone, Copy)]
enum Key {
    Own(usize),
    Row(usize),
}

impl Key {
    fn name(self) -> String {
        match self {
            Self::Own(index) => format!("lease:{index}"),
            Self::Row(index) => format!("row:{index}"),
        }
    }

    /// What it is always filled with: a tag of its own, and one of four keys.
    fn tags(self) -> Option<[String; 2]> {
        match self {
            Self::Own(index) if index % 2 == 0 => Some([format!("one:{index}"), format!("some:{}", index / 8)]),
            Self::Own(_) => None,
            // As the loader's conf has it.
            Self::Row(index) => Some([format!("row-one:{index}"), "rows".to_owned()]),
        }
    }
}

/// One client, with its own connection, choices and delays.
struct Actor<'a> {
    world: &'a World,
    client: Client,
    /// Its connection to PostgreSQL, if its keys lie there.
    database: Option<Database>,
    random: u64,
}

impl Actor<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Between any two steps the others may act: not at all, for a moment, or for long.
    fn delay(&mut self) {
        match self.below(20) {
            0..8 => {}
            8..13 => std::thread::yield_now(),
            13..19 => std::thread::sleep(Duration::from_micros(self.below(400))),
            _ => std::thread::sleep(Duration::from_micros(self.below(6_000))),
        }
    }

    fn key(&mut self) -> Key {
        let index = self.below(KEYS as u64) as usize;
        if self.database.is_some() { Key::Row(index) } else { Key::Own(index) }
    }

    fn send(&mut self, argv: &[&str]) {
        self.world.operations.fetch_add(1, Ordering::Relaxed);
        self.client.send(argv);
    }

    fn command(&mut self, argv: &[&str]) -> Value {
        self.send(argv);
        self.client.receive()
    }

    fn oldest_allowed(&self, key: Key) -> i64 {
        self.world.row(key).acknowledged.load(Ordering::SeqCst)
    }

    /// What the database says now.
    fn query(&mut self, key: Key) -> i64 {
        match (key, &mut self.database) {
            (Key::Row(index), Some(database)) => {
                database.number_of("SELECT version FROM rows WHERE id = $1", index as i64)
            }
            _ => self.world.row(key).version.load(Ordering::SeqCst),
        }
    }

    /// Changes the row; the new version is committed.
    fn commit(&mut self, key: Key) -> i64 {
        match (key, &mut self.database) {
            (Key::Row(index), Some(database)) => database
                .number_of("UPDATE rows SET version = version + 1 WHERE id = $1 RETURNING version", index as i64),
            _ => self.world.row(key).version.fetch_add(1, Ordering::SeqCst) + 1,
        }
    }

    fn write(&mut self) {
        let key = self.key();
        let version = self.commit(key);
        self.delay();
        let name = key.name();
        let reply = match (self.below(400), key.tags()) {
            (0..40, Some([one, some])) => match self.below(3) {
                0 => self.command(&["INVALTAG", &one]),
                1 => self.command(&["INVALTAG", &some]),
                _ => self.command(&["INVALTAG", "none", &one, &some]),
            },
            (choice, _) => self.delete(&name, choice),
        };
        if let Value::Error(text) = reply {
            self.world.complain(format!("a delete of {name} was refused: {text}"));
        }
        self.world.row(key).acknowledged.fetch_max(version, Ordering::SeqCst);
        self.delay();
    }

    /// Of one key, more, or all.
    fn delete(&mut self, name: &str, choice: u64) -> Value {
        match choice {
            0 => self.command(&["FLUSHALL"]),
            1..60 => self.command(&["INVALPREFIX", &name[..name.len() - usize::from(choice.is_multiple_of(8))]]),
            60..100 => self.command(&["DEL", name]),
            100..160 => self.command(&["UNLINK", name]),
            160..260 => self.command(&["INVAL", name, "HARD"]),
            260..300 => self.command(&["INVAL", name, "STALE", "20"]),
            _ => self.command(&["INVAL", name]),
        }
    }

    /// Some plain reads, sent together.
    fn read(&mut self) {
        let mut sent = VecDeque::new();
        for _ in 0..1 + self.below(PIPELINE_MAX as u64) {
            let key = self.key();
            let oldest = self.oldest_allowed(key);
            let name = key.name();
            match (key, self.below(8)) {
                (Key::Row(_), 0) => {
                    self.send(&["LOADTHROUGH", &name]);
                    sent.push_back(("LOADTHROUGH", vec![(key, oldest)]));
                }
                (Key::Row(_), 1) => {
                    self.send(&["LOADTHROUGH", &name, "FRESH"]);
                    sent.push_back(("LOADTHROUGH FRESH", vec![(key, oldest)]));
                }
                (_, 2) => {
                    let other = self.key();
                    let keys = vec![(key, oldest), (other, self.oldest_allowed(other))];
                    self.send(&["MGET", &name, &other.name()]);
                    sent.push_back(("MGET", keys));
                }
                _ => {
                    self.send(&["GET", &name]);
                    sent.push_back(("GET", vec![(key, oldest)]));
                }
            }
        }
        for (how, keys) in sent {
            let reply = self.client.receive();
            let values = if how == "MGET" { reply.elements() } else { std::slice::from_ref(&reply) };
            for ((key, oldest), value) in keys.into_iter().zip(values) {
                match (key, value) {
                    (_, Value::Bulk(_)) => self.world.check(key, how, oldest, value),
                    (Key::Own(_), value) if value.is_null() => {}
                    // The row is there, and the database answers.
                    _ => self.world.complain(format!("{how} {}: {value}", key.name())),
                }
            }
        }
        self.delay();
    }

    /// GETL; who gets the lease loads, or gives up, or is never heard of again.
    fn read_by_lease(&mut self) {
        let key = self.key();
        let (name, oldest) = (key.name(), self.oldest_allowed(key));
        let mut argv = vec!["GETL", &name];
        if self.below(2) == 0 {
            argv.extend(["WAIT", "50"]);
        }
        if self.below(3) == 0 {
            argv.push("NOSTALE");
        }
        let reply = self.command(&argv);
        let Value::Array(fields) = &reply else { return self.world.complain(format!("GETL {name}: {reply}")) };
        match fields[0].text().as_str() {
            "HIT" => self.world.check(key, "GETL", oldest, &fields[1]),
            "LEASE" => self.fill(key, &fields[2].text()),
            "WAIT" => {}
            _ => self.world.complain(format!("GETL {name}: {reply}")),
        }
    }

    fn fill(&mut self, key: Key, token: &str) {
        let name = key.name();
        self.delay();
        let version = self.query(key).to_string();
        self.delay();
        let life = (1 + self.below(60)).to_string();
        let mut argv = vec!["SETL", &name, token, &version];
        match self.below(20) {
            0 => return,
            1 => {
                self.command(&["RELL", &name, token]);
                return;
            }
            2..6 => argv.extend(["PX", &life]),
            6..9 => argv.extend(["PX", &life, "STALEFOR", "30"]),
            _ => {}
        }
        let tags = key.tags();
        if let Some([one, some]) = &tags {
            argv.extend(["TAGS", "2", one, some]);
        }
        let reply = self.command(&argv);
        let outcome = if reply.text().starts_with("LOST") { &self.world.lost } else { &self.world.fills };
        outcome.fetch_add(1, Ordering::Relaxed);
    }

    /// What one does without leases: miss, read, SET.
    fn read_and_set(&mut self) {
        let key = self.key();
        let (name, oldest) = (key.name(), self.oldest_allowed(key));
        let value = self.command(&["GET", &name]);
        if value.is_null() {
            self.delay();
            let version = self.query(key).to_string();
            self.delay();
            self.command(&["SET", &name, &version]);
        } else {
            self.world.check(key, "GET", oldest, &value);
        }
    }
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = number_from("LEASEHOLD_SEED").unwrap_or(now.as_micros() as u64 % 1_000_000_000);
    groups::say(&format!("no stale set: LEASEHOLD_SEED={seed}"));
    seed
}

/// One query for each key of the loader, at any moment of which the row may change: PostgreSQL reads it at the beginning.
fn conf(url: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "30s"
        acquire_timeout = "30s"

        [loaders.row]
        match = "row:{{id:int}}"
        source = "main"
        value = "column"
        sql = """WITH r AS MATERIALIZED (SELECT id, version FROM rows WHERE id = $1),
            d AS MATERIALIZED (SELECT pg_sleep(random() * 0.004)::text AS done FROM r)
            SELECT id, version FROM d, r WHERE done IS NOT NULL"""
        batch_sql = """WITH r AS MATERIALIZED (SELECT id, version FROM rows WHERE id = ANY($1)),
            d AS MATERIALIZED (SELECT pg_sleep(random() * 0.004)::text AS done)
            SELECT id, version FROM d, r WHERE done IS NOT NULL"""
        tags = ["row-one:{{id}}", "rows"]
        ttl = "50ms"
        refresh = "ahead"
        refresh_at = 0.1
        stale_for = "1m"
        serve_stale = "never"
        hard_timeout = "30s"
        "#
    )
}

#[test]
fn no_read_is_older_than_an_acknowledged_delete() {
    let Some(postgres) = Postgres::start(GROUP) else { return };
    let mut database = Database::connect(&postgres.url());
    database.run("CREATE TABLE rows (id int8 PRIMARY KEY, version int8 NOT NULL)");
    database.run(&format!("INSERT INTO rows SELECT n, 0 FROM generate_series(0, {}) n", KEYS - 1));
    let server = Server::options().conf(conf(&postgres.url())).set("lease-ms", 200).start();
    let seed = seed();
    let few_or_all = if groups::all_required() { OPERATIONS_ALL } else { OPERATIONS_FEW };
    let world = World::new(number_from("LEASEHOLD_NO_STALE_SET_OPERATIONS").unwrap_or(few_or_all));
    let begun = Instant::now();
    let mut client = server.client();
    std::thread::scope(|scope| {
        for index in 0..2 * (READERS + WRITERS) {
            let on_postgres = index % 2 == 0;
            let mut actor = Actor {
                world: &world,
                client: server.client(),
                database: on_postgres.then(|| Database::connect(&postgres.url())),
                random: seed.wrapping_add(index as u64).wrapping_mul(0x2545_f491_4f6c_dd1d),
            };
            scope.spawn(move || {
                while !actor.world.is_over() {
                    if index < 2 * WRITERS {
                        actor.write();
                    } else if actor.below(if on_postgres { 8 } else { 2 }) == 0 {
                        actor.read_by_lease();
                    } else {
                        actor.read();
                    }
                }
            });
        }
        let few = world.operations_min as i64 / 1_000;
        while begun.elapsed() < RACES_WITHIN
            && !(world.has_raced()
                && client.loader_counter("row", "lost_fills") > few / 2
                && client.loader_counter("row", "refreshes") > few / 10)
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        world.is_over.store(true, Ordering::Relaxed);
    });
    let took = begun.elapsed();
    until("no load is under way", || {
        client.loader_counter("row", "in_flight") == 0 && client.loader_counter("row", "queue_length") == 0
    });
    let mut cached = 0;
    for index in 0..KEYS {
        for key in [Key::Own(index), Key::Row(index)] {
            let in_database = match key {
                Key::Own(_) => world.row(key).version.load(Ordering::SeqCst),
                Key::Row(_) => database.number_of("SELECT version FROM rows WHERE id = $1", index as i64),
            };
            let value = client.command(&["GET", &key.name()]);
            if !value.is_null() {
                cached += 1;
                assert_eq!(value.text(), in_database.to_string(), "{} at the end", key.name());
            }
        }
    }
    let [operations, fills, lost, hits] = world.counts();
    let [loads, lost_loads, refreshes] =
        ["keys", "lost_fills", "refreshes"].map(|counter| client.loader_counter("row", counter));
    groups::say(&format!(
        "no stale set: {operations} commands in {took:?}: {hits} values read and checked; by clients {fills} fills stored, {lost} lost; \
         by the loader {loads} rows read, {refreshes} of them before the value expired, {lost_loads} fills lost; {cached} cached values at the end"
    ));
    assert_eq!(world.violations(), [""; 0]);
    assert!(took < RACES_WITHIN, "too few races");
}

#[test]
fn the_checker_sees_the_stale_values_of_clients_without_leases() {
    let server = Server::start();
    let seed = seed();
    let world = World::new(u64::MAX);
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for index in 0..READERS + WRITERS {
            let mut actor =
                Actor { world: &world, client: server.client(), database: None, random: seed + index as u64 };
            scope.spawn(move || {
                while actor.world.violations().is_empty() && Instant::now() < deadline {
                    if index < WRITERS { actor.write() } else { actor.read_and_set() }
                }
            });
        }
    });
    let violations = world.violations();
    assert!(violations.iter().any(|text| text.starts_with("GET lease:")), "{violations:?}");
}
