//! A thousand clients miss at once. What the database sees is counted by the database itself: each query of a loader moves
//! a sequence and then takes its time, so that everybody comes while it is under way.

use leasehold_tests::client::request;
use leasehold_tests::process::allow_open_files;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Server, Value, groups};
use std::sync::Arc;

const GROUP: &str = "herd";
const CLIENTS: usize = 1_000;
/// Clients on our side, and what a test process has open besides.
const OPEN_FILES: u64 = CLIENTS as u64 + 200;

const SCHEMA: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text);
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 10000) n;
    CREATE SEQUENCE queries MINVALUE 0;
    CREATE FUNCTION counted(seconds float8) RETURNS boolean LANGUAGE plpgsql VOLATILE AS
        'BEGIN PERFORM nextval(''queries''); PERFORM pg_sleep(seconds); RETURN true; END';";

/// Every wait is long: a busy machine must not turn into a second query.
fn conf(url: &str, seconds: &str) -> String {
    format!(
        r#"
        [sources.main]
        url = "{url}"
        statement_timeout = "20s"
        acquire_timeout = "20s"

        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = """WITH q AS MATERIALIZED (SELECT counted({seconds}) AS done)
            SELECT id, name FROM q, users WHERE done AND id = $1"""
        batch_sql = """WITH q AS MATERIALIZED (SELECT counted({seconds}) AS done)
            SELECT id, name FROM q, users WHERE done AND id = ANY($1)"""
        hard_timeout = "20s"
        queue = 10000
        "#
    )
}

struct Herd {
    server: Server,
    database: Database,
    clients: Vec<Client>,
    _postgres: Arc<Postgres>,
}

impl Herd {
    /// A server in front of a database whose queries take `seconds`, and all clients connected.
    fn new(seconds: &str) -> Option<Self> {
        if let Err(why) = allow_open_files(OPEN_FILES) {
            groups::leave_out(GROUP, &why);
            return None;
        }
        let postgres = Postgres::shared(GROUP)?;
        let url = postgres.new_database();
        let mut database = Database::connect(&url);
        database.run(SCHEMA);
        let server = Server::options().conf(conf(&url, seconds)).start();
        let clients = connect(&server);
        Some(Self { server, database, clients, _postgres: postgres })
    }

    /// How often a loader asked the database.
    fn queries(&mut self) -> i64 {
        self.database.number("SELECT CASE WHEN is_called THEN last_value + 1 ELSE 0 END FROM queries")
    }
}

/// All clients, each already served: what follows comes at once.
fn connect(server: &Server) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.send(&["PING"]));
    clients.iter_mut().for_each(|client| assert_eq!(client.receive(), Value::Simple("PONG".to_owned())));
    clients
}

fn user(id: usize) -> Value {
    Value::bulk(format!(r#"{{"id":{id},"name":"user {id}"}}"#))
}

#[test]
fn a_thousand_readers_of_one_key_cost_one_query() {
    let Some(mut herd) = Herd::new("1") else { return };
    herd.clients.iter_mut().for_each(|client| client.send(&["GET", "user:7"]));
    for client in &mut herd.clients {
        assert_eq!(client.receive(), user(7));
    }
    assert_eq!(herd.queries(), 1);
    let mut client = herd.server.client();
    assert_eq!((client.info("lease_waiters"), client.info("blocked_clients")), (0, 0));
}

#[test]
fn a_thousand_readers_of_a_thousand_keys_share_queries() {
    let Some(mut herd) = Herd::new("0.1") else { return };
    for (id, client) in (1..).zip(&mut herd.clients) {
        client.send(&["GET", &format!("user:{id}")]);
    }
    for (id, client) in (1..).zip(&mut herd.clients) {
        assert_eq!(client.receive(), user(id));
    }
    let queries = herd.queries();
    groups::say(&format!("herd: {CLIENTS} keys missed at once: {queries} queries"));
    // While the first 32 queries (max_concurrency) are under way, which is longer than the clients take to ask, all others
    // gather in the queue and need two (batch_max = 500). A queue that did not gather would need hundreds.
    assert!(queries <= CLIENTS as i64 / 10, "{queries} queries");
}

#[test]
fn ten_thousand_cold_keys_at_once_share_queries() {
    const PIPELINE: usize = 10;
    /// What the loader has by default.
    const BATCH_MAX: usize = 500;
    let Some(mut herd) = Herd::new("0.5") else { return };
    let ids = |client: usize| client * PIPELINE + 1..=(client + 1) * PIPELINE;
    for (number, client) in herd.clients.iter_mut().enumerate() {
        let gets: Vec<u8> = ids(number).flat_map(|id| request(&["GET".to_owned(), format!("user:{id}")])).collect();
        client.send_raw(&gets);
    }
    for (number, client) in herd.clients.iter_mut().enumerate() {
        for id in ids(number) {
            assert_eq!(client.receive(), user(id));
        }
    }
    let queries = herd.queries();
    let (batches, keys) = {
        let mut client = herd.server.client();
        (client.loader_counter("user", "batches"), client.loader_counter("user", "keys"))
    };
    let all = CLIENTS * PIPELINE;
    groups::say(&format!("herd: {all} keys missed at once: {queries} queries"));
    assert_eq!((queries, keys), (batches, all as i64), "the database and the loader count the same");
    assert!(queries <= (all / (BATCH_MAX / 4)) as i64, "{queries} queries");
}

#[test]
fn a_cold_mget_of_five_hundred_keys_is_one_query() {
    let Some(mut herd) = Herd::new("0") else { return };
    let mut argv = vec!["MGET".to_owned()];
    argv.extend((1..=500).map(|id| format!("user:{id}")));
    assert_eq!(herd.clients[0].command(&argv), Value::Array((1..=500).map(user).collect()));
    assert_eq!(herd.queries(), 1);
    assert_eq!(herd.server.client().loader_counter("user", "batches"), 1);
}

#[test]
fn an_mget_of_fifty_cold_keys_is_one_query() {
    let Some(mut herd) = Herd::new("0") else { return };
    const ROUNDS: usize = 20;
    for round in 0..ROUNDS {
        let ids = round * 50 + 1..=round * 50 + 50;
        let mut argv = vec!["MGET".to_owned()];
        argv.extend(ids.clone().map(|id| format!("user:{id}")));
        assert_eq!(herd.clients[round].command(&argv), Value::Array(ids.map(user).collect()));
        assert_eq!(herd.queries(), round as i64 + 1, "after {} MGETs", round + 1);
    }
}

#[test]
fn a_thousand_mgets_of_the_same_keys_are_one_query() {
    let Some(mut herd) = Herd::new("1") else { return };
    let mut argv = vec!["MGET".to_owned()];
    argv.extend((1..=10).map(|id| format!("user:{id}")));
    herd.clients.iter_mut().for_each(|client| client.send(&argv));
    for client in &mut herd.clients {
        assert_eq!(client.receive(), Value::Array((1..=10).map(user).collect()));
    }
    assert_eq!(herd.queries(), 1);
}

#[test]
fn a_thousand_waiters_get_the_value_of_one_lease() {
    if let Err(why) = allow_open_files(OPEN_FILES) {
        return groups::leave_out(GROUP, &why);
    }
    let server = Server::start();
    let mut clients = connect(&server);
    for client in &mut clients {
        client.send(&["GETL", "k", "WAIT", "60000", "LEASE", "60000"]);
    }
    let mut watcher = server.client();
    until("all but the holder wait", || watcher.info("lease_waiters") == CLIENTS as u64 - 1);
    let mut replies: Vec<(usize, Value)> = Vec::new();
    for (index, client) in clients.iter_mut().enumerate() {
        if let Ok(reply) = client.receive_within(std::time::Duration::ZERO) {
            replies.push((index, reply));
        }
    }
    let [(holder, reply)] = &replies[..] else { panic!("one lease, no other answer: {replies:?}") };
    let [status, stale, token, ..] = reply.elements() else { panic!("{reply}") };
    assert_eq!((status.text().as_str(), stale.is_null()), ("LEASE", true), "{reply}");
    let token = token.text();
    assert_eq!(clients[*holder].command(&["SETL", "k", &token, "loaded"]).text(), "STORED");
    for (index, client) in clients.iter_mut().enumerate() {
        if index != *holder {
            let reply = client.receive();
            let [status, value, ..] = reply.elements() else { panic!("{reply}") };
            assert_eq!((status.text().as_str(), value), ("HIT", &Value::bulk("loaded")), "client {index}: {reply}");
        }
    }
    assert_eq!((watcher.info("leases_issued"), watcher.info("fills_stored")), (1, 1));
    assert_eq!((watcher.info("lease_waiters"), watcher.info("blocked_clients")), (0, 0));
}
