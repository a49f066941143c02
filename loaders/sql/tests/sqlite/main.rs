//! Loads from real SQLite files.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use leasehold_loader_api::{KeyList, LoadError, LoadRequest, Loaded, Loader, Row};
use leasehold_loader_sql::{
    BigNumbers, ConfigProblem, LoaderSettings, RowsPerKey, Source, SourceSettings, SqlLoader, ValueFormat, build_loader,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

mod operation;

struct Database {
    directory: TempDir,
}

impl Database {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("test.db")
    }

    fn settings(&self) -> SourceSettings {
        SourceSettings::new("main", format!("sqlite:{}", self.path().display()))
    }

    async fn created(script: &str) -> (Self, Source) {
        let database = Self::new();
        let settings = SourceSettings { create_with: Some(script.into()), ..database.settings() };
        let source = Source::open(settings).await.unwrap();
        (database, source)
    }

    async fn run(&self, sql: &str) {
        let options = SqliteConnectOptions::new().filename(self.path()).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn loader(pattern: &str, sql: &str) -> LoaderSettings {
    LoaderSettings::new("test", pattern, sql)
}

fn batched(pattern: &str, sql: &str, batch_sql: &str) -> LoaderSettings {
    LoaderSettings { batch_sql: Some(batch_sql.into()), ..loader(pattern, sql) }
}

async fn load(loader: &SqlLoader, keys: &[&str]) -> Vec<Loaded> {
    let keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
    loader.load(LoadRequest { keys }).await
}

async fn load_one(loader: &SqlLoader, key: &str) -> Loaded {
    load(loader, &[key]).await.pop().unwrap()
}

fn value(text: &str) -> Loaded {
    Ok(Row::Value { value: Bytes::copy_from_slice(text.as_bytes()), version: None, tags: Vec::new() })
}

async fn problem(source: &Source, settings: LoaderSettings) -> ConfigProblem {
    build_loader(source, settings).await.unwrap_err()
}

const USERS: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, updated INTEGER);
    INSERT INTO users VALUES (1, 'ann', 10), (2, 'bob', 20), (3, NULL, NULL), (-7, 'neg', 0);";

#[tokio::test]
async fn every_storage_class_becomes_json() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, any ANY);
         INSERT INTO t VALUES
            (1, 42), (2, 1.5), (3, 'a \"quoted\" ä' || char(10) || char(0) || 'x'), (4, x'00ff10'), (5, NULL), (6, 9e999), (7, -9e999),
            (8, 9007199254740993), (9, ''), (10, x''), (11, 1e300), (12, CAST(x'ff41' AS TEXT)), (13, -9223372036854775808);",
    )
    .await;
    let sql = "SELECT id, any FROM t WHERE id = $1";
    let plain = build_loader(&source, loader("t:{id:int}", sql)).await.unwrap();
    for (id, json) in [
        (1, r#"42"#),
        (2, "1.5"),
        (3, r#""a \"quoted\" ä\n\u0000x""#),
        (4, r#""AP8Q""#),
        (5, "null"),
        (6, r#""Infinity""#),
        (7, r#""-Infinity""#),
        (8, "9007199254740993"),
        (9, r#""""#),
        (10, r#""""#),
        (11, "1e+300"),
        (13, "-9223372036854775808"),
    ] {
        let expected = format!(r#"{{"id":{id},"any":{json}}}"#);
        assert_eq!(load_one(&plain, &format!("t:{id}")).await, value(&expected));
        serde_json::from_str::<serde_json::Value>(&expected).unwrap();
    }
    let Err(LoadError::Rejected(reason)) = load_one(&plain, "t:12").await else { panic!("not UTF-8") };
    assert!(reason.contains("column any") && reason.contains("UTF-8"), "{reason}");

    let strings = LoaderSettings { big_numbers: BigNumbers::String, ..loader("t:{id:int}", sql) };
    let strings = build_loader(&source, strings).await.unwrap();
    assert_eq!(load_one(&strings, "t:8").await, value(r#"{"id":8,"any":"9007199254740993"}"#));
    assert_eq!(load_one(&strings, "t:1").await, value(r#"{"id":1,"any":42}"#));
}

#[tokio::test]
async fn text_that_is_json_goes_inline_if_asked() {
    let (_database, source) = Database::created(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT, doc);
         INSERT INTO orders VALUES (1, '[1]', ' {\"a\": [1, null]}'), (2, '', '{'), (3, '', x'5b5d'), (4, '', 5), (5, '', NULL), (6, '', '1 2');
         CREATE TABLE items (order_id INTEGER, name TEXT);
         INSERT INTO items VALUES (1, 'tea'), (1, 'milk');",
    )
    .await;
    let settings = LoaderSettings {
        json_columns: vec!["doc".into(), "items".into()],
        ..loader(
            "order:{id:int}",
            "SELECT id, note, doc, (SELECT json_group_array(name) FROM items WHERE order_id = id) AS items FROM orders WHERE id = $1",
        )
    };
    let orders = build_loader(&source, settings.clone()).await.unwrap();
    let first = r#"{"id":1,"note":"[1]","doc": {"a": [1, null]},"items":["tea","milk"]}"#;
    assert_eq!(load_one(&orders, "order:1").await, value(first));
    assert_eq!(load_one(&orders, "order:3").await, value(r#"{"id":3,"note":"","doc":[],"items":[]}"#));
    assert_eq!(load_one(&orders, "order:4").await, value(r#"{"id":4,"note":"","doc":5,"items":[]}"#));
    assert_eq!(load_one(&orders, "order:5").await, value(r#"{"id":5,"note":"","doc":null,"items":[]}"#));
    for key in ["order:2", "order:6"] {
        let Err(LoadError::Rejected(reason)) = load_one(&orders, key).await else { panic!("{key}") };
        assert!(reason.contains("column doc: is not JSON"), "{reason}");
    }
    let unknown = LoaderSettings { json_columns: vec!["docs".into()], ..settings };
    assert_eq!(problem(&source, unknown).await.option, "json_columns");
    let column = LoaderSettings {
        value: ValueFormat::Column,
        json_columns: vec!["doc".into()],
        ..loader("order:{id:int}", "SELECT id, doc FROM orders WHERE id = $1")
    };
    assert_eq!(problem(&source, column).await.option, "json_columns");
}

#[tokio::test]
async fn a_key_may_have_many_rows() {
    let (_database, source) = Database::created(
        "CREATE TABLE items (order_id INTEGER, line INTEGER, name TEXT);
         INSERT INTO items VALUES (1, 2, 'milk'), (1, 1, 'tea'), (2, 1, 'bread'), (4, 1, 'a'), (4, 2, 'b'), (4, 3, 'c'), (4, 4, 'd');
         CREATE TABLE words (word TEXT COLLATE NOCASE, n INTEGER);
         INSERT INTO words VALUES ('a', 1), ('A', 2), ('a', 3);",
    )
    .await;
    let settings = LoaderSettings {
        rows: RowsPerKey::Many,
        rows_max: 3,
        batch_key: Some(vec!["order_id".into()]),
        ..batched(
            "items:{id:int}",
            "SELECT order_id, line, name FROM items WHERE order_id = $1 ORDER BY line",
            "SELECT order_id, line, name FROM items WHERE order_id IN (SELECT value FROM json_each($1)) ORDER BY line",
        )
    };
    let items = build_loader(&source, settings.clone()).await.unwrap();
    let keys = ["items:1", "items:2", "items:3", "items:4", "items:1"];
    let mut alone = Vec::new();
    for key in keys {
        alone.push(load_one(&items, key).await);
    }
    let both = r#"[{"order_id":1,"line":1,"name":"tea"},{"order_id":1,"line":2,"name":"milk"}]"#;
    assert_eq!(alone[0], value(both));
    assert_eq!(alone[1], value(r#"[{"order_id":2,"line":1,"name":"bread"}]"#));
    assert_eq!(alone[2], Ok(Row::Absent));
    assert!(matches!(&alone[3], Err(LoadError::Rejected(reason)) if reason.contains("rows_max = 3")), "{:?}", alone[3]);
    // One that has too many does not fail the others.
    assert_eq!(load(&items, &keys).await, alone);

    // A row of another key is in nobody's list.
    let words =
        LoaderSettings { rows: RowsPerKey::Many, ..loader("word:{word}", "SELECT word, n FROM words WHERE word = $1") };
    let words = build_loader(&source, words).await.unwrap();
    assert_eq!(load_one(&words, "word:a").await, value(r#"[{"word":"a","n":1},{"word":"a","n":3}]"#));
    assert_eq!(words.counters().alias_rows, 1);

    let small = LoaderSettings { row_bytes_max: 50, ..settings.clone() };
    let small = build_loader(&source, small).await.unwrap();
    assert!(matches!(load_one(&small, "items:1").await, Err(LoadError::TooLarge { bytes_max: 50, .. })));
    assert_eq!(load_one(&small, "items:2").await, alone[1]);

    for (wrong, option) in [
        (LoaderSettings { value: ValueFormat::Column, ..settings.clone() }, "rows"),
        (LoaderSettings { version_column: Some("line".into()), ..settings.clone() }, "version_column"),
        (LoaderSettings { rows_max: 0, ..settings }, "rows_max"),
    ] {
        assert_eq!(problem(&source, wrong).await.option, option);
    }
}

#[tokio::test]
async fn rows_may_be_messagepack() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, any ANY, doc TEXT);
         INSERT INTO t VALUES (1, x'00ff', '[1]'), (2, 'a', NULL), (3, -9223372036854775808, '{\"a\":1.5}');",
    )
    .await;
    let settings = LoaderSettings {
        value: ValueFormat::MsgPack,
        json_columns: vec!["doc".into()],
        big_numbers: BigNumbers::String,
        ..loader("t:{id:int}", "SELECT id, any, doc FROM t WHERE id = $1")
    };
    let one = build_loader(&source, settings.clone()).await.unwrap();
    let many = LoaderSettings { rows: RowsPerKey::Many, ..settings };
    let many = build_loader(&source, many).await.unwrap();
    for (key, packed) in [
        ("t:1", &b"\x83\xa2id\x01\xa3any\xc4\x02\x00\xff\xa3doc\x91\x01"[..]),
        ("t:2", b"\x83\xa2id\x02\xa3any\xa1a\xa3doc\xc0"),
        ("t:3", b"\x83\xa2id\x03\xa3any\xd3\x80\0\0\0\0\0\0\0\xa3doc\x81\xa1a\xcb\x3f\xf8\0\0\0\0\0\0"),
    ] {
        assert_eq!(
            load_one(&one, key).await,
            Ok(Row::Value { value: Bytes::from_static(packed), version: None, tags: Vec::new() })
        );
        let list = [b"\x91", packed].concat();
        assert_eq!(load_one(&many, key).await, Ok(Row::Value { value: list.into(), version: None, tags: Vec::new() }));
    }
    assert_eq!(load_one(&many, "t:9").await, Ok(Row::Absent));
}

#[tokio::test]
async fn a_column_is_given_as_its_bytes() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, body, at INTEGER);
         INSERT INTO t VALUES (1, 'text', 5), (2, x'00ff', 6), (3, 42, 7), (4, NULL, 8), (5, '', 9), (6, 1.5, NULL);",
    )
    .await;
    let settings = LoaderSettings {
        value: ValueFormat::Column,
        version_column: Some("at".into()),
        ..loader("t:{id:int}", "SELECT id, at, body FROM t WHERE id = $1")
    };
    let column = build_loader(&source, settings).await.unwrap();
    let bytes =
        |bytes: &'static [u8], version| Ok(Row::Value { value: Bytes::from_static(bytes), version, tags: Vec::new() });
    assert_eq!(load_one(&column, "t:1").await, bytes(b"text", Some(5)));
    assert_eq!(load_one(&column, "t:2").await, bytes(b"\x00\xff", Some(6)));
    assert_eq!(load_one(&column, "t:3").await, bytes(b"42", Some(7)));
    assert_eq!(load_one(&column, "t:4").await, Ok(Row::Absent));
    assert_eq!(load_one(&column, "t:5").await, bytes(b"", Some(9)));
    assert_eq!(load_one(&column, "t:6").await, bytes(b"1.5", None));
}

#[tokio::test]
async fn tags_are_made_of_the_columns_of_the_row() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, org INTEGER, plan TEXT, body TEXT);
         INSERT INTO t VALUES (1, 7, 'pro', 'one'), (2, NULL, 'free', 'two'), (3, 8, NULL, 'three');",
    )
    .await;
    let settings = LoaderSettings {
        value: ValueFormat::Column,
        tags: ["org:{org}", "all", "{plan}/{org}", "{plan}"].map(str::to_owned).into(),
        ..loader("t:{id:int}", "SELECT id, org, plan, body FROM t WHERE id = $1")
    };
    let tagged = build_loader(&source, settings).await.unwrap();
    let row = |value: &'static str, tags: &[&'static str]| {
        let tags = tags.iter().map(|tag| Bytes::from_static(tag.as_bytes())).collect();
        Ok(Row::Value { value: Bytes::from_static(value.as_bytes()), version: None, tags })
    };
    assert_eq!(load_one(&tagged, "t:1").await, row("one", &["org:7", "all", "pro/7", "pro"]));
    assert_eq!(load_one(&tagged, "t:2").await, row("two", &["all", "free"]));
    assert_eq!(load_one(&tagged, "t:3").await, row("three", &["org:8", "all"]));
    // A column may be both the value and a part of a tag.
    let settings = LoaderSettings {
        value: ValueFormat::Column,
        tags: vec!["{plan}".to_owned()],
        ..loader("t:{id:int}", "SELECT id, plan FROM t WHERE id = $1")
    };
    let both = build_loader(&source, settings).await.unwrap();
    assert_eq!(load_one(&both, "t:1").await, row("pro", &["pro"]));
}

#[tokio::test]
async fn one_batch_answers_each_key_in_order() {
    let (_database, source) = Database::created(USERS).await;
    let settings = LoaderSettings {
        batch_max: 3,
        version_column: Some("updated".into()),
        ..batched(
            "user:{id:int}",
            "SELECT id, name, updated FROM users WHERE id = $1",
            "SELECT id, name, updated FROM users WHERE id IN (SELECT value FROM json_each($1))",
        )
    };
    let users = build_loader(&source, settings).await.unwrap();
    assert_eq!(users.batch_max(), 3);
    let row = |json: &'static str, version| {
        Ok(Row::Value { value: Bytes::from_static(json.as_bytes()), version, tags: Vec::new() })
    };
    let expected = vec![
        row(r#"{"id":3,"name":null,"updated":null}"#, None),
        Ok(Row::Absent),
        row(r#"{"id":1,"name":"ann","updated":10}"#, Some(10)),
        row(r#"{"id":-7,"name":"neg","updated":0}"#, Some(0)),
        Ok(Row::Absent),
        row(r#"{"id":2,"name":"bob","updated":20}"#, Some(20)),
        Err(LoadError::Rejected("the key does not fit the pattern".into())),
    ];
    let keys = ["user:3", "user:9223372036854775807", "user:1", "user:-7", "user:99", "user:2", "user:x"];
    assert_eq!(load(&users, &keys).await, expected);
    assert!(load(&users, &[]).await.is_empty());
    // Against the contract, but it must not make a row look absent.
    let twice = load(&users, &["user:1", "user:2", "user:1"]).await;
    assert!(twice[0] == twice[2] && twice[0] != Ok(Row::Absent), "{twice:?}");
}

#[tokio::test]
async fn the_row_must_be_the_row_of_the_key() {
    let (_database, source) = Database::created(
        "CREATE TABLE words (word TEXT COLLATE NOCASE, meaning TEXT);
         INSERT INTO words VALUES ('A', 'upper'), ('b', 'lower'), ('B', 'upper b'), ('1', 'one');
         CREATE TABLE loose (id, n);
         INSERT INTO loose VALUES ('1abc', 1), ('2', 2), (3.0, 3), (4.5, 4), (NULL, 5);",
    )
    .await;
    let words = batched(
        "word:{word}",
        "SELECT word, meaning FROM words WHERE word = $1",
        "SELECT word, meaning FROM words WHERE word IN (SELECT value FROM json_each($1))",
    );
    let words = build_loader(&source, words).await.unwrap();
    assert_eq!(load_one(&words, "word:a").await, Ok(Row::Absent));
    assert_eq!(words.counters().alias_rows, 1);
    assert_eq!(load_one(&words, "word:A").await, value(r#"{"word":"A","meaning":"upper"}"#));
    assert_eq!(load_one(&words, "word:b").await, value(r#"{"word":"b","meaning":"lower"}"#));
    assert_eq!(load_one(&words, "word:A ").await, Ok(Row::Absent));
    assert_eq!(
        load(&words, &["word:a", "word:B", "word:A", "word:b", "word:1"]).await,
        vec![
            Ok(Row::Absent),
            value(r#"{"word":"B","meaning":"upper b"}"#),
            value(r#"{"word":"A","meaning":"upper"}"#),
            value(r#"{"word":"b","meaning":"lower"}"#),
            value(r#"{"word":"1","meaning":"one"}"#),
        ]
    );

    // CAST makes SQLite as lenient as MySQL: '1abc' is 1 there.
    let loose = loader("loose:{id:int}", "SELECT id, n FROM loose WHERE CAST(id AS INTEGER) = $1");
    let loose = build_loader(&source, loose).await.unwrap();
    for key in ["loose:1", "loose:4", "loose:0"] {
        assert_eq!(load_one(&loose, key).await, Ok(Row::Absent), "{key}");
    }
    assert_eq!(load_one(&loose, "loose:2").await, value(r#"{"id":"2","n":2}"#));
    // 3.0 is not the text 3.
    assert_eq!(load_one(&loose, "loose:3").await, Ok(Row::Absent));
}

#[tokio::test]
async fn two_values_of_a_key_are_compared_one_by_one() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (a TEXT, b TEXT, n INTEGER);
         INSERT INTO t VALUES ('1:2', '3', 1), ('x', 'y:z', 2);",
    )
    .await;
    let settings = batched(
        "t:{a}:{b}",
        "SELECT a, b, n FROM t WHERE a || ':' || b = $1 || ':' || $2",
        "SELECT t.a, t.b, t.n FROM json_each($1) l JOIN json_each($2) r ON l.key = r.key
         JOIN t ON t.a || ':' || t.b = l.value || ':' || r.value",
    );
    let pairs = build_loader(&source, settings).await.unwrap();
    // The row's values are ("1:2", "3"), the key's ("1", "2:3").
    assert_eq!(load_one(&pairs, "t:1:2:3").await, Ok(Row::Absent));
    let found = load(&pairs, &["t:1:2:3", "t:x:y:z", "t:no:ne"]).await;
    assert_eq!(found, vec![Ok(Row::Absent), value(r#"{"a":"x","b":"y:z","n":2}"#), Ok(Row::Absent)]);
}

#[tokio::test]
async fn hostile_keys_stay_values() {
    let (_database, source) = Database::created(
        "CREATE TABLE words (word TEXT PRIMARY KEY, n INTEGER); INSERT INTO words VALUES ('safe', 1);",
    )
    .await;
    let settings = batched(
        "word:{word}",
        "SELECT word, n FROM words WHERE word = $1",
        "SELECT word, n FROM words WHERE word IN (SELECT value FROM json_each($1))",
    );
    let words = build_loader(&source, settings).await.unwrap();
    let hostile = [
        "word:' OR 1=1 --",
        "word:safe'; DROP TABLE words; --",
        "word:\"]}",
        "word:$1",
        "word:%",
        "word:\\u0073afe",
        "word:sáfe",
        "word:safe\u{200b}",
    ];
    for key in hostile {
        assert_eq!(load_one(&words, key).await, Ok(Row::Absent), "{key}");
    }
    assert!(load(&words, &hostile).await.iter().all(|answer| *answer == Ok(Row::Absent)));
    assert_eq!(load_one(&words, "word:safe").await, value(r#"{"word":"safe","n":1}"#));
}

/// Words that a careless comparison mixes up.
fn words() -> impl Strategy<Value = String> {
    "[aA1e0 '\"\\\\%_;é\u{301}\u{200b}]{1,3}"
}

#[test]
fn only_the_very_same_text_is_the_same_key() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (database, source) = runtime.block_on(Database::created(
        "CREATE TABLE words (word TEXT COLLATE NOCASE, n INTEGER); CREATE INDEX words_by_word ON words (word);",
    ));
    let settings = batched(
        "word:{word}",
        "SELECT word, n FROM words WHERE word = $1 OR trim(word) = trim($1)",
        "SELECT word, n FROM words WHERE EXISTS
            (SELECT 1 FROM json_each($1) WHERE words.word = value COLLATE NOCASE OR trim(words.word) = trim(value))",
    );
    let loader = runtime.block_on(build_loader(&source, settings)).unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 40, ..ProptestConfig::default() });
    let sets = (proptest::collection::btree_set(words(), 1..60), proptest::collection::btree_set(words(), 1..60));
    let outcome = runner.run(&sets, |(stored, asked)| {
        runtime.block_on(async {
            let rows: Vec<String> = stored
                .iter()
                .map(|word| format!("INSERT INTO words VALUES ('{}', 1);", word.replace('\'', "''")))
                .collect();
            database.run(&format!("DELETE FROM words; {}", rows.concat())).await;
            let keys: Vec<String> = asked.iter().map(|word| format!("word:{word}")).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let together = load(&loader, &keys).await;
            for ((word, key), in_batch) in asked.iter().zip(keys).zip(together) {
                let alone = load_one(&loader, key).await;
                let is_row = matches!(alone, Ok(Row::Value { .. }));
                prop_assert_eq!(is_row, stored.contains(word), "{}: {:?}", key, alone);
                prop_assert_eq!(alone, in_batch);
            }
            Ok(())
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(loader.counters().alias_rows > 0, "the database must have mixed some up, or this test sees nothing");
}

#[tokio::test]
async fn more_than_one_row_for_a_key_is_refused() {
    let (_database, source) =
        Database::created("CREATE TABLE t (id INTEGER, n INTEGER); INSERT INTO t VALUES (1, 1), (1, 2), (2, 3);").await;
    let settings = batched(
        "t:{id:int}",
        "SELECT id, n FROM t WHERE id = $1",
        "SELECT id, n FROM t WHERE id IN (SELECT value FROM json_each($1))",
    );
    let twice = build_loader(&source, settings).await.unwrap();
    assert!(
        matches!(load_one(&twice, "t:1").await, Err(LoadError::Rejected(reason)) if reason.contains("more than one row"))
    );
    let both = load(&twice, &["t:1", "t:2"]).await;
    assert!(matches!(&both[0], Err(LoadError::Rejected(reason)) if reason.contains("more than one row")));
    assert_eq!(both[1], value(r#"{"id":2,"n":3}"#));
}

#[tokio::test]
async fn a_query_that_does_not_select_by_key_is_refused() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (id INTEGER, n INTEGER);
         WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s LIMIT 5000) INSERT INTO t SELECT i, i FROM s;",
    )
    .await;
    let all = build_loader(&source, loader("t:{id:int}", "SELECT id, n FROM t WHERE $1 = $1")).await.unwrap();
    assert!(
        matches!(load_one(&all, "t:1").await, Err(LoadError::Rejected(reason)) if reason.contains("must select the rows"))
    );
}

#[tokio::test]
async fn one_bad_row_fails_only_its_key() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, v INTEGER);
         INSERT INTO t VALUES (1, 'fine', 1), (2, CAST(x'ff' AS TEXT), 1), (3, 'much too long to be taken', 1), (4, 'fine', -1),
            (5, 'fine', 'text');",
    )
    .await;
    let settings = LoaderSettings {
        row_bytes_max: 48,
        version_column: Some("v".into()),
        ..batched(
            "t:{id:int}",
            "SELECT id, body, v FROM t WHERE id = $1",
            "SELECT id, body, v FROM t WHERE id IN (SELECT value FROM json_each($1))",
        )
    };
    let rows = build_loader(&source, settings).await.unwrap();
    let loaded = load(&rows, &["t:1", "t:2", "t:3", "t:4", "t:5"]).await;
    assert_eq!(
        loaded[0],
        Ok(Row::Value {
            value: Bytes::from_static(br#"{"id":1,"body":"fine","v":1}"#),
            version: Some(1),
            tags: Vec::new()
        })
    );
    assert!(matches!(&loaded[1], Err(LoadError::Rejected(reason)) if reason.contains("UTF-8")));
    assert_eq!(loaded[2], Err(LoadError::TooLarge { bytes: 49, bytes_max: 48 }));
    assert!(matches!(&loaded[3], Err(LoadError::Rejected(reason)) if reason.contains("negative")));
    assert!(matches!(&loaded[4], Err(LoadError::Rejected(reason)) if reason.contains("INTEGER")));
}

#[tokio::test]
async fn a_batch_with_a_poisoned_key_still_loads_the_others() {
    let (_database, source) = Database::created(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT);
         WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s LIMIT 100) INSERT INTO t SELECT i, '[1]' FROM s;
         UPDATE t SET body = 'no json' WHERE id IN (17, 60);",
    )
    .await;
    let settings = batched(
        "t:{id:int}",
        "SELECT id, json_extract(body, '$[0]') AS first FROM t WHERE id = $1",
        "SELECT id, json_extract(body, '$[0]') AS first FROM t WHERE id IN (SELECT value FROM json_each($1))",
    );
    let poisoned = build_loader(&source, settings).await.unwrap();
    let keys: Vec<String> = (1..=100).map(|id| format!("t:{id}")).collect();
    let loaded = load(&poisoned, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (id, answer) in (1..=100).zip(loaded) {
        if matches!(id, 17 | 60) {
            assert!(matches!(answer, Err(LoadError::Rejected(_))), "{id}: {answer:?}");
        } else {
            assert_eq!(answer, value(&format!(r#"{{"id":{id},"first":1}}"#)));
        }
    }
    assert_eq!(poisoned.counters().split_batches, 1);
}
