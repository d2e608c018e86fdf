//! A behaviour guest at work.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyport::server::StdioTarget;
use anyport::simulated::Simulated;
use anyport::{Limits, Outcome, Policy, Publish, Running};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

use super::client::{Client, Count, Stream, Tested, within};
use super::guest::Guest;
use super::network::Network;

/// A behaviour guest that serves on a network.
pub(crate) struct Serving {
    pub(crate) guest: Guest,
    pub(crate) network: Network,
    simulated: Option<Arc<Simulated>>,
    running: Running,
    address: SocketAddr,
    /// What the guest prints; kept open, for it may print more.
    _printed: BufReader<pipe::Receiver>,
    expected: Cell<&'static [u16]>,
}

impl Serving {
    /// Starts a guest, and waits until it listens.
    pub(crate) async fn start(guest: Guest, network: Network, limits: Limits) -> Self {
        let simulated = network.build();
        let (reader, writer) = io::pipe().expect("a test may open descriptors");
        let errors = writer.try_clone().expect("a test may open descriptors");
        let mut server = guest
            .server()
            .policy(Policy { publish: vec!["0:8080".parse().expect("a port")], ..Policy::default() })
            .limits(limits)
            .stdio(StdioTarget::Null, StdioTarget::Fd(writer.into()), StdioTarget::Fd(errors.into()));
        if let Some(simulated) = &simulated {
            server = server.simulated(Arc::clone(simulated));
        }
        let running = server.start().expect("the guests can be started");
        let address = running.ports().first().and_then(Publish::address).expect("a port is published");
        let printed = pipe::Receiver::from_owned_fd(reader.into()).expect("it is a pipe");
        let mut printed = BufReader::new(printed);
        let mut line = String::new();
        within("waiting for the guest to listen", printed.read_line(&mut line)).await.expect("a pipe does not fail");
        assert!(line.starts_with("listening on fd "), "the guest says {line:?}");
        Self { guest, network, simulated, running, address, _printed: printed, expected: Cell::new(&[]) }
    }

    /// Where it can be reached.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn connect(&self) -> Tested<Client> {
        let stream = match &self.simulated {
            None => Stream::Os(within("connecting", connect_os(self.address)).await?),
            Some(network) => Stream::Simulated(within("connecting", network.connect(self.address)).await?),
        };
        Ok(Client::new(stream))
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
    pub(crate) async fn finish(mut self) -> Tested {
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
        assert_eq!(self.running.wait(), Outcome::Stopped);
        Ok(())
    }
}

async fn connect_os(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
