//! SIGTERM, SIGINT and SIGHUP: what is owed to clients is finished first, and nothing new is begun.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use support::client::{Client, wait_until_refused};
use support::process::GuestState;
use support::{Folder, PATIENCE, Process, command_in, guests, root};

/// A person who waits longer than this thinks that it hangs.
const PROMPT: Duration = Duration::from_secs(5);

fn serve(dialect: &str, words: &[&str]) -> (Folder, Process, SocketAddr) {
    let folder = Folder::with("x.wasm", guests::behaviour(dialect));
    let mut server = folder.spawn([&["run", "-p", "0:8080"], words, &["x.wasm"]].concat());
    let address = server.address();
    (folder, server, address)
}

/// Half of a request: the guest has read it, and cannot answer yet.
fn begin(server: SocketAddr) -> Client {
    let mut client = Client::to(server);
    client.send(b"sink 6\nabc");
    // One answer shows that the guest has been at work since, two that it has been at work after that.
    let mut other = Client::to(server);
    for _ in 0..2 {
        assert_eq!(other.ask("echo hello"), "hello");
    }
    client
}

/// FNV-1a of `abcdef`, as the guest tells it.
const SUNK: &str = "sunk 6 ff478a2a";

#[test]
fn a_request_that_was_begun_is_answered() {
    for (dialect, signal) in [("wasmedge", Signal::TERM), ("preview1", Signal::INT), ("preview1", Signal::HUP)] {
        for words in [&[][..], &["--workers", "2"]] {
            let (_folder, server, address) = serve(dialect, &[words, &["--drain-timeout", "1h"]].concat());
            let mut client = begin(address);
            server.signal(signal);
            wait_until_refused(address);
            client.send(b"def");
            assert_eq!(client.line(), SUNK, "{dialect} {words:?}");
            // Between two requests, a connection is ended by the server.
            assert_eq!(client.rest(), "");
            let ended = server.end();
            assert_eq!(ended.code(), 0, "{ended}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        }
    }
}

#[test]
fn who_waits_at_the_port_is_served() {
    // It serves one connection at a time, so that others wait.
    let (_folder, server, address) = serve("wasmedge-blocking", &["--drain-timeout", "1h"]);
    let mut first = Client::to(address);
    assert_eq!(first.ask("echo first"), "first");
    first.send(b"sink 6\nabc");
    let mut waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Client::to(address);
            client.send(b"echo hello\nclose\n");
            client
        })
        .collect();
    server.signal(Signal::TERM);
    wait_until_refused(address);
    first.send(b"def");
    assert_eq!(first.line(), SUNK);
    drop(first);
    for client in &mut waiting {
        assert_eq!(client.rest(), "hello\n");
    }
    assert_eq!(server.end().code(), 0);
}

#[test]
fn after_its_time_a_drain_is_over() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        for time in ["100ms", "0"] {
            let (_folder, server, address) = serve("wasmedge", &["--drain-timeout", time]);
            let mut client = begin(address);
            let ended = server.end_by(signal, PROMPT);
            assert_eq!(ended.code(), code, "{ended}");
            assert_eq!(client.rest(), "", "it was cut off");
        }
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second, code) in
        [(Signal::TERM, Signal::TERM, 143), (Signal::INT, Signal::INT, 130), (Signal::INT, Signal::TERM, 130)]
    {
        let (_folder, server, address) = serve("wasmedge", &["--drain-timeout", "1h"]);
        let _client = begin(address);
        server.signal(first);
        wait_until_refused(address);
        let ended = server.end_by(second, PROMPT);
        assert_eq!(ended.code(), code, "{ended}");
    }
}

/// The shell and the kernel may both send one.
#[test]
fn a_terminal_that_closes_may_say_so_twice() {
    let (_folder, server, address) = serve("wasmedge", &["--drain-timeout", "1h"]);
    let mut client = begin(address);
    for _ in 0..2 {
        server.signal(Signal::HUP);
        wait_until_refused(address);
    }
    client.send(b"def");
    assert_eq!(client.line(), SUNK);
    assert_eq!(server.end().code(), 0);
}

#[test]
fn a_guest_that_computes_without_end_is_ended() {
    for workers in ["1", "2"] {
        let words = ["--drain-timeout", "200ms", "--workers", workers];
        let (_folder, server, address) = serve("wasmedge", &words);
        let mut client = Client::to(address);
        client.send(b"spin\n");
        server.wait_for_guest("x.wasm", GuestState::Computing);
        let ended = server.end_by(Signal::TERM, PROMPT);
        assert_eq!(ended.code(), 143, "{ended}");
    }
}

#[test]
fn a_guest_that_fails_while_it_drains_is_told_of() {
    let (_folder, server, address) = serve("wasmedge", &["--drain-timeout", "1h"]);
    let mut client = begin(address);
    server.signal(Signal::TERM);
    wait_until_refused(address);
    client.send(b"deftrap\n");
    client.rest();
    let ended = server.end();
    assert_eq!(ended.code(), 134, "{ended}");
    assert!(ended.stderr.contains("error: the guest trapped: wasm `unreachable` instruction executed"), "{ended}");
}

#[test]
fn a_guest_that_was_about_to_listen_does_not_fail() {
    for _ in 0..10 {
        // One of several listens, the others are at any point of their start.
        let (_folder, server, _) = serve("wasmedge", &["--workers", "4"]);
        let ended = server.end_by(Signal::TERM, PATIENCE);
        assert_eq!(ended.code(), 0, "{ended}");
    }
}

#[test]
fn idle_connections_do_not_keep_it() {
    for words in [&[][..], &["--workers", "2"]] {
        let hello = [&["run", "-p", "0:8080"], words, &["guests/wasmedge/hello/server.wasm"]].concat();
        let mut server = Process::spawn(command_in(&root(), hello));
        let address = server.address();
        let mut clients: Vec<_> = (0..10).map(|_| Client::to(address)).collect();
        // Half of them have asked something, the others nothing yet.
        for client in &mut clients[..5] {
            assert!(client.get("/").expect("an answer").contains("POST your name"));
        }
        let ended = server.end_by(Signal::TERM, PATIENCE);
        assert_eq!(ended.code(), 0, "{ended}");
        assert!(clients.iter_mut().all(|client| client.rest().is_empty()));
    }
}

/// Less than a connection is quiet for before a drain ends it.
const QUIET: Duration = Duration::from_millis(500);

/// Clients that send one request after the other on their connections, and on new ones.
#[derive(Default)]
struct Load {
    asked: AtomicUsize,
    draining: AtomicBool,
    enough: AtomicBool,
}

impl Load {
    /// Asks until it is enough, or nobody listens any more. Each request is answered, but for two that a
    /// guest never sees: the first of a connection that comes as the port is closed, and one that comes
    /// when its connection was quiet for so long that it is ended.
    fn run(&self, address: SocketAddr) {
        while let Ok(mut client) = Client::try_to(address) {
            let mut last = Instant::now();
            for count in 0..20 {
                if self.enough.load(Ordering::Acquire) {
                    return;
                }
                let quiet = last.elapsed();
                match client.get("/") {
                    Ok(answer) => assert_eq!(answer, "POST your name to /hello\n"),
                    Err(_) if count == 0 && self.draining.load(Ordering::Acquire) => return,
                    Err(_) if quiet > QUIET => return,
                    Err(error) => panic!("request {count} was not answered: {error}"),
                }
                last = Instant::now();
                self.asked.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

#[test]
fn nothing_is_lost_under_load() {
    for workers in ["1", "2"] {
        let words = ["run", "-p", "0:8080", "--workers", workers, "guests/wasmedge/hello/server.wasm"];
        let mut server = Process::spawn(command_in(&root(), words));
        let address = server.address();
        let load = Load::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| load.run(address));
            }
            while load.asked.load(Ordering::Acquire) < 500 {
                thread::yield_now();
            }
            load.draining.store(true, Ordering::Release);
            server.signal(Signal::TERM);
            wait_until_refused(address);
            load.enough.store(true, Ordering::Release);
        });
        let ended = server.end();
        assert_eq!(ended.code(), 0, "{ended}");
    }
}
