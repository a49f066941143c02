//! The guide, `loaders/README.md`, block by block as a reader would: its SQL on a PostgreSQL database, or on a MariaDB where its configuration
//! names one, its configuration in a server, and its conversations with both, reply for reply.

use leasehold_tests::server::{binary, workspace};
use leasehold_tests::watch::holds_in_time;
use leasehold_tests::{Client, Database, MySqlDatabase, MySqlServer, Postgres, Server, Value, groups};
use std::fmt::Write as _;
use std::process::Command;

const GROUP: &str = "guide";

/// The database that the guide's configurations name.
const URL_IN_GUIDE: &str = "postgres://app:${DB_PASSWORD}@db.internal/shop";

/// The same where the database is MySQL or MariaDB.
const MYSQL_URL_IN_GUIDE: &str = "mysql://app:${DB_PASSWORD}@db.internal/shop";

/// Stands in a command for the token of the last lease.
const TOKEN: &str = "TOKEN";

/// A part of the guide under one heading.
struct Section<'g> {
    heading: &'g str,
    /// Kind and text of each block, in order.
    blocks: Vec<(&'g str, &'g str)>,
}

fn sections(guide: &str) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    for part in guide.split("\n## ").skip(1) {
        let (heading, text) = part.split_once('\n').expect("a section has more than a heading");
        let fenced = text.split("```").skip(1).step_by(2);
        let blocks = fenced.map(|block| block.split_once('\n').expect("a block has a kind")).collect();
        sections.push(Section { heading, blocks });
    }
    sections
}

#[test]
fn every_block_of_the_guide_does_what_it_says() {
    let Some(postgres) = Postgres::start_with(GROUP, &["wal_level=logical"], |_| {}) else { return };
    let Some(mysql) = MySqlServer::start(GROUP, MySqlServer::WITH_LOG, |_| {}) else { return };
    let guide = std::fs::read_to_string(workspace().join("loaders/README.md")).expect("the guide is there");
    let sections = sections(&guide);
    assert!(sections.len() >= 4, "the guide has its sections");
    for Section { heading, blocks } in &sections {
        let has_mysql = blocks.iter().any(|(_, text)| text.contains(MYSQL_URL_IN_GUIDE));
        let mysql = if has_mysql { Some(&mysql) } else { None };
        let url = mysql.map_or_else(|| postgres.new_database(), new_mysql_database);
        let mut run = runner(&url);
        let mut served: Option<(Server, Client)> = None;
        let mut conversations = 0;
        for (kind, text) in blocks {
            match *kind {
                "sql" => run(text),
                "console" => text.lines().for_each(|line| run(&printed_sql(line))),
                "toml" => {
                    let conf = text.replace(URL_IN_GUIDE, &url).replace(MYSQL_URL_IN_GUIDE, &url);
                    match &served {
                        // Another one in a section is the file as somebody has edited it.
                        Some((server, _)) => std::fs::write(server.directory().join("leasehold.toml"), conf)
                            .expect("the directory is ours"),
                        None => {
                            let server = Server::options().conf(conf).start();
                            let client = server.client();
                            served = Some((server, client));
                        }
                    }
                }
                "text" => {
                    let (_, client) = served.as_mut().unwrap_or_else(|| panic!("{heading}: there is no server yet"));
                    converse(heading, text, client, &mut *run);
                    conversations += 1;
                }
                other => panic!("{heading}: a block of the kind {other:?}"),
            }
        }
        assert!(conversations > 0, "{heading} shows what comes of it");
        groups::say(&format!("{GROUP}: {heading}: {conversations} conversations"));
    }
}

fn new_mysql_database(server: &MySqlServer) -> String {
    let name = MySqlServer::new_name();
    MySqlDatabase::connect(&server.url("")).run(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"));
    server.url(&name)
}

/// Runs statements on the database of this URL.
fn runner(url: &str) -> Box<dyn FnMut(&str)> {
    if url.starts_with("postgres") {
        let mut database = Database::connect(url);
        Box::new(move |sql| database.run(sql))
    } else {
        let mut database = MySqlDatabase::connect(url);
        Box::new(move |sql| database.run(sql))
    }
}

/// What a line of the shell pipes into `psql`.
fn printed_sql(line: &str) -> String {
    let command = line.strip_prefix("$ leasehold ").and_then(|line| line.strip_suffix(" | psql shop"));
    let words = words(command.unwrap_or_else(|| panic!("no SQL of ours for psql: {line}")));
    let output = Command::new(binary()).args(words).output().expect("the binary runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("SQL is text")
}

/// Says each line that begins with a prompt, and compares what comes with the lines up to the next.
fn converse(heading: &str, text: &str, client: &mut Client, run: &mut dyn FnMut(&str)) {
    let mut lines = text.lines().peekable();
    let mut token = String::new();
    while let Some(line) = lines.next() {
        if let Some(statement) = line.strip_prefix("sql> ") {
            run(statement);
            continue;
        }
        let command = line.strip_prefix("> ").unwrap_or_else(|| panic!("{heading}: no command: {line}"));
        // What comes later has a word behind it on when.
        let (command, is_eventual) = command.split_once("  ").map_or((command, false), |(command, _)| (command, true));
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("> ") && !line.starts_with("sql> ")) {
            expected.push(line);
        }
        let words: Vec<String> = words(command).into_iter().map(|word| word.replace(TOKEN, &token)).collect();
        let mut reply = client.command(&words);
        if is_eventual {
            let is_there = holds_in_time(|| {
                reply = client.command(&words);
                fits_all(&expected, &shown(&reply))
            });
            assert!(is_there, "{heading}: {command}\nexpected at last {expected:#?}\ncame {reply}");
        }
        if let Value::Array(fields) = &reply
            && let [Value::Bulk(status), _, field, ..] = &fields[..]
            && status == b"LEASE"
        {
            token = field.text();
        }
        let shown = shown(&reply);
        assert!(fits_all(&expected, &shown), "{heading}: {command}\nexpected {expected:#?}\ncame {shown:#?}");
    }
}

/// As a shell splits them: quotes keep spaces together.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for char in command.chars() {
        match (char, quote) {
            (_, Some(open)) if char == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

/// As `redis-cli` shows a reply, but strings without quotes; line by line.
fn shown(reply: &Value) -> Vec<String> {
    let mut text = String::new();
    show(reply, "", &mut text);
    text.lines().map(str::to_owned).collect()
}

fn show(reply: &Value, indent: &str, out: &mut String) {
    let _ = match reply {
        Value::NullBulk | Value::NullArray | Value::Null => writeln!(out, "(nil)"),
        Value::Integer(number) => writeln!(out, "(integer) {number}"),
        Value::Error(text) => writeln!(out, "(error) {text}"),
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                let _ = write!(out, "{}{}) ", if index == 0 { "" } else { indent }, index + 1);
                show(element, &format!("{indent}   "), out);
            }
            Ok(())
        }
        other => writeln!(out, "{}", other.text()),
    };
}

/// Whether lines are what the guide says: `…` is anything, and alone on a line any number of lines.
fn fits_all<S: AsRef<str>>(expected: &[&str], shown: &[S]) -> bool {
    match (expected, shown) {
        ([], shown) => shown.is_empty(),
        (["…", rest @ ..], shown) => (0..=shown.len()).any(|skipped| fits_all(rest, &shown[skipped..])),
        ([line, rest @ ..], [first, shown @ ..]) => fits(line, first.as_ref()) && fits_all(rest, shown),
        (_, []) => false,
    }
}

fn fits(expected: &str, shown: &str) -> bool {
    match expected.split_once('…') {
        None => expected == shown,
        Some((start, rest)) => shown.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| fits(rest, &tail[at..]))
        }),
    }
}

#[test]
fn the_test_itself_tells_right_from_wrong() {
    assert!(fits_all(&["1) LEASE", "…"], &["1) LEASE", "2) (nil)", "3) 7"]));
    assert!(fits_all(&["a…b…", "…"], &["axxb"]));
    assert!(!fits_all(&["a…b"], &["axxbc"]));
    assert!(!fits_all::<&str>(&["OK"], &[]) && !fits_all(&[], &["OK"]));
    assert_eq!(words(r#"SET user:1 '{"name":"A b"}' ''"#), ["SET", "user:1", r#"{"name":"A b"}"#, ""]);
    let nested = Value::Array(vec![Value::bulk("a"), Value::Array(vec![Value::Integer(1), Value::NullBulk])]);
    assert_eq!(shown(&nested), ["1) a", "2) 1) (integer) 1", "   2) (nil)"]);
}
