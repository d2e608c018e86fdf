//! Public ports: reserved on the host before any guest starts, fed to the guests that listen on them.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix};
use tokio::sync::Notify;

use super::connections::{All, Connections};
use super::inlet::Inlet;
use super::queue::{Arrival, Queue};
use super::unix_path::UnixPath;
use super::{Endpoint, Network, Shutdown, SocketOption};
use crate::address::{Family, HostAddress, Publish, Transport};

/// Told when a public port begins to be served: before that, clients are refused.
pub(crate) type OnListen = Arc<dyn Fn(&Publish) + Send + Sync>;

/// Pending connections of a listener that is handed over, as Linux's own `SOMAXCONN` since 5.4.
const ACCEPT_BACKLOG: u32 = 4096;

/// The public ports of one server, for all its workers: the listeners that its guests are handed, then
/// the ports of its policy in that order.
pub(crate) struct Published {
    ports: Vec<Arc<Port>>,
    /// How many of them are handed over; the others guests bind.
    handed: usize,
    /// The connections of each worker.
    connections: Vec<Arc<Connections>>,
    /// All connections.
    pub(crate) all: Arc<All>,
    /// Whether some guest has begun to serve: one that fails later may do better the next time.
    pub(crate) has_served: AtomicBool,
    /// Told when a guest begins to listen or ends, when connections wait for the front, and when the
    /// ports close.
    pub(crate) changed: Arc<Notify>,
}

/// One public port.
pub(crate) struct Port {
    /// With the address that it has on the host.
    pub(crate) publish: Publish,
    network: Network,
    /// The socket is the service manager's, who may hand it to the next process: it is not shut down.
    inherited: bool,
    state: Mutex<State>,
    /// Takes no connection any more.
    closed: AtomicBool,
    /// For each worker.
    queues: Vec<Queue>,
    /// Those that the front has not given to a worker yet; of a single worker, none.
    unassigned: Queue,
    changed: Arc<Notify>,
    on_listen: Option<OnListen>,
}

struct State {
    /// Of a Unix socket that this program makes. First, so that its file goes before the socket is closed.
    unix: Option<UnixPath>,
    host: Host,
    /// For each worker.
    guests: Vec<Side>,
    told: bool,
}

/// A guest's side of a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Away,
    Bound,
    Listening,
    /// The guest has ended, and another is about to take its place.
    Restarting,
}

/// The host's side of a port.
enum Host {
    /// Not needed: connections come from this program.
    None,
    /// Bound, not yet listening: clients are refused until a guest listens, as with any server.
    Bound(Arc<Endpoint>),
    Listening(Arc<Endpoint>),
    /// No guest listens any more.
    Closed,
}

/// What a port is made of.
pub(crate) enum Origin {
    /// To be bound at the address of its [`Publish`].
    Bind,
    /// A socket that listens already.
    Inherited(Endpoint),
}

impl Published {
    /// Binds every port, so that a taken one is known before a guest starts. The first `handed` ones are
    /// handed over, and listen at once.
    ///
    /// # Errors
    /// The first port that cannot be had, and why.
    pub(crate) fn reserve(
        network: &Network, ports: Vec<(Publish, Origin)>, handed: usize, workers: usize, most: usize,
        on_listen: Option<&OnListen>,
    ) -> Result<Self, (Publish, io::Error)> {
        let (all, changed) = (Arc::new(All::default()), Arc::new(Notify::new()));
        let connections: Vec<_> = (0..workers).map(|_| Connections::new(most, &all)).collect();
        let unassigned = Connections::new(usize::MAX, &all);
        let ports = ports.into_iter().enumerate().map(|(index, (publish, origin))| {
            let port = Port::reserve(network, publish, origin, &connections, &unassigned, &changed, on_listen)?;
            if index < handed {
                port.begin(ACCEPT_BACKLOG).map_err(|error| (port.publish.clone(), error))?;
            }
            Ok(Arc::new(port))
        });
        let ports = ports.collect::<Result<_, _>>()?;
        Ok(Self { ports, handed, connections, all, has_served: AtomicBool::new(false), changed })
    }

    /// The endpoint for a port that a worker's guest binds, by its place in the policy.
    pub(crate) fn claim(&self, index: usize, worker: usize) -> io::Result<Endpoint> {
        let port = &self.ports[self.handed + index];
        match port.publish.transport {
            Transport::Tcp => Ok(Endpoint::Inlet(port.inlet(worker)?)),
            Transport::Udp => {
                let endpoint = port.datagrams()?;
                port.lock().guests[worker] = Side::Listening;
                port.tell();
                Ok(endpoint)
            }
        }
    }

    /// The listeners to hand to a worker's guest, with their addresses as it sees them.
    pub(crate) fn hand_over(&self, worker: usize) -> io::Result<Vec<(Endpoint, SocketAddr)>> {
        let mut handed = Vec::new();
        for port in &self.ports[..self.handed] {
            match port.hand_over(worker) {
                Ok(listener) => handed.push(listener),
                Err(error) => {
                    // Those that it had already stay as they are, for the next attempt.
                    self.restarting(worker);
                    return Err(error);
                }
            }
        }
        Ok(handed)
    }

    /// The IP version that a port is published on.
    pub(crate) fn family(&self, index: usize) -> Family {
        self.ports[self.handed + index].address().map_or(Family::Inet4, |address| Family::of(&address))
    }

    pub(crate) fn ports(&self) -> &[Arc<Port>] {
        &self.ports
    }

    pub(crate) fn workers(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn connections(&self, worker: usize) -> &Arc<Connections> {
        &self.connections[worker]
    }

    /// The worker with the fewest connections of those whose guests listen on a port and have room
    /// for another.
    fn least_loaded(&self, state: &State) -> Option<usize> {
        (0..self.connections.len())
            .filter(|worker| state.guests[*worker] == Side::Listening && self.connections[*worker].has_room())
            .min_by_key(|worker| self.connections[*worker].held())
    }

    /// Whether a worker would be given a connection of this port.
    pub(crate) fn has_room(&self, port: &Port) -> bool {
        self.least_loaded(&port.lock()).is_some()
    }

    /// Gives the next connection of a port to the worker with the fewest.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, or nobody has room for it.
    pub(crate) fn feed(&self, port: &Port) -> io::Result<()> {
        // Held until it is given: a worker whose guest ends meanwhile gives it back.
        let state = port.lock();
        let worker = self.least_loaded(&state).ok_or(io::ErrorKind::WouldBlock)?;
        let arrival = match (port.unassigned.pop(), &state.host) {
            (Some(arrival), _) => arrival,
            (None, Host::Listening(host)) if !port.is_closed() => {
                Arrival::accept(host, self.connections[worker].permit())?
            }
            _ => return Err(io::ErrorKind::WouldBlock.into()),
        };
        port.queues[worker].push(arrival).map_err(|_| io::ErrorKind::ConnectionRefused.into())
    }

    /// A connection of this program to a port of the guest.
    ///
    /// # Errors
    /// No such port is published, or nobody will serve it any more.
    pub(crate) fn connect(&self, guest_port: u16) -> io::Result<UnixStream> {
        let streams = || self.ports.iter().filter(|port| port.publish.transport == Transport::Tcp);
        let named = streams().find(|port| port.publish.guest_port == Some(guest_port));
        let port = named.or_else(|| streams().find(|port| port.may_be(guest_port)));
        let port = port.ok_or(io::ErrorKind::AddrNotAvailable)?;
        if port.is_closed() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        let entrance = port.entrance();
        let (stream, peer) = (Endpoint::from_stream(theirs.into())?, super::os::LOCAL_PEER);
        let arrival = Arrival { stream, peer, permit: entrance.permit() };
        entrance.push(arrival).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        self.changed.notify_waiters();
        Ok(ours)
    }

    /// A worker's guest has ended, and another will take its place: the ports stay as they are.
    /// Connections that wait for it go to others.
    pub(crate) fn restarting(&self, worker: usize) {
        for port in &self.ports {
            port.withdraw(worker, Side::Restarting);
        }
        self.changed.notify_waiters();
    }

    /// A worker's guest has ended for good.
    pub(crate) fn gone(&self, worker: usize) {
        for port in &self.ports {
            port.withdraw(worker, Side::Away);
            port.queues[worker].close();
            if port.queues.iter().all(Queue::is_closed) {
                port.unassigned.close();
            }
        }
    }

    /// Takes the connections that wait at the ports, and no more.
    pub(crate) fn close(&self) {
        for port in self.ports.iter().filter(|port| port.publish.transport == Transport::Tcp) {
            port.close();
        }
        self.changed.notify_waiters();
    }
}

impl Port {
    fn reserve(
        network: &Network, publish: Publish, origin: Origin, workers: &[Arc<Connections>],
        unassigned: &Arc<Connections>, changed: &Arc<Notify>, on_listen: Option<&OnListen>,
    ) -> Result<Self, (Publish, io::Error)> {
        let inherited = matches!(origin, Origin::Inherited(_));
        let mut state = State { unix: None, host: Host::Closed, guests: vec![Side::Away; workers.len()], told: false };
        let reserved = match origin {
            Origin::Inherited(endpoint) => {
                state.host = Host::Listening(Arc::new(endpoint));
                Ok(())
            }
            Origin::Bind => state.reserve(network, &publish),
        };
        if let Err(error) = reserved {
            return Err((publish, error));
        }
        let mut publish = publish;
        if let (HostAddress::Ip(address), Host::Bound(endpoint)) = (&mut publish.host, &state.host) {
            match endpoint.local_address() {
                Ok(local) => *address = local,
                Err(error) => return Err((publish, error)),
            }
        }
        Ok(Self {
            publish,
            network: network.clone(),
            inherited,
            state: Mutex::new(state),
            closed: AtomicBool::new(false),
            queues: workers.iter().map(Queue::new).collect(),
            unassigned: Queue::new(unassigned),
            changed: Arc::clone(changed),
            on_listen: on_listen.cloned(),
        })
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.publish.address()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn queue(&self, worker: usize) -> &Queue {
        &self.queues[worker]
    }

    /// Where connections come in: to the front, or straight to the only worker.
    fn entrance(&self) -> &Queue {
        if let [only] = &self.queues[..] { only } else { &self.unassigned }
    }

    /// The host's listener, if connections are taken from it.
    pub(crate) fn listener(&self) -> Option<Arc<Endpoint>> {
        match &self.lock().host {
            Host::Listening(endpoint) if !self.is_closed() => Some(Arc::clone(endpoint)),
            _ => None,
        }
    }

    pub(super) fn host(&self) -> Option<Arc<Endpoint>> {
        match &self.lock().host {
            Host::Bound(endpoint) | Host::Listening(endpoint) => Some(Arc::clone(endpoint)),
            Host::None | Host::Closed => None,
        }
    }

    /// Whether this program may mean this port by a number that no publication names.
    fn may_be(&self, guest_port: u16) -> bool {
        let is_chosen_later = matches!(self.publish.guest_port, None | Some(0));
        is_chosen_later && self.address().is_none_or(|address| address.port() == guest_port)
    }

    /// A listener that a worker's guest is handed, with its address as the guest sees it.
    fn hand_over(self: &Arc<Self>, worker: usize) -> io::Result<(Endpoint, SocketAddr)> {
        let inlet = self.inlet(worker)?;
        self.listen(worker, ACCEPT_BACKLOG)?;
        let mut local = inlet.local_address();
        local.set_port(self.publish.guest_port.filter(|port| *port != 0).unwrap_or_else(|| local.port()));
        Ok((Endpoint::Inlet(inlet), local))
    }

    /// A listener for a worker's guest; bound anew where the guest had closed it.
    fn inlet(self: &Arc<Self>, worker: usize) -> io::Result<Inlet> {
        let mut state = self.lock();
        if matches!(state.guests[worker], Side::Bound | Side::Listening) {
            if self.publish.guest_port.is_none() {
                tracing::warn!(
                    "the guest binds a second port; name the one for `{0}`: `-p {0}:PORT`",
                    self.publish.host
                );
            }
            return Err(Errno::ADDRINUSE.into());
        }
        self.bind_anew(&mut state)?;
        let direct = match &state.host {
            // With several workers the front takes the connections, and feeds them.
            Host::Bound(host) | Host::Listening(host) if self.queues.len() == 1 => {
                Some(host.renewed()?.map_or_else(|| Arc::clone(host), Arc::new))
            }
            _ => None,
        };
        state.guests[worker] = Side::Bound;
        drop(state);
        Ok(Inlet::new(Arc::clone(self), worker, direct))
    }

    fn datagrams(&self) -> io::Result<Endpoint> {
        let mut state = self.lock();
        if let Host::Bound(endpoint) = &state.host
            && let Some(renewed) = endpoint.renewed()?
        {
            // Each worker has the same socket, and each datagram goes to one of them.
            return Ok(renewed);
        }
        match std::mem::replace(&mut state.host, Host::Closed) {
            Host::Bound(endpoint) => Arc::into_inner(endpoint).ok_or_else(|| Errno::ADDRINUSE.into()),
            _ => bind(&self.network, &self.publish)?.ok_or_else(|| Errno::ADDRNOTAVAIL.into()),
        }
    }

    /// A worker's guest listens.
    pub(super) fn listen(&self, worker: usize, backlog: u32) -> io::Result<()> {
        self.begin(backlog)?;
        self.lock().guests[worker] = Side::Listening;
        self.changed.notify_waiters();
        Ok(())
    }

    /// The host listens, if it does not yet.
    fn begin(&self, backlog: u32) -> io::Result<()> {
        let mut state = self.lock();
        self.bind_anew(&mut state)?;
        if let Host::Bound(endpoint) = &state.host {
            endpoint.listen(backlog)?;
            state.host = Host::Listening(Arc::clone(endpoint));
        }
        Ok(())
    }

    /// Binds again what the guests had all closed.
    fn bind_anew(&self, state: &mut State) -> io::Result<()> {
        if matches!(state.host, Host::Closed) && !self.is_closed() {
            state.bind(&self.network, &self.publish)?;
        }
        Ok(())
    }

    /// Tells the embedder, the first time, that this port is served from now on.
    pub(super) fn tell(&self) {
        let told = std::mem::replace(&mut self.lock().told, true);
        if let (false, Some(tell)) = (told, &self.on_listen) {
            tell(&self.publish);
        }
    }

    /// A worker's guest has closed its listener.
    pub(super) fn leave(&self, worker: usize) {
        // One that has ended has withdrawn already.
        if self.lock().guests[worker] != Side::Restarting {
            self.withdraw(worker, Side::Away);
        }
    }

    /// A worker takes no connection for now: those that wait for it go to others. If no guest will come,
    /// they end with the listener, as a kernel has it.
    fn withdraw(&self, worker: usize, side: Side) {
        let (nobody, listened) = {
            let mut state = self.lock();
            let before = state.guests[worker];
            if before == Side::Away {
                // It has not come yet, or has left by itself.
                return;
            }
            state.guests[worker] = side;
            if self.queues.len() > 1 {
                for arrival in self.queues[worker].take() {
                    // Refused when no worker is left to serve it.
                    let _ = self.unassigned.push(arrival);
                }
            }
            (state.guests.iter().all(|side| *side == Side::Away), before != Side::Bound)
        };
        if nobody {
            self.shut();
            if listened {
                drop(self.entrance().take());
            }
        }
        self.changed.notify_waiters();
    }

    /// Takes the connections that wait, and no more.
    fn close(&self) {
        // What waits at an inherited socket is for the next process.
        if let (false, Some(host)) = (self.inherited, self.listener()) {
            // Unknown to the poller, so that it asks the kernel whatever the poller knows.
            let host = host.renewed().ok().flatten().map_or(host, Arc::new);
            // At most a whole backlog: others may come without end.
            for _ in 0..ACCEPT_BACKLOG {
                let Ok(arrival) = Arrival::accept(&host, self.entrance().permit()) else { break };
                // Refused when every worker has ended.
                let _ = self.entrance().push(arrival);
            }
        }
        self.closed.store(true, Ordering::SeqCst);
        self.shut();
    }

    /// Ends the host's listener: clients are refused from now on.
    fn shut(&self) {
        let mut state = self.lock();
        // Only this program, or the service manager, knows of these, and may connect again.
        if !self.inherited && !matches!(state.host, Host::None) {
            if let Some(unix) = &mut state.unix {
                unix.remove();
            }
            let host = std::mem::replace(&mut state.host, Host::Closed);
            if let Host::Listening(endpoint) = host {
                // For those who still hold it, such as the front.
                let _ = endpoint.shutdown(Shutdown::Both);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

impl State {
    fn reserve(&mut self, network: &Network, publish: &Publish) -> io::Result<()> {
        if let HostAddress::Unix(path) = &publish.host {
            self.unix = Some(UnixPath::new(path)?);
        }
        self.bind(network, publish)
    }

    fn bind(&mut self, network: &Network, publish: &Publish) -> io::Result<()> {
        let endpoint = match &mut self.unix {
            Some(unix) => Some(unix.bind()?),
            None => bind(network, publish)?,
        };
        self.host = endpoint.map_or(Host::None, |endpoint| Host::Bound(Arc::new(endpoint)));
        Ok(())
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ports).finish()
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.publish.fmt(f)
    }
}

/// A socket bound to the IP address where a port is public; nothing where it has none.
fn bind(network: &Network, publish: &Publish) -> io::Result<Option<Endpoint>> {
    let address = match &publish.host {
        HostAddress::Ip(address) => *address,
        HostAddress::Unix(_) | HostAddress::Memory => return Ok(None),
    };
    let endpoint = network.open(Family::of(&address), publish.transport)?;
    if publish.transport == Transport::Tcp {
        // A restarted server must get its port back from connections in TIME_WAIT.
        endpoint.set_option(SocketOption::ReuseAddress(true))?;
    }
    endpoint.bind(address)?;
    Ok(Some(endpoint))
}

/// What an inherited socket is published as: where it listens.
pub(crate) fn inherit(socket: OwnedFd) -> io::Result<(Publish, Origin)> {
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::other("it does not listen"));
    }
    let address = rustix::net::getsockname(&socket)?;
    let host = if address.address_family() == AddressFamily::UNIX {
        let address = SocketAddrUnix::try_from(address)?;
        let path = address.path().ok_or(Errno::DESTADDRREQ)?;
        HostAddress::Unix(OsStr::from_bytes(path.to_bytes()).into())
    } else {
        HostAddress::Ip(SocketAddr::try_from(address)?)
    };
    Ok((Publish::same_port(host), Origin::Inherited(Endpoint::inherit(socket)?)))
}
