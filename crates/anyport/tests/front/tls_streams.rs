//! TLS in front of guests that read bytes: these are plain, and all else is as without.

use std::io;
use std::time::Duration;

use anyport::server::{Front, StdioTarget};
use anyport::{Limits, Listen, Policy, Running};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

use super::service::{pair, shake, trusting};
use crate::support::{Client, Count, Guest, Stream, Tested, pattern, sunk, within};

const GUESTS: [Guest; 8] = [
    Guest::Preview1,
    Guest::Preview1Blocking,
    Guest::Wasmedge,
    Guest::WasmedgeBlocking,
    Guest::Wasix,
    Guest::WasixBlocking,
    Guest::Sockets02,
    Guest::Sockets03,
];

struct Secure {
    running: Running,
    _printed: BufReader<pipe::Receiver>,
}

impl Secure {
    async fn start(guest: Guest, workers: usize, change: impl FnOnce(&mut Limits, &mut Front)) -> Tested<Self> {
        let (mut limits, mut front) = (Limits::default(), Front::default());
        front.certificates = vec![pair("local")];
        change(&mut limits, &mut front);
        let (reader, writer) = io::pipe().expect("a test may open descriptors");
        let policy = Policy { publish: vec!["0:8080".parse().expect("a port")], ..Policy::default() };
        let server = guest.server().policy(policy).limits(limits).front(front).workers(workers);
        let server = server.stdio(StdioTarget::Null, StdioTarget::Fd(writer.into()), StdioTarget::Null);
        let running = server.start().unwrap_or_else(|error| panic!("{error}"));
        let printed = pipe::Receiver::from_owned_fd(reader.into()).expect("it is a pipe");
        let mut printed = BufReader::new(printed);
        for _ in 0..workers {
            let mut line = String::new();
            within("waiting for a guest to listen", printed.read_line(&mut line)).await?;
        }
        Ok(Self { running, _printed: printed })
    }

    async fn tcp(&self) -> Tested<TcpStream> {
        let address = self.running.ports()[0].address().expect("an IP port");
        within("connecting", TcpStream::connect(address)).await
    }

    async fn connect(&self) -> Tested<Client> {
        let stream = shake(&trusting(|_| {}), "localhost", self.tcp().await?).await?;
        Ok(Client::new(Stream::Tls(Box::new(stream))))
    }
}

#[tokio::test]
async fn bytes_pass_in_both_directions() -> Tested {
    for guest in GUESTS {
        for workers in [1, 2] {
            let secure = Secure::start(guest, workers, |_, _| {}).await?;
            let mut client = secure.connect().await?;
            assert_eq!(client.ask("echo in").await?, "in");
            client.source(3_000_000).await?;
            let bytes = pattern(3_000_000);
            assert_eq!(client.sink(&bytes).await?, sunk(&bytes));
            // The client's end is the guest's, whose own comes back.
            client.finish().await?;
            client.end().await?;
        }
    }
    Ok(())
}

/// As in a container, where the guest opens the port that it likes.
#[tokio::test]
async fn a_port_that_nobody_has_published_takes_tls_too() -> Tested {
    for guest in [Guest::Wasmedge, Guest::Sockets02, Guest::Sockets03] {
        let free = std::net::TcpListener::bind("0.0.0.0:0").and_then(|free| free.local_addr()).expect("a free port");
        let mut front = Front::default();
        front.certificates = vec![pair("local")];
        let policy = Policy { listen: Listen::Anywhere, ..Policy::default() };
        let server = guest.server().policy(policy).front(front).env("PORT", free.port().to_string());
        let running = server.start().unwrap_or_else(|error| panic!("{error}"));
        let listens = async {
            while running.status().stage != "serving" {
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        within("waiting for a guest to listen", listens).await?;
        let stream = within("connecting", TcpStream::connect(("127.0.0.1", free.port()))).await?;
        let mut client = Client::new(Stream::Tls(Box::new(shake(&trusting(|_| {}), "localhost", stream).await?)));
        assert_eq!(client.ask("echo in").await?, "in", "{guest:?}");
    }
    Ok(())
}

/// An answer is whole although its guest closes at once, and although the client has said all it will say.
#[tokio::test]
async fn the_last_bytes_come() -> Tested {
    for guest in GUESTS {
        let secure = Secure::start(guest, 1, |_, _| {}).await?;
        let mut client = secure.connect().await?;
        client.send("source 2000000\n").await?;
        client.finish().await?;
        assert_eq!(client.rest().await?.len(), 2_000_000);
    }
    Ok(())
}

#[tokio::test]
async fn connections_are_counted_once_and_limited() -> Tested {
    for guest in [Guest::Preview1, Guest::Sockets02, Guest::Sockets03] {
        connections_of(guest).await?;
    }
    Ok(())
}

async fn connections_of(guest: Guest) -> Tested {
    let secure = Secure::start(guest, 1, |limits, _| limits.connections = 2).await?;
    let mut first = secure.connect().await?;
    assert_eq!(first.count().await?, Count { open: 1, accepted: 1 });
    let mut second = secure.connect().await?;
    assert_eq!(second.count().await?, Count { open: 2, accepted: 2 });
    assert_eq!(secure.running.status().workers[0].connections, 2);
    // Not even its handshake is made.
    let third = async { secure.connect().await?.count().await };
    let mut third = std::pin::pin!(third);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut third).await;
    assert!(early.is_err(), "it is served");
    second.reset();
    assert_eq!(third.await?, Count { open: 2, accepted: 3 });
    Ok(())
}

/// A server that drains waits for the client to have what the guest has said.
#[tokio::test]
async fn a_drain_ends_connections_and_loses_nothing() -> Tested {
    for guest in [Guest::Wasmedge, Guest::Sockets02, Guest::Sockets03] {
        let secure = Secure::start(guest, 1, |_, _| {}).await?;
        let mut idle = secure.connect().await?;
        assert_eq!(idle.ask("echo in").await?, "in");
        let mut busy = secure.connect().await?;
        busy.send("source 8000000\n").await?;
        let (drained, read) = tokio::join!(secure.running.drain(Duration::from_secs(30)), async {
            idle.end().await?;
            // The guest is done with it long before.
            tokio::time::sleep(Duration::from_millis(200)).await;
            busy.rest().await
        });
        assert_eq!(read?.len(), 8_000_000, "{guest:?}");
        assert!(drained, "{guest:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_says_nothing_delays_nobody_and_is_ended() -> Tested {
    let limit = Duration::from_secs(2);
    let secure = Secure::start(Guest::Preview1, 1, |limits, _| limits.header_timeout = limit).await?;
    let began = std::time::Instant::now();
    let mut silent = Client::from(secure.tcp().await?);
    let mut wrong = Client::from(secure.tcp().await?);
    wrong.send("echo in\n").await?;
    let mut client = secure.connect().await?;
    assert_eq!(client.count().await?, Count { open: 1, accepted: 1 });
    silent.end().await?;
    assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
    // An alert, or the end.
    assert!(!wrong.rest().await.is_ok_and(|bytes| bytes.starts_with(b"in")));
    assert_eq!(client.count().await?, Count { open: 1, accepted: 1 });
    Ok(())
}

/// What the guest leaves untaken is not taken from the client.
#[tokio::test]
async fn a_guest_that_does_not_read_holds_its_client_up() -> Tested {
    use tokio::io::AsyncWriteExt;
    let secure = Secure::start(Guest::Wasmedge, 1, |_, _| {}).await?;
    let mut stream = shake(&trusting(|_| {}), "localhost", secure.tcp().await?).await?;
    // It sends, and reads no further line before that is taken.
    within("sending", stream.write_all(b"source 100000000\n")).await?;
    let lines = vec![b'\n'; 1 << 20];
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_millis(500), stream.write_all(&lines)).await.is_ok() {
        taken += lines.len();
        assert!(taken < 100 << 20, "it takes whatever comes");
    }
    Ok(())
}
