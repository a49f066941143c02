//! A key that is read much by way of other nodes is answered there from copies, and what changes it is seen all the same.

use leasehold_tests::reply::Value;
use leasehold_tests::watch::until;
use leasehold_tests::{Board, Client, Cluster, Server, ServerOptions};
use std::sync::atomic::{AtomicU64, Ordering};

/// Any key is hot, and its copies would outlive each test. A machine that stands still for a moment loses nothing.
const HOT: &str = "hot-key-rate = 1\nhot-key-ttl = \"1m\"\npeer-timeout = \"10s\"";

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

/// What changes a key, by name, as a command.
type Change = (&'static str, fn(&str) -> Vec<&str>);

/// Reads a key through a node until that answers from a copy.
fn until_copied(client: &mut Client, key: &str) {
    let hits = client.info("x_copy_hits");
    until("a copy answers", || {
        client.command(&["GET", key]);
        client.info("x_copy_hits") > hits
    });
}

/// Commands that a node has executed for others, its answer to this left out.
fn executed_for_others(node: &Server) -> u64 {
    node.client().info("x_forwarded_here")
}

#[test]
fn a_key_that_is_read_much_is_answered_without_a_hop_until_it_changes() {
    let cluster = Cluster::start_with(HOT, "");
    let (key, own) = (cluster.key_of(1, "key:"), cluster.key_of(0, "own:"));
    let (mut owner, mut here, mut there) =
        (cluster.nodes[1].client(), cluster.nodes[0].client(), cluster.nodes[2].client());
    let mut beside = cluster.nodes[0].client();
    let changes: [Change; 6] = [
        ("a write", |key| vec!["SET", key, "new"]),
        ("a deletion", |key| vec!["DEL", key]),
        ("an invalidation", |key| vec!["INVAL", key]),
        ("a change in place", |key| vec!["APPEND", key, "more"]),
        ("a shorter life", |key| vec!["PEXPIRE", key, "1"]),
        ("a change with others", |key| vec!["MSET", key, "1", "{x}other", "2"]),
    ];
    assert_eq!(here.command(&["SET", &own, "mine"]), ok());
    for (what, change) in changes {
        for by in 0..3 {
            assert_eq!(owner.command(&["SET", &key, "value"]), ok());
            until("the write before is seen", || here.command(&["GET", &key]) == Value::bulk("value"));
            until("the write before is seen", || there.command(&["GET", &key]) == Value::bulk("value"));
            until_copied(&mut here, &key);
            until_copied(&mut there, &key);
            // Not at once, where the recall of what the write has overwritten is still on its way.
            until("they are answered without a hop", || {
                let before = executed_for_others(&cluster.nodes[1]);
                for _ in 0..100 {
                    assert_eq!(here.command(&["GET", &key]), Value::bulk("value"));
                    let values = beside.command(&["MGET", &key, &own, &key]);
                    assert_eq!(values.elements(), [Value::bulk("value"), Value::bulk("mine"), Value::bulk("value")]);
                }
                executed_for_others(&cluster.nodes[1]) == before
            });
            let change = change(&key);
            let by_client = [&mut owner, &mut here, &mut there][by].command(&change);
            assert!(!matches!(by_client, Value::Error(_)), "{what}: {by_client:?}");
            if by == 1 {
                // By whichever connection it is asked.
                let (one, other) = (here.command(&["GET", &key]), beside.command(&["GET", &key]));
                let is_old = |value: &Value| *value == Value::bulk("value") && what != "a shorter life";
                assert!(!is_old(&one) && !is_old(&other), "{what} by way of this node: {one:?} {other:?}");
            }
            for client in [&mut here, &mut there, &mut beside] {
                until(what, || client.command(&["GET", &key]) != Value::bulk("value"));
            }
        }
    }
    assert!(owner.info("x_hot_told") > 0 && owner.info("x_copies_lent") > 0 && here.info("x_copy_drops") > 0);
}

#[test]
fn what_makes_all_stale_recalls_all_and_what_a_loader_brings_is_copied_too() {
    let cluster = Cluster::start_with(HOT, "tags = [\"user:{id}\", \"all\"]");
    let key = cluster.key_of(1, "user:");
    let (mut owner, mut here) = (cluster.nodes[1].client(), cluster.nodes[0].client());
    for change in [&["INVALTAG", "all"][..], &["INVALPREFIX", "user:"], &["FLUSHALL"]] {
        assert!(matches!(here.command(&["GET", &key]), Value::Bulk(_)));
        until_copied(&mut here, &key);
        let drops = here.info("x_copy_drops");
        assert!(!matches!(owner.command(change), Value::Error(_)), "{change:?}");
        until("the copies are recalled", || here.info("x_copy_drops") > drops && here.info("x_copies") == 0);
        let loads = cluster.counter("keys");
        assert!(matches!(here.command(&["GET", &key]), Value::Bulk(_)));
        assert_eq!(cluster.counter("keys"), loads + 1, "{change:?}: its node has loaded it again");
    }
}

#[test]
fn a_copy_is_no_key_of_the_node_that_has_it() {
    let cluster = Cluster::start_with(HOT, "");
    let key = cluster.key_of(1, "key:");
    let (mut owner, mut here) = (cluster.nodes[1].client(), cluster.nodes[0].client());
    assert_eq!(owner.command(&["SET", &key, "value", "EX", "1000"]), ok());
    until_copied(&mut here, &key);
    assert_eq!(here.command(&["DBSIZE"]), Value::Integer(0));
    assert!(here.command(&["RANDOMKEY"]).is_null());
    assert_eq!(here.command(&["SCAN", "0"]).elements()[1].elements().len(), 0);
    assert!(!here.command(&["INFO", "keyspace"]).text().contains("db0"));
    assert!(!format!("{:?}", here.command(&["HOTKEYS"])).contains(&key));
    let Value::Integer(ttl) = here.command(&["TTL", &key]) else { panic!("the node of the key tells its TTL") };
    assert!((990..=1000).contains(&ttl), "{ttl}");
    assert!(here.info("x_copies") == 1 && here.info("x_copies_bytes") > 0);
    // It is not of the copies' life.
    let used = here.info("x_copies_bytes");
    assert_eq!(here.command(&["DEL", &key]), Value::Integer(1));
    until("its memory is given back", || here.info("x_copies_bytes") < used);
}

#[test]
fn clients_of_memcached_read_copies_and_see_what_changes() {
    let cluster = Cluster::start_changed(HOT, "", ServerOptions::memcached);
    let key = cluster.key_of(1, "key:");
    let (mut owner, mut here) = (cluster.nodes[1].memcached(), cluster.nodes[0].memcached());
    let mut observer = cluster.nodes[0].client();
    assert_eq!(owner.ask(format!("set {key} 7 0 5\r\nvalue\r\n")), "STORED\r\n");
    let value = format!("VALUE {key} 7 5\r\nvalue\r\nEND\r\n");
    for (request, answer) in
        [(format!("get {key}\r\n"), value), (format!("mg {key} v f\r\n"), "VA 5 f7\r\nvalue\r\n".into())]
    {
        let hits = observer.info("x_copy_hits");
        until("a copy answers", || {
            assert_eq!(here.ask(&request), answer);
            observer.info("x_copy_hits") > hits
        });
        let before = executed_for_others(&cluster.nodes[1]);
        assert_eq!(here.ask(request.repeat(50)), answer.repeat(50));
        assert_eq!(executed_for_others(&cluster.nodes[1]), before);
    }
    let gets = here.ask(format!("gets {key}\r\n"));
    let cas = gets.split([' ', '\r']).nth(4).expect("its node tells a CAS number").to_owned();
    assert_eq!(
        here.ask(format!("cas {key} 0 0 3 {cas}\r\nnew\r\nget {key}\r\n")),
        format!("STORED\r\nVALUE {key} 0 3\r\nnew\r\nEND\r\n")
    );
    assert_eq!(here.ask(format!("delete {key} noreply\r\nget {key}\r\n")), "END\r\n", "in the order of the pipeline");
    assert_eq!(here.ask(format!("mg {key} v\r\n")), "EN\r\n");
}

#[test]
fn nothing_is_copied_unless_it_is_asked_for() {
    let cluster = Cluster::start();
    let key = cluster.key_of(1, "key:");
    let mut here = cluster.nodes[0].client();
    assert_eq!(here.command(&["SET", &key, "value"]), ok());
    let before = executed_for_others(&cluster.nodes[1]);
    for _ in 0..1_000 {
        assert_eq!(here.command(&["GET", &key]), Value::bulk("value"));
    }
    assert_eq!(executed_for_others(&cluster.nodes[1]), before + 1_000);
    assert!(!here.command(&["INFO", "cluster"]).text().contains("x_copies"));
}

/// So many changes, or reads, of each client are waited for.
const MORE: usize = 21;

/// Writes and deletes a key, and reads it over several connections, always through one node. Nobody else changes the key.
struct Actor<'a> {
    board: &'a Board,
    number: usize,
    node: &'a Server,
    key: String,
}

impl Actor<'_> {
    /// Reads that were older than an answered change through the same node.
    fn run(self) -> Vec<String> {
        let mut clients = [self.node.client(), self.node.client(), self.node.client()];
        let (mut stale, mut version) = (Vec::new(), 0_u64);
        // The oldest version that may be read: after the deletion of one, the next.
        let oldest = AtomicU64::new(0);
        while !self.board.has_ended() {
            version += 1;
            let text = version.to_string();
            let [writer, ..] = &mut clients;
            if writer.command(&["SET", &self.key, &text]) == ok() {
                oldest.store(version, Ordering::Relaxed);
            }
            self.read(&mut clients, oldest.load(Ordering::Relaxed), &mut stale);
            if matches!(clients[0].command(&["DEL", &self.key]), Value::Integer(_)) {
                oldest.store(version + 1, Ordering::Relaxed);
                self.board.changes[self.number].fetch_add(1, Ordering::Relaxed);
            }
            self.read(&mut clients, oldest.load(Ordering::Relaxed), &mut stale);
        }
        stale
    }

    fn read(&self, clients: &mut [Client; 3], oldest: u64, stale: &mut Vec<String>) {
        for client in clients {
            (0..10).for_each(|_| client.send(&["GET", &self.key]));
            for _ in 0..10 {
                let answer = client.receive();
                let Value::Bulk(_) = answer else { continue };
                let read: u64 = answer.text().parse().expect("versions are stored");
                self.board.reads[self.number].fetch_add(1, Ordering::Relaxed);
                if read < oldest {
                    stale.push(format!("{} was {read}, and {oldest} or nothing was to be read", self.key));
                }
            }
        }
    }
}

#[test]
fn what_was_changed_through_a_node_is_not_read_there_again() {
    let mut cluster =
        Cluster::start_with("hot-key-rate = 1\nhot-key-ttl = \"1m\"\npeer-timeout = \"500ms\"\nflap-out = \"0s\"", "");
    let keys = ["one:", "two:"].map(|prefix| cluster.key_of(1, prefix));
    let board = Board::default();
    // Restarted nodes are others to the test.
    let (actors_at, mut owner) = {
        let mut nodes = std::mem::take(&mut cluster.nodes);
        let owner = nodes.remove(1);
        (nodes, owner)
    };
    let mut observers: Vec<Client> = actors_at.iter().map(Server::client).collect();
    std::thread::scope(|scope| {
        let end = board.end();
        let running = [0, 1].map(|number| {
            let actor = Actor { board: &board, number, node: &actors_at[number], key: keys[number].clone() };
            scope.spawn(move || actor.run())
        });
        for _ in 0..3 {
            let hits: Vec<u64> = observers.iter_mut().map(|observer| observer.info("x_copy_hits")).collect();
            until("copies answer", || {
                observers.iter_mut().zip(&hits).all(|(observer, hits)| observer.info("x_copy_hits") > hits + 20)
            });
            board.more("they change their keys", &board.changes, MORE);
            owner.pause();
            let refused: Vec<u64> = observers.iter_mut().map(|observer| observer.info("x_forwarded_refused")).collect();
            until("the owner is missed", || {
                observers
                    .iter_mut()
                    .zip(&refused)
                    .all(|(observer, refused)| observer.info("x_forwarded_refused") > *refused)
            });
            owner.resume();
            board.more("they change their keys again", &board.changes, MORE);
            board.more("they read them", &board.reads, MORE);
        }
        drop(end);
        for actor in running {
            let stale = actor.join().expect("the actor ends");
            assert!(stale.is_empty(), "{} reads: {:#?}", stale.len(), &stale[..stale.len().min(10)]);
        }
    });
    assert!(owner.is_running());
}
