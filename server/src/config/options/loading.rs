//! The keys of `[sources.NAME]` and of `[loaders.NAME]`.

use super::super::spec::{Change, Default, Kind, Spec, Value};
use super::super::{LoaderConfig, RefreshMode, WriteMode};
use super::breaking;
use super::{DAY, HOUR, KB, MB, MINUTE, MS, SECOND, YEAR, integer, span};
use leasehold_command::{ServeStale, WARM_RATE_MAX};
use leasehold_keyspace::Db;
use leasehold_keyspace::settings::DATABASES_MAX;
use leasehold_loader_sql::{BigNumbers, ROWS_MAX, RowsPerKey, SourceSettings, ValueFormat};
use std::time::Duration;

/// The keys of `[sources.NAME]`.
pub(crate) const SOURCE: &[Spec<SourceSettings>] = &[
    Spec {
        name: "url",
        kind: Kind::Secret,
        default: Default::Absent { example: "postgres://app@localhost/shop" },
        change: Change::Start,
        doc: "The database: \"postgres://user:password@host/database\", the same with mysql:// or mariadb://, or \
              \"sqlite:file.db\" (relative to the working directory). ${NAME} stands for a variable of the environment. CONFIG GET and errors never show it.",
        write: |source, value| source.url = value.text(),
        read: |source| Value::Text(source.url.clone()),
    },
    Spec {
        name: "url_file",
        kind: Kind::SecretFile,
        default: Default::Absent { example: "/run/credentials/shop.url" },
        change: Change::Start,
        doc: "A file whose text is the url. Instead of url.",
        write: |source, value| source.url = value.text(),
        read: |_| Value::Absent,
    },
    Spec {
        name: "replicas",
        kind: Kind::SecretLines,
        default: Default::Absent { example: "postgres://app@replica-1/shop" },
        change: Change::Start,
        doc: "Databases that follow this one, as urls; one may be written without brackets: PostgreSQL with streaming \
              replication, MySQL with gtid_mode = ON, MariaDB with log_bin. Loads ask them in turn, and each answers only once it \
              has all that the primary, at url, had when the load began; the primary answers what no replica can. While it is \
              away replicas answer, and that is kept for a second.",
        write: |source, value| source.replicas = value.lines(),
        read: |source| match source.replicas.as_slice() {
            [] => Value::Absent,
            replicas => Value::Lines(replicas.to_vec()),
        },
    },
    Spec {
        name: "replicas_file",
        kind: Kind::SecretFile,
        default: Default::Absent { example: "/run/credentials/shop.replicas" },
        change: Change::Start,
        doc: "A file with the urls of the replicas, one a line. Instead of replicas.",
        write: |source, value| source.replicas = value.text().lines().map(str::to_owned).collect(),
        read: |_| Value::Absent,
    },
    Spec {
        name: "replica_wait",
        kind: span(Duration::ZERO, MINUTE),
        default: Default::Text("50ms"),
        change: Change::Start,
        doc: "How long a load waits for a replica that is behind; then it asks the primary.",
        write: |source, value| source.replica_wait = value.duration(),
        read: |source| Value::Duration(source.replica_wait),
    },
    Spec {
        name: "max_connections",
        kind: integer(1, 1_000),
        default: Default::Text("16"),
        change: Change::Start,
        doc: "Connections to this database, and to each of its replicas. They are opened when loads need them.",
        write: |source, value| source.max_connections = value.u32(),
        read: |source| Value::Integer(source.max_connections.into()),
    },
    Spec {
        name: "statement_timeout",
        kind: span(Duration::from_millis(10), HOUR),
        default: Default::Text("2s"),
        change: Change::Start,
        doc: "The database ends a query that takes longer.",
        write: |source, value| source.statement_timeout = value.duration(),
        read: |source| Value::Duration(source.statement_timeout),
    },
    Spec {
        name: "acquire_timeout",
        kind: span(MS, MINUTE),
        default: Default::Text("1s"),
        change: Change::Start,
        doc: "How long a load waits for a free connection, or for a new one to be made.",
        write: |source, value| source.acquire_timeout = value.duration(),
        read: |source| Value::Duration(source.acquire_timeout),
    },
    Spec {
        name: "create_with",
        kind: Kind::Script,
        default: Default::Absent { example: "schema.sql" },
        change: Change::Start,
        doc: "For SQLite: a script that creates and fills the database if its file does not exist yet. Without it a missing \
              file is an error.",
        write: |source, value| source.create_with = value.text_or_none(),
        read: |source| Value::from_text(source.create_with.as_deref()),
    },
    breaking::switch(
        |source, value| source.breaker.enabled = value.choice(&breaking::SWITCH),
        |source| Value::from_choice(&breaking::SWITCH, source.breaker.enabled),
    ),
    breaking::window(
        |source, value| source.breaker.window = value.duration(),
        |source| Value::Duration(source.breaker.window),
    ),
    breaking::calls(
        |source, value| source.breaker.calls_min = value.u32(),
        |source| Value::Integer(source.breaker.calls_min.into()),
    ),
    breaking::failures(
        |source, value| source.breaker.failures_max = value.ratio(),
        |source| Value::Ratio(source.breaker.failures_max),
    ),
    breaking::slow(
        |source, value| source.breaker.slow = value.duration(),
        |source| Value::Duration(source.breaker.slow),
    ),
    breaking::open(
        |source, value| source.breaker.open = value.duration(),
        |source| Value::Duration(source.breaker.open),
    ),
    breaking::open_max(
        |source, value| source.breaker.open_max = value.duration(),
        |source| Value::Duration(source.breaker.open_max),
    ),
];

const VALUE_NAMES: &[&str] = &["json", "msgpack", "column"];
const VALUES: [ValueFormat; VALUE_NAMES.len()] = [ValueFormat::Json, ValueFormat::MsgPack, ValueFormat::Column];
const ROWS_NAMES: &[&str] = &["one", "many"];
const ROWS: [RowsPerKey; ROWS_NAMES.len()] = [RowsPerKey::One, RowsPerKey::Many];
const BIG_NUMBER_NAMES: &[&str] = &["number", "string"];
const BIG_NUMBERS: [BigNumbers; BIG_NUMBER_NAMES.len()] = [BigNumbers::Number, BigNumbers::String];
const MODE_NAMES: &[&str] = &["transparent", "explicit"];
const MODES: [bool; MODE_NAMES.len()] = [true, false];
const SERVE_STALE_NAMES: &[&str] = &["never", "on-error", "always"];
const SERVE_STALES: [ServeStale; SERVE_STALE_NAMES.len()] =
    [ServeStale::Never, ServeStale::OnError, ServeStale::Always];
const REFRESH_NAMES: &[&str] = &["off", "ahead", "xfetch"];
const REFRESHES: [RefreshMode; REFRESH_NAMES.len()] = [RefreshMode::Off, RefreshMode::Ahead, RefreshMode::XFetch];

const WRITE_NAMES: &[&str] = &["off", "through", "behind"];
const WRITES: [WriteMode; WRITE_NAMES.len()] = [WriteMode::Off, WriteMode::Through, WriteMode::Behind];

/// The keys of `[loaders.NAME]`.
pub(crate) const LOADER: &[Spec<LoaderConfig>] = &[
    Spec {
        name: "match",
        kind: Kind::Text,
        default: Default::Required { example: "user:{id:int}" },
        change: Change::Start,
        doc: "Which keys this loader loads: text and placeholders, {name} or {name:int}, {name:text}, {name:uuid}. A key \
              that does not fit is a plain miss. The patterns of two loaders must not fit the same key.",
        write: |loader, value| loader.settings.pattern = value.text(),
        read: |loader| Value::Text(loader.settings.pattern.clone()),
    },
    Spec {
        name: "source",
        kind: Kind::Text,
        default: Default::Required { example: "main" },
        change: Change::Start,
        doc: "The name of the [sources.NAME] to ask.",
        write: |loader, value| loader.source = value.text(),
        read: |loader| Value::Text(loader.source.clone()),
    },
    Spec {
        name: "sql",
        kind: Kind::Sql,
        default: Default::Required { example: "SELECT id, name, email FROM users WHERE id = $1" },
        change: Change::Start,
        doc: "The query for one key. $1, $2 … are the placeholders of match, in order (on MySQL ? works, too); they are \
              bound, never spliced in. \
              The columns named like the placeholders must come back, and must equal the key.",
        write: |loader, value| loader.settings.sql = value.text(),
        read: |loader| Value::Text(loader.settings.sql.clone()),
    },
    Spec {
        name: "batch_sql",
        kind: Kind::Sql,
        default: Default::Absent { example: "SELECT id, name, email FROM users WHERE id = ANY($1)" },
        change: Change::Start,
        doc: "One query for many keys: misses that come together, and all misses of an MGET, share it. $1 … are arrays here: \
              on MySQL lists, \"… WHERE id IN ($1)\" or \"… WHERE (org, id) IN (($1, $2))\"; on SQLite JSON, \"… WHERE id IN \
              (SELECT value FROM json_each($1))\".",
        write: |loader, value| loader.settings.batch_sql = value.text_or_none(),
        read: |loader| Value::from_text(loader.settings.batch_sql.as_deref()),
    },
    Spec {
        name: "batch_key",
        kind: Kind::Lines,
        default: Default::Absent { example: "id" },
        change: Change::Start,
        doc: "The columns that hold the values of the placeholders, in order, in both queries; one may be written without \
              brackets. Without this option the columns are named like the placeholders.",
        write: |loader, value| loader.settings.batch_key = Some(value.lines()),
        read: |loader| loader.settings.batch_key.clone().map_or(Value::Absent, Value::Lines),
    },
    Spec {
        name: "value",
        kind: Kind::Choice(VALUE_NAMES),
        default: Default::Text("json"),
        change: Change::Start,
        doc: "What a row becomes: a JSON object of its columns, the same as a MessagePack map (with bytes as bytes), or the bytes of its one column that is not part of the key.",
        write: |loader, value| loader.settings.value = value.choice(&VALUES),
        read: |loader| Value::from_choice(&VALUES, loader.settings.value),
    },
    Spec {
        name: "rows",
        kind: Kind::Choice(ROWS_NAMES),
        default: Default::Text("one"),
        change: Change::Start,
        doc: "How many rows a key has. With many, the value is the list of all of them in the order of the query, and a key without \
              rows is absent. Its tags are those of all rows, at most 32.",
        write: |loader, value| loader.settings.rows = value.choice(&ROWS),
        read: |loader| Value::from_choice(&ROWS, loader.settings.rows),
    },
    Spec {
        name: "rows_max",
        kind: integer(1, ROWS_MAX as u64),
        default: Default::Text("1000"),
        change: Change::Start,
        doc: "The most rows of a key with rows = \"many\". A key that has more is a LOADFAIL.",
        write: |loader, value| loader.settings.rows_max = value.usize(),
        read: |loader| Value::from_usize(loader.settings.rows_max),
    },
    Spec {
        name: "json_columns",
        kind: Kind::Lines,
        default: Default::Absent { example: "doc" },
        change: Change::Start,
        doc: "Columns of text that hold JSON, which goes into the value as it is. PostgreSQL's json and jsonb, and a column that MySQL or \
              MariaDB knows as JSON, do so anyway; this is for SQLite, for text, and for what MariaDB's JSON functions make.",
        write: |loader, value| loader.settings.json_columns = value.lines(),
        read: |loader| match loader.settings.json_columns.as_slice() {
            [] => Value::Absent,
            columns => Value::Lines(columns.to_vec()),
        },
    },
    Spec {
        name: "big_numbers",
        kind: Kind::Choice(BIG_NUMBER_NAMES),
        default: Default::Text("number"),
        change: Change::Start,
        doc: "How JSON holds whole numbers beyond 2^53, which JavaScript and others round: as numbers, or as strings.",
        write: |loader, value| loader.settings.big_numbers = value.choice(&BIG_NUMBERS),
        read: |loader| Value::from_choice(&BIG_NUMBERS, loader.settings.big_numbers),
    },
    Spec {
        name: "mode",
        kind: Kind::Choice(MODE_NAMES),
        default: Default::Text("transparent"),
        change: Change::Start,
        doc: "Whether GET and MGET load what is missing, or only LOADTHROUGH and MLOADTHROUGH do.",
        write: |loader, value| loader.transparent = value.choice(&MODES),
        read: |loader| Value::from_choice(&MODES, loader.transparent),
    },
    Spec {
        name: "db",
        kind: integer(0, DATABASES_MAX as u64 - 1),
        default: Default::Text("0"),
        change: Change::Start,
        doc: "The database (SELECT) whose keys this loader loads.",
        write: |loader, value| loader.db = Db(value.u8()),
        read: |loader| Value::Integer(loader.db.0.into()),
    },
    Spec {
        name: "ttl",
        kind: span(MS, YEAR),
        default: Default::Text("5m"),
        change: Change::Start,
        doc: "How long a loaded value is fresh.",
        write: |loader, value| loader.ttl = value.duration(),
        read: |loader| Value::Duration(loader.ttl),
    },
    Spec {
        name: "jitter",
        kind: Kind::Ratio { min: 0.0, max: 0.5 },
        default: Default::Text("0.1"),
        change: Change::Start,
        doc: "The share of the TTL by which it is spread up and down, so that keys loaded together do not expire together.",
        write: |loader, value| loader.jitter = value.ratio(),
        read: |loader| Value::Ratio(loader.jitter),
    },
    Spec {
        name: "negative_ttl",
        kind: span(Duration::ZERO, DAY),
        default: Default::Text("10s"),
        change: Change::Start,
        doc: "How long it is remembered that there is no such row. 0 = not at all.",
        write: |loader, value| loader.negative_ttl = value.duration(),
        read: |loader| Value::Duration(loader.negative_ttl),
    },
    Spec {
        name: "stale_for",
        kind: span(Duration::ZERO, YEAR),
        default: Default::Text("0"),
        change: Change::Start,
        doc: "How long past its TTL a value is kept as stale, for serve_stale.",
        write: |loader, value| loader.stale_for = value.duration(),
        read: |loader| Value::Duration(loader.stale_for),
    },
    Spec {
        name: "serve_stale",
        kind: Kind::Choice(SERVE_STALE_NAMES),
        default: Default::Text("on-error"),
        change: Change::Start,
        doc: "When a stale value is the answer: never; when the load fails or takes longer than soft_timeout; or always, with \
              a load behind it.",
        write: |loader, value| loader.serve_stale = value.choice(&SERVE_STALES),
        read: |loader| Value::from_choice(&SERVE_STALES, loader.serve_stale),
    },
    Spec {
        name: "refresh",
        kind: Kind::Choice(REFRESH_NAMES),
        default: Default::Text("off"),
        change: Change::Start,
        doc: "Whether a read of a value near its end loads it anew, so that hot keys never expire. Readers do not wait: ahead = one \
              load at the first read past refresh_at; xfetch = by chance, the likelier the nearer the end and the slower the load. \
              Only for values that were loaded, not for those a client has SET.",
        write: |loader, value| loader.refresh = value.choice(&REFRESHES),
        read: |loader| Value::from_choice(&REFRESHES, loader.refresh),
    },
    Spec {
        name: "refresh_at",
        kind: Kind::Ratio { min: 0.1, max: 0.99 },
        default: Default::Text("0.8"),
        change: Change::Start,
        doc: "For refresh = \"ahead\": the share of the TTL past which a read refreshes. What is left of the TTL should be longer than \
              a load takes.",
        write: |loader, value| loader.refresh_at = value.ratio(),
        read: |loader| Value::Ratio(loader.refresh_at),
    },
    Spec {
        name: "refresh_beta",
        kind: Kind::Ratio { min: 0.1, max: 100.0 },
        default: Default::Text("1"),
        change: Change::Start,
        doc: "For refresh = \"xfetch\": above 1 values are refreshed earlier. 1 is best if a late refresh costs as much as a needless \
              one.",
        write: |loader, value| loader.refresh_beta = value.ratio(),
        read: |loader| Value::Ratio(loader.refresh_beta),
    },
    Spec {
        name: "warm_rate",
        kind: integer(1, WARM_RATE_MAX as u64),
        default: Default::Text("1000"),
        change: Change::Start,
        doc: "Keys a second that LOADER WARM loads where it says no other RATE. It gives way to readers who miss, so there may be less.",
        write: |loader, value| loader.warm_rate = value.u32(),
        read: |loader| Value::Integer(loader.warm_rate.into()),
    },
    Spec {
        name: "warm_keys_max",
        kind: integer(1, 100_000_000),
        default: Default::Text("1000000"),
        change: Change::Start,
        doc: "The most keys that the query of one LOADER WARM may select; of each some 30 bytes are kept meanwhile.",
        write: |loader, value| loader.warm_keys_max = value.usize(),
        read: |loader| Value::from_usize(loader.warm_keys_max),
    },
    Spec {
        name: "soft_timeout",
        kind: span(MS, HOUR),
        default: Default::Text("50ms"),
        change: Change::Start,
        doc: "How long a client waits for a load when there is a stale value to answer instead.",
        write: |loader, value| loader.soft_timeout = value.duration(),
        read: |loader| Value::Duration(loader.soft_timeout),
    },
    Spec {
        name: "hard_timeout",
        kind: span(MS, HOUR),
        default: Default::Text("2s"),
        change: Change::Start,
        doc: "How long a client waits for a load at all; then it gets LOADFAIL. The load goes on and still fills.",
        write: |loader, value| loader.hard_timeout = value.duration(),
        read: |loader| Value::Duration(loader.hard_timeout),
    },
    Spec {
        name: "max_concurrency",
        kind: integer(1, 10_000),
        default: Default::Text("32"),
        change: Change::Start,
        doc: "Queries of this loader under way at one time. More than max_connections of the source only wait there.",
        write: |loader, value| loader.concurrency_max = value.usize(),
        read: |loader| Value::from_usize(loader.concurrency_max),
    },
    Spec {
        name: "queue",
        kind: integer(1, 1_000_000),
        default: Default::Text("1000"),
        change: Change::Start,
        doc: "Keys that may wait for a query of this loader. One more gets LOADBUSY, or the stale value.",
        write: |loader, value| loader.queue_max = value.usize(),
        read: |loader| Value::from_usize(loader.queue_max),
    },
    Spec {
        name: "batch_window",
        kind: span(Duration::ZERO, SECOND),
        default: Default::Text("1ms"),
        change: Change::Start,
        doc: "How long a miss waits for others to share batch_sql with. 0 = it does not wait, and shares with those that are \
              already there.",
        write: |loader, value| loader.batch_window = value.duration(),
        read: |loader| Value::Duration(loader.batch_window),
    },
    Spec {
        name: "batch_max",
        kind: integer(1, 10_000),
        default: Default::Text("500"),
        change: Change::Start,
        doc: "The most keys of one batch_sql.",
        write: |loader, value| loader.settings.batch_max = value.usize(),
        read: |loader| Value::from_usize(loader.settings.batch_max),
    },
    Spec {
        name: "version_column",
        kind: Kind::Text,
        default: Default::Absent { example: "updated_at" },
        change: Change::Start,
        doc: "A column that only grows, an integer or a time with a zone (timestamptz, on MySQL TIMESTAMP, best with (6)): it becomes the value's version, and an older row never \
              replaces a newer one.",
        write: |loader, value| loader.settings.version_column = value.text_or_none(),
        read: |loader| Value::from_text(loader.settings.version_column.as_deref()),
    },
    Spec {
        name: "tags",
        kind: Kind::Lines,
        default: Default::Absent { example: "org:{org_id}" },
        change: Change::Start,
        doc: "Tags of each value, texts with columns in braces; one may be written without brackets. INVALTAG org:7 makes the \
              values of all rows with org_id 7 stale at once. A tag with a column that is NULL is left out.",
        write: |loader, value| loader.settings.tags = value.lines(),
        read: |loader| match loader.settings.tags.as_slice() {
            [] => Value::Absent,
            tags => Value::Lines(tags.to_vec()),
        },
    },
    Spec {
        name: "write",
        kind: Kind::Choice(WRITE_NAMES),
        default: Default::Text("off"),
        change: Change::Start,
        doc: "What SET and DEL of this loader's keys do. off: they change the cache only. through: they run upsert_sql or \
              delete_sql, and the reply comes once the source has committed. behind: the reply comes once the [journal] has them, and \
              they are flushed later. In both, TTLs of clients are ignored, and commands that change a part of a value refused.",
        write: |loader, value| loader.write = value.choice(&WRITES),
        read: |loader| Value::from_choice(&WRITES, loader.write),
    },
    Spec {
        name: "upsert_sql",
        kind: Kind::Sql,
        default: Default::Absent {
            example: "INSERT INTO users SELECT $1, r.name, r.email FROM jsonb_to_record($2::jsonb) r(name text, email text) \
                      ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email",
        },
        change: Change::Start,
        doc: "The statement that SET, SETEX and PSETEX run. $1, $2 … are the placeholders of match, in order, and the one after \
              them is the value as the client sent it: text, JSON or bytes.",
        write: |loader, value| loader.settings.upsert_sql = value.text_or_none(),
        read: |loader| Value::from_text(loader.settings.upsert_sql.as_deref()),
    },
    Spec {
        name: "delete_sql",
        kind: Kind::Sql,
        default: Default::Absent { example: "DELETE FROM users WHERE id = $1" },
        change: Change::Start,
        doc: "The statement that DEL and UNLINK run, once for each key, all keys of a command in one transaction. The reply counts \
              the keys of which it changed a row.",
        write: |loader, value| loader.settings.delete_sql = value.text_or_none(),
        read: |loader| Value::from_text(loader.settings.delete_sql.as_deref()),
    },
    Spec {
        name: "row_bytes_max",
        kind: Kind::Bytes { min: KB, max: 512 * MB, auto: false },
        default: Default::Text("16mb"),
        change: Change::Start,
        doc: "The longest value this loader may make; a larger one is a LOADFAIL.",
        write: |loader, value| loader.settings.row_bytes_max = value.usize(),
        read: |loader| Value::from_usize(loader.settings.row_bytes_max),
    },
    Spec {
        name: "error_ttl",
        kind: span(Duration::ZERO, HOUR),
        default: Default::Text("1s"),
        change: Change::Start,
        doc: "How long readers of a key whose load has failed hear the same error without another load; a change or \
              invalidation of the key ends it. 0 = each of them asks again. Where there is a stale value to serve it is taken \
              for fresh for 1s instead.",
        write: |loader, value| loader.error_ttl = value.duration(),
        read: |loader| Value::Duration(loader.error_ttl),
    },
    Spec {
        name: "too_large_ttl",
        kind: span(Duration::ZERO, DAY),
        default: Default::Text("10s"),
        change: Change::Start,
        doc: "As error_ttl, for a row that is larger than row_bytes_max: the database need not send it again and again.",
        write: |loader, value| loader.too_large_ttl = value.duration(),
        read: |loader| Value::Duration(loader.too_large_ttl),
    },
    breaking::switch(
        |loader, value| loader.breaker.enabled = value.choice(&breaking::SWITCH),
        |loader| Value::from_choice(&breaking::SWITCH, loader.breaker.enabled),
    ),
    breaking::window(
        |loader, value| loader.breaker.window = value.duration(),
        |loader| Value::Duration(loader.breaker.window),
    ),
    breaking::calls(
        |loader, value| loader.breaker.calls_min = value.u32(),
        |loader| Value::Integer(loader.breaker.calls_min.into()),
    ),
    breaking::failures(
        |loader, value| loader.breaker.failures_max = value.ratio(),
        |loader| Value::Ratio(loader.breaker.failures_max),
    ),
    breaking::slow(
        |loader, value| loader.breaker.slow = value.duration(),
        |loader| Value::Duration(loader.breaker.slow),
    ),
    breaking::open(
        |loader, value| loader.breaker.open = value.duration(),
        |loader| Value::Duration(loader.breaker.open),
    ),
    breaking::open_max(
        |loader, value| loader.breaker.open_max = value.duration(),
        |loader| Value::Duration(loader.breaker.open_max),
    ),
];
