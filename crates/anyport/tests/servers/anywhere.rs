//! Guests that listen on what nobody has published: `Listen::Anywhere`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyport::server::Listener;
use anyport::{Limits, Outcome, Publish};
use tokio::net::TcpStream;

use crate::servers::started::{LONG, Setup, ends, until, until_refused};
use crate::support::{Client, Guest, Network, Tested, within};
use crate::wat_support::{DEADLINE, INET6, NONBLOCK, Puppet, STREAM, Stage, connect, errno, nodelay_of};

/// A port that is free on every address, and that no client is given meanwhile.
fn free_port() -> u16 {
    let mut dice = fastrand::Rng::new();
    // Below those that Linux gives out by itself.
    std::iter::repeat_with(|| dice.u16(10_000..32_000))
        .find(|port| {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok() && UdpSocket::bind(("0.0.0.0", *port)).is_ok()
        })
        .expect("it does not end")
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

async fn connected(port: u16) -> Tested<Client> {
    Ok(Client::from(within("connecting", TcpStream::connect(loopback(port))).await?))
}

/// A guest, and what was told of its ports.
fn guest() -> (Puppet, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let tell = move |publish: &Publish| telling.lock().expect("no panic").push(publish.to_string());
    (Stage::new().listens_anywhere().on_listen(tell).start(), told)
}

fn bind(guest: &mut Puppet, fd: u64, ip: &str, port: u16) -> u64 {
    let to = guest.address_of(ip);
    guest.call("sock_bind", &[fd, to, port.into()])
}

fn answers(guest: &mut Puppet, listener: u64, to: SocketAddr) {
    let mut client = connect(to);
    let fd = guest.accept(listener);
    assert_eq!(nodelay_of(client.local_addr().expect("it is bound")), Some(true));
    client.write_all(b"ask").expect("it is open");
    assert_eq!(guest.recv(fd, 3).as_deref(), Ok(&b"ask"[..]));
    guest.send(fd, b"answer").expect("it is open");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).expect("the guest has sent it");
    guest.close(fd);
}

#[tokio::test]
async fn a_port_is_bound_where_the_guest_says_and_told_of() -> Tested {
    let (mut guest, told) = guest();
    let port = free_port();
    for turn in 1..=2 {
        let fd = guest.tcp();
        assert_eq!(bind(&mut guest, fd, "127.0.0.1", port), errno::SUCCESS);
        // Bound, and refused until it listens.
        TcpStream::connect(loopback(port)).await.expect_err("it does not listen yet");
        assert_eq!(told.lock().expect("no panic").len(), turn - 1);
        guest.must("sock_listen", &[fd, 64]);
        // What is told is where it is.
        assert_eq!(told.lock().expect("no panic").last(), Some(&format!("127.0.0.1:{port}:{port}/tcp")));
        answers(&mut guest, fd, loopback(port));
        // Not on the other addresses.
        TcpStream::connect(("127.0.0.2", port)).await.expect_err("another address");
        let twin = guest.tcp();
        assert_eq!(bind(&mut guest, twin, "127.0.0.1", port), errno::ADDRESS_IN_USE);
        guest.close(twin);
        // Free again, for whoever.
        guest.close(fd);
        until_refused(&Publish::loopback(port)).await?;
        drop(TcpListener::bind(loopback(port)).expect("it is closed"));
    }
    Ok(())
}

#[test]
fn what_the_machine_refuses_is_an_error_of_the_guest() {
    let (mut guest, _) = guest();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let fd = guest.tcp();
    assert_eq!(bind(&mut guest, fd, "127.0.0.1", port), errno::ADDRESS_IN_USE);
    // An address for documents (RFC 5737), which no machine has.
    assert_eq!(bind(&mut guest, fd, "192.0.2.1", port), errno::ADDRESS_NOT_AVAILABLE);
    // It may try another.
    let free = free_port();
    assert_eq!(bind(&mut guest, fd, "127.0.0.1", free), errno::SUCCESS);
    guest.must("sock_listen", &[fd, 64]);
    answers(&mut guest, fd, loopback(free));
}

#[test]
fn addresses_of_one_number_are_ports_of_their_own() {
    let (mut guest, _) = guest();
    let port = free_port();
    let [first, second, every] = [(); 3].map(|()| guest.tcp());
    for (fd, ip) in [(first, "127.0.0.1"), (second, "127.0.0.2"), (every, "0.0.0.0")] {
        assert_eq!(bind(&mut guest, fd, ip, port), errno::SUCCESS, "{ip}");
    }
    for (fd, ip) in [(first, [127, 0, 0, 1]), (second, [127, 0, 0, 2])] {
        guest.must("sock_listen", &[fd, 64]);
        answers(&mut guest, fd, (ip, port).into());
    }
    guest.close(first);
    guest.close(second);
    guest.must("sock_listen", &[every, 64]);
    answers(&mut guest, every, ([127, 0, 0, 3], port).into());
}

#[test]
fn every_address_is_of_both_ip_versions() {
    let (mut guest, _) = guest();
    let port = free_port();
    let Ok(fd) = guest.open(INET6, STREAM) else { return };
    assert_eq!(bind(&mut guest, fd, "::", port), errno::SUCCESS);
    guest.must("sock_listen", &[fd, 64]);
    answers(&mut guest, fd, loopback(port));
}

#[test]
fn a_listener_may_be_of_both_ip_versions() {
    let Listener::Bind(address) = Listener::on_every_address(0) else { panic!("it is an address") };
    assert!(address.ip().is_unspecified());
    let server = Guest::Preview1.server().listener(Listener::Bind(address));
    let running = server.start().unwrap_or_else(|error| panic!("{error}"));
    let port = running.ports()[0].address().expect("an IP port").port();
    drop(connect(loopback(port)));
    if address.is_ipv6() {
        drop(connect(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))));
    }
}

/// A free port that the guest asks for is public once it listens, and a client's before.
#[test]
fn a_free_port_is_told_when_the_guest_listens() {
    let (mut guest, told) = guest();
    let fd = guest.tcp();
    assert_eq!(bind(&mut guest, fd, "127.0.0.1", 0), errno::SUCCESS);
    assert!(told.lock().expect("no panic").is_empty());
    guest.must("sock_listen", &[fd, 64]);
    let publish = told.lock().expect("no panic").pop().expect("it is told");
    let publish: Publish = publish.parse().expect("as it is written");
    let address = publish.address().expect("it is a port");
    assert_eq!((address.ip(), publish.guest_port), (Ipv4Addr::LOCALHOST.into(), Some(address.port())));
    answers(&mut guest, fd, address);
}

#[test]
fn connections_are_counted_as_those_of_published_ports_are() {
    let mut guest = Stage::new().listens_anywhere().limit("connections", 1).start();
    let port = free_port();
    let listener = guest.listen(port.into());
    let (_first, _second) = (connect(loopback(port)), connect(loopback(port)));
    let fd = guest.accept(listener);
    guest.set_flags(listener, NONBLOCK);
    let out = guest.room(4);
    assert_eq!(guest.call("sock_accept", &[listener, out]), errno::AGAIN);
    guest.close(fd);
    guest.told(out, "sock_accept", &[listener, out]).expect("there is room again");
}

#[test]
fn datagrams_are_answered() {
    let (mut guest, told) = guest();
    let port = free_port();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    for turn in 1..=2 {
        let fd = guest.udp();
        assert_eq!(bind(&mut guest, fd, "127.0.0.1", port), errno::SUCCESS);
        assert_eq!(told.lock().expect("no panic")[turn - 1..], [format!("127.0.0.1:{port}:{port}/udp")]);
        let twin = guest.udp();
        assert_eq!(bind(&mut guest, twin, "127.0.0.1", port), errno::ADDRESS_IN_USE);
        guest.close(twin);
        client.send_to(b"ask", loopback(port)).expect("it is bound");
        let block = guest.room(64);
        let (buffer, from, size) = (guest.room(16), guest.slot(128), guest.room(16));
        let vector = guest.vector(&[(buffer, 16)]);
        guest.must("sock_recv_from", &[fd, vector, 1, from.at, 0, size + 4, size, size + 8]);
        assert_eq!((guest.word(size), guest.peek(buffer, 3)), (3, b"ask".to_vec()));
        guest.give_back(block);
        guest.close(fd);
        drop(UdpSocket::bind(loopback(port)).expect("it is closed"));
    }
}

/// Nobody is refused while the guest is started again, and each worker has its share.
#[tokio::test]
async fn a_port_outlives_its_guest() -> Tested {
    for guest in [Guest::Wasmedge, Guest::WasmedgeBlocking, Guest::Wasix, Guest::Sockets02, Guest::Sockets03] {
        for workers in [1, 2] {
            let port = free_port();
            let mut server = Setup::of(guest).anywhere(port).workers(workers).start().await?;
            for _ in 0..2 {
                let mut clients = Vec::new();
                for _ in 0..workers {
                    let mut client = connected(port).await?;
                    assert_eq!(client.ask("echo in").await?, "in");
                    clients.push(client);
                }
                for client in &mut clients {
                    // One for each.
                    assert_eq!(client.count().await?.open, 1);
                    client.send("trap\n").await?;
                    ends(client).await?;
                }
                let mut late = connected(port).await?;
                assert_eq!(late.ask("echo late").await?, "late");
                drop(late);
                let connections = || server.running.status().workers.iter().map(|worker| worker.connections).sum();
                until(0_usize, async || Ok(connections())).await?;
                for _ in 0..workers {
                    server.guest_listens().await?;
                }
            }
            server.stop().await?;
            until_refused(&Publish::loopback(port)).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_waits_for_what_is_owed() -> Tested {
    for workers in [1, 2] {
        let port = free_port();
        let server = Setup::of(Guest::Wasmedge).anywhere(port).workers(workers).start().await?;
        let mut client = connected(port).await?;
        client.send("source 16777216\n").await?;
        client.take(1000).await?;
        let mut idle = connected(port).await?;
        let drain = within("draining", async { Ok(server.running.drain(LONG).await) });
        let (drained, done) = tokio::join!(drain, async {
            until_refused(&Publish::loopback(port)).await?;
            client.take(16_777_216 - 1000).await?;
            idle.end().await?;
            client.end().await
        });
        done?;
        assert!(drained?);
        assert_eq!(server.outcome().await?, Outcome::Stopped);
    }
    Ok(())
}

/// A guest that opens its port while the server drains is not told that it cannot.
#[tokio::test]
async fn a_port_may_be_opened_while_the_server_drains() -> Tested {
    let mut guest = Stage::new().listens_anywhere().publish("0:80").start();
    let listener = guest.listen(80);
    let client = connect(guest.address(0));
    let fd = guest.accept(listener);
    // It owes an answer.
    (&client).write_all(b"ask").expect("it is open");
    guest.recv(fd, 3).expect("it has come");
    let running = guest.take_running();
    let port = free_port();
    let (drained, ()) = tokio::join!(running.drain(LONG), async {
        until_refused(&running.ports()[0]).await.expect("it drains");
        guest.listen(port.into());
        TcpStream::connect(loopback(port)).await.expect_err("no new connection is taken");
        guest.send(fd, b"answer").expect("it is open");
        drop(client);
        guest.close(fd);
    });
    assert!(drained);
    Ok(())
}

/// What the front has not known at its start, it finds.
#[tokio::test]
async fn several_guests_are_fed_on_a_simulated_network() -> Tested {
    let server = Setup::of(Guest::Wasmedge).on(&Network::simulated()).anywhere(8080).workers(3).start().await?;
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut client = server.connect_to(([127, 0, 0, 1], 8080).into()).await?;
        assert_eq!(client.ask("echo in").await?, "in");
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.count().await?.open, 3);
    }
    server.stop().await
}

#[tokio::test]
async fn time_limits_are_those_of_published_ports() -> Tested {
    let port = free_port();
    let limits = |limits: &mut Limits| limits.idle_timeout = Duration::from_millis(200);
    let server = Setup::of(Guest::Wasmedge).limits(limits).anywhere(port).start().await?;
    connected(port).await?.end().await?;
    server.stop().await
}

/// A port that is published keeps its address, and the program that embeds the guest reaches both.
#[tokio::test]
async fn published_ports_stay_what_they_are() -> Tested {
    let mut guest = Stage::new().listens_anywhere().publish("0:80").start();
    let port = free_port();
    let (published, open) = (guest.listen(80), guest.listen(port.into()));
    let address = guest.address(0);
    answers(&mut guest, published, address);
    answers(&mut guest, open, loopback(port));
    for (number, listener) in [(80, published), (port, open)] {
        let mut client = guest.running().connect(number).unwrap_or_else(|error| panic!("{error}"));
        client.write_all(b"x").expect("it waits");
        let fd = guest.accept(listener);
        assert_eq!(guest.recv(fd, 1).as_deref(), Ok(&b"x"[..]));
    }
    Ok(())
}
