//! `sock_getlocaladdr` and `sock_getpeeraddr` in both shapes: the guest's own ports, and who its peers are.

use std::net::SocketAddr;

use crate::wat_support::{Connected, Puppet, Stage, connect, connected, errno};

/// The last rows of both functions: a buffer of 128 bytes with a family, and a port.
const LOCAL: [&str; 2] = ["sock_getlocaladdr", "sock_getlocaladdr_v2"];
const PEER: [&str; 2] = ["sock_getpeeraddr", "sock_getpeeraddr_v2"];

fn port_of(address: std::io::Result<SocketAddr>) -> u64 {
    address.expect("it is connected").port().into()
}

#[test]
fn with_4_parameters_family_and_port_are_apart() {
    let Connected { mut guest, fd, client, .. } = connected("0:80");
    let (kind, port) = (guest.room(4), guest.room(4));
    for (name, wanted) in [("sock_getlocaladdr", 80), ("sock_getpeeraddr", port_of(client.local_addr()))] {
        for length in [4, 16] {
            let slot = guest.slot_with(&vec![0xee; length]);
            guest.must(name, &[fd, slot.at, kind, port]);
            assert_eq!(guest.peek(slot.buffer, 4), [127, 0, 0, 1]);
            // The rest is left alone.
            assert!(guest.peek(slot.buffer + 4, slot.length - 4).iter().all(|byte| *byte == 0xee));
            assert_eq!((guest.word(kind), guest.word(port)), (4, wanted), "{name}");
        }
        for length in [0, 3, 5, 128, u64::from(u32::MAX)] {
            let slot = guest.slot_at(port, length);
            assert_eq!(guest.call(name, &[fd, slot.at, kind, port]), errno::INVALID, "{length}");
        }
    }
}

#[test]
fn with_3_parameters_the_family_is_in_the_buffer() {
    let Connected { mut guest, fd, client, .. } = connected("0:80");
    let port = guest.room(4);
    for (names, wanted) in [(LOCAL, 80), (PEER, port_of(client.local_addr()))] {
        for name in names {
            let slot = guest.slot(128);
            guest.must(name, &[fd, slot.at, port]);
            assert_eq!(guest.peek(slot.buffer, 6), [1, 0, 127, 0, 0, 1]);
            assert_eq!(guest.word(port), wanted, "{name}");
            for length in [0, 4, 16, 127, 129] {
                let slot = guest.slot_at(slot.buffer, length);
                assert_eq!(guest.call(name, &[fd, slot.at, port]), errno::INVALID, "{length}");
            }
        }
    }
}

#[test]
fn an_ipv6_address_needs_room() {
    let Ok(free) = std::net::TcpListener::bind("[::1]:0") else { return };
    drop(free);
    let mut guest = Stage::new().publish("[::1]:0:80").start();
    let (listener, any) = (guest.open(2, 2).expect("IPv6"), guest.address_of("::"));
    guest.must("sock_bind", &[listener, any, 80]);
    guest.must("sock_listen", &[listener, 1]);
    let client = connect(guest.address(0));
    let fd = guest.accept(listener);
    let loopback = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let (kind, port) = (guest.room(4), guest.room(4));
    let (wide, narrow, whole) = (guest.slot(16), guest.slot(4), guest.slot(128));
    guest.must("sock_getpeeraddr", &[fd, wide.at, kind, port]);
    assert_eq!(guest.peek(wide.buffer, 16), loopback);
    assert_eq!((guest.word(kind), guest.word(port)), (6, port_of(client.local_addr())));
    assert_eq!(guest.call("sock_getpeeraddr", &[fd, narrow.at, kind, port]), errno::NO_MEMORY);
    guest.must("sock_getlocaladdr", &[fd, whole.at, port]);
    assert_eq!(guest.peek(whole.buffer, 18), [&[2, 0], &loopback[..]].concat());
    assert_eq!(guest.word(port), 80);
}

#[test]
fn a_socket_tells_its_port_at_every_stage() {
    let mut guest = Stage::new().publish("0:80").publish("0:0").allow("127.0.0.1").start();
    let (kind, port, slot) = (guest.room(4), guest.room(4), guest.slot(4));
    let local = |guest: &mut Puppet, fd: u64| {
        guest.must("sock_getlocaladdr", &[fd, slot.at, kind, port]);
        guest.word(port)
    };
    let (fresh, any) = (guest.tcp(), guest.address_of("0.0.0.0"));
    assert_eq!(local(&mut guest, fresh), 0);
    guest.must("sock_bind", &[fresh, any, 80]);
    assert_eq!(local(&mut guest, fresh), 80);
    guest.must("sock_listen", &[fresh, 1]);
    assert_eq!(local(&mut guest, fresh), 80);
    // Who asks for any port is told the one on the host.
    let other = guest.tcp();
    guest.must("sock_bind", &[other, any, 0]);
    let on_host = u64::from(guest.address(1).port());
    assert_eq!(local(&mut guest, other), on_host);
    let port = guest.address(0).port();
    let client = guest.connect("127.0.0.1", port).expect("the guest listens");
    assert!(local(&mut guest, client) > 0);
    assert_eq!(guest.call("sock_getpeeraddr", &[fresh, slot.at, kind, kind]), errno::NOT_CONNECTED);
    assert_eq!(guest.call("sock_getpeeraddr", &[99, slot.at, kind, kind]), errno::BAD_DESCRIPTOR);
    assert_eq!(guest.call("sock_getpeeraddr", &[0, slot.at, kind, kind]), errno::NOT_SOCKET);
}
