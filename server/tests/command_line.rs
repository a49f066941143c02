//! The command line of the real binary: what it prints and how it ends, without serving.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn leasehold(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.current_dir(root()).args(arguments).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_shipped_configuration_is_valid() {
    let output = leasehold(&["--conf", "conf/leasehold.toml", "--check-config"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "configuration is valid\n"),
        "{output:?}"
    );
}

#[test]
fn the_printed_configuration_is_the_shipped_one() {
    let output = leasehold(&["--print-config"]);
    assert_eq!(output.status.code(), Some(0));
    let shipped = std::fs::read_to_string(root().join("conf/leasehold.toml")).expect("it is there");
    assert_eq!(text(&output.stdout), shipped);
}

#[test]
fn a_wrong_configuration_ends_with_1_and_every_mistake() {
    let wrong = ["--set", "timout=5", "--port", "70000"];
    for more in [&["--check-config"][..], &[]] {
        let output = leasehold(&[&wrong, more].concat());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("--set timout: timout: unknown option; did you mean \"timeout\"?\n"), "{errors}");
        assert!(
            errors.contains("--port: port: \"70000\" is out of range; allowed: a whole number from 0 to 65535\n"),
            "{errors}"
        );
    }
}

/// A folder with these files, and what `--check-config` says of `x.toml` in it.
fn checked(name: &str, files: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = std::env::temp_dir().join(format!("leasehold-check-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    for (name, text) in files {
        std::fs::write(folder.join(name), text).expect("the folder is ours");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .current_dir(&folder)
        .args(["--conf", "x.toml", "--check-config"])
        .output()
        .expect("the binary runs");
    std::fs::remove_dir_all(&folder).expect("it is ours");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn the_demo_is_valid() {
    let folder = root().join("conf");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it is there");
    let said = checked("demo", &[("x.toml", &read("demo.toml")), ("demo.sql", &read("demo.sql"))]);
    assert_eq!(said, (Some(0), String::new()));
}

#[test]
fn wrong_sql_is_told_with_its_place() {
    let conf = "[sources.main]\nurl = \"sqlite:x.db\"\ncreate_with = \"x.sql\"\n[loaders.user]\nmatch = \"user:{id:int}\"\n\
                source = \"main\"\nsql = \"SELECT id, nmae FROM users WHERE id = $1\"\n[loaders.key]\nmatch = \"k:{id:int}\"\n\
                source = \"main\"\nsql = \"SELECT name FROM users WHERE id = $1\"\n";
    let schema = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);";
    let (code, errors) = checked("sql", &[("x.toml", conf), ("x.sql", schema)]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("x.toml:7:7: loaders.user.sql: "), "{errors}");
    assert!(errors.contains("nmae"), "{errors}");
    assert!(
        errors.contains("x.toml:11:7: loaders.key.sql: ") || errors.contains("loaders.key.batch_key: "),
        "{errors}"
    );
    assert!(errors.ends_with("leasehold: 2 errors in the configuration\n"), "{errors}");
}

#[test]
fn a_database_that_is_down_is_a_warning() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let conf = format!(
        "[sources.main]\nurl = \"postgres://me:hunter2@127.0.0.1:{port}/db\"\n[loaders.user]\nmatch = \"user:{{id:int}}\"\nsource \
         = \"main\"\nsql = \"SELECT 1\"\n"
    );
    let (code, warnings) = checked("down", &[("x.toml", &conf)]);
    assert_eq!(code, Some(0), "{warnings}");
    assert!(warnings.starts_with("x.toml:2:7: warning: sources.main.url: the source is down"), "{warnings}");
    assert!(!warnings.contains("hunter2"), "{warnings}");
}

#[test]
fn a_url_that_cannot_be_used_is_told_without_its_password() {
    let urls = ["mysql://me:hunter2@h:port/db", "hunter2", "redis://me:hunter2@h", "postgres://me:hunter2@h:port/db"];
    for url in urls {
        let conf = format!("[sources.main]\nurl = \"{url}\"\n");
        let (code, errors) = checked("url", &[("x.toml", &conf)]);
        assert_eq!(code, Some(1), "{url}: {errors}");
        assert!(errors.contains("x.toml:2:7: sources.main.url: ") && !errors.contains("hunter2"), "{errors}");
    }
}

#[test]
fn a_ping_to_nobody_ends_with_1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    drop(listener);
    let output = leasehold(&["--ping", "--port", &port, "--bind", "127.0.0.1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with(&format!("leasehold: no answer from 127.0.0.1:{port}: ")), "{output:?}");
}

#[test]
fn the_version_is_told() {
    let output = leasehold(&["--version"]);
    assert_eq!(text(&output.stdout), format!("leasehold {}\n", env!("CARGO_PKG_VERSION")));
}

/// What `leasehold simulate` says of a trace of this text: how it ends, what it prints, what it complains about.
fn simulated(name: &str, trace: &[u8], arguments: &[&str]) -> (Option<i32>, String, String) {
    let path = std::env::temp_dir().join(format!("leasehold-trace-{}-{name}", std::process::id()));
    std::fs::write(&path, trace).expect("a file for the test");
    let given = ["simulate", "--trace", path.to_str().expect("a plain path")];
    let output = leasehold(&[&given, arguments].concat());
    std::fs::remove_file(&path).expect("it was written above");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_simulation_of_lru_misses_what_a_list_of_that_length_misses() {
    // Two keys in turn, then two others: room for two misses each key once, room for one misses all.
    let trace = b"a 10\nb 10\na 10\nb 10\nc 30\nd 10\n";
    let csv = ["--policy", "allkeys-lru", "--overhead", "none", "--format", "csv", "--memory"];
    let (code, rows, _) = simulated("lru", trace, &[&csv[..], &["20,10,100%"]].concat());
    assert_eq!(code, Some(0));
    assert_eq!(
        rows,
        "policy,memory,requests,object_miss_ratio,byte_miss_ratio\n\
         allkeys-lru,20,6,0.666667,0.750000\n\
         allkeys-lru,10,6,1.000000,1.000000\n\
         allkeys-lru,60,6,0.666667,0.750000\n"
    );
}

#[test]
fn a_simulation_reads_compressed_traces_and_charges_what_entries_cost() {
    // "a 1" and "b 1" in turn, 50 times each, compressed by zstd 1.5.
    let compressed = include_bytes!("data/two-keys.txt.zst");
    let (code, table, errors) = simulated("zstd", compressed, &["--memory", "1mb,150", "--policy", "allkeys-lru"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(table.starts_with("100 requests, 2 keys of 2 bytes in all\n"), "{table}");
    let misses: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("allkeys-lru"))
        .map(|line| line.split_whitespace().nth(3).expect("a column of object misses"))
        .collect();
    // An entry of one byte costs far more than a byte, so 150 bytes hold none or one.
    assert_eq!(misses, ["0.0200", "1.0000"], "{table}");
}

#[test]
fn a_simulation_names_what_it_cannot_use() {
    let (code, _, errors) = simulated("wrong", b"a 1\nb\n", &["--memory", "1kb"]);
    assert_eq!(code, Some(2));
    assert!(errors.ends_with("cannot be used: line 2 should be \"key size\", size in bytes\n"), "{errors}");
    let (code, _, errors) = simulated("policy", b"a 1\n", &["--memory", "1kb", "--policy", "best"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("there is no policy \"best\""), "{errors}");
    let (code, _, errors) = simulated("zero", b"a 1\n", &["--memory", "0%"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("write a size"), "{errors}");
}
