//! SQL loaders on a real MariaDB or MySQL: types, parameters, batches, aliases, mistakes of the operator, a database in trouble, and the
//! whole way from GET to the row.

use bytes::Bytes;
use leasehold_loader_api::{LoadError, LoadRequest, Loaded, Loader, Row};
use leasehold_loader_sql::{
    BigNumbers, LoaderSettings, RowsPerKey, Source, SourceSettings, SqlLoader, ValueFormat, build_loader,
};
use leasehold_tests::loading::{batched, load, load_one, refused, single, user, value, versioned};
use leasehold_tests::{MySqlKind, MySqlServer};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, MySqlPool, Row as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod served;
mod tls;
mod trouble;

const GROUP: &str = "MariaDB loaders";

/// A database of a test, a connection for the test itself, and a source for loaders.
struct Database {
    _server: Arc<MySqlServer>,
    name: String,
    admin: MySqlPool,
    source: Source,
}

impl Database {
    async fn new(script: &str) -> Option<Self> {
        Self::with(script, |_| {}).await
    }

    async fn with(script: &str, change: impl FnOnce(&mut SourceSettings)) -> Option<Self> {
        // Starting a server blocks; the other tests of this runtime are none.
        Self::on(MySqlServer::shared(GROUP)?, script, change).await
    }

    async fn on(server: Arc<MySqlServer>, script: &str, change: impl FnOnce(&mut SourceSettings)) -> Option<Self> {
        let name = MySqlServer::new_name();
        let admin = MySqlPoolOptions::new().max_connections(2).connect(&server.url("")).await.expect("the server runs");
        let create = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&admin).await.expect("good SQL");
        admin.close().await;
        let url = server.url(&name);
        let admin = MySqlPoolOptions::new().max_connections(2).connect(&url).await.expect("the server runs");
        let mut settings = SourceSettings::new("main", &url);
        // Not to fail on a machine that is busy with other tests.
        settings.acquire_timeout = Duration::from_secs(10);
        settings.statement_timeout = Duration::from_secs(10);
        change(&mut settings);
        let source = Source::open(settings).await.expect("good settings");
        let database = Self { _server: server, name, admin, source };
        database.run(script).await;
        Some(database)
    }

    async fn run(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.admin).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn loader(&self, settings: LoaderSettings) -> SqlLoader {
        build_loader(&self.source, settings).await.expect("a good loader")
    }

    /// The connections of our loaders, by id; `condition` is about the server's table of them.
    async fn connections(&self, condition: &str) -> Vec<u64> {
        let sql = format!(
            "SELECT CAST(ID AS UNSIGNED) FROM information_schema.PROCESSLIST WHERE DB = '{}' AND INFO IS NOT NULL AND {condition} AND ID <> \
             CONNECTION_ID() UNION ALL SELECT CAST(ID AS UNSIGNED) FROM information_schema.PROCESSLIST WHERE DB = '{}' AND INFO IS \
             NULL AND {condition}",
            self.name, self.name
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.admin).await.expect("good SQL");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits for one statement that sleeps, on another connection than `before`; which.
    async fn until_sleeping(&self, before: Option<u64>) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let [id] = self.connections("STATE = 'User sleep'").await[..]
                && Some(id) != before
            {
                return id;
            }
            assert!(Instant::now() < deadline, "no statement of its own sleeps");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until no statement sleeps: the server may end one a moment after we have given it up.
    async fn until_none_sleeps(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.connections("STATE = 'User sleep'").await.is_empty() {
            assert!(Instant::now() < deadline, "a statement sleeps on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Statements that the server has run for clients since it started, of all databases.
    async fn status(&self, name: &str) -> i64 {
        let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&self.admin).await.expect("good SQL");
        row.get::<String, _>(1).parse().expect("a number")
    }
}

/// Each key alone, then all of them in one batch: the answers must be the same.
async fn load_both_ways(loader: &SqlLoader, keys: &[&str]) -> Vec<Loaded> {
    let mut alone = Vec::new();
    for key in keys {
        alone.push(load_one(loader, key).await);
    }
    assert_eq!(load(loader, keys).await, alone);
    alone
}

const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name varchar(50));
    INSERT INTO users SELECT seq, CONCAT('user ', seq) FROM
        JSON_TABLE(CONCAT('[', REPEAT('0,', 999), '0]'), '$[*]' COLUMNS (seq FOR ORDINALITY)) AS numbers;";
const USER_SQL: &str = "SELECT id, name FROM users WHERE id = $1";
const USER_BATCH_SQL: &str = "SELECT id, name FROM users WHERE id IN ($1)";

fn users() -> LoaderSettings {
    batched("user:{id:int}", USER_SQL, USER_BATCH_SQL)
}

/// Every type with a JSON form that both have: the column, what is stored, and what it becomes.
const TYPES: &[(&str, &str, &str)] = &[
    ("tinyint", "-128", "-128"),
    ("tinyint unsigned", "255", "255"),
    ("tinyint(1)", "-1", "-1"),
    ("tinyint(1) unsigned", "200", "200"),
    ("boolean", "TRUE", "1"),
    ("smallint", "-32768", "-32768"),
    ("smallint unsigned", "65535", "65535"),
    ("mediumint", "-8388608", "-8388608"),
    ("mediumint unsigned", "16777215", "16777215"),
    ("int", "-2147483648", "-2147483648"),
    ("int unsigned zerofill", "7", "7"),
    ("int unsigned", "4294967295", "4294967295"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("bigint", "9007199254740993", "9007199254740993"),
    ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
    ("decimal(10,2)", "12.5", r#""12.50""#),
    ("decimal(65,30)", "-0.000000000000000000000000000012", r#""-0.000000000000000000000000000012""#),
    ("decimal(65,0)", "REPEAT('9', 65)", r#""99999999999999999999999999999999999999999999999999999999999999999""#),
    ("float", "0.1", "0.1"),
    ("double", "0.1", "0.1"),
    ("double", "-1.7976931348623157e308", "-1.7976931348623157e+308"),
    ("bit(1)", "b'1'", "1"),
    ("bit(12)", "b'100000000001'", "2049"),
    ("bit(64)", "0xffffffffffffffff", "18446744073709551615"),
    ("date", "'2024-02-29'", r#""2024-02-29""#),
    ("date", "'0000-00-00'", r#""0000-00-00""#),
    ("date", "'9999-12-31'", r#""9999-12-31""#),
    ("datetime", "'2024-02-29 13:30:15'", r#""2024-02-29T13:30:15""#),
    ("datetime(6)", "'2024-02-29 13:30:15.123456'", r#""2024-02-29T13:30:15.123456""#),
    ("datetime(3)", "'2024-02-29 00:00:00.500'", r#""2024-02-29T00:00:00.5""#),
    ("datetime", "'0000-00-00 00:00:00'", r#""0000-00-00T00:00:00""#),
    ("timestamp NULL", "'2024-02-29 12:00:00'", r#""2024-02-29T12:00:00Z""#),
    ("timestamp(6) NULL", "'2024-02-29 12:00:00.000001'", r#""2024-02-29T12:00:00.000001Z""#),
    ("time", "'-838:59:59'", r#""-838:59:59""#),
    ("time(3)", "'08:05:00.250'", r#""08:05:00.25""#),
    ("time", "'00:00:00'", r#""00:00:00""#),
    ("year", "2024", "2024"),
    ("char(4)", "'ab'", r#""ab""#),
    ("varchar(20)", r#"'te"xt ä€😀'"#, r#""te\"xt ä€😀""#),
    ("varchar(20) COLLATE utf8mb4_bin", "'ab'", r#""ab""#),
    ("varchar(20) CHARACTER SET latin1", "'ä€'", r#""ä€""#),
    ("tinytext", r"'a\nb'", r#""a\nb""#),
    ("text", "'text'", r#""text""#),
    ("text COLLATE utf8mb4_bin", "'text'", r#""text""#),
    ("mediumtext", "'text'", r#""text""#),
    ("longtext", "'{}'", r#""{}""#),
    ("longtext COLLATE utf8mb4_bin", "'{}'", r#""{}""#),
    ("enum('sad','happy')", "'happy'", r#""happy""#),
    ("set('a','b','c')", "'a,c'", r#""a,c""#),
    ("set('a','b')", "''", r#""""#),
    ("binary(4)", "0x00ff", r#""AP8AAA==""#),
    ("varbinary(20)", "0x00ff10", r#""AP8Q""#),
    ("tinyblob", "''", r#""""#),
    ("blob", "0x01", r#""AQ==""#),
    ("mediumblob", "0x01", r#""AQ==""#),
    ("longblob", "0x01", r#""AQ==""#),
    ("json", "'null'", "null"),
    ("int", "NULL", "null"),
    ("json", "NULL", "null"),
    ("date", "NULL", "null"),
];

/// Those that only MariaDB has. Its JSON is the text that was stored.
const TYPES_OF_MARIADB: &[(&str, &str, &str)] = &[
    ("json", r#"'{"b": [1, null],  "a": "x"}'"#, r#"{"b": [1, null],  "a": "x"}"#),
    ("uuid", "'67E55044-10b1-426f-9247-bb680e5fe0c8'", r#""67e55044-10b1-426f-9247-bb680e5fe0c8""#),
    ("inet6", "'2001:DB8::1'", r#""2001:db8::1""#),
    ("inet4", "'10.0.0.1'", r#""10.0.0.1""#),
];

/// Those that only MySQL has. Its JSON is a type, with an order and spaces of its own, and values that no text of JSON has.
const TYPES_OF_MYSQL: &[(&str, &str, &str)] = &[
    ("json", r#"'{"b": [1, null],  "a": "x"}'"#, r#"{"a": "x", "b": [1, null]}"#),
    ("json", "CAST(18446744073709551615 AS JSON)", "18446744073709551615"),
    ("json", "CAST(CAST('2024-02-29 13:30:15.5' AS DATETIME(6)) AS JSON)", r#""2024-02-29 13:30:15.500000""#),
    ("json", "JSON_ARRAY(CAST(1.50 AS DECIMAL(5,2)), TRUE, 'ä€😀\"')", r#"[1.50, true, "ä€😀\""]"#),
    ("varchar(20) COLLATE utf8mb4_0900_ai_ci", "'ä€'", r#""ä€""#),
    ("varchar(20) COLLATE utf8mb4_0900_bin", "'ä€'", r#""ä€""#),
];

#[tokio::test]
async fn every_type_has_its_json_form() {
    let Some(database) = Database::new("SELECT 1").await else { return };
    let of_one_kind = MySqlKind::here().choose(TYPES_OF_MARIADB, TYPES_OF_MYSQL);
    let types = [TYPES, of_one_kind].concat();
    let columns: Vec<String> =
        types.iter().enumerate().map(|(index, (column, ..))| format!("c{index} {column}")).collect();
    let values: Vec<&str> = types.iter().map(|(_, value, _)| *value).collect();
    let script = format!(
        "SET sql_mode = '', time_zone = '+00:00'; CREATE TABLE things (id int PRIMARY KEY, {}); INSERT INTO things VALUES (7, {}), (8, {})",
        columns.join(", "),
        values.join(", "),
        values.join(", ")
    );
    database.run(&script).await;
    let settings =
        batched("thing:{id:int}", "SELECT * FROM things WHERE id = $1", "SELECT * FROM things WHERE id IN ($1)");
    let things = database.loader(settings).await;
    let loaded = load_both_ways(&things, &["thing:7", "thing:8"]).await;
    for (id, loaded) in [7, 8].into_iter().zip(loaded) {
        let Ok(Row::Value { value, .. }) = loaded else { panic!("{loaded:?}") };
        let json = std::str::from_utf8(&value).expect("JSON is UTF-8");
        serde_json::from_str::<serde_json::Value>(json).expect("JSON");
        let mut rest = json.strip_prefix(&format!(r#"{{"id":{id}"#)).expect("the columns in order");
        for (index, (column, stored, expected)) in types.iter().enumerate() {
            rest = rest
                .strip_prefix(&format!(",\"c{index}\":{expected}"))
                .unwrap_or_else(|| panic!("{column} of {stored} should be {expected}, but there is {rest}"));
        }
        assert_eq!(rest, "}");
    }
}

#[tokio::test]
async fn every_type_is_a_value_of_its_own_column() {
    let Some(database) = Database::new("SELECT 1").await else { return };
    for (column, stored, expected) in [
        ("varchar(20)", "'a \"b\"'", &b"a \"b\""[..]),
        ("varbinary(20)", "0x00ff", b"\x00\xff"),
        ("int", "42", b"42"),
        ("bigint unsigned", "18446744073709551615", b"18446744073709551615"),
        ("decimal(5,2)", "1.5", b"1.50"),
        ("timestamp NULL", "'2024-02-29 12:00:00'", b"2024-02-29T12:00:00Z"),
        ("json", "'{\"a\": 1}'", b"{\"a\": 1}"),
        ("bit(3)", "b'101'", b"5"),
        ("text", "''", b""),
    ] {
        database
            .run(&format!(
                "SET time_zone = '+00:00'; DROP TABLE IF EXISTS t; CREATE TABLE t (id int, v {column}); INSERT INTO t VALUES (1, {stored}), (2, NULL)"
            ))
            .await;
        let settings =
            LoaderSettings { value: ValueFormat::Column, ..single("v:{id:int}", "SELECT id, v FROM t WHERE id = $1") };
        let loader = database.loader(settings).await;
        let expected = Ok(Row::Value { value: Bytes::from_static(expected), version: None, tags: Vec::new() });
        assert_eq!(load_one(&loader, "v:1").await, expected, "{column}");
        assert_eq!(load_one(&loader, "v:2").await, Ok(Row::Absent), "{column}");
    }
}

#[tokio::test]
async fn text_that_is_json_goes_inline_if_asked() {
    let script = "CREATE TABLE t (id int, name text, doc text); INSERT INTO t VALUES (1, '[]', '[1, {\"a\": null}]'), (2, '', NULL), (3, '', '{');";
    let Some(database) = Database::new(script).await else { return };
    let settings = LoaderSettings {
        json_columns: vec!["doc".into(), "made".into()],
        ..single("t:{id:int}", "SELECT id, name, doc, JSON_OBJECT('n', id) AS made FROM t WHERE id = $1")
    };
    let loader = database.loader(settings.clone()).await;
    assert_eq!(load_one(&loader, "t:1").await, value(r#"{"id":1,"name":"[]","doc":[1, {"a": null}],"made":{"n": 1}}"#));
    assert_eq!(load_one(&loader, "t:2").await, value(r#"{"id":2,"name":"","doc":null,"made":{"n": 2}}"#));
    assert!(refused(&load_one(&loader, "t:3").await).contains("column doc: is not JSON"));
    let problem =
        build_loader(&database.source, LoaderSettings { json_columns: vec!["shoe".into()], ..settings }).await;
    assert_eq!(problem.expect_err("there is no such column").option, "json_columns");
}

#[tokio::test]
async fn a_key_may_have_many_rows_and_be_messagepack() {
    let script = "CREATE TABLE items (owner bigint, line int, raw varbinary(9));
        INSERT INTO items VALUES (1, 2, 0x00ff), (1, 1, NULL), (2, 1, NULL);";
    let Some(database) = Database::new(script).await else { return };
    let settings = LoaderSettings {
        rows: RowsPerKey::Many,
        ..batched(
            "items:{owner:int}",
            "SELECT * FROM items WHERE owner = $1 ORDER BY line",
            "SELECT * FROM items WHERE owner IN ($1) ORDER BY line",
        )
    };
    let loader = database.loader(settings.clone()).await;
    let both = r#"[{"owner":1,"line":1,"raw":null},{"owner":1,"line":2,"raw":"AP8="}]"#;
    let expected = [value(both), value(r#"[{"owner":2,"line":1,"raw":null}]"#), Ok(Row::Absent)];
    assert_eq!(load(&loader, &["items:1", "items:2", "items:3"]).await, expected);
    assert_eq!(load_one(&loader, "items:1").await, expected[0]);
    let packed = database.loader(LoaderSettings { value: ValueFormat::MsgPack, ..settings }).await;
    let both = b"\x92\x83\xa5owner\x01\xa4line\x01\xa3raw\xc0\x83\xa5owner\x01\xa4line\x02\xa3raw\xc4\x02\x00\xff";
    let both = Ok(Row::Value { value: Bytes::from_static(both), version: None, tags: Vec::new() });
    assert_eq!(load(&packed, &["items:3", "items:1"]).await, [Ok(Row::Absent), both]);
}

#[tokio::test]
async fn big_integers_become_strings_if_asked() {
    let script = "CREATE TABLE t (id int, n bigint, u bigint unsigned); INSERT INTO t VALUES (1, 9007199254740993, 18446744073709551615)";
    let Some(database) = Database::new(script).await else { return };
    let settings = LoaderSettings {
        big_numbers: BigNumbers::String,
        ..single("t:{id:int}", "SELECT id, n, u FROM t WHERE id = $1")
    };
    let expected = r#"{"id":1,"n":"9007199254740993","u":"18446744073709551615"}"#;
    assert_eq!(load_one(&database.loader(settings).await, "t:1").await, value(expected));
}

#[tokio::test]
async fn one_batch_answers_each_key_in_order() {
    let Some(database) = Database::new(USERS).await else { return };
    for batch_max in [1, 2, 3, 5, 500] {
        let loader = database.loader(LoaderSettings { batch_max, ..users() }).await;
        assert_eq!(loader.batch_max(), batch_max);
        let keys = ["user:3", "user:99999", "user:1", "user:-1", "user:1000", "user:9223372036854775807", "user:x"];
        let loaded = load(&loader, &keys).await;
        assert_eq!(loaded[..6], [user(3), Ok(Row::Absent), user(1), Ok(Row::Absent), user(1000), Ok(Row::Absent)]);
        assert!(refused(&loaded[6]).contains("does not fit the pattern"));
    }
}

#[tokio::test]
async fn a_batch_is_one_query_that_uses_the_index() {
    let Some(server) = MySqlServer::start(GROUP, &[], |_| {}) else { return };
    let Some(database) = Database::on(Arc::new(server), USERS, |_| {}).await else { return };
    let loader = database.loader(users()).await;
    let keys: Vec<String> = (1..=300).map(|id| format!("user:{id}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let queries = database.status("COM_SELECT").await;
    let read = database.status("HANDLER_READ_RND_NEXT").await;
    let loaded = load(&loader, &keys).await;
    assert!((1..=300).zip(&loaded).all(|(id, answer)| *answer == user(id)));
    // One for our look at the counter, one for the version when a new connection was made.
    let queries = database.status("COM_SELECT").await - queries;
    assert!(queries <= 3, "{queries} queries");
    // The looks themselves read some hundred rows of the server's status.
    let scanned = database.status("HANDLER_READ_RND_NEXT").await - read;
    assert!(scanned < 3_000, "{scanned} rows read by scanning");
    let before = database.status("PREPARED_STMT_COUNT").await;
    for count in 257..300 {
        load(&loader, &keys[..count]).await;
    }
    let more = database.status("PREPARED_STMT_COUNT").await - before;
    // One for the list on each connection that was used, and those of our look.
    assert!(more <= 4, "{more} statements for 43 lengths of a list");
}

#[tokio::test]
async fn the_row_must_be_the_row_of_the_key() {
    let Some(database) = Database::new(
        "CREATE TABLE words (word varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n int);
         INSERT INTO words VALUES ('Café', 1), ('1abc', 2);
         CREATE TABLE codes (code char(4), n int);
         INSERT INTO codes VALUES ('a', 1);",
    )
    .await
    else {
        return;
    };
    let words = batched(
        "word:{word}",
        "SELECT word, n FROM words WHERE word = $1",
        "SELECT word, n FROM words WHERE word IN ($1)",
    );
    let words = database.loader(words).await;
    let found = value(r#"{"word":"Café","n":1}"#);
    let aliases = ["word:café", "word:CAFE", "word:Café ", "word:Café  ", "word:Cafe\u{301}", "word:1", "word:1ABC"];
    for alias in aliases {
        assert_eq!(load_one(&words, alias).await, Ok(Row::Absent), "{alias}");
    }
    assert!(words.counters().alias_rows >= 5, "the database must have given the row, or this test sees nothing");
    assert_eq!(load_one(&words, "word:Café").await, found);
    let batch = load(&words, &["word:CAFE", "word:Café", "word:café", "word:1", "word:Café "]).await;
    assert_eq!(batch, [Ok(Row::Absent), found, Ok(Row::Absent), Ok(Row::Absent), Ok(Row::Absent)]);

    let codes = database.loader(single("code:{code}", "SELECT code, n FROM codes WHERE code = $1")).await;
    assert_eq!(load_one(&codes, "code:a   ").await, Ok(Row::Absent), "the server cuts the padding off");
    assert_eq!(load_one(&codes, "code:a").await, value(r#"{"code":"a","n":1}"#));

    // The server takes '1abc' for 1, and 1 for '1abc', where the types differ.
    let cast = single("n:{word:text}", "SELECT word, n FROM words WHERE n + 0 = $1");
    let cast = database.loader(cast).await;
    assert_eq!(load_one(&cast, "n:2abc").await, Ok(Row::Absent));
    assert_eq!(cast.counters().alias_rows, 1);
}

#[tokio::test]
async fn keys_of_every_kind_find_their_rows() {
    let Some(database) = Database::new(
        "CREATE TABLE t (i1 tinyint, u8 bigint unsigned, d decimal(12,2), y year, tx text, vc varchar(9) COLLATE utf8mb4_bin,
            l1 varchar(9) CHARACTER SET latin1, vb varbinary(9), e enum('seven','eight'), u char(36), v text);
         INSERT INTO t VALUES (7, 18446744073709551615, 7, 2007, 'seven', 'seven', 'seven', 'seven', 'seven',
            '67e55044-10b1-426f-9247-bb680e5fe0c8', 'yes'), (8, 7, 8, 2008, 'x', 'x', 'x', 'x', 'eight', '', 'no');",
    )
    .await
    else {
        return;
    };
    for (column, kind, there, not_there) in [
        ("i1", "int", "7", &["9", "-7", "40000", "9223372036854775807"][..]),
        ("u8", "int", "7", &["-1", "9223372036854775807", "0"]),
        ("d", "int", "7", &["70", "9"]),
        ("y", "int", "2007", &["7", "2009"]),
        ("tx", "text", "seven", &["Seven", "seven ", "seven\u{200b}"]),
        ("vc", "text", "seven", &["Seven", "seven "]),
        ("l1", "text", "seven", &["Seven", "seven "]),
        ("vb", "text", "seven", &["Seven", "seven "]),
        ("e", "text", "seven", &["Seven", "1", "nine"]),
        ("u", "uuid", "67e55044-10b1-426f-9247-bb680e5fe0c8", &["67e55044-10b1-426f-9247-bb680e5fe0c9"]),
    ] {
        let settings = batched(
            &format!("t:{{{column}:{kind}}}"),
            &format!("SELECT {column}, v FROM t WHERE {column} = ?"),
            &format!("SELECT {column}, v FROM t WHERE {column} IN (?)"),
        );
        let loader = database.loader(settings).await;
        let keys: Vec<String> = [there].iter().chain(not_there).map(|text| format!("t:{text}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let loaded = load_both_ways(&loader, &keys).await;
        assert!(matches!(&loaded[0], Ok(Row::Value { .. })), "{column}: {loaded:?}");
        assert!(loaded[1..].iter().all(|answer| *answer == Ok(Row::Absent)), "{column}: {loaded:?}");
    }
}

#[tokio::test]
async fn several_placeholders_make_one_batch_of_groups() {
    let script = format!(
        "CREATE TABLE orders (org int, id char(36), total decimal(10,2), PRIMARY KEY (org, id));
         INSERT INTO orders SELECT seq % 3, UUID(), seq + 0.5 FROM {};",
        MySqlServer::numbers(1..=30)
    );
    let Some(database) = Database::new(&script).await else { return };
    let settings = batched(
        "order:{org:int}:{id:uuid}",
        "SELECT org, id, total FROM orders WHERE id = $2 AND org = $1",
        "SELECT org, id, total FROM orders WHERE (org, id) IN (($1, $2))",
    );
    let orders = database.loader(settings).await;
    let rows = sqlx::query("SELECT org, id, CAST(total AS CHAR) FROM orders").fetch_all(&database.admin).await;
    let mut keys = Vec::new();
    let mut expected = Vec::new();
    for row in rows.expect("good SQL") {
        let (org, id, total): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        keys.push(format!("order:{org}:{id}"));
        expected.push(value(&format!(r#"{{"org":{org},"id":"{id}","total":"{total}"}}"#)));
        // The same order of another organisation, and one of an organisation that an int cannot hold.
        keys.push(format!("order:{}:{id}", org + 1));
        keys.push(format!("order:5000000000:{id}"));
        expected.extend([Ok(Row::Absent), Ok(Row::Absent)]);
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(load_both_ways(&orders, &keys).await, expected);
}

#[tokio::test]
async fn a_batch_may_read_its_keys_from_json_too() {
    let Some(database) = Database::new(USERS).await else { return };
    let settings = batched(
        "user:{id:int}",
        USER_SQL,
        "SELECT id, name FROM JSON_TABLE(JSON_ARRAY($1), '$[*]' COLUMNS(v bigint PATH '$')) AS k JOIN users ON id = v",
    );
    let loader = database.loader(settings).await;
    assert_eq!(load(&loader, &["user:1", "user:2", "user:0"]).await, [user(1), user(2), Ok(Row::Absent)]);
}

#[tokio::test]
async fn versions_come_from_integers_and_times() {
    let Some(database) = Database::new(
        "SET time_zone = '+00:00'; CREATE TABLE t (id int, n bigint unsigned, s int, at timestamp(6) NULL);
         INSERT INTO t VALUES (1, 18446744073709551615, 42, '2024-01-01 00:00:00.000001'), (2, NULL, -1, NULL);",
    )
    .await
    else {
        return;
    };
    let by = |column: &str| LoaderSettings {
        version_column: Some(column.into()),
        value: ValueFormat::Column,
        ..single("t:{id:int}", &format!("SELECT id, {column}, 'v' AS v FROM t WHERE id = $1"))
    };
    let numbered = database.loader(by("n")).await;
    let signed = database.loader(by("s")).await;
    let timed = database.loader(by("at")).await;
    assert_eq!(load_one(&numbered, "t:1").await, versioned("v", Some(u64::MAX)));
    assert_eq!(load_one(&signed, "t:1").await, versioned("v", Some(42)));
    assert_eq!(load_one(&timed, "t:1").await, versioned("v", Some(1_704_067_200_000_001)));
    assert_eq!(load_one(&numbered, "t:2").await, versioned("v", None));
    assert_eq!(load_one(&timed, "t:2").await, versioned("v", None));
    assert!(refused(&load_one(&signed, "t:2").await).contains("negative"));
}

#[tokio::test]
async fn every_mistake_of_the_operator_is_named() {
    let Some(database) = Database::new(
        "CREATE TABLE t (id int, b binary(16), name varchar(20), at datetime, f double, d date, g point, doc text);",
    )
    .await
    else {
        return;
    };
    let int = "t:{id:int}";
    let good = "SELECT id, name FROM t WHERE id = $1";
    for (settings, option, says) in [
        (single(int, "SELEKT $1"), "sql", "error in your SQL syntax"),
        (single(int, "SELECT id, shoe FROM t WHERE id = $1"), "sql", "Unknown column 'shoe'"),
        (single(int, "SELECT id FROM shoes WHERE id = $1"), "sql", "shoes' doesn't exist"),
        (single(int, "SELECT id FROM t WHERE id = $1; SELECT 1"), "sql", "error in your SQL syntax"),
        (single(int, "SELECT id FROM t"), "sql", "it uses none"),
        (single(int, "SELECT id FROM t WHERE id = ? AND name = ?"), "sql", "has 2 parameters"),
        (single(int, "SELECT id FROM t WHERE id = ? AND name = $1"), "sql", "both ? and $n"),
        (single(int, "SELECT id FROM t WHERE id = $1 AND name = $2"), "sql", "it uses $1, $2"),
        (single(int, "SELECT name FROM t WHERE id = $1"), "sql", "key column `id`"),
        (single(int, "DELETE FROM t WHERE id = $1"), "sql", "selects no columns"),
        (single(int, "SELECT id, name, name FROM t WHERE id = $1"), "sql", "two columns named `name`"),
        (
            single("t:{id}", good),
            "sql",
            "`id` has the type INT, but the placeholder is text: MySQL would take '1abc' for 1",
        ),
        (single("t:{name:int}", "SELECT name FROM t WHERE name = $1"), "sql", "read the whole table; write {…:text}"),
        (single("t:{d}", "SELECT d FROM t WHERE d = $1"), "sql", "CAST(d AS CHAR) AS d"),
        (single("t:{f:int}", "SELECT f FROM t WHERE f = $1"), "sql", "is an integer or decimal"),
        (single("t:{b:uuid}", "SELECT b FROM t WHERE b = $1"), "sql", "BIN_TO_UUID(b) AS b"),
        (single(int, "SELECT id, g FROM t WHERE id = $1"), "sql", "`g` has the type GEOMETRY, which has no JSON form"),
        (batched(int, good, "SELECT id, name FROM t WHERE id = $1"), "batch_sql", "$n is the list of its values"),
        (batched(int, good, "SELECT id FROM t WHERE id IN ($1)"), "batch_sql", "same columns"),
        (
            LoaderSettings {
                batch_max: 10_000,
                ..batched(
                    int,
                    good,
                    "SELECT id, name FROM t WHERE id IN ($1) OR (id,id,id,id,id,id) IN (($1,$1,$1,$1,$1,$1))",
                )
            },
            "batch_sql",
            "at most 65535",
        ),
        (
            LoaderSettings { version_column: Some("at".into()), ..single(int, "SELECT id, at FROM t WHERE id = $1") },
            "version_column",
            "DATETIME; a version is an integer or a TIMESTAMP",
        ),
        (LoaderSettings { version_column: Some("at".into()), ..single(int, good) }, "version_column", "not among"),
    ] {
        let problem = build_loader(&database.source, settings).await.expect_err(says);
        assert_eq!(problem.option, option, "{problem}");
        assert!(problem.reason.contains(says), "{says}: {problem}");
    }
}

#[tokio::test]
async fn rows_and_values_of_many_megabytes_come_through() {
    let Some(database) = Database::new(
        "CREATE TABLE big (id int PRIMARY KEY, body longtext);
         INSERT INTO big VALUES (1, REPEAT('0123456789', 1000000)), (2, 'small');",
    )
    .await
    else {
        return;
    };
    let settings = batched("big:{id:int}", "SELECT * FROM big WHERE id = $1", "SELECT * FROM big WHERE id IN ($1)");
    let big = database.loader(settings.clone()).await;
    let ten_megabytes = format!(r#"{{"id":1,"body":"{}"}}"#, "0123456789".repeat(1_000_000));
    assert_eq!(load_one(&big, "big:1").await, value(&ten_megabytes));
    let small = database.loader(LoaderSettings { row_bytes_max: 8 << 20, ..settings }).await;
    let loaded = load(&small, &["big:1", "big:2"]).await;
    assert!(matches!(loaded[0], Err(LoadError::TooLarge { .. })), "{:?}", loaded[0]);
    assert_eq!(loaded[1], value(r#"{"id":2,"body":"small"}"#));
}

#[tokio::test]
async fn one_bad_value_fails_only_its_key() {
    let script = format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint);
         INSERT INTO t SELECT seq, IF(seq % 17 = 0, -1, seq) FROM {};",
        MySqlServer::numbers(1..=60)
    );
    let Some(database) = Database::new(&script).await else { return };
    // A negative number has no place in BIGINT UNSIGNED: error 1690.
    let settings = batched(
        "t:{id:int}",
        "SELECT id, CAST(0 AS UNSIGNED) + n AS share FROM t WHERE id = $1",
        "SELECT id, CAST(0 AS UNSIGNED) + n AS share FROM t WHERE id IN ($1)",
    );
    let shares = database.loader(settings).await;
    let keys: Vec<String> = (1..=60).map(|id| format!("t:{id}")).collect();
    let loaded = load(&shares, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (id, answer) in (1..=60).zip(&loaded) {
        match id % 17 {
            0 => assert!(refused(answer).contains("out of range"), "{answer:?}"),
            _ => assert_eq!(*answer, value(&format!(r#"{{"id":{id},"share":{id}}}"#))),
        }
    }
    assert_eq!(shares.counters().split_batches, 1);
    assert_eq!(shares.health(), Ok(()));
}

#[tokio::test]
async fn hostile_keys_stay_values() {
    let script =
        "CREATE TABLE words (word varchar(100) CHARACTER SET latin1, n int); INSERT INTO words VALUES ('safe', 1);";
    let Some(database) = Database::new(script).await else { return };
    let settings = batched(
        "word:{word}",
        "SELECT word, n FROM words WHERE word = $1",
        "SELECT word, n FROM words WHERE word IN ($1)",
    );
    let words = database.loader(settings).await;
    let hostile =
        ["word:' OR 1=1 -- ", "word:safe'; DROP TABLE words; -- ", "word:\\' OR 1=1 #", "word:?", "word:$1", "word:%"];
    for key in hostile {
        assert_eq!(load_one(&words, key).await, Ok(Row::Absent), "{key}");
    }
    assert!(load(&words, &hostile).await.iter().all(|answer| *answer == Ok(Row::Absent)));
    // Text that the column's character set does not have: absent, or refused for this key alone.
    let strange = load(&words, &["word:safe", "word:😀", "word:日本"]).await;
    assert_eq!(strange[0], value(r#"{"word":"safe","n":1}"#));
    for answer in &strange[1..] {
        assert!(matches!(answer, Ok(Row::Absent) | Err(LoadError::Rejected(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn the_unix_socket_works_as_well() {
    let Some(server) = MySqlServer::shared(GROUP) else { return };
    let url = format!("mysql://root@localhost/mysql?ssl-mode=disabled&socket={}", server.socket().display());
    let source = Source::open(SourceSettings::new("main", url)).await.expect("a good URL");
    assert_eq!(source.check().await, Ok(()));
    let one = build_loader(&source, single("one", "SELECT 1 AS one")).await.expect("a good loader");
    assert_eq!(load_one(&one, "one").await, value(r#"{"one":1}"#));
}

#[tokio::test]
async fn the_session_is_made_fit_for_loads_and_else_left_alone() {
    let options = ["--autocommit=0", "--default-time-zone=+05:30", "--sql-mode=PIPES_AS_CONCAT"];
    let Some(server) = MySqlServer::start(GROUP, &options, |_| {}) else { return };
    let script = "CREATE TABLE t (id int PRIMARY KEY, at timestamp); SET time_zone = '+00:00';
        INSERT INTO t VALUES (1, '2024-01-01 00:00:00'); COMMIT;";
    let Some(database) = Database::on(Arc::new(server), script, |settings| settings.max_connections = 1).await else {
        return;
    };
    // In seconds, and in milliseconds.
    let limit = MySqlKind::here().choose("max_statement_time = 10", "max_execution_time = 10000");
    let sql = format!(
        "SELECT @@autocommit AS a, @@time_zone AS z, @@sql_mode AS m, @@{limit} AS t, @@character_set_results AS c"
    );
    let session = database.loader(single("session", &sql)).await;
    let expected = r#"{"a":1,"z":"+00:00","m":"PIPES_AS_CONCAT,IGNORE_SPACE","t":1,"c":"utf8mb4"}"#;
    assert_eq!(load_one(&session, "session").await, value(expected));
    let rows = database.loader(single("t:{id:int}", "SELECT id, at FROM t WHERE id = $1")).await;
    assert_eq!(load_one(&rows, "t:1").await, value(r#"{"id":1,"at":"2024-01-01T00:00:00Z"}"#));
    // Without autocommit this connection would go on reading what it saw first.
    database.run("SET time_zone = '+00:00'; UPDATE t SET at = '2025-01-01 00:00:00'; COMMIT").await;
    assert_eq!(load_one(&rows, "t:1").await, value(r#"{"id":1,"at":"2025-01-01T00:00:00Z"}"#));
}
