//! Where WASIX is not what one expects: a test each.

use anyport::{Artifact, Inspection, Outcome, Runtime};

use super::machine::{connect, holds, module, serve, server, started};

#[test]
fn a_module_has_three_namespaces_and_one_table_of_descriptors() {
    // An eventfd of WASIX is written to, read and closed by preview1; it has the first number there is.
    holds(
        "(call $is (i32.const 1) (call $fd_event (i64.const 5) (i32.const 4) (i32.const 64)) (i32.const 0))
         (call $is (i32.const 2) (i32.load (i32.const 64)) (i32.const 3))
         (i32.store (i32.const 128) (i32.const 256)) (i32.store (i32.const 132) (i32.const 8))
         (call $is (i32.const 3)
           (call $fd_read (i32.const 3) (i32.const 128) (i32.const 1) (i32.const 72)) (i32.const 0))
         (call $is (i32.const 4) (i32.load (i32.const 256)) (i32.const 5))
         (call $is (i32.const 5) (call $fd_close (i32.const 3)) (i32.const 0))
         ;; Accept has three parameters in one namespace, and four in the other.
         (call $is (i32.const 6) (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 64)) (i32.const 8))
         (call $is (i32.const 7)
           (call $sock_accept4 (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 128)) (i32.const 8))",
    );
}

#[test]
fn renumbering_copies() {
    holds(
        "(drop (call $fd_event (i64.const 5) (i32.const 4) (i32.const 64)))
         (call $is (i32.const 1) (call $fd_renumber (i32.const 3) (i32.const 9)) (i32.const 0))
         (call $is (i32.const 2) (call $fd_close (i32.const 3)) (i32.const 0))
         (call $is (i32.const 3) (call $fd_close (i32.const 9)) (i32.const 0))
         (call $is (i32.const 4) (call $fd_close (i32.const 9)) (i32.const 8))
         (call $is (i32.const 5) (call $fd_renumber (i32.const 9) (i32.const 3)) (i32.const 8))
         (call $is (i32.const 6) (call $fd_renumber (i32.const 1) (i32.const -1)) (i32.const 8))",
    );
}

#[test]
fn a_second_number_is_the_lowest_from_one_on() {
    holds(
        "(drop (call $fd_event (i64.const 5) (i32.const 4) (i32.const 64)))
         (call $is (i32.const 1) (call $fd_dup2 (i32.const 3) (i32.const 7) (i32.const 0) (i32.const 64)) (i32.const 0))
         (call $is (i32.const 2) (i32.load (i32.const 64)) (i32.const 7))
         (call $is (i32.const 3) (call $fd_dup2 (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 64)) (i32.const 0))
         (call $is (i32.const 4) (i32.load (i32.const 64)) (i32.const 4))
         (call $is (i32.const 5)
           (call $fd_dup2 (i32.const 3) (i32.const -1) (i32.const 0) (i32.const 64)) (i32.const 28))",
    );
}

#[test]
fn the_probe_of_a_port_is_answered_without_a_bind() {
    // Nothing is published: any other port is refused. The port comes back as it was given, in little-endian.
    holds(
        "(call $is (i32.const 1)
           (call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 64)) (i32.const 0))
         (i32.store8 (i32.const 128) (i32.const 1)) (i32.store16 (i32.const 130) (i32.const 10275))
         (call $is (i32.const 2) (call $sock_bind (i32.const 3) (i32.const 128)) (i32.const 0))
         (call $is (i32.const 3) (call $sock_addr_local (i32.const 3) (i32.const 256)) (i32.const 0))
         (call $is (i32.const 4) (i32.load8_u (i32.const 256)) (i32.const 1))
         (call $is (i32.const 5) (i32.load16_u (i32.const 258)) (i32.const 10275))
         ;; Who listens there means it.
         (call $is (i32.const 6) (call $sock_listen (i32.const 3) (i32.const 1)) (i32.const 2))
         ;; Who binds another port does not.
         (drop (call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 64)))
         (call $is (i32.const 7) (call $sock_bind (i32.const 4) (i32.const 128)) (i32.const 0))
         (i32.store16 (i32.const 130) (i32.const 0))
         (call $is (i32.const 8) (call $sock_bind (i32.const 4) (i32.const 128)) (i32.const 0))
         (call $is (i32.const 9) (call $sock_addr_local (i32.const 4) (i32.const 256)) (i32.const 0))
         (call $is (i32.const 10)
           (i32.eq (i32.load16_u (i32.const 258)) (i32.const 10275)) (i32.const 0))",
    );
}

#[test]
fn an_address_is_no_longer_than_its_family_needs() {
    holds(
        "(drop (call $sock_open (i32.const 2) (i32.const 1) (i32.const 6) (i32.const 64)))
         (memory.fill (i32.const 256) (i32.const 0xaa) (i32.const 110))
         (call $is (i32.const 1) (call $sock_addr_local (i32.const 3) (i32.const 256)) (i32.const 0))
         (call $is (i32.const 2) (i32.load8_u (i32.const 256)) (i32.const 2))
         (call $is (i32.const 3) (i32.load8_u (i32.const 275)) (i32.const 0))
         (call $is (i32.const 4) (i32.load8_u (i32.const 276)) (i32.const 0xaa))
         (drop (call $sock_open (i32.const 1) (i32.const 1) (i32.const 6) (i32.const 64)))
         (memory.fill (i32.const 256) (i32.const 0xaa) (i32.const 110))
         (call $is (i32.const 5) (call $sock_addr_local (i32.const 4) (i32.const 256)) (i32.const 0))
         (call $is (i32.const 6) (i32.load8_u (i32.const 264)) (i32.const 0xaa))",
    );
}

#[test]
fn a_flag_is_on_whatever_libc_meant() {
    // Only what a kernel has is set there; that a socket is for IPv6 alone is kept, and not done.
    holds(
        "(drop (call $sock_open (i32.const 2) (i32.const 1) (i32.const 6) (i32.const 64)))
         (call $is (i32.const 1) (call $sock_set_opt_flag (i32.const 3) (i32.const 5) (i32.const 70000)) (i32.const 0))
         (call $is (i32.const 2) (call $sock_get_opt_flag (i32.const 3) (i32.const 5) (i32.const 64)) (i32.const 0))
         (call $is (i32.const 3) (i32.load8_u (i32.const 64)) (i32.const 1))
         (call $is (i32.const 4) (call $sock_set_opt_flag (i32.const 3) (i32.const 7) (i32.const 1)) (i32.const 50))",
    );
}

/// libc sets it whatever it is told: who listens on all of IPv6 is to be reached over IPv4 too.
#[test]
fn a_listener_for_ipv6_is_reached_over_ipv4() {
    let running = serve(
        "(func (export \"_start\")
           (drop (call $sock_open (i32.const 2) (i32.const 1) (i32.const 6) (i32.const 64)))
           (drop (call $sock_set_opt_flag (i32.const 3) (i32.const 5) (i32.const 1)))
           (i32.store8 (i32.const 128) (i32.const 2)) (i32.store16 (i32.const 130) (i32.const 8080))
           (call $is (i32.const 1) (call $sock_bind (i32.const 3) (i32.const 128)) (i32.const 0))
           (call $is (i32.const 2) (call $sock_listen (i32.const 3) (i32.const 1)) (i32.const 0))
           (call $is (i32.const 3)
             (call $sock_accept4 (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 256)) (i32.const 0)))",
        |_| {},
    );
    let client = connect(&running);
    assert!(client.peer_addr().expect("it is connected").is_ipv4());
    assert_eq!(running.wait(), Outcome::Exited(0), "the number of the check");
}

#[test]
fn a_futex_gives_no_errno() {
    holds(
        ";; The value is another: there is nothing to wait for.
         (call $is (i32.const 1)
           (call $futex_wait (i32.const 64) (i32.const 7) (i32.const 0) (i32.const 80)) (i32.const 0))
         (call $is (i32.const 2) (i32.load8_u (i32.const 80)) (i32.const 1))
         ;; It is, and a millisecond passes.
         (i32.store8 (i32.const 96) (i32.const 1)) (i64.store (i32.const 104) (i64.const 1000000))
         (call $is (i32.const 3)
           (call $futex_wait (i32.const 64) (i32.const 0) (i32.const 96) (i32.const 80)) (i32.const 0))
         (call $is (i32.const 4) (i32.load8_u (i32.const 80)) (i32.const 0))
         (call $is (i32.const 5) (call $futex_wake (i32.const 64) (i32.const 80)) (i32.const 0))
         (call $is (i32.const 6) (call $futex_wake_all (i32.const -4) (i32.const 80)) (i32.const 0))
         ;; What points nowhere is no wait.
         (call $is (i32.const 7)
           (call $futex_wait (i32.const -4) (i32.const 0) (i32.const 0) (i32.const 80)) (i32.const 21))",
    );
}

/// An epoll set of descriptor 4 with an eventfd of descriptor 3, for these events.
fn epoll_of_event(events: u32) -> String {
    format!(
        "(drop (call $fd_event (i64.const 0) (i32.const 4) (i32.const 64)))
         (drop (call $epoll_create (i32.const 64)))
         (i32.store (i32.const 128) (i32.const {events})) (i64.store (i32.const 136) (i64.const 77))
         (call $is (i32.const 1)
           (call $epoll_ctl (i32.const 4) (i32.const 1) (i32.const 3) (i32.const 128)) (i32.const 0))
         (i32.store (i32.const 32) (i32.const 256)) (i32.store (i32.const 36) (i32.const 8))
         (i64.store (i32.const 256) (i64.const 1))"
    )
}

/// That a wait of no time tells so many events.
fn waits(check: u32, events: u32) -> String {
    format!(
        "(call $is (i32.const {check})
           (call $epoll_wait (i32.const 4) (i32.const 512) (i32.const 4) (i64.const 0) (i32.const 64)) (i32.const 0))
         (call $is (i32.const {check}) (i32.load (i32.const 64)) (i32.const {events}))"
    )
}

const WRITE: &str = "(drop (call $fd_write (i32.const 3) (i32.const 32) (i32.const 1) (i32.const 72)))";
const READ: &str = "(drop (call $fd_read (i32.const 3) (i32.const 32) (i32.const 1) (i32.const 72)))";

#[test]
fn a_level_is_told_until_it_is_drained() {
    let (set, [before, one, again, drained]) =
        (epoll_of_event(1), [waits(2, 0), waits(3, 1), waits(4, 1), waits(5, 0)]);
    holds(&format!(
        "{set} {before} {WRITE} {one}
         (call $is (i32.const 6) (i32.load (i32.const 512)) (i32.const 1))
         (call $is (i32.const 7) (i32.load (i32.const 520)) (i32.const 77))
         {again} {READ} {drained}"
    ));
}

#[test]
fn an_edge_is_told_once_for_each_write() {
    let (set, [one, again, next]) = (epoll_of_event(1 | 64), [waits(2, 1), waits(3, 0), waits(4, 1)]);
    holds(&format!("{set} {WRITE} {one} {again} {WRITE} {next}"));
}

#[test]
fn the_numbers_of_epoll_ctl_are_those_that_libc_sends() {
    let set = epoll_of_event(1 | 128);
    let (one, over, changed, removed) = (waits(3, 1), waits(4, 0), waits(6, 1), waits(9, 0));
    holds(&format!(
        "{set}
         (call $is (i32.const 2)
           (call $epoll_ctl (i32.const 4) (i32.const 0) (i32.const 3) (i32.const 128)) (i32.const 20))
         {WRITE} {one} {over}
         (call $is (i32.const 5)
           (call $epoll_ctl (i32.const 4) (i32.const 3) (i32.const 3) (i32.const 128)) (i32.const 0))
         {changed}
         (call $is (i32.const 7)
           (call $epoll_ctl (i32.const 4) (i32.const 2) (i32.const 3) (i32.const 0)) (i32.const 0))
         (call $is (i32.const 8)
           (call $epoll_ctl (i32.const 4) (i32.const 2) (i32.const 3) (i32.const 0)) (i32.const 44))
         {removed}"
    ));
}

#[test]
fn a_pipe_and_a_pair_pass_bytes() {
    holds(
        "(call $is (i32.const 1) (call $fd_pipe (i32.const 64) (i32.const 68)) (i32.const 0))
         (i32.store (i32.const 32) (i32.const 256)) (i32.store (i32.const 36) (i32.const 4))
         (i32.store (i32.const 256) (i32.const 0x706d6970))
         (call $is (i32.const 2)
           (call $fd_write (i32.const 4) (i32.const 32) (i32.const 1) (i32.const 72)) (i32.const 0))
         (i32.store (i32.const 256) (i32.const 0))
         (call $is (i32.const 3)
           (call $fd_read (i32.const 3) (i32.const 32) (i32.const 1) (i32.const 72)) (i32.const 0))
         (call $is (i32.const 4) (i32.load (i32.const 256)) (i32.const 0x706d6970))
         (call $is (i32.const 5)
           (call $sock_pair (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 64) (i32.const 68)) (i32.const 0))
         (call $is (i32.const 6)
           (call $fd_write (i32.const 5) (i32.const 32) (i32.const 1) (i32.const 72)) (i32.const 0))
         (i32.store (i32.const 256) (i32.const 0))
         (call $is (i32.const 7)
           (call $fd_read (i32.const 6) (i32.const 32) (i32.const 1) (i32.const 72)) (i32.const 0))
         (call $is (i32.const 8) (i32.load (i32.const 256)) (i32.const 0x706d6970))",
    );
}

#[test]
fn a_directory_is_the_hosts_to_know() {
    let folder = tempfile::tempdir().expect("there is room");
    std::fs::create_dir(folder.path().join("in")).expect("there is room");
    std::fs::write(folder.path().join("file"), "").expect("there is room");
    let chdir = |check: u32, path: &str, errno: u32| {
        let at = 1024 + check * 32;
        let length = path.len();
        let data = format!("(data (i32.const {at}) \"{path}\")");
        let call = format!(
            "(call $is (i32.const {check}) (call $chdir (i32.const {at}) (i32.const {length})) (i32.const {errno}))"
        );
        (data, call)
    };
    let calls = [
        chdir(10, "ab", 44),
        chdir(11, "/srv/app/none", 44),
        chdir(12, "/srv/app/file", 54),
        chdir(13, "/srv/ap", 44),
        chdir(14, "/srv/app/../../etc", 44),
        chdir(15, "/", 0),
        chdir(16, "srv", 0),
        chdir(17, "app", 0),
        chdir(18, "./in", 0),
        chdir(19, "none", 44),
        chdir(20, "..", 0),
    ];
    let (data, calls): (Vec<String>, Vec<String>) = calls.into_iter().unzip();
    let (data, calls) = (data.concat(), calls.concat());
    let text = module(&format!(
        "{data} (func (export \"_start\")
         ;; Room for one byte is room for the root, and not for a zero behind it.
         (i32.store (i32.const 64) (i32.const 1)) (i32.store8 (i32.const 257) (i32.const 7))
         (call $is (i32.const 1) (call $getcwd (i32.const 256) (i32.const 64)) (i32.const 0))
         (call $is (i32.const 2) (i32.load16_u (i32.const 256)) (i32.const 0x072f))
         {calls}
         (call $is (i32.const 4) (call $getcwd (i32.const 256) (i32.const 64)) (i32.const 68))
         (call $is (i32.const 5) (i32.load (i32.const 64)) (i32.const 8))
         (call $is (i32.const 6) (call $getcwd (i32.const 0) (i32.const 64)) (i32.const 28)))"
    ));
    let directory =
        anyport::server::Directory { host: folder.path().into(), guest: "/srv/app".into(), read_only: true };
    assert_eq!(started(server(&text).directory(directory)).wait(), Outcome::Exited(0), "the number of the check");
}

#[test]
fn what_is_not_supported_links_and_says_so() {
    holds("(call $is (i32.const 1) (call $proc_fork (i32.const 1) (i32.const 64)) (i32.const 58))");
    let bytes = wat::parse_str(module("(func (export \"_start\"))")).expect("a module");
    let inspection = Inspection::of(&Artifact::from_bytes("wasix", bytes));
    assert_eq!(inspection.not_supported, ["proc_fork"]);
    assert_eq!(inspection.problem, None);
}

#[test]
fn other_versions_are_refused_by_name() {
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    for (import, told) in [
        ("\"wasix_64v1\" \"sock_open\" (func (param i32 i32 i32 i64) (result i32))", "WASIX with 64-bit memory"),
        ("\"wasix_32v1\" \"thread_local_create\" (func (param i64 i32) (result i32))", "the first WASIX, of 2022"),
    ] {
        let bytes = wat::parse_str(format!("(module (import {import}) (func (export \"_start\")))")).expect("a module");
        let error = runtime.load(&Artifact::from_bytes("old", bytes)).err().expect("it is refused");
        assert!(error.to_string().contains(told), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("rebuild it")), "{:?}", error.hint());
    }
}
