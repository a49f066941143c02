//! A server whose only source of invalidation is the binary log of a MariaDB: writers commit, roll back, and commit in another order than they
//! began; readers load and read; the connection that follows the log is killed, and files of the log are ended and purged. Nobody deletes a
//! key, and rows live for an hour.
//!
//! What a reader may see is an old row, for as long as the feed lags. So the checker measures how old: how long before a read began was the
//! next version committed. And once the feed has told all, each key must be what the database has, at the first look.
//!
//! `LEASEHOLD_SEED=n` repeats the choices of each actor, though not the schedule of the threads.
//! `LEASEHOLD_FEEDS_RACE_OPERATIONS=n` changes how many reads there are.

use leasehold_tests::watch::until;
use leasehold_tests::{Client, MariaDb, MySqlDatabase, Server, Value, groups};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const GROUP: &str = "MariaDB binlog race";
/// Reads, when everything must run and when not.
const OPERATIONS_ALL: u64 = 100_000;
const OPERATIONS_FEW: u64 = 20_000;
/// Few, so that everybody meets everybody.
const KEYS: usize = 16;
const READERS: usize = 6;
const WRITERS: usize = 3;
/// At least one transaction for so many reads, however fast those are.
const READS_PER_WRITE: u64 = 25;
/// Transactions after which the connection is killed, or the log goes on in another file.
const TROUBLE_EVERY: u64 = 100;

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
            return self.violation(format!("row {row}: {version} was rolled back"));
        };
        let commits = self.commits[row].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(next)) = commits.get(version + 1)
            && *next < began
        {
            self.old_reads.fetch_add(1, Ordering::Relaxed);
            self.oldest_us.fetch_max((began - *next).as_micros() as u64, Ordering::Relaxed);
        }
    }

    fn violation(&self, text: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
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

fn write(world: &World, database: &mut MySqlDatabase, random: &mut Random) {
    let row = random.below(KEYS as u64) as usize;
    if random.below(10) == 0 {
        database.run(&format!("BEGIN; UPDATE row_of SET version = -1 WHERE id = {row}; ROLLBACK"));
        world.rollbacks.fetch_add(1, Ordering::Relaxed);
    } else {
        // Others begin later and commit sooner.
        database.run(&format!("BEGIN; UPDATE row_of SET version = version + 1 WHERE id = {row}"));
        let version = database.texts(&format!("SELECT CAST(version AS CHAR) FROM row_of WHERE id = {row}"));
        std::thread::sleep(Duration::from_micros(random.below(8_000)));
        database.run("COMMIT");
        world.note_commit(row, version[0].parse().expect("a version"), Instant::now());
    }
    world.writes.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(Duration::from_micros(random.below(3_000)));
}

fn read(world: &World, client: &mut Client, random: &mut Random) {
    let row = random.below(KEYS as u64) as usize;
    let began = Instant::now();
    match client.command(&["GET", &format!("row:{row}")]) {
        Value::Bulk(text) => {
            world.check(row, began, String::from_utf8_lossy(&text).parse().expect("a version"));
        }
        Value::Error(_) => {
            world.failed_loads.fetch_add(1, Ordering::Relaxed);
        }
        other => world.violation(format!("row {row}: {other}")),
    }
    let reads = world.reads.fetch_add(1, Ordering::Relaxed) + 1;
    if reads >= world.reads_max && world.writes.load(Ordering::Relaxed) >= world.reads_max / READS_PER_WRITE {
        world.is_over.store(true, Ordering::Relaxed);
    }
}

/// Kills who follows the log, and has the server go on in another file, and purges those that are over.
fn make_trouble(world: &World, database: &mut MySqlDatabase, random: &mut Random) {
    let mut next = TROUBLE_EVERY;
    while !world.is_over() {
        if world.writes.load(Ordering::Relaxed) < next {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        next += TROUBLE_EVERY;
        if random.below(2) == 0 {
            database.run("FLUSH BINARY LOGS");
            continue;
        }
        let followers = "SELECT CAST(ID AS CHAR) FROM information_schema.PROCESSLIST WHERE COMMAND = 'Binlog Dump'";
        for id in database.texts(followers) {
            // It may be gone.
            let _ = database.try_run(&format!("KILL {id}"));
        }
        if random.below(2) == 0 {
            database.run("FLUSH BINARY LOGS");
            let files = database.texts("SHOW BINARY LOGS");
            // One that somebody still follows is left, with a warning.
            database.run(&format!("PURGE BINARY LOGS TO '{}'", files[files.len() - 1]));
        }
    }
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn conf(url: &str) -> String {
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
        sql = "SELECT id, version FROM row_of WHERE id = $1"
        batch_sql = "SELECT id, version FROM row_of WHERE id IN ($1)"
        ttl = "1h"
        serve_stale = "never"
        breaker = "off"
        hard_timeout = "20s"

        [feeds.rows]
        source = "main"
        loaders = "row"
        via = "binlog"
        table = "row_of"
        key = "id"
        stale_after = "1h"
        "#
    )
}

/// A database with rows, and a server whose feed has begun.
fn start() -> Option<(MariaDb, String, Server)> {
    let mariadb = MariaDb::start(GROUP, &["--log-bin=bin", "--binlog-format=ROW", "--server-id=7"], |_| {})?;
    MySqlDatabase::connect(&mariadb.url("")).run("CREATE DATABASE race");
    let url = mariadb.url("race");
    let mut database = MySqlDatabase::connect(&url);
    database.run("CREATE TABLE row_of (id BIGINT PRIMARY KEY, version BIGINT NOT NULL)");
    database.run(&format!("INSERT INTO row_of SELECT seq, 0 FROM seq_0_to_{}", KEYS - 1));
    let server = Server::options().conf(conf(&url)).start();
    let mut client = server.client();
    until("the feed has begun", || client.feed_field("state") == "ok");
    Some((mariadb, url, server))
}

#[test]
fn with_the_log_alone_a_read_is_at_most_as_old_as_the_lag() {
    let Some((_mariadb, url, server)) = start() else { return };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = number_from("LEASEHOLD_SEED").unwrap_or(now.as_micros() as u64 % 1_000_000_000);
    groups::say(&format!("{GROUP}: LEASEHOLD_SEED={seed}"));
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
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for index in 0..=WRITERS + READERS {
            let (world, url) = (&world, url.as_str());
            let mut random = Random(seed.wrapping_add(index as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
            let mut client = server.client();
            scope.spawn(move || {
                if index < READERS {
                    while !world.is_over() {
                        read(world, &mut client, &mut random);
                    }
                    return;
                }
                let mut database = MySqlDatabase::connect(url);
                if index == WRITERS + READERS {
                    return make_trouble(world, &mut database, &mut random);
                }
                while !world.is_over() {
                    write(world, &mut database, &mut random);
                }
            });
        }
    });
    let (took, ended) = (begun.elapsed(), Instant::now());
    let mut client = server.client();
    until("the feed has told all", || {
        let asked = Instant::now();
        let ago_ms = client.feed_counter("rows", "up_to_date_ms_ago");
        u64::try_from(ago_ms).is_ok_and(|ago_ms| asked > ended + Duration::from_millis(ago_ms + 1))
    });
    let mut database = MySqlDatabase::connect(&url);
    for row in 0..KEYS {
        let version = database.texts(&format!("SELECT CAST(version AS CHAR) FROM row_of WHERE id = {row}"));
        let seen = client.command(&["GET", &format!("row:{row}")]);
        assert_eq!(seen.text(), version[0], "row:{row} after the feed has told all");
    }
    let [reads, old, failed, rollbacks, writes] =
        [&world.reads, &world.old_reads, &world.failed_loads, &world.rollbacks, &world.writes]
            .map(|count| count.load(Ordering::Relaxed));
    let [events, invalidated, gaps, lag_us, p99_us] = ["events", "invalidated", "gaps", "lag_max_us", "lag_p99_us"]
        .map(|counter| client.feed_counter("rows", counter));
    groups::say(&format!(
        "{GROUP}: {reads} reads and {writes} transactions ({rollbacks} rolled back) in {took:?}; {old} reads were old, by {} us at most; the \
         feed told {events} events, at most {lag_us} us (p99 {p99_us} us) after they came, with {gaps} gaps; {failed} loads failed",
        world.oldest_us.load(Ordering::Relaxed)
    ));
    assert_eq!(*world.violations.lock().unwrap_or_else(PoisonError::into_inner), [""; 0]);
    // Races that did not happen prove nothing.
    let few = world.reads_max / READS_PER_WRITE / 50;
    assert!(rollbacks > few && invalidated as u64 > few && events as u64 > few, "{rollbacks} {invalidated} {events}");
    assert!(gaps > 0 && failed < reads / 20, "{gaps} gaps; {failed} of {reads} loads failed");
}

/// From the commit to the moment at which no client sees the old row any more, by clients that look.
#[test]
fn the_lag_of_the_log_is_told() {
    const ROUNDS: usize = 300;
    let Some((_mariadb, url, server)) = start() else { return };
    let (mut client, mut database) = (server.client(), MySqlDatabase::connect(&url));
    let mut lags = Vec::new();
    for _ in 0..ROUNDS {
        assert!(!client.command(&["GET", "row:1"]).is_null());
        database.run("UPDATE row_of SET version = version + 1 WHERE id = 1");
        let committed = Instant::now();
        while client.command(&["EXISTS", "row:1"]).integer() == 1 {
            assert!(committed.elapsed() < Duration::from_secs(20), "the update is not seen");
        }
        lags.push(committed.elapsed());
        // Apart by more than the window, as changes on an idle machine are.
        std::thread::sleep(Duration::from_millis(15));
    }
    lags.sort_unstable();
    let [p50, p99] = [ROUNDS / 2, ROUNDS * 99 / 100].map(|place| lags[place]);
    let [p50_us, p99_us, events, gaps] =
        ["lag_p50_us", "lag_p99_us", "events", "gaps"].map(|counter| client.feed_counter("rows", counter));
    groups::say(&format!(
        "{GROUP}: from the acknowledged commit to the first read that is not stale: p50 {p50:?}, p99 {p99:?} of {ROUNDS}; by the feed's own \
         count from when the log had it: p50 {p50_us} us, p99 {p99_us} us"
    ));
    assert_eq!((events, gaps), (ROUNDS as i64, 0));
}
