//! How a service drains and stops.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::service::{Service, Version, within};

#[tokio::test]
async fn what_was_asked_is_answered_and_no_more_is_taken() {
    for version in Version::BOTH {
        let service = Service::start(version);
        let address = service.address();
        let (mut busy, mut idle) = (service.client().await, service.connect().await);
        let asked = tokio::spawn(async move { busy.get("/sleep?ms=300").await });
        within("the request to begin", async {
            while service.running.status().workers[0].connections < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        })
        .await;
        let drained = within("draining", service.running.drain(Duration::from_secs(30))).await;
        assert!(drained, "{version:?}");
        let got = asked.await.expect("it does not panic");
        assert_eq!(got.short(), (200, "slept 300\n"));
        let mut rest = Vec::new();
        let ended = within("the idle connection", idle.read_to_end(&mut rest)).await;
        assert!(ended.is_err() || rest.is_empty());
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}

#[tokio::test]
async fn stopping_ends_requests_that_would_go_on() {
    for version in Version::BOTH {
        let service = Service::start(version);
        let mut clients = [service.client().await, service.client().await];
        let [one, two] = &mut clients;
        let asked = async {
            tokio::join!(
                one.try_send(http::Method::GET, "/loop", ""),
                two.try_send(http::Method::GET, "/sleep?ms=60000", "")
            )
        };
        let stop = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!service.running.drain(Duration::from_millis(100)).await, "they never end");
            service.running.stop();
            within("the end", service.running.ended()).await;
        };
        let ((looping, sleeping), ()) = within("the ends", async { tokio::join!(asked, stop) }).await;
        assert!(looping.is_err() && sleeping.is_err(), "{version:?}");
    }
}
