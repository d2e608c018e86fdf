//! Behaviours of a guest that has no more of something: connections, descriptors, memory, work.

use std::time::Duration;

use anyport::Limits;
use tokio::net::TcpSocket;

use crate::support::{
    Client, Count, Errors, Serving, Tested, assert_same, leave_descriptors, open_descriptors, pattern, processor_time,
    resident_bytes, sunk, within,
};
use crate::{GONE, converse};

/// WASI's number of "too many open files".
const MFILE: u16 = 33;

pub(crate) fn three_connections(limits: &mut Limits) {
    limits.connections = 3;
}

/// One below the limit, at it, and above: that one is served when another has gone.
pub(crate) async fn connections_at_their_limit(server: &Serving) -> Tested {
    let mut served = Vec::new();
    for open in 1..=3 {
        let mut client = server.connect().await?;
        assert_eq!(client.count().await?, Count { open, accepted: u64::from(open) });
        served.push(client);
    }
    let mut waiting = server.connect().await?;
    waiting.send("count\n").await?;
    // Each of these is a turn in which the guest would have accepted.
    for client in &mut served {
        assert_eq!(client.count().await?, Count { open: 3, accepted: 3 });
        assert_eq!(client.errors().await?.count, 0);
    }
    drop(served.pop());
    assert_eq!(waiting.line().await?, "open 3 accepted 4");
    Ok(())
}

/// Also as many descriptors as that takes: stdio, the listener, the connection.
pub(crate) fn one_connection(limits: &mut Limits) {
    limits.connections = 1;
    limits.descriptors = 5;
}

pub(crate) async fn one_connection_at_a_time(server: &Serving) -> Tested {
    for _ in 0..10 {
        converse(&mut server.connect().await?).await?;
    }
    Ok(())
}

/// Stdio and the listener take four; the others are for connections.
pub(crate) fn sixteen_descriptors(limits: &mut Limits) {
    limits.descriptors = 16;
}

/// Those that the guest cannot open are served when others have gone.
pub(crate) async fn descriptors_used_up_by_clients(server: &Serving) -> Tested {
    server.expect_errors(&[MFILE]);
    let mut served = server.connect_all(12).await?;
    for client in &mut served {
        assert_eq!(client.ask("echo in").await?, "in");
    }
    let mut waiting = server.connect_all(4).await?;
    for client in &mut waiting {
        client.send("echo late\n").await?;
    }
    assert_eq!(first_error(&mut served[0]).await?.last, MFILE);
    assert_eq!(served[0].count().await?, Count { open: 12, accepted: 12 });
    drop(served.split_off(8));
    for client in &mut waiting {
        assert_eq!(client.line().await?, "late");
    }
    assert_eq!(served[0].count().await?, Count { open: 12, accepted: 16 });
    Ok(())
}

/// Asks until the guest has met an error.
async fn first_error(client: &mut Client) -> Tested<Errors> {
    within("waiting for the guest to meet an error", async {
        loop {
            let errors = client.errors().await?;
            if errors.count > 0 {
                return Ok(errors);
            }
        }
    })
    .await
}

/// All that are left can be opened, and closed, again and again.
pub(crate) async fn descriptors_used_up_by_the_guest(server: &Serving) -> Tested {
    let answer = if server.guest.opens_sockets() { "fdfill 11 errno 33" } else { "fdfill unsupported" };
    let mut client = server.connect().await?;
    for _ in 0..3 {
        assert_eq!(client.ask("fdfill").await?, answer);
    }
    converse(&mut client).await
}

/// A client comes while the guest holds all descriptors, and is served when it has closed some.
pub(crate) async fn descriptors_held_by_the_guest(server: &Serving) -> Tested {
    server.expect_errors(&[MFILE]);
    let mut holder = server.connect().await?;
    assert_eq!(holder.ask("fdhold").await?, "fdhold 11 errno 33");
    let mut waiting = server.connect().await?;
    waiting.send("echo late\n").await?;
    assert_eq!(first_error(&mut holder).await?.last, MFILE);
    assert_eq!(holder.ask("fdfree").await?, "fdfree 11");
    assert_eq!(waiting.line().await?, "late");
    assert_eq!(holder.count().await?, Count { open: 2, accepted: 2 });
    Ok(())
}

/// Clients wait while the host process can open no more, and are served when others have gone; the guest
/// hears nothing of it.
pub(crate) async fn descriptors_of_the_host_used_up(server: &Serving) -> Tested {
    let new_socket = |_| TcpSocket::new_v4().expect("there are descriptors left");
    let sockets: Vec<TcpSocket> = (0..7).map(new_socket).collect();
    // Whom the guest has answered has shown that it has begun, which takes descriptors for a moment.
    let mut clients = vec![server.connect().await?];
    assert_eq!(clients[0].ask("echo first").await?, "first");
    leave_descriptors(3);
    for socket in sockets {
        let stream = within("connecting", socket.connect(server.address())).await?;
        clients.push(Client::from(stream));
    }
    let mut waiting = clients.split_off(4);
    for client in &mut clients {
        assert_eq!(client.ask("echo in").await?, "in");
    }
    for client in &mut waiting {
        client.send("echo late\n").await?;
    }
    assert_eq!(clients[0].count().await?, Count { open: 4, accepted: 4 });
    drop(clients);
    for client in &mut waiting {
        assert_eq!(client.line().await?, "late");
    }
    Ok(())
}

/// The first thousand connections leave buffers that later ones use again; after that nothing grows.
pub(crate) async fn nothing_is_left_of_connections(server: &Serving) -> Tested {
    const GROWTH: usize = 8 << 20;
    let mut only = server.connect().await?;
    assert_eq!(only.count().await?.open, 1);
    let descriptors = open_descriptors();
    drop(only);
    drop(use_thousand_connections(server).await?);
    let bytes = resident_bytes();
    for _ in 0..5 {
        let last = use_thousand_connections(server).await?;
        until_at_most(descriptors).await;
        drop(last);
    }
    let grown = resident_bytes().saturating_sub(bytes);
    assert!(grown < GROWTH, "it has grown by {grown} bytes");
    Ok(())
}

/// A front lets go of a connection a moment after the guest: of those before this many were counted, too.
async fn until_at_most(descriptors: usize) {
    for _ in 0..1000 {
        if open_descriptors() <= descriptors {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} descriptors are open, of {descriptors}", open_descriptors());
}

/// Gives back the one that is open when all others are closed.
async fn use_thousand_connections(server: &Serving) -> Tested<Client> {
    let body = pattern(2000);
    let mut clients = server.connect_all(1000).await?;
    for client in &mut clients {
        client.send(format!("source {0}\nsink {0}\n", body.len())).await?;
        client.send(&body).await?;
    }
    for client in &mut clients {
        assert_same(&client.take(body.len()).await?, &body);
        assert_eq!(client.line().await?, sunk(&body));
    }
    assert_eq!(clients[0].count().await?.open, 1000);
    drop(clients);
    server.connect_last().await
}

/// What is not read is not made: thirty times a gigabyte is asked for and left there.
pub(crate) async fn slow_readers_take_little_memory(server: &Serving) -> Tested {
    /// The guest holds up to 384 KiB for each, and reaches that by doubling.
    const GROWTH: usize = 40 << 20;
    server.expect_errors(GONE);
    let bytes = resident_bytes();
    let mut slow = server.connect_all(30).await?;
    for client in &mut slow {
        client.send("source 1073741824\n").await?;
    }
    let mut quick = server.connect().await?;
    for _ in 0..4 {
        quick.source(server.network.large()).await?;
    }
    let grown = resident_bytes().saturating_sub(bytes);
    assert!(grown < GROWTH, "it has grown by {grown} bytes");
    Ok(())
}

pub(crate) fn four_connections(limits: &mut Limits) {
    limits.connections = 4;
}

/// Whatever the guest waits for, it sleeps: for a command, for room, for the end, for a connection
/// that it may not have yet.
pub(crate) async fn waiting_takes_no_time(server: &Serving) -> Tested {
    server.expect_errors(GONE);
    let mut silent = server.connect().await?;
    let mut stuck = server.connect().await?;
    stuck.send("source 1073741824\n").await?;
    let mut stuck_and_ended = server.connect().await?;
    stuck_and_ended.send("source 1073741824\n").await?;
    stuck_and_ended.finish().await?;
    let mut closing = server.connect().await?;
    assert_eq!(closing.ask("halfclose").await?, "closing");
    let mut waiting = server.connect().await?;
    waiting.send("echo late\n").await?;
    assert_eq!(silent.count().await?, Count { open: 4, accepted: 4 });
    rest().await?;
    closing.finish().await?;
    assert_eq!(waiting.line().await?, "late");
    rest().await
}

/// Waits until this process does next to nothing. Other processes can make that seem to come early,
/// but never late.
async fn rest() -> Tested {
    const WINDOW: Duration = Duration::from_millis(200);
    within("waiting for the guest to rest", async {
        loop {
            let before = processor_time();
            tokio::time::sleep(WINDOW).await;
            if processor_time() - before < WINDOW / 10 {
                return Ok(());
            }
        }
    })
    .await
}
