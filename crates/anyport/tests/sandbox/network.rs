//! No connection, port or name lookup without a rule; no rule that is wider than it says.

use std::io;
use std::net::{TcpListener, UdpSocket};

use crate::wat_support::{Answer, DGRAM, INET4, INET6, NONBLOCK, Puppet, STREAM, Stage, errno};

/// Addresses of metadata services: they give away the credentials of the machine.
const METADATA: [&str; 5] =
    ["169.254.169.254", "169.254.170.2", "100.100.100.200", "::ffff:169.254.169.254", "fd00:ec2::254"];

/// What connecting to an address gives. The socket does not block: nobody waits for an answer here.
fn connects(guest: &mut Puppet, ip: &str, port: u64) -> u64 {
    let family = if ip.contains(':') { INET6 } else { INET4 };
    let fd = guest.open(family, STREAM).expect("a socket can be opened");
    guest.set_flags(fd, NONBLOCK);
    let to = guest.address_of(ip);
    let outcome = guest.call("sock_connect", &[fd, to, port]);
    guest.close(fd);
    outcome
}

/// What sending a datagram to an address gives, and connecting a datagram socket.
fn sends(guest: &mut Puppet, ip: &str, port: u64) -> [u64; 2] {
    let family = if ip.contains(':') { INET6 } else { INET4 };
    let fd = guest.open(family, DGRAM).expect("a socket can be opened");
    let (to, data, size) = (guest.address_of(ip), guest.put(b"x"), guest.room(4));
    let vector = guest.vector(&[(data, 1)]);
    let sent = guest.call("sock_send_to", &[fd, vector, 1, to, port, 0, size]);
    let connected = guest.call("sock_connect", &[fd, to, port]);
    guest.close(fd);
    [sent, connected]
}

/// Looks a name up, for IPv4; the first address.
fn lookup(guest: &mut Puppet, name: &str) -> Answer<Vec<u8>> {
    let hints = guest.room(28);
    guest.poke(hints + 2, &[1]);
    let (host, data) = (guest.put(name.as_bytes()), guest.room(26));
    let address = guest.words(&[0, 14, data]);
    let node = guest.words(&[0, 0, 0, address, 0, 0, 0]);
    let (result, count) = (guest.words(&[node]), guest.room(4));
    guest.told(count, "sock_getaddrinfo", &[host, name.len() as u64, 0, 0, hints, result, 1, count])?;
    Ok(guest.peek(data + 2, 4))
}

#[test]
fn without_a_rule_nothing_is_reached() {
    let (stream, datagrams) = (TcpListener::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (stream, datagrams) = (stream.expect("a free port"), datagrams.expect("a free port"));
    stream.set_nonblocking(true).expect("it is a socket");
    datagrams.set_nonblocking(true).expect("it is a socket");
    let ports = [stream.local_addr(), datagrams.local_addr()].map(|address| address.expect("it is bound").port());
    // A published port lets nobody out.
    let mut guest = Stage::new().publish("0:80").publish("0:53/udp").start();
    let others = ["10.0.0.1", "8.8.8.8", "0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "::", "2606:4700::1111"];
    for ip in ["127.0.0.1", "127.0.0.2"].into_iter().chain(others).chain(METADATA) {
        for port in ports.map(u64::from).into_iter().chain([0, 80, 443]) {
            assert_eq!(connects(&mut guest, ip, port), errno::ACCESS, "{ip}:{port}");
            assert_eq!(sends(&mut guest, ip, port), [errno::ACCESS; 2], "{ip}:{port}");
        }
    }
    // Nothing was tried before it was refused.
    let kind = |error: io::Error| error.kind();
    assert_eq!(stream.accept().map_err(kind).expect_err("nobody connects"), io::ErrorKind::WouldBlock);
    assert_eq!(datagrams.recv(&mut [0]).map_err(kind).expect_err("nobody sends"), io::ErrorKind::WouldBlock);
    for name in ["localhost", "example.invalid", "metadata.google.internal"] {
        assert_eq!(lookup(&mut guest, name), Err(errno::ACCESS), "{name}");
    }
    // AF_UNIX, whose sockets are files of the host.
    assert_eq!(guest.open(3, STREAM), Err(errno::NO_SYSTEM_CALL));
}

#[test]
fn metadata_services_are_not_reached_by_wide_rules() {
    for rule in ["any", "private", "public"] {
        let mut guest = Stage::new().allow(rule).start();
        for ip in METADATA {
            assert_eq!(connects(&mut guest, ip, 80), errno::ACCESS, "{ip} by {rule}");
            assert_eq!(sends(&mut guest, ip, 80), [errno::ACCESS; 2], "{ip} by {rule}");
        }
    }
}

#[test]
fn a_rule_is_no_wider_than_it_says() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = u64::from(server.local_addr().expect("it is bound").port());
    for (rule, loopback, other_port, mapped) in [
        (format!("127.0.0.1:{port}"), true, false, true),
        (format!("127.0.0.1:{}", port - 1), false, true, false),
        ("127.0.0.0/8".to_owned(), true, true, true),
        ("127.0.0.2".to_owned(), false, false, false),
        ("10.0.0.0/8".to_owned(), false, false, false),
        ("localhost".to_owned(), false, false, false),
        ("public".to_owned(), false, false, false),
        ("private".to_owned(), true, true, true),
    ] {
        let mut guest = Stage::new().allow(&rule).start();
        let allowed = [
            connects(&mut guest, "127.0.0.1", port),
            connects(&mut guest, "127.0.0.1", port - 1),
            connects(&mut guest, "::ffff:127.0.0.1", port),
        ]
        .map(|outcome| outcome != errno::ACCESS);
        assert_eq!(allowed, [loopback, other_port, mapped], "{rule}");
    }
}

/// DNS rebinding: what counts is the address that a lookup gave, not the name.
#[test]
fn a_name_is_checked_by_its_addresses() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = u64::from(server.local_addr().expect("it is bound").port());
    let mut guest = Stage::new().allow(&format!("localhost:{port}")).start();
    // Not before it was looked up: the guest may have the address from anywhere.
    assert_eq!(connects(&mut guest, "127.0.0.1", port), errno::ACCESS);
    assert_eq!(lookup(&mut guest, "LocalHost"), Ok(vec![127, 0, 0, 1]));
    assert_ne!(connects(&mut guest, "127.0.0.1", port), errno::ACCESS);
    // Nor another port of it, another address, or another name.
    assert_eq!(connects(&mut guest, "127.0.0.1", port - 1), errno::ACCESS);
    assert_eq!(connects(&mut guest, "127.0.0.2", port), errno::ACCESS);
    for name in ["localhost.localdomain", "xlocalhost", "localhost.invalid"] {
        assert_eq!(lookup(&mut guest, name), Err(errno::ACCESS), "{name}");
    }
    // A number is no lookup, and allows nothing.
    assert_eq!(lookup(&mut guest, "127.0.0.2"), Ok(vec![127, 0, 0, 2]));
    assert_eq!(connects(&mut guest, "127.0.0.2", port), errno::ACCESS);
}

/// A public name with a private address is the other half of rebinding.
#[test]
fn an_answer_that_no_rule_allows_is_not_given() {
    let mut guest = Stage::new().allow("public").start();
    assert!(lookup(&mut guest, "localhost").is_err());
    assert_eq!(connects(&mut guest, "127.0.0.1", 80), errno::ACCESS);
    let mut guest = Stage::new().allow("private").start();
    assert_eq!(lookup(&mut guest, "localhost"), Ok(vec![127, 0, 0, 1]));
}

#[test]
fn only_published_ports_are_bound_and_listened_on() {
    let mut guest = Stage::new().publish("0:80").publish("0:53/udp").allow("any").start();
    let (any, six) = (guest.address_of("0.0.0.0"), guest.address_of("::"));
    for port in [1, 22, 53, 81, 8080, 65_535] {
        let fd = guest.tcp();
        assert_eq!(guest.call("sock_bind", &[fd, any, port]), errno::ACCESS, "{port}/tcp");
    }
    for port in [1, 80, 5353] {
        let fd = guest.udp();
        assert_eq!(guest.call("sock_bind", &[fd, any, port]), errno::ACCESS, "{port}/udp");
    }
    let fd = guest.open(INET6, STREAM).expect("IPv6");
    assert_eq!(guest.call("sock_bind", &[fd, six, 8080]), errno::ACCESS);
    // A port of any number is for clients: nobody is to be heard on it.
    let fd = guest.tcp();
    guest.must("sock_bind", &[fd, any, 0]);
    assert_eq!(guest.call("sock_listen", &[fd, 1]), errno::ACCESS);
    let out = guest.room(4);
    assert_eq!(guest.call("sock_accept", &[fd, out]), errno::INVALID);
}

#[test]
fn a_guest_that_may_reach_loopback_may_listen_there() {
    let mut guest = Stage::new().allow("127.0.0.1").start();
    let (loopback, any, other) =
        (guest.address_of("127.0.0.1"), guest.address_of("0.0.0.0"), guest.address_of("127.0.0.2"));
    for (address, wanted) in [(any, errno::ACCESS), (other, errno::ACCESS), (loopback, errno::SUCCESS)] {
        let fd = guest.tcp();
        guest.must("sock_bind", &[fd, address, 0]);
        assert_eq!(guest.call("sock_listen", &[fd, 1]), wanted);
    }
    let fd = guest.tcp();
    assert_eq!(guest.call("sock_bind", &[fd, loopback, 8080]), errno::ACCESS);
}

/// A port that is not published is nobody's door, though clients bind one.
#[test]
fn datagrams_of_strangers_do_not_come_in() {
    let (friend, stranger) = (UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (friend, stranger) = (friend.expect("a free port"), stranger.expect("a free port"));
    let mut guest = Stage::new().allow(&friend.local_addr().expect("it is bound").to_string()).start();
    let (fd, any) = (guest.udp(), guest.address_of("0.0.0.0"));
    guest.must("sock_bind", &[fd, any, 0]);
    let (kind, port, slot) = (guest.room(4), guest.room(4), guest.slot(4));
    guest.must("sock_getlocaladdr", &[fd, slot.at, kind, port]);
    let at = ("127.0.0.1", u16::try_from(guest.word(port)).expect("a port"));
    for text in [b"one", b"two"] {
        stranger.send_to(b"stranger", at).expect("it is bound");
        friend.send_to(text, at).expect("it is bound");
        assert_eq!(guest.recv(fd, 16).as_deref(), Ok(&text[..]));
    }
    stranger.send_to(b"stranger", at).expect("it is bound");
    guest.set_flags(fd, NONBLOCK);
    assert_eq!(guest.recv(fd, 16), Err(errno::AGAIN));
    assert_eq!(guest.read(fd, 16), Err(errno::AGAIN));
}
