//! Limits of time: answers that do not come, connections without use, computing without end.

mod support;

use std::net::SocketAddr;

use rustix::process::Signal;

use support::client::Client;
use support::process::GuestState;
use support::{Ended, Folder, PATIENCE, Process, guests};

fn serve(dialect: &str, words: &[&str]) -> (Folder, Process, SocketAddr) {
    let folder = Folder::with("x.wasm", guests::behaviour(dialect));
    let mut server = folder.spawn([&["run", "-p", "0:8080"], words, &["x.wasm"]].concat());
    let address = server.address();
    (folder, server, address)
}

fn run(guest: Vec<u8>, words: &[&str]) -> Ended {
    Folder::with("x.wasm", guest).anyport([&["run"], words, &["x.wasm"]].concat())
}

#[test]
fn a_client_without_an_answer_is_let_go() {
    for dialect in ["wasmedge", "preview1"] {
        let (_folder, server, address) = serve(dialect, &["--timeout", "100ms"]);
        for _ in 0..2 {
            let mut client = Client::to(address);
            client.send(b"sink 6\nabc");
            assert_eq!(client.rest(), "");
        }
        let mut client = Client::to(address);
        // Both that left and nobody else: the guest goes on.
        assert_eq!(client.ask("count"), "open 1 accepted 3");
        let ended = server.end_by(Signal::TERM, PATIENCE);
        assert_eq!(ended.code(), 0, "{ended}");
        let warnings: Vec<&str> = ended.stderr.lines().skip(1).collect();
        assert_eq!(warnings, [UNANSWERED], "once");
    }
}

const UNANSWERED: &str = "warning: a client was without an answer for 100ms, or the guest without the rest of its \
    request, so the connection was closed; if that may take longer, add `--timeout 1s`";

#[test]
fn a_connection_without_use_is_closed() {
    for dialect in ["wasmedge", "preview1"] {
        let (_folder, server, address) = serve(dialect, &["--idle-timeout", "100ms"]);
        assert_eq!(Client::to(address).rest(), "");
        let mut client = Client::to(address);
        client.send(b"echo hello\n");
        assert_eq!(client.rest(), "hello\n");
        let ended = server.end_by(Signal::TERM, PATIENCE);
        assert_eq!(ended.code(), 0, "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "it is no fault of the guest's: {ended}");
    }
}

#[test]
fn without_limits_a_slow_answer_comes() {
    // A tenth of the shortest limit is how often is looked: each of these would have ended the connection.
    let (_folder, server, address) = serve("wasmedge", &["--timeout", "0", "--idle-timeout", "0", "--cpu-time", "0"]);
    let mut client = Client::to(address);
    client.send(b"sink 6\nabc");
    let mut other = Client::to(address);
    assert_eq!(other.ask("echo hello"), "hello");
    client.send(b"def");
    assert_eq!(client.line(), "sunk 6 ff478a2a");
    drop((client, other));
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
}

#[test]
fn a_guest_that_computes_without_end_is_ended() {
    let ended = run(guests::loops(), &["--cpu-time", "100ms"]);
    snapshot!(ended.stderr, @"
    error: the guest trapped: it computed for 100ms without a look at its sockets; if it may, add ↵
    `--cpu-time 1s`
    the guest's functions, innermost first:
        0:    0x321 - <wasm function 21>
    ");
    assert_eq!(ended.code(), 134);
    let forever = Folder::with("x.wasm", guests::loops());
    for words in [&["--cpu-time", "0"][..], &["--cpu-time", "1h"], &[]] {
        let process = forever.spawn([&["run"], words, &["x.wasm"]].concat());
        process.wait_for_guest("x.wasm", GuestState::Computing);
        assert_eq!(process.end_by(Signal::TERM, PATIENCE).code(), 143);
    }
}

#[test]
fn a_server_that_computes_without_end_is_started_again() {
    for dialect in ["wasmedge", "preview1"] {
        let (_folder, mut server, address) = serve(dialect, &["--cpu-time", "100ms"]);
        let mut client = Client::to(address);
        client.send(b"spin\n");
        assert_eq!(client.rest(), "");
        assert_eq!(server.line("computed"), OVERRUN);
        // One that works and looks at its sockets is not ended.
        let mut client = Client::to(address);
        for _ in 0..100 {
            assert_eq!(client.ask("echo hello"), "hello");
        }
        assert_eq!(client.ask("count"), "open 1 accepted 1");
    }
}

const OVERRUN: &str = "warning: the guest trapped: it computed for 100ms without a look at its sockets; if it may, add \
    `--cpu-time 1s`; the next one starts in 100ms";

#[test]
fn times_that_are_none_are_explained() {
    let x = guests::exits(0);
    snapshot!(run(x.clone(), &["--timeout", "1d"]), @"
    code 125
    --- stderr
    error: `--timeout 1d` is not right: it is a number with ms, s, m or h
    hint: `30s`, `500ms`, `2m` and `1h30m` are right
    ");
    snapshot!(run(x.clone(), &["--timeout", "-5s"]), @"
    code 125
    --- stderr
    error: `--timeout -5s` is not right: it is a number with ms, s, m or h
    hint: `30s`, `500ms`, `2m` and `1h30m` are right
    ");
    snapshot!(run(x.clone(), &["--idle-timeout", "soon"]), @"
    code 125
    --- stderr
    error: `--idle-timeout soon` is not right: it is a number with ms, s, m or h
    hint: `30s`, `500ms`, `2m` and `1h30m` are right
    ");
    snapshot!(run(x.clone(), &["--cpu-time", "1.5"]), @"
    code 125
    --- stderr
    error: `--cpu-time 1.5` is not right: it is a number with ms, s, m or h
    hint: `30s`, `500ms`, `2m` and `1h30m` are right
    ");
    snapshot!(run(x.clone(), &["--drain-timeout", "s"]), @"
    code 125
    --- stderr
    error: `--drain-timeout s` is not right: it is a number with ms, s, m or h
    hint: `30s`, `500ms`, `2m` and `1h30m` are right
    ");
    snapshot!(run(x.clone(), &["--drain-timeout=99999999999999999999h"]), @"
    code 125
    --- stderr
    error: `--drain-timeout 99999999999999999999h` is not right: it is a number with ms, s, m or h
    hint: `30s`, `500ms`, `2m` and `1h30m` are right
    ");
    let times = ["--timeout", "1", "--idle-timeout=2m", "--cpu-time", "500ms", "--drain-timeout", "1h"];
    assert_eq!(run(x, &times).code(), 0);
}
