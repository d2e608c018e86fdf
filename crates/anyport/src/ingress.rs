//! What stands between the network and any guest: what a connection passes before its first byte is read.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::access_log::AccessLog;
use crate::error::Error;
use crate::limits::Limits;
use crate::net::connections::Permit;
use crate::net::stream::Stream;
use crate::net::{Endpoint, proxy};
use crate::tls;

pub use crate::tls::CertificateFiles;

/// What stands between the network and a guest; [`Front::default`] is nothing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Front {
    /// Certificates of the published TCP ports, which take TLS then, and nothing else. A client gets the first one
    /// for the name that it asks for, or the first of all. The files are read again when they change.
    pub certificates: Vec<CertificateFiles>,
    /// Each connection of a published TCP port begins with a header of the PROXY protocol, version 1 or 2, which
    /// says whose it is. One without is closed.
    pub proxy_protocol: bool,
    /// The guest of a service is told its client's address and scheme, in the header lines `X-Forwarded-For` and
    /// `X-Forwarded-Proto`, in place of those that the client has sent.
    pub x_forwarded: bool,
    /// Where `/healthz`, `/readyz` and `/status` are answered.
    pub health: Option<SocketAddr>,
    /// Each request of a service is written there.
    pub access_log: Option<AccessLog>,
}

/// What connections from outside pass.
pub(crate) struct Ingress {
    tls: Option<TlsAcceptor>,
    proxy_protocol: bool,
    /// How long a client may take for all of it.
    patience: Duration,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// It has come over TLS.
    pub(crate) is_secure: bool,
}

/// A connection that has passed.
pub(crate) enum Connection {
    Plain(Stream),
    Secure(Box<TlsStream<Stream>>),
}

impl Ingress {
    /// None where connections pass as they are. Services are told by `protocols` from guests that read bytes.
    pub(crate) fn new(front: &Front, limits: &Limits, is_service: bool) -> Result<Option<Arc<Self>>, Error> {
        let protocols: &[&str] = if is_service { &["h2", "http/1.1"] } else { &["http/1.1"] };
        let tls = match &front.certificates[..] {
            [] => None,
            files => Some(tls::acceptor(files, protocols)?),
        };
        let proxy_protocol = front.proxy_protocol;
        let needed = tls.is_some() || proxy_protocol;
        Ok(needed.then(|| Arc::new(Self { tls, proxy_protocol, patience: limits.header_timeout })))
    }

    /// Lets a connection in, and says whose it is.
    pub(crate) async fn enter(
        &self, endpoint: Endpoint, peer: SocketAddr, permit: Option<Permit>,
    ) -> io::Result<(Connection, Client)> {
        self.in_time(async {
            let peer = self.peer(&endpoint, peer).await?;
            let stream = Stream::new(endpoint, permit);
            let client = Client { peer, is_secure: self.tls.is_some() };
            match &self.tls {
                None => Ok((Connection::Plain(stream), client)),
                Some(tls) => Ok((Connection::Secure(Box::new(tls.accept(stream).await?)), client)),
            }
        })
        .await
    }

    /// As [`Self::enter`], up to TLS.
    pub(crate) async fn enter_plain(&self, endpoint: &Endpoint, peer: SocketAddr) -> io::Result<SocketAddr> {
        self.in_time(self.peer(endpoint, peer)).await
    }

    /// Whether bytes are another's on the outside.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    async fn peer(&self, endpoint: &Endpoint, peer: SocketAddr) -> io::Result<SocketAddr> {
        if !self.proxy_protocol {
            return Ok(peer);
        }
        Ok(proxy::source(endpoint).await?.unwrap_or(peer))
    }

    async fn in_time<T>(&self, entering: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::time::timeout(self.patience, entering).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Forwards to the stream that a connection is.
macro_rules! on_either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Connection::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Connection::Secure(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, stream => stream.poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_shutdown(context))
    }
}
