//! Connections are kept for the next requests of the same server's guests, and closed when nobody wants them.

use std::sync::mpsc;
use std::time::Duration;

use anyport::Limits;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::client::{Guest, PATIENCE, server};
use super::upstream::{OK, Upstream};

#[test]
fn requests_one_after_the_other_use_one_connection() {
    let upstream = Upstream::answering(OK);
    let guest = Guest::allowed(&["127.0.0.1"]);
    for _ in 0..10 {
        assert_eq!(guest.fetch(&upstream.url("/")), (200, "far".to_owned()));
    }
    assert_eq!(upstream.accepted(), 1);
    // Another server has connections of its own, even of the same guest.
    assert_eq!(Guest::allowed(&["127.0.0.1"]).fetch(&upstream.url("/")).0, 200);
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn a_connection_that_the_server_has_closed_is_no_error() {
    // Without a word: its client finds out.
    let upstream = Upstream::new(|mut connection| {
        if connection.head().is_some() {
            connection.write(OK);
        }
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    for _ in 0..5 {
        assert_eq!(guest.fetch(&upstream.url("/")), (200, "far".to_owned()));
    }
    assert_eq!(upstream.accepted(), 5);
}

/// As if it had closed the connection at the moment when the next request came.
#[test]
fn what_changes_nothing_is_sent_again_where_a_kept_connection_ends() {
    let upstream = Upstream::new(|mut connection| {
        if connection.head().is_some() {
            connection.write(OK);
            connection.head();
        }
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    for _ in 0..3 {
        assert_eq!(guest.fetch(&upstream.url("/")), (200, "far".to_owned()));
    }
    assert_eq!(upstream.accepted(), 3);
    // It may have been done.
    assert_eq!(guest.send("POST", &upstream.url("/"), "").0, 502);
    assert_eq!(upstream.accepted(), 3);
}

/// A server that does not answer: says that it was asked, and that it was given up.
fn silent() -> (Upstream, mpsc::Receiver<&'static str>) {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |mut connection| {
        assert!(connection.head().is_some());
        tell.send("asked").expect("the test waits for it");
        if connection.ends() {
            tell.send("given up").expect("the test waits for it");
        }
    });
    (upstream, told)
}

#[test]
fn a_request_is_given_up_when_its_client_goes() {
    let (upstream, told) = silent();
    let mut limits = Limits::default();
    limits.timeout = 10 * PATIENCE;
    let guest = Guest::start(server(&["127.0.0.1"]).limits(limits));
    let client = guest.begin("GET", &upstream.url("/"), "");
    assert_eq!(told.recv_timeout(PATIENCE), Ok("asked"));
    drop(client);
    assert_eq!(told.recv_timeout(PATIENCE), Ok("given up"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (address, url) = (guest.address(), upstream.url("/"));
    // Over HTTP/2, where a client says that it goes.
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stream = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.expect("it takes HTTP/2");
            tokio::spawn(connection);
            let request = Request::get(format!("http://x/fetch?url={url}")).body(Empty::<Bytes>::new());
            let answer = sender.send_request(request.expect("a request"));
            tokio::select! {
                answer = answer => panic!("{answer:?}"),
                stopped = stopped => stopped.expect("the test says so"),
            }
        });
    });
    assert_eq!(told.recv_timeout(PATIENCE), Ok("asked"));
    stop.send(()).expect("the client waits for it");
    assert_eq!(told.recv_timeout(PATIENCE), Ok("given up"));
    client.join().expect("it has no answer");
    assert_eq!(guest.fetch("http://127.0.0.1:1/").0, 502, "it goes on");
}

#[test]
fn a_request_is_given_up_when_its_guest_has_no_more_time() {
    let (upstream, told) = silent();
    let mut limits = Limits::default();
    limits.timeout = Duration::from_millis(300);
    let guest = Guest::start(server(&["127.0.0.1"]).limits(limits));
    assert_eq!(guest.fetch(&upstream.url("/")).0, 504);
    assert_eq!(told.recv_timeout(PATIENCE), Ok("asked"));
    assert_eq!(told.recv_timeout(PATIENCE), Ok("given up"));
}

#[test]
fn kept_connections_end_with_the_server() {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |mut connection| {
        while connection.head().is_some() {
            connection.write(OK);
        }
        tell.send(()).expect("the test waits for it");
    });
    let guest = Guest::start(server(&["127.0.0.1"]).workers(2));
    assert_eq!(guest.fetch(&upstream.url("/")).0, 200);
    guest.running().stop();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(()));
}
