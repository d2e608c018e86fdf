//! CGI programs whose threads share a memory, as those of WASIX are made: `guests/wasix/cgi.c`.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyport::cgi::{Convention, Script};
use anyport::{Artifact, Limits, Runtime};
use http::Method;

use super::service::{Service, within};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::builder().build().expect("this machine can run it"))
}

fn artifact(guest: &str) -> Artifact {
    Artifact::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests").join(guest))
        .expect("it is committed")
}

/// The guest, compiled once for the process.
fn program() -> (Artifact, Script) {
    static COMPILED: OnceLock<Artifact> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        let bytes = runtime().precompile(&artifact("wasix/cgi.wasm")).expect("it is valid");
        Artifact::from_bytes("cgi.wasm", bytes)
    });
    let mut script = Script::default();
    script.is_precompiled = true;
    (compiled.clone(), script)
}

fn start(limit: impl FnOnce(&mut Limits)) -> Service {
    let server = runtime().load_cgi("programs", vec![program()]).unwrap_or_else(|error| panic!("{error}"));
    Service::of(server, limit, |server| server)
}

#[tokio::test]
async fn each_request_has_a_memory_of_its_own() {
    let service = start(|_| {});
    let mut client = service.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/requests").await.short(), (200, "1\n"));
    }
    let told = client.get("/env?a=b").await.body;
    for want in
        ["argv[0]=cgi.wasm\n", "env QUERY_STRING=a=b\n", "env PATH_INFO=/env\n", "env GATEWAY_INTERFACE=CGI/1.1\n"]
    {
        assert!(told.contains(want), "{want} in {told}");
    }
    static LONG: &[u8] = &[b'x'; 300_000];
    let long = std::str::from_utf8(LONG).expect("it is text");
    assert_eq!(client.send(Method::POST, "/body", long).await.short().0, 200);
    assert_eq!(client.send(Method::POST, "/body", "hello").await.short(), (200, "body=5 hash=05e918d2\n"));
    let missing = client.get("/missing").await;
    assert_eq!(missing.short(), (404, "nothing here\n"));
}

#[tokio::test]
async fn a_program_has_threads_which_end_with_its_request() {
    let service = start(|limits| limits.instances = 1);
    let mut client = service.client().await;
    assert_eq!(client.get("/thread").await.short(), (200, "thread: error=0 found=5050\n"));
    for _ in 0..20 {
        assert_eq!(client.get("/left-behind").await.short(), (200, "thread: error=0 found=0\n"));
    }
    assert_eq!(client.get("/thread-trap").await.short(), (500, "the server failed\n"));
    assert_eq!(client.get("/requests").await.short(), (200, "1\n"), "its place is free");
    // EAGAIN.
    let service = start(|limits| assert!(limits.set("threads", 0)));
    assert_eq!(service.get("/thread").await.short(), (200, "thread: error=6 found=0\n"));
}

#[tokio::test]
async fn the_limits_of_a_request_hold() {
    let service = start(|limits| {
        limits.timeout = Duration::from_millis(300);
        limits.memory_bytes = 16 << 20;
        limits.instances = 1;
        limits.body_bytes = 10;
    });
    let mut client = service.client().await;
    assert_eq!(client.get("/wait").await.short(), (504, "the server took too long\n"));
    assert_eq!(client.get("/loop").await.short(), (504, "the server took too long\n"));
    assert_eq!(client.get("/grow?1000000").await.short(), (200, "room=1\n"));
    assert_eq!(client.get("/grow?32000000").await.short(), (200, "room=0\n"));
    assert_eq!(client.get("/exit?3").await.short(), (500, "the server failed\n"));
    assert_eq!(client.get("/trap").await.short(), (500, "the server failed\n"));
    assert_eq!(client.send(Method::POST, "/body", "hello world").await.status, 413);
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
    for path in ["/wait", "/loop"] {
        service.leave(path).await;
        assert_eq!(service.get("/requests").await.status, 200, "{path}");
    }
}

/// No guest of a service is told to leave, though libc says at each start how it would be told.
#[tokio::test]
async fn what_was_asked_is_answered_while_the_server_drains() {
    let service = start(|_| {});
    assert_eq!(service.get("/requests").await.status, 200);
    assert!(within("draining", service.running.drain(Duration::from_secs(3600))).await);
}

#[tokio::test]
async fn programs_of_both_kinds_are_behind_one_port() {
    let plain = |route: &str, artifact: Artifact| {
        let mut script = Script::default();
        script.route = route.parse().expect("a route");
        script.convention = Convention::Wagi;
        (artifact, script)
    };
    let programs = vec![plain("/shared/...", artifact("wasix/cgi.wasm")), plain("/own/...", artifact("cgi/cgi.wasm"))];
    let server = runtime().load_cgi("programs", programs).unwrap_or_else(|error| panic!("{error}"));
    let service = Service::of(server, |_| {}, |server| server);
    assert_eq!(service.get("/shared/requests").await.short(), (200, "1\n"));
    assert_eq!(service.get("/own/requests").await.short(), (200, "1\n"));
}

/// Whatever its libc does, a program may wait by an instruction: it keeps its place until it is over, and no other's.
#[tokio::test]
async fn a_program_that_waits_by_an_instruction_holds_up_nobody_else() {
    let text = r#"(module
        (import "env" "memory" (memory 1 2 shared))
        (import "wasix_32v1" "futex_wait" (func (param i32 i32 i32 i32) (result i32)))
        (func (export "_start") (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))"#;
    let routed = |route: &str, artifact: Artifact| {
        let mut script = Script::default();
        script.route = route.parse().expect("a route");
        (artifact, script)
    };
    let waits = Artifact::from_bytes("waits.wasm", wat::parse_str(text).expect("it is right"));
    let programs = vec![routed("/waits", waits), routed("/shared/...", artifact("wasix/cgi.wasm"))];
    let server = runtime().load_cgi("programs", programs).unwrap_or_else(|error| panic!("{error}"));
    let most = 2 + u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).expect("few");
    let limits = |limits: &mut Limits| {
        (limits.instances, limits.queue, limits.timeout) = (most, 0, Duration::from_millis(200));
    };
    let service = Service::of(server, limits, |server| server);
    for _ in 0..2 * most {
        within("its time to be over", async { while service.get("/waits").await.status != 504 {} }).await;
        within("a place to be free", async { while service.get("/shared/env").await.status != 200 {} }).await;
    }
}

#[test]
fn threads_that_no_limit_could_end_are_refused() {
    let text = r#"(module
        (import "env" "memory" (memory 1 2 shared))
        (import "wasi" "thread-spawn" (func (param i32) (result i32)))
        (func (export "_start") (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))"#;
    let artifact = Artifact::from_bytes("waits.wasm", wat::parse_str(text).expect("it is right"));
    let refused = runtime().load_cgi("waits.wasm", vec![(artifact, Script::default())]);
    let error = refused.err().expect("it is refused");
    assert_eq!(
        error.to_string(),
        "`waits.wasm` waits for its threads by instructions of its own, which no time limit of a request ends"
    );
}

/// It forks by hand what `wasm-opt --asyncify` would make it able to, ends its child by a signal, and goes.
const FORKS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasix_32v1" "futex_wait" (func (param i32 i32 i32 i32) (result i32)))
    (import "wasix_32v1" "proc_fork" (func $fork (param i32 i32) (result i32)))
    (import "wasix_32v1" "proc_signal" (func $signal (param i32 i32) (result i32)))
    (import "env" "memory" (memory 1 64 shared))
    (data (i32.const 32) "Content-Type: text/plain\n\nforked\n")
    (global $state (mut i32) (i32.const 0))
    (func (export "asyncify_start_unwind") (param i32) (global.set $state (i32.const 1)))
    (func (export "asyncify_stop_unwind") (global.set $state (i32.const 0)))
    (func (export "asyncify_start_rewind") (param i32) (global.set $state (i32.const 2)))
    (func (export "asyncify_stop_rewind") (global.set $state (i32.const 0)))
    (func (export "_start")
      (drop (call $fork (i32.const 1) (i32.const 0)))
      (if (i32.eq (global.get $state) (i32.const 1)) (then return))
      (if (i32.eqz (i32.load (i32.const 0))) (then (loop $for_ever (br $for_ever))))
      (i32.store (i32.const 8) (i32.const 32)) (i32.store (i32.const 12) (i32.const 33))
      (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))
      (drop (call $signal (i32.load (i32.const 0)) (i32.const 9)))))"#;

#[tokio::test]
async fn a_program_forks_and_leaves_no_process() {
    let artifact = Artifact::from_bytes("forks.wasm", wat::parse_str(FORKS).expect("it is valid"));
    let server = runtime().load_cgi("programs", vec![(artifact, Script::default())]).expect("it can be loaded");
    let service = Service::of(server, |limits| limits.instances = 1, |server| server);
    let mut client = service.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.short(), (200, "forked\n"));
    }
}
