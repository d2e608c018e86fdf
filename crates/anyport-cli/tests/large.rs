//! A server that is too large to be committed, of 13 MB: JavaScript with its engine in it, as `guests/large/build.sh`
//! makes it where there are node and npm.

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use support::http::requests;
use support::{PATIENCE, Process, command_in, root, skip};

/// To fetch what it is made of, and to compile it with a compiler that is not optimised.
const LONG: Duration = Duration::from_secs(600);

/// The file, built now if it is not there; none where it cannot be built.
fn hono() -> Option<PathBuf> {
    let file = root().join("target/guests/hono.wasm");
    if file.exists() {
        return Some(file);
    }
    let is_there = |program: &str| {
        let asked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    if !(is_there("node") && is_there("npm")) {
        skip("there are no node and npm to build a component of JavaScript with");
        return None;
    }
    let mut build = Command::new("bash");
    build.current_dir(root()).args(["guests/large/build.sh", "hono"]).stdin(Stdio::null());
    let built = Process::start(build.stdout(Stdio::piped()).stderr(Stdio::piped())).end_within(LONG);
    if built.code() != 0 && std::env::var_os("CI").is_none() {
        skip(&format!("a component of JavaScript cannot be built: {built}"));
        return None;
    }
    assert_eq!(built.code(), 0, "{built}");
    Some(file)
}

#[test]
fn a_component_of_javascript_is_compiled_ahead_and_serves() {
    let Some(file) = hono() else { return };
    let file = file.to_str().expect("it is text");
    let added = Process::spawn(command_in(&root(), ["cache", "add", file])).end_within(LONG);
    assert_eq!(added.code(), 0, "{added}");
    let words = ["run", "-p", "0:8080", "--prewarm", "1", "--log", "warn,anyport=debug", file];
    let mut server = Process::spawn(command_in(&root(), words));
    let address = server.address();
    for request in requests(&root().join("guests/large/hono")) {
        request.ask(address);
    }
    let ended = server.end_by(Signal::TERM, PATIENCE);
    assert_eq!(ended.code(), 0, "{ended}");
    assert!(ended.stderr.contains("is taken from the cache"), "{ended}");
}
