//! Mixed traffic on the real binary while the limit and the policy change; then the books are checked from outside: what keys
//! cost by `MEMORY USAGE`, each alone, is to the byte what `INFO` says that entries have.
//!
//! `LEASEHOLD_SOAK_SECONDS` says for how long; `tests/nightly` does it for an hour. The seed is printed, and
//! `LEASEHOLD_SOAK_SEED` takes one.

use leasehold_tests::client::request;
use leasehold_tests::process::Directory;
use leasehold_tests::random::{Random, value};
use leasehold_tests::watch::{holds_in_time, rss_bytes, rss_max, until, until_some};
use leasehold_tests::{Client, Server, Value, groups};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

const SECONDS: u64 = 12;
const CLIENTS: u64 = 4;
const BATCH: usize = 50;
/// Keys of each kind.
const KEYS: u64 = 40_000;
/// Limits, in MiB.
const LIMITS: (u64, u64) = (24, 96);
const CHANGE_EVERY: Duration = Duration::from_millis(700);
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// TTLs, stale windows and negative entries are shorter than this, or an hour.
const SHORT_MS: u64 = 700;
const MEBIBYTE: u64 = 1 << 20;

const POLICIES: [&str; 10] = [
    "noeviction",
    "allkeys-lru",
    "volatile-lru",
    "allkeys-lfu",
    "volatile-lfu",
    "allkeys-random",
    "volatile-random",
    "volatile-ttl",
    "allkeys-tinylfu",
    "volatile-tinylfu",
];

/// A row for each key but every seventh, computed by SQLite.
const LOADER: &str = r#"
[sources.computed]
url = "sqlite:DIR/soak.db"
create_with = "DIR/schema.sql"

[loaders.row]
match = "row:{id:int}"
source = "computed"
sql = "SELECT $1 AS id, $1 || ';' AS value WHERE $1 % 7 > 0"
batch_sql = "SELECT value AS id, value || ';' AS value FROM json_each($1) WHERE value % 7 > 0"
value = "column"
ttl = "600ms"
stale_for = "100ms"
negative_ttl = "300ms"
"#;

/// What a reply must be.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The value of this key, or nothing.
    ValueOf(u64),
    /// Of each of these.
    ValuesOf([u64; 4]),
    /// What [`GETL`](traffic) answers for this key.
    LeaseOf(u64),
    /// No such error as would be a defect.
    Anything,
}

#[derive(Debug, Default)]
struct Counts {
    commands: AtomicU64,
    refused: AtomicU64,
    filled: AtomicU64,
}

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn the_books_are_right_after_everything() {
    let seconds = number_from("LEASEHOLD_SOAK_SECONDS", SECONDS);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let seed = number_from("LEASEHOLD_SOAK_SEED", clock);
    groups::say(&format!("soak: {seconds} s, LEASEHOLD_SOAK_SEED={seed}"));
    let files = Directory::new();
    std::fs::write(files.path().join("schema.sql"), "CREATE TABLE none_is_needed (id INTEGER);")
        .expect("the directory is ours");
    let conf = LOADER.replace("DIR", &files.path().display().to_string());
    let server = Server::options().conf(conf).set("databases", 2).set("maxmemory", LIMITS.1 * MEBIBYTE).start();
    let counts = Counts::default();
    // Who sends reads it, who checks writes it.
    let traffic_may_run = RwLock::new(());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (server, counts, traffic_may_run, is_over) = (&server, &counts, &traffic_may_run, &is_over);
            scope.spawn(move || {
                let mut client = server.client();
                let mut random = Random(seed * CLIENTS + number);
                client.command(&["SELECT", if number == 0 { "1" } else { "0" }]);
                while !is_over.load(Relaxed) {
                    let _running = traffic_may_run.read().expect("no thread panics");
                    traffic(&mut client, &mut random, counts);
                }
            });
        }
        let mut operator = server.client();
        let mut random = Random(!seed);
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let checked = Instant::now();
            while checked.elapsed() < CHECK_EVERY && Instant::now() < end {
                std::thread::sleep(CHANGE_EVERY);
                change_something(&mut operator, &mut random);
            }
            let _paused = traffic_may_run.write().expect("no thread panics");
            check_books(&server, &mut operator, &mut random);
        }
        is_over.store(true, Relaxed);
    });
    let mut client = server.client();
    client.command(&["FLUSHALL"]);
    until("all is gone", || client.info("x_entry_bytes") == 0 && client.info("used_memory") < 4 * MEBIBYTE);
    let Counts { commands, refused, filled } = counts;
    groups::say(&format!("soak: {commands:?} commands, {refused:?} refused for memory, {filled:?} leases filled"));
    assert!(commands.load(Relaxed) > 1000 * seconds && filled.load(Relaxed) > seconds, "too little was tested");
}

/// One batch of random commands, and its replies.
fn traffic(client: &mut Client, random: &mut Random, counts: &Counts) {
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    let mut leased: Vec<(u64, String)> = Vec::new();
    for _ in 0..BATCH {
        let (argv, reply) = command(random);
        bytes.extend(request(&argv));
        expected.push(reply);
    }
    client.send_raw(&bytes);
    for expected in expected {
        let reply = client.receive();
        check_reply(&reply, expected, counts);
        if let (Expected::LeaseOf(key), Value::Array(parts)) = (expected, &reply)
            && parts[0].text() == "LEASE"
        {
            leased.push((key, parts[2].text()));
        }
    }
    counts.commands.fetch_add(BATCH as u64, Relaxed);
    for (key, token) in leased {
        let value = value(key, random.size(2, 12));
        let reply = client.command(&[b"SETL", format!("l:{key}").as_bytes(), token.as_bytes(), &value, b"PX", b"500"]);
        match reply {
            Value::Error(_) => check_reply(&reply, Expected::Anything, counts),
            // Deleted, evicted or flushed meanwhile, or stored.
            reply => _ = counts.filled.fetch_add(u64::from(reply.to_string().contains("STORED")), Relaxed),
        }
    }
}

fn command(random: &mut Random) -> (Vec<Vec<u8>>, Expected) {
    let key = random.below(KEYS);
    // Few keys of those that may grow, so that they do.
    let few = random.below(KEYS / 200);
    let words = |line: String| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let with_value = |line: String, value: Vec<u8>| {
        let mut argv = words(line);
        argv.push(value);
        argv
    };
    let ttl = random.below(SHORT_MS) + 1;
    // Most values are small, a few are of any size up to 1 MiB.
    let len = if random.below(50) == 0 { random.size(0, 20) } else { random.size(0, 11) };
    match random.below(100) {
        0..25 => {
            let mut argv = with_value(format!("SET v:{key}"), value(key, len));
            match random.below(6) {
                0 => argv.extend(words(format!("PX {ttl}"))),
                1 => argv.extend(words("EX 3600".to_owned())),
                2 => argv.extend(words("KEEPTTL".to_owned())),
                _ => {}
            }
            (argv, Expected::Anything)
        }
        25..50 => (words(format!("GET v:{key}")), Expected::ValueOf(key)),
        50..54 => {
            let keys = [0; 4].map(|_| random.below(KEYS));
            (words(format!("MGET v:{} v:{} v:{} v:{}", keys[0], keys[1], keys[2], keys[3])), Expected::ValuesOf(keys))
        }
        54..57 => (words(format!("DEL v:{key}")), Expected::Anything),
        57..59 => (words(format!("GETDEL v:{key}")), Expected::ValueOf(key)),
        59..61 => (words(format!("GETEX v:{key} PX {ttl}")), Expected::ValueOf(key)),
        61..63 => (words(format!("PEXPIRE v:{key} {ttl}")), Expected::Anything),
        63..64 => (words(format!("PERSIST v:{key}")), Expected::Anything),
        64..66 => (with_value(format!("APPEND a:{few}"), vec![b'+'; len]), Expected::Anything),
        66..68 => (with_value(format!("SETRANGE a:{few} {}", random.size(0, 17)), vec![b'r'; 100]), Expected::Anything),
        68..69 => (words(format!("SETBIT a:{few} {} 1", random.size(3, 20))), Expected::Anything),
        69..70 => (words(format!("DEL a:{few}")), Expected::Anything),
        70..71 => (words(format!("COPY a:{few} a:{} REPLACE", random.below(KEYS))), Expected::Anything),
        71..72 => (words(format!("RENAME a:{few} a:{}", random.below(KEYS))), Expected::Anything),
        72..74 => (words(format!("INCRBY n:{key} {}", random.number())), Expected::Anything),
        74..75 => (words(format!("DEL n:{key}")), Expected::Anything),
        75..83 => (words(format!("GETL l:{few}")), Expected::LeaseOf(few)),
        83..85 => (words(format!("DEL l:{few}")), Expected::Anything),
        85..86 => (words(format!("INVAL l:{few} STALE {ttl}")), Expected::Anything),
        86..97 => (words(format!("GET row:{key}")), Expected::ValueOf(key)),
        97..98 => (words(format!("INVAL row:{key}")), Expected::Anything),
        98 => (words("SCAN 0 COUNT 100".to_owned()), Expected::Anything),
        _ if random.below(2000) == 0 => (words("FLUSHDB".to_owned()), Expected::Anything),
        _ => (words("RANDOMKEY".to_owned()), Expected::Anything),
    }
}

fn check_reply(reply: &Value, expected: Expected, counts: &Counts) {
    if let Value::Error(text) = reply {
        let is_told = [
            "OOM ",
            "ERR no such key",
            "ERR source and destination objects are the same",
            "ERR increment or decrement would overflow",
            "LOADBUSY",
            "LOADFAIL",
        ];
        assert!(is_told.iter().any(|told| text.starts_with(told)), "{expected:?}: {text}");
        counts.refused.fetch_add(u64::from(text.starts_with("OOM ")), Relaxed);
        return;
    }
    let check = |reply: &Value, key: u64| {
        let is_right = reply.bytes().is_none_or(|bytes| bytes == value(key, bytes.len()));
        assert!(is_right, "{expected:?}: {reply}");
    };
    match expected {
        Expected::ValueOf(key) => check(reply, key),
        Expected::ValuesOf(keys) => reply.elements().iter().zip(keys).for_each(|(reply, key)| check(reply, key)),
        Expected::LeaseOf(key) => {
            let parts = reply.elements();
            if parts[0].text() == "HIT" {
                check(&parts[1], key);
            }
        }
        Expected::Anything => {}
    }
}

fn change_something(operator: &mut Client, random: &mut Random) {
    let reply = match random.below(4) {
        0 => {
            let limit = LIMITS.0 + random.below(LIMITS.1 - LIMITS.0);
            operator.command(&["CONFIG", "SET", "maxmemory", &format!("{limit}mb")])
        }
        1 | 2 => {
            let policy = POLICIES[random.below(POLICIES.len() as u64) as usize];
            operator.command(&["CONFIG", "SET", "maxmemory-policy", policy])
        }
        _ => operator.command(&["INFO"]),
    };
    assert!(!matches!(reply, Value::Error(_)), "{reply}");
}

/// While nobody writes.
fn check_books(server: &Server, client: &mut Client, random: &mut Random) {
    // One by which everything may go: under others more than a lowered limit may be left.
    let policies: Vec<&str> = POLICIES.into_iter().filter(|policy| policy.starts_with("allkeys")).collect();
    client.command(&["CONFIG", "SET", "maxmemory-policy", policies[random.below(policies.len() as u64) as usize]]);
    // What has a short life is over, and a lowered limit was worked off.
    std::thread::sleep(Duration::from_millis(3 * SHORT_MS));
    let (found, bytes) = until_some("a count while nothing changed", || {
        let before = (client.info("x_entry_bytes"), client.info("evicted_keys"), client.info("expired_keys"));
        let counted = count(server);
        let after = (client.info("x_entry_bytes"), client.info("evicted_keys"), client.info("expired_keys"));
        (before == after).then_some((counted, before.0))
    });
    assert_eq!((found.bytes, found.keys), (bytes, found.keys_told), "entries as counted and as told");
    let limit = client.command(&["CONFIG", "GET", "maxmemory"]).elements()[1].text().parse::<u64>().expect("a number");
    let used = client.info("used_memory");
    let rss_max = rss_max(limit);
    let is_bounded = holds_in_time(|| rss_bytes(server.pid()) <= rss_max);
    let rss = rss_bytes(server.pid());
    if !is_bounded {
        let info = client.command(&["INFO", "all"]).text();
        panic!("{rss} bytes are resident where {rss_max} are allowed under a limit of {limit}:\n{info}");
    }
    groups::say(&format!(
        "soak: {} entries of {bytes} bytes, error 0; used {used}, rss {rss}, limit {limit}",
        found.keys
    ));
    assert!(used <= limit, "{used} of {limit}");
}

struct Counted {
    keys: u64,
    bytes: u64,
    /// By DBSIZE.
    keys_told: u64,
}

/// Bytes of an entry's place in the index: part of its `MEMORY USAGE`, but told with the index.
const INDEX_BYTES_EACH: u64 = 5;

/// Every key, asked for what it costs.
fn count(server: &Server) -> Counted {
    let mut client = server.client();
    let mut counted = Counted { keys: 0, bytes: 0, keys_told: 0 };
    for db in ["0", "1"] {
        client.command(&["SELECT", db]);
        counted.keys_told += client.command(&["DBSIZE"]).integer().unsigned_abs();
        let mut cursor = "0".to_owned();
        loop {
            let reply = client.command(&["SCAN", &cursor, "COUNT", "1000"]);
            let keys = reply.elements()[1].elements();
            let mut bytes = Vec::new();
            for key in keys {
                bytes.extend(request(&[&b"MEMORY"[..], b"USAGE", key.bytes().expect("a key")]));
            }
            client.send_raw(&bytes);
            for _ in keys {
                // One that went meanwhile has none; then the count is done again.
                if let Value::Integer(bytes) = client.receive() {
                    counted.keys += 1;
                    counted.bytes += bytes.unsigned_abs() - INDEX_BYTES_EACH;
                }
            }
            cursor = reply.elements()[0].text();
            if cursor == "0" {
                break;
            }
        }
    }
    counted
}
