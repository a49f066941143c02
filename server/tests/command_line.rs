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

#[test]
fn a_ping_to_nobody_ends_with_1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    drop(listener);
    let output = leasehold(&["--ping", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with(&format!("leasehold: no answer from 127.0.0.1:{port}: ")), "{output:?}");
}

#[test]
fn the_version_is_told() {
    let output = leasehold(&["--version"]);
    assert_eq!(text(&output.stdout), format!("leasehold {}\n", env!("CARGO_PKG_VERSION")));
}
