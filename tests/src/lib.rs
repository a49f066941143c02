//! The harness of the tests: the real server as a process, raw clients, reference servers, a simulator, and the
//! transcripts that run on both.
//!
//! Tests speak the protocol, or drive the state machines in simulated time; none looks into the server.
//!
//! ```text
//! Server::start() ── Client ── reply::Value         the real binary over a socket
//! Simulator ── leasehold_command::execute           the same commands with a clock that the test moves
//! transcript::run(file, Setting)                    one file on either, RESP2 or RESP3, one shard or many
//! ```

pub mod board;
pub mod certificates;
pub mod choices;
pub mod client;
pub mod client_scripts;
pub mod cluster;
pub mod crowd;
pub mod database;
pub mod fed;
pub mod groups;
pub mod hosted;
pub mod hosts;
pub mod loading;
pub mod memcached;
pub mod mysql;
pub mod mysql_server;
pub mod notices;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod race;
pub mod random;
pub mod redis_server;
pub mod reply;
pub mod server;
pub mod simulator;
pub mod sqlite_file;
pub mod transcript;
pub mod watch;

pub use board::Board;
pub use certificates::Certificates;
pub use client::{Client, NoReply};
pub use cluster::Cluster;
pub use crowd::{Crowd, Tally};
pub use database::Database;
pub use hosted::Hosted;
pub use memcached::{Memcached, MemcachedServer};
pub use mysql::MySqlDatabase;
pub use mysql_server::{MySqlKind, MySqlServer};
pub use postgres::Postgres;
pub use proxy::{Proxy, Trouble};
pub use redis_server::RedisServer;
pub use reply::Value;
pub use server::{Server, ServerOptions};
pub use simulator::Simulator;
pub use sqlite_file::SqliteFile;
