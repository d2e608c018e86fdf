//! A server that takes too long: at its connection, at the first byte of its answer, between others.
//!
//! The guest says how long each may take; the test waits for what comes of it, and for no time.

use std::io::Read;
use std::sync::mpsc;

use super::client::{Guest, PATIENCE};
use super::upstream::Upstream;

/// `url` with so many milliseconds for each step.
fn within(url: &str, ms: u64) -> String {
    format!("{url}&ms={ms}")
}

#[test]
fn a_connection_that_is_not_made_in_time() {
    // It takes the connection, and says nothing of TLS.
    let upstream = Upstream::new(|mut connection| assert!(connection.ends()));
    let guest = Guest::allowed(&["127.0.0.1"]);
    let url = format!("https://127.0.0.1:{}/", upstream.port);
    assert_eq!(guest.fetch(&within(&url, 100)), (502, "connection-timeout\n".to_owned()));
}

#[test]
fn an_answer_that_does_not_begin_in_time() {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |mut connection| {
        assert!(connection.head().is_some());
        tell.send(connection.ends()).expect("the test waits for it");
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    let fetched = guest.fetch(&within(&upstream.url("/"), 200));
    assert_eq!(fetched, (502, "http-response-timeout\n".to_owned()));
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true), "the connection is closed");
}

#[test]
fn an_answer_that_stops_on_its_way() {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |mut connection| {
        assert!(connection.head().is_some());
        connection.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        tell.send(connection.ends()).expect("the test waits for it");
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    let mut client = guest.begin("GET", &within(&upstream.url("/"), 200), "");
    let mut answer = Vec::new();
    // How an answer ends that is cut short, the front decides.
    let _ = client.read_to_end(&mut answer);
    assert!(answer.ends_with(b"\r\n\r\nabc"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true), "the connection is closed");
}

#[test]
fn an_answer_that_is_slow_and_never_silent_is_in_time() {
    let upstream = Upstream::new(|mut connection| {
        assert!(connection.head().is_some());
        connection.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            connection.write("x");
        }
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    assert_eq!(guest.fetch(&within(&upstream.url("/"), 20_000)), (200, "xxxxx".to_owned()));
}
