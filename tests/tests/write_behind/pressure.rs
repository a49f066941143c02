//! What is pending while memory is short, keys expire and caches are emptied: no command sees less of it than of any other entry.

use super::{HELD_BACK, Setup, error_of, flushed, ok};
use leasehold_tests::process::Directory;
use leasehold_tests::{Client, Server, Value};
use std::collections::BTreeSet;

const PENDING: usize = 1_000;
const OTHERS: usize = 60_000;
const VALUE_LEN: usize = 500;

/// Sends many commands before it looks at the replies.
fn pipeline(client: &mut Client, commands: impl Iterator<Item = Vec<String>>, mut each: impl FnMut(Value)) {
    let commands: Vec<Vec<String>> = commands.collect();
    for some in commands.chunks(500) {
        some.iter().for_each(|command| client.send(command));
        some.iter().for_each(|_| each(client.receive()));
    }
}

fn set(key: String, value: &str) -> Vec<String> {
    vec!["SET".to_owned(), key, value.to_owned()]
}

fn count_of(client: &mut Client, pattern: &str) -> usize {
    let mut found = BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.command(&["SCAN", &cursor, "MATCH", pattern, "COUNT", "1000"]);
        found.extend(reply.elements()[1].elements().iter().map(Value::text));
        cursor = reply.elements()[0].text();
        if cursor == "0" {
            return found.len();
        }
    }
}

#[test]
fn what_is_pending_is_not_evicted_and_every_command_sees_it() {
    for policy in ["allkeys-tinylfu", "allkeys-lru", "allkeys-random"] {
        let setup = Setup::new(HELD_BACK);
        let server =
            Server::options().conf(setup.conf()).set("maxmemory", "8mb").set("maxmemory-policy", policy).start();
        let mut client = server.client();
        let value = "x".repeat(VALUE_LEN);
        // Several at once share a sync of the journal.
        std::thread::scope(|scope| {
            for part in 0..8 {
                let (mut client, value) = (server.client(), &value);
                scope.spawn(move || {
                    for number in (part..PENDING).step_by(8) {
                        assert_eq!(client.command(&set(format!("note:{number}"), value)), ok());
                    }
                });
            }
        });
        assert_eq!(client.command(&["DEL", "note:a"]), Value::Integer(1));
        pipeline(&mut client, (0..OTHERS).map(|number| set(format!("other:{number}"), &value)), |reply| {
            assert_eq!(reply, ok(), "{policy}");
        });
        assert!(client.info("evicted_keys") > OTHERS as u64 / 2, "{policy}");
        // Before any reader could have brought one back.
        assert_eq!(count_of(&mut client, "note:*"), PENDING, "{policy}");
        for number in [0, 1, PENDING / 2, PENDING - 1] {
            let key = format!("note:{number}");
            let mut ask = |command: &[&str]| client.command(command);
            assert_eq!(ask(&["EXISTS", &key, &key]), Value::Integer(2), "{policy}");
            assert_eq!(ask(&["STRLEN", &key]), Value::Integer(VALUE_LEN as i64), "{policy}");
            assert_eq!(ask(&["TYPE", &key]), Value::Simple("string".into()), "{policy}");
            assert_eq!(ask(&["GETRANGE", &key, "0", "1"]), Value::bulk("xx"), "{policy}");
            assert_eq!(ask(&["TTL", &key]), Value::Integer(-1), "{policy}");
            assert_eq!(ask(&["GET", &key]), Value::bulk(&value), "{policy}");
        }
        assert_eq!(client.command(&["GET", "note:a"]), Value::NullBulk);
        assert_eq!(client.loader_counter("note", "loads"), 0, "{policy}: the source has not been asked");
        flushed(&mut client);
        assert_eq!(setup.file().pairs("SELECT name, body FROM notes WHERE length(body) = 500").len(), PENDING);
        // After that they are entries like any other: what the source has is loaded anew.
        assert_eq!(count_of(&mut client, "note:*"), 0, "{policy}");
        assert_eq!(client.command(&["GET", "note:1"]), Value::bulk(&value));
        assert_eq!(client.loader_counter("note", "loads"), 1);
    }
}

#[test]
fn memory_full_of_what_is_pending_refuses_writers_until_it_is_flushed() {
    let setup = Setup::new(HELD_BACK);
    let server = Server::options().conf(setup.conf()).set("maxmemory", "4mb").start();
    let mut client = server.client();
    let value = "x".repeat(100_000);
    let mut written = 0;
    let text = loop {
        match client.command(&set(format!("note:{written}"), &value)) {
            Value::Simple(_) => written += 1,
            refused => break error_of(refused),
        }
        assert!(written < 100, "memory has an end");
    };
    assert!(text.starts_with("OOM ") && written > 10, "{written}: {text}");
    // None is gone, and what is not a write goes on.
    for number in 0..written {
        assert_eq!(client.command(&["STRLEN", &format!("note:{number}")]), Value::Integer(100_000));
    }
    flushed(&mut client);
    assert_eq!(client.command(&set("note:one more".to_owned(), &value)), ok());
    flushed(&mut client);
    assert_eq!(setup.file().pairs("SELECT name, body FROM notes WHERE length(body) = 100000").len(), written + 1);
}

#[test]
fn what_is_pending_outlives_its_entry_however_that_ends() {
    let setup = Setup::new(HELD_BACK);
    let mut server = setup.server();
    let mut client = server.client();
    for key in ["note:a", "note:c", "note:d"] {
        assert_eq!(client.command(&["SET", key, "two"]), ok());
    }
    // A life that ends ends for the cache only.
    assert_eq!(client.command(&["PEXPIRE", "note:a", "1"]), Value::Integer(1));
    leasehold_tests::watch::until("it has expired", || client.command(&["EXISTS", "note:a"]) == Value::Integer(0));
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("two"));
    assert_eq!(client.command(&["TTL", "note:a"]), Value::Integer(-1));
    assert_eq!(client.command(&["EXPIRE", "note:a", "-1"]), Value::Integer(1));
    assert_eq!(
        client.command(&["MGET", "note:a", "note:b"]),
        Value::Array(vec![Value::bulk("two"), Value::bulk("one")])
    );
    // As for a key of which the source has the row: EXISTS does not ask for it, GET does.
    assert_eq!(client.command(&["FLUSHALL"]), ok());
    assert_eq!(client.command(&["EXISTS", "note:a"]), Value::Integer(0));
    assert_eq!(client.command(&["GET", "note:a"]), Value::bulk("two"));
    // A deletion takes the place of what is pending, and a value that of the deletion.
    assert_eq!(client.command(&["DEL", "note:c"]), Value::Integer(1));
    assert_eq!(
        (client.command(&["EXISTS", "note:c"]), client.command(&["GET", "note:c"])),
        (Value::Integer(0), Value::NullBulk)
    );
    assert_eq!(client.command(&["DEL", "note:d"]), Value::Integer(1));
    assert_eq!(client.command(&["SET", "note:d", "three"]), ok());
    assert_eq!(
        (client.command(&["EXISTS", "note:d"]), client.command(&["GET", "note:d"])),
        (Value::Integer(1), Value::bulk("three"))
    );
    server.kill();
    // Another start has it in the cache before anybody asks.
    let server = setup.server();
    let mut client = server.client();
    assert_eq!(client.command(&["EXISTS", "note:a", "note:b", "note:c", "note:d"]), Value::Integer(2));
    assert_eq!(client.command(&["STRLEN", "note:d"]), Value::Integer(5));
    assert_eq!(client.loader_counter("note", "loads"), 0);
    flushed(&mut client);
    assert_eq!((setup.body("a"), setup.body("c"), setup.body("d")), (Some("two".into()), None, Some("three".into())));
    assert_eq!((setup.applied("a"), setup.applied("d")), (vec!["two".to_owned()], vec!["three".to_owned()]));
}

#[test]
fn a_copy_of_a_journal_is_told_from_the_journal_and_stops_instead_of_writing() {
    let setup = Setup::new("flush_interval = \"1ms\"");
    let mut server = setup.server();
    assert_eq!(server.client().command(&["SET", "note:a", "two"]), ok());
    flushed(&mut server.client());
    assert!(server.terminate().is_some_and(|status| status.success()));
    // Restored from a backup, while the original goes on.
    let copy = Directory::new();
    let (from, to) = (setup.path("journal"), copy.path().join("journal"));
    std::fs::create_dir(&to).expect("the directory is ours");
    for file in std::fs::read_dir(&from).expect("it is there").flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).expect("it can be copied");
    }
    let server = setup.server();
    let mut client = server.client();
    let conf = setup.conf().replace(&from.display().to_string(), &to.display().to_string());
    let other = Server::options().conf(conf).start();
    let mut other_client = other.client();
    assert_eq!(client.command(&["SET", "note:a", "three"]), ok());
    flushed(&mut client);
    // It takes one change at most before it finds out.
    other_client.command(&["SET", "note:a", "by the copy"]);
    leasehold_tests::watch::until(
        "it has stopped",
        || matches!(other_client.command(&["SET", "note:b", "by the copy"]), Value::Error(text) if text.contains("used elsewhere")),
    );
    assert_eq!((setup.body("a"), setup.body("b")), (Some("three".into()), Some("one".into())));
    assert_eq!(client.command(&["SET", "note:a", "four"]), ok());
    flushed(&mut client);
    assert_eq!(setup.body("a"), Some("four".into()));
    // Two servers with one directory: the second does not start.
    let (status, output) = Server::options().conf(setup.conf()).run_to_end();
    assert!(!status.success() && output.contains("another process uses this journal"), "{output}");
}
