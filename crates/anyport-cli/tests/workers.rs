//! Several guests behind one port, and guests that are started again.

mod support;

use std::net::SocketAddr;

use regex::Regex;
use rustix::process::Signal;

use support::client::Client;
use support::{Ended, Folder, PATIENCE, Process, guests};

/// The servers that do what their clients say, of both dialects.
const BEHAVIOURS: [&str; 2] = ["wasmedge", "preview1"];

fn behaviour(dialect: &str) -> Folder {
    Folder::with("x.wasm", guests::behaviour(dialect))
}

/// Runs the guest of a folder, with port 8080 published.
fn serve(folder: &Folder, words: &[&str]) -> (Process, SocketAddr) {
    serve_with(folder, words, 1)
}

/// The same, until so many guests listen.
fn serve_with(folder: &Folder, words: &[&str], guests: usize) -> (Process, SocketAddr) {
    let mut server = folder.spawn([&["run", "-p", "0:8080"], words, &["x.wasm"]].concat());
    let address = server.address();
    server.outputs("listening on fd 3", guests);
    (server, address)
}

fn run(guest: Vec<u8>, words: &[&str]) -> Ended {
    Folder::with("x.wasm", guest).anyport([&["run"], words, &["x.wasm"]].concat())
}

/// Each guest of so many gets its share of connections that stay open, and counts its own alone.
fn share(folder: &Folder, words: &[&str], guests: usize) {
    let (server, address) = serve_with(folder, words, guests);
    let mut clients: Vec<_> = (0..2 * guests)
        .map(|_| {
            let mut client = Client::to(address);
            assert_eq!(client.ask("echo hello"), "hello");
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.ask("count"), "open 2 accepted 2", "{words:?}");
    }
    drop(clients);
    let ended = server.end_by(Signal::TERM, PATIENCE);
    assert_eq!(ended.code(), 0, "{ended}");
}

#[test]
fn workers_share_the_connections() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for dialect in BEHAVIOURS {
        let folder = behaviour(dialect);
        share(&folder, &[], 1);
        share(&folder, &["--workers", "2"], 2);
        share(&folder, &["--workers=5"], 5);
        share(&folder, &["--workers", "cores"], cores);
    }
}

#[test]
fn numbers_of_workers_that_are_none_are_explained() {
    let x = guests::exits(0);
    snapshot!(run(x.clone(), &["--workers", "0"]), @"
    code 125
    --- stderr
    error: `--workers 0` is not right: it is 1 to 1024, or `cores`
    hint: `--workers 2` and `--workers cores` are right
    ");
    snapshot!(run(x.clone(), &["--workers", "1025"]), @"
    code 125
    --- stderr
    error: `--workers 1025` is not right: it is 1 to 1024, or `cores`
    hint: `--workers 2` and `--workers cores` are right
    ");
    snapshot!(run(x.clone(), &["--workers", "x"]), @"
    code 125
    --- stderr
    error: `--workers x` is not right: it is 1 to 1024, or `cores`
    hint: `--workers 2` and `--workers cores` are right
    ");
    snapshot!(run(x.clone(), &["--workers", "-1"]), @"
    code 125
    --- stderr
    error: `--workers -1` is not right: it is 1 to 1024, or `cores`
    hint: `--workers 2` and `--workers cores` are right
    ");
    snapshot!(run(x.clone(), &["--workers"]), @"
    code 125
    --- stderr
    error: `anyport run` needs <FILE>
    hint: it is `anyport run [OPTIONS] <FILE> [ARGS]...`; `anyport run --help` tells more
    ");
    assert_eq!(run(x, &["--workers", "2"]).code(), 0);
}

/// How a guest ended, without its stdout. Where its functions are changes with its compiler.
fn without_offsets(ended: &Ended) -> String {
    let (code, stderr) = (ended.code(), &ended.stderr);
    Regex::new(" +0x[0-9a-f]+")
        .expect("a pattern")
        .replace_all(&format!("code {code}\n{stderr}"), " OFFSET")
        .into_owned()
}

/// Makes the guest trap, and waits for the end of the connection.
fn trap(address: SocketAddr) {
    let mut client = Client::to(address);
    client.send(b"trap\n");
    assert_eq!(client.rest(), "");
}

#[test]
fn a_guest_that_traps_is_started_again() {
    let folder = behaviour("wasmedge");
    let (mut server, address) = serve(&folder, &[]);
    trap(address);
    assert_eq!(Client::to(address).ask("count"), "open 1 accepted 1");
    trap(address);
    server.line("200ms");
    assert_eq!(Client::to(address).ask("count"), "open 1 accepted 1");
    let ended = server.end_by(Signal::TERM, PATIENCE);
    snapshot!(without_offsets(&ended), @"
    code 0
    anyport: listening on 127.0.0.1:PORT for port 8080/tcp of the guest
    warning: the guest trapped: wasm `unreachable` instruction executed; the next one starts in 100ms
    the guest's functions, innermost first:
        0: OFFSET - behaviour-wasmedge.wasm!serve_all
        1: OFFSET - behaviour-wasmedge.wasm!__original_main
        2: OFFSET - behaviour-wasmedge.wasm!_start
    warning: the guest trapped: wasm `unreachable` instruction executed; the next one starts in 200ms
    the guest's functions, innermost first:
        0: OFFSET - behaviour-wasmedge.wasm!serve_all
        1: OFFSET - behaviour-wasmedge.wasm!__original_main
        2: OFFSET - behaviour-wasmedge.wasm!_start
    ");
}

#[test]
fn a_listener_that_was_handed_over_outlives_its_guest() {
    let (mut server, address) = serve(&behaviour("preview1"), &[]);
    for pause in ["100ms", "200ms"] {
        trap(address);
        server.line(pause);
        assert_eq!(Client::to(address).ask("count"), "open 1 accepted 1");
    }
}

#[test]
fn connections_of_other_workers_outlive_a_trap() {
    for dialect in BEHAVIOURS {
        let folder = behaviour(dialect);
        let (mut server, address) = serve_with(&folder, &["--workers", "2"], 2);
        let mut first = Client::to(address);
        assert_eq!(first.ask("count"), "open 1 accepted 1");
        trap(address);
        server.line("the next one starts in 100ms");
        assert_eq!(first.ask("count"), "open 1 accepted 1", "the trap was another's");
        // This one waits for nobody: the first worker listens.
        assert_eq!(Client::to(address).ask("echo hello"), "hello");
        assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
    }
}

#[test]
fn without_restart_a_trap_is_the_end() {
    let folder = behaviour("wasmedge");
    let (server, address) = serve(&folder, &["--restart", "no"]);
    trap(address);
    snapshot!(without_offsets(&server.end()), @"
    code 134
    anyport: listening on 127.0.0.1:PORT for port 8080/tcp of the guest
    error: the guest trapped: wasm `unreachable` instruction executed
    the guest's functions, innermost first:
        0: OFFSET - behaviour-wasmedge.wasm!serve_all
        1: OFFSET - behaviour-wasmedge.wasm!__original_main
        2: OFFSET - behaviour-wasmedge.wasm!_start
    ");
    let (server, address) = serve(&folder, &["--restart=no"]);
    Client::to(address).send(b"exit 3\n");
    assert_eq!(server.end().code(), 3);
}

#[test]
fn without_restart_the_other_workers_go_on() {
    let folder = behaviour("wasmedge");
    let (mut server, address) = serve_with(&folder, &["--restart", "no", "--workers", "2"], 2);
    trap(address);
    server.line("trapped");
    assert_eq!(Client::to(address).ask("echo hello"), "hello");
    trap(address);
    snapshot!(without_offsets(&server.end()), @"
    code 134
    anyport: listening on 127.0.0.1:PORT for port 8080/tcp of the guest
    warning: the guest trapped: wasm `unreachable` instruction executed; it is not started again
    the guest's functions, innermost first:
        0: OFFSET - behaviour-wasmedge.wasm!serve_all
        1: OFFSET - behaviour-wasmedge.wasm!__original_main
        2: OFFSET - behaviour-wasmedge.wasm!_start
    warning: the guest trapped: wasm `unreachable` instruction executed; it is not started again
    the guest's functions, innermost first:
        0: OFFSET - behaviour-wasmedge.wasm!serve_all
        1: OFFSET - behaviour-wasmedge.wasm!__original_main
        2: OFFSET - behaviour-wasmedge.wasm!_start
    error: the guest trapped: wasm `unreachable` instruction executed
    the guest's functions, innermost first:
        0: OFFSET - behaviour-wasmedge.wasm!serve_all
        1: OFFSET - behaviour-wasmedge.wasm!__original_main
        2: OFFSET - behaviour-wasmedge.wasm!_start
    ");
}

#[test]
fn an_exit_is_a_failure_by_its_code() {
    let folder = behaviour("wasmedge");
    let (mut server, address) = serve(&folder, &["--restart", "on-failure"]);
    Client::to(address).send(b"exit 3\n");
    let line = server.line("the next one starts");
    snapshot!(line, @"warning: the guest exited with code 3; the next one starts in 100ms");
    let mut client = Client::to(address);
    assert_eq!(client.ask("count"), "open 1 accepted 1");
    client.send(b"exit 0\n");
    assert_eq!(server.end().code(), 0);
    let (mut server, address) = serve(&folder, &["--restart", "always"]);
    Client::to(address).send(b"exit 0\n");
    let line = server.line("the next one starts");
    snapshot!(line, @"warning: the guest exited with code 0; the next one starts in 100ms");
    assert_eq!(Client::to(address).ask("count"), "open 1 accepted 1");
}

#[test]
fn a_guest_that_fails_before_it_serves_ends_at_once() {
    snapshot!(run(guests::exits(3), &["-p", "0:8080"]), @"code 3");
    snapshot!(without_offsets(&run(guests::plain("unreachable"), &["-p", "0:8080"])), @"
    code 134
    error: the guest trapped: wasm `unreachable` instruction executed
    the guest's functions, innermost first:
        0: OFFSET - <wasm function 1>
    ");
    assert_eq!(run(guests::exits(3), &["--workers", "3"]).code(), 3);
}

#[test]
fn always_is_also_for_what_serves_nothing() {
    let folder = Folder::with("x.wasm", guests::ready_then(""));
    let mut process = folder.spawn(["run", "--restart", "always", "x.wasm"]);
    process.outputs("ready", 2);
    assert_eq!(process.end_by(Signal::TERM, PATIENCE).code(), 143);
}

#[test]
fn dockers_words_for_restart_are_explained() {
    let x = guests::exits(0);
    snapshot!(run(x.clone(), &["--restart", "unless-stopped"]), @"
    code 125
    --- stderr
    error: `--restart unless-stopped` is not right
    hint: `--restart always` starts the guest whenever it ends; that anyport itself is started again is ↵
    up to a service manager
    ");
    snapshot!(run(x.clone(), &["--restart", "on-failure:5"]), @"
    code 125
    --- stderr
    error: `--restart on-failure:5` is not right
    hint: `--restart on-failure`: attempts are not counted, but each failure doubles the pause before ↵
    the next start
    ");
    snapshot!(run(x.clone(), &["--restart=never"]), @"
    code 125
    --- stderr
    error: `--restart never` is not right
    hint: there are no, on-failure, always
    ");
    snapshot!(run(x, &["--restart"]), @"
    code 125
    --- stderr
    error: `--restart x.wasm` is not right
    hint: there are no, on-failure, always
    ");
}
