//! One client with its connection, choices and delays: reads, loads, writes, deletes.

use super::{Begun, Counts, KEYS, Key, Kind, Source, World, is_absent};
use crate::random::Random;
use crate::{Client, Value};
use std::collections::VecDeque;
use std::time::Duration;

/// Reads that one client sends before it reads the answers.
const PIPELINE_MAX: u64 = 8;

/// One client.
pub struct Actor<'w> {
    /// Where it acts.
    pub world: &'w World,
    /// Its connection to the cache.
    pub client: Client,
    /// Its connection to the database, if its rows lie in one.
    pub source: Option<Source>,
    /// Its choices.
    pub random: Random,
    /// The rows that it reads.
    pub kinds: &'static [Kind],
    /// Of which rows loads may fail and writes end in doubt, because somebody breaks the connections of the server.
    pub may_fail: fn(Kind) -> bool,
}

impl Actor<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
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

    /// Any row that it reads.
    fn key(&mut self) -> Key {
        let kind = self.kinds[self.below(self.kinds.len() as u64) as usize];
        Key { kind, index: self.below(KEYS as u64) as usize }
    }

    /// A row to be written: the first ones more often, so that the last ones live for a while.
    fn written_key(&mut self, kind: Kind) -> Key {
        let index = self.below(KEYS as u64).min(self.below(KEYS as u64));
        Key { kind, index: index as usize }
    }

    fn send(&mut self, argv: &[&str]) {
        Counts::add(&self.world.counts.operations);
        self.client.send(argv);
    }

    fn command(&mut self, argv: &[&str]) -> Value {
        self.send(argv);
        self.client.receive()
    }

    fn source(&mut self) -> &mut Source {
        self.source.as_mut().expect("rows of a database")
    }

    /// What the database says now.
    fn version(&mut self, key: Key) -> i64 {
        if key.kind == Kind::Own { self.world.issued(key) } else { self.source().version(key) }
    }

    /// Some plain reads, sent together; or one that leads to a load by the client itself.
    pub fn read(&mut self) {
        if self.below(if self.source.is_some() { 8 } else { 2 }) == 0 {
            self.read_by_lease();
        } else {
            self.read_plainly();
        }
    }

    fn read_plainly(&mut self) {
        let mut sent = VecDeque::new();
        for _ in 0..1 + self.below(PIPELINE_MAX) {
            let key = self.key();
            let name = key.name();
            match self.below(8) {
                0 if key.kind != Kind::Own => {
                    sent.push_back(vec![self.world.begin(key, "LOADTHROUGH")]);
                    self.send(&["LOADTHROUGH", &name]);
                }
                1 if key.kind != Kind::Own => {
                    sent.push_back(vec![self.world.begin(key, "LOADTHROUGH FRESH")]);
                    self.send(&["LOADTHROUGH", &name, "FRESH"]);
                }
                2 => {
                    let other = self.key();
                    sent.push_back(vec![self.world.begin(key, "MGET"), self.world.begin(other, "MGET")]);
                    self.send(&["MGET", &name, &other.name()]);
                }
                _ => {
                    sent.push_back(vec![self.world.begin(key, "GET")]);
                    self.send(&["GET", &name]);
                }
            }
        }
        for begun in sent {
            let reply = self.client.receive();
            let values = if begun.len() > 1 && !matches!(reply, Value::Error(_)) {
                reply.elements()
            } else {
                std::slice::from_ref(&reply)
            };
            let may_fail = begun.iter().any(|begun| (self.may_fail)(begun.key.kind));
            for (begun, value) in begun.into_iter().zip(values) {
                self.check(begun, value, may_fail);
            }
        }
        self.delay();
    }

    fn check(&self, begun: Begun, value: &Value, may_fail: bool) {
        match value {
            Value::Bulk(_) => self.world.check(begun, value),
            // A plain miss.
            value if value.is_null() && begun.key.kind == Kind::Own => {}
            value if value.is_null() => self.world.check(begun, value),
            Value::Error(_) if may_fail => Counts::add(&self.world.counts.failed),
            _ => self.world.complain(format!("{} {}: {value}", begun.how, begun.key.name())),
        }
    }

    /// GETL; who gets the lease loads, or gives up, or is never heard of again.
    fn read_by_lease(&mut self) {
        let key = self.key();
        let name = key.name();
        let mut argv = vec!["GETL", &name];
        if self.below(2) == 0 {
            argv.extend(["WAIT", "50"]);
        }
        if self.below(3) == 0 {
            argv.push("NOSTALE");
        }
        let begun = self.world.begin(key, "GETL");
        let reply = self.command(&argv);
        let Value::Array(fields) = &reply else { return self.world.complain(format!("GETL {name}: {reply}")) };
        match fields[0].text().as_str() {
            "HIT" | "NEGATIVE" => self.world.check(begun, &fields[1]),
            "LEASE" => self.fill(key, &fields[2].text()),
            "WAIT" => {}
            _ => self.world.complain(format!("GETL {name}: {reply}")),
        }
    }

    fn fill(&mut self, key: Key, token: &str) {
        let name = key.name();
        self.delay();
        let version = self.version(key);
        self.delay();
        let value = version.to_string();
        let life = (1 + self.below(60)).to_string();
        let mut argv = vec!["SETL", &name, token, &value];
        match self.below(20) {
            0 => return,
            1 => {
                self.command(&["RELL", &name, token]);
                return;
            }
            _ if is_absent(version) => {
                self.command(&["RELL", &name, token, "NEGATIVE", &life]);
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
        let outcome = &self.world.counts;
        Counts::add(if reply.text().starts_with("LOST") { &outcome.lost } else { &outcome.fills });
    }

    /// Changes a row in its database, or tries to, and deletes its key; who changed nothing may delete, too.
    pub fn write_and_delete(&mut self, kind: Kind) {
        let key = self.written_key(kind);
        let version = self.change(key);
        self.delay();
        let name = key.name();
        // An absence has no tags.
        let tags = key.tags().filter(|_| version.is_none_or(|version| !self.world.was_absent_before(key, version)));
        let reply = match (self.below(400), tags) {
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
        if let Some(version) = version {
            self.world.acknowledge(key, version);
        }
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

    /// The version that is committed; none if the transaction was rolled back.
    fn change(&mut self, key: Key) -> Option<i64> {
        if key.kind == Kind::Own {
            return Some(self.world.issue(key));
        }
        let pause = Duration::from_micros(self.below(8_000));
        let choice = self.below(10);
        if choice == 0 {
            self.source().roll_back(key, pause);
            Counts::add(&self.world.counts.rollbacks);
            return None;
        }
        self.world.issue(key);
        Some(if choice < 4 { self.source().commit_after(key, pause) } else { self.source().commit(key) })
    }

    /// Changes a row in its database, or tries to, and leaves the rest to the feed.
    pub fn write_for_the_feed(&mut self) {
        let key = self.written_key(Kind::Fed);
        if let Some(version) = self.change(key) {
            self.world.note_commit(key, version);
        }
        std::thread::sleep(Duration::from_micros(self.below(3_000)));
    }

    /// Makes the next version of a row by SET or DEL, one writer of so many; each has its own rows, as their order is that of its writes.
    pub fn write_by_the_cache(&mut self, kind: Kind, writer: usize, writers: usize) {
        let own = KEYS / writers;
        let key = Key { kind, index: writer + writers * self.below(own as u64) as usize };
        let name = key.name();
        if kind == Kind::Through && self.below(12) == 0 {
            let reply = self.command(&["SET", &name, "-2"]);
            match reply {
                Value::Error(text) if text.starts_with("WRITEFAIL") || (self.may_fail)(kind) => {
                    Counts::add(&self.world.counts.rollbacks);
                }
                reply => self.world.complain(format!("{name}: what the database refuses was answered {reply}")),
            }
        }
        let version = self.world.issue(key);
        if kind == Kind::Through && self.below(8) == 0 {
            self.source().put(key, version);
            self.delay();
            self.command(&["INVAL", &name]);
            self.world.acknowledge(key, version);
            return;
        }
        let reply = if is_absent(version) {
            self.command(&["DEL", &name])
        } else {
            self.command(&["SET", &name, &version.to_string()])
        };
        match reply {
            Value::Simple(_) | Value::Integer(_) => self.world.acknowledge(key, version),
            Value::Error(_) if (self.may_fail)(kind) => Counts::add(&self.world.counts.unknown),
            reply => self.world.complain(format!("a write of {name} was answered {reply}")),
        }
        // A client that thinks the value old. DEL would write.
        let invalidated = match self.below(40) {
            0 => self.command(&["INVALPREFIX", &name]),
            1 => self.command(&["INVAL", &name]),
            _ => Value::Integer(0),
        };
        if let Value::Error(text) = invalidated {
            self.world.complain(format!("an invalidation of {name} was refused: {text}"));
        }
        self.delay();
    }

    /// What one does without leases: miss, read, SET.
    pub fn read_and_set(&mut self) {
        let key = self.key();
        let name = key.name();
        let begun = self.world.begin(key, "GET");
        let value = self.command(&["GET", &name]);
        if value.is_null() {
            self.delay();
            let version = self.version(key);
            self.delay();
            if !is_absent(version) {
                self.command(&["SET", &name, &version.to_string()]);
            }
        } else {
            self.world.check(begun, &value);
        }
    }

    /// What a writer does who forgets the cache.
    pub fn write_and_forget(&mut self, kind: Kind) {
        let key = self.written_key(kind);
        if let Some(version) = self.change(key) {
            self.world.acknowledge(key, version);
        }
        self.delay();
    }
}
