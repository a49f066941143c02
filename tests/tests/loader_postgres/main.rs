//! SQL loaders on a real PostgreSQL: types, batches, aliases, mistakes of the operator, and a database in trouble.

use bytes::Bytes;
use leasehold_loader_api::{LoadError, LoadRequest, Loaded, Loader, Row};
use leasehold_loader_sql::{
    BigNumbers, LoaderSettings, RowsPerKey, Source, SourceSettings, SqlLoader, ValueFormat, build_loader,
};
use leasehold_tests::Postgres;
use leasehold_tests::loading::{batched, load, load_one, refused, single, user, value, versioned};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgPool, Row as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod connections;
mod tls;
mod trouble;

const GROUP: &str = "PostgreSQL loaders";

/// A database of a test, a connection for the test itself, and a source for loaders.
struct Database {
    _server: Arc<Postgres>,
    url: String,
    admin: PgPool,
    source: Source,
}

impl Database {
    async fn new(script: &str) -> Option<Self> {
        Self::with(script, |_| {}).await
    }

    async fn with(script: &str, change: impl FnOnce(&mut SourceSettings)) -> Option<Self> {
        // Starting a server blocks; the other tests of this runtime are none.
        let server = Postgres::shared(GROUP)?;
        let url = server.new_database();
        let admin = PgPoolOptions::new().max_connections(2).connect(&url).await.expect("the server runs");
        let mut settings = SourceSettings::new("main", &url);
        // Not to fail on a machine that is busy with other tests.
        settings.acquire_timeout = Duration::from_secs(10);
        settings.statement_timeout = Duration::from_secs(10);
        change(&mut settings);
        let source = Source::open(settings).await.expect("good settings");
        let database = Self { _server: server, url, admin, source };
        database.run(script).await;
        Some(database)
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.admin).await.expect("good SQL");
    }

    async fn loader(&self, settings: LoaderSettings) -> SqlLoader {
        build_loader(&self.source, settings).await.expect("a good loader")
    }

    /// Process ids of the connections of our loaders.
    async fn backends(&self) -> Vec<i32> {
        let sql =
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'leasehold' AND datname = current_database()";
        let rows = sqlx::query(sql).fetch_all(&self.admin).await.expect("good SQL");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until we have no connection: the database may end one a moment after it is closed.
    async fn until_left_alone(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.backends().await.is_empty() {
            assert!(Instant::now() < deadline, "a connection lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Process ids of those of them that run a statement now.
    async fn running(&self) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE application_name = 'leasehold' AND datname = current_database() AND state = 'active'";
        let rows = sqlx::query(sql).fetch_all(&self.admin).await.expect("good SQL");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits for one statement to run, on another connection than `before`; which.
    async fn until_running(&self, before: Option<i32>) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let [pid] = self.running().await[..]
                && Some(pid) != before
            {
                return pid;
            }
            assert!(Instant::now() < deadline, "no statement of its own runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the database runs no statement of ours: it may end one a moment after we have given it up.
    async fn until_idle(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.running().await.is_empty() {
            assert!(Instant::now() < deadline, "a statement runs on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

const USERS: &str = "CREATE TABLE users (id int8 PRIMARY KEY, name text);
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 1000) n;";
const USER_SQL: &str = "SELECT id, name FROM users WHERE id = $1";
const USER_BATCH_SQL: &str = "SELECT id, name FROM users WHERE id = ANY($1)";

fn users() -> LoaderSettings {
    batched("user:{id:int}", USER_SQL, USER_BATCH_SQL)
}

/// Every type with a JSON form: the expression, and what it becomes.
const TYPES: &[(&str, &str)] = &[
    ("'-32768'::int2", "-32768"),
    ("2147483647::int4", "2147483647"),
    ("'-9223372036854775808'::int8", "-9223372036854775808"),
    ("9007199254740993::int8", "9007199254740993"),
    ("4000000000::oid", "4000000000"),
    ("1.5::float4", "1.5"),
    ("0.1::float4", "0.1"),
    ("0.1::float8", "0.1"),
    ("1::float8", "1.0"),
    ("'NaN'::float8", r#""NaN""#),
    ("'-Infinity'::float4", r#""-Infinity""#),
    ("0::numeric", r#""0""#),
    ("12.50::numeric(10,2)", r#""12.50""#),
    ("-0.00012::numeric", r#""-0.00012""#),
    ("1e30::numeric", r#""1000000000000000000000000000000""#),
    ("123456789012345678901234567890.123456789::numeric", r#""123456789012345678901234567890.123456789""#),
    ("'NaN'::numeric", r#""NaN""#),
    ("'Infinity'::numeric", r#""Infinity""#),
    ("true", "true"),
    ("false", "false"),
    ("'te\"xt ä€'::text", r#""te\"xt ä€""#),
    ("E'a\\n\\x01b'::varchar", r#""a\n\u0001b""#),
    ("'ab'::char(4)", r#""ab  ""#),
    ("'name'::name", r#""name""#),
    ("'67e55044-10b1-426f-9247-bb680e5fe0c8'::uuid", r#""67e55044-10b1-426f-9247-bb680e5fe0c8""#),
    ("'2024-02-29 23:59:59.123456+02'::timestamptz", r#""2024-02-29T21:59:59.123456Z""#),
    ("'2024-02-29 12:00:00+00'::timestamptz", r#""2024-02-29T12:00:00Z""#),
    ("'infinity'::timestamptz", r#""infinity""#),
    ("'2024-02-29 12:00:00.5'::timestamp", r#""2024-02-29T12:00:00.5""#),
    ("'1999-12-31'::date", r#""1999-12-31""#),
    ("'0001-01-01'::date", r#""0001-01-01""#),
    ("'0044-03-15 BC'::date", r#""-0043-03-15""#),
    ("'5874897-12-31'::date", r#""+5874897-12-31""#),
    ("'-infinity'::date", r#""-infinity""#),
    ("'13:30:15.25'::time", r#""13:30:15.25""#),
    ("'24:00:00'::time", r#""24:00:00""#),
    ("'13:30:15-03:30'::timetz", r#""13:30:15-03:30""#),
    ("'1 year -2 months 3 days 04:05:06.5'::interval", r#""P10M3DT4H5M6.5S""#),
    ("'-1 year 2 days -00:00:00.25'::interval", r#""P-1Y2DT-0.25S""#),
    ("'0'::interval", r#""PT0S""#),
    ("'100:00:00'::interval", r#""PT100H""#),
    ("'10.1.2.3'::inet", r#""10.1.2.3""#),
    ("'10.1.2.3/24'::inet", r#""10.1.2.3/24""#),
    ("'2001:DB8::1'::inet", r#""2001:db8::1""#),
    ("'10.0.0.0/8'::cidr", r#""10.0.0.0/8""#),
    ("'10.0.0.1/32'::cidr", r#""10.0.0.1/32""#),
    ("'08:00:2B:01:02:03'::macaddr", r#""08:00:2b:01:02:03""#),
    ("'08:00:2B:01:02:03:04:05'::macaddr8", r#""08:00:2b:01:02:03:04:05""#),
    ("B'1011'::bit(4)", r#""1011""#),
    ("B'101100001'::varbit", r#""101100001""#),
    ("B''::varbit", r#""""#),
    ("'x'::\"char\"", r#""x""#),
    ("ARRAY['10.0.0.1'::inet, NULL]", r#"["10.0.0.1",null]"#),
    ("ARRAY['1 day'::interval]", r#"["P1D"]"#),
    ("'{{{1,2},{3,4}},{{5,6},{7,8}}}'::int2[]", "[[[1,2],[3,4]],[[5,6],[7,8]]]"),
    ("'{\"b\": [1, null], \"a\": \"x\"}'::jsonb", r#"{"a": "x", "b": [1, null]}"#),
    ("'{\"b\":1,  \"a\":2}'::json", r#"{"b":1,  "a":2}"#),
    ("'null'::jsonb", "null"),
    ("'\\x00ff10'::bytea", r#""AP8Q""#),
    ("''::bytea", r#""""#),
    ("NULL::int4", "null"),
    ("NULL::jsonb", "null"),
    ("'{1,NULL,3}'::int4[]", "[1,null,3]"),
    ("'{}'::text[]", "[]"),
    ("'{{a,b},{\"c,d\",NULL}}'::text[]", r#"[["a","b"],["c,d",null]]"#),
    ("'[5:6]={1,2}'::int8[]", "[1,2]"),
    ("ARRAY[1.50, 2]::numeric[]", r#"["1.50","2"]"#),
    ("ARRAY['2024-01-01'::date]", r#"["2024-01-01"]"#),
    ("ARRAY['\\x01'::bytea]", r#"["AQ=="]"#),
    ("ARRAY['{\"a\": 1}'::jsonb]", r#"[{"a": 1}]"#),
    ("ARRAY[true, NULL]", "[true,null]"),
    ("'happy'::mood", r#""happy""#),
    ("'{happy,sad}'::mood[]", r#"["happy","sad"]"#),
    ("5::positive", "5"),
    ("'{5,6}'::positive[]", "[5,6]"),
    ("'<a>x</a>'::xml", r#""<a>x</a>""#),
];

#[tokio::test]
async fn every_type_has_its_json_form() {
    let script = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN positive AS int4 CHECK (VALUE > 0);";
    let Some(database) = Database::new(script).await else { return };
    let columns: Vec<String> =
        TYPES.iter().enumerate().map(|(index, (expression, _))| format!("{expression} AS c{index}")).collect();
    database.run(&format!("CREATE TABLE things AS SELECT 7 AS id, {}", columns.join(", "))).await;
    let things = database.loader(single("thing:{id:int}", "SELECT * FROM things WHERE id = $1")).await;
    let Ok(Row::Value { value, .. }) = load_one(&things, "thing:7").await else { panic!("there is such a row") };
    let json = std::str::from_utf8(&value).expect("JSON is UTF-8");
    serde_json::from_str::<serde_json::Value>(json).expect("JSON");
    let mut rest = json.strip_prefix(r#"{"id":7"#).expect("the columns in order");
    for (index, (expression, expected)) in TYPES.iter().enumerate() {
        rest = rest
            .strip_prefix(&format!(",\"c{index}\":{expected}"))
            .unwrap_or_else(|| panic!("{expression} should be {expected}, but there is {rest}"));
    }
    assert_eq!(rest, "}");
}

#[tokio::test]
async fn every_type_is_a_value_of_its_own_column() {
    let Some(database) = Database::new("").await else { return };
    for (expression, expected) in [
        ("'a \"b\"'::text", &b"a \"b\""[..]),
        ("'\\x00ff'::bytea", b"\x00\xff"),
        ("42", b"42"),
        ("1.50::numeric", b"1.50"),
        ("'2024-02-29 12:00:00+00'::timestamptz", b"2024-02-29T12:00:00Z"),
        ("'{\"a\": 1}'::jsonb", b"{\"a\": 1}"),
        ("'{1,2}'::int4[]", b"[1,2]"),
        ("true", b"true"),
        ("''::text", b""),
    ] {
        let settings = LoaderSettings {
            value: ValueFormat::Column,
            ..single("v:{id:int}", &format!("SELECT id, {expression} AS v FROM (SELECT $1::int4 AS id) AS t"))
        };
        let column = database.loader(settings).await;
        let expected = Ok(Row::Value { value: Bytes::from_static(expected), version: None, tags: Vec::new() });
        assert_eq!(load_one(&column, "v:1").await, expected, "{expression}");
    }
    let settings = LoaderSettings {
        value: ValueFormat::Column,
        ..single("v:{id:int}", "SELECT id, NULL::text AS v FROM (SELECT $1::int4 AS id) AS t")
    };
    assert_eq!(load_one(&database.loader(settings).await, "v:1").await, Ok(Row::Absent));
}

#[tokio::test]
async fn numbers_follow_postgres_own_json() {
    let Some(database) = Database::new("").await else { return };
    // to_json is the oracle for integers and text. Floats are compared as numbers: PostgreSQL writes 1, we 1.0.
    let script = "CREATE TABLE t (id int8, f float8, g float4, s text, i int8);
        SELECT setseed(0.42);
        INSERT INTO t SELECT n, (random() - 0.5) * 10 ^ (n % 300), ((random() - 0.5) * 10 ^ (n % 35))::float4,
            chr(1 + n % 53248) || md5(n::text), (random() * 1e18)::int8 FROM generate_series(1, 500) n;";
    database.run(script).await;
    let settings = batched("t:{id:int}", "SELECT * FROM t WHERE id = $1", "SELECT * FROM t WHERE id = ANY($1)");
    let loader = database.loader(settings).await;
    let keys: Vec<String> = (1..=500).map(|id| format!("t:{id}")).collect();
    let loaded = load(&loader, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let rows = sqlx::query("SELECT row_to_json(t)::text FROM t ORDER BY id").fetch_all(&database.admin).await;
    for (row, loaded) in rows.expect("good SQL").iter().zip(loaded) {
        let Ok(Row::Value { value, .. }) = loaded else { panic!("{loaded:?}") };
        let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
        let (ours, theirs) = (parse(&value), parse(row.get::<String, _>(0).as_bytes()));
        for name in ["id", "s", "i"] {
            assert_eq!(ours[name], theirs[name]);
        }
        assert_eq!(ours["f"].as_f64(), theirs["f"].as_f64());
        let single = |json: &serde_json::Value| json.as_f64().map(|float| float as f32);
        assert_eq!(single(&ours["g"]), single(&theirs["g"]));
    }
}

#[tokio::test]
async fn one_batch_answers_each_key_in_order() {
    let Some(database) = Database::new(USERS).await else { return };
    let loader = database.loader(LoaderSettings { batch_max: 3, ..users() }).await;
    assert_eq!(loader.batch_max(), 3);
    let keys = ["user:3", "user:99999", "user:1", "user:-1", "user:1000", "user:9223372036854775807", "user:x"];
    let loaded = load(&loader, &keys).await;
    assert_eq!(loaded[..6], [user(3), Ok(Row::Absent), user(1), Ok(Row::Absent), user(1000), Ok(Row::Absent)]);
    assert!(refused(&loaded[6]).contains("does not fit the pattern"));
}

#[tokio::test]
async fn parameters_take_the_type_of_the_column() {
    let Some(database) = Database::new(
        "CREATE DOMAIN code AS varchar(8);
         CREATE TABLE t (i2 int2, i4 int4, i8 int8, n numeric, n2 numeric(12,2), tx text, vc varchar(9), bp char(4), nm name, d code, u uuid,
            v text);
         INSERT INTO t VALUES (7, 7, 7, 7, 7, 'seven', 'seven', 'seve', 'seven', 'seven', '67e55044-10b1-426f-9247-bb680e5fe0c8', 'yes');",
    )
    .await
    else {
        return;
    };
    for (column, kind, there, not_there) in [
        ("i2", "int", "7", &["8", "-7", "40000", "9223372036854775807"][..]),
        ("i4", "int", "7", &["8", "3000000000"]),
        ("i8", "int", "7", &["8"]),
        ("n", "int", "7", &["8", "-9223372036854775808"]),
        ("n2", "int", "7", &["70"]),
        ("tx", "text", "seven", &["Seven", "seven "]),
        ("vc", "text", "seven", &["Seven", "seven "]),
        // char(4) thinks that 'seve ' is 'seve'.
        ("bp", "text", "seve", &["seve ", "seve  "]),
        ("nm", "text", "seven", &["Seven"]),
        ("d", "text", "seven", &["Seven"]),
        ("u", "uuid", "67e55044-10b1-426f-9247-bb680e5fe0c8", &["67e55044-10b1-426f-9247-bb680e5fe0c9"]),
    ] {
        let settings = batched(
            &format!("t:{{{column}:{kind}}}"),
            &format!("SELECT {column}, v FROM t WHERE {column} = $1"),
            &format!("SELECT {column}, v FROM t WHERE {column} = ANY($1)"),
        );
        let loader = database.loader(settings).await;
        let keys: Vec<String> = [there].iter().chain(not_there).map(|text| format!("t:{text}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for loaded in [load(&loader, &keys).await, {
            let mut loaded = Vec::new();
            for key in &keys {
                loaded.push(load_one(&loader, key).await);
            }
            loaded
        }] {
            assert!(matches!(&loaded[0], Ok(Row::Value { .. })), "{column}: {loaded:?}");
            assert!(loaded[1..].iter().all(|answer| *answer == Ok(Row::Absent)), "{column}: {loaded:?}");
        }
    }
}

#[tokio::test]
async fn the_row_must_be_the_row_of_the_key() {
    let Some(database) = Database::new(
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
         CREATE TABLE words (word text COLLATE blind, meaning text);
         INSERT INTO words VALUES ('Café', 'place');
         CREATE TABLE codes (code char(4), n int4);
         INSERT INTO codes VALUES ('a', 1);",
    )
    .await
    else {
        return;
    };
    let words = batched(
        "word:{word}",
        "SELECT word, meaning FROM words WHERE word = $1",
        "SELECT word, meaning FROM words WHERE word = ANY($1)",
    );
    let words = database.loader(words).await;
    assert_eq!(load_one(&words, "word:cafe").await, Ok(Row::Absent));
    assert_eq!(words.counters().alias_rows, 1, "the database must have given the row, or this test sees nothing");
    let found = value(r#"{"word":"Café","meaning":"place"}"#);
    assert_eq!(load_one(&words, "word:Café").await, found);
    let batch = load(&words, &["word:CAFE", "word:Café", "word:café", "word:Cafe\u{301}"]).await;
    assert_eq!(batch, [Ok(Row::Absent), found, Ok(Row::Absent), Ok(Row::Absent)]);

    let codes = database.loader(single("code:{code}", "SELECT code, n FROM codes WHERE code = $1")).await;
    assert_eq!(load_one(&codes, "code:a").await, Ok(Row::Absent), "the row's code is 'a   '");
    assert_eq!(load_one(&codes, "code:a   ").await, value(r#"{"code":"a   ","n":1}"#));
}

#[tokio::test]
async fn several_placeholders_make_one_batch_by_unnest() {
    let Some(database) = Database::new(
        "CREATE TABLE orders (org int4, id uuid, total numeric(10,2), PRIMARY KEY (org, id));
         INSERT INTO orders SELECT n % 3, md5(n::text)::uuid, n + 0.5 FROM generate_series(1, 30) n;",
    )
    .await
    else {
        return;
    };
    let settings = batched(
        "order:{org:int}:{id:uuid}",
        "SELECT org, id, total FROM orders WHERE org = $1 AND id = $2",
        "SELECT org, id, total FROM orders JOIN unnest($1::int4[], $2::uuid[]) AS k(o, i) ON org = o AND id = i",
    );
    let orders = database.loader(settings).await;
    let rows = sqlx::query("SELECT org, id::text, total::text FROM orders").fetch_all(&database.admin).await;
    let mut keys = Vec::new();
    let mut expected = Vec::new();
    for row in rows.expect("good SQL") {
        let (org, id, total): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        keys.push(format!("order:{org}:{id}"));
        expected.push(value(&format!(r#"{{"org":{org},"id":"{id}","total":"{total}"}}"#)));
        // The same order of another organisation, and one of an organisation that int4 cannot hold.
        keys.push(format!("order:{}:{id}", org + 1));
        keys.push(format!("order:5000000000:{id}"));
        expected.extend([Ok(Row::Absent), Ok(Row::Absent)]);
    }
    assert_eq!(load(&orders, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await, expected);
    assert_eq!(load_one(&orders, &keys[0]).await, expected[0]);
}

#[tokio::test]
async fn versions_come_from_integers_and_times() {
    let Some(database) = Database::new(
        "CREATE TABLE t (id int4, n int8, at timestamptz);
         INSERT INTO t VALUES (1, 42, '2024-01-01 00:00:00.000001+00'), (2, NULL, NULL), (3, -1, '1969-12-31 00:00:00+00'),
            (4, 0, 'infinity');",
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
    let timed = database.loader(by("at")).await;
    assert_eq!(load_one(&numbered, "t:1").await, versioned("v", Some(42)));
    assert_eq!(load_one(&timed, "t:1").await, versioned("v", Some(1_704_067_200_000_001)));
    assert_eq!(load_one(&numbered, "t:2").await, versioned("v", None));
    assert_eq!(load_one(&timed, "t:2").await, versioned("v", None));
    assert!(refused(&load_one(&numbered, "t:3").await).contains("negative"));
    assert!(refused(&load_one(&timed, "t:3").await).contains("negative"));
    assert!(refused(&load_one(&timed, "t:4").await).contains("infinity"));
}

#[tokio::test]
async fn every_mistake_of_the_operator_is_named() {
    let Some(database) = Database::new(
        "CREATE TYPE mood AS ENUM ('sad');
         CREATE TABLE t (id int4, u uuid, name text, at timestamp, r int4range, rs int4range[], p point, m mood, f float8, d date, doc text);
         CREATE DOMAIN span AS int4range; ALTER TABLE t ADD COLUMN dr span;",
    )
    .await
    else {
        return;
    };
    let int = "t:{id:int}";
    let good = "SELECT id, name FROM t WHERE id = $1";
    for (settings, option, says) in [
        (single(int, "SELEKT 1"), "sql", "syntax error"),
        (single(int, "SELECT id, shoe FROM t WHERE id = $1"), "sql", "\"shoe\" does not exist (SQLSTATE 42703)"),
        (single(int, "SELECT id FROM shoes WHERE id = $1"), "sql", "\"shoes\" does not exist"),
        (single(int, "SELECT id FROM t WHERE id = $1; SELECT 1"), "sql", "multiple commands"),
        (single(int, "SELECT id FROM t"), "sql", "0 parameters"),
        (single(int, "SELECT id FROM t WHERE id = $1 AND name = $2"), "sql", "2 parameters"),
        (single(int, "SELECT name FROM t WHERE id = $1"), "sql", "key column `id`"),
        (single(int, "SELECT id, name FROM t WHERE id = $1 AND name"), "sql", "must be type boolean"),
        (single(int, "SELECT id, count(*) FROM t WHERE id = $1 GROUP BY id FOR UPDATE"), "sql", "FOR UPDATE"),
        (single(int, "DELETE FROM t WHERE id = $1"), "sql", "selects no columns"),
        (single(int, "SELECT id, name, name FROM t WHERE id = $1"), "sql", "two columns named `name`"),
        (single("t:{id}", good), "sql", "{id:text}, but PostgreSQL takes it as INT4, which a int placeholder can be"),
        (single("t:{u:int}", "SELECT u FROM t WHERE u = $1"), "sql", "takes it as UUID"),
        (single("t:{name:int}", "SELECT name FROM t WHERE name = $1"), "sql", "takes it as TEXT"),
        (single("t:{m}", "SELECT m FROM t WHERE m = $1"), "sql", "the enum mood"),
        (single("t:{d}", "SELECT d FROM t WHERE d = $1"), "sql", "takes it as DATE"),
        (single("t:{d}", "SELECT d FROM t WHERE d::text = $1"), "sql", "the key column `d` has the type DATE"),
        (single("t:{f:int}", "SELECT f FROM t WHERE f = $1"), "sql", "takes it as FLOAT8"),
        (single(int, "SELECT id, r FROM t WHERE id = $1"), "sql", "column `r` has the type INT4RANGE"),
        (single(int, "SELECT id, rs FROM t WHERE id = $1"), "sql", "column `rs` has the type INT4RANGE[]"),
        (single(int, "SELECT id, dr FROM t WHERE id = $1"), "sql", "column `dr` has the type"),
        (single(int, "SELECT id, p FROM t WHERE id = $1"), "sql", "as in p::text or to_jsonb(p)"),
        (
            LoaderSettings { json_columns: vec!["doc".into()], ..single(int, good) },
            "json_columns",
            "`doc` is not among",
        ),
        (single(int, "SELECT id, t FROM t WHERE id = $1"), "sql", "column `t` has the type"),
        (batched(int, good, "SELECT id, name FROM t WHERE id = $1"), "batch_sql", "where a batch query binds an array"),
        (batched(int, good, "SELECT id FROM t WHERE id = ANY($1)"), "batch_sql", "same columns"),
        (batched(int, good, "SELECT id, name FROM t WHERE name = ANY($1)"), "batch_sql", "takes it as TEXT"),
        (
            LoaderSettings { version_column: Some("at".into()), ..single(int, "SELECT id, at FROM t WHERE id = $1") },
            "version_column",
            "TIMESTAMP; a version is an integer or timestamptz",
        ),
        (LoaderSettings { version_column: Some("at".into()), ..single(int, good) }, "version_column", "not among"),
        (LoaderSettings { batch_key: Some(vec!["name".into()]), ..single(int, good) }, "", ""),
    ] {
        let built = build_loader(&database.source, settings).await;
        if option.is_empty() {
            // A key column of another type than the placeholder is no mistake: 'name' may hold the number as text.
            built.expect("a good loader");
            continue;
        }
        let problem = built.expect_err(says);
        assert_eq!(problem.option, option, "{problem}");
        assert!(problem.reason.contains(says), "{says}: {problem}");
    }
}

#[tokio::test]
async fn a_row_of_ten_megabytes_comes_through() {
    let Some(database) = Database::new(
        "CREATE TABLE big (id int4, body text, raw bytea);
         ALTER TABLE big ALTER COLUMN body SET STORAGE EXTERNAL;
         INSERT INTO big VALUES (1, repeat('0123456789', 1024 * 1024), NULL), (2, 'small', NULL),
            (3, NULL, decode(repeat('00ff', 2 * 1024 * 1024), 'hex')), (4, repeat(chr(1), 4 * 1024 * 1024), NULL);",
    )
    .await
    else {
        return;
    };
    let settings = batched("big:{id:int}", "SELECT * FROM big WHERE id = $1", "SELECT * FROM big WHERE id = ANY($1)");
    let big = database.loader(settings.clone()).await;
    let ten_megabytes = format!(r#"{{"id":1,"body":"{}","raw":null}}"#, "0123456789".repeat(1024 * 1024));
    assert_eq!(load_one(&big, "big:1").await, value(&ten_megabytes));
    let Ok(Row::Value { value: raw, .. }) = load_one(&big, "big:3").await else { panic!("there is such a row") };
    assert!(raw.ends_with(br#"AP8A/w=="}"#), "{:?}", &raw[raw.len() - 16..]);
    assert_eq!(raw.len(), r#"{"id":3,"body":null,"raw":""}"#.len() + (4usize << 20).div_ceil(3) * 4);

    let small = database.loader(LoaderSettings { row_bytes_max: 8 << 20, ..settings }).await;
    let loaded = load(&small, &["big:1", "big:2", "big:3", "big:4"]).await;
    let too_large = |answer: &Loaded| match answer {
        Err(LoadError::TooLarge { bytes, bytes_max }) => {
            assert_eq!(*bytes_max, 8 << 20);
            *bytes
        }
        other => panic!("{other:?}"),
    };
    assert!(too_large(&loaded[0]) >= 10 << 20);
    assert_eq!(loaded[1], value(r#"{"id":2,"body":"small","raw":null}"#));
    assert!(matches!(&loaded[2], Ok(Row::Value { .. })));
    // Four megabytes of \u0001 are 24 in JSON.
    assert!(too_large(&loaded[3]) >= 24 << 20);
}

#[tokio::test]
async fn one_bad_value_fails_only_its_key() {
    let Some(database) = Database::new(
        "CREATE TABLE t (id int8 PRIMARY KEY, divisor int4);
         INSERT INTO t SELECT n, n % 17 FROM generate_series(1, 60) n;",
    )
    .await
    else {
        return;
    };
    let settings = batched(
        "t:{id:int}",
        "SELECT id, 100 / divisor AS share FROM t WHERE id = $1",
        "SELECT id, 100 / divisor AS share FROM t WHERE id = ANY($1)",
    );
    let shares = database.loader(settings).await;
    let keys: Vec<String> = (1..=60).map(|id| format!("t:{id}")).collect();
    let loaded = load(&shares, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (id, answer) in (1..=60).zip(&loaded) {
        match id % 17 {
            0 => assert!(refused(answer).contains("division by zero (SQLSTATE 22012)"), "{answer:?}"),
            divisor => assert_eq!(*answer, value(&format!(r#"{{"id":{id},"share":{}}}"#, 100 / divisor))),
        }
    }
    assert_eq!(shares.counters().split_batches, 1);
    assert_eq!(shares.health(), Ok(()));
}

#[tokio::test]
async fn what_has_no_form_is_converted_by_the_query() {
    let Some(database) = Database::new(
        "CREATE TYPE pair AS (a int4, b text);
         CREATE TABLE t AS SELECT 1 AS id, int4range(1, 5) AS r, ROW(1, 'x')::pair AS c, point(1, 2) AS p;",
    )
    .await
    else {
        return;
    };
    let sql = "SELECT id, r::text AS r, to_jsonb(c) AS c, p::text AS p FROM t WHERE id = $1";
    let loader = database.loader(single("t:{id:int}", sql)).await;
    let expected = r#"{"id":1,"r":"[1,5)","c":{"a": 1, "b": "x"},"p":"(1,2)"}"#;
    assert_eq!(load_one(&loader, "t:1").await, value(expected));
}

#[tokio::test]
async fn intervals_follow_postgres_own_iso_8601() {
    let Some(database) = Database::new("SELECT 1").await else { return };
    database
        .run(
            "SET intervalstyle = iso_8601; SELECT setseed(0.7);
             CREATE TABLE t AS SELECT n::int8 AS id, i, i::text AS iso FROM generate_series(1, 400) n,
                LATERAL (SELECT make_interval(months => ((random() - 0.5) * (n % 40))::int, days => ((random() - 0.5) * (n % 3))::int,
                    secs => round(((random() - 0.5) * 10 ^ (n % 9))::numeric, n % 7)::float8) AS i) x;",
        )
        .await;
    let settings = batched("t:{id:int}", "SELECT * FROM t WHERE id = $1", "SELECT * FROM t WHERE id = ANY($1)");
    let loader = database.loader(settings).await;
    let keys: Vec<String> = (1..=400).map(|id| format!("t:{id}")).collect();
    for loaded in load(&loader, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await {
        let Ok(Row::Value { value, .. }) = loaded else { panic!("{loaded:?}") };
        let row: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
        assert_eq!(row["i"], row["iso"]);
    }
}

#[tokio::test]
async fn a_key_may_have_many_rows_and_be_messagepack() {
    let script = "CREATE TABLE items (owner bigint, line int, raw bytea);
        INSERT INTO items VALUES (1, 2, '\\x00ff'), (1, 1, NULL), (2, 1, NULL);";
    let Some(database) = Database::new(script).await else { return };
    let settings = LoaderSettings {
        rows: RowsPerKey::Many,
        ..batched(
            "items:{owner:int}",
            "SELECT * FROM items WHERE owner = $1 ORDER BY line",
            "SELECT * FROM items WHERE owner = ANY($1) ORDER BY line",
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
    let Some(database) = Database::new(
        "CREATE TABLE t (id int8, n int8, ns int8[]); INSERT INTO t VALUES (1, 9007199254740993, '{1,-9007199254740993}');",
    )
    .await
    else {
        return;
    };
    let settings = LoaderSettings {
        big_numbers: BigNumbers::String,
        ..single("t:{id:int}", "SELECT id, n, ns FROM t WHERE id = $1")
    };
    let expected = r#"{"id":1,"n":"9007199254740993","ns":[1,"-9007199254740993"]}"#;
    assert_eq!(load_one(&database.loader(settings).await, "t:1").await, value(expected));
}

#[tokio::test]
async fn hostile_keys_stay_values() {
    let Some(database) =
        Database::new("CREATE TABLE words (word text, n int4); INSERT INTO words VALUES ('safe', 1);").await
    else {
        return;
    };
    let settings = batched(
        "word:{word}",
        "SELECT word, n FROM words WHERE word = $1",
        "SELECT word, n FROM words WHERE word = ANY($1)",
    );
    let words = database.loader(settings).await;
    let hostile = [
        "word:' OR 1=1 --",
        "word:safe'; DROP TABLE words; --",
        "word:{safe}",
        "word:$1",
        "word:\\x73616665",
        "word:safe\u{200b}",
    ];
    for key in hostile {
        assert_eq!(load_one(&words, key).await, Ok(Row::Absent), "{key}");
    }
    assert!(load(&words, &hostile).await.iter().all(|answer| *answer == Ok(Row::Absent)));
    assert_eq!(load_one(&words, "word:safe").await, value(r#"{"word":"safe","n":1}"#));
}
