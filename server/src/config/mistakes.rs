//! Wrong configurations, each with exactly what is said about it. The first line of each is the claim.

use super::parse::{Argument, Given, Reading, read};
use super::problem::Level;
use std::path::{Path, PathBuf};

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("leasehold-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn arguments(sets: &[(&str, &str)]) -> Vec<Argument> {
    sets.iter()
        .map(|(name, value)| Argument { flag: "--set".into(), name: (*name).into(), value: (*value).into() })
        .collect()
}

/// What is said about a file of this text, without the lines that show the place.
fn said(folder: &Folder, conf: &str) -> Vec<String> {
    let path = folder.write("x.toml", conf);
    let reading = read(&Given { conf: Some(path), arguments: Vec::new() });
    heads(&reading, &folder.0)
}

fn heads(reading: &Reading, folder: &Path) -> Vec<String> {
    let folder = format!("{}/", folder.display());
    let first_line = |text: String| text.lines().next().unwrap_or_default().replace(&folder, "");
    reading.problems.iter().map(|problem| first_line(problem.to_string())).collect()
}

/// A loader that is right, to add a mistake to.
const LOADER: &str = "\
[sources.main]
url = \"sqlite:x.db\"
[loaders.user]
match = \"user:{id:int}\"
source = \"main\"
sql = \"SELECT 1\"
";

#[test]
fn each_mistake_is_told_with_place_reason_and_range() {
    let cases: &[(&str, &[&str])] = &[
        ("port = 6379\n", &[]),
        ("port = 70000", &["x.toml:1:8: port: 70000 is out of range; allowed: a whole number from 0 to 65535"]),
        ("port = -1", &["x.toml:1:8: port: -1 is not a whole number; allowed: a whole number from 0 to 65535"]),
        ("port = true", &["x.toml:1:8: port: true is not a whole number; allowed: a whole number from 0 to 65535"]),
        ("port = 0x1A0B\n", &[]),
        ("\n  ports = 1", &["x.toml:2:3: ports: unknown option; did you mean \"port\"?"]),
        ("max_memory = 1", &["x.toml:1:1: max_memory: unknown option; did you mean \"maxmemory\"?"]),
        ("save = \"\"", &["x.toml:1:1: save: unknown option; `leasehold --print-config` lists all of them"]),
        (
            "maxmemory = \"2 gigs\"",
            &[
                "x.toml:1:13: maxmemory: \"2 gigs\" is not a size; allowed: a size (a number of bytes, or with a unit: \"10mb\")",
            ],
        ),
        (
            "timeout = \"2 weeks\"",
            &[
                "x.toml:1:11: timeout: \"2 weeks\" is not a duration; allowed: a duration from 0s to 365d (a number of seconds, \
               or with a unit: \"50s\", \"5m\", \"1h\")",
            ],
        ),
        (
            "maxmemory-policy = \"lru\"",
            &["x.toml:1:20: maxmemory-policy: \"lru\" is not known; allowed: \"noeviction\", \"allkeys-lru\", \
               \"volatile-lru\", \"allkeys-random\", \"volatile-random\", \"volatile-ttl\", \"allkeys-tinylfu\", \
               \"volatile-tinylfu\", \"allkeys-lfu\", \"volatile-lfu\""],
        ),
        (
            "shards = 48",
            &["x.toml:1:10: shards: 48 is out of range; allowed: a power of two from 1 to 4096, or \"auto\""],
        ),
        (
            "bind = [\"127.0.0.1\", \"db.local\"]",
            &[
                "x.toml:1:8: bind: \"db.local\" is not an address; allowed: a list of IP addresses; \"*\" is all of IPv4, \
               \"::*\" all of IPv6, a leading \"-\" makes one optional",
            ],
        ),
        (
            "bind = []",
            &[
                "x.toml:1:8: bind: [] is not a list of addresses; allowed: a list of IP addresses; \"*\" is all of IPv4, \
               \"::*\" all of IPv6, a leading \"-\" makes one optional",
            ],
        ),
        (
            "welcome = [\"a\", 1]",
            &["x.toml:1:11: welcome: [\"a\", 1] is not a text or a list of texts; allowed: a text, or a list of texts"],
        ),
        ("bind = \"*\"", &["x.toml:1:8: warning: bind: other machines can reach the server and no requirepass is set"]),
        (
            "requirepass = 1234",
            &["x.toml:1:15: requirepass: must be a text; allowed: a text; ${NAME} stands for a variable of \
                                  the environment"],
        ),
        (
            "requirepass = \"${LEASEHOLD_NO_SUCH}\"",
            &["x.toml:1:15: requirepass: the environment has no variable \"LEASEHOLD_NO_SUCH\""],
        ),
        (
            "requirepass-file = \"gone\"",
            &["x.toml:1:20: requirepass-file: gone cannot be read: No such file or directory (os error 2)"],
        ),
        ("memcached-port = 6379", &["x.toml:1:18: memcached-port: is that of Redis clients (port)"]),
        ("lease-ms = \"10m\"", &["x.toml:1:12: lease-ms: is longer than lease-ms-max (5m)"]),
        ("client-query-buffer-limit = \"1mb\"", &["proto-max-bulk-len: is more than client-query-buffer-limit (1mb)"]),
        ("ttl = \"5m\"", &["x.toml:1:1: ttl: is an option of [loaders.NAME]"]),
        ("sources = 5", &["x.toml:1:1: sources: must be tables; write [sources.NAME] and its options below"]),
        (
            "[loaders]\nuser = 5",
            &["x.toml:2:1: loaders.user: must be a table; write [loaders.user] and its options below"],
        ),
        (
            "[sources.\"a b\"]",
            &["x.toml:1:10: sources: \"a b\" is no name; allowed: 1 to 64 letters, digits, \"_\" and \"-\""],
        ),
        (
            "[sources.main]\nmax_connections = 5",
            &[
                "x.toml:1:10: sources.main.url: is missing; write url = \"postgres://…\", \"mysql://…\" or \"sqlite:…\", or url_file = \"FILE\"",
                "x.toml:1:10: warning: sources.main: no loader uses this source",
            ],
        ),
        ("[stuff]\nx = 1", &["x.toml:1:2: stuff: unknown option; `leasehold --print-config` lists all of them"]),
        ("node = \"a\"", &["x.toml:1:8: node: there is no [nodes.a]; write a [nodes.a]"]),
        (
            "node = \"mian\"\n[nodes.main]\naddress = \"a:1\"",
            &["x.toml:1:8: node: there is no [nodes.mian]; did you mean \"main\"?"],
        ),
        (
            "[nodes.a]\naddress = \"a:1\"",
            &["x.toml:1:8: warning: nodes.a: does nothing: without node = \"NAME\" this process is alone"],
        ),
        (
            "node = \"a\"\n[nodes.a]\nweight = 2",
            &["x.toml:2:8: nodes.a.address: is missing; for example: address = \"10.0.0.1:6379\""],
        ),
        (
            "node = \"a\"\n[nodes.a]\naddress = \"a:1\"\nweight = 0",
            &["x.toml:4:10: nodes.a.weight: 0 is out of range; allowed: a whole number from 1 to 1000"],
        ),
        (
            "node = \"a\"\n[nodes.a]\naddress = \"a:1\"\npool = \"gutter\"",
            &[
                "x.toml:4:8: nodes.a.pool: is gutter at all nodes, so that nobody owns a key; allowed: main at one node at least",
            ],
        ),
        (
            "node = \"a\"\ngutter = \"pool\"\n[nodes.a]\naddress = \"a:1\"",
            &[
                "x.toml:2:10: gutter: is pool, and no node is in that; allowed: none, same, or pool = \"gutter\" at a node",
            ],
        ),
        (
            "node = \"a\"\npeer-ping = \"300ms\"\n[nodes.a]\naddress = \"a:1\"",
            &["x.toml:2:13: peer-ping: 300ms is too long for peer-timeout = 1s; allowed: a tenth of that"],
        ),
        (
            "node = \"a\"\n[nodes.a]\naddress = \"0.0.0.0:1\"",
            &[
                "x.toml:3:11: nodes.a.address: \"0.0.0.0:1\" is no address that clients could connect to; allowed: host:port or \
               [IPv6]:port",
            ],
        ),
        (
            "node = \"a\"\n[nodes.a]\naddress = \"a:1\"\n[nodes.b]\naddress = \"a:1\"",
            &["x.toml:5:11: nodes.b.address: is the address of nodes.a as well; allowed: one node at an address"],
        ),
        (
            "node = \"a\"\nmemcached-port = 11211\nrouting = \"redirect\"\n[nodes.a]\naddress = \"a:1\"",
            &[
                "x.toml:3:11: routing: cannot be redirect beside memcached-port: clients of memcached cannot be sent to another node; \
               allowed: auto, forward",
            ],
        ),
        ("adress = \"a:1\"", &["x.toml:1:1: adress: unknown option; `leasehold --print-config` lists all of them"]),
        ("address = \"a:1\"", &["x.toml:1:1: address: is an option of [nodes.NAME]"]),
        ("[auditor]", &["x.toml:1:2: warning: auditor: there is no loader to audit"]),
        ("auditor = 5", &["x.toml:1:1: auditor: must be a table; write [auditor] and its options below"]),
        ("port = ", &["x.toml:1:8: is not TOML: string values must be quoted, expected literal string"]),
        ("port = 1\nport = 2", &["x.toml:2:1: is not TOML: duplicate key"]),
    ];
    let folder = Folder::new();
    for (conf, expected) in cases {
        assert_eq!(said(&folder, conf), *expected, "{conf}");
    }
}

#[test]
fn each_mistake_of_a_loader_is_told() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        (
            "port = 1",
            &["x.toml:7:1: loaders.user.port: is an option of the server: it stands before the first [table]"],
        ),
        (
            "timeot = 1",
            &["x.toml:7:1: loaders.user.timeot: unknown option; allowed: match, source, sql, batch_sql, batch_key, \
                          value, rows, rows_max, json_columns, big_numbers, mode, db, ttl, jitter, negative_ttl, stale_for, serve_stale, refresh, refresh_at, \
                          refresh_beta, warm_rate, warm_keys_max, soft_timeout, \
                          hard_timeout, max_concurrency, queue, batch_window, batch_max, version_column, tags, write, \
                          upsert_sql, delete_sql, row_bytes_max, error_ttl, too_large_ttl, breaker, breaker_window, breaker_calls, \
                          breaker_failures, breaker_slow, breaker_open, \
                          breaker_open_max"],
        ),
        ("batch-max = 1", &["x.toml:7:1: loaders.user.batch-max: unknown option; did you mean \"batch_max\"?"]),
        (
            "ttl = 300",
            &[
                "x.toml:7:7: loaders.user.ttl: 300 has no unit; allowed: a duration from 1ms to 365d (with a unit: \"50ms\", \
               \"2s\", \"5m\", \"1h\")",
            ],
        ),
        ("stale_for = 0", &[]),
        ("jitter = 0.75", &["x.toml:7:10: loaders.user.jitter: 0.75 is out of range; allowed: a number from 0 to 0.5"]),
        ("jitter = nan", &["x.toml:7:10: loaders.user.jitter: nan is out of range; allowed: a number from 0 to 0.5"]),
        (
            "value = \"hash\"",
            &["x.toml:7:9: loaders.user.value: \"hash\" is not known; allowed: \"json\", \"msgpack\", \"column\""],
        ),
        ("mode = 'on'", &["x.toml:7:8: loaders.user.mode: 'on' is not known; allowed: \"transparent\", \"explicit\""]),
        (
            "soft_timeout = \"3s\"",
            &["x.toml:7:16: loaders.user.soft_timeout: soft_timeout (3s) is longer than hard_timeout (2s)"],
        ),
        (
            "hard_timeout = \"9ms\"",
            &["x.toml:7:16: loaders.user.hard_timeout: soft_timeout (50ms) is longer than hard_timeout (9ms)"],
        ),
        (
            "breaker_open = \"2m\"",
            &["x.toml:7:16: loaders.user.breaker_open: breaker_open (2m) is longer than breaker_open_max (1m)"],
        ),
        (
            "breaker_failures = 0",
            &["x.toml:7:20: loaders.user.breaker_failures: 0 is out of range; allowed: a number from 0.01 to 1"],
        ),
        (
            "serve_stale = \"always\"",
            &[
                "x.toml:7:15: warning: loaders.user.serve_stale: does nothing while stale_for is 0: no value is kept past its TTL",
            ],
        ),
        ("batch_max = 7", &["x.toml:7:13: warning: loaders.user.batch_max: does nothing without batch_sql"]),
        (
            "[loaders.other]\nmatch = \"x:{id}\"\nsource = \"mian\"",
            &[
                "x.toml:7:10: loaders.other.sql: is missing; for example: sql = \"SELECT id, name, email FROM users WHERE id = \
                 $1\"",
                "x.toml:9:10: loaders.other.source: there is no [sources.mian]; did you mean \"main\"?",
            ],
        ),
        (
            "[loaders.other]\nmatch = \"user:{id\"\nsource = \"main\"\nsql = \"SELECT 1\"",
            &["x.toml:8:9: loaders.other.match: `{id` has no closing brace; write {{ for a brace"],
        ),
        (
            "[loaders.other]\nmatch = \"user:{name}\"\nsource = \"main\"\nsql = \"SELECT 1\"",
            &[
                "x.toml:8:9: loaders.other.match: fits keys that loaders.user loads as well (\"user:{id:int}\"); allowed: one \
               loader for a key",
            ],
        ),
        ("[loaders.other]\nmatch = \"user:{name}\"\nsource = \"main\"\nsql = \"SELECT 1\"\ndb = 1", &[]),
        ("[auditor]\nafter = [\"100ms\", \"1s\", \"1m\", \"1d\"]", &[]),
        (
            "[auditor]\nrate = 0",
            &["x.toml:8:8: auditor.rate: 0 is out of range; allowed: a whole number from 1 to 10000"],
        ),
        (
            "[auditor]\nafter = [\"1s\", \"soon\"]",
            &[
                "x.toml:8:9: auditor.after: \"soon\" is not such a duration; allowed: up to 4 durations from 100ms to 1d, each \
               longer than the one before",
            ],
        ),
        (
            "[auditor]\nafter = [\"1m\", \"1s\"]",
            &[
                "x.toml:8:9: auditor.after: [\"1m\", \"1s\"] are not such durations; allowed: up to 4 durations from 100ms to 1d, \
               each longer than the one before",
            ],
        ),
        (
            "[auditor]\nexclude = [\"usr\"]",
            &["x.toml:8:11: auditor.exclude: there is no [loaders.usr]; did you mean \"user\"?"],
        ),
        ("[auditor]\nexclude = \"user\"", &[]),
        ("[auditor]\nrates = 5", &["x.toml:8:1: auditor.rates: unknown option; did you mean \"rate\"?"]),
        (
            "[sources.both]\nurl = \"sqlite:y\"\nurl_file = \"x.toml\"\n[loaders.other]\nmatch = \"x:{id}\"\nsource = \
             \"both\"\nsql = \"SELECT 1\"",
            &["x.toml:9:12: sources.both.url_file: url is set as well; allowed: one of the two"],
        ),
    ];
    let folder = Folder::new();
    for (conf, expected) in cases {
        assert_eq!(said(&folder, &format!("{LOADER}{conf}")), *expected, "{conf}");
    }
    let few = format!("databases = 4\n{LOADER}db = 4\n");
    assert_eq!(
        said(&folder, &few),
        ["x.toml:8:6: loaders.user.db: 4 is no database; allowed: less than databases (4)"]
    );
}

#[test]
fn all_mistakes_of_a_run_are_told_at_once_in_order() {
    let folder = Folder::new();
    let conf =
        folder.write("x.toml", "timeout = 'x'\nport = = 1\n[sources.main]\nurl = 'sqlite:x'\nmax_conections = 1\n");
    let sets = [
        ("prot", "1"),
        ("sources.main", "x"),
        ("other.main.url", "x"),
        ("sources.main.url", "sqlite:y"),
        ("threads", "0"),
    ];
    let reading = read(&Given { conf: Some(conf), arguments: arguments(&sets) });
    assert_eq!(
        heads(&reading, &folder.0),
        [
            "x.toml:1:11: timeout: 'x' is not a duration; allowed: a duration from 0s to 365d (a number of seconds, or with a \
             unit: \"50s\", \"5m\", \"1h\")",
            "x.toml:2:8: is not TOML: extra `=`, expected nothing",
            "x.toml:2:10: is not TOML: unexpected key or value, expected newline, `#`",
            "x.toml:3:10: warning: sources.main: no loader uses this source",
            "x.toml:5:1: sources.main.max_conections: unknown option; did you mean \"max_connections\"?",
            "--set prot: prot: unknown option; did you mean \"port\"?",
            "--set sources.main: is not complete; write sources.NAME.OPTION=VALUE",
            "--set other.main.url: \"other\" is no group of options; allowed: \"sources\", \"loaders\", \"feeds\", \"nodes\", \"journal\", \"auditor\"",
            "--set threads: threads: \"0\" is out of range; allowed: a whole number from 1 to 256, or \"auto\"",
        ]
    );
    assert!(reading.has_errors());
    assert_eq!(reading.config.sources[0].url, "sqlite:y", "the command line wins");
}

#[test]
fn the_place_is_shown_below() {
    let folder = Folder::new();
    let conf = folder.write("x.toml", "port = 1\n\ttimeout = 'x' # soon\n");
    let reading = read(&Given { conf: Some(conf), arguments: Vec::new() });
    let shown = reading.problems[0].to_string();
    assert!(shown.ends_with("\n 2 | \ttimeout = 'x' # soon\n   | \t          ^^^"), "{shown}");
}

#[test]
fn no_message_holds_a_secret() {
    let folder = Folder::new();
    let texts = [
        "requirepass = \"hunter2${LEASEHOLD_NO_SUCH}\"",
        "requirepass = \"hunter2",
        "requirepass = [\"hunter2\"]",
        "[sources.a]\nurl = [\"hunter2\"]",
        "[sources.a]\nurl = \"postgres://u:hunter2@h/d${\"",
        "[sources.a]\nurl = \"\"\"\nhunter2\n\"\"\" x",
        "sources.a = { url = \"hunter2\", nope = 1 }",
        "[sources]\na = { max_connections = 0, url = \"hunter2\" }",
    ];
    for text in texts {
        let conf = folder.write("x.toml", text);
        let sets = arguments(&[("requirepass", "hunter2${LEASEHOLD_NO_SUCH}"), ("sources.b.url", "hunter2${")]);
        let reading = read(&Given { conf: Some(conf), arguments: sets });
        assert!(reading.has_errors());
        for problem in &reading.problems {
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_told() {
    let folder = Folder::new();
    let gone = read(&Given { conf: Some(folder.0.join("gone.toml")), arguments: Vec::new() });
    assert_eq!(heads(&gone, &folder.0), ["gone.toml: cannot be read: No such file or directory (os error 2)"]);
    let binary = folder.0.join("binary.toml");
    std::fs::write(&binary, b"port = 1\n\xff").expect("the folder is ours");
    let reading = read(&Given { conf: Some(binary), arguments: Vec::new() });
    assert_eq!(heads(&reading, &folder.0), ["binary.toml: is not UTF-8 text: byte 9 is no part of it"]);
}

#[test]
fn files_are_relative_to_the_conf_and_lose_their_line_end() {
    let folder = Folder::new();
    folder.write("password", "hunter2\r\n");
    folder.write("url", "sqlite:x.db\n");
    folder.write("schema.sql", "CREATE TABLE t (id INTEGER);\n");
    let text = "requirepass-file = \"password\"\nlogfile = \"a.log\"\n[sources.main]\nurl_file = \"url\"\ncreate_with = \
                \"schema.sql\"\n[loaders.t]\nmatch = \"t:{id:int}\"\nsource = \"main\"\nsql = \"SELECT 1\"\n";
    let conf = folder.write("x.toml", text);
    let reading = read(&Given { conf: Some(conf), arguments: Vec::new() });
    assert_eq!(heads(&reading, &folder.0), Vec::<String>::new());
    let config = &reading.config;
    assert!(config.live.password.accepts(b"hunter2"));
    assert_eq!(config.log_file.as_deref(), Some(folder.0.join("a.log").as_path()));
    assert_eq!(config.sources[0].url, "sqlite:x.db");
    assert_eq!(config.sources[0].create_with.as_deref(), Some("CREATE TABLE t (id INTEGER);\n"));
}

#[test]
fn memcached_users_are_lines_with_a_colon() {
    let folder = Folder::new();
    folder.write("users", "ann:a:b\nbob:secret\r\n\n");
    let conf = folder.write("x.toml", "memcached-port = 11211\nmemcached-auth-file = \"users\"\n");
    let reading = read(&Given { conf: Some(conf.clone()), arguments: Vec::new() });
    assert_eq!(heads(&reading, &folder.0), Vec::<String>::new());
    let users: Vec<(&str, &str)> =
        reading.config.memcached_users.iter().map(|(user, password)| (&**user, &*password.0)).collect();
    assert_eq!(users, [("ann", "a:b"), ("bob", "secret")]);
    folder.write("users", "ann:secret\nbob\n");
    let reading = read(&Given { conf: Some(conf), arguments: Vec::new() });
    assert_eq!(
        heads(&reading, &folder.0),
        ["x.toml:2:23: memcached-auth-file: its user 2 is no line of the form user:password"]
    );
}

#[test]
fn sources_and_loaders_keep_the_order_of_the_file() {
    let folder = Folder::new();
    let text = "[sources.z]\nurl = 'sqlite:z'\n[sources.a]\nurl = 'sqlite:a'\n[loaders.y]\nmatch = 'y:{id}'\nsource = \
                'z'\nsql = 'q'\n[loaders.b]\nmatch = 'b:{id}'\nsource = 'a'\nsql = 'q'\nbatch_key = 'id'\n";
    let conf = folder.write("x.toml", text);
    let set = arguments(&[("loaders.y.ttl", "1h")]);
    let reading = read(&Given { conf: Some(conf), arguments: set });
    assert_eq!(heads(&reading, &folder.0), Vec::<String>::new());
    let sources: Vec<&str> = reading.config.sources.iter().map(|source| source.name.as_str()).collect();
    let loaders: Vec<&str> = reading.config.loaders.iter().map(|loader| loader.settings.name.as_str()).collect();
    assert_eq!((sources, loaders), (vec!["z", "a"], vec!["y", "b"]));
    assert_eq!(reading.config.loaders[0].ttl, std::time::Duration::from_secs(3600));
    assert_eq!(reading.config.loaders[1].settings.batch_key, Some(vec!["id".to_owned()]));
    assert!(reading.problems.iter().all(|problem| problem.level == Level::Warning));
}

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[test]
fn a_damaged_file_is_told_and_never_stops_the_reader() {
    const ROUNDS: usize = 400;
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/demo.toml");
    let whole = std::fs::read_to_string(demo).expect("the demo is there");
    let pieces = [
        "=", "[", "]", "\"", "'", "\"\"\"", "{", "}", "\n", "#", ".", ",", "\u{0}", "ü", "${", "-1", "[[", "1e9", "nan",
    ];
    let folder = Folder::new();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut told = 0;
    for round in 0..ROUNDS {
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..=dice.below(4) {
            let at = dice.below(text.len());
            match dice.below(3) {
                0 => text.truncate(at.max(1)),
                1 => drop(text.splice(at..(at + dice.below(40)).min(text.len()), std::iter::empty())),
                _ => drop(text.splice(at..at, pieces[dice.below(pieces.len())].chars())),
            }
            text.push('\n');
        }
        let text: String = text.into_iter().collect();
        let conf = folder.write("x.toml", &text);
        let reading = read(&Given { conf: Some(conf), arguments: Vec::new() });
        for problem in &reading.problems {
            let shown = problem.to_string();
            assert!(shown.contains("x.toml:"), "round {round}: {shown}");
            told += 1;
        }
    }
    assert!(told > ROUNDS, "most damage is seen: {told} problems");
}
