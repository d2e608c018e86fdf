//! UDP: a published port, answers to who has asked, and every shape of `sock_recv_from`.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::wat_support::{Answer, DEADLINE, NONBLOCK, Puppet, Stage, Wait, errno, indices};

const TRUNCATED: u64 = 1;

/// A guest with a published UDP port, its socket, and a client.
fn served() -> (Puppet, u64, UdpSocket) {
    let mut guest = Stage::new().publish("0:53/udp").start();
    let (fd, any) = (guest.udp(), guest.address_of("0.0.0.0"));
    guest.must("sock_bind", &[fd, any, 53]);
    let client = client();
    client.connect(guest.address(0)).expect("it is bound");
    (guest, fd, client)
}

fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    client
}

fn port_of(client: &UdpSocket) -> u64 {
    client.local_addr().expect("it is bound").port().into()
}

fn received(client: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let length = client.recv(&mut bytes).expect("the guest answers");
    bytes.truncate(length);
    bytes
}

/// Sends a datagram to an address argument.
fn send_to(guest: &mut Puppet, name: &str, fd: u64, bytes: &[u8], to: u64, port: u64) -> Answer<u64> {
    let data = guest.put(bytes);
    let (vector, size) = (guest.vector(&[(data, bytes.len() as u64)]), guest.room(4));
    guest.told(size, name, &[fd, vector, 1, to, port, 0, size])
}

#[test]
fn echo_through_a_published_port() {
    let (mut guest, fd, client) = served();
    let (buffer, port, size, flags) = (guest.room(64), guest.room(4), guest.room(4), guest.room(4));
    let vector = guest.vector(&[(buffer, 64)]);
    for (name, reply) in [("sock_recv_from", "sock_send_to"), ("sock_recv_from_v2", "sock_send_to_v2")] {
        for length in [4, 16, 128] {
            let from = guest.slot(length);
            guest.poke(port, &[0xee; 4]);
            client.send(b"hello").expect("the port is published");
            guest.must(name, &[fd, vector, 1, from.at, 0, port, size, flags]);
            assert_eq!(guest.peek(buffer, 5), b"hello");
            // In host order and whole, where WasmEdge writes two bytes in network order.
            assert_eq!((guest.word(port), guest.word(size), guest.number(flags, 2)), (port_of(&client), 5, 0));
            let address = guest.peek(from.buffer, length.min(6));
            let wanted: &[u8] = if length == 128 { &[1, 0, 127, 0, 0, 1] } else { &[127, 0, 0, 1, 0, 0] };
            assert_eq!(address, wanted[..address.len()]);
            // The answer goes where the request came from.
            let to = if length == 16 { guest.address_of("127.0.0.1") } else { from.at };
            let asked = guest.word(port);
            assert_eq!(send_to(&mut guest, reply, fd, b"hello back", to, asked), Ok(10));
            assert_eq!(received(&client), b"hello back");
        }
    }
}

#[test]
fn only_who_has_asked_is_answered() {
    let (mut guest, fd, client) = served();
    let (stranger, to) = (self::client(), guest.address_of("127.0.0.1"));
    for other in [&client, &stranger] {
        assert_eq!(send_to(&mut guest, "sock_send_to", fd, b"x", to, port_of(other)), Err(errno::ACCESS));
    }
    client.send(b"hello").expect("the port is published");
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b"hello"[..]));
    assert_eq!(send_to(&mut guest, "sock_send_to", fd, b"x", to, port_of(&client)), Ok(1));
    assert_eq!(received(&client), b"x");
    assert_eq!(send_to(&mut guest, "sock_send_to", fd, b"x", to, port_of(&stranger)), Err(errno::ACCESS));
    // Nor from another socket of the guest.
    let other = guest.udp();
    assert_eq!(send_to(&mut guest, "sock_send_to", other, b"x", to, port_of(&client)), Err(errno::ACCESS));
}

/// What WasmEdge 0.10 gave away, and crates 0.4 read: Linux's sockaddr, its port in the guest's order.
#[test]
fn with_7_parameters_the_sender_is_as_linux_has_it() {
    let (mut guest, fd, client) = served();
    let (buffer, size, flags) = (guest.room(64), guest.room(4), guest.room(4));
    let vector = guest.vector(&[(buffer, 64)]);
    for length in [128, 16, 4] {
        let from = guest.slot_with(&vec![0xee; length]);
        client.send(b"hello").expect("the port is published");
        guest.must("sock_recv_from", &[fd, vector, 1, from.at, 0, size, flags]);
        let [low, high] = client.local_addr().expect("it is bound").port().to_le_bytes();
        let wanted = [2, 0, low, high, 127, 0, 0, 1];
        let told = guest.peek(from.buffer, from.length);
        assert_eq!(told[..length.min(8)], wanted[..length.min(8)]);
        assert!(told.iter().skip(16).all(|byte| *byte == 0xee));
        assert_eq!((guest.word(size), guest.peek(buffer, 5)), (5, b"hello".to_vec()));
    }
}

#[test]
fn a_buffer_for_the_sender_must_be_one() {
    let (mut guest, fd, client) = served();
    let out = guest.room(64);
    let vector = guest.vector(&[(out, 8)]);
    client.send(b"hello").expect("the port is published");
    for length in [0, 3, 5, 127, 129, u64::from(u32::MAX)] {
        let from = guest.slot_at(out, length);
        let told = guest.call("sock_recv_from", &[fd, vector, 1, from.at, 0, out, out, out]);
        assert_eq!(told, errno::INVALID, "{length}");
    }
    // The datagram is still there.
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b"hello"[..]));
}

#[test]
fn what_does_not_fit_is_cut_off_and_said() {
    let (mut guest, fd, client) = served();
    let (buffer, size, flags, from) = (guest.room(8), guest.room(4), guest.room(4), guest.slot(4));
    let vector = guest.vector(&[(buffer, 3), (buffer + 4, 2)]);
    for peek in [1, 0] {
        if peek == 1 {
            client.send(b"datagram").expect("the port is published");
        }
        guest.must("sock_recv_from", &[fd, vector, 2, from.at, peek, size, size, flags]);
        assert_eq!((guest.word(size), guest.number(flags, 2)), (5, TRUNCATED));
        assert_eq!([guest.peek(buffer, 3), guest.peek(buffer + 4, 2)].concat(), b"datag");
    }
    client.send(b"next").expect("the port is published");
    guest.must("sock_recv", &[fd, vector, 2, 0, size, flags]);
    assert_eq!((guest.word(size), guest.number(flags, 2)), (4, 0));
    // Of a datagram of nothing, its sender is told.
    client.send(b"").expect("the port is published");
    guest.must("sock_recv_from", &[fd, vector, 2, from.at, 0, size, size, flags]);
    assert_eq!((guest.word(size), guest.number(flags, 2)), (0, 0));
}

#[test]
fn a_socket_with_a_peer_sends_and_receives_like_a_stream() {
    let server = client();
    let rule = server.local_addr().expect("it is bound").to_string();
    let mut guest = Stage::new().allow(&rule).start();
    let (fd, to) = (guest.udp(), guest.address_of("127.0.0.1"));
    assert_eq!(guest.send(fd, b"x"), Err(17), "no destination");
    guest.must("sock_connect", &[fd, to, port_of(&server)]);
    assert_eq!(guest.send(fd, b"ping"), Ok(4));
    let mut bytes = [0; 8];
    let (length, from) = server.recv_from(&mut bytes).expect("the guest has sent it");
    assert_eq!(&bytes[..length], b"ping");
    server.send_to(b"pong", from).expect("the guest is there");
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b"pong"[..]));
    server.send_to(b"again", from).expect("the guest is there");
    assert_eq!(guest.read(fd, 8).as_deref(), Ok(&b"again"[..]));
    assert_eq!(guest.write(fd, b"file"), Ok(4));
    let (kind, port, slot) = (guest.room(4), guest.room(4), guest.slot(4));
    guest.must("sock_getpeeraddr", &[fd, slot.at, kind, port]);
    assert_eq!(guest.word(port), port_of(&server));
    guest.must("sock_getlocaladdr", &[fd, slot.at, kind, port]);
    assert_eq!(guest.word(port), u64::from(from.port()));
}

#[test]
fn datagrams_are_waited_for() {
    let (mut guest, fd, client) = served();
    let polling = guest.begin_poll("poll_oneoff", &[Wait::Read(fd)]);
    assert!(matches!(guest.finish_within(Duration::from_millis(20)), Ok(None)));
    client.send(b"one").expect("the port is published");
    assert_eq!(indices(&guest.finish_poll(&polling).expect("it ends")), [0]);
    assert_eq!(guest.recv(fd, 8).as_deref(), Ok(&b"one"[..]));
    guest.set_flags(fd, NONBLOCK);
    assert_eq!(guest.recv(fd, 8), Err(errno::AGAIN));
    assert_eq!(indices(&guest.poll(&[Wait::Read(fd), Wait::Write(fd)])), [1]);
    guest.set_flags(fd, 0);
    let (buffer, size) = (guest.room(8), guest.room(4));
    let vector = guest.vector(&[(buffer, 8)]);
    guest.begin("sock_recv", &[fd, vector, 1, 0, size, size]);
    client.send(b"two").expect("the port is published");
    assert_eq!(guest.finish(), errno::SUCCESS);
    assert_eq!(guest.peek(buffer, 3), b"two");
}

#[test]
fn a_datagram_has_a_largest_size() {
    let (mut guest, fd, client) = served();
    client.send(b"hello").expect("the port is published");
    guest.recv(fd, 8).expect("it has come");
    let (to, port) = (guest.address_of("127.0.0.1"), port_of(&client));
    let (vector, size) = (guest.vector(&[(0, 65_508)]), guest.room(4));
    let longest = guest.vector(&[(0, 65_507)]);
    assert_eq!(guest.told(size, "sock_send_to", &[fd, longest, 1, to, port, 0, size]), Ok(65_507));
    assert_eq!(received(&client).len(), 65_507);
    assert_eq!(guest.call("sock_send_to", &[fd, vector, 1, to, port, 0, size]), errno::MESSAGE_SIZE);
    for flags in [1, 2, u64::from(u32::MAX)] {
        assert_eq!(guest.call("sock_send_to", &[fd, longest, 1, to, port, flags, size]), errno::INVALID);
    }
}

#[test]
fn a_stream_tells_its_peer_as_the_sender() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let mut client = crate::wat_support::connect(guest.address(0));
    let fd = guest.accept(listener);
    std::io::Write::write_all(&mut client, b"hello").expect("it is open");
    let (buffer, port, size, from) = (guest.room(8), guest.room(4), guest.room(4), guest.slot(4));
    let vector = guest.vector(&[(buffer, 8)]);
    guest.must("sock_recv_from", &[fd, vector, 1, from.at, 0, port, size, size]);
    let peer = client.local_addr().expect("it is connected");
    assert_eq!(guest.word(port), u64::from(peer.port()));
    assert_eq!(SocketAddr::from(([127, 0, 0, 1], peer.port())), peer);
    assert_eq!(guest.peek(from.buffer, 4), [127, 0, 0, 1]);
}
