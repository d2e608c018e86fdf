//! How a server drains: what is owed is paid, and nothing else holds it up.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyport::server::Restart;
use anyport::{Outcome, Publish, Running};
use tokio::net::TcpStream;

use crate::servers::started::{LONG, Setup, Started, ends, not_before, until_refused};
use crate::support::{Client, Guest, Tested, assert_same, connect_memory, pattern, sunk, within};
use crate::wat_support::{Stage, connect};

/// More than is between a guest and a client that does not read.
const LARGE: usize = 16 << 20;

/// Drains while something is done, which ends before the drain does; whether nobody was cut off.
async fn drain_while(server: &mut Started, action: impl Future<Output = Tested>) -> Tested<bool> {
    let drain = within_long(server.running.drain(LONG));
    let (drained, done) = tokio::join!(drain, action);
    done?;
    drained
}

async fn within_long<T>(action: impl Future<Output = T>) -> Tested<T> {
    within("draining", async { Ok(action.await) }).await
}

#[tokio::test]
async fn new_connections_are_refused_and_an_answer_is_whole() -> Tested {
    for guest in
        [Guest::Preview1, Guest::Wasmedge, Guest::WasmedgeBlocking, Guest::Wasix, Guest::Sockets02, Guest::Sockets03]
    {
        for workers in [1, 2] {
            let mut server = Setup::of(guest).workers(workers).start().await?;
            let mut clients = server.connect_all(workers).await?;
            for client in &mut clients {
                client.send(format!("source {LARGE}\necho last\n")).await?;
                assert_same(&client.take(1000).await?, &pattern(1000));
            }
            let port = server.port().clone();
            let drained = drain_while(&mut server, async {
                until_refused(&port).await?;
                for client in &mut clients {
                    assert_same(&client.take(LARGE - 1000).await?, &pattern(LARGE)[1000..]);
                    assert_eq!(client.line().await?, "last");
                    client.end().await?;
                }
                Ok(())
            });
            assert!(drained.await?);
            assert_eq!(server.outcome().await?, Outcome::Stopped);
        }
    }
    Ok(())
}

/// Between two requests, before the first, or after the client's end.
#[tokio::test]
async fn an_idle_connection_is_ended() -> Tested {
    for guest in
        [Guest::Preview1, Guest::Wasmedge, Guest::Preview1Blocking, Guest::Wasix, Guest::Sockets02, Guest::Sockets03]
    {
        let mut server = Setup::of(guest).start().await?;
        let mut idle = server.served(1).await?.remove(0);
        let mut silent = server.connect().await?;
        assert!(drain_while(&mut server, async { tokio::try_join!(idle.end(), silent.end()).map(drop) }).await?);
        assert_eq!(server.outcome().await?, Outcome::Stopped);
    }
    Ok(())
}

/// A client that does not read for a while is owed the rest.
#[tokio::test]
async fn a_slow_reader_gets_all() -> Tested {
    for guest in [Guest::Preview1, Guest::WasmedgeBlocking] {
        let mut server = Setup::of(guest).start().await?;
        let mut client = server.connect().await?;
        client.send(format!("source {LARGE}\n")).await?;
        let drained = drain_while(&mut server, async {
            // Longer than a quiet connection may stay.
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_same(&client.take(LARGE).await?, &pattern(LARGE));
            client.end().await
        });
        assert!(drained.await?);
    }
    Ok(())
}

/// Its request was begun before.
#[tokio::test]
async fn a_slow_writer_is_answered() -> Tested {
    let mut server = Setup::of(Guest::Wasmedge).workers(2).start().await?;
    let mut client = server.connect().await?;
    client.send("sink 4\na").await?;
    let drained = drain_while(&mut server, async {
        for byte in ["b", "c", "d"] {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            client.send(byte).await?;
        }
        assert_eq!(client.line().await?, sunk(b"abcd"));
        client.end().await
    });
    assert!(drained.await?);
    Ok(())
}

/// Drains on a thread of its own, beside a guest on strings.
fn draining(running: Running) -> thread::JoinHandle<(bool, Running)> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a test may wait");
        (runtime.block_on(running.drain(LONG)), running)
    })
}

/// The guest is busy with something else, and looks late.
#[test]
fn a_request_that_the_guest_has_not_read_is_answered() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let mut client = connect(guest.address(0));
    let fd = guest.accept(listener);
    client.write_all(b"question").expect("the guest listens");
    let drain = draining(guest.take_running());
    // Longer than a quiet connection may stay.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(guest.recv(fd, 100).as_deref(), Ok(&b"question"[..]));
    assert_eq!(guest.send(fd, b"answer"), Ok(6));
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("the connection is ended in order");
    assert_eq!(answer, "answer");
    let (drained, running) = drain.join().expect("it drains");
    assert!(drained);
    assert_eq!(running.wait(), Outcome::Stopped);
}

#[test]
fn a_connection_that_the_guest_never_closes_holds_nothing_up() {
    let mut guest = Stage::new().publish("0:80").start();
    let listener = guest.listen(80);
    let clients = [connect(guest.address(0)), connect(guest.address(0))];
    let fds = [guest.accept(listener), guest.accept(listener)];
    guest.send(fds[0], b"answer").expect("it is open");
    let began = Instant::now();
    let (drained, running) = draining(guest.take_running()).join().expect("it drains");
    assert!(drained && began.elapsed() < LONG / 2);
    for (mut client, wanted) in clients.iter().zip(["answer", ""]) {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the connection is ended in order");
        assert_eq!(answer, wanted);
    }
    assert_eq!(running.wait(), Outcome::Stopped);
}

#[tokio::test]
async fn the_time_that_is_given_ends_it() -> Tested {
    for workers in [1, 3] {
        let server = Setup::of(Guest::Preview1).workers(workers).start().await?;
        let mut clients = server.connect_all(workers).await?;
        for client in &mut clients {
            // The rest never comes, so there is no answer.
            client.send("sink 10\nabc").await?;
        }
        server.served(workers).await?;
        let given = Duration::from_millis(300);
        let drained = not_before(given, within_long(server.running.drain(given))).await?;
        assert!(!drained, "they were cut off");
        for client in &mut clients {
            ends(client).await?;
        }
        assert_eq!(server.outcome().await?, Outcome::Stopped);
    }
    Ok(())
}

/// Nobody waits for more than there is.
#[tokio::test]
async fn a_server_without_connections_drains_at_once() -> Tested {
    for workers in [1, 4] {
        let server = Setup::of(Guest::Wasmedge).workers(workers).start().await?;
        let mut clients = server.served(8).await?;
        for client in &mut clients {
            client.finish().await?;
            client.end().await?;
        }
        let began = Instant::now();
        // However long it might take.
        assert!(within_long(server.running.drain(Duration::MAX)).await?);
        assert!(began.elapsed() < LONG / 2);
        assert_eq!(server.outcome().await?, Outcome::Stopped);
    }
    Ok(())
}

/// They came before: the guests had no room for them yet.
#[tokio::test]
async fn those_that_wait_in_the_backlog_are_served() -> Tested {
    for (guest, most) in [
        (Guest::Preview1, 2),
        (Guest::Wasmedge, 2),
        (Guest::WasmedgeBlocking, 1),
        (Guest::Sockets02, 2),
        (Guest::Sockets03, 2),
    ] {
        for workers in [1, 2] {
            let setup = Setup::of(guest).workers(workers).limits(|limits| limits.connections = most);
            let mut server = setup.start().await?;
            let mut held = server.served(most * workers).await?;
            let mut late = server.connect_all(10).await?;
            for client in &mut late {
                client.send("echo late\n").await?;
            }
            let port = server.port().clone();
            let drained = drain_while(&mut server, async {
                until_refused(&port).await?;
                for client in &mut held {
                    assert_eq!(client.ask("echo still here").await?, "still here");
                    client.finish().await?;
                    client.end().await?;
                }
                for client in &mut late {
                    assert_eq!(client.line().await?, "late");
                    client.finish().await?;
                    client.end().await?;
                }
                Ok(())
            });
            assert!(drained.await?);
        }
    }
    Ok(())
}

/// A moment before, again and again: whoever is connected by then is answered.
#[tokio::test]
async fn those_that_come_at_the_last_moment_are_served() -> Tested {
    for workers in [1, 2] {
        for _ in 0..20 {
            let mut server = Setup::of(Guest::Preview1).workers(workers).start().await?;
            let mut clients = server.connect_all(20).await?;
            for client in &mut clients {
                client.send("echo in\n").await?;
                client.finish().await?;
            }
            let drained = drain_while(&mut server, async {
                for client in &mut clients {
                    assert_eq!(client.line().await?, "in");
                    client.end().await?;
                }
                Ok(())
            });
            assert!(drained.await?);
        }
    }
    Ok(())
}

#[tokio::test]
async fn connections_in_memory_are_served_and_ended() -> Tested {
    for workers in [1, 2] {
        let setup = Setup::of(Guest::Preview1).publish(Publish::in_memory(8080)).workers(workers);
        let mut server = setup.limits(|limits| limits.connections = 1).start().await?;
        let mut idle = server.served(workers).await?;
        let mut late = server.connect_all(4).await?;
        for client in &mut late {
            client.send("echo late\n").await?;
            client.finish().await?;
        }
        let drained = drain_while(&mut server, async {
            for client in &mut idle {
                client.end().await?;
            }
            for client in &mut late {
                assert_eq!(client.line().await?, "late");
                client.end().await?;
            }
            Ok(())
        });
        assert!(drained.await?);
        assert!(connect_memory(&server.running).is_err());
    }
    Ok(())
}

/// What waits there is for the process that has it next.
#[tokio::test]
async fn the_backlog_of_an_inherited_socket_stays() -> Tested {
    for workers in [1, 2] {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let ours = socket.try_clone().expect("a test may open descriptors");
        let listener = anyport::server::Listener::Inherited { socket: socket.into(), name: "http".to_owned() };
        let setup = Setup::of(Guest::Preview1).publish(None).with(|server| server.listener(listener));
        let mut server = setup.workers(workers).limits(|limits| limits.connections = 1).start().await?;
        let mut held = server.served(workers).await?;
        let mut late = Client::from(within("connecting", TcpStream::connect(address)).await?);
        late.send("echo late\n").await?;
        let ended = async {
            for client in &mut held {
                client.end().await?;
            }
            Ok(())
        };
        assert!(drain_while(&mut server, ended).await?);
        assert_eq!(server.outcome().await?, Outcome::Stopped);
        let next = next_server(ours).start().await?;
        assert_eq!(late.line().await?, "late");
        late.finish().await?;
        late.end().await?;
        assert!(within_long(next.running.drain(LONG)).await?);
    }
    Ok(())
}

fn next_server(socket: std::net::TcpListener) -> Setup {
    let listener = anyport::server::Listener::Inherited { socket: socket.into(), name: "http".to_owned() };
    Setup::of(Guest::Preview1).publish(None).with(|server| server.listener(listener))
}

/// It is not started again, and the others pay what they owe.
#[tokio::test]
async fn a_worker_without_a_guest_holds_nothing_up() -> Tested {
    for workers in [1, 2, 3] {
        let mut server = Setup::of(Guest::Wasmedge).workers(workers).start().await?;
        let mut clients = server.served(workers).await?;
        let mut trapping = clients.remove(0);
        for client in &mut clients {
            client.send(format!("source {LARGE}\n")).await?;
            client.take(1).await?;
        }
        trapping.send("trap\n").await?;
        ends(&mut trapping).await?;
        let drained = drain_while(&mut server, async {
            for client in &mut clients {
                assert_same(&client.take(LARGE - 1).await?, &pattern(LARGE)[1..]);
                client.end().await?;
            }
            Ok(())
        });
        assert!(drained.await?);
        assert_eq!(server.outcome().await?, Outcome::Stopped);
    }
    Ok(())
}

#[tokio::test]
async fn a_guest_that_ends_while_it_drains_is_not_started_again() -> Tested {
    for restart in [Restart::OnFailure, Restart::Always] {
        let mut server = Setup::of(Guest::Preview1).restart(restart).start().await?;
        let mut client = server.served(1).await?.remove(0);
        let port = server.port().clone();
        let drained = drain_while(&mut server, async {
            until_refused(&port).await?;
            client.send("exit 5\n").await?;
            ends(&mut client).await
        });
        assert!(drained.await?);
        assert_eq!(server.outcome().await?, Outcome::Exited(5));
    }
    Ok(())
}

#[tokio::test]
async fn a_second_drain_has_nothing_to_do() -> Tested {
    for workers in [1, 2] {
        let server = Setup::of(Guest::Preview1).workers(workers).start().await?;
        let mut idle = server.served(2).await?;
        assert!(within_long(server.running.drain(LONG)).await?);
        for client in &mut idle {
            client.end().await?;
        }
        assert!(within_long(server.running.drain(LONG)).await?);
        assert_eq!(server.outcome().await?, Outcome::Stopped);
    }
    Ok(())
}

/// Also where nothing would have ended the drain.
#[tokio::test]
async fn a_stop_ends_a_drain() -> Tested {
    for stopped_before in [false, true] {
        for workers in [1, 2] {
            let server = Setup::of(Guest::Wasmedge).workers(workers).start().await?;
            let mut client = server.connect().await?;
            client.send("sink 10\nabc").await?;
            server.served(workers).await?;
            let port = server.port().clone();
            if !stopped_before {
                tokio::select! {
                    _ = server.running.drain(LONG) => panic!("it was owed something"),
                    refused = until_refused(&port) => refused?,
                }
            }
            server.running.stop();
            // Not back to draining.
            assert!(within_long(server.running.drain(LONG)).await?);
            ends(&mut client).await?;
            assert_eq!(server.outcome().await?, Outcome::Stopped);
        }
    }
    Ok(())
}
