//! The time limits: of an answer, of a silence, of computing.

use std::time::{Duration, Instant};

use anyport::Outcome;
use anyport::server::Restart;

use crate::servers::started::{Setup, ends, not_before};
use crate::support::{Client, Guest, Tested};

/// Long enough for a machine with much else to do, between a question and its answer.
const LIMIT: Duration = Duration::from_secs(2);

const GUESTS: [Guest; 6] = [
    Guest::Preview1,
    Guest::Preview1Blocking,
    Guest::Wasmedge,
    Guest::WasmedgeBlocking,
    Guest::Sockets02,
    Guest::Sockets03,
];

/// A question to which the guest has no answer: it waits for the rest of it.
async fn ask_in_vain(client: &mut Client) -> Tested {
    client.send("sink 10\nabc").await
}

/// It ends, and not before the limit.
async fn is_cut(mut client: Client) -> Tested {
    not_before(LIMIT, async {
        ask_in_vain(&mut client).await?;
        client.end().await
    })
    .await
}

#[tokio::test]
async fn a_client_without_an_answer_is_let_go() -> Tested {
    let let_go = async |guest| {
        let server = Setup::of(guest).limits(|limits| limits.timeout = LIMIT).start().await?;
        is_cut(server.connect().await?).await?;
        // The guest has closed it, and serves.
        server.served(1).await?;
        server.stop().await
    };
    let [first, second, third, fourth, fifth, sixth] = GUESTS;
    let all = tokio::join!(let_go(first), let_go(second), let_go(third), let_go(fourth), let_go(fifth), let_go(sixth));
    <[Tested; 6]>::from(all).into_iter().collect()
}

/// Answers that come in time keep a connection for longer than the limit, and one that owes nothing has
/// another limit.
#[tokio::test]
async fn a_client_that_is_answered_stays() -> Tested {
    for workers in [1, 2] {
        let server =
            Setup::of(Guest::Preview1).workers(workers).limits(|limits| limits.timeout = LIMIT / 2).start().await?;
        let mut silent = server.connect().await?;
        let mut idle = server.served(1).await?.remove(0);
        let mut busy = server.served(1).await?.remove(0);
        let mut vain = server.connect().await?;
        ask_in_vain(&mut vain).await?;
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            assert_eq!(busy.ask("echo in time").await?, "in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        vain.end().await?;
        for client in [&mut silent, &mut idle, &mut busy] {
            assert_eq!(client.ask("echo still here").await?, "still here");
        }
        server.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_connection_is_ended() -> Tested {
    let server = Setup::of(Guest::Wasmedge).limits(|limits| limits.idle_timeout = LIMIT).start().await?;
    let mut used = server.served(1).await?.remove(0);
    let mut silent = server.connect().await?;
    let mut answered = server.connect().await?;
    not_before(LIMIT, async {
        assert_eq!(answered.ask("echo in").await?, "in");
        let keep = async {
            let began = Instant::now();
            while began.elapsed() < 2 * LIMIT {
                assert_eq!(used.ask("echo in use").await?, "in use");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::try_join!(keep, silent.end(), answered.end()).map(drop)
    })
    .await?;
    assert_eq!(used.count().await?.open, 1);
    server.stop().await
}

/// The bytes of a slow client count, in either direction.
#[tokio::test]
async fn bytes_in_either_direction_end_a_silence() -> Tested {
    let limits = |limits: &mut anyport::Limits| {
        limits.idle_timeout = LIMIT / 2;
        limits.timeout = Duration::MAX;
    };
    let server = Setup::of(Guest::Preview1).limits(limits).start().await?;
    let mut writer = server.connect().await?;
    writer.send("sink 40\n").await?;
    for _ in 0..40 {
        writer.send("x").await?;
        tokio::time::sleep(LIMIT / 40).await;
    }
    assert!(writer.line().await?.starts_with("sunk 40 "));
    server.stop().await
}

#[tokio::test]
async fn without_limits_a_connection_stays() -> Tested {
    let limits = |limits: &mut anyport::Limits| {
        limits.idle_timeout = Duration::MAX;
        limits.timeout = Duration::MAX;
    };
    let server = Setup::of(Guest::Preview1).workers(2).limits(limits).start().await?;
    let mut clients = [server.connect().await?, server.connect().await?];
    ask_in_vain(&mut clients[0]).await?;
    tokio::time::sleep(LIMIT / 2).await;
    clients[0].send("defghij").await?;
    assert!(clients[0].line().await?.starts_with("sunk 10 "));
    assert_eq!(clients[1].ask("echo in").await?, "in");
    server.stop().await
}

/// One that is let go makes room for the next, although its guest may not know of it yet.
#[tokio::test]
async fn one_that_is_let_go_makes_room() -> Tested {
    for workers in [1, 2] {
        let limits = |limits: &mut anyport::Limits| {
            limits.timeout = LIMIT / 4;
            limits.connections = 1;
        };
        let server = Setup::of(Guest::Preview1).workers(workers).limits(limits).start().await?;
        let mut clients = server.connect_all(workers).await?;
        for client in &mut clients {
            ask_in_vain(client).await?;
        }
        let mut late = server.connect_all(workers).await?;
        for client in &mut late {
            assert_eq!(client.ask("echo late").await?, "late");
        }
        server.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn computing_without_end_is_ended() -> Tested {
    for guest in GUESTS {
        let limit = Duration::from_millis(200);
        let setup = Setup::of(guest).limits(|limits| limits.cpu_time = Some(limit)).restart(Restart::No);
        let server = setup.start().await?;
        let mut client = server.served(1).await?.remove(0);
        not_before(limit, async {
            client.send("spin\n").await?;
            ends(&mut client).await
        })
        .await?;
        match server.outcome().await? {
            Outcome::Trapped { reason, .. } => assert!(reason.contains("it computed for 200ms"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

/// The clients of the others are served meanwhile, and its own by the guest that takes its place.
#[tokio::test]
async fn computing_without_end_harms_no_other() -> Tested {
    let setup = Setup::of(Guest::Wasmedge).workers(2);
    let mut server = setup.limits(|limits| limits.cpu_time = Some(Duration::from_millis(300))).start().await?;
    let mut clients = server.served(2).await?;
    let [spinning, other] = &mut clients[..] else { panic!("there are two") };
    spinning.send("spin\n").await?;
    let mut over = std::pin::pin!(ends(spinning));
    let mut turns = 0;
    loop {
        tokio::select! {
            biased;
            ended = &mut over => break ended?,
            answer = other.ask("echo in") => assert_eq!(answer?, "in"),
        }
        turns += 1;
    }
    assert!(turns > 10, "{turns} turns");
    server.guest_listens().await?;
    let mut late = server.served(1).await?.remove(0);
    assert_eq!(late.count().await?.accepted, 1);
    server.stop().await
}
