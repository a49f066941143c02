//! What an operator asks a running server: where the memory is, what the policy does, which keys are hot or large.

use leasehold_tests::client::request;
use leasehold_tests::{Client, Server, Value};

/// The lines `name:value` of a section of INFO.
fn section(client: &mut Client, name: &str) -> Vec<(String, String)> {
    let text = client.command(&["INFO", name]).text();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn field(fields: &[(String, String)], name: &str) -> String {
    let found = fields.iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("no field {name} in {fields:?}")).1.clone()
}

/// Sets keys `first…` of a prefix to values of `len` bytes.
fn fill(client: &mut Client, prefix: &str, count: usize, len: usize) {
    let mut pipeline = Vec::new();
    for number in 0..count {
        pipeline.extend(request(&[&b"SET"[..], format!("{prefix}{number}").as_bytes(), &vec![b'x'; len]]));
    }
    client.send_raw(&pipeline);
    for _ in 0..count {
        assert_eq!(client.receive(), Value::Simple("OK".to_owned()));
    }
}

#[test]
fn the_parts_of_the_memory_make_up_the_whole() {
    let server = Server::options().set("maxmemory", "16mb").set("maxmemory-policy", "allkeys-tinylfu").start();
    let mut client = server.client();
    fill(&mut client, "key:", 2_000, 3_000);
    fill(&mut client, "key:", 1_000, 40_000);
    client.command(&["GETL", "leased"]);
    let memory = section(&mut client, "memory");
    let bytes = |name: &str| field(&memory, name).parse::<u64>().expect("a number");
    let parts = [
        "x_entry_bytes",
        "x_dead_bytes",
        "x_free_bytes",
        "x_segment_table_bytes",
        "x_index_bytes",
        "x_sketch_bytes",
        "x_absence_bytes",
        "x_lease_bytes",
    ];
    assert_eq!(parts.map(bytes).iter().sum::<u64>(), bytes("used_memory"), "{memory:?}");
    assert!(parts.iter().all(|part| *part == "x_absence_bytes" || bytes(part) > 0), "{memory:?}");
}

#[test]
fn the_policy_tells_what_it_did_until_resetstat() {
    let server = Server::options().set("maxmemory", "8mb").set("maxmemory-policy", "allkeys-lru").start();
    let mut client = server.client();
    fill(&mut client, "a:", 3_000, 4_000);
    client.command(&["GET", "a:2999"]);
    client.command(&["GET", "nothing"]);
    let fields = section(&mut client, "eviction");
    assert_eq!(field(&fields, "policy"), "allkeys-lru");
    let counts = field(&fields, "policy_allkeys-lru");
    assert!(counts.starts_with("hits=1,misses=1,hit_ratio=0.5000,admissions=0,rejections=0,evictions="), "{counts}");
    assert!(!counts.ends_with("evictions=0"), "{counts}");
    client.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-tinylfu"]);
    fill(&mut client, "b:", 3_000, 4_000);
    let fields = section(&mut client, "eviction");
    assert!(field(&fields, "window_bytes") != "0" && field(&fields, "sketch_bytes") != "0", "{fields:?}");
    assert!(!field(&fields, "policy_allkeys-tinylfu").contains("admissions=0,rejections=0"), "{fields:?}");
    assert_eq!(field(&fields, "policy_allkeys-lru"), counts);
    client.command(&["CONFIG", "RESETSTAT"]);
    let fields = section(&mut client, "eviction");
    assert!(!fields.iter().any(|(name, _)| name == "policy_allkeys-lru"), "{fields:?}");
    assert!(field(&fields, "policy_allkeys-tinylfu").ends_with("evictions=0"), "{fields:?}");
}

#[test]
fn the_number_of_samples_is_taken_and_says_that_it_does_nothing() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.command(&["CONFIG", "SET", "maxmemory-samples", "10"]), Value::Simple("OK".to_owned()));
    assert_eq!(client.command(&["CONFIG", "GET", "maxmemory-samples"]).elements()[1].text(), "10");
    let conf = std::fs::read_to_string(leasehold_tests::server::workspace().join("conf/leasehold.toml"));
    let conf = conf.expect("the file is in the repository");
    let (before, _) = conf.split_once("maxmemory-samples =").expect("the option is in the file");
    assert!(before.rsplit("\n\n").next().unwrap_or_default().contains("Has no effect"), "{before}");
}
