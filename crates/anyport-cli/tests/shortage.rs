//! Fewer descriptors than clients: they wait, nobody is lost, and the server lives.

mod support;

use std::net::SocketAddr;
use std::time::Instant;

use rustix::process::Signal;

use support::client::Client;
use support::service::under_shell;
use support::{PATIENCE, Process};

/// Enough for a server with a few workers, and for some connections.
const FEW: usize = 60;

const SHORT: &str = "warning: connections have to wait, since none can be accepted for now: \
    Too many open files (os error 24); raise `ulimit -n`";

fn serve(dialect: &str, workers: &str) -> (Process, SocketAddr) {
    let guest = format!("guests/behaviour/behaviour-{dialect}.wasm");
    // Hard and soft: a soft one would be raised.
    let script = format!("ulimit -n {FEW} && exec \"$@\"");
    let words = ["run", "-p", "0:8080", "--workers", workers, &guest];
    let mut server = Process::spawn(under_shell(&script, &words));
    let address = server.address();
    // A guest needs descriptors to start with.
    server.outputs("listening on fd 3", workers.parse().expect("a number"));
    (server, address)
}

#[test]
fn more_clients_than_descriptors() {
    for dialect in ["wasmedge", "preview1"] {
        for workers in ["1", "2"] {
            let (mut server, address) = serve(dialect, workers);
            let mut clients: Vec<_> = (0..2 * FEW).map(|_| Client::to(address)).collect();
            for client in &mut clients {
                client.send(b"echo hello\n");
            }
            server.line("connections have to wait");
            // Whoever leaves makes room for the next, in the order in which they came.
            for mut client in clients {
                assert_eq!(client.line(), "hello", "{dialect}, {workers} workers");
            }
            assert_eq!(Client::to(address).ask("errno"), "errors 0 last 0", "the guest noticed nothing");
            let ended = server.end_by(Signal::TERM, PATIENCE);
            assert_eq!(ended.code(), 0, "{ended}");
            let warnings = ended.stderr.lines().filter(|line| line.starts_with("warning:"));
            assert!(warnings.eq([SHORT]), "{ended}");
        }
    }
}

/// Whether each of two guests takes one of two connections.
fn both_serve(address: SocketAddr) -> bool {
    let mut clients = [Client::to(address), Client::to(address)];
    // Both are open before the first is asked for its count.
    for client in &mut clients {
        assert_eq!(client.ask("echo hello"), "hello");
    }
    clients.iter_mut().all(|client| client.ask("count").starts_with("open 1 "))
}

#[test]
fn a_guest_that_finds_no_descriptor_gets_another_chance() {
    let (mut server, address) = serve("wasmedge", "2");
    let mut clients: Vec<_> = (0..2 * FEW).map(|_| Client::to(address)).collect();
    server.line("connections have to wait");
    // The other guest takes those that wait, and with them what the next one needs.
    clients[0].send(b"trap\n");
    server.line("starts in 100ms");
    drop(clients);
    let start = Instant::now();
    while !both_serve(address) {
        assert!(start.elapsed() < PATIENCE, "one guest alone serves");
    }
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
}

#[test]
fn connections_above_their_limit_wait() {
    for dialect in ["wasmedge", "preview1"] {
        let guest = format!("guests/behaviour/behaviour-{dialect}.wasm");
        for words in [&["--max-connections", "2"][..], &["--limit", "connections=2"]] {
            let command = support::command_in(&support::root(), [&["run", "-p", "0:8080"], words, &[&guest]].concat());
            let mut server = Process::spawn(command);
            let address = server.address();
            let (mut first, mut second) = (Client::to(address), Client::to(address));
            assert_eq!(first.ask("echo hello"), "hello");
            assert_eq!(second.ask("echo hello"), "hello");
            let mut third = Client::to(address);
            third.send(b"count\n");
            for _ in 0..10 {
                assert_eq!(first.ask("count"), "open 2 accepted 2");
            }
            drop(second);
            assert_eq!(third.line(), "open 2 accepted 3");
        }
    }
}

#[test]
fn numbers_of_connections_that_are_none_are_explained() {
    let folder = support::Folder::with("x.wasm", support::guests::exits(0));
    snapshot!(folder.anyport(["run", "--max-connections", "x", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--max-connections x` is not right: it is a number from 1 up
    hint: `--max-connections 1000` is right
    ");
    snapshot!(folder.anyport(["run", "--max-connections", "-1", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--max-connections -1` is not right: it is a number from 1 up
    hint: `--max-connections 1000` is right
    ");
    snapshot!(folder.anyport(["run", "--max-connections", "0", "x.wasm"]), @"
    code 125
    --- stderr
    error: `--max-connections 0` is not right: it is a number from 1 up
    hint: `--max-connections 1000` is right
    ");
}
