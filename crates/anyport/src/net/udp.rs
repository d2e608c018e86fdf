//! A UDP socket: bound or not, perhaps with a peer to send to.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use super::port::{Claim, Lease};
use super::{Endpoint, Network};
use crate::address::{Family, Transport};
use crate::errno::Errno;
use crate::limits::DATAGRAM_CLIENTS;

#[derive(Debug)]
pub(crate) struct Udp {
    pub(crate) family: Family,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Arc<Endpoint>,
    /// The address the guest bound, as it sees it.
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    /// Of a published port: who may be answered without a rule that allows it.
    clients: Option<Clients>,
    /// Of a public port. Behind the socket, which must be closed before another can be bound there.
    lease: Option<Lease>,
}

/// Who has sent to a published port, as far as is remembered: those that asked last, in two
/// generations of half of [`DATAGRAM_CLIENTS`] each.
#[derive(Debug, Default)]
struct Clients {
    recent: HashSet<SocketAddr>,
    older: HashSet<SocketAddr>,
}

impl Udp {
    pub(crate) fn open(network: &Network, family: Family) -> Result<Self, Errno> {
        let endpoint = Arc::new(network.open(family, Transport::Udp)?);
        Ok(Self { family, inner: Mutex::new(Inner { endpoint, local: None, peer: None, clients: None, lease: None }) })
    }

    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.lock().endpoint)
    }

    pub(crate) fn bind(&self, to: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.must_be_unbound()?;
        inner.endpoint.bind(to)?;
        inner.local = Some(inner.endpoint.local_address()?);
        Ok(())
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.lock().local.is_some()
    }

    /// Takes a socket that is bound on the host already; the guest sees it as bound to `local`.
    pub(crate) fn adopt(&self, claim: Claim, local: SocketAddr) -> Result<(), Errno> {
        let Claim { endpoint: bound, lease } = claim;
        let mut inner = self.lock();
        inner.must_be_unbound()?;
        inner.local = Some(if local.port() == 0 { bound.local_address()? } else { local });
        inner.endpoint = Arc::new(bound);
        inner.lease = lease;
        inner.peer = None;
        inner.clients = Some(Clients::default());
        Ok(())
    }

    /// A datagram of this client has come: where the port is published, which is answered, it may
    /// be answered.
    pub(crate) fn remember(&self, client: SocketAddr) -> bool {
        match &mut self.lock().clients {
            Some(clients) => {
                clients.remember(client);
                true
            }
            None => false,
        }
    }

    /// Whether this client has asked, and may be answered.
    pub(crate) fn was_asked_by(&self, client: SocketAddr) -> bool {
        self.lock().clients.as_ref().is_some_and(|clients| clients.has(client))
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.endpoint.connect(to)?;
        inner.peer = Some(to);
        Ok(())
    }

    /// Has no peer any more.
    pub(crate) fn disconnect(&self) -> Result<(), Errno> {
        let mut inner = self.lock();
        inner.peer = None;
        Ok(inner.endpoint.disconnect()?)
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Errno> {
        let inner = self.lock();
        match inner.local {
            Some(local) => Ok(local),
            None => Ok(inner.endpoint.local_address()?),
        }
    }

    pub(crate) fn peer_address(&self) -> Result<SocketAddr, Errno> {
        self.lock().peer.ok_or(Errno::NotConnected)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }
}

impl Clients {
    fn remember(&mut self, client: SocketAddr) {
        self.recent.insert(client);
        if self.recent.len() > DATAGRAM_CLIENTS / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
    }

    fn has(&self, client: SocketAddr) -> bool {
        self.recent.contains(&client) || self.older.contains(&client)
    }
}

impl Inner {
    fn must_be_unbound(&self) -> Result<(), Errno> {
        if self.local.is_none() { Ok(()) } else { Err(Errno::Invalid) }
    }
}
