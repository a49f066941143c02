//! The life of a copy; and two nodes in simulated time, whose words take any time and any order that links allow.

use super::*;
use leasehold_cluster::Cell;
use leasehold_keyspace::{
    Access, Attributes, Db, EvictionPolicy, HashSeed, Keyspace, LeaseSettings, Recall, Settings, Turn,
};
use std::collections::VecDeque;

const START_MS: u64 = 1_700_000_000_000;
const TTL_MS: u64 = 50;
const KEY: &[u8] = b"key";
const DB: Db = Db(0);

fn touched(key: &[u8]) -> Touched {
    Touched::of_keys([key].into_iter())
}

/// Asks for a copy of a key and is given one of this length at once.
fn borrow(copies: &Copies, key: &[u8], len: usize, bytes_max: usize) -> bool {
    let question = copies.ask(key, START_MS).expect("it was not asked for");
    let given = Given { question, key, value: &vec![b'x'; len], client_flags: 3, life_ms: TTL_MS };
    copies.keep(&given, bytes_max, START_MS) > 0
}

fn has(copies: &Copies, key: &[u8], now_ms: u64) -> bool {
    copies.read(key, now_ms, |_, client_flags| assert_eq!(client_flags, 3))
}

#[test]
fn a_copy_is_read_for_its_life_from_when_it_was_asked_for() {
    let copies = Copies::new(TTL_MS);
    assert!(!copies.may_be_any(START_MS));
    let question = copies.ask(KEY, START_MS).expect("it was not asked for");
    assert_eq!(copies.ask(KEY, START_MS + 1), None, "it is asked for once");
    let given = Given { question, key: KEY, value: b"v", client_flags: 3, life_ms: 30 };
    assert!(copies.keep(&given, 10_000, START_MS + 20) > 0);
    assert!(has(&copies, KEY, START_MS + 29) && !has(&copies, KEY, START_MS + 30));
    assert_eq!(copies.ask(KEY, START_MS + 29), None, "there is one");
    let again = copies.ask(KEY, START_MS + 30).expect("it is over");
    let late = Given { question: again, life_ms: 1_000_000, ..given };
    copies.keep(&late, 10_000, START_MS + 31);
    assert!(has(&copies, KEY, START_MS + 79) && !has(&copies, KEY, START_MS + 80), "no life is longer than configured");
    assert!(!has(&copies, b"other", START_MS + 79));
    assert!(!copies.may_be_any(START_MS + 80));
}

#[test]
fn what_touches_a_key_ends_its_copy_and_those_on_their_way() {
    let copies = Copies::new(TTL_MS);
    let touches: [fn(&Copies); 3] = [
        |copies| copies.touch(touched(KEY), START_MS),
        |copies| copies.touch(Touched::of_keys([KEY, b"other"].into_iter()), START_MS),
        Copies::touch_all,
    ];
    for touch in touches {
        assert!(borrow(&copies, KEY, 1, 10_000) && has(&copies, KEY, START_MS));
        copies.touch(touched(b"other"), START_MS);
        copies.touch(Touched::NOTHING, START_MS);
        assert!(has(&copies, KEY, START_MS));
        touch(&copies);
        assert!(!has(&copies, KEY, START_MS));
        let question = copies.ask(KEY, START_MS).expect("there is none");
        touch(&copies);
        copies.keep(&Given { question, key: KEY, value: b"v", client_flags: 3, life_ms: TTL_MS }, 10_000, START_MS);
        assert!(!has(&copies, KEY, START_MS));
        copies.sweep(START_MS + 10 * ASK_AGAIN_MS);
    }
}

#[test]
fn a_late_copy_takes_no_place_of_a_newer_one() {
    let copies = Copies::new(TTL_MS);
    let early = copies.ask(KEY, START_MS).expect("it was not asked for");
    copies.touch(touched(KEY), START_MS);
    let question = copies.ask(KEY, START_MS + ASK_AGAIN_MS).expect("it does not come");
    let now_ms = START_MS + ASK_AGAIN_MS;
    let given = Given { question, key: KEY, value: b"v", client_flags: 3, life_ms: TTL_MS };
    copies.keep(&given, 10_000, now_ms);
    copies.keep(&Given { question: early, value: b"old", ..given }, 10_000, now_ms);
    assert!(copies.read(KEY, now_ms, |value, _| assert_eq!(value, b"v")));
}

#[test]
fn copies_have_so_many_bytes_and_the_books_agree() {
    let copies = Copies::new(TTL_MS);
    let bytes_max = 10_000;
    let keys: Vec<String> = (0..20).map(|number| format!("key:{number}")).collect();
    let kept = keys.iter().filter(|key| borrow(&copies, key.as_bytes(), 1_000, bytes_max)).count();
    let (held, bytes) = copies.count(START_MS);
    assert!(kept == held && (5..10).contains(&kept) && bytes <= bytes_max, "{kept} {held} {bytes}");
    assert_eq!(copies.ask(keys[19].as_bytes(), START_MS + NO_ROOM_MS - 1), None, "there was no room");
    assert_eq!(copies.sweep(START_MS + TTL_MS), bytes as i64);
    assert_eq!(copies.count(START_MS + TTL_MS), (0, 0));
    copies.sweep(START_MS + NO_ROOM_MS);
    assert_eq!(copies.keys.load(Relaxed), 0);
    let asked =
        (0..2 * KEYS_MAX).filter(|number| copies.ask(number.to_string().as_bytes(), START_MS).is_some()).count();
    assert_eq!(asked, KEYS_MAX);
}

/// What is wrong with a node, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// An answered change leaves copies as they are.
    KeepsWhatItChanges,
    /// A recall leaves copies on their way as they are.
    TrustsWhatIsLate,
    /// The life of a copy begins when it comes.
    CountsFromArrival,
}

/// What goes from the node that reads to the owner, over one link.
enum Asked {
    Get { client: usize },
    Set { client: usize },
    Lend(Question),
}

/// What comes back over it.
enum Answered {
    Value { client: usize, version: u64 },
    Done { client: usize, version: u64 },
    Hot,
    Copy { question: Question, version: u64, life_ms: u64 },
}

/// What a client of the node that reads is doing.
#[derive(Clone, Copy)]
enum Doing {
    Nothing,
    /// What it must not read anything older than.
    Reading(u64),
    Writing,
}

/// Links of the node that reads; each carries what it is given in order.
const LINKS: usize = 2;
const CLIENTS: usize = 4;

struct World {
    flaw: Flaw,
    turn: Turn,
    owner: Keyspace,
    copies: Copies,
    asked: [VecDeque<Asked>; LINKS],
    answered: [VecDeque<Answered>; LINKS],
    /// Recalls go over a link of the owner. With each the newest version then.
    recalls: VecDeque<u64>,
    clients: [Doing; CLIENTS],
    version: u64,
    /// The newest that nobody here may read anything older than: it was answered here, or recalled.
    seen: u64,
    /// Versions with the time at which they were written.
    written: Vec<(u64, u64)>,
    copies_read: usize,
}

impl World {
    fn new(seed: u64, flaw: Flaw) -> Self {
        let settings = Settings {
            shards: 1,
            memory_bytes_max: 0,
            policy: EvictionPolicy::AllKeysLru,
            absence_bytes_max: 1 << 20,
            boot_unix_ms: START_MS,
            lease: LeaseSettings {
                lease_ms: 10_000,
                lease_ms_max: 60_000,
                reissue_after_ms: None,
                waiters_per_key_max: 3,
                waiters_max: 100,
                records_max: 100,
                tombstone_ttl_ms: 60_000,
                invalidated_stale_ms: 10_000,
            },
        };
        let mut world = Self {
            flaw,
            turn: Turn::new(START_MS, seed),
            owner: Keyspace::new(settings, HashSeed([1, 2, 3, 4])),
            copies: Copies::new(TTL_MS),
            asked: Default::default(),
            answered: Default::default(),
            recalls: VecDeque::new(),
            clients: [Doing::Nothing; CLIENTS],
            version: 0,
            seen: 0,
            written: Vec::new(),
            copies_read: 0,
        };
        // Seeds that are near each other begin alike.
        (0..10).for_each(|_| _ = world.turn.random());
        world.write();
        world
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.turn.random().is_multiple_of(one_in)
    }

    fn one_of(&mut self, count: usize) -> usize {
        (self.turn.random() % count as u64) as usize
    }

    /// The owner stores the next version; its word to the holders of copies may be lost.
    fn write(&mut self) -> u64 {
        self.version += 1;
        let (value, now_ms) = (self.version.to_string(), self.turn.now_ms);
        self.owner.update(&mut self.turn, DB, KEY, |slot| slot.set(value.as_bytes(), Attributes::PLAIN));
        self.written.push((self.version, now_ms));
        for recall in self.owner.take_recalls() {
            assert_eq!(recall, Recall::Key { key: KEY.into(), holders: 1 });
            if !self.chance(8) {
                self.recalls.push_back(self.version);
            }
        }
        self.version
    }

    /// What was written longer ago than a copy lives: nothing older may be read.
    fn bound(&self) -> u64 {
        let before_ms = self.turn.now_ms.saturating_sub(TTL_MS);
        let versions = self.written.iter().rev().find(|(_, at_ms)| *at_ms < before_ms);
        versions.map_or(0, |(version, _)| *version)
    }

    fn step(&mut self) -> Result<(), String> {
        self.turn.now_ms += self.turn.random() % 4;
        match self.one_of(10) {
            0 if self.chance(4) => _ = self.write(),
            1..=3 => {
                let client = self.one_of(CLIENTS);
                if matches!(self.clients[client], Doing::Nothing) {
                    return self.begin(client);
                }
            }
            4..=5 => {
                let link = self.one_of(LINKS);
                self.execute(link);
            }
            6..=8 => {
                let link = self.one_of(LINKS);
                return self.hear(link);
            }
            _ => {
                if let Some(version) = self.recalls.pop_front() {
                    self.copies.touch(touched(KEY), self.turn.now_ms);
                    self.seen = self.seen.max(version);
                }
            }
        }
        Ok(())
    }

    /// A client begins to read or to write.
    fn begin(&mut self, client: usize) -> Result<(), String> {
        let (link, now_ms) = (client % LINKS, self.turn.now_ms);
        if self.chance(10) {
            self.copies.touch(touched(KEY), now_ms);
            self.clients[client] = Doing::Writing;
            self.asked[link].push_back(Asked::Set { client });
            return Ok(());
        }
        let oldest = self.seen.max(self.bound());
        let mut read = None;
        if self.copies.read(KEY, now_ms, |value, _| read = String::from_utf8_lossy(value).parse().ok()) {
            self.copies_read += 1;
            let version: u64 = read.expect("versions are stored");
            return if version >= oldest { Ok(()) } else { Err(format!("a copy was {version}, before {oldest}")) };
        }
        self.clients[client] = Doing::Reading(oldest);
        self.asked[link].push_back(Asked::Get { client });
        Ok(())
    }

    /// The owner executes what comes next over a link.
    fn execute(&mut self, link: usize) {
        let answer = match self.asked[link].pop_front() {
            None => return,
            Some(Asked::Get { client }) => {
                let read = |entry: leasehold_keyspace::Entry<'_>| String::from_utf8_lossy(entry.value).parse().ok();
                let version = self.owner.read(&mut self.turn, DB, KEY, Access::Touch, read).flatten();
                self.answered[link].push_back(Answered::Hot);
                Answered::Value { client, version: version.expect("versions are stored") }
            }
            Some(Asked::Set { client }) => Answered::Done { client, version: self.write() },
            Some(Asked::Lend(question)) => {
                let read = |entry: leasehold_keyspace::Entry<'_>, life_ms| {
                    (String::from_utf8_lossy(entry.value).parse().expect("versions are stored"), life_ms)
                };
                let lent = self.owner.lend(&mut self.turn, DB, KEY, 0, TTL_MS, read);
                let (version, life_ms) = lent.expect("it is there");
                Answered::Copy { question, version, life_ms }
            }
        };
        self.answered[link].push_back(answer);
    }

    /// The node that reads hears what comes next over a link.
    fn hear(&mut self, link: usize) -> Result<(), String> {
        let now_ms = self.turn.now_ms;
        match self.answered[link].pop_front() {
            None => {}
            Some(Answered::Value { client, version }) => {
                let Doing::Reading(oldest) = std::mem::replace(&mut self.clients[client], Doing::Nothing) else {
                    return Err("nobody has asked".to_owned());
                };
                if version < oldest {
                    return Err(format!("the owner has told {version}, before {oldest}"));
                }
            }
            Some(Answered::Done { client, version }) => {
                if self.flaw != Flaw::KeepsWhatItChanges {
                    self.copies.touch(touched(KEY), now_ms);
                }
                self.seen = self.seen.max(version);
                self.clients[client] = Doing::Nothing;
            }
            Some(Answered::Hot) => {
                if let Some(question) = self.copies.ask(KEY, now_ms) {
                    self.asked[link].push_back(Asked::Lend(question));
                }
            }
            Some(Answered::Copy { mut question, version, life_ms }) => {
                match self.flaw {
                    Flaw::TrustsWhatIsLate => question.stamp = self.copies.stamp(Cell::of_key(KEY)),
                    Flaw::CountsFromArrival => question.at_ms = now_ms,
                    Flaw::None | Flaw::KeepsWhatItChanges => {}
                }
                let value = version.to_string();
                let given = Given { question, key: KEY, value: value.as_bytes(), client_flags: 0, life_ms };
                self.copies.keep(&given, 10_000, now_ms);
            }
        }
        Ok(())
    }
}

/// What goes wrong in worlds of these seeds, with the seed, and how many reads copies have answered.
fn run(seeds: std::ops::Range<u64>, flaw: Flaw) -> (Vec<String>, usize) {
    let (mut wrong, mut copies_read) = (Vec::new(), 0);
    for seed in seeds {
        let mut world = World::new(seed, flaw);
        if let Some(what) = (0..3_000).find_map(|_| world.step().err()) {
            wrong.push(format!("seed {seed}: {what}"));
        }
        copies_read += world.copies_read;
    }
    (wrong, copies_read)
}

#[test]
fn no_copy_is_read_after_a_change_was_answered_here_or_recalled_nor_longer_than_it_lives() {
    let (wrong, copies_read) = run(1..301, Flaw::None);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(copies_read > 10_000, "{copies_read} reads were answered from copies");
}

#[test]
fn each_rule_is_missed() {
    for flaw in [Flaw::KeepsWhatItChanges, Flaw::TrustsWhatIsLate, Flaw::CountsFromArrival] {
        let (wrong, _) = run(1..301, flaw);
        assert!(!wrong.is_empty(), "{flaw:?} does no harm");
    }
}
