//! Modules of wasi-threads: preview1, a memory that is shared, `wasi.thread-spawn`, and nothing of WASIX.

use std::io::{Read, Write};

use anyport::server::Restart;
use anyport::{Limits, Outcome};

use super::machine::{connect, published, server, started};
use super::threads::begins_threads_without_end;

/// A module of it, which ends with the number of the line where two values differ.
pub(crate) fn module(own: &str) -> String {
    format!(
        "(module
          (import \"wasi_snapshot_preview1\" \"fd_close\" (func $fd_close (param i32) (result i32)))
          (import \"wasi_snapshot_preview1\" \"fd_fdstat_set_flags\"
            (func $fd_fdstat_set_flags (param i32 i32) (result i32)))
          (import \"wasi_snapshot_preview1\" \"fd_read\" (func $fd_read (param i32 i32 i32 i32) (result i32)))
          (import \"wasi_snapshot_preview1\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $proc_exit (param i32)))
          (import \"wasi_snapshot_preview1\" \"sock_accept\" (func $sock_accept (param i32 i32 i32) (result i32)))
          (import \"wasi\" \"thread-spawn\" (func $thread-spawn (param i32) (result i32)))
          (import \"env\" \"memory\" (memory 2 64 shared))
          (export \"memory\" (memory 0))
          (func $is (param $line i32) (param $value i32) (param $wanted i32)
            (if (i32.ne (local.get $value) (local.get $wanted)) (then (call $proc_exit (local.get $line)))))
          ;; Waits as long as there is nothing at an address.
          (func $wait (param $at i32)
            (loop $again
              (drop (memory.atomic.wait32 (local.get $at) (i32.const 0) (i64.const -1)))
              (br_if $again (i32.eqz (i32.atomic.load (local.get $at))))))
          {own})"
    )
}

fn run(own: &str, limit: impl FnOnce(&mut Limits)) -> Outcome {
    let mut limits = Limits::default();
    limit(&mut limits);
    started(server(&module(own)).limits(limits)).wait()
}

#[test]
fn threads_share_a_memory_and_wake_each_other() {
    let outcome = run(
        "(func (export \"wasi_thread_start\") (param $number i32) (param $pointer i32)
           (i32.store (i32.const 68) (local.get $number))
           (i32.atomic.store (i32.const 64) (local.get $pointer))
           (drop (memory.atomic.notify (i32.const 64) (i32.const 1))))
         (func (export \"_start\") (local $number i32)
           (local.set $number (call $thread-spawn (i32.const 7)))
           (call $is (i32.const 1) (i32.gt_s (local.get $number) (i32.const 0)) (i32.const 1))
           (call $wait (i32.const 64))
           (call $is (i32.const 2) (i32.load (i32.const 64)) (i32.const 7))
           (call $is (i32.const 3) (i32.load (i32.const 68)) (local.get $number))
           (call $proc_exit (i32.const 9)))",
        |_| {},
    );
    assert_eq!(outcome, Outcome::Exited(9));
}

/// The first thread takes connections, and gives each to a thread of its own, which answers with what it read.
#[test]
fn a_thread_for_each_connection_serves() {
    let own = "(func (export \"wasi_thread_start\") (param $number i32) (param $fd i32) (local $at i32)
           ;; A buffer of its own, and its list.
           (local.set $at (i32.add (i32.const 1024) (i32.mul (local.get $number) (i32.const 128))))
           (i32.store (local.get $at) (i32.add (local.get $at) (i32.const 16)))
           (i32.store offset=4 (local.get $at) (i32.const 64))
           (call $is (i32.const 1) (call $fd_read (local.get $fd)
             (local.get $at) (i32.const 1) (i32.add (local.get $at) (i32.const 4))) (i32.const 0))
           (call $is (i32.const 2) (call $fd_write (local.get $fd)
             (local.get $at) (i32.const 1) (i32.add (local.get $at) (i32.const 8))) (i32.const 0))
           (call $is (i32.const 3) (call $fd_close (local.get $fd)) (i32.const 0)))
         (func (export \"_start\")
           ;; The listener that it was handed does not wait unless it is told to.
           (call $is (i32.const 4) (call $fd_fdstat_set_flags (i32.const 3) (i32.const 0)) (i32.const 0))
           (loop $next
             (call $is (i32.const 5) (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 64)) (i32.const 0))
             (call $is (i32.const 6)
               (i32.gt_s (call $thread-spawn (i32.load (i32.const 64))) (i32.const 0)) (i32.const 1))
             (br $next)))";
    let running = published(server(&module(own)), Restart::No);
    let mut streams: Vec<_> = (0..8).map(|_| connect(&running)).collect();
    // The last first: none waits for another.
    for (number, stream) in streams.iter_mut().enumerate().rev() {
        let text = format!("hello {number}");
        stream.write_all(text.as_bytes()).expect("it is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is answered");
        assert_eq!(answer, text);
    }
    running.stop();
    assert_eq!(running.wait(), Outcome::Stopped);
}

#[test]
fn a_trap_of_any_thread_ends_the_guest_and_says_where() {
    let outcome = run(
        "(func $broken unreachable)
         (func (export \"wasi_thread_start\") (param i32 i32) (call $broken))
         (func (export \"_start\") (drop (call $thread-spawn (i32.const 0))) (call $wait (i32.const 64)))",
        |_| {},
    );
    let Outcome::Trapped { backtrace, .. } = outcome else { panic!("{outcome:?}") };
    assert!(backtrace.contains("broken"), "{backtrace}");
}

#[test]
fn any_thread_may_end_the_guest_with_a_code() {
    let outcome = run(
        "(func (export \"wasi_thread_start\") (param i32 i32) (call $proc_exit (i32.const 5)))
         (func (export \"_start\") (drop (call $thread-spawn (i32.const 0))) (call $wait (i32.const 64)))",
        |_| {},
    );
    assert_eq!(outcome, Outcome::Exited(5));
}

/// Each is a thread of the host's; the one too many is an errno below zero, and the guest goes on.
#[test]
fn threads_without_end_are_bounded() {
    let body = begins_threads_without_end("(call $wait (i32.const 64))", 20);
    let outcome = run(&body, |limits| limits.threads = 20);
    assert_eq!(outcome, Outcome::Exited(0));
}
