//! Modules that are run anew for each request, by CGI: `guests/cgi`.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyport::cgi::{Convention, Script};
use anyport::server::Directory;
use anyport::{Artifact, Error, Limits, Runtime, Server};
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bodies::echo;
use super::service::{Service, within};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::builder().build().expect("this machine can run it"))
}

/// The guest, compiled once for the process.
fn program(script: Script) -> (Artifact, Script) {
    static COMPILED: OnceLock<Artifact> = OnceLock::new();
    let artifact = COMPILED.get_or_init(|| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/cgi/cgi.wasm");
        let artifact = Artifact::from_file(file).expect("it is committed");
        Artifact::from_bytes("cgi.wasm", runtime().precompile(&artifact).expect("it is valid"))
    });
    let mut script = script;
    script.is_precompiled = true;
    (artifact.clone(), script)
}

fn load(programs: Vec<(Artifact, Script)>) -> Result<Server, Error> {
    runtime().load_cgi("programs", programs)
}

fn server() -> Server {
    load(vec![program(Script::default())]).unwrap_or_else(|error| panic!("{error}"))
}

fn start(limit: impl FnOnce(&mut Limits)) -> Service {
    Service::of(server(), limit, |server| server)
}

/// What comes until the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut came = Vec::new();
    // A reset is an end too.
    let _ = within("the end", stream.read_to_end(&mut came)).await;
    String::from_utf8_lossy(&came).into_owned()
}

async fn exchange(service: &Service, sent: &str) -> String {
    let mut stream = service.connect().await;
    stream.write_all(sent.as_bytes()).await.expect("it is open");
    rest(&mut stream).await
}

#[tokio::test]
async fn each_request_has_an_instance_of_its_own() {
    let service = start(|_| {});
    let mut client = service.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/requests").await.short(), (200, "1\n"));
    }
}

#[tokio::test]
async fn a_program_has_its_request_in_its_environment_and_its_arguments() {
    let service =
        Service::of(server(), |_| {}, |server| server.env("MINE", "1").env("HTTP_PROXY", "own").args(["x".to_owned()]));
    let sent = "GET /env?a=%20b&c HTTP/1.1\r\nHost: cgi.test:81\r\nProxy: evil\r\nX_Under: 1\r\nX-Dash: 2\r\n\
                Cookie: a=b\r\nConnection: close\r\n\r\n";
    let answer = exchange(&service, sent).await;
    let lines: Vec<&str> = answer.lines().collect();
    for want in [
        "argv[0]=cgi.wasm",
        "argv[1]=x",
        "MINE=1",
        "HTTP_PROXY=own",
        "REQUEST_METHOD=GET",
        "QUERY_STRING=a=%20b&c",
        "PATH_INFO=/env",
        "SCRIPT_NAME=",
        "SERVER_NAME=cgi.test",
        "SERVER_PORT=81",
        "REMOTE_ADDR=127.0.0.1",
        "GATEWAY_INTERFACE=CGI/1.1",
        "HTTP_X_DASH=2",
        "HTTP_COOKIE=a=b",
    ] {
        assert!(lines.contains(&want), "no {want} in {answer}");
    }
    for unwanted in ["evil", "X_UNDER", "HTTP_CONNECTION", "CONTENT_LENGTH"] {
        assert!(!answer.contains(unwanted), "{unwanted} in {answer}");
    }
}

#[tokio::test]
async fn a_head_is_what_the_program_says() {
    let service = start(|_| {});
    let mut client = service.client().await;
    for (head, status, name, value) in [
        ("Content-Type:%20text/x%0a%0a", 200, "content-type", "text/x"),
        ("Status:%20404%20Not%20Found%0d%0aX-A:%20b%0d%0a%0d%0a", 404, "x-a", "b"),
        ("Location:%20/there%0a%0a", 302, "location", "/there"),
        ("Status:%20201%0aLocation:%20/there%0a%0a", 201, "location", "/there"),
        ("Connection:%20close%0aX-A:%20b%0a%0a", 200, "x-a", "b"),
    ] {
        let got = client.get(&format!("/raw?{head}body")).await;
        assert_eq!(got.short(), (status, "body"), "{head}");
        assert_eq!(got.headers[name], value, "{head}");
        assert!(!got.headers.contains_key("connection"), "{head}");
    }
    let got = client.get("/raw?Set-Cookie:%20a%0aSet-Cookie:%20b%0a%0a").await;
    assert_eq!(got.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn what_is_no_answer_gives_an_error_with_the_id_of_the_request() {
    let service = start(|_| {});
    let mut client = service.client().await;
    let (failed, not_right) = ("the server failed\n", "the server's answer is not right\n");
    for (path, status, text) in [
        ("/nothing", 502, not_right),
        ("/exit?0", 502, not_right),
        ("/exit?3", 500, failed),
        ("/trap", 500, failed),
        ("/raw?hello%0a%0a", 502, not_right),
        ("/raw?A:%20b%0a", 502, not_right),
        ("/raw?Status:%20101%0a%0a", 502, not_right),
        ("/raw?Transfer-Encoding:%20chunked%0a%0a", 502, not_right),
        ("/raw?A:%20%01%0a%0a", 502, not_right),
        ("/large-head?100000", 502, not_right),
        ("/a%00b", 400, "the target's path is no text\n"),
        ("/%ff", 400, "the target's path is no text\n"),
    ] {
        let got = client.get(path).await;
        assert_eq!(got.short(), (status, text), "{path}");
        assert_eq!(got.headers["x-request-id"].len(), 16, "{path}");
    }
    assert_eq!(client.get("/raw?Content-Length:%202%0a%0aabc").await.short(), (200, "ab"), "no more than it says");
    assert_eq!(client.get("/requests").await.status, 200);
}

#[tokio::test]
async fn an_answer_that_is_not_whole_is_an_error_unless_its_head_was_sent() {
    let service = start(|_| {});
    for (path, expected) in [
        ("/raw?Content-Length:%2010%0a%0aabc", (502, "the server's answer is not right\n")),
        ("/raw-then-exit?A:%20b%0a%0abody", (500, "the server failed\n")),
    ] {
        let mut whole = 0;
        for _ in 0..20 {
            // A program may be interrupted behind its head, which is sent then, and the connection cut.
            if let Ok(got) = service.client().await.try_send(Method::GET, path, "").await {
                assert_eq!(got.short(), expected, "{path}");
                whole += 1;
            }
        }
        assert!(whole > 0, "{path}");
    }
}

#[tokio::test]
async fn a_program_that_fails_amid_its_answer_gives_a_truncated_one() {
    let service = start(|limits| limits.timeout = Duration::from_millis(500));
    // The last one is silent for too long.
    for path in ["/late-exit?50", "/late-trap?50", "/late-exit?60000"] {
        let answer = exchange(&service, &format!("GET {path} HTTP/1.1\r\nHost: cgi.test\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("a part\n"), "{path}: {answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_body_streams_both_ways() {
    for h2 in [false, true] {
        let service = start(|_| {});
        let (sender, mut body) = echo(&service, h2).await;
        for part in ["one", "two", "three"] {
            sender.send(Ok(Frame::data(Bytes::from(part)))).await.expect("it is read");
            let mut came = String::new();
            while came.len() < part.len() {
                let frame = within("a part", body.frame()).await.expect("it goes on").expect("it is right");
                came.push_str(std::str::from_utf8(&frame.into_data().expect("data")).expect("text"));
            }
            assert_eq!(came, part);
        }
        // CGI has no word for trailers.
        sender.send(Ok(Frame::trailers(HeaderMap::new()))).await.expect("it is read");
        drop(sender);
        let rest = within("the end", body.collect()).await.expect("it is whole");
        assert!(rest.to_bytes().is_empty(), "h2: {h2}");
    }
}

#[tokio::test]
async fn a_program_waits_for_a_client_that_does_not_read() {
    const BYTES: usize = 25_000_000;
    let limits = |limits: &mut Limits| (limits.instances, limits.queue) = (1, 0);
    let service = Service::of(server(), limits, |server| server);
    let mut stream = service.connect().await;
    let sent = format!("GET /fill?{BYTES} HTTP/1.1\r\nHost: cgi.test\r\nConnection: close\r\n\r\n");
    stream.write_all(sent.as_bytes()).await.expect("it is open");
    let mut first = [0];
    within("the answer", stream.read_exact(&mut first)).await.expect("it answers");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let other = service.get("/requests").await;
    assert_eq!(other.short(), (503, "too many requests wait\n"), "the program has not ended");
    let answer = rest(&mut stream).await;
    assert!(answer.bytes().filter(|byte| *byte == b'x').count() >= BYTES, "all of it came");
    within("the place to be free", async { while service.get("/requests").await.status != 200 {} }).await;
}

#[tokio::test]
async fn a_client_waits_for_a_program_that_does_not_read() {
    let service = start(|limits| limits.timeout = Duration::from_secs(60));
    let mut stream = service.connect().await;
    let head = "POST /sleep?60000 HTTP/1.1\r\nHost: cgi.test\r\nContent-Length: 30000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("it is open");
    let body = vec![b'x'; 30_000_000];
    let sending = tokio::time::timeout(Duration::from_millis(500), stream.write_all(&body)).await;
    assert!(sending.is_err(), "nobody keeps what the program does not read");
}

#[tokio::test]
async fn a_body_of_unknown_length_has_no_content_length() {
    let service = start(|_| {});
    for (framing, body, want) in [
        ("Content-Length: 5", "hello", "5 bytes, CONTENT_LENGTH=5"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "5 bytes, CONTENT_LENGTH=-"),
        ("X: y", "", "0 bytes, CONTENT_LENGTH=-"),
    ] {
        let sent = format!("POST /body HTTP/1.1\r\nHost: cgi.test\r\nConnection: close\r\n{framing}\r\n\r\n{body}");
        let answer = exchange(&service, &sent).await;
        assert!(answer.contains(want), "{framing}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on_when_the_program_reads() {
    let service = start(|_| {});
    let mut stream = service.connect().await;
    let head = "POST /body HTTP/1.1\r\nHost: cgi.test\r\nConnection: close\r\nExpect: 100-continue\r\n\
                Content-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("it is open");
    let mut came = [0; 25];
    within("the leave to go on", stream.read_exact(&mut came)).await.expect("it answers");
    assert_eq!(&came, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.expect("it is open");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("5 bytes"), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_told_so() {
    let service = start(|limits| limits.body_bytes = 10);
    let chunked =
        "POST /body HTTP/1.1\r\nHost: cgi.test\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n";
    let answer = exchange(&service, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_head_alone_ends_and_its_connection_goes_on() {
    let service = start(|limits| limits.instances = 1);
    let mut client = service.client().await;
    for _ in 0..2 {
        let got = client.send(Method::HEAD, "/fill?1000000", "").await;
        assert_eq!(got.short(), (200, ""));
        assert_eq!(client.get("/requests").await.short(), (200, "1\n"));
    }
}

/// The heap that exceptions are kept in comes from the pool too, and goes back there.
#[tokio::test]
async fn a_program_throws_and_catches_in_the_same_place_again_and_again() {
    let text = "(module
        (import \"wasi_snapshot_preview1\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (memory (export \"memory\") 1)
        (data (i32.const 16) \"Content-Type: text/plain\\n\\ncaught\\n\")
        (tag $exception)
        (func (export \"_start\")
          (block $caught (try_table (catch $exception $caught) (throw $exception)) (unreachable))
          (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 33))
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))";
    let program = Artifact::from_bytes("throws.wasm", wat::parse_str(text).expect("it is valid"));
    let server = load(vec![(program, Script::default())]).unwrap_or_else(|error| panic!("{error}"));
    let service = Service::of(server, |limits| limits.instances = 1, |server| server);
    let mut client = service.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.short(), (200, "caught\n"));
    }
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended() {
    let service = start(|limits| {
        limits.timeout = Duration::from_millis(300);
        limits.instances = 1;
    });
    let mut client = service.client().await;
    assert_eq!(client.get("/sleep?60000").await.short(), (504, "the server took too long\n"));
    assert_eq!(client.get("/requests").await.status, 200, "its place is free");
    let service = start(|limits| {
        limits.cpu_time = Some(Duration::from_millis(300));
        limits.instances = 1;
    });
    assert_eq!(service.get("/loop").await.short(), (500, "the server failed\n"));
    assert_eq!(service.get("/requests").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_program() {
    let service = start(|limits| limits.instances = 1);
    for path in ["/sleep?60000", "/late-exit?60000"] {
        service.leave(path).await;
        // It waits for the place, which the other would have for a minute.
        assert_eq!(service.get("/requests").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn what_was_asked_is_answered_while_the_server_drains() {
    let service = start(|_| {});
    let mut client = service.client().await;
    let asked = tokio::spawn(async move { client.get("/sleep?300").await });
    within("the request to begin", async {
        while service.running.status().workers[0].connections < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
    assert!(within("draining", service.running.drain(Duration::from_secs(30))).await);
    assert_eq!(asked.await.expect("it does not panic").short(), (200, "slept\n"));
}

fn script(route: &str, more: impl FnOnce(&mut Script)) -> (Artifact, Script) {
    let mut script = Script::default();
    script.route = route.parse().expect("a route");
    script.convention = Convention::Wagi;
    more(&mut script);
    program(script)
}

#[tokio::test]
async fn several_programs_have_their_routes_their_environments_and_their_directories() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("note"), "noted\n").expect("it is ours");
    let programs = vec![
        script("/all/...", |script| script.env.push(("WHO".to_owned(), "all".to_owned()))),
        script("/all/inner/...", |script| script.argv = Some("run ${SCRIPT_NAME} ${ARGS}".to_owned())),
        script("/greet", |script| script.entrypoint = "greet".to_owned()),
        script("/files/...", |script| {
            let host = folder.path().to_owned();
            script.directories.push(Directory { host, guest: "/data".to_owned(), read_only: true });
        }),
    ];
    let server = load(programs).unwrap_or_else(|error| panic!("{error}")).env("WHO", "everybody").env("ALL", "1");
    let service = Service::of(server, |_| {}, |server| server);
    let all = service.get("/all/env?a&b=c").await.body;
    for want in ["argv[0]=/all/env\nargv[1]=a\nargv[2]=b=c\n", "WHO=all\n", "ALL=1\n", "SCRIPT_NAME=/all\n"] {
        assert!(all.contains(want), "{want} in {all}");
    }
    let inner = service.get("/all/inner/env?a&b").await.body;
    assert!(inner.contains("argv[0]=run\nargv[1]=/all/inner\nargv[2]=a\nargv[3]=b\nWHO=everybody\n"), "{inner}");
    assert_eq!(service.get("/greet").await.short(), (200, "greetings\n"));
    assert_eq!(service.get("/files/file?/data/note").await.short(), (200, "noted\n"));
    assert_eq!(service.get("/all/file?/data/note").await.short(), (200, "no such file\n"));
    for path in ["/", "/greet/", "/allinner", "/other"] {
        assert_eq!(service.get(path).await.short(), (404, "there is nothing at this path\n"), "{path}");
    }
}

#[test]
fn what_cannot_be_run_so_is_explained() {
    let refused = |programs| match load(programs) {
        Ok(_) => panic!("it is taken"),
        Err(error) => error.to_string(),
    };
    let plain = |_: &mut Script| {};
    assert_eq!(refused(vec![script("/a", plain), script("/a", plain)]), "`cgi.wasm` and `cgi.wasm` are both for `/a`");
    assert_eq!(
        refused(vec![script("/a", |script| script.entrypoint = "memory".to_owned())]),
        "`cgi.wasm` exports no function `memory` without parameters"
    );
    assert_eq!(refused(Vec::new()), "`programs` names no program");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasi-http-0.2/echo/server.wasm");
    let component = Artifact::from_file(file).expect("it is committed");
    assert!(refused(vec![(component, Script::default())]).ends_with("is a component, and CGI is for modules"));
}

/// Small ones are written anew where they were written to, large ones as a whole where there are several workers: no
/// request finds what another has left, in what the module began with, beyond that, or in what it grew by.
#[tokio::test]
async fn a_memory_begins_anew_however_large_it_is() {
    for pages in [2, 64, 1024] {
        let (last, grown) = ((pages << 16) - 1, pages << 16);
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") {pages})
                (data (i32.const 64) "Content-Type: text/plain\n\n    ")
                (data (i32.const 40000) "a")
                (func $tell (param $at i32) (param $from i32)
                  (i32.store8 (local.get $at)
                    (select (i32.load8_u (local.get $from)) (i32.const 48) (i32.load8_u (local.get $from))))
                  (i32.store8 (local.get $from) (i32.const 98)))
                (func (export "_start")
                  (drop (memory.grow (i32.const 1)))
                  (call $tell (i32.const 90) (i32.const 40000))
                  (call $tell (i32.const 91) (i32.const {last}))
                  (call $tell (i32.const 92) (i32.const {grown}))
                  (i32.store (i32.const 0) (i32.const 64))
                  (i32.store (i32.const 4) (i32.const 29))
                  (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#
        );
        let artifact = Artifact::from_bytes("large.wasm", wat::parse_str(text).expect("it is right"));
        for workers in [1, 2] {
            let programs = vec![(artifact.clone(), Script::default())];
            let server = runtime().load_cgi("programs", programs).unwrap_or_else(|error| panic!("{error}"));
            let service = Service::of(server, |limits| limits.instances = 4, |server| server.workers(workers));
            for _ in 0..6 {
                assert_eq!(service.get("/").await.short(), (200, "a00"), "{pages} pages, {workers} workers");
            }
        }
    }
}
