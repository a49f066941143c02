//! A feed as the only source of invalidation: writers commit, roll back, and commit in another order than they began; readers load and
//! read; connections of the server are killed, and rows of the outbox deleted. Nobody deletes a key, and rows live for an hour.
//!
//! What a reader may see is an old row, for as long as the feed lags. So the checker measures how old: how long before a read began was the
//! next version committed. And once the feed has told all, each key must be what the database has, at the first look.
//!
//! `LEASEHOLD_SEED=n` repeats the choices of each actor, though not the schedule of the threads.
//! `LEASEHOLD_FEEDS_RACE_OPERATIONS=n` changes how many reads there are.

use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Server, Value, groups};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const GROUP: &str = "feeds race";
/// Reads, when everything must run and when not.
const OPERATIONS_ALL: u64 = 200_000;
const OPERATIONS_FEW: u64 = 20_000;
/// Few, so that everybody meets everybody.
const KEYS: usize = 16;
const READERS: usize = 6;
const WRITERS: usize = 3;
/// At least one transaction for so many reads, however fast those are.
const READS_PER_WRITE: u64 = 25;

struct World {
    /// For each row, when each version was known to be committed.
    commits: Vec<Mutex<Vec<Option<Instant>>>>,
    reads: AtomicU64,
    reads_max: u64,
    /// Reads that answered a version with a successor that was committed before they began.
    old_reads: AtomicU64,
    oldest_us: AtomicU64,
    failed_loads: AtomicU64,
    rollbacks: AtomicU64,
    writes: AtomicU64,
    is_over: AtomicBool,
    violations: Mutex<Vec<String>>,
}

impl World {
    fn note_commit(&self, row: usize, version: usize, at: Instant) {
        let mut commits = self.commits[row].lock().unwrap_or_else(PoisonError::into_inner);
        if commits.len() <= version {
            commits.resize(version + 1, None);
        }
        commits[version] = Some(at);
    }

    /// A read that began at `began` has answered `version`.
    fn check(&self, row: usize, began: Instant, version: i64) {
        let Ok(version) = usize::try_from(version) else {
            self.violations
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(format!("row {row}: {version} was rolled back"));
            return;
        };
        let commits = self.commits[row].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(next)) = commits.get(version + 1)
            && *next < began
        {
            self.old_reads.fetch_add(1, Ordering::Relaxed);
            self.oldest_us.fetch_max((began - *next).as_micros() as u64, Ordering::Relaxed);
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn write(world: &World, database: &mut Database, random: &mut Random) {
    let row = random.below(KEYS as u64) as usize;
    match random.below(10) {
        0 => {
            database.run(&format!("BEGIN; UPDATE rows SET version = -1 WHERE id = {row}; ROLLBACK"));
            world.rollbacks.fetch_add(1, Ordering::Relaxed);
        }
        1..4 => {
            // Others begin later and commit sooner.
            database.run("BEGIN");
            let version = update(database, row);
            std::thread::sleep(Duration::from_micros(random.below(8_000)));
            database.run("COMMIT");
            world.note_commit(row, version as usize, Instant::now());
        }
        _ => {
            let version = update(database, row);
            world.note_commit(row, version as usize, Instant::now());
        }
    }
    world.writes.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(Duration::from_micros(random.below(3_000)));
}

fn update(database: &mut Database, row: usize) -> i64 {
    database.number_of("UPDATE rows SET version = version + 1 WHERE id = $1 RETURNING version", row as i64)
}

fn read(world: &World, client: &mut Client, random: &mut Random) {
    let row = random.below(KEYS as u64) as usize;
    let began = Instant::now();
    match client.command(&["GET", &format!("row:{row}")]) {
        Value::Bulk(text) => {
            let version = String::from_utf8_lossy(&text).parse().expect("a version");
            world.check(row, began, version);
        }
        // Its connection was killed, and the one after that too.
        Value::Error(_) => {
            world.failed_loads.fetch_add(1, Ordering::Relaxed);
        }
        other => world.violations.lock().unwrap_or_else(PoisonError::into_inner).push(format!("row {row}: {other}")),
    }
    let reads = world.reads.fetch_add(1, Ordering::Relaxed) + 1;
    if reads >= world.reads_max && world.writes.load(Ordering::Relaxed) >= world.reads_max / READS_PER_WRITE {
        world.is_over.store(true, Ordering::Relaxed);
    }
}

/// A way for a feed to learn of changes.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    /// Of the server.
    settings: &'static [&'static str],
    /// More lines of the feed's configuration.
    conf: &'static str,
    /// What prints the SQL that makes what the feed reads.
    printed: &'static [&'static str],
    /// Transactions after which the connections of the server are killed again; `None`: never.
    killed_every: Option<u64>,
    /// Deletes what the feed has not read yet.
    purge: Option<&'static str>,
}

const OUTBOX: Way = Way {
    name: "outbox",
    settings: &[],
    conf: "via = \"outbox\"",
    printed: &["sql", "outbox", "--table", "rows", "--key", "id"],
    killed_every: Some(100),
    purge: Some("DELETE FROM leasehold_outbox"),
};

const LOGICAL: Way = Way {
    name: "logical replication",
    settings: &["wal_level=logical"],
    conf: "via = \"logical\"",
    printed: &["sql", "publication", "--table", "rows", "--key", "id", "--user", "test"],
    // Each is a gap, and then the slot waits for open transactions.
    killed_every: Some(300),
    purge: None,
};

/// Kills the server's connections, and sometimes deletes what they have not read.
fn make_trouble(world: &World, database: &mut Database, random: &mut Random, way: Way) {
    let every = way.killed_every.unwrap_or(u64::MAX);
    let mut next = every;
    while !world.is_over.load(Ordering::Relaxed) {
        if world.writes.load(Ordering::Relaxed) < next {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        next = next.saturating_add(every);
        database.number(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'leasehold' AND datname = current_database()",
        );
        if random.below(2) == 0 {
            // Time for writes that nobody reads.
            std::thread::sleep(Duration::from_millis(20));
            way.purge.into_iter().for_each(|sql| database.run(sql));
        }
    }
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn conf(url: &str, way: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "20s"
        acquire_timeout = "20s"
        breaker = "off"

        [loaders.row]
        match = "row:{{id:int}}"
        source = "main"
        value = "column"
        sql = "SELECT id, version FROM rows WHERE id = $1"
        batch_sql = "SELECT id, version FROM rows WHERE id = ANY($1)"
        ttl = "1h"
        serve_stale = "never"
        breaker = "off"
        hard_timeout = "20s"

        [feeds.rows]
        source = "main"
        loaders = "row"
        table = "rows"
        key = "id"
        stale_after = "1h"
        {way}
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

/// What a commit is old by when its keys are stale is what the feed calls its lag, by the same clock.
#[test]
fn where_nothing_breaks_the_lag_that_is_told_is_the_bound() {
    race(Way { killed_every: None, ..OUTBOX });
    race(Way { killed_every: None, ..LOGICAL });
}

fn race(way: Way) {
    // Races beside each other would measure each other.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(postgres) = Postgres::start_with(GROUP, way.settings, |_| {}) else { return };
    let url = postgres.url();
    let mut database = Database::connect(&url);
    database.run("CREATE TABLE rows (id int8 PRIMARY KEY, version int8 NOT NULL)");
    database.run(&format!("INSERT INTO rows SELECT n, 0 FROM generate_series(0, {}) n", KEYS - 1));
    let sql = Command::new(binary()).args(way.printed).output();
    database.run(&String::from_utf8(sql.expect("the binary runs").stdout).expect("SQL is text"));
    let server = Server::options().conf(conf(&url, way.conf)).start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = number_from("LEASEHOLD_SEED").unwrap_or(now.as_micros() as u64 % 1_000_000_000);
    let name = way.name;
    groups::say(&format!("feeds race, {name}: LEASEHOLD_SEED={seed}"));
    let few_or_all = if groups::all_required() { OPERATIONS_ALL } else { OPERATIONS_FEW };
    let world = World {
        commits: (0..KEYS).map(|_| Mutex::default()).collect(),
        reads: AtomicU64::new(0),
        reads_max: number_from("LEASEHOLD_FEEDS_RACE_OPERATIONS").unwrap_or(few_or_all),
        old_reads: AtomicU64::new(0),
        oldest_us: AtomicU64::new(0),
        failed_loads: AtomicU64::new(0),
        rollbacks: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        violations: Mutex::default(),
    };
    let mut client = server.client();
    until("the feed has begun", || client.feed_field("state") == "ok");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for index in 0..WRITERS + READERS + usize::from(way.killed_every.is_some()) {
            let (world, url) = (&world, url.as_str());
            let mut random = Random(seed.wrapping_add(index as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
            let mut client = server.client();
            scope.spawn(move || {
                if index < READERS {
                    while !world.is_over.load(Ordering::Relaxed) {
                        read(world, &mut client, &mut random);
                    }
                    return;
                }
                let mut database = Database::connect(url);
                if index == WRITERS + READERS {
                    return make_trouble(world, &mut database, &mut random, way);
                }
                while !world.is_over.load(Ordering::Relaxed) {
                    write(world, &mut database, &mut random);
                }
            });
        }
    });
    let (took, ended) = (begun.elapsed(), Instant::now());
    until("the feed has told all", || {
        let asked = Instant::now();
        let ago_ms = client.feed_counter("rows", "up_to_date_ms_ago");
        u64::try_from(ago_ms).is_ok_and(|ago_ms| asked > ended + Duration::from_millis(ago_ms + 1))
    });
    for row in 0..KEYS {
        let version = database.number(&format!("SELECT version FROM rows WHERE id = {row}"));
        let seen = client.command(&["GET", &format!("row:{row}")]);
        assert_eq!(seen.text(), version.to_string(), "row:{row} after the feed has told all");
    }
    let [reads, old, failed, rollbacks, writes] =
        [&world.reads, &world.old_reads, &world.failed_loads, &world.rollbacks, &world.writes]
            .map(|count| count.load(Ordering::Relaxed));
    let [events, invalidated, gaps, lag_us, p99_us] = ["events", "invalidated", "gaps", "lag_max_us", "lag_p99_us"]
        .map(|counter| client.feed_counter("rows", counter));
    groups::say(&format!(
        "feeds race, {name}: {reads} reads and {writes} transactions ({rollbacks} rolled back) in {took:?}; {old} reads were old, by {} us at most; the \
         feed told {events} events, at most {lag_us} us (p99 {p99_us} us) after the write, with {gaps} gaps; {failed} loads failed",
        world.oldest_us.load(Ordering::Relaxed)
    ));
    assert_eq!(*world.violations.lock().unwrap_or_else(PoisonError::into_inner), [""; 0]);
    if way.killed_every.is_none() {
        let oldest_us = world.oldest_us.load(Ordering::Relaxed);
        assert_eq!((gaps, failed), (0, 0));
        /// An answer of the database is as old as its way here, which on a busy machine is some milliseconds.
        const WAY_US: u64 = 250_000;
        let bound_us = lag_us as u64 + WAY_US;
        assert!(oldest_us <= bound_us, "a read was old by {oldest_us} us, and the feed's lag was {lag_us} us");
    }
    // Races that did not happen prove nothing.
    let few = world.reads_max / READS_PER_WRITE / 50;
    assert!(rollbacks > few && invalidated as u64 > few && events as u64 > few, "{rollbacks} {invalidated} {events}");
    assert!(failed < reads / 20, "{failed} of {reads} loads failed");
}
