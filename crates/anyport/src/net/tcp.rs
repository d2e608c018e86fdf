//! A TCP socket's life: one enum, a transition is a method, a wrong transition is one errno here.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use super::connections::Permit;
use super::os::LOCAL_PEER;
use super::{Endpoint, Interest, Network, OptionName, Ready, Shutdown, SocketOption};
use crate::address::{Family, Transport};
use crate::errno::Errno;

/// What `poll(2)` says of a socket that neither listens nor connects.
const HUNG_UP: Ready = Ready { hangup: true, ended: true };

#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) family: Family,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Dropped first, with the permit: a peer that sees the end of a connection finds its place free.
    stage: Stage,
    endpoint: Arc<Endpoint>,
}

/// Where a TCP socket is in its life. Local addresses are as the guest sees them: a published
/// port is another one on the host.
#[derive(Debug)]
enum Stage {
    /// Neither bound nor connected. Next: `Bound` or `Connecting`.
    Fresh,
    /// Next: `Listening` or `Connecting`.
    Bound { local: SocketAddr, published: bool },
    /// Takes connections; the last stage.
    Listening { local: SocketAddr },
    /// Next: `Connected`, or `Fresh` when it failed.
    Connecting,
    /// Moves bytes; the last stage, since a shut-down socket stays connected as on Linux.
    Connected { peer: SocketAddr, local_port: Option<u16>, permit: Option<Permit> },
}

impl Tcp {
    pub(crate) fn open(network: &Network, family: Family) -> Result<Self, Errno> {
        let endpoint = network.open(family, Transport::Tcp)?;
        Ok(Self::new(endpoint, family, Stage::Fresh))
    }

    /// A socket that listens already; `local` is its address as the guest sees it.
    pub(crate) fn listening(endpoint: Endpoint, local: SocketAddr) -> Self {
        Self::new(endpoint, Family::of(&local), Stage::Listening { local })
    }

    /// Both ends of a connection that a guest has with itself.
    pub(crate) fn pair() -> Result<(Self, Self), Errno> {
        let (one, other) = Endpoint::pair()?;
        let connected = |endpoint| {
            let stage = Stage::Connected { peer: LOCAL_PEER, local_port: None, permit: None };
            Self::new(endpoint, Family::Inet4, stage)
        };
        Ok((connected(one), connected(other)))
    }

    fn new(endpoint: Endpoint, family: Family, stage: Stage) -> Self {
        Self { family, inner: Mutex::new(Inner { endpoint: Arc::new(endpoint), stage }) }
    }

    /// The socket itself, to wait for and to ask. Its bytes are asked for by [`Tcp::stream`].
    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.lock().endpoint)
    }

    /// The socket to receive from and send to.
    pub(crate) fn stream(&self) -> Result<Arc<Endpoint>, Errno> {
        let mut inner = self.lock();
        inner.settle()?;
        match inner.stage {
            Stage::Connected { .. } => Ok(Arc::clone(&inner.endpoint)),
            Stage::Connecting => Err(Errno::Again),
            _ => Err(Errno::NotConnected),
        }
    }

    pub(crate) fn bind(&self, to: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.must_be_fresh()?;
        // A restarted server must get its port back from connections in TIME_WAIT.
        inner.endpoint.set_option(SocketOption::ReuseAddress(true))?;
        inner.endpoint.bind(to)?;
        inner.stage = Stage::Bound { local: inner.endpoint.local_address()?, published: false };
        Ok(())
    }

    /// Lets a port be made public that this socket is bound to by itself, and takes the port's endpoint instead.
    pub(crate) fn make_public(
        &self, publish: impl FnOnce(&Arc<Endpoint>, SocketAddr) -> io::Result<Endpoint>,
    ) -> Result<(), Errno> {
        let mut inner = self.lock();
        let Stage::Bound { local, published: false } = inner.stage else { return Err(Errno::Invalid) };
        inner.endpoint = Arc::new(publish(&inner.endpoint, local)?);
        inner.stage = Stage::Bound { local, published: true };
        Ok(())
    }

    /// Takes a socket that is bound on the host already, in place of this fresh one; the guest
    /// sees it as bound to `local`.
    pub(crate) fn adopt(&self, bound: Endpoint, local: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.must_be_fresh()?;
        copy_options(&inner.endpoint, &bound)?;
        // Published as port 0: the guest asks for a free port, and is told the host's.
        let local = if local.port() == 0 { bound.local_address()? } else { local };
        *inner = Inner { endpoint: Arc::new(bound), stage: Stage::Bound { local, published: true } };
        Ok(())
    }

    /// As [`Endpoint::poll_ready`], by the stage.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Ready>> {
        let inner = self.lock();
        match inner.stage {
            Stage::Fresh | Stage::Bound { .. } => Poll::Ready(Ok(HUNG_UP)),
            // tokio polls listeners for writing too: that must neither fire nor fail.
            Stage::Listening { .. } if interest == Interest::Write => Poll::Pending,
            Stage::Listening { .. } => {
                let listener = Arc::clone(&inner.endpoint);
                // Whoever is told that a port is served may ask for the guest's sockets.
                drop(inner);
                listener.poll_ready(context, interest)
            }
            Stage::Connecting | Stage::Connected { .. } => inner.endpoint.poll_ready(context, interest),
        }
    }

    /// As [`Endpoint::arrivals`], by the stage.
    pub(crate) fn arrivals(&self, context: &mut Context<'_>) -> u64 {
        let inner = self.lock();
        match inner.stage {
            // Nothing comes, and the poller must not know it yet.
            Stage::Fresh | Stage::Bound { .. } => 0,
            Stage::Listening { .. } | Stage::Connecting | Stage::Connected { .. } => inner.endpoint.arrivals(context),
        }
    }

    /// As [`Endpoint::poll_ended`], by the stage.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        let inner = self.lock();
        match inner.stage {
            Stage::Fresh | Stage::Bound { .. } => Poll::Ready(Ok(HUNG_UP)),
            Stage::Listening { .. } => Poll::Pending,
            Stage::Connecting | Stage::Connected { .. } => inner.endpoint.poll_ended(context),
        }
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.lock().stage, Stage::Connecting)
    }

    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.lock().stage, Stage::Fresh)
    }

    /// The address it is bound to, where that is no published port.
    pub(crate) fn unpublished_address(&self) -> Result<Option<SocketAddr>, Errno> {
        match self.lock().stage {
            Stage::Bound { local, published: false } => Ok(Some(local)),
            Stage::Bound { published: true, .. } | Stage::Listening { .. } => Ok(None),
            _ => Err(Errno::Invalid),
        }
    }

    pub(crate) fn is_listening(&self) -> bool {
        matches!(self.lock().stage, Stage::Listening { .. })
    }

    pub(crate) fn listen(&self, backlog: u32) -> Result<(), Errno> {
        let mut inner = self.lock();
        match inner.stage {
            Stage::Bound { local, .. } => {
                inner.endpoint.listen(backlog)?;
                inner.stage = Stage::Listening { local };
                Ok(())
            }
            Stage::Listening { .. } => Ok(()),
            _ => Err(Errno::Invalid),
        }
    }

    /// The next pending connection, which counts while it is open if the port is public.
    pub(crate) fn accept(&self) -> Result<Self, Errno> {
        let (endpoint, local) = {
            let inner = self.lock();
            let Stage::Listening { local } = inner.stage else { return Err(Errno::Invalid) };
            (Arc::clone(&inner.endpoint), local)
        };
        let (stream, peer, mut permit) = endpoint.accept_for_guest()?;
        if let Some(permit) = &mut permit {
            permit.accept();
        }
        let stage = Stage::Connected { peer, local_port: Some(local.port()), permit };
        Ok(Self::new(stream, self.family, stage))
    }

    /// Begins to connect. [`Errno::InProgress`] says that it goes on: writable when it has ended,
    /// and then [`Tcp::finish_connect`] tells how.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.settle()?;
        match inner.stage {
            Stage::Fresh | Stage::Bound { .. } => {}
            Stage::Connecting => return Err(Errno::Already),
            Stage::Connected { .. } => return Err(Errno::IsConnected),
            Stage::Listening { .. } => return Err(Errno::Invalid),
        }
        let outcome = match inner.endpoint.connect(to).map_err(Errno::from) {
            // Linux's second word on an earlier connect that failed; the next one is made.
            Err(Errno::ConnectionAborted) => inner.endpoint.connect(to).map_err(Errno::from),
            outcome => outcome,
        };
        match outcome {
            Ok(()) => {
                inner.stage = Stage::Connected { peer: to, local_port: None, permit: None };
                Ok(())
            }
            Err(Errno::InProgress) => {
                inner.stage = Stage::Connecting;
                Err(Errno::InProgress)
            }
            Err(errno) => Err(errno),
        }
    }

    /// The outcome of a connect, once it has one: what `SO_ERROR` says. Ok while it goes on.
    pub(crate) fn finish_connect(&self) -> Result<(), Errno> {
        let mut inner = self.lock();
        match inner.stage {
            Stage::Connecting => inner.settle(),
            _ => Ok(inner.endpoint.take_error()?),
        }
    }

    /// Ends a connection from outside. Its guest sees the end of the bytes, and it counts no longer: a guest
    /// may never close it.
    pub(crate) fn cut(&self) {
        let mut inner = self.lock();
        // Its peer may have ended it meanwhile.
        let _ = inner.endpoint.shutdown(Shutdown::Both);
        if let Stage::Connected { permit, .. } = &mut inner.stage {
            *permit = None;
        }
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Errno> {
        let inner = self.lock();
        match inner.stage {
            Stage::Fresh => Ok(self.family.unspecified()),
            Stage::Bound { local, .. } | Stage::Listening { local } => Ok(local),
            Stage::Connecting => Ok(inner.endpoint.local_address()?),
            Stage::Connected { local_port, .. } => {
                let mut local = inner.endpoint.local_address()?;
                local.set_port(local_port.unwrap_or_else(|| local.port()));
                Ok(local)
            }
        }
    }

    pub(crate) fn peer_address(&self) -> Result<SocketAddr, Errno> {
        let mut inner = self.lock();
        inner.settle()?;
        match inner.stage {
            Stage::Connected { peer, .. } => Ok(peer),
            _ => Err(Errno::NotConnected),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }
}

impl Inner {
    /// Moves on from `Connecting` if the connect has ended.
    fn settle(&mut self) -> Result<(), Errno> {
        if !matches!(self.stage, Stage::Connecting) {
            return Ok(());
        }
        if let Err(error) = self.endpoint.take_error() {
            self.stage = Stage::Fresh;
            // The poller has seen this one closed, and does not forget it.
            if let Ok(Some(renewed)) = self.endpoint.renewed() {
                self.endpoint = Arc::new(renewed);
            }
            return Err(error.into());
        }
        if let Ok(peer) = self.endpoint.peer_address() {
            self.stage = Stage::Connected { peer, local_port: None, permit: None };
        }
        Ok(())
    }

    fn must_be_fresh(&self) -> Result<(), Errno> {
        if matches!(self.stage, Stage::Fresh) { Ok(()) } else { Err(Errno::Invalid) }
    }
}

/// Carries over what the guest set before it bound.
fn copy_options(from: &Endpoint, to: &Endpoint) -> Result<(), Errno> {
    use OptionName::{
        HopLimit, KeepAlive, KeepAliveCount, KeepAliveIdle, KeepAliveInterval, Linger, ReceiveBuffer, SendBuffer,
    };
    const COPIED: [OptionName; 8] =
        [KeepAlive, Linger, ReceiveBuffer, SendBuffer, KeepAliveIdle, KeepAliveInterval, KeepAliveCount, HopLimit];
    for name in COPIED {
        let option = from.option(name)?;
        if option == to.option(name)? {
            continue;
        }
        // Linux tells twice what was set (socket(7), SO_SNDBUF).
        to.set_option(match option {
            SocketOption::SendBuffer(bytes) => SocketOption::SendBuffer(bytes / 2),
            SocketOption::ReceiveBuffer(bytes) => SocketOption::ReceiveBuffer(bytes / 2),
            other => other,
        })?;
    }
    Ok(())
}
