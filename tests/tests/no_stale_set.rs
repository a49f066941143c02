//! No stale set, live: all that a cache is asked to do at once, by clients that each take a delay of their own in every step. How it is
//! checked is told in [`leasehold_tests::race`].
//!
//! ```text
//! own      a store of this process, fast enough for very many fills: GETL and SETL
//! direct   PostgreSQL by a loader that refreshes ahead; transactions that commit or roll back, then DEL, UNLINK, INVAL, INVALPREFIX, INVALTAG
//! through  SET and DEL write to PostgreSQL, over connections that break; others write there and INVAL; refreshed by chance; a feed besides
//! behind   SET and DEL are journaled, and PostgreSQL has them later
//! fed      changed in PostgreSQL only; an outbox tells of it, over a network that is slow, silent or cut, and rows of it get lost
//! ```
//!
//! What is loaded comes from a replica where that has it, which is held back at times.
//!
//! That the checker can see is shown by clients that cache as one does without leases (miss, read, SET), by a writer who forgets to delete,
//! and in simulated time by `server/keyspace/tests/no_stale_set.rs`, with rule 1 of SPEC §2 switched off.

use leasehold_tests::process::Directory;
use leasehold_tests::race::{self, Act, Actor, Connection, Counts, IS_THERE, KEYS, Key, Kind, Source, World, lack};
use leasehold_tests::random::Random;
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Proxy, Server, Trouble, groups};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const GROUP: &str = "no stale set";
/// Commands sent, when everything must run and when not.
const OPERATIONS_ALL: u64 = 100_000;
const OPERATIONS_FEW: u64 = 20_000;

/// One query for each key, at any moment of which the row may change: PostgreSQL reads it at the beginning.
fn loader(kind: Kind, source: &str, more: &str) -> String {
    let table = kind.name();
    format!(
        r#"
        [loaders.{table}]
        match = "{table}:{{id:int}}"
        source = "{source}"
        value = "column"
        sql = """WITH r AS MATERIALIZED (SELECT id, version FROM {table} WHERE id = $1 AND {IS_THERE}),
            d AS MATERIALIZED (SELECT pg_sleep(random() * 0.004)::text AS done)
            SELECT id, version FROM d, r WHERE done IS NOT NULL"""
        batch_sql = """WITH r AS MATERIALIZED (SELECT id, version FROM {table} WHERE id = ANY($1) AND {IS_THERE}),
            d AS MATERIALIZED (SELECT pg_sleep(random() * 0.004)::text AS done)
            SELECT id, version FROM d, r WHERE done IS NOT NULL"""
        negative_ttl = "1m"
        serve_stale = "never"
        hard_timeout = "30s"
        breaker = "off"
        error_ttl = 0
        {more}
        "#
    )
}

fn written(kind: Kind, how: &str) -> String {
    let table = kind.name();
    format!(
        r#"
        write = "{how}"
        upsert_sql = """INSERT INTO {table} VALUES ($1, CAST($2::text AS int8))
            ON CONFLICT (id) DO UPDATE SET version = excluded.version"""
        delete_sql = "DELETE FROM {table} WHERE id = $1"
        "#
    )
}

fn outbox(feed: &str) -> String {
    format!(
        "[feeds.{feed}]\nsource = \"log\"\nloaders = \"{feed}\"\ntable = \"{feed}\"\nkey = \"id\"\nstale_after = \"1h\"\n"
    )
}

fn source(name: &str, url: &str) -> String {
    format!(
        "[sources.{name}]\nurl = \"{url}\"\nstatement_timeout = \"30s\"\nacquire_timeout = \"30s\"\nbreaker = \"off\"\n"
    )
}

/// A PostgreSQL with all the tables, and the networks before it that break.
struct Rig {
    postgres: Postgres,
    /// Answers loads, as far as it has what they must see.
    replica: Postgres,
    /// Before the feeds.
    log: Proxy,
    /// Before the writes that go through.
    writes: Proxy,
    journal: Directory,
}

impl Rig {
    fn new() -> Option<Self> {
        let postgres = Postgres::start(GROUP)?;
        let mut source = Source::from(Connection::Postgres(Database::connect(&postgres.url())));
        for kind in [Kind::Direct, Kind::Through, Kind::Behind, Kind::Fed] {
            source.make(kind, "");
        }
        for arguments in [
            &["journal", "--database", "postgres"][..],
            &["outbox", "--table", "fed", "--key", "id"],
            &["outbox", "--table", "through", "--key", "id"],
        ] {
            let printed = Command::new(binary()).arg("sql").args(arguments).output().expect("the binary runs");
            assert!(printed.status.success(), "{printed:?}");
            source.run(&String::from_utf8(printed.stdout).expect("SQL is text"));
        }
        let (log, writes) = (Proxy::before(postgres.port()), Proxy::before(postgres.port()));
        let replica = postgres.standby(&[]);
        Some(Self { postgres, replica, log, writes, journal: Directory::new() })
    }

    fn conf(&self) -> String {
        let url = self.postgres.url();
        let over = |proxy: &Proxy| url.replace(&format!(":{}/", self.postgres.port()), &format!(":{}/", proxy.port()));
        let tags = "tags = [\"direct-one:{id}\", \"direct-all\"]";
        [
            format!("{}replicas = \"{}\"\n", source("main", &url), self.replica.url()),
            source("log", &over(&self.log)),
            source("writes", &over(&self.writes)),
            loader(
                Kind::Direct,
                "main",
                &format!("ttl = \"50ms\"\nstale_for = \"1m\"\nrefresh = \"ahead\"\nrefresh_at = 0.1\n{tags}"),
            ),
            loader(
                Kind::Through,
                "writes",
                &format!(
                    "ttl = \"100ms\"\nrefresh = \"xfetch\"\nrefresh_beta = 20{}",
                    written(Kind::Through, "through")
                ),
            ),
            loader(Kind::Behind, "main", &format!("ttl = \"1h\"{}", written(Kind::Behind, "behind"))),
            loader(Kind::Fed, "main", "ttl = \"1h\""),
            outbox("fed"),
            outbox("through"),
            format!("[journal]\ndir = \"{}/journal\"\nflush_interval = \"3ms\"\n", self.journal.path().display()),
        ]
        .concat()
    }

    fn source(&self) -> Source {
        Connection::Postgres(Database::connect(&self.postgres.url())).into()
    }

    /// Slows, silences and cuts the networks, holds the replica back, and loses what the feed has not read. What the feed has not told it must not say to have told.
    fn make_trouble(&self, random: &mut Random, source: &mut Source, replica: &mut Database) {
        match random.below(8) {
            0 => self.log.cut(),
            1 => self.log.set(Trouble::Delay(Duration::from_millis(random.below(20)))),
            2 => {
                self.log.set(Trouble::BlackHole);
                std::thread::sleep(Duration::from_millis(60));
                source.run("DELETE FROM leasehold_outbox");
                self.log.set(Trouble::None);
            }
            3 => {
                self.log.set(Trouble::BlackHole);
                std::thread::sleep(Duration::from_millis(random.below(200)));
                self.log.set(Trouble::None);
            }
            4..6 => self.writes.cut(),
            _ => {
                replica.run("SELECT pg_wal_replay_pause()");
                std::thread::sleep(Duration::from_millis(random.below(200)));
                replica.run("SELECT pg_wal_replay_resume()");
            }
        }
        std::thread::sleep(Duration::from_millis(100 + random.below(300)));
        self.log.set(Trouble::None);
    }
}

#[test]
fn no_read_is_older_than_what_was_acknowledged_or_told() {
    const ON_POSTGRES: &[Kind] = &[Kind::Direct, Kind::Through, Kind::Behind, Kind::Fed];
    const WRITERS_BY_THE_CACHE: usize = 2;
    let Some(rig) = Rig::new() else { return };
    let server = Server::options().conf(rig.conf()).set("lease-ms", 200).start();
    let mut client = server.client();
    until("the feeds have begun", || ["fed", "through"].iter().all(|feed| race::told_by(&mut client, feed).is_some()));
    let seed = race::seed(GROUP);
    let operations = race::operations(OPERATIONS_ALL, OPERATIONS_FEW);
    let world = World::default();
    let mut next = 0;
    let mut actor = |kinds: &'static [Kind]| {
        next += 1;
        Actor {
            world: &world,
            client: server.client(),
            source: (kinds != [Kind::Own]).then(|| rig.source()),
            random: race::choices(seed, next),
            kinds,
            may_fail: |kind| kind == Kind::Through,
        }
    };
    let mut acts: Vec<Act<'_>> = Vec::new();
    for _ in 0..9 {
        let (mut of_own, mut of_postgres) = (actor(&[Kind::Own]), actor(ON_POSTGRES));
        acts.push(Box::new(move || of_own.read()));
        acts.push(Box::new(move || of_postgres.read()));
    }
    for _ in 0..3 {
        let (mut of_own, mut of_direct) = (actor(&[Kind::Own]), actor(ON_POSTGRES));
        acts.push(Box::new(move || of_own.write_and_delete(Kind::Own)));
        acts.push(Box::new(move || of_direct.write_and_delete(Kind::Direct)));
    }
    for writer in 0..WRITERS_BY_THE_CACHE {
        for kind in [Kind::Through, Kind::Behind] {
            let mut actor = actor(ON_POSTGRES);
            acts.push(Box::new(move || actor.write_by_the_cache(kind, writer, WRITERS_BY_THE_CACHE)));
        }
        let mut of_fed = actor(ON_POSTGRES);
        acts.push(Box::new(move || of_fed.write_for_the_feed()));
    }
    let (mut random, mut source) = (race::choices(seed, 0), rig.source());
    let mut replica = Database::connect(&rig.replica.url());
    let rig = &rig;
    acts.push(Box::new(move || rig.make_trouble(&mut random, &mut source, &mut replica)));
    let took = world.run(acts, || {
        world.hear(&mut client, "fed");
        lacking(&world, &mut client, operations)
    });
    rig.log.set(Trouble::None);
    tell(&world, &mut client, took);
    assert_eq!(world.violations(), [""; 0]);
    let answers = all_is_as_it_is_in_the_database(&world, rig, &mut client);
    groups::say(&format!("{GROUP}: {answers} answers at the end, all of them right"));
}

/// Races that did not happen prove nothing.
fn lacking(world: &World, client: &mut Client, operations: u64) -> Option<String> {
    let (counts, few) = (&world.counts, operations / 1_000);
    let sent = Counts::of(&counts.operations);
    if sent < operations {
        return Some(format!("operations: {sent} of {operations}"));
    }
    let mut of_loader = |loader, counter| client.loader_counter(loader, counter) as u64;
    let [lost_loads, refreshes, by_chance] =
        [("direct", "lost_fills"), ("direct", "refreshes"), ("through", "refreshes")]
            .map(|(loader, counter)| of_loader(loader, counter));
    let [of_replica, flushed] = [("direct", "replica_queries"), ("behind", "behind_flushed")]
        .map(|(loader, counter)| of_loader(loader, counter));
    let [events, gaps] = ["events", "gaps"].map(|counter| client.feed_counter("fed", counter) as u64);
    lack([
        ("values read", Counts::of(&counts.reads), operations / 10),
        ("absences read", Counts::of(&counts.absences), few),
        ("fills stored", Counts::of(&counts.fills), few),
        ("fills lost", Counts::of(&counts.lost), few),
        ("loads lost", lost_loads, few / 2),
        ("refreshes ahead", refreshes, few / 10),
        ("refreshes by chance", by_chance, few / 10),
        ("queries of a replica", of_replica, few / 10),
        ("changes", Counts::of(&counts.writes), few),
        ("rolled back", Counts::of(&counts.rollbacks), few / 10),
        ("writes in doubt", Counts::of(&counts.unknown), 1),
        ("writes flushed later", flushed, few / 10),
        ("events of the feed", events, few / 10),
        ("gaps of the feed", gaps, 1),
        ("old reads of what is fed", Counts::of(&counts.old), 1),
    ])
}

fn tell(world: &World, client: &mut Client, took: Duration) {
    let counts = &world.counts;
    let of = Counts::of;
    let [loads, refreshes, lost] = ["keys", "refreshes", "lost_fills"].map(|counter| {
        ["direct", "through", "behind", "fed"].map(|loader| client.loader_counter(loader, counter)).iter().sum::<i64>()
    });
    let [events, gaps] = ["events", "gaps"].map(|counter| client.feed_counter("fed", counter));
    groups::say(&format!(
        "{GROUP}: {} commands in {took:?}: {} values read and checked, {} of them absences; {} changes acknowledged, {} rolled back or refused, {} in \
         doubt; by clients {} fills stored, {} lost; by loaders {loads} rows read, {refreshes} of them before the value expired, {lost} fills lost",
        of(&counts.operations),
        of(&counts.reads),
        of(&counts.absences),
        of(&counts.writes),
        of(&counts.rollbacks),
        of(&counts.unknown),
        of(&counts.fills),
        of(&counts.lost),
    ));
    groups::say(&format!(
        "{GROUP}: of what is fed {} reads were old, by {} us at most, when the feed said it was behind by {} us at most; it told {events} events, with \
         {gaps} gaps; {} loads failed; {} violations",
        of(&counts.old),
        of(&counts.oldest_us),
        of(&counts.told_us),
        of(&counts.failed),
        world.violations().len(),
    ));
}

/// Once all is quiet, each answer is what the database has, at the first look; how many there are.
fn all_is_as_it_is_in_the_database(world: &World, rig: &Rig, client: &mut Client) -> usize {
    let ended = Instant::now();
    until("no load is under way", || {
        ["direct", "through", "behind", "fed"].iter().all(|loader| {
            client.loader_counter(loader, "in_flight") == 0 && client.loader_counter(loader, "queue_length") == 0
        })
    });
    until("all is flushed", || client.loader_counter("behind", "behind_pending") == 0);
    until("the feeds have told all", || {
        ["fed", "through"].iter().all(|feed| race::told_by(client, feed).is_some_and(|told| told > ended))
    });
    let mut source = rig.source();
    let mut answers = 0;
    for kind in Kind::ALL {
        for index in 0..KEYS {
            let key = Key { kind, index };
            let value = client.command(&["GET", &key.name()]);
            if kind == Kind::Own {
                if !value.is_null() {
                    world.check(world.begin(key, "GET at the end"), &value);
                    answers += 1;
                }
                continue;
            }
            let version = source.version(key);
            let expected = if race::is_absent(version) { "(nil)".to_owned() } else { version.to_string() };
            let seen = if value.is_null() { "(nil)".to_owned() } else { value.text() };
            assert_eq!(seen, expected, "{} at the end", key.name());
            answers += 1;
        }
    }
    assert_eq!(world.violations(), [""; 0]);
    answers
}

#[test]
fn the_checker_sees_the_stale_values_of_clients_without_leases() {
    let server = Server::start();
    let violations =
        seen_by_the_checker(
            &server,
            |actor, is_writer| {
                if is_writer { actor.write_and_delete(Kind::Own) } else { actor.read_and_set() }
            },
        );
    assert!(violations.iter().any(|text| text.starts_with("GET own:")), "{violations:?}");
}

#[test]
fn the_checker_sees_the_stale_values_of_a_writer_who_forgets_to_delete() {
    let server = Server::start();
    let violations =
        seen_by_the_checker(
            &server,
            |actor, is_writer| {
                if is_writer { actor.write_and_forget(Kind::Own) } else { actor.read() }
            },
        );
    assert!(violations.iter().any(|text| text.contains(" own:")), "{violations:?}");
}

/// What the checker complains of first when clients act like that.
fn seen_by_the_checker(server: &Server, act: fn(&mut Actor<'_>, bool)) -> Vec<String> {
    let seed = race::seed(GROUP);
    let world = World::default();
    let acts = (0..12).map(|index| -> Act<'_> {
        let mut actor = Actor {
            world: &world,
            client: server.client(),
            source: None,
            random: race::choices(seed, index),
            kinds: &[Kind::Own],
            may_fail: |_| false,
        };
        Box::new(move || act(&mut actor, index < 4))
    });
    world.run(acts.collect(), || Some("a violation".to_owned()));
    assert!(world.counts.operations.load(Ordering::Relaxed) > 0);
    world.violations()
}
