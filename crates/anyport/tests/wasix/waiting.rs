//! Waiting: what a set, a poll or a blocking call tells, when, and to whom.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyport::server::Restart;
use anyport::{Outcome, Policy};

use super::machine::{LONG, connect, holds, module, run_with, serve, server, started};

/// Of events: to be read, to be written, ended by the peer, edges, one event.
const IN: u32 = 1;
const OUT: u32 = 2;
const RDHUP: u32 = 4;
const EDGE: u32 = 64;
const ONESHOT: u32 = 128;

/// A new set; its number is in `$set`.
const SET: &str = "(drop (call $epoll_create (i32.const 64))) (local.set $set (i32.load (i32.const 64)))";

/// Puts a descriptor into a set, with these events and its number as what comes back.
fn add(set: &str, fd: &str, events: u32) -> String {
    control(set, 1, fd, events)
}

fn control(set: &str, operation: u32, fd: &str, events: u32) -> String {
    format!(
        "(i32.store (i32.const 128) (i32.const {events})) (i32.store (i32.const 136) {fd})
         (call $is (i32.const 100)
           (call $epoll_ctl {set} (i32.const {operation}) {fd} (i32.const 128)) (i32.const 0))"
    )
}

/// That a look at `$set` tells these events of one descriptor; none where they are zero.
fn tells(check: u32, events: u32) -> String {
    wait(check, 0, events)
}

/// The same for a wait without an end: where the system takes its time.
fn comes(check: u32, events: u32) -> String {
    wait(check, -1, events)
}

fn wait(check: u32, timeout: i64, events: u32) -> String {
    format!(
        "(i32.store (i32.const 512) (i32.const 0))
         (call $is (i32.const {check})
           (call $epoll_wait (local.get $set) (i32.const 512) (i32.const 4) (i64.const {timeout}) (i32.const 64))
           (i32.const 0))
         (call $is (i32.const {check}) (i32.load (i32.const 64)) (i32.const {}))
         (call $is (i32.const {check}) (i32.load (i32.const 512)) (i32.const {events}))",
        u32::from(events != 0)
    )
}

/// Moves so many bytes, of which the guest learns how many it were.
fn moves(call: &str, fd: u32, bytes: u32) -> String {
    format!(
        "(i32.store (i32.const 32) (i32.const 1024)) (i32.store (i32.const 36) (i32.const {bytes}))
         (drop (call ${call} (i32.const {fd}) (i32.const 32) (i32.const 1) (i32.const 72)))"
    )
}

fn set_holds(body: &str) {
    holds(&format!("(local $set i32) (local $left i32) {body}"));
}

/// Two ends, of which the first is read and the second is written.
const ENDS: [&str; 2] = [
    "(drop (call $fd_pipe (i32.const 64) (i32.const 68)))",
    "(drop (call $sock_pair (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 64) (i32.const 68)))",
];

/// As epoll(7) has it: what is left is no news, and what comes is, read or unread.
#[test]
fn an_edge_is_told_of_what_comes_and_not_of_what_is_left() {
    let set = add("(local.get $set)", READS, IN | EDGE);
    let (write, read) = (moves("fd_write", 4, 2), moves("fd_read", 3, 1));
    for ends in ENDS {
        set_holds(&format!(
            "{ends} {SET} {set} {} {write} {} {} {write} {} {read} {} {read} {read} {} {write} {} {read} {write} {} {}",
            tells(1, 0),
            comes(2, IN),
            tells(3, 0),
            // Nothing of the first write was read.
            comes(4, IN),
            tells(5, 0),
            tells(6, 0),
            comes(7, IN),
            comes(8, IN),
            tells(9, 0),
        ));
    }
}

/// Whoever else waits for it finds it ready, though an edge has used up what was known of it.
#[test]
fn what_an_edge_has_told_is_there_for_every_other_wait() {
    let (write, read) = (moves("fd_write", 4, 2), moves("fd_read", 3, 1));
    let [edges, levels] = [EDGE, 0].map(|how| add("(local.get $set)", READS, IN | how));
    for ends in ENDS {
        set_holds(&format!(
            "{ends} (call $is (i32.const 1) (call $fd_fdstat_set_flags {READS} (i32.const 4)) (i32.const 0))
             {SET} {edges} {write} {} {} (local.set $left (local.get $set))
             {SET} {levels} {} {} {read} {} {read} {}
             (local.set $set (local.get $left)) {}
             (call $is (i32.const 8) (call $fd_read {READS} (i32.const 32) (i32.const 1) (i32.const 72)) (i32.const 6))
             {write} {}",
            comes(2, IN),
            tells(2, 0),
            tells(3, IN),
            tells(4, IN),
            tells(5, IN),
            tells(6, 0),
            tells(7, 0),
            comes(9, IN),
        ));
    }
}

/// Though the set had it before it was connected: the poller must not learn of it so early.
#[test]
fn a_socket_may_be_in_a_set_before_it_is_bound() {
    let socket = "(call $is (i32.const 1)
          (call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 64)) (i32.const 0))
        (call $is (i32.const 2) (call $fd_fdstat_set_flags (i32.const 3) (i32.const 4)) (i32.const 0))";
    for events in [IN | EDGE, IN | OUT | EDGE] {
        let looks = "(drop (call $epoll_wait (local.get $set) (i32.const 512) (i32.const 4) (i64.const 0)
               (i32.const 64)))
             (drop (call $epoll_wait (local.get $set) (i32.const 512) (i32.const 4) (i64.const 20000000)
               (i32.const 64)))";
        let body = format!(
            "(func (export \"_start\") (local $set i32)
             {socket} {SET} {} {looks}
             (i32.store8 (i32.const 1032) (i32.const 1)) (i32.store16 (i32.const 1034) (i32.const 8080))
             (call $is (i32.const 3) (call $sock_bind (i32.const 3) (i32.const 1032)) (i32.const 0))
             {looks}
             (call $is (i32.const 4) (call $sock_listen (i32.const 3) (i32.const 8)) (i32.const 0))
             {} (call $is (i32.const 6) (call $sock_accept (i32.const 3) (i32.const 4) (i32.const 64)) (i32.const 0)))",
            add("(local.get $set)", READS, events),
            comes(5, IN),
        );
        let running = serve(&body, |_| {});
        let _client = connect(&running);
        assert_eq!(running.wait(), Outcome::Exited(0));
    }
}

/// The host has another socket for a published port, in whose place it comes.
#[test]
fn a_socket_of_datagrams_may_be_in_a_set_before_it_is_bound() {
    for events in [IN | EDGE, IN] {
        let body = format!(
            "(func (export \"_start\") (local $set i32)
             (call $is (i32.const 1)
               (call $sock_open (i32.const 1) (i32.const 2) (i32.const 17) (i32.const 64)) (i32.const 0))
             {SET} {} {}
             (i32.store8 (i32.const 1032) (i32.const 1)) (i32.store16 (i32.const 1034) (i32.const 8080))
             (call $is (i32.const 3) (call $sock_bind (i32.const 3) (i32.const 1032)) (i32.const 0))
             {})",
            add("(local.get $set)", READS, events),
            tells(2, 0),
            comes(4, IN),
        );
        let policy = Policy { publish: vec!["127.0.0.1:0:8080/udp".parse().expect("a port")], ..Policy::default() };
        let running = started(server(&module(&body)).policy(policy).restart(Restart::No));
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let port = running.ports()[0].address().expect("it is a port of the host");
        let began = Instant::now();
        while running.status().workers[0].state != "ended" {
            assert!(began.elapsed() < LONG, "{events}: it hears nothing");
            // Refused until it is bound.
            let _ = client.send_to(b"hello", port);
            thread::yield_now();
        }
        assert_eq!(running.wait(), Outcome::Exited(0), "{events}");
    }
}

const READS: &str = "(i32.const 3)";
const WRITES: &str = "(i32.const 4)";

#[test]
fn an_edge_of_a_full_pipe_is_told_when_there_is_room() {
    // Filled until it takes no more; emptied before the next look, which finds room as the last one did.
    set_holds(&format!(
        "(drop (call $fd_pipe (i32.const 64) (i32.const 68)))
         (call $is (i32.const 1) (call $fd_fdstat_set_flags {WRITES} (i32.const 4)) (i32.const 0))
         (call $is (i32.const 2) (call $fd_fdstat_set_flags {READS} (i32.const 4)) (i32.const 0))
         {SET} {} {} {}
         (i32.store (i32.const 32) (i32.const 1024)) (i32.store (i32.const 36) (i32.const 4096))
         (loop $more
           (br_if $more (i32.eqz (call $fd_write {WRITES} (i32.const 32) (i32.const 1) (i32.const 72)))))
         (loop $more
           (br_if $more (i32.eqz (call $fd_read {READS} (i32.const 32) (i32.const 1) (i32.const 72)))))
         {}",
        add("(local.get $set)", WRITES, OUT | EDGE),
        comes(3, OUT),
        tells(4, 0),
        comes(5, OUT),
    ));
}

#[test]
fn the_end_alone_is_told_though_bytes_came_before_it() {
    for events in [RDHUP, RDHUP | EDGE] {
        set_holds(&format!(
            "(drop (call $sock_pair (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 64) (i32.const 68)))
             {SET} {} {} {} {}
             (call $is (i32.const 3) (call $sock_shutdown {WRITES} (i32.const 2)) (i32.const 0))
             {}",
            add("(local.get $set)", READS, events),
            tells(1, 0),
            moves("fd_write", 4, 1),
            tells(2, 0),
            comes(4, RDHUP),
        ));
    }
}

#[test]
fn a_set_may_hold_sets_but_not_in_a_ring() {
    let inner = "(drop (call $epoll_create (i32.const 64)))";
    let refused = |check: u32, set: u32, other: u32, errno: u32| {
        format!(
            "(call $is (i32.const {check})
               (call $epoll_ctl (i32.const {set}) (i32.const 1) (i32.const {other}) (i32.const 128))
               (i32.const {errno}))"
        )
    };
    // An eventfd of 3, in the set 4, in the set 5 that is looked at.
    set_holds(&format!(
        "(drop (call $fd_event (i64.const 0) (i32.const 4) (i32.const 64)))
         {inner} {SET} {} {} {}
         (i64.store (i32.const 1024) (i64.const 1)) {}
         {} {}
         (call $is (i32.const 3) (i32.load (i32.const 520)) (i32.const 4))
         (local.set $set (i32.const 4)) {}
         (local.set $set (i32.const 5)) {} {} {}
         {} {} {inner} {}",
        add(WRITES, READS, IN),
        add("(local.get $set)", WRITES, IN),
        tells(1, 0),
        moves("fd_write", 3, 8),
        tells(2, IN),
        tells(2, IN),
        tells(4, IN),
        tells(5, IN),
        moves("fd_read", 3, 8),
        tells(6, 0),
        refused(7, 4, 5, LOOP),
        refused(8, 5, 5, INVALID),
        refused(9, 6, 5, LOOP),
    ));
}

const INVALID: u32 = 28;
const LOOP: u32 = 32;

#[test]
fn a_poll_of_a_set_is_answered_when_it_has_events() {
    set_holds(&format!(
        "(drop (call $fd_event (i64.const 0) (i32.const 4) (i32.const 64)))
         {SET} {} {} {} {} {}",
        add("(local.get $set)", READS, IN),
        polls(1, &[WRITES], 0),
        "(i64.store (i32.const 1024) (i64.const 1))",
        moves("fd_write", 3, 8),
        polls(2, &[WRITES], 1),
    ));
}

/// That a poll of these to be read, and of no time, tells so many of them beside the clock.
fn polls(check: u32, fds: &[&str], events: u32) -> String {
    let subscriptions: String = (0..)
        .zip(fds)
        .map(|(index, fd)| {
            let at = 2048 + 48 * index;
            format!("(i32.store8 (i32.const {}) (i32.const 1)) (i32.store (i32.const {}) {fd})", at + 8, at + 16)
        })
        .collect();
    let clock = 2048 + 48 * fds.len();
    format!(
        "(memory.fill (i32.const 2048) (i32.const 0) (i32.const 1024)) {subscriptions}
         (i32.store (i32.const {}) (i32.const 1))
         (call $is (i32.const {check})
           (call $poll_oneoff (i32.const 2048) (i32.const 4096) (i32.const {}) (i32.const 64)) (i32.const 0))
         (call $is (i32.const {check}) (i32.load (i32.const 64)) (i32.const {}))",
        clock + 16,
        fds.len() + 1,
        events + 1,
    )
}

#[test]
fn a_poll_of_no_time_looks_and_does_not_wait() {
    set_holds(&format!(
        "(drop (call $fd_event (i64.const 0) (i32.const 4) (i32.const 64))) {}
         (i64.store (i32.const 1024) (i64.const 1)) {} {}",
        polls(1, &[READS], 0),
        moves("fd_write", 3, 8),
        polls(2, &[READS], 1),
    ));
}

/// What was taken out of a set, replaced in it, or closed keeps no place: not where nothing ever wakes it.
#[test]
fn entries_that_are_over_are_gone() {
    let all = "(drop (call $fd_event (i64.const 0) (i32.const 4) (i32.const 64)))
               (drop (call $fd_pipe (i32.const 64) (i32.const 68)))
               (drop (call $sock_pair (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 64) (i32.const 68)))";
    let each = |turn: &dyn Fn(&str) -> String| -> String {
        ["(i32.const 3)", "(i32.const 4)", "(i32.const 6)"].iter().map(|fd| turn(fd)).collect()
    };
    let set = "(local.get $set)";
    let turns = [
        // Added, waited for, removed.
        each(&|fd| format!("{} {} {}", add(set, fd, IN), tells(1, 0), control(set, 2, fd, 0))),
        // In a set that is closed.
        format!(
            "{SET} {} {} (call $is (i32.const 2) (call $fd_close {set}) (i32.const 0))",
            each(&|fd| add(set, fd, IN | EDGE)),
            tells(3, 0)
        ),
        // Closed without a word to the set.
        format!(
            "(drop (call $fd_event (i64.const 1) (i32.const 4) (i32.const 64)))
             (local.set $left (i32.load (i32.const 64)))
             {} {} (call $is (i32.const 5) (call $fd_close (local.get $left)) (i32.const 0))",
            add(set, "(local.get $left)", IN),
            tells(4, IN),
        ),
    ];
    for turn in turns {
        let outcome = run_with(
            &format!(
                "(func (export \"_start\") (local $set i32) (local $left i32) (local $turns i32)
                   {all} {SET}
                   (loop $next {turn}
                     (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
                     (br_if $next (i32.lt_u (local.get $turns) (i32.const 1000)))))"
            ),
            Policy::default(),
            |limits| limits.descriptors = 12,
        );
        assert_eq!(outcome, Outcome::Exited(0));
    }
}

#[test]
fn an_entry_that_is_changed_without_end_is_told_once() {
    set_holds(&format!(
        "(drop (call $fd_event (i64.const 1) (i32.const 4) (i32.const 64))) {SET} {}
         (local.set $left (i32.const 1000))
         (loop $next {}
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if $next (local.get $left)))
         {} {}",
        add("(local.get $set)", READS, IN),
        control("(local.get $set)", 3, READS, IN | ONESHOT),
        tells(1, IN),
        tells(2, 0),
    ));
}

/// Listens as descriptor 3, and takes a first connection, which is all that the guest may hold.
const FULL: &str = "(drop (call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 64)))
    (i32.store8 (i32.const 256) (i32.const 1)) (i32.store16 (i32.const 258) (i32.const 8080))
    (call $is (i32.const 1) (call $sock_bind (i32.const 3) (i32.const 256)) (i32.const 0))
    (call $is (i32.const 2) (call $sock_listen (i32.const 3) (i32.const 8)) (i32.const 0))
    (call $is (i32.const 3)
      (call $sock_accept4 (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 256)) (i32.const 0))
    (call $is (i32.const 4) (i32.load (i32.const 64)) (i32.const 4))";

/// Takes another, with a word to it.
fn next() -> String {
    format!(
        "(call $is (i32.const 5)
           (call $sock_accept4 (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 256)) (i32.const 0))
         (call $is (i32.const 6) (i32.load (i32.const 64)) (i32.const 4)) {}",
        moves("fd_write", 4, 1)
    )
}

/// Plays a guest that holds one connection at most: the second is served once the first has ended.
fn makes_room(own: &str) {
    let running = serve(own, |limits| limits.connections = 1);
    let mut first = connect(&running);
    let mut second = connect(&running);
    first.write_all(b"q").expect("it is read");
    // What it read of the first is its word to the second.
    assert_eq!(byte(&mut second), Some(b'q'));
    assert_eq!(byte(&mut first), None);
    assert_eq!(running.wait(), Outcome::Exited(0));
}

fn byte(stream: &mut TcpStream) -> Option<u8> {
    let mut byte = [0];
    let read = stream.read(&mut byte).expect("it comes in time, or the end");
    (read > 0).then_some(byte[0])
}

#[test]
fn a_set_tells_of_a_listener_again_when_there_is_room() {
    for events in [IN, IN | EDGE] {
        makes_room(&format!(
            "(func (export \"_start\") (local $set i32)
               {FULL} {SET} {} {} {} (call $is (i32.const 8) (call $fd_close (i32.const 4)) (i32.const 0))
               {} {})",
            add("(local.get $set)", READS, events),
            tells(7, 0),
            moves("fd_read", 4, 1),
            comes(9, IN),
            // Set 5 is as it was.
            next(),
        ));
    }
}

/// A thread that reads a byte of the first connection, and ends it.
fn leaver() -> String {
    format!(
        "(func (export \"wasi_thread_start\") (param i32 i32)
           {} (call $is (i32.const 8) (call $fd_close (i32.const 4)) (i32.const 0)))",
        moves("fd_read", 4, 1)
    )
}

#[test]
fn a_poll_tells_of_a_listener_when_another_thread_makes_room() {
    makes_room(&format!(
        "{} (func (export \"_start\")
           {FULL} (drop (call $thread-spawn (i32.const 0)))
           (i32.store8 (i32.const 2056) (i32.const 1)) (i32.store (i32.const 2064) (i32.const 3))
           (call $is (i32.const 7)
             (call $poll_oneoff (i32.const 2048) (i32.const 4096) (i32.const 1) (i32.const 88)) (i32.const 0))
           {})",
        leaver(),
        next(),
    ));
}

#[test]
fn an_accept_that_blocks_goes_on_when_another_thread_makes_room() {
    makes_room(&format!(
        "{} (func (export \"_start\") {FULL} (drop (call $thread-spawn (i32.const 0))) {})",
        leaver(),
        next()
    ));
}

/// A timeout is of the socket that it was set for. Where none is, an accept waits for as long as it takes: no time of
/// the host's ends it.
#[test]
fn an_accept_without_a_timeout_outlasts_calls_with_one() {
    let timed_out = "(call $is (i32.const 10)
        (call $fd_read (i32.const 5) (i32.const 32) (i32.const 1) (i32.const 72)) (i32.const 6))";
    let running = serve(
        &format!(
            "(func (export \"wasi_thread_start\") (param i32 i32)
               (drop (call $sock_pair (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 96) (i32.const 100)))
               (i32.store8 (i32.const 320) (i32.const 1)) (i64.store (i32.const 328) (i64.const 1000000))
               (call $is (i32.const 9)
                 (call $sock_set_opt_time (i32.const 5) (i32.const 19) (i32.const 320)) (i32.const 0))
               (i32.store (i32.const 32) (i32.const 1024)) (i32.store (i32.const 36) (i32.const 1))
               {timed_out} {timed_out} {timed_out} {})
             (func (export \"_start\")
               {FULL}
               (call $is (i32.const 7)
                 (call $sock_get_opt_time (i32.const 3) (i32.const 22) (i32.const 352)) (i32.const 0))
               (call $is (i32.const 8) (i32.load8_u (i32.const 352)) (i32.const 0))
               (drop (call $thread-spawn (i32.const 0)))
               (call $is (i32.const 5)
                 (call $sock_accept4 (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 256)) (i32.const 0)))",
            moves("fd_write", 4, 1),
        ),
        |_| {},
    );
    // The first connection is told when the others have timed out; only then comes the second.
    let mut first = connect(&running);
    assert_eq!(byte(&mut first), Some(0));
    let _second = connect(&running);
    assert_eq!(running.wait(), Outcome::Exited(0));
}

/// One of them at a time waits for a connection; who has one lets the next wait.
#[test]
fn threads_that_block_in_one_accept_each_get_a_connection() {
    let accept = "(call $is (i32.const 5)
        (call $sock_accept4 (i32.const 3) (i32.const 0) (local.get $out) (i32.const 256)) (i32.const 0))";
    let running = serve(
        &format!(
            "(func (export \"wasi_thread_start\") (param $number i32) (param $out i32)
               {accept}
               (call $is (i32.const 6) (call $fd_close (i32.load (local.get $out))) (i32.const 0)))
             (func (export \"_start\") (local $one i32) (local $two i32) (local $three i32)
               {FULL}
               (local.set $one (call $thread-spawn (i32.const 600)))
               (local.set $two (call $thread-spawn (i32.const 604)))
               (local.set $three (call $thread-spawn (i32.const 608)))
               {}
               (drop (call $thread_join (local.get $one)))
               (drop (call $thread_join (local.get $two)))
               (drop (call $thread_join (local.get $three))))",
            moves("fd_write", 4, 1),
        ),
        |_| {},
    );
    let mut first = connect(&running);
    assert_eq!(byte(&mut first), Some(0));
    for _ in 0..3 {
        let mut next = connect(&running);
        assert_eq!(byte(&mut next), None);
    }
    assert_eq!(running.wait(), Outcome::Exited(0));
}

/// However many threads accept at once.
#[test]
fn threads_together_hold_no_more_connections_than_the_guest_may() {
    const MOST: usize = 2;
    let running = serve(
        "(func (export \"wasi_thread_start\") (param $number i32) (param $out i32) (local $fd i32)
           (loop $next
             (call $is (i32.const 5)
               (call $sock_accept4 (i32.const 3) (i32.const 0) (local.get $out) (i32.const 256)) (i32.const 0))
             (local.set $fd (i32.load (local.get $out)))
             (drop (call $fd_write (local.get $fd) (i32.const 32) (i32.const 1) (local.get $out)))
             (drop (call $fd_read (local.get $fd) (i32.const 32) (i32.const 1) (local.get $out)))
             (drop (call $fd_close (local.get $fd)))
             (br $next)))
         (func (export \"_start\")
           (drop (call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 64)))
           (i32.store8 (i32.const 256) (i32.const 1)) (i32.store16 (i32.const 258) (i32.const 8080))
           (call $is (i32.const 1) (call $sock_bind (i32.const 3) (i32.const 256)) (i32.const 0))
           (call $is (i32.const 2) (call $sock_listen (i32.const 3) (i32.const 64)) (i32.const 0))
           (i32.store (i32.const 32) (i32.const 1024)) (i32.store (i32.const 36) (i32.const 1))
           (drop (call $thread-spawn (i32.const 600))) (drop (call $thread-spawn (i32.const 604)))
           (drop (call $thread-spawn (i32.const 608))) (drop (call $thread-spawn (i32.const 612)))
           (drop (call $futex_wait (i32.const 64) (i32.const 3) (i32.const 0) (i32.const 80))))",
        |limits| limits.connections = MOST,
    );
    let served = AtomicUsize::new(0);
    thread::scope(|threads| {
        for _ in 0..16 {
            threads.spawn(|| {
                for _ in 0..8 {
                    let mut stream = connect(&running);
                    assert_eq!(byte(&mut stream), Some(0));
                    let now = served.fetch_add(1, Ordering::SeqCst) + 1;
                    thread::yield_now();
                    served.fetch_sub(1, Ordering::SeqCst);
                    assert!(now <= MOST, "{now} are served at once");
                }
            });
        }
    });
    running.stop();
}
