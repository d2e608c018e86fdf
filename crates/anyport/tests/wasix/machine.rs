//! Modules of WASIX in the text format, run to their end.

use anyport::{Artifact, Limits, Outcome, Policy, Runtime};

/// What a module imports, as far as tests use it: WASIX from its own namespace, preview1 from its own.
const IMPORTS: &[(&str, &str, &str)] = &[
    ("wasi_snapshot_preview1", "fd_close", "(param i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_read", "(param i32 i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_renumber", "(param i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "fd_write", "(param i32 i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "poll_oneoff", "(param i32 i32 i32 i32) (result i32)"),
    ("wasi_snapshot_preview1", "sock_accept", "(param i32 i32 i32) (result i32)"),
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
    ("wasix_32v1", "proc_raise", "(param i32) (result i32)"),
    ("wasix_32v1", "proc_raise_interval", "(param i32 i64 i32) (result i32)"),
    ("wasix_32v1", "sock_addr_local", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "sock_bind", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "sock_get_opt_flag", "(param i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_listen", "(param i32 i32) (result i32)"),
    ("wasix_32v1", "sock_open", "(param i32 i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_pair", "(param i32 i32 i32 i32 i32) (result i32)"),
    ("wasix_32v1", "sock_set_opt_flag", "(param i32 i32 i32) (result i32)"),
    ("wasix_32v1", "thread_exit", "(param i32)"),
    ("wasix_32v1", "thread_join", "(param i32) (result i32)"),
    ("wasix_32v1", "thread_sleep", "(param i64) (result i32)"),
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
    let bytes = wat::parse_str(module(own)).unwrap_or_else(|error| panic!("{error}"));
    let mut limits = Limits::default();
    limit(&mut limits);
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    let server = runtime.load(&Artifact::from_bytes("wasix", bytes)).unwrap_or_else(|error| panic!("{error}"));
    server.policy(policy).limits(limits).start().unwrap_or_else(|error| panic!("{error}")).wait()
}

/// That a module whose `_start` is this ends by itself: each check has its number.
pub(crate) fn holds(start: &str) {
    assert_eq!(run(&format!("(func (export \"_start\") {start})")), Outcome::Exited(0), "the number of the check");
}
