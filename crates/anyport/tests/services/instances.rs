//! Instances: fresh for each request, kept where that was asked for, bounded in number.

use std::time::Duration;

use anyport::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::service::{Client, Got, Service, Version, within};

#[tokio::test]
async fn each_request_of_02_has_an_instance_of_its_own() {
    let service = Service::start(Version::V02);
    let mut client = service.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/count").await.short(), (200, "1\n"));
    }
}

#[tokio::test]
async fn an_instance_answers_as_many_requests_as_it_may() {
    for version in Version::BOTH {
        // One at a time: on a busy machine an instance may still compute when the next request comes.
        let few = |limits: &mut Limits| (limits.instance_reuse, limits.instances) = (Some(3), 1);
        let service = Service::with(version, few, |server| server);
        let mut client = service.client().await;
        let mut counts = Vec::new();
        for _ in 0..7 {
            counts.push(count(&mut client).await);
        }
        assert_eq!(counts, [1, 2, 3, 1, 2, 3, 1], "{version:?}");
        // One that failed is never used again.
        assert_eq!(client.get("/trap").await.status, 500);
        assert_eq!(count(&mut client).await, 1, "{version:?}");
    }
}

#[tokio::test]
async fn an_instance_of_03_answers_several_at_the_same_time() {
    let service = Service::with(Version::V03, |limits| limits.instances = 1, |server| server);
    let slow = begin(&service, "/sleep?ms=60000").await;
    // The only instance is the one that sleeps.
    within("the second request", async { while count(&mut service.client().await).await < 2 {} }).await;
    drop(slow);
}

/// How many requests the instance has had that answers; 0.3 tells how many it has now, too.
async fn count(client: &mut Client) -> u32 {
    let got = client.get("/count").await;
    let count = got.body.split_whitespace().next().and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("{got:?}"))
}

/// Begins a request, of which nothing is awaited.
async fn begin(service: &Service, path: &str) -> TcpStream {
    let mut stream = service.connect().await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is read");
    stream
}

/// Waits until a request gets this status.
async fn until(service: &Service, path: &str, status: u16) -> Got {
    // One that waits in the queue is no answer, and would take another's place there.
    let once = || tokio::time::timeout(Duration::from_millis(100), service.get(path));
    within("that status", async {
        loop {
            match once().await {
                Ok(got) if got.status == status => return got,
                _ => {}
            }
        }
    })
    .await
}

#[tokio::test]
async fn requests_beyond_the_queue_are_told_to_come_again() {
    for version in Version::BOTH {
        let limits = |limits: &mut Limits| {
            (limits.instances, limits.queue, limits.instance_concurrency) = (1, 1, 1);
            limits.timeout = Duration::from_secs(600);
        };
        let service = Service::with(version, limits, |server| server);
        let works = begin(&service, "/sleep?ms=600000").await;
        let waits = begin(&service, "/sleep?ms=600000").await;
        let refused = until(&service, "/hello", 503).await;
        assert_eq!(refused.headers["retry-after"], "1", "{version:?}");
        // Whoever goes makes room.
        drop((works, waits));
        until(&service, "/hello", 200).await;
    }
}

/// One instance, for one request at a time, which may compute for as long as it likes; its client waits for so long.
fn one_at_a_time(timeout: Duration) -> impl FnOnce(&mut Limits) {
    move |limits| {
        (limits.instances, limits.instance_concurrency) = (1, 1);
        (limits.cpu_time, limits.timeout) = (Some(Duration::from_secs(600)), timeout);
    }
}

#[tokio::test]
async fn a_client_that_goes_frees_its_instance() {
    for version in Version::BOTH {
        for path in ["/sleep?ms=60000", "/stream?n=100000&ms=10", "/loop", "/big?bytes=1000000000"] {
            // No time limit does that.
            let service = Service::with(version, one_at_a_time(Duration::from_secs(600)), |server| server);
            let mut stream = begin(&service, path).await;
            if path.starts_with("/stream") || path.starts_with("/big") {
                within("the head", stream.read_u8()).await.expect("it answers");
            }
            drop(stream);
            until(&service, "/hello", 200).await;
        }
    }
}

/// Its time is that of the answer: the guest has begun, computes, and is not asked any more.
#[tokio::test]
async fn a_guest_that_computes_for_nobody_frees_its_instance() {
    for version in Version::BOTH {
        let service = Service::with(version, one_at_a_time(Duration::from_millis(500)), |server| server);
        assert_eq!(service.get("/loop").await.status, 504, "{version:?}");
        until(&service, "/hello", 200).await;
    }
}

#[tokio::test]
async fn a_request_waits_for_an_instance_for_as_long_as_for_an_answer() {
    for version in Version::BOTH {
        let service = Service::with(version, one_at_a_time(Duration::from_millis(500)), |server| server);
        // A guest has its time again for as long as its client sends.
        let mut works = service.connect().await;
        let head = b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
        works.write_all(head).await.expect("it is read");
        let sending = async {
            while works.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let refused = async {
            loop {
                let got = service.get("/hello").await;
                if got.status == 503 {
                    return got;
                }
            }
        };
        let refused = tokio::select! {
            () = sending => panic!("it is read"),
            refused = within("a refusal", refused) => refused,
        };
        assert_eq!(refused.short(), (503, "no instance was free in time\n"), "{version:?}");
        assert_eq!(refused.headers["retry-after"], "1", "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_an_instance_for_ever() {
    for version in Version::BOTH {
        let service = Service::with(version, one_at_a_time(Duration::from_millis(200)), |server| server);
        let mut stream = begin(&service, "/big?bytes=1000000000").await;
        within("the head", stream.read_u8()).await.expect("it answers");
        until(&service, "/hello", 200).await;
        drop(stream);
    }
}

#[tokio::test]
async fn instances_are_made_before_the_port_is_open_and_wait_for_their_requests() {
    for version in Version::BOTH {
        let cold = Service::start(version);
        assert_eq!(cold.running.status().workers[0].memory_bytes, 0, "{version:?}");
        let limits = |limits: &mut Limits| (limits.instances, limits.instances_ready) = (3, 1);
        let warm = Service::with(version, limits, |server| server);
        within("its start", async { while warm.running.status().stage != "serving" {} }).await;
        assert!(warm.running.status().workers[0].memory_bytes > 0, "{version:?}");
        // Longer than an instance of 0.3 lives that is not needed any more.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(warm.running.status().workers[0].memory_bytes > 0, "{version:?}");
        assert_eq!(count(&mut warm.client().await).await, 1, "{version:?}");
    }
}

#[tokio::test]
async fn a_request_that_waits_has_its_turn_where_instances_are_kept() {
    for version in Version::BOTH {
        let limits = |limits: &mut Limits| {
            (limits.instances, limits.instance_reuse, limits.instance_concurrency) = (1, Some(100), 1);
        };
        let service = Service::with(version, limits, |server| server);
        let clients = (0..4).map(async |_| service.get("/sleep?ms=50").await.status);
        for status in futures_util::future::join_all(clients).await {
            assert_eq!(status, 200, "{version:?}");
        }
    }
}

#[tokio::test]
async fn an_instance_that_nobody_uses_is_given_up_for_a_request_of_another_worker() {
    for version in Version::BOTH {
        let limits = |limits: &mut Limits| {
            (limits.instances, limits.instance_reuse, limits.instances_ready) = (1, Some(100), 1);
        };
        let service = Service::with(version, limits, |server| server.workers(2));
        // One connection is each worker's.
        let (mut first, mut second) = (service.client().await, service.client().await);
        for _ in 0..3 {
            assert_eq!(first.get("/hello").await.status, 200, "{version:?}");
            assert_eq!(second.get("/hello").await.status, 200, "{version:?}");
        }
    }
}
