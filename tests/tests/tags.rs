//! Tags of a loader's rows, seen by clients of the real binary: to invalidate one makes the values of its rows stale, and no others.

use leasehold_tests::process::Directory;
use leasehold_tests::{Client, Server, Value};

const SCHEMA: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY, org_id INTEGER, name TEXT);
    WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 500)
        INSERT INTO users SELECT id, id % 5, 'user ' || id FROM n;
    INSERT INTO users VALUES (1000, NULL, 'alone');";

fn server(files: &Directory) -> Server {
    let script = files.path().join("schema.sql");
    std::fs::write(&script, SCHEMA).expect("the temporary folder takes files");
    let conf = format!(
        r#"
        [sources.main]
        url = "sqlite:{directory}/users.db"
        create_with = "{script}"

        [loaders.user]
        match = "user:{{id:int}}"
        source = "main"
        sql = "SELECT id, org_id, name FROM users WHERE id = $1"
        batch_sql = "SELECT id, org_id, name FROM users WHERE id IN (SELECT value FROM json_each($1))"
        tags = ["org:{{org_id}}", "users"]
        stale_for = "1h"
        "#,
        directory = files.path().display(),
        script = script.display()
    );
    Server::options().conf(conf).start()
}

fn load_all(client: &mut Client) -> i64 {
    let before = client.loader_counter("user", "keys");
    let keys: Vec<String> = (1..=500).chain([1000]).map(|id| format!("user:{id}")).collect();
    let mut argv = vec!["MGET"];
    argv.extend(keys.iter().map(String::as_str));
    let values = client.command(&argv);
    assert!(values.elements().iter().all(|value| matches!(value, Value::Bulk(_))), "{values}");
    client.loader_counter("user", "keys") - before
}

#[test]
fn a_tag_of_rows_is_loaded_anew_once_it_is_invalidated_and_nothing_else_is() {
    let files = Directory::new();
    let server = server(&files);
    let mut client = server.client();
    assert_eq!(load_all(&mut client), 501);
    assert_eq!(load_all(&mut client), 0);
    let ok = Value::Simple("OK".to_owned());
    assert_eq!(client.command(&["INVALTAG", "org:3"]), ok);
    assert_eq!(load_all(&mut client), 100);
    assert_eq!(client.command(&["INVALTAG", "org:1", "org:2", "org:none"]), ok);
    assert_eq!(load_all(&mut client), 200);
    // A row of no organisation has the tag without a column only.
    assert_eq!(client.command(&["INVALTAG", "org:"]), ok);
    assert_eq!(load_all(&mut client), 0);
    assert_eq!(client.command(&["INVALTAG", "users"]), ok);
    assert_eq!(load_all(&mut client), 501);
    assert_eq!(client.command(&["INVALPREFIX", "user:1"]), ok);
    assert_eq!(load_all(&mut client), 112);
    assert_eq!(load_all(&mut client), 0);
    assert_eq!((client.info("tags_invalidated"), client.info("prefixes_invalidated")), (6, 1));
    assert_eq!((client.info("entries_stale_by_tag"), client.info("entries_stale_by_prefix")), (801, 112));
}
