//! Programs of WASIX that print what they find, and what they want.

use std::net::TcpListener;

use crate::snapshot;
use crate::support::guests::wasm;
use crate::support::{Folder, anyport};

/// An eventfd in an epoll set, by level: told until it is read, and then no more.
#[test]
fn an_event_is_told_until_it_is_read() {
    snapshot!(anyport(["run", "guests/wasix/evtest.wasm"]), @"
    code 0
    --- stdout
    one write: events 1 (want 1)
    not read, wait again: events 1 (level wants 1)
    read rc 0 value 2 (want 2)
    drained, wait again: events 0 (want 0), read rc -1 errno 6
    ");
}

/// What is not supported is told once for each name, however often it is called.
#[test]
fn a_call_that_is_not_supported_is_told_once() {
    let folder = Folder::with(
        "x.wasm",
        wasm(
            r#"(module
              (import "wasix_32v1" "port_unbridge" (func $unbridge (result i32)))
              (import "wasix_32v1" "port_mac" (func $mac (param i32) (result i32)))
              (memory (export "memory") 1)
              (func (export "_start")
                (drop (call $unbridge)) (drop (call $unbridge)) (drop (call $mac (i32.const 0)))))"#,
        ),
    );
    snapshot!(folder.anyport(["run", "x.wasm"]), @"
    code 0
    --- stderr
    warning: the guest calls `port_unbridge`, which is not supported
    warning: the guest calls `port_mac`, which is not supported
    ");
    let inspected = folder.anyport(["inspect", "x.wasm"]);
    assert!(inspected.stdout.contains("not supported: port_unbridge, port_mac"), "{inspected}");
}

/// What libc makes of the calls of a server, from its sockets to its signals, on a port of its own and the next one.
#[test]
fn a_program_walks_the_calls_of_a_server() {
    let ended = (0..10).find_map(|_| {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("one is free").port();
        let next = port.checked_add(1)?;
        let [first, second] = [port, next].map(|port| format!("127.0.0.1:{port}:{port}"));
        let allowed = format!("127.0.0.1:{port}");
        let words = ["run", "-q", "-p", &first, "-p", &second, "--allow-net", &allowed, "--allow-net", "localhost:80"];
        let guest = ["guests/wasix/conform.wasm", &port.to_string()];
        let ended = anyport([&words[..], &guest].concat());
        // Somebody else may have one of them.
        (!ended.stderr.contains("in use")).then(|| told(&ended.stdout, port))
    });
    snapshot!(ended.expect("two ports are free"), @r#"
    argc=2 cwd=/
    getpid() = 1 errno=0
    getppid() = 0 errno=0
    isatty(0) = 0 errno=59
    isatty(1) = 0 errno=59
    socket fd 3
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) = 0 errno=0
    getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &ov, &ol) = 0 errno=0
    REUSEADDR=1
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &zero, sizeof zero) = 0 errno=0
    getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &ov, &ol) = 0 errno=0
    REUSEADDR after set 0 =1
    setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) = 0 errno=0
    setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one) = 0 errno=0
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) = 0 errno=0
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &(int){65536}, sizeof(int)) = 0 errno=0
    setsockopt(s, SOL_SOCKET, SO_LINGER, &(struct linger){1, 2}, sizeof(struct linger)) = 0 errno=0
    getsockopt(s, SOL_SOCKET, SO_TYPE, &ov, &ol) = 0 errno=0
    TYPE=1
    getsockopt(s, SOL_SOCKET, SO_ERROR, &ov, &ol) = 0 errno=0
    ERROR=0
    bind(s, (struct sockaddr *)&a, sizeof a) = 0 errno=0
    getsockname(s, (struct sockaddr *)&l, &ll) = 0 errno=0
    bound name 127.0.0.1:PORT len=16
    listen(s, 16) = 0 errno=0
    bind(s2, (struct sockaddr *)&a, sizeof a) = -1 errno=3
    listen(s2, 16) = -1 errno=28
    bind(z, (struct sockaddr *)&az, sizeof az) = 0 errno=0
    listen(z, 1) = -1 errno=2
    getsockname(z, (struct sockaddr *)&l, &ll) = 0 errno=0
    ephemeral
    fl = fcntl(s, F_GETFL) = 335544320 errno=0
    fcntl(s, F_SETFL, fl | O_NONBLOCK) = 0 errno=0
    accept(s, NULL, NULL) = -1 errno=6
    poll(&p, 1, 0) = 0 errno=0
    poll(0)
    poll(&p, 1, 200) = 0 errno=0
    poll(200)
    connect(c, (struct sockaddr *)&a, sizeof a) = 0 errno=0
    poll(&p, 1, 1000) = 1 errno=0
    revents=1
    d = accept(s, (struct sockaddr *)&pr, &pl) = 5 errno=0
    fcntl(d, F_GETFL) = 335544320 errno=0
    send(c, "ping", 4, 0) = 4 errno=0
    recv(d, b, sizeof b, MSG_PEEK) = 4 errno=0
    recv(d, b, sizeof b, 0) = 4 errno=0
    recv(d, b, sizeof b, MSG_DONTWAIT) = -1 errno=6
    write(d, "pong!", 5) = 5 errno=0
    read(c, b, sizeof b) = 5 errno=0
    fstat(d, &st) = 0 errno=0
    S_ISSOCK=1 mode=160000
    dd = dup(d) = 6 errno=0
    close(d) = 0 errno=0
    write(dd, "x", 1) = 1 errno=0
    read(c, b, sizeof b) = 1 errno=0
    shutdown(dd, SHUT_WR) = 0 errno=0
    recv(c, b, sizeof b, 0) = 0 errno=0
    close(dd) = 0 errno=0
    send(c, "a", 1, 0) = 1 errno=0
    send(c, "a", 1, 0) = -1 errno=64
    recv(c, b, 1, 0) = 0 errno=0
    pipe(pp) = 0 errno=0
    write(pp[1], "hi", 2) = 2 errno=0
    read(pp[0], b, sizeof b) = 2 errno=0
    socketpair(AF_UNIX, SOCK_STREAM, 0, sv) = 0 errno=0
    write(sv[1], "yo", 2) = 2 errno=0
    read(sv[0], b, sizeof b) = 2 errno=0
    ep = epoll_create1(0) = 6 errno=0
    ev = eventfd(0, 0) = 7 errno=0
    epoll_ctl(ep, EPOLL_CTL_ADD, ev, &e) = 0 errno=0
    epoll_ctl(ep, EPOLL_CTL_ADD, ev, &e) = 20 errno=0
    epoll_wait(ep, o, 4, 0) = 0 errno=0
    epoll_wait(0)
    epoll_wait(ep, o, 4, 100) = 0 errno=0
    epoll_wait(100)
    eventfd_write(ev, 3) = 0 errno=0
    epoll_wait(ep, o, 4, 1000) = 1 errno=0
    data=55667788 events=1
    epoll_wait(ep, o, 4, 50) = 1 errno=0
    (second wait without reading: 1 = level triggered, 0 = edge)
    eventfd_read(ev, &v) = 0 errno=0
    eventfd value 3
    pthread_create(&t, NULL, th, (void *)41) = 0 errno=0
    pthread_join(t, &rv) = 0 errno=0
    thread returned 42
    signal 10
    raise(SIGUSR1) = 0 errno=0
    getaddrinfo("localhost", "80", &h, &ai) = 0 errno=44
    localhost -> 127.0.0.1:80
    socket6 fd 8
    bind(u6, (struct sockaddr *)&a6, sizeof a6) = 0 errno=0
    listen(u6, 4) = 0 errno=0
    getsockname(u6, (struct sockaddr *)&l6, &l6l) = 0 errno=0
    v6 name [::1]:NEXT
    open("/nonexistent", O_RDONLY) = -1 errno=44
    close(999) = -1 errno=8
    recv(0, b, 1, MSG_DONTWAIT) = -1 errno=57
    accept(1, NULL, NULL) = -1 errno=57
    "#);
}

/// Without what is another each time, and without room.
fn told(output: &str, port: u16) -> String {
    let named = output.replace(&format!(":{port}"), ":PORT").replace(&format!(":{}", port + 1), ":NEXT");
    let lines = named.lines().map(|line| {
        let varies = [" took ", " port ", "peer "].into_iter().find(|word| line.contains(word));
        let line = varies.and_then(|word| line.split(word).next()).unwrap_or(line);
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}
