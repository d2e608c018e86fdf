//! A network in memory, with faults drawn from a seed: what the tests run on.
//!
//! Owns the simulated sockets, which answer every call as Linux does; the tests at the bottom ask
//! both. Every address exists and is local, and nothing happens in the background: a delay is an
//! instant that a later call compares with the clock, and that waiting tasks set an alarm for.

mod socket;
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

#[cfg(test)]
mod tests {
    //! Where Linux can be asked, a test runs on both networks, which must answer alike.

    use std::future::poll_fn;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};
    use std::thread;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
    use tokio::runtime::Builder;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::net::{Endpoint as Socket, Network};

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    async fn on_both(body: impl AsyncFn(Network)) {
        body(Network::Os).await;
        body(simulated(Faults::none())).await;
    }

    fn simulated(faults: Faults) -> Network {
        Network::Simulated(Simulated::new(1, faults))
    }

    fn tcp(network: &Network) -> Socket {
        network.open(Family::Inet4, Transport::Tcp).expect("sockets are to be had")
    }

    fn udp(network: &Network) -> Socket {
        let socket = network.open(Family::Inet4, Transport::Udp).expect("sockets are to be had");
        socket.bind(ANY).expect("a free port");
        socket
    }

    fn listening(network: &Network, backlog: u32) -> (Socket, SocketAddr) {
        let listener = tcp(network);
        listener.bind(ANY).expect("a free port");
        listener.listen(backlog).expect("it listens");
        let at = listener.local_address().expect("it is bound");
        (listener, at)
    }

    /// A socket on its way to this address.
    fn dialing(network: &Network, to: SocketAddr) -> Socket {
        let socket = tcp(network);
        assert_eq!(errno(socket.connect(to)), Errno::INPROGRESS);
        socket
    }

    /// Both sides of a connection: who connected, and who accepted.
    async fn pair(network: &Network) -> (Socket, Socket) {
        let (listener, at) = listening(network, 8);
        let client = dialing(network, at);
        ready(&client, Interest::Write).await;
        client.take_error().expect("it is connected");
        let (server, peer) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
        assert_eq!(peer, client.local_address().expect("it is connected"));
        (client, server)
    }

    async fn ready(socket: &Socket, interest: Interest) -> Ready {
        timeout(PATIENCE, poll_fn(|context| socket.poll_ready(context, interest)))
            .await
            .expect("it becomes ready")
            .expect("no error")
    }

    /// Ready, and for good. The operating system's sockets learn of it when the runtime next asks.
    async fn hung_up(socket: &Socket) {
        let asking = async {
            while !ready(socket, Interest::Write).await.hangup {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("it hangs up");
        ready(socket, Interest::Read).await;
    }

    fn is_ready(socket: &Socket, interest: Interest) -> bool {
        socket.poll_ready(&mut Context::from_waker(Waker::noop()), interest).is_ready()
    }

    async fn until<R>(socket: &Socket, interest: Interest, mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready(socket, interest).await,
                outcome => return outcome,
            };
        }
    }

    fn errno<R: fmt::Debug>(outcome: io::Result<R>) -> Errno {
        let error = outcome.expect_err("it fails");
        Errno::from_io_error(&error).unwrap_or_else(|| {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            Errno::AGAIN
        })
    }

    fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 100];
        let count = socket.receive(&mut [IoSliceMut::new(&mut bytes)], ReceiveFlags::default())?;
        bytes.truncate(count);
        Ok(bytes)
    }

    async fn received(socket: &Socket) -> io::Result<Vec<u8>> {
        until(socket, Interest::Read, || receive(socket)).await
    }

    fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        socket.send(&[IoSlice::new(bytes)], false)
    }

    async fn sent(socket: &Socket, bytes: &[u8]) {
        let count = until(socket, Interest::Write, || send(socket, bytes)).await;
        assert_eq!(count.expect("it is sent"), bytes.len());
    }

    #[tokio::test]
    async fn an_address_is_bound_once() {
        on_both(async |network| {
            let (one, two) = (tcp(&network), tcp(&network));
            assert_eq!(one.local_address().expect("an address"), Family::Inet4.unspecified());
            one.bind(ANY).expect("a free port");
            let at = one.local_address().expect("it is bound");
            assert_ne!(at.port(), 0);
            assert_eq!(errno(one.bind(ANY)), Errno::INVAL);
            assert_eq!(errno(two.bind(at)), Errno::ADDRINUSE);
            assert_eq!(errno(two.bind((Ipv4Addr::UNSPECIFIED, at.port()).into())), Errno::ADDRINUSE);
            assert_eq!(errno(two.bind((Ipv6Addr::LOCALHOST, 0).into())), Errno::AFNOSUPPORT);
            // UDP has ports of its own.
            let datagrams = network.open(Family::Inet4, Transport::Udp).expect("a socket");
            datagrams.bind(at).expect("a free address");
            drop(one);
            two.bind(at).expect("it is free again");
        })
        .await;
    }

    #[tokio::test]
    async fn a_reused_address_has_one_listener() {
        on_both(async |network| {
            let sockets = [tcp(&network), tcp(&network), tcp(&network)];
            for socket in &sockets {
                socket.set_option(SocketOption::ReuseAddress(true)).expect("it is set");
            }
            sockets[0].bind(ANY).expect("a free port");
            let at = sockets[0].local_address().expect("it is bound");
            sockets[1].bind(at).expect("neither listens");
            sockets[0].listen(1).expect("nobody listens yet");
            sockets[0].listen(2).expect("once more changes the backlog");
            assert_eq!(errno(sockets[1].listen(1)), Errno::ADDRINUSE);
            assert_eq!(errno(sockets[2].bind(at)), Errno::ADDRINUSE);
        })
        .await;
    }

    #[tokio::test]
    async fn both_families_meet_in_the_wildcard() {
        on_both(async |network| {
            let dual = network.open(Family::Inet6, Transport::Tcp).expect("a socket");
            assert_eq!(errno(dual.bind(ANY)), Errno::INVAL);
            dual.bind(Family::Inet6.unspecified()).expect("a free port");
            dual.listen(8).expect("it listens");
            let port = dual.local_address().expect("it is bound").port();
            assert_eq!(errno(tcp(&network).bind((Ipv4Addr::UNSPECIFIED, port).into())), Errno::ADDRINUSE);
            let client = dialing(&network, (Ipv4Addr::LOCALHOST, port).into());
            let (server, peer) = until(&dual, Interest::Read, || dual.accept()).await.expect("it is there");
            let mapped = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port));
            assert_eq!(peer, mapped(client.local_address().expect("it is bound").port()));
            assert_eq!(server.local_address().expect("it is connected"), mapped(port));
            let client = network.open(Family::Inet6, Transport::Tcp).expect("a socket");
            assert_eq!(errno(client.connect(ANY)), Errno::INVAL);
            assert_eq!(errno(client.connect((Ipv6Addr::UNSPECIFIED, port).into())), Errno::INPROGRESS);
            let (_, peer) = until(&dual, Interest::Read, || dual.accept()).await.expect("it is there");
            assert_eq!(peer, client.local_address().expect("it is bound"));
            assert_eq!(peer.ip(), Ipv6Addr::LOCALHOST);
        })
        .await;
    }

    #[tokio::test]
    async fn nobody_listens() {
        on_both(async |network| {
            let at = tcp(&network);
            at.bind(ANY).expect("a free port");
            let client = dialing(&network, at.local_address().expect("it is bound"));
            hung_up(&client).await;
            assert_eq!(errno(client.peer_address()), Errno::NOTCONN);
            assert_eq!(errno(client.take_error()), Errno::CONNREFUSED);
            client.take_error().expect("only once");
            assert_eq!(receive(&client).expect("the end"), b"");
            assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
            assert_eq!(errno(client.connect(ANY)), Errno::CONNABORTED);
            assert_eq!(errno(client.connect(ANY)), Errno::INPROGRESS);
            ready(&client, Interest::Write).await;
            assert_eq!(errno(client.connect(ANY)), Errno::CONNREFUSED);
        })
        .await;
    }

    #[tokio::test]
    async fn a_listener_is_readable_while_something_is_pending() {
        on_both(async |network| {
            let (listener, at) = listening(&network, 8);
            assert_eq!(errno(listener.accept()), Errno::AGAIN);
            assert!(!is_ready(&listener, Interest::Read) && !is_ready(&listener, Interest::Write));
            let clients = [dialing(&network, at), dialing(&network, at)];
            for client in &clients {
                ready(client, Interest::Write).await;
                let (server, peer) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
                assert_eq!(peer, client.local_address().expect("it is bound"));
                assert_eq!(server.local_address().expect("it is connected"), at);
                assert_eq!(server.peer_address().expect("it is connected"), peer);
                assert_eq!(client.peer_address().expect("it is connected"), at);
                client.connect(at).expect("it tells of success once");
                assert_eq!(errno(client.connect(at)), Errno::ISCONN);
                assert_eq!(errno(server.connect(at)), Errno::ISCONN);
                assert_eq!(errno(server.listen(1)), Errno::INVAL);
            }
            assert_eq!(errno(listener.accept()), Errno::AGAIN);
            assert_eq!(errno(listener.connect(at)), Errno::ISCONN);
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_backlog_makes_clients_wait() {
        // Linux's clients try again after a second: too long to ask it each time.
        let network = simulated(Faults::none());
        let (listener, at) = listening(&network, 0);
        let clients = [dialing(&network, at), dialing(&network, at), dialing(&network, at)];
        assert!(is_ready(&clients[0], Interest::Write));
        assert!(!is_ready(&clients[1], Interest::Write));
        assert_eq!(errno(clients[1].connect(at)), Errno::ALREADY);
        assert_eq!(errno(send(&clients[1], b"x")), Errno::AGAIN);
        assert_eq!(errno(receive(&clients[1])), Errno::AGAIN);
        clients[1].take_error().expect("no outcome yet");
        clients[1].shutdown(Shutdown::Both).expect("it gives up");
        listener.accept().expect("it is there");
        assert!(is_ready(&clients[2], Interest::Write), "the one that gave up is passed over");
        clients[2].take_error().expect("it is connected");
        let (_server, peer) = listener.accept().expect("it is there");
        assert_eq!(peer, clients[2].local_address().expect("it is bound"));
        assert_eq!(errno(listener.accept()), Errno::AGAIN);
    }

    #[tokio::test]
    async fn a_closed_listener_leaves_nobody_waiting() {
        on_both(async |network| {
            for close in [drop as fn(Socket), |listener| listener.shutdown(Shutdown::Both).expect("it ends")] {
                let (listener, at) = listening(&network, 8);
                let client = dialing(&network, at);
                ready(&client, Interest::Write).await;
                sent(&client, b"hello").await;
                close(listener);
                assert_eq!(errno(received(&client).await), Errno::CONNRESET);
            }
        })
        .await;
        let network = simulated(Faults::none());
        let (listener, at) = listening(&network, 0);
        let (_pending, waiting) = (dialing(&network, at), dialing(&network, at));
        drop(listener);
        assert_eq!(errno(waiting.take_error()), Errno::CONNREFUSED);
    }

    #[tokio::test]
    async fn a_listener_that_was_shut_down_can_listen_again() {
        on_both(async |network| {
            let (listener, _) = listening(&network, 8);
            listener.shutdown(Shutdown::Write).expect("it does nothing");
            listener.shutdown(Shutdown::Read).expect("it ends");
            hung_up(&listener).await;
            assert_eq!(errno(listener.accept()), Errno::INVAL);
            listener.listen(8).expect("it is bound, or is bound again");
            let client = dialing(&network, listener.local_address().expect("it is bound"));
            ready(&client, Interest::Write).await;
            client.take_error().expect("it is connected");
        })
        .await;
    }

    #[tokio::test]
    async fn bytes_go_both_ways_through_several_buffers() {
        on_both(async |network| {
            let (client, server) = pair(&network).await;
            let offered = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")];
            assert_eq!(until(&client, Interest::Write, || client.send(&offered, false)).await.expect("it is sent"), 7);
            ready(&server, Interest::Read).await;
            let (mut head, mut tail) = ([0; 2], [0; 9]);
            let count = until(&server, Interest::Read, || {
                server.receive(&mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)], ReceiveFlags::default())
            });
            assert_eq!(count.await.expect("it is there"), 7);
            assert_eq!((&head, &tail[..5]), (b"on", &b"e two"[..]));
            sent(&server, b"back").await;
            assert_eq!(received(&client).await.expect("it is there"), b"back");
            assert_eq!(errno(receive(&client)), Errno::AGAIN);
            assert!(!is_ready(&client, Interest::Read));
        })
        .await;
    }

    #[tokio::test]
    async fn a_peek_leaves_the_bytes_and_readiness_stays() {
        on_both(async |network| {
            let (client, server) = pair(&network).await;
            sent(&client, b"abc").await;
            for _ in 0..2 {
                ready(&server, Interest::Read).await;
                let mut bytes = [0; 2];
                let flags = ReceiveFlags { peek: true, ..ReceiveFlags::default() };
                let count =
                    until(&server, Interest::Read, || server.receive(&mut [IoSliceMut::new(&mut bytes)], flags));
                assert_eq!(count.await.expect("it is there"), 2);
                assert_eq!(&bytes, b"ab");
            }
            let nothing = || server.receive(&mut [], ReceiveFlags::default());
            assert_eq!(until(&server, Interest::Read, nothing).await.expect("nothing is wanted"), 0);
            assert_eq!(received(&server).await.expect("it is there"), b"abc");
            assert_eq!(errno(nothing()), Errno::AGAIN);
        })
        .await;
    }

    #[tokio::test]
    async fn half_a_close_lets_the_peer_read_the_rest_and_answer() {
        on_both(async |network| {
            let (client, server) = pair(&network).await;
            sent(&client, b"rest").await;
            client.shutdown(Shutdown::Write).expect("it is connected");
            client.shutdown(Shutdown::Write).expect("once more does nothing");
            assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
            assert_eq!(received(&server).await.expect("it is there"), b"rest");
            assert_eq!(received(&server).await.expect("the end"), b"");
            assert!(!ready(&server, Interest::Read).await.hangup);
            assert!(!ready(&server, Interest::Write).await.hangup);
            sent(&server, b"answer").await;
            assert_eq!(received(&client).await.expect("it is there"), b"answer");
            server.shutdown(Shutdown::Write).expect("it is connected");
            assert_eq!(received(&client).await.expect("the end"), b"");
            hung_up(&server).await;
            hung_up(&client).await;
            assert_eq!(errno(server.shutdown(Shutdown::Write)), Errno::NOTCONN);
            assert_eq!(errno(server.peer_address()), Errno::NOTCONN);
            assert_eq!(receive(&server).expect("still the end"), b"");
        })
        .await;
    }

    #[tokio::test]
    async fn shut_to_read_is_an_end_that_bytes_still_pass() {
        on_both(async |network| {
            let (client, server) = pair(&network).await;
            server.shutdown(Shutdown::Read).expect("it is connected");
            assert!(!ready(&server, Interest::Read).await.hangup);
            assert_eq!(received(&server).await.expect("the end"), b"");
            sent(&client, b"late").await;
            ready(&server, Interest::Read).await;
            assert_eq!(received(&server).await.expect("it is there"), b"late");
            assert_eq!(received(&server).await.expect("the end"), b"");
            server.shutdown(Shutdown::Write).expect("it is connected");
            hung_up(&server).await;
            assert_eq!(received(&client).await.expect("the end"), b"");
            assert!(!ready(&client, Interest::Write).await.hangup);
            // Now bytes can neither be read nor refused in peace.
            sent(&client, b"x").await;
            assert_eq!(errno(server.take_error()), Errno::CONNRESET);
            assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
        })
        .await;
    }

    #[tokio::test]
    async fn a_closed_peer_is_an_end_and_then_a_broken_pipe() {
        on_both(async |network| {
            let (client, server) = pair(&network).await;
            sent(&client, b"rest").await;
            drop(client);
            assert_eq!(received(&server).await.expect("it is there"), b"rest");
            assert_eq!(received(&server).await.expect("the end"), b"");
            sent(&server, b"taken, and answered with a reset").await;
            hung_up(&server).await;
            assert_eq!(errno(send(&server, b"x")), Errno::PIPE);
            assert_eq!(receive(&server).expect("still the end"), b"");
            assert_eq!(errno(server.shutdown(Shutdown::Both)), Errno::NOTCONN);
        })
        .await;
    }

    #[tokio::test]
    async fn unread_bytes_make_a_close_a_reset() {
        on_both(async |network| {
            let (client, server) = pair(&network).await;
            sent(&client, b"never read").await;
            sent(&server, b"before").await;
            ready(&server, Interest::Read).await;
            drop(server);
            hung_up(&client).await;
            assert_eq!(received(&client).await.expect("it came before"), b"before");
            assert_eq!(errno(receive(&client)), Errno::CONNRESET);
            assert_eq!(receive(&client).expect("the end"), b"");
            assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
            assert_eq!(errno(client.peer_address()), Errno::NOTCONN);
        })
        .await;
    }

    #[tokio::test]
    async fn lingering_no_time_is_a_reset() {
        on_both(async |network| {
            for sends in [true, false] {
                let (client, server) = pair(&network).await;
                server.set_option(SocketOption::Linger(Some(Duration::ZERO))).expect("it is set");
                drop(server);
                hung_up(&client).await;
                let outcome = if sends { send(&client, b"x").map(|_| vec![]) } else { receive(&client) };
                assert_eq!(errno(outcome), Errno::CONNRESET);
                client.take_error().expect("it was taken");
                assert_eq!(errno(send(&client, b"x")), Errno::PIPE);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_buffer_stops_the_sender_until_it_is_read() {
        on_both(async |network| {
            let (client, server) = pair(&network).await;
            let block = [7; 10_000];
            let mut sent = 0;
            let filling = async {
                loop {
                    sent += until(&client, Interest::Write, || send(&client, &block)).await.expect("it is sent");
                }
            };
            timeout(Duration::from_millis(50), filling).await.expect_err("it fills up");
            assert!(!is_ready(&client, Interest::Write));
            let mut read = 0;
            let reader = async {
                while read < sent {
                    read += received(&server).await.expect("it is there").len();
                }
            };
            let writer = ready(&client, Interest::Write);
            tokio::join!(reader, writer);
            assert_eq!(read, sent);
        })
        .await;
    }

    #[tokio::test]
    async fn a_fresh_stream_socket_refuses_what_needs_a_peer() {
        on_both(async |network| {
            let socket = tcp(&network);
            hung_up(&socket).await;
            assert_eq!(errno(received(&socket).await), Errno::NOTCONN);
            assert_eq!(errno(send(&socket, b"x")), Errno::PIPE);
            assert_eq!(errno(socket.peer_address()), Errno::NOTCONN);
            assert_eq!(errno(socket.accept()), Errno::INVAL);
            assert_eq!(errno(socket.connect((Ipv6Addr::LOCALHOST, 1).into())), Errno::AFNOSUPPORT);
            assert_eq!(errno(socket.shutdown(Shutdown::Both)), Errno::NOTCONN);
            let (listener, _) = listening(&network, 1);
            // The operating system's, which is never ready, is only asked every other time.
            let asked = [errno(receive(&listener)), errno(receive(&listener))];
            assert!(asked.contains(&Errno::NOTCONN));
            let asked = [errno(send(&listener, b"x")), errno(send(&listener, b"x"))];
            assert!(asked.contains(&Errno::PIPE));
        })
        .await;
    }

    #[tokio::test]
    async fn options_are_remembered() {
        on_both(async |network| {
            let socket = tcp(&network);
            for option in [
                SocketOption::ReuseAddress(true),
                SocketOption::Broadcast(true),
                SocketOption::KeepAlive(true),
                SocketOption::OobInline(true),
                SocketOption::Linger(Some(Duration::from_secs(3))),
            ] {
                socket.set_option(option).expect("it is set");
                assert_eq!(socket.option(socket::name_of(&option)).expect("it is known"), option);
            }
            socket.set_option(SocketOption::ReceiveBuffer(10_000)).expect("it is set");
            let doubled = socket.option(OptionName::ReceiveBuffer).expect("it is known");
            assert_eq!(doubled, SocketOption::ReceiveBuffer(20_000));
            assert_eq!(tcp(&network).option(OptionName::Linger).expect("it is known"), SocketOption::Linger(None));
        })
        .await;
    }

    #[tokio::test]
    async fn datagrams_keep_their_bounds() {
        on_both(async |network| {
            let (one, two) = (udp(&network), udp(&network));
            let (at_one, at_two) = (one.local_address().expect("bound"), two.local_address().expect("bound"));
            assert!(!is_ready(&two, Interest::Read));
            assert!(!ready(&one, Interest::Write).await.hangup);
            for bytes in [&b"longer"[..], b"", b"short"] {
                assert_eq!(
                    until(&one, Interest::Write, || one.send_to(bytes, at_two)).await.expect("sent"),
                    bytes.len()
                );
            }
            let peek = ReceiveFlags { peek: true, ..ReceiveFlags::default() };
            let take = ReceiveFlags::default();
            let mut buffer = [0; 5];
            for (flags, length, truncated) in [(peek, 5, true), (take, 5, true), (take, 0, false), (take, 5, false)] {
                let datagram =
                    until(&two, Interest::Read, || two.receive_from(&mut buffer, flags)).await.expect("there");
                assert_eq!(datagram, Datagram { length, truncated, from: at_one });
            }
            assert_eq!(&buffer, b"short");
            assert_eq!(errno(two.receive_from(&mut buffer, take)), Errno::AGAIN);
        })
        .await;
    }

    #[tokio::test]
    async fn a_connected_datagram_socket_has_one_peer() {
        on_both(async |network| {
            let (one, two, other) = (udp(&network), udp(&network), udp(&network));
            let (at_one, at_two) = (one.local_address().expect("bound"), two.local_address().expect("bound"));
            let sending = until(&one, Interest::Write, || send(&one, b"x"));
            assert_eq!(errno(sending.await), Errno::DESTADDRREQ);
            assert_eq!(errno(one.peer_address()), Errno::NOTCONN);
            one.connect(at_two).expect("at once");
            assert_eq!(one.peer_address().expect("it is connected"), at_two);
            for (sender, text) in [(&other, &b"from another"[..]), (&two, b"from the peer")] {
                until(sender, Interest::Write, || sender.send_to(text, at_one)).await.expect("it is sent");
            }
            assert_eq!(received(&one).await.expect("it is there"), b"from the peer");
            assert_eq!(errno(receive(&one)), Errno::AGAIN);
            drop(two);
            sent(&one, b"to nobody").await;
            assert_eq!(errno(send(&one, b"x")), Errno::CONNREFUSED);
            sent(&one, b"to nobody").await;
            assert_eq!(errno(one.take_error()), Errno::CONNREFUSED);
            other.send_to(b"to nobody", at_two).expect("it is sent");
            other.take_error().expect("who is not connected does not hear of it");
        })
        .await;
    }

    #[tokio::test]
    async fn datagram_sockets_refuse_what_they_cannot() {
        on_both(async |network| {
            let socket = udp(&network);
            let at = socket.local_address().expect("it is bound");
            let sending = until(&socket, Interest::Write, || socket.send_to(&[0; 65_508], at));
            assert_eq!(errno(sending.await), Errno::MSGSIZE);
            assert_eq!(errno(socket.send_to(b"x", (Ipv4Addr::LOCALHOST, 0).into())), Errno::INVAL);
            assert_eq!(errno(socket.send_to(b"x", (Ipv6Addr::LOCALHOST, 9).into())), Errno::AFNOSUPPORT);
            assert_eq!(errno(socket.shutdown(Shutdown::Both)), Errno::NOTCONN);
            hung_up(&socket).await;
            assert_eq!(errno(socket.send_to(b"x", at)), Errno::PIPE);
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_datagram_queue_drops_the_newest() {
        let network = simulated(Faults::none());
        let (one, two) = (udp(&network), udp(&network));
        let at = two.local_address().expect("bound");
        for number in 0..1000_u32 {
            one.send_to(&number.to_be_bytes(), at).expect("it is sent");
        }
        let mut expected = 0..1000_u32;
        let mut count = 0;
        while let Ok(bytes) = receive(&two) {
            assert_eq!(bytes, expected.next().expect("no more than sent").to_be_bytes());
            count += 1;
        }
        assert_eq!(count, 256);
    }

    #[tokio::test]
    async fn delayed_bytes_arrive_in_order_and_before_the_end() {
        let network = simulated(Faults { delay: 1.0, delay_max: Duration::from_millis(100), ..Faults::none() });
        let (listener, at) = listening(&network, 8);
        let client = dialing(&network, at);
        assert!(!is_ready(&listener, Interest::Read) && !is_ready(&client, Interest::Write));
        assert_eq!(errno(listener.accept()), Errno::AGAIN);
        ready(&client, Interest::Write).await;
        let (server, _) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
        for byte in 0..10 {
            sent(&client, &[byte]).await;
        }
        drop(client);
        assert_eq!(errno(receive(&server)), Errno::AGAIN);
        // Two runtimes wait for the same bytes: each has to be woken by its own clock.
        let server = Arc::new(server);
        let other = thread::spawn({
            let server = Arc::clone(&server);
            move || run(async { Ok(ready(&server, Interest::Read).await) })
        });
        let mut all = Vec::new();
        loop {
            let bytes = received(&server).await.expect("it is there");
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        assert_eq!(all, Vec::from_iter(0..10));
        other.join().expect("no panic").expect("it was woken");
    }

    #[tokio::test]
    async fn delayed_datagrams_all_arrive() {
        let network = simulated(Faults { delay: 0.5, delay_max: Duration::from_millis(10), ..Faults::none() });
        let (one, two) = (udp(&network), udp(&network));
        for number in 0..100 {
            one.send_to(&[number], two.local_address().expect("bound")).expect("it is sent");
        }
        let mut all = Vec::new();
        while all.len() < 100 {
            all.extend(received(&two).await.expect("it is there"));
        }
        all.sort_unstable();
        assert_eq!(all, Vec::from_iter(0..100));
    }

    #[tokio::test]
    async fn a_client_that_gives_up_is_accepted_and_reset() {
        let network = simulated(Faults { delay: 1.0, delay_max: Duration::from_millis(100), ..Faults::none() });
        let (listener, at) = listening(&network, 8);
        drop(dialing(&network, at));
        let (server, _) = until(&listener, Interest::Read, || listener.accept()).await.expect("it is there");
        assert_eq!(errno(receive(&server)), Errno::CONNRESET);
    }

    #[tokio::test]
    async fn an_injected_reset_is_seen_on_both_sides() {
        let network = simulated(Faults { reset: 1.0, ..Faults::none() });
        let (client, server) = pair(&network).await;
        assert_eq!(errno(send(&client, b"x")), Errno::CONNRESET);
        hung_up(&server).await;
        assert_eq!(errno(receive(&server)), Errno::CONNRESET);
        assert_eq!(receive(&server).expect("the end"), b"");
    }

    #[tokio::test]
    async fn an_injected_refusal_is_a_refusal() {
        let network = simulated(Faults { refuse: 1.0, ..Faults::none() });
        let (listener, at) = listening(&network, 8);
        let client = dialing(&network, at);
        assert_eq!(errno(client.take_error()), Errno::CONNREFUSED);
        assert_eq!(errno(listener.accept()), Errno::AGAIN);
    }

    #[tokio::test]
    async fn connections_and_listeners_are_a_tests_own_side() {
        let network = Simulated::new(1, Faults::none());
        let at = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 80));
        assert_eq!(errno(network.connect(at).await), Errno::CONNREFUSED);
        let listener = network.listen(at).expect("a free address");
        assert_eq!(errno(network.listen(at)), Errno::ADDRINUSE);
        assert_eq!(listener.local_address().expect("it is bound"), at);
        let connecting = tokio::spawn(network.connect(at));
        let (mut server, peer) = listener.accept().await.expect("it is there");
        let mut client = connecting.await.expect("no panic").expect("it is connected");
        assert_eq!(client.local_address().expect("it is connected"), peer);
        assert_eq!(client.peer_address().expect("it is connected"), at);
        client.write_all(b"request").await.expect("it is sent");
        client.shutdown().await.expect("it is connected");
        let mut text = String::new();
        server.read_to_string(&mut text).await.expect("it is there");
        assert_eq!(text, "request");
        server.write_all(b"resp").await.expect("it is sent");
        server.reset();
        let mut text = Vec::new();
        assert_eq!(errno(client.read_to_end(&mut text).await), Errno::CONNRESET);
        assert_eq!(text, b"resp");
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn every_waiter_is_woken_and_none_is_kept_without_bound() {
        let (client, server) = pair(&simulated(Faults::none())).await;
        let Socket::Simulated(endpoint) = &server else { panic!("it is simulated") };
        let kept = || endpoint.network.lock(|world| world.socket(endpoint.id).waiters[0].len());
        let counts: Vec<Arc<Count>> = (0..1000).map(|_| Arc::default()).collect();
        for count in &counts {
            let waker = Waker::from(Arc::clone(count));
            for _ in 0..3 {
                assert!(server.poll_ready(&mut Context::from_waker(&waker), Interest::Read).is_pending());
            }
        }
        assert_eq!(kept(), 1000 - 3 * 256);
        sent(&client, b"x").await;
        assert_eq!(kept(), 0);
        assert!(counts.iter().all(|count| count.0.load(Ordering::Relaxed) == 1));
    }

    /// What a fixed sequence of calls does on the network of a seed.
    fn trace(seed: u64) -> String {
        let faults = Faults { partial_receive: 0.3, partial_send: 0.3, reset: 0.05, refuse: 0.3, ..Faults::none() };
        let network = Network::Simulated(Simulated::new(seed, faults));
        let mut text = String::new();
        for _ in 0..20 {
            let (listener, at) = listening(&network, 8);
            let client = dialing(&network, at);
            text += &format!("connect: {:?}\n", client.take_error());
            let Ok((server, _)) = listener.accept() else { continue };
            for _ in 0..10 {
                text += &format!("send: {:?}\n", send(&client, b"a few bytes"));
                text += &format!("receive: {:?}\n", receive(&server));
            }
        }
        text
    }

    #[test]
    fn a_seed_says_what_happens() {
        assert_eq!(trace(1), trace(1));
        assert_ne!(trace(1), trace(2));
        let text = trace(1);
        for outcome in ["connect: Ok", "refused", "send: Ok(11)", "send: Ok(4)", "receive: Ok([97])", "reset by peer"] {
            assert!(text.contains(outcome), "{outcome} is not in\n{text}");
        }
    }

    #[test]
    fn a_megabyte_survives_partial_calls_and_delays() {
        for seed in 0..20 {
            let faults = Faults {
                partial_receive: 0.2,
                partial_send: 0.2,
                delay: 0.02,
                delay_max: Duration::from_millis(2),
                buffer_bytes: 4096 << (seed % 5),
                ..Faults::none()
            };
            assert_eq!(echo(seed, faults).expect("nothing is reset"), MEGABYTE);
        }
    }

    #[test]
    fn a_reset_is_never_taken_for_an_end() {
        let outcomes = (0..20)
            .map(|seed| echo(seed, Faults { partial_receive: 0.2, partial_send: 0.2, reset: 0.01, ..Faults::none() }));
        let (whole, reset): (Vec<_>, Vec<_>) = outcomes.partition(io::Result::is_ok);
        assert!(whole.into_iter().flatten().all(|count| count == MEGABYTE));
        assert!(!reset.is_empty());
        for outcome in reset {
            assert!([Errno::CONNRESET, Errno::PIPE].contains(&errno(outcome)));
        }
    }

    /// Sends a megabyte to a server on another thread, as a guest is, and counts what comes back.
    fn echo(seed: u64, faults: Faults) -> io::Result<usize> {
        let network = Simulated::new(seed, faults);
        let listener = network.listen(ANY)?;
        let at = listener.local_address()?;
        let server = thread::spawn(move || {
            run(async {
                let (stream, _) = listener.accept().await?;
                let (mut reader, mut writer) = split(stream);
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            })
        });
        let bytes: Vec<u8> = std::iter::repeat_with({
            let mut rng = fastrand::Rng::with_seed(seed);
            move || rng.u8(..)
        })
        .take(MEGABYTE)
        .collect();
        let outcome = run(async {
            let (mut reader, mut writer) = split(network.connect(at).await?);
            let expected = bytes.clone();
            let writing = tokio::spawn(async move {
                writer.write_all(&bytes).await?;
                writer.shutdown().await
            });
            let mut count = 0;
            let mut buffer = vec![0; 50_000];
            let outcome = loop {
                match reader.read(&mut buffer).await {
                    Ok(0) => break Ok(count),
                    Ok(read) => {
                        assert_eq!(buffer[..read], expected[count..count + read]);
                        count += read;
                    }
                    Err(error) => break Err(error),
                }
            };
            let written = writing.await.expect("no panic");
            outcome.and_then(|count| written.map(|()| count))
        });
        let served = server.join().expect("no panic");
        outcome.and_then(|count| served.map(|()| count))
    }

    /// Runs to the end on a runtime of its own, in bounded time.
    fn run<R>(task: impl Future<Output = io::Result<R>>) -> io::Result<R> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { timeout(PATIENCE, task).await.expect("it comes to an end") })
    }

    const MEGABYTE: usize = 1 << 20;
    const PATIENCE: Duration = Duration::from_secs(10);
}
