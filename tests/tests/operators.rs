//! What an operator asks a running server: where the memory is, what the policy does, which keys are hot or large.

use leasehold_tests::client::request;
use leasehold_tests::server::{binary, workspace};
use leasehold_tests::watch::until;
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
    client.command(&["INVALTAG", "tag"]);
    let mut memory = section(&mut client, "memory");
    // Which few keys the shadow caches look at is drawn at each start.
    for more in 0..100 {
        if field(&memory, "x_shadow_bytes") != "0" {
            break;
        }
        fill(&mut client, &format!("more:{more}:"), 1_000, 40);
        memory = section(&mut client, "memory");
    }
    let bytes = |name: &str| field(&memory, name).parse::<u64>().expect("a number");
    let parts = [
        "x_entry_bytes",
        "x_dead_bytes",
        "x_free_bytes",
        "x_gap_bytes",
        "x_segment_table_bytes",
        "x_index_bytes",
        "x_sketch_bytes",
        "x_absence_bytes",
        "x_lease_bytes",
        "x_shadow_bytes",
        "x_tag_table_bytes",
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
    let conf = std::fs::read_to_string(workspace().join("conf/leasehold.toml"));
    let conf = conf.expect("the file is in the repository");
    let (before, _) = conf.split_once("maxmemory-samples =").expect("the option is in the file");
    assert!(before.rsplit("\n\n").next().unwrap_or_default().contains("Has no effect"), "{before}");
}

#[test]
fn hot_large_and_prefixed_keys_are_told() {
    let server = Server::start();
    let mut client = server.client();
    fill(&mut client, "user:", 300, 100);
    fill(&mut client, "page:", 100, 2_000);
    client.command(&["SET", "page:huge", &"x".repeat(100_000)]);
    for _ in 0..30 {
        client.command(&["GET", "user:7"]);
    }
    client.command(&["GET", "page:none"]);
    let hot = client.command(&["HOTKEYS"]);
    assert_eq!(hot.elements()[3].elements()[0].text(), "user:7");
    let largest = client.command(&["MEMORY", "BIGKEYS", "COUNT", "1"]);
    assert_eq!(largest.elements()[0].text(), "page:huge");
    assert_eq!(largest.elements()[1], client.command(&["MEMORY", "USAGE", "page:huge"]));
    let fields = section(&mut client, "prefixes");
    assert!(field(&fields, "prefix_user").starts_with("keys=300,bytes="), "{fields:?}");
    assert!(field(&fields, "prefix_user").ends_with(",hits=30,misses=0,hit_ratio=1.0000"), "{fields:?}");
    assert!(field(&fields, "prefix_page").starts_with("keys=101,bytes="), "{fields:?}");
    assert!(field(&fields, "prefix_page").ends_with(",hits=0,misses=1,hit_ratio=0.0000"), "{fields:?}");
    let fields = section(&mut client, "keysizes");
    assert_eq!(field(&fields, "db0_distrib_strings_sizes"), "64=300,1K=100,64K=1");
    assert_eq!(field(&fields, "x_db0_distrib_strings_bytes"), "64=30000,1K=200000,64K=100000");
    assert_eq!(client.command(&["CONFIG", "SET", "prefix-delimiter", "none"]), Value::Simple("OK".to_owned()));
    assert_eq!(field(&section(&mut client, "prefixes"), "prefixes"), "0");
}

/// Reads a key, and stores it if it is not there.
fn cache_aside(client: &mut Client, key: u64) -> bool {
    let key = format!("key:{key}");
    let is_hit = !client.command(&["GET", &key]).is_null();
    if !is_hit {
        client.command(&["SET", &key, &"x".repeat(500)]);
    }
    is_hit
}

#[test]
fn a_trace_of_a_running_server_can_be_simulated() {
    let server = Server::start();
    let out = std::env::temp_dir().join(format!("leasehold-trace-{}", std::process::id()));
    let mut recorder = std::process::Command::new(binary());
    recorder.args(["trace", "--seconds", "2", "--rate", "1", "--port", &server.port().to_string(), "--out"]);
    let mut recorder = recorder.arg(&out).stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    let mut client = server.client();
    until("the trace runs", || !matches!(client.command(&["TRACE", "READ"]), Value::Error(_)));
    for round in 0..3 {
        for key in 0..200 {
            assert_eq!(cache_aside(&mut client, key), round > 0);
        }
    }
    let status = recorder.wait().expect("it ends");
    assert!(status.success());
    let text = std::fs::read_to_string(&out).expect("it was written");
    assert_eq!(text.lines().next(), Some("# leasehold trace, 1 key in 1"));
    assert_eq!(text.lines().count(), 601);
    assert!(!text.contains("key:"));
    let simulated = std::process::Command::new(binary())
        .args([
            "simulate",
            "--memory",
            "100%",
            "--policy",
            "allkeys-lru",
            "--overhead",
            "none",
            "--format",
            "csv",
            "--trace",
        ])
        .arg(&out)
        .output()
        .expect("the binary runs");
    let _ = std::fs::remove_file(&out);
    let csv = String::from_utf8_lossy(&simulated.stdout).into_owned();
    assert!(csv.contains(",600,0.333333,"), "{csv}{}", String::from_utf8_lossy(&simulated.stderr));
    assert_eq!(client.command(&["TRACE", "STOP"]), Value::Integer(0));
}

#[test]
fn shadow_caches_tell_what_other_memory_would_hit() {
    let server = Server::options().set("maxmemory", "2mb").set("shards", 1).set("whatif", "yes").start();
    let mut client = server.client();
    // A circle of about 5 MB: twice the memory does not hold it under lru, and tinylfu keeps a part.
    let mut outlook = |name: &str| {
        let fields = section(&mut client, "whatif");
        fields.into_iter().find(|(found, _)| found == name).map(|(_, value)| value)
    };
    assert!(outlook("whatif").is_some_and(|is_on| is_on == "1"));
    let mut client = server.client();
    let ratios = |text: Option<String>| -> Vec<f64> {
        let text = text.expect("the shadows are on");
        text.split(',').filter_map(|field| field.split_once('=')?.1.parse().ok()).collect()
    };
    // On a busy machine shadows miss reads, and begin anew: not the first rounds only may be those without hits.
    until("the shadows tell the policies and the limits apart", || {
        for key in 0..5_000 {
            cache_aside(&mut client, key);
        }
        let (lru, tinylfu) = (ratios(outlook("whatif_allkeys-lru")), ratios(outlook("whatif_allkeys-tinylfu")));
        lru[1] < 0.05 && tinylfu[1] > lru[1] + 0.1 && tinylfu[2] > tinylfu[0] + 0.1
    });
    assert!(outlook("whatif_sampled_reads").is_some_and(|reads| reads != "0"));
    client.command(&["CONFIG", "SET", "whatif", "no"]);
    assert_eq!(outlook("whatif_sampled_reads"), None);
}
