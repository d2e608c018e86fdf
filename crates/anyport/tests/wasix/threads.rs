//! Threads: how they start, wait, and end, and that none of that is left when the guest is.

use std::time::{Duration, Instant};

use anyport::server::Restart;
use anyport::{Artifact, Inspection, Limits, Outcome, Policy, Runtime};

use super::machine::{ACCEPT, LISTEN, module, published, run, run_with, server};

#[test]
fn a_thread_shares_memory_and_wakes_who_waits() {
    let outcome = run("(func (export \"wasi_thread_start\") (param $number i32) (param $pointer i32)
           (i32.store (i32.const 64) (local.get $pointer))
           (drop (call $futex_wake (i32.const 64) (i32.const 80))))
         (func (export \"_start\") (local $number i32)
           (local.set $number (call $thread-spawn (i32.const 7)))
           (call $is (i32.const 1) (i32.gt_s (local.get $number) (i32.const 0)) (i32.const 1))
           (drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88)))
           (call $is (i32.const 2) (i32.load (i32.const 64)) (i32.const 7))
           (call $is (i32.const 3) (call $thread_join (local.get $number)) (i32.const 0)))");
    assert_eq!(outcome, Outcome::Exited(0));
}

#[test]
fn a_trap_of_any_thread_ends_the_guest_and_says_where() {
    let outcome = run("(func $broken unreachable)
         (func (export \"wasi_thread_start\") (param i32 i32) (call $broken))
         (func (export \"_start\")
           (drop (call $thread-spawn (i32.const 0)))
           (drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88))))");
    let Outcome::Trapped { backtrace, .. } = outcome else { panic!("{outcome:?}") };
    assert!(backtrace.contains("broken"), "{backtrace}");
}

#[test]
fn any_thread_may_end_the_guest_with_a_code() {
    let outcome = run("(func (export \"wasi_thread_start\") (param i32 i32) (call $proc_exit2 (i32.const 9)))
         (func (export \"_start\")
           (drop (call $thread-spawn (i32.const 0)))
           (drop (call $thread_sleep (i64.const 60000000000))))");
    assert_eq!(outcome, Outcome::Exited(9));
}

#[test]
fn the_return_of_the_first_ends_all() {
    let outcome = run("(func (export \"wasi_thread_start\") (param i32 i32) (loop $for_ever (br $for_ever)))
         (func (export \"_start\") (drop (call $thread-spawn (i32.const 0))))");
    assert_eq!(outcome, Outcome::Exited(0));
}

#[test]
fn the_end_of_the_first_alone_ends_nobody_else() {
    let outcome = run("(func (export \"wasi_thread_start\") (param i32 i32)
           (drop (call $thread_sleep (i64.const 20000000)))
           (call $proc_exit2 (i32.const 5)))
         (func (export \"_start\")
           (drop (call $thread-spawn (i32.const 0)))
           (call $thread_exit (i32.const 0)))");
    assert_eq!(outcome, Outcome::Exited(5));
}

/// Begins threads that wait for ever, until one is refused: the one after so many.
pub(super) fn begins_threads_without_end(wait: &str, most: u32) -> String {
    format!(
        "(func (export \"wasi_thread_start\") (param i32 i32) {wait})
         (func (export \"_start\") (local $count i32) (local $number i32)
           (loop $next
             (local.set $number (call $thread-spawn (i32.const 0)))
             (local.set $count (i32.add (local.get $count) (i32.const 1)))
             (br_if $next (i32.gt_s (local.get $number) (i32.const 0))))
           (call $is (i32.const 1) (local.get $number) (i32.const -6))
           (call $is (i32.const 2) (local.get $count) (i32.const {})))",
        most + 1,
    )
}

#[test]
fn threads_without_end_are_bounded() {
    let wait = "(drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88)))";
    let body = begins_threads_without_end(wait, 100);
    let outcome = run_with(&body, Policy::default(), |limits| limits.threads = 100);
    assert_eq!(outcome, Outcome::Exited(0));
}

#[test]
fn a_memory_that_is_shared_has_the_limit_of_others() {
    let outcome = run_with(
        "(func (export \"_start\")
           (call $is (i32.const 1) (memory.grow (i32.const 2)) (i32.const 2))
           (call $is (i32.const 2) (memory.grow (i32.const 1)) (i32.const -1)))",
        Policy::default(),
        |limits| limits.memory_bytes = 4 << 16,
    );
    assert_eq!(outcome, Outcome::Exited(0));
}

/// Each thread has tables of its own: those of all are counted, and those of one that has ended are not.
#[test]
fn tables_of_all_threads_have_a_limit() {
    let spawn = "(local.set $count (i32.const 0))
         (loop $next
           (local.set $number (call $thread-spawn (i32.const 0)))
           (if (i32.gt_s (local.get $number) (i32.const 0)) (then
             (local.set $last (local.get $number))
             (local.set $count (i32.add (local.get $count) (i32.const 1)))
             (br $next))))
         (call $is (i32.const 1) (local.get $number) (i32.const -6))";
    let outcome = run_with(
        &format!(
            "(table 1000 funcref)
             (func (export \"wasi_thread_start\") (param i32 i32)
               (drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88))))
             (func (export \"_start\") (local $count i32) (local $number i32) (local $last i32)
               {spawn}
               (call $is (i32.const 2) (local.get $count) (i32.const 15))
               ;; All end, and there is room for others.
               (i32.store (i32.const 64) (i32.const 1))
               (drop (call $futex_wake_all (i32.const 64) (i32.const 80)))
               (loop $joined
                 (drop (call $thread_join (local.get $last)))
                 (local.set $last (i32.sub (local.get $last) (i32.const 1)))
                 (br_if $joined (local.get $last)))
               (i32.store (i32.const 64) (i32.const 0))
               {spawn}
               (call $is (i32.const 3) (local.get $count) (i32.const 15)))"
        ),
        Policy::default(),
        |limits| (limits.table_elements, limits.threads) = (1000, 100),
    );
    assert_eq!(outcome, Outcome::Exited(0));
}

/// It would be one for each thread.
#[test]
fn a_second_memory_is_refused() {
    let bytes = wat::parse_str(module("(memory 1) (func (export \"_start\"))")).expect("a module");
    let artifact = Artifact::from_bytes("wasix", bytes);
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    let error = runtime.load(&artifact).err().expect("it is refused");
    assert!(error.to_string().contains("memories"), "{error}");
    assert!(Inspection::of(&artifact).problem.is_some(), "and that is known before");
}

/// What a thread that computes may do is up to whether another looks at the sockets meanwhile.
#[test]
fn a_thread_may_compute_while_another_waits_for_clients() {
    let beside = |wait: &str| {
        let own = format!(
            "(func (export \"wasi_thread_start\") (param i32 i32) (local $end i64)
               (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 256)))
               (local.set $end (i64.add (i64.load (i32.const 256)) (i64.const 500000000)))
               (loop $computes
                 (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 256)))
                 (br_if $computes (i64.lt_u (i64.load (i32.const 256)) (local.get $end))))
               (call $proc_exit2 (i32.const 9)))
             (func (export \"_start\")
               (drop (call $thread-spawn (i32.const 0)))
               {wait})"
        );
        let mut limits = Limits::default();
        limits.cpu_time = Some(Duration::from_millis(50));
        published(server(&module(&own)).limits(limits), Restart::No).wait()
    };
    assert_eq!(beside(&format!("{LISTEN} {ACCEPT}")), Outcome::Exited(9));
    let nobody = beside("(drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88)))");
    let Outcome::Trapped { reason, .. } = nobody else { panic!("{nobody:?}") };
    assert!(reason.contains("without a look at its sockets"), "{reason}");
}

/// Addresses and numbers that there are not: an errno, or nothing to do.
#[test]
fn hostile_addresses_and_numbers_hang_nothing() {
    let outcome = run("(data (i32.const 512) \"handler\") (func (export \"handler\") (param i32))
         (func $probe (param $number i32)
           (call $is (i32.const 1) (call $thread_signal (local.get $number) (i32.const 0)) (i32.const 71))
           (call $is (i32.const 2) (call $thread_signal (local.get $number) (i32.const 15)) (i32.const 71))
           (call $is (i32.const 3) (call $thread_join (local.get $number)) (i32.const 0)))
         (func (export \"_start\")
           (call $callback_signal (i32.const 512) (i32.const 7))
           (call $probe (i32.const 0)) (call $probe (i32.const 1)) (call $probe (i32.const -1))
           (call $probe (i32.const 0x1fffffff)) (call $probe (i32.const 0x40000000))
           ;; Itself, and the first thread, which is itself.
           (call $is (i32.const 4) (call $thread_join (i32.const 0x3fffffff)) (i32.const 16))
           (call $is (i32.const 5) (call $thread_signal (i32.const 0x3fffffff) (i32.const 99)) (i32.const 28))
           ;; At the end of memory, behind it, between two words.
           (call $is (i32.const 6)
             (call $futex_wait (i32.const 131072) (i32.const 0) (i32.const 0) (i32.const 80)) (i32.const 21))
           (call $is (i32.const 7)
             (call $futex_wait (i32.const 65) (i32.const 1) (i32.const 0) (i32.const 80)) (i32.const 21))
           (call $is (i32.const 8)
             (call $futex_wait (i32.const 64) (i32.const 1) (i32.const -8) (i32.const 80)) (i32.const 21))
           (call $is (i32.const 9)
             (call $futex_wait (i32.const 64) (i32.const 1) (i32.const 0) (i32.const -1)) (i32.const 21))
           (call $is (i32.const 10) (call $futex_wake (i32.const -1) (i32.const 80)) (i32.const 0))
           (call $is (i32.const 11) (call $futex_wake_all (i32.const 3) (i32.const -1)) (i32.const 21))
           ;; What a thread is given is its own to read.
           (call $is (i32.const 12) (i32.gt_s (call $thread-spawn (i32.const -1)) (i32.const 0)) (i32.const 1)))
         (func (export \"wasi_thread_start\") (param i32 i32))");
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}

#[test]
fn a_signal_of_its_own_is_told_at_the_end_of_the_call() {
    let outcome = run("(data (i32.const 512) \"handler\")
         (func (export \"handler\") (param $signal i32) (i32.store (i32.const 64) (local.get $signal)))
         (func (export \"_start\")
           (call $callback_signal (i32.const 512) (i32.const 7))
           (call $is (i32.const 1) (call $proc_raise (i32.const 10)) (i32.const 0))
           (call $is (i32.const 2) (i32.load (i32.const 64)) (i32.const 10))
           (call $is (i32.const 3) (call $proc_raise (i32.const 64)) (i32.const 28)))");
    assert_eq!(outcome, Outcome::Exited(0));
}

/// Once, then again and again until it is said to end; a wait is interrupted. Signal 14 ends an endless wait otherwise.
#[test]
fn a_timer_raises_its_signal() {
    let wait = "(call $is (i32.const 20) (call $thread_sleep (i64.const 60000000000)) (i32.const 27))";
    let outcome = run(&format!(
        "(data (i32.const 512) \"handler\")
         (func (export \"handler\") (param $signal i32)
           (i32.store (i32.const 64) (local.get $signal))
           (i32.store (i32.const 68) (i32.add (i32.load (i32.const 68)) (i32.const 1))))
         (func (export \"_start\")
           (call $is (i32.const 1)
             (call $proc_raise_interval (i32.const 14) (i64.const 1) (i32.const 0)) (i32.const 58))
           (call $callback_signal (i32.const 512) (i32.const 7))
           (call $is (i32.const 2)
             (call $proc_raise_interval (i32.const 64) (i64.const 1) (i32.const 0)) (i32.const 28))
           (call $is (i32.const 3)
             (call $proc_raise_interval (i32.const 14) (i64.const 1) (i32.const 0)) (i32.const 0))
           {wait}
           (call $is (i32.const 4) (i32.load (i32.const 64)) (i32.const 14))
           (call $is (i32.const 5) (i32.load (i32.const 68)) (i32.const 1))
           (call $is (i32.const 6)
             (call $proc_raise_interval (i32.const 14) (i64.const 1) (i32.const 1)) (i32.const 0))
           {wait} {wait} {wait}
           (call $is (i32.const 7)
             (call $proc_raise_interval (i32.const 14) (i64.const 0) (i32.const 0)) (i32.const 0))
           ;; The last may be on its way.
           (drop (call $thread_sleep (i64.const 1)))
           (i32.store (i32.const 68) (i32.const 0))
           (call $is (i32.const 8) (call $thread_sleep (i64.const 50000000)) (i32.const 0))
           (call $is (i32.const 9) (i32.load (i32.const 68)) (i32.const 0)))"
    ));
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}

#[test]
fn a_signal_without_a_handler_ends_the_guest() {
    let outcome = run("(func (export \"_start\") (drop (call $proc_raise (i32.const 6))))");
    assert_eq!(outcome, Outcome::Exited(134));
}

/// However its threads wait: in a hostcall, in none, or in an instruction of their own.
#[test]
fn a_guest_that_never_ends_is_stopped() {
    let waits = [
        "(drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88)))",
        "(loop $for_ever (br $for_ever))",
        "(drop (memory.atomic.wait32 (i32.const 64) (i32.const 0) (i64.const -1)))",
    ];
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    for wait in waits {
        let own = format!(
            "(func (export \"wasi_thread_start\") (param i32 i32) {wait})
             (func (export \"_start\")
               (drop (call $thread-spawn (i32.const 0)))
               (drop (call $thread-spawn (i32.const 0)))
               (drop (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 88))))"
        );
        let bytes = wat::parse_str(module(&own)).expect("a module");
        let server = runtime.load(&Artifact::from_bytes("wasix", bytes)).expect("it can be loaded");
        let running = server.start().expect("it starts");
        std::thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        running.stop();
        assert_eq!(running.wait(), Outcome::Stopped, "{wait}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}: {wait}", began.elapsed());
    }
}

/// Waits until the word at an address is two, by a local `$seen`.
fn until_two(at: u32) -> String {
    format!(
        "(block $both (loop $again
           (br_if $both (i32.eq (local.tee $seen (i32.atomic.load (i32.const {at}))) (i32.const 2)))
           (drop (call $futex_wait (i32.const {at}) (local.get $seen) (i32.const 0) (i32.const 88)))
           (br $again)))"
    )
}

/// Each thread has exceptions of its own, and what they are kept in counts as memory of the guest's.
#[test]
fn threads_throw_and_catch() {
    let catch = "(block $caught (try_table (catch $exception $caught) (throw $exception)) (unreachable))";
    let outcome = run(&format!(
        "(tag $exception)
         (func (export \"wasi_thread_start\") (param i32 i32) {catch}
           (drop (i32.atomic.rmw.add (i32.const 64) (i32.const 1)))
           (drop (call $futex_wake_all (i32.const 64) (i32.const 80))))
         (func (export \"_start\") (local $seen i32)
           (drop (call $thread-spawn (i32.const 0)))
           (drop (call $thread-spawn (i32.const 0)))
           {catch}
           {both})",
        both = until_two(64)
    ));
    assert_eq!(outcome, Outcome::Exited(0));
}

#[test]
fn of_two_threads_that_close_a_descriptor_one_does() {
    // The other is told EBADF. At 72 is the descriptor, at 76 how many have closed it, at 80 the sum of their answers.
    let outcome = run(&format!(
        "(func $close
           (drop (i32.atomic.rmw.add (i32.const 80) (call $fd_close (i32.load (i32.const 72)))))
           (drop (i32.atomic.rmw.add (i32.const 76) (i32.const 1)))
           (drop (call $futex_wake_all (i32.const 76) (i32.const 88))))
         (func (export \"wasi_thread_start\") (param i32 i32) (call $close))
         (func (export \"_start\") (local $round i32) (local $seen i32)
           (loop $rounds
             (call $is (i32.const 1) (call $fd_pipe (i32.const 72) (i32.const 64)) (i32.const 0))
             (i32.atomic.store (i32.const 76) (i32.const 0))
             (i32.atomic.store (i32.const 80) (i32.const 0))
             (drop (call $thread-spawn (i32.const 0)))
             (call $close)
             {both}
             (call $is (i32.const 2) (i32.atomic.load (i32.const 80)) (i32.const 8))
             (call $is (i32.const 3) (call $fd_close (i32.load (i32.const 64))) (i32.const 0))
             (local.set $round (i32.add (local.get $round) (i32.const 1)))
             (br_if $rounds (i32.lt_u (local.get $round) (i32.const 50)))))",
        both = until_two(76)
    ));
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}
