//! A network in memory, with faults drawn from a seed: what the tests run on.
//!
//! Owns the simulated sockets, which answer every call as Linux does; its tests ask
//! both. Every address exists and is local, and nothing happens in the background: a delay is an
//! instant that a later call compares with the clock, and that waiting tasks set an alarm for.

#[cfg(test)]
mod datagram_tests;
#[cfg(test)]
mod fault_tests;
mod socket;
#[cfg(test)]
mod tests;
mod waiting;
mod world;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Datagram, Interest, OptionName, Ready, ReceiveFlags, Shutdown, SocketOption};
use crate::address::{Family, Transport};

use socket::{Id, Result, State};
use world::World;

/// What goes wrong, and how often: probabilities from 0 to 1, drawn for each call that moves bytes
/// or begins a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// A receive gives fewer bytes than there are.
    pub partial_receive: f64,
    /// A send takes fewer bytes than there is room for.
    pub partial_send: f64,
    /// The connection that a send or a receive is on is reset; what was under way is lost.
    pub reset: f64,
    /// A connect is refused although something listens.
    pub refuse: f64,
    /// Sent bytes, a datagram or a connection arrive later. Bytes stay in order, datagrams do not.
    pub delay: f64,
    /// The longest delay; it is drawn evenly from zero.
    pub delay_max: Duration,
    /// Bytes that each direction of a connection holds until they are read; at least 1.
    pub buffer_bytes: usize,
}

impl Faults {
    /// A network without faults, and buffers of 64 KiB: small, so that senders meet full ones.
    pub const fn none() -> Self {
        Self {
            partial_receive: 0.0,
            partial_send: 0.0,
            reset: 0.0,
            refuse: 0.0,
            delay: 0.0,
            delay_max: Duration::ZERO,
            buffer_bytes: 64 << 10,
        }
    }
}

/// A network. Equal seeds and equal calls in equal order meet equal faults.
pub struct Simulated {
    world: Mutex<World>,
}

impl Simulated {
    /// An empty network.
    pub fn new(seed: u64, faults: Faults) -> Arc<Self> {
        Arc::new(Self { world: Mutex::new(World::new(seed, faults)) })
    }

    /// Connects to what listens at this address; done when it is in the listener's backlog, as on
    /// Linux. Waiting needs a tokio runtime with time, as does everything here that waits.
    ///
    /// # Errors
    /// Refused or reset; trying again is the caller's business.
    pub fn connect(self: &Arc<Self>, to: SocketAddr) -> impl Future<Output = io::Result<Connection>> + use<> {
        let endpoint = self.open(Family::of(&to), Transport::Tcp);
        async move {
            match endpoint.connect(to) {
                Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
                outcome => outcome?,
            }
            poll_fn(|context| endpoint.poll_ready(context, Interest::Write)).await?;
            endpoint.take_error()?;
            Ok(Connection { endpoint })
        }
    }

    /// Listens at this address; port 0 asks for a free one.
    ///
    /// # Errors
    /// The address is in use.
    pub fn listen(self: &Arc<Self>, at: SocketAddr) -> io::Result<Listener> {
        let endpoint = self.open(Family::of(&at), Transport::Tcp);
        endpoint.set_option(SocketOption::ReuseAddress(true))?;
        endpoint.bind(at)?;
        endpoint.listen(BACKLOG)?;
        Ok(Listener { endpoint })
    }

    /// A new socket, neither bound nor connected.
    pub(super) fn open(self: &Arc<Self>, family: Family, transport: Transport) -> Endpoint {
        let id = self.lock(|world| world.open(family, transport));
        Endpoint { network: Arc::clone(self), id }
    }

    /// Acts on the network, and wakes when the lock is free again: a waker may come back at once.
    fn lock<R>(&self, act: impl FnOnce(&mut World) -> R) -> R {
        let (outcome, woken) = {
            let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            world.now = Instant::now();
            (act(&mut world), mem::take(&mut world.woken))
        };
        for waiter in woken {
            waiter.waker.wake();
        }
        outcome
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").finish_non_exhaustive()
    }
}

/// A connected stream, for a test's side of a connection. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    endpoint: Endpoint,
}

impl Connection {
    /// The address of this side.
    ///
    /// # Errors
    /// None while it is open.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_address()
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// Not connected any more.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.peer_address()
    }

    /// Closes abruptly: the peer's connection is reset.
    pub fn reset(self) {
        let lingering = self.endpoint.set_option(SocketOption::Linger(Some(Duration::ZERO)));
        debug_assert!(lingering.is_ok(), "a simulated option is only remembered");
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled();
        let received = ready!(self.endpoint.poll_call(context, Interest::Read, |endpoint| {
            endpoint.receive(&mut [IoSliceMut::new(room)], ReceiveFlags::default())
        }))?;
        buffer.advance(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.endpoint.poll_call(context, Interest::Write, |endpoint| endpoint.send(&[IoSlice::new(bytes)]))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.endpoint.shutdown(Shutdown::Write))
    }
}

/// A listening socket, for a test that is the server.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
}

impl Listener {
    /// Where it listens.
    ///
    /// # Errors
    /// None while it is open.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_address()
    }

    /// The next connection, with its peer's address.
    ///
    /// # Errors
    /// None while it is open.
    pub async fn accept(&self) -> io::Result<(Connection, SocketAddr)> {
        let accept = |context: &mut Context<'_>| self.endpoint.poll_call(context, Interest::Read, Endpoint::accept);
        let (endpoint, peer) = poll_fn(accept).await?;
        Ok((Connection { endpoint }, peer))
    }
}

/// A socket of a simulated network.
#[derive(Debug)]
pub(crate) struct Endpoint {
    network: Arc<Simulated>,
    id: Id,
}

impl Endpoint {
    pub(super) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        self.call(|world, id| world.bind(id, address))
    }

    pub(super) fn listen(&self, backlog: u32) -> io::Result<()> {
        self.call(|world, id| world.listen(id, usize::try_from(backlog).unwrap_or(usize::MAX)))
    }

    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<()> {
        self.call(|world, id| world.connect(id, to))
    }

    pub(super) fn disconnect(&self) -> io::Result<()> {
        self.call(|world, id| world.disconnect(id))
    }

    pub(super) fn take_error(&self) -> io::Result<()> {
        self.call(|world, id| {
            let now = world.now;
            let socket = world.socket(id);
            if socket.is_connecting(now) { Ok(()) } else { socket.take_error() }
        })
    }

    pub(super) fn accept(&self) -> io::Result<(Self, SocketAddr)> {
        let (id, peer) = self.call(World::accept)?;
        Ok((Self { network: Arc::clone(&self.network), id }, peer))
    }

    pub(super) fn receive(&self, buffers: &mut [IoSliceMut<'_>], flags: ReceiveFlags) -> io::Result<usize> {
        self.call(|world, id| match world.socket(id).transport {
            Transport::Tcp => world.receive(id, buffers, flags.peek),
            Transport::Udp => world.receive_datagram(id, buffers, flags.peek).map(|datagram| datagram.length),
        })
    }

    pub(super) fn receive_from(&self, buffer: &mut [u8], flags: ReceiveFlags) -> io::Result<Datagram> {
        let buffers = &mut [IoSliceMut::new(buffer)];
        self.call(|world, id| match world.socket(id).transport {
            Transport::Tcp => {
                let length = world.receive(id, buffers, flags.peek)?;
                Ok(Datagram { length, truncated: false, from: Family::Inet4.unspecified() })
            }
            Transport::Udp => world.receive_datagram(id, buffers, flags.peek),
        })
    }

    pub(super) fn unread(&self) -> io::Result<u64> {
        self.call(|world, id| Ok(world.unread(id)))
    }

    pub(super) fn send(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.call(|world, id| match world.socket(id).transport {
            Transport::Tcp => world.send(id, buffers),
            Transport::Udp => world.send_datagram(id, buffers, None),
        })
    }

    pub(super) fn send_to(&self, buffer: &[u8], to: SocketAddr) -> io::Result<usize> {
        let buffers = &[IoSlice::new(buffer)];
        self.call(|world, id| match world.socket(id).transport {
            Transport::Tcp => world.send(id, buffers),
            Transport::Udp => world.send_datagram(id, buffers, Some(to)),
        })
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.call(|world, id| world.shutdown(id, how != Shutdown::Write, how != Shutdown::Read))
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.call(|world, id| {
            let socket = world.socket(id);
            Ok(socket.local.map_or_else(|| socket.family.unspecified(), |local| socket.name(local)))
        })
    }

    pub(super) fn peer_address(&self) -> io::Result<SocketAddr> {
        self.call(|world, id| {
            let now = world.now;
            let socket = world.socket(id);
            let peer = match &socket.state {
                State::Connected(stream) if stream.since <= now && !stream.is_closed(now) => Some(stream.peer_address),
                State::Datagrams(datagrams) => datagrams.peer,
                _ => None,
            };
            peer.map(|peer| socket.name(peer)).ok_or(Errno::NOTCONN)
        })
    }

    pub(super) fn set_option(&self, option: SocketOption) -> io::Result<()> {
        // Linux doubles buffer sizes for its own bookkeeping, and gives back the double.
        let option = match option {
            SocketOption::SendBuffer(bytes) => SocketOption::SendBuffer(bytes.saturating_mul(2)),
            SocketOption::ReceiveBuffer(bytes) => SocketOption::ReceiveBuffer(bytes.saturating_mul(2)),
            other => other,
        };
        self.call(|world, id| {
            world.socket(id).set_option(option);
            Ok(())
        })
    }

    pub(super) fn option(&self, name: OptionName) -> io::Result<SocketOption> {
        self.call(|world, id| Ok(world.socket(id).option(name)))
    }

    pub(super) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Ready>> {
        self.network.lock(|world| world.poll_ready(self.id, context, interest)).map(Ok)
    }

    pub(super) fn arrivals(&self, context: &mut Context<'_>) -> u64 {
        self.network.lock(|world| world.arrivals(self.id, context))
    }

    pub(super) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.network.lock(|world| world.poll_ended(self.id, context)).map(Ok)
    }

    /// Makes a call, and waits while it is refused with `WouldBlock`.
    fn poll_call<R>(
        &self, context: &mut Context<'_>, interest: Interest, mut call: impl FnMut(&Self) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            match call(self) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_ready(context, interest))?;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn call<R>(&self, call: impl FnOnce(&mut World, Id) -> Result<R>) -> io::Result<R> {
        self.network.lock(|world| call(world, self.id)).map_err(|errno| match errno {
            Errno::AGAIN => io::ErrorKind::WouldBlock.into(),
            other => other.into(),
        })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.network.lock(|world| world.close(self.id));
    }
}

/// Connections that a [`Listener`] holds until they are accepted: as many as a burst of a test's.
const BACKLOG: u32 = 1024;
