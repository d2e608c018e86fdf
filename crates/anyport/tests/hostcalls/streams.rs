//! TCP sockets of a guest's own: their life, their bytes, and the order in which calls make sense.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::time::Duration;

use crate::wat_support::{INET4, INET6, NONBLOCK, STREAM, Stage, connect, errno, read_all};

const LOOPBACK: &str = "127.0.0.1";
const PEEK: u64 = 1;
const WAIT_ALL: u64 = 2;

#[test]
fn open_takes_the_enums_since_0_10() {
    let mut guest = Stage::new().start();
    let out = guest.room(4);
    for (family, kind) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        for name in ["sock_open", "sock_open_v2"] {
            assert!(guest.told(out, name, &[family, kind, out]).is_ok(), "{family} {kind}");
        }
    }
    for (family, kind, wanted) in [
        (0, 1, errno::INVALID),
        (0, 2, errno::INVALID),
        (1, 0, errno::INVALID),
        (1, 3, errno::INVALID),
        (4, 2, errno::INVALID),
        (u64::from(u32::MAX), 2, errno::INVALID),
        // AF_UNIX, which WasmEdge has behind a flag.
        (3, 2, errno::NO_SYSTEM_CALL),
    ] {
        assert_eq!(guest.told(out, "sock_open", &[family, kind, out]), Err(wanted), "{family} {kind}");
    }
}

/// Crates up to 0.3.3 open (0, 1), and pass a port where flags are now.
#[test]
fn the_enums_before_0_10_are_told_by_the_first_open() {
    let mut guest = Stage::legacy().publish("0:80").start();
    let listener = guest.open(0, 1).expect("IPv4, stream");
    let any = guest.address_of("0.0.0.0");
    guest.must("sock_bind", &[listener, any, 80]);
    guest.must("sock_listen", &[listener, 64]);
    let client = connect(guest.address(0));
    let out = guest.room(4);
    // Not flags: 80 would be refused, and 4 would make it non-blocking.
    let fd = guest.told(out, "sock_accept", &[listener, 80, out]).expect("a client waits");
    assert_eq!(guest.send(fd, b"hello"), Ok(5));
    assert_eq!(guest.option(fd, 1, 4), Ok(vec![1, 0, 0, 0]));
    guest.close(fd);
    assert_eq!(read_all(&client), b"hello");
    assert!(guest.open(1, 1).is_ok(), "IPv6, stream");
    let datagrams = guest.open(0, 0).expect("IPv4, datagrams");
    assert_eq!(guest.option(datagrams, 1, 4), Ok(vec![0; 4]));
    for (family, kind) in [(1, 2), (2, 1), (2, 2), (3, 1)] {
        assert_eq!(guest.open(family, kind), Err(errno::INVALID), "{family} {kind}");
    }
}

#[test]
fn the_new_enums_stay_with_a_guest_whose_first_open_has_them() {
    let mut guest = Stage::legacy().publish("0:80").start();
    let listener = guest.open(INET4, STREAM).expect("IPv4, stream");
    assert_eq!(guest.open(0, 1), Err(errno::INVALID));
    let any = guest.address_of("0.0.0.0");
    guest.must("sock_bind", &[listener, any, 80]);
    guest.must("sock_listen", &[listener, 64]);
    let out = guest.room(4);
    assert_eq!(guest.told(out, "sock_accept", &[listener, 80, out]), Err(errno::INVALID));
    // And with one that imports what came later, whatever it opens.
    let mut guest = Stage::new().start();
    assert_eq!(guest.open(0, 1), Err(errno::INVALID));
}

#[test]
fn accept_takes_flags_and_the_listener_keeps_its_own() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let out = guest.room(4);
    for name in ["sock_accept", "sock_accept_v2"] {
        for (flags, blocks) in [(0, true), (NONBLOCK, false), (0x1f, false), (0x1b, true)] {
            let mut client = connect(guest.address(0));
            let fd = guest.told(out, name, &[listener, flags, out]).expect("a client waits");
            if blocks {
                client.write_all(b"x").expect("it is accepted");
                assert_eq!(guest.recv(fd, 1).as_deref(), Ok(&b"x"[..]));
            } else {
                assert_eq!(guest.recv(fd, 1), Err(errno::AGAIN));
            }
            guest.close(fd);
        }
        for flags in [0x20, 0x80, 1 << 16, u64::from(u32::MAX)] {
            assert_eq!(guest.call(name, &[listener, flags, out]), errno::INVALID, "{flags:#x}");
        }
    }
    // It still blocks: a client that comes later is waited for.
    guest.begin("sock_accept", &[listener, out]);
    assert!(matches!(guest.finish_within(Duration::from_millis(20)), Ok(None)));
    let _client = connect(guest.address(0));
    assert_eq!(guest.finish(), errno::SUCCESS);
}

#[test]
fn wrong_descriptors_are_told_apart() {
    let mut guest = Stage::new().publish("0:80").start();
    let (fresh, datagrams, out) = (guest.tcp(), guest.udp(), guest.room(4));
    let vector = guest.vector(&[(out, 4)]);
    let mut every = |fd: u64| {
        [
            guest.call("sock_accept", &[fd, out]),
            guest.call("sock_accept", &[fd, 0, out]),
            guest.call("sock_recv", &[fd, vector, 1, 0, out, out]),
            guest.call("sock_send", &[fd, vector, 1, 0, out]),
            guest.call("sock_shutdown", &[fd, 3]),
        ]
    };
    assert_eq!(every(99), [errno::BAD_DESCRIPTOR; 5]);
    assert_eq!(every(0), [errno::NOT_SOCKET; 5]);
    let not_connected = errno::NOT_CONNECTED;
    assert_eq!(every(fresh), [errno::INVALID, errno::INVALID, not_connected, not_connected, not_connected]);
    assert_eq!(guest.call("sock_accept", &[datagrams, out]), errno::NOT_SUPPORTED);
    assert_eq!(guest.call("sock_accept", &[datagrams, 0, out]), errno::NOT_SUPPORTED);
    assert_eq!(guest.call("sock_listen", &[datagrams, 1]), errno::NOT_SUPPORTED);
    assert_eq!(guest.call("sock_shutdown", &[datagrams, 3]), errno::NOT_SUPPORTED);
    assert_eq!(guest.call("sock_listen", &[fresh, 1]), errno::INVALID);
}

#[test]
fn a_port_is_bound_once_and_again_after_it_was_closed() {
    let mut guest = Stage::new().publish("0:80").start();
    let any = guest.address_of("0.0.0.0");
    let first = guest.listen(80);
    assert_eq!(guest.call("sock_bind", &[first, any, 80]), errno::INVALID);
    let second = guest.tcp();
    assert_eq!(guest.call("sock_bind", &[second, any, 80]), 3);
    // Twice is once.
    guest.must("sock_listen", &[first, 1]);
    guest.close(first);
    let again = guest.listen(80);
    let client = connect(guest.address(0));
    let fd = guest.accept(again);
    guest.close(fd);
    assert_eq!(read_all(&client), b"");
    // The rows with names of their own do the same.
    guest.close(again);
    guest.must("sock_bind_v2", &[second, any, 80]);
    guest.must("sock_listen_v2", &[second, 1]);
    let _client = connect(guest.address(0));
    guest.accept(second);
}

#[test]
fn every_way_to_name_an_address_is_taken() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = u64::from(server.local_addr().expect("it is bound").port());
    let mut guest = Stage::new().allow(LOOPBACK).start();
    let mut sockaddr = vec![0; 128];
    sockaddr[..6].copy_from_slice(&[1, 0, 127, 0, 0, 1]);
    let slots = [guest.slot_with(&[127, 0, 0, 1]), guest.slot_with(&sockaddr)];
    for name in ["sock_connect", "sock_connect_v2"] {
        for slot in slots {
            let fd = guest.tcp();
            // Only the low 16 bits are the port: guests pass an i32.
            guest.must(name, &[fd, slot.at, port | 0x7_0000]);
            drop(server.accept().expect("it has connected"));
            guest.close(fd);
        }
    }
    let fd = guest.tcp();
    for length in [0, 3, 5, 15, 17, 127, 129, u64::from(u32::MAX)] {
        let slot = guest.slot_at(slots[0].buffer, length);
        assert_eq!(guest.call("sock_connect", &[fd, slot.at, port]), errno::INVALID, "{length}");
        assert_eq!(guest.call("sock_bind", &[fd, slot.at, 0]), errno::INVALID, "{length}");
    }
    let six = guest.address_of("::1");
    assert_eq!(guest.call("sock_connect", &[fd, six, port]), errno::FAMILY_NOT_SUPPORTED);
    assert_eq!(guest.call("sock_bind", &[fd, six, 0]), errno::FAMILY_NOT_SUPPORTED);
    guest.poke(slots[1].buffer, &[3, 0]);
    assert_eq!(guest.call("sock_connect", &[fd, slots[1].at, port]), errno::FAMILY_NOT_SUPPORTED);
}

#[test]
fn ipv6_works_as_ipv4_does() {
    let Ok(server) = TcpListener::bind("[::1]:0") else { return };
    let port = server.local_addr().expect("it is bound").port();
    let mut guest = Stage::new().publish("[::1]:0:80").allow("::1").start();
    let (fd, to) = (guest.open(INET6, STREAM).expect("IPv6"), guest.address_of("::1"));
    guest.must("sock_connect", &[fd, to, port.into()]);
    drop(server.accept().expect("it has connected"));
    let (listener, any) = (guest.open(INET6, STREAM).expect("IPv6"), guest.address_of("::"));
    guest.must("sock_bind", &[listener, any, 80]);
    guest.must("sock_listen", &[listener, 1]);
    let client = connect(guest.address(0));
    let fd = guest.accept(listener);
    assert_eq!(guest.send(fd, b"six"), Ok(3));
    guest.close(fd);
    assert_eq!(read_all(&client), b"six");
}

#[test]
fn a_blocking_connect_waits_and_tells_a_refusal() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("it is bound").port();
    let mut guest = Stage::new().allow(LOOPBACK).start();
    let fd = guest.connect(LOOPBACK, port).expect("it listens");
    let (mut stream, _) = server.accept().expect("it has connected");
    stream.write_all(b"hello").expect("it is open");
    assert_eq!(guest.recv_with(fd, 5, WAIT_ALL).as_deref(), Ok(&b"hello"[..]));
    let to = guest.address_of(LOOPBACK);
    assert_eq!(guest.call("sock_connect", &[fd, to, port.into()]), errno::IS_CONNECTED);
    drop(server);
    assert_eq!(guest.connect(LOOPBACK, port), Err(errno::CONNECTION_REFUSED));
    // The same socket can try again.
    let (fd, again) = (guest.tcp(), TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port"));
    assert_eq!(guest.call("sock_connect", &[fd, to, port.into()]), errno::CONNECTION_REFUSED);
    let port = again.local_addr().expect("it is bound").port();
    guest.must("sock_connect", &[fd, to, port.into()]);
    again.accept().expect("it has connected");
}

#[test]
fn receive_flags_peek_and_wait_for_all() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let mut client = connect(guest.address(0));
    let fd = guest.accept(listener);
    client.write_all(b"hello").expect("it is open");
    assert_eq!(guest.recv_with(fd, 1, PEEK).as_deref(), Ok(&b"h"[..]));
    assert_eq!(guest.recv_with(fd, 1, PEEK | WAIT_ALL).as_deref(), Ok(&b"h"[..]));
    let (buffer, size) = (guest.room(12), guest.room(8));
    let vector = guest.vector(&[(buffer, 8), (buffer + 8, 2)]);
    guest.poke(size + 4, &[0xee; 4]);
    for name in ["sock_recv", "sock_recv_v2"] {
        guest.begin(name, &[fd, vector, 2, WAIT_ALL, size, size + 4]);
        assert!(matches!(guest.finish_within(Duration::from_millis(20)), Ok(None)));
        client.write_all(b" world").expect("it is open");
        assert_eq!((guest.finish(), guest.word(size)), (errno::SUCCESS, 10));
        // `roflags` has 16 bits: what follows them is the guest's.
        assert_eq!(guest.word(size + 4), 0xeeee_0000);
        client.write_all(b"hell").expect("it is open");
        guest.recv(fd, 1).expect("the last byte");
    }
    for flags in [4, 8, 1 << 16, u64::from(u32::MAX)] {
        assert_eq!(guest.recv_with(fd, 1, flags), Err(errno::INVALID), "{flags}");
    }
    // The end of the stream ends the wait, with what there is.
    client.write_all(b"!").expect("it is open");
    client.shutdown(Shutdown::Write).expect("it is open");
    let rest = guest.recv_with(fd, 64, WAIT_ALL).expect("the end");
    assert!(rest.ends_with(b"!"), "{rest:?}");
    assert_eq!(guest.recv(fd, 1).as_deref(), Ok(&b""[..]));
}

#[test]
fn send_takes_no_flags() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let mut client = connect(guest.address(0));
    let fd = guest.accept(listener);
    let (data, size) = (guest.put(b"x"), guest.room(4));
    let vector = guest.vector(&[(data, 1)]);
    for name in ["sock_send", "sock_send_v2"] {
        assert_eq!(guest.call(name, &[fd, vector, 1, 1, size]), errno::INVALID);
        assert_eq!(guest.told(size, name, &[fd, vector, 1, 0, size]), Ok(1));
        assert_eq!(guest.told(size, name, &[fd, vector, 0, 0, size]), Ok(0));
        let mut received = [0];
        client.read_exact(&mut received).expect("the guest has sent it");
        assert_eq!(received, *b"x");
    }
}

#[test]
fn shutdown_closes_one_way_or_both() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    for how in [2, 3] {
        let mut client = connect(guest.address(0));
        let fd = guest.accept(listener);
        for wrong in [4, 5, u64::from(u32::MAX)] {
            assert_eq!(guest.call("sock_shutdown", &[fd, wrong]), errno::INVALID);
        }
        guest.must("sock_shutdown", &[fd, how]);
        assert_eq!(read_all(&client), b"");
        assert_eq!(guest.send(fd, b"x"), Err(errno::PIPE));
        if how == 2 {
            client.write_all(b"late").expect("the guest still reads");
            assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b"late"[..]));
        } else {
            assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b""[..]));
        }
        guest.close(fd);
    }
    let client = connect(guest.address(0));
    let fd = guest.accept(listener);
    // 0 is receiving on WasmEdge; preview1 has no 0.
    guest.must("sock_shutdown", &[fd, 0]);
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b""[..]));
    guest.must("sock_shutdown", &[fd, 1]);
    assert_eq!(guest.send(fd, b"x"), Ok(1));
    guest.close(fd);
    assert_eq!(read_all(&client), b"x");
    let mut guest = Stage::preview1().listener().start();
    assert_eq!(guest.call("sock_shutdown", &[3, 0]), errno::INVALID);
    // What is no socket is told first, as on Linux.
    assert_eq!(guest.call("sock_shutdown", &[1, 0]), errno::NOT_SOCKET);
    assert_eq!(guest.call("sock_shutdown", &[99, 0]), errno::BAD_DESCRIPTOR);
}

#[test]
fn a_write_to_who_is_gone_is_an_error_and_no_signal() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let client = connect(guest.address(0));
    let fd = guest.accept(listener);
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("it is a socket");
    drop(client);
    let failed = loop {
        if let Err(errno) = guest.send(fd, b"x") {
            break errno;
        }
    };
    assert!([errno::PIPE, errno::CONNECTION_RESET].contains(&failed), "{failed}");
    assert_eq!(guest.send(fd, b"x"), Err(errno::PIPE));
}
