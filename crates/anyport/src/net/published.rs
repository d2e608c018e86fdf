//! Public ports: reserved on the host before any guest starts or when one binds them, fed to the guests that
//! listen on them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::connections::{All, Connections};
use super::port::{ACCEPT_BACKLOG, Claim, Host, Shared, Side, State, Stay};
use super::queue::Arrival;
use super::{Endpoint, Network};
use crate::address::{Family, HostAddress, Publish, Transport};

pub(crate) use super::port::{OnListen, Origin, Port, inherit};

/// The public ports of one server, for all its workers: the listeners that its guests are handed, then
/// the ports of its policy in that order, then those that guests have opened.
pub(crate) struct Published {
    ports: Mutex<Vec<Arc<Port>>>,
    /// How many of them are handed over; the others guests bind.
    handed: usize,
    shared: Shared,
    /// Takes no connection any more.
    closed: AtomicBool,
    /// For each worker: whether its guests have ended for good.
    gone: Vec<AtomicBool>,
    /// All connections.
    pub(crate) all: Arc<All>,
    /// Whether some guest has begun to serve: one that fails later may do better the next time.
    pub(crate) has_served: AtomicBool,
    /// Told when a guest begins to listen or ends, when connections wait for the front, and when the
    /// ports close.
    pub(crate) changed: Arc<Notify>,
}

impl Published {
    /// Binds every port, so that a taken one is known before a guest starts. The first `handed` ones are
    /// handed over, and listen at once. With `fed`, connections come from the front, also for a single worker.
    ///
    /// # Errors
    /// The first port that cannot be had, and why.
    pub(crate) fn reserve(
        network: &Network, ports: Vec<(Publish, Origin)>, handed: usize, workers: usize, most: usize, fed: bool,
        on_listen: Option<&OnListen>,
    ) -> Result<Self, (Publish, io::Error)> {
        let (all, changed) = (Arc::new(All::default()), Arc::new(Notify::new()));
        let shared = Shared {
            network: network.clone(),
            workers: (0..workers).map(|_| Connections::new(most, &all)).collect(),
            unassigned: Connections::new(usize::MAX, &all),
            fed,
            changed: Arc::clone(&changed),
            on_listen: on_listen.cloned(),
        };
        let ports = ports.into_iter().enumerate().map(|(index, (publish, origin))| {
            let port = Port::reserve(&shared, publish, origin, Stay::Always)?;
            if index < handed {
                port.begin(ACCEPT_BACKLOG).map_err(|error| (port.publish.clone(), error))?;
            }
            Ok(Arc::new(port))
        });
        let ports = Mutex::new(ports.collect::<Result<_, _>>()?);
        Ok(Self {
            ports,
            handed,
            closed: AtomicBool::new(false),
            gone: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            shared,
            all,
            has_served: AtomicBool::new(false),
            changed,
        })
    }

    /// The endpoint for a port that a worker's guest binds, by its place in the policy.
    pub(crate) fn claim(&self, index: usize, worker: usize) -> io::Result<Claim> {
        told(self.named(index).claim(worker))
    }

    /// Whether a worker's guest has that port already.
    pub(crate) fn is_held(&self, index: usize, worker: usize) -> bool {
        self.named(index).is_held_by(worker)
    }

    /// The endpoint for an address of the host that a worker's guest binds without its being published: bound
    /// now, unless another worker's guest has it already.
    pub(crate) fn open(&self, address: SocketAddr, transport: Transport, worker: usize) -> io::Result<Claim> {
        let claimed = {
            let mut ports = self.lock();
            forget_unused(&mut ports);
            match ports.iter().find(|port| port.is_opened_at(address, transport)) {
                Some(port) => port.claim(worker),
                None => self.add(&mut ports, address, transport, Origin::Bind, Stay::WhileUsed, worker),
            }
        };
        told(claimed)
    }

    /// The same for a TCP socket that the guest has bound to a free port by itself, when it listens.
    pub(crate) fn adopt(&self, socket: &Arc<Endpoint>, address: SocketAddr, worker: usize) -> io::Result<Endpoint> {
        // Unknown to the poller, which may not be the one of who accepts.
        let socket = socket.renewed()?.map_or_else(|| Arc::clone(socket), Arc::new);
        let mut ports = self.lock();
        forget_unused(&mut ports);
        let origin = Origin::Bound(socket);
        Ok(self.add(&mut ports, address, Transport::Tcp, origin, Stay::ForOneGuest, worker)?.endpoint)
    }

    fn add(
        &self, ports: &mut Vec<Arc<Port>>, address: SocketAddr, transport: Transport, origin: Origin, stay: Stay,
        worker: usize,
    ) -> io::Result<Claim> {
        let publish = Publish { host: HostAddress::Ip(address), guest_port: Some(address.port()), transport };
        // Datagrams are no connections: they pass until the end.
        let is_late = transport == Transport::Tcp && self.closed.load(Ordering::SeqCst);
        let origin = if is_late { Origin::Closed } else { origin };
        let port = Port::reserve(&self.shared, publish, origin, stay).map_err(|(_, error)| error)?;
        for (gone, _) in self.gone.iter().enumerate().filter(|(_, gone)| gone.load(Ordering::SeqCst)) {
            port.gone(gone);
        }
        let port = Arc::new(port);
        // One that cannot be had is closed again.
        let claim = port.claim(worker)?;
        ports.push(port);
        Ok(claim)
    }

    /// The listeners to hand to a worker's next guest, with their addresses as it sees them.
    pub(crate) fn hand_over(&self, worker: usize) -> io::Result<Vec<(Endpoint, SocketAddr)>> {
        let mut handed = Vec::new();
        let ports = self.ports();
        for port in &ports[..self.handed] {
            match port.hand_over(worker) {
                Ok(listener) => handed.push(listener),
                Err(error) => {
                    // Those that it had already stay as they are, for the next attempt.
                    self.restarting(worker);
                    return Err(error);
                }
            }
        }
        for port in &ports {
            port.begin_anew(worker);
        }
        Ok(handed)
    }

    /// The IP version that a port is published on.
    pub(crate) fn family(&self, index: usize) -> Family {
        self.named(index).address().map_or(Family::Inet4, |address| Family::of(&address))
    }

    /// All ports that there are now.
    pub(crate) fn ports(&self) -> Vec<Arc<Port>> {
        let mut ports = self.lock();
        forget_unused(&mut ports);
        ports.clone()
    }

    fn named(&self, index: usize) -> Arc<Port> {
        // These are never forgotten.
        Arc::clone(&self.lock()[self.handed + index])
    }

    pub(crate) fn workers(&self) -> usize {
        self.shared.workers.len()
    }

    pub(crate) fn connections(&self, worker: usize) -> &Arc<Connections> {
        &self.shared.workers[worker]
    }

    /// The worker with the fewest connections of those whose guests listen on a port and have room
    /// for another.
    fn least_loaded(&self, state: &State) -> Option<usize> {
        (0..self.workers())
            .filter(|worker| state.guests[*worker] == Side::Listening && self.connections(*worker).has_room())
            .min_by_key(|worker| self.connections(*worker).held())
    }

    /// Whether a worker would be given a connection of this port.
    pub(crate) fn has_room(&self, port: &Port) -> bool {
        self.least_loaded(&port.lock()).is_some()
    }

    /// Whether a worker has nearly as many connections as it may.
    pub(crate) fn is_nearly_full(&self, worker: usize) -> bool {
        self.connections(worker).is_nearly_full()
    }

    /// Waits until a worker may accept another connection.
    pub(crate) async fn room(&self, worker: usize) {
        self.connections(worker).room().await;
    }

    /// Gives the next connection of a port to the worker with the fewest. One that is raw is given back with
    /// `enters`: it is the caller's to let in.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, or nobody has room for it.
    pub(crate) fn feed(&self, port: &Port, enters: bool) -> io::Result<Option<Arrival>> {
        // Held until it is given: a worker whose guest ends meanwhile gives it back.
        let state = port.lock();
        let worker = self.least_loaded(&state).ok_or(io::ErrorKind::WouldBlock)?;
        let arrival = match (port.unassigned().pop(), &state.host) {
            (Some(arrival), _) => arrival,
            (None, Host::Listening(host)) if !port.is_closed() => {
                Arrival::accept(host, self.connections(worker).permit())?
            }
            _ => return Err(io::ErrorKind::WouldBlock.into()),
        };
        if enters && arrival.is_raw {
            return Ok(Some(arrival));
        }
        match port.queue(worker).push(arrival) {
            Ok(()) => Ok(None),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Lets a connection in, for whichever worker has room for it.
    ///
    /// # Errors
    /// Nobody will serve the port any more.
    pub(crate) fn admit(&self, port: &Port, arrival: Arrival) -> io::Result<()> {
        port.entrance().push(arrival).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// A connection of this program to a port of the guest.
    ///
    /// # Errors
    /// No such port is published, or nobody will serve it any more.
    pub(crate) fn connect(&self, guest_port: u16) -> io::Result<UnixStream> {
        let ports = self.ports();
        let streams = || ports.iter().filter(|port| port.publish.transport == Transport::Tcp);
        let named = streams().find(|port| port.publish.guest_port == Some(guest_port));
        let port = named.or_else(|| streams().find(|port| port.may_be(guest_port)));
        let port = port.ok_or(io::ErrorKind::AddrNotAvailable)?;
        if port.is_closed() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        let (stream, peer) = (Endpoint::from_stream(theirs.into())?, super::os::LOCAL_PEER);
        self.admit(port, Arrival { stream, peer, permit: port.entrance().permit(), is_raw: false })?;
        Ok(ours)
    }

    /// A worker's guest has ended, and another will take its place: the ports stay as they are.
    /// Connections that wait for it go to others.
    pub(crate) fn restarting(&self, worker: usize) {
        for port in self.ports() {
            port.restarting(worker);
        }
        self.changed.notify_waiters();
    }

    /// A worker's guest has ended for good.
    pub(crate) fn gone(&self, worker: usize) {
        // With the lock held: a port is opened before that, or knows of it.
        let ports = self.lock();
        self.gone[worker].store(true, Ordering::SeqCst);
        for port in &*ports {
            port.gone(worker);
        }
    }

    /// Takes the connections that wait at the ports, and no more.
    pub(crate) fn close(&self) {
        // As there.
        let ports = {
            let ports = self.lock();
            self.closed.store(true, Ordering::SeqCst);
            ports.clone()
        };
        for port in ports.iter().filter(|port| port.publish.transport == Transport::Tcp) {
            port.close();
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Port>>> {
        self.ports.lock().expect("no panic while held")
    }
}

/// Tells where datagrams come in. Not with the list of ports locked: who is told may ask for it.
fn told(claimed: io::Result<Claim>) -> io::Result<Claim> {
    claimed.inspect(|claim| {
        if let Some(lease) = &claim.lease {
            lease.tell();
        }
    })
}

/// Gives up the ports that guests have opened and closed again. Nobody claims one meanwhile, since who does
/// has the same lock.
fn forget_unused(ports: &mut Vec<Arc<Port>>) {
    ports.retain(|port| {
        let unused = port.is_unused();
        if unused {
            port.forget();
        }
        !unused
    });
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.lock()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;
    use crate::net::port::Claim;

    fn published(workers: usize) -> Published {
        published_at(workers, Vec::new())
    }

    fn published_at(workers: usize, ports: Vec<(Publish, Origin)>) -> Published {
        let published = Published::reserve(&Network::Os, ports, 0, workers, 10, workers > 1, None);
        published.unwrap_or_else(|(_, error)| panic!("{error}"))
    }

    /// An address of loopback that nothing else uses.
    fn address() -> SocketAddr {
        let mut dice = fastrand::Rng::new();
        (Ipv4Addr::new(127, dice.u8(1..), dice.u8(..), dice.u8(1..255)), dice.u16(10_000..32_000)).into()
    }

    fn opened(published: &Published, address: SocketAddr, worker: usize) -> Claim {
        let claim = published.open(address, Transport::Tcp, worker).expect("it is free");
        claim.endpoint.listen(64).expect("it is bound");
        claim
    }

    fn is_open(address: SocketAddr) -> bool {
        TcpStream::connect(address).is_ok()
    }

    /// A guest ends, and its descriptors with it.
    fn ends(published: &Published, worker: usize, held: Vec<Claim>) {
        // As often as it is said.
        published.restarting(worker);
        published.restarting(worker);
        drop(held);
    }

    #[test]
    fn a_port_that_the_next_guest_does_not_open_is_given_up_with_it() {
        let published = published(1);
        let (kept, missed) = (address(), address());
        let mut held = [kept, missed].map(|address| opened(&published, address, 0)).into();
        for life in 1..4 {
            ends(&published, 0, held);
            assert!(is_open(kept));
            assert_eq!(is_open(missed), life == 1, "life {life}");
            assert!(published.hand_over(0).expect("nothing to hand over").is_empty());
            assert_eq!(is_open(missed), life == 1, "life {life}");
            held = vec![opened(&published, kept, 0)];
        }
        assert_eq!(published.ports().len(), 1);
        drop(held);
        assert!(!is_open(kept));
        assert!(published.ports().is_empty());
    }

    #[test]
    fn a_port_is_there_until_the_last_guest_has_closed_it() {
        let published = published(2);
        let address = address();
        let [first, second] = [0, 1].map(|worker| opened(&published, address, worker));
        assert_eq!(published.ports().len(), 1);
        assert!(published.open(address, Transport::Tcp, 1).is_err());
        drop(first);
        assert!(is_open(address));
        drop(second);
        assert!(!is_open(address));
        assert!(published.ports().is_empty());
        drop(opened(&published, address, 1));
    }

    /// Where the others' guests have not bound it yet: what comes meanwhile waits for them.
    #[test]
    fn a_published_port_outlives_the_guest_that_came_first() {
        let ports = ["127.0.0.1:0:80", "127.0.0.1:0:53/udp"];
        let ports = ports.map(|publish| (publish.parse().expect("a port"), Origin::Bind)).into();
        let published = published_at(2, ports);
        let addresses: Vec<SocketAddr> = published.ports().iter().filter_map(|port| port.address()).collect();
        let first: Vec<Claim> = (0..2).map(|index| published.claim(index, 0).expect("it is published")).collect();
        first[0].endpoint.listen(64).expect("it is bound");
        ends(&published, 0, first);
        published.gone(0);
        assert!(is_open(addresses[0]));
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        client.send_to(b"early", addresses[1]).expect("it is bound");
        let second = published.claim(1, 1).expect("it is published");
        let received = second.endpoint.receive_from(&mut [0; 8], crate::net::ReceiveFlags::default());
        assert_eq!(received.expect("it has waited").length, 5);
        published.gone(1);
        assert!(!is_open(addresses[0]));
    }

    /// Clients would wait for somebody who may never come.
    #[test]
    fn a_published_port_that_is_closed_is_closed_for_guests_that_have_not_come() {
        let published = published_at(2, vec![("127.0.0.1:0:80".parse().expect("a port"), Origin::Bind)]);
        let address = published.ports()[0].address().expect("it is an IP port");
        let first = published.claim(0, 0).expect("it is published");
        first.endpoint.listen(64).expect("it is bound");
        assert!(is_open(address));
        drop(first);
        assert!(!is_open(address));
        let second = published.claim(0, 1).expect("it is published");
        second.endpoint.listen(64).expect("it is bound");
        assert!(is_open(address));
    }

    #[test]
    fn a_port_that_cannot_be_listened_on_is_no_port() {
        let published = published(1);
        let address = address();
        let taken = std::net::TcpListener::bind(address).expect("it is free");
        assert!(published.open(address, Transport::Tcp, 0).is_err());
        assert!(published.ports().is_empty());
        drop(taken);
        drop(opened(&published, address, 0));
    }

    #[test]
    fn workers_that_are_gone_take_nothing_of_a_port_that_comes_later() {
        let published = published(2);
        let address = address();
        published.gone(0);
        let claim = opened(&published, address, 1);
        let client = published.connect(address.port()).expect("one is left");
        published.gone(1);
        drop(claim);
        let mut byte = [0];
        assert_eq!(io::Read::read(&mut &client, &mut byte).expect("it has ended"), 0);
    }
}
