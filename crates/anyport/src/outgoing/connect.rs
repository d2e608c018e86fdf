//! Connections for a guest's own requests: the policy is asked, then the name looked up, then the socket opened.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Extensions, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use super::Destination;
use super::fault::Fault;
use super::trust::Trust;
use crate::address::{Family, Transport};
use crate::errno::Errno;
use crate::limits::{Limits, REQUEST_CONNECT_TIMEOUT};
use crate::net::resolve::{Names, Resolver};
use crate::net::stream::Stream;
use crate::net::{Endpoint, Interest, Network};
use crate::policy::Gate;
use crate::readiness;

/// What a connection takes to be made.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) gate: Arc<Gate>,
    network: Network,
    resolver: Arc<Resolver>,
    trust: Arc<Trust>,
    open: Arc<AtomicUsize>,
    most: usize,
}

/// How long an address may take to answer while there is another one to try.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Reach {
    pub(super) fn new(
        gate: &Arc<Gate>, network: &Network, resolver: &Arc<Resolver>, trust: &Arc<Trust>, limits: &Limits,
    ) -> Arc<Self> {
        Arc::new(Self {
            gate: Arc::clone(gate),
            network: network.clone(),
            resolver: Arc::clone(resolver),
            trust: Arc::clone(trust),
            open: Arc::default(),
            most: limits.descriptors,
        })
    }

    /// How many connections there are.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    async fn connect(&self, uri: &Uri) -> Result<Socket, Fault> {
        let Destination { host, port } = Destination::of(uri).map_err(|_| Fault::NoHost)?;
        let addresses = self.addresses(&host, port).await?;
        if self.open() >= self.most {
            return Err(Fault::LimitReached);
        }
        let mut left = addresses.len();
        let mut fault = Fault::NoName;
        for address in addresses {
            left -= 1;
            let connecting = self.connect_to(address);
            let ended = if left == 0 {
                connecting.await
            } else {
                tokio::time::timeout(ADDRESS_TIMEOUT, connecting).await.unwrap_or(Err(Fault::Silent))
            };
            match ended {
                Ok(endpoint) => return Ok(Socket::new(endpoint, &self.open)),
                Err(why) => fault = why,
            }
        }
        Err(fault)
    }

    /// The addresses that a host has and the guest may reach. Numbers need no lookup.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let mut names = Names::new(Arc::clone(&self.resolver));
                let looked_up = tokio::time::timeout(REQUEST_CONNECT_TIMEOUT, names.lookup(&self.network, host)).await;
                looked_up.map_err(|_| Fault::LookupTimeout)?.map_err(|_| Fault::NoName)?
            }
        };
        self.gate.destinations(host, port, &found).map_err(|_| Fault::Prohibited)
    }

    async fn connect_to(&self, to: SocketAddr) -> Result<Endpoint, Fault> {
        let endpoint = self.network.open(Family::of(&to), Transport::Tcp).map_err(Errno::from)?;
        match endpoint.connect(to).map_err(Errno::from) {
            Ok(()) => return Ok(endpoint),
            Err(Errno::InProgress) => {}
            Err(errno) => return Err(errno.into()),
        }
        loop {
            readiness::ready(&endpoint, Interest::Write, None).await?;
            endpoint.take_error().map_err(Errno::from)?;
            if endpoint.peer_address().is_ok() {
                return Ok(endpoint);
            }
        }
    }
}

/// Makes hyper's connections, over TLS for `https`.
#[derive(Clone, Debug)]
pub(super) struct Connector(pub(super) Arc<Reach>);

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<Socket>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let plain = Plain(Arc::clone(&self.0));
        Box::pin(async move {
            if uri.scheme_str() != Some("https") {
                let mut plain = plain;
                return Ok(MaybeHttpsStream::Http(plain.call(uri).await?));
            }
            // Not made earlier: most guests need no certificates.
            let config = plain.0.trust.config().await?;
            HttpsConnector::from((plain, config)).call(uri).await
        })
    }
}

/// The same without TLS.
#[derive(Clone, Debug)]
struct Plain(Arc<Reach>);

impl Service<Uri> for Plain {
    type Response = TokioIo<Socket>;
    type Error = Fault;
    type Future = Connecting<TokioIo<Socket>, Fault>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let reach = Arc::clone(&self.0);
        Box::pin(async move { reach.connect(&uri).await.map(TokioIo::new) })
    }
}

/// A connection to a server, counted for as long as it is there.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    open: Arc<AtomicUsize>,
    served: Served,
}

/// Whether a connection has had an answer: it may be closed as one that waits for the next request.
#[derive(Clone, Debug, Default)]
pub(super) struct Served(Arc<AtomicBool>);

impl Served {
    /// Of the connection that a request was given.
    pub(super) fn of(captured: &CaptureConnection) -> Option<Self> {
        let mut extras = Extensions::new();
        captured.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove()
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Socket {
    fn new(endpoint: Endpoint, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self { stream: Stream::new(endpoint, None), open: Arc::clone(open), served: Served::default() }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.served.clone())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
