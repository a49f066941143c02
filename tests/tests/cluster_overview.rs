//! `leasehold cluster`: what an operator is told of several nodes.

use leasehold_tests::Cluster;
use leasehold_tests::process::Directory;
use leasehold_tests::server::binary;
use leasehold_tests::watch::until_some;
use std::path::Path;
use std::process::Command;

/// What it says, and whether all is well.
fn cluster(arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(binary()).arg("cluster").args(arguments).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code())
}

fn written(files: &Directory, name: &str, conf: &str) -> String {
    let path = files.path().join(name);
    std::fs::write(&path, conf).expect("the directory is ours");
    path.to_string_lossy().into_owned()
}

#[test]
fn a_look_at_all_nodes_tells_what_is_not_well() {
    let mut nodes = Cluster::start_with_gutter("peer-timeout = \"500ms\"", "");
    let files = Directory::new();
    let conf = written(&files, "cluster.toml", nodes.conf());
    let status = || cluster(&["status", "--conf", &conf]);
    let text = until_some("all are well", || {
        let (text, code) = status();
        (code == Some(0)).then_some(text)
    });
    for (name, node) in ["a", "b", "c", "g"].iter().zip(&nodes.nodes) {
        let address = format!("{name:<12} 127.0.0.1:{:<14} ", node.port());
        assert!(text.contains(&address), "{text}");
    }
    assert!(text.ends_with("\nall 4 nodes are well\n"), "{text}");

    let other = written(&files, "other.toml", &nodes.conf().replace("[nodes.b]\n", "[nodes.b]\nweight = 2\n"));
    let (text, code) = cluster(&["status", "--conf", &other]);
    assert!(code == Some(1) && text.contains("\na has another list of nodes (epoch "), "{text}");

    nodes.nodes[1].kill();
    let text = until_some("the others see it out", || {
        let (text, code) = status();
        assert_eq!(code, Some(1), "{text}");
        let all = ["a", "c", "g"].iter().all(|name| text.contains(&format!("\n{name} sees b out for ")));
        all.then_some(text)
    });
    let gone = format!("\nb: no answer from 127.0.0.1:{}: Connection refused", nodes.nodes[1].port());
    assert!(text.contains(&gone), "{text}");
}

#[test]
fn a_plan_tells_what_moves_as_the_nodes_have_it() {
    let nodes = Cluster::start();
    let files = Directory::new();
    let from = written(&files, "from.toml", nodes.conf());
    let without_c = nodes.conf().split("[nodes.c]").next().expect("a split has a first part").to_owned();
    let to = written(&files, "to.toml", &without_c);
    let (text, code) = cluster(&["plan", "--from", &from, "--to", &to]);
    assert_eq!(code, Some(0), "{text}");
    let owned: usize = nodes.nodes[0]
        .client()
        .command(&["CLUSTER", "SLOTS"])
        .elements()
        .iter()
        .map(|range| range.elements())
        .filter(|range| range[2].elements()[1].integer() == i64::from(nodes.nodes[2].port()))
        .map(|range| (range[1].integer() - range[0].integer() + 1) as usize)
        .sum();
    assert!(text.contains(&format!("{:<16} {owned:>12} {:>12}\n", "c", "-")), "{text}");
    let (text, code) =
        cluster(&["plan", "--from", &from, "--to", Path::new(&from).with_extension("none").to_str().expect("text")]);
    assert!(code == Some(2) && text.contains("from.none"), "{text}");
}
