//! Clients that read while a test takes nodes away: plain ones of Redis and memcached, ones that know the slots, and checkers that change rows, delete their
//! keys and look for values that are too old. Each phase is a number of requests, not a time, so it is the same on any machine.

use crate::Database;
use crate::client::{Client, request};
use crate::hosted::{CLIENTS, Hosted, ROWS};
use crate::memcached::Memcached;
use crate::random::Random;
use crate::reply::Value;
use std::collections::HashMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Rows that are read all the time. The rest are read rarely, and rather loaded than found.
const HOT_ROWS: u64 = 240;

/// One read in so many is of the rest.
const RARE: u64 = 5;

/// How long a plain client waits for an answer before it turns to another node: longer than nodes wait for each other.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a client waits that knows the slots, and so talks to the node itself that may be gone.
const SLOTS_PATIENCE: Duration = Duration::from_secs(1);

/// How long clients wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// How often a client that knows the slots asks at most, with this pause after a node that does not answer, or says to come again.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// One cycle of each checker comes with so many reads of each reader.
const READS_PER_CYCLE: usize = 20;

/// Readers and checkers, which stay connected from phase to phase.
#[derive(Debug)]
pub struct Crowd {
    readers: Vec<Reader>,
    checkers: Vec<Checker>,
}

/// What came of a phase.
#[derive(Debug, Default)]
pub struct Tally {
    /// Reads of the readers.
    pub reads: usize,
    /// Those that failed, and how.
    pub failed: Vec<String>,
    /// The longest that one took.
    pub slowest: Duration,
    /// Of the checkers: reads that were answered, and those that were not.
    pub checked: usize,
    /// See `checked`.
    pub unchecked: usize,
    /// Deletes of the checkers that were answered.
    pub deletes: usize,
    /// Values that were too old.
    pub stale: Vec<String>,
    /// Queries that the database had meanwhile.
    pub queries: usize,
}

impl Crowd {
    /// Clients of the nodes a, b and c, from the host of clients: each of the two kinds of plain ones at a and c, one at b with the others behind it, and
    /// two that know the slots. Checkers change by way of a and of c, and look at the other, too.
    #[must_use]
    pub fn of(hosted: &Hosted, gutter_ttl: Duration) -> Self {
        let at = |hosts: &[usize]| hosts.iter().map(|&host| hosted.address(host)).collect::<Vec<_>>();
        let text_at = |hosts: &[usize]| hosts.iter().map(|&host| hosted.memcached_address(host)).collect::<Vec<_>>();
        let ways = [
            Way::Plain(Plain::new(at(&[0, 2]))),
            Way::Plain(Plain::new(at(&[2, 0]))),
            Way::Plain(Plain::new(at(&[1, 2, 0]))),
            Way::Text(Text { addresses: text_at(&[2, 0]), client: None }),
            Way::Slots(Slots::new(at(&[0, 1, 2]))),
            Way::Slots(Slots::new(at(&[2, 1, 0]))),
        ];
        let readers = ways.into_iter().zip(1..).map(|(way, seed)| Reader { way, random: Random(seed) }).collect();
        let checkers = [(0, 2), (2, 0)].map(|(by, beside)| {
            Checker::new(hosted, gutter_ttl, Plain::new(at(&[by])), Plain::new(at(&[beside])), by as u64)
        });
        Self { readers, checkers: checkers.into() }
    }

    /// Has one more checker change rows by way of the first connection and look at the second, too.
    pub fn add_checker(&mut self, hosted: &Hosted, gutter_ttl: Duration, by: Client, beside: Client) {
        let number = 10 + self.checkers.len() as u64;
        self.checkers.push(Checker::new(hosted, gutter_ttl, Plain::over(by), Plain::over(beside), number));
    }

    /// Has each reader read so often, and the checkers check beside them, while `during` is done: it is given how many reads have ended so far.
    ///
    /// # Panics
    /// If a client gets what is no answer to its question.
    pub fn read(&mut self, hosted: &mut Hosted, reads: usize, during: impl FnOnce(&mut Hosted, &AtomicUsize)) -> Tally {
        let queries = hosted.queries();
        let ended = Arc::new(AtomicUsize::new(0));
        let readers: Vec<_> = self
            .readers
            .drain(..)
            .map(|reader| {
                let ended = Arc::clone(&ended);
                hosted.hosts().on(CLIENTS, move || std::thread::spawn(move || reader.run(reads, &ended)))
            })
            .collect();
        let checkers: Vec<_> = self
            .checkers
            .drain(..)
            .map(|checker| {
                let cycles = reads.div_ceil(READS_PER_CYCLE);
                hosted.hosts().on(CLIENTS, move || std::thread::spawn(move || checker.run(cycles)))
            })
            .collect();
        during(hosted, &ended);
        let mut tally = Tally::default();
        for reader in readers {
            let (reader, told) = reader.join().expect("a reader gets answers");
            self.readers.push(reader);
            tally.add(told);
        }
        for checker in checkers {
            let (checker, told) = checker.join().expect("a checker gets answers");
            self.checkers.push(checker);
            tally.add(told);
        }
        tally.queries = hosted.queries() - queries;
        tally
    }

    /// How many reads a phase has in which each reader reads so often.
    #[must_use]
    pub fn reads_of(&self, reads: usize) -> usize {
        self.readers.len() * reads
    }
}

impl Tally {
    /// Takes in another's.
    pub fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.failed.extend(other.failed);
        self.slowest = self.slowest.max(other.slowest);
        self.checked += other.checked;
        self.unchecked += other.unchecked;
        self.deletes += other.deletes;
        self.stale.extend(other.stale);
        self.queries += other.queries;
    }

    /// Queries for each thousand reads.
    #[must_use]
    pub fn queries_per_1000(&self) -> f64 {
        self.queries as f64 * 1000.0 / self.reads as f64
    }

    /// In one line, for who looks on.
    #[must_use]
    pub fn shown(&self) -> String {
        format!(
            "{} reads, {} failed, slowest {:.0} ms, {:.0} queries per 1,000; checkers: {} deletes, {} reads, {} refused, {} stale",
            self.reads,
            self.failed.len(),
            self.slowest.as_secs_f64() * 1000.0,
            self.queries_per_1000(),
            self.deletes,
            self.checked,
            self.unchecked,
            self.stale.len()
        )
    }
}

/// Reads rows, hot ones mostly.
#[derive(Debug)]
struct Reader {
    way: Way,
    random: Random,
}

#[derive(Debug)]
enum Way {
    Plain(Plain),
    Text(Text),
    Slots(Slots),
}

impl Reader {
    fn run(mut self, reads: usize, ended: &AtomicUsize) -> (Self, Tally) {
        let mut tally = Tally { reads, ..Tally::default() };
        for _ in 0..reads {
            let is_hot = self.random.below(RARE) > 0;
            let id = 1 + if is_hot { self.random.below(HOT_ROWS) } else { FIRST_RARE + self.random.below(RARE_ROWS) };
            let key = format!("user:{id}");
            let begun = Instant::now();
            let answer = match &mut self.way {
                Way::Plain(plain) => plain.read(&key),
                Way::Text(text) => text.read(&key),
                Way::Slots(slots) => slots.read(&key),
            };
            tally.slowest = tally.slowest.max(begun.elapsed());
            match answer {
                Ok(row) => assert!(row.starts_with(&format!("{{\"id\":{id},")), "{key} is {row}"),
                Err(reason) => tally.failed.push(format!("{key}: {reason}")),
            }
            ended.fetch_add(1, Ordering::Relaxed);
        }
        (self, tally)
    }
}

/// Rows of checkers lie between those that are read all the time and the rest.
const CHECKED_ROWS: u64 = 20_000;
const FIRST_RARE: u64 = HOT_ROWS + CHECKED_ROWS;
const RARE_ROWS: u64 = ROWS - FIRST_RARE;

/// A client of some nodes, any of which will do: of the next one where one is lost.
#[derive(Debug)]
struct Plain {
    /// Empty: it has one connection, and none again.
    addresses: Vec<SocketAddr>,
    client: Option<Client>,
}

impl Plain {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, client: None }
    }

    fn over(client: Client) -> Self {
        Self { addresses: Vec::new(), client: Some(client) }
    }

    /// The answer of the first node that gives one.
    fn ask(&mut self, argv: &[&str]) -> Option<Value> {
        for _ in 0..self.addresses.len().max(1) {
            if let Some(address) = self.addresses.first()
                && self.client.is_none()
            {
                self.client = connect(*address).map(Client::over);
            }
            let answer = self.client.as_mut().and_then(|client| ask(client, argv, PATIENCE));
            if answer.is_some() {
                return answer;
            }
            self.client = None;
            let places = usize::from(!self.addresses.is_empty());
            self.addresses.rotate_left(places);
        }
        None
    }

    fn read(&mut self, key: &str) -> Result<String, String> {
        row(self.ask(&["GET", key]).ok_or("no node answers")?)
    }
}

/// The same in memcached's words.
#[derive(Debug)]
struct Text {
    addresses: Vec<SocketAddr>,
    client: Option<Memcached>,
}

impl Text {
    fn read(&mut self, key: &str) -> Result<String, String> {
        for _ in 0..self.addresses.len() {
            if self.client.is_none() {
                self.client = connect(self.addresses[0]).map(Memcached::over);
            }
            let answer = self.client.as_mut().and_then(|client| {
                client.stream().write_all(format!("get {key}\r\n").as_bytes()).ok()?;
                let ends = |bytes: &[u8]| {
                    bytes.ends_with(b"END\r\n") || bytes.starts_with(b"SERVER_ERROR") && bytes.ends_with(b"\r\n")
                };
                client.receive_while(|bytes| !ends(bytes)).ok()
            });
            if let Some(bytes) = answer {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return match text.split("\r\n").collect::<Vec<_>>()[..] {
                    [head, row, "END", ""] if head.starts_with("VALUE ") => Ok(row.to_owned()),
                    _ => Err(text),
                };
            }
            self.client = None;
            self.addresses.rotate_left(1);
        }
        Err("no node answers".to_owned())
    }
}

/// A client that knows the slots: it asks the node that has the key, and all of them for the slots anew where that does not answer.
#[derive(Debug)]
struct Slots {
    seeds: Vec<SocketAddr>,
    clients: HashMap<SocketAddr, Client>,
    /// First and last slot, and whose they are.
    ranges: Vec<(i64, i64, SocketAddr)>,
}

impl Slots {
    fn new(seeds: Vec<SocketAddr>) -> Self {
        Self { seeds, clients: HashMap::new(), ranges: Vec::new() }
    }

    fn read(&mut self, key: &str) -> Result<String, String> {
        let slot = slot_of(key);
        let (mut moved, mut last) = (None, "no node answers".to_owned());
        for _ in 0..TRIES {
            if self.ranges.is_empty() {
                self.learn(None);
            }
            let range = self.ranges.iter().find(|(first, end, _)| (*first..=*end).contains(&slot));
            let Some(address) = moved.take().or(range.map(|(_, _, address)| *address)) else { continue };
            match self.ask(address, &["GET", key]) {
                None => {
                    self.learn(Some(address));
                    std::thread::sleep(PAUSE);
                }
                Some(Value::Error(text)) => {
                    if text.starts_with("MOVED ") {
                        moved = text.rsplit(' ').next().and_then(|address| address.parse().ok());
                    } else {
                        std::thread::sleep(PAUSE);
                    }
                    self.learn(None);
                    last = text;
                }
                Some(value) => return row(value),
            }
        }
        Err(last)
    }

    fn ask(&mut self, address: SocketAddr, argv: &[&str]) -> Option<Value> {
        let kept = self.clients.remove(&address);
        let mut client = kept.or_else(|| connect(address).map(Client::over))?;
        let answer = ask(&mut client, argv, SLOTS_PATIENCE)?;
        self.clients.insert(address, client);
        Some(answer)
    }

    /// Asks for the slots; not the node that has just failed.
    fn learn(&mut self, except: Option<SocketAddr>) {
        for seed in self.seeds.clone().into_iter().filter(|seed| Some(*seed) != except) {
            let Some(reply @ Value::Array(_)) = self.ask(seed, &["CLUSTER", "SLOTS"]) else { continue };
            let range = |range: &Value| {
                let [first, last, owner, ..] = range.elements() else { panic!("{range} is no range") };
                let [host, port, ..] = owner.elements() else { panic!("{owner} is no node") };
                let address = format!("{}:{}", host.text(), port.integer()).parse().expect("an address");
                (first.integer(), last.integer(), address)
            };
            self.ranges = reply.elements().iter().map(range).collect();
            return;
        }
    }
}

/// Redis Cluster specification, "Key distribution model": CRC16 (XMODEM) of the key, modulo 16384.
fn slot_of(key: &str) -> i64 {
    let crc = key.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| crc << 1 ^ if crc >> 15 == 1 { 0x1021 } else { 0 })
    });
    i64::from(crc % 16384)
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_PATIENCE).ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

fn ask(client: &mut Client, argv: &[&str], patience: Duration) -> Option<Value> {
    client.stream().write_all(&request(argv)).ok()?;
    client.receive_within(patience).ok()
}

fn row(value: Value) -> Result<String, String> {
    match value {
        Value::Error(text) => Err(text),
        value if value.is_null() => Err("nothing".to_owned()),
        value => Ok(value.text()),
    }
}

/// Changes rows that nobody else changes, deletes their keys through one node, and reads them there and at another node.
///
/// What it reads through the node that has answered a delete must not be older than that delete, and what it reads elsewhere not by more than `gutter-ttl`.
struct Checker {
    gutter_ttl: Duration,
    database: Database,
    by: Plain,
    beside: Plain,
    rows: Vec<Checked>,
}

/// A row of a checker.
#[derive(Debug)]
struct Checked {
    id: u64,
    version: u64,
    /// The version that was there when its key was last deleted, and when that was answered.
    deleted: Option<(u64, Instant)>,
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Checker {
    /// With a row of each node of the main pool.
    fn new(hosted: &Hosted, gutter_ttl: Duration, by: Plain, beside: Plain, number: u64) -> Self {
        let ids = 1 + HOT_ROWS + number * 1000..1 + HOT_ROWS + (number + 1) * 1000;
        let row = |host| Checked { id: hosted.id_of(host, ids.clone()), version: 0, deleted: None };
        Self { gutter_ttl, database: hosted.database(), by, beside, rows: (0..3).map(row).collect() }
    }

    fn run(mut self, cycles: usize) -> (Self, Tally) {
        let mut tally = Tally::default();
        for _ in 0..cycles {
            for row in &mut self.rows {
                row.version += 1;
                let (id, version) = (row.id, row.version);
                self.database.run(&format!("UPDATE users SET version = {version} WHERE id = {id}"));
                let key = format!("user:{id}");
                if matches!(self.by.ask(&["DEL", &key]), Some(Value::Integer(_))) {
                    row.deleted = Some((version, Instant::now()));
                    tally.deletes += 1;
                }
                for beside in [false, false, true] {
                    let begun = Instant::now();
                    let answer = if beside { self.beside.read(&key) } else { self.by.read(&key) };
                    let Ok(text) = answer else {
                        tally.unchecked += 1;
                        continue;
                    };
                    tally.checked += 1;
                    let read = text.rsplit(':').next().and_then(|rest| rest.trim_end_matches('}').parse::<u64>().ok());
                    let read = read.unwrap_or_else(|| panic!("{key} is {text}"));
                    let is_late = |at: Instant| begun.saturating_duration_since(at) > self.gutter_ttl;
                    if let Some((least, at)) = row.deleted
                        && read < least
                        && (!beside || is_late(at))
                    {
                        let place = if beside { "elsewhere" } else { "there" };
                        tally.stale.push(format!("{key} was {text} {place}, {:?} after version {least}", at.elapsed()));
                    }
                }
            }
        }
        (self, tally)
    }
}
