//! Clients of HTTP/2 that mean harm: what they hold is bounded, what they do ends, and others are served.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame, get, line,
    request,
};
use super::service::{Service, status};
use crate::support::{Tested, within};

const LIMIT: Duration = Duration::from_secs(2);

/// RFC 9113, 7.
const ENHANCE_YOUR_CALM: u32 = 11;

/// Settings by their numbers.
const INITIAL_WINDOW_SIZE: u16 = 4;

async fn is_well(service: &Service) -> Tested {
    assert_eq!(status(&service.get("/hello").await?), 200);
    Ok(())
}

async fn begin(service: &Service) -> Tested<Frames> {
    Frames::begin(service.connect().await?, &[]).await
}

#[tokio::test]
async fn frames_by_hand_are_answered() -> Tested {
    let service = Service::start();
    let mut client = begin(&service).await?;
    client.send(get(1, "/hello")).await?;
    let head = client.next_of(HEADERS).await?.expect("an answer");
    assert_eq!(head.stream, 1);
    // `:status: 200` of the static table.
    assert_eq!(head.payload[0], 0x88);
    assert_eq!(client.next_of(DATA).await?.expect("a body").payload, b"Hello\n");
    Ok(())
}

/// Whatever the guest writes: DATA there is an error of the connection to clients.
#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head() -> Tested {
    let service = Service::start();
    let mut client = begin(&service).await?;
    let head = |stream, path| frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("HEAD", path));
    client.send([head(1, "/hello"), head(3, "/big?bytes=300000"), get(5, "/status?code=204")].concat()).await?;
    let mut ended = Vec::new();
    while ended.len() < 3 {
        let frame = client.next().await?.expect("it goes on");
        assert!(![DATA, RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?}");
        if frame.kind == HEADERS {
            assert_eq!(frame.flags & END_STREAM, END_STREAM, "{frame:?}");
            ended.push(frame.stream);
        }
    }
    client.send(get(7, "/hello")).await?;
    assert_eq!(client.next_of(DATA).await?.expect("a body").payload, b"Hello\n");
    Ok(())
}

/// That of the other answer to HEAD, and none of a 204, whatever its guest says (RFC 9110, 8.6).
#[tokio::test]
async fn an_answer_without_a_body_says_the_right_length() -> Tested {
    let service = Service::start();
    let stream = TokioIo::new(service.connect().await?);
    let handshake = http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = within("greeting", async { handshake.await.map_err(io::Error::other) }).await?;
    tokio::spawn(connection);
    for (method, path, length) in
        [("HEAD", "/hello", Some("6")), ("HEAD", "/status?code=204", None), ("GET", "/status?code=204", None)]
    {
        let asked = Request::builder().method(method).uri(format!("http://localhost{path}"));
        let asked = asked.body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(asked);
        let answer = within("an answer", async { answer.await.map_err(io::Error::other) }).await?;
        let told = answer.headers().get("content-length").map(|length| length.to_str().expect("digits"));
        assert_eq!(told, length, "{method} {path}");
    }
    Ok(())
}

/// As over HTTP/1.1.
#[tokio::test]
async fn header_lines_are_counted() -> Tested {
    let service = Service::with(|limits, _| limits.header_lines = 20);
    let mut client = begin(&service).await?;
    for (stream, lines, length) in [(1, 20, 6), (3, 21, 38)] {
        let mut head = request("GET", "/hello");
        (0..lines).for_each(|number| head.extend(line(&format!("x-{number}"), "a")));
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)).await?;
        let mut body = client.next_of(DATA).await?.expect("a body");
        // The one before may end with a frame of its own.
        while body.stream != stream {
            body = client.next_of(DATA).await?.expect("a body");
        }
        assert_eq!(body.payload.len(), length);
    }
    Ok(())
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_resets_end_the_connection() -> Tested {
    let service = Service::start();
    let mut client = begin(&service).await?;
    let resets: Vec<u8> = (0..2000)
        .map(|number| 2 * number + 1)
        .flat_map(|stream| {
            [get(stream, "/sleep?ms=600000"), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    // The end may come before all is sent.
    let _ = client.send(resets).await;
    assert!(matches!(client.goodbye().await?, Some(ENHANCE_YOUR_CALM) | None));
    is_well(&service).await
}

/// CVE-2024-27316 and its kin: a head that never ends.
#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() -> Tested {
    let mut service = Service::start();
    let mut client = begin(&service).await?;
    client.send(frame(HEADERS, END_STREAM, 1, &request("GET", "/stdout?text=called"))).await?;
    let more = frame(CONTINUATION, 0, 1, &line("x", &"a".repeat(8000)));
    for _ in 0..200 {
        if client.send(&more).await.is_err() {
            break;
        }
    }
    // Some implementations say goodbye, some just go.
    client.goodbye().await?;
    assert_eq!(service.called().await?, [""; 0]);
    is_well(&service).await
}

#[tokio::test]
async fn a_flood_of_empty_data_ends_the_connection() -> Tested {
    let service = Service::with(|limits, _| limits.instances = 1);
    let mut client = begin(&service).await?;
    client.send(frame(HEADERS, END_HEADERS, 1, &request("POST", "/hello"))).await?;
    let empty = frame(DATA, 0, 1, &[]).repeat(1000);
    for _ in 0..200 {
        if client.send(&empty).await.is_err() {
            break;
        }
    }
    client.goodbye().await?;
    is_well(&service).await
}

/// Answers that are not taken do not pile up.
#[tokio::test]
async fn floods_of_pings_and_settings_end() -> Tested {
    for flood in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])] {
        let service = Service::with(|limits, _| {
            limits.timeout = LIMIT;
            limits.header_timeout = LIMIT;
        });
        let mut client = begin(&service).await?;
        let flood = flood.repeat(1000);
        let began = Instant::now();
        // Nothing is read: at some time nothing is taken any more, and then the connection ends.
        while client.send(&flood).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(60), "it takes all of it");
        }
        is_well(&service).await?;
    }
    Ok(())
}

/// A line that is put into the table once, and then named by a byte again and again.
#[tokio::test]
async fn a_bomb_of_header_lines_is_refused() -> Tested {
    let mut service = Service::start();
    let mut client = begin(&service).await?;
    let mut lines = request("GET", "/stdout?text=called");
    let long = line("x", &"a".repeat(3000));
    // With incremental indexing, in place of without.
    lines.push(0x40);
    lines.extend(&long[1..]);
    // The first of the dynamic table.
    lines.extend([0x80 | 62; 2000]);
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &lines)).await?;
    let answer = client.next_of(HEADERS).await?;
    if let Some(head) = answer {
        assert!(!head.payload.starts_with(&[0x88]), "it is answered with 200");
    }
    assert_eq!(service.called().await?, [""; 0]);
    is_well(&service).await
}

/// A client that opens no window holds an instance for as long as an answer may wait for it.
#[tokio::test]
async fn a_window_that_stays_shut_frees_the_instance() -> Tested {
    let service = Service::with(|limits, _| {
        limits.instances = 1;
        limits.timeout = LIMIT;
    });
    let mut client = Frames::begin(service.connect().await?, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
    let began = Instant::now();
    client.send(get(1, "/big?bytes=100000")).await?;
    client.next_of(HEADERS).await?.expect("a head needs no window");
    // Others wait for the instance; pings keep nothing alive.
    let (waits, pings) = tokio::join!(service.get("/hello"), async {
        while client.send(frame(PING, 0, 0, &[0; 8])).await.is_ok() && began.elapsed() < 4 * LIMIT {
            tokio::time::sleep(LIMIT / 8).await;
        }
        client.next_of(DATA).await
    });
    assert_eq!(status(&waits?), 200);
    assert_eq!(pings?, None, "the connection has ended");
    assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
    Ok(())
}

/// Streams beyond the limit are refused, one by one.
#[tokio::test]
async fn streams_are_limited() -> Tested {
    let service = Service::start();
    let mut client = begin(&service).await?;
    let streams: Vec<u8> = (0..150).flat_map(|number| get(2 * number + 1, "/sleep?ms=600000")).collect();
    client.send(streams).await?;
    // Before the client knows of the limit it is no error of the whole connection.
    let refused = client.next_of(RST_STREAM).await?.expect("a refusal");
    assert_eq!(refused.payload, 7_u32.to_be_bytes(), "REFUSED_STREAM");
    Ok(())
}

/// A drain asks by a PING what a client has sent so far, and does not wait for one that never answers.
#[tokio::test]
async fn a_client_that_answers_no_ping_does_not_hold_a_drain() -> Tested {
    let service = Service::start();
    let mut idle = begin(&service).await?;
    let mut asking = begin(&service).await?;
    asking.send(get(1, "/sleep?ms=500")).await?;
    while service.running.status().workers[0].connections < 2 {
        tokio::task::yield_now().await;
    }
    let (drained, answered) = tokio::join!(service.running.drain(Duration::from_secs(60)), async {
        let answered = asking.next_of(HEADERS).await?.is_some();
        // To their ends, without a word.
        while asking.next().await?.is_some() {}
        while idle.next().await?.is_some() {}
        Tested::Ok(answered)
    });
    assert!(drained && answered?);
    Ok(())
}

/// What is under way at a drain is answered, and nothing is begun.
#[tokio::test]
async fn a_drain_says_goodbye() -> Tested {
    let service = Service::start();
    let mut client = begin(&service).await?;
    client.send(get(1, "/stream?n=2&ms=700")).await?;
    client.next_of(HEADERS).await?.expect("an answer");
    let (drained, seen) = tokio::join!(service.running.drain(Duration::from_secs(30)), async {
        let (mut body, mut goodbyes) = (Vec::new(), 0);
        while let Some(came) = client.next().await? {
            match came.kind {
                GOAWAY => goodbyes += 1,
                DATA => body.extend(came.payload),
                // It asks whether all streams that were begun have come.
                PING if came.flags == 0 => client.send(frame(PING, 1, 0, &came.payload)).await?,
                _ => {}
            }
        }
        assert!(goodbyes > 0, "it just goes");
        Tested::Ok(body)
    });
    assert!(drained);
    assert_eq!(String::from_utf8_lossy(&seen?), "chunk 0\nchunk 1\n");
    Ok(())
}
