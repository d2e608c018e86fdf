//! Signals: whom they reach, what they interrupt, and that nothing is lost by that.

use std::io::Read;

use anyport::Outcome;
use anyport::server::Restart;

use super::machine::{ACCEPT, LISTEN, LONG, connect, module, published, run, server};

/// A handler that does nothing, and how it is registered.
const HANDLER: &str = "(data (i32.const 1536) \"handler\") (func (export \"handler\") (param i32))";
const REGISTER: &str = "(call $callback_signal (i32.const 1536) (i32.const 7))";

/// One that ends its guest with the number of the signal.
const LEAVES: &str = "(data (i32.const 1536) \"handler\")
    (func (export \"handler\") (param $signal i32) (call $proc_exit2 (local.get $signal)))";

/// A thread that signals the first one, again and again.
const SIGNALS: &str = "(loop $again
    (drop (call $thread_signal (i32.const 0x3fffffff) (i32.const 10)))
    (drop (call $thread_sleep (i64.const 1000000)))
    (br $again))";

#[test]
fn what_was_received_before_a_signal_is_not_lost() {
    let outcome = run(&format!(
        "{HANDLER}
         (func (export \"wasi_thread_start\") (param i32 i32)
           ;; Half of what the first thread waits for.
           (drop (call $fd_write (i32.const 4) (i32.const 32) (i32.const 1) (i32.const 72)))
           {SIGNALS})
         (func (export \"_start\") (local $errno i32)
           {REGISTER}
           (drop (call $sock_pair (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 64) (i32.const 68)))
           (i32.store (i32.const 32) (i32.const 256)) (i32.store (i32.const 36) (i32.const 4))
           (i32.store (i32.const 256) (i32.const 0x706d6970))
           (i32.store (i32.const 40) (i32.const 300)) (i32.store (i32.const 44) (i32.const 8))
           (drop (call $thread-spawn (i32.const 0)))
           (loop $again
             (local.set $errno (call $sock_recv
               (i32.const 3) (i32.const 40) (i32.const 1) (i32.const 2) (i32.const 80) (i32.const 84)))
             (br_if $again (i32.eq (local.get $errno) (i32.const 27))))
           (call $is (i32.const 1) (local.get $errno) (i32.const 0))
           (call $is (i32.const 2) (i32.load (i32.const 80)) (i32.const 4))
           (call $is (i32.const 3) (i32.load (i32.const 300)) (i32.const 0x706d6970)))"
    ));
    assert_eq!(outcome, Outcome::Exited(0));
}

/// A call of a guest whose other thread sends signals: it gives this, whatever was before it.
fn is_interrupted(before: &str, call: &str, errno: u32) {
    let own = format!(
        "{HANDLER}
         (func (export \"wasi_thread_start\") (param i32 i32) {SIGNALS})
         (func (export \"_start\")
           {REGISTER}
           {before}
           (i32.store (i32.const 32) (i32.const 256)) (i32.store (i32.const 36) (i32.const 8))
           (drop (call $thread-spawn (i32.const 0)))
           (call $is (i32.const 1) {call} (i32.const {errno})))"
    );
    assert_eq!(published(server(&module(&own)), Restart::No).wait(), Outcome::Exited(0), "{call}");
}

const EINTR: u32 = 27;

#[test]
fn a_read_that_waits_is_interrupted() {
    for open in [
        "(call $fd_pipe (i32.const 64) (i32.const 68))",
        "(call $fd_event (i64.const 0) (i32.const 0) (i32.const 64))",
        "(call $sock_pair (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 64) (i32.const 68))",
    ] {
        let read = "(call $fd_read (i32.const 3) (i32.const 32) (i32.const 1) (i32.const 72))";
        is_interrupted(&format!("(drop {open})"), read, EINTR);
    }
}

#[test]
fn a_wait_for_others_is_interrupted() {
    let accept = "(call $sock_accept4 (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 128))";
    is_interrupted(LISTEN, accept, EINTR);
    let set = "(drop (call $epoll_create (i32.const 64)))";
    let wait = "(call $epoll_wait (i32.const 3) (i32.const 256) (i32.const 4) (i64.const -1) (i32.const 64))";
    is_interrupted(set, wait, EINTR);
    // Subscriptions at 512: a clock in a minute.
    let clock = "(i32.store (i32.const 528) (i32.const 1)) (i64.store (i32.const 536) (i64.const 60000000000))";
    let poll = "(call $poll_oneoff (i32.const 512) (i32.const 768) (i32.const 1) (i32.const 64))";
    is_interrupted(clock, poll, EINTR);
    is_interrupted("", "(call $thread_sleep (i64.const 60000000000))", EINTR);
}

/// Who calls it traps on any errno: it is told that it was woken, and looks again.
#[test]
fn a_wait_at_a_futex_is_ended_by_a_signal_and_gives_no_errno() {
    let wait = "(call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88))";
    is_interrupted("", wait, 0);
}

/// A guest whose handler ends it with the signal's number; its first thread has ended itself, and another waits.
fn is_left_by_its_first() -> String {
    module(&format!(
        "{LEAVES}
         (func (export \"wasi_thread_start\") (param i32 i32)
           {LISTEN} {ACCEPT}
           (drop (call $fd_close (i32.const 4)))
           (drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88)))
           (drop (call $thread_sleep (i64.const 60000000000))))
         (func (export \"_start\")
           {REGISTER}
           (drop (call $thread-spawn (i32.const 0)))
           (call $thread_exit (i32.const 0)))"
    ))
}

#[tokio::test]
async fn a_server_that_leaves_tells_a_thread_that_lives() {
    let running = published(server(&is_left_by_its_first()), Restart::No);
    // It listens after it has said how it is told.
    let _ = connect(&running).read_to_end(&mut Vec::new());
    running.drain(LONG).await;
    assert_eq!(running.wait(), Outcome::Exited(15));
}

#[tokio::test]
async fn a_guest_is_told_of_the_signal_that_its_server_had() {
    let running = published(server(&is_left_by_its_first()), Restart::No);
    // It listens after it has said how it is told.
    let _ = connect(&running).read_to_end(&mut Vec::new());
    running.drain_on(2, LONG).await;
    assert_eq!(running.wait(), Outcome::Exited(2));
}

/// Also where it never makes a call that may wait.
#[tokio::test]
async fn a_guest_is_told_at_the_end_of_any_call() {
    for call in [
        "(call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 64))",
        "(call $futex_wake (i32.const 64) (i32.const 80))",
        "(call $getcwd (i32.const 256) (i32.const 64))",
        "(call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 64))",
        "(call $sock_addr_local (i32.const 99) (i32.const 64))",
        "(call $proc_raise_interval (i32.const 99) (i64.const 0) (i32.const 0))",
        "(call $thread_spawn_v2 (i32.const 0) (i32.const -2))",
    ] {
        let text = module(&format!(
            "{LEAVES}
             (func (export \"_start\")
               {REGISTER} {LISTEN} {ACCEPT}
               (drop (call $fd_close (i32.const 4)))
               (loop $for_ever (drop {call}) (br $for_ever)))"
        ));
        let running = published(server(&text), Restart::No);
        let _ = connect(&running).read_to_end(&mut Vec::new());
        running.drain(LONG).await;
        assert_eq!(running.wait(), Outcome::Exited(15), "{call}");
    }
}

/// As C's `siglongjmp` does, which is one here.
#[test]
fn a_handler_may_be_left_by_an_exception() {
    let outcome = run(&format!(
        "(tag $jump)
         (data (i32.const 1536) \"handler\")
         (func (export \"handler\") (param i32) (throw $jump))
         (func (export \"_start\") (local $count i32)
           {REGISTER}
           (loop $again
             (block $caught
               (try_table (catch $jump $caught) (drop (call $proc_raise (i32.const 10))))
               (call $proc_exit2 (i32.const 9)))
             (local.set $count (i32.add (local.get $count) (i32.const 1)))
             (br_if $again (i32.lt_u (local.get $count) (i32.const 3))))
           (call $is (i32.const 1) (call $thread_sleep (i64.const 1)) (i32.const 0)))"
    ));
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}
