//! Rules of the source tree that no compiler checks: who may depend on whom, no input or output below the binary, where
//! `unsafe` may stand, and that every file says what it is.

use leasehold_tests::server::workspace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Dependencies among our crates. Any other edge fails.
const EDGES: &[(&str, &[&str])] = &[
    ("leasehold-protocol", &[]),
    ("leasehold-keyspace", &[]),
    ("leasehold-cluster", &[]),
    ("leasehold-loader-api", &[]),
    ("leasehold-command", &["leasehold-cluster", "leasehold-keyspace", "leasehold-protocol"]),
    ("leasehold-loader-sql", &["leasehold-loader-api"]),
    (
        "leasehold",
        &[
            "leasehold-cluster",
            "leasehold-command",
            "leasehold-keyspace",
            "leasehold-loader-api",
            "leasehold-loader-sql",
            "leasehold-protocol",
        ],
    ),
    // Nothing depends on these two, and neither on the binary.
    (
        "leasehold-tests",
        &[
            "leasehold-command",
            "leasehold-keyspace",
            "leasehold-loader-api",
            "leasehold-loader-sql",
            "leasehold-protocol",
        ],
    ),
    ("leasehold-benches", &["leasehold-command", "leasehold-keyspace", "leasehold-protocol"]),
];

/// Crates below the binary: time, randomness and configuration are arguments.
const SANS_IO: &[&str] = &["server/protocol", "server/keyspace", "server/cluster", "server/command"];

/// What would be input or output, time or chance.
const IO_WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "std::net",
    "std::thread",
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "tokio",
    "async fn",
    ".await",
    "rand::",
    "RandomState::new",
    "RandomState::default",
    "getrandom",
];

/// Crates that bring input, output, time or chance.
const IO_CRATES: &[&str] =
    &["tokio", "tokio-util", "mio", "socket2", "rand", "getrandom", "sqlx", "chrono", "time", "libc"];

/// The keyspace takes an advice about memory from it that rustix does not name.
const LIBC_FOR_MEMORY: &str = "libc";

/// Files with `unsafe`, and what for.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("server/keyspace/src/cells.rs", "memory of tables, from the system and back"),
    ("server/keyspace/src/entry.rs", "one absence is one block of memory"),
    ("server/keyspace/src/log/extents.rs", "memory of runs, from the system and back"),
    ("server/keyspace/src/log/pool.rs", "memory of segments, from the system and back"),
    ("server/src/main.rs", "settings of the allocator"),
    ("server/src/pages.rs", "a setting of the process, about huge pages"),
    ("server/tests/size_class.rs", "asks the allocator what a block costs"),
    ("tests/src/hosts.rs", "a thread gets a network of its own, and a device in it"),
    ("benches/src/system.rs", "epoll for the floor that servers are measured against"),
];

/// A file is one noun; longer than this it is two.
const LINES_MAX: usize = 700;

/// What we depend on and others want in another version, and who.
const MANY_VERSIONS: &[(&str, &str)] = &[("hashbrown", "sqlx, by way of hashlink and indexmap")];

#[test]
fn crates_depend_one_way() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is in no list: what may it depend on?"));
        for dependency in dependencies(package).filter(|dependency| ours.contains(dependency)) {
            assert!(allowed.contains(&dependency), "{name} may not depend on {dependency}");
        }
    }
    for (name, _) in EDGES {
        assert!(ours.contains(name), "{name} is in the list and not in the workspace");
    }
}

#[test]
fn nothing_below_the_binary_does_input_or_output() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("cargo metadata lists packages") {
        let manifest = package["manifest_path"].as_str().expect("a package has a manifest");
        if !SANS_IO.iter().any(|directory| manifest.ends_with(&format!("{directory}/Cargo.toml"))) {
            continue;
        }
        for dependency in normal_dependencies(package) {
            let is_allowed = manifest.ends_with("server/keyspace/Cargo.toml") && dependency == LIBC_FOR_MEMORY;
            assert!(is_allowed || !IO_CRATES.contains(&dependency), "{manifest} depends on {dependency}");
        }
    }
    let mut found = String::new();
    for directory in SANS_IO {
        // Tests with a file of their own may look at the system.
        let is_product = |file: &PathBuf| file.file_name().is_none_or(|name| name != "tests.rs");
        for file in files(&workspace().join(directory).join("src"), "rs").into_iter().filter(is_product) {
            for (number, line) in product_lines(&read(&file)) {
                if let Some(word) = IO_WORDS.iter().find(|word| contains_word(line, word)) {
                    let _ = writeln!(found, "{}:{number}: {word}", shown(&file));
                }
            }
        }
    }
    assert!(found.is_empty(), "input or output below the binary:\n{found}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> =
        rust_files().iter().filter(|file| !read(file).starts_with("//! ")).map(|file| shown(file)).collect();
    assert!(silent.is_empty(), "files that do not open with `//!`: {silent:#?}");
}

#[test]
fn unsafe_stands_in_named_files_and_says_why_it_is_sound() {
    for file in rust_files() {
        let text = read(&file);
        let name = shown(&file);
        let is_named = UNSAFE_FILES.iter().any(|(file, _)| *file == name);
        let lines: Vec<&str> = text.lines().collect();
        let mut uses = 0;
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_block = contains_word(code, "unsafe") && (code.contains("unsafe {") || code.contains("unsafe impl"));
            if !is_block && !code.contains("unsafe fn") || code.contains('"') {
                continue;
            }
            uses += 1;
            let before = &lines[index.saturating_sub(8)..=index];
            assert!(
                !is_block || before.iter().any(|line| line.contains("// SAFETY:")),
                "{name}:{}: `unsafe` without `// SAFETY:`",
                index + 1
            );
        }
        assert_eq!(uses > 0, is_named && uses > 0, "{name}: `unsafe` outside the named files");
    }
    for (file, why) in UNSAFE_FILES {
        assert!(workspace().join(file).is_file(), "{file} ({why}) is named and gone");
    }
}

#[test]
fn files_are_one_noun_long() {
    let mut long = String::new();
    for file in rust_files() {
        let text = read(&file);
        let lines = match text.find("\n#[cfg(test)]") {
            Some(end) => text[..end].lines().count(),
            None => text.lines().count(),
        };
        let name = shown(&file);
        if lines > LINES_MAX {
            let _ = writeln!(long, "{name}: {lines} lines without its tests");
        }
    }
    assert!(long.is_empty(), "longer than {LINES_MAX} lines:\n{long}");
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts, so that this file does not name them itself.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["dbg", "!("],
        ["#[igno", "re"],
    ];
    let mut found = String::new();
    for file in rust_files() {
        for (index, line) in read(&file).lines().enumerate() {
            for word in words.map(|parts| parts.concat()) {
                if contains_word(line, &word) {
                    let _ = writeln!(found, "{}:{}: {word}", shown(&file), index + 1);
                }
            }
        }
    }
    assert!(found.is_empty(), "left for later:\n{found}");
}

#[test]
fn versions_of_dependencies_stand_in_one_place() {
    for manifest in files(workspace(), "toml").iter().filter(|file| file.ends_with("Cargo.toml")) {
        let text = read(manifest);
        // The fuzz target is built apart, so it cannot inherit from the workspace.
        if *manifest == workspace().join("Cargo.toml") || manifest.starts_with(workspace().join("tests/fuzz")) {
            continue;
        }
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.contains("dependencies");
            } else if inside && line.contains('=') {
                assert!(line.contains("workspace = true"), "{}: {line}", shown(manifest));
            }
        }
    }
}

#[test]
fn what_we_depend_on_has_one_version() {
    let lock = read(&workspace().join("Cargo.lock"));
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let direct: BTreeSet<&str> = packages.iter().flat_map(dependencies).collect();
    for name in direct {
        if MANY_VERSIONS.iter().any(|(many, _)| *many == name) {
            continue;
        }
        let count = lock.matches(&format!("name = \"{name}\"\n")).count();
        assert!(count <= 1, "{name} is there in {count} versions");
    }
}

#[test]
fn the_command_table_of_the_readme_is_the_one_the_server_has() {
    let readme = read(&workspace().join("README.md"));
    let table = leasehold_command::readme::readme_table();
    assert!(
        readme.contains(table.trim()),
        "README.md does not contain the table of commands as it is now:\n\n{table}\nPut it there."
    );
}

fn metadata() -> Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace())
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    package["dependencies"].as_array().into_iter().flatten().filter_map(|dependency| dependency["name"].as_str())
}

/// Without those for tests and build scripts.
fn normal_dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|dependency| dependency["kind"].is_null()).filter_map(|dependency| dependency["name"].as_str())
}

/// Lines of code that end up in the product, with their numbers.
fn product_lines(text: &str) -> Vec<(usize, &str)> {
    let end = text.find("\n#[cfg(test)]").unwrap_or(text.len());
    let lines = text[..end].lines().enumerate();
    lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default())).collect()
}

/// Whether `word` stands in `line`, and not as a part of a longer word.
fn contains_word(line: &str, word: &str) -> bool {
    let is_inner = |character: char| character.is_ascii_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let ends_in_word = word.ends_with(is_inner);
        !(before.is_some_and(|before| is_inner(before) && word.starts_with(is_inner))
            || ends_in_word && after.is_some_and(is_inner))
    })
}

fn rust_files() -> Vec<PathBuf> {
    files(workspace(), "rs")
}

/// All files below, without what is built, installed or hidden.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory of the tree can be read").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || ["target", "node_modules", "shared"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The path inside the workspace.
fn shown(file: &Path) -> String {
    file.strip_prefix(workspace()).unwrap_or(file).display().to_string()
}
