//! The listeners of a server: closed by its guest, inherited, and out of descriptors.

use std::io::{Read, Write};
use std::net::TcpListener;

use anyport::server::Listener;
use tokio::net::{TcpSocket, TcpStream};

use crate::servers::started::{Setup, ends, until_refused};
use crate::support::{Client, Guest, Tested, in_own_process, leave_descriptors, within};
use crate::wat_support::{Stage, connect};

/// Clients are refused, as by any server, and come back when it listens again.
#[tokio::test]
async fn a_guest_may_close_its_listener_and_listen_again() -> Tested {
    let mut guest = Stage::new().publish("0:80").start();
    let port = guest.running().ports()[0].clone();
    until_refused(&port).await?;
    for _ in 0..3 {
        let listener = guest.listen(80);
        let mut client = connect(guest.address(0));
        let fd = guest.accept(listener);
        guest.close(listener);
        until_refused(&port).await?;
        // What it has accepted goes on.
        client.write_all(b"still").expect("it is open");
        assert_eq!(guest.recv(fd, 5).as_deref(), Ok(&b"still"[..]));
        guest.send(fd, b"here").expect("it is open");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).expect("the guest has sent it");
        guest.close(fd);
    }
    Ok(())
}

/// The next guest listens where the one before had closed its listener.
#[tokio::test]
async fn the_address_stays_the_same() -> Tested {
    let server = Setup::of(Guest::Wasmedge).workers(2).start().await?;
    let before = server.port().clone();
    for _ in 0..2 {
        for client in &mut server.served(2).await? {
            client.send("trap\n").await?;
            ends(client).await?;
        }
        server.served(4).await?;
    }
    assert_eq!(*server.port(), before);
    server.stop().await
}

/// Whether the guest is handed it or binds it by itself; another server may have it afterwards.
#[tokio::test]
async fn an_inherited_socket_serves_one_server_after_the_other() -> Tested {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    for guest in
        [Guest::Wasmedge, Guest::Preview1, Guest::WasmedgeBlocking, Guest::Wasix, Guest::Sockets02, Guest::Sockets03]
    {
        for workers in [1, 2] {
            let inherited = socket.try_clone().expect("a test may open descriptors").into();
            let listener = Listener::Inherited { socket: inherited, name: "http".to_owned() };
            let port = address.port().to_string();
            let setup = Setup::of(guest).publish(None).workers(workers);
            let server = setup.with(|server| server.listener(listener).env("PORT", port)).start().await?;
            assert_eq!(server.port().address(), Some(address));
            let mut client = server.served(1).await?.remove(0);
            client.send("trap\n").await?;
            ends(&mut client).await?;
            let mut late = server.connect().await?;
            assert_eq!(late.ask("echo late").await?, "late");
            drop(late);
            server.running.stop();
            server.outcome().await?;
            // It listens still.
            TcpStream::connect(address).await.expect("nobody has shut it down");
            let (stray, _) = socket.accept().expect("it is there");
            drop(stray);
        }
    }
    Ok(())
}

/// Clients wait while this process can open no more; no guest hears of it. With one guest it is
/// `behaviour/exhaustion.rs` that looks at this.
#[test]
fn the_front_goes_on_after_a_shortage_of_descriptors() {
    in_own_process("servers::listeners::the_front_goes_on_after_a_shortage_of_descriptors", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there are enough");
        runtime.block_on(shortage()).expect("they are served");
    });
}

async fn shortage() -> Tested {
    let server = Setup::of(Guest::Preview1).workers(2).start().await?;
    let address = server.port().address().expect("it is an IP port");
    let sockets: Vec<_> = (0..6).map(|_| TcpSocket::new_v4().expect("there are descriptors left")).collect();
    // One for each guest: who has answered has begun, which takes descriptors for a moment.
    let mut clients = vec![server.connect().await?, server.connect().await?];
    for client in &mut clients {
        assert_eq!(client.ask("echo first").await?, "first");
    }
    leave_descriptors(2);
    for socket in sockets {
        let stream = within("connecting", socket.connect(address)).await?;
        clients.push(Client::from(stream));
    }
    let mut waiting = clients.split_off(4);
    for client in &mut clients {
        assert_eq!(client.ask("echo in").await?, "in");
    }
    for client in &mut waiting {
        client.send("echo late\n").await?;
    }
    for client in &mut clients {
        assert_eq!(client.count().await?.accepted, 2);
        assert_eq!(client.errors().await?.count, 0);
    }
    drop(clients);
    for client in &mut waiting {
        assert_eq!(client.line().await?, "late");
        assert_eq!(client.errors().await?.count, 0);
    }
    server.stop().await
}
