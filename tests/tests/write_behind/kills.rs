//! Servers that are killed again and again under load, and databases that crash while they are flushed to: what was answered is in the
//! source, nothing is there twice, and in order.

use super::{EXCLUDED, GROUP, Setup, note_loader, printed_sql};
use leasehold_tests::client::request;
use leasehold_tests::process::Directory;
use leasehold_tests::random::Random;
use leasehold_tests::watch::{until, until_some};
use leasehold_tests::{Client, Database, Postgres, Server, Value, groups};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How often a server is killed; `tests/nightly` does it more often.
const KILL_CYCLES: u64 = 10;

const WRITERS: usize = 4;

/// After so many writes a writer is silent, for about the time of a flush.
const PAUSE_EVERY: u64 = 5;
const PAUSE: Duration = Duration::from_millis(15);

/// Of a server that flushes often, in small batches, to small files.
const BUSY: &str = "flush_interval = \"5ms\"\nflush_batch = 3\nsegment_bytes = \"4kb\"\nmax_bytes = \"1mb\"";

/// What a writer did to its key: the number of each operation is its value, and every seventh deletes.
#[derive(Clone, Copy, Debug, Default)]
struct Writer {
    begun: u64,
    answered: u64,
}

/// What a source has, and all that was applied to it, in order; a deletion is an empty text.
struct Found {
    rows: BTreeMap<String, String>,
    applied: Vec<(String, String)>,
}

/// A source, and how to start a server before it.
trait Ground {
    fn server(&self) -> Server;

    fn found(&self) -> Found;

    /// Makes the source crash, if it is one that can. It comes back by itself.
    fn crash(&self) {}
}

fn deletes(number: u64) -> bool {
    number.is_multiple_of(7)
}

#[test]
fn kills_at_random_moments_lose_nothing_repeat_nothing_and_keep_the_order() {
    let setup = Setup::new(BUSY);
    cycles("SQLite", &setup, &[Victim::Server]);
}

#[test]
fn kills_of_server_and_database_lose_nothing_repeat_nothing_and_keep_the_order() {
    let Some(postgres) = Postgres::start(GROUP) else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    database.run(
        "CREATE TABLE notes (name text PRIMARY KEY, body text);
         CREATE TABLE applied (id bigserial PRIMARY KEY, name text, body text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO applied (name, body) VALUES (coalesce(NEW.name, OLD.name), NEW.body); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION note()",
    );
    database.run(&printed_sql("postgres"));
    let ground = OnPostgres { url, journal: Directory::new(), _postgres: postgres };
    cycles("PostgreSQL", &ground, &[Victim::Server, Victim::Source, Victim::Both]);
}

/// Who dies in a cycle.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Server,
    Source,
    Both,
}

fn cycles(name: &str, ground: &impl Ground, victims: &[Victim]) {
    let cycles = std::env::var("LEASEHOLD_KILL_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(KILL_CYCLES);
    let seed = std::env::var("LEASEHOLD_KILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis() as u64
    });
    groups::say(&format!("{GROUP}: {cycles} kills, {name}, LEASEHOLD_KILL_SEED={seed}"));
    let mut random = Random(seed);
    let mut writers = [Writer::default(); WRITERS];
    let mut server = ground.server();
    for cycle in 0..cycles {
        let victim = victims[cycle as usize % victims.len()];
        let clients: Vec<Client> = writers.iter().map(|_| server.client()).collect();
        let moment = Duration::from_micros(random.below(60_000));
        // Once so many more are answered, those who write on stop.
        let goals = writers.map(|writer| writer.answered + 30);
        std::thread::scope(|scope| {
            for ((place, writer), client) in writers.iter_mut().enumerate().zip(clients) {
                let goal = if matches!(victim, Victim::Source) { goals[place] } else { u64::MAX };
                scope.spawn(move || write_on(client, place, writer, goal));
            }
            // The moment is the point of this test: any will do.
            std::thread::sleep(moment);
            if matches!(victim, Victim::Source | Victim::Both) {
                ground.crash();
            }
            if matches!(victim, Victim::Server | Victim::Both) {
                server.kill();
            }
        });
        if matches!(victim, Victim::Server | Victim::Both) {
            server = ground.server();
        }
        check(ground, &mut server, &writers);
    }
    let answered = writers.iter().map(|writer| writer.answered).sum::<u64>();
    assert!(answered > cycles, "{answered} writes were answered");
    groups::say(&format!("{GROUP}: {answered} writes answered before {name}, none lost, none applied twice"));
}

/// Writes to a key of its own until the server is gone, or so much is answered.
fn write_on(mut client: Client, place: usize, writer: &mut Writer, goal: u64) {
    while writer.answered < goal {
        if writer.begun.is_multiple_of(PAUSE_EVERY) {
            // Else no key would ever be wholly flushed when the server is killed, and nothing could be applied twice.
            std::thread::sleep(PAUSE);
        }
        writer.begun += 1;
        let (key, number) = (format!("note:w{place}"), writer.begun.to_string());
        let bytes = if deletes(writer.begun) { request(&["DEL", &key]) } else { request(&["SET", &key, &number]) };
        if client.stream().write_all(&bytes).is_err() {
            return;
        }
        match client.receive_within(Duration::from_secs(20)) {
            Ok(Value::Simple(_) | Value::Integer(_)) => writer.answered = writer.begun,
            Ok(other) => panic!("{key} {number}: {other:?}"),
            Err(_) => return,
        }
    }
}

/// Once all is flushed: each key is what an operation made of it that was answered, or was begun after that.
fn check(ground: &impl Ground, server: &mut Server, writers: &[Writer]) {
    let mut client = server.client();
    until("all is flushed", || client.command(&["WAITDB", "1000"]) == Value::Integer(0));
    assert_eq!((client.loader_counter("note", "dead_letters"), client.loader_counter("note", "behind_direct")), (0, 0));
    let Found { rows, applied } = ground.found();
    for (place, writer) in writers.iter().enumerate() {
        let name = format!("w{place}");
        let possible = writer.answered..=writer.begun;
        match rows.get(&name) {
            Some(body) => {
                let number: u64 = body.parse().expect("a number");
                assert!(possible.contains(&number) && !deletes(number), "{name} is {number} after {writer:?}");
            }
            None => assert!(
                possible.into_iter().any(|number| deletes(number) || number == 0),
                "{name} is gone after {writer:?}"
            ),
        }
        let mut last = 0;
        for body in applied.iter().filter(|(of, body)| *of == name && !body.is_empty()).map(|(_, body)| body) {
            let number: u64 = body.parse().expect("a number");
            assert!(number > last, "{name}: {number} was applied after {last}");
            last = number;
        }
    }
}

impl Ground for Setup {
    fn server(&self) -> Server {
        Self::server(self)
    }

    fn found(&self) -> Found {
        let mut file = self.file();
        let rows = file.pairs("SELECT name, body FROM notes").into_iter().collect();
        Found { rows, applied: file.pairs("SELECT name, body FROM applied ORDER BY id") }
    }
}

struct OnPostgres {
    url: String,
    journal: Directory,
    _postgres: Postgres,
}

impl Ground for OnPostgres {
    fn server(&self) -> Server {
        let conf = format!(
            r#"
            [sources.main]
            url = "{url}"
            statement_timeout = "20s"
            {loader}
            hard_timeout = "20s"
            [journal]
            dir = "{journal}/journal"
            {BUSY}
            "#,
            url = self.url,
            loader = note_loader(EXCLUDED),
            journal = self.journal.path().display()
        );
        Server::options().conf(conf).start()
    }

    fn found(&self) -> Found {
        let mut database = until_some("it has come back", || Database::try_connect(&self.url));
        let mut pairs = |sql: &str| database.pairs(sql).expect("it answers");
        let rows = pairs("SELECT name, body FROM notes").into_iter().collect();
        Found { rows, applied: pairs("SELECT name, body FROM applied ORDER BY id") }
    }

    /// One of its processes is killed: all others end at once, what they shared is thrown away, and the log is replayed.
    fn crash(&self) {
        let mut database = until_some("it runs", || Database::try_connect(&self.url));
        let id = database.number("SELECT pg_backend_pid()::int8").to_string();
        let status = Command::new("kill").args(["-KILL", &id]).status();
        assert!(status.is_ok_and(|status| status.success()), "no signal to {id}");
        until("it has crashed", || database.pairs("SELECT '', ''").is_none());
    }
}
