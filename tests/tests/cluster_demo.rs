//! `conf/cluster`, as a reader would run it: the nodes are up after one command, and nobody notices that one is killed.

use leasehold_tests::process::{Directory, free_port};
use leasehold_tests::server::{binary, workspace};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// Ends the nodes with the script that has started them.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let terminate = Command::new("kill").arg(self.0.id().to_string()).status();
        assert!(terminate.is_ok_and(|status| status.success()), "the script runs as long as the nodes");
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_is_killed_and_its_clients_are_answered() {
    if Command::new("python3").arg("--version").output().is_err() {
        return;
    }
    let (files, folder) = (Directory::new(), workspace().join("conf/cluster"));
    let conf = std::fs::read_to_string(folder.join("cluster.toml")).expect("it is there");
    let mut conf = conf.replace("../demo.sql", &workspace().join("conf/demo.sql").display().to_string());
    for port in 7001..=7004 {
        conf = conf.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", free_port()));
    }
    let path = files.path().join("cluster.toml");
    std::fs::write(&path, conf).expect("the directory is ours");
    let script = |name: &str| {
        let mut command = Command::new("python3");
        command.arg(folder.join(name)).arg(&path).current_dir(files.path());
        command.env("LEASEHOLD", binary()).env("PYTHONDONTWRITEBYTECODE", "1").stdout(Stdio::piped());
        command
    };
    let mut up = Up(script("up.py").spawn().expect("it can be run"));
    let lines = BufReader::new(up.0.stdout.take().expect("it is piped")).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.starts_with("all are up"));
    assert!(ready, "the nodes are up");
    let output = script("kill.py").output().expect("it can be run");
    let chart = String::from_utf8(output.stdout).expect("it is a text");
    assert!(output.status.success(), "{chart}");
    for told in ["node b is killed (kill -9)", "node b is started again", "x_peer_b:state="] {
        assert!(chart.contains(told), "{told}: {chart}");
    }
    let sums = chart.lines().find_map(|line| line.strip_suffix(" errors")?.split_once(" reads, "));
    let (reads, errors) = sums.expect("all are counted");
    let [reads, errors] = [reads, errors].map(|sum| sum.parse::<u64>().expect("a number"));
    // A third of the keys is the dead node's for more than half of the time. A machine that stands still may cost a few.
    assert!(reads > 100 && errors * 20 < reads, "{chart}");
}
