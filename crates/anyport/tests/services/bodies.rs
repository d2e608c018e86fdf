//! Bodies that stream: each part as it comes, in both directions, with trailers and with back-pressure.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::service::{Service, Version, within};

pub(super) type Sender = mpsc::Sender<Result<Frame<Bytes>, std::convert::Infallible>>;

/// Begins a request to `/echo`, whose body is what is sent.
pub(super) async fn echo(service: &Service, h2: bool) -> (Sender, Incoming) {
    let (sender, mut receiver) = mpsc::channel(1);
    let frames = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let uri = format!("http://{}/echo", service.address());
    // In HTTP/2 the target names the host, and no line names another.
    let request = if h2 { Request::post(&uri) } else { Request::post("/echo").header("host", "service.test") };
    let request =
        request.header("trailer", "digest").header("te", "trailers").body(StreamBody::new(frames)).expect("a request");
    let io = TokioIo::new(service.connect().await);
    let response = if h2 {
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        within("an answer", client.send_request(request)).await
    } else {
        let (mut client, connection) = http1::handshake(io).await.expect("nothing is sent yet");
        tokio::spawn(connection);
        within("an answer", client.send_request(request)).await
    };
    let response = response.expect("it answers before the body is there");
    assert_eq!(response.status(), 200);
    (sender, response.into_body())
}

#[tokio::test]
async fn each_part_passes_before_the_next_is_sent() {
    for version in Version::BOTH {
        for h2 in [false, true] {
            let service = Service::start(version);
            let (sender, mut body) = echo(&service, h2).await;
            for part in ["one", "two", "three"] {
                sender.send(Ok(Frame::data(Bytes::from(part)))).await.expect("it is read");
                let mut came = String::new();
                while came.len() < part.len() {
                    let frame = within(part, body.frame()).await.expect("it goes on").expect("nothing fails");
                    came += std::str::from_utf8(&frame.into_data().expect("data")).expect("text");
                }
                assert_eq!(came, part, "{version:?} {h2}");
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("digest", HeaderValue::from_static("abc"));
            sender.send(Ok(Frame::trailers(trailers))).await.expect("it is read");
            drop(sender);
            let rest = within("the end", body.collect()).await.expect("nothing fails");
            let digest = rest.trailers().and_then(|trailers| trailers.get("digest")).cloned();
            assert_eq!(digest, Some(HeaderValue::from_static("abc")), "{version:?} {h2}");
        }
    }
}

#[tokio::test]
async fn who_does_not_read_is_not_read_from() {
    const MOST: usize = 64 << 20;
    for version in Version::BOTH {
        let service = Service::start(version);
        let mut stream = service.connect().await;
        let head = format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {MOST}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it is read");
        // All buffers on the way are full long before that.
        let part = vec![b'x'; 1 << 20];
        let mut sent = 0;
        let stalled = async {
            while sent < MOST {
                stream.write_all(&part).await.expect("it is open");
                sent += part.len();
            }
        };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(2), stalled).await;
        assert!(ended.is_err(), "{sent} bytes were taken, and none of the answer was read");
        let mut some = vec![0; 1 << 20];
        let came = within("the answer", stream.read(&mut some)).await.expect("it is open");
        assert!(came > 0);
    }
}

#[tokio::test]
async fn parts_come_while_the_guest_waits() {
    for version in Version::BOTH {
        let service = Service::start(version);
        let mut stream = service.connect().await;
        stream.write_all(b"GET /stream?n=1000&ms=20 HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it is read");
        let mut came = String::new();
        while !came.contains("chunk 3") {
            let mut some = [0; 4096];
            let length = within("a chunk", stream.read(&mut some)).await.expect("it is open");
            assert!(length > 0, "it ended with {came}");
            came += &String::from_utf8_lossy(&some[..length]);
        }
        assert!(!came.contains("chunk 999"));
    }
}
