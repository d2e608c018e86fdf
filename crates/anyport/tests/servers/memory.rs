//! Connections within the process, and memory of guests side by side.

use std::io::{Read, Write};

use anyport::server::Restart;
use anyport::{Limits, Outcome, Publish};

use crate::servers::started::{Setup, ends, until};
use crate::support::{Guest, Tested, connect_memory};
use crate::wat_support::{Stage, load};

#[tokio::test]
async fn one_that_comes_before_the_guest_listens_waits() -> Tested {
    let mut guest = Stage::new().publish_in_memory(80).start();
    let mut client = guest.running().connect(80).expect("it is published");
    client.write_all(b"early").expect("it is open");
    let listener = guest.listen(80);
    let fd = guest.accept(listener);
    assert_eq!(guest.recv(fd, 100).as_deref(), Ok(&b"early"[..]));
    guest.send(fd, b"answer").expect("it is open");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).expect("the guest has sent it");
    assert_eq!(&answer, b"answer");
    for guest in [Guest::Preview1, Guest::WasmedgeBlocking] {
        for workers in [1, 3] {
            let server = Setup::of(guest).publish(Publish::in_memory(8080)).workers(workers).begin();
            let mut clients = server.connect_all(12).await?;
            for client in &mut clients {
                client.send("echo early\n").await?;
                client.finish().await?;
            }
            for client in &mut clients {
                assert_eq!(client.line().await?, "early");
                client.end().await?;
            }
            server.stop().await?;
        }
    }
    Ok(())
}

/// However the port is published.
#[tokio::test]
async fn any_port_is_reached() -> Tested {
    for workers in [1, 2] {
        let server = Setup::of(Guest::Wasmedge).workers(workers).start().await?;
        let mut client = crate::support::Client::from(connect_memory(&server.running).expect("it is published"));
        assert_eq!(client.ask("echo in").await?, "in");
        server.served(2).await?;
        server.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_not_published_is_an_error() -> Tested {
    let server = Setup::of(Guest::Preview1).publish(Publish::in_memory(8080)).start().await?;
    for port in [0, 80, 8081] {
        let Err(error) = server.running.connect(port) else { panic!("port {port} is reached") };
        assert_eq!(error.to_string(), format!("port {port} of the guest is not published"));
        assert!(error.hint().is_some_and(|hint| hint.contains("in_memory")), "{error:?}");
    }
    server.stop().await
}

#[tokio::test]
async fn a_server_that_has_ended_takes_none() -> Tested {
    for workers in [1, 2] {
        let setup = Setup::of(Guest::Preview1).publish(Publish::in_memory(8080)).workers(workers);
        let server = setup.restart(Restart::No).start().await?;
        let mut clients = server.served(workers).await?;
        for client in &mut clients {
            client.send("exit 3\n").await?;
            ends(client).await?;
        }
        server.running.ended().await;
        let Err(error) = server.running.connect(8080) else { panic!("it takes one") };
        assert_eq!(error.to_string(), "the server takes no connection any more");
        assert_eq!(server.outcome().await?, Outcome::Exited(3));
    }
    let server = Setup::of(Guest::Preview1).publish(Publish::in_memory(8080)).start().await?;
    server.running.stop();
    assert!(server.running.connect(8080).is_err());
    server.stop().await
}

/// Clients that come while the guest is away wait for the next one.
#[tokio::test]
async fn a_guest_that_is_started_again_serves_those_that_wait() -> Tested {
    let server = Setup::of(Guest::Wasmedge).publish(Publish::in_memory(8080)).start().await?;
    let mut client = server.served(1).await?.remove(0);
    client.send("trap\n").await?;
    ends(&mut client).await?;
    let mut late = server.connect_all(5).await?;
    for client in &mut late {
        client.send("echo late\n").await?;
    }
    for client in &mut late {
        assert_eq!(client.line().await?, "late");
    }
    until(5, async || Ok(late[0].count().await?.accepted)).await?;
    server.stop().await
}

/// What one guest takes is not taken from the others.
#[test]
fn a_memory_limit_is_each_guests_own() {
    let text = "(module
      (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
      (memory (export \"memory\") 1)
      (func (export \"_start\")
        (if (i32.eq (memory.grow (i32.const 7)) (i32.const -1)) (then (call $exit (i32.const 1))))
        (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (call $exit (i32.const 2))))))";
    let mut limits = Limits::default();
    limits.memory_bytes = 8 << 16;
    let server = load(text).unwrap_or_else(|error| panic!("{error}"));
    let running = server.limits(limits).workers(4).start().expect("it can be started");
    // Of the worst of them.
    assert_eq!(running.wait(), Outcome::Exited(0));
}
