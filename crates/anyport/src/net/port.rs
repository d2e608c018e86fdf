//! One public port: the host's side of it, and the guests' that listen on it.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix};
use tokio::sync::Notify;

use super::connections::Connections;
use super::inlet::Inlet;
use super::queue::{Arrival, Queue};
use super::unix_path::UnixPath;
use super::{Endpoint, Network, Shutdown, SocketOption};
use crate::address::{Family, HostAddress, Publish, Transport};
use crate::spelling::publish;

/// Told when a public port begins to be served: before that, clients are refused.
pub(crate) type OnListen = Arc<dyn Fn(&Publish) + Send + Sync>;

/// Pending connections of a listener that is handed over, as Linux's own `SOMAXCONN` since 5.4.
pub(super) const ACCEPT_BACKLOG: u32 = 4096;

/// How long a port is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// As long as the server: the person published it.
    Always,
    /// While a guest has it, and until the next guest has had its time to bind it again.
    WhileUsed,
    /// While the guest that was given a free port has it: the next one gets another.
    ForOneGuest,
}

/// What the ports of a server have in common.
pub(super) struct Shared {
    pub(super) network: Network,
    /// The connections of each worker, and those that none has been given yet.
    pub(super) workers: Vec<Arc<Connections>>,
    pub(super) unassigned: Arc<Connections>,
    /// The front takes connections, and feeds the workers.
    pub(super) fed: bool,
    pub(super) changed: Arc<Notify>,
    pub(super) on_listen: Option<OnListen>,
}

/// One public port.
pub(crate) struct Port {
    /// With the address that it has on the host.
    pub(crate) publish: Publish,
    stay: Stay,
    network: Network,
    /// The socket is the service manager's, who may hand it to the next process: it is not shut down.
    inherited: bool,
    state: Mutex<State>,
    /// Takes no connection any more.
    closed: AtomicBool,
    /// Is none of the server's any more.
    forgotten: AtomicBool,
    /// For each worker.
    queues: Vec<Queue>,
    /// Those that the front has not given to a worker yet; none where there is no front.
    unassigned: Queue,
    fed: bool,
    changed: Arc<Notify>,
    on_listen: Option<OnListen>,
}

pub(super) struct State {
    /// Of a Unix socket that this program makes. First, so that its file goes before the socket is closed.
    unix: Option<UnixPath>,
    pub(super) host: Host,
    /// For each worker.
    pub(super) guests: Vec<Side>,
    told: bool,
}

/// A guest's side of a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Away,
    Bound,
    Listening,
    /// The first guest has not come yet.
    Awaited,
    /// The guest has ended, and another is about to take its place.
    Restarting,
    /// Another has taken its place, and has not bound this port yet.
    Missed,
}

/// The host's side of a port.
pub(super) enum Host {
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
    /// A socket that is bound already.
    Bound(Arc<Endpoint>),
    /// No more: the server drains.
    Closed,
}

/// A port that a worker's guest has bound.
pub(crate) struct Claim {
    pub(crate) endpoint: Endpoint,
    /// For datagrams. A listener leaves its port by itself.
    pub(crate) lease: Option<Lease>,
}

/// A worker's guest has a port of datagrams while this is there.
#[derive(Debug)]
pub(crate) struct Lease {
    port: Arc<Port>,
    worker: usize,
}

impl Lease {
    /// Where datagrams come in from now on is told.
    pub(super) fn tell(&self) {
        self.port.tell();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.port.leave(self.worker);
    }
}

impl Port {
    pub(super) fn reserve(
        shared: &Shared, publish: Publish, origin: Origin, stay: Stay,
    ) -> Result<Self, (Publish, io::Error)> {
        let (inherited, closed) = (matches!(origin, Origin::Inherited(_)), matches!(origin, Origin::Closed));
        let Shared { network, workers, unassigned, fed, changed, on_listen } = shared;
        // Every guest is to bind what a person has published: the first to end must not take the port along.
        let side = if stay == Stay::Always { Side::Awaited } else { Side::Away };
        let mut state = State { unix: None, host: Host::Closed, guests: vec![side; workers.len()], told: false };
        match origin {
            Origin::Inherited(endpoint) => state.host = Host::Listening(Arc::new(endpoint)),
            Origin::Bound(endpoint) => state.host = Host::Bound(endpoint),
            Origin::Closed => {}
            Origin::Bind => {
                if let Err(error) = state.reserve(network, &publish) {
                    return Err((publish, error));
                }
            }
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
            stay,
            network: network.clone(),
            inherited,
            state: Mutex::new(state),
            closed: AtomicBool::new(closed),
            forgotten: AtomicBool::new(false),
            queues: workers.iter().map(Queue::new).collect(),
            unassigned: Queue::new(unassigned),
            fed: *fed,
            changed: Arc::clone(changed),
            on_listen: on_listen.clone(),
        })
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.publish.address()
    }

    /// The port, and whether some guest serves it.
    pub(crate) fn status(&self) -> (Publish, bool) {
        (self.publish.clone(), self.lock().guests.contains(&Side::Listening))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// Whether it may be forgotten: no guest has it, and it was no person who published it. It must not be
    /// claimed meanwhile.
    pub(super) fn is_unused(&self) -> bool {
        self.stay != Stay::Always && self.lock().guests.iter().all(|side| *side == Side::Away)
    }

    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
    }

    /// Whether it is the port that a guest opens at this address.
    pub(super) fn is_opened_at(&self, address: SocketAddr, transport: Transport) -> bool {
        self.stay == Stay::WhileUsed && self.address() == Some(address) && self.publish.transport == transport
    }

    /// Whether a worker's guest has it.
    pub(super) fn is_held_by(&self, worker: usize) -> bool {
        matches!(self.lock().guests[worker], Side::Bound | Side::Listening)
    }

    /// A worker's next guest begins: what the one before had opened is its own to open again.
    pub(super) fn begin_anew(&self, worker: usize) {
        let mut state = self.lock();
        if self.stay != Stay::Always && state.guests[worker] == Side::Restarting {
            state.guests[worker] = Side::Missed;
        }
    }

    pub(super) fn queue(&self, worker: usize) -> &Queue {
        &self.queues[worker]
    }

    /// Where connections come in: to the front, or straight to the only worker.
    pub(super) fn entrance(&self) -> &Queue {
        if self.fed { &self.unassigned } else { &self.queues[0] }
    }

    /// Those that no worker has been given yet.
    pub(crate) fn unassigned(&self) -> &Queue {
        &self.unassigned
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
    pub(super) fn may_be(&self, guest_port: u16) -> bool {
        let is_chosen_later = matches!(self.publish.guest_port, None | Some(0));
        is_chosen_later && self.address().is_none_or(|address| address.port() == guest_port)
    }

    /// The endpoint for a worker's guest that binds it.
    pub(super) fn claim(self: &Arc<Self>, worker: usize) -> io::Result<Claim> {
        match self.publish.transport {
            Transport::Tcp => Ok(Claim { endpoint: Endpoint::Inlet(self.inlet(worker)?), lease: None }),
            Transport::Udp => {
                let endpoint = self.datagrams(worker)?;
                Ok(Claim { endpoint, lease: Some(Lease { port: Arc::clone(self), worker }) })
            }
        }
    }

    /// A listener that a worker's guest is handed, with its address as the guest sees it.
    pub(super) fn hand_over(self: &Arc<Self>, worker: usize) -> io::Result<(Endpoint, SocketAddr)> {
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
                    "the guest binds a second port; name the one for `{0}`: `{1}`",
                    self.publish.host,
                    publish(format!("{}:PORT", self.publish.host)),
                );
            }
            return Err(Errno::ADDRINUSE.into());
        }
        self.bind_anew(&mut state)?;
        let direct = match &state.host {
            Host::Bound(host) | Host::Listening(host) if !self.fed => {
                Some(host.renewed()?.map_or_else(|| Arc::clone(host), Arc::new))
            }
            _ => None,
        };
        state.guests[worker] = Side::Bound;
        drop(state);
        Ok(Inlet::new(Arc::clone(self), worker, direct))
    }

    fn datagrams(&self, worker: usize) -> io::Result<Endpoint> {
        let mut state = self.lock();
        if state.guests[worker] == Side::Listening {
            return Err(Errno::ADDRINUSE.into());
        }
        self.bind_anew(&mut state)?;
        let renewed = match &state.host {
            Host::Bound(endpoint) => endpoint.renewed()?,
            _ => return Err(Errno::ADDRNOTAVAIL.into()),
        };
        let endpoint = match renewed {
            // Each worker has the same socket, and each datagram goes to one of them.
            Some(renewed) => renewed,
            None => match std::mem::replace(&mut state.host, Host::Closed) {
                Host::Bound(endpoint) => Arc::into_inner(endpoint).ok_or(Errno::ADDRINUSE)?,
                _ => return Err(Errno::ADDRNOTAVAIL.into()),
            },
        };
        state.guests[worker] = Side::Listening;
        Ok(endpoint)
    }

    /// A worker's guest listens.
    pub(super) fn listen(&self, worker: usize, backlog: u32) -> io::Result<()> {
        self.begin(backlog)?;
        self.lock().guests[worker] = Side::Listening;
        self.changed.notify_waiters();
        Ok(())
    }

    /// The host listens, if it does not yet.
    pub(super) fn begin(&self, backlog: u32) -> io::Result<()> {
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
        if self.is_closed() {
            return;
        }
        let told = std::mem::replace(&mut self.lock().told, true);
        if let (false, Some(tell)) = (told, &self.on_listen) {
            tell(&self.publish);
        }
    }

    /// A worker's guest has closed its listener.
    pub(super) fn leave(&self, worker: usize) {
        // One that has ended has withdrawn already.
        if !matches!(self.lock().guests[worker], Side::Restarting | Side::Missed) {
            // Who closes it does so for those that may never come, too.
            self.withdraw(worker, Side::Away, &[Side::Away, Side::Awaited]);
        }
    }

    /// A worker's guest has ended, and another will take its place.
    pub(super) fn restarting(&self, worker: usize) {
        let missed = self.lock().guests[worker] == Side::Missed;
        // Two guests in a row: the second did not want it.
        let goes = missed || self.stay == Stay::ForOneGuest;
        self.withdraw(worker, if goes { Side::Away } else { Side::Restarting }, &[Side::Away]);
    }

    /// A worker's guest has ended for good.
    pub(super) fn gone(&self, worker: usize) {
        self.withdraw(worker, Side::Away, &[Side::Away]);
        self.queues[worker].close();
        if self.queues.iter().all(Queue::is_closed) {
            self.unassigned.close();
        }
    }

    /// A worker takes no connection for now: those that wait for it go to others. If no guest will come,
    /// they end with the listener, as a kernel has it: if all others have one of these sides.
    fn withdraw(&self, worker: usize, side: Side, none_comes: &[Side]) {
        {
            let mut state = self.lock();
            let before = state.guests[worker];
            if before == Side::Away {
                // It has left by itself, or never came.
                return;
            }
            state.guests[worker] = side;
            if self.fed {
                for arrival in self.queues[worker].take() {
                    // Refused when no worker is left to serve it.
                    let _ = self.unassigned.push(arrival);
                }
            }
            // With the lock held, or a guest that binds it now would find its listener ended.
            if state.guests.iter().all(|side| none_comes.contains(side)) {
                self.shut(&mut state);
                if before != Side::Bound {
                    drop(self.entrance().take());
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// Takes the connections that wait, and no more.
    pub(super) fn close(&self) {
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
        self.shut(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// Ends the host's listener: clients are refused from now on.
    fn shut(&self, state: &mut State) {
        // Only this program, or the service manager, knows of these, and may connect again.
        if self.inherited || matches!(state.host, Host::None) {
            return;
        }
        if let Some(unix) = &mut state.unix {
            unix.remove();
        }
        let host = std::mem::replace(&mut state.host, Host::Closed);
        if let Host::Listening(endpoint) = host {
            // For those who still hold it, such as the front.
            let _ = endpoint.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
