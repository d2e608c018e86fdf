//! Bodies and trailers both ways, and answers that are none.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use super::client::{Guest, PATIENCE};
use super::upstream::{Connection, OK, Upstream};

/// The body of a request in chunks, with their frames.
fn chunked(connection: &mut Connection) -> String {
    let mut body = String::new();
    while !body.ends_with("0\r\n\r\n") {
        let mut byte = [0];
        connection.0.read_exact(&mut byte).expect("the body is whole");
        body.push(byte[0].into());
    }
    body
}

#[test]
fn a_body_goes_out_and_comes_back() {
    let upstream = Upstream::new(|mut connection| {
        while let Some(head) = connection.head() {
            assert!(head.starts_with("PUT /x "), "{head}");
            let body = chunked(&mut connection);
            assert!(body.contains("Bob Morane"), "{body}");
            connection.write("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n0\r\n\r\n");
        }
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    for _ in 0..3 {
        assert_eq!(guest.send("PUT", &upstream.url("/x"), "Bob Morane"), (201, "Hello".to_owned()));
    }
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn trailers_come_through() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfar\r\n0\r\nx-sum: 42\r\n\r\n",
    );
    let guest = Guest::allowed(&["127.0.0.1"]);
    let url = upstream.url("/");
    let request = format!("GET /fetch?url={url} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    guest.write(&request).read_to_string(&mut answer).expect("the answer is whole");
    assert!(answer.to_lowercase().ends_with("3\r\nfar\r\n0\r\nx-sum: 42\r\n\r\n"), "{answer}");
}

/// More than all buffers on the way have room for.
const MUCH: usize = 64 << 20;

#[test]
fn an_answer_waits_for_the_guests_client() {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |mut connection| {
        assert!(connection.head().is_some());
        connection.write(&format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"));
        let stream = connection.0.get_mut();
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a socket has timeouts");
        let mut sent = 0;
        while sent < MUCH {
            match stream.write(&[b'x'; 65536][..(MUCH - sent).min(65536)]) {
                Ok(more) => sent += more,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                    tell.send(sent).expect("the test waits for it");
                    stream.set_write_timeout(Some(PATIENCE)).expect("a socket has timeouts");
                }
            }
        }
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    let mut client = guest.begin("GET", &upstream.url("/"), "");
    let sent = told.recv_timeout(PATIENCE).expect("it has to wait");
    assert!(sent < MUCH / 2, "{sent} bytes were taken that nobody reads");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the answer is whole");
    assert!(answer.len() > MUCH);
}

#[test]
fn an_answer_that_is_none_has_its_error() {
    let many: String = (0..300).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(200_000));
    for (answer, error) in [
        (String::new(), "connection-terminated\n"),
        ("HTTP/1.1 200 OK\r\nContent-".to_owned(), "connection-terminated\n"),
        ("hello\r\n\r\n".to_owned(), "http-protocol-error\n"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), "http-protocol-error\n"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nfar".to_owned(), "http-protocol-error\n"),
        ("HTTP/1.1 200 OK\r\n folded: 1\r\nContent-Length: 3\r\n\r\nfar".to_owned(), "http-protocol-error\n"),
        (format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "http-response-header-section-size\n"),
        (format!("HTTP/1.1 200 OK\r\n{large}\r\n"), "http-response-header-section-size\n"),
    ] {
        let text = answer.clone();
        let upstream = Upstream::new(move |mut connection| {
            if connection.head().is_some() {
                connection.write(&text);
            }
        });
        let guest = Guest::allowed(&["127.0.0.1"]);
        let shown: String = answer.chars().take(80).collect();
        assert_eq!(guest.fetch(&upstream.url("/")), (502, error.to_owned()), "{shown:?}");
    }
}

/// Two answers for one request: the second is nobody's, and goes to no other request. They come at once: one that
/// comes when the next request is under way is its answer, as far as anyone can tell.
#[test]
fn an_answer_that_nobody_asked_for_reaches_nobody() {
    let twice = format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    let upstream = Upstream::new(move |mut connection| {
        let mut first = true;
        while connection.head().is_some() {
            connection.write(if std::mem::take(&mut first) { &twice } else { OK });
        }
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    for _ in 0..5 {
        let (status, body) = guest.fetch(&upstream.url("/"));
        assert!(status == 502 || body == "far", "{status} {body}");
    }
}
