//! Leases across the fronts: taken by one protocol, filled, revoked or waited for by another.

use leasehold_tests::watch::until;
use leasehold_tests::{Client, Memcached, Server, Value};

fn server() -> (Server, Client, Memcached) {
    let server = Server::options().memcached().start();
    let (redis, memcached) = (server.client(), server.memcached());
    (server, redis, memcached)
}

/// GETL's status, value and token.
fn getl(redis: &mut Client, key: &str) -> (String, Value, String) {
    let reply = redis.command(&["GETL", key]);
    let [status, value, token, ..] = reply.elements() else { panic!("{reply}") };
    (status.text(), value.clone(), token.text())
}

/// A flag of a meta reply, without its letter.
fn flag(reply: &str, letter: char) -> Option<&str> {
    let line = reply.lines().next()?;
    line.split(' ').find_map(|word| word.strip_prefix(letter))
}

/// Takes a lease by `mg`: its token.
fn vivify(memcached: &mut Memcached, key: &str) -> String {
    let reply = memcached.ask(format!("mg {key} N30 v c\r\n"));
    assert!(reply.starts_with("VA 0 ") && flag(&reply, 'W') == Some(""), "{reply}");
    flag(&reply, 'c').unwrap_or_else(|| panic!("no token: {reply}")).to_owned()
}

#[test]
fn a_lease_of_redis_is_filled_by_memcached() {
    let (server, mut redis, mut memcached) = server();
    let (status, _, token) = getl(&mut redis, "k");
    assert_eq!(status, "LEASE");
    let loser = memcached.ask("mg k N30 v\r\n");
    assert!(loser.starts_with("VA 0 ") && flag(&loser, 'Z').is_some() && flag(&loser, 'W').is_none(), "{loser}");
    assert_eq!(memcached.ask("mg k v\r\nget k\r\n"), "EN\r\nEND\r\n", "who asks for no lease sees none");
    let mut waiter = server.client();
    waiter.send(&["GETL", "k", "WAIT", "60000"]);
    until("it waits", || redis.info("lease_waiters") == 1);
    assert_eq!(memcached.ask(format!("ms k 6 C{token} F5\r\nfilled\r\n")), "HD\r\n");
    assert_eq!(waiter.receive().elements()[1], Value::bulk("filled"));
    assert_eq!(memcached.ask("get k\r\n"), "VALUE k 5 6\r\nfilled\r\nEND\r\n");
    assert_eq!((redis.info("leases_issued"), redis.info("fills_stored")), (1, 1));
}

#[test]
fn a_lease_of_memcached_is_filled_by_redis() {
    let (_server, mut redis, mut memcached) = server();
    let token = vivify(&mut memcached, "k");
    assert_eq!(getl(&mut redis, "k").0, "WAIT");
    assert_eq!(redis.command(&["SETL", "k", &token, "filled"]).text(), "STORED");
    assert_eq!(memcached.ask("mg k N30 v\r\n"), "VA 6\r\nfilled\r\n");
    assert_eq!(redis.command(&["SETL", "k", &token, "late"]).text(), "LOST superseded");
    assert_eq!((redis.info("leases_issued"), redis.info("fills_stored")), (1, 1));
}

#[test]
fn whoever_changes_the_key_revokes_the_lease_of_the_other() {
    let (_server, mut redis, mut memcached) = server();
    for (index, change) in ["md k", "delete k", "set k 0 0 1\r\nv", "flush_all", "ms k 1\r\nv"].iter().enumerate() {
        redis.command(&["DEL", "k"]);
        let (status, _, token) = getl(&mut redis, "k");
        assert_eq!(status, "LEASE", "{index}");
        memcached.ask(format!("{change}\r\n"));
        let outcome = redis.command(&["SETL", "k", &token, "old"]).text();
        assert!(outcome.starts_with("LOST "), "{change}: {outcome}");
        assert_ne!(redis.command(&["GET", "k"]), Value::bulk("old"), "{change}");
    }
    for change in
        [&["DEL", "k"][..], &["SET", "k", "v"], &["FLUSHALL"], &["INVAL", "k", "HARD"], &["RENAME", "other", "k"]]
    {
        redis.command(&["DEL", "k"]);
        redis.command(&["SET", "other", "v"]);
        let token = vivify(&mut memcached, "k");
        redis.command(change);
        let outcome = memcached.ask(format!("ms k 3 C{token}\r\nold\r\n"));
        assert!(outcome == "EX\r\n" || outcome == "NF\r\n", "{change:?}: {outcome}");
        assert_ne!(redis.command(&["GET", "k"]), Value::bulk("old"), "{change:?}");
    }
}

#[test]
fn what_one_makes_stale_the_other_is_told() {
    let (_server, mut redis, mut memcached) = server();
    redis.command(&["SET", "k", "value"]);
    assert_eq!(memcached.ask("md k I T60\r\n"), "HD\r\n");
    assert!(redis.command(&["GET", "k"]).is_null(), "plain reads see fresh values only");
    let (status, stale, token) = getl(&mut redis, "k");
    assert_eq!((status.as_str(), &stale), ("LEASE", &Value::bulk("value")));
    let loser = memcached.ask("mg k v\r\n");
    assert!(flag(&loser, 'X').is_some() && flag(&loser, 'Z').is_some() && loser.ends_with("\r\nvalue\r\n"), "{loser}");
    assert_eq!(redis.command(&["SETL", "k", &token, "new"]).text(), "STORED");
    assert_eq!(memcached.ask("mg k v\r\n"), "VA 3\r\nnew\r\n");

    redis.command(&["INVAL", "k", "STALE", "60000"]);
    let winner = memcached.ask("mg k v c\r\n");
    assert!(
        flag(&winner, 'W').is_some() && flag(&winner, 'X').is_some() && winner.ends_with("\r\nnew\r\n"),
        "{winner}"
    );
    let token = flag(&winner, 'c').expect("asked for").to_owned();
    assert_eq!(getl(&mut redis, "k").0, "WAIT");
    assert_eq!(memcached.ask(format!("ms k 5 C{token}\r\nnewer\r\n")), "HD\r\n");
    assert_eq!(redis.command(&["GET", "k"]), Value::bulk("newer"));
}

#[test]
fn leases_of_mcrouter_are_the_same_leases() {
    let (_server, mut redis, mut memcached) = server();
    let lease = |memcached: &mut Memcached| {
        let reply = memcached.ask("lease-get k\r\n");
        let words: Vec<String> = reply.lines().next().unwrap_or_default().split(' ').map(str::to_owned).collect();
        assert_eq!((words[0].as_str(), words[1].as_str()), ("LVALUE", "k"), "{reply}");
        words[2].clone()
    };
    let token = lease(&mut memcached);
    assert!(token.parse::<u64>().is_ok_and(|token| token > 1), "{token}");
    assert_eq!(lease(&mut memcached), "1", "a hot miss");
    assert_eq!(getl(&mut redis, "k").0, "WAIT");
    assert_eq!(memcached.ask(format!("lease-set k {token} 7 0 5\r\nvalue\r\n")), "STORED\r\n");
    assert_eq!(memcached.ask("lease-get k\r\n"), "VALUE k 7 5\r\nvalue\r\nEND\r\n");
    assert_eq!(redis.command(&["GET", "k"]), Value::bulk("value"));
    redis.command(&["DEL", "k"]);
    let (_, _, token) = getl(&mut redis, "k");
    redis.command(&["DEL", "k"]);
    assert_eq!(memcached.ask(format!("lease-set k {token} 0 0 3\r\nold\r\n")), "NOT_STORED\r\n");
    assert!(redis.command(&["GET", "k"]).is_null());
    let token = vivify(&mut memcached, "m");
    assert_eq!(
        memcached.ask(format!("lease-set m {token} 0 0 3\r\nnew\r\nget m\r\n")),
        "STORED\r\nVALUE m 0 3\r\nnew\r\nEND\r\n"
    );
}
