//! Time limits and memory limits: what passes them ends, and nothing else.

use std::time::Duration;

use anyport::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::service::{Service, Version, within};

#[tokio::test]
async fn a_guest_that_does_not_answer_in_time_gives_a_504() {
    for version in Version::BOTH {
        let service = Service::with(version, |limits| limits.timeout = Duration::from_millis(100), |server| server);
        let mut client = service.client().await;
        assert_eq!(client.get("/sleep?ms=60000").await.short(), (504, "the server took too long\n"));
        assert_eq!(client.get("/hello").await.status, 200);
    }
}

#[tokio::test]
async fn a_guest_that_computes_for_ever_is_ended_and_others_answer_meanwhile() {
    for version in Version::BOTH {
        let limits = |limits: &mut Limits| limits.cpu_time = Some(Duration::from_millis(500));
        let service = Service::with(version, limits, |server| server);
        let (mut one, mut two) = (service.client().await, service.client().await);
        let looping = tokio::spawn(async move { tokio::join!(one.get("/loop"), two.get("/loop")) });
        let mut answered = 0;
        let mut client = service.client().await;
        while !looping.is_finished() {
            assert_eq!(client.get("/hello").await.status, 200);
            answered += 1;
        }
        let (one, two) = looping.await.expect("they do not panic");
        assert_eq!((one.status.as_u16(), two.status.as_u16()), (500, 500), "{version:?}");
        // They give way, so others have most of the time that they take.
        assert!(answered > 5, "{version:?}: {answered} answers meanwhile");
    }
}

#[tokio::test]
async fn a_guest_has_the_memory_that_it_may_have() {
    for version in Version::BOTH {
        let service = Service::with(version, |limits| limits.memory_bytes = 32 << 20, |server| server);
        assert_eq!(service.get("/grow?mb=8").await.short(), (200, "grown\n"));
        assert_eq!(service.get("/grow?mb=64").await.short(), (500, "full\n"));
        assert_eq!(service.get("/hello").await.status, 200);
    }
}

/// Sends this, and waits until the connection is closed; what came until then.
async fn until_closed(service: &Service, sent: &[u8]) -> String {
    let mut stream = service.connect().await;
    stream.write_all(sent).await.expect("it is open");
    let mut came = Vec::new();
    // A reset is an end too.
    let _ = within("the end of the connection", stream.read_to_end(&mut came)).await;
    String::from_utf8_lossy(&came).into_owned()
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_its_connection() {
    let limits = |limits: &mut Limits| limits.header_timeout = Duration::from_millis(100);
    let service = Service::with(Version::V02, limits, |server| server);
    for sent in ["", "G", "GET /hello HTTP/1.1\r\nHost: x\r\nX: ", "PRI * HTTP/2.0\r\n"] {
        let came = until_closed(&service, sent.as_bytes()).await;
        assert!(!came.contains("Hello"), "{sent:?}: {came}");
    }
    // The second request of a connection too.
    let mut stream = service.connect().await;
    for sent in ["GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", "GET /hello HT"] {
        stream.write_all(sent.as_bytes()).await.expect("it is open");
        let mut some = [0; 1024];
        let came = within("an answer or the end", stream.read(&mut some)).await.unwrap_or(0);
        assert_eq!(came > 0, sent.ends_with("\r\n\r\n"));
    }
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let limits = |limits: &mut Limits| limits.idle_timeout = Duration::from_millis(100);
    let service = Service::with(Version::V02, limits, |server| server);
    let came = until_closed(&service, b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(came.ends_with("Hello\n"), "{came}");
    // Not while it is used.
    assert_eq!(service.get("/stream?n=5&ms=50").await.body.lines().count(), 5);
    assert_eq!(service.get("/sleep?ms=400").await.short(), (200, "slept 400\n"));
}

#[tokio::test]
async fn a_thousand_idle_connections_take_nothing_from_others() {
    for version in Version::BOTH {
        // They stay.
        let service =
            Service::with(version, |limits| limits.header_timeout = Duration::from_secs(600), |server| server);
        let mut idle = Vec::new();
        for _ in 0..1000 {
            idle.push(service.connect().await);
        }
        assert_eq!(service.get("/hello").await.short(), (200, "Hello\n"));
    }
}
