//! Guests that fail: what their client is told, and that nobody else feels it.

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::service::{Service, Version, within};

#[tokio::test]
async fn a_guest_that_fails_gives_a_500_with_an_id_and_the_next_one_answers() {
    for version in Version::BOTH {
        let service = Service::start(version);
        let mut client = service.client().await;
        let mut ids = Vec::new();
        for path in ["/trap", "/panic", "/none", "/error", "/exit", "/exit?code=3"] {
            if version == Version::V03 && path == "/none" {
                // It has no way to return without an answer.
                continue;
            }
            let got = client.get(path).await;
            assert_eq!(got.short(), (500, "the server failed\n"), "{version:?} {path}");
            ids.push(got.headers["x-request-id"].clone());
            // On the same connection.
            assert_eq!(client.get("/hello").await.short(), (200, "Hello\n"));
        }
        let all = ids.len();
        ids.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        ids.dedup();
        assert_eq!(ids.len(), all, "no two requests have the same id");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_look_whole() {
    for version in Version::BOTH {
        let service = Service::start(version);
        for path in ["/cut?bytes=10", "/big?bytes=10&length=20"] {
            let got = service.client().await.try_send(Method::GET, path, "").await;
            assert!(got.is_err() || got.is_ok_and(|got| got.status == 500), "{version:?} {path}");
            assert_eq!(service.get("/hello").await.status, 200);
        }
        // More than it says is an answer of what it says, or none.
        let got = service.client().await.get("/big?bytes=20&length=10").await;
        assert!(got.short() == (200, &"x".repeat(10)) || got.status == 500, "{version:?}: {got:?}");
    }
}

/// An interim answer has none behind it.
#[tokio::test]
async fn a_status_that_is_none_of_an_answer_gives_a_502_with_an_id() {
    for version in Version::BOTH {
        let service = Service::start(version);
        for code in [100, 101, 103, 199] {
            let got = service.get(&format!("/status?code={code}")).await;
            assert_eq!(got.status, 502, "{version:?} {code}");
            assert!(got.headers.contains_key("x-request-id"), "{version:?} {code}");
        }
        let none = service.get("/status?code=204").await;
        assert_eq!((none.status, none.headers.get("content-length")), (StatusCode::NO_CONTENT, None), "{version:?}");
    }
}

/// The trap of one request ends the instance of others, whose answers it cuts off.
#[tokio::test]
async fn an_answer_of_an_instance_that_fails_does_not_look_whole() {
    for (version, path, pause) in [
        (Version::V03, "/trap", 60_000),
        (Version::V03, "/exit?code=1", 60_000),
        (Version::V03, "/exit?code=0", 60_000),
        (Version::V02, "/trap", 1000),
    ] {
        let service = Service::start(version);
        let mut stream = service.connect().await;
        let head = format!("GET /stream?n=3&ms={pause} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        within("the first chunk", async {
            while !answer.ends_with(b"chunk 0\n\r\n") {
                stream.read_buf(&mut answer).await.expect("it goes on");
            }
        })
        .await;
        assert_eq!(service.get(path).await.status, 500);
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        // One of 0.2 has an instance of its own.
        assert_eq!(text.ends_with("\r\n0\r\n\r\n"), version == Version::V02, "{path}: {text}");
        assert_eq!(service.get("/hello").await.status, 200);
    }
}

/// It has not ended its answer, and the end of its instance is not that of its answer.
#[tokio::test]
async fn an_answer_within_which_its_guest_fails_does_not_look_whole() {
    let service = Service::start(Version::V02);
    for (bytes, ms) in [(10, 0), (10, 100), (0, 0), (0, 100)] {
        for expects in ["", "Content-Length: 5\r\nExpect: 100-continue\r\n"] {
            let mut stream = service.connect().await;
            let head =
                format!("POST /half?bytes={bytes}&ms={ms} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{expects}\r\n");
            stream.write_all(head.as_bytes()).await.expect("it is open");
            let mut answer = Vec::new();
            let _ = within("the end", stream.read_to_end(&mut answer)).await;
            let text = String::from_utf8_lossy(&answer);
            let has_failed = text.starts_with("HTTP/1.1 500 ");
            let is_whole = text.ends_with("\r\n0\r\n\r\n") || text.contains("content-length: 0");
            assert!(has_failed || !is_whole, "{bytes} {ms} {expects}: {text}");
            // Nothing was sent yet of an answer that has nothing else.
            let is_unsent = bytes == 0 && (ms == 0 || !expects.is_empty());
            assert_eq!(has_failed, is_unsent, "{bytes} {ms} {expects}: {text}");
        }
    }
    // It dropped its answer.
    assert_eq!(service.get("/cut?bytes=0").await.status, 500);
    assert_eq!(service.get("/hello").await.status, 200);
}

#[tokio::test]
async fn an_error_of_the_guest_says_whose_fault_it_is() {
    for version in Version::BOTH {
        let service = Service::start(version);
        for (code, status) in [("connection-refused", 502), ("http-response-timeout", 504), ("internal-error", 500)] {
            let got = service.get(&format!("/error?code={code}")).await;
            assert_eq!(got.status, status, "{version:?} {code}");
            assert!(got.headers.contains_key("x-request-id"), "{version:?} {code}");
        }
    }
}

#[tokio::test]
async fn a_guest_goes_on_after_its_answer() {
    for version in Version::BOTH {
        let mut service = Service::start(version);
        assert_eq!(service.get("/after?ms=50").await.short(), (200, "sent\n"));
        // Its client is gone by then.
        assert_eq!(service.stderr_line().await, "after");
    }
}

#[tokio::test]
async fn what_a_guest_leaks_is_bounded() {
    for version in Version::BOTH {
        let service = Service::start(version);
        for what in ["fields", "waits"] {
            let got = service.get(&format!("/leak?n=10000000&what={what}")).await;
            assert_eq!(got.status, 500, "{version:?} {what}: {}", got.body);
            assert_eq!(service.get(&format!("/leak?n=100&what={what}")).await.short(), (200, "leaked\n"));
        }
        // More fields than are taken are an error of the guest's, or of its answer.
        let many = service.get("/many-fields?n=100000").await;
        assert_eq!(many.status, 500, "{version:?}: {}", many.body);
        let many = service.client().await.try_send(Method::GET, "/trailers?n=100000", "").await;
        assert!(many.is_err() || many.is_ok_and(|got| got.status == 500), "{version:?}");
        assert_eq!(service.get("/hello").await.status, 200);
    }
}
