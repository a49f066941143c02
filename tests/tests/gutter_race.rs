//! No value is read through a node that is older than a delete which that node has answered, whatever becomes of the owner meanwhile.

use leasehold_tests::reply::Value;
use leasehold_tests::watch::until;
use leasehold_tests::{Board, Client, Cluster, SqliteFile};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Keys of each client: others' deletes say nothing of what it may read.
const KEYS: usize = 3;

/// How often the owner is killed, and stopped.
const TROUBLES: usize = 3;

/// Changes rows, deletes their keys, and reads them, always through one node.
struct Actor<'a> {
    board: &'a Board,
    /// Which of the two it is.
    number: usize,
    client: Client,
    database: PathBuf,
    /// Ids of the rows.
    ids: Vec<usize>,
}

/// What came of it.
#[derive(Debug, Default)]
struct Seen {
    reads: usize,
    /// Reads that nobody answered.
    refused: usize,
    /// Values that were older than a delete, and what they were.
    stale: Vec<String>,
}

impl Actor<'_> {
    fn run(mut self) -> Seen {
        let (mut database, mut seen) = (SqliteFile::open(&self.database), Seen::default());
        // By row: the version that was there when its key was last deleted.
        let mut deleted = vec![0; self.ids.len()];
        let mut version = 0_u64;
        while !self.board.has_ended() {
            version += 1;
            for (id, deleted) in self.ids.iter().zip(&mut deleted) {
                database.run(&format!("UPDATE users SET name = '{version}' WHERE id = {id}"));
                let key = format!("user:{id}");
                if !matches!(self.client.command(&["DEL", &key]), Value::Error(_)) {
                    *deleted = version;
                    self.board.changes[self.number].fetch_add(1, Ordering::Relaxed);
                }
                for _ in 0..3 {
                    let answer = self.client.command(&["GET", &key]);
                    let Value::Bulk(_) = answer else {
                        seen.refused += 1;
                        continue;
                    };
                    seen.reads += 1;
                    self.board.reads[self.number].fetch_add(1, Ordering::Relaxed);
                    let text = answer.text();
                    let read = text.split("\"name\":\"").nth(1).and_then(|rest| rest.split('"').next());
                    // Rows that were not changed yet have names that are no versions.
                    let read = read.and_then(|name| name.parse().ok()).unwrap_or(0);
                    if read < *deleted {
                        seen.stale.push(format!("{key} was {text} after the delete of version {deleted}"));
                    }
                }
            }
        }
        seen
    }
}

#[test]
fn what_was_deleted_through_a_node_is_not_read_there_again() {
    // Were it not for their age, entries at the gutter would live for the whole test.
    let conf = "gutter-ttl = \"1h\"\npeer-timeout = \"500ms\"\nflap-out = \"0s\"";
    let mut cluster = Cluster::start_with_gutter(conf, "");
    for node in &cluster.nodes {
        let mut client = node.client();
        until("a majority vouches", || {
            client.command(&["CLUSTER", "INFO"]).text().contains("x_cluster_majority:1\r\n")
        });
    }
    let ids: Vec<usize> = (1..=1000).filter(|id| cluster.owner(&format!("user:{id}")) == 1).take(2 * KEYS).collect();
    let board = Board::default();
    let actor = |number: usize, place: usize, ids: &[usize]| Actor {
        board: &board,
        number,
        client: cluster.nodes[place].client(),
        database: cluster.database(),
        ids: ids.to_vec(),
    };
    let actors = [actor(0, 0, &ids[..KEYS]), actor(1, 2, &ids[KEYS..])];
    let mut observer = cluster.nodes[0].client();
    let mut is = |state: &str| {
        let info = observer.command(&["INFO", "cluster"]).text();
        info.lines().any(|line| line.starts_with(&format!("x_peer_b:state={state},")))
    };
    std::thread::scope(|scope| {
        let end = board.end();
        let running = actors.map(|actor| scope.spawn(move || actor.run()));
        for _ in 0..TROUBLES {
            board.more("they delete while all is well", &board.changes, 1);
            cluster.nodes[1].kill();
            until("it is out", || is("out"));
            board.more("they read of a dead node", &board.reads, 1);
            cluster.restart(1);
            until("it has returned", || is("well"));
            board.more("they delete at the node that is back", &board.changes, 1);
            cluster.nodes[1].pause();
            until("it is out again", || is("out"));
            board.more("they read of a node that stands still", &board.reads, 1);
            cluster.nodes[1].resume();
            until("it has returned again", || is("well"));
        }
        board.more("they delete at the end", &board.changes, 1);
        drop(end);
        for actor in running {
            let seen = actor.join().expect("the actor ends");
            assert!(seen.stale.is_empty(), "{} of {}: {:#?}", seen.stale.len(), seen.reads, seen);
        }
    });
    assert!(cluster.nodes[3].client().info("x_stood_in") > 0);
}
