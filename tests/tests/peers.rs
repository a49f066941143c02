//! What each of several nodes finds out about the others: nodes are killed, stopped and started anew, and the others tell.

use leasehold_tests::cluster::{addresses, options};
use leasehold_tests::process::free_port;
use leasehold_tests::watch::until;
use leasehold_tests::{Client, Cluster, Server};

/// What a node says of another one: `state` and its like.
fn told(node: &mut Client, other: &str, field: &str) -> String {
    let info = node.command(&["INFO", "cluster"]).text();
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("x_peer_{other}:")));
    let mut fields = line.expect("each other node is told of").split(',');
    fields.find_map(|pair| pair.strip_prefix(&format!("{field}="))).expect("it has this field").to_owned()
}

/// The flags and the state of the connection of the node with this address, by `CLUSTER NODES`.
fn flags(node: &mut Client, port: u16) -> (String, String) {
    let nodes = node.command(&["CLUSTER", "NODES"]).text();
    let line = nodes.lines().find(|line| line.contains(&format!("127.0.0.1:{port}@"))).expect("each node is listed");
    let words: Vec<&str> = line.split(' ').collect();
    (words[2].to_owned(), words[7].to_owned())
}

/// Lines of the log with this text about node b.
fn lines(node: &Server, text: &str) -> usize {
    node.logs().lines().filter(|line| line.contains(text) && line.contains("node=\"b\"")).count()
}

#[test]
fn a_node_that_is_killed_is_out_at_the_others_and_returns_when_it_is_back() {
    let ports = [free_port(), free_port(), free_port()];
    let start = |place: usize| {
        options(["a", "b", "c"][place], ports[place]).conf(format!("flap-out = \"0s\"\n{}", addresses(ports))).start()
    };
    let mut nodes: Vec<Server> = (0..3).map(start).collect();
    let mut client = nodes[0].client();
    until("all are well", || ["b", "c"].iter().all(|name| told(&mut client, name, "state") == "well"));
    assert_eq!(flags(&mut client, ports[1]), ("master".to_owned(), "connected".to_owned()));
    // It may have been there later than this one, and the log tells of it a moment after INFO does.
    let all = |node: &Server| (lines(node, "another node is out"), lines(node, "another node is well again"));
    until("all is told", || all(&nodes[0]).0 == all(&nodes[0]).1);
    let before = all(&nodes[0]);
    nodes[1].kill();
    // Nobody asks for its keys: its pulse alone tells.
    until("it is out", || told(&mut client, "b", "state") == "out");
    assert_eq!(told(&mut client, "b", "reason"), "does not answer");
    assert_eq!(told(&mut client, "c", "state"), "well");
    assert_eq!(flags(&mut client, ports[1]), ("master,fail".to_owned(), "disconnected".to_owned()));
    let info = client.command(&["CLUSTER", "INFO"]).text();
    assert!(info.contains("cluster_state:fail\r\n") && !info.contains("cluster_slots_fail:0\r\n"), "{info}");
    nodes[1] = start(1);
    until("it has returned", || told(&mut client, "b", "state") == "well");
    let info = client.command(&["CLUSTER", "INFO"]).text();
    assert!(info.contains("cluster_state:ok\r\n") && info.contains("cluster_slots_fail:0\r\n"), "{info}");
    until("that is told", || lines(&nodes[0], "another node is well again") == before.1 + 1);
    assert_eq!(lines(&nodes[0], "another node is out"), before.0 + 1, "each change is told once");
}

#[test]
fn a_node_that_stands_still_is_out_and_it_takes_the_others_for_well_when_it_goes_on() {
    let cluster = Cluster::start_with("peer-timeout = \"500ms\"", "");
    let (mut client, mut stopped) = (cluster.nodes[0].client(), cluster.nodes[1].client());
    until("it is asked", || told(&mut client, "b", "state") == "well");
    until("it asks", || ["a", "c"].iter().all(|name| told(&mut stopped, name, "state") == "well"));
    cluster.nodes[1].pause();
    until("it is out", || told(&mut client, "b", "state") == "out");
    cluster.nodes[1].resume();
    until("it has returned", || told(&mut client, "b", "state") != "out");
    // It was this one that stood still: nothing follows from pings without an answer.
    for name in ["a", "c"] {
        assert_ne!(told(&mut stopped, name, "state"), "out");
    }
}

#[test]
fn a_node_of_the_gutter_pool_owns_nothing_and_serves_as_any_node() {
    let ports = [free_port(), free_port(), free_port()];
    let conf = addresses(ports).replacen("[nodes.b]\n", "[nodes.b]\npool = \"gutter\"\n", 1);
    let start = |place: usize| options(["a", "b", "c"][place], ports[place]).conf(conf.clone()).start();
    let nodes: Vec<Server> = (0..3).map(start).collect();
    let (mut main, mut gutter) = (nodes[0].client(), nodes[1].client());
    for number in 0..50 {
        let key = format!("key:{number}");
        assert_eq!(gutter.command(&["SET", &key, "1"]).text(), "OK");
        assert_eq!(main.command(&["GET", &key]).text(), "1");
    }
    assert_eq!(gutter.command(&["DBSIZE"]).integer(), 0);
    let info = main.command(&["CLUSTER", "INFO"]).text();
    assert!(info.contains("cluster_known_nodes:3\r\n") && info.contains("cluster_size:2\r\n"), "{info}");
    until("the gutter is asked, too", || told(&mut main, "b", "state") == "well");
}
