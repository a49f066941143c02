//! Reloads that add, change and remove feeds.

use super::{NAMES, loader, ok, write};
use leasehold_tests::server::binary;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Database, Postgres, Server, Value};
use std::process::Command;

fn feed(name: &str, table: &str, options: &str) -> String {
    format!("[feeds.{name}]\nsource = \"file\"\ntable = \"{table}\"\nkey = \"id\"\nstale_after = \"1h\"\n{options}\n")
}

fn state(client: &mut Client, feed: &str) -> Option<String> {
    let list = client.command(&["FEED", "LIST"]);
    let of = list.elements().iter().find(|of| of.elements()[1].text() == feed)?;
    let pair = of.elements().chunks(2).find(|pair| pair[0].text() == "state");
    Some(pair.expect("a feed has a state")[1].text())
}

#[test]
fn feeds_restart_with_all_they_cover_stale_and_those_that_are_as_they_were_go_on() {
    let Some(postgres) = Postgres::shared("reload") else { return };
    let url = postgres.new_database();
    let mut database = Database::connect(&url);
    for table in ["users", "people"] {
        database.run(&format!("CREATE TABLE {table} (id int8 PRIMARY KEY, name text NOT NULL)"));
        database.run(&format!("INSERT INTO {table} SELECT n, 'user ' || n FROM generate_series(1, 20) n"));
        let outbox = Command::new(binary()).args(["sql", "outbox", "--table", table, "--key", "id"]).output();
        database.run(&String::from_utf8(outbox.expect("the binary runs").stdout).expect("SQL is text"));
    }
    let source = format!("[sources.file]\nurl = \"{url}\"\nacquire_timeout = \"20s\"\nstatement_timeout = \"20s\"\n");
    let (user, person) = (loader("user", NAMES), loader("person", &NAMES.replace("users", "people")));
    let users = |options: &str| feed("users", "users", &format!("loaders = \"user\"\n{options}"));
    let people = feed("people", "people", "loaders = \"person\"");
    let conf = |feeds: &str| format!("{source}{user}{person}{feeds}");
    let server = Server::options().conf(conf(&(users("") + &people))).start();
    let mut client = server.client();
    until("the feeds have begun", || ["users", "people"].map(|feed| state(&mut client, feed).unwrap()) == ["ok", "ok"]);
    let fill = |client: &mut Client| {
        for id in 1..=5 {
            assert_eq!(client.command(&["GET", &format!("user:{id}")]), Value::bulk(format!("user {id}")));
            assert_eq!(client.command(&["GET", &format!("person:{id}")]), Value::bulk(format!("user {id}")));
        }
    };
    fill(&mut client);
    database.run("UPDATE people SET name = 'user 9' WHERE id = 9");
    until("the feed has told it", || client.feed_counter("people", "events") == 1);

    // One is changed: all that it covers was loaded anew, and what changes afterwards is seen.
    write(&server, &conf(&(users("window = \"1ms\"") + &people)));
    assert_eq!(client.command(&["LOADER", "RELOAD"]), ok());
    until("the feed has begun again", || state(&mut client, "users").as_deref() == Some("ok"));
    fill(&mut client);
    assert_eq!((client.loader_counter("user", "keys"), client.loader_counter("person", "keys")), (10, 5));
    assert_eq!((client.feed_counter("users", "events"), client.feed_counter("people", "events")), (0, 1));
    assert_eq!((client.feed_counter("users", "gaps"), client.feed_counter("people", "gaps")), (0, 0));
    database.run("UPDATE users SET name = 'ann' WHERE id = 1");
    until("the change is seen", || client.command(&["GET", "user:1"]) == Value::bulk("ann"));

    // A feed of a loader with other keys names these; one whose loader only has other options is left alone.
    let moved = conf(&(users("window = \"1ms\"") + &people)).replace("person:{id:int}", "people:{id:int}");
    write(&server, &moved.replace("match = \"user:{id:int}\"", "queue = 7\nmatch = \"user:{id:int}\""));
    assert_eq!(client.command(&["LOADER", "RELOAD"]), ok());
    until("the feed has begun again", || state(&mut client, "people").as_deref() == Some("ok"));
    assert_eq!((client.feed_counter("users", "events"), client.feed_counter("people", "events")), (1, 0));
    assert_eq!(client.command(&["GET", "people:2"]), Value::bulk("user 2"));
    database.run("UPDATE people SET name = 'bob' WHERE id = 2");
    until("the change is seen", || client.command(&["GET", "people:2"]) == Value::bulk("bob"));

    // A feed that is wrong is refused, and the others go on.
    write(&server, &format!("{moved}{}", feed("bad", "nothing", "loaders = \"user\"")));
    let refused = client.command(&["LOADER", "RELOAD"]);
    assert!(refused.error().contains(": feeds.bad."), "{refused}");
    database.run("UPDATE people SET name = 'eve' WHERE id = 2");
    until("the change is seen", || client.command(&["GET", "people:2"]) == Value::bulk("eve"));

    // Gone, and back.
    write(&server, &conf(""));
    assert_eq!(client.command(&["LOADER", "RELOAD"]), ok());
    assert!(client.command(&["FEED", "LIST"]).elements().is_empty());
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk("user 2"));
    database.run("UPDATE users SET name = 'unseen' WHERE id = 2");
    assert_eq!(client.command(&["GET", "user:2"]), Value::bulk("user 2"));
    write(&server, &conf(&users("")));
    assert_eq!(client.command(&["LOADER", "RELOAD"]), ok());
    until("what was missed is seen", || client.command(&["GET", "user:2"]) == Value::bulk("unseen"));
}
