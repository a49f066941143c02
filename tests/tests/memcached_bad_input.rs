//! What memcached's clients can do wrong, by mistake or on purpose: each limit with its answer, and everybody else unharmed.

use leasehold_tests::process::allow_open_files;
use leasehold_tests::random::Random;
use leasehold_tests::watch::{rss_bytes, rss_peak_bytes, until, until_some};
use leasehold_tests::{Client, Memcached, MemcachedServer, Server, Value, groups};
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

const MEBIBYTE: u64 = 1024 * 1024;

fn server() -> Server {
    Server::options().memcached().start()
}

/// Clients of both ports.
fn clients(watcher: &mut Client) -> u64 {
    watcher.info("connected_clients")
}

/// What comes back for these bytes before the server closes the connection.
fn last_words(server: &Server, bytes: &[u8]) -> String {
    let mut client = server.memcached();
    // The server may have closed already.
    let _ = client.stream().write_all(bytes);
    client.receive_to_end()
}

#[test]
fn other_protocols_and_endless_lines_are_closed_and_the_others_do_not_feel_it() {
    let server = server();
    let mut other = server.memcached();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let cases: &[(&str, Vec<u8>)] = &[
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nset k 0 0 1\r\nv\r\n".to_vec()),
        ("HTTP", b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nset k 0 0 1\r\nv\r\n".to_vec()),
        ("TLS", [&hello[..], &[0; 500], b"\r\nset k 0 0 1\r\nv\r\n"].concat()),
        ("a line without end", b"x".repeat(100_000)),
        ("a line without end", b"set ".repeat(50_000)),
    ];
    for (what, bytes) in cases {
        let words = last_words(&server, bytes);
        assert!(!words.contains("STORED"), "{what}: {words}");
        assert_eq!(other.ask("get k\r\n"), "END\r\n", "{what}: nothing behind it is run");
    }
    assert_eq!(
        last_words(&server, b"set k 0 0 1 noreply\r\nv\r\nget k\r\nquit\r\nget k\r\n"),
        "VALUE k 0 1\r\nv\r\nEND\r\n"
    );
}

#[test]
fn lines_of_many_keys_may_be_long() {
    const KEYS: usize = 200_000;
    let server = server();
    let mut client = server.memcached();
    client.ask("set key 7 0 5\r\nvalue\r\n");
    let line = format!("get{}\r\n", " key".repeat(KEYS));
    let replies = client.ask(line);
    assert_eq!(replies.len(), KEYS * "VALUE key 7 5\r\nvalue\r\n".len() + "END\r\n".len());
    assert!(replies.ends_with("value\r\nEND\r\n"));
    let absent: String = (0..KEYS).map(|index| format!(" absent:{index}")).collect();
    assert_eq!(client.ask(format!("gets{absent}\r\n")), "END\r\n");
}

/// The longest value that is stored under a key of one letter.
fn longest_value(client: &mut Memcached, bound: usize) -> usize {
    let (mut stored, mut refused) = (1, bound);
    while refused - stored > 1 {
        let len = stored.midpoint(refused);
        let answer = client.ask([format!("set k 0 0 {len}\r\n").as_bytes(), &vec![b'x'; len], b"\r\n"].concat());
        match answer.as_str() {
            "STORED\r\n" => stored = len,
            "SERVER_ERROR object too large for cache\r\n" => refused = len,
            other => panic!("{len} bytes: {other}"),
        }
    }
    stored
}

#[test]
fn entries_have_a_size_limit_and_what_is_over_it_is_passed_over() {
    let server = server();
    let mut client = server.memcached();
    let longest = longest_value(&mut client, 2 * MEBIBYTE as usize);
    if let Some(oracle) = MemcachedServer::start_for("memcached limits") {
        assert_eq!(longest, longest_value(&mut oracle.client(), 2 * MEBIBYTE as usize), "to the byte as memcached");
    }
    let large = vec![b'x'; 3 * MEBIBYTE as usize];
    let request = [&b"set k 0 0 1\r\nv\r\nset k 0 0 3145728\r\n"[..], &large, b"\r\nget k\r\n"].concat();
    // The old value is gone: it must not be taken for the new one (memcached.c, process_update_command).
    assert_eq!(client.ask(request), "STORED\r\nSERVER_ERROR object too large for cache\r\nEND\r\n");
    let quiet = [&b"set k 0 0 3145728 noreply\r\n"[..], &large, b"\r\nadd k 0 0 1\r\nv\r\n"].concat();
    assert_eq!(client.ask(quiet).lines().last(), Some("STORED"));
    // Nor may a value grow past it.
    let most = [format!("set k 0 0 {longest}\r\n").as_bytes(), &large[..longest], b"\r\n"].concat();
    assert_eq!(client.ask(most), "STORED\r\n");
    assert_ne!(client.ask("append k 0 0 1\r\ny\r\n"), "STORED\r\n");

    let server = Server::options().memcached().set("item-size-max", "16kb").start();
    let mut client = server.memcached();
    let longest = longest_value(&mut client, 64 * 1024);
    assert!((16 * 1024 - 200..16 * 1024).contains(&longest), "{longest}");
}

#[test]
fn keys_have_a_length_limit() {
    let server = Server::options().memcached().set("memcached-key-bytes-max", 300).start();
    let mut client = server.memcached();
    let (most, over) = ("k".repeat(300), "k".repeat(301));
    assert_eq!(
        client.ask(format!("set {most} 0 0 1\r\nv\r\nget {most}\r\n")),
        format!("STORED\r\nVALUE {most} 0 1\r\nv\r\nEND\r\n")
    );
    assert_eq!(client.ask(format!("get {over}\r\n")), "CLIENT_ERROR bad command line format\r\n");
    let server = self::server();
    let mut client = server.memcached();
    assert_eq!(client.ask(format!("delete {}\r\n", "k".repeat(251))), "CLIENT_ERROR bad command line format\r\n");
}

#[test]
fn what_is_announced_and_never_sent_costs_nothing() {
    const CLIENTS: usize = 200;
    let server = server();
    let mut watcher = server.client();
    watcher.command(&["PING"]);
    let before = rss_bytes(server.pid());
    let mut many: Vec<Memcached> = (0..CLIENTS).map(|_| server.memcached()).collect();
    for (index, client) in many.iter_mut().enumerate() {
        client.send(match index % 4 {
            0 => "set k 0 0 1000000\r\nonly this",
            1 => "set k 0 0 2000000000\r\nonly this",
            2 => "append k 0 0 1000000\r\n",
            _ => "get k k k k k k k k k k k k",
        });
    }
    until("the server has read it", || watcher.info("total_net_input_bytes") > 200 * 20);
    assert_eq!(clients(&mut watcher), CLIENTS as u64 + 1);
    let grown = rss_bytes(server.pid()).saturating_sub(before);
    groups::say(&format!(
        "memcached bad input: {CLIENTS} clients announced a megabyte and more: rss grew by {grown} bytes"
    ));
    assert!(grown < 4 * MEBIBYTE, "{grown} bytes");
    drop(many);
    until("they are forgotten", || clients(&mut watcher) == 1);
}

#[test]
fn half_a_command_and_a_hang_up_leave_nothing_behind() {
    let server = server();
    let mut watcher = server.client();
    let whole = b"set half 0 0 5\r\nvalue\r\n";
    for len in 1..whole.len() {
        for way in 0..3 {
            let mut client = server.memcached();
            client.send(&whole[..len]);
            match way {
                0 => drop(client),
                1 => client.stream().shutdown(Shutdown::Both).expect("it is open"),
                _ => {
                    client.end_sending();
                    assert_eq!(client.receive_to_end(), "");
                }
            }
        }
    }
    until("all are gone", || clients(&mut watcher) == 1);
    assert!(watcher.command(&["GET", "half"]).is_null());
    // Whole commands before the half are answered, although the client will send no more.
    let mut client = server.memcached();
    client.send("set whole 0 0 1\r\nv\r\nget whole\r\nget hal");
    client.end_sending();
    assert_eq!(client.receive_to_end(), "STORED\r\nVALUE whole 0 1\r\nv\r\nEND\r\n");
}

/// Each kind of request and answer once.
const PIPELINE: &[u8] = b"set a 5 0 11\r\nab\r\nEND\r\ncd\r\nget a\r\nget a b  a\r\nadd b 0 0 1 noreply\r\nx\r\nadd b 0 0 1\r\ny\r\n\
    append b 0 0 2\r\n\r\n\r\nget b\r\nset n 0 0 2\r\n41\r\nincr n 1\r\nset bad 0 0 3\r\ntoolong\r\nnosuch\r\nset a 0 0 junk\r\ndelete b\r\n\
    delete b 0 noreply\r\ntouch a 0\r\nget n\ngat 0 n a\r\ndelete a\r\nset n 0 0 0\r\n\r\nget n\r\n";

#[test]
fn a_pipeline_that_is_cut_anywhere_has_the_same_answers() {
    let server = server();
    let mut client = server.memcached();
    let mut from_nothing = |pieces: &[&[u8]]| {
        client.ask("delete a\r\ndelete b\r\ndelete n\r\ndelete bad\r\n");
        pieces.iter().for_each(|piece| client.send(piece));
        client.ask("")
    };
    let whole = from_nothing(&[PIPELINE]);
    assert_eq!(whole.lines().filter(|line| line.starts_with("VALUE")).count(), 8, "{whole}");
    for cut in 1..PIPELINE.len() {
        let (before, behind) = PIPELINE.split_at(cut);
        assert_eq!(from_nothing(&[before, behind]), whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = PIPELINE.chunks(1).collect();
    assert_eq!(from_nothing(&bytes), whole, "byte by byte");
}

#[test]
fn garbage_never_stops_the_server() {
    const PIECES: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"get ",
        b"gets k",
        b"gat 0 ",
        b"set k 0 0 3\r\n",
        b"set k 0 0 -1\r\n",
        b"cas k 0 0 1 1\r\n",
        b"abc",
        b"\0",
        b"\xff\xfe",
        b"mg k v",
        b"ms k 2",
        b"ms k S\r\n",
        b"md k q",
        b"mn\r\n",
        b"ma k",
        b"me k\r\n",
        b"noreply",
        b"incr k ",
        b"18446744073709551616",
        b"-1",
        b"flush_all",
        b"verbosity 1\r\n",
        b"stats",
        b"touch k ",
        b"version\r\n",
        b"lease-get k\r\n",
        b"lease-set k 1 0 0 1\r\n",
    ];
    let seed = std::env::var("LEASEHOLD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    groups::say(&format!("memcached bad input: LEASEHOLD_SEED={seed}"));
    let mut random = Random(seed);
    let mut server = server();
    let mut watcher = server.client();
    for _ in 0..500 {
        let count = 1 + random.below(60);
        let bytes: Vec<u8> =
            (0..count).flat_map(|_| PIECES[random.below(PIECES.len() as u64) as usize]).copied().collect();
        let client = server.memcached();
        // The server may have closed already.
        let _ = client.stream().write_all(&bytes);
        let _ = client.stream().shutdown(Shutdown::Write);
    }
    until("all are gone", || clients(&mut watcher) == 1);
    assert_eq!(watcher.info("x_panics"), 0);
    assert!(server.is_running());
    assert_eq!(server.memcached().ask("set k 0 0 1\r\nv\r\nget k\r\n"), "STORED\r\nVALUE k 0 1\r\nv\r\nEND\r\n");
}

#[test]
fn one_client_too_many_is_told_and_closed_whatever_the_port() {
    let server = Server::options().memcached().set("maxclients", 4).start();
    let mut watcher = server.client();
    let mut others: Vec<Memcached> = (0..3).map(|_| server.memcached()).collect();
    others.iter_mut().for_each(|client| assert_eq!(client.ask(""), ""));
    let mut extra = server.memcached();
    assert_eq!(extra.receive_to_end(), "ERROR Too many open connections\r\n");
    assert_eq!(watcher.info("rejected_connections"), 1);
    drop(others.pop());
    until("there is room again", || clients(&mut watcher) == 3);
    assert_eq!(server.memcached().ask(""), "");
}

/// Sends as long as the server takes anything, and reads nothing. Whether the server closed the connection in time.
fn send_and_never_read(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    stream.set_write_timeout(Some(Duration::from_millis(20))).expect("the time is not zero");
    let (mut sent, deadline) = (0, Instant::now() + Duration::from_secs(60));
    while Instant::now() < deadline {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent = (sent + count) % bytes.len(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
    false
}

fn store_big(server: &Server) {
    let value = "x".repeat(256 * 1024);
    assert_eq!(server.memcached().ask(format!("set big 0 0 {}\r\n{value}\r\n", value.len())), "STORED\r\n");
}

#[test]
fn a_client_that_never_reads_is_closed_and_the_others_do_not_feel_it() {
    const GREEDY: usize = 6;
    const LIMIT: u64 = 8 * MEBIBYTE;
    let server = Server::options().memcached().set("threads", 1).set("client-output-buffer-limit", LIMIT).start();
    let mut watcher = server.client();
    store_big(&server);
    let before = rss_bytes(server.pid());
    for _ in 0..GREEDY {
        let greedy = server.memcached();
        assert!(send_and_never_read(greedy.stream(), &b"get big\r\n".repeat(500)), "it was never closed");
        assert_eq!(server.memcached().ask("get none\r\n"), "END\r\n");
    }
    assert_eq!(watcher.info("client_output_buffer_limit_disconnections"), GREEDY as u64);
    until("they are gone", || clients(&mut watcher) == 1);
    let grown = rss_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 8 * LIMIT, "{grown} bytes");
}

#[test]
fn under_the_default_limits_a_slow_reader_waits_and_loses_nothing() {
    const REQUESTS: usize = 1_000;
    let server = Server::options().memcached().set("threads", 1).start();
    let mut watcher = server.client();
    store_big(&server);
    let before = rss_bytes(server.pid());
    let mut slow = server.memcached();
    slow.send(b"get big\r\n".repeat(REQUESTS));
    let (mut last, mut looks) = (0, 0);
    // 256 MB are asked for; the server stops working for this client long before.
    let hits = until_some("the server has begun to answer, and stopped", || {
        let hits = watcher.info("keyspace_hits");
        looks = if hits == last { looks + 1 } else { 0 };
        last = hits;
        (hits > 0 && looks == 50).then_some(hits)
    });
    let grown = rss_bytes(server.pid()).saturating_sub(before);
    assert!(hits < REQUESTS as u64, "all was answered into memory");
    assert!(grown < 128 * MEBIBYTE, "{grown}");
    let replies = slow.ask("get none\r\n");
    let value = format!("VALUE big 0 {}\r\n{}\r\nEND\r\n", 256 * 1024, "x".repeat(256 * 1024));
    assert_eq!(replies.len(), value.len() * REQUESTS + "END\r\n".len());
    assert!(replies.starts_with(&value) && replies.ends_with(&format!("{value}END\r\n")));
}

#[test]
fn idle_connections_cost_little() {
    const IDLE: usize = 2_000;
    if let Err(why) = allow_open_files(IDLE as u64 + 500) {
        return groups::leave_out("memcached's idle connections", &why);
    }
    let server = server();
    let mut watcher = server.client();
    assert_eq!(watcher.command(&["SET", "k", "v"]), Value::Simple("OK".to_owned()));
    let before = rss_bytes(server.pid());
    let mut idle: Vec<Memcached> = (0..IDLE).map(|_| server.memcached()).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.ask("get k\r\n"), "VALUE k 0 1\r\nv\r\nEND\r\n"));
    let each = rss_bytes(server.pid()).saturating_sub(before) / IDLE as u64;
    assert_eq!(clients(&mut watcher), IDLE as u64 + 1);
    groups::say(&format!("memcached bad input: {IDLE} idle connections, {each} bytes of rss each"));
    assert!(each < 8 * 1024, "{each} bytes each: an idle connection owns no buffers");
}

#[test]
fn values_that_are_too_long_together_are_an_error_and_take_no_memory() {
    const LIMIT: u64 = 8 * MEBIBYTE;
    let server = Server::options().memcached().set("threads", 1).set("client-output-buffer-limit", LIMIT).start();
    store_big(&server);
    let mut client = server.memcached();
    let value = format!("VALUE big 0 {}\r\n{}\r\n", 256 * 1024, "x".repeat(256 * 1024));
    let line = |verb: &str, count: usize| format!("{verb}{}\r\n", " big".repeat(count));
    assert_eq!(client.ask(line("get", 20)), format!("{}END\r\n", value.repeat(20)));
    let before = rss_peak_bytes(server.pid());
    // 25 GB are asked for.
    for verb in ["get", "gets", "gat 0", "gats 0"] {
        let answer = client.ask(line(verb, 100_000));
        assert_eq!(answer, "SERVER_ERROR out of memory writing get response\r\n", "{verb}");
        assert_eq!(client.ask("get big\r\n"), format!("{value}END\r\n"), "the connection goes on");
    }
    let grown = rss_peak_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 4 * LIMIT, "{grown} bytes");
    let mut redis = server.client();
    redis.command(&["CONFIG", "SET", "client-output-buffer-limit", "16mb"]);
    until("the limit is taken over", || !client.ask(line("get", 40)).starts_with("SERVER_ERROR"));
}
