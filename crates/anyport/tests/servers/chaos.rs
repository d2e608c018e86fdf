//! Guests that trap, clients that leave and networks that fail, all at once: no client is left waiting,
//! no guest ends for it, and nothing is forgotten.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::servers::started::{LONG, Setup, Started, ends, until};
use crate::support::{Client, Failure, Guest, Network, Tested, assert_same, pattern, sunk, within};

/// Resets and refusals at random end connections, and no guest: each conversation comes to its end or to
/// that of its connection.
#[tokio::test]
async fn storms_end_no_guest_and_lose_nothing() -> Tested {
    let guests = [
        Guest::Preview1,
        Guest::Wasmedge,
        Guest::Preview1Blocking,
        Guest::WasmedgeBlocking,
        Guest::Sockets02,
        Guest::Sockets03,
    ];
    for (seed, guest) in (1..).zip(guests) {
        let server = Setup::of(guest).on(&Network::stormy(seed)).workers(2).start().await?;
        let (mut whole, mut cut) = (0, 0);
        while whole < 30 || cut < 30 {
            let (first, second, third, fourth) =
                tokio::join!(converse(&server), converse(&server), converse(&server), converse(&server));
            for played in [first, second, third, fourth] {
                match played {
                    Ok(()) => whole += 1,
                    Err(failure) if failure.is_stuck() => return Err(failure),
                    Err(_) => cut += 1,
                }
            }
            assert!(whole + cut < 10_000, "seed {seed}: {whole} came to their end, {cut} did not");
        }
        nothing_is_left(&server).await?;
        server.stop().await?;
    }
    Ok(())
}

async fn converse(server: &Started) -> Tested {
    let mut client = server.connect().await?;
    let body = pattern(500);
    assert_eq!(client.ask("echo in").await?, "in");
    assert_eq!(client.sink(&body).await?, sunk(&body));
    client.send(format!("source {}\n", body.len())).await?;
    assert_same(&client.take(body.len()).await?, &body);
    client.finish().await?;
    client.end().await
}

/// The next two connections are one for each of two workers: nothing counts that is no more.
async fn nothing_is_left(server: &Started) -> Tested {
    until([1, 1], async || {
        let both = async {
            let (mut first, mut second) = (server.connect().await?, server.connect().await?);
            Ok([first.count().await?.open, second.count().await?.open])
        };
        // Both may be of one worker, while the other has a connection that has just ended; and it may serve one at a
        // time, so that the second waits for the first.
        match tokio::time::timeout(Duration::from_secs(1), both).await {
            Err(_) => Ok([0, 0]),
            Ok(Err(failure)) if !Failure::is_stuck(&failure) => Ok([0, 0]),
            Ok(outcome) => outcome,
        }
    })
    .await
}

/// A client that asks on one connection after the other until it is refused, and has the guest trap now and
/// then: each answer is the right one, or its connection has ended.
async fn ask_until_refused(address: SocketAddr, start: usize) -> Tested<usize> {
    let mut answered = 0;
    for turn in start.. {
        let stream = match within("connecting", TcpStream::connect(address)).await {
            Err(failure) if failure.is_stuck() => return Err(failure),
            Err(_) => break,
            Ok(stream) => stream,
        };
        let mut client = Client::from(stream);
        if turn % 50 == 0 {
            // It may be gone by now.
            let _ = client.send("trap\n").await;
            ends(&mut client).await?;
            continue;
        }
        for _ in 0..turn % 4 {
            match client.ask("echo in").await {
                Ok(answer) if answer == "in" => answered += 1,
                Err(failure) if failure.is_stuck() => return Err(failure),
                // Its guest has trapped, or the server has ended.
                Ok(answer) => {
                    assert_eq!(answer, "");
                    break;
                }
                Err(_) => break,
            }
        }
    }
    Ok(answered)
}

/// Guests trap again and again while clients come and go, and the server drains in the midst of it.
#[tokio::test]
async fn a_drain_in_the_midst_of_it_comes_to_its_end() -> Tested {
    for round in 0..8 {
        let guest = if round % 2 == 0 { Guest::Preview1 } else { Guest::Wasmedge };
        let server = Setup::of(guest).workers(1 + round % 4).start().await?;
        let address = server.port().address().expect("it is an IP port");
        let ask = async |start| ask_until_refused(address, start).await;
        let drain = async {
            tokio::time::sleep(Duration::from_millis(50 * (1 + round as u64))).await;
            within("draining", async { Ok(server.running.drain(LONG).await) }).await
        };
        let (drained, ..) = tokio::try_join!(drain, ask(1), ask(11), ask(21), ask(31), ask(41), ask(2), ask(12))?;
        assert!(drained, "round {round}: somebody was cut off");
        server.outcome().await?;
    }
    Ok(())
}
