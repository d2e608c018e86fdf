//! The limits of requests: how large, how slow, how many; and clients that leave.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, frame, get, request};
use super::service::{Service, all, status, until};
use crate::support::{Tested, within};

/// Long enough for a machine with much else to do, between two bytes of a client that is not slow.
const LIMIT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_head_that_comes_slowly_ends() -> Tested {
    let service = Service::with(|limits, _| limits.header_timeout = LIMIT);
    let mut silent = service.connect().await?;
    let mut slow = service.connect().await?;
    let began = Instant::now();
    within("sending", slow.write_all(b"GET /hello HTTP/1.1\r\n")).await?;
    let (reading, mut writing) = slow.split();
    let mut reading = reading;
    // A byte now and then does not help.
    let drip = async {
        while writing.write_all(b"X").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        ended = all(&mut reading) => assert_eq!(status(&ended?), 0),
        () = drip => {}
    }
    assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
    assert_eq!(all(&mut silent).await?, "");
    // Between two requests a connection may be quiet for longer.
    let mut kept = service.connect().await?;
    for _ in 0..2 {
        within("sending", kept.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).await?;
        until(&mut kept, "Hello\n").await?;
        tokio::time::sleep(LIMIT + LIMIT / 4).await;
    }
    Ok(())
}

/// One of HTTP/2, whose frames say whether another follows: neither a PING nor a request before it helps.
#[tokio::test]
async fn a_head_of_http2_that_comes_slowly_ends() -> Tested {
    let service = Service::with(|limits, _| limits.header_timeout = LIMIT);
    let head = request("GET", "/hello");
    for first in [vec![], get(1, "/sleep?ms=600000")] {
        for part in [frame(HEADERS, END_STREAM, 3, &head), frame(HEADERS, END_HEADERS, 3, &head)[..12].to_vec()] {
            let mut client = Frames::begin(service.connect().await?, &[]).await?;
            let began = Instant::now();
            client.send([&first[..], &part].concat()).await?;
            while client.next().await?.is_some() {}
            assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
        }
    }
    // One that comes in time does, however many its frames are.
    let mut client = Frames::begin(service.connect().await?, &[]).await?;
    client.send(frame(HEADERS, END_STREAM, 1, &head[..2])).await?;
    tokio::time::sleep(LIMIT / 4).await;
    client.send(frame(CONTINUATION, END_HEADERS, 1, &head[2..])).await?;
    client.next_of(HEADERS).await?.expect("an answer");
    tokio::time::sleep(LIMIT + LIMIT / 4).await;
    client.send(get(3, "/hello")).await?;
    client.next_of(HEADERS).await?.expect("another");
    Ok(())
}

/// A client that only connects, or asked once and stays, has a second where few others have room.
#[tokio::test]
async fn idle_connections_make_room_for_others() -> Tested {
    let service = Service::with(|limits, _| limits.connections = 10);
    let (mut kept, mut ahead) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        ahead.push(Frames::begin(service.connect().await?, &[]).await?);
        let mut client = service.connect().await?;
        within("sending", client.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).await?;
        until(&mut client, "Hello\n").await?;
        kept.push(client);
    }
    assert_eq!(status(&service.get("/hello").await?), 200);
    Ok(())
}

#[tokio::test]
async fn a_body_that_stalls_ends() -> Tested {
    let service = Service::with(|limits, _| {
        limits.body_timeout = LIMIT;
        limits.instances = 1;
    });
    for head in ["Content-Length: 100\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let began = Instant::now();
        let answer = service.send(format!("POST /hello HTTP/1.1\r\nHost: a\r\n{head}")).await?;
        assert_eq!(status(&answer), 408, "{answer}");
        assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
        // Its instance is free again.
        assert_eq!(status(&service.get("/hello").await?), 200);
    }
    let mut client = Frames::begin(service.connect().await?, &[]).await?;
    let begun = [frame(HEADERS, END_HEADERS, 1, &request("POST", "/hello")), frame(DATA, 0, 1, b"abc")].concat();
    client.send(begun).await?;
    let told = client.next_of(DATA).await?.expect("an answer").payload;
    assert_eq!(told, b"the rest of the request did not come in time\n");
    assert_eq!(status(&service.get("/hello").await?), 200);
    Ok(())
}

/// Longer than a body may stall, and than a guest may take for its answer: neither waits for the other.
#[tokio::test]
async fn a_body_that_goes_on_may_take_longer() -> Tested {
    let [of_02, of_03] = Service::of_each_version(|limits, _| {
        limits.body_timeout = LIMIT;
        limits.timeout = LIMIT;
    });
    tokio::try_join!(is_answered_late(&of_02), is_answered_late(&of_03)).map(drop)
}

async fn is_answered_late(service: &Service) -> Tested {
    let mut steady = service.connect().await?;
    within("sending", steady.write_all(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n")).await?;
    for byte in b"Bob Morane!!" {
        tokio::time::sleep(LIMIT / 6).await;
        within("sending", steady.write_all(&[*byte])).await?;
    }
    until(&mut steady, "Hello Bob Morane!!").await?;
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() -> Tested {
    let mut service = Service::with(|limits, _| limits.body_bytes = 1000);
    let post = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
            + &"a".repeat(length)
    };
    assert_eq!(status(&service.send(post("/hello", 1000)).await?), 200);
    // What says so of itself calls no guest.
    let answer = service.send(post("/stdout?text=called", 1001)).await?;
    assert_eq!(status(&answer), 413, "{answer}");
    assert_eq!(service.called().await?, [""; 0]);
    // What does not is counted.
    for (chunks, wanted) in [(10, 200), (11, 413)] {
        let body = format!("64\r\n{}\r\n", "a".repeat(100)).repeat(chunks) + "0\r\n\r\n";
        let head = "POST /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = service.send(head.to_owned() + &body).await?;
        assert_eq!(status(&answer), wanted, "{chunks}: {answer}");
    }
    // A client that asks first sends nothing.
    let expects = "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(status(&service.send(expects).await?), 413);
    Ok(())
}

/// The answer is there before the client has sent all, and it looks for it afterwards: a reset would take it away.
#[tokio::test]
async fn an_answer_reaches_a_client_that_still_sends() -> Tested {
    const BYTES: usize = 20 << 20;
    let service = Service::with(|limits, _| limits.body_bytes = 10 << 20);
    let body = vec![b'a'; BYTES];
    for (path, length, wanted) in [("/hello", BYTES, 413), ("/stdout?text=early", 9 << 20, 200)] {
        for head in ["Connection: close\r\n", ""] {
            let mut client = service.connect().await?;
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {length}\r\n\r\n");
            within("sending", client.write_all(head.as_bytes())).await?;
            within("sending", client.write_all(&body[..length])).await?;
            let answer = until(&mut client, "\r\n\r\n").await?;
            assert_eq!(status(&answer), wanted, "{path}: {answer}");
        }
    }
    // So does what refuses a head that is still on its way.
    let mut client = service.connect().await?;
    within("sending", client.write_all(b"GET / HTTP/1.1\r\nx: ")).await?;
    within("sending", client.write_all(&body)).await?;
    let answer = until(&mut client, "\r\n\r\n").await?;
    assert_eq!(status(&answer), 431, "{answer}");
    Ok(())
}

/// Not for ever: one that sends on and on is closed.
#[tokio::test]
async fn a_client_that_sends_on_and_on_is_closed() -> Tested {
    let service = Service::with(|limits, _| limits.body_bytes = 1000);
    let mut client = service.connect().await?;
    within("sending", client.write_all(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n"))
        .await?;
    until(&mut client, " 413 ").await?;
    let sends = async {
        while client.write_all(&[b'a'; 1000]).await.is_ok() {}
        Ok(())
    };
    within("closing", sends).await
}

#[tokio::test]
async fn requests_wait_for_an_instance_and_no_more_than_may() -> Tested {
    let service = Service::with(|limits, _| {
        limits.instances = 1;
        limits.queue = 1;
    });
    let mut busy = service.connect().await?;
    within("sending", busy.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")).await?;
    until(&mut busy, "a").await?;
    let mut waits = service.connect().await?;
    within("sending", waits.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).await?;
    let refused = loop {
        // It may come before the one that is to wait.
        let answer = tokio::time::timeout(Duration::from_millis(500), service.get("/hello")).await;
        if let Ok(answer) = answer {
            break answer?;
        }
    };
    assert_eq!(status(&refused), 503, "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: "), "{refused}");
    let told = || service.running.status().requests.expect("it is a service");
    // Of those under way: the one that has the instance, and the one that waits.
    settles("under way", || (told().answering, told().waiting), (2, 1)).await?;
    within("sending", busy.write_all(b"bc")).await?;
    until(&mut busy, "bc").await?;
    until(&mut waits, "Hello\n").await?;
    settles("under way", || (told().answering, told().waiting), (0, 0)).await?;
    assert_eq!(told().failed, 0);
    assert!(told().refused >= 1 && told().answered >= 2 + told().refused, "{:?}", told());
    assert_eq!(status(&service.get("/trap").await?), 500);
    settles("failed", || told().failed, 1).await
}

/// Until something is so that comes to be of itself.
async fn settles<T: PartialEq>(what: &str, now: impl Fn() -> T, wanted: T) -> Tested {
    within(format!("waiting for what is {what}"), async {
        while now() != wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn connections_above_their_limit_wait() -> Tested {
    for workers in [1, 2] {
        let publish = vec!["0:8080".parse().expect("a port")];
        let service = Service::of(workers, publish, |limits, _| limits.connections = 1);
        let mut first = Vec::new();
        for _ in 0..workers {
            let mut stream = service.connect().await?;
            within("sending", stream.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).await?;
            until(&mut stream, "Hello\n").await?;
            first.push(stream);
        }
        let early = tokio::time::timeout(Duration::from_millis(200), service.get("/hello")).await;
        assert!(early.is_err(), "{early:?}");
        let next = service.get("/hello");
        drop(first.pop());
        assert_eq!(status(&next.await?), 200);
    }
    Ok(())
}

/// Whatever it was doing for its client, the instance is another's when that one has left.
#[tokio::test]
async fn a_client_that_leaves_frees_its_instance() -> Tested {
    let service = Service::with(|limits, _| limits.instances = 1);
    for (stage, request, seen) in [
        ("the guest waits for the body", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", "abc"),
        ("before its answer", "GET /sleep?ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("it computes", "GET /loop HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("between two parts", "GET /stream?n=3&ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n", "chunk 0"),
        ("the answer is not taken", "GET /big?bytes=100000000 HTTP/1.1\r\nHost: a\r\n\r\n", "xxx"),
    ] {
        let mut client = service.connect().await?;
        within("sending", client.write_all(request.as_bytes())).await?;
        if seen.is_empty() {
            // Until the guest has it, others are answered at once, or wait.
            let busy = tokio::time::timeout(Duration::from_millis(500), service.get("/hello")).await;
            drop(busy);
        } else {
            until(&mut client, seen).await?;
        }
        drop(client);
        // One that computes is told at its next tick.
        let next = tokio::time::timeout(Duration::from_secs(20), service.get("/hello")).await;
        assert_eq!(status(&next.unwrap_or_else(|_| panic!("{stage}: it is not free"))?), 200, "{stage}");
    }
    Ok(())
}

/// A client that asks and does not read is let go, with its instance.
#[tokio::test]
async fn an_answer_that_is_not_taken_ends() -> Tested {
    let service = Service::with(|limits, _| {
        limits.instances = 1;
        limits.timeout = LIMIT;
    });
    let mut client = service.connect().await?;
    within("sending", client.write_all(b"GET /big?bytes=100000000 HTTP/1.1\r\nHost: a\r\n\r\n")).await?;
    until(&mut client, "xxx").await?;
    assert_eq!(status(&service.get("/hello").await?), 200);
    // What is left of it is what was under way.
    assert!(all(&mut client).await?.len() < 100_000_000);
    Ok(())
}

/// Neither `Content-Length` nor the last chunk says then that it is whole.
#[tokio::test]
async fn an_answer_that_does_not_go_on_ends() -> Tested {
    for service in Service::of_each_version(|limits, _| {
        limits.timeout = LIMIT;
        limits.instances = 1;
    }) {
        let began = Instant::now();
        let answer = service.send("GET /stream?n=2&ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        assert!(answer.ends_with("chunk 0\n\r\n"), "{answer}");
        assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
        // Its place is free again, and its instance is no more.
        assert_eq!(status(&service.get("/hello").await?), 200);
        // It may take longer as long as it goes on.
        let answer = service.get("/stream?n=6&ms=600").await?;
        assert!(answer.ends_with("chunk 5\n\r\n0\r\n\r\n"), "{answer}");
    }
    Ok(())
}

/// An instance of 0.3 that takes no more requests lives for as long as what it has begun is taken.
#[tokio::test]
async fn an_answer_may_outlast_the_time_of_a_used_up_instance() -> Tested {
    for service in Service::of_each_version(|limits, _| {
        limits.timeout = LIMIT;
        limits.instance_reuse = Some(1);
    }) {
        let answer = service.get("/stream?n=7&ms=600").await?;
        assert!(answer.ends_with("chunk 6\n\r\n0\r\n\r\n"), "{answer}");
    }
    Ok(())
}

/// What is sent on a connection of HTTP/2 that is idle is no head that comes slowly.
#[tokio::test]
async fn an_idle_client_of_http_2_may_say_that_it_is_there() -> Tested {
    let service = Service::with(|limits, _| {
        limits.header_timeout = LIMIT / 2;
        limits.idle_timeout = LIMIT;
    });
    let began = Instant::now();
    let mut client = Frames::begin(service.connect().await?, &[]).await?;
    client.send([get(1, "/hello"), frame(PING, 0, 0, &[1; 8])].concat()).await?;
    client.next_of(DATA).await?.expect("a body");
    client.send(frame(PING, 0, 0, &[2; 8])).await?;
    // With a word, and not before its time.
    assert_eq!(client.goodbye().await?, Some(0));
    assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
    Ok(())
}
