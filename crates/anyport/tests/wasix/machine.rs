//! Modules of WASIX in the text format, run to their end.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyport::server::Restart;
use anyport::{Artifact, Limits, Outcome, Policy, Running, Runtime, Server};

/// Longer than anything takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What a module imports, as far as tests use it: WASIX from its own namespace, preview1 from its own.
const IMPORTS: &[(&str, &str, &str)] = &[
    ("wasi_snapshot_preview1", "clock_time_get", "(param i32 i64 i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_close", "(param i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_fdstat_set_flags", "(param i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_read", "(param i32 i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_renumber", "(param i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_write", "(param i32 i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "poll_oneoff", "(param i32 i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "sock_accept", "(param i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "sock_recv", "(param i32 i32 i32 i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "sock_shutdown", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "callback_signal", "(param i32 i32)"),
    ("wasix_32v1", "chdir", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "epoll_create", "(param i32) (result i32)"),
    ("wasix_32v1", "epoll_ctl", "(param i32 i32 i32 i32) (result i32)"),
    ("wasix_32v1", "epoll_wait", "(param i32 i32 i32 i64 i32) (result i32)"),
    ("wasix_32v1", "fd_dup2", "(param i32 i32 i32 i32) (result i32)"),
    ("wasix_32v1", "fd_event", "(param i64 i32 i32) (result i32)"),
    ("wasix_32v1", "fd_pipe", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "futex_wait", "(param i32 i32 i32 i32) (result i32)"),
    ("wasix_32v1", "futex_wake", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "futex_wake_all", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "getcwd", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "proc_exit2", "(param i32)"),
    ("wasix_32v1", "proc_fork", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "proc_join", "(param i32 i32 i32) (result i32)"),
    ("wasix_32v1", "proc_raise", "(param i32) (result i32)"),
    ("wasix_32v1", "proc_raise_interval", "(param i32 i64 i32) (result i32)"),
    ("wasix_32v1", "proc_signal", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "sock_addr_local", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "sock_bind", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "sock_get_opt_flag", "(param i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_get_opt_time", "(param i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_listen", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "sock_open", "(param i32 i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_pair", "(param i32 i32 i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_set_opt_flag", "(param i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_set_opt_time", "(param i32 i32 i32) (result i32)"),
    ("wasix_32v1", "thread_exit", "(param i32)"),
    ("wasix_32v1", "thread_id", "(param i32) (result i32)"),
    ("wasix_32v1", "thread_join", "(param i32) (result i32)"),
    ("wasix_32v1", "thread_signal", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "thread_sleep", "(param i64) (result i32)"),
    ("wasix_32v1", "thread_spawn", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "thread_spawn_v2", "(param i32 i32) (result i32)"),
    ("wasi", "thread-spawn", "(param i32) (result i32)"),
];

/// A module that shares its memory, with functions of all imports, `$is` that ends it with the number of the line
/// where two values differ, and this of its own.
pub(crate) fn module(own: &str) -> String {
    let mut imports = String::new();
    for (module, name, kind) in IMPORTS {
        imports.push_str(&format!("(import \"{module}\" \"{name}\" (func ${name} {kind}))\n"));
    }
    format!(
        "(module {imports}
          ;; The same name, with the peer's address.
          (import \"wasix_32v1\" \"sock_accept\" (func $sock_accept4 (param i32 i32 i32 i32) (result i32)))
          (import \"env\" \"memory\" (memory 2 64 shared))
          (func $is (param $line i32) (param $value i32) (param $wanted i32)
            (if (i32.ne (local.get $value) (local.get $wanted)) (then (call $proc_exit2 (local.get $line)))))
          {own})"
    )
}

/// How it ends.
pub(crate) fn run(own: &str) -> Outcome {
    run_with(own, Policy::default(), |_| {})
}

pub(crate) fn run_with(own: &str, policy: Policy, limit: impl FnOnce(&mut Limits)) -> Outcome {
    let mut limits = Limits::default();
    limit(&mut limits);
    started(server(&module(own)).policy(policy).limits(limits)).wait()
}

/// A server of a module in the text format.
pub(crate) fn server(text: &str) -> Server {
    let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    runtime.load(&Artifact::from_bytes("wasix", bytes)).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn started(server: Server) -> Running {
    server.start().unwrap_or_else(|error| panic!("{error}"))
}

/// The same with its port 8080 published.
pub(crate) fn published(server: Server, restart: Restart) -> Running {
    let policy = Policy { publish: vec!["127.0.0.1:0:8080".parse().expect("a port")], ..Policy::default() };
    started(server.policy(policy).restart(restart))
}

/// One that ends when its guest does.
pub(crate) fn serve(own: &str, limit: impl FnOnce(&mut Limits)) -> Running {
    let mut limits = Limits::default();
    limit(&mut limits);
    published(server(&module(own)).limits(limits), Restart::No)
}

/// Connects to its port, once it listens there.
pub(crate) fn connect(running: &Running) -> TcpStream {
    let address = running.ports()[0].address().expect("it is a port of the host");
    let began = Instant::now();
    let stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) if began.elapsed() > LONG => panic!("{error}"),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    };
    stream.set_read_timeout(Some(LONG)).expect("it is a time");
    stream
}

/// Has descriptor 3 listen at port 8080; no more sockets may be open.
pub(crate) const LISTEN: &str = "
    (drop (call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 1024)))
    (i32.store8 (i32.const 1032) (i32.const 1)) (i32.store16 (i32.const 1034) (i32.const 8080))
    (call $is (i32.const 101) (call $sock_bind (i32.const 3) (i32.const 1032)) (i32.const 0))
    (call $is (i32.const 102) (call $sock_listen (i32.const 3) (i32.const 8)) (i32.const 0))";

/// Takes a connection there.
pub(crate) const ACCEPT: &str =
    "(call $is (i32.const 103) (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 1024)) (i32.const 0))";

/// That a module whose `_start` is this ends by itself: each check has its number.
pub(crate) fn holds(start: &str) {
    assert_eq!(run(&format!("(func (export \"_start\") {start})")), Outcome::Exited(0), "the number of the check");
}
