//! What clients can do wrong, by mistake or on purpose: each limit with its exact answer, and everybody else unharmed.

use leasehold_tests::client::{NoReply, request};
use leasehold_tests::process::allow_open_files;
use leasehold_tests::watch::{rss_bytes, rss_peak_bytes, until, until_some};
use leasehold_tests::{Client, Server, Value, groups};
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MEBIBYTE: u64 = 1024 * 1024;

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

fn pong() -> Value {
    Value::Simple("PONG".to_owned())
}

/// The error that ends the connection.
fn fatal(client: &mut Client) -> String {
    let text = client.receive().error().to_owned();
    assert!(client.is_closed_by_server(), "the connection goes on after: {text}");
    text
}

/// Sends bytes over a connection of their own and returns the error that ends it.
fn fatal_of(server: &Server, bytes: &[u8]) -> String {
    let mut client = server.client();
    client.send_raw(bytes);
    fatal(&mut client)
}

fn protocol_error(text: &str) -> String {
    format!("ERR Protocol error: {text}")
}

#[test]
fn each_framing_mistake_has_its_error_and_ends_only_its_connection() {
    let server = Server::start();
    let mut other = server.client();
    // An inline command or a header line may have 64 KiB.
    let long = "1".repeat(64 * 1024 + 3);
    let cases: &[(String, &str)] = &[
        (format!("*{long}"), "too big mbulk count string"),
        (format!("*1\r\n${long}"), "too big bulk count string"),
        (format!("PING {long}"), "too big inline request"),
        (format!("PING {long}\r\n"), "too big inline request"),
        ("*1048577\r\n".to_owned(), "invalid multibulk length"),
        ("*-9223372036854775809\r\n".to_owned(), "invalid multibulk length"),
        ("* 1\r\n".to_owned(), "invalid multibulk length"),
        ("*1\r\n$536870913\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$-2\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$4x\r\nPING\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n:4\r\n".to_owned(), "expected '$', got ':'"),
        ("*1\r\n$4\r\nPINGPONG\r\n".to_owned(), "an argument is not followed by CRLF"),
        ("GET 'k\r\n".to_owned(), "unbalanced quotes in request"),
        ("GET \"k\"x\r\n".to_owned(), "unbalanced quotes in request"),
        ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET k v\r\n".to_owned(), "this is not an HTTP server"),
        ("Host: localhost\r\n\r\nSET k v\r\n".to_owned(), "this is not an HTTP server"),
        ("*1\r\n".repeat(10_000), "expected '$', got '*'"),
        (format!("*1\r\n$4\r\n{}", "*1\r\n$1\r\n".repeat(10_000)), "an argument is not followed by CRLF"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(fatal_of(&server, bytes.as_bytes()), protocol_error(expected), "{}", &bytes[..bytes.len().min(40)]);
        assert_eq!(other.command(&["PING"]), pong());
    }
    assert_eq!(other.info("x_protocol_errors"), cases.len() as u64);
    assert!(other.command(&["GET", "k"]).is_null(), "nothing behind a mistake is run");
}

#[test]
fn the_longest_that_is_allowed_is_taken() {
    let server = Server::start();
    let mut client = server.client();
    let word = "x".repeat(64 * 1024 - "ECHO ".len());
    client.send_raw(format!("ECHO {word}\r\n").as_bytes());
    assert_eq!(client.receive(), Value::bulk(&word));
    for (argv, error) in [
        (["SETRANGE", "k", "536870912", "x"], "ERR string exceeds maximum allowed size (proto-max-bulk-len)"),
        (["SETBIT", "k", "4294967296", "1"], "ERR bit offset is not an integer or out of range"),
        (["SETRANGE", "k", "-1", "x"], "ERR offset is out of range"),
    ] {
        assert_eq!(client.command(&argv).error(), error);
    }
    assert_eq!(client.command(&["EXISTS", "k"]), Value::Integer(0));
    let mut argv = vec![b"k".to_vec(); 1024 * 1024];
    argv[0] = b"EXISTS".to_vec();
    assert_eq!(client.command(&argv), Value::Integer(0));
    assert_eq!(client.command(&["PING"]), pong());
}

#[test]
fn configured_limits_hold_to_the_byte_with_the_same_errors() {
    let server = Server::options()
        .set("proto-max-bulk-len", "16kb")
        .set("proto-max-args", 16)
        .set("proto-max-inline-len", 100)
        .set("client-query-buffer-limit", "64kb")
        .start();
    let mut client = server.client();
    let argument = vec![b'x'; 16 * 1024];
    assert_eq!(client.command(&[&b"SET"[..], b"k", &argument]), ok());
    let longer = [&argument[..], b"x"].concat();
    assert_eq!(fatal_of(&server, &request(&[&b"SET"[..], b"k", &longer])), protocol_error("invalid bulk length"));
    // Nor may a value grow past it.
    let too_long = Value::Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)".to_owned());
    assert_eq!(client.command(&["APPEND", "k", "x"]), too_long);
    assert_eq!(client.command(&["SETRANGE", "k", "16384", "x"]), too_long);
    assert_eq!(client.command(&["SETBIT", "k", "131072", "1"]), too_long);
    assert_eq!(client.command(&["STRLEN", "k"]), Value::Integer(16 * 1024));
    let mut argv = vec!["EXISTS"; 16];
    assert_eq!(client.command(&argv), Value::Integer(0));
    argv.push("k");
    assert_eq!(fatal_of(&server, &request(&argv)), protocol_error("invalid multibulk length"));

    let line = format!("ECHO {}", "x".repeat(95));
    client.send_raw(format!("{line}\r\n").as_bytes());
    assert_eq!(client.receive(), Value::bulk(&line[5..]));
    assert_eq!(fatal_of(&server, format!("{line}x\r\n").as_bytes()), protocol_error("too big inline request"));

    // Four arguments of 16 kB and their framing are more than 64 kB.
    let four = [&b"EXISTS"[..], &argument, &argument, &argument, &argument];
    assert_eq!(fatal_of(&server, &request(&four)), protocol_error("request longer than client-query-buffer-limit"));
    assert_eq!(client.command(&four[..4]), Value::Integer(0));
    assert_eq!(client.info("x_protocol_errors"), 4);
}

#[test]
fn before_authentication_little_is_taken() {
    let server = Server::options().set("requirepass", "secret").start();
    let stranger = |bytes: &[u8]| fatal_of(&server, bytes);
    assert_eq!(stranger(b"*11\r\n"), protocol_error("unauthenticated multibulk length"));
    assert_eq!(stranger(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n"), protocol_error("unauthenticated bulk length"));
    assert_eq!(stranger(b"*1048577\r\n"), protocol_error("invalid multibulk length"));

    let mut client = server.client();
    let word = "x".repeat(16 * 1024);
    assert_eq!(client.command(&["ECHO", &word]).error(), "NOAUTH Authentication required.");
    assert_eq!(
        client.command(&["AUTH", &word]).error(),
        "WRONGPASS invalid username-password pair or user is disabled."
    );
    assert_eq!(client.command(&["AUTH", "secret"]), ok());
    let word = "x".repeat(17 * 1024);
    assert_eq!(client.command(&["ECHO", &word]), Value::bulk(&word));
    assert_eq!(client.command(&["EXISTS"; 12]), Value::Integer(0));

    // In one packet: the password opens the way for what stands behind it.
    let mut client = server.client();
    client.send_raw(&[request(&["AUTH", "secret"]), request(&["ECHO", &word])].concat());
    assert_eq!((client.receive(), client.receive()), (ok(), Value::bulk(&word)));
}

#[test]
fn counts_of_waiters_have_a_limit_and_an_answer() {
    let server = Server::options().set("lease-waiters-per-key-max", 2).set("lease-waiters-max", 3).start();
    let mut client = server.client();
    for key in ["a", "b"] {
        assert_eq!(client.command(&["GETL", key, "LEASE", "60000"]).elements()[0].text(), "LEASE");
    }
    let park = |key: &str| {
        let mut client = server.client();
        client.send(&["GETL", key, "WAIT", "60000"]);
        client
    };
    let mut waiters = vec![park("a"), park("a")];
    until("two wait", || client.info("lease_waiters") == 2);
    let status = |reply: Value| reply.elements()[0].text();
    assert_eq!(status(park("a").receive()), "WAIT", "a third waits on no key");
    waiters.push(park("b"));
    until("three wait", || client.info("lease_waiters") == 3);
    assert_eq!(status(park("b").receive()), "WAIT", "a fourth waits nowhere");
    drop(waiters);
    until("those who hung up wait no more", || client.info("lease_waiters") == 0);
    let waiter = park("b");
    until("there is room again", || client.info("lease_waiters") == 1);
    drop(waiter);
}

#[test]
fn who_waits_may_send_on_while_all_others_send_too() {
    let server = Server::options().set("threads", 1).start();
    let mut busy = server.client();
    let mut others: Vec<Client> = (0..8).map(|_| server.client()).collect();
    let mut waiters: Vec<Client> = (0..8).map(|_| server.client()).collect();
    assert_eq!(busy.command(&["GETL", "k", "LEASE", "60000"]).elements()[0].text(), "LEASE");
    for waiter in &mut waiters {
        waiter.send(&["GETL", "k", "WAIT", "60000"]);
    }
    until("all wait", || busy.info("lease_waiters") == 8);
    let slow = request(&[&["EXISTS"][..], &["k"; 300_000]].concat());
    let payload = "x".repeat(1_000);
    let pings = request(&["PING", &payload]).repeat(60);
    for _ in 0..3 {
        // While the server is at this one, all the others send, so that it hears them all at once afterwards.
        busy.send_raw(&slow);
        std::thread::sleep(Duration::from_millis(20));
        for (other, waiter) in others.iter_mut().zip(&mut waiters) {
            other.send_raw(&pings);
            waiter.send(&["PING"]);
        }
        assert_eq!(busy.receive(), Value::Integer(0));
        for other in &mut others {
            (0..60).for_each(|_| assert_eq!(other.receive(), Value::bulk(&payload)));
        }
    }
    drop(others);
    assert_eq!((busy.info("x_panics"), busy.info("lease_waiters")), (0, 8));
}

#[test]
fn what_is_announced_and_never_sent_costs_nothing() {
    const CLIENTS: usize = 200;
    let server = Server::start();
    let mut watcher = server.client();
    watcher.command(&["PING"]);
    let before = rss_bytes(server.pid());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send_raw(match index % 4 {
            0 => b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nonly this",
            1 => b"*1048576\r\n$536870912\r\n",
            2 => b"*1048576\r\n$3\r\nDEL\r\n$1\r\nk\r\n",
            _ => b"*1\r\n$536870912\r\n",
        });
    }
    let received = 200 * 20;
    until("the server has read it", || watcher.info("total_net_input_bytes") > received);
    assert_eq!(watcher.info("connected_clients"), CLIENTS as u64 + 1);
    let grown = rss_bytes(server.pid()).saturating_sub(before);
    groups::say(&format!("bad input: {CLIENTS} clients announced 512 MB each: rss grew by {grown} bytes"));
    assert!(grown < 4 * MEBIBYTE, "{grown} bytes");
    assert_eq!(watcher.command(&["PING"]), pong());
    drop(clients);
    until("they are forgotten", || watcher.info("connected_clients") == 1);
}

#[test]
fn half_a_command_and_a_hang_up_leave_nothing_behind() {
    let server = Server::start();
    let mut watcher = server.client();
    let whole = request(&["SET", "half", "value"]);
    for round in 0..5 {
        for len in 1..whole.len() {
            let mut client = server.client();
            client.send_raw(&whole[..len]);
            match (len + round) % 3 {
                0 => drop(client),
                1 => client.close(),
                _ => {
                    client.stream().shutdown(Shutdown::Write).expect("it is open");
                    assert_eq!(client.receive_within(Duration::from_secs(20)), Err(NoReply::Closed));
                }
            }
        }
    }
    until("all are gone", || watcher.info("connected_clients") == 1);
    assert!(watcher.command(&["GET", "half"]).is_null());
    assert_eq!(watcher.info("x_protocol_errors"), 0);

    // Whole commands before the half are answered, although the client will send no more.
    let mut client = server.client();
    client.send_raw(&[request(&["ECHO", "hi"]), b"*2\r\n$3\r\nGE".to_vec()].concat());
    client.stream().shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(client.receive(), Value::bulk("hi"));
    assert!(client.is_closed_by_server());
}

#[test]
fn garbage_never_stops_the_server() {
    let seed = std::env::var("LEASEHOLD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    groups::say(&format!("bad input: LEASEHOLD_SEED={seed}"));
    let mut state = seed;
    let mut random = move |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    const PIECES: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"*",
        b"$",
        b"*3\r\n",
        b"$3\r\n",
        b"GET ",
        b"SET",
        b"k",
        b"\0",
        b"\xff\xfe",
        b"\"",
        b"'",
        b"\\x",
        b"-1",
        b"*-1\r\n",
        b"$-1\r\n",
        b"*0\r\n",
        b"~1\r\n",
        b"%1\r\n",
        b">1\r\n",
        b"_\r\n",
        b"HELLO 3\r\n",
        b"MGET a b c\r\n",
        b"CLIENT REPLY SKIP\r\n",
        b"GETL k WAIT 5\r\n",
        b"SELECT 1\r\n",
        b"RESET\r\n",
        b"99999999999999999999\r\n",
    ];
    let mut server = Server::start();
    for _ in 0..500 {
        let bytes: Vec<u8> =
            (0..1 + random(40)).flat_map(|_| PIECES[random(PIECES.len() as u64) as usize]).copied().collect();
        let client = server.client();
        let mut stream = client.stream();
        // The server may have closed already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut watcher = server.client();
    until("all are gone", || watcher.info("connected_clients") == 1);
    assert_eq!(watcher.info("x_panics"), 0);
    assert!(watcher.info("x_protocol_errors") > 100, "this was hardly garbage");
    assert!(server.is_running());
}

/// Sends as long as the server takes anything, and reads nothing. Whether the server closed the connection before `stop`.
fn send_and_never_read(stream: &TcpStream, bytes: &[u8], stop: impl Fn() -> bool) -> bool {
    stream.set_write_timeout(Some(Duration::from_millis(20))).expect("the time is not zero");
    let mut stream = stream;
    let mut sent = 0;
    while !stop() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent = (sent + count) % bytes.len(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
    false
}

/// The slowest answer to a PING until `stop`, and how many there were.
fn ping_until(client: &mut Client, stop: &AtomicBool) -> (Duration, u64) {
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) || count == 0 {
        let sent = Instant::now();
        assert_eq!(client.command(&["PING"]), pong());
        slowest = slowest.max(sent.elapsed());
        count += 1;
    }
    (slowest, count)
}

/// Much shorter than what a hung server shows, much longer than a busy machine's hiccup.
const PROMPT: Duration = Duration::from_secs(10);

#[test]
fn a_client_that_never_reads_is_closed_and_the_others_do_not_feel_it() {
    const LIMIT: u64 = 8 * MEBIBYTE;
    // One thread: whoever is served shares it with the one that never reads.
    let server = Server::options().set("threads", 1).set("client-output-buffer-limit", LIMIT).start();
    let mut client = server.client();
    assert_eq!(client.command(&[&b"SET"[..], b"big", &vec![b'x'; 256 * 1024]]), ok());
    let before = rss_bytes(server.pid());
    let requests = request(&["GET", "big"]).repeat(500);
    const GREEDY: usize = 12;
    let stop = AtomicBool::new(false);
    let (slowest, pings) = std::thread::scope(|scope| {
        let mut pinger = server.client();
        let stop = &stop;
        let pings = scope.spawn(move || ping_until(&mut pinger, stop));
        for _ in 0..GREEDY {
            let greedy = server.client();
            let deadline = Instant::now() + Duration::from_secs(60);
            let is_closed = send_and_never_read(greedy.stream(), &requests, || Instant::now() > deadline);
            if !is_closed {
                stop.store(true, Ordering::Relaxed);
                panic!("it was never closed");
            }
        }
        stop.store(true, Ordering::Relaxed);
        pings.join().expect("the other client was served")
    });
    assert_eq!(client.info("client_output_buffer_limit_disconnections"), GREEDY as u64);
    until("they are gone", || client.info("connected_clients") == 1);
    assert!(server.logs().contains("unsent replies over client-output-buffer-limit"), "{}", server.logs());
    let grown = rss_bytes(server.pid()).saturating_sub(before);
    groups::say(&format!(
        "bad input: {GREEDY} clients closed for unread replies; {pings} PINGs of another, the slowest took {slowest:?}; rss grew by {grown}"
    ));
    assert!(slowest < PROMPT, "{slowest:?}");
    assert!(grown < 8 * LIMIT, "{grown} bytes");
    assert_eq!(client.command(&["PING"]), pong());
}

#[test]
fn values_that_are_too_long_together_are_an_error_and_take_no_memory() {
    const LIMIT: u64 = 8 * MEBIBYTE;
    let server = Server::options().set("threads", 1).set("client-output-buffer-limit", LIMIT).start();
    let mut client = server.client();
    let body = vec![b'x'; 256 * 1024];
    assert_eq!(client.command(&[&b"SET"[..], b"big", &body]), ok());
    let mget = |count: usize| [&["MGET"][..], &vec!["big"; count]].concat();
    assert_eq!(client.command(&mget(20)), Value::Array(vec![Value::bulk(&body); 20]));
    let before = rss_peak_bytes(server.pid());
    // 25 GB are asked for.
    let reply = client.command(&mget(100_000));
    assert_eq!(reply.error(), "ERR reply exceeds maximum allowed size (client-output-buffer-limit)");
    let grown = rss_peak_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 4 * LIMIT, "{grown} bytes");
    assert_eq!(client.command(&["GET", "big"]), Value::bulk(&body), "the connection goes on");
    assert_eq!(client.info("client_output_buffer_limit_disconnections"), 0);
    assert_eq!(client.command(&["CONFIG", "SET", "client-output-buffer-limit", "0"]), ok());
    until("there is no limit", || matches!(client.command(&mget(40)), Value::Array(values) if values.len() == 40));
}

#[test]
fn a_client_that_stays_over_the_soft_limit_is_closed() {
    let server = Server::options()
        .set("client-output-buffer-soft-limit", "1mb")
        .set("client-output-buffer-soft-time", 1)
        .start();
    let mut client = server.client();
    assert_eq!(client.command(&[&b"SET"[..], b"big", &vec![b'x'; MEBIBYTE as usize]]), ok());
    let mut greedy = server.client();
    greedy.send_raw(&request(&["GET", "big"]).repeat(16));
    until("it is over the limit for a second", || client.info("client_output_buffer_limit_disconnections") == 1);
    until("it is gone", || client.info("connected_clients") == 1);
}

#[test]
fn under_the_default_limits_a_slow_reader_waits_and_loses_nothing() {
    let server = Server::options().set("threads", 1).start();
    let mut client = server.client();
    let body = vec![b'x'; 256 * 1024];
    assert_eq!(client.command(&[&b"SET"[..], b"big", &body]), ok());
    let before = rss_bytes(server.pid());
    let mut slow = server.client();
    const REQUESTS: usize = 1_000;
    slow.send_raw(&request(&["GET", "big"]).repeat(REQUESTS));
    slow.send(&["ECHO", "the end"]);
    let (mut last, mut looks) = (0, 0);
    // 256 MB are asked for; the server stops working for this client long before.
    let sent = until_some("the server has begun to answer, and stopped", || {
        let text = client.command(&["INFO", "commandstats"]).text();
        let calls =
            text.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls=")?.split(',').next()?.parse().ok());
        let sent: u64 = calls.unwrap_or(0);
        looks = if sent == last { looks + 1 } else { 0 };
        last = sent;
        (sent > 100 && looks == 50).then_some(sent)
    });
    let grown = rss_bytes(server.pid()).saturating_sub(before);
    assert!(sent < REQUESTS as u64, "all was answered into memory");
    assert!(grown < 128 * MEBIBYTE, "{grown}");
    for _ in 0..REQUESTS {
        assert_eq!(slow.receive(), Value::bulk(&body));
    }
    assert_eq!(slow.receive(), Value::bulk("the end"));
    groups::say(&format!(
        "bad input: a slow reader of {REQUESTS} values of 256 KiB cost {grown} bytes after {sent} of them, and lost nothing"
    ));
}

#[test]
fn ten_thousand_idle_connections_are_held_and_cost_little() {
    const IDLE: usize = 10_000;
    if let Err(why) = allow_open_files(IDLE as u64 + 500) {
        return groups::leave_out("ten thousand idle connections", &why);
    }
    let server = Server::options().set("maxclients", IDLE + 100).start();
    let mut client = server.client();
    assert_eq!(client.command(&["SET", "k", "v"]), ok());
    let before = rss_bytes(server.pid());
    let mut idle: Vec<Client> = Vec::with_capacity(IDLE);
    for _ in 0..IDLE / 100 {
        let mut some: Vec<Client> = (0..100).map(|_| server.client()).collect();
        some.iter_mut().for_each(|client| client.send(&["GET", "k"]));
        some.iter_mut().for_each(|client| assert_eq!(client.receive(), Value::bulk("v")));
        idle.append(&mut some);
    }
    assert_eq!(client.info("connected_clients"), IDLE as u64 + 1);
    let each = rss_bytes(server.pid()).saturating_sub(before) / IDLE as u64;
    groups::say(&format!("bad input: {IDLE} idle connections, {each} bytes of rss each"));
    assert!(each < 8 * 1024, "{each} bytes each: an idle connection owns no buffers");
    let asked = Instant::now();
    assert_eq!(client.command(&["PING"]), pong());
    assert!(asked.elapsed() < PROMPT);
    for client in idle.iter_mut().step_by(97) {
        assert_eq!(client.command(&["GET", "k"]), Value::bulk("v"));
    }
    drop(idle);
    until("they are gone", || client.info("connected_clients") == 1);
}

#[test]
fn one_client_too_many_is_told_and_closed() {
    let server = Server::options().set("maxclients", 5).start();
    let mut clients: Vec<Client> = (0..5).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.command(&["PING"]), pong()));
    let mut extra = server.client();
    assert_eq!(fatal(&mut extra), "ERR max number of clients reached");
    assert_eq!(clients[0].info("rejected_connections"), 1);
    drop(clients.pop());
    until("there is room again", || clients[0].info("connected_clients") == 4);
    let mut next = server.client();
    assert_eq!(next.command(&["PING"]), pong());
    assert_eq!(clients[0].command(&["CONFIG", "SET", "maxclients", "6"]), ok());
    let mut sixth = server.client();
    assert_eq!(sixth.command(&["PING"]), pong());
}

#[test]
fn a_configured_timeout_closes_idle_clients_only() {
    // A busy machine may keep the busy one from asking for a second.
    let server = Server::options().set("timeout", 3).start();
    let mut busy = server.client();
    let mut idle: Vec<Client> = (0..10).map(|_| server.client()).collect();
    // One that connected and never said anything, and nine that did.
    idle[1..].iter_mut().for_each(|client| assert_eq!(client.command(&["PING"]), pong()));
    until("the idle are closed", || busy.info("x_idle_disconnections") == 10);
    assert!(idle.iter_mut().all(Client::is_closed_by_server));
    assert_eq!(busy.info("connected_clients"), 1);
}

#[test]
fn sigterm_answers_whoever_waits_and_ends_with_0() {
    let mut server = Server::options().set("shutdown-timeout", 60).start();
    let mut client = server.client();
    assert_eq!(client.command(&["GETL", "k", "LEASE", "60000"]).elements()[0].text(), "LEASE");
    let mut waiter = server.client();
    waiter.send(&["GETL", "k", "WAIT", "3000"]);
    until("it waits", || client.info("lease_waiters") == 1);
    let begun = Instant::now();
    let status = server.terminate();
    assert!(status.is_some_and(|status| status.code() == Some(0)), "{status:?}\n{}", server.logs());
    assert_eq!(waiter.receive().elements()[0].text(), "WAIT", "its time was up during the drain");
    assert!(waiter.is_closed_by_server() && client.is_closed_by_server());
    assert!(begun.elapsed() < Duration::from_secs(50), "nobody is left, nothing to wait for: {:?}", begun.elapsed());
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err(), "nobody is let in any more");
}

#[test]
fn sigterm_does_not_wait_for_ever() {
    let mut server = Server::options().set("shutdown-timeout", 1).start();
    let mut client = server.client();
    assert_eq!(client.command(&["GETL", "k", "LEASE", "60000"]).elements()[0].text(), "LEASE");
    let mut waiter = server.client();
    waiter.send(&["GETL", "k", "WAIT", "60000"]);
    until("it waits", || client.info("lease_waiters") == 1);
    let status = server.terminate();
    assert!(status.is_some_and(|status| status.code() == Some(0)), "{status:?}\n{}", server.logs());
    assert!(waiter.is_closed_by_server());
}
