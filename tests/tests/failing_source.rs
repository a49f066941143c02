//! The network between the server and PostgreSQL fails in each way it can, under two hundred clients: everyone gets a fresh value, a
//! stale one or an error in time; the breakers open and close again; and the database sees no herd when it is back.

use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Proxy, Server, Trouble, Value, groups};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const GROUP: &str = "failing source";
const CLIENTS: u64 = 200;
const KEYS: u64 = 200;

/// A reader may wait this long, and `PROMPT` more.
const HARD_TIMEOUT: Duration = Duration::from_millis(900);
const PROMPT: Duration = Duration::from_millis(100);

/// What a load has to get a connection, and a little less than it has for its query.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(400);

/// `max_concurrency` of the two loaders together; the pool has room for more.
const QUERIES_MAX: usize = 6 + 4;

const SCHEMA: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text);
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 10000) n;";

/// `fresh:N` has no stale value to fall back on, and a query for each key; `calm:N` has, and shares queries.
fn conf(url: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        max_connections = 40
        acquire_timeout = "{ACQUIRE_TIMEOUT:?}"
        statement_timeout = "500ms"
        breaker_window = "2s"
        breaker_calls = 10
        breaker_open = "100ms"
        breaker_open_max = "400ms"

        [loaders.fresh]
        match = "fresh:{{id:int}}"
        source = "main"
        sql = """WITH q AS MATERIALIZED (SELECT pg_sleep(0.002)::text AS slept)
            SELECT id, name FROM q, users WHERE slept IS NOT NULL AND id = $1"""
        ttl = "300ms"
        serve_stale = "never"
        hard_timeout = "900ms"
        max_concurrency = 6
        breaker_window = "2s"
        breaker_calls = 10
        breaker_open = "100ms"
        breaker_open_max = "400ms"

        [loaders.calm]
        match = "calm:{{id:int}}"
        source = "main"
        sql = "SELECT id, name FROM users WHERE id = $1"
        batch_sql = """WITH q AS MATERIALIZED (SELECT pg_sleep(0.002)::text AS slept)
            SELECT id, name FROM q, users WHERE slept IS NOT NULL AND id = ANY($1)"""
        ttl = "300ms"
        stale_for = "1h"
        serve_stale = "on-error"
        soft_timeout = "50ms"
        hard_timeout = "900ms"
        max_concurrency = 4
        breaker_window = "2s"
        breaker_calls = 10
        breaker_open = "100ms"
        breaker_open_max = "400ms"
        "#
    )
}

const LOADERS: [&str; 2] = ["fresh", "calm"];

struct Setup {
    server: Server,
    client: Client,
    proxy: Proxy,
    _postgres: Arc<Postgres>,
}

impl Setup {
    fn new() -> Option<Self> {
        let postgres = Postgres::shared(GROUP)?;
        let url = postgres.new_database();
        Database::connect(&url).run(SCHEMA);
        let proxy = Proxy::before(postgres.port());
        let url = url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.port()));
        let server = Server::options().conf(conf(&url)).start();
        Some(Self { client: server.client(), server, proxy, _postgres: postgres })
    }

    fn sum(&mut self, counter: &str) -> i64 {
        LOADERS.iter().map(|loader| self.client.loader_counter(loader, counter)).sum()
    }

    /// What `LOADER STATS` says of both loaders.
    fn states(&mut self) -> [String; 2] {
        LOADERS.map(|loader| {
            let reply = self.client.command(&["LOADER", "STATS", loader]);
            let pair = reply.elements().chunks(2).find(|pair| pair[0].text() == "state");
            pair.expect("each loader has a state")[1].text()
        })
    }

    fn until_well(&mut self) {
        until("the breakers are closed", || self.states() == ["ok", "ok"]);
        let rows = self.sum("rows");
        until("rows come again", || self.sum("rows") > rows + 100);
    }

    /// Waits that ended later than `most`, by the server's own books.
    fn waits_longer_than(&mut self, most: Duration) -> u64 {
        let info = self.client.command(&["INFO", "leases"]).text();
        let line = info.lines().find_map(|line| line.strip_prefix("lease_wait_ms:")).expect("INFO tells of waits");
        let buckets = line.split(',').filter_map(|bucket| bucket.split_once('='));
        let longer = buckets.filter(|(name, _)| {
            // `lt_N` begins at N/2.
            let end_ms = name.strip_prefix("lt_").map(|end| end.parse().expect("a number of ms"));
            end_ms.is_none_or(|end_ms: u64| u128::from(end_ms / 2) >= most.as_millis())
        });
        longer.map(|(_, count)| count.parse::<u64>().expect("a count")).sum()
    }
}

/// What clients have seen since they were last asked.
#[derive(Default)]
struct Seen {
    values: AtomicU64,
    failures: AtomicU64,
    busy: AtomicU64,
    slowest_us: AtomicU64,
    /// How much later than it wanted a thread of this process came to run: a machine that is busy otherwise, not the server.
    noise_us: AtomicU64,
}

impl Seen {
    fn replies(&self) -> u64 {
        [&self.values, &self.failures, &self.busy].map(|count| count.load(Ordering::SeqCst)).iter().sum()
    }

    fn take(&self) -> [u64; 5] {
        [&self.values, &self.failures, &self.busy, &self.slowest_us, &self.noise_us]
            .map(|count| count.swap(0, Ordering::SeqCst))
    }

    fn until_replies(&self, more: u64) {
        let before = self.replies();
        until("replies", || self.replies() >= before + more);
    }
}

/// Reads one key after the other, with a pause between them, and checks each answer.
fn read(client: &mut Client, number: u64, seen: &Seen, over: &AtomicBool) {
    let mut round = number;
    while !over.load(Ordering::Relaxed) {
        round += 1;
        let (loader, id) = (LOADERS[(round % 2) as usize], round * 7919 % KEYS + 1);
        let sent = Instant::now();
        let reply = client.command(&["GET", &format!("{loader}:{id}")]);
        seen.slowest_us.fetch_max(sent.elapsed().as_micros() as u64, Ordering::SeqCst);
        let count = match &reply {
            Value::Error(text) if loader == "fresh" && text.starts_with("LOADFAIL fresh ") => &seen.failures,
            Value::Error(text) if loader == "fresh" && text.starts_with("LOADBUSY ") => &seen.busy,
            // The other loader has a stale value for every key.
            reply => {
                assert_eq!(*reply, user(id), "{loader}:{id}");
                &seen.values
            }
        };
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(40));
    }
}

fn user(id: u64) -> Value {
    Value::bulk(format!(r#"{{"id":{id},"name":"user {id}"}}"#))
}

fn listen_for_noise(seen: &Seen, over: &AtomicBool) {
    const PAUSE: Duration = Duration::from_millis(2);
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        std::thread::sleep(PAUSE);
        let late = begun.elapsed().saturating_sub(PAUSE);
        seen.noise_us.fetch_max(late.as_micros() as u64, Ordering::SeqCst);
    }
}

#[test]
fn two_hundred_clients_are_answered_in_time_whatever_the_network_does() {
    let Some(mut setup) = Setup::new() else { return };
    for loader in LOADERS {
        for id in 1..=KEYS {
            assert_eq!(setup.client.command(&["GET", &format!("{loader}:{id}")]), user(id));
        }
    }
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Also when this thread panics: a scope waits for its threads.
        let _over = Over(&over);
        for number in 0..CLIENTS {
            let (mut client, seen, over) = (setup.server.client(), &seen, &over);
            scope.spawn(move || read(&mut client, number * 31, seen, over));
        }
        scope.spawn(|| listen_for_noise(&seen, &over));
        setup.until_well();
        let ms = Duration::from_millis;
        for (name, trouble) in [
            ("slow by 5 ms", Trouble::Delay(ms(5))),
            ("slow by 800 ms", Trouble::Delay(ms(800))),
            ("cut again and again", Trouble::None),
            ("half closed", Trouble::HalfClose),
            ("a black hole", Trouble::BlackHole),
            ("reset", Trouble::Reset),
            ("refused", Trouble::Refuse),
        ] {
            seen.take();
            let (trips, probes) = (setup.sum("breaker_trips"), setup.sum("breaker_probes"));
            setup.proxy.set(trouble);
            match trouble {
                Trouble::None => (0..10).for_each(|_| {
                    setup.proxy.cut();
                    seen.until_replies(100);
                }),
                Trouble::Delay(by) if by < HARD_TIMEOUT / 4 => seen.until_replies(2_000),
                _ => {
                    until("the breakers open", || setup.states() == ["open", "open"]);
                    until("probes fail", || setup.sum("breaker_probes") >= probes + 2);
                    let during = seen.failures.load(Ordering::SeqCst);
                    assert!(during > 0, "{name}: what has no stale value fails");
                }
            }
            setup.proxy.take_peak();
            setup.proxy.set(Trouble::None);
            setup.until_well();
            let peak = setup.proxy.take_peak();
            let [values, failures, busy, slowest_us, noise_us] = seen.take();
            let (slowest, noise) = (Duration::from_micros(slowest_us), Duration::from_micros(noise_us));
            let trips = setup.sum("breaker_trips") - trips;
            groups::say(&format!(
                "failing source: {name}: {values} values, {failures} LOADFAIL, {busy} LOADBUSY; the slowest answer took {slowest:?} \
                 (hard_timeout {HARD_TIMEOUT:?}, machine late by up to {noise:?}); {trips} trips; {peak} queries at a time after it"
            ));
            // Request, timer and reply each need the processor, and wait for it when others have it.
            let most = HARD_TIMEOUT + PROMPT + 3 * noise;
            assert!(slowest <= most, "{name}: {slowest:?}, allowed {most:?}");
            assert_eq!(setup.waits_longer_than(most), 0, "{name}: by the server's own books");
            assert!(peak > 0 && peak <= QUERIES_MAX, "{name}: {peak} queries at one time");
            // A machine that is late by more makes loads fail by itself.
            if trouble == Trouble::Delay(ms(5)) && 3 * noise < ACQUIRE_TIMEOUT {
                assert_eq!((failures, trips), (0, 0), "{name}");
            }
        }
    });
    assert_eq!(setup.client.info("x_panics"), 0);
    assert_eq!(setup.sum("panics"), 0);
}

/// Ends the readers when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn while_the_breaker_is_open_nothing_reaches_the_database_and_one_load_closes_it() {
    let Some(mut setup) = Setup::new() else { return };
    // One key each: a key that was asked for waits for nobody else's.
    let mut ids = 1_000..;
    let mut get = |client: &mut Client| {
        let id = ids.next().expect("there is no last number");
        (client.command(&["GET", &format!("fresh:{id}")]), user(id))
    };
    setup.proxy.set(Trouble::Reset);
    until("the breaker opens", || {
        get(&mut setup.client);
        setup.states()[0] == "open"
    });
    // Each probe that fails doubles the time, up to 400 ms.
    until("a long pause", || {
        let (reply, _) = get(&mut setup.client);
        let next_try =
            reply.error().split(", next try in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        next_try.is_some_and(|ms: u64| ms > 300)
    });
    let (connections, keys) = (setup.proxy.connections(), setup.client.loader_counter("fresh", "keys"));
    let (mut refused, mut slowest) = (0, Duration::ZERO);
    while setup.states()[0] == "open" {
        let asked = Instant::now();
        let (reply, _) = get(&mut setup.client);
        let took = asked.elapsed();
        if setup.client.loader_counter("fresh", "keys") > keys {
            // The pause was over, and this was the probe.
            break;
        }
        slowest = slowest.max(took);
        refused += 1;
        let text = reply.error();
        assert!(text.starts_with("LOADFAIL fresh breaker open: source unavailable: "), "{text}");
        assert_eq!(setup.proxy.connections(), connections, "nothing reaches the database");
    }
    assert!(refused > 0);
    groups::say(&format!("failing source: {refused} misses while the breaker was open, the slowest took {slowest:?}"));
    setup.proxy.set(Trouble::None);
    until("a load has closed it", || {
        let (reply, expected) = get(&mut setup.client);
        reply == expected
    });
    assert_eq!(setup.states()[0], "ok");
    let logs = setup.server.logs();
    for said in ["a breaker opened", "a breaker is half-open", "a breaker closed"] {
        assert!(logs.contains(said), "the log tells: {said}\n{logs}");
    }
}
