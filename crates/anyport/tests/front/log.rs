//! The access log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyport::Policy;
use anyport::server::{AccessLog, Front};
use tokio::io::AsyncWriteExt;

use super::frames::Frames;
use super::service::{Service, all, until};
use crate::support::{Guest, Tested, within};

fn log(format: &str, file: &Path) -> AccessLog {
    format!("{format}:{}", file.display()).parse().expect("a format")
}

/// The lines, once there are so many.
async fn lines(file: &Path, count: usize) -> Tested<Vec<String>> {
    within(format!("waiting for {count} lines"), async {
        loop {
            let text = fs::read_to_string(file)?;
            if text.lines().count() >= count {
                return Ok(text.lines().map(str::to_owned).collect());
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// What lines of JSON say, once there are so many.
async fn told(file: &Path, count: usize) -> Tested<Vec<serde_json::Value>> {
    let lines = lines(file, count).await?;
    Ok(lines.iter().map(|line| serde_json::from_str(line).expect("it is JSON")).collect())
}

#[tokio::test]
async fn each_request_is_a_line() -> Tested {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    let service = Service::with(|_, front| front.access_log = Some(log("json", &file)));
    service.get("/hello").await?;
    service.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await?;
    service.get("/trap").await?;
    let mut left = service.connect().await?;
    within("sending", left.write_all(b"GET /stream?n=2&ms=600000 HTTP/1.1\r\nHost: a\r\n\r\n")).await?;
    until(&mut left, "chunk 0").await?;
    drop(left);
    let told = told(&file, 4).await?;
    let brief: Vec<_> = told.iter().map(|line| (line["target"].as_str(), line["status"].as_u64())).collect();
    let wanted = [("/hello", 200), ("/", 400), ("/trap", 500), ("/stream?n=2&ms=600000", 200)];
    assert_eq!(brief, wanted.map(|(target, status)| (Some(target), Some(status))));
    assert_eq!(
        (&told[0]["bytes"], &told[0]["method"], &told[0]["host"]),
        (&6.into(), &"GET".into(), &"localhost".into())
    );
    assert_eq!(told[0]["peer"].as_str().map(|peer| peer.starts_with("127.0.0.1:")), Some(true));
    Ok(())
}

/// What hyper answers by itself, and what is refused in a body, which its request's line tells of.
#[tokio::test]
async fn what_is_no_request_is_a_line_too() -> Tested {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    let service = Service::with(|limits, front| {
        limits.header_bytes = 16 << 10;
        front.access_log = Some(log("json", &file));
    });
    service.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\nno request\r\n\r\n").await?;
    service.send("GET / HTTP/1.1\r\nHost : a\r\n\r\n").await?;
    service.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(20 << 10))).await?;
    service.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n").await?;
    service.get("/hello").await?;
    let told = told(&file, 6).await?;
    let brief: Vec<_> = told.iter().map(|line| (line["target"].as_str(), line["status"].as_u64())).collect();
    let wanted =
        [(Some("/hello"), 200), (None, 400), (None, 400), (None, 431), (Some("/echo"), 400), (Some("/hello"), 200)];
    assert_eq!(brief, wanted.map(|(target, status)| (target, Some(status))));
    Ok(())
}

#[tokio::test]
async fn who_sent_no_request_and_stays_is_a_line_too() -> Tested {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    let service = Service::with(|_, front| front.access_log = Some(log("json", &file)));
    let mut stays = service.connect().await?;
    within("sending", stays.write_all(b"no request\r\n\r\n")).await?;
    until(&mut stays, " 400 ").await?;
    assert_eq!(told(&file, 1).await?[0]["status"], 400);
    Ok(())
}

#[tokio::test]
async fn a_head_that_does_not_end_is_a_line_too() -> Tested {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    let service = Service::with(|limits, front| {
        (limits.header_timeout, limits.idle_timeout) = (Duration::from_secs(2), Duration::from_secs(3));
        front.access_log = Some(log("json", &file));
    });
    let mut silent = service.connect().await?;
    let mut slow = service.connect().await?;
    within("sending", slow.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n")).await?;
    // A browser that connects ahead, and has nothing to ask for yet.
    let mut early = Frames::begin(service.connect().await?, &[]).await?;
    assert_eq!((all(&mut slow).await?, all(&mut silent).await?), (String::new(), String::new()));
    assert_eq!(early.goodbye().await?, Some(0));
    service.get("/hello").await?;
    // Who only connected is none.
    let statuses: Vec<_> = told(&file, 2).await?.iter().map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(408), Some(200)]);
    Ok(())
}

#[tokio::test]
async fn a_line_cannot_be_forged() -> Tested {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    let service = Service::with(|_, front| front.access_log = Some(log("combined", &file)));
    let agent = "User-Agent: a\" \u{9b}2J\t127.0.0.1";
    service.send(format!("GET /hello?x=\u{9b} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{agent}\r\n\r\n")).await?;
    let told = lines(&file, 1).await?;
    let [line] = &told[..] else { panic!("{told:?}") };
    assert!(!line.chars().any(char::is_control), "{line}");
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    Ok(())
}

#[test]
fn what_cannot_be_done_is_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut front = Front::default();
    front.access_log = Some(log("json", &folder.path().join("missing/log")));
    let policy = || Policy { publish: vec!["0:8080".parse().expect("a port")], ..Policy::default() };
    let Err(error) = super::service::echo().policy(policy()).front(front.clone()).start() else { panic!("it starts") };
    assert!(error.to_string().contains("cannot be opened"), "{error}");
    let Err(error) = Guest::Wasmedge.server().policy(policy()).front(front).start() else { panic!("it starts") };
    assert!(error.to_string().contains("reads its requests by itself"), "{error}");
}
