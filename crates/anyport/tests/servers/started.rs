//! A server of behaviour guests, and its clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyport::server::{Restart, StdioTarget};
use anyport::simulated::Simulated;
use anyport::{Limits, Listen, Outcome, Policy, Publish, Running, Server};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

use crate::support::{Client, Failure, Guest, Network, Stream, Tested, connect_memory, within};

/// Longer than anything takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A server to be started.
pub(crate) struct Setup {
    server: Server,
    workers: usize,
    policy: Policy,
    limits: Limits,
    simulated: Option<Arc<Simulated>>,
}

impl Setup {
    /// One guest on a free port of loopback, which is started again when it fails.
    pub(crate) fn of(guest: Guest) -> Self {
        let policy = Policy { publish: vec!["0:8080".parse().expect("a port")], ..Policy::default() };
        Self { server: guest.server(), workers: 1, policy, limits: Limits::default(), simulated: None }
    }

    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    pub(crate) fn restart(mut self, restart: Restart) -> Self {
        self.server = self.server.restart(restart);
        self
    }

    pub(crate) fn limits(mut self, limit: impl FnOnce(&mut Limits)) -> Self {
        limit(&mut self.limits);
        self
    }

    /// Publishes this, and nothing else.
    pub(crate) fn publish(mut self, publish: impl Into<Option<Publish>>) -> Self {
        self.policy.publish = publish.into().into_iter().collect();
        self
    }

    /// Publishes nothing, and lets the guest listen where it likes: on this port of every address.
    pub(crate) fn anywhere(mut self, port: u16) -> Self {
        self.policy = Policy { listen: Listen::Anywhere, ..Policy::default() };
        self.server = self.server.env("PORT", port.to_string());
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(Server) -> Server) -> Self {
        self.server = change(self.server);
        self
    }

    pub(crate) fn on(mut self, network: &Network) -> Self {
        self.simulated = network.build();
        self
    }

    /// Starts the guests, and does not wait for them.
    pub(crate) fn begin(self) -> Started {
        let (reader, writer) = io::pipe().expect("a test may open descriptors");
        let errors = writer.try_clone().expect("a test may open descriptors");
        let mut server = self.server.policy(self.policy).limits(self.limits).workers(self.workers).stdio(
            StdioTarget::Null,
            StdioTarget::Fd(writer.into()),
            StdioTarget::Fd(errors.into()),
        );
        if let Some(simulated) = &self.simulated {
            server = server.simulated(Arc::clone(simulated));
        }
        let running = server.start().unwrap_or_else(|error| panic!("{error}"));
        let printed = pipe::Receiver::from_owned_fd(reader.into()).expect("it is a pipe");
        Started { running, simulated: self.simulated, printed: BufReader::new(printed) }
    }

    /// Starts the guests, and waits until all of them listen.
    pub(crate) async fn start(self) -> Tested<Started> {
        let workers = self.workers;
        let mut started = self.begin();
        for _ in 0..workers {
            started.guest_listens().await?;
        }
        Ok(started)
    }
}

/// A server that was started.
pub(crate) struct Started {
    pub(crate) running: Running,
    simulated: Option<Arc<Simulated>>,
    printed: BufReader<pipe::Receiver>,
}

impl Started {
    /// Waits until one more guest says that it listens.
    pub(crate) async fn guest_listens(&mut self) -> Tested {
        let mut line = String::new();
        within("waiting for a guest to listen", self.printed.read_line(&mut line)).await?;
        assert!(line.starts_with("listening on fd "), "the guest says {line:?}");
        Ok(())
    }

    pub(crate) fn port(&self) -> &Publish {
        &self.running.ports()[0]
    }

    pub(crate) async fn connect(&self) -> Tested<Client> {
        self.connect_at(self.port().address()).await
    }

    /// Connects to an address that the guest chose.
    pub(crate) async fn connect_to(&self, address: SocketAddr) -> Tested<Client> {
        self.connect_at(Some(address)).await
    }

    async fn connect_at(&self, address: Option<SocketAddr>) -> Tested<Client> {
        let connected = async {
            match (&self.simulated, address) {
                (Some(network), Some(address)) => Ok(Client::new(Stream::Simulated(network.connect(address).await?))),
                (None, Some(address)) => Ok(Client::from(TcpStream::connect(address).await?)),
                (_, None) => Ok(Client::from(connect_memory(&self.running)?)),
            }
        };
        within("connecting", connected).await
    }

    pub(crate) async fn connect_all(&self, count: usize) -> Tested<Vec<Client>> {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }

    /// As many clients, each after the one before was accepted.
    pub(crate) async fn served(&self, count: usize) -> Tested<Vec<Client>> {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let mut client = self.connect().await?;
            assert_eq!(client.ask("echo in").await?, "in");
            clients.push(client);
        }
        Ok(clients)
    }

    /// Waits until clients are refused.
    pub(crate) async fn refuses(&self) -> Tested {
        until_refused(self.port()).await
    }

    /// How the server ends, which it does by now.
    pub(crate) async fn outcome(self) -> Tested<Outcome> {
        within("waiting for the end", async {
            self.running.ended().await;
            Ok(())
        })
        .await?;
        Ok(self.running.wait())
    }

    /// Ends it, and looks that it runs until then.
    pub(crate) async fn stop(self) -> Tested {
        self.running.stop();
        assert_eq!(self.outcome().await?, Outcome::Stopped);
        Ok(())
    }
}

/// Waits until nobody listens on a port of the host.
pub(crate) async fn until_refused(port: &Publish) -> Tested {
    let address = port.address().expect("it is an IP port");
    within("waiting for a refusal", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await
}

/// The connection is no more; its guest may have left what it had said unread.
pub(crate) async fn ends(client: &mut Client) -> Tested {
    match client.rest().await {
        Err(failure) if failure.is_stuck() => Err(failure),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Waits until a look gives this.
pub(crate) async fn until<T: PartialEq + std::fmt::Debug>(
    wanted: T, mut look: impl AsyncFnMut() -> Tested<T>,
) -> Tested {
    let began = Instant::now();
    loop {
        let found = look().await?;
        if found == wanted {
            return Ok(());
        }
        assert!(began.elapsed() < LONG / 2, "{found:?}, and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// That this takes at least so long.
pub(crate) async fn not_before<T>(least: Duration, action: impl Future<Output = Result<T, Failure>>) -> Tested<T> {
    let began = Instant::now();
    let done = action.await?;
    let took = began.elapsed();
    assert!(took >= least, "{took:?} and not {least:?}");
    Ok(done)
}
