//! What a guest answers, and what it is told of a request.

use std::path::Path;

use anyport::server::Directory;
use anyport::{Artifact, Policy, Publish, Runtime};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::service::{Service, Version, within};

#[tokio::test]
async fn answers_come_as_the_guest_gives_them() {
    for version in Version::BOTH {
        let service = Service::start(version);
        let mut client = service.client().await;
        assert_eq!(client.get("/hello").await.short(), (200, "Hello\n"));
        assert_eq!(client.send(Method::POST, "/hello", "Bob").await.short(), (200, "👋 Hello Bob\n"));
        assert_eq!(client.get("/nowhere").await.short(), (404, "no such page\n"));
        assert_eq!(client.get("/status?code=418").await.status, 418);
        let big = client.get("/big?bytes=300000").await;
        assert_eq!((big.body.len(), &big.headers["content-length"]), (300_000, &"300000".parse().expect("a value")));
        let many = client.get("/many-fields?n=50").await;
        assert_eq!(many.headers["field-49"], "value 49");
        let head = client.send(Method::HEAD, "/hello", "").await;
        assert_eq!(head.short(), (200, ""));
        assert_eq!(head.headers["content-length"], "6");
        // A body that a status forbids does not spoil the connection.
        assert_eq!(client.get("/status?code=204").await.short(), (204, ""));
        assert_eq!(client.get("/hello").await.short(), (200, "Hello\n"));
    }
}

#[tokio::test]
async fn a_guest_sees_the_request_as_it_was_sent() {
    for version in Version::BOTH {
        let service = Service::start(version);
        let seen = service.get("/headers?a=b%20c").await.body;
        for line in ["method GET", "path /headers?a=b%20c", "scheme http", "authority service.test"] {
            assert!(seen.lines().any(|other| other == line), "{line} is not in\n{seen}");
        }
        let mut client = service.client().await;
        assert!(client.send(Method::PATCH, "/headers", "").await.body.starts_with("method PATCH\n"));
    }
}

#[tokio::test]
async fn environment_arguments_and_files_are_those_that_were_given() {
    let folder = tempfile::tempdir().expect("a test may make a folder");
    std::fs::write(folder.path().join("greeting"), "from a file").expect("it is its own");
    for version in Version::BOTH {
        let service = Service::with(
            version,
            |_| {},
            |server| {
                let directory = Directory { host: folder.path().into(), guest: "/data".into(), read_only: true };
                server.env("NAME", "value").args(["one".to_owned()]).directory(directory)
            },
        );
        assert_eq!(service.get("/env").await.body, "NAME=value\n");
        assert!(service.get("/args").await.body.ends_with("one\n"));
        assert_eq!(service.get("/file?path=/data/greeting").await.short(), (200, "from a file"));
        assert_eq!(service.get("/file?path=/etc/passwd").await.status, 404);
    }
}

/// However it asks: by a link, by the folder above, by a file that may only be read.
#[tokio::test]
async fn files_that_were_not_given_are_out_of_reach() {
    for version in Version::BOTH {
        let folder = tempfile::tempdir().expect("a test may make a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["data", "own"] {
            std::fs::create_dir(at(name)).expect("it is its own");
            std::os::unix::fs::symlink("../secret", at(name).join("link")).expect("it is its own");
            std::os::unix::fs::symlink(at("secret"), at(name).join("absolute")).expect("it is its own");
            std::os::unix::fs::symlink("..", at(name).join("above")).expect("it is its own");
        }
        for name in ["secret", "data/note"] {
            std::fs::write(at(name), "as it was").expect("it is its own");
        }
        let directory = |name: &str, read_only| Directory { host: at(name), guest: format!("/{name}"), read_only };
        let given = [directory("data", true), directory("own", false)];
        let service = Service::with(
            version,
            |_| {},
            |server| given.into_iter().fold(server, |server, each| server.directory(each)),
        );
        for way in ["../secret", "link", "absolute", "above/secret", "x/../../secret", "%2e%2e/secret", "./../secret"] {
            for name in ["data", "own"] {
                let path = format!("/{name}/{way}");
                assert_eq!(service.get(&format!("/file?path={path}")).await.status, 404, "{version:?} {path}");
                let got = service.get(&format!("/write?path={path}&text=new")).await;
                assert_eq!(got.status, 403, "{version:?} {path}");
            }
        }
        for path in ["/data/note", "/data/new"] {
            let got = service.get(&format!("/write?path={path}&text=new")).await;
            assert_eq!(got.status, 403, "{version:?} {path}");
        }
        assert_eq!(service.get("/write?path=/own/new&text=new").await.short(), (200, "written\n"), "{version:?}");
        let read = |name: &str| std::fs::read_to_string(at(name)).ok();
        let there = ["secret", "data/note", "data/new", "own/new"].map(read);
        let wanted = [Some("as it was"), Some("as it was"), None, Some("new")];
        assert_eq!(there.each_ref().map(Option::as_deref), wanted, "{version:?}");
    }
}

/// What frames an answer, or is of its connection, is the front's.
#[tokio::test]
async fn fields_that_a_guest_may_not_write_are_refused() {
    for version in Version::BOTH {
        let service = Service::start(version);
        for field in [
            "connection:x-a",
            "keep-alive:timeout=5",
            "proxy-connection:close",
            "transfer-encoding:chunked",
            "upgrade:h2c",
            "host:other",
            "http2-settings:AAAA",
            "a%20b:c",
            "x-a:b%0d%0ax-b:c",
            "x-a:b%00c",
        ] {
            let got = service.get(&format!("/field?field={field}")).await;
            assert_eq!(got.status, 400, "{version:?} {field}: {got:?}");
        }
        let got = service.get("/field?field=x-a:b").await;
        assert_eq!((got.status.as_u16(), &got.headers["x-a"]), (200, &"b".parse().expect("a value")), "{version:?}");
    }
}

/// As by any server: what is done to its name later changes nothing.
#[tokio::test]
async fn a_directory_is_opened_once_for_all_requests() {
    for version in Version::BOTH {
        let folder = tempfile::tempdir().expect("a test may make a folder");
        let (data, moved) = (folder.path().join("data"), folder.path().join("moved"));
        std::fs::create_dir(&data).expect("it is its own");
        std::fs::write(data.join("greeting"), "from a file").expect("it is its own");
        let directory = Directory { host: data.clone(), guest: "/data".into(), read_only: false };
        let service = Service::with(version, |_| {}, |server| server.directory(directory));
        std::fs::rename(&data, &moved).expect("it is its own");
        for text in ["from a file", "another"] {
            std::fs::write(moved.join("greeting"), text).expect("it is its own");
            assert_eq!(service.get("/file?path=/data/greeting").await.short(), (200, text), "{version:?}");
        }
    }
}

#[tokio::test]
async fn it_is_reached_in_memory_and_on_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a test may make a folder");
    let path = folder.path().join("socket");
    for version in Version::BOTH {
        let unix = format!("unix:{}", path.display()).parse().expect("a path");
        let policy = Policy { publish: vec![unix, Publish::in_memory(8080)], ..Policy::default() };
        let service = Service::with(version, |_| {}, |server| server.policy(policy));
        let over_unix = within("connecting", UnixStream::connect(&path)).await.expect("it listens");
        let in_memory = service.running.connect(8080).expect("it is published");
        in_memory.set_nonblocking(true).expect("it is open");
        for mut stream in [over_unix, UnixStream::from_std(in_memory).expect("it is open")] {
            stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("it reads");
            let mut answer = String::new();
            within("an answer", stream.read_to_string(&mut answer)).await.expect("it answers");
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("Hello\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn several_workers_answer() {
    for version in Version::BOTH {
        let service = Service::with(version, |_| {}, |server| server.workers(3));
        // Kept open: each goes to the worker with the fewest.
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut client = service.client().await;
            assert_eq!(client.get("/hello").await.short(), (200, "Hello\n"));
            clients.push(client);
        }
        let status = service.running.status();
        let connections: Vec<_> = status.workers.iter().map(|worker| worker.connections).collect();
        assert_eq!(connections, [2, 2, 2]);
    }
}

#[test]
fn a_service_without_a_port_is_refused() {
    let error = Version::V02.server().start().err().expect("nothing could reach it");
    assert!(error.to_string().contains("no port is published"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("-p 8080")), "{error:?}");
}

/// Of each interface whatever release its toolchain took, and where its libc took another.
#[tokio::test]
async fn every_release_of_the_interfaces_is_served() {
    let releases: [(&str, &str, &[&str]); 3] = [
        // 0.2.0 and 0.2.9 are in it too.
        ("wasi-http-0.2/waki", "0.2.2", &["0.2.2", "0.2.1", "0.2.3", "0.2.4", "0.2.5", "0.2.6", "0.2.7", "0.2.8"]),
        ("wasi-http-0.2/echo", "0.2.12", &["0.2.10", "0.2.11"]),
        ("wasi-http-0.3/echo", "0.3.2", &["0.3.0", "0.3.1"]),
    ];
    let runtime = Runtime::builder().build().expect("this machine can run it");
    for (guest, built, others) in releases {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests").join(guest).join("server.wasm");
        let bytes = std::fs::read(file).expect("it is committed");
        for other in others {
            let bytes = replaced(&bytes, &format!("@{built}"), &format!("@{other}"));
            let server = runtime.load(&Artifact::from_bytes("patched", bytes));
            let server = server.unwrap_or_else(|error| panic!("{guest} of {other}: {error}"));
            let service = Service::of(server, |_| {}, |server| server);
            let answer = service.get("/?name=Hello").await;
            assert!(answer.status == 200 && answer.body.contains("ello"), "{guest} of {other}: {answer:?}");
        }
    }
}

/// The same bytes with each `from` a `to`, which is as long: nothing else moves.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let (mut bytes, mut count) = (bytes.to_vec(), 0);
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            count += 1;
        }
    }
    assert!(count > 0, "there is no {from}");
    bytes
}
