//! What the end of a guest with threads leaves behind: nothing, or no other guest.

use std::io::Read;

use anyport::Outcome;
use anyport::server::Restart;

use super::machine::{connect, published, server};
use super::wasi_threads::module;

/// A guest that has threads which wait so, and breaks when a client has come.
fn breaks_beside(wait: &str) -> String {
    module(&format!(
        "(func (export \"wasi_thread_start\") (param i32 i32)
           (drop (i32.atomic.rmw.add (i32.const 72) (i32.const 1)))
           {wait})
         (func (export \"_start\")
           (drop (call $thread-spawn (i32.const 0)))
           (drop (call $thread-spawn (i32.const 0)))
           ;; Both are there.
           (loop $starts (br_if $starts (i32.lt_u (i32.atomic.load (i32.const 72)) (i32.const 2))))
           (drop (call $fd_fdstat_set_flags (i32.const 3) (i32.const 0)))
           (drop (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 128)))
           unreachable)"
    ))
}

const WAIT: &str = "(drop (memory.atomic.wait32 (i32.const 64) (i32.const 0) (i64.const -1)))";

#[test]
fn threads_that_wait_in_instructions_end_with_their_guest() {
    let running =
        published(server(&breaks_beside(&format!("(loop $for_ever {WAIT} (br $for_ever))"))), Restart::Always);
    for _ in 0..5 {
        // Each is another guest: none is started while threads of the one before are left.
        let mut ended = Vec::new();
        let _ = connect(&running).read_to_end(&mut ended);
    }
    running.stop();
    assert_eq!(running.wait(), Outcome::Stopped);
}

#[test]
fn a_guest_whose_threads_do_not_end_is_not_started_again() {
    // No loop and no call between one wait and the next, where a thread would find that its guest is over.
    let running = published(server(&breaks_beside(&WAIT.repeat(64))), Restart::Always);
    let mut stream = connect(&running);
    let outcome = running.wait();
    assert!(matches!(outcome, Outcome::Trapped { .. }), "{outcome:?}");
    // What it held is gone all the same.
    let mut ended = Vec::new();
    let _ = stream.read_to_end(&mut ended);
}

/// Its first thread waits by an instruction, and the one that ends the guest is its only other.
#[test]
fn a_guest_is_over_also_where_its_first_thread_waits() {
    let text = module(&format!(
        "(func (export \"wasi_thread_start\") (param i32 i32)
           (drop (call $fd_fdstat_set_flags (i32.const 3) (i32.const 0)))
           (drop (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 128)))
           unreachable)
         (func (export \"_start\")
           (drop (call $thread-spawn (i32.const 0)))
           (loop $for_ever {WAIT} (br $for_ever)))"
    ));
    let running = published(server(&text), Restart::Always);
    for _ in 0..3 {
        let _ = connect(&running).read_to_end(&mut Vec::new());
    }
    running.stop();
    assert_eq!(running.wait(), Outcome::Stopped);
}
