//! Servers that WASIX's own toolchain made of C: `guests/wasix`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyport::server::Restart;
use anyport::{Artifact, Outcome, Policy, Running, Runtime};

use super::machine::{LONG, connect};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::builder().build().expect("tests run where anyport does"))
}

fn start(name: &str) -> Running {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasix").join(name).with_extension("wasm");
    let server = runtime().load(&Artifact::from_file(path).expect("it is committed")).expect("it can be loaded");
    let policy = Policy { publish: vec!["0:8080".parse().expect("a port")], ..Policy::default() };
    server.policy(policy).env("PORT", "8080").restart(Restart::No).start().expect("it starts")
}

/// One request and its whole answer.
fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer);
        let length = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
            Some(body.len() >= length.parse().expect("a number"))
        });
        if length == Some(true) {
            return text.into_owned();
        }
        let read = stream.read(&mut bytes).expect("it answers in time");
        assert!(read > 0, "the answer ends early: {text}");
        answer.extend(&bytes[..read]);
    }
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: here\r\n\r\n";

/// Answers, and is stopped while it waits.
fn serves(name: &str) {
    let running = start(name);
    for _ in 0..3 {
        assert!(ask(&mut connect(&running), GET).contains("hello from wasix"));
    }
    let mut stream = connect(&running);
    let answer = ask(&mut stream, "POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    assert!(answer.contains("hello from wasix"), "{answer}");
    let began = Instant::now();
    running.stop();
    assert_eq!(running.wait(), Outcome::Stopped);
    assert!(began.elapsed() < LONG / 2);
}

#[test]
fn one_that_blocks_and_tells_its_addresses() {
    let running = start("blocking");
    let mut stream = connect(&running);
    let peer = stream.local_addr().expect("it has one");
    let answer = ask(&mut stream, GET);
    // As it has them: little-endian, whatever a probe finds.
    assert!(answer.contains("local=127.0.0.1:8080 rc=0"), "{answer}");
    assert!(answer.contains(&format!("accept_peer={peer} getpeername={peer} rc=0")), "{answer}");
    running.stop();
    serves("blocking");
}

#[test]
fn one_that_polls() {
    serves("pollsrv");
}

#[test]
fn one_with_an_epoll_set_and_an_eventfd_that_blocks() {
    let running = start("epollsrv");
    let mut streams: Vec<TcpStream> = (0..8).map(|_| connect(&running)).collect();
    for _ in 0..100 {
        for stream in &mut streams {
            assert!(ask(stream, GET).contains("hello from wasix epoll"));
        }
    }
    running.stop();
    serves("epollsrv");
}

#[test]
fn one_with_a_thread_for_each_connection() {
    let running = start("pthread");
    thread::scope(|threads| {
        for _ in 0..16 {
            threads.spawn(|| {
                let mut stream = connect(&running);
                for turn in 1..=50 {
                    let answer = ask(&mut stream, GET);
                    assert!(answer.contains(&format!("mine={turn} ")), "{answer}");
                }
            });
        }
    });
    let answer = ask(&mut connect(&running), GET);
    assert!(answer.contains("total=801 "), "a mutex counts them: {answer}");
    running.stop();
    serves("pthread");
}

#[test]
fn a_pool_of_threads_that_joins_them_in_the_end() {
    let running = start("pool");
    for _ in 0..200 {
        assert!(ask(&mut connect(&running), GET).contains("hello from wasix pool"));
    }
    ask(&mut connect(&running), "GET /quit HTTP/1.1\r\n\r\n");
    // Its first thread waits for one more, or for two: it looks whether it is over when one has come.
    let address: SocketAddr = running.ports()[0].address().expect("it is a port of the host");
    while let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(running.wait(), Outcome::Exited(7));
}

#[test]
fn one_that_jumps_by_exceptions() {
    let running = start("jumps");
    for _ in 0..3 {
        let fault = ask(&mut connect(&running), "GET /fault HTTP/1.1\r\n\r\n");
        assert!(fault.ends_with("\r\n\r\njumped with 418\n"), "{fault}");
    }
    running.stop();
    serves("jumps");
}

#[tokio::test]
async fn one_that_is_told_to_leave_does_so_by_itself() {
    let running = start("sigsrv");
    assert!(ask(&mut connect(&running), GET).contains("hello from wasix sig"));
    let began = Instant::now();
    assert!(running.drain(LONG).await);
    assert_eq!(running.wait(), Outcome::Exited(0));
    assert!(began.elapsed() < LONG / 2);
}

/// Without a handler of its own the signal would end it at once; it is told when nothing is owed any more.
#[tokio::test]
async fn one_that_is_not_drains_as_any_other() {
    let running = start("pollsrv");
    assert!(ask(&mut connect(&running), GET).contains("hello from wasix poll"));
    let began = Instant::now();
    assert!(running.drain(LONG).await);
    assert_eq!(running.wait(), Outcome::Stopped);
    assert!(began.elapsed() < LONG / 2);
}

/// On Wasmer an accept is over after 30 s, and with it the server. Time itself is what is tested, so it passes.
#[test]
fn who_waits_for_half_a_minute_is_still_there() {
    let idle = ["blocking", "pthread", "pollsrv", "epollsrv", "pool"].map(start);
    for running in &idle {
        assert!(ask(&mut connect(running), GET).contains("hello from wasix"));
    }
    thread::sleep(Duration::from_secs(31));
    for running in &idle {
        assert!(ask(&mut connect(running), GET).contains("hello from wasix"));
    }
}
