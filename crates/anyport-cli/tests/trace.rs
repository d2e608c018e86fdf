//! `anyport run --trace`: what a person sees of the hostcalls.

mod support;

use std::io::Read;
use std::net::TcpStream;

use rustix::process::Signal;

use support::{Ended, Folder, PATIENCE, Process, command_in, guests, http, root};

/// Runs a guest with these words in front of its file.
fn run(guest: impl AsRef<[u8]>, words: &[&str]) -> Ended {
    Folder::with("x.wasm", guest).anyport([&["run"], words, &["x.wasm"]].concat())
}

/// The hostcalls that are told of, in their order.
fn names(ended: &Ended) -> String {
    let names = ended.stderr.lines().map(|line| line.split('(').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_line_for_each_hostcall() {
    let folder = Folder::with("x.wasm", guests::accepts(8080));
    let mut server = folder.spawn(["run", "-p", "0:8080", "--trace", "x.wasm"]);
    let mut peer = TcpStream::connect(server.address()).expect("it listens");
    let mut text = String::new();
    peer.read_to_string(&mut text).expect("it sends");
    assert_eq!(text, "ready\n");
    let ended = server.end();
    // On a busy machine it may wait for us, and say so.
    let lines: Vec<&str> = ended.stderr.lines().filter(|line| !line.ends_with(" waits")).collect();
    snapshot!(lines.join("\n"), @r#"
    sock_open(af_family=1, sock_type=2) = success fd=3 <TIME>
    sock_bind(fd=3, address=0.0.0.0:8080) = success <TIME>
    anyport: listening on 127.0.0.1:PORT for port 8080/tcp of the guest
    sock_listen(fd=3, backlog=128) = success <TIME>
    fd_write(fd=1, iovs="ready\n") = success nwritten=6 <TIME>
    sock_accept(fd=3) = success fd=4 <TIME>
    fd_write(fd=4, iovs="ready\n") = success nwritten=6 <TIME>
    "#);
}

#[test]
fn a_server_that_answers() {
    let words = ["run", "-p", "0:8080", "--trace=sock,poll,!sock_shutdown", "guests/wasmedge/hello/server.wasm"];
    let mut server = Process::spawn(command_in(&root(), words));
    let address = server.address();
    http::http(address, "POST", "/hello", Some("Bob Morane"));
    server.line("datalen=0");
    let ended = server.end_by(Signal::TERM, PATIENCE);
    let told = |part: &str| assert!(ended.stderr.lines().any(|line| line.contains(part)), "`{part}` in {ended}");
    told("sock_bind(fd=3, address=0.0.0.0:8080) = success <");
    told("poll_oneoff(subscriptions=[read 3, write 3]) = success events=[read 3] nevents=1 <");
    told("sock_getpeeraddr(fd=4) = success address=127.0.0.1:");
    told("sock_accept(fd=3) = again (6) <");
    told("sock_recv(fd=4, ri_data=8192 bytes, ri_flags=0) = success ri_data=");
    told(r#" ri_data="POST /hello HTTP/1.1\r\nHost: 127."... datalen="#);
    told(r#"sock_send(fd=4, si_data="HTTP/1.1 200 OK\r\ncontent-length:"... (76 bytes), si_flags=0) = success "#);
    let others =
        ended.stderr.lines().find(|line| !["sock_", "poll_", "anyport: "].iter().any(|start| line.starts_with(start)));
    assert_eq!(others, None);
    assert!(!ended.stderr.contains("sock_shutdown"), "{ended}");
}

#[test]
fn some_by_group_or_name() {
    for (words, wanted) in [
        (&["--trace"][..], "environ_sizes_get environ_get fd_write"),
        (&["--trace="], "environ_sizes_get environ_get fd_write"),
        (&["-q", "--trace=environ"], "environ_sizes_get environ_get"),
        (&["--trace=fd,sock,environ_get"], "environ_get fd_write"),
        (&["--trace=environ,!environ_get"], "environ_sizes_get"),
        (&["--trace=!environ"], "fd_write"),
        (&["--trace=poll"], ""),
        (&["--log", "anyport::hostcall=trace"], "environ_sizes_get environ_get fd_write"),
        (&["--log", "anyport::hostcall::environ=trace"], "environ_sizes_get environ_get"),
        (&["--log", "anyport::hostcall=trace", "--trace=fd"], "fd_write"),
    ] {
        let ended = run(guests::prints_environment(), &[&["-e", "A=b"], words].concat());
        assert_eq!(ended.data(), "A=b\0");
        assert_eq!(names(&ended), wanted, "{words:?}");
    }
}

#[test]
fn a_word_that_is_none() {
    snapshot!(run(guests::exits(0), &["--trace=sock,sokc"]), @"
    code 125
    --- stderr
    error: `sokc` is no group of hostcalls, and no hostcall's name
    hint: the groups are args, clock, environ, fd, futex, path, poll, proc, random, sched, sock, thread, ↵
    tty; `fd_write` is a name
    ");
    snapshot!(run(guests::exits(0), &["--trace=!fd_"]), @"
    code 125
    --- stderr
    error: `fd_` is no group of hostcalls, and no hostcall's name
    hint: the groups are args, clock, environ, fd, futex, path, poll, proc, random, sched, sock, thread, ↵
    tty; `fd_write` is a name
    ");
}

#[test]
fn the_end() {
    snapshot!(run(guests::exits(3), &["--trace"]), @"
    code 3
    --- stderr
    proc_exit(rval=3) = exit
    ");
    snapshot!(run(guests::command("(call $proc_exit (i32.const -1))"), &["--trace=proc_exit"]), @"
    code 255
    --- stderr
    proc_exit(rval=-1) = exit
    ");
}

#[test]
fn bad_pointers() {
    let write = |fd: i32, iovs: i32| {
        guests::command(&format!(
            "(call $check (call $fd_write (i32.const {fd}) (i32.const {iovs}) (i32.const 2) (i32.const 8)))"
        ))
    };
    let trapped = run(write(1, 131_064), &["--trace"]);
    assert_eq!(trapped.code(), 134);
    snapshot!(trapped.stderr.split("the guest's functions").next().unwrap_or_default(), @"
    fd_write(fd=1, iovs=0x1fff8+2) = trap nwritten=0x8 <TIME>
    error: the guest trapped: it called the host with a pointer outside of its memory (0x20000, for 4 ↵
    bytes)
    ");
    snapshot!(run(write(-1, 0), &["--trace"]), @r#"
    code 8
    --- stderr
    fd_write(fd=-1, iovs="") = badf (8) <TIME>
    proc_exit(rval=8) = exit
    "#);
    let open = "(call $check (call $sock_open (i32.const 1) (i32.const 2) (i32.const -4)))";
    snapshot!(run(guests::command(open), &["--trace"]), @"
    code 21
    --- stderr
    sock_open(af_family=1, sock_type=2) = fault (21) fd=0xfffffffc <TIME>
    proc_exit(rval=21) = exit
    ");
    let bind = "(call $check (call $sock_bind (call $socket) (i32.const -8) (i32.const 80)))";
    snapshot!(run(guests::command(bind), &["--trace=sock"]), @"
    code 21
    --- stderr
    sock_open(af_family=1, sock_type=2) = success fd=3 <TIME>
    sock_bind(fd=3, address=0xfffffff8, port=80) = fault (21) <TIME>
    ");
}

#[test]
fn a_path() {
    let folder = Folder::with("x.wasm", guests::prints_file()).and("ready", "contents\n");
    let ended = folder.anyport(["run", "--dir", ".", "--trace", "x.wasm"]);
    snapshot!(ended, @r#"
    code 0
    --- stdout
    contents
    --- stderr
    path_open(fd=3, dirflags=0, path="ready", oflags=0, fs_rights_base=2, fs_rights_inheriting=0, ↵
    fdflags=0) = success fd=4 <TIME>
    fd_read(fd=4, iovs=1024 bytes) = success iovs="contents\n" nread=9 <TIME>
    fd_write(fd=1, iovs="contents\n") = success nwritten=9 <TIME>
    "#);
}

#[test]
fn bytes_of_the_guest_are_escaped() {
    // ESC [ 2 J BEL " \ CR, to stdout and then to stderr.
    let bytes = "(i64.store (i32.const 1024) (i64.const 0x0d5c22074a325b1b))
                 (call $write (i32.const 1) (i32.const 1024) (i32.const 8))
                 (call $write (i32.const 2) (i32.const 256) (i32.const 6))";
    let ended = run(guests::command(bytes), &["--trace"]);
    assert_eq!(ended.data(), "\x1b[2J\x07\"\\\r", "the guest's own output is its own");
    snapshot!(ended.stderr, @r#"
    fd_write(fd=1, iovs="\x1b[2J\x07\"\\\r") = success nwritten=8 <TIME>
    ready
    fd_write(fd=2, iovs="ready\n") = success nwritten=6 <TIME>
    "#);
}

#[test]
fn where_it_waits() {
    let folder = Folder::with("x.wasm", guests::sleeps());
    let mut server = folder.spawn(["run", "--trace=poll", "x.wasm"]);
    snapshot!(server.line("waits"), @"poll_oneoff(subscriptions=[clock 3600.000000s]) waits");
    assert_eq!(server.end_by(Signal::TERM, PATIENCE).code(), 143);
}
