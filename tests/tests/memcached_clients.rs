//! Real clients of memcached in their own languages, each with its defaults: pymemcache and Django on it, pylibmc on libmemcached,
//! memcache-client of Node.js, Dalli 5 (meta commands only) and Rails on it; scripts in `tests/clients`. libmemcached's own test of a
//! server runs, too.

use leasehold_tests::client_scripts::{node_js, python, run};
use leasehold_tests::groups::{leave_out, program_for};
use leasehold_tests::server::workspace;
use leasehold_tests::{MemcachedServer, Server};
use std::path::PathBuf;
use std::process::Command;

#[test]
fn pymemcache_works_unchanged() {
    let Some(python) = python("pymemcache", "pymemcache") else { return };
    run("pymemcache", python, "memcached_pymemcache.py", Server::memcached_port);
}

#[test]
fn django_works_unchanged() {
    let Some(python) = python("Django", "django, pymemcache") else { return };
    run("Django", python, "memcached_django.py", Server::memcached_port);
}

#[test]
fn pylibmc_works_unchanged() {
    let Some(python) = python("pylibmc", "pylibmc") else { return };
    run("pylibmc", python, "memcached_pylibmc.py", Server::memcached_port);
}

#[test]
fn memcache_client_of_node_works_unchanged() {
    let Some(node) = node_js("memcache-client", "memcache-client") else { return };
    run("memcache-client", node, "memcached_node.mjs", Server::memcached_port);
}

#[test]
fn dalli_works_unchanged() {
    let Some(ruby) = ruby("Dalli") else { return };
    run("Dalli", ruby, "memcached_dalli.rb", Server::memcached_port);
}

#[test]
fn rails_works_unchanged() {
    let Some(ruby) = ruby("Rails") else { return };
    run("Rails", ruby, "memcached_rails.rb", Server::memcached_port);
}

/// Ruby with the libraries that `tests/run` unpacks; else the group is left out.
fn ruby(group: &str) -> Option<Command> {
    let program = program_for(group, "ruby")?;
    let gems: PathBuf = workspace().join("tests/.ruby/usr/share/rubygems-integration/all/gems");
    let Ok(entries) = std::fs::read_dir(&gems) else {
        leave_out(group, "tests/.ruby is not there; tests/run makes it");
        return None;
    };
    let mut command = Command::new(program);
    for entry in entries.flatten() {
        command.arg("-I").arg(entry.path().join("lib"));
    }
    Some(command)
}

/// Debian calls memcapable so.
const MEMCAPABLE: &str = "memccapable";

#[test]
fn memcapable_finds_nothing_wrong() {
    let Some(program) = program_for("memcapable", MEMCAPABLE) else { return };
    let server = Server::options().memcached().start();
    capable(&program, server.memcached_port());
}

/// What it finds is the server's fault, not its own.
#[test]
fn memcapable_finds_nothing_wrong_with_memcached() {
    let Some(program) = program_for("memcapable", MEMCAPABLE) else { return };
    let Some(server) = MemcachedServer::start_for("memcapable") else { return };
    capable(&program, server.port());
}

fn capable(program: &PathBuf, port: u16) {
    let output = Command::new(program)
        .args(["-a", "-h", "127.0.0.1", "-p", &port.to_string(), "-t", "20"])
        .output()
        .expect("the program can be run");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !text.contains("[FAIL]"), "{text}");
    // One that was never run did not pass.
    assert!(text.matches("[pass]").count() >= 27 && text.contains("All tests passed"), "{text}");
}
