//! Three nodes and a gutter, each on a host of its own, and a host for their clients. Behind them is a PostgreSQL whose queries are counted; the line to it
//! is none of those that a test spoils.
//!
//! ```text
//!  host 0, 1, 2: nodes a, b, c     host 3: node g     host 4: clients         all joined by a switch (`hosts.rs`)
//!       127.0.0.1:5432 ── proxy of that host, in this process ── PostgreSQL
//! ```

use crate::Database;
use crate::client::Client;
use crate::cluster::{NAMES, address_of_owner};
use crate::hosts::{Hosts, address};
use crate::postgres::Postgres;
use crate::proxy::Proxy;
use crate::server::Server;
use crate::watch::until;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

/// Each host has ports of its own.
const PORT: u16 = 6379;
const MEMCACHED_PORT: u16 = 11211;
const SOURCE_PORT: u16 = 5432;

/// The host of the gutter node.
pub const GUTTER: usize = 3;

/// The host of the clients.
pub const CLIENTS: usize = 4;

/// A machine that stands still for half a second makes no node doubt another.
const PATIENT: &str = "peer-timeout = \"2s\"\npeer-ping = \"200ms\"";

/// Rows of the table, with ids from 1 on.
pub const ROWS: u64 = 200_000;

/// See the module. Every node has a loader for `user:…`, whose rows have a version that is 0 at first.
#[derive(Debug)]
pub struct Hosted {
    // Ends before the hosts do.
    nodes: Vec<Server>,
    hosts: Arc<Hosts>,
    proxies: Vec<Proxy>,
    conf: String,
    source: String,
    // Ends last.
    _postgres: Arc<Postgres>,
}

impl Hosted {
    /// Starts all, with this in the conf of all nodes, and waits until each knows of each; `None`, which is said: this machine cannot.
    ///
    /// # Panics
    /// If it can, and they do not start.
    #[must_use]
    pub fn start(group: &str, conf: &str) -> Option<Self> {
        let hosts = Arc::new(Hosts::new(group, CLIENTS + 1)?);
        let postgres = Postgres::shared(group)?;
        let source = postgres.new_database();
        Database::connect(&source).run(&format!(
            "CREATE TABLE users (id bigint PRIMARY KEY, version bigint NOT NULL);
             INSERT INTO users SELECT id, 0 FROM generate_series(1, {ROWS}) AS id; ANALYZE users"
        ));
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, SOURCE_PORT)).expect("the host is new");
        let proxies = (0..=GUTTER).map(|host| Proxy::on(hosts.on(host, listen), postgres.port())).collect();
        let name = source.rsplit('/').next().expect("a URL has a path");
        let tables = (0..=GUTTER).map(|host| {
            let pool = if host == GUTTER { "pool = \"gutter\"\n" } else { "" };
            format!("[nodes.{}]\naddress = \"{}:{PORT}\"\n{pool}", name_of(host), address(host))
        });
        let conf = format!(
            r#"
            gutter = "pool"
            {PATIENT}
            {conf}
            {}
            [sources.main]
            url = "postgres://test@127.0.0.1:{SOURCE_PORT}/{name}"
            [loaders.user]
            match = "user:{{id:int}}"
            source = "main"
            sql = "SELECT id, version FROM users WHERE id = $1"
            ttl = "1h"
            "#,
            tables.collect::<String>()
        );
        let mut hosted = Self { nodes: Vec::new(), hosts, proxies, conf, source, _postgres: postgres };
        hosted.nodes = (0..=GUTTER).map(|host| hosted.start_node(host)).collect();
        hosted.until_well();
        Some(hosted)
    }

    fn start_node(&self, host: usize) -> Server {
        let (conf, bind) = (self.conf.clone(), format!("127.0.0.1 {}", address(host)));
        let options = Server::options().set("node", name_of(host)).set("bind", bind).port(PORT).conf(conf);
        let options = options.set("memcached-port", MEMCACHED_PORT);
        self.hosts.on(host, move || options.start())
    }

    /// The lines between the hosts.
    #[must_use]
    pub fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    /// A node.
    pub fn node(&mut self, host: usize) -> &mut Server {
        &mut self.nodes[host]
    }

    /// Starts a node that has ended anew, where it was.
    pub fn restart(&mut self, host: usize) {
        self.nodes[host] = self.start_node(host);
    }

    /// A client on the host of a node, of that node.
    #[must_use]
    pub fn client(&self, host: usize) -> Client {
        self.hosts.on(host, || Client::connect(PORT))
    }

    /// Where clients of Redis reach a node.
    #[must_use]
    pub fn address(&self, host: usize) -> SocketAddr {
        (address(host), PORT).into()
    }

    /// Where those of memcached do.
    #[must_use]
    pub fn memcached_address(&self, host: usize) -> SocketAddr {
        (address(host), MEMCACHED_PORT).into()
    }

    /// A connection to the database.
    #[must_use]
    pub fn database(&self) -> Database {
        Database::connect(&self.source)
    }

    /// Queries that the database has had of all nodes.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.proxies.iter().map(Proxy::queries).sum()
    }

    /// The first of these ids whose key is of the node on this host.
    ///
    /// # Panics
    /// If none is.
    pub fn id_of(&self, host: usize, ids: impl IntoIterator<Item = u64>) -> u64 {
        let (mut client, ip) = (self.client(0), address(host).to_string());
        let mut ids = ids.into_iter();
        ids.find(|id| address_of_owner(&mut client, &format!("user:{id}")).0 == ip)
            .expect("each has a third of the keys")
    }

    /// Whether a node sees another one so, as `INFO cluster` tells.
    #[must_use]
    pub fn sees(&self, host: usize, other: usize, state: &str) -> bool {
        let info = self.client(host).command(&["INFO", "cluster"]).text();
        info.lines().any(|line| line.starts_with(&format!("x_peer_{}:state={state},", name_of(other))))
    }

    /// Waits until the other nodes of the main pool see a node so.
    pub fn until_seen(&self, other: usize, state: &str) {
        for host in (0..NAMES.len()).filter(|&host| host != other) {
            until(&format!("{} is {state} at {}", name_of(other), name_of(host)), || self.sees(host, other, state));
        }
    }

    /// Waits until every node sees every other one well, and hears from a majority.
    pub fn until_well(&self) {
        for host in 0..=GUTTER {
            for other in (0..=GUTTER).filter(|&other| other != host) {
                let what = format!("{} is well at {}", name_of(other), name_of(host));
                until(&what, || self.sees(host, other, "well"));
            }
            let mut client = self.client(host);
            until("a majority vouches", || {
                client.command(&["CLUSTER", "INFO"]).text().contains("x_cluster_majority:1\r\n")
            });
        }
    }
}

fn name_of(host: usize) -> &'static str {
    NAMES.get(host).copied().unwrap_or("g")
}
