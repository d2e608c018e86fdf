//! A behaviour guest at work.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyport::server::StdioTarget;
use anyport::simulated::Simulated;
use anyport::{Limits, Outcome, Policy, Publish, Running};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};

use super::client::{Client, Count, Stream, Tested, within};
use super::guest::Guest;
use super::network::Network;

/// A behaviour guest that serves on a network.
pub(crate) struct Serving {
    pub(crate) guest: Guest,
    pub(crate) network: Network,
    simulated: Option<Arc<Simulated>>,
    running: Running,
    /// Where the Unix socket is, if it is one.
    folder: TempDir,
    /// What the guest prints; kept open, for it may print more.
    printed: BufReader<pipe::Receiver>,
    expected: Cell<&'static [u16]>,
}

impl Serving {
    /// Starts a guest, and waits until it listens.
    pub(crate) async fn start(guest: Guest, network: Network, limits: Limits) -> Self {
        let simulated = network.build();
        let folder = tempfile::tempdir().expect("a test may make a folder");
        let publish = match network.sockets() {
            Network::Unix => format!("unix:{}:8080", folder.path().join("socket").display()).parse().expect("a path"),
            Network::Memory => Publish::in_memory(8080),
            _ => "0:8080".parse().expect("a port"),
        };
        let (reader, writer) = io::pipe().expect("a test may open descriptors");
        let errors = writer.try_clone().expect("a test may open descriptors");
        let mut server = guest
            .server()
            .policy(Policy { publish: vec![publish], ..Policy::default() })
            .limits(limits)
            .workers(if network.has_front() { 2 } else { 1 })
            .stdio(StdioTarget::Null, StdioTarget::Fd(writer.into()), StdioTarget::Fd(errors.into()));
        if let Some(simulated) = &simulated {
            server = server.simulated(Arc::clone(simulated));
        }
        let running = server.start().expect("the guests can be started");
        let printed = pipe::Receiver::from_owned_fd(reader.into()).expect("it is a pipe");
        let printed = BufReader::new(printed);
        let mut serving = Self { guest, network, simulated, running, folder, printed, expected: Cell::new(&[]) };
        serving.listens().await;
        if serving.network.has_front() {
            serving.listens().await;
            serving.end_one().await.expect("the second guest can be told to end");
        }
        serving
    }

    /// Waits until a guest listens.
    async fn listens(&mut self) {
        let mut line = String::new();
        let reading = self.printed.read_line(&mut line);
        within("waiting for the guest to listen", reading).await.expect("a pipe does not fail");
        assert!(line.starts_with("listening on fd "), "the guest says {line:?}");
    }

    /// Ends one of two guests: connections still go through the front, and all come to the other, which
    /// counts them.
    async fn end_one(&self) -> Tested {
        let mut client = self.connect().await?;
        client.send("exit 0\n").await?;
        client.end().await
    }

    /// Where it can be reached, on the operating system's network.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.ports().first().and_then(Publish::address).expect("a port is published")
    }

    pub(crate) async fn connect(&self) -> Tested<Client> {
        if let Some(network) = &self.simulated {
            let stream = within("connecting", network.connect(self.address())).await?;
            return Ok(Client::new(Stream::Simulated(stream)));
        }
        match self.network.sockets() {
            Network::Unix => {
                let path = self.folder.path().join("socket");
                within("connecting", UnixStream::connect(path)).await.map(Client::from)
            }
            Network::Memory => within("connecting", async { connect_memory(&self.running) }).await.map(Client::from),
            _ => within("connecting", connect_os(self.address())).await.map(Client::from),
        }
    }

    /// As many clients.
    pub(crate) async fn connect_all(&self, count: usize) -> Tested<Vec<Client>> {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }

    /// A client, once the guest has closed the connections of all others.
    pub(crate) async fn connect_last(&self) -> Tested<Client> {
        let mut client = self.connect().await?;
        within("waiting for the guest to close the others", async {
            while client.count().await?.open > 1 {}
            Ok(())
        })
        .await?;
        Ok(client)
    }

    /// The guest may meet these errors, and no others; the body of a test brings them about.
    pub(crate) fn expect_errors(&self, errors: &'static [u16]) {
        self.expected.set(errors);
    }

    /// After a test: the guest has closed what its clients have, has met no other errors than
    /// expected, and runs until it is stopped.
    pub(crate) async fn finish(self) -> Tested {
        let errors = loop {
            let errors = async { self.connect_last().await?.errors().await };
            match errors.await {
                Err(failure) if self.network.is_stormy() && !failure.is_stuck() => {}
                errors => break errors?,
            }
        };
        let expected = self.expected.get();
        assert!(errors.count == 0 || expected.contains(&errors.last), "{errors:?}, expected {expected:?}");
        self.running.stop();
        within("waiting for the guest to stop", async {
            self.running.ended().await;
            Ok(())
        })
        .await?;
        // Of two, one was told to end.
        let outcome = if self.network.has_front() { Outcome::Exited(0) } else { Outcome::Stopped };
        assert_eq!(self.running.wait(), outcome);
        Ok(())
    }
}

async fn connect_os(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection within this process.
pub(crate) fn connect_memory(running: &Running) -> io::Result<UnixStream> {
    let stream = running.connect(8080).map_err(io::Error::other)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
