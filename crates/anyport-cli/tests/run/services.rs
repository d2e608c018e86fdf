//! Services of `wasi:http`, of both versions, as a process: what their options do, what is told, how they end.

use std::path::PathBuf;
use std::thread;

use rustix::process::Signal;

use crate::support::client::{Client, wait_until_refused};
use crate::support::http::http;
use crate::support::{PATIENCE, Process, command_in, root};

const VERSIONS: [&str; 2] = ["0.2", "0.3"];

fn guest(version: &str) -> PathBuf {
    root().join(format!("guests/wasi-http-{version}/echo/server.wasm"))
}

fn serve(version: &str, words: &[&str]) -> Process {
    let file = guest(version);
    let file = file.to_str().expect("a path of ours");
    Process::spawn(command_in(&root(), [&["run", "-p", "0:8080", "--workers", "1"], words, &[file]].concat()))
}

#[test]
fn a_trap_is_told_with_the_id_of_its_request_and_where_it_was() {
    for version in VERSIONS {
        let mut server = serve(version, &[]);
        let answer = http(server.address(), "GET", "/trap", None);
        assert!(answer.starts_with("HTTP/1.1 500 "), "{version}: {answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
        let told = server.line(&format!("warning: request {id}: the guest failed before it answered"));
        assert!(told.contains("wasm `unreachable` instruction executed"), "{version}: {told}");
        // A function of the guest, where its names are.
        server.line("server.wasm!");
    }
}

#[test]
fn an_instance_is_used_as_often_as_it_may() {
    for version in VERSIONS {
        let mut server = serve(version, &["--max-instances", "1", "--max-instance-reuse", "2"]);
        let address = server.address();
        let counts: Vec<String> = (0..5)
            .map(|_| {
                let answer = http(address, "GET", "/count", None);
                let body = answer.split_once("\r\n\r\n").expect("a head").1;
                body.split_whitespace().next().unwrap_or_default().to_owned()
            })
            .collect();
        assert_eq!(counts, ["1", "2", "1", "2", "1"], "{version}");
    }
}

#[test]
fn an_instance_has_as_many_requests_at_a_time_as_it_may() {
    for (concurrency, status) in [("1", "503"), ("2", "200")] {
        let words = ["--max-instances", "1", "--max-queue", "0", "--max-instance-concurrency", concurrency];
        let mut server = serve("0.3", &words);
        let address = server.address();
        // It is at work when it has read some of it, and has not answered yet.
        let mut first = Client::to(address);
        first.send(b"GET /sleep?ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n");
        let told = || http(address, "GET", "/count", None);
        let is_at_work = |answer: &str| answer.starts_with("HTTP/1.1 503 ") || answer.ends_with(" 2\n");
        let answer = std::iter::repeat_with(told).find(|answer| is_at_work(answer)).expect("it goes on for ever");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{concurrency}: {answer}");
        drop(first);
    }
}

#[test]
fn an_answer_that_was_begun_is_sent_to_its_end() {
    for version in VERSIONS {
        for signal in [Signal::TERM, Signal::INT] {
            let mut server = serve(version, &["--drain-timeout", "1h"]);
            let address = server.address();
            let mut client = Client::to(address);
            client.send(b"GET /stream?n=3&ms=300 HTTP/1.1\r\nHost: a\r\n\r\n");
            while client.line() != "chunk 0" {}
            let draining = thread::spawn(move || wait_until_refused(address));
            server.signal(signal);
            draining.join().expect("it takes no others");
            let rest = client.rest();
            assert!(rest.contains("chunk 1") && rest.ends_with("chunk 2\n\r\n0\r\n\r\n"), "{version}: {rest}");
            let ended = server.end_within(PATIENCE);
            assert_eq!(ended.code(), 0, "{version}: {ended}");
        }
    }
}
