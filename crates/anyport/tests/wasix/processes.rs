//! Processes that a guest forks: what they have in common and what not, how they end, and that none is left.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyport::server::{Directory, Restart, StdioTarget};
use anyport::{Artifact, Inspection, Limits, Outcome, Policy, Running, Runtime, Server};

use super::machine::{ACCEPT, LISTEN, LONG, connect, module, published, run, run_with, server};

fn load(name: &str) -> Server {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasix").join(name).with_extension("wasm");
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    runtime.load(&Artifact::from_file(path).expect("it is committed")).expect("it can be loaded")
}

#[test]
fn what_c_makes_of_processes() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    std::fs::create_dir(&root).expect("it is ours");
    let printed = folder.path().join("printed");
    let file = File::create(&printed).expect("it is ours");
    let mut limits = Limits::default();
    limits.threads = 5;
    let server = load("fork")
        .limits(limits)
        .directory(Directory { host: root.clone(), guest: "/".to_owned(), read_only: false })
        .stdio(StdioTarget::Null, StdioTarget::Fd(file.into()), StdioTarget::Inherit);
    assert_eq!(server.start().expect("it starts").wait(), Outcome::Exited(0));
    let printed = std::fs::read_to_string(printed).expect("it is text");
    let want = "\
first: 2 exited with 42
memory: 3 exited with 9
number is 1
deep: 4 exited with 8
sum is 5050
pipe: 12 bytes, \"from a child\", then 0
writer: 5 exited with 0
file: 6 exited with 0
\"child parent\", closed
pid 1 of 0
child: 7 exited with 4
grandchild: 8 exited with 6
no child: ECHILD
stranger: ECHILD
abort: 10 was ended by signal 6
fault: 11 was ended by signal 11
division: 12 was ended by signal 8
not yet: 0
SIGKILL: 13 was ended by signal 9
SIGTERM: 14 was ended by signal 15
SIGUSR1: 15 exited with 10
abort, with handlers: 16 was ended by signal 6
SIGTERM, with handlers: 17 was ended by signal 15
SIGKILL to itself: 18 was ended by signal 9
no process: ESRCH
born 5, then EAGAIN
ended 5
another: 24 exited with 4
";
    assert_eq!(printed, want);
    assert_eq!(std::fs::read(root.join("file")).expect("it was made"), b"child parent");
}

fn prefork() -> Running {
    let policy = Policy { publish: vec!["127.0.0.1:0:8080".parse().expect("a port")], ..Policy::default() };
    load("prefork").policy(policy).env("PORT", "8080").restart(Restart::No).start().expect("it starts")
}

/// The whole answer, of which there may be none.
fn get(running: &Running, path: &str) -> String {
    let mut stream = connect(running);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").as_bytes()).expect("it is read");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// The numbers of the processes that answer, once so many do.
fn answering(running: &Running, count: usize, gone: &HashSet<String>) -> HashSet<String> {
    let (mut seen, began) = (HashSet::new(), Instant::now());
    while seen.len() < count {
        assert!(began.elapsed() < LONG, "only {seen:?} answer");
        let answer = get(running, "/");
        let body = answer.split_once("process ").expect("it says which").1;
        let pid = body.split_once(" of 1, request ").expect("a child of the first").0.to_owned();
        assert!(!gone.contains(&pid), "process {pid} is gone, and answers");
        seen.insert(pid);
    }
    seen
}

#[tokio::test]
async fn a_server_of_several_processes_goes_on_where_one_ends_and_leaves_with_all() {
    let running = prefork();
    let mut gone = HashSet::new();
    for path in ["/exit", "/crash"] {
        let before = answering(&running, 2, &gone);
        assert_eq!(get(&running, path), "");
        // One of the two is no more, and another is in its place.
        let after = answering(&running, 2, &gone);
        gone.extend(before.difference(&after).cloned());
        assert_eq!(before.intersection(&after).count(), 1, "{before:?} {after:?}");
    }
    assert!(running.drain(LONG).await);
    assert_eq!(running.wait(), Outcome::Exited(0), "it ends them and waits for them");
}

#[test]
fn a_server_of_several_processes_is_stopped_with_all() {
    let running = prefork();
    answering(&running, 2, &HashSet::new());
    let mut waits = connect(&running);
    let began = Instant::now();
    running.stop();
    assert_eq!(running.wait(), Outcome::Stopped);
    // Closed or reset: no process had taken it, or one had.
    assert!(!matches!(waits.read(&mut [0]), Ok(1..)));
    assert!(began.elapsed() < LONG / 2);
}

/// What `wasm-opt --asyncify` makes of a module whose functions have nothing to keep: it may fork in `$forks`.
const ASYNCIFIED: &str = "
    (global $state (mut i32) (i32.const 0))
    (func (export \"asyncify_start_unwind\") (param i32) (global.set $state (i32.const 1)))
    (func (export \"asyncify_stop_unwind\") (global.set $state (i32.const 0)))
    (func (export \"asyncify_start_rewind\") (param i32) (global.set $state (i32.const 2)))
    (func (export \"asyncify_stop_rewind\") (global.set $state (i32.const 0)))";

/// A module that forks, and does this then: `$pid` is the child's number, or 0 in that.
fn forks(then: &str) -> String {
    format!(
        "{ASYNCIFIED}
        (func (export \"_start\") (local $failed i32) (local $pid i32)
          (local.set $failed (call $proc_fork (i32.const 1) (i32.const 64)))
          (if (i32.eq (global.get $state) (i32.const 1)) (then return))
          (local.set $pid (i32.load (i32.const 64)))
          {then})"
    )
}

/// What the first one's child ended with, by the words of `proc_join`: nothing, a code or a signal.
fn joined(line: u32, tag: u32, code: u32, signal: u32) -> String {
    format!(
        "(i32.store8 (i32.const 72) (i32.const 0))
         (call $is (i32.const {line}) (call $proc_join (i32.const 72) (i32.const 0) (i32.const 80)) (i32.const 0))
         (call $is (i32.const {line}) (i32.load8_u (i32.const 80)) (i32.const {tag}))
         (call $is (i32.const {line}) (i32.load16_u (i32.const 82)) (i32.const {code}))
         (call $is (i32.const {line}) (i32.load8_u (i32.const 84)) (i32.const {signal}))"
    )
}

#[test]
fn variables_that_are_not_exported_are_copied_too() {
    let body = forks(&format!(
        "(if (local.get $pid) (then
           (call $is (i32.const 1) (global.get $kept) (i32.const 7))
           {})
         (else (call $proc_exit2 (global.get $kept))))",
        joined(2, 1, 7, 0),
    ));
    // Set before it forks, and not again.
    let body = body.replace(
        "(local.set $failed",
        "(if (i32.eqz (global.get $state)) (then (global.set $kept (i32.const 7)))) (local.set $failed",
    );
    assert_eq!(run(&format!("(global $kept (mut i32) (i32.const 3)) {body}")), Outcome::Exited(0));
}

/// That nothing is left of a guest which fails when its client has come: another takes its place, and another.
fn starts_again(text: &str) {
    let running = published(server(text), Restart::Always);
    for _ in 0..3 {
        let _ = connect(&running).read_to_end(&mut Vec::new());
    }
    let began = Instant::now();
    while running.status().workers[0].restarts < 3 {
        assert!(began.elapsed() < LONG, "{:?}", running.status());
        std::thread::sleep(Duration::from_millis(1));
    }
    running.stop();
    assert_eq!(running.wait(), Outcome::Stopped);
}

/// Listens, forks so often, and ends with a client of its first process, while children do this.
fn ends_with(children: u32, does: &str) -> String {
    ends_so(children, does, "unreachable")
}

fn ends_so(children: u32, does: &str, end: &str) -> String {
    module(&format!(
        "{ASYNCIFIED}
        (global $born (mut i32) (i32.const 0))
        (func (export \"_start\")
          (if (i32.and (i32.eqz (global.get $state)) (i32.eqz (global.get $born))) (then {LISTEN}))
          (loop $next
            (drop (call $proc_fork (i32.const 1) (i32.const 64)))
            (if (i32.eq (global.get $state) (i32.const 1)) (then return))
            (if (i32.eqz (i32.load (i32.const 64))) (then (loop $for_ever {does} (br $for_ever))))
            (global.set $born (i32.add (global.get $born) (i32.const 1)))
            (br_if $next (i32.lt_u (global.get $born) (i32.const {children}))))
          {ACCEPT} {end})"
    ))
}

#[test]
fn the_first_of_them_ends_all() {
    starts_again(&ends_with(
        300,
        "(drop (call $futex_wait (i32.const 96) (i32.const 0) (i32.const 0) (i32.const 88)))",
    ));
}

#[test]
fn children_that_compute_without_end_end_with_the_first() {
    starts_again(&ends_with(3, ""));
}

/// One that was told to end, and is waited for by nobody.
#[test]
fn a_child_that_was_ended_is_not_left() {
    let kill = "(drop (call $proc_signal (i32.load (i32.const 64)) (i32.const 9))) unreachable";
    starts_again(&ends_so(3, "", kill));
    let wait = "(drop (memory.atomic.wait32 (i32.const 96) (i32.const 0) (i64.const -1)))";
    starts_again(&without_futexes(&ends_so(3, wait, kill)));
}

/// More of them than there are cores, each of which keeps a thread of the host.
#[test]
fn children_that_wait_in_instructions_end_with_the_first() {
    let wait = "(drop (memory.atomic.wait32 (i32.const 96) (i32.const 0) (i64.const -1)))";
    starts_again(&without_futexes(&ends_with(20, wait)));
}

/// A module that has threads of the host for each of its own, and for each process.
fn without_futexes(text: &str) -> String {
    text.lines().filter(|line| !line.contains("futex_")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_first_says_how_the_guest_ended() {
    let outcome = run(&forks(
        "(if (local.get $pid) (then (call $proc_exit2 (i32.const 6))))
         (drop (call $futex_wait (i32.const 96) (i32.const 0) (i32.const 0) (i32.const 88)))",
    ));
    assert_eq!(outcome, Outcome::Exited(6));
}

#[test]
fn processes_that_fork_without_end_are_bounded() {
    // Each forks again, until it may not: the first, when all the others are there.
    let body = format!(
        "{ASYNCIFIED}
        (func (export \"_start\") (local $failed i32)
          (loop $next
            (local.set $failed (call $proc_fork (i32.const 1) (i32.const 64)))
            (if (i32.eq (global.get $state) (i32.const 1)) (then return))
            (if (i32.eqz (i32.load (i32.const 64))) (then (global.set $is_child (i32.const 1))))
            (br_if $next (i32.eqz (local.get $failed))))
          (if (global.get $is_child) (then
            (drop (call $futex_wait (i32.const 96) (i32.const 0) (i32.const 0) (i32.const 88)))))
          (call $proc_exit2 (local.get $failed)))
        (global $is_child (mut i32) (i32.const 0))"
    );
    let outcome = run_with(&body, Policy::default(), |limits| limits.threads = 30);
    assert_eq!(outcome, Outcome::Exited(6), "EAGAIN");
}

#[test]
fn all_have_one_limit_of_memory() {
    // Of 32 pages the first child is given 6 and a part of the others, and so on: there is no room for a sixth, of
    // whose number nothing is told.
    let body = format!(
        "{ASYNCIFIED}
        (func (export \"_start\") (local $failed i32)
          (loop $next
            (local.set $failed (call $proc_fork (i32.const 1) (i32.const 64)))
            (if (i32.eq (global.get $state) (i32.const 1)) (then return))
            (if (i32.load (i32.const 64)) (then
              (i32.store (i32.const 68) (i32.add (i32.load (i32.const 68)) (i32.const 1)))
              (br_if $next (i32.eqz (local.get $failed)))
              (call $is (i32.const 1) (i32.load (i32.const 68)) (i32.const 6))
              (call $is (i32.const 2) (local.get $failed) (i32.const 48)))
            (else (drop (call $futex_wait (i32.const 96) (i32.const 0) (i32.const 0) (i32.const 88)))))))"
    );
    let outcome = run_with(&body, Policy::default(), |limits| limits.memory_bytes = 2 << 20);
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}

/// Of 128 pages a child begins with six, and may have one of 32 of the others.
#[test]
fn a_child_grows_by_a_part_of_what_is_left() {
    let outcome = run_with(
        &forks(&format!(
            "(if (local.get $pid) (then {}) (else
               (call $is (i32.const 1) (memory.grow (i32.const 4)) (i32.const -1))
               (call $is (i32.const 2) (memory.grow (i32.const 3)) (i32.const 6))
               (call $proc_exit2 (i32.const 7))))",
            joined(3, 1, 7, 0),
        )),
        Policy::default(),
        |limits| limits.memory_bytes = 8 << 20,
    );
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}

#[test]
fn where_there_is_no_room_for_variables_there_is_no_process() {
    let outcome =
        run_with(&forks("(call $is (i32.const 1) (local.get $failed) (i32.const 48))"), Policy::default(), |limits| {
            limits.memory_bytes = 2 << 16
        });
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}

#[test]
fn descriptors_are_of_all_together() {
    let outcome =
        run_with(&forks("(call $is (i32.const 1) (local.get $failed) (i32.const 33))"), Policy::default(), |limits| {
            limits.descriptors = 5
        });
    assert_eq!(outcome, Outcome::Exited(0), "three of two processes are six");
}

#[test]
fn another_thread_may_not_fork() {
    let outcome = run(&format!(
        "{ASYNCIFIED}
        (func (export \"wasi_thread_start\") (param i32 i32)
          (call $is (i32.const 1) (call $proc_fork (i32.const 1) (i32.const 64)) (i32.const 58))
          (call $proc_exit2 (i32.const 0)))
        (func (export \"_start\")
          (drop (call $thread-spawn (i32.const 0)))
          (drop (call $futex_wait (i32.const 96) (i32.const 0) (i32.const 0) (i32.const 88))))"
    ));
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}

/// Whatever the functions do that a module has for it, it ends: those that fail, that fork again, or that never come
/// back to where they were.
#[test]
fn functions_that_are_not_what_they_are_called_harm_nobody_else() {
    let fork = "(drop (call $proc_fork (i32.const 1) (i32.const 64)))";
    let with = |start_unwind: &str, stop_unwind: &str, start_rewind: &str, stop_rewind: &str, start: &str| {
        run(&format!(
            "(func (export \"asyncify_start_unwind\") (param i32) {start_unwind})
             (func (export \"asyncify_stop_unwind\") {stop_unwind})
             (func (export \"asyncify_start_rewind\") (param i32) {start_rewind})
             (func (export \"asyncify_stop_rewind\") {stop_rewind})
             (func (export \"_start\") {start})"
        ))
    };
    for broken in [
        with("unreachable", "", "", "", fork),
        with("", "unreachable", "", "", fork),
        with("", "", "unreachable", "", fork),
        with("", "", "", "unreachable", fork),
    ] {
        assert!(matches!(broken, Outcome::Trapped { .. }), "{broken:?}");
    }
    // It ends where it should have gone back; it goes on where it should have left.
    let ends = with("(call $proc_exit2 (i32.const 4))", "", "", "", fork);
    assert_eq!(ends, Outcome::Exited(4));
    let outcome = with("", "", "", "", &format!("{fork}{fork}(call $proc_exit2 (i32.const 3))"));
    assert_eq!(outcome, Outcome::Exited(3));
    let again = with(fork, "", "", "", fork);
    assert!(matches!(again, Outcome::Trapped { .. }), "{again:?}");
}

#[test]
fn a_module_that_was_not_made_ready_is_told_so() {
    let kinds = [
        // Of one of them another type.
        ASYNCIFIED.replace("stop_rewind\")", "stop_rewind\") (param i32)"),
        ASYNCIFIED.replace("asyncify_stop_unwind", "asyncify_other"),
        String::new(),
    ];
    for functions in kinds {
        let own = format!(
            "{functions} (func (export \"_start\")
            (call $is (i32.const 1) (call $proc_fork (i32.const 1) (i32.const 64)) (i32.const 58)))"
        );
        assert_eq!(run(&own), Outcome::Exited(0), "the number of the check");
        assert_eq!(inspected(&own).not_supported, ["proc_fork"]);
    }
    assert!(inspected(&format!("{ASYNCIFIED} (func (export \"_start\"))")).not_supported.is_empty());
}

fn inspected(own: &str) -> Inspection {
    Inspection::of(&Artifact::from_bytes("wasix", wat::parse_str(module(own)).expect("a module")))
}

/// Pointers that lead nowhere are told, and nothing is forked or forgotten by them.
#[test]
fn pointers_that_lead_nowhere() {
    let outcome = run(&forks(&format!(
        "(if (i32.eqz (local.get $pid)) (then (call $proc_exit2 (i32.const 9))))
         (call $is (i32.const 1) (call $proc_fork (i32.const 1) (i32.const -4)) (i32.const 21))
         (call $is (i32.const 2) (call $proc_join (i32.const -8) (i32.const 0) (i32.const 80)) (i32.const 21))
         (call $is (i32.const 3) (call $proc_join (i32.const 72) (i32.const 0) (i32.const -4)) (i32.const 21))
         {}",
        joined(4, 1, 9, 0),
    )));
    assert_eq!(outcome, Outcome::Exited(0), "the number of the check");
}
