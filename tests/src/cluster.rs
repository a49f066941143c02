//! Three nodes on this machine that share the keys.

use crate::client::Client;
use crate::client_scripts::users;
use crate::process::{Directory, free_port};
use crate::reply::Value;
use crate::server::{Server, ServerOptions, binary};
use std::path::PathBuf;
use std::process::Command;

/// Their names.
pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three nodes with a loader for `user:…` each, over one database.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of [`NAMES`]; then the gutter, if there is one.
    pub nodes: Vec<Server>,
    conf: String,
    files: Directory,
}

impl Cluster {
    /// Starts them.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("", "")
    }

    /// Starts them with this in the conf of all, and this in the table of the loader.
    #[must_use]
    pub fn start_with(conf: &str, loader: &str) -> Self {
        Self::start_changed(conf, loader, |options| options)
    }

    /// As [`Cluster::start_with`], with other options of each server.
    #[must_use]
    pub fn start_changed(conf: &str, loader: &str, change: impl Fn(ServerOptions) -> ServerOptions) -> Self {
        let files = Directory::new();
        let ports = NAMES.map(|_| free_port());
        let conf = format!("{conf}\n{}\n{}\n{loader}", addresses(ports), users(&files));
        // One after the other: the first makes the database.
        let start = |(name, port)| change(options(name, port).conf(conf.clone())).start();
        Self { nodes: NAMES.into_iter().zip(ports).map(start).collect(), conf, files }
    }

    /// Starts them and node g, which stands in for them, with this in the conf of all, and this in the table of the loader.
    #[must_use]
    pub fn start_with_gutter(conf: &str, loader: &str) -> Self {
        Self::start_four(conf, loader, "")
    }

    /// As [`Cluster::start_with_gutter`], where the database has what a journal needs.
    ///
    /// # Panics
    /// If that cannot be printed.
    #[must_use]
    pub fn start_with_gutter_and_journal(loader: &str) -> Self {
        let printed = Command::new(binary()).args(["sql", "journal", "--database", "sqlite"]).output();
        let printed = String::from_utf8(printed.expect("it runs").stdout).expect("it is a text");
        Self::start_four("", loader, &printed)
    }

    fn start_four(conf: &str, loader: &str, sql: &str) -> Self {
        let files = Directory::new();
        let (ports, gutter) = (NAMES.map(|_| free_port()), free_port());
        let gutter_table = format!("[nodes.g]\naddress = \"127.0.0.1:{gutter}\"\npool = \"gutter\"\n");
        let conf = format!("gutter = \"pool\"\n{conf}\n{}{gutter_table}{}\n{loader}", addresses(ports), users(&files));
        let script = files.path().join("users.sql");
        let users = std::fs::read_to_string(&script).expect("it was just written");
        std::fs::write(&script, format!("{users}\n{sql}")).expect("the directory is ours");
        let start = |(name, port)| options(name, port).conf(conf.clone()).memcached().start();
        let names = NAMES.into_iter().zip(ports).chain([("g", gutter)]);
        Self { nodes: names.map(start).collect(), conf, files }
    }

    /// Starts a node of [`NAMES`] that was killed anew, where it was.
    pub fn restart(&mut self, place: usize) {
        let port = self.nodes[place].port();
        self.nodes[place] = options(NAMES[place], port).conf(self.conf.clone()).memcached().start();
    }

    /// What all nodes are configured with.
    #[must_use]
    pub fn conf(&self) -> &str {
        &self.conf
    }

    /// Starts the gutter anew, where it was.
    pub fn restart_gutter(&mut self) {
        let port = self.nodes[3].port();
        self.nodes[3] = options("g", port).conf(self.conf.clone()).memcached().start();
    }

    /// The file of the database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.files.path().join("users.db")
    }

    /// A client of each node.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(Server::client).collect()
    }

    /// What a loader has counted, on all nodes together.
    #[must_use]
    pub fn counter(&self, counter: &str) -> i64 {
        self.nodes.iter().map(|node| node.client().loader_counter("user", counter)).sum()
    }

    /// The place of the node whose key this is.
    ///
    /// # Panics
    /// If it is none of the three.
    #[must_use]
    pub fn owner(&self, key: &str) -> usize {
        let port = port_of_owner(&self.nodes[0], key);
        let is_owner = |node: &Server| node.port() == port;
        self.nodes.iter().position(is_owner).expect("it is one of the three")
    }

    /// A key of the node at `place`, made of `prefix` and a number.
    ///
    /// # Panics
    /// If it has none among many.
    #[must_use]
    pub fn key_of(&self, place: usize, prefix: &str) -> String {
        let mut keys = (1..1000).map(|number| format!("{prefix}{number}"));
        keys.find(|key| self.owner(key) == place).expect("each has a third of the keys")
    }
}

/// The port of the node whose key this is, as `node` has been told.
///
/// # Panics
/// If it is none's.
#[must_use]
pub fn port_of_owner(node: &Server, key: &str) -> u16 {
    address_of_owner(&mut node.client(), key).1
}

/// Host and port of the node whose key this is, as the node of this client tells.
///
/// # Panics
/// If it is none's.
#[must_use]
pub fn address_of_owner(client: &mut Client, key: &str) -> (String, u16) {
    let slot = client.command(&["CLUSTER", "KEYSLOT", key]).integer();
    let ranges = client.command(&["CLUSTER", "SLOTS"]);
    let mut ranges = ranges.elements().iter().map(Value::elements);
    let range = ranges.find(|range| (range[0].integer()..=range[1].integer()).contains(&slot));
    let address = range.expect("every slot is somebody's")[2].elements();
    (address[0].text(), u16::try_from(address[1].integer()).expect("a port"))
}

/// `[nodes.NAME]` of all, as every node must have them.
#[must_use]
pub fn addresses(ports: [u16; 3]) -> String {
    let table = |(name, port)| format!("[nodes.{name}]\naddress = \"127.0.0.1:{port}\"\n");
    NAMES.into_iter().zip(ports).map(table).collect()
}

/// Options of the node with this name.
#[must_use]
pub fn options(name: &str, port: u16) -> ServerOptions {
    Server::options().set("node", name).port(port)
}
