//! Where a transcript runs: the simulator, the real binary over sockets, or redis-server.

use super::parse::{Answer, Transcript};
use crate::client::{Client, NoReply, request};
use crate::redis_server::RedisServer;
use crate::reply::{Quoted, Value, decode};
use crate::server::Server;
use crate::simulator::{ConnectionId, ScriptedLoader, Simulator};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A kind of world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The simulator.
    Simulated,
    /// The real binary.
    Real,
    /// redis-server, for what Redis defines.
    Redis,
}

/// One of the ways in which a transcript is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where.
    pub place: Place,
    /// 2 or 3.
    pub version: u8,
    /// Of the keyspace; redis-server has none.
    pub shards: usize,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.place {
            Place::Simulated => "simulated",
            Place::Real => "real",
            Place::Redis => "redis-server",
        };
        write!(f, "{place}, RESP{}, {} shards", self.version, self.shards)
    }
}

/// A world at the start of a transcript.
pub(crate) enum World<'a> {
    Simulated { simulator: Box<Simulator>, clients: HashMap<String, Simulated>, version: u8 },
    Real(Sockets<'a>),
}

/// A client in the simulator, with replies that nobody has looked at yet.
pub(crate) struct Simulated {
    id: ConnectionId,
    unread: Vec<u8>,
}

/// Clients of a server process, and real time.
pub(crate) struct Sockets<'a> {
    port: u16,
    version: u8,
    clients: HashMap<String, Client>,
    started: Instant,
    /// Where the transcript's clock stands, since `started`.
    nominal: Duration,
    /// How far real time was ahead of it at worst.
    behind_max: Duration,
    /// The client that sent last, if it has no reply yet.
    unanswered: Option<String>,
    source: Option<&'a dyn Source>,
    _server: ServerUnderTest,
}

/// Kept for its end only.
enum ServerUnderTest {
    Leasehold(#[expect(dead_code, reason = "ends with the value")] Server),
    Redis(#[expect(dead_code, reason = "ends with the value")] RedisServer),
}

/// How long a transcript waits for a reply in simulated time, in ms: a source that answers at once takes a moment too.
const MOMENT_MS: u64 = 20;

/// Requests of different clients have no order, so before another client speaks the server gets so long to take up what
/// was sent.
const TAKE_UP: Duration = Duration::from_millis(30);

/// The database behind the loaders of a real server.
pub(crate) trait Source {
    fn answer(&self, key: &str, answer: &Answer);
    fn loads(&self, key: &str) -> u64;
}

/// What a transcript with loaders needs besides a server.
pub(crate) struct Surroundings<'a> {
    /// Behind the loaders of a real server.
    pub(crate) source: Option<&'a dyn Source>,
    /// The conf of a real server.
    pub(crate) conf: Option<String>,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        transcript: &Transcript,
        setting: Setting,
        surroundings: Surroundings<'a>,
    ) -> Result<Self, String> {
        let Setting { place, version, shards } = setting;
        match place {
            Place::Simulated => {
                let loaders = transcript
                    .loaders()
                    .iter()
                    .enumerate()
                    .map(|(index, (name, options))| ScriptedLoader::new(index, name, options))
                    .collect::<Result<_, _>>()?;
                let simulator = Box::new(Simulator::new(shards, &transcript.settings, loaders)?);
                Ok(Self::Simulated { simulator, clients: HashMap::new(), version })
            }
            Place::Real => {
                let mut options = Server::options().set("shards", shards);
                if let Some(conf) = surroundings.conf {
                    options = options.conf(conf);
                }
                for (name, value) in &transcript.settings {
                    options = options.set(name, value);
                }
                let server = options.start();
                Ok(Self::Real(Sockets::new(
                    server.port(),
                    version,
                    surroundings.source,
                    ServerUnderTest::Leasehold(server),
                )))
            }
            Place::Redis => {
                let redis = RedisServer::start_for("transcripts against redis-server").ok_or("no redis-server")?;
                Ok(Self::Real(Sockets::new(redis.port(), version, None, ServerUnderTest::Redis(redis))))
            }
        }
    }

    pub(crate) fn send(&mut self, name: &str, bytes: &[u8]) {
        match self {
            Self::Simulated { .. } => self.simulated(name, |simulator, client| simulator.send(client.id, bytes)),
            Self::Real(sockets) => sockets.send(name, bytes),
        }
    }

    /// The next reply.
    pub(crate) fn receive(&mut self, name: &str) -> Result<Value, NoReply> {
        match self {
            Self::Simulated { .. } => self.simulated(name, |simulator, client| {
                let mut reply = next_reply(simulator, client);
                for _ in 0..MOMENT_MS {
                    if reply != Err(NoReply::Timeout) {
                        break;
                    }
                    simulator.advance(1);
                    reply = next_reply(simulator, client);
                }
                reply
            }),
            Self::Real(sockets) => sockets.receive(name, crate::client::PATIENCE),
        }
    }

    /// A reply that is there already.
    pub(crate) fn receive_at_once(&mut self, name: &str) -> Result<Value, NoReply> {
        match self {
            Self::Simulated { .. } => self.simulated(name, next_reply),
            Self::Real(sockets) => sockets.receive(name, Duration::ZERO),
        }
    }

    pub(crate) fn close(&mut self, name: &str) {
        match self {
            Self::Simulated { simulator, clients, .. } => {
                if let Some(client) = clients.remove(name) {
                    simulator.close(client.id);
                }
            }
            Self::Real(sockets) => {
                if let Some(client) = sockets.clients.remove(name) {
                    client.close();
                }
            }
        }
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        match self {
            Self::Simulated { simulator, .. } => simulator.advance(ms),
            Self::Real(sockets) => {
                sockets.nominal += Duration::from_millis(ms);
                std::thread::sleep(sockets.nominal.saturating_sub(sockets.started.elapsed()));
            }
        }
    }

    pub(crate) fn answer(&mut self, key: &str, answer: &Answer) -> Result<(), String> {
        match self {
            Self::Simulated { simulator, .. } => simulator.answer(key, answer.clone()),
            Self::Real(sockets) => sockets.source.ok_or("there is no source")?.answer(key, answer),
        }
        Ok(())
    }

    pub(crate) fn loads(&self, key: &str) -> Result<u64, String> {
        match self {
            Self::Simulated { simulator, .. } => Ok(simulator.loads(key)),
            Self::Real(sockets) => Ok(sockets.source.ok_or("there is no source")?.loads(key)),
        }
    }

    /// How far the clock of the world was ahead of the transcript's at worst: a real one does not stop between statements.
    pub(crate) fn behind_max(&mut self) -> Duration {
        match self {
            Self::Simulated { .. } => Duration::ZERO,
            Self::Real(sockets) => {
                let behind = sockets.started.elapsed().saturating_sub(sockets.nominal);
                sockets.behind_max = sockets.behind_max.max(behind);
                sockets.behind_max
            }
        }
    }

    pub(crate) fn client_names(&self) -> Vec<String> {
        match self {
            Self::Simulated { clients, .. } => clients.keys().cloned().collect(),
            Self::Real(sockets) => sockets.clients.keys().cloned().collect(),
        }
    }

    fn simulated<R>(&mut self, name: &str, act: impl FnOnce(&mut Simulator, &mut Simulated) -> R) -> R {
        let Self::Simulated { simulator, clients, version } = self else {
            unreachable!("only called for the simulator")
        };
        let client = clients.entry(name.to_owned()).or_insert_with(|| {
            let id = simulator.connect();
            if *version == 3 {
                simulator.send(id, &request(&["HELLO", "3"]));
                let reply = simulator.take_output(id);
                assert!(reply.starts_with(b"%"), "HELLO 3: {}", Quoted(&reply));
            }
            Simulated { id, unread: Vec::new() }
        });
        act(simulator, client)
    }
}

fn next_reply(simulator: &mut Simulator, client: &mut Simulated) -> Result<Value, NoReply> {
    client.unread.extend(simulator.take_output(client.id));
    match decode(&client.unread) {
        Ok(Some((value, len))) => {
            client.unread.drain(..len);
            Ok(value)
        }
        Ok(None) if simulator.is_open(client.id) => Err(NoReply::Timeout),
        Ok(None) => Err(NoReply::Closed),
        Err(malformed) => panic!("{malformed:?}"),
    }
}

impl<'a> Sockets<'a> {
    fn new(port: u16, version: u8, source: Option<&'a dyn Source>, server: ServerUnderTest) -> Self {
        Self {
            port,
            version,
            clients: HashMap::new(),
            started: Instant::now(),
            nominal: Duration::ZERO,
            behind_max: Duration::ZERO,
            unanswered: None,
            source,
            _server: server,
        }
    }

    fn send(&mut self, name: &str, bytes: &[u8]) {
        if self.unanswered.as_ref().is_some_and(|other| other != name) {
            std::thread::sleep(TAKE_UP);
            self.nominal += TAKE_UP;
        }
        self.client(name).send_raw(bytes);
        self.unanswered = Some(name.to_owned());
    }

    fn receive(&mut self, name: &str, patience: Duration) -> Result<Value, NoReply> {
        let reply = self.client(name).receive_within(patience);
        if reply.is_ok() {
            self.unanswered.take_if(|other| other == name);
        }
        reply
    }

    fn client(&mut self, name: &str) -> &mut Client {
        let (port, version) = (self.port, self.version);
        self.clients.entry(name.to_owned()).or_insert_with(|| {
            let mut client = Client::connect(port);
            if version == 3 {
                client.hello(3);
            }
            client
        })
    }
}
