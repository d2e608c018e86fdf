//! The one door to sockets: the operating system's, or a simulated network's.
//!
//! Owns the type that stands for a kernel socket, [`Endpoint`]. It never blocks and knows nothing of
//! guests; states are in `tcp.rs` and `udp.rs`, waiting is in `readiness.rs`.

pub(crate) mod connections;
pub(crate) mod inlet;
pub(crate) mod news;
mod os;
mod poller;
pub(crate) mod port;
pub(crate) mod proxy;
pub(crate) mod published;
pub(crate) mod queue;
pub(crate) mod registered;
pub(crate) mod resolve;
pub mod simulated;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod unix_path;
pub(crate) mod waiters;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::io::Errno;

use self::connections::Permit;
use self::queue::Arrival;
use crate::address::{Family, Transport};

/// Where sockets come from.
#[derive(Clone, Debug)]
pub(crate) enum Network {
    Os,
    Simulated(Arc<simulated::Simulated>),
}

/// A socket as a kernel has them. Always non-blocking: [`io::ErrorKind::WouldBlock`] says wait.
#[derive(Debug)]
pub(crate) enum Endpoint {
    Os(os::Endpoint),
    Simulated(simulated::Endpoint),
    /// The listener of a public port.
    Inlet(inlet::Inlet),
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Interest {
    Read,
    Write,
}

/// A descriptor is ready; `hangup` says that both directions are closed, as `POLLHUP` does, and `ended` that the peer
/// sends no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) hangup: bool,
    pub(crate) ended: bool,
}

/// How to receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceiveFlags {
    /// Leave the bytes where they are.
    pub(crate) peek: bool,
    /// Wait until the buffers are full. Done by the waiting side, not by an endpoint.
    pub(crate) wait_all: bool,
    /// Do not wait at all, whatever the socket does otherwise. The same.
    pub(crate) dont_wait: bool,
}

/// What a datagram brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Bytes written to the buffers.
    pub(crate) length: usize,
    /// The rest of the datagram did not fit and is gone.
    pub(crate) truncated: bool,
    pub(crate) from: SocketAddr,
}

/// Which directions to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    Read,
    Write,
    Both,
}

/// A socket option with its value; those that guests of any dialect can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketOption {
    ReuseAddress(bool),
    Broadcast(bool),
    SendBuffer(usize),
    ReceiveBuffer(usize),
    KeepAlive(bool),
    OobInline(bool),
    Linger(Option<Duration>),
    KeepAliveIdle(Duration),
    KeepAliveInterval(Duration),
    KeepAliveCount(u32),
    HopLimit(u8),
}

/// The name of a [`SocketOption`], to ask for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionName {
    ReuseAddress,
    Broadcast,
    SendBuffer,
    ReceiveBuffer,
    KeepAlive,
    OobInline,
    Linger,
    KeepAliveIdle,
    KeepAliveInterval,
    KeepAliveCount,
    HopLimit,
}

/// What Linux has where nobody set it (tcp(7), ip(7)).
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(7200);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(75);
const KEEP_ALIVE_COUNT: u32 = 9;
const HOP_LIMIT: u8 = 64;

impl Network {
    /// A new socket, neither bound nor connected.
    pub(crate) fn open(&self, family: Family, transport: Transport) -> io::Result<Endpoint> {
        match self {
            Self::Os => os::Endpoint::open(family, transport).map(Endpoint::Os),
            Self::Simulated(network) => Ok(Endpoint::Simulated(network.open(family, transport))),
        }
    }
}

/// A listener at an address of the host that no guest has to do with.
pub(crate) fn listen_at(address: SocketAddr, backlog: u32) -> io::Result<Endpoint> {
    let listener = Network::Os.open(Family::of(&address), Transport::Tcp)?;
    // A restarted server must get its port back from connections in TIME_WAIT.
    listener.set_option(SocketOption::ReuseAddress(true))?;
    listener.bind(address)?;
    listener.listen(backlog)?;
    Ok(listener)
}

/// Whether there is IPv6 here: sockets of it may be opened, and bound.
pub(crate) fn has_ipv6() -> bool {
    let bound = || os::Endpoint::open(Family::Inet6, Transport::Tcp)?.bind(Family::Inet6.unspecified());
    bound().is_ok()
}

/// Forwards to the socket that this endpoint is. A listener of a public port has its own calls; it
/// is bound, and has no bytes.
macro_rules! on_either {
    ($self:ident, $endpoint:ident => $call:expr) => {
        on_either!($self, $endpoint => $call, inlet _ => Err(Errno::NOTCONN.into()))
    };
    ($self:ident, $endpoint:ident => $call:expr, inlet $inlet:tt => $other:expr) => {
        match $self {
            Endpoint::Os($endpoint) => $call,
            Endpoint::Simulated($endpoint) => $call,
            Endpoint::Inlet($inlet) => $other,
        }
    };
}

impl Endpoint {
    /// A listener that this process was started with.
    pub(crate) fn inherit(socket: OwnedFd) -> io::Result<Self> {
        os::Endpoint::inherit(socket).map(Self::Os)
    }

    /// One end of a stream that is connected already: a Unix socket.
    pub(crate) fn from_stream(socket: OwnedFd) -> io::Result<Self> {
        os::Endpoint::from_stream(socket).map(Self::Os)
    }

    /// Both ends of a connection within this process.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        Ok((Self::from_stream(ours.into())?, Self::from_stream(theirs.into())?))
    }

    /// A Unix socket that is bound to a path, to be listened on as if over TCP.
    pub(crate) fn bind_unix(path: &Path) -> io::Result<Self> {
        os::Endpoint::bind_unix(path).map(Self::Os)
    }

    /// The same socket, unknown to the poller; nothing where the poller remembers nothing.
    pub(crate) fn renewed(&self) -> io::Result<Option<Self>> {
        match self {
            Self::Os(endpoint) => Ok(Some(Self::Os(endpoint.renewed()?))),
            Self::Simulated(_) | Self::Inlet(_) => Ok(None),
        }
    }

    pub(crate) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        on_either!(self, endpoint => endpoint.bind(address))
    }

    pub(crate) fn listen(&self, backlog: u32) -> io::Result<()> {
        on_either!(self, endpoint => endpoint.listen(backlog), inlet inlet => inlet.listen(backlog))
    }

    /// Begins to connect. `EINPROGRESS` says that it goes on: writable when it has ended, and then
    /// [`Endpoint::take_error`] says how.
    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<()> {
        on_either!(self, endpoint => endpoint.connect(to))
    }

    /// Lets a datagram socket have no peer any more.
    pub(crate) fn disconnect(&self) -> io::Result<()> {
        on_either!(self, endpoint => endpoint.disconnect())
    }

    /// The error that a connect or a send left behind, once.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        on_either!(self, endpoint => endpoint.take_error(), inlet _ => Ok(()))
    }

    /// The next pending connection, with its peer's address. Those of a public port come by
    /// [`Endpoint::accept_for_guest`].
    pub(crate) fn accept(&self) -> io::Result<(Self, SocketAddr)> {
        match self {
            Self::Os(endpoint) => endpoint.accept().map(|(stream, peer)| (Self::Os(stream), peer)),
            Self::Simulated(endpoint) => endpoint.accept().map(|(stream, peer)| (Self::Simulated(stream), peer)),
            Self::Inlet(_) => Err(Errno::OPNOTSUPP.into()),
        }
    }

    /// Whether it is the listener of a public port.
    pub(crate) fn is_public(&self) -> bool {
        matches!(self, Self::Inlet(_))
    }

    /// The next pending connection for a guest. Those of a public port are counted; the others a guest has
    /// with itself.
    pub(crate) fn accept_for_guest(&self) -> io::Result<(Self, SocketAddr, Option<Permit>)> {
        match self {
            Self::Inlet(_) => {
                let Arrival { stream, peer, permit, .. } = self.accept_arrival()?;
                Ok((stream, peer, Some(permit)))
            }
            listener => listener.accept().map(|(stream, peer)| (stream, peer, None)),
        }
    }

    /// The next pending connection of a public port.
    pub(crate) fn accept_arrival(&self) -> io::Result<Arrival> {
        match self {
            Self::Inlet(inlet) => inlet.accept(),
            Self::Os(_) | Self::Simulated(_) => Err(Errno::OPNOTSUPP.into()),
        }
    }

    /// Receives from a stream into the buffers; 0 is its end.
    pub(crate) fn receive(&self, buffers: &mut [IoSliceMut<'_>], flags: ReceiveFlags) -> io::Result<usize> {
        on_either!(self, endpoint => endpoint.receive(buffers, flags))
    }

    pub(crate) fn receive_from(&self, buffer: &mut [u8], flags: ReceiveFlags) -> io::Result<Datagram> {
        on_either!(self, endpoint => endpoint.receive_from(buffer, flags))
    }

    /// Bytes that can be received: of datagrams, those of the next one.
    pub(crate) fn unread(&self) -> io::Result<u64> {
        on_either!(self, endpoint => endpoint.unread())
    }

    /// Sends to the connected peer. With `more`, a stream may hold the bytes back until the next
    /// send without it, or [`Endpoint::push`].
    pub(crate) fn send(&self, buffers: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        match self {
            Self::Os(endpoint) => endpoint.send(buffers, more),
            Self::Simulated(endpoint) => endpoint.send(buffers),
            Self::Inlet(_) => Err(Errno::NOTCONN.into()),
        }
    }

    /// Sends what was held back.
    pub(crate) fn push(&self) {
        match self {
            Self::Os(endpoint) => endpoint.push(),
            Self::Simulated(_) | Self::Inlet(_) => {}
        }
    }

    pub(crate) fn send_to(&self, buffer: &[u8], to: SocketAddr) -> io::Result<usize> {
        on_either!(self, endpoint => endpoint.send_to(buffer, to))
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        on_either!(self, endpoint => endpoint.shutdown(how))
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        on_either!(self, endpoint => endpoint.local_address(), inlet inlet => Ok(inlet.local_address()))
    }

    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        on_either!(self, endpoint => endpoint.peer_address())
    }

    pub(crate) fn set_option(&self, option: SocketOption) -> io::Result<()> {
        on_either!(self, endpoint => endpoint.set_option(option), inlet inlet => inlet.set_option(option))
    }

    pub(crate) fn option(&self, name: OptionName) -> io::Result<SocketOption> {
        on_either!(self, endpoint => endpoint.option(name), inlet inlet => inlet.option(name))
    }

    /// Ready when the other end is closed, in both directions. Of connections within this process.
    pub(crate) fn poll_hangup(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Os(endpoint) => endpoint.poll_hangup(context),
            Self::Simulated(_) | Self::Inlet(_) => Poll::Pending,
        }
    }

    /// Whether the next call in this direction will not be refused with `WouldBlock`; else the task
    /// is woken when that changes. Level-triggered, as `poll(2)`.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>, interest: Interest) -> Poll<io::Result<Ready>> {
        match self {
            Self::Os(endpoint) => endpoint.poll_ready(context, interest),
            Self::Simulated(endpoint) => endpoint.poll_ready(context, interest),
            Self::Inlet(inlet) => inlet.poll_ready(context, interest),
        }
    }

    /// Ready when the peer sends no more, whatever came before that and was not read.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match self {
            Self::Os(endpoint) => endpoint.poll_ended(context),
            Self::Simulated(endpoint) => endpoint.poll_ended(context),
            Self::Inlet(_) => Poll::Pending,
        }
    }

    /// How often something has come to be read, as connections and ends are: what is told of edges. The task is woken
    /// when it is another number, whether or not it was ready before. Of a public port's listener it is always zero.
    pub(crate) fn arrivals(&self, context: &mut Context<'_>) -> u64 {
        match self {
            Self::Os(endpoint) => endpoint.arrivals(context),
            Self::Simulated(endpoint) => endpoint.arrivals(context),
            Self::Inlet(_) => 0,
        }
    }

    /// Who found a direction not ready rests until it is told otherwise: until then a call is not made that is known to
    /// fail, however often it is tried. Not for a guest, which may try without a rest.
    pub(crate) fn rests(&self, interest: Interest) {
        if let Self::Os(endpoint) = self {
            endpoint.rests(interest);
        }
    }

    /// Forgets one who waits no longer: what never becomes ready would keep it.
    pub(crate) fn forget(&self, waker: &Waker) {
        match self {
            Self::Os(endpoint) => endpoint.forget(waker),
            // It wakes all before there are many.
            Self::Simulated(_) => {}
            Self::Inlet(inlet) => inlet.forget(waker),
        }
    }
}
