//! What a server may do to a runtime, and its clients to both: one body for each behaviour, played
//! with a guest of every dialect on the operating system's network and on simulated ones.
//!
//! Bodies talk to `guests/behaviour/behaviour.c`, whose protocol is at its top, and look at what the
//! guest says of itself. After each body `Serving::finish` checks that the guest has closed what its
//! clients have, has met no error that the body does not expect, and still runs. The blocking guests
//! serve one connection at a time, so bodies that need two at once are for `many` only.
//!
//! A test on a faulty network that fails says how to play its seed again; the guest has a thread of
//! its own, so the faults are the same and their order nearly so.

#[macro_use]
mod support;
#[path = "behaviour/exhaustion.rs"]
mod exhaustion;

use exhaustion::*;
use support::{Client, Count, Serving, Tested, assert_same, pattern, sunk};

behaviours! {
    echo: every on every;
    keep_alive: every on every;
    pipelining: every on every;
    large_bodies: every on every;
    large_bodies_both_ways_at_once: every on every;
    slow_reader: every on every;
    slow_reader_delays_nobody: many on every;
    slow_writer: every on every;
    slow_writer_delays_nobody: many on every;
    close_by_server: every on every;
    half_close_by_client: every on every;
    half_close_by_server: every on every;
    answers_after_half_close: every on every;
    reset: every on resets;
    client_gone_at_every_byte: every on every;
    client_gone_while_the_guest_sends: every on every;
    client_gone_before_it_is_connected: every on every;
    thousand_connections: many on every;
    thousand_clients_in_line: every on every;
    connections_at_their_limit: many on every with three_connections;
    one_connection_at_a_time: in_turn on every with one_connection;
    descriptors_used_up_by_clients: told on every with sixteen_descriptors;
    descriptors_used_up_by_the_guest: every on every with sixteen_descriptors;
    descriptors_held_by_the_guest: openers on every with sixteen_descriptors;
    resets_and_refusals: every on storms;
    descriptors_of_the_host_used_up: many on own_process;
    waiting_takes_no_time: many on own_process_and_front with four_connections;
    nothing_is_left_of_connections: many on own_process_and_front;
    slow_readers_take_little_memory: many on own_process_and_front;
}

/// WASI's numbers of errors.
const CONNRESET: u16 = 15;
const PIPE: u16 = 64;

/// What a client meets that leaves while the guest reads or writes.
const GONE: &[u16] = &[CONNRESET, PIPE];

async fn echo(server: &Serving) -> Tested {
    let mut client = server.connect().await?;
    for text in ["hello", "", "👋 Hello Bob Morane", "  blanks  kept ", &"long ".repeat(12_000)] {
        assert_eq!(client.ask(&format!("echo {text}")).await?, text);
    }
    assert_eq!(client.ask("no such command").await?, "error unknown command");
    assert_eq!(client.count().await?, Count { open: 1, accepted: 1 });
    Ok(())
}

async fn keep_alive(server: &Serving) -> Tested {
    let mut client = server.connect().await?;
    for turn in 0..500 {
        assert_eq!(client.ask(&format!("echo {turn}")).await?, turn.to_string());
    }
    assert_eq!(client.count().await?, Count { open: 1, accepted: 1 });
    Ok(())
}

/// Commands of all kinds and sizes in one go; their answers come in their order.
async fn pipelining(server: &Serving) -> Tested {
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    for turn in 0..300 {
        let body = pattern(turn * 7 % 1000);
        request.extend(format!("echo {turn}\nsink {}\n", body.len()).bytes());
        request.extend(&body);
        request.extend(format!("source {turn}\n").bytes());
        answer.extend(format!("{turn}\n{}\n", sunk(&body)).bytes());
        answer.extend(pattern(turn));
    }
    let mut client = server.connect().await?;
    assert_same(&client.exchange(&request, answer.len()).await?, &answer);
    assert_eq!(client.ask("echo done").await?, "done");
    Ok(())
}

async fn large_bodies(server: &Serving) -> Tested {
    let mut client = server.connect().await?;
    let body = pattern(server.network.large());
    for _ in 0..2 {
        assert_eq!(client.sink(&body).await?, sunk(&body));
        client.source(body.len()).await?;
    }
    Ok(())
}

/// The guest has bytes to send and bytes to receive all the time.
async fn large_bodies_both_ways_at_once(server: &Serving) -> Tested {
    const PARTS: usize = 16;
    let part = pattern(server.network.large() / PARTS);
    let mut request = Vec::new();
    let mut answer = Vec::new();
    for _ in 0..PARTS {
        request.extend(format!("sink {0}\n", part.len()).bytes().chain(part.iter().copied()));
        request.extend(format!("source {}\n", part.len()).bytes());
        answer.extend(sunk(&part).bytes().chain([b'\n']).chain(part.iter().copied()));
    }
    let mut client = server.connect().await?;
    assert_same(&client.exchange(&request, answer.len()).await?, &answer);
    Ok(())
}

/// The guest waits until there is room again, and goes on where it was.
async fn slow_reader(server: &Serving) -> Tested {
    let large = server.network.large();
    let mut client = server.connect().await?;
    client.send(format!("source {large}\necho then\n")).await?;
    let mut received = Vec::with_capacity(large);
    for step in (1..).take_while(|step| step * step < large / 16) {
        received.extend(client.take(step).await?);
        tokio::task::yield_now().await;
    }
    received.extend(client.take(large - received.len()).await?);
    assert_same(&received, &pattern(large));
    assert_eq!(client.line().await?, "then");
    Ok(())
}

async fn slow_reader_delays_nobody(server: &Serving) -> Tested {
    let large = server.network.large();
    let mut slow = server.connect().await?;
    slow.send(format!("source {large}\necho slow\n")).await?;
    let mut quick = server.connect().await?;
    for turn in 0..50 {
        assert_eq!(quick.ask(&format!("echo {turn}")).await?, turn.to_string());
    }
    quick.source(large).await?;
    assert_eq!(quick.count().await?, Count { open: 2, accepted: 2 });
    assert_same(&slow.take(large).await?, &pattern(large));
    assert_eq!(slow.line().await?, "slow");
    Ok(())
}

/// One byte at a time, of commands and of bodies.
async fn slow_writer(server: &Serving) -> Tested {
    let mut client = server.connect().await?;
    for byte in b"echo one by one\nsink 3\nabcsource 4\n" {
        client.send([*byte]).await?;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.line().await?, "one by one");
    assert_eq!(client.line().await?, sunk(b"abc"));
    assert_same(&client.take(4).await?, &pattern(4));
    Ok(())
}

/// The guest has read each byte alone, since it has answered another client since.
async fn slow_writer_delays_nobody(server: &Serving) -> Tested {
    let mut slow = server.connect().await?;
    let mut quick = server.connect().await?;
    for (turn, byte) in b"echo slow\nsink 5\n12345".iter().enumerate() {
        slow.send([*byte]).await?;
        assert_eq!(quick.ask(&format!("echo {turn}")).await?, turn.to_string());
    }
    assert_eq!(slow.line().await?, "slow");
    assert_eq!(slow.line().await?, sunk(b"12345"));
    Ok(())
}

async fn close_by_server(server: &Serving) -> Tested {
    for turn in 1..=20 {
        let mut client = server.connect().await?;
        client.send(format!("source {turn}\necho last\nclose\n")).await?;
        assert_same(&client.take(turn).await?, &pattern(turn));
        assert_eq!(client.line().await?, "last");
        client.end().await?;
        let mut other = server.connect_last().await?;
        assert_eq!(other.count().await?, Count { open: 1, accepted: 2 * turn as u64 });
    }
    Ok(())
}

/// The guest sees the end after all bytes, and can still send.
async fn half_close_by_client(server: &Serving) -> Tested {
    let late = pattern(server.network.large() / 8);
    let mut client = server.connect().await?;
    assert_eq!(client.ask("eof").await?, "waiting");
    client.send(&late).await?;
    client.finish().await?;
    assert_eq!(client.line().await?, "eof seen");
    client.end().await?;
    let mut other = server.connect_last().await?;
    assert_eq!(other.ask("discarded").await?, format!("discarded {}", late.len()));
    Ok(())
}

/// The client sees the end, and can still send; the guest receives it all.
async fn half_close_by_server(server: &Serving) -> Tested {
    let late = pattern(server.network.large() / 8);
    let mut client = server.connect().await?;
    assert_eq!(client.ask("halfclose").await?, "closing");
    client.end().await?;
    client.send(&late).await?;
    client.finish().await?;
    let mut other = server.connect_last().await?;
    assert_eq!(other.ask("discarded").await?, format!("discarded {}", late.len()));
    Ok(())
}

/// A client that ends its stream at once gets all answers; half a command is none.
async fn answers_after_half_close(server: &Serving) -> Tested {
    let large = server.network.large();
    let mut client = server.connect().await?;
    client.send(format!("echo first\nsource {large}\necho last\necho half")).await?;
    client.finish().await?;
    assert_eq!(client.line().await?, "first");
    assert_same(&client.take(large).await?, &pattern(large));
    assert_eq!(client.line().await?, "last");
    client.end().await
}

/// The guest learns of a reset once, wherever it waits: for a command, for a body, for room.
async fn reset(server: &Serving) -> Tested {
    server.expect_errors(GONE);
    let large = server.network.large();
    let conversations = ["", "echo", "sink 100\n12345", &format!("source {large}\n"), "eof\n"];
    for (turn, conversation) in conversations.iter().enumerate() {
        let mut client = server.connect().await?;
        assert_eq!(client.ask("echo in").await?, "in");
        client.send(conversation).await?;
        client.reset();
        let mut other = server.connect_last().await?;
        let errors = other.errors().await?;
        assert_eq!(errors.count, turn as u64 + 1, "after {conversation:?}");
        assert!(GONE.contains(&errors.last), "{errors:?} after {conversation:?}");
    }
    Ok(())
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Exit {
    Close,
    Reset,
    /// Ends its stream, takes what comes, and closes.
    HalfClose,
}

/// What a client says, and what it hears in answer to each part.
fn conversation() -> Vec<(&'static [u8], Vec<u8>)> {
    vec![
        (b"echo hello\n", b"hello\n".to_vec()),
        (b"sink 9\n123456789", format!("{}\n", sunk(b"123456789")).into_bytes()),
        (b"source 40\n", pattern(40)),
        (b"what\n", b"error unknown command\n".to_vec()),
        (b"eof\n", b"waiting\neof seen\n".to_vec()),
        (b"unread", Vec::new()),
    ]
}

/// The answers to the first bytes of the conversation.
fn answers(bytes: usize) -> Vec<u8> {
    let mut end = 0;
    let answered = conversation().into_iter().take_while(|(request, _)| {
        end += request.len();
        end <= bytes
    });
    answered.flat_map(|(_, answer)| answer).collect()
}

/// Wherever the guest waits for its client, the client is gone: nothing is left of it.
async fn client_gone_at_every_byte(server: &Serving) -> Tested {
    server.expect_errors(GONE);
    let said: Vec<u8> = conversation().iter().flat_map(|(request, _)| *request).copied().collect();
    let mut gone = 0;
    for bytes in 0..=said.len() {
        for exit in [Exit::Close, Exit::Reset, Exit::HalfClose] {
            let mut client = server.connect().await?;
            client.send(&said[..bytes]).await?;
            leave(client, exit, &answers(bytes)).await?;
            gone += 1;
        }
    }
    let mut other = server.connect_last().await?;
    let count = other.count().await?;
    // One that is reset before it has arrived never does.
    assert!(count.accepted == gone + 1 || server.network.is_late(), "{count:?} of {gone}");
    converse(&mut other).await
}

async fn leave(mut client: Client, exit: Exit, answers: &[u8]) -> Tested {
    match exit {
        Exit::Close => {}
        Exit::Reset => client.reset(),
        Exit::HalfClose => {
            client.finish().await?;
            assert_same(&client.rest().await?, answers);
        }
    }
    Ok(())
}

/// Uses every direction and the end of a connection.
async fn converse(client: &mut Client) -> Tested {
    let body = pattern(500);
    assert_eq!(client.ask("echo still here").await?, "still here");
    assert_eq!(client.sink(&body).await?, sunk(&body));
    client.source(body.len()).await?;
    client.finish().await?;
    client.end().await
}

async fn client_gone_while_the_guest_sends(server: &Serving) -> Tested {
    server.expect_errors(GONE);
    let large = server.network.large();
    for received in [0, 1, 1000, large / 2, large - 1] {
        for exit in [Exit::Close, Exit::Reset] {
            let mut client = server.connect().await?;
            client.send(format!("source {large}\n")).await?;
            assert_same(&client.take(received).await?, &pattern(received));
            leave(client, exit, b"").await?;
        }
    }
    converse(&mut server.connect_last().await?).await
}

/// Clients that give up while they connect: some are there by then, some never were.
async fn client_gone_before_it_is_connected(server: &Serving) -> Tested {
    server.expect_errors(GONE);
    for _ in 0..50 {
        tokio::select! {
            biased;
            connected = server.connect() => connected?.reset(),
            () = std::future::ready(()) => {}
        }
    }
    converse(&mut server.connect_last().await?).await
}

async fn thousand_connections(server: &Serving) -> Tested {
    let mut clients = server.connect_all(1000).await?;
    for (turn, client) in clients.iter_mut().enumerate() {
        client.send(format!("echo {turn}\nsource {}\n", turn % 100)).await?;
    }
    for (turn, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.line().await?, turn.to_string());
        assert_same(&client.take(turn % 100).await?, &pattern(turn % 100));
    }
    assert_eq!(clients[500].count().await?, Count { open: 1000, accepted: 1000 });
    let mut left = clients.split_off(500);
    drop(clients);
    for client in &mut left {
        client.finish().await?;
        client.end().await?;
    }
    assert_eq!(server.connect_last().await?.count().await?, Count { open: 1, accepted: 1001 });
    Ok(())
}

/// A guest that serves one at a time serves them all, in their order.
async fn thousand_clients_in_line(server: &Serving) -> Tested {
    let mut clients = server.connect_all(1000).await?;
    for (turn, client) in clients.iter_mut().enumerate() {
        client.send(format!("echo {turn}\n")).await?;
        client.finish().await?;
    }
    for (turn, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.line().await?, turn.to_string());
        client.end().await?;
    }
    assert_eq!(server.connect_last().await?.count().await?, Count { open: 1, accepted: 1001 });
    Ok(())
}

/// Whatever becomes of its clients, the guest goes on, and what it does answer is right.
async fn resets_and_refusals(server: &Serving) -> Tested {
    server.expect_errors(GONE);
    let (mut whole, mut cut) = (0, 0);
    while whole < 20 || cut < 20 {
        let played = async { converse(&mut server.connect().await?).await };
        match played.await {
            Ok(()) => whole += 1,
            Err(failure) if failure.is_stuck() => return Err(failure),
            Err(_) => cut += 1,
        }
        assert!(whole + cut < 10_000, "{whole} conversations came to their end, {cut} did not");
    }
    Ok(())
}
