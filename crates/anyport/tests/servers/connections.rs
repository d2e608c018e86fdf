//! Who is given a connection, and how many each guest may have.

use std::time::Duration;

use anyport::server::Restart;

use crate::servers::started::{Setup, ends, until};
use crate::support::{Count, Guest, Tested};

/// While all are as many, in the order of the workers.
#[tokio::test]
async fn they_go_to_the_worker_with_the_fewest() -> Tested {
    for guest in [Guest::Preview1, Guest::Wasmedge, Guest::Wasix, Guest::Sockets02, Guest::Sockets03] {
        let server = Setup::of(guest).workers(3).start().await?;
        let mut clients = server.served(9).await?;
        for (turn, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.count().await?, Count { open: 3, accepted: 3 }, "{turn}");
        }
        // Those of the worker that had the first.
        drop((clients.remove(3), clients.remove(0)));
        until(1, async || Ok(clients[4].count().await?.open)).await?;
        for (open, accepted) in [(2, 4), (3, 5)] {
            let mut client = server.connect().await?;
            assert_eq!(client.count().await?, Count { open, accepted });
            clients.push(client);
        }
        // All have three again.
        for _ in 0..3 {
            let mut client = server.connect().await?;
            assert_eq!(client.count().await?.open, 4);
            clients.push(client);
        }
        server.stop().await?;
    }
    Ok(())
}

/// The front does not wait for a guest to accept before it gives it the next.
#[tokio::test]
async fn many_at_once_are_as_many_for_each() -> Tested {
    let server = Setup::of(Guest::Preview1).workers(3).start().await?;
    for round in 1..=5 {
        let mut clients = server.connect_all(60).await?;
        for client in &mut clients {
            assert_eq!(client.ask("echo in").await?, "in");
        }
        for client in &mut clients {
            assert_eq!(client.count().await?, Count { open: 20, accepted: 20 * round });
        }
        // Nothing is left of them: the next are shared as evenly.
        let mut last = clients.split_off(57);
        drop(clients);
        for client in &mut last {
            until(1, async || Ok(client.count().await?.open)).await?;
        }
        for client in &mut last {
            client.finish().await?;
            client.end().await?;
        }
    }
    server.stop().await
}

/// A guest that is busy is given its share, and others theirs at once.
#[tokio::test]
async fn a_guest_that_computes_delays_no_other() -> Tested {
    let server = Setup::of(Guest::Wasmedge).workers(2).start().await?;
    let mut clients = server.served(2).await?;
    clients[0].send("spin\n").await?;
    for _ in 0..200 {
        assert_eq!(clients[1].ask("echo in").await?, "in");
    }
    let mut late = server.connect_all(8).await?;
    for client in late.iter_mut().skip(1).step_by(2) {
        assert_eq!(client.ask("echo in").await?, "in");
    }
    assert_eq!(clients[1].count().await?, Count { open: 5, accepted: 5 });
    server.stop().await
}

/// One below the limit, at it, and above; the one above is served by whoever has room first.
#[tokio::test]
async fn each_guest_has_its_most() -> Tested {
    for guest in [Guest::Preview1, Guest::Wasmedge, Guest::Wasix, Guest::Sockets02, Guest::Sockets03] {
        for workers in [1, 2] {
            let server = Setup::of(guest).workers(workers).limits(|limits| limits.connections = 2).start().await?;
            let mut served = server.served(2 * workers).await?;
            let mut waiting = server.connect_all(3).await?;
            for client in &mut waiting {
                client.send("count\n").await?;
            }
            for client in &mut served {
                assert_eq!(client.count().await?, Count { open: 2, accepted: 2 });
                assert_eq!(client.errors().await?.count, 0);
            }
            let early = tokio::time::timeout(Duration::from_millis(100), waiting[0].line()).await;
            assert!(early.is_err(), "{early:?}");
            // Of the last worker.
            drop(served.pop());
            assert_eq!(waiting.remove(0).line().await?, "open 2 accepted 3");
            assert_eq!(waiting.remove(0).line().await?, "open 2 accepted 4");
            server.stop().await?;
        }
    }
    Ok(())
}

/// One at a time, and nobody waits longer than for its turn.
#[tokio::test]
async fn guests_that_serve_one_at_a_time() -> Tested {
    for guest in [Guest::Preview1Blocking, Guest::WasmedgeBlocking] {
        let server = Setup::of(guest).workers(2).limits(|limits| limits.connections = 1).start().await?;
        let mut clients = server.connect_all(40).await?;
        for client in &mut clients {
            client.send("echo in\n").await?;
            client.finish().await?;
        }
        for client in &mut clients {
            assert_eq!(client.line().await?, "in");
            client.end().await?;
        }
        server.stop().await?;
    }
    Ok(())
}

/// Guests that serve one at a time leave every other one waiting.
#[tokio::test]
async fn those_that_wait_for_a_guest_that_ends_go_to_others() -> Tested {
    for guest in [Guest::Preview1Blocking, Guest::WasmedgeBlocking] {
        for end in ["trap", "exit 0"] {
            let server = Setup::of(guest).workers(2).restart(Restart::No).start().await?;
            let mut clients = server.served(2).await?;
            // Every second one is for the guest that ends.
            let mut late = server.connect_all(8).await?;
            for client in &mut late {
                client.send("echo late\n").await?;
                client.finish().await?;
            }
            clients[0].send(format!("{end}\n")).await?;
            ends(&mut clients[0]).await?;
            clients[1].finish().await?;
            clients[1].end().await?;
            for client in &mut late {
                assert_eq!(client.line().await?, "late");
                client.end().await?;
            }
            assert_eq!(server.connect().await?.count().await?, Count { open: 1, accepted: 10 });
        }
    }
    Ok(())
}
