//! A guest with threads, from outside: what it holds of the machine, and the signals that it is told of.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use support::client::Client;
use support::guests::wasm;
use support::{Folder, PATIENCE, Process, command_in, root};

/// Connections at a time, each with a thread of the guest's; `ANYPORT_CONNECTIONS` has another number, and shows what
/// they took; more than `ulimit -n` are not to be had.
fn connections() -> usize {
    let told = std::env::var("ANYPORT_CONNECTIONS").ok();
    told.map_or(200, |told| told.parse().expect("`ANYPORT_CONNECTIONS` is a number"))
}

/// Kilobytes of memory that a connection may leave behind for good, on average: far fewer than its thread has.
const LEFT_MOST: usize = 4;

fn serve(guest: &str, words: &[&str]) -> (Process, SocketAddr) {
    let guest = format!("guests/wasix/{guest}.wasm");
    let mut server = Process::spawn(command_in(&root(), [&["run", "-p", "0:8080"], words, &[&guest]].concat()));
    let address = server.address();
    (server, address)
}

fn descriptors(server: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.id())).expect("it runs").count()
}

/// Kilobytes of memory that it has.
fn memory(server: &Process) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is told");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

/// Waits until it has no more descriptors than this.
fn wait_for_descriptors(server: &Process, most: usize) {
    let began = Instant::now();
    while descriptors(server) > most {
        assert!(began.elapsed() < PATIENCE, "it has {} descriptors, and had {most}", descriptors(server));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn connections_with_a_thread_each_leave_nothing() {
    let count = connections();
    let most = count.to_string();
    let words = ["--max-connections", &most, "--limit", &format!("threads={count}"), "--idle-timeout", "1h"];
    let (server, address) = serve("pthread", &words);
    // The first makes what is there for all.
    let mut first = Client::to(address);
    assert!(first.get("/").is_ok());
    let before = descriptors(&server) - 1;
    drop(first);
    wait_for_descriptors(&server, before);
    let mut left = Vec::new();
    for round in 0..6 {
        let mut clients: Vec<Client> = (0..count).map(|_| Client::to(address)).collect();
        for client in &mut clients {
            // It stays open.
            client.send(b"GET /x HTTP/1.1\r\nHost: here\r\n\r\n");
            assert!(client.line().contains("200 OK"));
        }
        assert!(descriptors(&server) >= before + count, "all are held");
        let held = memory(&server);
        drop(clients);
        wait_for_descriptors(&server, before);
        left.push(memory(&server));
        if std::env::var_os("ANYPORT_CONNECTIONS").is_some() {
            eprintln!("round {round}: {before} descriptors; {held} kB with {count}, {} kB after", left[round]);
        }
    }
    // What an allocator keeps for the next time, it has by the second.
    assert!(left[5] <= left[1] + 4 * count * LEFT_MOST, "it grows: {left:?}");
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
}

/// Four threads have one connection each, and the others wait for them: open, and silent.
#[test]
fn connections_that_wait_for_a_thread_leave_nothing() {
    let count = connections();
    let (server, address) = serve("pool", &["--max-connections", &(count + 1).to_string(), "--idle-timeout", "1h"]);
    let before = descriptors(&server);
    let mut left = Vec::new();
    for _ in 0..3 {
        let clients: Vec<Client> = (0..count).map(|_| Client::to(address)).collect();
        let began = Instant::now();
        while descriptors(&server) < before + count {
            assert!(began.elapsed() < PATIENCE, "{} of {count} are held", descriptors(&server) - before);
            thread::sleep(Duration::from_millis(5));
        }
        let held = memory(&server);
        drop(clients);
        wait_for_descriptors(&server, before);
        assert!(Client::to(address).get("/").is_ok());
        wait_for_descriptors(&server, before);
        left.push(memory(&server));
        if std::env::var_os("ANYPORT_CONNECTIONS").is_some() {
            eprintln!("{before} descriptors; {held} kB with {count}, {left:?} kB after");
        }
    }
    assert!(left[2] <= left[1] + count * LEFT_MOST, "it grows: {left:?}");
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
}

/// A guest that, for each connection, starts threads until there may be no more, and traps; they wait for ever.
const STARTS_WITHOUT_END: &str = r#"(module
  (import "wasix_32v1" "sock_open" (func $open (param i32 i32 i32 i32) (result i32)))
  (import "wasix_32v1" "sock_bind" (func $bind (param i32 i32) (result i32)))
  (import "wasix_32v1" "sock_listen" (func $listen (param i32 i32) (result i32)))
  (import "wasix_32v1" "sock_accept_v2" (func $accept (param i32 i32 i32 i32) (result i32)))
  (import "wasix_32v1" "futex_wait" (func $wait (param i32 i32 i32 i32) (result i32)))
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "env" "memory" (memory 2 64 shared))
  ;; 0.0.0.0, port 8080.
  (data (i32.const 32) "\01\00\90\1f")
  (func (export "wasi_thread_start") (param i32 i32)
    (drop (call $wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88))))
  (func (export "_start")
    (drop (call $open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 128)))
    (drop (call $bind (i32.load (i32.const 128)) (i32.const 32)))
    (drop (call $listen (i32.load (i32.const 128)) (i32.const 8)))
    (drop (call $accept (i32.load (i32.const 128)) (i32.const 0) (i32.const 132) (i32.const 136)))
    (loop $next (br_if $next (i32.gt_s (call $spawn (i32.const 0)) (i32.const 0))))
    unreachable))"#;

#[test]
fn threads_without_end_leave_nothing() {
    let folder = Folder::with("x.wasm", wasm(STARTS_WITHOUT_END));
    let mut server = folder.spawn(["run", "-p", "0:8080", "--limit", "threads=300", "x.wasm"]);
    let address = server.address();
    let mut rounds = Vec::new();
    for _ in 0..5 {
        // The connection ends with the guest, and the next waits for the next one.
        let mut client = Client::to(address);
        assert!(client.rest().is_empty());
        server.line("the next one starts");
        rounds.push((descriptors(&server), memory(&server)));
    }
    let [_, (descriptors, memory), .., last] = rounds[..] else { panic!("{rounds:?}") };
    assert!(last.0 <= descriptors, "{rounds:?}");
    // Kilobytes: of three hundred threads, four times over.
    assert!(last.1 <= memory + 4 * 300 * LEFT_MOST, "{rounds:?}");
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 0);
}

#[test]
fn a_guest_is_told_of_the_signal_that_anyport_had() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut server, address) = serve("sigsrv", &[]);
        assert!(Client::to(address).get("/").is_ok_and(|answer| answer.contains("hello")));
        server.signal(signal);
        server.line(&format!("got signal {},", signal.as_raw()));
        assert_eq!(server.end_within(PATIENCE).code(), 0);
    }
}
